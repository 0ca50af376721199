//! Owns the store in an SQLite file: its settings, its readers, and the way to its one writer. Never
//! waits for the disk where a batch may be synced later.

mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::error::DatabaseError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, SqliteConnection};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use self::writer::{Job, Writer};
use super::dialect::{Dialect, Lock, Placeholder, Reading, Statements};
use super::fault::{Moment, Site, closed};
use super::migrate::migrate;
use super::pool::Pool;
use super::session::{Row as _, Session as _};
use super::work;
use crate::changes::Changes;
use crate::clock;
use crate::error::{StoreError, StoreErrorKind};
use crate::presence::Presence;
use crate::record::{Kind, RecordKey};
use crate::store::{Abilities, Batch, Durability, Found, Page, Query, Sharing, Store};

static DIALECT: Dialect = Dialect {
    placeholder: Placeholder::Mark,
    // The `sqlite3` of Debian 12 knows no fractions in `unixepoch`, and days are exact to 0.04 ms.
    now: "CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)",
    unless_there: "ON CONFLICT DO NOTHING",
    replacing: "ON CONFLICT (kind, record_key) DO UPDATE SET",
    inserted: ["excluded.", ""],
    begin: "BEGIN IMMEDIATE",
    lock: Lock { begin: "BEGIN IMMEDIATE", take: "SELECT 1", end: "COMMIT", undo: "ROLLBACK" },
    migrations: &[include_str!("schema/sqlite-1.sql")],
    reads,
};

/// The first SQLite whose write-ahead log is not reset while somebody reads it.
const OLDEST: [u32; 3] = [3, 51, 3];

/// The largest body of a record, in bytes: half of what SQLite allows a row by default.
const MAX_BODY: u64 = 500_000_000;

/// Readers read at once, each on a thread of its own: as many as a small machine has cores.
const READERS: u32 = 4;

/// How long to wait for another process that writes: longer than its longest group of batches on a
/// slow disk.
const BUSY: Duration = Duration::from_secs(15);

/// Batches that wait for the writer. Whoever comes after them waits outside: more would not be written
/// sooner.
const JOBS: usize = 1024;

/// How long others wait between two looks: what a process of the same machine has written is there at
/// once, but does not wake anybody here.
const POLL: Duration = Duration::from_millis(50);

/// What SQLite sets aside for the index of its log, beside a database that it opens.
const INDEX_BYTES: u64 = 32 << 10;

/// A store in an SQLite file, which several processes of one machine may use at once. Clones share
/// everything.
#[derive(Clone)]
pub struct SqliteStore(Arc<Inner>);

struct Inner {
    site: Arc<Site>,
    statements: Arc<Statements>,
    readers: Pool<SqliteConnection>,
    /// None once it is closed.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    tasks: TaskTracker,
    changes: Arc<Changes>,
    poison: Arc<OnceLock<StoreError>>,
    presence: Presence,
    log: PathBuf,
}

impl SqliteStore {
    /// Opens the store in this file, and makes the file where there is none.
    ///
    /// # Errors
    /// `Unusable` where the file cannot be opened, made or written, or its disk cannot have a shared
    /// write-ahead log; `Corrupt` where it is no SQLite database, or a later version's; `Unavailable`
    /// where another process has locked it for long.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let name = format!("the SQLite database `{}`", path.display());
        let site = Arc::new(Site { dialect: &DIALECT, name });
        Self::open_at(path, &site).await.map_err(|error| of_full_disk(error, path, &site))
    }

    async fn open_at(path: &Path, site: &Arc<Site>) -> Result<Self, StoreError> {
        let statements = Arc::new(Statements::of(&DIALECT));
        let options = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(BUSY)
            .pragma("fullfsync", "ON")
            .pragma("checkpoint_fullfsync", "ON")
            .disable_statement_logging();
        let mut session = open_writer(&options, site).await?;
        check_settings(&mut session, site).await?;
        migrate(&mut session, site, &statements).await?;

        let options = options.pragma("query_only", "ON");
        let readers = Pool::new(
            READERS,
            Box::new(move || {
                let options = options.clone();
                Box::pin(async move { options.connect().await })
            }),
        );
        let (jobs, queue) = mpsc::channel(JOBS);
        let (tasks, changes, poison) = (TaskTracker::new(), Arc::new(Changes::new()), Arc::default());
        let writer = Writer::new(session, site, &statements, &changes, &poison);
        tasks.spawn(writer.run(queue));
        tasks.close();
        let log = beside(path, "-wal");
        let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let presence = Presence::show(&beside(&whole, "-processes"));
        let (jobs, site) = (Mutex::new(Some(jobs)), Arc::clone(site));
        Ok(Self(Arc::new(Inner { site, statements, readers, jobs, tasks, changes, poison, presence, log })))
    }
}

