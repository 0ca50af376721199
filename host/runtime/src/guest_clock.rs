//! Owns a guest's idea of time: the execution's start plus what the guest has slept. Sleeping
//! really waits; computing takes no time at all, so that a step without grants cannot tell a fast
//! host from a slow one. With the grant `clock = "real"` it is the host's time instead.
//!
//! Waiting is decided here too, because it moves time. When a guest waits for several timers at
//! once, the earliest moves the clock to exactly its moment, and just those are ready whose moment
//! that is: however late the host woke up, in every run the same ones.

use std::collections::BTreeMap;
use std::future::{Future as _, pending, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use wasmtime::component::{HasData, Resource, ResourceTable};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::bindings::clocks::{monotonic_clock, wall_clock};
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};
use wasmtime_wasi_io::bindings::wasi::io::poll;

use crate::clock;

/// What a guest may learn of the clock's granularity, in nanoseconds.
const RESOLUTION: u64 = 1;

/// The clock of one instance, and the timers that its guest holds.
#[derive(Debug)]
pub(crate) struct GuestClock {
    time: Time,
    /// By the number of the guest's handle.
    timers: BTreeMap<u32, Timer>,
}

/// Where a guest's time comes from.
#[derive(Clone, Copy, Debug)]
enum Time {
    /// From the execution: its start, and the nanoseconds slept so far; `before` of them in earlier attempts, where the
    /// instance is used again.
    Virtual { started_at_ms: u64, slept: u64, before: u64 },
    /// From the host, whose clocks were read once at this moment.
    Real { since: Instant },
}

/// A moment that a guest waits for.
#[derive(Clone, Copy, Debug)]
struct Timer {
    /// By the guest's clock.
    guest_time: u64,
    /// By the host's. None lies beyond what the host's clock can say: never.
    host_time: Option<Instant>,
}

impl GuestClock {
    /// Returns the clock of a step that was granted none.
    pub(crate) fn new(started_at_ms: u64) -> Self {
        Self { time: Time::Virtual { started_at_ms, slept: 0, before: 0 }, timers: BTreeMap::new() }
    }

    /// Returns the clock of a step that was granted the host's.
    pub(crate) fn real() -> Self {
        Self { time: Time::Real { since: clock::now() }, timers: BTreeMap::new() }
    }

    /// Sets the clock for the instance's next attempt: to the execution's start again. Only what counts moments goes on
    /// from where it was, because no program expects it to go back.
    pub(crate) fn begin_again(&mut self) {
        if let Time::Virtual { slept, before, .. } = &mut self.time {
            *before = *slept;
        }
    }

    /// Returns whether the guest has timers, so that it may be waiting for one of them.
    pub(crate) fn has_timers(&self) -> bool {
        !self.timers.is_empty()
    }

    fn monotonic(&self) -> u64 {
        match self.time {
            Time::Virtual { slept, .. } => slept,
            Time::Real { since } => {
                let passed = clock::now().saturating_duration_since(since).as_nanos();
                u64::try_from(passed).unwrap_or(u64::MAX)
            }
        }
    }

    fn wall(&self) -> Duration {
        match self.time {
            Time::Virtual { started_at_ms, slept, before } => {
                Duration::from_millis(started_at_ms).saturating_add(Duration::from_nanos(slept - before))
            }
            Time::Real { .. } => clock::since_unix_epoch(),
        }
    }

    /// Moves the clock to `instant` unless it is past it already; the host's time needs no help.
    fn advance_to(&mut self, instant: u64) {
        if let Time::Virtual { slept, .. } = &mut self.time {
            *slept = (*slept).max(instant);
        }
    }
}

/// The view of a guest's state that the clock interfaces need.
pub(crate) struct ClockView<'a> {
    pub(crate) clock: &'a mut GuestClock,
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
        let timer = Timer {
            guest_time: self.clock.monotonic().saturating_add(nanos),
            host_time: clock::deadline(clock::now(), Duration::from_nanos(nanos)),
        };
        let handle = self.table.push(TimerHandle)?;
        let handle = subscribe(self.table, handle)?;
        self.clock.timers.insert(handle.rep(), timer);
        Ok(handle)
    }
}

/// What the guest's handle of a timer stands for; the timer itself is kept with the clock.
struct TimerHandle;

#[async_trait]
impl Pollable for TimerHandle {
    async fn ready(&mut self) {
        // Never asked: whoever waits, waits in the functions below, which look timers up.
        pending().await
    }
}

