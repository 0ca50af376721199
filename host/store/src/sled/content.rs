//! Owns how a record's value and its chunks are read from the tree and drafted for it. Never decides
//! whether they may be.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use sled::IVec;

use crate::codec;
use crate::error::{StoreError, StoreErrorKind};
use crate::record::{Kind, Record, RecordKey};

use super::draft::Draft;
use super::failed;
use super::layout::{self, Chunks, Value, cut, damaged, is_whole, places, record_key, record_prefix};
use super::lists::Move;

/// How often a record that is replaced while its chunks are read is read again.
pub(super) const READINGS: usize = 1000;

/// A record as it stands in the tree, its body perhaps not read yet.
#[derive(Clone)]
struct Stored {
    record: Record,
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
    /// It is in chunks: it is to be read where blocking is allowed.
    Long,
}

/// Returns the record as the tree has it, unless it is in chunks.
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

/// Returns the record with an empty body, as the tree has it.
pub(super) fn read_head(
    tree: &sled::Tree,
    kind: Kind,
    key: &RecordKey,
) -> Result<Option<Record>, StoreError> {
    let Some(state) = stored(tree, kind, key)? else { return Ok(None) };
    Ok(Some(Record { body: Bytes::new(), ..state.record().clone() }))
}

/// Returns what the tree has of a record, its body left where it is if it is long.
pub(super) fn stored(tree: &sled::Tree, kind: Kind, key: &RecordKey) -> Result<State, StoreError> {
    let value_key = record_key(kind, key);
    for _ in 0..READINGS {
        let Some(value) = tree.get(&value_key).map_err(failed)? else { return Ok(None) };
        let Some(mut stored) = Stored::read(kind, key, value, &|key| tree.get(key))? else { continue };
        if let Value::Whole { body, .. } = &stored.value {
            stored.record.body = body.clone();
        }
        return Ok(Some(Arc::new(Change { stored, content: Bytes::new() })));
    }
    Err(damaged(kind, key, "its chunks are not there"))
}

/// Returns the last key of a kind that the tree has.
pub(super) fn last_key(tree: &sled::Tree, kind: Kind) -> Result<Option<RecordKey>, StoreError> {
    let Some(key) = tree.scan_prefix(record_prefix(kind)).keys().next_back() else { return Ok(None) };
    let key = key.map_err(failed)?;
    let text = key.get(record_prefix(kind).len()..).and_then(|key| str::from_utf8(key).ok());
    let key = text.and_then(|text| RecordKey::parse(text).ok());
    let unreadable =
        || StoreError::new(StoreErrorKind::Corrupt, "the store cannot be read: a key has no known form");
    key.map(Some).ok_or_else(unreadable)
}

/// A record as it is somewhere: none where it is not there.
pub(super) type State = Option<Arc<Change>>;

/// A record to be in the tree: made ready before its turn to be written comes, or found there.
pub(super) struct Change {
    stored: Stored,
    /// What goes into chunks; empty where they are in the tree already.
    content: Bytes,
}

impl Change {
    pub(super) fn of(record: Record) -> Self {
        let (value, content) = Value::of(&record);
        let body_bytes = record.body.len() as u64;
        Self { stored: Stored { record, body_bytes, value }, content }
    }

    /// Returns the record that was logged with this head and this body.
    pub(super) fn logged(kind: Kind, key: &RecordKey, head: Bytes, body: Bytes) -> Result<Self, StoreError> {
        let (mut record, body_bytes) = codec::decode_shared(kind, key, &head)?;
        record.body = body.clone();
        let (value, content) = Value::of_parts(head, body);
        Ok(Self { stored: Stored { record, body_bytes, value }, content })
    }

    /// Returns the record; its body may have been left in the tree.
    pub(super) fn record(&self) -> &Record {
        &self.stored.record
    }

    /// Returns the record with its body; none if it was replaced in the tree meanwhile.
    pub(super) fn whole(&self, tree: &sled::Tree) -> Result<Option<Record>, StoreError> {
        if self.is_without_body() {
            self.stored.clone().whole(&|key| tree.get(key))
        } else {
            Ok(Some(self.stored.record.clone()))
        }
    }

