//! Measures executions that keep results: steps on sled beside a bare loop that commits as many
//! records in groups, and hits beside the same execution without a store.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use docket_graph::{Persistence, Port, Scope};
use docket_runtime::{EpochTicker, Host, HostOptions, Keeping, Request, StepOptions, StepOutcome, Value};
use docket_store::{Filter, Kind, MemoryStore, Query, SledStore, SqliteStore, Store};
use docket_tests::fixture;

use crate::raw::{Raw, our_settings};
use crate::{Row, compare, median, micros, options, paired, port, rounds, runtime};

/// How many executions are under way at a time.
const TASKS: usize = 64;

/// How many each task carries out, one after the other.
const EACH: usize = 30;

/// A message that no other is equal to.
fn fresh() -> Vec<u8> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let text = format!("{:098}", NEXT.fetch_add(1, Ordering::Relaxed));
    let mut bytes = vec![0x0a, 98];
    bytes.extend(text.as_bytes());
    bytes
}

/// A key that no other is equal to, and that says as little of its neighbours as a hash does.
fn spread() -> [u8; 32] {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let mixed =
        |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mut key = [0; 32];
    key.chunks_exact_mut(8)
        .zip(4 * next..)
        .for_each(|(part, n)| part.copy_from_slice(&mixed(n).to_be_bytes()));
    key
}

pub(crate) fn kept(scope: Scope) -> HostOptions {
    let persistence = Some(Keeping::On(Persistence { scope, ttl: None }));
    HostOptions { defaults: StepOptions { persistence, ..StepOptions::default() }, ..options() }
}

pub(crate) fn host(runtime: &tokio::runtime::Runtime, options: HostOptions, store: Arc<dyn Store>) -> Host {
    let builder = Host::builder().options(options).store(store).module("bench_echo", fixture("bench_echo"));
    runtime.block_on(builder.build()).expect("a host")
}

fn request(message: Vec<u8>) -> Request {
    let (target, given) = (port("example.v1.UserProfile#out"), port("example.v1.UserProfile#in"));
    Request::new(target).value(given, Value::one(message))
}

/// Commits records in groups as one thread can: batch, flush, fdatasync; each writer waits for its own.
struct Bare {
    commits: mpsc::Sender<Commit>,
}

/// Records by their keys, whether they are to survive the loss of power, and who waits for it.
struct Commit {
    records: Vec<(Vec<u8>, Vec<u8>)>,
    synced: bool,
    answer: tokio::sync::oneshot::Sender<()>,
}

impl Bare {
    fn on(dir: &std::path::Path) -> Self {
        let db =
            sled::Config::new().path(dir).cache_capacity(64 << 20).open().expect("a directory of its own");
        let file = File::open(dir.join("db")).expect("sled's file");
        let (commits, waiting) = mpsc::channel::<Commit>();
        std::thread::spawn(move || {
            while let Ok(first) = waiting.recv() {
                let mut batch = sled::Batch::default();
                let mut answers = Vec::new();
                for Commit { records, synced, answer } in std::iter::once(first).chain(waiting.try_iter()) {
                    records.into_iter().for_each(|(key, record)| batch.insert(key, record));
                    answers.push((synced, answer));
                }
                db.apply_batch(batch).expect("sled writes");
                let (to_sync, written) = answers.into_iter().partition(|(synced, _)| *synced);
                let answer = |answers: Vec<(bool, tokio::sync::oneshot::Sender<()>)>| {
                    for (_, answer) in answers {
                        // Nobody leaves before the answer.
                        let _ = answer.send(());
                    }
                };
                answer(written);
                if !to_sync.is_empty() {
                    db.flush().expect("sled flushes");
                    file.sync_data().expect("the disk syncs");
                    answer(to_sync);
                }
            }
        });
        Self { commits }
    }

    async fn commit(&self, records: Vec<(Vec<u8>, Vec<u8>)>, synced: bool) {
        let (answer, done) = tokio::sync::oneshot::channel();
        self.commits.send(Commit { records, synced, answer }).expect("the thread waits");
        done.await.expect("every commit is answered");
    }
}

/// What a floor keeps.
#[derive(Clone, Copy)]
pub(crate) enum Keeps {
    /// One record, safe.
    Record,
    /// What is promised of a kept result: a claim before the call, and in its place the result, safe.
    Result,
    /// The same, and a note of the step.
    Step,
    /// The same, and the record of an execution, before the call and after it.
    Execution,
}

