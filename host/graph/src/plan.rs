//! Owns the plan: the part of a graph that one target and the given inputs need, in order, and what of it runs once and
//! what once for each element. Never runs anything, and never sees a value.

mod fault;
mod needs;
mod defaults;
mod layout;
mod stages;
mod wiring;

use std::sync::Arc;

pub use defaults::{default_input, default_items, default_target};
pub use fault::{DefaultError, PlanErrors, PlanFault, Repeated, Unused};
pub(crate) use wiring::{Event, Wiring};

use crate::dimension::{DimensionId, Take};
use crate::edges::Edges;
use crate::graph::{Graph, PortId, StepId};
use crate::nearest::nearest;
use crate::port::Port;

use layout::{Asked, Layout};
use needs::{Needs, find_given};

/// A node of one plan: a step to run, once or for each element of its dimension. Ids follow the order of the plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) u32);

impl NodeId {
    /// Returns the position in [`Plan::nodes`].
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The given input at this position of the list that was passed.
    Given(usize),
    /// What a node gives.
    Node(NodeId),
    /// The host: how many elements have failed of those that the node gathers. See [`Plan::gathers_from`].
    Failed,
}

impl Default for Source {
    fn default() -> Self {
        Self::Given(0)
    }
}

/// One input of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Input {
    /// Where it comes from.
    pub source: Source,
    /// The dimension that has it: the node's own, or one that encloses that, for all whose elements it is the same. With
    /// [`Take::Element`] the dimension whose elements they are; with [`Take::Gathered`] the one in which they are
    /// gathered.
    pub dimension: DimensionId,
    /// What of it is taken.
    pub take: Take,
}

/// What runs together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dimension {
    /// What encloses it; for the root the root.
    pub parent: DimensionId,
    /// Where its elements come from.
    pub opener: Opener,
    /// In how many stages its elements are worked on: one, unless some step of an element needs what was gathered of all.
    /// A stage begins when all elements have passed the one before.
    pub stages: u32,
}

/// Where the elements of a dimension come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Opener {
    /// The root has no elements: it runs once.
    Root,
    /// They are the items of a batch, which come for the given input at this position.
    Items(usize),
    /// They are the list that a node of the parent gives.
    Node(NodeId),
}

/// What is gathered of each element of a dimension.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gathered {
    /// The stage of the elements after which it is there.
    pub stage: u32,
    /// A node of the dimension, or its items themselves.
    pub source: Source,
}

/// What one target needs: producers stand before consumers.
#[derive(Debug, Clone)]
pub struct Plan {
    target: PortId,
    target_source: Source,
    target_dimension: DimensionId,
    steps: Vec<StepId>,
    depths: Vec<u32>,
    inputs: Edges<Input>,
    dimensions: Vec<Dimension>,
    gathered: Edges<Gathered>,
    /// Shared with the progress of each execution.
    pub(crate) wiring: Arc<Wiring>,
}

impl Plan {
    /// Returns what the target needs beside the given inputs. A given input wins over its producer, and what only that
    /// producer needs is left out.
    ///
    /// # Errors
    /// Every reason why it cannot be computed from these inputs, and every input that it does not use.
    pub fn of(graph: &Graph, target: &Port, given: &[Port]) -> Result<Self, PlanErrors> {
        Self::with(graph, target, given, None)
    }

    /// Returns what the target needs of a batch: the given input at the position `items` comes as any number of items,
    /// all others once. What depends on an item runs once for each; a step that takes the items as many, or what was made
    /// of them, takes all of them at once.
    ///
    /// # Errors
    /// As [`Plan::of`], and each step in which the items meet elements of something else.
    ///
    /// # Panics
    /// If `items` is not a position of `given`.
    pub fn of_items(graph: &Graph, target: &Port, given: &[Port], items: usize) -> Result<Self, PlanErrors> {
        assert!(items < given.len(), "the items are one of the given inputs");
        Self::with(graph, target, given, Some(items))
    }

    fn with(graph: &Graph, target: &Port, given: &[Port], items: Option<usize>) -> Result<Self, PlanErrors> {
        let mut faults = Vec::new();
        let inputs = find_given(graph, given, &mut faults);
        let target_id = graph.find_port(target);
        let Some(target_id) = target_id.filter(|port| !graph.is_from_host(*port)) else {
            let nearest = nearest(target, graph.nameable()).cloned();
            faults.push(PlanFault::UnknownTarget { port: target.clone(), nearest });
            return Err(PlanErrors::of(faults));
        };
        let needs = Needs::of(graph, target_id, &inputs);
        needs.find_missing(graph, &mut faults);
        needs.find_unused(graph, target, &inputs, &mut faults);
        let asked = Asked { graph, target: target_id, given: &inputs, items };
        let layout = Layout::of(asked, needs.steps, &mut faults);
        if !faults.is_empty() {
            return Err(PlanErrors::of(faults));
        }
        Ok(layout.finish(target_id))
    }

    /// Returns the port that is computed.
    #[inline]
    pub fn target(&self) -> PortId {
        self.target
    }

    /// Returns where the target's value comes from.
    #[inline]
    pub fn target_source(&self) -> Source {
        self.target_source
    }

    /// Returns the dimension in which the target's value is made.
    #[inline]
    pub fn target_dimension(&self) -> DimensionId {
        self.target_dimension
    }

