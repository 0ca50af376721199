//! Owns every reading of time. Nothing else in Docket asks what time it is or waits for it to pass.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Returns the monotonic time.
#[expect(clippy::disallowed_methods, reason = "this is the door that the lint points to")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Returns the wall-clock time, rounded down to what a step is told: whole milliseconds.
#[expect(clippy::disallowed_methods, reason = "this is the door that the lint points to")]
pub(crate) fn wall() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(unix_millis(SystemTime::now()))
}

/// Returns milliseconds since the Unix epoch; times before it count as the epoch.
pub(crate) fn unix_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
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
