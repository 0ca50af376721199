//! The PostgreSQL store keeps every promise of a store on a real server, says what a server lacks, and
//! has tables that people can ask.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]
#![cfg(feature = "postgres")]

mod contract;
mod sql;

use std::sync::Arc;
use std::time::Duration;

use docket_store::{Durability, Expect, Kind, PostgresStore, Status, Store, StoreErrorKind, Timestamp};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use tokio::task::JoinSet;

use self::contract::{assert_holds, body, put, record, write};
use self::sql::{OwnServer, Proxy, assert_refused};

fn server() -> String {
    sql::server("DOCKET_TEST_POSTGRES")
}

/// Runs statements on a server.
async fn run(url: &str, statements: &str) {
    let mut session = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut session).await.unwrap();
    session.close().await.unwrap();
}

/// Returns the URL of an empty schema.
async fn schema() -> String {
    let name = sql::unique("t");
    run(&server(), &format!("CREATE SCHEMA {name}")).await;
    format!("{}?options[search_path]={name}", server())
}

async fn open(url: &str) -> PostgresStore {
    PostgresStore::connect(url).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_keeps_the_contract() {
    contract::all(async || Arc::new(open(&schema().await).await) as Arc<dyn Store>).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_connections_are_one_store() {
    let url = schema().await;
    contract::shared(Arc::new(open(&url).await), Arc::new(open(&url).await)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn processes_that_migrate_at_once_find_the_same_tables() {
    let connect = async |url: String| PostgresStore::connect(&url).await;
    sql::migrated_by_many_at_once(&schema().await, "open_in_a_child", connect).await;
}

#[tokio::test]
#[ignore = "run by `processes_that_migrate_at_once_find_the_same_tables`"]
async fn open_in_a_child() {
    open(&sql::server("DOCKET_TEST_OPEN")).await.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_a_later_version_are_left_alone() {
    let url = schema().await;
    open(&url).await.close().await.unwrap();
    run(&url, "INSERT INTO docket_migration (version, applied_at) VALUES (7, 0)").await;
    let says = "was written by a later version of Docket: its tables have version 7, and this one knows those up to 1";
    assert_refused(PostgresStore::connect(&url).await, StoreErrorKind::Corrupt, says);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_dropped_commit_is_never_half_written() {
    sql::a_dropped_commit_is_never_half_written(Arc::new(open(&schema().await).await)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lost_line_is_told() {
    let url = schema().await;
    let place = url.split(['@', '/', '?']).nth(3).unwrap().to_owned();
    let proxy = Proxy::start(&place).await;
    let store = open(&format!("{}&sslmode=disable", url.replace(&place, &proxy.address))).await;
    sql::a_lost_line_is_told(&proxy, &store, "COMMIT\0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_waiter_is_woken_by_another_process() {
    let url = schema().await;
    let (here, there) = (Arc::new(open(&url).await), open(&url).await);
    let awaited = record("awaited", 1);
    let mut waiting = JoinSet::new();
    let (waiter, key) = (Arc::clone(&here), awaited.key.clone());
    waiting.spawn(async move { waiter.changed(Kind::Result, &key, Duration::from_secs(60)).await });
    for revision in 1..100 {
        let mut awaited = awaited.clone();
        awaited.revision.0 = revision;
        write(&there, vec![put(&awaited, Expect::Any)]).await;
        if tokio::time::timeout(Duration::from_millis(100), waiting.join_next()).await.is_ok() {
            return;
        }
    }
    panic!("nobody was woken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_dropped_or_closed_leaves_no_connection() {
    let (url, name) = (schema().await, sql::unique("left"));
    let named = format!("{url}&application_name={name}");
    for closes in [false, true] {
        let store = open(&named).await;
        write(&store, vec![put(&record("any", 1), Expect::Any)]).await;
        assert!(connections(&name).await >= 1);
        if closes {
            store.close().await.unwrap();
        }
        drop(store);
        for _ in 0..100 {
            contract::pause(Duration::from_millis(50)).await;
            if connections(&name).await == 0 {
                break;
            }
        }
        assert_eq!(connections(&name).await, 0, "closed: {closes}");
    }
}

async fn connections(name: &str) -> i64 {
    let mut session = PgConnection::connect(&server()).await.unwrap();
    let asked = sqlx::query("SELECT count(*) FROM pg_stat_activity WHERE application_name = $1").bind(name);
    asked.fetch_one(&mut session).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_cannot_be_used_is_named_without_its_password() {
    let (unusable, place) = (StoreErrorKind::Unusable, server().split('@').nth(1).unwrap().to_owned());
    let place = place.split('/').next().unwrap();
    let connect = async |url: String| PostgresStore::connect(&url).await;
    let wrong = connect(format!("postgres://docket:secret@{place}/postgres")).await;
    assert_refused(
        wrong,
        unusable,
        &format!("the PostgreSQL server at `{place}` refuses the user or the password"),
    );
    let wrong = connect("postgres://docket:secret@127.0.0.1:1/postgres".to_owned()).await;
    assert_refused(
        wrong,
        StoreErrorKind::Unavailable,
        "the PostgreSQL server at `127.0.0.1:1` cannot be reached: ",
    );
    let wrong = connect(format!("postgres://docket:docket@{place}/secret_none")).await.map_err(|error| {
        // The server names the database, which is no secret.
        docket_store::StoreError::new(error.kind(), error.to_string().replace("secret_none", "none"))
    });
    assert_refused(wrong, unusable, "has no such database");
    let wrong = connect("postgres://docket:secret@127.0.0.1:port/postgres".to_owned()).await;
    assert_refused(
        wrong,
        unusable,
        "the URL of a PostgreSQL store is like `postgres://user:password@host/database`",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_not_make_tables_is_told_so() {
    let (url, user) = (schema().await, sql::unique("u"));
    run(&url, &format!("CREATE ROLE {user} LOGIN PASSWORD 'secret'")).await;
    let weak = url.replace("docket:docket", &format!("{user}:secret"));
    let answer = PostgresStore::connect(&weak).await;
    assert_refused(answer, StoreErrorKind::Unusable, "has no such schema");
    let schema = url.split("search_path]=").nth(1).unwrap();
    run(&url, &format!("GRANT USAGE ON SCHEMA {schema} TO {user}")).await;
    let answer = PostgresStore::connect(&weak).await;
    assert_refused(answer, StoreErrorKind::Unusable, "does not allow this user what a store needs");
    run(&url, &format!("REVOKE USAGE ON SCHEMA {schema} FROM {user}; DROP ROLE {user}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_time_zone_moves_a_time() {
    let url = schema().await;
    let zoned = format!("{url}&options[timezone]=Pacific/Chatham");
    let (here, there) = (open(&url).await, open(&zoned).await);
    let mut written = record("zoned", 1);
    written.facts.expires_at = Some(Timestamp(1_900_000_000_123));
    write(&there, vec![put(&written, Expect::Absent)]).await;
    assert_holds(&here, &written, "written from far").await;
    let (now, then) = (
        here.scan(&docket_store::Query::Expired, 1).await.unwrap().now,
        there.scan(&docket_store::Query::Expired, 1).await.unwrap().now,
    );
    assert!(then.0 - now.0 < 2_000, "{now} and {then}");
    let mut session = PgConnection::connect(&zoned).await.unwrap();
    let asked = "SELECT (expires_at AT TIME ZONE 'UTC')::text FROM docket_results";
    let row = sqlx::query(asked).fetch_one(&mut session).await.unwrap();
    assert_eq!(row.get::<String, _>(0), "2030-03-17 17:46:40.123");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_can_ask_the_views() {
    let url = schema().await;
    let store = open(&url).await;
    let now = store.scan(&docket_store::Query::Expired, 1).await.unwrap().now;
    write(&store, sql::example(now)).await;
    let mut session = PgConnection::connect(&url).await.unwrap();
    for (asked, expected) in sql::QUESTIONS {
        let lines = format!("SELECT string_agg(q::text, '; ' ORDER BY q) FROM ({asked}) AS q");
        let row = sqlx::query(AssertSqlSafe(lines)).fetch_one(&mut session).await.unwrap();
        let answer: String = row.get(0);
        let answer = answer.replace(['(', ')'], "").replace(',', " ").replace(" t", " 1").replace(" f", " 0");
        assert_eq!(answer, *expected, "{asked}");
    }
    let row = sqlx::query(
        "SELECT created_at::text, pg_typeof(created_at)::text FROM docket_results WHERE result_key = 'done'",
    );
    let row = row.fetch_one(&mut session).await.unwrap();
    assert_eq!(row.get::<String, _>(1), "timestamp with time zone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_loses_data_is_named_and_a_killed_one_keeps_what_it_confirmed() {
    let server = OwnServer::start("postgres");
    let store = open(&server.url).await;
    assert_eq!((store.abilities().durability, store.warning()), (Durability::Power, None));
    sql::a_killed_server_keeps_what_it_confirmed(&server, Arc::new(store)).await;

    // What a session can mend is mended, and what it cannot is said.
    run(&server.url, "ALTER SYSTEM SET synchronous_commit = off").await;
    run(&server.url, "SELECT pg_reload_conf()").await;
    contract::pause(Duration::from_millis(300)).await;
    assert_eq!(open(&server.url).await.abilities().durability, Durability::Power);
    run(&server.url, "ALTER SYSTEM SET full_page_writes = off").await;
    run(&server.url, "SELECT pg_reload_conf()").await;
    contract::pause(Duration::from_millis(300)).await;
    let store = open(&server.url).await;
    assert_eq!(store.abilities().durability, Durability::Process);
    assert!(store.warning().unwrap().contains("has `full_page_writes = off`"), "{:?}", store.warning());
    let large = docket_store::Record { body: body(64 << 20, 3), ..record("large", 1) };
    write(&store, vec![put(&large, Expect::Absent)]).await;
    assert_holds(&store, &large, "64 MiB").await;
    assert_eq!(large.facts.status, Status::Done);
}
