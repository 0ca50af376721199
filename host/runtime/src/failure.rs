//! Owns every way in which an attempt, a step and an execution can end badly, with the words for it.

use std::any::Any;
use std::time::Duration;

use docket_graph::{Arity, FailureClass, Port, StepName, StopReason, WireFault};

use crate::element::ElementPath;
use crate::http::HttpLimit;

/// Why an attempt failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepFailure {
    /// The step reported a failure itself.
    #[error("{message}{}", code.as_ref().map(|code| format!(" (code `{code}`)")).unwrap_or_default())]
    Reported {
        /// [`FailureClass::Retryable`], [`FailureClass::Permanent`] or [`FailureClass::Abort`].
        class: FailureClass,
        /// The step's word for machines.
        code: Option<String>,
        /// The step's sentence for people.
        message: String,
        /// The least delay that the step asks for.
        retry_after: Option<Duration>,
    },
    /// The attempt took longer than its limit; what it would have answered later is refused.
    #[error("timed out after {}", humane(*limit))]
    Timeout {
        /// The limit of one attempt.
        limit: Duration,
    },
    /// The guest was refused more linear memory, and did not get over it.
    #[error("needs more memory than its limit of {limit} bytes")]
    Memory {
        /// In bytes.
        limit: u64,
    },
    /// The guest was refused more table elements, and did not get over it.
    #[error("needs more table elements than its limit of {limit}")]
    Tables {
        /// In elements.
        limit: u64,
    },
    /// The guest held too many things of the host's at once, or of its own that the host keeps for it.
    #[error("held more handles of streams, timers, files and requests than its limit of {limit}")]
    Handles {
        /// In handles.
        limit: u64,
    },
    /// The guest used up its budget of instructions.
    #[error("used up its budget of {limit} fuel units")]
    Fuel {
        /// In wasmtime's fuel units.
        limit: u64,
    },
    /// The answer is too large.
    #[error("answered with more than its limit of {limit} bytes")]
    Output {
        /// In bytes.
        limit: u64,
    },
    /// The guest wrote too much to stdout and stderr.
    #[error("wrote more than its limit of {limit} bytes to stdout and stderr")]
    Logs {
        /// In bytes.
        limit: u64,
    },
    /// The guest wrote too many lines to stdout and stderr.
    #[error("wrote more than its limit of {limit} lines to stdout and stderr")]
    LogLines {
        /// In lines.
        limit: u64,
    },
    /// The guest computed for too long.
    #[error("used more processor time than its limit of {}", humane(*limit))]
    Cpu {
        /// Of one attempt.
        limit: Duration,
    },
    /// The guest called itself too deeply.
    #[error("needs more stack than the host's limit of {limit} bytes{}", said(stderr))]
    Stack {
        /// In bytes.
        limit: u64,
        /// The end of what the guest wrote to stderr.
        stderr: String,
    },
    /// The guest held too many files open.
    #[error("held more files open than its limit of {limit}")]
    OpenFiles {
        /// Files, directories and listings at once.
        limit: u64,
    },
    /// The guest wrote too much into granted directories.
    #[error("wrote more than its limit of {limit} bytes into granted directories")]
    DirBytes {
        /// In bytes.
        limit: u64,
    },
    /// The guest used what this host gives to no step, or not to this one.
    #[error("used `{import}`, which it was not granted: {how}")]
    Denied {
        /// The interface and function.
        import: String,
        /// What the operator can do.
        how: &'static str,
    },
    /// What was granted cannot be given.
    #[error("cannot be given what it was granted: {0}")]
    Grant(String),
    /// The guest was refused more HTTP, and did not get over it.
    #[error("{limit}{}", words(message))]
    Http {
        /// The limit that it reached first.
        limit: HttpLimit,
        /// The step's sentence for people, where it gave one.
        message: String,
    },
    /// The guest crashed.
    #[error("trapped: {reason}{}", said(stderr))]
    Trap {
        /// What went wrong, and where in the guest.
        reason: String,
        /// The end of what the guest wrote to stderr.
        stderr: String,
    },
    /// The guest ended its process instead of returning.
    #[error("called exit with status {status} instead of returning")]
    Exit {
        /// The status it gave.
        status: i32,
    },
    /// The answer is not what the step declared.
    #[error("gave a wrong answer: {0}")]
    Answer(AnswerFault),
    /// The store could not be read or written, and the step is not to run without.
    #[error("the store failed: {0}")]
    Store(String),
    /// The result was being made by another execution, which failed for good.
    #[error("{message}")]
    Elsewhere {
        /// As it was there.
        class: FailureClass,
        /// The step's word for machines.
        code: Option<String>,
        /// What was said there.
        message: String,
    },
    /// Another process took the work over, because this one had not renewed its lease in time.
    #[error("lost its lease to another process")]
    LeaseLost,
    /// The host itself failed; a fault of ours, not of the step.
    #[error("internal error of the host: {0}")]
    Internal(String),
}

