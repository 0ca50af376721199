//! Owns what may be removed, and removes it: results that have expired, executions whose retention is
//! over with all that is theirs, modules that no execution needs. Never touches what somebody is at,
//! nor what an execution that can still be resumed has kept.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde::Deserialize;

use crate::claims::is_held;
use crate::clock::Timestamp;
use crate::error::{StoreError, StoreErrorKind};
use crate::journal::{execution_key, list};
use crate::record::{Kind, Record, RecordKey, Scope, Status};
use crate::store::{Batch, Expect, Filter, Query, Store, Sync, Write};

/// How many records are looked at, and removed, at a time.
const SLICE: usize = 500;

/// For how long a module is kept after it was last asked for, needed or not: an execution that was
/// just about to be recorded may count on it.
pub(crate) const MODULE_GRACE: Duration = Duration::from_secs(24 * 3600);

/// What a purge has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Purged {
    /// Results, and notes of failed or abandoned work.
    pub results: u64,
    /// Executions, with the notes of their steps.
    pub executions: u64,
    /// Modules.
    pub modules: u64,
}

/// What a purge needs of an execution's detail.
#[derive(Deserialize)]
struct ExecutionDetail {
    #[serde(default)]
    modules: Vec<String>,
}

/// Removes everything that has expired and nobody needs. Safe beside running hosts, and from several
/// processes at once.
///
/// # Errors
/// Where the store cannot be read or written; what was removed until then is gone.
pub async fn purge(store: &dyn Store) -> Result<Purged, StoreError> {
    let mut purged = purge_expired(store, u64::MAX).await?;
    purged.modules = unneeded_modules(store).await?;
    Ok(purged)
}

/// Removes what has expired and nobody needs, but no modules; at most about `most` records. Where
/// nothing has expired, this is one short listing.
///
/// # Errors
/// As [`purge`].
pub async fn purge_expired(store: &dyn Store, most: u64) -> Result<Purged, StoreError> {
    let mut purged = Purged::default();
    let mut purge = Purge { store, unfinished: HashMap::new(), spared: HashSet::new() };
    loop {
        let page = store.scan(&Query::Expired, SLICE + purge.spared.len()).await?;
        let fresh: Vec<Record> = page
            .records
            .into_iter()
            .filter(|record| !purge.spared.contains(&(record.kind, record.key.clone())))
            .collect();
        if fresh.is_empty() || purged.results + purged.executions >= most {
            break;
        }
        for record in fresh {
            if purge.is_needed(&record, page.now).await? {
                purge.spared.insert((record.kind, record.key));
                continue;
            }
            if record.kind == Kind::Execution {
                purged.results += purge.remove_results(&record).await?;
            }
            let removed = purge.remove(&record).await?;
            match record.kind {
                Kind::Result => purged.results += u64::from(removed),
                Kind::Execution => purged.executions += u64::from(removed),
                Kind::Step | Kind::Module => {}
            }
            if !removed {
                // Somebody is at it after all; not looked at again, so that this comes to an end.
                purge.spared.insert((record.kind, record.key));
            }
        }
    }
    Ok(purged)
}

/// Removes one execution that nobody carries out, with all that is its own, whatever its retention.
/// Returns whether there was one.
///
/// # Errors
/// `Conflict` where somebody carries it out; others where the store cannot be read or written.
pub async fn remove_execution(store: &dyn Store, tenant: &str, id: &str) -> Result<bool, StoreError> {
    let found = store.get(Kind::Execution, &execution_key(tenant, id)).await?;
    let Some(record) = found.record else { return Ok(false) };
    if is_held(&record.facts, found.now, store) {
        let message = format!("execution `{id}` is under way; cancel it first");
        return Err(StoreError::new(StoreErrorKind::Conflict, message));
    }
    let purge = Purge { store, unfinished: HashMap::new(), spared: HashSet::new() };
    purge.remove_results(&record).await?;
    purge.remove(&record).await
}

struct Purge<'a> {
    store: &'a dyn Store,
    /// By execution key: whether it can still be resumed.
    unfinished: HashMap<RecordKey, bool>,
    /// What has expired and stays.
    spared: HashSet<(Kind, RecordKey)>,
}

