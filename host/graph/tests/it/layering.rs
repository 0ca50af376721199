//! Holds the crate pure and its modules in reading order.

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
    for (file, _, text) in sources() {
        for outside in OUTSIDE {
            assert!(!text.contains(outside), "{} names `{outside}`", file.display());
        }
    }
}

#[test]
fn a_module_refers_only_to_modules_listed_above_it() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let order: Vec<&str> =
        lib.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';')).collect();
    assert!(order.len() > 10, "{order:?}");
    for (file, module, text) in sources() {
        if module == "lib" {
            continue;
        }
        let position = order.iter().position(|name| *name == module).unwrap();
        let is_top = file.parent().unwrap().ends_with("src");
        for (i, _) in text.match_indices("crate::").chain(text.match_indices("super::").filter(|_| is_top)) {
            let name: String =
                text[i + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            // `super::*` in a module's own tests, and a crate that is named `…_crate::`.
            if name.is_empty() || text[..i].ends_with('_') {
                continue;
            }
            let Some(other) = order.iter().position(|module| *module == name) else {
                panic!("{} refers to `{name}`, which is no module; name the module", file.display());
            };
            assert!(other <= position, "{} refers to `{name}`, which is listed below it", file.display());
        }
    }
}

/// Each source file with the name of its top module and its text.
fn sources() -> Vec<(PathBuf, String, String)> {
    let mut open = vec![root().join("src")];
    let mut found = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let relative = path.strip_prefix(root().join("src")).unwrap().with_extension("");
            let module = relative.iter().next().unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, module, text));
        }
    }
    assert!(found.len() > 15);
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
