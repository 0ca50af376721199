//! Many callers of many processes for one key, and a leader that is paused for longer than its lease: one
//! start, one result, and everybody gets it.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use docket_runtime::{Event, ExecutionId, Host, HostOptions, Observer, Request};
use docket_store::{StoreUrl, WhenHeld};
use docket_tests::program::{Modules, Running};
use docket_tests::stores::{Backend, Place, records};
use docket_tests::{example, fixture, options};
use serde_json::Value;

const PROCESSES: usize = 8;
const CALLERS: usize = 12;

/// Where a child learns which store it is to use.
const STORE: &str = "DOCKET_TEST_RACED_STORE";

/// Counts the starts of a step.
#[derive(Default)]
struct Starts(AtomicUsize);

impl Observer for Starts {
    fn on_event(&self, _: &ExecutionId, event: &Event<'_>) {
        if let Event::Output { step, line, .. } = event
            && step.as_str() == "One"
            && line.starts_with("starts ")
        {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// One of the processes: many callers ask one host for the same, and print what they got.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it is a child of the tests that race"]
async fn race() {
    let url = std::env::var_os(STORE).expect("its parent names a store").into_string().unwrap();
    let starts = Arc::new(Starts::default());
    let open = move || {
        let url = StoreUrl::parse(&url).expect("its parent names a store");
        async move {
            let opened = docket_store::open(&url, WhenHeld::Attach).await?;
            let store = Arc::clone(&opened.store);
            // Whoever holds sled serves it to the others for as long as the process lives.
            std::mem::forget(opened);
            Ok(store)
        }
    };
    let lasting = HostOptions { lease: Duration::from_secs(5), ..options() };
    let builder = Host::builder().options(lasting).module("chain.wasm", fixture("chain"));
    let host = builder.observer(starts.clone()).open_store(open).build().await.unwrap();
    let user = example::UserId { id: "sleeps-300".into() };
    let request = || Request::for_labeled::<example::UserProfile>("1").input(&user);
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let (host, request) = (host.clone(), request());
        callers.spawn(async move { host.execute(request).await.unwrap().result.unwrap() });
    }
    // Where tests run one by one, the line that names this one is still open.
    println!();
    while let Some(answer) = callers.join_next().await {
        println!("answer {:?}", answer.unwrap().payloads()[0].bytes());
    }
    println!("starts {}", starts.0.load(Ordering::Relaxed));
    let _ = host.shutdown(Duration::from_secs(5)).await;
}

fn one_start(backend: Backend) {
    let place = backend.place();
    let me = std::env::current_exe().unwrap();
    let child = || {
        let mut command = Command::new(&me);
        command.args(["--exact", "racing::race", "--ignored", "--nocapture"]).env(STORE, &place.url);
        Running::start(&mut command)
    };
    let children: Vec<_> = (0..PROCESSES).map(|_| child()).collect();
    let ended: Vec<_> = children.into_iter().map(Running::ended).collect();
    let said: Vec<&str> = ended.iter().flat_map(|ended| ended.out.lines()).collect();
    assert!(ended.iter().all(|ended| ended.code == Some(0)), "{backend:?}: {ended:#?}");
    let mut answers: Vec<_> = said.iter().filter(|line| line.starts_with("answer ")).collect();
    assert_eq!(answers.len(), PROCESSES * CALLERS, "{backend:?}");
    answers.dedup();
    assert_eq!(answers.len(), 1, "{backend:?}: all get the same answer");
    let starts: usize = said
        .iter()
        .filter_map(|line| line.strip_prefix("starts "))
        .map(|count| count.parse::<usize>().unwrap())
        .sum();
    assert_eq!(starts, 1, "{backend:?}");
    let store = records(&place.url);
    let results: Vec<_> = store.values().filter(|record| record["kind"] == "result").collect();
    assert_eq!(results.len(), 1, "{backend:?}");
    assert_eq!((&results[0]["status"], &results[0]["attempts"]), (&"done".into(), &1.into()), "{backend:?}");
}

#[test]
fn a_hundred_callers_of_eight_processes_are_one_start_on_sqlite() {
    one_start(Backend::Sqlite);
}

#[test]
fn a_hundred_callers_of_eight_processes_are_one_start_on_postgres() {
    one_start(Backend::Postgres);
}

#[test]
fn a_hundred_callers_of_eight_processes_are_one_start_on_mysql() {
    one_start(Backend::Mysql);
}

#[test]
fn a_hundred_callers_of_eight_processes_are_one_start_on_redis() {
    one_start(Backend::Redis);
}

/// A step that takes longer than its process may be paused, and whose answer tells its attempt and when its
/// execution began: no two executions give the same.
fn napping() -> Modules {
    let config = "[store]\nlease = \"1s\"\n[step.FetchProfile]\npersistence = { scope = \"global\" }\n";
    Modules::new("obey", config)
}

fn run(modules: &Modules, place: &Place, id: &str) -> Running {
    let args = ["run", "-v", "-v", "--execution-id", id, "--input", r#"{"id":"naps-3000"}"#];
    Running::start(&mut modules.command(&place.url, args))
}

/// Returns what the answer tells: the attempt that made it.
fn attempt(result: &str) -> String {
    let result: Value = serde_json::from_str(result).unwrap_or_else(|error| panic!("{error}: `{result}`"));
    let name = result["name"].as_str().unwrap().to_owned();
    name.split(' ').find_map(|word| word.strip_prefix("attempt=")).unwrap().to_owned()
}

fn paused_leader(backend: Backend) {
    let (modules, place) = (napping(), backend.place());
    let mut first = run(&modules, &place, "first");
    assert!(first.says("attempt 1 started"), "{backend:?}");
    first.signal("STOP");
    let second = run(&modules, &place, "second").ended();
    assert_eq!(second.code, Some(0), "{backend:?}: {}", second.err);
    assert!(second.err.contains("FetchProfile: attempt 1 started"), "{backend:?}: {}", second.err);
    first.signal("CONT");
    let first = first.ended();
    assert_eq!(first.code, Some(0), "{backend:?}: {}", first.err);
    assert!(first.err.contains("lost its lease to another process"), "{backend:?}: {}", first.err);
    assert_eq!(
        first.out, second.out,
        "{backend:?}: who was paused ends with the other's answer: {}",
        first.err
    );
    let store = records(&place.url);
    let results: Vec<_> = store.values().filter(|record| record["kind"] == "result").collect();
    assert_eq!(results.len(), 1, "{backend:?}");
    assert_eq!(
        (&results[0]["status"], &results[0]["execution"]),
        (&"done".into(), &"second".into()),
        "{backend:?}"
    );
}

#[test]
fn a_leader_that_was_paused_past_its_lease_ends_with_its_successors_result() {
    for backend in [Backend::Sqlite, Backend::Postgres, Backend::Mysql, Backend::Redis] {
        paused_leader(backend);
    }
}

/// The same id in two processes is one execution: the second takes it over from the first.
#[test]
fn an_execution_that_was_paused_past_its_lease_is_carried_out_once() {
    for backend in [Backend::Sqlite, Backend::Postgres] {
        let (modules, place) = (napping(), backend.place());
        let mut first = run(&modules, &place, "same");
        assert!(first.says("attempt 1 started"));
        first.signal("STOP");
        let second = run(&modules, &place, "same").ended();
        assert_eq!(second.code, Some(0), "{backend:?}: {}", second.err);
        assert_eq!(attempt(&second.out), "2", "{backend:?}");
        first.signal("CONT");
        let first = first.ended();
        // Whether it is told the result or that it was left behind, it changes nothing.
        assert!(first.code == Some(1) || first.out == second.out, "{backend:?}: {first:?}");
        let again = run(&modules, &place, "same").ended();
        assert_eq!((again.code, again.out), (Some(0), second.out), "{backend:?}: {}", again.err);
    }
}

#[test]
fn who_waits_for_another_process_is_told() {
    let seen = "; waiting until it ends";
    let unseen = ", or has died at it; waiting until it ends or its lease lapses";
    for (backend, told) in [(Backend::Sqlite, seen), (Backend::Postgres, unseen)] {
        told_of_another(backend, told);
    }
}

/// A step that waits for long says so, once, however many do.
#[test]
fn a_step_that_waits_for_another_process_says_so() {
    let (modules, place) = (napping(), Backend::Redis.place());
    let sleeps = |id: &str| {
        let args = ["run", "-v", "-v", "--execution-id", id, "--input", r#"{"id":"naps-6000"}"#];
        Running::start(&mut modules.command(&place.url, args))
    };
    let mut first = sleeps("one");
    assert!(first.says("attempt 1 started"));
    let second = sleeps("other").ended();
    let told = "warning: step `FetchProfile` waits for execution `one` of another process, which makes the same, \
                or has died at it; until that ends or its lease lapses\n";
    assert_eq!(second.err.matches(told).count(), 1, "{}", second.err);
    assert_eq!((second.code, second.out), (Some(0), first.ended().out));
}

fn told_of_another(backend: Backend, told: &str) {
    let (modules, place, dir) = (napping(), backend.place(), tempfile::tempdir().unwrap());
    let items = dir.path().join("items.jsonl");
    std::fs::write(&items, "{\"id\":\"naps-2500\"}\n").unwrap();
    let items = items.to_string_lossy();
    let batch = || {
        let args = ["batch", "-v", "-v", "--execution-id", "many", "--items", &items];
        Running::start(&mut modules.command(&place.url, args))
    };
    check_told("same", told, || run(&modules, &place, "same"));
    check_told("many", told, batch);
}

/// Starts the same twice, and checks that the second is told why it waits, and ends as the first does.
#[track_caller]
fn check_told(id: &str, told: &str, start: impl Fn() -> Running) {
    let mut first = start();
    assert!(first.says("attempt 1 started"));
    let second = start().ended();
    let told = format!("another process carries execution `{id}` out{told}\n");
    assert_eq!(second.err.matches(&told).count(), 1, "{}", second.err);
    assert_eq!((second.code, second.out), (Some(0), first.ended().out));
}
