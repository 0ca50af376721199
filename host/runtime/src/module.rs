//! Owns the way from a file to a module that can be called: recognise, compile or load, check the
//! imports, link, describe. All that a file can do wrong has its own error here. Never runs a step.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use docket_graph::{Fault, RawModule};
use wasmtime::component::{Component, Linker};

use crate::artifact::ArtifactStore;
use crate::bindings::{RunModulePre, StepModulePre};
use crate::call::{self, Undescribed};
use crate::digest::Digest;
use crate::engine::{CORE_INSTANCES, MEMORIES, TABLES};
use crate::failure::StepFailure;
use crate::import::{Import, classify};
use crate::sandbox::Sandbox;

/// The interface that a module exports, by its name in the component.
const STEP: &str = "docket:step/step@0.1.0";

/// The most exports that are named where that one is missing.
const SHOWN_EXPORTS: usize = 5;

/// Why a file is not a step module that this host can use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadFault {
    /// The directory cannot be listed.
    #[error("cannot read the module directory `{}`: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The results of a step cannot be kept.
    #[error(
        "module `{module}`: step `{step}` cannot keep its results, because the field `{field}` has the group encoding, which has no canonical form; set `persistence = false` for the step"
    )]
    NotKeepable {
        /// The module.
        module: Arc<str>,
        /// The step.
        step: docket_graph::StepName,
        /// The first such field, by its full name.
        field: String,
    },
    /// There is no module at all.
    #[error("no `*.wasm` file below `{}`; build the modules first, or name another directory", path.display())]
    NoModules {
        /// The directory.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("module `{module}` cannot be read: {source}")]
    Read {
        /// The module's file.
        module: Arc<str>,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is something else.
    #[error("module `{module}` is not WebAssembly; remove it, or build it as a component")]
    NotWasm {
        /// The module's file.
        module: Arc<str>,
    },
    /// The file is a core module.
    #[error(
        "module `{module}` is a core WebAssembly module, not a component; \
         build it for `wasm32-wasip2` or wrap it with `wasm-tools component new`"
    )]
    CoreModule {
        /// The module's file.
        module: Arc<str>,
    },
    /// The bytes are no valid component.
    #[error("module `{module}` is damaged, truncated or needs a feature this host lacks: {reason}")]
    Invalid {
        /// The module's file.
        module: Arc<str>,
        /// What the compiler said.
        reason: String,
    },
    /// The component is made of too many parts for one slot of the pool.
    #[error(
        "module `{module}` is made of too many parts: at most {CORE_INSTANCES} core instances, {MEMORIES} memories and {TABLES} tables fit into one instance; {reason}"
    )]
    TooManyParts {
        /// The module's file.
        module: Arc<str>,
        /// What the engine counted.
        reason: String,
    },
    /// The component is not a step module.
    #[error("module `{module}` does not export `{STEP}`: {reason}")]
    NoStepExport {
        /// The module's file.
        module: Arc<str>,
        /// What it exports instead.
        reason: String,
    },
    /// The component has the interface's name and not its types.
    #[error(
        "module `{module}` exports `{STEP}` with other types than that interface has; build it against `wit/step.wit` as it is: {reason}"
    )]
    OtherTypes {
        /// The module's file.
        module: Arc<str>,
        /// Which type differs, and how.
        reason: String,
    },
    /// The component wants something that only a grant gives.
    #[error("module `{module}` imports `{import}`, which needs a grant: {how}")]
    NeedsGrant {
        /// The module's file.
        module: Arc<str>,
        /// The interface.
        import: String,
        /// What the operator can do.
        how: &'static str,
    },
    /// The secrets of steps cannot be used as they are granted.
    #[error("secrets cannot be used: {}", faults.join("; "))]
    Secrets {
        /// What is wrong with which, in words that never hold a value.
        faults: Vec<String>,
    },
    /// The component wants something that nobody can give.
    #[error("module `{module}` imports `{import}`, which this host does not offer")]
    UnknownImport {
        /// The module's file.
        module: Arc<str>,
        /// The interface or function.
        import: String,
    },
    /// The component's imports are known, but not in this form.
    #[error("module `{module}` cannot be linked: {reason}")]
    Link {
        /// The module's file.
        module: Arc<str>,
        /// What the linker said.
        reason: String,
    },
    /// The module did not say what it offers.
    #[error("module `{module}` failed to describe itself: {source}")]
    Describe {
        /// The module's file.
        module: Arc<str>,
        /// How the call ended.
        source: StepFailure,
    },
    /// The engine for steps with a fuel budget cannot be made.
    #[error("the engine that counts instructions cannot be made: {reason}")]
    Engine {
        /// What wasmtime said.
        reason: String,
    },
    /// The declarations are wrong, alone or together.
    #[error("{0}")]
    Graph(Box<Fault>),
}

