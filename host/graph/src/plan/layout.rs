//! Lays the needed steps out as nodes: where each runs, and how it takes each input.

use std::sync::Arc;

use super::fault::{PlanFault, Repeated};
use super::needs::Given;
use super::stages::Stages;
use super::wiring::Wiring;
use super::{Dimension, Gathered, Input, NodeId, Opener, Plan, Source, node};
use crate::dimension::{DimensionId, Parting, Take, Tree};
use crate::edges::Edges;
use crate::graph::{Graph, PortId, StepId};
use crate::port::Arity;

/// What is to be planned.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) graph: &'a Graph,
    pub(super) target: PortId,
    pub(super) given: &'a Given,
    /// The position of the given input that comes as items.
    pub(super) items: Option<usize>,
}

/// The nodes of a plan in their dimensions.
pub(super) struct Layout {
    depths: Vec<u32>,
    steps: Vec<StepId>,
    target: (Source, DimensionId),
    pub(super) inputs: Edges<Input>,
    pub(super) tree: Tree,
    openers: Vec<Opener>,
    /// Where each node runs.
    pub(super) homes: Vec<DimensionId>,
    /// What each node opens; the root for nothing.
    pub(super) opens: Vec<DimensionId>,
    /// The dimension of the items; the root where there is none.
    pub(super) items: DimensionId,
}

impl Layout {
    /// Adds each step in which unrelated dimensions meet; what follows from such a step has no further fault.
    pub(super) fn of(asked: Asked<'_>, mut steps: Vec<(u32, StepId)>, faults: &mut Vec<PlanFault>) -> Self {
        let Asked { graph, target, given, items } = asked;
        steps.sort_unstable();
        let mut nodes = vec![NodeId(u32::MAX); graph.steps().len()];
        for (i, (_, step)) in steps.iter().enumerate() {
            nodes[step.index()] = node(i);
        }
        let source = |port: PortId| match (given.get(&port), graph.producer(port)) {
            (None, None) if graph.is_from_host(port) => Source::Failed,
            (Some(position), _) => Source::Given(*position),
            (None, Some(producer)) => Source::Node(nodes[producer.index()]),
            // A leaf that is missing: there is a fault, and no plan.
            (None, None) => Source::Given(usize::MAX),
        };
        let mut draft = Draft::new(asked, &steps);
        let mut inputs: Vec<(u32, Input)> = Vec::with_capacity(3 * steps.len());
        for (i, (_, step)) in (0..).zip(&steps) {
            let first = inputs.len();
            for (port, takes) in &graph.step(*step).inputs {
                inputs.push((i, draft.input(source(*port), *takes)));
            }
            draft.place(node(i as usize), &inputs[first..], faults);
        }
        let target_source = source(target);
        let target_dimension = match target_source {
            Source::Node(node) => draft.homes[node.index()],
            // Each item is asked for as it is.
            Source::Given(position) if items == Some(position) => draft.open_items(),
            Source::Given(_) | Source::Failed => DimensionId::ROOT,
        };
        let Draft { tree, openers, homes, opens, items_dimension, .. } = draft;
        Self {
            target: (target_source, target_dimension),
            inputs: Edges::of(steps.len(), inputs.into_iter()),
            tree,
            openers,
            homes,
            opens,
            items: items_dimension,
            depths: steps.iter().map(|(depth, _)| *depth).collect(),
            steps: steps.into_iter().map(|(_, step)| step).collect(),
        }
    }

    /// Builds the plan of a layout without a fault.
    pub(super) fn finish(self, target: PortId) -> Plan {
        let stages = Stages::of(&self);
        let ordered = self.items != DimensionId::ROOT && {
            let mut enclosing = self.target.1;
            while enclosing != self.items && enclosing != DimensionId::ROOT {
                enclosing = self.tree.parent(enclosing);
            }
            enclosing == self.items
        };
        let wiring = Wiring::of(&self, &stages, ordered);
        let gathered = self.gathered(&stages);
        let Self { depths, steps, target: (target_source, target_dimension), inputs, tree, openers, .. } =
            self;
        let parents = tree.into_parents();
        let dimensions = parents.iter().zip(&openers).enumerate();
        let dimensions = dimensions
            .map(|(i, (parent, opener))| Dimension {
                parent: *parent,
                opener: *opener,
                stages: stages.count(i),
            })
            .collect();
        Plan {
            target,
            target_source,
            target_dimension,
            steps,
            depths,
            inputs,
            dimensions,
            gathered,
            wiring: Arc::new(wiring),
        }
    }

