//! Owns how a directory becomes an open database, and every sentence for why it does not. Never
//! deletes anything that it has not copied, but what was half written before there was a store.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use rustix::fs::FlockOperation;

use crate::error::{StoreError, StoreErrorKind};

use super::SledOptions;
use super::common::Disk;
use super::layout::{FORMAT, FORMAT_KEY};
use super::log::{self, FILES, FULL_BYTES, Files};
use super::{merge, tally};

/// The most that a file of the log keeps when the store is closed: whoever opens it reads them whole.
const ENDED_BYTES: u64 = 1 << 20;

/// How often sled's own thread flushes what nobody asked to be flushed; its default.
const FLUSH_EVERY_MS: u64 = 500;

/// Returns the database of a directory, which is made if it is not there.
pub(super) fn open(path: &Path, options: &SledOptions) -> Result<sled::Db, StoreError> {
    make_directory(path)?;
    if is_locked(path).map_err(|error| unusable(path, "opened", &error))? {
        return Err(in_use(path));
    }
    if let Ok(said) = fs::read_to_string(path.join(LOSSY)) {
        return Err(noted(path, &said));
    }
    let opened = match open_sled(path, options) {
        Err(Failure::Damaged(_)) if is_half_made(path) => {
            // What sled writes first, and syncs as little as all else.
            fs::remove_file(path.join("conf")).map_err(|error| unusable(path, "made", &error))?;
            open_sled(path, options)
        }
        opened => opened,
    };
    let db = match opened {
        Ok(db) => db,
        Err(Failure::Locked) => return Err(in_use(path)),
        Err(Failure::Io(error)) => return Err(unusable(path, "opened", &error)),
        Err(Failure::OtherVersion(why)) => return Err(other_version(path, &why)),
        Err(Failure::Damaged(why)) => repair(path, options, &why)?,
    };
    if path.join(MADE).exists() && db.get(FORMAT_KEY).map_err(super::failed)?.is_none() {
        drop(db);
        return Err(emptied(path));
    }
    check_format(path, &db)?;
    // Last: where it is, there was a store.
    if !path.join(MADE).exists() {
        File::create(path.join(MADE))
            .and_then(|file| file.sync_all())
            .and_then(|()| File::open(path)?.sync_all())
            .map_err(|error| unusable(path, "made", &error))?;
    }
    Ok(db)
}

/// A file that says that a store was made here, and had records.
const MADE: &str = "docket.made";

/// The most that a database has in which there has never been anything; sled begins one with 96 bytes.
const EMPTY_BYTES: u64 = 512;

/// Returns whether the making of a store was cut off here, by the loss of power, before anything could be put into it:
/// none of the files is there that come after the database, which is as good as empty.
fn is_half_made(path: &Path) -> bool {
    let bytes = fs::metadata(path.join("db")).map_or(0, |db| db.len());
    let later = [MADE].into_iter().chain(FILES);
    bytes <= EMPTY_BYTES && !later.into_iter().any(|name| path.join(name).exists())
}

/// A file that says that the database is damaged, a copy of it was made, and perhaps sled has mended it and lost something:
/// what was said then.
const LOSSY: &str = "docket.damaged";

/// What is said of a database that has had records and has none.
const EMPTIED: &str = "sled finds nothing in it any more";

/// Returns the error of a store that sled opens as if nothing had ever been in it: damage early in its
/// log looks like the end of it.
fn emptied(path: &Path) -> StoreError {
    let what = match copy_aside(path) {
        Ok(copy) => format!("a copy of it is at `{}`: ", copy.display()),
        Err(_) => String::new(),
    };
    let message = format!(
        "the store `{}` is damaged ({EMPTIED}); {what}put a backup in its place, \
         or move it away to begin with an empty one",
        path.display()
    );
    let error = StoreError::new(StoreErrorKind::Corrupt, message);
    if what.is_empty() { error } else { refuse_from_now_on(path, error) }
}

fn make_directory(path: &Path) -> Result<(), StoreError> {
    match fs::metadata(path) {
        Ok(found) if !found.is_dir() => {
            let message = format!("the store `{}` is not a directory", path.display());
            Err(StoreError::new(StoreErrorKind::Unusable, message))
        }
        Ok(_) => Ok(()),
        Err(_) => fs::create_dir_all(path).map_err(|error| unusable(path, "made", &error)),
    }
}

