//! Random graphs of steps that fail, trap, time out, abort and sleep, retried, stopped and cancelled, on the
//! real runtime: what is reported agrees with a simple reference.
//!
//! `DOCKET_SEED=N` repeats the cases of a run, `DOCKET_TORTURE=1` draws many new ones.

#![expect(clippy::disallowed_methods, reason = "tests wait in real time, and are told by the environment")]
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod case;
mod reference;

use std::sync::atomic::{AtomicUsize, Ordering};

use docket_graph::{Port, StepName};
use docket_runtime::{Artifacts, ExecutionError, Host, HostOptions, Outcome, Request};
use docket_tests::example::{UserId, UserProfile};
use docket_tests::{fixture, options, patched};
use futures_util::future::join_all;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestError, TestRunner};
use prost::Message as _;

use case::{Case, Stop, Told, cases};
use reference::{Allowed, Ending};

/// Executions of one graph at once: they mostly wait.
const AT_ONCE: usize = 10;

/// How often an execution is tried on a machine that was too busy to be judged.
const TRIES: usize = 5;

/// The seed of every run that is not told another: what fails on one machine fails on all.
const SEED: u64 = 20_261_121;

/// What the cases were like, so that a test of nothing is seen.
#[derive(Default, Debug)]
struct Tally {
    executions: AtomicUsize,
    /// Those that could end in one way only.
    certain: AtomicUsize,
    done: AtomicUsize,
    failed: AtomicUsize,
    aborted: AtomicUsize,
    stopped: AtomicUsize,
    /// Tried again because the machine was late.
    again: AtomicUsize,
}

impl Tally {
    fn add(&self, ending: Ending, certain: bool) {
        count(&self.executions);
        if certain {
            count(&self.certain);
        }
        count(match ending {
            Ending::Done => &self.done,
            Ending::Failed { .. } => &self.failed,
            Ending::Aborted { .. } => &self.aborted,
            Ending::Stopped(_) => &self.stopped,
        });
    }
}

fn count(counter: &AtomicUsize) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn whatever_steps_do_the_report_is_one_that_the_reference_allows() {
    let torture = std::env::var_os("DOCKET_TORTURE").is_some();
    let given = std::env::var("DOCKET_SEED").ok().map(|text| text.parse().expect("DOCKET_SEED is a number"));
    let drawn = || if torture { rand_seed() } else { SEED };
    let seed = given.unwrap_or_else(drawn);
    println!("DOCKET_SEED={seed}");
    let config = Config {
        cases: if torture { 1_000 } else { 30 },
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed),
        max_shrink_iters: 200,
        ..Config::default()
    };
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let tally = Tally::default();
    let run = TestRunner::new(config).run(&cases(AT_ONCE), |case| {
        let faults = tokio.block_on(faults(&case, &tally));
        prop_assert!(faults.is_empty(), "{}", faults.join("\n"));
        Ok(())
    });
    println!("{tally:?}");
    match run {
        Ok(()) => {}
        Err(TestError::Fail(reason, case)) => {
            panic!("seed {seed}: {reason}\ngraph {}\n{case:#?}", case.graph())
        }
        Err(TestError::Abort(reason)) => panic!("seed {seed}: {reason}"),
    }
    for (kind, counter, least) in [
        ("certain", &tally.certain, 3),
        ("done", &tally.done, 10),
        ("failed", &tally.failed, 10),
        ("aborted", &tally.aborted, 100),
        ("stopped", &tally.stopped, 20),
    ] {
        let (all, of_kind) = (tally.executions.load(Ordering::Relaxed), counter.load(Ordering::Relaxed));
        assert!(of_kind * least >= all, "{of_kind} of {all} executions are {kind}");
    }
}

