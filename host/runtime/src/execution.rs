//! Owns what a caller may ask, from its acceptance to its outcome, and what all executions of a host share. Never
//! decides what a step does; the way through the journal, where results are kept, is that of `journaled`.

mod journaled;

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use docket_graph::{Arity, Graph, Port};
use docket_store::Unfinished;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{OnceCell, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::artifact::ArtifactStore;
use crate::board::{Home, Run, Start};
use crate::call;
use crate::clock;
use crate::drive::{Stops, drive};
use crate::execution_id::ExecutionId;
use crate::failure::said_by;
use crate::generation::{Engine, Generation, Keep, LoadErrors, Loading, Prepared};
use crate::held::ExecutionRecord;
use crate::http::Connector;
use crate::keep::{Keeping, KeepingParts};
use crate::module::ModuleSource;
use crate::observer::Observer;
use crate::options::{HostOptions, OnStoreError};
use crate::outcome::Outcome;
use crate::request::{Request, RequestError};
use crate::reuse::Instances;
use crate::value::Value;

pub(crate) use journaled::{detail, digest_of, keep_modules, notes, status_of, unfinished, warn_of_wait};

/// Opens the store when it is first needed.
pub(crate) type OpenStore = Box<
    dyn Fn() -> BoxFuture<'static, Result<Arc<dyn docket_store::Store>, docket_store::StoreError>>
        + Send
        + Sync,
>;

/// What all executions of a host share.
pub(crate) struct Shared {
    pub(crate) home: Arc<Home>,
    pub(crate) executions: TaskTracker,
    pub(crate) shutdown: CancellationToken,
    pub(crate) options: HostOptions,
    pub(crate) artifacts: ArtifactStore,
    pub(crate) plain: Arc<Engine>,
    pub(crate) connector: Arc<Connector>,
    pub(crate) compiling: Box<dyn Fn(&str) + Send + Sync>,
    pub(crate) open_store: Option<OpenStore>,
    pub(crate) keeping: OnceCell<Arc<Keeping>>,
}

impl Shared {
    /// Returns what the host has of its store, which is opened now if it was not before.
    pub(crate) async fn keeping(&self) -> Result<&Arc<Keeping>, RequestError> {
        let open = self.open_store.as_ref().ok_or(RequestError::NoStore { step: None })?;
        let parts = async || {
            let store = open().await?;
            let HostOptions { tenant, lease, retention, .. } = &self.options;
            let (tenant, lease, retention) = (tenant.as_str().into(), *lease, *retention);
            Ok(Keeping::new(KeepingParts { store, tenant, lease, retention }))
        };
        self.keeping.get_or_try_init(parts).await
    }

    pub(crate) fn loading(&self) -> Loading<'_> {
        let Self { options, artifacts, plain, connector, compiling, .. } = self;
        Loading { options, artifacts, plain, connector, compiling: &**compiling }
    }

    /// Returns a home for a generation beside the live one: it shares all but the modules.
    pub(crate) fn home_of(&self, generation: Generation) -> Arc<Home> {
        let Home { generation: _, instances, batches, most_helpers, tenant, observer } = &*self.home;
        let (instances, batches): (Arc<Instances>, Arc<Semaphore>) =
            (Arc::clone(instances), Arc::clone(batches));
        let (most_helpers, tenant) = (*most_helpers, Arc::clone(tenant));
        let observer: Option<Arc<dyn Observer>> = observer.clone();
        let generation = Arc::new(generation);
        Arc::new(Home { generation, instances, batches, most_helpers, tenant, observer })
    }

    /// Returns the home of the modules, by name and digest, that a recorded execution began with.
    pub(crate) async fn home_with(
        &self,
        id: &ExecutionId,
        keeping: &Keeping,
        modules: &[(String, String)],
    ) -> Result<Arc<Home>, RequestError> {
        if self.home.generation.has_modules(modules.iter().map(|(_, digest)| digest.as_str())) {
            return Ok(Arc::clone(&self.home));
        }
        let mut sources = Vec::new();
        for (name, digest) in modules {
            let bytes = keeping.journal.module(digest).await?;
            let gone =
                || RequestError::NoModule { id: id.clone(), module: name.clone(), digest: digest.clone() };
            sources.push(ModuleSource::new(name.as_str(), &bytes.ok_or_else(gone)?[..]));
        }
        let generation = self.loading().generation(&sources).await;
        Ok(self.home_of(
            generation.map_err(|LoadErrors(faults)| RequestError::Load(Arc::new(LoadErrors(faults))))?,
        ))
    }

    /// Accepts a request.
    pub(crate) fn accept(self: &Arc<Self>, request: Request) -> Result<Execution, RequestError> {
        let asked = Asked::of(self, request)?;
        Ok(Execution { asked, host: Arc::clone(self) })
    }

    /// Checks a request, and returns it as it would be carried out.
    pub(crate) fn look_at(&self, request: Request) -> Result<(ExecutionId, Accepted), RequestError> {
        let Request { target, ports, given, execution_id, started_at, timeout: _ } = request;
        if self.executions.is_closed() {
            return Err(RequestError::Closed);
        }
        let ports = ports?;
        let now = clock::wall_millis();
        let mut accepted =
            accepted(&self.home, target?, ports, given, started_at.map_or(now, clock::unix_millis))?;
        self.has_store_for(&accepted.prepared)?;
        let id = execution_id.unwrap_or_else(|| {
            accepted.recorded = accepted.recorded_under_new_id();
            ExecutionId::at(now)
        });
        Ok((id, accepted))
    }

    /// Refuses a plan of which a step keeps its results, where there is no store.
    pub(crate) fn has_store_for(&self, prepared: &Prepared) -> Result<(), RequestError> {
        if !prepared.keeps || self.open_store.is_some() {
            return Ok(());
        }
        let generation = &self.home.generation;
        let kept = prepared.plan.nodes().find(|(_, step)| generation.persistence(*step).is_some());
        let step = kept.map(|(_, step)| generation.graph().step(step).name.clone());
        Err(RequestError::NoStore { step })
    }

    /// Returns the execution of this id, to be gone on with.
    pub(crate) fn resume(self: &Arc<Self>, id: ExecutionId) -> Execution {
        let what = What::Recorded(Unfinished::Resume);
        let asked = Asked { id, what, limit: None, cancelled: None };
        Execution { asked, host: Arc::clone(self) }
    }
}

