//! Owns the keys of the one tree, and the form of a record's value. Never reads or writes the tree.
//!
//! | key | value |
//! |---|---|
//! | `m/format` | the number of this layout, in digits |
//! | `m/merged` | up to which frame of the [`log`](super::log) the tree has everything: 8 bytes |
//! | `m/tally` | how many records the tree has, and their [`tally`](super::tally): 16 bytes |
//! | `r` kind key | a record: [`Value`] |
//! | `c` kind key `0` digest n | a chunk of what is too long for a record's value |
//! | `n` kind … | list of a kind's records by time of creation, each with a mark of its step |
//! | `e` … | list of all records of executions: execution by execution, and of each kind by kind, by time of creation, without marks |
//! | `x` … | list of all records that expire, by when |
//!
//! What follows the beginning of a list is [`lists`](super::lists)' own.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::clock::Timestamp;
use crate::codec;
use crate::error::StoreError;
use crate::record::{Facts, Kind, Record, RecordKey};

/// Where the number of the layout is.
pub(super) const FORMAT_KEY: &[u8] = b"m/format";

/// The number of the layout above.
pub(super) const FORMAT: &str = "4";

/// Where the number of the last frame is of which the tree has everything.
pub(super) const MERGED_KEY: &[u8] = b"m/merged";

/// Where the tally of the tree's records is.
pub(super) const TALLY_KEY: &[u8] = b"m/tally";

/// The largest value in the tree. A leaf holds up to 20 of them (more than 16 split it), each with a key
/// of up to 600 bytes; above 128 KiB sled would write the leaf to a file of its own, and never remove it.
pub(super) const VALUE_BYTES: usize = 5 << 10;

/// How much of a value that is too long goes into one chunk.
const CHUNK_BYTES: u32 = 5 << 10;

/// Which digest stands for content here.
type ContentDigest = [u8; 32];

pub(super) fn kind_byte(kind: Kind) -> u8 {
    match kind {
        Kind::Result => 1,
        Kind::Execution => 2,
        Kind::Step => 3,
        Kind::Module => 4,
    }
}

pub(super) fn kind_of(byte: u8) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| kind_byte(*kind) == byte)
}

/// Returns what the keys of a kind's records begin with.
pub(super) fn record_prefix(kind: Kind) -> [u8; 2] {
    [b'r', kind_byte(kind)]
}

/// Returns the key of a record's value.
pub(super) fn record_key(kind: Kind, key: &RecordKey) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2 + key.as_str().len());
    bytes.extend(record_prefix(kind));
    bytes.extend_from_slice(key.as_str().as_bytes());
    bytes
}

/// A place in a list: which list, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) list: Vec<u8>,
    pub(super) entry: Vec<u8>,
}

/// A list of records by creation.
pub(super) struct Created {
    /// The beginning of its keys.
    pub(super) list: Vec<u8>,
    /// What the entries of one execution and one kind begin with, where the list is of all executions.
    pub(super) beginning: Vec<u8>,
}

impl Created {
    /// Returns the list of a kind's records, or where those of an execution are.
    pub(super) fn of(kind: Kind, execution: Option<&str>) -> Self {
        let kind = kind_byte(kind);
        match execution {
            // Ids that a host makes go by time: what is begun together stands together, in few pages, and at
            // the end of the list. A list for each would cost every execution a page at a place of its own.
            Some(execution) => {
                let mut beginning = execution_mark(execution);
                beginning.push(kind);
                Self { list: b"e".to_vec(), beginning }
            }
            None => Self { list: vec![b'n', kind], beginning: Vec::new() },
        }
    }

    /// Returns the place of an entry.
    fn place(self, entry: &[u8]) -> Place {
        let Self { list, beginning } = self;
        Place { list, entry: [beginning.as_slice(), entry].concat() }
    }
}

/// The longest id of an execution that stands in a list as it is, in bytes: of keys there is only so much.
const LONGEST_ID: u8 = 64;

/// Returns what an execution's entries begin with: no other's begin so. Those of ids of one length are in
/// the order of the ids.
fn execution_mark(execution: &str) -> Vec<u8> {
    match u8::try_from(execution.len()) {
        Ok(length) if length <= LONGEST_ID => [&[length], execution.as_bytes()].concat(),
        _ => [&[u8::MAX], &Sha256::digest(execution)[..16]].concat(),
    }
}

