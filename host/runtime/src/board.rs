//! Owns the state of one execution that its lanes share: what is ready, what runs, what came out.
//! Every change happens under one short lock, and the observer is told under it too, so that events
//! come in order. Never waits, never calls a guest.

mod frame;
mod items;
mod kept;

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use docket_graph::{
    Action, Arity, Completion, Conclusion, DimensionId, Element, Elements, Ending, FailureClass, FrameId,
    Job, NodeId, Opener, Plan, Port, Progress, State, StopReason,
};
use futures_util::future::{AbortHandle, AbortRegistration};
use rand::RngExt as _;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;

use crate::call::{Called, Origin};
use crate::clock;
use crate::element::{ElementIndex, ElementPath};
use crate::execution_id::ExecutionId;
use crate::failure::{ExecutionError, StepFailure};
use crate::generation::{Generation, Prepared, StepCode};
use crate::guest_log::{Lines, Stream, Writer};
use crate::held::ExecutionRecord;
use crate::keep::Keeping;
use crate::key::RunKey;
use crate::observer::{Event, Observer};
use crate::options::Instance;
use crate::report::{
    AttemptOutcome, AttemptReport, ElementCounts, ExecutionOutcome, Report, StepOutcome, StepReport,
};
use crate::reuse::{Instances, Resting, Seat};
use crate::value::Value;

use frame::{Frame, Frames};
use items::Items;
pub(crate) use items::{ItemsStart, Reading};
use kept::KeptNode;

/// One execution: what it was asked, and how far it is.
pub(crate) struct Run {
    pub(crate) id: ExecutionId,
    pub(crate) home: Arc<Home>,
    prepared: Arc<Prepared>,
    given: Vec<Arc<Value>>,
    pub(crate) started_at_ms: u64,
    pub(crate) started: Instant,
    pub(crate) limit: Option<Duration>,
    /// Where results are kept; none where no step of the plan keeps any.
    pub(crate) journaled: Option<Arc<Keeping>>,
    /// What is recorded of the execution; none where nothing is.
    pub(crate) record: Option<Arc<ExecutionRecord>>,
    is_batch: bool,
    /// Where instances rest that are used again; none where those of no step are.
    resting: Option<Arc<Resting>>,
    /// Rung for the first lane: when it rests and something is ready, or nothing is left to do.
    pub(crate) changed: Notify,
    /// Rung for a further lane that rests, when more is ready than others can begin at once.
    pub(crate) plenty: Notify,
    /// How many attempts are ready, for a glance without the lock.
    ready: AtomicUsize,
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
    /// Of a batch.
    items: Option<Items>,
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

/// Which lane of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rank {
    /// The caller's own future.
    First,
    /// A task beside it.
    Helper,
}

/// What a lane is to do next.
pub(crate) struct Next<'a> {
    /// The attempt to begin; none is ready, if none.
    pub(crate) taken: Option<Taken<'a>>,
    /// Whether the first lane is to spawn another.
    pub(crate) spawn: bool,
    /// Whether another lane is at an attempt that may make others ready at any moment.
    pub(crate) soon: bool,
    /// Whether nothing is left to do for any lane.
    pub(crate) over: bool,
    /// Whether the lane is to let others have its thread: the reader of a batch has just been called.
    pub(crate) yields: bool,
}

/// The values for a step's inputs, each in the arity that the step takes.
pub(crate) type Inputs = Vec<(Arc<Value>, Arity)>;

/// A turn that a lane has taken.
pub(crate) struct Taken<'a> {
    pub(crate) turn: Turn,
    pub(crate) inputs: Inputs,
    /// What the key of the work begins with, where its result is not kept.
    pub(crate) key: RunKey,
    /// Where nothing has to be waited for or looked up first, the attempt has begun already.
    pub(crate) begun: Option<Admitted<'a>>,
}

/// An attempt that has its permits and has begun.
pub(crate) struct Admitted<'a> {
    pub(crate) _gate: Option<SemaphorePermit<'a>>,
    /// Of what batches may have.
    pub(crate) _share: Option<SemaphorePermit<'a>>,
    pub(crate) seat: Seat<'a>,
    pub(crate) at: Instant,
}

