//! Makes messages from random bytes, so that what fails can be made smaller.

use docket_graph::prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};

/// Bytes that decide each choice; zeros when they are used up.
pub(crate) struct Chance<'a>(pub(crate) &'a [u8]);

impl Chance<'_> {
    pub(crate) fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// True once in `n` times, and never when the bytes are used up.
    pub(crate) fn once_in(&mut self, n: u8) -> bool {
        self.byte() % n == n - 1
    }

    pub(crate) fn number(&mut self) -> u64 {
        let shift = self.byte() % 64;
        u64::from_le_bytes(std::array::from_fn(|_| self.byte())) >> shift
    }

    fn text(&mut self) -> String {
        (0..self.byte() % 4).map(|_| char::from_u32(self.number() as u32 % 0x2000).unwrap_or('x')).collect()
    }

    pub(crate) fn message(&mut self, descriptor: &MessageDescriptor, depth: u8) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        for field in descriptor.fields() {
            if self.byte().is_multiple_of(3) || depth == 0 {
                continue;
            }
            let value = if field.is_map() {
                let entry = field.kind();
                let (key, value) = (
                    entry.as_message().unwrap().map_entry_key_field(),
                    entry.as_message().unwrap().map_entry_value_field(),
                );
                let count = self.byte() % 4;
                Value::Map((0..count).map(|_| (self.key(&key.kind()), self.value(&value, depth))).collect())
            } else if field.is_list() {
                Value::List((0..self.byte() % 4).map(|_| self.value(&field, depth)).collect())
            } else {
                self.value(&field, depth)
            };
            message.set_field(&field, value);
        }
        message
    }

    fn key(&mut self, kind: &Kind) -> MapKey {
        match kind {
            Kind::Bool => MapKey::Bool(self.byte() % 2 == 1),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => MapKey::I32(self.number() as i32),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => MapKey::I64(self.number() as i64),
            Kind::Uint32 | Kind::Fixed32 => MapKey::U32(self.number() as u32),
            Kind::Uint64 | Kind::Fixed64 => MapKey::U64(self.number()),
            _ => MapKey::String(self.text()),
        }
    }

    /// Of a list or map: one element.
    pub(crate) fn value(&mut self, field: &FieldDescriptor, depth: u8) -> Value {
        match field.kind() {
            Kind::Double => Value::F64(f64::from_bits(self.number())),
            Kind::Float => Value::F32(f32::from_bits(self.number() as u32)),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(self.number() as i32),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(self.number() as i64),
            Kind::Uint32 | Kind::Fixed32 => Value::U32(self.number() as u32),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(self.number()),
            Kind::Bool => Value::Bool(self.byte() % 2 == 1),
            Kind::String => Value::String(self.text()),
            Kind::Bytes => Value::Bytes(self.number().to_le_bytes().to_vec().into()),
            Kind::Enum(_) => Value::EnumNumber(i32::from(self.byte() as i8)),
            Kind::Message(inner) => Value::Message(self.message(&inner, depth.saturating_sub(1))),
        }
    }
}
