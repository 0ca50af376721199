//! Owns what `docket.toml` says of outgoing requests for the whole host, the table `http`: whom to trust, and how
//! long to wait. Never makes a request, never decides who may.

use std::path::Path;
use std::time::Duration;

use docket_runtime::HttpOptions;

use super::section::Section;

/// `[http]`
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct HttpConfig {
    /// The texts of the files under `authorities`.
    authorities: Vec<Vec<u8>>,
    connect_timeout: Option<Duration>,
    first_byte_timeout: Option<Duration>,
    between_bytes_timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
}

/// A longer file holds no certificates but was named by mistake, in bytes: ten times the browsers' list.
const LONGEST_AUTHORITIES: u64 = 4 << 20;

/// Reads the table `http`.
pub(super) fn http(section: &mut Section<'_, '_>, beside: &Path) -> HttpConfig {
    HttpConfig {
        authorities: section.list("authorities", |path| authority(&beside.join(path))).unwrap_or_default(),
        connect_timeout: section.duration("connect-timeout"),
        first_byte_timeout: section.duration("first-byte-timeout"),
        between_bytes_timeout: section.duration("between-bytes-timeout"),
        idle_timeout: section.duration("idle-timeout"),
    }
}

/// Reads a file of certificates; what stands in it is looked at by who uses it.
fn authority(path: &Path) -> Result<Vec<u8>, String> {
    match std::fs::metadata(path) {
        Ok(found) if found.len() > LONGEST_AUTHORITIES => {
            return Err(format!("the file `{}` is longer than {LONGEST_AUTHORITIES} bytes", path.display()));
        }
        Ok(_) | Err(_) => {}
    }
    std::fs::read(path).map_err(|error| format!("the file `{}` cannot be read: {error}", path.display()))
}

impl HttpConfig {
    /// Returns how the host makes requests: as it was told here, and else as it does by default.
    pub(crate) fn options(&self) -> HttpOptions {
        let Self { authorities, connect_timeout, first_byte_timeout, between_bytes_timeout, idle_timeout } =
            self;
        let default = HttpOptions::default();
        HttpOptions {
            roots: authorities.clone(),
            connect_timeout: connect_timeout.unwrap_or(default.connect_timeout),
            first_byte_timeout: first_byte_timeout.unwrap_or(default.first_byte_timeout),
            between_bytes_timeout: between_bytes_timeout.unwrap_or(default.between_bytes_timeout),
            idle_timeout: idle_timeout.unwrap_or(default.idle_timeout),
            resolver: default.resolver,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Environment};
    use super::*;

    fn parse(dir: &Path, text: &str) -> Result<Config, String> {
        let read = Config::parse(dir.join("docket.toml"), text, &Environment::default());
        read.map_err(|error| error.to_string())
    }

    #[test]
    fn every_key_reaches_the_host_and_files_lie_beside_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("own.pem"), "PEM").unwrap();
        let text = "[http]\nauthorities = ['own.pem']\nconnect-timeout = '1s'\nfirst-byte-timeout = '2s'\n\
                    between-bytes-timeout = '3s'\nidle-timeout = '4s'\n";
        let found = parse(dir.path(), text).unwrap().http.options();
        assert_eq!(found.roots, [b"PEM"]);
        let times = [
            found.connect_timeout,
            found.first_byte_timeout,
            found.between_bytes_timeout,
            found.idle_timeout,
        ];
        assert_eq!(times, [1, 2, 3, 4].map(Duration::from_secs));
        let (none, default) = (parse(dir.path(), "").unwrap().http.options(), HttpOptions::default());
        assert_eq!((none.roots.len(), none.idle_timeout), (0, default.idle_timeout));
        assert_eq!(none.first_byte_timeout, default.first_byte_timeout);
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let text = "[http]\nauthorities = ['none.pem']\nidle-timeout = '0s'\nconect-timeout = '1s'\n";
        let faults = parse(dir.path(), text).unwrap_err();
        let none = dir.path().join("none.pem");
        for words in [
            format!(
                "2: `http.authorities` is wrong: the file `{}` cannot be read: No such file",
                none.display()
            ),
            "3: `http.idle-timeout` is wrong: it must be longer than zero".to_owned(),
            "4: unknown key `conect-timeout` in `http`; did you mean `connect-timeout`?".to_owned(),
        ] {
            assert!(faults.contains(&words), "{words}: {faults}");
        }
    }
}
