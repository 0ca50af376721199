//! Owns a guest's idea of time: the execution's start plus what the guest has slept. Sleeping
//! really waits; computing takes no time at all, so that a step without grants cannot tell a fast
//! host from a slow one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use wasmtime::component::{HasData, Resource, ResourceTable};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::bindings::clocks::{monotonic_clock, wall_clock};
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};

use crate::clock;

/// What a guest may learn of the clock's granularity, in nanoseconds.
const RESOLUTION: u64 = 1;

/// The clock of one instance.
#[derive(Clone, Debug)]
pub(crate) struct GuestClock {
    started_at_ms: u64,
    /// Nanoseconds slept so far: the guest's monotonic time.
    slept: Arc<AtomicU64>,
}

impl GuestClock {
    pub(crate) fn new(started_at_ms: u64) -> Self {
        Self { started_at_ms, slept: Arc::default() }
    }

    fn monotonic(&self) -> u64 {
        self.slept.load(Ordering::Relaxed)
    }

    fn wall(&self) -> Duration {
        Duration::from_millis(self.started_at_ms).saturating_add(Duration::from_nanos(self.monotonic()))
    }

    /// Moves the clock to `instant` unless it is past it already.
    fn advance_to(&self, instant: u64) {
        self.slept.fetch_max(instant, Ordering::Relaxed);
    }
}

/// The view of a guest's state that the clock interfaces need.
pub(crate) struct ClockView<'a> {
    pub(crate) clock: &'a GuestClock,
    pub(crate) table: &'a mut ResourceTable,
}

impl HasData for GuestClock {
    type Data<'a> = ClockView<'a>;
}

impl wall_clock::Host for ClockView<'_> {
    fn now(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        Ok(datetime(self.clock.wall()))
    }

    fn resolution(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        Ok(datetime(Duration::from_nanos(RESOLUTION)))
    }
}

fn datetime(time: Duration) -> wall_clock::Datetime {
    wall_clock::Datetime { seconds: time.as_secs(), nanoseconds: time.subsec_nanos() }
}

impl monotonic_clock::Host for ClockView<'_> {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(self.clock.monotonic())
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(RESOLUTION)
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let duration = when.saturating_sub(self.clock.monotonic());
        self.subscribe_duration(duration)
    }

    fn subscribe_duration(&mut self, nanos: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let alarm = Alarm {
            clock: self.clock.clone(),
            guest_time: self.clock.monotonic().saturating_add(nanos),
            host_time: clock::deadline(clock::now(), Duration::from_nanos(nanos)),
        };
        let alarm = self.table.push(alarm)?;
        subscribe(self.table, alarm)
    }
}

/// A moment that a guest waits for: reached in the host's time, it becomes the guest's time.
struct Alarm {
    clock: GuestClock,
    guest_time: u64,
    /// None lies beyond what the host's clock can say: never.
    host_time: Option<Instant>,
}

#[async_trait]
impl Pollable for Alarm {
    async fn ready(&mut self) {
        match self.host_time {
            Some(at) if at <= clock::now() => {
                // A guest that polls without waiting must still let others run, or nothing it
                // polls for could ever happen.
                if self.clock.monotonic() < self.guest_time {
                    tokio::task::yield_now().await;
                }
            }
            other => clock::sleep_until(other).await,
        }
        self.clock.advance_to(self.guest_time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view<T>(clock: &GuestClock, look: impl FnOnce(&mut ClockView<'_>) -> T) -> T {
        look(&mut ClockView { clock, table: &mut ResourceTable::new() })
    }

    fn wall(clock: &GuestClock) -> (u64, u32) {
        let now = view(clock, |view| wall_clock::Host::now(view)).unwrap();
        (now.seconds, now.nanoseconds)
    }

    fn monotonic(clock: &GuestClock) -> u64 {
        view(clock, |view| monotonic_clock::Host::now(view)).unwrap()
    }

    #[test]
    fn the_clock_stands_at_the_start_and_moves_by_what_was_slept() {
        let clock = GuestClock::new(1_700_000_000_123);
        assert_eq!((monotonic(&clock), wall(&clock)), (0, (1_700_000_000, 123_000_000)));
        assert_eq!((monotonic(&clock), wall(&clock)), (0, (1_700_000_000, 123_000_000)));
        clock.advance_to(1_500_000_001);
        assert_eq!((monotonic(&clock), wall(&clock)), (1_500_000_001, (1_700_000_001, 623_000_001)));
        clock.advance_to(7);
        assert_eq!(monotonic(&clock), 1_500_000_001, "it never goes back");
    }

    #[test]
    fn no_start_and_no_sleep_is_too_large() {
        let clock = GuestClock::new(u64::MAX);
        clock.advance_to(u64::MAX);
        assert_eq!(monotonic(&clock), u64::MAX);
        let (seconds, nanoseconds) = wall(&clock);
        assert!(seconds > u64::MAX / 1000 && nanoseconds < 1_000_000_000);
        let mut table = ResourceTable::new();
        let mut view = ClockView { clock: &clock, table: &mut table };
        monotonic_clock::Host::subscribe_duration(&mut view, u64::MAX).unwrap();
        monotonic_clock::Host::subscribe_instant(&mut view, u64::MAX).unwrap();
    }

    fn alarm(clock: &GuestClock, nanos: u64) -> Alarm {
        Alarm {
            clock: clock.clone(),
            guest_time: clock.monotonic() + nanos,
            host_time: clock::deadline(clock::now(), Duration::from_nanos(nanos)),
        }
    }

    #[tokio::test]
    async fn an_alarm_really_waits_and_then_moves_the_clock_by_just_its_time() {
        let clock = GuestClock::new(0);
        let slept = Duration::from_millis(20);
        let began = clock::now();
        alarm(&clock, 20_000_000).ready().await;
        assert!(clock::now().duration_since(began) >= slept);
        assert_eq!(monotonic(&clock), 20_000_000, "however late the host woke up");
        alarm(&clock, 0).ready().await;
        assert_eq!(monotonic(&clock), 20_000_000);
    }

    #[tokio::test]
    async fn an_alarm_that_is_never_reached_leaves_the_clock_alone() {
        let clock = GuestClock::new(0);
        let mut never = alarm(&clock, u64::MAX);
        never.host_time = None;
        let waited = tokio::time::timeout(Duration::from_millis(20), never.ready()).await;
        assert!(waited.is_err());
        assert_eq!(monotonic(&clock), 0);
    }
}
