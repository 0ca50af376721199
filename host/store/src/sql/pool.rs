//! Owns the open connections of a store: a bounded number, opened when needed, and given back only by
//! whoever is done with one. A connection whose holder went away in the middle is closed, not reused.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::session::Session;
use crate::clock::{StoreTime, Timestamp};

/// How long a connection may have rested before it is asked whether it is still there: servers and
/// what stands between close those that rest for minutes.
const RESTED: Duration = Duration::from_secs(1);

/// Opens a connection.
pub(super) type Open<S> =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<S, sqlx::Error>> + Send>> + Send + Sync>;

/// Connections that take turns.
pub(super) struct Pool<S> {
    open: Open<S>,
    size: u32,
    permits: Semaphore,
    resting: Mutex<Vec<(S, StoreTime)>>,
}

/// A connection in use. Dropping it closes it; [`back`](Self::back) keeps it for the next.
pub(super) struct Lent<'a, S> {
    pool: &'a Pool<S>,
    session: Option<S>,
    _permit: SemaphorePermit<'a>,
}

impl<S: Session> Pool<S> {
    /// Returns a pool of at most so many connections; opens none.
    pub(super) fn new(size: u32, open: Open<S>) -> Self {
        Self { open, size, permits: Semaphore::new(size as usize), resting: Mutex::default() }
    }

    /// Returns a connection that was there a moment ago.
    ///
    /// # Errors
    /// Where none can be opened; `PoolClosed` after [`close`](Self::close).
    pub(super) async fn lend(&self) -> Result<Lent<'_, S>, sqlx::Error> {
        let permit = self.permits.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
        while let Some((mut session, since)) = self.rested() {
            if since.now().since(Timestamp(0)) < RESTED || session.ping().await.is_ok() {
                return Ok(Lent { pool: self, session: Some(session), _permit: permit });
            }
        }
        let session = (self.open)().await?;
        Ok(Lent { pool: self, session: Some(session), _permit: permit })
    }

    /// Closes what rests, because a connection was lost and the others probably are too.
    #[cfg(any(feature = "postgres", feature = "mysql"))]
    pub(super) fn forget(&self) {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Waits for those in use, closes all, and lends no more.
    pub(super) async fn close(&self) {
        // Closed already by another caller, if it fails.
        let _all = self.permits.acquire_many(self.size).await;
        self.permits.close();
        while let Some((session, _)) = self.rested() {
            // The server closes what does not hear this.
            let _ = session.close().await;
        }
    }

    fn rested(&self) -> Option<(S, StoreTime)> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

impl<S> Lent<'_, S> {
    /// Gives the connection back, in order and without a transaction.
    pub(super) fn back(mut self) {
        if let Some(session) = self.session.take() {
            let entry = (session, StoreTime::read(Timestamp(0)));
            self.pool.resting.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
        }
    }
}

impl<S> Deref for Lent<'_, S> {
    type Target = S;

    fn deref(&self) -> &S {
        self.session.as_ref().expect("a connection is there until it is given back")
    }
}

impl<S> DerefMut for Lent<'_, S> {
    fn deref_mut(&mut self) -> &mut S {
        self.session.as_mut().expect("a connection is there until it is given back")
    }
}
