//! Owns the way between JSON and encoded messages: protobuf's JSON mapping, by the modules' own
//! descriptors. Never knows where JSON comes from or goes to.

mod once;

use docket_graph::{Arity, Port};
use docket_runtime::{Payload, Value};
use prost_reflect::prost::Message as _;
use prost_reflect::{DynamicMessage, Kind, MessageDescriptor, SerializeOptions};
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde::ser::{SerializeSeq as _, Serializer};
use serde_path_to_error::{Path, Segment, Track};

use crate::nearest::meant;
use once::Once;

/// Why JSON is not a value for a port.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JsonError {
    /// It is no JSON, or ends too soon.
    #[error("the input for `{port}` is not JSON: {reason}")]
    Syntax { port: Port, reason: String },
    /// It is no message of the port's type.
    #[error("the input for `{port}` is wrong: {place}{reason}")]
    Message { port: Port, place: String, reason: String },
    /// It is a list where one message is wanted.
    #[error("the input for `{port}` is a list, but its steps take one `{}`; give one JSON object", port.message())]
    List { port: Port },
}

/// Returns what the text says for a port: a list where it is an array and the port takes many.
pub(crate) fn decode(
    text: &str,
    port: &Port,
    arity: Arity,
    message: &MessageDescriptor,
) -> Result<Value, JsonError> {
    let is_array = text.trim_start().starts_with('[');
    let refused = |unread: Unread| match unread.place {
        Some(place) => JsonError::Message { port: port.clone(), place, reason: unread.reason },
        None => JsonError::Syntax { port: port.clone(), reason: unread.error.to_string() },
    };
    if !is_array || is_written_as_array(message) && arity == Arity::One {
        let message = read(text, message, message.clone()).map_err(refused)?;
        return Ok(Value::one(message.encode_to_vec()));
    }
    match arity {
        Arity::One => Err(JsonError::List { port: port.clone() }),
        Arity::Many => {
            let messages = read(text, message, ListSeed(message.clone())).map_err(refused)?;
            Ok(Value::many(messages.iter().map(DynamicMessage::encode_to_vec)))
        }
    }
}

/// Why a line is not a message.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {reason}")]
pub(crate) struct LineError {
    /// How far the line was read, in characters.
    column: usize,
    reason: String,
}

/// Returns the message that one line says, encoded.
pub(crate) fn decode_line(line: &[u8], message: &MessageDescriptor) -> Result<Vec<u8>, LineError> {
    let line = std::str::from_utf8(line).map_err(|error| {
        let good = String::from_utf8_lossy(&line[..error.valid_up_to()]).chars().count();
        LineError { column: good + 1, reason: "the line is not text in UTF-8".to_owned() }
    })?;
    let mut json = serde_json::Deserializer::from_str(line);
    if let Ok(read) = message.clone().deserialize(&mut json)
        && json.end().is_ok()
        && Once::of(message).deserialize(&mut serde_json::Deserializer::from_str(line)).is_ok()
    {
        return Ok(read.encode_to_vec());
    }
    if line.starts_with('[') && !is_written_as_array(message) {
        let reason = "this is a list, but each line is one item; write one JSON object a line".to_owned();
        return Err(LineError { column: 1, reason });
    }
    // Read again, to find the place: most lines are good, and keeping track of it takes time.
    let unread = match read(line, message, message.clone()) {
        Ok(message) => return Ok(message.encode_to_vec()),
        Err(unread) => unread,
    };
    let read = line.bytes().take(unread.error.column()).filter(|byte| byte & 0xc0 != 0x80).count();
    let reason = match unread.place {
        Some(place) => format!("{place}{}", unread.reason),
        None if unread.error.is_eof() => {
            format!("it is not JSON: {}; write each item on one line", unread.reason)
        }
        None => format!("it is not JSON: {}", unread.reason),
    };
    Err(LineError { column: read.max(1), reason })
}

/// Two well-known types are JSON arrays themselves, or may be.
fn is_written_as_array(message: &MessageDescriptor) -> bool {
    matches!(message.full_name(), "google.protobuf.ListValue" | "google.protobuf.Value")
}

/// Why JSON cannot be read.
struct Unread {
    error: serde_json::Error,
    /// Where it is no message of its type; none where it is no JSON.
    place: Option<String>,
    reason: String,
}

