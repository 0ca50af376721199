//! Owns a set of loaded modules as one thing: the graph inferred from them and, for each step, all
//! that an attempt needs. Immutable once made; executions keep the generation they began with.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use docket_graph::{
    Arity, DimensionId, Graph, Persistence, Plan, PlanErrors, Policy, Port, PortId, RawStep, Retry, Scope,
    Source, StepId, StepName, Take,
};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use wasmtime::component::Linker;

use crate::artifact::ArtifactStore;
use crate::bindings::StepModulePre;
use crate::call::DESCRIBE_TIMEOUT;
use crate::digest::Digest;
use crate::engine::{self, EpochTicker, Metering, PoolSize};
use crate::grants::Grants;
use crate::http::{Connector, HttpGrant, Keyed, Vault};
use crate::import::{Import, classify};
use crate::module::{LoadFault, Loader, Module, ModuleSource};
use crate::options::{Effective, HostOptions, Instance, Limits, OnStoreError};
use crate::sandbox::{self, Given, Sandbox};

/// An engine with all that comes with it.
pub(crate) struct Engine {
    pub(crate) engine: wasmtime::Engine,
    pub(crate) linker: Linker<Sandbox>,
    _ticker: EpochTicker,
}

impl Engine {
    /// Returns an engine of this size.
    ///
    /// # Errors
    /// What the engine says, and what can be done about it.
    pub(crate) fn new(metering: Metering, options: &HostOptions) -> Result<Self, String> {
        let pool = PoolSize {
            instances: options.max_instances,
            memory: options.caps.memory,
            table_elements: options.caps.table_elements,
            stack: options.max_stack,
        };
        Self::of(metering, pool).map_err(|error| {
            let PoolSize { instances, memory, .. } = pool;
            format!("{error:#}; where that is for want of memory or addresses, lower `max-instances` ({instances}) or the cap on `memory` ({memory} bytes)")
        })
    }

    fn of(metering: Metering, pool: PoolSize) -> wasmtime::Result<Self> {
        let engine = wasmtime::Engine::new(&engine::config(metering, pool))?;
        let linker = sandbox::linker(&engine)?;
        let ticker = EpochTicker::start(&engine)?;
        Ok(Self { engine, linker, _ticker: ticker })
    }
}

/// All faults that were found while loading modules, in a fixed order.
#[derive(Debug)]
pub struct LoadErrors(pub Vec<LoadFault>);

impl std::fmt::Display for LoadErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            write!(f, "{}{fault}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for LoadErrors {}

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
    /// nor from its own item. None where there are no items.
    pub(crate) by_inputs: Box<[bool]>,
    /// The positions of the given inputs, in the order of their ports.
    pub(crate) by_port: Box<[usize]>,
    /// A hash of those ports.
    pub(crate) ports: [u8; 32],
}

impl Prepared {
    fn new(plan: Plan, given: &[Port], retries: Arc<[Retry]>, keeps: bool, reuses: bool) -> Self {
        let mut uses = vec![0; plan.len()].into_boxed_slice();
        let inputs = plan.nodes().flat_map(|(node, _)| plan.inputs(node).iter().map(|input| input.source));
        for source in inputs.chain([plan.target_source()]) {
            if let Source::Node(node) = source {
                uses[node.index()] += 1;
            }
        }
        let mut by_port: Box<[usize]> = (0..given.len()).collect();
        by_port.sort_by_key(|position| &given[*position]);
        let mut hash = Sha256::new();
        by_port.iter().for_each(|position| frame(&mut hash, given[*position].to_string().as_bytes()));
        let by_inputs = by_inputs(&plan);
        Self { plan, retries, keeps, reuses, uses, by_inputs, by_port, ports: hash.finalize().into() }
    }
}

