//! Owns the way from files to a generation: every module is loaded, the graph inferred, and each step
//! put together with what its operator says. Never runs a step.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use docket_graph::{Arity, Graph, Persistence, Policy, PortId, RawStep};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use wasmtime::component::Linker;

use super::{Generation, Keep, ModuleFacts, StepCode, frame};
use crate::artifact::ArtifactStore;
use crate::bindings::RunModulePre;
use crate::call::DESCRIBE_TIMEOUT;
use crate::digest::Digest;
use crate::engine::{self, EpochTicker, Metering, PoolSize};
use crate::grants::Grants;
use crate::http::{Connector, HttpGrant, Keyed, Vault};
use crate::import::{Import, classify};
use crate::module::{LoadFault, Loader, Module, ModuleSource};
use crate::options::{Effective, HostOptions, Instance, OnStoreError};
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
        let mut metered_pres: Vec<Option<Arc<RunModulePre<Sandbox>>>> = vec![None; modules.len()];
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
