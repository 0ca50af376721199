//! Owns the two streams that a person or a script reads: stdout for results, stderr for all else.
//! Never decides what is said. The only file that writes to either.

use std::io::{self, ErrorKind, IsTerminal as _, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indicatif::ProgressBar;
use tracing_subscriber::fmt::MakeWriter;

use crate::error::CliError;
use crate::exit::Exit;

/// What stderr ends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Surface {
    /// A terminal, where a line can be drawn over.
    Terminal,
    /// A file, a pipe or a buffer.
    Plain,
}

/// Where results and messages go. Clones share the streams.
#[derive(Clone)]
pub struct Console {
    out: Arc<Mutex<dyn Write + Send>>,
    err: Arc<Mutex<Stderr>>,
    surface: Surface,
}

struct Stderr {
    sink: Box<dyn Write + Send>,
    /// Drawn at the bottom of the terminal, and lifted while anything else is written.
    bar: Option<ProgressBar>,
}

impl Console {
    /// Returns the streams of this process.
    pub fn of_process() -> Self {
        let surface = if io::stderr().is_terminal() { Surface::Terminal } else { Surface::Plain };
        Self { surface, ..Self::new(io::stdout(), io::stderr()) }
    }

    /// Returns a console that writes results to `out` and everything else to `err`.
    pub fn new(out: impl Write + Send + 'static, err: impl Write + Send + 'static) -> Self {
        let err = Stderr { sink: Box::new(err), bar: None };
        Self { out: Arc::new(Mutex::new(out)), err: Arc::new(Mutex::new(err)), surface: Surface::Plain }
    }

    pub(crate) fn surface(&self) -> Surface {
        self.surface
    }

    /// Writes result data to stdout, all of it. A reader that has gone away got what it wanted.
    pub(crate) fn show(&self, data: &[u8]) -> Result<(), CliError> {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        match out.write_all(data).and_then(|()| out.flush()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(CliError::new(Exit::Configuration, "the result cannot be written to stdout")
                    .caused_by(&error))
            }
            _ => Ok(()),
        }
    }

    /// Writes a message to stderr, and ends its line. Where stderr is closed, nobody listens.
    pub(crate) fn complain(&self, message: &str) {
        let end = if message.ends_with('\n') { "" } else { "\n" };
        self.write_err(format!("{message}{end}").as_bytes());
    }

    /// Keeps the bar below whatever is written to stderr from now on; none ends that.
    pub(crate) fn keep_below(&self, bar: Option<ProgressBar>) {
        self.lock_err().bar = bar;
    }

    /// Returns what results are written to that are longer than memory should hold.
    pub(crate) fn result_writer(&self) -> ResultWriter {
        ResultWriter(self.clone())
    }

    /// Returns what the log writes to.
    pub(crate) fn log_writer(&self) -> LogWriter {
        LogWriter(self.clone())
    }

    fn write_err(&self, data: &[u8]) {
        let Stderr { sink, bar } = &mut *self.lock_err();
        // There is nowhere to report that stderr itself fails.
        let mut write = || _ = sink.write_all(data).and_then(|()| sink.flush());
        match bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn lock_err(&self) -> MutexGuard<'_, Stderr> {
        self.err.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way of a long result to stdout.
pub(crate) struct ResultWriter(Console);

impl ResultWriter {
    fn lock(&self) -> MutexGuard<'_, dyn Write + Send + 'static> {
        self.0.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for ResultWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.lock().write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lock().flush()
    }
}

/// The log's way to stderr: each event is one write.
#[derive(Clone)]
pub(crate) struct LogWriter(Console);

impl Write for LogWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.write_err(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for LogWriter {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