/// How an answer differs from the declaration.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AnswerFault {
    /// One message where many were declared, or the other way round.
    #[error("it declares {declared:?} for its output and answered with {given:?}")]
    Arity {
        /// What the step declares.
        declared: Arity,
        /// What it gave.
        given: Arity,
    },
    /// Bytes that are not the declared message.
    #[error("the bytes{} are not a `{message}`: {fault}", place(*index))]
    Undecodable {
        /// Which one of many.
        index: Option<usize>,
        /// The message that the step declares.
        message: String,
        /// What is wrong with the bytes.
        fault: WireFault,
    },
}

fn place(index: Option<usize>) -> String {
    index.map(|index| format!(" of item {index}")).unwrap_or_default()
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!("; stderr ended with: {stderr}") }
}

fn words(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!("; the step said: {message}") }
}

/// Returns the duration as people say it: whole milliseconds, or seconds where it is even.
fn humane(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis >= 1000 && millis.is_multiple_of(1000) {
        format!("{} s", millis / 1000)
    } else {
        format!("{millis} ms")
    }
}

impl StepFailure {
    /// Returns the class that decides about retries.
    pub fn class(&self) -> FailureClass {
        match self {
            StepFailure::Reported { class, .. } | StepFailure::Elsewhere { class, .. } => *class,
            StepFailure::Timeout { .. } => FailureClass::Timeout,
            StepFailure::Memory { .. } => FailureClass::Memory,
            StepFailure::Tables { .. } | StepFailure::Handles { .. } => FailureClass::Table,
            StepFailure::Fuel { .. } => FailureClass::Fuel,
            StepFailure::Output { .. } => FailureClass::Output,
            StepFailure::Logs { .. } => FailureClass::Logs,
            StepFailure::LogLines { .. } => FailureClass::Logs,
            StepFailure::Cpu { .. } => FailureClass::Cpu,
            StepFailure::Stack { .. } => FailureClass::Stack,
            StepFailure::OpenFiles { .. } | StepFailure::DirBytes { .. } => FailureClass::Files,
            StepFailure::Denied { .. } | StepFailure::Grant(_) => FailureClass::Grant,
            StepFailure::Http { .. } => FailureClass::Http,
            StepFailure::Trap { .. } => FailureClass::Trap,
            StepFailure::Exit { .. } => FailureClass::Exit,
            StepFailure::Answer(_) => FailureClass::Answer,
            StepFailure::Store(_) | StepFailure::LeaseLost => FailureClass::Store,
            StepFailure::Internal(_) => FailureClass::Internal,
        }
    }

    /// Returns the step's word for machines, where it gave one.
    pub fn code(&self) -> Option<&str> {
        match self {
            StepFailure::Reported { code, .. } | StepFailure::Elsewhere { code, .. } => code.as_deref(),
            _ => None,
        }
    }

