//! The store as a whole: what it says of itself, its time, its wake-ups, its end, and two handles on
//! one store.

use std::sync::Arc;
use std::time::Duration;

use docket_store::{
    Clock as _, Expect, Filter, Kind, Query, Record, Revision, Sharing, Store, StoreErrorKind, SystemClock,
    Timestamp, owner,
};
use tokio::task::JoinSet;

use super::{
    assert_absent, assert_conflict, assert_holds, body, commit, delete, key, pause, put, record, renew,
    running, write,
};

pub(crate) async fn all(open: &impl AsyncFn() -> Arc<dyn Store>) {
    abilities_stay_what_they_are(&*open().await).await;
    time_goes_forward_and_is_the_time(&*open().await).await;
    whoever_waits_is_woken_or_sent_back_in_time(&open().await).await;
    a_sync_is_answered(&*open().await).await;
    a_closed_store_refuses_everything(&*open().await).await;
}

async fn abilities_stay_what_they_are(store: &dyn Store) {
    let abilities = store.abilities();
    write(store, vec![put(&record("any", 1), Expect::Absent)]).await;
    assert_eq!(store.abilities(), abilities);
    assert!(abilities.max_body <= i64::MAX as u64);
    assert!(!store.is_gone("an owner of whom nobody knows"));
    if let Some(poll) = abilities.poll {
        assert!((Duration::from_millis(1)..=Duration::from_secs(5)).contains(&poll), "{poll:?}");
    }
}

async fn time_goes_forward_and_is_the_time(store: &dyn Store) {
    // The servers of the tests run on this machine; what may differ is the reading of a slice of time.
    const APART: u64 = 2_000;
    let mut last = Timestamp(0);
    for n in 0..30 {
        let now = if n % 2 == 0 {
            store.get(Kind::Result, &key("none")).await.unwrap().now
        } else {
            store.scan(&Query::Expired, 1).await.unwrap().now
        };
        assert!(now >= last, "from {last} back to {now}");
        last = now;
        let here = SystemClock.now();
        assert!(here.0.abs_diff(now.0) < APART, "the store has {now}, this machine {here}");
    }
    pause(Duration::from_millis(60)).await;
    let later = store.get(Kind::Result, &key("none")).await.unwrap().now;
    assert!((50..APART).contains(&(later.0 - last.0)), "60 ms were {} ms", later.0 - last.0);
}

/// Spawns a wait for the record; the answer says how long it took.
fn wait(waiters: &mut JoinSet<Duration>, store: &Arc<dyn Store>, name: &'static str, most: Duration) {
    let store = Arc::clone(store);
    waiters.spawn(async move {
        let begun = SystemClock.now();
        store.changed(Kind::Result, &key(name), most).await;
        SystemClock.now().since(begun)
    });
}

async fn whoever_waits_is_woken_or_sent_back_in_time(store: &Arc<dyn Store>) {
    let slack = Duration::from_secs(2);
    let mut waiters = JoinSet::new();
    for most in [0, 1, 100] {
        wait(&mut waiters, store, "never", Duration::from_millis(most));
    }
    while let Some(waited) = waiters.join_next().await {
        assert!(waited.unwrap() < slack, "nothing changes, and the time is over");
    }
    is_woken(store, store).await;
}

/// Waits at one handle while the record changes at another: by puts, then by a removal.
async fn is_woken(waiting: &Arc<dyn Store>, writing: &Arc<dyn Store>) {
    let wakes = waiting.abilities().poll.is_none();
    let most = if wakes { Duration::from_secs(30) } else { Duration::from_millis(500) };
    let mut waiters = JoinSet::new();
    let mut revision = 0;
    for _ in 0..8 {
        wait(&mut waiters, waiting, "awaited", most);
    }
    // Again and again, because a waiter may not yet have been there.
    while !waiters.is_empty() {
        revision += 1;
        assert!(revision < 200, "nobody is woken by a put");
        write(&**writing, vec![put(&record("awaited", revision), Expect::Any)]).await;
        pause(Duration::from_millis(50)).await;
        while let Some(waited) = waiters.try_join_next() {
            waited.unwrap();
        }
    }
    wait(&mut waiters, waiting, "awaited", most);
    while !waiters.is_empty() {
        revision += 1;
        assert!(revision < 400, "nobody is woken by a removal");
        write(&**writing, vec![put(&record("awaited", revision), Expect::Any)]).await;
        write(&**writing, vec![delete(&record("awaited", 0), Expect::Any)]).await;
        pause(Duration::from_millis(50)).await;
        while let Some(waited) = waiters.try_join_next() {
            waited.unwrap();
        }
    }
}

