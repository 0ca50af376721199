//! Owns what the board knows of the items of a batch: how many were read, what became of each, and what whoever reads the
//! batch may do next. Never reads an item.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use bytes::Bytes;
use docket_graph::{DimensionId, Element, Elements, Ending, FailureClass, OnItemError, Port, StopReason};

use super::{Board, Rank, Run};
use crate::clock;
use crate::engine::TICK;
use crate::failure::ExecutionError;
use crate::items::{BatchProgress, ItemOutcome};
use crate::value::{Payload, Value};

/// How many times as many items as may be under way are held: read and not begun, under way, or ended and not handed out.
/// 4: the lanes have enough to go on with while whoever reads the batch takes what has ended and brings what comes next.
pub(crate) const HELD: usize = 4;

/// How many bytes the messages have together, about, that are held beyond as many items as may be under way. 1 MiB:
/// thousands of small messages, and little beside the memory of one instance.
const HELD_BYTES: usize = 1 << 20;

/// What a run is to do with the items of a batch.
pub(crate) struct ItemsStart {
    /// The port that they come for.
    pub(crate) port: Port,
    /// What the failure of one is to the others.
    pub(crate) on_item_error: OnItemError,
    /// The most that are under way at once.
    pub(crate) width: usize,
    pub(crate) progress: BatchProgress,
}

impl ItemsStart {
    /// Returns how the machine is to work on elements.
    pub(super) fn elements(&self) -> Elements {
        let width = u32::try_from(self.width).unwrap_or(u32::MAX);
        let width = NonZeroU32::new(width).unwrap_or(NonZeroU32::MIN);
        let held = u32::try_from(self.width.saturating_mul(HELD)).unwrap_or(u32::MAX);
        let held = NonZeroU32::new(held).unwrap_or(NonZeroU32::MIN);
        Elements { width, held, on_item_error: self.on_item_error }
    }
}

/// The items of a run.
pub(super) struct Items {
    start: ItemsStart,
    read: u64,
    /// Those that were read and not begun, in order: each a message, or why it is none.
    waiting: VecDeque<Result<Bytes, String>>,
    /// Whether no further item comes.
    all_read: bool,
    /// How many bytes the messages have that wait to be begun, and the results that the reader was not given yet.
    bytes: usize,
    /// How many bytes the results have that the reader was given since it had none.
    given_bytes: usize,
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
    /// How many items a lane is to carry out in a row.
    pub(super) row: usize,
    /// Whoever waits for an outcome or for room.
    reader: Option<Waker>,
    /// How many items have ended since the reader was last called.
    fresh: usize,
    /// How many places have become free since then: of items that have ended, or wait for all others.
    freed: usize,
    /// When that was.
    called: Instant,
}

/// An item whose outcome the reader was not given yet.
enum Place {
    /// It is under way.
    UnderWay,
    /// A failure is boxed: most items have none, and all would carry its size.
    Ended(Result<Arc<Value>, Box<ExecutionError>>),
    /// It was stopped, or ended the batch: nothing comes of it, nor of those after it.
    Nothing,
}

/// An item that has ended, as the reader is given it.
pub(crate) struct ItemEnded {
    index: u64,
    result: Result<Arc<Value>, Box<ExecutionError>>,
}

impl ItemEnded {
    pub(crate) fn outcome(self) -> ItemOutcome {
        ItemOutcome { index: self.index, result: self.result.map_err(|error| *error) }
    }
}

