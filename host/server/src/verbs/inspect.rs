//! `inspect`: shows what one module offers, imports and needs. Never runs a step, and never asks
//! for a grant.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use docket_graph::{Arity, Growth, Jitter, Match, Persistence, Port, PortId, Retry, Scope, StepName};
use docket_runtime::{
    Effective, HostOptions, HttpLimits, Inspection, Instance, Limits, LoadErrors, ModuleSource, OnStoreError,
    Purity,
};
use serde::Serialize;

use super::graph::{port, takes};
use crate::args::{InspectArgs, ViewFormat};
use crate::bring_up;
use crate::config::Config;
use crate::error::{CliError, harmless};
use crate::output::{self, size};
use crate::session::Session;

pub(super) async fn inspect(session: &mut Session, args: InspectArgs) -> Result<(), CliError> {
    let InspectArgs { module: path, format } = args;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
    let config = Config::load(session.args.config.as_deref(), &dir)?;
    let options = bring_up::options(&session.args, &config);
    let (asked, told) = (path.clone(), options.clone());
    let look = session.elsewhere(async move {
        let source = ModuleSource::in_file(&asked, &dir).map_err(|fault| LoadErrors(vec![fault]).into());
        let looked = match source {
            Ok(source) => Inspection::of(&source, &told).await.map(|found| (source.len_bytes(), found)),
            Err(error) => Err(error),
        };
        looked.map_err(|error| bring_up::refused(error, &bring_up::modules_of(&asked)))
    });
    let (bytes, found) = look.await?;
    let view = ModuleView::of(&found, bytes, &options);
    let data = match format {
        ViewFormat::Json => output::pretty(&view)?,
        ViewFormat::Text => text(&view, &found).into_bytes(),
    };
    session.console.show(&data)
}

#[derive(Serialize)]
struct ModuleView<'a> {
    module: &'a str,
    digest: String,
    size_bytes: usize,
    imports: &'a [String],
    /// The imports that work only with a grant.
    needs_granted: Vec<&'a str>,
    /// The imports that no host offers.
    not_offered: Vec<&'a str>,
    steps: Vec<StepView<'a>>,
}

#[derive(Serialize)]
struct StepView<'a> {
    step: &'a StepName,
    version: Option<&'a str>,
    inputs: Vec<InputView<'a>>,
    output: PortView<'a>,
    purity: Purity,
    /// The imports and grants that keep it from being pure.
    because_of: Vec<String>,
    /// What it was granted, a line each; of values of variables only hashes.
    grants: Vec<String>,
    /// As it is run: its declaration, the configuration and the caps, put together.
    policy: PolicyView,
    /// How its results are kept, by the same three; none where they are not.
    persistence: Option<PersistenceView>,
}

#[derive(Serialize)]
struct PortView<'a> {
    port: &'a Port,
    arity: Arity,
}

#[derive(Serialize)]
struct InputView<'a> {
    #[serde(flatten)]
    port: PortView<'a>,
    /// Whether the host itself gives it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    from_host: bool,
}

#[derive(Serialize)]
struct PolicyView {
    timeout_ms: u64,
    memory_bytes: u64,
    table_elements: u64,
    output_bytes: u64,
    log_bytes: u64,
    log_lines: u64,
    open_files: u64,
    dir_bytes: u64,
    stack_bytes: u64,
    http_requests: u64,
    http_bytes: u64,
    http_concurrent: u64,
    cpu_ms: Option<u64>,
    fuel: Option<u64>,
    max_concurrency: Option<u32>,
    instance: Instance,
    retry: RetryView,
}

#[derive(Serialize)]
struct RetryView {
    max_attempts: u32,
    backoff: Option<BackoffView>,
    jitter: bool,
    always: Vec<String>,
    never: Vec<String>,
}

#[derive(Serialize)]
struct BackoffView {
    growth: Growth,
    initial_ms: u64,
    factor: f64,
    max_ms: Option<u64>,
}

#[derive(Serialize)]
struct PersistenceView {
    scope: Scope,
    ttl_ms: Option<u64>,
    /// What is done where the store fails: `fail` or `run`.
    on_store_error: &'static str,
}

