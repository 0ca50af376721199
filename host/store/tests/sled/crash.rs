//! Death and loss of power in the middle of writes: a child process writes and says what it was told is
//! done; it is killed; what it was told must be there, and nothing by halves.

#![expect(clippy::disallowed_methods, reason = "a test's own switches and waits")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use docket_store::{Batch, Expect, Filter, Kind, Query, Record, SledStore, Status, Store, Sync, Write};
use tokio::task::JoinSet;

use super::contract::{body, delete, put, record};

/// How many tasks of a child write at once.
const TASKS: u64 = 8;

/// How many records each task writes over and over.
const SLOTS: u64 = 12;

/// What tells a test binary that it is a child, and its directory, its round and how it syncs.
const CHILD: &str = "SLED_CHILD";

/// How a child's batches are synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Syncs {
    Now,
    Later,
    Both,
}

/// One batch of a task: two records that are written, or removed, together.
struct Step {
    slot: u64,
    /// The length of the bodies; none if the records are removed.
    len: Option<usize>,
    sync: Sync,
}

fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (number ^ (number >> 29)).wrapping_mul(0x94D0_49BB_1331_11EB) >> 7
}

fn step(round: u64, task: u64, n: u64, syncs: Syncs) -> Step {
    let chance = mix(round << 40 | task << 32 | n);
    let len = match chance % 20 {
        0 | 1 => None,
        2 => Some(300_000),
        3..6 => Some(20_000),
        _ => Some(100),
    };
    let sync = match syncs {
        Syncs::Now => Sync::Now,
        Syncs::Later => Sync::Later,
        Syncs::Both => [Sync::Now, Sync::Later][(chance / 20 % 2) as usize],
    };
    Step { slot: chance / 40 % SLOTS, len, sync }
}

/// The two records of a slot, as the task's batch number `n` writes them.
fn records(round: u64, task: u64, slot: u64, n: u64, len: usize) -> [Record; 2] {
    ["a", "b"].map(|side| {
        let mut record = record(&format!("{round}/{task}/{slot}/{side}"), n + 1);
        record.facts.step = Some(format!("Step{}", n % 3).into());
        record.facts.execution = Some(format!("{round}/{task}").into());
        record.facts.created_at.0 += n;
        record.facts.expires_at = Some(record.facts.created_at);
        if side == "b" && slot.is_multiple_of(3) {
            // Such a one stays in the log, file after file, for as long as somebody is at it.
            record.facts.status = Status::Running;
            record.facts.lease_until = Some(record.facts.created_at);
        }
        Record { body: body(len, n), ..record }
    })
}

fn batch(round: u64, task: u64, n: u64, syncs: Syncs) -> Batch {
    let Step { slot, len, sync } = step(round, task, n, syncs);
    let write = |record: &Record| match len {
        Some(_) => put(record, Expect::Any),
        None => delete(record, Expect::Any),
    };
    let writes: Vec<Write> =
        records(round, task, slot, n, len.unwrap_or_default()).iter().map(write).collect();
    Batch { writes, sync }
}

/// What a task's slots hold after `done` batches: which batch wrote each last, and how much.
fn state(round: u64, task: u64, done: u64, syncs: Syncs) -> BTreeMap<u64, (u64, usize)> {
    let mut state = BTreeMap::new();
    for n in 0..done {
        let Step { slot, len, .. } = step(round, task, n, syncs);
        match len {
            Some(len) => state.insert(slot, (n, len)),
            None => state.remove(&slot),
        };
    }
    state
}

#[test]
#[ignore = "the child of the tests below"]
fn child() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let [directory, round, syncs] = told.split('|').collect::<Vec<_>>()[..] else { panic!("{told}") };
    let (round, syncs): (u64, _) = (
        round.parse().unwrap(),
        match syncs {
            "Now" => Syncs::Now,
            "Later" => Syncs::Later,
            _ => Syncs::Both,
        },
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Arc::new(SledStore::open(Path::new(directory)).unwrap());
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let store = Arc::clone(&store);
            tasks.spawn(async move {
                for n in 0.. {
                    store.commit(batch(round, task, n, syncs)).await.unwrap();
                    writeln!(std::io::stdout().lock(), "\ndone {task} {n}").unwrap();
                }
            });
        }
        tasks.join_next().await;
    });
}

