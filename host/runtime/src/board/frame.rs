//! Owns the values of the frames of one run: of what runs once, and of each element under way; and what is
//! gathered of elements that have ended. Never decides what runs.

use std::sync::Arc;

use docket_graph::{
    Arity, DimensionId, Element, FrameId, Input, Job, NodeId, Opener, Plan, Source, Take, failed_message,
};

use super::Node;
use crate::generation::Prepared;
use crate::key::ElementKey;
use crate::value::{Payload, Value};

/// All frames under way.
pub(super) struct Frames {
    /// By slot.
    slots: Vec<Option<Frame>>,
    /// The dimensions whose elements' results are passed on towards the result, by dimension.
    carries: Box<[bool]>,
    /// The nodes of frames that have ended, cleared for those that are opened next: never more than frames were under way
    /// at once.
    spare: Vec<Vec<Node>>,
}

/// What runs together: what runs once, or what runs for one element.
pub(super) struct Frame {
    id: FrameId,
    dimension: DimensionId,
    /// The frame around it, and which element of its list it is; none for what runs once.
    place: Option<(FrameId, u64)>,
    /// The element itself; none for what runs once.
    element: Option<Arc<Value>>,
    /// What stands for the element around it in keys; none where what runs once is around it.
    around_key: Option<Arc<[u8; 32]>>,
    /// What stands for its own; made for the first element within it.
    key: Option<Arc<[u8; 32]>>,
    /// In the order of the plan.
    pub(super) nodes: Vec<Node>,
    /// What was gathered of elements within.
    gathered: Vec<(Source, Gathered)>,
    /// How many elements within had failed when a stage of theirs was closed, where any had.
    failed: Vec<((DimensionId, u32), u64)>,
    /// The results of elements within, where they are passed on, by their index.
    results: Vec<Vec<Payload>>,
}

enum Gathered {
    /// By the index of the element; none of one that has not come so far, or failed.
    Open(Vec<Option<Payload>>),
    Closed(Arc<Value>),
}

impl Frames {
    /// Returns the frame of what runs once, alone.
    pub(super) fn new(plan: &Plan, uses: &[u32]) -> Self {
        // Only elements look here, and where the root is all there are none.
        let dimensions = Some(plan.dimensions().len()).filter(|dimensions| *dimensions > 1);
        let mut carries = vec![false; dimensions.unwrap_or(0)].into_boxed_slice();
        let (mut dimension, result) = (plan.target_dimension(), plan.result_dimension());
        while dimension != result {
            carries[dimension.index()] = true;
            dimension = plan.dimension(dimension).parent;
        }
        let root = Frame::new(plan, FrameId::ROOT, DimensionId::ROOT, uses, Vec::new());
        Self { slots: vec![Some(root)], carries, spare: Vec::new() }
    }

    /// Returns a frame that has not ended.
    pub(super) fn get(&self, id: FrameId) -> Option<&Frame> {
        self.slots.get(id.slot())?.as_ref().filter(|frame| frame.id == id)
    }

    fn get_mut(&mut self, id: FrameId) -> Option<&mut Frame> {
        self.slots.get_mut(id.slot())?.as_mut().filter(|frame| frame.id == id)
    }

    fn frame(&self, id: FrameId) -> &Frame {
        self.get(id).expect("a frame ends after all that is within it")
    }

    /// Returns all frames under way.
    pub(super) fn all(&self) -> impl Iterator<Item = &Frame> {
        self.slots.iter().flatten()
    }

    /// Returns a job's node, unless its frame has ended.
    pub(super) fn node_mut(&mut self, plan: &Plan, job: Job) -> Option<&mut Node> {
        Some(&mut self.get_mut(job.frame)?.nodes[plan.position(job.node)])
    }