/// Returns what [`Prepared::by_inputs`] says.
fn by_inputs(plan: &Plan) -> Box<[bool]> {
    let Some(items) = plan.items() else { return Box::default() };
    let mut by_inputs = vec![false; plan.len()];
    // Producers come before consumers.
    for (node, _) in plan.nodes() {
        by_inputs[node.index()] = plan.inputs(node).iter().any(|input| match (input.source, input.take) {
            (Source::Given(_), take) => take == Take::Gathered,
            (Source::Node(source), take) => {
                by_inputs[source.index()] || (take == Take::Gathered && plan.dimension_of(source) == items)
            }
        });
    }
    by_inputs.into()
}

/// The most plans that are remembered; past it all are forgotten. A service asks in a handful of
/// ways, and a caller who asks in many cannot make the host hold more than this.
const KNOWN_PLANS: usize = 256;

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
    plans: Mutex<HashMap<Vec<Port>, Arc<Prepared>>>,
    /// Kept alive for as long as a step may run.
    _engines: Vec<Arc<Engine>>,
}

/// What is known of a loaded module.
#[derive(Clone, Debug)]
pub struct ModuleFacts {
    /// Its file below the module directory.
    pub name: Arc<str>,
    /// The SHA-256 of the file.
    pub digest: Digest,
    /// The interfaces that it imports, sorted.
    pub imports: Vec<String>,
}

/// How far the answers of a step depend on anything but its inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purity {
    /// A function of its inputs: it imports no clock, no randomness, and nothing is granted.
    Pure,
    /// A function of its inputs, its execution's start, and the configuration and variables that the
    /// operator gives it, which are part of its key.
    Deterministic,
    /// It reaches outside, sees the host's time or chance, or sees what its instance was used for before.
    Effects,
}

impl ModuleFacts {
    /// Returns how far the answers of a step of this module, with these grants, depend on anything but
    /// the inputs, and what makes it so: the imports, and the grants as `grant KIND …`.
    ///
    /// A grant counts whether or not it is used: what was given may be used by the next version. So does an instance that
    /// is used again: its answers may depend on what it was asked before.
    pub fn purity(&self, grants: &Grants, instance: Instance) -> (Purity, Vec<String>) {
        let of_import = |import: &String| match classify(import) {
            // Behind wasi:sockets there is nothing: who uses it is stopped.
            Import::Open | Import::Denied => Purity::Pure,
            Import::Circumstances | Import::Config => Purity::Deterministic,
            Import::Http | Import::Unknown => Purity::Effects,
        };
        let mut reasons: Vec<_> =
            self.imports.iter().map(|import| (of_import(import), format!("import {import}"))).collect();
        let grant = |level, words: String| (level, format!("grant {words}"));
        reasons.extend(grants.effects().into_iter().map(|words| grant(Purity::Effects, words)));
        if instance == Instance::Reuse {
            reasons.push((Purity::Effects, "instance reuse".to_owned()));
        }
        reasons.extend(grants.env.keys().map(|name| grant(Purity::Deterministic, format!("env {name}"))));
        let level = reasons.iter().map(|(level, _)| *level).max().unwrap_or(Purity::Pure);
        let decisive = reasons.into_iter().filter(|(of, _)| level != Purity::Pure && *of == level);
        (level, decisive.map(|(_, words)| words).collect())
    }

    /// Returns the imports that work only with a grant.
    pub fn needs_granted(&self) -> Vec<&str> {
        let granted = |import: &&str| matches!(classify(import), Import::Config | Import::Http);
        self.imports.iter().map(String::as_str).filter(granted).collect()
    }

    /// Returns the imports that no host offers.
    pub fn not_offered(&self) -> Vec<&str> {
        let unknown = |import: &&str| classify(import) == Import::Unknown;
        self.imports.iter().map(String::as_str).filter(unknown).collect()
    }
}

/// All that an attempt at one step needs. Small, because a large graph visits every one of them:
/// what many steps have alike is shared.
pub(crate) struct StepCode {
    pub(crate) name: StepName,
    pub(crate) module: Arc<str>,
    pub(crate) pre: Arc<StepModulePre<Sandbox>>,
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