fn read<'t, S: DeserializeSeed<'t>>(
    text: &'t str,
    message: &MessageDescriptor,
    seed: S,
) -> Result<S::Value, Unread> {
    let value = tracked(text, message, seed)?;
    tracked(text, message, Once::of(message))?;
    Ok(value)
}

/// Reads, and knows the place where that ends.
fn tracked<'t, S: DeserializeSeed<'t>>(
    text: &'t str,
    message: &MessageDescriptor,
    seed: S,
) -> Result<S::Value, Unread> {
    let mut json = serde_json::Deserializer::from_str(text);
    let mut track = Track::new();
    let read = seed.deserialize(serde_path_to_error::Deserializer::new(&mut json, &mut track));
    read.and_then(|value| json.end().map(|()| value)).map_err(|error| {
        let path = track.path();
        let place = error.is_data().then(|| place(&path));
        let reason = reason(&error, message, &path);
        Unread { error, place, reason }
    })
}

/// Says where in the JSON the fault is; nothing for the whole.
fn place(path: &Path) -> String {
    if path.iter().next().is_none() { String::new() } else { format!("at `{path}`: ") }
}

/// Says what is wrong, with the nearest name for a field or enum value that there is not.
fn reason(error: &serde_json::Error, message: &MessageDescriptor, path: &Path) -> String {
    // The position that the JSON reader adds is that of what it had read, not that of the fault.
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(&*text, |(text, _)| text);
    let quoted = |prefix| text.strip_prefix(prefix).and_then(|rest: &str| rest.strip_suffix('\''));
    let within = follow(message, path);
    if let (Some(name), Some(Kind::Message(message))) = (quoted("unrecognized field name '"), &within) {
        let fields: Vec<_> = message.fields().collect();
        let meant = meant(name, fields.iter().map(|field| field.json_name()));
        return format!("`{}` has no field `{name}`{meant}", message.full_name());
    }
    if let (Some(name), Some(Kind::Enum(choices))) = (quoted("unrecognized enum value '"), &within) {
        let values: Vec<_> = choices.values().collect();
        let meant = meant(name, values.iter().map(|value| value.name()));
        return format!("`{}` has no value `{name}`{meant}", choices.full_name());
    }
    plain(text, within.as_ref())
}

/// Says in the words of JSON what the readers of numbers and objects say in those of their language.
fn plain(text: &str, within: Option<&Kind>) -> String {
    match (text, within) {
        (
            "out of range integral type conversion attempted"
            | "float value out of range"
            | "number too large to fit in target type"
            | "number too small to fit in target type",
            Some(kind),
        ) => format!("the number is out of the range of `{kind:?}`"),
        (
            "expected integer value"
            | "invalid digit found in string"
            | "cannot parse integer from empty string",
            _,
        ) => "this is not a whole number".to_owned(),
        _ => {
            let text = text.replacen("invalid type: sequence,", "invalid type: list,", 1);
            let text = text.replacen("invalid type: map,", "invalid type: object,", 1);
            match text.strip_suffix("expected a map") {
                Some(rest) => format!("{rest}expected an object"),
                None => text,
            }
        }
    }
}

/// Returns the type of what a path leads to, as far as it leads through declared fields.
fn follow(message: &MessageDescriptor, path: &Path) -> Option<Kind> {
    let mut kind = Kind::Message(message.clone());
    for segment in path.iter() {
        match (segment, &kind) {
            // A list, of the message itself or of a field: its elements have the type we know.
            (Segment::Seq { .. }, _) => {}
            (Segment::Map { key }, Kind::Message(message)) if message.is_map_entry() => {
                // The key of a map: whatever it is, its value has the entry's type.
                _ = key;
                kind = message.map_entry_value_field().kind();
            }
            (Segment::Map { key }, Kind::Message(message)) => {
                let field = message.get_field_by_json_name(key).or_else(|| message.get_field_by_name(key));
                match field {
                    Some(field) => kind = field.kind(),
                    // The last segment may be the very name that there is not.
                    None => return Some(kind),
                }
            }
            _ => return None,
        }
    }
    Some(kind)
}

