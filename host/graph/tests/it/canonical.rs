//! The canonical form: vectors that must never change, and what holds for all messages.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use docket_graph::prost_reflect::prost::Message;
use docket_graph::prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use docket_graph::prost_reflect::prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, OneofDescriptorProto,
};
use docket_graph::prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use docket_graph::{Schema, WireReason};
use proptest::prelude::*;

use crate::chance::Chance;
use crate::same::same;
use crate::support::{descriptors, varint};

/// One message of each kind of schema: everything, the older syntax, and maps with all kinds of keys.
const MESSAGES: [(&str, &str); 4] = [
    ("proto/canonical.proto", "c.Tree"),
    ("proto/canonical.proto", "c.Maps"),
    ("proto/canonical2.proto", "c2.Old"),
    ("proto/everything.proto", "t.Everything"),
];

fn message(file: &str, name: &str) -> MessageDescriptor {
    DescriptorPool::decode(descriptors(file).as_slice()).unwrap().get_message_by_name(name).unwrap()
}

/// Checks each line of a file: `message | bytes | canonical bytes`, where `=` is for the same, and `! …` for what is
/// said instead.
fn check(file: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/canonical").join(file);
    let text = fs::read_to_string(&path).unwrap();
    let mut pools = Vec::new();
    for file in ["proto/canonical.proto", "proto/canonical2.proto", "proto/old.proto"] {
        pools.push(DescriptorPool::decode(descriptors(file).as_slice()).unwrap());
    }
    let mut vectors = 0;
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let [name, given, expected] = line.split('|').map(str::trim).collect::<Vec<_>>()[..] else {
            panic!("three parts: {line}")
        };
        let descriptor = pools.iter().find_map(|pool| pool.get_message_by_name(name)).expect(line);
        let (schema, given) = (Schema::of(&descriptor), bytes(given));
        vectors += 1;
        let found = match schema.canonical(&given) {
            Ok(found) if *found == *given => "=".to_owned(),
            Ok(found) => hex(&found),
            Err(fault) => format!("! {fault}"),
        };
        let expected = match expected {
            "=" => "=".to_owned(),
            expected if expected.starts_with('!') => expected.to_owned(),
            expected => hex(&bytes(expected)),
        };
        assert_eq!(found, expected, "{line}");
        holds(&descriptor, &schema, &given);
    }
    assert!(vectors > 2, "{file}");
}

fn bytes(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').collect();
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).expect(text);
    digits.chunks(2).map(byte).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Checks what is true of any bytes. Returns whether they are a message that has a canonical form.
fn holds(descriptor: &MessageDescriptor, schema: &Schema, bytes: &[u8]) -> bool {
    let canonical = match (schema.canonical(bytes), schema.check(bytes)) {
        (Ok(canonical), Ok(())) => canonical,
        (Err(fault), _) if fault.reason == WireReason::GroupField => return false,
        (found, checked) => {
            assert_eq!(found.err(), checked.clone().err(), "{}", hex(bytes));
            assert_eq!(schema.is_canonical(bytes).err(), checked.err(), "{}", hex(bytes));
            return false;
        }
    };
    let text = || format!("{} became {}", hex(bytes), hex(&canonical));
    assert_eq!(schema.is_canonical(bytes), Ok(*canonical == *bytes), "{}", text());
    assert_eq!(matches!(canonical, Cow::Borrowed(_)), *canonical == *bytes, "{}", text());
    assert_eq!(schema.canonical(&canonical), Ok(Cow::Borrowed(&*canonical)), "{}", text());
    let decoded = |bytes: &[u8]| DynamicMessage::decode(descriptor.clone(), bytes).unwrap();
    assert!(same(&decoded(bytes), &decoded(&canonical)), "{}", text());
    true
}

#[test]
fn fields_are_ordered_by_number_and_unknown_ones_among_them() {
    check("order.txt");
}

#[test]
fn numbers_take_the_fewest_bytes_that_hold_what_a_decoder_reads() {
    check("numbers.txt");
}

#[test]
fn a_default_is_left_out_where_its_absence_says_the_same_and_kept_elsewhere() {
    check("presence.txt");
}

#[test]
fn repeated_numbers_are_packed_or_not_as_declared() {
    check("repeated.txt");
}

#[test]
fn entries_of_maps_are_sorted_by_key_and_the_last_of_a_key_counts() {
    check("maps.txt");
}

#[test]
fn what_is_set_twice_is_merged_as_decoders_do() {
    check("merging.txt");
}

#[test]
fn the_older_syntax_has_presence_everywhere_but_in_maps() {
    check("proto2.txt");
}

#[test]
fn unknown_groups_are_kept_as_they_are_and_known_ones_are_refused() {
    check("groups.txt");
}

#[test]
fn what_is_no_message_is_refused_as_the_check_refuses_it() {
    check("faults.txt");
}

#[test]
fn fields_that_are_groups_are_named_wherever_they_are_below() {
    for (file, name, groups) in [
        ("proto/canonical.proto", "c.Tree", &[][..]),
        ("proto/canonical2.proto", "c2.Above", &["c2.Between.item", "c2.tail"]),
        ("proto/canonical2.proto", "c2.Old", &[]),
        ("proto/old.proto", "old.Old", &["old.Old.inner"]),
    ] {
        assert_eq!(Schema::of(&message(file, name)).groups(), groups, "{name}");
    }
}

