//! Steps written by hand to do harm: what they are stopped by has a name, and no one else is held up.

#![expect(clippy::disallowed_methods, reason = "tests measure, wait, and run things beside each other")]
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::time::{Duration, Instant};

use docket_graph::{FailureClass, Port};
use docket_runtime::{
    Artifacts, BuildError, ExecutionError, Grants, Host, HostOptions, Inspector, LoadErrors, ModuleSource,
    Outcome, Request, StepFailure, StepOptions,
};
use docket_tests::by_hand::Hand;
use docket_tests::example::{UserId, UserProfile};
use docket_tests::web::Web;
use docket_tests::{Setup, execute, fixture, host, host_with, options, profile_request, told};

fn component(hand: &Hand<'_>) -> Vec<u8> {
    wat::parse_str(hand.text()).unwrap_or_else(|error| panic!("{error}"))
}

fn options_of(timeout: u64, max_instances: usize) -> HostOptions {
    let timeout = Some(Duration::from_millis(timeout));
    HostOptions { defaults: StepOptions { timeout, ..StepOptions::default() }, max_instances, ..options() }
}

async fn run(hand: &Hand<'_>, options: HostOptions) -> Outcome {
    let host = Host::builder().options(options).module("hand.wasm", component(hand)).build().await.unwrap();
    execute(&host, request()).await
}

fn request() -> Request {
    Request::new(Port::parse("a.T").unwrap())
}

