//! Owns the signals that stop a command: SIGINT and SIGTERM. Never stops anything itself.

use std::future::Future;
use std::io;

use crate::error::CliError;
use crate::exit::Exit;

/// Hears the signals from when it is made.
pub(crate) struct Interrupt {
    #[cfg(unix)]
    int: tokio::signal::unix::Signal,
    #[cfg(unix)]
    term: tokio::signal::unix::Signal,
}

impl Interrupt {
    #[cfg(unix)]
    pub(crate) fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { int: signal(SignalKind::interrupt())?, term: signal(SignalKind::terminate())? })
    }

    #[cfg(not(unix))]
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {})
    }

    /// Waits for a signal, and returns its name.
    ///
    /// # Cancel safety
    /// A signal that comes while nobody waits is returned by the next call.
    #[cfg(unix)]
    pub(crate) async fn signal(&mut self) -> &'static str {
        tokio::select! {
            _ = self.int.recv() => "SIGINT",
            _ = self.term.recv() => "SIGTERM",
        }
    }

    #[cfg(not(unix))]
    pub(crate) async fn signal(&mut self) -> &'static str {
        match tokio::signal::ctrl_c().await {
            Ok(()) => "Ctrl-C",
            // Without a way to hear it there is nothing to wait for.
            Err(_) => std::future::pending().await,
        }
    }

    /// Does the work, unless a signal comes first; the work is dropped then.
    pub(crate) async fn or<T>(
        &mut self,
        work: impl Future<Output = Result<T, CliError>>,
    ) -> Result<T, CliError> {
        tokio::select! {
            biased;
            name = self.signal() => Err(interrupted(name, "nothing has run")),
            done = work => done,
        }
    }
}

/// Returns how a command ends that a signal has stopped.
pub(crate) fn interrupted(signal: &str, what: &str) -> CliError {
    CliError::new(Exit::Interrupted, format_args!("interrupted by {signal}: {what}"))
}
