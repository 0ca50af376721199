//! Owns what the threads of a store and its readers have in common, and what they need of a disk.
//! Never decides what is written.

use std::io;
use std::sync::{OnceLock, RwLock};

use tokio::sync::oneshot;

use crate::changes::Changes;
use crate::error::{StoreError, StoreErrorKind};

use super::overlay::Overlay;

/// Where whoever waits gets the answer.
pub(super) type Answer = oneshot::Sender<Result<(), StoreError>>;

/// Answers a caller, who may have gone.
pub(super) fn answer(to: Answer, with: Result<(), StoreError>) {
    let _ = to.send(with);
}

/// What the threads and the readers have in common.
pub(super) struct Common {
    /// Why the store refuses everything, once a write has failed.
    pub(super) broken: OnceLock<StoreError>,
    /// Held for writing while something goes into the tree, for reading while a list is read, because a
    /// list is more than one key.
    pub(super) lists: RwLock<()>,
    pub(super) overlay: Overlay,
    pub(super) changes: Changes,
}

impl Common {
    pub(super) fn new() -> Self {
        Self {
            broken: OnceLock::new(),
            lists: RwLock::new(()),
            overlay: Overlay::default(),
            changes: Changes::new(),
        }
    }

    pub(super) fn break_down(&self, why: impl std::fmt::Display) -> StoreError {
        let message = format!("{why}; what is stored is no longer known, and the store must be opened anew");
        let error = StoreError::new(StoreErrorKind::Poisoned, message);
        self.broken.get_or_init(|| error).clone()
    }

    /// Makes everything that was written survive the loss of power.
    pub(super) fn sync(&self, disk: &dyn Disk) -> Result<(), StoreError> {
        // An fsync is never tried again: the second one succeeds without having written what the first lost.
        if let Some(broken) = self.broken.get() {
            return Err(broken.clone());
        }
        disk.sync_log().map_err(|error| self.break_down(format_args!("a sync of the store failed: {error}")))
    }
}

/// The disk below a store.
pub(super) trait Disk: Send + std::marker::Sync + 'static {
    /// Writes to the log's file whose turn it is, behind what it has.
    fn write(&self, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything in the log's file whose turn it is survive the loss of power.
    fn sync_log(&self) -> io::Result<()>;

    /// Lets the other of the log's files have its turn, from its beginning on.
    fn turn(&self) -> io::Result<()>;

    /// Gives the space of the log's files back, where it is much: the tree has everything of them. Returns whether it was.
    fn end(&self) -> io::Result<bool>;

    /// Makes everything that sled has flushed survive the loss of power.
    fn sync_tree(&self) -> io::Result<()>;

    /// Returns why so many bytes more are not to be written, if they are not.
    fn refuses(&self, bytes: u64) -> Option<StoreError>;
}
