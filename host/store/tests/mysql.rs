//! The MySQL store keeps every promise of a store on a real server, says what a server lacks, and has
//! tables that people can ask.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]
#![cfg(feature = "mysql")]

mod contract;
mod sql;

use std::sync::Arc;

use docket_store::{Durability, Expect, MysqlStore, Query, Store, StoreErrorKind, Timestamp};
use sqlx::{AssertSqlSafe, Connection as _, MySqlConnection, Row as _};

use self::contract::{assert_holds, body, put, record, write};
use self::sql::{OwnServer, Proxy, assert_refused};

fn server() -> String {
    sql::server("DOCKET_TEST_MYSQL")
}

/// Runs statements on a server.
async fn run(url: &str, statements: &str) {
    let mut session = MySqlConnection::connect(url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut session).await.unwrap();
    session.close().await.unwrap();
}

/// Returns the URL of an empty database.
async fn database() -> String {
    let name = sql::unique("t");
    run(&server(), &format!("CREATE DATABASE {name}")).await;
    server().replace("/docket", &format!("/{name}")).replace(&format!("/{name}:"), "/docket:")
}

async fn open(url: &str) -> MysqlStore {
    MysqlStore::connect(url).await.unwrap()
}

/// Returns host and port of a URL.
fn place(url: &str) -> String {
    url.split(['@', '/']).nth(3).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_keeps_the_contract() {
    contract::all(async || Arc::new(open(&database().await).await) as Arc<dyn Store>).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_connections_are_one_store() {
    let url = database().await;
    contract::shared(Arc::new(open(&url).await), Arc::new(open(&url).await)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn processes_that_migrate_at_once_find_the_same_tables() {
    let connect = async |url: String| MysqlStore::connect(&url).await;
    sql::migrated_by_many_at_once(&database().await, "open_in_a_child", connect).await;
}

#[tokio::test]
#[ignore = "run by `processes_that_migrate_at_once_find_the_same_tables`"]
async fn open_in_a_child() {
    open(&sql::server("DOCKET_TEST_OPEN")).await.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_a_later_version_are_left_alone() {
    let url = database().await;
    open(&url).await.close().await.unwrap();
    run(&url, "INSERT INTO docket_migration (version, applied_at) VALUES (7, 0)").await;
    let says = "was written by a later version of Docket: its tables have version 7, and this one knows those up to 1";
    assert_refused(MysqlStore::connect(&url).await, StoreErrorKind::Corrupt, says);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_dropped_commit_is_never_half_written() {
    sql::a_dropped_commit_is_never_half_written(Arc::new(open(&database().await).await)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lost_line_is_told() {
    let url = database().await;
    let proxy = Proxy::start(&place(&url)).await;
    let store = open(&format!("{}?ssl-mode=disabled", url.replace(&place(&url), &proxy.address))).await;
    sql::a_lost_line_is_told(&proxy, &store, "\u{3}COMMIT").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_cannot_be_used_is_named_without_its_password() {
    let (unusable, place) = (StoreErrorKind::Unusable, place(&server()));
    let connect = async |url: String| MysqlStore::connect(&url).await;
    let wrong = connect(format!("mysql://docket:secret@{place}/docket")).await;
    assert_refused(
        wrong,
        unusable,
        &format!("the MySQL server at `{place}` refuses the user or the password"),
    );
    let wrong = connect("mysql://docket:secret@127.0.0.1:1/docket".to_owned()).await;
    assert_refused(
        wrong,
        StoreErrorKind::Unavailable,
        "the MySQL server at `127.0.0.1:1` cannot be reached: ",
    );
    let wrong = connect(format!("mysql://docket:docket@{place}/no_such_database")).await;
    assert_refused(wrong, unusable, "has no such database");
    let wrong = connect(format!("mysql://docket:docket@{place}")).await;
    assert_refused(wrong, unusable, "names no database");
    let wrong = connect("mysql://docket:secret@127.0.0.1:port/docket".to_owned()).await;
    assert_refused(wrong, unusable, "the URL of a MySQL store is like `mysql://user:password@host/database`");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_not_make_tables_is_told_so() {
    let (url, user) = (database().await, sql::unique("u"));
    let name = url.rsplit('/').next().unwrap();
    let make = format!(
        "CREATE USER {user}@'127.0.0.1' IDENTIFIED BY 'secret'; GRANT SELECT ON {name}.* TO {user}@'127.0.0.1'"
    );
    run(&url, &make).await;
    let weak = MysqlStore::connect(&url.replace("docket:docket", &format!("{user}:secret"))).await;
    assert_refused(weak, StoreErrorKind::Unusable, "does not allow this user what a store needs");
    run(&url, &format!("DROP USER {user}@'127.0.0.1'")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_can_ask_the_views_in_any_time_zone() {
    let url = database().await;
    let store = open(&url).await;
    let now = store.scan(&Query::Expired, 1).await.unwrap().now;
    write(&store, sql::example(now)).await;
    let mut session = MySqlConnection::connect(&url).await.unwrap();
    for zone in ["+00:00", "+12:45", "-09:30"] {
        sqlx::raw_sql(AssertSqlSafe(format!("SET SESSION time_zone = '{zone}'")))
            .execute(&mut session)
            .await
            .unwrap();
        for (asked, expected) in sql::QUESTIONS {
            let asked = asked.replace(" / ", " DIV ");
            let mut lines = Vec::new();
            for row in sqlx::query(AssertSqlSafe(asked.clone())).fetch_all(&mut session).await.unwrap() {
                let words = (0..row.len()).map(|column| {
                    row.try_get::<i64, _>(column)
                        .map_or_else(|_| row.get::<String, _>(column), |n| n.to_string())
                });
                lines.push(words.collect::<Vec<_>>().join(" "));
            }
            lines.sort();
            assert_eq!(lines.join("; "), *expected, "{asked} at {zone}");
        }
        let asked = "SELECT CAST(created_at AS CHAR) FROM docket_results WHERE result_key = 'done'";
        let row = sqlx::query(asked).fetch_one(&mut session).await.unwrap();
        assert_eq!(row.get::<String, _>(0), "2026-09-21 14:13:20.000000", "in UTC, at {zone}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_loses_data_is_named_and_a_killed_one_keeps_what_it_confirmed() {
    let server = OwnServer::start("mysql");
    // Whatever the server's own zone and mode are.
    run(&server.url, "SET GLOBAL time_zone = '+12:45'; SET GLOBAL sql_mode = ''").await;
    let store = Arc::new(open(&server.url).await);
    let abilities = store.abilities();
    assert_eq!((abilities.durability, store.warning()), (Durability::Power, None));
    assert_eq!(abilities.max_body, (64 << 20) - (64 << 10));
    let mut zoned = record("zoned", 1);
    zoned.facts.expires_at = Some(Timestamp(1_900_000_000_123));
    zoned.body = body(usize::try_from(abilities.max_body).unwrap(), 3);
    write(&*store, vec![put(&zoned, Expect::Absent)]).await;
    assert_holds(&*store, &zoned, "the largest body").await;
    contract::write(&*store, vec![contract::delete(&zoned, Expect::Any)]).await;
    sql::a_killed_server_keeps_what_it_confirmed(&server, store).await;

    run(&server.url, "SET GLOBAL sync_binlog = 0; SET GLOBAL innodb_flush_log_at_trx_commit = 2").await;
    let store = open(&server.url).await;
    assert_eq!(store.abilities().durability, Durability::Process);
    let warning = store.warning().unwrap();
    assert!(warning.contains("has `innodb_flush_log_at_trx_commit = 2`"), "{warning}");
}
