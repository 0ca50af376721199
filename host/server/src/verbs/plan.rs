//! `plan`: shows what a request would run and what is kept, in order, and why. Never runs a step.

use std::sync::Arc;

use docket_graph::{Arity, Graph, NodeId, Plan, Port, Scope, Source, StepId, StepName};
use docket_runtime::{ExecutionId, Forecast, Generation, Host, Purity, Request};
use serde::Serialize;

use super::graph::{port, takes};
use super::table::table;
use crate::args::{PlanArgs, ViewFormat};
use crate::bring_up;
use crate::error::{CliError, harmless};
use crate::output;
use crate::request::{Asked, refused};
use crate::session::Session;
use crate::store::{Door, Notice};

pub(super) async fn plan(session: &mut Session, args: PlanArgs) -> Result<(), CliError> {
    let PlanArgs { request, items_port, execution_id, format, store } = args;
    let config = session.config()?;
    let door = Door::of(&store, &config, Notice::Unusual)?;
    let host = bring_up::keeping_host(session, &config, &door).await?;
    let asked = match items_port {
        Some(items) => Asked::of_items(request, items, &config, host.graph())?,
        None => Asked::of(request, &config, host.graph())?,
    };
    let states = states(session, &host, &asked, execution_id).await;
    // The host has begun nothing, so that there is nothing to settle.
    let generation = Arc::clone(host.generation());
    drop(host);
    door.close().await;
    let states = states?;
    let data = match format {
        ViewFormat::Json => output::pretty(&view(&generation, &asked, &states))?,
        ViewFormat::Text => text(&generation, &asked, &states).into_bytes(),
    };
    session.console.show(&data)
}

/// What a plan does about a step, and why.
#[derive(Serialize)]
struct State {
    state: &'static str,
    reason: String,
    /// The key of its result, where that is to be kept and its inputs are known.
    key: Option<String>,
}

impl State {
    fn of(forecast: Forecast) -> Self {
        match forecast {
            Forecast::Hit { key } => {
                Self { state: "hit", reason: "its result is kept".to_owned(), key: Some(key) }
            }
            Forecast::WillRun { key, reason } => Self { state: "will run", reason, key },
            Forecast::Unknown { until } => {
                Self { state: "unknown", reason: format!("until `{until}` has run"), key: None }
            }
        }
    }
}

/// Returns what becomes of each step, in the plan's order. The values of the inputs are read only where
/// a key is made of them.
async fn states(
    session: &mut Session,
    host: &Host,
    asked: &Asked,
    execution_id: Option<ExecutionId>,
) -> Result<Vec<State>, CliError> {
    let generation = host.generation();
    if !asked.plan.nodes().any(|(_, step)| generation.persistence(step).is_some()) {
        let unkept = || State::of(Forecast::WillRun { key: None, reason: NOT_KEPT.to_owned() });
        return Ok(asked.plan.nodes().map(|_| unkept()).collect());
    }
    if asked.items.is_some() {
        let of = |(_, step)| match generation.persistence(step) {
            Some(_) => State { state: "unknown", reason: UNREAD.to_owned(), key: None },
            None => State::of(Forecast::WillRun { key: None, reason: NOT_KEPT.to_owned() }),
        };
        return Ok(asked.plan.nodes().map(of).collect());
    }
    let mut request = Request::new(asked.target.clone());
    for (port, value) in asked.clone().values(session, host.graph()).await? {
        request = request.value(port, value);
    }
    if let Some(id) = execution_id {
        request = request.execution_id(id);
    }
    let asking = host.clone();
    let forecasts = async move { asking.forecast(request).await.map_err(|error| refused(&error)) };
    let forecasts = session.elsewhere(forecasts).await?;
    Ok(forecasts.into_iter().map(|(_, forecast)| State::of(forecast)).collect())
}

/// Why a step runs whose results are not kept.
const NOT_KEPT: &str = "its results are not kept";

/// Why it is not known whether a result is kept.
const UNREAD: &str = "until the items are read";

/// Returns what to say of a step that reaches outside once, for everybody and for ever: what it found
/// there then is what it says it finds there now. It may be meant like this.
pub(super) fn lasting(generation: &Generation, step: StepId) -> Option<String> {
    let kept = generation.persistence(step)?;
    let lasting = kept.scope == Scope::Global && kept.ttl.is_none();
    let name = &generation.graph().step(step).name;
    (lasting && generation.purity(step).0 == Purity::Effects).then(|| {
        format!("the results of `{name}`, which has effects, are kept for all executions, for ever; set a `ttl` if what it reaches may change")
    })
}

