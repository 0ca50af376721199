//! Components that no compiler made: real ones with bytes changed, sections cut, doubled and swapped, and
//! monsters written by hand. Each loads or is refused by name, in bounded time, and the host goes on.
//!
//! The engine has no coverage counters when components are fuzzed, because a second engine takes longer to build than
//! it would run; these tests change whole components blindly, and more of them with `DOCKET_TORTURE=1`.

#![expect(clippy::disallowed_methods, reason = "tests measure time, and are told by the environment")]

use std::time::{Duration, Instant};

use docket_runtime::{Artifacts, BuildError, ExecutionError, Host, HostOptions, StepFailure, StepOptions};
use docket_tests::{execute, fixture, options, profile_request};

/// No component of a size that is tried here takes as long: `describe` alone may take 10 s.
const PATIENCE: Duration = Duration::from_secs(20);

/// Numbers that are the same in every run of one seed (SplitMix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// Returns where the sections of a component are, headers included: each is an id and a length in LEB128.
fn sections(component: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    let mut at = 8;
    while at < component.len() {
        let (mut length, mut shift, mut body) = (0_usize, 0, at + 1);
        while let Some(byte) = component.get(body).copied().filter(|_| shift < 35) {
            length |= usize::from(byte & 0x7f) << shift;
            (shift, body) = (shift + 7, body + 1);
            if byte & 0x80 == 0 {
                break;
            }
        }
        found.push(at..(body + length).min(component.len()));
        at = body + length;
    }
    found
}

/// Returns the component with one to three things wrong.
fn changed(component: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = component.to_vec();
    for _ in 0..=chance.below(3) {
        let sections = sections(&bytes);
        let at = chance.below(bytes.len());
        match chance.below(8) {
            0 => bytes[at] ^= 1 << chance.below(8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][chance.below(5)],
            // Most bytes are code; what a component is made of is in its other sections.
            2 | 3 => {
                let small: Vec<_> = sections.iter().filter(|section| section.len() < 4_096).collect();
                if let Some(section) = small.get(chance.below(small.len().max(1))) {
                    let at = section.start + chance.below(section.len());
                    bytes[at] = bytes[at].wrapping_add([1, 0xff, 0x40, 0x80][chance.below(4)]);
                }
            }
            4 => bytes.truncate(at.max(8)),
            5 if !sections.is_empty() => {
                bytes.drain(sections[chance.below(sections.len())].clone());
            }
            6 if !sections.is_empty() => {
                let section = bytes[sections[chance.below(sections.len())].clone()].to_vec();
                let place = sections[chance.below(sections.len())].start;
                bytes.splice(place..place, section);
            }
            _ => {
                let piece = bytes[at..(at + 1 + chance.below(64)).min(bytes.len())].to_vec();
                let place = chance.below(bytes.len());
                bytes.splice(place..place, piece);
            }
        }
    }
    bytes
}

fn short() -> HostOptions {
    let timeout = Some(Duration::from_millis(200));
    let defaults = StepOptions { timeout, memory: Some(32 << 20), ..StepOptions::default() };
    HostOptions { defaults, artifacts: Artifacts::Nowhere, max_instances: 2, ..options() }
}

/// What became of a component.
#[derive(Debug, PartialEq)]
enum Became {
    Refused(String),
    Ran,
}

