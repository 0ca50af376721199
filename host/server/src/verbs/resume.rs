//! `resume`: goes on with recorded executions, with the modules and the configuration that they began
//! with. Never begins a new one.

use std::num::NonZeroU32;
use std::sync::Arc;

use docket_graph::{Plan, Port};
use docket_runtime::{ExecutionId, Host, ItemSource, Request, StoredBatch, StoredRequest, Value};
use docket_store::{Journal, Store};
use serde::Serialize;

use super::batching::{Parts, way_on};
use super::carrying::{Carried, carry, settle};
use super::ledger::Ledger;
use crate::args::{BatchFormat, EndingArgs, ItemsFormat, ResultFormat, ResumeArgs};
use crate::bring_up;
use crate::config::{Config, Environment};
use crate::error::CliError;
use crate::exit::Exit;
use crate::input::Place;
use crate::items::Form;
use crate::log::HOST;
use crate::output::{self, Readable};
use crate::request::ItemsAsked;
use crate::session::Session;
use crate::store::{Door, unusable};

/// What a configuration is called in messages that was kept with an execution.
const KEPT_CONFIG: &str = "the kept docket.toml";

pub(super) async fn resume(session: &mut Session, args: ResumeArgs) -> Result<(), CliError> {
    let ResumeArgs { id, all, items_format, ending, store } = args;
    let config = session.config()?;
    let door = Door::of_existing(&store, &config)?;
    let opened = door.clone();
    let store = session.elsewhere(async move { opened.store().await.map_err(|error| unusable(&error)) });
    let resuming = Resuming { door: door.clone(), store: store.await?, config };
    let done = match id {
        Some(id) if !all => resuming.one(session, &id, ending, items_format).await,
        _ => resuming.all(session, ending).await,
    };
    door.close().await;
    done
}

struct Resuming {
    door: Door,
    store: Arc<dyn Store>,
    /// What lies beside the command.
    config: Config,
}

/// A host that can go on with one execution, and what that one is for.
struct Ready {
    host: Host,
    target: Port,
    batch: Option<Again>,
}

/// What is known of a batch that is to be gone on with.
struct Again {
    batch: StoredBatch,
    /// What all items share.
    shared: Vec<(Port, Arc<Value>)>,
    max_concurrency: Option<NonZeroU32>,
}

/// Which batch is gone on with.
struct Resumed<'a> {
    host: &'a Host,
    id: &'a ExecutionId,
    target: Port,
    items_format: Option<ItemsFormat>,
}

/// One line of `resume --all`.
#[derive(Serialize)]
struct Line<'a> {
    execution_id: &'a str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Readable>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What one of all executions gave.
enum OneOfAll {
    Value(Readable),
    /// It is a batch, which is gone on with alone.
    Batch(ItemSource),
}

impl Resuming {
    async fn one(
        &self,
        session: &mut Session,
        id: &ExecutionId,
        ending: EndingArgs,
        items_format: Option<ItemsFormat>,
    ) -> Result<(), CliError> {
        let Ready { host, target, batch } = self.ready(session, id).await?;
        if let Some(again) = batch {
            let resumed = Resumed { host: &host, id, target, items_format };
            let shown = self.batch(session, resumed, again, ending).await;
            settle(session, host, &self.door).await;
            return shown;
        }
        let shown = match self.carry(session, &host, id, ending).await {
            Ok(carried) => carried.show(session, &host, &target, ending),
            Err(error) => Err(error),
        };
        settle(session, host, &self.door).await;
        shown
    }

    /// Goes on with one after the other, the oldest first: each is as large as it was, and none knows of
    /// the others.
    async fn all(&self, session: &mut Session, ending: EndingArgs) -> Result<(), CliError> {
        let ledger = Ledger::of(Arc::clone(&self.store));
        let mut ids = ledger.interrupted().await.map_err(|error| unusable(&error))?;
        ids.reverse();
        let mut failed = 0;
        for id in &ids {
            let line = match self.one_of_all(session, id, ending).await {
                Err(error) if error.exit() == Exit::Interrupted => return Err(error),
                Ok(OneOfAll::Batch(source)) => {
                    let again = match source {
                        ItemSource::File(_) => Some(""),
                        ItemSource::Stream => None,
                    };
                    let way_on = way_on(id, &self.door, again);
                    tracing::warn!(target: HOST, "execution `{id}` is a batch, whose results are many; to go on with it: {way_on}");
                    continue;
                }
                Ok(OneOfAll::Value(output)) => {
                    Line { execution_id: id.as_str(), outcome: "done", output: Some(output), error: None }
                }
                Err(error) => {
                    failed += 1;
                    let error = std::iter::once(error.sentence()).chain(error.causes().iter().cloned());
                    let error = Some(error.collect::<Vec<_>>().join(": "));
                    Line { execution_id: id.as_str(), outcome: "failed", output: None, error }
                }
            };
            session.console.show(&output::line_of(&line)?)?;
        }
        match failed {
            0 => Ok(()),
            _ => {
                Err(CliError::new(Exit::Failed, format_args!("{failed} of {} executions failed", ids.len())))
            }
        }
    }

