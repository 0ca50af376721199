//! Owns where items are read from, and the thread that reads them ahead of whoever takes them, by no more than a few
//! reads. Never knows what an item is for.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use docket_runtime::{BatchProgress, Every, ItemCounts, ItemsError};
use futures_util::stream::{self, Stream};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::JoinSet;

use super::{Form, Item, Items, READ, Reach};
use crate::input::Place;

/// How many parcels of items wait to be taken. One: another is being read meanwhile.
const PARCELS: usize = 1;

/// The most items of a parcel. 256: handing a parcel over costs nothing beside reading them.
const PARCEL: usize = 256;

/// A place that can be read.
pub(crate) struct Opened {
    source: Box<dyn Read + Send>,
    /// The whole path and the size of what can be read again; none for a stream.
    pub(crate) regular: Option<(PathBuf, u64)>,
}

impl Opened {
    /// Opens a place. What is no regular file may make whoever opens it wait.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub(crate) fn of(place: &Place) -> io::Result<Self> {
        let Place::File(path) = place else {
            return Ok(Self { source: Box::new(io::stdin()), regular: None });
        };
        let file = File::open(path)?;
        let facts = file.metadata()?;
        if facts.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let regular = match facts.is_file() {
            true => Some((std::path::absolute(path)?, facts.len())),
            false => None,
        };
        Ok(Self { source: Box::new(file), regular })
    }

    /// Begins to read items, on a thread of its own.
    fn parcels(self, form: Form) -> Parcels {
        let (sender, receiver) = channel(PARCELS);
        let mut reader = JoinSet::new();
        // The thread ends at the end, and at the first parcel that nobody takes. One that waits for a stream is left to
        // the end of the process.
        reader.spawn_blocking(move || {
            let mut items = Items::new(self.source, form);
            while let Some(parcel) = parcel(&mut items) {
                if sender.blocking_send(parcel).is_err() {
                    return;
                }
            }
        });
        Parcels { receiver, current: Vec::new().into_iter(), reader }
    }
}

/// The items of a place, and how far they have been taken.
pub(crate) struct Taken {
    /// The size of all of them, in bytes, where that is known.
    pub(crate) size: Option<u64>,
    /// How many bytes were read up to the end of the last item that was taken.
    pub(crate) bytes: Arc<AtomicU64>,
    /// What became of them.
    pub(crate) progress: Arc<OnceLock<BatchProgress>>,
}

impl Taken {
    /// Says what the items are taken for.
    pub(crate) fn follow(&self, progress: &BatchProgress) {
        self.progress.get_or_init(|| progress.clone());
    }
}

/// What an item that is wrong waits for, which ends the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Nothing.
    None,
    /// The end of all items before it, so that their results are there however fast the items are read.
    UntilEnded,
}

/// How often it is looked whether all items before a wrong one have ended. It happens once a batch.
const LOOK: Duration = Duration::from_millis(5);

/// Waits until so many items have ended.
async fn until_ended(taken: u64, progress: &OnceLock<BatchProgress>) {
    let mut every = Every::new(LOOK);
    loop {
        if let Some(ItemCounts { done, failed, .. }) = progress.get().map(BatchProgress::counts)
            && done + failed >= taken
        {
            return;
        }
        every.next().await;
    }
}

impl Opened {
    /// Returns the items as a batch takes them, and what shows how far that is.
    pub(crate) fn stream(
        self,
        form: Form,
        patience: Patience,
    ) -> (impl Stream<Item = Result<Bytes, ItemsError>> + Send + 'static, Taken) {
        let size = self.regular.as_ref().map(|(_, size)| *size);
        let taken = Taken { size, bytes: Arc::default(), progress: Arc::default() };
        let state = (self.parcels(form), Arc::clone(&taken.bytes), Arc::clone(&taken.progress), 0);
        let stream = stream::unfold(state, move |(mut parcels, bytes, progress, taken)| async move {
            let Item { message, end } = parcels.next().await?;
            bytes.store(end, Ordering::Relaxed);
            if message.is_err() && patience == Patience::UntilEnded {
                until_ended(taken, &progress).await;
            }
            let message = message.map(Bytes::from).map_err(|fault| match fault.reach {
                Reach::Item => ItemsError::Item(fault.to_string()),
                Reach::Rest => ItemsError::Read(fault.to_string()),
            });
            Some((message, (parcels, bytes, progress, taken + 1)))
        });
        (stream, taken)
    }
}

/// Returns the next items as far as they are there, at least one; none at the end.
fn parcel<R: Read>(items: &mut Items<R>) -> Option<Vec<Item>> {
    let first = items.next()?;
    let begin = first.end;
    let mut parcel = vec![first];
    while parcel.len() < PARCEL && items.is_ready() {
        let Some(item) = items.next() else { break };
        let is_full = item.end - begin >= READ as u64;
        parcel.push(item);
        if is_full {
            break;
        }
    }
    Some(parcel)
}

/// Items that are read on another thread.
struct Parcels {
    receiver: Receiver<Vec<Item>>,
    current: std::vec::IntoIter<Item>,
    reader: JoinSet<()>,
}

impl Parcels {
    /// Returns the next item; none at the end.
    ///
    /// # Cancel safety
    /// No item is lost with a dropped future.
    async fn next(&mut self) -> Option<Item> {
        loop {
            if let Some(item) = self.current.next() {
                return Some(item);
            }
            let Some(parcel) = self.receiver.recv().await else {
                return match self.reader.join_next().await {
                    // Items that could not be read are not items that are not there.
                    Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
                    Some(Ok(())) | None => None,
                };
            };
            self.current = parcel.into_iter();
        }
    }
}
