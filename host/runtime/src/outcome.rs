//! Owns what comes of an execution, for whoever asked for it.

use std::sync::Arc;

use prost::Name;

use crate::failure::ExecutionError;
use crate::report::Report;
use crate::value::Value;

/// An execution that is over.
#[derive(Debug)]
pub struct Outcome {
    /// The value that was asked for, or why there is none.
    pub result: Result<Arc<Value>, ExecutionError>,
    /// What happened.
    pub report: Report,
}

/// Why an outcome is not the message that the caller wants.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutcomeError {
    /// The execution has no result.
    #[error(transparent)]
    Execution(#[from] ExecutionError),
    /// The result is a list.
    #[error("the result is a list of {0} messages; take them with `messages`")]
    List(usize),
    /// The bytes are another type's.
    #[error("the result is not the message that was asked for: {0}")]
    Decode(#[from] prost::DecodeError),
}

impl Outcome {
    /// Returns the one message of the result.
    ///
    /// # Errors
    /// Where the execution failed, or its result is not one message of this type.
    pub fn message<M: Name + Default>(self) -> Result<M, OutcomeError> {
        match &*self.result? {
            Value::One(payload) => Ok(M::decode(&payload.bytes()[..])?),
            Value::Many(payloads) => Err(OutcomeError::List(payloads.len())),
        }
    }

    /// Returns all messages of the result; one, where it is one.
    ///
    /// # Errors
    /// Where the execution failed, or its result is not messages of this type.
    pub fn messages<M: Name + Default>(self) -> Result<Vec<M>, OutcomeError> {
        let value = self.result?;
        let messages = value.payloads().iter().map(|payload| M::decode(&payload.bytes()[..]));
        Ok(messages.collect::<Result<_, _>>()?)
    }
}
