//! What every store promises, one suite for all of them: each sentence of the trait `Store`, through
//! the trait alone. Knows no backend.

#![allow(dead_code, reason = "not every store runs every part: one process alone has no second handle")]
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

pub(crate) mod bodies;
pub(crate) mod handles;
pub(crate) mod listing;
pub(crate) mod races;
pub(crate) mod records;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use docket_store::{
    Batch, Expect, Facts, Kind, Record, RecordKey, Revision, Status, Store, StoreError, StoreErrorKind, Sync,
    Timestamp, Write,
};

/// When the records of the suite were created, unless they say otherwise: long past.
pub(crate) const CREATED: Timestamp = Timestamp(1_790_000_000_000);

/// Panics unless the store keeps every promise. `open` gives an empty store each time, or one whose
/// records no other call can see.
pub(crate) async fn all<F: AsyncFn() -> Arc<dyn Store>>(open: F) {
    records::all(&open).await;
    bodies::all(&open).await;
    listing::all(&open).await;
    races::all(&open).await;
    handles::all(&open).await;
}

/// Panics unless two handles on one empty store are one store.
pub(crate) async fn shared(a: Arc<dyn Store>, b: Arc<dyn Store>) {
    handles::shared(&a, &b).await;
    races::between(&[a, b]).await;
}

pub(crate) fn key(text: &str) -> RecordKey {
    RecordKey::parse(text).unwrap()
}

/// Returns a finished result without a body.
pub(crate) fn record(key_text: &str, revision: u64) -> Record {
    let facts = Facts::new(Status::Done, "acme".into(), CREATED);
    Record { kind: Kind::Result, key: key(key_text), revision: Revision(revision), facts, body: Bytes::new() }
}

/// Returns a result that somebody is at.
pub(crate) fn running(key_text: &str, revision: u64, lease_until: Timestamp) -> Record {
    let mut record = record(key_text, revision);
    record.facts.status = Status::Running;
    record.facts.owner = Some("somebody".into());
    record.facts.lease_until = Some(lease_until);
    record
}

/// Returns bytes that do not repeat, others for each seed.
pub(crate) fn body(len: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

pub(crate) fn put(record: &Record, expect: Expect) -> Write {
    Write::Put { record: record.clone(), expect }
}

pub(crate) fn delete(record: &Record, expect: Expect) -> Write {
    Write::Delete { kind: record.kind, key: record.key.clone(), expect }
}

pub(crate) fn renew(record: &Record, revision: Revision, lease_until: Timestamp) -> Write {
    Write::Renew { kind: record.kind, key: record.key.clone(), revision, lease_until }
}

pub(crate) async fn commit(store: &dyn Store, writes: Vec<Write>) -> Result<(), StoreError> {
    store.commit(Batch { writes, sync: Sync::Later }).await
}

pub(crate) async fn write(store: &dyn Store, writes: Vec<Write>) {
    commit(store, writes).await.unwrap();
}

/// Panics unless the batch is refused because the world has changed.
#[track_caller]
pub(crate) fn assert_conflict(answer: Result<(), StoreError>, why: &str) {
    let error = answer.expect_err(why);
    assert_eq!(error.kind(), StoreErrorKind::Conflict, "{why}: {error}");
}

pub(crate) async fn read(store: &dyn Store, record: &Record) -> Option<Record> {
    store.get(record.kind, &record.key).await.unwrap().record
}

/// Panics unless the store holds exactly this under the record's key.
pub(crate) async fn assert_holds(store: &dyn Store, expected: &Record, why: &str) {
    let found = read(store, expected).await;
    let found = found.unwrap_or_else(|| panic!("{why}: `{}` is not there", expected.key));
    assert_eq!(found.body.len(), expected.body.len(), "{why}: the length of `{}`", expected.key);
    assert!(found == *expected, "{why}: `{}` is {:?}, not {:?}", expected.key, found.facts, expected.facts);
}

pub(crate) async fn assert_absent(store: &dyn Store, record: &Record, why: &str) {
    assert_eq!(read(store, record).await.map(|found| found.revision), None, "{why}: `{}`", record.key);
}

/// Waits in real time, which is the time of stores that are servers.
pub(crate) async fn pause(time: Duration) {
    // What never comes, comes too late.
    let _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
}
