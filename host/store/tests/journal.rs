//! The journal: who carries an execution out, what a second one of the same id gets, how it ends, and
//! that modules are kept whole.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use docket_store::{
    Batch, Clock, Held, Journal, Kind, LEASE, MemoryStore, NewExecution, Opened, RecordKey, Status, StepNote,
    Store, StoreError, StoreErrorKind, Sync, Timestamp, Unfinished, purge, remove_execution,
};
use proptest::prelude::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone)]
struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

fn journals<const N: usize>() -> (Arc<dyn Store>, ManualClock, [Journal; N]) {
    let clock = ManualClock(Arc::new(AtomicU64::new(1_790_000_000_000)));
    let store: Arc<dyn Store> = Arc::new(MemoryStore::on(Arc::new(clock.clone())));
    let journal = |owner| Journal::new(Arc::clone(&store), format!("owner {owner}").into(), LEASE);
    let journals = std::array::from_fn(journal);
    (store, clock, journals)
}

fn new(id: &str, request: &str) -> NewExecution {
    let mut request_digest = [0; 32];
    request_digest[..request.len()].copy_from_slice(request.as_bytes());
    NewExecution {
        tenant: "acme".into(),
        id: id.into(),
        request_digest,
        request: Bytes::copy_from_slice(request.as_bytes()),
        detail: r#"{"modules":["c0ffee"]}"#.into(),
    }
}

fn held(opened: Opened) -> Held {
    match opened {
        Opened::New(held) | Opened::Resumed(held, _) => held,
        opened => panic!("it is another's: {opened:?}"),
    }
}

async fn finish(
    journal: &Journal,
    held: &Held,
    status: Status,
    outcome: &'static str,
) -> Result<(), StoreError> {
    let note =
        StepNote { step: "Fetch".into(), module: "c0ffee".into(), status, attempts: 1, detail: "{}".into() };
    journal.finish(held, status, outcome.into(), held.detail(), Some(DAY), vec![held.note(note)]).await
}