fn unusable(path: &Path, what: &str, error: &io::Error) -> StoreError {
    let path = path.display();
    let message = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            format!("the store `{path}` cannot be {what}, because this user may not write there: {error}")
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("the store `{path}` cannot be {what}, because its disk is full: {error}")
        }
        _ => format!("the store `{path}` cannot be {what}: {error}"),
    };
    StoreError::new(StoreErrorKind::Unusable, message)
}

/// Returns whether somebody has the store open. sled's own answer cannot be told from other failures.
fn is_locked(path: &Path) -> io::Result<bool> {
    let file = match OpenOptions::new().read(true).write(true).open(path.join("db")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn in_use(path: &Path) -> StoreError {
    let holder =
        holder(path).map_or_else(|| "another process".to_owned(), |pid| format!("the process {pid}"));
    let message = format!("the store `{}` is in use by {holder}, and only one can have it", path.display());
    StoreError::new(StoreErrorKind::InUse, message)
}

/// Returns the process that says in the directory that it has the store.
fn holder(path: &Path) -> Option<u32> {
    let said = fs::read_to_string(path.join("docket.json")).ok()?;
    let (_, behind) = said.split_once("\"pid\"")?;
    let number = behind.trim_start().strip_prefix(':')?.trim_start();
    let digits = number.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// Why sled did not open a directory.
enum Failure {
    Locked,
    Io(io::Error),
    OtherVersion(String),
    Damaged(String),
}

fn open_sled(path: &Path, options: &SledOptions) -> Result<sled::Db, Failure> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(options.cache_bytes)
        .flush_every_ms(Some(FLUSH_EVERY_MS));
    // sled panics where it reads what it does not expect.
    match std::panic::catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(sled::Error::Io(error))) if error.to_string().contains("could not acquire lock") => {
            Err(Failure::Locked)
        }
        Ok(Err(sled::Error::Io(error))) => match error.kind() {
            // What a reader says who finds less, or other things, than there should be.
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
                Err(Failure::Damaged(error.to_string()))
            }
            _ => Err(Failure::Io(error)),
        },
        Ok(Err(sled::Error::Unsupported(why))) => Err(Failure::OtherVersion(why)),
        Ok(Err(error)) => Err(Failure::Damaged(error.to_string())),
        Err(_) => Err(Failure::Damaged("sled gave up on what it read".to_owned())),
    }
}

fn other_version(path: &Path, why: &str) -> StoreError {
    let message = format!("the store `{}` was written by another version of sled: {why}", path.display());
    StoreError::new(StoreErrorKind::Corrupt, message)
}

/// Copies the directory, takes away sled's summaries of its log, and opens it once more: what a crash
/// leaves behind is most often a summary that was half written, and the log says everything again.
fn repair(path: &Path, options: &SledOptions, why: &str) -> Result<sled::Db, StoreError> {
    let corrupt = |message| StoreError::new(StoreErrorKind::Corrupt, message);
    let shown = path.display();
    let copy = copy_aside(path).map_err(|error| {
        corrupt(format!(
            "the store `{shown}` is damaged ({why}), and was left alone, because it cannot be copied: {error}"
        ))
    })?;
    let damaged = |why: &str| {
        let copy = copy.display();
        corrupt(format!(
            "the store `{shown}` is damaged ({why}); a copy of it is at `{copy}`: \
             put a backup in its place, or move it away to begin with an empty one"
        ))
    };
    let summaries = fs::read_dir(path).map_err(|error| damaged(&error.to_string()))?;
    for summary in summaries.flatten().filter(|file| file.file_name().to_string_lossy().starts_with("snap."))
    {
        fs::remove_file(summary.path()).map_err(|error| damaged(&error.to_string()))?;
    }
    match open_sled(path, options) {
        Ok(db) => {
            if let Err(lost) = is_whole(path, &db) {
                // sled has mended it by now, and will open it without a word.
                return Err(refuse_from_now_on(path, damaged(&format!("{why}; then: {lost}"))));
            }
            tracing::warn!(
                store = %shown, copy = %copy.display(), why,
                "the store was damaged, and opened again from its log with every record; the copy of it as it was found can be removed"
            );
            Ok(db)
        }
        Err(Failure::Io(error)) => Err(damaged(&format!("{why}; then: {error}"))),
        // The first try may still hold the lock in a thread that sled left behind.
        Err(Failure::Locked) => Err(damaged(why)),
        Err(Failure::Damaged(again) | Failure::OtherVersion(again)) => {
            Err(refuse_from_now_on(path, damaged(&again)))
        }
    }
}

