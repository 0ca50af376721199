//! Owns the note that the holder of a directory leaves in it, `docket.json`, and the place of its
//! socket. The note is a hint for people and for attaching: who holds the directory is decided by the
//! store's own lock.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::error::{StoreError, StoreErrorKind};

/// The note's name.
const NOTE: &str = "docket.json";

/// The longest path of a socket: Linux has 108 bytes for it and its end, macOS 104.
const LONGEST: usize = 103;

/// Who holds a directory, by its own note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// Where it serves the store.
    pub socket: PathBuf,
    /// Since when.
    pub started_at: Timestamp,
}

/// A note that stands for as long as this lives.
#[derive(Debug)]
pub struct Announcement {
    path: PathBuf,
    holder: Holder,
}

/// Notes in the directory that this process holds it and serves it on this socket. A note of an earlier
/// holder is replaced.
///
/// # Errors
/// `Unusable` where the note cannot be written.
pub fn announce(dir: &Path, socket: &Path, started_at: Timestamp) -> Result<Announcement, StoreError> {
    let holder = Holder { pid: std::process::id(), socket: socket.to_owned(), started_at };
    let text = serde_json::json!({
        "pid": holder.pid,
        "socket": socket.to_string_lossy(),
        "started_at": started_at.0,
    });
    let path = dir.join(NOTE);
    // Renamed into its place, so that nobody reads half of it.
    let draft = dir.join(format!("{NOTE}.{}", holder.pid));
    let written = fs::write(&draft, format!("{text}\n")).and_then(|()| fs::rename(&draft, &path));
    written.map_err(|error| {
        let message = format!("the note `{}` cannot be written: {error}", path.display());
        StoreError::new(StoreErrorKind::Unusable, message)
    })?;
    Ok(Announcement { path, holder })
}

impl Drop for Announcement {
    fn drop(&mut self) {
        // Only our own: the next holder may have left its note already.
        if self.path.parent().and_then(holder).as_ref() == Some(&self.holder) {
            // A note that stays names a process that is gone, and is replaced by the next.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Returns who holds the directory, by the note in it; none where there is none or it cannot be read.
/// The holder may be gone.
pub fn holder(dir: &Path) -> Option<Holder> {
    let note: serde_json::Value = serde_json::from_slice(&fs::read(dir.join(NOTE)).ok()?).ok()?;
    Some(Holder {
        pid: u32::try_from(note.get("pid")?.as_u64()?).ok()?,
        socket: note.get("socket")?.as_str()?.into(),
        started_at: Timestamp(note.get("started_at")?.as_u64()?),
    })
}

/// Returns where the holder of a directory that exists serves it: in it, or, where that path would be
/// too long for a socket, in the user's runtime directory or the temporary one, by a name that no other
/// directory has.
///
/// # Errors
/// `Unusable` where the directory cannot be read, or its path is no text.
pub fn socket_path(dir: &Path) -> Result<PathBuf, StoreError> {
    let unusable = |why: String| {
        let message = format!("the directory `{}` cannot be served: {why}", dir.display());
        StoreError::new(StoreErrorKind::Unusable, message)
    };
    let whole = fs::canonicalize(dir).map_err(|error: io::Error| unusable(error.to_string()))?;
    let within = whole.join("docket.sock");
    if within.as_os_str().len() <= LONGEST && within.to_str().is_some() {
        return Ok(within);
    }
    let owner = fs::metadata(&whole).map_err(|error| unusable(error.to_string()))?.uid();
    let digest = base16ct::lower::encode_string(&Sha256::digest(whole.as_os_str().as_bytes())[..8]);
    let name = format!("docket-{owner}-{digest}.sock");
    let short = [PathBuf::from(format!("/run/user/{owner}")), std::env::temp_dir()].into_iter();
    let found = short
        .filter(|dir| dir.is_dir())
        .map(|dir| dir.join(&name))
        .find(|path| path.as_os_str().len() <= LONGEST);
    found.ok_or_else(|| unusable("no directory for its socket has a short enough path".to_owned()))
}
