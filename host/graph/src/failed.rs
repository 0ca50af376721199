//! Owns the message by which the host tells a step how many elements failed of those that it gathers: its name, its form
//! and its bytes. Never counts.

use prost_reflect::{Cardinality, Kind, MessageDescriptor};

use crate::canonical::put_varint;
use crate::port::Port;

/// The full name of the message. It is defined in `proto/docket/v1/failed.proto`.
pub const FAILED: &str = "docket.v1.Failed";

/// The number of its field.
const COUNT: u32 = 1;

/// Returns the message that says this number, in canonical form.
pub fn failed_message(count: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if count > 0 {
        put_varint(u64::from(COUNT) << 3, &mut bytes);
        put_varint(count, &mut bytes);
    }
    bytes
}

/// Returns whether the message flows through a port.
pub(crate) fn is_failed(port: &Port) -> bool {
    port.message() == FAILED
}

/// Returns whether a module that defines the message like this reads what the host gives.
pub(crate) fn reads_count(message: &MessageDescriptor) -> bool {
    let reads = |field: prost_reflect::FieldDescriptor| field.kind() == Kind::Uint64 && !field.is_list();
    message.get_field(COUNT).is_some_and(reads)
        && message.fields().all(|field| field.cardinality() != Cardinality::Required)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_written_as_protobuf_writes_it_and_none_is_no_bytes() {
        let cases: [(u64, &[u8]); 4] = [
            (0, b""),
            (1, b"\x08\x01"),
            (300, b"\x08\xac\x02"),
            (u64::MAX, b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        ];
        for (count, bytes) in cases {
            assert_eq!(failed_message(count), bytes);
        }
    }
}
