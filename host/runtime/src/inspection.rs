//! Owns the look at one module by itself: what it offers and what it would need. Never grants
//! anything and never runs a step.

use docket_graph::Graph;

use crate::artifact::ArtifactStore;
use crate::engine::Metering;
use crate::generation::{Engine, LoadErrors, ModuleFacts};
use crate::host::BuildError;
use crate::module::{LoadFault, Loader, ModuleSource};
use crate::options::HostOptions;

/// What is known of one module without the others.
#[derive(Debug)]
pub struct Inspection {
    /// Its name, digest and imports.
    pub facts: ModuleFacts,
    /// Its steps and ports, as a graph of their own.
    pub graph: Graph,
}

impl Inspection {
    /// Returns what is known of a module. Unlike a host, this takes a module whose imports are not
    /// granted or not offered: nothing but its `describe` is called.
    ///
    /// # Errors
    /// Where the engine cannot be made, and every fault of the module.
    pub async fn of(module: &ModuleSource, options: &HostOptions) -> Result<Self, BuildError> {
        let artifacts = ArtifactStore::open(&options.artifacts)?;
        let engine = Engine::new(Metering::Off, options).map_err(BuildError::Engine)?;
        let loader = Loader {
            engine: &engine.engine,
            linker: &engine.linker,
            artifacts: &artifacts,
            stack: options.max_stack,
            compiling: &|_| {},
        };
        let module = loader.load_to_look_at(module).await.map_err(|fault| LoadErrors(vec![fault]))?;
        let graph = Graph::read([(&*module.name, &module.declared)]).map_err(|errors| {
            let faults = errors.into_faults().into_iter();
            LoadErrors(faults.map(|fault| LoadFault::Graph(Box::new(fault))).collect())
        })?;
        let facts = ModuleFacts { name: module.name, digest: module.digest, imports: module.imports };
        Ok(Self { facts, graph })
    }
}
