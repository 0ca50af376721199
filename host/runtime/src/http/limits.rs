//! Owns the limits on what one attempt may do over HTTP, and the counting against them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Requests of one attempt. 100: a step that needs more should be one step an item.
pub const DEFAULT_HTTP_REQUESTS: u64 = 100;

/// Bytes of one attempt's requests and responses together, heads and bodies. 64 MiB: a quarter of
/// the memory that a step has to hold them.
pub const DEFAULT_HTTP_BYTES: u64 = 64 << 20;

/// Requests of one attempt under way at once. 16: each holds a connection and its buffers.
pub const DEFAULT_HTTP_CONCURRENT: u64 = 16;

/// Bytes of one head, sent or received: four times what servers commonly take.
pub(crate) const LONGEST_HEAD: usize = 64 << 10;

/// Headers of one answer: hyper's own limit, named in the sentence about it.
const MOST_HEADERS: usize = 100;

/// The most refusals that are remembered for the sentence about a failure.
const REMEMBERED: usize = 4;

/// The limits on one attempt's HTTP, decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// Requests.
    pub requests: u64,
    /// Bytes sent and received together.
    pub bytes: u64,
    /// Requests under way at once.
    pub concurrent: u64,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            requests: DEFAULT_HTTP_REQUESTS,
            bytes: DEFAULT_HTTP_BYTES,
            concurrent: DEFAULT_HTTP_CONCURRENT,
        }
    }
}

/// A limit on HTTP that was reached, with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpLimit {
    /// More requests than allowed.
    #[error("made more than its limit of {0} HTTP requests")]
    Requests(u64),
    /// More bytes than allowed.
    #[error("sent and received more than its limit of {0} bytes over HTTP")]
    Bytes(u64),
    /// More requests at once than allowed.
    #[error("had more than its limit of {0} HTTP requests under way at once")]
    Concurrent(u64),
    /// A request's head that is longer than allowed.
    #[error("had an HTTP request with more than {0} bytes of headers")]
    Head(u64),
    /// An answer's head that is longer than allowed, or says that the body is. Which of these, hyper does not tell.
    #[error(
        "got an HTTP response with more than {0} bytes of headers, more than {MOST_HEADERS} headers, or a \
         `content-length` of more than any body has"
    )]
    AnswerHead(u64),
}

/// Counts what one attempt does over HTTP. Clones share everything.
#[derive(Clone)]
pub(crate) struct Meter(Arc<Counts>);

struct Counts {
    limits: HttpLimits,
    requests: AtomicU64,
    bytes: AtomicU64,
    under_way: AtomicU64,
    noted: Mutex<Noted>,
}

/// What went wrong, for the sentence about an attempt that then fails.
#[derive(Default)]
pub(crate) struct Noted {
    /// The first limit that was reached.
    pub(crate) reached: Option<HttpLimit>,
    /// What was refused and why, and what was waited for in vain, in full sentences.
    pub(crate) refusals: Vec<String>,
}

/// Holds the place of one request under way.
pub(crate) struct UnderWay(Meter);

impl Meter {
    pub(crate) fn new(limits: HttpLimits) -> Self {
        let (requests, bytes, under_way, noted) = Default::default();
        Self(Arc::new(Counts { limits, requests, bytes, under_way, noted }))
    }

    /// Counts a request, and gives it its place.
    ///
    /// # Errors
    /// Where it is one too many.
    pub(crate) fn begin(&self) -> Result<UnderWay, HttpLimit> {
        let Counts { limits, requests, under_way, .. } = &*self.0;
        if requests.fetch_add(1, Ordering::Relaxed) >= limits.requests {
            return Err(self.reached(HttpLimit::Requests(limits.requests)));
        }
        // Counted first, given back by the drop.
        let before = under_way.fetch_add(1, Ordering::Relaxed);
        let place = UnderWay(self.clone());
        if before >= limits.concurrent {
            return Err(self.reached(HttpLimit::Concurrent(limits.concurrent)));
        }
        Ok(place)
    }

    /// Counts bytes sent or received.
    ///
    /// # Errors
    /// Where they are too many.
    pub(crate) fn count(&self, bytes: usize) -> Result<(), HttpLimit> {
        let Counts { limits, bytes: counted, .. } = &*self.0;
        let before = counted.fetch_add(bytes as u64, Ordering::Relaxed);
        if before.saturating_add(bytes as u64) > limits.bytes {
            return Err(self.reached(HttpLimit::Bytes(limits.bytes)));
        }
        Ok(())
    }

    /// Notes that a limit was reached, and returns it.
    pub(crate) fn reached(&self, limit: HttpLimit) -> HttpLimit {
        self.with_noted(|noted| *noted.reached.get_or_insert(limit));
        limit
    }

    /// Notes a refusal, or a wait in vain, in a full sentence.
    pub(crate) fn refused(&self, sentence: String) {
        self.with_noted(|noted| {
            if noted.refusals.len() < REMEMBERED && !noted.refusals.contains(&sentence) {
                noted.refusals.push(sentence);
            }
        });
    }

    /// Returns whether a request is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.0.under_way.load(Ordering::Relaxed) > 0
    }

    /// Returns what was noted, and forgets it.
    pub(crate) fn take_noted(&self) -> Noted {
        self.with_noted(std::mem::take)
    }

    fn with_noted<T>(&self, work: impl FnOnce(&mut Noted) -> T) -> T {
        work(&mut self.0.noted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_reached_by_one_more_than_it_says() {
        let meter = Meter::new(HttpLimits { requests: 3, bytes: 10, concurrent: 2 });
        let (first, _second) = (meter.begin().unwrap(), meter.begin().unwrap());
        assert_eq!(meter.begin().err(), Some(HttpLimit::Concurrent(2)));
        drop(first);
        assert_eq!(meter.begin().err(), Some(HttpLimit::Requests(3)));
        assert_eq!(meter.count(10), Ok(()));
        assert_eq!(meter.count(1), Err(HttpLimit::Bytes(10)));
        assert_eq!(meter.take_noted().reached, Some(HttpLimit::Concurrent(2)), "the first one counts");
    }
}
