//! Owns the state of one execution that its lanes share: what is ready, what runs, what came out.
//! Every change happens under one short lock, and the observer is told under it too, so that events
//! come in order. Never waits, never calls a guest.

mod frame;
mod items;
mod kept;
mod ending;
mod attempts;
mod lanes;
mod hand;
mod row;

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use docket_graph::{
    Action, Completion, Conclusion, Element, Elements, Ending, FrameId, Job, NodeId, Opener, Plan, Port,
    Progress, State, StopReason,
};
use futures_util::future::AbortHandle;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;

use crate::clock;
use crate::element::{ElementIndex, ElementPath};
use crate::execution_id::ExecutionId;
use crate::failure::{ExecutionError, StepFailure};
use crate::generation::{Generation, Prepared, StepCode};
use crate::guest_log::{Lines, Stream, Writer};
use crate::held::ExecutionRecord;
use crate::keep::Keeping;
use crate::key::{ElementsKey, RunKey};
use crate::observer::{Event, Observer};
use crate::options::Instance;
use crate::report::{AttemptReport, ElementCounts, MissedElement, StepOutcome};
use crate::reuse::{Instances, Resting};
use crate::value::Value;

use frame::{Frame, Frames};
pub(crate) use hand::{Ended, Hand};
use items::Items;
pub(crate) use items::{HELD, ItemEnded, ItemsStart, Reading};
use kept::KeptNode;
pub(crate) use lanes::{Admitted, Next, Rank, Taken};
pub(crate) use row::{Row, RowInputs};

/// How often a lane looks whether another has left the board before it is put to sleep: for some tens of microseconds,
/// which is what it costs to be put to sleep and woken.
const LOOKS: usize = 1000;

/// One execution: what it was asked, and how far it is.
pub(crate) struct Run {
    pub(crate) id: ExecutionId,
    pub(crate) home: Arc<Home>,
    prepared: Arc<Prepared>,
    given: Vec<Arc<Value>>,
    /// What the keys of its work begin with, where results are not kept.
    pub(crate) key: RunKey,
    /// The same for elements, by the node: made for the first element of each.
    element_keys: OnceLock<Box<[OnceLock<ElementsKey>]>>,
    pub(crate) started_at_ms: u64,
    pub(crate) started: Instant,
    pub(crate) limit: Option<Duration>,
    /// Where results are kept; none where no step of the plan keeps any.
    pub(crate) journaled: Option<Arc<Keeping>>,
    /// What is recorded of the execution; none where nothing is.
    pub(crate) record: Option<Arc<ExecutionRecord>>,
    is_batch: bool,
    /// The node that is all that is done for an item, where lanes carry items out in rows.
    sole: Option<NodeId>,
    /// Where instances rest that are used again; none where those of no step are.
    resting: Option<Arc<Resting>>,
    /// Rung for the first lane: when it rests and something is ready, or nothing is left to do.
    pub(crate) changed: Notify,
    /// Rung for a further lane that rests, when more is ready than others can begin at once.
    pub(crate) plenty: Notify,
    /// How many attempts could be taken, for a glance without the lock.
    ready: AtomicUsize,
    /// How often an attempt was stopped, for a glance without the lock.
    stops: AtomicUsize,
    /// Whether it was said that a step waits for another process.
    told_of_wait: AtomicBool,
    board: Mutex<Board>,
}

/// What [`Run`] starts from.
pub(crate) struct Start {
    pub(crate) id: ExecutionId,
    pub(crate) home: Arc<Home>,
    pub(crate) prepared: Arc<Prepared>,
    pub(crate) given: Vec<Arc<Value>>,
    pub(crate) started_at_ms: u64,
    pub(crate) limit: Option<Duration>,
    pub(crate) journaled: Option<Arc<Keeping>>,
    /// What is recorded of the execution; none where nothing is.
    pub(crate) record: Option<Arc<ExecutionRecord>>,
    /// What is to be done with the items of a batch.
    pub(crate) items: Option<ItemsStart>,
}

