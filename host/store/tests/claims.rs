//! Claims under every order of events: owners that look, claim, renew, finish, fail, leave and die while
//! time passes and purges run. A model beside the store says what each call must answer.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use docket_store::{
    Batch, Claim, Claims, Clock, Free, Kind, LEASE, Left, Look, MemoryStore, RecordKey, Revision, Scope,
    Status, Store, StoreError, StoreErrorKind, Sync, Timestamp, Work, purge,
};
use proptest::prelude::*;

#[derive(Clone)]
struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1_790_000_000_000)))
    }

    fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

fn store() -> (Arc<dyn Store>, ManualClock) {
    let clock = ManualClock::new();
    (Arc::new(MemoryStore::on(Arc::new(clock.clone()))), clock)
}

fn key(text: &str) -> RecordKey {
    RecordKey::parse(text).unwrap()
}

fn work(text: &str, execution: &str) -> Work {
    Work {
        key: key(text),
        tenant: "acme".into(),
        scope: Scope::Global,
        step: "Fetch".into(),
        execution: execution.into(),
        module: "c0ffee".into(),
        detail: "{}".into(),
    }
}

async fn free(claims: &Claims, text: &str, execution: &str) -> Free {
    match claims.look(&key(text), execution).await.unwrap() {
        Look::Free(free) => free,
        look => panic!("`{text}` is not free: {look:?}"),
    }
}

async fn claim(claims: &Claims, text: &str, execution: &str) -> Claim {
    let free = free(claims, text, execution).await;
    claims.claim(work(text, execution), &free).await.unwrap().unwrap()
}

#[track_caller]
fn refused(answer: Result<(), StoreError>) {
    assert_eq!(answer.unwrap_err().kind(), StoreErrorKind::Conflict);
}

#[tokio::test]
async fn a_lapsed_claim_can_do_nothing_once_another_has_taken_over() {
    let (store, clock) = store();
    let one = Claims::new(Arc::clone(&store), "one".into(), LEASE);
    let two = Claims::new(Arc::clone(&store), "two".into(), LEASE);
    let mut old = claim(&one, "k", "a").await;
    assert!(matches!(two.look(&key("k"), "b").await.unwrap(), Look::Busy(_)));
    clock.advance(LEASE + Duration::from_secs(1));
    let new = claim(&two, "k", "b").await;
    assert!(new.fence() > old.fence());
    refused(one.again(&mut old).await);
    refused(one.complete(&old, "old".into(), None).await);
    refused(one.fail(&old, "old".into()).await);
    refused(one.release(&old).await);
    let renewal = Batch { writes: vec![one.renewal(&old)], sync: Sync::Later };
    refused(store.commit(renewal).await);
    two.complete(&new, "new".into(), None).await.unwrap();
    refused(one.complete(&old, "old".into(), None).await);
    let Look::Kept(record) = one.look(&key("k"), "a").await.unwrap() else { panic!("it is kept") };
    assert_eq!(record.body, "new");
}

#[tokio::test]
async fn a_lapsed_claim_that_nobody_has_taken_can_still_be_completed() {
    let (store, clock) = store();
    let one = Claims::new(store, "one".into(), LEASE);
    let late = claim(&one, "k", "a").await;
    clock.advance(LEASE * 2);
    one.complete(&late, "late".into(), None).await.unwrap();
}

#[tokio::test]
async fn what_was_left_behind_says_why_and_counts_the_attempts_of_its_execution() {
    let (store, clock) = store();
    let one = Claims::new(Arc::clone(&store), "one".into(), LEASE);
    let check = async |left: Left, of_same: u32| {
        let found = free(&one, "k", "a").await;
        assert_eq!((&found.left, found.attempts), (&left, of_same));
        assert_eq!(free(&one, "k", "b").await.attempts, 0, "another execution counts for itself");
    };
    check(Left::Nothing, 0).await;
    let mut held = claim(&one, "k", "a").await;
    one.again(&mut held).await.unwrap();
    assert_eq!(held.attempt(), 2);
    one.fail(&held, "why".into()).await.unwrap();
    check(Left::Failed("why".into()), 2).await;
    let held = claim(&one, "k", "a").await;
    one.release(&held).await.unwrap();
    check(Left::Released, 3).await;
    let held = claim(&one, "k", "a").await;
    assert_eq!(held.attempt(), 4);
    clock.advance(LEASE + Duration::from_secs(1));
    check(Left::Lapsed, 4).await;
}

