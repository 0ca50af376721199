//! The circumstances of one attempt, for steps that ask. Never needed to compute a result.

use std::time::{Duration, SystemTime};

use crate::wire;

/// What a step may know of the attempt that it is. Taken as a parameter, anywhere among the inputs.
///
/// ```ignore
/// fn charge(call: Invocation, order: Order) -> StepResult<Receipt> {
///     bank::charge(&call.idempotency_key, &order)
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// The name of the step.
    pub step: String,
    /// The execution that this attempt belongs to.
    pub execution_id: String,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// The same for every attempt at the same work, also after a crash.
    pub idempotency_key: String,
    /// When the execution started.
    pub started_at: SystemTime,
}

impl From<wire::Invocation> for Invocation {
    fn from(call: wire::Invocation) -> Self {
        let wire::Invocation { step, execution_id, attempt, idempotency_key, started_at_ms } = call;
        let started_at = SystemTime::UNIX_EPOCH + Duration::from_millis(started_at_ms);
        Self { step, execution_id, attempt, idempotency_key, started_at }
    }
}