    /// Returns the least delay that the step asked for.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            StepFailure::Reported { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Why an execution has no result.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecutionError {
    /// A step failed and was not, or not again, retried.
    #[error("step `{step}` failed{}{}", of(element), after(*attempts, source))]
    Failed {
        /// The step that failed first.
        step: StepName,
        /// For which element.
        element: ElementPath,
        /// The attempts that it really made.
        attempts: u32,
        /// What the last of them ended with.
        source: StepFailure,
    },
    /// A step asked for the whole execution to stop.
    #[error("step `{step}` aborted the execution{}", of(element))]
    Aborted {
        /// The step that aborted.
        step: StepName,
        /// For which element.
        element: ElementPath,
        /// What it said.
        source: StepFailure,
    },
    /// An item of a batch is not what its port says.
    #[error("item {index} is not a message for `{port}`: {fault}")]
    Item {
        /// Its position among all items, from 0.
        index: u64,
        /// The port.
        port: Port,
        /// What is wrong with it.
        fault: String,
    },
    /// The items of a batch could not be read to their end.
    #[error("the items cannot be read after the first {read}: {fault}")]
    Items {
        /// How many were read before.
        read: u64,
        /// Why no more were.
        fault: String,
    },
    /// The execution took longer than its deadline.
    #[error("the execution passed its deadline of {}", humane(*limit))]
    Deadline {
        /// The time it had.
        limit: Duration,
    },
    /// The caller cancelled, or left.
    #[error("the execution was cancelled")]
    Cancelled,
    /// The host was shut down.
    #[error("the host was shut down before the execution ended")]
    Shutdown,
    /// It has no result, and ended before this request: this is what its record says.
    #[error("{message}")]
    Recorded {
        /// Who must act.
        kind: ErrorKind,
        /// Why there is no result.
        message: String,
    },
}

fn of(element: &ElementPath) -> String {
    if element.is_empty() { String::new() } else { format!(" for {element}") }
}

fn after(attempts: u32, source: &StepFailure) -> String {
    match attempts {
        0 if matches!(source, StepFailure::Store(_)) => " before its first attempt".to_owned(),
        0 => " in the execution that it was shared with".to_owned(),
        1 => " after 1 attempt".to_owned(),
        _ => format!(" after {attempts} attempts"),
    }
}

impl ExecutionError {
    /// Returns the error for an execution that was stopped from outside.
    pub(crate) fn stopped(reason: StopReason, limit: Option<Duration>) -> Self {
        match reason {
            StopReason::Cancelled => ExecutionError::Cancelled,
            StopReason::Shutdown => ExecutionError::Shutdown,
            StopReason::Deadline => ExecutionError::Deadline { limit: limit.unwrap_or_default() },
        }
    }
}

/// Returns what a panic said.
pub(crate) fn said_by(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}

/// Who must act on an error. One function turns it into an exit code, another into an HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller: the request is wrong.
    Invalid,
    /// The caller: there is no such thing.
    NotFound,
    /// The caller: the name is taken.
    Conflict,
    /// The author of a step: a guest failed.
    Guest,
    /// Nobody: it was stopped on purpose, or ran out of time.
    Cancelled,
    /// The operator: the host cannot serve just now.
    Unavailable,
    /// We: a fault of the host.
    Internal,
}

impl ExecutionError {
    /// Returns who must act.
    pub fn kind(&self) -> ErrorKind {
        match self {
            ExecutionError::Failed { source: StepFailure::Internal(_), .. } => ErrorKind::Internal,
            ExecutionError::Failed {
                source: StepFailure::Store(_) | StepFailure::LeaseLost | StepFailure::Grant(_),
                ..
            } => ErrorKind::Unavailable,
            ExecutionError::Recorded { kind, .. } => *kind,
            ExecutionError::Item { .. } | ExecutionError::Items { .. } => ErrorKind::Invalid,
            ExecutionError::Failed { .. } | ExecutionError::Aborted { .. } => ErrorKind::Guest,
            ExecutionError::Deadline { .. } | ExecutionError::Cancelled => ErrorKind::Cancelled,
            ExecutionError::Shutdown => ErrorKind::Unavailable,
        }
    }
}

