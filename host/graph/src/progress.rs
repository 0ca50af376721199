//! Owns one execution of a plan as a machine: completions in, actions out. Decides what starts, what is tried again,
//! what is stopped, and how it ends. Never waits, reads a clock, draws a chance or holds a value.

mod frames;
mod machine;

use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::dimension::DimensionId;
use crate::plan::{NodeId, Plan, Wiring};
use crate::policy::{FailureClass, Retry};

use machine::{Machine, Turn};

/// The nodes of a plan that run together: those that run once, or those of one element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameId {
    slot: u32,
    /// Tells apart the frames that have the slot one after the other.
    generation: u32,
}

impl FrameId {
    /// What runs once.
    pub const ROOT: Self = Self { slot: 0, generation: 0 };

    /// Returns a number that no other frame has before this one has ended. There are no more such numbers than frames were
    /// under way at once.
    #[inline]
    pub fn slot(self) -> usize {
        self.slot as usize
    }
}

/// A node in a frame: what is started, stopped and completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Job {
    /// For which element.
    pub frame: FrameId,
    /// Which step.
    pub node: NodeId,
}

impl Job {
    /// Returns the job of a node that runs once.
    #[inline]
    pub fn once(node: NodeId) -> Self {
        Self { frame: FrameId::ROOT, node }
    }
}

/// One element of a dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Element {
    /// Its own frame.
    pub frame: FrameId,
    /// The frame around it, in which it is one element of a list.
    pub parent: FrameId,
    /// Of what it is an element.
    pub dimension: DimensionId,
    /// Its position in the list, from 0.
    pub index: u64,
}

/// What the caller is to do, in this order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// Make room for the values of an element's frame.
    Open(Element),
    /// Wait for `delay`, look whether a kept result exists, and if not run the attempt of this number. Exactly one
    /// [`Completion`] is to answer.
    Start {
        /// Which job.
        job: Job,
        /// The attempt's number, from 1.
        attempt: u32,
        /// How long to wait first.
        delay: Duration,
    },
    /// Give up a job that was started. Its completion is still awaited: [`Completion::Stopped`], or whatever was
    /// faster.
    Stop {
        /// Which job.
        job: Job,
    },
    /// Give back the items that are lent: see [`Progress::lend`]. No further one of them is to begin.
    Recall,
    /// An element has passed a stage that is not its last: put what the plan gathers after that stage into the parent.
    Passed {
        /// Which.
        element: Element,
        /// The stage.
        stage: u32,
    },
    /// Nothing of an element runs, and nothing of it will. If it is done, put what the plan gathers after its last stage into the
    /// parent; then drop all values of its frame. Elements within it have ended before.
    Ended {
        /// Which.
        element: Element,
        /// How.
        how: Ending,
    },
    /// All elements have passed a stage, or failed: what is gathered of them after that stage is complete.
    Closed {
        /// The frame in which the elements are.
        frame: FrameId,
        /// Of what they are elements.
        dimension: DimensionId,
        /// The stage.
        stage: u32,
        /// How many there are.
        elements: u64,
        /// How many of them have failed; they have nothing gathered.
        failed: u64,
    },
    /// The execution has ended and nothing runs. The last action, and given exactly once.
    Finish(Conclusion),
}

/// How an element ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ending {
    /// Each of its nodes is done or kept.
    Done,
    /// A job of it, or of an element within it, failed and was not tried again.
    Failed {
        /// The first that did.
        root: Job,
    },
    /// It was stopped, because something else failed or stopped.
    Stopped,
}

/// What an item's failure is to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnItemError {
    /// It ends the execution.
    Fail,
    /// It ends that item alone, unless it is an abort.
    Continue,
}

/// How elements are worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Elements {
    /// The most elements of one list, or items, that are under way at once.
    pub width: NonZeroU32,
    /// Where each item has a result of its own, which go out in order: the most items from the first that has not ended on.
    /// One that has ended counts until all before it have.
    pub held: NonZeroU32,
    /// What an item's failure is to others.
    pub on_item_error: OnItemError,
}

impl Default for Elements {
    /// 64 at once: enough that steps which wait do not wait for each other, and few enough that a list of large messages is not
    /// worked on all at once. The first failure ends the execution.
    fn default() -> Self {
        let width = NonZeroU32::new(64).expect("64 is not 0");
        Self { width, held: width, on_item_error: OnItemError::Fail }
    }
}

