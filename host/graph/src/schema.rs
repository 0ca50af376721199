//! Owns a message type as tables of what each field is on the wire, and the walk that checks bytes by them.
//! Never builds a message: a good message is checked without one allocation.

use std::collections::HashMap;
use std::sync::Arc;

use prost_reflect::{Cardinality, Kind, MessageDescriptor};

/// How deep messages and groups may be nested: the limit of the decoders that guests use (prost, and protobuf's own).
const MAX_DEPTH: u32 = 100;

/// Field numbers below this are looked up by index; most messages have no others.
const DENSE: u32 = 64;

/// A message type and all that it contains, as tables. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// The root is the first.
    tables: Arc<[Table]>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: Arc<str>,
    dense: Box<[Option<Field>]>,
    /// Sorted by number.
    sparse: Box<[(u32, Field)]>,
}

/// What a field is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) ty: Type,
    pub(crate) repeated: bool,
    /// The table of a message or group; 0 otherwise.
    pub(crate) table: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Int32,
    Int64,
    Uint32,
    Uint64,
    Bool,
    Enum,
    Sint32,
    Sint64,
    Fixed32,
    Sfixed32,
    Float,
    Fixed64,
    Sfixed64,
    Double,
    String,
    Bytes,
    Message,
    Group,
}

const VARINT: u8 = 0;
const EIGHT: u8 = 1;
const LENGTH: u8 = 2;
const START: u8 = 3;
const END: u8 = 4;
const FOUR: u8 = 5;

impl Schema {
    /// Returns the tables of a message type and of all that it contains.
    pub fn of(message: &MessageDescriptor) -> Self {
        let mut found = Found { order: Vec::new(), index: HashMap::new() };
        found.index_of(message);
        let mut tables = Vec::new();
        while let Some(message) = found.order.get(tables.len()).cloned() {
            tables.push(found.table(&message));
        }
        Self { tables: tables.into() }
    }

    /// Returns the message's full name.
    pub fn message(&self) -> &str {
        &self.tables[0].name
    }

    /// Returns whether the bytes are one message of this type: well-formed tags, each known field of the declared wire
    /// type (repeated numbers packed or not), lengths inside their parents, text in UTF-8, groups closed. What it
    /// accepts, a decoder accepts. Unknown fields are allowed; missing `required` ones are not looked for.
    ///
    /// # Errors
    /// The first place where they are not.
    pub fn check(&self, bytes: &[u8]) -> Result<(), WireFault> {
        let walk = Walk { tables: &self.tables, bytes };
        match walk.message(0, Span { at: 0, end: bytes.len() }, None, 0) {
            Ok(_) => Ok(()),
            Err(Bad { offset, table, field, reason }) => {
                Err(WireFault { offset, message: self.tables[table as usize].name.clone(), field, reason })
            }
        }
    }

    pub(crate) fn tables(&self) -> &[Table] {
        &self.tables
    }
}

/// Where bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a `{message}`: {reason} at byte {offset}{}", field.map(|f| format!(" in field {f}")).unwrap_or_default())]
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
}

impl Table {
    #[inline]
    pub(crate) fn field(&self, number: u32) -> Option<Field> {
        if number < DENSE {
            return self.dense.get(number as usize).copied().flatten();
        }
        self.sparse.binary_search_by_key(&number, |(n, _)| *n).ok().map(|i| self.sparse[i].1)
    }

    /// Returns all fields by number.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (u32, Field)> {
        let dense = (0..).zip(&self.dense).filter_map(|(number, field)| Some((number, (*field)?)));
        dense.chain(self.sparse.iter().copied())
    }
}

impl Type {
    fn of(kind: &Kind, is_group: bool) -> Self {
        match kind {
            Kind::Int32 => Self::Int32,
            Kind::Int64 => Self::Int64,
            Kind::Uint32 => Self::Uint32,
            Kind::Uint64 => Self::Uint64,
            Kind::Bool => Self::Bool,
            Kind::Enum(_) => Self::Enum,
            Kind::Sint32 => Self::Sint32,
            Kind::Sint64 => Self::Sint64,
            Kind::Fixed32 => Self::Fixed32,
            Kind::Sfixed32 => Self::Sfixed32,
            Kind::Float => Self::Float,
            Kind::Fixed64 => Self::Fixed64,
            Kind::Sfixed64 => Self::Sfixed64,
            Kind::Double => Self::Double,
            Kind::String => Self::String,
            Kind::Bytes => Self::Bytes,
            Kind::Message(_) if is_group => Self::Group,
            Kind::Message(_) => Self::Message,
        }
    }

