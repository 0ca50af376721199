//! Owns what is said of the items of a batch: where they come from, why one cannot be read, what became of each, and how
//! far all of them are. Never reads one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::failure::ExecutionError;
use crate::value::Value;

/// Why there is no message where a batch should have its next item.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ItemsError {
    /// This item is no message; the next may be one. It fails as any item does.
    #[error("{0}")]
    Item(String),
    /// Nothing more can be read, which ends the batch.
    #[error("{0}")]
    Read(String),
}

/// Where the items of a batch come from, as its record says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ItemSource {
    /// A file, which can be read again from its beginning.
    File(String),
    /// Something that is read once.
    Stream,
}

/// What became of one item of a batch.
#[derive(Clone, Debug)]
pub struct ItemOutcome {
    /// The position of the item among all, from 0.
    pub index: u64,
    /// The value that was asked for, or why there is none.
    pub result: Result<Arc<Value>, ExecutionError>,
}

/// How many items became what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemCounts {
    /// How many were read.
    pub read: u64,
    /// How many of them have passed all their steps.
    pub done: u64,
    /// How many failed, those that were no messages included.
    pub failed: u64,
}

impl ItemCounts {
    /// Returns how many were read and neither done nor failed: once a batch is over, those that were stopped.
    pub fn stopped(self) -> u64 {
        self.read - self.done - self.failed
    }
}

/// An item that failed, and why.
#[derive(Clone, Debug)]
pub struct ItemFailure {
    /// The position of the item among all, from 0.
    pub index: u64,
    /// Why it has no value.
    pub error: ExecutionError,
}

/// How far a batch is. Cheap to clone; all clones show the same batch.
#[derive(Clone, Debug, Default)]
pub struct BatchProgress(Arc<Counters>);

/// Each is written by one at a time: whoever reads the batch, or whoever has the lock of its run.
#[derive(Debug, Default)]
struct Counters {
    reader: ByReader,
    lanes: ByLanes,
}

/// What whoever reads the batch counts.
#[derive(Debug, Default)]
struct ByReader {
    read: AtomicU64,
    delivered: AtomicU64,
}

/// What lanes count: apart, so that they and the reader, who count for each item, do not wait for one another's memory.
#[derive(Debug, Default)]
#[repr(align(128))]
struct ByLanes {
    done: AtomicU64,
    failed: AtomicU64,
    first_failed: Mutex<Option<ItemFailure>>,
}

impl BatchProgress {
    /// Returns how many items became what so far.
    pub fn counts(&self) -> ItemCounts {
        let Counters { reader, lanes } = &*self.0;
        // Read last: an item is read before it ends.
        let (done, failed) = (lanes.done.load(Ordering::Acquire), lanes.failed.load(Ordering::Acquire));
        ItemCounts { read: reader.read.load(Ordering::Acquire), done, failed }
    }

    /// Returns the first of the items that failed so far, in the order of the items: where all items together have one value,
    /// nothing else says why an item is not in it.
    pub fn first_failed(&self) -> Option<ItemFailure> {
        self.0.lanes.first_failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns how many outcomes were handed out.
    pub fn delivered(&self) -> u64 {
        self.0.reader.delivered.load(Ordering::Acquire)
    }

    pub(crate) fn add_read(&self) {
        add_one(&self.0.reader.read);
    }

    pub(crate) fn add_done(&self, count: u64) {
        add(&self.0.lanes.done, count);
    }

    pub(crate) fn add_failed(&self, index: u64, error: &ExecutionError) {
        add_one(&self.0.lanes.failed);
        let mut first = self.0.lanes.first_failed.lock().unwrap_or_else(PoisonError::into_inner);
        if first.as_ref().is_none_or(|first| index < first.index) {
            *first = Some(ItemFailure { index, error: error.clone() });
        }
    }

    pub(crate) fn add_delivered(&self) {
        add_one(&self.0.reader.delivered);
    }
}

fn add_one(count: &AtomicU64) {
    add(count, 1);
}

/// Counts on, as the only one who counts there just now.
fn add(count: &AtomicU64, more: u64) {
    count.store(count.load(Ordering::Relaxed) + more, Ordering::Release);
}
