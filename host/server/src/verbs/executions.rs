//! `executions`: lists, stops and removes what is recorded of executions. Never carries one out.

mod show;

use std::collections::HashSet;
use std::sync::Arc;

use docket_runtime::ItemCounts;
use docket_store::{Facts, Filter, Kind, Record, Status, Timestamp, remove_execution};
use serde::{Deserialize, Serialize};

use super::ledger::{Ledger, Listed, execution_status, owned, unknown_execution};
use super::table::{flat, stamp, table, took};
use crate::args::{
    ExecutionArgs, ExecutionStatus, ExecutionsArgs, ExecutionsLsArgs, ExecutionsVerb, ViewFormat,
};
use crate::bring_up;
use crate::error::CliError;
use crate::exit::Exit;
use crate::output;
use crate::session::Session;
use crate::store::{Door, TENANT, unusable};

pub(super) async fn executions(session: &mut Session, args: ExecutionsArgs) -> Result<(), CliError> {
    let ExecutionsArgs { store, verb } = args;
    let config = session.config()?;
    let options = bring_up::options(&session.args, &config);
    let door = Door::of_existing(&store, &config)?;
    let way = door.clone();
    let done = session.elsewhere(async move {
        let ledger = Ledger::of(way.store().await.map_err(|error| unusable(&error))?);
        match verb {
            ExecutionsVerb::Ls(args) => ls(&ledger, args).await,
            ExecutionsVerb::Show(args) => show::show(&ledger, args, &options).await,
            ExecutionsVerb::Cancel(args) => cancel(&ledger, args).await,
            ExecutionsVerb::Rm(args) => rm(&ledger, args, &way).await,
        }
    });
    let done = done.await;
    door.close().await;
    session.console.show(&done?)
}

/// One execution of a listing.
#[derive(Serialize)]
struct Line {
    execution_id: String,
    status: ExecutionStatus,
    target: Option<String>,
    created_at_ms: u64,
    started_at_ms: Option<u64>,
    finished_at_ms: Option<u64>,
    expires_at_ms: Option<u64>,
    /// How often it was begun or gone on with.
    runs: u32,
    /// The digests of its modules.
    modules: Vec<String>,
    /// Of a batch: what became of its items so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<ItemCounts>,
    error: Option<String>,
}

/// What the record of an execution says for people.
#[derive(Default, Deserialize)]
struct Detail {
    target: Option<String>,
    #[serde(default)]
    modules: Vec<String>,
    items: Option<ItemCounts>,
    error: Option<String>,
}

impl Detail {
    fn of(facts: &Facts) -> Self {
        let detail = facts.detail.as_deref().and_then(|detail| serde_json::from_str(detail).ok());
        detail.unwrap_or_default()
    }
}

/// Says what became of the items of a batch, for people.
fn said(items: ItemCounts) -> String {
    let ItemCounts { read, done, failed } = items;
    let failed = if failed == 0 { String::new() } else { format!(", {failed} failed") };
    format!("{done} of {read} read done{failed}")
}

impl Line {
    fn of(ledger: &Ledger, record: &Record, now: Timestamp) -> Self {
        let facts = &record.facts;
        let Detail { target, modules, items, error } = Detail::of(facts);
        Self {
            execution_id: owned(&facts.execution).unwrap_or_default(),
            status: ledger.execution_status(record, now),
            target,
            created_at_ms: facts.created_at.0,
            started_at_ms: facts.started_at.map(|at| at.0),
            finished_at_ms: facts.finished_at.map(|at| at.0),
            expires_at_ms: facts.expires_at.map(|at| at.0),
            runs: facts.attempts,
            modules,
            items,
            error,
        }
    }

    fn row(&self) -> [String; 7] {
        let items = self.items.map(|items| format!(" ({})", said(items))).unwrap_or_default();
        [
            self.execution_id.clone(),
            self.status.as_str().to_owned(),
            stamp(self.created_at_ms),
            took(self.started_at_ms, self.finished_at_ms),
            self.runs.to_string(),
            self.target.clone().unwrap_or_default() + &items,
            self.error.as_deref().map(flat).unwrap_or_default(),
        ]
    }
}

async fn ls(ledger: &Ledger, args: ExecutionsLsArgs) -> Result<Vec<u8>, CliError> {
    let format = args.format;
    let Listed { records, more, now } = listed(ledger, args).await.map_err(|error| unusable(&error))?;
    let lines: Vec<_> = records.iter().map(|record| Line::of(ledger, record, now)).collect();
    match format {
        ViewFormat::Json => output::pretty(&lines),
        ViewFormat::Text if lines.is_empty() => Ok(b"no executions\n".to_vec()),
        ViewFormat::Text => {
            let header = ["EXECUTION", "STATUS", "CREATED", "TOOK", "RUNS", "TARGET", "ERROR"];
            let mut text = table(header, lines.iter().map(Line::row));
            if more {
                text.push_str("there are more; `--limit` says how many are listed\n");
            }
            Ok(text.into_bytes())
        }
    }
}

