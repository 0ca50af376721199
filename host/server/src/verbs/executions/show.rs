//! `executions show`: all that is known of one execution. Never runs a step.

use std::fmt::Write as _;

use docket_graph::{Arity, OnItemError, Port};
use docket_runtime::{
    ElementCounts, HostOptions, Inspection, ItemCounts, ItemSource, Outcome, Report, StoredBatch,
    StoredRequest, decode_outcome,
};
use docket_store::{Entry, Record, Status, StoreError, Timestamp};
use serde::{Deserialize, Serialize};

use super::super::ledger::{Ledger, Shown, execution_status, owned};
use super::super::table::{flat, short, stamp, table, took};
use super::{Detail, said};
use crate::args::{ExecutionArgs, ExecutionStatus, ViewFormat};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output;
use crate::store::{TENANT, unusable};

#[derive(Serialize)]
struct View {
    execution_id: String,
    status: ExecutionStatus,
    target: Port,
    created_at_ms: u64,
    started_at_ms: Option<u64>,
    finished_at_ms: Option<u64>,
    expires_at_ms: Option<u64>,
    runs: u32,
    /// The process that carries it out, by its random name, and for how long it has it for itself.
    owner: Option<String>,
    lease_until_ms: Option<u64>,
    modules: Vec<ModuleView>,
    inputs: Vec<InputView>,
    /// Of a batch: its items.
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<BatchView>,
    steps: Vec<StepView>,
    output: Option<Shown>,
    error: Option<String>,
    report: Option<Report>,
}

#[derive(Serialize)]
struct ModuleView {
    module: String,
    digest: String,
}

#[derive(Serialize)]
struct InputView {
    port: Port,
    value: Shown,
}

/// The items of a batch.
#[derive(Serialize)]
struct BatchView {
    port: Port,
    /// Where they come from; none for a stream.
    file: Option<String>,
    on_item_error: &'static str,
    #[serde(flatten)]
    items: ItemCounts,
}

impl BatchView {
    fn of(batch: StoredBatch, items: ItemCounts) -> Self {
        let StoredBatch { items: port, on_item_error, source } = batch;
        Self {
            port,
            file: match source {
                ItemSource::File(path) => Some(path),
                ItemSource::Stream => None,
            },
            on_item_error: match on_item_error {
                OnItemError::Fail => "fail",
                OnItemError::Continue => "continue",
            },
            items,
        }
    }
}

/// One step whose result is kept.
#[derive(Serialize)]
struct StepView {
    step: String,
    status: &'static str,
    /// Whether the result was made here or found; none while that is not known, and for many.
    result: Option<String>,
    /// How many results it has, where it runs for each element of a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    elements: Option<Elements>,
    /// Of the one that took the most, where there are many.
    attempts: u32,
    /// None where there are many.
    key: Option<String>,
    module: Option<String>,
    finished_at_ms: Option<u64>,
}

/// For how many elements of a list a step has a result.
#[derive(Serialize)]
struct Elements {
    /// Made by this run of the execution, or by any while it has not ended.
    made: u64,
    /// Made before.
    found: u64,
    /// Begun, and without a result.
    open: u64,
}

impl Elements {
    fn text(&self) -> String {
        let Self { made, found, open } = self;
        let parts = [(made, "made"), (found, "found"), (open, "open")];
        let parts: Vec<_> = parts
            .iter()
            .filter(|(count, _)| **count > 0)
            .map(|(count, word)| format!("{count} {word}"))
            .collect();
        if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
    }
}

impl From<ElementCounts> for Elements {
    fn from(counts: ElementCounts) -> Self {
        let ElementCounts { done, cached, failed, cancelled, never_started } = counts;
        Self { made: done, found: cached, open: failed + cancelled + never_started }
    }
}

/// What the note of a step says.
#[derive(Default, Deserialize)]
struct Note {
    key: Option<String>,
    result: Option<String>,
}

pub(super) async fn show(
    ledger: &Ledger,
    args: ExecutionArgs,
    options: &HostOptions,
) -> Result<Vec<u8>, CliError> {
    let ExecutionArgs { id, format } = args;
    let entry = ledger.execution(&id).await?;
    let view = View::of(ledger, entry, options).await?;
    match format {
        ViewFormat::Json => output::pretty(&view),
        ViewFormat::Text => Ok(view.text().into_bytes()),
    }
}

