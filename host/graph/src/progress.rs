//! Owns one execution of a plan as a machine: completions in, actions out. Decides what starts, what is tried again,
//! what is stopped, and how it ends. Never waits, reads a clock, draws a chance or holds a value.

use std::sync::Arc;
use std::time::Duration;

use crate::edges::Edges;
use crate::plan::{NodeId, Plan};
use crate::policy::{FailureClass, Retry};

/// What the caller is to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// Wait for `delay`, look whether a kept result exists, and if not run the attempt of this number. Exactly one
    /// [`Completion`] is to answer.
    Start {
        /// Which node.
        node: NodeId,
        /// The attempt's number, from 1.
        attempt: u32,
        /// How long to wait first.
        delay: Duration,
    },
    /// Give up a node that was started. Its completion is still awaited: [`Completion::Stopped`], or whatever was
    /// faster.
    Stop {
        /// Which node.
        node: NodeId,
    },
    /// The execution has ended and nothing runs. The last action, and given exactly once.
    Finish(Conclusion),
}

/// What became of a started node.
#[derive(Debug, Clone, PartialEq)]
pub enum Completion {
    /// The attempt gave a result.
    Done,
    /// A kept result was found; no attempt was made.
    Kept,
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
    /// Another execution made the attempts that this one waited for, and failed for good. The node has failed with it:
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
    /// Every node is done or kept.
    Done,
    /// A node failed and was not tried again.
    Failed {
        /// The first that did.
        root: NodeId,
    },
    /// A node asked to stop the whole execution.
    Aborted {
        /// The one that did.
        root: NodeId,
    },
    /// It was stopped from outside.
    Stopped(StopReason),
}

/// Where a node stands.
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
/// conclusion no more.
#[derive(Debug)]
pub struct Progress {
    dependents: Arc<Edges<NodeId>>,
    nodes: Vec<Node>,
    retries: Arc<[Retry]>,
    running: usize,
    phase: Phase,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    state: State,
    /// How many nodes it still waits for.
    waits: u32,
    attempts: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// Not started.
    New,
    /// Nodes start as they become ready.
    Open,
    /// The conclusion is known, and running nodes are awaited.
    Closing(Conclusion),
    /// Over.
    Finished(Conclusion),
}

impl Progress {
    /// Returns the execution of a plan before its start, with how each of its nodes is retried.
    ///
    /// # Panics
    /// Unless there is one `Retry` for each node.
    pub fn new(plan: &Plan, retries: impl Into<Arc<[Retry]>>) -> Self {
        let retries = retries.into();
        assert_eq!(retries.len(), plan.len(), "one retry for each node");
        let node = |waits: &u32| Node { state: State::Waiting, waits: *waits, attempts: 0 };
        Self {
            dependents: plan.dependents.clone(),
            nodes: plan.dependencies.iter().map(node).collect(),
            retries,
            running: 0,
            phase: Phase::New,
        }
    }

    /// Starts every node that waits for none. A second call does nothing.
    pub fn start(&mut self, actions: &mut Vec<Action>) {
        if self.phase != Phase::New {
            return;
        }
        self.phase = Phase::Open;
        for i in 0..self.nodes.len() {
            if self.nodes[i].waits == 0 {
                self.run(id(i), 1, Duration::ZERO, actions);
            }
        }
        self.finish_when_idle(actions);
    }

    /// Records what became of a started node, and adds what is to be done next. A completion of a node that does not
    /// run is ignored.
    pub fn on(&mut self, node: NodeId, completion: Completion, actions: &mut Vec<Action>) {
        let State::Running { attempt } = self.nodes[node.index()].state else { return };
        match (self.phase, completion) {
            (_, Completion::Done) => self.settle(node, State::Done, attempt),
            (_, Completion::Kept) => self.settle(node, State::Kept, attempt - 1),
            (_, Completion::Stopped { began }) => self.stopped(node, attempt, began, actions),
            (Phase::Open, Completion::Failed { class, code, retry_after, chance }) => {
                let retry = &self.retries[node.index()];
                match retry.delay_after(attempt, class, code.as_deref(), retry_after, chance) {
                    Some(delay) => return self.run_again(node, attempt + 1, delay, actions),
                    None => self.fail(node, attempt, class, actions),
                }
            }
            (Phase::Open, Completion::Shared { class }) => self.fail(node, attempt - 1, class, actions),
            (_, Completion::Failed { .. }) => self.settle(node, State::Failed, attempt),
            (_, Completion::Shared { .. }) => self.settle(node, State::Failed, attempt - 1),
        }
        if self.phase == Phase::Open {
            self.release(node, actions);
        }
        self.finish_when_idle(actions);
    }

