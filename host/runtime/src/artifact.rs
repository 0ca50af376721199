//! Owns compiled modules on disk, and what each module declared, by the module's digest. The only
//! file with `unsafe`: wasmtime trusts the artifacts that it maps, so this file decides which.

mod place;
mod seal;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};

use docket_graph::RawModule;
use etcetera::BaseStrategy as _;
use wasmtime::component::Component;

use crate::digest::Digest;
use crate::options::Artifacts;
use place::make_private;
use seal::Sealer;

/// The version of the layout below the directory; a change of what a file holds makes a new one.
const LAYOUT: &str = "v2";

/// Why the directory of artifacts cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// No cache directory is known for this user.
    #[error("no cache directory for compiled modules: `HOME` is not set; name a directory")]
    NoHome,
    /// The directory could not be made or looked at.
    #[error("cannot use `{}` for compiled modules", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else could plant machine code there.
    #[error(
        "`{}` holds machine code, but others may write to it (mode {mode:o}, owner {owner}); \
         use a directory that you own and that only you can write to", path.display()
    )]
    NotPrivate {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The user id of its owner.
        owner: u32,
    },
}

/// Compiled modules by digest. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ArtifactStore {
    /// The directory, and what seals the files in it.
    kept: Option<(PathBuf, Sealer)>,
}

impl ArtifactStore {
    /// Opens the store, and makes its directory for the owner alone.
    pub(crate) fn open(place: &Artifacts) -> Result<Self, ArtifactError> {
        let dir = match place {
            Artifacts::Nowhere => return Ok(Self { kept: None }),
            Artifacts::Dir(dir) => dir.clone(),
            Artifacts::UserCache => etcetera::choose_base_strategy()
                .map_err(|_| ArtifactError::NoHome)?
                .cache_dir()
                .join("docket"),
        };
        let layout = dir.join(LAYOUT);
        // Both: who may write to the outer one can put another in the place of the inner.
        for path in [&dir, &layout] {
            let private =
                make_private(path).map_err(|source| ArtifactError::Io { path: path.clone(), source })?;
            if let Err((mode, owner)) = private {
                return Err(ArtifactError::NotPrivate { path: path.clone(), mode, owner });
            }
        }
        let sealer = Sealer::open(&layout);
        match sealer {
            Ok(sealer) => Ok(Self { kept: Some((layout, sealer)) }),
            Err(source) => Err(ArtifactError::Io { path: layout, source }),
        }
    }

    /// Returns the component, compiled before or now.
    ///
    /// # Errors
    /// What wasmtime says of bytes that are not a component it can run.
    pub(crate) fn component(
        &self,
        engine: &wasmtime::Engine,
        digest: &Digest,
        wasm: &[u8],
    ) -> wasmtime::Result<Component> {
        let (Some(path), Some((_, sealer))) = (self.path(engine, digest), &self.kept) else {
            return Component::new(engine, wasm);
        };
        if path.exists() {
            match load(engine, sealer, &path) {
                Ok(component) => return Ok(component),
                Err(error) => {
                    tracing::warn!(path = %path.display(), "compiling again, the kept artifact does not load: {error:#}")
                }
            }
        }
        let artifact = engine.precompile_component(wasm)?;
        match sealer.write(&path, &artifact) {
            Ok(()) => load(engine, sealer, &path),
            Err(error) => {
                tracing::warn!(path = %path.display(), "compiled, but not kept for the next start: {error}");
                // SAFETY: the bytes are what `precompile_component` of this very engine returned.
                #[expect(unsafe_code, reason = "the artifact was made two lines above")]
                unsafe {
                    Component::deserialize(engine, &artifact)
                }
            }
        }
    }

    /// Returns whether the module is compiled already for this engine.
    pub(crate) fn knows(&self, engine: &wasmtime::Engine, digest: &Digest) -> bool {
        self.path(engine, digest).is_some_and(|path| path.exists())
    }

    /// Returns what the module of this digest said of itself when it was first loaded.
    pub(crate) fn declared(&self, digest: &Digest) -> Option<RawModule> {
        let (dir, sealer) = self.kept.as_ref()?;
        let bytes = sealer.read(&dir.join(format!("{digest}.json"))).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Keeps what the module of this digest said of itself.
    pub(crate) fn keep_declared(&self, digest: &Digest, declared: &RawModule) {
        let Some((dir, sealer)) = &self.kept else { return };
        let kept = serde_json::to_vec(declared)
            .map_err(io::Error::from)
            .and_then(|bytes| sealer.write(&dir.join(format!("{digest}.json")), &bytes));
        if let Err(error) = kept {
            tracing::warn!(%digest, "the module's declaration is not kept for the next start: {error}");
        }
    }

    /// The settings of the engine are part of an artifact, hence of its path.
    fn path(&self, engine: &wasmtime::Engine, digest: &Digest) -> Option<PathBuf> {
        let mut settings = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut settings);
        let dir = self.kept.as_ref()?.0.join(format!("{:016x}", settings.finish()));
        Some(dir.join(format!("{digest}.cwasm")))
    }
}

