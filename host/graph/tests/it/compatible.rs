//! Which types of a field two modules may use for one message.

use docket_graph::prost_reflect::prost::Message;
use docket_graph::prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use docket_graph::prost_reflect::prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto,
    FileDescriptorProto, FileDescriptorSet,
};
use docket_graph::{Fault, Graph, RawModule};

use crate::support::raw_step;

/// Types in one list read each other's bytes; types of two lists do not.
const ALIKE: [&[Type]; 9] = [
    &[Type::Int32, Type::Int64, Type::Uint32, Type::Uint64, Type::Bool, Type::Enum],
    &[Type::Sint32, Type::Sint64],
    &[Type::Fixed32, Type::Sfixed32],
    &[Type::Fixed64, Type::Sfixed64],
    &[Type::Float],
    &[Type::Double],
    &[Type::String, Type::Bytes],
    &[Type::Message],
    &[Type::Group],
];

/// The faults between two modules that define `t.M` with a field of each type.
fn faults(one: (Type, Label), other: (Type, Label)) -> Vec<Fault> {
    let modules = [module("A", "t.M -> t.M#a", one), module("B", "t.M -> t.M#b", other)];
    let graph = Graph::read([("a", &modules[0]), ("b", &modules[1])]);
    graph.map_or_else(docket_graph::GraphErrors::into_faults, |_| Vec::new())
}

fn module(step: &str, signature: &str, (ty, label): (Type, Label)) -> RawModule {
    let named = match ty {
        Type::Message | Type::Group => Some(".t.M.Value".to_owned()),
        Type::Enum => Some(".t.E".to_owned()),
        _ => None,
    };
    let field = |name: &str, number, ty: Type, label: Label, named| FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        r#type: Some(ty.into()),
        label: Some(label.into()),
        type_name: named,
        ..Default::default()
    };
    let value = DescriptorProto { name: Some("Value".into()), ..Default::default() };
    let itself = field("again", 2, Type::Message, Label::Optional, Some(".t.M".to_owned()));
    let message = DescriptorProto {
        name: Some("M".into()),
        field: vec![field("value", 1, ty, label, named), itself],
        nested_type: vec![value],
        ..Default::default()
    };
    let zero = EnumValueDescriptorProto { name: Some("ZERO".into()), number: Some(0), ..Default::default() };
    let file = FileDescriptorProto {
        name: Some("m.proto".into()),
        package: Some("t".into()),
        message_type: vec![message],
        enum_type: vec![EnumDescriptorProto {
            name: Some("E".into()),
            value: vec![zero],
            ..Default::default()
        }],
        ..Default::default()
    };
    RawModule {
        steps: vec![raw_step(step, signature)],
        descriptors: FileDescriptorSet { file: vec![file] }.encode_to_vec(),
    }
}

#[test]
fn types_are_alike_exactly_as_protobuf_says_of_updating_a_message() {
    for (i, one) in ALIKE.iter().enumerate().flat_map(|(i, group)| group.iter().map(move |ty| (i, *ty))) {
        for (j, other) in ALIKE.iter().enumerate().flat_map(|(j, group)| group.iter().map(move |ty| (j, *ty)))
        {
            let found = faults((one, Label::Optional), (other, Label::Optional));
            assert_eq!(found.is_empty(), i == j, "{one:?} and {other:?}: {found:?}");
        }
    }
}

#[test]
fn one_and_many_of_a_type_differ() {
    let found = faults((Type::Int32, Label::Optional), (Type::Int32, Label::Repeated));
    let [Fault::Incompatible { message, field: 1, difference, .. }] = &found[..] else { panic!("{found:?}") };
    assert_eq!(
        (&**message, difference.as_str()),
        ("t.M", "`int32` in the first and `repeated int32` in the second")
    );
}
