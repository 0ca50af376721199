//! Owns the one reading of where a request goes: scheme, host, port and path, in one spelling each.
//! What could be read in two ways is refused here. Never matches a rule, never resolves a name.

use std::fmt::{self, Display};
use std::net::IpAddr;

use url::Host;

/// `http` or `https`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "http" => Some(Scheme::Http),
            "https" => Some(Scheme::Https),
            _ => None,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    /// Returns the port that goes without saying.
    pub(crate) fn port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// Where a request goes, in one spelling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) scheme: Scheme,
    /// Lower case, internationalised names in punycode, addresses in their usual form.
    pub(crate) host: Host,
    pub(crate) port: u16,
    /// Without the query; of escapes only those that are needed.
    pub(crate) path: String,
}

/// Why a request's address is no [`Target`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TargetFault {
    #[error("`{0}` is not a scheme of HTTP; use `http` or `https`")]
    Scheme(String),
    #[error("the name of a user does not belong before a host")]
    User,
    #[error("`{host}` is not a host: {reason}")]
    Host { host: String, reason: String },
    #[error("`{0}` is not a port from 1 to 65535")]
    Port(String),
    #[error("the path `{path}` {fault}")]
    Path { path: String, fault: PathFault },
}

/// What makes a path ambiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathFault {
    #[error("does not begin with `/`")]
    Relative,
    #[error("has a `.` or `..` segment")]
    Dots,
    #[error("has an empty segment, `//`")]
    Empty,
    #[error("has a backslash")]
    Backslash,
    #[error("has an encoded slash, dot or backslash")]
    Encoded,
    #[error("has a `%` that begins no escape")]
    Escape,
    #[error("has a space or a control character")]
    Control,
}

impl Target {
    /// Returns where a request to this authority and path goes. A query does not belong to the path.
    ///
    /// # Errors
    /// Whatever could be read in two ways: a user, an odd port, dots or escapes that climb.
    pub(crate) fn parse(scheme: &str, authority: &str, path: &str) -> Result<Self, TargetFault> {
        let scheme = Scheme::parse(scheme).ok_or_else(|| TargetFault::Scheme(scheme.to_owned()))?;
        let (host, port) = split_authority(authority, scheme)?;
        let host = parse_host(host)?;
        let path =
            canonical_path(path).map_err(|fault| TargetFault::Path { path: path.to_owned(), fault })?;
        Ok(Self { scheme, host, port, path })
    }

    /// Returns the host's address where it is one by itself.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        match &self.host {
            Host::Domain(_) => None,
            Host::Ipv4(address) => Some((*address).into()),
            Host::Ipv6(address) => Some((*address).into()),
        }
    }

    /// Returns host and port, the port only where it does not go without saying.
    pub(crate) fn authority(&self) -> String {
        Authority(self.scheme, &self.host, self.port).to_string()
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, host, port, path } = self;
        write!(f, "{}://{}{path}", scheme.as_str(), Authority(*scheme, host, *port))
    }
}

/// Writes host and port, the port only where it does not go without saying.
pub(crate) struct Authority<'a, H: Display>(pub(crate) Scheme, pub(crate) &'a H, pub(crate) u16);

impl<H: Display> Display for Authority<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(scheme, host, port) = self;
        host.fmt(f)?;
        if *port == scheme.port() { Ok(()) } else { write!(f, ":{port}") }
    }
}

/// Returns the host as written, and the port.
pub(crate) fn split_authority(authority: &str, scheme: Scheme) -> Result<(&str, u16), TargetFault> {
    if authority.contains('@') {
        return Err(TargetFault::User);
    }
    // The colons inside of `[::1]` are the address's own.
    let end_of_address = authority.rfind(']').map_or(0, |end| end + 1);
    match authority[end_of_address..].rfind(':').map(|colon| end_of_address + colon) {
        None => Ok((authority, scheme.port())),
        Some(colon) => {
            let (host, port) = (&authority[..colon], &authority[colon + 1..]);
            // `+80` and `080` are numbers for `parse`, and nobody writes them honestly.
            let plain = port.bytes().all(|digit| digit.is_ascii_digit()) && !port.starts_with('0');
            let number = port.parse().ok().filter(|_| plain);
            number.map(|number| (host, number)).ok_or_else(|| TargetFault::Port(port.to_owned()))
        }
    }
}

