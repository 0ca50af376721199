//! Finds what waits for itself in a directed graph of indices. Never knows what the indices stand for.

use std::collections::VecDeque;

use crate::edges::Edges;

/// Returns one cycle for each set of nodes that reach each other: the shortest through its smallest node, which
/// stands first (and not again last). A node with an edge to itself is such a set.
pub(crate) fn cycles(edges: &Edges) -> Vec<Vec<u32>> {
    let component = components(edges);
    let mut smallest = vec![u32::MAX; edges.sources()];
    let mut sizes = vec![0u32; edges.sources()];
    for (node, component) in (0..).zip(&component) {
        let component = *component as usize;
        smallest[component] = smallest[component].min(node);
        sizes[component] += 1;
    }
    let mut found: Vec<Vec<u32>> = smallest
        .iter()
        .zip(&sizes)
        .filter(|(node, size)| {
            **size > 1 || (**size == 1 && edges.of_source(**node as usize).contains(*node))
        })
        .map(|(node, _)| shortest(edges, &component, *node))
        .collect();
    found.sort();
    found
}

/// Tarjan's algorithm with its own stack, because graphs may be deeper than a thread's. Returns each node's component.
pub(crate) fn components(edges: &Edges) -> Vec<u32> {
    const NEW: u32 = u32::MAX;
    let nodes = edges.sources();
    let (mut order, mut low) = (vec![NEW; nodes], vec![0u32; nodes]);
    let (mut component, mut components) = (vec![NEW; nodes], 0);
    let (mut open, mut path, mut count) = (Vec::new(), Vec::<(u32, usize)>::new(), 0);
    for root in (0..).take(nodes) {
        if order[root as usize] == NEW {
            path.push((root, 0));
        }
        while let Some((node, edge)) = path.last_mut() {
            let (at, this) = (*node as usize, *node);
            if *edge == 0 {
                (order[at], low[at]) = (count, count);
                count += 1;
                open.push(this);
            }
            if let Some(next) = edges.of_source(this as usize).get(*edge) {
                *edge += 1;
                let to = *next as usize;
                if order[to] == NEW {
                    path.push((*next, 0));
                } else if component[to] == NEW {
                    low[at] = low[at].min(order[to]);
                }
                continue;
            }
            path.pop();
            if let Some((parent, _)) = path.last() {
                let parent = *parent as usize;
                low[parent] = low[parent].min(low[at]);
            }
            if low[at] == order[at] {
                while let Some(member) = open.pop() {
                    component[member as usize] = components;
                    if member == this {
                        break;
                    }
                }
                components += 1;
            }
        }
    }
    component
}

/// Breadth first from a node back to it, inside its component. Edges are tried in their order, so the result is
/// the same each time.
fn shortest(edges: &Edges, component: &[u32], start: u32) -> Vec<u32> {
    let mut before = vec![u32::MAX; edges.sources()];
    let mut queue = VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        for next in edges.of_source(node as usize) {
            if *next == start {
                let mut path = vec![node];
                while path[path.len() - 1] != start {
                    path.push(before[path[path.len() - 1] as usize]);
                }
                path.reverse();
                return path;
            }
            if component[*next as usize] == component[start as usize] && before[*next as usize] == u32::MAX {
                before[*next as usize] = node;
                queue.push_back(*next);
            }
        }
    }
    unreachable!("a component of several nodes leads from each back to itself")
}
