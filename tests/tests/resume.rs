//! Executions as records: what is written before the first step, what a second request of the same id
//! gets, and how an execution goes on after its process has died.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]
#![expect(clippy::disallowed_methods, reason = "tests wait, and run things beside each other")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use docket_graph::Scope;
use docket_runtime::{
    ErrorKind, Event, ExecutionError, ExecutionId, ExecutionOutcome, Host, Observer, Outcome, RequestError,
    StepOptions, StepOutcome,
};
use docket_store::{
    Entry, Filter, Journal, Kind, MemoryStore, Query, Record, RecordKey, Status, Store, purge,
};
use docket_tests::example::UserProfile;
use docket_tests::{ManualClock, Meddled, Setup, execute, keeping, patched, replaced, told, unavailable};

const LEASE: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn id(text: &str) -> ExecutionId {
    ExecutionId::parse(text).unwrap()
}

/// Two steps, of which both keep their results.
fn chain() -> Setup {
    Setup::new(&["first", "second"])
        .step("First", keeping(Scope::Workflow, None))
        .step("Second", keeping(Scope::Workflow, None))
}

fn journal(setup: &Setup) -> Journal {
    Journal::new(Arc::clone(&setup.store), "a test".into(), LEASE)
}

async fn read(setup: &Setup, id: &str) -> Entry {
    journal(setup).read("default", id).await.unwrap().unwrap_or_else(|| panic!("`{id}` is not recorded"))
}

async fn all(store: &dyn Store, kind: Kind) -> Vec<Record> {
    let query = Query::Newest { kind, filter: Filter::default(), after: None };
    store.scan(&query, 1000).await.unwrap().records
}

fn name(outcome: Outcome) -> String {
    outcome.message::<UserProfile>().unwrap_or_else(|error| panic!("{error}")).name
}

/// A store on a clock that is set by hand, beside a way to it that a process has until it dies.
struct Mortal {
    setup: Setup,
    clock: ManualClock,
    dead: Arc<AtomicBool>,
}

impl Mortal {
    fn new(setup: Setup) -> Self {
        let clock = ManualClock::new();
        let setup = setup.on(MemoryStore::on(Arc::new(clock.clone())));
        Self { setup, clock, dead: Arc::default() }
    }