/// What stands for a step in a list: a list of its own for each would cost every result a page. Two
/// steps may have the same.
pub(super) type StepMark = [u8; 4];

/// Returns the mark of a step.
pub(super) fn step_mark(step: &str) -> StepMark {
    crc32fast::hash(step.as_bytes()).to_be_bytes()
}

/// The beginning of the list of what expires.
pub(super) const EXPIRING: &[u8] = b"x";

/// Returns the entry of a record in a list by creation, as it is without a mark. Read backwards, such a
/// list has the newest first and then goes by key, so the key stands with every bit turned, and with an
/// end that sorts last.
pub(super) fn created_entry(created_at: Timestamp, key: &RecordKey) -> Vec<u8> {
    let mut entry = Vec::with_capacity(8 + key.as_str().len() + 1 + size_of::<StepMark>());
    entry.extend(created_at.0.to_be_bytes());
    entry.extend(key.as_str().bytes().map(|byte| !byte));
    entry.push(CREATED_END);
    entry
}

/// The end of a key in a list by creation: no byte of a key is this one when it is turned.
const CREATED_END: u8 = u8::MAX;

/// What an entry of a list by creation says.
#[derive(Debug, PartialEq)]
pub(super) struct CreatedEntry {
    pub(super) created_at: Timestamp,
    pub(super) key: RecordKey,
    /// None where the record is of no step, or the list is of one execution.
    pub(super) step: Option<StepMark>,
}

/// Returns what [`created_entry`] was made of, and the mark behind it.
pub(super) fn read_created(entry: &[u8]) -> Option<CreatedEntry> {
    let (time, rest) = entry.split_first_chunk::<8>()?;
    let end = rest.iter().position(|byte| *byte == CREATED_END)?;
    let key: Vec<u8> = rest[..end].iter().map(|byte| !byte).collect();
    let step = match &rest[end + 1..] {
        [] => None,
        mark => Some(mark.try_into().ok()?),
    };
    let key = RecordKey::parse(str::from_utf8(&key).ok()?).ok()?;
    Some(CreatedEntry { created_at: Timestamp(u64::from_be_bytes(*time)), key, step })
}

fn expiring_entry(expires_at: Timestamp, kind: Kind, key: &RecordKey) -> Vec<u8> {
    let mut entry = expires_at.0.to_be_bytes().to_vec();
    entry.push(kind_byte(kind));
    entry.extend_from_slice(key.as_str().as_bytes());
    entry
}

/// Returns what an entry of the list of what expires says.
pub(super) fn read_expiring(entry: &[u8]) -> Option<(Timestamp, Kind, RecordKey)> {
    let (time, rest) = entry.split_first_chunk::<8>()?;
    let (kind, key) = rest.split_first()?;
    let key = RecordKey::parse(str::from_utf8(key).ok()?).ok()?;
    Some((Timestamp(u64::from_be_bytes(*time)), kind_of(*kind)?, key))
}

/// Returns every place at which a record with these facts is listed.
pub(super) fn places(kind: Kind, key: &RecordKey, facts: &Facts) -> Vec<Place> {
    let Facts { step, execution, expires_at, created_at, .. } = facts;
    let mut entry = created_entry(*created_at, key);
    let mut places = Vec::with_capacity(3);
    if let Some(execution) = execution {
        places.push(Created::of(kind, Some(execution)).place(&entry));
    }
    if let Some(step) = step {
        entry.extend(step_mark(step));
    }
    places.push(Created::of(kind, None).place(&entry));
    if let Some(expires_at) = expires_at {
        places.push(Place { list: EXPIRING.to_vec(), entry: expiring_entry(*expires_at, kind, key) });
    }
    places
}

/// The value of a record: the head by [`codec`], and the body here or in chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Everything is here.
    Whole {
        /// The head.
        head: Bytes,
        /// The body.
        body: Bytes,
    },
    /// The body is in chunks.
    LongBody {
        /// The head.
        head: Bytes,
        /// The body's chunks.
        chunks: Chunks,
    },
    /// Head and body, one behind the other, are in chunks.
    LongHead {
        /// How long the head is.
        head_bytes: u32,
        /// The chunks of both.
        chunks: Chunks,
    },
}

