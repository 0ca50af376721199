//! Owns what the progress of an execution looks up: who waits for what, in flat arrays. Never changes.

use super::layout::Layout;
use super::stages::Stages;
use super::{NodeId, Source};
use crate::dimension::{DimensionId, Take};
use crate::edges::Edges;

/// Something in a frame that nodes wait for: that a node has a result, or that all elements of a dimension in that frame
/// have passed a stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Event(u32);

/// A plan as its executions need it.
#[derive(Debug)]
pub(crate) struct Wiring {
    /// The dimension of each node.
    pub(crate) homes: Vec<DimensionId>,
    /// The position of each node among those of its dimension.
    pub(crate) positions: Vec<u32>,
    /// The stage of each node in its dimension.
    pub(crate) stages: Vec<u32>,
    /// What each node opens; the root for nothing.
    pub(crate) opens: Vec<DimensionId>,
    /// For how many events in its own frame each node waits.
    pub(crate) inside: Vec<u32>,
    /// By dimension.
    pub(crate) nodes: Edges<NodeId>,
    /// By dimension: what encloses it.
    pub(crate) parents: Vec<DimensionId>,
    /// By dimension: those directly in it.
    pub(crate) children: Edges<DimensionId>,
    /// By dimension: its position among those of its parent.
    pub(crate) child: Vec<u32>,
    /// By dimension: what its nodes wait for in frames around their own.
    pub(crate) outside: Edges<(Event, NodeId)>,
    /// The dimension of the items; the root where there is none.
    pub(crate) items: DimensionId,
    /// Whether each item has a result of its own.
    pub(crate) ordered: bool,
    /// By event.
    waiters: Edges<NodeId>,
    stage_starts: Vec<u32>,
    stage_parents: Vec<u32>,
    stage_dimensions: Vec<DimensionId>,
    stage_work: Vec<u32>,
}

impl Wiring {
    pub(super) fn of(layout: &Layout, stages: &Stages, ordered: bool) -> Self {
        let (nodes, dimensions) = (layout.homes.len(), layout.tree.len());
        let all = (0u32..).map(DimensionId).take(dimensions);
        let parents: Vec<DimensionId> = all.clone().map(|dimension| layout.tree.parent(dimension)).collect();
        let mut positions = Vec::with_capacity(nodes);
        let mut counts = vec![0; dimensions];
        for home in &layout.homes {
            positions.push(counts[home.index()]);
            counts[home.index()] += 1;
        }
        let by_home = (0..).map(NodeId).zip(&layout.homes).map(|(node, home)| (home.0, node));
        let by_parent = all.clone().skip(1).map(|inner| (parents[inner.index()].0, inner));
        let children = Edges::of(dimensions, by_parent);
        let mut child = vec![0; dimensions];
        for outer in 0..dimensions {
            (0..).zip(children.of_source(outer)).for_each(|(i, inner)| child[inner.index()] = i);
        }
        let stage_dimensions = all
            .clone()
            .flat_map(|dimension| std::iter::repeat_n(dimension, stages.count(dimension.index()) as usize));
        let waits = Waits::of(layout, stages, &parents);
        Self {
            homes: layout.homes.clone(),
            positions,
            stages: stages.of_node.clone(),
            opens: layout.opens.clone(),
            inside: waits.inside,
            nodes: Edges::of(dimensions, by_home),
            children,
            child,
            outside: Edges::of(dimensions, waits.outside.into_iter()),
            items: layout.items,
            ordered,
            waiters: Edges::of(nodes + stages.parents.len(), waits.waiters.into_iter()),
            stage_starts: stages.starts.clone(),
            stage_parents: stages.parents.clone(),
            stage_work: work(layout, stages, &parents),
            stage_dimensions: stage_dimensions.collect(),
            parents,
        }
    }

    /// Returns all dimensions.
    pub(crate) fn all(&self) -> impl ExactSizeIterator<Item = DimensionId> + Clone + use<> {
        let count = u32::try_from(self.parents.len()).expect("each dimension has an opener of its own");
        (0..count).map(DimensionId)
    }

    /// Returns the event that a node has a result.
    pub(crate) fn done(node: NodeId) -> Event {
        Event(node.0)
    }

    /// Returns the event that all elements of a dimension have passed a stage.
    pub(crate) fn closed(&self, dimension: DimensionId, stage: u32) -> Event {
        Event(self.nodes_count() + self.stage_starts[dimension.index()] + stage)
    }

