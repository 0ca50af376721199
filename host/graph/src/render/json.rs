//! The graph as data.

use serde_json::{Value, json};

use crate::graph::{Graph, PortId, StepId};
use crate::policy::{Backoff, Jitter, Persistence, Policy, Retry};
use crate::port::Arity;

/// Returns the graph as data: modules in their order, steps by name, ports, leaves and outputs by text.
pub fn json(graph: &Graph) -> Value {
    let port = |(port, arity): (PortId, Arity)| json!({ "port": graph.port(port), "arity": arity });
    let name = |step: StepId| &graph.step(step).name;
    let names = |ports: &[PortId]| ports.iter().map(|id| json!(graph.port(*id))).collect::<Value>();
    let steps = graph.steps().map(|(id, step)| {
        json!({
            "name": step.name,
            "version": step.version,
            "module": *graph.modules()[step.module],
            "inputs": step.inputs.iter().copied().map(port).collect::<Value>(),
            "output": port(step.output),
            "per_element_of": graph.per_element_of(id).map(|list| graph.port(list)),
            "policy": policy(&step.policy),
        })
    });
    let ports = graph.ports().map(|(id, port)| {
        json!({
            "port": port,
            "arity": graph.arity(id),
            "producer": graph.producer(id).map(name),
            "from_host": graph.is_from_host(id),
            "consumers": graph.consumers(id).iter().map(|step| json!(name(*step))).collect::<Value>(),
        })
    });
    json!({
        "modules": graph.modules().iter().map(|name| json!(**name)).collect::<Value>(),
        "steps": steps.collect::<Value>(),
        "ports": ports.collect::<Value>(),
        "leaves": names(graph.leaves()),
        "outputs": names(graph.outputs()),
    })
}

fn policy(policy: &Policy) -> Value {
    let Policy { timeout, retry, persistence, max_concurrency } = policy;
    json!({
        "timeout_ms": timeout.map(millis),
        "retry": retry.as_ref().map(|Retry { max_attempts, backoff, jitter, reclassify: _ }| json!({
            "max_attempts": max_attempts,
            "backoff": backoff.map(|Backoff { growth, initial, factor, max }| json!({
                "growth": growth,
                "initial_ms": millis(initial),
                "factor": factor,
                "max_ms": max.map(millis),
            })),
            "jitter": *jitter == Jitter::Full,
        })),
        "persistence": persistence.map(|Persistence { scope, ttl }| json!({
            "scope": scope,
            "ttl_ms": ttl.map(millis),
        })),
        "max_concurrency": max_concurrency,
    })
}

/// Whole milliseconds: durations come from declarations in milliseconds, which fit.
fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
