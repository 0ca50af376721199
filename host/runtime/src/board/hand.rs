//! Owns what a lane has in its hand: a few turns of one node that it has taken at once, and how those of them ended that the
//! board was not told of. So quick items cost one look at the board together. Never begins a turn, and never keeps one
//! from another lane for long.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use docket_graph::{NodeId, State};

use super::attempts::Ended;
use super::lanes::{Admitted, Taken};
use super::{Board, Run, Running};

/// The most turns that a lane takes at once: the board is as good as free by then, and a lane that has them all to itself
/// gives nothing away.
const MOST: usize = 16;

/// For how long a lane has turns in its hand that it has not begun: a few times what a lane stays awake for another, so that
/// none is put to sleep for them.
const LONGEST: Duration = Duration::from_micros(100);

/// The turns that a lane has taken beside the one that it is at, all of one node.
pub(crate) struct Hand<'a> {
    /// Those that it has not begun, in their order.
    rest: VecDeque<Taken<'a>>,
    /// Those that have ended, in that order.
    ended: Vec<Ended>,
    /// When they were taken.
    since: Instant,
    /// How many attempts had been told to stop by then.
    stops: usize,
}

impl<'a> Hand<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty() && self.ended.is_empty()
    }

    /// Returns the next turn, which begins now with what the one before it had. None where the board is to be told
    /// first: of a failure, or because there is none, something was stopped, the time is over, or others wait for what it had.
    pub(crate) fn next(
        &mut self,
        run: &Run,
        now: Instant,
        ended: &mut Option<Ended>,
        had: &mut Option<Admitted<'a>>,
    ) -> Option<Taken<'a>> {
        let first = self.rest.front()?;
        let goes_on = run.stops.load(Ordering::Relaxed) == self.stops
            && now.duration_since(self.since) < LONGEST
            && ended.as_ref().is_some_and(Ended::is_good);
        let node = first.turn.job.node;
        let had = had.take_if(|had| goes_on && run.may_have(node, had))?;
        let taken = self.rest.pop_front()?;
        self.ended.extend(ended.take());
        Some(Taken { begun: Some(Admitted { at: now, ..had }), untold: Some(now), ..taken })
    }
}

impl Run {
    /// Returns how many turns a lane may take at once: half of its share of what is ready, so that the others find some too,
    /// and one where somebody is told of each.
    pub(super) fn handful(&self, board: &Board) -> usize {
        match self.home.observer {
            Some(_) => 1,
            None => (board.ready.len() / (2 * (self.home.most_helpers + 1))).min(MOST),
        }
    }

    /// Puts turns of a node into a lane's hand which has just begun one of it: as many as are next in the queue and wait for
    /// nothing, so that with that one it has no more than so many.
    pub(super) fn pick_up<'a>(
        &self,
        board: &mut Board,
        hand: &mut Option<Box<Hand<'a>>>,
        node: NodeId,
        many: usize,
    ) {
        let now = board.now;
        let hand = hand.get_or_insert_with(|| {
            let (rest, ended) = (VecDeque::with_capacity(MOST), Vec::with_capacity(MOST));
            Box::new(Hand { rest, ended, since: now, stops: 0 })
        });
        (hand.since, hand.stops) = (now, self.stops.load(Ordering::Relaxed));
        while hand.rest.len() + 1 < many
            && let Some(turn) = board.ready.front()
            && turn.job.node == node
            && turn.delay.is_zero()
            && matches!(board.progress.state(turn.job), Some(State::Running { .. }))
        {
            let Some(turn) = board.take(self.plan()) else { break };
            hand.rest.push_back(self.taken(board, turn));
        }
    }

    /// Notes how those turns ended that a lane has in its hand, and lets others have those that it has not begun. What was
    /// told to stop meanwhile has never begun.
    pub(super) fn put_down(&self, board: &mut Board, hand: Option<&mut Hand<'_>>) {
        let Some(hand) = hand else { return };
        for ended in hand.ended.drain(..) {
            self.has_ended(board, ended);
        }
        // From the last, so that they come before all others in the order that they had.
        while let Some(Taken { turn, .. }) = hand.rest.pop_back() {
            let Some(node) = board.frames.node_mut(self.plan(), turn.job) else { continue };
            match node.running {
                Running::Begun { stop: false } => {
                    node.running = Running::No;
                    board.begun -= 1;
                    board.ready.push_front(turn);
                }
                Running::Begun { stop: true } => self.completed(board, turn, None),
                Running::No | Running::Waiting(_) => {}
            }
        }
        self.ready.store(board.ready.len(), Ordering::Relaxed);
    }
}
