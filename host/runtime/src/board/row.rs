//! Owns the items that one lane carries out in a row without the board, where one step is all that is done for each: what it
//! was lent, and what has come of it. Such items have nothing in common but the board, and quick steps would else wait for
//! that, and for its memory to come from another core. Never makes an attempt.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use docket_graph::{Action, Input, NodeId, Take};
use futures_util::future::AbortRegistration;

use super::hand::LONGEST;
use super::items::message;
use super::lanes::Inputs;
use super::{Admitted, Board, Hand, Run, Running, Turn};
use crate::call::Called;
use crate::clock;
use crate::value::{Payload, Value};

/// The most items in a row. 32: the board is then next to nothing of the quickest steps.
const MOST: usize = 32;

/// Items that a lane was lent.
pub(crate) struct Row {
    node: NodeId,
    /// The first whose end the board does not know: its position among all that were read, and its index for the machine.
    first: (u64, u64),
    /// The results of those that are done.
    done: Vec<Arc<Value>>,
    /// The attempt at the one after them, if it has begun and has not given a result.
    under_way: Option<UnderWay>,
    /// What has not begun.
    waiting: VecDeque<Bytes>,
    /// When these were lent, and how often the run had stopped something by then.
    since: (Instant, usize),
}

/// The attempt at an item of a row that has not given a result.
struct UnderWay {
    item: Arc<Value>,
    began: Instant,
    /// How it has ended, if it has.
    failed: Option<Called>,
}

/// What the attempts at the items of a row take: the same for all but the item itself.
pub(crate) struct RowInputs {
    pub(crate) values: Inputs,
    /// Which of them is the item.
    at: usize,
}

impl RowInputs {
    /// Puts an item in the place of the one before it, and into the same memory where nobody else has that.
    pub(crate) fn put(&mut self, bytes: Bytes) {
        Value::put(&mut self.values[self.at].0, bytes);
    }

    /// Returns the item.
    pub(crate) fn item(&self) -> &Payload {
        let [item] = self.value().payloads() else { unreachable!("an item is one message") };
        item
    }

    fn value(&self) -> &Arc<Value> {
        &self.values[self.at].0
    }
}

impl Hand<'_> {
    /// Notes how the attempt at this item has ended, which began at this moment. Returns whether others may follow: where there
    /// is a result.
    pub(crate) fn ended_in_row(&mut self, called: Called, inputs: &RowInputs, began: Instant) -> bool {
        let Some(row) = &mut self.row else { return false };
        match called.result {
            Ok(value) => {
                row.done.push(value);
                true
            }
            Err(_) => {
                let item = Arc::clone(inputs.value());
                row.under_way = Some(UnderWay { item, began, failed: Some(called) });
                false
            }
        }
    }
}

impl Run {
    /// Returns the next item of the row in hand, whose attempt begins now, and at which node that is. None where there is
    /// none, something was stopped meanwhile, or the row takes longer than was expected.
    pub(crate) fn next_in_row(&self, hand: &mut Hand<'_>, now: Instant) -> Option<(NodeId, Bytes)> {
        let row = hand.row.as_mut()?;
        let (since, stops) = row.since;
        if self.stops.load(Ordering::Relaxed) != stops || now.duration_since(since) > LONGEST * 2 {
            return None;
        }
        Some((row.node, row.waiting.pop_front()?))
    }

