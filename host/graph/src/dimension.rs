//! Owns the rules of dimensions: what an input adds to where a step runs, and whether dimensions go together.
//! Never knows what opens one.

use std::collections::HashSet;

use crate::port::Arity;

/// What runs together: [`DimensionId::ROOT`] is what runs once, and each other dimension what runs once for each
/// element of a list or for each item of a batch. Ids are those of one plan, parents before children.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DimensionId(pub(crate) u32);

impl DimensionId {
    /// What runs once.
    pub const ROOT: Self = Self(0);

    /// Returns the position in [`Plan::dimensions`](crate::Plan::dimensions).
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// How a step takes an input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Take {
    /// The value as it is: a message, or a list as its producer gave it. A message for an input of arity many is a list
    /// of one.
    #[default]
    Whole,
    /// One element of a list, or one item of a batch.
    Element,
    /// A list of what the source gave for each element, in their order.
    Gathered,
}

impl Take {
    /// Returns how a step takes a port: what its producer gives, what the step takes, and where the producer runs.
    pub(crate) fn of(gives: Arity, takes: Arity, home: DimensionId) -> Self {
        match (gives, takes) {
            (Arity::Many, Arity::One) => Self::Element,
            (Arity::One, Arity::Many) if home != DimensionId::ROOT => Self::Gathered,
            (Arity::One, _) | (Arity::Many, Arity::Many) => Self::Whole,
        }
    }
}

/// Dimensions by what encloses them.
#[derive(Debug)]
pub(crate) struct Tree {
    parents: Vec<DimensionId>,
    depths: Vec<u32>,
}

/// Two inputs of one step whose dimensions are unrelated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parting {
    /// The positions of the inputs.
    pub(crate) inputs: [usize; 2],
    /// The outermost dimension of each in which the other does not run.
    pub(crate) dimensions: [DimensionId; 2],
}

impl Tree {
    /// Returns the tree of the root alone.
    pub(crate) fn new() -> Self {
        Self { parents: vec![DimensionId::ROOT], depths: vec![0] }
    }

    pub(crate) fn add(&mut self, parent: DimensionId) -> DimensionId {
        let new = u32::try_from(self.parents.len()).expect("each dimension has an opener of its own");
        self.parents.push(parent);
        self.depths.push(self.depths[parent.index()] + 1);
        DimensionId(new)
    }

    /// Returns how many dimensions there are.
    pub(crate) fn len(&self) -> usize {
        self.parents.len()
    }

    /// Returns what encloses a dimension; for the root the root.
    pub(crate) fn parent(&self, dimension: DimensionId) -> DimensionId {
        self.parents[dimension.index()]
    }

    pub(crate) fn into_parents(self) -> Vec<DimensionId> {
        self.parents
    }

    /// Returns the dimension in which a step runs whose inputs contribute these: the innermost of them, which all others
    /// are to enclose. Adds each pair of which neither encloses the other.
    pub(crate) fn meet(
        &self,
        contributed: impl Iterator<Item = DimensionId>,
        partings: &mut Vec<Parting>,
    ) -> DimensionId {
        let (mut innermost, mut from) = (DimensionId::ROOT, 0);
        // What encloses the innermost, or parts from it, does so for all that are yet further in.
        let mut seen = HashSet::new();
        for (input, dimension) in contributed.enumerate() {
            if dimension == innermost || !seen.insert(dimension) {
                continue;
            }
            match self.part(innermost, dimension) {
                Some(dimensions) if partings.iter().all(|known| known.dimensions != dimensions) => {
                    partings.push(Parting { inputs: [from, input], dimensions });
                }
                None if self.depths[dimension.index()] > self.depths[innermost.index()] => {
                    (innermost, from) = (dimension, input);
                }
                Some(_) | None => {}
            }
        }
        innermost
    }

    /// Returns where two dimensions part; nothing where one encloses the other.
    fn part(&self, one: DimensionId, other: DimensionId) -> Option<[DimensionId; 2]> {
        let depth = self.depths[one.index()].min(self.depths[other.index()]);
        let (mut one, mut other) = (self.at_depth(one, depth), self.at_depth(other, depth));
        if one == other {
            return None;
        }
        while self.parent(one) != self.parent(other) {
            (one, other) = (self.parent(one), self.parent(other));
        }
        Some([one, other])
    }

    fn at_depth(&self, mut dimension: DimensionId, depth: u32) -> DimensionId {
        while self.depths[dimension.index()] > depth {
            dimension = self.parent(dimension);
        }
        dimension
    }
}
