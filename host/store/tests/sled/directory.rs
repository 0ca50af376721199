//! The directory of a store: who may open it, what is said of one that cannot be opened, and how
//! large it grows.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use docket_store::{
    Batch, Expect, Filter, Kind, Query, Record, Revision, SledOptions, SledStore, Store as _, StoreError,
    StoreErrorKind, Sync,
};

use super::contract::{assert_absent, assert_holds, body, commit, delete, put, record, write};

#[track_caller]
fn check_refused(path: &Path, kind: StoreErrorKind, sentence: &str) {
    let refused = || SledStore::open(path).err().expect("it cannot be opened");
    let mut error = refused();
    // sled's own threads let go of a database some time after the last handle to it.
    for _ in 0..500 {
        if kind == StoreErrorKind::InUse || error.kind() != StoreErrorKind::InUse {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
        error = refused();
    }
    let shown = error.to_string().replace(&path.display().to_string(), "STORE");
    assert_eq!((error.kind(), shown.as_str()), (kind, sentence));
}

async fn filled(path: &Path) -> Vec<Record> {
    let store = SledStore::open(path).unwrap();
    let records: Vec<Record> = (0..200)
        .map(|n| Record { body: body(n * 40, n as u64), ..record(&format!("kept/{n}"), 1) })
        .collect();
    for record in &records {
        store.commit(Batch { writes: vec![put(record, Expect::Absent)], sync: Sync::Later }).await.unwrap();
    }
    store.close().await.unwrap();
    records
}

#[tokio::test]
async fn it_is_opened_again_with_what_it_holds() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("not/there/yet");
    let records = filled(&path).await;
    for _ in 0..3 {
        let store = SledStore::open(&path).unwrap();
        for record in &records {
            assert_holds(&store, record, "opened again").await;
        }
        // Dropped without being closed, it lets go all the same.
        drop(store);
    }
}

#[tokio::test]
async fn whoever_comes_second_is_told_who_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let store = SledStore::open(path).unwrap();
    let another = "the store `STORE` is in use by another process, and only one can have it";
    check_refused(path, StoreErrorKind::InUse, another);
    fs::write(path.join("docket.json"), "{\"socket\": \"/s\", \"pid\" : 4711, \"started_at\": 1}").unwrap();
    let named = "the store `STORE` is in use by the process 4711, and only one can have it";
    check_refused(path, StoreErrorKind::InUse, named);
    fs::write(path.join("docket.json"), "{\"pid\": \"x\"").unwrap();
    check_refused(path, StoreErrorKind::InUse, another);
    store.close().await.unwrap();
    SledStore::open(path).unwrap();
}

#[test]
fn another_process_is_refused_too() {
    let directory = tempfile::tempdir().unwrap();
    let _store = SledStore::open(directory.path()).unwrap();
    let db = directory.path().join("db");
    let status =
        std::process::Command::new("flock").args(["--nonblock", "--exclusive"]).arg(db).arg("true").status();
    if let Ok(status) = status {
        assert!(!status.success(), "the lock holds for other processes");
    }
}

#[test]
fn a_file_is_no_directory() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "").unwrap();
    check_refused(&path, StoreErrorKind::Unusable, "the store `STORE` is not a directory");
    let below = path.join("below");
    let error = SledStore::open(&below).err().unwrap();
    assert_eq!(error.kind(), StoreErrorKind::Unusable);
}

/// A directory in which not even the superuser may write.
fn unwritable() -> Option<PathBuf> {
    let path = PathBuf::from("/sys/docket-store-test");
    let refused = fs::create_dir(&path).err()?;
    (refused.kind() == std::io::ErrorKind::PermissionDenied
        || refused.kind() == std::io::ErrorKind::ReadOnlyFilesystem)
        .then_some(path)
}

#[test]
fn a_directory_that_may_not_be_written_is_named() {
    if let Some(path) = unwritable() {
        let error = SledStore::open(&path).err().unwrap();
        assert_eq!(error.kind(), StoreErrorKind::Unusable);
        let beginning =
            format!("the store `{}` cannot be made, because this user may not write there", path.display());
        assert!(error.to_string().starts_with(&beginning), "{error}");
    }
}

