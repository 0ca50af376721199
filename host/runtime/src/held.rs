//! Owns the record of one execution while that is carried out: written with the first of its steps that
//! starts, where it is not there yet, and, when it ends, how. Never decides what starts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use docket_store::{
    Draft, Entry, Held, NewExecution, Opened, Status, StepNote, StoreError, StoreErrorKind, Unfinished, Write,
};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

use crate::keep::{Keeping, Lease};
use crate::stored;

/// What is noted when an execution has ended, for the log.
const END: &str = "the end of an execution";

/// What is noted when an execution begins, or is gone on with, for the log.
const BEGINNING: &str = "the beginning of an execution";

/// What there was under the id of an execution: as [`Opened`], and what is this host's to carry out is given back when
/// it is dropped.
pub(crate) enum Entered {
    /// Nothing: it is the caller's to carry out.
    New(HeldExecution),
    /// The same, which nobody carries out: the caller is to go on with it.
    Resumed(HeldExecution, Entry),
    /// The same, which another process carries out.
    Elsewhere(Entry),
    /// What came of the same.
    Over(Entry),
    /// Another.
    Conflict,
}

/// The right to carry one execution out. When dropped before its end, the execution is left as
/// interrupted, to be resumed.
pub(crate) struct HeldExecution {
    record: Arc<ExecutionRecord>,
    ended: bool,
}

/// How an execution ended, for its record.
pub(crate) struct Ending {
    pub(crate) status: Status,
    pub(crate) outcome: Bytes,
    pub(crate) detail: Arc<str>,
    pub(crate) steps: Vec<StepNote>,
}

/// The record of an execution under way.
pub(crate) struct ExecutionRecord {
    keeping: Arc<Keeping>,
    /// Cancelled when the execution is no longer this host's to carry out.
    lost: CancellationToken,
    /// Whether it is written, for a glance.
    is_begun: AtomicBool,
    state: Arc<AsyncMutex<State>>,
}

enum State {
    /// It is not written yet.
    Draft(Box<Draft>),
    /// It is written, and its lease is renewed.
    Held { held: Arc<AsyncMutex<Held>>, lease: Lease },
    /// The execution is over.
    Over,
}

impl Entered {
    /// Opens an execution under its id.
    ///
    /// # Errors
    /// As [`docket_store::Journal::open`].
    ///
    /// # Cancel safety
    /// Where a dropped call opens it, it is left as interrupted.
    pub(crate) async fn open(
        keeping: &Arc<Keeping>,
        new: NewExecution,
        unfinished: Unfinished,
    ) -> Result<Self, StoreError> {
        let entering = Arc::clone(keeping);
        let opened = async move {
            let opened = entering.journal.open(new, unfinished).await?;
            Ok(Self::of(&entering, opened))
        };
        keeping.background.carry(BEGINNING, opened).await
    }

    /// Opens an execution that is recorded; `None` where none is.
    ///
    /// # Errors
    /// As [`docket_store::Journal::reopen`].
    ///
    /// # Cancel safety
    /// As [`open`](Self::open).
    pub(crate) async fn reopen(
        keeping: &Arc<Keeping>,
        id: &str,
        unfinished: Unfinished,
    ) -> Result<Option<Self>, StoreError> {
        let (entering, id) = (Arc::clone(keeping), id.to_owned());
        let opened = async move {
            let opened = entering.journal.reopen(&entering.tenant, &id, unfinished).await?;
            Ok(opened.map(|opened| Self::of(&entering, opened)))
        };
        keeping.background.carry(BEGINNING, opened).await
    }

    fn of(keeping: &Arc<Keeping>, opened: Opened) -> Self {
        match opened {
            Opened::New(held) => Self::New(HeldExecution::recorded(keeping, held)),
            Opened::Resumed(held, entry) => Self::Resumed(HeldExecution::recorded(keeping, held), entry),
            Opened::Elsewhere(entry) => Self::Elsewhere(entry),
            Opened::Over(entry) => Self::Over(entry),
            Opened::Conflict(_) => Self::Conflict,
        }
    }
}

impl HeldExecution {
    /// Takes the right to carry an execution out that is recorded.
    fn recorded(keeping: &Arc<Keeping>, held: Held) -> Self {
        let lost = CancellationToken::new();
        let state = State::held(keeping, held, &lost);
        Self::of(keeping, lost, state, true)
    }

    /// Takes the right to carry an execution out that is recorded with its first step that starts.
    pub(crate) fn drafted(keeping: &Arc<Keeping>, draft: Draft) -> Self {
        Self::of(keeping, CancellationToken::new(), State::Draft(Box::new(draft)), false)
    }

    fn of(keeping: &Arc<Keeping>, lost: CancellationToken, state: State, is_begun: bool) -> Self {
        let (keeping, is_begun) = (Arc::clone(keeping), AtomicBool::new(is_begun));
        let record = ExecutionRecord { keeping, lost, is_begun, state: Arc::new(AsyncMutex::new(state)) };
        Self { record: Arc::new(record), ended: false }
    }

    pub(crate) fn record(&self) -> &Arc<ExecutionRecord> {
        &self.record
    }

    /// Notes how far the execution has come, unless it is not recorded yet or is over.
    ///
    /// # Errors
    /// As [`docket_store::Journal::note_progress`].
    ///
    /// # Cancel safety
    /// A dropped call notes it all the same, before the end is.
    pub(crate) async fn note_progress(&self, progress: Bytes, detail: Arc<str>) -> Result<(), StoreError> {
        let record = Arc::clone(&self.record);
        let noted = async move { record.note_progress(progress, detail).await };
        self.record.keeping.background.carry("how far an execution is", noted).await
    }

