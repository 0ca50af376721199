//! Builds modules and graphs for tests.

use std::path::Path;

use docket_graph::prost_reflect::{DescriptorPool, prost::Message};
use docket_graph::{
    Arity, Graph, GraphErrors, ModuleDecl, Port, PortDecl, RawModule, RawPolicy, RawPort, RawStep,
};
use docket_graph::{Policy, StepDecl, StepName};

/// Returns the descriptors of a file below `tests/`, which may import those of the repository.
pub(crate) fn descriptors(file: &str) -> Vec<u8> {
    let graph = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (tests, shared) = (graph.join("tests"), graph.join("../../proto"));
    protox::compile([tests.join(file)], [tests, shared]).unwrap().encode_to_vec()
}

pub(crate) fn pool() -> DescriptorPool {
    DescriptorPool::decode(descriptors("proto/everything.proto").as_slice()).unwrap()
}

pub(crate) fn port(text: &str) -> Port {
    Port::parse(text).unwrap()
}

/// A step from `in, in[] -> out`, where `[]` is arity many.
pub(crate) fn raw_step(name: &str, signature: &str) -> RawStep {
    let (inputs, output) = signature.split_once("->").unwrap();
    let inputs = inputs.split(',').map(str::trim).filter(|text| !text.is_empty());
    RawStep {
        name: name.to_owned(),
        version: None,
        inputs: inputs.map(raw_port).collect(),
        output: raw_port(output.trim()),
        policy: RawPolicy::default(),
    }
}

fn raw_port(text: &str) -> RawPort {
    let (text, arity) = match text.strip_suffix("[]") {
        Some(text) => (text, Arity::Many),
        None => (text, Arity::One),
    };
    let (message, label) = match text.split_once('#') {
        Some((message, label)) => (message, Some(label.to_owned())),
        None => (text, None),
    };
    RawPort { message: message.to_owned(), label, arity }
}

/// One module over `proto/everything.proto`.
pub(crate) fn raw_module(steps: &[(&str, &str)]) -> RawModule {
    RawModule {
        steps: steps.iter().map(|(name, signature)| raw_step(name, signature)).collect(),
        descriptors: descriptors("proto/everything.proto"),
    }
}

/// A graph of numbered nodes: each entry lists what the node at its position takes.
pub(crate) fn numbered(nodes: &[Vec<usize>], pool: &DescriptorPool) -> Result<Graph, GraphErrors> {
    let one = |node: &usize| PortDecl { port: node_port(*node), arity: Arity::One };
    let steps = nodes.iter().enumerate().map(|(node, takes)| StepDecl {
        name: StepName::parse(&format!("s{node:05}")).unwrap(),
        version: None,
        inputs: takes.iter().map(one).collect(),
        output: one(&node),
        policy: Policy::default(),
    });
    Graph::infer(vec![ModuleDecl { name: "m".into(), steps: steps.collect(), descriptors: pool.clone() }])
}

pub(crate) fn node_port(node: usize) -> Port {
    Port::new("t.Text", Some(&format!("p{node}"))).unwrap()
}

/// Returns the fewest bytes of a number.
pub(crate) fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}