/// Closes a database. sled lets go of its lock in a thread of its own, a moment after the last handle is gone.
fn let_go(path: &Path, db: sled::Db) {
    drop(db);
    let file = fs::File::open(path.join("db")).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
}

fn open_sled(path: &Path) -> sled::Db {
    sled::Config::new().path(path).open().unwrap()
}

#[tokio::test]
async fn another_format_is_named_beside_the_one_that_is_read_and_an_earlier_one_with_the_way_out() {
    let way = "; let the release that wrote it export it (`docket-host store export`), and this one import \
               that into a new store (`docket-host store import`)";
    for (format, way) in [("5", ""), ("3", way), ("2", way), ("1", way), ("x\n", "")] {
        let directory = tempfile::tempdir().unwrap();
        filled(directory.path()).await;
        let db = open_sled(directory.path());
        db.insert("m/format", format).unwrap();
        db.flush().unwrap();
        let_go(directory.path(), db);
        let format = format.escape_debug();
        let sentence = format!("the store `STORE` has the format {format}, and this release reads 4{way}");
        check_refused(directory.path(), StoreErrorKind::Corrupt, &sentence);
    }
}

#[test]
fn another_sled_database_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let db = open_sled(directory.path());
    db.insert("theirs", "theirs").unwrap();
    db.flush().unwrap();
    let_go(directory.path(), db);
    let sentence = "the directory `STORE` holds a sled database that is not a store of Docket";
    check_refused(directory.path(), StoreErrorKind::Unusable, sentence);
    assert_eq!(open_sled(directory.path()).len(), 1);
}

/// Takes from the database what it has of the log, as if sled had lost all that it was given.
fn without_merged(path: &Path) {
    let db = open_sled(path);
    let keys: Vec<_> = db.iter().keys().map(Result::unwrap).filter(|key| **key != *b"m/format").collect();
    keys.iter().for_each(|key| drop(db.remove(key).unwrap()));
    db.flush().unwrap();
    let_go(path, db);
}

#[tokio::test]
async fn a_database_that_is_behind_its_log_is_brought_up_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let records = filled(directory.path()).await;
    without_merged(directory.path());
    let store = SledStore::open(directory.path()).unwrap();
    for record in &records {
        assert_holds(&store, record, "read from the log").await;
    }
    let query = Query::Newest { kind: Kind::Result, filter: Filter::default(), after: None };
    assert_eq!(store.scan(&query, 1000).await.unwrap().records.len(), records.len());
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_database_to_which_its_log_does_not_go_back_is_damaged() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path()).await;
    let store = SledStore::open(directory.path()).unwrap();
    write(&store, vec![put(&record("later", 1), Expect::Absent)]).await;
    store.close().await.unwrap();
    without_merged(directory.path());
    let sentence = "the store `STORE` is damaged (its log goes on with 202 where 1 must be): put a backup of \
                    the whole directory in its place, or move it away to begin with an empty one";
    check_refused(directory.path(), StoreErrorKind::Corrupt, sentence);
}

fn summaries(path: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(path).unwrap().flatten().map(|file| file.path());
    files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("snap.")).collect()
}

#[tokio::test]
async fn a_damaged_summary_is_put_aside_and_the_log_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let records = filled(&path).await;
    // sled writes its summary when it opens.
    SledStore::open(&path).unwrap().close().await.unwrap();
    let summaries = summaries(&path);
    assert!(!summaries.is_empty());
    for summary in &summaries {
        let mut bytes = fs::read(summary).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        bytes.truncate(middle + 20);
        fs::write(summary, bytes).unwrap();
    }
    let store = SledStore::open(&path).unwrap();
    for record in &records {
        assert_holds(&store, record, "read from the log").await;
    }
    let copy = directory.path().join("store.damaged-1");
    assert!(!self::summaries(&copy).is_empty(), "what was found damaged is kept");
    store.close().await.unwrap();
}

