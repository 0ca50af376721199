//! Owns the order of a map's entries in canonical form. Never reads bytes.

use crate::schema::{Field, Type};

/// What entries of a map are sorted by: numbers by their value, text by its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum MapKey<'a> {
    Number(u64),
    Text(&'a [u8]),
}

impl MapKey<'_> {
    /// Returns what an entry without a key has.
    #[inline]
    pub(crate) fn absent(field: Field) -> Self {
        match field.ty {
            Type::String => Self::Text(&[]),
            _ => Self::of(field, 0),
        }
    }

    /// Returns a number's key, from its bits on the wire.
    #[inline]
    pub(crate) fn of(field: Field, bits: u64) -> Self {
        // Signed numbers are moved up, so that the least is 0.
        let signed = |value: i64| value as u64 ^ 1 << 63;
        Self::Number(match field.ty {
            Type::Int32 | Type::Int64 | Type::Sfixed64 => signed(bits as i64),
            Type::Sfixed32 => signed(i64::from(bits as i32)),
            Type::Sint32 | Type::Sint64 => signed((bits >> 1) as i64 ^ -((bits & 1) as i64)),
            _ => bits,
        })
    }
}
