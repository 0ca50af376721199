//! What a step sees of other attempts where its instance is used again: what it left in its memory itself, and nothing else.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use docket_graph::{OnItemError, Port, Scope};
use docket_runtime::{
    BatchRequest, Event, ExecutionError, ExecutionId, Grants, Host, HostOptions, Instance, ItemOutcome,
    ItemsError, Observer, Purity, Request, RetryOptions, StepFailure, StepOptions, Value,
};
use docket_tests::example::{UserId, UserProfile};
use docket_tests::program::{Modules, ended};
use docket_tests::web::Web;
use docket_tests::{Setup, fixture, host_with, keeping, options};
use futures_util::stream;
use prost::Message as _;
use prost::bytes::Bytes;
use tokio::sync::mpsc;

fn reused() -> StepOptions {
    StepOptions { instance: Some(Instance::Reuse), ..StepOptions::default() }
}

/// Returns options under which the fixture's step is run like this.
fn with(step: StepOptions) -> HostOptions {
    let steps = BTreeMap::from([("Remember".to_owned(), step)]);
    HostOptions { steps, ..options() }
}

async fn remembering(step: StepOptions) -> Host {
    host_with(&["remember"], with(step)).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Returns a batch that has one item under way at once, so that it is known which attempt follows which.
fn one_by_one() -> BatchRequest {
    let request = BatchRequest::new(Request::for_message::<UserProfile>());
    request.max_concurrency(NonZeroUsize::MIN).on_item_error(OnItemError::Continue)
}

fn items<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<Result<Bytes, ItemsError>> {
    words.into_iter().map(|id| Ok(UserId { id: id.to_owned() }.encode_to_vec().into())).collect()
}

async fn outcomes(host: &Host, request: BatchRequest, words: &[&str]) -> Vec<ItemOutcome> {
    let mut batch = host.batch(request, stream::iter(items(words.iter().copied()))).unwrap();
    let mut outcomes = Vec::new();
    while let Some(outcome) = batch.next().await {
        outcomes.push(outcome);
    }
    batch.outcome().await.unwrap();
    outcomes
}

fn name(value: &Value) -> String {
    UserProfile::decode(&value.payloads()[0].bytes()[..]).unwrap().name
}

/// Returns a part of what the fixture reports.
fn part<'a>(report: &'a str, key: &str) -> &'a str {
    let mut parts = report.split(' ').filter_map(|part| part.split_once('='));
    parts.find_map(|(name, value)| (name == key).then_some(value)).unwrap()
}

