//! Owns what the log has and the tree has not yet: for each record that was written lately, what is
//! true of it now and what was true below; and reading through it down to the tree. Never writes.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use foldhash::fast::RandomState;

use crate::error::StoreError;
use crate::record::{Facts, Kind, Record, RecordKey};

use super::content::{self, Change, Glance, READINGS, State};
use super::layout::damaged;

/// What became of one record.
pub(super) struct Entry {
    /// As it is now.
    pub(super) now: State,
    /// As it is below: in an older layer, or in the tree.
    pub(super) below: State,
}

impl Entry {
    /// Returns what is known of the record, or was before it was removed; none of one that was never there.
    pub(super) fn facts(&self) -> Option<&Facts> {
        self.now.as_ref().or(self.below.as_ref()).map(|change| &change.record().facts)
    }
}

/// Records that were written, by kind and key.
#[derive(Default)]
pub(super) struct Layer([HashMap<RecordKey, Entry, RandomState>; Kind::ALL.len()]);

/// Where the records of a kind are: kinds are listed in the order of their numbers.
fn index(kind: Kind) -> usize {
    kind as usize
}

impl Layer {
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(HashMap::len).sum()
    }

    pub(super) fn look(&self, kind: Kind, key: &RecordKey) -> Option<&State> {
        self.0[index(kind)].get(key).map(|entry| &entry.now)
    }

    /// Puts a record over what there is.
    pub(super) fn put(&mut self, kind: Kind, key: RecordKey, now: State, below: State) {
        self.put_entry(kind, key, Entry { now, below });
    }

    fn put_entry(&mut self, kind: Kind, key: RecordKey, new: Entry) {
        use std::collections::hash_map::Entry as Place;
        match self.0[index(kind)].entry(key) {
            // What is below this layer stays what it is.
            Place::Occupied(mut there) => there.get_mut().now = new.now,
            Place::Vacant(free) => {
                free.insert(new);
            }
        }
    }

    pub(super) fn into_entries(self) -> impl Iterator<Item = (Kind, RecordKey, Entry)> {
        let of_kind = |(kind, records): (Kind, HashMap<_, _, _>)| {
            records.into_iter().map(move |(key, entry)| (kind, key, entry))
        };
        Kind::ALL.into_iter().zip(self.0).flat_map(of_kind)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (Kind, &RecordKey, &Entry)> {
        Kind::ALL
            .into_iter()
            .flat_map(|kind| self.0[index(kind)].iter().map(move |(key, entry)| (kind, key, entry)))
    }
}

/// Records that stay on top when what is around them is merged.
pub(super) type Carried = Vec<(Kind, RecordKey, Arc<Change>)>;

/// How many keys are remembered of which the tree has nothing: those of claims that are about to be written.
const ABSENT_REMEMBERED: usize = 4096;

/// Keys of which the tree has nothing.
type Absent = HashSet<(Kind, RecordKey), RandomState>;

/// All layers above the tree.
#[derive(Default)]
pub(super) struct Overlay {
    layers: RwLock<Layers>,
    /// How many layers were given to be merged. Changed only while `absent` is locked.
    frozen: AtomicU64,
    /// What readers have seen to be absent from the tree since the last of them, for whoever writes it next.
    absent: Mutex<Absent>,
}

#[derive(Default)]
struct Layers {
    /// What is written goes here.
    fresh: Layer,
    /// What is being merged into the tree.
    merging: Option<Arc<Layer>>,
    /// Of each kind the last key that the tree may have; none where nobody has looked.
    ends: Option<Ends>,
}

/// Of each kind the last key, if there is one.
type Ends = [Option<RecordKey>; Kind::ALL.len()];

impl Overlay {
    /// Returns what there is of a record, or `None` where only the tree knows.
    pub(super) fn look(&self, kind: Kind, key: &RecordKey) -> Option<State> {
        let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
        let merging = || layers.merging.as_ref().and_then(|layer| layer.look(kind, key));
        let above = layers.fresh.look(kind, key).or_else(merging);
        // Most keys of executions and their steps go by time, and those of what begins are behind all others.
        let is_new = |ends: &Ends| ends[index(kind)].as_ref().is_none_or(|end| end < key);
        above.cloned().or_else(|| layers.ends.as_ref().is_some_and(is_new).then_some(None))
    }

