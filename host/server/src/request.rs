//! Owns the way from the command line and the configuration to a request that fits the graph: its
//! target, its inputs, their values. Never runs anything.

use std::io::Read as _;
use std::path::Path;

use docket_graph::{Graph, Plan, PlanErrors, PlanFault, Port};
use docket_runtime::{ErrorKind, RequestError, Value};

use crate::args::RequestArgs;
use crate::bring_up;
use crate::config::Config;
use crate::error::CliError;
use crate::exit::Exit;
use crate::input::{InputArg, InputSource};
use crate::json;
use crate::session::Session;

/// What is asked for, with its plan.
#[derive(Clone)]
pub(crate) struct Asked {
    pub(crate) target: Port,
    pub(crate) plan: Plan,
    /// The ports of the given inputs, and where each one's JSON is.
    pub(crate) given: Vec<Port>,
    sources: Vec<InputSource>,
}

impl Asked {
    /// Returns the request of the command line; what it leaves out is the configuration's.
    ///
    /// # Errors
    /// Where it does not fit the graph.
    pub(crate) fn of(args: RequestArgs, config: &Config, graph: &Graph) -> Result<Self, CliError> {
        let RequestArgs { output, inputs } = args;
        let target = match output.or_else(|| config.run.output.clone()) {
            Some(target) => target,
            None => {
                let hint =
                    |error| CliError::new(Exit::Usage, format_args!("{error}; give it with `--output PORT`"));
                docket_graph::default_target(graph).map_err(hint)?.clone()
            }
        };
        let inputs = if inputs.is_empty() { config.run.inputs.clone() } else { inputs };
        if inputs.iter().filter(|input| input.source == InputSource::Stdin).count() > 1 {
            return Err(CliError::new(
                Exit::Usage,
                "stdin is named for two inputs, but can be read only once",
            ));
        }
        let (mut given, mut sources) = (Vec::new(), Vec::new());
        for InputArg { port, source } in inputs {
            given.push(match port {
                Some(port) => port,
                None => the_leaf(graph, &target)?,
            });
            sources.push(source);
        }
        let plan = Plan::of(graph, &target, &given).map_err(|errors| unplannable(&errors, graph))?;
        Ok(Self { target, plan, given, sources })
    }

    /// Reads the inputs and decodes them.
    ///
    /// # Errors
    /// Where one cannot be read, or is not what its port says.
    pub(crate) async fn values(
        self,
        session: &mut Session,
        graph: &Graph,
    ) -> Result<Vec<(Port, Value)>, CliError> {
        let mut values = Vec::new();
        for (port, source) in self.given.into_iter().zip(self.sources) {
            let text = match source {
                InputSource::Text(text) => text,
                source => {
                    let port = port.clone();
                    session.blocking(move || read(&source, &port)).await?
                }
            };
            let id = graph.find_port(&port).expect("the plan knows every given port");
            let value = json::decode(&text, &port, graph.arity(id), graph.message(id))
                .map_err(|error| CliError::of(Exit::Usage, &error))?;
            values.push((port, value));
        }
        Ok(values)
    }
}

/// Returns how it is said that a request is refused: nothing has run then.
pub(crate) fn refused(error: &RequestError) -> CliError {
    if let RequestError::Load(errors) = error {
        return bring_up::unloadable(errors, "the kept modules");
    }
    let exit = match error.kind() {
        ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::Conflict => Exit::Usage,
        ErrorKind::Unavailable => Exit::Configuration,
        ErrorKind::Guest | ErrorKind::Cancelled | ErrorKind::Internal => Exit::Failed,
        // A kind of a later version of the runtime.
        _ => Exit::Failed,
    };
    CliError::of(exit, error)
}

/// Returns the port of an input that names none.
fn the_leaf(graph: &Graph, target: &Port) -> Result<Port, CliError> {
    let leaf = docket_graph::default_input(graph, target);
    leaf.cloned().map_err(|error| match graph.find_port(target) {
        Some(_) => CliError::new(Exit::Usage, format_args!("{error}; write `--input PORT=JSON`")),
        None => CliError::of(Exit::Usage, &error),
    })
}

/// Says why there is no plan, and for what is missing how to give it.
fn unplannable(errors: &PlanErrors, graph: &Graph) -> CliError {
    let say = |fault: &PlanFault| match fault {
        PlanFault::MissingInput { port, .. } => {
            let id = graph.find_port(port).expect("a leaf that is needed is in the graph");
            format!("{fault}; give it with `--input '{port}={}'`", json::example(graph.message(id)))
        }
        _ => fault.to_string(),
    };
    let faults: Vec<_> = errors.faults().iter().map(say).collect();
    CliError::of_faults(Exit::Usage, "the request", &faults)
}

fn read(source: &InputSource, port: &Port) -> Result<String, CliError> {
    let (name, read) = match source {
        InputSource::File(path) => (named(path), std::fs::read_to_string(path)),
        InputSource::Stdin => {
            let mut text = String::new();
            ("stdin".to_owned(), std::io::stdin().lock().read_to_string(&mut text).map(|_| text))
        }
        InputSource::Text(text) => return Ok(text.clone()),
    };
    read.map_err(|error| {
        CliError::new(Exit::Usage, format_args!("the input for `{port}` cannot be read from {name}"))
            .caused_by(&error)
    })
}

fn named(path: &Path) -> String {
    format!("`{}`", path.display())
}
