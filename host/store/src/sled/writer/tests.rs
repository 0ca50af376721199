//! The threads of a store on a disk that counts and fails as told.

use std::sync::atomic::AtomicU64;

use futures_util::FutureExt as _;
use tokio::sync::oneshot;

use super::*;
use crate::clock::Timestamp;
use crate::error::StoreErrorKind;
use crate::record::{Facts, Record, Revision};
use crate::store::{Expect, Write};

/// A disk that counts its syncs, and fails from one on.
struct Counting {
    syncs: AtomicU64,
    fails_from: u64,
    turns: AtomicU64,
    /// What the file has whose turn it is, and how much of it was synced.
    log: Mutex<(Vec<u8>, usize)>,
    /// Held by a test to keep the tree from being synced.
    tree: Mutex<()>,
    /// How much may be written.
    room: AtomicU64,
}

impl Disk for Counting {
    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.log.lock().unwrap().0.extend_from_slice(bytes);
        Ok(())
    }

    fn sync_log(&self) -> io::Result<()> {
        let sync = self.syncs.fetch_add(1, Ordering::SeqCst) + 1;
        let (written, synced) = &mut *self.log.lock().unwrap();
        *synced = written.len();
        if sync >= self.fails_from { Err(io::Error::other("the disk is gone")) } else { Ok(()) }
    }

    fn turn(&self) -> io::Result<()> {
        self.turns.fetch_add(1, Ordering::SeqCst);
        *self.log.lock().unwrap() = (Vec::new(), 0);
        Ok(())
    }

    fn end(&self) -> io::Result<bool> {
        Ok(false)
    }

    fn sync_tree(&self) -> io::Result<()> {
        let _synced = self.tree.lock();
        let sync = self.syncs.fetch_add(1, Ordering::SeqCst) + 1;
        if sync >= self.fails_from { Err(io::Error::other("the disk is gone")) } else { Ok(()) }
    }

    fn refuses(&self, bytes: u64) -> Option<StoreError> {
        let full = || StoreError::new(StoreErrorKind::Unusable, "the disk is full");
        (bytes > self.room.load(Ordering::SeqCst)).then(full)
    }
}

struct Bench {
    db: sled::Db,
    disk: Arc<Counting>,
    common: Arc<Common>,
    writer: Writer,
}

fn bench(fails_from: u64) -> Bench {
    let db = sled::Config::new().temporary(true).open().unwrap();
    let disk = Arc::new(Counting {
        syncs: AtomicU64::new(0),
        fails_from,
        turns: AtomicU64::new(0),
        log: Mutex::default(),
        tree: Mutex::new(()),
        room: AtomicU64::new(u64::MAX),
    });
    let common = Arc::new(Common::new());
    let tree: sled::Tree = (*db).clone();
    let below = Arc::clone(&disk) as Arc<dyn Disk>;
    let merger = Merger {
        tree: tree.clone(),
        tails: crate::sled::lists::Tails::default(),
        tally: crate::sled::tally::Tally::default(),
        disk: Arc::clone(&below),
        common: Arc::clone(&common),
    };
    let beginning = Beginning { next: 1, tree, disk: below, common: Arc::clone(&common), merger };
    Bench { db, disk, common, writer: Writer::start(beginning).unwrap() }
}

fn record(n: u64) -> Record {
    Record {
        kind: Kind::Result,
        key: RecordKey::parse(&n.to_string()).unwrap(),
        revision: Revision(n),
        facts: Facts::new(Status::Done, "acme".into(), Timestamp(n)),
        body: bytes::Bytes::new(),
    }
}

impl Bench {
    fn send(&self, n: u64, sync: Sync) -> oneshot::Receiver<Result<(), StoreError>> {
        self.send_record(record(n), sync)
    }

    fn send_record(&self, record: Record, sync: Sync) -> oneshot::Receiver<Result<(), StoreError>> {
        let writes = vec![ReadyWrite::of(Write::Put { record, expect: Expect::Absent })];
        let (answer, answered) = oneshot::channel();
        let batch = ReadyBatch { writes, sync, answer };
        assert!(self.writer.send_blocking(Command::Write(batch)));
        answered
    }

