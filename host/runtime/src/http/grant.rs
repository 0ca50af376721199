//! Owns one step's grant as it is used: which requests it may make, with which secrets, over which
//! connections. Decides about a request before anything of it leaves the host.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use http::Request;
use http::uri::PathAndQuery;
use url::Host;
use wasmtime_wasi_http::WasiBody;

use super::address;
use super::connect::Connector;
use super::pool::Pool;
use super::rule::{HttpRule, is_forbidden};
use super::target::{Target, TargetFault};
use super::vault::{self, FillFault, Secret};

/// What a step may do over HTTP, ready to be used.
pub(crate) struct HttpGrant {
    pub(crate) rules: BTreeSet<HttpRule>,
    pub(crate) secrets: Vec<Secret>,
    /// Whether requests that change something get a key by which they can be told apart from repeats.
    pub(crate) keyed: Keyed,
    pub(crate) connector: Arc<Connector>,
    pub(crate) pool: Arc<Pool>,
}

/// Whether a step's requests carry `Idempotency-Key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keyed {
    /// Its results are kept: an attempt may be a repeat of one that was not seen to its end.
    Yes,
    /// They are not.
    No,
}

/// Why a request is not made. The words follow "step `X` may not GET `https://…`: ".
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("add \"{method} {origin}/\" to the `http` rules of its grants")]
    NoRule { method: String, origin: String },
    #[error("the method is never allowed")]
    Method,
    #[error("the address is not one: {0}")]
    Address(String),
    #[error(transparent)]
    Target(#[from] TargetFault),
    #[error(transparent)]
    Secret(#[from] FillFault),
}

impl HttpGrant {
    /// Returns where the request goes, with its secrets filled in, its host set and its address in the
    /// one form that is checked.
    ///
    /// # Errors
    /// Where it is not allowed; nothing of it may be sent then.
    pub(crate) fn checked(&self, request: &mut Request<WasiBody>) -> Result<Target, Refusal> {
        let target = allowed(&self.rules, request)?;
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        vault::check_address(path)?;
        // What has a query and no path asks for the root.
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let path =
            PathAndQuery::from_maybe_shared(path).map_err(|error| Refusal::Address(error.to_string()))?;
        vault::fill(request.headers_mut(), &self.secrets, &target.host)?;
        let host = target.authority().parse().expect("a checked authority may stand in a header");
        request.headers_mut().insert(http::header::HOST, host);
        *request.uri_mut() = path.into();
        Ok(target)
    }

    /// Returns whether a connection for this request may lead to the address: it is public, or a rule
    /// allows this very request to the address by its number. `localhost` by name is this machine.
    pub(crate) fn admits(&self, method: &str, target: &Target, address: IpAddr) -> bool {
        let by_number = || {
            let host = match address.to_canonical() {
                IpAddr::V4(address) => Host::Ipv4(address),
                IpAddr::V6(address) => Host::Ipv6(address),
            };
            let numbered = Target { host, ..target.clone() };
            // A target that is a number itself stands in a rule as it is, mapped or not.
            self.allows(method, &numbered) || target.address() == Some(address)
        };
        let localhost = matches!(&target.host, Host::Domain(name) if name == "localhost");
        address::is_public(address) || (localhost && address.is_loopback()) || by_number()
    }

    fn allows(&self, method: &str, target: &Target) -> bool {
        self.rules.iter().any(|rule| rule.allows(method, target))
    }
}

/// Returns where the request goes, if these rules allow it.
///
/// # Errors
/// Where they do not.
pub(crate) fn allowed(rules: &BTreeSet<HttpRule>, request: &Request<WasiBody>) -> Result<Target, Refusal> {
    let (method, uri) = (request.method().as_str(), request.uri());
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let path = if uri.path().is_empty() { "/" } else { uri.path() };
    let target = Target::parse(uri.scheme_str().unwrap_or_default(), authority, path)?;
    if is_forbidden(method) {
        return Err(Refusal::Method);
    }
    if rules.iter().any(|rule| rule.allows(method, &target)) {
        return Ok(target);
    }
    let origin = format!("{}://{}", target.scheme.as_str(), target.authority());
    Err(Refusal::NoRule { method: method.to_owned(), origin })
}
