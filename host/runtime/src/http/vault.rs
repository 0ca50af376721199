//! Owns the values of secrets, from the start of the host to its end, and the one place where they
//! are put into a header. Nothing here prints, compares or keeps a value anywhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::sync::Arc;

use http::HeaderValue;
use http::header::HeaderMap;
use url::Host;
use zeroize::Zeroizing;

use super::limits::LONGEST_HEAD;
use super::rule::HostPattern;
use super::secret::{PLACEHOLDER_END, PLACEHOLDER_START, SecretName, SecretSource};

/// A longer value is no secret but a file that was named by mistake, in bytes.
const LONGEST_VALUE: usize = 16 << 10;

/// The values of secrets, by where they came from. Each is read once.
#[derive(Default)]
pub(crate) struct Vault(BTreeMap<SecretSource, Arc<Value>>);

/// The value of one secret; overwritten when it is dropped.
pub(crate) struct Value(Zeroizing<Vec<u8>>);

/// Why the value of a secret cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ValueFault {
    #[error("the variable is not set")]
    NotSet,
    #[error("{0}")]
    Unreadable(String),
    #[error("the value is empty")]
    Empty,
    #[error("the value is longer than {LONGEST_VALUE} bytes")]
    Long,
    #[error("byte {0} of the value may not stand in a header")]
    Byte(usize),
}

impl Vault {
    /// Returns the value from this source, read now or before.
    ///
    /// # Errors
    /// Where there is none, or none that a header may have.
    pub(crate) fn value(&mut self, source: &SecretSource) -> Result<Arc<Value>, ValueFault> {
        if let Some(value) = self.0.get(source) {
            return Ok(Arc::clone(value));
        }
        let mut bytes = read(source)?;
        if bytes.ends_with(b"\n") {
            bytes.pop();
            if bytes.ends_with(b"\r") {
                bytes.pop();
            }
        }
        let value = Arc::new(Value::new(bytes)?);
        self.0.insert(source.clone(), Arc::clone(&value));
        Ok(value)
    }
}

impl Value {
    fn new(bytes: Zeroizing<Vec<u8>>) -> Result<Self, ValueFault> {
        match bytes.iter().position(|byte| matches!(byte, 0..b' ' | 0x7f)) {
            _ if bytes.is_empty() => Err(ValueFault::Empty),
            _ if bytes.len() > LONGEST_VALUE => Err(ValueFault::Long),
            Some(position) => Err(ValueFault::Byte(position + 1)),
            None => Ok(Self(bytes)),
        }
    }
}

fn read(source: &SecretSource) -> Result<Zeroizing<Vec<u8>>, ValueFault> {
    match source {
        // Read here and not at the edge, so that the value passes through no one else's hands.
        SecretSource::Env(name) => {
            let value = std::env::var_os(name).ok_or(ValueFault::NotSet)?;
            Ok(Zeroizing::new(value.into_encoded_bytes()))
        }
        SecretSource::File(path) => {
            // Reserved at once: a buffer that grows would leave pieces of the value behind.
            let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST_VALUE + 64));
            let file = std::fs::File::open(path);
            let read = file.and_then(|file| file.take(LONGEST_VALUE as u64 + 3).read_to_end(&mut bytes));
            read.map(|_| bytes).map_err(|error| ValueFault::Unreadable(error.to_string()))
        }
    }
}

/// A secret that a step may send: its name, its value and where it may go.
pub(crate) struct Secret {
    pub(crate) name: SecretName,
    pub(crate) value: Arc<Value>,
    /// `None`: wherever the step's rules lead.
    pub(crate) hosts: Option<BTreeSet<HostPattern>>,
}

/// Why a placeholder cannot be filled in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FillFault {
    #[error("it has no secret `{0}`; add it to the `secrets` of its grants")]
    Unknown(String),
    #[error("its secret `{name}` may not go to `{host}`; add the host to the secret's `hosts`")]
    Elsewhere { name: SecretName, host: String },
    #[error("placeholders of secrets are filled in in headers, not in the address of a request")]
    Address,
    #[error("a header with its secrets is longer than {LONGEST_HEAD} bytes")]
    Long,
}

