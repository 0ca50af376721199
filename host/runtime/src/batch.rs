//! Owns a batch: its items are pulled from a stream while there is room for them, and what becomes of each is handed out in
//! their order. Never decides what a step does.

mod begin;
mod seen;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use docket_graph::{OnItemError, Port, PortId, default_items};
use futures_util::FutureExt as _;
use futures_util::stream::{FusedStream, Stream, StreamExt as _};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::board::{HELD, Home, ItemEnded, ItemsStart, Reading, Run};
use crate::clock;
use crate::execution::{Canceller, Shared, check};
use crate::execution_id::ExecutionId;
use crate::failure::ExecutionError;
use crate::items::{BatchProgress, ItemCounts, ItemOutcome, ItemSource, ItemsError};
use crate::report::Report;
use crate::request::{Request, RequestError};
use crate::stored::{StoredBatch, StoredRequest};
use crate::value::{Payload, Value};

use begin::{Begin, Ended, Link};
use seen::Seen;

/// The most items that are under way at once, unless the request says otherwise: enough that steps which wait do not wait
/// for each other, and few enough that a batch of large messages is not held in memory all at once.
const DEFAULT_CONCURRENCY: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not 0");

/// The most items that are brought to the run together. 256: as many as are held where nothing else is said.
const BROUGHT_AT_ONCE: usize = 256;

/// How many bytes they have, about. 64 KiB: whoever brings large ones asks after each whether there is room for the next.
const BROUGHT_BYTES: usize = 1 << 16;

/// A wish for one output for each of many items, or of all of them together. Built up by its methods; a fault in it is
/// reported by [`Host::batch`](crate::Host::batch).
#[derive(Clone, Debug)]
#[must_use]
pub struct BatchRequest {
    request: Request,
    items: Option<Port>,
    on_item_error: OnItemError,
    max_concurrency: NonZeroUsize,
    source: ItemSource,
}

impl BatchRequest {
    /// Returns a batch of this request: its inputs are those that all items share, and its time limit is that of the whole
    /// batch.
    pub fn new(request: Request) -> Self {
        Self {
            request,
            items: None,
            on_item_error: OnItemError::Fail,
            max_concurrency: DEFAULT_CONCURRENCY,
            source: ItemSource::Stream,
        }
    }

    /// Returns the batch that is recorded under this id, to be gone on with; none where what is recorded is no batch. Its
    /// items are to be given again.
    pub fn resuming(id: ExecutionId, stored: &StoredRequest) -> Option<Self> {
        let StoredRequest { target, inputs, batch, .. } = stored;
        let StoredBatch { items, on_item_error, source } = batch.clone()?;
        let given = |request: Request, (port, value): &(Port, Arc<Value>)| {
            request.value(port.clone(), Value::clone(value))
        };
        let request = inputs.iter().fold(Request::new(target.clone()).execution_id(id), given);
        Some(Self::new(request).items(items).on_item_error(on_item_error).source(source))
    }

    /// Sets for which port the items come; without this for the one that is needed and not given.
    pub fn items(mut self, port: Port) -> Self {
        self.items = Some(port);
        self
    }

    /// Sets what the failure of one item is to the others; without this it ends the batch.
    pub fn on_item_error(mut self, on_item_error: OnItemError) -> Self {
        self.on_item_error = on_item_error;
        self
    }

    /// Sets how many items are under way at most; without this 64. Lists within an item have as many elements under way at
    /// most. Up to four times as many items are held, those that are read and not begun or ended and not taken included:
    /// as long as the messages of those have less than 1 MiB together.
    pub fn max_concurrency(mut self, most: NonZeroUsize) -> Self {
        self.max_concurrency = most;
        self
    }

    /// Sets what the journal says of where the items come from; without this a stream.
    pub fn source(mut self, source: ItemSource) -> Self {
        self.source = source;
        self
    }
}

/// Items as they are read: encoded messages.
type Items = Pin<Box<dyn FusedStream<Item = Result<Bytes, ItemsError>> + Send>>;

/// A batch under way. It begins with the first call of [`Batch::next`] or [`Batch::outcome`]; dropping it stops it.
#[must_use = "a batch runs only once its outcomes are awaited"]
pub struct Batch {
    id: ExecutionId,
    /// The items that were not read yet.
    items: Items,
    /// Outcomes that are there, and not handed out yet.
    outcomes: VecDeque<ItemEnded>,
    /// The most items that are held at once.
    most: u64,
    progress: BatchProgress,
    /// How many items were brought to the run whose outcome was not handed out.
    held: u64,
    cancelled: CancellationToken,
    form: ItemForm,
    /// What was read, where it is journaled.
    seen: Option<Arc<Seen>>,
    phase: Phase,
}

