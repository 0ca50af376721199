//! Owns what came of a call: its answer, held against what the step declared, or the failure that an error means, in
//! words that a terminal bears. Never calls a guest.

use std::borrow::Cow;
use std::time::Duration;

use docket_graph::{Arity, FailureClass, Schema, is_deceptive};
use wasmtime::Trap;
use wasmtime::component::ResourceTableError;
use wasmtime_wasi::I32Exit;

use super::{TooMuchComputing, Unopened, longest_copy};
use crate::bindings::wit;
use crate::denied::Denied;
use crate::failure::{AnswerFault, StepFailure};
use crate::files::TooMuch;
use crate::guest_log::{Exceeded, GuestLog};
use crate::http::Noted;
use crate::options::Limits;
use crate::sandbox::{MOST_HANDLES, Sandbox};
use crate::value::{Payload, Value};

/// A failure's sentence is cut after this many bytes: it goes into logs, reports and errors.
const LONGEST_MESSAGE: usize = 8 << 10;

/// A failure's code, and the name of a function that crashed, are cut after this many bytes: they are words
/// of the guest's own choice.
const LONGEST_CODE: usize = 128;

/// In which form the messages of an answer go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As the guest gave them.
    AsGiven,
    /// In the one canonical form, so that equal messages have equal keys.
    Canonical,
}

/// Returns what came of a call: none where its time was over.
pub(super) fn answered(
    answer: Option<wasmtime::Result<Result<wit::ValueResult, wit::Failure>>>,
    output: (&Schema, Arity, Form),
    sandbox: &Sandbox,
    limits: &Limits,
) -> Result<Value, StepFailure> {
    match answer {
        None => Err(StepFailure::Timeout { limit: limits.timeout }),
        Some(Err(error)) => Err(explain(&error, sandbox, limits)),
        Some(Ok(Err(failure))) => Err(reported(failure)),
        Some(Ok(Ok(value))) => checked(value, output, limits),
    }
}

/// Returns the failure that a guest reported in its own words, as far as they are bearable.
fn reported(failure: wit::Failure) -> StepFailure {
    let wit::Failure { kind, code, message, retry_after_ms } = failure;
    StepFailure::Reported {
        class: match kind {
            wit::FailureKind::Retryable => FailureClass::Retryable,
            wit::FailureKind::Permanent => FailureClass::Permanent,
            wit::FailureKind::Abort => FailureClass::Abort,
        },
        code: code.map(|code| bearable(&code, LONGEST_CODE)).filter(|code| !code.is_empty()),
        message: bearable(&message, LONGEST_MESSAGE),
        retry_after: retry_after_ms.map(Duration::from_millis),
    }
}

/// Returns what the engine says, which is partly in words of the guest's own choice.
pub(crate) fn said(error: &wasmtime::Error) -> String {
    bearable(&format!("{error:#}"), LONGEST_MESSAGE)
}

/// Returns the name of an import or export.
pub(crate) fn name_of(text: &str) -> String {
    bearable(text, LONGEST_CODE)
}

/// Returns a guest's text as it may stand in errors and on terminals: cut, and on one line.
fn bearable(text: &str, longest: usize) -> String {
    let cut = &text[..text.floor_char_boundary(longest)];
    let lines = cut.lines().map(str::trim).filter(|line| !line.is_empty());
    // What Rust adds to every panic, about a variable that a guest does not have.
    let lines = lines.filter(|line| !line.starts_with("note: run with `RUST_BACKTRACE"));
    let mut line = lines.collect::<Vec<_>>().join(" ");
    if line.contains(is_deceptive) {
        let escape = |c: char| if is_deceptive(c) { c.escape_default().collect() } else { String::from(c) };
        line = line.chars().map(escape).collect();
    }
    if cut.len() < text.len() {
        line.push('…');
    }
    line
}

/// Returns the answer if it is what the step declared.
fn checked(
    answer: wit::ValueResult,
    (schema, declared, form): (&Schema, Arity, Form),
    limits: &Limits,
) -> Result<Value, StepFailure> {
    let value = match answer {
        wit::ValueResult::One(message) => Value::one(message),
        wit::ValueResult::Many(messages) => Value::many(messages),
    };
    if value.arity() != declared {
        return Err(StepFailure::Answer(AnswerFault::Arity { declared, given: value.arity() }));
    }
    if value.len_bytes() as u64 > limits.output {
        return Err(StepFailure::Output { limit: limits.output });
    }
    let checked = match form {
        Form::AsGiven => undecodable(&value, schema).map_or(Ok(value), Err),
        Form::Canonical => canonical(value, schema),
    };
    checked.map_err(StepFailure::Answer)
}

/// Returns the value with its messages in canonical form.
///
/// # Errors
/// The first message that is not what the schema says.
pub(crate) fn canonical(value: Value, schema: &Schema) -> Result<Value, AnswerFault> {
    let one = |(index, payload): (Option<usize>, Payload)| match schema.canonical(payload.bytes()) {
        Ok(Cow::Borrowed(_)) => Ok(payload),
        Ok(Cow::Owned(bytes)) => Ok(Payload::new(bytes)),
        Err(fault) => Err(fault_at(index, schema, fault)),
    };
    match value {
        Value::One(payload) => one((None, payload)).map(Value::One),
        Value::Many(payloads) => {
            let payloads = payloads.into_iter().enumerate();
            payloads
                .map(|(index, payload)| one((Some(index), payload)))
                .collect::<Result<_, _>>()
                .map(Value::Many)
        }
    }
}

