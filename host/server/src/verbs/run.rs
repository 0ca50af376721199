//! `run`: computes what a request asks for, and writes the result.

use docket_runtime::{ExecutionError, Outcome, Report, Request, RequestError};

use crate::args::{LogFormat, RunArgs};
use crate::bring_up;
use crate::error::CliError;
use crate::exit::Exit;
use crate::interrupt::interrupted;
use crate::output;
use crate::request::Asked;
use crate::session::Session;

pub(super) async fn run(session: &mut Session, args: RunArgs) -> Result<(), CliError> {
    let RunArgs { request, execution_id, timeout, report: wants_report, format } = args;
    let config = session.config()?;
    let host = bring_up::host(session, &config).await?;
    let asked = Asked::of(request, &config, host.graph())?;
    let target = asked.target.clone();
    let mut request = Request::new(target.clone());
    for (port, value) in asked.values(session, host.graph()).await? {
        request = request.value(port, value);
    }
    if let Some(id) = execution_id {
        request = request.execution_id(id);
    }
    if let Some(timeout) = timeout.or(config.run.timeout) {
        request = request.timeout(timeout);
    }

    let mut execution = host.start(request).map_err(|error| refused(&error))?;
    let (id, canceller) = (execution.id().clone(), execution.canceller());
    let outcome = execution.outcome();
    tokio::pin!(outcome);
    let (outcome, signal) = tokio::select! {
        outcome = &mut outcome => (outcome, None),
        signal = session.interrupt.signal() => {
            canceller.cancel();
            (outcome.await, Some(signal))
        }
    };
    let Outcome { result, report } = outcome.map_err(|error| refused(&error))?;
    session.progress.clear();
    if wants_report {
        session.console.complain(&said(&report, session.args.log_format)?);
    }
    match (result, signal) {
        (Err(ExecutionError::Cancelled), Some(signal)) => {
            Err(interrupted(signal, &format!("execution `{id}` was stopped")))
        }
        (Err(error), _) => Err(CliError::of(Exit::Failed, &error)),
        // A result that was there before the signal was heard is a result.
        (Ok(value), _) => session.console.show(&output::write(format, host.graph(), &target, &value)?),
    }
}

/// Returns the report as an object, on one line where each line is to be one.
fn said(report: &Report, format: LogFormat) -> Result<String, CliError> {
    let text = match format {
        LogFormat::Text => serde_json::to_string_pretty(report),
        LogFormat::Json => serde_json::to_string(report),
    };
    text.map_err(|error| CliError::new(Exit::Failed, "the report cannot be written").caused_by(&error))
}

/// Nothing has run where a request is refused.
fn refused(error: &RequestError) -> CliError {
    CliError::of(Exit::Usage, error)
}
