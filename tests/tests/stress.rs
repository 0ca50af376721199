//! Many executions at once, ended in every way at random moments: the events of each come in order,
//! every step has one outcome, and nothing is left behind. And how the lanes of one share its work.

#![expect(clippy::disallowed_methods, reason = "tests spawn and wait in real time")]
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::Poll;
use std::thread::{self, ThreadId};
use std::time::Duration;

use docket_graph::OnItemError;
use docket_runtime::{
    BatchRequest, Canceller, Event, ExecutionError, ExecutionId, Host, HostOptions, ItemCounts, ItemsError,
    Observer, Outcome, Request, RetryOptions, StepOptions, StepOutcome,
};
use docket_tests::example::{EnrichedUser, UserId, UserProfile};
use docket_tests::{execute, fixture, guest, host_with, options, profile_request};
use futures_util::stream;
use prost::Message as _;

/// What must be over before a step begins, by the steps' names.
const NEEDS: [(&str, &[&str]); 4] = [
    ("Left", &["Source"]),
    ("Right", &["Source"]),
    ("Join", &["Left", "Right"]),
    ("EnrichUser", &["FetchActivity", "FetchPreferences", "FetchProfile"]),
];

/// Follows every execution, and notes each event that cannot come where it came.
#[derive(Default)]
struct Referee(Mutex<Game>);

#[derive(Default)]
struct Game {
    executions: BTreeMap<ExecutionId, Track>,
    faults: Vec<String>,
}

#[derive(Default)]
struct Track {
    steps: usize,
    over: bool,
    attempts: BTreeMap<String, u32>,
    open: BTreeSet<String>,
    ended: BTreeMap<String, StepOutcome>,
}

impl Track {
    /// Returns why this event cannot come now.
    fn fault(&mut self, event: &Event<'_>) -> Option<String> {
        if self.over {
            return Some("comes after the end".into());
        }
        match event {
            Event::ExecutionStarted { steps, .. } => {
                let first = self.steps == 0 && self.attempts.is_empty();
                self.steps = *steps;
                (!first).then(|| "starts twice".into())
            }
            Event::AttemptStarted { step, attempt, .. } => {
                let needs =
                    NEEDS.iter().find(|(name, _)| *name == step.as_str()).map_or(&[][..], |(_, needs)| needs);
                let missing = needs.iter().find(|need| self.ended.get(**need) != Some(&StepOutcome::Done));
                let made = self.attempts.entry(step.to_string()).or_default();
                *made += 1;
                let in_order = *made == *attempt && self.open.insert(step.to_string());
                match missing {
                    Some(need) => Some(format!("starts before `{need}` is done")),
                    None => (!in_order || self.ended.contains_key(step.as_str()))
                        .then(|| "starts out of order".into()),
                }
            }
            Event::Output { step, .. } => {
                (!self.open.contains(step.as_str())).then(|| "comes from no open attempt".into())
            }
            Event::AttemptEnded { step, .. } => {
                (!self.open.remove(step.as_str())).then(|| "ends nothing".into())
            }
            Event::RetryScheduled { step, attempt, .. } => {
                (self.attempts.get(step.as_str()) != Some(&(attempt - 1))).then(|| "is the wrong try".into())
            }
            Event::StepEnded { step, outcome, .. } => {
                self.open.remove(step.as_str());
                self.ended.insert(step.to_string(), *outcome).map(|_| "ends twice".into())
            }
            Event::ExecutionEnded { .. } => {
                self.over = true;
                let all = self.ended.len() == self.steps && self.open.is_empty();
                (!all).then(|| format!("ends with {} of {} steps ended", self.ended.len(), self.steps))
            }
            _ => Some("is unknown".into()),
        }
    }
}

impl Observer for Referee {
    fn on_event(&self, execution: &ExecutionId, event: &Event<'_>) {
        let mut game = self.0.lock().unwrap();
        if let Some(fault) = game.executions.entry(execution.clone()).or_default().fault(event) {
            game.faults.push(format!("{execution}: {event:?} {fault}"));
        }
    }
}

/// Numbers that look random and are the same in every run (SplitMix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// How an execution is to end.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Live,
    Cancel(Duration),
    DropAfter(Duration),
    DropAfterPolls(u64),
    Deadline(Duration),
}

