//! Reads `[step.NAME]`, `[defaults]` and `[caps]`: what is set for steps, and its bounds. Never knows
//! which steps there are.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use docket_graph::{Backoff, FailureClass, Growth, Jitter, Match, Persistence, Reclassify, Scope};
use docket_runtime::{Instance, Keeping, OnStoreError, RetryOptions, StepOptions};

use super::grants::{self, Ask, Surroundings};
use super::section::{self, Section};

/// The base of exponential growth where none is given: each delay is twice the one before.
const DEFAULT_FACTOR: f64 = 2.0;

/// What is set for one step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StepConfig {
    /// Where it is set, for messages.
    pub(crate) line: usize,
    pub(crate) options: StepOptions,
}

/// Bounds on declarations and options.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CapsConfig {
    pub(crate) timeout: Option<Duration>,
    pub(crate) memory: Option<u64>,
    pub(crate) output: Option<u64>,
    pub(crate) logs: Option<u64>,
    pub(crate) log_lines: Option<u64>,
    pub(crate) open_files: Option<u64>,
    pub(crate) dir_bytes: Option<u64>,
    pub(crate) cpu: Option<Duration>,
    pub(crate) http_requests: Option<u64>,
    pub(crate) http_bytes: Option<u64>,
    pub(crate) http_concurrent: Option<u64>,
    pub(crate) fuel: Option<u64>,
    pub(crate) table_elements: Option<u64>,
    pub(crate) max_attempts: Option<NonZeroU32>,
    pub(crate) instance: Option<Instance>,
}

pub(super) fn steps(
    section: &mut Section<'_, '_>,
    around: &Surroundings<'_>,
    asks: &mut Vec<Ask>,
) -> BTreeMap<String, StepConfig> {
    let mut steps = BTreeMap::new();
    for name in section.names() {
        let read = |step: &mut Section<'_, '_>| StepConfig {
            line: step.line(),
            options: StepOptions {
                config: step.section("config", step_config),
                grants: grants::grants(step, around, asks),
                instance: instance(step),
                ..step_defaults(step)
            },
        };
        if let Some(step) = section.section(&name, read) {
            steps.insert(name, step);
        }
    }
    steps
}

fn instance(section: &mut Section<'_, '_>) -> Option<Instance> {
    const INSTANCES: [(&str, Instance); 2] = [("fresh", Instance::Fresh), ("reuse", Instance::Reuse)];
    section.parsed("instance", |text| section::choice(text, &INSTANCES))
}

/// Reads what can be set for all steps at once: everything but what is for the modules of single steps.
pub(super) fn step_defaults(section: &mut Section<'_, '_>) -> StepOptions {
    StepOptions {
        timeout: section.duration("timeout"),
        memory: section.size("memory"),
        table_elements: section.count("table-elements"),
        output: section.size("output-size"),
        logs: section.size("log-size"),
        log_lines: section.count("log-lines"),
        open_files: section.count("open-files"),
        dir_bytes: section.size("dir-bytes"),
        cpu: section.duration("cpu"),
        http_requests: section.count("http-requests"),
        http_bytes: section.size("http-bytes"),
        http_concurrent: section.count("http-concurrent"),
        fuel: section.count("fuel"),
        retry: section.section("retry", retry).unwrap_or_default(),
        max_concurrency: section.count_u32("max-concurrency"),
        config: None,
        grants: None,
        persistence: section.section_or_off("persistence", persistence).and_then(|keep| match keep {
            Some(persistence) => persistence.map(Keeping::On),
            None => Some(Keeping::Off),
        }),
        on_store_error: section.parsed("on-store-error", |text| section::choice(text, &ON_STORE_ERROR)),
        instance: None,
    }
}

const ON_STORE_ERROR: [(&str, OnStoreError); 2] = [("fail", OnStoreError::Fail), ("run", OnStoreError::Run)];

fn persistence(section: &mut Section<'_, '_>) -> Option<Persistence> {
    const SCOPES: [(&str, Scope); 2] = [("workflow", Scope::Workflow), ("global", Scope::Global)];
    let scope = section.parsed("scope", |text| section::choice(text, &SCOPES));
    let ttl = section.duration("ttl");
    section.require(["scope"]);
    Some(Persistence { scope: scope?, ttl })
}

