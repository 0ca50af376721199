//! Owns what is said of bytes that are not a message: where, and why. Never looks at bytes.

use std::sync::Arc;

/// How deep messages and groups may be nested: the limit of the decoders that guests use (prost, and protobuf's own).
pub(crate) const MAX_DEPTH: u32 = 100;

/// Where bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} `{message}`: {reason} at byte {offset}{}",
    reason.verdict(),
    field.map(|f| format!(" in field {f}")).unwrap_or_default()
)]
pub struct WireFault {
    /// The position in the bytes.
    pub offset: usize,
    /// The message that was being read there.
    pub message: Arc<str>,
    /// The number of its field, if one was being read.
    pub field: Option<u32>,
    /// What is wrong.
    pub reason: WireReason,
}

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireReason {
    /// The bytes, or the enclosing message, end within a field.
    #[error("the bytes end within a field")]
    Truncated,
    /// More than 64 bits.
    #[error("a number has more than 64 bits")]
    Varint,
    /// A tag's field number is 0 or over 2^29-1.
    #[error("the field number of a tag is out of range")]
    FieldNumber,
    /// A tag has a wire type that does not exist.
    #[error("there is no wire type {0}")]
    NoWireType(u8),
    /// A known field has another wire type than its own.
    #[error("the field's wire type is {found}, not {expected}")]
    WireType {
        /// As declared.
        expected: u8,
        /// As found.
        found: u8,
    },
    /// A packed field does not end with a whole element.
    #[error("a packed field ends within an element")]
    Packed,
    /// A string is not text.
    #[error("a string is not UTF-8")]
    Utf8,
    /// A group is closed that was not open, or left open.
    #[error("a group is not balanced")]
    Group,
    /// Nested deeper than decoders go.
    #[error("it is nested deeper than {MAX_DEPTH} levels")]
    Depth,
    /// Only where the canonical form is asked for: a field that is declared as a group, which has none.
    #[error("it holds a group")]
    GroupField,
}

impl WireReason {
    /// What it says of the message.
    fn verdict(self) -> &'static str {
        match self {
            Self::GroupField => "no canonical form of",
            _ => "not a",
        }
    }
}
