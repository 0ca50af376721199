//! Owns what the board is told of attempts: that one begins, how it ended, and what follows for its step. Never makes one.

use std::time::{Duration, Instant};

use docket_graph::{Completion, Job};
use rand::RngExt as _;

use super::ending::ended;
use super::{Board, Failed, Hand, Run, Running, Turn};
use crate::call::{Called, Origin};
use crate::clock;
use crate::element::ElementPath;
use crate::failure::StepFailure;
use crate::observer::Event;
use crate::report::{AttemptOutcome, AttemptReport, StepOutcome};

impl Run {
    /// Notes that an attempt has its permits and begins now; returns when that is.
    pub(crate) fn attempt_began(&self, turn: Turn) -> Instant {
        let mut board = self.lock();
        board.now = clock::now();
        self.began(&mut board, turn)
    }

    pub(super) fn began(&self, board: &mut Board, turn: Turn) -> Instant {
        let now = board.now;
        self.began_before(board, turn, Some(now));
        now
    }

    /// Notes when an attempt has begun, where the board was not told of it then.
    pub(super) fn began_before(&self, board: &mut Board, turn: Turn, began: Option<Instant>) {
        let Some(began) = began else { return };
        if board.conclusion.is_some() {
            // The run was abandoned while another thread was about to begin; its last event is out.
            return;
        }
        let Some(node) = board.frames.node_mut(self.plan(), turn.job) else { return };
        node.open = true;
        // Most steps are tried once.
        node.attempts.reserve_exact(1);
        node.attempts.push(AttemptReport {
            attempt: turn.attempt,
            started_after: began.duration_since(self.started),
            elapsed: Duration::ZERO,
            outcome: AttemptOutcome::Cancelled,
            error: None,
            usage: None,
            element: ElementPath::default(),
        });
        let step = &self.code(turn.job.node).name;
        let element = &self.told_element(board, turn.job.frame);
        self.tell(&Event::AttemptStarted { step, element, attempt: turn.attempt });
    }

    /// Notes how an attempt ended after which its lane does something else first: with an answer or a failure, or, with
    /// `None`, by being stopped. What the lane has in hand goes back.
    pub(crate) fn complete(
        &self,
        hand: &mut Hand<'_>,
        turn: Turn,
        began: Option<Instant>,
        called: Option<Called>,
    ) {
        let mut board = self.lock();
        board.now = called.as_ref().map_or_else(clock::now, |called| called.ended);
        self.settle(&mut board, hand);
        self.began_before(&mut board, turn, began);
        self.completed(&mut board, turn, called);
        self.call_all(board);
    }

    pub(super) fn completed(&self, board: &mut Board, turn: Turn, called: Option<Called>) {
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
    pub(super) fn carry_on(&self, board: &mut Board, job: Job, completion: Completion) {
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
            let failure = result.as_ref().err().map(|failure| &**failure);
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
                node.failure = Some(failure);
                Completion::Shared { class }
            }
            Err(failure) => {
                let completion = Completion::Failed {
                    class: failure.class(),
                    code: failure.code().map(str::to_owned),
                    retry_after: failure.retry_after(),
                    chance: rand::rng().random(),
                };
                node.failure = Some(failure);
                completion
            }
        }
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
