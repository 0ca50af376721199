//! Processes of one machine that are killed at their work: nobody waits for their leases, which would be
//! longer than any of these tests. Those that live are left what they are at.

use docket_tests::program::{Modules, Running};
use docket_tests::stores::{Backend, Place};
use serde_json::Value;

/// A step whose answer tells its attempt, and a lease that no test outlasts.
fn modules() -> Modules {
    let config = "[store]\nlease = \"30m\"\n[step.FetchProfile]\npersistence = { scope = \"global\" }\n";
    Modules::new("obey", config)
}

/// Starts an execution whose step takes so many milliseconds.
fn run(modules: &Modules, place: &Place, id: &str, naps: u32) -> Running {
    let input = format!(r#"{{"id":"{id}-naps-{naps}"}}"#);
    same(modules, place, id, &input)
}

fn same(modules: &Modules, place: &Place, id: &str, input: &str) -> Running {
    let args = ["run", "-v", "-v", "--execution-id", id, "--input", input];
    Running::start(&mut modules.command(&place.url, args))
}

/// Starts an execution, and returns it at work.
fn at_work(modules: &Modules, place: &Place, id: &str, naps: u32) -> Running {
    let mut running = run(modules, place, id, naps);
    assert!(running.says("attempt 1 started"), "{id}");
    running
}

/// Waits for an end that is good, and checks which attempt gave the answer.
#[track_caller]
fn check_attempt(running: Running, attempt: u32) {
    let ended = running.ended();
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let answer: Value = serde_json::from_str(&ended.out).unwrap();
    let name = answer["name"].as_str().unwrap();
    assert!(name.split(' ').any(|word| word == format!("attempt={attempt}")), "{name}");
}

/// Returns how the store says that an execution stands.
fn status(modules: &Modules, place: &Place, id: &str) -> String {
    let shown = modules.command(&place.url, ["executions", "show", id, "--format", "json"]).output().unwrap();
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    shown["status"].as_str().unwrap().to_owned()
}

fn resume(modules: &Modules, place: &Place, id: &str) -> Running {
    Running::start(&mut modules.command(&place.url, ["resume", id]))
}

#[test]
fn what_a_killed_process_was_at_is_free_at_once() {
    for backend in [Backend::Sqlite, Backend::Sled] {
        let (modules, place) = (modules(), backend.place());
        at_work(&modules, &place, "killed", 1000).killed();
        assert_eq!(status(&modules, &place, "killed"), "interrupted", "{backend:?}");
        check_attempt(resume(&modules, &place, "killed"), 2);
        // And its claim on a key, for another execution.
        at_work(&modules, &place, "again", 1000).killed();
        check_attempt(same(&modules, &place, "other", r#"{"id":"again-naps-1000"}"#), 1);
    }
}

#[test]
fn who_waits_for_a_process_that_is_killed_goes_on_at_once() {
    let (modules, place) = (modules(), Backend::Sqlite.place());
    let first = at_work(&modules, &place, "same", 2000);
    let mut second = run(&modules, &place, "same", 2000);
    let other = same(&modules, &place, "other", r#"{"id":"same-naps-2000"}"#);
    assert!(second.says("another process carries execution `same` out; waiting until it ends"));
    first.killed();
    let (second, other) = (second.ended(), other.ended());
    assert_eq!((second.code, other.code), (Some(0), Some(0)), "{second:#?}{other:#?}");
    assert_eq!(second.out, other.out, "one of them has made it");
}

/// The holder of a sled store and one that goes through it, each killed while the other lives.
#[test]
fn of_two_on_a_sled_store_the_one_that_lives_is_left_its_work() {
    let (modules, place) = (modules(), Backend::Sled.place());
    let holder = at_work(&modules, &place, "holder", 50_000);
    let through = at_work(&modules, &place, "through", 1000);
    through.killed();
    assert_eq!(status(&modules, &place, "through"), "interrupted");
    assert_eq!(status(&modules, &place, "holder"), "running");
    check_attempt(resume(&modules, &place, "through"), 2);

    let through = at_work(&modules, &place, "next", 8000);
    holder.killed();
    assert_eq!(status(&modules, &place, "holder"), "interrupted");
    assert_eq!(status(&modules, &place, "next"), "running");
    let waits = run(&modules, &place, "next", 8000);
    check_attempt(through, 1);
    check_attempt(waits, 1);
}

#[test]
fn a_process_that_is_stopped_is_not_taken_for_dead() {
    let (modules, place) = (modules(), Backend::Sqlite.place());
    let first = at_work(&modules, &place, "stopped", 1000);
    first.signal("STOP");
    let mut second = run(&modules, &place, "stopped", 1000);
    assert!(second.says("another process carries execution `stopped` out"));
    assert_eq!(status(&modules, &place, "stopped"), "running");
    first.signal("CONT");
    check_attempt(first, 1);
    check_attempt(second, 1);
}
