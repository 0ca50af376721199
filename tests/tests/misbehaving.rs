//! Every way in which a guest can misbehave has a name, leaves the host as it was, and does not
//! hold up anyone else.

#![expect(clippy::disallowed_methods, reason = "tests wait, and run things beside each other")]

use std::time::Duration;

use docket_graph::FailureClass;
use docket_runtime::{
    BuildError, ExecutionError, Host, HostOptions, Inspector, LoadErrors, ModuleSource, StepFailure,
    StepOptions,
};
use docket_tests::{example::UserProfile, execute, fixture, host_with, options, profile_request};

/// Runs the fixture, then a good module in the same host, and returns how the first one failed.
async fn failure_of(name: &str, options: HostOptions) -> StepFailure {
    let host = host_with(&[name], options).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    let target = host.graph().outputs()[0];
    let mut request = profile_request();
    if host.graph().port(target).message() != "example.v1.UserProfile" {
        unreachable!("{name} gives something else");
    }
    request = request.timeout(Duration::from_secs(60));
    match execute(&host, request).await.result {
        Err(ExecutionError::Failed { source, .. } | ExecutionError::Aborted { source, .. }) => source,
        other => panic!("{name}: {other:?}"),
    }
}

fn short() -> HostOptions {
    let defaults = StepOptions {
        timeout: Some(Duration::from_millis(300)),
        memory: Some(32 << 20),
        output: Some(1 << 20),
        logs: Some(10_000),
        ..StepOptions::default()
    };
    HostOptions { defaults, ..options() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_way_to_fail_while_running_has_a_named_error() {
    let cases: &[(&str, FailureClass, &str)] = &[
        ("spin", FailureClass::Timeout, "timed out after 300 ms"),
        ("sleep_past_timeout", FailureClass::Timeout, "timed out after 200 ms"),
        ("allocate", FailureClass::Memory, "needs more memory than its limit of 33554432 bytes"),
        ("recurse", FailureClass::Stack, "needs more stack than the host's limit of 1048576 bytes"),
        (
            "panic",
            FailureClass::Trap,
            "trapped: wasm trap: wasm `unreachable` instruction executed; stderr ended with: ",
        ),
        // WASI preview 2 tells the host of success or failure only: exit(3) arrives as 1.
        ("exit", FailureClass::Exit, "called exit with status 1 instead of returning"),
        ("exit_zero", FailureClass::Exit, "called exit with status 0 instead of returning"),
        ("flood_stdout", FailureClass::Logs, "wrote more than its limit of 10000 bytes to stdout and stderr"),
        (
            "return_wrong_arity",
            FailureClass::Answer,
            "gave a wrong answer: it declares One for its output and answered with Many",
        ),
        (
            "return_undecodable",
            FailureClass::Answer,
            "gave a wrong answer: the bytes are not a `example.v1.UserProfile`: ",
        ),
        (
            "return_invalid_utf8",
            FailureClass::Answer,
            "gave a wrong answer: the bytes are not a `example.v1.UserProfile`: ",
        ),
        (
            "return_wrong_type",
            FailureClass::Answer,
            "gave a wrong answer: the bytes are not a `example.v1.UserProfile`: ",
        ),
        ("return_100_mib", FailureClass::Memory, "needs more memory than its limit of 33554432 bytes"),
        ("return_1_gib", FailureClass::Memory, "needs more memory than its limit of 33554432 bytes"),
        ("fail_permanently", FailureClass::Permanent, ""),
        ("abort", FailureClass::Abort, ""),
        ("abort_with_attempts", FailureClass::Abort, "stop everything"),
    ];
    for (name, class, words) in cases {
        let failure = failure_of(name, short()).await;
        assert_eq!(failure.class(), *class, "{name}: {failure}");
        assert!(failure.to_string().starts_with(words), "{name}: {failure}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_over_its_limit_is_refused_before_the_host_copies_it() {
    let mut roomy = short();
    roomy.defaults.memory = Some(1 << 30);
    roomy.defaults.timeout = Some(Duration::from_secs(20));
    for name in ["return_100_mib", "fail_with_endless_text"] {
        let failure = failure_of(name, roomy.clone()).await;
        assert!(matches!(failure, StepFailure::Output { limit: 0x0010_0000 }), "{name}: {failure}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_aliases_cannot_make_the_host_copy_more_than_the_limit() {
    let host = host_with(&["return_aliased_lists"], short()).await.unwrap();
    let outcome = execute(&host, profile_request()).await;
    let Err(ExecutionError::Failed { source, .. }) = outcome.result else { panic!("{outcome:?}") };
    assert!(matches!(source, StepFailure::Output { .. }), "{source}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_keeps_its_message_and_an_abort_keeps_its_words() {
    let failure = failure_of("panic", short()).await;
    let StepFailure::Trap { stderr, .. } = &failure else { panic!("{failure}") };
    assert!(stderr.contains("panicked at"), "{stderr}");
}

/// Returns the texts of all faults that these modules have.
async fn load_faults(modules: Vec<(&str, Vec<u8>)>) -> Vec<String> {
    let mut builder = Host::builder().options(options());
    for (name, bytes) in modules {
        builder = builder.module(name, bytes);
    }
    match builder.build().await {
        Err(BuildError::Load(LoadErrors(faults))) => faults.iter().map(ToString::to_string).collect(),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it loads"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_module_that_cannot_be_used_says_why() {
    let good = fixture("good");
    let truncated = good[..good.len() / 2].to_vec();
    let core = wat::parse_str("(module (func (export \"run\")))").unwrap();
    let empty = wat::parse_str("(component)").unwrap();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("text.wasm", b"hello".to_vec(), "module `text.wasm` is not WebAssembly"),
        ("empty.wasm", Vec::new(), "module `empty.wasm` is not WebAssembly"),
        ("core.wasm", core, "module `core.wasm` is a core WebAssembly module, not a component"),
        ("half.wasm", truncated, "module `half.wasm` is damaged, truncated or needs a feature"),
        (
            "exports_nothing.wasm",
            empty,
            "module `exports_nothing.wasm` does not export `docket:step/step@0.1.0`",
        ),
        ("gpu.wasm", fixture("import_unknown"), "module `gpu.wasm` imports `acme:gpu/device"),
        ("trap.wasm", fixture("trap_in_describe"), "module `trap.wasm` failed to describe itself: trapped"),
        (
            "flood.wasm",
            fixture("flood_stdout_in_describe"),
            "module `flood.wasm` failed to describe itself: wrote more than",
        ),
        (
            "huge.wasm",
            fixture("describe_1_gib"),
            "module `huge.wasm` failed to describe itself: needs more memory",
        ),
        ("garbage.wasm", fixture("describe_garbage"), ""),
        ("nothing.wasm", fixture("declare_nothing"), ""),
        ("twice.wasm", fixture("declare_twice"), ""),
        ("empty_name.wasm", fixture("declare_empty_name"), ""),
        ("names.wasm", fixture("declare_bad_names"), ""),
        ("policy.wasm", fixture("declare_bad_policy"), ""),
        ("unknown.wasm", fixture("declare_unknown_message"), ""),
        ("itself.wasm", fixture("declare_itself"), ""),
    ];
    for (name, bytes, words) in cases {
        let faults = load_faults(vec![(name, bytes)]).await;
        assert!(faults[0].starts_with(words), "{name}: {faults:#?}");
        assert!(faults.iter().all(|fault| fault.contains(name)), "{name}: {faults:#?}");
        println!("{}", faults.join("\n"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_that_spins_in_describe_is_given_up() {
    let faults = load_faults(vec![("spin.wasm", fixture("spin_in_describe"))]).await;
    assert_eq!(faults, ["module `spin.wasm` failed to describe itself: timed out after 10 s"]);
    let inspector = Inspector::new(&options()).unwrap().patience(Duration::from_millis(300));
    for (name, words) in [("spin_in_describe", Some("timed out after 300 ms")), ("good", None)] {
        let said = inspector.inspect(&ModuleSource::new(name, fixture(name))).await.err();
        let expected = words.map(|words| format!("module `{name}` failed to describe itself: {words}"));
        assert_eq!(said.map(|faults| faults.to_string()), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_faults_of_all_modules_are_reported_at_once() {
    let faults = load_faults(vec![
        ("text.wasm", b"hello".to_vec()),
        ("one.wasm", fixture("good")),
        ("two.wasm", fixture("panic")),
        ("nothing.wasm", fixture("declare_nothing")),
    ])
    .await;
    let found = |text: &str| faults.iter().any(|fault| fault.contains(text));
    assert!(found("`text.wasm` is not WebAssembly"), "{faults:#?}");
    assert!(found("nothing.wasm"), "{faults:#?}");
    assert!(found("one.wasm") && found("two.wasm") && found("example.v1.UserProfile"), "{faults:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_goes_on_and_others_are_not_held_up() {
    use docket_runtime::Request;
    use docket_tests::example::UserPreferences;
    // Four spinning executions on two workers, and one that computes beside them.
    let spinning = host_with(&["spin"], short()).await.unwrap();
    let good = host_with(&["good"], short()).await.unwrap();
    let spinners: Vec<_> = (0..4)
        .map(|_| {
            let host = spinning.clone();
            tokio::spawn(async move { execute(&host, profile_request()).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let outcome = execute(&good, profile_request()).await;
    // A spinner yields each 10 ms, so four of them on two workers cost a turn of some 20 ms.
    assert!(outcome.report.elapsed < Duration::from_millis(200), "{:?}", outcome.report.elapsed);
    outcome.message::<UserProfile>().unwrap();
    for spinner in spinners {
        assert!(spinner.await.unwrap().result.is_err());
    }
    // The same host answers a request that does not need the step which spins.
    let given = UserPreferences { dark_mode: true };
    let request = Request::for_message::<UserPreferences>().input(&given);
    assert!(spinning.execute(request).await.is_err(), "a port that no module knows");
}