impl Fate {
    fn drawn(chance: &mut Chance, longest: Duration) -> Self {
        let after = Duration::from_micros(chance.below(u64::try_from(longest.as_micros()).unwrap()));
        match chance.below(8) {
            0..4 => Fate::Live,
            4 => Fate::Cancel(after),
            5 => Fate::DropAfter(after),
            6 => Fate::DropAfterPolls(chance.below(12)),
            _ => Fate::Deadline(after),
        }
    }
}

/// Carries what leads to an outcome to the end that is meant for it; none where it was dropped on the way.
async fn carried<T>(fate: Fate, canceller: Canceller, all: impl Future<Output = T>) -> Option<T> {
    let mut all = pin!(all);
    match fate {
        Fate::Live | Fate::Deadline(_) => Some(all.await),
        Fate::Cancel(after) => {
            let cancel = async {
                tokio::time::sleep(after).await;
                canceller.cancel();
            };
            Some(tokio::join!(all, cancel).0)
        }
        Fate::DropAfter(after) => tokio::time::timeout(after, all).await.ok(),
        Fate::DropAfterPolls(mut polls) => {
            let polled = poll_fn(|context| match all.as_mut().poll(context) {
                Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
                Poll::Pending if polls == 0 => Poll::Ready(None),
                Poll::Pending => {
                    polls -= 1;
                    Poll::Pending
                }
            });
            polled.await
        }
    }
}

/// Returns the request with the deadline that is meant for it, if one is.
fn fated(request: Request, fate: Fate) -> Request {
    match fate {
        Fate::Deadline(limit) => request.timeout(limit),
        Fate::Live | Fate::Cancel(_) | Fate::DropAfter(_) | Fate::DropAfterPolls(_) => request,
    }
}

/// Carries one execution to the end that is meant for it. Checks an outcome, where there is one.
async fn live(host: Host, request: Request, fate: Fate) {
    let mut execution = host.start(fated(request, fate)).unwrap();
    let canceller = execution.canceller();
    if let Some(outcome) = carried(fate, canceller, execution.outcome()).await {
        check(&outcome.unwrap(), fate);
    }
}

fn check(outcome: &Outcome, fate: Fate) {
    let all_done = outcome.report.steps.iter().all(|step| step.outcome == StepOutcome::Done);
    match (&outcome.result, fate) {
        (Ok(_), _) => assert!(all_done, "{outcome:?}"),
        (Err(ExecutionError::Cancelled), Fate::Cancel(_))
        | (Err(ExecutionError::Deadline { .. }), Fate::Deadline(_)) => assert!(!all_done, "{outcome:?}"),
        (Err(_), _) => panic!("{fate:?}: {outcome:?}"),
    }
}