/// Puts secrets where a step wrote their placeholders in a request's headers.
///
/// # Errors
/// Where a placeholder names a secret that the step does not have, or that may not go to this host.
pub(crate) fn fill(headers: &mut HeaderMap, secrets: &[Secret], host: &Host) -> Result<(), FillFault> {
    for value in headers.values_mut() {
        if let Some(filled) = filled(value.as_bytes(), secrets, host)? {
            let mut filled =
                HeaderValue::from_bytes(&filled).expect("a secret has only bytes that a header has");
            filled.set_sensitive(true);
            *value = filled;
        }
    }
    Ok(())
}

/// Returns the text with its placeholders filled in, or `None` where it has none.
fn filled(text: &[u8], secrets: &[Secret], host: &Host) -> Result<Option<Zeroizing<Vec<u8>>>, FillFault> {
    let mut pieces: Vec<&[u8]> = Vec::new();
    let mut rest = text;
    while let Some((start, name, end)) = placeholder(rest) {
        let found = secrets.iter().find(|secret| secret.name.as_str() == name);
        let secret = found.ok_or_else(|| FillFault::Unknown(name.to_owned()))?;
        let here =
            secret.hosts.as_ref().is_none_or(|hosts| hosts.iter().any(|pattern| pattern.matches(host)));
        if !here {
            return Err(FillFault::Elsewhere { name: secret.name.clone(), host: host.to_string() });
        }
        pieces.extend([&rest[..start], &secret.value.0]);
        rest = &rest[end..];
    }
    if pieces.is_empty() {
        return Ok(None);
    }
    pieces.push(rest);
    let length = pieces.iter().map(|piece| piece.len()).sum();
    if length > LONGEST_HEAD {
        return Err(FillFault::Long);
    }
    // Reserved at once: a buffer that grows would leave pieces of the values behind.
    let mut filled = Zeroizing::new(Vec::with_capacity(length));
    pieces.iter().for_each(|piece| filled.extend_from_slice(piece));
    Ok(Some(filled))
}

/// Returns the first placeholder: where it begins, the name in it, where it ends.
fn placeholder(text: &[u8]) -> Option<(usize, &str, usize)> {
    let mut from = 0;
    loop {
        let start = from + find(&text[from..], PLACEHOLDER_START.as_bytes())?;
        let name_at = start + PLACEHOLDER_START.len();
        let length = find(&text[name_at..], PLACEHOLDER_END.as_bytes())?;
        let name = std::str::from_utf8(&text[name_at..name_at + length]).ok();
        match name.filter(|name| name.parse::<SecretName>().is_ok()) {
            Some(name) => return Some((start, name, name_at + length + PLACEHOLDER_END.len())),
            None => from = name_at,
        }
    }
}

/// Refuses a placeholder in a request's address, where it would go out as it stands.
///
/// # Errors
/// Where there is one.
pub(crate) fn check_address(address: &str) -> Result<(), FillFault> {
    if placeholder(address.as_bytes()).is_some() { Err(FillFault::Address) } else { Ok(()) }
}

