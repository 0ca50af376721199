//! Owns every write to the tree. One thread drains what waits, checks it, writes it as one batch of
//! sled and flushes it to the file. Where some of it must be synced to the disk and some need not, a
//! second thread syncs, once for all that was flushed until then, while the first goes on. Never reads
//! for anyone.
//!
//! sled's own ways are not taken: its `flush` says that it syncs and does not, its `flush_async`
//! locks up under eight callers.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use tokio::sync::{mpsc as queue, oneshot};

use crate::changes::Changes;
use crate::clock::Timestamp;
use crate::error::{StoreError, StoreErrorKind};
use crate::record::{Kind, RecordKey, Revision, Status};
use crate::store::{Expect, Sync, Write};

use super::content::{self, Ready, Stored};
use super::draft::Draft;
use super::lists::Tails;

/// How many batches wait for their turn: as many as one group takes, so that the next group is
/// complete when the last is done.
const WAITING: usize = 1024;

/// How many bytes one group has, about: what sled writes in some tens of milliseconds, during which
/// nobody reads. A larger batch is a group of its own.
const GROUP_BYTES: usize = 4 << 20;

/// What the thread that writes is told.
pub(super) enum Command {
    /// Write this.
    Write(ReadyBatch),
    /// Write what else is waiting, and end.
    End,
}

/// A batch made ready to be written.
pub(super) struct ReadyBatch {
    pub(super) writes: Vec<ReadyWrite>,
    pub(super) sync: Sync,
    pub(super) answer: oneshot::Sender<Result<(), StoreError>>,
}

/// One write of it.
pub(super) enum ReadyWrite {
    Put { kind: Kind, key: RecordKey, expect: Expect, ready: Ready },
    Renew { kind: Kind, key: RecordKey, revision: Revision, lease_until: Timestamp },
    Delete { kind: Kind, key: RecordKey, expect: Expect },
}

impl ReadyWrite {
    pub(super) fn of(write: Write) -> Self {
        match write {
            Write::Put { record, expect } => {
                let ready = Ready::of(&record);
                Self::Put { kind: record.kind, key: record.key, expect, ready }
            }
            Write::Renew { kind, key, revision, lease_until } => {
                Self::Renew { kind, key, revision, lease_until }
            }
            Write::Delete { kind, key, expect } => Self::Delete { kind, key, expect },
        }
    }

    fn of_record(&self) -> (Kind, &RecordKey) {
        match self {
            Self::Put { kind, key, .. } | Self::Renew { kind, key, .. } | Self::Delete { kind, key, .. } => {
                (*kind, key)
            }
        }
    }

    /// Returns the record of which waiters are to be told.
    fn changes(&self) -> Option<(Kind, RecordKey)> {
        match self {
            Self::Put { kind, key, .. } | Self::Delete { kind, key, .. } => Some((*kind, key.clone())),
            Self::Renew { .. } => None,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Put { ready, .. } => ready.bytes(),
            Self::Renew { .. } | Self::Delete { .. } => super::layout::VALUE_BYTES,
        }
    }
}

/// What the threads and the readers have in common.
pub(super) struct Common {
    /// Why the store refuses everything, once a write has failed.
    pub(super) broken: OnceLock<StoreError>,
    /// Held for writing while a group goes into the tree, for reading while a list is read, because a
    /// list is more than one key.
    pub(super) lists: RwLock<()>,
    pub(super) changes: Changes,
}

impl Common {
    fn break_down(&self, why: impl std::fmt::Display) -> StoreError {
        let message = format!("{why}; what is stored is no longer known, and the store must be opened anew");
        let error = StoreError::new(StoreErrorKind::Poisoned, message);
        self.broken.get_or_init(|| error).clone()
    }

    /// Makes everything that was flushed survive the loss of power.
    fn sync(&self, disk: &dyn Disk) -> Result<(), StoreError> {
        // An fsync is never tried again: the second one succeeds without having written what the first lost.
        if let Some(broken) = self.broken.get() {
            return Err(broken.clone());
        }
        disk.sync().map_err(|error| self.break_down(format_args!("a sync of the store failed: {error}")))
    }
}