async fn a_sync_is_answered(store: &dyn Store) {
    store.sync().await.unwrap();
    let written = record("synced", 1);
    write(store, vec![put(&written, Expect::Absent)]).await;
    store.sync().await.unwrap();
    assert_holds(store, &written, "synced").await;
}

async fn a_closed_store_refuses_everything(store: &dyn Store) {
    let written = record("closed", 1);
    write(store, vec![put(&written, Expect::Absent)]).await;
    store.close().await.unwrap();
    let answers = [
        store.get(Kind::Result, &written.key).await.map(drop),
        commit(store, vec![delete(&written, Expect::Any)]).await,
        store.scan(&Query::Expired, 1).await.map(drop),
        store.sync().await,
    ];
    for answer in answers {
        let error = answer.expect_err("the store is closed");
        assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
    }
    store.changed(Kind::Result, &written.key, Duration::from_millis(10)).await;
    store.close().await.unwrap();
    assert_eq!(store.abilities(), store.abilities());
}

/// Two handles on one store: what one writes, the other reads, lists, refuses and is woken by.
pub(crate) async fn shared(a: &Arc<dyn Store>, b: &Arc<dyn Store>) {
    assert_eq!(a.abilities(), b.abilities());
    assert!(!b.is_gone(&owner(&**a, "somebody")) && !a.is_gone(&owner(&**b, "somebody")), "both are here");
    let by_a = Record { body: body(200_000, 1), ..record("shared/a", 1) };
    write(&**a, vec![put(&by_a, Expect::Absent)]).await;
    assert_holds(&**b, &by_a, "written by the other").await;
    assert_conflict(commit(&**b, vec![put(&by_a, Expect::Absent)]).await, "written by the other");
    let by_b = Record { body: body(10, 2), ..record("shared/a", 2) };
    write(&**b, vec![put(&by_b, Expect::Revision(Revision(1)))]).await;
    assert_holds(&**a, &by_b, "replaced by the other").await;
    assert_conflict(
        commit(&**a, vec![put(&by_a, Expect::Revision(Revision(1)))]).await,
        "replaced by the other",
    );

    let mut claim = running("shared/claim", 5, Timestamp(100));
    write(&**a, vec![put(&claim, Expect::Absent)]).await;
    write(&**a, vec![renew(&claim, Revision(5), Timestamp(200))]).await;
    claim.facts.lease_until = Some(Timestamp(200));
    assert_holds(&**b, &claim, "renewed by the other").await;
    let taken = Record { revision: Revision(6), ..claim.clone() };
    write(&**b, vec![put(&taken, Expect::Revision(Revision(5)))]).await;
    assert_conflict(
        commit(&**a, vec![renew(&claim, Revision(5), Timestamp(300))]).await,
        "taken by the other",
    );

    let listed = Query::Newest { kind: Kind::Result, filter: Filter::default(), after: None };
    let (from_a, from_b) = (a.scan(&listed, 10).await.unwrap(), b.scan(&listed, 10).await.unwrap());
    assert_eq!(from_a.records, from_b.records);
    assert_eq!(from_a.records.len(), 2);
    write(&**a, vec![delete(&by_b, Expect::Any)]).await;
    assert_absent(&**b, &by_b, "removed by the other").await;
    if a.abilities().sharing != Sharing::Process {
        is_woken(a, b).await;
    }
}
