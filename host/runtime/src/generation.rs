//! Owns a set of loaded modules as one thing: the graph inferred from them and, for each step, all
//! that an attempt needs. Immutable once made; executions keep the generation they began with.

mod loading;
mod purity;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use docket_graph::{
    DimensionId, Graph, Persistence, Plan, PlanErrors, Port, PortId, Retry, Scope, Source, StepId, StepName,
    Take,
};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use crate::bindings::RunModulePre;
use crate::grants::Grants;
use crate::options::{Instance, Limits, OnStoreError};
use crate::sandbox::{Given, Sandbox};

pub use loading::LoadErrors;
pub(crate) use loading::{Engine, Loading};
pub use purity::{ModuleFacts, Purity};

/// A plan, and how its nodes are retried.
pub(crate) struct Prepared {
    pub(crate) plan: Plan,
    pub(crate) retries: Arc<[Retry]>,
    /// Whether some step's result is kept, so that its executions are journaled.
    pub(crate) keeps: bool,
    /// Whether the instances of some step that runs more than once are used again.
    pub(crate) reuses: bool,
    /// How often the value of each node is asked for: once for each input, and once as the result. What asks
    /// from another dimension may do so more than once, and is never done with it.
    pub(crate) uses: Box<[u32]>,
    /// By node: whether what it takes follows from what came together of a batch's items, and so neither from what was given
    /// nor from its own item, or from how many of them failed. None where there are no items and no such count.
    pub(crate) by_inputs: Box<[bool]>,
    /// The ports of the given inputs.
    pub(crate) given: Box<[PortId]>,
    /// The positions of the given inputs, in the order of their ports.
    pub(crate) by_port: Box<[usize]>,
    /// What the keys of its executions begin with: a hash of those ports, as one block that is hashed already.
    pub(crate) key: Sha256,
}

/// Returns what [`Prepared::uses`] says.
fn uses(plan: &Plan) -> Box<[u32]> {
    let mut uses = vec![0; plan.len()].into_boxed_slice();
    let inputs = plan.nodes().flat_map(|(node, _)| plan.inputs(node).iter().map(|input| input.source));
    for source in inputs.chain([plan.target_source()]) {
        if let Source::Node(node) = source {
            uses[node.index()] += 1;
        }
    }
    uses
}

/// Returns what [`Prepared::by_inputs`] says.
fn by_inputs(plan: &Plan) -> Box<[bool]> {
    let counts = |(node, _)| plan.inputs(node).iter().any(|input| input.source == Source::Failed);
    if plan.items().is_none() && !plan.nodes().any(counts) {
        return Box::default();
    }
    let mut by_inputs = vec![false; plan.len()];
    // Producers come before consumers.
    for (node, _) in plan.nodes() {
        by_inputs[node.index()] = plan.inputs(node).iter().any(|input| match (input.source, input.take) {
            (Source::Given(_), take) => take == Take::Gathered,
            (Source::Node(source), take) => {
                let gathers_items = || Some(plan.dimension_of(source)) == plan.items();
                by_inputs[source.index()] || (take == Take::Gathered && gathers_items())
            }
            (Source::Failed, _) => true,
        });
    }
    by_inputs.into()
}

/// The most plans that are remembered; past it all are forgotten. A service asks in a handful of
/// ways, and a caller who asks in many cannot make the host hold more than this.
const KNOWN_PLANS: usize = 256;

/// Hashed quickly, with a seed of each process: a request is looked up by its ports, which may be anybody's.
type Plans = HashMap<Vec<Port>, Arc<Prepared>, foldhash::fast::RandomState>;

/// A set of modules and the graph inferred from them.
pub struct Generation {
    graph: Graph,
    modules: Vec<ModuleFacts>,
    /// The files of the modules, where some step's results are kept.
    files: Vec<Bytes>,
    steps: Vec<StepCode>,
    retries: Vec<Retry>,
    /// Plans by target and given ports, the target last: services ask for the same few again and
    /// again.
    plans: Mutex<Plans>,
    /// Kept alive for as long as a step may run.
    _engines: Vec<Arc<Engine>>,
}

/// All that an attempt at one step needs. Small, because a large graph visits every one of them:
/// what many steps have alike is shared.
pub(crate) struct StepCode {
    pub(crate) name: StepName,
    pub(crate) module: Arc<str>,
    pub(crate) pre: Arc<RunModulePre<Sandbox>>,
    pub(crate) limits: Arc<Limits>,
    /// None where it is given nothing.
    pub(crate) given: Option<Arc<Given>>,
    /// Holds the step's own bound on concurrent attempts, where it has one.
    pub(crate) gate: Option<Arc<Semaphore>>,
    /// A hash of what identifies the step and its code, for idempotency keys.
    pub(crate) identity: [u8; 32],
    /// How its results are kept, if they are.
    pub(crate) keep: Option<Box<Keep>>,
    /// For how many attempts an instance is used.
    pub(crate) instance: Instance,
}

