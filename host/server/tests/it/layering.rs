//! Holds the modules of the crate in reading order, and the streams in one file.

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn a_module_refers_only_to_modules_listed_above_it() {
    let lib = fs::read_to_string(root().join("lib.rs")).unwrap();
    let order: Vec<&str> =
        lib.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';')).collect();
    assert!(order.len() > 10, "{order:?}");
    for (file, module, text) in sources() {
        let Some(position) = order.iter().position(|name| *name == module) else {
            assert!(["lib", "main"].contains(&&*module), "{} is no module of the crate", file.display());
            continue;
        };
        for (i, _) in text.match_indices("crate::") {
            let name: String =
                text[i + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let other = order.iter().position(|module| *module == name);
            let other =
                other.unwrap_or_else(|| panic!("{} refers to `{name}`, which is no module", file.display()));
            assert!(other <= position, "{} refers to `{name}`, which is listed below it", file.display());
        }
    }
}

#[test]
fn only_the_console_writes_to_the_streams_of_the_process() {
    for (file, module, text) in sources() {
        for door in ["io::stdout()", "io::stderr()", "print!", "println!", "eprint"] {
            let allowed = module == "console";
            assert!(allowed || !text.contains(door), "{} uses `{door}`", file.display());
        }
    }
}

/// Each source file with the name of its top module and its text.
fn sources() -> Vec<(PathBuf, String, String)> {
    let mut open = vec![root()];
    let mut found = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let relative = path.strip_prefix(root()).unwrap().with_extension("");
            let module = relative.iter().next().unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, module, text));
        }
    }
    assert!(found.len() > 15);
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}
