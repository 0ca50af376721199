//! The way out of a damaged store: what is said of a backup that lies among what is damaged, and that
//! following it helps.

use std::fs;
use std::path::Path;
use std::time::Duration;

use docket_store::{Expect, Record, SledStore, Store as _, StoreErrorKind};

use super::contract::{assert_holds, body, put, record, write};

/// What a damaged store has in its directory.
const NOTE: &str = "docket.damaged";

/// Fills a store in `store`, copies it to `backup`, and spoils it.
async fn spoilt(dir: &Path) -> Record {
    let (path, backup) = (dir.join("store"), dir.join("backup"));
    let record = Record { body: body(9_000, 1), ..record("kept", 1) };
    let store = SledStore::open(&path).unwrap();
    write(&store, vec![put(&record, Expect::Absent)]).await;
    store.close().await.unwrap();
    fs::create_dir(&backup).unwrap();
    copy_into(&path, &backup);
    let db = path.join("db");
    fs::write(&db, vec![0; fs::read(&db).unwrap().len()]).unwrap();
    record
}

/// Copies what is in a directory into another, over what is there.
fn copy_into(from: &Path, to: &Path) {
    for file in fs::read_dir(from).unwrap().flatten() {
        if file.file_type().unwrap().is_file() {
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
}

/// Returns what is said where the store is opened, and refused as damaged.
fn refused(path: &Path) -> String {
    loop {
        let error = SledStore::open(path).err().expect("it cannot be opened");
        if error.kind() == StoreErrorKind::Corrupt {
            return error.to_string();
        }
        // sled's own threads let go of a database some time after the last handle to it.
        assert_eq!(error.kind(), StoreErrorKind::InUse, "{error}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

async fn check_opens(path: &Path, record: &Record) {
    let store = SledStore::open(path).unwrap();
    assert_holds(&store, record, "restored").await;
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_backup_that_is_copied_into_a_damaged_store_is_refused_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let (path, backup) = (dir.path().join("store"), dir.path().join("backup"));
    let record = spoilt(dir.path()).await;
    let first = refused(&path);
    assert!(first.starts_with(&format!("the store `{}` is damaged (", path.display())), "{first}");
    let says = format!(
        "put a backup in its place, or move it away to begin with an empty one; while `{}` is there, nothing in \
         this directory is opened: remove the whole directory before a backup is copied to its place, or that \
         file alone where nothing but a backup is beside it",
        path.join(NOTE).display()
    );
    assert!(first.ends_with(&says), "{first}");
    assert_eq!(refused(&path), first, "the same is said from then on");

    copy_into(&backup, &path);
    assert_eq!(refused(&path), first, "also of a backup that was copied into it");
    // What is said is done: either all of it is removed first, or all but the backup.
    fs::remove_dir_all(&path).unwrap();
    fs::create_dir(&path).unwrap();
    copy_into(&backup, &path);
    fs::write(path.join(NOTE), "").unwrap();
    let empty = refused(&path);
    assert!(empty.starts_with(&format!("the store `{}` is damaged; while ", path.display())), "{empty}");
    fs::remove_file(path.join(NOTE)).unwrap();
    check_opens(&path, &record).await;
    fs::remove_dir_all(&path).unwrap();
    fs::rename(&backup, &path).unwrap();
    check_opens(&path, &record).await;
}
