//! A disk that becomes full below a store that has written to its log, but not yet to sled's tree: it is
//! called that, and what was acknowledged is there once there is room again.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use docket_store::{
    Batch, Expect, Query, Record, SledOptions, SledStore, Store as _, StoreError, StoreErrorKind, Sync,
};

use super::contract::{assert_holds, body, put, record};
use super::disk::check_on_a_small_disk;

const FULL: &str = "a write to the store failed: its disk is full; what is stored is no longer known, and the store \
                    must be opened anew";

const UNREAD: &str = "the store cannot be read: its disk is full";

#[test]
fn a_disk_that_is_full_when_the_tree_is_brought_up_to_the_log_is_named_and_nothing_is_lost() {
    check_on_a_small_disk("full::fill_the_disk_in_a_child", 32, CHILD, "");
}

/// Where the child has its disk.
const CHILD: &str = "DOCKET_TEST_DISK";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it is the child of the test above"]
#[expect(clippy::disallowed_methods, reason = "the edge of a test is the test")]
async fn fill_the_disk_in_a_child() {
    let Ok(disk) = std::env::var(CHILD) else { return };
    let disk = PathBuf::from(disk);
    for records in [3, 20] {
        check(&disk.join(format!("listed-{records}")), records, async |store| {
            // Where sled has not come to write what it was told, there is nothing to be said yet; where it has, whoever
            // reads may learn of it before whoever writes.
            if let Err(error) = store.scan(&Query::Expired, 1).await {
                assert!([FULL, UNREAD].contains(&error.to_string().as_str()), "{error}");
            }
        })
        .await;
        check(&disk.join(format!("closed-{records}")), records, async |_| {}).await;
    }
}

/// Fills a store of so many records, and then its disk, before the tree is needed.
async fn check(path: &Path, records: u64, then: impl AsyncFn(&SledStore)) {
    let options = SledOptions { reserve_bytes: 0, ..SledOptions::default() };
    let store = SledStore::open_with(path, options).unwrap();
    let records: Vec<_> =
        (0..records).map(|n| Record { body: body(100_000, n), ..record(&format!("kept/{n}"), 1) }).collect();
    for record in &records {
        store.commit(Batch { writes: vec![put(record, Expect::Absent)], sync: Sync::Now }).await.unwrap();
    }
    let ballast = path.with_extension("ballast");
    let full = std::fs::write(&ballast, vec![7; 64 << 20]).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    then(&store).await;
    assert_full(store.close().await);
    drop(store);
    std::fs::remove_file(ballast).unwrap();
    let store = SledStore::open(path).unwrap();
    for record in &records {
        assert_holds(&store, record, "acknowledged before the disk was full").await;
    }
    store.close().await.unwrap();
    std::fs::remove_dir_all(path).unwrap();
}

#[track_caller]
fn assert_full(done: Result<(), StoreError>) {
    let error = done.expect_err("the disk is full");
    assert_eq!((error.kind(), error.to_string().as_str()), (StoreErrorKind::Poisoned, FULL));
}
