//! What a host does with steps that run once for each element of a list: how often they run, in which order their
//! results come together, and what a failure of one is to the others.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use docket_graph::Port;
use docket_runtime::{
    Came, ElementCounts, ExecutionError, ExecutionId, Explanation, Host, HostOptions, Keeping, Outcome,
    Request, StepFailure, StepOptions, StepOutcome, Value, explain,
};
use docket_store::{MemoryStore, Store};
use docket_tests::wordcount::{Summary, Text, WordCount};
use docket_tests::{Recorder, example_module, options};
use prost::Message;

async fn counter(options: HostOptions, recorder: &Arc<Recorder>) -> Host {
    let builder = Host::builder().options(options).observer(recorder.clone());
    let builder = builder.module("scatter_gather.wasm", example_module("scatter_gather"));
    builder.build().await.unwrap_or_else(|error| panic!("{error}"))
}

fn request(target: &str, text: &str) -> Request {
    let text = Text { text: text.to_owned() };
    let target = Port::parse(&format!("wordcount.v1.{target}")).unwrap();
    let input = Port::parse("wordcount.v1.Text").unwrap();
    Request::new(target).value(input, Value::one(text.encode_to_vec()))
}

/// A text of so many sentences, the first of one word, the next of two, up to ten and again from one.
fn text(sentences: usize) -> String {
    (0..sentences).map(|n| format!("s{n}{}. ", " w".repeat(n % 10))).collect()
}