/// Content that is kept in chunks. They are found by its digest, so that chunks of two contents never mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunks {
    /// The digest of the content.
    pub(super) digest: ContentDigest,
    /// Its length.
    pub(super) bytes: u64,
    /// How much of it is in each chunk but the last.
    chunk_bytes: u32,
}

impl Chunks {
    /// Returns the keys of the chunks of this record's content, in order.
    pub(super) fn keys(self, kind: Kind, key: &RecordKey) -> impl Iterator<Item = Vec<u8>> {
        let mut beginning = vec![b'c', kind_byte(kind)];
        beginning.extend_from_slice(key.as_str().as_bytes());
        beginning.push(0);
        beginning.extend_from_slice(&self.digest);
        let count = self.bytes.div_ceil(u64::from(self.chunk_bytes));
        (0..count).map(move |n| [beginning.as_slice(), &n.to_be_bytes()].concat())
    }

    fn to_bytes(self) -> [u8; 44] {
        let mut bytes = [0; 44];
        bytes[..32].copy_from_slice(&self.digest);
        bytes[32..40].copy_from_slice(&self.bytes.to_be_bytes());
        bytes[40..].copy_from_slice(&self.chunk_bytes.to_be_bytes());
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (digest, rest) = bytes.split_first_chunk::<32>()?;
        let (length, rest) = rest.split_first_chunk::<8>()?;
        let chunk_bytes = u32::from_be_bytes(rest.try_into().ok()?);
        (chunk_bytes > 0).then_some(Self { digest: *digest, bytes: u64::from_be_bytes(*length), chunk_bytes })
    }
}

impl Value {
    /// Returns the value of a record, and the content of its chunks, if it has any.
    pub(super) fn of(record: &Record) -> (Self, Bytes) {
        Self::of_parts(codec::encode(record).into(), record.body.clone())
    }

    /// Returns the value of a head and a body, and the content of its chunks.
    pub(super) fn of_parts(head: Bytes, body: Bytes) -> (Self, Bytes) {
        if 3 + head.len() + body.len() <= VALUE_BYTES {
            return (Self::Whole { head, body }, Bytes::new());
        }
        let chunks = |content: &Bytes| Chunks {
            digest: Sha256::digest(content).into(),
            bytes: content.len() as u64,
            chunk_bytes: CHUNK_BYTES,
        };
        if Self::fits_beside_chunks(&head) {
            return (Self::LongBody { head, chunks: chunks(&body) }, body);
        }
        let head_bytes = u32::try_from(head.len()).expect("facts are texts of a request, far below 4 GiB");
        let content: Bytes = [head, body].concat().into();
        (Self::LongHead { head_bytes, chunks: chunks(&content) }, content)
    }

    /// Returns whether a head can stay in the value when the body is in chunks.
    pub(super) fn fits_beside_chunks(head: &[u8]) -> bool {
        3 + head.len() + 44 <= VALUE_BYTES
    }

    /// Returns whether what was written as these bytes is in chunks.
    pub(super) fn is_long(bytes: &[u8]) -> bool {
        matches!(bytes, [b'b' | b'h', ..])
    }

    /// Returns the chunks, if there are any.
    pub(super) fn chunks(&self) -> Option<Chunks> {
        match self {
            Self::Whole { .. } => None,
            Self::LongBody { chunks, .. } | Self::LongHead { chunks, .. } => Some(*chunks),
        }
    }

