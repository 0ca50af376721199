//! Holds the order of the modules in the host's crates, and that each door stands in one file.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::fs;
use std::path::{Path, PathBuf};

use docket_tests::repository;

const CRATES: [&str; 4] = ["graph", "store", "runtime", "server"];

/// What stands in one file of a crate, if at all: the words for it, and those files.
const DOORS: [(&str, &[&str], &[&str]); 3] = [
    (
        "reads time",
        &["SystemTime::now", "Instant::now", "tokio::time::", "thread::sleep"],
        &["runtime/src/clock.rs", "store/src/clock.rs"],
    ),
    ("calls guests", &["call_run(", "call_describe("], &["runtime/src/call.rs"]),
    (
        "is unsafe",
        &["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"],
        &["runtime/src/artifact.rs", "store/src/sled/safety.rs"],
    ),
];

#[test]
fn a_module_refers_only_to_modules_listed_above_it() {
    let faults: Vec<_> = CRATES.iter().flat_map(|name| order_faults(&crate_dir(name))).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn each_door_stands_in_one_file() {
    for (what, words, door) in DOORS {
        let sources: Vec<_> = CRATES.iter().flat_map(|name| sources(&crate_dir(name))).collect();
        let all = sources.iter().filter(|source| words.iter().any(|word| source.code.contains(word)));
        let mut files: Vec<_> =
            all.map(|source| source.path.strip_prefix(repository().join("host")).unwrap()).collect();
        files.sort();
        let door: Vec<_> = door.iter().map(Path::new).collect();
        assert_eq!(files, door, "what {what} stands in one file of a crate");
    }
}

/// Returns each reference to a module that is listed below the one that refers.
fn order_faults(dir: &Path) -> Vec<String> {
    let lib = fs::read_to_string(dir.join("src/lib.rs")).unwrap();
    let order: Vec<&str> =
        lib.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';')).collect();
    assert!(order.len() > 10, "{order:?}");
    let mut faults = Vec::new();
    for source in sources(dir) {
        let Some(position) = order.iter().position(|name| *name == source.module) else {
            assert!(["lib", "main"].contains(&&*source.module), "{} is no module", source.path.display());
            continue;
        };
        for name in source.references() {
            match order.iter().position(|module| *module == name) {
                Some(other) if other <= position => {}
                Some(_) => {
                    faults.push(format!("{} refers to `{name}`, listed below it", source.path.display()))
                }
                None => {
                    faults.push(format!("{} refers to `{name}`, which is no module", source.path.display()))
                }
            }
        }
    }
    faults
}

/// A source file: its top module, and its text without comments and unit tests.
struct Source {
    path: PathBuf,
    module: String,
    code: String,
}

impl Source {
    /// Returns the names that follow `crate::`, and in a top module `super::`, which is the same there.
    fn references(&self) -> Vec<String> {
        let is_top = self.path.parent().unwrap().ends_with("src");
        let from_super = self.code.match_indices("super::").filter(|_| is_top);
        let starts = self.code.match_indices("crate::").chain(from_super);
        let names = starts.filter(|(at, _)| !self.code[..*at].ends_with(['_', ':']));
        names.map(|(at, prefix)| identifier(&self.code[at + prefix.len()..])).collect()
    }
}

/// Returns the leading identifier; for anything else, such as `{…}`, the rest of the line.
fn identifier(text: &str) -> String {
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    if name.is_empty() { text.lines().next().unwrap_or_default().to_owned() } else { name }
}

fn sources(dir: &Path) -> Vec<Source> {
    let root = dir.join("src");
    let mut open = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(&root).unwrap().with_extension("");
                let module = relative.iter().next().unwrap().to_string_lossy().into_owned();
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("\nmod tests {").next().unwrap().lines();
                let code = code.map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n");
                found.push(Source { path, module, code });
            }
        }
    }
    found
}

fn crate_dir(name: &str) -> PathBuf {
    repository().join("host").join(name)
}
