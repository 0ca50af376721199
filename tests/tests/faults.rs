//! Leases that are lost and stores that fail: what a kept step does then, and what it never does.

#![expect(clippy::disallowed_methods, reason = "tests wait, and run things beside each other")]

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use docket_graph::{FailureClass, Scope};
use docket_runtime::{
    ErrorKind, ExecutionError, OnStoreError, Outcome, RequestError, RetryOptions, StepOutcome,
};
use docket_store::{Kind, MemoryStore, Status, Store, StoreErrorKind, Write};
use docket_tests::example::UserProfile;
use docket_tests::{Meddled, Setup, StoreCall, execute, keeping, told, unavailable};

fn obey() -> Setup {
    Setup::new(&["obey"])
        .step("FetchProfile", keeping(Scope::Global, None))
        .with(|options| options.lease = Duration::from_secs(1))
}

fn name(outcome: Outcome) -> String {
    outcome.message::<UserProfile>().unwrap_or_else(|error| panic!("{error}")).name
}

/// Returns whether the call puts or renews a result of this status.
fn touches(call: StoreCall<'_>, status: Option<Status>) -> bool {
    let StoreCall::Commit(batch) = call else { return false };
    batch.writes.iter().any(|write| match write {
        Write::Put { record, .. } => record.kind == Kind::Result && Some(record.facts.status) == status,
        Write::Renew { kind, .. } => *kind == Kind::Result && status.is_none(),
        Write::Delete { .. } => false,
    })
}

