//! The command line of Docket: reads arguments and `docket.toml`, builds a host from them, asks it,
//! and shows the answer. What a graph is and how a step runs is decided by docket-graph and
//! docket-runtime.
//!
//! Result data goes to stdout, everything else to stderr; how it ended is an [`Exit`].
//!
//! The `mod` list is the reading order, and a module refers only to modules above it.

mod exit;
mod nearest;
mod error;
mod console;
mod input;
mod args;
mod config;
mod json;
mod items;
mod door;
mod log;
mod progress;
mod interrupt;
mod session;
mod store;
mod bring_up;
mod request;
mod output;
mod verbs;

use std::ffi::OsString;

pub use console::Console;
pub use exit::Exit;

#[doc(hidden)]
pub use door::{read_config, read_json, show_json};

use args::Args;
use error::CliError;
use session::Session;

/// Carries out one command line, the program's name first, with the streams of this process.
///
/// Once a process the log is set up for all of it; a second call logs where the first one did.
pub fn main_with(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Exit {
    main_on(args, Console::of_process())
}

/// Carries out one command line as [`main_with`] does, with other streams.
pub fn main_on(args: impl IntoIterator<Item = impl Into<OsString> + Clone>, console: Console) -> Exit {
    let args = match Args::read(args) {
        Ok(args) => args,
        Err(refused) => return refuse(&refused, &console),
    };
    let format = args.global.log_format;
    match carry_out(args, console.clone()) {
        Ok(()) => Exit::Done,
        Err(error) => {
            console.complain(&log::error(&error, format));
            error.exit()
        }
    }
}

/// Shows what clap has to say: a fault of the arguments, or the help that was asked for.
fn refuse(refused: &clap::Error, console: &Console) -> Exit {
    let text = refused.render().to_string();
    if refused.use_stderr() {
        console.complain(&text);
        return Exit::Usage;
    }
    match console.show(text.as_bytes()) {
        Ok(()) => Exit::Done,
        Err(error) => {
            console.complain(&error.to_string());
            error.exit()
        }
    }
}

/// The stack of each thread, in bytes: as much as Linux gives the first thread of a process.
const STACK: usize = 8 << 20;

fn carry_out(args: Args, console: Console) -> Result<(), CliError> {
    let Args { global, verb } = args;
    log::set_up(&global, &console);
    if let args::Verb::Completions(shell) = verb {
        return verbs::completions(&console, shell);
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.enable_all().thread_stack_size(STACK).build().map_err(|error| {
        CliError::new(Exit::Configuration, "the threads to work on cannot be started").caused_by(&error)
    })?;
    // On the threads of the steps: what they make is handed over without waking another thread.
    let carried_out = runtime.spawn(async move {
        let mut session = Session::begin(global, console)?;
        verbs::carry_out(&mut session, verb).await
    });
    let ended = match runtime.block_on(carried_out) {
        Ok(ended) => ended,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    // What still runs now is a read or a compilation that was interrupted: nobody waits for it.
    runtime.shutdown_background();
    ended
}
