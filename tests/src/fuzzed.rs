//! What fuzzing calls: each function takes any bytes and panics only where Docket breaks a promise. The
//! targets of `fuzz/` and the test that runs their kept files share it. Never makes up inputs.

#[path = "../../host/graph/tests/it/same.rs"]
mod same;

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use docket_graph::prost_reflect::prost::Message as _;
use docket_graph::prost_reflect::prost_types::{DescriptorProto, FileDescriptorSet};
use docket_graph::prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use docket_graph::{
    Arity, Format, Graph, ModuleDecl, Plan, Port, RawModule, RawPolicy, RawPort, RawStep, Schema, WireReason,
    render,
};
use docket_runtime::{Artifacts, HostOptions, Inspector, LoadErrors, ModuleSource, Value};

use same::same;

/// Takes any bytes.
pub type Target = fn(&[u8]);

/// All targets by their names, which are also those of their folders below `fuzz/corpus`.
pub const TARGETS: [(&str, Target); 5] = [
    ("descriptors", descriptors),
    ("canonical", canonical),
    ("docket_toml", docket_toml),
    ("json_input", json_input),
    ("component", component),
];

/// What [`component`] gives a module to describe itself: good ones need less than a hundredth.
const PATIENCE: Duration = Duration::from_millis(200);

/// How much of the memory of the component by hand is chosen.
pub const CHOSEN: usize = 2048;

/// The most messages of one descriptor set that get a step: a graph is tried, not a load.
const MOST_STEPS: usize = 12;

/// Reads the bytes as the descriptor sets of two modules, joins steps over all messages in them, and does
/// with the graph whatever can be done with one. The first two bytes are the length of the first set.
pub fn descriptors(bytes: &[u8]) {
    let (first, second) = halves(bytes);
    let modules = [raw_module("A", first), raw_module("B", second)];
    for module in &modules {
        if let Err(faults) = ModuleDecl::parse("one.wasm", module) {
            assert!(!faults.is_empty(), "refused without a reason");
        }
    }
    let both = modules.iter().filter(|module| !module.steps.is_empty()).map(|module| ("m.wasm", module));
    let graph = match Graph::read(both) {
        Ok(graph) => graph,
        Err(errors) => {
            assert!(
                !errors.faults().is_empty() && !errors.to_string().is_empty(),
                "refused without a reason"
            );
            return;
        }
    };
    for format in [Format::Tree, Format::Json, Format::Dot, Format::Mermaid, Format::Svg] {
        let _ = render(&graph, format);
    }
    for (id, port) in graph.ports() {
        assert_eq!(graph.schema(id).message(), port.message());
        assert!(graph.schema(id).check(&[]).is_ok(), "no bytes are every message");
        let leaves: Vec<Port> = graph.leaves().iter().map(|leaf| graph.port(*leaf).clone()).collect();
        if let Err(errors) = Plan::of(&graph, port, &leaves) {
            assert!(!errors.faults().is_empty(), "refused without a reason");
        }
    }
}

/// Returns a module whose steps form a chain over the messages of the set; one step, where it is none.
fn raw_module(prefix: &str, descriptors: &[u8]) -> RawModule {
    let mut names = Vec::new();
    if let Ok(set) = FileDescriptorSet::decode(descriptors) {
        for file in &set.file {
            let package = file.package.as_deref().unwrap_or_default();
            file.message_type.iter().for_each(|message| collect(package, message, &mut names));
        }
    }
    let port = |message: &str, label: Option<String>| RawPort {
        message: message.to_owned(),
        label,
        arity: Arity::One,
    };
    let step = |(i, name): (usize, &String)| RawStep {
        name: format!("{prefix}{i}"),
        version: None,
        inputs: names[..i]
            .last()
            .map(|before| port(before, Some(format!("{prefix}{}", i - 1))))
            .into_iter()
            .chain([port(&names[0], None)])
            .collect(),
        output: port(name, Some(format!("{prefix}{i}"))),
        policy: RawPolicy::default(),
    };
    RawModule { steps: names.iter().enumerate().map(step).collect(), descriptors: descriptors.to_vec() }
}

fn collect(scope: &str, message: &DescriptorProto, names: &mut Vec<String>) {
    let own = message.name.as_deref().unwrap_or_default();
    let name = if scope.is_empty() { own.to_owned() } else { format!("{scope}.{own}") };
    if names.len() < MOST_STEPS {
        names.push(name.clone());
    }
    message.nested_type.iter().for_each(|inner| collect(&name, inner, names));
}

/// Takes the canonical form of bytes that may be a message. The first byte chooses the message type; with
/// the highest it comes along, as a descriptor set behind two bytes of length.
pub fn canonical(bytes: &[u8]) {
    let Some((choice, rest)) = bytes.split_first() else { return };
    match known().get(usize::from(*choice)) {
        Some((message, schema)) => form(message, schema, rest),
        None => {
            let (set, rest) = halves(rest);
            let Ok(module) = ModuleDecl::parse("one.wasm", &raw_module("A", set)) else { return };
            if let Some(message) = module.descriptors.all_messages().next() {
                form(&message, &Schema::of(&message), rest);
            }
        }
    }
}

fn form(message: &MessageDescriptor, schema: &Schema, bytes: &[u8]) {
    let canonical = match (schema.canonical(bytes), schema.check(bytes)) {
        (Ok(canonical), Ok(())) => canonical,
        (Err(fault), _) if fault.reason == WireReason::GroupField => return,
        (found, checked) => {
            assert!(checked.is_err(), "the check takes what has no canonical form");
            assert_eq!(found.err(), checked.err(), "both give one reason");
            return;
        }
    };
    assert_eq!(schema.is_canonical(bytes), Ok(*canonical == *bytes));
    assert_eq!(schema.canonical(&canonical).as_deref(), Ok(&*canonical), "the form has itself as its form");
    let decoded = |bytes: &[u8]| DynamicMessage::decode(message.clone(), bytes);
    match (decoded(bytes), decoded(&canonical)) {
        (Ok(before), Ok(after)) => assert!(same(&before, &after), "another message came of it"),
        (before, after) => panic!("what passed the check cannot be decoded: {before:?} {after:?}"),
    }
}

