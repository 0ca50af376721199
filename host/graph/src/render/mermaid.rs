//! Mermaid.

use super::dot::add;
use super::drawing::{Drawing, Shape};
use crate::graph::Graph;

/// Returns the graph as a Mermaid flow chart.
pub fn mermaid(graph: &Graph) -> String {
    let drawing = Drawing::of(graph);
    let mut text = String::from("flowchart LR\n");
    for (i, node) in drawing.nodes.iter().enumerate() {
        let label = quote(&node.label);
        match node.shape {
            Shape::Step => add(&mut text, format_args!("  n{i}[{label}]")),
            Shape::Leaf => add(&mut text, format_args!("  n{i}([{label}])")),
            Shape::Output => add(&mut text, format_args!("  n{i}(({label}))")),
        }
    }
    for edge in &drawing.edges {
        if edge.label.is_empty() {
            add(&mut text, format_args!("  n{} --> n{}", edge.from, edge.to));
        } else {
            add(&mut text, format_args!("  n{} -->|{}| n{}", edge.from, quote(&edge.label), edge.to));
        }
    }
    text
}

/// Mermaid knows no backslash; it reads characters by number. Everything that it, Markdown or HTML could take for its
/// own is written so.
fn quote(label: &str) -> String {
    let mut quoted = String::from("\"");
    for c in label.chars() {
        if c.is_alphanumeric() || matches!(c, ' ' | '.' | '-' | '_' | '/' | ':' | '(' | ')') {
            quoted.push(c);
        } else {
            quoted.push_str(&format!("#{};", u32::from(c)));
        }
    }
    quoted.push('"');
    quoted
}
