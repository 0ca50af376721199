//! Owns the one walk over a message's bytes: whether they are a message of its type and, where that is asked, whether
//! they stand in canonical form. Never builds a message: a good one is read without one allocation.

mod form;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::marker::PhantomData;

use crate::map_key::MapKey;
use crate::schema::{EIGHT, END, FOUR, Field, LENGTH, START, Schema, Shape, Table, Type, VARINT};
use crate::wire::{MAX_DEPTH, WireFault, WireReason};

impl Schema {
    /// Returns whether the bytes are one message of this type: well-formed tags, each known field of the declared wire
    /// type (repeated numbers packed or not), lengths inside their parents, text in UTF-8, groups closed. What it
    /// accepts, a decoder accepts. Unknown fields are allowed; missing `required` ones are not looked for.
    ///
    /// # Errors
    /// The first place where they are not.
    pub fn check(&self, bytes: &[u8]) -> Result<(), WireFault> {
        self.walk::<WellFormed>(bytes).map(drop)
    }

    /// Returns whether the bytes, which are one message of this type, stand in the form that is looked for.
    pub(crate) fn walk<L: Look>(&self, bytes: &[u8]) -> Result<bool, WireFault> {
        let walk = Walk::<L>::new(self.tables(), bytes);
        match walk.message(0, Span { at: 0, end: bytes.len() }, None, 0) {
            Ok(_) => Ok(walk.holds.get()),
            Err(Stop) => {
                let ((offset, reason), (table, field)) = (walk.fault(), walk.place.get());
                Err(WireFault { offset, message: self.tables()[table as usize].name.clone(), field, reason })
            }
        }
    }
}

/// What a walk looks for.
pub(crate) trait Look {
    /// Whether it judges the form, too.
    const FORM: bool;
}

/// Whether the bytes are a message.
pub(crate) enum WellFormed {}

/// Whether they stand in canonical form, too.
pub(crate) enum Canonical {}

impl Look for WellFormed {
    const FORM: bool = false;
}

impl Look for Canonical {
    const FORM: bool = true;
}

pub(crate) struct Walk<'a, L> {
    tables: &'a [Table],
    bytes: &'a [u8],
    /// Whether all that was read stands in the form.
    holds: Cell<bool>,
    /// Where a message has more oneofs than bits: its first byte and the oneof of which it has a member.
    beyond: RefCell<BTreeSet<(usize, u32)>>,
    /// Where and why it stopped.
    fault: Cell<(usize, WireReason)>,
    /// In which table, and in which field.
    place: Cell<(u32, Option<u32>)>,
    look: PhantomData<L>,
}

/// The bytes are no message; the walk knows why. Nothing is carried here, so that what is read comes back in registers.
#[derive(Debug)]
pub(crate) struct Stop;

/// What is left of the message that is being read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) at: usize,
    pub(crate) end: usize,
}

/// One field as it stands in the bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    pub(crate) number: u32,
    pub(crate) wire: u8,
    /// Where its tag begins.
    pub(crate) at: usize,
    /// All after the tag; of a length and what it covers, only the latter.
    pub(crate) value: Span,
}

/// What is known of a message's fields before the one that is being read.
struct Before<'a> {
    start: usize,
    number: u32,
    /// The first 64, as bits.
    oneofs: u64,
    key: Option<MapKey<'a>>,
}

impl<'a, L: Look> Walk<'a, L> {
    pub(crate) fn new(tables: &'a [Table], bytes: &'a [u8]) -> Self {
        Self {
            tables,
            bytes,
            holds: Cell::new(true),
            beyond: RefCell::default(),
            fault: Cell::new((0, WireReason::Truncated)),
            place: Cell::new((0, None)),
            look: PhantomData,
        }
    }

    /// Returns where and why it stopped.
    pub(crate) fn fault(&self) -> (usize, WireReason) {
        self.fault.get()
    }

