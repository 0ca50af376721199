//! Owns the grant of one directory and its text form. Never opens it.
//!
//! The text form is `ro:HOST` or `rw:HOST`, and with the place in the guest `ro:HOST=/GUEST`. Without
//! it, the guest finds the directory under `/` and the last component of the host's path.

use std::fmt::{self, Display};
use std::path::{Component, Path, PathBuf};

/// What a step may do in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// List and read.
    ReadOnly,
    /// Everything that can be done below it, but for links that lead out.
    ReadWrite,
}

/// A directory that a step may open.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirGrant {
    /// What it may do there.
    pub access: Access,
    /// The directory of the host.
    pub host: PathBuf,
    /// Where the guest finds it: absolute, without `.` and `..`.
    pub guest: String,
}

/// Why a text is no [`DirGrant`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirGrantError {
    /// It says neither `ro:` nor `rw:`, or no directory.
    #[error("`{0}` is not a directory with an access; write `ro:PATH` or `rw:PATH`")]
    Form(String),
    /// The host's path has no last component to name the guest's path after.
    #[error("`{0}` has no name for the guest to find it under; write `{0}=/NAME`")]
    NoName(String),
    /// The guest's path is not in the one form that it must have.
    #[error("`{0}` is no path for a guest; it must begin with `/` and hold no `//`, `.` or `..`")]
    Guest(String),
}

impl DirGrant {
    /// Returns the grant that the text is; the host's path is taken as it is.
    ///
    /// # Errors
    /// Where it has not the form.
    pub fn parse(text: &str) -> Result<Self, DirGrantError> {
        let (access, paths) = match text.split_once(':') {
            Some(("ro", paths)) => (Access::ReadOnly, paths),
            Some(("rw", paths)) => (Access::ReadWrite, paths),
            _ => return Err(DirGrantError::Form(text.to_owned())),
        };
        // A host's path may hold `=`; a guest's begins with `/`.
        let (host, guest) = match paths.rfind("=/") {
            Some(at) => (&paths[..at], Some(paths[at + 1..].to_owned())),
            None => (paths, None),
        };
        if host.is_empty() {
            return Err(DirGrantError::Form(text.to_owned()));
        }
        let guest = match guest {
            Some(guest) => guest,
            None => match Path::new(host).components().next_back() {
                Some(Component::Normal(name)) => format!("/{}", name.to_string_lossy()),
                _ => return Err(DirGrantError::NoName(text.to_owned())),
            },
        };
        let mut segments = guest[1..].split('/');
        if guest != "/" && segments.any(|segment| matches!(segment, "" | "." | "..")) {
            return Err(DirGrantError::Guest(guest));
        }
        Ok(Self { access, host: host.into(), guest })
    }
}

impl Display for DirGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match self.access {
            Access::ReadOnly => "ro",
            Access::ReadWrite => "rw",
        };
        write!(f, "{access}:{}={}", self.host.display(), self.guest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_names_the_access_the_hosts_directory_and_where_the_guest_finds_it() {
        let cases = [
            ("ro:data", "ro:data=/data"),
            ("rw:/srv/out/", "rw:/srv/out/=/out"),
            ("rw:a/b=/x/y", "rw:a/b=/x/y"),
            ("ro:a=b", "ro:a=b=/a=b"),
            ("ro:a=b=/c", "ro:a=b=/c"),
            ("ro:.=/", "ro:.=/"),
            ("ro:../up", "ro:../up=/up"),
        ];
        for (text, canonical) in cases {
            let grant = DirGrant::parse(text).unwrap();
            assert_eq!(grant.to_string(), canonical, "{text}");
            assert_eq!(DirGrant::parse(canonical).unwrap(), grant);
        }
        for text in ["", "data", "r:data", "ro:", "ro:=/x", "wo:data"] {
            assert_eq!(DirGrant::parse(text).unwrap_err(), DirGrantError::Form(text.to_owned()));
        }
        for text in ["ro:.", "rw:..", "ro:/", "ro:a/.."] {
            assert_eq!(DirGrant::parse(text).unwrap_err(), DirGrantError::NoName(text.to_owned()));
        }
        for guest in ["/a/", "//", "/a//b", "/./a", "/a/.."] {
            let fault = DirGrant::parse(&format!("ro:data={guest}")).unwrap_err();
            assert_eq!(fault, DirGrantError::Guest(guest.to_owned()));
        }
    }
}
