//! Owns what sled gets when it asks Linux to write a range of its file out: a sync of the file. Never less.
//!
//! sled takes `sync_file_range` for a sync: once it returns, what was moved is written over where it was. But the
//! call makes neither the length of a file safe nor what the disk itself still holds back, as its manual warns. So
//! the loss of power, while the tree took much at once, could leave a database whose old places were written over
//! and whose new ones were not there: nothing of it could be read.

#![expect(unsafe_code, reason = "a function takes the place of one of the C library's")]

use std::ffi::{c_int, c_uint};

// SAFETY: this is how POSIX has it. It takes any number, and refuses one that is no open file.
unsafe extern "C" {
    safe fn fdatasync(file: c_int) -> c_int;
}

/// Takes the place of the C library's in the whole program. Whoever else calls it gets more than was asked for, and
/// the same kinds of errors.
// SAFETY: the name and the parameters are those of the function that it stands for.
#[unsafe(no_mangle)]
extern "C" fn sync_file_range(file: c_int, _offset: i64, _bytes: i64, _flags: c_uint) -> c_int {
    fdatasync(file)
}