/// Empties every header of a response that has the value of a secret in it: what a server sends back
/// of a request's headers is not for the step.
pub(crate) fn blank(headers: &mut HeaderMap, secrets: &[Secret]) {
    for value in headers.values_mut() {
        if secrets.iter().any(|secret| find(value.as_bytes(), &secret.value.0).is_some()) {
            *value = HeaderValue::from_static("");
        }
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str, value: &str, hosts: Option<&[&str]>) -> Secret {
        Secret {
            name: name.parse().unwrap(),
            value: Arc::new(Value::new(Zeroizing::new(value.into())).ok().unwrap()),
            hosts: hosts.map(|hosts| hosts.iter().map(|host| host.parse().unwrap()).collect()),
        }
    }

    #[test]
    fn placeholders_are_filled_in_where_the_secret_may_go() {
        let secrets = [secret("KEY", "hunter2", None), secret("OTHER", "swordfish", Some(&["api.test"]))];
        let elsewhere =
            |host: &str| FillFault::Elsewhere { name: "OTHER".parse().unwrap(), host: host.into() };
        let long = "{{secret:KEY}}".repeat(LONGEST_HEAD / 4);
        type Case<'a> = (&'a str, &'a str, Result<Option<&'a str>, FillFault>);
        let cases: [Case<'_>; 11] = [
            ("plain", "a.test", Ok(None)),
            ("Bearer {{secret:KEY}}", "a.test", Ok(Some("Bearer hunter2"))),
            ("{{secret:KEY}}{{secret:KEY}}!", "a.test", Ok(Some("hunter2hunter2!"))),
            ("{{secret:OTHER}} {{secret:KEY}}", "api.test", Ok(Some("swordfish hunter2"))),
            ("{{secret:OTHER}}", "a.test", Err(elsewhere("a.test"))),
            ("{{secret:KEY}}{{secret:OTHER}}", "x.api.test", Err(elsewhere("x.api.test"))),
            ("{{secret:NONE}}", "a.test", Err(FillFault::Unknown("NONE".into()))),
            ("{{secret:key}}", "a.test", Err(FillFault::Unknown("key".into()))),
            ("{{secret:}} {{secret:a b}} {{secret:KEY", "a.test", Ok(None)),
            (&long, "a.test", Err(FillFault::Long)),
            ("{{secret:{{secret:KEY}}}}", "a.test", Ok(Some("{{secret:hunter2}}"))),
        ];
        for (text, host, expected) in cases {
            let host = Host::parse(host).unwrap();
            let found = filled(text.as_bytes(), &secrets, &host);
            let found = found.map(|filled| filled.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()));
            assert_eq!(found, expected.map(|text| text.map(str::to_owned)), "{text}");
        }
    }

    #[test]
    fn a_filled_header_does_not_show_its_value_and_a_reflected_secret_is_emptied() {
        let secrets = [secret("KEY", "hunter2", None)];
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_static("Bearer {{secret:KEY}}"));
        fill(&mut headers, &secrets, &Host::parse("a.test").unwrap()).unwrap();
        assert_eq!(headers["authorization"], "Bearer hunter2");
        assert!(!format!("{headers:?}").contains("hunter2"));
        headers.insert("x-other", HeaderValue::from_static("hunter3"));
        blank(&mut headers, &secrets);
        assert_eq!(
            (&headers["authorization"], &headers["x-other"]),
            (&"".parse().unwrap(), &"hunter3".parse().unwrap())
        );
    }

    #[test]
    fn a_value_is_read_from_its_source_or_the_fault_is_named_without_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = |content: &[u8]| {
            let path = dir.path().join("secret");
            std::fs::write(&path, content).unwrap();
            let value = Vault::default().value(&SecretSource::File(path));
            value.map(|value| String::from_utf8(value.0.to_vec()).unwrap())
        };
        assert_eq!(file(b"hunter2"), Ok("hunter2".to_owned()));
        assert_eq!(file(b"hunter2\n"), Ok("hunter2".to_owned()));
        assert_eq!(file(b"hunter2\r\n"), Ok("hunter2".to_owned()));
        assert_eq!(file(b"hunter2\n\n"), Err(ValueFault::Byte(8)));
        assert_eq!(file(b"hun\tter"), Err(ValueFault::Byte(4)));
        assert_eq!(file(b""), Err(ValueFault::Empty));
        assert_eq!(file(b"\n"), Err(ValueFault::Empty));
        assert_eq!(file(&[b'x'; LONGEST_VALUE]).map(|value| value.len()), Ok(LONGEST_VALUE));
        assert_eq!(file(&[b'x'; LONGEST_VALUE + 1]), Err(ValueFault::Long));
        let env = |name: &str| Vault::default().value(&SecretSource::Env(name.into())).map(|_| ());
        assert_eq!(env("CARGO_PKG_NAME"), Ok(()));
        assert_eq!(env("DOCKET_NO_SUCH_VARIABLE"), Err(ValueFault::NotSet));
    }
}
