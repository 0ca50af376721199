//! Executions that are cut off and gone on with, and several processes on one store.

use std::io::{BufReader, Read as _};
use std::path::Path;
use std::process::{Child, ChildStderr};

use serde_json::Value;

use crate::support::{command, demo_folder, ended, folder, json, read_until, run, send};

/// The demonstration, where everything is kept; one step tries for as long as a test may take, where the
/// user is unknown.
fn kept(url: &str) -> tempfile::TempDir {
    demo_folder(&format!(
        "[store]\nurl = '{url}'\nlease = '1s'\n[defaults]\npersistence = {{ scope = 'workflow' }}\n\
         [defaults.retry]\nmax-attempts = 1000\nkinds = {{ always = ['permanent'] }}\n\
         backoff = {{ growth = 'fixed', initial = '50ms' }}\n"
    ))
}

/// Begins an execution, and returns once a step has started.
fn begin(dir: &Path, args: &[&str], step: &str) -> (Child, BufReader<ChildStderr>, String) {
    let mut child = command(dir, &[&["run", "-vv"], args].concat()).spawn().unwrap();
    let mut err = BufReader::new(child.stderr.take().unwrap());
    let lines = read_until(&mut err, &format!("{step}: attempt 1 started"));
    (child, err, lines)
}

const NOBODY: [&str; 2] = ["--input", "example.v1.UserID={\"id\":\"nobody\"}"];

#[test]
fn a_signal_leaves_an_execution_that_is_resumed_without_modules_and_configuration() {
    for url in ["sled:kept", "sqlite:kept.db"] {
        let dir = kept(url);
        let (child, mut err, _) = begin(dir.path(), &["--execution-id", "mine"], "FetchProfile");
        send("INT", &child);
        let mut lines = String::new();
        err.read_to_string(&mut lines).unwrap();
        assert_eq!(ended(child).code, Some(130));
        let store = url.replacen(':', ":./", 1);
        let last = format!(
            "\nerror: interrupted by SIGINT: execution `mine` was stopped\n  \
             to go on with it: docket-host resume mine --store {store}\n"
        );
        assert!(lines.ends_with(&last), "{lines}");

        let listed = json(dir.path(), &["executions", "ls", "--status", "interrupted", "--format", "json"]);
        assert_eq!(listed[0]["execution_id"], "mine");
        let other = run(dir.path(), &["run", "--execution-id", "other"]);
        let mention = format!(
            "1 execution was interrupted and can be resumed: \
             `docket-host executions ls --status interrupted --store {store}`\n"
        );
        assert_eq!((other.code, &*other.err), (Some(0), &*mention));
        let quiet = run(dir.path(), &["run", "--execution-id", "other", "-q"]);
        assert_eq!((quiet.code, &*quiet.err), (Some(0), ""));

        let (scheme, path) = url.split_once(':').unwrap();
        let store = format!("{scheme}:{}", dir.path().join(path).display());
        let elsewhere = folder(&[]);
        let resumed =
            run(elsewhere.path(), &["resume", "mine", "--store", &store, "--format", "ndjson", "--report"]);
        assert_eq!(resumed.code, Some(0), "{}", resumed.err);
        assert!(resumed.out.starts_with("{\"profile\":{\"name\":\"Alice\""), "{}", resumed.out);
        let report: Value = serde_json::from_str(&resumed.err).unwrap();
        let profile = &report["steps"][2];
        assert_eq!(
            (&profile["step"], &profile["attempts"][0]["attempt"]),
            (&"FetchProfile".into(), &2.into())
        );
        let again = run(elsewhere.path(), &["resume", "mine", "--store", &store, "--format", "ndjson", "-q"]);
        assert_eq!(
            (again.code, again.out),
            (Some(0), resumed.out),
            "what is done is answered from its record"
        );
    }
}

