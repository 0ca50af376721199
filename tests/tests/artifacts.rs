//! What a host keeps of its modules from one start to the next.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use docket_runtime::{Artifacts, BuildError, Host, HostOptions};
use docket_tests::{execute, fixture, options, profile_request};

/// Starts a host over two modules, makes it work, and returns which modules it compiled.
async fn start(artifacts: Artifacts) -> Vec<String> {
    let compiled = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&compiled);
    let host = Host::builder()
        .options(HostOptions { artifacts, ..options() })
        .module("good.wasm", fixture("good"))
        .module("slow.wasm", fixture("slow_sibling"))
        .on_compile(move |module| tell.lock().unwrap().push(module.to_owned()))
        .build()
        .await
        .unwrap();
    execute(&host, profile_request()).await.result.unwrap();
    drop(host);
    Arc::try_unwrap(compiled).unwrap().into_inner().unwrap()
}

/// Returns the files below the directory whose names end so.
fn files(dir: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, end));
        } else if path.to_string_lossy().ends_with(end) {
            found.push(path);
        }
    }
    found
}

const BOTH: [&str; 2] = ["good.wasm", "slow.wasm"];

#[tokio::test]
async fn a_module_is_compiled_and_described_at_its_first_start_only() {
    let dir = tempfile::tempdir().unwrap();
    let place = || Artifacts::Dir(dir.path().to_owned());
    assert_eq!(start(place()).await, BOTH);
    assert_eq!((files(dir.path(), ".cwasm").len(), files(dir.path(), ".json").len()), (2, 2));
    assert_eq!(start(place()).await, [""; 0]);
    assert_eq!((files(dir.path(), ".seal").len(), files(dir.path(), "key").len()), (4, 1));
    assert_eq!(files(dir.path(), "").len(), 9, "nothing else was written");
    for artifact in files(dir.path(), ".cwasm") {
        fs::remove_file(artifact).unwrap();
    }
    assert_eq!(start(place()).await, BOTH);
}

#[tokio::test]
async fn a_host_starts_over_damaged_files_and_mends_them() {
    let dir = tempfile::tempdir().unwrap();
    let place = || Artifacts::Dir(dir.path().to_owned());
    start(place()).await;
    let mut whole: Vec<_> = files(dir.path(), "")
        .into_iter()
        .filter(|file| !file.ends_with("key"))
        .map(|file| (fs::read(&file).unwrap(), file))
        .collect();
    whole.sort();
    for (bytes, file) in &whole {
        fs::write(file, &bytes[..bytes.len() / 3]).unwrap();
    }
    start(place()).await;
    for (bytes, file) in whole {
        assert!(fs::read(&file).unwrap() == bytes, "{}", file.display());
    }
}

#[tokio::test]
async fn an_artifact_that_was_put_in_the_place_of_another_is_compiled_again() {
    let dir = tempfile::tempdir().unwrap();
    let place = || Artifacts::Dir(dir.path().to_owned());
    start(place()).await;
    let artifacts = files(dir.path(), ".cwasm");
    let [one, other] = &artifacts[..] else { panic!("{artifacts:?}") };
    let good = fs::read(one).unwrap();
    // A sound artifact of a sound module, with its own seal, in the place of another's.
    fs::copy(other, one).unwrap();
    let seal = |file: &PathBuf| file.with_added_extension("seal");
    fs::copy(seal(other), seal(one)).unwrap();
    assert_eq!(start(place()).await, [""; 0], "it is there, so that nothing is announced");
    assert!(fs::read(one).unwrap() == good, "and it is replaced");
}

#[tokio::test]
async fn what_a_module_said_is_asked_for_again_where_that_was_changed_or_was_anothers() {
    let dir = tempfile::tempdir().unwrap();
    let place = || Artifacts::Dir(dir.path().to_owned());
    start(place()).await;
    let declared = files(dir.path(), ".json");
    let [one, other] = &declared[..] else { panic!("{declared:?}") };
    let good = fs::read_to_string(one).unwrap();
    let seal = |file: &PathBuf| file.with_added_extension("seal");
    // Both could be read.
    fs::write(one, good.replacen("Fetch", "Patch", 1)).unwrap();
    start(place()).await;
    assert!(fs::read_to_string(one).unwrap() == good, "it was changed");
    fs::copy(other, one).unwrap();
    fs::copy(seal(other), seal(one)).unwrap();
    start(place()).await;
    assert!(fs::read_to_string(one).unwrap() == good, "it was another's");
}

#[tokio::test]
async fn without_a_place_every_start_compiles() {
    assert_eq!(start(Artifacts::Nowhere).await, BOTH);
    assert_eq!(start(Artifacts::Nowhere).await, BOTH);
}

#[cfg(unix)]
#[tokio::test]
async fn a_host_does_not_start_over_a_directory_that_others_can_write_to() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let artifacts = Artifacts::Dir(dir.path().to_owned());
    let options = HostOptions { artifacts, ..options() };
    let error =
        Host::builder().options(options).module("good.wasm", fixture("good")).build().await.unwrap_err();
    assert!(matches!(error, BuildError::Artifacts(_)), "{error}");
    assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
}
