//! Owns what a walk finds of the form: whether what was read stands where and as it does in canonical form. Never reads
//! a message.

use super::{Before, Look, Span, Stop, Walk};
use crate::map_key::MapKey;
use crate::schema::{Field, Shape, Table, Type};

impl<'a, L: Look> Walk<'a, L> {
    #[inline(always)]
    pub(super) fn require(&self, holds: bool) {
        if L::FORM && !holds {
            self.holds.set(false);
        }
    }

    #[inline]
    pub(super) fn unknown(&self, before: &mut Before<'a>, fields: &Table, number: u32) {
        if L::FORM {
            self.require(!fields.is_entry && number >= before.number);
            before.number = number;
        }
    }

    #[inline]
    pub(super) fn known(&self, before: &mut Before<'a>, field: Field, number: u32) {
        if !L::FORM {
            return;
        }
        let again = match field.shape {
            Shape::Implicit | Shape::Explicit | Shape::Packed => false,
            Shape::Unpacked | Shape::Map => number == before.number,
        };
        self.require(number > before.number || again);
        if !again {
            before.key = None;
        }
        before.number = number;
        if field.oneof != 0 {
            self.require(self.is_first_member(before, field.oneof));
        }
    }

    fn is_first_member(&self, before: &mut Before<'a>, oneof: u32) -> bool {
        match 1u64.checked_shl(oneof - 1) {
            Some(bit) => {
                let first = before.oneofs & bit == 0;
                before.oneofs |= bit;
                first
            }
            None => self.beyond.borrow_mut().insert((before.start, oneof)),
        }
    }

    /// Judges the place of a message among its siblings, after it was read.
    #[inline]
    pub(super) fn placed(&self, before: &mut Before<'a>, field: Field, inner: Span) -> Result<(), Stop> {
        if !L::FORM {
            return Ok(());
        }
        match field.shape {
            Shape::Map if self.holds.get() => {
                let key = self.first_key(field.table, inner)?;
                self.require(before.key.is_none_or(|last| last < key));
                before.key = Some(key);
            }
            Shape::Map => {}
            Shape::Implicit => self.require(inner.at < inner.end),
            Shape::Explicit | Shape::Unpacked | Shape::Packed => {}
        }
        Ok(())
    }

    /// Returns the key of a map's entry in canonical form, where it is the first field and its tag one byte.
    #[inline]
    fn first_key(&self, table: u32, mut entry: Span) -> Result<MapKey<'a>, Stop> {
        let field = self.key_field(table);
        if entry.at == entry.end || self.bytes[entry.at] >> 3 != 1 {
            return Ok(MapKey::absent(field));
        }
        entry.at += 1;
        match field.ty {
            Type::String => self.length(&mut entry).map(|text| MapKey::Text(&self.bytes[text.at..text.end])),
            _ => self.number(&mut entry, field, field.wire).map(|bits| MapKey::of(field, bits)),
        }
    }

    #[inline]
    pub(super) fn key_field(&self, table: u32) -> Field {
        self.tables[table as usize].field(1).expect("an entry has a key")
    }
}
