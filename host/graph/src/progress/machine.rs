//! Decides: what follows from what happened. Holds no plan and no list of actions; a turn brings both.

mod lent;

use std::ops::Range;
use std::time::Duration;

use super::frames::{Frames, NONE, Node, ROOT, Standing};
use super::{Action, Completion, Conclusion, Elements, Ending, FrameId, Job, OnItemError, State, StopReason};
use crate::dimension::DimensionId;
use crate::plan::{Event, NodeId, Wiring};
use crate::policy::{FailureClass, Retry};

/// What all decisions of one call need.
pub(super) struct Turn<'a> {
    pub(super) wiring: &'a Wiring,
    pub(super) retries: &'a [Retry],
    pub(super) actions: &'a mut Vec<Action>,
}

#[derive(Debug)]
pub(super) struct Machine {
    elements: Elements,
    frames: Frames,
    running: usize,
    phase: Phase,
    root_path: Vec<(DimensionId, u64)>,
    failed_items: u64,
    /// The items that are lent, those of each time together: as many as somebody carries out at once.
    lent: Vec<Range<u64>>,
    /// What is to be looked at before the call returns: a loop, because elements may be nested more deeply than a thread's
    /// stack. Empty between calls, as is `found`.
    open: Vec<Open>,
    found: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// Not started.
    New,
    /// Jobs start as they become ready.
    Open,
    /// The conclusion is known, and running jobs are awaited.
    Closing(Conclusion),
    /// Over.
    Finished(Conclusion),
}

/// Something that may have come to an end, or have room.
#[derive(Debug, Clone, Copy)]
enum Open {
    /// The frame of an element, which may have passed its stage.
    Frame(u32),
    /// The elements of a dimension within a frame.
    Series(u32, DimensionId),
    /// The frame of an item that has failed, of which nothing runs.
    Lost(u32),
}

impl Machine {
    pub(super) fn new(wiring: &Wiring, elements: Elements) -> Self {
        Self {
            elements,
            frames: Frames::new(wiring),
            running: 0,
            phase: Phase::New,
            root_path: Vec::new(),
            failed_items: 0,
            lent: Vec::new(),
            open: Vec::new(),
            found: Vec::new(),
        }
    }

    pub(super) fn start(&mut self, turn: &mut Turn<'_>) {
        if self.phase != Phase::New {
            return;
        }
        self.phase = Phase::Open;
        if turn.wiring.items != DimensionId::ROOT {
            self.frames.series_mut(turn.wiring, ROOT, turn.wiring.items).begun = true;
        }
        self.enter(ROOT, 0, turn);
        self.conclude(turn);
    }

    pub(super) fn on(&mut self, job: Job, completion: Completion, turn: &mut Turn<'_>) {
        self.frames.reclaim();
        let Some((slot, attempt)) = self.find_running(turn.wiring, job) else { return };
        let node = job.node;
        let may_go_on = self.phase == Phase::Open && !self.frames.is_lost(slot);
        match completion {
            Completion::Done { messages } => self.good(slot, node, (State::Done, attempt), messages, turn),
            Completion::Kept { messages } => {
                self.good(slot, node, (State::Kept, attempt - 1), messages, turn)
            }
            Completion::Stopped { began } => self.stopped(slot, node, attempt, began, turn),
            Completion::Failed { class, code, retry_after, chance } => {
                let retry = &turn.retries[node.index()];
                match retry.delay_after(attempt, class, code.as_deref(), retry_after, chance) {
                    Some(delay) if may_go_on => self.run_again(slot, node, attempt + 1, delay, turn),
                    Some(_) | None => self.fail(slot, node, attempt, class, turn),
                }
            }
            Completion::Shared { class } => self.fail(slot, node, attempt - 1, class, turn),
        }
        self.conclude(turn);
    }

    pub(super) fn takes_items(&self, wiring: &Wiring) -> bool {
        wiring.items != DimensionId::ROOT
            && self.phase == Phase::Open
            && self.frames.series(wiring, ROOT, wiring.items).len.is_none()
    }

    pub(super) fn wants_item(&self, wiring: &Wiring) -> bool {
        self.takes_items(wiring) && self.room(wiring) > 0
    }

