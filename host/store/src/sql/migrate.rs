//! Owns the steps from an empty database to the tables of today, done by one process at a time. Never
//! undoes one.

use std::sync::Arc;

use super::columns;
use super::dialect::Statements;
use super::fault::{Moment, Site};
use super::session::{Row as _, Session, Value};
use super::work::{self, Fault};
use crate::error::{StoreError, StoreErrorKind};

/// Brings the tables to today's version.
///
/// # Errors
/// `Corrupt` where a later Docket has been there; else what the database says.
pub(super) async fn migrate<S: Session>(
    session: &mut S,
    site: &Site,
    statements: &Statements,
) -> Result<(), StoreError> {
    let lock = &site.dialect.lock;
    let done = async {
        session.run(lock.begin).await?;
        let rows = session.rows(&lock.take.into(), Vec::new()).await?;
        let got = rows.first().map(|row| row.number(0)).transpose()?.flatten();
        if got != Some(1) {
            let message = format!("{} is still being migrated by another process", site.name);
            return Err(StoreError::new(StoreErrorKind::Unavailable, message).into());
        }
        go_on(session, site, statements).await?;
        Ok(session.run(lock.end).await?)
    };
    let done: Result<(), Fault> = done.await;
    if let Err(fault) = done {
        // The connection is not used after an error; where even this fails the server does it.
        let _ = session.run(lock.undo).await;
        return Err(fault.into_error(site, Moment::Before));
    }
    Ok(())
}

async fn go_on<S: Session>(session: &mut S, site: &Site, statements: &Statements) -> Result<(), Fault> {
    session
        .run(
            "CREATE TABLE IF NOT EXISTS docket_migration \
             (version BIGINT NOT NULL PRIMARY KEY, applied_at BIGINT NOT NULL)",
        )
        .await?;
    let version: Arc<str> = "SELECT max(version) FROM docket_migration".into();
    let rows = session.rows(&version, Vec::new()).await?;
    let version = rows.first().map(|row| row.number(0)).transpose()?.flatten().unwrap_or_default();
    let migrations = site.dialect.migrations;
    let known = migrations.len();
    let Some(missing) = usize::try_from(version).ok().and_then(|version| migrations.get(version..)) else {
        let message = format!(
            "{} was written by a later version of Docket: its tables have version {version}, \
             and this one knows those up to {known}",
            site.name
        );
        return Err(StoreError::new(StoreErrorKind::Corrupt, message).into());
    };
    for (version, migration) in (version + 1..).zip(missing) {
        session.run(migration).await?;
        let now = work::now(session, statements).await?;
        let values = vec![Value::Number(Some(version)), columns::time_value(now)];
        session.execute(&statements.migrated, values).await?;
    }
    Ok(())
}
