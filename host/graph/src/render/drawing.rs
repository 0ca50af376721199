//! What every drawing shows: steps, leaves and final outputs as nodes, and what flows between them as edges.

use std::collections::{HashMap, HashSet};

use crate::graph::{Graph, PortId};
use crate::nearest::short;
use crate::port::Arity;

/// A graph as boxes and arrows. Steps are first, by name, then leaves, what the host gives, and outputs, by text.
pub(super) struct Drawing {
    pub(super) nodes: Vec<Node>,
    pub(super) edges: Vec<Edge>,
}

pub(super) struct Node {
    pub(super) shape: Shape,
    pub(super) label: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Step,
    Leaf,
    Output,
}

/// An arrow between two positions of the list of nodes.
pub(super) struct Edge {
    pub(super) from: usize,
    pub(super) to: usize,
    /// The port, where neither end is the port itself, and whether many flow or each of many.
    pub(super) label: String,
}

impl Drawing {
    pub(super) fn of(graph: &Graph) -> Self {
        let names = Names::of(graph);
        let mut nodes: Vec<Node> = graph
            .steps()
            .map(|(id, step)| {
                let label = match graph.per_element_of(id) {
                    Some(list) => format!("{} ({})", step.name, once_per_element(names.of_port(list))),
                    None => step.name.as_str().to_owned(),
                };
                Node { shape: Shape::Step, label }
            })
            .collect();
        let mut leaves: HashMap<PortId, usize> = HashMap::new();
        for leaf in graph.leaves() {
            leaves.insert(*leaf, nodes.len());
            nodes.push(Node { shape: Shape::Leaf, label: names.of_port(*leaf) });
        }
        for (port, _) in graph.ports().filter(|(port, _)| graph.is_from_host(*port)) {
            leaves.insert(port, nodes.len());
            nodes.push(Node { shape: Shape::Leaf, label: names.of_port(port) + FROM_HOST });
        }
        let mut edges = Vec::new();
        for (id, step) in graph.steps() {
            let mut seen = HashSet::new();
            for (port, arity) in step.inputs.iter().filter(|input| seen.insert(**input)) {
                let (from, label) = match graph.producer(*port) {
                    Some(producer) => (producer.index(), names.of_port(*port)),
                    None => (leaves[port], String::new()),
                };
                let label = match (graph.producer(*port).map(|from| graph.step(from).output.1), arity) {
                    (Some(Arity::Many), Arity::One) => format!("{label} (each)"),
                    (Some(_) | None, _) => with_arity(label, *arity),
                };
                edges.push(Edge { from, to: id.index(), label });
            }
        }
        for port in graph.outputs() {
            if let Some(producer) = graph.producer(*port) {
                let label = with_arity(String::new(), graph.arity(*port));
                edges.push(Edge { from: producer.index(), to: nodes.len(), label });
                nodes.push(Node { shape: Shape::Output, label: names.of_port(*port) });
            }
        }
        Self { nodes, edges }
    }
}

/// What is said of a port that no step and no request gives.
pub(super) const FROM_HOST: &str = " (from the host)";

/// Returns how often a step runs that does not run once.
pub(super) fn once_per_element(list: impl std::fmt::Display) -> String {
    format!("once per element of {list}")
}

fn with_arity(label: String, arity: Arity) -> String {
    match arity {
        Arity::One => label,
        Arity::Many if label.is_empty() => "many".to_owned(),
        Arity::Many => format!("{label} (many)"),
    }
}

/// Ports as drawings name them: without the package, where that is clear.
struct Names(Vec<String>);

impl Names {
    fn of(graph: &Graph) -> Self {
        let full: Vec<String> = graph.ports().map(|(_, port)| port.to_string()).collect();
        let mut times: HashMap<&str, u32> = HashMap::new();
        for text in &full {
            *times.entry(short(text)).or_default() += 1;
        }
        Self(
            full.iter()
                .map(|text| if times[short(text)] == 1 { short(text) } else { text }.to_owned())
                .collect(),
        )
    }

    fn of_port(&self, port: PortId) -> String {
        self.0[port.index()].clone()
    }
}