/// What all executions of one generation share, behind one pointer: counting several up and down
/// would cost executions on many cores more than all else that they do to each other.
pub(crate) struct Home {
    pub(crate) generation: Arc<Generation>,
    /// The permits for guest instances of the whole host.
    pub(crate) instances: Arc<Instances>,
    /// As many of them as batches may have together, so that they never have all.
    pub(crate) batches: Arc<Semaphore>,
    /// The most lanes of an execution beside the first.
    pub(crate) most_helpers: usize,
    /// Whose executions these are.
    pub(crate) tenant: Arc<str>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
}

struct Board {
    progress: Progress,
    ready: VecDeque<Turn>,
    frames: Frames,
    /// What became of the steps that run for each element, by node; nothing of those that run once.
    tallies: Vec<Tally>,
    /// The final failures of jobs whose frames may be gone when it shows what they mean.
    failures: Vec<Failed>,
    /// Of a batch. Boxed: most executions have none, and would carry its size.
    items: Option<Box<Items>>,
    /// How many attempts are being polled for the first time: each may end, and make others ready,
    /// at any moment.
    begun: usize,
    /// Whether the first lane waits, and has not been called.
    first_rests: bool,
    /// How many further lanes there are.
    helpers: usize,
    /// How many of them wait.
    helpers_resting: usize,
    /// What the machine has decided and is still to be done; empty between changes.
    actions: Vec<Action>,
    conclusion: Option<Conclusion>,
    elapsed: Duration,
    /// When the change under way happens: the clock is read once for all that follows from it.
    now: Instant,
    /// The notes of failures that are being written into the store.
    endings: Vec<JoinHandle<()>>,
}

/// What became of a step that runs for each element.
#[derive(Default)]
struct Tally {
    counts: ElementCounts,
    /// Of the first element that failed.
    attempts: Vec<AttemptReport>,
    /// Of those with a key, the first in order for which no kept result was found.
    first_missed: Option<MissedElement>,
}

/// How a job failed for good.
struct Failed {
    job: Job,
    /// The item that it is of, or within.
    item: Option<FrameId>,
    element: ElementPath,
    failure: StepFailure,
    attempts: u32,
}

#[derive(Default)]
struct Node {
    value: Option<Arc<Value>>,
    running: Running,
    /// How the step ended, once it has.
    outcome: Option<StepOutcome>,
    /// How often the value may still be asked for; it is dropped when nobody will.
    uses: u32,
    attempts: Vec<AttemptReport>,
    /// Whether the last of `attempts` has not ended yet.
    open: bool,
    failure: Option<Box<StepFailure>>,
    /// What only a kept step has.
    kept: Option<Box<KeptNode>>,
}

/// What a lane has of a node.
#[derive(Default)]
enum Running {
    /// Nothing.
    #[default]
    No,
    /// Its attempt, which is being polled for the first time.
    Begun {
        /// Whether it is to stop as soon as that returns.
        stop: bool,
    },
    /// Its attempt, which waits.
    Waiting(AbortHandle),
}

/// An attempt whose turn has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) job: Job,
    pub(crate) attempt: u32,
    pub(crate) delay: Duration,
}

impl Node {
    /// Drops what the node has but the room for its attempts, for the next that has its place.
    fn clear(&mut self) {
        let mut attempts = std::mem::take(&mut self.attempts);
        attempts.clear();
        *self = Self { attempts, ..Self::default() };
    }
}

impl Board {
    /// Takes the attempt whose turn has come.
    fn take(&mut self, plan: &Plan) -> Option<Turn> {
        loop {
            self.drop_stopped();
            let turn = self.ready.pop_front()?;
            if let Some(node) = self.frames.node_mut(plan, turn.job) {
                node.running = Running::Begun { stop: false };
                self.begun += 1;
                return Some(turn);
            }
        }
    }

    /// Returns how many attempts lanes could take, about: those that are ready, and one for each item that could be begun.
    fn to_take(&self) -> usize {
        let items = self.items.as_ref().map_or(0, |items| items.waiting());
        if items > 0 && self.progress.wants_item() { self.ready.len() + items } else { self.ready.len() }
    }

    /// Sees to it that the first of what is ready still is: what was stopped before its turn came is still in the queue.
    fn drop_stopped(&mut self) {
        while let Some(turn) = self.ready.front()
            && !matches!(self.progress.state(turn.job), Some(State::Running { .. }))
        {
            self.ready.pop_front();
        }
    }

    fn failure(&self, root: Job) -> &Failed {
        let failed = self.failures.iter().find(|failed| failed.job == root);
        failed.expect("the root of a failure has failed")
    }