/// An attempt whose turn has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) job: Job,
    pub(crate) attempt: u32,
    pub(crate) delay: Duration,
}

impl Board {
    /// Takes the attempt whose turn has come.
    fn take(&mut self, plan: &Plan) -> Option<Turn> {
        // What was stopped before its turn came is still in the queue.
        loop {
            let turn = self.ready.pop_front()?;
            if matches!(self.progress.state(turn.job), Some(State::Running { .. }))
                && let Some(node) = self.frames.node_mut(plan, turn.job)
            {
                node.running = Running::Begun { stop: false };
                self.begun += 1;
                return Some(turn);
            }
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

    /// Calls whoever reads the batch, where that is worth it.
    fn call_reader(&mut self, now: Instant) -> bool {
        let idle = self.ready.is_empty();
        self.items.as_mut().is_some_and(|items| items.call_reader(now, idle))
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
        let frames = Frames::new(plan, key, uses);
        let run = Arc::new(Self {
            id,
            home,
            prepared,
            given,
            started_at_ms,
            started,
            limit,
            journaled,
            record,
            is_batch: items.is_some(),
            resting,
            changed: Notify::new(),
            plenty: Notify::new(),
            ready: AtomicUsize::new(0),
            board: Mutex::new(Board {
                progress,
                ready: VecDeque::new(),
                frames,
                tallies: Vec::new(),
                failures: Vec::new(),
                items: items.map(|items| Items::new(items, started)),
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

    fn target(&self) -> &Port {
        self.home.generation.graph().port(self.plan().target())
    }

    /// Returns whether some step's result is kept, so that messages go on in canonical form.
    pub(crate) fn keeps(&self) -> bool {
        self.prepared.keeps
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

    /// Notes how the attempt that a lane was at has ended, if it was at one, and gives it the next.
    ///
    /// One lock for both, and one reading of the clock, which the lane has just made: between two quick
    /// steps nothing else has to happen.
    pub(crate) fn next(&self, lane: Rank, now: Instant, ended: Option<(Turn, Called)>) -> Next<'_> {
        let mut board = self.lock();
        board.now = now;
        if let Some((turn, called)) = ended {
            self.completed(&mut board, turn, Some(called));
        }
        if board.call_reader(now) {
            return Next { taken: None, spawn: false, soon: false, over: false, yields: true };
        }
        let taken = board.take(self.plan()).map(|turn| Taken {
            turn,
            inputs: self.inputs(&board, turn.job),
            key: board.frames.get(turn.job.frame).expect("it has just been taken").key.clone(),
            begun: self.admit_at_once(&mut board, turn),
        });
        self.ready.store(board.ready.len(), Ordering::Relaxed);
        Next {
            taken,
            spawn: self.call_for_help(&mut board, lane),
            soon: board.begun > 0,
            over: board.conclusion.is_some(),
            yields: false,
        }
    }

    /// Notes that a lane is about to wait until it is called or one of its attempts ends. Returns
    /// false, and notes nothing, where something has become ready since it looked.
    pub(crate) fn rests(&self, lane: Rank) -> bool {
        let mut board = self.lock();
        let rests = board.ready.is_empty();
        match lane {
            Rank::First => board.first_rests = rests,
            Rank::Helper => board.helpers_resting += usize::from(rests),
        }
        rests
    }

    /// Notes that a further lane, having rested, goes on.
    pub(crate) fn helper_goes_on(&self) {
        self.lock().helpers_resting -= 1;
    }

    /// Notes that a further lane ends. Returns false, and notes nothing, where something has become
    /// ready since it looked.
    pub(crate) fn helper_ends(&self) -> bool {
        let mut board = self.lock();
        let ends = board.ready.is_empty();
        board.helpers -= usize::from(ends);
        ends
    }

    /// Where more is ready than the lanes at work can begin at once, wakes one that rests, or tells
    /// the first lane to spawn one.
    fn call_for_help(&self, board: &mut Board, lane: Rank) -> bool {
        if board.ready.is_empty() {
            return false;
        }
        if std::mem::take(&mut board.first_rests) {
            self.changed.notify_one();
        } else if board.helpers_resting > 0 {
            self.plenty.notify_one();
        } else if lane == Rank::First && board.helpers < self.home.most_helpers {
            board.helpers += 1;
            return true;
        }
        false
    }

    /// Returns whether something was ready a moment ago. Takes no lock.
    pub(crate) fn may_be_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed) > 0
    }

    /// Returns the values for a job's inputs, each in the arity that its step takes.
    fn inputs(&self, board: &Board, job: Job) -> Inputs {
        let step = self.home.generation.graph().step(self.plan().step(job.node));
        let arities = step.inputs.iter().map(|(_, arity)| *arity);
        board.frames.inputs(self.plan(), job, arities, &self.given)
    }

    /// Notes that an attempt waits, and returns the registration by which it is stopped; none if
    /// it is to stop already.
    pub(crate) fn waits(&self, turn: Turn) -> Option<AbortRegistration> {
        let mut board = self.lock();
        let Board { frames, begun, .. } = &mut *board;
        let node = frames.node_mut(self.plan(), turn.job)?;
        if !matches!(node.running, Running::Begun { stop: false }) {
            return None;
        }
        *begun -= 1;
        let (handle, registration) = AbortHandle::new_pair();
        node.running = Running::Waiting(handle);
        Some(registration)
    }

    /// Begins an attempt that has nothing to wait for and nothing to look up: under the lock that is
    /// held anyway.
    fn admit_at_once(&self, board: &mut Board, turn: Turn) -> Option<Admitted<'_>> {
        let code = self.code(turn.job.node);
        if !turn.delay.is_zero() || code.keep.is_some() || code.gate.is_some() {
            return None;
        }
        let share = match self.share() {
            Some(share) => Some(share.try_acquire().ok()?),
            None => None,
        };
        let seat = self.home.instances.seat_at_once(self.resting(turn.job.node))?;
        Some(Admitted { _gate: None, _share: share, seat, at: self.began(board, turn) })
    }

    /// Returns what an attempt needs a permit of before one for an instance: only those of a batch do.
    pub(crate) fn share(&self) -> Option<&Semaphore> {
        self.is_batch.then(|| &*self.home.batches)
    }

    /// Notes that an attempt has its permits and begins now; returns when that is.
    pub(crate) fn attempt_began(&self, turn: Turn) -> Instant {
        let mut board = self.lock();
        board.now = clock::now();
        self.began(&mut board, turn)
    }

    fn began(&self, board: &mut Board, turn: Turn) -> Instant {
        let now = board.now;
        if board.conclusion.is_some() {
            // The run was abandoned while another thread was about to begin; its last event is out.
            return now;
        }
        let node = board.node_mut(self.plan(), turn.job);
        node.open = true;
        // Most steps are tried once.
        node.attempts.reserve_exact(1);
        node.attempts.push(AttemptReport {
            attempt: turn.attempt,
            started_after: now.duration_since(self.started),
            elapsed: Duration::ZERO,
            outcome: AttemptOutcome::Cancelled,
            error: None,
            usage: None,
            element: ElementPath::default(),
        });
        let step = &self.code(turn.job.node).name;
        let element = &self.told_element(board, turn.job.frame);
        self.tell(&Event::AttemptStarted { step, element, attempt: turn.attempt });
        now
    }

    /// Notes how an attempt that had been set aside ended: with an answer or a failure, or, with
    /// `None`, by being stopped.
    pub(crate) fn complete(&self, turn: Turn, called: Option<Called>) {
        let mut board = self.lock();
        board.now = called.as_ref().map_or_else(clock::now, |called| called.ended);
        self.completed(&mut board, turn, called);
        let now = board.now;
        board.call_reader(now);
        self.call_for_help(&mut board, Rank::Helper);
    }

    fn completed(&self, board: &mut Board, turn: Turn, called: Option<Called>) {
        let job = turn.job;
        // Where there is no such node any more, or no lane at it, the run was abandoned while another
        // thread was at this attempt.
        let Some(node) = board.frames.node_mut(self.plan(), job) else { return };
        match std::mem::take(&mut node.running) {
            Running::No => return,
            Running::Begun { .. } => board.begun -= 1,
            Running::Waiting(_) => {}
        }
        let completion = self.record(board, turn, called);
        self.carry_on(board, job, completion);
        self.perform(board);
    }

    /// Tells the machine what became of a job, and does what follows for its step.
    fn carry_on(&self, board: &mut Board, job: Job, completion: Completion) {
        let shared = matches!(completion, Completion::Shared { .. });
        let otherwise = outcome_of(&completion);
        let tried = board.progress.attempts(job).unwrap_or(0);
        let Board { progress, actions, .. } = &mut *board;
        progress.on(job, completion, actions);
        let attempts = progress.attempts(job).unwrap_or(if shared { tried.saturating_sub(1) } else { tried });
        let outcome = match progress.state(job) {
            Some(state) => ended(state),
            // Its frame has ended with it.
            None => Some(otherwise),
        };
        let Some(outcome) = outcome else { return };
        board.node_mut(self.plan(), job).outcome = Some(outcome);
        // Steps that never started are told of at the end, all together.
        if outcome != StepOutcome::NeverStarted {
            let element = &self.told_element(board, job.frame);
            self.tell(&Event::StepEnded { step: &self.code(job.node).name, element, outcome });
        }
        match outcome {
            StepOutcome::Done | StepOutcome::Cached => board.frames.drop_used(self.plan(), job),
            StepOutcome::Failed => {
                let node = board.node_mut(self.plan(), job);
                let failure = node.failure.as_deref().expect("a step that has failed has a failure").clone();
                // The machine counts tries, and those in which the store failed first began nothing.
                let none = matches!(failure, StepFailure::Store(_)) && node.attempts.is_empty();
                let attempts = if none { 0 } else { attempts };
                self.failed(board, job, failure, attempts);
            }
            StepOutcome::Cancelled | StepOutcome::NeverStarted => {}
        }
        self.give_back(board, job, outcome);
    }

    /// Notes that a job has failed for good.
    fn failed(&self, board: &mut Board, job: Job, failure: StepFailure, attempts: u32) {
        let items = self.plan().items();
        let item = items.and_then(|items| board.frames.places(job.frame).find(|place| place.1 == items));
        let (item, element) = (item.map(|(frame, ..)| frame), self.element(board, job.frame));
        board.failures.push(Failed { job, item, element, failure, attempts });
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

    fn record(&self, board: &mut Board, turn: Turn, called: Option<Called>) -> Completion {
        let (step, now) = (&self.code(turn.job.node).name, board.now);
        let element = self.told_element(board, turn.job.frame);
        let node = board.node_mut(self.plan(), turn.job);
        let began = std::mem::take(&mut node.open);
        let report = if began { node.attempts.last_mut() } else { None };
        let Some(Called { result, usage, ended, origin }) = called else {
            if let Some(report) = report {
                let elapsed = now.duration_since(self.started);
                report.elapsed = elapsed.saturating_sub(report.started_after);
            }
            return Completion::Stopped { began };
        };
        let elapsed = report.map_or(Duration::ZERO, |report| {
            report.elapsed = ended.duration_since(self.started).saturating_sub(report.started_after);
            report.usage = Some(usage);
            report.outcome = match &result {
                Ok(_) => AttemptOutcome::Done,
                Err(failure) => AttemptOutcome::Failed(failure.class()),
            };
            report.error = result.as_ref().err().map(ToString::to_string);
            report.elapsed
        });
        if began {
            let attempt = node.attempts.last().map_or(turn.attempt, |report| report.attempt);
            let failure = result.as_ref().err();
            let element = &element;
            self.tell(&Event::AttemptEnded { step, element, attempt, elapsed, usage, failure });
        }
        match result {
            Ok(value) => {
                let messages = value.payloads().len() as u64;
                node.value = Some(value);
                match origin {
                    Origin::Attempt => Completion::Done { messages },
                    Origin::Kept | Origin::Shared => Completion::Kept { messages },
                }
            }
            Err(failure) if origin == Origin::Shared => {
                let class = failure.class();
                node.failure = Some(Box::new(failure));
                Completion::Shared { class }
            }
            Err(failure) => {
                let completion = Completion::Failed {
                    class: failure.class(),
                    code: failure.code().map(str::to_owned),
                    retry_after: failure.retry_after(),
                    chance: rand::rng().random(),
                };
                node.failure = Some(Box::new(failure));
                completion
            }
        }
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
            self.complete(Turn { job, attempt: 0, delay: Duration::ZERO }, None);
        }
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
                    frames.open(self.plan(), element, &self.prepared.uses, item);
                }
                Action::Start { job, attempt, delay } => {
                    if attempt > 1 {
                        let step = &self.code(job.node).name;
                        let element = &self.told_element(board, job.frame);
                        self.tell(&Event::RetryScheduled { step, element, attempt, delay });
                    }
                    board.ready.push_back(Turn { job, attempt, delay });
                }
                Action::Stop { job } => match &mut board.node_mut(self.plan(), job).running {
                    // Its lane will report it.
                    Running::Waiting(attempt) => attempt.abort(),
                    Running::Begun { stop } => *stop = true,
                    // No lane has taken it yet, and none will: see `take`.
                    Running::No => self.carry_on(board, job, Completion::Stopped { began: false }),
                },
                Action::Passed { element, stage } => board.frames.gather(self.plan(), element, stage),
                Action::Ended { element, how } => self.element_ended(board, element, how),
                Action::Closed { frame, dimension, stage, .. } => {
                    board.frames.close(self.plan(), frame, dimension, stage);
                }
                Action::Finish(conclusion) => self.finish(board, conclusion),
            }
        }
        board.actions.clear();
        self.ready.store(board.ready.len(), Ordering::Relaxed);
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
        let path = if done { ElementPath::default() } else { self.element(board, element.frame) };
        let frame = board.frames.end(self.plan(), element, done);
        if board.tallies.is_empty() {
            board.tallies.resize_with(self.plan().len(), Tally::default);
        }
        for (node, ended) in self.plan().nodes_in(element.dimension).iter().zip(frame.nodes) {
            let tally = &mut board.tallies[node.index()];
            let outcome = ended.outcome.unwrap_or(StepOutcome::NeverStarted);
            tally.counts.add(outcome);
            if outcome == StepOutcome::Failed && tally.attempts.is_empty() {
                tally.attempts = ended.attempts;
                tally.attempts.iter_mut().for_each(|attempt| attempt.element = path.clone());
            }
        }
    }

    fn finish(&self, board: &mut Board, conclusion: Conclusion) {
        board.elapsed = board.now.duration_since(self.started);
        for (node, _) in self.plan().nodes() {
            if self.outcome_of_step(board, node) == StepOutcome::NeverStarted {
                let outcome = StepOutcome::NeverStarted;
                let element = &ElementPath::default();
                self.tell(&Event::StepEnded { step: &self.code(node).name, element, outcome });
            }
        }
        let error = self.error(board, conclusion);
        board.conclusion = Some(conclusion);
        self.tell(&Event::ExecutionEnded { elapsed: board.elapsed, error: error.as_ref() });
        self.changed.notify_one();
        if let Some(items) = &mut board.items {
            items.wake(board.now);
        }
    }

    /// Returns whether nothing is left to do.
    pub(crate) fn is_over(&self) -> bool {
        self.lock().conclusion.is_some()
    }

    /// Returns the result and the report of a run that is over; no result where each item had its own.
    pub(crate) fn outcome(&self) -> (Result<Option<Arc<Value>>, ExecutionError>, Report) {
        let mut board = self.lock();
        let conclusion = board.conclusion.expect("asked once the run is over");
        let result = match self.error(&board, conclusion) {
            Some(error) => Err(error),
            None if self.items_have_results() => Ok(None),
            None => Ok(Some(board.frames.result(self.plan(), &self.given))),
        };
        let outcome = match conclusion {
            Conclusion::Done => ExecutionOutcome::Done,
            Conclusion::Stopped(_) if board.broken().is_some() => ExecutionOutcome::Failed,
            Conclusion::Failed { .. } => ExecutionOutcome::Failed,
            Conclusion::Aborted { .. } => ExecutionOutcome::Aborted,
            Conclusion::Stopped(StopReason::Cancelled) => ExecutionOutcome::Cancelled,
            Conclusion::Stopped(StopReason::Deadline) => ExecutionOutcome::DeadlineExceeded,
            Conclusion::Stopped(StopReason::Shutdown) => ExecutionOutcome::Shutdown,
        };
        let steps = self.plan().nodes().map(|(node, _)| self.step_report(&mut board, node)).collect();
        let report = Report {
            execution_id: self.id.clone(),
            target: self.target().clone(),
            outcome,
            error: result.as_ref().err().map(with_causes),
            started_at_ms: self.started_at_ms,
            elapsed: board.elapsed,
            steps,
        };
        (result, report)
    }

    fn runs_once(&self, node: NodeId) -> bool {
        self.plan().dimension_of(node) == DimensionId::ROOT
    }

    /// Returns how a step of a run that is over ended, for all elements together where it runs for each.
    fn outcome_of_step(&self, board: &Board, node: NodeId) -> StepOutcome {
        if self.runs_once(node) {
            let state = board.progress.state(Job::once(node)).expect("what runs once is always known");
            return ended(state).expect("a run that is over has no open step");
        }
        match board.tallies.get(node.index()) {
            Some(tally) => tally.counts.outcome(),
            // No element ever came.
            None if board.progress.conclusion() == Some(Conclusion::Done) => StepOutcome::Done,
            None => StepOutcome::NeverStarted,
        }
    }

    fn step_report(&self, board: &mut Board, node: NodeId) -> StepReport {
        let code = self.code(node);
        let outcome = self.outcome_of_step(board, node);
        let (key, attempts, elements) = if self.runs_once(node) {
            let node = board.node_mut(self.plan(), Job::once(node));
            let key = node.kept.as_ref().map(|kept| kept.key.record.as_str().to_owned());
            (key, std::mem::take(&mut node.attempts), None)
        } else {
            let tally = board.tallies.get_mut(node.index()).map(std::mem::take).unwrap_or_default();
            (None, tally.attempts, Some(tally.counts))
        };
        StepReport {
            step: code.name.clone(),
            module: Arc::clone(&code.module),
            outcome,
            key,
            attempts,
            elements,
        }
    }

    fn error(&self, board: &Board, conclusion: Conclusion) -> Option<ExecutionError> {
        match conclusion {
            Conclusion::Done => None,
            Conclusion::Failed { root } | Conclusion::Aborted { root } => Some(self.error_of(board, root)),
            Conclusion::Stopped(reason) => {
                let broken = board.broken().cloned();
                Some(broken.unwrap_or_else(|| ExecutionError::stopped(reason, self.limit)))
            }
        }
    }

    /// Returns the error of whatever ended by the failure of this job.
    fn error_of(&self, board: &Board, root: Job) -> ExecutionError {
        let Failed { element, failure, attempts, .. } = board.failure(root);
        let (step, element, source) = (self.code(root.node).name.clone(), element.clone(), failure.clone());
        match source.class() {
            FailureClass::Abort => ExecutionError::Aborted { step, element, source },
            _ => ExecutionError::Failed { step, element, attempts: *attempts, source },
        }
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

/// Returns how a job ended whose frame has ended with it.
fn outcome_of(completion: &Completion) -> StepOutcome {
    match completion {
        Completion::Done { .. } => StepOutcome::Done,
        Completion::Kept { .. } => StepOutcome::Cached,
        Completion::Failed { .. } | Completion::Shared { .. } => StepOutcome::Failed,
        Completion::Stopped { began: true } => StepOutcome::Cancelled,
        Completion::Stopped { began: false } => StepOutcome::NeverStarted,
    }
}

fn ended(state: State) -> Option<StepOutcome> {
    match state {
        State::Waiting | State::Running { .. } => None,
        State::Done => Some(StepOutcome::Done),
        State::Kept => Some(StepOutcome::Cached),
        State::Failed => Some(StepOutcome::Failed),
        State::Stopped => Some(StepOutcome::Cancelled),
        State::NeverStarted => Some(StepOutcome::NeverStarted),
    }
}

fn with_causes(error: &ExecutionError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
