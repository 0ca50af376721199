//! What all verbs about kept things read: executions and results, as they stand now. Writes nothing.

use std::sync::Arc;

use docket_graph::Port;
use docket_runtime::{ExecutionId, HostOptions, Inspection, ModuleSource, Value};
use docket_store::{
    Entry, Filter, Journal, Kind, Query, Record, RecordKey, Scope, Status, Store, StoreError, Timestamp,
};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::args::{ExecutionStatus, ResultStatus};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::{self, Readable};
use crate::store::{TENANT, journal, unusable};

/// How many records are listed at a time.
const PAGE: usize = 500;

/// How many bodies are asked for at once, to learn how large they are.
const ASKED_AT_ONCE: usize = 32;

/// A store, as the verbs about kept things read it.
#[derive(Clone)]
pub(super) struct Ledger {
    store: Arc<dyn Store>,
    journal: Journal,
}

/// Records that were listed.
pub(super) struct Listed {
    pub(super) records: Vec<Record>,
    /// Whether there are more.
    pub(super) more: bool,
    /// The store's time.
    pub(super) now: Timestamp,
}

impl Ledger {
    pub(super) fn of(store: Arc<dyn Store>) -> Self {
        Self { journal: journal(Arc::clone(&store)), store }
    }

    pub(super) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    pub(super) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Returns the execution as it is recorded.
    ///
    /// # Errors
    /// Where none is, or the store cannot be read.
    pub(super) async fn execution(&self, id: &ExecutionId) -> Result<Entry, CliError> {
        let found = self.journal.read(TENANT, id.as_str()).await.map_err(|error| unusable(&error))?;
        found.ok_or_else(|| unknown_execution(id))
    }

    /// Returns the store's time.
    pub(super) async fn now(&self) -> Result<Timestamp, StoreError> {
        let any = RecordKey::parse("-").expect("a hyphen is visible");
        Ok(self.store.get(Kind::Result, &any).await?.now)
    }

    /// Returns the newest records that fit the filter and are wanted, at most so many.
    pub(super) async fn list(
        &self,
        kind: Kind,
        filter: Filter,
        most: usize,
        wanted: impl Fn(&Record, Timestamp) -> bool,
    ) -> Result<Listed, StoreError> {
        let filter = Filter { tenant: Some(TENANT.into()), ..filter };
        let (mut records, mut after) = (Vec::new(), None);
        loop {
            let query = Query::Newest { kind, filter: filter.clone(), after };
            let page = self.store.scan(&query, PAGE.min(most.saturating_add(1))).await?;
            let now = page.now;
            records.extend(page.records.into_iter().filter(|record| wanted(record, now)));
            after = page.next;
            if records.len() > most || after.is_none() {
                let more = records.len() > most;
                records.truncate(most);
                return Ok(Listed { records, more, now });
            }
        }
    }

    /// Returns how an execution stands.
    pub(super) fn execution_status(&self, record: &Record, now: Timestamp) -> ExecutionStatus {
        match record.facts.status {
            Status::Running if self.journal.is_held(record, now) => ExecutionStatus::Running,
            status => execution_status(status),
        }
    }

    /// Returns how a result stands.
    pub(super) fn result_status(&self, record: &Record, now: Timestamp) -> ResultStatus {
        match record.facts.status {
            // What is of one execution alone is there for it for as long as it is remembered.
            Status::Done if record.facts.is_expired(now) && record.facts.scope != Some(Scope::Workflow) => {
                ResultStatus::Expired
            }
            Status::Done => ResultStatus::Done,
            Status::Running if self.journal.is_held(record, now) => ResultStatus::Running,
            Status::Running => ResultStatus::Lapsed,
            Status::Failed => ResultStatus::Failed,
            Status::Released | Status::Interrupted | Status::Cancelled => ResultStatus::Released,
        }
    }