/// A module as it comes: its name for messages, and the bytes of its file.
#[derive(Clone)]
pub struct ModuleSource {
    name: Arc<str>,
    bytes: Arc<[u8]>,
}

impl ModuleSource {
    /// Returns a module of this name and these bytes.
    pub fn new(name: impl Into<Arc<str>>, bytes: impl Into<Arc<[u8]>>) -> Self {
        Self { name: name.into(), bytes: bytes.into() }
    }

    /// Returns the file.
    pub(crate) fn bytes(&self) -> bytes::Bytes {
        bytes::Bytes::from_owner(Arc::clone(&self.bytes))
    }

    /// Returns every `*.wasm` file below the directory, in the order of the paths below it, which
    /// are also the modules' names.
    ///
    /// # Errors
    /// All files and directories that cannot be read; or that there are none.
    pub fn in_dir(dir: &Path) -> Result<Vec<Self>, Vec<LoadFault>> {
        let mut modules = Vec::new();
        let mut faults = Vec::new();
        for entry in walkdir::WalkDir::new(dir).follow_links(true).sort_by_file_name() {
            match entry {
                Ok(entry) => {
                    let path = entry.path();
                    if !entry.file_type().is_file() || path.extension().is_none_or(|e| e != "wasm") {
                        continue;
                    }
                    match Self::in_file(path, dir) {
                        Ok(module) => modules.push(module),
                        Err(fault) => faults.push(fault),
                    }
                }
                Err(error) => faults.extend(unlisted(error, dir)),
            }
        }
        if modules.is_empty() && faults.is_empty() {
            faults.push(LoadFault::NoModules { path: dir.to_owned() });
        }
        if faults.is_empty() { Ok(modules) } else { Err(faults) }
    }

    /// Returns the module in this file, named by its path below `dir`.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn in_file(path: &Path, dir: &Path) -> Result<Self, LoadFault> {
        let below = path.strip_prefix(dir).ok().filter(|below| !below.as_os_str().is_empty());
        let name = below.or(path.file_name().map(Path::new)).unwrap_or(path);
        let name: Arc<str> = name.to_string_lossy().into();
        match std::fs::read(path) {
            Ok(bytes) => Ok(Self { name, bytes: bytes.into() }),
            Err(source) => Err(LoadFault::Read { module: name, source }),
        }
    }

    /// Returns the name for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the length of the file, in bytes.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// Returns why a directory cannot be listed as a whole; nothing where what is missing would be no module: editors leave
/// links that lead nowhere.
fn unlisted(error: walkdir::Error, dir: &Path) -> Option<LoadFault> {
    let path = error.path().unwrap_or(dir).to_owned();
    let text = error.to_string();
    let source = error.into_io_error().unwrap_or_else(|| std::io::Error::other(text));
    let is_module = path.extension().is_some_and(|extension| extension == "wasm");
    if path == dir || !path.is_symlink() {
        return Some(LoadFault::Directory { path, source });
    }
    let name = path.strip_prefix(dir).unwrap_or(&path).to_string_lossy().into();
    (is_module || source.kind() != std::io::ErrorKind::NotFound)
        .then_some(LoadFault::Read { module: name, source })
}

/// A compiled, linked and described module.
pub(crate) struct Module {
    pub(crate) name: Arc<str>,
    pub(crate) digest: Digest,
    pub(crate) imports: Vec<String>,
    pub(crate) declared: RawModule,
    /// Whether it was asked just now, and not in an earlier run of the host.
    pub(crate) described_now: bool,
    pub(crate) pre: RunModulePre<Sandbox>,
    pub(crate) source: ModuleSource,
}

