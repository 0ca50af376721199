//! Owns the settings of wasmtime and the thread that drives its epochs. Never loads a module.
//!
//! The settings are the ones that measured best for a fresh instance per call; each deviation from
//! wasmtime's defaults says what it buys.

use std::num::NonZeroUsize;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::{Config, Enabled, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig};

use crate::options::{LEAST_STACK, MOST_STACK};

/// How often a running guest is interrupted: it then yields to other tasks and its deadline is
/// looked at. 10 ms does not show in throughput, and bounds how late a timeout can be.
pub const TICK: Duration = Duration::from_millis(10);

/// What the fiber that a guest runs on has beyond the guest's own stack, in bytes: room for host
/// functions.
const HOST_STACK: u64 = 1 << 20;

/// Linear memory kept resident in a slot between two instances, in bytes. It must cover what a
/// guest dirties, or each call pays for page faults; beyond 16 MiB idle slots cost too much.
const KEEP_MEMORY: usize = 16 << 20;

/// The same for tables.
const KEEP_TABLES: usize = 64 << 10;

/// Idle slots whose memory stays warm; bounds the resident size to this times `KEEP_MEMORY`.
const WARM_SLOTS: u32 = 100;

/// Core instances of one component: componentize-py makes 38.
pub(crate) const CORE_INSTANCES: u32 = 64;

/// Linear memories of one component: QuickJS has three.
pub(crate) const MEMORIES: u32 = 4;

/// Tables of one component.
pub(crate) const TABLES: u32 = 64;

/// Bytes of one instance's own bookkeeping; Python and JavaScript exceed wasmtime's default.
const INSTANCE_SIZE: usize = 16 << 20;

/// The most slots of a pool: each takes several memory maps and Linux allows 65,530 of them.
pub(crate) const MOST_INSTANCES: usize = 4_000;

/// Whether an engine counts executed instructions. Counting costs 16 to 24 % on real code, so
/// only steps with a fuel budget run on an engine that does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metering {
    /// Instructions are not counted.
    Off,
    /// Instructions are counted and a budget is enforced.
    Fuel,
}

/// The size of an engine's pool of instances.
#[derive(Clone, Copy, Debug)]
pub struct PoolSize {
    /// The most instances alive at once.
    pub instances: usize,
    /// The largest linear memory, in bytes.
    pub memory: u64,
    /// The most elements of one table.
    pub table_elements: u64,
    /// The stack of each, in bytes.
    pub stack: u64,
}

/// Returns the configuration of Docket's engines; public so that benchmarks measure this one.
pub fn config(metering: Metering, pool: PoolSize) -> Config {
    let stack = pool.stack.clamp(LEAST_STACK, MOST_STACK);
    let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
    let mut config = Config::new();
    config
        // Steps are sync-lifted exports: 2.1 times cheaper per fresh call than wasmtime's default.
        .concurrency_support(false)
        .epoch_interruption(true)
        .consume_fuel(metering == Metering::Fuel)
        .cranelift_opt_level(OptLevel::Speed)
        // The same bits on every host: a step without grants gives the same answer everywhere.
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .max_wasm_stack(bytes(stack))
        .async_stack_size(bytes(stack + HOST_STACK))
        .wasm_backtrace_max_frames(NonZeroUsize::new(16))
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pooling(pool)));
    config
}

fn pooling(size: PoolSize) -> PoolingAllocationConfig {
    let PoolSize { instances, memory, table_elements, stack: _ } = size;
    let slots = u32::try_from(instances.clamp(1, MOST_INSTANCES)).expect("at most 4,000");
    let mut pool = PoolingAllocationConfig::new();
    // As many parts as if every component had the most: else a few components of many parts would hold
    // up all others, whose permits say that there is room. What is not used is address space alone.
    pool.total_component_instances(slots)
        .total_core_instances(slots.saturating_mul(CORE_INSTANCES))
        .total_memories(slots.saturating_mul(MEMORIES))
        .total_tables(slots.saturating_mul(TABLES))
        .total_stacks(slots)
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_memories_per_component(MEMORIES)
        .max_tables_per_component(TABLES)
        .max_memory_size(usize::try_from(memory).unwrap_or(usize::MAX))
        .table_elements(usize::try_from(table_elements).unwrap_or(usize::MAX))
        .max_core_instance_size(INSTANCE_SIZE)
        .max_component_instance_size(INSTANCE_SIZE)
        .max_unused_warm_slots(WARM_SLOTS)
        .decommit_batch_size(16);
    // Without the kernel's page-map scan a kept memory is cleared by hand, all of it: slower than
    // keeping nothing.
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        pool.pagemap_scan(Enabled::Yes)
            .linear_memory_keep_resident(KEEP_MEMORY)
            .table_keep_resident(KEEP_TABLES);
    } else {
        tracing::info!(
            "the kernel offers no page-map scan (Linux 6.7): fresh instances cost about twice as much"
        );
    }
    pool
}

/// A thread that advances the epoch of engines every [`TICK`]. Ends, joined, when dropped.
pub struct EpochTicker {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl EpochTicker {
    /// Starts the thread for this engine.
    ///
    /// # Errors
    /// Where the operating system refuses another thread.
    pub fn start(engine: &wasmtime::Engine) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        // Weak: the thread must not keep an engine alive that its host has dropped.
        let engine = engine.weak();
        let thread = std::thread::Builder::new().name("docket-epoch".into()).spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(TICK) {
                match engine.upgrade() {
                    Some(engine) => engine.increment_epoch(),
                    None => break,
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for EpochTicker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // The thread cannot panic; if it did, dropping a host is no place to say so again.
            let _ = thread.join();
        }
    }
}
