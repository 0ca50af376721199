//! Owns the canonical form of a message's bytes: one message, one sequence of bytes, whoever encoded it. What a kept
//! result is looked up by is computed from these bytes. Never touches bytes that stand in the form already.
//!
//! | what | in canonical form | because |
//! |---|---|---|
//! | fields | by number, unknown ones too; of one unknown number in the order found | encoders differ, decoders do not care |
//! | tags, lengths, known numbers, unknown varints | in as few bytes as hold them | a longer varint says the same |
//! | `bool` | 0 or 1 | decoders read every other number as true |
//! | `int32`, enums | the lowest 32 bits, sign-extended to 64 | decoders cut to 32 bits; the standard says ten bytes for a negative number |
//! | `uint32`, `sint32` | the lowest 32 bits | decoders cut to 32 bits |
//! | without presence (proto3 scalars) | left out at their default; floats by their bits, so `-0.0` and each NaN stay | absence says the same, and `-0.0` is another value |
//! | with presence (`optional`, a oneof's members, proto2, messages) | kept, at their default too | absence says something else |
//! | once, but found twice | the last of scalars; messages merged, as if their bytes were one after the other | so do decoders |
//! | a oneof | the member set last; a message merged only with itself found since another member was | so do decoders |
//! | repeated numbers | packed or not, as declared; none instead of an empty packed field | decoders read both |
//! | maps | one entry for each key, the last found, by key: numbers by value, text by its bytes, `false` first | maps have no order |
//! | a map's entry | the key and the value left out at their default, an empty message too; what is unknown inside is dropped | decoders fill in and drop the same |
//! | messages inside | in canonical form | |
//! | unknown, with a length | what is inside is kept byte for byte | it may be text, a message or neither |
//! | unknown groups | kept byte for byte after their first tag | |
//! | groups that the schema knows | none: [`WireReason::GroupField`](crate::WireReason::GroupField) | no guest's language writes them any more; such messages are refused by name, see [`Schema::groups`] |
//!
//! The form is *not* what another library calls deterministic output (they differ among each other, and each from release
//! to release); it is no message equality in the sense of those libraries (NaN is like itself here); and it belongs to a
//! schema: where a later one knows a field that was unknown, the form of the same bytes may be another. Values of closed
//! enums that are not declared are values like all others here.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use crate::schema::{EIGHT, FOUR, Field, LENGTH, Schema, Shape, Table, Type, VARINT};
use crate::walk::{Canonical, Record, Span, Stop, Walk, WellFormed};
use crate::wire::WireFault;

impl Schema {
    /// Returns the bytes of one message of this type in canonical form: themselves, if they stand in it, which is found
    /// in one walk without an allocation; else encoded anew.
    ///
    /// # Errors
    /// As [`Schema::check`], in the same walk; and [`WireReason::GroupField`](crate::WireReason::GroupField) at the
    /// first field that is declared as a group.
    pub fn canonical<'a>(&self, bytes: &'a [u8]) -> Result<Cow<'a, [u8]>, WireFault> {
        if self.is_canonical(bytes)? {
            return Ok(Cow::Borrowed(bytes));
        }
        Ok(Cow::Owned(self.encoded_anew(bytes)))
    }

    /// Returns whether the bytes are one message of this type in canonical form.
    ///
    /// # Errors
    /// As [`Schema::canonical`].
    pub fn is_canonical(&self, bytes: &[u8]) -> Result<bool, WireFault> {
        self.walk::<Canonical>(bytes)
    }

    fn encoded_anew(&self, bytes: &[u8]) -> Vec<u8> {
        let mut encoded = Vec::with_capacity(bytes.len());
        let mut encoder = Encoder { tables: self.tables(), records: Vec::new() };
        encoder.message(0, bytes, &mut encoded).expect("the walk has found the bytes good");
        encoded
    }
}

/// Encodes messages anew that a walk has found good.
struct Encoder<'s> {
    tables: &'s [Table],
    /// Those of the messages that are being encoded, the innermost last.
    records: Vec<Record>,
}