impl<'a> ModuleView<'a> {
    fn of(found: &'a Inspection, size_bytes: usize, options: &HostOptions) -> Self {
        let Inspection { facts, graph } = found;
        let steps = graph.steps().map(|(_, step)| {
            let view = |(port, arity)| PortView { port: graph.port(port), arity };
            let input = |taken: (PortId, Arity)| InputView {
                port: view(taken),
                from_host: graph.is_from_host(taken.0),
            };
            let module = (&*facts.name, &facts.digest);
            let effective = options.effective(module, step.name.as_str(), &step.policy);
            let (purity, because_of) = facts.purity(&effective.grants, effective.instance);
            StepView {
                step: &step.name,
                version: step.version.as_deref(),
                inputs: step.inputs.iter().copied().map(input).collect(),
                output: view(step.output),
                purity,
                because_of,
                grants: effective.grants.lines(),
                persistence: PersistenceView::of(&effective),
                policy: PolicyView::of(effective),
            }
        });
        Self {
            module: &facts.name,
            digest: facts.digest.to_string(),
            size_bytes,
            imports: &facts.imports,
            needs_granted: facts.needs_granted(),
            not_offered: facts.not_offered(),
            steps: steps.collect(),
        }
    }
}

impl PolicyView {
    fn of(effective: Effective) -> Self {
        let Effective {
            limits,
            retry,
            max_concurrency,
            config: _,
            grants: _,
            persistence: _,
            on_store_error: _,
            instance,
        } = effective;
        let Limits {
            timeout,
            memory,
            table_elements,
            output,
            logs,
            http: HttpLimits { requests, bytes, concurrent },
            log_lines,
            open_files,
            dir_bytes,
            stack,
            cpu,
            fuel,
        } = limits;
        Self {
            timeout_ms: millis(timeout),
            memory_bytes: memory,
            table_elements,
            output_bytes: output,
            log_bytes: logs,
            log_lines,
            open_files,
            dir_bytes,
            stack_bytes: stack,
            http_requests: requests,
            http_bytes: bytes,
            http_concurrent: concurrent,
            cpu_ms: cpu.map(millis),
            fuel,
            max_concurrency: max_concurrency.map(u32::from),
            instance,
            retry: RetryView::of(&retry),
        }
    }
}

impl PersistenceView {
    fn of(effective: &Effective) -> Option<Self> {
        let Persistence { scope, ttl } = effective.persistence?;
        let on_store_error = match effective.on_store_error {
            OnStoreError::Fail => "fail",
            OnStoreError::Run => "run",
        };
        Some(Self { scope, ttl_ms: ttl.map(millis), on_store_error })
    }
}

impl RetryView {
    fn of(retry: &Retry) -> Self {
        let Retry { max_attempts, backoff, jitter, reclassify } = retry;
        let rules = |rules: &[Match]| rules.iter().map(rule).collect();
        Self {
            max_attempts: max_attempts.get(),
            backoff: backoff.map(|backoff| BackoffView {
                growth: backoff.growth,
                initial_ms: millis(backoff.initial),
                factor: backoff.factor,
                max_ms: backoff.max.map(millis),
            }),
            jitter: *jitter == Jitter::Full,
            always: rules(&reclassify.always),
            never: rules(&reclassify.never),
        }
    }
}

fn rule(rule: &Match) -> String {
    match rule {
        Match::Class(class) => format!("{class:?}").to_lowercase(),
        Match::Code(code) => format!("code {code}"),
    }
}

fn text(view: &ModuleView<'_>, found: &Inspection) -> String {
    let mut text = format!(
        "module   {}\ndigest   {}\nsize     {}",
        view.module,
        view.digest,
        size(view.size_bytes as u64),
    );
    let list =
        |names: &[&str]| if names.is_empty() { "nothing".to_owned() } else { names.join("\n         ") };
    let imports: Vec<_> = view.imports.iter().map(String::as_str).collect();
    add(&mut text, format_args!("\nimports  {}\ngrants   {}\n", list(&imports), needs(&view.needs_granted)));
    if !view.not_offered.is_empty() {
        add(&mut text, format_args!("unknown  {} (no host offers it)\n", list(&view.not_offered)));
    }
    for ((_, step), view) in found.graph.steps().zip(&view.steps) {
        let version = view.version.map(|version| format!(", version {version}")).unwrap_or_default();
        add(&mut text, format_args!("\nstep {}{version}\n", step.name));
        add(&mut text, format_args!("  takes        {}\n", takes(&found.graph, &step.inputs)));
        add(&mut text, format_args!("  gives        {}\n", port(&found.graph, step.output)));
        let because_of = match &view.because_of[..] {
            [] => String::new(),
            reasons => format!(", because of {}", harmless(&reasons.join(", "))),
        };
        add(&mut text, format_args!("  purity       {}{because_of}\n", purity(view.purity)));
        let grants: Vec<_> = view.grants.iter().map(|line| harmless(line)).collect();
        let grants = if grants.is_empty() { "none".to_owned() } else { grants.join("\n               ") };
        add(&mut text, format_args!("  grants       {grants}\n"));
        policy(&mut text, &view.policy);
        add(&mut text, format_args!("  keep         {}\n", keep(view.persistence.as_ref())));
    }
    text
}

