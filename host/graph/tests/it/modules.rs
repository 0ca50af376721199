//! What a module says of itself: what is refused, and what is kept on disk.

use docket_graph::{
    DefaultError, Fault, Graph, Growth, ModuleDecl, RawBackoff, RawModule, RawPersistence, RawPolicy,
    RawRetry, Scope, default_input, default_target,
};
use proptest::prelude::*;

use crate::support::{descriptors, port, raw_module};

fn with_policy(policy: RawPolicy) -> RawModule {
    let mut raw = raw_module(&[("S", "t.Text -> t.Number")]);
    raw.steps[0].policy = policy;
    raw
}

fn retry(max_attempts: u32, growth: Growth, factor: f64) -> RawPolicy {
    let backoff = RawBackoff { growth, initial_ms: 1, factor, max_ms: None };
    RawPolicy {
        retry: Some(RawRetry { max_attempts, backoff: Some(backoff), jitter: true }),
        ..Default::default()
    }
}

fn texts(faults: Vec<Fault>) -> Vec<String> {
    faults.iter().map(ToString::to_string).collect()
}

#[test]
fn a_policy_that_cannot_be_meant_is_refused() {
    for (policy, named) in [
        (RawPolicy { timeout_ms: Some(0), ..Default::default() }, "`timeout-ms` is 0"),
        (RawPolicy { max_concurrency: Some(0), ..Default::default() }, "`max-concurrency` is 0"),
        (retry(0, Growth::Fixed, 1.0), "`max-attempts` is 0"),
        (retry(1, Growth::Exponential, f64::NAN), "`factor` is NaN"),
        (retry(1, Growth::Exponential, f64::INFINITY), "`factor` is inf"),
        (retry(1, Growth::Exponential, 0.99), "`factor` is 0.99"),
    ] {
        let faults = texts(ModuleDecl::parse("m.wasm", &with_policy(policy)).unwrap_err());
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].starts_with("step `S` of module `m.wasm` declares a bad policy: "), "{faults:?}");
        assert!(faults[0].contains(named), "{faults:?}");
    }
}

#[test]
fn a_growth_that_ignores_the_factor_takes_any() {
    let raw = with_policy(retry(2, Growth::Linear, 0.0));
    assert!(ModuleDecl::parse("m.wasm", &raw).is_ok());
}

#[test]
fn every_fault_of_a_module_is_found_at_once() {
    let mut raw = raw_module(&[
        ("", "t.Text -> t.Number"),
        ("S", "t.X, .t, t.Text#a#b -> t.Number"),
        ("S", "-> t.Text"),
    ]);
    raw.steps[1].policy = RawPolicy { timeout_ms: Some(0), ..Default::default() };
    let faults = texts(ModuleDecl::parse("m.wasm", &raw).unwrap_err());
    assert_eq!(faults.len(), 6, "{faults:#?}");
    raw.descriptors = vec![0xff; 3];
    raw.steps.clear();
    let faults = ModuleDecl::parse("m.wasm", &raw).unwrap_err();
    assert!(matches!(faults[..], [Fault::NoSteps { .. }, Fault::BadDescriptors { .. }]), "{faults:?}");
}

#[test]
fn descriptors_without_an_import_are_incomplete() {
    let mut raw = raw_module(&[("S", "t.Text -> t.Number")]);
    // A set of one file that imports another: field 1 is the file, its field 1 the name, 3 the import.
    raw.descriptors = b"\x0a\x09\x0a\x01a\x1a\x01b\x1a\x01c".to_vec();
    let faults = ModuleDecl::parse("m.wasm", &raw).unwrap_err();
    assert!(matches!(faults[..], [Fault::BadDescriptors { .. }]), "{faults:?}");
}

#[test]
fn files_that_import_each_other_are_refused_or_read_but_never_looped_over() {
    let mut raw = raw_module(&[("S", "-> a.M")]);
    let file = |name: &[u8; 1], import: &[u8; 1]| {
        let (name, import) = ([b"\x0a\x01", &name[..]].concat(), [b"\x1a\x01", &import[..]].concat());
        [&b"\x0a\x0e"[..], &name, b"\x12\x01a", &import, b"\x22\x03\x0a\x01"].concat()
    };
    raw.descriptors = [file(b"x", b"y"), b"M".to_vec(), file(b"y", b"x"), b"N".to_vec()].concat();
    let _ = Graph::read([("m", &raw)]).map_err(|errors| errors.to_string());
}

