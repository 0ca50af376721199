//! Owns what is known of an execution once it is over, as data that serialises to JSON.

use std::sync::Arc;
use std::time::Duration;

use docket_graph::{FailureClass, Port, StepName};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::call::Usage;
use crate::element::ElementPath;
use crate::execution_id::ExecutionId;

/// An execution, after the fact.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The execution.
    pub execution_id: ExecutionId,
    /// What was asked for.
    pub target: Port,
    /// How it ended.
    pub outcome: ExecutionOutcome,
    /// Why it has no result, causes included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it started, in milliseconds since the Unix epoch.
    pub started_at_ms: u64,
    /// From acceptance to the end.
    #[serde(rename = "elapsed_ms", serialize_with = "millis", deserialize_with = "from_millis")]
    pub elapsed: Duration,
    /// Every step of the plan, in the plan's order.
    pub steps: Vec<StepReport>,
}

/// One step of an execution.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StepReport {
    /// The step.
    pub step: StepName,
    /// The module that it comes from.
    #[serde(serialize_with = "text", deserialize_with = "from_text")]
    pub module: Arc<str>,
    /// How it ended.
    pub outcome: StepOutcome,
    /// The key of its result, where that is to be kept, in hexadecimal: also the step's idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Every attempt that was really made, in order; for a step that runs for each element, those of the first
    /// element that failed.
    pub attempts: Vec<AttemptReport>,
    /// How the step ended for each element, where it runs for each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elements: Option<ElementCounts>,
    /// The first element for which no kept result was found, where the step runs for each element and its results are
    /// to be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_missed: Option<MissedElement>,
}

/// An element whose work was to be done, because no result of it was kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissedElement {
    /// Which it is.
    pub element: ElementPath,
    /// The key of the work for it, in hexadecimal.
    pub key: String,
    /// How many attempts were made.
    pub attempts: u32,
}

/// For how many elements of a list a step ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElementCounts {
    /// It ran and answered.
    pub done: u64,
    /// A kept result took its place.
    pub cached: u64,
    /// It failed for good.
    pub failed: u64,
    /// It was stopped because something else failed.
    pub cancelled: u64,
    /// Something else had failed before its turn came. Elements that never came are not counted.
    pub never_started: u64,
}

impl ElementCounts {
    pub(crate) fn add(&mut self, outcome: StepOutcome) {
        match outcome {
            StepOutcome::Done => self.done += 1,
            StepOutcome::Cached => self.cached += 1,
            StepOutcome::Failed => self.failed += 1,
            StepOutcome::Cancelled => self.cancelled += 1,
            StepOutcome::NeverStarted => self.never_started += 1,
        }
    }

    /// Returns how the step ended for all elements together: as the worst did.
    pub(crate) fn outcome(self) -> StepOutcome {
        let Self { done, cached, failed, cancelled, never_started } = self;
        if failed > 0 {
            StepOutcome::Failed
        } else if cancelled > 0 || (never_started > 0 && done + cached > 0) {
            StepOutcome::Cancelled
        } else if never_started > 0 {
            StepOutcome::NeverStarted
        } else if cached > 0 && done == 0 {
            StepOutcome::Cached
        } else {
            StepOutcome::Done
        }
    }
}

/// One attempt.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttemptReport {
    /// 1 for the first.
    pub attempt: u32,
    /// When it started, since the execution did.
    #[serde(rename = "started_after_ms", serialize_with = "millis", deserialize_with = "from_millis")]
    pub started_after: Duration,
    /// How long it took.
    #[serde(rename = "elapsed_ms", serialize_with = "millis", deserialize_with = "from_millis")]
    pub elapsed: Duration,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// Why it failed, causes included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// For which element it was made; empty for a step that runs once.
    #[serde(default, skip_serializing_if = "ElementPath::is_empty")]
    pub element: ElementPath,
    /// What it used; none where it was stopped.
    #[serde(flatten)]
    pub usage: Option<Usage>,
}

/// How an execution ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

fn from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    String::deserialize(deserializer).map(Arc::from)
}

