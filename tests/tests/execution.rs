//! What a host promises about executions, seen through its library.

#![expect(clippy::disallowed_methods, reason = "tests wait, and run things beside each other")]

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use docket_graph::{FailureClass, Port};
use docket_runtime::{
    AttemptOutcome, Drained, ExecutionError, ExecutionId, ExecutionOutcome, Host, HostOptions, Observer,
    Outcome, Request, RequestError, StepFailure, StepOptions, StepOutcome, Value,
};
use docket_tests::example::{EnrichedUser, UserId, UserPreferences, UserProfile};
use docket_tests::{Recorder, execute, fixture, guest, host, host_with, options, profile_request};

/// Returns a host over the demonstration guests, with some of them replaced by fixtures.
async fn enrichment(replaced: &[(&str, &str)], observer: Option<Arc<dyn Observer>>) -> Host {
    let mut builder = Host::builder().options(options());
    for name in ["enrich_user", "fetch_activity", "fetch_preferences", "fetch_profile"] {
        let by = replaced.iter().find(|(guest, _)| *guest == name);
        let bytes = by.map_or_else(|| guest(name), |(_, fixture_name)| fixture(fixture_name));
        builder = builder.module(&format!("{name}.wasm"), bytes);
    }
    if let Some(observer) = observer {
        builder = builder.observer(observer);
    }
    builder.build().await.unwrap_or_else(|error| panic!("{error}"))
}

fn enriched_request() -> Request {
    Request::for_message::<EnrichedUser>().input(&UserId { id: "user-123".into() })
}

fn outcomes(outcome: &Outcome) -> Vec<(String, StepOutcome, usize)> {
    let steps = outcome.report.steps.iter();
    steps.map(|step| (step.step.to_string(), step.outcome, step.attempts.len())).collect()
}

fn with_step(step: &str, step_options: StepOptions) -> HostOptions {
    HostOptions { steps: BTreeMap::from([(step.to_owned(), step_options)]), ..options() }
}