/// What is known of the port of the items.
struct ItemForm {
    home: Arc<Home>,
    port: Port,
    /// The same, as the host's modules have it.
    known: PortId,
    /// Whether messages go on in canonical form.
    keeps: bool,
}

enum Phase {
    /// Nothing runs yet.
    New(Box<Begin>),
    /// What runs for no item needs all items as a list: they are read before the start.
    Collecting(Box<Begin>, Collected),
    /// The driver is about to begin the run.
    Beginning(oneshot::Receiver<Link>, Driver),
    Running(Arc<Run>, Driver),
    /// The driver ended before there was a run.
    Broken(Driver),
    /// Between two others.
    Gone,
}

/// The one task that carries a batch out; dropping this stops it.
type Driver = JoinSet<Result<Ended, RequestError>>;

#[derive(Default)]
struct Collected {
    payloads: Vec<Payload>,
    read: u64,
    broken: Option<ExecutionError>,
}

/// How a batch ended.
#[derive(Debug)]
pub struct BatchOutcome {
    /// The one value, where what was asked for is made of all items together; none where each item had its own. Or why
    /// the batch ended early.
    pub result: Result<Option<Arc<Value>>, ExecutionError>,
    /// What happened; steps that ran for each item are counted.
    pub report: Report,
    /// What became of the items.
    pub items: ItemCounts,
}

impl Shared {
    /// Accepts a batch.
    pub(crate) fn accept_batch<S>(
        self: &Arc<Self>,
        request: BatchRequest,
        items: S,
    ) -> Result<Batch, RequestError>
    where
        S: Stream<Item = Result<Bytes, ItemsError>> + Send + 'static,
    {
        let BatchRequest { request, items: port, on_item_error, max_concurrency, source } = request;
        let Request { target, ports, mut given, execution_id, started_at, timeout } = request;
        if self.executions.is_closed() {
            return Err(RequestError::Closed);
        }
        let target = target?;
        let mut ports = ports?;
        let graph = self.home.generation.graph();
        let port = match port {
            Some(port) => port,
            None => default_items(graph, &target, &ports)?.clone(),
        };
        ports.push(port.clone());
        let position = ports.len() - 1;
        let prepared = self.home.generation.plan_items(&target, &ports, position)?;
        check(graph, &prepared, &mut given)?;
        self.has_store_for(&prepared)?;
        // The items' own place; where nothing runs for each of them, the list of all takes it.
        given.push(Arc::new(Value::Many(Vec::new())));
        let now = clock::wall_millis();
        let progress = BatchProgress::default();
        let id = execution_id.unwrap_or_else(|| ExecutionId::at(now));
        let form = ItemForm::new(Arc::clone(&self.home), port.clone(), prepared.keeps);
        let seen = prepared.keeps.then(Arc::<Seen>::default);
        let cancelled = CancellationToken::new();
        let width = max_concurrency.get();
        let begin = Begin {
            id: id.clone(),
            host: Arc::clone(self),
            home: Arc::clone(&self.home),
            items: ItemsStart { port, on_item_error, width, progress: progress.clone() },
            limit: timeout,
            cancelled: cancelled.clone(),
            started_at_ms: started_at.map_or(now, clock::unix_millis),
            prepared,
            target,
            ports,
            given,
            source,
            seen: seen.clone(),
        };
        let phase = if begin.prepared.plan.items().is_some() {
            Phase::New(Box::new(begin))
        } else {
            Phase::Collecting(Box::new(begin), Collected::default())
        };
        let items: Items = Box::pin(items.fuse());
        let (outcomes, most) = (VecDeque::new(), width.saturating_mul(HELD) as u64);
        Ok(Batch { id, items, outcomes, most, progress, held: 0, cancelled, form, seen, phase })
    }
}

impl Batch {
    /// Returns the batch's id.
    pub fn id(&self) -> &ExecutionId {
        &self.id
    }

    /// Returns whether the batch is journaled, so that it can be gone on with: some step of it keeps its results.
    pub fn is_journaled(&self) -> bool {
        self.form.keeps
    }