impl Encoder<'_> {
    fn message(&mut self, table: u32, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Stop> {
        let fields = &self.tables[table as usize];
        let walk = Walk::<WellFormed>::new(self.tables, bytes);
        let base = self.records.len();
        let mut members = BTreeMap::new();
        let mut span = Span { at: 0, end: bytes.len() };
        while span.at < span.end {
            let record = walk.record(&mut span)?;
            self.records.push(record);
            if let Some(Field { oneof: oneof @ 1.., .. }) = fields.field(record.number) {
                let member = members.entry(oneof).or_insert((record.number, record.at));
                if member.0 != record.number {
                    *member = (record.number, record.at);
                }
            }
        }
        self.records[base..].sort_unstable_by_key(|record| (record.number, record.at));
        let (mut next, end) = (base, self.records.len());
        while next < end {
            let number = self.records[next].number;
            let mut first = next;
            next += self.records[next..end].partition_point(|record| record.number == number);
            let Some(field) = fields.field(number) else {
                if !fields.is_entry {
                    self.records[first..next]
                        .iter()
                        .try_for_each(|record| unknown(&walk, bytes, *record, out))?;
                }
                continue;
            };
            if let Some((member, since)) = members.get(&field.oneof) {
                if *member != number {
                    continue;
                }
                first += self.records[first..next].partition_point(|record| record.at < *since);
            }
            match field.ty {
                // No group comes here: the walk refuses it.
                Type::Message | Type::Group => self.messages(field, first..next, bytes, out)?,
                Type::String | Type::Bytes => texts(field, &self.records[first..next], bytes, out),
                _ => numbers(&walk, field, &self.records[first..next], out)?,
            }
        }
        self.records.truncate(base);
        Ok(())
    }

    /// Encodes all that was found of one field whose type is a message.
    fn messages(
        &mut self,
        field: Field,
        run: Range<usize>,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Stop> {
        let number = self.records[run.start].number;
        match field.shape {
            Shape::Map => {
                let walk = Walk::<WellFormed>::new(self.tables, bytes);
                let entry = |record: &Record| Ok((walk.last_key(field.table, record.value)?, record.value));
                let mut entries: Vec<_> = self.records[run].iter().map(entry).collect::<Result<_, _>>()?;
                entries.sort_by_key(|(key, _)| *key);
                for (i, (key, value)) in entries.iter().enumerate() {
                    if entries.get(i + 1).is_none_or(|(next, _)| next != key) {
                        self.nested(field, number, &bytes[value.at..value.end], out)?;
                    }
                }
                Ok(())
            }
            Shape::Unpacked | Shape::Packed => run.into_iter().try_for_each(|i| {
                let value = self.records[i].value;
                self.nested(field, number, &bytes[value.at..value.end], out)
            }),
            Shape::Implicit | Shape::Explicit => match &self.records[run] {
                [Record { value, .. }] => self.nested(field, number, &bytes[value.at..value.end], out),
                several => {
                    let pieces: Vec<_> = several.iter().map(|it| &bytes[it.value.at..it.value.end]).collect();
                    self.nested(field, number, &pieces.concat(), out)
                }
            },
        }
    }

    fn nested(&mut self, field: Field, number: u32, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Stop> {
        let start = out.len();
        put_tag(number, LENGTH, out);
        let open = Open::here(out);
        self.message(field.table, bytes, out)?;
        if field.shape == Shape::Implicit && open.is_empty(out) {
            out.truncate(start);
        } else {
            open.close(out);
        }
        Ok(())
    }
}

fn unknown(walk: &Walk<WellFormed>, bytes: &[u8], record: Record, out: &mut Vec<u8>) -> Result<(), Stop> {
    let Record { number, wire, mut value, .. } = record;
    put_tag(number, wire, out);
    if wire == VARINT {
        put_varint(walk.varint(&mut value)?, out);
        return Ok(());
    }
    if wire == LENGTH {
        put_varint((value.end - value.at) as u64, out);
    }
    out.extend_from_slice(&bytes[value.at..value.end]);
    Ok(())
}

fn texts(field: Field, run: &[Record], bytes: &[u8], out: &mut Vec<u8>) {
    let first = if field.is_repeated() { 0 } else { run.len() - 1 };
    for Record { number, value, .. } in &run[first..] {
        let text = &bytes[value.at..value.end];
        if field.shape != Shape::Implicit || !text.is_empty() {
            put_tag(*number, LENGTH, out);
            put_varint(text.len() as u64, out);
            out.extend_from_slice(text);
        }
    }
}

fn numbers(walk: &Walk<WellFormed>, field: Field, run: &[Record], out: &mut Vec<u8>) -> Result<(), Stop> {
    let (number, wire) = (run[0].number, field.wire);
    let start = out.len();
    let open = (field.shape == Shape::Packed).then(|| {
        put_tag(number, LENGTH, out);
        Open::here(out)
    });
    let first = if field.is_repeated() { 0 } else { run.len() - 1 };
    for record in &run[first..] {
        // One number, or several that are packed.
        let mut values = record.value;
        while values.at < values.end {
            let bits = walk.number(&mut values, field, wire)?;
            match field.shape {
                Shape::Implicit if field.is_default(bits) => continue,
                Shape::Packed => {}
                Shape::Implicit | Shape::Explicit | Shape::Unpacked | Shape::Map => {
                    put_tag(number, wire, out)
                }
            }
            match wire {
                FOUR => out.extend_from_slice(&bits.to_le_bytes()[..4]),
                EIGHT => out.extend_from_slice(&bits.to_le_bytes()),
                _ => put_varint(bits, out),
            }
        }
    }
    match open {
        Some(open) if open.is_empty(out) => out.truncate(start),
        Some(open) => open.close(out),
        None => {}
    }
    Ok(())
}

/// A length that is written when what it covers is known. One byte is kept free for it, which is enough for most.
struct Open {
    at: usize,
}

impl Open {
    fn here(out: &mut Vec<u8>) -> Self {
        out.push(0);
        Self { at: out.len() - 1 }
    }

    fn is_empty(&self, out: &[u8]) -> bool {
        out.len() == self.at + 1
    }

    fn close(self, out: &mut Vec<u8>) {
        let length = out.len() - self.at - 1;
        if length < 0x80 {
            out[self.at] = length as u8;
            return;
        }
        let mut bytes = Vec::with_capacity(10);
        put_varint(length as u64, &mut bytes);
        out.splice(self.at..=self.at, bytes);
    }
}

fn put_tag(number: u32, wire: u8, out: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3 | u64::from(wire), out);
}

pub(crate) fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
