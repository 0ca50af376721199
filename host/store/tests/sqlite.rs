//! The SQLite store keeps every promise of a store, in files that several processes may share, with
//! tables that people can ask.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]
#![cfg(feature = "sqlite")]

mod contract;
mod disk;
mod sql;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use docket_store::{Batch, Durability, Expect, Query, SqliteStore, Store, StoreErrorKind, Sync};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _, SqliteConnection};
use tokio::task::JoinSet;

use self::contract::{assert_absent, assert_conflict, assert_holds, body, commit, put, record, write};
use self::disk::check_on_a_small_disk;
use self::sql::assert_refused;

async fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path).await.unwrap()
}

/// Opens the file as people would.
async fn ask(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).connect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    contract::all(async || Arc::new(open(&dir.path().join(sql::unique("s"))).await) as Arc<dyn Store>).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_handles_on_a_file_are_one_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shared.db");
    contract::shared(Arc::new(open(&path).await), Arc::new(open(&path).await)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn processes_that_migrate_at_once_find_the_same_tables() {
    for _ in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new.db");
        let connect = async |path: String| SqliteStore::open(path).await;
        sql::migrated_by_many_at_once(path.to_str().unwrap(), "open_in_a_child", connect).await;
    }
}

#[tokio::test]
#[ignore = "run by `processes_that_migrate_at_once_find_the_same_tables`"]
async fn open_in_a_child() {
    open(Path::new(&sql::server("DOCKET_TEST_OPEN"))).await.close().await.unwrap();
}

#[tokio::test]
async fn tables_of_a_later_version_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("later.db");
    open(&path).await.close().await.unwrap();
    let mut session = ask(&path).await;
    sqlx::raw_sql("INSERT INTO docket_migration VALUES (7, 0)").execute(&mut session).await.unwrap();
    session.close().await.unwrap();
    let says = "was written by a later version of Docket: its tables have version 7, and this one knows those up to 1";
    assert_refused(SqliteStore::open(&path).await, StoreErrorKind::Corrupt, says);
}

#[tokio::test]
async fn what_is_no_database_or_cannot_be_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text");
    std::fs::write(
        &text,
        "a text that is long enough to be read as the head of a database, of a hundred bytes, \
                           so that nobody takes it for an empty one",
    )
    .unwrap();
    let name = format!("the SQLite database `{}` ", text.display());
    assert_refused(
        SqliteStore::open(&text).await,
        StoreErrorKind::Corrupt,
        &format!("{name}is no SQLite database"),
    );
    let says = "its directory must be there and may be written";
    for path in
        [dir.path().join("none/x.db"), text.join("x.db"), PathBuf::from("/proc/x.db"), dir.path().to_owned()]
    {
        assert_refused(SqliteStore::open(&path).await, StoreErrorKind::Unusable, says);
    }
    let says = "cannot have a write-ahead log, only `memory`";
    assert_refused(SqliteStore::open(":memory:").await, StoreErrorKind::Unusable, says);
}

#[tokio::test]
async fn a_damaged_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("damaged.db");
    let store = open(&path).await;
    for n in 0..50 {
        let mut record = record(&format!("r{n}"), 1);
        record.body = body(4_000, n);
        write(&store, vec![put(&record, Expect::Absent)]).await;
    }
    store.close().await.unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let half = bytes.len() / 2;
    bytes[4096 * 2..half].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
    let error = match SqliteStore::open(&path).await {
        Ok(store) => store.scan(&Query::Expired, 10).await.err().or(read_all(&store).await).unwrap(),
        Err(error) => error,
    };
    assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("is damaged"), "{error}");
}