    /// Makes room for the values of an element: of a list that a node has given, or of the items, of which it is given with
    /// its position among all.
    pub(super) fn open(
        &mut self,
        Prepared { plan, uses, .. }: &Prepared,
        element: Element,
        item: impl FnOnce() -> (Arc<Value>, u64),
    ) {
        let Element { frame, parent, dimension, index } = element;
        let nodes = self.spare.pop().unwrap_or_default();
        let around = self.get_mut(parent).expect("a frame ends after all that is within it");
        let (value, place) = match plan.dimension(dimension).opener {
            Opener::Root => unreachable!("what runs once has no elements"),
            Opener::Items(_) => item(),
            Opener::Node(opener) => {
                let list = around.nodes[plan.position(opener)].value.as_ref();
                let list = list.expect("a list has elements once it is there");
                let at = usize::try_from(index);
                let at = at.expect("a list in memory has fewer elements than there are addresses");
                (Arc::new(Value::One(list.payloads()[at].clone())), index)
            }
        };
        let mut opened = Frame::new(plan, frame, dimension, uses, nodes);
        opened.around_key = around.key();
        opened.place = Some((parent, place));
        opened.element = Some(value);
        if self.slots.len() <= frame.slot() {
            self.slots.resize_with(frame.slot() + 1, || None);
        }
        self.slots[frame.slot()] = Some(opened);
    }

    /// Returns the position of an element in its list, or of an item among all that were read.
    pub(super) fn index(&self, id: FrameId) -> u64 {
        self.frame(id).place.map_or(0, |(_, index)| index)
    }

    /// Returns the frames around a frame and itself, without what runs once, from the inmost: the dimension of each, and
    /// its index.
    pub(super) fn places(&self, id: FrameId) -> impl Iterator<Item = (FrameId, DimensionId, u64)> {
        let place =
            |frame: &Frame| frame.place.map(|(parent, index)| (parent, (frame.id, frame.dimension, index)));
        let first = self.get(id).and_then(place);
        std::iter::successors(first, move |(parent, _)| place(self.frame(*parent))).map(|(_, place)| place)
    }

    /// Returns the value of the target that was made for an item that is done.
    pub(super) fn item_result(&mut self, plan: &Plan, item: FrameId) -> Arc<Value> {
        let frame = self.frame(item);
        if frame.dimension != plan.target_dimension() {
            return Arc::new(Value::Many(self.results_of(plan, item)));
        }
        let value = frame.made(plan, plan.target_source());
        Arc::clone(value.expect("an item that is done has its result"))
    }

    /// Puts what is gathered of an element after a stage into the frame around it.
    pub(super) fn gather(&mut self, plan: &Plan, element: Element, stage: u32) {
        for gathered in plan.gathered(element.dimension).iter().filter(|gathered| gathered.stage == stage) {
            let value = self.frame(element.frame).made(plan, gathered.source);
            let payload =
                value.expect("what has passed a stage has the values of it").payloads().first().cloned();
            let around = self.get_mut(element.parent).expect("a frame ends after all that is within it");
            let Gathered::Open(list) = around.gathered_of(gathered.source) else {
                unreachable!("nothing is gathered after the end of it")
            };
            put(list, element.index, payload);
        }
    }

    /// Makes a list of what was gathered of all elements after a stage, and notes how many of them had failed.
    pub(super) fn close(
        &mut self,
        plan: &Plan,
        frame: FrameId,
        (dimension, stage): (DimensionId, u32),
        failed: u64,
    ) {
        let around = self.get_mut(frame).expect("a frame ends after all that is within it");
        if failed > 0 {
            around.failed.push(((dimension, stage), failed));
        }
        for gathered in plan.gathered(dimension).iter().filter(|gathered| gathered.stage == stage) {
            let gathered = around.gathered_of(gathered.source);
            if let Gathered::Open(list) = gathered {
                let list = std::mem::take(list).into_iter().flatten().collect();
                *gathered = Gathered::Closed(Arc::new(Value::Many(list)));
            }
        }
    }

    /// Takes the frame of an element that has ended, after it has passed on what becomes of its result.
    pub(super) fn end(&mut self, plan: &Plan, element: Element, done: bool) -> Frame {
        if done && self.carries[element.dimension.index()] {
            let results = self.results_of(plan, element.frame);
            let around = self.get_mut(element.parent).expect("a frame ends after all that is within it");
            put(&mut around.results, element.index, results);
        }
        let slot = self.slots[element.frame.slot()].take();
        slot.expect("a frame ends once")
    }

