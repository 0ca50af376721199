//! Owns every reason why there is no plan, or no default, and how it is said.

use std::fmt;

use crate::fault::{Lines, List};
use crate::port::{Port, StepName};

/// Why there is no default.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DefaultError {
    /// Not one final output.
    #[error("the graph has {} final outputs, so name one: {}", choices.len(), List(choices))]
    Targets {
        /// All of them.
        choices: Vec<Port>,
    },
    /// Not one leaf.
    #[error("{}", choose(target, choices))]
    Inputs {
        /// What is to be computed.
        target: Port,
        /// All leaves that it needs.
        choices: Vec<Port>,
    },
    /// Not one leaf that could be the items.
    #[error("{}", choose_items(target, choices))]
    Items {
        /// What is to be computed.
        target: Port,
        /// All leaves that it needs and that are not shared.
        choices: Vec<Port>,
    },
    /// No step takes or gives the target.
    #[error("no step gives `{port}`{}", meant(nearest.as_ref()))]
    UnknownTarget {
        /// The target.
        port: Port,
        /// What was perhaps meant.
        nearest: Option<Port>,
    },
}

/// One reason why there is no plan. The order is that of a report.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum PlanFault {
    /// No step takes or gives the target.
    #[error("no step gives `{port}`{}", meant(nearest.as_ref()))]
    UnknownTarget {
        /// The target.
        port: Port,
        /// What was perhaps meant.
        nearest: Option<Port>,
    },
    /// A leaf that is not given.
    #[error("input `{port}` is missing: {}", needed(needed_by))]
    MissingInput {
        /// The leaf.
        port: Port,
        /// The steps that take it, by name; none when it is the target itself.
        needed_by: Vec<StepName>,
    },
    /// An input that changes nothing.
    #[error("input `{port}` is not used: {why}")]
    UnusedInput {
        /// The input.
        port: Port,
        /// Why.
        why: Unused,
    },
    /// A step that would have to run for each of two things which have nothing to do with each other.
    #[error(
        "step `{step}` takes {}, and {}: nothing says which of them belong together; \
         take one of the two as many, in this step or in one before it, so that it is gathered first",
        inputs[0], inputs[1]
    )]
    UnrelatedDimensions {
        /// The step where they meet.
        step: StepName,
        /// One input for each of them.
        inputs: Box<[Repeated; 2]>,
    },
    /// An input that is given twice.
    #[error("input `{port}` is given more than once; give it once")]
    DuplicateInput {
        /// The input.
        port: Port,
    },
}

/// An input that a step takes once for each element of a list, or for each item of a batch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Repeated {
    /// What it takes.
    pub port: Port,
    /// The port of the list, or of the items.
    pub list: Port,
    /// The step that gives the list; none for the items.
    pub by: Option<StepName>,
}

impl fmt::Display for Repeated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, list, by } = self;
        if port != list {
            write!(f, "`{port}` for ")?;
        }
        match by {
            Some(step) => write!(f, "each element of `{list}`, which step `{step}` gives"),
            None => write!(f, "each item of `{list}`"),
        }
    }
}

/// Why an input is not used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Unused {
    /// No step knows the port.
    #[error("no step takes or gives it{}", meant(nearest.as_ref()))]
    Unknown {
        /// What was perhaps meant.
        nearest: Option<Port>,
    },
    /// The host itself gives it.
    #[error("the host counts how many failed itself, so leave it out")]
    FromHost,
    /// Nothing on the way to the target takes it.
    #[error("nothing that `{target}` needs takes it{}", meant(nearest.as_ref()))]
    NotNeeded {
        /// The target.
        target: Port,
        /// Which of the inputs that the target needs was perhaps meant.
        nearest: Option<Port>,
    },
    /// All that would take it is left out, because what it leads to is given too.
    #[error("what it leads to is given as `{instead}`")]
    Replaced {
        /// The input that makes it needless.
        instead: Port,
    },
}

/// All reasons why there is no plan: sorted, each once, never none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", Lines(.0))]
pub struct PlanErrors(Vec<PlanFault>);

impl PlanErrors {
    pub(super) fn of(mut faults: Vec<PlanFault>) -> Self {
        faults.sort();
        faults.dedup();
        Self(faults)
    }

    /// Returns the reasons in order.
    pub fn faults(&self) -> &[PlanFault] {
        &self.0
    }
}

fn meant(nearest: Option<&Port>) -> String {
    nearest.map(|port| format!("; did you mean `{port}`?")).unwrap_or_default()
}

fn needed(by: &[StepName]) -> String {
    match by {
        [] => "it is the target, and no step gives it".to_owned(),
        [step] => format!("step `{step}` needs it, and no step gives it"),
        steps => format!("steps {} need it, and no step gives it", List(steps)),
    }
}

fn choose(target: &Port, choices: &[Port]) -> String {
    match choices {
        [] => format!("`{target}` needs no input"),
        _ => format!("`{target}` needs {} inputs, so name each: {}", choices.len(), List(choices)),
    }
}

fn choose_items(target: &Port, choices: &[Port]) -> String {
    match choices {
        [] => format!("`{target}` needs no input that is not shared, so that nothing could come as items"),
        _ => format!(
            "`{target}` needs {} inputs that are not shared, so share all but one, or name the items: {}",
            choices.len(),
            List(choices)
        ),
    }
}
