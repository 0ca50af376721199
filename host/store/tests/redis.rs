//! The Redis store keeps every promise of a store on a real server, and says what a server lacks.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]
#![cfg(feature = "redis")]

mod contract;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use docket_store::{
    Batch, Durability, Expect, Filter, Kind, Query, RedisStore, Revision, Store, StoreErrorKind, Sync,
};
use tokio::task::JoinSet;

use self::wire::{Proxy, fake_server};

/// Returns the address of the server, without a namespace.
#[expect(clippy::disallowed_methods, reason = "the edge of a test is the test")]
fn server() -> String {
    let run = "DOCKET_TEST_REDIS is not set: run `make test`, or this test below `tests/servers.sh run`";
    std::env::var("DOCKET_TEST_REDIS").expect(run).trim_end_matches('/').to_owned()
}

/// Returns a namespace that nobody else has.
fn namespace() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let started = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    format!("t-{}-{started}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

async fn open(namespace: &str) -> RedisStore {
    RedisStore::connect(&format!("{}?prefix={namespace}", server())).await.unwrap()
}

/// Runs a command as `redis-cli` would, and returns the answer.
async fn ask<T: redis::FromRedisValue>(command: &str) -> T {
    let client = redis::Client::open(server()).unwrap();
    let mut line = client.get_multiplexed_async_connection().await.unwrap();
    let mut words = command.split(' ');
    let mut asked = redis::cmd(words.next().unwrap());
    words.for_each(|word| {
        asked.arg(word);
    });
    asked.query_async(&mut line).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_keeps_the_contract() {
    contract::all(async || {
        let store: Arc<dyn Store> = Arc::new(open(&namespace()).await);
        store
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_connections_are_one_store() {
    let name = namespace();
    contract::shared(Arc::new(open(&name).await), Arc::new(open(&name).await)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_server_syncs_every_commit_and_takes_64_mib() {
    let store = open(&namespace()).await;
    let abilities = store.abilities();
    assert_eq!((abilities.durability, abilities.max_body), (Durability::Power, 64 << 20));
    assert_eq!(store.warning(), None);
    let mut record = contract::record("large", 1);
    record.body = contract::body(64 << 20, 7);
    contract::write(&store, vec![contract::put(&record, Expect::Absent)]).await;
    contract::assert_holds(&store, &record, "a body of the largest size").await;
    contract::write(&store, vec![contract::delete(&record, Expect::Any)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_of_the_store_is_ever_expired_by_redis() {
    let name = namespace();
    let store = open(&name).await;
    let mut record = contract::record("brief", 1);
    record.facts.expires_at = Some(docket_store::Timestamp(1));
    contract::write(&store, vec![contract::put(&record, Expect::Absent)]).await;
    let keys: Vec<String> = ask(&format!("KEYS docket:{{{name}}}:*")).await;
    assert!(keys.contains(&format!("docket:{{{name}}}:record:result:brief")), "{keys:?}");
    for key in keys {
        let left: i64 = ask(&format!("PTTL {key}")).await;
        assert_eq!(left, -1, "`{key}` has a time to live");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_record_leaves_nothing_behind() {
    let name = namespace();
    let store = open(&name).await;
    let mut record = contract::record("k", 1);
    record.facts.expires_at = Some(docket_store::Timestamp(1));
    record.facts.step = Some("a".into());
    record.facts.execution = Some("e-1".into());
    contract::write(&store, vec![contract::put(&record, Expect::Absent)]).await;
    // Every listing moves.
    record.revision = Revision(2);
    record.facts.step = Some("b".into());
    record.facts.execution = None;
    record.facts.tenant = "other".into();
    record.facts.status = docket_store::Status::Failed;
    record.facts.expires_at = Some(docket_store::Timestamp(2));
    contract::write(&store, vec![contract::put(&record, Expect::Revision(Revision(1)))]).await;
    let keys: Vec<String> = ask(&format!("KEYS docket:{{{name}}}:list:*")).await;
    assert_eq!(keys.len(), 4, "the kind, the tenant, the step, the status: {keys:?}");
    contract::write(&store, vec![contract::delete(&record, Expect::Revision(Revision(2)))]).await;
    let keys: Vec<String> = ask(&format!("KEYS docket:{{{name}}}:*")).await;
    assert_eq!(keys, [format!("docket:{{{name}}}:format")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_goes_on_over_many_records_that_do_not_fit() {
    let store = open(&namespace()).await;
    for chunk in 0..6_u64 {
        let records = (0..400).map(|n| {
            let mut record = contract::record(&format!("{chunk}-{n:03}"), 1);
            record.facts.created_at.0 += chunk * 1000 + n;
            // Each fact is shared by many; both together only by a few.
            record.facts.step = Some(if n % 2 == 0 { "even" } else { "odd" }.into());
            record.facts.execution = Some(if n % 200 < 100 { "low" } else { "high" }.into());
            if n == 101 {
                record.facts.execution = Some("low".into());
            }
            record
        });
        let puts = records.map(|record| contract::put(&record, Expect::Absent)).collect();
        contract::write(&store, puts).await;
    }
    let everything = Query::Newest { kind: Kind::Result, filter: Filter::default(), after: None };
    let page = store.scan(&everything, 2000).await.unwrap();
    assert_eq!((page.records.len(), page.next.is_some()), (2000, true));
    let page = store.scan(&everything, 2400).await.unwrap();
    assert_eq!((page.records.len(), page.next), (2400, None));
    let filter = Filter { step: Some("odd".into()), execution: Some("low".into()), ..Filter::default() };
    let mut query = Query::Newest { kind: Kind::Result, filter, after: None };
    let mut keys = Vec::new();
    loop {
        let page = store.scan(&query, 7).await.unwrap();
        keys.extend(page.records.iter().map(|record| record.key.to_string()));
        let Some(cursor) = page.next else { break };
        let Query::Newest { after, .. } = &mut query else { unreachable!() };
        *after = Some(cursor);
    }
    assert_eq!(keys.len(), 6 * 101);
    assert_eq!((keys[0].as_str(), keys[605].as_str()), ("5-299", "0-001"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_is_woken_by_another_connection() {
    let name = namespace();
    let (here, there) = (Arc::new(open(&name).await), open(&name).await);
    let record = contract::record("awaited", 1);
    let mut waiting = JoinSet::new();
    let (waiter, key) = (here.clone(), record.key.clone());
    waiting.spawn(async move { waiter.changed(Kind::Result, &key, Duration::from_secs(60)).await });
    // The subscription may still be on its way: write until it is heard.
    for revision in 1..100 {
        let mut record = record.clone();
        record.revision = Revision(revision);
        contract::write(&there, vec![contract::put(&record, Expect::Any)]).await;
        if tokio::time::timeout(Duration::from_millis(100), waiting.join_next()).await.is_ok() {
            return;
        }
    }
    panic!("nobody was woken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_unknown_and_a_read_is_asked_again() {
    let proxy = Proxy::start(&server()).await;
    let name = namespace();
    let store = RedisStore::connect(&proxy.url(&format!("?prefix={name}"))).await.unwrap();
    let (first, second) = (contract::record("first", 1), contract::record("second", 1));
    contract::write(&store, vec![contract::put(&first, Expect::Absent)]).await;

    proxy.swallow_next_answer();
    let writes = vec![contract::put(&second, Expect::Absent)];
    let error = store.commit(Batch { writes, sync: Sync::Now }).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unknown, "{error}");
    contract::assert_holds(&store, &second, "the server had it").await;

    proxy.swallow_next_answer();
    contract::assert_holds(&store, &first, "asked again on a new connection").await;

    proxy.refuse().await;
    let error = store.get(Kind::Result, &first.key).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
    let error = contract::commit(&store, vec![contract::delete(&first, Expect::Any)]).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "nothing was sent: {error}");

    proxy.pass();
    contract::assert_holds(&store, &first, "the server is back").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hides_its_settings_is_of_unknown_durability() {
    let name = namespace();
    let () = ask(&format!("ACL SETUSER {name} on >pass-{name} ~* &* +@all -config")).await;
    let address = server().replacen("redis://", &format!("redis://{name}:pass-{name}@"), 1);
    let store = RedisStore::connect(&format!("{address}?prefix={name}")).await.unwrap();
    assert_eq!(store.abilities().durability, Durability::Unknown);
    assert!(store.warning().unwrap().contains("`CONFIG GET`"));
    let _: u32 = ask(&format!("ACL DELUSER {name}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_not_list_writes_nothing_at_all() {
    let name = namespace();
    let () = ask(&format!("ACL SETUSER {name} on >pass-{name} ~* &* +@all -zadd")).await;
    let address = server().replacen("redis://", &format!("redis://{name}:pass-{name}@"), 1);
    let store = RedisStore::connect(&format!("{address}?prefix={name}")).await.unwrap();
    let record = contract::record("k", 1);
    let error = contract::commit(&store, vec![contract::put(&record, Expect::Absent)]).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unusable, "{error}");
    assert!(error.to_string().contains("permission"), "{error}");
    contract::assert_absent(&store, &record, "half a record").await;
    let _: u32 = ask(&format!("ACL DELUSER {name}")).await;
}

/// Runs `tests/servers.sh` and returns what it prints.
fn servers(words: &[&str]) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/servers.sh");
    let ran = std::process::Command::new(script).args(words).output().unwrap();
    assert!(ran.status.success(), "{words:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap().trim().to_owned()
}

/// Writes `KEY-0`, `KEY-1`, … until the server is gone for good, two records a batch, and returns how
/// many were acknowledged.
async fn write_until_killed(store: &dyn Store, name: &str) -> u64 {
    for n in 0.. {
        let mut record = contract::record(&format!("{name}-{n}"), n + 1);
        record.body = contract::body(300, n);
        let twin = contract::record(&format!("{name}-{n}-twin"), n + 1);
        let writes = vec![contract::put(&record, Expect::Absent), contract::put(&twin, Expect::Absent)];
        if store.commit(Batch { writes, sync: Sync::Now }).await.is_err() {
            return n;
        }
    }
    unreachable!("numbers have no end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_acknowledged_survives_a_killed_server_and_no_batch_is_torn() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    let store = Arc::new(RedisStore::connect(&servers(&["start", "redis", place])).await.unwrap());
    let mut acknowledged = 0;
    for round in 0..3 {
        let mut writers = JoinSet::new();
        for n in 0..8 {
            let (store, name) = (store.clone(), format!("{round}-{n}"));
            writers.spawn(async move { (write_until_killed(&*store, &name).await, name) });
        }
        contract::pause(Duration::from_millis(300 + 150 * round)).await;
        servers(&["kill", place]);
        let ends = writers.join_all().await;
        servers(&["start", "redis", place]);
        for (count, name) in ends {
            acknowledged += count;
            for n in 0..=count {
                let mut record = contract::record(&format!("{name}-{n}"), n + 1);
                record.body = contract::body(300, n);
                let twin = contract::record(&format!("{name}-{n}-twin"), n + 1);
                // The last one was not acknowledged: it is there whole, or not at all.
                if n == count && contract::read(&*store, &record).await.is_none() {
                    contract::assert_absent(&*store, &twin, "a torn batch").await;
                    continue;
                }
                contract::assert_holds(&*store, &record, "acknowledged").await;
                contract::assert_holds(&*store, &twin, "of the same batch").await;
            }
        }
    }
    assert!(acknowledged > 100, "{acknowledged} batches");
    servers(&["stop", place]);
}

/// Panics unless connecting fails like this, without showing a password.
async fn check_refused(address: &str, kind: StoreErrorKind, says: &str) {
    let error = RedisStore::connect(address).await.err().expect("it connects");
    let said = error.to_string();
    assert_eq!(error.kind(), kind, "{said}");
    assert!(said.contains(says), "{said}");
    assert!(!said.contains("secret"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_cannot_be_used_is_named_without_its_password() {
    let unusable = StoreErrorKind::Unusable;
    let host = server().trim_start_matches("redis://").to_owned();
    check_refused(&format!("redis://nobody:secret@{host}"), unusable, "refuses the user or the password")
        .await;
    check_refused(
        "redis://u:secret@127.0.0.1:1",
        StoreErrorKind::Unavailable,
        "`127.0.0.1:1` cannot be reached",
    )
    .await;
    check_refused("redis://u:secret@127.0.0.1:port", unusable, "is not like `redis://").await;
    check_refused("redis://u:secret@127.0.0.1/x", unusable, "Invalid database number").await;
    check_refused("redis://u:secret@127.0.0.1/?perfix=a", unusable, "knows no `?perfix=`").await;
    check_refused("redis://u:secret@127.0.0.1/?prefix=a{b", unusable, "1 to 64 letters, digits or").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_with_tls_is_refused_where_either_side_has_none() {
    let host = server().trim_start_matches("redis://").to_owned();
    let address = format!("rediss://u:secret@{host}");
    if cfg!(feature = "redis-tls") {
        check_refused(&address, StoreErrorKind::Unavailable, "cannot be reached").await;
    } else {
        check_refused(&address, StoreErrorKind::Unusable, "build it with the feature `redis-tls`").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_another_format_are_left_alone() {
    let name = namespace();
    let () = ask(&format!("SET docket:{{{name}}}:format 2")).await;
    let address = format!("{}?prefix={name}", server());
    check_refused(&address, StoreErrorKind::Corrupt, "have the format `2`, and this release reads `1`").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_evicts_or_is_a_replica_is_refused_by_name() {
    let evicting = fake_server(&[("role", "master"), ("maxmemory-policy", "allkeys-lru")]).await;
    let cure = "run `redis-cli CONFIG SET maxmemory-policy noeviction`";
    check_refused(&evicting, StoreErrorKind::Unusable, cure).await;
    let replica = fake_server(&[("role", "slave"), ("maxmemory-policy", "noeviction")]).await;
    check_refused(&replica, StoreErrorKind::Unusable, "is a replica: name the primary").await;
}
