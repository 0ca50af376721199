//! What is depended on, against `deny.toml`: licences, what is banned, where crates come from, and no crate
//! twice without a reason. The same answers as `make deny`, from what is there; known weaknesses are
//! `make advisories`.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use docket_tests::repository;
use spdx::{Expression, Licensee, ParseMode};
use toml::Table;

/// A crate that is needed to build Docket or a guest.
struct Package {
    name: String,
    version: String,
    licence: String,
    /// None for our own.
    source: Option<String>,
}

impl Package {
    fn spec(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }
}

/// Returns `deny.toml`.
fn policy() -> Table {
    fs::read_to_string(repository().join("deny.toml")).unwrap().parse().unwrap()
}

fn texts(list: &toml::Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// Returns what is needed on the platforms of `deny.toml`, as it is locked. As in cargo-deny, what only tests
/// need counts for nothing. Cargo fetches what only other platforms than this one need, where that is not there.
fn packages() -> Vec<Package> {
    let lock: Table = fs::read_to_string(repository().join("Cargo.lock")).unwrap().parse().unwrap();
    let source =
        |package: &toml::Value| package.get("source").map(|source| source.as_str().unwrap().to_owned());
    let locked = lock["package"].as_array().unwrap().iter();
    let sources: BTreeMap<(&str, &str), Option<String>> =
        locked.map(|package| ((text(package, "name"), text(package, "version")), source(package))).collect();
    let mut tree = Command::new(env!("CARGO"));
    tree.args(["tree", "--locked", "--workspace", "--edges", "normal,build", "--prefix", "none"])
        .args(["--format", "{p}|{l}"])
        .current_dir(repository());
    for target in texts(&policy()["graph"]["targets"]) {
        tree.args(["--target", &target]);
    }
    let output = tree.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // `name v1.2.3 (more)|licence`
    let package = |line: &str| {
        let (package, licence) = line.split_once('|')?;
        let mut words = package.split(' ');
        let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
        let source = sources.get(&(name, version)).unwrap_or_else(|| panic!("{line} is locked")).clone();
        Some(Package {
            name: name.to_owned(),
            version: version.to_owned(),
            licence: licence.to_owned(),
            source,
        })
    };
    let lines = str::from_utf8(&output.stdout).unwrap().lines().map(|line| line.trim_end_matches(" (*)"));
    let packages: Vec<_> = lines.collect::<BTreeSet<_>>().into_iter().filter_map(package).collect();
    assert!(packages.len() > 200, "{} packages", packages.len());
    packages
}

fn check(faults: &[String]) {
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn every_crate_has_a_licence_that_is_allowed() {
    let allowed: Vec<Licensee> =
        texts(&policy()["licenses"]["allow"]).iter().map(|text| Licensee::parse(text).unwrap()).collect();
    let fault = |package: &Package| {
        let Ok(expression) = Expression::parse_mode(&package.licence, ParseMode::LAX) else {
            return Some(format!("{}: `{}` is no licence", package.spec(), package.licence));
        };
        let fits = expression.evaluate(|wanted| allowed.iter().any(|licence| licence.satisfies(wanted)));
        (!fits).then(|| format!("{}: `{}` is not allowed", package.spec(), package.licence))
    };
    check(&packages().iter().filter_map(fault).collect::<Vec<_>>());
}

#[test]
fn every_crate_comes_from_the_registry_and_none_is_banned() {
    let registry: Vec<String> =
        texts(&policy()["sources"]["allow-registry"]).iter().map(|url| format!("registry+{url}")).collect();
    let bans = policy()["bans"].clone();
    let banned: BTreeMap<&str, &str> = bans["deny"]
        .as_array()
        .unwrap()
        .iter()
        .map(|ban| (text(ban, "crate"), text(ban, "reason")))
        .collect();
    let mut faults = Vec::new();
    for package in packages() {
        if package.source.as_ref().is_some_and(|source| !registry.contains(source)) {
            faults.push(format!("{} comes from {:?}", package.spec(), package.source));
        }
        if let Some(reason) = banned.get(package.name.as_str()) {
            faults.push(format!("{} is banned: {reason}", package.spec()));
        }
    }
    check(&faults);
}

#[test]
fn no_crate_is_there_twice_without_a_reason_and_no_reason_without_its_crate() {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages() {
        versions.entry(package.name.clone()).or_default().insert(package.spec());
    }
    let bans = policy()["bans"].clone();
    let skipped: BTreeSet<&str> = bans["skip"]
        .as_array()
        .unwrap()
        .iter()
        .map(|skip| (text(skip, "crate"), text(skip, "reason")).0)
        .collect();
    let mut faults = Vec::new();
    for (name, specs) in &versions {
        let left: Vec<_> = specs.iter().filter(|spec| !skipped.contains(spec.as_str())).collect();
        if left.len() > 1 {
            faults.push(format!("`{name}` is there as {left:?}"));
        }
    }
    let twice: BTreeSet<&str> =
        versions.values().filter(|specs| specs.len() > 1).flatten().map(String::as_str).collect();
    faults.extend(skipped.difference(&twice).map(|spec| format!("`{spec}` needs no `skip` any more")));
    check(&faults);
}

/// Cargo is asked, because it alone knows. On a machine that has never built them it fetches what only they need.
#[test]
fn the_fuzz_targets_have_all_that_they_need_in_their_lock_file() {
    let mut metadata = Command::new(env!("CARGO"));
    metadata.args(["metadata", "--locked", "--format-version", "1", "--manifest-path", "fuzz/Cargo.toml"]);
    let output = metadata.current_dir(repository()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "run `cargo metadata` in fuzz/ without `--locked`, and look: {said}");
}

/// Returns a text that an entry has to have.
fn text<'a>(entry: &'a toml::Value, key: &str) -> &'a str {
    entry.get(key).and_then(toml::Value::as_str).unwrap_or_else(|| panic!("{entry} needs `{key}`"))
}
