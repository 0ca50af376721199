//! Copies of descriptors what message types are made of, before anything is decoded: no services, no comments, no
//! options but three, which are the decoder's own memory and time for nothing, and no defaults, which no bytes depend on
//! and over which the library panics. Counts what is left. Never judges it.

use super::Refusal;
use crate::canonical::{put_tag, put_varint};
use crate::fault::Excess;
use crate::schema::LENGTH;
use crate::walk::{Span, Stop, Walk, WellFormed};
use crate::wire::{MAX_DEPTH, WireReason};

/// What holds parts that matter.
#[derive(Clone, Copy)]
enum Level {
    Set,
    File,
    Message,
    Enum,
    Field,
    Oneof,
    /// A value of an enum, or a range of numbers.
    Number,
    MessageOptions,
    FieldOptions,
    EnumOptions,
}

/// What a field of descriptors is to us.
enum Part {
    /// To be copied as it is.
    Plain,
    /// That, and counted.
    Import,
    /// Something of which the parts are looked at.
    Definition(Level),
    /// Options, of which little is copied.
    Options(Level),
}

/// Returns what matters of a set.
pub(super) fn copy(descriptors: &[u8], most: usize) -> Result<Vec<u8>, Refusal> {
    let walk = Walk::<WellFormed>::new(&[], descriptors);
    let mut lean = Lean { walk: &walk, bytes: descriptors, left: most };
    let copied = lean.copy(Level::Set, Span { at: 0, end: descriptors.len() }, 0);
    copied.map_err(|halt| match halt {
        Halt::Bad => {
            let (offset, reason) = walk.fault();
            Refusal::Bad(format!("{reason} at byte {offset}"))
        }
        Halt::TooMany => Refusal::TooMuch(Excess::Definitions, most),
    })
}

struct Lean<'a> {
    walk: &'a Walk<'a, WellFormed>,
    bytes: &'a [u8],
    left: usize,
}

enum Halt {
    /// The walk knows why.
    Bad,
    TooMany,
}

impl From<Stop> for Halt {
    fn from(Stop: Stop) -> Self {
        Self::Bad
    }
}

impl Lean<'_> {
    fn copy(&mut self, level: Level, mut span: Span, depth: u32) -> Result<Vec<u8>, Halt> {
        let mut out = Vec::new();
        while span.at < span.end {
            let record = self.walk.record(&mut span)?;
            let Some(part) = part(level, record.number) else { continue };
            if matches!(part, Part::Import | Part::Definition(_)) {
                self.left = self.left.checked_sub(1).ok_or(Halt::TooMany)?;
            }
            let (Part::Definition(inner) | Part::Options(inner), LENGTH) = (part, record.wire) else {
                out.extend_from_slice(&self.bytes[record.at..span.at]);
                continue;
            };
            if depth == MAX_DEPTH {
                return Err(self.walk.stop(record.at, WireReason::Depth).into());
            }
            let inner = self.copy(inner, record.value, depth + 1)?;
            put_tag(record.number, LENGTH, &mut out);
            put_varint(inner.len() as u64, &mut out);
            out.extend_from_slice(&inner);
        }
        Ok(out)
    }
}

/// Returns what the field of this number is, by `google/protobuf/descriptor.proto`; nothing where it does not matter.
fn part(level: Level, number: u32) -> Option<Part> {
    Some(match (level, number) {
        (Level::Set, 1) => Part::Definition(Level::File),
        // Its name, package, public imports and syntax.
        (Level::File, 1 | 2 | 10 | 12) => Part::Plain,
        (Level::File, 3) => Part::Import,
        (Level::File, 4) | (Level::Message, 3) => Part::Definition(Level::Message),
        (Level::File, 5) | (Level::Message, 4) => Part::Definition(Level::Enum),
        (Level::File, 7) | (Level::Message, 2 | 6) => Part::Definition(Level::Field),
        (Level::Message, 8) => Part::Definition(Level::Oneof),
        // Those of extensions.
        (Level::Message, 5) | (Level::Enum, 2) => Part::Definition(Level::Number),
        // Names and numbers.
        (Level::Message | Level::Enum | Level::Oneof, 1) | (Level::Number, 1 | 2) => Part::Plain,
        // All but a default: a field that has presence has none on the wire, and one that has none begins at zero.
        (Level::Field, 1..=6 | 9 | 10 | 17) => Part::Plain,
        // Whether a message is a map's entry, a field packed, and a number the same as another.
        (Level::Message, 7) => Part::Options(Level::MessageOptions),
        (Level::Field, 8) => Part::Options(Level::FieldOptions),
        (Level::Enum, 3) => Part::Options(Level::EnumOptions),
        (Level::MessageOptions, 7) | (Level::FieldOptions | Level::EnumOptions, 2) => Part::Plain,
        _ => return None,
    })
}
