//! Decides in how many stages the elements of a dimension are worked on.
//!
//! What gathers from a dimension waits for all its elements, and only so many are under way at once. So an element must
//! not hold its place while it waits for something that, by whatever way, waits for all elements: it does what it can,
//! gives up its place, and goes on in a later stage. Only dimensions on such a circle have more than one stage.

use std::collections::BTreeSet;

use super::layout::Layout;
use super::{Input, Source};
use crate::cycle::components;
use crate::dimension::{DimensionId, Take};
use crate::edges::Edges;

/// The stages of each dimension, one after the other.
pub(super) struct Stages {
    /// The stage of each node in its dimension.
    pub(super) of_node: Vec<u32>,
    /// Where the stages of each dimension begin, and where the last end.
    pub(super) starts: Vec<u32>,
    /// The stage of the enclosing dimension to which each belongs.
    pub(super) parents: Vec<u32>,
}

impl Stages {
    pub(super) fn of(layout: &Layout) -> Self {
        let dimensions = layout.tree.len();
        let circles = Circles::of(layout);
        if circles.dimensions.is_empty() {
            return Self {
                of_node: vec![0; layout.homes.len()],
                starts: (0..=dimensions).map(count).collect(),
                parents: vec![0; dimensions],
            };
        }
        let levels = circles.levels(layout);
        let within = levels_within(layout, &levels);
        let own_cuts = circles.cuts(layout, &levels);
        let mut stages = Self { of_node: Vec::new(), starts: vec![0], parents: Vec::new() };
        // By dimension: the levels after which a new stage begins, and how many of them lie before each stage.
        let mut cuts: Vec<Vec<u32>> = Vec::with_capacity(dimensions);
        let mut keys: Vec<Vec<usize>> = Vec::with_capacity(dimensions);
        for (i, within) in within.iter().enumerate() {
            let parent = layout.tree.parent(DimensionId(count(i))).index();
            let mut cut = if i == 0 { Vec::new() } else { cuts[parent].clone() };
            cut.extend(&own_cuts[i]);
            cut.sort_unstable();
            cut.dedup();
            let mut key = Vec::new();
            for level in within {
                let before = before(&cut, *level);
                if key.last() != Some(&before) {
                    key.push(before);
                    let enclosing = if i == 0 { 0 } else { stage(&cuts[parent], &keys[parent], *level) };
                    stages.parents.push(enclosing);
                }
            }
            stages.starts.push(count(stages.parents.len()));
            cuts.push(cut);
            keys.push(key);
        }
        let nodes = layout.homes.iter().map(|home| home.index()).zip(&levels);
        stages.of_node = nodes.map(|(home, level)| stage(&cuts[home], &keys[home], *level)).collect();
        stages
    }

    /// Returns how many stages a dimension has.
    pub(super) fn count(&self, dimension: usize) -> u32 {
        self.starts[dimension + 1] - self.starts[dimension]
    }
}

/// What waits, by whatever way, for itself, if whoever gathers waits for all that is done with each element.
struct Circles {
    /// Which nodes and dimensions wait for each other: by node, then by dimension.
    of: Vec<u32>,
    /// The dimensions that are on a circle.
    dimensions: BTreeSet<usize>,
}

impl Circles {
    fn of(layout: &Layout) -> Self {
        let (nodes, dimensions) = (layout.homes.len(), layout.tree.len());
        let mut waits: Vec<(u32, u32)> = Vec::new();
        let mut gathers = false;
        for i in 0..nodes {
            for input in layout.inputs.of_source(i) {
                if let Some(dimension) = gathered_from(layout, input) {
                    gathers = true;
                    waits.push((count(i), count(nodes + dimension.index())));
                } else if let Source::Node(producer) = input.source {
                    waits.push((count(i), producer.0));
                }
            }
        }
        if !gathers {
            return Self { of: Vec::new(), dimensions: BTreeSet::new() };
        }
        waits.extend((0..).zip(&layout.homes).map(|(node, home)| (count(nodes + home.index()), node)));
        waits.extend((1..dimensions).map(|inner| {
            let outer = layout.tree.parent(DimensionId(count(inner))).index();
            (count(nodes + outer), count(nodes + inner))
        }));
        let of = components(&Edges::of(nodes + dimensions, waits.into_iter()));
        let mut sizes = vec![0; nodes + dimensions];
        of.iter().for_each(|circle| sizes[*circle as usize] += 1);
        let on_one = |dimension: &usize| sizes[of[nodes + dimension] as usize] > 1;
        let dimensions = (1..dimensions).filter(on_one).collect();
        Self { of, dimensions }
    }

