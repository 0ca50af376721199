//! Owns the store on a MySQL or MariaDB server: what both understand, and what is asked of their
//! settings. Never says what only one of the two understands.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::error::DatabaseError;
use sqlx::mysql::{MySqlConnectOptions, MySqlDatabaseError};
use sqlx::{ConnectOptions as _, MySqlConnection};
use tokio_util::task::TaskTracker;

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
    placeholder: Placeholder::Mark,
    // Not `NOW()` and `UNIX_TIMESTAMP()`: they go through the session's time zone, in which an hour
    // comes twice in autumn.
    now: "TIMESTAMPDIFF(MICROSECOND, TIMESTAMP'1970-01-01 00:00:00', UTC_TIMESTAMP(3)) DIV 1000",
    // There is no other way to say it in both, so that a record that is there is an error.
    unless_there: "",
    replacing: "ON DUPLICATE KEY UPDATE",
    inserted: ["VALUES(", ")"],
    begin: "BEGIN",
    lock: Lock {
        begin: "DO 0",
        // A name has 64 characters at most, and so has that of a database.
        take: "SELECT CAST(GET_LOCK(CONCAT('docket.', SHA1(DATABASE())), 60) AS SIGNED)",
        end: "DO RELEASE_LOCK(CONCAT('docket.', SHA1(DATABASE())))",
        undo: "DO RELEASE_LOCK(CONCAT('docket.', SHA1(DATABASE())))",
    },
    migrations: &[include_str!("schema/mysql-1.sql")],
    reads,
};

/// What a packet has beside the body of a record: the names and numbers in its columns.
const BESIDE_BODY: u64 = 64 << 10;

/// How long others wait between two looks, because this server tells nobody.
const POLL: Duration = Duration::from_millis(100);

/// What every connection is told: others' batches are seen as they are committed, what does not fit is
/// refused and not cut off, and who hangs is not waited for.
const SESSION: &str = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
     SET SESSION autocommit = 1, sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', \
     innodb_lock_wait_timeout = 10";

/// A store on a MySQL or MariaDB server. Clones share everything.
#[derive(Clone)]
pub struct MysqlStore(Arc<Inner>);

struct Inner {
    server: Arc<Server<MySqlConnection>>,
    warning: Option<String>,
}

/// What a server said of itself.
struct Settings {
    durability: Durability,
    warning: Option<String>,
    max_body: u64,
}

impl MysqlStore {
    /// Opens the store in the database that the URL names, `mysql://user:password@host/database`, and
    /// makes its tables where there are none.
    ///
    /// # Errors
    /// `Unavailable` where the server cannot be reached; `Unusable` where it refuses the user, the
    /// password or the database, or the URL names none; `Corrupt` where the tables are a later
    /// version's.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let options: MySqlConnectOptions =
            url.parse().map_err(|error| wrong_url("MySQL", "mysql", &error))?;
        let options = options.disable_statement_logging();
        let place = match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        };
        let site = Site { dialect: &DIALECT, name: format!("the MySQL server at `{place}`") };
        if options.get_database().is_none_or(str::is_empty) {
            let message = format!("the URL of {} names no database", site.name);
            return Err(StoreError::new(StoreErrorKind::Unusable, message));
        }
        let statements = Statements::of(&DIALECT);
        let mut session = open(&options).await.map_err(|error| site.error(&error, Moment::Before))?;
        let Settings { durability, warning, max_body } = find_settings(&mut session, &site).await?;
        migrate(&mut session, &site, &statements).await?;

        let pool = Pool::new(
            CONNECTIONS,
            Box::new(move || {
                let options = options.clone();
                Box::pin(async move { open(&options).await })
            }),
        );
        let abilities = Abilities {
            scheme: "mysql",
            durability,
            sharing: Sharing::Network,
            max_body,
            process: None,
            poll: Some(POLL),
        };
        let (changes, tasks) = (Arc::new(Changes::new()), TaskTracker::new());
        let server = Arc::new(Server { site, statements, abilities, changes, pool, tasks });
        Ok(Self(Arc::new(Inner { server, warning })))
    }

    /// Returns which setting of the server loses batches, and how to mend it.
    pub fn warning(&self) -> Option<&str> {
        self.0.warning.as_deref()
    }
}

