//! Owns directories and files for this user alone, and files that are whole. Never knows what they hold.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Returns `Ok(Ok)` for a directory that this user alone can write to, after making it where it
/// did not exist; `Ok(Err)` with mode and owner for any other.
#[cfg(unix)]
pub(super) fn make_private(dir: &Path) -> io::Result<Result<(), (u32, u32)>> {
    use std::os::unix::fs::MetadataExt as _;
    make_dir(dir)?;
    let found = fs::metadata(dir)?;
    let (mode, owner) = (found.mode() & 0o777, found.uid());
    Ok(if mode & 0o022 != 0 || owner != own_user(&found) { Err((mode, owner)) } else { Ok(()) })
}

#[cfg(not(unix))]
pub(super) fn make_private(dir: &Path) -> io::Result<Result<(), (u32, u32)>> {
    make_dir(dir).map(Ok)
}

/// Makes the directory where it does not exist, for the owner alone whatever the umask says.
fn make_dir(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(dir)
}

/// Makes a file that does not exist yet, for the owner alone whatever the umask says.
fn make_file(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.write(true).create_new(true).open(path)
}

/// Returns the user that this process runs as; where the system does not say, the file's own.
#[cfg(unix)]
pub(super) fn own_user(found: &fs::Metadata) -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").map_or(found.uid(), |process| process.uid())
}

/// Writes the file so that whoever opens it finds all of it, or nothing.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = write_unfinished(path, bytes)?;
    let renamed = fs::rename(&unfinished, path);
    if renamed.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&unfinished);
    }
    renamed
}

/// Writes the file under a name that is not its own yet, and returns that.
pub(super) fn write_unfinished(path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let dir = path.parent().expect("artifacts lie in a directory");
    make_dir(dir)?;
    let name = path.file_name().expect("artifacts have names").to_string_lossy();
    let unfinished = dir.join(format!(".{name}.{}", uuid::Uuid::now_v7().simple()));
    let written =
        make_file(&unfinished).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    if written.is_err() {
        // The first error is the one to report; a file that could not be made need not be removed.
        let _ = fs::remove_file(&unfinished);
    }
    written.map(|()| unfinished)
}
