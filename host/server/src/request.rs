//! Owns the way from the command line and the configuration to a request that fits the graph: its
//! target, its inputs, their values. Never runs anything.

use std::io::Read as _;
use std::num::NonZeroU32;
use std::path::Path;

use docket_graph::{DefaultError, Graph, Plan, PlanErrors, PlanFault, Port};
use docket_runtime::{ErrorKind, RequestError, Value};

use crate::args::{BatchRequestArgs, ItemsFormat, OnItemErrorArg, RequestArgs};
use crate::bring_up;
use crate::config::{BatchConfig, Config};
use crate::error::CliError;
use crate::exit::Exit;
use crate::input::{InputArg, InputSource, Place};
use crate::items::Form;
use crate::json::{self, JsonError};
use crate::session::Session;

/// What is asked for, with its plan.
#[derive(Clone)]
pub(crate) struct Asked {
    pub(crate) target: Port,
    pub(crate) plan: Plan,
    /// The ports of the given inputs, and where each one's JSON is.
    pub(crate) given: Vec<Port>,
    sources: Vec<InputSource>,
    /// What comes as the items of a batch.
    pub(crate) items: Option<Port>,
}

impl Asked {
    /// Returns the request of the command line; what it leaves out is the configuration's.
    ///
    /// # Errors
    /// Where it does not fit the graph.
    pub(crate) fn of(args: RequestArgs, config: &Config, graph: &Graph) -> Result<Self, CliError> {
        let RequestArgs { output, inputs } = args;
        let target = target(output.or_else(|| config.run.output.clone()), graph)?;
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
        let plan =
            Plan::of(graph, &target, &given).map_err(|errors| unplannable(&errors, graph, "--input"))?;
        Ok(Self { target, plan, given, sources, items: None })
    }

    /// Returns the request with what the port has as the items of a batch.
    ///
    /// # Errors
    /// As [`Asked::of`].
    pub(crate) fn of_items(
        args: RequestArgs,
        items: Port,
        config: &Config,
        graph: &Graph,
    ) -> Result<Self, CliError> {
        let RequestArgs { output, inputs } = args;
        let target = target(output.or_else(|| config.batch.output.clone()), graph)?;
        let inputs = if inputs.is_empty() { config.batch.shared.clone() } else { inputs };
        let (mut given, mut sources) = (Vec::new(), Vec::new());
        for InputArg { port, source } in inputs {
            given.push(match port {
                Some(port) => port,
                None => the_items(graph, &target, std::slice::from_ref(&items))?,
            });
            sources.push(source);
        }
        let plan = plan_items(graph, &target, &given, &items, "--input")?;
        Ok(Self { target, plan, given, sources, items: Some(items) })
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
        let (mut values, mut faults) = (Vec::new(), Vec::new());
        for (port, source) in self.given.into_iter().zip(self.sources) {
            let (text, is_written) = match source {
                InputSource::Text(text) => (text, true),
                source => {
                    let port = port.clone();
                    (session.blocking(move || read(&source, &port)).await?, false)
                }
            };
            let id = graph.find_port(&port).expect("the plan knows every given port");
            match json::decode(&text, &port, graph.arity(id), graph.message(id)) {
                Ok(value) => values.push((port, value)),
                // No message begins so: it may be the name of a file.
                Err(fault @ JsonError::Syntax { .. })
                    if is_written
                        && text.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '/' | '.')) =>
                {
                    faults.push(format!("{fault}; to read a file, write `@FILE`"));
                }
                Err(fault) => faults.push(fault.to_string()),
            }
        }
        if faults.is_empty() {
            Ok(values)
        } else {
            Err(CliError::of_faults(Exit::Usage, "the inputs", &faults))
        }
    }
}

/// What is asked for of each of many items.
pub(crate) struct AskedBatch {
    /// The target and what all items share, with the plan of the batch.
    pub(crate) asked: Asked,
    pub(crate) items: ItemsAsked,
}

/// The items of a batch, and how they are worked on.
pub(crate) struct ItemsAsked {
    pub(crate) place: Place,
    pub(crate) port: Port,
    pub(crate) form: Form,
    pub(crate) max_concurrency: Option<NonZeroU32>,
    pub(crate) on_item_error: OnItemErrorArg,
}

