//! Owns every write to the log. Whoever commits writes in its own task, one after the other, where
//! nothing must be waited for; else a thread writes what waits as one frame. A second one
//! ([`syncing`](super::syncing)) syncs, a third ([`merge`](super::merge)) brings the tree up to the log.
//! Never reads for anyone.
//!
//! sled's own ways are not taken: its `flush` says that it syncs and does not, its `flush_async`
//! locks up under eight callers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use tokio::sync::mpsc as queue;

use crate::error::StoreError;
use crate::record::{Kind, RecordKey, Status};
use crate::store::Sync;

use super::common::{Answer, Common, Disk, answer};
use super::content::{Change, State};
use super::log::{AHEAD_BYTES, FILE_BYTES, FULL_BYTES, Frame};
use super::merge::{Merge, Merger, Then};
use super::overlay::{Entry, Layer, look};
use super::ready::{self, ReadyBatch, ReadyWrite};
use super::syncing::{Syncing, Waiting};

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

/// Where writing begins.
pub(super) struct Beginning {
    /// The number of the next frame.
    pub(super) next: u64,
    pub(super) tree: sled::Tree,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) common: Arc<Common>,
    pub(super) merger: Merger,
}

/// Who writes, syncs and merges. All ends when this is closed or dropped.
pub(super) struct Writer {
    /// None once it has ended.
    writing: Arc<Mutex<Option<Writing>>>,
    commands: Mutex<Option<queue::Sender<Command>>>,
    /// How many commands the thread that writes was sent and has not carried out.
    sent: Arc<AtomicUsize>,
    to_sync: Arc<Waiting>,
    common: Arc<Common>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// How often somebody who commits looks whether another has written by now: for some microseconds, in which a
/// few small batches are written.
const LOOKS: usize = 200;

impl Writer {
    pub(super) fn start(beginning: Beginning) -> io::Result<Self> {
        let Beginning { next, tree, disk, common, merger } = beginning;
        let (commands, waiting) = queue::channel(WAITING);
        let (merges, jobs) = mpsc::channel();
        let (done, merged) = mpsc::channel();
        let (sent, to_sync) = (Arc::<AtomicUsize>::default(), Arc::<Waiting>::default());
        let syncing =
            Syncing { disk: Arc::clone(&disk), waiting: Arc::clone(&to_sync), common: Arc::clone(&common) };
        let log = Log {
            first: next,
            next,
            bytes: 0,
            roomy: 0,
            merges,
            merged,
            is_merging: false,
            merging_bytes: 0,
        };
        let writing = Writing { tree, disk, log, common: Arc::clone(&common) };
        let writing = Arc::new(Mutex::new(Some(writing)));
        let thread = Thread {
            writing: Arc::clone(&writing),
            sent: Arc::clone(&sent),
            to_sync: Arc::clone(&to_sync),
            common: Arc::clone(&common),
        };
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        let threads = vec![
            named("docket-sled-write").spawn(move || thread.run(waiting))?,
            named("docket-sled-sync").spawn(move || syncing.run())?,
            named("docket-sled-merge").spawn(move || merger.run(&jobs, &done))?,
        ];
        let (commands, threads) = (Mutex::new(Some(commands)), Mutex::new(threads));
        Ok(Self { writing, commands, sent, to_sync, common, threads })
    }

    /// Writes a batch now, where nobody else is writing, nothing waits that was sent before, and neither the disk nor
    /// the tree is to be waited for; else returns the batch, for the thread. Takes some microseconds.
    pub(super) fn write_at_once(
        &self,
        writes: Vec<ReadyWrite>,
    ) -> Result<Result<(), StoreError>, Vec<ReadyWrite>> {
        let Some(mut guard) = self.at_once() else { return Err(writes) };
        let Some(writing) = &mut *guard else { return Err(writes) };
        if writing.has_room(&writes) { Ok(writing.write_alone(writes)) } else { Err(writes) }
    }

    fn at_once(&self) -> Option<MutexGuard<'_, Option<Writing>>> {
        for _ in 0..LOOKS {
            if self.sent.load(Ordering::Acquire) > 0 {
                return None;
            }
            match self.writing.try_lock() {
                Ok(writing) => return Some(writing),
                Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
                Err(TryLockError::Poisoned(_)) => {
                    self.common.break_down(PANICKED);
                    return None;
                }
            }
        }
        None
    }

    /// Has this answered once everything is safe that was written before.
    pub(super) fn sync(&self, answer: Answer) {
        self.to_sync.add([answer]);
    }

    /// Sends the thread a command. Returns false where it takes none any more.
    ///
    /// # Cancel safety
    /// A dropped call sends it or does not.
    pub(super) async fn send(&self, command: Command) -> bool {
        let Some(commands) = self.commands() else { return false };
        let sending = Sending::new(&self.sent);
        let sent = commands.send(command).await.is_ok();
        if sent {
            sending.sent();
        }
        sent
    }

