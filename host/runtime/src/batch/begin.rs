//! Owns a batch from its beginning to its end, in the task that carries it out, and, where results are kept, its record in the
//! journal. Never reads an item.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use docket_graph::{OnItemError, Port};
use docket_store::{Entry, NewExecution, Status, StoreErrorKind, Unfinished};
use futures_util::FutureExt as _;
use sha2::Digest as _;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::seen::Seen;
use crate::board::{Home, ItemsStart, Run, Start};
use crate::clock;
use crate::drive::{Stops, drive};
use crate::execution::{
    Begun, Shared, check, detail, digest_of, keep_modules, notes, runs_without_store, status_of, unfinished,
    warn_of_wait,
};
use crate::execution_id::ExecutionId;
use crate::failure::{ExecutionError, said_by};
use crate::generation::{Prepared, frame};
use crate::held::{Ending, Entered, HeldExecution};
use crate::items::{BatchProgress, ItemSource};
use crate::keep::Keeping;
use crate::outcome::Outcome;
use crate::report::{ExecutionOutcome, Report};
use crate::request::RequestError;
use crate::stored::{self, ItemsRead, StoredBatch, StoredRequest};
use crate::value::Value;

/// How long a batch goes on before it notes how many items it has read, unless a group of them is full before.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// What the reader of a batch gets once the batch has begun.
pub(super) type Link = Arc<Run>;

/// A batch that has been accepted and not begun.
pub(super) struct Begin {
    pub(super) id: ExecutionId,
    pub(super) host: Arc<Shared>,
    pub(super) home: Arc<Home>,
    pub(super) prepared: Arc<Prepared>,
    pub(super) target: Port,
    /// What was given, the port of the items last.
    pub(super) ports: Vec<Port>,
    pub(super) given: Vec<Arc<Value>>,
    pub(super) items: ItemsStart,
    pub(super) source: ItemSource,
    pub(super) started_at_ms: u64,
    pub(super) limit: Option<Duration>,
    pub(super) cancelled: CancellationToken,
    /// Where the batch is journaled.
    pub(super) seen: Option<Arc<Seen>>,
}

/// How a batch ended.
pub(super) struct Ended {
    pub(super) result: Result<Option<Arc<Value>>, ExecutionError>,
    pub(super) report: Report,
}

/// What there is of the store for a batch that is about to run.
#[expect(clippy::large_enum_variant, reason = "one at a time, taken apart at once")]
enum Recorded {
    /// No step of it keeps its results.
    No,
    /// The store cannot be written, and all its kept steps are to run even so.
    Unable(Option<Arc<Keeping>>),
    /// It is recorded, and this process's to carry out.
    Yes(HeldExecution),
    /// It was stopped while another process had it.
    Stopped(Ended),
}

impl Begin {
    /// Carries the batch out: links its reader to the run as soon as there is one. What has broken the items before ends it at
    /// once.
    pub(super) async fn carry_out(
        self: Box<Self>,
        link: oneshot::Sender<Link>,
        broken: Option<ExecutionError>,
    ) -> Result<Ended, RequestError> {
        // Counted first: a shutdown either sees this batch or is seen by it.
        let host = Arc::clone(&self.host);
        let _counted = host.executions.token();
        if host.executions.is_closed() {
            return Err(RequestError::Closed);
        }
        let carried = AssertUnwindSafe(self.run(link, broken)).catch_unwind().await;
        carried.unwrap_or_else(|panic| Err(RequestError::Internal(said_by(&*panic))))
    }

