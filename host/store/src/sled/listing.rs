//! Owns listings of a tree. Never reads a body.

use std::sync::PoisonError;

use crate::clock::Timestamp;
use crate::error::StoreError;
use crate::record::{Kind, Record};
use crate::store::{Cursor, Filter, Page, Query};

use super::common::Common;
use super::layout::{Created, CreatedEntry, EXPIRING, created_entry, read_created, read_expiring, step_mark};
use super::{content, damaged_list, lists};

/// How many entries of a list are read at once: while they are, nobody writes.
const AT_ONCE: usize = 512;

/// Returns what the query finds.
pub(super) fn scan(
    tree: &sled::Tree,
    common: &Common,
    query: &Query,
    limit: usize,
    now: Timestamp,
) -> Result<Page, StoreError> {
    let (records, next) = match query {
        Query::Newest { kind, filter, after } => newest(tree, common, *kind, filter, after.as_ref(), limit)?,
        Query::Expired => (expired(tree, common, limit, now)?, None),
    };
    Ok(Page { records, next, now })
}

fn newest(
    tree: &sled::Tree,
    common: &Common,
    kind: Kind,
    filter: &Filter,
    after: Option<&Cursor>,
    limit: usize,
) -> Result<(Vec<Record>, Option<Cursor>), StoreError> {
    let Created { list, beginning } = Created::of(kind, filter.execution.as_deref());
    let wanted = filter.step.as_deref().filter(|_| filter.execution.is_none()).map(step_mark);
    let from_cursor = after.map(|after| created_entry(after.created_at, &after.key));
    let from_time = filter.created_before.map(|before| before.0.to_be_bytes().to_vec());
    let mut end = match (from_cursor, from_time) {
        (Some(cursor), Some(time)) => Some(cursor.min(time)),
        (cursor, time) => cursor.or(time),
    };
    let mut records: Vec<Record> = Vec::new();
    if !beginning.is_empty() {
        // What begins like the others and ends like none: their times are far below this one.
        let end_of_all = || vec![u8::MAX; 8];
        end = Some([beginning.as_slice(), &end.unwrap_or_else(end_of_all)].concat());
    }
    loop {
        // Of a step's there may be few among all.
        let count = if wanted.is_some() { AT_ONCE } else { AT_ONCE.min(limit.saturating_add(1)) };
        let entries = {
            let _lists = common.lists.read().unwrap_or_else(PoisonError::into_inner);
            lists::backwards(tree, &list, end.as_deref(), count)?
        };
        let Some(last) = entries.last() else { return Ok((records, None)) };
        for entry in &entries {
            let Some(created) = entry.strip_prefix(beginning.as_slice()) else { return Ok((records, None)) };
            let CreatedEntry { created_at, key, step } =
                read_created(created).ok_or_else(|| damaged_list(&list))?;
            if wanted.is_some() && step != wanted {
                continue;
            }
            // The record may have been removed or moved since the list was read.
            let record = content::read_head(tree, kind, &key)?;
            let Some(record) = record.filter(|record| record.facts.created_at == created_at) else {
                continue;
            };
            if !filter.fits(&record) {
                continue;
            }
            if records.len() == limit {
                let next = records
                    .last()
                    .map(|last| Cursor { created_at: last.facts.created_at, key: last.key.clone() });
                return Ok((records, next));
            }
            records.push(record);
        }
        end = Some(last.clone());
    }
}

fn expired(
    tree: &sled::Tree,
    common: &Common,
    limit: usize,
    now: Timestamp,
) -> Result<Vec<Record>, StoreError> {
    let end = now.0.saturating_add(1).to_be_bytes();
    let mut start: Option<Vec<u8>> = None;
    let mut records = Vec::new();
    while records.len() < limit {
        let entries = {
            let _lists = common.lists.read().unwrap_or_else(PoisonError::into_inner);
            lists::forwards(tree, EXPIRING, start.as_deref(), &end, AT_ONCE.min(limit))?
        };
        let Some(last) = entries.last() else { break };
        for entry in &entries {
            let (expires_at, kind, key) = read_expiring(entry).ok_or_else(|| damaged_list(EXPIRING))?;
            let record = content::read_head(tree, kind, &key)?;
            let record = record.filter(|record| record.facts.expires_at == Some(expires_at));
            records.extend(record);
            if records.len() == limit {
                break;
            }
        }
        start = Some(last.clone());
    }
    Ok(records)
}
