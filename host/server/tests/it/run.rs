//! `run`: results, inputs, reports, and every way to end.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use docket_host::{Console, Exit};
use serde_json::Value;

use crate::support::{command, demo, demo_reading, ended, folder, guests, send};

const ALICE: &str = r#"{"profile":{"name":"Alice","email":"alice@example.com"},"prefs":{"darkMode":true},"activity":{"loginCount":42,"lastLogin":"2024-01-15"}}"#;

#[test]
fn the_default_request_is_answered_as_indented_json() {
    let ended = demo(&["run"]);
    assert_eq!((ended.code, &*ended.err), (Some(0), ""));
    assert!(ended.out.starts_with("{\n  \"profile\": {\n    \"name\": \"Alice\","), "{}", ended.out);
    let (found, expected): (Value, Value) =
        (serde_json::from_str(&ended.out).unwrap(), serde_json::from_str(ALICE).unwrap());
    assert_eq!(found, expected);
}

#[test]
fn each_format_writes_the_same_result() {
    assert_eq!(demo(&["run", "--format", "ndjson"]).out, format!("{ALICE}\n"));
    let text = demo(&["run", "--format", "text"]).out;
    assert!(text.starts_with("profile {\n  name: \"Alice\"\n"), "{text}");
    let proto = demo(&["run", "--format", "proto", "--output", "example.v1.UserProfile"]).out;
    assert_eq!(proto, "\n\u{5}Alice\u{12}\u{11}alice@example.com");
}

#[test]
fn a_field_with_its_default_value_is_written() {
    let input = "example.v1.UserProfile={}";
    let args = ["run", "--output", "example.v1.UserProfile", "--input", input, "--format", "ndjson"];
    assert_eq!(demo(&args).out, "{\"name\":\"\",\"email\":\"\"}\n");
}

#[test]
fn an_input_comes_from_the_command_line_a_file_or_stdin_and_replaces_the_default() {
    let json = r#"{"id":"a=b"}"#;
    let dir = folder(&[("in.json", json)]);
    let file = format!("@{}", dir.path().join("in.json").display());
    let (with_port, file_with_port) =
        (format!("example.v1.UserID={json}"), format!("example.v1.UserID={file}"));
    for input in [json, &with_port, &file, &file_with_port, "-", "example.v1.UserID=-"] {
        let args = ["run", "--output", "example.v1.UserID", "--input", input, "--format", "ndjson"];
        let ended = demo_reading(json, &args);
        assert_eq!((&*ended.out, &*ended.err), ("{\"id\":\"a=b\"}\n", ""), "{input}");
    }
}

