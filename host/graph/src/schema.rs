//! Owns a message type as tables of what each field is on the wire. Never reads a message's bytes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use prost_reflect::{ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor};

/// Field numbers below this are looked up by index; most messages have no others.
const DENSE: u32 = 64;

/// What a table takes beside its fields, in places for fields: its name and the lists' own sizes.
const BESIDE_FIELDS: usize = 8;

/// A message type and all that it contains, as tables. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// The root is the first.
    tables: Arc<[Table]>,
    /// Sorted.
    groups: Arc<[String]>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: Arc<str>,
    /// Whether it is an entry of a map: decoders drop what they do not know inside.
    pub(crate) is_entry: bool,
    /// By number, below 16, as bits: numbers of variable length that are plain, no `bool`, and 0 where they are not there.
    small: u16,
    /// Which of them are 0 where they are not there.
    implicit: u16,
    dense: Box<[Option<Field>]>,
    /// Sorted by number.
    sparse: Box<[(u32, Field)]>,
}

/// What a field is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) ty: Type,
    pub(crate) shape: Shape,
    /// Its type's wire type, looked up.
    pub(crate) wire: u8,
    /// Which oneof it is a member of, from 1; 0 for none, and for one that has no other member.
    pub(crate) oneof: u32,
    /// The table of a message or group; 0 otherwise.
    pub(crate) table: u32,
    /// What a reader takes for an enum's value that is not there: the number of its first; 0 otherwise.
    pub(crate) default: i32,
}

/// How often a field stands in a message, and what its absence means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Once; not being there is the same as the default.
    Implicit,
    /// Once; not being there is something of its own.
    Explicit,
    /// Any number of times, each with its tag.
    Unpacked,
    /// Any number of times, all behind one tag.
    Packed,
    /// Entries, one for each key.
    Map,
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

pub(crate) const VARINT: u8 = 0;
pub(crate) const EIGHT: u8 = 1;
pub(crate) const LENGTH: u8 = 2;
pub(crate) const START: u8 = 3;
pub(crate) const END: u8 = 4;
pub(crate) const FOUR: u8 = 5;

impl Schema {
    /// Returns the tables of a message type and of all that it contains.
    pub fn of(message: &MessageDescriptor) -> Self {
        let mut found = Found { order: Vec::new(), index: HashMap::new(), groups: Vec::new() };
        found.index_of(message);
        let mut tables = Vec::new();
        while let Some(message) = found.order.get(tables.len()).cloned() {
            tables.push(found.table(&message));
        }
        found.groups.sort_unstable();
        Self { tables: tables.into(), groups: found.groups.into() }
    }

    /// Returns how large the tables of a message type are, in places for fields, without making them; none where
    /// there are more than that.
    pub(crate) fn weight(message: &MessageDescriptor, most: usize) -> Option<usize> {
        let mut seen = HashSet::from([message.full_name().to_owned()]);
        let mut open = vec![message.clone()];
        let mut weight = 0_usize;
        while let Some(message) = open.pop() {
            let fields = message.fields().map(|field| (field.number(), field.kind()));
            let extensions = message.extensions().map(|extension| (extension.number(), extension.kind()));
            let mut dense = 0;
            weight = weight.saturating_add(BESIDE_FIELDS);
            for (number, kind) in fields.chain(extensions) {
                match number {
                    number if number < DENSE => dense = dense.max(number as usize + 1),
                    _ => weight = weight.saturating_add(1),
                }
                if let Some(inner) = kind.as_message()
                    && !seen.contains(inner.full_name())
                {
                    seen.insert(inner.full_name().to_owned());
                    open.push(inner.clone());
                }
            }
            weight = weight.saturating_add(dense);
            if weight > most {
                return None;
            }
        }
        Some(weight)
    }

    /// Returns the message's full name.
    pub fn message(&self) -> &str {
        &self.tables[0].name
    }

    /// Returns the full names of all fields, here and in the messages inside, that are encoded as groups. A message that
    /// can hold one has no canonical form, so it cannot be kept.
    pub fn groups(&self) -> Vec<String> {
        self.groups.to_vec()
    }

    pub(crate) fn tables(&self) -> &[Table] {
        &self.tables
    }
}

impl Table {
    #[inline]
    pub(crate) fn field(&self, number: u32) -> Option<Field> {
        if number < DENSE {
            return self.dense.get(number as usize).copied().flatten();
        }
        self.sparse.binary_search_by_key(&number, |(n, _)| *n).ok().map(|i| self.sparse[i].1)
    }

    /// Returns whether a byte is the whole tag of a plain number of variable length, no `bool`, whose default is 0.
    #[inline]
    pub(crate) fn is_small(&self, tag: u8) -> bool {
        tag & 0x87 == 0 && self.small >> (tag >> 3) & 1 != 0
    }

    /// Returns whether such a number is not to be written where it is 0.
    #[inline]
    pub(crate) fn is_implicit(&self, tag: u8) -> bool {
        self.implicit >> (tag >> 3 & 15) & 1 != 0
    }

    /// Returns all fields by number.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (u32, Field)> {
        let dense = (0..).zip(&self.dense).filter_map(|(number, field)| Some((number, (*field)?)));
        dense.chain(self.sparse.iter().copied())
    }
}

