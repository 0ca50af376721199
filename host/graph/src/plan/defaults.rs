//! Finds what a request may leave out: the one target, the one input.

use super::fault::DefaultError;
use super::needs::{Given, Needs};
use crate::graph::{Graph, PortId};
use crate::nearest::nearest;
use crate::port::Port;

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
    one_leaf(graph, target, &[]).map_err(|error| match error {
        NoLeaf::UnknownTarget => unknown(graph, target),
        NoLeaf::Choices(choices) => DefaultError::Inputs { target: target.clone(), choices },
    })
}

/// Returns the one leaf that a target needs beside the inputs that all items of a batch share: what its items are.
///
/// # Errors
/// When it needs several more, or none, or no step knows the target.
pub fn default_items<'a>(graph: &'a Graph, target: &Port, shared: &[Port]) -> Result<&'a Port, DefaultError> {
    one_leaf(graph, target, shared).map_err(|error| match error {
        NoLeaf::UnknownTarget => unknown(graph, target),
        NoLeaf::Choices(choices) => DefaultError::Items { target: target.clone(), choices },
    })
}

enum NoLeaf {
    UnknownTarget,
    Choices(Vec<Port>),
}

fn one_leaf<'a>(graph: &'a Graph, target: &Port, given: &[Port]) -> Result<&'a Port, NoLeaf> {
    let target = graph.find_port(target).filter(|port| !graph.is_from_host(*port));
    let target = target.ok_or(NoLeaf::UnknownTarget)?;
    // A given port that no step knows is a fault of the plan, and none of this question.
    let given: Given =
        given.iter().zip(0..).filter_map(|(port, i)| Some((graph.find_port(port)?, i))).collect();
    let mut leaves: Vec<PortId> = Needs::of(graph, target, &given).missing;
    leaves.sort_unstable();
    leaves.dedup();
    match *leaves {
        [leaf] => Ok(graph.port(leaf)),
        _ => Err(NoLeaf::Choices(leaves.into_iter().map(|leaf| graph.port(leaf).clone()).collect())),
    }
}

fn unknown(graph: &Graph, target: &Port) -> DefaultError {
    let nearest = nearest(target, graph.nameable()).cloned();
    DefaultError::UnknownTarget { port: target.clone(), nearest }
}
