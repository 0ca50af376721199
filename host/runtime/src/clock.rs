//! Owns every reading of time. Nothing else in Docket asks what time it is or waits for it to pass.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Returns the monotonic time.
#[expect(clippy::disallowed_methods, reason = "this is the door that the lint points to")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Returns the wall-clock time as a step is told it: in whole milliseconds since the Unix epoch.
#[expect(clippy::disallowed_methods, reason = "this is the door that the lint points to")]
pub(crate) fn wall_millis() -> u64 {
    unix_millis(SystemTime::now())
}

/// Returns the wall-clock time as precise as the host has it; times before the epoch count as the epoch.
#[expect(clippy::disallowed_methods, reason = "this is the door that the lint points to")]
pub(crate) fn since_unix_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Returns milliseconds since the Unix epoch; times before it count as the epoch.
pub(crate) fn unix_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// How much processor time one side has used, summed over the stretches in which it ran. A stretch is
/// bound to a thread, and the next may be on another.
#[derive(Debug, Default)]
pub(crate) struct ProcessorTime {
    /// Of the stretches that are over, in nanoseconds.
    used: AtomicU64,
    /// The thread's clock when the stretch began that is not over.
    since: AtomicU64,
}

impl ProcessorTime {
    /// Begins a stretch on this thread.
    pub(crate) fn begin(&self) {
        self.since.store(thread_nanos(), Ordering::Relaxed);
    }

    /// Ends the stretch, on the thread that it began on.
    pub(crate) fn end(&self) {
        self.used.store(self.nanos(), Ordering::Relaxed);
    }

    /// Returns the sum, the stretch that is not over included; to be called on its thread.
    pub(crate) fn so_far(&self) -> Duration {
        Duration::from_nanos(self.nanos())
    }

    fn nanos(&self) -> u64 {
        let stretch = thread_nanos().saturating_sub(self.since.load(Ordering::Relaxed));
        self.used.load(Ordering::Relaxed).saturating_add(stretch)
    }
}

/// Returns the processor time of this thread, in nanoseconds; on systems without such a clock, the time.
fn thread_nanos() -> u64 {
    #[cfg(target_os = "linux")]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let part = |part: i64| u64::try_from(part).unwrap_or(0);
        part(time.tv_sec).saturating_mul(1_000_000_000).saturating_add(part(time.tv_nsec))
    }
    #[cfg(not(target_os = "linux"))]
    u64::try_from(since_unix_epoch().as_nanos()).unwrap_or(u64::MAX)
}

/// Waits until `deadline`, or for ever where there is none.
///
/// # Cancel safety
/// Dropping the future stops the wait and has no other effect.
pub(crate) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Comes round again and again: for what is to be shown, or looked at, while work lasts.
#[derive(Debug)]
pub struct Every {
    interval: tokio::time::Interval,
    since: Instant,
}

impl Every {
    /// Returns what comes round after each period, from now on.
    ///
    /// # Panics
    /// Where the period is zero.
    pub fn new(period: Duration) -> Self {
        let since = now();
        let mut interval = tokio::time::interval_at((since + period).into(), period);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Self { interval, since }
    }

    /// Waits for the next time, and returns how long ago the first period began.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the time to the next call.
    pub async fn next(&mut self) -> Duration {
        self.interval.tick().await.into_std().duration_since(self.since)
    }
}

/// Returns what the work gives, or `None` where that takes longer than `limit`.
///
/// # Cancel safety
/// The work is dropped with the future.
pub(crate) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit, work).await.ok()
}

/// Returns `from + after`, or `None` (for ever) where the sum is beyond what the clock can say.
pub(crate) fn deadline(from: Instant, after: Duration) -> Option<Instant> {
    from.checked_add(after)
}