    /// Takes the nodes of a frame that has ended for the next that is opened: no element allocates what another has had.
    pub(super) fn recycle(&mut self, frame: Frame) {
        let mut nodes = frame.nodes;
        nodes.iter_mut().for_each(Node::clear);
        self.spare.push(nodes);
    }

    /// Returns the messages of the target that were made in a frame, in order.
    fn results_of(&mut self, plan: &Plan, id: FrameId) -> Vec<Payload> {
        let frame = self.get_mut(id).expect("asked of a frame that has not ended");
        if frame.dimension != plan.target_dimension() {
            return std::mem::take(&mut frame.results).into_iter().flatten().collect();
        }
        let value = frame.made(plan, plan.target_source());
        value.map(|value| value.payloads().to_vec()).unwrap_or_default()
    }

    /// Takes the result of a run that is done.
    pub(super) fn result(&mut self, plan: &Plan, given: &[Arc<Value>]) -> Arc<Value> {
        if plan.target_dimension() != DimensionId::ROOT {
            return Arc::new(Value::Many(self.results_of(plan, FrameId::ROOT)));
        }
        match plan.target_source() {
            Source::Given(index) => Arc::clone(&given[index]),
            Source::Node(node) => {
                let root = self.get_mut(FrameId::ROOT).expect("what runs once is there to the end");
                root.nodes[plan.position(node)].value.take().expect("a run that is done has its result")
            }
            Source::Failed => unreachable!("what the host counts is no target"),
        }
    }

    /// Returns the values for a job's inputs, each in the arity that its step takes. `unread` is how many items of a
    /// batch are no messages.
    pub(super) fn inputs(
        &self,
        plan: &Plan,
        job: Job,
        arities: impl Iterator<Item = Arity>,
        (given, unread): (&[Arc<Value>], u64),
    ) -> Vec<(Arc<Value>, Arity)> {
        let own = self.frame(job.frame);
        let value = |input: &Input| {
            if input.source == Source::Failed {
                return Some(Arc::new(Value::one(failed_message(self.failed(plan, job, unread)))));
            }
            let frame = self.around(own, input.dimension);
            match (input.take, input.source) {
                (Take::Element, _) => frame.element.as_ref(),
                // Items of which nothing runs for each were given as the list that they are.
                (Take::Gathered, Source::Given(index)) if plan.items().is_none() => given.get(index),
                (Take::Gathered, source) => frame.list_of(source),
                (Take::Whole, Source::Given(index)) => given.get(index),
                (Take::Whole, source) => frame.made(plan, source),
            }
            .cloned()
        };
        let value = |input| value(input).expect("a node starts after what it needs");
        plan.inputs(job.node).iter().map(value).zip(arities).collect()
    }

    /// Returns the values for the inputs of a node that is all that is done for an item; nothing in the place of the item.
    pub(super) fn inputs_of_items(
        &self,
        plan: &Plan,
        node: NodeId,
        arities: impl Iterator<Item = Arity>,
        given: &[Arc<Value>],
    ) -> Vec<(Arc<Value>, Arity)> {
        let once = self.frame(FrameId::ROOT);
        let value = |input: &Input| match (input.take, input.source) {
            (Take::Element, _) => Arc::new(Value::Many(Vec::new())),
            (_, Source::Given(index)) => Arc::clone(&given[index]),
            (_, source) => Arc::clone(once.made(plan, source).expect("items are lent after what they need")),
        };
        plan.inputs(node).iter().map(value).zip(arities).collect()
    }

    /// Returns how many elements had failed of those that a job gathers, when they were gathered.
    fn failed(&self, plan: &Plan, job: Job, unread: u64) -> u64 {
        // Items of which nothing runs for each come as a list, from which those that are no messages were left out.
        let takes_items =
            |input: &Input| input.take == Take::Gathered && matches!(input.source, Source::Given(_));
        if plan.items().is_none() && plan.inputs(job.node).iter().any(takes_items) {
            return unread;
        }
        let own = self.frame(job.frame);
        let failed = |from: (DimensionId, u32)| {
            let around = self.around(own, plan.dimension(from.0).parent);
            around.failed.iter().find(|(known, _)| *known == from).map_or(0, |(_, failed)| *failed)
        };
        plan.gathers_from(job.node).into_iter().map(failed).sum()
    }

