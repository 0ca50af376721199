//! Owns the moving of a store's records: to another store, to lines of JSON and back, and the look at
//! whether all of them can be read. Holds a page of facts and one batch of bodies in memory, never a
//! store. Not a snapshot: what others write meanwhile may be missed, so nobody should.
//!
//! Claims do not move: their holders stay behind. A running execution arrives as interrupted, so that it
//! can be resumed, and anything else that is running as released; revisions stay, so that old holders
//! are refused in the new place too.

mod lines;

use std::fmt;

use crate::error::{StoreError, StoreErrorKind};
use crate::record::{Kind, Record, RecordKey, Status};
use crate::store::{Batch, Expect, Filter, Query, Store, Sync, Write};

pub use lines::{export, import};

/// How many records are listed at a time.
const PAGE: usize = 256;

/// How many records one batch writes, and how many bytes of bodies, unless one alone is larger.
const BATCH: usize = 128;
const BATCH_BYTES: usize = 8 << 20;

/// What was moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Records that were written.
    pub records: u64,
    /// Records that were there already, the same.
    pub already: u64,
    /// Of both, those that were running, and arrived without a holder.
    pub released: u64,
    /// The bytes of the bodies of both.
    pub body_bytes: u64,
}

/// Why records were not moved. What was moved before stays, and moving again goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The lines cannot be read or written.
    #[error("the export cannot be {done}: {error}")]
    Io {
        /// What was being done: `read` or `written`.
        done: &'static str,
        /// How that failed.
        error: std::io::Error,
    },
    /// A line is none of an export.
    #[error("line {number} is none of an export: {why}")]
    Line {
        /// Which, from 1.
        number: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The lines end before their end.
    #[error("the export is cut short: it ends after {records} records, without its last line")]
    CutShort {
        /// How many records were read.
        records: u64,
    },
    /// The target has another record in the place.
    #[error("the target has another {} under `{key}`: move to an empty store", kind.as_str())]
    Differs {
        /// The record's kind.
        kind: Kind,
        /// Its key.
        key: RecordKey,
    },
    /// The target has a record that the source has not.
    #[error("the target has the {} `{key}`, which the source has not: move to an empty store", kind.as_str())]
    Foreign {
        /// The record's kind.
        kind: Kind,
        /// Its key.
        key: RecordKey,
    },
}

/// Copies every record of one store to another, which must be empty, or hold nothing but what an
/// earlier call has copied: then this goes on from there. Once this returns `Ok`, what was copied is as
/// safe as the target makes it.
///
/// # Errors
/// Where a store fails, or the target has a record of its own.
pub async fn migrate(from: &dyn Store, to: &dyn Store) -> Result<Moved, TransferError> {
    for kind in Kind::ALL {
        let mut listing = Listing::of(kind);
        while let Some(page) = listing.next(to).await? {
            for there in page {
                check_same(from, to, &there).await?;
            }
        }
    }
    let mut arrivals = Arrivals::new(to);
    for kind in Kind::ALL {
        let mut listing = Listing::of(kind);
        while let Some(page) = listing.next(from).await? {
            for listed in page {
                // It may have been removed since it was listed.
                if let Some(record) = from.get(kind, &listed.key).await?.record {
                    arrivals.add(record).await?;
                }
            }
        }
    }
    arrivals.finish().await
}

/// Something that is wrong with a record, or with a whole kind where its listing fails.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Damage {
    /// The record's kind.
    pub kind: Kind,
    /// Its key; none where the listing of the kind is wrong.
    pub key: Option<RecordKey>,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, key, message } = self;
        match key {
            Some(key) => write!(f, "{}/{key}: {message}", kind.as_str()),
            None => write!(f, "{}: {message}", kind.as_str()),
        }
    }
}

/// Reads every record with its body, and returns all that is wrong, sorted: what cannot be read, what
/// is listed otherwise than it is, and details that are no JSON object.
///
/// # Errors
/// Where the store cannot be asked at all.
pub async fn check(store: &dyn Store) -> Result<Vec<Damage>, StoreError> {
    let mut damages = Vec::new();
    for kind in Kind::ALL {
        let mut listing = Listing::of(kind);
        loop {
            let page = match listing.next(store).await {
                Ok(Some(page)) => page,
                Ok(None) => break,
                Err(error) if error.kind() == StoreErrorKind::Corrupt => {
                    damages.push(Damage { kind, key: None, message: error.to_string() });
                    break;
                }
                Err(error) => return Err(error),
            };
            for listed in page {
                if let Some(message) = damage_of(store, &listed).await? {
                    damages.push(Damage { kind, key: Some(listed.key), message });
                }
            }
        }
    }
    damages.sort();
    Ok(damages)
}

