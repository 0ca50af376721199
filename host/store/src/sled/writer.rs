//! Owns every write to the log. One thread drains what waits, checks it, and writes it as one frame.
//! Where some of it must be synced to the disk and some need not, a second thread syncs, once for all
//! that was written until then, while the first goes on. A third ([`merge`](super::merge)) brings the
//! tree up to it. Never reads for anyone.
//!
//! sled's own ways are not taken: its `flush` says that it syncs and does not, its `flush_async`
//! locks up under eight callers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use tokio::sync::mpsc as queue;

use crate::clock::Timestamp;
use crate::error::StoreError;
use crate::record::{Kind, Record, RecordKey, Revision, Status};
use crate::store::{Expect, Sync, Write};

use super::common::{Answer, Common, Disk, answer};
use super::content::{Change, State};
use super::log::{FILE_BYTES, FULL_BYTES, Frame};
use super::merge::{Merge, Merger, Then};
use super::overlay::{Layer, look};

/// How many batches wait for their turn: as many as one group takes, so that the next group is
/// complete when the last is done.
const WAITING: usize = 1024;

/// How many bytes one group has, about: what is written in some milliseconds. A larger batch is a
/// group of its own.
const GROUP_BYTES: usize = 4 << 20;

/// How many bytes of what somebody is at go into the next file at its beginning: so few that most of it
/// is for what is new.
const CARRIED_BYTES: usize = FILE_BYTES as usize / 4;

/// How many bytes are written for each of a frame, about: it goes into the log and into the tree, where
/// others are written anew beside it.
const FOR_EACH: u64 = 4;

/// What the thread that writes is told.
pub(super) enum Command {
    /// Write this.
    Write(ReadyBatch),
    /// See to it that listings find all that was written before.
    List(Answer),
    /// Write what else is waiting, and end.
    End,
}

/// A batch made ready to be written.
pub(super) struct ReadyBatch {
    pub(super) writes: Vec<ReadyWrite>,
    pub(super) sync: Sync,
    pub(super) answer: Answer,
}

/// One write of it.
pub(super) enum ReadyWrite {
    Put { kind: Kind, key: RecordKey, expect: Expect, change: Arc<Change> },
    Renew { kind: Kind, key: RecordKey, revision: Revision, lease_until: Timestamp },
    Delete { kind: Kind, key: RecordKey, expect: Expect },
}

impl ReadyWrite {
    pub(super) fn of(write: Write) -> Self {
        match write {
            Write::Put { record, expect } => {
                let (kind, key) = (record.kind, record.key.clone());
                Self::Put { kind, key, expect, change: Arc::new(Change::of(record)) }
            }
            Write::Renew { kind, key, revision, lease_until } => {
                Self::Renew { kind, key, revision, lease_until }
            }
            Write::Delete { kind, key, expect } => Self::Delete { kind, key, expect },
        }
    }

    fn of_record(&self) -> (Kind, &RecordKey) {
        match self {
            Self::Put { kind, key, .. } | Self::Renew { kind, key, .. } | Self::Delete { kind, key, .. } => {
                (*kind, key)
            }
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Put { change, .. } => change.bytes(),
            Self::Renew { .. } | Self::Delete { .. } => super::layout::VALUE_BYTES,
        }
    }
}

/// Where writing begins.
pub(super) struct Beginning {
    /// The number of the next frame.
    pub(super) next: u64,
    pub(super) tree: sled::Tree,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) common: Arc<Common>,
    pub(super) merger: Merger,
}

