//! Owns the store on one machine's disk for one process: sled 0.34.7 behind the guards that it needs.
//! Everything that is written goes through the [`writer`] into the [`log`], and from there, many
//! batches at once, into sled's tree ([`merge`]); reads look at what the tree has not yet ([`overlay`])
//! and then at the tree. Never shared by processes: whoever comes second is told who holds it.
//!
//! What sled does not do and is done here: it does not sync ([`syncing`], [`merge`] and, for what it
//! writes over, `safety` do), it never gives back the space of values above 128 KiB ([`layout`] cuts
//! them), it does not sync the directory it makes and cannot tell a held lock from other failures
//! ([`opening`]), and each key costs it memory for good ([`lists`]).

#[cfg(target_os = "linux")]
mod safety;
mod layout;
mod draft;
mod lists;
mod content;
mod tally;
mod overlay;
mod log;
mod common;
mod merge;
mod ready;
mod syncing;
mod writer;
mod opening;
mod recovery;
mod listing;

use std::io::ErrorKind::{QuotaExceeded, StorageFull};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;

use crate::clock::{Clock, SystemClock};
use crate::error::{StoreError, StoreErrorKind};
use crate::presence::Presence;
use crate::record::{Kind, RecordKey};
use crate::store::{Abilities, Batch, Durability, Found, Page, Query, Sharing, Store, Sync, Write};

use common::Common;
use content::Glance;
use lists::Tails;
use merge::Merger;
use opening::DataFiles;
use ready::{ReadyBatch, ReadyWrite};
use tally::Tally;
use writer::{Beginning, Command, Writer};

/// The largest body of a record here, in bytes. While one is written nobody reads: some tens of
/// milliseconds for each 10 MiB.
const MAX_BODY: u64 = 64 << 20;

/// From how many bytes of bodies on a batch is made ready on a thread where that is in nobody's way.
const LONG_BYTES: usize = 256 << 10;

/// How a [`SledStore`] is opened.
#[derive(Clone)]
pub struct SledOptions {
    /// How many bytes of pages sled keeps in memory; it takes up to three times that. Default 64 MiB:
    /// sled's own of 1 GiB is more than the rest of a host needs.
    pub cache_bytes: u64,
    /// How much of the disk must stay free: below that nothing is written any more, because a store
    /// that meets the end of its disk in the middle of a write must be opened anew. Default 64 MiB:
    /// several of the largest groups of batches.
    pub reserve_bytes: u64,
    /// The store's time. Default: the machine's.
    pub clock: Arc<dyn Clock>,
}

impl Default for SledOptions {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, reserve_bytes: 64 << 20, clock: Arc::new(SystemClock) }
    }
}

/// A store in a directory of this machine, for one process. Clones share everything.
#[derive(Clone)]
pub struct SledStore(Arc<Inner>);

struct Inner {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    presence: Presence,
    /// None once the store is closed.
    db: RwLock<Option<sled::Db>>,
    closed: AtomicBool,
    common: Arc<Common>,
    writer: Writer,
}

