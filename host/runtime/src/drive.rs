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
use std::time::Instant;

use docket_graph::StopReason;
use futures_util::StreamExt as _;
use futures_util::future::Abortable;
use futures_util::stream::FuturesUnordered;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::attempt::attempt;
use crate::board::{Run, Turn};
use crate::call::Called;
use crate::clock;
use crate::engine::TICK;

/// The most attempts that one lane has under way: enough for a thousand guests that wait, and a
/// bound on what a wide graph holds in memory.
const LANE_WIDTH: usize = 1024;

/// What stops an execution from outside.
pub(crate) struct Stops<'a> {
    /// When its time is over.
    pub(crate) deadline: Option<Instant>,
    /// By its caller, where it has asked for the means.
    pub(crate) cancelled: Option<CancellationToken>,
    /// By its host.
    pub(crate) shutdown: &'a CancellationToken,
}

/// Carries the run to its end.
///
/// # Cancel safety
/// When dropped, everything that the run has under way is stopped, and nothing of it outlives the
/// time slice of a guest that is computing just then.
pub(crate) async fn drive(run: &Arc<Run>, lanes: usize, stops: Stops<'_>) {
    let _abandoned = StopOnDrop(run);
    let mut lane = Lane::new(run, run.started);
    let mut helpers = Helpers { tasks: None, most: lanes.saturating_sub(1) };
    let deadline = clock::sleep_until(stops.deadline);
    tokio::pin!(deadline);
    let mut stopped = false;
    loop {
        let pace = lane.take_ready(|| helpers.call(run));
        if run.is_over() {
            break;
        }
        pace.keep(run).await;
        tokio::select! {
            biased;
            () = cancelled(stops.cancelled.as_ref()), if !stopped => { stopped = true; run.stop(StopReason::Cancelled) }
            () = stops.shutdown.cancelled(), if !stopped => { stopped = true; run.stop(StopReason::Shutdown) }
            () = &mut deadline, if !stopped => { stopped = true; run.stop(StopReason::Deadline) }
            () = lane.complete_next(), if !lane.is_idle() => {}
            () = helpers.joined() => {}
            () = run.changed.notified() => {}
        }
        lane.slice = clock::now();
    }
}

/// The further lanes of a run.
struct Helpers {
    /// Made for the first of them: most executions need none.
    tasks: Option<JoinSet<()>>,
    most: usize,
}

impl Helpers {
    /// Sets one more lane to work: a new one or, where there may be no more, one that waits.
    fn call(&mut self, run: &Arc<Run>) {
        let tasks = self.tasks.get_or_insert_default();
        if tasks.len() == self.most {
            while let Some(joined) = tasks.try_join_next() {
                ended(joined);
            }
        }
        if tasks.len() < self.most {
            tasks.spawn(help(Arc::clone(run)));
        } else {
            run.plenty.notify_one();
        }
    }

    /// Waits for one of them to end, for ever where there is none.
    async fn joined(&mut self) {
        match self.tasks.as_mut().filter(|tasks| !tasks.is_empty()) {
            Some(tasks) => tasks.join_next().await.into_iter().for_each(ended),
            None => std::future::pending().await,
        }
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
    let mut lane = Lane::new(&run, clock::now());
    loop {
        let pace = lane.take_ready(|| run.changed.notify_one());
        match (lane.is_idle(), &pace) {
            (true, Pace::GoOn) => break,
            (true, Pace::Yield) => pace.keep(&run).await,
            (false, _) => {
                pace.keep(&run).await;
                tokio::select! {
                    biased;
                    () = lane.complete_next() => {}
                    () = run.plenty.notified() => {}
                }
            }
        }
        lane.slice = clock::now();
    }
}

/// Whether a lane has held its thread for about a time slice.
#[must_use]
enum Pace {
    GoOn,
    Yield,
}

impl Pace {
    /// Lets other tasks, timers and sockets have the thread where it is time to, and makes sure
    /// that the caller's lane then looks again at what is ready.
    async fn keep(self, run: &Run) {
        match self {
            Pace::GoOn => {}
            Pace::Yield => {
                run.changed.notify_one();
                tokio::task::yield_now().await;
            }
        }
    }
}

/// An attempt that waits, and can be stopped.
type Waiting = Pin<Box<dyn Future<Output = (Turn, Option<Called>)> + Send>>;

/// Attempts that one task carries out.
struct Lane<'a> {
    run: &'a Arc<Run>,
    /// Made for the first that waits.
    waiting: Option<FuturesUnordered<Waiting>>,
    /// Since when this lane has had its thread.
    slice: Instant,
}

impl<'a> Lane<'a> {
    fn new(run: &'a Arc<Run>, slice: Instant) -> Self {
        Self { run, waiting: None, slice }
    }

    fn is_idle(&self) -> bool {
        self.waiting.as_ref().is_none_or(FuturesUnordered::is_empty)
    }

    /// Begins what is ready, and calls `more` when another lane could take a part.
    fn take_ready(&mut self, mut more: impl FnMut()) -> Pace {
        while self.waiting.as_ref().map_or(0, FuturesUnordered::len) < LANE_WIDTH
            && let Some((turn, inputs, more_ready)) = self.run.take()
        {
            if more_ready {
                more();
            }
            let mut attempt = Box::pin(attempt(Arc::clone(self.run), turn, inputs));
            let now = match poll_once(attempt.as_mut()) {
                Poll::Ready(called) => {
                    let ended = called.ended;
                    self.run.complete(turn, Some(called));
                    ended
                }
                Poll::Pending => {
                    self.set_aside(turn, attempt);
                    clock::now()
                }
            };
            if now.duration_since(self.slice) > TICK / 2 {
                return Pace::Yield;
            }
        }
        Pace::GoOn
    }

    /// Keeps an attempt that waits, or drops it where it is to stop.
    fn set_aside(&mut self, turn: Turn, attempt: Pin<Box<impl Future<Output = Called> + Send + 'static>>) {
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