#[expect(unsafe_code, reason = "mapping an artifact is what this file is for")]
fn load(engine: &wasmtime::Engine, sealer: &Sealer, path: &Path) -> wasmtime::Result<Component> {
    sealer.read(path)?;
    // SAFETY: the file lies in a directory that only this user can write to (checked when the store
    // was opened) and was put there whole, by rename, from the output of `precompile_component`: its
    // seal, which was looked at just now, says so. Wasmtime itself refuses an artifact of another
    // version or of other settings.
    unsafe { Component::deserialize_file(engine, path) }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use std::fs;

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused_by_name() {
        for (inner, mode) in [("", 0o777), ("", 0o775), ("", 0o702), ("v2", 0o777), ("v2", 0o720)] {
            let dir = tempfile::tempdir().unwrap();
            let open = || ArtifactStore::open(&Artifacts::Dir(dir.path().to_owned()));
            open().unwrap();
            let loose = if inner.is_empty() { dir.path().to_owned() } else { dir.path().join(inner) };
            set_mode(&loose, mode);
            let error = open().unwrap_err().to_string();
            let words = format!(
                "`{}` holds machine code, but others may write to it (mode {mode:o},",
                loose.display()
            );
            assert!(error.starts_with(&words), "{error}");
            set_mode(&loose, 0o755);
            open().unwrap();
        }
    }

    #[test]
    fn what_is_no_directory_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = ArtifactStore::open(&Artifacts::Dir(file.path().to_owned())).unwrap_err().to_string();
        assert_eq!(error, format!("cannot use `{}` for compiled modules", file.path().display()));
    }

    /// A store in a new directory, with one component compiled into it.
    struct Compiled {
        dir: tempfile::TempDir,
        engine: wasmtime::Engine,
        store: ArtifactStore,
        wasm: Vec<u8>,
        digest: Digest,
    }

    fn compiled() -> Compiled {
        let dir = tempfile::tempdir().unwrap();
        let store = ArtifactStore::open(&Artifacts::Dir(dir.path().join("deep/er"))).unwrap();
        let wasm = wat::parse_str("(component (core module (func (export \"f\"))))").unwrap();
        let (engine, digest) = (wasmtime::Engine::default(), Digest::of(&wasm));
        assert!(!store.knows(&engine, &digest));
        store.component(&engine, &digest, &wasm).unwrap();
        assert!(store.knows(&engine, &digest));
        Compiled { dir, engine, store, wasm, digest }
    }

    #[test]
    fn everything_is_made_for_the_owner_alone() {
        let Compiled { dir, engine, store, digest, .. } = compiled();
        let file = store.path(&engine, &digest).unwrap();
        assert_eq!(mode_of(&file), 0o600);
        for made in file.ancestors().skip(1).take_while(|made| *made != dir.path()) {
            assert_eq!(mode_of(made), 0o700, "{}", made.display());
        }
    }

    #[test]
    fn a_damaged_artifact_is_compiled_again_and_replaced() {
        let Compiled { dir: _dir, engine, store, wasm, digest } = compiled();
        let file = store.path(&engine, &digest).unwrap();
        let whole = fs::read(&file).unwrap();
        for damaged in [&b""[..], b"not an artifact", &whole[..whole.len() / 2], &whole[..100]] {
            fs::write(&file, damaged).unwrap();
            store.component(&engine, &digest, &wasm).unwrap();
            assert!(fs::read(&file).unwrap() == whole, "{} bytes were left", damaged.len());
        }
        let left = fs::read_dir(file.parent().unwrap()).unwrap().count();
        assert_eq!(left, 2, "no unfinished file is left beside it and its seal");
    }

    #[test]
    fn a_module_that_is_known_is_not_compiled() {
        let Compiled { dir: _dir, engine, store, digest, .. } = compiled();
        // These bytes cannot be compiled; that they need not be shows that the artifact was used.
        assert!(store.component(&engine, &digest, b"no wasm").is_ok());
        let other = wasmtime::Engine::new(wasmtime::Config::new().epoch_interruption(true)).unwrap();
        assert!(!store.knows(&other, &digest), "an engine of other settings has other artifacts");
        assert!(store.component(&other, &digest, b"no wasm").is_err());
    }

    #[test]
    fn a_declaration_is_kept_and_a_damaged_one_is_none() {
        let Compiled { dir: _dir, store, digest, .. } = compiled();
        assert!(store.declared(&digest).is_none());
        store.keep_declared(&digest, &RawModule { steps: Vec::new(), descriptors: vec![1, 2, 3] });
        assert_eq!(store.declared(&digest).unwrap().descriptors, [1, 2, 3]);
        let file = store.kept.as_ref().unwrap().0.join(format!("{digest}.json"));
        fs::write(file, "{\"steps\":[").unwrap();
        assert!(store.declared(&digest).is_none());
    }

    #[test]
    fn nowhere_keeps_nothing() {
        let store = ArtifactStore::open(&Artifacts::Nowhere).unwrap();
        let wasm = wat::parse_str("(component)").unwrap();
        let (engine, digest) = (wasmtime::Engine::default(), Digest::of(&wasm));
        store.component(&engine, &digest, &wasm).unwrap();
        store.keep_declared(&digest, &RawModule { steps: Vec::new(), descriptors: Vec::new() });
        assert!(!store.knows(&engine, &digest));
        assert!(store.declared(&digest).is_none());
        assert!(store.component(&engine, &digest, b"no wasm").is_err());
    }
}