fn needs(imports: &[&str]) -> String {
    if imports.is_empty() { "needs none".to_owned() } else { format!("needs {}", imports.join(", ")) }
}

fn policy(text: &mut String, policy: &PolicyView) {
    let PolicyView {
        timeout_ms,
        memory_bytes,
        table_elements,
        output_bytes,
        log_bytes,
        log_lines,
        open_files,
        dir_bytes,
        stack_bytes,
        http_requests,
        http_bytes,
        http_concurrent,
        cpu_ms,
        fuel,
        max_concurrency,
        instance,
        retry,
    } = policy;
    add(text, format_args!("  timeout      {}\n", time(*timeout_ms)));
    add(text, format_args!("  retry        {}\n", retries(retry)));
    add(text, format_args!("  memory       {}, {table_elements} table elements\n", size(*memory_bytes)));
    add(text, format_args!("  stack        {}\n", size(*stack_bytes)));
    add(text, format_args!("  output       {}\n", size(*output_bytes)));
    add(text, format_args!("  logs         {}, {log_lines} lines\n", size(*log_bytes)));
    add(text, format_args!("  files        {open_files} open at once, {} written\n", size(*dir_bytes)));
    let http = format!("{http_requests} requests, {http_concurrent} at once, {}", size(*http_bytes));
    add(text, format_args!("  http         {http}\n"));
    if let Some(cpu) = cpu_ms {
        add(text, format_args!("  cpu          {}\n", time(*cpu)));
    }
    if let Some(fuel) = fuel {
        add(text, format_args!("  fuel         {fuel}\n"));
    }
    if let Some(most) = max_concurrency {
        add(text, format_args!("  concurrency  at most {most} at once\n"));
    }
    match instance {
        Instance::Fresh => {}
        Instance::Reuse => text.push_str("  instance     used again within an execution\n"),
    }
}

fn retries(retry: &RetryView) -> String {
    let RetryView { max_attempts, backoff, jitter, always, never } = retry;
    let mut text = match max_attempts {
        1 => "1 attempt".to_owned(),
        most => format!("up to {most} attempts"),
    };
    if let Some(BackoffView { growth, initial_ms, factor, max_ms }) = backoff {
        let initial = time(*initial_ms);
        match growth {
            Growth::Fixed => add(&mut text, format_args!(", {initial} apart")),
            Growth::Linear => {
                add(&mut text, format_args!(", {initial} apart, then {initial} longer each time"))
            }
            Growth::Exponential => {
                add(&mut text, format_args!(", {initial} apart, then {factor} times as long"))
            }
        }
        if let Some(max) = max_ms {
            add(&mut text, format_args!(", at most {}", time(*max)));
        }
    }
    if *jitter {
        text.push_str(", with jitter");
    }
    for (rules, word) in [(always, "always"), (never, "never")] {
        if !rules.is_empty() {
            add(&mut text, format_args!(", {word} for {}", rules.join(", ")));
        }
    }
    text
}

fn keep(persistence: Option<&PersistenceView>) -> String {
    match persistence {
        None => "nothing".to_owned(),
        Some(PersistenceView { scope, ttl_ms, on_store_error }) => {
            let scope = match scope {
                Scope::Workflow => "for its execution",
                Scope::Global => "for all executions",
            };
            let ttl = ttl_ms.map_or("for ever".to_owned(), |ttl| format!("for {}", time(ttl)));
            let without = if *on_store_error == "run" { "; runs without the store too" } else { "" };
            format!("its result, {scope}, {ttl}{without}")
        }
    }
}

/// Returns the word for a level of purity.
pub(super) fn purity(purity: Purity) -> &'static str {
    match purity {
        Purity::Pure => "pure",
        Purity::Deterministic => "deterministic",
        Purity::Effects => "effects",
    }
}

fn time(millis: u64) -> String {
    humantime::format_duration(Duration::from_millis(millis)).to_string()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn add(text: &mut String, more: std::fmt::Arguments<'_>) {
    text.write_fmt(more).expect("a string takes any text");
}
