//! Owns the host's side of `wit/step.wit`, generated, and its translation into docket-graph's
//! plain declarations. Never calls a guest.
//!
//! It is there twice: whole, for asking a module what it offers, and cut down to `run`, for attempts. Each fresh instance has its
//! functions held against the types that they are called with, and those of `describe` are most of the interface.

use docket_graph::{
    Arity, Growth, RawBackoff, RawModule, RawPersistence, RawPolicy, RawPort, RawRetry, RawStep, Scope,
};

mod whole {

    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "step-module",
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

mod running {

    wasmtime::component::bindgen!({
        inline: "
            package docket:step@0.1.0;
            interface step {
                record invocation {
                    step: string, execution-id: string, attempt: u32, idempotency-key: string, started-at-ms: u64,
                }
                variant value { one(list<u8>), many(list<list<u8>>) }
                enum failure-kind { retryable, permanent, abort }
                record failure {
                    kind: failure-kind, code: option<string>, message: string, retry-after-ms: option<u64>,
                }
                run: func(call: invocation, inputs: list<value>) -> result<value, failure>;
            }
            world run-module { export step; }
        ",
        world: "docket:step/run-module",
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

pub(crate) use running::exports::docket::step::step as wit;
pub(crate) use running::{RunModule, RunModulePre};
use whole::exports::docket::step::step as described;
pub(crate) use whole::{StepModule, StepModulePre};

/// `wasi:config/store`: what the operator set for the step, in the order of its keys.
pub(crate) mod config {

    wasmtime::component::bindgen!({
        inline: "
            package wasi:config@0.2.0-rc.1;
            interface store {
                variant error { upstream(string), io(string) }
                get: func(key: string) -> result<option<string>, error>;
                get-all: func() -> result<list<tuple<string, string>>, error>;
            }
            world imports { import store; }
        ",
        world: "wasi:config/imports",
    });
    pub(crate) use wasi::config::store;
}

/// Returns the module's declaration as plain data; nothing is checked yet.
pub(crate) fn raw_module(module: described::Module) -> RawModule {
    let described::Module { steps, descriptors } = module;
    RawModule { steps: steps.into_iter().map(raw_step).collect(), descriptors }
}

fn raw_step(step: described::Declaration) -> RawStep {
    let described::Declaration { name, version, inputs, output, policy } = step;
    let described::Policy { timeout_ms, retry, persistence, max_concurrency } = policy;
    RawStep {
        name,
        version,
        inputs: inputs.into_iter().map(raw_port).collect(),
        output: raw_port(output),
        policy: RawPolicy {
            timeout_ms,
            retry: retry.map(|described::Retry { max_attempts, backoff, jitter }| RawRetry {
                max_attempts,
                backoff: backoff.map(|described::Backoff { growth, initial_ms, factor, max_ms }| {
                    RawBackoff {
                        growth: match growth {
                            described::Growth::Fixed => Growth::Fixed,
                            described::Growth::Linear => Growth::Linear,
                            described::Growth::Exponential => Growth::Exponential,
                        },
                        initial_ms,
                        factor,
                        max_ms,
                    }
                }),
                jitter,
            }),
            persistence: persistence.map(|described::Persistence { scope, ttl_ms }| RawPersistence {
                scope: match scope {
                    described::Scope::Workflow => Scope::Workflow,
                    described::Scope::Global => Scope::Global,
                },
                ttl_ms,
            }),
            max_concurrency,
        },
    }
}

fn raw_port(port: described::Port) -> RawPort {
    let described::Port { message, label, arity } = port;
    RawPort {
        message,
        label,
        arity: match arity {
            described::Arity::One => Arity::One,
            described::Arity::Many => Arity::Many,
        },
    }
}