fn elements(outcome: &Outcome, step: &str) -> Option<ElementCounts> {
    let found = outcome.report.steps.iter().find(|report| report.step.as_str() == step);
    found.unwrap().elements
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_element_runs_once_and_all_come_together_in_order() {
    for sentences in [0, 1, 2, 63, 64, 65, 500] {
        let recorder = Recorder::new();
        let host = counter(options(), &recorder).await;
        let outcome = host.execute(request("Summary", &text(sentences))).await.unwrap();
        let value = outcome.result.as_ref().unwrap_or_else(|error| panic!("{error}"));
        let summary = Summary::decode(&value.payloads()[0].bytes()[..]).unwrap();
        let words = (0..sentences).map(|n| n % 10 + 1).sum::<usize>();
        assert_eq!((summary.sentences as usize, summary.words as usize), (sentences, words));
        assert_eq!(recorder.starts("Count"), sentences);
        assert_eq!(recorder.starts("Summarise"), 1);
        let done = ElementCounts { done: sentences as u64, ..ElementCounts::default() };
        let counts = elements(&outcome, "Count");
        assert!(counts == Some(done), "{counts:?}");
        assert_eq!(elements(&outcome, "Summarise"), None);

        let outcome = host.execute(request("WordCount", &text(sentences))).await.unwrap();
        let value = outcome.result.unwrap_or_else(|error| panic!("{error}"));
        let counts = value.payloads().iter().map(|one| WordCount::decode(&one.bytes()[..]).unwrap());
        let expected = (0..sentences).map(|n| WordCount {
            sentence: format!("s{n}{}", " w".repeat(n % 10)),
            words: n as u32 % 10 + 1,
        });
        assert!(counts.eq(expected), "the results are in the order of the list");
        assert!(matches!(*value, Value::Many(_)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_failure_of_one_element_ends_the_execution_and_is_its_root_cause() {
    let recorder = Recorder::new();
    let host = counter(options(), &recorder).await;
    let text = format!("{}\u{fffd} here. {}", text(20), text(5_000));
    let outcome = host.execute(request("Summary", &text)).await.unwrap();
    match &outcome.result {
        Err(ExecutionError::Failed {
            step,
            attempts: 1,
            source: StepFailure::Reported { message, .. },
            element,
        }) => {
            assert_eq!((step.as_str(), message.as_str()), ("Count", "`\u{fffd} here` is not text"));
            assert_eq!(element.to_string(), "element 20 of `Split`");
        }
        other => panic!("{other:?}"),
    }
    let counts = elements(&outcome, "Count").unwrap();
    assert_eq!(counts.failed, 1);
    // Others may overtake the one that fails, as long as its thread has no processor.
    assert!(counts.done < 5_000 && counts.cached == 0, "{counts:?}");
    let count = outcome.report.steps.iter().find(|report| report.step.as_str() == "Count").unwrap();
    assert_eq!((count.outcome, count.attempts.len()), (StepOutcome::Failed, 1));
    let summarise = outcome.report.steps.iter().find(|report| report.step.as_str() == "Summarise").unwrap();
    assert_eq!(summarise.outcome, StepOutcome::NeverStarted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_elements_of_a_kept_step_run_once() {
    let persistence = docket_graph::Persistence { scope: docket_graph::Scope::Global, ttl: None };
    let kept = docket_runtime::StepOptions {
        persistence: Some(docket_runtime::Keeping::On(persistence)),
        ..docket_runtime::StepOptions::default()
    };
    let steps = BTreeMap::from([("Count".to_owned(), kept)]);
    let recorder = Recorder::new();
    let builder = Host::builder().options(HostOptions { steps, ..options() }).observer(recorder.clone());
    let builder = builder.store(Arc::new(docket_store::MemoryStore::new()));
    let builder = builder.module("scatter_gather.wasm", example_module("scatter_gather"));
    let host = builder.build().await.unwrap();
    let outcome = host.execute(request("Summary", &"the same. ".repeat(10))).await.unwrap();
    let value = outcome.result.as_ref().unwrap_or_else(|error| panic!("{error}"));
    let summary = Summary::decode(&value.payloads()[0].bytes()[..]).unwrap();
    assert_eq!((summary.sentences, summary.words), (10, 20));
    assert_eq!(recorder.starts("Count"), 1);
    let counts = elements(&outcome, "Count").unwrap();
    assert_eq!((counts.done, counts.cached), (1, 9));
    let again = host.execute(request("Summary", &"the same. ".repeat(10))).await.unwrap();
    assert_eq!(elements(&again, "Count").unwrap().cached, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_explained_of_a_step_is_how_many_elements_were_found_and_the_first_that_was_not() {
    let persistence = docket_graph::Persistence { scope: docket_graph::Scope::Global, ttl: None };
    let kept = StepOptions { persistence: Some(Keeping::On(persistence)), ..StepOptions::default() };
    let steps = BTreeMap::from([("Count".to_owned(), kept)]);
    let options = HostOptions { steps, ..options() };
    let tenant = options.tenant.clone();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let builder = Host::builder().options(options).store(Arc::clone(&store));
    let builder = builder.module("scatter_gather.wasm", example_module("scatter_gather"));
    let host = builder.build().await.unwrap();
    let changed = "the input `wordcount.v1.Sentence` changed";
    let cases = [
        ("one", text(5), Came::Made, (0, 5), Some("element 0 of `Split`"), "no result is kept"),
        ("two", text(70), Came::Made, (5, 65), Some("element 5 of `Split`"), changed),
        ("three", text(70), Came::Found, (70, 0), None, "each had been made before"),
        (
            "four",
            format!("{}\u{fffd} here.", text(4)),
            Came::Failed,
            (4, 1),
            Some("element 4 of `Split`"),
            changed,
        ),
    ];
    for (id, text, result, (found, missed), first, reason) in cases {
        let request = request("Summary", &text).execution_id(ExecutionId::parse(id).unwrap());
        let outcome = host.execute(request).await.unwrap();
        assert_eq!(outcome.result.is_err(), result == Came::Failed, "{id}");
        // The next one begins in another millisecond, by which it is told what was made before it.
        std::thread::sleep(Duration::from_millis(2));
        let explained = explain(&store, &tenant, id).await.unwrap();
        assert_eq!(explained.len(), 1, "{id}: {explained:?}");
        let [Explanation { step, result: came, key, reason: why, attempts, elements }] = &explained[..]
        else {
            panic!()
        };
        assert_eq!((step.as_str(), *came, why.as_str()), ("Count", result, reason), "{id}");
        let elements = elements.as_ref().unwrap();
        let path = elements.first_missed.as_ref().map(ToString::to_string);
        assert_eq!((elements.found, elements.missed, path.as_deref()), (Some(found), missed, first), "{id}");
        assert_eq!((key.is_some(), *attempts), (first.is_some(), u32::from(first.is_some())), "{id}");
    }
}