    async fn run(
        mut self: Box<Self>,
        link: oneshot::Sender<Link>,
        broken: Option<ExecutionError>,
    ) -> Result<Ended, RequestError> {
        let (keeping, held) = match self.record().await? {
            Recorded::No => (None, None),
            Recorded::Unable(keeping) => (keeping, None),
            Recorded::Yes(held) => (Some(Arc::clone(held.record().keeping())), Some(held)),
            Recorded::Stopped(ended) => return Ok(ended),
        };
        let stored = held.as_ref().map(|_| self.stored());
        let Self { id, host, home, prepared, given, items, started_at_ms, limit, cancelled, seen, .. } =
            *self;
        let progress = items.progress.clone();
        let run = Run::begin(Start {
            id: id.clone(),
            home: Arc::clone(&home),
            prepared,
            given,
            started_at_ms,
            limit,
            journaled: keeping,
            record: held.as_ref().map(|held| Arc::clone(held.record())),
            items: Some(items),
        });
        if let Some(broken) = broken {
            run.break_items(broken);
        }
        // A reader that has gone has dropped this task too.
        let _ = link.send(Arc::clone(&run));
        let deadline = run.limit.and_then(|limit| clock::deadline(run.started, limit));
        let lost = held.as_ref().map(|held| held.record().lost());
        let stops = Stops {
            deadline,
            cancelled: Some(cancelled.clone()),
            lost: lost.clone(),
            shutdown: &host.shutdown,
        };
        match (&held, &stored, &seen) {
            (Some(held), Some(stored), Some(seen)) => {
                let notes = Notes { held, stored, seen, progress: &progress };
                tokio::select! {
                    biased;
                    () = drive(&run, stops) => {}
                    () = notes.take_for_ever() => {}
                }
                notes.take().await;
            }
            _ => drive(&run, stops).await,
        }
        for ending in run.endings() {
            // A task that only writes a note has nothing to say.
            let _ = ending.await;
        }
        let (result, report) = run.outcome(run.target().clone());
        let others = seen.as_ref().and_then(|seen| seen.others());
        if let (Some(held), Some(stored)) = (held, stored) {
            let is_lost = lost.is_some_and(|lost| lost.is_cancelled()) && !cancelled.is_cancelled();
            if is_lost && report.outcome == ExecutionOutcome::Cancelled {
                held.superseded();
            } else if others.is_none() {
                held.finish(ending(&stored, &progress, &home, &result, &report));
            }
            // A batch of other items leaves the record as it found it, to be gone on with.
        }
        match others {
            Some(read) => Err(RequestError::OtherItems { id, read }),
            None => Ok(Ended { result, report }),
        }
    }

    /// Records the batch before its first step starts.
    async fn record(&mut self) -> Result<Recorded, RequestError> {
        if !self.prepared.keeps {
            return Ok(Recorded::No);
        }
        let host = Arc::clone(&self.host);
        let keeping = match host.keeping().await {
            Ok(keeping) => Arc::clone(keeping),
            Err(error) => return self.unable(None, error),
        };
        let until = self.limit.and_then(|limit| clock::deadline(clock::now(), limit));
        let mut waited = false;
        loop {
            match self.open(&keeping).await {
                Err(error) => return self.unable(Some(keeping), error),
                Ok(Entered::New(held)) => {
                    let _ = self.same_items(None);
                    return Ok(Recorded::Yes(held));
                }
                Ok(Entered::Resumed(held, entry)) => return self.go_on(&keeping, held, entry).await,
                Ok(Entered::Conflict) => return Err(RequestError::Conflict { id: self.id.clone() }),
                Ok(Entered::Elsewhere(entry) | Entered::Over(entry)) => {
                    let Self { id, limit, cancelled, .. } = &*self;
                    if entry.facts.status == Status::Running && !std::mem::replace(&mut waited, true) {
                        warn_of_wait(&keeping, id);
                    }
                    let (id, cancelled) = (id.clone(), Some(cancelled.clone()));
                    let begun = Begun { id: id.clone(), limit: *limit, host: &host, cancelled };
                    if let Some(stopped) = begun.wait(&keeping, &entry, until).await {
                        let Outcome { result, report } = unfinished(&id, &entry, stopped);
                        return Ok(Recorded::Stopped(Ended { result: result.map(Some), report }));
                    }
                }
            }
        }
    }

    async fn open(&self, keeping: &Arc<Keeping>) -> Result<Entered, RequestError> {
        keep_modules(keeping, &self.home, &self.prepared).await?;
        let stored = self.stored();
        let shared = stored.inputs.iter().map(|(port, value)| (port, value));
        let mut digest = digest_of(&self.target, shared);
        frame(&mut digest, b"\0batch");
        frame(&mut digest, self.items.port.to_string().as_bytes());
        frame(&mut digest, &[u8::from(self.items.on_item_error == OnItemError::Continue)]);
        let new = NewExecution {
            tenant: Arc::clone(&keeping.tenant),
            id: self.id.as_str().into(),
            request_digest: digest.finalize().into(),
            request: stored.encode(),
            detail: detail(&stored, None),
        };
        Ok(Entered::open(keeping, new, Unfinished::Again).await?)
    }

