//! Owns the frames of one execution: for each, its nodes and the elements within it. Places are used again, so that a
//! million items one after the other take the memory of those under way. Decides nothing.

use super::{Element, FrameId, Job, State};
use crate::dimension::DimensionId;
use crate::plan::{Event, NodeId, Wiring};

/// The place of a frame that runs once.
pub(super) const ROOT: u32 = 0;
/// No frame.
pub(super) const NONE: u32 = u32::MAX;

/// All frames of an execution.
#[derive(Debug)]
pub(super) struct Frames {
    frames: Vec<Frame>,
    /// The nodes of all frames, those of each together.
    nodes: Vec<Node>,
    /// The elements within each frame, by the inner dimensions of its own.
    series: Vec<Series>,
    /// By dimension: places that may be used again.
    free: Vec<Vec<u32>>,
    /// Places of frames that have ended since the last reclaim.
    ended: Vec<u32>,
}

/// The nodes of a plan that run together.
#[derive(Debug)]
pub(super) struct Frame {
    generation: u32,
    pub(super) dimension: DimensionId,
    pub(super) parent: u32,
    pub(super) index: u64,
    /// The frame of the item that it is or is within.
    pub(super) item: u32,
    pub(super) standing: Standing,
    pub(super) stage: u32,
    /// How many nodes and series are still to be done in its stage.
    pub(super) todo: u32,
    /// Of an item: how many jobs of it and within it run.
    pub(super) running: u32,
    /// What failed for good in it or within it.
    pub(super) failed: Option<Job>,
    /// Its neighbours among the elements that have not ended, by index.
    previous: u32,
    pub(super) next: u32,
    first_node: usize,
    first_series: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is under way.
    Working,
    /// It has passed a stage, and the next has not begun.
    Parked,
    /// It is over.
    Ended,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    pub(super) state: State,
    /// How many events it still waits for.
    pub(super) waits: u32,
    pub(super) attempts: u32,
}

/// The elements of one dimension within one frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Series {
    /// Whether there are elements: for a list once it is there, for items from the start.
    pub(super) begun: bool,
    /// How many elements there are, once that is known.
    pub(super) len: Option<u64>,
    /// How many were opened.
    pub(super) opened: u64,
    /// The stage that they are in.
    pub(super) stage: u32,
    /// How many have passed it, those that failed included.
    pub(super) passed: u64,
    pub(super) failed: u64,
    /// How many are under way.
    pub(super) working: u32,
    first: u32,
    last: u32,
    /// The next to enter the stage, past the first.
    pub(super) next: u32,
}

const NO_SERIES: Series = Series {
    begun: false,
    len: None,
    opened: 0,
    stage: 0,
    passed: 0,
    failed: 0,
    working: 0,
    first: NONE,
    last: NONE,
    next: NONE,
};

impl Frames {
    /// Returns the frame of what runs once.
    pub(super) fn new(wiring: &Wiring) -> Self {
        // What is only ever of elements is made where there can be some.
        let free = if wiring.parents.len() > 1 { vec![Vec::new(); wiring.parents.len()] } else { Vec::new() };
        let mut frames = Self {
            frames: Vec::new(),
            nodes: Vec::with_capacity(wiring.nodes.of_source(0).len()),
            series: Vec::new(),
            free,
            ended: Vec::new(),
        };
        frames.add(wiring, DimensionId::ROOT);
        frames
    }

    /// Opens the frame of the next element, as the last of its series.
    pub(super) fn open(&mut self, wiring: &Wiring, parent: u32, dimension: DimensionId) -> u32 {
        let series = self.series_mut(wiring, parent, dimension);
        let index = series.opened;
        series.opened += 1;
        self.open_at(wiring, parent, dimension, index)
    }

