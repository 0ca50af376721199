//! Measures batches beside bare loops that call the same component as often on as many cores.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use docket_graph::Scope;
use docket_runtime::{
    BatchRequest, EpochTicker, Host, HostOptions, Instance, ItemsError, Request, StepOptions,
};
use docket_tests::fixture;
use futures_util::stream;
use prost::bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::durable::{Keeps, host, kept, rows, settled, sled};
use crate::raw::{Raw, Used, our_settings};
use crate::{Row, compare, load, median, message, millis, options, paired, port, rounds, runtime};

/// How many items a batch has that keeps nothing.
const ITEMS: usize = 100_000;

/// How many items a batch has of which each is kept.
const KEPT: usize = 2_000;

/// Returns a message that no other is equal to, of 100 bytes.
fn item(number: usize) -> Bytes {
    let mut bytes = vec![0x0a, 98];
    bytes.extend(format!("{number:098}").as_bytes());
    bytes.into()
}

fn echoes(host: &Host, runtime: &Runtime, items: usize) -> f64 {
    let request = BatchRequest::new(Request::new(port("example.v1.UserProfile#out")));
    // Made before: what is measured is how they are carried out.
    let items_of: Vec<_> = (0..items).map(|n| Ok::<_, ItemsError>(item(n))).collect();
    let items_of = stream::iter(items_of);
    let began = Instant::now();
    let mut batch = host.batch(request, items_of).expect("a good request");
    // On the threads of the steps, as in the binary: its turns are handed on without waking another.
    let taking = runtime.spawn(async move {
        let mut taken = 0;
        while let Some(outcome) = batch.next().await {
            assert!(outcome.result.is_ok());
            taken += 1;
        }
        taken
    });
    assert_eq!(runtime.block_on(taking).expect("no panic"), items);
    items as f64 / began.elapsed().as_secs_f64()
}

/// Whether the bare loop has an instance for each call, or one for each task.
#[derive(Clone, Copy)]
enum Instances {
    Fresh,
    Reused,
}

/// Calls a component from two tasks, as a rate.
fn calls(raw: &Arc<Raw>, runtime: &Runtime, calls: usize, instances: Instances) -> f64 {
    let left = Arc::new(AtomicUsize::new(calls));
    let began = Instant::now();
    let caller = || {
        let (raw, left) = (Arc::clone(raw), Arc::clone(&left));
        runtime.spawn(async move {
            let message = message();
            let take = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
            match instances {
                Instances::Fresh => {
                    while take().is_ok() {
                        assert_eq!(raw.call("Echo", &[&message]).await, 100);
                    }
                }
                Instances::Reused => {
                    let mut used = Used::of(&raw).await;
                    while take().is_ok() {
                        assert_eq!(used.call("Echo", &[&message]).await, 100);
                    }
                }
            }
        })
    };
    for caller in [caller(), caller()] {
        runtime.block_on(caller).expect("no panic");
    }
    calls as f64 / began.elapsed().as_secs_f64()
}

/// What a program does by hand that wants as much: two tasks take the same items, and the answers are handed out in order.
/// Nothing is checked, limited or reported. As a rate.
fn by_hand(raw: &Arc<Raw>, runtime: &Runtime, items: usize, instances: Instances) -> f64 {
    let items_of: Vec<_> = (0..items).map(item).collect();
    let began = Instant::now();
    let items_of = Arc::new(Mutex::new(items_of.into_iter().enumerate()));
    let (answer, mut answers) = mpsc::channel(256);
    for _ in 0..2 {
        let (raw, items_of, answer) = (Arc::clone(raw), Arc::clone(&items_of), answer.clone());
        runtime.spawn(async move {
            let mut used = None;
            let next = || items_of.lock().expect("no panic").next();
            while let Some((index, item)) = next() {
                let mut instance = match used.take() {
                    Some(used) => used,
                    None => Used::of(&raw).await,
                };
                let message = instance.answer("Echo", &item).await;
                used = Some(instance).filter(|_| matches!(instances, Instances::Reused));
                answer.send((index, message)).await.expect("somebody takes it");
            }
        });
    }
    drop(answer);
    let taking = runtime.spawn(async move {
        let (mut taken, mut early) = (0, BTreeMap::new());
        while let Some((index, message)) = answers.recv().await {
            early.insert(index, message);
            while let Some(message) = early.remove(&taken) {
                assert_eq!(message.len(), 100);
                taken += 1;
            }
        }
        taken
    });
    assert_eq!(runtime.block_on(taking).expect("no panic"), items);
    items as f64 / began.elapsed().as_secs_f64()
}

/// Returns the rows of items beside raw calls, and beside the same by hand.
fn beside(runtime: &Runtime, host: &Host, instances: Instances) -> [Row; 2] {
    let raw = Arc::new(Raw::new(&our_settings(), &fixture("bench_echo")));
    let _ticker = EpochTicker::start(&raw.engine).expect("a thread");
    let (mut docket, mut hand, mut floor) = (
        || 1.0 / echoes(host, runtime, ITEMS),
        || 1.0 / by_hand(&raw, runtime, ITEMS, instances),
        || 1.0 / calls(&raw, runtime, ITEMS, instances),
    );
    let [docket, hand, floor] = rounds([&mut docket, &mut hand, &mut floor], || {});
    let row = |what, floor: &Vec<f64>, goal| Row {
        what,
        measured: format!("{:.0}/s", 1.0 / median(docket.clone())),
        floor: format!("{:.0}/s", 1.0 / median(floor.clone())),
        ratio: paired(&docket, floor),
        goal,
    };
    let (what, goal) = match instances {
        Instances::Fresh => ("100,000 items of 100 B, fresh instances, time against raw calls", "<= 1.15"),
        Instances::Reused => ("100,000 items of 100 B, instances used again, against raw calls", "<= 1.30"),
    };
    [
        row(what, &floor, goal),
        row("  against two tasks that take them, and hand out answers in order", &hand, ""),
    ]
}