/// A request that fits the graph.
pub(crate) struct Accepted {
    pub(crate) home: Arc<Home>,
    pub(crate) prepared: Arc<Prepared>,
    target: Port,
    ports: Vec<Port>,
    pub(crate) given: Vec<Arc<Value>>,
    started_at_ms: u64,
    recorded: Recorded,
}

/// When an execution whose results are kept is recorded at the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recorded {
    /// Before anything else: whoever else comes with its id is to find it, or some step starts in any case.
    AtOnce,
    /// When a step starts or waits for another execution's, or else at the end. Nobody else has the id.
    WithFirstStart,
}

fn accepted(
    home: &Arc<Home>,
    target: Port,
    mut ports: Vec<Port>,
    mut given: Vec<Arc<Value>>,
    started_at_ms: u64,
) -> Result<Accepted, RequestError> {
    let generation = &home.generation;
    let (target, prepared) = generation.plan(target, &mut ports)?;
    check(generation.graph(), &prepared, &mut given)?;
    let (home, recorded) = (Arc::clone(home), Recorded::AtOnce);
    Ok(Accepted { home, prepared, target, ports, given, started_at_ms, recorded })
}

impl Accepted {
    /// Returns how each step of the plan is kept; none where it is not.
    fn keeps(&self) -> impl Iterator<Item = Option<&Keep>> {
        self.prepared.plan.nodes().map(|(_, step)| self.home.generation.code(step).keep.as_deref())
    }