/// Has everybody who opens the store told the same, without another copy of it.
fn refuse_from_now_on(path: &Path, error: StoreError) -> StoreError {
    match fs::write(path.join(LOSSY), error.to_string()) {
        Ok(()) => noted(path, &error.to_string()),
        // There will be a copy more.
        Err(_) => error,
    }
}

/// Returns the error of a store that was found damaged, with the way out: a backup that is copied into its directory
/// lies among what is damaged.
fn noted(path: &Path, said: &str) -> StoreError {
    let (dir, note) = (path.display(), path.join(LOSSY));
    // Where the disk was full the note may be empty.
    let said = if said.is_empty() { format!("the store `{dir}` is damaged") } else { said.to_owned() };
    let message = format!(
        "{said}; while `{}` is there, nothing in this directory is opened: remove the whole directory before a \
         backup is copied to its place, or that file alone where nothing but a backup is beside it",
        note.display()
    );
    StoreError::new(StoreErrorKind::Corrupt, message)
}

/// Sees whether a database that sled has mended has every record: sled passes over what it cannot read in the middle of
/// its log, and goes back to what the database once was where it cannot read the end.
fn is_whole(path: &Path, db: &sled::Db) -> Result<(), String> {
    let said = |error: StoreError| error.to_string();
    if !has_format(db).map_err(said)? {
        let is_new = !path.join(MADE).exists();
        return if is_new { Ok(()) } else { Err(EMPTIED.to_owned()) };
    }
    tally::check(db)?;
    let files = Files::open(path).map_err(|error| error.to_string())?;
    let merged = merge::merged(db).map_err(said)?;
    files.read(merged).map_err(|error| error.to_string())?.map(drop)
}

fn copy_aside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().map_or_else(|| "store".into(), |name| name.to_string_lossy());
    let parent = path.parent().unwrap_or(Path::new(""));
    for n in 1..1000 {
        let copy = parent.join(format!("{name}.damaged-{n}"));
        match fs::create_dir(&copy) {
            Ok(()) => {
                copy_files(path, &copy)?;
                return Ok(copy);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "there are a thousand copies already"))
}