    fn commit(&self, n: u64, sync: Sync) -> Result<(), StoreError> {
        self.send(n, sync).blocking_recv().unwrap()
    }

    /// Writes a record in this very thread, if that can be done without waiting for anyone.
    fn write_at_once(&self, record: Record) -> Option<Result<(), StoreError>> {
        let writes = vec![ReadyWrite::of(Write::Put { record, expect: Expect::Absent })];
        self.writer.write_at_once(writes).ok()
    }

    /// The same, once the thread that writes is done with what it was sent: it answers a little before.
    fn write_at_once_when_free(&self, n: u64) -> Option<Result<(), StoreError>> {
        (0..2000).find_map(|_| {
            let written = self.write_at_once(record(n));
            if written.is_none() {
                thread::park_timeout(Duration::from_millis(1));
            }
            written
        })
    }

    fn syncs(&self) -> u64 {
        self.disk.syncs.load(Ordering::SeqCst)
    }
}

#[test]
fn a_commit_costs_one_sync_and_only_where_it_asks_for_one() {
    let bench = bench(u64::MAX);
    for n in 1..=20 {
        bench.commit(n, Sync::Now).unwrap();
        assert_eq!(bench.syncs(), n);
    }
    for n in 21..=40 {
        bench.commit(n, Sync::Later).unwrap();
    }
    assert_eq!(bench.syncs(), 20);
    bench.writer.close();
    assert_eq!(
        bench.syncs(),
        23,
        "the end syncs what nobody asked for, in the log and in the tree, and its mark"
    );
    assert!(value_of(&bench, "40").is_some(), "then the tree has it");
}

#[test]
fn commits_that_wait_together_are_synced_together() {
    let bench = bench(u64::MAX);
    let answers: Vec<_> = (1..=500).map(|n| bench.send(n, Sync::Now)).collect();
    answers.into_iter().for_each(|answer| answer.blocking_recv().unwrap().unwrap());
    assert!(bench.syncs() < 250, "{} syncs for 500 commits", bench.syncs());
}

#[test]
fn after_a_failed_sync_everything_is_refused_and_nothing_is_synced_again() {
    let bench = bench(2);
    bench.commit(1, Sync::Now).unwrap();
    let error = bench.commit(2, Sync::Now).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Poisoned);
    assert_eq!(
        error.to_string(),
        "a sync of the store failed: the disk is gone; what is stored is no longer known, \
         and the store must be opened anew"
    );
    for sync in [Sync::Later, Sync::Now] {
        assert_eq!(bench.commit(3, sync).unwrap_err().kind(), StoreErrorKind::Poisoned);
    }
    assert!(bench.common.broken.get().is_some());
    bench.writer.close();
    assert_eq!(bench.syncs(), 2);
    assert_eq!(value_of(&bench, "3"), None);
}

fn value_of(bench: &Bench, key: &str) -> Option<sled::IVec> {
    let key = RecordKey::parse(key).unwrap();
    bench.db.get(crate::sled::layout::record_key(Kind::Result, &key)).unwrap()
}

#[test]
fn the_tree_is_brought_up_each_time_a_file_is_full_and_readers_see_no_gap() {
    let bench = bench(u64::MAX);
    let body = bytes::Bytes::from(vec![7; 1 << 20]);
    for n in 1..=80 {
        let key = RecordKey::parse(&n.to_string()).unwrap();
        let record = Record { body: body.clone(), ..record(n) };
        bench.send_record(record, Sync::Later).blocking_recv().unwrap().unwrap();
        for key in [RecordKey::parse("1").unwrap(), key] {
            let found = crate::sled::overlay::read(&bench.db, &bench.common.overlay, Kind::Result, &key);
            assert_eq!(found.unwrap().unwrap().body.len(), body.len(), "{key} after {n}");
        }
    }
    let turns = bench.disk.turns.load(Ordering::SeqCst);
    assert!((3..=5).contains(&turns), "80 MiB are in files of 16 to 24 MiB, and there were {turns} turns");
    assert!(value_of(&bench, "1").is_some());
    bench.writer.close();
    assert!(bench.common.overlay.is_empty());
}