/// Loads a component, and runs its step if it has one that it takes.
async fn tried(name: &str, component: Vec<u8>) -> Became {
    let began = Instant::now();
    let built = Host::builder().options(short()).module("strange.wasm", component).build();
    let host = match tokio::time::timeout(PATIENCE, built).await.expect("it loads in bounded time") {
        Ok(host) => host,
        Err(BuildError::Load(errors)) => {
            assert!(began.elapsed() < PATIENCE, "{name}: {:?}", began.elapsed());
            assert!(!errors.0.is_empty(), "{name}");
            assert!(
                errors.0.iter().all(|fault| fault.to_string().contains("strange.wasm")),
                "{name}: {errors}"
            );
            return Became::Refused(errors.to_string());
        }
        Err(other) => panic!("{name}: {other}"),
    };
    if let Ok(outcome) = host.execute(profile_request()).await {
        let internal =
            matches!(&outcome.result, Err(ExecutionError::Failed { source: StepFailure::Internal(_), .. }));
        assert!(!internal, "{name}: {outcome:?}");
    }
    Became::Ran
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_with_anything_changed_runs_or_is_refused_by_name() {
    let times = if std::env::var_os("DOCKET_TORTURE").is_some() { 5_000 } else { 60 };
    let good = fixture("good");
    assert_eq!(tried("good", good.clone()).await, Became::Ran);
    assert!(sections(&good).len() > 10);
    let mut ran = 0;
    for seed in 0..times {
        let name = format!("seed {seed}");
        ran += usize::from(tried(&name, changed(&good, &mut Chance(seed))).await == Became::Ran);
    }
    println!("{ran} of {times} ran all the same");
    assert!(ran > 0 && (ran as u64) < times / 2, "{ran} of {times} ran");
}

/// Returns a component around a core module of this text.
fn around(core: &str) -> String {
    format!("(component (core module {core}))")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_monster_is_refused_by_name() {
    let functions =
        (0..20_000).map(|i| format!("(func (param i32) (result i32) local.get 0 i32.const {i} i32.add)"));
    let nested =
        |open: &str, times: usize, inner: &str| format!("{}{inner}{}", open.repeat(times), ")".repeat(times));
    let exports = |name: &str, item: &str| format!("(component {item} (export \"{name}\" (instance $it)))");
    let instance = "(component $c) (instance $it (instantiate $c))";
    let odd = r#"(component $c
        (core module $m (func (export "f") (result i32) i32.const 0) (memory (export "m") 1))
        (core instance $i (instantiate $m))
        (func $f (result u32) (canon lift (core func $i "f")))
        (export "describe" (func $f)) (export "run" (func $f)))
        (instance $it (instantiate $c))"#;
    let step = "docket:step/step@0.1.0";
    let cases = [
        ("20,000 functions", around(&functions.collect::<String>()), "does not export"),
        ("components in components", nested("(component ", 40, ""), "does not export"),
        (
            "deep blocks",
            around(&format!("(func {} {})", "block ".repeat(5_000), "end ".repeat(5_000))),
            "does not export",
        ),
        (
            "a deep type",
            format!(
                "(component (type u8) {})",
                (0..2_000).map(|i| format!("(type (list {i}))")).collect::<String>()
            ),
            "",
        ),
        ("a huge memory", around("(memory 65536 65536)"), ""),
        ("a huge table", around("(table 4000000000 funcref)"), ""),
        ("many memories", around(&"(memory 1)".repeat(90)), ""),
        ("an empty step", exports(step, instance), "does not export"),
        (
            "a step of other types",
            exports(step, odd),
            "with other types than that interface has; build it against `wit/step.wit` as it is: ",
        ),
        ("a step of another version", exports("docket:step/step@0.2.0", odd), "does not export"),
        (
            "a function in the place of the step",
            "(component (core module $m (func (export \"f\"))) (core instance $i (instantiate $m)) \
             (func $f (canon lift (core func $i \"f\"))) (export \"run\" (func $f)))"
                .to_owned(),
            "does not export",
        ),
        (
            "a resource",
            "(component (type $r (resource (rep i32))) (export \"r\" (type $r)))".to_owned(),
            "does not export",
        ),
        (
            "a name that would drive a terminal",
            "(component (type (record (field \"\\1b[2J\" u8))))".to_owned(),
            "record field name `\\u{1b}[2J` is not in kebab case",
        ),
        (
            "an import that would drive a terminal",
            "(component (import \"url=<https://a/\\1b[2J>\" (func)))".to_owned(),
            "\\u{1b}[2J",
        ),
        (
            "many imports",
            format!(
                "(component {})",
                (0..900).map(|i| format!("(import \"a:b/c{i}\" (func))")).collect::<String>()
            ),
            "imports `a:b/c0`",
        ),
    ];
    for (name, text, words) in cases {
        let component = wat::parse_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let began = Instant::now();
        match tried(name, component).await {
            Became::Refused(said) => {
                println!("{name}: {:.1?}: {}", began.elapsed(), &said[..said.len().min(200)]);
                assert!(said.contains(words), "{name}: {said}");
                assert!(!said.replace('\n', "").contains(char::is_control), "{name}: {said:?}");
                assert!(said.len() < 200_000, "{name}: {} bytes of words", said.len());
            }
            Became::Ran => panic!("{name} ran"),
        }
    }
    let good = Host::builder().options(short()).module("good.wasm", fixture("good")).build().await;
    execute(&good.unwrap_or_else(|error| panic!("{error}")), profile_request())
        .await
        .result
        .map(drop)
        .unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_that_declares_a_hundred_thousand_steps_is_refused_before_the_host_copies_them() {
    match tried("many", fixture("describe_many_steps")).await {
        Became::Refused(said) => assert_eq!(
            said,
            "module `strange.wasm` failed to describe itself: answered with more than its limit of 16777216 bytes"
        ),
        Became::Ran => panic!("it ran"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_without_bytes_count_towards_the_limit_of_an_answer() {
    for (limit, refused) in [(1 << 20, true), (64 << 20, false)] {
        let mut options = short();
        options.defaults.output = Some(limit);
        options.defaults.timeout = Some(Duration::from_secs(10));
        let host = Host::builder().options(options).module("empty.wasm", fixture("return_many_empty"));
        let host = host.build().await.unwrap_or_else(|error| panic!("{error}"));
        let began = Instant::now();
        let outcome = execute(&host, profile_request()).await;
        println!("{limit}: {:.1?}: {:?}", began.elapsed(), outcome.result.as_ref().err());
        match outcome.result {
            Ok(value) => assert!(!refused && value.payloads().len() == 1_000_000),
            Err(ExecutionError::Failed { source: StepFailure::Output { .. }, .. }) => assert!(refused),
            Err(other) => panic!("{other}"),
        }
    }
}