#[test]
fn a_message_may_have_more_oneofs_than_a_word_has_bits() {
    let oneof = |i| OneofDescriptorProto { name: Some(format!("o{i}")), ..Default::default() };
    let field = |i: i32| FieldDescriptorProto {
        name: Some(format!("f{i}")),
        number: Some(i + 1),
        label: Some(Label::Optional.into()),
        r#type: Some(Type::Bool.into()),
        oneof_index: Some(i / 2),
        ..Default::default()
    };
    let many = DescriptorProto {
        name: Some("Many".to_owned()),
        field: (0..140).map(field).collect(),
        oneof_decl: (0..70).map(oneof).collect(),
        ..Default::default()
    };
    let file = FileDescriptorProto {
        name: Some("many.proto".to_owned()),
        message_type: vec![many],
        syntax: Some("proto3".to_owned()),
        ..Default::default()
    };
    let pool = DescriptorPool::from_file_descriptor_set(FileDescriptorSet { file: vec![file] }).unwrap();
    let descriptor = pool.get_message_by_name("Many").unwrap();
    let schema = Schema::of(&descriptor);
    let set = |members: &[u64]| {
        let field = |number: &u64| [varint(number << 3), vec![1]].concat();
        members.iter().flat_map(field).collect::<Vec<u8>>()
    };
    let first: Vec<u64> = (0..70).map(|i| 2 * i + 1).collect();
    let all: Vec<u64> = (1..=140).collect();
    let second: Vec<u64> = (0..70).map(|i| 2 * i + 2).collect();
    assert_eq!(schema.is_canonical(&set(&first)), Ok(true));
    assert_eq!(schema.canonical(&set(&all)), Ok(Cow::Owned(set(&second))));
    assert_eq!(schema.canonical(&set(&[1, 139, 140])), Ok(Cow::Owned(set(&[1, 140]))));
    for bytes in [set(&first), set(&all), set(&second)] {
        assert!(holds(&descriptor, &schema, &bytes));
    }
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}

/// Fields that no schema here knows: two numbers, of each wire type.
fn unknown(chance: &mut Chance) -> Vec<u8> {
    let fields =
        ["9003 05", "9203 02ff7f", "9103 0102030405060708", "9203 00", "857d 01020304", "837d 0801 847d"];
    (0..chance.byte() % 3).flat_map(|_| bytes(fields[usize::from(chance.byte()) % fields.len()])).collect()
}

#[test]
fn however_a_message_is_encoded_its_canonical_bytes_are_the_same() {
    for (file, name) in MESSAGES {
        let descriptor = message(file, name);
        let schema = Schema::of(&descriptor);
        let bytes = || prop::collection::vec(any::<u8>(), 0..600);
        proptest!(config(1_500), |(chance in bytes(), one in bytes(), other in bytes())| {
            let mut chance = Chance(&chance);
            let mut message = chance.message(&descriptor, 3);
            message.merge(&*unknown(&mut chance)).unwrap();
            let plain = message.encode_to_vec();
            let canonical = schema.canonical(&plain).unwrap();
            for scrambled in [Chance(&one).scramble(&message), Chance(&other).scramble(&message)] {
                prop_assert_eq!(
                    hex(&schema.canonical(&scrambled).unwrap()), hex(&canonical), "from {}", hex(&scrambled)
                );
                prop_assert!(holds(&descriptor, &schema, &scrambled));
            }
        });
    }
}

#[test]
fn canonical_bytes_are_the_same_message_and_no_other_bytes_are_called_canonical() {
    for (file, name) in MESSAGES.into_iter().chain([("proto/old.proto", "old.Old")]) {
        let descriptor = message(file, name);
        let schema = Schema::of(&descriptor);
        let change = (any::<prop::sample::Index>(), any::<u8>());
        let changes = prop::collection::vec(change, 1..4);
        proptest!(config(6_000), |(chance in prop::collection::vec(any::<u8>(), 0..200), changes in changes)| {
            let plain = Chance(&chance).message(&descriptor, 3).encode_to_vec();
            let Ok(canonical) = schema.canonical(&plain) else { return Ok(()) };
            let mut bytes = canonical.into_owned();
            holds(&descriptor, &schema, &bytes);
            for (position, byte) in changes.iter().filter(|_| !bytes.is_empty()).collect::<Vec<_>>() {
                let position = position.index(bytes.len());
                bytes[position] = *byte;
                holds(&descriptor, &schema, &bytes);
            }
        });
    }
}

#[test]
fn no_bytes_make_the_form_panic_and_it_takes_what_the_check_takes() {
    for (file, name) in
        MESSAGES.into_iter().chain([("proto/old.proto", "old.Old"), ("proto/canonical.proto", "c.Lists")])
    {
        let descriptor = message(file, name);
        let schema = Schema::of(&descriptor);
        proptest!(config(8_000), |(bytes in prop::collection::vec(any::<u8>(), 0..40))| {
            holds(&descriptor, &schema, &bytes);
        });
        // Short tags and lengths make deeper trees.
        proptest!(config(20_000), |(bytes in prop::collection::vec(0..60u8, 0..60))| {
            holds(&descriptor, &schema, &bytes);
        });
    }
}
