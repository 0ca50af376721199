//! The check of bytes against a message type, beside a real decoder.

use docket_graph::prost_reflect::prost::Message;
use docket_graph::prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use docket_graph::{Schema, WireReason};
use proptest::prelude::*;

use crate::chance::Chance;
use crate::support::{descriptors, pool, varint};

fn everything() -> MessageDescriptor {
    pool().get_message_by_name("t.Everything").unwrap()
}

fn old() -> MessageDescriptor {
    let pool = DescriptorPool::decode(descriptors("proto/old.proto").as_slice()).unwrap();
    pool.get_message_by_name("old.Old").unwrap()
}

/// The check accepts exactly what the decoder accepts, but for maps: this decoder reads an entry whatever its wire type.
fn agrees(descriptor: &MessageDescriptor, schema: &Schema, bytes: &[u8]) -> bool {
    let decoded = DynamicMessage::decode(descriptor.clone(), bytes);
    let checked = schema.check(bytes);
    if let (Ok(_), Err(fault)) = (&decoded, &checked)
        && let (Some(5 | 6), WireReason::WireType { expected: 2, .. } | WireReason::Group) =
            (fault.field, fault.reason)
    {
        return false;
    }
    assert_eq!(checked.is_ok(), decoded.is_ok(), "{checked:?} but {:?} for {bytes:02x?}", decoded.err());
    checked.is_ok()
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}

#[test]
fn every_encoded_message_passes_and_each_cut_of_it_is_judged_as_a_decoder_does() {
    for descriptor in [everything(), old()] {
        let schema = Schema::of(&descriptor);
        proptest!(config(500), |(chance in prop::collection::vec(any::<u8>(), 0..600))| {
            let bytes = Chance(&chance).message(&descriptor, 4).encode_to_vec();
            prop_assert_eq!(schema.check(&bytes), Ok(()));
            for cut in (0..bytes.len()).step_by(1 + bytes.len() / 64) {
                agrees(&descriptor, &schema, &bytes[..cut]);
            }
        });
    }
}

#[test]
fn changed_messages_are_judged_as_a_decoder_does() {
    for descriptor in [everything(), old()] {
        let schema = Schema::of(&descriptor);
        let change = (any::<prop::sample::Index>(), any::<u8>());
        let changes = prop::collection::vec(change, 1..4);
        proptest!(config(4_000), |(chance in prop::collection::vec(any::<u8>(), 0..200), changes in changes)| {
            let mut bytes = Chance(&chance).message(&descriptor, 3).encode_to_vec();
            if !bytes.is_empty() {
                for (position, byte) in &changes {
                    let position = position.index(bytes.len());
                    bytes[position] = *byte;
                }
            }
            agrees(&descriptor, &schema, &bytes);
        });
    }
}

#[test]
fn no_bytes_make_the_check_panic_and_all_are_judged_as_a_decoder_does() {
    for descriptor in [everything(), old()] {
        let schema = Schema::of(&descriptor);
        proptest!(config(8_000), |(bytes in prop::collection::vec(any::<u8>(), 0..40))| {
            agrees(&descriptor, &schema, &bytes);
        });
        // Short tags make deeper trees.
        proptest!(config(8_000), |(bytes in prop::collection::vec(0..24u8, 0..60))| {
            agrees(&descriptor, &schema, &bytes);
        });
    }
}

fn check(bytes: &[u8]) -> Result<(), (usize, Option<u32>, WireReason)> {
    let schema = Schema::of(&everything());
    schema.check(bytes).map_err(|fault| (fault.offset, fault.field, fault.reason))
}

#[test]
fn each_fault_is_named_with_its_place() {
    use WireReason::*;
    for (bytes, expected) in [
        (&[0x0a][..], (1, Some(1), Truncated)),
        (&[0x0a, 5, 0], (1, Some(1), Truncated)),
        (&[0x80], (0, None, Truncated)),
        (&[0xff; 11], (0, None, Varint)),
        (&[0x00], (0, None, FieldNumber)),
        (&[0x80, 0x80, 0x80, 0x80, 0x10, 0], (0, None, FieldNumber)),
        (&[0x0a, 2, 0x0d, 0], (2, Some(1), WireType { expected: 0, found: 5 })),
        (&[0x0a, 3, 0x0a, 1, 0], (2, Some(1), WireType { expected: 0, found: 2 })),
        (&[0x0e], (0, Some(1), NoWireType(6))),
        (&[0x87, 8], (2, Some(128), NoWireType(7))),
        (&[0x1a, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9], (10, Some(3), Packed)),
        (&[0x22, 2, b'a', 0xff], (3, Some(4), Utf8)),
        (&[0x0c], (0, Some(1), Group)),
        (&[0x83, 8], (2, Some(128), Group)),
    ] {
        assert_eq!(check(bytes), Err(expected), "{bytes:02x?}");
    }
    let fault = Schema::of(&everything()).check(&[0x0a, 1, 0x7a]).unwrap_err();
    assert_eq!(fault.to_string(), "not a `t.Scalars`: the bytes end within a field at byte 3 in field 15");
}

#[test]
fn packed_and_unpacked_numbers_are_both_right_and_unknown_fields_are_skipped() {
    assert_eq!(check(&[0x12, 2, 1, 2]), Ok(()));
    assert_eq!(check(&[0x10, 1, 0x10, 2]), Ok(()));
    assert_eq!(check(&[0x83, 8, 8, 1, 0x13, 0x14, 0x84, 8, 0x80, 8, 5]), Ok(()));
}

#[test]
fn nesting_ends_where_decoders_end_it() {
    let descriptor = everything();
    let schema = Schema::of(&descriptor);
    for (field, open) in [(64 << 3 | 2, None), (200 << 3 | 3, Some(200 << 3 | 4))] {
        for depth in [1u64, 98, 99, 100, 101, 102, 5000] {
            let mut bytes = Vec::new();
            for _ in 0..depth {
                let mut outer = varint(field);
                if open.is_none() {
                    outer.extend(varint(bytes.len() as u64));
                }
                outer.append(&mut bytes);
                outer.extend(open.map(varint).unwrap_or_default());
                bytes = outer;
            }
            let accepted = agrees(&descriptor, &schema, &bytes);
            assert_eq!(accepted, depth <= 100, "{depth}");
        }
    }
}

#[test]
fn an_entry_of_a_map_is_a_level() {
    let schema = Schema::of(&everything());
    for (entry, field) in [(&[0x32, 5, 8, 1, 0x12, 1, 0][..], 6), (&[0x2a, 0], 5)] {
        for depth in 98..102 {
            let mut bytes = entry.to_vec();
            for _ in 0..depth {
                bytes = [varint(64 << 3 | 2), varint(bytes.len() as u64), bytes].concat();
            }
            let found = schema.check(&bytes).map_err(|fault| fault.reason);
            let expected = if depth < 100 { Ok(()) } else { Err(WireReason::Depth) };
            assert_eq!(found, expected, "field {field} at {depth}");
            assert_eq!(schema.canonical(&bytes).map(drop).map_err(|fault| fault.reason), expected);
        }
    }
}
