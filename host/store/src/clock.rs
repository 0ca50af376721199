//! Owns every reading of time in this crate. Backends with a clock of their own (SQL and Redis
//! servers) do not come here for what they store, only to wait.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment by the store's clock: whole milliseconds since the Unix epoch, in no time zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Returns the moment that is `after` later; the last that can be said, if that is beyond it.
    #[must_use]
    pub fn plus(self, after: Duration) -> Self {
        // Stores keep signed 64-bit numbers.
        let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis).min(i64::MAX as u64))
    }

    /// Returns how long it is from `earlier` until this moment; zero, if it is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The clock of a store that has no server to ask.
pub trait Clock: Send + std::marker::Sync + 'static {
    /// Returns the time now.
    fn now(&self) -> Timestamp;
}

/// The machine's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the door that the lint points to")]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(i64::MAX as u64))
    }
}

/// The store's time as it goes on since it was read, by this machine's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreTime {
    read: Timestamp,
    at: Instant,
}

impl StoreTime {
    /// Returns the time that was just read from the store.
    #[expect(clippy::disallowed_methods, reason = "this is the door that the lint points to")]
    pub(crate) fn read(now: Timestamp) -> Self {
        Self { read: now, at: Instant::now() }
    }

    /// Returns how long ago it was read.
    pub(crate) fn age(self) -> Duration {
        self.at.elapsed()
    }

    /// Returns the store's time now.
    pub(crate) fn now(self) -> Timestamp {
        self.read.plus(self.at.elapsed())
    }
}

/// Waits this long.
#[expect(clippy::disallowed_methods, reason = "this is the door that the lint points to")]
pub(crate) async fn sleep(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Waits for the future, at most this long; none where that was too short.
pub(crate) async fn within<T>(time: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(time, future).await.ok()
}
