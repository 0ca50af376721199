//! Runs the binary over the demonstration guests. Never looks inside it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;

/// What a command printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: Option<i32>,
}

/// Returns the directory of the demonstration guests.
pub(crate) fn guests() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests").canonicalize().unwrap();
    assert!(dir.join("enrich_user.wasm").exists(), "build the guests first: make guests");
    dir
}

/// Returns a directory with these files; a text that names a guest is that guest.
pub(crate) fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        match text.strip_prefix("guest:") {
            Some(guest) => _ = std::fs::copy(guests().join(guest), path).unwrap(),
            None => std::fs::write(path, text).unwrap(),
        }
    }
    dir
}

/// Returns a directory with the demonstration guests and this `docket.toml`, which comes with the default
/// request.
pub(crate) fn demo_folder(toml: &str) -> tempfile::TempDir {
    let run =
        "[run]\noutput = 'example.v1.EnrichedUser'\ninput = ['example.v1.UserID={\"id\":\"user-123\"}']\n";
    folder(&[
        ("docket.toml", &format!("{run}{toml}")),
        ("enrich_user.wasm", "guest:enrich_user.wasm"),
        ("fetch_activity.wasm", "guest:fetch_activity.wasm"),
        ("fetch_preferences.wasm", "guest:fetch_preferences.wasm"),
        ("fetch_profile.wasm", "guest:fetch_profile.wasm"),
    ])
}

/// Sends a signal to a process of ours.
pub(crate) fn send(signal: &str, child: &Child) {
    let sent = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

/// Reads from a stream until a line contains the text; returns all that was read.
pub(crate) fn read_until(stream: &mut impl std::io::BufRead, text: &str) -> String {
    let mut lines = String::new();
    while !lines.lines().last().is_some_and(|line| line.contains(text)) {
        assert!(stream.read_line(&mut lines).unwrap() > 0, "no `{text}` in:\n{lines}");
    }
    lines
}

/// Runs the command to its end, which must be a good one, and returns what it printed as JSON.
pub(crate) fn json(dir: &Path, args: &[&str]) -> serde_json::Value {
    let ended = run(dir, args);
    assert_eq!(ended.code, Some(0), "{args:?}: {}", ended.err);
    serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{args:?}: {error}: {}", ended.out))
}

/// Returns the command, in a directory, with nothing of the caller's environment that it reads. The
/// guests are compiled already: what is said of that has a test of its own.
pub(crate) fn command(dir: &Path, args: &[&str]) -> Command {
    static COMPILED: Once = Once::new();
    COMPILED.call_once(|| assert!(raw(&guests(), &["validate"]).status().unwrap().success()));
    raw(dir, args)
}

fn raw(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_docket-host"));
    command
        .args(args)
        .current_dir(dir)
        .env_remove("RUST_LOG")
        .env_remove("DOCKET_MODULE_DIR")
        .env_remove("DOCKET_STORE")
        .env("XDG_STATE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("state"))
        .env("DOCKET_ARTIFACT_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("artifacts"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs the command to its end.
pub(crate) fn run(dir: &Path, args: &[&str]) -> Ended {
    ended(command(dir, args).spawn().unwrap())
}

/// Runs the command to its end over the demonstration guests.
pub(crate) fn demo(args: &[&str]) -> Ended {
    run(&guests(), args)
}

/// Runs the command to its end with a text on its stdin.
pub(crate) fn demo_reading(stdin: &str, args: &[&str]) -> Ended {
    let mut child = command(&guests(), args).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    ended(child)
}

pub(crate) fn ended(child: Child) -> Ended {
    let output = child.wait_with_output().unwrap();
    Ended {
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code(),
    }
}