    /// Returns why the items of a batch ended the run, if they did.
    fn broken(&self) -> Option<&ExecutionError> {
        self.items.as_ref()?.broken()
    }

    /// Returns how many items of a batch are no messages.
    fn unread(&self) -> u64 {
        self.items.as_ref().map_or(0, |items| items.unread())
    }

    /// Returns the waker of whoever reads the batch, where it is worth calling: without the lock, for which it asks at once.
    fn call_reader(&mut self, now: Instant) -> Option<Waker> {
        let idle = self.to_take() == 0;
        self.items.as_mut()?.call_reader(now, idle)
    }

    /// Returns what became of a step that runs for each element.
    fn tally_mut(&mut self, plan: &Plan, node: NodeId) -> &mut Tally {
        if self.tallies.is_empty() {
            self.tallies.resize_with(plan.len(), Tally::default);
        }
        &mut self.tallies[node.index()]
    }

    /// Returns the node of a job that has not been given up.
    fn node_mut(&mut self, plan: &Plan, job: Job) -> &mut Node {
        self.frames.node_mut(plan, job).expect("a frame ends after all of its jobs")
    }
}

impl Run {
    /// Returns a run that has begun: what can start at once is ready.
    pub(crate) fn begin(start: Start) -> Arc<Self> {
        let Start { id, home, prepared, given, started_at_ms, limit, journaled, record, items } = start;
        let Prepared { plan, retries, uses, .. } = &*prepared;
        let started = clock::now();
        let inputs = prepared.by_port.iter().map(|position| &*given[*position]);
        let key = RunKey::of(&id, &prepared, inputs);
        let elements = items.as_ref().map_or_else(Elements::default, ItemsStart::elements);
        let progress = Progress::new(plan, Arc::clone(retries), elements);
        let resting = prepared.reuses.then(|| home.instances.rest());
        let frames = Frames::new(plan, uses);
        let code = |node: &NodeId| home.generation.code(plan.step(*node));
        // An observer is told of each attempt; what has to be looked up or waited for first is not done in a row.
        let is_plain =
            |node: &NodeId| home.observer.is_none() && code(node).keep.is_none() && code(node).gate.is_none();
        let sole = items.as_ref().and_then(|_| plan.sole_of_items()).filter(is_plain);
        let run = Arc::new(Self {
            id,
            home,
            prepared,
            given,
            key,
            element_keys: OnceLock::new(),
            started_at_ms,
            started,
            limit,
            journaled,
            record,
            is_batch: items.is_some(),
            sole,
            resting,
            changed: Notify::new(),
            plenty: Notify::new(),
            ready: AtomicUsize::new(0),
            stops: AtomicUsize::new(0),
            told_of_wait: AtomicBool::new(false),
            board: Mutex::new(Board {
                progress,
                ready: VecDeque::new(),
                frames,
                tallies: Vec::new(),
                failures: Vec::new(),
                items: items.map(|items| Box::new(Items::new(items, started))),
                begun: 0,
                first_rests: false,
                helpers: 0,
                helpers_resting: 0,
                actions: Vec::new(),
                conclusion: None,
                elapsed: Duration::ZERO,
                now: started,
                endings: Vec::new(),
            }),
        });
        run.tell(&Event::ExecutionStarted { target: run.target(), steps: run.plan().len() });
        let mut board = run.lock();
        let Board { progress, actions, .. } = &mut *board;
        progress.start(actions);
        run.perform(&mut board);
        drop(board);
        run
    }

    /// Returns what is carried out.
    pub(crate) fn plan(&self) -> &Plan {
        &self.prepared.plan
    }

    pub(crate) fn target(&self) -> &Port {
        self.home.generation.graph().port(self.plan().target())
    }

    /// Returns whether some step's result is kept, so that messages go on in canonical form.
    pub(crate) fn keeps(&self) -> bool {
        self.prepared.keeps
    }

    /// Returns whether what a node takes follows from the items of a batch, and not from what was given.
    pub(crate) fn is_by_inputs(&self, node: NodeId) -> bool {
        self.prepared.by_inputs.get(node.index()).is_some_and(|by_inputs| *by_inputs)
    }

