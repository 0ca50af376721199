//! Owns the loop that carries an execution out: lanes take what is ready, attempt it, and report.
//! Never decides what is ready.
//!
//! The first lane is the caller's own future, so that a chain of steps costs no task switch. Where
//! more is ready than one lane is at, further lanes are spawned, up to one a processor. A lane polls
//! a new attempt at once and keeps it aside only if it waits. After about a time slice it lets others
//! have the thread and looks at what would stop it, however quick its steps are.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use docket_graph::StopReason;
use futures_util::StreamExt as _;
use futures_util::future::Abortable;
use futures_util::stream::FuturesUnordered;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::board::{Admitted, Ended, Hand, Next, Rank, RowInputs, Run, Turn};
use crate::call::Called;
use crate::clock;
use crate::engine::TICK;
use crate::turn::{first_attempt, turn as take_turn};

/// The most attempts that one lane has under way: enough for a thousand guests that wait, and a
/// bound on what a wide graph holds in memory.
const LANE_WIDTH: usize = 1024;

/// How long a lane stays awake for what another lane is about to make ready: about what it costs
/// to put a thread to sleep and to wake it again, and a few times as long as a quick step takes.
const WATCH: Duration = Duration::from_micros(50);

/// How long a lane goes on with other attempts after one of its own has had to wait: that one may only have come to the end
/// of its time slice, and what comes after it in an order waits for it. As long as a lane is at what it has in hand.
const SOON: Duration = Duration::from_micros(200);

/// Why turns that have ended when they were first polled say how the lane goes on.
const NOT_WAITED: &str = "a pace, where no turn has waited";

/// What stops an execution from outside.
pub(crate) struct Stops<'a> {
    /// When its time is over.
    pub(crate) deadline: Option<Instant>,
    /// By its caller, where it has asked for the means.
    pub(crate) cancelled: Option<CancellationToken>,
    /// By the store, where it is journaled: it was cancelled there, or another host has taken it over.
    pub(crate) lost: Option<CancellationToken>,
    /// By its host.
    pub(crate) shutdown: &'a CancellationToken,
}

/// Carries the run to its end.
///
/// # Cancel safety
/// When dropped, everything that the run has under way is stopped, and nothing of it outlives the
/// time slice of a guest that is computing just then.
pub(crate) async fn drive(run: &Arc<Run>, stops: Stops<'_>) {
    let mut abandoned = StopOnDrop { run, over: false };
    let helpers = Helpers::default();
    let mut lane = Lane::new(run, Some(&helpers), run.started);
    // The first turns are taken in this very future: most executions need no others.
    let mut first = pin!(lane.place.take_turns(run.started, run.started, true));
    let pace = match poll_once(first.as_mut()) {
        Poll::Ready(pace) => pace.expect(NOT_WAITED),
        Poll::Pending => lane.first_waits(),
    };
    if !matches!(pace, Pace::Over) {
        // Boxed: most executions are over by now, and would carry its size.
        Box::pin(go_on(lane, first, pace, stops)).await;
    }
    abandoned.over = true;
}

/// Goes on as the first lane, which has got this far, until the run is over.
async fn go_on(
    mut lane: Lane<'_>,
    mut first: Pin<&mut (impl Future<Output = Option<Pace>> + Send)>,
    mut pace: Pace,
    stops: Stops<'_>,
) {
    let Place { run, helpers } = lane.place;
    let helpers = helpers.expect("the first lane spawns the others");
    let deadline = clock::sleep_until(stops.deadline);
    tokio::pin!(deadline);
    let mut stopped = false;
    loop {
        match pace {
            Pace::Over => break,
            Pace::Rest if run.rests(Rank::First) => {}
            Pace::Rest => {
                pace = lane.take_ready(lane.slice);
                continue;
            }
            Pace::Full => {}
            Pace::Yield => give_way(run).await,
        }
        tokio::select! {
            biased;
            () = cancelled(stops.cancelled.as_ref()), if !stopped => { stopped = true; run.stop(StopReason::Cancelled) }
            () = cancelled(stops.lost.as_ref()), if !stopped => { stopped = true; run.stop(StopReason::Cancelled) }
            () = stops.shutdown.cancelled(), if !stopped => { stopped = true; run.stop(StopReason::Shutdown) }
            () = &mut deadline, if !stopped => { stopped = true; run.stop(StopReason::Deadline) }
            _ = first.as_mut(), if lane.first_waits => lane.first_waits = false,
            () = lane.complete_next(), if lane.has_waiting() => {}
            () = helpers.joined() => {}
            () = run.changed.notified() => {}
        }
        lane.complete_ready().await;
        lane.slice = clock::now();
        pace = lane.take_ready(lane.slice);
    }
}

