//! Owns the one connection that writes, and group commit: what has come while the disk was busy is one
//! transaction, each batch of it whole or refused by itself. Never answers before the transaction's end.

use std::sync::{Arc, OnceLock};

use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use crate::changes::Changes;
use crate::error::{StoreError, StoreErrorKind};
use crate::sql::dialect::Statements;
use crate::sql::fault::{Moment, Site};
use crate::sql::session::Session as _;
use crate::sql::work::{self, Fault};
use crate::store::{Batch, Sync};

/// How many batches are one transaction at most: the first of them waits for the last.
const GROUP: usize = 256;

/// A batch, and who waits for it.
pub(super) struct Job {
    pub batch: Batch,
    pub reply: oneshot::Sender<Result<(), StoreError>>,
}

/// The writer of a database.
pub(super) struct Writer {
    session: SqliteConnection,
    site: Arc<Site>,
    statements: Arc<Statements>,
    changes: Arc<Changes>,
    poison: Arc<OnceLock<StoreError>>,
    /// What the connection is set to do at the end of a transaction.
    sync: Sync,
}

impl Writer {
    /// Returns the writer on this connection, which syncs every transaction.
    pub(super) fn new(
        session: SqliteConnection,
        site: &Arc<Site>,
        statements: &Arc<Statements>,
        changes: &Arc<Changes>,
        poison: &Arc<OnceLock<StoreError>>,
    ) -> Self {
        let (site, statements) = (Arc::clone(site), Arc::clone(statements));
        let (changes, poison, sync) = (Arc::clone(changes), Arc::clone(poison), Sync::Now);
        Self { session, site, statements, changes, poison, sync }
    }

    /// Writes what comes, until nobody can send any more.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut jobs = Vec::new();
        while queue.recv_many(&mut jobs, GROUP).await > 0 {
            let outcomes = match self.poison.get() {
                Some(error) => vec![Err(error.clone()); jobs.len()],
                None => self.group(&jobs).await,
            };
            for (Job { batch, reply }, outcome) in jobs.drain(..).zip(outcomes) {
                if outcome.is_ok() {
                    self.changes.tell(&batch);
                }
                // Whoever asked may have gone.
                let _ = reply.send(outcome);
            }
        }
        // What it cannot close the end of the process closes.
        let _ = self.session.close().await;
    }

    /// Writes a group and returns what became of each batch.
    async fn group(&mut self, jobs: &[Job]) -> Vec<Result<(), StoreError>> {
        let (fault, moment) = match self.transaction(jobs).await {
            Ok(outcomes) => return outcomes,
            Err(failed) => failed,
        };
        let mut error = fault.into_error(&self.site, moment);
        // Nothing of the group is there once this is over, unless the disk itself failed.
        let undone = self.session.run("ROLLBACK").await;
        let lost = |error: &sqlx::Error| self.site.is_lost(error);
        if error.kind() == StoreErrorKind::Unknown || undone.as_ref().is_err_and(lost) {
            error = StoreError::new(StoreErrorKind::Poisoned, error.to_string());
        }
        if error.kind() == StoreErrorKind::Poisoned {
            error = self.poison.get_or_init(|| error).clone();
        }
        vec![Err(error); jobs.len()]
    }

    async fn transaction(&mut self, jobs: &[Job]) -> Result<Vec<Result<(), StoreError>>, (Fault, Moment)> {
        let before = |fault| (fault, Moment::Before);
        self.set_sync(jobs).await.map_err(|error| before(error.into()))?;
        if let [Job { batch, .. }] = jobs
            && work::is_one_statement(batch)
        {
            let outcome = self.writes(batch).await;
            return outcome.map(|outcome| vec![outcome]).map_err(|error| (error.into(), Moment::Committing));
        }
        self.session.run(self.site.dialect.begin).await.map_err(|error| before(error.into()))?;
        let mut outcomes = Vec::with_capacity(jobs.len());
        for Job { batch, .. } in jobs {
            outcomes.push(self.batch(batch).await.map_err(|error| before(error.into()))?);
        }
        self.session.run("COMMIT").await.map_err(|error| (error.into(), Moment::Committing))?;
        Ok(outcomes)
    }

    /// Writes a batch inside the transaction; where it is refused, nothing of it is left.
    async fn batch(&mut self, batch: &Batch) -> Result<Result<(), StoreError>, sqlx::Error> {
        if work::is_one_statement(batch) {
            return self.writes(batch).await;
        }
        self.session.run("SAVEPOINT batch").await?;
        let outcome = self.writes(batch).await?;
        let end = if outcome.is_ok() { "RELEASE batch" } else { "ROLLBACK TO batch; RELEASE batch" };
        self.session.run(end).await?;
        Ok(outcome)
    }

    async fn writes(&mut self, batch: &Batch) -> Result<Result<(), StoreError>, sqlx::Error> {
        for write in &batch.writes {
            match work::write(&mut self.session, &self.site, &self.statements, write).await {
                Ok(()) => {}
                Err(Fault::Store(refused)) => return Ok(Err(refused)),
                Err(Fault::Sql(error)) => return Err(error),
            }
        }
        Ok(Ok(()))
    }

    /// Sets whether the coming transaction waits for the disk: where any batch of the group asks for it.
    async fn set_sync(&mut self, jobs: &[Job]) -> Result<(), sqlx::Error> {
        let sync = jobs.iter().map(|job| job.batch.sync).max().unwrap_or(Sync::Now);
        if sync != self.sync {
            self.session
                .run(match sync {
                    Sync::Now => "PRAGMA synchronous = FULL",
                    Sync::Later => "PRAGMA synchronous = NORMAL",
                })
                .await?;
            self.sync = sync;
        }
        Ok(())
    }
}
