//! Owns the log on stderr: which events are shown, and how a line looks. Never decides what happens.

use std::fmt::{self, Write as _};
use std::time::Duration;

use docket_graph::StepName;
use docket_runtime::{ElementPath, Event, ExecutionError, ExecutionId, Observer, StepOutcome};
use tracing::field::{DisplayValue, Field, Visit, display};
use tracing::level_filters::LevelFilter;
use tracing::{Level, Subscriber, debug, info};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::args::{GlobalArgs, LogFormat};
use crate::console::Console;
use crate::error::{CliError, harmless};

/// What this program says about its own work.
pub(crate) const HOST: &str = "docket::host";

/// What guests write.
const GUEST: &str = "docket::guest";

/// What happens in an execution.
const EVENT: &str = "docket::event";

/// Sets the log up for this process, unless that was done before.
pub(crate) fn set_up(args: &GlobalArgs, console: &Console) {
    let (filter, wrong) = filter(args);
    let lines = tracing_subscriber::fmt::layer().with_writer(console.log_writer());
    let registry = tracing_subscriber::registry().with(filter);
    // Whoever embeds us, or called us before, may have a log of their own: theirs stays.
    _ = match args.log_format {
        LogFormat::Text => registry.with(lines.event_format(Lines)).try_init(),
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(false).with_span_list(false);
            registry.with(lines).try_init()
        }
    };
    if let Some(wrong) = wrong {
        tracing::warn!(target: HOST, "the log filter is ignored: {wrong}");
    }
}

fn filter(args: &GlobalArgs) -> (Targets, Option<String>) {
    let mut shown = Targets::new().with_default(LevelFilter::WARN);
    if !args.quiet {
        shown = shown.with_target(HOST, LevelFilter::INFO);
    }
    if args.verbose >= 1 {
        shown = shown.with_target(GUEST, LevelFilter::INFO);
    }
    if args.verbose >= 2 {
        shown = shown.with_target(EVENT, LevelFilter::DEBUG);
    }
    let Some(wanted) = args.log_filter.as_deref().filter(|wanted| !wanted.is_empty()) else {
        return (shown, None);
    };
    match wanted.parse::<Targets>() {
        Ok(wanted) => {
            if let Some(default) = wanted.default_level() {
                shown = shown.with_default(default);
            }
            (shown.with_targets(wanted.iter()), None)
        }
        Err(error) => (shown, Some(format!("`{wanted}`: {error}"))),
    }
}

/// Returns how the last message of a command that failed is written.
pub(crate) fn error(error: &CliError, format: LogFormat) -> String {
    match format {
        LogFormat::Text => error.to_string(),
        LogFormat::Json => {
            let mut now = String::new();
            // A clock that cannot be formatted leaves the stamp empty; the error matters more.
            _ = SystemTime.format_time(&mut Writer::new(&mut now));
            let (message, faults) = error.heading();
            let line = ErrorLine {
                timestamp: &now,
                level: "ERROR",
                message,
                faults,
                causes: error.causes(),
                hint: error.hint(),
                exit: error.exit().code(),
                target: HOST,
            };
            serde_json::to_string(&line).expect("texts and numbers are JSON")
        }
    }
}

/// The last line of a command that failed, with the fields of the lines before it.
#[derive(serde::Serialize)]
struct ErrorLine<'a> {
    timestamp: &'a str,
    level: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    faults: &'a [String],
    causes: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    exit: u8,
    target: &'static str,
}

/// Lines for people: the message, with as much around it as tells where it comes from.
struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let Fields { message, step, element, rest } = fields;
        let (target, level) = (event.metadata().target(), *event.metadata().level());
        if target == GUEST {
            let of = if element.is_empty() { String::new() } else { format!(" ({element})") };
            return writeln!(writer, "{step}{of}: {}", harmless(&message));
        }
        if level <= Level::WARN {
            write!(writer, "{}: ", if level == Level::ERROR { "error" } else { "warning" })?;
        } else if target != HOST && target != EVENT {
            write!(writer, "{target}: ")?;
        }
        // The sentences of our own events say all that is in their fields.
        let rest = if target == EVENT { "" } else { &rest };
        writeln!(writer, "{}{}", harmless(&message), harmless(rest))
    }
}

