//! Owns the messages on the socket, and what they say in the words of a store. Never reads or writes
//! a socket.
//!
//! Variants travel as their place in the lists below and in `ALL`, from 1: who changes the order of one
//! changes [`VERSION`] too.

use bytes::Bytes;
use prost::{Message, Oneof};

use super::frame::BODIES;
use crate::clock::Timestamp;
use crate::codec;
use crate::error::{StoreError, StoreErrorKind};
use crate::record::{Kind, Record, RecordKey, Revision, Status};
use crate::store::{
    Abilities, Batch, Cursor, Durability, Expect, Filter, Found, Page, Query, Sharing, Sync, Write,
};

/// The version of the protocol: both sides must speak the same.
pub(super) const VERSION: u32 = 2;

/// The first word of a greeting.
const WORD: &str = "docket-store";

/// The first message of each side. It stays readable by every version.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Greeting {
    #[prost(string, tag = "1")]
    word: String,
    #[prost(uint32, tag = "2")]
    pub(super) version: u32,
    /// What the served store can do.
    #[prost(message, optional, tag = "3")]
    pub(super) abilities: Option<AbilitiesMessage>,
}

impl Greeting {
    pub(super) fn new(abilities: Option<&Abilities>) -> Self {
        let abilities = abilities.map(AbilitiesMessage::of);
        Self { word: WORD.to_owned(), version: VERSION, abilities }
    }