/// The file below the tree, and the disk that it is on.
pub(super) trait Disk: Send + std::marker::Sync + 'static {
    /// Makes everything that was written to the file survive the loss of power.
    fn sync(&self) -> io::Result<()>;
    /// Returns why this many bytes should not be written, if they should not.
    fn refuses(&self, bytes: u64) -> Option<StoreError>;
}

/// The two threads. Dropped, it waits until they have done what they were given.
pub(super) struct Writer {
    commands: Mutex<Option<queue::Sender<Command>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Writer {
    /// Starts the threads.
    ///
    /// # Errors
    /// If the system has no more threads.
    pub(super) fn start(tree: sled::Tree, disk: Arc<dyn Disk>, common: Arc<Common>) -> io::Result<Self> {
        let (commands, waiting) = queue::channel(WAITING);
        let (flushed, to_sync) = mpsc::channel();
        let under_sync = Arc::new(AtomicUsize::new(0));
        let syncing = Syncing {
            disk: Arc::clone(&disk),
            to_sync,
            under_sync: Arc::clone(&under_sync),
            common: Arc::clone(&common),
        };
        let writing = Writing { tree, tails: Tails::default(), disk, flushed, under_sync, common };
        let threads = vec![
            thread::Builder::new()
                .name("docket-sled-write".to_owned())
                .spawn(move || writing.run(waiting))?,
            thread::Builder::new().name("docket-sled-sync".to_owned()).spawn(move || syncing.run())?,
        ];
        Ok(Self { commands: Mutex::new(Some(commands)), threads: Mutex::new(threads) })
    }

    /// Returns where commands go; none once this is closed.
    pub(super) fn commands(&self) -> Option<queue::Sender<Command>> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes no more commands, and returns when those that were taken are done.
    pub(super) fn close(&self) {
        let commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(commands) = commands {
            // Others may still hold a sender, so the thread must be told. A full queue is soon less full.
            while let Err(queue::error::TrySendError::Full(_)) = commands.try_send(Command::End) {
                thread::park_timeout(Duration::from_millis(1));
            }
        }
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // A panic in it has broken the store, and says so there.
            let _ = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

type Answer = oneshot::Sender<Result<(), StoreError>>;

/// Answers a caller, who may have gone.
fn answer(to: Answer, with: Result<(), StoreError>) {
    let _ = to.send(with);
}

/// The thread that writes.
struct Writing {
    tree: sled::Tree,
    tails: Tails,
    disk: Arc<dyn Disk>,
    flushed: mpsc::Sender<Vec<Answer>>,
    under_sync: Arc<AtomicUsize>,
    common: Arc<Common>,
}

/// A batch whose changes are drafted.
struct Drafted {
    changed: Vec<(Kind, RecordKey)>,
    sync: Sync,
    answer: Answer,
}

impl Drop for Writing {
    fn drop(&mut self) {
        if thread::panicking() {
            self.common.break_down("the thread that writes has panicked");
        }
    }
}

impl Writing {
    fn run(mut self, mut waiting: queue::Receiver<Command>) {
        while let Some(mut next) = waiting.blocking_recv() {
            let (mut group, mut bytes) = (Vec::new(), 0);
            loop {
                match next {
                    Command::Write(batch) => {
                        bytes += batch.bytes();
                        group.push(batch);
                    }
                    Command::End => waiting.close(),
                }
                if group.len() == WAITING || bytes >= GROUP_BYTES {
                    break;
                }
                let Ok(waits) = waiting.try_recv() else { break };
                next = waits;
            }
            self.write(group);
        }
    }

    /// Writes a group of batches, and sees to it that each gets its answer.
    fn write(&mut self, group: Vec<ReadyBatch>) {
        let group_size = group.len();
        let tree = self.tree.clone();
        let mut draft = Draft::on(&tree);
        let (mut drafted, mut refused) = (Vec::with_capacity(group.len()), Vec::new());
        let mut written = Ok(());
        for ReadyBatch { writes, sync, answer } in group {
            match check_batch(&draft, &writes) {
                Ok(there) => {
                    let changed = writes.iter().filter_map(ReadyWrite::changes).collect();
                    drafted.push(Drafted { changed, sync, answer });
                    written = written.and_then(|()| draft_batch(&mut draft, &mut self.tails, writes, there));
                }
                Err(error) => refused.push((answer, error)),
            }
        }
        if written.is_ok() {
            self.tails.settle(&mut draft);
            written = self.apply(&tree, draft);
        }
        if written.is_err() {
            self.tails.forget();
        }
        // Only now: whoever was refused because of another batch of the group must be able to read it.
        for (to, error) in refused {
            answer(to, Err(error));
        }
        let mut to_sync = Vec::new();
        for Drafted { changed, sync, answer: to } in drafted {
            for (kind, key) in changed {
                self.common.changes.tell_of(kind, key);
            }
            match (&written, sync) {
                (Ok(()), Sync::Now) => to_sync.push(to),
                (Ok(()), Sync::Later) => answer(to, Ok(())),
                (Err(error), _) => answer(to, Err(error.clone())),
            }
        }
        self.see_to_sync(to_sync, group_size);
    }

    /// Sees to it that these are synced and answered. Where nobody of the group asked for less and no
    /// sync is under way, that is done here: whoever else comes is most likely to want a sync as well,
    /// and the next group is the larger for it. Otherwise the other thread does it, and this one goes on.
    fn see_to_sync(&self, to_sync: Vec<Answer>, group_size: usize) {
        if to_sync.is_empty() {
            return;
        }
        if to_sync.len() == group_size && self.under_sync.load(Ordering::Acquire) == 0 {
            let synced = self.common.sync(&*self.disk);
            to_sync.into_iter().for_each(|to| answer(to, synced.clone()));
            return;
        }
        self.under_sync.fetch_add(to_sync.len(), Ordering::AcqRel);
        if let Err(mpsc::SendError(lost)) = self.flushed.send(to_sync) {
            let error = self.common.break_down("the thread that syncs has ended");
            lost.into_iter().for_each(|to| answer(to, Err(error.clone())));
        }
    }

    /// Writes the draft to the tree and the tree to the file.
    fn apply(&self, tree: &sled::Tree, draft: Draft<'_>) -> Result<(), StoreError> {
        if let Some(broken) = self.common.broken.get() {
            return Err(broken.clone());
        }
        let bytes = draft.bytes();
        let (batch, changes) = draft.into_changes();
        if changes == 0 {
            return Ok(());
        }
        if let Some(refusal) = self.disk.refuses(bytes) {
            return Err(refusal);
        }
        // sled panics where it meets what it does not expect.
        let written = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let _lists = self.common.lists.write().unwrap_or_else(PoisonError::into_inner);
            tree.apply_batch(batch)
        }));
        let flushed = match written {
            Ok(Ok(())) => std::panic::catch_unwind(AssertUnwindSafe(|| tree.flush().map(drop))),
            failed => failed,
        };
        match flushed {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                Err(self.common.break_down(format_args!("a write to the store failed: {error}")))
            }
            Err(_) => Err(self.common.break_down("a write to the store failed inside sled")),
        }
    }
}