/// Items of a step that keeps nothing, as a rate.
pub(crate) fn items() -> Vec<Row> {
    let runtime = runtime(2);
    let host = load(&runtime, "bench_echo", HostOptions { lanes: 2, ..options() });
    beside(&runtime, &host, Instances::Fresh).into()
}

/// The options of a host that uses the instances of the step again.
fn reusing() -> HostOptions {
    let step = StepOptions { instance: Some(Instance::Reuse), ..StepOptions::default() };
    HostOptions { lanes: 2, steps: [("Echo".to_owned(), step)].into(), ..options() }
}

/// Items of a step whose instances are used again, as a rate.
pub(crate) fn reuse() -> Vec<Row> {
    let runtime = runtime(2);
    let host = load(&runtime, "bench_echo", reusing());
    beside(&runtime, &host, Instances::Reused).into()
}

/// Items that come together in one step, against one call with the list of them.
pub(crate) fn aggregate() -> Vec<Row> {
    let runtime = runtime(2);
    let host = load(&runtime, "join_many", HostOptions { lanes: 2, ..options() });
    let raw = Raw::new(&our_settings(), &fixture("join_many"));
    let _ticker = EpochTicker::start(&raw.engine).expect("a thread");
    let mut docket = || {
        let request = BatchRequest::new(Request::new(port("example.v1.UserProfile")));
        let items = stream::iter((0..ITEMS).map(|n| Ok::<_, ItemsError>(item(n))));
        let began = Instant::now();
        let batch = host.batch(request, items).expect("a good request");
        let outcome = runtime.block_on(batch.outcome()).expect("a good request");
        assert!(outcome.result.expect("a result").is_some());
        began.elapsed().as_secs_f64()
    };
    let mut floor = || {
        let began = Instant::now();
        let items: Vec<Bytes> = (0..ITEMS).map(item).collect();
        let items: Vec<&[u8]> = items.iter().map(|item| &item[..]).collect();
        assert!(runtime.block_on(raw.call_with_list("JoinUsers", &items)) > 98 * ITEMS);
        began.elapsed().as_secs_f64()
    };
    let (times, ratios) = compare([&mut docket, &mut floor]);
    vec![Row {
        what: "100,000 items of 100 B into one step, against one raw call with the list",
        measured: millis(times[0]),
        floor: millis(times[1]),
        ratio: ratios[0],
        goal: "<= 1.50",
    }]
}

/// Kept items on sled, 64 in flight, as a rate.
pub(crate) fn kept_items() -> Vec<Row> {
    let runtime = runtime(2);
    let (_dir, store) = sled();
    let host = host(&runtime, kept(Scope::Workflow), Arc::clone(&store));
    let what = [
        "kept items of a batch, 64 in flight on sled, against bare commits of the same",
        "  against the same commits, with one bare wasmtime call for each",
        "  against commits of one record alone",
        "  with the time in which sled takes what is left, against commits of the same",
    ];
    let work = || {
        echoes(&host, &runtime, KEPT);
    };
    let mut docket = || settled(&runtime, &*store, KEPT, work);
    let mut rows = rows(&runtime, what, (KEPT, Keeps::Result), ("bench_echo", "Echo", 1), &mut docket);
    rows[0].goal = ">= 0.70";
    rows
}

/// One batch after the other, for a profiler.
pub(crate) fn endless() {
    let lanes = std::env::args().find_map(|a| a.strip_prefix("--lanes=")?.parse().ok()).unwrap_or(2);
    let runtime = runtime(lanes);
    let reuses = std::env::args().any(|argument| argument == "--reuse");
    let options = if reuses { reusing() } else { options() };
    let host = load(&runtime, "bench_echo", HostOptions { lanes, ..options });
    for _ in 0..20 {
        println!("{:.0} items a second", echoes(&host, &runtime, ITEMS / 2));
    }
}

/// The bare loop of items, for a profiler.
pub(crate) fn endless_raw() {
    let runtime = runtime(2);
    let raw = Arc::new(Raw::new(&our_settings(), &fixture("bench_echo")));
    let _ticker = EpochTicker::start(&raw.engine).expect("a thread");
    for _ in 0..20 {
        println!("{:.0} calls a second", calls(&raw, &runtime, ITEMS / 2, Instances::Fresh));
    }
}

/// Batches whose items are kept, for a profiler.
pub(crate) fn endless_kept() {
    let runtime = runtime(2);
    let (_dir, store) = sled();
    let host = host(&runtime, kept(Scope::Workflow), store);
    for _ in 0..20 {
        println!("{:.0} items a second", echoes(&host, &runtime, KEPT));
    }
}