/// What loading a module needs of its host.
pub(crate) struct Loader<'a> {
    pub(crate) engine: &'a wasmtime::Engine,
    pub(crate) linker: &'a Linker<Sandbox>,
    pub(crate) artifacts: &'a ArtifactStore,
    /// The stack that the engine was made with, in bytes.
    pub(crate) stack: u64,
    /// How long a module may take to describe itself.
    pub(crate) patience: Duration,
    /// Called with the name of a module before it is compiled, which takes a while.
    pub(crate) compiling: &'a (dyn Fn(&str) + Sync),
}

impl Loader<'_> {
    /// Loads one module. Compiling blocks the thread for up to many seconds.
    ///
    /// # Errors
    /// All that is wrong with this module by itself.
    pub(crate) async fn load(&self, source: &ModuleSource) -> Result<Module, Vec<LoadFault>> {
        let name = Arc::clone(&source.name);
        let digest = Digest::of(&source.bytes);
        let component = self.component(source, &digest).map_err(|fault| vec![fault])?;
        let imports = imports(self.engine, &component);
        let faults: Vec<_> = imports.iter().filter_map(|import| unknown(&name, import)).collect();
        if !faults.is_empty() {
            return Err(faults);
        }
        self.described(source, digest, &component, imports).await.map_err(|fault| vec![fault])
    }

    /// Loads a module to be looked at, never to be run: an import that is not there traps when it is called.
    ///
    /// # Errors
    /// As [`Loader::load`], but for the imports.
    pub(crate) async fn load_to_look_at(&self, source: &ModuleSource) -> Result<Module, LoadFault> {
        let digest = Digest::of(&source.bytes);
        let component = self.component(source, &digest)?;
        let mut linker = self.linker.clone();
        linker.define_unknown_imports_as_traps(&component).map_err(|error| LoadFault::Link {
            module: Arc::clone(&source.name),
            reason: call::said(&error),
        })?;
        let imports = imports(self.engine, &component);
        Loader { linker: &linker, ..*self }.described(source, digest, &component, imports).await
    }

    async fn described(
        &self,
        source: &ModuleSource,
        digest: Digest,
        component: &Component,
        imports: Vec<String>,
    ) -> Result<Module, LoadFault> {
        let name = Arc::clone(&source.name);
        let pre = self.link(&name, component)?;
        let (declared, described_now) = match self.artifacts.declared(&digest) {
            Some(declared) => (declared, false),
            None => {
                let described = call::describe(&pre, &digest, self.stack, self.patience).await;
                let fault = |fault| match fault {
                    Undescribed::OtherTypes(reason) => {
                        LoadFault::OtherTypes { module: Arc::clone(&name), reason }
                    }
                    Undescribed::Failed(source) => LoadFault::Describe { module: Arc::clone(&name), source },
                };
                (described.map_err(fault)?, true)
            }
        };
        Ok(Module { name, digest, imports, declared, described_now, pre, source: source.clone() })
    }

    /// Returns the same module for another engine.
    ///
    /// # Errors
    /// As [`Loader::load`]; a module that loads on one engine loads on the other.
    pub(crate) fn reload(&self, module: &Module) -> Result<RunModulePre<Sandbox>, LoadFault> {
        let component = self.component(&module.source, &module.digest)?;
        self.link(&module.name, &component)
    }

    fn component(&self, source: &ModuleSource, digest: &Digest) -> Result<Component, LoadFault> {
        let module = Arc::clone(&source.name);
        // The first eight bytes: magic number, version, layer (0: core module, 1: component).
        match source.bytes.get(..8) {
            Some([0, b'a', b's', b'm', _, _, 1, 0]) => {}
            Some([0, b'a', b's', b'm', _, _, 0, 0]) => return Err(LoadFault::CoreModule { module }),
            _ => return Err(LoadFault::NotWasm { module }),
        }
        if !self.artifacts.knows(self.engine, digest) {
            (self.compiling)(&source.name);
        }
        self.artifacts.component(self.engine, digest, &source.bytes).map_err(|error| {
            let reason = call::said(&error);
            // Wasmtime has no public type for this error; a test holds that the words still match.
            if reason.contains("in the pooling allocator") {
                LoadFault::TooManyParts { module, reason }
            } else {
                LoadFault::Invalid { module, reason }
            }
        })
    }

    fn link(&self, name: &Arc<str>, component: &Component) -> Result<RunModulePre<Sandbox>, LoadFault> {
        let instance = self
            .linker
            .instantiate_pre(component)
            .map_err(|error| LoadFault::Link { module: Arc::clone(name), reason: call::said(&error) })?;
        // All functions must be there, also the one that attempts have no use for.
        let whole = StepModulePre::new(instance).map_err(|error| self.no_step(name, component, &error))?;
        let run = RunModulePre::new(whole.instance_pre().clone());
        run.map_err(|error| self.no_step(name, component, &error))
    }

    /// Returns what is wrong with a component that is no step module.
    fn no_step(&self, name: &Arc<str>, component: &Component, error: &wasmtime::Error) -> LoadFault {
        let module = Arc::clone(name);
        let ty = component.component_type();
        let exports: Vec<_> = ty.exports(self.engine).map(|(name, _)| name).collect();
        let names: Vec<_> =
            exports.iter().take(SHOWN_EXPORTS).map(|name| format!("`{}`", call::name_of(name))).collect();
        let more = if exports.len() > SHOWN_EXPORTS { " and more" } else { "" };
        let reason = match exports.iter().find(|name| name.starts_with("docket:step/step")) {
            Some(other) if *other != STEP => {
                format!(
                    "it exports `{}`, which is another version; build it against `wit/step.wit` of this host",
                    call::name_of(other)
                )
            }
            Some(_) => format!("what it exports by that name is not that interface: {}", call::said(error)),
            None if names.is_empty() => "it exports nothing".to_owned(),
            None => format!("it exports {}{more}", names.join(", ")),
        };
        LoadFault::NoStepExport { module, reason }
    }
}

