//! Owns the running of `docket-host` as a process: its environment, its lines as they come, signals to
//! it, its end. Never looks inside it.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::{fixture, target_dir};

/// Longer than any single thing that a test waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns the program.
///
/// # Panics
/// Where it is not built.
pub fn docket_host() -> PathBuf {
    let path = target_dir().join("release/docket-host");
    assert!(path.exists(), "no {}; run `cargo build --release -p docket-host` first", path.display());
    path
}

/// Returns where the tests keep compiled modules.
pub fn artifacts() -> PathBuf {
    target_dir().join("test-artifacts")
}

/// One fixture as a module directory, with a configuration.
pub struct Modules {
    dir: tempfile::TempDir,
}

impl Modules {
    /// Returns a directory with the fixture and this `docket.toml`, compiled, so that no command says that
    /// it compiles.
    pub fn new(fixture_name: &str, config: &str) -> Self {
        let this = Self { dir: tempfile::tempdir().expect("a directory can be made") };
        std::fs::write(this.path().join(format!("{fixture_name}.wasm")), fixture(fixture_name))
            .expect("it is empty");
        std::fs::write(this.path().join("docket.toml"), config).expect("it is empty");
        let ended = ended(&mut this.command("memory:", ["validate"]));
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        this
    }

    /// Returns the directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Returns a command over these modules and this store, without anything of the caller's environment
    /// that it would read.
    pub fn command<A: AsRef<OsStr>>(&self, store: &str, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = command(store, args);
        command.env("DOCKET_MODULE_DIR", self.path());
        command
    }
}

/// Returns a command on this store, without modules.
pub fn command<A: AsRef<OsStr>>(store: &str, args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(docket_host());
    command
        .args(args)
        .env_remove("RUST_LOG")
        .env("DOCKET_ARTIFACT_DIR", artifacts())
        .env("DOCKET_STORE", store)
        .stdin(Stdio::null());
    command
}

/// What a process wrote, and how it ended.
#[derive(Debug)]
pub struct Ended {
    /// Its stdout.
    pub out: String,
    /// Its stderr.
    pub err: String,
    /// Its exit code; none where a signal ended it.
    pub code: Option<i32>,
}

/// Runs a command to its end.
pub fn ended(command: &mut Command) -> Ended {
    Running::start(command).ended()
}

/// A process that is under way. Dropped, it is killed.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    out: Option<JoinHandle<String>>,
}

impl Running {
    /// Starts the command; its stderr is read as it comes.
    ///
    /// # Panics
    /// Where it does not start.
    pub fn start(command: &mut Command) -> Self {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let mut out = child.stdout.take().expect("it is piped");
        let err = BufReader::new(child.stderr.take().expect("it is piped"));
        let (sender, lines) = channel();
        // Both end with the process.
        thread::spawn(move || err.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let out = thread::spawn(move || {
            let mut text = String::new();
            // What is no text is no result.
            let _ = out.read_to_string(&mut text);
            text
        });
        Self { child, lines, seen: Vec::new(), out: Some(out) }
    }

    /// Waits until a line on stderr contains the text; false where the process ended before.
    ///
    /// # Panics
    /// Where neither happens.
    pub fn says(&mut self, text: &str) -> bool {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    let found = line.contains(text);
                    self.seen.push(line);
                    if found {
                        return true;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => panic!("`{text}` is not said: {:#?}", self.seen),
            }
        }
    }

    /// Waits for so many lines on stderr, or the process's end.
    pub fn says_lines(&mut self, count: usize) {
        while self.seen.len() < count {
            let Ok(line) = self.lines.recv_timeout(PATIENCE) else { return };
            self.seen.push(line);
        }
    }

    /// Sends a signal, by its name.
    ///
    /// # Panics
    /// Where there is no such process.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(sent.expect("`kill` is on every machine").success(), "{name}");
    }

    /// Kills the process where it stands, and returns what it had said.
    pub fn killed(mut self) -> Ended {
        // It may have ended by itself.
        let _ = self.child.kill();
        self.ended()
    }

    /// Waits for the process's end.
    ///
    /// # Panics
    /// Where it does not end.
    pub fn ended(mut self) -> Ended {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end: {:#?}", self.seen),
            }
        }
        let status: ExitStatus = self.child.wait().expect("it was started");
        let out = self.out.take().expect("it is taken once").join().expect("it only reads");
        let mut err = self.seen.join("\n");
        if !err.is_empty() {
            err.push('\n');
        }
        Ended { out, err, code: status.code() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whoever waited for it has ended it already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