    /// Returns for each node how often, at most, something on its circle was gathered before it.
    fn levels(&self, layout: &Layout) -> Vec<u32> {
        let mut levels: Vec<u32> = Vec::with_capacity(layout.homes.len());
        for i in 0..layout.homes.len() {
            let inputs = layout.inputs.of_source(i).iter();
            let level = inputs.map(|input| self.level(layout, i, input, &levels)).max().unwrap_or(0);
            levels.push(level);
        }
        levels
    }

    fn level(&self, layout: &Layout, node: usize, input: &Input, levels: &[u32]) -> u32 {
        let before = match input.source {
            Source::Node(producer) => levels[producer.index()],
            Source::Given(_) | Source::Failed => 0,
        };
        let on_circle = |from: DimensionId| self.of[layout.homes.len() + from.index()] == self.of[node];
        before + u32::from(gathered_from(layout, input).is_some_and(on_circle))
    }

    /// Returns for each dimension the levels after which its elements give up their places: those before what comes from
    /// outside of it and was gathered.
    fn cuts(&self, layout: &Layout, levels: &[u32]) -> Vec<BTreeSet<u32>> {
        let mut cuts = vec![BTreeSet::new(); layout.tree.len()];
        for (i, home) in layout.homes.iter().enumerate() {
            for input in layout.inputs.of_source(i).iter().filter(|input| input.take != Take::Element) {
                let Some(cut) = self.level(layout, i, input, levels).checked_sub(1) else { continue };
                let mut inner = *home;
                while inner != input.dimension {
                    if self.dimensions.contains(&inner.index()) {
                        cuts[inner.index()].insert(cut);
                    }
                    inner = layout.tree.parent(inner);
                }
            }
        }
        cuts
    }
}

/// Returns the dimension of whose elements an input is gathered.
fn gathered_from(layout: &Layout, input: &Input) -> Option<DimensionId> {
    let from = match (input.take, input.source) {
        (Take::Gathered, Source::Node(producer)) => layout.homes[producer.index()],
        (Take::Gathered, Source::Given(_)) => layout.items,
        (Take::Gathered, Source::Failed) | (Take::Whole | Take::Element, _) => return None,
    };
    // The items themselves may be gathered where nothing runs for each.
    Some(from).filter(|from| *from != DimensionId::ROOT)
}

/// Returns the levels of all that runs in each dimension and those that it encloses.
fn levels_within(layout: &Layout, levels: &[u32]) -> Vec<BTreeSet<u32>> {
    let mut within = vec![BTreeSet::new(); layout.tree.len()];
    for (home, level) in layout.homes.iter().zip(levels) {
        within[home.index()].insert(*level);
    }
    let mut all = (0..layout.homes.len()).flat_map(|node| layout.inputs.of_source(node));
    if all.any(|input| input.take == Take::Gathered && matches!(input.source, Source::Given(_))) {
        // Items are there before anything runs, and are gathered then.
        within[layout.items.index()].insert(0);
    }
    for inner in (1..within.len()).rev() {
        let outer = layout.tree.parent(DimensionId(count(inner))).index();
        let (before, after) = within.split_at_mut(inner);
        before[outer].extend(&after[0]);
    }
    within
}

fn stage(cuts: &[u32], keys: &[usize], level: u32) -> u32 {
    count(keys.binary_search(&before(cuts, level)).expect("a dimension knows the levels of what runs in it"))
}

fn before(cuts: &[u32], level: u32) -> usize {
    cuts.partition_point(|cut| *cut < level)
}

fn count(of: usize) -> u32 {
    u32::try_from(of).expect("a plan has fewer than 2^32 nodes and dimensions")
}
