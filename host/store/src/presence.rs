//! Owns how processes that share a store's files see which of them live: each keeps a file locked, and
//! its end, however it comes, unlocks it. Never calls anybody gone whose lock it could not try.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::clock::{Clock, SystemClock};
use crate::store::Store;

/// Between the name of a process and what follows in an owner's name.
const BEHIND: char = '/';

/// How often the making of a file is tried: a process that ends may take the empty directory away.
const TRIES: u32 = 8;

/// What this process keeps locked, by directory. Two stores on one place are of one process.
static HERE: Mutex<BTreeMap<PathBuf, Weak<Mark>>> = Mutex::new(BTreeMap::new());

/// A process among those that share a store, until it leaves or is dropped.
pub(crate) struct Presence {
    process: Option<Arc<str>>,
    mark: Mutex<Option<Arc<Mark>>>,
}

/// The file that a process keeps locked.
struct Mark {
    dir: PathBuf,
    process: Arc<str>,
    file: File,
}

impl Presence {
    /// Shows in this directory, which is made, that this process lives, and removes what dead ones have
    /// left there. Where the directory cannot be written, nobody is told of anything.
    pub(crate) fn show(dir: &Path) -> Self {
        let mark = match Mark::of_this_process(dir) {
            Ok(mark) => Some(mark),
            Err(error) => {
                tracing::debug!(dir = %dir.display(), %error, "others cannot see whether this process lives");
                None
            }
        };
        Self { process: mark.as_ref().map(|mark| Arc::clone(&mark.process)), mark: Mutex::new(mark) }
    }

    /// Returns the name of this process, if the others can see whether it lives.
    pub(crate) fn process(&self) -> Option<Arc<str>> {
        self.process.clone()
    }

    /// Returns whether this owner's process has ended; false where that cannot be seen.
    pub(crate) fn is_gone(&self, owner: &str) -> bool {
        let Some((process, _)) = owner.split_once(BEHIND) else { return false };
        let mark = self.mark().clone();
        mark.is_some_and(|mark| mark.is_gone(process))
    }

    /// Says that this process has no more to do with the store.
    pub(crate) fn leave(&self) {
        self.mark().take();
    }

    fn mark(&self) -> MutexGuard<'_, Option<Arc<Mark>>> {
        self.mark.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the name of an owner in this process, for a store: one of whom the others can see whether its
/// process lives, where that is possible. The given name is one that no other process and no earlier one has.
pub fn owner(store: &dyn Store, name: &str) -> Arc<str> {
    match store.abilities().process {
        Some(process) => format!("{process}{BEHIND}{name}").into(),
        None => name.into(),
    }
}

impl Mark {
    fn of_this_process(dir: &Path) -> io::Result<Arc<Self>> {
        let mut here = HERE.lock().unwrap_or_else(PoisonError::into_inner);
        here.retain(|_, mark| mark.strong_count() > 0);
        if let Some(mark) = here.get(dir).and_then(Weak::upgrade) {
            return Ok(mark);
        }
        remove_dead(dir);
        let mut tries = 0;
        let mark = loop {
            match Self::make(dir) {
                Err(error) if tries == TRIES => return Err(error),
                Err(_) => tries += 1,
                Ok(mark) => break Arc::new(mark),
            }
        };
        here.insert(dir.to_owned(), Arc::downgrade(&mark));
        Ok(mark)
    }