async fn failure(hand: &Hand<'_>) -> StepFailure {
    match run(hand, options_of(20_000, 2)).await.result {
        Err(ExecutionError::Failed { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

/// Returns why the component does not load.
async fn refusal(component: Vec<u8>) -> String {
    match Host::builder().options(options_of(1_000, 2)).module("hand.wasm", component).build().await {
        Err(BuildError::Load(LoadErrors(faults))) => {
            faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_written_by_hand_is_a_step() {
    let hand = Hand { run: "(call $answer)", ..Hand::default() };
    assert_eq!(run(&hand, options_of(20_000, 2)).await.result.unwrap().payloads()[0].bytes().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_name_of_a_function_that_crashed_is_cut_and_harmless() {
    let name = format!("\\1b[31mred\\0a{}", "x".repeat(100_000));
    let core = format!("(func $evil (@name \"{name}\") (result i32) unreachable)");
    let said = failure(&Hand { run: "(call $evil)", core: &core, beside: "" }).await.to_string();
    assert!(said.contains("in `\\u{1b}[31mred xxx"), "{}", &said[..200]);
    assert!(said.len() < 400 && !said.contains(char::is_control), "{} bytes", said.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resources_of_a_guests_own_are_limited_by_name() {
    let hand = Hand {
        // A few more than the limit, and not for ever.
        run: "(loop $again (drop (call $new (i32.const 7)))
              (global.set $made (i32.add (global.get $made) (i32.const 1)))
              (br_if $again (i32.lt_u (global.get $made) (i32.const 70000)))) (call $answer)",
        core: "(import \"own\" \"new\" (func $new (param i32) (result i32)))",
        beside: "(type $r (resource (rep i32))) (core func $new (canon resource.new $r)) \
                 (core instance $own (export \"new\" (func $new)))",
    };
    let text = hand.text().replace("(instantiate $m)", "(instantiate $m (with \"own\" (instance $own)))");
    // What is imported stands before what is defined.
    let import = hand.core;
    let text = text.replacen(import, "", 1).replacen(
        "(core module $m",
        &format!("(core module $m {import} (global $made (mut i32) (i32.const 0))"),
        1,
    );
    let host = Host::builder().options(options_of(20_000, 2));
    let host = host.module("hand.wasm", wat::parse_str(text).unwrap()).build().await.unwrap();
    let Err(ExecutionError::Failed { source, .. }) = execute(&host, request()).await.result else { panic!() };
    assert!(matches!(source, StepFailure::Handles { limit: 65_536 }), "{source}");
    assert_eq!(source.class(), FailureClass::Table);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn components_of_many_parts_leave_room_for_as_many_others_as_any() {
    let parts = format!(
        "(core module $e (memory 1) (table 1 funcref)) {} (core module $z) {}",
        "(core instance (instantiate $e))".repeat(3),
        "(core instance (instantiate $z))".repeat(60)
    );
    let hand = Hand { run: "(loop $for_ever (br $for_ever)) unreachable", beside: &parts, core: "" };
    let builder = Host::builder().options(options_of(4_000, 4)).module("hand.wasm", component(&hand));
    let host = builder.module("good.wasm", fixture("good")).build().await.unwrap();
    let spinning: Vec<_> = (0..3)
        .map(|_| {
            let host = host.clone();
            tokio::spawn(async move { execute(&host, request()).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let began = Instant::now();
    assert!(execute(&host, profile_request()).await.result.is_ok());
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    for outcome in spinning {
        let outcome = outcome.await.unwrap();
        let stopped = matches!(
            &outcome.result,
            Err(ExecutionError::Failed { source: StepFailure::Timeout { .. }, .. })
        );
        assert!(stopped, "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_differs_by_processor_or_escapes_the_limits_is_not_offered() {
    let cases = [
        ("(memory $s 1 1 shared)", "threads must be enabled"),
        ("(type $a (array i32))", "gc types are disabled"),
        ("(memory $second 1)", "exceeds the per-instance limit of 1"),
    ];
    for (core, words) in cases {
        let said = refusal(component(&Hand { run: "(call $answer)", core, beside: "" })).await;
        assert!(said.starts_with("module `hand.wasm` is") && said.contains(words), "{core}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_that_is_no_step_is_told_what_it_is_instead() {
    let good = Hand { run: "(call $answer)", ..Hand::default() };
    let text = |from: &str, to: &str| wat::parse_str(good.text().replace(from, to)).unwrap();
    let exports = "(export \"docket:step/step@0.1.0\" (instance $it))";
    let cases = [
        (
            "types".to_owned(),
            text("(field \"attempt\" u32)", "(field \"attempt\" s32)"),
            "module `hand.wasm` exports `docket:step/step@0.1.0` with other types than that interface has; build it against \
             `wit/step.wit` as it is: ",
        ),
        (
            "version".to_owned(),
            text(exports, "(export \"docket:step/step@0.2.0\" (instance $it))"),
            "module `hand.wasm` does not export `docket:step/step@0.1.0`: it exports `docket:step/step@0.2.0`, which is \
             another version; build it against `wit/step.wit` of this host",
        ),
        (
            "other".to_owned(),
            text(exports, "(export \"acme:a/b\" (instance $it))"),
            "module `hand.wasm` does not export `docket:step/step@0.1.0`: it exports `acme:a/b`",
        ),
        (
            "nothing".to_owned(),
            text(exports, ""),
            "module `hand.wasm` does not export `docket:step/step@0.1.0`: it exports nothing",
        ),
    ];
    for (name, component, words) in cases {
        let said = refusal(component).await;
        assert!(said.starts_with(words), "{name}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_stack_and_answers_are_limited_to_the_byte() {
    let grow = "(if (i32.eq (table.grow $t (ref.null func) (i32.const COUNT)) (i32.const -1)) (then unreachable)) \
                (call $answer)";
    for (count, refused) in [("99990", false), ("100001", true)] {
        let hand = Hand { run: &grow.replace("COUNT", count), core: "(table $t 1 funcref)", beside: "" };
        match run(&hand, options_of(20_000, 2)).await.result {
            Ok(_) => assert!(!refused, "{count}"),
            Err(ExecutionError::Failed { source: StepFailure::Tables { limit: 100_000 }, .. }) => {
                assert!(refused, "{count}");
            }
            Err(other) => panic!("{count}: {other}"),
        }
    }

    let deep = "(func $deep (param i32) (result i32) (if (result i32) (local.get 0) (then (i32.add (i32.const 1) \
                (call $deep (i32.sub (local.get 0) (i32.const 1))))) (else (i32.const 0))))";
    let hand = Hand { run: "(drop (call $deep (i32.const 20000))) (call $answer)", core: deep, beside: "" };
    for (stack, enough) in [(8 << 20, true), (64 << 10, false)] {
        let outcome = run(&hand, HostOptions { max_stack: stack, ..options_of(20_000, 2) }).await;
        match outcome.result {
            Ok(_) => assert!(enough, "{stack}"),
            Err(ExecutionError::Failed { source: StepFailure::Stack { limit, .. }, .. }) => {
                assert!(!enough && limit == stack, "{stack}");
            }
            Err(other) => panic!("{stack}: {other}"),
        }
    }

    let answer = "(i32.store (i32.const 268) (i32.const 70000)) (i32.store (i32.const 272) (i32.const LENGTH)) \
                  (call $answer)";
    for (length, refused) in [("50000", false), ("50001", true)] {
        let hand = Hand { run: &answer.replace("LENGTH", length), ..Hand::default() };
        let mut options = options_of(20_000, 2);
        options.defaults.output = Some(50_000);
        match run(&hand, options).await.result {
            Err(ExecutionError::Failed { source: StepFailure::Output { limit: 50_000 }, .. }) => {
                assert!(refused, "{length}");
            }
            // Zeros are no message.
            Err(ExecutionError::Failed { source: StepFailure::Answer(_), .. }) => {
                assert!(!refused, "{length}")
            }
            other => panic!("{length}: {other:?}"),
        }
    }
}

/// Returns what a fixture says that is told these words, or why it failed.
async fn said(host: &Host, words: &str) -> String {
    let outcome = execute(host, told(words)).await;
    match &outcome.result {
        Ok(_) => outcome.message::<UserProfile>().unwrap().name,
        Err(ExecutionError::Failed { source, .. }) => source.to_string(),
        Err(other) => panic!("{words}: {other}"),
    }
}

/// Returns the most memory that this process ever had, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handles_that_are_misused_end_the_attempt_by_name_and_cost_the_host_little() {
    let host = host(&["misuse_handles"]).await;
    let handles = "held more handles of streams, timers, files and requests than its limit of 65536";
    let before = peak_memory();
    for (words, expected) in [
        ("parent", "trapped: resource has children"),
        ("after-drop", "trapped: unknown handle index"),
        ("other-type", "trapped: handle index 1 used with the wrong type"),
        ("poll-nothing", "trapped: empty poll list"),
        ("poll 1000", "1000"),
        ("poll 1000000", handles),
        ("poll-streams 1000", "2000"),
        ("streams 100000", handles),
        ("pollables 1000000", handles),
        ("timers 1000000", "0"),
        ("zeroes 18446744073709551615", "trapped: cannot write more zeroes than `check_write` allows"),
        ("zeroes-and-flush 4097", "trapped: Buffer too large for blocking-write-zeroes-and-flush"),
        ("write 1000000", "Ok(())"),
        ("write 10000000", "wrote more than its limit of 1048576 bytes to stdout and stderr"),
        ("write 20000000", "trapped: handed the host more than 17825792 bytes in one call"),
        ("read 18446744073709551615", "Err(StreamError::Closed)"),
        ("skip 18446744073709551615", "Err(StreamError::Closed)"),
        ("splice 18446744073709551615", "Err(StreamError::Closed)"),
        ("random 1048576", "1048576"),
        ("random 1048577", "trapped: requested len 1048577 exceeds limit 1048576"),
        ("random 18446744073709551615", "trapped: requested len 18446744073709551615 exceeds limit"),
    ] {
        let found = said(&host, words).await;
        assert!(found.starts_with(expected), "{words}: {found}");
    }
    let grown = peak_memory().saturating_sub(before);
    assert!(grown < 400 << 20, "the host took {grown} bytes more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_http_hands_out_can_be_misused_without_harm() {
    let web = Web::start().await;
    let http = [format!("* {}", web.url("/")).parse().unwrap()].into();
    let grants = Grants { http, ..Grants::default() };
    let step = StepOptions {
        grants: Some(grants.into()),
        timeout: Some(Duration::from_secs(20)),
        ..StepOptions::default()
    };
    let setup = Setup::new(&["misuse_http"]).step("FetchProfile", step);
    let host = setup.host().await;
    for (words, path, expected) in [
        ("parent", "/", "trapped: resource has children"),
        ("finish-early", "/", "trapped: resource has children"),
        ("write-late", "/", "trapped: unknown handle index"),
        ("unfinished", "/", "Err(ErrorCode::ConnectionReadTimeout)"),
        ("broken-off", "/", "Err(ErrorCode::"),
        ("twice", "/", "false Ok(()) Some(false) Ok([true, false])"),
        ("response-parent", "/stall-body", "trapped: resource has children"),
        ("many", "/stall-head", "900 denied"),
    ] {
        let found = said(&host, &format!("{words} {}", web.url(path))).await;
        assert!(found.starts_with(expected), "{words}: {found}");
        web.until_open(0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_says_the_same_of_itself_whatever_it_looks_at() {
    let mut found = Vec::new();
    for _ in 0..2 {
        let fresh = HostOptions { artifacts: Artifacts::Nowhere, ..options_of(1_000, 2) };
        let host = host_with(&["describe_otherwise"], fresh).await.unwrap();
        found.push(host.graph().port(host.graph().outputs()[0]).to_string());
    }
    assert_eq!(found[0], found[1]);
    let seen = "example.v1.UserProfile#now-50-slept-50-chance-";
    assert!(found[0].starts_with(seen) && found[0].ends_with("-env-0-files-false"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_looks_like_something_else_is_refused_in_names_and_escaped_in_words() {
    let said = refusal(fixture("declare_unseen")).await;
    for character in ["`\\u{200b}`", "`\\u{200d}`", "`\\u{202e}`"] {
        assert!(said.contains(&format!("it has the character {character}, which is not seen")), "{said}");
    }
    assert!(
        said.contains("`a\\u{feff}` is not a label") && !said.contains(docket_graph::is_deceptive),
        "{said}"
    );
    let host = host(&["say_unseen"]).await;
    let outcome = execute(&host, profile_request()).await;
    let Err(ExecutionError::Failed { source, .. }) = outcome.result else { panic!("{outcome:?}") };
    let words = "all is \\u{202e}dab\\u{202c}\\u{2028}and\\u{200b}more (code `o\\u{2066}k`)";
    assert_eq!(source.to_string(), words);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_steps_in_a_row_and_ten_thousand_inputs_cost_the_host_little() {
    let before = peak_memory();
    let row = host(&["declare_10000_steps"]).await;
    let user = UserId { id: "user-123".into() };
    let outcome = execute(&row, Request::for_labeled::<UserProfile>("9999").input(&user)).await;
    assert_eq!(outcome.message::<UserProfile>().unwrap().name, "Step9999");
    let wide = host(&["declare_10000_inputs"]).await;
    let error = wide.execute(profile_request()).await.unwrap_err().to_string();
    assert!(error.contains("`example.v1.UserID#9999`"), "{}", error.len());
    assert!(peak_memory().saturating_sub(before) < 300 << 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wish_for_as_much_as_there_are_numbers_is_bounded() {
    let host = Setup::new(&["declare_far_future"]).host().await;
    let outcome = execute(&host, profile_request().timeout(Duration::from_millis(700))).await;
    assert!(matches!(outcome.result, Err(ExecutionError::Deadline { .. })), "{outcome:?}");
    assert_eq!(outcome.report.steps[0].attempts.len(), 2);
    let million = host_with(&["scatter_million"], options_of(20_000, 2)).await.unwrap();
    assert_eq!(said(&million, "").await, "answered with more than its limit of 16777216 bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_around_a_call_is_bounded_like_the_call() {
    let spin = "(loop $for_ever (br $for_ever))";
    let good = Hand { run: "(call $answer)", ..Hand::default() };
    let place = "(local $place i32)";
    let lift = "(canon lift (core func $i \"run\") (memory $memory) (realloc $realloc))";
    let after = "(canon lift (core func $i \"run\") (memory $memory) (realloc $realloc) (post-return (core func $i \"after\")))";
    let after = |body: &str| {
        let core = format!("(func (export \"after\") (param i32) {body})");
        let hand = Hand { run: "(call $answer)", core: &core, beside: "" };
        hand.text().replace(lift, after)
    };
    let realloc = |body: &str| good.text().replace(place, &format!("{place} {body}"));
    let out_of_bounds = Hand { run: "(i32.const -16)", ..Hand::default() }.text();
    for (case, text, expected) in [
        ("after the answer, for ever", after(spin), "timed out after 300 ms"),
        ("after the answer, a trap", after("unreachable"), "trapped: wasm trap: wasm `unreachable`"),
        ("memory for the call, for ever", realloc(spin), "timed out after 300 ms"),
        ("memory for the call, none", realloc("unreachable"), "trapped: wasm trap: wasm `unreachable`"),
        ("memory for the call, elsewhere", realloc("(return (i32.const -16))"), "trapped: "),
        ("an answer elsewhere", out_of_bounds, "trapped: "),
    ] {
        let host =
            Host::builder().options(options_of(300, 2)).module("hand.wasm", wat::parse_str(text).unwrap());
        let host = host.build().await.unwrap_or_else(|error| panic!("{case}: {error}"));
        let outcome = execute(&host, request()).await;
        let Err(ExecutionError::Failed { source, .. }) = outcome.result else {
            panic!("{case}: {outcome:?}")
        };
        assert!(source.to_string().starts_with(expected), "{case}: {source}");
    }
    let core = format!("(func $begin {spin}) (start $begin)");
    let hand = component(&Hand { run: "(call $answer)", core: &core, beside: "" });
    let inspector = Inspector::new(&options()).unwrap().patience(Duration::from_millis(300));
    let found = inspector.inspect(&ModuleSource::new("hand.wasm", hand)).await.err().unwrap();
    let words = "module `hand.wasm` failed to describe itself: timed out after 300 ms";
    assert_eq!(found.to_string(), words);
}