    /// Returns whether the body was left in the tree.
    pub(super) fn is_without_body(&self) -> bool {
        self.stored.record.body.len() as u64 != self.stored.body_bytes
    }

    /// Returns how long its head and its body are, where memory has both and neither is in chunks.
    pub(super) fn whole_bytes(&self) -> Option<usize> {
        match &self.stored.value {
            Value::Whole { head, body } => Some(head.len() + body.len()),
            Value::LongBody { .. } | Value::LongHead { .. } => None,
        }
    }

    /// Returns how many bytes it will write, about.
    pub(super) fn bytes(&self) -> usize {
        layout::VALUE_BYTES + self.content.len()
    }

    /// Returns the head and the body of a record that did not come from the tree.
    pub(super) fn head_and_body(&self) -> (&[u8], &[u8]) {
        match &self.stored.value {
            Value::Whole { head, body } => (head, body),
            Value::LongBody { head, .. } => (head, &self.stored.record.body),
            Value::LongHead { head_bytes, .. } => self.content.split_at(*head_bytes as usize),
        }
    }

    /// Returns the record with a later end of its lease; nothing else changes, also of what is in chunks.
    pub(super) fn renewed(
        &self,
        tree: &sled::Tree,
        lease_until: crate::clock::Timestamp,
    ) -> Result<Self, StoreError> {
        let Self { stored: Stored { record, body_bytes, value }, content } = self;
        let mut record = record.clone();
        record.facts.lease_until = Some(lease_until);
        let head: Bytes = codec::encode_head(&record, *body_bytes).into();
        let long = |chunks| -> Result<Bytes, StoreError> {
            if !content.is_empty() {
                return Ok(content.clone());
            }
            let gathered = gather(record.kind, &record.key, chunks, &|key| tree.get(key))?;
            gathered.ok_or_else(|| damaged(record.kind, &record.key, "its chunks are not there"))
        };
        let (value, content) = match value {
            Value::Whole { body, .. } => Value::of_parts(head, body.clone()),
            Value::LongBody { chunks, .. } if Value::fits_beside_chunks(&head) => {
                (Value::LongBody { head, chunks: *chunks }, content.clone())
            }
            Value::LongBody { chunks, .. } => {
                record.body = long(*chunks)?;
                Value::of_parts(head, record.body.clone())
            }
            Value::LongHead { head_bytes, chunks } => {
                record.body = long(*chunks)?.slice(*head_bytes as usize..);
                Value::of_parts(head, record.body.clone())
            }
        };
        Ok(Self { stored: Stored { record, body_bytes: *body_bytes, value }, content })
    }
}

/// Drafts a record, or its absence, in the place of what the tree has, and adds what is to change in lists.
pub(super) fn draft(
    draft: &mut Draft<'_>,
    moves: &mut Vec<Move>,
    (kind, key): (Kind, &RecordKey),
    below: Option<&Change>,
    now: Option<&Change>,
) {
    let listed = |change: &Change| places(kind, key, &change.record().facts);
    let (was, is) = (below.map(listed).unwrap_or_default(), now.map(listed).unwrap_or_default());
    moves.extend(was.iter().filter(|place| !is.contains(place)).cloned().map(Move::from_place));
    moves.extend(is.into_iter().filter(|place| !was.contains(place)).map(Move::to_place));
    let chunks = |change: &Change| change.stored.value.chunks();
    let (old_chunks, new_chunks) = (below.and_then(chunks), now.and_then(chunks));
    if old_chunks != new_chunks {
        for chunk_key in old_chunks.into_iter().flat_map(|chunks| chunks.keys(kind, key)) {
            draft.remove(chunk_key);
        }
    }
    match now {
        None if below.is_none() => {}
        None => draft.remove(record_key(kind, key)),
        Some(Change { stored, content }) => {
            let chunk_keys = new_chunks.into_iter().flat_map(|chunks| chunks.keys(kind, key));
            for (chunk_key, chunk) in chunk_keys.zip(cut(content)) {
                draft.insert(chunk_key, chunk);
            }
            draft.insert(record_key(kind, key), stored.value.to_bytes());
        }
    }
}