    /// Returns for how many further items there is room.
    fn room(&self, wiring: &Wiring) -> u32 {
        let series = self.frames.series(wiring, ROOT, wiring.items);
        let Elements { width, held, .. } = self.elements;
        let room = width.get().saturating_sub(series.working);
        // Items that wait for each other are in memory anyway.
        if !wiring.ordered || wiring.stage_count(wiring.items) > 1 {
            return room;
        }
        let lent = self.lent.iter().map(|lent| lent.start);
        let first = lent.fold(self.frames.first_index(series), u64::min);
        let held = u64::from(held.get()).saturating_sub(series.opened - first);
        u32::try_from(held).map_or(room, |held| room.min(held))
    }

    pub(super) fn item(&mut self, turn: &mut Turn<'_>) -> Option<FrameId> {
        if !self.wants_item(turn.wiring) {
            return None;
        }
        self.frames.reclaim();
        let slot = self.open_element(ROOT, turn.wiring.items, turn);
        self.conclude(turn);
        Some(self.frames.id(slot))
    }

    pub(super) fn items_end(&mut self, turn: &mut Turn<'_>) {
        let items = turn.wiring.items;
        if items == DimensionId::ROOT || self.phase != Phase::Open {
            return;
        }
        self.frames.reclaim();
        let series = self.frames.series_mut(turn.wiring, ROOT, items);
        if series.len.is_none() {
            series.len = Some(series.opened);
            self.open.push(Open::Series(ROOT, items));
        }
        self.conclude(turn);
    }

    pub(super) fn renumber(&mut self, wiring: &Wiring, job: Job, attempt: u32) {
        if let Some((slot, current)) = self.find_running(wiring, job) {
            let attempt = attempt.max(current);
            let node = self.frames.node_mut(wiring, slot, job.node);
            node.state = State::Running { attempt };
            node.attempts = attempt;
        }
    }

    pub(super) fn stop(&mut self, reason: StopReason, turn: &mut Turn<'_>) {
        self.frames.reclaim();
        self.close(Conclusion::Stopped(reason), turn);
        self.conclude(turn);
    }

    #[inline]
    pub(super) fn conclusion(&self) -> Option<Conclusion> {
        match self.phase {
            Phase::Finished(conclusion) => Some(conclusion),
            Phase::New | Phase::Open | Phase::Closing(_) => None,
        }
    }

    pub(super) fn root_path(&self) -> &[(DimensionId, u64)] {
        &self.root_path
    }

    pub(super) fn path(&self, frame: FrameId) -> Option<Vec<(DimensionId, u64)>> {
        let mut slot = self.frames.find(frame)?;
        let mut path = Vec::new();
        while slot != ROOT {
            let frame = self.frames.frame(slot);
            path.push((frame.dimension, frame.index));
            slot = frame.parent;
        }
        path.reverse();
        Some(path)
    }

    #[inline]
    pub(super) fn node(&self, wiring: &Wiring, job: Job) -> Option<&Node> {
        let slot = self.frames.find(job.frame)?;
        let is_there = wiring.homes[job.node.index()] == self.frames.frame(slot).dimension;
        is_there.then(|| self.frames.node(wiring, slot, job.node))
    }

    pub(super) fn running(&self) -> usize {
        self.running
    }

    pub(super) fn failed_items(&self) -> u64 {
        self.failed_items
    }

    fn find_running(&self, wiring: &Wiring, job: Job) -> Option<(u32, u32)> {
        match self.node(wiring, job)?.state {
            State::Running { attempt } => Some((job.frame.slot, attempt)),
            State::Waiting
            | State::Done
            | State::Kept
            | State::Failed
            | State::Stopped
            | State::NeverStarted => None,
        }
    }

    /// Begins a stage of a frame.
    fn enter(&mut self, slot: u32, stage: u32, turn: &mut Turn<'_>) {
        let wiring = turn.wiring;
        let frame = self.frames.frame_mut(slot);
        let dimension = frame.dimension;
        frame.standing = Standing::Working;
        frame.stage = stage;
        frame.todo = wiring.work(dimension, stage);
        if frame.todo == 0 && slot != ROOT {
            self.open.push(Open::Frame(slot));
        }
        for node in wiring.nodes.of_source(dimension.index()) {
            let Node { state, waits, .. } = *self.frames.node(wiring, slot, *node);
            if wiring.stages[node.index()] == stage && waits == 0 && state == State::Waiting {
                self.run(slot, *node, turn);
            }
        }
        // Looked at in the order in which they stand: the last is pushed first.
        for inner in wiring.children.of_source(dimension.index()).iter().rev() {
            if self.frames.series(wiring, slot, *inner).begun {
                self.open.push(Open::Series(slot, *inner));
            }
        }
    }

