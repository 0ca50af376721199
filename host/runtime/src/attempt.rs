//! Owns one turn of one node: wait out the delay, get the permits, call the guest. This is where a
//! kept result will be looked up before the permits and committed after the call. Never decides
//! what comes next.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use docket_graph::Arity;
use futures_util::FutureExt as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::board::{Inputs, Run, Turn};
use crate::call::{self, Call, Called, Invocation, Usage};
use crate::clock;
use crate::failure::StepFailure;
use crate::generation::{StepCode, frame};
use crate::guest_log::{LineSink, Lines, Writer};
use crate::value::Value;

/// Makes one attempt.
///
/// # Cancel safety
/// A dropped attempt gives back its permits and drops its instance.
pub(crate) async fn attempt(run: &Arc<Run>, turn: Turn, inputs: Inputs) -> Called {
    // A panic in the host's part of one guest call must not take other executions down.
    match AssertUnwindSafe(admitted(run, turn, inputs)).catch_unwind().await {
        Ok(called) => called,
        Err(panic) => {
            let message = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let message = message.or_else(|| panic.downcast_ref::<String>().cloned());
            let failure = StepFailure::Internal(message.unwrap_or_else(|| "a panic".to_owned()));
            Called { result: Err(failure), usage: Usage::default(), ended: clock::now() }
        }
    }
}

async fn admitted(run: &Arc<Run>, turn: Turn, inputs: Inputs) -> Called {
    if !turn.delay.is_zero() {
        clock::sleep_until(clock::deadline(clock::now(), turn.delay)).await;
    }
    let code = run.code(turn.node);
    let key = idempotency_key(run, code, &inputs);
    let _gate = match &code.gate {
        Some(gate) => Some(permit(gate).await),
        None => None,
    };
    let _instance = permit(&run.home.instances).await;
    let began = run.attempt_began(turn);
    let graph = run.home.generation.graph();
    let (port, arity) = graph.step(run.plan().step(turn.node)).output;
    // Boxed: the layers around this future are moved several times, and it is by far the largest.
    let called = Box::pin(call::run(Call {
        pre: &code.pre,
        limits: &code.limits,
        config: code.config.clone(),
        invocation: Invocation {
            step: code.name.as_ref(),
            execution_id: run.id.as_str(),
            attempt: turn.attempt,
            key,
            started_at_ms: run.started_at_ms,
        },
        inputs: &inputs,
        output: (graph.schema(port), arity),
        lines: lines(run, turn),
        began,
    }));
    called.await
}

async fn permit(semaphore: &Semaphore) -> SemaphorePermit<'_> {
    semaphore.acquire().await.expect("the semaphores of a host are never closed")
}

/// Passes a guest's lines to the observer, if there is one.
fn lines(run: &Arc<Run>, turn: Turn) -> LineSink {
    let writer = Writer { node: turn.node, attempt: turn.attempt };
    run.home.observer.is_some().then(|| (Arc::clone(run) as Arc<dyn Lines>, writer))
}

/// Returns the key of this work: the same for every attempt at the same step with the same inputs
/// in the same execution, and for no other.
fn idempotency_key(run: &Run, code: &StepCode, inputs: &[(Arc<Value>, Arity)]) -> [u8; 32] {
    let mut hash = Sha256::new();
    frame(&mut hash, &code.identity);
    frame(&mut hash, run.id.as_str().as_bytes());
    for (value, _) in inputs {
        frame(&mut hash, &(value.payloads().len() as u64).to_le_bytes());
        for payload in value.payloads() {
            frame(&mut hash, payload.digest());
        }
    }
    hash.finalize().into()
}
