//! The store that fails on purpose fails as it was told and in no other way; and the contract's suite
//! finds a store that does not hold to what a write expects.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod contract;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use contract::{assert_absent, assert_holds, commit, put, record};
use docket_store::{
    Abilities, Batch, Clock as _, Expect, FaultyStore, Found, Harm, Kind, MemoryStore, Method, Mishap, Page,
    Query, Record, RecordKey, Revision, Store, StoreError, StoreErrorKind, SystemClock, When, Write,
};

fn faulty(mishaps: Vec<Mishap>) -> FaultyStore {
    FaultyStore::over(Arc::new(MemoryStore::new()), 7, mishaps)
}

fn mishap(method: Method, when: When, harm: Harm) -> Mishap {
    Mishap { method, when, harm }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_mishaps_it_keeps_the_contract() {
    contract::all(async || Arc::new(faulty(vec![])) as Arc<dyn Store>).await;
}

#[tokio::test]
async fn each_harm_does_what_it_says_at_the_call_it_names() {
    for (harm, kind, is_done) in [
        (Harm::Refused, StoreErrorKind::Unavailable, false),
        (Harm::RequestLost, StoreErrorKind::Unknown, false),
        (Harm::AnswerLost, StoreErrorKind::Unknown, true),
    ] {
        let store = faulty(vec![mishap(Method::Commit, When::Call(2), harm)]);
        let records = [record("a", 1), record("b", 1), record("c", 1)];
        let mut answers = Vec::new();
        for record in &records {
            answers.push(commit(&store, vec![put(record, Expect::Absent)]).await);
        }
        assert_eq!(answers[1].as_ref().unwrap_err().kind(), kind, "{harm:?}");
        assert!(answers[0].is_ok() && answers[2].is_ok(), "{harm:?} strikes one call");
        if is_done {
            assert_holds(&store, &records[1], "done before the answer was lost").await;
        } else {
            assert_absent(&store, &records[1], "never done").await;
        }
        assert_eq!(store.calls(Method::Commit), 3);
    }
}

#[tokio::test]
async fn reads_and_syncs_fail_as_unavailable() {
    let methods = [Method::Get, Method::Scan, Method::Sync];
    for harm in [Harm::Refused, Harm::RequestLost, Harm::AnswerLost] {
        let store = faulty(methods.map(|method| mishap(method, When::From(1), harm)).into());
        let record = record("a", 1);
        let answers = [
            store.get(Kind::Result, &record.key).await.map(drop),
            store.scan(&Query::Expired, 1).await.map(drop),
            store.sync().await,
        ];
        for answer in answers {
            assert_eq!(answer.unwrap_err().kind(), StoreErrorKind::Unavailable);
        }
        commit(&store, vec![put(&record, Expect::Absent)]).await.unwrap();
        store.set_mishaps(vec![]);
        assert_holds(&store, &record, "the mishaps are over").await;
    }
}

#[tokio::test]
async fn a_conflict_stays_a_conflict() {
    let store = faulty(vec![mishap(Method::Commit, When::From(2), Harm::AnswerLost)]);
    let first = record("a", 1);
    commit(&store, vec![put(&first, Expect::Absent)]).await.unwrap();
    let error = commit(&store, vec![put(&first, Expect::Absent)]).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Conflict);
}

#[tokio::test]
async fn the_same_seed_strikes_the_same_calls() {
    let strikes = async |seed| {
        let mishaps = vec![mishap(Method::Get, When::Chance(0.3), Harm::Refused)];
        let store = FaultyStore::over(Arc::new(MemoryStore::new()), seed, mishaps);
        let mut struck = Vec::new();
        for _ in 0..200 {
            struck.push(store.get(Kind::Result, &record("a", 1).key).await.is_err());
        }
        struck
    };
    let (first, again, other) = (strikes(1).await, strikes(1).await, strikes(2).await);
    assert_eq!(first, again);
    assert_ne!(first, other);
    let count = first.iter().filter(|struck| **struck).count();
    assert!((40..80).contains(&count), "{count} of 200 at a chance of 0.3");
}

