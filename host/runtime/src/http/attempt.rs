//! Owns one attempt's use of HTTP, as WASI asks for it: each request is counted, checked against the
//! grant and given its key here, and made below. Never retries what a server may have seen.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use http::{Request, Response};
use sha2::{Digest as _, Sha256};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpHooks};

use super::body::head_length;
use super::exchange::{self, Exchange, Timeouts};
use super::grant::{self, HttpGrant, Keyed, Refusal};
use super::limits::{HttpLimit, HttpLimits, LONGEST_HEAD, Meter, Noted};

/// What tells a repeated request from another one.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What a guest may write of a body before anyone reads it, in bytes: it can begin many bodies and send none.
const BODY_PIECE: usize = 64 << 10;

/// An address in a sentence is cut after this many bytes.
const LONGEST_ADDRESS: usize = 200;

/// What WASI needs of an attempt for HTTP.
pub(crate) struct HttpAttempt {
    pub(crate) context: WasiHttpCtx,
    pub(crate) hooks: Hooks,
}

/// Decides about the requests of one attempt.
pub(crate) struct Hooks {
    grant: Option<Arc<HttpGrant>>,
    /// The key of the work.
    key: [u8; 32],
    /// Requests so far that got a key.
    keyed: u64,
    meter: Meter,
}

type Answer = Result<(Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

impl HttpAttempt {
    /// Returns the state of an attempt; without a grant every request is refused.
    pub(crate) fn new(grant: Option<Arc<HttpGrant>>, limits: HttpLimits, key: [u8; 32]) -> Self {
        let hooks = Hooks { grant, key, keyed: 0, meter: Meter::new(limits) };
        Self { context: WasiHttpCtx::new(), hooks }
    }

    /// Returns the names of the secrets, and what stands for their values.
    pub(crate) fn placeholders(&self) -> impl Iterator<Item = (&str, String)> {
        let secrets = self.hooks.grant.iter().flat_map(|grant| &grant.secrets);
        secrets.map(|secret| (secret.name.as_str(), secret.name.placeholder()))
    }

    /// Returns whether a request is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.hooks.meter.is_busy()
    }

    /// Returns what went wrong so far, and forgets it.
    pub(crate) fn take_noted(&self) -> Noted {
        self.hooks.meter.take_noted()
    }
}

impl WasiHttpHooks for Hooks {
    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_PIECE
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Answer> + Send> {
        let prepared = self.prepared(request, options.unwrap_or_default());
        Box::new(async move {
            let response = exchange::run(prepared?).await?;
            Ok((response, Box::new(std::future::ready(Ok(()))) as Box<_>))
        })
    }
}

impl Hooks {
    /// Returns the request ready to be sent. All that is decided about it is decided here, while the
    /// guest waits: so requests are numbered in the order in which it makes them.
    fn prepared(
        &mut self,
        mut request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<Exchange, Error> {
        let place = self.meter.begin().map_err(|limit| match limit {
            HttpLimit::Concurrent(_) => Error::ConnectionLimitReached,
            HttpLimit::Requests(_) | HttpLimit::Bytes(_) | HttpLimit::Head(_) | HttpLimit::AnswerHead(_) => {
                Error::HttpRequestDenied
            }
        })?;
        let checked = match &self.grant {
            Some(grant) => grant.checked(&mut request).map(|target| (Arc::clone(grant), target)),
            None => Err(match grant::allowed(&BTreeSet::new(), &request) {
                Err(refusal) => refusal,
                Ok(target) => unreachable!("nothing is allowed without a rule, `{target}` neither"),
            }),
        };
        let (grant, target) = checked.map_err(|refusal| {
            self.meter.refused(sentence(&request, &refusal));
            Error::HttpRequestDenied
        })?;
        self.add_key(&mut request, grant.keyed);
        let head = request.method().as_str().len()
            + request.uri().path_and_query().map_or(0, |path| path.as_str().len())
            + head_length(request.headers());
        if head > LONGEST_HEAD {
            self.meter.reached(HttpLimit::Head(LONGEST_HEAD as u64));
            return Err(Error::HttpRequestHeaderSectionSize(u32::try_from(LONGEST_HEAD).ok()));
        }
        self.meter.count(head).map_err(|_| Error::HttpRequestDenied)?;
        let timeouts = Timeouts::of(options, &grant.connector.options);
        Ok(Exchange { grant, target, request, timeouts, meter: self.meter.clone(), place })
    }

    /// Adds `Idempotency-Key` where the request changes something and the guest has not set one.
    fn add_key(&mut self, request: &mut Request<WasiBody>, keyed: Keyed) {
        // Whatever is not known to change nothing may change something, methods of a server's own too.
        if keyed == Keyed::No || request.method().is_safe() {
            return;
        }
        self.keyed += 1;
        if !request.headers().contains_key(&IDEMPOTENCY_KEY) {
            let key = HeaderValue::from_str(&nth_key(&self.key, self.keyed));
            request.headers_mut().insert(IDEMPOTENCY_KEY, key.expect("digits may stand in a header"));
        }
    }
}

/// Returns the key of an attempt's n-th request that changes something: for the first one the key of the
/// work, which the guest knows too; for the others one that is made of it, because two requests with
/// one key would be one to the server. The same for every attempt. Bare digits, and 64 of them: the
/// drafted standard wants quotes around the text, but servers that take keys today take any text, some
/// of no more than 64 characters.
fn nth_key(work: &[u8; 32], n: u64) -> String {
    if n <= 1 {
        return base16ct::lower::encode_string(work);
    }
    let digest = Sha256::new()
        .chain_update(b"docket request")
        .chain_update(work)
        .chain_update(n.to_le_bytes())
        .finalize();
    base16ct::lower::encode_string(&digest)
}

/// Says what was refused; the words follow "step `X` ".
fn sentence(request: &Request<WasiBody>, refusal: &Refusal) -> String {
    let address = address(request.uri());
    let cut = &address[..address.floor_char_boundary(LONGEST_ADDRESS)];
    let more = if cut.len() < address.len() { "…" } else { "" };
    format!("may not {} {cut}{more}: {refusal}", request.method())
}

/// Returns the address without its query, which is nobody's business, and without a user.
fn address(uri: &http::Uri) -> String {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{}://{host}{}", uri.scheme_str().unwrap_or("https"), uri.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_request_has_the_key_of_the_work_and_each_other_one_its_own() {
        let work = [0xab; 32];
        let keys = [1, 2, 3].map(|n| nth_key(&work, n));
        assert_eq!(keys[0], "ab".repeat(32));
        // What a server has seen under these keys must be found again by later releases.
        assert_eq!(keys[1], "ed2efe68ac952bb6f139cc77b371a7be202b6454107ae1fbbeef3865195a94ad");
        assert!(keys[1] != keys[0] && keys[1] != keys[2] && keys[1] != nth_key(&[0xac; 32], 2));
        assert!(keys.iter().all(|key| key.len() == 64));
    }
}
