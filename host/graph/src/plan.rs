//! Owns the plan: the part of a graph that one target and the given inputs need, in order.
//! Never runs anything, and never sees a value.

use std::collections::HashMap;
use std::sync::Arc;

use crate::edges::Edges;
use crate::fault::{Lines, List};
use crate::graph::{Graph, PortId, StepId};
use crate::nearest::nearest;
use crate::port::{Port, StepName};

/// A node of one plan: a step to run. Ids follow the order of the plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) u32);

impl NodeId {
    /// Returns the position in [`Plan::nodes`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The given input at this position of the list that was passed.
    Given(usize),
    /// What a node gives.
    Node(NodeId),
}

impl Default for Source {
    fn default() -> Self {
        Self::Given(0)
    }
}

/// What one target needs: producers stand before consumers.
#[derive(Debug, Clone)]
pub struct Plan {
    target: PortId,
    target_source: Source,
    steps: Vec<StepId>,
    depths: Vec<u32>,
    inputs: Edges<Source>,
    /// Shared with the progress of each execution.
    pub(crate) dependents: Arc<Edges<NodeId>>,
    pub(crate) dependencies: Vec<u32>,
}

impl Plan {
    /// Returns what the target needs beside the given inputs. A given input wins over its producer, and what only that
    /// producer needs is left out.
    ///
    /// # Errors
    /// Every reason why it cannot be computed from these inputs, and every input that it does not use.
    pub fn of(graph: &Graph, target: &Port, given: &[Port]) -> Result<Self, PlanErrors> {
        let mut faults = Vec::new();
        let inputs = find_given(graph, given, &mut faults);
        let Some(target_id) = graph.find_port(target) else {
            let nearest = nearest(target, graph.ports().map(|(_, port)| port)).cloned();
            faults.push(PlanFault::UnknownTarget { port: target.clone(), nearest });
            return Err(PlanErrors::of(faults));
        };
        let needs = Needs::of(graph, target_id, &inputs);
        needs.find_missing(graph, &mut faults);
        needs.find_unused(graph, target, &inputs, &mut faults);
        if !faults.is_empty() {
            return Err(PlanErrors::of(faults));
        }
        Ok(needs.finish(graph, target_id, &inputs))
    }

    /// Returns the port that is computed.
    pub fn target(&self) -> PortId {
        self.target
    }

    /// Returns where the target's value comes from.
    pub fn target_source(&self) -> Source {
        self.target_source
    }

    /// Returns how many nodes there are.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Returns whether nothing needs to run, because the target is given.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Returns all nodes, by depth and then by the step's name.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = (NodeId, StepId)> {
        (0..self.steps.len()).map(|i| (node(i), self.steps[i]))
    }

    /// Returns the step of a node.
    pub fn step(&self, node: NodeId) -> StepId {
        self.steps[node.index()]
    }

    /// Returns where each input of a node comes from, in the order of the step's declaration.
    pub fn inputs(&self, node: NodeId) -> &[Source] {
        self.inputs.of_source(node.index())
    }

    /// Returns the nodes that wait for a node, each once.
    pub fn dependents(&self, node: NodeId) -> &[NodeId] {
        self.dependents.of_source(node.index())
    }

    /// Returns how many distinct nodes a node waits for.
    pub fn dependencies(&self, node: NodeId) -> u32 {
        self.dependencies[node.index()]
    }

    /// Returns the longest way from the inputs to a node, in steps before it: 0 for one that can start at once.
    pub fn depth(&self, node: NodeId) -> u32 {
        self.depths[node.index()]
    }
}

/// Returns the graph's one final output.
///
/// # Errors
/// When there are several, or none because the graph has only steps for others.
pub fn default_target(graph: &Graph) -> Result<&Port, DefaultError> {
    match graph.outputs() {
        [output] => Ok(graph.port(*output)),
        outputs => {
            Err(DefaultError::Targets { choices: outputs.iter().map(|p| graph.port(*p).clone()).collect() })
        }
    }
}

/// Returns the one leaf that a target needs when nothing is given.
///
/// # Errors
/// When it needs several, or none, or no step knows the target.
pub fn default_input<'a>(graph: &'a Graph, target: &Port) -> Result<&'a Port, DefaultError> {
    let Some(id) = graph.find_port(target) else {
        let nearest = nearest(target, graph.ports().map(|(_, port)| port)).cloned();
        return Err(DefaultError::UnknownTarget { port: target.clone(), nearest });
    };
    let mut leaves: Vec<PortId> = Needs::of(graph, id, &HashMap::new()).missing;
    leaves.sort_unstable();
    leaves.dedup();
    match *leaves {
        [leaf] => Ok(graph.port(leaf)),
        _ => Err(DefaultError::Inputs {
            target: target.clone(),
            choices: leaves.into_iter().map(|leaf| graph.port(leaf).clone()).collect(),
        }),
    }
}

/// Why there is no default.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DefaultError {
    /// Not one final output.
    #[error("the graph has {} final outputs, so name one: {}", choices.len(), List(choices))]
    Targets {
        /// All of them.
        choices: Vec<Port>,
    },
    /// Not one leaf.
    #[error("{}", choose(target, choices))]
    Inputs {
        /// What is to be computed.
        target: Port,
        /// All leaves that it needs.
        choices: Vec<Port>,
    },
    /// No step takes or gives the target.
    #[error("no step gives `{port}`{}", meant(nearest.as_ref()))]
    UnknownTarget {
        /// The target.
        port: Port,
        /// What was perhaps meant.
        nearest: Option<Port>,
    },
}