    /// Returns when the execution is recorded where nobody else has its id. A step that is not kept starts
    /// at once, and one that runs without a store does so only where the record cannot be written either.
    fn recorded_under_new_id(&self) -> Recorded {
        let waits = |keep: Option<&Keep>| keep.is_some_and(|keep| keep.on_store_error == OnStoreError::Fail);
        if self.keeps().all(waits) { Recorded::WithFirstStart } else { Recorded::AtOnce }
    }

    fn runs_without_store(&self) -> bool {
        runs_without_store(&self.home, &self.prepared)
    }
}

/// Returns whether every kept step of the plan is to run even where there is no store.
pub(crate) fn runs_without_store(home: &Home, prepared: &Prepared) -> bool {
    let codes = prepared.plan.nodes().map(|(_, step)| home.generation.code(step));
    codes.filter_map(|code| code.keep.as_ref()).all(|keep| keep.on_store_error == OnStoreError::Run)
}

/// Checks what the caller gives before anything runs: each message is what its port says, and a
/// list is given only where lists are taken. Where keys will be made of the messages, they are put
/// into canonical form.
pub(crate) fn check(
    graph: &Graph,
    prepared: &Prepared,
    given: &mut [Arc<Value>],
) -> Result<(), RequestError> {
    for (id, value) in prepared.given.iter().copied().zip(given) {
        let fault = if prepared.keeps {
            match call::canonical(Value::clone(value), graph.schema(id)) {
                Ok(canonical) => {
                    *value = Arc::new(canonical);
                    None
                }
                Err(fault) => Some(fault),
            }
        } else {
            call::undecodable(value, graph.schema(id))
        };
        if let Some(fault) = fault {
            return Err(RequestError::Input { port: graph.port(id).clone(), fault });
        }
        if value.arity() == Arity::Many {
            let takes_one = |step: &&docket_graph::StepId| {
                graph.step(**step).inputs.iter().any(|(input, arity)| *input == id && *arity == Arity::One)
            };
            if let Some(step) = graph.consumers(id).iter().find(takes_one) {
                let step = graph.step(*step).name.clone();
                return Err(RequestError::List { port: graph.port(id).clone(), step });
            }
        }
    }
    Ok(())
}

/// An accepted request. Runs while [`Execution::outcome`] is awaited.
#[must_use = "an execution runs only while its outcome is awaited"]
pub struct Execution {
    asked: Asked,
    host: Arc<Shared>,
}

/// What is to be carried out.
pub(crate) struct Asked {
    id: ExecutionId,
    what: What,
    limit: Option<Duration>,
    cancelled: Option<CancellationToken>,
}

enum What {
    Request(Accepted),
    /// What the journal has under the id, and whether that is gone on with where it has no result.
    Recorded(Unfinished),
}

/// Stops an execution from elsewhere. Clones stop the same one.
#[derive(Clone, Debug)]
pub struct Canceller(CancellationToken);

impl Canceller {
    pub(crate) fn new(token: CancellationToken) -> Self {
        Self(token)
    }

    /// Stops the execution, unless it is over: nothing new starts, what runs is stopped, and the
    /// outcome is [`ExecutionError::Cancelled`](crate::ExecutionError::Cancelled).
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

impl Execution {
    /// Returns the execution's id.
    pub fn id(&self) -> &ExecutionId {
        &self.asked.id
    }

    /// Returns whether the execution is journaled, so that it can be resumed: some step of it keeps its
    /// results.
    pub fn is_journaled(&self) -> bool {
        match &self.asked.what {
            What::Request(accepted) => accepted.prepared.keeps,
            What::Recorded(_) => true,
        }
    }

    /// Sets the deadline of the whole execution, from now on.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.asked.limit = Some(timeout);
        self
    }

    /// Returns what stops this execution.
    pub fn canceller(&mut self) -> Canceller {
        Canceller(self.asked.cancelled.get_or_insert_default().clone())
    }

    /// Carries the execution out; or, where the journal has one of the same id with the same request,
    /// goes on with it, waits for it, or returns what came of it.
    ///
    /// # Errors
    /// Where the host was shut down since the request was accepted, the store cannot be used, the id belongs to
    /// another request, or the host itself fails.
    ///
    /// # Cancel safety
    /// As [`Host::execute`](crate::Host::execute). A journaled execution can be resumed then.
    pub async fn outcome(self) -> Result<Outcome, RequestError> {
        let Self { asked, host } = self;
        pin!(asked.outcome(&host)).await
    }
}

