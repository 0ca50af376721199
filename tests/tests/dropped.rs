//! Whoever drops an execution or a batch at any moment leaves nothing behind that others wait for: also not where a write
//! was under way, which the store carries out all the same. A lease is an hour long here.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]
#![expect(clippy::disallowed_methods, reason = "tests wait, and run things beside each other")]

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use docket_graph::Scope;
use docket_runtime::{BatchRequest, Execution, ExecutionId, Host, Request, RetryOptions, StepOptions};
use docket_store::{
    Abilities, Batch, Filter, Found, Kind, MemoryStore, Page, Query, Record, RecordKey, Status, Store,
    StoreError, Write,
};
use docket_tests::example::{UserId, UserProfile};
use docket_tests::{Setup, keeping, told};
use futures_util::stream;
use prost::Message as _;
use prost::bytes::Bytes;
use tokio::sync::Semaphore;

const LEASE: Duration = Duration::from_secs(3600);

/// How long a test waits for anything: far longer than that takes, and far shorter than a lease.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which batch is held up.
type IsHeldUp = dyn Fn(&Batch) -> bool + Send + Sync;

/// A store that holds one batch up until it is told, and writes it then even where nobody waits for that any more, as
/// stores do that write in a thread or on a server. Clones are one store.
#[derive(Clone)]
struct Gated {
    inner: Arc<dyn Store>,
    is_held_up: Arc<IsHeldUp>,
    /// Whether no batch was held up yet.
    waits: Arc<AtomicBool>,
    /// Whether the batch that is held up takes a lease.
    takes_lease: Arc<AtomicBool>,
    reached: Arc<Semaphore>,
    opened: Arc<Semaphore>,
}

impl Gated {
    fn new(is_held_up: impl Fn(&Batch) -> bool + Send + Sync + 'static) -> Self {
        let none = || Arc::new(Semaphore::new(0));
        let (inner, is_held_up) = (Arc::new(MemoryStore::new()), Arc::new(is_held_up));
        let (waits, takes_lease) = (Arc::new(AtomicBool::new(true)), Arc::default());
        Self { inner, is_held_up, waits, takes_lease, reached: none(), opened: none() }
    }

    /// Returns one that holds up the batch of this number, from 0.
    fn at(number: usize) -> Self {
        let seen = AtomicUsize::new(0);
        Self::new(move |_| seen.fetch_add(1, Ordering::SeqCst) == number)
    }

    /// Waits until a batch is held up.
    async fn reached(&self) {
        self.reached.acquire().await.unwrap().forget();
    }

    fn holds_up(&self) -> bool {
        !self.waits.load(Ordering::SeqCst)
    }

    fn open(&self) {
        self.opened.add_permits(1);
    }

    /// Returns what somebody is at.
    async fn under_way(&self) -> Vec<String> {
        let mut under_way = Vec::new();
        for kind in [Kind::Result, Kind::Execution] {
            let query = Query::Newest { kind, filter: Filter::default(), after: None };
            let records = self.inner.scan(&query, 10_000).await.unwrap().records;
            let running = records.into_iter().filter(|record| record.facts.status == Status::Running);
            under_way.extend(running.map(|record| format!("{} `{}`", kind.as_str(), record.key)));
        }
        under_way
    }
}

#[async_trait]
impl Store for Gated {
    fn abilities(&self) -> Abilities {
        self.inner.abilities()
    }

    async fn get(&self, kind: Kind, key: &RecordKey) -> Result<Found, StoreError> {
        self.inner.get(kind, key).await
    }

    async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        if self.holds_up() || !(self.is_held_up)(&batch) {
            return self.inner.commit(batch).await;
        }
        self.waits.store(false, Ordering::SeqCst);
        let takes_lease = puts(&batch).any(|record| record.facts.status == Status::Running);
        self.takes_lease.store(takes_lease, Ordering::SeqCst);
        self.reached.add_permits(1);
        let Self { inner, opened, .. } = self.clone();
        let written = tokio::spawn(async move {
            opened.acquire().await.unwrap().forget();
            inner.commit(batch).await
        });
        written.await.unwrap()
    }

    async fn scan(&self, query: &Query, limit: usize) -> Result<Page, StoreError> {
        self.inner.scan(query, limit).await
    }

    async fn changed(&self, kind: Kind, key: &RecordKey, most: Duration) {
        self.inner.changed(kind, key, most).await;
    }

    async fn sync(&self) -> Result<(), StoreError> {
        self.inner.sync().await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.inner.close().await
    }
}

/// Returns hosts on the store whose step is tried thrice.
fn setup(store: &Gated, scope: Scope) -> Setup {
    let retry = RetryOptions { max_attempts: NonZeroU32::new(3), ..RetryOptions::default() };
    let step = StepOptions { retry, ..keeping(scope, None) };
    let setup = Setup::new(&["obey"]).on(store.clone()).step("FetchProfile", step);
    setup.with(|options| options.lease = LEASE)
}

/// Waits for what is not to take long.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} takes too long"))
}

/// Checks that a host ends only once the write that is held up is written, where that takes a lease, and leaves nothing under way.
async fn check_shutdown(host: Host, store: &Gated) {
    let ends = tokio::spawn(host.shutdown(PATIENCE));
    tokio::time::sleep(Duration::from_millis(20)).await;
    let takes_lease = store.takes_lease.load(Ordering::SeqCst);
    assert!(!(takes_lease && ends.is_finished()), "the host waits for what takes a lease");
    store.open();
    let _ = soon("the end of the host", ends).await.unwrap();
    assert_eq!(store.under_way().await, Vec::<String>::new());
}