/// What a floor does: bare commits alone, or one bare call of a guest for each.
#[derive(Clone)]
struct Floor {
    bare: Arc<Bare>,
    call: Option<(Arc<Raw>, &'static str, usize)>,
    keeps: Keeps,
}

/// A head and a value, about as long as Docket's.
fn record() -> Vec<u8> {
    let mut record = fresh();
    record.resize(568, 7);
    record
}

impl Floor {
    async fn keep(&self) {
        // A key as good as a hash, as that of a result is; the others go by time.
        let result = spread().to_vec();
        let [execution, note] = [b'e', b's'].map(|kind| [&[kind], &fresh()[..]].concat());
        match self.keeps {
            Keeps::Record => {}
            Keeps::Result | Keeps::Step => self.bare.commit(vec![(result.clone(), record())], false).await,
            Keeps::Execution => {
                let begun = vec![(execution.clone(), record()), (result.clone(), record())];
                self.bare.commit(begun, false).await;
            }
        }
        if let Some((raw, step, inputs)) = &self.call {
            let message = fresh();
            raw.call(step, &vec![&message[..]; *inputs]).await;
        }
        let mut made = vec![(result, record())];
        if let Keeps::Step = self.keeps {
            made.push((note.clone(), record()));
        }
        self.bare.commit(made, true).await;
        if let Keeps::Execution = self.keeps {
            self.bare.commit(vec![(execution, record()), (note, record())], false).await;
        }
    }

    /// Makes so many commits by 64 tasks; returns how many that is in a second.
    fn rate(&self, runtime: &tokio::runtime::Runtime, commits: usize) -> f64 {
        rate(runtime, commits, |task| {
            let floor = self.clone();
            async move {
                for _ in (task..commits).step_by(TASKS) {
                    floor.keep().await;
                }
            }
        })
    }
}

/// Runs 64 tasks that do so much together; returns how much that is in a second.
fn rate<T: Future<Output = ()> + Send + 'static>(
    runtime: &tokio::runtime::Runtime,
    much: usize,
    task: impl Fn(usize) -> T,
) -> f64 {
    let began = Instant::now();
    let tasks: Vec<_> = (0..TASKS).map(|n| runtime.spawn(task(n))).collect();
    runtime.block_on(async {
        for task in tasks {
            task.await.expect("no panic");
        }
    });
    much as f64 / began.elapsed().as_secs_f64()
}

/// Does durable work, and has the store put everything where it stays, so that nothing of it is left to
/// be done while another side is measured. Returns how much that is in a second, until all is acknowledged
/// and until all is there.
pub(crate) fn settled(
    runtime: &tokio::runtime::Runtime,
    store: &dyn Store,
    much: usize,
    work: impl FnOnce(),
) -> [f64; 2] {
    let began = Instant::now();
    work();
    let acknowledged = began.elapsed();
    let query = Query::Newest { kind: Kind::Module, filter: Filter::default(), after: None };
    runtime.block_on(store.scan(&query, 1)).expect("the store lists");
    [acknowledged, began.elapsed()].map(|time| much as f64 / time.as_secs_f64())
}