/// Runs a child for this long from its first answer on, and kills it; returns how many batches of each
/// task it was told are done.
fn run_child(
    directory: &Path,
    round: u64,
    syncs: Syncs,
    time: Duration,
    preload: Option<[(&str, &Path); 3]>,
) -> Vec<u64> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "crash::child", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(CHILD, format!("{}|{round}|{syncs:?}", directory.display()));
    command.envs(preload.into_iter().flatten());
    let mut child: Child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut done = vec![0; TASKS as usize];
    let mut killer = None;
    let mut child = Some(child);
    for line in lines.map_while(Result::ok) {
        let Some(line) = line.strip_prefix("done ") else { continue };
        // The last line may be cut off.
        let Some((task, n)) = line.split_once(' ') else { continue };
        let (Ok(task), Ok(n)) = (task.parse::<usize>(), n.parse::<u64>()) else { continue };
        done[task] = done[task].max(n + 1);
        if let Some(mut child) = child.take() {
            killer = Some(std::thread::spawn(move || {
                std::thread::sleep(time);
                child.kill().unwrap();
                child.wait().unwrap();
            }));
        }
    }
    killer.expect("the child has written something").join().unwrap();
    done
}

/// What survived a round: which tasks' states are as if so many batches were done.
#[derive(Debug, Default)]
struct Survey {
    lost: u64,
    torn: u64,
}

/// Compares what a store holds of a round with what the child was told.
async fn survey(store: &SledStore, round: u64, done: &mut [u64], syncs: Syncs) -> Survey {
    let mut survey = Survey::default();
    for (task, done) in (0..).zip(done) {
        let mut found = BTreeMap::new();
        for slot in 0..SLOTS {
            let [a, b] = records(round, task, slot, 0, 0);
            let a = store.get(Kind::Result, &a.key).await.unwrap().record;
            let b = store.get(Kind::Result, &b.key).await.unwrap().record;
            match (a, b) {
                (None, None) => {}
                (Some(a), Some(b)) => {
                    let (n, len) = (a.revision.0 - 1, a.body.len());
                    survey.torn += u64::from([a, b] != records(round, task, slot, n, len));
                    found.insert(slot, (n, len));
                }
                _ => survey.torn += 1,
            }
        }
        // The batch that was under way is done or not.
        let fits = [*done, *done + 1].into_iter().find(|done| state(round, task, *done, syncs) == found);
        match fits {
            Some(fits) => *done = fits,
            None => survey.lost += 1,
        }
    }
    survey
}

/// Panics unless the lists of the store name each record once.
async fn check_lists(store: &SledStore, rounds: &[Vec<u64>], syncs: Syncs) {
    let mut expected = 0;
    for (round, done) in (0..).zip(rounds) {
        for (task, done) in (0..).zip(done) {
            let records = 2 * state(round, task, *done, syncs).len();
            let filter = Filter { execution: Some(format!("{round}/{task}").into()), ..Filter::default() };
            assert_eq!(count(store, filter).await, records, "by execution");
            expected += records;
        }
    }
    assert_eq!(count(store, Filter::default()).await, expected, "by creation");
    let mut by_step = 0;
    for n in 0..3 {
        by_step += count(store, Filter { step: Some(format!("Step{n}").into()), ..Filter::default() }).await;
    }
    assert_eq!(by_step, expected, "by step");
    assert_eq!(store.scan(&Query::Expired, 1_000_000).await.unwrap().records.len(), expected, "by expiry");
}

async fn count(store: &SledStore, filter: Filter) -> usize {
    let query = Query::Newest { kind: Kind::Result, filter, after: None };
    store.scan(&query, 1_000_000).await.unwrap().records.len()
}