    /// Returns the plan for a target and the given ports, made now or before.
    pub(crate) fn plan(&self, target: Port, given: &mut Vec<Port>) -> Result<Arc<Prepared>, PlanErrors> {
        given.push(target);
        let known = self.plans().get(given.as_slice()).cloned();
        let key = known.is_none().then(|| given.clone());
        let target = given.pop().expect("pushed just above");
        let Some(key) = key else { return Ok(known.expect("there is a key where no plan is known")) };
        let prepared = Arc::new(self.prepare(Plan::of(&self.graph, &target, given)?, given));
        let mut plans = self.plans();
        if plans.len() >= KNOWN_PLANS {
            plans.clear();
        }
        plans.insert(key, Arc::clone(&prepared));
        Ok(prepared)
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
        Prepared::new(plan, given, retries, keeps, reuses)
    }

    fn plans(&self) -> MutexGuard<'_, HashMap<Vec<Port>, Arc<Prepared>>> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn code(&self, step: StepId) -> &StepCode {
        &self.steps[step.index()]
    }
}

/// An interface that only a grant gives.
struct Granted {
    import: Import,
    /// Whether a step that is run like this has it.
    is_granted: fn(&Effective) -> bool,
    /// What the operator can do.
    how: &'static str,
}

const GRANTED: [Granted; 2] = [
    Granted {
        import: Import::Config,
        is_granted: |step| step.config.is_some(),
        how: "set `config` for one of its steps, such as `[step.NAME] config = { key = \"value\" }`",
    },
    Granted {
        import: Import::Http,
        is_granted: |step| !step.grants.http.is_empty(),
        how: "set `http` in the grants of one of its steps, such as `[step.NAME] grants = { http = [\"GET https://api.example.com/\"] }`",
    },
];

/// What it takes to make generations.
pub(crate) struct Loading<'a> {
    pub(crate) options: &'a HostOptions,
    pub(crate) artifacts: &'a ArtifactStore,
    pub(crate) plain: &'a Arc<Engine>,
    pub(crate) connector: &'a Arc<Connector>,
    pub(crate) compiling: &'a (dyn Fn(&str) + Sync),
}

