//! Descriptors that are small and would be large once tables are made of them, or take for ever to be compared.

use std::time::{Duration, Instant};

use docket_graph::prost_reflect::prost::Message;
use docket_graph::prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use docket_graph::prost_reflect::prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
};
use docket_graph::{Fault, Graph, RawModule};

use crate::support::raw_step;

/// Longer than any of these may take, on a machine with other work.
const PATIENCE: Duration = Duration::from_secs(20);

/// A message `t.mN` with a field of each number, which holds the message of the number beside it.
fn message(name: usize, fields: impl IntoIterator<Item = (i32, usize)>) -> DescriptorProto {
    let field = |(number, inner): (i32, usize)| FieldDescriptorProto {
        name: Some(format!("f{number}")),
        number: Some(number),
        r#type: Some(Type::Message.into()),
        label: Some(Label::Optional.into()),
        type_name: Some(format!(".t.m{inner}")),
        ..Default::default()
    };
    DescriptorProto {
        name: Some(format!("m{name}")),
        field: fields.into_iter().map(field).collect(),
        ..Default::default()
    }
}

fn module(signatures: &[(String, String)], messages: Vec<DescriptorProto>) -> RawModule {
    let file = FileDescriptorProto {
        name: Some("m.proto".into()),
        package: Some("t".into()),
        syntax: Some("proto3".into()),
        message_type: messages,
        ..Default::default()
    };
    RawModule {
        steps: signatures.iter().map(|(name, signature)| raw_step(name, signature)).collect(),
        descriptors: FileDescriptorSet { file: vec![file] }.encode_to_vec(),
    }
}

#[expect(clippy::disallowed_methods, reason = "a test's own patience")]
fn faults(modules: &[(&str, &RawModule)]) -> Vec<Fault> {
    let began = Instant::now();
    let graph = Graph::read(modules.iter().copied());
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    graph.map_or_else(docket_graph::GraphErrors::into_faults, |_| Vec::new())
}

/// A chain of messages, each with one field of this number; the steps take the first ones and give each back.
fn chain(length: usize, number: i32, steps: usize) -> RawModule {
    let messages = (0..length).map(|n| message(n, [(number, (n + 1) % length)])).collect();
    let step = |n: usize| (format!("S{n}"), format!("t.m{n} -> t.m{n}#made"));
    module(&(0..steps).map(step).collect::<Vec<_>>(), messages)
}

#[test]
fn messages_whose_tables_would_be_giants_are_refused_before_they_are_made() {
    // One field of number 63 has a table of 64 places, each of which is far longer than what is declared.
    let told = faults(&[("giant.wasm", &chain(40_000, 63, 1))]);
    assert_eq!(told.len(), 1, "{told:?}");
    let expected = "step `S0` of module `giant.wasm` names `t.m0`, with which the messages of the module's steps come to \
                    more than 2097152 fields, those of the messages inside counted with each; use smaller messages, or \
                    spread the steps over several modules";
    assert_eq!(told[0].to_string(), expected);
    // Not so large by itself, and as often as there are steps.
    let told = faults(&[("many.wasm", &chain(2_000, 1, 500))]);
    assert!(matches!(&told[..], [Fault::TooManyFields { .. }]), "{told:?}");
    assert_eq!(faults(&[("good.wasm", &chain(2_000, 1, 50))]), []);
}

#[test]
fn definitions_that_pair_every_message_with_every_other_are_not_compared_for_ever() {
    // Two rings of coprime lengths: going round both meets every pair.
    let ring = |length: usize, step: &str, label: &str| {
        let messages = (0..length).map(|n| message(n, [(1, (n + 1) % length)])).collect();
        module(&[(step.to_owned(), format!("t.m0 -> t.m0#{label}"))], messages)
    };
    let (one, other) = (ring(4_001, "A", "a"), ring(4_003, "B", "b"));
    let told = faults(&[("a.wasm", &one), ("b.wasm", &other)]);
    assert!(matches!(&told[..], [Fault::Incomparable { .. }]), "{told:?}");
    let words = "hold one another's messages in more than 131072 ways, so they cannot be compared";
    assert!(told[0].to_string().contains(words), "{}", told[0]);
    assert_eq!(faults(&[("a.wasm", &one), ("b.wasm", &ring(4_001, "B", "b"))]), []);
    assert_eq!(faults(&[("a.wasm", &ring(101, "A", "a")), ("b.wasm", &ring(103, "B", "b"))]), []);
}
