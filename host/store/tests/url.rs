//! A store is opened by its address, and what one process holds is reached through it.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]
#![cfg(all(unix, feature = "sled"))]

mod contract;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use docket_store::{
    Expect, Kind, OpenedStore, SledStore, StoreError, StoreErrorKind, StoreUrl, Timestamp, WhenHeld,
    announce, holder, open,
};
use tokio::task::JoinSet;

fn url(dir: &Path) -> StoreUrl {
    StoreUrl::parse(&format!("sled:{}", dir.display())).unwrap()
}

async fn attach(dir: &Path) -> Result<OpenedStore, StoreError> {
    open(&url(dir), WhenHeld::Attach).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_held_store_is_reached_through_its_holder() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let first = attach(&path).await.unwrap();
    assert!(first.is_served() && first.attached_to.is_none() && first.warning.is_none(), "{first:?}");
    let second = attach(&path).await.unwrap();
    let through = second.attached_to.clone().unwrap();
    assert_eq!(through.pid, std::process::id());
    assert!(!second.is_served());
    assert_eq!(second.store.abilities().scheme, "sled");
    assert_eq!(second.store.abilities().durability, first.store.abilities().durability);
    contract::shared(first.store.clone(), second.store.clone()).await;

    // When the holder has gone, the next has the store for itself.
    let record = contract::record("stays", 1);
    contract::write(&*second.store, vec![contract::put(&record, Expect::Absent)]).await;
    second.close().await.unwrap();
    first.close().await.unwrap();
    assert_eq!(holder(&path), None);
    assert!(!through.socket.exists());
    let next = attach(&path).await.unwrap();
    assert_eq!(next.attached_to, None);
    contract::assert_holds(&*next.store, &record, "written through the first holder").await;
    next.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_must_have_the_store_alone_is_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let _first = attach(dir.path()).await.unwrap();
    let error = open(&url(dir.path()), WhenHeld::Refuse).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::InUse);
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_does_not_serve_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let _held = SledStore::open(dir.path()).unwrap();
    let error = attach(dir.path()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::InUse, "{error}");
    let _note = announce(dir.path(), &dir.path().join("dead.sock"), Timestamp(1)).unwrap();
    let error = attach(dir.path()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::InUse);
    let says = format!("is held by process {}, which cannot be gone through", std::process::id());
    assert!(error.to_string().contains(&says), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_holder_left_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let first = attach(dir.path()).await.unwrap();
    let note = std::fs::read(dir.path().join("docket.json")).unwrap();
    let socket = holder(dir.path()).unwrap().socket;
    first.close().await.unwrap();
    std::fs::write(dir.path().join("docket.json"), note).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let next = attach(dir.path()).await.unwrap();
    assert!(next.is_served() && next.attached_to.is_none(), "{next:?}");
    assert_eq!(attach(dir.path()).await.unwrap().attached_to.unwrap().socket, socket);
}

/// Where the child is to open a store.
const CHILD: &str = "DOCKET_TEST_HOLDS";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it is the child of the test below"]
#[expect(clippy::disallowed_methods, reason = "the edge of a test is the test")]
async fn a_child_holds_the_store_until_it_is_killed() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let opened = attach(Path::new(&dir)).await.unwrap();
    assert!(opened.is_served(), "{opened:?}");
    println!("it holds the store");
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_holder_is_killed_the_next_has_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_child_holds_the_store_until_it_is_killed", "--ignored", "--nocapture"])
        .env(CHILD, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("it holds the store")), "the child ended");

    let attached = attach(dir.path()).await.unwrap();
    assert_eq!(attached.attached_to.as_ref().unwrap().pid, child.id());
    let record = contract::record("acknowledged", 1);
    contract::write(&*attached.store, vec![contract::put(&record, Expect::Absent)]).await;
    let waiter = attached.store.clone();
    let mut waiting = JoinSet::new();
    let key = record.key.clone();
    waiting.spawn(async move { waiter.changed(Kind::Result, &key, Duration::from_secs(60)).await });

    child.kill().unwrap();
    child.wait().unwrap();
    waiting.join_next().await.unwrap().unwrap();
    let error = attached.store.get(Kind::Result, &record.key).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
    let next = attach(dir.path()).await.unwrap();
    assert!(next.is_served() && next.attached_to.is_none(), "{next:?}");
    contract::assert_holds(&*next.store, &record, "acknowledged by the killed holder").await;
    contract::assert_holds(&*attached.store, &record, "a client finds the next holder").await;
    next.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_be_served_is_used_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("docket.sock"), "in the way").unwrap();
    let opened = attach(dir.path()).await.unwrap();
    assert!(!opened.is_served());
    assert!(opened.warning.unwrap().contains("there is a file in its place"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_and_sqlite_are_opened_by_their_addresses() {
    let dir = tempfile::tempdir().unwrap();
    let sqlite = format!("sqlite:{}", dir.path().join("a.db").display());
    for (address, scheme) in [("memory:", "memory"), (&sqlite, "sqlite")] {
        let opened = open(&StoreUrl::parse(address).unwrap(), WhenHeld::Refuse).await.unwrap();
        assert_eq!(opened.store.abilities().scheme, scheme);
        opened.close().await.unwrap();
    }
}

#[tokio::test]
async fn an_address_that_cannot_be_used_is_shown_without_its_password() {
    for address in [
        "postgres://u:secret@127.0.0.1:1/d",
        "mysql://u:secret@127.0.0.1:1/d",
        "redis://u:secret@127.0.0.1:1",
    ] {
        let error = open(&StoreUrl::parse(address).unwrap(), WhenHeld::Refuse).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
