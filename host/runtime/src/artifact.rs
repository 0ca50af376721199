//! Owns compiled modules on disk, and what each module declared, by the module's digest. The only
//! file with `unsafe`: wasmtime trusts the artifacts that it maps, so this file decides which.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use docket_graph::RawModule;
use etcetera::BaseStrategy as _;
use wasmtime::component::Component;

use crate::digest::Digest;
use crate::options::Artifacts;

/// The version of the layout below the directory; a change of what a file holds makes a new one.
const LAYOUT: &str = "v1";

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
    dir: Option<PathBuf>,
}

impl ArtifactStore {
    /// Opens the store, and makes its directory for the owner alone.
    pub(crate) fn open(place: &Artifacts) -> Result<Self, ArtifactError> {
        let dir = match place {
            Artifacts::Nowhere => return Ok(Self { dir: None }),
            Artifacts::Dir(dir) => dir.clone(),
            Artifacts::UserCache => etcetera::choose_base_strategy()
                .map_err(|_| ArtifactError::NoHome)?
                .cache_dir()
                .join("docket"),
        };
        let dir = dir.join(LAYOUT);
        let private = make_private(&dir).map_err(|source| ArtifactError::Io { path: dir.clone(), source })?;
        if let Err((mode, owner)) = private {
            return Err(ArtifactError::NotPrivate { path: dir, mode, owner });
        }
        Ok(Self { dir: Some(dir) })
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
        let Some(path) = self.path(engine, digest) else { return Component::new(engine, wasm) };
        if path.exists() {
            match load(engine, &path) {
                Ok(component) => return Ok(component),
                Err(error) => {
                    tracing::warn!(path = %path.display(), "compiling again, the kept artifact does not load: {error:#}")
                }
            }
        }
        let artifact = engine.precompile_component(wasm)?;
        match write_whole(&path, &artifact) {
            Ok(()) => load(engine, &path),
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
        let bytes = fs::read(self.dir.as_ref()?.join(format!("{digest}.json"))).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Keeps what the module of this digest said of itself.
    pub(crate) fn keep_declared(&self, digest: &Digest, declared: &RawModule) {
        let Some(dir) = &self.dir else { return };
        let kept = serde_json::to_vec(declared)
            .map_err(io::Error::from)
            .and_then(|bytes| write_whole(&dir.join(format!("{digest}.json")), &bytes));
        if let Err(error) = kept {
            tracing::warn!(%digest, "the module's declaration is not kept for the next start: {error}");
        }
    }

    /// The settings of the engine are part of an artifact, hence of its path.
    fn path(&self, engine: &wasmtime::Engine, digest: &Digest) -> Option<PathBuf> {
        let mut settings = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut settings);
        let dir = self.dir.as_ref()?.join(format!("{:016x}", settings.finish()));
        Some(dir.join(format!("{digest}.cwasm")))
    }
}

#[expect(unsafe_code, reason = "mapping an artifact is what this file is for")]
fn load(engine: &wasmtime::Engine, path: &Path) -> wasmtime::Result<Component> {
    // SAFETY: the file lies in a directory that only this user can write to (checked when the store
    // was opened) and was put there whole, by rename, from the output of `precompile_component`.
    // Wasmtime itself refuses an artifact of another version or of other settings.
    unsafe { Component::deserialize_file(engine, path) }
}

/// Returns `Ok(Ok)` for a directory that this user alone can write to, after making it where it
/// did not exist; `Ok(Err)` with mode and owner for any other.
#[cfg(unix)]
fn make_private(dir: &Path) -> io::Result<Result<(), (u32, u32)>> {
    use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let found = fs::metadata(dir)?;
    let me = fs::metadata("/proc/self").map_or(found.uid(), |process| process.uid());
    let (mode, owner) = (found.mode() & 0o777, found.uid());
    Ok(if mode & 0o022 != 0 || owner != me { Err((mode, owner)) } else { Ok(()) })
}

#[cfg(not(unix))]
fn make_private(dir: &Path) -> io::Result<Result<(), (u32, u32)>> {
    fs::create_dir_all(dir).map(Ok)
}

/// Writes the file so that whoever opens it finds all of it, or nothing.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().expect("artifacts lie in a directory");
    fs::create_dir_all(dir)?;
    let name = path.file_name().expect("artifacts have names").to_string_lossy();
    let unfinished = dir.join(format!(".{name}.{}", uuid::Uuid::now_v7().simple()));
    let written = File::create_new(&unfinished)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        // The first error is the one to report; a file that could not be made need not be removed.
        let _ = fs::remove_file(&unfinished);
    }
    written
}
