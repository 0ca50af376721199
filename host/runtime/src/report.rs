//! Owns what is known of an execution once it is over, as data that serialises to JSON.

use std::sync::Arc;
use std::time::Duration;

use docket_graph::{FailureClass, Port, StepName};
use serde::{Serialize, Serializer};

use crate::call::Usage;
use crate::execution_id::ExecutionId;

/// An execution, after the fact.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// The execution.
    pub execution_id: ExecutionId,
    /// What was asked for.
    pub target: Port,
    /// How it ended.
    pub outcome: ExecutionOutcome,
    /// Why it has no result, causes included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it started, in milliseconds since the Unix epoch.
    pub started_at_ms: u64,
    /// From acceptance to the end.
    #[serde(rename = "elapsed-ms", serialize_with = "millis")]
    pub elapsed: Duration,
    /// Every step of the plan, in the plan's order.
    pub steps: Vec<StepReport>,
}

/// One step of an execution.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct StepReport {
    /// The step.
    pub step: StepName,
    /// The module that it comes from.
    #[serde(serialize_with = "text")]
    pub module: Arc<str>,
    /// How it ended.
    pub outcome: StepOutcome,
    /// Every attempt that was really made, in order.
    pub attempts: Vec<AttemptReport>,
}

/// One attempt.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct AttemptReport {
    /// 1 for the first.
    pub attempt: u32,
    /// When it started, since the execution did.
    #[serde(rename = "started-after-ms", serialize_with = "millis")]
    pub started_after: Duration,
    /// How long it took.
    #[serde(rename = "elapsed-ms", serialize_with = "millis")]
    pub elapsed: Duration,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// Why it failed, causes included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it used; none where it was stopped.
    #[serde(flatten)]
    pub usage: Option<Usage>,
}

/// How an execution ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExecutionOutcome {
    /// It has a result.
    Done,
    /// A step failed.
    Failed,
    /// A step stopped it.
    Aborted,
    /// It passed its deadline.
    DeadlineExceeded,
    /// The caller stopped it.
    Cancelled,
    /// The host stopped it.
    Shutdown,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepOutcome {
    /// It ran and answered.
    Done,
    /// A kept result took its place.
    Cached,
    /// It failed for good.
    Failed,
    /// It was stopped because the execution was over.
    Cancelled,
    /// The execution was over before its turn came.
    NeverStarted,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttemptOutcome {
    /// It answered.
    Done,
    /// It failed.
    Failed(FailureClass),
    /// It was stopped.
    Cancelled,
}

fn text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

/// Milliseconds with three decimals: what is worth reading of a duration.
fn millis<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_micros() as f64 / 1000.0)
}
