//! What Docket's tests share: the fixture components, hosts over them, an observer that remembers, the
//! program and real stores. Never asserts anything itself.

#![expect(clippy::missing_panics_doc, reason = "in a test a panic is the way to say what is missing")]

mod kept;
mod meddled;

pub use kept::{ManualClock, Setup, keeping, patched, replaced, told};
pub use meddled::{Meddled, StoreCall, unavailable};

pub mod by_hand;
pub mod fuzzed;
pub mod program;
pub mod stores;
pub mod web;
pub mod wordcount;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use docket_runtime::{
    Artifacts, BuildError, Event, ExecutionId, Host, HostOptions, Observer, Outcome, Request,
};

/// The demonstration types of `proto/example/v1`.
#[allow(missing_docs, reason = "generated from the proto file, which has the documentation")]
pub mod example {
    include!(concat!(env!("OUT_DIR"), "/example.v1.rs"));
}

/// Returns the root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository")
}

/// Returns the component of a fixture: one file below `tests/fixtures/examples`.
///
/// # Panics
/// Where the fixtures are not built.
pub fn fixture(name: &str) -> Vec<u8> {
    let path = target_dir().join(format!("wasm32-wasip2/guest/examples/{name}.wasm"));
    read(&path)
}

/// Returns the component of a demonstration guest.
///
/// # Panics
/// Where the guests are not built.
pub fn guest(name: &str) -> Vec<u8> {
    read(&repository().join(format!("guests/{name}.wasm")))
}

/// Returns the component of an example.
///
/// # Panics
/// Where the examples are not built.
pub fn example_module(name: &str) -> Vec<u8> {
    read(&repository().join(format!("examples/{name}/{name}.wasm")))
}

fn read(path: &Path) -> Vec<u8> {
    match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => panic!("{}: {error}; run `make modules` first", path.display()),
    }
}

/// Returns cargo's target directory: where this very test was built.
pub fn target_dir() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile = test.ancestors().find(|dir| dir.join("deps").is_dir());
    profile.and_then(Path::parent).expect("tests are built in target/PROFILE/deps").to_owned()
}

/// Returns options for tests: artifacts are shared by all tests of a target directory, so that
/// each fixture is compiled once.
pub fn options() -> HostOptions {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    let dir = DIR.get_or_init(|| target_dir().join("test-artifacts"));
    HostOptions { artifacts: Artifacts::Dir(dir.clone()), max_instances: 64, ..HostOptions::default() }
}

/// Returns a host over these fixtures.
///
/// # Errors
/// As the host's builder.
pub async fn host_with(names: &[&str], options: HostOptions) -> Result<Host, BuildError> {
    let mut builder = Host::builder().options(options);
    for name in names {
        builder = builder.module(&format!("{name}.wasm"), fixture(name));
    }
    builder.build().await
}

/// Returns a host over these fixtures, which are good enough to load.
///
/// # Panics
/// Where they are not.
pub async fn host(names: &[&str]) -> Host {
    host_with(names, options()).await.unwrap_or_else(|error| panic!("{names:?}: {error}"))
}

/// Returns a request for the profile of `user-123`, which most fixtures serve.
pub fn profile_request() -> Request {
    let user = example::UserId { id: "user-123".into() };
    Request::for_message::<example::UserProfile>().input(&user)
}

/// Executes a request that fits the graph.
///
/// # Panics
/// Where it does not.
pub async fn execute(host: &Host, request: Request) -> Outcome {
    host.execute(request).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Remembers every event, as one line of text each, without times.
#[derive(Default)]
pub struct Recorder(Mutex<Vec<String>>);

impl Recorder {
    /// Returns a recorder to hand to a host.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Returns what happened so far.
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns how many attempts at a step were started.
    pub fn starts(&self, step: &str) -> usize {
        let of_step = |line: &&String| line.starts_with(&format!("{step} ")) && line.ends_with(" started");
        self.lines().iter().filter(of_step).count()
    }

    /// Waits until so many attempts at a step were started.
    ///
    /// # Panics
    /// Where that takes ten seconds.
    #[expect(clippy::disallowed_methods, reason = "tests wait")]
    pub async fn until_started(&self, step: &str, times: usize) {
        for _ in 0..2_000 {
            if self.starts(step) >= times {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("`{step}` has started {} times, not {times}: {:#?}", self.starts(step), self.lines());
    }

    /// Returns the events of one kind: those whose line contains the text.
    pub fn matching(&self, text: &str) -> Vec<String> {
        self.lines().into_iter().filter(|line| line.contains(text)).collect()
    }
}

impl Observer for Recorder {
    fn on_event(&self, _: &ExecutionId, event: &Event<'_>) {
        let line = match event {
            Event::ExecutionStarted { target, steps } => {
                format!("execution started: {target}, {steps} steps")
            }
            Event::AttemptStarted { step, attempt, .. } => format!("{step} {attempt} started"),
            Event::Output { step, attempt, stream, line, .. } => {
                format!("{step} {attempt} {}: {line}", stream.as_str())
            }
            Event::AttemptEnded { step, attempt, failure: None, .. } => format!("{step} {attempt} answered"),
            Event::AttemptEnded { step, attempt, failure: Some(failure), .. } => {
                format!("{step} {attempt} failed: {failure}")
            }
            Event::RetryScheduled { step, attempt, delay, .. } => {
                format!("{step} {attempt} after {} ms", delay.as_millis())
            }
            Event::StepEnded { step, outcome, .. } => format!("{step} ended: {outcome:?}"),
            Event::ExecutionEnded { error: None, .. } => "execution ended".to_owned(),
            Event::ExecutionEnded { error: Some(error), .. } => format!("execution ended: {error}"),
            other => format!("{other:?}"),
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}
