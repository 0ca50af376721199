//! Owns one rule of a grant: which requests it allows, and its text form. Never sends anything.
//!
//! The text form is `[METHODS ]SCHEME://HOST[:PORT][/PATH]`:
//!
//! | part | form | without it |
//! |---|---|---|
//! | METHODS | a comma list such as `GET,POST`, or `*` | `GET,HEAD`: what only reads; to write must be said |
//! | SCHEME | `http` or `https` | |
//! | HOST | a name, `*.` and a name for everything below it (not the name itself), or an address | |
//! | PORT | a number | 80 or 443, by the scheme |
//! | PATH | whole segments: `/v1` is `/v1` and `/v1/x`, not `/v10`; `/v1/` is what is below it | everything |

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::str::FromStr;

use url::Host;

use super::target::{self, Authority, PathFault, Scheme, Target, TargetFault};

/// What a rule without methods allows: requests that only read.
const DEFAULT_METHODS: [&str; 2] = ["GET", "HEAD"];

/// What no rule allows, `*` neither: `CONNECT` asks for a tunnel, behind which nothing is checked, and
/// `TRACE` for all headers back, secrets among them.
const FORBIDDEN_METHODS: [&str; 2] = ["CONNECT", "TRACE"];

/// Returns whether no rule allows the method. Methods differ by case, but not to every server.
pub(crate) fn is_forbidden(method: &str) -> bool {
    FORBIDDEN_METHODS.iter().any(|forbidden| method.eq_ignore_ascii_case(forbidden))
}

/// A set of HTTP requests that a step may make.
///
/// ```
/// let rule: docket_runtime::HttpRule = "POST https://api.example.com/v1".parse()?;
/// assert_eq!(rule.to_string(), "POST https://api.example.com/v1");
/// # Ok::<(), docket_runtime::HttpRuleError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HttpRule {
    scheme: Scheme,
    host: HostPattern,
    port: u16,
    /// Canonical.
    path: String,
    methods: Methods,
}

/// Which methods a rule allows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Methods {
    Only(BTreeSet<String>),
    Any,
}

/// Hosts: one by its name or address, or all below a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPattern(Pattern);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Pattern {
    Exact(Host),
    /// Every name that ends with this, which begins with a dot.
    Below(String),
}

/// Why a text is no [`HttpRule`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{rule}` is not a rule for HTTP requests: {fault}")]
pub struct HttpRuleError {
    rule: String,
    fault: RuleFault,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum RuleFault {
    #[error("write `[METHODS ]SCHEME://HOST[:PORT]/PATH`, such as `GET,POST https://api.example.com/v1`")]
    Form,
    #[error("`{0}` is not a method; write methods as upper-case words with commas between, or `*`")]
    Method(String),
    #[error("the method `{0}` is never allowed")]
    Forbidden(String),
    #[error("leave out the query; a rule is about paths")]
    Query,
    #[error(transparent)]
    Host(HostFault),
    #[error(transparent)]
    Target(TargetFault),
}

/// Why a text is no [`HostPattern`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostFault {
    #[error("`*` stands for everything below a name, as in `*.example.com`, and for nothing else")]
    Wildcard,
    #[error(transparent)]
    Host(TargetFault),
}

impl HttpRule {
    /// Returns whether a request is one of those that the rule is about.
    pub(crate) fn allows(&self, method: &str, target: &Target) -> bool {
        let methods = match &self.methods {
            Methods::Any => !is_forbidden(method),
            Methods::Only(methods) => methods.contains(method),
        };
        methods
            && self.scheme == target.scheme
            && self.port == target.port
            && self.host.matches(&target.host)
            && self.covers(&target.path)
    }

    /// Returns the hosts that the rule is about.
    pub(crate) fn host(&self) -> &HostPattern {
        &self.host
    }