#[tokio::test]
async fn a_late_call_is_done_late() {
    let late = Duration::from_millis(80);
    let store = faulty(vec![mishap(Method::Commit, When::Call(1), Harm::Late(late))]);
    let begun = SystemClock.now();
    commit(&store, vec![put(&record("a", 1), Expect::Absent)]).await.unwrap();
    assert!(SystemClock.now().since(begun) >= late);
}

/// A store with one fault that none may have.
struct Wrong<F>(MemoryStore, F);

#[async_trait]
impl<F: Fn(Batch) -> Batch + Send + Sync + 'static> Store for Wrong<F> {
    fn abilities(&self) -> Abilities {
        self.0.abilities()
    }
    async fn get(&self, kind: Kind, key: &RecordKey) -> Result<Found, StoreError> {
        self.0.get(kind, key).await
    }
    async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        self.0.commit(self.1(batch)).await
    }
    async fn scan(&self, query: &Query, limit: usize) -> Result<Page, StoreError> {
        self.0.scan(query, limit).await
    }
    async fn changed(&self, kind: Kind, key: &RecordKey, most: Duration) {
        self.0.changed(kind, key, most).await;
    }
    async fn sync(&self) -> Result<(), StoreError> {
        self.0.sync().await
    }
    async fn close(&self) -> Result<(), StoreError> {
        self.0.close().await
    }
}

/// Panics unless this part of the suite finds the fault.
#[track_caller]
fn assert_found<P: Future<Output = ()>>(
    what: &str,
    wrong: impl Fn(Batch) -> Batch + Send + Sync + Clone + 'static,
    part: impl FnOnce(Arc<dyn Store>) -> P + Send,
) {
    // On a thread of its own, because its panic is what is asked for.
    let found = std::thread::scope(|threads| {
        let store = Arc::new(Wrong(MemoryStore::new(), wrong));
        let run = move || {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            runtime.worker_threads(2).enable_all().build().unwrap().block_on(part(store));
        };
        threads.spawn(run).join().is_err()
    });
    assert!(found, "the suite finds nothing wrong with {what}");
}

fn unfenced(mut batch: Batch) -> Batch {
    for write in &mut batch.writes {
        if let Write::Put { expect, .. } | Write::Delete { expect, .. } = write {
            *expect = Expect::Any;
        }
    }
    batch
}

#[test]
fn the_suite_finds_a_store_that_ignores_what_is_expected() {
    let all = |store: Arc<dyn Store>| async move { contract::all(async || Arc::clone(&store)).await };
    assert_found("a store that ignores what is expected", unfenced, all);
    let races = |store: Arc<dyn Store>| async move { contract::races::between(&[store]).await };
    assert_found("races on a store that ignores what is expected", unfenced, races);
}

#[test]
fn the_protocol_alone_finds_a_store_that_ignores_revisions() {
    let protocol =
        |store: Arc<dyn Store>| async move { contract::races::no_zombie_overwrites(&[store]).await };
    assert_found("claims on a store that ignores what is expected", unfenced, protocol);
}

#[test]
fn the_suite_finds_a_store_that_loses_a_write_of_a_batch() {
    let forgetful = |mut batch: Batch| {
        if batch.writes.len() > 1 {
            batch.writes.pop();
        }
        batch
    };
    let all = |store: Arc<dyn Store>| async move { contract::all(async || Arc::clone(&store)).await };
    assert_found("a store that loses a write", forgetful, all);
}

#[test]
fn the_suite_finds_a_store_that_changes_what_it_keeps() {
    let trimming = |mut batch: Batch| {
        for write in &mut batch.writes {
            if let Write::Put { record: Record { facts, .. }, .. } = write {
                facts.step = facts.step.take().map(|step| step.trim_end().into());
            }
        }
        batch
    };
    let records =
        |store: Arc<dyn Store>| async move { contract::records::all(&async || Arc::clone(&store)).await };
    assert_found("a store that trims text", trimming, records);
    let renumbering = |mut batch: Batch| {
        for write in &mut batch.writes {
            if let Write::Put { record: Record { revision: Revision(revision), .. }, .. } = write {
                *revision = (*revision as f64) as u64;
            }
        }
        batch
    };
    let records =
        |store: Arc<dyn Store>| async move { contract::records::all(&async || Arc::clone(&store)).await };
    assert_found("a store that counts in floating point", renumbering, records);
}