#[async_trait]
impl Store for MysqlStore {
    fn abilities(&self) -> Abilities {
        self.0.server.abilities.clone()
    }

    async fn get(&self, kind: Kind, key: &RecordKey) -> Result<Found, StoreError> {
        self.0.server.get(kind, key).await
    }

    async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        self.0.server.commit(batch).await
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
        self.0.server.close().await;
        Ok(())
    }
}

async fn open(options: &MySqlConnectOptions) -> Result<MySqlConnection, sqlx::Error> {
    connect(async {
        let mut session = options.connect().await?;
        session.run(SESSION).await?;
        Ok(session)
    })
    .await
}

/// Reads what confirmed batches survive on this server, and how large they may be.
async fn find_settings(session: &mut MySqlConnection, site: &Site) -> Result<Settings, StoreError> {
    let asked = "SELECT CAST(@@innodb_flush_log_at_trx_commit AS SIGNED), CAST(@@log_bin AS SIGNED), \
                 CAST(@@sync_binlog AS SIGNED), CAST(@@max_allowed_packet AS SIGNED)";
    let read = async {
        let rows = session.rows(&asked.into(), Vec::new()).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let number = |column| Ok::<_, sqlx::Error>(row.number(column)?.unwrap_or_default());
        Ok::<_, sqlx::Error>([number(0)?, number(1)?, number(2)?, number(3)?])
    };
    let [flush, binlog, sync_binlog, packet] =
        read.await.map_err(|error| site.error(&error, Moment::Before))?;
    let lossy = if flush != 1 {
        Some(format!("innodb_flush_log_at_trx_commit = {flush}"))
    } else if binlog != 0 && sync_binlog != 1 {
        Some(format!("sync_binlog = {sync_binlog}"))
    } else {
        None
    };
    let warning = lossy.map(|setting| {
        format!("{} has `{setting}`: what it confirms may be lost with its power; set it to 1", site.name)
    });
    let durability = if warning.is_some() { Durability::Process } else { Durability::Power };
    let max_body = u64::try_from(packet).unwrap_or_default().saturating_sub(BESIDE_BODY);
    Ok(Settings { durability, warning, max_body })
}

/// Reads the error numbers of MySQL and MariaDB; the SQL state, which sqlx calls the code, says less.
fn reads(error: &dyn DatabaseError) -> Option<Reading> {
    use StoreErrorKind::{Corrupt, TooLarge, Unavailable, Unusable};
    let (kind, what) = match error.try_downcast_ref::<MySqlDatabaseError>()?.number() {
        1213 | 1020 => return Some(Reading::Again),
        1053 | 1152 | 1158..=1161 | 1184 | 1927 | 4031 => return Some(Reading::Gone),
        1040 | 1047 | 1203 | 1226 => (Unavailable, "has no connection left"),
        1205 | 1317 | 3024 => (Unavailable, "waited too long for another's lock"),
        1153 | 1118 | 1406 => (TooLarge, "does not take so large a record"),
        1021 | 1114 => (Unusable, "has no space left on its disk"),
        1044 | 1045 | 1129 | 1130 | 1251 | 1524 | 1698 => (Unusable, "refuses the user or the password"),
        1046 | 1049 => (Unusable, "has no such database"),
        1142 | 1143 | 1227 | 1370 => (Unusable, "does not allow this user what a store needs"),
        1290 | 1792 | 1836 => (Unusable, "may only be read"),
        1665 => (Unusable, "cannot log a store's batches; set `binlog_format` to `ROW`"),
        1054 | 1146 => (Corrupt, "has other tables than Docket's"),
        1034 | 1194 | 1712 => (Corrupt, "has damaged tables"),
        _ => return None,
    };
    Some(Reading::Refused(kind, what))
}
