//! Owns which items a journaled batch has read: how many, and a hash of them, so that whoever goes on with it is known to give
//! the same. Never reads one.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;

use crate::generation::frame;
use crate::stored::ItemsRead;

/// How many items are read between two notes of them in the journal, unless that takes a second: one write for many items, and
/// what is read again after a crash is soon read.
const GROUP: u64 = 1024;

/// The items that were read so far.
#[derive(Default)]
pub(super) struct Seen {
    reading: Mutex<ReadSoFar>,
    /// Rung for each group of items.
    group: Notify,
}

#[derive(Default)]
struct ReadSoFar {
    hash: Sha256,
    read: u64,
    /// What is noted in the journal, by this run or an earlier one.
    known: Option<ItemsRead>,
    /// Whether the items are others than those of the earlier run.
    others: bool,
}

impl Seen {
    /// Notes an item, or why it cannot be read. Returns whether it may be the one that an earlier run had.
    pub(super) fn add(&self, item: Result<&[u8], &String>) -> bool {
        let mut reading = self.lock();
        match item {
            Ok(bytes) => frame(&mut reading.hash, bytes),
            Err(fault) => {
                // No length is like this one.
                reading.hash.update([0xff; 8]);
                frame(&mut reading.hash, fault.as_bytes());
            }
        }
        reading.read += 1;
        if reading.read.is_multiple_of(GROUP) {
            self.group.notify_one();
        }
        reading.look();
        !reading.others
    }

    /// Notes that there are no further items. Returns whether these may be all that an earlier run had.
    pub(super) fn end(&self) -> bool {
        let mut reading = self.lock();
        let is_less = |known: &ItemsRead| known.read > reading.read;
        reading.others |= reading.known.as_ref().is_some_and(is_less);
        !reading.others
    }

    /// Takes what an earlier run has noted; `all` says that no further items come. Returns whether these may be the same.
    pub(super) fn compare(&self, known: Option<ItemsRead>, all: bool) -> bool {
        let mut reading = self.lock();
        if all {
            // Of fewer items than were read only the number tells: those that run for none are noted all at once.
            let is_less = known.as_ref().is_some_and(|known| known.read != reading.read);
            reading.others |= is_less;
        }
        reading.known = known;
        reading.look();
        !reading.others
    }

    /// Returns how many items are known from an earlier run, where these are others.
    pub(super) fn others(&self) -> Option<u64> {
        let reading = self.lock();
        reading.others.then(|| reading.known.as_ref().map_or(0, |known| known.read))
    }

    /// Returns what was read so far, where that is more than what is noted.
    pub(super) fn to_note(&self) -> Option<ItemsRead> {
        let reading = self.lock();
        let noted = reading.known.as_ref().map_or(0, |known| known.read);
        (reading.read > noted && !reading.others).then(|| reading.so_far())
    }

    /// Says that this is noted.
    pub(super) fn noted(&self, read: ItemsRead) {
        self.lock().known = Some(read);
    }

    /// Waits until a group of items was read.
    pub(super) async fn group(&self) {
        self.group.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, ReadSoFar> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadSoFar {
    fn so_far(&self) -> ItemsRead {
        let digest = Bytes::copy_from_slice(&self.hash.clone().finalize());
        ItemsRead { read: self.read, digest }
    }

    /// Compares with an earlier run, where as much was read as that had noted.
    fn look(&mut self) {
        if let Some(known) = &self.known
            && known.read == self.read
            && *known != self.so_far()
        {
            self.others = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(items: &[&str]) -> Seen {
        let seen = Seen::default();
        items.iter().for_each(|item| assert!(seen.add(Ok(item.as_bytes()))));
        seen
    }

    #[test]
    fn other_items_are_noticed_when_as_many_are_read_as_were_noted() {
        let known = seen(&["a", "b"]).to_note().unwrap();
        let cases: [(&[Result<&str, &str>], bool); 6] = [
            (&[Ok("a"), Ok("b")], true),
            (&[Ok("a"), Ok("b"), Ok("c")], true),
            (&[Ok("a"), Ok("c")], false),
            (&[Ok("ab"), Ok("")], false),
            (&[Ok("a"), Err("b")], false),
            (&[Ok("a")], false),
        ];
        for (items, same) in cases {
            let again = Seen::default();
            assert!(again.compare(Some(known.clone()), false));
            for item in items {
                again.add(item.map(str::as_bytes).map_err(str::to_owned).as_ref().map(|item| *item));
            }
            assert_eq!(again.end(), same, "{items:?}");
            assert_eq!(again.others(), (!same).then_some(2));
        }
    }

    #[test]
    fn items_that_were_all_read_before_are_compared_as_a_whole() {
        let known = seen(&["a", "b"]).to_note().unwrap();
        for (items, same) in
            [(&["a", "b"][..], true), (&["a"], false), (&["a", "x"], false), (&["a", "b", "c"], false)]
        {
            assert_eq!(seen(items).compare(Some(known.clone()), true), same, "{items:?}");
        }
        assert!(seen(&["a"]).compare(None, true));
    }
}