    #[inline]
    fn wire(self) -> u8 {
        match self {
            Self::Int32 | Self::Int64 | Self::Uint32 | Self::Uint64 | Self::Bool | Self::Enum => VARINT,
            Self::Sint32 | Self::Sint64 => VARINT,
            Self::Fixed32 | Self::Sfixed32 | Self::Float => FOUR,
            Self::Fixed64 | Self::Sfixed64 | Self::Double => EIGHT,
            Self::String | Self::Bytes | Self::Message => LENGTH,
            Self::Group => START,
        }
    }
}

/// The message types met so far while tables are built.
struct Found {
    order: Vec<MessageDescriptor>,
    index: HashMap<String, u32>,
}

impl Found {
    fn index_of(&mut self, message: &MessageDescriptor) -> u32 {
        if let Some(index) = self.index.get(message.full_name()) {
            return *index;
        }
        let index =
            u32::try_from(self.order.len()).expect("descriptors of 4 GiB hold fewer messages than 2^32");
        self.index.insert(message.full_name().to_owned(), index);
        self.order.push(message.clone());
        index
    }

    fn table(&mut self, message: &MessageDescriptor) -> Table {
        let mut fields: Vec<(u32, Field)> = Vec::new();
        let mut add = |number: u32, kind: &Kind, is_group: bool, cardinality| {
            let table = kind.as_message().map_or(0, |message| self.index_of(message));
            let repeated = cardinality == Cardinality::Repeated;
            fields.push((number, Field { ty: Type::of(kind, is_group), repeated, table }));
        };
        for field in message.fields() {
            add(field.number(), &field.kind(), field.is_group(), field.cardinality());
        }
        for field in message.extensions() {
            add(field.number(), &field.kind(), field.is_group(), field.cardinality());
        }
        fields.sort_by_key(|(number, _)| *number);
        let sparse = fields.split_off(fields.partition_point(|(number, _)| *number < DENSE));
        let mut dense = vec![None; fields.last().map_or(0, |(number, _)| *number as usize + 1)];
        for (number, field) in fields {
            dense[number as usize] = Some(field);
        }
        Table { name: message.full_name().into(), dense: dense.into(), sparse: sparse.into() }
    }
}

struct Walk<'a> {
    tables: &'a [Table],
    bytes: &'a [u8],
}

/// What is left of the message that is being read.
#[derive(Clone, Copy)]
struct Span {
    at: usize,
    end: usize,
}

struct Bad {
    offset: usize,
    table: u32,
    field: Option<u32>,
    reason: WireReason,
}

/// A place and a reason, before it is known in which message.
type Raw = (usize, WireReason);