#[tokio::test]
async fn one_carries_an_execution_out_and_others_attach_or_are_refused() {
    let (_, clock, [one, two]) = journals();
    let first = held(one.open(new("x", "request"), Unfinished::Return).await.unwrap());
    let opened = two.open(new("x", "request"), Unfinished::Return).await.unwrap();
    assert!(
        matches!(&opened, Opened::Elsewhere(entry) if entry.facts.status == Status::Running),
        "{opened:?}"
    );
    let opened = two.open(new("x", "other"), Unfinished::Return).await.unwrap();
    assert!(matches!(opened, Opened::Conflict(_)), "{opened:?}");
    let opened = two.reopen("acme", "y", Unfinished::Resume).await.unwrap();
    assert!(opened.is_none());

    clock.advance(LEASE + Duration::from_secs(1));
    let opened = two.open(new("x", "request"), Unfinished::Return).await.unwrap();
    let Opened::Resumed(second, entry) = opened else { panic!("{opened:?}") };
    assert_eq!((entry.facts.status, &entry.request[..]), (Status::Interrupted, &b"request"[..]));
    let refused = finish(&one, &first, Status::Done, "one").await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Conflict);
    finish(&two, &second, Status::Done, "two").await.unwrap();
    for unfinished in [Unfinished::Return, Unfinished::Resume] {
        let opened = one.open(new("x", "request"), unfinished).await.unwrap();
        let Opened::Over(entry) = opened else { panic!("{opened:?}") };
        assert_eq!(
            (entry.facts.status, entry.facts.attempts, &entry.outcome[..]),
            (Status::Done, 2, &b"two"[..])
        );
    }
    assert_eq!(one.steps("acme", "x").await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_draft_is_recorded_when_it_is_begun_or_finished_and_never_over_another() {
    let (_, _, [journal]) = journals();
    let draft = async |id: &str| journal.draft(&new(id, "request")).await.unwrap();
    let status = async |id: &str| journal.read("acme", id).await.unwrap().map(|entry| entry.facts.status);
    let begun = draft("begun").await;
    let (held, write) = journal.begin(&begun);
    assert_eq!(status("begun").await, None, "nothing is written yet");
    journal.write_alone(write).await.unwrap();
    assert_eq!(status("begun").await, Some(Status::Running));
    for draft in [&begun, &draft("begun").await] {
        let (_, again) = journal.begin(draft);
        let taken = journal.write_alone(again).await.unwrap_err();
        assert_eq!(taken.kind(), StoreErrorKind::Conflict, "its id is taken");
    }
    let late = finish(&journal, &journal.unbegun(&begun), Status::Done, "late").await.unwrap_err();
    assert_eq!(late.kind(), StoreErrorKind::Conflict, "it was begun");
    finish(&journal, &held, Status::Done, "done").await.unwrap();
    assert_eq!(status("begun").await, Some(Status::Done));

    let never = draft("never").await;
    finish(&journal, &journal.unbegun(&never), Status::Interrupted, "stopped").await.unwrap();
    let opened = journal.open(new("never", "request"), Unfinished::Return).await.unwrap();
    let Opened::Resumed(_, entry) = opened else { panic!("{opened:?}") };
    assert_eq!((entry.facts.status, &entry.request[..]), (Status::Interrupted, &b"request"[..]));
}

#[tokio::test]
async fn what_ended_without_a_result_is_answered_or_gone_on_with_as_asked() {
    let check = async |status: Status, answered: bool| {
        let (_, _, [journal]) = journals();
        let first = held(journal.open(new("x", "request"), Unfinished::Return).await.unwrap());
        finish(&journal, &first, status, "outcome").await.unwrap();
        let opened = journal.open(new("x", "request"), Unfinished::Return).await.unwrap();
        assert_eq!(matches!(opened, Opened::Over(_)), answered, "{opened:?}");
        if answered {
            let opened = journal.reopen("acme", "x", Unfinished::Resume).await.unwrap().unwrap();
            let Opened::Resumed(_, entry) = opened else { panic!("{opened:?}") };
            assert_eq!(entry.facts.status, status);
        }
        let entry = journal.read("acme", "x").await.unwrap().unwrap();
        assert_eq!((entry.facts.status, entry.outcome.len()), (Status::Running, 0));
        assert_eq!(entry.facts.expires_at, None, "it is not forgotten while it runs");
    };
    check(Status::Failed, true).await;
    check(Status::Cancelled, true).await;
    check(Status::Interrupted, false).await;
}

#[tokio::test]
async fn whoever_has_noted_progress_still_ends_the_execution_and_the_next_finds_the_note() {
    for notes in 0..3 {
        let (_, _, [journal]) = journals();
        let mut first = held(journal.open(new("x", "request"), Unfinished::Return).await.unwrap());
        for note in 0..notes {
            let detail = format!(r#"{{"note":{note}}}"#);
            journal.note_progress(&mut first, format!("{note}").into(), detail.into()).await.unwrap();
        }
        finish(&journal, &first, Status::Interrupted, "").await.unwrap();
        let opened = journal.open(new("x", "request"), Unfinished::Return).await.unwrap();
        let Opened::Resumed(_, entry) = opened else { panic!("{opened:?}") };
        let last = ["", "0", "1"][notes];
        assert_eq!((entry.facts.status, &entry.progress[..]), (Status::Interrupted, last.as_bytes()));
    }
}

#[tokio::test]
async fn a_cancelled_execution_is_nobodys_and_is_forgotten_in_time() {
    let (store, clock, [journal]) = journals();
    let first = held(journal.open(new("x", "request"), Unfinished::Return).await.unwrap());
    assert_eq!(journal.cancel("acme", "x").await.unwrap().unwrap().facts.status, Status::Running);
    let renewal = Batch { writes: vec![journal.renewal(&first)], sync: Sync::Later };
    assert_eq!(store.commit(renewal).await.unwrap_err().kind(), StoreErrorKind::Conflict);
    assert_eq!(
        finish(&journal, &first, Status::Done, "late").await.unwrap_err().kind(),
        StoreErrorKind::Conflict
    );
    clock.advance(DAY);
    assert_eq!(purge(&*store).await.unwrap().executions, 0);
    clock.advance(DAY * 7);
    assert_eq!(purge(&*store).await.unwrap().executions, 1);
}

#[tokio::test]
async fn an_execution_that_is_under_way_is_not_removed() {
    let (store, clock, [journal]) = journals();
    let first = held(journal.open(new("x", "request"), Unfinished::Return).await.unwrap());
    let error = remove_execution(&*store, "acme", "x").await.unwrap_err();
    assert_eq!(error.to_string(), "execution `x` is under way; cancel it first");
    clock.advance(LEASE + Duration::from_secs(1));
    drop(first);
    assert!(remove_execution(&*store, "acme", "x").await.unwrap());
    assert!(!remove_execution(&*store, "acme", "x").await.unwrap());
}

#[tokio::test]
async fn modules_are_kept_whole_in_pieces_and_for_as_long_as_an_execution_needs_them() {
    let (store, clock, [journal]) = journals();
    for len in [1, 2, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20] {
        let bytes: Bytes = (0..len)
            .map(|at: u32| at.wrapping_mul(2_654_435_761).to_le_bytes()[3])
            .collect::<Vec<u8>>()
            .into();
        let digest = digest(&bytes);
        assert_eq!(journal.module(&digest).await.unwrap(), None);
        journal.keep_module(&digest, &bytes).await.unwrap();
        assert!(journal.module(&digest).await.unwrap().unwrap() == bytes, "{len} bytes");
        // Without its last piece, and without its first, it is not there.
        let pieces = (len as usize).div_ceil(1 << 20).max(1);
        for piece in [pieces - 1, 0] {
            let key = RecordKey::parse(&format!("{digest}/{piece}")).unwrap();
            let writes = vec![docket_store::Write::Delete {
                kind: Kind::Module,
                key,
                expect: docket_store::Expect::Any,
            }];
            store.commit(Batch { writes, sync: Sync::Later }).await.unwrap();
            assert_eq!(journal.module(&digest).await.unwrap(), None, "{len} bytes without piece {piece}");
        }
    }
    let (store, clock) = {
        let _ = (store, clock);
        let (store, clock, [journal]) = journals();
        journal.keep_module("c0ffee", &"needed".into()).await.unwrap();
        journal.keep_module("decaf", &"not needed".into()).await.unwrap();
        let first = held(journal.open(new("x", "request"), Unfinished::Return).await.unwrap());
        finish(&journal, &first, Status::Done, "").await.unwrap();
        clock.advance(DAY - Duration::from_secs(1));
        assert_eq!(purge(&*store).await.unwrap().modules, 0, "they were asked for less than a day ago");
        journal.keep_module("decaf", &"not needed".into()).await.unwrap();
        clock.advance(Duration::from_secs(3600));
        let purged = purge(&*store).await.unwrap();
        assert_eq!(
            (purged.executions, purged.modules),
            (1, 1),
            "its execution is gone; `decaf` was asked for again"
        );
        (store, clock)
    };
    clock.advance(DAY);
    assert_eq!(purge(&*store).await.unwrap().modules, 1);
}

fn digest(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    base16ct::lower::encode_string(&sha2::Sha256::digest(bytes))
}

/// What one of the owners, or the world, does to one execution.
#[derive(Clone, Copy, Debug)]
enum Event {
    Open(Unfinished),
    Renew,
    Note,
    Finish(Status),
    Die,
    Cancel,
    Pass(u32),
    Purge,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => proptest::sample::select(vec![Unfinished::Return, Unfinished::Resume]).prop_map(Event::Open),
        3 => Just(Event::Renew),
        3 => Just(Event::Note),
        3 => proptest::sample::select(vec![Status::Done, Status::Failed, Status::Interrupted]).prop_map(Event::Finish),
        1 => Just(Event::Die),
        1 => Just(Event::Cancel),
        3 => (1..40_000_u32).prop_map(Event::Pass),
        1 => Just(Event::Purge),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn in_any_order_of_events_an_execution_has_one_holder_and_a_result_is_final(
        events in proptest::collection::vec((0..3_usize, event()), 1..80)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (store, clock, journals) = journals::<3>();
            let mut holds: [Option<Held>; 3] = [None, None, None];
            // Who holds it by right, and until when.
            let mut holder: Option<(usize, Timestamp)> = None;
            let mut done = false;
            for (owner, event) in events {
                let journal = &journals[owner];
                let by_right = holder.is_some_and(|(of, _)| of == owner) && holds[owner].is_some();
                match event {
                    Event::Open(unfinished) => match journal.open(new("x", "request"), unfinished).await.unwrap() {
                        Opened::New(held) | Opened::Resumed(held, _) => {
                            assert!(holder.is_none_or(|(_, until)| until <= clock.now()), "two carry it out");
                            assert!(!done, "what is done is not done again");
                            holds[owner] = Some(held);
                            holder = Some((owner, lease(&*store).await));
                        }
                        Opened::Over(entry) => assert_eq!(done, entry.facts.status == Status::Done),
                        Opened::Elsewhere(_) => assert!(holder.is_some()),
                        opened @ Opened::Conflict(_) => panic!("{opened:?}"),
                    },
                    Event::Renew => if let Some(held) = &holds[owner] {
                        let batch = Batch { writes: vec![journal.renewal(held)], sync: Sync::Later };
                        let answer = store.commit(batch).await;
                        assert_eq!(answer.is_ok(), by_right, "{answer:?}");
                        if by_right {
                            holder = Some((owner, lease(&*store).await));
                        }
                    },
                    Event::Note => if let Some(held) = &mut holds[owner] {
                        let answer = journal.note_progress(held, "some".into(), held.detail()).await;
                        assert_eq!(answer.is_ok(), by_right, "{answer:?}");
                        if by_right {
                            holder = Some((owner, lease(&*store).await));
                        }
                    },
                    Event::Finish(status) => if let Some(held) = holds[owner].take() {
                        let answer = finish(journal, &held, status, "outcome").await;
                        assert_eq!(answer.is_ok(), by_right, "{answer:?}");
                        if by_right {
                            holder = None;
                            done = status == Status::Done;
                        }
                    },
                    Event::Die => holds[owner] = None,
                    Event::Cancel => if journal.cancel("acme", "x").await.unwrap().is_some() && !done {
                        holder = None;
                    },
                    Event::Pass(millis) => clock.advance(Duration::from_millis(millis.into())),
                    Event::Purge => {
                        purge(&*store).await.unwrap();
                        let found = journal.read("acme", "x").await.unwrap();
                        assert!(found.is_some() || holder.is_none_or(|(_, until)| until <= clock.now()));
                        done &= found.is_some();
                    }
                }
            }
        });
    }
}

async fn lease(store: &dyn Store) -> Timestamp {
    let key = RecordKey::parse("acme/x").unwrap();
    store.get(Kind::Execution, &key).await.unwrap().record.unwrap().facts.lease_until.unwrap()
}