#[tokio::test]
async fn a_result_expires_for_others_and_never_for_the_execution_that_made_it() {
    let (store, clock) = store();
    let one = Claims::new(store, "one".into(), LEASE);
    let held = claim(&one, "k", "a").await;
    one.complete(&held, "body".into(), Some(Duration::from_secs(5))).await.unwrap();
    clock.advance(Duration::from_secs(6));
    assert!(matches!(one.look(&key("k"), "a").await.unwrap(), Look::Kept(_)));
    assert_eq!(free(&one, "k", "b").await.left, Left::Expired);
    let created_at = async || match one.look(&key("k"), "b").await.unwrap() {
        Look::Kept(record) => record.facts.created_at,
        look => panic!("it is not kept: {look:?}"),
    };
    let now = one.store().get(Kind::Result, &key("k")).await.unwrap().now;
    let held = claim(&one, "k", "b").await;
    one.complete(&held, "other".into(), Some(Duration::from_secs(5))).await.unwrap();
    assert_eq!(created_at().await, now, "it is as old as what was made last");
}

#[tokio::test]
async fn a_claim_that_was_left_behind_is_removed_a_day_later() {
    let (store, clock) = store();
    let one = Claims::new(Arc::clone(&store), "one".into(), LEASE);
    claim(&one, "k", "a").await;
    clock.advance(Duration::from_secs(23 * 3600));
    assert_eq!(purge(&*store).await.unwrap().results, 0);
    clock.advance(Duration::from_secs(2 * 3600));
    assert_eq!(purge(&*store).await.unwrap().results, 1);
}

/// What one of the owners, or the world, does.
#[derive(Clone, Copy, Debug)]
enum Event {
    Look,
    Claim,
    Again,
    Renew,
    Complete(Option<u16>),
    Fail,
    Release,
    Die,
    Pass(u32),
    Purge,
}

const OWNERS: usize = 3;
const KEYS: [&str; 2] = ["k", "l"];

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Look),
        6 => Just(Event::Claim),
        2 => Just(Event::Again),
        2 => Just(Event::Renew),
        3 => proptest::option::of(100..5_000_u16).prop_map(Event::Complete),
        1 => Just(Event::Fail),
        1 => Just(Event::Release),
        1 => Just(Event::Die),
        3 => (1..40_000_u32).prop_map(Event::Pass),
        // Beyond what is remembered of unfinished work.
        1 => Just(Event::Pass(90_000_000)),
        2 => Just(Event::Purge),
    ]
}

/// What is true of one key.
#[derive(Default)]
struct Truth {
    /// The fence of the claim that counts, until when nobody else gets one, and for whom.
    holder: Option<(Revision, Timestamp, usize)>,
    greatest: Revision,
    /// The result that counts: its bytes, until when, and whose.
    kept: Option<(Bytes, Option<Timestamp>, usize)>,
    /// The execution that was last at it, and with which attempt.
    last: Option<(usize, u32)>,
}

struct World {
    store: Arc<dyn Store>,
    clock: ManualClock,
    claims: Vec<Claims>,
    looked: HashMap<(usize, usize), Free>,
    held: HashMap<(usize, usize), Claim>,
    truth: [Truth; KEYS.len()],
    results: u32,
}

impl World {
    fn new() -> Self {
        let (store, clock) = store();
        let owner = |owner| Claims::new(Arc::clone(&store), format!("owner {owner}").into(), LEASE);
        let claims = (0..OWNERS).map(owner).collect();
        let (looked, held, truth, results) = Default::default();
        Self { store, clock, claims, looked, held, truth, results }
    }

    /// Returns whether the owner's claim on the key is the one that counts.
    fn holds(&self, owner: usize, k: usize) -> bool {
        let fence = self.held.get(&(owner, k)).map(Claim::fence);
        self.truth[k].holder.is_some_and(|(holder, ..)| Some(holder) == fence)
    }

