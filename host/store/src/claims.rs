//! Owns what makes a result exactly one: who may compute it, who may keep it, and what counts as kept.
//! One record a key; its revision is the fence. Never computes, and never waits for anyone.
//!
//! A record of kind [`Kind::Result`] goes these ways:
//!
//! ```text
//!  (none) ──claim──► running ──complete──► done ──(expired)──┐
//!    ▲                 │  ▲                                  │
//!    │     fail/release│  └──────────── claim ◄──────────────┤
//!    │                 ▼                  ▲                  │
//!  purge ◄────── failed, released ────────┘   lease lapsed ──┘
//! ```
//!
//! Each arrow is one conditional batch, so that of all who try, one succeeds.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::StoreTime;
use crate::error::{StoreError, StoreErrorKind};
use crate::record::{Facts, Kind, Record, RecordKey, Revision, Scope, Status};
use crate::steady;
use crate::store::{Batch, Expect, Store, Sync, Write};

/// How long a claim holds when nobody renews it. 30 s: a dead leader holds others up for no longer,
/// and a pause of the machine or the store shorter than that costs no work.
pub const LEASE: Duration = Duration::from_secs(30);

/// How long a failure, or a claim that was given back or left behind, is remembered: long enough for
/// whoever waits for it. Those of an execution that can be resumed are remembered as long as it is.
const UNFINISHED_KEPT: Duration = Duration::from_secs(24 * 3600);

/// The claims of one owner on one store. Clones share it.
#[derive(Clone)]
pub struct Claims {
    store: Arc<dyn Store>,
    owner: Arc<str>,
    lease: Duration,
}

/// What a result is of.
#[derive(Clone, Debug)]
pub struct Work {
    /// The key of the result.
    pub key: RecordKey,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// Among whom it is shared.
    pub scope: Scope,
    /// The step that makes it.
    pub step: Arc<str>,
    /// The execution that asks for it.
    pub execution: Arc<str>,
    /// The digest of the step's module, in hexadecimal.
    pub module: Arc<str>,
    /// What the key is made of, as a JSON object.
    pub detail: Arc<str>,
}

/// What a look at a key found.
#[derive(Clone, Debug)]
pub enum Look {
    /// There is a result.
    Kept(Record),
    /// Somebody is at it.
    Busy(Record),
    /// Nobody is at it, and there is no result.
    Free(Free),
}

/// A key that nobody is at.
#[derive(Clone, Debug)]
pub struct Free {
    last: Option<Revision>,
    time: StoreTime,
    first_created: Option<crate::clock::Timestamp>,
    /// How many attempts the same execution has begun before.
    pub attempts: u32,
    /// What the last who was at it left.
    pub left: Left,
}

/// Why there is no result under a key that nobody is at.
#[derive(Clone, Debug, PartialEq)]
pub enum Left {
    /// Nobody was ever at it, or it was removed.
    Nothing,
    /// There was a result, and it has expired.
    Expired,
    /// Whoever was at it failed for good, with these bytes.
    Failed(Bytes),
    /// Whoever was at it gave it back.
    Released,
    /// Whoever was at it is gone: the lease has lapsed.
    Lapsed,
}

/// The right to compute one result, until its lease lapses.
#[derive(Clone, Debug)]
pub struct Claim {
    work: Work,
    facts: Facts,
    revision: Revision,
    time: StoreTime,
}

impl Claim {
    /// Returns the key of the result.
    pub fn key(&self) -> &RecordKey {
        &self.work.key
    }

    /// Returns the fencing token: greater than that of every earlier claim on the key.
    pub fn fence(&self) -> Revision {
        self.revision
    }

    /// Returns the number of the attempt under way, from 1.
    pub fn attempt(&self) -> u32 {
        self.facts.attempts
    }
}

impl Claims {
    /// Returns the claims of this owner: a name that no other process and no earlier one has.
    pub fn new(store: Arc<dyn Store>, owner: Arc<str>, lease: Duration) -> Self {
        Self { store, owner, lease }
    }