    /// Returns the greeting that the bytes are; none where they are something else.
    pub(super) fn read(message: Bytes) -> Option<Self> {
        Self::decode(message).ok().filter(|greeting| greeting.word == WORD)
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AbilitiesMessage {
    #[prost(string, tag = "1")]
    scheme: String,
    #[prost(uint32, tag = "2")]
    durability: u32,
    #[prost(uint64, tag = "3")]
    max_body: u64,
    #[prost(uint64, optional, tag = "4")]
    poll_ms: Option<u64>,
}

const SCHEMES: [&str; 6] = ["memory", "sled", "sqlite", "postgres", "mysql", "redis"];
const DURABILITIES: [Durability; 4] =
    [Durability::None, Durability::Unknown, Durability::Process, Durability::Power];

impl AbilitiesMessage {
    fn of(abilities: &Abilities) -> Self {
        let Abilities { scheme, durability, sharing: _, max_body, process: _, poll } = abilities;
        Self {
            scheme: (*scheme).to_owned(),
            durability: number(&DURABILITIES, durability),
            max_body: *max_body,
            poll_ms: poll.map(millis),
        }
    }

    /// Returns what the forwarding store can do: through its holder, what that one can.
    pub(super) fn abilities(&self) -> Option<Abilities> {
        Some(Abilities {
            scheme: SCHEMES.into_iter().find(|scheme| *scheme == self.scheme)?,
            durability: variant(&DURABILITIES, self.durability)?,
            sharing: Sharing::Process,
            max_body: self.max_body.min(BODIES as u64),
            process: None,
            poll: self.poll_ms.map(std::time::Duration::from_millis),
        })
    }
}

/// One call.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Call {
    /// Which one; its answer has the same.
    #[prost(uint64, tag = "1")]
    pub(super) number: u64,
    #[prost(oneof = "Asked", tags = "2, 3, 4, 5, 6")]
    pub(super) asked: Option<Asked>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Asked {
    #[prost(message, tag = "2")]
    Get(Place),
    #[prost(message, tag = "3")]
    Commit(BatchMessage),
    #[prost(message, tag = "4")]
    Scan(ScanMessage),
    #[prost(message, tag = "5")]
    Changed(Place),
    #[prost(message, tag = "6")]
    Sync(Nothing),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Nothing {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Place {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(string, tag = "2")]
    key: String,
    /// How long to wait at most, where waiting is asked for.
    #[prost(uint64, tag = "3")]
    pub(super) most_ms: u64,
}

impl Place {
    pub(super) fn new(kind: Kind, key: &RecordKey, most: std::time::Duration) -> Self {
        Self { kind: number(&Kind::ALL, &kind), key: key.to_string(), most_ms: millis(most) }
    }

    pub(super) fn read(&self) -> Option<(Kind, RecordKey)> {
        Some((variant(&Kind::ALL, self.kind)?, RecordKey::parse(&self.key).ok()?))
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct BatchMessage {
    #[prost(message, repeated, tag = "1")]
    writes: Vec<WriteMessage>,
    #[prost(bool, tag = "2")]
    now: bool,
}

#[derive(Clone, PartialEq, Message)]
struct WriteMessage {
    #[prost(message, optional, tag = "1")]
    place: Option<Place>,
    /// What is expected: none, anything; zero, no record; else a revision, plus one.
    #[prost(uint64, optional, tag = "2")]
    expect: Option<u64>,
    /// The record put, as stores without columns keep it.
    #[prost(bytes = "bytes", optional, tag = "3")]
    head: Option<Bytes>,
    /// The new end of a lease.
    #[prost(uint64, optional, tag = "4")]
    lease_until: Option<u64>,
}

impl BatchMessage {
    /// Returns the message of a batch, and its bodies.
    pub(super) fn of(batch: &Batch) -> (Self, Vec<Bytes>) {
        let expected = |expect: &Expect| match expect {
            Expect::Any => None,
            Expect::Absent => Some(0),
            Expect::Revision(revision) => Some(revision.0.saturating_add(1)),
        };
        let place = |kind: &Kind, key: &RecordKey| Some(Place::new(*kind, key, std::time::Duration::ZERO));
        let mut bodies = Vec::new();
        let writes = batch.writes.iter().map(|write| match write {
            Write::Put { record, expect } => {
                bodies.push(record.body.clone());
                WriteMessage {
                    place: place(&record.kind, &record.key),
                    expect: expected(expect),
                    head: Some(codec::encode(record).into()),
                    lease_until: None,
                }
            }
            Write::Renew { kind, key, revision, lease_until } => WriteMessage {
                place: place(kind, key),
                expect: expected(&Expect::Revision(*revision)),
                head: None,
                lease_until: Some(lease_until.0),
            },
            Write::Delete { kind, key, expect } => WriteMessage {
                place: place(kind, key),
                expect: expected(expect),
                head: None,
                lease_until: None,
            },
        });
        let message = Self { writes: writes.collect(), now: batch.sync == Sync::Now };
        (message, bodies)
    }

    /// Returns the batch; none where the message says none.
    pub(super) fn read(&self, mut bodies: Bytes) -> Option<Batch> {
        let writes = self.writes.iter().map(|write| {
            let WriteMessage { place, expect, head, lease_until } = write;
            let (kind, key) = place.as_ref()?.read()?;
            let expect = match expect {
                None => Expect::Any,
                Some(0) => Expect::Absent,
                Some(next) => Expect::Revision(Revision(next - 1)),
            };
            match (head, lease_until) {
                (Some(head), None) => {
                    let record = join(kind, &key, head, &mut bodies)?;
                    Some(Write::Put { record, expect })
                }
                (None, Some(until)) => match expect {
                    Expect::Revision(revision) => {
                        Some(Write::Renew { kind, key, revision, lease_until: Timestamp(*until) })
                    }
                    Expect::Absent | Expect::Any => None,
                },
                (None, None) => Some(Write::Delete { kind, key, expect }),
                (Some(_), Some(_)) => None,
            }
        });
        let writes = writes.collect::<Option<_>>()?;
        bodies.is_empty().then_some(Batch { writes, sync: if self.now { Sync::Now } else { Sync::Later } })
    }
}

/// Returns the record of a head, with its body taken from the front of the bodies.
fn join(kind: Kind, key: &RecordKey, head: &[u8], bodies: &mut Bytes) -> Option<Record> {
    let (record, length) = codec::decode(kind, key, head).ok()?;
    let length = usize::try_from(length).ok().filter(|length| *length <= bodies.len())?;
    // A copy: a slice would keep all of the frame in memory for as long as the record.
    let whole = length == bodies.len();
    let body = bodies.split_to(length);
    Some(Record { body: if whole { body } else { Bytes::copy_from_slice(&body) }, ..record })
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ScanMessage {
    /// The kind whose newest are asked for; none where the expired are.
    #[prost(uint32, optional, tag = "1")]
    kind: Option<u32>,
    #[prost(string, optional, tag = "2")]
    tenant: Option<String>,
    #[prost(string, optional, tag = "3")]
    step: Option<String>,
    #[prost(string, optional, tag = "4")]
    execution: Option<String>,
    #[prost(uint32, optional, tag = "5")]
    status: Option<u32>,
    #[prost(uint64, optional, tag = "6")]
    created_before: Option<u64>,
    #[prost(message, optional, tag = "7")]
    after: Option<CursorMessage>,
    #[prost(uint64, tag = "8")]
    pub(super) limit: u64,
}

#[derive(Clone, PartialEq, Message)]
struct CursorMessage {
    #[prost(uint64, tag = "1")]
    created_at: u64,
    #[prost(string, tag = "2")]
    key: String,
}

impl CursorMessage {
    fn of(cursor: &Cursor) -> Self {
        Self { created_at: cursor.created_at.0, key: cursor.key.to_string() }
    }

    fn read(&self) -> Option<Cursor> {
        Some(Cursor { created_at: Timestamp(self.created_at), key: RecordKey::parse(&self.key).ok()? })
    }
}

impl ScanMessage {
    pub(super) fn of(query: &Query, limit: usize) -> Self {
        let limit = limit as u64;
        match query {
            Query::Expired => Self { limit, ..Self::default() },
            Query::Newest { kind, filter, after } => {
                let Filter { tenant, step, execution, status, created_before } = filter;
                let text = |text: &Option<std::sync::Arc<str>>| text.as_deref().map(str::to_owned);
                Self {
                    kind: Some(number(&Kind::ALL, kind)),
                    tenant: text(tenant),
                    step: text(step),
                    execution: text(execution),
                    status: status.as_ref().map(|status| number(&Status::ALL, status)),
                    created_before: created_before.map(|before| before.0),
                    after: after.as_ref().map(CursorMessage::of),
                    limit,
                }
            }
        }
    }

    /// Returns the query; none where the message says none.
    pub(super) fn read(&self) -> Option<Query> {
        let Some(kind) = self.kind else { return Some(Query::Expired) };
        let text = |text: &Option<String>| text.as_deref().map(Into::into);
        let status = match self.status {
            None => None,
            Some(status) => Some(variant(&Status::ALL, status)?),
        };
        let after = match &self.after {
            None => None,
            Some(cursor) => Some(cursor.read()?),
        };
        let filter = Filter {
            tenant: text(&self.tenant),
            step: text(&self.step),
            execution: text(&self.execution),
            status,
            created_before: self.created_before.map(Timestamp),
        };
        Some(Query::Newest { kind: variant(&Kind::ALL, kind)?, filter, after })
    }
}

/// One answer.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Answer {
    /// Of which call.
    #[prost(uint64, tag = "1")]
    pub(super) number: u64,
    #[prost(oneof = "Told", tags = "2, 3, 4, 5")]
    pub(super) told: Option<Told>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Told {
    #[prost(message, tag = "2")]
    Failed(Failure),
    #[prost(message, tag = "3")]
    Done(Nothing),
    /// What a get found: one record or none.
    #[prost(message, tag = "4")]
    Found(Records),
    #[prost(message, tag = "5")]
    Listed(Records),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Failure {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(string, tag = "2")]
    message: String,
}

/// The number is what is on the wire: it stays what it is.
const ERRORS: [StoreErrorKind; 8] = [
    StoreErrorKind::Conflict,
    StoreErrorKind::Unavailable,
    StoreErrorKind::Unknown,
    StoreErrorKind::TooLarge,
    StoreErrorKind::InUse,
    StoreErrorKind::Corrupt,
    StoreErrorKind::Unusable,
    StoreErrorKind::Poisoned,
];

impl Failure {
    pub(super) fn of(error: &StoreError) -> Self {
        Self { kind: number(&ERRORS, &error.kind()), message: error.to_string() }
    }

    pub(super) fn read(self) -> StoreError {
        let kind = variant(&ERRORS, self.kind).unwrap_or(StoreErrorKind::Unknown);
        StoreError::new(kind, self.message)
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Records {
    #[prost(message, repeated, tag = "1")]
    records: Vec<RecordMessage>,
    #[prost(message, optional, tag = "2")]
    next: Option<CursorMessage>,
    #[prost(uint64, tag = "3")]
    now: u64,
}

#[derive(Clone, PartialEq, Message)]
struct RecordMessage {
    #[prost(message, optional, tag = "1")]
    place: Option<Place>,
    #[prost(bytes = "bytes", tag = "2")]
    head: Bytes,
}

impl Records {
    pub(super) fn found(found: Found) -> (Self, Vec<Bytes>) {
        let records: Vec<Record> = found.record.into_iter().collect();
        let bodies = records.iter().map(|record| record.body.clone()).collect();
        (Self::of(&records, None, found.now), bodies)
    }

    pub(super) fn page(page: &Page) -> Self {
        Self::of(&page.records, page.next.as_ref(), page.now)
    }

    fn of(records: &[Record], next: Option<&Cursor>, now: Timestamp) -> Self {
        let records = records.iter().map(|record| RecordMessage {
            place: Some(Place::new(record.kind, &record.key, std::time::Duration::ZERO)),
            head: codec::encode(record).into(),
        });
        Self { records: records.collect(), next: next.map(CursorMessage::of), now: now.0 }
    }

    /// Returns the page; none where the message says none.
    pub(super) fn read(&self, mut bodies: Bytes) -> Option<Page> {
        let records = self.records.iter().map(|record| {
            let (kind, key) = record.place.as_ref()?.read()?;
            join(kind, &key, &record.head, &mut bodies)
        });
        let records = records.collect::<Option<_>>()?;
        let next = match &self.next {
            None => None,
            Some(cursor) => Some(cursor.read()?),
        };
        Some(Page { records, next, now: Timestamp(self.now) })
    }
}

/// Returns the number of a variant: its place, from 1, as 0 is what is left out.
fn number<T: PartialEq>(all: &[T], one: &T) -> u32 {
    let place = all.iter().position(|known| known == one).expect("every variant is listed");
    u32::try_from(place + 1).expect("there are few variants")
}

fn variant<T: Copy>(all: &[T], number: u32) -> Option<T> {
    all.get((number as usize).checked_sub(1)?).copied()
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