    /// Returns what stops this batch.
    pub fn canceller(&self) -> Canceller {
        Canceller::new(self.cancelled.clone())
    }

    /// Returns what shows how far the batch is.
    pub fn progress(&self) -> BatchProgress {
        self.progress.clone()
    }

    /// Returns the next item's outcome, in the order of the items; none after the last, and none where what was asked for is
    /// made of all items together.
    ///
    /// The items are read while this is awaited. Whoever does not take outcomes holds the batch back: see
    /// [`BatchRequest::max_concurrency`].
    ///
    /// Where the batch ends early, those come that are done up to the first that is not.
    ///
    /// # Cancel safety
    /// Nothing is lost where this is dropped before it returns.
    pub async fn next(&mut self) -> Option<ItemOutcome> {
        poll_fn(|context| self.poll_outcome(context)).await
    }

    /// Returns how the batch ended, once it has. Outcomes that were not taken are dropped.
    ///
    /// # Errors
    /// Where the host was shut down since the request was accepted, the store cannot be used, the id belongs to another
    /// request or to other items, or the host itself fails.
    pub async fn outcome(mut self) -> Result<BatchOutcome, RequestError> {
        while self.next().await.is_some() {}
        let Self { progress, phase, .. } = self;
        let (Phase::Running(_, mut driver) | Phase::Broken(mut driver)) = phase else {
            unreachable!("after the last outcome the batch has begun")
        };
        let Some(joined) = driver.join_next().await else {
            unreachable!("one task, which is joined once");
        };
        let Ended { result, report } =
            joined.map_err(|error| RequestError::Internal(error.to_string()))??;
        Ok(BatchOutcome { result, report, items: progress.counts() })
    }

    fn poll_outcome(&mut self, context: &mut Context<'_>) -> Poll<Option<ItemOutcome>> {
        loop {
            match &mut self.phase {
                Phase::Collecting(..) => std::task::ready!(self.collect(context)),
                Phase::New(_) => self.begin(None),
                Phase::Beginning(begun, _) => {
                    let begun = std::task::ready!(begun.poll_unpin(context));
                    self.begun(begun.ok());
                }
                Phase::Running(..) => return self.poll_run(context),
                Phase::Broken(_) => return Poll::Ready(None),
                Phase::Gone => unreachable!("no phase is left without the next"),
            }
        }
    }

    fn poll_run(&mut self, context: &mut Context<'_>) -> Poll<Option<ItemOutcome>> {
        let Self { items, outcomes, most, progress, held, form, seen, phase, .. } = self;
        let Phase::Running(run, _) = phase else { unreachable!("called in this phase") };
        let mut has_items = !items.is_terminated();
        loop {
            // Outcomes are handed out without a look at the run, until a quarter of the places can be filled again.
            let has_room = has_items && *held <= *most - *most / HELD as u64;
            if !has_room && let Some(outcome) = outcomes.pop_front() {
                *held -= 1;
                progress.add_delivered();
                return Poll::Ready(Some(outcome.outcome()));
            }
            let room = match run.read(context.waker(), has_items, outcomes) {
                Reading::Room(room) => room,
                Reading::Outcomes => {
                    has_items = false;
                    continue;
                }
                Reading::Over => return Poll::Ready(None),
                Reading::Wait => return Poll::Pending,
            };
            // Each is made here, and not under the lock of the run.
            let mut brought = Vec::with_capacity(room.min(BROUGHT_AT_ONCE));
            let (mut broken, mut bytes) = (None, 0);
            while brought.len() < room.min(BROUGHT_AT_ONCE) && bytes < BROUGHT_BYTES {
                match read(items, form, seen.as_deref(), context) {
                    Poll::Pending => {
                        has_items = false;
                        break;
                    }
                    Poll::Ready(Some(Ok(item))) => {
                        bytes += item.as_ref().map_or(0, Bytes::len);
                        brought.push(item);
                    }
                    Poll::Ready(Some(Err(error))) => {
                        broken = Some(error);
                        break;
                    }
                    Poll::Ready(None) => break,
                }
            }
            *held += brought.len() as u64;
            let all = broken.is_none() && items.is_terminated();
            run.feed(brought, all);
            has_items &= !all;
            if let Some(broken) = broken {
                has_items = false;
                run.break_items(broken(run.items_read()));
            }
        }
    }