fn renews(call: StoreCall<'_>) -> bool {
    let StoreCall::Commit(batch) = call else { return false };
    batch.writes.iter().any(|write| matches!(write, Write::Renew { .. }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_renewed_for_as_long_as_a_step_runs() {
    let renewals = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&renewals);
    let setup = obey().on(Meddled::new(Arc::new(MemoryStore::new()), move |call| {
        counted.fetch_add(usize::from(renews(call)), Ordering::Relaxed);
        Ok(())
    }));
    let (one, other) = (setup.host().await, setup.host().await);
    let leader = tokio::spawn(async move { execute(&one, told("user-sleeps-3000")).await });
    setup.recorder.until_started("FetchProfile", 1).await;
    let follower = execute(&other, told("user-sleeps-3000")).await;
    assert_eq!(follower.report.steps[0].outcome, StepOutcome::Cached);
    assert_eq!(leader.await.unwrap().report.steps[0].outcome, StepOutcome::Done);
    assert_eq!(setup.starts("FetchProfile"), 1);
    let renewals = renewals.load(Ordering::Relaxed);
    assert!((8..=24).contains(&renewals), "{renewals} renewals in three leases of two hosts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_cannot_renew_stops_its_attempt_and_counts_on_when_it_gets_the_work_back() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let taken_over = Arc::new(AtomicBool::new(false));
    let claims = AtomicUsize::new(0);
    let seen = Arc::clone(&taken_over);
    // No renewal gets through, and no second claim before the other host has the work.
    let cut = move |call: StoreCall<'_>| {
        let early = touches(call, Some(Status::Running))
            && claims.fetch_add(1, Ordering::SeqCst) > 0
            && !seen.load(Ordering::SeqCst);
        if renews(call) || early { Err(unavailable()) } else { Ok(()) }
    };
    let healthy = Setup { store: Arc::clone(&store), ..obey() };
    let lame = Setup { store: Arc::new(Meddled::new(store, cut)), ..obey() };
    let host = lame.host().await;
    // A first attempt takes a minute, a second one no time.
    let first = tokio::spawn(async move { execute(&host, told("user-naps-60000")).await });
    lame.recorder.until_started("FetchProfile", 1).await;
    let host = healthy.host().await;
    let other = tokio::spawn(async move { execute(&host, told("user-naps-60000")).await });
    healthy.recorder.until_started("FetchProfile", 1).await;
    taken_over.store(true, Ordering::SeqCst);
    let since = Instant::now();
    while lame.recorder.matching("lost its lease").is_empty() {
        assert!(since.elapsed() < Duration::from_secs(3), "{:#?}", lame.recorder.lines());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(lame.starts("FetchProfile"), 1, "it waits for the other now");
    other.abort();
    let outcome = tokio::time::timeout(Duration::from_secs(10), first).await.unwrap().unwrap();
    let numbers: Vec<u32> = outcome.report.steps[0].attempts.iter().map(|attempt| attempt.attempt).collect();
    assert_eq!(numbers, [1, 2]);
    assert!(name(outcome).contains("attempt=2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_whose_execution_was_taken_over_stops_and_returns_the_others_outcome() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let taken_over = Arc::new(AtomicBool::new(false));
    let claims = AtomicUsize::new(0);
    let seen = Arc::clone(&taken_over);
    let cut = move |call: StoreCall<'_>| {
        let again = touches(call, Some(Status::Running)) && claims.fetch_add(1, Ordering::SeqCst) > 0;
        let cut = (renews(call) || again) && !seen.load(Ordering::SeqCst);
        if cut { Err(unavailable()) } else { Ok(()) }
    };
    let healthy = Setup { store: Arc::clone(&store), ..obey() };
    let lame = Setup { store: Arc::new(Meddled::new(store, cut)), ..obey() };
    let request = || {
        told("user-naps-60000-sleeps-1500")
            .execution_id(docket_runtime::ExecutionId::parse("order-42").unwrap())
    };
    let host = lame.host().await;
    let first = tokio::spawn(async move { execute(&host, request()).await });
    lame.recorder.until_started("FetchProfile", 1).await;
    let host = healthy.host().await;
    let other = tokio::spawn(async move { execute(&host, request()).await });
    healthy.recorder.until_started("FetchProfile", 1).await;
    taken_over.store(true, Ordering::SeqCst);
    let outcomes = [first.await.unwrap(), other.await.unwrap()];
    for outcome in outcomes {
        let numbers: Vec<u32> =
            outcome.report.steps[0].attempts.iter().map(|attempt| attempt.attempt).collect();
        assert_eq!(numbers, [2], "both tell of the one that came to its end: {:?}", outcome.report);
        assert!(name(outcome).contains("attempt=2"));
    }
    assert_eq!((lame.starts("FetchProfile"), healthy.starts("FetchProfile")), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_result_is_refused_and_the_one_that_was_kept_first_is_used() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let gate = Arc::new(AtomicBool::new(false));
    let closed = Arc::clone(&gate);
    // As if the process was stopped just before it kept its result, and went on long after: its renewals
    // go nowhere, and say that they went well.
    let frozen = Frozen { inner: Arc::clone(&store), thawed: closed };
    let sleepy = Setup { store: Arc::new(frozen), ..obey() };
    let healthy = Setup { store, ..obey() };
    let host = sleepy.host().await;
    let late = tokio::spawn(async move { execute(&host, told("user")).await });
    sleepy.recorder.until_started("FetchProfile", 1).await;
    let kept = execute(&healthy.host().await, told("user")).await;
    assert_eq!(kept.report.steps[0].outcome, StepOutcome::Done);
    gate.store(true, Ordering::SeqCst);
    let late = late.await.unwrap();
    assert_eq!(late.report.steps[0].outcome, StepOutcome::Cached);
    assert_eq!(late.report.steps[0].attempts.len(), 1, "the attempt was made, and lost");
    assert_eq!(late.report.steps[0].attempts[0].error.as_deref(), Some("lost its lease to another process"));
    let key = late.report.steps[0].key.clone().unwrap();
    assert_eq!(name(late), name(kept));
    let key = docket_store::RecordKey::parse(&key).unwrap();
    assert_eq!(
        healthy.store.get(Kind::Result, &key).await.unwrap().record.unwrap().facts.status,
        Status::Done
    );
}

/// A store that a stopped process sees: what it keeps and renews waits until it goes on.
struct Frozen {
    inner: Arc<dyn Store>,
    thawed: Arc<AtomicBool>,
}

#[async_trait::async_trait]
impl Store for Frozen {
    fn abilities(&self) -> docket_store::Abilities {
        self.inner.abilities()
    }

    async fn get(
        &self,
        kind: Kind,
        key: &docket_store::RecordKey,
    ) -> Result<docket_store::Found, docket_store::StoreError> {
        self.inner.get(kind, key).await
    }

    async fn commit(&self, batch: docket_store::Batch) -> Result<(), docket_store::StoreError> {
        let call = StoreCall::Commit(&batch);
        if renews(call) {
            return Ok(());
        }
        while touches(call, Some(Status::Done)) && !self.thawed.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.inner.commit(batch).await
    }

    async fn scan(
        &self,
        query: &docket_store::Query,
        limit: usize,
    ) -> Result<docket_store::Page, docket_store::StoreError> {
        self.inner.scan(query, limit).await
    }

    async fn changed(&self, kind: Kind, key: &docket_store::RecordKey, most: Duration) {
        self.inner.changed(kind, key, most).await;
    }

    async fn sync(&self) -> Result<(), docket_store::StoreError> {
        self.inner.sync().await
    }

    async fn close(&self) -> Result<(), docket_store::StoreError> {
        self.inner.close().await
    }
}

/// Which calls fail, each with a store that is away for good.
type Fails = fn(StoreCall<'_>) -> bool;

const AT_LOOK: Fails = |call| matches!(call, StoreCall::Get(Kind::Result));
const AT_CLAIM: Fails = |call| touches(call, Some(Status::Running));
const AT_COMPLETE: Fails = |call| touches(call, Some(Status::Done));
const AT_RECORD: Fails = |call| matches!(call, StoreCall::Get(Kind::Execution | Kind::Module));
const ALWAYS: Fails = |_| true;

fn failing(fails: Fails, on_store_error: OnStoreError) -> Setup {
    let mut options = keeping(Scope::Global, None);
    options.on_store_error = Some(on_store_error);
    let ask = move |call: StoreCall<'_>| if fails(call) { Err(unavailable()) } else { Ok(()) };
    Setup::new(&["obey"]).step("FetchProfile", options).on(Meddled::new(Arc::new(MemoryStore::new()), ask))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fails_fails_a_kept_step_by_name() {
    let check = async |fails: Fails, starts: usize| {
        let setup = failing(fails, OnStoreError::Fail);
        let outcome = execute(&setup.host().await, told("user")).await;
        let Err(error) = &outcome.result else { panic!("{outcome:?}") };
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let ExecutionError::Failed { source, attempts, .. } = error else { panic!("{error}") };
        assert_eq!((source.class(), *attempts as usize), (FailureClass::Store, starts));
        assert_eq!(source.to_string(), "the store failed: the store is away");
        assert_eq!(setup.starts("FetchProfile"), starts);
    };
    tokio::join!(check(AT_LOOK, 0), check(AT_CLAIM, 0), check(AT_COMPLETE, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_execution_that_cannot_be_recorded_is_refused_before_it_begins() {
    let check = async |fails: Fails| {
        let setup = failing(fails, OnStoreError::Fail);
        let error = setup.host().await.execute(told("user")).await.unwrap_err();
        let RequestError::Store(cause) = &error else { panic!("{error}") };
        assert_eq!((cause.kind(), error.kind()), (StoreErrorKind::Unavailable, ErrorKind::Unavailable));
        assert_eq!(setup.recorder.lines(), [""; 0]);
    };
    tokio::join!(check(AT_RECORD), check(ALWAYS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_is_to_run_without_a_store_does_and_its_result_is_used() {
    let healthy = failing(|_| false, OnStoreError::Run);
    let expected = name(execute(&healthy.host().await, told("user")).await);
    let key = |name: &str| name.split(' ').next().unwrap().to_owned();
    let check = async |what: &str, fails: Fails| {
        let setup = failing(fails, OnStoreError::Run);
        let outcome = execute(&setup.host().await, told("user")).await;
        assert_eq!(outcome.report.steps[0].outcome, StepOutcome::Done, "{what}");
        assert_eq!(setup.starts("FetchProfile"), 1, "{what}");
        assert_eq!(key(&name(outcome)), key(&expected), "{what}: the idempotency key is the same");
    };
    tokio::join!(
        check("look", AT_LOOK),
        check("claim", AT_CLAIM),
        check("complete", AT_COMPLETE),
        check("record", AT_RECORD),
        check("always", ALWAYS),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_be_opened_is_as_one_that_fails() {
    let setup = failing(|_| false, OnStoreError::Run);
    let host = |setup: &Setup| {
        let opened = || async { Err::<Arc<dyn Store>, _>(unavailable()) };
        let module = setup.modules[0].1.clone();
        docket_runtime::Host::builder()
            .options(setup.options.clone())
            .module("obey.wasm", module)
            .open_store(opened)
    };
    let expected = name(execute(&setup.host().await, told("user")).await);
    let outcome = execute(&host(&setup).build().await.unwrap(), told("user")).await;
    assert_eq!(outcome.report.steps[0].outcome, StepOutcome::Done);
    assert_eq!(name(outcome).split(' ').next(), expected.split(' ').next());
    let closed = failing(|_| false, OnStoreError::Fail);
    let error = host(&closed).build().await.unwrap().execute(told("user")).await.unwrap_err();
    assert!(matches!(error, RequestError::Store(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_back_in_time_costs_no_attempt() {
    let failures = AtomicUsize::new(3);
    let setup = obey().on(Meddled::new(Arc::new(MemoryStore::new()), move |call| {
        let fails = touches(call, Some(Status::Done))
            && failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if fails { Err(unavailable()) } else { Ok(()) }
    }));
    let outcome = execute(&setup.host().await, told("user")).await;
    assert_eq!(outcome.report.steps[0].outcome, StepOutcome::Done);
    assert_eq!(setup.starts("FetchProfile"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_store_is_tried_again_where_the_class_is_retried() {
    let failures = AtomicUsize::new(8);
    let mut options = keeping(Scope::Global, None);
    options.retry = RetryOptions {
        max_attempts: NonZeroU32::new(3),
        reclassify: Some(docket_graph::Reclassify {
            always: vec![docket_graph::Match::Class(FailureClass::Store)],
            ..Default::default()
        }),
        ..RetryOptions::default()
    };
    let setup = Setup::new(&["obey"]).step("FetchProfile", options).on(Meddled::new(
        Arc::new(MemoryStore::new()),
        move |call| {
            let fails = touches(call, Some(Status::Done))
                && failures
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                    .is_ok();
            if fails { Err(unavailable()) } else { Ok(()) }
        },
    ));
    let outcome = execute(&setup.host().await, told("user")).await;
    let numbers: Vec<u32> = outcome.report.steps[0].attempts.iter().map(|attempt| attempt.attempt).collect();
    assert_eq!(numbers, [1, 2]);
    assert!(name(outcome).contains("attempt=2"));
}