    /// Returns what is gathered in the parent of each dimension, each once.
    fn gathered(&self, stages: &Stages) -> Edges<Gathered> {
        let all = (0..self.homes.len()).flat_map(|node| self.inputs.of_source(node));
        let mut pairs: Vec<(u32, Gathered)> = all
            .filter(|input| input.take == Take::Gathered)
            .map(|input| match input.source {
                Source::Node(node) => {
                    let stage = stages.of_node[node.index()];
                    (self.homes[node.index()].0, Gathered { stage, source: input.source })
                }
                Source::Given(_) | Source::Failed => {
                    (self.items.0, Gathered { stage: 0, source: input.source })
                }
            })
            // What no dimension has is a list that was given as a whole.
            .filter(|(dimension, _)| *dimension != DimensionId::ROOT.0)
            .collect();
        pairs.sort_unstable();
        pairs.dedup();
        Edges::of(self.openers.len(), pairs.into_iter())
    }
}

/// A layout in the making.
struct Draft<'a> {
    asked: Asked<'a>,
    steps: &'a [(u32, StepId)],
    items_dimension: DimensionId,
    tree: Tree,
    openers: Vec<Opener>,
    homes: Vec<DimensionId>,
    opens: Vec<DimensionId>,
    /// How much each node gives.
    gives: Vec<Arity>,
    /// Nodes of which nobody can say where they run.
    lost: Vec<NodeId>,
}

impl<'a> Draft<'a> {
    fn new(asked: Asked<'a>, steps: &'a [(u32, StepId)]) -> Self {
        Self {
            asked,
            steps,
            items_dimension: DimensionId::ROOT,
            tree: Tree::new(),
            openers: vec![Opener::Root],
            homes: vec![DimensionId::ROOT; steps.len()],
            opens: vec![DimensionId::ROOT; steps.len()],
            gives: steps.iter().map(|(_, step)| asked.graph.step(*step).output.1).collect(),
            lost: Vec::new(),
        }
    }

    /// Returns how an input is taken, and opens the dimension of its elements where none is open yet.
    fn input(&mut self, source: Source, takes: Arity) -> Input {
        let Source::Node(producer) = source else {
            if self.asked.items.is_none_or(|items| source != Source::Given(items)) {
                return Input { source, dimension: DimensionId::ROOT, take: Take::Whole };
            }
            return match takes {
                Arity::One => Input { source, dimension: self.open_items(), take: Take::Element },
                Arity::Many => Input { source, dimension: DimensionId::ROOT, take: Take::Gathered },
            };
        };
        let home = self.homes[producer.index()];
        let take = Take::of(self.gives[producer.index()], takes, home);
        let dimension = match take {
            Take::Whole => home,
            Take::Gathered => self.tree.parent(home),
            Take::Element => {
                let opened = &mut self.opens[producer.index()];
                if *opened == DimensionId::ROOT {
                    *opened = self.tree.add(home);
                    self.openers.push(Opener::Node(producer));
                }
                *opened
            }
        };
        Input { source, dimension, take }
    }

    fn open_items(&mut self) -> DimensionId {
        if let (DimensionId::ROOT, Some(items)) = (self.items_dimension, self.asked.items) {
            self.items_dimension = self.tree.add(DimensionId::ROOT);
            self.openers.push(Opener::Items(items));
        }
        self.items_dimension
    }

    /// Finds where a node runs.
    fn place(&mut self, node: NodeId, inputs: &[(u32, Input)], faults: &mut Vec<PlanFault>) {
        let mut partings = Vec::new();
        let home = self.tree.meet(inputs.iter().map(|(_, input)| input.dimension), &mut partings);
        self.homes[node.index()] = home;
        let is_lost = |input: &Input| matches!(input.source, Source::Node(node) if self.lost.contains(&node));
        if !self.lost.is_empty() && inputs.iter().any(|(_, input)| is_lost(input)) {
            self.lost.push(node);
            return;
        }
        if !partings.is_empty() {
            self.lost.push(node);
        }
        let step = self.asked.graph.step(self.steps[node.index()].1);
        faults.extend(partings.into_iter().map(|Parting { inputs, dimensions }| {
            let mut inputs = [0, 1].map(|i| self.repeated(step.inputs[inputs[i]].0, dimensions[i]));
            inputs.sort();
            PlanFault::UnrelatedDimensions { step: step.name.clone(), inputs: Box::new(inputs) }
        }));
    }

    fn repeated(&self, port: PortId, dimension: DimensionId) -> Repeated {
        let Asked { graph, given, items, .. } = self.asked;
        let (list, by) = match self.openers[dimension.index()] {
            Opener::Node(node) => {
                let opener = graph.step(self.steps[node.index()].1);
                (opener.output.0, Some(opener.name.clone()))
            }
            Opener::Items(_) | Opener::Root => {
                let position = given.iter().find(|(_, position)| Some(**position) == items);
                (*position.expect("the items are given").0, None)
            }
        };
        Repeated { port: graph.port(port).clone(), list: graph.port(list).clone(), by }
    }
}
