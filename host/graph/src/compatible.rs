//! Decides whether two definitions of one message can read each other's bytes, by protobuf's rules for updating a
//! message type. Never looks at names: only numbers and types are on the wire.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use crate::schema::{Field, Schema, Type};

/// A field that two definitions do not mean alike.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// The message in the first definition.
    pub(crate) message: Arc<str>,
    pub(crate) field: u32,
    pub(crate) text: String,
}

/// The most pairs of messages that two definitions are compared by. 131,072: more than twice as many as the
/// largest collections of definitions have messages, and a fraction of a second.
pub(crate) const MOST_PAIRS: usize = 1 << 17;

/// Why two definitions are not compared.
#[derive(Debug)]
pub(crate) struct TooManyPairs;

/// Returns all fields, also of the messages inside, that mean different things on the wire. A field that only one
/// definition has is skipped by the other.
///
/// # Errors
/// Where more than [`MOST_PAIRS`] pairs of messages would have to be compared: honest definitions of one message
/// pair each message with itself.
pub(crate) fn differences(first: &Schema, second: &Schema) -> Result<Vec<Difference>, TooManyPairs> {
    let mut found = Vec::new();
    let mut seen = HashSet::from([(0, 0)]);
    let mut open = vec![(0, 0)];
    while let Some((a, b)) = open.pop() {
        if seen.len() > MOST_PAIRS {
            return Err(TooManyPairs);
        }
        let (a, b) = (&first.tables()[a as usize], &second.tables()[b as usize]);
        for (number, one) in a.fields() {
            let Some(other) = b.field(number) else { continue };
            if meaning(one.ty) != meaning(other.ty) || one.is_repeated() != other.is_repeated() {
                let text = format!("{one} in the first and {other} in the second");
                found.push(Difference { message: a.name.clone(), field: number, text });
            } else if matches!(one.ty, Type::Message | Type::Group) && seen.insert((one.table, other.table)) {
                open.push((one.table, other.table));
            }
        }
    }
    Ok(found)
}

/// Types of one meaning read each other's bytes.
#[derive(PartialEq)]
enum Meaning {
    Integer,
    ZigZag,
    Four,
    Float,
    Eight,
    Double,
    Bytes,
    Message,
    Group,
}

fn meaning(ty: Type) -> Meaning {
    match ty {
        Type::Int32 | Type::Int64 | Type::Uint32 | Type::Uint64 | Type::Bool | Type::Enum => Meaning::Integer,
        Type::Sint32 | Type::Sint64 => Meaning::ZigZag,
        Type::Fixed32 | Type::Sfixed32 => Meaning::Four,
        Type::Float => Meaning::Float,
        Type::Fixed64 | Type::Sfixed64 => Meaning::Eight,
        Type::Double => Meaning::Double,
        Type::String | Type::Bytes => Meaning::Bytes,
        Type::Message => Meaning::Message,
        Type::Group => Meaning::Group,
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let repeated = if self.is_repeated() { "repeated " } else { "" };
        write!(f, "`{repeated}{}`", format!("{:?}", self.ty).to_lowercase())
    }
}
