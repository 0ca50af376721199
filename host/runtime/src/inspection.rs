//! Owns the look at one module by itself: what it offers and what it would need. Never grants
//! anything and never runs a step.

use std::time::Duration;

use docket_graph::Graph;

use crate::artifact::ArtifactStore;
use crate::call::DESCRIBE_TIMEOUT;
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
        Ok(Inspector::new(options)?.inspect(module).await?)
    }
}

/// Looks at modules, one after another, with one engine.
pub struct Inspector {
    engine: Engine,
    artifacts: ArtifactStore,
    stack: u64,
    patience: Duration,
}

impl Inspector {
    /// Returns an inspector with an engine of its own.
    ///
    /// # Errors
    /// Where the engine cannot be made, or the directory of compiled modules cannot be used.
    pub fn new(options: &HostOptions) -> Result<Self, BuildError> {
        Ok(Self {
            artifacts: ArtifactStore::open(&options.artifacts)?,
            engine: Engine::new(Metering::Off, options).map_err(BuildError::Engine)?,
            stack: options.max_stack,
            patience: DESCRIBE_TIMEOUT,
        })
    }

    /// Returns the inspector with less time for a module to describe itself; never with more.
    pub fn patience(self, most: Duration) -> Self {
        Self { patience: most.min(DESCRIBE_TIMEOUT), ..self }
    }

    /// Returns what is known of a module, as [`Inspection::of`].
    ///
    /// # Errors
    /// Every fault of the module.
    pub async fn inspect(&self, module: &ModuleSource) -> Result<Inspection, LoadErrors> {
        let loader = Loader {
            engine: &self.engine.engine,
            linker: &self.engine.linker,
            artifacts: &self.artifacts,
            stack: self.stack,
            patience: self.patience,
            compiling: &|_| {},
        };
        let module = loader.load_to_look_at(module).await.map_err(|fault| LoadErrors(vec![fault]))?;
        let graph = Graph::read([(&*module.name, &module.declared)]).map_err(|errors| {
            let faults = errors.into_faults().into_iter();
            LoadErrors(faults.map(|fault| LoadFault::Graph(Box::new(fault))).collect())
        })?;
        let facts = ModuleFacts { name: module.name, digest: module.digest, imports: module.imports };
        Ok(Inspection { facts, graph })
    }
}