#[test]
fn a_file_that_docket_toml_names_lies_beside_it() {
    let toml = "[run]\noutput = 'example.v1.UserID'\ninput = ['@in.json']\n";
    let dir = folder(&[
        ("docket.toml", toml),
        ("in.json", r#"{"id":"7"}"#),
        ("a.wasm", "guest:fetch_profile.wasm"),
    ]);
    let path = dir.path().to_str().unwrap();
    let ended = crate::support::run(&guests(), &["run", "--module-dir", path, "--format", "ndjson"]);
    assert_eq!((&*ended.out, &*ended.err), ("{\"id\":\"7\"}\n", ""));
}

#[test]
fn a_failing_step_ends_with_1_its_sentence_and_the_cause_below_it() {
    let ended = demo(&["run", "--output", "example.v1.UserProfile", "--input", r#"{"id":"nobody"}"#]);
    assert_eq!((ended.code, &*ended.out), (Some(1), ""));
    let expected = "error: step `FetchProfile` failed after 1 attempt\n  \
                    caused by: there is no user `nobody` (code `user_not_found`)\n";
    assert_eq!(ended.err, expected);
}

#[test]
fn a_passed_deadline_ends_with_1_wherever_it_was_set() {
    let sentence = "error: the execution passed its deadline of 20 ms\n";
    let ended = demo(&["run", "--timeout", "20ms"]);
    assert_eq!((ended.code, &*ended.err), (Some(1), sentence));
    let toml = "[run]\ninput = ['{\"id\":\"user-123\"}']\ntimeout = '20ms'\n";
    let dir = folder(&[("docket.toml", toml), ("a.wasm", "guest:fetch_profile.wasm")]);
    let ended = crate::support::run(dir.path(), &["run", "-q"]);
    assert_eq!((ended.code, &*ended.err), (Some(1), sentence));
}

#[test]
fn a_step_timeout_of_docket_toml_is_enforced() {
    let toml = "[run]\ninput = ['{\"id\":\"user-123\"}']\n[step.FetchProfile]\ntimeout = '10ms'\n";
    let dir = folder(&[("docket.toml", toml), ("a.wasm", "guest:fetch_profile.wasm")]);
    let ended = crate::support::run(dir.path(), &["run", "-q"]);
    let cause = "  caused by: timed out after 10 ms\n";
    assert!(ended.code == Some(1) && ended.err.ends_with(cause), "{}", ended.err);
}

#[test]
fn the_report_is_json_on_stderr_and_shows_that_independent_steps_ran_at_once() {
    let ended = demo(&["run", "--report", "--execution-id", "mine"]);
    let report: Value = serde_json::from_str(&ended.err).unwrap();
    assert_eq!((&report["execution_id"], &report["outcome"]), (&"mine".into(), &"done".into()));
    assert_eq!(report["steps"].as_array().unwrap().len(), 4);
    let elapsed = report["elapsed_ms"].as_f64().unwrap();
    assert!((100.0..290.0).contains(&elapsed), "{elapsed} ms for three times 100 ms at once");
}

#[test]
fn the_report_comes_before_the_error_of_a_failed_execution() {
    let ended = demo(&["run", "--report", "--timeout", "20ms"]);
    let (report, error) = ended.err.split_once("\nerror: ").unwrap();
    let report: Value = serde_json::from_str(report).unwrap();
    assert_eq!(report["outcome"], "deadline-exceeded");
    assert_eq!(error, "the execution passed its deadline of 20 ms\n");
}

#[test]
fn a_signal_stops_the_execution_and_ends_with_130() {
    for signal in ["INT", "TERM"] {
        let mut child = command(&guests(), &["run", "-vv", "--execution-id", "mine"]).spawn().unwrap();
        let mut err = BufReader::new(child.stderr.take().unwrap());
        let mut lines = String::new();
        while !lines.ends_with("FetchProfile: attempt 1 started\n") {
            assert!(err.read_line(&mut lines).unwrap() > 0, "{lines}");
        }
        send(signal, &child);
        err.read_to_string(&mut lines).unwrap();
        let ended = ended(child);
        assert_eq!((ended.code, &*ended.out), (Some(130), ""));
        let last = format!("\nerror: interrupted by SIG{signal}: execution `mine` was stopped\n");
        assert!(lines.ends_with(&last), "{lines}");
        assert!(lines.contains("\nEnrichUser: never started\n"), "{lines}");
    }
}

#[test]
fn a_signal_is_heard_while_an_input_is_waited_for() {
    let mut child = command(&guests(), &["run", "--input", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let stdin = child.stdin.take();
    // There is no sign from outside that it reads; the signal is to be heard before and after.
    std::thread::sleep(Duration::from_millis(300));
    send("INT", &child);
    let ended = ended(child);
    drop(stdin);
    assert_eq!((ended.code, &*ended.err), (Some(130), "error: interrupted by SIGINT: nothing has run\n"));
}

#[test]
fn a_reader_that_goes_away_is_no_fault() {
    for args in [&["run"][..], &["graph", "--format", "json"]] {
        let mut child = command(&guests(), args).spawn().unwrap();
        drop(child.stdout.take());
        let ended = ended(child);
        assert_eq!((ended.code, &*ended.err), (Some(0), ""));
    }
}

#[test]
fn events_are_logged_when_asked_for_and_in_json_each_line_is_an_object() {
    let ended = demo(&["run", "-vv"]);
    assert!(ended.err.contains("\nEnrichUser: attempt 1 done after "), "{}", ended.err);
    let ended = demo(&["run", "-vv", "--log-format", "json", "--timeout", "50ms", "--report"]);
    let lines: Vec<Value> = ended.err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let started = &lines[1];
    assert_eq!((&started["target"], &started["attempt"]), (&"docket::event".into(), &1.into()));
    let last = lines.last().unwrap();
    assert_eq!(last["message"], "the execution passed its deadline of 50 ms");
    assert_eq!((&last["level"], &last["exit"]), (&"ERROR".into(), &1.into()));
    assert!(last["timestamp"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn the_first_use_of_a_module_says_that_it_is_compiled_unless_quiet() {
    let artifacts = tempfile::tempdir().unwrap();
    let dir = folder(&[("a.wasm", "guest:fetch_profile.wasm")]);
    let line = "compiling a.wasm (first use; kept for the next time)\n";
    for (quiet, expected) in [("--log-format=text", line), ("-q", ""), ("--log-format=text", "")] {
        if quiet == "-q" {
            std::fs::remove_dir_all(artifacts.path()).unwrap();
        }
        let path = artifacts.path().to_str().unwrap();
        let ended = crate::support::run(dir.path(), &["validate", quiet, "--artifact-dir", path]);
        assert_eq!((ended.code, &*ended.err), (Some(0), expected));
    }
}

/// A stream that a test can read.
#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Buffer {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_program_can_carry_out_a_command_line_itself() {
    let (out, err) = (Buffer::default(), Buffer::default());
    let guests = guests();
    let args = ["docket-host", "validate", "--module-dir", guests.to_str().unwrap(), "-q"];
    let exit = docket_host::main_on(args, Console::new(out.clone(), err.clone()));
    assert_eq!((exit, exit.code()), (Exit::Done, 0));
    assert!(out.0.lock().unwrap().starts_with(b"ok: 4 modules, "));
    assert_eq!(docket_host::main_on(["docket-host", "fly"], Console::new(out, err)), Exit::Usage);
}
