//! Owns what the board knows of the items of a batch: how many were read, what became of each, and what whoever reads the
//! batch may do next. Never reads an item.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use docket_graph::{DimensionId, Element, Elements, Ending, FailureClass, OnItemError, Port, StopReason};

use super::{Board, Rank, Run};
use crate::clock;
use crate::engine::TICK;
use crate::failure::ExecutionError;
use crate::items::{BatchProgress, ItemOutcome};
use crate::value::Value;

/// How many items are brought under one lock: few enough that a lane which wants it meanwhile waits awake, and is not put to
/// sleep.
const FED_AT_ONCE: usize = 8;

/// What a run is to do with the items of a batch.
pub(crate) struct ItemsStart {
    /// The port that they come for.
    pub(crate) port: Port,
    /// What the failure of one is to the others.
    pub(crate) on_item_error: OnItemError,
    /// The most that are under way at once; one whose outcome waits for its reader is under way.
    pub(crate) width: usize,
    pub(crate) progress: BatchProgress,
}

impl ItemsStart {
    /// Returns how the machine is to work on elements.
    pub(super) fn elements(&self) -> Elements {
        let width = u32::try_from(self.width).unwrap_or(u32::MAX);
        let width = NonZeroU32::new(width).unwrap_or(NonZeroU32::MIN);
        Elements { width, on_item_error: self.on_item_error }
    }
}

/// The items of a run.
pub(super) struct Items {
    start: ItemsStart,
    read: u64,
    /// How many are no messages, those included that were read before the start.
    unread: u64,
    /// How many have ended.
    ended: u64,
    /// Outcomes that the reader was not given yet, where each item has one; of the items from `given` on.
    places: VecDeque<Place>,
    given: u64,
    /// The item whose frame is being opened, and its position among all that were read.
    incoming: Option<(Arc<Value>, u64)>,
    /// Why the items ended the run, if they did.
    broken: Option<ExecutionError>,
    /// Whoever waits for an outcome or for room.
    reader: Option<Waker>,
    /// How many items have ended since the reader was last called.
    fresh: usize,
    /// When that was.
    called: Instant,
}

/// An item whose outcome the reader was not given yet.
enum Place {
    /// It is under way.
    UnderWay,
    Ended(Result<Arc<Value>, ExecutionError>),
    /// It was stopped, or ended the batch: nothing comes of it, nor of those after it.
    Nothing,
}

/// What whoever reads a batch may do.
pub(crate) enum Reading {
    /// Hand out what it was given.
    Outcomes,
    /// Bring as many items.
    Room(usize),
    /// Wait to be called.
    Wait,
    /// Nothing: there will be no further outcome.
    Over,
}

impl Items {
    pub(super) fn new(start: ItemsStart, now: Instant) -> Self {
        Self {
            unread: start.progress.counts().failed,
            start,
            read: 0,
            ended: 0,
            places: VecDeque::new(),
            given: 0,
            incoming: None,
            broken: None,
            reader: None,
            fresh: 0,
            called: now,
        }
    }

    pub(super) fn take_incoming(&mut self) -> (Arc<Value>, u64) {
        self.incoming.take().expect("an item is brought before its frame is opened")
    }

    /// Returns how many items are no messages.
    pub(super) fn unread(&self) -> u64 {
        self.unread
    }

    /// Returns why the items ended the run, if they did.
    pub(super) fn broken(&self) -> Option<&ExecutionError> {
        self.broken.as_ref()
    }

    /// Notes the outcome of an item, and makes what can be taken of it, and of those after it, nothing where there is none.
    fn end(&mut self, index: u64, outcome: Option<Result<Arc<Value>, ExecutionError>>) {
        self.ended += 1;
        self.fresh += 1;
        let at = index.checked_sub(self.given).and_then(|at| usize::try_from(at).ok());
        if let Some(place) = at.and_then(|at| self.places.get_mut(at)) {
            *place = outcome.map_or(Place::Nothing, Place::Ended);
        }
    }

    /// Gives the reader what has ended up to the first item that has not.
    fn give(&mut self, outcomes: &mut VecDeque<ItemOutcome>) {
        while matches!(self.places.front(), Some(Place::Ended(_))) {
            let Some(Place::Ended(result)) = self.places.pop_front() else { unreachable!("just looked at") };
            outcomes.push_back(ItemOutcome { index: self.given, result });
            self.given += 1;
        }
    }

    /// Returns the waker of the reader when calling it is worth it: most of the items are for it, or nothing else is left to
    /// do, or it has waited for half a tick.
    pub(super) fn call_reader(&mut self, now: Instant, idle: bool) -> Option<Waker> {
        let is_first_there = self.places.front().is_none_or(|first| !matches!(first, Place::UnderWay));
        if self.fresh == 0 || !is_first_there || self.reader.is_none() {
            return None;
        }
        // The last quarter keeps the lanes at work until the reader has brought more.
        let many = self.fresh * 4 >= self.start.width * 3;
        if !idle && !many && now.duration_since(self.called) < TICK / 2 {
            return None;
        }
        self.reader(now)
    }

    /// Returns the waker of the reader, if it waits: it is called now.
    pub(super) fn reader(&mut self, now: Instant) -> Option<Waker> {
        (self.fresh, self.called) = (0, now);
        self.reader.take()
    }
}