    /// Returns whether the other rule allows everything that this one does.
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        let methods = match (&self.methods, &other.methods) {
            (_, Methods::Any) => true,
            (Methods::Any, Methods::Only(_)) => false,
            (Methods::Only(these), Methods::Only(those)) => these.is_subset(those),
        };
        methods
            && self.scheme == other.scheme
            && self.port == other.port
            && self.host.is_within(&other.host)
            && other.covers(&self.path)
    }

    fn covers(&self, path: &str) -> bool {
        path.strip_prefix(&self.path)
            .is_some_and(|rest| self.path.ends_with('/') || rest.is_empty() || rest.starts_with('/'))
    }
}

impl HostPattern {
    /// Returns whether the host is one of these.
    pub(crate) fn matches(&self, host: &Host) -> bool {
        match (&self.0, host) {
            (Pattern::Exact(exact), host) => exact == host,
            (Pattern::Below(suffix), Host::Domain(name)) => {
                name.len() > suffix.len() && name.ends_with(suffix.as_str())
            }
            (Pattern::Below(_), Host::Ipv4(_) | Host::Ipv6(_)) => false,
        }
    }

    /// Returns whether the other pattern matches every host that this one does.
    fn is_within(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Pattern::Exact(host), _) => other.matches(host),
            (Pattern::Below(one), Pattern::Below(another)) => one.ends_with(another),
            (Pattern::Below(_), Pattern::Exact(_)) => false,
        }
    }

    /// Returns whether some host could be one of both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Pattern::Exact(host), _) => other.matches(host),
            (_, Pattern::Exact(host)) => self.matches(host),
            (Pattern::Below(one), Pattern::Below(another)) => {
                one.ends_with(another) || another.ends_with(one)
            }
        }
    }

    fn parse(text: &str) -> Result<Self, HostFault> {
        let (below, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        if name.contains('*') {
            return Err(HostFault::Wildcard);
        }
        match (target::parse_host(name).map_err(HostFault::Host)?, below) {
            (host, false) => Ok(Self(Pattern::Exact(host))),
            (Host::Domain(name), true) => Ok(Self(Pattern::Below(format!(".{name}")))),
            (_, true) => Err(HostFault::Wildcard),
        }
    }
}

impl FromStr for HostPattern {
    type Err = HttpRuleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fault = |fault| HttpRuleError { rule: text.to_owned(), fault: RuleFault::Host(fault) };
        Self::parse(text).map_err(fault)
    }
}

impl Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Pattern::Exact(host) => host.fmt(f),
            Pattern::Below(suffix) => write!(f, "*{suffix}"),
        }
    }
}

impl FromStr for HttpRule {
    type Err = HttpRuleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text.trim()).map_err(|fault| HttpRuleError { rule: text.to_owned(), fault })
    }
}

impl Display for HttpRule {
    /// The canonical form: equal rules have equal texts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.methods {
            Methods::Any => f.write_str("*")?,
            Methods::Only(methods) => {
                for (index, method) in methods.iter().enumerate() {
                    write!(f, "{}{method}", if index == 0 { "" } else { "," })?;
                }
            }
        }
        let Self { scheme, host, port, path, methods: _ } = self;
        write!(f, " {}://{}{path}", scheme.as_str(), Authority(*scheme, host, *port))
    }
}

fn parse(text: &str) -> Result<HttpRule, RuleFault> {
    let (methods, address) = match text.rsplit_once(char::is_whitespace) {
        Some((methods, address)) => (parse_methods(methods)?, address),
        None => (Methods::Only(DEFAULT_METHODS.map(str::to_owned).into()), text),
    };
    let (scheme, rest) = address.split_once("://").ok_or(RuleFault::Form)?;
    let Some(scheme) = Scheme::parse(scheme) else {
        return Err(RuleFault::Target(TargetFault::Scheme(scheme.to_owned())));
    };
    if rest.contains(['?', '#']) {
        return Err(RuleFault::Query);
    }
    let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    let (host, port) = target::split_authority(authority, scheme).map_err(RuleFault::Target)?;
    let host = HostPattern::parse(host).map_err(RuleFault::Host)?;
    let fault = |fault: PathFault| RuleFault::Target(TargetFault::Path { path: path.to_owned(), fault });
    let path = target::canonical_path(path).map_err(fault)?;
    Ok(HttpRule { scheme, host, port, path, methods })
}