    /// Lends a lane the next items, where they may be carried out without the board and it gets the permits for that at
    /// once. The row is put into its hand.
    pub(super) fn lend<'a>(
        &'a self,
        board: &mut Board,
        hand: &mut Hand<'a>,
        had: &mut Option<Admitted<'a>>,
    ) -> Option<(Admitted<'a>, RowInputs)> {
        let node = self.sole?;
        let most = board.items.as_ref()?.in_row(1 + self.home.most_helpers);
        if most == 0 || !board.progress.wants_item() {
            return None;
        }
        let admitted = self.admit(node, had, board.now)?;
        let Some(lent) = board.progress.lend(u32::try_from(most).unwrap_or(u32::MAX)) else {
            // What runs once has not given yet what they take.
            *had = Some(admitted);
            return None;
        };
        let count = usize::try_from(lent.end - lent.start).expect("no more than were asked for");
        let (position, waiting) = board.items.as_mut()?.lend(count);
        hand.row = Some(Row {
            node,
            first: (position, lent.start),
            done: Vec::with_capacity(count),
            under_way: None,
            waiting,
            since: (board.now, self.stops.load(Ordering::Relaxed)),
        });
        board.begun += 1;
        self.end_items(board);
        Some((admitted, self.row_inputs(board, node)))
    }

    fn row_inputs(&self, board: &Board, node: NodeId) -> RowInputs {
        let plan = self.plan();
        let step = self.home.generation.graph().step(plan.step(node));
        let arities = step.inputs.iter().map(|(_, arity)| *arity);
        let values = board.frames.inputs_of_items(plan, node, arities, &self.given);
        let is_item = |input: &Input| input.take == Take::Element;
        let at = plan.inputs(node).iter().position(is_item).expect("what runs for each item takes it");
        RowInputs { values, at }
    }

    /// Returns whether the next attempt in a row may have what one has had.
    pub(crate) fn may_go_on(&self, node: NodeId, had: &Admitted<'_>) -> bool {
        self.may_keep_permits() && self.may_have(node, had)
    }

    /// Gives back the row in hand, before others are let have the thread.
    pub(crate) fn return_row(&self, hand: &mut Hand<'_>) {
        let mut board = self.lock();
        board.now = clock::now();
        self.settle(&mut board, hand);
        self.call_all(board);
    }

    /// Notes that the attempt at this item of a row waits, which began at this moment: the item is one like any other now.
    /// Returns its turn, with the registration by which it is stopped, or none if it is to stop already. What else is in
    /// hand goes back.
    pub(crate) fn waits_in_row(
        &self,
        hand: &mut Hand<'_>,
        inputs: &RowInputs,
        began: Instant,
    ) -> Option<(Turn, Option<AbortRegistration>)> {
        let mut board = self.lock();
        board.now = clock::now();
        let mut row = hand.row.take().expect("an attempt of a row waits");
        row.under_way = Some(UnderWay { item: Arc::clone(inputs.value()), began, failed: None });
        if let Some(items) = &mut board.items {
            // They would all be lent and given back.
            items.row = 1;
        }
        let turn = self.settle_row(&mut board, row);
        let waiting = turn.map(|turn| (turn, self.set_aside(&mut board, turn)));
        self.call_all(board);
        waiting
    }

    /// Tells the board what has come of a row, and gives back what was not begun. Returns the turn of the attempt that is
    /// under way; none where there is none, or the run was abandoned.
    pub(super) fn settle_row(&self, board: &mut Board, row: Row) -> Option<Turn> {
        let Row { node, first: (mut position, mut index), done, under_way, waiting, since: (since, _) } = row;
        board.begun -= 1;
        let count = done.len();
        if count > 0 {
            let Board { progress, actions, items, now, .. } = &mut *board;
            let items = items.as_mut()?;
            if !progress.lent_done(index, u32::try_from(count).unwrap_or(u32::MAX), actions) {
                return None;
            }
            items.row = next_size(items.row, now.duration_since(since), count);
            items.row_done(position, done);
            (position, index) = (position + count as u64, index + count as u64);
            board.tally_mut(self.plan(), node).counts.done += count as u64;
            self.perform(board);
        }
        let mut turn = None;
        if let Some(UnderWay { item, began, failed }) = under_way {
            let under_way = self.take_back(board, item, (position, index), true)?;
            (position, index) = (position + 1, index + 1);
            self.began_before(board, under_way, Some(began));
            match failed {
                Some(called) => self.completed(board, under_way, Some(called)),
                None => turn = Some(under_way),
            }
        }
        for bytes in waiting {
            self.take_back(board, message(bytes), (position, index), false)?;
            (position, index) = (position + 1, index + 1);
        }
        turn
    }

    /// Makes a lent item one like any other. Returns the turn of its first attempt.
    fn take_back(
        &self,
        board: &mut Board,
        item: Arc<Value>,
        (position, index): (u64, u64),
        began: bool,
    ) -> Option<Turn> {
        let Board { progress, actions, items, .. } = &mut *board;
        let job = progress.take_back(index, began, actions)?;
        items.as_mut()?.come(item, position);
        // The lane itself stops what it is at.
        let stop = began && actions.pop_if(|action| matches!(action, Action::Stop { .. })).is_some();
        self.perform(board);
        if began {
            board.node_mut(self.plan(), job).running = Running::Begun { stop };
            board.begun += 1;
        }
        Some(Turn { job, attempt: 1, delay: Duration::ZERO })
    }
}

/// Returns how many items the next row is to have, going by one of this size of which so many have taken so long: so many
/// as are soon done.
fn next_size(size: usize, spent: Duration, done: usize) -> usize {
    let each = spent.as_nanos() / done.max(1) as u128;
    let soon = usize::try_from(LONGEST.as_nanos() / each.max(1)).unwrap_or(MOST);
    soon.min(size * 2).clamp(1, MOST)
}