fn copy_files(from: &Path, to: &Path) -> io::Result<()> {
    for file in fs::read_dir(from)? {
        let (file, target) = (file?, to);
        let target = target.join(file.file_name());
        let kind = file.file_type()?;
        if kind.is_dir() {
            fs::create_dir(&target)?;
            copy_files(&file.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(file.path(), &target)?;
        }
    }
    Ok(())
}

/// Returns whether the database is of the format that we write.
fn has_format(db: &sled::Db) -> Result<bool, StoreError> {
    let format = db.get(FORMAT_KEY).map_err(super::failed)?;
    Ok(format.is_some_and(|format| *format == *FORMAT.as_bytes()))
}

/// Sees that the database is ours and of a format that we read. A new one gets its number last, when
/// the directory that holds it would survive the loss of power: sled syncs none of that.
fn check_format(path: &Path, db: &sled::Db) -> Result<(), StoreError> {
    let shown = path.display();
    let failed = |error: sled::Error| super::failed(error);
    match db.get(FORMAT_KEY).map_err(failed)? {
        Some(format) if *format == *FORMAT.as_bytes() => Ok(()),
        Some(format) => {
            let format = String::from_utf8_lossy(&format);
            let number = |text: &str| text.parse::<u32>().ok();
            let is_earlier = number(&format).is_some_and(|written| Some(written) < number(FORMAT));
            let way = if is_earlier {
                "; let the release that wrote it export it (`docket-host store export`), and this one import \
                 that into a new store (`docket-host store import`)"
            } else {
                ""
            };
            let message = format!(
                "the store `{shown}` has the format {}, and this release reads {FORMAT}{way}",
                format.escape_debug()
            );
            Err(StoreError::new(StoreErrorKind::Corrupt, message))
        }
        None if db.iter().next().is_some() || db.tree_names().len() > 1 => {
            let message =
                format!("the directory `{shown}` holds a sled database that is not a store of Docket");
            Err(StoreError::new(StoreErrorKind::Unusable, message))
        }
        None => {
            sync_directory(path).map_err(|error| unusable(path, "made", &error))?;
            db.insert(FORMAT_KEY, FORMAT).map_err(failed)?;
            db.flush().map_err(failed)?;
            File::open(path.join("db"))
                .and_then(|file| file.sync_all())
                .map_err(|error| unusable(path, "made", &error))
        }
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path.join("conf"))?.sync_all()?;
    File::open(path)?.sync_all()?;
    let absolute = std::path::absolute(path)?;
    match absolute.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Waits until the lock of a database that was dropped is free: sled lets go of it in a thread of its own.
pub(super) fn wait_until_free(path: &Path) {
    const TRIES: u32 = 500;
    for _ in 0..TRIES {
        // Whatever else is wrong with the directory, waiting will not mend it.
        if !is_locked(path).unwrap_or(false) {
            return;
        }
        std::thread::park_timeout(std::time::Duration::from_millis(10));
    }
}

/// The files of a store, by handles of our own.
pub(super) struct DataFiles {
    path: PathBuf,
    db: File,
    log: Files,
    /// Which of the log's files has its turn.
    turn: AtomicUsize,
    /// Where its frames end.
    end: AtomicU64,
    reserve_bytes: u64,
}

impl DataFiles {
    pub(super) fn of(path: &Path, options: &SledOptions) -> Result<Self, StoreError> {
        let opened = |error| unusable(path, "opened", &error);
        Ok(Self {
            path: path.to_owned(),
            db: File::open(path.join("db")).map_err(opened)?,
            log: Files::open(path).map_err(opened)?,
            turn: AtomicUsize::new(0),
            end: AtomicU64::new(0),
            reserve_bytes: options.reserve_bytes,
        })
    }

    /// Returns the frames of the log that follow the one of this number.
    pub(super) fn frames(&self, merged: u64) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let frames = self.log.read(merged).map_err(|error| unusable(&self.path, "read", &error))?;
        frames.map_err(|why| log::damaged(&self.path, why))
    }

    /// Makes everything that was found in the database survive the loss of power.
    pub(super) fn sync_opened(&self) -> Result<(), StoreError> {
        self.db.sync_data().map_err(|error| unusable(&self.path, "opened", &error))
    }
}

impl Disk for DataFiles {
    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        // Only one thread writes; the others only need to know which file it is.
        let at = self.end.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.log.write(self.turn.load(Ordering::Acquire), at, bytes)
    }

    fn sync_log(&self) -> io::Result<()> {
        self.log.sync(self.turn.load(Ordering::Acquire))
    }

    fn turn(&self) -> io::Result<()> {
        let next = (self.turn.load(Ordering::Acquire) + 1) % FILES.len();
        self.log.trim(next, 2 * FULL_BYTES)?;
        self.end.store(0, Ordering::Relaxed);
        self.turn.store(next, Ordering::Release);
        Ok(())
    }

    fn end(&self) -> io::Result<bool> {
        (0..FILES.len()).try_fold(false, |any, file| Ok(self.log.trim(file, ENDED_BYTES)? || any))
    }

    fn sync_tree(&self) -> io::Result<()> {
        self.db.sync_data()
    }

    fn refuses(&self, bytes: u64) -> Option<StoreError> {
        let space = rustix::fs::fstatvfs(&self.db).ok()?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        if free >= bytes.saturating_add(self.reserve_bytes) {
            return None;
        }
        let message = format!(
            "the disk of the store `{}` is full: {free} bytes are left, and {} must be",
            self.path.display(),
            self.reserve_bytes
        );
        Some(StoreError::new(StoreErrorKind::Unusable, message))
    }
}