impl poll::Host for ClockView<'_> {
    async fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        let (mut timers, mut others, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (index, pollable) in (0_u32..).zip(pollables) {
            match self.clock.timers.get(&pollable.rep()) {
                Some(timer) => timers.push((index, *timer)),
                None => {
                    others.push(pollable);
                    places.push(index);
                }
            }
        }
        let Some(earliest) = timers.iter().map(|(_, timer)| timer.guest_time).min() else {
            return self.table.poll(others).await;
        };
        let is_due = earliest <= self.clock.monotonic();
        let at_once = timers.iter().filter(|(_, timer)| timer.guest_time == earliest);
        // None is "never", and is the latest of all.
        let host_time = at_once.filter_map(|(_, timer)| timer.host_time).min();
        let elsewhere = {
            let mut elsewhere = pin!(async {
                if others.is_empty() { pending().await } else { self.table.poll(others).await }
            });
            let mut alarm = pin!(async {
                if !is_due {
                    clock::sleep_until(host_time).await;
                }
            });
            poll_fn(|context| match elsewhere.as_mut().poll(context) {
                Poll::Ready(found) => Poll::Ready(Some(found)),
                Poll::Pending => alarm.as_mut().poll(context).map(|()| None),
            })
            .await
        };
        let mut ready: Vec<u32> = match elsewhere {
            Some(found) => found?.into_iter().map(|index| places[index as usize]).collect(),
            None => {
                self.clock.advance_to(earliest);
                Vec::new()
            }
        };
        let now = self.clock.monotonic();
        let due = timers.iter().filter(|(_, timer)| timer.guest_time <= now);
        ready.extend(due.map(|(index, _)| *index));
        ready.sort_unstable();
        Ok(ready)
    }
}