fn fault_at(index: Option<usize>, schema: &Schema, fault: docket_graph::WireFault) -> AnswerFault {
    AnswerFault::Undecodable { index, message: schema.message().to_owned(), fault }
}

/// Returns the first message of the value that is not what the schema says.
pub(crate) fn undecodable(value: &Value, schema: &Schema) -> Option<AnswerFault> {
    let many = value.arity() == Arity::Many;
    value.payloads().iter().map(Payload::bytes).enumerate().find_map(|(index, bytes)| {
        let fault = schema.check(bytes).err()?;
        Some(fault_at(many.then_some(index), schema, fault))
    })
}

/// Returns what a call that did not return means. A refusal by the host explains the crash that
/// follows it, so refusals are looked at before the crash.
pub(super) fn explain(error: &wasmtime::Error, sandbox: &Sandbox, limits: &Limits) -> StepFailure {
    let trap = error.downcast_ref::<Trap>();
    match sandbox.log().and_then(GuestLog::exceeded) {
        Some(Exceeded::Bytes) => return StepFailure::Logs { limit: limits.logs },
        Some(Exceeded::Lines) => return StepFailure::LogLines { limit: limits.log_lines },
        None => {}
    }
    if let Some(Unopened(failure)) = error.downcast_ref() {
        return failure.clone();
    }
    match error.downcast_ref() {
        Some(TooMuch::Open) => return StepFailure::OpenFiles { limit: limits.open_files },
        Some(TooMuch::Written) => return StepFailure::DirBytes { limit: limits.dir_bytes },
        None => {}
    }
    if let Some(Denied { import, how }) = error.downcast_ref() {
        return StepFailure::Denied { import: (*import).to_owned(), how };
    }
    if let (true, Some(limit)) = (error.is::<TooMuchComputing>(), limits.cpu) {
        return StepFailure::Cpu { limit };
    }
    if matches!(error.downcast_ref(), Some(ResourceTableError::Full)) {
        return StepFailure::Handles { limit: sandbox.most_handles() };
    }
    if let Some(I32Exit(status)) = error.downcast_ref::<I32Exit>() {
        return StepFailure::Exit { status: *status };
    }
    if let (Some(Trap::OutOfFuel), Some(limit)) = (trap, limits.fuel) {
        return StepFailure::Fuel { limit };
    }
    if sandbox.memory_refused() {
        return StepFailure::Memory { limit: limits.memory };
    }
    if sandbox.tables_refused() {
        return StepFailure::Tables { limit: limits.table_elements };
    }
    let reason = error.root_cause().to_string();
    let trace = error.downcast_ref::<wasmtime::WasmBacktrace>();
    // Wasmtime has no public type for this error; a test holds that the words still match.
    let reason = match reason.contains("fuel allocated for hostcalls has been exhausted") {
        false => reason,
        // Nothing of the guest's was under way: it had returned.
        true if trace.is_none() => return StepFailure::Output { limit: limits.output },
        true => format!("handed the host more than {} bytes in one call", longest_copy(limits)),
    };
    if reason.contains("store handle limit exceeded") {
        return StepFailure::Handles { limit: MOST_HANDLES as u64 };
    }
    let place = trace
        .and_then(|trace| trace.frames().iter().find_map(|frame| frame.func_name()))
        .map(|function| format!(" in `{}`", bearable(function, LONGEST_CODE)));
    let stderr = sandbox.log().map(|log| bearable(&log.finish(), LONGEST_MESSAGE)).unwrap_or_default();
    if let Some(Trap::StackOverflow) = trap {
        return StepFailure::Stack { limit: limits.stack, stderr };
    }
    StepFailure::Trap { reason: reason + &place.unwrap_or_default(), stderr }
}

/// Logs what was refused of the guest's HTTP, and says it where the attempt failed. A limit that was
/// reached explains the failure that follows it, unless the guest knew better.
pub(super) fn with_http<T>(
    result: Result<T, StepFailure>,
    noted: Noted,
    step: &str,
    execution: &str,
) -> Result<T, StepFailure> {
    let Noted { reached, refusals } = noted;
    if let Some(limit) = &reached {
        tracing::warn!(step, execution, "the step {limit}");
    }
    for refusal in &refusals {
        tracing::warn!(step, execution, "the step {refusal}");
    }
    let refusals: String = refusals.iter().map(|refusal| format!("; step `{step}` {refusal}")).collect();
    result.map_err(|failure| match (failure, reached) {
        (StepFailure::Trap { .. } | StepFailure::Exit { .. }, Some(limit)) => {
            StepFailure::Http { limit, message: String::new() }
        }
        (StepFailure::Reported { class, message, .. }, Some(limit)) if class != FailureClass::Abort => {
            StepFailure::Http { limit, message }
        }
        (StepFailure::Reported { class, code, message, retry_after }, _) => {
            StepFailure::Reported { class, code, message: message + &refusals, retry_after }
        }
        (StepFailure::Trap { reason, stderr }, None) => {
            StepFailure::Trap { reason: reason + &refusals, stderr }
        }
        (failure, _) => failure,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_without_a_word_is_none() {
        let code = |code: Option<&str>| {
            let message = "busy".to_owned();
            let kind = wit::FailureKind::Permanent;
            let code = code.map(str::to_owned);
            reported(wit::Failure { kind, code, message, retry_after_ms: None }).to_string()
        };
        let cases =
            [(None, "busy"), (Some(""), "busy"), (Some(" \n"), "busy"), (Some("a"), "busy (code `a`)")];
        for (given, said) in cases {
            assert_eq!(code(given), said);
        }
    }
}
