//! Owns the way of an execution through the journal: begun, joined, answered from the record, or gone on
//! with; and what the record says of it. Never decides what a caller may ask.

use std::sync::Arc;
use std::time::{Duration, Instant};

use docket_graph::{Arity, Port};
use docket_store::{Draft, Entry, Kind, NewExecution, RecordKey, Status, StepNote, Unfinished};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::{Accepted, Begun, Recorded, What, accepted};
use crate::board::Home;
use crate::clock;
use crate::execution_id::ExecutionId;
use crate::failure::ExecutionError;
use crate::generation::{Generation, Prepared, frame};
use crate::held::{Ending, Entered, HeldExecution};
use crate::keep::Keeping;
use crate::options::HostOptions;
use crate::outcome::Outcome;
use crate::report::{ExecutionOutcome, Report, StepOutcome};
use crate::request::RequestError;
use crate::stored::{self, StoredBatch, StoredRequest};
use crate::value::Value;

/// How often a caller that waits for another process's execution looks whether it has ended; a
/// wake-up from the store usually comes first.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How an execution whose results are kept is entered upon.
enum Way {
    /// Nobody has its id: it is recorded when it must be.
    Drafted(Draft),
    /// As the journal says, which has it now.
    Opened(Entered),
}

/// How carrying out a journaled execution ended.
enum Carried {
    /// With an outcome, which is recorded.
    Ended(Outcome),
    /// By another: it was cancelled in the journal, or is another process's now. This is as far as it
    /// came.
    Lost(Outcome),
}

