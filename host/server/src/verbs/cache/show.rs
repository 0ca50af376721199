//! `cache show`: one result, what it is and what its key is made of.

use std::fmt::Write as _;

use docket_runtime::{HostOptions, decode_value};
use docket_store::{Kind, Record};
use serde::Serialize;
use serde_json::Value as Json;

use super::super::ledger::{Ledger, Shown};
use super::super::table::{flat, stamp};
use super::{Line, resolve};
use crate::args::{CacheShowArgs, ResultStatus, ViewFormat};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::{self, size};
use crate::store::unusable;

#[derive(Serialize)]
struct View {
    #[serde(flatten)]
    line: Line,
    /// What the key is made of.
    made_of: Option<Json>,
    /// The result, where there is one.
    value: Option<Shown>,
    /// How the step failed, where it has.
    failure: Option<Json>,
}

pub(super) async fn show(
    ledger: &Ledger,
    args: CacheShowArgs,
    options: &HostOptions,
) -> Result<Vec<u8>, CliError> {
    let CacheShowArgs { key, format } = args;
    let key = resolve(ledger, &key).await?;
    let found = ledger.store().get(Kind::Result, &key).await.map_err(|error| unusable(&error))?;
    let Some(record) = found.record else {
        return Err(CliError::new(Exit::Usage, format_args!("the result `{key}` was removed just now")));
    };
    let line = Line::of(ledger, &record, Some(record.body.len() as u64), found.now);
    let (value, failure) = match line.status {
        ResultStatus::Done | ResultStatus::Expired => (Some(value(ledger, &record, options).await?), None),
        ResultStatus::Failed => (None, serde_json::from_slice(&record.body).ok()),
        ResultStatus::Running | ResultStatus::Lapsed | ResultStatus::Released => (None, None),
    };
    let made_of = record.facts.detail.as_deref().and_then(|detail| serde_json::from_str(detail).ok());
    let view = View { line, made_of, value, failure };
    match format {
        ViewFormat::Json => output::pretty(&view),
        ViewFormat::Text => Ok(view.text().into_bytes()),
    }
}

/// Returns the result by the descriptors of the module that made it.
async fn value(ledger: &Ledger, record: &Record, options: &HostOptions) -> Result<Shown, CliError> {
    let value = decode_value(&record.body).map_err(|error| {
        CliError::new(Exit::Configuration, format_args!("the result `{}`: {error}", record.key))
    })?;
    let module = match &record.facts.module {
        Some(digest) => ledger.module("the module", digest, options).await,
        None => None,
    };
    let step = record.facts.step.as_deref().unwrap_or_default();
    let port = module.as_ref().and_then(|module| {
        let step = module.graph.find_step(step)?;
        Some(module.graph.port(module.graph.step(step).output.0).clone())
    });
    Ok(match (port, module) {
        (Some(port), Some(module)) => Shown::of(&value, &port, &[module]),
        _ => Shown::preview(&value),
    })
}

impl View {
    fn text(&self) -> String {
        let Self { line, made_of, value, failure } = self;
        let mut text = String::new();
        let mut add = |name: &str, value: &str| {
            writeln!(text, "{name:<11}{value}").expect("a string takes any text");
        };
        add("key", &line.key);
        add("step", line.step.as_deref().unwrap_or_default());
        add("scope", line.scope.unwrap_or_default());
        add("status", line.status.as_str());
        add("size", &line.size_bytes.map(size).unwrap_or_default());
        add("created", &stamp(line.created_at_ms));
        add("expires", &line.expires_at_ms.map_or_else(|| "never".to_owned(), stamp));
        add("attempts", &line.attempts.to_string());
        add("execution", line.execution_id.as_deref().unwrap_or_default());
        add("module", line.module.as_deref().unwrap_or_default());
        if let Some(Json::Object(parts)) = made_of {
            for (name, part) in parts.iter().filter(|(name, _)| *name != "inputs") {
                add("made of", &format!("{name} {}", plain(part)));
            }
            for input in parts.get("inputs").and_then(Json::as_array).into_iter().flatten() {
                add("made of", &format!("input {} {}", plain(&input["port"]), plain(&input["digest"])));
            }
        }
        if let Some(value) = value {
            add("value", &value.text());
        }
        if let Some(failure) = failure {
            add("failure", &flat(&plain(&failure["message"])));
        }
        text
    }
}

/// Returns a text without its quotes, and anything else as JSON.
fn plain(json: &Json) -> String {
    json.as_str().map_or_else(|| json.to_string(), str::to_owned)
}
