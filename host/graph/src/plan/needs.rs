//! Finds what a target needs: a search backwards, up to what is given and what nothing gives.

use std::collections::HashMap;

use super::fault::{PlanFault, Unused};
use crate::graph::{Graph, PortId, StepId};
use crate::nearest::nearest;
use crate::port::Port;

/// The given inputs: where each port stands in the list.
pub(super) type Given = HashMap<PortId, usize>;

pub(super) fn find_given(graph: &Graph, given: &[Port], faults: &mut Vec<PlanFault>) -> Given {
    let mut inputs = HashMap::with_capacity(given.len());
    for (i, port) in given.iter().enumerate() {
        let id = graph.find_port(port);
        if id.is_some_and(|id| graph.is_from_host(id)) {
            faults.push(PlanFault::UnusedInput { port: port.clone(), why: Unused::FromHost });
            continue;
        }
        let Some(id) = id else {
            let nearest = nearest(port, graph.nameable()).cloned();
            faults.push(PlanFault::UnusedInput { port: port.clone(), why: Unused::Unknown { nearest } });
            continue;
        };
        if inputs.insert(id, i).is_some() {
            faults.push(PlanFault::DuplicateInput { port: port.clone() });
        }
    }
    inputs
}

/// What a search backwards from the target meets.
pub(super) struct Needs {
    /// Each step with its depth, producers before consumers.
    pub(super) steps: Vec<(u32, StepId)>,
    pub(super) used: Vec<PortId>,
    pub(super) missing: Vec<PortId>,
}

impl Needs {
    /// Depth first, with its own stack, because graphs may be deeper than a thread's.
    pub(super) fn of(graph: &Graph, target: PortId, given: &Given) -> Self {
        const NEW: u32 = u32::MAX;
        let mut needs = Self { steps: Vec::new(), used: Vec::new(), missing: Vec::new() };
        let mut depths = vec![NEW; graph.steps().len()];
        let mut path: Vec<(StepId, usize, u32)> = Vec::new();
        path.extend(needs.visit(graph, target, given).map(|step| (step, 0, 0)));
        while let Some((step, next, depth)) = path.last_mut() {
            if let Some((port, _)) = graph.step(*step).inputs.get(*next) {
                *next += 1;
                if let Some(producer) = needs.visit(graph, *port, given) {
                    match depths[producer.index()] {
                        NEW => path.push((producer, 0, 0)),
                        known => *depth = (*depth).max(known + 1),
                    }
                }
                continue;
            }
            let (step, depth) = (*step, *depth);
            path.pop();
            depths[step.index()] = depth;
            needs.steps.push((depth, step));
            if let Some((_, _, parent)) = path.last_mut() {
                *parent = (*parent).max(depth + 1);
            }
        }
        needs
    }

    /// Returns the step that must run for a port, if one must.
    #[inline]
    fn visit(&mut self, graph: &Graph, port: PortId, given: &Given) -> Option<StepId> {
        if !given.is_empty() && given.contains_key(&port) {
            self.used.push(port);
            return None;
        }
        let producer = graph.producer(port);
        if producer.is_none() && !graph.is_from_host(port) {
            self.missing.push(port);
        }
        producer
    }

    pub(super) fn find_missing(&self, graph: &Graph, faults: &mut Vec<PlanFault>) {
        let mut missing = self.missing.clone();
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            return;
        }
        let mut runs = vec![false; graph.steps().len()];
        for (_, step) in &self.steps {
            runs[step.index()] = true;
        }
        faults.extend(missing.into_iter().map(|port| {
            PlanFault::MissingInput {
                port: graph.port(port).clone(),
                needed_by: graph
                    .consumers(port)
                    .iter()
                    .filter(|step| runs[step.index()])
                    .map(|step| graph.step(*step).name.clone())
                    .collect(),
            }
        }));
    }

    pub(super) fn find_unused(
        &self,
        graph: &Graph,
        target: &Port,
        given: &Given,
        faults: &mut Vec<PlanFault>,
    ) {
        let mut used = self.used.clone();
        used.sort_unstable();
        let is_unused = |port: &PortId| used.binary_search(port).is_err();
        let mut unused: Vec<PortId> = given.keys().copied().filter(is_unused).collect();
        if unused.is_empty() {
            return;
        }
        unused.sort_unstable();
        for port in unused {
            let name = graph.port(port);
            let why = match self.replaced_by(graph, port) {
                Some(instead) => Unused::Replaced { instead: graph.port(instead).clone() },
                None => {
                    let nearest = nearest(name, self.missing.iter().map(|port| graph.port(*port))).cloned();
                    Unused::NotNeeded { target: target.clone(), nearest }
                }
            };
            faults.push(PlanFault::UnusedInput { port: name.clone(), why });
        }
    }

    /// Returns the first used input that the port leads to.
    fn replaced_by(&self, graph: &Graph, port: PortId) -> Option<PortId> {
        let mut seen = vec![false; graph.steps().len()];
        let mut open = vec![port];
        let mut reached = Vec::new();
        while let Some(port) = open.pop() {
            for step in graph.consumers(port) {
                if !std::mem::replace(&mut seen[step.index()], true) {
                    let output = graph.step(*step).output.0;
                    open.push(output);
                    reached.push(output);
                }
            }
        }
        reached.into_iter().filter(|port| self.used.contains(port)).min()
    }
}