impl SledStore {
    /// Opens the store of this directory, which is made if it is not there. Blocks.
    ///
    /// # Errors
    /// `InUse` if another process has it; `Unusable` if the directory cannot be made or written;
    /// `Corrupt` if what is there is damaged or of a later release.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, SledOptions::default())
    }

    /// The same, with these options.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(path: &Path, options: SledOptions) -> Result<Self, StoreError> {
        let db = opening::open(path, &options)?;
        let tree: sled::Tree = (*db).clone();
        let files = Arc::new(DataFiles::of(path, &options)?);
        let disk: Arc<dyn common::Disk> = Arc::clone(&files) as _;
        let common = Arc::new(Common::new());
        let mut merger = Merger {
            tree: tree.clone(),
            tails: Tails::default(),
            tally: Tally::said(&tree)?,
            disk: Arc::clone(&disk),
            common: Arc::clone(&common),
        };
        let next = recovery::recover(&mut merger, &files)?;
        common.overlay.stand_on(&tree)?;
        let writer = Writer::start(Beginning { next, tree, disk, common: Arc::clone(&common), merger });
        let no_threads = |error| {
            StoreError::new(
                StoreErrorKind::Unusable,
                format!("the store's threads cannot be started: {error}"),
            )
        };
        let SledOptions { clock, .. } = options;
        Ok(Self(Arc::new(Inner {
            path: path.to_owned(),
            presence: Presence::show(&processes(path)),
            clock,
            db: RwLock::new(Some(db)),
            closed: AtomicBool::new(false),
            common,
            writer: writer.map_err(no_threads)?,
        })))
    }

    /// Tells the writer something, and waits for the answer.
    async fn told(&self, command: impl FnOnce(common::Answer) -> Command + Send) -> Result<(), StoreError> {
        let (answer, answered) = oneshot::channel();
        if !self.0.writer.send(command(answer)).await {
            return Err(self.0.common.broken.get().cloned().unwrap_or_else(closed));
        }
        self.answered(answered).await
    }

    async fn answered(&self, answered: oneshot::Receiver<Result<(), StoreError>>) -> Result<(), StoreError> {
        let broken = || self.0.common.broken.get().cloned();
        answered.await.unwrap_or_else(|_| Err(broken().unwrap_or_else(gave_up)))
    }

    /// Does this on a thread where blocking is allowed.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.unwrap_or_else(|_| Err(gave_up()))
    }
}

impl Inner {
    /// Reads from the tree, unless the store is closed or broken.
    fn read<T>(&self, read: impl FnOnce(&sled::Tree) -> Result<T, StoreError>) -> Result<T, StoreError> {
        if let Some(broken) = self.common.broken.get() {
            return Err(broken.clone());
        }
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        match &*db {
            Some(db) if !self.closed.load(Ordering::Relaxed) => read(db),
            _ => Err(closed()),
        }
    }

    fn close(&self) -> Result<(), StoreError> {
        self.writer.close();
        let db = self.db.write().unwrap_or_else(PoisonError::into_inner).take();
        if db.is_some() {
            drop(db);
            opening::wait_until_free(&self.path);
            self.presence.leave();
        }
        self.common.broken.get().map_or(Ok(()), |broken| Err(broken.clone()))
    }
}

#[async_trait]
impl Store for SledStore {
    fn abilities(&self) -> Abilities {
        Abilities {
            scheme: "sled",
            durability: Durability::Power,
            sharing: Sharing::Process,
            max_body: MAX_BODY,
            process: self.0.presence.process(),
            poll: None,
        }
    }

    async fn get(&self, kind: Kind, key: &RecordKey) -> Result<Found, StoreError> {
        let overlay = &self.0.common.overlay;
        let record = match self.0.read(|tree| overlay::glance(tree, overlay, kind, key))? {
            Glance::Absent => None,
            Glance::Whole(record) => Some(record),
            Glance::Long => {
                let key = key.clone();
                let read = move |inner: &Inner| {
                    inner.read(|tree| overlay::read(tree, &inner.common.overlay, kind, &key))
                };
                self.blocking(read).await?
            }
        };
        Ok(Found { record, now: self.0.clock.now() })
    }