impl ReadyBatch {
    fn bytes(&self) -> usize {
        self.writes.iter().map(ReadyWrite::bytes).sum()
    }
}

/// Returns what is there of each record that a batch writes, if that is what it expects.
fn check_batch(draft: &Draft<'_>, writes: &[ReadyWrite]) -> Result<Vec<Option<Stored>>, StoreError> {
    let check = |write: &ReadyWrite| {
        let (kind, key) = write.of_record();
        let stored = content::drafted(draft, kind, key)?;
        if is_expected(write, stored.as_ref()) {
            Ok(stored)
        } else {
            Err(StoreError::conflict(format_args!("{}/{key}", kind.as_str())))
        }
    };
    writes.iter().map(check).collect()
}

/// Drafts a batch in the place of what is there. After an error no part of the group can be written.
fn draft_batch(
    draft: &mut Draft<'_>,
    tails: &mut Tails,
    writes: Vec<ReadyWrite>,
    there: Vec<Option<Stored>>,
) -> Result<(), StoreError> {
    for (write, there) in writes.into_iter().zip(there) {
        match (write, there) {
            (ReadyWrite::Put { ready, .. }, there) => ready.draft(draft, tails, there.as_ref())?,
            (ReadyWrite::Delete { .. }, Some(there)) => content::draft_removal(draft, tails, &there)?,
            (ReadyWrite::Renew { lease_until, .. }, Some(there)) => {
                content::draft_renewal(draft, &there, lease_until)?;
            }
            (ReadyWrite::Delete { .. } | ReadyWrite::Renew { .. }, None) => {}
        }
    }
    Ok(())
}