fn from_millis<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let millis = f64::deserialize(deserializer)?;
    Duration::try_from_secs_f64(millis / 1000.0).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(
        number: u32,
        outcome: AttemptOutcome,
        error: Option<&str>,
        usage: Option<Usage>,
    ) -> AttemptReport {
        AttemptReport {
            attempt: number,
            started_after: Duration::from_nanos(1_234_567),
            elapsed: Duration::from_millis(100),
            outcome,
            error: error.map(str::to_owned),
            usage,
            element: ElementPath::default(),
        }
    }

    fn step(name: &str, outcome: StepOutcome, attempts: Vec<AttemptReport>) -> StepReport {
        let step = StepName::parse(name).unwrap();
        StepReport {
            step,
            module: "fetch.wasm".into(),
            outcome,
            key: None,
            attempts,
            elements: None,
            first_missed: None,
        }
    }

    #[test]
    fn the_json_of_a_report_is_this_text() {
        let timeout = AttemptOutcome::Failed(FailureClass::Timeout);
        let memory = Usage { peak_memory: 1_114_112, fuel: None };
        let metered = Usage { peak_memory: 65_536, fuel: Some(4_242) };
        let report = Report {
            execution_id: ExecutionId::parse("order-42").unwrap(),
            target: Port::parse("example.v1.Text#clean").unwrap(),
            outcome: ExecutionOutcome::DeadlineExceeded,
            error: Some("the execution passed its deadline of 250 ms".into()),
            started_at_ms: 1_700_000_000_123,
            elapsed: Duration::from_micros(250_042),
            steps: vec![
                step(
                    "Fetch",
                    StepOutcome::Done,
                    vec![
                        attempt(1, timeout, Some("timed out after 100 ms"), Some(memory)),
                        attempt(2, AttemptOutcome::Done, None, Some(metered)),
                    ],
                ),
                step(
                    "Clean",
                    StepOutcome::Cancelled,
                    vec![attempt(1, AttemptOutcome::Cancelled, None, None)],
                ),
                step("Count", StepOutcome::NeverStarted, Vec::new()),
            ],
        };
        assert_eq!(serde_json::to_string_pretty(&report).unwrap(), GOLDEN);
        let read: Report = serde_json::from_str(GOLDEN).unwrap();
        assert_eq!(serde_json::to_string_pretty(&read).unwrap(), GOLDEN, "reports are read back");
    }

    const GOLDEN: &str = r#"{
  "execution_id": "order-42",
  "target": "example.v1.Text#clean",
  "outcome": "deadline-exceeded",
  "error": "the execution passed its deadline of 250 ms",
  "started_at_ms": 1700000000123,
  "elapsed_ms": 250.042,
  "steps": [
    {
      "step": "Fetch",
      "module": "fetch.wasm",
      "outcome": "done",
      "attempts": [
        {
          "attempt": 1,
          "started_after_ms": 1.234,
          "elapsed_ms": 100.0,
          "outcome": {
            "failed": "timeout"
          },
          "error": "timed out after 100 ms",
          "peak_memory": 1114112
        },
        {
          "attempt": 2,
          "started_after_ms": 1.234,
          "elapsed_ms": 100.0,
          "outcome": "done",
          "peak_memory": 65536,
          "fuel": 4242
        }
      ]
    },
    {
      "step": "Clean",
      "module": "fetch.wasm",
      "outcome": "cancelled",
      "attempts": [
        {
          "attempt": 1,
          "started_after_ms": 1.234,
          "elapsed_ms": 100.0,
          "outcome": "cancelled"
        }
      ]
    },
    {
      "step": "Count",
      "module": "fetch.wasm",
      "outcome": "never-started",
      "attempts": []
    }
  ]
}"#;

    #[test]
    fn every_outcome_has_one_word() {
        use ExecutionOutcome::{Aborted, Cancelled, DeadlineExceeded, Done, Failed, Shutdown};
        let words =
            serde_json::to_string(&[Done, Failed, Aborted, DeadlineExceeded, Cancelled, Shutdown]).unwrap();
        assert_eq!(words, r#"["done","failed","aborted","deadline-exceeded","cancelled","shutdown"]"#);
        let words = serde_json::to_string(&[StepOutcome::Cached, StepOutcome::Failed]).unwrap();
        assert_eq!(words, r#"["cached","failed"]"#);
    }
}
