//! Lines of text.

use std::collections::{HashSet, VecDeque};

use termtree::Tree;

use super::drawing::{FROM_HOST, once_per_element};
use crate::graph::{Graph, PortId};
use crate::port::Arity;

/// How deep one tree goes. What lies deeper starts a tree of its own: the lines stay readable, and a long chain is drawn
/// by a short recursion.
const DEPTH: usize = 32;

/// Returns each final output with the step that gives it, and below it what that step takes. What stands above
/// already is named, but not drawn again.
pub fn tree(graph: &Graph) -> String {
    let mut roots: VecDeque<PortId> = graph.outputs().iter().copied().collect();
    let mut drawn = HashSet::new();
    let mut text = String::new();
    while let Some(root) = roots.pop_front() {
        if let Some(tree) = subtree(graph, root, Arity::One, 0, &mut drawn, &mut roots) {
            text.push_str(&tree.to_string());
        }
    }
    text
}

/// Returns nothing for a root that another tree has drawn meanwhile.
fn subtree(
    graph: &Graph,
    port: PortId,
    arity: Arity,
    depth: usize,
    drawn: &mut HashSet<PortId>,
    roots: &mut VecDeque<PortId>,
) -> Option<Tree<String>> {
    let list = if arity == Arity::Many { " (many)" } else { "" };
    let Some(producer) = graph.producer(port) else {
        let host = if graph.is_from_host(port) { FROM_HOST } else { "" };
        return Some(Tree::new(format!("{}{list}{host}", graph.port(port))));
    };
    let step = graph.step(producer);
    let often =
        graph.per_element_of(producer).map(|list| format!(" ({})", once_per_element(graph.port(list))));
    let line = format!("{}{list} = {}{}", graph.port(port), step.name, often.unwrap_or_default());
    if drawn.contains(&port) {
        return (depth > 0).then(|| Tree::new(format!("{line} (see above)")));
    }
    if depth == DEPTH {
        roots.push_back(port);
        return Some(Tree::new(format!("{line} (see below)")));
    }
    drawn.insert(port);
    let inputs = step.inputs.iter();
    let below = inputs.filter_map(|(input, arity)| subtree(graph, *input, *arity, depth + 1, drawn, roots));
    Some(Tree::new(line).with_leaves(below.collect::<Vec<_>>()))
}
