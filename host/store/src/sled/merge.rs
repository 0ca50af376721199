//! Owns the thread that brings the tree up to what the log has: many groups of batches at once, each
//! record as it is in the end. Never writes to the log.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError, mpsc};

use crate::clock::Timestamp;
use crate::error::{StoreError, StoreErrorKind};
use crate::record::{Kind, RecordKey};

use super::common::{Answer, Common, Disk, answer};
use super::content::{self, Change};
use super::draft::Draft;
use super::layout::{MERGED_KEY, TALLY_KEY};
use super::lists::{self, Tails};
use super::overlay::{Entry, Layer};
use super::tally::Tally;

/// How many records the tree takes in one of its batches: for as long as that takes nobody reads it.
const AT_ONCE: usize = 512;

/// Returns the number of the last frame that the tree has.
pub(super) fn merged(tree: &sled::Tree) -> Result<u64, StoreError> {
    let Some(number) = tree.get(MERGED_KEY).map_err(super::failed)? else { return Ok(0) };
    let number = <[u8; 8]>::try_from(&*number).map_err(|_| {
        let why = "the store cannot be read: how far its log was read is not said";
        StoreError::new(StoreErrorKind::Corrupt, why)
    })?;
    Ok(u64::from_be_bytes(number))
}

/// What is to be merged.
pub(super) struct Merge {
    pub(super) layer: Arc<Layer>,
    /// The number of the last frame that is in it.
    pub(super) last: u64,
    pub(super) then: Then,
    /// Who waits for it.
    pub(super) tell: Vec<Answer>,
}

/// What is to be true once it is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Listings find it.
    Listed,
    /// The log is not needed for it any more.
    Synced,
}

impl Merge {
    /// Returns whether the tree takes all of it in one of its batches.
    pub(super) fn is_small(layer: &Layer) -> bool {
        layer.len() <= AT_ONCE
    }
}

/// Merges; a thread of its own once the store is open.
pub(super) struct Merger {
    pub(super) tree: sled::Tree,
    pub(super) tails: Tails,
    /// Of what the tree has.
    pub(super) tally: Tally,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) common: Arc<Common>,
}

impl Merger {
    /// Merges what comes until nothing more does, and tells each time when it is done.
    pub(super) fn run(mut self, jobs: &mpsc::Receiver<Merge>, done: &mpsc::Sender<()>) {
        while let Ok(Merge { layer, last, then, tell }) = jobs.recv() {
            let merged = self.merge(&layer, last, then);
            if merged.is_ok() {
                self.common.overlay.merged();
            }
            tell.into_iter().for_each(|to| answer(to, merged.clone()));
            // Where nobody listens any more there is nothing more to come.
            let _ = done.send(());
        }
    }

    /// Brings the tree up to what a layer says, of which this is the last frame.
    pub(super) fn merge(&mut self, layer: &Layer, last: u64, then: Then) -> Result<(), StoreError> {
        if let Some(broken) = self.common.broken.get() {
            return Err(broken.clone());
        }
        // sled panics where it meets what it does not expect.
        let merged = std::panic::catch_unwind(AssertUnwindSafe(|| {
            self.put(layer, last)?;
            if then == Then::Synced {
                self.tree.flush().map_err(super::unwritten)?;
            }
            Ok(())
        }));
        let synced = match merged {
            Ok(Ok(())) if then == Then::Synced => self.disk.sync_tree(),
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                let error: StoreError = error;
                return Err(self.common.break_down(format_args!("a write to the store failed: {error}")));
            }
            Err(_) => return Err(self.common.break_down("a write to the store failed inside sled")),
        };
        synced.map_err(|error| self.common.break_down(format_args!("a sync of the store failed: {error}")))
    }

    /// Puts a layer into the tree.
    fn put(&mut self, layer: &Layer, last: u64) -> Result<(), StoreError> {
        let entries = in_order(layer);
        let mut slices = entries.chunks(AT_ONCE).peekable();
        loop {
            let slice = slices.next().unwrap_or_default();
            let mut draft = Draft::on(&self.tree);
            let mut moves = Vec::with_capacity(3 * slice.len());
            for (kind, key, Entry { now, below }) in slice {
                let (below, now) = (below.as_deref(), now.as_deref());
                content::draft(&mut draft, &mut moves, (*kind, key), below, now);
                self.tally.replace(below.map(Change::record), now.map(Change::record));
            }
            lists::draft(&mut draft, &mut self.tails, moves)?;
            draft.insert(TALLY_KEY.to_vec(), &self.tally.to_bytes());
            let is_last = slices.peek().is_none();
            if is_last {
                // With the last of it, so that what the log has beyond is all that is to be read again.
                draft.insert(MERGED_KEY.to_vec(), &last.to_be_bytes());
            }
            let _lists = self.common.lists.write().unwrap_or_else(PoisonError::into_inner);
            self.tree.apply_batch(draft.into_changes()).map_err(super::unwritten)?;
            if is_last {
                self.tails.forget();
                return Ok(());
            }
        }
    }
}

/// A record of a layer, and what became of it.
type Changed<'a> = (Kind, &'a RecordKey, &'a Entry);

/// What decides when the tree takes a record: the first record of its execution, which execution, and
/// then what the lists go by.
type Place<'a> = (Option<Timestamp>, Option<&'a str>, Kind, Option<Timestamp>, Reverse<&'a RecordKey>);

/// Returns what a layer has in the order in which the tree takes it: execution by execution, in the order
/// of their first records, and within each by kind and creation, so that lists grow at their ends.
fn in_order(layer: &Layer) -> Vec<Changed<'_>> {
    let created_at = |entry: &Entry| entry.facts().map(|facts| facts.created_at);
    let mut begun: HashMap<&str, Timestamp> = HashMap::new();
    for facts in layer.entries().filter_map(|(_, _, entry)| entry.facts()) {
        if let Some(execution) = &facts.execution {
            let first = begun.entry(execution).or_insert(facts.created_at);
            *first = facts.created_at.min(*first);
        }
    }
    let mut grouped: Vec<(Place<'_>, Changed<'_>)> = Vec::with_capacity(layer.len());
    for changed in layer.entries() {
        let (kind, key, entry) = changed;
        let facts = entry.facts();
        let created = created_at(entry);
        let execution = facts.and_then(|facts| facts.execution.as_deref());
        let first = execution.map_or(created, |execution| Some(begun[execution]));
        grouped.push(((first, execution, kind, created, Reverse(key)), changed));
    }
    grouped.sort_unstable_by_key(|(place, _)| *place);
    grouped.into_iter().map(|(_, changed)| changed).collect()
}
