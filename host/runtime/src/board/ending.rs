//! Owns how a run ends: its last events, its result or its error, and its report. Never ends one.

use std::sync::Arc;

use docket_graph::{Conclusion, DimensionId, FailureClass, Job, NodeId, Port, State, StopReason};

use super::{Board, Failed, Run};
use crate::element::ElementPath;
use crate::failure::ExecutionError;
use crate::observer::Event;
use crate::report::{ExecutionOutcome, Report, StepOutcome, StepReport};
use crate::value::Value;

impl Run {
    pub(super) fn finish(&self, board: &mut Board, conclusion: Conclusion) {
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
        if let Some(reader) = board.items.as_mut().and_then(|items| items.reader(board.now)) {
            reader.wake();
        }
    }

    /// Returns whether nothing is left to do.
    pub(crate) fn is_over(&self) -> bool {
        self.lock().conclusion.is_some()
    }

    /// Returns the result and the report of a run that is over; no result where each item had its own. `target` is
    /// what was asked for, as the caller has it: whoever asks for one thing at a time has no count in common with others.
    pub(crate) fn outcome(&self, target: Port) -> (Result<Option<Arc<Value>>, ExecutionError>, Report) {
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
            target,
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
        let (key, attempts, elements, first_missed) = if self.runs_once(node) {
            let node = board.node_mut(self.plan(), Job::once(node));
            let key = node.kept.as_ref().map(|kept| kept.key.record.as_str().to_owned());
            (key, std::mem::take(&mut node.attempts), None, None)
        } else {
            let tally = board.tallies.get_mut(node.index()).map(std::mem::take).unwrap_or_default();
            (None, tally.attempts, Some(tally.counts), tally.first_missed)
        };
        StepReport {
            step: code.name.clone(),
            module: Arc::clone(&code.module),
            outcome,
            key,
            attempts,
            elements,
            first_missed,
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
    pub(super) fn error_of(&self, board: &Board, root: Job) -> ExecutionError {
        let Failed { element, failure, attempts, .. } = board.failure(root);
        let (step, element, source) = (self.code(root.node).name.clone(), element.clone(), failure.clone());
        match source.class() {
            FailureClass::Abort => ExecutionError::Aborted { step, element, source },
            _ => ExecutionError::Failed { step, element, attempts: *attempts, source },
        }
    }
}

pub(super) fn ended(state: State) -> Option<StepOutcome> {
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
