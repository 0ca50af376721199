//! Owns a host: its engine, its modules and the executions that it carries out, from the first
//! module to an orderly end. The library's front door.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use docket_graph::{FailureClass, Graph, Plan, PlanErrors, Port, StepName};
use docket_store::{Store, StoreError};
use futures_util::stream::Stream;
use tokio::sync::{OnceCell, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::artifact::{ArtifactError, ArtifactStore};
use crate::batch::{Batch, BatchRequest};
use crate::board::Home;
use crate::clock;
use crate::dirs;
use crate::engine::{MOST_INSTANCES, Metering};
use crate::execution::{Asked, Execution, OpenStore, Shared};
use crate::execution_id::ExecutionId;
use crate::failure::ExecutionError;
use crate::forecast::Forecast;
use crate::generation::{Engine, Generation, LoadErrors, Loading};
use crate::http::{Connector, HttpOptionsError};
use crate::items::ItemsError;
use crate::module::ModuleSource;
use crate::observer::Observer;
use crate::options::{HostOptions, LEAST_STACK, MOST_STACK};
use crate::outcome::Outcome;
use crate::report::{AttemptOutcome, ExecutionOutcome, Report, StepOutcome};
use crate::request::{Request, RequestError};
use crate::reuse::Instances;

/// Why there is no host.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// An option cannot be.
    #[error("max-instances is {0}, but must be from 1 to {MOST_INSTANCES}")]
    Instances(usize),
    /// An option cannot be.
    #[error("max-stack is {0} bytes, but must be from {LEAST_STACK} to {MOST_STACK}")]
    Stack(u64),
    /// An option cannot be.
    #[error(
        "the defaults of steps grant something, which would reach every module, also those that come later; grant to a step or to a module"
    )]
    DefaultGrants,
    /// An option cannot be.
    #[error("the lease is {0:?}, but must be at least {SHORTEST_LEASE:?}")]
    Lease(Duration),
    /// An option cannot be.
    #[error("the tenant `{}` must have 1 to {LONGEST_TENANT} letters, digits, `-`, `_` and `.`", .0.escape_debug())]
    Tenant(String),
    /// The directory for compiled modules cannot be used.
    #[error(transparent)]
    Artifacts(#[from] ArtifactError),
    /// wasmtime does not run here.
    #[error("the WebAssembly engine cannot be made: {0}")]
    Engine(String),
    /// Requests cannot be made as the options say.
    #[error(transparent)]
    Http(#[from] HttpOptionsError),
    /// A module, or the graph of them, is wrong.
    #[error(transparent)]
    Load(#[from] LoadErrors),
}

/// The shortest lease: it is renewed three times as often, and a store may take a while to answer.
const SHORTEST_LEASE: Duration = Duration::from_secs(1);

/// The longest name of a tenant, in bytes: with an execution's id it is part of what stores index.
const LONGEST_TENANT: usize = 128;

/// Returns whether a text may name a tenant. Never with a slash: that is what stands behind it in keys.
fn is_tenant(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=LONGEST_TENANT).contains(&text.len()) && text.bytes().all(plain)
}

/// One of so many permits for instances is never a batch's: an execution beside batches whose items take long does not wait
/// for one of them to end.
const SPARED_BY_BATCHES: usize = 8;

/// Is told the name of a module that is about to be compiled.
type OnCompile = Box<dyn Fn(&str) + Send + Sync>;

/// Collects what a [`Host`] is made of.
#[derive(Default)]
#[must_use]
pub struct HostBuilder {
    dirs: Vec<PathBuf>,
    modules: Vec<ModuleSource>,
    options: HostOptions,
    observer: Option<Arc<dyn Observer>>,
    compiling: Option<OnCompile>,
    open_store: Option<OpenStore>,
}

impl HostBuilder {
    /// Adds every `*.wasm` file below the directory.
    pub fn module_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dirs.push(dir.as_ref().to_owned());
        self
    }

    /// Adds a module from memory; the name appears in messages.
    pub fn module(mut self, name: &str, bytes: impl Into<Arc<[u8]>>) -> Self {
        self.modules.push(ModuleSource::new(name, bytes));
        self
    }

    /// Sets all options.
    pub fn options(mut self, options: HostOptions) -> Self {
        self.options = options;
        self
    }

    /// Sets where results and the journal are kept. Needed where a step keeps its results.
    pub fn store(self, store: Arc<dyn Store>) -> Self {
        self.open_store(move || std::future::ready(Ok(Arc::clone(&store))))
    }

    /// Sets how the store is opened: once, when the first execution needs it.
    pub fn open_store<F>(mut self, open: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Arc<dyn Store>, StoreError>> + Send + 'static,
    {
        self.open_store = Some(Box::new(move || Box::pin(open())));
        self
    }

    /// Sets who is told of what happens.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Sets who is told the name of a module before it is compiled, which takes a while.
    pub fn on_compile(mut self, tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.compiling = Some(Box::new(tell));
        self
    }

    /// Loads the modules, compiles those that are not known yet, and infers the graph.
    ///
    /// # Errors
    /// Where the engine cannot be made, and every fault of the modules and of their graph at once.
    pub async fn build(self) -> Result<Host, BuildError> {
        let Self { dirs, mut modules, mut options, observer, compiling, open_store } = self;
        if !(1..=MOST_INSTANCES).contains(&options.max_instances) {
            return Err(BuildError::Instances(options.max_instances));
        }
        if !(LEAST_STACK..=MOST_STACK).contains(&options.max_stack) {
            return Err(BuildError::Stack(options.max_stack));
        }
        if options.defaults.grants.is_some() {
            return Err(BuildError::DefaultGrants);
        }
        if options.lease < SHORTEST_LEASE {
            return Err(BuildError::Lease(options.lease));
        }
        if !is_tenant(&options.tenant) {
            return Err(BuildError::Tenant(options.tenant));
        }
        let of_steps = options.steps.values_mut().filter_map(|step| step.grants.as_mut());
        of_steps.chain(options.modules.iter_mut().map(|(_, grants)| grants)).for_each(dirs::resolve);
        for dir in dirs {
            modules.extend(ModuleSource::in_dir(&dir).map_err(LoadErrors)?);
        }
        let artifacts = ArtifactStore::open(&options.artifacts)?;
        let plain = Engine::new(Metering::Off, &options).map_err(BuildError::Engine)?;
        let plain = Arc::new(plain);
        let connector = Arc::new(Connector::new(options.http.clone())?);
        let compiling = compiling.unwrap_or_else(|| Box::new(|_| {}));
        let loading = Loading {
            options: &options,
            artifacts: &artifacts,
            plain: &plain,
            connector: &connector,
            compiling: &*compiling,
        };
        let generation = Arc::new(loading.generation(&modules).await?);
        let instances = Arc::new(Instances::new(options.max_instances));
        let spared = options.max_instances.div_ceil(SPARED_BY_BATCHES).min(options.max_instances - 1);
        let batches = Arc::new(Semaphore::new(options.max_instances - spared));
        let most_helpers = options.lanes.saturating_sub(1);
        let tenant = options.tenant.as_str().into();
        let host = Shared {
            home: Arc::new(Home { generation, instances, batches, most_helpers, tenant, observer }),
            executions: TaskTracker::new(),
            shutdown: CancellationToken::new(),
            options,
            artifacts,
            plain,
            connector,
            compiling,
            open_store,
            keeping: OnceCell::new(),
        };
        Ok(Host(Arc::new(host)))
    }
}

/// Runs executions over a set of modules. Clones share everything.
///
/// ```no_run
/// # use docket_runtime::{Host, Request};
/// # #[derive(Clone, PartialEq, prost::Message)] struct UserId { #[prost(string, tag = "1")] id: String }
/// # impl prost::Name for UserId { const NAME: &'static str = "UserID"; const PACKAGE: &'static str = "example.v1"; }
/// # #[derive(Clone, PartialEq, prost::Message)] struct EnrichedUser {}
/// # impl prost::Name for EnrichedUser { const NAME: &'static str = "EnrichedUser"; const PACKAGE: &'static str = "example.v1"; }
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let host = Host::builder().module_dir("guests").build().await?;
/// let request = Request::for_message::<EnrichedUser>().input(&UserId { id: "user-123".into() });
/// let user: EnrichedUser = host.execute(request).await?.message()?;
/// host.shutdown(std::time::Duration::from_secs(5)).await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Host(Arc<Shared>);

/// What a shutdown found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Drained {
    /// Every execution ended by itself.
    Complete,
    /// At the deadline these many executions were under way and were stopped.
    Stopped(usize),
}