/// The threads that write, sync and merge. They end when this is closed or dropped.
pub(super) struct Writer {
    commands: Mutex<Option<queue::Sender<Command>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Writer {
    pub(super) fn start(beginning: Beginning) -> io::Result<Self> {
        let Beginning { next, tree, disk, common, merger } = beginning;
        let (commands, waiting) = queue::channel(WAITING);
        let (written, to_sync) = mpsc::channel();
        let (merges, jobs) = mpsc::channel();
        let (done, merged) = mpsc::channel();
        let under_sync = Arc::new(AtomicUsize::new(0));
        let syncing = Syncing {
            disk: Arc::clone(&disk),
            to_sync,
            under_sync: Arc::clone(&under_sync),
            common: Arc::clone(&common),
        };
        let log = Log { next, bytes: 0, merges, merged, is_merging: false, merging_bytes: 0 };
        let writing = Writing { tree, disk, log, written, under_sync, common };
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        let threads = vec![
            named("docket-sled-write").spawn(move || writing.run(waiting))?,
            named("docket-sled-sync").spawn(move || syncing.run())?,
            named("docket-sled-merge").spawn(move || merger.run(&jobs, &done))?,
        ];
        Ok(Self { commands: Mutex::new(Some(commands)), threads: Mutex::new(threads) })
    }

    /// Returns where commands go; none once this is closed.
    pub(super) fn commands(&self) -> Option<queue::Sender<Command>> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes no more commands, and returns when those that were taken are done.
    pub(super) fn close(&self) {
        let commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(commands) = commands {
            // Others may still hold a sender, so the thread must be told. A full queue is soon less full.
            while let Err(queue::error::TrySendError::Full(_)) = commands.try_send(Command::End) {
                thread::park_timeout(Duration::from_millis(1));
            }
        }
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // A panic in it has broken the store, and says so there.
            let _ = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

/// The thread that writes.
struct Writing {
    tree: sled::Tree,
    disk: Arc<dyn Disk>,
    log: Log,
    written: mpsc::Sender<Vec<Answer>>,
    under_sync: Arc<AtomicUsize>,
    common: Arc<Common>,
}

/// How far the log is.
struct Log {
    /// The number of the next frame.
    next: u64,
    /// How many bytes were written to the file whose turn it is.
    bytes: u64,
    merges: mpsc::Sender<Merge>,
    merged: mpsc::Receiver<()>,
    is_merging: bool,
    /// How many bytes the file has that is being merged.
    merging_bytes: u64,
}

/// A batch that is part of a frame.
struct Framed {
    changed: Vec<(Kind, RecordKey)>,
    sync: Sync,
    answer: Answer,
}

impl Drop for Writing {
    fn drop(&mut self) {
        if thread::panicking() {
            self.common.break_down("the thread that writes has panicked");
        }
    }
}

impl Writing {
    fn run(mut self, mut waiting: queue::Receiver<Command>) {
        while let Some(mut next) = waiting.blocking_recv() {
            let (mut group, mut bytes, mut to_list) = (Vec::new(), 0, Vec::new());
            loop {
                match next {
                    Command::Write(batch) => {
                        bytes += batch.bytes();
                        group.push(batch);
                    }
                    Command::List(answer) => to_list.push(answer),
                    Command::End => waiting.close(),
                }
                if group.len() == WAITING || bytes >= GROUP_BYTES {
                    break;
                }
                let Ok(waits) = waiting.try_recv() else { break };
                next = waits;
            }
            self.write(group);
            if !to_list.is_empty() {
                self.merge(Then::Listed, to_list);
            }
            let is_long = self.log.bytes >= FILE_BYTES;
            if is_long && (self.log.bytes >= FULL_BYTES || !self.is_merging()) {
                self.take_turns();
            }
        }
        if self.log.bytes > 0 {
            self.merge(Then::Synced, Vec::new());
        }
        self.wait_until_merged();
        if self.common.broken.get().is_none()
            && let Err(error) = self.disk.end()
        {
            tracing::debug!(%error, "the log stays as long as it was");
        }
    }

    /// Writes a group of batches, and sees to it that each gets its answer.
    fn write(&mut self, group: Vec<ReadyBatch>) {
        let group_size = group.len();
        let (mut frame, mut layer) = (Frame::new(), Layer::default());
        let (mut framed, mut refused) = (Vec::with_capacity(group.len()), Vec::new());
        let mut written = Ok(());
        for ReadyBatch { writes, sync, answer } in group {
            match self.check_batch(&layer, &writes) {
                Ok(there) => {
                    let changed = changed(&writes);
                    framed.push(Framed { changed, sync, answer });
                    written = written.and_then(|()| self.stage(&mut frame, &mut layer, writes, there));
                }
                Err(error) => refused.push((answer, error)),
            }
        }
        if written.is_ok() && layer.len() > 0 {
            written = self.log(frame, layer);
        }
        // Only now: whoever was refused because of another batch of the group must be able to read it.
        for (to, error) in refused {
            answer(to, Err(error));
        }
        let mut to_sync = Vec::new();
        for Framed { changed, sync, answer: to } in framed {
            for (kind, key) in changed {
                self.common.changes.tell_of(kind, key);
            }
            match (&written, sync) {
                (Ok(()), Sync::Now) => to_sync.push(to),
                (Ok(()), Sync::Later) => answer(to, Ok(())),
                (Err(error), _) => answer(to, Err(error.clone())),
            }
        }
        self.see_to_sync(to_sync, group_size);
    }

    /// Sees to it that these are synced and answered. Where nobody of the group asked for less and no
    /// sync is under way, that is done here: whoever else comes is most likely to want a sync as well,
    /// and the next group is the larger for it. Otherwise the other thread does it, and this one goes on.
    fn see_to_sync(&self, to_sync: Vec<Answer>, group_size: usize) {
        if to_sync.is_empty() {
            return;
        }
        if to_sync.len() == group_size && self.under_sync.load(Ordering::Acquire) == 0 {
            let synced = self.common.sync(&*self.disk);
            to_sync.into_iter().for_each(|to| answer(to, synced.clone()));
            return;
        }
        self.under_sync.fetch_add(to_sync.len(), Ordering::AcqRel);
        if let Err(mpsc::SendError(lost)) = self.written.send(to_sync) {
            let error = self.common.break_down("the thread that syncs has ended");
            lost.into_iter().for_each(|to| answer(to, Err(error.clone())));
        }
    }

    /// Returns what is there of each record that a batch writes, if that is what it expects.
    fn check_batch(&self, layer: &Layer, writes: &[ReadyWrite]) -> Result<Vec<State>, StoreError> {
        let check = |write: &ReadyWrite| {
            let (kind, key) = write.of_record();
            let there = look(&self.tree, &self.common.overlay, layer, kind, key)?;
            if is_expected(write, there.as_deref().map(Change::record)) {
                Ok(there)
            } else {
                Err(StoreError::conflict(format_args!("{}/{key}", kind.as_str())))
            }
        };
        writes.iter().map(check).collect()
    }

    /// Puts a batch into the frame and the layer, in the place of what is there. After an error no part of
    /// the group can be written.
    fn stage(
        &self,
        frame: &mut Frame,
        layer: &mut Layer,
        writes: Vec<ReadyWrite>,
        there: Vec<State>,
    ) -> Result<(), StoreError> {
        for (write, there) in writes.into_iter().zip(there) {
            match write {
                ReadyWrite::Put { kind, key, change, .. } => {
                    frame.put(kind, &key, &change);
                    layer.put(kind, key, Some(change), there);
                }
                ReadyWrite::Renew { kind, key, revision, lease_until } => {
                    frame.renew(kind, &key, revision, lease_until);
                    if let Some(change) = &there {
                        let renewed = change.renewed(&self.tree, lease_until)?;
                        layer.put(kind, key, Some(Arc::new(renewed)), there);
                    }
                }
                ReadyWrite::Delete { kind, key, .. } => {
                    frame.delete(kind, &key);
                    layer.put(kind, key, None, there);
                }
            }
        }
        Ok(())
    }

    /// Writes a frame to the log, and lets readers see what it says.
    fn log(&mut self, frame: Frame, layer: Layer) -> Result<(), StoreError> {
        if let Some(broken) = self.common.broken.get() {
            return Err(broken.clone());
        }
        let bytes = frame.len();
        if self.refuses(bytes).is_some() {
            // What the log has needs room in the tree as well: it is there before the disk is called full.
            if self.log.bytes > 0 {
                self.merge(Then::Synced, Vec::new());
            }
            self.wait_until_merged();
            if let Some(refusal) = self.refuses(bytes) {
                return Err(refusal);
            }
        }
        self.append(frame)?;
        self.common.overlay.publish(layer);
        Ok(())
    }

    /// Writes a frame behind all others.
    fn append(&mut self, frame: Frame) -> Result<(), StoreError> {
        let bytes = frame.len();
        self.disk
            .write(&frame.numbered(self.log.next))
            .map_err(|error| self.common.break_down(format_args!("a write to the store failed: {error}")))?;
        self.log.next += 1;
        self.log.bytes += bytes;
        Ok(())
    }

    /// Returns why so many bytes more are not to be written, if the disk has no room for them and for what
    /// the tree has not taken yet.
    fn refuses(&mut self, bytes: u64) -> Option<StoreError> {
        let merging = if self.is_merging() { self.log.merging_bytes } else { 0 };
        let all = bytes.saturating_add(self.log.bytes).saturating_add(merging);
        self.disk.refuses(all.saturating_mul(FOR_EACH))
    }

    /// Has the tree brought up to the log, in another thread, as soon as it is done with the last time.
    fn merge(&mut self, then: Then, tell: Vec<Answer>) {
        self.wait_until_merged();
        let (layer, _) = self.common.overlay.freeze(|_| false);
        let last = self.log.next - 1;
        // What the tree takes piece by piece must be in the log whatever happens; and the next file
        // must not survive where this one does not.
        if then == Then::Synced || !Merge::is_small(&layer) {
            // Where it fails the store is broken, and the other thread says so.
            let _ = self.common.sync(&*self.disk);
        }
        self.log.merging_bytes = self.log.bytes;
        if then == Then::Synced {
            self.turn();
        }
        self.send(Merge { layer, last, then, tell });
    }

    /// Lets the other file have its turn. What somebody is at goes there once more and not into the tree,
    /// where it would be replaced soon.
    fn take_turns(&mut self) {
        self.wait_until_merged();
        let mut room = CARRIED_BYTES;
        let (layer, carried) = self.common.overlay.freeze(|entry| match (&entry.now, &entry.below) {
            (Some(change), None) if change.record().facts.status == Status::Running => {
                let left = change.whole_bytes().and_then(|bytes| room.checked_sub(bytes));
                room = left.unwrap_or(room);
                left.is_some()
            }
            _ => false,
        });
        let last = self.log.next - 1;
        // Where one of these fails the store is broken, and the other thread says so.
        let _ = self.common.sync(&*self.disk);
        self.log.merging_bytes = self.log.bytes;
        self.turn();
        if !carried.is_empty() {
            let mut frame = Frame::new();
            carried.iter().for_each(|(kind, key, change)| frame.put(*kind, key, change));
            // As safe as it was, before the file in which it was is used again.
            let _ = self.append(frame).and_then(|()| self.common.sync(&*self.disk));
        }
        self.send(Merge { layer, last, then: Then::Synced, tell: Vec::new() });
    }

    fn turn(&mut self) {
        self.log.bytes = 0;
        if let Err(error) = self.disk.turn() {
            self.common.break_down(format_args!("a write to the store failed: {error}"));
        }
    }

    fn send(&mut self, merge: Merge) {
        match self.log.merges.send(merge) {
            Ok(()) => self.log.is_merging = true,
            Err(mpsc::SendError(Merge { tell, .. })) => {
                let error = self.common.break_down("the thread that merges has ended");
                tell.into_iter().for_each(|to| answer(to, Err(error.clone())));
            }
        }
    }

    /// Returns whether the other thread is still at the last time.
    fn is_merging(&mut self) -> bool {
        if self.log.is_merging && self.log.merged.try_recv().is_ok() {
            self.log.is_merging = false;
        }
        self.log.is_merging
    }

    fn wait_until_merged(&mut self) {
        if std::mem::take(&mut self.log.is_merging) && self.log.merged.recv().is_err() {
            self.common.break_down("the thread that merges has ended");
        }
    }
}

impl ReadyBatch {
    fn bytes(&self) -> usize {
        self.writes.iter().map(ReadyWrite::bytes).sum()
    }
}

/// Returns the records of which waiters are to be told.
fn changed(writes: &[ReadyWrite]) -> Vec<(Kind, RecordKey)> {
    let changes = |write: &ReadyWrite| match write {
        ReadyWrite::Put { kind, key, .. } | ReadyWrite::Delete { kind, key, .. } => {
            Some((*kind, key.clone()))
        }
        ReadyWrite::Renew { .. } => None,
    };
    writes.iter().filter_map(changes).collect()
}

fn is_expected(write: &ReadyWrite, there: Option<&Record>) -> bool {
    let revision = there.map(|there| there.revision);
    match write {
        ReadyWrite::Put { expect, .. } | ReadyWrite::Delete { expect, .. } => match expect {
            Expect::Absent => revision.is_none(),
            Expect::Revision(expected) => revision == Some(*expected),
            Expect::Any => true,
        },
        ReadyWrite::Renew { revision: expected, .. } => {
            there.is_some_and(|there| there.facts.status == Status::Running) && revision == Some(*expected)
        }
    }
}

/// The thread that syncs.
struct Syncing {
    disk: Arc<dyn Disk>,
    to_sync: mpsc::Receiver<Vec<Answer>>,
    /// How many batches this thread has been given and has not answered.
    under_sync: Arc<AtomicUsize>,
    common: Arc<Common>,
}

impl Syncing {
    fn run(self) {
        while let Ok(mut answers) = self.to_sync.recv() {
            while let Ok(more) = self.to_sync.try_recv() {
                answers.extend(more);
            }
            let synced = self.common.sync(&*self.disk);
            self.under_sync.fetch_sub(answers.len(), Ordering::AcqRel);
            answers.into_iter().for_each(|to| answer(to, synced.clone()));
        }
    }
}

#[cfg(test)]
mod tests;