/// Returns the names of what the component imports, sorted.
fn imports(engine: &wasmtime::Engine, component: &Component) -> Vec<String> {
    let mut imports: Vec<_> =
        component.component_type().imports(engine).map(|(name, _)| name.to_owned()).collect();
    imports.sort();
    imports
}

fn unknown(module: &Arc<str>, import: &str) -> Option<LoadFault> {
    let (module, name) = (Arc::clone(module), call::name_of(import));
    match classify(import) {
        Import::Open | Import::Circumstances | Import::Denied | Import::Config | Import::Http => None,
        Import::Unknown => Some(LoadFault::UnknownImport { module, import: name }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_gives_its_modules_in_the_order_of_their_paths() {
        let dir = tempfile::tempdir().unwrap();
        let missing = ModuleSource::in_dir(&dir.path().join("missing")).err().unwrap();
        assert!(matches!(&missing[..], [LoadFault::Directory { .. }]), "{missing:?}");
        let empty = ModuleSource::in_dir(dir.path()).err().unwrap();
        assert!(matches!(&empty[..], [LoadFault::NoModules { .. }]), "{empty:?}");
        std::fs::create_dir(dir.path().join("deep")).unwrap();
        std::fs::create_dir(dir.path().join("folder.wasm")).unwrap();
        for file in ["b.wasm", "a.wasm", "deep/c.wasm", "a.txt", "wasm"] {
            std::fs::write(dir.path().join(file), file).unwrap();
        }
        let found = ModuleSource::in_dir(dir.path()).unwrap();
        let names: Vec<_> = found.iter().map(ModuleSource::name).collect();
        assert_eq!(names, ["a.wasm", "b.wasm", "deep/c.wasm"]);
        assert_eq!(&*found[2].bytes, b"deep/c.wasm");
    }

    #[test]
    fn a_link_that_leads_nowhere_is_a_fault_only_where_a_module_is_meant() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.wasm"), "a").unwrap();
        let link = |name| std::os::unix::fs::symlink("nowhere", dir.path().join(name)).unwrap();
        link(".#docket.toml");
        assert_eq!(ModuleSource::in_dir(dir.path()).unwrap().len(), 1);
        link("b.wasm");
        let faults = ModuleSource::in_dir(dir.path()).err().unwrap();
        let said: Vec<_> = faults.iter().map(LoadFault::to_string).collect();
        assert_eq!(said, ["module `b.wasm` cannot be read: No such file or directory (os error 2)"]);
    }
}
