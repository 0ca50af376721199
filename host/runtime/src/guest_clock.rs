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