    /// Begins an execution in a process that dies once the step has started so many times.
    async fn die_in(&self, request: docket_runtime::Request, step: &str, times: usize) {
        let dead = Arc::clone(&self.dead);
        dead.store(false, Ordering::SeqCst);
        let ask = move |_: docket_tests::StoreCall<'_>| {
            if dead.load(Ordering::SeqCst) { Err(unavailable()) } else { Ok(()) }
        };
        let store = Arc::new(Meddled::new(Arc::clone(&self.setup.store), ask));
        let host = Setup { store, ..self.setup.clone() }.host().await;
        let execution = tokio::spawn(async move { execute(&host, request).await });
        self.setup.recorder.until_started(step, times).await;
        self.dead.store(true, Ordering::SeqCst);
        execution.abort();
        assert!(execution.await.unwrap_err().is_cancelled());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_execution_is_recorded_with_its_modules_before_its_first_step_starts() {
    /// Looks into the store when the first attempt starts.
    struct Looks(Setup, Mutex<Option<(Status, Vec<u8>, usize)>>);
    impl Observer for Looks {
        fn on_event(&self, id: &ExecutionId, event: &Event<'_>) {
            if let Event::AttemptStarted { attempt: 1, .. } = event {
                // The store in memory never waits.
                let entry = now(read(&self.0, id.as_str()));
                let modules = now(all(&*self.0.store, Kind::Module));
                self.1.lock().unwrap().get_or_insert((
                    entry.facts.status,
                    entry.request.to_vec(),
                    modules.len(),
                ));
            }
        }
    }
    fn now<T>(future: impl Future<Output = T>) -> T {
        futures_util::FutureExt::now_or_never(future).expect("it does not wait")
    }
    let setup = chain();
    let looks = Arc::new(Looks(setup.clone(), Mutex::default()));
    let builder =
        Host::builder().options(setup.options.clone()).store(setup.store.clone()).observer(looks.clone());
    let host =
        setup.modules.iter().fold(builder, |builder, (name, bytes)| builder.module(name, bytes.clone()));
    let host = host.build().await.unwrap();
    execute(&host, told("user").execution_id(id("order-42"))).await.result.unwrap();
    let seen = looks.1.lock().unwrap().take().unwrap();
    assert_eq!(seen.0, Status::Running);
    assert!(seen.1.windows(4).any(|part| part == b"user"), "the input is there");
    assert_eq!(seen.2, 2, "both modules are there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_again_returns_the_recorded_outcome_and_another_is_a_conflict() {
    let setup = chain();
    let host = setup.host().await;
    let first = execute(&host, told("user").execution_id(id("good"))).await;
    let failed = execute(&host, told("user-fails").execution_id(id("bad"))).await;
    let starts = setup.recorder.lines().len();
    for host in [host, setup.host().await] {
        let again = execute(&host, told("user").execution_id(id("good"))).await;
        assert_eq!(format!("{:?}", again.report.steps), format!("{:?}", rounded(&first).steps));
        assert_eq!(
            again.result.as_ref().unwrap().payloads()[0].bytes(),
            first.result.as_ref().unwrap().payloads()[0].bytes()
        );
        let again = execute(&host, told("user-fails").execution_id(id("bad"))).await;
        assert_eq!(again.report.outcome, ExecutionOutcome::Failed);
        let error = again.result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Guest);
        assert_eq!(error.to_string(), failed.report.error.clone().unwrap());

        let error = host.execute(told("another").execution_id(id("good"))).await.unwrap_err();
        assert!(matches!(error, RequestError::Conflict { .. }), "{error}");
        assert_eq!(
            error.to_string(),
            "the execution id `good` belongs to another request; choose another id"
        );
    }
    assert_eq!(setup.recorder.lines().len(), starts, "nothing has run");
}

/// Returns the report as it comes back from its JSON: times with three decimals of a millisecond.
fn rounded(outcome: &Outcome) -> docket_runtime::Report {
    let micros = |time: Duration| Duration::from_micros(time.as_micros() as u64);
    let mut report = outcome.report.clone();
    report.elapsed = micros(report.elapsed);
    for attempt in report.steps.iter_mut().flat_map(|step| &mut step.attempts) {
        attempt.elapsed = micros(attempt.elapsed);
        attempt.started_after = micros(attempt.started_after);
    }
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashed_execution_goes_on_after_its_lease_without_running_committed_steps_again() {
    let mortal = Mortal::new(chain());
    let started = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
    let request = || told("user-naps-60000").execution_id(id("order-42")).started_at(started);
    mortal.die_in(request(), "Second", 1).await;
    let Mortal { setup, clock, .. } = &mortal;
    assert_eq!(read(setup, "order-42").await.facts.status, Status::Running, "its lease still holds");
    clock.advance(LEASE + Duration::from_secs(1));
    assert_eq!(read(setup, "order-42").await.facts.status, Status::Interrupted);

    let outcome = setup.host().await.resume(id("order-42")).outcome().await.unwrap();
    let steps = &outcome.report.steps;
    assert_eq!((steps[0].outcome, steps[1].outcome), (StepOutcome::Cached, StepOutcome::Done));
    assert_eq!(steps[1].attempts[0].attempt, 2);
    assert_eq!((setup.starts("First"), setup.starts("Second")), (1, 2));
    assert_eq!(outcome.report.started_at_ms, 1_700_000_000_123);
    assert_eq!(name(outcome), "attempt=2 started=1700000000123", "steps see the first start");

    let again = execute(&setup.host().await, request()).await;
    assert_eq!(name(again), "attempt=2 started=1700000000123");
    assert_eq!(setup.starts("Second"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_goes_on_with_a_crashed_execution_too() {
    let mortal = Mortal::new(chain());
    let request = || told("user-naps-60000").execution_id(id("order-42"));
    mortal.die_in(request(), "Second", 1).await;
    mortal.clock.advance(LEASE + Duration::from_secs(1));
    let outcome = execute(&mortal.setup.host().await, request()).await;
    assert!(name(outcome).starts_with("attempt=2 "));
    assert_eq!((mortal.setup.starts("First"), mortal.setup.starts("Second")), (1, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_execution_whose_process_is_gone_is_free_before_its_lease_lapses() {
    let mortal = Mortal::new(chain());
    mortal.die_in(told("user-naps-60000").execution_id(id("order-42")), "Second", 1).await;
    let alone = Meddled::new(Arc::clone(&mortal.setup.store), |_| Ok(())).without_owners();
    let setup = mortal.setup.clone().on(alone);
    let outcome = setup.host().await.resume(id("order-42")).outcome();
    let outcome = tokio::time::timeout(Duration::from_secs(5), outcome).await.expect("at once").unwrap();
    assert!(name(outcome).starts_with("attempt=2 "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_count_on_over_every_crash_and_the_idempotency_key_stays() {
    let mortal = Mortal::new(Setup::new(&["obey"]).step("FetchProfile", keeping(Scope::Workflow, None)));
    let request = || told("user-until-4-naps-1-sleeps-100").execution_id(id("order-42"));
    // Each process fails at its one attempt, and so does the execution; each is gone on with.
    let mut keys = Vec::new();
    for attempt in 1..=3 {
        let host = mortal.setup.host().await;
        let outcome = match attempt {
            1 => execute(&host, request()).await,
            _ => host.resume(id("order-42")).outcome().await.unwrap(),
        };
        let Err(ExecutionError::Failed { attempts, .. }) = outcome.result else { panic!("{outcome:?}") };
        assert_eq!(attempts, attempt);
        keys.push(outcome.report.steps[0].key.clone().unwrap());
    }
    let outcome = mortal.setup.host().await.resume(id("order-42")).outcome().await.unwrap();
    keys.push(outcome.report.steps[0].key.clone().unwrap());
    keys.dedup();
    let [key] = &keys[..] else { panic!("{keys:?}") };
    let name = name(outcome);
    assert!(name.starts_with(&format!("key={key} attempt=4 ")), "{name}");
}

/// Returns what a guest says of one thing, such as `key`.
fn said<'a>(words: &'a str, what: &str) -> &'a str {
    let part = words.split(' ').find_map(|part| part.strip_prefix(what)?.strip_prefix('='));
    part.unwrap_or_else(|| panic!("nothing is said of {what}: {words}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_idempotency_key_and_chance_are_the_same_after_a_crash_and_differ_between_inputs_and_tenants() {
    let setup = Setup::new(&["obey"]).step("FetchProfile", keeping(Scope::Global, None));
    let mortal = Mortal::new(setup.clone());
    mortal.die_in(told("user-sleeps-300").execution_id(id("one")), "FetchProfile", 1).await;
    mortal.clock.advance(LEASE + Duration::from_secs(1));
    let resumed = name(mortal.setup.host().await.resume(id("one")).outcome().await.unwrap());
    let undisturbed = name(execute(&setup.host().await, told("user-sleeps-300")).await);
    assert_eq!((said(&resumed, "attempt"), said(&undisturbed, "attempt")), ("2", "1"));
    for what in ["key", "chance"] {
        assert_eq!(said(&resumed, what), said(&undisturbed, what), "{what}");
    }
    let acme = setup.clone().with(|options| options.tenant = "acme".to_owned());
    let input = name(execute(&setup.host().await, told("user-sleeps-301")).await);
    let tenant = name(execute(&acme.host().await, told("user-sleeps-300")).await);
    for what in ["key", "chance"] {
        let different = [&undisturbed, &input, &tenant].map(|words| said(words, what));
        let different = std::collections::BTreeSet::from(different);
        assert_eq!(different.len(), 3, "{what}: {different:?}");
    }
    for words in [&undisturbed, &input, &tenant] {
        let key = RecordKey::parse(said(words, "key")).unwrap();
        let found = setup.store.get(Kind::Result, &key).await.unwrap().record;
        assert_eq!(
            found.unwrap().facts.status,
            Status::Done,
            "the record has the key that the guest was told"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_execution_is_resumed_with_the_very_modules_it_began_with() {
    let mortal = Mortal::new(chain());
    mortal.die_in(told("user-naps-60000").execution_id(id("order-42")), "Second", 1).await;
    mortal.clock.advance(LEASE + Duration::from_secs(1));
    // The live modules have other digests, and the second answers with other words.
    let mut later = mortal.setup.clone().first_module(replaced);
    later.modules[1].1 = patched(&later.modules[1].1, "attempt=", "ATTEMPT=");
    let host = later.host().await;
    let outcome = host.resume(id("order-42")).outcome().await.unwrap();
    assert_eq!(outcome.report.steps[0].outcome, StepOutcome::Cached);
    assert!(name(outcome).starts_with("attempt=2 "));
    let outcome = execute(&host, told("user").execution_id(id("order-43"))).await;
    assert!(name(outcome).starts_with("ATTEMPT=1 "), "new ones run the live modules");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_resumed_is_said_by_name() {
    let setup = chain();
    let host = setup.host().await;
    let error = host.resume(id("nobody")).outcome().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.to_string(), "no execution `nobody` is recorded; only executions that keep results are");
    let mortal = Mortal::new(chain());
    mortal.die_in(told("user-naps-60000").execution_id(id("order-42")), "Second", 1).await;
    mortal.clock.advance(LEASE + Duration::from_secs(1));
    for module in all(&*mortal.setup.store, Kind::Module).await {
        let writes = vec![docket_store::Write::Delete {
            kind: Kind::Module,
            key: module.key,
            expect: docket_store::Expect::Any,
        }];
        let batch = docket_store::Batch { writes, sync: docket_store::Sync::Later };
        mortal.setup.store.commit(batch).await.unwrap();
    }
    let host = mortal.setup.clone().first_module(replaced).host().await;
    let error = host.resume(id("order-42")).outcome().await.unwrap_err();
    assert!(matches!(&error, RequestError::NoModule { module, .. } if module == "first.wasm"), "{error}");
    let outcome = mortal.setup.host().await.resume(id("order-42")).outcome().await.unwrap();
    outcome.result.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interrupted_executions_are_left_for_whoever_resumes_them() {
    let setup = chain();
    let host = setup.host().await;
    // By its deadline, by its caller's leaving, and by the host's end.
    let late = told("user-naps-60000").execution_id(id("late")).timeout(Duration::from_millis(500));
    let late = execute(&host, late).await;
    assert_eq!(late.report.outcome, ExecutionOutcome::DeadlineExceeded);
    let left = {
        let host = host.clone();
        tokio::spawn(async move { execute(&host, told("user-naps-60001").execution_id(id("left"))).await })
    };
    setup.recorder.until_started("Second", 2).await;
    left.abort();
    let _ = left.await;
    let stopped = {
        let host = host.clone();
        tokio::spawn(async move { execute(&host, told("user-naps-60002").execution_id(id("stopped"))).await })
    };
    setup.recorder.until_started("Second", 3).await;
    let _ = host.shutdown(Duration::from_millis(50)).await;
    assert_eq!(stopped.await.unwrap().report.outcome, ExecutionOutcome::Shutdown);

    let host = setup.host().await;
    for text in ["late", "left", "stopped"] {
        assert_eq!(read(&setup, text).await.facts.status, Status::Interrupted, "{text}");
        let outcome = host.resume(id(text)).outcome().await.unwrap();
        assert_eq!(outcome.report.steps[0].outcome, StepOutcome::Cached, "{text}");
        assert!(name(outcome).starts_with("attempt=2 "), "{text}");
        let entry = read(&setup, text).await;
        assert_eq!((entry.facts.status, entry.facts.attempts), (Status::Done, 2), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_execution_is_stopped_through_the_journal() {
    let setup = chain().with(|options| options.lease = Duration::from_secs(1));
    let host = setup.host().await;
    let execution = {
        let host = host.clone();
        tokio::spawn(
            async move { execute(&host, told("user-naps-60000").execution_id(id("order-42"))).await },
        )
    };
    setup.recorder.until_started("Second", 1).await;
    let attached = tokio::spawn({
        let host = setup.host().await;
        async move { execute(&host, told("user-naps-60000").execution_id(id("order-42"))).await }
    });
    let before = journal(&setup).cancel("default", "order-42").await.unwrap().unwrap();
    assert_eq!(before.facts.status, Status::Running);
    let outcome =
        tokio::time::timeout(Duration::from_secs(2), execution).await.expect("within the lease").unwrap();
    assert_eq!(outcome.report.outcome, ExecutionOutcome::Cancelled);
    assert_eq!(outcome.report.steps[1].outcome, StepOutcome::Cancelled);
    let attached =
        tokio::time::timeout(Duration::from_secs(3), attached).await.expect("it learns too").unwrap();
    assert_eq!(attached.report.outcome, ExecutionOutcome::Cancelled);
    assert_eq!(read(&setup, "order-42").await.facts.status, Status::Cancelled);
    // Asking again tells so; resuming goes on.
    let again = execute(&host, told("user-naps-60000").execution_id(id("order-42"))).await;
    assert_eq!(again.report.outcome, ExecutionOutcome::Cancelled);
    let outcome = host.resume(id("order-42")).outcome().await.unwrap();
    assert!(name(outcome).starts_with("attempt=2 "));
    assert_eq!(setup.starts("First"), 1);
    let ended = journal(&setup).cancel("default", "order-42").await.unwrap().unwrap();
    assert_eq!(ended.facts.status, Status::Done, "what has ended stays as it is");
    assert!(journal(&setup).cancel("default", "nobody").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finished_records_have_notes_of_every_kept_step() {
    let setup = chain().step("First", keeping(Scope::Global, None));
    let host = setup.host().await;
    execute(&host, told("user").execution_id(id("made"))).await.result.unwrap();
    execute(&host, told("user").execution_id(id("found"))).await.result.unwrap();
    execute(&host, told("user-fails").execution_id(id("failed"))).await.result.unwrap_err();
    let setup_off = setup.clone().step("Second", StepOptions::default());
    execute(&setup_off.host().await, told("user").execution_id(id("half"))).await.result.unwrap();
    let notes = async |text: &str| {
        let mut notes: Vec<_> = journal(&setup)
            .steps("default", text)
            .await
            .unwrap()
            .into_iter()
            .map(|note| {
                let detail = note.facts.detail.unwrap();
                let how = ["made", "found", "failed", "stopped"]
                    .into_iter()
                    .find(|how| detail.contains(&format!("\"{how}\"")));
                (note.facts.step.unwrap().to_string(), note.facts.status, note.facts.attempts, how.unwrap())
            })
            .collect();
        notes.sort();
        notes
    };
    let note = |step: &str, status, attempts, how| (step.to_owned(), status, attempts, how);
    let done = Status::Done;
    assert_eq!(notes("made").await, [note("First", done, 1, "made"), note("Second", done, 1, "made")]);
    assert_eq!(notes("found").await, [note("First", done, 0, "found"), note("Second", done, 1, "made")]);
    assert_eq!(
        notes("failed").await,
        [note("First", done, 1, "made"), note("Second", Status::Failed, 1, "failed")]
    );
    assert_eq!(notes("half").await, [note("First", done, 0, "found")]);
    let error = read(&setup, "failed").await.facts.detail.unwrap();
    assert!(error.contains("was told to fail"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_removes_what_is_over_and_nothing_that_can_still_be_resumed() {
    let ttl = Some(Duration::from_secs(60));
    let setup = Setup::new(&["first", "second"])
        .step("First", keeping(Scope::Global, ttl))
        .step("Second", keeping(Scope::Workflow, ttl));
    let mortal = Mortal::new(setup.with(|options| options.retention = 3 * DAY));
    let (setup, clock) = (&mortal.setup, &mortal.clock);
    let host = setup.host().await;
    execute(&host, told("user-one").execution_id(id("done"))).await.result.unwrap();
    mortal.die_in(told("user-naps-60000").execution_id(id("crashed")), "Second", 2).await;
    let count = async |kind| all(&*setup.store, kind).await.len();
    assert_eq!(
        (count(Kind::Result).await, count(Kind::Execution).await, count(Kind::Module).await),
        (4, 2, 2)
    );

    clock.advance(2 * DAY);
    let purged = purge(&*setup.store).await.unwrap();
    assert_eq!((purged.results, purged.executions, purged.modules), (2, 0, 0), "expired, and not needed");
    let resumed = setup.host().await.resume(id("crashed")).outcome().await.unwrap();
    assert_eq!(resumed.report.steps[0].outcome, StepOutcome::Cached, "its expired result was spared");
    assert!(name(resumed).starts_with("attempt=2 "));

    clock.advance(2 * DAY);
    let purged = purge(&*setup.store).await.unwrap();
    assert_eq!((purged.results, purged.executions, purged.modules), (2, 1, 0), "`done` is forgotten");
    clock.advance(2 * DAY);
    let purged = purge(&*setup.store).await.unwrap();
    assert_eq!((purged.results, purged.executions, purged.modules), (0, 1, 2), "and all else");
    for kind in Kind::ALL {
        assert_eq!(count(kind).await, 0, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workflow_results_go_with_their_execution_and_global_ones_stay() {
    let setup = chain().step("First", keeping(Scope::Global, None)).with(|options| options.retention = DAY);
    let mortal = Mortal::new(setup);
    let (setup, clock) = (&mortal.setup, &mortal.clock);
    execute(&setup.host().await, told("user").execution_id(id("done"))).await.result.unwrap();
    clock.advance(2 * DAY);
    let purged = purge(&*setup.store).await.unwrap();
    assert_eq!((purged.results, purged.executions), (1, 1));
    let [left] = &all(&*setup.store, Kind::Result).await[..] else { panic!("one result is left") };
    assert_eq!(left.facts.step.as_deref(), Some("First"));
    assert_eq!(all(&*setup.store, Kind::Step).await.len(), 0);
}