/// The further lanes of a run; made for the first of them, because most executions need none.
#[derive(Default)]
struct Helpers(Mutex<Option<JoinSet<()>>>);

impl Helpers {
    fn spawn(&self, run: &Arc<Run>) {
        self.lock().get_or_insert_default().spawn(help(Arc::clone(run)));
    }

    /// Waits for one of them to end, for ever where there is none.
    async fn joined(&self) {
        let joined = poll_fn(|context| match &mut *self.lock() {
            Some(tasks) if !tasks.is_empty() => tasks.poll_join_next(context),
            _ => Poll::Pending,
        });
        joined.await.into_iter().for_each(ended);
    }

    fn lock(&self) -> MutexGuard<'_, Option<JoinSet<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lane ends when it finds nothing to do; it panics only on a fault of ours.
fn ended(joined: Result<(), JoinError>) {
    if let Err(error) = joined {
        std::panic::resume_unwind(error.into_panic());
    }
}

async fn cancelled(token: Option<&CancellationToken>) {
    match token {
        Some(token) => token.cancelled().await,
        None => std::future::pending().await,
    }
}

/// A further lane: ends when it has nothing under way and finds nothing ready.
async fn help(run: Arc<Run>) {
    let mut lane = Lane::new(&run, None, clock::now());
    loop {
        match lane.take_ready(lane.slice) {
            Pace::Yield => {
                give_way(&run).await;
                lane.complete_ready().await;
            }
            Pace::Full => lane.complete_next().await,
            Pace::Rest | Pace::Over if lane.is_idle() => {
                if run.helper_ends() {
                    break;
                }
            }
            Pace::Rest | Pace::Over if run.rests(Rank::Helper) => {
                tokio::select! {
                    biased;
                    () = lane.complete_next() => {}
                    () = run.plenty.notified() => {}
                }
                run.helper_goes_on();
            }
            Pace::Rest | Pace::Over => {}
        }
        lane.slice = clock::now();
    }
}

/// Why a lane begins nothing more for now.
enum Pace {
    /// Nothing is ready.
    Rest,
    /// It has as much under way as it may.
    Full,
    /// It has held its thread for about a time slice.
    Yield,
    /// Nothing is left to do for any lane.
    Over,
}

/// Lets other tasks, timers and sockets have the thread, and makes sure that the first lane then
/// looks again at what is ready.
async fn give_way(run: &Run) {
    run.changed.notify_one();
    tokio::task::yield_now().await;
}

/// Attempts that one task carries out.
struct Lane<'a> {
    place: Place<'a>,
    /// Whether the turns that its task takes in its own future are at an attempt that waits.
    first_waits: bool,
    /// Further ones, each at one attempt that waits; made for the first that does.
    waiting: Option<FuturesUnordered<Turns<'a>>>,
    /// Since when this lane has had its thread.
    slice: Instant,
}

/// Where turns are taken.
#[derive(Clone, Copy)]
struct Place<'a> {
    run: &'a Arc<Run>,
    /// What further lanes are spawned into; the first lane's alone.
    helpers: Option<&'a Helpers>,
}

/// Turns taken one after the other, for as long as they end at once.
type Turns<'a> = Pin<Box<dyn Future<Output = Option<Pace>> + Send + 'a>>;

impl<'a> Lane<'a> {
    fn new(run: &'a Arc<Run>, helpers: Option<&'a Helpers>, slice: Instant) -> Self {
        Self { place: Place { run, helpers }, first_waits: false, waiting: None, slice }
    }

    fn is_idle(&self) -> bool {
        !self.first_waits && !self.has_waiting()
    }

    fn has_waiting(&self) -> bool {
        self.waiting.as_ref().is_some_and(|waiting| !waiting.is_empty())
    }

