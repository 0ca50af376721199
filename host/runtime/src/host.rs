//! Owns a host: its engine, its modules and the executions that it carries out, from the first
//! module to an orderly end. The library's front door.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use docket_graph::{Arity, Graph, Plan, PlanErrors, Port};
use prost::Name;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::artifact::{ArtifactError, ArtifactStore};
use crate::board::{Home, Run, Start};
use crate::call;
use crate::clock;
use crate::drive::{Stops, drive};
use crate::engine::{MOST_INSTANCES, Metering};
use crate::execution_id::ExecutionId;
use crate::failure::ExecutionError;
use crate::generation::{Engine, Generation, LoadErrors, Loading};
use crate::module::ModuleSource;
use crate::observer::Observer;
use crate::options::HostOptions;
use crate::report::Report;
use crate::request::{Request, RequestError};
use crate::value::Value;

/// Why there is no host.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// An option cannot be.
    #[error("max-instances is {0}, but must be from 1 to {MOST_INSTANCES}")]
    Instances(usize),
    /// The directory for compiled modules cannot be used.
    #[error(transparent)]
    Artifacts(#[from] ArtifactError),
    /// wasmtime does not run here.
    #[error("the WebAssembly engine cannot be made: {0}")]
    Engine(String),
    /// A module, or the graph of them, is wrong.
    #[error(transparent)]
    Load(#[from] LoadErrors),
}

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
        let Self { dirs, mut modules, options, observer, compiling } = self;
        if !(1..=MOST_INSTANCES).contains(&options.max_instances) {
            return Err(BuildError::Instances(options.max_instances));
        }
        for dir in dirs {
            modules.extend(ModuleSource::in_dir(&dir).map_err(LoadErrors)?);
        }
        let artifacts = ArtifactStore::open(&options.artifacts)?;
        let plain =
            Engine::new(Metering::Off, &options).map_err(|error| BuildError::Engine(format!("{error:#}")))?;
        let plain = Arc::new(plain);
        let compiling = compiling.unwrap_or_else(|| Box::new(|_| {}));
        let loading =
            Loading { options: &options, artifacts: &artifacts, plain: &plain, compiling: &*compiling };
        let generation = Arc::new(loading.generation(&modules).await?);
        let instances = Arc::new(Semaphore::new(options.max_instances));
        let most_helpers = options.lanes.saturating_sub(1);
        let host = Inner {
            home: Arc::new(Home { generation, instances, most_helpers, observer }),
            executions: TaskTracker::new(),
            shutdown: CancellationToken::new(),
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
pub struct Host(Arc<Inner>);

struct Inner {
    home: Arc<Home>,
    executions: TaskTracker,
    shutdown: CancellationToken,
}

/// An execution that is over.
#[derive(Debug)]
pub struct Outcome {
    /// The value that was asked for, or why there is none.
    pub result: Result<Arc<Value>, ExecutionError>,
    /// What happened.
    pub report: Report,
}

/// Why an outcome is not the message that the caller wants.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutcomeError {
    /// The execution has no result.
    #[error(transparent)]
    Execution(#[from] ExecutionError),
    /// The result is a list.
    #[error("the result is a list of {0} messages; take them with `messages`")]
    List(usize),
    /// The bytes are another type's.
    #[error("the result is not the message that was asked for: {0}")]
    Decode(#[from] prost::DecodeError),
}

impl Outcome {
    /// Returns the one message of the result.
    ///
    /// # Errors
    /// Where the execution failed, or its result is not one message of this type.
    pub fn message<M: Name + Default>(self) -> Result<M, OutcomeError> {
        match &*self.result? {
            Value::One(payload) => Ok(M::decode(&payload.bytes()[..])?),
            Value::Many(payloads) => Err(OutcomeError::List(payloads.len())),
        }
    }

    /// Returns all messages of the result; one, where it is one.
    ///
    /// # Errors
    /// Where the execution failed, or its result is not messages of this type.
    pub fn messages<M: Name + Default>(self) -> Result<Vec<M>, OutcomeError> {
        let value = self.result?;
        let messages = value.payloads().iter().map(|payload| M::decode(&payload.bytes()[..]));
        Ok(messages.collect::<Result<_, _>>()?)
    }
}

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
        self.start(request)?.outcome().await
    }

    /// Accepts a request, and returns the execution before any of it has run: it runs while its
    /// outcome is awaited.
    ///
    /// # Errors
    /// As [`Host::execute`].
    pub fn start(&self, request: Request) -> Result<Execution, RequestError> {
        let Request { target, inputs, execution_id, started_at, timeout } = request;
        if self.0.executions.is_closed() {
            return Err(RequestError::Closed);
        }
        let mut ports = Vec::with_capacity(inputs.len() + 1);
        let mut given = Vec::with_capacity(inputs.len());
        for (port, value) in inputs {
            ports.push(port?);
            given.push(value);
        }
        let prepared = self.0.home.generation.plan(target?, &mut ports)?;
        check(self.graph(), &ports, &given)?;
        let now = clock::unix_millis(clock::wall());
        let start = Start {
            id: execution_id.unwrap_or_else(|| ExecutionId::at(now)),
            home: Arc::clone(&self.0.home),
            prepared,
            given,
            started_at_ms: started_at.map_or(now, clock::unix_millis),
            limit: timeout,
        };
        Ok(Execution { start, host: self.clone(), cancelled: None })
    }

    /// Returns how many executions are under way.
    pub fn executions(&self) -> usize {
        self.0.executions.len()
    }

    /// Ends the host: takes no more executions, waits until the deadline for those under way, then
    /// stops them and waits until they are gone.
    ///
    /// All clones are shut down with it. Executions that nobody awaits any more are not waited for.
    pub async fn shutdown(self, deadline: Duration) -> Drained {
        self.0.executions.close();
        let until = clock::deadline(clock::now(), deadline);
        tokio::select! {
            () = self.0.executions.wait() => Drained::Complete,
            () = clock::sleep_until(until) => {
                let under_way = self.0.executions.len();
                self.0.shutdown.cancel();
                self.0.executions.wait().await;
                Drained::Stopped(under_way)
            }
        }
    }
}

/// An accepted request. Runs while [`Execution::outcome`] is awaited.
#[must_use = "an execution runs only while its outcome is awaited"]
pub struct Execution {
    start: Start,
    host: Host,
    cancelled: Option<CancellationToken>,
}

/// Stops an execution from elsewhere. Clones stop the same one.
#[derive(Clone, Debug)]
pub struct Canceller(CancellationToken);

impl Canceller {
    /// Stops the execution, unless it is over: nothing new starts, what runs is stopped, and the
    /// outcome is [`ExecutionError::Cancelled`].
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

impl Execution {
    /// Returns the execution's id.
    pub fn id(&self) -> &ExecutionId {
        &self.start.id
    }

    /// Returns what stops this execution.
    pub fn canceller(&mut self) -> Canceller {
        Canceller(self.cancelled.get_or_insert_default().clone())
    }

    /// Carries the execution out.
    ///
    /// # Errors
    /// Where the host was shut down since the request was accepted.
    ///
    /// # Cancel safety
    /// As [`Host::execute`].
    pub async fn outcome(self) -> Result<Outcome, RequestError> {
        let Self { start, host, cancelled } = self;
        // Counted first: a shutdown either sees this execution or is seen by it.
        let _counted = host.0.executions.token();
        if host.0.executions.is_closed() {
            return Err(RequestError::Closed);
        }
        let run = Run::begin(start);
        let stops = Stops {
            deadline: run.limit.and_then(|limit| clock::deadline(run.started, limit)),
            cancelled,
            shutdown: &host.0.shutdown,
        };
        drive(&run, stops).await;
        let (result, report) = run.outcome();
        Ok(Outcome { result, report })
    }
}

/// Checks what the caller gives before anything runs: each message is what its port says, and a
/// list is given only where lists are taken.
fn check(graph: &Graph, ports: &[Port], given: &[Arc<Value>]) -> Result<(), RequestError> {
    for (port, value) in ports.iter().zip(given) {
        let id = graph.find_port(port).expect("the plan knows every given port");
        if let Some(fault) = call::undecodable(value, graph.schema(id)) {
            return Err(RequestError::Input { port: port.clone(), fault });
        }
        if value.arity() == Arity::Many {
            let takes_one = |step: &&docket_graph::StepId| {
                graph.step(**step).inputs.iter().any(|(input, arity)| *input == id && *arity == Arity::One)
            };
            if let Some(step) = graph.consumers(id).iter().find(takes_one) {
                let step = graph.step(*step).name.clone();
                return Err(RequestError::List { port: port.clone(), step });
            }
        }
    }
    Ok(())
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("modules", &self.0.home.generation.modules()).finish_non_exhaustive()
    }
}