fn step_config(section: &mut Section<'_, '_>) -> BTreeMap<String, String> {
    let names = section.names();
    names.into_iter().filter_map(|name| section.text(&name).map(|text| (name, text))).collect()
}

fn retry(section: &mut Section<'_, '_>) -> RetryOptions {
    let jitter = |jitter| if jitter { Jitter::Full } else { Jitter::None };
    let codes = section.section("codes", |section| rules(section, code));
    let kinds = section.section("kinds", |section| {
        let rules = rules(section, kind);
        if rules.always.contains(&Match::Class(FailureClass::Abort)) {
            section.fault("`abort` cannot be tried again: it stops the whole execution");
        }
        rules
    });
    let reclassify = match (codes, kinds) {
        (None, None) => None,
        (codes, kinds) => {
            let (mut codes, kinds) = (codes.unwrap_or_default(), kinds.unwrap_or_default());
            codes.always.extend(kinds.always);
            codes.never.extend(kinds.never);
            Some(codes)
        }
    };
    RetryOptions {
        max_attempts: section.count_u32("max-attempts"),
        backoff: section.section("backoff", backoff).flatten(),
        jitter: section.boolean("jitter").map(jitter),
        reclassify,
    }
}

fn rules<E: ToString>(section: &mut Section<'_, '_>, rule: fn(&str) -> Result<Match, E>) -> Reclassify {
    let always = section.list("always", rule).unwrap_or_default();
    let never = section.list("never", rule).unwrap_or_default();
    if always.iter().any(|rule| never.contains(rule)) {
        section.fault("`always` and `never` name the same; keep it in one of them");
    }
    Reclassify { always, never }
}

fn code(text: &str) -> Result<Match, &'static str> {
    if text.is_empty() { Err("a code is not empty") } else { Ok(Match::Code(text.into())) }
}

fn kind(text: &str) -> Result<Match, String> {
    use FailureClass::*;
    const KINDS: [(&str, FailureClass); 19] = [
        ("retryable", Retryable),
        ("permanent", Permanent),
        ("abort", Abort),
        ("timeout", Timeout),
        ("cpu", Cpu),
        ("trap", Trap),
        ("stack", Stack),
        ("exit", Exit),
        ("fuel", Fuel),
        ("memory", Memory),
        ("table", Table),
        ("output", Output),
        ("logs", Logs),
        ("files", Files),
        ("grant", Grant),
        ("http", Http),
        ("answer", Answer),
        ("store", Store),
        ("internal", Internal),
    ];
    section::choice(text, &KINDS).map(Match::Class)
}

fn backoff(section: &mut Section<'_, '_>) -> Option<Backoff> {
    const GROWTHS: [(&str, Growth); 3] =
        [("fixed", Growth::Fixed), ("linear", Growth::Linear), ("exponential", Growth::Exponential)];
    let growth = section.parsed("growth", |text| section::choice(text, &GROWTHS));
    let initial = section.duration("initial");
    let factor = section.parsed_number("factor", |factor| {
        let fits = factor.is_finite() && factor >= 1.0;
        if fits { Ok(factor) } else { Err("it must be a number of at least 1") }
    });
    let max = section.duration("max");
    section.require(["growth", "initial"]);
    Some(Backoff { growth: growth?, initial: initial?, factor: factor.unwrap_or(DEFAULT_FACTOR), max })
}

pub(super) fn caps(section: &mut Section<'_, '_>, beside: &Path) -> (CapsConfig, Option<grants::Bounds>) {
    let bounds = grants::bounds(section, beside);
    let caps = CapsConfig {
        timeout: section.duration("timeout"),
        memory: section.size("memory"),
        output: section.size("output-size"),
        logs: section.size("log-size"),
        log_lines: section.count("log-lines"),
        open_files: section.count("open-files"),
        dir_bytes: section.size("dir-bytes"),
        cpu: section.duration("cpu"),
        http_requests: section.count("http-requests"),
        http_bytes: section.size("http-bytes"),
        http_concurrent: section.count("http-concurrent"),
        fuel: section.count("fuel"),
        table_elements: section.count("table-elements"),
        max_attempts: section.count_u32("max-attempts"),
        instance: instance(section),
    };
    (caps, bounds)
}
