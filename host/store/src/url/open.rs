//! Owns the opening of the store that an address names, and, where one process holds it, the serving
//! of it to others or the way to its holder.

use std::sync::Arc;

use super::StoreUrl;
use crate::error::{StoreError, StoreErrorKind};
use crate::memory::MemoryStore;
use crate::socket::{Announcement, Holder, SocketServer};
use crate::store::Store;

/// What to do where another process of this machine holds the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenHeld {
    /// Go through that process.
    Attach,
    /// Fail.
    Refuse,
}

/// A store that was opened by its address.
pub struct OpenedStore {
    /// Dropped first, so that nobody is sent here any more.
    announcement: Option<Announcement>,
    /// Lets others attach, for as long as this lives.
    server: Option<SocketServer>,
    /// The store.
    pub store: Arc<dyn Store>,
    /// The process that holds it, where that is another one.
    pub attached_to: Option<Holder>,
    /// What the operator should know: settings that promise less than they could.
    pub warning: Option<String>,
}

impl OpenedStore {
    fn new(store: impl Store) -> Self {
        Self::of(Arc::new(store))
    }

    fn of(store: Arc<dyn Store>) -> Self {
        Self { announcement: None, server: None, store, attached_to: None, warning: None }
    }

    /// Returns whether other processes of this machine can attach.
    pub fn is_served(&self) -> bool {
        self.server.is_some()
    }

    /// Lets nobody attach any more, answers those who are, and closes the store.
    ///
    /// # Errors
    /// Where the store's last sync fails.
    pub async fn close(self) -> Result<(), StoreError> {
        let Self { announcement, server, store, attached_to: _, warning: _ } = self;
        drop(announcement);
        // Joins a thread; one that has panicked has said so.
        let _ = tokio::task::spawn_blocking(move || drop(server)).await;
        store.close().await
    }
}

impl std::fmt::Debug for OpenedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenedStore")
            .field("abilities", &self.store.abilities())
            .field("attached_to", &self.attached_to)
            .field("warning", &self.warning)
            .finish_non_exhaustive()
    }
}

/// Opens the store at the address. Whoever gets one that only one process can hold serves it to the
/// others.
///
/// # Errors
/// `InUse` where another process holds it and is not to be, or cannot be, gone through; `Unusable`
/// where this build has no such store; else what the store says.
pub async fn open(url: &StoreUrl, held: WhenHeld) -> Result<OpenedStore, StoreError> {
    match url {
        StoreUrl::Memory => Ok(OpenedStore::new(MemoryStore::new())),
        #[cfg(feature = "sled")]
        StoreUrl::Sled(path) => sled::open(path, held).await,
        #[cfg(feature = "sqlite")]
        StoreUrl::Sqlite(path) => crate::sql::SqliteStore::open(path).await.map(OpenedStore::new),
        #[cfg(feature = "postgres")]
        StoreUrl::Postgres(server) => {
            let store = crate::sql::PostgresStore::connect(server.with_password()).await?;
            let warning = store.warning().map(str::to_owned);
            Ok(OpenedStore { warning, ..OpenedStore::new(store) })
        }
        #[cfg(feature = "mysql")]
        StoreUrl::Mysql(server) => {
            let store = crate::sql::MysqlStore::connect(server.with_password()).await?;
            let warning = store.warning().map(str::to_owned);
            Ok(OpenedStore { warning, ..OpenedStore::new(store) })
        }
        #[cfg(feature = "redis")]
        StoreUrl::Redis(server) => {
            let store = crate::redis::RedisStore::connect(server.with_password()).await?;
            let warning = store.warning().map(str::to_owned);
            Ok(OpenedStore { warning, ..OpenedStore::new(store) })
        }
        #[cfg(not(feature = "sled"))]
        StoreUrl::Sled(_) => {
            // No other store is held by one process.
            let _ = held;
            Err(missing("sled"))
        }
        #[cfg(not(feature = "sqlite"))]
        StoreUrl::Sqlite(_) => Err(missing("sqlite")),
        #[cfg(not(feature = "postgres"))]
        StoreUrl::Postgres(_) => Err(missing("postgres")),
        #[cfg(not(feature = "mysql"))]
        StoreUrl::Mysql(_) => Err(missing("mysql")),
        #[cfg(not(feature = "redis"))]
        StoreUrl::Redis(_) => Err(missing("redis")),
    }
}