    /// Returns what an event says: the node, or the dimension with its stage.
    pub(crate) fn meaning(&self, event: Event) -> Result<NodeId, (DimensionId, u32)> {
        match event.0.checked_sub(self.nodes_count()) {
            None => Ok(NodeId(event.0)),
            Some(stage) => {
                let dimension = self.stage_dimensions[stage as usize];
                Err((dimension, stage - self.stage_starts[dimension.index()]))
            }
        }
    }

    /// Returns the nodes that wait for an event, each once.
    pub(crate) fn waiters(&self, event: Event) -> &[NodeId] {
        self.waiters.of_source(event.0 as usize)
    }

    /// Returns how many stages a dimension has.
    pub(crate) fn stage_count(&self, dimension: DimensionId) -> u32 {
        self.stage_starts[dimension.index() + 1] - self.stage_starts[dimension.index()]
    }

    /// Returns the stage of the parent to which a stage belongs; none past the last.
    pub(crate) fn stage_parent(&self, dimension: DimensionId, stage: u32) -> Option<u32> {
        let is_stage = stage < self.stage_count(dimension);
        is_stage.then(|| self.stage_parents[(self.stage_starts[dimension.index()] + stage) as usize])
    }

    /// Returns how much is to be done for an element to pass a stage: nodes, and dimensions in it.
    pub(crate) fn work(&self, dimension: DimensionId, stage: u32) -> u32 {
        self.stage_work[(self.stage_starts[dimension.index()] + stage) as usize]
    }

    fn nodes_count(&self) -> u32 {
        u32::try_from(self.homes.len()).expect("a plan's nodes are counted in 32 bits")
    }
}

/// Returns by stage how many nodes and inner dimensions it has.
fn work(layout: &Layout, stages: &Stages, parents: &[DimensionId]) -> Vec<u32> {
    let mut work = vec![0; stages.parents.len()];
    for (home, stage) in layout.homes.iter().zip(&stages.of_node) {
        work[(stages.starts[home.index()] + stage) as usize] += 1;
    }
    for inner in 1..parents.len() {
        let own = stages.starts[inner] as usize..stages.starts[inner + 1] as usize;
        let mut in_parent: Vec<u32> = stages.parents[own].to_vec();
        in_parent.dedup();
        for stage in in_parent {
            work[(stages.starts[parents[inner].index()] + stage) as usize] += 1;
        }
    }
    work
}

/// Who waits for what, each pair once.
struct Waits {
    inside: Vec<u32>,
    outside: Vec<(u32, (Event, NodeId))>,
    waiters: Vec<(u32, NodeId)>,
}

impl Waits {
    fn of(layout: &Layout, stages: &Stages, parents: &[DimensionId]) -> Self {
        let nodes = layout.homes.len();
        let mut waits =
            Self { inside: vec![0; nodes], outside: Vec::new(), waiters: Vec::with_capacity(2 * nodes) };
        let mut last = vec![u32::MAX; nodes + stages.parents.len()];
        for (i, home) in (0..).zip(&layout.homes) {
            for input in layout.inputs.of_source(i as usize) {
                let (event, at) = match (input.take, input.source) {
                    (Take::Whole, Source::Node(producer)) => (producer.index(), input.dimension),
                    (Take::Gathered, source) => {
                        let (from, stage) = match source {
                            Source::Node(node) => (layout.homes[node.index()], stages.of_node[node.index()]),
                            Source::Given(_) | Source::Failed => (layout.items, 0),
                        };
                        if from == DimensionId::ROOT {
                            continue;
                        }
                        let stage = stages.starts[from.index()] + stage;
                        (nodes + stage as usize, parents[from.index()])
                    }
                    // What is given is there, an element's list was there before it, and how many elements failed is known
                    // once the others are gathered.
                    (Take::Whole, Source::Given(_) | Source::Failed) | (Take::Element, _) => continue,
                };
                if std::mem::replace(&mut last[event], i) == i {
                    continue;
                }
                let number = u32::try_from(event).expect("a plan has fewer than 2^32 nodes and stages");
                waits.waiters.push((number, NodeId(i)));
                if at == *home {
                    waits.inside[i as usize] += 1;
                } else {
                    waits.outside.push((home.0, (Event(number), NodeId(i))));
                }
            }
        }
        waits
    }
}
