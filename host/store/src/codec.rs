//! Owns the stored form of a record without its body and its key, for backends that have no columns.
//! Never decides where the key and the body are kept.
//!
//! One byte names the format; a protobuf message follows. A field that a later release adds is skipped
//! by an earlier one; anything else that changes gets the next format number.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::clock::Timestamp;
use crate::error::{StoreError, StoreErrorKind};
use crate::record::{Facts, Kind, Record, RecordKey, Revision, Scope, Status};

/// The format written. A sample of each that is read stays in `tests/stored`.
const FORMAT: u8 = 1;

/// What is stored of a record: times in milliseconds, words as numbers, texts in UTF-8. To
/// protobuf a text is a `string`; as bytes it is shared until it is checked and copied once.
#[derive(Clone, PartialEq, Message)]
struct Head {
    #[prost(uint64, tag = "1")]
    revision: u64,
    #[prost(uint64, tag = "2")]
    body_bytes: u64,
    #[prost(uint32, tag = "3")]
    status: u32,
    #[prost(bytes = "bytes", tag = "4")]
    tenant: Bytes,
    #[prost(uint32, tag = "5")]
    scope: u32,
    #[prost(bytes = "bytes", optional, tag = "6")]
    step: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "7")]
    execution: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "8")]
    module: Option<Bytes>,
    #[prost(uint32, tag = "9")]
    attempts: u32,
    #[prost(bytes = "bytes", optional, tag = "10")]
    owner: Option<Bytes>,
    #[prost(uint64, optional, tag = "11")]
    lease_until: Option<u64>,
    #[prost(uint64, optional, tag = "12")]
    expires_at: Option<u64>,
    #[prost(uint64, tag = "13")]
    created_at: u64,
    #[prost(uint64, optional, tag = "14")]
    started_at: Option<u64>,
    #[prost(uint64, optional, tag = "15")]
    finished_at: Option<u64>,
    #[prost(bytes = "bytes", optional, tag = "16")]
    detail: Option<Bytes>,
}

/// Returns the stored form of everything but kind, key and body; of the body, its length.
pub(crate) fn encode(record: &Record) -> Vec<u8> {
    encode_head(record, record.body.len() as u64)
}

/// Returns the stored form of a record whose body is elsewhere and has this length. What a [`Head`] would
/// encode, without a copy of each text.
pub(crate) fn encode_head(record: &Record, body_bytes: u64) -> Vec<u8> {
    let Record { kind: _, key: _, revision: Revision(revision), facts, body: _ } = record;
    let Facts { status, tenant, scope, step, execution, module, attempts, owner, .. } = facts;
    let Facts { lease_until, expires_at, created_at, started_at, finished_at, detail, .. } = facts;
    let mut bytes = Vec::with_capacity(HEAD_BYTES + detail.as_ref().map_or(0, |detail| detail.len()));
    bytes.push(FORMAT);
    // What protobuf leaves out where it is zero or empty.
    let present = |number: u64| Some(number).filter(|number| *number > 0);
    let millis = |at: &Option<Timestamp>| at.map(|Timestamp(millis)| millis);
    put_number(&mut bytes, 1, present(*revision));
    put_number(&mut bytes, 2, present(body_bytes));
    put_number(&mut bytes, 3, present(status_number(*status).into()));
    put_text(&mut bytes, 4, Some(tenant).filter(|tenant| !tenant.is_empty()));
    put_number(&mut bytes, 5, scope.map(|scope| scope_number(scope).into()));
    put_text(&mut bytes, 6, step.as_ref());
    put_text(&mut bytes, 7, execution.as_ref());
    put_text(&mut bytes, 8, module.as_ref());
    put_number(&mut bytes, 9, present((*attempts).into()));
    put_text(&mut bytes, 10, owner.as_ref());
    put_number(&mut bytes, 11, millis(lease_until));
    put_number(&mut bytes, 12, millis(expires_at));
    put_number(&mut bytes, 13, present(created_at.0));
    put_number(&mut bytes, 14, millis(started_at));
    put_number(&mut bytes, 15, millis(finished_at));
    put_text(&mut bytes, 16, detail.as_ref());
    bytes
}