impl AskedBatch {
    /// Returns the request of the command line; what it leaves out is the configuration's.
    ///
    /// # Errors
    /// Where it does not fit the graph.
    pub(crate) fn of(args: BatchRequestArgs, config: &Config, graph: &Graph) -> Result<Self, CliError> {
        let BatchRequestArgs {
            items,
            items_format,
            items_port,
            shared,
            output,
            max_concurrency,
            on_item_error,
        } = args;
        let BatchConfig {
            items: place,
            items_format: format,
            items_port: port,
            shared: inputs,
            output: configured,
            max_concurrency: most,
            on_item_error: policy,
            timeout: _,
        } = config.batch.clone();
        let target = target(output.or(configured), graph)?;
        // The format of the configuration is that of its items.
        let format = items_format.or(if items.is_none() { format } else { None });
        let place = items.or(place).ok_or_else(|| {
            CliError::new(
                Exit::Usage,
                "there are no items; give them with `--items FILE`, or `--items -` for stdin",
            )
        })?;
        let shared = if shared.is_empty() { inputs } else { shared };
        let of_stdin = |input: &&InputArg| input.source == InputSource::Stdin;
        if shared.iter().filter(of_stdin).count() + usize::from(place == Place::Stdin) > 1 {
            return Err(CliError::new(
                Exit::Usage,
                "stdin is named for two inputs, but can be read only once",
            ));
        }
        let (given, sources): (Vec<_>, Vec<_>) =
            shared.into_iter().filter_map(|InputArg { port, source }| Some((port?, source))).unzip();
        let port = match items_port.or(port) {
            Some(port) => port,
            None => the_items(graph, &target, &given)?,
        };
        let plan = plan_items(graph, &target, &given, &port, "--shared")?;
        let form = Form::of(graph, &port, format.unwrap_or_else(|| ItemsFormat::of(&place)));
        let asked = Asked { target, plan, given, sources, items: Some(port.clone()) };
        let max_concurrency = max_concurrency.or(most);
        let on_item_error = on_item_error.or(policy).unwrap_or(OnItemErrorArg::Fail);
        Ok(Self { asked, items: ItemsAsked { place, port, form, max_concurrency, on_item_error } })
    }
}

/// Returns the target that is named, else the graph's one final output.
fn target(named: Option<Port>, graph: &Graph) -> Result<Port, CliError> {
    let hint = |error| CliError::new(Exit::Usage, format_args!("{error}; give it with `--output PORT`"));
    match named {
        Some(target) => Ok(target),
        None => Ok(docket_graph::default_target(graph).map_err(hint)?.clone()),
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
        Some(_) if matches!(&error, DefaultError::Inputs { choices, .. } if choices.is_empty()) => {
            CliError::new(Exit::Usage, format_args!("{error}; leave `--input` out"))
        }
        Some(_) => CliError::new(Exit::Usage, format_args!("{error}; write `--input PORT=JSON`")),
        None => CliError::of(Exit::Usage, &error),
    })
}

/// Returns the plan of a batch; `option` is how an input is given that is missing.
fn plan_items(
    graph: &Graph,
    target: &Port,
    shared: &[Port],
    items: &Port,
    option: &str,
) -> Result<Plan, CliError> {
    let given: Vec<_> = shared.iter().chain([items]).cloned().collect();
    Plan::of_items(graph, target, &given, shared.len()).map_err(|errors| unplannable(&errors, graph, option))
}

/// Returns the port of items for which none is named.
fn the_items(graph: &Graph, target: &Port, shared: &[Port]) -> Result<Port, CliError> {
    let items = docket_graph::default_items(graph, target, shared);
    items.cloned().map_err(|error| match &error {
        DefaultError::Items { choices, .. } if choices.len() > 1 => CliError::new(
            Exit::Usage,
            format_args!("{error}; write `--items-port PORT` and `--shared PORT=JSON`"),
        ),
        _ => CliError::of(Exit::Usage, &error),
    })
}

/// Says why there is no plan, and for what is missing how to give it.
fn unplannable(errors: &PlanErrors, graph: &Graph, option: &str) -> CliError {
    let say = |fault: &PlanFault| match fault {
        PlanFault::MissingInput { port, .. } => {
            let id = graph.find_port(port).expect("a leaf that is needed is in the graph");
            format!("{fault}; give it with `{option} '{port}={}'`", json::example(graph.message(id)))
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
    // Some programs begin a text with a mark that stands for no character.
    let unmarked = |text: String| text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
    read.map(unmarked).map_err(|error| {
        CliError::new(Exit::Usage, format_args!("the input for `{port}` cannot be read from {name}"))
            .caused_by(&error)
    })
}

fn named(path: &Path) -> String {
    format!("`{}`", path.display())
}