    /// Opens the frame of an element that counts as opened, at its place in its series.
    pub(super) fn open_at(
        &mut self,
        wiring: &Wiring,
        parent: u32,
        dimension: DimensionId,
        index: u64,
    ) -> u32 {
        let slot = match self.free[dimension.index()].pop() {
            Some(slot) => {
                self.renew(wiring, slot, dimension);
                slot
            }
            None => self.add(wiring, dimension),
        };
        let item = if dimension == wiring.items { slot } else { self.frames[parent as usize].item };
        let mut previous = self.series(wiring, parent, dimension).last;
        while previous != NONE && self.frames[previous as usize].index > index {
            previous = self.frames[previous as usize].previous;
        }
        let series = self.series_mut(wiring, parent, dimension);
        series.working += 1;
        let next = match previous {
            NONE => std::mem::replace(&mut series.first, slot),
            previous => std::mem::replace(&mut self.frames[previous as usize].next, slot),
        };
        match next {
            NONE => self.series_mut(wiring, parent, dimension).last = slot,
            next => self.frames[next as usize].previous = slot,
        }
        let frame = &mut self.frames[slot as usize];
        (frame.parent, frame.index, frame.item) = (parent, index, item);
        (frame.previous, frame.next) = (previous, next);
        for (event, waiter) in wiring.outside.of_source(dimension.index()) {
            if !self.happened(wiring, slot, *event) {
                self.node_mut(wiring, slot, *waiter).waits += 1;
            }
        }
        slot
    }

    fn add(&mut self, wiring: &Wiring, dimension: DimensionId) -> u32 {
        let slot = u32::try_from(self.frames.len()).expect("frames that are under way at once fit in memory");
        let (first_node, first_series) = (self.nodes.len(), self.series.len());
        self.frames.push(Frame::new(dimension, 0, first_node, first_series));
        let nodes = wiring.nodes.of_source(dimension.index()).iter();
        self.nodes.extend(nodes.map(|node| Node::new(wiring, *node)));
        let children = wiring.children.of_source(dimension.index()).len();
        self.series.extend(std::iter::repeat_n(NO_SERIES, children));
        slot
    }

    fn renew(&mut self, wiring: &Wiring, slot: u32, dimension: DimensionId) {
        let Frame { generation, first_node, first_series, .. } = self.frames[slot as usize];
        self.frames[slot as usize] =
            Frame::new(dimension, generation.wrapping_add(1), first_node, first_series);
        let nodes = wiring.nodes.of_source(dimension.index());
        for (place, node) in self.nodes[first_node..].iter_mut().zip(nodes) {
            *place = Node::new(wiring, *node);
        }
        let children = wiring.children.of_source(dimension.index()).len();
        self.series[first_series..first_series + children].fill(NO_SERIES);
    }

    /// Takes an element that has ended from its series. Its place is kept until the next [`Frames::reclaim`].
    pub(super) fn end(&mut self, wiring: &Wiring, slot: u32) {
        let Frame { parent, dimension, previous, next, .. } = self.frames[slot as usize];
        match previous {
            NONE => self.series_mut(wiring, parent, dimension).first = next,
            previous => self.frames[previous as usize].next = next,
        }
        match next {
            NONE => self.series_mut(wiring, parent, dimension).last = previous,
            next => self.frames[next as usize].previous = previous,
        }
        self.frames[slot as usize].standing = Standing::Ended;
        self.ended.push(slot);
    }

    /// Lets the places of frames that have ended be used again.
    pub(super) fn reclaim(&mut self) {
        while let Some(slot) = self.ended.pop() {
            self.free[self.frames[slot as usize].dimension.index()].push(slot);
        }
    }

    #[inline]
    pub(super) fn frame(&self, slot: u32) -> &Frame {
        &self.frames[slot as usize]
    }

    pub(super) fn frame_mut(&mut self, slot: u32) -> &mut Frame {
        &mut self.frames[slot as usize]
    }

    /// Returns the places of all frames that have not ended.
    pub(super) fn all(&self) -> impl Iterator<Item = u32> + use<> {
        let live: Vec<u32> = (0..)
            .zip(&self.frames)
            .filter(|(_, frame)| frame.standing != Standing::Ended)
            .map(|f| f.0)
            .collect();
        live.into_iter()
    }

    #[inline]
    pub(super) fn node(&self, wiring: &Wiring, slot: u32, node: NodeId) -> &Node {
        &self.nodes[self.frames[slot as usize].first_node + wiring.positions[node.index()] as usize]
    }

    pub(super) fn node_mut(&mut self, wiring: &Wiring, slot: u32, node: NodeId) -> &mut Node {
        &mut self.nodes[self.frames[slot as usize].first_node + wiring.positions[node.index()] as usize]
    }

    pub(super) fn series(&self, wiring: &Wiring, slot: u32, dimension: DimensionId) -> &Series {
        &self.series[self.frames[slot as usize].first_series + wiring.child[dimension.index()] as usize]
    }

    pub(super) fn series_mut(&mut self, wiring: &Wiring, slot: u32, dimension: DimensionId) -> &mut Series {
        &mut self.series[self.frames[slot as usize].first_series + wiring.child[dimension.index()] as usize]
    }