    /// Returns what there is of a record that is about to be written, or `None` where only the tree knows.
    /// Only for who writes: nothing else must be frozen meanwhile.
    fn look_to_write(&self, kind: Kind, key: &RecordKey) -> Option<State> {
        let seen_absent = || self.absent().remove(&(kind, key.clone())).then_some(None);
        self.look(kind, key).or_else(seen_absent)
    }

    fn absent(&self) -> MutexGuard<'_, Absent> {
        self.absent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many layers were given to be merged.
    fn frozen(&self) -> u64 {
        self.frozen.load(Ordering::Acquire)
    }

    /// Notes that the tree had nothing of a key, looked for after so many layers were frozen, and after no
    /// layer had it either. While no further one is frozen, it comes into no tree.
    fn note_absent(&self, frozen: u64, kind: Kind, key: &RecordKey) {
        let mut absent = self.absent();
        if self.frozen() == frozen {
            if absent.len() >= ABSENT_REMEMBERED {
                absent.clear();
            }
            absent.insert((kind, key.clone()));
        }
    }

    /// Notes which keys the tree has, before anything is merged into it.
    pub(super) fn stand_on(&self, tree: &sled::Tree) -> Result<(), StoreError> {
        let mut ends = Ends::default();
        for kind in Kind::ALL {
            ends[index(kind)] = content::last_key(tree, kind)?;
        }
        self.layers.write().unwrap_or_else(PoisonError::into_inner).ends = Some(ends);
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
        layers.fresh.len() == 0 && layers.merging.is_none()
    }

    /// Lets readers see what was written.
    pub(super) fn publish(&self, written: impl IntoIterator<Item = (Kind, RecordKey, Entry)>) {
        let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        for (kind, key, entry) in written {
            layers.fresh.put_entry(kind, key, entry);
        }
    }

    /// Returns what is to be merged now, and collects anew. Nothing else must be merged just then. What
    /// `stays` says yes to is not merged but stays on top, as it is, and is returned beside it.
    pub(super) fn freeze(&self, mut stays: impl FnMut(&Entry) -> bool) -> (Arc<Layer>, Carried) {
        let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        {
            let mut absent = self.absent();
            self.frozen.fetch_add(1, Ordering::AcqRel);
            absent.clear();
        }
        let mut layer = std::mem::take(&mut layers.fresh);
        let mut carried = Carried::new();
        for (kind, records) in Kind::ALL.into_iter().zip(&mut layer.0) {
            for (key, entry) in records.extract_if(|_, entry| stays(entry)) {
                carried.extend(entry.now.clone().map(|change| (kind, key.clone(), change)));
                layers.fresh.put_entry(kind, key, entry);
            }
        }
        if let Some(ends) = &mut layers.ends {
            for (end, records) in ends.iter_mut().zip(&layer.0) {
                let last = records.keys().max().filter(|last| end.as_ref().is_none_or(|end| end < last));
                *end = last.cloned().or_else(|| end.take());
            }
        }
        let layer = Arc::new(layer);
        layers.merging = Some(Arc::clone(&layer));
        (layer, carried)
    }

    /// Notes that the tree has what was being merged.
    pub(super) fn merged(&self) {
        let merged = self.layers.write().unwrap_or_else(PoisonError::into_inner).merging.take();
        // A large layer is not dropped while readers wait.
        drop(merged);
    }
}

/// Returns what there is of a record that is about to be written, with this layer on top of all others.
pub(super) fn look(
    tree: &sled::Tree,
    overlay: &Overlay,
    layer: &Layer,
    kind: Kind,
    key: &RecordKey,
) -> Result<State, StoreError> {
    let above = layer.look(kind, key).cloned().or_else(|| overlay.look_to_write(kind, key));
    above.map_or_else(|| content::stored(tree, kind, key), Ok)
}

