//! Owns the bodies on their way through the host: counted, timed, and ended at their limits. Never
//! looks into them.

use std::error::Error as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use wasmtime_wasi_http::{Error, WasiBody};

use super::limits::{HttpLimit, Meter, UnderWay};
use crate::clock;

/// When a request last made progress. Clones share it.
#[derive(Clone)]
pub(crate) struct Progress(Arc<Mutex<Instant>>);

impl Progress {
    pub(crate) fn now() -> Self {
        Self(Arc::new(Mutex::new(clock::now())))
    }

    pub(crate) fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn made(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = clock::now();
    }
}

/// What a guest sends.
pub(crate) struct RequestBody {
    pub(crate) inner: WasiBody,
    pub(crate) meter: Meter,
    pub(crate) progress: Progress,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(context);
        if frame.is_ready() {
            self.progress.made();
        }
        frame.map_ok(|frame| counted(frame, &self.meter, Error::HttpRequestBodySize)).map(flattened)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// What a guest receives.
pub(crate) struct ResponseBody {
    inner: Incoming,
    meter: Meter,
    pause: Duration,
    /// Set while the next piece is waited for.
    alarm: Option<BoxFuture<'static, ()>>,
    whole: Option<Whole>,
}

/// What is done once the whole body has come; until then it holds the request's place.
pub(crate) struct Whole {
    pub(crate) place: UnderWay,
    /// Given back for the next request.
    pub(crate) give_back: Box<dyn FnOnce() + Send>,
    /// Changes trailers before the guest sees them.
    pub(crate) trailers: Box<dyn Fn(&mut http::HeaderMap) + Send>,
    /// Called where the next piece is waited for in vain.
    pub(crate) stalled: Box<dyn Fn() + Send>,
}

impl ResponseBody {
    pub(crate) fn new(inner: Incoming, meter: Meter, pause: Duration, whole: Whole) -> Self {
        Self { inner, meter, pause, alarm: None, whole: Some(whole) }
    }

    fn ended(&mut self) {
        if let Some(Whole { place, give_back, trailers: _, stalled: _ }) = self.whole.take() {
            drop(place);
            give_back();
        }
    }

    fn next(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, Error> {
        self.alarm = None;
        let mut frame = counted(frame, &self.meter, Error::HttpResponseBodySize)?;
        if let (Some(trailers), Some(whole)) = (frame.trailers_mut(), &self.whole) {
            (whole.trailers)(trailers);
        }
        Ok(frame)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        // Once the body has failed or ended, and its connection is gone.
        if self.whole.is_none() {
            return Poll::Ready(None);
        }
        let frame = match Pin::new(&mut self.inner).poll_frame(context) {
            Poll::Ready(None) => {
                self.ended();
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Ok(frame))) => self.next(frame),
            Poll::Ready(Some(Err(error))) => Err(broken(&error)),
            Poll::Pending => {
                let pause = self.pause;
                let alarm = self.alarm.get_or_insert_with(|| {
                    Box::pin(clock::sleep_until(clock::deadline(clock::now(), pause)))
                });
                match alarm.as_mut().poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(()) => {
                        self.whole.iter().for_each(|whole| (whole.stalled)());
                        Err(Error::ConnectionReadTimeout)
                    }
                }
            }
        };
        if frame.is_err() {
            // The connection ends with it: what follows is of no use to anyone.
            self.whole = None;
        }
        Poll::Ready(Some(frame))
    }

    fn is_end_stream(&self) -> bool {
        self.whole.is_none() || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // An empty body is over before anyone reads it.
        if self.inner.is_end_stream() {
            self.ended();
        }
    }
}

fn counted(
    frame: Frame<Bytes>,
    meter: &Meter,
    fault: fn(Option<u64>) -> Error,
) -> Result<Frame<Bytes>, Error> {
    let length = match frame.data_ref() {
        Some(data) => data.len(),
        None => frame.trailers_ref().map_or(0, head_length),
    };
    match meter.count(length) {
        Ok(()) => Ok(frame),
        Err(limit) => Err(fault(of_bytes(limit))),
    }
}

fn of_bytes(limit: HttpLimit) -> Option<u64> {
    match limit {
        HttpLimit::Bytes(bytes) => Some(bytes),
        HttpLimit::Requests(_) | HttpLimit::Concurrent(_) | HttpLimit::Head(_) | HttpLimit::AnswerHead(_) => {
            None
        }
    }
}

/// Returns how long headers are on the wire.
pub(crate) fn head_length(headers: &http::HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum()
}

fn flattened<T>(frame: Option<Result<Result<T, Error>, Error>>) -> Option<Result<T, Error>> {
    frame.map(|frame| frame.flatten())
}

/// Returns the code for an answer that broke off.
fn broken(error: &hyper::Error) -> Error {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    // What frames a body is no sense: a chunk without a size, or one longer than any body.
    let is_nonsense = matches!(cause, Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData));
    if error.is_parse() || is_nonsense { Error::HttpProtocolError } else { Error::HttpResponseIncomplete }
}