#[cfg(test)]
mod tests {
    use docket_graph::WireReason;

    use super::*;

    fn wire_fault() -> WireFault {
        WireFault { offset: 7, message: "a.B".into(), field: None, reason: WireReason::Truncated }
    }

    fn reported(class: FailureClass, code: Option<&str>) -> StepFailure {
        let code = code.map(str::to_owned);
        StepFailure::Reported { class, code, message: "no such user".into(), retry_after: None }
    }

    #[test]
    fn every_failure_of_a_step_has_its_class_and_its_words() {
        let trap = |stderr: &str| StepFailure::Trap { reason: "unreachable".into(), stderr: stderr.into() };
        let http =
            |message: &str| StepFailure::Http { limit: HttpLimit::Requests(3), message: message.into() };
        let arity = AnswerFault::Arity { declared: Arity::One, given: Arity::Many };
        let undecodable =
            |index| AnswerFault::Undecodable { index, message: "a.B".into(), fault: wire_fault() };
        let cases = [
            (reported(FailureClass::Permanent, None), FailureClass::Permanent, "no such user"),
            (
                reported(FailureClass::Retryable, Some("busy")),
                FailureClass::Retryable,
                "no such user (code `busy`)",
            ),
            (reported(FailureClass::Abort, None), FailureClass::Abort, "no such user"),
            (
                StepFailure::Timeout { limit: Duration::from_millis(1_500) },
                FailureClass::Timeout,
                "timed out after 1500 ms",
            ),
            (
                StepFailure::Timeout { limit: Duration::from_secs(30) },
                FailureClass::Timeout,
                "timed out after 30 s",
            ),
            (StepFailure::Timeout { limit: Duration::ZERO }, FailureClass::Timeout, "timed out after 0 ms"),
            (
                StepFailure::Memory { limit: 65_536 },
                FailureClass::Memory,
                "needs more memory than its limit of 65536 bytes",
            ),
            (
                StepFailure::Tables { limit: 10 },
                FailureClass::Table,
                "needs more table elements than its limit of 10",
            ),
            (
                StepFailure::Handles { limit: 10 },
                FailureClass::Table,
                "held more handles of streams, timers, files and requests than its limit of 10",
            ),
            (StepFailure::Fuel { limit: 1_000 }, FailureClass::Fuel, "used up its budget of 1000 fuel units"),
            (
                StepFailure::LogLines { limit: 3 },
                FailureClass::Logs,
                "wrote more than its limit of 3 lines to stdout and stderr",
            ),
            (
                StepFailure::Cpu { limit: Duration::from_secs(2) },
                FailureClass::Cpu,
                "used more processor time than its limit of 2 s",
            ),
            (
                StepFailure::Stack { limit: 9, stderr: String::new() },
                FailureClass::Stack,
                "needs more stack than the host's limit of 9 bytes",
            ),
            (
                StepFailure::OpenFiles { limit: 9 },
                FailureClass::Files,
                "held more files open than its limit of 9",
            ),
            (
                StepFailure::DirBytes { limit: 9 },
                FailureClass::Files,
                "wrote more than its limit of 9 bytes into granted directories",
            ),
            (
                StepFailure::Denied { import: "a:b/c".into(), how: "grant it" },
                FailureClass::Grant,
                "used `a:b/c`, which it was not granted: grant it",
            ),
            (
                StepFailure::Grant("no `data`".into()),
                FailureClass::Grant,
                "cannot be given what it was granted: no `data`",
            ),
            (
                StepFailure::Output { limit: 9 },
                FailureClass::Output,
                "answered with more than its limit of 9 bytes",
            ),
            (
                StepFailure::Logs { limit: 8 },
                FailureClass::Logs,
                "wrote more than its limit of 8 bytes to stdout and stderr",
            ),
            (http(""), FailureClass::Http, "made more than its limit of 3 HTTP requests"),
            (
                http("oops"),
                FailureClass::Http,
                "made more than its limit of 3 HTTP requests; the step said: oops",
            ),
            (trap(""), FailureClass::Trap, "trapped: unreachable"),
            (trap("oops"), FailureClass::Trap, "trapped: unreachable; stderr ended with: oops"),
            (
                StepFailure::Exit { status: 1 },
                FailureClass::Exit,
                "called exit with status 1 instead of returning",
            ),
            (
                StepFailure::Answer(arity),
                FailureClass::Answer,
                "gave a wrong answer: it declares One for its output and answered with Many",
            ),
            (
                StepFailure::Answer(undecodable(None)),
                FailureClass::Answer,
                "gave a wrong answer: the bytes are not a `a.B`: WIRE",
            ),
            (
                StepFailure::Answer(undecodable(Some(3))),
                FailureClass::Answer,
                "gave a wrong answer: the bytes of item 3 are not a `a.B`: WIRE",
            ),
            (
                StepFailure::Internal("a panic".into()),
                FailureClass::Internal,
                "internal error of the host: a panic",
            ),
        ];
        for (failure, class, words) in cases {
            assert_eq!(failure.to_string(), words.replace("WIRE", &wire_fault().to_string()));
            assert_eq!(failure.class(), class, "{failure}");
        }
    }