    /// Returns the bytes to write.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let framed = |letter: u8, head: &[u8], rest: &[u8]| {
            let length = u16::try_from(head.len()).expect("a head in a value is shorter than the value");
            [&[letter], length.to_be_bytes().as_slice(), head, rest].concat()
        };
        match self {
            Self::Whole { head, body } => framed(b'w', head, body),
            Self::LongBody { head, chunks } => framed(b'b', head, &chunks.to_bytes()),
            Self::LongHead { head_bytes, chunks } => {
                [b"h", head_bytes.to_be_bytes().as_slice(), &chunks.to_bytes()].concat()
            }
        }
    }

    /// Returns the value that was written as these bytes.
    pub(super) fn parse(bytes: &Bytes) -> Option<Self> {
        match bytes.first()? {
            letter @ (b'w' | b'b') => {
                let length = usize::from(u16::from_be_bytes(*bytes[1..].first_chunk::<2>()?));
                let rest = 3 + length;
                if bytes.len() < rest {
                    return None;
                }
                let (head, rest) = (bytes.slice(3..rest), bytes.slice(rest..));
                match letter {
                    b'w' => Some(Self::Whole { head, body: rest }),
                    _ => Some(Self::LongBody { head, chunks: Chunks::parse(&rest)? }),
                }
            }
            b'h' => {
                let (length, rest) = bytes[1..].split_first_chunk::<4>()?;
                Some(Self::LongHead { head_bytes: u32::from_be_bytes(*length), chunks: Chunks::parse(rest)? })
            }
            _ => None,
        }
    }
}

/// Returns content cut into what its chunks hold, in order.
pub(super) fn cut(content: &Bytes) -> impl Iterator<Item = &[u8]> {
    content.chunks(CHUNK_BYTES as usize)
}

/// Returns whether content is what its chunks were made of.
pub(super) fn is_whole(chunks: Chunks, content: &[u8]) -> bool {
    content.len() as u64 == chunks.bytes && Sha256::digest(content)[..] == chunks.digest
}

/// Returns the error of a record that is not what was written.
pub(super) fn damaged(kind: Kind, key: &RecordKey, why: impl std::fmt::Display) -> StoreError {
    let message = format!("the record `{}/{key}` is damaged: {why}", kind.as_str());
    StoreError::new(crate::error::StoreErrorKind::Corrupt, message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = RecordKey> {
        "[!-~]{1,4}".prop_map(|text| RecordKey::parse(&text).unwrap())
    }

    proptest! {
        #[test]
        fn a_list_read_backwards_has_the_newest_first_and_then_goes_by_key(
            a in (0..3_u64, key()), b in (0..3_u64, key()), one: StepMark, other: StepMark,
        ) {
            let entry = |(time, key): &(u64, RecordKey)| created_entry(Timestamp(*time), key);
            let order = |(time, key): &(u64, RecordKey)| (std::cmp::Reverse(*time), key.clone());
            prop_assert_eq!(entry(&b).cmp(&entry(&a)), order(&a).cmp(&order(&b)));
            let marked = |at: &(u64, RecordKey), mark: StepMark| [entry(at).as_slice(), &mark].concat();
            if a != b {
                prop_assert_eq!(marked(&b, one).cmp(&marked(&a, other)), order(&a).cmp(&order(&b)));
            }
            let read = |step| Some(CreatedEntry { created_at: Timestamp(a.0), key: a.1.clone(), step });
            prop_assert_eq!(read_created(&entry(&a)), read(None));
            prop_assert_eq!(read_created(&marked(&a, one)), read(Some(one)));
        }

        #[test]
        fn no_execution_stands_among_the_records_of_another(
            a in "[!-~]{0,80}", b in "[!-~]{0,80}", longer in "[!-~]{1,3}", same_length: bool,
        ) {
            let b = if same_length { b } else { format!("{a}{longer}") };
            if a != b {
                let (one, other) = (execution_mark(&a), execution_mark(&b));
                prop_assert!(!one.starts_with(&other) && !other.starts_with(&one));
            }
        }

        #[test]
        fn a_value_is_read_as_it_was_written(head in 0..9000_usize, body in 0..9000_usize) {
            let (value, content) = Value::of_parts(vec![1; head].into(), vec![2; body].into());
            let bytes = value.to_bytes();
            prop_assert!(bytes.len() <= VALUE_BYTES);
            prop_assert_eq!(value.chunks().map_or(0, |chunks| chunks.bytes), content.len() as u64);
            prop_assert_eq!(Value::parse(&bytes.into()), Some(value));
        }

        #[test]
        fn hostile_values_are_refused_or_read_but_never_panic(bytes: Vec<u8>, letter in "[wbh]") {
            let _ = Value::parse(&bytes.clone().into());
            let _ = Value::parse(&[letter.as_bytes(), &bytes].concat().into());
            let _ = (read_created(&bytes), read_expiring(&bytes));
        }
    }
}