    /// Returns whether it is to be said that a step waits for another process: once, however many do.
    pub(crate) fn tells_of_wait(&self) -> bool {
        !self.told_of_wait.swap(true, Ordering::Relaxed)
    }

    /// Returns what the keys of a node's work for elements begin with, where its results are not kept.
    pub(crate) fn elements_key(&self, node: NodeId) -> &ElementsKey {
        let nodes = || (0..self.plan().len()).map(|_| OnceLock::new()).collect();
        let key = &self.element_keys.get_or_init(nodes)[node.index()];
        key.get_or_init(|| self.key.of_elements(&self.code(node).identity))
    }

    /// Returns the code of a node's step.
    pub(crate) fn code(&self, node: NodeId) -> &StepCode {
        self.home.generation.code(self.plan().step(node))
    }

    /// Returns where the instances of a node rest, if they are used again.
    pub(crate) fn resting(&self, node: NodeId) -> Option<(&Resting, NodeId)> {
        let resting = self.resting.as_deref()?;
        (self.code(node).instance == Instance::Reuse).then_some((resting, node))
    }

    /// Drops the instances at rest: nothing is to use them again.
    pub(crate) fn close_instances(&self) {
        if let Some(resting) = &self.resting {
            resting.close();
        }
    }

    /// Returns which element a frame is of, where there is somebody to be told.
    fn told_element(&self, board: &Board, frame: FrameId) -> ElementPath {
        match &self.home.observer {
            Some(_) => self.element(board, frame),
            None => ElementPath::default(),
        }
    }

    /// Returns which element a frame is of.
    fn element(&self, board: &Board, frame: FrameId) -> ElementPath {
        let element = |(_, dimension, index)| {
            let of = match self.plan().dimension(dimension).opener {
                Opener::Root | Opener::Items(_) => None,
                Opener::Node(node) => Some(self.code(node).name.clone()),
            };
            ElementIndex { of, index }
        };
        let mut path: Vec<_> = board.frames.places(frame).map(element).collect();
        path.reverse();
        ElementPath(path.into())
    }

    /// Stops the execution, unless it is over.
    pub(crate) fn stop(&self, reason: StopReason) {
        let mut board = self.lock();
        board.now = clock::now();
        let Board { progress, actions, .. } = &mut *board;
        progress.stop(reason, actions);
        self.perform(&mut board);
    }

    /// Ends a run whose lanes are gone: everything under way counts as stopped.
    pub(crate) fn abandon(&self) {
        self.stop(StopReason::Cancelled);
        let under_way: Vec<Job> = {
            let board = self.lock();
            let jobs = |frame: &Frame| {
                let nodes = self.plan().nodes_in(frame.dimension()).iter().zip(&frame.nodes);
                let running = nodes.filter(|(_, node)| !matches!(node.running, Running::No));
                running.map(|(node, _)| Job { frame: frame.id(), node: *node }).collect::<Vec<_>>()
            };
            board.frames.all().flat_map(jobs).collect()
        };
        for job in under_way {
            let turn = Turn { job, attempt: 0, delay: Duration::ZERO };
            self.complete(&mut Hand::new(self.started), turn, None, None);
        }
        let mut board = self.lock();
        let Board { progress, actions, .. } = &mut *board;
        progress.give_up_lent(actions);
        self.perform(&mut board);
    }

