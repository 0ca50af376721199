//! Owns what the stores on database servers share: a batch is one statement or one transaction, done
//! again where it met another's, and carried to its end even where nobody waits for it any more.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio_util::task::TaskTracker;

use super::dialect::{Reading, Statements};
use super::fault::{Moment, Site, closed};
use super::pool::{Lent, Pool};
use super::session::Session;
use super::work::{self, Fault};
use crate::changes::Changes;
use crate::clock;
use crate::error::{StoreError, StoreErrorKind};
use crate::record::{Kind, RecordKey};
use crate::store::{Abilities, Batch, Found, Page, Query};

/// Connections of one store: more batches at once do not go faster on a server of ordinary size, and a
/// hundred processes still fit into what servers allow.
pub(super) const CONNECTIONS: u32 = 10;

/// How long a server may take to let a connection in.
const CONNECTING: Duration = Duration::from_secs(10);

/// How long a server may take for one answer: longer than any lock is waited for, and long enough for
/// the largest body on a slow line. After that it is taken for gone.
const ANSWERING: Duration = Duration::from_secs(60);

/// How often a batch is done again that met another's; with pauses of 2 to 256 ms, about half a second.
const MORE_TRIES: usize = 8;

/// A store on a database server.
pub(super) struct Server<S> {
    pub site: Site,
    pub statements: Statements,
    pub abilities: Abilities,
    pub changes: Arc<Changes>,
    pub pool: Pool<S>,
    pub tasks: TaskTracker,
}

/// Why a batch was not written this time.
struct Failed {
    error: StoreError,
    /// Whether it makes sense to do it again at once.
    again: bool,
}