#[test]
fn what_somebody_is_at_goes_on_in_the_next_file_and_reaches_the_tree_when_it_has_ended_or_the_store_is_closed()
 {
    let bench = bench(u64::MAX);
    let put = |record: Record| bench.send_record(record, Sync::Later).blocking_recv().unwrap().unwrap();
    let running = |n| {
        let record = record(n);
        Record { facts: Facts { status: Status::Running, ..record.facts }, ..record }
    };
    let fill = |n: u64| {
        let turns = bench.disk.turns.load(Ordering::SeqCst);
        for n in n.. {
            if bench.disk.turns.load(Ordering::SeqCst) > turns {
                break;
            }
            put(Record { body: vec![7; 1 << 20].into(), ..record(n) });
        }
        // Answered when the turn is over.
        put(record(n + 99));
    };
    (1..=3).for_each(|n| put(running(n)));
    fill(100);
    let carried = || {
        let (log, synced) = bench.disk.log.lock().unwrap().clone();
        let synced = super::super::log::frames(log[..synced].to_vec().into());
        let changes = synced.into_iter().filter_map(|(_, content)| super::super::log::changes(content));
        let mut keys: Vec<String> = changes.flatten().map(|(_, key, _)| key.to_string()).collect();
        keys.sort();
        keys
    };
    assert_eq!(carried(), ["1", "2", "3"], "synced before the other file is used again");
    let ended = Write::Put {
        record: Record { revision: Revision(10), ..record(2) },
        expect: Expect::Revision(Revision(2)),
    };
    let (answer, answered) = oneshot::channel();
    let batch = ReadyBatch { writes: vec![ReadyWrite::of(ended)], sync: Sync::Later, answer };
    assert!(bench.writer.send_blocking(Command::Write(batch)));
    answered.blocking_recv().unwrap().unwrap();
    fill(200);
    assert_eq!(carried(), ["1", "3"]);
    for n in ["1", "2", "3"] {
        let key = RecordKey::parse(n).unwrap();
        let found = crate::sled::overlay::read(&bench.db, &bench.common.overlay, Kind::Result, &key).unwrap();
        assert!(found.is_some(), "{n} is read");
    }
    bench.writer.close();
    assert!(bench.common.overlay.is_empty());
    assert!(["1", "2", "3"].iter().all(|key| value_of(&bench, key).is_some()));
}

#[test]
fn what_somebody_is_at_does_not_fill_the_next_file() {
    let bench = bench(u64::MAX);
    let put = |record: Record| bench.send_record(record, Sync::Later).blocking_recv().unwrap().unwrap();
    let mut n = 0;
    while bench.disk.turns.load(Ordering::SeqCst) == 0 {
        n += 1;
        let facts = Facts { status: Status::Running, ..record(n).facts };
        put(Record { facts, body: vec![7; 4 << 10].into(), ..record(n) });
    }
    // Answered when the turn is over.
    put(record(n + 1));
    let carried = bench.disk.log.lock().unwrap().0.len();
    assert!((CARRIED_BYTES / 2..2 * CARRIED_BYTES).contains(&carried), "{carried} bytes of {n} records");
    bench.writer.close();
    assert!((1..=n).all(|n| value_of(&bench, &n.to_string()).is_some()));
}

#[test]
fn whoever_writes_waits_for_the_tree_only_where_the_log_is_full() {
    let bench = bench(u64::MAX);
    let tree = bench.disk.tree.lock().unwrap();
    let body = bytes::Bytes::from(vec![7; 1 << 20]);
    let send = |n| bench.send_record(Record { body: body.clone(), ..record(n) }, Sync::Later);
    let answered = |answer: &mut oneshot::Receiver<Result<(), StoreError>>| {
        for _ in 0..200 {
            if answer.try_recv().is_ok() {
                return true;
            }
            thread::park_timeout(Duration::from_millis(10));
        }
        false
    };
    // The first file is full and being merged, and the other takes half as much again in the meantime.
    let (file, full) = (FILE_BYTES >> 20, FULL_BYTES >> 20);
    for n in 1..file + full {
        assert!(answered(&mut send(n)), "the record {n}");
    }
    assert!(answered(&mut send(1000)), "the last that has room");
    let mut late = send(1001);
    assert!(!answered(&mut late), "the log has no room");
    drop(tree);
    assert!(answered(&mut late));
}