#[derive(Serialize)]
struct PlanView<'a> {
    target: &'a Port,
    given: &'a [Port],
    /// The port of the items, in the plan of a batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<&'a Port>,
    steps: Vec<StepView<'a>>,
}

#[derive(Serialize)]
struct StepView<'a> {
    step: &'a StepName,
    module: &'a str,
    #[serde(flatten)]
    state: &'a State,
    inputs: Vec<InputView<'a>>,
    output: PortView<'a>,
    /// Whether it runs for each item of a batch.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    per_item: bool,
    purity: Purity,
    /// The imports and grants that keep it from being pure.
    because_of: Vec<String>,
    /// How many steps stand before it on the longest way from the inputs.
    depth: u32,
}

#[derive(Serialize)]
struct InputView<'a> {
    #[serde(flatten)]
    port: PortView<'a>,
    /// The step that gives it; none where it is given with the request, or by the host.
    from: Option<&'a StepName>,
    /// Whether the host itself gives it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    from_host: bool,
}

#[derive(Serialize)]
struct PortView<'a> {
    port: &'a Port,
    arity: Arity,
}

fn view<'a>(generation: &'a Generation, asked: &'a Asked, states: &'a [State]) -> PlanView<'a> {
    let graph = generation.graph();
    let steps = asked.plan.nodes().zip(states).map(|((node, id), state)| {
        let step = graph.step(id);
        let sources = step.inputs.iter().zip(asked.plan.inputs(node));
        let input = |(&(port, arity), input): (&(_, _), &docket_graph::Input)| InputView {
            port: PortView { port: graph.port(port), arity },
            from: producer(graph, &asked.plan, input.source),
            from_host: input.source == Source::Failed,
        };
        let (purity, because_of) = generation.purity(id);
        StepView {
            step: &step.name,
            module: &graph.modules()[step.module],
            state,
            inputs: sources.map(input).collect(),
            output: PortView { port: graph.port(step.output.0), arity: step.output.1 },
            per_item: is_per_item(&asked.plan, node),
            purity,
            because_of,
            depth: asked.plan.depth(node),
        }
    });
    let items = asked.items.as_ref();
    PlanView { target: &asked.target, given: &asked.given, items, steps: steps.collect() }
}

/// Returns whether a node runs for each item of a batch, or for elements within one.
fn is_per_item(plan: &Plan, node: NodeId) -> bool {
    let mut dimension = plan.dimension_of(node);
    while Some(dimension) != plan.items() {
        let parent = plan.dimension(dimension).parent;
        if parent == dimension {
            return false;
        }
        dimension = parent;
    }
    true
}

fn producer<'a>(graph: &'a Graph, plan: &Plan, source: Source) -> Option<&'a StepName> {
    match source {
        Source::Given(_) | Source::Failed => None,
        Source::Node(node) => Some(&graph.step(plan.step(node)).name),
    }
}

fn text(generation: &Generation, asked: &Asked, states: &[State]) -> String {
    let graph = generation.graph();
    let Asked { target, plan, given, items, .. } = asked;
    if plan.is_empty() {
        return format!("{target} is given: nothing runs\n");
    }
    let items = items.iter().map(|items| format!("each {items}"));
    let given: Vec<_> = given.iter().map(Port::to_string).chain(items).collect();
    let from = if given.is_empty() { "nothing".to_owned() } else { given.join(", ") };
    let rows = plan.nodes().zip(states).map(|((node, id), State { state, reason, key: _ })| {
        let step = graph.step(id);
        let often = if is_per_item(plan, node) { " (per item)" } else { "" };
        [
            format!("{}{often}", step.name),
            format!("{state}: {}", harmless(reason)),
            takes(graph, &step.inputs),
            port(graph, step.output),
            super::inspect::purity(generation.purity(id).0).to_owned(),
            graph.modules()[step.module].to_string(),
        ]
    });
    // What is pure or deterministic is told by `inspect`; what reaches outside is told before it runs.
    let effects = plan.nodes().filter_map(|(_, id)| {
        let (purity, because_of) = generation.purity(id);
        let name = &graph.step(id).name;
        (purity == Purity::Effects)
            .then(|| format!("{name} has effects: {}\n", harmless(&because_of.join(", "))))
            .map(|line| line + &lasting(generation, id).map(|warning| warning + "\n").unwrap_or_default())
    });
    let effects: String = effects.collect();
    let effects = if effects.is_empty() { effects } else { format!("\n{effects}") };
    let steps = if plan.len() == 1 { "1 step".to_owned() } else { format!("{} steps", plan.len()) };
    let table = table(["STEP", "STATE", "TAKES", "GIVES", "PURITY", "MODULE"], rows);
    format!("{target} from {from}: {steps}\n\n{table}{effects}")
}
