//! Owns reading and writing on one open connection. Never decides when a transaction begins or ends.

use super::columns::{self, Body};
use super::dialect::{Reading, Statements};
use super::fault::{Moment, Site};
use super::session::{Row as _, Session, Value};
use crate::clock::Timestamp;
use crate::error::StoreError;
use crate::record::{Facts, Kind, Record, RecordKey, Revision, Status};
use crate::store::{Batch, Cursor, Expect, Filter, Found, Page, Query, Write};

/// Why something was not read or written.
pub(super) enum Fault {
    /// The database's error.
    Sql(sqlx::Error),
    /// Another.
    Store(StoreError),
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Fault {
    /// Returns the store's error.
    pub(super) fn into_error(self, site: &Site, moment: Moment) -> StoreError {
        match self {
            Self::Sql(error) => site.error(&error, moment),
            Self::Store(error) => error,
        }
    }
}

/// Reads a record and the time, in one statement.
pub(super) async fn get<S: Session>(
    session: &mut S,
    statements: &Statements,
    kind: Kind,
    key: &RecordKey,
) -> Result<Found, Fault> {
    let rows = session.rows(&statements.get, columns::key_values(kind, key).into()).await?;
    let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let now = row.number(columns::COUNT)?.ok_or(sqlx::Error::RowNotFound)?;
    let there = row.number(columns::REVISION)?.is_some();
    let record = there.then(|| columns::record(row, Body::Read)).transpose()?;
    Ok(Found { record, now: columns::unsigned(now) })
}

/// Lists records.
pub(super) async fn scan<S: Session>(
    session: &mut S,
    statements: &Statements,
    query: &Query,
    limit: usize,
) -> Result<Page, Fault> {
    let now = now(session, statements).await?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = match query {
        Query::Newest { kind, filter, after } => {
            // One more than asked for tells whether there is a next page.
            let most = limit.saturating_add(1);
            let values = newest_values(*kind, filter, after.as_ref(), most);
            session.rows(&statements.newest(filter, after.is_some()), values).await?
        }
        Query::Expired => {
            let values = vec![columns::time_value(now), Value::Number(Some(limit))];
            session.rows(&statements.expired, values).await?
        }
    };
    let mut records = Vec::with_capacity(rows.len());
    for row in &rows {
        records.push(columns::record(row, Body::LeftOut)?);
    }
    let mut next = None;
    if let Query::Newest { filter, .. } = query {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        if records.len() > limit {
            records.truncate(limit);
            next = records
                .last()
                .map(|last| Cursor { created_at: last.facts.created_at, key: last.key.clone() });
        }
        // MySQL takes texts that differ in spaces at their end for the same.
        records.retain(|record| filter.fits(record));
    }
    Ok(Page { records, next, now })
}

/// Reads the database's time.
pub(super) async fn now<S: Session>(session: &mut S, statements: &Statements) -> Result<Timestamp, Fault> {
    let rows = session.rows(&statements.now, Vec::new()).await?;
    let now = rows.first().ok_or(sqlx::Error::RowNotFound)?.number(0)?.ok_or(sqlx::Error::RowNotFound)?;
    Ok(columns::unsigned(now))
}

fn newest_values(kind: Kind, filter: &Filter, after: Option<&Cursor>, most: i64) -> Vec<Value> {
    let Filter { tenant, step, execution, status: _, created_before } = filter;
    let names = [tenant, step, execution].into_iter().flatten();
    let mut values = vec![columns::word(kind.as_str())];
    values.extend(names.map(|name| columns::text(Some(name))));
    values.extend(created_before.map(columns::time_value));
    if let Some(Cursor { created_at, key }) = after {
        let at = columns::time_value(*created_at);
        values.extend([at.clone(), at, columns::word(key.as_str())]);
    }
    values.push(Value::Number(Some(most)));
    values
}

/// Returns the batch with its writes in the order of their keys, the same for every writer, so that two
/// batches wait for each other in a row and not in a circle.
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(super) fn in_order(mut batch: Batch) -> Batch {
    batch.writes.sort_by(|one, other| place(one).cmp(&place(other)));
    batch
}

fn place(write: &Write) -> (Kind, &RecordKey) {
    match write {
        Write::Put { record, .. } => (record.kind, &record.key),
        Write::Renew { kind, key, .. } | Write::Delete { kind, key, .. } => (*kind, key),
    }
}

/// Returns whether the batch is one statement, which needs no transaction around it.
pub(super) fn is_one_statement(batch: &Batch) -> bool {
    match batch.writes.as_slice() {
        [Write::Delete { expect, .. }] => *expect != Expect::Absent,
        writes => writes.len() == 1,
    }
}

/// Does one write.
pub(super) async fn write<S: Session>(
    session: &mut S,
    site: &Site,
    statements: &Statements,
    write: &Write,
) -> Result<(), Fault> {
    let done = match write {
        Write::Put { record, expect } => put(session, statements, record, *expect).await,
        Write::Renew { kind, key, revision, lease_until } => {
            let mut values = vec![columns::time_value(*lease_until)];
            values.extend(columns::key_values(*kind, key));
            values.push(columns::revision_value(*revision));
            session.execute(&statements.renew, values).await
        }
        Write::Delete { kind, key, expect } => delete(session, statements, *kind, key, *expect).await,
    };
    let met = match done {
        Ok(records) => records > 0,
        Err(error) if site.reading(&error) == Some(Reading::There) => false,
        Err(error) => return Err(error.into()),
    };
    if met {
        return Ok(());
    }
    let (kind, key) = place(write);
    Err(StoreError::conflict(format_args!("{}/{key}", kind.as_str())).into())
}

async fn put<S: Session>(
    session: &mut S,
    statements: &Statements,
    record: &Record,
    expect: Expect,
) -> Result<u64, sqlx::Error> {
    let (key, facts) = (columns::key_values(record.kind, &record.key), columns::fact_values(record));
    match expect {
        Expect::Absent => session.execute(&statements.insert, key.into_iter().chain(facts).collect()).await,
        // MySQL counts a record that was replaced twice.
        Expect::Any => session.execute(&statements.replace, key.into_iter().chain(facts).collect()).await,
        Expect::Revision(old) => {
            let values = facts.into_iter().chain(key).chain([columns::revision_value(old)]);
            session.execute(&statements.update, values.collect()).await
        }
    }
}

async fn delete<S: Session>(
    session: &mut S,
    statements: &Statements,
    kind: Kind,
    key: &RecordKey,
    expect: Expect,
) -> Result<u64, sqlx::Error> {
    let mut values: Vec<_> = columns::key_values(kind, key).into();
    match expect {
        Expect::Any => session.execute(&statements.delete, values).await.map(|_| 1),
        Expect::Revision(revision) => {
            values.push(columns::revision_value(revision));
            session.execute(&statements.delete_revision, values).await
        }
        // Only who writes there can tell for sure that there is nothing, and that there will not be
        // until the batch is committed.
        Expect::Absent => {
            let facts = Facts::new(Status::Released, "".into(), Timestamp(0));
            let body = bytes::Bytes::new();
            let record = Record { kind, key: key.clone(), revision: Revision(0), facts, body };
            if put(session, statements, &record, Expect::Absent).await? == 0 {
                return Ok(0);
            }
            session.execute(&statements.delete, values).await
        }
    }
}

/// Checks that every record of the batch fits.
///
/// # Errors
/// `TooLarge`, with what is too large and the limit.
pub(super) fn check_sizes(batch: &Batch, max_body: u64, site: &Site) -> Result<(), StoreError> {
    for write in &batch.writes {
        if let Write::Put { record, .. } = write {
            columns::check_size(record, max_body, &site.name)?;
        }
    }
    Ok(())
}