#[test]
fn a_hostile_name_is_shown_harmless_and_short() {
    let name = format!("\u{1b}[2J{}", "x".repeat(1 << 16));
    let faults = texts(ModuleDecl::parse("m.wasm", &raw_module(&[(&name, "-> t.Text")])).unwrap_err());
    assert!(faults[0].len() < 400 && !faults[0].contains('\u{1b}'), "{faults:?}");
}

#[test]
fn a_raw_module_survives_the_disk() {
    let mut raw = raw_module(&[("S", "t.Text#clean, t.Number[] -> t.Number")]);
    raw.steps[0].version = Some("1".into());
    raw.steps[0].policy = RawPolicy {
        timeout_ms: Some(u64::MAX),
        persistence: Some(RawPersistence { scope: Scope::Workflow, ttl_ms: Some(5) }),
        max_concurrency: Some(3),
        ..retry(3, Growth::Exponential, 1.5)
    };
    let text = serde_json::to_string(&raw).unwrap();
    assert_eq!(serde_json::from_str::<RawModule>(&text).unwrap(), raw);
    assert!(text.contains("\"descriptors\":\"0a"), "not an array of numbers: {text}");
    assert!(serde_json::from_str::<RawModule>(r#"{"steps":[],"descriptors":"0g"}"#).is_err());
    assert!(serde_json::from_str::<RawModule>(r#"{"steps":[],"descriptors":"0"}"#).is_err());
    raw.steps[0].policy = retry(1, Growth::Fixed, f64::NAN);
    let back: RawModule = serde_json::from_str(&serde_json::to_string(&raw).unwrap()).unwrap();
    assert!(back.steps[0].policy.retry.as_ref().unwrap().backoff.as_ref().unwrap().factor.is_nan());
}

#[test]
fn a_leaf_has_the_message_type_of_the_consumer_that_knows_most_of_it() {
    let step = |name, signature, proto: &str| {
        let mut raw = raw_module(&[(name, signature)]);
        raw.descriptors = descriptors(&format!("proto/{proto}"));
        raw
    };
    let modules = [
        ("a", step("A", "t.UserID -> t.UserID#a", "users.proto")),
        ("b", step("B", "t.UserID -> t.UserID#b", "users-changed.proto")),
    ];
    let graph = Graph::read(modules.iter().map(|(name, raw)| (*name, raw))).unwrap();
    let fields = |text| graph.message(graph.find_port(&port(text)).unwrap()).fields().len();
    assert_eq!([fields("t.UserID"), fields("t.UserID#a"), fields("t.UserID#b")], [2, 1, 2]);
}

#[test]
fn what_may_be_left_out_is_found_or_its_choices_are_named() {
    let graph = |steps: &[(&str, &str)]| Graph::read([("m", &raw_module(steps))]).unwrap();
    let one = graph(&[("A", "t.Text -> t.Number"), ("B", "t.Number -> t.Number#b")]);
    let target = default_target(&one).unwrap();
    assert_eq!(target.to_string(), "t.Number#b");
    assert_eq!(default_input(&one, target).unwrap().to_string(), "t.Text");
    assert_eq!(default_input(&one, &port("t.Text")).unwrap().to_string(), "t.Text");
    let two = graph(&[("A", "t.Text, t.Scalars -> t.Number"), ("B", "-> t.Text#b")]);
    let error = default_target(&two).unwrap_err();
    assert_eq!(error.to_string(), "the graph has 2 final outputs, so name one: `t.Number`, `t.Text#b`");
    let error = default_input(&two, &port("t.Number")).unwrap_err();
    assert_eq!(error.to_string(), "`t.Number` needs 2 inputs, so name each: `t.Scalars`, `t.Text`");
    assert_eq!(default_input(&two, &port("t.Text#b")).unwrap_err().to_string(), "`t.Text#b` needs no input");
    assert!(matches!(
        default_input(&two, &port("t.Nmber")),
        Err(DefaultError::UnknownTarget { nearest: Some(_), .. })
    ));
}

#[test]
fn no_descriptors_make_the_parser_panic() {
    let raw = raw_module(&[("S", "t.Everything -> t.Number")]);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3_000) };
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6);
    proptest!(config, |(changes in changes)| {
        let mut raw = raw.clone();
        for (position, byte) in changes {
            let position = position.index(raw.descriptors.len());
            raw.descriptors[position] = byte;
        }
        if let Ok(graph) = Graph::read([("m", &raw)]) {
            graph.ports().for_each(|(port, _)| drop(graph.schema(port).check(b"\x0a\x00")));
        }
    });
}
