//! What is kept, for whom and for how long, and what makes two pieces of work the same.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use docket_graph::{Port, Scope};
use docket_runtime::{
    ExecutionId, GrantOptions, Host, Keeping, Outcome, Request, RetryOptions, StepOptions, StepOutcome, Value,
};
use docket_store::{Filter, Kind, MemoryStore, Query, Record, Store, Timestamp};
use docket_tests::example::UserProfile;
use docket_tests::{
    ManualClock, Meddled, Setup, StoreCall, execute, fixture, keeping, patched, replaced, told,
};

fn id(text: &str) -> ExecutionId {
    ExecutionId::parse(text).unwrap()
}

fn name(outcome: Outcome) -> String {
    outcome.message::<UserProfile>().unwrap_or_else(|error| panic!("{error}")).name
}

fn obey(scope: Scope, ttl: Option<Duration>) -> Setup {
    Setup::new(&["obey"]).step("FetchProfile", keeping(scope, ttl))
}

async fn results(store: &dyn Store) -> Vec<Record> {
    let query = Query::Newest { kind: Kind::Result, filter: Filter::default(), after: None };
    store.scan(&query, 100).await.unwrap().records
}

/// Executes the request on both, in this order, and returns how often the step has started.
async fn starts_on(first: &Setup, second: &Setup, request: Request) -> usize {
    let before = first.starts("FetchProfile") + second.starts("FetchProfile");
    for setup in [first, second] {
        let outcome = execute(&setup.host().await, request.clone()).await;
        outcome.result.as_ref().unwrap_or_else(|error| panic!("{error}: {:?}", outcome.report));
    }
    let after = first.starts("FetchProfile") + second.starts("FetchProfile");
    if std::sync::Arc::ptr_eq(&first.recorder, &second.recorder) {
        (after - before) / 2
    } else {
        after - before
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_global_result_is_found_by_other_executions_and_other_hosts() {
    let setup = obey(Scope::Global, None);
    let host = setup.host().await;
    let first = execute(&host, told("user-1")).await;
    assert_eq!(first.report.steps[0].outcome, StepOutcome::Done);
    let same_host = execute(&host, told("user-1")).await;
    let other_host = execute(&setup.host().await, told("user-1")).await;
    for found in [&same_host, &other_host] {
        assert_eq!(found.report.steps[0].outcome, StepOutcome::Cached);
        assert_eq!(found.report.steps[0].key, first.report.steps[0].key);
        assert!(found.report.steps[0].attempts.is_empty());
    }
    let first = name(first);
    assert_eq!([name(same_host), name(other_host)], [first.clone(), first]);
    assert_eq!(setup.starts("FetchProfile"), 1);
    execute(&host, told("user-2")).await.result.unwrap();
    assert_eq!(setup.starts("FetchProfile"), 2, "another input is other work");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_result_is_found_only_under_its_own_execution_id() {
    let setup = obey(Scope::Workflow, None);
    let host = setup.host().await;
    let one = name(execute(&host, told("user-1").execution_id(id("one"))).await);
    assert_eq!(name(execute(&host, told("user-1").execution_id(id("one"))).await), one);
    assert_eq!(setup.starts("FetchProfile"), 1);
    assert_ne!(name(execute(&host, told("user-1").execution_id(id("two"))).await), one);
    assert_eq!(setup.starts("FetchProfile"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_lives_to_the_millisecond_by_the_stores_clock_and_without_a_limit_for_ever() {
    let clock = ManualClock::new();
    let ttl = Duration::from_millis(1_500);
    let setup = obey(Scope::Global, Some(ttl)).on(MemoryStore::on(std::sync::Arc::new(clock.clone())));
    let host = setup.host().await;
    execute(&host, told("user-1")).await.result.unwrap();
    let [record] = &results(&*setup.store).await[..] else { panic!("there is one result") };
    let expires = record.facts.expires_at.unwrap();
    assert_eq!(expires.since(record.facts.finished_at.unwrap()), ttl);

    clock.set(Timestamp(expires.0 - 1));
    execute(&host, told("user-1")).await.result.unwrap();
    assert_eq!(setup.starts("FetchProfile"), 1, "one millisecond is left");
    clock.set(expires);
    execute(&host, told("user-1")).await.result.unwrap();
    assert_eq!(setup.starts("FetchProfile"), 2, "its time is over");

    let clock = ManualClock::new();
    let setup = obey(Scope::Global, None).on(MemoryStore::on(std::sync::Arc::new(clock.clone())));
    let host = setup.host().await;
    execute(&host, told("user-1")).await.result.unwrap();
    clock.advance(Duration::from_secs(100 * 365 * 24 * 3600));
    execute(&host, told("user-1")).await.result.unwrap();
    assert_eq!(setup.starts("FetchProfile"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_module_is_a_miss_without_a_version_and_a_hit_with_the_same_version() {
    let setup = obey(Scope::Global, None);
    assert_eq!(starts_on(&setup, &setup.clone().first_module(replaced), told("user-1")).await, 2);

    let versioned = Setup::new(&["versioned"]).step("FetchProfile", keeping(Scope::Global, None));
    assert_eq!(starts_on(&versioned, &versioned.clone().first_module(replaced), told("user-1")).await, 1);

    let other = |component: &[u8]| patched(component, "first-version", "other-version");
    assert_eq!(starts_on(&versioned, &versioned.clone().first_module(other), told("user-1")).await, 1);
    assert_eq!(versioned.starts("FetchProfile"), 2, "another version is other code");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenant_configuration_and_scope_are_in_the_key_and_limits_are_not() {
    let setup = obey(Scope::Global, None);
    let step = |change: fn(&mut StepOptions)| {
        let mut options = keeping(Scope::Global, None);
        change(&mut options);
        setup.clone().step("FetchProfile", options)
    };
    let config = |value: &str| Some(BTreeMap::from([("greeting".to_owned(), value.to_owned())]));
    let mut configured = keeping(Scope::Global, None);
    configured.config = config("hello");
    let mut otherwise = keeping(Scope::Global, None);
    otherwise.config = config("good day");
    let region = |value: &str| {
        let env = Some(BTreeMap::from([("REGION".to_owned(), value.to_owned())]));
        step_granted(GrantOptions { env, ..GrantOptions::default() })
    };
    let others = [
        ("grant", setup.clone().step("FetchProfile", region("eu"))),
        ("another grant", setup.clone().step("FetchProfile", region("us"))),
        ("tenant", setup.clone().with(|options| options.tenant = "acme".to_owned())),
        ("scope", setup.clone().step("FetchProfile", keeping(Scope::Workflow, None))),
        ("configuration", setup.clone().step("FetchProfile", configured)),
        ("another configuration", setup.clone().step("FetchProfile", otherwise)),
    ];
    execute(&setup.host().await, told("user-1")).await.result.unwrap();
    for (index, (what, other)) in others.iter().enumerate() {
        execute(&other.host().await, told("user-1")).await.result.unwrap();
        assert_eq!(setup.starts("FetchProfile"), index + 2, "{what}");
    }
    let same = [
        (
            "time to live",
            setup.clone().step("FetchProfile", keeping(Scope::Global, Some(Duration::from_secs(9)))),
        ),
        ("timeout", step(|options| options.timeout = Some(Duration::from_secs(7)))),
        ("memory", step(|options| options.memory = Some(32 << 20))),
        ("output", step(|options| options.output = Some(1 << 20))),
        ("logs", step(|options| options.logs = Some(1 << 10))),
        ("fuel", step(|options| options.fuel = Some(1_000_000_000))),
        ("concurrency", step(|options| options.max_concurrency = NonZeroU32::new(3))),
        (
            "attempts",
            step(|options| {
                options.retry = RetryOptions { max_attempts: NonZeroU32::new(5), ..Default::default() }
            }),
        ),
    ];
    for (what, other) in same {
        execute(&other.host().await, told("user-1")).await.result.unwrap();
        assert_eq!(setup.starts("FetchProfile"), others.len() + 1, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_message_in_another_encoding_is_a_hit() {
    let setup = Setup::new(&["second"]).step("Second", keeping(Scope::Global, None));
    let host = setup.host().await;
    let ask = |bytes: &[u8]| {
        let port = Port::parse("example.v1.UserProfile#raw").unwrap();
        Request::for_message::<UserProfile>().value(port, Value::one(bytes.to_vec()))
    };
    let encodings: [&[u8]; 4] = [
        // Fields 1 and 2, in order.
        b"\x0a\x01a\x12\x01b",
        // The other way round.
        b"\x12\x01b\x0a\x01a",
        // Field 1 twice, of which the last counts, first as the default.
        b"\x0a\x00\x0a\x01a\x12\x01b",
        // Lengths with more bytes than they need.
        b"\x0a\x81\x00a\x12\x81\x80\x00b",
    ];
    for bytes in encodings {
        execute(&host, ask(bytes)).await.result.unwrap();
        assert_eq!(setup.starts("Second"), 1, "{bytes:x?}");
    }
    execute(&host, ask(b"\x0a\x01a")).await.result.unwrap();
    assert_eq!(setup.starts("Second"), 2, "another message is other work");
    execute(&host, ask(b"\x0a\x01a\x12\x00")).await.result.unwrap();
    assert_eq!(setup.starts("Second"), 2, "a default that is written says nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_after_a_changed_one_that_answers_the_same_is_a_hit() {
    let setup = Setup::new(&["first", "second"])
        .step("First", keeping(Scope::Global, None))
        .step("Second", keeping(Scope::Global, None));
    let first = execute(&setup.host().await, told("user-1")).await;
    let others = [
        setup.clone().first_module(replaced),
        setup.clone().first_module(|_| fixture("first_reworded")),
        // Not kept at all.
        setup
            .clone()
            .first_module(|_| fixture("first_reworded"))
            .step("First", StepOptions { persistence: Some(Keeping::Off), ..StepOptions::default() }),
    ];
    let answer = name(first);
    for (index, other) in others.iter().enumerate() {
        let outcome = execute(&other.host().await, told("user-1")).await;
        assert_eq!(setup.starts("First"), index + 2);
        let outcomes: Vec<_> = outcome.report.steps.iter().map(|step| step.outcome).collect();
        assert_eq!(outcomes, [StepOutcome::Done, StepOutcome::Cached]);
        assert_eq!(name(outcome), answer);
    }
    assert_eq!(setup.starts("Second"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_execution_without_kept_steps_makes_no_call_of_the_store() {
    let untouchable = |call: StoreCall<'_>| panic!("the store was called: {call:?}");
    let setup = Setup::new(&["first", "second"])
        .on(Meddled::new(std::sync::Arc::new(MemoryStore::new()), untouchable));
    let host = setup.host().await;
    execute(&host, told("user-1")).await.result.unwrap();
    let _ = host.shutdown(Duration::from_secs(1)).await;

    // A kept step that the request does not need makes no difference.
    let setup = setup.step("Second", keeping(Scope::Global, None));
    let host = setup.host().await;
    let target = Port::parse("example.v1.UserProfile#raw").unwrap();
    let user = docket_tests::example::UserId { id: "user-1".into() };
    execute(&host, Request::new(target).input(&user)).await.result.unwrap();
    let _ = host.shutdown(Duration::from_secs(1)).await;
    assert_eq!(setup.starts("First"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_step_on_a_host_without_a_store_is_refused_by_name() {
    let setup = obey(Scope::Global, None);
    let host = Host::builder().options(setup.options.clone()).module("obey.wasm", fixture("obey"));
    let error = host.build().await.unwrap().execute(told("user-1")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "step `FetchProfile` keeps its results, but the host has no store; give it one, or set `persistence = false`"
    );
}

#[tokio::test]
async fn a_lease_or_a_tenant_that_cannot_be_is_refused_by_name() {
    let error = async |change: fn(&mut docket_runtime::HostOptions)| {
        let options = obey(Scope::Global, None).with(change).options;
        Host::builder().options(options).build().await.unwrap_err().to_string()
    };
    let lease = error(|options| options.lease = Duration::from_millis(999)).await;
    assert_eq!(lease, "the lease is 999ms, but must be at least 1s");
    for tenant in ["", "a/b", "a b", "é"] {
        let error = error(match tenant {
            "" => |options| options.tenant = String::new(),
            "a/b" => |options| options.tenant = "a/b".to_owned(),
            "a b" => |options| options.tenant = "a b".to_owned(),
            _ => |options| options.tenant = "é".to_owned(),
        })
        .await;
        assert_eq!(
            error,
            format!("the tenant `{tenant}` must have 1 to 128 letters, digits, `-`, `_` and `.`")
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_not_kept_and_does_not_overwrite_a_result() {
    let setup = obey(Scope::Global, None);
    let host = setup.host().await;
    for times in 1..=2 {
        let outcome = execute(&host, told("user-1-fails")).await;
        assert_eq!(outcome.report.steps[0].outcome, StepOutcome::Failed);
        assert_eq!(setup.starts("FetchProfile"), times, "a later request tries again");
    }
}

/// Returns options of a step that keeps its results and was granted this.
fn step_granted(grants: GrantOptions) -> StepOptions {
    StepOptions { grants: Some(grants), ..keeping(Scope::Global, None) }
}
