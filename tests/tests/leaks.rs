//! What must not grow: threads, open files, memory maps and used-up instances, over many executions
//! and many hosts. One test, because it counts what the whole process has.

#![expect(clippy::disallowed_methods, reason = "tests wait")]
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use docket_runtime::{HostOptions, StepOptions};
use docket_tests::{execute, host_with, options, profile_request};

/// How many of each the process has now.
#[derive(Debug)]
struct Counts {
    files: usize,
    maps: usize,
    threads: usize,
}

impl Counts {
    fn now() -> Self {
        Counts {
            files: fs::read_dir("/proc/self/fd").unwrap().count(),
            maps: fs::read_to_string("/proc/self/maps").unwrap().lines().count(),
            threads: fs::read_dir("/proc/self/task").unwrap().count(),
        }
    }
}

/// Returns how many threads drive epochs.
fn tickers() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.filter(|name| name.trim() == "docket-epoch").count()
}

/// Waits until so many threads drive epochs: a new thread takes its name only once it runs.
async fn settles_at(threads: usize) {
    for _ in 0..500 {
        if tickers() == threads {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} threads drive epochs, not {threads}", tickers());
}

async fn epoch_threads_end_with_the_last_clone_of_their_host() {
    settles_at(0).await;
    let plain = host_with(&["good"], options()).await.unwrap();
    settles_at(1).await;
    let fuel = StepOptions { fuel: Some(100_000_000), ..StepOptions::default() };
    let steps = BTreeMap::from([("FetchProfile".to_owned(), fuel)]);
    // A host whose steps have budgets has a second engine.
    let metered = host_with(&["good"], HostOptions { steps, ..options() }).await.unwrap();
    settles_at(3).await;
    let clone = plain.clone();
    drop(plain);
    settles_at(3).await;
    execute(&clone, profile_request()).await.result.unwrap();
    drop(clone);
    settles_at(2).await;
    let _ = metered.shutdown(Duration::from_secs(1)).await;
    settles_at(0).await;
}

/// A pool of two, so that two instances which are not given back are the end.
async fn executions_leave_nothing_behind() {
    let few = HostOptions { max_instances: 2, lanes: 2, ..options() };
    let diamond = host_with(&["diamond"], few.clone()).await.unwrap();
    let trap = host_with(&["panic"], few.clone()).await.unwrap();
    let sleep = host_with(&["sleep"], few).await.unwrap();
    let mut before = None;
    for round in 0..2_000 {
        if round == 200 {
            before = Some(Counts::now());
        }
        execute(&diamond, profile_request()).await.result.unwrap();
        if round % 4 == 0 {
            execute(&trap, profile_request()).await.result.unwrap_err();
            let left = tokio::time::timeout(Duration::from_millis(1), sleep.execute(profile_request()));
            assert!(left.await.is_err(), "it sleeps for longer");
        }
    }
    let (before, after) = (before.unwrap(), Counts::now());
    assert_eq!(after.files, before.files, "{before:?} {after:?}");
    assert_eq!(after.threads, before.threads, "{before:?} {after:?}");
    assert!(after.maps <= before.maps + 20, "{before:?} {after:?}");
}

async fn hosts_leave_nothing_behind() {
    let mut before = None;
    for round in 0..30 {
        if round == 5 {
            before = Some(Counts::now());
        }
        let host = host_with(&["good"], options()).await.unwrap();
        execute(&host, profile_request()).await.result.unwrap();
    }
    let (before, after) = (before.unwrap(), Counts::now());
    assert_eq!(after.files, before.files, "{before:?} {after:?}");
    assert!(after.maps <= before.maps + 20, "{before:?} {after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_grows_over_many_executions_and_hosts() {
    epoch_threads_end_with_the_last_clone_of_their_host().await;
    let executions = tokio::time::timeout(Duration::from_secs(120), executions_leave_nothing_behind());
    executions.await.expect("an execution waits for an instance that was not given back");
    hosts_leave_nothing_behind().await;
    settles_at(0).await;
}
