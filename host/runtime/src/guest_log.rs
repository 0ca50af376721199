//! Owns what a guest writes to stdout and stderr: cuts it into lines for the observer, counts it
//! against the step's limit, and remembers the end of stderr for the message of a trap.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use docket_graph::Job;
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

/// Which of its two outputs a guest wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// Returns `stdout` or `stderr`.
    pub fn as_str(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// A longer line is passed on in pieces of this many bytes, so that a guest without newlines
/// cannot make the host hold all that it writes.
const LONGEST_LINE: usize = 8 << 10;

/// How much of the end of stderr is kept for the message of a trap, in bytes.
const TAIL: usize = 2 << 10;

/// What one write may hand over, in bytes.
const PERMIT: usize = 64 << 10;

/// Takes the lines that guests write.
pub(crate) trait Lines: Send + Sync {
    /// Takes the next line of the writer.
    fn line(&self, writer: Writer, stream: Stream, line: &str);
}

/// Who writes a line: an attempt at a node of a plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer {
    pub(crate) job: Job,
    pub(crate) attempt: u32,
}

/// Where the lines of one attempt go. Nowhere, for a module that describes itself.
pub(crate) type LineSink = Option<(Arc<dyn Lines>, Writer)>;

/// The error that stops a guest which has written too much.
#[derive(Debug, thiserror::Error)]
#[error("the limit on what a step may write to stdout and stderr was reached")]
pub(crate) struct TooMuchOutput;

/// How much a guest may write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Volume {
    pub(crate) bytes: u64,
    pub(crate) lines: u64,
}

/// Of what a guest wrote too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exceeded {
    Bytes,
    Lines,
}

/// Both outputs of one attempt. Clones share everything.
#[derive(Clone)]
pub(crate) struct GuestLog(Arc<Mutex<State>>);

struct State {
    sink: LineSink,
    /// Bytes that may still be written, and lines.
    left: Volume,
    exceeded: Option<Exceeded>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    tail: Vec<u8>,
}

impl GuestLog {
    pub(crate) fn new(limit: Volume, sink: LineSink) -> Self {
        let (stdout, stderr, tail) = Default::default();
        Self(Arc::new(Mutex::new(State { sink, left: limit, exceeded: None, stdout, stderr, tail })))
    }

    /// Begins the log of the instance's next attempt: all of the limits is left, and its lines go elsewhere. The streams
    /// that the guest has write into it.
    pub(crate) fn begin_again(&self, limit: Volume, sink: LineSink) {
        let mut state = self.lock();
        (state.left, state.exceeded, state.sink) = (limit, None, sink);
    }

    /// Forgets where the lines of the last attempt went.
    pub(crate) fn rest(&self) {
        self.lock().sink = None;
    }

    /// Returns the stream to hand to WASI.
    pub(crate) fn stream(&self, stream: Stream) -> LogStream {
        LogStream { log: self.clone(), stream }
    }

    /// Returns which of its limits the guest tried to pass.
    pub(crate) fn exceeded(&self) -> Option<Exceeded> {
        self.lock().exceeded
    }

    /// Passes on what does not end in a newline, and returns the end of stderr.
    pub(crate) fn finish(&self) -> String {
        let mut state = self.lock();
        state.flush(Stream::Stdout);
        state.flush(Stream::Stderr);
        String::from_utf8_lossy(&std::mem::take(&mut state.tail)).trim().to_owned()
    }

