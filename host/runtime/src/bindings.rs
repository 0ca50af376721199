//! Owns the host's side of `wit/step.wit`, generated, and its translation into docket-graph's
//! plain declarations. Never calls a guest.

use docket_graph::{
    Arity, Growth, RawBackoff, RawModule, RawPersistence, RawPolicy, RawPort, RawRetry, RawStep, Scope,
};

mod generated {

    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "step-module",
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

pub(crate) use generated::exports::docket::step::step as wit;
pub(crate) use generated::{StepModule, StepModulePre};

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
pub(crate) fn raw_module(module: wit::Module) -> RawModule {
    let wit::Module { steps, descriptors } = module;
    RawModule { steps: steps.into_iter().map(raw_step).collect(), descriptors }
}

fn raw_step(step: wit::Declaration) -> RawStep {
    let wit::Declaration { name, version, inputs, output, policy } = step;
    let wit::Policy { timeout_ms, retry, persistence, max_concurrency } = policy;
    RawStep {
        name,
        version,
        inputs: inputs.into_iter().map(raw_port).collect(),
        output: raw_port(output),
        policy: RawPolicy {
            timeout_ms,
            retry: retry.map(|wit::Retry { max_attempts, backoff, jitter }| RawRetry {
                max_attempts,
                backoff: backoff.map(|wit::Backoff { growth, initial_ms, factor, max_ms }| RawBackoff {
                    growth: match growth {
                        wit::Growth::Fixed => Growth::Fixed,
                        wit::Growth::Linear => Growth::Linear,
                        wit::Growth::Exponential => Growth::Exponential,
                    },
                    initial_ms,
                    factor,
                    max_ms,
                }),
                jitter,
            }),
            persistence: persistence.map(|wit::Persistence { scope, ttl_ms }| RawPersistence {
                scope: match scope {
                    wit::Scope::Workflow => Scope::Workflow,
                    wit::Scope::Global => Scope::Global,
                },
                ttl_ms,
            }),
            max_concurrency,
        },
    }
}

fn raw_port(port: wit::Port) -> RawPort {
    let wit::Port { message, label, arity } = port;
    RawPort {
        message,
        label,
        arity: match arity {
            wit::Arity::One => Arity::One,
            wit::Arity::Many => Arity::Many,
        },
    }
}