async fn read_all(store: &SqliteStore) -> Option<docket_store::StoreError> {
    for n in 0..50 {
        let key = record(&format!("r{n}"), 1).key;
        if let Err(error) = store.get(docket_store::Kind::Result, &key).await {
            return Some(error);
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_refused_batch_of_a_group_takes_no_other_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("group.db");
    let store = Arc::new(open(&path).await);
    write(&*store, vec![put(&record("there", 1), Expect::Absent)]).await;
    // Somebody else writes, so that what comes meanwhile is one group.
    let mut other = ask(&path).await;
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let mut tasks = JoinSet::new();
    for n in 0..100_u64 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let first = record(&format!("{n}/first"), 1);
            let second = if n % 3 == 0 { record("there", 2) } else { record(&format!("{n}/second"), 1) };
            let batch = vec![put(&first, Expect::Absent), put(&second, Expect::Absent)];
            (n, first, commit(&*store, batch).await)
        });
    }
    contract::pause(Duration::from_millis(300)).await;
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    while let Some(done) = tasks.join_next().await {
        let (n, first, answer) = done.unwrap();
        if n % 3 == 0 {
            assert_conflict(answer, "`there` is there");
            assert_absent(&*store, &first, "refused with its batch").await;
        } else {
            answer.unwrap();
            assert_holds(&*store, &first, "written in spite of the others").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_dropped_commit_is_never_half_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("dropped.db")).await;
    sql::a_dropped_commit_is_never_half_written(Arc::new(store)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn people_can_ask_the_views() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("views.db");
    let store = open(&path).await;
    let now = store.scan(&Query::Expired, 1).await.unwrap().now;
    write(&store, sql::example(now)).await;
    let mut session = ask(&path).await;
    for (asked, expected) in sql::QUESTIONS {
        let mut lines = Vec::new();
        for row in sqlx::query(AssertSqlSafe(*asked)).fetch_all(&mut session).await.unwrap() {
            let words = (0..row.len()).map(|column| {
                row.try_get::<i64, _>(column).map_or_else(|_| row.get::<String, _>(column), |n| n.to_string())
            });
            lines.push(words.collect::<Vec<_>>().join(" "));
        }
        lines.sort();
        assert_eq!(lines.join("; "), *expected, "{asked}");
        // The shell of the distribution is older than the SQLite that is built in.
        if let Ok(shell) = Command::new("sqlite3").args(["-separator", " "]).arg(&path).arg(asked).output() {
            assert!(shell.status.success(), "{}", String::from_utf8_lossy(&shell.stderr));
            let answer = String::from_utf8(shell.stdout).unwrap();
            let mut lines: Vec<_> = answer.lines().collect();
            lines.sort_unstable();
            assert_eq!(lines.join("; "), *expected, "{asked}, asked in the shell");
        }
    }
    let asked = "SELECT created_at FROM docket_results WHERE result_key = 'done'";
    let row = sqlx::query(asked).fetch_one(&mut session).await.unwrap();
    assert_eq!(row.get::<String, _>(0), "2026-09-21 14:13:20.000");
}

#[test]
fn a_full_disk_is_named_and_the_store_goes_on_when_there_is_space() {
    check_on_a_small_disk("fill_the_disk_in_a_child", 2, "DOCKET_TEST_OPEN", "small.db");
}

#[test]
fn a_disk_that_is_full_before_a_database_is_opened_is_named() {
    check_on_a_small_disk("open_on_a_full_disk_in_a_child", 2, "DOCKET_TEST_OPEN", "small.db");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by `a_disk_that_is_full_before_a_database_is_opened_is_named`"]
async fn open_on_a_full_disk_in_a_child() {
    let there = PathBuf::from(sql::server("DOCKET_TEST_OPEN"));
    let new = there.with_file_name("new.db");
    open(&there).await.close().await.unwrap();
    let ballast = there.with_extension("ballast");
    let full = std::fs::write(&ballast, vec![7; 4 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    // Nothing is left, then too little for the index of the log, then enough for little more.
    for left in [0, 12 << 10, 36 << 10] {
        let filled = std::fs::metadata(&ballast).unwrap().len();
        std::fs::OpenOptions::new().write(true).open(&ballast).unwrap().set_len(filled - left).unwrap();
        for path in [&new, &there] {
            let Err(error) = SqliteStore::open(path).await else {
                assert!(left > 0 && path == &there, "nothing is to be written to open it");
                continue;
            };
            let name = format!("the SQLite database `{}` has no space left on its disk: ", path.display());
            assert!(error.to_string().starts_with(&name), "with {left} bytes: {error}");
            assert_eq!(error.kind(), StoreErrorKind::Unusable);
        }
    }
    std::fs::remove_file(ballast).unwrap();
    for path in [&new, &there] {
        open(path).await.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by `a_full_disk_is_named_and_the_store_goes_on_when_there_is_space`"]
async fn fill_the_disk_in_a_child() {
    let path = PathBuf::from(sql::server("DOCKET_TEST_OPEN"));
    let store = open(&path).await;
    let ballast = path.with_extension("ballast");
    std::fs::write(&ballast, vec![7; 600 << 10]).unwrap();
    let mut written = Vec::new();
    let error = loop {
        let mut next = record(&format!("r{}", written.len()), 1);
        next.body = body(60_000, written.len() as u64);
        let batch = vec![
            put(&next, Expect::Absent),
            put(&record(&format!("beside/{}", next.key), 1), Expect::Absent),
        ];
        match store.commit(Batch { writes: batch, sync: Sync::Now }).await {
            Ok(()) => written.push(next),
            Err(error) => break error,
        }
        assert!(written.len() < 1000);
    };
    assert_eq!(error.kind(), StoreErrorKind::Unusable, "{error}");
    assert!(error.to_string().contains("has no space left on its disk"), "{error}");
    std::fs::remove_file(ballast).unwrap();
    let next = record("after", 1);
    write(&store, vec![put(&next, Expect::Absent)]).await;
    assert_holds(&store, &next, "there is space again").await;
    for record in &written {
        assert_holds(&store, record, "confirmed").await;
    }
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_says_what_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("able.db")).await;
    let abilities = store.abilities();
    assert_eq!((abilities.scheme, abilities.durability), ("sqlite", Durability::Power));
    let mut large = record("large", 1);
    large.body = body(64 << 20, 5);
    write(&store, vec![put(&large, Expect::Absent)]).await;
    assert_holds(&store, &large, "64 MiB").await;
}