    /// Says that the attempt under way has this number, since earlier ones were made before a restart, or by another
    /// execution that died. Attempts count on from it: what [`Progress::attempts`] returns, the next
    /// [`Action::Start`] and the limit of retries. The attempt itself is made even past that limit; if it fails, that
    /// is final. Never lowers a number, and is ignored for a node that does not run.
    pub fn renumber(&mut self, node: NodeId, attempt: u32) {
        let node = &mut self.nodes[node.index()];
        if let State::Running { attempt: current } = node.state {
            let attempt = attempt.max(current);
            node.state = State::Running { attempt };
            node.attempts = attempt;
        }
    }

    /// Ends the execution from outside. Without effect once there is a conclusion.
    pub fn stop(&mut self, reason: StopReason, actions: &mut Vec<Action>) {
        self.close(Conclusion::Stopped(reason), actions);
        self.finish_when_idle(actions);
    }

    /// Returns how the execution ended, once it has.
    pub fn conclusion(&self) -> Option<Conclusion> {
        match self.phase {
            Phase::Finished(conclusion) => Some(conclusion),
            Phase::New | Phase::Open | Phase::Closing(_) => None,
        }
    }

    /// Returns where a node stands. After [`Action::Finish`] none waits or runs.
    pub fn state(&self, node: NodeId) -> State {
        self.nodes[node.index()].state
    }

    /// Returns how many attempts of a node began, those before a restart and one that is about to included.
    pub fn attempts(&self, node: NodeId) -> u32 {
        self.nodes[node.index()].attempts
    }

    /// Returns how many nodes are started and not completed.
    pub fn running(&self) -> usize {
        self.running
    }

    fn run(&mut self, node: NodeId, attempt: u32, delay: Duration, actions: &mut Vec<Action>) {
        self.running += 1;
        self.run_again(node, attempt, delay, actions);
    }

    /// The node goes on running, with its next attempt.
    fn run_again(&mut self, node: NodeId, attempt: u32, delay: Duration, actions: &mut Vec<Action>) {
        let running = &mut self.nodes[node.index()];
        running.state = State::Running { attempt };
        running.attempts = attempt;
        actions.push(Action::Start { node, attempt, delay });
    }

    fn settle(&mut self, node: NodeId, state: State, attempts: u32) {
        let settled = &mut self.nodes[node.index()];
        settled.state = state;
        settled.attempts = attempts;
        self.running -= 1;
    }

    /// A node that stopped by itself cannot be waited for any more, so the execution is cancelled.
    fn stopped(&mut self, node: NodeId, attempt: u32, began: bool, actions: &mut Vec<Action>) {
        let attempts = if began { attempt } else { attempt - 1 };
        self.settle(node, if attempts == 0 { State::NeverStarted } else { State::Stopped }, attempts);
        self.close(Conclusion::Stopped(StopReason::Cancelled), actions);
    }

    fn fail(&mut self, node: NodeId, attempts: u32, class: FailureClass, actions: &mut Vec<Action>) {
        self.settle(node, State::Failed, attempts);
        let conclusion = match class {
            FailureClass::Abort => Conclusion::Aborted { root: node },
            _ => Conclusion::Failed { root: node },
        };
        self.close(conclusion, actions);
    }

    /// Starts what waited for this node alone.
    fn release(&mut self, node: NodeId, actions: &mut Vec<Action>) {
        let dependents = self.dependents.clone();
        for dependent in dependents.of_source(node.index()) {
            let waits = &mut self.nodes[dependent.index()].waits;
            *waits -= 1;
            if *waits == 0 {
                self.run(*dependent, 1, Duration::ZERO, actions);
            }
        }
    }

    /// Fixes the conclusion, unless there is one: stops what runs, and gives up what waits.
    fn close(&mut self, conclusion: Conclusion, actions: &mut Vec<Action>) {
        match self.phase {
            Phase::New | Phase::Open => self.phase = Phase::Closing(conclusion),
            Phase::Closing(_) | Phase::Finished(_) => return,
        }
        for (i, node) in self.nodes.iter_mut().enumerate() {
            match node.state {
                State::Waiting => node.state = State::NeverStarted,
                State::Running { .. } => actions.push(Action::Stop { node: id(i) }),
                State::Done | State::Kept | State::Failed | State::Stopped | State::NeverStarted => {}
            }
        }
    }

    fn finish_when_idle(&mut self, actions: &mut Vec<Action>) {
        if self.running > 0 {
            return;
        }
        let conclusion = match self.phase {
            Phase::New | Phase::Finished(_) => return,
            Phase::Open => Conclusion::Done,
            Phase::Closing(conclusion) => conclusion,
        };
        self.phase = Phase::Finished(conclusion);
        actions.push(Action::Finish(conclusion));
    }
}

fn id(index: usize) -> NodeId {
    NodeId(u32::try_from(index).expect("a plan's nodes are counted in 32 bits"))
}
