//! Owns how a record's value and its chunks are read from the tree and drafted for it. Never decides
//! whether they may be.

use bytes::{Bytes, BytesMut};
use sled::IVec;

use crate::codec;
use crate::error::StoreError;
use crate::record::{Kind, Record, RecordKey};

use super::draft::Draft;
use super::failed;
use super::layout::{self, Chunks, Value, cut, damaged, is_whole, places, record_key};
use super::lists::{self, Tails};

/// How often a record that is replaced while its chunks are read is read again.
const READINGS: usize = 1000;

/// A record as it stands in the tree, its body perhaps not read yet.
pub(super) struct Stored {
    pub(super) record: Record,
    body_bytes: u64,
    value: Value,
}

/// Returns the bytes of a value without copying them.
fn shared(value: IVec) -> Bytes {
    Bytes::from_owner(value)
}

/// Reads what a key has, from the tree or a draft on it.
type Get<'a> = &'a dyn Fn(&[u8]) -> sled::Result<Option<IVec>>;

impl Stored {
    /// Returns the record of this value; none if it was replaced while its chunks were read.
    fn read(kind: Kind, key: &RecordKey, value: IVec, get: Get<'_>) -> Result<Option<Self>, StoreError> {
        let unreadable = || damaged(kind, key, "its value has no known form");
        let value = Value::parse(&shared(value)).ok_or_else(unreadable)?;
        let (record, body_bytes) = match &value {
            Value::Whole { head, .. } | Value::LongBody { head, .. } => {
                codec::decode_shared(kind, key, head)?
            }
            Value::LongHead { head_bytes, chunks } => {
                let Some(content) = gather(kind, key, *chunks, get)? else { return Ok(None) };
                let head = content.get(..*head_bytes as usize).ok_or_else(unreadable)?;
                codec::decode(kind, key, head)?
            }
        };
        Ok(Some(Self { record, body_bytes, value }))
    }

    /// Returns the record with its body; none if it was replaced while its chunks were read.
    fn whole(self, get: Get<'_>) -> Result<Option<Record>, StoreError> {
        let Self { mut record, body_bytes, value } = self;
        let body = match value {
            Value::Whole { body, .. } => Some(body),
            Value::LongBody { chunks, .. } => gather(record.kind, &record.key, chunks, get)?,
            Value::LongHead { head_bytes, chunks } => {
                let content = gather(record.kind, &record.key, chunks, get)?;
                content.map(|content| content.slice(head_bytes as usize..))
            }
        };
        let Some(body) = body else { return Ok(None) };
        if body.len() as u64 != body_bytes {
            let why = format!("its body has {} bytes instead of {body_bytes}", body.len());
            return Err(damaged(record.kind, &record.key, why));
        }
        record.body = body;
        Ok(Some(record))
    }

    /// Returns whether reading the body would take long enough to be in the way of other tasks.
    fn is_long(&self) -> bool {
        !matches!(self.value, Value::Whole { .. })
    }
}

/// Returns the content of chunks; none if they are no longer there.
fn gather(kind: Kind, key: &RecordKey, chunks: Chunks, get: Get<'_>) -> Result<Option<Bytes>, StoreError> {
    let mut content = BytesMut::new();
    for chunk_key in chunks.keys(kind, key) {
        let Some(chunk) = get(&chunk_key).map_err(failed)? else { return Ok(None) };
        content.extend_from_slice(&chunk);
    }
    if !is_whole(chunks, &content) {
        return Err(damaged(kind, key, "its content is not what its digest says"));
    }
    Ok(Some(content.freeze()))
}

/// What a first look at a record found.
#[expect(
    clippy::large_enum_variant,
    reason = "it lives from one return to the next, and a box would cost each hit"
)]
pub(super) enum Glance {
    Absent,
    Whole(Record),
    /// It is in chunks: [`read`] it where blocking is allowed.
    Long,
}

/// Returns the record, unless it is in chunks.
pub(super) fn glance(tree: &sled::Tree, kind: Kind, key: &RecordKey) -> Result<Glance, StoreError> {
    let Some(value) = tree.get(record_key(kind, key)).map_err(failed)? else { return Ok(Glance::Absent) };
    if Value::is_long(&value) {
        return Ok(Glance::Long);
    }
    let nothing_else: Get<'_> = &|_| Ok(None);
    let stored = Stored::read(kind, key, value, nothing_else)?.filter(|stored| !stored.is_long());
    let record = stored.map(|stored| stored.whole(nothing_else)).transpose()?.flatten();
    Ok(record.map_or(Glance::Long, Glance::Whole))
}

/// Returns the record with its body, as it was at one moment.
pub(super) fn read(tree: &sled::Tree, kind: Kind, key: &RecordKey) -> Result<Option<Record>, StoreError> {
    read_as(tree, kind, key, |stored, get| stored.whole(get))
}

/// Returns the record with an empty body.
pub(super) fn read_head(
    tree: &sled::Tree,
    kind: Kind,
    key: &RecordKey,
) -> Result<Option<Record>, StoreError> {
    read_as(tree, kind, key, |stored, _| Ok(Some(stored.record)))
}