/// What an event says, taken apart.
#[derive(Default)]
struct Fields {
    message: String,
    step: String,
    element: String,
    /// All others, as ` name=value`.
    rest: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot fail.
        _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            "step" => write!(self.step, "{value:?}"),
            "element" => write!(self.element, "{value:?}"),
            name => write!(self.rest, " {name}={value:?}"),
        };
    }
}

/// Puts what happens in executions into the log.
pub(crate) struct LogObserver;

impl Observer for LogObserver {
    fn on_event(&self, execution: &ExecutionId, event: &Event<'_>) {
        match event {
            Event::ExecutionStarted { target, steps } => {
                debug!(target: EVENT, %execution, port = %target, steps, "execution {execution} started: {steps} {} for {target}", if *steps == 1 { "step" } else { "steps" });
            }
            Event::AttemptStarted { step, element, attempt } => {
                let (place, element) = (place(step, element), field(element));
                debug!(target: EVENT, %execution, %step, element, attempt, "{place}: attempt {attempt} started");
            }
            Event::Output { step, element, attempt, stream, line } => {
                let element = field(element);
                let stream = stream.as_str();
                info!(target: GUEST, %execution, %step, element, attempt, stream, "{line}");
            }
            Event::AttemptEnded { step, element, attempt, elapsed, failure: None, .. } => {
                let (place, element) = (place(step, element), field(element));
                let elapsed_ms = millis(*elapsed);
                debug!(target: EVENT, %execution, %step, element, attempt, elapsed_ms, "{place}: attempt {attempt} done after {elapsed_ms} ms");
            }
            Event::AttemptEnded { step, element, attempt, elapsed, failure: Some(failure), .. } => {
                let (place, element) = (place(step, element), field(element));
                let elapsed_ms = millis(*elapsed);
                debug!(target: EVENT, %execution, %step, element, attempt, elapsed_ms, error = %failure, "{place}: attempt {attempt} failed after {elapsed_ms} ms: {failure}");
            }
            Event::RetryScheduled { step, element, attempt, delay } => {
                let (place, element) = (place(step, element), field(element));
                let delay_ms = millis(*delay);
                debug!(target: EVENT, %execution, %step, element, attempt, delay_ms, "{place}: attempt {attempt} follows in {delay_ms} ms");
            }
            Event::StepEnded { step, element, outcome } => {
                let (place, element) = (place(step, element), field(element));
                let outcome = word(*outcome);
                debug!(target: EVENT, %execution, %step, element, outcome, "{place}: {outcome}");
            }
            Event::ExecutionEnded { elapsed, error } => ended(execution, *elapsed, *error),
            // An event of a later version of the runtime.
            _ => {}
        }
    }
}

/// Returns which step for which element, in words.
fn place(step: &StepName, element: &ElementPath) -> String {
    if element.is_empty() { step.to_string() } else { format!("{step} ({element})") }
}

/// Returns the element as a field; none for a step that runs once.
fn field(element: &ElementPath) -> Option<DisplayValue<&ElementPath>> {
    (!element.is_empty()).then(|| display(element))
}

fn ended(execution: &ExecutionId, elapsed: Duration, error: Option<&ExecutionError>) {
    let elapsed_ms = millis(elapsed);
    match error {
        None => {
            debug!(target: EVENT, %execution, elapsed_ms, "execution {execution} done after {elapsed_ms} ms")
        }
        Some(error) => {
            debug!(target: EVENT, %execution, elapsed_ms, %error, "execution {execution} ended after {elapsed_ms} ms: {error}");
        }
    }
}

fn word(outcome: StepOutcome) -> &'static str {
    match outcome {
        StepOutcome::Done => "done",
        StepOutcome::Cached => "cached",
        StepOutcome::Failed => "failed",
        StepOutcome::Cancelled => "cancelled",
        StepOutcome::NeverStarted => "never started",
    }
}

/// Milliseconds with three decimals, as in the report.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
