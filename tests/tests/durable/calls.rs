//! What a run asks of the kernel, by strace: nothing of a store where no step keeps results, and where
//! one does, as few syncs as were promised.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use docket_tests::program::{Ended, Modules, ended};
use docket_tests::stores::Backend;

/// Runs under strace, and returns the calls that matter, a line each.
fn calls(command: &Command, wanted: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("calls");
    let ended = traced(command, &log, &["-e", &format!("trace={wanted}")]);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let text = std::fs::read_to_string(&log).unwrap();
    text.lines().filter(|line| line.contains('(')).map(str::to_owned).collect()
}

/// Runs under strace, all threads, which writes into this file.
pub(super) fn traced(command: &Command, log: &Path, args: &[&str]) -> Ended {
    let mut strace = Command::new("strace");
    strace.args([OsStr::new("-f"), OsStr::new("-o"), log.as_os_str()]).args(args);
    strace.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    if let Some(libraries) = std::env::var_os("DOCKET_TEST_LIBRARIES").filter(|dirs| !dirs.is_empty()) {
        strace.env("LD_LIBRARY_PATH", libraries);
    }
    ended(&mut strace)
}

/// Every way to a file, and every sync.
const FILES: &str =
    "open,openat,openat2,creat,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,connect";
const SYNCS: &str = "fsync,fdatasync,msync,syncfs";

#[test]
fn an_execution_without_kept_steps_touches_no_store() {
    let modules = Modules::new("good", "");
    for backend in [Backend::Sled, Backend::Sqlite] {
        let place = backend.place();
        let command = modules.command(&place.url, ["run", "--input", r#"{"id":"user-123"}"#]);
        let calls = calls(&command, &format!("{FILES},{SYNCS}"));
        let store = place.dir().to_string_lossy();
        let touched: Vec<_> = calls.iter().filter(|call| call.contains(&*store)).collect();
        assert!(touched.is_empty(), "{backend:?}: {touched:#?}");
        assert_eq!(place.dir().read_dir().unwrap().count(), 0, "{backend:?}");
        let written: Vec<_> = calls.iter().filter(|call| writes(call)).collect();
        assert!(written.is_empty(), "{backend:?}: {written:#?}");
    }
}

/// Returns whether the call changes a file, or may be the first of those that do. What has failed, such as
/// the making of the directory for compiled modules, has changed nothing.
fn writes(call: &str) -> bool {
    let changes =
        ["O_WRONLY", "O_RDWR", "O_CREAT", "fsync(", "fdatasync(", "mkdir", "rename", "unlink", "connect("];
    changes.iter().any(|word| call.contains(word)) && !call.contains("/dev/null") && !call.contains(" = -1 ")
}

/// Returns how many syncs a run makes that ends with this port.
fn syncs(modules: &Modules, store: &str, port: &str, told: &str) -> usize {
    let input = format!(r#"{{"id":"{told}"}}"#);
    let command = modules.command(store, ["run", "--output", port, "--input", &input]);
    calls(&command, SYNCS).len()
}

/// Enough for one of them to be undisturbed.
const RUNS: usize = 5;

#[test]
fn a_kept_step_costs_one_sync_and_no_more() {
    let modules = Modules::new("chain", "");
    for backend in [Backend::Sled, Backend::Sqlite] {
        let place = backend.place();
        // The first run also makes the store and keeps the module.
        syncs(&modules, &place.url, "example.v1.UserProfile#1", "first");
        // The fewest of some: now and then a slow run meets a flush of the store's own.
        let fewest = |port: &str, told: &str| {
            (0..RUNS).map(|run| syncs(&modules, &place.url, port, &format!("{told}-{run}"))).min().unwrap()
        };
        let one = fewest("example.v1.UserProfile#1", "one");
        let four = fewest("example.v1.UserProfile#4", "four");
        println!("{backend:?}: {one} syncs for one kept step, {four} for four");
        assert!(four > one, "{backend:?}: each kept step is synced: {one} for one, {four} for four");
        assert!(four - one <= 3, "{backend:?}: at most one sync a step: {one} for one, {four} for four");
        let kept = (0..RUNS)
            .map(|_| syncs(&modules, &place.url, "example.v1.UserProfile#4", "four-0"))
            .min()
            .unwrap();
        assert!(kept < four, "{backend:?}: what is found is not synced again: {kept}");
    }
}
