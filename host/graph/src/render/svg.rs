//! A picture, laid out and written by layout-rs.

use layout::backends::svg::SVGWriter;
use layout::core::base::Orientation;
use layout::core::color::Color;
use layout::core::style::StyleAttr;
use layout::std_shapes::render::get_shape_size;
use layout::std_shapes::shapes::{Arrow, Element, ShapeKind};
use layout::topo::layout::VisualGraph;

use super::drawing::{Drawing, Edge, Node, Shape};
use crate::graph::Graph;

const FONT: usize = 15;

/// Up to this many cells the crossings of edges are reduced, which takes some tenths of a second; a picture of more is
/// wider than a screen, and stays tangled anyway.
const UNTANGLED: usize = 400;

/// A picture of more cells takes more than some seconds to lay out, and nobody can read it.
const DRAWN: usize = 3_000;

/// Returns the graph as a picture in SVG. In the place of one that is too large stands a sentence that says so.
pub fn svg(graph: &Graph) -> String {
    let mut drawing = Drawing::of(graph);
    let cells = straighten(&mut drawing);
    if cells > DRAWN {
        let steps = graph.steps().len();
        let label = format!("{steps} steps are too many for a picture; ask for another format");
        return lay_out(&Drawing { nodes: vec![Node { shape: Shape::Step, label }], edges: Vec::new() }, 1);
    }
    lay_out(&drawing, cells)
}

fn lay_out(drawing: &Drawing, cells: usize) -> String {
    let mut visual = VisualGraph::new(Orientation::LeftToRight);
    // The check of its own work follows every path.
    visual.dag.set_validate(false);
    let handles: Vec<_> = drawing
        .nodes
        .iter()
        .map(|node| {
            let (shape, fill) = match node.shape {
                Shape::Step => (ShapeKind::new_box(&node.label), "white"),
                Shape::Leaf => (ShapeKind::new_circle(&node.label), "lightgray"),
                Shape::Output => (ShapeKind::new_double_circle(&node.label), "white"),
            };
            let look = StyleAttr::new(Color::fast("black"), 1, Some(Color::fast(fill)), 0, FONT);
            let size = get_shape_size(Orientation::LeftToRight, &shape, FONT, false);
            visual.add_node(Element::create(shape, look, Orientation::LeftToRight, size))
        })
        .collect();
    for edge in &drawing.edges {
        visual.add_edge(Arrow::simple(&edge.label), handles[edge.from], handles[edge.to]);
    }
    let mut writer = SVGWriter::new();
    visual.do_it(false, cells > UNTANGLED, false, &mut writer);
    writer.finalize()
}

/// Sorts the edges so that each leads away from all before it: for each new edge the layout looks for a way back, along
/// every path, and now there is none to follow. Returns how many cells the picture has: the layout puts a node of its
/// own wherever an edge passes a column.
fn straighten(drawing: &mut Drawing) -> usize {
    let Drawing { nodes, edges } = drawing;
    let position = topological(nodes.len(), edges);
    edges.sort_by_key(|edge| position[edge.from]);
    let mut columns = vec![0; nodes.len()];
    for edge in &*edges {
        columns[edge.to] = columns[edge.to].max(columns[edge.from] + 1);
    }
    nodes.len() + edges.iter().map(|edge| columns[edge.to] - columns[edge.from]).sum::<usize>()
}

/// Returns each node's position in an order in which every edge leads forward.
fn topological(nodes: usize, edges: &[Edge]) -> Vec<usize> {
    let mut waits = vec![0; nodes];
    let mut followers = vec![Vec::new(); nodes];
    for edge in edges {
        waits[edge.to] += 1;
        followers[edge.from].push(edge.to);
    }
    let mut order: Vec<usize> = (0..nodes).filter(|node| waits[*node] == 0).collect();
    let mut next = 0;
    while let Some(node) = order.get(next).copied() {
        next += 1;
        for follower in &followers[node] {
            waits[*follower] -= 1;
            if waits[*follower] == 0 {
                order.push(*follower);
            }
        }
    }
    let mut position = vec![0; nodes];
    for (at, node) in order.into_iter().enumerate() {
        position[node] = at;
    }
    position
}
