//! Owns the loop that carries an execution out: lanes take what is ready, attempt it, and report.
//! Never decides what is ready.
//!
//! The first lane is the caller's own future, so that a chain of steps costs no task switch. Where
//! more is ready than one lane is at, further lanes are spawned, up to one a processor. A lane polls
//! a new attempt at once and keeps it aside only if it waits. After about a time slice it lets others
//! have the thread and looks at what would stop it, however quick its steps are.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use docket_graph::StopReason;
use futures_util::StreamExt as _;
use futures_util::future::Abortable;
use futures_util::stream::FuturesUnordered;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::board::{Rank, Run, Turn};
use crate::call::Called;
use crate::clock;
use crate::engine::TICK;
use crate::turn::turn as take_turn;

/// The most attempts that one lane has under way: enough for a thousand guests that wait, and a
/// bound on what a wide graph holds in memory.
const LANE_WIDTH: usize = 1024;

/// How long a lane stays awake for what another lane is about to make ready: about what it costs
/// to put a thread to sleep and to wake it again, and a few times as long as a quick step takes.
const WATCH: Duration = Duration::from_micros(50);

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
    let _abandoned = StopOnDrop(run);
    let mut lane = Lane::new(run, Rank::First, run.started);
    let mut helpers = None;
    let deadline = clock::sleep_until(stops.deadline);
    tokio::pin!(deadline);
    let mut stopped = false;
    loop {
        match lane.take_ready(|| spawn_helper(&mut helpers, run)) {
            Pace::Over => break,
            Pace::Rest if run.rests(Rank::First) => {}
            Pace::Rest => continue,
            Pace::Full => {}
            Pace::Yield => give_way(run).await,
        }
        tokio::select! {
            biased;
            () = cancelled(stops.cancelled.as_ref()), if !stopped => { stopped = true; run.stop(StopReason::Cancelled) }
            () = cancelled(stops.lost.as_ref()), if !stopped => { stopped = true; run.stop(StopReason::Cancelled) }
            () = stops.shutdown.cancelled(), if !stopped => { stopped = true; run.stop(StopReason::Shutdown) }
            () = &mut deadline, if !stopped => { stopped = true; run.stop(StopReason::Deadline) }
            () = lane.complete_next(), if !lane.is_idle() => {}
            () = joined(&mut helpers) => {}
            () = run.changed.notified() => {}
        }
        lane.slice = clock::now();
    }
}

/// The further lanes of a run; made for the first of them, because most executions need none.
type Helpers = Option<JoinSet<()>>;

fn spawn_helper(helpers: &mut Helpers, run: &Arc<Run>) {
    helpers.get_or_insert_default().spawn(help(Arc::clone(run)));
}

/// Waits for one of the helpers to end, for ever where there is none.
async fn joined(helpers: &mut Helpers) {
    match helpers.as_mut().filter(|tasks| !tasks.is_empty()) {
        Some(tasks) => tasks.join_next().await.into_iter().for_each(ended),
        None => std::future::pending().await,
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
    let mut lane = Lane::new(&run, Rank::Helper, clock::now());
    loop {
        match lane.take_ready(|| unreachable!("the first lane spawns")) {
            Pace::Yield => give_way(&run).await,
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

/// An attempt that waits, and can be stopped.
type Waiting<'a> = Pin<Box<dyn Future<Output = (Turn, Option<Called>)> + Send + 'a>>;

/// Attempts that one task carries out.
struct Lane<'a> {
    run: &'a Arc<Run>,
    rank: Rank,
    /// Made for the first that waits.
    waiting: Option<FuturesUnordered<Waiting<'a>>>,
    /// Since when this lane has had its thread.
    slice: Instant,
}

impl<'a> Lane<'a> {
    fn new(run: &'a Arc<Run>, rank: Rank, slice: Instant) -> Self {
        Self { run, rank, waiting: None, slice }
    }

    fn is_idle(&self) -> bool {
        self.waiting.as_ref().is_none_or(FuturesUnordered::is_empty)
    }

    /// Begins what is ready, and calls `spawn` when there is work for another lane.
    fn take_ready(&mut self, mut spawn: impl FnMut()) -> Pace {
        let mut ended = None;
        while self.waiting.as_ref().map_or(0, FuturesUnordered::len) < LANE_WIDTH {
            let next = self.run.next(self.rank, ended.take());
            if next.spawn {
                spawn();
            }
            let Some((turn, inputs)) = next.turn else {
                if next.soon && self.is_idle() && self.watch() {
                    continue;
                }
                return if next.over { Pace::Over } else { Pace::Rest };
            };
            let mut attempt = Box::pin(take_turn(self.run, turn, inputs));
            let now = match poll_once(attempt.as_mut()) {
                Poll::Ready(called) => ended.insert((turn, called)).1.ended,
                Poll::Pending => {
                    self.set_aside(turn, attempt);
                    clock::now()
                }
            };
            if now.duration_since(self.slice) > TICK / 2 {
                if let Some((turn, called)) = ended {
                    self.run.complete(turn, Some(called));
                }
                return Pace::Yield;
            }
        }
        Pace::Full
    }

    /// Waits a moment, awake, for another lane to make something ready; returns whether it did.
    fn watch(&self) -> bool {
        let began = clock::now();
        while !self.run.may_be_ready() {
            if clock::now().duration_since(began) > WATCH {
                return false;
            }
            std::hint::spin_loop();
        }
        true
    }

    /// Keeps an attempt that waits, or drops it where it is to stop.
    fn set_aside(&mut self, turn: Turn, attempt: Pin<Box<impl Future<Output = Called> + Send + 'a>>) {
        match self.run.waits(turn) {
            Some(stop) => {
                let attempt = Abortable::new(attempt, stop);
                let waiting = self.waiting.get_or_insert_default();
                waiting.push(Box::pin(async move { (turn, attempt.await.ok()) }));
            }
            None => {
                drop(attempt);
                self.run.complete(turn, None);
            }
        }
    }

    /// Waits for one attempt of this lane to end.
    async fn complete_next(&mut self) {
        if let Some(waiting) = &mut self.waiting
            && let Some((turn, called)) = waiting.next().await
        {
            self.run.complete(turn, called);
        }
    }
}

/// Polls a future that may well be ready, without a way to wake anyone: if it is not ready it goes
/// to a set, which polls it again with its own waker.
fn poll_once<F: Future>(attempt: Pin<&mut F>) -> Poll<F::Output> {
    attempt.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
}

/// Stops a run whose future is dropped before it is over: its caller has gone.
struct StopOnDrop<'a>(&'a Arc<Run>);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        if !self.0.is_over() {
            self.0.abandon();
        }
    }
}
