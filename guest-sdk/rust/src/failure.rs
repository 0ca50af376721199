//! How a step fails. Owns the failure that a step returns; never decides whether it is tried again.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::policy::milliseconds;
use crate::wire;

/// What a step returns.
pub type StepResult<T> = Result<T, Failure>;

/// What the host should do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Try again, as far as the policy allows.
    Retryable,
    /// Trying again is useless; the execution fails.
    Permanent,
    /// Stop the whole execution at once.
    Abort,
}

/// A failure that a step reports.
///
/// Any [`std::error::Error`] becomes a *retryable* failure through `?`, because most errors that a
/// step meets and does not expect are another service's. For the others say what they are:
/// `.map_err(|e| Failure::permanent(e))?`.
///
/// `Failure` is not itself a `std::error::Error`: that is what makes the conversion from every
/// error possible.
///
/// ```
/// use docket_guest::{Failure, StepResult};
/// use std::time::Duration;
///
/// fn charge(amount: &str) -> StepResult<u32> {
///     let cents: u32 = amount.parse().map_err(Failure::permanent)?;
///     match cents {
///         0 => Err(Failure::permanent("nothing to charge").code("empty_amount")),
///         1..10_000 => Ok(cents),
///         _ => Err(Failure::retryable("over today's limit").retry_after(Duration::from_secs(3600))),
///     }
/// }
/// assert_eq!(charge("0").unwrap_err().code.as_deref(), Some("empty_amount"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What the host should do about it.
    pub kind: FailureKind,
    /// A short word for machines; the operator's configuration can reclassify by it.
    pub code: Option<String>,
    /// A sentence for people.
    pub message: String,
    /// The least delay before the next attempt.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// Returns a failure that is worth another attempt.
    pub fn retryable(message: impl ToString) -> Self {
        Self::new(FailureKind::Retryable, message.to_string())
    }

    /// Returns a failure that no further attempt would cure.
    pub fn permanent(message: impl ToString) -> Self {
        Self::new(FailureKind::Permanent, message.to_string())
    }

    /// Returns a failure that stops the whole execution, running siblings included.
    pub fn abort(message: impl ToString) -> Self {
        Self::new(FailureKind::Abort, message.to_string())
    }

    fn new(kind: FailureKind, message: String) -> Self {
        Self { kind, code: None, message, retry_after: None }
    }

    /// Adds a short word for machines, such as `card_declined`.
    #[must_use]
    pub fn code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// Asks the host to wait at least this long before the next attempt.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::retryable(with_causes(&error))
    }
}

impl From<Failure> for wire::Failure {
    fn from(failure: Failure) -> Self {
        let Failure { kind, code, message, retry_after } = failure;
        let kind = match kind {
            FailureKind::Retryable => wire::FailureKind::Retryable,
            FailureKind::Permanent => wire::FailureKind::Permanent,
            FailureKind::Abort => wire::FailureKind::Abort,
        };
        Self { kind, code, message, retry_after_ms: retry_after.map(milliseconds) }
    }
}

/// The error and its causes in one line, because a failure crosses the boundary as text.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = error.to_string();
        // Some libraries already repeat the cause in their own text.
        if !text.ends_with(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> StepResult<u32> {
        Ok(text.parse::<u32>()?)
    }

    #[derive(Debug)]
    struct Outer(std::num::ParseIntError);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bad page number")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn any_error_becomes_a_retryable_failure() {
        assert_eq!(parse("x"), Err(Failure::retryable("invalid digit found in string")));
    }

    #[test]
    fn causes_are_told_with_the_error() {
        let failure = Failure::from(Outer("x".parse::<u32>().unwrap_err()));
        assert_eq!(failure.message, "bad page number: invalid digit found in string");
    }

    #[test]
    fn a_failure_crosses_the_boundary_whole() {
        let wire = wire::Failure::from(
            Failure::abort("stop").code("fraud").retry_after(Duration::from_millis(1500)),
        );
        assert_eq!(wire.kind, wire::FailureKind::Abort);
        assert_eq!(wire.code.as_deref(), Some("fraud"));
        assert_eq!(wire.message, "stop");
        assert_eq!(wire.retry_after_ms, Some(1500));
        assert_eq!(wire::Failure::from(Failure::permanent("no")).kind, wire::FailureKind::Permanent);
        assert_eq!(wire::Failure::from(Failure::retryable("later")).kind, wire::FailureKind::Retryable);
    }
}