fn torture() -> bool {
    std::env::var("DOCKET_TORTURE").is_ok_and(|value| value == "1")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_was_acknowledged_survives_the_death_of_the_process() {
    let rounds = if torture() { 400 } else { 20 };
    let directory = tempfile::tempdir().unwrap();
    let mut past: Vec<Vec<u64>> = Vec::new();
    for round in 0..rounds {
        let time = Duration::from_millis(mix(round) % 150);
        let mut done = run_child(directory.path(), round, Syncs::Both, time, None);
        let store = SledStore::open(directory.path()).unwrap();
        let found = survey(&store, round, &mut done, Syncs::Both).await;
        assert_eq!((found.lost, found.torn), (0, 0), "round {round}, acknowledged {done:?}");
        past.push(done);
        if round % 5 == 4 {
            for (round, done) in (0..).zip(&mut past) {
                let found = survey(&store, round, done, Syncs::Both).await;
                assert_eq!((found.lost, found.torn), (0, 0), "round {round}, looked at later");
            }
            check_lists(&store, &past, Syncs::Both).await;
        }
        store.close().await.unwrap();
    }
    let acknowledged: u64 = past.iter().flatten().sum();
    assert!(acknowledged > rounds * TASKS, "{acknowledged} batches in {rounds} rounds prove nothing");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy(&file.path(), &target);
        } else {
            std::fs::copy(file.path(), target).unwrap();
        }
    }
}

/// A directory on a disk that can lose its power.
struct Disk {
    root: tempfile::TempDir,
    shim: PathBuf,
    losses: u64,
}

impl Disk {
    /// None where there is no C compiler, or none whose libraries the linker would load here.
    fn new() -> Option<Self> {
        if !cfg!(target_os = "linux") {
            return None;
        }
        let root = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sled/power.c");
        let shim = root.path().join("power.so");
        let compiled = Command::new("cc")
            .args(["-O1", "-shared", "-fPIC", "-o"])
            .arg(&shim)
            .arg(source)
            .arg("-ldl")
            .status();
        match compiled {
            Ok(status) => assert!(status.success(), "the shim does not compile"),
            Err(_) => {
                assert!(!torture(), "a C compiler is needed to simulate the loss of power");
                eprintln!("skipped: a C compiler is needed to simulate the loss of power");
                return None;
            }
        }
        std::fs::create_dir(root.path().join("store-0")).unwrap();
        Some(Self { root, shim, losses: 0 })
    }

    /// Runs a child on what is on the disk, and takes the power away: only what was synced stays.
    fn lose_power(&mut self, round: u64, syncs: Syncs) -> (PathBuf, Vec<u64>) {
        let place = |name: &str, n| self.root.path().join(format!("{name}-{n}"));
        let (directory, image) = (place("store", self.losses), place("store", self.losses + 1));
        copy(&directory, &image);
        let time = Duration::from_millis(30 + mix(round) % 200);
        let preload = [("LD_PRELOAD", self.shim.as_path()), ("IMAGE_OF", &directory), ("IMAGE", &image)];
        let done = run_child(&directory, round, syncs, time, Some(preload));
        std::fs::remove_dir_all(directory).unwrap();
        self.losses += 1;
        (image, done)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_was_acknowledged_as_synced_survives_the_loss_of_power() {
    let Some(mut disk) = Disk::new() else { return };
    let rounds = if torture() { 100 } else { 8 };
    let mut past: Vec<Vec<u64>> = Vec::new();
    for round in 0..rounds {
        let (image, mut done) = disk.lose_power(round, Syncs::Now);
        let store = SledStore::open(&image).unwrap();
        let found = survey(&store, round, &mut done, Syncs::Now).await;
        assert_eq!((found.lost, found.torn), (0, 0), "round {round}, acknowledged {done:?}");
        past.push(done);
        for (round, done) in (0..).zip(&mut past) {
            let found = survey(&store, round, done, Syncs::Now).await;
            assert_eq!((found.lost, found.torn), (0, 0), "round {round}, looked at later");
        }
        check_lists(&store, &past, Syncs::Now).await;
        store.close().await.unwrap();
    }
}

/// The control: without it, the test above could pass because nothing is ever lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_simulated_loss_of_power_takes_what_was_not_synced() {
    let Some(mut disk) = Disk::new() else { return };
    let (mut lost, mut torn) = (0, 0);
    for round in 0..4 {
        let (image, mut done) = disk.lose_power(round, Syncs::Later);
        // What was lost may be the store itself: then it is a new one.
        let store = SledStore::open(&image).unwrap();
        let found = survey(&store, round, &mut done, Syncs::Later).await;
        lost += found.lost;
        torn += found.torn;
        store.close().await.unwrap();
    }
    assert!(lost > 0, "nothing that was not synced is lost");
    assert_eq!(torn, 0, "what is lost is lost whole");
}
