//! Graphs on a store that fails now and then: what comes out is what comes out without faults, or an
//! error that names the store.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use docket_graph::{FailureClass, Scope};
use docket_runtime::{ExecutionError, Request, RequestError, StepOutcome};
use docket_store::{
    FaultyStore, Filter, Harm, Kind, MemoryStore, Method, Mishap, Query, Status, Store, When,
};
use docket_tests::{Setup, execute, keeping, told};
use tokio::task::JoinSet;

/// Executions of one round: enough that faults fall on every call that is made.
const EXECUTIONS: u64 = 60;

/// Steps of the two graphs.
const DIAMOND: [&str; 4] = ["Source", "Left", "Right", "Join"];
const BESIDE: [&str; 4] = ["Left", "Middle", "Right", "Together"];

/// Returns hosts' setup over a graph of which some steps keep their results, chosen by the seed.
fn graph(seed: u64) -> (Setup, &'static [&'static str]) {
    let (fixture, steps) = if seed.is_multiple_of(2) { ("diamond", &DIAMOND) } else { ("beside", &BESIDE) };
    let mut setup = Setup::new(&[fixture]).with(|options| options.lease = Duration::from_secs(1));
    // At least one is kept: the bits of 1 to 15.
    let kept = seed / 2 % 15 + 1;
    for (bit, step) in steps.iter().enumerate() {
        if kept >> bit & 1 == 1 {
            let scope = if (seed >> bit) & 4 == 0 { Scope::Global } else { Scope::Workflow };
            setup = setup.step(step, keeping(scope, None));
        }
    }
    (setup, steps)
}

fn faults(seed: u64) -> Vec<Mishap> {
    let harms = [Harm::Refused, Harm::AnswerLost, Harm::RequestLost];
    let often = [0.02, 0.1, 0.3, 0.6][(seed / 3 % 4) as usize];
    let mishap = |(index, method)| Mishap {
        method,
        when: When::Chance(often),
        harm: harms[(seed as usize + index) % harms.len()],
    };
    [Method::Get, Method::Commit].into_iter().enumerate().map(mishap).collect()
}

fn request(seed: u64) -> Request {
    told(&format!("user-{}", seed % 7))
}

async fn results(store: &dyn Store) -> BTreeMap<String, Status> {
    let query = Query::Newest { kind: Kind::Result, filter: Filter::default(), after: None };
    let page = store.scan(&query, 1_000).await.unwrap();
    page.records.into_iter().map(|record| (record.key.to_string(), record.facts.status)).collect()
}

/// Executes on a store with faults, then on the same one without; returns whether the first came through.
async fn check(seed: u64) -> bool {
    let (setup, steps) = graph(seed);
    let expected = execute(&Setup::clone(&setup).on(MemoryStore::new()).host().await, request(seed)).await;
    let expected = expected.result.unwrap().payloads()[0].bytes().clone();
    let below: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let faulty = FaultyStore::over(Arc::clone(&below), seed, faults(seed));
    let host = setup.clone().on(faulty).host().await;
    let came_through = match host.execute(request(seed)).await {
        Ok(outcome) => match outcome.result {
            Ok(value) => {
                assert_eq!(value.payloads()[0].bytes(), &expected, "seed {seed}");
                true
            }
            Err(ExecutionError::Failed { source, .. }) => {
                assert_eq!(source.class(), FailureClass::Store, "seed {seed}: {source}");
                assert!(source.to_string().starts_with("the store failed: "), "seed {seed}: {source}");
                false
            }
            Err(error) => panic!("seed {seed}: {error}"),
        },
        Err(RequestError::Store(_)) => false,
        Err(error) => panic!("seed {seed}: {error}"),
    };
    drop(host);
    let kept = results(&*below).await;
    let healthy = Setup { store: Arc::clone(&below), recorder: docket_tests::Recorder::new(), ..setup };
    let host = healthy.host().await;
    // What the faulty host has left claimed is waited for until its lease has lapsed.
    let outcome = execute(&host, request(seed)).await;
    assert_eq!(outcome.result.as_ref().unwrap().payloads()[0].bytes(), &expected, "seed {seed}");
    for step in steps {
        let report = outcome.report.steps.iter().find(|report| report.step.as_str() == *step).unwrap();
        let was_kept = report.key.as_ref().is_some_and(|key| kept.get(key) == Some(&Status::Done));
        if was_kept {
            assert_eq!(report.outcome, StepOutcome::Cached, "seed {seed}: `{step}` was committed");
        }
    }
    came_through
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_faults_the_outcome_is_the_same_or_a_named_error_and_nothing_committed_runs_again() {
    let mut executions = JoinSet::new();
    for seed in 0..EXECUTIONS {
        executions.spawn(check(seed));
    }
    let came_through = executions.join_all().await.into_iter().filter(|through| *through).count();
    assert!(came_through > 20, "{came_through} of {EXECUTIONS} came through");
    assert!(came_through < EXECUTIONS as usize, "no fault was ever too much");
}