fn is_expected(write: &ReadyWrite, there: Option<&Stored>) -> bool {
    let revision = there.map(|there| there.record.revision);
    match write {
        ReadyWrite::Put { expect, .. } | ReadyWrite::Delete { expect, .. } => match expect {
            Expect::Absent => revision.is_none(),
            Expect::Revision(expected) => revision == Some(*expected),
            Expect::Any => true,
        },
        ReadyWrite::Renew { revision: expected, .. } => {
            there.is_some_and(|there| there.record.facts.status == Status::Running)
                && revision == Some(*expected)
        }
    }
}

/// The thread that syncs.
struct Syncing {
    disk: Arc<dyn Disk>,
    to_sync: mpsc::Receiver<Vec<Answer>>,
    /// How many batches this thread has been given and has not answered.
    under_sync: Arc<AtomicUsize>,
    common: Arc<Common>,
}

impl Syncing {
    fn run(self) {
        while let Ok(mut answers) = self.to_sync.recv() {
            while let Ok(more) = self.to_sync.try_recv() {
                answers.extend(more);
            }
            let synced = self.common.sync(&*self.disk);
            self.under_sync.fetch_sub(answers.len(), Ordering::AcqRel);
            answers.into_iter().for_each(|to| answer(to, synced.clone()));
        }
        // What was not asked to be synced yet is synced at the end.
        if self.common.broken.get().is_none() {
            // Nobody is left to be told; the next opening finds what there is.
            let _ = self.common.sync(&*self.disk);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::record::{Facts, Record};
    use crate::store::Write;

    /// A disk that counts its syncs, and fails from one on.
    struct Counting {
        syncs: AtomicU64,
        fails_from: u64,
    }

    impl Disk for Counting {
        fn sync(&self) -> io::Result<()> {
            let sync = self.syncs.fetch_add(1, Ordering::SeqCst) + 1;
            if sync >= self.fails_from { Err(io::Error::other("the disk is gone")) } else { Ok(()) }
        }

        fn refuses(&self, _bytes: u64) -> Option<StoreError> {
            None
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
        let disk = Arc::new(Counting { syncs: AtomicU64::new(0), fails_from });
        let common =
            Arc::new(Common { broken: OnceLock::new(), lists: RwLock::new(()), changes: Changes::new() });
        let writer =
            Writer::start((*db).clone(), Arc::clone(&disk) as Arc<dyn Disk>, Arc::clone(&common)).unwrap();
        Bench { db, disk, common, writer }
    }

    impl Bench {
        fn send(&self, n: u64, sync: Sync) -> oneshot::Receiver<Result<(), StoreError>> {
            let record = Record {
                kind: Kind::Result,
                key: RecordKey::parse(&n.to_string()).unwrap(),
                revision: Revision(n),
                facts: Facts::new(Status::Done, "acme".into(), Timestamp(n)),
                body: bytes::Bytes::new(),
            };
            let writes = vec![ReadyWrite::of(Write::Put { record, expect: Expect::Absent })];
            let (answer, answered) = oneshot::channel();
            let batch = ReadyBatch { writes, sync, answer };
            self.writer.commands().unwrap().blocking_send(Command::Write(batch)).ok().unwrap();
            answered
        }

        fn commit(&self, n: u64, sync: Sync) -> Result<(), StoreError> {
            self.send(n, sync).blocking_recv().unwrap()
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
        assert_eq!(bench.syncs(), 21, "the end syncs what nobody asked for");
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
        assert_eq!(
            bench.db.get(super::super::layout::record_key(Kind::Result, &RecordKey::parse("3").unwrap())),
            Ok(None)
        );
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
}