impl Purge<'_> {
    /// Returns whether somebody is at the record, or an execution counts on it.
    async fn is_needed(&mut self, record: &Record, now: Timestamp) -> Result<bool, StoreError> {
        if is_held(&record.facts, now, self.store) {
            return Ok(true);
        }
        let Some(execution) = &record.facts.execution else { return Ok(false) };
        if record.kind != Kind::Result {
            return Ok(false);
        }
        let key = execution_key(&record.facts.tenant, execution);
        if let Some(unfinished) = self.unfinished.get(&key) {
            return Ok(*unfinished);
        }
        // Whoever resumes it needs what it has kept, and how many attempts it has begun.
        let found = self.store.get(Kind::Execution, &key).await?.record;
        let resumable = |found: Record| found.facts.status != Status::Done && !found.facts.is_expired(now);
        let unfinished = found.is_some_and(resumable);
        self.unfinished.insert(key, unfinished);
        Ok(unfinished)
    }

    /// Removes what belongs to an execution alone; returns how many results that were.
    async fn remove_results(&self, execution: &Record) -> Result<u64, StoreError> {
        let filter = Filter {
            tenant: Some(execution.facts.tenant.clone()),
            execution: execution.facts.execution.clone(),
            ..Filter::default()
        };
        let mut removed = 0;
        for result in list(self.store, Kind::Result, filter.clone()).await? {
            if result.facts.scope == Some(Scope::Workflow) {
                removed += u64::from(self.remove(&result).await?);
            }
        }
        for step in list(self.store, Kind::Step, filter).await? {
            self.remove(&step).await?;
        }
        Ok(removed)
    }

    /// Removes a record as it was listed; returns false where it has changed since.
    async fn remove(&self, record: &Record) -> Result<bool, StoreError> {
        remove(self.store, record).await
    }
}

async fn remove(store: &dyn Store, record: &Record) -> Result<bool, StoreError> {
    let expect = Expect::Revision(record.revision);
    let writes = vec![Write::Delete { kind: record.kind, key: record.key.clone(), expect }];
    match store.commit(Batch { writes, sync: Sync::Later }).await {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == StoreErrorKind::Conflict => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the modules that no recorded execution was begun with; returns how many.
async fn unneeded_modules(store: &dyn Store) -> Result<u64, StoreError> {
    let old =
        store.scan(&Query::Newest { kind: Kind::Module, filter: Filter::default(), after: None }, 1).await?;
    let before = Timestamp(old.now.0.saturating_sub(MODULE_GRACE.as_millis() as u64));
    let filter = Filter { created_before: Some(before), ..Filter::default() };
    // The last piece is written first and the first one is the newest, so a module whose first piece is
    // old is old.
    let pieces = list(store, Kind::Module, filter).await?;
    if pieces.is_empty() {
        return Ok(0);
    }
    let executions = list(store, Kind::Execution, Filter::default()).await?;
    let needed: HashSet<String> = executions
        .iter()
        .filter_map(|record| serde_json::from_str::<ExecutionDetail>(record.facts.detail.as_deref()?).ok())
        .flat_map(|detail| detail.modules)
        .collect();
    let is_first = |piece: &&Record| piece.key.as_str().ends_with("/0");
    let unneeded = |digest: &str| !needed.contains(digest);
    let old: HashSet<&str> = pieces
        .iter()
        .filter(is_first)
        .filter_map(|piece| piece.facts.module.as_deref())
        .filter(|digest| unneeded(digest))
        .collect();
    let mut removed = 0;
    // First pieces first: without it a module counts as not kept.
    let of_old = |piece: &&Record| piece.facts.module.as_deref().is_some_and(|digest| old.contains(digest));
    for piece in pieces.iter().filter(is_first).filter(of_old) {
        removed += u64::from(remove(store, piece).await?);
    }
    for piece in pieces.iter().filter(|piece| !is_first(piece)).filter(of_old) {
        remove(store, piece).await?;
    }
    Ok(removed)
}