/// One reason why there is no plan. The order is that of a report.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum PlanFault {
    /// No step takes or gives the target.
    #[error("no step gives `{port}`{}", meant(nearest.as_ref()))]
    UnknownTarget {
        /// The target.
        port: Port,
        /// What was perhaps meant.
        nearest: Option<Port>,
    },
    /// A leaf that is not given.
    #[error("input `{port}` is missing: {}", needed(needed_by))]
    MissingInput {
        /// The leaf.
        port: Port,
        /// The steps that take it, by name; none when it is the target itself.
        needed_by: Vec<StepName>,
    },
    /// An input that changes nothing.
    #[error("input `{port}` is not used: {why}")]
    UnusedInput {
        /// The input.
        port: Port,
        /// Why.
        why: Unused,
    },
    /// An input that is given twice.
    #[error("input `{port}` is given more than once")]
    DuplicateInput {
        /// The input.
        port: Port,
    },
}

/// Why an input is not used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Unused {
    /// No step knows the port.
    #[error("no step takes or gives it{}", meant(nearest.as_ref()))]
    Unknown {
        /// What was perhaps meant.
        nearest: Option<Port>,
    },
    /// Nothing on the way to the target takes it.
    #[error("nothing that `{target}` needs takes it{}", meant(nearest.as_ref()))]
    NotNeeded {
        /// The target.
        target: Port,
        /// Which of the inputs that the target needs was perhaps meant.
        nearest: Option<Port>,
    },
    /// All that would take it is left out, because what it leads to is given too.
    #[error("what it leads to is given as `{instead}`")]
    Replaced {
        /// The input that makes it needless.
        instead: Port,
    },
}

/// All reasons why there is no plan: sorted, each once, never none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", Lines(.0))]
pub struct PlanErrors(Vec<PlanFault>);

impl PlanErrors {
    fn of(mut faults: Vec<PlanFault>) -> Self {
        faults.sort();
        faults.dedup();
        Self(faults)
    }

    /// Returns the reasons in order.
    pub fn faults(&self) -> &[PlanFault] {
        &self.0
    }
}

fn meant(nearest: Option<&Port>) -> String {
    nearest.map(|port| format!("; did you mean `{port}`?")).unwrap_or_default()
}

fn needed(by: &[StepName]) -> String {
    match by {
        [] => "it is the target, and no step gives it".to_owned(),
        [step] => format!("step `{step}` needs it, and no step gives it"),
        steps => format!("steps {} need it, and no step gives it", List(steps)),
    }
}

fn choose(target: &Port, choices: &[Port]) -> String {
    match choices {
        [] => format!("`{target}` needs no input"),
        _ => format!("`{target}` needs {} inputs, so name each: {}", choices.len(), List(choices)),
    }
}

/// The given inputs: where each port stands in the list.
type Given = HashMap<PortId, usize>;

fn find_given(graph: &Graph, given: &[Port], faults: &mut Vec<PlanFault>) -> Given {
    let mut inputs = HashMap::with_capacity(given.len());
    for (i, port) in given.iter().enumerate() {
        let Some(id) = graph.find_port(port) else {
            let nearest = nearest(port, graph.ports().map(|(_, port)| port)).cloned();
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
struct Needs {
    /// Each step with its depth, producers before consumers.
    steps: Vec<(u32, StepId)>,
    used: Vec<PortId>,
    missing: Vec<PortId>,
}

impl Needs {
    /// Depth first, with its own stack, because graphs may be deeper than a thread's.
    fn of(graph: &Graph, target: PortId, given: &Given) -> Self {
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
        if producer.is_none() {
            self.missing.push(port);
        }
        producer
    }

    fn find_missing(&self, graph: &Graph, faults: &mut Vec<PlanFault>) {
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

    fn find_unused(&self, graph: &Graph, target: &Port, given: &Given, faults: &mut Vec<PlanFault>) {
        let mut unused: Vec<PortId> =
            given.keys().copied().filter(|port| !self.used.contains(port)).collect();
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

    fn finish(mut self, graph: &Graph, target: PortId, given: &Given) -> Plan {
        self.steps.sort_unstable();
        let mut nodes = vec![NodeId(u32::MAX); graph.steps().len()];
        for (i, (_, step)) in self.steps.iter().enumerate() {
            nodes[step.index()] = node(i);
        }
        let source = |port: PortId| match given.get(&port) {
            Some(position) => Source::Given(*position),
            None => {
                let producer =
                    graph.producer(port).expect("a leaf that is needed is given, or there is no plan");
                Source::Node(nodes[producer.index()])
            }
        };
        let mut inputs: Vec<(u32, Source)> = Vec::with_capacity(self.used.len() + 2 * self.steps.len());
        let mut waits: Vec<(u32, NodeId)> = Vec::with_capacity(self.steps.len());
        let mut dependencies = vec![0; self.steps.len()];
        let mut last = vec![u32::MAX; self.steps.len()];
        for (i, (_, step)) in (0..).zip(&self.steps) {
            for (port, _) in &graph.step(*step).inputs {
                let source = source(*port);
                inputs.push((i, source));
                if let Source::Node(producer) = source
                    && std::mem::replace(&mut last[producer.index()], i) != i
                {
                    waits.push((producer.0, NodeId(i)));
                    dependencies[i as usize] += 1;
                }
            }
        }
        Plan {
            target,
            target_source: source(target),
            inputs: Edges::of(self.steps.len(), inputs.into_iter()),
            dependents: Arc::new(Edges::of(self.steps.len(), waits.into_iter())),
            dependencies,
            depths: self.steps.iter().map(|(depth, _)| *depth).collect(),
            steps: self.steps.into_iter().map(|(_, step)| step).collect(),
        }
    }
}

fn node(index: usize) -> NodeId {
    NodeId(u32::try_from(index).expect("a plan has no more nodes than its graph has steps"))
}
