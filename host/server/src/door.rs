//! Owns the doors through which fuzzing reaches what only the command line uses: text in, text out, and
//! faults as they are shown. No part of the library's interface. Never does anything itself.

use docket_graph::{Arity, Port};
use docket_runtime::{Payload, Value};
use prost_reflect::MessageDescriptor;

use crate::config::{Config, Environment, FILE_NAME};
use crate::json;

/// Reads a `docket.toml`.
///
/// # Errors
/// Every fault in it, as a person sees them.
pub fn read_config(text: &str) -> Result<(), String> {
    Config::parse(FILE_NAME.into(), text, &Environment::default())
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Returns what JSON says for a port.
///
/// # Errors
/// Where it says nothing, in words.
pub fn read_json(
    text: &str,
    port: &Port,
    arity: Arity,
    message: &MessageDescriptor,
) -> Result<Value, String> {
    json::decode(text, port, arity, message).map_err(|error| error.to_string())
}

/// Returns a message as results are shown.
///
/// # Errors
/// Where the bytes are no such message, or it has no JSON.
pub fn show_json(payload: &Payload, message: &MessageDescriptor) -> Result<String, String> {
    let shown = json::Shown::decode(payload, message).map_err(|error| error.to_string())?;
    serde_json::to_string(&shown).map_err(|error| error.to_string())
}