/// Returns what is wrong with a listed record.
async fn damage_of(store: &dyn Store, listed: &Record) -> Result<Option<String>, StoreError> {
    let found = match store.get(listed.kind, &listed.key).await {
        Ok(found) => found.record,
        Err(error) if error.kind() == StoreErrorKind::Corrupt => return Ok(Some(error.to_string())),
        Err(error) => return Err(error),
    };
    // Removed or written anew since it was listed: that is no damage.
    let Some(record) = found.filter(|record| record.revision == listed.revision) else {
        return Ok(None);
    };
    // A lease may be renewed at any time.
    let lease_until = record.facts.lease_until;
    let mut listed = listed.facts.clone();
    listed.lease_until = lease_until;
    if listed != record.facts {
        return Ok(Some("it is listed otherwise than it is".to_owned()));
    }
    let Some(detail) = record.facts.detail.as_deref() else { return Ok(None) };
    let object = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(detail);
    Ok(object.err().map(|error| format!("its detail is no JSON object: {error}")))
}

/// The records of one kind, page by page, without their bodies.
struct Listing {
    query: Option<Query>,
}

impl Listing {
    fn of(kind: Kind) -> Self {
        Self { query: Some(Query::Newest { kind, filter: Filter::default(), after: None }) }
    }

    /// Returns the next page; none at the end.
    async fn next(&mut self, store: &dyn Store) -> Result<Option<Vec<Record>>, StoreError> {
        let Some(query) = &mut self.query else { return Ok(None) };
        let page = store.scan(query, PAGE).await?;
        match (query, page.next) {
            (Query::Newest { after, .. }, Some(next)) => *after = Some(next),
            (Query::Newest { .. } | Query::Expired, _) => self.query = None,
        }
        Ok(Some(page.records))
    }
}

/// Checks that a record that is listed in the target is the one of the source, as it arrives.
async fn check_same(from: &dyn Store, to: &dyn Store, listed: &Record) -> Result<(), TransferError> {
    let (kind, key) = (listed.kind, listed.key.clone());
    let Some(source) = from.get(kind, &key).await?.record else {
        return Err(TransferError::Foreign { kind, key });
    };
    let there = to.get(kind, &key).await?.record;
    let (source, _) = without_holder(source);
    match there {
        Some(there) if there != source => Err(TransferError::Differs { kind, key }),
        // Without one, it has been removed since.
        Some(_) | None => Ok(()),
    }
}

/// What is on its way into a store.
struct Arrivals<'a> {
    to: &'a dyn Store,
    waiting: Vec<Record>,
    waiting_bytes: usize,
    moved: Moved,
}

impl<'a> Arrivals<'a> {
    fn new(to: &'a dyn Store) -> Self {
        Self { to, waiting: Vec::new(), waiting_bytes: 0, moved: Moved::default() }
    }

    async fn add(&mut self, record: Record) -> Result<(), TransferError> {
        let (record, released) = without_holder(record);
        self.moved.released += u64::from(released);
        self.moved.body_bytes += record.body.len() as u64;
        // A batch names no record twice, whatever a listing or a file does.
        let twice =
            self.waiting.iter().any(|waiting| (waiting.kind, &waiting.key) == (record.kind, &record.key));
        if twice || self.waiting.len() >= BATCH || self.waiting_bytes + record.body.len() > BATCH_BYTES {
            self.write().await?;
        }
        self.waiting_bytes += record.body.len();
        self.waiting.push(record);
        Ok(())
    }

    async fn finish(mut self) -> Result<Moved, TransferError> {
        self.write().await?;
        self.to.sync().await?;
        Ok(self.moved)
    }

    async fn write(&mut self) -> Result<(), TransferError> {
        let records = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        if records.is_empty() {
            return Ok(());
        }
        let count = records.len() as u64;
        match put(self.to, &records).await {
            Ok(()) => {
                self.moved.records += count;
                return Ok(());
            }
            Err(error) if is_doubtful(&error) => {}
            Err(error) => return Err(error.into()),
        }
        // Some are there already, or all of them after a lost answer: one by one.
        for record in records {
            match put(self.to, std::slice::from_ref(&record)).await {
                Ok(()) => self.moved.records += 1,
                Err(error) if is_doubtful(&error) => {
                    match self.to.get(record.kind, &record.key).await?.record {
                        Some(there) if there == record => self.moved.already += 1,
                        Some(_) => {
                            return Err(TransferError::Differs { kind: record.kind, key: record.key });
                        }
                        None => return Err(error.into()),
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

async fn put(to: &dyn Store, records: &[Record]) -> Result<(), StoreError> {
    let put = |record: &Record| Write::Put { record: record.clone(), expect: Expect::Absent };
    to.commit(Batch { writes: records.iter().map(put).collect(), sync: Sync::Later }).await
}

/// Returns whether a look must tell what there is.
fn is_doubtful(error: &StoreError) -> bool {
    matches!(error.kind(), StoreErrorKind::Conflict | StoreErrorKind::Unknown)
}

/// Returns the record as it arrives, and whether it has lost a holder on the way.
fn without_holder(mut record: Record) -> (Record, bool) {
    let running = record.facts.status == Status::Running;
    if running {
        record.facts.status = match record.kind {
            Kind::Execution => Status::Interrupted,
            Kind::Result | Kind::Step | Kind::Module => Status::Released,
        };
        record.facts.owner = None;
        record.facts.lease_until = None;
    }
    (record, running)
}
