//! Owns the way of a batch's results to stdout: one after the other, on a thread of its own, because whoever reads them
//! may be slow. Never decides what a result is, and holds no more than a few of them.

use std::error::Error;
use std::io::{ErrorKind, Write as _};

use docket_runtime::{ExecutionError, ItemOutcome, Value};
use prost_reflect::MessageDescriptor;
use serde::Serialize;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinSet;

use super::{Readable, readable, unwritable, varint};
use crate::args::{BatchFormat, OnItemErrorArg};
use crate::console::Console;
use crate::error::CliError;
use crate::exit::Exit;

/// How many results wait to be written. 64: as many as are handed over while one write lasts.
const WAITING: usize = 64;

/// How much is written at once. 64 KiB: what a pipe takes.
const WRITE: usize = 64 << 10;

/// How each result is written.
#[derive(Clone)]
pub(crate) struct LineForm {
    pub(crate) message: MessageDescriptor,
    pub(crate) format: BatchFormat,
    pub(crate) on_item_error: OnItemErrorArg,
}

/// Writes results, in the order in which they come.
pub(crate) struct Lines {
    sender: Sender<ItemOutcome>,
    writer: JoinSet<Result<(), CliError>>,
}

/// Nobody takes results any more; why is told by [`Lines::end`].
pub(crate) struct Ended;

impl Lines {
    pub(crate) fn begin(console: &Console, form: LineForm) -> Self {
        let (sender, receiver) = channel(WAITING);
        let console = console.clone();
        let mut writer = JoinSet::new();
        // It ends when the last result is written, or none can be. One whose reader has stopped is left to the end of
        // the process.
        writer.spawn_blocking(move || write(&console, &form, receiver));
        Self { sender, writer }
    }

    /// Hands one result over, once there is room.
    ///
    /// # Errors
    /// Where no more can be written.
    pub(crate) async fn send(&self, outcome: ItemOutcome) -> Result<(), Ended> {
        self.sender.send(outcome).await.map_err(|_| Ended)
    }

    /// Waits until everything is written. A reader that has gone away got what it wanted.
    ///
    /// # Errors
    /// Where something cannot be written.
    pub(crate) async fn end(self) -> Result<(), CliError> {
        let Self { sender, mut writer } = self;
        drop(sender);
        match writer.join_next().await.expect("the set has one task") {
            Ok(written) => written,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

fn write(console: &Console, form: &LineForm, mut results: Receiver<ItemOutcome>) -> Result<(), CliError> {
    let mut out = console.result_writer();
    let mut data = Vec::with_capacity(WRITE);
    while let Some(first) = results.blocking_recv() {
        let mut next = Some(first);
        let mut added = Ok(());
        while let Some(outcome) = next.take() {
            added = form.add(outcome, &mut data);
            if added.is_ok() && data.len() < WRITE {
                next = results.try_recv().ok();
            }
        }
        match out.write_all(&data).and_then(|()| out.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => {
                return Err(CliError::new(Exit::Configuration, "the results cannot be written to stdout")
                    .caused_by(&error));
            }
            Ok(()) => added?,
        }
        data.clear();
        data.shrink_to(2 * WRITE);
    }
    Ok(())
}

/// A line of a batch whose items fail each for itself.
#[derive(Serialize)]
struct Line {
    index: u64,
    #[serde(flatten)]
    result: LineResult,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum LineResult {
    Output(Readable),
    Error(String),
}

impl LineForm {
    /// Adds what is written of an item.
    fn add(&self, outcome: ItemOutcome, data: &mut Vec<u8>) -> Result<(), CliError> {
        let ItemOutcome { index, result } = outcome;
        let at = |error: CliError| {
            CliError::new(error.exit(), format_args!("item {index}: {}", error.sentence()))
                .with_causes_of(error)
        };
        match self.on_item_error {
            // What ends the batch is the batch's error, and no result.
            OnItemErrorArg::Fail => match result {
                Ok(value) => self.plain(&value, data).map_err(at),
                Err(_) => Ok(()),
            },
            OnItemErrorArg::Continue => {
                let output = match result {
                    Ok(value) => readable(&self.message, &value).map_err(|error| one_line(&error)),
                    Err(error) => Err(with_causes(&error)),
                };
                let unwritten = match output {
                    Ok(output) => match json(&Line { index, result: LineResult::Output(output) }, data) {
                        Ok(()) => return Ok(()),
                        Err(error) => one_line(&error),
                    },
                    Err(text) => text,
                };
                json(&Line { index, result: LineResult::Error(unwritten) }, data).map_err(at)
            }
        }
    }

    fn plain(&self, value: &Value, data: &mut Vec<u8>) -> Result<(), CliError> {
        match self.format {
            BatchFormat::Ndjson => json(&readable(&self.message, value)?, data),
            BatchFormat::Proto => {
                for payload in value.payloads() {
                    varint(payload.bytes().len(), data);
                    data.extend_from_slice(payload.bytes());
                }
                Ok(())
            }
        }
    }
}

fn json(line: &impl Serialize, data: &mut Vec<u8>) -> Result<(), CliError> {
    let begin = data.len();
    if let Err(error) = serde_json::to_writer(&mut *data, line) {
        data.truncate(begin);
        return Err(unwritable(&error));
    }
    data.push(b'\n');
    Ok(())
}

/// Returns an error with its causes, as one text.
fn with_causes(error: &ExecutionError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

fn one_line(error: &CliError) -> String {
    let parts = std::iter::once(error.sentence()).chain(error.causes().iter().cloned());
    parts.collect::<Vec<_>>().join(": ")
}