impl Inner {
    fn refuse_poisoned(&self) -> Result<(), StoreError> {
        self.poison.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    fn jobs(&self) -> Result<mpsc::Sender<Job>, StoreError> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.clone().ok_or_else(closed)
    }

    /// Makes what the log has safe from the loss of power. What it no longer has was made safe in the
    /// database before it left the log.
    async fn sync_log(&self) -> Result<(), StoreError> {
        let log = self.log.clone();
        let synced = tokio::task::spawn_blocking(move || std::fs::File::open(log)?.sync_data()).await;
        let error = match synced {
            Ok(Ok(())) => return Ok(()),
            // The last to close the database removes the log, after all that it had was made safe.
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        let message = format!("the log of {} cannot be synced: {error}", self.site.name);
        Err(self.poison.get_or_init(|| StoreError::new(StoreErrorKind::Poisoned, message)).clone())
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn abilities(&self) -> Abilities {
        Abilities {
            scheme: "sqlite",
            durability: Durability::Power,
            sharing: Sharing::Host,
            max_body: MAX_BODY,
            process: self.0.presence.process(),
            poll: Some(POLL),
        }
    }

    async fn get(&self, kind: Kind, key: &RecordKey) -> Result<Found, StoreError> {
        let Inner { site, statements, readers, .. } = &*self.0;
        self.0.refuse_poisoned()?;
        let mut session = readers.lend().await.map_err(|error| site.error(&error, Moment::Before))?;
        let found = work::get(&mut *session, statements, kind, key).await;
        let found = found.map_err(|fault| fault.into_error(site, Moment::Before))?;
        session.back();
        Ok(found)
    }

    async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        self.0.refuse_poisoned()?;
        work::check_sizes(&batch, MAX_BODY, &self.0.site)?;
        let jobs = self.0.jobs()?;
        let (reply, answer) = oneshot::channel();
        jobs.send(Job { batch, reply }).await.map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| {
            let message = format!("the writer of {} went away before it confirmed a batch", self.0.site.name);
            Err(StoreError::new(StoreErrorKind::Unknown, message))
        })
    }

    async fn scan(&self, query: &Query, limit: usize) -> Result<Page, StoreError> {
        let Inner { site, statements, readers, .. } = &*self.0;
        self.0.refuse_poisoned()?;
        let mut session = readers.lend().await.map_err(|error| site.error(&error, Moment::Before))?;
        let page = work::scan(&mut *session, statements, query, limit).await;
        let page = page.map_err(|fault| fault.into_error(site, Moment::Before))?;
        session.back();
        Ok(page)
    }

    async fn changed(&self, kind: Kind, key: &RecordKey, most: Duration) {
        self.0.changes.wait(kind, key, most).await;
    }

    fn is_gone(&self, owner: &str) -> bool {
        self.0.presence.is_gone(owner)
    }

    async fn sync(&self) -> Result<(), StoreError> {
        self.0.refuse_poisoned()?;
        self.0.jobs()?;
        self.0.sync_log().await
    }

    async fn close(&self) -> Result<(), StoreError> {
        let jobs = self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(jobs) = jobs else { return Ok(()) };
        // The writer ends when the last sender has gone, with everything written that was sent.
        drop(jobs);
        self.0.refuse_poisoned()?;
        let synced = self.0.sync_log().await;
        self.0.tasks.wait().await;
        self.0.readers.close().await;
        self.0.presence.leave();
        synced
    }
}

