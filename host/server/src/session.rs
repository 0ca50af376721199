//! Owns what all verbs of one call share: the global options, the configuration, the streams and
//! the ear for signals. Never does a verb's work.

use std::sync::Arc;

use tokio::task::JoinSet;

use crate::args::GlobalArgs;
use crate::config::Config;
use crate::console::Console;
use crate::error::CliError;
use crate::exit::Exit;
use crate::interrupt::Interrupt;
use crate::progress::{Progress, Wanted};

/// One call of the program.
pub(crate) struct Session {
    pub(crate) args: GlobalArgs,
    pub(crate) console: Console,
    pub(crate) progress: Arc<Progress>,
    pub(crate) interrupt: Interrupt,
}

impl Session {
    pub(crate) fn begin(args: GlobalArgs, console: Console) -> Result<Self, CliError> {
        let interrupt = Interrupt::listen().map_err(|error| {
            CliError::new(Exit::Configuration, "signals cannot be listened for").caused_by(&error)
        })?;
        let wanted = if args.quiet { Wanted::No } else { Wanted::Yes };
        let progress = Arc::new(Progress::new(&console, wanted));
        Ok(Self { args, console, progress, interrupt })
    }

    /// Reads the configuration that goes with the module directory.
    pub(crate) fn config(&self) -> Result<Config, CliError> {
        Config::load(self.args.config.as_deref(), self.args.module_dir())
    }

    /// Does work that blocks its thread elsewhere, so that a signal is heard meanwhile.
    pub(crate) async fn blocking<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> Result<T, CliError> + Send + 'static,
    ) -> Result<T, CliError> {
        let mut tasks = JoinSet::new();
        tasks.spawn_blocking(work);
        self.interrupt.or(joined(&mut tasks)).await
    }

    /// Does work that may block its thread now and then elsewhere, so that a signal is heard meanwhile.
    pub(crate) async fn elsewhere<T: Send + 'static>(
        &mut self,
        work: impl Future<Output = Result<T, CliError>> + Send + 'static,
    ) -> Result<T, CliError> {
        let mut tasks = JoinSet::new();
        tasks.spawn(work);
        self.interrupt.or(joined(&mut tasks)).await
    }
}

/// Waits for the one task of a set, and goes down with it where it panicked.
async fn joined<T: 'static>(tasks: &mut JoinSet<Result<T, CliError>>) -> Result<T, CliError> {
    match tasks.join_next().await.expect("the set has one task") {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
