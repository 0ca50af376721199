//! Owns what a backend must promise, and nothing that can be built from it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::Timestamp;
use crate::error::StoreError;
use crate::record::{Kind, Record, RecordKey, Revision, Status};

/// Records under keys, written by atomic batches.
///
/// Every method may be called from any task at any time. A call whose future is dropped may or may
/// not have had its effect; a batch is never half written.
#[async_trait]
pub trait Store: Send + std::marker::Sync + 'static {
    /// Returns what this store can do, as found when it was opened.
    fn abilities(&self) -> Abilities;

    /// Returns the record, expired or not, and the store's time.
    ///
    /// Once a [`commit`](Self::commit) has returned `Ok`, every later read by anyone sees it. Takes no
    /// lock and writes nothing.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt` or `Poisoned`; the record may be there.
    async fn get(&self, kind: Kind, key: &RecordKey) -> Result<Found, StoreError>;

    /// Writes the batch, all of it or nothing.
    ///
    /// Once this returns `Ok`, the batch survives the death of this process, and with [`Sync::Now`]
    /// also the loss of power, as far as [`Abilities::durability`] says; what was committed before it
    /// is then as safe. Repeating a batch of puts that was written is a `Conflict`.
    ///
    /// # Errors
    /// `Conflict` where any write of the batch expects something else than what there is; then, and
    /// with every kind but `Unknown` and `Poisoned`, nothing was written. After `Unknown` it was
    /// written whole or not at all.
    async fn commit(&self, batch: Batch) -> Result<(), StoreError>;

    /// Returns records without their bodies (empty in the answer), at most `limit` of them, and where
    /// to go on. Not a snapshot: what is written meanwhile may or may not be seen.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt` or `Poisoned`.
    async fn scan(&self, query: &Query, limit: usize) -> Result<Page, StoreError>;

    /// Waits until the record may have changed, and at most this long. Only a hint: it may return
    /// early, or late, and whoever calls it reads afterwards.
    async fn changed(&self, kind: Kind, key: &RecordKey, most: Duration);

    /// Returns whether the process of this owner has ended, so that what it was at is nobody's any more,
    /// whatever its lease says. False where that cannot be known. Waits for nobody.
    fn is_gone(&self, _owner: &str) -> bool {
        false
    }

    /// Once this returns `Ok`, everything committed before the call survives the loss of power, as far
    /// as [`Abilities::durability`] says.
    ///
    /// # Errors
    /// `Unavailable` or `Poisoned`.
    async fn sync(&self) -> Result<(), StoreError>;

    /// Syncs, and lets go of files, threads and connections. Later calls fail with `Unavailable`;
    /// closing again does nothing.
    ///
    /// # Errors
    /// Where the last sync fails.
    async fn close(&self) -> Result<(), StoreError>;
}

/// What a store can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// The URL scheme: `sled`, `memory`, `sqlite`, `postgres`, `mysql` or `redis`.
    pub scheme: &'static str,
    /// What acknowledged batches survive.
    pub durability: Durability,
    /// Who may use it at the same time.
    pub sharing: Sharing,
    /// The largest body of a record, in bytes.
    pub max_body: u64,
    /// What this process is called among those that use the store, where they can see whether it lives:
    /// then the names of its owners begin with this and a slash, for [`Store::is_gone`].
    pub process: Option<Arc<str>>,
    /// How long to wait between two looks at a record that somebody else is at, where
    /// [`Store::changed`] does not wake by itself; none where it does.
    pub poll: Option<Duration>,
}

/// What acknowledged batches survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// Nothing: they are in this process's memory.
    None,
    /// It could not be found out.
    Unknown,
    /// The death of the process.
    Process,
    /// The loss of power.
    Power,
}

/// Who may use a store at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sharing {
    /// One process.
    Process,
    /// Processes of one machine.
    Host,
    /// Processes of any machine that reaches it.
    Network,
}

/// What [`Store::get`] found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The record, if there is one.
    pub record: Option<Record>,
    /// The store's time at the reading, whether there is one or not.
    pub now: Timestamp,
}

/// Writes that are done together or not at all. No record is named twice.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// In any order.
    pub writes: Vec<Write>,
    /// How safe it must be on return.
    pub sync: Sync,
}

/// How safe a batch must be when it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sync {
    /// It survives the death of the process; power loss only once a later batch was synced.
    Later,
    /// It survives the loss of power.
    Now,
}

/// One write of a batch.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every write is a put, and a box for each would cost more"
)]
pub enum Write {
    /// Puts a record in the place of what is expected there.
    Put {
        /// What to write, with its new revision.
        record: Record,
        /// What must be there.
        expect: Expect,
    },
    /// Moves the end of a lease; changes nothing else, not even the revision.
    Renew {
        /// The record's kind.
        kind: Kind,
        /// Its key.
        key: RecordKey,
        /// The revision that must be there, with status running.
        revision: Revision,
        /// The new end.
        lease_until: Timestamp,
    },
    /// Removes a record.
    Delete {
        /// The record's kind.
        kind: Kind,
        /// Its key.
        key: RecordKey,
        /// What must be there. With [`Expect::Any`], also nothing.
        expect: Expect,
    },
}

/// What a write expects to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// No record.
    Absent,
    /// A record of this revision.
    Revision(Revision),
    /// Anything: the write says the same whoever does it.
    Any,
}

/// Which records to list.
#[derive(Clone, Debug, PartialEq)]
pub enum Query {
    /// The newest first: by the time of creation, descending, then by key, ascending.
    Newest {
        /// Of this kind.
        kind: Kind,
        /// That fit this.
        filter: Filter,
        /// From behind this place on.
        after: Option<Cursor>,
    },
    /// Those of any kind that have expired by the store's time, the longest expired first.
    Expired,
}

/// What records must have in common; a `None` asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// This tenant.
    pub tenant: Option<Arc<str>>,
    /// This step.
    pub step: Option<Arc<str>>,
    /// This execution.
    pub execution: Option<Arc<str>>,
    /// This status.
    pub status: Option<Status>,
    /// Created before this time.
    pub created_before: Option<Timestamp>,
}

impl Filter {
    /// Returns whether a record fits.
    pub fn fits(&self, record: &Record) -> bool {
        let Self { tenant, step, execution, status, created_before } = self;
        let facts = &record.facts;
        tenant.as_ref().is_none_or(|tenant| *tenant == facts.tenant)
            && step.as_ref().is_none_or(|step| Some(step) == facts.step.as_ref())
            && execution.as_ref().is_none_or(|execution| Some(execution) == facts.execution.as_ref())
            && status.is_none_or(|status| status == facts.status)
            && created_before.is_none_or(|before| facts.created_at < before)
    }
}

/// A place in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// When the last record of the page was created.
    pub created_at: Timestamp,
    /// Its key.
    pub key: RecordKey,
}

/// One page of a listing.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The records, bodies left out.
    pub records: Vec<Record>,
    /// Where the next page begins; none at the end, and none for [`Query::Expired`], where removing
    /// what was listed is the way on.
    pub next: Option<Cursor>,
    /// The store's time.
    pub now: Timestamp,
}
