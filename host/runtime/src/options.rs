//! Owns what an operator can set, with every default beside its unit and its reason.
//! Never reads a file or the environment: whoever embeds the host fills these structs.

mod effective;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use docket_graph::{Backoff, Jitter, Persistence, Reclassify, Retry};
use serde::{Deserialize, Serialize};

use crate::grants::{GrantOptions, ModulePattern};
use crate::http::HttpOptions;

pub use effective::{Effective, Limits};

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

/// Lines that one attempt may write to stdout and stderr together. 10,000: each costs the host an
/// event however short it is, and nobody reads more.
pub const DEFAULT_LOG_LINES: u64 = 10_000;

/// Files, directories and listings that one attempt may hold open at once. 64: a process is commonly
/// given 1,024 for all that it does.
pub const DEFAULT_OPEN_FILES: u64 = 64;

/// Bytes that one attempt may write into granted directories. 1 GiB: well above a result that should
/// be a file, well below a disk.
pub const DEFAULT_DIR_BYTES: u64 = 1 << 30;

/// Stack of a guest, in bytes. 1 MiB, twice wasmtime's default: Python's interpreter recurses deeply.
pub const DEFAULT_STACK: u64 = 1 << 20;

/// The smallest stack of a guest that can be set, in bytes. 64 KiB: no language's runtime does with less.
pub const LEAST_STACK: u64 = 64 << 10;

/// The largest stack of a guest that can be set, in bytes. 64 MiB: each of the pool's instances
/// reserves as much address space.
pub const MOST_STACK: u64 = 64 << 20;

/// For how long an execution is remembered once it has ended. A week: long enough to be looked into
/// after a weekend, and for a caller to ask again under the same id.
pub const DEFAULT_RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a host can be told. Construct with `HostOptions::default()` and change fields.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// The most guest instances alive at once, in all executions together; an attempt beyond it
    /// waits. Default 256: each holds a slot of reserved address space and, once used, keeps
    /// some resident memory warm. From 1 to 4,000 (the kernel's limit on memory maps).
    pub max_instances: usize,
    /// Stack of a guest, in bytes, for all steps alike because the engine is made with it. Default
    /// [`DEFAULT_STACK`]; from [`LEAST_STACK`] to [`MOST_STACK`].
    pub max_stack: u64,
    /// Where compiled modules are kept.
    pub artifacts: Artifacts,
    /// For steps that declare nothing themselves and have no entry in `steps`.
    pub defaults: StepOptions,
    /// By step name; overrides what the step declares.
    pub steps: BTreeMap<String, StepOptions>,
    /// Grants to all steps of modules, by the modules' names or digests. Of several that name a module,
    /// the more exact one comes first.
    pub modules: Vec<(ModulePattern, GrantOptions)>,
    /// Bounds on declarations and options alike.
    pub caps: Caps,
    /// Worker tasks that one execution may spread over. Default: the number of processors.
    pub lanes: usize,
    /// Whose keys and executions these are: letters, digits, `-`, `_` and `.`. Default `default`.
    pub tenant: String,
    /// How long a claim on a result holds when it is not renewed: for how long a host that dies holds
    /// others up. Default 30 s; renewed three times as often. At least 1 s.
    pub lease: Duration,
    /// For how long an execution that kept results is remembered once it has ended;
    /// `Duration::MAX` is for ever. Default one week.
    pub retention: Duration,
    /// How outgoing requests are made.
    pub http: HttpOptions,
    /// What the embedder needs to make these options again when an execution is resumed elsewhere;
    /// kept with every execution that keeps results. Default nothing.
    pub settings: Option<String>,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            max_instances: 256,
            max_stack: DEFAULT_STACK,
            artifacts: Artifacts::UserCache,
            defaults: StepOptions::default(),
            steps: BTreeMap::new(),
            modules: Vec::new(),
            caps: Caps::default(),
            lanes: std::thread::available_parallelism().map_or(1, usize::from),
            tenant: "default".to_owned(),
            lease: docket_store::LEASE,
            retention: DEFAULT_RETENTION,
            http: HttpOptions::default(),
            settings: None,
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
    /// Lines written to stdout and stderr by one attempt.
    pub log_lines: Option<u64>,
    /// Files, directories and listings held open at once by one attempt.
    pub open_files: Option<u64>,
    /// Bytes written into granted directories by one attempt; a file or directory that is made
    /// counts as 4 KiB, whatever it holds.
    pub dir_bytes: Option<u64>,
    /// Processor time of one attempt, looked at every [`TICK`](crate::TICK). Measured by the clock of
    /// the thread, so that it grows only while the guest or the host on its behalf computes.
    pub cpu: Option<Duration>,
    /// Outgoing HTTP requests of one attempt.
    pub http_requests: Option<u64>,
    /// Bytes that one attempt sends and receives over HTTP.
    pub http_bytes: Option<u64>,
    /// Outgoing HTTP requests of one attempt under way at once.
    pub http_concurrent: Option<u64>,
    /// A deterministic budget of executed instructions, in wasmtime's fuel units. A step with a
    /// budget runs on a second engine that counts, which costs a fifth of its speed.
    pub fuel: Option<u64>,
    /// Changes to how failures are retried.
    pub retry: RetryOptions,
    /// The most attempts of this step at once in this host.
    pub max_concurrency: Option<NonZeroU32>,
    /// What the step reads by `wasi:config`. `Some` is the grant to read it, even when empty.
    pub config: Option<BTreeMap<String, String>>,
    /// What the step may touch beyond its inputs, kind by kind before what its module was granted. The
    /// defaults grant nothing: it would reach modules that come later.
    pub grants: Option<GrantOptions>,
    /// Whether and how results are kept.
    pub persistence: Option<Keeping>,
    /// What to do where the store cannot be read or written. Without it the step fails.
    pub on_store_error: Option<OnStoreError>,
    /// Whether an instance is used for one attempt or for many. Like a grant, for modules that the operator trusts: the
    /// defaults set nothing here, because it would reach modules that come later.
    pub instance: Option<Instance>,
}

