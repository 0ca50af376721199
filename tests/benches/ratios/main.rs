//! Measures Docket beside floors in the same process, interleaved, and prints ratios: machines are
//! shared and noisy, so absolute times say little.

#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a benchmark prints and reads clocks")]

mod batches;
mod durable;
mod raw;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use docket_graph::Port;
use docket_runtime::{
    Artifacts, EpochTicker, ExecutionError, Host, HostOptions, Request, StepOptions, TICK, Value,
};
use docket_tests::{fixture, target_dir};
use raw::{Raw, best_settings, our_settings};
use tokio::runtime::Runtime;

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Rounds of each comparison; the two sides take turns in each.
const ROUNDS: usize = 15;

struct Row {
    what: &'static str,
    measured: String,
    floor: String,
    ratio: f64,
    goal: &'static str,
}

/// A part of the table: its name, and what makes its rows.
type Measurement = (&'static str, fn() -> Vec<Row>);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, mode, artifact] = &arguments[..]
        && mode == "--bare"
    {
        return bare(Path::new(artifact));
    }
    if arguments.iter().any(|argument| argument == "--loop") {
        return endless();
    }
    if arguments.iter().any(|argument| argument == "--loop-graph") {
        return endless_graph();
    }
    if arguments.iter().any(|argument| argument == "--loop-durable") {
        return durable::endless();
    }
    if arguments.iter().any(|argument| argument == "--loop-commits") {
        return durable::endless_commits();
    }
    if arguments.iter().any(|argument| argument == "--loop-wide") {
        return durable::endless_graph();
    }
    if arguments.iter().any(|argument| argument == "--loop-kept") {
        return batches::endless_kept();
    }
    if arguments.iter().any(|argument| argument == "--loop-items") {
        return batches::endless();
    }
    if arguments.iter().any(|argument| argument == "--loop-raw") {
        return endless_raw();
    }
    // Cargo hands over `--bench`; anything else chooses rows by a part of their name.
    let only = arguments.iter().skip(1).find(|argument| !argument.starts_with('-'));
    let measurements: [Measurement; 13] = [
        ("step", one_step),
        ("flight", many_in_flight),
        ("graph", large_graph),
        ("start", process_start),
        ("timeout", timeout_overshoot),
        ("durable", durable::durable),
        ("wide", durable::durable_graph),
        ("single", durable::one_at_a_time),
        ("hit", durable::hits),
        ("items", batches::items),
        ("reuse", batches::reuse),
        ("aggregate", batches::aggregate),
        ("keeping", batches::kept_items),
    ];
    println!("{:<66} {:>12} {:>12} {:>7}  goal", "what", "docket", "floor", "ratio");
    for (name, measure) in measurements {
        if only.is_none_or(|only| name.contains(only.as_str())) {
            for row in measure() {
                let Row { what, measured, floor, ratio, goal } = row;
                println!("{what:<66} {measured:>12} {floor:>12} {ratio:>7.2}  {goal}");
            }
        }
    }
}

fn runtime(workers: usize) -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(workers).enable_all().build().expect("a runtime")
}

fn options() -> HostOptions {
    HostOptions { artifacts: Artifacts::Dir(artifact_dir()), ..HostOptions::default() }
}

fn artifact_dir() -> PathBuf {
    target_dir().join("bench-artifacts")
}