impl Run {
    /// Returns what whoever reads the batch may do next; where that is to wait, the waker is called. Room is given
    /// only to a reader that may have items, and outcomes as many as there are, to be handed out one by one.
    pub(crate) fn read(
        &self,
        waker: &Waker,
        has_items: bool,
        outcomes: &mut VecDeque<ItemOutcome>,
    ) -> Reading {
        let mut board = self.lock();
        let has_room = has_items && board.conclusion.is_none() && board.progress.wants_item();
        let room = if has_room { self.room(&board) } else { 0 };
        let now = board.now;
        let over = board.conclusion.is_some();
        let items = board.items.as_mut().expect("only a batch is read");
        items.give(outcomes);
        // A reader that is slow with outcomes is not to keep the steps waiting.
        if room > 0 && room * 4 >= items.start.width {
            return Reading::Room(room);
        }
        if !outcomes.is_empty() {
            return Reading::Outcomes;
        }
        if room > 0 {
            return Reading::Room(room);
        }
        if over {
            return Reading::Over;
        }
        items.fresh = 0;
        items.called = now;
        match &mut items.reader {
            Some(reader) => reader.clone_from(waker),
            reader => *reader = Some(waker.clone()),
        }
        Reading::Wait
    }

    /// Returns how many items may be brought at once, where one may.
    fn room(&self, board: &Board) -> usize {
        let items = board.items.as_ref().expect("only a batch is read");
        let is_staged =
            self.plan().items().is_some_and(|dimension| self.plan().dimension(dimension).stages > 1);
        let held = match (is_staged, self.items_have_results()) {
            // Those that wait for each other are in memory anyway; the machine knows how many are under way.
            (true, _) => return 1,
            (false, true) => items.read - items.start.progress.delivered(),
            (false, false) => items.read - items.ended,
        };
        items.start.width.saturating_sub(usize::try_from(held).unwrap_or(usize::MAX))
    }

    /// Returns whether each item has an outcome of its own.
    pub(crate) fn items_have_results(&self) -> bool {
        self.plan().result_dimension() != DimensionId::ROOT
    }

    /// Brings items, of which each is a message or a reason why it is none: a few at a time, so that no lane waits long for
    /// the lock, and the first are begun while the others are brought.
    pub(crate) fn feed(&self, mut brought: impl ExactSizeIterator<Item = Result<Arc<Value>, String>>) {
        while brought.len() > 0 {
            let mut board = self.lock();
            board.now = clock::now();
            self.feed_some(&mut board, brought.by_ref().take(FED_AT_ONCE));
            let help = self.help(&mut board, Rank::Helper);
            drop(board);
            self.call(help);
        }
    }

    fn feed_some(&self, board: &mut Board, brought: impl Iterator<Item = Result<Arc<Value>, String>>) {
        let has_results = self.items_have_results();
        for item in brought {
            let Board { progress, actions, items, .. } = board;
            let items = items.as_mut().expect("only a batch is fed");
            let index = items.read;
            items.read += 1;
            items.start.progress.add_read();
            if has_results {
                items.places.push_back(Place::UnderWay);
            }
            match item {
                Ok(value) => {
                    items.incoming = Some((value, index));
                    progress.item(actions);
                    self.perform(board);
                }
                Err(fault) => self.not_a_message(board, index, fault),
            }
        }
    }

    /// Returns how many items were brought.
    pub(crate) fn items_read(&self) -> u64 {
        self.lock().items.as_ref().map_or(0, |items| items.read)
    }

    /// Says that all items were brought.
    pub(crate) fn items_end(&self) {
        let mut board = self.lock();
        board.now = clock::now();
        let Board { progress, actions, .. } = &mut *board;
        progress.items_end(actions);
        self.perform(&mut board);
        let help = self.help(&mut board, Rank::Helper);
        drop(board);
        self.call(help);
    }

    /// Ends the run because its items cannot be read or are not those that are wanted.
    pub(crate) fn break_items(&self, error: ExecutionError) {
        let mut board = self.lock();
        board.now = clock::now();
        self.broken(&mut board, error);
    }

    fn broken(&self, board: &mut Board, error: ExecutionError) {
        let Board { progress, actions, items, .. } = &mut *board;
        items.as_mut().expect("only a batch has items").broken.get_or_insert(error);
        progress.stop(StopReason::Cancelled, actions);
        self.perform(board);
    }

    fn not_a_message(&self, board: &mut Board, index: u64, fault: String) {
        let items = board.items.as_mut().expect("only a batch is fed");
        let error = ExecutionError::Item { index, port: items.start.port.clone(), fault };
        items.start.progress.add_failed(index, &error);
        items.unread += 1;
        match items.start.on_item_error {
            OnItemError::Continue => items.end(index, Some(Err(error))),
            OnItemError::Fail => {
                items.end(index, None);
                self.broken(board, error);
            }
        }
    }

    /// Notes how an item ended, of which the frame is still there.
    pub(super) fn item_ended(&self, board: &mut Board, element: Element, how: Ending) {
        let index = board.frames.index(element.frame);
        let (error, value) = match how {
            Ending::Done if self.items_have_results() => {
                (None, Some(board.frames.item_result(self.plan(), element.frame)))
            }
            Ending::Done | Ending::Stopped => (None, None),
            Ending::Failed { root } => (Some(self.error_of(board, root)), None),
        };
        let items = board.items.as_mut().expect("only a batch has items");
        match (how, &error) {
            (Ending::Done, _) => items.start.progress.add_done(),
            (Ending::Failed { .. }, Some(error)) => items.start.progress.add_failed(index, error),
            (Ending::Failed { .. } | Ending::Stopped, _) => {}
        }
        let outcome = match (error, items.start.on_item_error) {
            (Some(error), OnItemError::Continue) => {
                // What may be the root cause of the run stays known.
                board.failures.retain(|failed| {
                    failed.item != Some(element.frame) || failed.failure.class() == FailureClass::Abort
                });
                Some(Err(error))
            }
            (Some(_), OnItemError::Fail) => None,
            (None, _) => value.map(Ok),
        };
        items.end(index, outcome);
    }
}