impl Host {
    /// Returns a builder without modules.
    pub fn builder() -> HostBuilder {
        HostBuilder::default()
    }

    /// Returns the modules and their graph.
    pub fn generation(&self) -> &Arc<Generation> {
        &self.0.home.generation
    }

    /// Returns the graph.
    pub fn graph(&self) -> &Graph {
        self.0.home.generation.graph()
    }

    /// Returns what the request needs, without running anything.
    ///
    /// # Errors
    /// As [`Host::execute`] before it runs anything.
    pub fn plan(&self, target: &Port, given: &[Port]) -> Result<Plan, PlanErrors> {
        Plan::of(self.graph(), target, given)
    }

    /// Returns what would become of each step that the request needs, in the plan's order, without
    /// running anything. Where no step keeps its results, the store is not touched.
    ///
    /// # Errors
    /// As [`Host::execute`] before it runs anything, and where the store cannot be read.
    pub async fn forecast(&self, request: Request) -> Result<Vec<(StepName, Forecast)>, RequestError> {
        self.0.forecast(request).await
    }

    /// Returns whether an execution that ended like this may come to another end when it is gone on with: it was stopped,
    /// or a step failed in a way that its options try again. All else would most likely end the same way.
    pub fn may_end_otherwise(&self, error: &ExecutionError, report: &Report) -> bool {
        let is_retried = |step: &StepName, class: FailureClass, code: Option<&str>| {
            let step = self.graph().find_step(step.as_str());
            step.is_some_and(|step| self.generation().retry(step).reclassify.is_retried(class, code))
        };
        match error {
            ExecutionError::Deadline { .. }
            | ExecutionError::Cancelled
            | ExecutionError::Shutdown
            | ExecutionError::Items { .. } => true,
            ExecutionError::Aborted { .. } | ExecutionError::Item { .. } => false,
            ExecutionError::Failed { step, source, .. } => is_retried(step, source.class(), source.code()),
            ExecutionError::Recorded { .. } => match report.outcome {
                ExecutionOutcome::DeadlineExceeded
                | ExecutionOutcome::Cancelled
                | ExecutionOutcome::Shutdown => true,
                ExecutionOutcome::Done | ExecutionOutcome::Aborted => false,
                // The report has the class of each failure, and not its code.
                ExecutionOutcome::Failed => report.steps.iter().any(|step| {
                    let last = step.attempts.last().map(|attempt| attempt.outcome);
                    let class = match last {
                        Some(AttemptOutcome::Failed(class)) => class,
                        Some(AttemptOutcome::Done | AttemptOutcome::Cancelled) | None => return false,
                    };
                    step.outcome == StepOutcome::Failed && is_retried(&step.step, class, None)
                }),
            },
        }
    }