    /// Notes that the first turns are at an attempt that waits, and begins what else is ready.
    fn first_waits(&mut self) -> Pace {
        self.first_waits = true;
        let now = clock::now();
        if self.is_over_soon(now) { Pace::Yield } else { self.take_ready(now) }
    }

    /// Begins what is ready.
    fn take_ready(&mut self, mut now: Instant) -> Pace {
        while self.waiting.as_ref().map_or(0, FuturesUnordered::len) < LANE_WIDTH {
            // Boxed once for all that ends at once: one that waits stays where it is.
            let mut turns: Turns<'a> = Box::pin(self.place.take_turns(self.slice, now, self.is_idle()));
            match poll_once(turns.as_mut()) {
                Poll::Ready(pace) => return pace.expect(NOT_WAITED),
                Poll::Pending => self.waiting.get_or_insert_default().push(turns),
            }
            now = clock::now();
            if self.is_over_soon(now) {
                return Pace::Yield;
            }
        }
        Pace::Full
    }

    /// Sees to it that the slice is over soon after an attempt has had to wait. Returns whether it is over now.
    fn is_over_soon(&mut self, now: Instant) -> bool {
        let begun = now.checked_sub(TICK / 2 - SOON).unwrap_or(self.slice);
        self.slice = self.slice.min(begun);
        now.duration_since(self.slice) > TICK / 2
    }