    #[cold]
    pub(crate) fn stop(&self, offset: usize, reason: WireReason) -> Stop {
        self.fault.set((offset, reason));
        Stop
    }

    #[cold]
    fn stop_in(&self, table: u32, field: Option<u32>) -> Stop {
        self.place.set((table, field));
        Stop
    }

    /// Reads fields up to the end of the span, or up to the end of the group of this number. Returns where it ended.
    fn message(&self, table: u32, span: Span, group: Option<u32>, depth: u32) -> Result<usize, Stop> {
        self.rest(table, Before { start: span.at, number: 0, oneofs: 0, key: None }, span, group, depth)
    }

    /// Reads the fields of a message that are left.
    fn rest(
        &self,
        table: u32,
        mut before: Before<'a>,
        mut span: Span,
        group: Option<u32>,
        depth: u32,
    ) -> Result<usize, Stop> {
        let fields = &self.tables[table as usize];
        while span.at < span.end {
            let mut start = span.at;
            let (number, wire) = self.tag(&mut span).map_err(|Stop| self.stop_in(table, None))?;
            let here = |Stop| self.stop_in(table, Some(number));
            if wire == END {
                if group == Some(number) {
                    return Ok(span.at);
                }
                return Err(here(self.stop(start, WireReason::Group)));
            }
            let Some(field) = fields.field(number) else {
                self.unknown(&mut before, fields, number);
                self.skip(&mut span, number, wire, depth).map_err(here)?;
                continue;
            };
            self.known(&mut before, field, number);
            match field.ty {
                Type::Message if wire == LENGTH => loop {
                    let inner = self.length(&mut span).map_err(here)?;
                    self.inner(field.table, inner, depth, start)?;
                    self.placed(&mut before, field, inner).map_err(here)?;
                    start = span.at;
                    if !self.again(&mut span, field, number) {
                        break;
                    }
                },
                Type::Group if wire == START && L::FORM => {
                    return Err(here(self.stop(start, WireReason::GroupField)));
                }
                Type::Group if wire == START => {
                    span.at = self.nested(field.table, span, Some(number), depth, start)?;
                }
                _ => {
                    self.scalar(&mut span, field, wire, start).map_err(here)?;
                    if field.shape == Shape::Unpacked && wire == VARINT {
                        self.small_again(&mut span, field, number);
                    }
                }
            }
        }
        match group {
            None => Ok(span.at),
            Some(_) => {
                self.stop(span.at, WireReason::Group);
                Err(self.stop_in(table, group))
            }
        }
    }

    /// Steps over the next tag where it is that of the same field once more, in one byte.
    #[inline(always)]
    fn again(&self, span: &mut Span, field: Field, number: u32) -> bool {
        let tag = number << 3 | u32::from(field.wire);
        let again = field.is_repeated()
            && self.bytes[..span.end]
                .get(span.at)
                .is_some_and(|byte| *byte < 0x80 && u32::from(*byte) == tag);
        span.at += usize::from(again);
        again
    }

    /// Reads four small numbers at once, each with the tag of this field, as long as there are.
    #[inline]
    fn small_again(&self, span: &mut Span, field: Field, number: u32) {
        let Some(tag) = u8::try_from(number << 3).ok().filter(|tag| *tag < 0x80) else { return };
        let tags = u64::from(tag) * 0x0001_0001_0001_0001;
        while let Some(eight) = self.bytes[span.at..span.end].first_chunk() {
            let numbers = u64::from_le_bytes(*eight) ^ tags;
            if numbers & 0x80ff_80ff_80ff_80ff != 0 {
                return;
            }
            self.require(field.ty != Type::Bool || numbers & 0x7e00_7e00_7e00_7e00 == 0);
            span.at += 8;
        }
    }

