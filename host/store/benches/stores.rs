//! What a hit and a commit cost here, beside the same work done with sled alone on the same disk in the
//! same run: the ratios mean something on any machine. `cargo bench -p docket-store`; with an
//! argument only those measurements whose name contains it.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock and its arguments")]
#![expect(clippy::print_stdout, reason = "a benchmark's output is its purpose")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot be set up has failed")]

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use docket_store::{
    Batch, Expect, Facts, Kind, MemoryStore, Record, RecordKey, Revision, Scope, SledStore, Status, Store,
    Sync, Timestamp, Write,
};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// A small result, with the facts that the host gives one: of a graph of three kept steps, ten results in
/// an execution.
fn result(n: u64) -> Record {
    let mixed =
        |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let key: String = (0..4).map(|part| format!("{:016x}", mixed(n * 4 + part))).collect();
    let created_at = Timestamp(1_790_000_000_000 + n / 4);
    let facts = Facts {
        scope: Some(Scope::Global),
        step: Some(format!("Step{}", n % 3).into()),
        execution: Some(format!("0198c0de-0000-7000-8000-{:012x}", n / 10).into()),
        module: Some(key.as_str().into()),
        attempts: 1,
        owner: Some("0123456789abcdef".into()),
        expires_at: Some(created_at.plus(Duration::from_secs(86_400 * 365))),
        started_at: Some(created_at),
        finished_at: Some(created_at),
        ..Facts::new(Status::Done, "default".into(), created_at)
    };
    let body = Bytes::from(vec![n as u8; 300]);
    Record {
        kind: Kind::Result,
        key: RecordKey::parse(&key).unwrap(),
        revision: Revision(n + 1),
        facts,
        body,
    }
}

/// What sled alone would keep of it: the same bytes under the same key.
fn bare(record: &Record) -> (Vec<u8>, Vec<u8>) {
    let mut value = vec![7; 280];
    value.extend_from_slice(&record.body);
    (record.key.as_str().as_bytes().to_vec(), value)
}

fn put(record: Record, expect: Expect) -> Write {
    Write::Put { record, expect }
}

fn open_bare(path: &Path) -> sled::Db {
    sled::Config::new().path(path).cache_capacity(64 << 20).flush_every_ms(Some(500)).open().unwrap()
}

fn micros(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e6 / count as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn row(what: &str, ours: f64, bare: Option<f64>, unit: &str, goal: &str) {
    let ratio = bare.map_or(String::new(), |bare| format!("{:>10.2} {:>6.2}", bare, ours / bare));
    println!("{what:<44} {ours:>10.2} {ratio:<17} {unit:<8} {goal}");
}

type Measurement = fn(&Runtime);

fn main() {
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with("--")).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    println!("{:<44} {:>10} {:>10} {:>6} {:<8} goal", "", "docket", "sled alone", "ratio", "unit");
    let all: [(&str, Measurement); 5] = [
        ("memory", hit_in_memory),
        ("hit", hit_in_sled),
        ("single", commits_one_at_a_time),
        ("group", commits_in_groups),
        ("open", opening_a_million),
    ];
    for (name, measure) in all {
        if name.contains(&only) {
            measure(&runtime);
        }
    }
}

async fn fill(store: &dyn Store, count: u64) {
    const AT_ONCE: u64 = 500;
    for first in (0..count).step_by(AT_ONCE as usize) {
        let writes = (first..count.min(first + AT_ONCE)).map(|n| put(result(n), Expect::Absent)).collect();
        store.commit(Batch { writes, sync: Sync::Later }).await.unwrap();
    }
}

const HITS: u64 = 50_000;
const KEPT: u64 = 20_000;

async fn hits(store: &dyn Store, keys: &[RecordKey]) -> f64 {
    let begun = Instant::now();
    for n in 0..HITS {
        let found = store.get(Kind::Result, &keys[(n * 7919 % KEPT) as usize]).await.unwrap();
        assert_eq!(found.record.unwrap().body.len(), 300);
    }
    micros(begun.elapsed(), HITS)
}

