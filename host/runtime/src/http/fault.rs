//! Owns what a guest is told of a request that failed: WASI's error codes. Never tells it more than a
//! code, because the host's network is none of its business.

use std::error::Error as _;

use wasmtime_wasi_http::Error;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;

use super::connect::ConnectFault;
use super::limits::{HttpLimit, LONGEST_HEAD, Meter};

/// Returns the code for a connection that did not come about.
pub(crate) fn of_connecting(fault: &ConnectFault) -> Error {
    match fault {
        ConnectFault::Lookup(_) | ConnectFault::NoAddress => {
            Error::DnsError { rcode: Some("address not available".to_owned()), info_code: None }
        }
        ConnectFault::NotPublic(_) => Error::DestinationIpProhibited,
        ConnectFault::Refused(error) if error.kind() == std::io::ErrorKind::TimedOut => {
            Error::ConnectionTimeout
        }
        ConnectFault::Refused(_) => Error::ConnectionRefused,
        ConnectFault::Timeout(_) => Error::ConnectionTimeout,
        ConnectFault::Certificate(_) => Error::TlsCertificateError,
        ConnectFault::Tls(_) => Error::TlsProtocolError,
        ConnectFault::Http(_) => Error::ConnectionTerminated,
    }
}

/// Returns the code for a request that got no answer.
pub(crate) fn of_sending(error: &hyper::Error, meter: &Meter) -> Error {
    if error.is_parse_too_large() {
        meter.reached(HttpLimit::AnswerHead(LONGEST_HEAD as u64));
        return Error::HttpResponseHeaderSectionSize(u32::try_from(LONGEST_HEAD).ok());
    }
    if let Some(Error::HttpRequestBodySize(size)) = error.source().and_then(|source| source.downcast_ref()) {
        return Error::HttpRequestBodySize(*size);
    }
    if error.is_parse() || error.is_user() {
        return Error::HttpProtocolError;
    }
    Error::ConnectionTerminated
}

/// Returns the code for an error that a guest met while it read a body; none where it has another cause.
///
/// wasmtime-wasi-http 48 looks for a code where it has put one of its own errors, and finds none.
pub(crate) fn code(error: &wasmtime::Error) -> Option<ErrorCode> {
    if let Some(code) = error.downcast_ref::<ErrorCode>() {
        return Some(code.clone());
    }
    error.downcast_ref::<Error>().map(|error| match error {
        Error::ConnectionReadTimeout => ErrorCode::ConnectionReadTimeout,
        Error::HttpProtocolError => ErrorCode::HttpProtocolError,
        Error::HttpResponseBodySize(size) => ErrorCode::HttpResponseBodySize(*size),
        Error::HttpResponseIncomplete => ErrorCode::HttpResponseIncomplete,
        // No other comes out of a body.
        _ => ErrorCode::InternalError(None),
    })
}