    /// Notes which attempts of this lane have ended, without waiting for one.
    async fn complete_ready(&mut self) {
        let Some(waiting) = &mut self.waiting else { return };
        poll_fn(|context| {
            for _ in 0..waiting.len() {
                if !matches!(waiting.poll_next_unpin(context), Poll::Ready(Some(_))) {
                    break;
                }
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Waits for one attempt of this lane to end.
    async fn complete_next(&mut self) {
        if let Some(waiting) = &mut self.waiting {
            waiting.next().await;
        }
    }
}

impl<'a> Place<'a> {
    /// Keeps what an attempt had for the next one, unless somebody waits for the permits.
    fn kept(self, had: Admitted<'a>) -> Option<Admitted<'a>> {
        if self.run.may_keep_permits() {
            return Some(had);
        }
        self.run.give_up(had);
        None
    }

    fn rank(self) -> Rank {
        if self.helpers.is_some() { Rank::First } else { Rank::Helper }
    }

    /// Takes turns until nothing more is ready or the slice is over. After a turn that had to wait there
    /// is no pace: the lane has gone on meanwhile.
    async fn take_turns(self, slice: Instant, mut now: Instant, idle: bool) -> Option<Pace> {
        let Self { run, helpers } = self;
        let (mut hand, mut ended, mut had) = (Hand::new(now), None, None);
        loop {
            let in_hand = if ended.is_none() { run.next_in_hand(&mut hand, &mut had, now) } else { None };
            let mut began = in_hand.as_ref().map(|_| now);
            let mut taken = if let Some(taken) = in_hand {
                taken
            } else {
                let next = run.next(self.rank(), now, ended.take(), &mut hand, had.take());
                let Next { taken, row, spawn, soon, over, yields } = next;
                if let Some(helpers) = helpers.filter(|_| spawn) {
                    helpers.spawn(run);
                }
                if let Some((admitted, inputs)) = row {
                    // Boxed: what is no batch would carry its size.
                    match Box::pin(carry_row(run, &mut hand, admitted, inputs, now)).await {
                        InRow::Ended(ended, left) if ended.duration_since(slice) <= TICK / 2 => {
                            (now, had) = (ended, left.and_then(|had| self.kept(had)));
                            continue;
                        }
                        InRow::Ended(_, left) => {
                            left.into_iter().for_each(|had| run.give_up(had));
                            run.return_row(&mut hand);
                            return Some(Pace::Yield);
                        }
                        InRow::Waited(turn, called) => {
                            run.complete(&mut hand, turn, None, called);
                            return None;
                        }
                        InRow::Stopped(turn) => {
                            turn.into_iter().for_each(|turn| run.complete(&mut hand, turn, None, None));
                            return Some(Pace::Yield);
                        }
                    }
                }
                let Some(taken) = taken else {
                    if yields {
                        return Some(Pace::Yield);
                    }
                    if soon && idle && watch(run) {
                        now = clock::now();
                        continue;
                    }
                    return Some(if over { Pace::Over } else { Pace::Rest });
                };
                taken
            };
            let turn = taken.turn;
            let (called, waited) = {
                let mut attempt = pin!(take_turn(run, &mut taken));
                match poll_fn(|context| Poll::Ready(attempt.as_mut().poll(context))).await {
                    Poll::Ready(called) => (Some(called), false),
                    Poll::Pending => match run.waits(&mut hand, turn, began.take()) {
                        Some(stop) => {
                            set_aside().await;
                            (Abortable::new(attempt, stop).await.ok(), true)
                        }
                        None => (None, false),
                    },
                }
            };
            match called {
                Some(called) if !waited && called.ended.duration_since(slice) <= TICK / 2 => {
                    now = called.ended;
                    let this = Ended { turn, began, called };
                    // A failure may be the end of what else is in hand.
                    if hand.is_empty() || this.called.result.is_err() {
                        ended = Some(this);
                    } else {
                        hand.ended(this);
                    }
                    had = taken.begun.take().and_then(|had| self.kept(had));
                }
                called => {
                    // Before others are called, who need it.
                    taken.begun.take().into_iter().for_each(|had| run.give_up(had));
                    run.complete(&mut hand, turn, began, called);
                    return (!waited).then_some(Pace::Yield);
                }
            }
        }
    }
}

/// How a row of items came to an end for its lane.
enum InRow<'a> {
    /// At this moment; what attempts have is left, if it can be used again.
    Ended(Instant, Option<Admitted<'a>>),
    /// One of them had to wait, and has ended so, or was stopped; the lane has gone on meanwhile.
    Waited(Turn, Option<Called>),
    /// One of them would have to wait, and is to stop.
    Stopped(Option<Turn>),
}

/// Carries out the items of the row in hand, until one of them does not give a result at once.
async fn carry_row<'a>(
    run: &'a Arc<Run>,
    hand: &mut Hand<'a>,
    admitted: Admitted<'a>,
    mut inputs: RowInputs,
    mut now: Instant,
) -> InRow<'a> {
    let mut begun = Some(admitted);
    while let (Some(admitted), Some((node, item))) = (&mut begun, run.next_in_row(hand, now)) {
        admitted.at = now;
        inputs.put(item);
        let called = {
            let mut attempt = pin!(first_attempt(run, node, &inputs, &mut begun));
            match poll_fn(|context| Poll::Ready(attempt.as_mut().poll(context))).await {
                Poll::Ready(called) => Ok(called),
                Poll::Pending => match run.waits_in_row(hand, &inputs, now) {
                    Some((turn, Some(stop))) => {
                        set_aside().await;
                        Err(InRow::Waited(turn, Abortable::new(attempt, stop).await.ok()))
                    }
                    Some((turn, None)) => Err(InRow::Stopped(Some(turn))),
                    None => Err(InRow::Stopped(None)),
                },
            }
        };
        let called = match called {
            Ok(called) => called,
            Err(end) => {
                // Before others are called, who need it.
                begun.take().into_iter().for_each(|had| run.give_up(had));
                return end;
            }
        };
        let began = std::mem::replace(&mut now, called.ended);
        if !hand.ended_in_row(called, &inputs, began)
            || !begun.as_ref().is_some_and(|had| run.may_go_on(node, had))
        {
            break;
        }
    }
    InRow::Ended(now, begun)
}

/// Leaves the turn to the lane's set, which polls it again with a waker of its own.
async fn set_aside() {
    let mut aside = false;
    poll_fn(|_| if std::mem::replace(&mut aside, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// Waits a moment, awake, for another lane to make something ready; returns whether it did.
fn watch(run: &Run) -> bool {
    let began = clock::now();
    while !run.may_be_ready() {
        if clock::now().duration_since(began) > WATCH {
            return false;
        }
        std::hint::spin_loop();
    }
    true
}

/// Polls a future that may well be ready, without a way to wake anyone: if it is not ready it goes
/// to a set, which polls it again with its own waker.
fn poll_once<F: Future + ?Sized>(turns: Pin<&mut F>) -> Poll<F::Output> {
    turns.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
}

/// Stops a run whose future is dropped before it is over: its caller has gone.
struct StopOnDrop<'a> {
    run: &'a Arc<Run>,
    over: bool,
}

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        if !self.over && !self.run.is_over() {
            self.run.abandon();
        }
        self.run.close_instances();
    }
}