impl Walk<'_> {
    /// Reads fields up to the end of the span, or up to the end of the group of this number. Returns where it ended.
    fn message(&self, table: u32, mut span: Span, group: Option<u32>, depth: u32) -> Result<usize, Bad> {
        let bad = |field, (offset, reason): Raw| Bad { offset, table, field, reason };
        let fields = &self.tables[table as usize];
        while span.at < span.end {
            let start = span.at;
            let (number, wire) = self.tag(&mut span).map_err(|raw| bad(None, raw))?;
            if wire == END {
                if group == Some(number) {
                    return Ok(span.at);
                }
                return Err(bad(Some(number), (start, WireReason::Group)));
            }
            let Some(field) = fields.field(number) else {
                self.skip(&mut span, number, wire, depth).map_err(|raw| bad(Some(number), raw))?;
                continue;
            };
            match field.ty {
                Type::Message if wire == LENGTH => {
                    let inner = self.length(&mut span).map_err(|raw| bad(Some(number), raw))?;
                    self.nested(field.table, inner, None, depth, start)?;
                }
                Type::Group if wire == START => {
                    span.at = self.nested(field.table, span, Some(number), depth, start)?;
                }
                _ => self.scalar(&mut span, field, wire, start).map_err(|raw| bad(Some(number), raw))?,
            }
        }
        match group {
            None => Ok(span.at),
            Some(number) => Err(bad(Some(number), (span.at, WireReason::Group))),
        }
    }

    fn nested(
        &self,
        table: u32,
        span: Span,
        group: Option<u32>,
        depth: u32,
        start: usize,
    ) -> Result<usize, Bad> {
        if depth == MAX_DEPTH {
            return Err(Bad { offset: start, table, field: None, reason: WireReason::Depth });
        }
        self.message(table, span, group, depth + 1)
    }

    /// Reads the value of a known field that is no message, or has a message's type on a wrong wire type.
    #[inline]
    fn scalar(&self, span: &mut Span, field: Field, found: u8, start: usize) -> Result<(), Raw> {
        let expected = field.ty.wire();
        if found == expected {
            return match field.ty {
                Type::String => {
                    let text = self.length(span)?;
                    let valid = std::str::from_utf8(&self.bytes[text.at..text.end]);
                    valid.map(drop).map_err(|error| (text.at + error.valid_up_to(), WireReason::Utf8))
                }
                Type::Bytes => self.length(span).map(drop),
                _ => self.number(span, found),
            };
        }
        if found == LENGTH && field.repeated && matches!(expected, VARINT | FOUR | EIGHT) {
            let mut elements = self.length(span)?;
            while elements.at < elements.end {
                self.number(&mut elements, expected).map_err(|(offset, reason)| match reason {
                    WireReason::Truncated => (offset, WireReason::Packed),
                    reason => (offset, reason),
                })?;
            }
            return Ok(());
        }
        match found {
            VARINT | EIGHT | LENGTH | START | FOUR => Err((start, WireReason::WireType { expected, found })),
            _ => Err((start, WireReason::NoWireType(found))),
        }
    }

    /// Skips the value of an unknown field.
    fn skip(&self, span: &mut Span, number: u32, wire: u8, depth: u32) -> Result<(), Raw> {
        match wire {
            VARINT | EIGHT | FOUR => self.number(span, wire),
            LENGTH => self.length(span).map(drop),
            START if depth == MAX_DEPTH => Err((span.at, WireReason::Depth)),
            START => loop {
                let start = span.at;
                if start == span.end {
                    return Err((start, WireReason::Group));
                }
                match self.tag(span)? {
                    (inner, END) if inner == number => return Ok(()),
                    (_, END) => return Err((start, WireReason::Group)),
                    (inner, wire) => self.skip(span, inner, wire, depth + 1)?,
                }
            },
            _ => Err((span.at, WireReason::NoWireType(wire))),
        }
    }

    #[inline]
    fn tag(&self, span: &mut Span) -> Result<(u32, u8), Raw> {
        let start = span.at;
        let key = self.varint(span)?;
        let number = key >> 3;
        if number == 0 || number >= 1 << 29 {
            return Err((start, WireReason::FieldNumber));
        }
        Ok((number as u32, (key & 7) as u8))
    }

    #[inline]
    fn number(&self, span: &mut Span, wire: u8) -> Result<(), Raw> {
        let bytes = match wire {
            FOUR => 4,
            EIGHT => 8,
            _ => return self.varint(span).map(drop),
        };
        if span.end - span.at < bytes {
            return Err((span.at, WireReason::Truncated));
        }
        span.at += bytes;
        Ok(())
    }

    /// Reads a length and steps over what it covers, which is returned.
    #[inline]
    fn length(&self, span: &mut Span) -> Result<Span, Raw> {
        let start = span.at;
        let length = self.varint(span)?;
        match usize::try_from(length) {
            Ok(length) if length <= span.end - span.at => {
                let inner = Span { at: span.at, end: span.at + length };
                span.at = inner.end;
                Ok(inner)
            }
            _ => Err((start, WireReason::Truncated)),
        }
    }

    #[inline]
    fn varint(&self, span: &mut Span) -> Result<u64, Raw> {
        let start = span.at;
        let mut value = 0;
        for (i, byte) in self.bytes[start..span.end].iter().enumerate().take(10) {
            // The tenth byte has room for one bit.
            if i == 9 && *byte > 1 {
                return Err((start, WireReason::Varint));
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                span.at = start + i + 1;
                return Ok(value);
            }
        }
        Err((start, WireReason::Truncated))
    }
}