/// Runs two hundred executions over the modules at once, each to an end of its own.
async fn stress(
    modules: &[(&str, Vec<u8>)],
    options: HostOptions,
    request: fn() -> Request,
    longest: Duration,
) {
    let seed = options.lanes as u64 * 1000 + options.max_instances as u64;
    let referee = Arc::new(Referee::default());
    let mut builder = Host::builder().options(options).observer(referee.clone());
    for (name, bytes) in modules {
        builder = builder.module(name, bytes.clone());
    }
    let host = builder.build().await.unwrap_or_else(|error| panic!("{error}"));
    let mut chance = Chance(seed);
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..200 {
        running.spawn(live(host.clone(), request(), Fate::drawn(&mut chance, longest)));
    }
    let all = async {
        while let Some(joined) = running.join_next().await {
            joined.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("an execution hangs");
    assert_eq!(host.executions(), 0);
    // A lane that was dropped while its guest computed ends with the guest's time slice.
    execute(&host, request()).await.result.unwrap();
    let game = referee.0.lock().unwrap();
    assert!(game.faults.is_empty(), "{} faults, such as {:?}", game.faults.len(), game.faults.first());
    let unfinished = game.executions.values().filter(|track| !track.over).count();
    assert_eq!(unfinished, 0, "executions without an end");
}

/// Carries a batch of some words out, of which some wait and some fail, to the end that is meant for it. Checks what comes
/// of it until then.
async fn live_batch(host: Host, mut chance: Chance, fate: Fate) {
    let items = usize::try_from(chance.below(150)).unwrap();
    let mut word = |n: usize| match chance.below(40) {
        0 => format!("{n}-sleeps-{}", chance.below(20)),
        1 => format!("{n}-until-2"),
        2 => "fails".to_owned(),
        _ => n.to_string(),
    };
    let words: Vec<_> = (0..items).map(&mut word).collect();
    let policy = if chance.below(3) == 0 { OnItemError::Fail } else { OnItemError::Continue };
    let width = [1, 7, 64][usize::try_from(chance.below(3)).unwrap()];
    let width = NonZeroUsize::new(width).unwrap();
    let request = fated(Request::for_message::<UserProfile>(), fate);
    let request = BatchRequest::new(request).on_item_error(policy).max_concurrency(width);
    let told = words.clone().into_iter().map(|id| Ok::<_, ItemsError>(UserId { id }.encode_to_vec().into()));
    let mut batch = host.batch(request, stream::iter(told)).unwrap();
    let canceller = batch.canceller();
    let all = async {
        let mut taken = 0;
        while let Some(outcome) = batch.next().await {
            assert_eq!(outcome.index, taken);
            assert_eq!(outcome.result.is_err(), words[usize::try_from(taken).unwrap()] == "fails");
            taken += 1;
        }
        (taken, batch.outcome().await.unwrap())
    };
    let Some((taken, outcome)) = carried(fate, canceller, all).await else { return };
    let ItemCounts { done, failed, .. } = outcome.items;
    assert!(done + failed >= taken, "{:?}", outcome.items);
    let is_to_fail = policy == OnItemError::Fail && words.iter().any(|word| word == "fails");
    match (&outcome.result, fate) {
        (Ok(_), _) => assert_eq!((taken, done + failed, is_to_fail), (items as u64, items as u64, false)),
        (Err(ExecutionError::Cancelled), Fate::Cancel(_)) => {}
        (Err(ExecutionError::Deadline { .. }), Fate::Deadline(_)) => {}
        (Err(error), _) => assert!(is_to_fail, "{fate:?}: {error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn batches_that_end_at_random_lose_no_item_and_leave_nothing() {
    let retry = RetryOptions { max_attempts: 2.try_into().ok(), ..RetryOptions::default() };
    let step = StepOptions { retry, ..StepOptions::default() };
    for mut options in shapes() {
        options.steps.insert("FetchProfile".to_owned(), step.clone());
        let mut chance = Chance(options.lanes as u64 * 1000 + options.max_instances as u64);
        let host = host_with(&["obey"], options).await.unwrap();
        let mut running = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let fate = Fate::drawn(&mut chance, Duration::from_millis(60));
            running.spawn(live_batch(host.clone(), Chance(chance.below(u64::MAX)), fate));
        }
        let all = async {
            while let Some(joined) = running.join_next().await {
                joined.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(60), all).await.expect("a batch hangs");
        // The task of a batch that was dropped is gone soon.
        while host.executions() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        execute(&host, profile_request()).await.result.unwrap();
    }
}

fn enriched_request() -> Request {
    Request::for_message::<EnrichedUser>().input(&UserId { id: "user-123".into() })
}

/// The settings that change who does what when.
fn shapes() -> impl Iterator<Item = HostOptions> {
    let shapes = [(1, 64), (2, 64), (8, 64), (4, 3), (2, 1)];
    shapes.into_iter().map(|(lanes, max_instances)| HostOptions { lanes, max_instances, ..options() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn quick_executions_that_end_at_random_keep_their_order_and_leave_nothing() {
    for options in shapes() {
        let modules = [("diamond", fixture("diamond"))];
        stress(&modules, options, profile_request, Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn waiting_executions_that_end_at_random_keep_their_order_and_leave_nothing() {
    let guests = ["enrich_user", "fetch_activity", "fetch_preferences", "fetch_profile"];
    let modules = guests.map(|name| (name, guest(name)));
    for options in shapes().filter(|options| options.max_instances > 3) {
        stress(&modules, options, enriched_request, Duration::from_millis(300)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn computing_and_retried_executions_that_end_at_random_keep_their_order_and_leave_nothing() {
    for (name, longest) in [("fail_twice", 20), ("spin_briefly", 500)] {
        let options = HostOptions { lanes: 2, max_instances: 4, ..options() };
        stress(&[(name, fixture(name))], options, profile_request, Duration::from_millis(longest)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_told_of_an_execution_that_was_dropped_while_its_guest_wrote() {
    let much = StepOptions { logs: Some(64 << 20), log_lines: Some(u64::MAX), ..StepOptions::default() };
    let steps = BTreeMap::from([("FetchProfile".to_owned(), much)]);
    let modules = [
        ("enrich_user", guest("enrich_user")),
        ("fetch_activity", guest("fetch_activity")),
        ("fetch_preferences", guest("fetch_preferences")),
        ("flood_stdout", fixture("flood_stdout")),
    ];
    let referee = Arc::new(Referee::default());
    let mut builder = Host::builder().options(HostOptions { steps, lanes: 3, ..options() });
    for (name, bytes) in modules {
        builder = builder.module(name, bytes);
    }
    let host = builder.observer(referee.clone()).build().await.unwrap();
    for after in 0..40 {
        live(host.clone(), enriched_request(), Fate::DropAfter(Duration::from_millis(1 + after / 4))).await;
        // The guest's time slice ends within a tick.
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    let game = referee.0.lock().unwrap();
    assert!(game.faults.is_empty(), "{} faults, such as {:?}", game.faults.len(), game.faults.first());
}

/// Cancels its execution from outside once some attempts have begun, and counts the later ones.
#[derive(Default)]
struct CancelAfter {
    canceller: OnceLock<Canceller>,
    started: AtomicUsize,
}

/// How many attempts begin before the cancel.
const BEFORE: usize = 50;

impl Observer for CancelAfter {
    fn on_event(&self, _: &ExecutionId, event: &Event<'_>) {
        if let Event::AttemptStarted { .. } = event
            && self.started.fetch_add(1, Ordering::Relaxed) == BEFORE
        {
            self.canceller.get().unwrap().cancel();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wide_graph_of_quick_steps_notices_that_it_is_cancelled() {
    for lanes in [1, 2] {
        let observer = Arc::new(CancelAfter::default());
        let host = Host::builder()
            .options(HostOptions { lanes, ..options() })
            .module("wide.wasm", fixture("wide"))
            .observer(observer.clone())
            .build()
            .await
            .unwrap();
        let mut execution = host.start(profile_request()).unwrap();
        observer.canceller.set(execution.canceller()).unwrap();
        let outcome = execution.outcome().await.unwrap();
        assert!(matches!(outcome.result, Err(ExecutionError::Cancelled)), "all steps ran");
        let started = observer.started.load(Ordering::Relaxed);
        assert!(started < 4_000, "{started} of 5,001 steps were started");
    }
}

/// Remembers on which threads the attempts of each step began.
#[derive(Default)]
struct Threads(Mutex<BTreeMap<String, ThreadId>>);

impl Observer for Threads {
    fn on_event(&self, _: &ExecutionId, event: &Event<'_>) {
        if let Event::AttemptStarted { step, .. } = event {
            self.0.lock().unwrap().insert(step.to_string(), thread::current().id());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_waits_takes_its_part_when_much_becomes_ready() {
    let observer = Arc::new(Threads::default());
    let host = Host::builder()
        .options(HostOptions { lanes: 2, ..options() })
        .module("wave.wasm", fixture("wave"))
        .observer(observer.clone())
        .build()
        .await
        .unwrap();
    let outcome = execute(&host, profile_request()).await;
    assert!(outcome.result.is_ok(), "{outcome:?}");
    let threads = observer.0.lock().unwrap();
    // The first lane runs on this test's own thread, every other one on a worker.
    assert_ne!(threads["Base"], threads["Pause"], "the second lane is to wait for `Pause`");
    let waves = threads.iter().filter(|(step, _)| step.starts_with("Wave"));
    let on: BTreeSet<_> = waves.map(|(_, thread)| format!("{thread:?}")).collect();
    assert!(on.len() > 1, "all sixteen began on one lane: {threads:?}");
}
