//! What a host does with batches: each item's outcome in its place, whatever the others do, in bounded memory; and what is
//! made of all items together.

#![expect(clippy::disallowed_methods, reason = "tests wait in real time")]
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use docket_graph::{OnItemError, Port, Scope};
use docket_runtime::{
    Batch, BatchOutcome, BatchRequest, ErrorKind, Event, ExecutionError, ExecutionId, ExecutionOutcome, Host,
    HostOptions, ItemCounts, ItemOutcome, ItemSource, ItemsError, Observer, Payload, Request, RequestError,
    RetryOptions, StepFailure, StepOptions, StoredRequest, Value,
};
use docket_tests::example::{UserId, UserProfile};
use docket_tests::wordcount::{Summary, Text};
use docket_tests::{Recorder, Setup, example_module, host, host_with, keeping, options};
use futures_util::{Stream, StreamExt as _, stream};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use prost::Message;
use prost::bytes::Bytes;

/// How long a test waits for a batch to end: far longer than any takes, and far shorter than a lease here.
const PATIENCE: Duration = Duration::from_secs(60);

type Items = Pin<Box<dyn Stream<Item = Result<Bytes, ItemsError>> + Send>>;

/// Returns items that the fixtures understand.
fn told(words: impl IntoIterator<Item = String, IntoIter: Send + 'static>) -> Items {
    Box::pin(stream::iter(words.into_iter().map(|id| Ok(UserId { id }.encode_to_vec().into()))))
}

/// Returns a batch of the profiles that the fixtures make.
fn profiles() -> BatchRequest {
    BatchRequest::new(Request::for_message::<UserProfile>())
}

fn width(width: usize) -> NonZeroUsize {
    NonZeroUsize::new(width).unwrap()
}

/// Takes all outcomes.
async fn taken(batch: &mut Batch) -> Vec<ItemOutcome> {
    let mut outcomes = Vec::new();
    while let Some(outcome) = batch.next().await {
        outcomes.push(outcome);
    }
    outcomes
}

async fn carried_out(host: &Host, request: BatchRequest, items: Items) -> (Vec<ItemOutcome>, BatchOutcome) {
    let mut batch = host.batch(request, items).unwrap_or_else(|error| panic!("{error}"));
    let ended = tokio::time::timeout(PATIENCE, async {
        let outcomes = taken(&mut batch).await;
        (outcomes, batch.outcome().await.unwrap_or_else(|error| panic!("{error}")))
    });
    ended.await.expect("a batch waits for no lease of one that was dropped or is over")
}

/// Returns the hosts over the example that counts the words of sentences.
async fn counter(recorder: &Arc<Recorder>) -> Host {
    let builder = Host::builder().options(options()).observer(recorder.clone());
    let builder = builder.module("scatter_gather.wasm", example_module("scatter_gather"));
    builder.build().await.unwrap_or_else(|error| panic!("{error}"))
}

fn wordcount(target: &str, items: &str) -> BatchRequest {
    let port = |name: &str| Port::parse(&format!("wordcount.v1.{name}")).unwrap();
    BatchRequest::new(Request::new(port(target))).items(port(items))
}

fn texts(texts: impl IntoIterator<Item = String, IntoIter: Send + 'static>) -> Items {
    Box::pin(stream::iter(texts.into_iter().map(|text| Ok(Text { text }.encode_to_vec().into()))))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_item_has_its_outcome_in_its_place_whatever_the_delays() {
    let host = host(&["obey"]).await;
    for (items, most) in [(0, 4), (1, 1), (63, 64), (64, 64), (65, 64), (300, 7), (300, 1000)] {
        let words = (0..items).map(|n: usize| format!("{n}-sleeps-{}", n * 7919 % 12));
        let request = profiles().max_concurrency(width(most));
        let (outcomes, outcome) = carried_out(&host, request, told(words)).await;
        assert_eq!(outcomes.len(), items);
        let keys: Vec<_> = outcomes.iter().map(|item| name(item.result.as_ref().unwrap())).collect();
        assert!(outcomes.iter().zip(0..).all(|(item, index)| item.index == index));
        // Each item has a key of its own.
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), items);
        assert!(matches!(outcome.result, Ok(None)), "{:?}", outcome.result);
        assert_eq!(outcome.report.outcome, ExecutionOutcome::Done);
        let counts = outcome.items;
        assert_eq!((counts.read, counts.done, counts.failed), (items as u64, items as u64, 0));
        let elements = outcome.report.steps[0].elements.unwrap();
        assert_eq!(elements.done, items as u64);
    }
}