/// Returns the record, unless it is in chunks.
pub(super) fn glance(
    tree: &sled::Tree,
    overlay: &Overlay,
    kind: Kind,
    key: &RecordKey,
) -> Result<Glance, StoreError> {
    let frozen = overlay.frozen();
    match overlay.look(kind, key) {
        Some(None) => Ok(Glance::Absent),
        Some(Some(change)) if change.is_without_body() => Ok(Glance::Long),
        Some(Some(change)) => Ok(Glance::Whole(change.record().clone())),
        None => {
            let found = content::glance(tree, kind, key)?;
            if let Glance::Absent = found {
                overlay.note_absent(frozen, kind, key);
            }
            Ok(found)
        }
    }
}

/// Returns the record with its body, as it was at one moment.
pub(super) fn read(
    tree: &sled::Tree,
    overlay: &Overlay,
    kind: Kind,
    key: &RecordKey,
) -> Result<Option<Record>, StoreError> {
    for _ in 0..READINGS {
        let there = overlay.look(kind, key).map_or_else(|| content::stored(tree, kind, key), Ok)?;
        let Some(change) = there else { return Ok(None) };
        if let Some(record) = change.whole(tree)? {
            return Ok(Some(record));
        }
    }
    Err(damaged(kind, key, "its chunks are not there"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::record::{Revision, Status};

    fn key(text: &str) -> RecordKey {
        RecordKey::parse(text).unwrap()
    }

    fn change(text: &str) -> State {
        let facts = Facts::new(Status::Done, "acme".into(), Timestamp(1));
        let (kind, revision) = (Kind::Step, Revision(1));
        Some(Arc::new(Change::of(Record {
            kind,
            key: key(text),
            revision,
            facts,
            body: bytes::Bytes::new(),
        })))
    }

    #[test]
    fn only_a_key_behind_all_that_the_tree_has_is_known_not_to_be_there() {
        let overlay = Overlay::default();
        let is_absent = |kind, text: &str| overlay.look(kind, &key(text)).map(|found| found.is_none());
        assert_eq!(is_absent(Kind::Step, "b"), None, "nobody has looked");
        let db = sled::Config::new().temporary(true).open().unwrap();
        db.insert(super::super::layout::record_key(Kind::Step, &key("b")), "").unwrap();
        overlay.stand_on(&db).unwrap();
        assert_eq!(["a", "b", "c"].map(|text| is_absent(Kind::Step, text)), [None, None, Some(true)]);
        assert_eq!(is_absent(Kind::Module, "a"), Some(true), "there is none of this kind");
        let mut layer = Layer::default();
        layer.put(Kind::Step, key("d"), change("d"), None);
        layer.put(Kind::Step, key("c"), change("c"), None);
        overlay.publish(layer.into_entries());
        assert_eq!(
            ["c", "d", "e"].map(|text| is_absent(Kind::Step, text)),
            [Some(false), Some(false), Some(true)]
        );
        overlay.freeze(|_| false);
        overlay.merged();
        assert_eq!(
            ["c", "cc", "d", "e"].map(|text| is_absent(Kind::Step, text)),
            [None, None, None, Some(true)]
        );
    }

    #[test]
    fn what_was_seen_to_be_absent_is_so_for_whoever_writes_it_until_more_is_merged() {
        let db = sled::Config::new().temporary(true).open().unwrap();
        let overlay = Overlay::default();
        let known = |text: &str| overlay.look_to_write(Kind::Step, &key(text)).map(|found| found.is_some());
        let glance = |text: &str| {
            assert!(matches!(glance(&db, &overlay, Kind::Step, &key(text)), Ok(Glance::Absent)));
        };
        assert_eq!(known("a"), None, "nobody has looked");
        glance("a");
        assert_eq!((known("a"), known("b")), (Some(false), None));
        // Seen, but something was frozen since: it may have been written and merged.
        let before = overlay.frozen();
        glance("a");
        let mut layer = Layer::default();
        layer.put(Kind::Step, key("a"), change("a"), None);
        overlay.publish(layer.into_entries());
        assert_eq!(known("a"), Some(true), "what was written comes first");
        overlay.freeze(|_| false);
        overlay.note_absent(before, Kind::Step, &key("c"));
        overlay.merged();
        assert_eq!((known("a"), known("c")), (None, None));
    }
}