    async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let Batch { writes, sync } = batch;
        let mut bytes = 0;
        for write in &writes {
            bytes += check_body(write)?;
        }
        let ready = |writes: Vec<Write>| writes.into_iter().map(ReadyWrite::of).collect();
        let writes: Vec<ReadyWrite> = if bytes < LONG_BYTES {
            self.0.read(|_| Ok(()))?;
            match self.0.writer.write_at_once(ready(writes)) {
                Ok(written) if sync == Sync::Later || written.is_err() => return written,
                Ok(_) => {
                    let (answer, answered) = oneshot::channel();
                    self.0.writer.sync(answer);
                    return self.answered(answered).await;
                }
                Err(writes) => writes,
            }
        } else {
            self.blocking(move |inner| inner.read(|_| Ok(ready(writes)))).await?
        };
        self.told(|answer| Command::Write(ReadyBatch { writes, sync, answer })).await
    }

    async fn scan(&self, query: &Query, limit: usize) -> Result<Page, StoreError> {
        if !self.0.common.overlay.is_empty() {
            self.0.read(|_| Ok(()))?;
            self.told(Command::List).await?;
        }
        let query = query.clone();
        self.blocking(move |inner| {
            inner.read(|tree| listing::scan(tree, &inner.common, &query, limit, inner.clock.now()))
        })
        .await
    }

    async fn changed(&self, kind: Kind, key: &RecordKey, most: Duration) {
        self.0.common.changes.wait(kind, key, most).await;
    }

    fn is_gone(&self, owner: &str) -> bool {
        self.0.presence.is_gone(owner)
    }

    async fn sync(&self) -> Result<(), StoreError> {
        self.commit(Batch { writes: Vec::new(), sync: Sync::Now }).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.0.closed.store(true, Ordering::Relaxed);
        self.blocking(Inner::close).await
    }
}

/// Returns where those who use the store of a directory show that they live: its holder, and who goes
/// through that.
pub(crate) fn processes(dir: &Path) -> PathBuf {
    dir.canonicalize().unwrap_or_else(|_| dir.to_owned()).join("processes")
}

/// Returns how long the body is that is written, if it is not too long.
fn check_body(write: &Write) -> Result<usize, StoreError> {
    let Write::Put { record, .. } = write else { return Ok(0) };
    let bytes = record.body.len();
    if bytes as u64 <= MAX_BODY {
        return Ok(bytes);
    }
    let (kind, key) = (record.kind.as_str(), &record.key);
    let message = format!("the {kind} `{key}` has {bytes} bytes, and the store takes {MAX_BODY}");
    Err(StoreError::new(StoreErrorKind::TooLarge, message))
}

fn closed() -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "the store is closed")
}

/// The error of a call whose thread has ended without an answer.
fn gave_up() -> StoreError {
    StoreError::new(StoreErrorKind::Unknown, "the store's thread ended without an answer")
}

/// Returns the error of a list whose pages are not what was written.
fn damaged_list(list: &[u8]) -> StoreError {
    let message = format!("the list `{}` of the store is damaged", list.escape_ascii());
    StoreError::new(StoreErrorKind::Corrupt, message)
}

/// Returns the error that sled's is for whoever reads.
fn failed(error: sled::Error) -> StoreError {
    let (kind, why) = said(&error);
    StoreError::new(kind, format!("the store cannot be read: {why}"))
}

/// Returns the error that sled's is for whoever writes; what failed is said before it.
fn unwritten(error: sled::Error) -> StoreError {
    let (kind, why) = said(&error);
    StoreError::new(kind, why)
}

/// Returns what sled's error is, and how the system or sled says it.
fn said(error: &sled::Error) -> (StoreErrorKind, String) {
    let kind = match error {
        // From one of its threads to the other sled hands the kind, and the rest as if it were code.
        sled::Error::Io(error) if matches!(error.kind(), StorageFull | QuotaExceeded) => {
            return (StoreErrorKind::Unavailable, "its disk is full".to_owned());
        }
        sled::Error::Io(error) => return (StoreErrorKind::Unavailable, error.to_string()),
        sled::Error::Corruption { at, .. } => {
            let at = at.map_or_else(String::new, |at| format!(" at byte {}", at.lid()));
            return (StoreErrorKind::Corrupt, format!("its database is damaged{at}"));
        }
        sled::Error::CollectionNotFound(_) | sled::Error::Unsupported(_) | sled::Error::ReportableBug(_) => {
            StoreErrorKind::Corrupt
        }
    };
    (kind, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_said_in_a_sentence() {
        let damage = sled::Error::Corruption { at: None, bt: () };
        let error = failed(damage);
        assert_eq!(error.kind(), StoreErrorKind::Corrupt);
        assert_eq!(error.to_string(), "the store cannot be read: its database is damaged");
    }
}
