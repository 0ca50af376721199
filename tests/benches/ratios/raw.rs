//! The floor: what a program costs that calls the same component by wasmtime alone, without any
//! check, limit or report.

use std::path::Path;

use docket_runtime::{Metering, PoolSize, engine_config};
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Store,
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

mod generated {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "step-module",
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

use generated::exports::docket::step::step::{Invocation, ValueParam, ValueResult};
use generated::{StepModule, StepModulePre};

/// The pool that both sides use.
pub(crate) const POOL: PoolSize =
    PoolSize { instances: 256, memory: 1 << 30, table_elements: 1_000_000, stack: 1 << 20 };

/// What a guest has of this host: WASI, made when first asked for.
pub(crate) struct State {
    table: ResourceTable,
    wasi: Option<WasiCtx>,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let ctx = self.wasi.get_or_insert_with(|| WasiCtx::builder().build());
        WasiCtxView { ctx, table: &mut self.table }
    }
}

/// A component, linked.
pub(crate) struct Raw {
    pub(crate) engine: Engine,
    pre: StepModulePre<State>,
}

/// Returns Docket's settings.
pub(crate) fn our_settings() -> Config {
    engine_config(Metering::Off, POOL)
}

/// Returns the settings that measured best in the study that Docket's come from.
pub(crate) fn best_settings() -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(256)
        .total_core_instances(1024)
        .total_memories(256)
        .total_tables(1024)
        .total_stacks(256)
        .table_elements(100_000)
        .max_memory_size(1 << 30)
        .max_core_instance_size(16 << 20)
        .max_component_instance_size(16 << 20)
        .decommit_batch_size(16);
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        pool.pagemap_scan(Enabled::Yes).linear_memory_keep_resident(2 << 20).table_keep_resident(64 << 10);
    }
    let mut config = Config::new();
    config
        .concurrency_support(false)
        .epoch_interruption(true)
        .cranelift_opt_level(OptLevel::Speed)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

impl Raw {
    pub(crate) fn new(config: &Config, wasm: &[u8]) -> Self {
        let engine = Engine::new(config).expect("an engine");
        let component = Component::new(&engine, wasm).expect("a component");
        Self::of(engine, &component)
    }

    /// Loads what another run of the host has compiled.
    pub(crate) fn load(config: &Config, artifact: &Path) -> Self {
        let engine = Engine::new(config).expect("an engine");
        // SAFETY: the benchmark has just seen Docket write this file.
        #[expect(unsafe_code, reason = "loading artifacts is what is measured")]
        let component = unsafe { Component::deserialize_file(&engine, artifact) }.expect("an artifact");
        Self::of(engine, &component)
    }

    fn of(engine: Engine, component: &Component) -> Self {
        let mut linker = Linker::<State>::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).expect("a linker");
        let pre = linker.instantiate_pre(component).expect("a linked component");
        Self { pre: StepModulePre::new(pre).expect("a step module"), engine }
    }

    /// Calls a step in a fresh instance, and returns the length of its answer.
    pub(crate) async fn call(&self, step: &str, inputs: &[&[u8]]) -> usize {
        let inputs: Vec<_> = inputs.iter().map(|input| ValueParam::One(input)).collect();
        self.call_with(step, &inputs).await
    }

    /// As [`Raw::call`], with one input, which is a list.
    pub(crate) async fn call_with_list(&self, step: &str, list: &[&[u8]]) -> usize {
        self.call_with(step, &[ValueParam::Many(list)]).await
    }

    async fn call_with(&self, step: &str, inputs: &[ValueParam<'_>]) -> usize {
        Used::of(self).await.call_with(step, inputs).await
    }
}

/// An instance, to be called more than once.
pub(crate) struct Used {
    store: Store<State>,
    instance: StepModule,
}

impl Used {
    pub(crate) async fn of(raw: &Raw) -> Self {
        let mut store = Store::new(&raw.engine, State { table: ResourceTable::new(), wasi: None });
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        let instance = raw.pre.instantiate_async(&mut store).await.expect("an instance");
        Self { store, instance }
    }

    /// Calls a step, and returns the length of its answer.
    pub(crate) async fn call(&mut self, step: &str, inputs: &[&[u8]]) -> usize {
        let inputs: Vec<_> = inputs.iter().map(|input| ValueParam::One(input)).collect();
        self.call_with(step, &inputs).await
    }

    /// Calls a step with one message, and returns its answer.
    pub(crate) async fn answer(&mut self, step: &str, input: &[u8]) -> Vec<u8> {
        match self.value_of(step, &[ValueParam::One(input)]).await {
            ValueResult::One(message) => message,
            ValueResult::Many(messages) => messages.concat(),
        }
    }

    async fn call_with(&mut self, step: &str, inputs: &[ValueParam<'_>]) -> usize {
        match self.value_of(step, inputs).await {
            ValueResult::One(message) => message.len(),
            ValueResult::Many(messages) => messages.len(),
        }
    }

    async fn value_of(&mut self, step: &str, inputs: &[ValueParam<'_>]) -> ValueResult {
        let Self { store, instance } = self;
        let call = Invocation {
            step,
            execution_id: "018f0000-0000-7000-8000-000000000000",
            attempt: 1,
            idempotency_key: "0000000000000000000000000000000000000000000000000000000000000000",
            started_at_ms: 1_700_000_000_000,
        };
        let answer = instance.docket_step_step().call_run(store, call, inputs).await.expect("no trap");
        answer.unwrap_or_else(|failure| panic!("{}", failure.message))
    }
}