    /// Returns the dimension in which the target's values are gathered, in order, those of nested dimensions as one list:
    /// the items', if each item has a value of its own, else the root.
    #[inline]
    pub fn result_dimension(&self) -> DimensionId {
        if self.wiring.ordered { self.wiring.items } else { DimensionId::ROOT }
    }

    /// Returns how many nodes there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Returns whether nothing needs to run, because the target is given.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Returns all nodes, by depth and then by the step's name.
    #[inline]
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = (NodeId, StepId)> {
        (0..self.steps.len()).map(|i| (node(i), self.steps[i]))
    }

    /// Returns the step of a node.
    #[inline]
    pub fn step(&self, node: NodeId) -> StepId {
        self.steps[node.index()]
    }

    /// Returns each input of a node, in the order of the step's declaration.
    #[inline]
    pub fn inputs(&self, node: NodeId) -> &[Input] {
        self.inputs.of_source(node.index())
    }

    /// Returns the dimensions whose elements a node gathers, each with the last stage after which it does: [`Source::Failed`]
    /// is how many elements of them had failed by then. Only items fail alone, so of all these numbers at most one is not 0.
    pub fn gathers_from(&self, node: NodeId) -> Vec<(DimensionId, u32)> {
        let gathered = self.inputs(node).iter().filter(|input| input.take == Take::Gathered);
        let mut from: Vec<(DimensionId, u32)> = Vec::new();
        for (dimension, stage) in gathered.filter_map(|input| match input.source {
            Source::Node(source) => Some((self.dimension_of(source), self.stage(source))),
            // Items of which nothing runs for each have no dimension.
            Source::Given(_) => self.items().map(|items| (items, 0)),
            Source::Failed => None,
        }) {
            match from.iter_mut().find(|(known, _)| *known == dimension) {
                Some((_, last)) => *last = stage.max(*last),
                None => from.push((dimension, stage)),
            }
        }
        from
    }

    /// Returns the longest way from the inputs to a node, in steps before it: 0 for one that can start at once.
    pub fn depth(&self, node: NodeId) -> u32 {
        self.depths[node.index()]
    }

    /// Returns all dimensions: the root, then the others in the order in which a node, or the target, first needs them.
    pub fn dimensions(&self) -> impl ExactSizeIterator<Item = (DimensionId, &Dimension)> {
        self.wiring.all().zip(&self.dimensions)
    }

    /// Returns where the elements of a dimension come from, and how they are worked on.
    #[inline]
    pub fn dimension(&self, dimension: DimensionId) -> &Dimension {
        &self.dimensions[dimension.index()]
    }

    /// Returns the dimension in which a node runs.
    #[inline]
    pub fn dimension_of(&self, node: NodeId) -> DimensionId {
        self.wiring.homes[node.index()]
    }

    /// Returns the stage of its dimension in which a node runs, from 0.
    pub fn stage(&self, node: NodeId) -> u32 {
        self.wiring.stages[node.index()]
    }

    /// Returns the nodes of a dimension, in the order of the plan.
    #[inline]
    pub fn nodes_in(&self, dimension: DimensionId) -> &[NodeId] {
        self.wiring.nodes.of_source(dimension.index())
    }

    /// Returns the position of a node among those of its dimension.
    #[inline]
    pub fn position(&self, node: NodeId) -> usize {
        self.wiring.positions[node.index()] as usize
    }

    /// Returns the dimension whose elements are the list that a node gives, if one is.
    pub fn opened_by(&self, node: NodeId) -> Option<DimensionId> {
        Some(self.wiring.opens[node.index()]).filter(|opened| *opened != DimensionId::ROOT)
    }

    /// Returns the dimension of the items of a batch. None if nothing runs for each item, and none is asked for as it is:
    /// then all of them, as a list, are the value of the given input, and are needed before the start.
    #[inline]
    pub fn items(&self) -> Option<DimensionId> {
        Some(self.wiring.items).filter(|items| *items != DimensionId::ROOT)
    }

    /// Returns the one node that is all that is done for an item, where its value is the item's result: what it takes is the
    /// item itself, or the same for all.
    pub fn sole_of_items(&self) -> Option<NodeId> {
        let items = self.items()?;
        let [node] = *self.nodes_in(items) else { return None };
        let is_plain = |input: &Input| match (input.take, input.source) {
            (Take::Element, Source::Given(_)) => true,
            (Take::Whole, Source::Given(_) | Source::Node(_)) => input.dimension == DimensionId::ROOT,
            (Take::Element | Take::Gathered, _) | (Take::Whole, Source::Failed) => false,
        };
        // All else that the target needs comes before it, so that nothing is gathered of the items, and each has its result.
        let is_sole = self.target_source == Source::Node(node) && self.inputs(node).iter().all(is_plain);
        is_sole.then_some(node)
    }

    /// Returns what is gathered of the elements of a dimension for steps that take many. What is gathered of the target is
    /// not among it, if no step takes that.
    #[inline]
    pub fn gathered(&self, dimension: DimensionId) -> &[Gathered] {
        self.gathered.of_source(dimension.index())
    }
}

fn node(index: usize) -> NodeId {
    NodeId(u32::try_from(index).expect("a plan has no more nodes than its graph has steps"))
}
