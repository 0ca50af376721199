//! The store in memory keeps every promise of a store, on any clock.

mod contract;

use std::sync::Arc;

use docket_store::{Clock, Durability, Kind, MemoryStore, RecordKey, Store, Timestamp};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_keeps_the_contract() {
    contract::all(async || Arc::new(MemoryStore::new()) as Arc<dyn Store>).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn its_clones_are_one_store() {
    let store = MemoryStore::new();
    contract::shared(Arc::new(store.clone()), Arc::new(store)).await;
}

#[tokio::test]
async fn its_time_is_that_of_its_clock() {
    struct Stopped;
    impl Clock for Stopped {
        fn now(&self) -> Timestamp {
            Timestamp(42)
        }
    }
    let store = MemoryStore::on(Arc::new(Stopped));
    let found = store.get(Kind::Result, &RecordKey::parse("none").unwrap()).await.unwrap();
    assert_eq!(found.now, Timestamp(42));
    assert_eq!(store.abilities().durability, Durability::None);
}
