//! Owns what is known of a loaded module, and how far the answers of its steps depend on anything but
//! their inputs. Never decides what is linked: it says what was.

use std::sync::Arc;

use crate::digest::Digest;
use crate::grants::Grants;
use crate::import::{Import, classify};
use crate::options::Instance;

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