/// Drops an execution at each of its writes, and checks that the next one with the same request is done at once, on this
/// host and on another. Returns how many writes there are.
async fn check_each_write(scope: Scope, request: impl Fn() -> Request) -> usize {
    for number in 0.. {
        let store = Gated::at(number);
        let setup = setup(&store, scope);
        let host = setup.host().await;
        let first = host.start(request()).unwrap();
        let id = first.id().clone();
        let task = tokio::spawn(first.outcome());
        tokio::select! {
            () = store.reached() => {}
            () = async { while !task.is_finished() { tokio::time::sleep(Duration::from_millis(1)).await } } => {}
        }
        if !store.holds_up() {
            let _ = host.shutdown(PATIENCE).await;
            return number;
        }
        task.abort();
        // The end is written behind the outcome.
        let _ = task.await;
        let other = setup.host().await;
        check_shutdown(host, &store).await;
        let ended = |execution: Execution| async { soon("the next", execution.outcome()).await.unwrap() };
        let outcome = ended(other.start(request()).unwrap()).await;
        assert!(outcome.result.is_ok(), "after write {number}: {:?}", outcome.result);
        if soon("the journal", recorded(&store, &id)).await {
            let outcome = ended(other.resume(id)).await;
            assert!(outcome.result.is_ok(), "after write {number}: {:?}", outcome.result);
        }
        let _ = other.shutdown(PATIENCE).await;
        assert_eq!(store.under_way().await, Vec::<String>::new());
    }
    unreachable!("each execution has an end")
}

async fn recorded(store: &Gated, id: &ExecutionId) -> bool {
    let key = RecordKey::parse(&format!("default/{id}")).unwrap();
    store.get(Kind::Execution, &key).await.unwrap().record.is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_execution_that_is_dropped_at_any_write_leaves_nothing_that_others_wait_for() {
    let id = || ExecutionId::parse("x").unwrap();
    // Its module, itself, three attempts, the result, and the end.
    let writes = check_each_write(Scope::Workflow, || told("until-3").execution_id(id())).await;
    assert_eq!(writes, 7);
    // Under an id of its own it is written beside its first claim.
    let writes = check_each_write(Scope::Global, || told("until-3")).await;
    assert_eq!(writes, 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_one_that_is_dropped_while_it_claims_takes_over_once_that_is_given_back() {
    let store = Gated::new(|batch| puts(batch).any(|record| record.kind == Kind::Result));
    let setup = setup(&store, Scope::Global);
    let host = setup.host().await;
    let leader = tokio::spawn(host.start(told("user")).unwrap().outcome());
    soon("the claim", store.reached()).await;
    let followers: Vec<_> =
        (0..4).map(|_| tokio::spawn(host.start(told("user")).unwrap().outcome())).collect();
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    store.open();
    for follower in followers {
        let outcome = soon("a follower", follower).await.unwrap().unwrap();
        assert!(outcome.result.is_ok(), "{:?}", outcome.result);
    }
    assert_eq!(setup.starts("FetchProfile"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_dropped_while_its_progress_is_noted_is_gone_on_with_at_once() {
    let is_note = |record: &Record| {
        let detail = record.facts.detail.as_deref().unwrap_or_default();
        record.kind == Kind::Execution && detail.contains("\"items\":{")
    };
    let store = Gated::new(move |batch| puts(batch).any(is_note));
    let setup = setup(&store, Scope::Workflow);
    let host = setup.host().await;
    let item = |n: usize| Ok(Bytes::from(UserId { id: n.to_string() }.encode_to_vec()));
    let batch = |host: &Host| {
        let id = ExecutionId::parse("b").unwrap();
        let request = Request::for_message::<UserProfile>().execution_id(id);
        host.batch(BatchRequest::new(request), stream::iter((0..3000).map(item))).unwrap()
    };
    let mut first = batch(&host);
    soon("a note", async {
        tokio::select! {
            () = store.reached() => {}
            () = async { while first.next().await.is_some() {} } => panic!("it ends without a note"),
        }
    })
    .await;
    drop(first);
    let other = setup.host().await;
    check_shutdown(host, &store).await;
    let outcome = soon("the next", batch(&other).outcome()).await.unwrap();
    assert_eq!(outcome.items.done, 3000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_execution_that_is_dropped_on_a_thread_without_a_runtime_is_given_back_too() {
    let store = Gated::new(|_| false);
    let setup = setup(&store, Scope::Global);
    let host = setup.host().await;
    let mut execution = Box::pin(host.start(told("user-sleeps-60000")).unwrap().outcome());
    tokio::select! {
        outcome = &mut execution => panic!("{outcome:?}"),
        () = setup.recorder.until_started("FetchProfile", 1) => {}
    }
    std::thread::spawn(move || drop(execution)).join().unwrap();
    let _ = soon("the end of the host", host.shutdown(PATIENCE)).await;
    assert_eq!(store.under_way().await, Vec::<String>::new());
}

/// Returns the records that a batch puts.
fn puts(batch: &Batch) -> impl Iterator<Item = &Record> {
    batch.writes.iter().filter_map(|write| match write {
        Write::Put { record, .. } => Some(record),
        Write::Renew { .. } | Write::Delete { .. } => None,
    })
}
