//! Draws a graph for people and for other programs. Never decides anything, and draws the same graph the same way
//! each time.

mod dot;
mod drawing;
mod json;
mod mermaid;
mod svg;
mod tree;

pub use dot::dot;
pub use json::json;
pub use mermaid::mermaid;
pub use svg::svg;
pub use tree::tree;

use crate::graph::Graph;

/// How a graph is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Lines of text: each final output, and below it what it is made of.
    Tree,
    /// Graphviz.
    Dot,
    /// A Mermaid flow chart.
    Mermaid,
    /// Everything that is known of the graph, as data.
    Json,
    /// A picture.
    Svg,
}

/// Returns the graph in a format, ending with a line break.
pub fn render(graph: &Graph, format: Format) -> String {
    let mut text = match format {
        Format::Tree => tree(graph),
        Format::Dot => dot(graph),
        Format::Mermaid => mermaid(graph),
        Format::Json => format!("{:#}", json(graph)),
        Format::Svg => svg(graph),
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}