/// Returns the host in its one spelling.
pub(crate) fn parse_host(host: &str) -> Result<Host, TargetFault> {
    let fault = |reason: &str| TargetFault::Host { host: host.to_owned(), reason: reason.to_owned() };
    if host.contains('%') {
        return Err(fault("a host has no escapes"));
    }
    match Host::parse(host) {
        Ok(Host::Domain(name)) if name.ends_with('.') => Err(fault("leave out the dot at the end")),
        Ok(Host::Domain(name)) if name.split('.').any(str::is_empty) => Err(fault("a label is empty")),
        Ok(host) => Ok(host),
        Err(error) => Err(fault(&error.to_string())),
    }
}

/// Returns the path with each character written in the one way in which it can be, so that paths can
/// be compared by their bytes.
pub(crate) fn canonical_path(path: &str) -> Result<String, PathFault> {
    if !path.starts_with('/') {
        return Err(PathFault::Relative);
    }
    let mut canonical = String::with_capacity(path.len());
    let mut bytes = path.as_bytes();
    while let [byte, rest @ ..] = bytes {
        bytes = rest;
        match *byte {
            b'%' => {
                let [high, low, rest @ ..] = rest else { return Err(PathFault::Escape) };
                let mut value = [0];
                base16ct::mixed::decode([*high, *low], &mut value).map_err(|_| PathFault::Escape)?;
                bytes = rest;
                push_escaped(value[0], rest, &mut canonical)?;
            }
            b'\\' => return Err(PathFault::Backslash),
            0..=b' ' | 0x7f => return Err(PathFault::Control),
            0x80.. => push_escape(*byte, &mut canonical),
            plain => canonical.push(char::from(plain)),
        }
    }
    check_segments(&canonical)?;
    Ok(canonical)
}

/// Writes a character that was escaped, as itself where it means the same.
fn push_escaped(value: u8, rest: &[u8], canonical: &mut String) -> Result<(), PathFault> {
    match value {
        b'/' | b'.' | b'\\' => return Err(PathFault::Encoded),
        0..b' ' | 0x7f => return Err(PathFault::Control),
        // Escaped twice: a server that decodes twice would read a dot or a slash.
        b'%' if matches!(rest, [b'2', b'e' | b'E' | b'f' | b'F', ..] | [b'5', b'c' | b'C', ..]) => {
            return Err(PathFault::Encoded);
        }
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => canonical.push(char::from(value)),
        other => push_escape(other, canonical),
    }
    Ok(())
}

fn push_escape(byte: u8, canonical: &mut String) {
    let mut digits = [0; 2];
    canonical.push('%');
    canonical.push_str(base16ct::upper::encode_str(&[byte], &mut digits).expect("two digits for a byte"));
}

