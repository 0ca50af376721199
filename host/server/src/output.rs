//! Owns how a result is written. Never decides what the result is.

mod lines;

use docket_graph::{Graph, Port};
use docket_runtime::{Payload, Value};
use prost_reflect::MessageDescriptor;
use prost_reflect::text_format::FormatOptions;
use serde::Serialize;

use crate::args::ResultFormat;
use crate::error::CliError;
use crate::exit::Exit;
use crate::json::{Shown, ShownList};

pub(crate) use lines::{LineForm, Lines};

/// Returns the result as it is written to stdout.
///
/// # Errors
/// Where the format has no words for it, such as JSON for an `Any` of an unknown type.
pub(crate) fn write(
    format: ResultFormat,
    graph: &Graph,
    target: &Port,
    value: &Value,
) -> Result<Vec<u8>, CliError> {
    write_as(format, message(graph, target), value)
}

/// Returns messages of this type as they are written to stdout.
///
/// # Errors
/// As [`write`].
pub(crate) fn write_as(
    format: ResultFormat,
    message: &MessageDescriptor,
    value: &Value,
) -> Result<Vec<u8>, CliError> {
    match (format, value) {
        (ResultFormat::Json, value) => pretty(&readable(message, value)?),
        (ResultFormat::Ndjson, value) => each(value, |payload, data| line(&shown(payload, message)?, data)),
        (ResultFormat::Text, value) => each(value, |payload, data| text(&shown(payload, message)?, data)),
        (ResultFormat::Proto, Value::One(payload)) => Ok(payload.bytes().to_vec()),
        (ResultFormat::Proto, value @ Value::Many(_)) => each(value, |payload, data| {
            varint(payload.bytes().len(), data);
            data.extend_from_slice(payload.bytes());
            Ok(())
        }),
    }
}

/// A value by the descriptors of its port.
pub(crate) enum Readable {
    One(Shown),
    Many(Vec<Shown>),
}

impl Serialize for Readable {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Readable::One(message) => message.serialize(serializer),
            Readable::Many(messages) => ShownList(messages).serialize(serializer),
        }
    }
}

/// Returns a value of messages of this type, to be written as JSON.
///
/// # Errors
/// Where its bytes are no such message.
pub(crate) fn readable(message: &MessageDescriptor, value: &Value) -> Result<Readable, CliError> {
    match value {
        Value::One(payload) => Ok(Readable::One(shown(payload, message)?)),
        Value::Many(payloads) => {
            let items = payloads.iter().map(|payload| shown(payload, message));
            Ok(Readable::Many(items.collect::<Result<_, _>>()?))
        }
    }
}

/// Returns the type of what flows through a port that the graph has.
pub(crate) fn message<'a>(graph: &'a Graph, port: &Port) -> &'a MessageDescriptor {
    graph.message(graph.find_port(port).expect("a port with a value is in the graph"))
}

/// Returns data on one line, with a line break at its end.
pub(crate) fn line_of(data: &impl Serialize) -> Result<Vec<u8>, CliError> {
    let mut text = serde_json::to_vec(data).map_err(|error| unwritable(&error))?;
    text.push(b'\n');
    Ok(text)
}

/// Returns a number of bytes as the configuration takes it.
pub(crate) fn size(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().iec().to_string().replace(".0 ", " ")
}

/// Returns data indented by two spaces, with a line break at its end.
pub(crate) fn pretty(data: &impl Serialize) -> Result<Vec<u8>, CliError> {
    let mut text = serde_json::to_vec_pretty(data).map_err(|error| unwritable(&error))?;
    text.push(b'\n');
    Ok(text)
}

fn each(
    value: &Value,
    write: impl Fn(&Payload, &mut Vec<u8>) -> Result<(), CliError>,
) -> Result<Vec<u8>, CliError> {
    let mut data = Vec::new();
    for payload in value.payloads() {
        write(payload, &mut data)?;
    }
    Ok(data)
}

fn shown(payload: &Payload, message: &MessageDescriptor) -> Result<Shown, CliError> {
    Shown::decode(payload, message).map_err(|error| unwritable(&error))
}

fn line(message: &Shown, data: &mut Vec<u8>) -> Result<(), CliError> {
    serde_json::to_writer(&mut *data, message).map_err(|error| unwritable(&error))?;
    data.push(b'\n');
    Ok(())
}

/// The messages of a list are told apart by an empty line.
fn text(message: &Shown, data: &mut Vec<u8>) -> Result<(), CliError> {
    if !data.is_empty() {
        data.push(b'\n');
    }
    let options = FormatOptions::new().pretty(true).skip_default_fields(false);
    let text = message.message().to_text_format_with_options(&options);
    data.extend_from_slice(text.as_bytes());
    if !text.is_empty() && !text.ends_with('\n') {
        data.push(b'\n');
    }
    Ok(())
}

fn unwritable(error: &dyn std::error::Error) -> CliError {
    CliError::new(Exit::Failed, "the result cannot be written in this format; `--format proto` takes any")
        .caused_by(error)
}

/// Appends a length as protobuf writes it: seven bits a byte, the lowest first.
fn varint(mut length: usize, data: &mut Vec<u8>) {
    while length >= 0x80 {
        data.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    data.push(length as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_written_as_protobuf_writes_it() {
        for (length, bytes) in [(0, &[0][..]), (127, &[127]), (128, &[0x80, 1]), (300, &[0xac, 2])] {
            let mut data = Vec::new();
            varint(length, &mut data);
            assert_eq!(data, bytes);
        }
    }
}
