//! Owns the work on files: listings, digests, and the one way in which a file comes to be. Never decides which.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write as _};
use std::path::Path;

use docket_guest::{Failure, StepResult};
use sha2::{Digest as _, Sha512};

/// How much of a file is in memory at once.
const CHUNK: usize = 256 << 10;

/// What lies under a path of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// A file, by what it holds.
    File { sha512: String, bytes: u64 },
    /// What an object cannot hold, in words.
    Other(&'static str),
}

/// Whether a file had to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placed {
    /// It was not there.
    Written,
    /// An earlier attempt has written it.
    Found,
}

/// Returns everything below a directory, by its path there, in the order of the paths.
pub(crate) fn list(root: &Path) -> StepResult<BTreeMap<String, Found>> {
    let mut found = BTreeMap::new();
    let mut open = vec![String::new()];
    while let Some(prefix) = open.pop() {
        let dir = root.join(&prefix);
        let mut is_empty = true;
        for entry in fs::read_dir(&dir).map_err(at(&dir))? {
            let entry = entry.map_err(at(&dir))?;
            is_empty = false;
            let name = entry.file_name().into_string().map_err(|name| {
                Failure::permanent(format!("{}: the name {name:?} is not UTF-8", dir.display()))
                    .code("bad_name")
            })?;
            let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            let kind = entry.file_type().map_err(at(&entry.path()))?;
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_file() {
                let (sha512, bytes) = digest(&mut open_file(&entry.path())?).map_err(at(&entry.path()))?;
                found.insert(path, Found::File { sha512, bytes });
            } else {
                found.insert(path, Found::Other("neither a file nor a directory"));
            }
        }
        if is_empty && !prefix.is_empty() {
            found.insert(prefix, Found::Other("an empty directory"));
        }
    }
    Ok(found)
}

/// Puts content under a path, whole or not at all, so that it survives the loss of power: it is written to `draft`,
/// compared with the digest, synced, and renamed. Where it is there already, nothing is written, but its entry is
/// synced: whoever renamed it may have been killed before that. The directory of `target` must be there.
///
/// # Errors
/// Permanent, where the content is not what was planned; `name` is what it is called then.
pub(crate) fn place(
    mut content: impl Read,
    name: &str,
    wanted: &str,
    target: &Path,
    draft: &Path,
) -> StepResult<Placed> {
    let dir = target.parent().unwrap_or(target);
    if is_there(target, wanted)? {
        return sync(dir).map(|()| Placed::Found);
    }
    let mut file = File::create(draft).map_err(at(draft))?;
    let mut hash = Sha512::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = match content.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(at(Path::new(name))(error)),
        };
        hash.update(&chunk[..read]);
        file.write_all(&chunk[..read]).map_err(at(draft))?;
    }
    if hex(hash) != wanted {
        drop(file);
        fs::remove_file(draft).map_err(at(draft))?;
        return Err(Failure::permanent(format!(
            "{name} has changed since the update was planned; begin a new one"
        ))
        .code("source_changed"));
    }
    file.sync_all().map_err(at(draft))?;
    fs::rename(draft, target).map_err(at(target))?;
    sync(dir).map(|()| Placed::Written)
}

/// Returns whether a file is there with this content.
fn is_there(path: &Path, wanted: &str) -> StepResult<bool> {
    match File::open(path) {
        Ok(mut file) => Ok(digest(&mut file).map_err(at(path))?.0 == wanted),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(at(path)(error)),
    }
}

/// Makes a directory and those around it, up to `root`, so that they survive the loss of power. One that is there
/// may have been made a moment ago by another activity, so that all are synced.
pub(crate) fn make_dirs(dir: &Path, root: &Path) -> StepResult<()> {
    fs::create_dir_all(dir).map_err(at(dir))?;
    dir.ancestors().take_while(|around| *around != root).filter_map(Path::parent).try_for_each(sync)
}

/// Makes the entries of a directory survive the loss of power.
pub(crate) fn sync(dir: &Path) -> StepResult<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir))
}

/// Returns the file, opened.
pub(crate) fn open(path: &Path) -> StepResult<File> {
    open_file(path)
}

fn open_file(path: &Path) -> StepResult<File> {
    File::open(path).map_err(at(path))
}

/// Returns what a file holds, or none where there is no file.
pub(crate) fn read(path: &Path) -> StepResult<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path)(error)),
    }
}

/// Returns the SHA-512 in hexadecimal digits.
pub(crate) fn sha512(bytes: &[u8]) -> String {
    hex(Sha512::new_with_prefix(bytes))
}

fn digest(content: &mut impl Read) -> io::Result<(String, u64)> {
    let mut hash = Sha512::new();
    let mut chunk = vec![0; CHUNK];
    let mut bytes = 0;
    loop {
        match content.read(&mut chunk) {
            Ok(0) => return Ok((hex(hash), bytes)),
            Ok(read) => {
                hash.update(&chunk[..read]);
                bytes += read as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn hex(hash: Sha512) -> String {
    base16ct::lower::encode_string(&hash.finalize())
}

/// An error of the file system names the path, and is worth another attempt.
pub(crate) fn at(path: &Path) -> impl Fn(io::Error) -> Failure {
    let path = path.display().to_string();
    move |error| Failure::retryable(format!("{path}: {error}")).code("file_system")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Places content under a name of a directory that is prepared; returns what came of it, and what is there then.
    fn check(
        prepare: impl FnOnce(&Path),
        content: &str,
        expected: Result<Placed, &str>,
        left: &[(&str, &str)],
    ) {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let (target, draft) = (dir.path().join("target"), dir.path().join("draft"));
        let placed = place(content.as_bytes(), "name", &sha512(b"wanted"), &target, &draft);
        assert_eq!(placed.map_err(|failure| failure.message), expected.map_err(str::to_owned));
        let mut found: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap())
            })
            .collect();
        found.sort();
        assert_eq!(
            found,
            left.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let whole = [("target", "wanted")];
        check(|_| {}, "wanted", Ok(Placed::Written), &whole);
        check(|dir| fs::write(dir.join("target"), "wanted").unwrap(), "not read", Ok(Placed::Found), &whole);
        check(|dir| fs::write(dir.join("target"), "wan").unwrap(), "wanted", Ok(Placed::Written), &whole);
        // What a kill has left of a draft, longer than what is to be written.
        let torn = |dir: &Path| fs::write(dir.join("draft"), "half of something else").unwrap();
        check(torn, "wanted", Ok(Placed::Written), &whole);
        let changed = "name has changed since the update was planned; begin a new one";
        check(|_| {}, "unwanted", Err(changed), &[]);
    }

    #[test]
    fn everything_is_listed_and_what_is_no_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("deep/empty")).unwrap();
        fs::write(dir.path().join("deep/file"), "one").unwrap();
        std::os::unix::fs::symlink("deep/file", dir.path().join("link")).unwrap();
        let listed: Vec<_> = list(dir.path()).unwrap().into_iter().collect();
        let file = Found::File { sha512: sha512(b"one"), bytes: 3 };
        assert_eq!(
            listed,
            [
                ("deep/empty".to_owned(), Found::Other("an empty directory")),
                ("deep/file".to_owned(), file),
                ("link".to_owned(), Found::Other("neither a file nor a directory")),
            ]
        );
    }
}
