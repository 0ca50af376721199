//! `completions`: a script for a shell. Never looks at a module.

use clap::CommandFactory as _;

use crate::args::{Args, CompletionsArgs};
use crate::console::Console;
use crate::error::CliError;

pub(crate) fn completions(console: &Console, args: CompletionsArgs) -> Result<(), CliError> {
    let CompletionsArgs { shell } = args;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "docket-host", &mut script);
    console.show(&script)
}