/// Asks for each status apart, because the store finds them by it, and puts the answers together.
async fn listed(ledger: &Ledger, args: ExecutionsLsArgs) -> Result<Listed, docket_store::StoreError> {
    let ExecutionsLsArgs { status, step, since, limit, format: _ } = args;
    let now = ledger.now().await?;
    let oldest = since.map_or(0, |since| now.0.saturating_sub(millis(since)));
    let of_step = match &step {
        Some(step) => Some(with_step(ledger, step).await?),
        None => None,
    };
    let wanted = |record: &Record, now| {
        let named = record.facts.execution.as_deref();
        record.facts.created_at.0 >= oldest
            && (status.is_empty() || status.contains(&ledger.execution_status(record, now)))
            && of_step.as_ref().is_none_or(|ids| named.is_some_and(|id| ids.contains(id)))
    };
    let mut stored: Vec<Option<Status>> =
        status.iter().flat_map(|status| status.stored()).map(|status| Some(*status)).collect();
    stored.sort();
    stored.dedup();
    if stored.is_empty() {
        stored.push(None);
    }
    let mut all = Listed { records: Vec::new(), more: false, now };
    for status in stored {
        let filter = Filter { status, ..Filter::default() };
        let Listed { records, more, now } = ledger.list(Kind::Execution, filter, limit, wanted).await?;
        all.records.extend(records);
        all.more |= more;
        all.now = now;
    }
    all.records.sort_by(|one, other| {
        let key = |record: &Record| (std::cmp::Reverse(record.facts.created_at), record.key.clone());
        key(one).cmp(&key(other))
    });
    all.more |= all.records.len() > limit;
    all.records.truncate(limit);
    Ok(all)
}

/// Returns the executions that have a note or a result of a step.
async fn with_step(ledger: &Ledger, step: &str) -> Result<HashSet<Arc<str>>, docket_store::StoreError> {
    let mut ids = HashSet::new();
    for kind in [Kind::Step, Kind::Result] {
        let filter = Filter { step: Some(step.into()), ..Filter::default() };
        let listed = ledger.list(kind, filter, usize::MAX, |_, _| true).await?;
        ids.extend(listed.records.into_iter().filter_map(|record| record.facts.execution));
    }
    Ok(ids)
}

/// What was done to an execution.
#[derive(Serialize)]
struct Change<'a> {
    execution_id: &'a str,
    /// How it stood before.
    was: ExecutionStatus,
    status: &'static str,
}

async fn cancel(ledger: &Ledger, args: ExecutionArgs) -> Result<Vec<u8>, CliError> {
    let ExecutionArgs { id, format } = args;
    let was = ledger.journal().cancel(TENANT, id.as_str()).await.map_err(|error| unusable(&error))?;
    let was = was.ok_or_else(|| unknown_execution(&id))?.facts.status;
    let (was, open) = match was {
        Status::Running => (ExecutionStatus::Running, true),
        status => (execution_status(status), execution_status(status) == ExecutionStatus::Interrupted),
    };
    let status = if open { ExecutionStatus::Cancelled } else { was };
    let text = match (open, was) {
        (true, ExecutionStatus::Running) => {
            format!("execution `{id}` is cancelled; its process stops when it next renews its lease\n")
        }
        (true, _) => format!("execution `{id}` is cancelled\n"),
        (false, was) => format!("execution `{id}` has already ended: {}\n", was.as_str()),
    };
    written(format, &Change { execution_id: id.as_str(), was, status: status.as_str() }, text)
}

async fn rm(ledger: &Ledger, args: ExecutionArgs, door: &Door) -> Result<Vec<u8>, CliError> {
    let ExecutionArgs { id, format } = args;
    let entry = ledger.execution(&id).await?;
    if entry.facts.status == Status::Running {
        let sentence = format!(
            "execution `{id}` is being carried out; stop it first: `docket-host executions cancel {id}{}`",
            door.option()
        );
        return Err(CliError::new(Exit::Usage, sentence));
    }
    let removed = remove_execution(&**ledger.store(), TENANT, id.as_str());
    if !removed.await.map_err(|error| unusable(&error))? {
        let sentence = format!("execution `{id}` has changed meanwhile; look at it again and repeat");
        return Err(CliError::new(Exit::Configuration, sentence));
    }
    let was = execution_status(entry.facts.status);
    let text = format!("execution `{id}` is removed\n");
    written(format, &Change { execution_id: id.as_str(), was, status: "removed" }, text)
}

fn written(format: ViewFormat, change: &Change<'_>, text: String) -> Result<Vec<u8>, CliError> {
    match format {
        ViewFormat::Json => output::pretty(change),
        ViewFormat::Text => Ok(text.into_bytes()),
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
