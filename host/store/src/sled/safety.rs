//! Owns what sled gets when it asks for what Linux does not make safe from the loss of power: more than it asks for.
//!
//! sled takes `sync_file_range` for a sync: once it returns, what was moved is written over where it was. But the
//! call makes neither the length of a file safe nor what the disk itself still holds back, as its manual warns. So
//! the loss of power, while the tree took much at once, could leave a database whose old places were written over
//! and whose new ones were not there: nothing of it could be read.
//!
//! When it is opened sled writes a summary of its log, gives it its name by `rename`, and then writes over the places
//! that the summary does not need. A name is safe once its directory was synced, which sled leaves out: the loss of
//! power could leave those places written over, and no summary, and all that came behind them was not found again.

#![expect(unsafe_code, reason = "two functions take the places of those of the C library")]

use std::ffi::{CStr, OsStr, c_char, c_int, c_uint};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What the names of sled's summaries begin with.
const SUMMARY: &str = "snap.";

/// Stands for the working directory, where paths begin that are not absolute.
const HERE: c_int = -100;

// SAFETY: this is how POSIX has them. The first takes any number, and refuses one that is no open file.
unsafe extern "C" {
    safe fn fdatasync(file: c_int) -> c_int;
    fn renameat(from_dir: c_int, from: *const c_char, to_dir: c_int, to: *const c_char) -> c_int;
}

/// Takes the place of the C library's in the whole program. Whoever else calls it gets more than was asked for, and
/// the same kinds of errors.
// SAFETY: the name and the parameters are those of the function that it stands for.
#[unsafe(no_mangle)]
extern "C" fn sync_file_range(file: c_int, _offset: i64, _bytes: i64, _flags: c_uint) -> c_int {
    fdatasync(file)
}

/// Takes the place of the C library's in the whole program, and does the same; the name of a summary is safe then.
// SAFETY: the name and the parameters are those of the function that it stands for.
#[unsafe(no_mangle)]
unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: the caller gives what `rename` wants: two paths, each with a zero at its end.
    let (renamed, to) = unsafe { (renameat(HERE, from, HERE, to), CStr::from_ptr(to)) };
    let to = Path::new(OsStr::from_bytes(to.to_bytes()));
    let is_summary = to.file_name().is_some_and(|name| name.as_bytes().starts_with(SUMMARY.as_bytes()));
    match to.parent().filter(|_| renamed == 0 && is_summary) {
        // What failed has left its reason where the caller looks for it.
        Some(dir) if File::open(dir).and_then(|dir| dir.sync_all()).is_err() => -1,
        _ => renamed,
    }
}
