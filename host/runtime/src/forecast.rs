//! Owns the look ahead and the look back: which steps of a request would be answered from what is
//! kept, which of an execution were, and why the others were not. Never instantiates a guest, never
//! writes.

use std::sync::Arc;

use docket_graph::{Arity, DimensionId, Input, NodeId, Scope, Source, StepName, failed_message};
use docket_store::{Filter, Journal, Kind, Left, Look, Query, Record, Status, Store, StoreError, Timestamp};
use serde::{Deserialize, Serialize};

use crate::element::ElementPath;
use crate::execution::{Accepted, Shared};
use crate::generation::Keep;
use crate::keep::Keeping;
use crate::key::{self, Parts, WorkKey};
use crate::report::{ElementCounts, StepReport};
use crate::request::{Request, RequestError};
use crate::stored;
use crate::value::Value;

/// How many of the newest results of a step are compared with a key that has none: what was kept last
/// is what a person means by "before".
const COMPARED: usize = 50;

/// What would become of one step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "forecast", rename_all = "kebab-case")]
pub enum Forecast {
    /// A kept result takes its place.
    Hit {
        /// The key of the result, in hexadecimal.
        key: String,
    },
    /// It runs.
    WillRun {
        /// The key of its work, where its result is to be kept.
        #[serde(skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        /// Why there is no result.
        reason: String,
    },
    /// It depends on what another step gives.
    Unknown {
        /// That step.
        until: StepName,
    },
}

impl Shared {
    /// Returns what would become of each node of a request's plan, in the plan's order.
    pub(crate) async fn forecast(
        self: &Arc<Self>,
        request: Request,
    ) -> Result<Vec<(StepName, Forecast)>, RequestError> {
        let (id, accepted) = self.look_at(request)?;
        let keeping = if accepted.prepared.keeps { Some(self.keeping().await?) } else { None };
        let plan = &accepted.prepared.plan;
        let generation = &accepted.home.generation;
        let mut values: Vec<Option<Arc<Value>>> = vec![None; plan.len()];
        let mut forecasts: Vec<(StepName, Forecast)> = Vec::with_capacity(plan.len());
        for (node, step) in plan.nodes() {
            let code = generation.code(step);
            if plan.dimension_of(node) != DimensionId::ROOT {
                let reason = "it runs once for each element of a list".to_owned();
                forecasts.push((code.name.clone(), Forecast::WillRun { key: None, reason }));
                continue;
            }
            let forecast = match (&code.keep, keeping) {
                (Some(keep), Some(keeping)) => match inputs(&accepted, node, &values) {
                    Err(producer) => Forecast::Unknown { until: forecasts[producer.index()].0.clone() },
                    Ok(inputs) => {
                        let key = key::work_key(&keeping.tenant, id.as_str(), code, keep, &inputs);
                        let step = code.name.as_str();
                        let seen = Seen { keeping, execution: id.as_str(), step, keep, key: &key };
                        let (forecast, value) = seen.forecast(&key::parts(keep, &inputs)).await?;
                        values[node.index()] = value;
                        forecast
                    }
                },
                _ => Forecast::WillRun { key: None, reason: "its results are not kept".to_owned() },
            };
            forecasts.push((code.name.clone(), forecast));
        }
        Ok(forecasts)
    }
}

/// Returns the values of a node's inputs, or the first node whose value is not known.
fn inputs(
    accepted: &Accepted,
    node: NodeId,
    values: &[Option<Arc<Value>>],
) -> Result<Vec<(Arc<Value>, Arity)>, NodeId> {
    let plan = &accepted.prepared.plan;
    let step = accepted.home.generation.graph().step(plan.step(node));
    let sources = plan.inputs(node).iter().zip(&step.inputs);
    let value = |(input, (_, arity)): (&Input, &(_, Arity))| match &input.source {
        Source::Given(index) => Ok((Arc::clone(&accepted.given[*index]), *arity)),
        Source::Node(node) => values[node.index()].clone().map(|value| (value, *arity)).ok_or(*node),
        // Only items fail alone, and there are none.
        Source::Failed => Ok((Arc::new(Value::one(failed_message(0))), *arity)),
    };
    sources.map(value).collect()
}

/// One key that is looked at.
struct Seen<'a> {
    keeping: &'a Arc<Keeping>,
    execution: &'a str,
    step: &'a str,
    keep: &'a Keep,
    key: &'a WorkKey,
}

