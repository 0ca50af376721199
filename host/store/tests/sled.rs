//! The store on this machine's disk keeps every promise of a store, and what sled alone would not keep.

#![cfg(feature = "sled")]
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod contract;
mod disk;
#[path = "sled/crash.rs"]
mod crash;
#[path = "sled/damaged.rs"]
mod damaged;
#[path = "sled/directory.rs"]
mod directory;
#[path = "sled/full.rs"]
mod full;

use std::sync::{Arc, Mutex};

use docket_store::{SledStore, Store};
use tempfile::TempDir;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_keeps_the_contract() {
    let directories: Mutex<Vec<TempDir>> = Mutex::default();
    contract::all(async || {
        let directory = tempfile::tempdir().unwrap();
        let store = SledStore::open(directory.path()).unwrap();
        directories.lock().unwrap().push(directory);
        Arc::new(store) as Arc<dyn Store>
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn its_clones_are_one_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = SledStore::open(directory.path()).unwrap();
    contract::shared(Arc::new(store.clone()), Arc::new(store)).await;
}