    async fn happens(&mut self, owner: usize, k: usize, event: Event) {
        let execution = format!("execution-{owner}");
        let claims = self.claims[owner].clone();
        match event {
            Event::Look => match claims.look(&key(KEYS[k]), &execution).await.unwrap() {
                Look::Free(free) => {
                    let now = self.clock.now();
                    let kept = self.truth[k].kept.as_ref();
                    let good =
                        kept.filter(|(_, until, of)| *of == owner || until.is_none_or(|until| until > now));
                    assert!(good.is_none(), "a result was lost");
                    self.looked.insert((owner, k), free);
                }
                Look::Kept(record) => {
                    let (body, ..) = self.truth[k].kept.as_ref().expect("only what was completed is kept");
                    assert_eq!(record.body, body);
                }
                Look::Busy(_) => assert!(self.truth[k].holder.is_some(), "nobody is at it"),
            },
            Event::Claim => self.claim(owner, k).await,
            Event::Again => {
                let expected = self.holds(owner, k);
                let Some(claim) = self.held.get_mut(&(owner, k)) else { return };
                let before = claim.fence();
                let answer = claims.again(claim).await;
                assert_eq!(answer.is_ok(), expected, "{answer:?}");
                if expected {
                    let claim = claim.clone();
                    assert!(claim.fence() > before);
                    self.began(owner, k, &claim).await;
                }
            }
            Event::Renew => {
                let Some(claim) = self.held.get(&(owner, k)) else { return };
                let batch = Batch { writes: vec![claims.renewal(claim)], sync: Sync::Later };
                let answer = self.store.commit(batch).await;
                assert_eq!(answer.is_ok(), self.holds(owner, k), "{answer:?}");
                if answer.is_ok() {
                    let until = self.lease_in_store(k).await;
                    self.truth[k].holder.as_mut().unwrap().1 = until;
                }
            }
            Event::Complete(ttl) => {
                let expected = self.holds(owner, k);
                let Some(claim) = self.held.remove(&(owner, k)) else { return };
                self.results += 1;
                let body = Bytes::from(format!("result {}", self.results));
                let ttl = ttl.map(|millis| Duration::from_millis(millis.into()));
                let answer = claims.complete(&claim, body.clone(), ttl).await;
                assert_eq!(answer.is_ok(), expected, "{answer:?}");
                if expected {
                    let found = self.store.get(Kind::Result, &key(KEYS[k])).await.unwrap().record.unwrap();
                    self.truth[k].kept = Some((body, found.facts.expires_at, owner));
                    self.truth[k].holder = None;
                    self.truth[k].greatest = found.revision;
                }
            }
            Event::Fail | Event::Release => {
                let expected = self.holds(owner, k);
                let Some(claim) = self.held.remove(&(owner, k)) else { return };
                let answer = match event {
                    Event::Fail => claims.fail(&claim, "why".into()).await,
                    _ => claims.release(&claim).await,
                };
                assert_eq!(answer.is_ok(), expected, "{answer:?}");
                if expected {
                    self.truth[k].holder = None;
                }
            }
            Event::Die => {
                self.held.retain(|(of, _), _| *of != owner);
                self.looked.retain(|(of, _), _| *of != owner);
            }
            Event::Pass(millis) => {
                // A look knows how much time has passed since by the machine's clock, which this one leaves
                // behind: whoever has looked looks again.
                self.looked.clear();
                self.clock.advance(Duration::from_millis(millis.into()));
            }
            Event::Purge => self.purge().await,
        }
    }

    async fn claim(&mut self, owner: usize, k: usize) {
        let Some(free) = self.looked.remove(&(owner, k)) else { return };
        let work = work(KEYS[k], &format!("execution-{owner}"));
        let Some(claim) = self.claims[owner].claim(work, &free).await.unwrap() else { return };
        let now = self.clock.now();
        let truth = &mut self.truth[k];
        // By the look, that is: what was free then, and has not changed since.
        assert!(truth.holder.is_none_or(|(_, until, _)| until <= now), "two are at it");
        if let Some((_, until, of)) = truth.kept.take() {
            assert!(of != owner && until.is_some_and(|until| until <= now), "a result was overwritten");
        }
        assert!(claim.fence() > truth.greatest, "{} is not above {}", claim.fence(), truth.greatest);
        self.began(owner, k, &claim).await;
        self.held.insert((owner, k), claim);
    }

    /// Notes that an attempt has begun under the claim that counts now.
    async fn began(&mut self, owner: usize, k: usize, claim: &Claim) {
        let until = self.lease_in_store(k).await;
        let truth = &mut self.truth[k];
        truth.greatest = claim.fence();
        truth.holder = Some((claim.fence(), until, owner));
        if let Some((of, attempt)) = truth.last.filter(|(of, _)| *of == owner) {
            assert_eq!(claim.attempt(), attempt + 1, "of execution-{of}");
        }
        truth.last = Some((owner, claim.attempt()));
    }

    async fn lease_in_store(&self, k: usize) -> Timestamp {
        let found = self.store.get(Kind::Result, &key(KEYS[k])).await.unwrap().record.unwrap();
        assert_eq!(found.facts.status, Status::Running);
        found.facts.lease_until.unwrap()
    }

    async fn purge(&mut self) {
        purge(&*self.store).await.unwrap();
        let now = self.clock.now();
        for (k, truth) in self.truth.iter_mut().enumerate() {
            let found = self.store.get(Kind::Result, &key(KEYS[k])).await.unwrap().record;
            if let Some((fence, until, _)) = truth.holder {
                assert!(
                    until <= now || found.as_ref().is_some_and(|found| found.revision == fence),
                    "held, and removed"
                );
            }
            if let Some((_, until, _)) = &truth.kept {
                assert!(found.is_some() || until.is_some_and(|until| until <= now), "good, and removed");
            }
            if found.is_none() {
                let greatest = truth.greatest;
                *truth = Truth { greatest, ..Truth::default() };
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn in_any_order_of_events_one_result_counts_fences_grow_and_nothing_is_lost(
        events in proptest::collection::vec((0..OWNERS, 0..KEYS.len(), event()), 1..120)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            for (owner, k, event) in events {
                world.happens(owner, k, event).await;
            }
        });
    }
}