impl Seen<'_> {
    async fn forecast(&self, parts: &Parts) -> Result<(Forecast, Option<Arc<Value>>), RequestError> {
        let Self { keeping, execution, step, keep, key } = self;
        let text = key.record.as_str().to_owned();
        let reason = match keeping.claims.look(&key.record, execution).await? {
            Look::Kept(record) => {
                let value = stored::decode_value(&record.body)?;
                return Ok((Forecast::Hit { key: text }, Some(Arc::new(value))));
            }
            Look::Busy(_) => "another execution is at it".to_owned(),
            Look::Free(free) => match free.left {
                Left::Expired => "its result has expired".to_owned(),
                Left::Failed(_) => "it failed the last time".to_owned(),
                Left::Released | Left::Lapsed => "the last attempt did not come to an end".to_owned(),
                Left::Nothing => {
                    let earlier = results(&**keeping.store(), &keeping.tenant, step, None).await?;
                    why(&earlier, parts, keep.scope)
                }
            },
        };
        Ok((Forecast::WillRun { key: Some(text), reason }, None))
    }
}

/// Returns the newest results of a step, without their bytes.
async fn results(
    store: &dyn Store,
    tenant: &str,
    step: &str,
    before: Option<Timestamp>,
) -> Result<Vec<Record>, StoreError> {
    let filter = Filter {
        tenant: Some(tenant.into()),
        step: Some(step.into()),
        status: Some(Status::Done),
        created_before: before,
        execution: None,
    };
    Ok(store.scan(&Query::Newest { kind: Kind::Result, filter, after: None }, COMPARED).await?.records)
}

/// Returns why none of the earlier results has this key.
fn why(earlier: &[Record], parts: &Parts, scope: Scope) -> String {
    let parts_of = |record: &Record| serde_json::from_str::<Parts>(record.facts.detail.as_deref()?).ok();
    let differences =
        earlier.iter().filter_map(|record| Some((record, key::differences(&parts_of(record)?, parts))));
    match differences.min_by_key(|(_, differences)| differences.len()) {
        None => "no result is kept".to_owned(),
        Some((record, differences)) if differences.is_empty() && scope == Scope::Workflow => {
            let other = record.facts.execution.as_deref().unwrap_or("unknown");
            format!("a result is kept for execution `{other}` alone")
        }
        Some((_, differences)) if differences.is_empty() => "no result is kept".to_owned(),
        Some((_, differences)) => differences.join(", "),
    }
}

/// What became of one step of an execution, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The step.
    pub step: String,
    /// How its result came about; where it runs for each element, how the worst of them did.
    pub result: Came,
    /// The key of its work, in hexadecimal; where it runs for each element, of the one that is explained.
    pub key: Option<String>,
    /// Where it was found, the execution that made it; else why it was not found.
    pub reason: String,
    /// How many attempts were begun; where it runs for each element, at the one that is explained.
    pub attempts: u32,
    /// For how many elements it was found, where it runs for each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elements: Option<ExplainedElements>,
}

/// For how many elements of a list the results of a step were found, and which element is explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainedElements {
    /// For how many a kept result was found; not known of an execution that was cut off.
    pub found: Option<u64>,
    /// For how many there was none, of those that were begun.
    pub missed: u64,
    /// The first of them, which is explained; not known of an execution that was cut off, of which any one is explained.
    pub first_missed: Option<ElementPath>,
}

/// How the result of a step came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Came {
    /// The execution made it.
    Made,
    /// It was there.
    Found,
    /// There is none: the step failed.
    Failed,
    /// There is none: the step was stopped.
    Stopped,
}

/// What a note says of a step.
#[derive(Deserialize)]
struct Note {
    key: String,
    result: Came,
}

/// What is known of a step before it is looked for the reason.
struct Noted {
    step: String,
    result: Came,
    key: Option<String>,
    attempts: u32,
    elements: Option<ExplainedElements>,
    /// When it was noted, where it has a note of its own.
    at: Option<Timestamp>,
}

/// Returns what became of each step of an execution whose result was to be kept, in the order of their
/// names.
///
/// # Errors
/// Where the store cannot be read.
pub async fn explain(store: &Arc<dyn Store>, tenant: &str, id: &str) -> Result<Vec<Explanation>, StoreError> {
    let journal = Journal::new(Arc::clone(store), "".into(), docket_store::LEASE);
    let mut noted = Vec::new();
    for record in journal.steps(tenant, id).await? {
        let note =
            record.facts.detail.as_deref().and_then(|detail| serde_json::from_str::<Note>(detail).ok());
        let (Some(Note { key, result }), Some(step)) = (note, &record.facts.step) else { continue };
        let (step, key, attempts) = (step.to_string(), Some(key), record.facts.attempts);
        noted.push(Noted { step, result, key, attempts, elements: None, at: record.facts.finished_at });
    }
    // What runs for each element has no note of its own: the report tells of all of them.
    let entry = journal.read(tenant, id).await?;
    let began = entry.as_ref().map(|entry| entry.facts.created_at);
    if let Some(Ok(outcome)) = entry.map(|entry| stored::decode_outcome(entry.outcome)) {
        noted.extend(outcome.report.steps.into_iter().filter_map(of_elements));
    }
    // An execution that was cut off has neither, but what it had made or was at is there.
    let told = noted.len();
    for record in journal.results(tenant, id).await? {
        let Some(step) = record.facts.step.as_deref() else { continue };
        match noted.iter().position(|noted| noted.step == step) {
            Some(at) if at < told => {}
            Some(at) => noted[at].add(came(record.facts.status)),
            None => noted.push(Noted {
                step: step.to_owned(),
                result: came(record.facts.status),
                key: Some(record.key.as_str().to_owned()),
                attempts: record.facts.attempts,
                elements: None,
                at: None,
            }),
        }
    }
    let mut explanations = Vec::with_capacity(noted.len());
    for Noted { step, result, key, attempts, elements, at } in noted {
        let reason = match &key {
            Some(key) if result == Came::Found => origin(store, key, at).await?,
            Some(key) => reason(store, tenant, &step, key, began.filter(|_| elements.is_some())).await?,
            None => "each had been made before".to_owned(),
        };
        explanations.push(Explanation { step, result, key, reason, attempts, elements });
    }
    explanations.sort_by(|one, other| one.step.cmp(&other.step));
    Ok(explanations)
}