impl Begun<'_> {
    /// Carries a journaled execution to its outcome, whoever has it.
    pub(super) async fn journaled(self, mut what: What) -> Result<Outcome, RequestError> {
        let keeping = match self.host.keeping().await {
            Ok(keeping) => Arc::clone(keeping),
            Err(error) => return self.unrecorded(what, None, error).await,
        };
        let until = self.limit.and_then(|limit| clock::deadline(clock::now(), limit));
        let (mut lost, mut waited) = (None, false);
        loop {
            let way = match &what {
                What::Request(accepted) => match self.open(&keeping, accepted).await {
                    Ok(way) => way,
                    Err(error) => return self.unrecorded(what, Some(keeping), error).await,
                },
                What::Recorded(unfinished) => {
                    let opened = Entered::reopen(&keeping, self.id.as_str(), *unfinished);
                    let unknown = || RequestError::UnknownExecution { id: self.id.clone() };
                    Way::Opened(opened.await?.ok_or_else(unknown)?)
                }
            };
            let carried = match way {
                Way::Drafted(draft) => self.begin(what, HeldExecution::drafted(&keeping, draft)).await,
                Way::Opened(Entered::New(held)) => self.begin(what, held).await,
                Way::Opened(Entered::Resumed(held, entry)) => self.go_on(&keeping, held, entry).await?,
                Way::Opened(Entered::Over(entry))
                    if entry.facts.status == Status::Cancelled && lost.is_some() =>
                {
                    return Ok(lost.expect("just looked at"));
                }
                Way::Opened(Entered::Over(entry)) => return recorded(&self.id, entry),
                Way::Opened(Entered::Conflict) => return Err(RequestError::Conflict { id: self.id }),
                Way::Opened(Entered::Elsewhere(entry)) => {
                    if !std::mem::replace(&mut waited, true) {
                        warn_of_wait(&keeping, &self.id);
                    }
                    if let Some(stopped) = self.wait(&keeping, &entry, until).await {
                        return Ok(unfinished(&self.id, &entry, stopped));
                    }
                    continue;
                }
            };
            match carried {
                Carried::Ended(outcome) => return Ok(outcome),
                // The journal knows who has it now, or that it was cancelled there.
                Carried::Lost(outcome) => {
                    lost = Some(outcome);
                    what = What::Recorded(Unfinished::Return);
                }
            }
        }
    }

    /// Carries a request out of which nothing can be recorded, where all its kept steps are to run even
    /// so.
    ///
    /// # Errors
    /// The given one, where they are not.
    async fn unrecorded(
        &self,
        what: What,
        keeping: Option<Arc<Keeping>>,
        error: RequestError,
    ) -> Result<Outcome, RequestError> {
        match what {
            What::Request(accepted)
                if matches!(error, RequestError::Store(_)) && accepted.runs_without_store() =>
            {
                tracing::warn!(%error, execution = %self.id, "the execution cannot be recorded, and runs all the same");
                Ok(self.drive(accepted, (keeping, None)).await)
            }
            What::Request(_) | What::Recorded(_) => Err(error),
        }
    }

    /// Begins what was asked.
    async fn begin(&self, what: What, held: HeldExecution) -> Carried {
        let What::Request(accepted) = what else { unreachable!("only a request begins an execution") };
        self.carry_out(accepted, held).await
    }

    async fn open(&self, keeping: &Arc<Keeping>, accepted: &Accepted) -> Result<Way, RequestError> {
        keep_modules(keeping, &accepted.home, &accepted.prepared).await?;
        let stored = accepted.stored(&self.host.options);
        let new = NewExecution {
            tenant: Arc::clone(&keeping.tenant),
            id: self.id.as_str().into(),
            request_digest: accepted.digest(),
            request: stored.encode(),
            detail: detail(&stored, None),
        };
        if accepted.recorded == Recorded::WithFirstStart {
            return Ok(Way::Drafted(keeping.journal.draft(&new).await?));
        }
        Ok(Way::Opened(Entered::open(keeping, new, Unfinished::Return).await?))
    }

    /// Goes on with a recorded execution, with the modules that it began with.
    async fn go_on(
        &self,
        keeping: &Arc<Keeping>,
        held: HeldExecution,
        entry: Entry,
    ) -> Result<Carried, RequestError> {
        let StoredRequest { target, inputs, started_at_ms, modules, batch, .. } =
            StoredRequest::decode(entry.request)?;
        if let Some(StoredBatch { source, .. }) = batch {
            return Err(RequestError::Batch { id: self.id.clone(), items: source });
        }
        let home = self.host.home_with(&self.id, keeping, &modules).await?;
        let (ports, given) = inputs.into_iter().unzip();
        let accepted = accepted(&home, target, ports, given, started_at_ms)?;
        Ok(self.carry_out(accepted, held).await)
    }

    /// Runs a journaled execution and records how it ended.
    async fn carry_out(&self, accepted: Accepted, held: HeldExecution) -> Carried {
        let stored = accepted.stored(&self.host.options);
        let home = Arc::clone(&accepted.home);
        let record = Arc::clone(held.record());
        let (keeping, lost) = (Arc::clone(record.keeping()), record.lost());
        let outcome = self.drive(accepted, (Some(keeping), Some(record))).await;
        let left = self.cancelled.as_ref().is_some_and(CancellationToken::is_cancelled);
        if outcome.report.outcome == ExecutionOutcome::Cancelled && lost.is_cancelled() && !left {
            held.superseded();
            return Carried::Lost(outcome);
        }
        let ending = Ending {
            status: status_of(outcome.report.outcome),
            outcome: stored::encode_outcome(&outcome),
            detail: detail(&stored, outcome.report.error.as_deref()),
            steps: notes(&home.generation, &outcome.report),
        };
        held.finish(ending);
        Carried::Ended(outcome)
    }

    /// Waits until another process's execution has changed; returns what stopped the waiting, if
    /// anything did.
    pub(crate) async fn wait(
        &self,
        keeping: &Keeping,
        entry: &Entry,
        until: Option<Instant>,
    ) -> Option<ExecutionError> {
        let key = format!("{}/{}", keeping.tenant, entry.id);
        let key = RecordKey::parse(&key).expect("the record was just read under this key");
        let cancelled = async {
            match &self.cancelled {
                Some(token) => token.cancelled().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = cancelled => Some(ExecutionError::Cancelled),
            () = self.host.shutdown.cancelled() => Some(ExecutionError::Shutdown),
            () = clock::sleep_until(until), if until.is_some() => {
                Some(ExecutionError::Deadline { limit: self.limit.unwrap_or_default() })
            }
            () = keeping.store().changed(Kind::Execution, &key, LOOK_AGAIN) => None,
        }
    }
}

/// Says why nothing seems to happen: where the death of a process is not seen, for as long as a lease.
pub(crate) fn warn_of_wait(keeping: &Keeping, id: &ExecutionId) {
    if keeping.store().abilities().process.is_some() {
        tracing::warn!("another process carries execution `{id}` out; waiting until it ends");
    } else {
        tracing::warn!(
            "another process carries execution `{id}` out, or has died at it; \
             waiting until it ends or its lease lapses"
        );
    }
}

impl Accepted {
    fn stored(&self, options: &HostOptions) -> StoredRequest {
        let modules = self.home.generation.modules_of(&self.prepared.plan);
        StoredRequest {
            target: self.target.clone(),
            inputs: self.ports.iter().cloned().zip(self.given.iter().cloned()).collect(),
            started_at_ms: self.started_at_ms,
            modules: modules.map(|(facts, _)| (facts.name.to_string(), facts.digest.to_string())).collect(),
            settings: options.settings.clone(),
            batch: None,
        }
    }

    /// Returns a hash of what is asked: the target and the inputs, in the order of their ports.
    fn digest(&self) -> [u8; 32] {
        digest_of(&self.target, self.ports.iter().zip(&self.given)).finalize().into()
    }
}