impl View {
    async fn of(ledger: &Ledger, entry: Entry, options: &HostOptions) -> Result<Self, CliError> {
        let Entry { id, facts, request, outcome, .. } = entry;
        let unreadable =
            |error| CliError::new(Exit::Configuration, format_args!("execution `{id}`: {error}"));
        let StoredRequest { target, inputs, modules, batch, .. } =
            StoredRequest::decode(request).map_err(unreadable)?;
        let counts = Detail::of(&facts).items.unwrap_or_default();
        let batch = batch.map(|batch| BatchView::of(batch, counts));
        let outcome = match outcome.is_empty() {
            true => None,
            false => Some(decode_outcome(outcome).map_err(unreadable)?),
        };
        let mut known: Vec<Inspection> = Vec::new();
        for (name, digest) in &modules {
            known.extend(ledger.module(name, digest, options).await);
        }
        let mut steps = steps(ledger, &id).await.map_err(|error| unusable(&error))?;
        let (output, report) = match outcome {
            Some(Outcome { result, report }) => {
                // What each item has given stands in no record.
                let value = result.ok().filter(|value| batch.is_none() || value.arity() == Arity::One);
                (value.map(|value| Shown::of(&value, &target, &known)), Some(report))
            }
            None => (None, None),
        };
        for ended in report.iter().flat_map(|report: &Report| &report.steps) {
            let shown = steps.iter_mut().find(|step| step.step == ended.step.as_str());
            if let (Some(step), Some(counts)) = (shown, ended.elements) {
                (step.elements, step.result, step.key) = (Some(counts.into()), None, None);
            }
        }
        let at = |time: Option<Timestamp>| time.map(|time| time.0);
        let inputs = inputs.into_iter().map(|(port, value)| {
            let value = Shown::of(&value, &port, &known);
            InputView { port, value }
        });
        Ok(Self {
            status: match facts.status {
                Status::Running => ExecutionStatus::Running,
                status => execution_status(status),
            },
            inputs: inputs.collect(),
            batch,
            execution_id: id.to_string(),
            target,
            created_at_ms: facts.created_at.0,
            started_at_ms: at(facts.started_at),
            finished_at_ms: at(facts.finished_at),
            expires_at_ms: at(facts.expires_at),
            runs: facts.attempts,
            owner: owned(&facts.owner),
            lease_until_ms: at(facts.lease_until),
            modules: modules.into_iter().map(|(module, digest)| ModuleView { module, digest }).collect(),
            steps,
            output,
            error: report.as_ref().and_then(|report| report.error.clone()),
            report,
        })
    }

    fn text(&self) -> String {
        let mut text = format!("execution  {}\nstatus     {}\n", self.execution_id, self.status.as_str());
        let mut line = |name: &str, value: &str| {
            writeln!(text, "{name:<11}{value}").expect("a string takes any text");
        };
        line("target", &self.target.to_string());
        line("created", &stamp(self.created_at_ms));
        if let Some(at) = self.finished_at_ms {
            // An execution begins anew with each run, and ended in the last.
            let run = if self.runs > 1 { format!(" of run {}", self.runs) } else { String::new() };
            line("ended", &format!("{} after {}{run}", stamp(at), took(self.started_at_ms, Some(at))));
        }
        if let Some(at) = self.expires_at_ms {
            line("kept until", &stamp(at));
        }
        line("runs", &self.runs.to_string());
        for ModuleView { module, digest } in &self.modules {
            line("module", &format!("{module} {}", short(digest)));
        }
        for InputView { port, value } in &self.inputs {
            line("input", &format!("{port}={}", value.text()));
        }
        if let Some(BatchView { port, file, items, .. }) = &self.batch {
            line("items", &format!("{port} from {}", file.as_deref().unwrap_or("a stream")));
            line("progress", &said(*items));
        }
        if let Some(output) = &self.output {
            line("output", &output.text());
        }
        if let Some(error) = &self.error {
            line("error", &flat(error));
        }
        if !self.steps.is_empty() {
            text.push('\n');
            let rows = self.steps.iter().map(|step| {
                [
                    step.step.clone(),
                    step.status.to_owned(),
                    step.result_text(),
                    step.attempts.to_string(),
                    step.key.as_deref().map(short).unwrap_or_default().to_owned(),
                ]
            });
            text.push_str(&table(["STEP", "STATUS", "RESULT", "ATTEMPTS", "KEY"], rows));
        }
        text
    }
}

impl StepView {
    fn result_text(&self) -> String {
        let elements = self.elements.as_ref().map(Elements::text);
        elements.or_else(|| self.result.clone()).unwrap_or_default()
    }

    /// Takes another result of a step that runs for each element of a list.
    fn add(&mut self, other: Self) {
        let counted = |view: &Self| u64::from(view.result.is_some());
        let (made, open) = (counted(self), 1 - counted(self));
        let elements = self.elements.get_or_insert(Elements { made, found: 0, open });
        elements.made += counted(&other);
        elements.open += 1 - counted(&other);
        if other.result.is_none() {
            self.status = other.status;
        }
        (self.result, self.key) = (None, None);
        self.attempts = self.attempts.max(other.attempts);
        let both = self.finished_at_ms.zip(other.finished_at_ms);
        self.finished_at_ms = both.map(|(one, other)| one.max(other));
    }
}

/// Returns the steps whose results are kept, by name: from the notes of the end, and where there are
/// none yet, from what was made or is being made.
async fn steps(ledger: &Ledger, id: &str) -> Result<Vec<StepView>, StoreError> {
    let mut steps: Vec<StepView> = Vec::new();
    let view = |record: &Record, note: Note| {
        let facts = &record.facts;
        Some(StepView {
            step: owned(&facts.step)?,
            status: facts.status.as_str(),
            result: note.result,
            elements: None,
            attempts: facts.attempts,
            key: note.key,
            module: owned(&facts.module),
            finished_at_ms: facts.finished_at.map(|at| at.0),
        })
    };
    for record in ledger.journal().steps(TENANT, id).await? {
        let note = record.facts.detail.as_deref().and_then(|detail| serde_json::from_str(detail).ok());
        steps.extend(view(&record, note.unwrap_or_default()));
    }
    let noted = steps.len();
    for record in ledger.journal().results(TENANT, id).await? {
        let made = (record.facts.status == Status::Done).then(|| "made".to_owned());
        let note = Note { key: Some(record.key.to_string()), result: made };
        let Some(view) = view(&record, note) else { continue };
        match steps.iter().position(|step| step.step == view.step) {
            Some(at) if at < noted => {}
            Some(at) => steps[at].add(view),
            None => steps.push(view),
        }
    }
    steps.sort_by(|one, other| one.step.cmp(&other.step));
    Ok(steps)
}