    /// Makes all elements that have not ended enter the next stage, as far as there is room.
    pub(super) fn rewind(&mut self, wiring: &Wiring, slot: u32, dimension: DimensionId) {
        let series = self.series_mut(wiring, slot, dimension);
        series.stage += 1;
        series.passed = series.failed;
        series.next = series.first;
    }

    /// Returns the index of the first element that has not ended; of none, how many were opened.
    pub(super) fn first_index(&self, series: &Series) -> u64 {
        match series.first {
            NONE => series.opened,
            first => self.frames[first as usize].index,
        }
    }

    pub(super) fn id(&self, slot: u32) -> FrameId {
        FrameId { slot, generation: self.frames[slot as usize].generation }
    }

    pub(super) fn element(&self, slot: u32) -> Element {
        let Frame { parent, dimension, index, .. } = self.frames[slot as usize];
        Element { frame: self.id(slot), parent: self.id(parent), dimension, index }
    }

    /// Returns the place of a frame, unless it is another's by now.
    #[inline]
    pub(super) fn find(&self, frame: FrameId) -> Option<u32> {
        let known = self.frames.get(frame.slot())?;
        (known.generation == frame.generation).then_some(frame.slot)
    }

    /// Returns whether the item that a frame is within has failed.
    pub(super) fn is_lost(&self, slot: u32) -> bool {
        match self.frames[slot as usize].item {
            NONE => false,
            item => self.frames[item as usize].failed.is_some(),
        }
    }

    /// Returns whether something has come to be in the frame, or in one around it.
    pub(super) fn happened(&self, wiring: &Wiring, mut slot: u32, event: Event) -> bool {
        let meaning = wiring.meaning(event);
        let home = match meaning {
            Ok(node) => wiring.homes[node.index()],
            Err((dimension, _)) => wiring.parents[dimension.index()],
        };
        while self.frames[slot as usize].dimension != home {
            slot = self.frames[slot as usize].parent;
        }
        match meaning {
            Ok(node) => matches!(self.node(wiring, slot, node).state, State::Done | State::Kept),
            Err((dimension, stage)) => self.series(wiring, slot, dimension).stage > stage,
        }
    }

    /// Adds the frames of a dimension within a frame of one that encloses it.
    pub(super) fn find_below(
        &self,
        wiring: &Wiring,
        slot: u32,
        dimension: DimensionId,
        found: &mut Vec<u32>,
    ) {
        let top = self.frames[slot as usize].dimension;
        let enclosing = std::iter::successors(Some(dimension), |inner| Some(wiring.parents[inner.index()]));
        let way: Vec<DimensionId> = enclosing.take_while(|dimension| *dimension != top).collect();
        found.push(slot);
        for dimension in way.iter().rev() {
            let outer = found.len();
            for i in 0..outer {
                self.add_elements(wiring, found[i], *dimension, found);
            }
            found.drain(..outer);
        }
    }

    /// Adds all frames within a frame, inner before outer and by index, and then itself.
    pub(super) fn find_within(&self, wiring: &Wiring, slot: u32, found: &mut Vec<u32>) {
        let start = found.len();
        let mut open = vec![slot];
        while let Some(slot) = open.pop() {
            found.push(slot);
            for dimension in wiring.children.of_source(self.frames[slot as usize].dimension.index()) {
                self.add_elements(wiring, slot, *dimension, &mut open);
            }
        }
        found[start..].reverse();
    }

    fn add_elements(&self, wiring: &Wiring, slot: u32, dimension: DimensionId, found: &mut Vec<u32>) {
        let mut element = self.series(wiring, slot, dimension).first;
        while element != NONE {
            found.push(element);
            element = self.frames[element as usize].next;
        }
    }
}

impl Frame {
    fn new(dimension: DimensionId, generation: u32, first_node: usize, first_series: usize) -> Self {
        Self {
            generation,
            dimension,
            parent: NONE,
            index: 0,
            item: NONE,
            standing: Standing::Working,
            stage: 0,
            todo: 0,
            running: 0,
            failed: None,
            previous: NONE,
            next: NONE,
            first_node,
            first_series,
        }
    }
}

impl Node {
    fn new(wiring: &Wiring, node: NodeId) -> Self {
        Self { state: State::Waiting, waits: wiring.inside[node.index()], attempts: 0 }
    }
}
