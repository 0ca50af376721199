//! `plan`: shows what a request would run, in order, and why. Never runs a step.

use docket_graph::{Arity, Graph, NodeId, Plan, Port, Source, StepName};
use docket_runtime::{Generation, Purity};
use serde::Serialize;

use super::graph::{port, takes};
use super::table::table;
use crate::args::{PlanArgs, ViewFormat};
use crate::bring_up;
use crate::error::CliError;
use crate::output;
use crate::request::Asked;
use crate::session::Session;

pub(super) async fn plan(session: &mut Session, args: PlanArgs) -> Result<(), CliError> {
    let PlanArgs { request, format } = args;
    let config = session.config()?;
    let host = bring_up::host(session, &config).await?;
    let asked = Asked::of(request, &config, host.graph())?;
    let data = match format {
        ViewFormat::Json => output::pretty(&view(host.generation(), &asked))?,
        ViewFormat::Text => text(host.generation(), &asked).into_bytes(),
    };
    session.console.show(&data)
}

/// What a plan does about a step.
#[derive(Clone, Copy, Debug, Serialize)]
enum State {
    #[serde(rename = "will run")]
    WillRun,
}

impl State {
    /// Returns the state of a step, and the reason for it.
    fn of(_: NodeId) -> (Self, &'static str) {
        (State::WillRun, "no result is kept for it")
    }

    fn as_str(self) -> &'static str {
        match self {
            State::WillRun => "will run",
        }
    }
}

#[derive(Serialize)]
struct PlanView<'a> {
    target: &'a Port,
    given: &'a [Port],
    steps: Vec<StepView<'a>>,
}

#[derive(Serialize)]
struct StepView<'a> {
    step: &'a StepName,
    module: &'a str,
    state: State,
    reason: &'static str,
    inputs: Vec<InputView<'a>>,
    output: PortView<'a>,
    purity: Purity,
    /// How many steps stand before it on the longest way from the inputs.
    depth: u32,
}

#[derive(Serialize)]
struct InputView<'a> {
    #[serde(flatten)]
    port: PortView<'a>,
    /// The step that gives it; none where it is given with the request.
    from: Option<&'a StepName>,
}

#[derive(Serialize)]
struct PortView<'a> {
    port: &'a Port,
    arity: Arity,
}

fn view<'a>(generation: &'a Generation, asked: &'a Asked) -> PlanView<'a> {
    let graph = generation.graph();
    let steps = asked.plan.nodes().map(|(node, id)| {
        let step = graph.step(id);
        let (state, reason) = State::of(node);
        let sources = step.inputs.iter().zip(asked.plan.inputs(node));
        let input = |(&(port, arity), &source)| InputView {
            port: PortView { port: graph.port(port), arity },
            from: producer(graph, &asked.plan, source),
        };
        StepView {
            step: &step.name,
            module: &graph.modules()[step.module],
            state,
            reason,
            inputs: sources.map(input).collect(),
            output: PortView { port: graph.port(step.output.0), arity: step.output.1 },
            purity: generation.modules()[step.module].purity().0,
            depth: asked.plan.depth(node),
        }
    });
    PlanView { target: &asked.target, given: &asked.given, steps: steps.collect() }
}

fn producer<'a>(graph: &'a Graph, plan: &Plan, source: Source) -> Option<&'a StepName> {
    match source {
        Source::Given(_) => None,
        Source::Node(node) => Some(&graph.step(plan.step(node)).name),
    }
}

fn text(generation: &Generation, asked: &Asked) -> String {
    let graph = generation.graph();
    let Asked { target, plan, given, .. } = asked;
    if plan.is_empty() {
        return format!("{target} is given: nothing runs\n");
    }
    let given: Vec<_> = given.iter().map(Port::to_string).collect();
    let from = if given.is_empty() { "nothing".to_owned() } else { given.join(", ") };
    let rows = plan.nodes().map(|(node, id)| {
        let step = graph.step(id);
        let (state, reason) = State::of(node);
        [
            step.name.to_string(),
            format!("{}: {reason}", state.as_str()),
            takes(graph, &step.inputs),
            port(graph, step.output),
            super::inspect::purity(generation.modules()[step.module].purity().0).to_owned(),
            graph.modules()[step.module].to_string(),
        ]
    });
    let steps = if plan.len() == 1 { "1 step".to_owned() } else { format!("{} steps", plan.len()) };
    let table = table(["STEP", "STATE", "TAKES", "GIVES", "PURITY", "MODULE"], rows);
    format!("{target} from {from}: {steps}\n\n{table}")
}
