//! Owns the address of a store as people write it, and the way from it to a store. Never shows a
//! password.

mod open;

use std::fmt;
use std::path::PathBuf;

pub use open::{OpenedStore, WhenHeld, open};

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// `memory:`, in this process.
    Memory,
    /// `sled:PATH`, a directory.
    Sled(PathBuf),
    /// `sqlite:PATH`, a file.
    Sqlite(PathBuf),
    /// `postgres://…`.
    Postgres(ServerUrl),
    /// `mysql://…`, also for MariaDB.
    Mysql(ServerUrl),
    /// `redis://…`, `rediss://…` or `redis+unix://…`.
    Redis(ServerUrl),
}

/// The address of a server, perhaps with a password in it, which is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl(String);

/// Why a text is no address of a store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreUrlError {
    /// It does not say what kind of store.
    #[error("`{}` is no address of a store: for a directory, write `sled:{}`", .0.escape_debug(), .0.escape_debug())]
    NoScheme(String),
    /// It names a kind of store that there is not.
    #[error(
        "there is no store of the kind `{}`; {}",
        scheme.escape_debug(),
        nearest.map_or_else(|| format!("there are {}", names()), |nearest| format!("did you mean `{nearest}`?"))
    )]
    UnknownScheme {
        /// What it names.
        scheme: String,
        /// What may have been meant.
        nearest: Option<&'static str>,
    },
    /// It lacks what must follow the scheme.
    #[error("the address of a store lacks its {lacks}: write `{like}`")]
    Incomplete {
        /// What it lacks.
        lacks: &'static str,
        /// How it is written.
        like: &'static str,
    },
    /// Something follows where nothing can.
    #[error("nothing can follow `memory:`: a store in memory has no place")]
    MemoryHasNoPlace,
}

/// The schemes, and the kind of store that each is.
const SCHEMES: [(&str, Scheme); 10] = [
    ("memory", Scheme::Memory),
    ("sled", Scheme::Sled),
    ("sqlite", Scheme::Sqlite),
    ("postgres", Scheme::Postgres),
    ("mysql", Scheme::Mysql),
    ("redis", Scheme::Redis),
    // What others call the same.
    ("postgresql", Scheme::Postgres),
    ("mariadb", Scheme::Mysql),
    ("rediss", Scheme::Redis),
    ("redis+unix", Scheme::Redis),
];

/// How many of [`SCHEMES`] are shown to who has named none of them.
const SHOWN: usize = 6;

#[derive(Clone, Copy)]
enum Scheme {
    Memory,
    Sled,
    Sqlite,
    Postgres,
    Mysql,
    Redis,
}

impl StoreUrl {
    /// Returns the address that the text is.
    ///
    /// # Errors
    /// Where it names no store. The message shows nothing that may be a password.
    pub fn parse(text: &str) -> Result<Self, StoreUrlError> {
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(StoreUrlError::NoScheme(text.to_owned()));
        };
        // A path, not a scheme, stands before the colon.
        if scheme.contains(['/', '.', '\\']) {
            return Err(StoreUrlError::NoScheme(text.to_owned()).without_password());
        }
        let known = SCHEMES.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(scheme));
        match known.map(|(_, scheme)| scheme) {
            Some(Scheme::Memory) if rest.trim_start_matches('/').is_empty() => Ok(Self::Memory),
            Some(Scheme::Memory) => Err(StoreUrlError::MemoryHasNoPlace),
            Some(Scheme::Sled) => path(rest, "directory", "sled:PATH").map(Self::Sled),
            Some(Scheme::Sqlite) => path(rest, "file", "sqlite:PATH").map(Self::Sqlite),
            Some(Scheme::Postgres) => {
                server(text, "postgres", "postgres://USER:PASSWORD@HOST/DATABASE").map(Self::Postgres)
            }
            // One driver serves both.
            Some(Scheme::Mysql) => {
                server(text, "mysql", "mysql://USER:PASSWORD@HOST/DATABASE").map(Self::Mysql)
            }
            Some(Scheme::Redis) => server(text, scheme, "redis://HOST").map(Self::Redis),
            None => Err(StoreUrlError::UnknownScheme { nearest: nearest(scheme), scheme: scheme.to_owned() }),
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory:"),
            Self::Sled(path) => write!(f, "sled:{}", path.display()),
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(server) | Self::Mysql(server) | Self::Redis(server) => server.fmt(f),
        }
    }
}

impl ServerUrl {
    /// Returns the address with its password, for a driver and nobody else.
    pub fn with_password(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked(&self.0))
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerUrl({self})")
    }
}

impl StoreUrlError {
    fn without_password(self) -> Self {
        match self {
            Self::NoScheme(text) => Self::NoScheme(masked(&text)),
            Self::UnknownScheme { .. } | Self::Incomplete { .. } | Self::MemoryHasNoPlace => self,
        }
    }
}

