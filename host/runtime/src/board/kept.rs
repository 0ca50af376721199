//! Owns what the board knows of steps whose results are kept: their keys, the right to make a result
//! between two attempts, and what becomes of it. Never asks a store.

use docket_graph::Job;
use tokio::task::JoinHandle;

use super::{Board, Run, Turn};
use crate::call::Usage;
use crate::clock;
use crate::failure::StepFailure;
use crate::keep::Hold;
use crate::key::WorkKey;
use crate::observer::Event;
use crate::report::{AttemptOutcome, StepOutcome};

/// What a node has whose step's result is kept.
pub(super) struct KeptNode {
    pub(super) key: WorkKey,
    /// The right to make the result, between two attempts.
    pub(super) hold: Option<Hold>,
}

impl Run {
    /// Notes the key of a kept step's work.
    pub(crate) fn has_key(&self, job: Job, key: &WorkKey) {
        let mut board = self.lock();
        let Some(node) = board.frames.node_mut(self.plan(), job) else { return };
        node.kept.get_or_insert_with(|| Box::new(KeptNode { key: key.clone(), hold: None }));
    }

    /// Takes the right to make a step's result that an earlier attempt has left.
    pub(crate) fn take_hold(&self, job: Job) -> Option<Hold> {
        self.lock().frames.node_mut(self.plan(), job)?.kept.as_mut()?.hold.take()
    }

    /// Leaves the right to make a step's result for the next attempt, or for the end of the step.
    pub(crate) fn put_hold(&self, job: Job, hold: Hold) {
        // Where the run was abandoned meanwhile, it is given back.
        if let Some(node) = self.lock().frames.node_mut(self.plan(), job) {
            node.kept.as_mut().expect("a step that holds its work has a key").hold = Some(hold);
        }
    }

    /// Notes that the attempt under way has this number, since others came before this execution, or
    /// before its restart; returns the turn with that number.
    pub(crate) fn renumber(&self, turn: Turn, attempt: u32) -> Turn {
        if attempt != turn.attempt {
            self.lock().progress.renumber(turn.job, attempt);
        }
        Turn { attempt, ..turn }
    }

    /// Notes that an attempt came to nothing because another process has taken the work over, or may
    /// have; returns the turn with the number of the next one, if there is to be one.
    pub(crate) fn attempt_lost(&self, turn: Turn) -> Turn {
        let next = Turn { attempt: turn.attempt + 1, ..turn };
        let mut board = self.lock();
        let element = &self.told_element(&board, turn.job.frame);
        let Some(node) = board.frames.node_mut(self.plan(), turn.job) else { return turn };
        if !std::mem::take(&mut node.open) {
            return turn;
        }
        let Some(report) = node.attempts.last_mut() else { return next };
        report.elapsed = clock::now().duration_since(self.started).saturating_sub(report.started_after);
        let failure = StepFailure::LeaseLost;
        report.outcome = AttemptOutcome::Failed(failure.class());
        report.error = Some(failure.to_string());
        let (elapsed, usage) = (report.elapsed, Usage::default());
        let step = &self.code(turn.job.node).name;
        self.tell(&Event::AttemptEnded {
            step,
            element,
            attempt: turn.attempt,
            elapsed,
            usage,
            failure: Some(&failure),
        });
        next
    }

    /// Gives back the right to make a step's result once the step has ended without one.
    pub(super) fn give_back(&self, board: &mut Board, job: Job, outcome: StepOutcome) {
        let Board { frames, endings, .. } = board;
        let Some(node) = frames.node_mut(self.plan(), job) else { return };
        let Some(hold) = node.kept.as_mut().and_then(|kept| kept.hold.take()) else { return };
        match (node.failure.as_deref(), outcome) {
            (Some(failure), StepOutcome::Failed) => endings.extend(hold.failed(failure)),
            _ => drop(hold),
        }
    }

    /// Returns the notes that are being written into the store.
    pub(crate) fn endings(&self) -> Vec<JoinHandle<()>> {
        if self.journaled.is_none() { Vec::new() } else { std::mem::take(&mut self.lock().endings) }
    }
}