/// Returns the error of a store that is not compiled in.
#[cfg_attr(
    all(feature = "sled", feature = "sqlite", feature = "postgres", feature = "mysql", feature = "redis"),
    expect(dead_code, reason = "every store is compiled in")
)]
fn missing(feature: &str) -> StoreError {
    let message =
        format!("this build of Docket has no {feature} store: build it with the feature `{feature}`");
    StoreError::new(StoreErrorKind::Unusable, message)
}

#[cfg(feature = "sled")]
mod sled {
    use std::path::Path;
    use std::time::Duration;

    use super::{Arc, OpenedStore, Store, StoreError, StoreErrorKind, WhenHeld};
    use crate::clock::{Clock, SystemClock, sleep};
    use crate::presence::Presence;
    use crate::sled::{SledStore, processes};
    use crate::socket::{Holder, SocketServer, SocketStore, announce, holder, patiently, socket_path};

    /// How often a holder that does not answer is looked for: it may be coming up, or going.
    const LOOKS: usize = 20;

    /// How long between two looks.
    const PAUSE: Duration = Duration::from_millis(100);

    pub(super) async fn open(path: &Path, held: WhenHeld) -> Result<OpenedStore, StoreError> {
        let (mut looks, mut is_told) = (0, false);
        loop {
            let dir = path.to_owned();
            let opened = tokio::task::spawn_blocking(move || hold(&dir)).await;
            let error = match opened.map_err(|_| panicked(path))? {
                Err(error) if error.kind() == StoreErrorKind::InUse && held == WhenHeld::Attach => error,
                answer => return answer,
            };
            looks += 1;
            let tell = || {
                if let Some(holder) = holder(path).filter(|_| !std::mem::replace(&mut is_told, true)) {
                    let (dir, pid) = (path.display(), holder.pid);
                    tracing::warn!(
                        "the store `{dir}` is held by process {pid}, which does not answer; waiting for it"
                    );
                }
            };
            match patiently(attach(path), || 0, tell).await {
                Ok(attached) => return Ok(attached),
                Err(_) if looks < LOOKS => sleep(PAUSE).await,
                Err(None) => return Err(error),
                Err(Some((holder, why))) => {
                    let (dir, pid) = (path.display(), holder.pid);
                    let message = format!(
                        "the store `{dir}` is held by process {pid}, which cannot be gone through: {why}"
                    );
                    return Err(StoreError::new(StoreErrorKind::InUse, message));
                }
            }
        }
    }

    /// Opens the directory and serves it. That it cannot be served is no reason not to use it.
    fn hold(dir: &Path) -> Result<OpenedStore, StoreError> {
        let store: Arc<dyn Store> = Arc::new(SledStore::open(dir)?);
        let served = socket_path(dir).and_then(|path| {
            let server = SocketServer::start(store.clone(), &path)?;
            let announcement = announce(dir, &path, SystemClock.now())?;
            Ok((server, announcement))
        });
        let opened = OpenedStore::of(store);
        Ok(match served {
            Ok((server, announcement)) => {
                OpenedStore { server: Some(server), announcement: Some(announcement), ..opened }
            }
            Err(error) => {
                let warning = format!("other processes cannot use the store while this one does: {error}");
                OpenedStore { warning: Some(warning), ..opened }
            }
        })
    }

    /// Goes through the holder; where that fails, says who it is, if it has told, and why.
    async fn attach(dir: &Path) -> Result<OpenedStore, Option<(Holder, StoreError)>> {
        let holder = holder(dir).ok_or(None)?;
        match SocketStore::connect(&holder.socket).await {
            Ok(store) => {
                let store = store.present_in(Presence::show(&processes(dir)));
                Ok(OpenedStore { attached_to: Some(holder), ..OpenedStore::new(store) })
            }
            Err(error) => Err(Some((holder, error))),
        }
    }

    fn panicked(dir: &Path) -> StoreError {
        let message = format!("the opening of the store `{}` has panicked", dir.display());
        StoreError::new(StoreErrorKind::Corrupt, message)
    }
}