/// Compares rates of durable work with its floors: bare commits of what it must keep, the same with a bare call
/// for each, and commits of one record.
pub(crate) fn rows(
    runtime: &tokio::runtime::Runtime,
    what: [&'static str; 4],
    (much, keeps): (usize, Keeps),
    call: (&str, &'static str, usize),
    docket: &mut dyn FnMut() -> [f64; 2],
) -> Vec<Row> {
    let (guest, step, inputs) = call;
    let dirs = [(); 3].map(|()| tempfile::tempdir_in(docket_tests::target_dir()).expect("a directory"));
    let raw = Arc::new(Raw::new(&our_settings(), &fixture(guest)));
    let _ticker = EpochTicker::start(&raw.engine).expect("a thread");
    let [one, two, three] = dirs.each_ref().map(|dir| Arc::new(Bare::on(dir.path())));
    let call = Some((raw, step, inputs));
    let floors = [
        Floor { bare: one, call: None, keeps: Keeps::Record },
        Floor { bare: two, call: None, keeps },
        Floor { bare: three, call, keeps },
    ];
    let [commits, same, calls] = floors.each_ref().map(|floor| || floor.rate(runtime, much));
    let mut settled = Vec::new();
    let mut docket = || {
        let [acknowledged, all] = docket();
        settled.push(all);
        acknowledged
    };
    let disk = File::open(dirs[0].path()).expect("a directory");
    // Until sled's own thread has come by, and what all sides have written is on the disk.
    let rest = || {
        std::thread::sleep(FLUSHED);
        rustix::fs::syncfs(&disk).expect("the disk syncs");
    };
    let sides: [&mut dyn FnMut() -> f64; 4] = [&mut docket, &mut { commits }, &mut { same }, &mut { calls }];
    let [acknowledged, commits, same, calls] = rounds(sides, rest);
    // Without the round that warms up.
    settled.remove(0);
    let row = |what: &'static str, rates: &[f64], floor: &[f64], goal: &'static str| Row {
        what,
        measured: format!("{:.0}/s", median(rates.to_vec())),
        floor: format!("{:.0}/s", median(floor.to_vec())),
        ratio: paired(rates, floor),
        goal,
    };
    vec![
        row(what[0], &acknowledged, &same, ">= 0.80"),
        row(what[1], &acknowledged, &calls, ""),
        row(what[2], &acknowledged, &commits, ""),
        row(what[3], &settled, &same, ""),
    ]
}

/// In how long sled's own thread comes by, which flushes what it finds: twice a second.
const FLUSHED: Duration = Duration::from_millis(550);

pub(crate) fn sled() -> (tempfile::TempDir, Arc<dyn Store>) {
    let dir = tempfile::tempdir_in(docket_tests::target_dir()).expect("a directory");
    let store = Arc::new(SledStore::open(dir.path()).expect("a store"));
    (dir, store)
}

/// Carries executions of one kept step each out, 64 under way; returns how many that is in a second.
fn executions(runtime: &tokio::runtime::Runtime, host: &Host, each: usize) -> f64 {
    rate(runtime, TASKS * each, |_| {
        let host = host.clone();
        async move {
            for _ in 0..each {
                let outcome = host.execute(request(fresh())).await.expect("a good request");
                assert!(outcome.result.is_ok());
            }
        }
    })
}

/// Many such executions, for a profiler.
pub(crate) fn endless() {
    let runtime = runtime(2);
    let (_dir, store) = sled();
    let host = host(&runtime, kept(Scope::Global), store);
    println!("{:.0}/s", executions(&runtime, &host, 600));
}

/// As many bare commits, for a profiler.
pub(crate) fn endless_commits() {
    let runtime = runtime(2);
    let dir = tempfile::tempdir_in(docket_tests::target_dir()).expect("a directory");
    let floor = Floor { bare: Arc::new(Bare::on(dir.path())), call: None, keeps: Keeps::Record };
    println!("{:.0}/s", floor.rate(&runtime, TASKS * 600));
}

/// Executions of one kept step each, 64 under way, on sled.
pub(crate) fn durable() -> Vec<Row> {
    let runtime = runtime(2);
    let (_dir, store) = sled();
    let host = host(&runtime, kept(Scope::Global), Arc::clone(&store));
    let work = || {
        executions(&runtime, &host, EACH);
    };
    let mut docket = || settled(&runtime, &*store, TASKS * EACH, work);
    let what = [
        "durable executions of one step, 64 in flight on sled, against bare commits of the same",
        "  against the same commits, with one bare wasmtime call for each",
        "  against commits of one record alone",
        "  with the time in which sled takes what is left, against commits of the same",
    ];
    rows(&runtime, what, (TASKS * EACH, Keeps::Execution), ("bench_echo", "Echo", 1), &mut docket)
}

/// One execution of a wide graph whose steps are all kept, each time it is called.
struct Wide {
    host: Host,
    target: Port,
    given: Port,
    steps: usize,
}

impl Wide {
    fn on(runtime: &tokio::runtime::Runtime, store: Arc<dyn Store>) -> Self {
        let builder = Host::builder().options(kept(Scope::Workflow)).store(store);
        let builder = builder.module("bench_layers", fixture("bench_layers"));
        let host = runtime.block_on(builder.build()).expect("a host");
        let (target, given) = (port("example.v1.UserProfile"), port("example.v1.UserProfile#in"));
        let steps = host.plan(&target, std::slice::from_ref(&given)).expect("a plan").len();
        Self { host, target, given, steps }
    }

    fn execute(&self, runtime: &tokio::runtime::Runtime) {
        let request = Request::new(self.target.clone()).value(self.given.clone(), Value::one(fresh()));
        let outcome = runtime.block_on(self.host.execute(request)).expect("a good request");
        assert!(outcome.result.is_ok());
        let made = |step: &docket_runtime::StepReport| step.outcome == StepOutcome::Done;
        assert!(outcome.report.steps.iter().all(made), "a step that was found is not what is measured");
    }
}

/// Many executions of a wide graph, for a profiler.
pub(crate) fn endless_graph() {
    let runtime = runtime(2);
    let (_dir, store) = sled();
    let wide = Wide::on(&runtime, store);
    for _ in 0..20 {
        let began = Instant::now();
        wide.execute(&runtime);
        println!("{:.0} steps a second", wide.steps as f64 / began.elapsed().as_secs_f64());
    }
}

/// Executions of many kept steps each, all of them at once: the steps of a layer commit together. Each
/// result is the execution's own, so that no step finds what an earlier execution has made.
pub(crate) fn durable_graph() -> Vec<Row> {
    let runtime = runtime(2);
    let (_dir, store) = sled();
    let wide = Wide::on(&runtime, Arc::clone(&store));
    let steps = wide.steps;
    let work = || wide.execute(&runtime);
    let mut docket = || settled(&runtime, &*store, steps, work);
    let what = [
        "durable steps of one wide graph on sled, against bare commits of the same, 64 in flight",
        "  against the same commits, with one bare wasmtime call for each",
        "  against commits of one record alone",
        "  with the time in which sled takes what is left, against commits of the same",
    ];
    rows(&runtime, what, (steps, Keeps::Step), ("bench_layers", "Step2-0", 3), &mut docket)
}

/// Executions of one kept step, one after the other, on sled and on SQLite, beside bare commits one after the other.
pub(crate) fn one_at_a_time() -> Vec<Row> {
    const EXECUTIONS: u32 = 100;
    let runtime = runtime(1);
    let dirs = [(); 2].map(|()| tempfile::tempdir_in(docket_tests::target_dir()).expect("a directory"));
    let (_dir, sled) = sled();
    let sqlite = runtime.block_on(SqliteStore::open(dirs[0].path().join("store"))).expect("a store");
    let [sled, sqlite] = [sled, Arc::new(sqlite)].map(|store| host(&runtime, kept(Scope::Global), store));
    let floor = Floor { bare: Arc::new(Bare::on(dirs[1].path())), call: None, keeps: Keeps::Record };
    let execute = |host: &Host| {
        let began = Instant::now();
        for _ in 0..EXECUTIONS {
            let outcome = runtime.block_on(host.execute(request(fresh()))).expect("a good request");
            assert!(outcome.result.is_ok());
        }
        began.elapsed().as_secs_f64() / f64::from(EXECUTIONS)
    };
    let mut commit = || {
        let began = Instant::now();
        (0..EXECUTIONS).for_each(|_| runtime.block_on(floor.keep()));
        began.elapsed().as_secs_f64() / f64::from(EXECUTIONS)
    };
    let (times, ratios) = compare([&mut || execute(&sled), &mut || execute(&sqlite), &mut commit]);
    let row = |at: usize, what| Row {
        what,
        measured: micros(times[at]),
        floor: micros(times[2]),
        ratio: ratios[at],
        goal: "",
    };
    vec![
        row(0, "a durable execution of one step, one at a time on sled, against a bare commit"),
        row(1, "the same on SQLite, against a bare commit of sled's"),
    ]
}

/// The same execution answered from memory and from sled, against one whose step runs.
pub(crate) fn hits() -> Vec<Row> {
    const CALLS: u32 = 2_000;
    let runtime = runtime(1);
    let dir = tempfile::tempdir_in(docket_tests::target_dir()).expect("a directory");
    let memory = host(&runtime, kept(Scope::Global), Arc::new(MemoryStore::new()));
    let sled = host(&runtime, kept(Scope::Global), Arc::new(SledStore::open(dir.path()).expect("a store")));
    let plain = host(&runtime, options(), Arc::new(MemoryStore::new()));
    let message = fresh();
    let time = |host: &Host| {
        let began = Instant::now();
        for _ in 0..CALLS {
            let outcome = runtime.block_on(host.execute(request(message.clone()))).expect("a good request");
            assert!(outcome.result.is_ok());
        }
        began.elapsed().as_secs_f64() / f64::from(CALLS)
    };
    let (times, ratios) = compare([&mut || time(&memory), &mut || time(&sled), &mut || time(&plain)]);
    ["memory", "sled"]
        .into_iter()
        .enumerate()
        .map(|(at, store)| Row {
            what: match store {
                "memory" => "a journaled execution answered from memory, against one that runs",
                _ => "a journaled execution answered from sled, against one that runs",
            },
            measured: micros(times[at]),
            floor: micros(times[2]),
            ratio: ratios[at],
            goal: "",
        })
        .collect()
}
