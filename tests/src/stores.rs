//! Owns real stores for tests: a new place in each backend, whole servers that may be killed, and what
//! a store holds. Never asserts anything about it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use docket_store::{StoreUrl, TransferError, WhenHeld};
use serde_json::Value;
use sqlx::{Connection as _, Executor as _, MySqlConnection, PgConnection, SqliteConnection};

use crate::repository;

/// A kind of store that outlives a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "their names say it")]
pub enum Backend {
    Sled,
    Sqlite,
    Postgres,
    Mysql,
    Redis,
}

/// A place in a store that nobody else has. A directory goes with it; a database stays on its server,
/// which the tests stop.
pub struct Place {
    /// Its URL.
    pub url: String,
    dir: Option<tempfile::TempDir>,
}

impl Place {
    /// Returns its directory.
    ///
    /// # Panics
    /// Where it is on a server.
    pub fn dir(&self) -> &Path {
        self.dir.as_ref().expect("the store is a file or a directory").path()
    }
}

impl Backend {
    /// Returns a new place; for a server, on the one of the tests.
    ///
    /// # Panics
    /// Where the server is missing.
    pub fn place(self) -> Place {
        match self {
            Backend::Sled | Backend::Sqlite => self.place_on(""),
            Backend::Postgres => self.place_on(&server("DOCKET_TEST_POSTGRES")),
            Backend::Mysql => self.place_on(&server("DOCKET_TEST_MYSQL")),
            Backend::Redis => self.place_on(&server("DOCKET_TEST_REDIS")),
        }
    }

    /// Returns a new place on this server.
    pub fn place_on(self, server: &str) -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("d{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let own = |scheme: &str, file: &str| {
            let dir = tempfile::tempdir().expect("a directory can be made");
            Place { url: format!("{scheme}:{}", dir.path().join(file).display()), dir: Some(dir) }
        };
        match self {
            Backend::Sled => own("sled", "store"),
            Backend::Sqlite => own("sqlite", "store.db"),
            Backend::Postgres | Backend::Mysql => {
                self.sql(server, &format!("CREATE DATABASE {name}"));
                let (server, _) = server.rsplit_once('/').expect("the server's URL names a database");
                Place { url: format!("{server}/{name}"), dir: None }
            }
            Backend::Redis => Place { url: format!("{server}?prefix={name}"), dir: None },
        }
    }

    /// Carries a statement out in a database, by nothing of Docket's.
    ///
    /// # Panics
    /// Where that fails, or there is no SQL.
    pub fn sql(self, url: &str, statement: &str) {
        let done = block_on(async {
            match self {
                Backend::Postgres => {
                    PgConnection::connect(url).await?.execute(sql(statement)).await.map(drop)
                }
                Backend::Mysql => {
                    MySqlConnection::connect(url).await?.execute(sql(statement)).await.map(drop)
                }
                Backend::Sqlite => {
                    SqliteConnection::connect(url).await?.execute(sql(statement)).await.map(drop)
                }
                Backend::Sled | Backend::Redis => unreachable!("these speak no SQL"),
            }
        });
        done.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
}

fn sql(statement: &str) -> sqlx::AssertSqlSafe<String> {
    sqlx::AssertSqlSafe(statement.to_owned())
}

/// Returns the URL of a server of the tests.
///
/// # Panics
/// Where there is none.
pub fn server(variable: &str) -> String {
    let url = std::env::var_os(variable).and_then(|url| url.into_string().ok());
    url.unwrap_or_else(|| {
        panic!("{variable} is not set: run `make test`, or this test below `tests/servers.sh run`")
    })
}

/// A server of one test's own, which may be killed.
pub struct OwnServer {
    name: &'static str,
    dir: PathBuf,
    /// Its URL.
    pub url: String,
    _keep: tempfile::TempDir,
}

impl OwnServer {
    /// Starts one: `postgres`, `mysql` or `redis`.
    ///
    /// # Panics
    /// Where it does not start.
    pub fn start(name: &'static str) -> Self {
        let keep = tempfile::tempdir().expect("a directory can be made");
        let dir = keep.path().join(name);
        open_to_all(keep.path());
        let url = servers(&["start", name, &dir.to_string_lossy()]);
        Self { name, dir, url, _keep: keep }
    }

    /// Kills it where it stands.
    pub fn kill(&self) {
        servers(&["kill", &self.dir.to_string_lossy()]);
    }

    /// Starts it again, on the same data and port.
    ///
    /// # Panics
    /// Where it does not start there.
    pub fn restart(&self) {
        assert_eq!(servers(&["start", self.name, &self.dir.to_string_lossy()]), self.url);
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        servers(&["stop", &self.dir.to_string_lossy()]);
    }
}

/// PostgreSQL does not run as root, and must get to its directory.
fn open_to_all(dir: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).expect("the directory is ours");
}

fn servers(args: &[&str]) -> String {
    let output =
        Command::new(repository().join("tests/servers.sh")).args(args).output().expect("it can be run");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// What a store holds: its records by kind and key, as `store export` writes them.
pub type Records = BTreeMap<(String, String), Value>;

/// Returns what a store holds, read by nothing of the command line.
///
/// # Panics
/// Where it cannot be read.
pub fn records(url: &str) -> Records {
    try_records(url).unwrap_or_else(|error| panic!("{url}: {error}"))
}

/// Returns what a store holds, read by nothing of the command line.
///
/// # Errors
/// Where it cannot be read.
pub fn try_records(url: &str) -> Result<Records, TransferError> {
    let export = block_on(async {
        let url = StoreUrl::parse(url).expect("it is the URL of a store");
        let opened = docket_store::open(&url, WhenHeld::Attach).await?;
        let mut lines = Vec::new();
        let exported = docket_store::export(&*opened.store, &mut lines).await;
        opened.close().await?;
        exported.map(|_| lines)
    })?;
    let lines = export.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let lines = lines.map(|line| serde_json::from_slice::<Value>(line).expect("each line is JSON"));
    let lines = lines.filter(|line| line["kind"].is_string());
    Ok(lines.map(|line| ((word(&line["kind"]), word(&line["key"])), line)).collect())
}

/// Returns a JSON string's text; empty where it is none.
pub fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("a runtime can be made").block_on(future)
}