    async fn one_of_all(
        &self,
        session: &mut Session,
        id: &ExecutionId,
        ending: EndingArgs,
    ) -> Result<OneOfAll, CliError> {
        let Ready { host, target, batch } = self.ready(session, id).await?;
        if let Some(Again { batch, .. }) = batch {
            return Ok(OneOfAll::Batch(batch.source));
        }
        let value = match self.carry(session, &host, id, ending).await {
            Ok(carried) => carried.value(&host),
            Err(error) => Err(error),
        };
        // The store stays open for the next one.
        let _ = host.clone().shutdown(std::time::Duration::ZERO).await;
        let value = value?;
        output::readable(output::message(host.graph(), &target), &value).map(OneOfAll::Value)
    }

    /// Goes on with a batch: its items are read again from their file, and its results written from the first.
    async fn batch(
        &self,
        session: &mut Session,
        resumed: Resumed<'_>,
        again: Again,
        ending: EndingArgs,
    ) -> Result<(), CliError> {
        let Resumed { host, id, target, items_format } = resumed;
        let Again { batch: StoredBatch { items: port, on_item_error, source }, shared, max_concurrency } =
            again;
        let ItemSource::File(path) = source else {
            let sentence =
                format!("the items of batch `{id}` came from a stream, which cannot be read again");
            let hint = format!("to go on with it: {}", way_on(id, &self.door, None));
            return Err(CliError::new(Exit::Usage, sentence).with_hint(hint));
        };
        let place = Place::File(path.into());
        let format = match ending.format {
            ResultFormat::Json => None,
            ResultFormat::Ndjson => Some(BatchFormat::Ndjson),
            ResultFormat::Proto => Some(BatchFormat::Proto),
            ResultFormat::Text => {
                let sentence = "the results of a batch cannot be written as `text`; write `--format ndjson`";
                return Err(CliError::new(Exit::Usage, sentence));
            }
        };
        let given: Vec<_> = shared.iter().map(|(port, _)| port).chain([&port]).cloned().collect();
        let plan = Plan::of_items(host.graph(), &target, &given, shared.len());
        let plan = plan.map_err(|errors| CliError::of(Exit::Invalid, &errors))?;
        let mut request = Request::new(target).execution_id(id.clone());
        for (port, value) in shared {
            request = request.value(port, Value::clone(&value));
        }
        if let Some(timeout) = ending.timeout {
            request = request.timeout(timeout);
        }
        let form = Form::of(host.graph(), &port, items_format.unwrap_or_else(|| ItemsFormat::of(&place)));
        let on_item_error = on_item_error.into();
        let items = ItemsAsked { place, port, form, max_concurrency, on_item_error };
        let parts = Parts { request, plan, items, format, report: ending.report };
        parts.begin(session, host).await?.carry(session, &self.door).await
    }

    async fn carry(
        &self,
        session: &mut Session,
        host: &Host,
        id: &ExecutionId,
        ending: EndingArgs,
    ) -> Result<Carried, CliError> {
        let mut execution = host.resume(id.clone());
        if let Some(timeout) = ending.timeout {
            execution = execution.timeout(timeout);
        }
        carry(session, execution, &self.door, ending.report).await
    }

    /// Returns a host of the modules that the execution began with, set up as it was then, or as the
    /// configuration says that the command line names.
    async fn ready(&self, session: &mut Session, id: &ExecutionId) -> Result<Ready, CliError> {
        let ledger = Ledger::of(Arc::clone(&self.store));
        let entry = ledger.execution(id).await?;
        let stored = StoredRequest::decode(entry.request)
            .map_err(|error| CliError::new(Exit::Configuration, format_args!("execution `{id}`: {error}")))?;
        let StoredRequest { target, inputs, modules, settings, batch, .. } = stored;
        if batch.is_some() {
            session.progress.expect_items();
        }
        let given = &session.args;
        let is_given =
            given.config.is_some() || given.given_module_dir.is_some() && self.config.path.is_some();
        let config = match settings {
            _ if is_given => self.config.clone(),
            Some(text) => Config::parse_kept(KEPT_CONFIG, &text, &Environment::of_process())?,
            None => Config::default(),
        };
        let modules = kept_modules(ledger.journal(), id, modules).await?;
        let host = bring_up::host_of(session, &config, &self.door, modules).await?;
        let max_concurrency = config.batch.max_concurrency;
        let batch = batch.map(|batch| Again { batch, shared: inputs, max_concurrency });
        Ok(Ready { host, target, batch })
    }
}

async fn kept_modules(
    journal: &Journal,
    id: &ExecutionId,
    modules: Vec<(String, String)>,
) -> Result<Vec<(String, Arc<[u8]>)>, CliError> {
    let mut kept = Vec::with_capacity(modules.len());
    for (name, digest) in modules {
        let bytes = journal.module(&digest).await.map_err(|error| unusable(&error))?;
        let bytes = bytes.ok_or_else(|| {
            let sentence = format!(
                "execution `{id}` cannot be gone on with: its module `{name}` ({digest}) is no longer in the store"
            );
            CliError::new(Exit::Configuration, sentence)
        })?;
        kept.push((name, Arc::from(&bytes[..])));
    }
    Ok(kept)
}
