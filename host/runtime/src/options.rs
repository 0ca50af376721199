//! Owns what an operator can set, with every default beside its unit and its reason.
//! Never reads a file or the environment: whoever embeds the host fills these structs.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use docket_graph::{Backoff, Jitter, Policy, Reclassify, Retry};

/// Wall-clock limit of one attempt. 30 s: longer than a step should take, shorter than the
/// patience of a load balancer.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Linear memory of one instance, in bytes. 256 MiB: what the heaviest language runtimes need to
/// do real work, and a bound that a hundred tenants can share.
pub const DEFAULT_MEMORY: u64 = 256 << 20;

/// Elements of all tables of one instance. Go and Python need tens of thousands; an element costs
/// the host 16 bytes at most.
pub const DEFAULT_TABLE_ELEMENTS: u64 = 100_000;

/// Bytes of one answer, all its messages together. 16 MiB: well above a message that should flow
/// through a graph, well below what hurts the host.
pub const DEFAULT_OUTPUT: u64 = 16 << 20;

/// Bytes that one attempt may write to stdout and stderr together. 1 MiB is ten thousand lines.
pub const DEFAULT_LOGS: u64 = 1 << 20;

/// What a host can be told. Construct with `HostOptions::default()` and change fields.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// The most guest instances alive at once, in all executions together; an attempt beyond it
    /// waits. Default 256: each holds a slot of reserved address space and, once used, keeps
    /// some resident memory warm. From 1 to 4,000 (the kernel's limit on memory maps).
    pub max_instances: usize,
    /// Where compiled modules are kept.
    pub artifacts: Artifacts,
    /// For steps that declare nothing themselves and have no entry in `steps`.
    pub defaults: StepOptions,
    /// By step name; overrides what the step declares.
    pub steps: BTreeMap<String, StepOptions>,
    /// Bounds on declarations and options alike.
    pub caps: Caps,
    /// Worker tasks that one execution may spread over. Default: the number of processors.
    pub lanes: usize,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            max_instances: 256,
            artifacts: Artifacts::UserCache,
            defaults: StepOptions::default(),
            steps: BTreeMap::new(),
            caps: Caps::default(),
            lanes: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// Where compiled modules are kept, by the digest of the module and the settings of the engine.
/// Files there are trusted like the program itself, so the directory must be writable by its
/// owner alone; the host creates it so and refuses one that is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Artifacts {
    /// `docket` in the user's cache directory.
    UserCache,
    /// This directory, which is created if need be.
    Dir(PathBuf),
    /// Nowhere: every module is compiled at every start.
    Nowhere,
}

/// What can be set for a step. `None` leaves it to the next source: the step's declaration, then
/// the host's defaults, then the constants of this module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepOptions {
    /// Wall-clock limit of one attempt.
    pub timeout: Option<Duration>,
    /// Linear memory of one instance, in bytes.
    pub memory: Option<u64>,
    /// Elements of all tables of one instance.
    pub table_elements: Option<u64>,
    /// Bytes of one answer.
    pub output: Option<u64>,
    /// Bytes written to stdout and stderr by one attempt.
    pub logs: Option<u64>,
    /// A deterministic budget of executed instructions, in wasmtime's fuel units. A step with a
    /// budget runs on a second engine that counts, which costs a fifth of its speed.
    pub fuel: Option<u64>,
    /// Changes to how failures are retried.
    pub retry: RetryOptions,
    /// The most attempts of this step at once in this host.
    pub max_concurrency: Option<NonZeroU32>,
    /// What the step reads by `wasi:config`. `Some` is the grant to read it, even when empty.
    pub config: Option<BTreeMap<String, String>>,
}

/// Field-wise changes to a step's declared [`Retry`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RetryOptions {
    /// All attempts together.
    pub max_attempts: Option<NonZeroU32>,
    /// The delay between attempts.
    pub backoff: Option<Backoff>,
    /// Whether delays are drawn at random.
    pub jitter: Option<Jitter>,
    /// Which failures are retried against their kind.
    pub reclassify: Option<Reclassify>,
}