/// Reads a JSON array of messages of one type.
struct ListSeed(MessageDescriptor);

impl<'de> DeserializeSeed<'de> for ListSeed {
    type Value = Vec<DynamicMessage>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ListSeed {
    type Value = Vec<DynamicMessage>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a list of `{}`", self.0.full_name())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut messages = Vec::new();
        while let Some(message) = items.next_element_seed(self.0.clone())? {
            messages.push(message);
        }
        Ok(messages)
    }
}

/// A message as JSON: with the fields that have their default value, because a reader of a result
/// wants to see `false` and `0`; 64-bit integers as strings, because JSON's numbers would lose digits.
pub(crate) struct Shown(DynamicMessage);

impl Shown {
    /// Decodes a payload.
    ///
    /// # Errors
    /// Where the bytes are no such message, or it is nested deeper than protobuf allows.
    pub(crate) fn decode(
        payload: &Payload,
        message: &MessageDescriptor,
    ) -> Result<Self, prost_reflect::prost::DecodeError> {
        DynamicMessage::decode(message.clone(), payload.bytes().clone()).map(Self)
    }

    /// Returns the message.
    pub(crate) fn message(&self) -> &DynamicMessage {
        &self.0
    }
}

impl serde::Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize_with_options(serializer, &SerializeOptions::new().skip_default_fields(false))
    }
}

/// Messages as a JSON array.
pub(crate) struct ShownList<'a>(pub(crate) &'a [Shown]);

impl serde::Serialize for ShownList<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut items = serializer.serialize_seq(Some(self.0.len()))?;
        for item in self.0 {
            items.serialize_element(item)?;
        }
        items.end()
    }
}

