//! What tests of kept results share: hosts on one store, a clock that is set by hand, modules that
//! differ in nothing but their digest. Never asserts anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use docket_graph::{Persistence, Scope};
use docket_runtime::{Host, HostOptions, Keeping, Request, StepOptions};
use docket_store::{Clock, MemoryStore, Store, Timestamp};

use crate::{Recorder, example, fixture, options};

/// A clock that stands still until it is moved. Clones are one clock.
#[derive(Clone)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// Returns a clock that stands somewhere in 2026.
    pub fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1_790_000_000_000)))
    }

    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_millis()).expect("a test's time is short"), Ordering::SeqCst);
    }

    /// Sets the clock.
    pub fn set(&self, to: Timestamp) {
        self.0.store(to.0, Ordering::SeqCst);
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// What hosts of one test have in common. Change the fields between two hosts as the test needs.
#[derive(Clone)]
pub struct Setup {
    /// Where results are kept.
    pub store: Arc<dyn Store>,
    /// The modules: name and component.
    pub modules: Vec<(String, Vec<u8>)>,
    /// The hosts' options.
    pub options: HostOptions,
    /// What happens in all the hosts.
    pub recorder: Arc<Recorder>,
}

impl Setup {
    /// Returns fixtures on a store in memory; no step keeps its results yet.
    pub fn new(fixtures: &[&str]) -> Self {
        let modules = fixtures.iter().map(|name| (format!("{name}.wasm"), fixture(name))).collect();
        let store = Arc::new(MemoryStore::new());
        Self { store, modules, options: options(), recorder: Recorder::new() }
    }

    /// Puts another store in the place of the one there is.
    #[must_use]
    pub fn on(mut self, store: impl Store) -> Self {
        self.store = Arc::new(store);
        self
    }

    /// Sets a step's options.
    #[must_use]
    pub fn step(mut self, name: &str, step: StepOptions) -> Self {
        self.options.steps.insert(name.to_owned(), step);
        self
    }

    /// Changes the options.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut HostOptions)) -> Self {
        change(&mut self.options);
        self
    }

    /// Changes the component of the first module.
    #[must_use]
    pub fn first_module(mut self, change: impl FnOnce(&[u8]) -> Vec<u8>) -> Self {
        self.modules[0].1 = change(&self.modules[0].1);
        self
    }

    /// Returns a new host.
    ///
    /// # Panics
    /// Where the fixtures do not load.
    pub async fn host(&self) -> Host {
        let Self { store, modules, options, recorder } = self;
        let builder =
            Host::builder().options(options.clone()).store(store.clone()).observer(recorder.clone());
        let add = |builder: docket_runtime::HostBuilder, (name, bytes): &(String, Vec<u8>)| {
            builder.module(name, bytes.clone())
        };
        let host = modules.iter().fold(builder, add).build().await;
        host.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns how many attempts at a step were started, in all the hosts.
    pub fn starts(&self, step: &str) -> usize {
        self.recorder.starts(step)
    }
}

/// Returns options by which a step's results are kept.
pub fn keeping(scope: Scope, ttl: Option<Duration>) -> StepOptions {
    StepOptions { persistence: Some(Keeping::On(Persistence { scope, ttl })), ..StepOptions::default() }
}

/// Returns a request that tells the fixtures what to do.
pub fn told(words: &str) -> Request {
    Request::for_message::<example::UserProfile>().input(&example::UserId { id: words.to_owned() })
}

/// Returns a component that does the same and has another digest.
pub fn replaced(component: &[u8]) -> Vec<u8> {
    // A custom section, which nobody reads: its id, its length, its name with length, its content.
    [component, &[0, 3, 1, b'x', b'y']].concat()
}

/// Returns a component with other bytes, as many, wherever the given ones stand.
///
/// # Panics
/// Where they stand nowhere.
pub fn patched(component: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len(), "offsets stay as they are");
    let mut patched = component.to_vec();
    let places: Vec<usize> = component
        .windows(from.len())
        .enumerate()
        .filter(|(_, seen)| *seen == from.as_bytes())
        .map(|(at, _)| at)
        .collect();
    assert!(!places.is_empty(), "`{from}` is not in the component");
    for at in places {
        patched[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    patched
}
