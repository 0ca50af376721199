//! Owns the command line as it is typed. Never acts on it.

mod batch;
mod kept;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::Resettable;
use clap::{ArgAction, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use docket_graph::Port;
use docket_runtime::ExecutionId;

use crate::input::InputArg;

pub(crate) use batch::*;
pub(crate) use kept::*;

/// Below every help text that needs it.
const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    the execution failed, or an item of a batch did
  2    the command line or an input is wrong, or there is no such thing; nothing has run, unless
       it is an item of a batch that is wrong
  3    a module, or the graph of all modules, is wrong
  4    the configuration or the store cannot be used
  130  interrupted by SIGINT or SIGTERM; what keeps results can be resumed

Result data goes to stdout, everything else to stderr.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "docket-host",
    version,
    about = "Runs typed steps that are compiled to WebAssembly components",
    after_help = EXIT_CODES,
    max_term_width = 100,
)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

impl Args {
    /// Returns what a command line says, the program's name first.
    ///
    /// # Errors
    /// What clap has to say: a fault of the arguments, or the help that was asked for.
    pub(crate) fn read(
        line: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let matches = without_empty(Self::command()).try_get_matches_from(line)?;
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut Self::command()))
    }
}

/// Returns the command as if no variable of the environment were set to nothing: scripts write so what they do not know.
fn without_empty(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let command = command.mut_args(|arg| match arg.get_env() {
        Some(name) if is_empty(name) => arg.env(Resettable::Reset),
        _ => arg,
    });
    command.mut_subcommands(without_empty)
}

/// What every verb takes.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct GlobalArgs {
    /// The directory of the modules: every *.wasm file below it [default: .]
    #[arg(long = "module-dir", global = true, value_name = "DIR", env = "DOCKET_MODULE_DIR")]
    #[arg(hide_env_values = true, value_hint = ValueHint::DirPath)]
    pub(crate) given_module_dir: Option<PathBuf>,
    /// The configuration [default: docket.toml in the module directory, if it is there]
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    /// Where compiled modules are kept [default: `docket` in the user's cache directory]
    #[arg(long, global = true, value_name = "DIR", env = "DOCKET_ARTIFACT_DIR")]
    #[arg(hide_env_values = true, value_hint = ValueHint::DirPath)]
    pub(crate) artifact_dir: Option<PathBuf>,
    /// Show no progress and nothing but warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Show what steps write to stdout and stderr; twice, attempts and retries too
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// How log lines are written to stderr
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// What to log, as `target=level,…`; comes on top of what -v shows
    #[arg(long, global = true, value_name = "FILTER", env = "RUST_LOG", hide_env_values = true)]
    pub(crate) log_filter: Option<String>,
}

impl GlobalArgs {
    /// Returns the directory of the modules.
    pub(crate) fn module_dir(&self) -> &Path {
        self.given_module_dir.as_deref().unwrap_or(Path::new("."))
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run what a request needs, and print the result
    Run(RunArgs),
    /// Run what a request needs for each of many items, and print the results in their order
    Batch(BatchArgs),
    /// Show what a request would run and what is kept, without running it
    Plan(PlanArgs),
    /// Show which steps of an execution were answered from what was kept, and why the others were not
    Explain(ExplainArgs),
    /// Go on with an execution that was interrupted or has failed
    Resume(ResumeArgs),
    /// List, show, cancel and remove executions that keep results
    Executions(ExecutionsArgs),
    /// List, show, count and remove kept results
    Cache(CacheArgs),
    /// Check, copy, export and import a whole store
    Store(StoreVerbArgs),
    /// Draw the graph of all modules
    Graph(GraphArgs),
    /// Check all modules, their graph and docket.toml
    Validate,
    /// Show what one module offers, imports and needs
    Inspect(InspectArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

/// What is asked for. What is left out comes from `[run]` of docket.toml.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RequestArgs {
    /// The port to compute, such as example.v1.Text#clean [default: the graph's one final output]
    #[arg(long, value_name = "PORT", value_parser = Port::parse)]
    pub(crate) output: Option<Port>,
    /// An input: [PORT=]JSON, [PORT=]@FILE or [PORT=]- for stdin; without PORT, the one that is missing
    #[arg(long = "input", value_name = "INPUT", value_parser = InputArg::parse, allow_negative_numbers = true)]
    pub(crate) inputs: Vec<InputArg>,
}

/// `run`
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) request: RequestArgs,
    /// The name of the execution [default: a new one that sorts by time]. Where its steps keep
    /// results, the same request under the same name is run once
    #[arg(long, value_name = "ID", value_parser = ExecutionId::parse)]
    pub(crate) execution_id: Option<ExecutionId>,
    #[command(flatten)]
    pub(crate) ending: EndingArgs,
    #[command(flatten)]
    pub(crate) store: StoreArg,
}

/// How long an execution may take, and what is shown of its end.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct EndingArgs {
    /// The deadline of the whole execution, such as 30s or 1h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// Write a report on every step and attempt to stderr, as JSON
    #[arg(long)]
    pub(crate) report: bool,
    /// How the result is written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = ResultFormat::Json)]
    pub(crate) format: ResultFormat,
}

/// How a result is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ResultFormat {
    /// Protobuf's JSON mapping, indented
    Json,
    /// The same on one line; a list is one line an element
    Ndjson,
    /// The encoded message; in a list each behind its length, a varint
    Proto,
    /// Protobuf's text format
    Text,
}

/// `plan`
#[derive(Debug, clap::Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) request: RequestArgs,
    /// Show the plan of a batch whose items are for this port; inputs are what all items share
    #[arg(long, value_name = "PORT", value_parser = Port::parse)]
    pub(crate) items_port: Option<Port>,
    /// The name of the execution, for results that are kept for one execution alone
    #[arg(long, value_name = "ID", value_parser = ExecutionId::parse)]
    pub(crate) execution_id: Option<ExecutionId>,
    /// How the plan is written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = ViewFormat::Text)]
    pub(crate) format: ViewFormat,
    #[command(flatten)]
    pub(crate) store: StoreArg,
}

/// `graph`
#[derive(Debug, clap::Args)]
pub(crate) struct GraphArgs {
    /// How the graph is drawn
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = GraphFormat::Tree)]
    pub(crate) format: GraphFormat,
}

/// How a graph is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum GraphFormat {
    /// Each final output, and below it what it is made of
    Tree,
    /// A table of the steps
    Text,
    /// Graphviz
    Dot,
    /// A Mermaid flow chart
    Mermaid,
    /// Everything that is known of the graph
    Json,
    /// A picture
    Svg,
}

/// `inspect`
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// The module's file; its docket.toml is the one beside it, unless --config names another
    #[arg(value_name = "MODULE", value_hint = ValueHint::FilePath)]
    pub(crate) module: PathBuf,
    /// How the facts are written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = ViewFormat::Text)]
    pub(crate) format: ViewFormat,
}

/// How facts are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ViewFormat {
    /// For people
    Text,
    /// For programs
    Json,
}

/// `completions`
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: Shell,
}

/// Returns the duration that people write as `30s` or `1h 5m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("it must be longer than zero".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; write it like `30s` or `1h 5m`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_duration_is_more_than_zero_and_has_a_unit() {
        assert_eq!(duration("1h 5m"), Ok(Duration::from_secs(3900)));
        for bad in ["0s", "5", "", "soon", "-1s"] {
            duration(bad).unwrap_err();
        }
    }
}