fn load(runtime: &Runtime, name: &str, options: HostOptions) -> Host {
    let builder = Host::builder().options(options).module(name, fixture(name));
    runtime.block_on(builder.build()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A profile of 100 bytes, encoded.
fn message() -> Vec<u8> {
    let mut bytes = vec![0x0a, 98];
    bytes.extend([b'a'; 98]);
    bytes
}

fn port(text: &str) -> Port {
    Port::parse(text).expect("a port")
}

/// A request as a service makes it: ports that it knows, and a message that it has just encoded.
fn echo_request(message: &[u8]) -> Request {
    static PORTS: OnceLock<[Port; 2]> = OnceLock::new();
    let [input, output] =
        PORTS.get_or_init(|| ["example.v1.UserProfile#in", "example.v1.UserProfile#out"].map(port));
    Request::new(output.clone()).value(input.clone(), Value::one(message.to_vec()))
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// Lets the sides take turns and returns the median of each, and of the ratios to the last side.
fn compare<const N: usize>(sides: [&mut dyn FnMut() -> f64; N]) -> ([f64; N], [f64; N]) {
    let samples = rounds(sides, || {});
    let ratios = samples.each_ref().map(|side| paired(side, &samples[N - 1]));
    (samples.map(median), ratios)
}

/// Lets the sides take turns, each round begun by another, and returns what each has measured. Before each
/// measurement there is a rest, so that nobody pays for what the side before has left to be done.
fn rounds<const N: usize>(sides: [&mut dyn FnMut() -> f64; N], mut rest: impl FnMut()) -> [Vec<f64>; N] {
    let mut samples = [const { Vec::new() }; N];
    for round in 0..=ROUNDS {
        for turn in 0..N {
            let side = (round + turn) % N;
            rest();
            let taken = sides[side]();
            // The first round warms up.
            if round > 0 {
                samples[side].push(taken);
            }
        }
    }
    samples
}

/// Returns the median of the ratios of two sides in the same round.
fn paired(side: &[f64], floor: &[f64]) -> f64 {
    median(side.iter().zip(floor).map(|(side, floor)| side / floor).collect())
}

fn micros(seconds: f64) -> String {
    format!("{:.2} µs", seconds * 1e6)
}

fn millis(seconds: f64) -> String {
    format!("{:.2} ms", seconds * 1e3)
}

const CALLS: u32 = 2_000;

fn one_step() -> Vec<Row> {
    let runtime = runtime(1);
    let host = load(&runtime, "bench_echo", options());
    let message = message();
    let ours = Raw::new(&our_settings(), &fixture("bench_echo"));
    let best = Raw::new(&best_settings(), &fixture("bench_echo"));
    let _tickers = [&ours, &best].map(|raw| EpochTicker::start(&raw.engine).expect("a thread"));

    let mut docket = || {
        runtime.block_on(async {
            let began = Instant::now();
            for _ in 0..CALLS {
                let outcome = host.execute(echo_request(&message)).await.expect("a good request");
                assert!(outcome.result.is_ok());
            }
            began.elapsed().as_secs_f64() / f64::from(CALLS)
        })
    };
    let raw = |raw: &Raw| {
        runtime.block_on(async {
            let began = Instant::now();
            for _ in 0..CALLS {
                assert_eq!(raw.call("Echo", &[&message]).await, 100);
            }
            began.elapsed().as_secs_f64() / f64::from(CALLS)
        })
    };
    let (mut ours, mut best) = (|| raw(&ours), || raw(&best));
    let (step, step_ratio) = compare([&mut docket, &mut ours]);
    let (engine, engine_ratio) = compare([&mut ours, &mut best]);
    vec![
        Row {
            what: "one step, fresh instance, 100 B, against a raw call",
            measured: micros(step[0]),
            floor: micros(step[1]),
            ratio: step_ratio[0],
            goal: "<= 1.25",
        },
        Row {
            what: "raw call with our settings, against the best settings known",
            measured: micros(engine[0]),
            floor: micros(engine[1]),
            ratio: engine_ratio[0],
            goal: "<= 1.05",
        },
    ]
}

/// One execution after the other, for a profiler.
fn endless() {
    let runtime = runtime(1);
    let host = load(&runtime, "bench_echo", options());
    let message = message();
    let began = Instant::now();
    runtime.block_on(async {
        for _ in 0..200_000 {
            let outcome = host.execute(echo_request(&message)).await.expect("a good request");
            assert!(outcome.result.is_ok());
        }
    });
    println!("{} a step", micros(began.elapsed().as_secs_f64() / 200_000.0));
}

/// One large graph after the other, for a profiler.
fn endless_graph() {
    let runtime = runtime(2);
    let lanes = std::env::args().find_map(|a| a.strip_prefix("--lanes=")?.parse().ok()).unwrap_or(2);
    let host = load(&runtime, "bench_layers", HostOptions { lanes, ..options() });
    let (target, given) = (port("example.v1.UserProfile"), port("example.v1.UserProfile#in"));
    let began = Instant::now();
    for _ in 0..50 {
        let request = Request::new(target.clone()).value(given.clone(), Value::one(message()));
        runtime.block_on(host.execute(request)).expect("a good request").result.expect("a result");
    }
    println!("{} a graph", millis(began.elapsed().as_secs_f64() / 50.0));
}

/// The floor of one step, or of those of a large graph: one raw call after the other, for a profiler.
fn endless_raw() {
    let echo = std::env::args().any(|argument| argument == "--echo");
    if echo && std::env::args().any(|argument| argument == "--lanes=2") {
        return batches::endless_raw();
    }
    let runtime = runtime(1);
    let raw = Raw::new(&our_settings(), &fixture(if echo { "bench_echo" } else { "bench_layers" }));
    let _ticker = EpochTicker::start(&raw.engine).expect("a thread");
    let message = message();
    let began = Instant::now();
    runtime.block_on(async {
        for _ in 0..200_000 {
            if echo {
                raw.call("Echo", &[&message]).await;
            } else {
                raw.call("Step2-0", &[&message, &message, &message]).await;
            }
        }
    });
    println!("{} a call", micros(began.elapsed().as_secs_f64() / 200_000.0));
}

/// Calls by 64 tasks on two workers, as a rate.
fn many_in_flight() -> Vec<Row> {
    const TASKS: usize = 64;
    const EACH: usize = 200;
    let runtime = runtime(2);
    let host = load(&runtime, "bench_echo", options());
    let raw = Arc::new(Raw::new(&our_settings(), &fixture("bench_echo")));
    let _ticker = EpochTicker::start(&raw.engine).expect("a thread");
    let rate = |spawn: &dyn Fn() -> tokio::task::JoinHandle<()>| {
        let began = Instant::now();
        runtime.block_on(async {
            for task in (0..TASKS).map(|_| spawn()).collect::<Vec<_>>() {
                task.await.expect("no panic");
            }
        });
        (TASKS * EACH) as f64 / began.elapsed().as_secs_f64()
    };
    let mut docket = || {
        rate(&|| {
            let host = host.clone();
            runtime.spawn(async move {
                let message = message();
                for _ in 0..EACH {
                    let outcome = host.execute(echo_request(&message)).await.expect("a good request");
                    assert!(outcome.result.is_ok());
                }
            })
        })
    };
    let mut floor = || {
        rate(&|| {
            let raw = Arc::clone(&raw);
            runtime.spawn(async move {
                let message = message();
                for _ in 0..EACH {
                    assert_eq!(raw.call("Echo", &[&message]).await, 100);
                }
            })
        })
    };
    let (rates, ratios) = compare([&mut docket, &mut floor]);
    vec![Row {
        what: "64 in flight on 2 workers, executions a second",
        measured: format!("{:.0}/s", rates[0]),
        floor: format!("{:.0}/s", rates[1]),
        ratio: ratios[0],
        goal: ">= 0.80",
    }]
}

fn large_graph() -> Vec<Row> {
    let runtime = runtime(2);
    let lanes = std::env::args().find_map(|a| a.strip_prefix("--lanes=")?.parse().ok()).unwrap_or(2);
    let host = load(&runtime, "bench_layers", HostOptions { lanes, ..options() });
    let target = port("example.v1.UserProfile");
    let given = [port("example.v1.UserProfile#in")];
    let plan = host.plan(&target, &given).expect("a plan");
    let steps = plan.len();
    let raw = Arc::new(Raw::new(&our_settings(), &fixture("bench_layers")));
    let _ticker = EpochTicker::start(&raw.engine).expect("a thread");
    let mut docket = || {
        let request = Request::new(target.clone()).value(given[0].clone(), Value::one(message()));
        let began = Instant::now();
        let outcome = runtime.block_on(host.execute(request)).expect("a good request");
        assert!(outcome.result.is_ok());
        began.elapsed().as_secs_f64()
    };
    let message = Arc::new(message());
    let mut floor = || {
        let left = Arc::new(AtomicUsize::new(steps));
        let began = Instant::now();
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let (raw, left, message) = (Arc::clone(&raw), Arc::clone(&left), Arc::clone(&message));
                runtime.spawn(async move {
                    let take =
                        || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
                    while take().is_ok() {
                        raw.call("Step2-0", &[&message, &message, &message]).await;
                    }
                })
            })
            .collect();
        for worker in workers {
            runtime.block_on(worker).expect("no panic");
        }
        began.elapsed().as_secs_f64()
    };
    let (times, ratios) = compare([&mut docket, &mut floor]);
    vec![Row {
        what: "a graph of 10,001 steps that do nothing, against 10,001 raw calls",
        measured: millis(times[0]),
        floor: millis(times[1]),
        ratio: ratios[0],
        goal: "<= 1.20",
    }]
}

/// The bare program that a process start is measured against: loads one artifact, makes one call.
fn bare(artifact: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let raw = Raw::load(&our_settings(), artifact);
    let _ticker = EpochTicker::start(&raw.engine).expect("a thread");
    println!("{}", runtime.block_on(raw.call("Echo", &[&message()])));
}

fn process_start() -> Vec<Row> {
    let modules = target_dir().join("bench-modules");
    let artifacts = target_dir().join("bench-start-artifacts");
    let _ = std::fs::remove_dir_all(&artifacts);
    std::fs::create_dir_all(&modules).expect("a directory");
    std::fs::write(modules.join("bench_echo.wasm"), fixture("bench_echo")).expect("a module");
    let docket_host = target_dir().join("release/docket-host");
    let json = format!(r#"example.v1.UserProfile#in={{"name":"{}"}}"#, "a".repeat(98));
    let mut docket = || {
        let mut command = Command::new(&docket_host);
        command.args(["run", "--module-dir"]).arg(&modules).arg("--artifact-dir").arg(&artifacts);
        timed(command.args(["--input", &json]))
    };
    let first = docket();
    let artifact = find(&artifacts, "cwasm").expect("docket-host has kept the artifact");
    let this = std::env::current_exe().expect("a path");
    let mut floor = || timed(Command::new(&this).arg("--bare").arg(&artifact));
    let (times, ratios) = compare([&mut docket, &mut floor]);
    vec![
        Row {
            what: "process start to first result, known module, against a bare program",
            measured: millis(times[0]),
            floor: millis(times[1]),
            ratio: ratios[0],
            goal: "<= 1.50",
        },
        Row {
            what: "the same for the first time, compiling the module",
            measured: millis(first),
            floor: millis(times[1]),
            ratio: first / times[1],
            goal: "",
        },
    ]
}

fn timed(command: &mut Command) -> f64 {
    let began = Instant::now();
    let output = command.output().expect("the program runs");
    let elapsed = began.elapsed().as_secs_f64();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    elapsed
}

fn find(dir: &Path, extension: &str) -> Option<PathBuf> {
    std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).find_map(|path| {
        if path.is_dir() {
            find(&path, extension)
        } else {
            path.extension().is_some_and(|e| e == extension).then_some(path)
        }
    })
}

/// How late a timeout comes while more guests spin than there are workers, in ticks.
fn timeout_overshoot() -> Vec<Row> {
    const LIMIT: Duration = Duration::from_millis(200);
    let workers = 2;
    let runtime = runtime(workers);
    let mut spinning = options();
    spinning.defaults = StepOptions { timeout: Some(LIMIT), ..StepOptions::default() };
    let host = load(&runtime, "spin", spinning);
    let mut late = Vec::new();
    for _ in 0..10 {
        let guests: Vec<_> = (0..workers + 1)
            .map(|_| {
                let host = host.clone();
                runtime.spawn(async move { host.execute(docket_tests::profile_request()).await })
            })
            .collect();
        for guest in guests {
            let outcome = runtime.block_on(guest).expect("no panic").expect("a good request");
            assert!(matches!(outcome.result, Err(ExecutionError::Failed { .. })));
            late.push((outcome.report.steps[0].attempts[0].elapsed - LIMIT).as_secs_f64());
        }
    }
    late.sort_by(f64::total_cmp);
    let worst = late[late.len() - 1];
    vec![Row {
        what: "a timeout's overshoot, worst of 30, 3 spinning guests on 2 workers",
        measured: millis(worst),
        floor: millis(TICK.as_secs_f64()),
        ratio: worst / TICK.as_secs_f64(),
        goal: "<= 2.00",
    }]
}
