//! `cache`: lists, shows, counts and removes kept results. Never makes one.

mod show;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use docket_store::{
    Batch, Expect, Filter, Kind, Record, RecordKey, StoreError, StoreErrorKind, Sync, Timestamp, Write, purge,
};
use serde::Serialize;

use super::ledger::{Ledger, Listed, owned};
use super::table::{short, stamp, table};
use crate::args::{
    CacheArgs, CacheFilter, CacheLsArgs, CacheRmArgs, CacheVerb, FormatArgs, ResultStatus, ViewFormat,
};
use crate::bring_up;
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::{self, size};
use crate::session::Session;
use crate::store::{Door, unusable};

pub(super) async fn cache(session: &mut Session, args: CacheArgs) -> Result<(), CliError> {
    let CacheArgs { store, verb } = args;
    let config = session.config()?;
    let options = bring_up::options(&session.args, &config);
    let door = Door::of_existing(&store, &config)?;
    let way = door.clone();
    let done = session.elsewhere(async move {
        let ledger = Ledger::of(way.store().await.map_err(|error| unusable(&error))?);
        match verb {
            CacheVerb::Ls(args) => ls(&ledger, args).await,
            CacheVerb::Show(args) => show::show(&ledger, args, &options).await,
            CacheVerb::Rm(args) => rm(&ledger, args).await,
            CacheVerb::Purge(FormatArgs { format }) => purged(&ledger, format).await,
            CacheVerb::Stats(FormatArgs { format }) => stats(&ledger, format).await,
        }
    });
    let done = done.await;
    door.close().await;
    session.console.show(&done?)
}

/// One result, without what it is.
#[derive(Serialize)]
struct Line {
    key: String,
    step: Option<String>,
    scope: Option<&'static str>,
    status: ResultStatus,
    /// None where it was removed while it was looked at.
    size_bytes: Option<u64>,
    created_at_ms: u64,
    finished_at_ms: Option<u64>,
    expires_at_ms: Option<u64>,
    attempts: u32,
    /// The execution that has made it or is making it.
    execution_id: Option<String>,
    /// The digest of the step's module.
    module: Option<String>,
}

impl Line {
    fn of(ledger: &Ledger, record: &Record, size_bytes: Option<u64>, now: Timestamp) -> Self {
        let facts = &record.facts;
        Self {
            key: record.key.to_string(),
            step: owned(&facts.step),
            scope: facts.scope.map(docket_store::Scope::as_str),
            status: ledger.result_status(record, now),
            size_bytes,
            created_at_ms: facts.created_at.0,
            finished_at_ms: facts.finished_at.map(|at| at.0),
            expires_at_ms: facts.expires_at.map(|at| at.0),
            attempts: facts.attempts,
            execution_id: owned(&facts.execution),
            module: owned(&facts.module),
        }
    }

    fn row(&self) -> [String; 8] {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        [
            short(&self.key).to_owned(),
            text(&self.step),
            self.scope.unwrap_or_default().to_owned(),
            self.status.as_str().to_owned(),
            self.size_bytes.map(size).unwrap_or_default(),
            stamp(self.created_at_ms),
            self.expires_at_ms.map_or_else(|| "never".to_owned(), stamp),
            text(&self.execution_id),
        ]
    }
}

async fn ls(ledger: &Ledger, args: CacheLsArgs) -> Result<Vec<u8>, CliError> {
    let CacheLsArgs { filter, status, limit, format } = args;
    let (lines, more) = lines(ledger, &filter, status, limit).await.map_err(|error| unusable(&error))?;
    match format {
        ViewFormat::Json => output::pretty(&lines),
        ViewFormat::Text if lines.is_empty() => Ok(b"no results\n".to_vec()),
        ViewFormat::Text => {
            let header = ["KEY", "STEP", "SCOPE", "STATUS", "SIZE", "CREATED", "EXPIRES", "EXECUTION"];
            let mut text = table(header, lines.iter().map(Line::row));
            if more {
                text.push_str("there are more; `--limit` says how many are listed\n");
            }
            Ok(text.into_bytes())
        }
    }
}

