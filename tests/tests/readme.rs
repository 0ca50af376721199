//! Holds the rest of the root README to its word: the first step builds and runs, the configuration
//! is accepted, the lines that embed a host work. Its commands are run by `examples`.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::error::Error;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use docket_runtime::{Drained, Host, Request};
use docket_tests::example::{EnrichedUser, UserId};
use docket_tests::{repository, target_dir};

/// The files of a first step, each after a line that names it.
const FILES: [&str; 4] = ["Cargo.toml", "build.rs", "proto/hello.proto", "src/lib.rs"];

#[test]
fn the_first_step_builds_from_its_four_files_and_runs() {
    let readme = read("README.md");
    let section = section(&readme, "## Write your first step");
    let folder = target_dir().join("first-step");
    for file in FILES {
        let text = block(section, &format!("\n`{file}`"));
        let path = folder.join(file);
        std::fs::create_dir_all(path.parent().expect("a file lies in a folder")).unwrap();
        std::fs::write(path, placed(file, text)).unwrap();
    }
    // The versions that the workspace has, so that nothing is fetched.
    std::fs::copy(repository().join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();

    let output = shell(&folder, block(section, "\nBuild it,"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = section.split_once("```json\n").expect("its output is shown").1;
    let expected = expected.split_once("```").expect("a block ends").0;
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

#[test]
fn the_sdks_readme_shows_the_same_first_step() {
    let (ours, sdks) = (read("README.md"), read("guest-sdk/rust/README.md"));
    for file in FILES {
        let place = format!("\n`{file}`");
        assert_eq!(block(&ours, &place), block(&sdks, &place), "{file}");
    }
}

#[test]
fn every_key_that_the_readme_lists_is_accepted() {
    let readme = read("README.md");
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("docket.toml");
    std::fs::write(&config, block(&readme, "\n## docket.toml")).unwrap();
    let command = format!("docket-host validate --module-dir guests --config '{}'", config.display());
    let output = shell(repository(), &command);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn the_lines_that_embed_a_host_are_these() -> Result<(), Box<dyn Error>> {
    std::env::set_current_dir(repository())?;
    let options = docket_tests::options();
    let host = Host::builder().module_dir("guests").options(options).build().await?;
    let request = Request::for_message::<EnrichedUser>()
        .input(&UserId { id: "user-123".into() })
        .timeout(Duration::from_secs(2));
    let outcome = host.execute(request).await?;
    let user: EnrichedUser = outcome.message()?;
    let drained = host.shutdown(Duration::from_secs(5)).await;

    assert_eq!(user.profile.unwrap_or_default().name, "Alice");
    assert_eq!(drained, Drained::Complete);
    let (readme, this) = (read("README.md"), include_str!("readme.rs"));
    for line in block(&readme, "\n## Embed it").lines() {
        assert!(this.contains(&format!("\n    {line}\n")), "{line}");
    }
    Ok(())
}

fn read(file: &str) -> String {
    std::fs::read_to_string(repository().join(file)).unwrap()
}

fn section<'t>(text: &'t str, heading: &str) -> &'t str {
    let start = text.find(heading).expect("the section is there");
    let rest = &text[start + heading.len()..];
    &rest[..rest.find("\n## ").unwrap_or(rest.len())]
}

/// Returns the first code block after a place.
fn block<'t>(text: &'t str, place: &str) -> &'t str {
    let start = text.find(place).unwrap_or_else(|| panic!("no {place:?}"));
    let fenced = text[start..].split_once("\n```").expect("a block follows").1;
    let (_, code) = fenced.split_once('\n').expect("a block has lines");
    code.split_once("```").expect("a block ends").0
}

/// A user's folder lies beside the repository; ours lies in it, where cargo would take it for a
/// member of the workspace.
fn placed(file: &str, text: &str) -> String {
    match file {
        "Cargo.toml" => {
            let repository = repository().to_string_lossy();
            format!("{}\n[workspace]\n", text.replace("../docket", &repository))
        }
        _ => text.to_owned(),
    }
}

fn shell(folder: &Path, script: &str) -> Output {
    let programs = target_dir().join("release");
    assert!(programs.join("docket-host").exists(), "run `cargo build --release -p docket-host` first");
    Command::new("sh")
        .args(["-e", "-c"])
        .arg(format!("PATH=\"{}:$PATH\"\n{script}", programs.display()))
        .current_dir(folder)
        .env_remove("CARGO_TARGET_DIR")
        .env("CARGO_NET_OFFLINE", "true")
        .env("DOCKET_ARTIFACT_DIR", target_dir().join("test-artifacts"))
        .output()
        .unwrap()
}
