//! Owns the permits for guest instances, and the instances that a step leaves to its next attempt in the same execution
//! where the operator has it so. Never calls one, and never hands one to another step or execution.
//!
//! An instance at rest holds a slot of the pool, but no permit: whoever gets a permit takes the one that was left for it,
//! or else sees to it that there is a slot, if need be by giving up one at rest, of whichever execution. So permits go
//! round in the order in which they are asked for, and what rests never holds up what is to run.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use docket_graph::NodeId;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::call::Used;

/// The permits for guest instances of a host: as many as its pool has slots.
pub(crate) struct Instances {
    permits: Semaphore,
    /// How many instances are at rest. Never less than there are; with the permits that are out never more than there are
    /// slots, but for attempts that are about to see to that.
    at_rest: Arc<AtomicUsize>,
    /// Where they are, by execution.
    rests: Mutex<Vec<Weak<Resting>>>,
}

/// What an attempt has of the pool.
pub(crate) struct Seat<'a> {
    /// The instance that an earlier attempt has left. Before the permit: the slot is free when that is given back.
    pub(crate) used: Option<Box<Used>>,
    _permit: SemaphorePermit<'a>,
}

/// The instances at rest of one execution.
pub(crate) struct Resting {
    /// By node; none once the execution is over.
    #[expect(clippy::vec_box, reason = "taken and left as it is: no attempt allocates or moves an instance")]
    by_node: Mutex<Option<Vec<Vec<Box<Used>>>>>,
    /// Of all executions.
    at_rest: Arc<AtomicUsize>,
}

impl Instances {
    pub(crate) fn new(most: usize) -> Self {
        let (at_rest, rests) = Default::default();
        Self { permits: Semaphore::new(most), at_rest, rests }
    }

    /// Returns a place for the instances at rest of one execution.
    pub(crate) fn rest(&self) -> Arc<Resting> {
        let (by_node, at_rest) = (Mutex::new(Some(Vec::new())), Arc::clone(&self.at_rest));
        let resting = Arc::new(Resting { by_node, at_rest });
        let mut rests = lock(&self.rests);
        rests.retain(|rest| rest.strong_count() > 0);
        rests.push(Arc::downgrade(&resting));
        resting
    }

    /// Returns a seat for an attempt, if there is one at once: where instances of its node are used again, with one that
    /// was left.
    pub(crate) fn seat_at_once(&self, again: Option<(&Resting, NodeId)>) -> Option<Seat<'_>> {
        Some(self.seat_with(self.permits.try_acquire().ok()?, again))
    }

    /// Returns whether there are permits left, so that nobody waits for one.
    pub(crate) fn has_permits(&self) -> bool {
        self.permits.available_permits() > 0
    }

    /// Waits for a seat.
    ///
    /// # Cancel safety
    /// Nothing is held where this is dropped.
    pub(crate) async fn seat(&self, again: Option<(&Resting, NodeId)>) -> Seat<'_> {
        let permit = self.permits.acquire().await.expect("the semaphores of a host are never closed");
        self.seat_with(permit, again)
    }

    fn seat_with<'a>(&'a self, permit: SemaphorePermit<'a>, again: Option<(&Resting, NodeId)>) -> Seat<'a> {
        let used = again.and_then(|(resting, node)| resting.take(node));
        if used.is_none() && self.at_rest.load(Ordering::SeqCst) > 0 {
            self.make_room();
        }
        Seat { used, _permit: permit }
    }

    /// Gives instances at rest up until there is a slot for each permit that is out.
    fn make_room(&self) {
        // One at a time: an instance is dropped before the next attempt looks whether there is room.
        let rests = lock(&self.rests);
        while self.at_rest.load(Ordering::SeqCst) > self.permits.available_permits() {
            if !rests.iter().filter_map(Weak::upgrade).any(|resting| resting.give_one_up()) {
                return;
            }
        }
    }
}

impl Resting {
    /// Leaves the instance of an attempt that has ended to the next one at its node, if it may be used again, and gives
    /// the permit back.
    pub(crate) fn leave(&self, node: NodeId, seat: Seat<'_>) {
        let Seat { used, _permit: permit } = seat;
        let mut by_node = lock(&self.by_node);
        if let (Some(used), Some(by_node)) = (used, &mut *by_node) {
            if by_node.len() <= node.index() {
                by_node.resize_with(node.index() + 1, Vec::new);
            }
            by_node[node.index()].push(used);
            self.at_rest.fetch_add(1, Ordering::SeqCst);
        }
        drop(by_node);
        // Only now: whoever gets it must see what rests.
        drop(permit);
    }

    /// Drops all instances at rest, and from now on whatever is left here.
    pub(crate) fn close(&self) {
        let instances: Vec<_> = lock(&self.by_node).take().into_iter().flatten().flatten().collect();
        let rested = instances.len();
        drop(instances);
        // Only now there is room for others.
        self.at_rest.fetch_sub(rested, Ordering::SeqCst);
    }

    fn take(&self, node: NodeId) -> Option<Box<Used>> {
        let used = lock(&self.by_node).as_mut()?.get_mut(node.index())?.pop()?;
        // Its slot is that of the permit which the taker has.
        self.at_rest.fetch_sub(1, Ordering::SeqCst);
        Some(used)
    }

    fn give_one_up(&self) -> bool {
        let used = lock(&self.by_node).iter_mut().flatten().find_map(Vec::pop);
        let was_one = used.is_some();
        drop(used);
        self.at_rest.fetch_sub(usize::from(was_one), Ordering::SeqCst);
        was_one
    }
}

impl Drop for Resting {
    fn drop(&mut self) {
        self.close();
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    // Poisoned only by a fault of ours; what is behind it is whole between its own statements.
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