    fn make(dir: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        fs::create_dir_all(dir)?;
        // A process number comes again, and is the same in two containers.
        let (pid, now, nth) = (std::process::id(), SystemClock.now().0, NEXT.fetch_add(1, Ordering::Relaxed));
        let process = format!("{pid}-{now}-{nth}");
        let file = File::create_new(dir.join(&process))?;
        file.lock()?;
        let mark = Self { dir: dir.to_owned(), process: process.into(), file };
        // Whoever removes what the dead have left may have been faster than the lock.
        if mark.is_there() { Ok(mark) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// Returns whether the others can still find the file.
    fn is_there(&self) -> bool {
        let found = fs::metadata(self.dir.join(&*self.process));
        let own = self.file.metadata();
        found.is_ok_and(|found| own.is_ok_and(|own| (found.dev(), found.ino()) == (own.dev(), own.ino())))
    }

    fn is_gone(&self, process: &str) -> bool {
        // From a record: only ever a name in this directory.
        let is_name = process.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
        if !is_name || process.is_empty() || process == &*self.process {
            return false;
        }
        match File::open(self.dir.join(process)) {
            Ok(file) => file.try_lock_shared().is_ok(),
            // It took the file away when it left, or it was removed after its death; unless somebody has
            // removed them all.
            Err(error) => error.kind() == io::ErrorKind::NotFound && self.is_there(),
        }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        if self.is_there() {
            // What stays is unlocked, and removed by the next.
            let _ = fs::remove_file(self.dir.join(&*self.process));
            // Only where it is empty.
            let _ = fs::remove_dir(&self.dir);
        }
    }
}

/// Removes the files that nobody keeps locked. What cannot be removed stays for the next.
fn remove_dead(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let dead = File::open(&path).is_ok_and(|file| file.try_lock().is_ok());
        if dead {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]
mod tests {
    use super::*;

    /// A directory in which this process shows that it lives.
    fn shown() -> (tempfile::TempDir, PathBuf, Presence) {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("processes");
        let presence = Presence::show(&dir);
        assert!(presence.process().is_some());
        (parent, dir, presence)
    }

    #[test]
    fn whoever_keeps_no_lock_is_gone_and_whoever_keeps_one_is_not() {
        let (_parent, dir, presence) = shown();
        let other = File::create_new(dir.join("7-1")).unwrap();
        assert!(presence.is_gone("7-1/owner"));
        other.lock().unwrap();
        assert!(!presence.is_gone("7-1/owner"));
        drop(other);
        assert!(presence.is_gone("7-1/owner"));
        fs::remove_file(dir.join("7-1")).unwrap();
        assert!(presence.is_gone("7-1/owner"), "it has left");
    }

    #[test]
    fn nobody_is_gone_of_whom_nothing_can_be_seen() {
        let (_parent, dir, presence) = shown();
        fs::write(dir.join("../7-1"), "").unwrap();
        for owner in ["7-1", "", "/", "../7-1/owner", "/7-1/owner", "x/owner"] {
            assert!(!presence.is_gone(owner), "{owner}");
        }
        let own = presence.process().unwrap();
        assert!(!presence.is_gone(&format!("{own}/owner")));
        assert!(presence.is_gone("7-1/owner"));
        fs::remove_dir_all(&dir).unwrap();
        assert!(!presence.is_gone("7-1/owner"), "somebody has removed what would tell");
        presence.leave();
        assert!(!presence.is_gone("7-1/owner"));
    }

    #[test]
    fn two_stores_on_one_place_are_of_one_process_which_leaves_with_the_last() {
        let (_parent, dir, first) = shown();
        let second = Presence::show(&dir);
        assert_eq!(first.process(), second.process());
        let file = dir.join(&*first.process().unwrap());
        first.leave();
        assert!(File::open(&file).unwrap().try_lock_shared().is_err(), "it lives");
        drop(second);
        assert!(!dir.exists(), "nothing is left behind");
        let third = Presence::show(&dir);
        assert_ne!(first.process(), third.process());
    }

    #[test]
    fn what_the_dead_have_left_is_removed_and_what_the_living_keep_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let lives = File::create_new(parent.path().join("8-2")).unwrap();
        lives.lock().unwrap();
        fs::write(parent.path().join("7-1"), "").unwrap();
        let presence = Presence::show(parent.path());
        assert!(!parent.path().join("7-1").exists());
        assert!(parent.path().join("8-2").exists());
        assert!(presence.is_gone("7-1/owner"));
        drop(presence);
        assert!(parent.path().join("8-2").exists());
    }

    #[test]
    fn where_nothing_can_be_written_nobody_is_told_of_anything() {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join("file"), "").unwrap();
        let presence = Presence::show(&parent.path().join("file"));
        assert_eq!(presence.process(), None);
        assert!(!presence.is_gone("7-1/owner"));
    }
}
