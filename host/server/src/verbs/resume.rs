//! `resume`: goes on with recorded executions, with the modules and the configuration that they began
//! with. Never begins a new one.

use std::sync::Arc;

use docket_graph::Port;
use docket_runtime::{ExecutionId, Host, StoredRequest};
use docket_store::{Journal, Status, Store};
use serde::Serialize;

use super::carrying::{Carried, carry, settle};
use super::ledger::Ledger;
use crate::args::{EndingArgs, ResumeArgs};
use crate::bring_up;
use crate::config::{Config, Environment};
use crate::error::CliError;
use crate::exit::Exit;
use crate::log::HOST;
use crate::output::{self, Readable};
use crate::session::Session;
use crate::store::{Door, Notice, unusable};

/// What a configuration is called in messages that was kept with an execution.
const KEPT_CONFIG: &str = "the kept docket.toml";

pub(super) async fn resume(session: &mut Session, args: ResumeArgs) -> Result<(), CliError> {
    let ResumeArgs { id, all, ending, store } = args;
    let config = session.config()?;
    let door = Door::of(&store, &config, Notice::Unusual)?;
    let opened = door.clone();
    let store = session.elsewhere(async move { opened.store().await.map_err(|error| unusable(&error)) });
    let resuming = Resuming { door: door.clone(), store: store.await?, config };
    let done = match id {
        Some(id) if !all => resuming.one(session, &id, ending).await,
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

impl Resuming {
    async fn one(&self, session: &mut Session, id: &ExecutionId, ending: EndingArgs) -> Result<(), CliError> {
        let Ready { host, target } = self.ready(session, id).await?;
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
                Ok(output) => {
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
    ) -> Result<Readable, CliError> {
        let Ready { host, target } = self.ready(session, id).await?;
        let value = match self.carry(session, &host, id, ending).await {
            Ok(carried) => carried.value(),
            Err(error) => Err(error),
        };
        // The store stays open for the next one.
        let _ = host.clone().shutdown(std::time::Duration::ZERO).await;
        let value = value?;
        output::readable(output::message(host.graph(), &target), &value)
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
        if entry.facts.status == Status::Running {
            tracing::info!(target: HOST, "another process carries execution `{id}` out; waiting for it");
        }
        let StoredRequest { target, modules, settings, .. } = stored;
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
        Ok(Ready { host, target })
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