    /// Reads all items.
    fn collect(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Self { items, progress, form, seen, phase, .. } = self;
        let Phase::Collecting(begin, collected) = phase else { unreachable!("called in this phase") };
        while collected.broken.is_none() {
            let item = match std::task::ready!(read(items, form, seen.as_deref(), context)) {
                None => break,
                Some(Ok(item)) => item,
                Some(Err(broken)) => {
                    collected.broken = Some(broken(collected.read));
                    break;
                }
            };
            let index = collected.read;
            collected.read += 1;
            progress.add_read();
            match item {
                Ok(bytes) => {
                    progress.add_done(1);
                    collected.payloads.push(Payload::new(bytes));
                }
                Err(fault) => {
                    let error = ExecutionError::Item { index, port: form.port.clone(), fault };
                    progress.add_failed(index, &error);
                    if begin.items.on_item_error == OnItemError::Fail {
                        collected.broken = Some(error);
                    }
                }
            }
        }
        let Collected { payloads, broken, .. } = std::mem::take(collected);
        *begin.given.last_mut().expect("the place of the items") = Arc::new(Value::Many(payloads));
        self.begin(broken);
        Poll::Ready(())
    }

    /// Spawns the driver.
    fn begin(&mut self, broken: Option<ExecutionError>) {
        let (link, begun) = oneshot::channel();
        self.phase = match std::mem::replace(&mut self.phase, Phase::Gone) {
            Phase::New(begin) | Phase::Collecting(begin, _) => {
                let mut driver = JoinSet::new();
                driver.spawn(begin.carry_out(link, broken));
                Phase::Beginning(begun, driver)
            }
            _ => unreachable!("called before the batch has begun"),
        };
    }

    fn begun(&mut self, link: Option<Link>) {
        self.phase = match (std::mem::replace(&mut self.phase, Phase::Gone), link) {
            (Phase::Beginning(_, driver), Some(run)) => {
                // A batch that is gone on with has the modules that it began with.
                let port = self.form.port.clone();
                self.form = ItemForm::new(Arc::clone(&run.home), port, self.form.keeps);
                Phase::Running(run, driver)
            }
            (Phase::Beginning(_, driver), None) => Phase::Broken(driver),
            _ => unreachable!("called while the batch begins"),
        };
    }
}

/// Why nothing more can be read, given how many items were.
type Broken = Box<dyn FnOnce(u64) -> ExecutionError>;

/// Reads the next item: a message, or why it is none.
fn read(
    items: &mut Items,
    form: &ItemForm,
    seen: Option<&Seen>,
    context: &mut Context<'_>,
) -> Poll<Option<Result<Result<Bytes, String>, Broken>>> {
    let item = match std::task::ready!(items.poll_next_unpin(context)) {
        None => {
            let all = seen.is_none_or(Seen::end);
            return Poll::Ready((!all).then(|| Err(Box::new(|_| ExecutionError::Cancelled) as Broken)));
        }
        Some(Ok(bytes)) => Ok(bytes),
        Some(Err(ItemsError::Item(fault))) => Err(fault),
        Some(Err(ItemsError::Read(fault))) => {
            return Poll::Ready(Some(Err(Box::new(|read| ExecutionError::Items { read, fault }))));
        }
    };
    let same = seen.is_none_or(|seen| seen.add(item.as_ref().map(|bytes| &bytes[..])));
    if !same {
        return Poll::Ready(Some(Err(Box::new(|_| ExecutionError::Cancelled))));
    }
    Poll::Ready(Some(Ok(item.and_then(|bytes| form.check(bytes)))))
}

impl ItemForm {
    fn new(home: Arc<Home>, port: Port, keeps: bool) -> Self {
        let known = home.generation.graph().find_port(&port).expect("the plan knows the port of the items");
        Self { home, port, known, keeps }
    }

    /// Returns the message of an item as it goes on, or what is wrong with it.
    fn check(&self, bytes: Bytes) -> Result<Bytes, String> {
        let schema = self.home.generation.graph().schema(self.known);
        if !self.keeps {
            return match schema.check(&bytes) {
                Ok(()) => Ok(bytes),
                Err(fault) => Err(fault.to_string()),
            };
        }
        match schema.canonical(&bytes) {
            Ok(Cow::Borrowed(_)) => Ok(bytes),
            Ok(Cow::Owned(canonical)) => Ok(canonical.into()),
            Err(fault) => Err(fault.to_string()),
        }
    }
}
