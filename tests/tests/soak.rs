//! Hostile guests by the thousand beside one that behaves: everything comes back that they were given, and
//! the one that behaves is answered all the while. And faults of the host's own that stay in one execution.
//!
//! `DOCKET_TORTURE=1` makes 100,000 hostile executions of some thousand.

#![expect(clippy::disallowed_methods, reason = "tests measure, spawn and wait in real time")]
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use docket_graph::Scope;
use docket_runtime::{
    BatchRequest, ErrorKind, Event, ExecutionError, ExecutionId, Host, HostOptions, Observer, Request,
    RequestError, StepFailure, StepOptions,
};
use docket_store::{Kind, MemoryStore};
use docket_tests::example::{UserId, UserProfile};
use docket_tests::{
    Meddled, Setup, StoreCall, execute, fixture, host_with, keeping, options, profile_request, told,
};
use futures_util::future::join_all;
use futures_util::stream;
use prost::Message as _;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// Every fixture that misbehaves when it runs, with how often of a hundred it does: those that keep a core
/// or much memory busy are rarer.
const HOSTILE: [(&str, u32); 18] = [
    ("abort", 8),
    ("abort_with_attempts", 8),
    ("allocate", 2),
    ("exit", 8),
    ("exit_zero", 8),
    ("fail_permanently", 8),
    ("fail_with_endless_text", 2),
    ("flood_stdout", 4),
    ("panic", 9),
    ("recurse", 4),
    ("return_100_mib", 2),
    ("return_1_gib", 2),
    ("return_invalid_utf8", 9),
    ("return_undecodable", 9),
    ("return_wrong_arity", 9),
    ("sleep", 3),
    ("sleep_past_timeout", 3),
    ("spin", 2),
];

/// Executions of hostile guests at once.
const AT_ONCE: usize = 24;

/// The most instances of one host: a few that were not given back are the end of it.
const INSTANCES: usize = 6;

/// What the process may have grown by between the first tenth of a run and its end. The pools keep used
/// slots warm, and the allocator keeps what was freed.
const GROWTH: u64 = 96 << 20;

/// No answer for one that behaves takes as long, however busy the machine: time slices are 10 ms.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the process has now.
#[derive(Debug)]
struct Counts {
    files: usize,
    threads: usize,
    resident: u64,
}

impl Counts {
    fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        Counts {
            files: fs::read_dir("/proc/self/fd").unwrap().count(),
            threads: fs::read_dir("/proc/self/task").unwrap().count(),
            resident: kibibytes << 10,
        }
    }
}

fn short() -> HostOptions {
    let defaults = StepOptions {
        timeout: Some(Duration::from_millis(25)),
        memory: Some(16 << 20),
        output: Some(1 << 20),
        logs: Some(10_000),
        ..StepOptions::default()
    };
    HostOptions { defaults, max_instances: INSTANCES, lanes: 1, ..options() }
}

/// Numbers that look random and are the same in every run (SplitMix64).
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Makes one hostile execution, which ends by itself, by a deadline, or by being left.
async fn hostile(host: Host, name: &str, number: u64) {
    let request = match number % 5 {
        0 => profile_request().timeout(Duration::from_millis(number % 17)),
        _ => profile_request(),
    };
    if number % 5 == 1 {
        let left = tokio::time::timeout(Duration::from_micros(number % 9_000), host.execute(request)).await;
        return assert!(left.is_err() || left.unwrap().unwrap().result.is_err(), "{name} gave an answer");
    }
    let outcome = execute(&host, request).await;
    let internal =
        matches!(&outcome.result, Err(ExecutionError::Failed { source: StepFailure::Internal(_), .. }));
    assert!(outcome.result.is_err() && !internal, "{name}: {outcome:?}");
}

/// Answers for one that behaves, one after the other; returns how long each took.
async fn well_behaved(host: Host, over: Arc<AtomicBool>) -> Vec<Duration> {
    let mut took = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let began = Instant::now();
        execute(&host, profile_request()).await.result.unwrap();
        took.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    took
}