/// Returns an item as it goes on.
pub(super) fn message(bytes: Bytes) -> Arc<Value> {
    Arc::new(Value::One(Payload::new(bytes)))
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

/// Returns how many bytes an outcome has that waits to be handed out.
fn bytes_of(result: &Result<Arc<Value>, Box<ExecutionError>>) -> usize {
    result.as_ref().map_or(0, |value| value.len_bytes())
}

impl Items {
    pub(super) fn new(start: ItemsStart, now: Instant) -> Self {
        Self {
            unread: start.progress.counts().failed,
            start,
            read: 0,
            waiting: VecDeque::new(),
            all_read: false,
            bytes: 0,
            given_bytes: 0,
            ended: 0,
            places: VecDeque::new(),
            given: 0,
            incoming: None,
            broken: None,
            row: 1,
            reader: None,
            fresh: 0,
            freed: 0,
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
    fn end(&mut self, index: u64, outcome: Option<Result<Arc<Value>, Box<ExecutionError>>>) {
        self.ended += 1;
        self.fresh += 1;
        self.freed += 1;
        let at = index.checked_sub(self.given).and_then(|at| usize::try_from(at).ok());
        if let Some(place) = at.and_then(|at| self.places.get_mut(at)) {
            self.bytes += outcome.as_ref().map_or(0, bytes_of);
            *place = outcome.map_or(Place::Nothing, Place::Ended);
        }
    }

    /// Returns how many of those that wait a lane is to carry out in a row, where there are so many lanes: its part of them,
    /// and of those that may be under way at once.
    pub(super) fn in_row(&self, lanes: usize) -> usize {
        let part = self.waiting.len().min(self.start.width).div_ceil(lanes);
        self.waiting.iter().take(self.row.min(part)).take_while(|item| item.is_ok()).count()
    }

    /// Takes so many of those that wait, which are messages. Returns the position of the first among all that were read.
    pub(super) fn lend(&mut self, count: usize) -> (u64, VecDeque<Bytes>) {
        let first = self.read - self.waiting.len() as u64;
        let items: VecDeque<Bytes> = self.waiting.drain(..count).flatten().collect();
        self.bytes -= items.iter().map(Bytes::len).sum::<usize>();
        (first, items)
    }

    /// Notes that the items of a row are done.
    pub(super) fn row_done(&mut self, first: u64, done: Vec<Arc<Value>>) {
        self.start.progress.add_done(done.len() as u64);
        for (index, value) in (first..).zip(done) {
            self.end(index, Some(Ok(value)));
        }
    }

    /// Notes the item whose frame is about to be opened.
    pub(super) fn come(&mut self, item: Arc<Value>, index: u64) {
        self.incoming = Some((item, index));
    }

    /// Notes that an item has given up its place without an end.
    pub(super) fn passed(&mut self) {
        self.freed += 1;
    }

    /// Gives the reader what has ended up to the first item that has not.
    fn give(&mut self, outcomes: &mut VecDeque<ItemEnded>) {
        if outcomes.is_empty() {
            self.given_bytes = 0;
        }
        while matches!(self.places.front(), Some(Place::Ended(_))) {
            let Some(Place::Ended(result)) = self.places.pop_front() else { unreachable!("just looked at") };
            self.bytes -= bytes_of(&result);
            self.given_bytes += bytes_of(&result);
            outcomes.push_back(ItemEnded { index: self.given, result });
            self.given += 1;
        }
    }

    /// Returns the waker of the reader when calling it is worth it: it can take outcomes or is to bring items, and either
    /// these are many, or nothing else is left to do, or it has waited for half a tick.
    pub(super) fn call_reader(&mut self, now: Instant, idle: bool) -> Option<Waker> {
        let is_first_there = self.places.front().is_none_or(|first| !matches!(first, Place::UnderWay));
        let takes = self.fresh > 0 && is_first_there;
        let brings = self.freed > 0 && !self.all_read && self.are_few();
        if !(takes || brings) || self.reader.is_none() {
            return None;
        }
        // What is held beside them keeps the lanes at work until the reader has brought more.
        let many = self.freed >= self.start.width;
        if !idle && !many && now.duration_since(self.called) < TICK / 2 {
            return None;
        }
        self.reader(now)
    }

    /// Returns how many items were read and not begun.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Returns whether the lanes may soon have begun all that were read.
    fn are_few(&self) -> bool {
        self.waiting.len() < self.start.width
    }

    /// Notes that the reader knows of everything.
    fn looked(&mut self, now: Instant) {
        (self.fresh, self.freed, self.called) = (0, 0, now);
    }

    /// Returns the waker of the reader, if it waits: it is called now.
    pub(super) fn reader(&mut self, now: Instant) -> Option<Waker> {
        self.looked(now);
        self.reader.take()
    }
}

impl Run {
    /// Returns what whoever reads the batch may do next; where that is to wait, the waker is called. Room is given
    /// only to a reader that may have items, and outcomes as many as there are, to be handed out one by one.
    pub(crate) fn read(&self, waker: &Waker, has_items: bool, outcomes: &mut VecDeque<ItemEnded>) -> Reading {
        let mut board = self.lock();
        board.items.as_mut().expect("only a batch is read").give(outcomes);
        let has_room = has_items && board.conclusion.is_none() && board.progress.takes_items();
        let room = if has_room { self.room(&board) } else { 0 };
        let now = board.now;
        let over = board.conclusion.is_some();
        let items = board.items.as_mut().expect("only a batch is read");
        // A reader that is slow with outcomes is not to keep the steps waiting.
        if room > 0 && items.are_few() {
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
        items.looked(now);
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
            // Those that wait for each other are in memory anyway.
            (true, _) => return items.start.width.saturating_sub(items.waiting.len()),
            (false, true) => items.read - items.start.progress.delivered(),
            (false, false) => items.read - items.ended,
        };
        let width = items.start.width;
        let most =
            if items.bytes + items.given_bytes < HELD_BYTES { width.saturating_mul(HELD) } else { width };
        most.saturating_sub(usize::try_from(held).unwrap_or(usize::MAX))
    }

    /// Returns whether each item has an outcome of its own.
    pub(crate) fn items_have_results(&self) -> bool {
        self.plan().result_dimension() != DimensionId::ROOT
    }

    /// Brings items, of which each is a message or a reason why it is none, and says whether they are all. The lanes begin
    /// them.
    pub(crate) fn feed(&self, brought: Vec<Result<Bytes, String>>, all: bool) {
        let mut board = self.lock();
        board.now = clock::now();
        let has_results = self.items_have_results();
        let items = board.items.as_mut().expect("only a batch is fed");
        for item in brought {
            items.read += 1;
            items.start.progress.add_read();
            if has_results {
                items.places.push_back(Place::UnderWay);
            }
            items.bytes += item.as_ref().map_or(0, Bytes::len);
            items.waiting.push_back(item);
        }
        items.all_read = all;
        self.end_items(&mut board);
        self.note_ready(&board);
        let help = self.help(&mut board, Rank::Helper);
        drop(board);
        self.call(help);
    }

    /// Begins the next of the items that wait, if there is a place for it: not before a lane asks for it, so that the same
    /// core has just what it is made of. Returns whether there was one.
    pub(super) fn begin_item(&self, board: &mut Board) -> bool {
        let Board { progress, actions, items: Some(items), .. } = board else { return false };
        if items.waiting.is_empty() || !progress.wants_item() {
            return false;
        }
        let index = items.read - items.waiting.len() as u64;
        match items.waiting.pop_front() {
            Some(Ok(bytes)) => {
                items.bytes -= bytes.len();
                items.come(message(bytes), index);
                progress.item(actions);
                self.perform(board);
            }
            Some(Err(fault)) => self.not_a_message(board, index, fault),
            None => {}
        }
        self.end_items(board);
        true
    }

    /// Says that no further item comes, once the last has begun.
    pub(super) fn end_items(&self, board: &mut Board) {
        let Board { progress, actions, items: Some(items), .. } = board else { return };
        if items.all_read && items.waiting.is_empty() && progress.takes_items() {
            progress.items_end(actions);
            self.perform(board);
        }
    }

    /// Returns how many items were brought.
    pub(crate) fn items_read(&self) -> u64 {
        self.lock().items.as_ref().map_or(0, |items| items.read)
    }

    /// Ends the run because its items cannot be read or are not those that are wanted.
    pub(crate) fn break_items(&self, error: ExecutionError) {
        let mut board = self.lock();
        board.now = clock::now();
        // What is no message before that comes first.
        while self.begin_item(&mut board) {}
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
            OnItemError::Continue => items.end(index, Some(Err(Box::new(error)))),
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
            (Ending::Done, _) => items.start.progress.add_done(1),
            (Ending::Failed { .. }, Some(error)) => items.start.progress.add_failed(index, error),
            (Ending::Failed { .. } | Ending::Stopped, _) => {}
        }
        let outcome = match (error, items.start.on_item_error) {
            (Some(error), OnItemError::Continue) => {
                // What may be the root cause of the run stays known.
                board.failures.retain(|failed| {
                    failed.item != Some(element.frame) || failed.failure.class() == FailureClass::Abort
                });
                Some(Err(Box::new(error)))
            }
            (Some(_), OnItemError::Fail) => None,
            (None, _) => value.map(Ok),
        };
        items.end(index, outcome);
    }
}