    /// Records how the execution ended. Nobody waits for a store that takes its time: where this process
    /// dies before the record is written, the execution is found interrupted, and gone on with it comes
    /// to the same end, because what it has kept is kept.
    pub(crate) fn finish(mut self, ending: Ending) {
        self.ended = true;
        let record = Arc::clone(&self.record);
        let mut write = Box::pin(async move { record.finish(ending).await });
        // Begun here, so that what the caller asks of the store next comes behind it.
        let begun = write.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let keeping = &self.record.keeping;
        match begun {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => drop(keeping.background.later(END, std::future::ready(Err(error)))),
            Poll::Pending => drop(keeping.background.later(END, write)),
        }
    }

    /// Lets go of an execution that is another's, or was cancelled in the journal.
    pub(crate) fn superseded(mut self) {
        self.ended = true;
    }
}

impl Drop for HeldExecution {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let record = Arc::clone(&self.record);
        let background = &self.record.keeping.background;
        background.later("an interrupted execution", async move { record.interrupt().await });
    }
}

impl ExecutionRecord {
    pub(crate) fn keeping(&self) -> &Arc<Keeping> {
        &self.keeping
    }

    /// Returns what is cancelled when the execution is no longer this host's to carry out.
    pub(crate) fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    /// Returns the right to write the record, if it is not written yet. Who else asks meanwhile waits.
    ///
    /// # Cancel safety
    /// Whoever waits next gets the right.
    pub(crate) async fn beginning(self: &Arc<Self>) -> Option<Beginning> {
        if self.is_begun.load(Ordering::Acquire) {
            return None;
        }
        let state = Arc::clone(&self.state).lock_owned().await;
        let State::Draft(draft) = &*state else { return None };
        let (held, write) = self.keeping.journal.begin(draft);
        Some(Beginning { record: Arc::clone(self), state, held, write })
    }

    /// Sees to it that the record is written: before anyone waits for what others do.
    ///
    /// # Errors
    /// Where the store cannot be written.
    ///
    /// # Cancel safety
    /// A dropped call writes it all the same, before the end is.
    pub(crate) async fn begun(self: &Arc<Self>) -> Result<(), StoreError> {
        match self.beginning().await {
            Some(beginning) => self.keeping.background.carry(BEGINNING, beginning.alone()).await,
            None => Ok(()),
        }
    }

    async fn note_progress(&self, progress: Bytes, detail: Arc<str>) -> Result<(), StoreError> {
        let state = self.state.lock().await;
        let State::Held { held, lease } = &*state else { return Ok(()) };
        self.keeping.journal.note_progress(&mut *held.lock().await, progress, detail).await?;
        lease.renewed();
        Ok(())
    }

    async fn finish(&self, ending: Ending) -> Result<(), StoreError> {
        let mut state = self.state.lock().await;
        let ended = match &*state {
            State::Draft(draft) => finish(&self.keeping, &self.keeping.journal.unbegun(draft), ending).await,
            // The lease is renewed until the record is written.
            State::Held { held, .. } => finish(&self.keeping, &*held.lock().await, ending).await,
            State::Over => Ok(()),
        };
        *state = State::Over;
        ended
    }

    async fn interrupt(&self) -> Result<(), StoreError> {
        let detail = match &*self.state.lock().await {
            State::Draft(draft) => self.keeping.journal.unbegun(draft).detail(),
            State::Held { held, .. } => held.lock().await.detail(),
            State::Over => return Ok(()),
        };
        let (status, outcome, steps) = (Status::Interrupted, Bytes::new(), Vec::new());
        self.finish(Ending { status, outcome, detail, steps }).await
    }
}

impl State {
    fn held(keeping: &Keeping, held: Held, lost: &CancellationToken) -> Self {
        let held = Arc::new(AsyncMutex::new(held));
        let lease = keeping.lease_of(&held, lost.clone());
        Self::Held { held, lease }
    }
}

/// The right to write the record of an execution. When dropped before that is done, the next has it.
pub(crate) struct Beginning {
    record: Arc<ExecutionRecord>,
    state: OwnedMutexGuard<State>,
    held: Held,
    write: Write,
}

impl Beginning {
    /// Returns what is to be written, alone or beside others.
    pub(crate) fn write(&self) -> Write {
        self.write.clone()
    }

    /// Notes that it is written.
    pub(crate) fn written(self) {
        let Self { record, mut state, held, write: _ } = self;
        *state = State::held(&record.keeping, held, &record.lost);
        record.is_begun.store(true, Ordering::Release);
    }

    /// Writes it, and nothing else.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub(crate) async fn alone(self) -> Result<(), StoreError> {
        match self.record.keeping.journal.write_alone(self.write()).await {
            Ok(()) => {
                self.written();
                Ok(())
            }
            Err(error) if error.kind() == StoreErrorKind::Conflict => {
                // Never seen: a host makes no id twice.
                self.record.lost.cancel();
                Err(StoreError::new(StoreErrorKind::Unknown, "the id of the execution is another's"))
            }
            Err(error) => Err(error),
        }
    }
}

async fn finish(keeping: &Keeping, held: &Held, ending: Ending) -> Result<(), StoreError> {
    let Ending { status, outcome, detail, steps } = ending;
    let notes = steps.into_iter().map(|note| held.note(note)).collect();
    // What can be resumed is remembered until it was.
    let retention = match status {
        Status::Interrupted => None,
        _ => stored::retention(keeping.retention),
    };
    keeping.journal.finish(held, status, outcome, detail, retention, notes).await
}