#[test]
fn a_killed_execution_is_found_and_resumed_with_all_others() {
    for url in ["sled:kept", "sqlite:kept.db"] {
        let dir = kept(url);
        let dir = dir.path();
        for id in ["one", "two"] {
            let (mut child, _err, _) = begin(dir, &["--execution-id", id], "FetchProfile");
            child.kill().unwrap();
            child.wait().unwrap();
        }
        // Where no lock tells that a process is gone, its lease does.
        std::thread::sleep(std::time::Duration::from_millis(1200));
        let listed = run(dir, &["executions", "ls", "--status", "interrupted", "--format", "json"]).out;
        assert!(listed.contains("\"one\"") && listed.contains("\"two\""), "{listed}");
        let resumed = run(dir, &["resume", "--all"]);
        assert_eq!(resumed.code, Some(0), "{}", resumed.err);
        let lines: Vec<Value> = resumed.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        for (line, id) in lines.iter().zip(["one", "two"]) {
            assert_eq!((&line["execution_id"], &line["outcome"]), (&id.into(), &"done".into()));
            assert_eq!(line["output"]["profile"]["name"], "Alice");
        }
        assert_eq!(run(dir, &["resume", "--all"]).out, "");
    }
}

#[test]
fn a_failed_execution_says_how_to_go_on_where_that_helps_and_resume_all_counts_what_fails() {
    let toml = "[store]\nurl = 'sled:kept'\n[defaults]\npersistence = { scope = 'workflow' }\n";
    let dir = demo_folder(toml);
    let dir = dir.path();
    // What is permanent is so the next time too; once it is said to be worth a try, it is.
    let kinds = "[defaults.retry]\nmax-attempts = 1\nkinds = { always = ['permanent'] }\n";
    let always = format!("{toml}{kinds}");
    let retried = demo_folder(&always);
    for (dir, helps) in [(dir, false), (retried.path(), true)] {
        // The second time it is the record that is shown.
        for _ in 0..2 {
            let failed = run(dir, &["run", "-q", "--execution-id", "mine", NOBODY[0], NOBODY[1]]);
            assert!(
                failed.code == Some(1) && failed.err.contains("there is no user `nobody`"),
                "{}",
                failed.err
            );
            let hint = "\n  to go on with it: docket-host resume mine --store sled:./kept\n";
            assert_eq!(
                (failed.err.ends_with(hint), failed.err.contains("to go on")),
                (helps, helps),
                "{}",
                failed.err
            );
        }
    }
    let late = run(dir, &["run", "-q", "--execution-id", "late", "--timeout", "20ms", NOBODY[0], NOBODY[1]]);
    assert!(late.code == Some(1) && late.err.contains("docket-host resume late"), "{}", late.err);
    let all = run(dir, &["resume", "--all", "-q"]);
    assert_eq!((all.code, &*all.err), (Some(1), "error: 1 of 1 executions failed\n"));
    let line: Value = serde_json::from_str(&all.out).unwrap();
    assert_eq!((&line["execution_id"], &line["outcome"]), (&"late".into(), &"failed".into()));
    assert!(line["error"].as_str().unwrap().contains("there is no user `nobody`"), "{line}");
}

#[test]
fn the_configuration_that_was_kept_counts_unless_another_is_named() {
    let dir = demo_folder(
        "[store]\nurl = 'sled:kept'\n[step.FetchProfile]\ntimeout = '10ms'\npersistence = { scope = 'global' }\n",
    );
    let failed = run(dir.path(), &["run", "-q", "--execution-id", "mine"]);
    assert!(failed.err.contains("timed out after 10 ms"), "{}", failed.err);
    let store = format!("sled:{}", dir.path().join("kept").display());
    let elsewhere = folder(&[("docket.toml", "[step.FetchProfile]\npersistence = { scope = 'global' }\n")]);
    let resume =
        |args: &[&str]| run(elsewhere.path(), &[&["resume", "mine", "-q", "--store", &store], args].concat());
    assert!(resume(&[]).err.contains("timed out after 10 ms"), "the one beside the command was not named");
    let resumed = resume(&["--config", "docket.toml"]);
    assert_eq!(resumed.code, Some(0), "{}", resumed.err);
}