/// Returns a seed that nobody has chosen.
fn rand_seed() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// Carries out all executions of a case at once, and returns what cannot be.
async fn faults(case: &Case, tally: &Tally) -> Vec<String> {
    let base = HostOptions { artifacts: Artifacts::Nowhere, max_instances: 256, ..options() };
    let module = component(&case.graph());
    let host = Host::builder().options(case.options(base)).module("scripted.wasm", module).build().await;
    let host = host.unwrap_or_else(|error| panic!("{}: {error}", case.graph()));
    let judged = join_all(case.executions.iter().map(|told| judged(&host, case, told, tally))).await;
    assert_eq!(host.executions(), 0, "an execution outlives its outcome");
    judged.into_iter().flatten().collect()
}

/// Returns the fixture with this graph.
fn component(graph: &str) -> Vec<u8> {
    let component = fixture("scripted");
    let start = "example.v1.UserProfile#first<;example.v1.UserProfile<0;";
    let at = component.windows(start.len()).position(|seen| seen == start.as_bytes()).expect("a graph");
    let room = component[at + start.len()..].iter().take_while(|byte| **byte == b'#').count();
    let place = format!("{start}{}", "#".repeat(room));
    patched(&component, &place, &format!("{graph:#<width$}", width = place.len()))
}

/// Carries out one execution, and returns what cannot be of it. Where the machine was too busy to be judged, it
/// is carried out again.
async fn judged(host: &Host, case: &Case, told: &Told, tally: &Tally) -> Vec<String> {
    let allowed = Allowed::of(case, told);
    for left in (0..TRIES).rev() {
        let outcome = carried_out(host, told, &case.steps[told.target].output).await;
        let ending = ending(&outcome);
        let late = allowed.was_late(&outcome.report);
        let mut faults = allowed.faults(ending, &outcome.report);
        if let (Ending::Done, Ok(value)) = (ending, &outcome.result) {
            let profile = UserProfile::decode(&value.payloads()[0].bytes()[..]).unwrap();
            let right = answer(case, told.target);
            if profile.name != right {
                faults.push(format!("the answer is {}, not {right}", profile.name));
            }
        }
        if !faults.is_empty() && late && left > 0 {
            count(&tally.again);
            continue;
        }
        tally.add(ending, allowed.is_certain());
        return faults.into_iter().map(|fault| format!("told {}: {fault}", told.script())).collect();
    }
    unreachable!("the last try returns")
}

async fn carried_out(host: &Host, told: &Told, target: &str) -> Outcome {
    let request = Request::new(Port::parse(target).unwrap()).input(&UserId { id: told.script() });
    let (request, cancel) = match told.stop {
        Some((Stop::Deadline, after)) => (request.timeout(after), None),
        Some((Stop::Cancel, after)) => (request, Some(after)),
        None => (request, None),
    };
    let mut execution = host.start(request).unwrap();
    let canceller = execution.canceller();
    let cancel = async {
        if let Some(after) = cancel {
            tokio::time::sleep(after).await;
            canceller.cancel();
        }
    };
    tokio::join!(execution.outcome(), cancel).0.unwrap()
}

fn ending(outcome: &Outcome) -> Ending {
    let index = |step: &StepName| step.as_str()[1..].parse().unwrap();
    match &outcome.result {
        Ok(_) => Ending::Done,
        Err(ExecutionError::Failed { step, attempts, source, .. }) => {
            Ending::Failed { root: index(step), class: source.class(), attempts: *attempts }
        }
        Err(ExecutionError::Aborted { step, .. }) => Ending::Aborted { root: index(step) },
        Err(ExecutionError::Deadline { .. }) => Ending::Stopped(Stop::Deadline),
        Err(ExecutionError::Cancelled) => Ending::Stopped(Stop::Cancel),
        Err(other) => panic!("{other}"),
    }
}

/// Returns what the fixture answers when every step has given what it was given: its name and a hash of that.
fn answer(case: &Case, step: usize) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for (need, _) in &case.steps[step].needs {
        let message = UserProfile { name: answer(case, *need), email: String::new() }.encode_to_vec();
        for byte in message {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("S{step}:{hash:016x}")
}