    /// Reads a message inside of another.
    #[inline]
    fn inner(&self, table: u32, mut span: Span, depth: u32, start: usize) -> Result<(), Stop> {
        self.too_deep(table, depth, start)?;
        let first = span.at;
        let number = self.plain(table, &mut span)?;
        if span.at == span.end {
            return Ok(());
        }
        let before = Before { start: first, number, oneofs: 0, key: None };
        self.rest(table, before, span, None, depth + 1).map(drop)
    }

    /// Reads fields that stand as encoders write most: sorted, with tags of one byte, no messages, and none that has to
    /// do with others. Returns the number of the last.
    #[inline]
    fn plain(&self, table: u32, span: &mut Span) -> Result<u32, Stop> {
        let fields = &self.tables[table as usize];
        let mut last = 0;
        while span.at < span.end {
            let (start, tag) = (span.at, self.bytes[span.at]);
            let number = u32::from(tag >> 3);
            if let Some(value) = self.bytes[..span.end].get(span.at + 1).filter(|value| **value < 0x80)
                && fields.is_small(tag)
                && number > last
            {
                self.require(*value != 0 || !fields.is_implicit(tag));
                span.at += 2;
                last = number;
                continue;
            }
            let Some(field) = fields.field(number).filter(|_| tag < 0x80 && number > last) else { break };
            if !field.is_plain() || field.wire != tag & 7 {
                break;
            }
            span.at += 1;
            let read = self.scalar(span, field, field.wire, start);
            read.map_err(|Stop| self.stop_in(table, Some(number)))?;
            last = number;
        }
        Ok(last)
    }

    fn nested(
        &self,
        table: u32,
        span: Span,
        group: Option<u32>,
        depth: u32,
        start: usize,
    ) -> Result<usize, Stop> {
        self.too_deep(table, depth, start)?;
        self.message(table, span, group, depth + 1)
    }

    #[inline]
    fn too_deep(&self, table: u32, depth: u32, start: usize) -> Result<(), Stop> {
        if depth == MAX_DEPTH {
            self.stop(start, WireReason::Depth);
            return Err(self.stop_in(table, None));
        }
        Ok(())
    }

    /// Reads the value of a known field that is no message, or has a message's type on a wrong wire type.
    #[inline(always)]
    fn scalar(&self, span: &mut Span, field: Field, found: u8, start: usize) -> Result<(), Stop> {
        let expected = field.wire;
        if found == expected {
            let is_default = match field.ty {
                Type::String => {
                    let text = self.length(span)?;
                    self.text(text)?;
                    text.at == text.end
                }
                Type::Bytes => {
                    let bytes = self.length(span)?;
                    bytes.at == bytes.end
                }
                _ => field.is_default(self.number(span, field, found)?),
            };
            match field.shape {
                Shape::Implicit => self.require(!is_default),
                Shape::Packed => self.require(false),
                Shape::Explicit | Shape::Unpacked | Shape::Map => {}
            }
            return Ok(());
        }
        if found == LENGTH && field.is_repeated() && matches!(expected, VARINT | FOUR | EIGHT) {
            let elements = self.length(span)?;
            self.require(field.shape == Shape::Packed && elements.at < elements.end);
            return self.packed(elements, field, expected);
        }
        match found {
            VARINT | EIGHT | LENGTH | START | FOUR => {
                Err(self.stop(start, WireReason::WireType { expected, found }))
            }
            _ => Err(self.stop(start, WireReason::NoWireType(found))),
        }
    }

    #[inline]
    fn text(&self, text: Span) -> Result<(), Stop> {
        let bytes = &self.bytes[text.at..text.end];
        // Most texts are short and ASCII: a call costs more than a look at them.
        if bytes.len() <= 16 && bytes.iter().fold(0, |all, byte| all | byte) < 0x80 {
            return Ok(());
        }
        let valid = std::str::from_utf8(bytes);
        valid.map(drop).map_err(|error| self.stop(text.at + error.valid_up_to(), WireReason::Utf8))
    }