impl Asked {
    /// Returns a request as it is to be carried out.
    pub(crate) fn of(host: &Shared, request: Request) -> Result<Self, RequestError> {
        let limit = request.timeout;
        let (id, accepted) = host.look_at(request)?;
        Ok(Self { id, what: What::Request(accepted), limit, cancelled: None })
    }

    /// As [`Execution::outcome`], for whoever holds the host in any case: it is not counted up and down for each.
    pub(crate) async fn outcome(self, host: &Arc<Shared>) -> Result<Outcome, RequestError> {
        let Self { id, what, limit, cancelled } = self;
        // Counted first: a shutdown either sees this execution or is seen by it.
        let _counted = host.executions.token();
        if host.executions.is_closed() {
            return Err(RequestError::Closed);
        }
        // Until it has been carried out.
        let mut outcome = Err(RequestError::Internal(String::new()));
        let ended = {
            // Pinned where it is made, as all on the way to a step: a future of some kilobytes is never moved. And its
            // outcome is left where it stays.
            let carried = pin!(async {
                outcome = match what {
                    What::Request(accepted) if !accepted.prepared.keeps => {
                        let under_way = begin(id, limit, accepted, (None, None));
                        Ok(pin!(carry(host, cancelled, under_way)).await)
                    }
                    // Boxed: most executions are not journaled, and would carry its size.
                    what => Box::pin(Begun { id, limit, host, cancelled }.journaled(what)).await,
                };
            });
            // A task may carry out many executions: a panic in one, such as an embedder's store's, is not to end them all.
            AssertUnwindSafe(carried).catch_unwind().await
        };
        match ended {
            Ok(()) => outcome,
            Err(panic) => Err(RequestError::Internal(said_by(&*panic))),
        }
    }
}

/// An execution under way.
pub(crate) struct Begun<'a> {
    pub(crate) id: ExecutionId,
    pub(crate) limit: Option<Duration>,
    pub(crate) host: &'a Arc<Shared>,
    pub(crate) cancelled: Option<CancellationToken>,
}

impl Begun<'_> {
    /// Carries out what was asked, beside its record where there is one.
    async fn drive(
        &self,
        accepted: Accepted,
        recorded: (Option<Arc<Keeping>>, Option<Arc<ExecutionRecord>>),
    ) -> Outcome {
        let under_way = begin(self.id.clone(), self.limit, accepted, recorded);
        pin!(carry(self.host, self.cancelled.clone(), under_way)).await
    }
}

/// Returns the run of what was asked, and for what it was. In a function of its own, so that no future carries the request.
fn begin(
    id: ExecutionId,
    limit: Option<Duration>,
    accepted: Accepted,
    (journaled, record): (Option<Arc<Keeping>>, Option<Arc<ExecutionRecord>>),
) -> (Arc<Run>, Port) {
    let Accepted { home, prepared, target, given, started_at_ms, .. } = accepted;
    let start = Start { id, home, prepared, given, started_at_ms, limit, journaled, record, items: None };
    (Run::begin(start), target)
}

/// Carries a run to its outcome.
async fn carry(
    host: &Shared,
    cancelled: Option<CancellationToken>,
    (run, target): (Arc<Run>, Port),
) -> Outcome {
    let lost = run.record.as_deref().map(ExecutionRecord::lost);
    let deadline = run.limit.and_then(|limit| clock::deadline(run.started, limit));
    let stops = Stops { deadline, cancelled, lost, shutdown: &host.shutdown };
    pin!(drive(&run, stops)).await;
    for ending in run.endings() {
        // A task that only writes a note has nothing to say.
        let _ = ending.await;
    }
    let (result, report) = run.outcome(target);
    let result = result.map(|value| value.expect("only the items of a batch have results of their own"));
    Outcome { result, report }
}