    /// The same, on a thread where blocking is allowed.
    #[cfg(test)]
    fn send_blocking(&self, command: Command) -> bool {
        let Some(commands) = self.commands() else { return false };
        let sending = Sending::new(&self.sent);
        let sent = commands.blocking_send(command).is_ok();
        if sent {
            sending.sent();
        }
        sent
    }

    /// Returns where commands go; none once this is closed.
    fn commands(&self) -> Option<queue::Sender<Command>> {
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
            // A panic in it has broken the store, and says so there. The first is the one that writes.
            let _ = thread.join();
            self.to_sync.end();
            drop(self.writing.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }
}

/// Counts a command that is being sent; no longer where that does not come to its end.
struct Sending<'a>(&'a AtomicUsize);

impl<'a> Sending<'a> {
    fn new(sent: &'a AtomicUsize) -> Self {
        sent.fetch_add(1, Ordering::AcqRel);
        Self(sent)
    }

    /// Leaves it to the thread to count it off.
    fn sent(self) {
        std::mem::forget(self);
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

/// The thread that writes what nobody could write at once.
struct Thread {
    writing: Arc<Mutex<Option<Writing>>>,
    sent: Arc<AtomicUsize>,
    to_sync: Arc<Waiting>,
    common: Arc<Common>,
}

/// Why a store is refused after a panic in the middle of a write.
const PANICKED: &str = "whoever wrote to the store has panicked";

impl Drop for Thread {
    fn drop(&mut self) {
        if thread::panicking() {
            self.common.break_down(PANICKED);
        }
    }
}

impl Thread {
    fn run(self, mut waiting: queue::Receiver<Command>) {
        while let Some(mut next) = waiting.blocking_recv() {
            let (mut group, mut bytes, mut to_list) = (Vec::new(), 0, Vec::new());
            loop {
                match next {
                    Command::Write(batch) => {
                        bytes += ready::bytes(&batch.writes);
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
            let carried_out = group.len() + to_list.len();
            if let Some(writing) = &mut *self.lock() {
                self.to_sync.add(writing.write(group));
                if !to_list.is_empty() {
                    writing.merge(Then::Listed, to_list);
                }
                if writing.is_long() {
                    writing.take_turns();
                }
            }
            self.sent.fetch_sub(carried_out, Ordering::AcqRel);
        }
        let writing = self.lock().take();
        writing.into_iter().for_each(Writing::end);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Writing>> {
        self.writing.lock().unwrap_or_else(|poisoned| {
            self.common.break_down(PANICKED);
            poisoned.into_inner()
        })
    }
}

/// What whoever writes has.
struct Writing {
    tree: sled::Tree,
    disk: Arc<dyn Disk>,
    log: Log,
    common: Arc<Common>,
}

/// How far the log is.
struct Log {
    /// The number of the first frame since the store was opened.
    first: u64,
    /// The number of the next frame.
    next: u64,
    /// How many bytes were written to the file whose turn it is.
    bytes: u64,
    /// How many it may come to have before the disk is asked again whether there is room.
    roomy: u64,
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

impl Writing {
    /// Writes a group of batches, and answers those that are not to be synced; returns the others.
    fn write(&mut self, group: Vec<ReadyBatch>) -> Vec<Answer> {
        let (mut frame, mut layer) = (Frame::new(), Layer::default());
        let (mut framed, mut refused) = (Vec::with_capacity(group.len()), Vec::new());
        let mut written = Ok(());
        for ReadyBatch { writes, sync, answer } in group {
            match self.check_batch(&layer, &writes) {
                Ok(there) => {
                    let changed = changed(&writes);
                    framed.push(Framed { changed, sync, answer });
                    let put = |kind, key, now, below| layer.put(kind, key, now, below);
                    written = written.and_then(|()| self.stage(&mut frame, writes, there, put));
                }
                Err(error) => refused.push((answer, error)),
            }
        }
        if written.is_ok() && layer.len() > 0 {
            written = self.log(frame).map(|()| self.common.overlay.publish(layer.into_entries()));
        }
        // Only now: whoever was refused because of another batch of the group must be able to read it.
        for (to, error) in refused {
            answer(to, Err(error));
        }
        let mut to_sync = Vec::new();
        for Framed { changed, sync, answer: to } in framed {
            self.tell(changed);
            match (&written, sync) {
                (Ok(()), Sync::Now) => to_sync.push(to),
                (Ok(()), Sync::Later) => answer(to, Ok(())),
                (Err(error), _) => answer(to, Err(error.clone())),
            }
        }
        to_sync
    }

    /// Writes one batch; it is not synced.
    fn write_alone(&mut self, writes: Vec<ReadyWrite>) -> Result<(), StoreError> {
        if writes.is_empty() {
            return Ok(());
        }
        let there = self.check_batch(&Layer::default(), &writes)?;
        let changed = changed(&writes);
        let (mut frame, mut entries) = (Frame::new(), Vec::with_capacity(writes.len()));
        self.stage(&mut frame, writes, there, |kind, key, now, below| {
            entries.push((kind, key, Entry { now, below }));
        })?;
        self.log(frame)?;
        self.common.overlay.publish(entries);
        self.tell(changed);
        Ok(())
    }

    /// Returns whether these can be written without waiting for the tree, or for the disk to be found full.
    fn has_room(&mut self, writes: &[ReadyWrite]) -> bool {
        self.log.bytes < FILE_BYTES && self.is_roomy(ready::bytes(writes) as u64)
    }

    /// Returns whether the files are to take turns.
    fn is_long(&mut self) -> bool {
        self.log.bytes >= FILE_BYTES && (self.log.bytes >= FULL_BYTES || !self.is_merging())
    }

    /// Has the tree take everything, and leaves an empty frame in the log: a tree that sled finds as it once was is then
    /// seen not to go on to it, however short the log is.
    fn end(mut self) {
        if self.log.bytes > 0 {
            self.merge(Then::Synced, Vec::new());
        }
        self.wait_until_merged();
        if self.common.broken.get().is_some() {
            return;
        }
        let is_cut = self.disk.end().unwrap_or_else(|error| {
            tracing::debug!(%error, "the log stays as long as it was");
            false
        });
        if is_cut || self.log.next > self.log.first {
            // Where it fails nothing is lost that was written; there is no mark then.
            let _ = self.append(Frame::new()).and_then(|()| self.common.sync(&*self.disk));
        }
    }

    fn tell(&self, changed: Vec<(Kind, RecordKey)>) {
        for (kind, key) in changed {
            self.common.changes.tell_of(kind, key);
        }
    }

    /// Returns what is there of each record that a batch writes, if that is what it expects.
    fn check_batch(&self, layer: &Layer, writes: &[ReadyWrite]) -> Result<Vec<State>, StoreError> {
        let check = |write: &ReadyWrite| {
            let (kind, key) = write.of_record();
            let there = look(&self.tree, &self.common.overlay, layer, kind, key)?;
            if write.is_expected(there.as_deref().map(Change::record)) {
                Ok(there)
            } else {
                Err(StoreError::conflict(format_args!("{}/{key}", kind.as_str())))
            }
        };
        writes.iter().map(check).collect()
    }

    /// Puts a batch into the frame, and says what becomes of each record in the place of what is there. After
    /// an error no part of the group can be written.
    fn stage(
        &self,
        frame: &mut Frame,
        writes: Vec<ReadyWrite>,
        there: Vec<State>,
        mut put: impl FnMut(Kind, RecordKey, State, State),
    ) -> Result<(), StoreError> {
        for (write, there) in writes.into_iter().zip(there) {
            match write {
                ReadyWrite::Put { kind, key, change, .. } => {
                    frame.put(kind, &key, &change);
                    put(kind, key, Some(change), there);
                }
                ReadyWrite::Renew { kind, key, revision, lease_until } => {
                    frame.renew(kind, &key, revision, lease_until);
                    if let Some(change) = &there {
                        let renewed = change.renewed(&self.tree, lease_until)?;
                        put(kind, key, Some(Arc::new(renewed)), there);
                    }
                }
                ReadyWrite::Delete { kind, key, .. } => {
                    frame.delete(kind, &key);
                    put(kind, key, None, there);
                }
            }
        }
        Ok(())
    }

    /// Writes a frame to the log.
    fn log(&mut self, frame: Frame) -> Result<(), StoreError> {
        if let Some(broken) = self.common.broken.get() {
            return Err(broken.clone());
        }
        let bytes = frame.len();
        if !self.is_roomy(bytes) {
            // What the log has needs room in the tree as well: it is there before the disk is called full.
            if self.log.bytes > 0 {
                self.merge(Then::Synced, Vec::new());
            }
            self.wait_until_merged();
            if let Some(refusal) = self.refuses(bytes) {
                return Err(refusal);
            }
        }
        self.append(frame)
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

    /// Returns whether so many bytes more may be written. The disk is not asked each time.
    fn is_roomy(&mut self, bytes: u64) -> bool {
        if self.log.bytes + bytes <= self.log.roomy {
            return true;
        }
        let ahead = bytes + AHEAD_BYTES;
        if self.refuses(ahead).is_none() {
            self.log.roomy = self.log.bytes + ahead;
            return true;
        }
        self.refuses(bytes).is_none()
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
        (self.log.bytes, self.log.roomy) = (0, 0);
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

/// Returns the records of which waiters are to be told.
fn changed(writes: &[ReadyWrite]) -> Vec<(Kind, RecordKey)> {
    writes.iter().filter_map(ReadyWrite::changes).map(|(kind, key)| (kind, key.clone())).collect()
}

#[cfg(test)]
mod tests;