    /// Carries a request out.
    ///
    /// A step's failure is no error here: it is the result in the [`Outcome`], with the report.
    ///
    /// # Errors
    /// Where the request does not fit the graph; nothing has run then.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the execution: its instances are dropped at once, or at the end
    /// of the time slice that one of them is computing in.
    pub async fn execute(&self, request: Request) -> Result<Outcome, RequestError> {
        let asked = Asked::of(&self.0, request)?;
        pin!(asked.outcome(&self.0)).await
    }

    /// Accepts a request, and returns the execution before any of it has run: it runs while its
    /// outcome is awaited.
    ///
    /// # Errors
    /// As [`Host::execute`].
    pub fn start(&self, request: Request) -> Result<Execution, RequestError> {
        self.0.accept(request)
    }

    /// Accepts a batch: one request for each of many items, or for all of them together, by one engine and as one execution.
    /// Nothing of it runs before its outcomes are awaited.
    ///
    /// A batch does not starve others. Its attempts share the permits of this host with all executions, in the order of asking,
    /// and all batches together never have the last eighth of them; it has no more under way than it has places
    /// ([`BatchRequest::max_concurrency`]), and a guest that computes lets others have its thread every 10 ms.
    ///
    /// # Errors
    /// Where the request does not fit the graph; nothing has run then.
    pub fn batch<S>(&self, request: BatchRequest, items: S) -> Result<Batch, RequestError>
    where
        S: Stream<Item = Result<Bytes, ItemsError>> + Send + 'static,
    {
        self.0.accept_batch(request, items)
    }

    /// Returns the journaled execution of this id, to be gone on with: with the request and the modules
    /// that it began with, and without what it has kept being computed again. One that is done is
    /// answered from its record; one that another process carries out is waited for.
    pub fn resume(&self, id: ExecutionId) -> Execution {
        self.0.resume(id)
    }

    /// Returns how many executions are under way.
    pub fn executions(&self) -> usize {
        self.0.executions.len()
    }

    /// Ends the host: takes no more executions, waits until the deadline for those under way, then
    /// stops them and waits until they are gone.
    ///
    /// All clones are shut down with it, and what they had to say to the store is said; the store itself
    /// stays open. Executions that nobody awaits any more are not waited for.
    pub async fn shutdown(self, deadline: Duration) -> Drained {
        self.0.executions.close();
        let until = clock::deadline(clock::now(), deadline);
        let drained = tokio::select! {
            () = self.0.executions.wait() => Drained::Complete,
            () = clock::sleep_until(until) => {
                let under_way = self.0.executions.len();
                self.0.shutdown.cancel();
                self.0.executions.wait().await;
                Drained::Stopped(under_way)
            }
        };
        if let Some(keeping) = self.0.keeping.get() {
            keeping.close().await;
        }
        self.0.connector.close().await;
        drained
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("modules", &self.0.home.generation.modules()).finish_non_exhaustive()
    }
}
