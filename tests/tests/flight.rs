//! One start for one key: whoever asks at the same time waits for whoever is at it.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]
#![expect(clippy::disallowed_methods, reason = "tests wait, and run things beside each other")]

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use docket_graph::{FailureClass, Scope};
use docket_runtime::{
    ExecutionError, ExecutionId, ExecutionOutcome, Host, Outcome, Request, RequestError, RetryOptions,
    StepFailure, StepOptions, StepOutcome,
};
use docket_store::{Filter, Kind, MemoryStore, Query, Record, Status, Store, Write};
use docket_tests::example::UserProfile;
use docket_tests::{Meddled, Setup, StoreCall, execute, keeping, told, unavailable};
use tokio::task::{JoinHandle, JoinSet};

fn obey() -> Setup {
    Setup::new(&["obey"]).step("FetchProfile", keeping(Scope::Global, None))
}

fn begin(host: &Host, words: &str) -> JoinHandle<Outcome> {
    let (host, request) = (host.clone(), told(words));
    tokio::spawn(async move { execute(&host, request).await })
}

async fn ended(task: JoinHandle<Outcome>) -> Outcome {
    tokio::time::timeout(Duration::from_secs(20), task).await.expect("it ends").unwrap()
}

async fn statuses(store: &dyn Store) -> Vec<Status> {
    let query = Query::Newest { kind: Kind::Result, filter: Filter::default(), after: None };
    store.scan(&query, 100).await.unwrap().records.iter().map(|record| record.facts.status).collect()
}