#[test]
fn a_disk_is_full_where_what_the_tree_has_not_taken_would_have_no_room() {
    let bench = bench(u64::MAX);
    let body = bytes::Bytes::from(vec![7; 1 << 20]);
    let write = |n| bench.send_record(Record { body: body.clone(), ..record(n) }, Sync::Later);
    // Room for two records and a half, and for what each is written anew: the third is merged for.
    bench.disk.room.store(FOR_EACH * (5 << 19), Ordering::SeqCst);
    for n in 1..=3 {
        write(n).blocking_recv().unwrap().unwrap();
    }
    assert_eq!(bench.disk.turns.load(Ordering::SeqCst), 1);
    assert!(value_of(&bench, "2").is_some() && value_of(&bench, "3").is_none());
    bench.disk.room.store(FOR_EACH << 19, Ordering::SeqCst);
    let refused = write(4).blocking_recv().unwrap().unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Unusable);
    assert!(value_of(&bench, "3").is_some());
    assert!(bench.common.broken.get().is_none());
}

#[test]
fn what_was_sent_before_the_end_is_answered() {
    let bench = bench(u64::MAX);
    let answers: Vec<_> = (1..=100).map(|n| bench.send(n, Sync::Now)).collect();
    let kept = bench.writer.commands();
    bench.writer.close();
    answers.into_iter().for_each(|answer| answer.blocking_recv().unwrap().unwrap());
    assert!(kept.unwrap().is_closed());
    assert!(bench.writer.commands().is_none());
}

#[test]
fn whoever_commits_writes_at_once_and_overtakes_nobody() {
    let bench = bench(u64::MAX);
    assert!(matches!(bench.write_at_once(record(1)), Some(Ok(()))));
    assert_eq!(bench.syncs(), 0);
    let key = record(1).key;
    let there = crate::sled::overlay::read(&bench.db, &bench.common.overlay, Kind::Result, &key);
    assert!(there.unwrap().is_some(), "whoever reads next finds it");
    let refused = bench.write_at_once(record(1)).expect("nobody else is writing").unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Conflict);
    let sending = Sending::new(&bench.writer.sent);
    assert!(bench.write_at_once(record(2)).is_none(), "something was sent before");
    drop(sending);
    let writing = bench.writer.writing.lock().unwrap();
    assert!(bench.write_at_once(record(2)).is_none(), "somebody else is writing");
    drop(writing);
    assert!(matches!(bench.write_at_once(record(2)), Some(Ok(()))));
    let (answer, answered) = oneshot::channel();
    bench.writer.sync(answer);
    answered.blocking_recv().unwrap().unwrap();
    assert_eq!(bench.syncs(), 1);
    bench.commit(3, Sync::Now).unwrap();
    assert!(matches!(bench.write_at_once_when_free(4), Some(Ok(()))), "what was sent is carried out");
    bench.writer.close();
    assert!(bench.write_at_once(record(5)).is_none());
    assert!((1..=4).all(|n: u64| value_of(&bench, &n.to_string()).is_some()));
}

#[tokio::test]
async fn whoever_waits_for_a_record_is_told_when_it_is_written_at_once() {
    let bench = bench(u64::MAX);
    let (key, most) = (record(1).key, Duration::from_secs(60));
    let mut told = Box::pin(bench.common.changes.wait(Kind::Result, &key, most));
    assert!((&mut told).now_or_never().is_none(), "nothing has changed");
    assert!(matches!(bench.write_at_once(record(2)), Some(Ok(()))));
    assert!((&mut told).now_or_never().is_none(), "another record has changed");
    assert!(matches!(bench.write_at_once(record(1)), Some(Ok(()))));
    assert!((&mut told).now_or_never().is_some(), "whoever waits is told");
}