/// Returns how many calls the instance of each item had; 0 where the item failed.
fn calls(outcomes: &[ItemOutcome]) -> Vec<u32> {
    let of = |outcome: &ItemOutcome| match &outcome.result {
        Ok(value) => part(&name(value), "calls").parse().unwrap(),
        Err(_) => 0,
    };
    outcomes.iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_has_answered_is_called_again_where_the_step_has_it_so() {
    let words = ["a"; 50];
    let fresh = remembering(StepOptions::default()).await;
    assert_eq!(calls(&outcomes(&fresh, one_by_one(), &words).await), [1; 50]);
    let host = remembering(reused()).await;
    let counted: Vec<u32> = (1..=50).collect();
    assert_eq!(calls(&outcomes(&host, one_by_one(), &words).await), counted);

    let capped = HostOptions {
        caps: docket_runtime::Caps { instance: Instance::Fresh, ..docket_runtime::Caps::default() },
        ..with(reused())
    };
    let capped = host_with(&["remember"], capped).await.unwrap();
    assert_eq!(
        calls(&outcomes(&capped, one_by_one(), &words).await),
        [1; 50],
        "the cap is the operator's too"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_is_called_ten_thousand_times_at_most() {
    let host = remembering(reused()).await;
    let calls = calls(&outcomes(&host, one_by_one(), &["a"; 10_002]).await);
    assert_eq!((calls[9_999], &calls[10_000..]), (10_000, &[1, 2][..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_items_at_once_have_each_an_instance_to_themselves() {
    let host = remembering(reused()).await;
    let request = BatchRequest::new(Request::for_message::<UserProfile>());
    let words: Vec<_> = (0..500).map(|n| if n % 7 == 0 { "sleeps-2" } else { "a" }).collect();
    let mut calls = calls(&outcomes(&host, request, &words).await);
    calls.sort_unstable();
    let instances = calls.iter().filter(|calls| **calls == 1).count();
    assert!(instances <= 64, "{instances} instances for 64 items at once");
    // The calls of each instance are numbered without a gap: no two were in one at the same time.
    let of = |number: u32| calls.iter().filter(|calls| **calls == number).count();
    assert!((1..500).all(|number| of(number) >= of(number + 1)), "{calls:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_steps_of_one_module_have_instances_of_their_own() {
    let mut options = with(reused());
    options.steps.insert("Again".to_owned(), reused());
    let host = host_with(&["remember"], options).await.unwrap();
    let request = BatchRequest::new(Request::new(Port::parse("example.v1.UserProfile#second").unwrap()));
    let outcomes = outcomes(&host, request.max_concurrency(NonZeroUsize::MIN), &["a"; 20]).await;
    for (outcome, number) in outcomes.iter().zip(1..) {
        let report = name(outcome.result.as_ref().unwrap());
        let expected = format!("{number}");
        assert_eq!((part(&report, "calls"), part(&report, "again")), (&*expected, &*expected), "{report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failure_of_any_kind_the_next_attempt_has_a_fresh_instance() {
    let step = || StepOptions {
        timeout: Some(Duration::from_millis(300)),
        retry: RetryOptions { max_attempts: 2.try_into().ok(), ..RetryOptions::default() },
        logs: Some(1_000),
        output: Some(1_000),
        ..reused()
    };
    let host = remembering(step()).await;
    for bad in ["traps", "fails", "spins", "sleeps-900", "prints-900", "keeps-300"] {
        let outcomes = outcomes(&host, one_by_one(), &["a", "a", bad, "a", "a"]).await;
        assert_eq!(calls(&outcomes), [1, 2, 0, 1, 2], "{bad}");
    }
    // Tried again, and then in a fresh instance.
    assert_eq!(calls(&outcomes(&host, one_by_one(), &["a", "until-2", "a"]).await), [1, 1, 2]);
    assert_eq!(calls(&outcomes(&host, one_by_one(), &["a", "naps-900", "a"]).await), [1, 1, 2]);
    // An instance in which something goes on is not used again.
    assert_eq!(calls(&outcomes(&host, one_by_one(), &["a", "hoards", "a"]).await), [1, 2, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_executions_share_no_instance_whether_at_once_or_one_after_the_other() {
    let host = remembering(reused()).await;
    let words = ["a", "sleeps-1", "a", "sleeps-2", "a", "a"];
    let batch = || outcomes(&host, one_by_one(), &words);
    let (one, other, third) = tokio::join!(batch(), batch(), batch());
    for outcomes in [one, other, third, batch().await] {
        assert_eq!(calls(&outcomes), [1, 2, 3, 4, 5, 6]);
    }
    for _ in 0..3 {
        let input = UserId { id: "a".to_owned() };
        let request = Request::for_message::<UserProfile>().input(&input);
        let outcome = host.execute(request).await.unwrap();
        assert_eq!(part(&name(&outcome.result.unwrap()), "calls"), "1");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_in_a_used_instance_is_told_and_given_what_a_fresh_one_is() {
    let request = || {
        let id = ExecutionId::parse("the-same").unwrap();
        let start = std::time::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let request = Request::for_message::<UserProfile>().execution_id(id).started_at(start);
        BatchRequest::new(request).max_concurrency(NonZeroUsize::MIN)
    };
    let words = ["a", "sleeps-7", "b", "sleeps-20-until-2", "c"];
    let step = StepOptions {
        retry: RetryOptions { max_attempts: 2.try_into().ok(), ..RetryOptions::default() },
        ..StepOptions::default()
    };
    let [fresh, again] = [step.clone(), StepOptions { instance: Some(Instance::Reuse), ..step }];
    let fresh = outcomes(&remembering(fresh).await, request(), &words).await;
    let again = outcomes(&remembering(again).await, request(), &words).await;
    assert_eq!(calls(&again), [1, 2, 3, 1, 2]);
    let report = |outcome: &ItemOutcome| name(outcome.result.as_ref().unwrap());
    for (fresh, again) in fresh.iter().map(report).zip(again.iter().map(report)) {
        for key in ["wall", "chance", "execution", "attempt", "key"] {
            assert_eq!(part(&fresh, key), part(&again, key), "{key}");
        }
    }
    let began: Vec<_> = again.iter().map(|outcome| part(&report(outcome), "began").to_owned()).collect();
    // What counts moments never goes back within one instance.
    assert_eq!(began, ["0", "0", "7", "0", "20"]);
    let chances: std::collections::BTreeSet<_> =
        again.iter().map(report).map(|r| part(&r, "chance").to_owned()).collect();
    assert_eq!(chances.len(), words.len());
}

/// Remembers the lines that guests write, with the item and the attempt.
#[derive(Default)]
struct Written(std::sync::Mutex<BTreeMap<u64, Vec<String>>>);

impl Observer for Written {
    fn on_event(&self, _: &ExecutionId, event: &Event<'_>) {
        if let Event::Output { element, line, .. } = event {
            let mut lines = self.0.lock().unwrap();
            lines.entry(element.item().unwrap()).or_default().push((*line).to_owned());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_attempt_may_write_and_compute_is_its_own_and_its_lines_are_told_as_its() {
    let written = std::sync::Arc::<Written>::default();
    // "line 0" to "line 9" are 70 bytes with their ends.
    let step = StepOptions { logs: Some(75), log_lines: Some(11), ..reused() };
    let builder = Host::builder().options(with(step)).observer(written.clone());
    let host = builder.module("remember.wasm", fixture("remember")).build().await.unwrap();
    let all =
        outcomes(&host, one_by_one(), &["prints-10", "prints-10", "prints-10", "prints-11", "prints-3"])
            .await;
    assert_eq!(calls(&all), [1, 2, 3, 0, 1]);
    let ExecutionError::Failed { source, .. } = all[3].result.as_ref().unwrap_err() else {
        panic!("{:?}", all[3])
    };
    assert!(matches!(source, StepFailure::Logs { limit: 75 }), "{source}");
    let lines: Vec<_> = written.0.lock().unwrap().values().map(Vec::len).collect();
    assert_eq!(lines, [10, 10, 10, 11, 3]);

    let fuel = |fuel| StepOptions { fuel: Some(fuel), ..reused() };
    let input = UserId { id: "a".to_owned() };
    let once = remembering(fuel(1_000_000_000)).await;
    let once = once.execute(Request::for_message::<UserProfile>().input(&input)).await.unwrap();
    let used = once.report.steps[0].attempts[0].usage.unwrap().fuel.unwrap();
    let host = remembering(fuel(used * 2)).await;
    let all = calls(&outcomes(&host, one_by_one(), &["a"; 100]).await);
    assert_eq!(all, (1..=100).collect::<Vec<_>>(), "each may use twice {used}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_attempt_may_do_over_http_is_its_own_in_a_used_instance() {
    let web = Web::start().await;
    let http = [format!("GET {}", web.url("/")).parse().unwrap()].into();
    let grants = Some(Grants { http, ..Grants::default() }.into());
    let step = StepOptions { http_requests: Some(2), grants, ..reused() };
    let steps = BTreeMap::from([("FetchProfile".to_owned(), step)]);
    let host = host_with(&["fetch"], HostOptions { steps, ..options() }).await.unwrap();
    let script = format!("GET\t{}\ttimes 2\tor-fail", web.url("/"));
    for outcome in outcomes(&host, one_by_one(), &[script.as_str(); 3]).await {
        assert_eq!(name(&outcome.result.unwrap()), "200 hello\n200 hello");
    }
    assert_eq!(web.requests().len(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_counts_for_as_long_as_the_instance_has_it_and_one_that_gathers_it_is_given_up() {
    let host = remembering(StepOptions { memory: Some(16 << 20), ..reused() }).await;
    let all = calls(&outcomes(&host, one_by_one(), &["keeps-2"; 40]).await);
    assert!(all.iter().all(|calls| *calls > 0), "no item fails of what others have left: {all:?}");
    let starts = all.iter().filter(|calls| **calls == 1).count();
    assert!((6..=14).contains(&starts), "{all:?}");
    // More than is left in the instance, though it would fit into a fresh one.
    let all = outcomes(&host, one_by_one(), &["keeps-6", "keeps-11", "keeps-11"]).await;
    assert_eq!(calls(&all), [1, 0, 1]);
    let ExecutionError::Failed { source, .. } = all[1].result.as_ref().unwrap_err() else {
        panic!("{:?}", all[1])
    };
    assert!(matches!(source, StepFailure::Memory { .. }), "{source}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_at_rest_give_way_to_whoever_needs_their_place() {
    let host = host_with(&["remember"], HostOptions { max_instances: 2, ..with(reused()) }).await.unwrap();
    let (send, mut receive) = mpsc::unbounded_channel();
    let stream = stream::poll_fn(move |context| receive.poll_recv(context));
    let request = one_by_one().max_concurrency(NonZeroUsize::new(4).unwrap());
    let mut batch = host.batch(request, stream).unwrap();
    let mut next = async |words: &str| {
        send.send(items([words]).remove(0)).unwrap();
        calls(&[batch.next().await.unwrap()])[0]
    };
    let beside = || async {
        let input = UserId { id: "sleeps-50".to_owned() };
        let request = Request::for_message::<UserProfile>().input(&input).timeout(Duration::from_secs(20));
        host.execute(request).await.unwrap().result.unwrap()
    };
    assert_eq!((next("a").await, next("a").await), (1, 2));
    beside().await;
    assert_eq!(next("a").await, 3, "one execution has room beside it");
    tokio::join!(beside(), beside(), beside());
    assert_eq!(next("a").await, 1, "two have not");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_items_than_instances_at_once_use_them_again() {
    let options = HostOptions { max_instances: 4, ..with(reused()) };
    let host = host_with(&["remember"], options).await.unwrap();
    let request = || BatchRequest::new(Request::for_message::<UserProfile>());
    let words = ["sleeps-1"; 200];
    let (one, other) = tokio::join!(outcomes(&host, request(), &words), outcomes(&host, request(), &words));
    for outcomes in [one, other] {
        let calls = calls(&outcomes);
        assert!(calls.iter().all(|calls| *calls > 0), "{calls:?}");
        assert!(calls.iter().any(|calls| *calls > 1), "{calls:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_used_instance_has_answered_is_not_found_by_a_step_without_one() {
    let setup = |instance| {
        let step = StepOptions { instance: Some(instance), ..keeping(Scope::Global, None) };
        Setup::new(&["remember"]).step("Remember", step)
    };
    let fresh = setup(Instance::Fresh);
    let again = Setup { store: fresh.store.clone(), ..setup(Instance::Reuse) };
    let calls_of =
        async |setup: &Setup| calls(&outcomes(&setup.host().await, one_by_one(), &["a", "b", "c"]).await);
    assert_eq!(calls_of(&fresh).await, [1, 1, 1]);
    assert_eq!(calls_of(&again).await, [1, 2, 3], "the key says how the instance is used");
    assert_eq!((calls_of(&fresh).await, calls_of(&again).await), (vec![1, 1, 1], vec![1, 2, 3]));
    assert_eq!((fresh.starts("Remember"), again.starts("Remember")), (3, 3), "each finds its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_whose_instance_is_used_again_is_no_function_of_its_inputs_and_says_why() {
    let levels = async |step| {
        let host = host_with(
            &["good"],
            HostOptions { steps: BTreeMap::from([("FetchProfile".to_owned(), step)]), ..options() },
        );
        let host = host.await.unwrap();
        let (step, _) = host.graph().steps().next().unwrap();
        host.generation().purity(step)
    };
    assert_eq!(levels(StepOptions::default()).await, (Purity::Pure, vec![]));
    assert_eq!(levels(reused()).await, (Purity::Effects, vec!["instance reuse".to_owned()]));

    let modules = Modules::new("remember", "[step.Remember]\ninstance = 'reuse'\npersistence = false\n");
    let module = modules.path().join("remember.wasm");
    let shown = ended(&mut modules.command("memory:", ["inspect", module.to_str().unwrap()]));
    assert!(shown.out.contains("  instance     used again within an execution\n"), "{}", shown.out);
    assert!(shown.out.contains("  purity       effects, because of instance reuse\n"), "{}", shown.out);
    let plan = ended(&mut modules.command(
        "memory:",
        ["plan", "--items-port", "example.v1.UserID", "--output", "example.v1.UserProfile"],
    ));
    assert!(plan.out.contains("Remember has effects: instance reuse\n"), "{}{}", plan.out, plan.err);
    let file = modules.path().join("items.ndjson");
    std::fs::write(&file, "{\"id\":\"a\"}\n".repeat(9)).unwrap();
    let args = [
        "batch",
        "--items",
        file.to_str().unwrap(),
        "--output",
        "example.v1.UserProfile",
        "--max-concurrency",
        "1",
    ];
    let batch = ended(&mut modules.command("memory:", args));
    assert!(batch.out.lines().last().unwrap_or_default().contains("calls=9 "), "{}{}", batch.out, batch.err);
}