async fn lines(
    ledger: &Ledger,
    filter: &CacheFilter,
    status: Option<ResultStatus>,
    limit: usize,
) -> Result<(Vec<Line>, bool), StoreError> {
    let filter = stored(filter, status, ledger.now().await?);
    let wanted =
        |record: &Record, now| status.is_none_or(|status| status == ledger.result_status(record, now));
    let Listed { records, more, now } = ledger.list(Kind::Result, filter, limit, wanted).await?;
    let sizes = ledger.sizes(&records).await?;
    let lines = records.iter().zip(sizes).map(|(record, size)| Line::of(ledger, record, size, now));
    Ok((lines.collect(), more))
}

/// Returns the filter as the store takes it.
fn stored(filter: &CacheFilter, status: Option<ResultStatus>, now: Timestamp) -> Filter {
    let CacheFilter { step, execution, older_than } = filter;
    Filter {
        step: step.as_deref().map(Arc::from),
        execution: execution.as_ref().map(|id| id.as_str().into()),
        status: status.map(ResultStatus::stored),
        created_before: older_than.map(|age| before(now, age)),
        tenant: None,
    }
}

fn before(now: Timestamp, age: Duration) -> Timestamp {
    Timestamp(now.0.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)))
}

/// Returns the one key that begins so.
///
/// # Errors
/// Where there is none, or more than one.
async fn resolve(ledger: &Ledger, prefix: &str) -> Result<RecordKey, CliError> {
    let unknown = || {
        CliError::new(
            Exit::Usage,
            format_args!("no result has a key that begins with `{}`", prefix.escape_debug()),
        )
    };
    let prefix = prefix.to_ascii_lowercase();
    let key = RecordKey::parse(&prefix).map_err(|_| unknown())?;
    let found = ledger.store().get(Kind::Result, &key).await.map_err(|error| unusable(&error))?;
    if found.record.is_some() {
        return Ok(key);
    }
    let begins = |record: &Record, _| record.key.as_str().starts_with(&prefix);
    // Two are enough to know that it is not unique.
    let listed = ledger.list(Kind::Result, Filter::default(), 2, begins).await;
    let listed = listed.map_err(|error| unusable(&error))?;
    match &listed.records[..] {
        [] => Err(unknown()),
        [record] => Ok(record.key.clone()),
        [one, other, ..] => {
            let (one, other) = (short(one.key.as_str()), short(other.key.as_str()));
            let sentence =
                format!("several keys begin with `{prefix}`, such as `{one}` and `{other}`; give more of it");
            Err(CliError::new(Exit::Usage, sentence))
        }
    }
}

/// What was removed, and what stays because somebody is at it.
#[derive(Default, Serialize)]
struct Removed {
    removed: u64,
    in_use: u64,
}

async fn rm(ledger: &Ledger, args: CacheRmArgs) -> Result<Vec<u8>, CliError> {
    let CacheRmArgs { key, filter, format } = args;
    let removed = match &key {
        Some(key) => {
            let key = resolve(ledger, key).await?;
            let found = ledger.store().get(Kind::Result, &key).await.map_err(|error| unusable(&error))?;
            let records: Vec<Record> = found.record.into_iter().collect();
            let removed = remove(ledger, &records, found.now).await.map_err(|error| unusable(&error))?;
            if removed.in_use > 0 {
                let sentence =
                    format!("the result `{}` is being made; cancel its execution first", short(key.as_str()));
                return Err(CliError::new(Exit::Usage, sentence));
            }
            removed
        }
        None => remove_all(ledger, &filter).await.map_err(|error| unusable(&error))?,
    };
    match format {
        ViewFormat::Json => output::pretty(&removed),
        ViewFormat::Text => {
            let stay = match removed.in_use {
                0 => String::new(),
                in_use => {
                    format!("; {in_use} that {} being made stay", if in_use == 1 { "is" } else { "are" })
                }
            };
            Ok(format!("removed {}{stay}\n", counted(removed.removed, "result")).into_bytes())
        }
    }
}