/// Returns the attempt that the step says it was.
fn attempt(outcome: Outcome) -> String {
    let name = outcome.message::<UserProfile>().unwrap_or_else(|error| panic!("{error}")).name;
    name.split(' ').find(|part| part.starts_with("attempt=")).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_callers_on_two_hosts_cause_one_start() {
    let setup = obey();
    let hosts = [setup.host().await, setup.host().await];
    let mut callers = JoinSet::new();
    for caller in 0..100 {
        let host = hosts[caller % 2].clone();
        callers.spawn(async move { execute(&host, told("user-sleeps-300")).await });
    }
    let outcomes = callers.join_all().await;
    let ran = outcomes.iter().filter(|outcome| outcome.report.steps[0].outcome == StepOutcome::Done).count();
    let answers: BTreeSet<String> =
        outcomes.into_iter().map(|outcome| outcome.message::<UserProfile>().unwrap().name).collect();
    assert_eq!((setup.starts("FetchProfile"), ran, answers.len()), (1, 1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quick_steps_start_once_too_however_the_callers_meet() {
    let setup = obey();
    let hosts = [setup.host().await, setup.host().await];
    for round in 0..30 {
        let mut callers = JoinSet::new();
        for caller in 0..8 {
            let host = hosts[caller % 2].clone();
            callers.spawn(async move { execute(&host, told(&format!("user-{round}"))).await });
        }
        callers.join_all().await.into_iter().for_each(|outcome| drop(outcome.result.unwrap()));
        assert_eq!(setup.starts("FetchProfile"), round + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_leaves_does_not_stop_the_leader() {
    let setup = obey();
    let host = setup.host().await;
    let leader = begin(&host, "user-sleeps-500");
    setup.recorder.until_started("FetchProfile", 1).await;
    let follower = begin(&host, "user-sleeps-500");
    tokio::time::sleep(Duration::from_millis(100)).await;
    follower.abort();
    assert!(follower.await.unwrap_err().is_cancelled());
    assert_eq!(ended(leader).await.report.steps[0].outcome, StepOutcome::Done);
    assert_eq!(setup.starts("FetchProfile"), 1);
}

/// How a leader ends before it has a result.
enum Leaves {
    /// Its caller is gone.
    Dropped,
    /// Its caller has cancelled it.
    Cancelled,
}

/// Starts a leader and four followers on two hosts, ends the leader, and checks that just one of the
/// followers takes over.
async fn check_takeover(leaves: Leaves) {
    let setup = obey();
    let hosts = [setup.host().await, setup.host().await];
    let mut leader = hosts[0].start(told("user-sleeps-400")).unwrap();
    let canceller = leader.canceller();
    let leader = tokio::spawn(leader.outcome());
    setup.recorder.until_started("FetchProfile", 1).await;
    let followers: Vec<_> = (0..4).map(|index| begin(&hosts[index % 2], "user-sleeps-400")).collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(setup.starts("FetchProfile"), 1);
    match leaves {
        Leaves::Dropped => {
            leader.abort();
            assert!(leader.await.unwrap_err().is_cancelled());
        }
        Leaves::Cancelled => {
            canceller.cancel();
            let outcome = leader.await.unwrap().unwrap();
            assert_eq!(outcome.report.outcome, ExecutionOutcome::Cancelled);
        }
    }
    let mut answers = BTreeSet::new();
    for follower in followers {
        answers.insert(attempt(ended(follower).await));
    }
    assert_eq!(setup.starts("FetchProfile"), 2);
    let first = BTreeSet::from(["attempt=1".to_owned()]);
    assert_eq!(answers, first, "it is the first of the execution that took over");
    assert_eq!(statuses(&*setup.store).await, [Status::Done]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_follower_takes_over_from_a_leader_that_is_dropped() {
    check_takeover(Leaves::Dropped).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_follower_takes_over_from_a_leader_that_is_cancelled() {
    check_takeover(Leaves::Cancelled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_follower_takes_over_from_a_leader_that_a_sibling_has_aborted() {
    let mut setup = Setup::new(&["beside"]).step("Left", keeping(Scope::Global, None));
    setup = setup.step("Right", StepOptions::default());
    let host = setup.host().await;
    // Only the first execution's right step aborts: in its first attempt all the same, so the others ask
    // for the left one alone.
    let leader = begin(&host, "Left:sleeps-600,Right:sleeps-300-aborts");
    setup.recorder.until_started("Left", 1).await;
    let left = || {
        let port = docket_graph::Port::parse("example.v1.UserProfile#Left").unwrap();
        let user = docket_tests::example::UserId { id: "Left:sleeps-600,Right:sleeps-300-aborts".into() };
        docket_runtime::Request::new(port).input(&user)
    };
    let followers: Vec<_> = (0..4)
        .map(|_| {
            let host = host.clone();
            tokio::spawn(async move { execute(&host, left()).await })
        })
        .collect();
    assert_eq!(ended(leader).await.report.outcome, ExecutionOutcome::Aborted);
    for follower in followers {
        ended(follower).await.result.unwrap();
    }
    assert_eq!(setup.starts("Left"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_leader_fails_its_followers_alike_and_nobody_else_starts() {
    let setup = obey();
    let hosts = [setup.host().await, setup.host().await];
    let leader = begin(&hosts[0], "user-sleeps-300-fails");
    setup.recorder.until_started("FetchProfile", 1).await;
    let followers: Vec<_> = (0..10).map(|index| begin(&hosts[index % 2], "user-sleeps-300-fails")).collect();
    let outcome = ended(leader).await;
    let told_to_fail = |error: ExecutionError| {
        let ExecutionError::Failed { attempts, source, .. } = error else { panic!("{error}") };
        assert_eq!((source.class(), source.code()), (FailureClass::Permanent, Some("told-to")));
        (attempts, source.to_string())
    };
    let (attempts, words) = told_to_fail(outcome.result.unwrap_err());
    assert_eq!(attempts, 1);
    for follower in followers {
        let outcome = ended(follower).await;
        assert!(outcome.report.steps[0].attempts.is_empty(), "it has made no attempt");
        assert_eq!(told_to_fail(outcome.result.unwrap_err()), (0, words.clone()));
    }
    assert_eq!(setup.starts("FetchProfile"), 1);
    let later = execute(&hosts[1], told("user-sleeps-300-fails")).await;
    assert_eq!(told_to_fail(later.result.unwrap_err()), (1, words), "a later request tries again");
    assert_eq!(setup.starts("FetchProfile"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_leader_tries_as_often_as_its_policy_says_and_followers_wait_for_the_last() {
    let mut options = keeping(Scope::Global, None);
    options.retry = RetryOptions { max_attempts: NonZeroU32::new(3), ..RetryOptions::default() };
    let setup = Setup::new(&["obey"]).step("FetchProfile", options);
    let host = setup.host().await;
    let callers: Vec<_> = (0..10).map(|_| begin(&host, "user-sleeps-100-until-3")).collect();
    for caller in callers {
        assert_eq!(attempt(ended(caller).await), "attempt=3");
    }
    assert_eq!(setup.starts("FetchProfile"), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_abort_aborts_the_followers_executions_too() {
    let setup = obey();
    let host = setup.host().await;
    let callers: Vec<_> = (0..5).map(|_| begin(&host, "user-sleeps-200-aborts")).collect();
    for caller in callers {
        let outcome = ended(caller).await;
        assert_eq!(outcome.report.outcome, ExecutionOutcome::Aborted);
        let Err(ExecutionError::Aborted { source, .. }) = outcome.result else { panic!("it was aborted") };
        assert!(matches!(source, StepFailure::Reported { .. } | StepFailure::Elsewhere { .. }));
    }
    assert_eq!(setup.starts("FetchProfile"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_of_one_execution_id_get_one_execution() {
    let setup = obey();
    let hosts = [setup.host().await, setup.host().await];
    let id = docket_runtime::ExecutionId::parse("order-42").unwrap();
    let mut callers = JoinSet::new();
    for caller in 0..10 {
        let (host, request) = (hosts[caller % 2].clone(), told("user-sleeps-300").execution_id(id.clone()));
        callers.spawn(async move { execute(&host, request).await });
    }
    let outcomes = callers.join_all().await;
    let started: BTreeSet<u64> = outcomes.iter().map(|outcome| outcome.report.started_at_ms).collect();
    assert_eq!(started.len(), 1, "all tell of the same execution");
    assert!(outcomes.iter().all(|outcome| outcome.report.steps[0].outcome == StepOutcome::Done));
    assert_eq!(setup.recorder.matching("execution started").len(), 1);
}

/// Returns a setup whose batches are written down, each as what it puts; and these.
fn watched() -> (Setup, Arc<Mutex<Vec<String>>>) {
    let batches = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&batches);
    let ask = move |call: StoreCall<'_>| {
        if let StoreCall::Commit(batch) = call {
            let puts = batch.writes.iter().filter_map(|write| match write {
                Write::Put { record: Record { kind, facts, .. }, .. } if *kind != Kind::Module => {
                    Some(format!("{} {}", kind.as_str(), facts.status.as_str()))
                }
                _ => None,
            });
            let puts: Vec<String> = puts.collect();
            if !puts.is_empty() {
                seen.lock().unwrap().push(puts.join(", "));
            }
        }
        Ok(())
    };
    (obey().on(Meddled::new(Arc::new(MemoryStore::new()), ask)), batches)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_execution_is_recorded_with_the_first_claim_or_at_its_end_unless_its_id_was_chosen() {
    let (setup, batches) = watched();
    let host = setup.host().await;
    let check = async |request: Request, expected: &[&str]| {
        execute(&host, request).await.result.unwrap();
        assert_eq!(std::mem::take(&mut *batches.lock().unwrap()), expected);
    };
    let end = "execution done, step done";
    check(told("user"), &["result running, execution running", "result done", end]).await;
    // Nothing starts.
    check(told("user"), &[end]).await;
    let chosen = |id: &str| told("user").execution_id(ExecutionId::parse(id).unwrap());
    check(chosen("chosen"), &["execution running", end]).await;
    let other = told("other").execution_id(ExecutionId::parse("other").unwrap());
    check(other, &["execution running", "result running", "result done", end]).await;
    let error = host.execute(told("another").execution_id(ExecutionId::parse("chosen").unwrap())).await;
    assert!(matches!(error, Err(RequestError::Conflict { .. })), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_is_recorded_before_it_waits() {
    let (setup, batches) = watched();
    let (host, other) = (setup.host().await, setup.host().await);
    let leader = begin(&host, "user-sleeps-500");
    setup.recorder.until_started("FetchProfile", 1).await;
    let followers = [begin(&host, "user-sleeps-500"), begin(&other, "user-sleeps-500")];
    tokio::time::sleep(Duration::from_millis(200)).await;
    let recorded = ["result running, execution running", "execution running", "execution running"];
    assert_eq!(*batches.lock().unwrap(), recorded);
    for task in std::iter::once(leader).chain(followers) {
        ended(task).await.result.unwrap();
    }
    assert_eq!(setup.starts("FetchProfile"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_execution_that_is_stopped_before_anything_started_can_be_resumed() {
    let away = Arc::new(AtomicBool::new(true));
    let is_away = Arc::clone(&away);
    let ask = move |call: StoreCall<'_>| match call {
        StoreCall::Get(Kind::Result) if is_away.load(Ordering::SeqCst) => Err(unavailable()),
        _ => Ok(()),
    };
    let setup = obey().on(Meddled::new(Arc::new(MemoryStore::new()), ask));
    let host = setup.host().await;
    let mut execution = host.start(told("user")).unwrap();
    let (id, canceller) = (execution.id().clone(), execution.canceller());
    let stopped = tokio::spawn(execution.outcome());
    tokio::time::sleep(Duration::from_millis(100)).await;
    canceller.cancel();
    let outcome = ended(tokio::spawn(async { stopped.await.unwrap().unwrap() })).await;
    assert_eq!(outcome.report.outcome, ExecutionOutcome::Cancelled);
    assert_eq!(setup.starts("FetchProfile"), 0);
    away.store(false, Ordering::SeqCst);
    let resumed = host.resume(id).outcome().await.unwrap();
    assert_eq!(resumed.report.steps[0].outcome, StepOutcome::Done);
    assert_eq!(setup.starts("FetchProfile"), 1);
}