/// What became of a started job.
#[derive(Debug, Clone, PartialEq)]
pub enum Completion {
    /// The attempt gave a result.
    Done {
        /// How many messages it has. If the node opens a dimension, this is how many elements that has.
        messages: u64,
    },
    /// A kept result was found; no attempt was made.
    Kept {
        /// How many messages it has.
        messages: u64,
    },
    /// The attempt failed.
    Failed {
        /// Why.
        class: FailureClass,
        /// The code that the step gave.
        code: Option<String>,
        /// The least delay that the failure asks for.
        retry_after: Option<Duration>,
        /// Drawn evenly from `[0, 1)`.
        chance: f64,
    },
    /// Another execution made the attempts that this one waited for, and failed for good. The job has failed with it:
    /// no attempt was made here, and none will be.
    Shared {
        /// Why the last of those attempts failed.
        class: FailureClass,
    },
    /// The attempt was stopped.
    Stopped {
        /// Whether it had begun; while it waited for its delay or a permit it had not, and is not counted.
        began: bool,
    },
}

/// Why an execution was stopped from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// The caller gave up.
    Cancelled,
    /// The execution's own time was over.
    Deadline,
    /// The host shuts down.
    Shutdown,
}

/// How an execution ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Conclusion {
    /// Every job is done or kept, but for those of items that failed: see [`Progress::failed_items`].
    Done,
    /// A job failed and was not tried again.
    Failed {
        /// The first that did.
        root: Job,
    },
    /// A job asked to stop the whole execution.
    Aborted {
        /// The one that did.
        root: Job,
    },
    /// It was stopped from outside.
    Stopped(StopReason),
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Some of what it needs is not there yet.
    Waiting,
    /// Started, and not yet completed; perhaps in the delay before its attempt.
    Running {
        /// The attempt's number.
        attempt: u32,
    },
    /// It gave a result.
    Done,
    /// A kept result was found.
    Kept,
    /// Its last attempt failed, or that of another execution which it waited for.
    Failed,
    /// It was stopped after its first attempt had begun.
    Stopped,
    /// No attempt of it ever began.
    NeverStarted,
}

/// One execution of a plan.
///
/// The root cause is what ends an execution first: the first failure that is not tried again, an abort or a stop.
/// Everything that runs is then stopped, nothing starts, and what still comes in is recorded but changes the
/// conclusion no more. Where items fail alone, the same holds within an item.
///
/// Elements of a list are opened by the machine, items by the caller: while [`Progress::wants_item`] says so, it brings
/// the next by [`Progress::item`], and after the last calls [`Progress::items_end`]. Where one job is all that is done for
/// an item, it may carry out many without telling the machine of each: see [`Progress::lend`].
#[derive(Debug)]
pub struct Progress {
    wiring: Arc<Wiring>,
    /// All that is done for an item.
    sole: Option<NodeId>,
    retries: Arc<[Retry]>,
    machine: Machine,
}

impl Progress {
    /// Returns the execution of a plan before its start, with how each of its nodes is retried and how elements are
    /// worked on.
    ///
    /// # Panics
    /// Unless there is one `Retry` for each node.
    pub fn new(plan: &Plan, retries: impl Into<Arc<[Retry]>>, elements: Elements) -> Self {
        let retries = retries.into();
        assert_eq!(retries.len(), plan.len(), "one retry for each node");
        let wiring = Arc::clone(&plan.wiring);
        Self { machine: Machine::new(&wiring, elements), wiring, sole: plan.sole_of_items(), retries }
    }

    /// Starts every node that waits for none. A second call does nothing.
    pub fn start(&mut self, actions: &mut Vec<Action>) {
        let (machine, mut turn) = self.turn(actions);
        machine.start(&mut turn);
    }

    /// Records what became of a started job, and adds what is to be done next. A completion of a job that does not
    /// run, or of a frame that has ended, is ignored.
    pub fn on(&mut self, job: Job, completion: Completion, actions: &mut Vec<Action>) {
        let (machine, mut turn) = self.turn(actions);
        machine.on(job, completion, &mut turn);
    }

    /// Returns whether the next item can be worked on.
    pub fn wants_item(&self) -> bool {
        self.machine.wants_item(&self.wiring)
    }

    /// Returns whether items are still to come: their end was not told, and nothing has ended the execution.
    pub fn takes_items(&self) -> bool {
        self.machine.takes_items(&self.wiring)
    }

    /// Opens the frame of the next item, if one is wanted. Adds [`Action::Open`] with its index, and what starts.
    pub fn item(&mut self, actions: &mut Vec<Action>) -> Option<FrameId> {
        let (machine, mut turn) = self.turn(actions);
        machine.item(&mut turn)
    }

