//! A sled store that one process holds and others go through: what these say where the holder does not
//! answer, or ends before them.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use docket_tests::program::{Ended, Modules, Running, command};
use docket_tests::stores::{Backend, Place};
use serde_json::Value;

/// Longer than a silence before it is spoken of, on a machine that is busy, and then a greeting may take; shorter than
/// a lease.
const LONG: Duration = Duration::from_secs(12);

fn run(modules: &Modules, place: &Place, told: &str) -> Running {
    let input = format!(r#"{{"id":"{told}"}}"#);
    let args = ["run", "-v", "--execution-id", told, "--input", &input];
    Running::start(&mut modules.command(&place.url, args))
}

/// Starts a process that does this in each of five steps, and returns it with its number, once it holds the store.
fn holder(modules: &Modules, place: &Place, told: &str) -> (Running, u64) {
    let mut holder = run(modules, place, told);
    assert!(holder.says("One: starts"));
    let note = fs::read(place.dir().join("store/docket.json")).unwrap();
    let note: Value = serde_json::from_slice(&note).unwrap();
    (holder, note["pid"].as_u64().unwrap())
}

#[track_caller]
fn check_done(ended: &Ended, told: &str) {
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert!(ended.out.contains(told), "{ended:#?}");
}

/// Has the holder stand still for so long that the other says so and waits on, and checks that both come to their ends.
#[track_caller]
fn check_silence(holder: (Running, u64), held: &str, other: Running, shown: &str) {
    let (holder, pid) = holder;
    thread::sleep(LONG);
    holder.signal("CONT");
    let sentence = format!("is held by process {pid}, which does not answer; waiting for it");
    let (other, holder) = (other.ended(), holder.ended());
    check_done(&holder, held);
    check_done(&other, shown);
    let told: Vec<_> = other.err.lines().filter(|line| line.contains("does not answer")).collect();
    assert!(told.len() == 1 && told[0].starts_with("warning: the store "), "{other:#?}");
    assert!(told[0].ends_with(&sentence), "{told:?}");
    assert!(!holder.err.contains("does not answer"), "{holder:#?}");
}

#[test]
fn whoever_comes_to_a_holder_that_is_stopped_says_so_once_and_goes_on_when_it_does() {
    let (modules, place) = (Modules::new("chain", ""), Backend::Sled.place());
    let holder = holder(&modules, &place, "sleeps-300");
    holder.0.signal("STOP");
    let other = Running::start(&mut command(&place.url, ["executions", "ls"]));
    check_silence(holder, "sleeps-300", other, "sleeps-300");
}

#[test]
fn whoever_is_at_work_through_a_holder_that_is_stopped_says_so_once_and_goes_on_when_it_does() {
    let (modules, place) = (Modules::new("chain", ""), Backend::Sled.place());
    let holder = holder(&modules, &place, "sleeps-1000");
    let mut other = run(&modules, &place, "sleeps-400");
    assert!(other.says("One: starts"));
    holder.0.signal("STOP");
    check_silence(holder, "sleeps-1000", other, "sleeps-400");
}

#[test]
fn whoever_ends_after_the_holder_says_nothing_of_it() {
    let (modules, place) = (Modules::new("chain", ""), Backend::Sled.place());
    let (holder, pid) = holder(&modules, &place, "sleeps-600");
    // It opens the store, and then wants nothing of it until its input ends.
    let (input, open) = std::io::pipe().unwrap();
    let mut other = Running::start(command(&place.url, ["store", "import"]).stdin(Stdio::from(input)));
    let attached = format!("is in use by process {pid}; working through it");
    assert!(other.says(&attached));
    check_done(&holder.ended(), "sleeps-600");
    drop(open);
    let other = other.ended();
    let lines: Vec<_> = other.err.lines().collect();
    assert!(lines.len() == 2 && lines[0].ends_with(&attached), "{other:#?}");
    assert_eq!(lines[1], "error: the export is cut short: it ends after 0 records, without its last line");
    assert_eq!(other.code, Some(2));
}