impl poll::HostPollable for ClockView<'_> {
    async fn block(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        poll::Host::poll(self, vec![pollable]).await.map(drop)
    }

    async fn ready(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<bool> {
        match self.clock.timers.get(&pollable.rep()) {
            Some(timer) => Ok(timer.guest_time <= self.clock.monotonic()),
            None => self.table.ready(pollable).await,
        }
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        self.clock.timers.remove(&pollable.rep());
        poll::HostPollable::drop(self.table, pollable)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Waker;

    use monotonic_clock::Host as _;

    use super::*;

    /// A guest's clock with its table of handles.
    struct Guest {
        clock: GuestClock,
        table: ResourceTable,
    }

    impl Guest {
        fn new(clock: GuestClock) -> Self {
            Self { clock, table: ResourceTable::new() }
        }

        fn view(&mut self) -> ClockView<'_> {
            ClockView { clock: &mut self.clock, table: &mut self.table }
        }

        fn wall(&mut self) -> (u64, u32) {
            let now = wall_clock::Host::now(&mut self.view()).unwrap();
            (now.seconds, now.nanoseconds)
        }

        fn monotonic(&mut self) -> u64 {
            monotonic_clock::Host::now(&mut self.view()).unwrap()
        }

        fn timer(&mut self, millis: u64) -> u32 {
            self.view().subscribe_duration(millis * 1_000_000).unwrap().rep()
        }

        /// Something that is ready at once, as a stream to the log is.
        fn always(&mut self) -> u32 {
            let always = self.table.push(Always).unwrap();
            subscribe(&mut self.table, always).unwrap().rep()
        }

        async fn poll(&mut self, handles: &[u32]) -> Vec<u32> {
            let handles = handles.iter().map(|rep| Resource::new_borrow(*rep)).collect();
            poll::Host::poll(&mut self.view(), handles).await.unwrap()
        }
    }

    struct Always;

    #[async_trait]
    impl Pollable for Always {
        async fn ready(&mut self) {}
    }

    #[test]
    fn the_clock_stands_at_the_start_and_moves_by_what_was_slept() {
        let mut guest = Guest::new(GuestClock::new(1_700_000_000_123));
        assert_eq!((guest.monotonic(), guest.wall()), (0, (1_700_000_000, 123_000_000)));
        assert_eq!((guest.monotonic(), guest.wall()), (0, (1_700_000_000, 123_000_000)));
        guest.clock.advance_to(1_500_000_001);
        assert_eq!((guest.monotonic(), guest.wall()), (1_500_000_001, (1_700_000_001, 623_000_001)));
        guest.clock.advance_to(7);
        assert_eq!(guest.monotonic(), 1_500_000_001, "it never goes back");
    }

    #[test]
    fn in_the_next_attempt_of_an_instance_only_the_monotonic_clock_goes_on() {
        let mut guest = Guest::new(GuestClock::new(1_700_000_000_123));
        guest.clock.advance_to(1_500_000_001);
        guest.clock.begin_again();
        assert_eq!((guest.monotonic(), guest.wall()), (1_500_000_001, (1_700_000_000, 123_000_000)));
        guest.clock.advance_to(2_500_000_001);
        assert_eq!(guest.wall(), (1_700_000_001, 123_000_000));
        let timer = guest.timer(0);
        assert!(guest.clock.has_timers());
        poll::HostPollable::drop(&mut guest.view(), Resource::new_own(timer)).unwrap();
        assert!(!guest.clock.has_timers());
    }

    #[test]
    fn no_start_and_no_sleep_is_too_large() {
        let mut guest = Guest::new(GuestClock::new(u64::MAX));
        guest.clock.advance_to(u64::MAX);
        assert_eq!(guest.monotonic(), u64::MAX);
        let (seconds, nanoseconds) = guest.wall();
        assert!(seconds > u64::MAX / 1000 && nanoseconds < 1_000_000_000);
        guest.view().subscribe_duration(u64::MAX).unwrap();
        guest.view().subscribe_instant(u64::MAX).unwrap();
    }

    #[tokio::test]
    async fn a_timer_really_waits_and_then_moves_the_clock_by_just_its_time() {
        let mut guest = Guest::new(GuestClock::new(0));
        let began = clock::now();
        let timer = guest.timer(20);
        assert_eq!(guest.poll(&[timer]).await, [0]);
        assert!(clock::now().duration_since(began) >= Duration::from_millis(20));
        assert_eq!(guest.monotonic(), 20_000_000, "however late the host woke up");
        let at_once = guest.timer(0);
        assert_eq!(guest.poll(&[at_once]).await, [0]);
        assert_eq!(guest.monotonic(), 20_000_000);
    }

    #[tokio::test]
    async fn of_several_timers_the_earliest_alone_is_ready_however_late_the_host_is() {
        for stall in [Duration::ZERO, Duration::from_millis(40)] {
            let mut guest = Guest::new(GuestClock::new(0));
            let handles = [guest.timer(20), guest.timer(10), guest.timer(30), guest.timer(10)];
            std::thread::sleep(stall);
            assert_eq!(guest.poll(&handles).await, [1, 3], "{stall:?}");
            assert_eq!(guest.monotonic(), 10_000_000);
            assert_eq!(guest.poll(&handles).await, [1, 3], "what is due stays due, and moves nothing");
            assert_eq!(guest.poll(&[handles[2], handles[0]]).await, [1]);
            assert_eq!(guest.poll(&[handles[2]]).await, [0]);
            assert_eq!((guest.poll(&handles).await, guest.monotonic()), (vec![0, 1, 2, 3], 30_000_000));
        }
    }

    #[tokio::test]
    async fn a_later_timer_whose_time_has_come_for_the_host_shortens_no_wait() {
        let mut guest = Guest::new(GuestClock::new(0));
        let later = guest.timer(30);
        // Computing takes the guest no time, and the host some.
        std::thread::sleep(Duration::from_millis(40));
        let sooner = guest.timer(20);
        let began = clock::now();
        assert_eq!(guest.poll(&[later, sooner]).await, [1]);
        assert!(began.elapsed() >= Duration::from_millis(20), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn what_is_ready_without_waiting_leaves_the_clock_alone() {
        let mut guest = Guest::new(GuestClock::new(0));
        let (timer, always) = (guest.timer(1), guest.always());
        std::thread::sleep(Duration::from_millis(5));
        for _ in 0..3 {
            assert_eq!(guest.poll(&[timer, always, timer]).await, [1]);
            let ready = poll::HostPollable::ready(&mut guest.view(), Resource::new_borrow(timer)).await;
            assert!(!ready.unwrap(), "time passes by waiting, not by asking");
        }
        assert_eq!(guest.monotonic(), 0);
        poll::HostPollable::block(&mut guest.view(), Resource::new_borrow(timer)).await.unwrap();
        assert_eq!(guest.poll(&[always, timer]).await, [0, 1]);
        assert_eq!(guest.monotonic(), 1_000_000);
        poll::HostPollable::drop(&mut guest.view(), Resource::new_own(timer)).unwrap();
        assert!(guest.clock.timers.is_empty(), "a timer goes with its handle");
    }

    #[tokio::test]
    async fn a_timer_that_is_never_reached_leaves_the_clock_alone() {
        let mut guest = Guest::new(GuestClock::new(0));
        let never = guest.view().subscribe_duration(u64::MAX).unwrap().rep();
        guest.clock.timers.get_mut(&never).unwrap().host_time = None;
        let waited = tokio::time::timeout(Duration::from_millis(20), guest.poll(&[never])).await;
        assert!(waited.is_err());
        assert_eq!(guest.monotonic(), 0);
    }

    #[tokio::test]
    async fn the_hosts_clock_goes_by_itself() {
        let mut guest = Guest::new(GuestClock::real());
        let (wall, monotonic) = (guest.wall(), guest.monotonic());
        let timer = guest.timer(5);
        std::thread::sleep(Duration::from_millis(2));
        assert!(guest.monotonic() >= monotonic + 2_000_000);
        assert!(guest.wall() > wall && wall.0 > 1_700_000_000);
        assert_eq!(guest.poll(&[timer]).await, [0]);
        assert!(guest.monotonic() >= monotonic + 5_000_000);
    }

    #[test]
    fn a_wait_that_is_dropped_moves_nothing() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut guest = Guest::new(GuestClock::new(0));
            let timer = guest.timer(50);
            let waker = Waker::from(Arc::new(Nobody));
            let mut context = std::task::Context::from_waker(&waker);
            assert!(pin!(guest.poll(&[timer])).poll(&mut context).is_pending());
            assert_eq!(guest.monotonic(), 0);
        });
    }

    struct Nobody;

    impl std::task::Wake for Nobody {
        fn wake(self: Arc<Self>) {}
    }
}