impl Loading<'_> {
    /// Loads all modules and infers their graph.
    ///
    /// # Errors
    /// Every fault of every module and, of those that load, every fault of their graph.
    pub(crate) async fn generation(&self, sources: &[ModuleSource]) -> Result<Generation, LoadErrors> {
        let loader = self.loader(self.plain);
        let mut modules = Vec::new();
        let mut faults = Vec::new();
        for source in sources {
            match loader.load(source).await {
                Ok(module) => modules.push(module),
                Err(found) => faults.extend(found),
            }
        }
        for module in &modules {
            faults.extend(GRANTED.iter().filter_map(|granted| self.ungranted(module, granted)));
        }
        // Where no module loads, that nothing is left to make a graph of is no fault of its own.
        if modules.is_empty() && !faults.is_empty() {
            return Err(LoadErrors(faults));
        }
        match Graph::read(modules.iter().map(|module| (&*module.name, &module.declared))) {
            Ok(graph) if faults.is_empty() => {
                self.assemble(graph, modules).map_err(|fault| LoadErrors(vec![fault]))
            }
            Ok(_) => Err(LoadErrors(faults)),
            Err(found) => {
                faults.extend(found.into_faults().into_iter().map(|fault| LoadFault::Graph(Box::new(fault))));
                Err(LoadErrors(faults))
            }
        }
    }

    fn loader<'b>(&'b self, engine: &'b Engine) -> Loader<'b> {
        Loader {
            engine: &engine.engine,
            linker: &engine.linker,
            artifacts: self.artifacts,
            stack: self.options.max_stack,
            patience: DESCRIBE_TIMEOUT,
            compiling: self.compiling,
        }
    }

    /// A module may import what only a grant gives once the operator has granted it to one of its steps.
    fn ungranted(&self, module: &Module, granted: &Granted) -> Option<LoadFault> {
        let Granted { import, is_granted, how } = granted;
        let import = module.imports.iter().find(|name| classify(name) == *import)?;
        // What a step declares grants nothing.
        let declared = Policy::default();
        let of = (&*module.name, &module.digest);
        let has = |step: &RawStep| is_granted(&self.options.effective(of, &step.name, &declared));
        (!module.declared.steps.iter().any(has)).then(|| LoadFault::NeedsGrant {
            module: Arc::clone(&module.name),
            import: import.clone(),
            how,
        })
    }

    /// Returns what each step may do over HTTP, in the order of the graph.
    ///
    /// # Errors
    /// All secrets that cannot be used.
    fn http_grants(
        &self,
        graph: &Graph,
        modules: &[Module],
    ) -> Result<Vec<Option<Arc<HttpGrant>>>, LoadFault> {
        let mut vault = Vault::default();
        let mut faults = Vec::new();
        let mut granted = Vec::new();
        for (_, step) in graph.steps() {
            let Effective { grants, persistence, .. } = self.effective(&modules[step.module], step);
            let keyed = if persistence.is_some() { Keyed::Yes } else { Keyed::No };
            match grants.http_grant(step.name.as_ref(), keyed, self.connector, &mut vault) {
                Ok(grant) => granted.push(grant.map(Arc::new)),
                Err(found) => faults.extend(found),
            }
        }
        if faults.is_empty() { Ok(granted) } else { Err(LoadFault::Secrets { faults }) }
    }

    fn assemble(&self, graph: Graph, modules: Vec<Module>) -> Result<Generation, LoadFault> {
        let mut http = self.http_grants(&graph, &modules)?.into_iter();
        let metered = self.metered_engine(&graph, &modules)?;
        let plain_pres: Vec<_> = modules.iter().map(|module| Arc::new(module.pre.clone())).collect();
        let mut metered_pres: Vec<Option<Arc<StepModulePre<Sandbox>>>> = vec![None; modules.len()];
        let mut steps: Vec<StepCode> = Vec::new();
        let mut retries = Vec::new();
        for (_, step) in graph.steps() {
            let index = step.module;
            let module = &modules[index];
            let Effective {
                limits,
                retry,
                max_concurrency,
                config,
                persistence,
                on_store_error,
                grants,
                instance,
            } = self.effective(module, step);
            let keep = match persistence {
                Some(persistence) => {
                    let (config, grants) = (config.as_ref(), &grants);
                    let keeping = Keeps { config, grants, persistence, on_store_error, instance };
                    let keep = keep(&graph, step, module, keeping)?;
                    Some(Box::new(keep))
                }
                None => None,
            };
            let pre = match (&metered, limits.fuel) {
                (Some(engine), Some(_)) => match &metered_pres[index] {
                    Some(pre) => Arc::clone(pre),
                    None => {
                        let pre = self.loader(engine).reload(module)?;
                        Arc::clone(metered_pres[index].insert(Arc::new(pre)))
                    }
                },
                _ => Arc::clone(&plain_pres[index]),
            };
            let limits = match steps.last() {
                Some(last) if *last.limits == limits => Arc::clone(&last.limits),
                _ => Arc::new(limits),
            };
            retries.push(retry);
            steps.push(StepCode {
                name: step.name.clone(),
                module: Arc::clone(&module.name),
                pre,
                limits,
                given: Given {
                    config: config.map(Arc::new),
                    grants,
                    http: http.next().expect("one answer a step"),
                }
                .shared(),
                gate: max_concurrency.map(|n| Arc::new(Semaphore::new(n.get() as usize))),
                identity: identity(step, &module.digest),
                keep,
                instance,
            });
        }
        for module in modules.iter().filter(|module| module.described_now) {
            self.artifacts.keep_declared(&module.digest, &module.declared);
        }
        let keeps = steps.iter().any(|step| step.keep.is_some());
        let files = modules.iter().filter(|_| keeps).map(|module| module.source.bytes()).collect();
        let facts = |module: Module| ModuleFacts {
            name: module.name,
            digest: module.digest,
            imports: module.imports,
        };
        let engines = [Some(Arc::clone(self.plain)), metered].into_iter().flatten().collect();
        Ok(Generation {
            graph,
            modules: modules.into_iter().map(facts).collect(),
            files,
            steps,
            retries,
            plans: Mutex::default(),
            _engines: engines,
        })
    }

    fn effective(&self, module: &Module, step: &docket_graph::Step) -> Effective {
        self.options.effective((&*module.name, &module.digest), step.name.as_ref(), &step.policy)
    }

    /// The engine that counts instructions exists only where some step has a budget.
    fn metered_engine(&self, graph: &Graph, modules: &[Module]) -> Result<Option<Arc<Engine>>, LoadFault> {
        let metered =
            graph.steps().any(|(_, step)| self.effective(&modules[step.module], step).limits.fuel.is_some());
        if !metered {
            return Ok(None);
        }
        Engine::new(Metering::Fuel, self.options)
            .map(|engine| Some(Arc::new(engine)))
            .map_err(|reason| LoadFault::Engine { reason })
    }
}