/// Reads a `docket.toml`: what is refused is refused in words that cannot drive a terminal.
pub fn docket_toml(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Err(words) = docket_host::read_config(text) {
        assert!(words.contains("docket.toml"), "the file is named: {words}");
        let drives = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
        assert!(!words.contains(drives), "{words:?} would drive a terminal");
    }
}

/// Reads JSON for a message, the type of which the first byte chooses, and shows it again: what is shown
/// reads as the same message.
pub fn json_input(bytes: &[u8]) {
    let Some((choice, text)) = bytes.split_first() else { return };
    let Ok(text) = str::from_utf8(text) else { return };
    let (message, schema) = &known()[usize::from(*choice) % known().len()];
    let port = Port::parse(message.full_name()).expect("the name of a message is a port");
    let value = match docket_host::read_json(text, &port, Arity::Many, message) {
        Ok(value) => value,
        Err(words) => return assert!(words.contains(message.full_name()), "the port is named: {words}"),
    };
    for payload in value.payloads() {
        schema.check(payload.bytes()).expect("what was read is a message");
        // Not every message has a JSON: a date may be out of its range.
        let Ok(shown) = docket_host::show_json(payload, message) else { continue };
        let again = match docket_host::read_json(&shown, &port, Arity::One, message) {
            Ok(again) => again,
            Err(words) => panic!("{shown} was shown and cannot be read: {words}"),
        };
        let Value::One(again) = &again else { panic!("{shown} became a list") };
        let form = |bytes| schema.canonical(bytes).map(|form| form.into_owned());
        assert_eq!(form(again.bytes()), form(payload.bytes()), "{shown} reads as another message");
    }
}

/// Loads a component and asks it what it offers. After an even first byte the component is the rest; after an odd
/// one the rest is what lies in the memory of one by hand, where its answer begins.
pub fn component(bytes: &[u8]) {
    static LOADING: OnceLock<(tokio::runtime::Runtime, Inspector)> = OnceLock::new();
    let (runtime, inspector) = LOADING.get_or_init(|| {
        let options =
            HostOptions { artifacts: Artifacts::Nowhere, max_instances: 2, ..HostOptions::default() };
        let inspector = Inspector::new(&options).unwrap_or_else(|error| panic!("{error}")).patience(PATIENCE);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        (runtime.expect("this machine has a clock"), inspector)
    });
    let Some((choice, rest)) = bytes.split_first() else { return };
    let component = if choice % 2 == 0 { rest.to_vec() } else { answering(rest) };
    match runtime.block_on(inspector.inspect(&ModuleSource::new("one.wasm", component))) {
        Ok(inspection) => assert!(inspection.graph.steps().len() > 0, "a module without a step was taken"),
        Err(LoadErrors(faults)) => {
            assert!(!faults.is_empty(), "refused without a reason");
            for words in faults.iter().map(ToString::to_string) {
                assert!(words.contains("`one.wasm`"), "the module is named: {words}");
                let drives = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
                assert!(!words.contains(drives), "{words:?} would drive a terminal");
            }
        }
    }
}

/// A component by hand, in whose memory [`CHOSEN`] bytes of 0xa5 lie from the start: its answer to `describe`.
pub const ANSWERING: &[u8] = include_bytes!("../../fuzz/answering.component");

/// Returns that component with these bytes in their place.
fn answering(memory: &[u8]) -> Vec<u8> {
    let mark = [0xa5; CHOSEN];
    let place = ANSWERING.windows(CHOSEN).position(|part| part == mark).expect("the mark stands in it");
    let mut component = ANSWERING.to_vec();
    component[place..place + CHOSEN].fill(0);
    let length = memory.len().min(CHOSEN);
    component[place..place + length].copy_from_slice(&memory[..length]);
    component
}

/// Splits the bytes by the length in the first two.
fn halves(bytes: &[u8]) -> (&[u8], &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk() else { return (bytes, &[]) };
    rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()))
}

/// Message types of every kind: all field types, both syntaxes, maps of all keys, recursion, groups, and
/// those that have a JSON of their own.
fn known() -> &'static [(MessageDescriptor, Schema)] {
    static KNOWN: OnceLock<Vec<(MessageDescriptor, Schema)>> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let (tests, shared) = (root.join("host/graph/tests/proto"), root.join("proto"));
        let files = ["canonical.proto", "canonical2.proto", "everything.proto", "old.proto"];
        let set = protox::compile(files.map(|file| tests.join(file)), [&tests, &shared])
            .expect("our own files compile");
        let own = DescriptorPool::from_file_descriptor_set(set).expect("compiled files make a pool");
        let names = ["c.Tree", "c.Maps", "c2.Old", "t.Everything", "old.Old", "c.Lists", "c2.Above"];
        let own = names.map(|name| own.get_message_by_name(name).expect(name));
        let common = ["Struct", "Value", "Timestamp", "Duration", "FieldMask", "Any", "FileDescriptorProto"];
        let find = |name| DescriptorPool::global().get_message_by_name(&format!("google.protobuf.{name}"));
        let common = common.map(|name| find(name).expect("everybody has it"));
        own.into_iter().chain(common).map(|message| (message.clone(), Schema::of(&message))).collect()
    })
}