    /// Returns the executions that nobody carries out and that have not ended, the newest first.
    pub(super) async fn interrupted(&self) -> Result<Vec<ExecutionId>, StoreError> {
        let mut found = Vec::new();
        for status in [Status::Interrupted, Status::Running] {
            let filter = Filter { status: Some(status), ..Filter::default() };
            let wanted =
                |record: &Record, now| self.execution_status(record, now) == ExecutionStatus::Interrupted;
            found.extend(self.list(Kind::Execution, filter, usize::MAX, wanted).await?.records);
        }
        found.sort_by_key(|record| std::cmp::Reverse(record.facts.created_at));
        let id = |record: &Record| ExecutionId::parse(record.facts.execution.as_deref()?).ok();
        Ok(found.iter().filter_map(id).collect())
    }

    /// Returns the sizes of the bodies of these records, in their order; none for one that is gone.
    pub(super) async fn sizes(&self, records: &[Record]) -> Result<Vec<Option<u64>>, StoreError> {
        let mut sizes = vec![None; records.len()];
        let mut asked = JoinSet::new();
        let mut waiting = records.iter().enumerate();
        loop {
            while asked.len() < ASKED_AT_ONCE
                && let Some((index, record)) = waiting.next()
            {
                let (store, kind, key) = (Arc::clone(&self.store), record.kind, record.key.clone());
                asked.spawn(async move { (index, store.get(kind, &key).await) });
            }
            match asked.join_next().await {
                None => return Ok(sizes),
                Some(Ok((index, found))) => {
                    sizes[index] = found?.record.map(|record| record.body.len() as u64);
                }
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            }
        }
    }

    /// Returns what a kept module says of itself, where it is kept and can be loaded here.
    pub(super) async fn module(&self, name: &str, digest: &str, options: &HostOptions) -> Option<Inspection> {
        let bytes = self.journal.module(digest).await.ok()??;
        Inspection::of(&ModuleSource::new(name, &bytes[..]), options).await.ok()
    }
}

/// Returns how an execution stands that nobody is at, or whose entry says who is.
pub(super) fn execution_status(status: Status) -> ExecutionStatus {
    match status {
        Status::Running | Status::Interrupted | Status::Released => ExecutionStatus::Interrupted,
        Status::Done => ExecutionStatus::Done,
        Status::Failed => ExecutionStatus::Failed,
        Status::Cancelled => ExecutionStatus::Cancelled,
    }
}

/// Returns a text of a record for a view.
pub(super) fn owned(text: &Option<Arc<str>>) -> Option<String> {
    text.as_deref().map(str::to_owned)
}

/// Returns how it is said that an execution is not recorded.
pub(super) fn unknown_execution(id: &ExecutionId) -> CliError {
    let sentence = format!("no execution `{id}` is recorded; those that are: `docket-host executions ls`");
    CliError::new(Exit::Usage, sentence)
}

/// A value, as well as it can be shown.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Shown {
    /// By the descriptors of its module.
    Json(Readable),
    /// Without them.
    Bytes {
        size_bytes: usize,
        /// How it begins.
        hex: String,
    },
}

/// How many bytes are shown of a value that cannot be read.
const PREVIEW: usize = 32;

impl Shown {
    /// Returns a value by the descriptors of a module that knows its port.
    pub(super) fn of(value: &Value, port: &Port, known: &[Inspection]) -> Self {
        let graphs = known.iter().map(|module| &module.graph);
        let knowing = graphs.filter(|graph| graph.find_port(port).is_some());
        // A message that JSON has no words for, such as an `Any` of an unknown type, is shown as bytes.
        let writable = |json: &Readable| serde_json::to_string(json).is_ok();
        let json = knowing
            .filter_map(|graph| output::readable(output::message(graph, port), value).ok())
            .find(writable);
        json.map_or_else(|| Self::preview(value), Self::Json)
    }

    pub(super) fn preview(value: &Value) -> Self {
        let begin = value.payloads().first().map(|payload| &payload.bytes()[..]).unwrap_or_default();
        let hex: String = begin.iter().take(PREVIEW).map(|byte| format!("{byte:02x}")).collect();
        Self::Bytes { size_bytes: value.len_bytes(), hex }
    }

    /// Returns it for people.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Json(json) => serde_json::to_string(json).unwrap_or_default(),
            Self::Bytes { size_bytes, hex } => {
                format!("{} that begin {hex}", output::size(*size_bytes as u64))
            }
        }
    }
}