fn name(value: &Value) -> String {
    UserProfile::decode(&value.payloads()[0].bytes()[..]).unwrap().name
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_item_among_a_thousand_loses_no_other() {
    let host = host(&["obey"]).await;
    let words = |bad: usize| (0..1000).map(move |n| if n == bad { "fails".into() } else { n.to_string() });
    for bad in [0, 17, 999] {
        let request = profiles().on_item_error(OnItemError::Continue);
        let (outcomes, outcome) = carried_out(&host, request, told(words(bad))).await;
        assert_eq!(outcomes.len(), 1000);
        for (index, item) in outcomes.iter().enumerate() {
            assert_eq!(item.index, index as u64);
            match &item.result {
                Err(ExecutionError::Failed { element, attempts: 1, source, .. }) if index == bad => {
                    assert_eq!(element.item(), Some(bad as u64));
                    assert_eq!(source.to_string(), "was told to fail (code `told-to`)");
                }
                other => assert!(other.is_ok() && index != bad, "{index}: {other:?}"),
            }
        }
        assert!(matches!(outcome.result, Ok(None)));
        assert_eq!((outcome.items.done, outcome.items.failed), (999, 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_ends_a_batch_with_its_cause_and_index_however_wide_it_is() {
    let host = host(&["obey"]).await;
    for most in [1, 8, 64] {
        let words = (0..500).map(|n| if n == 100 { "fails".into() } else { n.to_string() });
        let request = profiles().max_concurrency(width(most));
        let (outcomes, outcome) = carried_out(&host, request, told(words)).await;
        // One that has begun before may not have ended: so far apart are the first and the last that are held.
        assert!(outcomes.len() <= 100 && outcomes.len() + 4 * most > 100, "{} of {most}", outcomes.len());
        assert!(outcomes.iter().zip(0..).all(|(item, index)| item.index == index && item.result.is_ok()));
        let error = outcome.result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Guest);
        assert_eq!(error.to_string(), "step `FetchProfile` failed for item 100 after 1 attempt");
        assert_eq!(outcome.report.outcome, ExecutionOutcome::Failed);
        assert!(outcome.items.read <= 100 + 4 * most as u64, "{:?}", outcome.items);
        assert_eq!(outcome.items.failed, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_that_is_no_message_is_an_item_that_fails() {
    let host = host(&["obey"]).await;
    let items = || -> Items {
        let good = |n: u32| Ok(UserId { id: n.to_string() }.encode_to_vec().into());
        let bad = Ok(Bytes::from_static(b"\xff\xff"));
        let unread = Err(ItemsError::Item("line 3 is no JSON".to_owned()));
        Box::pin(stream::iter([good(0), bad, unread, good(3)]))
    };
    let request = profiles().on_item_error(OnItemError::Continue);
    let (outcomes, outcome) = carried_out(&host, request, items()).await;
    let errors: Vec<_> =
        outcomes.iter().map(|item| item.result.as_ref().err().map(|e| e.to_string())).collect();
    assert_eq!(errors.len(), 4);
    assert_eq!((errors[0].as_ref(), errors[3].as_ref()), (None, None));
    let prefix = "item 1 is not a message for `example.v1.UserID`: ";
    assert!(errors[1].as_ref().unwrap().starts_with(prefix), "{errors:?}");
    assert_eq!(
        errors[2].as_deref(),
        Some("item 2 is not a message for `example.v1.UserID`: line 3 is no JSON")
    );
    assert_eq!((outcome.items.read, outcome.items.done, outcome.items.failed), (4, 2, 2));

    let (outcomes, outcome) = carried_out(&host, profiles().max_concurrency(width(1)), items()).await;
    assert_eq!(outcomes.len(), 1);
    let error = outcome.result.unwrap_err();
    assert!(error.to_string().starts_with(prefix), "{error}");
    assert_eq!((error.kind(), outcome.report.outcome), (ErrorKind::Invalid, ExecutionOutcome::Failed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_that_cannot_be_read_to_their_end_are_bad_input_with_the_position() {
    let host = host(&["obey"]).await;
    let items: Items = Box::pin(
        told((0..5).map(|n| n.to_string()))
            .chain(stream::iter([Err(ItemsError::Read("the disk is gone".to_owned())), Ok(Bytes::new())])),
    );
    let request = profiles().on_item_error(OnItemError::Continue);
    let (_, outcome) = carried_out(&host, request, items).await;
    let error = outcome.result.unwrap_err();
    assert_eq!(error.to_string(), "the items cannot be read after the first 5: the disk is gone");
    assert_eq!((error.kind(), outcome.items.read), (ErrorKind::Invalid, 5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_of_which_none_is_a_message_end_without_a_step() {
    let host = host(&["obey"]).await;
    for (items, most) in [(1000, 64), (300, 1)] {
        let no_message = |n| Err(ItemsError::Item(format!("line {n} is no JSON")));
        let request = profiles().on_item_error(OnItemError::Continue).max_concurrency(width(most));
        let (outcomes, outcome) =
            carried_out(&host, request, Box::pin(stream::iter((0..items).map(no_message)))).await;
        assert!(outcomes.iter().all(|item| item.result.is_err()));
        assert_eq!((outcomes.len() as u64, outcome.items.failed), (items, items));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_that_is_no_message_comes_before_the_end_of_what_can_be_read() {
    let host = host(&["obey"]).await;
    let no_message = Err(ItemsError::Item("line 2 is no JSON".to_owned()));
    let unread = Err(ItemsError::Read("the disk is gone".to_owned()));
    let items = told(["0".to_owned(), "1".to_owned()]).chain(stream::iter([no_message, unread]));
    let (_, outcome) = carried_out(&host, profiles(), Box::pin(items)).await;
    let error = outcome.result.unwrap_err().to_string();
    assert_eq!(error, "item 2 is not a message for `example.v1.UserID`: line 2 is no JSON");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_takes_slowly_holds_the_reading_back() {
    let host = host(&["obey"]).await;
    let read = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&read);
    let words =
        told((0..200).map(|n| n.to_string())).inspect(move |_| _ = counted.fetch_add(1, Ordering::SeqCst));
    let mut batch = host.batch(profiles().max_concurrency(width(10)), words).unwrap();
    let mut most = 0;
    for taken in 1..=200 {
        assert!(batch.next().await.is_some());
        if taken % 40 == 1 {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        let read = read.load(Ordering::SeqCst);
        most = most.max(read - taken);
        let progress = batch.progress();
        assert_eq!((progress.counts().read, progress.delivered()), (read as u64, taken as u64));
    }
    assert!((20..=40).contains(&most), "four times as many are held as may be under way: {most}");
    assert!(batch.next().await.is_none());
    assert_eq!(batch.outcome().await.unwrap().items.done, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_items_are_not_held_beyond_those_under_way() {
    let host = host(&["bench_echo"]).await;
    let read = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&read);
    let large = UserProfile { name: "x".repeat(300_000), ..UserProfile::default() }.encode_to_vec();
    let large = Bytes::from(large);
    let items = stream::iter((0..60).map(move |_| Ok::<_, ItemsError>(large.clone())));
    let items = items.inspect(move |_| _ = counted.fetch_add(1, Ordering::SeqCst));
    let echoed = Port::parse("example.v1.UserProfile#out").unwrap();
    let request = BatchRequest::new(Request::new(echoed)).max_concurrency(width(4));
    let mut batch = host.batch(request, items).unwrap();
    for taken in 1..=60 {
        assert!(batch.next().await.is_some());
        if taken % 10 == 1 {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        let read = read.load(Ordering::SeqCst);
        // Those that are under way, and as many more as have 1 MiB together.
        assert!(read <= taken + 4 + 4 + 1, "{read} are read when {taken} are taken");
    }
    assert!(batch.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_that_wait_for_all_others_make_room_for_them() {
    // `Judge` takes what was gathered of all items, and runs for each.
    let host = host(&["count_failed"]).await;
    for (items, most) in [(0, 64), (64, 64), (65, 64), (1000, 64), (100, 1), (300, 7)] {
        let judged = Port::parse("example.v1.UserProfile#judged").unwrap();
        let user_id = Port::parse("example.v1.UserID").unwrap();
        let request = BatchRequest::new(Request::new(judged)).items(user_id).max_concurrency(width(most));
        let words = told((0..items).map(|n: usize| n.to_string()));
        let (outcomes, outcome) = carried_out(&host, request, words).await;
        let names: Vec<_> = outcomes.iter().map(|item| name(item.result.as_ref().unwrap())).collect();
        assert_eq!(names, (0..items).map(|n| n.to_string()).collect::<Vec<_>>());
        assert_eq!(outcome.items.done, items as u64);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_item_begins_after_one_has_failed() {
    let host = host_with(&["obey"], HostOptions { lanes: 1, ..options() }).await.unwrap();
    for bad in [0, 20, 43, 190] {
        let words = (0..200).map(move |n| if n == bad { "fails".into() } else { n.to_string() });
        let (_, outcome) = carried_out(&host, profiles(), told(words)).await;
        let elements = outcome.report.steps[0].elements.unwrap();
        // On a busy machine one before it may have used up its time slice, and is stopped while it waits for the next.
        assert_eq!((elements.done + elements.cancelled, elements.failed), (bad, 1), "{elements:?}");
        assert_eq!((outcome.items.done, outcome.items.failed), (elements.done, 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_that_waits_holds_up_none_that_its_lane_has_taken() {
    let host = host_with(&["obey"], HostOptions { lanes: 1, ..options() }).await.unwrap();
    let words = (0..100).map(|n| if n == 43 { "sleeps-60000".into() } else { n.to_string() });
    let mut batch = host.batch(profiles().max_concurrency(width(100)), told(words)).unwrap();
    let progress = batch.progress();
    let others = async {
        while progress.counts().done < 99 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        _ = taken(&mut batch) => panic!("one sleeps for a minute"),
        ended = tokio::time::timeout(PATIENCE / 2, others) => ended.expect("all others have ended by now"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_has_the_same_key_in_a_row_and_over_the_board() {
    let keys = async |host: &Host| {
        let id = ExecutionId::parse("keys").unwrap();
        let request = BatchRequest::new(Request::for_message::<UserProfile>().execution_id(id));
        let (outcomes, _) = carried_out(host, request, told((0..200).map(|n| n.to_string()))).await;
        let key =
            |item: &ItemOutcome| name(item.result.as_ref().unwrap()).split(' ').next().unwrap().to_owned();
        outcomes.iter().map(key).collect::<Vec<_>>()
    };
    // Who has an observer, who is told of each attempt, has no rows.
    let over_the_board = keys(&Setup::new(&["obey"]).host().await).await;
    let in_rows = keys(&host(&["obey"]).await).await;
    assert_eq!(in_rows, over_the_board);
    let distinct: std::collections::BTreeSet<_> = in_rows.iter().collect();
    assert_eq!(distinct.len(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_elements_of_different_items_have_different_keys() {
    let host = host(&["count_failed"]).await;
    let target = Port::parse("example.v1.UserProfile#word").unwrap();
    let items = ["a b", "a c", "a b"].map(str::to_owned);
    let (outcomes, _) = carried_out(&host, BatchRequest::new(Request::new(target)), told(items)).await;
    let key = |word: &Payload| UserProfile::decode(&word.bytes()[..]).unwrap().email;
    let keys = |item: &ItemOutcome| -> Vec<String> {
        item.result.as_ref().unwrap().payloads().iter().map(key).collect()
    };
    let [first, second, third] = &outcomes.iter().map(keys).collect::<Vec<_>>()[..] else {
        panic!("three items")
    };
    assert_eq!(first, third, "the same work");
    let distinct: std::collections::BTreeSet<_> = first.iter().chain(second).collect();
    assert_eq!(distinct.len(), 4, "{first:?} {second:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_goes_on_while_its_lane_has_other_work() {
    let step = StepOptions { timeout: Some(Duration::from_millis(500)), ..StepOptions::default() };
    let steps = [("FetchProfile".to_owned(), step)].into();
    let host = host_with(&["obey"], HostOptions { lanes: 2, steps, ..options() }).await.unwrap();
    // Fewer than there are permits, so that no lane has to rest for want of one.
    let sleeps = |n: usize| n < 32_000 && n.is_multiple_of(2000);
    let word = move |n| if sleeps(n) { format!("{n}-sleeps-20") } else { n.to_string() };
    let many = 150_000;
    let request = profiles().max_concurrency(width(many));
    let (outcomes, outcome) = carried_out(&host, request, told((0..many).map(word))).await;
    // None was looked after so late that its time was over. All together take about a second; where they are quicker than the
    // timeout, this shows nothing.
    assert_eq!((outcomes.len(), outcome.items.done), (many, many as u64), "{:?}", outcome.result);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aggregate_runs_once_over_all_items_or_over_those_that_are_good() {
    for (target_of, bad) in [("Sentence", None), ("Sentence", Some(3)), ("WordCount", None)] {
        for items in [0, 1, 64, 65, 1000_usize] {
            let recorder = Recorder::new();
            let host = counter(&recorder).await;
            let bad = bad.filter(|bad| *bad < items);
            let text = move |n: usize| if bad == Some(n) { "\u{fffd}".to_owned() } else { format!("w{n} w") };
            let request = wordcount("Summary", target_of).on_item_error(OnItemError::Continue);
            let (outcomes, outcome) = carried_out(&host, request, texts((0..items).map(text))).await;
            assert!(outcomes.is_empty());
            let value = outcome.result.unwrap().unwrap();
            let summary = Summary::decode(&value.payloads()[0].bytes()[..]).unwrap();
            let good = items - usize::from(bad.is_some());
            assert_eq!(summary.sentences as usize, good);
            assert_eq!(recorder.starts("Summarise"), 1);
            if target_of == "Sentence" {
                assert_eq!((summary.words as usize, recorder.starts("Count")), (2 * good, items));
            }
            assert_eq!((outcome.items.done, outcome.items.failed), (good as u64, (items - good) as u64));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_of_what_is_made_of_all_items_is_that_of_just_these_items() {
    let host = host(&["remember"]).await;
    let keys = async |words: &[&str]| {
        let target = Port::parse("example.v1.UserProfile#after").unwrap();
        let start = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let id = ExecutionId::parse("the-same").unwrap();
        let request = BatchRequest::new(Request::new(target).execution_id(id).started_at(start));
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        let (_, outcome) = carried_out(&host, request, told(words)).await;
        let report = name(&outcome.result.unwrap().unwrap());
        let (together, after) = report.split_once(' ').unwrap();
        (together.to_owned(), after.to_owned())
    };
    let (together, after) = keys(&["a", "b"]).await;
    assert_ne!(together.split_once('=').unwrap().1, after.split_once('=').unwrap().1);
    assert_eq!(keys(&["a", "b"]).await, (together.clone(), after.clone()), "the same in every run");
    for others in [&["a", "c"][..], &["b", "a"], &["a"], &["a", "b", "b"], &[]] {
        let (other_together, other_after) = keys(others).await;
        assert!(together != other_together && after != other_after, "{others:?}");
    }
}

/// Knows how many attempts are under way, and how many were at most.
#[derive(Default)]
struct UnderWay {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Observer for UnderWay {
    fn on_event(&self, _: &ExecutionId, event: &Event<'_>) {
        match event {
            Event::AttemptStarted { .. } => {
                let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
                self.most.fetch_max(now, Ordering::SeqCst);
            }
            Event::AttemptEnded { .. } => _ = self.now.fetch_sub(1, Ordering::SeqCst),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bound_of_a_step_holds_over_all_items_and_batches_of_a_host() {
    for (bound, expected) in [(Some(3), 3), (None, 40)] {
        let under_way = Arc::<UnderWay>::default();
        let step = StepOptions {
            max_concurrency: bound.and_then(|n: u32| n.try_into().ok()),
            ..StepOptions::default()
        };
        let options = HostOptions { steps: [("FetchProfile".to_owned(), step)].into(), ..options() };
        let builder = Host::builder().options(options).observer(under_way.clone());
        let host = builder.module("obey.wasm", docket_tests::fixture("obey")).build().await.unwrap();
        let batch = || {
            let words = (0..20).map(|n| format!("{n}-sleeps-50"));
            carried_out(&host, profiles().max_concurrency(width(20)), told(words))
        };
        let ((one, _), (other, _)) = tokio::join!(batch(), batch());
        assert!(one.iter().chain(&other).all(|item| item.result.is_ok()));
        assert_eq!(under_way.most.load(Ordering::SeqCst), expected, "{bound:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_within_an_item_comes_together_in_that_item() {
    let recorder = Recorder::new();
    let host = counter(&recorder).await;
    let text = |n: usize| (0..n % 5).map(|k| format!("s{k}. ")).collect::<String>();
    let (outcomes, _) = carried_out(&host, wordcount("Summary", "Text"), texts((0..200).map(text))).await;
    for (n, item) in outcomes.iter().enumerate() {
        let value = item.result.as_ref().unwrap();
        assert_eq!(Summary::decode(&value.payloads()[0].bytes()[..]).unwrap().sentences as usize, n % 5);
    }
    let (outcomes, _) = carried_out(&host, wordcount("WordCount", "Text"), texts((0..200).map(text))).await;
    assert_eq!(outcomes.len(), 200);
    for (n, item) in outcomes.iter().enumerate() {
        let value = item.result.as_ref().unwrap();
        assert!(matches!(&**value, Value::Many(payloads) if payloads.len() == n % 5), "{n}: {value:?}");
    }
    let words = move |n: usize| if n == 40 { "a. b. \u{fffd} b. c. d.".to_owned() } else { text(n) };
    let request = wordcount("Summary", "Text").on_item_error(OnItemError::Continue);
    let (outcomes, _) = carried_out(&host, request, texts((0..100).map(words))).await;
    let error = outcomes[40].result.as_ref().unwrap_err().to_string();
    assert_eq!(error, "step `Count` failed for item 40, element 2 of `Split` after 1 attempt");
    assert_eq!(outcomes.iter().filter(|item| item.result.is_ok()).count(), 99);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_are_counted_for_each_item() {
    let retry = RetryOptions { max_attempts: 3.try_into().ok(), ..Default::default() };
    let step = StepOptions { retry, ..Default::default() };
    let setup = Setup::new(&["obey"]).step("FetchProfile", step);
    let host = setup.host().await;
    let words = (0..30).map(|n| format!("{n}-until-{}", n % 5));
    let request = profiles().on_item_error(OnItemError::Continue);
    let (outcomes, _) = carried_out(&host, request, told(words)).await;
    for (n, item) in outcomes.iter().enumerate() {
        match &item.result {
            Err(ExecutionError::Failed { attempts: 3, source: StepFailure::Reported { .. }, .. }) => {
                assert_eq!(n % 5, 4);
            }
            other => assert!(other.is_ok() && n % 5 < 4, "{n}: {other:?}"),
        }
    }
}

/// Returns hosts on one store that keep what `obey` answers, in the scope of one execution. Whoever waited for a lease to
/// lapse would wait for an hour.
fn kept() -> Setup {
    let setup = Setup::new(&["obey"]).step("FetchProfile", keeping(Scope::Workflow, None));
    setup.with(|options| options.lease = Duration::from_secs(3600))
}

fn named(id: &str) -> BatchRequest {
    let id = ExecutionId::parse(id).unwrap();
    BatchRequest::new(Request::for_message::<UserProfile>().execution_id(id))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_equal_kept_items_run_once() {
    let setup = kept();
    let host = setup.host().await;
    let items = told((0..10).map(|_| "same-sleeps-20".to_owned()));
    let (outcomes, outcome) = carried_out(&host, profiles(), items).await;
    assert_eq!(setup.starts("FetchProfile"), 1);
    let first = name(outcomes[0].result.as_ref().unwrap());
    assert!(outcomes.iter().all(|item| name(item.result.as_ref().unwrap()) == first));
    let counts = outcome.report.steps[0].elements.unwrap();
    assert_eq!((counts.done, counts.cached), (1, 9));
}

/// Returns how many attempts each item is said to have made, and the numbers of those that were started. Each item comes so
/// long after the one before it.
async fn failing(words: &str, pause: Duration) -> (Vec<u32>, Vec<u32>) {
    let retry = RetryOptions { max_attempts: 3.try_into().ok(), ..RetryOptions::default() };
    let step = StepOptions { retry, ..keeping(Scope::Workflow, None) };
    let setup = Setup::new(&["obey"]).step("FetchProfile", step);
    let request = profiles().on_item_error(OnItemError::Continue);
    let items = told((0..4).map(|_| words.to_owned()).collect::<Vec<_>>());
    let items = items.then(move |item| async move {
        tokio::time::sleep(pause).await;
        item
    });
    let (outcomes, _) = carried_out(&setup.host().await, request, Box::pin(items)).await;
    let attempts = outcomes.iter().map(|item| match &item.result {
        Err(ExecutionError::Failed { attempts, .. }) => *attempts,
        other => panic!("{other:?}"),
    });
    let started = setup.recorder.matching(" started");
    let numbers =
        started.iter().filter_map(|line| line.strip_prefix("FetchProfile ")?.split(' ').next()?.parse().ok());
    (attempts.collect(), numbers.collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_kept_items_that_fail_are_one_piece_of_work_whose_attempts_are_counted_on() {
    let (mut attempts, started) = failing("sleeps-40-until-9", Duration::ZERO).await;
    attempts.sort_unstable();
    // One makes the attempts for all, who say that they made none.
    assert_eq!((attempts, started), (vec![0, 0, 0, 3], vec![1, 2, 3]));
    let (attempts, started) = failing("until-9", Duration::from_millis(500)).await;
    // Whoever comes later tries once more, under the next number: the three of the first were all that it had.
    assert_eq!((attempts, started), (vec![3, 4, 5, 6], vec![1, 2, 3, 4, 5, 6]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_was_dropped_anywhere_goes_on_and_runs_nothing_again_that_was_kept() {
    for taken_before in [0, 1, 50, 1500, 2999] {
        let setup = kept();
        let words = || told((0..3000).map(|n: usize| n.to_string()));
        let mut batch = setup.host().await.batch(named("b"), words()).unwrap();
        assert!(batch.is_journaled());
        let mut before = Vec::new();
        for _ in 0..taken_before {
            before.push(name(batch.next().await.unwrap().result.as_ref().unwrap()));
        }
        drop(batch);
        let (outcomes, outcome) = carried_out(&setup.host().await, named("b"), words()).await;
        assert_eq!((outcomes.len(), outcome.items.done), (3000, 3000));
        for (item, before) in outcomes.iter().zip(&before) {
            assert_eq!(&name(item.result.as_ref().unwrap()), before, "the kept result is found");
        }
        // What was under way when the batch was dropped may run again, and nothing else.
        let most = 3000 + 64;
        assert!(setup.starts("FetchProfile") <= most, "{}", setup.starts("FetchProfile"));
        let starts = setup.starts("FetchProfile");
        let (again, _) = carried_out(&setup.host().await, named("b"), words()).await;
        assert_eq!((again.len(), setup.starts("FetchProfile")), (3000, starts), "done is done");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_items_under_the_id_of_a_batch_are_a_conflict() {
    let setup = kept();
    let host = setup.host().await;
    let words = |items: usize, other: usize| {
        told((0..items).map(move |n| if n == other { "other".into() } else { n.to_string() }))
    };
    let (_, outcome) = carried_out(&host, named("b"), words(2000, 2000)).await;
    assert_eq!(outcome.items.done, 2000);
    for items in [words(2000, 0), words(2000, 1999), words(1999, 2000), words(0, 0)] {
        let mut batch = host.batch(named("b"), items).unwrap();
        tokio::time::timeout(PATIENCE, taken(&mut batch)).await.expect("the batch before has ended");
        let error = batch.outcome().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_eq!(
            error.to_string(),
            "batch `b` was begun with other items, which differ within the first 2000; give the same, or choose another id"
        );
    }
    // More items than were read before may well be the same batch, which was interrupted.
    let (outcomes, _) = carried_out(&host, named("b"), words(2001, 2001)).await;
    // The item that was other had run before that was known.
    assert_eq!((outcomes.len(), setup.starts("FetchProfile")), (2001, 2002));
    let other = named("b").on_item_error(OnItemError::Continue);
    let error = host.batch(other, words(2001, 2001)).unwrap().outcome().await.unwrap_err();
    assert!(matches!(error, RequestError::Conflict { .. }), "{error}");
    let error = host.resume(ExecutionId::parse("b").unwrap()).outcome().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "`b` is a batch; to go on with it, run it again with this id and the same items"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_record_of_a_batch_says_what_it_is_and_how_far() {
    let setup = kept();
    let host = setup.host().await;
    let request = named("b").source(ItemSource::File("items.ndjson".into()));
    let words = || told((0..3000).map(|n: usize| n.to_string()));
    let mut batch = host.batch(request, words()).unwrap();
    for _ in 0..2500 {
        batch.next().await.unwrap();
    }
    let journal = docket_store::Journal::new(setup.store.clone(), "looks".into(), Duration::from_secs(5));
    let mut entry = journal.read("default", "b").await.unwrap().unwrap();
    // The note of the second group is being written.
    for _ in 0..200 {
        if entry.facts.detail.as_deref().is_some_and(|detail| detail.contains("items")) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        entry = journal.read("default", "b").await.unwrap().unwrap();
    }
    let detail: serde_json::Value = serde_json::from_str(entry.facts.detail.as_deref().unwrap()).unwrap();
    assert!(detail["items"]["read"].as_u64().unwrap() >= 1024, "{detail}");
    let stored = StoredRequest::decode(entry.request).unwrap();
    let of_items = stored.batch.clone().unwrap();
    assert_eq!(of_items.source, ItemSource::File("items.ndjson".into()));
    assert_eq!(of_items.items.to_string(), "example.v1.UserID");
    drop(batch);
    let _ = host.shutdown(Duration::from_secs(5)).await;
    let again = BatchRequest::resuming(ExecutionId::parse("b").unwrap(), &stored).unwrap();
    let (outcomes, _) = carried_out(&setup.host().await, again, words()).await;
    assert_eq!(outcomes.len(), 3000);
    assert!(setup.starts("FetchProfile") <= 3064);
    let entry = journal.read("default", "b").await.unwrap().unwrap();
    let detail: serde_json::Value = serde_json::from_str(entry.facts.detail.as_deref().unwrap()).unwrap();
    assert_eq!(detail["items"].to_string(), r#"{"done":3000,"failed":0,"read":3000}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn executions_go_on_beside_batches_of_items_that_spin() {
    let step = StepOptions { timeout: Some(Duration::from_secs(20)), ..StepOptions::default() };
    let setup = Setup::new(&["scripted"]).with(|options| {
        options.max_instances = 16;
        options.defaults = step;
    });
    let host = setup.host().await;
    let target = || Request::new(Port::parse("example.v1.UserProfile#first").unwrap());
    let batch = || BatchRequest::new(target()).max_concurrency(width(50));
    let spinning = told((0..50).map(|_| "spin|0".to_owned()));
    let mut first = host.batch(batch(), spinning).unwrap();
    let mut second = host.batch(batch(), told((0..50).map(|_| "spin|0".to_owned()))).unwrap();
    let beside = async {
        setup.recorder.until_started("S0", 14).await;
        for _ in 0..5 {
            let request = target().input(&UserId { id: "0|0".to_owned() }).timeout(Duration::from_secs(10));
            let outcome = host.execute(request).await.unwrap();
            assert!(outcome.result.is_ok(), "{:?}", outcome.result);
        }
    };
    tokio::select! {
        outcome = first.next() => panic!("{outcome:?}"),
        outcome = second.next() => panic!("{outcome:?}"),
        () = beside => {}
    }
    assert_eq!(setup.starts("S0"), 14 + 5, "batches leave two of sixteen permits to others");
}

/// Remembers for which element what was told.
#[derive(Default)]
struct Elements(std::sync::Mutex<Vec<String>>);

impl Observer for Elements {
    fn on_event(&self, _: &ExecutionId, event: &Event<'_>) {
        let line = match event {
            Event::AttemptStarted { step, element, .. } => format!("{element}: {step} started"),
            Event::AttemptEnded { step, element, .. } => format!("{element}: {step} answered"),
            Event::StepEnded { step, element, outcome } => format!("{element}: {step} ended {outcome:?}"),
            _ => return,
        };
        self.0.lock().unwrap().push(line);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_is_told_with_the_element_and_for_each_in_order() {
    let told = Arc::<Elements>::default();
    let builder = Host::builder().options(options()).observer(told.clone());
    let builder = builder.module("scatter_gather.wasm", example_module("scatter_gather"));
    let host = builder.build().await.unwrap();
    let texts = texts((0..20).map(|n| if n == 7 { "a. \u{fffd}".to_owned() } else { "a. b.".to_owned() }));
    let request = wordcount("Summary", "Text").on_item_error(OnItemError::Continue);
    let (_, outcome) = carried_out(&host, request, texts).await;
    let lines = told.0.lock().unwrap().clone();
    let of = |element: &str| {
        let prefix = format!("{element}: ");
        lines.iter().filter_map(move |line| line.strip_prefix(&prefix)).map(str::to_owned).collect::<Vec<_>>()
    };
    for item in (0..20).filter(|item| *item != 7) {
        let own = ["Split", "Summarise"];
        let expected =
            own.map(|step| ["started", "answered", "ended Done"].map(|did| format!("{step} {did}")));
        assert_eq!(of(&format!("item {item}")), expected.concat());
        for element in 0..2 {
            let expected = ["started", "answered", "ended Done"].map(|did| format!("Count {did}"));
            assert_eq!(of(&format!("item {item}, element {element} of `Split`")), expected);
        }
    }
    let failed = ["Count started", "Count answered", "Count ended Failed"];
    assert_eq!(of("item 7, element 1 of `Split`"), failed);
    let count = outcome.report.steps.iter().find(|step| step.step.as_str() == "Count").unwrap();
    assert_eq!(count.attempts[0].element.to_string(), "item 7, element 1 of `Split`");
}

/// What an item is told, and what is to come of it.
#[derive(Clone, Debug)]
enum Told {
    /// It answers after so many milliseconds, at this attempt.
    Answers(u8, u32),
    Fails,
    /// It is no message.
    Garbage,
}

impl Told {
    /// Returns the item, of which each has words of its own unless it is one of some that are equal.
    fn item(&self, name: usize) -> Bytes {
        let id = match self {
            // One that does not wait ends when it is first called.
            Told::Answers(0, attempt) => format!("{name}-until-{attempt}"),
            Told::Answers(millis, attempt) => format!("{name}-sleeps-{millis}-until-{attempt}"),
            Told::Fails => format!("{name}-fails"),
            Told::Garbage => return Bytes::from_static(b"\xff"),
        };
        UserId { id }.encode_to_vec().into()
    }

    /// Returns how many attempts it fails after; none where it answers.
    fn fails_after(&self, attempts: u32) -> Option<u32> {
        match self {
            Told::Answers(_, at) if *at <= attempts => None,
            Told::Answers(..) => Some(attempts),
            Told::Fails => Some(1),
            Told::Garbage => Some(0),
        }
    }
}

fn anything() -> impl Strategy<Value = Told> {
    prop_oneof![
        6 => (0..4_u8, 1..4_u32).prop_map(|(millis, attempt)| Told::Answers(millis, attempt)),
        12 => Just(Told::Answers(0, 1)),
        1 => Just(Told::Fails),
        1 => Just(Told::Garbage),
    ]
}

#[derive(Clone, Debug)]
struct Case {
    items: Vec<Told>,
    /// Items of the same number modulo this are equal, where they are told the same.
    names: usize,
    most: usize,
    policy: OnItemError,
    attempts: u32,
    kept: bool,
}

impl Case {
    fn given(&self) -> Vec<Bytes> {
        self.items.iter().enumerate().map(|(n, item)| item.item(n % self.names)).collect()
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let policy = prop_oneof![Just(OnItemError::Fail), Just(OnItemError::Continue)];
    let items = proptest::collection::vec(anything(), 0..60);
    (items, 1..40_usize, 1..20_usize, policy, 1..4_u32, any::<bool>()).prop_map(
        |(items, names, most, policy, attempts, kept)| {
            // An item whose equal has failed before goes on counting its attempts: with three, what answers does so anyway.
            let attempts = if kept { 3 } else { attempts };
            Case { items, names, most, policy, attempts, kept }
        },
    )
}

#[test]
fn whatever_items_do_their_outcomes_are_those_of_one_after_the_other() {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config = Config { cases: 60, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(Config { rng_seed: RngSeed::Fixed(20_261_121), ..config });
    let check = |case: Case| {
        tokio.block_on(agrees(&case));
        Ok(())
    };
    runner.run(&cases(), check).unwrap_or_else(|error| panic!("{error}"));
}

/// With an observer each item goes over the board; without one, and where nothing is kept, lanes carry them out in rows.
async fn agrees(case: &Case) {
    let Case { attempts, kept, .. } = *case;
    let retry = RetryOptions { max_attempts: attempts.try_into().ok(), ..RetryOptions::default() };
    let step = if kept { keeping(Scope::Workflow, None) } else { StepOptions::default() };
    let step = StepOptions { retry, ..step };
    let setup = Setup::new(&["obey"]).step("FetchProfile", step.clone());
    agrees_on(&setup.host().await, case).await;
    if !kept {
        let steps = [("FetchProfile".to_owned(), step)].into();
        agrees_on(&host_with(&["obey"], HostOptions { steps, ..options() }).await.unwrap(), case).await;
        return;
    }
    if case.policy == OnItemError::Continue {
        let good = case.given().into_iter().zip(&case.items);
        let good = good.filter(|(_, item)| item.fails_after(attempts).is_none());
        let distinct: std::collections::BTreeSet<Bytes> = good.map(|(bytes, _)| bytes).collect();
        let answered = setup.recorder.matching("answered").len();
        assert_eq!(answered, distinct.len(), "equal items are answered once");
    }
}

async fn agrees_on(host: &Host, case: &Case) {
    let Case { items, most, policy, attempts, kept, .. } = case.clone();
    let given = case.given();
    let request = profiles().on_item_error(policy).max_concurrency(width(most));
    let stream: Items = Box::pin(stream::iter(given.into_iter().map(Ok)));
    let (outcomes, outcome) = carried_out(host, request, stream).await;
    let first_bad = items.iter().position(|item| item.fails_after(attempts).is_some());
    for (index, of) in outcomes.iter().enumerate() {
        assert_eq!(of.index, index as u64);
        match (items[index].fails_after(attempts), &of.result) {
            (None, Ok(value)) => assert!(name(value).starts_with("key=")),
            (Some(0), Err(ExecutionError::Item { index: at, .. })) => assert_eq!(*at, index as u64),
            (Some(expected), Err(ExecutionError::Failed { attempts, element, .. })) => {
                assert!(*attempts == expected || kept, "{attempts} of {expected}");
                assert_eq!(element.item(), Some(index as u64));
            }
            (expected, got) => panic!("{expected:?} and {got:?}"),
        }
    }
    let ItemCounts { read, done, failed, .. } = outcome.items;
    match (policy, first_bad) {
        (OnItemError::Continue, _) | (OnItemError::Fail, None) => {
            assert!(matches!(outcome.result, Ok(None)));
            assert_eq!((outcomes.len(), read, done + failed), (items.len(), read, read));
            assert_eq!(read, items.len() as u64);
        }
        (OnItemError::Fail, Some(first)) => {
            assert!(outcomes.len() <= first);
            let index = match outcome.result.unwrap_err() {
                ExecutionError::Item { index, .. } => index,
                ExecutionError::Failed { element, .. } => element.item().unwrap(),
                other => panic!("{other}"),
            };
            assert!(items[index as usize].fails_after(attempts).is_some());
        }
    }
    // What the step came to is what the items did, but for those that are no messages.
    let elements = outcome.report.steps[0].elements.unwrap_or_default();
    let unread = items.iter().filter(|item| matches!(item, Told::Garbage)).count() as u64;
    match policy {
        OnItemError::Continue => {
            assert_eq!((elements.done + elements.cached, elements.failed), (done, failed - unread))
        }
        OnItemError::Fail => assert_eq!(elements.done + elements.cached, done),
    }
}
