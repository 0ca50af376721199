//! Owns what a host has of a store: its name there, its leases, which it renews while work goes on,
//! and the handles that give back what they hold when they are dropped. Never decides what is kept.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use docket_store::{
    Batch, Claim, Claims, Held, Journal, Store, StoreError, StoreErrorKind, Sync, Write, purge, purge_expired,
};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::background::Background;
use crate::clock;
use crate::failure::StepFailure;
use crate::flight::{Flights, Landing, Lead};
use crate::stored;
use crate::value::Value;

/// How many leases are renewed in one batch.
const RENEWED_AT_ONCE: usize = 256;

/// A lease is renewed this many times before it would lapse, so that one missed renewal costs nothing.
const RENEWALS_PER_LEASE: u32 = 3;

/// How often a host that goes on removes what has expired. Readers do not see it in between, so this
/// is only about space.
const PURGE_EVERY: Duration = Duration::from_secs(600);

/// How many expired records a host removes at most when it is closed: a process that lives for a
/// moment should do its share and not keep its user waiting.
const PURGED_AT_CLOSE: u64 = 500;

/// How long a host counts on a module that it has seen in the store. A purge spares modules that were
/// asked for within a day.
const MODULE_KNOWN: Duration = Duration::from_secs(6 * 3600);

/// What a host has of a store.
pub(crate) struct Keeping {
    pub(crate) claims: Claims,
    pub(crate) journal: Journal,
    pub(crate) tenant: Arc<str>,
    /// For how long an execution is remembered once it has ended.
    pub(crate) retention: Duration,
    pub(crate) flights: Flights,
    leases: Arc<Leases>,
    /// The renewer, and whatever was still to be written when a handle was dropped.
    pub(crate) background: Background,
    closing: CancellationToken,
    /// The modules that are in the store, by digest, and when that was seen.
    modules: Mutex<HashMap<String, Instant>>,
}

/// What a [`Keeping`] is made of.
pub(crate) struct KeepingParts {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) tenant: Arc<str>,
    pub(crate) lease: Duration,
    pub(crate) retention: Duration,
}

impl Keeping {
    /// Returns a new owner on the store, and begins to renew its leases.
    pub(crate) fn new(parts: KeepingParts) -> Arc<Self> {
        let KeepingParts { store, tenant, lease, retention } = parts;
        let name = crate::execution_id::ExecutionId::new();
        let owner = docket_store::owner(&*store, name.as_str());
        let keeping = Arc::new(Self {
            claims: Claims::new(Arc::clone(&store), Arc::clone(&owner), lease),
            journal: Journal::new(Arc::clone(&store), owner, lease),
            tenant,
            retention,
            flights: Flights::default(),
            leases: Arc::default(),
            background: Background::new(),
            closing: CancellationToken::new(),
            modules: Mutex::default(),
        });
        let leases = Arc::clone(&keeping.leases);
        let (claims, journal) = (keeping.claims.clone(), keeping.journal.clone());
        let closing = keeping.closing.clone();
        keeping.background.spawn(async move {
            closing.run_until_cancelled(leases.renew_for_ever(&claims, &journal)).await;
        });
        let (closing, store) = (keeping.closing.clone(), Arc::clone(keeping.store()));
        keeping.background.spawn(async move {
            closing.run_until_cancelled(purge_for_ever(&*store)).await;
        });
        keeping
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        self.claims.store()
    }

    /// Takes the claim and the leadership of its flight.
    pub(crate) fn hold(self: &Arc<Self>, claim: Claim, lead: Lead) -> Hold {
        let attempt = claim.attempt();
        let claim = Arc::new(AsyncMutex::new(claim));
        let lease = self.leases.add(Of::Claim(Arc::clone(&claim)), CancellationToken::new());
        Hold { keeping: Arc::clone(self), claim, lease, lead: Some(lead), attempt }
    }

    /// Renews the lease of an execution until the returned one is dropped; cancels `lost` once it is lost.
    pub(crate) fn lease_of(&self, held: &Arc<AsyncMutex<Held>>, lost: CancellationToken) -> Lease {
        self.leases.add(Of::Execution(Arc::clone(held)), lost)
    }

    /// Makes sure that the store has a module.
    pub(crate) async fn keep_module(&self, digest: &str, bytes: &Bytes) -> Result<(), StoreError> {
        let known = self.modules().get(digest).copied();
        if known.is_some_and(|seen| clock::now().duration_since(seen) < MODULE_KNOWN) {
            return Ok(());
        }
        self.journal.keep_module(digest, bytes).await?;
        self.modules().insert(digest.to_owned(), clock::now());
        Ok(())
    }

