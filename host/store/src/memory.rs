//! Owns a store in this process's memory: for tests, for trying things, and as the plainest reading
//! of what [`Store`] promises. Keeps nothing when the process ends.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use crate::changes::Changes;
use crate::clock::{Clock, SystemClock};
use crate::error::{StoreError, StoreErrorKind};
use crate::record::{Kind, Record, RecordKey, Revision, Status};
use crate::store::{
    Abilities, Batch, Cursor, Durability, Expect, Filter, Found, Page, Query, Sharing, Store, Write,
};

/// The largest body of a record here, in bytes: what a host takes as an answer at most.
const MAX_BODY: u64 = 1 << 30;

type Records = BTreeMap<(Kind, RecordKey), Record>;

/// A store in memory. Clones share everything.
#[derive(Clone)]
pub struct MemoryStore(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    records: Mutex<Records>,
    changes: Changes,
    closed: AtomicBool,
}

impl MemoryStore {
    /// Returns an empty store on the machine's clock.
    pub fn new() -> Self {
        Self::on(Arc::new(SystemClock))
    }

    /// Returns an empty store on this clock.
    pub fn on(clock: Arc<dyn Clock>) -> Self {
        let (records, changes, closed) = (Mutex::default(), Changes::new(), AtomicBool::new(false));
        Self(Arc::new(Inner { clock, records, changes, closed }))
    }

    fn records(&self) -> Result<MutexGuard<'_, Records>, StoreError> {
        if self.0.closed.load(Ordering::Relaxed) {
            return Err(StoreError::new(StoreErrorKind::Unavailable, "the store is closed"));
        }
        Ok(self.0.records.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn abilities(&self) -> Abilities {
        Abilities {
            scheme: "memory",
            durability: Durability::None,
            sharing: Sharing::Process,
            max_body: MAX_BODY,
            process: None,
            poll: None,
        }
    }

    async fn get(&self, kind: Kind, key: &RecordKey) -> Result<Found, StoreError> {
        let record = self.records()?.get(&(kind, key.clone())).cloned();
        Ok(Found { record, now: self.0.clock.now() })
    }

    async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let mut records = self.records()?;
        for write in &batch.writes {
            check(&records, write)?;
        }
        self.0.changes.tell(&batch);
        for write in batch.writes {
            apply(&mut records, write);
        }
        Ok(())
    }

    async fn scan(&self, query: &Query, limit: usize) -> Result<Page, StoreError> {
        let now = self.0.clock.now();
        let records = self.records()?;
        let mut found: Vec<&Record> = match query {
            Query::Newest { kind, filter, after } => newest(&records, *kind, filter, after.as_ref()),
            Query::Expired => {
                let mut found: Vec<_> =
                    records.values().filter(|record| record.facts.is_expired(now)).collect();
                found.sort_by_key(|record| record.facts.expires_at);
                found
            }
        };
        let more = found.len() > limit;
        found.truncate(limit);
        let next = match (query, found.last()) {
            (Query::Newest { .. }, Some(last)) if more => {
                Some(Cursor { created_at: last.facts.created_at, key: last.key.clone() })
            }
            _ => None,
        };
        let records = found.into_iter().map(|record| Record { body: bytes::Bytes::new(), ..record.clone() });
        Ok(Page { records: records.collect(), next, now })
    }

    async fn changed(&self, kind: Kind, key: &RecordKey, most: Duration) {
        self.0.changes.wait(kind, key, most).await;
    }

    async fn sync(&self) -> Result<(), StoreError> {
        self.records().map(drop)
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.0.closed.store(true, Ordering::Relaxed);
        Ok(())
    }
}

fn check(records: &Records, write: &Write) -> Result<(), StoreError> {
    let (kind, key, met) = match write {
        Write::Put { record, expect } => {
            if record.body.len() as u64 > MAX_BODY {
                let message = format!(
                    "the {} `{}` has {} bytes, and the store takes {MAX_BODY}",
                    record.kind.as_str(),
                    record.key,
                    record.body.len()
                );
                return Err(StoreError::new(StoreErrorKind::TooLarge, message));
            }
            let found = records.get(&(record.kind, record.key.clone()));
            (record.kind, &record.key, meets(found, *expect))
        }
        Write::Renew { kind, key, revision, .. } => {
            let found = records.get(&(*kind, key.clone()));
            let running = found.is_some_and(|found| found.facts.status == Status::Running);
            (*kind, key, running && meets(found, Expect::Revision(*revision)))
        }
        Write::Delete { kind, key, expect } => {
            (*kind, key, meets(records.get(&(*kind, key.clone())), *expect))
        }
    };
    if met { Ok(()) } else { Err(StoreError::conflict(format_args!("{}/{key}", kind.as_str()))) }
}

fn meets(found: Option<&Record>, expect: Expect) -> bool {
    let revision: Option<Revision> = found.map(|record| record.revision);
    match expect {
        Expect::Absent => revision.is_none(),
        Expect::Revision(expected) => revision == Some(expected),
        Expect::Any => true,
    }
}

fn apply(records: &mut Records, write: Write) {
    match write {
        Write::Put { record, .. } => {
            records.insert((record.kind, record.key.clone()), record);
        }
        Write::Renew { kind, key, lease_until, .. } => {
            let record = records.get_mut(&(kind, key)).expect("checked under the same lock");
            record.facts.lease_until = Some(lease_until);
        }
        Write::Delete { kind, key, .. } => {
            records.remove(&(kind, key));
        }
    }
}

fn newest<'a>(records: &'a Records, kind: Kind, filter: &Filter, after: Option<&Cursor>) -> Vec<&'a Record> {
    let order = |record: &Record| (std::cmp::Reverse(record.facts.created_at), record.key.clone());
    let behind = |record: &Record| {
        after.is_none_or(|after| order(record) > (std::cmp::Reverse(after.created_at), after.key.clone()))
    };
    let of_kind = records.values().filter(|record| record.kind == kind);
    let mut found: Vec<_> = of_kind.filter(|record| filter.fits(record) && behind(record)).collect();
    found.sort_by_key(|record| order(record));
    found
}