/// Returns what a report tells of a step that runs for each element, where its results are kept.
fn of_elements(report: StepReport) -> Option<Noted> {
    let StepReport { step, elements, first_missed, .. } = report;
    let ElementCounts { done, cached, failed, cancelled, never_started: _ } = elements?;
    let elements = ExplainedElements {
        found: Some(cached),
        missed: done + failed + cancelled,
        first_missed: first_missed.as_ref().map(|first| first.element.clone()),
    };
    let result = match (failed, cancelled, done) {
        (1.., _, _) => Came::Failed,
        (0, 1.., _) => Came::Stopped,
        (0, 0, 1..) => Came::Made,
        (0, 0, 0) => Came::Found,
    };
    let is_kept = first_missed.is_some() || result == Came::Found && cached > 0;
    let (key, attempts) = first_missed.map(|first| (first.key, first.attempts)).unzip();
    let (step, attempts, elements) = (step.as_str().to_owned(), attempts.unwrap_or(0), Some(elements));
    is_kept.then_some(Noted { step, result, key, attempts, elements, at: None })
}

impl Noted {
    /// Counts a further result of the step: it runs for each element.
    fn add(&mut self, result: Came) {
        let elements =
            self.elements.get_or_insert(ExplainedElements { found: None, missed: 1, first_missed: None });
        elements.missed += 1;
        let worse = |came: Came| match came {
            Came::Found => 0,
            Came::Made => 1,
            Came::Stopped => 2,
            Came::Failed => 3,
        };
        if worse(result) > worse(self.result) {
            self.result = result;
        }
    }
}

fn came(status: Status) -> Came {
    match status {
        Status::Done => Came::Made,
        Status::Failed => Came::Failed,
        Status::Running | Status::Released | Status::Interrupted | Status::Cancelled => Came::Stopped,
    }
}

const REMOVED: &str = "its record has been removed";

/// Returns where a result came from that was found: from whoever has made the one that is kept, unless
/// that was made again since.
async fn origin(store: &Arc<dyn Store>, key: &str, found: Option<Timestamp>) -> Result<String, StoreError> {
    let Some(record) = of_key(store, key).await? else { return Ok(REMOVED.to_owned()) };
    let by = record.facts.execution.as_deref().unwrap_or("unknown");
    let is_newer = found.zip(record.facts.finished_at).is_some_and(|(found, made)| made > found);
    Ok(match (record.facts.status, is_newer) {
        (Status::Done, false) => format!("execution `{by}` had made it"),
        (Status::Done, true) => format!("what it found is gone; execution `{by}` made it again"),
        _ => format!("what it found is gone; execution `{by}` began to make it again"),
    })
}

async fn of_key(store: &Arc<dyn Store>, key: &str) -> Result<Option<Record>, StoreError> {
    match docket_store::RecordKey::parse(key) {
        Ok(key) => Ok(store.get(Kind::Result, &key).await?.record),
        Err(_) => Ok(None),
    }
}

/// Returns why a result had to be made.
async fn reason(
    store: &Arc<dyn Store>,
    tenant: &str,
    step: &str,
    key: &str,
    began: Option<Timestamp>,
) -> Result<String, StoreError> {
    let Some(record) = of_key(store, key).await? else { return Ok(REMOVED.to_owned()) };
    let parts = record.facts.detail.as_deref().and_then(|detail| serde_json::from_str::<Parts>(detail).ok());
    let Some(parts) = parts else { return Ok("what its key is made of is not known".to_owned()) };
    if parts.after_expired {
        return Ok("its result had expired".to_owned());
    }
    // What was made since the execution began is of other elements, where there are any.
    let before = began.unwrap_or(record.facts.created_at);
    let earlier = results(&**store, tenant, step, Some(before)).await?;
    Ok(why(&earlier, &parts, parts.scope))
}