    /// Does what the machine decided, until nothing more follows from it.
    fn perform(&self, board: &mut Board) {
        let mut done = 0;
        while let Some(action) = board.actions.get(done).copied() {
            done += 1;
            match action {
                Action::Open(element) => {
                    let Board { frames, items, .. } = &mut *board;
                    let item = || items.as_mut().expect("only a batch has items").take_incoming();
                    frames.open(&self.prepared, element, item);
                }
                Action::Start { job, attempt, delay } => {
                    if attempt > 1 {
                        let step = &self.code(job.node).name;
                        let element = &self.told_element(board, job.frame);
                        self.tell(&Event::RetryScheduled { step, element, attempt, delay });
                    }
                    board.ready.push_back(Turn { job, attempt, delay });
                }
                Action::Stop { job } => {
                    self.stops.fetch_add(1, Ordering::Relaxed);
                    match &mut board.node_mut(self.plan(), job).running {
                        // Its lane will report it.
                        Running::Waiting(attempt) => attempt.abort(),
                        Running::Begun { stop } => *stop = true,
                        // No lane has taken it yet, and none will: see `take`.
                        Running::No => self.carry_on(board, job, Completion::Stopped { began: false }),
                    }
                }
                Action::Recall => {
                    self.stops.fetch_add(1, Ordering::Relaxed);
                }
                Action::Passed { element, stage } => {
                    board.frames.gather(self.plan(), element, stage);
                    if Some(element.dimension) == self.plan().items()
                        && let Some(items) = &mut board.items
                    {
                        items.passed();
                    }
                }
                Action::Ended { element, how } => self.element_ended(board, element, how),
                Action::Closed { frame, dimension, stage, elements: _, failed } => {
                    let is_of_items = Some(dimension) == self.plan().items();
                    let unread = if is_of_items { board.unread() } else { 0 };
                    board.frames.close(self.plan(), frame, (dimension, stage), failed + unread);
                }
                Action::Finish(conclusion) => self.finish(board, conclusion),
            }
        }
        board.actions.clear();
        self.note_ready(board);
    }

    /// Shows those who look without the lock whether there is something to take.
    fn note_ready(&self, board: &Board) {
        self.ready.store(board.to_take(), Ordering::Relaxed);
    }

    /// Takes the attempt whose turn has come, of the next item where none is ready.
    fn take(&self, board: &mut Board) -> Option<Turn> {
        loop {
            let turn = board.take(self.plan());
            if turn.is_some() || !self.begin_item(board) {
                return turn;
            }
        }
    }

    fn element_ended(&self, board: &mut Board, element: Element, how: Ending) {
        let done = how == Ending::Done;
        if done {
            let last = self.plan().dimension(element.dimension).stages - 1;
            board.frames.gather(self.plan(), element, last);
        }
        if Some(element.dimension) == self.plan().items() {
            self.item_ended(board, element, how);
        }
        let missed = |node: &Node| node.kept.is_some() && node.outcome != Some(StepOutcome::Cached);
        let is_told =
            !done || board.frames.get(element.frame).is_some_and(|frame| frame.nodes.iter().any(missed));
        let path = if is_told { self.element(board, element.frame) } else { ElementPath::default() };
        let mut frame = board.frames.end(self.plan(), element, done);
        for (node, ended) in self.plan().nodes_in(element.dimension).iter().zip(&mut frame.nodes) {
            let tally = board.tally_mut(self.plan(), *node);
            let outcome = ended.outcome.unwrap_or(StepOutcome::NeverStarted);
            tally.counts.add(outcome);
            if missed(ended)
                && let Some(kept) = &ended.kept
                && tally.first_missed.as_ref().is_none_or(|first| path.comes_before(&first.element))
            {
                let attempts = ended.attempts.last().map_or(0, |attempt| attempt.attempt);
                let (element, key) = (path.clone(), kept.key.record.as_str().to_owned());
                tally.first_missed = Some(MissedElement { element, key, attempts });
            }
            if outcome == StepOutcome::Failed && tally.attempts.is_empty() {
                tally.attempts = std::mem::take(&mut ended.attempts);
                tally.attempts.iter_mut().for_each(|attempt| attempt.element = path.clone());
            }
        }
        board.frames.recycle(frame);
    }

    fn tell(&self, event: &Event<'_>) {
        let Some(observer) = &self.home.observer else { return };
        // Its panic would go through the board, and, where the run is being abandoned, end the process.
        let told = AssertUnwindSafe(|| observer.on_event(&self.id, event));
        if std::panic::catch_unwind(told).is_err() {
            tracing::error!(execution = %self.id, "the observer panicked; the execution goes on");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        for _ in 0..LOOKS {
            if let Ok(board) = self.board.try_lock() {
                return board;
            }
            std::hint::spin_loop();
        }
        // Poisoned only by a fault of ours; the board is whole between its own statements.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines for Run {
    fn line(&self, writer: Writer, stream: Stream, line: &str) {
        let board = self.lock();
        if board.conclusion.is_some() {
            // Written in the rest of its time slice by a guest whose run was abandoned.
            return;
        }
        let Writer { job, attempt } = writer;
        let element = &self.told_element(&board, job.frame);
        self.tell(&Event::Output { step: &self.code(job.node).name, element, attempt, stream, line });
    }
}