    fn run(&mut self, slot: u32, node: NodeId, turn: &mut Turn<'_>) {
        self.running += 1;
        let item = self.frames.frame(slot).item;
        if item != NONE {
            self.frames.frame_mut(item).running += 1;
        }
        self.run_again(slot, node, 1, Duration::ZERO, turn);
    }

    /// The job goes on running, with its next attempt.
    fn run_again(&mut self, slot: u32, node: NodeId, attempt: u32, delay: Duration, turn: &mut Turn<'_>) {
        let running = self.frames.node_mut(turn.wiring, slot, node);
        running.state = State::Running { attempt };
        running.attempts = attempt;
        let job = Job { frame: self.frames.id(slot), node };
        turn.actions.push(Action::Start { job, attempt, delay });
    }

    fn settle(&mut self, slot: u32, node: NodeId, ended: (State, u32), turn: &Turn<'_>) {
        let settled = self.frames.node_mut(turn.wiring, slot, node);
        (settled.state, settled.attempts) = ended;
        self.running -= 1;
        let item = self.frames.frame(slot).item;
        if item == NONE {
            return;
        }
        let frame = self.frames.frame_mut(item);
        frame.running -= 1;
        if frame.running == 0 && frame.failed.is_some() {
            self.open.push(Open::Lost(item));
        }
    }

    /// The job has a result.
    fn good(&mut self, slot: u32, node: NodeId, ended: (State, u32), messages: u64, turn: &mut Turn<'_>) {
        self.settle(slot, node, ended, turn);
        if self.frames.is_lost(slot) {
            return;
        }
        self.step_forward(slot);
        if self.phase != Phase::Open {
            return;
        }
        let opened = turn.wiring.opens[node.index()];
        if opened != DimensionId::ROOT {
            let series = self.frames.series_mut(turn.wiring, slot, opened);
            (series.begun, series.len) = (true, Some(messages));
            self.open.push(Open::Series(slot, opened));
        }
        self.release(slot, Wiring::done(node), turn);
    }

    /// A job that stopped by itself cannot be waited for any more, so the execution is cancelled.
    fn stopped(&mut self, slot: u32, node: NodeId, attempt: u32, began: bool, turn: &mut Turn<'_>) {
        let attempts = if began { attempt } else { attempt - 1 };
        let state = if attempts == 0 { State::NeverStarted } else { State::Stopped };
        self.settle(slot, node, (state, attempts), turn);
        if !self.frames.is_lost(slot) {
            self.close(Conclusion::Stopped(StopReason::Cancelled), turn);
        }
    }

    fn fail(&mut self, slot: u32, node: NodeId, attempts: u32, class: FailureClass, turn: &mut Turn<'_>) {
        self.settle(slot, node, (State::Failed, attempts), turn);
        let root = Job { frame: self.frames.id(slot), node };
        let item = self.frames.frame(slot).item;
        match (class, self.elements.on_item_error) {
            (FailureClass::Abort, _) => self.close(Conclusion::Aborted { root }, turn),
            (_, OnItemError::Continue) if item != NONE => self.lose(item, root, turn),
            (_, OnItemError::Continue | OnItemError::Fail) => self.close(Conclusion::Failed { root }, turn),
        }
    }

    /// Ends an item by the failure of a job in it: stops what runs of it, and gives up what waits.
    fn lose(&mut self, item: u32, root: Job, turn: &mut Turn<'_>) {
        if self.phase != Phase::Open || self.frames.is_lost(item) {
            return;
        }
        self.blame(root);
        let mut found = std::mem::take(&mut self.found);
        self.frames.find_within(turn.wiring, item, &mut found);
        found.drain(..).for_each(|slot| self.give_up(slot, true, turn));
        self.found = found;
        if self.frames.frame(item).running == 0 {
            self.open.push(Open::Lost(item));
        }
    }

