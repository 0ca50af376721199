//! Encodes one message in any of the ways that mean the same: fields in any order, numbers in more bytes than they
//! need, lists in pieces, maps in any order, and values before those that count.

use std::collections::BTreeMap;

use docket_graph::prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value};

use crate::chance::Chance;
use crate::support::varint;

/// One encoded field, or all of one number in their order.
type Record = Vec<u8>;

impl Chance<'_> {
    pub(crate) fn scramble(&mut self, message: &DynamicMessage) -> Vec<u8> {
        self.records(message).concat()
    }

    /// Returns the message as records. Those of one field or oneof stand in the order that matters.
    fn records(&mut self, message: &DynamicMessage) -> Vec<Record> {
        let descriptor = message.descriptor();
        let mut streams: Vec<Vec<Record>> = Vec::new();
        for field in descriptor.fields() {
            let mut stream = Vec::new();
            if let Some(oneof) = field.containing_oneof()
                && message.has_field(&field)
            {
                // Whatever other member came before is gone.
                let others: Vec<_> = oneof.fields().filter(|other| *other != field).collect();
                if !others.is_empty() && self.once_in(2) {
                    let other = usize::from(self.byte()) % others.len();
                    stream.extend(self.before(&others[other]));
                }
            }
            if message.has_field(&field) {
                stream.extend(self.field(&field, &message.get_field(&field)));
            } else if is_packable(&field) && field.is_list() && self.once_in(3) {
                stream.push(self.piece(&field, &[]));
            } else if !field.supports_presence() && !field.is_list() && !field.is_map() && self.once_in(2) {
                // Its default, written out.
                stream.extend(self.before(&field));
                let default = self.value_of(&field, &field.default_value());
                stream.push(self.tagged(&field, default));
            }
            streams.push(stream);
        }
        let mut unknown: BTreeMap<u32, Vec<Record>> = BTreeMap::new();
        for field in message.unknown_fields() {
            let mut record = Vec::new();
            field.encode(&mut record);
            unknown.entry(field.number()).or_default().push(record);
        }
        streams.extend(unknown.into_values());
        self.shuffled(streams)
    }

    /// Takes from streams in any order, and from each in its own.
    fn shuffled(&mut self, streams: Vec<Vec<Record>>) -> Vec<Record> {
        let mut streams: Vec<_> = streams.into_iter().map(Vec::into_iter).collect();
        let mut taken = Vec::new();
        loop {
            streams.retain(|stream| stream.len() > 0);
            if streams.is_empty() {
                return taken;
            }
            let next = usize::from(self.byte()) % streams.len();
            taken.extend(streams[next].next());
        }
    }

    fn field(&mut self, field: &FieldDescriptor, value: &Value) -> Vec<Record> {
        match value {
            Value::List(values) if is_packable(field) => {
                let mut pieces = Vec::new();
                let mut rest = values.as_slice();
                while !rest.is_empty() {
                    let left = usize::from(self.byte()) % (rest.len() + 1);
                    let (piece, after) = rest.split_at(rest.len() - left);
                    rest = after;
                    pieces.push(self.piece(field, piece));
                    if let [one, after @ ..] = rest
                        && self.once_in(2)
                    {
                        rest = after;
                        let one = self.value_of(field, one);
                        pieces.push(self.tagged(field, one));
                    }
                }
                pieces
            }
            Value::List(values) => values
                .iter()
                .map(|value| {
                    let value = self.value_of(field, value);
                    self.tagged(field, value)
                })
                .collect(),
            Value::Map(entries) => {
                let streams = entries.iter().map(|(key, value)| self.entry(field, key, value)).collect();
                self.shuffled(streams)
            }
            Value::Message(inner) => {
                let mut rest = self.records(inner);
                let mut pieces = Vec::new();
                while self.once_in(3) {
                    let after = rest.split_off(usize::from(self.byte()) % (rest.len() + 1));
                    pieces.push(self.covered(field, &rest.concat()));
                    rest = after;
                }
                pieces.push(self.covered(field, &rest.concat()));
                pieces
            }
            scalar => {
                let mut records = self.before(field);
                let value = self.value_of(field, scalar);
                records.push(self.tagged(field, value));
                records
            }
        }
    }

    /// Returns, or not, a value that the next one replaces. A message is not replaced but merged with, unless another
    /// member of its oneof comes between.
    fn before(&mut self, field: &FieldDescriptor) -> Vec<Record> {
        if self.once_in(3) {
            let value = self.value(field, 1);
            let value = self.value_of(field, &value);
            return vec![self.tagged(field, value)];
        }
        Vec::new()
    }

    /// Returns the entries for one key; the last counts.
    fn entry(&mut self, field: &FieldDescriptor, key: &MapKey, value: &Value) -> Vec<Record> {
        let kind = field.kind();
        let entry = kind.as_message().unwrap();
        let (keys, values) = (entry.map_entry_key_field(), entry.map_entry_value_field());
        let mut records = Vec::new();
        for replaced in [true, false] {
            if replaced && !self.once_in(3) {
                continue;
            }
            let value = if replaced { self.value(&values, 1) } else { value.clone() };
            let key = Value::from(key.clone());
            let mut streams = vec![Vec::new(), Vec::new(), Vec::new()];
            if !key.is_default(&keys.kind()) || self.once_in(2) {
                streams[0] = self.field(&keys, &key);
            }
            // An absent enum is the first of its values.
            if value != values.default_value() || self.once_in(2) {
                streams[1] = self.field(&values, &value);
            }
            if self.once_in(4) {
                streams[2].push(vec![9 << 3, 1]);
            }
            let inner = self.shuffled(streams).concat();
            records.push(self.covered(field, &inner));
        }
        records
    }

    fn piece(&mut self, field: &FieldDescriptor, values: &[Value]) -> Record {
        let inner: Vec<u8> = values.iter().flat_map(|value| self.value_of(field, value)).collect();
        self.covered(field, &inner)
    }

    fn covered(&mut self, field: &FieldDescriptor, inner: &[u8]) -> Record {
        let tag = self.longer(u64::from(field.number()) << 3 | 2);
        [tag, self.longer(inner.len() as u64), inner.to_vec()].concat()
    }

    fn tagged(&mut self, field: &FieldDescriptor, value: Vec<u8>) -> Record {
        let wire = match field.kind() {
            Kind::Fixed64 | Kind::Sfixed64 | Kind::Double => 1,
            Kind::String | Kind::Bytes | Kind::Message(_) => 2,
            Kind::Fixed32 | Kind::Sfixed32 | Kind::Float => 5,
            _ => 0,
        };
        [self.longer(u64::from(field.number()) << 3 | wire), value].concat()
    }

    /// Returns what stands after the tag.
    fn value_of(&mut self, field: &FieldDescriptor, value: &Value) -> Vec<u8> {
        let zigzag = |value: i64| (value << 1 ^ value >> 63) as u64;
        match (field.kind(), value) {
            (Kind::Fixed32 | Kind::Sfixed32, Value::I32(value)) => value.to_le_bytes().to_vec(),
            (Kind::Fixed64 | Kind::Sfixed64, Value::I64(value)) => value.to_le_bytes().to_vec(),
            (Kind::Fixed32, Value::U32(value)) => value.to_le_bytes().to_vec(),
            (Kind::Fixed64, Value::U64(value)) => value.to_le_bytes().to_vec(),
            (_, Value::F32(value)) => value.to_bits().to_le_bytes().to_vec(),
            (_, Value::F64(value)) => value.to_bits().to_le_bytes().to_vec(),
            (Kind::Sint32, Value::I32(value)) => {
                let bits = u64::from(zigzag(i64::from(*value)) as u32);
                self.longer_32(bits)
            }
            (Kind::Sint64, Value::I64(value)) => self.longer(zigzag(*value)),
            (_, Value::I32(value) | Value::EnumNumber(value)) => self.longer_32(i64::from(*value) as u64),
            (_, Value::U32(value)) => self.longer_32(u64::from(*value)),
            (_, Value::I64(value)) => self.longer(*value as u64),
            (_, Value::U64(value)) => self.longer(*value),
            (_, Value::Bool(false)) => self.longer(0),
            (_, Value::Bool(true)) => {
                let other = self.number().max(1);
                self.longer(other)
            }
            (_, Value::String(text)) => [self.longer(text.len() as u64), text.as_bytes().to_vec()].concat(),
            (_, Value::Bytes(bytes)) => [self.longer(bytes.len() as u64), bytes.to_vec()].concat(),
            (_, Value::Message(inner)) => {
                let inner = self.scramble(inner);
                [self.longer(inner.len() as u64), inner].concat()
            }
            (kind, value) => panic!("no {kind:?}: {value:?}"),
        }
    }

    /// A decoder looks at 32 of the bits.
    fn longer_32(&mut self, bits: u64) -> Vec<u8> {
        let above = if self.once_in(2) { self.number() << 32 } else { bits & !0xffff_ffff };
        self.longer(bits & 0xffff_ffff | above)
    }

    /// Returns a number in its fewest bytes, or in more.
    fn longer(&mut self, value: u64) -> Vec<u8> {
        let mut bytes = varint(value);
        while bytes.len() < 10 && self.once_in(4) {
            *bytes.last_mut().unwrap() |= 0x80;
            bytes.push(0);
        }
        bytes
    }
}

fn is_packable(field: &FieldDescriptor) -> bool {
    !matches!(field.kind(), Kind::String | Kind::Bytes | Kind::Message(_))
}