fn check_segments(path: &str) -> Result<(), PathFault> {
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        // Some servers cut parameters off before they resolve dots: `/v1/..;x/admin`.
        let name = segment.split(';').next().unwrap_or_default();
        let name = name.split("%3B").next().unwrap_or_default();
        if matches!(name, "." | "..") {
            return Err(PathFault::Dots);
        }
        if segment.is_empty() && segments.peek().is_some() {
            return Err(PathFault::Empty);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_spelling_or_is_refused() {
        let cases = [
            ("/", Ok("/")),
            ("/v1/", Ok("/v1/")),
            ("/v1/a.b/c..d/...", Ok("/v1/a.b/c..d/...")),
            ("/%76%31/%41", Ok("/v1/A")),
            ("/caf%c3%a9", Ok("/caf%C3%A9")),
            ("/café", Ok("/caf%C3%A9")),
            ("/a%20b%3b", Ok("/a%20b%3B")),
            ("/100%25", Ok("/100%25")),
            ("/100%2541", Ok("/100%2541")),
            ("/a;v=1/b", Ok("/a;v=1/b")),
            ("", Err(PathFault::Relative)),
            ("*", Err(PathFault::Relative)),
            ("v1", Err(PathFault::Relative)),
            ("/v1/../admin", Err(PathFault::Dots)),
            ("/v1/..", Err(PathFault::Dots)),
            ("/./v1", Err(PathFault::Dots)),
            ("/v1/..;/admin", Err(PathFault::Dots)),
            ("/v1/..;x=1/admin", Err(PathFault::Dots)),
            ("/v1/..%3bx/admin", Err(PathFault::Dots)),
            ("//v1", Err(PathFault::Empty)),
            ("/v1//x", Err(PathFault::Empty)),
            ("/v1//", Err(PathFault::Empty)),
            ("/v1/%2e%2e/admin", Err(PathFault::Encoded)),
            ("/v1/.%2E/admin", Err(PathFault::Encoded)),
            ("/v1%2fadmin", Err(PathFault::Encoded)),
            ("/v1%5Cadmin", Err(PathFault::Encoded)),
            ("/v1/%252e%252e/admin", Err(PathFault::Encoded)),
            ("/v1%252Fadmin", Err(PathFault::Encoded)),
            ("/v1\\..\\admin", Err(PathFault::Backslash)),
            ("/v1/%", Err(PathFault::Escape)),
            ("/v1/%4", Err(PathFault::Escape)),
            ("/v1/%zz", Err(PathFault::Escape)),
            ("/v1/%00", Err(PathFault::Control)),
            ("/v1/%0d%0a", Err(PathFault::Control)),
            ("/v1 /x", Err(PathFault::Control)),
        ];
        for (path, expected) in cases {
            assert_eq!(canonical_path(path).as_deref(), expected.as_ref().map(|path| *path), "{path}");
        }
    }

    #[test]
    fn a_target_has_one_spelling_or_is_refused() {
        let cases = [
            ("https", "API.Example.com", "https://api.example.com/"),
            ("https", "api.example.com:443", "https://api.example.com/"),
            ("http", "api.example.com:443", "http://api.example.com:443/"),
            ("https", "bücher.example", "https://xn--bcher-kva.example/"),
            ("https", "XN--BCHER-KVA.example", "https://xn--bcher-kva.example/"),
            ("http", "127.1", "http://127.0.0.1/"),
            ("http", "0x7f000001", "http://127.0.0.1/"),
            ("http", "2130706433:8080", "http://127.0.0.1:8080/"),
            ("http", "[0:0:0:0:0:0:0:1]:8080", "http://[::1]:8080/"),
            ("http", "localhost", "http://localhost/"),
        ];
        for (scheme, authority, expected) in cases {
            assert_eq!(Target::parse(scheme, authority, "/").unwrap().to_string(), expected);
        }
        let refused = [
            ("ftp", "a"),
            ("https", "user@a"),
            ("https", "user:secret@a"),
            ("https", ""),
            ("https", "a."),
            ("https", "a..b"),
            ("https", "a%2eb"),
            ("https", "a b"),
            ("https", "a:"),
            ("https", "a:0"),
            ("https", "a:080"),
            ("https", "a:+80"),
            ("https", "a:65536"),
            ("https", "[::1"),
            ("https", "[fe80::1%25eth0]"),
            ("https", "1.2.3.4.5"),
            ("https", "256.1.1.1"),
        ];
        for (scheme, authority) in refused {
            assert!(Target::parse(scheme, authority, "/").is_err(), "{scheme}://{authority}");
        }
    }
}