    fn modules(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.modules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what is still to be written, stops renewing, and removes some of what has expired.
    pub(crate) async fn close(&self) {
        self.closing.cancel();
        self.background.close().await;
        if let Err(error) = purge_expired(&**self.store(), PURGED_AT_CLOSE).await {
            tracing::debug!(%error, "what has expired could not be removed");
        }
    }
}

async fn purge_for_ever(store: &dyn Store) {
    loop {
        clock::sleep_until(clock::deadline(clock::now(), PURGE_EVERY)).await;
        match purge(store).await {
            Ok(purged) => tracing::debug!(?purged, "removed what has expired"),
            Err(error) => tracing::warn!(%error, "what has expired could not be removed"),
        }
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

/// The right to compute one result, and the lead of its flight. Given back when dropped.
pub(crate) struct Hold {
    keeping: Arc<Keeping>,
    claim: Arc<AsyncMutex<Claim>>,
    lease: Lease,
    /// None once it has ended.
    lead: Option<Lead>,
    attempt: u32,
}

impl Hold {
    /// Returns the number of the attempt under way.
    pub(crate) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Waits until the claim is lost: somebody else may be at the work.
    pub(crate) async fn lost(&self) {
        self.lease.lost.cancelled().await;
    }

    /// Counts a further attempt, before it begins.
    ///
    /// # Errors
    /// As [`Claims::again`]; the claim is given back then.
    ///
    /// # Cancel safety
    /// A dropped call counts the attempt, and then gives the claim back.
    pub(crate) async fn again(self) -> Result<Self, StoreError> {
        let keeping = Arc::clone(&self.keeping);
        keeping.background.carry("a further attempt", self.counted()).await
    }

    async fn counted(mut self) -> Result<Self, StoreError> {
        {
            let mut claim = self.claim.lock().await;
            self.keeping.claims.again(&mut claim).await?;
            self.attempt = claim.attempt();
        }
        self.lease.renewed();
        Ok(self)
    }

    /// Keeps the result, and tells who follows.
    ///
    /// # Errors
    /// As [`Claims::complete`].
    pub(crate) async fn complete(
        &mut self,
        value: &Arc<Value>,
        ttl: Option<Duration>,
    ) -> Result<(), StoreError> {
        let body = stored::encode_value(value);
        {
            let claim = self.claim.lock().await;
            self.keeping.claims.complete(&claim, body, ttl).await?;
        }
        if let Some(lead) = self.lead.take() {
            lead.land(Landing::Kept(Arc::clone(value)));
        }
        Ok(())
    }

    /// Ends the work without a result: notes it in the store, then tells who follows. Until the
    /// returned task has ended, whoever asks for the result still gets this failure.
    pub(crate) fn failed(mut self, failure: &StepFailure) -> Option<JoinHandle<()>> {
        let lead = self.lead.take()?;
        let (claim, claims) = (Arc::clone(&self.claim), self.keeping.claims.clone());
        let failure = failure.clone();
        Some(self.keeping.background.later("a failure", async move {
            let noted = claims.fail(&*claim.lock().await, stored::encode_failure(&failure)).await;
            lead.land(Landing::Failed(failure));
            noted
        }))
    }

    /// Ends the work after another has it: nothing is to be given back.
    pub(crate) fn superseded(mut self) {
        self.lead = None;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(lead) = self.lead.take() {
            let (claim, claims) = (Arc::clone(&self.claim), self.keeping.claims.clone());
            self.keeping.background.later("a claim that was given back", async move {
                // Who follows may claim once the store says that it is free.
                let _lead = lead;
                claims.release(&*claim.lock().await).await
            });
        }
    }
}

/// What a lease is of.
#[derive(Clone)]
enum Of {
    Claim(Arc<AsyncMutex<Claim>>),
    Execution(Arc<AsyncMutex<Held>>),
}

/// A lease that is being renewed until this is dropped.
pub(crate) struct Lease {
    leases: Arc<Leases>,
    id: u64,
    lost: CancellationToken,
}

impl Lease {
    /// Notes that what it is of has just been written, which renews it.
    pub(crate) fn renewed(&self) {
        self.leases.renewed(self.id);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.lock().remove(&self.id);
    }
}

/// All leases of a host.
#[derive(Default)]
struct Leases {
    next: AtomicU64,
    under_way: Mutex<HashMap<u64, Leased>>,
}

#[derive(Clone)]
struct Leased {
    of: Of,
    lost: CancellationToken,
    renewed: Instant,
}

/// A renewal that is about to be written. While it is, nobody else writes the record.
struct Renewal {
    id: u64,
    lost: CancellationToken,
    renewed: Instant,
    write: Write,
    guard: Guard,
}

enum Guard {
    Claim { _guard: OwnedMutexGuard<Claim> },
    Execution { _guard: OwnedMutexGuard<Held> },
}

impl Leases {
    fn add(self: &Arc<Self>, of: Of, lost: CancellationToken) -> Lease {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(id, Leased { of, lost: lost.clone(), renewed: clock::now() });
        Lease { leases: Arc::clone(self), id, lost }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Leased>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn renew_for_ever(&self, claims: &Claims, journal: &Journal) {
        let pause = claims.lease() / RENEWALS_PER_LEASE;
        loop {
            clock::sleep_until(clock::deadline(clock::now(), pause)).await;
            let mut due = self.due(claims, journal);
            while !due.is_empty() {
                let some = due.split_off(due.len().saturating_sub(RENEWED_AT_ONCE));
                self.renew(claims, some).await;
            }
        }
    }

    /// Returns what is to be renewed. A record that is just being written is left out: writing it
    /// renews it too, or ends it.
    fn due(&self, claims: &Claims, journal: &Journal) -> Vec<Renewal> {
        let under_way: Vec<(u64, Leased)> =
            self.lock().iter().map(|(id, leased)| (*id, leased.clone())).collect();
        let renewal = |(id, Leased { of, lost, renewed })| {
            let (write, guard) = match of {
                Of::Claim(claim) => {
                    let guard = claim.try_lock_owned().ok()?;
                    (claims.renewal(&guard), Guard::Claim { _guard: guard })
                }
                Of::Execution(held) => {
                    let guard = held.try_lock_owned().ok()?;
                    (journal.renewal(&guard), Guard::Execution { _guard: guard })
                }
            };
            Some(Renewal { id, lost, renewed, write, guard })
        };
        under_way.into_iter().filter_map(renewal).collect()
    }

    async fn renew(&self, claims: &Claims, renewals: Vec<Renewal>) {
        let writes = renewals.iter().map(|renewal| renewal.write.clone()).collect();
        match commit_in_time(claims, writes).await {
            Ok(()) => renewals.iter().for_each(|renewal| self.renewed(renewal.id)),
            // Some record is no longer ours; one by one it shows which.
            Err(error) if error.kind() == StoreErrorKind::Conflict => {
                for renewal in &renewals {
                    let renewed = commit_in_time(claims, vec![renewal.write.clone()]).await;
                    self.note(claims, renewal, renewed);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "leases could not be renewed; trying again");
                renewals.iter().for_each(|renewal| self.note(claims, renewal, Err(error.clone())));
            }
        }
    }

    fn note(&self, claims: &Claims, renewal: &Renewal, renewed: Result<(), StoreError>) {
        // Another may have the claim once its lease has lapsed, and two would be at the work. Two may
        // well carry out one execution: each of its kept steps has a claim of its own.
        let unsure = match &renewal.guard {
            Guard::Claim { .. } => clock::now().duration_since(renewal.renewed) >= claims.lease(),
            Guard::Execution { .. } => false,
        };
        match renewed {
            Ok(()) => self.renewed(renewal.id),
            Err(error) if error.kind() == StoreErrorKind::Conflict || unsure => renewal.lost.cancel(),
            Err(_) => {}
        }
    }

    fn renewed(&self, id: u64) {
        if let Some(leased) = self.lock().get_mut(&id) {
            leased.renewed = clock::now();
        }
    }
}

/// Writes renewals, and does not wait for a store that hangs until the leases have lapsed.
async fn commit_in_time(claims: &Claims, writes: Vec<Write>) -> Result<(), StoreError> {
    let most = claims.lease() / RENEWALS_PER_LEASE;
    tokio::select! {
        biased;
        committed = claims.store().commit(Batch { writes, sync: Sync::Later }) => committed,
        () = clock::sleep_until(clock::deadline(clock::now(), most)) => {
            Err(StoreError::new(StoreErrorKind::Unknown, "the store does not answer"))
        }
    }
}
