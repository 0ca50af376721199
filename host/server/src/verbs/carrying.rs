//! One execution from its beginning to what is shown of it, for the verbs that carry one out. Never
//! decides which execution.

use std::sync::Arc;
use std::time::Duration;

use docket_graph::Port;
use docket_runtime::{Execution, ExecutionError, ExecutionId, Host, Outcome, Report, Value};

use crate::args::{EndingArgs, LogFormat};
use crate::error::CliError;
use crate::exit::Exit;
use crate::interrupt::interrupted;
use crate::output;
use crate::request::refused;
use crate::session::Session;
use crate::store::Door;

/// How an execution ended that was carried out.
pub(super) struct Carried {
    pub(super) id: ExecutionId,
    pub(super) result: Result<Arc<Value>, ExecutionError>,
    /// The signal that stopped it, where one did.
    pub(super) signal: Option<&'static str>,
    report: Report,
    /// The command that goes on with it, where it is recorded.
    resume: Option<String>,
}

/// Carries an execution out. A signal stops it; a second one does not wait until it has.
///
/// # Errors
/// Where the request is refused or the store cannot be used.
pub(super) async fn carry(
    session: &mut Session,
    mut execution: Execution,
    door: &Door,
    wants_report: bool,
) -> Result<Carried, CliError> {
    let id = execution.id().clone();
    let resumable = execution.is_journaled() && door.outlives_the_call();
    let resume = resumable.then(|| format!("docket-host resume {id}{}", door.option()));
    let canceller = execution.canceller();
    let outcome = execution.outcome();
    tokio::pin!(outcome);
    let (outcome, signal) = tokio::select! {
        outcome = &mut outcome => (outcome, None),
        signal = session.interrupt.signal() => {
            canceller.cancel();
            tokio::select! {
                outcome = outcome => (outcome, Some(signal)),
                again = session.interrupt.signal() => {
                    return Err(with_resume(interrupted(again, &format!("execution `{id}` was left")), resume));
                }
            }
        }
    };
    session.progress.clear();
    let Outcome { result, report } = outcome.map_err(|error| refused(&error))?;
    if wants_report {
        session.console.complain(&said(&report, session.args.log_format)?);
    }
    // An execution that its store never took is not to be gone on with.
    let resume = match &result {
        Err(_) if resume.is_some() && !door.may_have(&id).await => None,
        _ => resume,
    };
    Ok(Carried { id, result, signal, report, resume })
}

impl Carried {
    /// Returns the value, or how it is said that there is none.
    pub(super) fn value(self, host: &Host) -> Result<Arc<Value>, CliError> {
        let Self { id, result, signal, report, resume } = self;
        result.map_err(|error| {
            let resume = resume.filter(|_| host.may_end_otherwise(&error, &report));
            match (&error, signal) {
                (ExecutionError::Cancelled, Some(signal)) => {
                    with_resume(interrupted(signal, &format!("execution `{id}` was stopped")), resume)
                }
                _ => with_resume(CliError::of(Exit::Failed, &error), resume),
            }
        })
    }

    /// Writes the result to stdout.
    ///
    /// # Errors
    /// Where there is none, or it cannot be written in this format.
    pub(super) fn show(
        self,
        session: &Session,
        host: &Host,
        target: &Port,
        ending: EndingArgs,
    ) -> Result<(), CliError> {
        // A result that was there before a signal was heard is a result.
        let value = self.value(host)?;
        session.console.show(&output::write(ending.format, host.graph(), target, &value)?)
    }
}

pub(super) fn with_resume(error: CliError, resume: Option<String>) -> CliError {
    match resume {
        Some(command) => error.with_hint(format_args!("to go on with it: {command}")),
        None => error,
    }
}

/// Writes what is still to be written to the store. A signal ends the waiting: what was acknowledged is
/// safe, and leases lapse.
pub(super) async fn settle(session: &mut Session, host: Host, door: &Door) {
    let settled = async {
        // No execution is under way any more.
        let _ = host.shutdown(Duration::ZERO).await;
        door.close().await;
    };
    tokio::select! {
        () = settled => {}
        _ = session.interrupt.signal() => {}
    }
}

/// Returns the report as an object, on one line where each line is to be one.
pub(super) fn said(report: &Report, format: LogFormat) -> Result<String, CliError> {
    let text = match format {
        LogFormat::Text => serde_json::to_string_pretty(report),
        LogFormat::Json => serde_json::to_string(report),
    };
    text.map_err(|error| CliError::new(Exit::Failed, "the report cannot be written").caused_by(&error))
}