fn read_as(
    tree: &sled::Tree,
    kind: Kind,
    key: &RecordKey,
    finish: impl Fn(Stored, Get<'_>) -> Result<Option<Record>, StoreError>,
) -> Result<Option<Record>, StoreError> {
    let get: Get<'_> = &|key| tree.get(key);
    let value_key = record_key(kind, key);
    for _ in 0..READINGS {
        let Some(value) = tree.get(&value_key).map_err(failed)? else { return Ok(None) };
        let Some(stored) = Stored::read(kind, key, value, get)? else { continue };
        if let Some(record) = finish(stored, get)? {
            return Ok(Some(record));
        }
    }
    Err(damaged(kind, key, "its chunks are not there"))
}

/// Returns what a draft has of a record.
pub(super) fn drafted(draft: &Draft<'_>, kind: Kind, key: &RecordKey) -> Result<Option<Stored>, StoreError> {
    let Some(value) = draft.get(&record_key(kind, key)).map_err(failed)? else { return Ok(None) };
    let stored = Stored::read(kind, key, value, &|key| draft.get(key))?;
    stored.map(Some).ok_or_else(|| damaged(kind, key, "its chunks are not there"))
}

/// A record made ready to be written: everything that can be done before its turn comes.
pub(super) struct Ready {
    kind: Kind,
    key: RecordKey,
    value: Value,
    content: Bytes,
    places: Vec<layout::Place>,
}

impl Ready {
    pub(super) fn of(record: &Record) -> Self {
        let (value, content) = Value::of(record);
        let places = places(record.kind, &record.key, &record.facts);
        Self { kind: record.kind, key: record.key.clone(), value, content, places }
    }

    /// Returns how many bytes it will write, about.
    pub(super) fn bytes(&self) -> usize {
        layout::VALUE_BYTES + self.content.len()
    }

    /// Drafts the record in the place of what is there.
    pub(super) fn draft(
        self,
        draft: &mut Draft<'_>,
        tails: &mut Tails,
        there: Option<&Stored>,
    ) -> Result<(), StoreError> {
        let Self { kind, key, value, content, places } = self;
        let listed = there.map_or_else(Vec::new, |there| layout::places(kind, &key, &there.record.facts));
        for place in listed.iter().filter(|place| !places.contains(place)) {
            lists::remove(draft, tails, place)?;
        }
        for place in places.iter().filter(|place| !listed.contains(place)) {
            lists::insert(draft, tails, place)?;
        }
        replace(draft, kind, &key, there, Some((value, content)));
        Ok(())
    }
}

/// Drafts a later end of the lease; nothing else, also of what is in chunks.
pub(super) fn draft_renewal(
    draft: &mut Draft<'_>,
    there: &Stored,
    lease_until: crate::clock::Timestamp,
) -> Result<(), StoreError> {
    let Stored { record, body_bytes, value } = there;
    let mut renewed = record.clone();
    renewed.facts.lease_until = Some(lease_until);
    let head: Bytes = codec::encode_head(&renewed, *body_bytes).into();
    let unreadable = || damaged(record.kind, &record.key, "its chunks are not there");
    let gathered = |chunks| gather(record.kind, &record.key, chunks, &|key| draft.get(key));
    let renewed = match value {
        Value::Whole { body, .. } => Value::of_parts(head, body.clone()),
        Value::LongBody { chunks, .. } if Value::fits_beside_chunks(&head) => {
            (Value::LongBody { head, chunks: *chunks }, Bytes::new())
        }
        Value::LongBody { chunks, .. } => Value::of_parts(head, gathered(*chunks)?.ok_or_else(unreadable)?),
        Value::LongHead { head_bytes, chunks } => {
            let content = gathered(*chunks)?.ok_or_else(unreadable)?;
            Value::of_parts(head, content.slice(*head_bytes as usize..))
        }
    };
    replace(draft, record.kind, &record.key, Some(there), Some(renewed));
    Ok(())
}

/// Drafts the removal of the record that is there.
pub(super) fn draft_removal(
    draft: &mut Draft<'_>,
    tails: &mut Tails,
    there: &Stored,
) -> Result<(), StoreError> {
    let Record { kind, key, facts, .. } = &there.record;
    for place in places(*kind, key, facts) {
        lists::remove(draft, tails, &place)?;
    }
    replace(draft, *kind, key, Some(there), None);
    Ok(())
}

fn replace(
    draft: &mut Draft<'_>,
    kind: Kind,
    key: &RecordKey,
    there: Option<&Stored>,
    new: Option<(Value, Bytes)>,
) {
    let old_chunks = there.and_then(|there| there.value.chunks());
    let new_chunks = new.as_ref().and_then(|(value, _)| value.chunks());
    if old_chunks != new_chunks {
        for chunk_key in old_chunks.into_iter().flat_map(|chunks| chunks.keys(kind, key)) {
            draft.remove(chunk_key);
        }
    }
    match new {
        None => draft.remove(record_key(kind, key)),
        Some((value, content)) => {
            let chunk_keys = new_chunks.into_iter().flat_map(|chunks| chunks.keys(kind, key));
            for (chunk_key, chunk) in chunk_keys.zip(cut(&content)) {
                draft.insert(chunk_key, chunk);
            }
            draft.insert(record_key(kind, key), value.to_bytes());
        }
    }
}