/// Bounds that neither a module's declaration nor a step's options can exceed: what asks for more
/// gets the cap.
#[derive(Clone, Debug, PartialEq)]
pub struct Caps {
    /// Default one hour: a step that needs longer should be cut in two.
    pub timeout: Duration,
    /// In bytes. Default 1 GiB; each pool slot reserves this much address space.
    pub memory: u64,
    /// Default 1,000,000 elements.
    pub table_elements: u64,
    /// In bytes. Default 256 MiB.
    pub output: u64,
    /// In bytes. Default 64 MiB.
    pub logs: u64,
    /// Default 1,000 attempts, so that no module can keep a host busy for ever.
    pub max_attempts: NonZeroU32,
}

impl Default for Caps {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(3600),
            memory: 1 << 30,
            table_elements: 1_000_000,
            output: 256 << 20,
            logs: 64 << 20,
            max_attempts: NonZeroU32::new(1000).expect("1000 is not zero"),
        }
    }
}

/// The limits of one attempt, decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Wall-clock time.
    pub timeout: Duration,
    /// Linear memory, in bytes.
    pub memory: u64,
    /// Elements of all tables.
    pub table_elements: u64,
    /// Bytes of the answer.
    pub output: u64,
    /// Bytes of stdout and stderr together.
    pub logs: u64,
    /// Fuel units; none is not counted.
    pub fuel: Option<u64>,
}

/// How one step is run: its declaration, the operator's options and the caps, put together.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    /// The limits of each attempt.
    pub limits: Limits,
    /// When a failed attempt is tried again.
    pub retry: Retry,
    /// The most attempts of this step at once in this host.
    pub max_concurrency: Option<NonZeroU32>,
    /// What the step reads by `wasi:config`, if it may.
    pub config: Option<BTreeMap<String, String>>,
}

impl HostOptions {
    /// Returns how a step of this name and declaration is run.
    pub fn effective(&self, step: &str, declared: &Policy) -> Effective {
        let none = StepOptions::default();
        let own = self.steps.get(step).unwrap_or(&none);
        let defaults = &self.defaults;
        let caps = &self.caps;
        let size = |own: Option<u64>, default: Option<u64>, built_in: u64, cap: u64| {
            own.or(default).unwrap_or(built_in).min(cap)
        };
        let timeout = own.timeout.or(declared.timeout).or(defaults.timeout).unwrap_or(DEFAULT_TIMEOUT);
        let limits = Limits {
            timeout: timeout.min(caps.timeout),
            memory: size(own.memory, defaults.memory, DEFAULT_MEMORY, caps.memory),
            table_elements: size(
                own.table_elements,
                defaults.table_elements,
                DEFAULT_TABLE_ELEMENTS,
                caps.table_elements,
            ),
            output: size(own.output, defaults.output, DEFAULT_OUTPUT, caps.output),
            logs: size(own.logs, defaults.logs, DEFAULT_LOGS, caps.logs),
            fuel: own.fuel.or(defaults.fuel),
        };
        let mut retry = declared.retry.clone().unwrap_or_else(|| {
            let mut retry = Retry::once();
            defaults.retry.apply(&mut retry);
            retry
        });
        own.retry.apply(&mut retry);
        retry.max_attempts = retry.max_attempts.min(caps.max_attempts);
        Effective {
            limits,
            retry,
            max_concurrency: own.max_concurrency.or(declared.max_concurrency).or(defaults.max_concurrency),
            config: own.config.clone(),
        }
    }
}

impl RetryOptions {
    fn apply(&self, retry: &mut Retry) {
        let RetryOptions { max_attempts, backoff, jitter, reclassify } = self.clone();
        retry.max_attempts = max_attempts.unwrap_or(retry.max_attempts);
        retry.backoff = backoff.or(retry.backoff.take());
        retry.jitter = jitter.unwrap_or(retry.jitter);
        if let Some(reclassify) = reclassify {
            retry.reclassify = reclassify;
        }
    }
}