/// Copies the files of a store that is closed.
fn copied(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap().flatten().filter(|file| file.path().is_file()) {
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// What became of a store in whose database some bytes were spoilt: every record is what was written, or
/// somebody is told.
async fn opened_spoilt(path: &Path, records: &[Record]) -> Result<(), StoreError> {
    let mut opened = SledStore::open(path);
    // A thread that sled has left behind, when it gave up, may have the lock for a moment.
    for _ in 0..1_000 {
        if !matches!(&opened, Err(error) if error.kind() == StoreErrorKind::InUse) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
        opened = SledStore::open(path);
    }
    let store = opened?;
    let mut told = Ok(());
    for record in records {
        // sled panics where it reads what it does not expect.
        let (asked, kind, key) = (store.clone(), record.kind, record.key.clone());
        let mut asking = tokio::task::JoinSet::new();
        asking.spawn(async move { asked.get(kind, &key).await });
        match asking.join_next().await.expect("one is asked") {
            Ok(Ok(found)) => assert_eq!(found.record.as_ref(), Some(record), "lost unseen"),
            Ok(Err(error)) => told = Err(error),
            Err(panic) => told = Err(StoreError::new(StoreErrorKind::Corrupt, panic.to_string())),
        }
    }
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_within_a_database_is_told_of_whatever_sled_makes_of_it() {
    check_damage(800, 700, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_within_a_database_is_told_of_where_the_log_keeps_nothing() {
    // So much that the log has nothing of it once the store is closed, and sled's summary is of the time before.
    check_damage(400, 6_000, false).await;
}

async fn check_damage(count: u64, bytes: usize, is_summed_up: bool) {
    const SEGMENT: u64 = 512 << 10;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let mut records = Vec::new();
    for round in 1..=4_u64 {
        let store = SledStore::open(&path).unwrap();
        records = (0..count)
            .map(|n| Record { body: body(bytes, n + round), ..record(&format!("kept/{n}"), round) })
            .collect();
        for some in records.chunks(100) {
            let writes = some.iter().map(|record| put(record, Expect::Any)).collect();
            store.commit(Batch { writes, sync: Sync::Later }).await.unwrap();
        }
        store.close().await.unwrap();
    }
    if is_summed_up {
        SledStore::open(&path).unwrap().close().await.unwrap();
    }
    let length = fs::metadata(path.join("db")).unwrap().len();
    // The head of one of sled's segments, what is in its midst, and the half of it.
    let spoilt_at = [
        (0, vec![0xa5; 20]),
        (SEGMENT / 5, vec![0xa5]),
        (SEGMENT / 3, vec![0xa5; 64]),
        (SEGMENT / 2, vec![0; 256 << 10]),
    ];
    let (mut refused, mut mended) = (0, 0);
    for (segment, without_summary) in (0..length / SEGMENT).flat_map(|n| [(n, false), (n, true)]) {
        for (kind, (at, bytes)) in spoilt_at.iter().enumerate() {
            let spoilt = directory.path().join(format!("spoilt-{segment}-{without_summary}-{kind}"));
            copied(&path, &spoilt);
            if without_summary {
                summaries(&spoilt).iter().for_each(|summary| fs::write(summary, "spoilt").unwrap());
            }
            let file = fs::OpenOptions::new().write(true).open(spoilt.join("db")).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, bytes, segment * SEGMENT + at).unwrap();
            drop(file);
            // Twice: what sled has mended it opens without a word.
            for _ in 0..2 {
                match opened_spoilt(&spoilt, &records).await {
                    Ok(()) => mended += 1,
                    Err(error) => {
                        assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{error}");
                        refused += 1;
                    }
                }
            }
            fs::remove_dir_all(&spoilt).unwrap();
        }
    }
    assert!(refused > 0 && mended > 0, "{refused} were refused and {mended} had nothing to lose there");
}

#[tokio::test]
async fn a_long_log_that_a_crash_has_left_is_not_cut_without_a_mark() {
    let directory = tempfile::tempdir().unwrap();
    let (path, left) = (directory.path().join("store"), directory.path().join("left"));
    let store = SledStore::open(&path).unwrap();
    for n in 0..50 {
        let record = Record { body: body(60_000, n), ..record(&format!("kept/{n}"), 1) };
        write(&store, vec![put(&record, Expect::Absent)]).await;
    }
    // What is there while the store is open is what a crash leaves.
    copied(&path, &left);
    store.close().await.unwrap();
    let store = SledStore::open(&left).unwrap();
    assert!(store.get(Kind::Result, &record("kept/49", 1).key).await.unwrap().record.is_some());
    store.close().await.unwrap();
    without_merged(&left);
    let error = SledStore::open(&left).err().expect("the database does not go on to its log");
    let said = error.to_string();
    assert!(error.kind() == StoreErrorKind::Corrupt && said.contains("its log goes on with"), "{said}");
}

#[tokio::test]
async fn a_database_that_is_mended_without_one_of_its_records_is_refused_from_then_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    filled(&path).await;
    let db = open_sled(&path);
    let lost = db.scan_prefix("r").keys().nth(70).unwrap().unwrap();
    db.remove(lost).unwrap();
    db.flush().unwrap();
    let_go(&path, db);
    summaries(&path).iter().for_each(|summary| fs::write(summary, "spoilt").unwrap());
    for _ in 0..2 {
        let error = SledStore::open(&path).err().expect("a record is gone");
        let said =
            "then: of 200 records 199 are there and 200 are listed, not all of them as they were written";
        assert!(error.kind() == StoreErrorKind::Corrupt && error.to_string().contains(said), "{error}");
        let file = fs::File::open(path.join("db")).unwrap();
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    }
    assert!(!directory.path().join("store.damaged-2").exists(), "one copy is enough");
}

#[tokio::test]
async fn a_database_in_which_nothing_is_found_any_more_is_copied_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    filled(&path).await;
    let length = fs::metadata(path.join("db")).unwrap().len();
    fs::write(path.join("db"), vec![0; usize::try_from(length).unwrap()]).unwrap();
    for _ in 0..3 {
        // sled's own threads let go of a database some time after the last handle to it.
        let mut error = SledStore::open(&path).err().expect("its records are gone");
        while error.kind() == StoreErrorKind::InUse {
            std::thread::sleep(Duration::from_millis(10));
            error = SledStore::open(&path).err().expect("its records are gone");
        }
        let said = error.to_string();
        assert!(error.kind() == StoreErrorKind::Corrupt && said.contains("store.damaged-1"), "{said}");
    }
    assert!(!directory.path().join("store.damaged-2").exists(), "one copy is enough");
}

#[tokio::test]
async fn a_database_that_cannot_be_read_is_copied_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    filled(&path).await;
    fs::write(path.join("conf"), "segment_size: 512\nuse_compression: what\nversion: 0.34\ngarbage").unwrap();
    let error: StoreError = SledStore::open(&path).err().unwrap();
    assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{error}");
    let copy = directory.path().join("store.damaged-1");
    assert!(error.to_string().contains(&copy.display().to_string()), "{error}");
    assert_eq!(fs::read(copy.join("conf")).unwrap(), fs::read(path.join("conf")).unwrap());
    assert_eq!(fs::read(copy.join("db")).unwrap(), fs::read(path.join("db")).unwrap());
}

#[tokio::test]
async fn a_store_whose_making_was_cut_off_is_made_again_and_a_store_that_was_made_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    fs::create_dir(&path).unwrap();
    // What the loss of power can leave of sled's first file: its length, and any part of what it says.
    for torn in [vec![], b"segment_size: 524288".to_vec(), vec![0; 62]] {
        fs::write(path.join("conf"), torn).unwrap();
        let store = SledStore::open(&path).unwrap();
        let record = record("kept", 1);
        store.commit(Batch { writes: vec![put(&record, Expect::Absent)], sync: Sync::Now }).await.unwrap();
        store.close().await.unwrap();
        fs::write(path.join("conf"), [0; 62]).unwrap();
        let error = SledStore::open(&path).err().expect("a record is in it");
        assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{error}");
        assert!(
            !directory.path().join("store.damaged-2").exists(),
            "only the store that was made was copied"
        );
        fs::remove_dir_all(&path).unwrap();
        fs::remove_dir_all(directory.path().join("store.damaged-1")).unwrap();
        fs::create_dir(&path).unwrap();
    }
}