/// What an operator says of a kept step.
struct Keeps<'a> {
    config: Option<&'a BTreeMap<String, String>>,
    grants: &'a Grants,
    persistence: Persistence,
    on_store_error: OnStoreError,
    instance: Instance,
}

/// Returns how the results of a step are kept.
///
/// # Errors
/// Where one of its messages has no canonical form.
fn keep(
    graph: &Graph,
    step: &docket_graph::Step,
    module: &Module,
    keeps: Keeps<'_>,
) -> Result<Keep, LoadFault> {
    let Keeps { config, grants, persistence: Persistence { scope, ttl }, on_store_error, instance } = keeps;
    let ports = step.inputs.iter().chain([&step.output]);
    let groups = ports.flat_map(|(port, _)| graph.schema(*port).groups());
    if let Some(field) = groups.min() {
        let (module, step) = (Arc::clone(&module.name), step.name.clone());
        return Err(LoadFault::NotKeepable { module, step, field });
    }
    let in_key = |(port, arity): &(PortId, Arity)| match arity {
        Arity::One => graph.port(*port).to_string(),
        Arity::Many => format!("{}[]", graph.port(*port)),
    };
    let digest = module.digest.to_string();
    let hash_of = |config: &BTreeMap<String, String>| {
        let mut hash = Sha256::new();
        for (name, value) in config {
            frame(&mut hash, name.as_bytes());
            frame(&mut hash, value.as_bytes());
        }
        base16ct::lower::encode_string(&hash.finalize())
    };
    Ok(Keep {
        scope,
        ttl,
        on_store_error,
        code: match &step.version {
            Some(version) => format!("version:{version}"),
            None => format!("module:{digest}"),
        },
        module: digest.into(),
        config: config.map(hash_of),
        grants: grants.lines(),
        instance,
        output: in_key(&step.output),
        inputs: step.inputs.iter().map(in_key).collect(),
    })
}

/// Returns what stands for a step and its code in idempotency keys.
fn identity(step: &docket_graph::Step, digest: &Digest) -> [u8; 32] {
    let mut hash = Sha256::new();
    frame(&mut hash, b"docket idempotency key 1");
    frame(&mut hash, step.name.as_ref().as_bytes());
    match &step.version {
        Some(version) => frame(&mut hash, version.as_bytes()),
        None => frame(&mut hash, digest.as_bytes()),
    }
    hash.finalize().into()
}

/// Adds a part behind its length, so that no two lists of parts hash alike.
pub(crate) fn frame(hash: &mut Sha256, part: &[u8]) {
    hash.update((part.len() as u64).to_le_bytes());
    hash.update(part);
}