fn hit_in_memory(runtime: &Runtime) {
    let store = MemoryStore::new();
    let keys: Vec<RecordKey> = (0..KEPT).map(|n| result(n).key).collect();
    runtime.block_on(async {
        fill(&store, KEPT).await;
        let times = [hits(&store, &keys).await, hits(&store, &keys).await, hits(&store, &keys).await];
        row("a hit in memory", median(times.to_vec()), None, "µs", "");
    });
}

fn hit_in_sled(runtime: &Runtime) {
    let (ours, alone) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = SledStore::open(ours.path()).unwrap();
    let db = open_bare(alone.path());
    let records: Vec<Record> = (0..KEPT).map(result).collect();
    let keys: Vec<RecordKey> = records.iter().map(|record| record.key.clone()).collect();
    for records in records.chunks(500) {
        let mut batch = sled::Batch::default();
        records.iter().map(bare).for_each(|(key, value)| batch.insert(key, value));
        db.apply_batch(batch).unwrap();
        db.flush().unwrap();
    }
    let bare_hits = || {
        let begun = Instant::now();
        for n in 0..HITS {
            let value = db.get(keys[(n * 7919 % KEPT) as usize].as_str()).unwrap().unwrap();
            assert_eq!(value.len(), 580);
        }
        micros(begun.elapsed(), HITS)
    };
    runtime.block_on(async {
        fill(&store, KEPT).await;
        let mut times = (Vec::new(), Vec::new());
        for _ in 0..7 {
            times.0.push(hits(&store, &keys).await);
            times.1.push(bare_hits());
        }
        row("a hit in sled", median(times.0), Some(median(times.1)), "µs", "ratio <= 2");
    });
}

/// A group-commit loop of one thread on sled alone: take what waits, write it, flush, sync, answer.
struct BareLoop {
    commands: mpsc::Sender<(Vec<u8>, Vec<u8>, tokio::sync::oneshot::Sender<()>)>,
    thread: std::thread::JoinHandle<u64>,
}

impl BareLoop {
    fn start(path: &Path) -> Self {
        let db = open_bare(path);
        let file = File::open(path.join("db")).unwrap();
        let (commands, waiting) = mpsc::channel::<(Vec<u8>, Vec<u8>, tokio::sync::oneshot::Sender<()>)>();
        let thread = std::thread::spawn(move || {
            let mut syncs = 0;
            while let Ok(first) = waiting.recv() {
                let (mut batch, mut answers) = (sled::Batch::default(), Vec::new());
                for (key, value, answer) in std::iter::once(first).chain(waiting.try_iter().take(4095)) {
                    batch.insert(key, value);
                    answers.push(answer);
                }
                db.apply_batch(batch).unwrap();
                db.flush().unwrap();
                file.sync_data().unwrap();
                syncs += 1;
                answers.into_iter().for_each(|answer| answer.send(()).unwrap());
            }
            syncs
        });
        Self { commands, thread }
    }

    async fn commit(&self, record: &Record) {
        let (key, value) = bare(record);
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.commands.send((key, value, answer)).unwrap();
        answered.await.unwrap();
    }
}

/// Runs `count` commits from this many tasks; returns commits per second.
fn commits<C>(runtime: &Runtime, tasks: u64, count: u64, from: u64, commit: impl Fn(u64) -> C) -> f64
where
    C: Future<Output = ()> + Send + 'static,
{
    let begun = Instant::now();
    runtime.block_on(async {
        let mut running = JoinSet::new();
        let mut next = from;
        while next < from + count || !running.is_empty() {
            while next < from + count && (running.len() as u64) < tasks {
                running.spawn(commit(next));
                next += 1;
            }
            running.join_next().await.unwrap().unwrap();
        }
    });
    count as f64 / begun.elapsed().as_secs_f64()
}