#[tokio::test]
async fn a_disk_that_is_nearly_full_takes_no_more_and_is_still_read() {
    let directory = tempfile::tempdir().unwrap();
    let records = filled(directory.path()).await;
    let options = SledOptions { reserve_bytes: u64::MAX / 2, ..SledOptions::default() };
    let store = SledStore::open_with(directory.path(), options).unwrap();
    let new = record("new", 1);
    let error = commit(&store, vec![put(&new, Expect::Absent)]).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unusable);
    assert!(error.to_string().starts_with("the disk of the store `"), "{error}");
    assert_holds(&store, &records[3], "read from a full disk").await;
    assert_absent(&store, &new, "refused").await;
    store.sync().await.unwrap();
    store.close().await.unwrap();
}

fn size(path: &Path) -> u64 {
    let files = fs::read_dir(path).unwrap().flatten();
    files
        .map(|file| if file.path().is_dir() { size(&file.path()) } else { file.metadata().unwrap().len() })
        .sum()
}

#[tokio::test]
async fn a_store_that_was_closed_has_little_log_to_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let logs = || ["log.0", "log.1"].map(|log| fs::metadata(directory.path().join(log)).unwrap().len());
    let records: Vec<Record> =
        (0..60).map(|n| Record { body: body(100_000, n), ..record(&format!("long/{n}"), 1) }).collect();
    let store = SledStore::open(directory.path()).unwrap();
    for record in &records {
        write(&store, vec![put(record, Expect::Absent)]).await;
    }
    assert!(logs().into_iter().max() > Some(6_000_000), "{:?}", logs());
    store.close().await.unwrap();
    assert!(logs().into_iter().max() <= Some(1 << 20), "{:?}", logs());
    // What is written next is safe behind the shorter ones, too.
    for _ in 0..2 {
        let store = SledStore::open(directory.path()).unwrap();
        for record in &records {
            assert_holds(&store, &Record { revision: Revision(1), ..record.clone() }, "opened again").await;
        }
        let last = &records[59];
        write(&store, vec![delete(last, Expect::Any)]).await;
        write(&store, vec![put(last, Expect::Absent)]).await;
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn large_values_give_their_space_back() {
    const LEN: usize = 256 << 10;
    let directory = tempfile::tempdir().unwrap();
    let store = SledStore::open(directory.path()).unwrap();
    // The log is as long as it ever gets, whatever is there.
    const LOG: u64 = 2 * (25 << 20);
    let mut sizes = Vec::new();
    for round in 0..80 {
        for n in 0..10 {
            let revision = 1 + round * 10 + n;
            let large = Record { body: body(LEN, revision), ..record(&format!("large/{n}"), revision) };
            write(&store, vec![put(&large, Expect::Any)]).await;
        }
        let logs = ["log.0", "log.1"].map(|log| fs::metadata(directory.path().join(log)).unwrap().len());
        let log: u64 = logs.iter().sum();
        assert!(log < LOG, "the log has {} KiB", log >> 10);
        sizes.push(size(directory.path()) - log);
    }
    for n in 0..10 {
        write(&store, vec![delete(&record(&format!("large/{n}"), 1), Expect::Any)]).await;
    }
    let mixed: Vec<Record> =
        (0..40).map(|n| Record { body: body(5000, n), ..record(&format!("small/{n}"), 1) }).collect();
    for record in &mixed {
        write(&store, vec![put(record, Expect::Absent)]).await;
        assert_holds(&store, &Record { revision: Revision(1), ..record.clone() }, "beside large ones").await;
    }
    store.close().await.unwrap();
    let blobs = fs::read_dir(directory.path().join("blobs")).unwrap().count();
    assert_eq!(blobs, 0, "sled never gives back the files that it makes for large values");
    let live = 10 * LEN as u64;
    let last = *sizes.last().unwrap();
    assert!(last < 20 * live, "{} KiB for {} KiB that are there: {sizes:?}", last >> 10, live >> 10);
    assert!(last < 2 * sizes[39], "it grows on and on: {sizes:?}");
}
