//! A picture, laid out and written by layout-rs.

use layout::backends::svg::SVGWriter;
use layout::core::base::Orientation;
use layout::core::color::Color;
use layout::core::style::StyleAttr;
use layout::std_shapes::render::get_shape_size;
use layout::std_shapes::shapes::{Arrow, Element, ShapeKind};
use layout::topo::layout::VisualGraph;

use super::drawing::{Drawing, Edge, Shape};
use crate::graph::Graph;

const FONT: usize = 15;

/// Up to this many edges the crossings are reduced. That work grows with the cube of a row, and untangles nothing in a
/// picture that is wider than a screen anyway: 200 take a tenth of a second, 2,000 minutes.
const UNTANGLED: usize = 2000;

/// Returns the graph as a picture in SVG.
pub fn svg(graph: &Graph) -> String {
    let Drawing { nodes, mut edges } = Drawing::of(graph);
    let position = topological(nodes.len(), &edges);
    // For each new edge the layout looks for a way back, along every path. In this order there is none to follow.
    edges.sort_by_key(|edge| position[edge.from]);
    let mut visual = VisualGraph::new(Orientation::LeftToRight);
    // The check of its own work follows every path too.
    visual.dag.set_validate(false);
    let handles: Vec<_> = nodes
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
    for edge in &edges {
        visual.add_edge(Arrow::simple(&edge.label), handles[edge.from], handles[edge.to]);
    }
    let mut writer = SVGWriter::new();
    visual.do_it(false, edges.len() > UNTANGLED, false, &mut writer);
    writer.finalize()
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
