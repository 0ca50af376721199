//! Owns the store on a PostgreSQL server: what is asked of its settings, and the wake-ups that go
//! through it. Never relies on a wake-up.

mod bell;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::error::DatabaseError;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};
use tokio_util::task::TaskTracker;

use self::bell::Bell;
use super::dialect::{Dialect, Lock, Placeholder, Reading, Statements};
use super::fault::{Moment, Site};
use super::migrate::migrate;
use super::pool::Pool;
use super::server::{CONNECTIONS, Server, connect, wrong_url};
use super::session::{Row as _, Session as _};
use crate::changes::Changes;
use crate::error::{StoreError, StoreErrorKind};
use crate::record::{Kind, RecordKey};
use crate::store::{Abilities, Batch, Durability, Found, Page, Query, Sharing, Store};

static DIALECT: Dialect = Dialect {
    placeholder: Placeholder::Number,
    // Not `now()`: that is when the transaction began.
    now: "CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS BIGINT)",
    unless_there: "ON CONFLICT DO NOTHING",
    replacing: "ON CONFLICT (kind, record_key) DO UPDATE SET",
    inserted: ["excluded.", ""],
    begin: "BEGIN ISOLATION LEVEL READ COMMITTED",
    lock: Lock {
        begin: "BEGIN ISOLATION LEVEL READ COMMITTED",
        take: "SELECT count(*) FROM (SELECT pg_advisory_xact_lock(hashtext('docket_migration'))) AS taken",
        end: "COMMIT",
        undo: "ROLLBACK",
    },
    migrations: &[include_str!("schema/postgres-1.sql")],
    reads,
};

/// The largest body of a record, in bytes: a quarter of what a column takes, because the server needs
/// several copies of it.
const MAX_BODY: u64 = 256 << 20;

/// How long others wait between two looks, should a wake-up get lost.
const POLL: Duration = Duration::from_secs(1);

/// What every connection is told: durable batches, and an end to waiting for those that hang.
const SESSION: &str = "SELECT set_config('synchronous_commit', 'on', false) \
     WHERE current_setting('synchronous_commit') = 'off'; \
     SET lock_timeout = '10s'; SET idle_in_transaction_session_timeout = '60s'; \
     SET client_min_messages = 'warning'";

/// A store on a PostgreSQL server. Clones share everything.
#[derive(Clone)]
pub struct PostgresStore(Arc<Inner>);

struct Inner {
    server: Arc<Server<PgConnection>>,
    bell: Bell,
    warning: Option<String>,
}

impl PostgresStore {
    /// Opens the store in the database that the URL names, `postgres://user:password@host/database`,
    /// and makes its tables where there are none, in the first schema of the `search_path`.
    ///
    /// # Errors
    /// `Unavailable` where the server cannot be reached; `Unusable` where it refuses the user, the
    /// password or the database; `Corrupt` where the tables are a later version's.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let options: PgConnectOptions =
            url.parse().map_err(|error| wrong_url("PostgreSQL", "postgres", &error))?;
        let options = options.disable_statement_logging();
        let named = options.get_application_name().is_some();
        let options = if named { options } else { options.application_name("docket") };
        let place = match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        };
        let site = Site { dialect: &DIALECT, name: format!("the PostgreSQL server at `{place}`") };
        let statements = Statements::of(&DIALECT);
        let mut session = open(&options).await.map_err(|error| site.error(&error, Moment::Before))?;
        let (durability, warning) = find_durability(&mut session, &site).await?;
        migrate(&mut session, &site, &statements).await?;

        let opening = options.clone();
        let pool = Pool::new(
            CONNECTIONS,
            Box::new(move || {
                let options = opening.clone();
                Box::pin(async move { open(&options).await })
            }),
        );
        let abilities = Abilities {
            scheme: "postgres",
            durability,
            sharing: Sharing::Network,
            max_body: MAX_BODY,
            process: None,
            poll: Some(POLL),
        };
        let (changes, tasks) = (Arc::new(Changes::new()), TaskTracker::new());
        let server = Arc::new(Server { site, statements, abilities, changes, pool, tasks });
        let bell = Bell::hang(&server, options);
        Ok(Self(Arc::new(Inner { server, bell, warning })))
    }

    /// Returns which setting of the server loses batches, and how to mend it.
    pub fn warning(&self) -> Option<&str> {
        self.0.warning.as_deref()
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn abilities(&self) -> Abilities {
        self.0.server.abilities.clone()
    }

    async fn get(&self, kind: Kind, key: &RecordKey) -> Result<Found, StoreError> {
        self.0.server.get(kind, key).await
    }

    async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let names = self.0.bell.names(&batch);
        self.0.server.commit(batch).await?;
        self.0.bell.ring(names);
        Ok(())
    }

    async fn scan(&self, query: &Query, limit: usize) -> Result<Page, StoreError> {
        self.0.server.scan(query, limit).await
    }

    async fn changed(&self, kind: Kind, key: &RecordKey, most: Duration) {
        self.0.server.changes.wait(kind, key, most).await;
    }

    async fn sync(&self) -> Result<(), StoreError> {
        self.0.server.sync().await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.0.bell.take_down();
        self.0.server.close().await;
        Ok(())
    }
}

async fn open(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    connect(async {
        let mut session = options.connect().await?;
        session.run(SESSION).await?;
        Ok(session)
    })
    .await
}

/// Reads what confirmed batches survive on this server.
async fn find_durability(
    session: &mut PgConnection,
    site: &Site,
) -> Result<(Durability, Option<String>), StoreError> {
    for setting in ["fsync", "full_page_writes", "synchronous_commit"] {
        let asked = format!("SELECT current_setting('{setting}')");
        let read = async {
            let rows = session.rows(&asked.into(), Vec::new()).await?;
            rows.first().ok_or(sqlx::Error::RowNotFound)?.text(0)
        };
        let value = read.await.map_err(|error| site.error(&error, Moment::Before))?;
        if value.as_deref() == Some("off") {
            let warning = format!(
                "{} has `{setting} = off`: what it confirms may be lost with its power; set it to `on`",
                site.name
            );
            return Ok((Durability::Process, Some(warning)));
        }
    }
    Ok((Durability::Power, None))
}

/// Reads PostgreSQL's error codes.
fn reads(error: &dyn DatabaseError) -> Option<Reading> {
    use StoreErrorKind::{Corrupt, TooLarge, Unavailable, Unusable};
    let (kind, what) = match &*error.code()? {
        "40001" | "40P01" => return Some(Reading::Again),
        "57P01" | "57P02" | "57P03" | "57P05" | "25P03" => return Some(Reading::Gone),
        "53300" => (Unavailable, "has no connection left"),
        "55P03" | "57014" => (Unavailable, "waited too long for another's lock"),
        "53100" => (Unusable, "has no space left on its disk"),
        "22001" | "54000" => (TooLarge, "does not take so large a record"),
        "25006" => (Unusable, "may only be read"),
        "28000" | "28P01" => (Unusable, "refuses the user or the password"),
        "3D000" => (Unusable, "has no such database"),
        "3F000" => (Unusable, "has no such schema"),
        "42501" => (Unusable, "does not allow this user what a store needs"),
        "42P01" | "42703" => (Corrupt, "has other tables than Docket's"),
        "XX001" | "XX002" => (Corrupt, "has damaged tables"),
        code if code.starts_with("08") => return Some(Reading::Gone),
        _ => return None,
    };
    Some(Reading::Refused(kind, what))
}
