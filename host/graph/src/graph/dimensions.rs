//! Finds for each element of which list the steps of a graph run, and where two lists meet that have nothing to do with
//! each other. Knows no batch: its items are a list around all others.

use super::{Draft, PortId, Step, StepId, id};
use crate::dimension::{DimensionId, Parting, Take, Tree};
use crate::fault::{Fault, PerElement};
use crate::port::Arity;

impl Draft {
    /// Returns the port for each element of which each step runs, unless all run once. Steps on a cycle, and what follows
    /// from them, have no dimension and no further fault.
    pub(super) fn find_dimensions(&self, faults: &mut Vec<Fault>) -> Vec<Option<PortId>> {
        let mut taken_one_by_one = vec![false; self.ports.len()];
        let inputs = self.steps.iter().flat_map(|step| &step.inputs);
        inputs
            .filter(|(_, takes)| *takes == Arity::One)
            .for_each(|(port, _)| taken_one_by_one[port.index()] = true);
        let scatters = |step: &Step| step.output.1 == Arity::Many && taken_one_by_one[step.output.0.index()];
        if !self.steps.iter().any(scatters) {
            return Vec::new();
        }
        let mut space = Space::new(self.ports.len(), self.steps.len());
        for step in self.order() {
            space.place(self, step, faults);
        }
        let innermost = |home: &Option<DimensionId>| space.lists[home.unwrap_or_default().index()];
        space.homes.iter().map(innermost).collect()
    }

    /// Returns the steps, producers before consumers, without those that wait for themselves.
    fn order(&self) -> Vec<StepId> {
        let mut waits = vec![0; self.steps.len()];
        for port in 0..self.ports.len() {
            let producers = self.producers.of_source(port).len();
            self.consumers.of_source(port).iter().for_each(|step| waits[step.index()] += producers);
        }
        let mut order: Vec<StepId> =
            (0..self.steps.len()).filter(|step| waits[*step] == 0).map(|step| StepId(id(step))).collect();
        let mut next = 0;
        while let Some(step) = order.get(next) {
            next += 1;
            for follower in self.consumers.of_source(self.steps[step.index()].output.0.index()) {
                waits[follower.index()] -= 1;
                if waits[follower.index()] == 0 {
                    order.push(*follower);
                }
            }
        }
        order
    }
}

/// Where the steps of a draft run, as far as it is known.
struct Space {
    tree: Tree,
    /// The port whose elements a dimension is about; none for the root.
    lists: Vec<Option<PortId>>,
    /// The dimension of a port's elements, once a step takes one.
    opened: Vec<Option<DimensionId>>,
    /// Where each step runs; none where that cannot be said.
    homes: Vec<Option<DimensionId>>,
}

impl Space {
    fn new(ports: usize, steps: usize) -> Self {
        Self { tree: Tree::new(), lists: vec![None], opened: vec![None; ports], homes: vec![None; steps] }
    }

    /// Finds where a step runs. The homes of its producers are known.
    fn place(&mut self, draft: &Draft, id: StepId, faults: &mut Vec<Fault>) {
        let step = &draft.steps[id.index()];
        let contributed: Vec<Option<DimensionId>> =
            step.inputs.iter().map(|(port, arity)| self.contributed(draft, *port, *arity)).collect();
        let mut partings = Vec::new();
        let known = contributed.iter().map(|dimension| dimension.unwrap_or_default());
        let home = self.tree.meet(known, &mut partings);
        if partings.is_empty() && contributed.iter().all(Option::is_some) {
            self.homes[id.index()] = Some(home);
        }
        faults.extend(partings.into_iter().map(|Parting { inputs, dimensions }| {
            let mut inputs = [0, 1].map(|i| {
                let list = self.lists[dimensions[i].index()].expect("the root encloses all others");
                PerElement {
                    port: draft.ports[step.inputs[inputs[i]].0.index()].clone(),
                    list: draft.ports[list.index()].clone(),
                    by: draft.place(draft.producers.of_source(list.index())[0]),
                }
            });
            inputs.sort();
            Fault::UnrelatedDimensions { place: draft.place(id), inputs: Box::new(inputs) }
        }));
    }

    /// Returns what an input adds to where its step runs; nothing where that cannot be said.
    fn contributed(&mut self, draft: &Draft, port: PortId, takes: Arity) -> Option<DimensionId> {
        let producer = match draft.producers.of_source(port.index()) {
            [] => return Some(DimensionId::ROOT),
            [producer] => *producer,
            _ => return None,
        };
        let home = self.homes[producer.index()]?;
        match Take::of(draft.steps[producer.index()].output.1, takes, home) {
            Take::Whole => Some(home),
            Take::Gathered => Some(self.tree.parent(home)),
            Take::Element => {
                let Self { tree, lists, opened, .. } = self;
                Some(*opened[port.index()].get_or_insert_with(|| {
                    lists.push(Some(port));
                    tree.add(home)
                }))
            }
        }
    }
}
