//! Owns the shape of a sparse directed graph: for each source its targets, in two flat arrays.

/// Edges by source: `targets[starts[i]..starts[i + 1]]` are those of `i`.
#[derive(Debug, Clone)]
pub(crate) struct Edges<T = u32> {
    starts: Vec<u32>,
    targets: Vec<T>,
}

impl<T: Copy + Default> Edges<T> {
    /// Groups pairs of source and target by source. Targets keep the order of the pairs.
    pub(crate) fn of(sources: usize, pairs: impl Iterator<Item = (u32, T)> + Clone) -> Self {
        let mut starts = vec![0u32; sources + 1];
        for (source, _) in pairs.clone() {
            starts[source as usize + 1] += 1;
        }
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        let mut next = starts.clone();
        let mut targets = vec![T::default(); starts[sources] as usize];
        for (source, target) in pairs {
            let slot = &mut next[source as usize];
            targets[*slot as usize] = target;
            *slot += 1;
        }
        Self { starts, targets }
    }

    pub(crate) fn of_source(&self, source: usize) -> &[T] {
        &self.targets[self.starts[source] as usize..self.starts[source + 1] as usize]
    }

    /// Returns how many sources there are.
    pub(crate) fn sources(&self) -> usize {
        self.starts.len() - 1
    }
}