/// For how many attempts an instance of a step's module is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Instance {
    /// For one: nothing that one attempt leaves in it reaches another.
    #[default]
    Fresh,
    /// For one after the other of the same step in the same execution or batch, as long as each ends with an answer: worth
    /// the start of a language's runtime. What the step keeps in its memory, its later attempts see.
    Reuse,
}

/// Whether results of a step are kept, against what it declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// They are not.
    Off,
    /// They are, like this.
    On(Persistence),
}

/// What a kept step does where the store cannot be read or written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnStoreError {
    /// It fails: whoever counts on its running once is not let down in silence.
    #[default]
    Fail,
    /// It runs, and its result is used but perhaps not kept: it may run again.
    Run,
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
    /// Default 1,000,000 lines.
    pub log_lines: u64,
    /// Default 1,024 files.
    pub open_files: u64,
    /// In bytes. Default 1 TiB.
    pub dir_bytes: u64,
    /// Default none: the timeout bounds it already. A cap holds for steps that set nothing too.
    pub cpu: Option<Duration>,
    /// Fuel units. Default none; a cap holds for steps that set nothing too, which makes all run on
    /// the engine that counts.
    pub fuel: Option<u64>,
    /// Default 10,000 requests of one attempt.
    pub http_requests: u64,
    /// In bytes. Default 1 GiB.
    pub http_bytes: u64,
    /// Default 100 requests at once.
    pub http_concurrent: u64,
    /// Default 1,000 attempts, so that no module can keep a host busy for ever.
    pub max_attempts: NonZeroU32,
    /// Default [`Instance::Reuse`]: a step's options decide. [`Instance::Fresh`] lets none of them.
    pub instance: Instance,
}

impl Default for Caps {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(3600),
            memory: 1 << 30,
            table_elements: 1_000_000,
            output: 256 << 20,
            logs: 64 << 20,
            log_lines: 1_000_000,
            open_files: 1_024,
            dir_bytes: 1 << 40,
            cpu: None,
            fuel: None,
            http_requests: 10_000,
            http_bytes: 1 << 30,
            http_concurrent: 100,
            max_attempts: NonZeroU32::new(1000).expect("1000 is not zero"),
            instance: Instance::Reuse,
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
