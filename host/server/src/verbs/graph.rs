//! `graph`: draws the graph of all modules. Never runs a step.

use docket_graph::{Arity, Format, Graph, PortId, render};

use super::table::table;
use crate::args::{GraphArgs, GraphFormat};
use crate::bring_up;
use crate::error::CliError;
use crate::session::Session;

pub(super) async fn graph(session: &mut Session, args: GraphArgs) -> Result<(), CliError> {
    let GraphArgs { format } = args;
    let config = session.config()?;
    let host = bring_up::host(session, &config).await?;
    let graph = host.graph();
    let text = match format {
        GraphFormat::Text => steps(graph),
        GraphFormat::Tree => render(graph, Format::Tree),
        GraphFormat::Dot => render(graph, Format::Dot),
        GraphFormat::Mermaid => render(graph, Format::Mermaid),
        GraphFormat::Json => render(graph, Format::Json),
        GraphFormat::Svg => render(graph, Format::Svg),
    };
    session.console.show(text.as_bytes())
}

/// Returns a table of all steps.
fn steps(graph: &Graph) -> String {
    let rows = graph.steps().map(|(_, step)| {
        [
            step.name.to_string(),
            takes(graph, &step.inputs),
            port(graph, step.output),
            graph.modules()[step.module].to_string(),
        ]
    });
    table(["STEP", "TAKES", "GIVES", "MODULE"], rows)
}

/// Returns what a step takes, in its order.
pub(super) fn takes(graph: &Graph, inputs: &[(PortId, Arity)]) -> String {
    let taken = |input: &(PortId, Arity)| match graph.is_from_host(input.0) {
        true => port(graph, *input) + " (from the host)",
        false => port(graph, *input),
    };
    let ports: Vec<_> = inputs.iter().map(taken).collect();
    if ports.is_empty() { "nothing".to_owned() } else { ports.join(", ") }
}

/// Returns a port, with a word where it is a list.
pub(super) fn port(graph: &Graph, (port, arity): (PortId, Arity)) -> String {
    let port = graph.port(port);
    match arity {
        Arity::One => port.to_string(),
        Arity::Many => format!("{port} (many)"),
    }
}
