//! Owns the seal of a kept file: who wrote it, and that it is the one that was written under this name.
//! Never knows what a file holds.
//!
//! A seal is an HMAC-SHA-256 over the file's name and content, in a second file beside it, by a key that
//! is drawn once for each directory. It is no defence against someone who has this user's rights: they can
//! read the key. It is one against files that came from elsewhere, such as a backup, another directory or
//! another name, and against those that were damaged.
//!
//! It costs one pass over the file at each load: about 0.3 ms for a module in Rust, 25 ms for one in Python.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rand::RngExt as _;
use ring::{digest, hmac};

use super::place::{own_user, write_unfinished, write_whole};

/// The name of the file that holds the key.
const KEY_FILE: &str = "key";

/// The length of the key, in bytes: what the hash takes without shortening it.
const KEY_BYTES: usize = 32;

/// What is appended to the name of a file for the name of its seal.
const SEAL: &str = "seal";

/// Why a kept file is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SealFault {
    #[error("it is no file of this user alone (mode {mode:o}, owner {owner})")]
    NotOurs { mode: u32, owner: u32 },
    #[error("it is not what was written under this name")]
    Broken,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes files with their seals, and reads only those.
#[derive(Clone, Debug)]
pub(super) struct Sealer {
    key: hmac::Key,
}

impl Sealer {
    /// Returns the sealer of this directory. One whose key is not ours gets another, and what was sealed
    /// before is of no use any more.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join(KEY_FILE);
        if let Some(key) = kept_key(&path) {
            return Ok(key);
        }
        let drawn: [u8; KEY_BYTES] = rand::rng().random();
        if path.symlink_metadata().is_ok() {
            tracing::warn!(path = %path.display(), "the key of the compiled modules was not ours; they are compiled again");
            write_whole(&path, &drawn)?;
        } else {
            let unfinished = write_unfinished(&path, &drawn)?;
            // Whoever comes first gives the key for all that start at the same time.
            let linked = fs::hard_link(&unfinished, &path);
            fs::remove_file(&unfinished)?;
            match linked {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        kept_key(&path).ok_or_else(|| io::Error::other("the key that was just written cannot be read back"))
    }

    /// Writes the file, and then its seal.
    pub(super) fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        write_whole(path, bytes)?;
        write_whole(&seal_of(path), hmac::sign(&self.key, &sealed(path, bytes)).as_ref())
    }

    /// Returns the content of the file if it is ours.
    pub(super) fn read(&self, path: &Path) -> Result<Vec<u8>, SealFault> {
        let bytes = read_ours(path)?;
        let seal = read_ours(&seal_of(path))?;
        // Compared in constant time.
        let good = hmac::verify(&self.key, &sealed(path, &bytes), &seal);
        good.map(|()| bytes).map_err(|_| SealFault::Broken)
    }
}

/// Returns what is signed: the file's name with its directory's, and the hash of its content.
fn sealed(path: &Path, bytes: &[u8]) -> Vec<u8> {
    let mut message = digest::digest(&digest::SHA256, bytes).as_ref().to_vec();
    for part in [path.parent().and_then(Path::file_name), path.file_name()] {
        let name = part.map(|name| name.as_encoded_bytes()).unwrap_or_default();
        message.extend((name.len() as u64).to_le_bytes());
        message.extend(name);
    }
    message
}

fn seal_of(path: &Path) -> PathBuf {
    path.with_added_extension(SEAL)
}

fn kept_key(path: &Path) -> Option<Sealer> {
    let key = read_ours(path).ok().filter(|key| key.len() == KEY_BYTES)?;
    Some(Sealer { key: hmac::Key::new(hmac::HMAC_SHA256, &key) })
}

/// Returns the content of a file that this user alone can write to; a link is none.
fn read_ours(path: &Path) -> Result<Vec<u8>, SealFault> {
    if let Err((mode, owner)) = is_ours(&path.symlink_metadata()?) {
        return Err(SealFault::NotOurs { mode, owner });
    }
    let mut file = File::open(path)?;
    // Looked at again: what was opened may be another file by now.
    let found = file.metadata()?;
    if let Err((mode, owner)) = is_ours(&found) {
        return Err(SealFault::NotOurs { mode, owner });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(found.len()).unwrap_or_default());
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(unix)]
fn is_ours(found: &fs::Metadata) -> Result<(), (u32, u32)> {
    use std::os::unix::fs::MetadataExt as _;
    let good = found.is_file() && found.mode() & 0o022 == 0 && found.uid() == own_user(found);
    if good { Ok(()) } else { Err((found.mode() & 0o777, found.uid())) }
}

#[cfg(not(unix))]
fn is_ours(found: &fs::Metadata) -> Result<(), (u32, u32)> {
    if found.is_file() { Ok(()) } else { Err((0, 0)) }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_read_back_and_any_other_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let sealer = Sealer::open(dir.path()).unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        sealer.write(&one, b"content of one").unwrap();
        sealer.write(&other, b"content of other").unwrap();
        let read = |path: &Path| Sealer::open(dir.path()).unwrap().read(path);
        assert_eq!(read(&one).unwrap(), b"content of one");
        // Another file under its name, with and without its seal.
        let good = fs::read(&one).unwrap();
        for bytes in [&b"content of onf"[..], b"", b"content of one and more", b"content of other"] {
            fs::write(&one, bytes).unwrap();
            assert!(matches!(read(&one), Err(SealFault::Broken)), "{bytes:?}");
        }
        fs::copy(seal_of(&other), seal_of(&one)).unwrap();
        assert!(matches!(read(&one), Err(SealFault::Broken)), "sealed under another name");
        sealer.write(&one, &good).unwrap();
        fs::write(seal_of(&one), b"").unwrap();
        assert!(matches!(read(&one), Err(SealFault::Broken)));
        fs::remove_file(seal_of(&one)).unwrap();
        assert!(matches!(read(&one), Err(SealFault::Io(_))));
    }

    #[test]
    fn what_others_can_write_to_is_refused_and_so_is_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let sealer = Sealer::open(dir.path()).unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        sealer.write(&file, b"content").unwrap();
        for mode in [0o620, 0o602, 0o666] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let error = sealer.read(&file).unwrap_err();
            assert!(
                error.to_string().starts_with(&format!("it is no file of this user alone (mode {mode:o}, "))
            );
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(sealer.read(&file).is_ok());
        sealer.write(&link, b"content").unwrap();
        fs::rename(&link, dir.path().join("target")).unwrap();
        std::os::unix::fs::symlink("target", &link).unwrap();
        assert!(matches!(sealer.read(&link), Err(SealFault::NotOurs { .. })));
    }

    #[test]
    fn each_directory_has_a_key_of_its_own_which_is_drawn_again_where_it_is_not_ours() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = dir.path().join("file");
        Sealer::open(dir.path()).unwrap().write(&file, b"content").unwrap();
        let key = dir.path().join(KEY_FILE);
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        let drawn = fs::read(&key).unwrap();
        assert!(Sealer::open(elsewhere.path()).unwrap().read(&file).is_err());
        fs::set_permissions(&key, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(Sealer::open(dir.path()).unwrap().read(&file).is_err());
        assert_ne!(fs::read(&key).unwrap(), drawn);
        fs::write(&key, b"short").unwrap();
        Sealer::open(dir.path()).unwrap();
        assert_eq!(fs::read(&key).unwrap().len(), KEY_BYTES);
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1, "no unfinished file is left");
    }
}
