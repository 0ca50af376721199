//! Decides: reads what step modules declare, infers the graph of typed steps, plans what one target
//! needs, and says at each completion what to do next.
//!
//! Pure. Nothing here waits, reads a clock, draws a random number, opens a file or calls a guest;
//! delays and chances are arguments, and what is to be done is returned as data.
//!
//! The stages are types: [`RawModule`] (as declared) → [`ModuleDecl`] (parsed) → [`Graph`] (inferred and
//! checked) → [`Plan`] (what one target needs) → [`Progress`] (one execution of a plan).
//!
//! The `mod` list is the reading order, and a module refers only to modules above it.

mod port;
mod policy;
mod fault;
mod schema;
mod wire;
mod map_key;
mod walk;
mod canonical;
mod failed;
mod compatible;
mod descriptors;
mod declaration;
mod dimension;
mod edges;
mod cycle;
mod nearest;
mod graph;
mod plan;
mod progress;
mod render;

pub use declaration::{
    ModuleDecl, RawBackoff, RawModule, RawPersistence, RawPolicy, RawPort, RawRetry, RawStep, StepDecl,
};
pub use dimension::{DimensionId, Take};
pub use failed::{FAILED, failed_message};
pub use fault::{Excess, FailedMisuse, Fault, GraphErrors, PerElement, Place, PolicyError, Position};
pub use graph::{Graph, PortId, Step, StepId};
pub use plan::{
    DefaultError, Dimension, Gathered, Input, NodeId, Opener, Plan, PlanErrors, PlanFault, Repeated, Source,
    Unused, default_input, default_items, default_target,
};
pub use policy::{
    Backoff, FailureClass, Growth, Jitter, LONGEST_DELAY, Match, Persistence, Policy, Reclassify, Retry,
    Scope,
};
pub use port::{Arity, Port, PortDecl, PortError, StepName, StepNameError, is_deceptive};
pub use progress::{
    Action, Completion, Conclusion, Element, Elements, Ending, FrameId, Job, OnItemError, Progress, State,
    StopReason,
};
pub use render::{Format, dot, json, mermaid, render, svg, tree};
pub use schema::Schema;
pub use wire::{WireFault, WireReason};

/// The reflection library, for callers that decode by a [`Graph`]'s descriptors.
pub use prost_reflect;
