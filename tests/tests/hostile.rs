//! Steps written by hand to do harm: what they are stopped by has a name, and no one else is held up.

#![expect(clippy::disallowed_methods, reason = "tests measure, wait, and run things beside each other")]
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::time::{Duration, Instant};

use docket_graph::{FailureClass, Port};
use docket_runtime::{
    BuildError, ExecutionError, Host, HostOptions, LoadErrors, Outcome, Request, StepFailure, StepOptions,
};
use docket_tests::by_hand::Hand;
use docket_tests::{execute, fixture, options, profile_request};

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
