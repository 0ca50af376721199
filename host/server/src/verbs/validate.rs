//! `validate`: checks all modules, their graph and the configuration. Never runs a step.

use docket_graph::{Graph, PortId};

use crate::args::RequestArgs;
use crate::bring_up;
use crate::config::{Config, RunConfig};
use crate::error::CliError;
use crate::exit::Exit;
use crate::log::HOST;
use crate::request::Asked;
use crate::session::Session;

pub(super) async fn validate(session: &mut Session) -> Result<(), CliError> {
    let config = session.config()?;
    let host = bring_up::host(session, &config).await?;
    check_default_request(session, &config, host.graph()).await?;
    for (id, _) in host.graph().steps() {
        if let Some(warning) = super::plan::lasting(host.generation(), id) {
            tracing::warn!(target: HOST, "{warning}");
        }
    }
    session.console.show(summary(host.graph()).as_bytes())
}

/// A default request that does not fit the graph is a fault of the configuration, found here rather
/// than when it is first used. Where it says nothing there is no default.
async fn check_default_request(
    session: &mut Session,
    config: &Config,
    graph: &Graph,
) -> Result<(), CliError> {
    let RunConfig { output, inputs, .. } = &config.run;
    // Without an input the output alone is a default too: the input comes with the command.
    if inputs.is_empty() {
        return match output {
            Some(port) => docket_graph::default_input(graph, port).map(drop).or_else(|error| match error {
                docket_graph::DefaultError::UnknownTarget { .. } => {
                    Err(misfit(config, CliError::new(Exit::Usage, error)))
                }
                // Any number of inputs can be given.
                _ => Ok(()),
            }),
            None => Ok(()),
        };
    }
    let nothing = RequestArgs { output: None, inputs: Vec::new() };
    let asked = Asked::of(nothing, config, graph).map_err(|error| misfit(config, error))?;
    asked.values(session, graph).await.map(drop).map_err(|error| misfit(config, error))
}

fn misfit(config: &Config, error: CliError) -> CliError {
    if error.exit() == Exit::Interrupted {
        return error;
    }
    let path = config.path.as_deref().unwrap_or(std::path::Path::new(crate::config::FILE_NAME));
    let sentence =
        format!("the default request of `{}` does not fit the graph: {}", path.display(), error.sentence());
    CliError::new(Exit::Configuration, sentence).with_causes_of(error)
}

fn summary(graph: &Graph) -> String {
    format!(
        "ok: {}, {}, {}; inputs {}; outputs {}\n",
        counted(graph.modules().len(), "module"),
        counted(graph.steps().len(), "step"),
        counted(graph.ports().len(), "port"),
        names(graph, graph.leaves()),
        names(graph, graph.outputs()),
    )
}

fn counted(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

fn names(graph: &Graph, ports: &[PortId]) -> String {
    let names: Vec<_> = ports.iter().map(|port| graph.port(*port).to_string()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
