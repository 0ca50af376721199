//! Graphviz.

use std::fmt::Write;

use super::drawing::{Drawing, Shape};
use crate::graph::Graph;

/// Returns the graph in Graphviz's language.
pub fn dot(graph: &Graph) -> String {
    let drawing = Drawing::of(graph);
    let mut text = String::from("digraph docket {\n  rankdir=LR;\n");
    for (i, node) in drawing.nodes.iter().enumerate() {
        let shape = match node.shape {
            Shape::Step => "box",
            Shape::Leaf => "ellipse",
            Shape::Output => "ellipse, peripheries=2",
        };
        add(&mut text, format_args!("  n{i} [label={}, shape={shape}];", quote(&node.label)));
    }
    for edge in &drawing.edges {
        add(&mut text, format_args!("  n{} -> n{} [label={}];", edge.from, edge.to, quote(&edge.label)));
    }
    text.push_str("}\n");
    text
}

fn quote(label: &str) -> String {
    format!("\"{}\"", label.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Adds a line.
pub(super) fn add(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a string takes any text");
}