/// How the results of a step are kept, and what of their keys is the same for all inputs.
pub(crate) struct Keep {
    pub(crate) scope: Scope,
    pub(crate) ttl: Option<Duration>,
    pub(crate) on_store_error: OnStoreError,
    /// The digest of the module, in hexadecimal.
    pub(crate) module: Arc<str>,
    /// `version:` and the declared version, or `module:` and the digest.
    pub(crate) code: String,
    /// A hash of the configuration, where there is any.
    pub(crate) config: Option<String>,
    /// What was granted, a line each; see [`Grants::lines`].
    pub(crate) grants: Vec<String>,
    /// For how many attempts an instance is used.
    pub(crate) instance: Instance,
    /// The output port, with its arity.
    pub(crate) output: String,
    /// The input ports, with their arities.
    pub(crate) inputs: Vec<String>,
}

impl Generation {
    /// Returns the graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Returns the modules, in the order in which they were given.
    pub fn modules(&self) -> &[ModuleFacts] {
        &self.modules
    }

    /// Returns the modules that a plan runs, in their order: name, digest and file.
    pub(crate) fn modules_of(&self, plan: &Plan) -> impl Iterator<Item = (&ModuleFacts, &Bytes)> {
        let needed: BTreeSet<usize> = plan.nodes().map(|(_, step)| self.graph.step(step).module).collect();
        needed.into_iter().map(|index| (&self.modules[index], &self.files[index]))
    }

    /// Returns whether all of these modules, by their digests, are among these.
    pub(crate) fn has_modules<'a>(&self, mut digests: impl Iterator<Item = &'a str>) -> bool {
        digests.all(|digest| self.modules.iter().any(|module| module.digest.to_string() == digest))
    }

    /// Returns how the results of a step are kept: among whom, and for how long; none if they are not.
    pub fn persistence(&self, step: StepId) -> Option<Persistence> {
        self.code(step).keep.as_ref().map(|keep| Persistence { scope: keep.scope, ttl: keep.ttl })
    }

    /// Returns whether the results of any step are kept.
    pub fn keeps(&self) -> bool {
        self.steps.iter().any(|step| step.keep.is_some())
    }

    /// Returns how attempts at a step are limited.
    pub fn limits(&self, step: StepId) -> &Limits {
        &self.code(step).limits
    }

    /// Returns what a step was granted.
    pub fn grants(&self, step: StepId) -> &Grants {
        &self.code(step).given.as_deref().unwrap_or(Given::nothing()).grants
    }

    /// Returns how far the answers of a step depend on anything but its inputs, and what makes it so.
    pub fn purity(&self, step: StepId) -> (Purity, Vec<String>) {
        self.modules[self.graph.step(step).module].purity(self.grants(step), self.code(step).instance)
    }

    /// Returns how failed attempts at a step are retried.
    pub fn retry(&self, step: StepId) -> &Retry {
        &self.retries[step.index()]
    }

    /// Returns the plan for a target and the given ports, made now or before; and the target again.
    pub(crate) fn plan(
        &self,
        target: Port,
        given: &mut Vec<Port>,
    ) -> Result<(Port, Arc<Prepared>), PlanErrors> {
        given.push(target);
        let known = self.plans().get(given.as_slice()).cloned();
        let key = known.is_none().then(|| given.clone());
        let target = given.pop().expect("pushed just above");
        let Some(key) = key else {
            return Ok((target, known.expect("there is a key where no plan is known")));
        };
        let prepared = Arc::new(self.prepare(Plan::of(&self.graph, &target, given)?, given));
        let mut plans = self.plans();
        if plans.len() >= KNOWN_PLANS {
            plans.clear();
        }
        plans.insert(key, Arc::clone(&prepared));
        drop(plans);
        Ok((target, prepared))
    }

    /// Returns the plan for a target and the given ports, of which the one at this position comes as items.
    pub(crate) fn plan_items(
        &self,
        target: &Port,
        given: &[Port],
        items: usize,
    ) -> Result<Arc<Prepared>, PlanErrors> {
        let plan = Plan::of_items(&self.graph, target, given, items)?;
        Ok(Arc::new(self.prepare(plan, given)))
    }

    fn prepare(&self, plan: Plan, given: &[Port]) -> Prepared {
        let retries = plan.nodes().map(|(_, step)| self.retry(step).clone()).collect();
        let keeps = plan.nodes().any(|(_, step)| self.code(step).keep.is_some());
        let reuses = |(node, step)| {
            self.code(step).instance == Instance::Reuse && plan.dimension_of(node) != DimensionId::ROOT
        };
        let reuses = plan.nodes().any(reuses);
        let mut by_port: Box<[usize]> = (0..given.len()).collect();
        by_port.sort_by_key(|position| &given[*position]);
        let mut ports = Sha256::new();
        by_port.iter().for_each(|position| frame(&mut ports, given[*position].to_string().as_bytes()));
        let id = |port| self.graph.find_port(port).expect("a plan takes what its graph knows");
        Prepared {
            retries,
            keeps,
            reuses,
            uses: uses(&plan),
            by_inputs: by_inputs(&plan),
            given: given.iter().map(id).collect(),
            by_port,
            key: Sha256::new().chain_update(ports.finalize()).chain_update([0; 32]),
            plan,
        }
    }

    fn plans(&self) -> MutexGuard<'_, Plans> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn code(&self, step: StepId) -> &StepCode {
        &self.steps[step.index()]
    }
}

/// Adds a part behind its length, so that no two lists of parts hash alike.
pub(crate) fn frame(hash: &mut Sha256, part: &[u8]) {
    hash.update((part.len() as u64).to_le_bytes());
    hash.update(part);
}
