//! Owns one request on its way: over a connection that is there or a new one, to the head of the answer.
//! Never follows a redirect; never sends twice what may have been read.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::body::{Progress, RequestBody, ResponseBody, Whole, head_length};
use super::connect::{ConnectFault, Connection, HttpOptions};
use super::fault;
use super::grant::HttpGrant;
use super::limits::{Meter, UnderWay};
use super::pool::Peer;
use super::target::Target;
use super::vault;
use crate::clock;

/// A request that is allowed, and what comes of it is counted against.
pub(crate) struct Exchange {
    pub(crate) grant: Arc<HttpGrant>,
    pub(crate) target: Target,
    pub(crate) request: Request<WasiBody>,
    pub(crate) timeouts: Timeouts,
    pub(crate) meter: Meter,
    pub(crate) place: UnderWay,
}

/// How long to wait for each part of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timeouts {
    pub(crate) connect: Duration,
    pub(crate) first_byte: Duration,
    pub(crate) between_bytes: Duration,
}

impl Timeouts {
    /// Returns what the guest asks for, where that is no more than it may have.
    pub(crate) fn of(asked: RequestOptions, options: &HttpOptions) -> Self {
        let least = |asked: Option<Duration>, most: Duration| asked.map_or(most, |asked| asked.min(most));
        Self {
            connect: least(asked.connect_timeout, options.connect_timeout),
            first_byte: least(asked.first_byte_timeout, options.first_byte_timeout),
            between_bytes: least(asked.between_bytes_timeout, options.between_bytes_timeout),
        }
    }
}

/// Returns the answer once its head has come.
///
/// # Cancel safety
/// A dropped call ends its connection.
pub(crate) async fn run(exchange: Exchange) -> Result<Response<WasiBody>, Error> {
    let Exchange { grant, target, request, timeouts, meter, place } = exchange;
    let progress = Progress::now();
    let method = request.method().as_str().to_owned();
    let admits = |address: IpAddr| grant.admits(&method, &target, address);
    let body = |inner| RequestBody { inner, meter: meter.clone(), progress: progress.clone() };
    let mut request = request.map(body);
    let peer = Peer::of(&target);
    let missed =
        |awaited: Awaited| awaited.missed(&timeouts, &grant.connector.options, (&method, &target), &meter);
    let (response, connection) = loop {
        let mut connection = match grant.pool.take(&peer, admits) {
            Some(connection) => connection,
            None => {
                let connecting = grant.connector.connect(&target, timeouts.connect, admits).await;
                connecting.map_err(|fault| {
                    if matches!(fault, ConnectFault::Timeout(_)) {
                        missed(Awaited::Connection);
                    }
                    explained(&fault, &method, &target, &meter)
                })?
            }
        };
        progress.made();
        let sending = sent(&mut connection, request, &timeouts, &progress);
        match sending.await.inspect_err(|_| missed(Awaited::Answer))? {
            Sent::Answer(response) => break (response, connection),
            // A connection that was closed while it was idle; the request never left.
            Sent::Not(unsent) => request = *unsent,
            Sent::Failed(error) => {
                tracing::debug!(%error, %target, "a request got no answer");
                return Err(fault::of_sending(&error, &meter));
            }
        }
    };
    let (mut head, incoming) = response.into_parts();
    meter.count(head_length(&head.headers)).map_err(|_| Error::HttpResponseHeaderSectionSize(None))?;
    vault::blank(&mut head.headers, &grant.secrets);
    let whole = Whole {
        place,
        trailers: {
            let grant = Arc::clone(&grant);
            Box::new(move |trailers| vault::blank(trailers, &grant.secrets))
        },
        stalled: {
            let (grant, meter) = (Arc::clone(&grant), meter.clone());
            Box::new(move || {
                Awaited::More.missed(&timeouts, &grant.connector.options, (&method, &target), &meter)
            })
        },
        give_back: Box::new(move || grant.pool.put(peer, connection, &grant.connector)),
    };
    let body = ResponseBody::new(incoming, meter, timeouts.between_bytes, whole);
    Ok(Response::from_parts(head, body.boxed_unsync()))
}

/// What is waited for.
#[derive(Clone, Copy)]
enum Awaited {
    Connection,
    Answer,
    More,
}

impl Awaited {
    /// Notes that it did not come in time. A guest that asked for less time than it may have knows why by itself.
    fn missed(
        self,
        timeouts: &Timeouts,
        options: &HttpOptions,
        (method, target): (&str, &Target),
        meter: &Meter,
    ) {
        let (waited, most, what, option) = match self {
            Self::Connection => {
                (timeouts.connect, options.connect_timeout, "a connection", "connect-timeout")
            }
            Self::Answer => {
                (timeouts.first_byte, options.first_byte_timeout, "the answer", "first-byte-timeout")
            }
            Self::More => (
                timeouts.between_bytes,
                options.between_bytes_timeout,
                "more of the answer",
                "between-bytes-timeout",
            ),
        };
        if waited >= most {
            meter.refused(format!(
                "waited {waited:?} for {what} to {method} {target}, as long as `{option}` allows"
            ));
        }
    }
}

/// What became of a request.
enum Sent {
    Answer(Response<Incoming>),
    Not(Box<Request<RequestBody>>),
    Failed(hyper::Error),
}

/// Sends the request, and waits for the head of the answer for as long as something moves.
async fn sent(
    connection: &mut Connection,
    request: Request<RequestBody>,
    timeouts: &Timeouts,
    progress: &Progress,
) -> Result<Sent, Error> {
    let mut answer = pin!(connection.sender.try_send_request(request));
    loop {
        let until = clock::deadline(progress.last(), timeouts.first_byte);
        tokio::select! {
            biased;
            answer = &mut answer => return Ok(match answer {
                Ok(response) => Sent::Answer(response),
                Err(mut error) => match error.take_message() {
                    Some(request) => Sent::Not(Box::new(request)),
                    None => Sent::Failed(error.into_error()),
                },
            }),
            () = clock::sleep_until(until) => {
                // The request may have gone on meanwhile.
                if clock::deadline(progress.last(), timeouts.first_byte) <= until {
                    return Err(Error::ConnectionReadTimeout);
                }
            }
        }
    }
}

/// Returns what the guest is told of a connection that did not come about, and notes what a person
/// can do about it.
fn explained(fault: &ConnectFault, method: &str, target: &Target, meter: &Meter) -> Error {
    if let ConnectFault::NotPublic(addresses) = fault {
        let rule = addresses.first().map(|address| {
            let host = match address.to_canonical() {
                IpAddr::V4(address) => url::Host::Ipv4(address),
                IpAddr::V6(address) => url::Host::Ipv6(address),
            };
            let numbered = Target { host, ..target.clone() };
            format!("{}://{}", numbered.scheme.as_str(), numbered.authority())
        });
        let rule = rule.unwrap_or_default();
        meter.refused(format!(
            "may not {method} {target}: {fault}; if it is meant to go there, add \"{method} {rule}/\" to the `http` rules of its grants"
        ));
    }
    tracing::debug!(error = %fault, %target, "no connection");
    fault::of_connecting(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_may_wait_less_than_the_host_and_not_more() {
        let options = HttpOptions::default();
        let asked = RequestOptions {
            connect_timeout: Some(Duration::from_secs(1)),
            first_byte_timeout: Some(Duration::from_secs(3600)),
            between_bytes_timeout: None,
        };
        let expected = Timeouts {
            connect: Duration::from_secs(1),
            first_byte: options.first_byte_timeout,
            between_bytes: options.between_bytes_timeout,
        };
        assert_eq!(Timeouts::of(asked, &options), expected);
    }
}
