//! Owns one attempt: get the permits, call the guest. Never looks for a kept result, never decides
//! what comes next.

use std::pin::pin;
use std::sync::Arc;

use docket_graph::Arity;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::board::{Admitted, Run, Turn};
use crate::call::{self, Call, Called, Form, Invocation};
use crate::generation::StepCode;
use crate::guest_log::{LineSink, Lines, Writer};
use crate::value::Value;

/// Makes one attempt at a node's step, as the number that the turn says. What had begun it at once is left in `begun` once it
/// has ended, with its instance where that may be used again.
///
/// # Cancel safety
/// A dropped attempt gives back its permits and drops its instance, also one that was to be used again.
pub(crate) async fn attempt<'a>(
    run: &'a Arc<Run>,
    turn: Turn,
    key: [u8; 32],
    inputs: &[(Arc<Value>, Arity)],
    begun: &mut Option<Admitted<'a>>,
) -> Called {
    let code = run.code(turn.job.node);
    let at_once = begun.take();
    let is_at_once = at_once.is_some();
    let mut admitted = match at_once {
        Some(admitted) => admitted,
        None => admit(run, turn, code).await,
    };
    let graph = run.home.generation.graph();
    let (port, arity) = graph.step(run.plan().step(turn.job.node)).output;
    let call = Call {
        pre: &code.pre,
        limits: &code.limits,
        given: code.given.as_ref(),
        invocation: Invocation {
            step: code.name.as_ref(),
            execution_id: run.id.as_str(),
            attempt: turn.attempt,
            key,
            started_at_ms: run.started_at_ms,
        },
        inputs,
        output: (graph.schema(port), arity, if run.keeps() { Form::Canonical } else { Form::AsGiven }),
        lines: lines(run, turn),
        began: admitted.at,
        again: run.resting(turn.job.node).map(|_| &mut admitted.seat.used),
    };
    let called = pin!(call::run(call)).await;
    if is_at_once {
        *begun = Some(admitted);
    } else {
        run.give_up(admitted);
    }
    called
}

/// Waits for the permits of an attempt.
async fn admit<'a>(run: &'a Run, turn: Turn, code: &'a StepCode) -> Admitted<'a> {
    let gate = match &code.gate {
        Some(gate) => Some(permit(gate).await),
        None => None,
    };
    let share = match run.share() {
        Some(share) => Some(permit(share).await),
        None => None,
    };
    let seat = run.home.instances.seat(run.resting(turn.job.node)).await;
    Admitted { _gate: gate, _share: share, seat, node: turn.job.node, at: run.attempt_began(turn) }
}

async fn permit(semaphore: &Semaphore) -> SemaphorePermit<'_> {
    semaphore.acquire().await.expect("the semaphores of a host are never closed")
}

/// Passes a guest's lines to the observer, if there is one.
fn lines(run: &Arc<Run>, turn: Turn) -> LineSink {
    let writer = Writer { job: turn.job, attempt: turn.attempt };
    run.home.observer.is_some().then(|| (Arc::clone(run) as Arc<dyn Lines>, writer))
}