async fn remove_all(ledger: &Ledger, filter: &CacheFilter) -> Result<Removed, StoreError> {
    let filter = stored(filter, None, ledger.now().await?);
    let Listed { records, now, .. } = ledger.list(Kind::Result, filter, usize::MAX, |_, _| true).await?;
    remove(ledger, &records, now).await
}

/// Removes records as they were listed: what has changed since is in use.
async fn remove(ledger: &Ledger, records: &[Record], now: Timestamp) -> Result<Removed, StoreError> {
    let mut removed = Removed::default();
    for record in records {
        if ledger.result_status(record, now) == ResultStatus::Running {
            removed.in_use += 1;
            continue;
        }
        let expect = Expect::Revision(record.revision);
        let writes = vec![Write::Delete { kind: record.kind, key: record.key.clone(), expect }];
        match ledger.store().commit(Batch { writes, sync: Sync::Later }).await {
            Ok(()) => removed.removed += 1,
            Err(error) if error.kind() == StoreErrorKind::Conflict => removed.in_use += 1,
            Err(error) => return Err(error),
        }
    }
    ledger.store().sync().await?;
    Ok(removed)
}

async fn purged(ledger: &Ledger, format: ViewFormat) -> Result<Vec<u8>, CliError> {
    let purged = purge(&**ledger.store()).await.map_err(|error| unusable(&error))?;
    match format {
        ViewFormat::Json => output::pretty(&purged),
        ViewFormat::Text => {
            let counts =
                [(purged.results, "result"), (purged.executions, "execution"), (purged.modules, "module")];
            let counts = counts.map(|(count, what)| counted(count, what));
            let [results, executions, modules] = counts;
            Ok(format!("removed {results}, {executions} and {modules}\n").into_bytes())
        }
    }
}

/// How many results of one step stand so, and how large they are together.
#[derive(Serialize)]
struct Stat {
    step: String,
    status: ResultStatus,
    count: u64,
    bytes: u64,
}

async fn stats(ledger: &Ledger, format: ViewFormat) -> Result<Vec<u8>, CliError> {
    let stats = count(ledger).await.map_err(|error| unusable(&error))?;
    match format {
        ViewFormat::Json => output::pretty(&stats),
        ViewFormat::Text => {
            let rows = stats.iter().map(|stat| {
                [stat.step.clone(), stat.status.as_str().to_owned(), stat.count.to_string(), size(stat.bytes)]
            });
            let mut text = if stats.is_empty() {
                String::new()
            } else {
                table(["STEP", "STATUS", "COUNT", "SIZE"], rows)
            };
            let count = stats.iter().map(|stat| stat.count).sum();
            let bytes = stats.iter().map(|stat| stat.bytes).sum();
            text.push_str(&format!("{}, {}\n", counted(count, "result"), size(bytes)));
            Ok(text.into_bytes())
        }
    }
}

async fn count(ledger: &Ledger) -> Result<Vec<Stat>, StoreError> {
    let listed = ledger.list(Kind::Result, Filter::default(), usize::MAX, |_, _| true).await?;
    let sizes = ledger.sizes(&listed.records).await?;
    let mut stats: BTreeMap<(String, ResultStatus), (u64, u64)> = BTreeMap::new();
    for (record, size) in listed.records.iter().zip(sizes) {
        let step = owned(&record.facts.step).unwrap_or_default();
        let (count, bytes) = stats.entry((step, ledger.result_status(record, listed.now))).or_default();
        *count += 1;
        *bytes += size.unwrap_or_default();
    }
    let stat = |((step, status), (count, bytes))| Stat { step, status, count, bytes };
    Ok(stats.into_iter().map(stat).collect())
}

fn counted(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