    /// Goes on with a batch that was begun before: with its modules and its clock.
    async fn go_on(
        &mut self,
        keeping: &Arc<Keeping>,
        held: HeldExecution,
        entry: Entry,
    ) -> Result<Recorded, RequestError> {
        let known = ItemsRead::read_from(&entry.progress)?;
        let StoredRequest { started_at_ms, modules, .. } = StoredRequest::decode(entry.request)?;
        self.started_at_ms = started_at_ms;
        let home = self.host.home_with(&self.id, keeping, &modules).await?;
        if !Arc::ptr_eq(&home, &self.home) {
            let generation = &home.generation;
            let items = self.ports.len() - 1;
            self.prepared = generation.plan_items(&self.target, &self.ports, items)?;
            check(generation.graph(), &self.prepared, &mut self.given[..items])?;
            self.home = home;
        }
        let noted = known.as_ref().map_or(0, |known| known.read);
        if !self.same_items(known) {
            return Err(RequestError::OtherItems { id: self.id.clone(), read: noted });
        }
        Ok(Recorded::Yes(held))
    }

    /// Compares with the items of an earlier run, as far as they are read.
    fn same_items(&self, known: Option<ItemsRead>) -> bool {
        let all = self.prepared.plan.items().is_none();
        self.seen.as_ref().is_none_or(|seen| seen.compare(known, all))
    }

    /// Where nothing can be recorded, a batch runs if all its kept steps are to run even so.
    fn unable(&self, keeping: Option<Arc<Keeping>>, error: RequestError) -> Result<Recorded, RequestError> {
        if !matches!(error, RequestError::Store(_)) || !runs_without_store(&self.home, &self.prepared) {
            return Err(error);
        }
        tracing::warn!(%error, execution = %self.id, "the batch cannot be recorded, and runs all the same");
        Ok(Recorded::Unable(keeping))
    }

    fn stored(&self) -> StoredRequest {
        let modules = self.home.generation.modules_of(&self.prepared.plan);
        let shared = self.ports.len() - 1;
        let inputs = self.ports.iter().cloned().zip(self.given.iter().cloned()).take(shared);
        StoredRequest {
            target: self.target.clone(),
            inputs: inputs.collect(),
            started_at_ms: self.started_at_ms,
            modules: modules.map(|(facts, _)| (facts.name.to_string(), facts.digest.to_string())).collect(),
            settings: self.host.options.settings.clone(),
            batch: Some(StoredBatch {
                items: self.items.port.clone(),
                on_item_error: self.items.on_item_error,
                source: self.source.clone(),
            }),
        }
    }
}

/// Notes in the journal how far a batch is.
struct Notes<'a> {
    held: &'a HeldExecution,
    stored: &'a StoredRequest,
    seen: &'a Seen,
    progress: &'a BatchProgress,
}

impl Notes<'_> {
    async fn take_for_ever(&self) {
        loop {
            let pause = clock::deadline(clock::now(), NOTE_EVERY);
            tokio::select! {
                () = self.seen.group() => {}
                () = clock::sleep_until(pause) => {}
            }
            self.take().await;
        }
    }

    /// Notes how many items were read, unless that is noted.
    async fn take(&self) {
        let Some(read) = self.seen.to_note() else { return };
        let detail = with_items(detail(self.stored, None), self.progress);
        match self.held.note_progress(read.encode(), detail).await {
            Ok(()) => self.seen.noted(read),
            // Whoever has it now is told of when the lease is renewed.
            Err(error) if error.kind() == StoreErrorKind::Conflict => {}
            Err(error) => tracing::warn!(%error, "how far the batch is could not be noted"),
        }
    }
}

fn with_items(detail: Arc<str>, progress: &BatchProgress) -> Arc<str> {
    let mut detail: serde_json::Value = serde_json::from_str(&detail).expect("it was made of JSON");
    detail["items"] = serde_json::to_value(progress.counts()).expect("numbers become JSON");
    detail.to_string().into()
}

fn ending(
    stored: &StoredRequest,
    progress: &BatchProgress,
    home: &Home,
    result: &Result<Option<Arc<Value>>, ExecutionError>,
    report: &Report,
) -> Ending {
    // What each item has given is not in the record: whoever asks again runs the batch again, and finds what was kept.
    let none = || Arc::new(Value::Many(Vec::new()));
    let result = result.clone().map(|value| value.unwrap_or_else(none));
    let outcome = Outcome { result, report: report.clone() };
    Ending {
        status: status_of(report.outcome),
        outcome: stored::encode_outcome(&outcome),
        detail: with_items(detail(stored, report.error.as_deref()), progress),
        steps: notes(&home.generation, report),
    }
}