    /// Fixes the conclusion, unless there is one: stops what runs, and gives up what waits.
    fn close(&mut self, conclusion: Conclusion, turn: &mut Turn<'_>) {
        match self.phase {
            Phase::New | Phase::Open => self.phase = Phase::Closing(conclusion),
            Phase::Closing(_) | Phase::Finished(_) => return,
        }
        for slot in self.frames.all() {
            // What runs of an item that has failed was stopped then.
            self.give_up(slot, !self.frames.is_lost(slot), turn);
        }
        if !self.lent.is_empty() {
            turn.actions.push(Action::Recall);
        }
        if let Conclusion::Failed { root } | Conclusion::Aborted { root } = conclusion {
            self.root_path = self.path(root.frame).expect("a job that runs has a frame");
            self.blame(root);
        }
    }

    /// Notes what failed in the frames around it, where nothing failed before.
    fn blame(&mut self, root: Job) {
        let mut slot = root.frame.slot;
        while slot != ROOT {
            let frame = self.frames.frame_mut(slot);
            frame.failed.get_or_insert(root);
            slot = frame.parent;
        }
    }

    fn give_up(&mut self, slot: u32, stops: bool, turn: &mut Turn<'_>) {
        let frame = self.frames.id(slot);
        for node in turn.wiring.nodes.of_source(self.frames.frame(slot).dimension.index()) {
            let given_up = self.frames.node_mut(turn.wiring, slot, *node);
            match given_up.state {
                State::Waiting => given_up.state = State::NeverStarted,
                State::Running { .. } if stops => {
                    turn.actions.push(Action::Stop { job: Job { frame, node: *node } });
                }
                State::Running { .. }
                | State::Done
                | State::Kept
                | State::Failed
                | State::Stopped
                | State::NeverStarted => {}
            }
        }
    }

    /// Starts what waited for this event alone.
    fn release(&mut self, slot: u32, event: Event, turn: &mut Turn<'_>) {
        let wiring = turn.wiring;
        let dimension = self.frames.frame(slot).dimension;
        for waiter in wiring.waiters(event) {
            let home = wiring.homes[waiter.index()];
            if home == dimension {
                self.arrive(slot, *waiter, turn);
                continue;
            }
            let mut found = std::mem::take(&mut self.found);
            self.frames.find_below(wiring, slot, home, &mut found);
            found.drain(..).for_each(|slot| self.arrive(slot, *waiter, turn));
            self.found = found;
        }
    }

    fn arrive(&mut self, slot: u32, waiter: NodeId, turn: &mut Turn<'_>) {
        let node = self.frames.node_mut(turn.wiring, slot, waiter);
        node.waits -= 1;
        if node.waits > 0 || node.state != State::Waiting {
            return;
        }
        let frame = self.frames.frame(slot);
        if frame.standing == Standing::Working && frame.stage == turn.wiring.stages[waiter.index()] {
            self.run(slot, waiter, turn);
        }
    }

    /// One thing less is to be done in a frame.
    fn step_forward(&mut self, slot: u32) {
        let frame = self.frames.frame_mut(slot);
        frame.todo -= 1;
        // What runs once is looked at in any case.
        if frame.todo == 0 && slot != ROOT {
            self.open.push(Open::Frame(slot));
        }
    }

    /// Looks at all that may have come to an end, until nothing more follows; finishes when nothing is left.
    fn conclude(&mut self, turn: &mut Turn<'_>) {
        while let Some(open) = self.open.pop() {
            match open {
                Open::Frame(slot) => self.pass(slot, turn),
                Open::Series(slot, dimension) => self.advance(slot, dimension, turn),
                Open::Lost(slot) => self.end_lost(slot, turn),
            }
        }
        if self.running > 0 {
            return;
        }
        let conclusion = match self.phase {
            Phase::Open if self.frames.frame(ROOT).todo == 0 => Conclusion::Done,
            Phase::New | Phase::Open | Phase::Finished(_) => return,
            Phase::Closing(conclusion) => conclusion,
        };
        self.end_within(ROOT, turn);
        self.phase = Phase::Finished(conclusion);
        turn.actions.push(Action::Finish(conclusion));
    }

