//! `explain`: which steps of an execution were answered from what was kept, and why the others were
//! not. Never runs a step.

use std::sync::Arc;

use docket_runtime::{Came, Explanation};

use super::ledger::Ledger;
use super::table::{short, table};
use crate::args::{ExplainArgs, ViewFormat};
use crate::error::{CliError, harmless};
use crate::output;
use crate::session::Session;
use crate::store::{Door, Notice, TENANT, unusable};

pub(super) async fn explain(session: &mut Session, args: ExplainArgs) -> Result<(), CliError> {
    let ExplainArgs { id, format, store } = args;
    let door = Door::of(&store, &session.config()?, Notice::Unusual)?;
    let way = door.clone();
    let found = session.elsewhere(async move {
        let store = way.store().await.map_err(|error| unusable(&error))?;
        // One that is not recorded has no steps to explain.
        Ledger::of(Arc::clone(&store)).execution(&id).await?;
        docket_runtime::explain(&store, TENANT, id.as_str()).await.map_err(|error| unusable(&error))
    });
    let found = found.await;
    door.close().await;
    let found = found?;
    let data = match format {
        ViewFormat::Json => output::pretty(&found)?,
        ViewFormat::Text => text(&found).into_bytes(),
    };
    session.console.show(&data)
}

fn text(found: &[Explanation]) -> String {
    if found.is_empty() {
        return "no step whose result is kept has begun\n".to_owned();
    }
    let rows = found.iter().map(|Explanation { step, result, key, reason, attempts }| {
        [
            step.clone(),
            came(*result).to_owned(),
            harmless(reason),
            attempts.to_string(),
            short(key).to_owned(),
        ]
    });
    table(["STEP", "RESULT", "REASON", "ATTEMPTS", "KEY"], rows)
}

fn came(came: Came) -> &'static str {
    match came {
        Came::Made => "made",
        Came::Found => "found",
        Came::Failed => "failed",
        Came::Stopped => "stopped",
    }
}
