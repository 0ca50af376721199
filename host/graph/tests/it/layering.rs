//! Holds the crate pure. The order of its modules is held for all crates at once, in the package docket-tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// All that may be linked into the crate: no executor, engine, clock or I/O.
const ALLOWED: [&str; 7] =
    ["layout-rs", "prost-reflect", "serde", "serde_json", "strsim", "termtree", "thiserror"];

/// Paths of the standard library that reach outside of the process, or tell time.
const OUTSIDE: [&str; 8] =
    ["std::fs", "std::net", "std::process", "std::env", "std::io", "std::thread", "SystemTime", "Instant"];

#[test]
fn the_crate_depends_on_nothing_that_is_not_allowed() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let tables: Vec<&str> = manifest.lines().filter(|line| line.starts_with('[')).collect();
    let known = ["[package]", "[lints]", "[dependencies]", "[dev-dependencies]", "[[bench]]"];
    assert!(tables.iter().all(|table| known.contains(table)), "{tables:?}");
    let normal = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let names: BTreeSet<&str> = normal
        .lines()
        .filter_map(|line| line.split([' ', '=', '.']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .collect();
    assert_eq!(names, BTreeSet::from(ALLOWED));
}

#[test]
fn no_module_reaches_outside_of_the_process() {
    for (file, text) in sources() {
        for outside in OUTSIDE {
            assert!(!text.contains(outside), "{} names `{outside}`", file.display());
        }
    }
}

/// Each source file with its text.
fn sources() -> Vec<(PathBuf, String)> {
    let mut open = vec![root().join("src")];
    let mut found = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    assert!(found.len() > 15);
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