    /// The frame of an element has nothing more to do in its stage.
    fn pass(&mut self, slot: u32, turn: &mut Turn<'_>) {
        let wiring = turn.wiring;
        let element = self.frames.element(slot);
        let frame = self.frames.frame_mut(slot);
        let (parent, stage) = (frame.parent, frame.stage);
        if stage + 1 == wiring.stage_count(element.dimension) {
            turn.actions.push(Action::Ended { element, how: Ending::Done });
            self.frames.end(wiring, slot);
        } else {
            frame.standing = Standing::Parked;
            turn.actions.push(Action::Passed { element, stage });
        }
        let series = self.frames.series_mut(wiring, parent, element.dimension);
        series.working -= 1;
        series.passed += 1;
        self.open.push(Open::Series(parent, element.dimension));
    }

    /// Lets as many elements on as there is room for, and closes the stage that all have passed.
    fn advance(&mut self, slot: u32, dimension: DimensionId, turn: &mut Turn<'_>) {
        let wiring = turn.wiring;
        let frame = self.frames.frame(slot);
        let (outer_stage, standing) = (frame.stage, frame.standing);
        if standing != Standing::Working {
            return;
        }
        while wiring.stage_parent(dimension, self.frames.series(wiring, slot, dimension).stage)
            == Some(outer_stage)
        {
            if self.phase == Phase::Open {
                self.fill(slot, dimension, turn);
            }
            let series = *self.frames.series(wiring, slot, dimension);
            if series.len != Some(series.passed) {
                return;
            }
            turn.actions.push(Action::Closed {
                frame: self.frames.id(slot),
                dimension,
                stage: series.stage,
                elements: series.passed,
                failed: series.failed,
            });
            self.frames.rewind(wiring, slot, dimension);
            if self.phase == Phase::Open {
                self.release(slot, wiring.closed(dimension, series.stage), turn);
            }
            if wiring.stage_parent(dimension, series.stage + 1) != Some(outer_stage) {
                self.step_forward(slot);
            }
        }
    }

    fn fill(&mut self, slot: u32, dimension: DimensionId, turn: &mut Turn<'_>) {
        loop {
            let series = self.frames.series(turn.wiring, slot, dimension);
            if series.working >= self.elements.width.get() {
                return;
            }
            if series.stage == 0 {
                if series.len.is_none_or(|len| series.opened >= len) {
                    return;
                }
                self.open_element(slot, dimension, turn);
            } else {
                let (element, stage) = (series.next, series.stage);
                if element == NONE {
                    return;
                }
                let next = self.frames.frame(element).next;
                let series = self.frames.series_mut(turn.wiring, slot, dimension);
                series.next = next;
                series.working += 1;
                self.enter(element, stage, turn);
            }
        }
    }

    fn open_element(&mut self, parent: u32, dimension: DimensionId, turn: &mut Turn<'_>) -> u32 {
        let slot = self.frames.open(turn.wiring, parent, dimension);
        turn.actions.push(Action::Open(self.frames.element(slot)));
        self.enter(slot, 0, turn);
        slot
    }

    /// Ends an item that has failed, and what is within it.
    fn end_lost(&mut self, slot: u32, turn: &mut Turn<'_>) {
        let frame = self.frames.frame(slot);
        if frame.standing == Standing::Ended {
            return;
        }
        let (parent, dimension) = (frame.parent, frame.dimension);
        self.end_within(slot, turn);
        self.failed_items += 1;
        let series = self.frames.series_mut(turn.wiring, parent, dimension);
        series.working -= 1;
        series.passed += 1;
        series.failed += 1;
        self.open.push(Open::Series(parent, dimension));
    }

    /// Ends a frame and what is within it, unless it is the root, which stays.
    fn end_within(&mut self, slot: u32, turn: &mut Turn<'_>) {
        if turn.wiring.parents.len() == 1 {
            return;
        }
        let mut found = std::mem::take(&mut self.found);
        self.frames.find_within(turn.wiring, slot, &mut found);
        for slot in found.drain(..).filter(|slot| *slot != ROOT) {
            let how = match self.frames.frame(slot).failed {
                Some(root) => Ending::Failed { root },
                None => Ending::Stopped,
            };
            turn.actions.push(Action::Ended { element: self.frames.element(slot), how });
            self.frames.end(turn.wiring, slot);
        }
        self.found = found;
    }
}