/// How long a head is without its detail, about.
const HEAD_BYTES: usize = 288;

fn put_number(bytes: &mut Vec<u8>, tag: u32, number: Option<u64>) {
    if let Some(number) = number {
        encode_key(tag, WireType::Varint, bytes);
        encode_varint(number, bytes);
    }
}

fn put_text(bytes: &mut Vec<u8>, tag: u32, text: Option<&Arc<str>>) {
    if let Some(text) = text {
        encode_key(tag, WireType::LengthDelimited, bytes);
        encode_varint(text.len() as u64, bytes);
        bytes.extend_from_slice(text.as_bytes());
    }
}

/// Returns the record of this kind and key with an empty body, and the length that its body has.
///
/// # Errors
/// `Corrupt`, unless the bytes are what [`encode`] wrote, in this release or an earlier one.
pub(crate) fn decode(kind: Kind, key: &RecordKey, bytes: &[u8]) -> Result<(Record, u64), StoreError> {
    decode_shared(kind, key, &Bytes::copy_from_slice(bytes))
}

/// The same, of bytes that need not be copied for it.
pub(crate) fn decode_shared(kind: Kind, key: &RecordKey, bytes: &Bytes) -> Result<(Record, u64), StoreError> {
    let head = match &bytes[..] {
        [FORMAT, ..] => Head::decode(bytes.slice(1..)).map_err(|error| corrupt(kind, key, error)),
        [format, ..] => Err(corrupt(
            kind,
            key,
            format_args!("it has the format {format}, and this release reads {FORMAT}"),
        )),
        [] => Err(corrupt(kind, key, "it is empty")),
    }?;
    let status = Status::ALL.into_iter().find(|status| status_number(*status) == head.status);
    let status = status
        .ok_or_else(|| corrupt(kind, key, format_args!("it has the unknown status {}", head.status)))?;
    let scope = match head.scope {
        0 => None,
        number => {
            let scope = Scope::ALL.into_iter().find(|scope| scope_number(*scope) == number);
            let unknown = || corrupt(kind, key, format_args!("it has the unknown scope {number}"));
            Some(scope.ok_or_else(unknown)?)
        }
    };
    let text = |bytes: &Bytes| -> Result<Arc<str>, StoreError> {
        str::from_utf8(bytes).map(Into::into).map_err(|error| corrupt(kind, key, error))
    };
    let optional = |bytes: &Option<Bytes>| bytes.as_ref().map(text).transpose();
    let facts = Facts {
        status,
        tenant: text(&head.tenant)?,
        scope,
        step: optional(&head.step)?,
        execution: optional(&head.execution)?,
        module: optional(&head.module)?,
        attempts: head.attempts,
        owner: optional(&head.owner)?,
        lease_until: head.lease_until.map(Timestamp),
        expires_at: head.expires_at.map(Timestamp),
        created_at: Timestamp(head.created_at),
        started_at: head.started_at.map(Timestamp),
        finished_at: head.finished_at.map(Timestamp),
        detail: optional(&head.detail)?,
    };
    let record =
        Record { kind, key: key.clone(), revision: Revision(head.revision), facts, body: Bytes::new() };
    Ok((record, head.body_bytes))
}

/// The number is what is stored: it stays what it is, whatever the order of the variants.
fn status_number(status: Status) -> u32 {
    match status {
        Status::Running => 1,
        Status::Done => 2,
        Status::Failed => 3,
        Status::Released => 4,
        Status::Interrupted => 5,
        Status::Cancelled => 6,
    }
}

fn scope_number(scope: Scope) -> u32 {
    match scope {
        Scope::Workflow => 1,
        Scope::Global => 2,
    }
}