impl Field {
    pub(crate) fn is_repeated(self) -> bool {
        match self.shape {
            Shape::Implicit | Shape::Explicit => false,
            Shape::Unpacked | Shape::Packed | Shape::Map => true,
        }
    }

    /// Returns whether it stands at most once, is no message, and no other field has to do with it.
    #[inline]
    pub(crate) fn is_plain(self) -> bool {
        let alone = matches!(self.shape, Shape::Implicit | Shape::Explicit) && self.oneof == 0;
        alone && !matches!(self.ty, Type::Message | Type::Group)
    }

    /// Returns what decoders make of a varint: 32 bits of it where the type has no more, sign-extended where it has one.
    #[inline]
    pub(crate) fn cut(self, value: u64) -> u64 {
        match self.ty {
            Type::Int32 | Type::Enum => i64::from(value as i32) as u64,
            Type::Uint32 | Type::Sint32 => u64::from(value as u32),
            Type::Bool => u64::from(value != 0),
            _ => value,
        }
    }

    /// Returns whether a number, as its bits on the wire, is what a reader takes for one that is not there.
    #[inline]
    pub(crate) fn is_default(self, bits: u64) -> bool {
        bits == i64::from(self.default) as u64
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
    /// Full names of fields.
    groups: Vec<String>,
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
        let is_entry = is_entry(message);
        let oneofs = members(message);
        let mut fields: Vec<(u32, Field)> = Vec::new();
        for field in message.fields() {
            let oneof = oneofs.get(&field.number()).copied().unwrap_or_default();
            fields.push((field.number(), Field { oneof, ..self.field(&field, is_entry) }));
        }
        for extension in message.extensions() {
            fields.push((extension.number(), self.extension(&extension)));
        }
        fields.sort_by_key(|(number, _)| *number);
        let sparse = fields.split_off(fields.partition_point(|(number, _)| *number < DENSE));
        let bits = |of: &dyn Fn(Field) -> bool| {
            let fields = fields.iter().take_while(|(number, _)| *number < 16);
            fields.filter(|(_, field)| of(*field)).fold(0, |bits, (number, _)| bits | 1 << number)
        };
        let small = |field: Field| {
            field.is_plain() && field.wire == VARINT && field.ty != Type::Bool && field.default == 0
        };
        let (small, implicit) = (bits(&small), bits(&|field| small(field) && field.shape == Shape::Implicit));
        let mut dense = vec![None; fields.last().map_or(0, |(number, _)| *number as usize + 1)];
        for (number, field) in fields {
            dense[number as usize] = Some(field);
        }
        let (name, dense, sparse) = (message.full_name().into(), dense.into(), sparse.into());
        Table { name, is_entry, small, implicit, dense, sparse }
    }

    fn field(&mut self, field: &FieldDescriptor, in_entry: bool) -> Field {
        let kind = field.kind();
        if field.is_group() {
            self.groups.push(field.full_name().to_owned());
        }
        let shape = match &kind {
            Kind::Message(message) if field.is_map() && is_entry(message) => Shape::Map,
            _ if field.is_packed() => Shape::Packed,
            _ if field.is_list() || field.is_map() => Shape::Unpacked,
            // Whatever the syntax: a reader fills in what an entry lacks.
            _ if in_entry || !field.supports_presence() => Shape::Implicit,
            _ => Shape::Explicit,
        };
        self.plain(&kind, field.is_group(), shape)
    }

    fn extension(&mut self, extension: &ExtensionDescriptor) -> Field {
        if extension.is_group() {
            self.groups.push(extension.full_name().to_owned());
        }
        let shape = match extension {
            _ if extension.is_packed() => Shape::Packed,
            _ if extension.is_list() || extension.is_map() => Shape::Unpacked,
            _ => Shape::Explicit,
        };
        self.plain(&extension.kind(), extension.is_group(), shape)
    }

    fn plain(&mut self, kind: &Kind, is_group: bool, shape: Shape) -> Field {
        let table = kind.as_message().map_or(0, |message| self.index_of(message));
        let default = kind.as_enum().map_or(0, |of| of.default_value().number());
        let ty = Type::of(kind, is_group);
        Field { ty, shape, wire: ty.wire(), oneof: 0, table, default }
    }
}

/// Returns the oneof, from 1, of each field that is in one with others.
fn members(message: &MessageDescriptor) -> HashMap<u32, u32> {
    let oneofs = (1..).zip(message.oneofs()).filter(|(_, oneof)| oneof.fields().len() > 1);
    oneofs
        .flat_map(|(i, oneof)| oneof.fields().map(|field| (field.number(), i)).collect::<Vec<_>>())
        .collect()
}

/// Returns whether a message is a map's entry, with all that belongs to one: descriptors come from anybody.
fn is_entry(message: &MessageDescriptor) -> bool {
    let key = message.get_field(1).filter(|key| !key.is_list()).map(|key| key.kind());
    let ordered = match key {
        None | Some(Kind::Double | Kind::Float | Kind::Bytes | Kind::Enum(_) | Kind::Message(_)) => false,
        Some(_) => true,
    };
    let value = message.get_field(2);
    message.is_map_entry() && ordered && value.is_some_and(|value| !value.is_list() && !value.is_map())
}