/// Returns the median and the 99th percentile.
fn percentiles(mut took: Vec<Duration>) -> (Duration, Duration) {
    took.sort();
    (took[took.len() / 2], took[took.len() * 99 / 100])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_guests_leave_nothing_behind_and_do_not_stop_one_that_behaves() {
    let all = if std::env::var_os("DOCKET_TORTURE").is_some() { 100_000 } else { 20_000 };
    let mut hosts = Vec::new();
    for (name, share) in HOSTILE {
        let host = host_with(&[name], short()).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        hosts.extend((0..share).map(|_| (name, host.clone())));
    }
    assert_eq!(hosts.len(), 100);
    let good = host_with(&["good"], options()).await.unwrap();

    let over = Arc::new(AtomicBool::new(false));
    let alone = tokio::spawn(well_behaved(good.clone(), Arc::clone(&over)));
    tokio::time::sleep(Duration::from_secs(2)).await;
    over.store(true, Ordering::Relaxed);
    let alone = percentiles(alone.await.unwrap());

    let over = Arc::new(AtomicBool::new(false));
    let beside = tokio::spawn(well_behaved(good.clone(), Arc::clone(&over)));
    let mut running = JoinSet::new();
    let (mut before, mut most, began) = (None, 0, Instant::now());
    for number in 0..all {
        let (name, host) = hosts[(mixed(number) % 100) as usize].clone();
        running.spawn(async move { hostile(host, name, mixed(number + all)).await });
        while running.len() >= AT_ONCE {
            let ended = tokio::time::timeout(Duration::from_secs(60), running.join_next()).await;
            ended.expect("an execution hangs").unwrap().unwrap();
        }
        if number == all / 10 {
            before = Some(Counts::now());
        } else if number > all / 10 && number % 100 == 0 {
            most = most.max(Counts::now().resident);
        }
    }
    while let Some(joined) = running.join_next().await {
        joined.unwrap();
    }
    let took = began.elapsed();
    over.store(true, Ordering::Relaxed);
    let beside = percentiles(beside.await.unwrap());

    let (before, after) = (before.unwrap(), Counts::now());
    println!(
        "{all} hostile executions in {took:.1?}; {before:?} {after:?}, at most {} MiB resident",
        most >> 20
    );
    println!("one that behaves, p50 and p99: alone {alone:.1?}, beside them {beside:.1?}");
    for (name, host) in &hosts {
        assert_eq!(host.executions(), 0, "{name}");
    }
    no_task_is_left().await;
    assert_eq!(after.files, before.files);
    assert_eq!(after.threads, before.threads);
    assert!(after.resident < before.resident + GROWTH, "{before:?} {after:?}");
    assert!(beside.1 < PATIENCE, "{beside:?}");
    every_instance_is_given_back(&hosts).await;
}

/// Waits for the last tasks to be put away: whoever joins one is told a moment before that.
async fn no_task_is_left() {
    let alive = || Handle::current().metrics().num_alive_tasks();
    for _ in 0..100 {
        if alive() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} tasks are left", alive());
}

/// Has each host use its instances once more, and one all of them at once: each of its guests sleeps for 200 ms,
/// and none is to wait for another to end.
async fn every_instance_is_given_back(hosts: &[(&'static str, Host)]) {
    let mut running = JoinSet::new();
    for (name, host) in hosts.iter().flat_map(|host| std::iter::repeat_n(host, INSTANCES)) {
        running.spawn(hostile(host.clone(), name, 2));
    }
    let all = tokio::time::timeout(Duration::from_secs(60), running.join_all()).await;
    all.expect("an instance is missing");
    let (_, host) = hosts.iter().find(|(name, _)| *name == "sleep_past_timeout").unwrap();
    let at_once = join_all((0..INSTANCES).map(|_| execute(host, profile_request()))).await;
    for outcome in at_once {
        let began = outcome.report.steps[0].attempts[0].started_after;
        assert!(began < Duration::from_millis(180), "an instance is missing: one began after {began:?}");
    }
}

/// Panics at every so many-th event of the executions that are said to have bad luck.
struct Clumsy {
    every: u64,
    events: AtomicU64,
}

impl Observer for Clumsy {
    fn on_event(&self, execution: &ExecutionId, _: &Event<'_>) {
        let unlucky = execution.as_str().starts_with("unlucky");
        if unlucky && self.events.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.every) {
            panic!("an observer's fault");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_observer_that_panics_changes_no_execution() {
    for every in [1, 2, 5] {
        let clumsy = Arc::new(Clumsy { every, events: AtomicU64::new(0) });
        let few = HostOptions { max_instances: 3, lanes: 2, ..options() };
        let host = Host::builder().options(few).observer(clumsy.clone());
        let host = host.module("diamond.wasm", fixture("diamond")).build().await.unwrap();
        let mut running = JoinSet::new();
        for number in 0..40 {
            let luck = if number % 2 == 0 { "unlucky" } else { "lucky" };
            let id = ExecutionId::parse(&format!("{luck}-{number}")).unwrap();
            let host = host.clone();
            running.spawn(async move { execute(&host, profile_request().execution_id(id)).await.result });
        }
        let all = tokio::time::timeout(Duration::from_secs(30), running.join_all()).await;
        for result in all.expect("an execution hangs") {
            result.unwrap();
        }
        assert!(clumsy.events.load(Ordering::Relaxed) > 100, "it was told");
        assert_eq!(host.executions(), 0);
    }
}

/// Requests of which each two make the same work.
fn shared_request(number: u64) -> Request {
    told(&format!("user-{}", number / 2))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_panics_fails_the_executions_that_it_panics_in_and_no_others() {
    let panics = Arc::new(AtomicBool::new(true));
    let calls = AtomicU64::new(0);
    let asked = Arc::clone(&panics);
    let store = Meddled::new(Arc::new(MemoryStore::new()), move |_| {
        let number = calls.fetch_add(1, Ordering::Relaxed);
        if asked.load(Ordering::Relaxed) && mixed(number).is_multiple_of(6) {
            panic!("a store's fault");
        }
        Ok(())
    });
    let setup = Setup::new(&["diamond"])
        .on(store)
        .step("Left", keeping(Scope::Global, None))
        .step("Join", keeping(Scope::Workflow, None))
        .with(|options| {
            options.max_instances = 3;
            options.lease = Duration::from_secs(1);
        });
    let host = setup.host().await;
    let run = |number: u64, name: &'static str| {
        let host = host.clone();
        let id = ExecutionId::parse(&format!("{name}-{number}")).unwrap();
        tokio::spawn(async move { host.execute(shared_request(number).execution_id(id)).await })
    };
    let unlucky: Vec<_> = (0..60).map(|number| run(number, "unlucky")).collect();
    let mut failed = 0;
    for execution in unlucky {
        let ended = tokio::time::timeout(Duration::from_secs(30), execution).await;
        match ended.expect("an execution hangs").expect("a panic stays inside") {
            Ok(outcome) => failed += usize::from(outcome.result.is_err()),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
                failed += 1;
            }
        }
    }
    assert!((10..60).contains(&failed), "{failed} of 60 failed");
    panics.store(false, Ordering::Relaxed);
    // Those that were broken off have the failures of their steps on record, or are gone on with.
    for execution in (0..60).map(|number| run(number, "lucky")).collect::<Vec<_>>() {
        let joined = tokio::time::timeout(Duration::from_secs(30), execution).await;
        joined.expect("an execution hangs").unwrap().unwrap().result.unwrap();
    }
    assert_eq!(host.executions(), 0);
}

/// Returns a host of one kept step, on a store that panics at these calls once the switch is set.
async fn on_a_store_that_panics(at: fn(StoreCall<'_>) -> bool) -> (Host, Arc<AtomicBool>) {
    let panics = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&panics);
    let store = Meddled::new(Arc::new(MemoryStore::new()), move |call| {
        assert!(!(asked.load(Ordering::Relaxed) && at(call)), "a store's fault");
        Ok(())
    });
    let setup = Setup::new(&["good"]).on(store).step("FetchProfile", keeping(Scope::Global, None));
    (setup.host().await, panics)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_the_turn_of_a_step_is_that_steps_failure() {
    let at = |call: StoreCall<'_>| matches!(call, StoreCall::Get(Kind::Result));
    let (host, panics) = on_a_store_that_panics(at).await;
    panics.store(true, Ordering::Relaxed);
    let result = execute(&host, told("user-1")).await.result;
    let Err(ExecutionError::Failed { step, source: StepFailure::Internal(said), .. }) = &result else {
        panic!("{result:?}")
    };
    assert_eq!((step.as_str(), said.as_str()), ("FetchProfile", "a store's fault"));
    panics.store(false, Ordering::Relaxed);
    execute(&host, told("user-2")).await.result.unwrap();
    assert_eq!(host.executions(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_panics_fails_the_batch_that_it_panics_in_and_no_other() {
    let (host, panics) = on_a_store_that_panics(|_| true).await;
    let run = async |user: &str| {
        let item = UserId { id: user.to_owned() }.encode_to_vec();
        let request = BatchRequest::new(Request::for_message::<UserProfile>());
        let mut batch = host.batch(request, stream::iter([Ok(item.into())])).unwrap();
        let items = async {
            let mut items = 0;
            while batch.next().await.is_some() {
                items += 1;
            }
            items
        };
        let items = tokio::time::timeout(Duration::from_secs(30), items).await.expect("a batch hangs");
        (items, batch.outcome().await)
    };
    panics.store(true, Ordering::Relaxed);
    let (items, ended) = run("user-1").await;
    let Err(RequestError::Internal(said)) = ended else { panic!("{ended:?}") };
    assert_eq!((items, said.as_str()), (0, "a store's fault"));
    panics.store(false, Ordering::Relaxed);
    let (items, ended) = run("user-2").await;
    assert_eq!(items, 1);
    ended.unwrap();
    assert_eq!(host.executions(), 0);
}