/// Returns an example of a port's JSON: every field that has a default value, with it.
pub(crate) fn example(message: &MessageDescriptor) -> String {
    // A type without an example still has the form of one.
    serde_json::to_string(&Shown(DynamicMessage::new(message.clone()))).unwrap_or_else(|_| "{}".to_owned())
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::*;

    /// Decodes for a port of a type that everybody has.
    fn of(message: &str, arity: Arity, text: &str) -> Result<Value, JsonError> {
        let message = message_of(message);
        decode(text, &port(&message), arity, &message)
    }

    fn message_of(name: &str) -> MessageDescriptor {
        DescriptorPool::global().get_message_by_name(&format!("google.protobuf.{name}")).unwrap()
    }

    fn port(message: &MessageDescriptor) -> Port {
        Port::parse(message.full_name()).unwrap()
    }

    fn lengths(value: Result<Value, JsonError>) -> (Arity, usize) {
        let value = value.unwrap();
        (value.arity(), value.payloads().len())
    }

    fn check(message: &str, arity: Arity, text: &str, error: &str) {
        assert_eq!(of(message, arity, text).unwrap_err().to_string(), error);
    }

    #[test]
    fn an_array_is_a_list_where_many_are_taken_and_refused_where_one_is() {
        assert_eq!(lengths(of("FileDescriptorProto", Arity::Many, " [{}, {}]")), (Arity::Many, 2));
        assert_eq!(lengths(of("FileDescriptorProto", Arity::Many, "[]")), (Arity::Many, 0));
        assert_eq!(lengths(of("FileDescriptorProto", Arity::Many, "{}")), (Arity::One, 1));
        let list = of("FileDescriptorProto", Arity::One, "[{}]").unwrap_err();
        assert!(matches!(list, JsonError::List { .. }), "{list}");
        assert_eq!(lengths(of("ListValue", Arity::One, "[1, [2]]")), (Arity::One, 1));
        assert_eq!(lengths(of("ListValue", Arity::Many, "[[1], [2]]")), (Arity::Many, 2));
    }

    #[test]
    fn a_fault_is_placed_by_item_and_field_with_the_nearest_name() {
        check(
            "FileDescriptorProto",
            Arity::Many,
            r#"[{"name": "a"}, {"name": 1}]"#,
            "the input for `google.protobuf.FileDescriptorProto` is wrong: \
             at `[1].name`: invalid type: integer `1`, expected a string",
        );
        check(
            "FileDescriptorProto",
            Arity::One,
            r#"{"messageType": [{"field": [{"label": "LABEL_REQIRED"}]}]}"#,
            "the input for `google.protobuf.FileDescriptorProto` is wrong: at `messageType[0].field[0].label`: \
             `google.protobuf.FieldDescriptorProto.Label` has no value `LABEL_REQIRED`; did you mean `LABEL_REQUIRED`?",
        );
        check(
            "FileDescriptorProto",
            Arity::One,
            r#"{"messageType": [{"feild": []}]}"#,
            "the input for `google.protobuf.FileDescriptorProto` is wrong: at `messageType[0]`: \
             `google.protobuf.DescriptorProto` has no field `feild`; did you mean `field`?",
        );
        check(
            "FileDescriptorProto",
            Arity::One,
            "5",
            "the input for `google.protobuf.FileDescriptorProto` is wrong: invalid type: integer `5`, expected an object",
        );
    }

    #[test]
    fn a_field_that_is_given_twice_is_refused_by_either_of_its_names() {
        let twice = |text, place: &str| {
            let fault = format!(
                "the input for `google.protobuf.FileDescriptorProto` is wrong: {place} is given twice"
            );
            check("FileDescriptorProto", Arity::One, text, &fault);
        };
        twice(r#"{"name": "a", "name": "b"}"#, "`name`");
        twice(r#"{"messageType": [], "message_type": []}"#, "`message_type`");
        twice(r#"{"messageType": [{}, {"name": "a", "name": null}]}"#, "at `messageType[1]`: `name`");
        let list = r#"[{"name": "a"}, {"name": "a", "name": "a"}]"#;
        let fault =
            "the input for `google.protobuf.FileDescriptorProto` is wrong: at `[1]`: `name` is given twice";
        check("FileDescriptorProto", Arity::Many, list, fault);
        of("FileDescriptorProto", Arity::One, r#"{"name": "a", "package": "b"}"#).unwrap();
        // Keys of its own, which are not fields.
        of("Struct", Arity::One, r#"{"a": 1, "b": {"a": [{"a": 2}, {"a": 3}]}}"#).unwrap();
        let line = decode_line(br#"{"name":"a","name":"b"}"#, &message_of("FileDescriptorProto"));
        assert!(line.unwrap_err().to_string().ends_with("`name` is given twice"));
    }

    #[test]
    fn a_number_that_does_not_fit_is_told_with_its_type() {
        let wrong = |text, reason: &str| {
            let fault = format!(
                "the input for `google.protobuf.FieldDescriptorProto` is wrong: at `number`: {reason}"
            );
            check("FieldDescriptorProto", Arity::One, text, &fault);
        };
        for text in [r#"{"number":2147483648}"#, r#"{"number":"2147483648"}"#] {
            wrong(text, "the number is out of the range of `int32`");
        }
        for text in [r#"{"number":1.5}"#, r#"{"number":"one"}"#, r#"{"number":""}"#] {
            wrong(text, "this is not a whole number");
        }
    }

    #[test]
    fn numbers_of_64_bits_keep_all_their_digits() {
        let text = r#"{"positiveIntValue":"18446744073709551615","negativeIntValue":"-9223372036854775808"}"#;
        let value = of("UninterpretedOption", Arity::One, text).unwrap();
        let shown = Shown::decode(&value.payloads()[0], &message_of("UninterpretedOption")).unwrap();
        let shown = serde_json::to_value(&shown).unwrap();
        assert_eq!(shown["positiveIntValue"], "18446744073709551615");
        assert_eq!(shown["negativeIntValue"], "-9223372036854775808");
        of("UninterpretedOption", Arity::One, r#"{"positiveIntValue":"18446744073709551616"}"#).unwrap_err();
        of("UninterpretedOption", Arity::One, r#"{"negativeIntValue":1e30}"#).unwrap_err();
    }

    #[test]
    fn numbers_with_a_fraction_keep_all_their_bits() {
        let text = r#"{"doubleValue":8.88888888888889e72}"#;
        let value = of("UninterpretedOption", Arity::One, text).unwrap();
        let shown = Shown::decode(&value.payloads()[0], &message_of("UninterpretedOption")).unwrap();
        assert_eq!(
            shown.message().get_field_by_name("double_value").unwrap().as_f64(),
            Some(8.888_888_888_888_89e72)
        );
    }
}