    /// Returns the frame itself or the one around it that is of this dimension.
    fn around<'a>(&'a self, mut frame: &'a Frame, dimension: DimensionId) -> &'a Frame {
        while frame.dimension != dimension {
            let (parent, _) =
                frame.place.expect("a node takes values of its own dimension or of one around it");
            frame = self.frame(parent);
        }
        frame
    }

    /// Notes that a job has what it needed: drops each value of its own frame that it was the last to need.
    pub(super) fn drop_used(&mut self, plan: &Plan, job: Job) {
        let Some(frame) = self.get_mut(job.frame) else { return };
        for input in plan.inputs(job.node) {
            if let (Source::Node(node), Take::Whole) = (input.source, input.take)
                && input.dimension == frame.dimension
            {
                let source = &mut frame.nodes[plan.position(node)];
                source.uses -= 1;
                if source.uses == 0 {
                    source.value = None;
                }
            }
        }
    }
}

impl Frame {
    /// Returns a frame in which nothing has run, with the room of these nodes, which are cleared.
    fn new(plan: &Plan, id: FrameId, dimension: DimensionId, uses: &[u32], mut nodes: Vec<Node>) -> Self {
        let of = plan.nodes_in(dimension);
        // Most frames have few nodes, and a vector that grows would have room for more.
        nodes.reserve_exact(of.len().saturating_sub(nodes.len()));
        nodes.resize_with(of.len(), Node::default);
        nodes.iter_mut().zip(of).for_each(|(place, node)| place.uses = uses[node.index()]);
        let (around_key, key) = (None, None);
        let (gathered, failed, results) = (Vec::new(), Vec::new(), Vec::new());
        Self { id, dimension, place: None, element: None, around_key, key, nodes, gathered, failed, results }
    }

    /// Returns what stands for its element in the keys of those within; none for what runs once.
    fn key(&mut self) -> Option<Arc<[u8; 32]>> {
        if self.key.is_none() {
            self.key = self.element_key().map(|element| Arc::new(element.digest()));
        }
        self.key.clone()
    }

    /// Returns what the key of its work is made of; none for what runs once.
    pub(super) fn element_key(&self) -> Option<ElementKey> {
        let element = self.element.as_ref()?;
        Some(ElementKey::new(self.around_key.clone(), Arc::clone(element)))
    }

    /// Returns what was made in this frame: what a node has given, or its element.
    fn made(&self, plan: &Plan, source: Source) -> Option<&Arc<Value>> {
        match source {
            Source::Given(_) => self.element.as_ref(),
            Source::Node(node) => self.nodes[plan.position(node)].value.as_ref(),
            Source::Failed => None,
        }
    }

    pub(super) fn id(&self) -> FrameId {
        self.id
    }

    pub(super) fn dimension(&self) -> DimensionId {
        self.dimension
    }

    fn gathered_of(&mut self, source: Source) -> &mut Gathered {
        let at = self.gathered.iter().position(|(known, _)| *known == source).unwrap_or_else(|| {
            self.gathered.push((source, Gathered::Open(Vec::new())));
            self.gathered.len() - 1
        });
        &mut self.gathered[at].1
    }

    fn list_of(&self, source: Source) -> Option<&Arc<Value>> {
        match self.gathered.iter().find(|(known, _)| *known == source) {
            Some((_, Gathered::Closed(list))) => Some(list),
            Some((_, Gathered::Open(_))) | None => None,
        }
    }
}

/// Puts something at a place of a list, which grows as far as it must.
fn put<T: Default>(list: &mut Vec<T>, index: u64, what: T) {
    let at = usize::try_from(index).expect("a list in memory has fewer elements than there are addresses");
    if list.len() <= at {
        list.resize_with(at + 1, T::default);
    }
    list[at] = what;
}
