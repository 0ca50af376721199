//! Owns the way to a granted directory: links in its path are resolved once, when the host starts, and none is
//! followed after that, so that nobody who can write beside it changes where it leads. Never decides who is granted
//! one, never looks into it.

use std::io;
use std::path::{Path, PathBuf};

use crate::grants::{DirGrant, GrantOptions};

/// Puts into each grant of a directory where its path leads now, without links. One that leads nowhere stays as it
/// is, and each attempt says so.
pub(crate) fn resolve(grants: &mut GrantOptions) {
    if let Some(dirs) = &mut grants.dirs {
        let resolve = |dir: DirGrant| DirGrant { host: resolved(&dir.host), ..dir };
        *dirs = std::mem::take(dirs).into_iter().map(resolve).collect();
    }
}

fn resolved(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned())
}

/// A directory that is held open.
#[cfg(target_os = "linux")]
pub(crate) struct OpenDir(rustix::fd::OwnedFd);

#[cfg(target_os = "linux")]
impl OpenDir {
    /// Opens the directory, component by component.
    ///
    /// # Errors
    /// Where it is not there, or a link stands in its path.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        use std::path::Component;

        use rustix::fs::{Mode, OFlags, open, openat, readlinkat};
        use rustix::io::Errno;

        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut here = open("/", flags, Mode::empty())?;
        let mut so_far = PathBuf::from("/");
        for part in path.components() {
            if matches!(part, Component::RootDir | Component::CurDir | Component::Prefix(_)) {
                continue;
            }
            let name = part.as_os_str();
            so_far.push(name);
            here = openat(&here, name, flags, Mode::empty()).map_err(|error| {
                match error == Errno::NOTDIR && readlinkat(&here, name, Vec::new()).is_ok() {
                    true => put_there(&so_far),
                    false => error.into(),
                }
            })?;
        }
        Ok(Self(here))
    }

    /// Returns a path to it that leads nowhere else for as long as it is held open.
    pub(crate) fn path(&self) -> PathBuf {
        use std::os::fd::AsRawFd as _;
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

/// A directory that was looked at. Where the system has no path to what is open, a link that is put there between the
/// look and the opening is followed.
#[cfg(not(target_os = "linux"))]
pub(crate) struct OpenDir(PathBuf);

#[cfg(not(target_os = "linux"))]
impl OpenDir {
    /// Looks at the directory.
    ///
    /// # Errors
    /// Where it is not there, or a link stands in its path.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        match std::fs::canonicalize(path)? == path {
            true => Ok(Self(path.to_owned())),
            false => Err(put_there(path)),
        }
    }

    /// Returns its path.
    pub(crate) fn path(&self) -> PathBuf {
        self.0.clone()
    }
}

fn put_there(path: &Path) -> io::Error {
    io::Error::other(format!("`{}` is a link, and was none when the host started", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_resolved_once_and_not_followed_after_that() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at("data/deep")).unwrap();
        fs::create_dir_all(at("secret/deep")).unwrap();
        symlink("data", at("link")).unwrap();
        let resolved = resolved(&at("link/deep"));
        assert_eq!(resolved, fs::canonicalize(at("data/deep")).unwrap());
        let opened = OpenDir::open(&resolved).unwrap();
        assert_eq!(fs::canonicalize(opened.path()).unwrap(), resolved);

        for (moved, to) in [("data", "secret"), ("data/deep", "../secret/deep")] {
            fs::rename(at(moved), at("aside")).unwrap();
            symlink(to, at(moved)).unwrap();
            let error = OpenDir::open(&resolved).err().unwrap().to_string();
            let place = fs::canonicalize(root.path()).unwrap().join(moved);
            let words = format!("`{}` is a link, and was none when the host started", place.display());
            assert_eq!(error, words);
            fs::remove_file(at(moved)).unwrap();
            fs::rename(at("aside"), at(moved)).unwrap();
            OpenDir::open(&resolved).unwrap();
        }
        for (name, kind) in [("none", io::ErrorKind::NotFound), ("file", io::ErrorKind::NotADirectory)] {
            fs::write(at("file"), "").unwrap();
            assert_eq!(OpenDir::open(&at(name)).err().unwrap().kind(), kind, "{name}");
        }
    }
}