    #[inline]
    fn packed(&self, mut elements: Span, field: Field, wire: u8) -> Result<(), Stop> {
        let width = match wire {
            FOUR => 4,
            EIGHT => 8,
            _ => {
                while elements.at < elements.end {
                    self.some_varints(&mut elements, field)?;
                }
                return Ok(());
            }
        };
        match (elements.end - elements.at) % width {
            0 => Ok(()),
            rest => Err(self.stop(elements.end - rest, WireReason::Packed)),
        }
    }

    /// Reads eight small numbers at once where there are, else one.
    #[inline]
    fn some_varints(&self, elements: &mut Span, field: Field) -> Result<(), Stop> {
        if let Some(eight) = self.bytes[elements.at..elements.end].first_chunk() {
            let eight = u64::from_le_bytes(*eight);
            if eight & 0x8080_8080_8080_8080 == 0 {
                self.require(field.ty != Type::Bool || eight & 0x7e7e_7e7e_7e7e_7e7e == 0);
                elements.at += 8;
                return Ok(());
            }
        }
        self.number(elements, field, VARINT).map(drop).map_err(|Stop| match self.fault.get() {
            (offset, WireReason::Truncated) => self.stop(offset, WireReason::Packed),
            _ => Stop,
        })
    }

    /// Skips the value of an unknown field.
    fn skip(&self, span: &mut Span, number: u32, wire: u8, depth: u32) -> Result<(), Stop> {
        match wire {
            VARINT => self.varint(span).map(drop),
            FOUR => self.fixed(span, 4).map(drop),
            EIGHT => self.fixed(span, 8).map(drop),
            LENGTH => self.length(span).map(drop),
            START if depth == MAX_DEPTH => Err(self.stop(span.at, WireReason::Depth)),
            START => {
                // What is inside of an unknown group is kept as it is.
                let holds = self.holds.get();
                self.skip_group(span, number, depth)?;
                self.holds.set(holds);
                Ok(())
            }
            _ => Err(self.stop(span.at, WireReason::NoWireType(wire))),
        }
    }

    fn skip_group(&self, span: &mut Span, number: u32, depth: u32) -> Result<(), Stop> {
        loop {
            let start = span.at;
            if start == span.end {
                return Err(self.stop(start, WireReason::Group));
            }
            match self.tag(span)? {
                (inner, END) if inner == number => return Ok(()),
                (_, END) => return Err(self.stop(start, WireReason::Group)),
                (inner, wire) => self.skip(span, inner, wire, depth + 1)?,
            }
        }
    }

    #[inline(always)]
    pub(crate) fn tag(&self, span: &mut Span) -> Result<(u32, u8), Stop> {
        let start = span.at;
        let key = self.varint(span)?;
        let number = key >> 3;
        if number == 0 || number >= 1 << 29 {
            return Err(self.stop(start, WireReason::FieldNumber));
        }
        Ok((number as u32, (key & 7) as u8))
    }

    /// Reads a number of this type and wire type. Returns its bits as they are to be written.
    #[inline(always)]
    pub(crate) fn number(&self, span: &mut Span, field: Field, wire: u8) -> Result<u64, Stop> {
        match wire {
            FOUR => self.fixed(span, 4),
            EIGHT => self.fixed(span, 8),
            _ => {
                let read = self.varint(span)?;
                // Small numbers, which most are, are what they are in all types but one.
                let cut = if read < 0x80 && field.ty != Type::Bool { read } else { field.cut(read) };
                self.require(cut == read);
                Ok(cut)
            }
        }
    }

    #[inline(always)]
    fn fixed(&self, span: &mut Span, width: usize) -> Result<u64, Stop> {
        if span.end - span.at < width {
            return Err(self.stop(span.at, WireReason::Truncated));
        }
        let mut bits = [0; 8];
        bits[..width].copy_from_slice(&self.bytes[span.at..span.at + width]);
        span.at += width;
        Ok(u64::from_le_bytes(bits))
    }