#[test]
fn nobody_who_commits_waits_for_the_disk_or_the_tree() {
    let bench = bench(u64::MAX);
    let long = |n| Record { body: vec![7; 1 << 20].into(), ..record(n) };
    let written = (1..=100).take_while(|n| bench.write_at_once(long(*n)).is_some()).count() as u64;
    assert_eq!(written, FILE_BYTES >> 20, "the files are to take turns");
    assert_eq!(bench.disk.turns.load(Ordering::SeqCst), 0);
    bench.send_record(long(200), Sync::Later).blocking_recv().unwrap().unwrap();
    // Answered when the turn is over.
    bench.send_record(record(201), Sync::Later).blocking_recv().unwrap().unwrap();
    assert_eq!(bench.disk.turns.load(Ordering::SeqCst), 1);
    assert!(matches!(bench.write_at_once_when_free(202), Some(Ok(()))));
    bench.disk.room.store(0, Ordering::SeqCst);
    assert!(bench.write_at_once(long(203)).is_none(), "the disk is full, or the tree is to make room");
}

#[test]
fn a_panic_in_the_middle_of_a_write_ends_the_store_and_not_whoever_closes_it() {
    let bench = bench(u64::MAX);
    let writing = Arc::clone(&bench.writer.writing);
    let panicked = thread::spawn(move || {
        let _writing = writing.lock().unwrap();
        panic!("in the middle");
    });
    panicked.join().unwrap_err();
    assert!(bench.write_at_once(record(1)).is_none());
    let error = bench.commit(1, Sync::Later).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Poisoned);
    assert!(error.to_string().starts_with("whoever wrote to the store has panicked; "), "{error}");
    bench.writer.close();
}

#[test]
fn a_sync_does_not_wait_for_those_who_do_not_come() {
    let waiting = Waiting::default();
    let answers = || (0..2).map(|_| oneshot::channel().0);
    waiting.add(answers());
    assert_eq!(waiting.take(1).map(|answers| answers.len()), Some(2), "who is there goes along");
    waiting.add(answers());
    assert_eq!(waiting.take(1000).map(|answers| answers.len()), Some(2));
    waiting.add(answers());
    waiting.end();
    assert_eq!(waiting.take(1).map(|answers| answers.len()), Some(2), "who came before the end is answered");
    assert!(waiting.take(1).is_none());
}

#[test]
fn whoever_commits_alone_waits_for_nobody_else() {
    let bench = bench(u64::MAX);
    for n in 1..=200 {
        let (answer, mut answered) = oneshot::channel();
        bench.writer.sync(answer);
        let answered = loop {
            let wanted = bench.writer.to_sync.wanted();
            assert!(wanted.is_none_or(|wanted| wanted == 1), "the sync {n} waits for {wanted:?}");
            match answered.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => thread::yield_now(),
                answered => break answered,
            }
        };
        answered.unwrap().unwrap();
    }
    assert_eq!(bench.syncs(), 200);
}

#[test]
fn a_sync_waits_for_as_many_as_were_at_the_last_one_or_came_during_it() {
    let bench = bench(u64::MAX);
    let sync = || {
        let (answer, answered) = oneshot::channel();
        bench.writer.sync(answer);
        answered
    };
    // Whether two who come during the sync of one are seen to have the next wait for three.
    let is_seen = || {
        let syncs = bench.syncs();
        let log = bench.disk.log.lock().unwrap();
        let first = sync();
        while bench.syncs() == syncs {
            thread::yield_now();
        }
        let (second, mut third) = (sync(), sync());
        drop(log);
        let mut is_seen = false;
        while let Err(oneshot::error::TryRecvError::Empty) = third.try_recv() {
            is_seen |= bench.writer.to_sync.wanted() == Some(3);
        }
        first.blocking_recv().unwrap().unwrap();
        second.blocking_recv().unwrap().unwrap();
        is_seen
    };
    // The wait is soon over, perhaps before anybody looks.
    assert!((0..1000).any(|_| is_seen()));
}
