//! Owns what the board gives its lanes: the next turn, with what it takes and the permits that are there at once; and
//! which of them rest and are called. Never decides what is ready.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::task::Waker;
use std::time::Instant;

use docket_graph::{Arity, Job, NodeId};
use futures_util::future::{AbortHandle, AbortRegistration};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Board, Ended, Hand, RowInputs, Run, Running, Turn};
use crate::clock;
use crate::key::ElementKey;
use crate::reuse::Seat;
use crate::value::Value;

/// Which lane of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rank {
    /// The caller's own future.
    First,
    /// A task beside it.
    Helper,
}

/// What a lane is to do next.
pub(crate) struct Next<'a> {
    /// The attempt to begin; none is ready, if none.
    pub(crate) taken: Option<Taken<'a>>,
    /// Instead of that the permits for the row of items that is in hand, and what attempts at them take.
    pub(crate) row: Option<(Admitted<'a>, RowInputs)>,
    /// Whether the first lane is to spawn another.
    pub(crate) spawn: bool,
    /// Whether another lane is at an attempt that may make others ready at any moment.
    pub(crate) soon: bool,
    /// Whether nothing is left to do for any lane.
    pub(crate) over: bool,
    /// Whether the lane is to let others have its thread: the reader of a batch has just been called.
    pub(crate) yields: bool,
}

/// Who is to help where more is ready than the lanes at work can begin at once.
#[must_use]
pub(super) enum Help {
    /// Nobody, or nobody can.
    None,
    /// The first lane, which rests.
    First,
    /// A further lane, which rests.
    Resting,
    /// A new one, which the first lane is to spawn.
    New,
}

/// The values for a step's inputs, each in the arity that the step takes.
pub(crate) type Inputs = Vec<(Arc<Value>, Arity)>;

/// A turn that a lane has taken.
pub(crate) struct Taken<'a> {
    pub(crate) turn: Turn,
    pub(crate) inputs: Inputs,
    /// What the key of the work for an element begins with, where its result is not kept; none where the run's own does.
    pub(crate) key: Option<ElementKey>,
    /// Where nothing has to be waited for or looked up first, the attempt has begun already.
    pub(crate) begun: Option<Admitted<'a>>,
}

/// An attempt that has its permits and has begun.
pub(crate) struct Admitted<'a> {
    pub(crate) _gate: Option<SemaphorePermit<'a>>,
    /// Of what batches may have.
    pub(crate) _share: Option<SemaphorePermit<'a>>,
    pub(crate) seat: Seat<'a>,
    /// Whose attempt it is.
    pub(crate) node: NodeId,
    pub(crate) at: Instant,
}

