//! Holds the streams of the process in one file. The order of modules is held for all crates at once.

use std::fs;
use std::path::{Path, PathBuf};

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