    /// Reads a length and steps over what it covers, which is returned.
    #[inline(always)]
    fn length(&self, span: &mut Span) -> Result<Span, Stop> {
        let start = span.at;
        let length = self.varint(span)?;
        match usize::try_from(length) {
            Ok(length) if length <= span.end - span.at => {
                let inner = Span { at: span.at, end: span.at + length };
                span.at = inner.end;
                Ok(inner)
            }
            _ => Err(self.stop(start, WireReason::Truncated)),
        }
    }

    #[inline(always)]
    pub(crate) fn varint(&self, span: &mut Span) -> Result<u64, Stop> {
        match self.bytes[..span.end].get(span.at) {
            Some(byte) if *byte < 0x80 => {
                span.at += 1;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(span),
        }
    }

    #[inline(never)]
    fn long_varint(&self, span: &mut Span) -> Result<u64, Stop> {
        let start = span.at;
        if let Some(eight) = self.bytes[start..span.end].first_chunk()
            && let Some((value, length)) = varint_of_eight(u64::from_le_bytes(*eight))
        {
            self.require(length == 1 || value >> (7 * (length - 1)) != 0);
            span.at += length;
            return Ok(value);
        }
        let mut value = 0;
        for (i, byte) in self.bytes[start..span.end].iter().enumerate().take(10) {
            // The tenth byte has room for one bit.
            if i == 9 && *byte > 1 {
                return Err(self.stop(start, WireReason::Varint));
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                // Zeros on top of a number say nothing.
                self.require(*byte != 0 || i == 0);
                span.at = start + i + 1;
                return Ok(value);
            }
        }
        Err(self.stop(start, WireReason::Truncated))
    }

    /// Returns the key of any entry: the last that stands there.
    pub(crate) fn last_key(&self, table: u32, mut entry: Span) -> Result<MapKey<'a>, Stop> {
        let field = self.key_field(table);
        let mut key = MapKey::absent(field);
        while entry.at < entry.end {
            let Record { number: 1, wire, mut value, .. } = self.record(&mut entry)? else { continue };
            key = match field.ty {
                Type::String => MapKey::Text(&self.bytes[value.at..value.end]),
                _ => MapKey::of(field, self.number(&mut value, field, wire)?),
            };
        }
        Ok(key)
    }

    /// Reads one field without its meaning. Nothing counts here how deep messages are nested: the caller does, where no
    /// walk has found the bytes good.
    pub(crate) fn record(&self, span: &mut Span) -> Result<Record, Stop> {
        let at = span.at;
        let (number, wire) = self.tag(span)?;
        let value = if wire == LENGTH {
            self.length(span)?
        } else {
            let start = span.at;
            self.skip(span, number, wire, 0)?;
            Span { at: start, end: span.at }
        };
        Ok(Record { number, wire, at, value })
    }
}

/// Returns the number that begins with the first of eight bytes, and how many it takes, where it takes no more: its
/// groups of seven bits are brought together in three steps, each twice as wide as the one before.
#[inline]
fn varint_of_eight(eight: u64) -> Option<(u64, usize)> {
    let ends = !eight & 0x8080_8080_8080_8080;
    if ends == 0 {
        return None;
    }
    let bits = ends.trailing_zeros() + 1;
    let sevens = eight & (u64::MAX >> (64 - bits)) & 0x7f7f_7f7f_7f7f_7f7f;
    let pairs = sevens & 0x007f_007f_007f_007f | (sevens & 0x7f00_7f00_7f00_7f00) >> 1;
    let fours = pairs & 0x0000_3fff_0000_3fff | (pairs & 0x3fff_0000_3fff_0000) >> 2;
    let value = fours & 0x0000_0000_0fff_ffff | (fours & 0x0fff_ffff_0000_0000) >> 4;
    Some((value, bits as usize / 8))
}