    /// Returns the store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Returns how long a claim holds when it is not renewed.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// Looks whether there is a result, as the given execution sees it: its own does not expire for it.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn look(&self, key: &RecordKey, execution: &str) -> Result<Look, StoreError> {
        let found = steady::get(&*self.store, Kind::Result, key).await?;
        let time = StoreTime::read(found.now);
        let Some(record) = found.record else {
            let (attempts, left) = (0, Left::Nothing);
            return Ok(Look::Free(Free { last: None, time, first_created: None, attempts, left }));
        };
        let facts = &record.facts;
        // What an execution has kept itself it never computes again, however long it takes.
        let own = facts.scope == Some(Scope::Workflow) || facts.execution.as_deref() == Some(execution);
        let left = match facts.status {
            Status::Done if facts.is_expired(found.now) && !own => Left::Expired,
            Status::Done => return Ok(Look::Kept(record)),
            Status::Running if is_held(facts, found.now, &*self.store) => return Ok(Look::Busy(record)),
            Status::Running => Left::Lapsed,
            Status::Failed => Left::Failed(record.body.clone()),
            Status::Released | Status::Interrupted | Status::Cancelled => Left::Released,
        };
        let same = left != Left::Expired && facts.execution.as_deref() == Some(execution);
        let attempts = if same { facts.attempts } else { 0 };
        // What takes the place of a result that has expired is a new one.
        let first_created = (left != Left::Expired).then_some(facts.created_at);
        Ok(Look::Free(Free { last: Some(record.revision), time, first_created, attempts, left }))
    }

    /// Claims the right to compute a result, for its next attempt. Returns `None` where somebody was
    /// faster.
    ///
    /// Once this returns a claim, nobody else has one on this key until the lease lapses or the claim
    /// is given back, and the attempt is counted.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn claim(&self, work: Work, free: &Free) -> Result<Option<Claim>, StoreError> {
        self.claim_beside(work, free, None).await
    }

    /// The same, with a write that is done beside it or not at all. Returns `None` also where the store has
    /// something else than that write expects.
    ///
    /// # Errors
    /// As [`claim`](Self::claim).
    pub async fn claim_beside(
        &self,
        work: Work,
        free: &Free,
        beside: Option<Write>,
    ) -> Result<Option<Claim>, StoreError> {
        let now = free.time.now();
        let facts = Facts {
            scope: Some(work.scope),
            step: Some(Arc::clone(&work.step)),
            execution: Some(Arc::clone(&work.execution)),
            module: Some(Arc::clone(&work.module)),
            attempts: free.attempts + 1,
            owner: Some(Arc::clone(&self.owner)),
            lease_until: Some(now.plus(self.lease)),
            // For a purge, should nobody ever end or ask for it again: it spares what somebody is at.
            expires_at: Some(now.plus(UNFINISHED_KEPT)),
            started_at: Some(now),
            detail: Some(Arc::clone(&work.detail)),
            ..Facts::new(Status::Running, Arc::clone(&work.tenant), free.first_created.unwrap_or(now))
        };
        let revision = Revision::after(free.last, now);
        let expect = free.last.map_or(Expect::Absent, Expect::Revision);
        let claim = Claim { work, facts, revision, time: free.time };
        let (kind, key, facts, body) = (Kind::Result, claim.key().clone(), claim.facts.clone(), Bytes::new());
        let record = Record { kind, key, revision, facts, body };
        let mut writes = vec![Write::Put { record, expect }];
        writes.extend(beside);
        match steady::commit(&*self.store, Batch { writes, sync: Sync::Later }).await {
            Ok(()) => Ok(Some(claim)),
            Err(error) if error.kind() == StoreErrorKind::Conflict => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Counts a further attempt under the same claim, before it begins.
    ///
    /// # Errors
    /// `Conflict` where the claim is lost; others where the store cannot be written.
    pub async fn again(&self, claim: &mut Claim) -> Result<(), StoreError> {
        let now = claim.time.now();
        let mut facts = claim.facts.clone();
        facts.attempts += 1;
        facts.lease_until = Some(now.plus(self.lease));
        let revision = Revision::after(Some(claim.revision), now);
        let expect = Expect::Revision(claim.revision);
        self.put(claim, &facts, Bytes::new(), expect, revision, Sync::Later).await?;
        claim.facts = facts;
        claim.revision = revision;
        Ok(())
    }

    /// Keeps the result.
    ///
    /// Once this returns `Ok`, the result is what every look finds until `ttl` has passed, it survives
    /// what the store survives, and no other claim on the key was completed in between.
    ///
    /// # Errors
    /// `Conflict` where the claim is lost: somebody else has computed or computes the result, and
    /// nothing was written. Others where the store cannot be written.
    pub async fn complete(
        &self,
        claim: &Claim,
        body: Bytes,
        ttl: Option<Duration>,
    ) -> Result<(), StoreError> {
        let now = claim.time.now();
        let mut facts = ended(&claim.facts, Status::Done, now);
        facts.expires_at = ttl.map(|ttl| now.plus(ttl));
        let revision = Revision::after(Some(claim.revision), now);
        self.put(claim, &facts, body, Expect::Revision(claim.revision), revision, Sync::Now).await
    }

    /// Notes that the work failed for good: whoever waits for it learns how, and the next to ask may
    /// try again.
    ///
    /// # Errors
    /// `Conflict` where the claim is lost; others where the store cannot be written.
    pub async fn fail(&self, claim: &Claim, failure: Bytes) -> Result<(), StoreError> {
        self.give_up(claim, Status::Failed, failure).await
    }

    /// Gives the claim back: the next to ask may claim at once.
    ///
    /// # Errors
    /// `Conflict` where the claim is lost; others where the store cannot be written.
    pub async fn release(&self, claim: &Claim) -> Result<(), StoreError> {
        self.give_up(claim, Status::Released, Bytes::new()).await
    }

    async fn give_up(&self, claim: &Claim, status: Status, body: Bytes) -> Result<(), StoreError> {
        let now = claim.time.now();
        let mut facts = ended(&claim.facts, status, now);
        facts.expires_at = Some(now.plus(UNFINISHED_KEPT));
        let revision = Revision::after(Some(claim.revision), now);
        self.put(claim, &facts, body, Expect::Revision(claim.revision), revision, Sync::Later).await
    }

    /// Returns the write that renews a claim by the whole lease, from now on.
    pub fn renewal(&self, claim: &Claim) -> Write {
        Write::Renew {
            kind: Kind::Result,
            key: claim.work.key.clone(),
            revision: claim.revision,
            lease_until: claim.time.now().plus(self.lease),
        }
    }

    async fn put(
        &self,
        claim: &Claim,
        facts: &Facts,
        body: Bytes,
        expect: Expect,
        revision: Revision,
        sync: Sync,
    ) -> Result<(), StoreError> {
        let key = claim.work.key.clone();
        let record = Record { kind: Kind::Result, key, revision, facts: facts.clone(), body };
        steady::commit(&*self.store, Batch { writes: vec![Write::Put { record, expect }], sync }).await
    }
}

/// Returns whether somebody is at a record: its lease holds, and its owner is not known to be gone.
pub(crate) fn is_held(facts: &Facts, now: crate::clock::Timestamp, store: &dyn Store) -> bool {
    facts.is_leased(now) && !facts.owner.as_deref().is_some_and(|owner| store.is_gone(owner))
}

fn ended(facts: &Facts, status: Status, now: crate::clock::Timestamp) -> Facts {
    Facts { status, lease_until: None, finished_at: Some(now), ..facts.clone() }
}