impl<S: Session + 'static> Server<S> {
    pub(super) async fn get(&self, kind: Kind, key: &RecordKey) -> Result<Found, StoreError> {
        let mut session = self.lend().await?;
        let mut found = self.answer(work::get(&mut *session, &self.statements, kind, key)).await;
        if self.was_stale(&found) {
            session = self.lend().await?;
            found = self.answer(work::get(&mut *session, &self.statements, kind, key)).await;
        }
        self.end(session, found, Moment::Before)
    }

    pub(super) async fn scan(&self, query: &Query, limit: usize) -> Result<Page, StoreError> {
        let mut session = self.lend().await?;
        let mut page = self.answer(work::scan(&mut *session, &self.statements, query, limit)).await;
        if self.was_stale(&page) {
            session = self.lend().await?;
            page = self.answer(work::scan(&mut *session, &self.statements, query, limit)).await;
        }
        self.end(session, page, Moment::Before)
    }

    /// Writes a batch, in a task of its own: whoever drops the future leaves no open transaction.
    pub(super) async fn commit(self: &Arc<Self>, batch: Batch) -> Result<(), StoreError> {
        work::check_sizes(&batch, self.abilities.max_body, &self.site)?;
        if self.tasks.is_closed() {
            return Err(closed());
        }
        let batch = work::in_order(batch);
        let server = Arc::clone(self);
        let writing = self.tasks.spawn(async move { server.write(&batch).await });
        writing.await.unwrap_or_else(|error| Err(self.site.gone(&error.to_string(), Moment::Committing)))
    }

    pub(super) async fn sync(&self) -> Result<(), StoreError> {
        // Every batch was as safe as the server makes it when it was confirmed.
        if self.tasks.is_closed() { Err(closed()) } else { Ok(()) }
    }

    pub(super) async fn close(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.pool.close().await;
    }

    pub(super) async fn lend(&self) -> Result<Lent<'_, S>, StoreError> {
        self.pool.lend().await.map_err(|error| self.site.error(&error, Moment::Before))
    }

    async fn write(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(2))
            .with_factor(2.0)
            .with_max_times(MORE_TRIES)
            .with_jitter()
            .build();
        loop {
            let Failed { error, again } = match self.attempt(batch).await {
                Ok(()) => break,
                Err(failed) => failed,
            };
            let Some(pause) = pauses.next().filter(|_| again) else { return Err(error) };
            clock::sleep(pause).await;
        }
        self.changes.tell(batch);
        Ok(())
    }

    async fn attempt(&self, batch: &Batch) -> Result<(), Failed> {
        let mut session = self.lend().await.map_err(|error| Failed { error, again: false })?;
        let (written, moment) = self.transaction(&mut session, batch).await;
        let again = match &written {
            Ok(()) => false,
            Err(Fault::Sql(error)) => {
                let lost = self.site.is_lost(error);
                lost && moment == Moment::Before || self.site.reading(error) == Some(Reading::Again)
            }
            Err(Fault::Store(_)) => false,
        };
        self.end(session, written, moment).map_err(|error| Failed { error, again })
    }

    /// Writes a batch, and ends the transaction where one was needed. The moment is that of the error.
    async fn transaction(&self, session: &mut S, batch: &Batch) -> (Result<(), Fault>, Moment) {
        if work::is_one_statement(batch) {
            return (self.writes(session, batch).await, Moment::Committing);
        }
        let begun = self.answer(async { Ok(session.run(self.site.dialect.begin).await?) }).await;
        if begun.is_err() {
            return (begun, Moment::Before);
        }
        let written = self.writes(session, batch).await;
        if written.is_err() {
            // Where this fails too, so does whatever comes next on this connection, and it is dropped.
            let _ = self.answer(async { Ok(session.run("ROLLBACK").await?) }).await;
            return (written, Moment::Before);
        }
        (self.answer(async { Ok(session.run("COMMIT").await?) }).await, Moment::Committing)
    }

    async fn writes(&self, session: &mut S, batch: &Batch) -> Result<(), Fault> {
        for write in &batch.writes {
            self.answer(work::write(session, &self.site, &self.statements, write)).await?;
        }
        Ok(())
    }

    /// Waits for an answer, but not for ever.
    async fn answer<T>(&self, asked: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        match clock::within(ANSWERING, asked).await {
            Some(answer) => answer,
            None => Err(silent("it has not answered for a minute").into()),
        }
    }

    fn was_stale<T>(&self, answer: &Result<T, Fault>) -> bool {
        let stale = matches!(answer, Err(Fault::Sql(error)) if self.site.is_lost(error));
        if stale {
            self.pool.forget();
        }
        stale
    }

    /// Gives the connection back, unless the answer says that it is of no use.
    fn end<T>(
        &self,
        session: Lent<'_, S>,
        answer: Result<T, Fault>,
        moment: Moment,
    ) -> Result<T, StoreError> {
        match &answer {
            Ok(_) | Err(Fault::Store(_)) => session.back(),
            Err(Fault::Sql(error)) if self.site.is_lost(error) => self.pool.forget(),
            // A refused statement leaves the connection in order, but this is rare: a new one is safer.
            Err(Fault::Sql(_)) => {}
        }
        answer.map_err(|fault| fault.into_error(&self.site, moment))
    }
}

/// Opens a connection, but does not wait for ever.
pub(super) async fn connect<S>(
    opening: impl Future<Output = Result<S, sqlx::Error>>,
) -> Result<S, sqlx::Error> {
    let silent = || silent("it does not let a connection in for ten seconds");
    clock::within(CONNECTING, opening).await.unwrap_or_else(|| Err(silent()))
}

fn silent(what: &str) -> sqlx::Error {
    std::io::Error::new(std::io::ErrorKind::TimedOut, what).into()
}

/// Returns the error of a URL that cannot be read, without the URL: it may have a password.
pub(super) fn wrong_url(name: &str, scheme: &str, error: &sqlx::Error) -> StoreError {
    let cause = match error {
        sqlx::Error::Configuration(cause) => cause.to_string(),
        error => error.to_string(),
    };
    let message =
        format!("the URL of a {name} store is like `{scheme}://user:password@host/database`, but: {cause}");
    StoreError::new(StoreErrorKind::Unusable, message)
}
