//! A picture, laid out and written by layout-rs.

use layout::backends::svg::SVGWriter;
use layout::core::base::Orientation;
use layout::core::color::Color;
use layout::core::style::StyleAttr;
use layout::std_shapes::render::get_shape_size;
use layout::std_shapes::shapes::{Arrow, Element, ShapeKind};
use layout::topo::layout::VisualGraph;

use super::drawing::{Drawing, Shape};
use crate::graph::Graph;

const FONT: usize = 15;

/// Returns the graph as a picture in SVG.
pub fn svg(graph: &Graph) -> String {
    let Drawing { nodes, edges } = Drawing::of(graph);
    let mut visual = VisualGraph::new(Orientation::LeftToRight);
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
    visual.do_it(false, true, false, &mut writer);
    writer.finalize()
}
