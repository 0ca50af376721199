//! Owns what a lane has in hand: turns that it took under one lock, to be begun one after the other, and those of them that
//! have ended, to be told under one lock too. Quick steps would else wait for that lock as long as they run.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use docket_graph::{Completion, NodeId};

use super::{Admitted, Board, Row, Run, Running, Taken, Turn};
use crate::call::Called;

/// The most turns that a lane has in hand. 8: the lock is then a small part of the quickest steps, and nobody who wants it
/// meanwhile is put to sleep.
const MOST: usize = 8;

/// How long a lane is at what it has in hand, about: others learn only then what has come of it, and whoever waits for
/// that is not to wait longer than for a thread to wake up a few times.
pub(super) const LONGEST: Duration = Duration::from_micros(200);

/// What a lane has in hand.
pub(crate) struct Hand<'a> {
    /// What is to be begun, in order.
    taken: VecDeque<Taken<'a>>,
    ended: Vec<Ended>,
    /// The items that it carries out in a row, instead of all else.
    pub(crate) row: Option<Row>,
    /// How many turns to take next, at most.
    most: usize,
    /// When these were taken, and how often the run had stopped something by then.
    since: (Instant, usize),
}

/// A turn whose attempt has ended, and which the board was not told of.
pub(crate) struct Ended {
    pub(crate) turn: Turn,
    /// When the attempt began, where the board does not know.
    pub(crate) began: Option<Instant>,
    pub(crate) called: Called,
}

impl Hand<'_> {
    pub(crate) fn new(now: Instant) -> Self {
        Self { taken: VecDeque::new(), ended: Vec::new(), row: None, most: 1, since: (now, 0) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// Returns whether there is nothing to be begun, and nothing to be told.
    pub(super) fn is_idle(&self) -> bool {
        self.taken.is_empty() && self.ended.is_empty() && self.row.is_none()
    }

    /// Notes how an attempt has ended, while there is more in hand.
    pub(crate) fn ended(&mut self, ended: Ended) {
        self.ended.push(ended);
    }

    /// Takes more the next time where these were quick, and less where they were not.
    fn adapt(&mut self, now: Instant) {
        let spent = now.duration_since(self.since.0);
        if spent > LONGEST {
            self.most = (self.most / 2).max(1);
        } else if spent * 2 <= LONGEST {
            self.most = (self.most * 2).min(MOST);
        }
    }
}

impl Run {
    /// Returns the next turn in hand, begun now with what the one before it had; none where that is not to be had, or
    /// something was stopped meanwhile.
    pub(crate) fn next_in_hand<'a>(
        &self,
        hand: &mut Hand<'a>,
        had: &mut Option<Admitted<'a>>,
        now: Instant,
    ) -> Option<Taken<'a>> {
        let node = hand.taken.front()?.turn.job.node;
        if self.stops.load(Ordering::Relaxed) != hand.since.1 {
            return None;
        }
        let had = had.take_if(|had| self.may_have(node, had))?;
        let mut taken = hand.taken.pop_front()?;
        taken.begun = Some(Admitted { node, at: now, ..had });
        Some(taken)
    }

    /// Tells the board what has ended in a hand, and gives back what was not begun.
    pub(super) fn settle(&self, board: &mut Board, hand: &mut Hand<'_>) {
        if let Some(row) = hand.row.take() {
            self.settle_row(board, row);
        }
        for Ended { turn, began, called } in hand.ended.drain(..) {
            self.began_before(board, turn, began);
            self.completed(board, turn, Some(called));
        }
        for Taken { turn, .. } in hand.taken.drain(..).rev() {
            // Where there is no such node any more, or no lane at it, the run was abandoned.
            let Some(node) = board.frames.node_mut(self.plan(), turn.job) else { continue };
            match std::mem::take(&mut node.running) {
                Running::Begun { stop: false } => {
                    board.begun -= 1;
                    board.ready.push_front(turn);
                }
                Running::Begun { stop: true } => {
                    board.begun -= 1;
                    self.carry_on(board, turn.job, Completion::Stopped { began: false });
                    self.perform(board);
                }
                Running::No | Running::Waiting(_) => {}
            }
        }
    }

    /// Puts turns into a hand, beside the one that has just been taken and begun: as many as may follow it on its permits,
    /// and no more than this lane's part of what is ready.
    pub(super) fn fill(&self, board: &mut Board, hand: &mut Hand<'_>, begun: NodeId) {
        hand.adapt(board.now);
        hand.since = (board.now, self.stops.load(Ordering::Relaxed));
        // An observer is told of an attempt when it begins.
        if self.home.observer.is_some() {
            return;
        }
        let part = board.to_take() / (1 + self.home.most_helpers);
        while hand.taken.len() + 1 < hand.most.min(part) {
            board.drop_stopped();
            let Some(next) = board.ready.front() else {
                if self.sole.is_none() && self.begin_item(board) { continue } else { return }
            };
            let code = self.code(next.job.node);
            let waits = !next.delay.is_zero() || code.keep.is_some() || code.gate.is_some();
            if waits || !self.may_follow(next.job.node, begun) {
                return;
            }
            let Some(turn) = board.take(self.plan()) else { return };
            hand.taken.push_back(self.taken(board, turn));
        }
    }
}