    fn write(&self, stream: Stream, bytes: &[u8]) -> Result<(), TooMuchOutput> {
        let mut state = self.lock();
        let fits = usize::try_from(state.left.bytes).unwrap_or(usize::MAX).min(bytes.len());
        let ends = bytes[..fits].iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        let lines = usize::try_from(state.left.lines).unwrap_or(usize::MAX);
        // The first newline past the allowed ones is where the guest is cut off.
        let (allowed, exceeded) = match ends.clone().nth(lines) {
            Some((at, _)) => (at, Some(Exceeded::Lines)),
            None => (fits, (fits < bytes.len()).then_some(Exceeded::Bytes)),
        };
        state.left.bytes -= allowed as u64;
        state.left.lines -= ends.count().min(lines) as u64;
        state.append(stream, &bytes[..allowed]);
        state.exceeded = state.exceeded.or(exceeded);
        match exceeded {
            Some(_) => Err(TooMuchOutput),
            None => Ok(()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn append(&mut self, stream: Stream, bytes: &[u8]) {
        if stream == Stream::Stderr {
            self.tail.extend_from_slice(bytes);
            let excess = self.tail.len().saturating_sub(TAIL);
            self.tail.drain(..excess);
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            for chunk in piece.chunks(LONGEST_LINE) {
                self.buffer(stream).extend_from_slice(chunk);
                let buffer = self.buffer(stream);
                if buffer.ends_with(b"\n") || buffer.len() >= LONGEST_LINE {
                    self.flush(stream);
                }
            }
        }
    }

    fn flush(&mut self, stream: Stream) {
        let line = std::mem::take(self.buffer(stream));
        if !line.is_empty() {
            let line = String::from_utf8_lossy(&line);
            if let Some((lines, writer)) = &self.sink {
                lines.line(*writer, stream, line.trim_end_matches(['\n', '\r']));
            }
        }
    }

    fn buffer(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

/// One of a guest's outputs, as WASI wants it.
#[derive(Clone)]
pub(crate) struct LogStream {
    log: GuestLog,
    stream: Stream,
}

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // Only preview 3 asks for this form, and it is not linked.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}

impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.log.write(self.stream, &bytes).map_err(|error| StreamError::Trap(error.into()))
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(PERMIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<(Stream, String)>>);

    impl Lines for Kept {
        fn line(&self, _: Writer, stream: Stream, line: &str) {
            self.0.lock().unwrap().push((stream, line.to_owned()));
        }
    }

    fn lines_of(bytes: u64, writes: &[(Stream, &[u8])]) -> (Vec<(Stream, String)>, GuestLog) {
        lines_within(Volume { bytes, lines: 1_000 }, writes)
    }

    fn lines_within(limit: Volume, writes: &[(Stream, &[u8])]) -> (Vec<(Stream, String)>, GuestLog) {
        let kept = Arc::new(Kept::default());
        let writer = Writer { job: Job::once(docket_graph::NodeId::default()), attempt: 1 };
        let log = GuestLog::new(limit, Some((kept.clone(), writer)));
        for (stream, bytes) in writes {
            let _ = log.write(*stream, bytes);
        }
        log.finish();
        let lines = kept.0.lock().unwrap().clone();
        (lines, log)
    }

    #[test]
    fn writes_are_cut_into_lines_of_their_stream() {
        let (lines, _) = lines_of(
            1000,
            &[(Stream::Stdout, b"a\nb"), (Stream::Stderr, b"oops\r\n"), (Stream::Stdout, b"c\n\nlast")],
        );
        let expected = [
            (Stream::Stdout, "a"),
            (Stream::Stderr, "oops"),
            (Stream::Stdout, "bc"),
            (Stream::Stdout, ""),
            (Stream::Stdout, "last"),
        ];
        assert_eq!(lines, expected.map(|(stream, line)| (stream, line.to_owned())));
    }

    #[test]
    fn what_is_over_the_limit_is_cut_off_and_remembered() {
        let (lines, log) = lines_of(4, &[(Stream::Stdout, b"abcdef\n")]);
        assert_eq!(lines, [(Stream::Stdout, "abcd".to_owned())]);
        assert_eq!(log.exceeded(), Some(Exceeded::Bytes));
        let (_, log) = lines_of(7, &[(Stream::Stdout, b"abcdef\n")]);
        assert_eq!(log.exceeded(), None);
    }

    #[test]
    fn the_log_of_the_next_attempt_has_all_of_its_limits_and_goes_elsewhere() {
        let writer = |attempt| Writer { job: Job::once(docket_graph::NodeId::default()), attempt };
        let [first, second] = [Arc::new(Kept::default()), Arc::new(Kept::default())];
        let limit = Volume { bytes: 4, lines: 1 };
        let log = GuestLog::new(limit, Some((first.clone(), writer(1))));
        let stream = log.stream(Stream::Stdout);
        assert!(stream.log.write(Stream::Stdout, b"abc").is_ok());
        log.finish();
        log.rest();
        assert_eq!(Arc::strong_count(&first), 1, "whoever took its lines is forgotten");
        log.begin_again(limit, Some((second.clone(), writer(2))));
        assert!(stream.log.write(Stream::Stdout, b"def\n").is_ok());
        assert!(stream.log.write(Stream::Stdout, b"g").is_err());
        log.begin_again(limit, None);
        assert_eq!(log.exceeded(), None);
        assert_eq!(*first.0.lock().unwrap(), [(Stream::Stdout, "abc".to_owned())]);
        assert_eq!(*second.0.lock().unwrap(), [(Stream::Stdout, "def".to_owned())]);
    }

    #[test]
    fn lines_are_counted_over_both_streams_and_all_writes() {
        let writes: [(Stream, &[u8]); 3] =
            [(Stream::Stdout, b"a\nb"), (Stream::Stderr, b"c\n"), (Stream::Stdout, b"d\ne\nf\n")];
        let limit = |lines| Volume { bytes: 1_000, lines };
        let (lines, log) = lines_within(limit(3), &writes);
        let texts: Vec<_> = lines.iter().map(|(_, line)| line.as_str()).collect();
        assert_eq!((&texts[..], log.exceeded()), (&["a", "c", "bd", "e"][..], Some(Exceeded::Lines)));
        assert_eq!(lines_within(limit(5), &writes).1.exceeded(), None);
        assert_eq!(lines_within(limit(0), &[(Stream::Stdout, b"no newline")]).1.exceeded(), None);
    }

    #[test]
    fn a_line_without_end_is_passed_on_in_pieces() {
        let (lines, _) = lines_of(1 << 20, &[(Stream::Stdout, &vec![b'x'; LONGEST_LINE * 2 + 3])]);
        let lengths: Vec<_> = lines.iter().map(|(_, line)| line.len()).collect();
        assert_eq!(lengths, [LONGEST_LINE, LONGEST_LINE, 3]);
    }
}
