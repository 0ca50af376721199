//! Runs every command that a README shows and compares what it prints. Owns no expectation: those
//! stand in the READMEs. `TRYCMD=overwrite` writes down what the program says now.

use std::path::{Path, PathBuf};
use std::process::Command;

use docket_tests::{repository, target_dir};
use trycmd::TestCases;

/// Its README is proved by its own test, which talks HTTP.
const NOT_A_COMMAND: &str = "embedding";

/// One test and not one per example, because the folder that a command runs in is this process's.
#[test]
fn every_command_in_a_readme_prints_what_the_readme_says() {
    let examples = examples();
    assert!(examples.len() >= 8, "examples are missing: {examples:?}");
    for example in examples {
        check(&example, &example);
    }
    check(repository(), &repository().join("guests"));
}

/// Runs the commands of the README in a folder, there, over modules that are already compiled.
fn check(folder: &Path, modules: &Path) {
    warm_up(modules);
    std::env::set_current_dir(folder).expect("the folder has a README");
    TestCases::new()
        .register_bin("docket-host", docket_host().as_path())
        .env("DOCKET_ARTIFACT_DIR", artifacts().to_string_lossy())
        .case("README.md")
        .run();
}

/// Compiles the modules, so that no command says that it does.
fn warm_up(modules: &Path) {
    let output = Command::new(docket_host())
        .args(["validate", "--module-dir"])
        .arg(modules)
        .arg("--artifact-dir")
        .arg(artifacts())
        .output()
        .expect("docket-host starts");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {complaint}; run `make modules` first", modules.display());
}

fn examples() -> Vec<PathBuf> {
    let folders = repository().join("examples").read_dir().expect("examples/ is there");
    let mut examples: Vec<_> = folders
        .map(|folder| folder.expect("examples/ can be read").path())
        .filter(|path| path.is_dir() && !path.ends_with(NOT_A_COMMAND))
        .collect();
    examples.sort();
    examples
}

fn artifacts() -> PathBuf {
    target_dir().join("test-artifacts")
}

fn docket_host() -> PathBuf {
    let path = target_dir().join("release/docket-host");
    assert!(path.exists(), "no {}; run `cargo build --release -p docket-host` first", path.display());
    path
}