    #[test]
    fn code_and_delay_are_the_steps_own() {
        let failure = StepFailure::Reported {
            class: FailureClass::Retryable,
            code: Some("busy".into()),
            message: String::new(),
            retry_after: Some(Duration::from_secs(1)),
        };
        assert_eq!((failure.code(), failure.retry_after()), (Some("busy"), Some(Duration::from_secs(1))));
        let timeout = StepFailure::Timeout { limit: Duration::ZERO };
        assert_eq!((timeout.code(), timeout.retry_after()), (None, None));
    }

    #[test]
    fn every_error_of_an_execution_says_what_and_who_must_act() {
        let step = StepName::parse("FetchProfile").unwrap();
        let failed = |attempts, source| ExecutionError::Failed {
            step: step.clone(),
            element: ElementPath::default(),
            attempts,
            source,
        };
        let permanent = || reported(FailureClass::Permanent, None);
        let aborted = ExecutionError::Aborted {
            step: step.clone(),
            element: ElementPath::default(),
            source: reported(FailureClass::Abort, None),
        };
        let limit = Some(Duration::from_millis(250));
        let cases = [
            (failed(1, permanent()), ErrorKind::Guest, "step `FetchProfile` failed after 1 attempt"),
            (failed(3, permanent()), ErrorKind::Guest, "step `FetchProfile` failed after 3 attempts"),
            (
                failed(0, permanent()),
                ErrorKind::Guest,
                "step `FetchProfile` failed in the execution that it was shared with",
            ),
            (
                failed(0, StepFailure::Store("away".into())),
                ErrorKind::Unavailable,
                "step `FetchProfile` failed before its first attempt",
            ),
            (
                failed(1, StepFailure::Internal("a panic".into())),
                ErrorKind::Internal,
                "step `FetchProfile` failed after 1 attempt",
            ),
            (aborted, ErrorKind::Guest, "step `FetchProfile` aborted the execution"),
            (
                ExecutionError::stopped(StopReason::Deadline, limit),
                ErrorKind::Cancelled,
                "the execution passed its deadline of 250 ms",
            ),
            (
                ExecutionError::stopped(StopReason::Cancelled, limit),
                ErrorKind::Cancelled,
                "the execution was cancelled",
            ),
            (
                ExecutionError::stopped(StopReason::Shutdown, None),
                ErrorKind::Unavailable,
                "the host was shut down before the execution ended",
            ),
        ];
        for (error, kind, words) in cases {
            assert_eq!((error.to_string().as_str(), error.kind()), (words, kind));
            let has_cause = matches!(error, ExecutionError::Failed { .. } | ExecutionError::Aborted { .. });
            assert_eq!(std::error::Error::source(&error).is_some(), has_cause, "{error}");
        }
    }
}