impl Run {
    /// Notes how the attempts that a lane was at have ended, if it was at any, and gives it the next, and perhaps more in
    /// its hand.
    ///
    /// One lock for all, and one reading of the clock, which the lane has just made: between two quick
    /// steps nothing else has to happen. `had` is what the last attempt had, where the next may have it.
    pub(crate) fn next<'a>(
        &'a self,
        lane: Rank,
        now: Instant,
        ended: Option<Ended>,
        hand: &mut Hand<'a>,
        mut had: Option<Admitted<'a>>,
    ) -> Next<'a> {
        let mut board = self.lock();
        board.now = now;
        self.settle(&mut board, hand);
        if let Some(Ended { turn, began, called }) = ended {
            self.began_before(&mut board, turn, began);
            self.completed(&mut board, turn, Some(called));
        }
        if let Some(reader) = board.call_reader(now) {
            drop(board);
            had.into_iter().for_each(|had| self.give_up(had));
            reader.wake();
            return Next { taken: None, row: None, spawn: false, soon: false, over: false, yields: true };
        }
        board.drop_stopped();
        let row = if board.ready.is_empty() { self.lend(&mut board, hand, &mut had) } else { None };
        let taken = if row.is_none() { self.take(&mut board) } else { None };
        let mut taken = taken.map(|turn| self.taken(&board, turn));
        if let Some(taken) = &mut taken {
            taken.begun = self.admit_at_once(&mut board, taken.turn, &mut had);
            if taken.begun.is_some() {
                self.fill(&mut board, hand, taken.turn.job.node);
            }
        }
        self.note_ready(&board);
        let (soon, over) = (board.begun > 0, board.conclusion.is_some());
        let help = self.help(&mut board, lane);
        // A lane that has nothing to do lets whoever reads the batch have its thread; one that has keeps it, and would only
        // hold up a reader that is to run on it.
        let reader = if taken.is_none() && row.is_none() { board.call_reader(now) } else { None };
        drop(board);
        reader.into_iter().for_each(Waker::wake);
        had.into_iter().for_each(|had| self.give_up(had));
        Next { taken, row, spawn: self.call(help), soon, over, yields: false }
    }

    /// Notes that a lane is about to wait until it is called or one of its attempts ends. Returns
    /// false, and notes nothing, where something has become ready since it looked.
    pub(crate) fn rests(&self, lane: Rank) -> bool {
        let mut board = self.lock();
        let rests = board.to_take() == 0;
        match lane {
            Rank::First => board.first_rests = rests,
            Rank::Helper => board.helpers_resting += usize::from(rests),
        }
        rests
    }

    /// Notes that a further lane, having rested, goes on.
    pub(crate) fn helper_goes_on(&self) {
        self.lock().helpers_resting -= 1;
    }

    /// Notes that a further lane ends. Returns false, and notes nothing, where something has become
    /// ready since it looked.
    pub(crate) fn helper_ends(&self) -> bool {
        let mut board = self.lock();
        let ends = board.to_take() == 0;
        board.helpers -= usize::from(ends);
        ends
    }

    /// Where more is ready than the lanes at work can begin at once, returns who is to help.
    pub(super) fn help(&self, board: &mut Board, lane: Rank) -> Help {
        if board.to_take() == 0 {
            return Help::None;
        }
        if std::mem::take(&mut board.first_rests) {
            return Help::First;
        }
        if board.helpers_resting > 0 {
            return Help::Resting;
        }
        if lane == Rank::First && board.helpers < self.home.most_helpers {
            board.helpers += 1;
            return Help::New;
        }
        Help::None
    }

    /// Wakes who is to help: without the lock, for which it asks at once. Returns whether the first lane is to spawn another.
    pub(super) fn call(&self, help: Help) -> bool {
        match help {
            Help::None => {}
            Help::First => self.changed.notify_one(),
            Help::Resting => self.plenty.notify_one(),
            Help::New => return true,
        }
        false
    }

    /// Returns whether something was ready a moment ago. Takes no lock.
    pub(crate) fn may_be_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed) > 0
    }

    /// Returns the values for a job's inputs, each in the arity that its step takes.
    fn inputs(&self, board: &Board, job: Job) -> Inputs {
        let step = self.home.generation.graph().step(self.plan().step(job.node));
        let arities = step.inputs.iter().map(|(_, arity)| *arity);
        board.frames.inputs(self.plan(), job, arities, (&self.given, board.unread()))
    }

    /// Returns a turn that has just been taken, with what it takes. It has not begun.
    pub(super) fn taken<'a>(&self, board: &Board, turn: Turn) -> Taken<'a> {
        let key = board.frames.get(turn.job.frame).expect("it has just been taken").element_key();
        Taken { turn, inputs: self.inputs(board, turn.job), key, begun: None }
    }

    /// Notes that an attempt waits, and returns the registration by which it is stopped; none if
    /// it is to stop already. What else is in hand goes back: others may begin it meanwhile.
    pub(crate) fn waits(
        &self,
        hand: &mut Hand<'_>,
        turn: Turn,
        began: Option<Instant>,
    ) -> Option<AbortRegistration> {
        let mut board = self.lock();
        self.began_before(&mut board, turn, began);
        let registration = self.set_aside(&mut board, turn);
        if hand.is_idle() {
            return registration;
        }
        board.now = clock::now();
        self.settle(&mut board, hand);
        self.call_all(board);
        registration
    }

    pub(super) fn set_aside(&self, board: &mut Board, turn: Turn) -> Option<AbortRegistration> {
        let Board { frames, begun, .. } = board;
        let node = frames.node_mut(self.plan(), turn.job)?;
        if !matches!(node.running, Running::Begun { stop: false }) {
            return None;
        }
        *begun -= 1;
        let (handle, registration) = AbortHandle::new_pair();
        node.running = Running::Waiting(handle);
        Some(registration)
    }

    /// Calls whoever has something to do since the board has changed, without the lock.
    pub(super) fn call_all(&self, mut board: MutexGuard<'_, Board>) {
        let now = board.now;
        let reader = board.call_reader(now);
        let help = self.help(&mut board, Rank::Helper);
        drop(board);
        reader.into_iter().for_each(Waker::wake);
        self.call(help);
    }

    /// Begins an attempt that has nothing to wait for and nothing to look up: under the lock that is
    /// held anyway.
    fn admit_at_once<'a>(
        &'a self,
        board: &mut Board,
        turn: Turn,
        had: &mut Option<Admitted<'a>>,
    ) -> Option<Admitted<'a>> {
        let code = self.code(turn.job.node);
        if !turn.delay.is_zero() || code.keep.is_some() || code.gate.is_some() {
            return None;
        }
        let admitted = self.admit(turn.job.node, had, board.now)?;
        self.began(board, turn);
        Some(admitted)
    }

    /// Returns what an attempt at a node needs that begins now, if it is there at once: what one before it had, or else
    /// permits.
    pub(super) fn admit<'a>(
        &'a self,
        node: NodeId,
        had: &mut Option<Admitted<'a>>,
        now: Instant,
    ) -> Option<Admitted<'a>> {
        let resting = self.resting(node);
        match had.take() {
            Some(had) if self.may_have(node, &had) => return Some(Admitted { node, at: now, ..had }),
            // Now, for what it holds may be what is wanted.
            had => had.into_iter().for_each(|had| self.give_up(had)),
        }
        let share = match self.share() {
            Some(share) => Some(share.try_acquire().ok()?),
            None => None,
        };
        let seat = self.home.instances.seat_at_once(resting)?;
        Some(Admitted { _gate: None, _share: share, seat, node, at: now })
    }

    /// Returns whether an attempt at a node may have what one that has ended had: its permits, and its instance where that
    /// is used again, which is no other node's ever.
    pub(super) fn may_have(&self, node: NodeId, had: &Admitted<'_>) -> bool {
        self.may_follow(node, had.node) && (self.resting(node).is_none() || had.seat.used.is_some())
    }

    /// Returns whether an attempt at a node may come to have what one at the node before it had.
    pub(super) fn may_follow(&self, node: NodeId, before: NodeId) -> bool {
        node == before || (self.resting(node).is_none() && self.resting(before).is_none())
    }

    /// Gives the permits of an attempt that has ended back, and leaves its instance to the next one at its node where it may
    /// be used again.
    pub(crate) fn give_up(&self, had: Admitted<'_>) {
        match self.resting(had.node) {
            Some((resting, node)) => resting.leave(node, had.seat),
            None => drop(had),
        }
    }

    /// Returns whether nobody waits for the permits of an attempt that has ended, so that its lane may keep them for the
    /// next: counting them up and down costs lanes on many cores more than looking.
    pub(crate) fn may_keep_permits(&self) -> bool {
        self.share().is_none_or(|share| share.available_permits() > 0) && self.home.instances.has_permits()
    }

    /// Returns what an attempt needs a permit of before one for an instance: only those of a batch do.
    pub(crate) fn share(&self) -> Option<&Semaphore> {
        self.is_batch.then(|| &*self.home.batches)
    }
}