fn corrupt(kind: Kind, key: &RecordKey, why: impl std::fmt::Display) -> StoreError {
    let message = format!("the record `{}/{key}` cannot be read: {why}", kind.as_str());
    StoreError::new(StoreErrorKind::Corrupt, message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Written by the release that introduced format 1. Never rewritten.
    const SAMPLE: &[u8] = include_bytes!("../tests/stored/record-1.bin");

    fn key() -> RecordKey {
        RecordKey::parse("a/b").unwrap()
    }

    fn sample() -> Record {
        let facts = Facts {
            scope: Some(Scope::Global),
            step: Some("Fetch \"α\"\n".into()),
            execution: Some("0198".into()),
            module: Some("c0ffee".into()),
            attempts: 3,
            owner: Some("".into()),
            lease_until: Some(Timestamp(0)),
            expires_at: Some(Timestamp(i64::MAX as u64)),
            started_at: Some(Timestamp(1_790_000_000_001)),
            finished_at: None,
            detail: Some(r#"{"input":"x"}"#.into()),
            ..Facts::new(Status::Interrupted, "acme".into(), Timestamp(1_790_000_000_000))
        };
        let body = Bytes::from_static(b"12345");
        Record { kind: Kind::Step, key: key(), revision: Revision(1_790_000_000_000_007), facts, body }
    }

    #[test]
    fn format_1_is_read_as_long_as_we_say_so() {
        let (record, body_bytes) = decode(Kind::Step, &key(), SAMPLE).unwrap();
        assert_eq!((record, body_bytes), (Record { body: Bytes::new(), ..sample() }, 5));
    }

    #[test]
    fn format_1_is_what_is_written() {
        assert_eq!(encode(&sample()), SAMPLE);
    }

    #[track_caller]
    fn check_corrupt(bytes: &[u8], why: &str) {
        let error = decode(Kind::Step, &key(), bytes).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Corrupt);
        assert_eq!(error.to_string(), format!("the record `step/a/b` cannot be read: {why}"));
    }

    #[test]
    fn an_unknown_format_is_named_beside_those_known() {
        let mut bytes = SAMPLE.to_vec();
        bytes[0] = 2;
        check_corrupt(&bytes, "it has the format 2, and this release reads 1");
        check_corrupt(&[], "it is empty");
    }

    #[test]
    fn an_unknown_word_is_named() {
        let head = |status, scope| Head { status, scope, ..Head::default() };
        let stored = |head: Head| [&[FORMAT], head.encode_to_vec().as_slice()].concat();
        check_corrupt(&stored(head(9, 0)), "it has the unknown status 9");
        check_corrupt(&stored(head(0, 1)), "it has the unknown status 0");
        check_corrupt(&stored(head(1, 3)), "it has the unknown scope 3");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            words in (0..6_usize, 0..3_usize, any::<u32>(), any::<u64>()),
            texts in proptest::array::uniform6(proptest::option::of(".{0,20}")),
            times in proptest::array::uniform5(proptest::option::of(any::<u64>())),
        ) {
            let (status, scope, attempts, revision) = words;
            let [tenant, step, execution, module, owner, detail] = texts.map(|text| text.map(Arc::from));
            let [lease_until, expires_at, created_at, started_at, finished_at] =
                times.map(|millis| millis.map(Timestamp));
            let facts = Facts {
                status: Status::ALL[status],
                tenant: tenant.unwrap_or_default(),
                scope: Scope::ALL.get(scope).copied(),
                created_at: created_at.unwrap_or_default(),
                step, execution, module, attempts, owner, lease_until, expires_at, started_at, finished_at, detail,
            };
            let record = Record { revision: Revision(revision), facts, body: Bytes::new(), ..sample() };
            let bytes = encode(&record);
            let head = Head::decode(&bytes[1..]).unwrap();
            prop_assert_eq!(head.encode_to_vec(), &bytes[1..], "nothing is left out, and nothing said twice");
            prop_assert_eq!(decode(Kind::Step, &key(), &bytes).unwrap(), (record, 0));
        }

        #[test]
        fn hostile_bytes_are_refused_or_read_but_never_panic(bytes: Vec<u8>) {
            let _ = decode(Kind::Step, &key(), &bytes);
        }

        #[test]
        fn a_torn_head_is_refused_or_read_but_never_panics(at in 0..SAMPLE.len()) {
            let _ = decode(Kind::Step, &key(), &SAMPLE[..at]);
        }
    }
}
