//! `store`: checks, copies, exports and imports a whole store. Never looks into what the records mean.

use std::io::{BufReader, ErrorKind, stdin};

use docket_store::{Moved, TransferError, check, export, import, migrate};
use serde::Serialize;

use crate::args::{FormatArgs, MigrateArgs, StoreVerb, StoreVerbArgs, ViewFormat};
use crate::console::Console;
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::{self, size};
use crate::session::Session;
use crate::store::{Door, Notice, unusable};

pub(super) async fn store(session: &mut Session, args: StoreVerbArgs) -> Result<(), CliError> {
    let StoreVerbArgs { store, verb } = args;
    if let StoreVerb::Migrate(args) = verb {
        return migrated(session, args).await;
    }
    let door = Door::of(&store, &session.config()?, Notice::Unusual)?;
    if !matches!(verb, StoreVerb::Import(_)) {
        door.check_existing()?;
    }
    let (way, console) = (door.clone(), session.console.clone());
    let done = session.elsewhere(async move {
        let store = way.store().await.map_err(|error| unusable(&error))?;
        match verb {
            StoreVerb::Export => match export(&*store, console.result_writer()).await {
                // A reader that has gone away got what it wanted.
                Err(TransferError::Io { error, .. }) if error.kind() == ErrorKind::BrokenPipe => {
                    Ok(Vec::new())
                }
                done => done.map(|_| Vec::new()).map_err(|error| failed(&error)),
            },
            StoreVerb::Import(FormatArgs { format }) => {
                let moved = import(&*store, BufReader::new(stdin())).await.map_err(|error| failed(&error))?;
                written("imported", moved, format)
            }
            StoreVerb::Check(FormatArgs { format }) => {
                let faults = check(&*store).await.map_err(|error| unusable(&error))?;
                checked(&console, &faults, format)
            }
            StoreVerb::Migrate(_) => unreachable!("it names its stores itself"),
        }
    });
    let done = done.await;
    door.close().await;
    session.console.show(&done?)
}

async fn migrated(session: &mut Session, args: MigrateArgs) -> Result<(), CliError> {
    let MigrateArgs { from, to, format } = args;
    let (from, to) = (Door::to_existing(&from)?, Door::to_any(&to)?);
    if from.leads_where(&to) {
        return Err(CliError::new(Exit::Usage, "a store cannot be moved to itself; name another one"));
    }
    let (out, into) = (from.clone(), to.clone());
    let done = session.elsewhere(async move {
        let source = out.store().await.map_err(|error| unusable(&error))?;
        let target = into.store().await.map_err(|error| unusable(&error))?;
        migrate(&*source, &*target).await.map_err(|error| failed(&error))
    });
    let done = done.await;
    from.close().await;
    to.close().await;
    session.console.show(&written("moved", done?, format)?)
}

#[derive(Serialize)]
struct MovedView {
    records: u64,
    already_there: u64,
    released: u64,
    body_bytes: u64,
}

fn written(done: &str, moved: Moved, format: ViewFormat) -> Result<Vec<u8>, CliError> {
    let Moved { records, already, released, body_bytes } = moved;
    match format {
        ViewFormat::Json => {
            output::pretty(&MovedView { records, already_there: already, released, body_bytes })
        }
        ViewFormat::Text => {
            let mut text = format!("{done} {records} records, {}", size(body_bytes));
            if already > 0 {
                text.push_str(&format!("; {already} were there already"));
            }
            if released > 0 {
                text.push_str(&format!("; {released} that were running have no holder any more"));
            }
            text.push('\n');
            Ok(text.into_bytes())
        }
    }
}

#[derive(Serialize)]
struct FaultView {
    kind: &'static str,
    key: Option<String>,
    message: String,
}

/// Says that a store is sound. What is wrong with it is the error, and for programs also the result.
fn checked(
    console: &Console,
    faults: &[docket_store::Damage],
    format: ViewFormat,
) -> Result<Vec<u8>, CliError> {
    let view = |fault: &docket_store::Damage| FaultView {
        kind: fault.kind.as_str(),
        key: fault.key.as_ref().map(ToString::to_string),
        message: fault.message.clone(),
    };
    match format {
        ViewFormat::Json => console.show(&output::pretty(&faults.iter().map(view).collect::<Vec<_>>())?)?,
        ViewFormat::Text if faults.is_empty() => console.show(b"ok: every record can be read\n")?,
        ViewFormat::Text => {}
    }
    match faults {
        [] => Ok(Vec::new()),
        faults => Err(CliError::of_faults(Exit::Configuration, "the store", faults)),
    }
}

/// Lines that are none of an export are bad input; what stores do is theirs.
fn failed(error: &TransferError) -> CliError {
    let exit = match error {
        TransferError::Line { .. } | TransferError::CutShort { .. } => Exit::Usage,
        TransferError::Differs { .. } | TransferError::Foreign { .. } => Exit::Usage,
        TransferError::Store(_) | TransferError::Io { .. } => Exit::Configuration,
    };
    CliError::of(exit, error)
}
