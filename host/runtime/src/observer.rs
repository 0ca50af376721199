//! Owns what a host tells about its work while it happens. Never decides anything.

use std::time::Duration;

use docket_graph::{Port, StepName};

use crate::call::Usage;
use crate::element::ElementPath;
use crate::execution_id::ExecutionId;
use crate::failure::{ExecutionError, StepFailure};
use crate::guest_log::Stream;
use crate::report::StepOutcome;

/// Something that happened in an execution.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The execution was accepted; first of all its events.
    ExecutionStarted {
        /// What is asked for.
        target: &'a Port,
        /// How many steps the plan has.
        steps: usize,
    },
    /// An attempt has its permits and its instance is being made.
    AttemptStarted {
        /// The step.
        step: &'a StepName,
        /// For which element; empty for a step that runs once.
        element: &'a ElementPath,
        /// 1 for the first.
        attempt: u32,
    },
    /// The guest wrote a line.
    Output {
        /// The step.
        step: &'a StepName,
        /// For which element; empty for a step that runs once.
        element: &'a ElementPath,
        /// The attempt that wrote.
        attempt: u32,
        /// Where to.
        stream: Stream,
        /// The line, without its end.
        line: &'a str,
    },
    /// An attempt gave an answer or failed.
    AttemptEnded {
        /// The step.
        step: &'a StepName,
        /// For which element; empty for a step that runs once.
        element: &'a ElementPath,
        /// The attempt that ended.
        attempt: u32,
        /// Since it started.
        elapsed: Duration,
        /// What it used.
        usage: Usage,
        /// Why it failed, if it did.
        failure: Option<&'a StepFailure>,
    },
    /// Another attempt will be made.
    RetryScheduled {
        /// The step.
        step: &'a StepName,
        /// For which element; empty for a step that runs once.
        element: &'a ElementPath,
        /// The attempt to come.
        attempt: u32,
        /// How long it waits first.
        delay: Duration,
    },
    /// The step is over in this execution, or for this element of it. Elements for which it never started are not told of.
    StepEnded {
        /// The step.
        step: &'a StepName,
        /// For which element; empty for a step that runs once.
        element: &'a ElementPath,
        /// How it ended.
        outcome: StepOutcome,
    },
    /// The execution is over; last of all its events.
    ExecutionEnded {
        /// Since it started.
        elapsed: Duration,
        /// Why it has no result, if it has none.
        error: Option<&'a ExecutionError>,
    },
}

/// Is told of everything that happens in a host's executions.
///
/// The events of one execution come one at a time and in the order in which they happened. They
/// come from the tasks that do the work, which wait for the observer: it must return soon, and
/// must not call the host.
pub trait Observer: Send + Sync {
    /// Takes note of an event.
    fn on_event(&self, execution: &ExecutionId, event: &Event<'_>);
}

/// Tells several observers, in order.
impl Observer for Vec<std::sync::Arc<dyn Observer>> {
    fn on_event(&self, execution: &ExecutionId, event: &Event<'_>) {
        for observer in self {
            observer.on_event(execution, event);
        }
    }
}