fn name_of(outcome: Outcome) -> String {
    outcome.message::<UserProfile>().unwrap_or_else(|error| panic!("{error}")).name
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_that_wait_wait_at_the_same_time() {
    let host = enrichment(&[], None).await;
    let outcome = execute(&host, enriched_request()).await;
    let elapsed = outcome.report.elapsed;
    assert!(elapsed >= Duration::from_millis(100), "{elapsed:?}");
    assert!(elapsed < Duration::from_millis(250), "three waits of 100 ms took {elapsed:?}");
    let user: EnrichedUser = outcome.message().unwrap();
    assert_eq!(user.profile.unwrap().email, "alice@example.com");
    assert!(user.prefs.unwrap().dark_mode);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_step_runs_once_and_the_events_come_in_order() {
    let recorder = Recorder::new();
    let host = Host::builder()
        .options(options())
        .module("diamond.wasm", fixture("diamond"))
        .observer(recorder.clone())
        .build()
        .await
        .unwrap();
    let outcome = execute(&host, profile_request()).await;
    let once = |step: &str| (step.to_owned(), StepOutcome::Done, 1);
    assert_eq!(outcomes(&outcome), ["Source", "Left", "Right", "Join"].map(once));
    assert_eq!(name_of(outcome), "Join(Left(Source(user-123))+Right(Source(user-123)))");

    let lines = recorder.lines();
    let at = |line: &str| {
        lines.iter().position(|found| found == line).unwrap_or_else(|| panic!("{line}: {lines:#?}"))
    };
    assert_eq!(at("execution started: example.v1.UserProfile, 4 steps"), 0);
    assert_eq!(at("execution ended"), lines.len() - 1);
    for step in ["Source", "Left", "Right", "Join"] {
        let events = ["1 started", "1 stdout: ", "1 answered", "ended: Done"];
        let events = events.map(|event| match event {
            "1 stdout: " => at(&format!("{step} 1 stdout: {step} runs")),
            event => at(&format!("{step} {event}")),
        });
        assert!(events.is_sorted(), "{step}: {lines:#?}");
    }
    assert!(at("Source ended: Done") < at("Left 1 started"));
    assert!(at("Right ended: Done") < at("Join 1 started"));
    assert_eq!(lines.len(), 2 + 4 * 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_step_beside_slow_and_spinning_siblings_reports_its_own_error() {
    let replaced = [
        ("fetch_profile", "fail_permanently"),
        ("fetch_preferences", "slow_sibling"),
        ("fetch_activity", "spin_sibling"),
    ];
    let host = enrichment(&replaced, None).await;
    for _ in 0..20 {
        let outcome = execute(&host, enriched_request()).await;
        assert!(outcome.report.elapsed < Duration::from_secs(2), "{:?}", outcome.report.elapsed);
        let Err(ExecutionError::Failed { step, attempts: 1, source, .. }) = &outcome.result else {
            panic!("{outcome:?}")
        };
        assert_eq!((step.as_str(), source.class()), ("FetchProfile", FailureClass::Permanent));
        let by_step: BTreeMap<_, _> =
            outcomes(&outcome).into_iter().map(|(step, how, _)| (step, how)).collect();
        assert_eq!(by_step["FetchProfile"], StepOutcome::Failed);
        assert_eq!(by_step["EnrichUser"], StepOutcome::NeverStarted);
        for sibling in ["FetchActivity", "FetchPreferences"] {
            assert!(
                matches!(by_step[sibling], StepOutcome::Cancelled | StepOutcome::NeverStarted),
                "{sibling}: {by_step:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abort_stops_the_execution_without_another_attempt() {
    let recorder = Recorder::new();
    let replaced = [("fetch_profile", "abort_with_attempts"), ("fetch_activity", "spin_sibling")];
    let host = enrichment(&replaced, Some(recorder.clone())).await;
    let outcome = execute(&host, enriched_request()).await;
    assert_eq!(outcome.report.outcome, ExecutionOutcome::Aborted);
    assert!(matches!(outcome.result, Err(ExecutionError::Aborted { .. })));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(recorder.matching("FetchProfile 2"), [""; 0]);
    assert_eq!(
        recorder.lines().last().unwrap(),
        "execution ended: step `FetchProfile` aborted the execution"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_is_retried_as_its_policy_says_and_every_attempt_is_reported() {
    let host = host(&["fail_twice"]).await;
    let outcome = execute(&host, profile_request()).await;
    let attempts: Vec<_> = outcome.report.steps[0].attempts.iter().map(|a| (a.attempt, a.outcome)).collect();
    let failed = AttemptOutcome::Failed(FailureClass::Retryable);
    assert_eq!(attempts, [(1, failed), (2, failed), (3, AttemptOutcome::Done)]);
    let user: UserProfile = outcome.message().unwrap();
    assert_eq!(user.email, "attempt-3@example.com");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_end_at_the_operators_bound_and_retry_after_is_waited_for() {
    let mut two = StepOptions::default();
    two.retry.max_attempts = NonZeroU32::new(2);
    let recorder = Recorder::new();
    let host = Host::builder()
        .options(with_step("FetchProfile", two))
        .module("m.wasm", fixture("fail_with_retry_after"))
        .observer(recorder.clone())
        .build()
        .await
        .unwrap();
    let outcome = execute(&host, profile_request()).await;
    let Err(ExecutionError::Failed { attempts, .. }) = &outcome.result else { panic!("{outcome:?}") };
    assert_eq!(*attempts, 2);
    assert!(outcome.report.elapsed >= Duration::from_millis(50));
    assert_eq!(recorder.matching(" after 50 ms"), ["FetchProfile 2 after 50 ms"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deadline_stops_guests_that_sleep_and_guests_that_spin() {
    for name in ["sleep", "spin"] {
        let host = host(&[name]).await;
        let limit = Duration::from_millis(150);
        let outcome = execute(&host, profile_request().timeout(limit)).await;
        assert!(matches!(outcome.result, Err(ExecutionError::Deadline { .. })), "{name}: {outcome:?}");
        let late = outcome.report.elapsed - limit;
        assert!(late < Duration::from_millis(150), "{name}: {late:?} late");
        assert_eq!(outcome.report.steps[0].outcome, StepOutcome::Cancelled);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_stops_what_runs_and_says_so() {
    for name in ["sleep", "spin"] {
        let host = host(&[name]).await;
        let mut execution = host.start(profile_request()).unwrap();
        let canceller = execution.canceller();
        let cancelling = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            canceller.cancel();
        });
        let outcome = execution.outcome().await.unwrap();
        cancelling.await.unwrap();
        assert!(matches!(outcome.result, Err(ExecutionError::Cancelled)), "{name}: {outcome:?}");
        assert!(outcome.report.elapsed < Duration::from_secs(1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_future_cancels_and_gives_the_permits_back() {
    let recorder = Recorder::new();
    let one = HostOptions { max_instances: 1, ..options() };
    let host = Host::builder()
        .options(one)
        .module("spin.wasm", fixture("spin"))
        .module("slow.wasm", fixture("slow_sibling"))
        .observer(recorder.clone())
        .build()
        .await
        .unwrap();
    let abandoned = tokio::time::timeout(Duration::from_millis(50), host.execute(profile_request()));
    assert!(abandoned.await.is_err());
    assert_eq!(recorder.lines().last().unwrap(), "execution ended: the execution was cancelled");
    // The only permit is free again: the next execution starts at once.
    let given = UserId { id: "user-123".into() };
    let request = Request::for_message::<UserPreferences>().input(&given).timeout(Duration::from_millis(200));
    assert!(execute(&host, request).await.result.is_err(), "it sleeps for 5 s");
    assert_eq!(recorder.matching("FetchPreferences 1 started").len(), 1);
    assert_eq!(host.executions(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_instances_than_allowed_are_alive() {
    let one = HostOptions { max_instances: 1, ..options() };
    let mut builder = Host::builder().options(one);
    for name in ["enrich_user", "fetch_activity", "fetch_preferences", "fetch_profile"] {
        builder = builder.module(name, guest(name));
    }
    let host = builder.build().await.unwrap();
    let outcome = execute(&host, enriched_request()).await;
    assert!(outcome.result.is_ok());
    assert!(outcome.report.elapsed >= Duration::from_millis(300), "three waits, one after the other");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_steps_own_bound_on_concurrency_holds_across_executions() {
    let one = StepOptions { max_concurrency: NonZeroU32::new(1), ..StepOptions::default() };
    let host = Host::builder()
        .options(with_step("FetchProfile", one))
        .module("fetch_profile.wasm", guest("fetch_profile"))
        .build()
        .await
        .unwrap();
    let began = tokio::time::Instant::now();
    let three = std::iter::repeat_with(|| host.execute(profile_request())).take(3);
    for outcome in futures_util::future::join_all(three).await {
        assert!(outcome.unwrap().result.is_ok());
    }
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_request_lacks_or_has_too_much_of_is_said_before_anything_runs() {
    let recorder = Recorder::new();
    let host = enrichment(&[], Some(recorder.clone())).await;
    let cases: Vec<(Request, &str)> = vec![
        (Request::for_message::<EnrichedUser>(), "`example.v1.UserID`"),
        (Request::new(Port::parse("example.v1.EnrichedUsr").unwrap()), "`example.v1.EnrichedUser`"),
        (enriched_request().input(&EnrichedUser::default()), "example.v1.UserID"),
        (enriched_request().input(&UserId::default()), "example.v1.UserID"),
        (
            Request::for_message::<EnrichedUser>()
                .value(Port::parse("example.v1.UserID").unwrap(), Value::one(vec![0xff])),
            "the input for `example.v1.UserID` is wrong: the bytes are not a `example.v1.UserID`",
        ),
        (
            Request::for_message::<EnrichedUser>().inputs(&[UserId::default()]),
            "the input for `example.v1.UserID` is a list, but step",
        ),
    ];
    for (request, words) in cases {
        let error = host.execute(request).await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(recorder.lines(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_given_input_wins_over_its_producer_and_a_given_target_is_returned() {
    let host = enrichment(&[("fetch_profile", "fail_permanently")], None).await;
    let profile = UserProfile { name: "Given".into(), email: String::new() };
    let outcome = execute(&host, enriched_request().input(&profile)).await;
    assert_eq!(outcome.report.steps.len(), 3);
    let user: EnrichedUser = outcome.message().unwrap();
    assert_eq!(user.profile.unwrap().name, "Given");
    let outcome = execute(&host, Request::for_message::<UserProfile>().input(&profile)).await;
    assert_eq!((outcome.report.steps.len(), name_of(outcome)), (0, "Given".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_go_in_and_come_out() {
    let joining = host(&["join_many"]).await;
    let users = ["a", "b", "c"].map(|id| UserId { id: id.into() });
    let outcome = execute(&joining, Request::for_message::<UserProfile>().inputs(&users)).await;
    assert_eq!(name_of(outcome), "a+b+c");
    let outcome = execute(&joining, Request::for_message::<UserProfile>().input(&users[0])).await;
    assert_eq!(name_of(outcome), "a", "one message is a list of one");

    let splitting = host(&["split_many"]).await;
    let outcome =
        execute(&splitting, Request::for_message::<UserProfile>().input(&UserId { id: "xyz".into() })).await;
    let names: Vec<_> =
        outcome.messages::<UserProfile>().unwrap().into_iter().map(|user| user.name).collect();
    assert_eq!(names, ["x", "y", "z"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_message_type_flows_under_two_labels_and_a_step_may_need_nothing() {
    let labels = host(&["labels"]).await;
    let profile = UserProfile { name: "Alice".into(), email: String::new() };
    let request = Request::for_labeled::<UserProfile>("clean").labeled_input("raw", &profile);
    assert_eq!(name_of(execute(&labels, request).await), "Alice");
    let nothing = host(&["nothing_in"]).await;
    assert_eq!(name_of(execute(&nothing, Request::for_message::<UserProfile>()).await), "Nobody");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_without_grants_gives_the_same_answer_on_every_host() {
    let request = || {
        let id = ExecutionId::parse("same").unwrap();
        profile_request().execution_id(id).started_at(UNIX_EPOCH + Duration::from_millis(1_700_000_000_123))
    };
    let (one, other) = (host(&["observe"]).await, host(&["observe"]).await);
    let first = name_of(execute(&one, request()).await);
    assert_eq!(first, name_of(execute(&other, request()).await));
    assert_eq!(first, name_of(execute(&one, request()).await));
    // The clock stands at the execution's start and moves by what the guest sleeps.
    assert!(first.starts_with("wall=1700000000123 later=1700000000143 slept=20 "), "{first}");
    let second = name_of(execute(&one, request().execution_id(ExecutionId::parse("other").unwrap())).await);
    assert_ne!(first, second, "another execution draws other numbers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guest_is_told_of_its_circumstances_and_the_key_is_that_of_the_work() {
    let host = host(&["echo_invocation"]).await;
    let request = |id: &str, user: &str| {
        let id = ExecutionId::parse(id).unwrap();
        let start: SystemTime = UNIX_EPOCH + Duration::from_millis(42);
        let user = UserId { id: user.into() };
        Request::for_message::<UserProfile>().input(&user).execution_id(id).started_at(start)
    };
    let told = name_of(execute(&host, request("e-1", "a")).await);
    assert!(told.starts_with("step=FetchProfile execution=e-1 attempt=1 key="), "{told}");
    assert!(told.ends_with(" started=42"), "{told}");
    assert_eq!(told, name_of(execute(&host, request("e-1", "a")).await));
    let key =
        |told: &str| told.split(' ').find_map(|part| part.strip_prefix("key=").map(str::to_owned)).unwrap();
    let others = [request("e-2", "a"), request("e-1", "b")];
    for other in others {
        assert_ne!(key(&told), key(&name_of(execute(&host, other).await)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_attempt_has_a_fresh_instance() {
    let host = host(&["count_calls"]).await;
    assert_eq!(name_of(execute(&host, profile_request()).await), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_guest_writes_comes_as_lines_of_its_step() {
    let recorder = Recorder::new();
    let host = Host::builder()
        .options(options())
        .module("print.wasm", fixture("print"))
        .observer(recorder.clone())
        .build()
        .await
        .unwrap();
    execute(&host, profile_request()).await;
    let expected = ["stdout: one", "stdout: two", "stderr: three", "stdout: four"];
    assert_eq!(recorder.matching(" std"), expected.map(|line| format!("FetchProfile 1 {line}")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fuel_is_a_budget_and_is_reported_where_it_is_metered() {
    let budget = |fuel| with_step("FetchProfile", StepOptions { fuel: Some(fuel), ..StepOptions::default() });
    let enough = host_with(&["good"], budget(100_000_000)).await.unwrap();
    let outcome = execute(&enough, profile_request()).await;
    let usage = outcome.report.steps[0].attempts[0].usage.unwrap();
    assert!(usage.fuel.is_some_and(|fuel| (1..100_000_000).contains(&fuel)), "{usage:?}");
    assert!(usage.peak_memory >= 1 << 16, "{usage:?}");
    let again = execute(&enough, profile_request()).await;
    assert_eq!(again.report.steps[0].attempts[0].usage, Some(usage), "fuel is deterministic");

    let spin = host_with(&["spin"], budget(1_000_000)).await.unwrap();
    let Err(ExecutionError::Failed { source, .. }) = execute(&spin, profile_request()).await.result else {
        panic!()
    };
    assert!(matches!(source, StepFailure::Fuel { limit: 1_000_000 }), "{source}");
    let unmetered = execute(&host(&["good"]).await, profile_request()).await;
    assert_eq!(unmetered.report.steps[0].attempts[0].usage.unwrap().fuel, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_drains_then_stops_and_refuses_what_comes_after() {
    let host = host(&["sleep"]).await;
    let running = host.clone();
    let execution = tokio::spawn(async move { running.execute(profile_request()).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let late = host.clone();
    assert_eq!(host.shutdown(Duration::from_millis(50)).await, Drained::Stopped(1));
    let outcome = execution.await.unwrap().unwrap();
    assert!(matches!(outcome.result, Err(ExecutionError::Shutdown)), "{outcome:?}");
    assert!(matches!(late.execute(profile_request()).await, Err(RequestError::Closed)));

    let idle = docket_tests::host(&["good"]).await;
    execute(&idle, profile_request()).await;
    assert_eq!(idle.shutdown(Duration::from_secs(1)).await, Drained::Complete);
}