/// Returns the address with stars for what may be a password. A password may hold any character that
/// should have been escaped, so that in doubt more is hidden.
fn masked(text: &str) -> String {
    let (head, query) =
        match text.rfind('@').map_or(text.find('?'), |at| text[at..].find('?').map(|from| at + from)) {
            Some(at) => text.split_at(at),
            None => (text, ""),
        };
    let begin = head.find("://").map_or(0, |at| at + 3);
    let (scheme, place) = head.split_at(begin);
    let place = match place.rfind('@') {
        Some(at) => match place[..at].split_once(':') {
            Some((user, _)) => format!("{user}:***{}", &place[at..]),
            None => place.to_owned(),
        },
        None => place.to_owned(),
    };
    let parameters = query.split_inclusive(['?', '&']).map(|parameter| match parameter.split_once('=') {
        Some((name, value)) if name.to_ascii_lowercase().contains("pass") => {
            format!("{name}=***{}", if value.ends_with('&') { "&" } else { "" })
        }
        Some(_) | None => parameter.to_owned(),
    });
    format!("{scheme}{place}{}", parameters.collect::<String>())
}

/// Returns the path that follows a scheme; `//` may stand before it, as in other addresses.
fn path(rest: &str, lacks: &'static str, like: &'static str) -> Result<PathBuf, StoreUrlError> {
    let path = rest.strip_prefix("//").unwrap_or(rest);
    if path.is_empty() { Err(StoreUrlError::Incomplete { lacks, like }) } else { Ok(path.into()) }
}

fn server(text: &str, scheme: &str, like: &'static str) -> Result<ServerUrl, StoreUrlError> {
    let rest = text.split_once("://").map(|(_, rest)| rest).filter(|rest| !rest.is_empty());
    let rest = rest.ok_or(StoreUrlError::Incomplete { lacks: "server", like })?;
    Ok(ServerUrl(format!("{}://{rest}", scheme.to_ascii_lowercase())))
}

/// Returns the scheme that may have been meant: at most two letters away.
fn nearest(scheme: &str) -> Option<&'static str> {
    let scheme = scheme.to_ascii_lowercase();
    let away = |name: &str| strsim::damerau_levenshtein(&scheme, name);
    let nearest = SCHEMES.into_iter().map(|(name, _)| name).min_by_key(|name| away(name));
    nearest.filter(|name| away(name) <= 2)
}

fn names() -> String {
    let names: Vec<String> = SCHEMES[..SHOWN].iter().map(|(name, _)| format!("`{name}`")).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_store_and_hides_its_password() {
        for (text, kind, shown) in [
            ("memory:", "Memory", "memory:"),
            ("sled:.docket", "Sled", "sled:.docket"),
            ("sled:///var/lib/docket", "Sled", "sled:/var/lib/docket"),
            ("sqlite:a b.db", "Sqlite", "sqlite:a b.db"),
            ("Postgres://u:p@h/d", "Postgres", "postgres://u:***@h/d"),
            ("postgresql://u:p@q@h/d?sslmode=require", "Postgres", "postgres://u:***@h/d?sslmode=require"),
            ("postgres://u@h/d?a=1&password=p&b=2", "Postgres", "postgres://u@h/d?a=1&password=***&b=2"),
            ("mariadb://u:p?/q@h:1/d", "Mysql", "mysql://u:***@h:1/d"),
            ("redis://:p@h:6379/1?prefix=a", "Redis", "redis://:***@h:6379/1?prefix=a"),
            ("rediss://h", "Redis", "rediss://h"),
            ("redis+unix:///run/r.sock?user=u&pass=p", "Redis", "redis+unix:///run/r.sock?user=u&pass=***"),
        ] {
            let url = StoreUrl::parse(text).unwrap();
            assert_eq!(url.to_string(), shown);
            let debug = format!("{url:?}");
            assert!(debug.starts_with(kind), "{debug}");
            assert!(shown == text || !debug.contains(":p"), "{debug}");
        }
    }

    #[test]
    fn an_address_of_nothing_says_what_was_meant() {
        for (text, says) in [
            ("", "`` is no address of a store: for a directory, write `sled:`"),
            ("./store", "`./store` is no address of a store: for a directory, write `sled:./store`"),
            ("./a:b", "`./a:b` is no address of a store: for a directory, write `sled:./a:b`"),
            ("postgre://u:secret@h", "there is no store of the kind `postgre`; did you mean `postgres`?"),
            ("slde:x", "there is no store of the kind `slde`; did you mean `sled`?"),
            (
                "oracle://u:secret@h",
                "there is no store of the kind `oracle`; there are `memory`, `sled`, `sqlite`, `postgres`, `mysql`, \
                 `redis`",
            ),
            ("sled:", "the address of a store lacks its directory: write `sled:PATH`"),
            ("sqlite://", "the address of a store lacks its file: write `sqlite:PATH`"),
            ("redis:h", "the address of a store lacks its server: write `redis://HOST`"),
            ("memory:x", "nothing can follow `memory:`: a store in memory has no place"),
        ] {
            assert_eq!(StoreUrl::parse(text).unwrap_err().to_string(), says);
        }
    }
}