#[test]
fn the_command_line_works_beside_a_process_that_holds_sled_and_says_so() {
    let dir = kept("sled:kept");
    let (child, mut err, _) =
        begin(dir.path(), &["--execution-id", "mine", NOBODY[0], NOBODY[1]], "FetchProfile");
    let beside = format!("the store `sled:./kept` is in use by process {}; working through it\n", child.id());
    let listed = run(dir.path(), &["executions", "ls", "--status", "running", "--format", "json"]);
    assert_eq!((listed.code, &*listed.err), (Some(0), &*beside));
    assert!(listed.out.contains("\"mine\""), "{}", listed.out);
    let quiet = run(dir.path(), &["cache", "ls", "--status", "running", "-q"]);
    assert!(quiet.err.is_empty() && quiet.out.contains("FetchProfile"), "{quiet:?}");
    let refused = run(dir.path(), &["executions", "rm", "mine", "-q"]);
    assert!(refused.code == Some(2) && refused.err.contains("executions cancel mine"), "{}", refused.err);
    let key = quiet.out.lines().find(|line| line.contains("FetchProfile")).unwrap();
    let in_use = run(dir.path(), &["cache", "rm", "-q", key.split(' ').next().unwrap()]);
    assert!(in_use.code == Some(2) && in_use.err.contains("is being made"), "{}", in_use.err);

    let cancelled = run(dir.path(), &["executions", "cancel", "mine", "-q"]);
    assert!(cancelled.out.contains("is cancelled"), "{cancelled:?}");
    let mut lines = String::new();
    err.read_to_string(&mut lines).unwrap();
    assert!(lines.contains("\nerror: "), "{lines}");
    assert_eq!(ended(child).code, Some(1), "{lines}");
    let shown = json(dir.path(), &["executions", "show", "mine", "--format", "json"]);
    assert_eq!(shown["status"], "cancelled");
}

#[test]
fn a_process_that_worked_through_another_goes_on_when_that_is_killed() {
    let dir = kept("sled:kept");
    let args = |id| ["--execution-id", id, NOBODY[0], NOBODY[1]];
    let (mut holder, _err, _) = begin(dir.path(), &args("first"), "FetchProfile");
    let (child, mut err, lines) = begin(dir.path(), &args("second"), "FetchProfile");
    assert!(lines.contains(&format!("is in use by process {}; working through it", holder.id())), "{lines}");
    holder.kill().unwrap();
    holder.wait().unwrap();
    read_until(&mut err, "FetchProfile: attempt 8 started");
    let beside = run(dir.path(), &["executions", "ls"]);
    assert!(beside.err.contains(&format!("is in use by process {}", child.id())), "{}", beside.err);
    send("TERM", &child);
    let mut lines = String::new();
    err.read_to_string(&mut lines).unwrap();
    assert!(lines.contains("interrupted by SIGTERM: execution `second` was stopped"), "{lines}");
    assert_eq!(ended(child).code, Some(130));
}

#[test]
fn of_several_processes_one_starts_each_step_whoever_holds_the_store() {
    for url in ["sled:kept", "sqlite:kept.db"] {
        let dir = demo_folder(&format!(
            "[store]\nurl = '{url}'\n[defaults]\npersistence = {{ scope = 'global' }}\n"
        ));
        let children: Vec<_> =
            (0..6).map(|_| command(dir.path(), &["run", "-vv"]).spawn().unwrap()).collect();
        let ends: Vec<_> = children.into_iter().map(ended).collect();
        let mut starts = 0;
        for end in &ends {
            assert_eq!(end.code, Some(0), "{}", end.err);
            starts += end.err.matches(": attempt 1 started\n").count();
            assert!(!end.err.contains("attempt 2 started"), "{}", end.err);
        }
        assert_eq!(starts, 4, "{ends:#?}");
    }
}
