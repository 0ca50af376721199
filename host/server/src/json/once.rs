//! Finds the field that JSON gives twice, which readers of JSON pass over: the second would silently win. Never makes
//! anything of a value.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Reads JSON that is known to be a value of this kind, or a list of such values, and refuses what is given twice.
#[derive(Clone)]
pub(super) enum Once {
    /// An object with the message's fields, each by either of its names.
    Message(MessageDescriptor),
    /// An object with keys of its own.
    Map(Box<Self>),
    /// Anything without fields that could be given twice.
    Leaf,
}

impl Once {
    pub(super) fn of(message: &MessageDescriptor) -> Self {
        match message.full_name() {
            "google.protobuf.Any"
            | "google.protobuf.ListValue"
            | "google.protobuf.Struct"
            | "google.protobuf.Value" => Self::Leaf,
            _ => Self::Message(message.clone()),
        }
    }

    fn of_field(field: &FieldDescriptor) -> Self {
        let Kind::Message(message) = field.kind() else { return Self::Leaf };
        if !field.is_map() {
            return Self::of(&message);
        }
        let values = match message.map_entry_value_field().kind() {
            Kind::Message(message) => Self::of(&message),
            _ => Self::Leaf,
        };
        Self::Map(Box::new(values))
    }
}

impl<'de> DeserializeSeed<'de> for Once {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self {
            Self::Leaf => deserializer.deserialize_ignored_any(IgnoredAny).map(|_| ()),
            Self::Message(_) | Self::Map(_) => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Once {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut numbers, mut keys) = (HashSet::new(), HashSet::new());
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            let (is_new, seed) = match &self {
                Self::Message(message) => {
                    let field = message.get_field_by_json_name(&key);
                    match field.or_else(|| message.get_field_by_name(&key)) {
                        Some(field) => (numbers.insert(field.number()), Self::of_field(&field)),
                        None => (true, Self::Leaf),
                    }
                }
                Self::Map(values) => (keys.insert(key.clone()), Self::clone(values)),
                Self::Leaf => (true, Self::Leaf),
            };
            if !is_new {
                return Err(A::Error::custom(format_args!("`{key}` is given twice")));
            }
            map.next_value_seed(seed)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(self.clone())?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}