/// Opens the connection that writes. Turning the log on takes a lock that SQLite does not wait for, so
/// that processes which make the same file at once get here again.
async fn open_writer(options: &SqliteConnectOptions, site: &Site) -> Result<SqliteConnection, StoreError> {
    const PAUSE: Duration = Duration::from_millis(20);
    let options = options
        .clone()
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let mut tries = BUSY.as_millis() / PAUSE.as_millis();
    loop {
        let error = match options.connect().await {
            Ok(session) => return Ok(session),
            Err(error) => site.error(&error, Moment::Before),
        };
        if error.kind() != StoreErrorKind::Unavailable || tries == 0 {
            return Err(error);
        }
        tries -= 1;
        clock::sleep(PAUSE).await;
    }
}

/// Returns the path of a file that belongs to a database.
fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(what);
    name.into()
}

/// Returns the error of a database that was not opened, by its cause where that is a full disk: SQLite says
/// so of its other files, but of the index of its log only that it cannot be written.
fn of_full_disk(error: StoreError, path: &Path, site: &Site) -> StoreError {
    let free = free_bytes(path).filter(|free| *free < INDEX_BYTES);
    let (StoreErrorKind::Poisoned, Some(free)) = (error.kind(), free) else { return error };
    let message = format!(
        "{} has no space left on its disk: to be opened it needs {INDEX_BYTES} bytes, and {free} are left",
        site.name
    );
    StoreError::new(StoreErrorKind::Unusable, message)
}

/// Returns how much may be written on the disk of a file, or of its directory where it is not there.
fn free_bytes(path: &Path) -> Option<u64> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let space = rustix::fs::statvfs(path).or_else(|_| rustix::fs::statvfs(dir)).ok()?;
    Some(space.f_bavail.saturating_mul(space.f_frsize))
}

/// Checks that SQLite is as new and as careful as it was asked to be.
async fn check_settings(session: &mut SqliteConnection, site: &Site) -> Result<(), StoreError> {
    let unusable = |message| Err(StoreError::new(StoreErrorKind::Unusable, message));
    let version = setting(session, site, "SELECT sqlite_version()").await?;
    let parts: Vec<u32> = version.split('.').filter_map(|part| part.parse().ok()).collect();
    if parts[..] < OLDEST[..] {
        let [major, minor, patch] = OLDEST;
        return unusable(format!(
            "{} needs SQLite {major}.{minor}.{patch} or later, but this is {version}",
            site.name
        ));
    }
    let journal = setting(session, site, "PRAGMA journal_mode").await?;
    if journal != "wal" {
        return unusable(format!(
            "{} cannot have a write-ahead log, only `{journal}`; put it on a local disk",
            site.name
        ));
    }
    Ok(())
}

async fn setting(session: &mut SqliteConnection, site: &Site, sql: &str) -> Result<String, StoreError> {
    let read = async {
        let rows = session.rows(&sql.into(), Vec::new()).await?;
        rows.first().ok_or(sqlx::Error::RowNotFound)?.text(0)
    };
    let read = read.await.map_err(|error| site.error(&error, Moment::Before))?;
    Ok(read.unwrap_or_default())
}

/// Reads SQLite's result codes; the low byte says what it is about.
fn reads(error: &dyn DatabaseError) -> Option<Reading> {
    use StoreErrorKind::{Corrupt, Poisoned, TooLarge, Unavailable, Unusable};
    let (kind, what) = match error.code()?.parse::<u32>().ok()? & 0xff {
        5 | 6 => (Unavailable, "is locked by another process"),
        3 | 8 => (Unusable, "may not be written"),
        10 => (Poisoned, "can no longer be read or written; what was last written is not known"),
        11 => (Corrupt, "is damaged"),
        13 => (Unusable, "has no space left on its disk"),
        14 => (Unusable, "cannot be opened or made; its directory must be there and may be written"),
        18 => (TooLarge, "does not take so large a record"),
        26 => (Corrupt, "is no SQLite database"),
        _ => return None,
    };
    Some(Reading::Refused(kind, what))
}