fn parse_methods(text: &str) -> Result<Methods, RuleFault> {
    if text.trim() == "*" {
        return Ok(Methods::Any);
    }
    let mut methods = BTreeSet::new();
    for method in text.split(',').map(str::trim) {
        let is_word = !method.is_empty() && method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
        if !is_word {
            return Err(RuleFault::Method(method.to_owned()));
        }
        if is_forbidden(method) {
            return Err(RuleFault::Forbidden(method.to_owned()));
        }
        methods.insert(method.to_owned());
    }
    Ok(Methods::Only(methods))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(rule: &str, request: &str) -> bool {
        let rule: HttpRule = rule.parse().unwrap();
        let (method, address) = request.split_once(' ').unwrap();
        let (scheme, rest) = address.split_once("://").unwrap();
        let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
        Target::parse(scheme, authority, path).is_ok_and(|target| rule.allows(method, &target))
    }

    #[test]
    fn a_rule_allows_what_it_names_and_nothing_beside_it() {
        let cases: [(&str, &[&str], &[&str]); 9] = [
            (
                "https://api.example.com",
                &["GET https://api.example.com/", "HEAD https://API.example.com:443/x/y"],
                &[
                    "POST https://api.example.com/",
                    "get https://api.example.com/",
                    "GET http://api.example.com/",
                    "GET http://api.example.com:443/",
                    "GET https://api.example.com:444/",
                    "GET https://example.com/",
                    "GET https://x.api.example.com/",
                    "GET https://api.example.com.evil.test/",
                    "GET https://api.example.com@evil.test/",
                    "GET https://evil.test/api.example.com",
                ],
            ),
            (
                "GET https://a.test/v1",
                &[
                    "GET https://a.test/v1",
                    "GET https://a.test/v1/",
                    "GET https://a.test/v1/x",
                    "GET https://a.test/%761",
                ],
                &[
                    "HEAD https://a.test/v1",
                    "GET https://a.test/v10",
                    "GET https://a.test/v",
                    "GET https://a.test/",
                    "GET https://a.test/V1",
                    "GET https://a.test/v1%2fx",
                    "GET https://a.test/v1/../v2",
                    "GET https://a.test/v1/%2e%2e/v2",
                    "GET https://a.test//v1",
                    "GET https://a.test/x/../v1",
                ],
            ),
            (
                "GET https://a.test/v1/",
                &["GET https://a.test/v1/", "GET https://a.test/v1/x"],
                &["GET https://a.test/v1", "GET https://a.test/v1/./x"],
            ),
            (
                "GET https://*.example.com/",
                &["GET https://a.example.com/", "GET https://a.b.example.com/"],
                &[
                    "GET https://example.com/",
                    "GET https://aexample.com/",
                    "GET https://.example.com/",
                    "GET https://a.example.com./",
                    "GET https://a.example.com.evil.test/",
                ],
            ),
            (
                "POST,PUT https://a.test/",
                &["POST https://a.test/", "PUT https://a.test/"],
                &["GET https://a.test/"],
            ),
            (
                "* https://a.test/",
                &["GET https://a.test/", "DELETE https://a.test/", "PURGE https://a.test/"],
                &["CONNECT https://a.test/", "TRACE https://a.test/"],
            ),
            (
                "GET http://127.0.0.1:8080/",
                &["GET http://127.0.0.1:8080/", "GET http://127.1:8080/", "GET http://0x7f.0.0.1:8080/"],
                &["GET http://127.0.0.1/", "GET http://localhost:8080/", "GET http://[::1]:8080/"],
            ),
            ("GET http://[::1]:80/", &["GET http://[::1]/", "GET http://[0:0::1]/"], &["GET http://[::2]/"]),
            (
                "GET https://bücher.example/",
                &["GET https://xn--bcher-kva.example/", "GET https://BÜCHER.example/"],
                &["GET https://bucher.example/"],
            ),
        ];
        for (rule, allowed, refused) in cases {
            for request in allowed {
                assert!(allows(rule, request), "`{rule}` should allow `{request}`");
            }
            for request in refused {
                assert!(!allows(rule, request), "`{rule}` should refuse `{request}`");
            }
        }
    }

    #[test]
    fn equal_rules_have_equal_texts() {
        let cases = [
            ("https://API.example.com", "GET,HEAD https://api.example.com/"),
            ("HEAD, GET https://api.example.com:443/", "GET,HEAD https://api.example.com/"),
            ("  * http://*.Example.com:8080/%76%31 ", "* http://*.example.com:8080/v1"),
            ("PUT https://bücher.example/é/", "PUT https://xn--bcher-kva.example/%C3%A9/"),
            ("GET http://[0:0::1]:80", "GET http://[::1]/"),
            ("GET http://127.1", "GET http://127.0.0.1/"),
        ];
        for (text, expected) in cases {
            let rule: HttpRule = text.parse().unwrap();
            assert_eq!(rule.to_string(), expected);
            assert_eq!(expected.parse::<HttpRule>().unwrap(), rule);
        }
    }

    #[test]
    fn a_text_that_is_no_rule_is_refused_in_words() {
        let form =
            "write `[METHODS ]SCHEME://HOST[:PORT]/PATH`, such as `GET,POST https://api.example.com/v1`";
        let wildcard = "`*` stands for everything below a name, as in `*.example.com`, and for nothing else";
        let cases = [
            ("", form),
            ("api.example.com", form),
            ("GET /v1", form),
            ("ftp://a.test/", "`ftp` is not a scheme of HTTP; use `http` or `https`"),
            (
                "get https://a.test/",
                "`get` is not a method; write methods as upper-case words with commas between, or `*`",
            ),
            (
                "GET, https://a.test/",
                "`` is not a method; write methods as upper-case words with commas between, or `*`",
            ),
            ("CONNECT https://a.test/", "the method `CONNECT` is never allowed"),
            ("GET https://a.test/?q=1", "leave out the query; a rule is about paths"),
            ("GET https://*/", wildcard),
            ("GET https://*.*.test/", wildcard),
            ("GET https://api.*.test/", wildcard),
            ("GET https://*.10.0.0.1/", wildcard),
            ("GET https://user@a.test/", "the name of a user does not belong before a host"),
            ("GET https://a.test:x/", "`x` is not a port from 1 to 65535"),
            ("GET https://a.test./", "`a.test.` is not a host: leave out the dot at the end"),
            ("GET https://a.test/v1/../x", "the path `/v1/../x` has a `.` or `..` segment"),
        ];
        for (text, reason) in cases {
            let error = text.parse::<HttpRule>().unwrap_err().to_string();
            assert_eq!(error, format!("`{text}` is not a rule for HTTP requests: {reason}"));
        }
    }

    #[test]
    fn patterns_overlap_where_some_host_is_of_both() {
        let cases = [
            ("a.test", "a.test", true),
            ("a.test", "b.test", false),
            ("*.test", "a.test", true),
            ("a.test", "*.test", true),
            ("*.a.test", "*.test", true),
            ("*.a.test", "*.b.test", false),
            ("*.a.test", "a.test", false),
            ("10.0.0.1", "*.test", false),
        ];
        for (one, another, expected) in cases {
            let [one, another] = [one, another].map(|text| text.parse::<HostPattern>().unwrap());
            assert_eq!(one.overlaps(&another), expected, "{one} {another}");
        }
    }
}