/// Begins a hash of what is asked.
pub(crate) fn digest_of<'a>(
    target: &Port,
    inputs: impl Iterator<Item = (&'a Port, &'a Arc<Value>)>,
) -> Sha256 {
    let mut hash = Sha256::new();
    frame(&mut hash, target.to_string().as_bytes());
    let mut inputs: Vec<_> = inputs.collect();
    inputs.sort_by_key(|(port, _)| *port);
    for (port, value) in inputs {
        frame(&mut hash, port.to_string().as_bytes());
        frame(&mut hash, &[u8::from(value.arity() == Arity::Many)]);
        frame(&mut hash, &(value.payloads().len() as u64).to_le_bytes());
        value.payloads().iter().for_each(|payload| frame(&mut hash, payload.digest()));
    }
    hash
}

/// Makes sure that the store has the modules of a plan.
pub(crate) async fn keep_modules(
    keeping: &Keeping,
    home: &Home,
    prepared: &Prepared,
) -> Result<(), RequestError> {
    for (facts, file) in home.generation.modules_of(&prepared.plan) {
        keeping.keep_module(&facts.digest.to_string(), file).await?;
    }
    Ok(())
}

/// Returns what came of an execution that is over.
fn recorded(id: &ExecutionId, entry: Entry) -> Result<Outcome, RequestError> {
    let stored = StoredRequest::decode(entry.request.clone())?;
    if let Some(StoredBatch { source, .. }) = stored.batch {
        return Err(RequestError::Batch { id: id.clone(), items: source });
    }
    if entry.outcome.is_empty() {
        return Ok(unfinished(id, &entry, ExecutionError::Cancelled));
    }
    Ok(stored::decode_outcome(entry.outcome)?)
}

/// Returns what the record of an execution that has ended says of it.
pub(crate) fn status_of(outcome: ExecutionOutcome) -> Status {
    match outcome {
        ExecutionOutcome::Done => Status::Done,
        ExecutionOutcome::Failed | ExecutionOutcome::Aborted => Status::Failed,
        ExecutionOutcome::DeadlineExceeded | ExecutionOutcome::Cancelled | ExecutionOutcome::Shutdown => {
            Status::Interrupted
        }
    }
}

/// Returns the outcome of an execution of which only the record is known.
pub(crate) fn unfinished(id: &ExecutionId, entry: &Entry, error: ExecutionError) -> Outcome {
    let stored = StoredRequest::decode(entry.request.clone()).ok();
    let target = stored.as_ref().map(|stored| stored.target.clone());
    let report = Report {
        execution_id: id.clone(),
        target: target.unwrap_or_else(|| Port::new("unknown", None).expect("a plain name is a port")),
        outcome: match &error {
            ExecutionError::Deadline { .. } => ExecutionOutcome::DeadlineExceeded,
            ExecutionError::Shutdown => ExecutionOutcome::Shutdown,
            _ => ExecutionOutcome::Cancelled,
        },
        error: Some(error.to_string()),
        started_at_ms: stored.map_or(0, |stored| stored.started_at_ms),
        elapsed: Duration::ZERO,
        steps: Vec::new(),
    };
    Outcome { result: Err(error), report }
}

/// Returns what people see of an execution in its record.
pub(crate) fn detail(stored: &StoredRequest, error: Option<&str>) -> Arc<str> {
    #[derive(serde::Serialize)]
    struct Detail<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a str>,
        modules: Vec<&'a str>,
        target: &'a Port,
    }
    let modules = stored.modules.iter().map(|(_, digest)| digest.as_str()).collect();
    let detail = Detail { error, modules, target: &stored.target };
    serde_json::to_string(&detail).expect("texts become JSON").into()
}

/// Returns the notes of the steps whose results are kept.
pub(crate) fn notes(generation: &Generation, report: &Report) -> Vec<StepNote> {
    let note = |step: &crate::report::StepReport| {
        let key = step.key.as_ref()?;
        let (status, how) = match step.outcome {
            StepOutcome::Done => (Status::Done, "made"),
            StepOutcome::Cached => (Status::Done, "found"),
            StepOutcome::Failed => (Status::Failed, "failed"),
            StepOutcome::Cancelled | StepOutcome::NeverStarted => (Status::Released, "stopped"),
        };
        let facts = generation.modules().iter().find(|facts| facts.name == step.module)?;
        Some(StepNote {
            step: step.step.as_str().into(),
            module: facts.digest.to_string().into(),
            status,
            attempts: step.attempts.last().map_or(0, |attempt| attempt.attempt),
            detail: serde_json::json!({ "key": key, "result": how }).to_string().into(),
        })
    };
    report.steps.iter().filter_map(note).collect()
}