    /// Lends out the next items, at most as many, where there is room and [one job](Plan::sole_of_items) is all that is
    /// done for each, which waits for nothing. Returns their indices.
    ///
    /// The caller makes the first attempt at that job for one after the other, without an [`Action`] or [`Completion`].
    /// It says what became of them in their order: [`Progress::lent_done`] of those that have a result, and
    /// [`Progress::take_back`] of each that needs more than that.
    pub fn lend(&mut self, most: u32) -> Option<Range<u64>> {
        self.sole?;
        self.machine.lend(&self.wiring, most)
    }

    /// Says that so many lent items, from this one on, are done. Returns false, and does nothing, unless these are the
    /// first that were not given back of those that were lent together.
    pub fn lent_done(&mut self, first: u64, count: u32, actions: &mut Vec<Action>) -> bool {
        let (machine, mut turn) = self.turn(actions);
        machine.lent_done(first, count, &mut turn)
    }

    /// Takes a lent item back of which something other than a result came, or nothing: from now on it is an item like any
    /// other. Adds [`Action::Open`] and what follows. Where its first attempt has begun, that is what runs, and its
    /// completion is awaited; else the job starts as any does. Returns none, and does nothing, unless it is the first that
    /// was not given back of those that were lent together.
    pub fn take_back(&mut self, index: u64, began: bool, actions: &mut Vec<Action>) -> Option<Job> {
        let node = self.sole?;
        let (machine, mut turn) = self.turn(actions);
        let frame = machine.take_back(index, began, &mut turn)?;
        Some(Job { frame, node })
    }

    /// Says that nothing will come of what is lent, because whoever carried it out is gone.
    pub fn give_up_lent(&mut self, actions: &mut Vec<Action>) {
        let (machine, mut turn) = self.turn(actions);
        machine.give_up_lent(&mut turn);
    }

    /// Says that no further item comes. A second call does nothing.
    pub fn items_end(&mut self, actions: &mut Vec<Action>) {
        let (machine, mut turn) = self.turn(actions);
        machine.items_end(&mut turn);
    }

    /// Says that the attempt under way has this number, since earlier ones were made before a restart, or by another
    /// execution that died. Attempts count on from it: what [`Progress::attempts`] returns, the next
    /// [`Action::Start`] and the limit of retries. The attempt itself is made even past that limit; if it fails, that
    /// is final. Never lowers a number, and is ignored for a job that does not run.
    pub fn renumber(&mut self, job: Job, attempt: u32) {
        self.machine.renumber(&self.wiring, job, attempt);
    }

    /// Ends the execution from outside. Without effect once there is a conclusion.
    pub fn stop(&mut self, reason: StopReason, actions: &mut Vec<Action>) {
        let (machine, mut turn) = self.turn(actions);
        machine.stop(reason, &mut turn);
    }

    /// Returns how the execution ended, once it has.
    #[inline]
    pub fn conclusion(&self) -> Option<Conclusion> {
        self.machine.conclusion()
    }

    /// Returns where the job that ended the execution by its failure is: the dimensions around it with the index in each,
    /// from the outermost. Empty for a job that runs once.
    pub fn root_path(&self) -> &[(DimensionId, u64)] {
        self.machine.root_path()
    }

    /// Returns where a frame is: the dimensions around it with the index in each, from the outermost, its own last. None
    /// once it has ended and something else was told to the machine.
    pub fn path(&self, frame: FrameId) -> Option<Vec<(DimensionId, u64)>> {
        self.machine.path(frame)
    }

    /// Returns where a job stands; none where its frame has ended. What runs once always stands somewhere: after
    /// [`Action::Finish`] nothing waits or runs.
    #[inline]
    pub fn state(&self, job: Job) -> Option<State> {
        self.machine.node(&self.wiring, job).map(|node| node.state)
    }

    /// Returns how many attempts of a job began, those before a restart and one that is about to included. None where its
    /// frame has ended.
    #[inline]
    pub fn attempts(&self, job: Job) -> Option<u32> {
        self.machine.node(&self.wiring, job).map(|node| node.attempts)
    }

    /// Returns how many jobs are started and not completed, and items lent and not given back.
    pub fn running(&self) -> usize {
        self.machine.running()
    }

    /// Returns how many items have failed while others went on.
    pub fn failed_items(&self) -> u64 {
        self.machine.failed_items()
    }

    fn turn<'a>(&'a mut self, actions: &'a mut Vec<Action>) -> (&'a mut Machine, Turn<'a>) {
        let Self { wiring, retries, machine, sole: _ } = self;
        (machine, Turn { wiring, retries, actions })
    }
}