fn compare_commits(runtime: &Runtime, what: &str, tasks: u64, count: u64, rounds: u64, goal: &str) {
    let (ours, alone) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store: Arc<dyn Store> = Arc::new(SledStore::open(ours.path()).unwrap());
    let bare_loop = Arc::new(BareLoop::start(alone.path()));
    let mut rates = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let from = round * count;
        rates.0.push(commits(runtime, tasks, count, from, |n| {
            let store = Arc::clone(&store);
            async move {
                let writes = vec![put(result(n), Expect::Absent)];
                store.commit(Batch { writes, sync: Sync::Now }).await.unwrap();
            }
        }));
        rates.1.push(commits(runtime, tasks, count, from, |n| {
            let bare_loop = Arc::clone(&bare_loop);
            async move { bare_loop.commit(&result(n)).await }
        }));
    }
    let BareLoop { commands, thread } = Arc::into_inner(bare_loop).unwrap();
    drop(commands);
    let syncs = thread.join().unwrap();
    row(what, median(rates.0), Some(median(rates.1)), "1/s", goal);
    println!("    (the bare loop had {:.1} commits in a sync)", (count * rounds) as f64 / syncs as f64);
}

fn commits_one_at_a_time(runtime: &Runtime) {
    compare_commits(runtime, "durable commits, one at a time", 1, 300, 5, "");
}

fn commits_in_groups(runtime: &Runtime) {
    compare_commits(runtime, "durable commits, 64 in flight", 64, 12_000, 5, "ratio >= 0.8");
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
}

/// Fills both, then opens each in a process of its own, because memory is measured too.
fn opening_a_million(runtime: &Runtime) {
    const RESULTS: u64 = 1_000_000;
    if let Ok(path) = std::env::var("STORES_BENCH_OPEN") {
        let (kind, path) = path.split_once(':').unwrap();
        let begun = Instant::now();
        let _kept: Box<dyn std::any::Any> = match kind {
            "ours" => Box::new(SledStore::open(Path::new(path)).unwrap()),
            _ => Box::new(open_bare(Path::new(path))),
        };
        println!("opened {} {}", begun.elapsed().as_secs_f64() * 1e3, resident_mib());
        std::process::exit(0);
    }
    let (ours, alone) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let db = open_bare(alone.path());
    let begun = Instant::now();
    for first in (0..RESULTS).step_by(500) {
        let mut batch = sled::Batch::default();
        (first..first + 500).map(|n| bare(&result(n))).for_each(|(key, value)| batch.insert(key, value));
        db.apply_batch(batch).unwrap();
        db.flush().unwrap();
    }
    let bare_fill = begun.elapsed().as_secs_f64();
    drop(db);
    let bare_resident = resident_mib();
    let store = SledStore::open(ours.path()).unwrap();
    let begun = Instant::now();
    runtime.block_on(fill(&store, RESULTS));
    row("filling 1,000,000 results", begun.elapsed().as_secs_f64(), Some(bare_fill), "s", "");
    row("    resident more after it", resident_mib() - bare_resident, Some(bare_resident), "MiB", "");
    runtime.block_on(store.close()).unwrap();
    drop(store);
    let size = |path: &Path| std::fs::metadata(path.join("db")).unwrap().len() as f64 / f64::from(1 << 20);
    row("    file", size(ours.path()), Some(size(alone.path())), "MiB", "");
    let open = |kind: &str, path: &Path| -> (f64, f64) {
        let this = std::env::current_exe().unwrap();
        let mut child = std::process::Command::new(this);
        child.arg("open").env("STORES_BENCH_OPEN", format!("{kind}:{}", path.display()));
        let output = String::from_utf8(child.output().unwrap().stdout).unwrap();
        let line = output.lines().find_map(|line| line.strip_prefix("opened ")).expect("it opens");
        let (millis, mib) = line.split_once(' ').unwrap();
        (millis.parse().unwrap(), mib.parse().unwrap())
    };
    // The first opening of each writes what sled wants written after a fill.
    open("ours", ours.path());
    open("bare", alone.path());
    let (mut millis, mut mib) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for _ in 0..5 {
        let (of_ours, of_bare) = (open("ours", ours.path()), open("bare", alone.path()));
        millis.0.push(of_ours.0);
        millis.1.push(of_bare.0);
        mib.0.push(of_ours.1);
        mib.1.push(of_bare.1);
    }
    row("opening 1,000,000 results", median(millis.0), Some(median(millis.1)), "ms", "ratio <= 1.5");
    row("    resident then", median(mib.0), Some(median(mib.1)), "MiB", "< 256");
}
