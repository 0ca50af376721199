//! What a step is told of the elements that failed of those that it gathers: in batches that go on and in all else, after
//! retries and kills, and what that is to its key.

#![expect(clippy::disallowed_methods, reason = "tests wait in real time")]
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::fs;
use std::time::Duration;

use docket_graph::{OnItemError, Port, Scope};
use docket_runtime::{BatchRequest, ExecutionId, Host, ItemsError, Request, explain};
use docket_tests::example::{UserId, UserProfile};
use docket_tests::program::{Modules, Running, command, ended};
use docket_tests::stores::Backend;
use docket_tests::{Setup, host, keeping};
use futures_util::stream;
use prost::Message as _;
use prost::bytes::Bytes;
use serde_json::{Value, json};

fn request(label: &str) -> Request {
    Request::new(Port::parse(&format!("example.v1.UserProfile#{label}")).unwrap())
}

/// Runs a batch of these words, of which `!` is no message, and returns the one value's text and key.
async fn together(host: &Host, request: BatchRequest, words: &[&str]) -> (String, String) {
    let item = |word: &&str| match *word {
        "!" => Ok(Bytes::from_static(b"\xff")),
        word => Ok(UserId { id: word.to_owned() }.encode_to_vec().into()),
    };
    let items: Vec<Result<Bytes, ItemsError>> = words.iter().map(item).collect();
    let request = request.items(Port::parse("example.v1.UserID").unwrap());
    let batch = host.batch(request, stream::iter(items)).unwrap_or_else(|error| panic!("{error}"));
    let value = batch.outcome().await.unwrap().result.unwrap_or_else(|error| panic!("{error}"));
    let profile = UserProfile::decode(&value.unwrap().payloads()[0].bytes()[..]).unwrap();
    (profile.name, profile.email)
}

fn going_on(label: &str) -> BatchRequest {
    BatchRequest::new(request(label)).on_item_error(OnItemError::Continue)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_is_told_how_many_failed_of_what_it_gathers() {
    let host = host(&["count_failed"]).await;
    let cases: [(&str, &[&str], &str); 9] = [
        ("gathered", &["a", "b"], "a+b failed=0"),
        ("gathered", &[], " failed=0"),
        ("gathered", &["a", "Fetch-fails", "c", "Fetch-fails"], "a+c failed=2"),
        ("gathered", &["Fetch-fails"], " failed=1"),
        // What is no message has failed too.
        ("gathered", &["!", "a", "Fetch-fails", "!", "b"], "a+b failed=3"),
        // Where nothing runs for each item, that is all that can.
        ("raw", &["a", "!", "b", "!"], "a+b failed=2"),
        ("raw", &["a", "b"], "a+b failed=0"),
        // Within an item whatever fails is the item.
        ("page", &["a b", "c Word-fails", "", "!", "d"], "a+b failed=0+ failed=0+d failed=0 failed=2"),
        ("page", &["Line-fails", "a"], "a failed=0 failed=1"),
    ];
    for (label, words, expected) in cases {
        assert_eq!(together(&host, going_on(label), words).await.0, expected, "{label} of {words:?}");
    }
    let many = (0..1000).map(|n| if n % 7 == 3 { "Fetch-fails" } else { "" }).collect::<Vec<_>>();
    let (told, _) = together(&host, going_on("gathered"), &many).await;
    assert_eq!(told.split_once(' ').unwrap().1, "failed=143");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_has_failed_in_a_batch_that_would_have_ended_and_in_one_execution() {
    let host = host(&["count_failed"]).await;
    let (told, _) = together(&host, BatchRequest::new(request("gathered")), &["a", "b"]).await;
    assert_eq!(told, "a+b failed=0");
    for (label, expected) in
        [("gathered", "a b failed=0"), ("page", "a+b failed=0 failed=0"), ("raw", "a b failed=0")]
    {
        let request = request(label).input(&UserId { id: "a b".to_owned() });
        let outcome = host.execute(request).await.unwrap();
        let value = outcome.result.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(UserProfile::decode(&value.payloads()[0].bytes()[..]).unwrap().name, expected, "{label}");
    }
    let error =
        host.batch(going_on("gathered").items(Port::parse("docket.v1.Failed").unwrap()), stream::empty());
    let error = error.err().unwrap().to_string();
    assert!(error.contains("the host counts how many failed itself, so leave it out"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_count_is_that_of_the_stage_that_was_gathered_at_every_attempt() {
    let host = host(&["count_failed"]).await;
    // `Slow` is tried again while later steps of the items fail.
    let words = ["a-Slow-until-3", "Fetch-fails", "b-Judge-fails", "c", "d-Judge-fails"];
    let (told, _) = together(&host, going_on("report"), &words).await;
    let all = "a-Slow-until-3+b-Judge-fails+c+d-Judge-fails";
    assert_eq!(told, format!("{all} | a-Slow-until-3+c | {all} failed=1 failed=3"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_batches_of_the_same_good_items_and_another_count_are_not_the_same_work() {
    let setup = Setup::new(&["count_failed"]).step("Gather", keeping(Scope::Global, None));
    let host = setup.host().await;
    let named = |id: &str| {
        let request = request("gathered").execution_id(ExecutionId::parse(id).unwrap());
        BatchRequest::new(request).on_item_error(OnItemError::Continue)
    };
    let (_, key) = together(&host, named("none"), &["a", "b"]).await;
    // The next one begins in another millisecond, by which it is told what was made before it.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let (told, other) = together(&host, named("one"), &["a", "Fetch-fails", "b"]).await;
    assert_eq!((told.as_str(), setup.starts("Gather")), ("a+b failed=1", 2));
    assert_ne!(key, other);
    // Which one failed makes no difference.
    let (told, same) = together(&host, named("another"), &["a", "b", "x-Fetch-fails"]).await;
    assert_eq!((told.as_str(), same, setup.starts("Gather")), ("a+b failed=1", other, 2));
    let explained = explain(&setup.store, "default", "one").await.unwrap();
    let why: Vec<_> = explained.iter().map(|step| (step.step.as_str(), step.reason.as_str())).collect();
    assert_eq!(why, [("Gather", "the input `docket.v1.Failed`, which the host counts, changed")]);

    // The keys of what is not kept: of one execution's id, with the items as a list and one by one.
    let host = Setup::new(&["count_failed"]).host().await;
    for label in ["gathered", "raw"] {
        let named = || {
            let request = request(label).execution_id(ExecutionId::parse("mine").unwrap());
            let start = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
            BatchRequest::new(request.started_at(start)).on_item_error(OnItemError::Continue)
        };
        let (_, none) = together(&host, named(), &["a"]).await;
        let (_, one) = together(&host, named(), &["a", "!"]).await;
        let (_, again) = together(&host, named(), &["!", "a"]).await;
        assert!(none != one && one == again, "{label}: {none} {one} {again}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_before_an_execution_of_a_step_that_takes_the_count_is_what_is_found() {
    let setup = Setup::new(&["count_failed"]).step("Raw", keeping(Scope::Global, None));
    let host = setup.host().await;
    let asked = || request("raw").input(&UserId { id: "a".to_owned() });
    assert!(host.execute(asked()).await.unwrap().result.is_ok());
    let forecasts = host.forecast(asked()).await.unwrap();
    assert!(matches!(forecasts[..], [(_, docket_runtime::Forecast::Hit { .. })]), "{forecasts:?}");
}

/// What runs for items is kept for an execution, and what gathers takes its time.
const KEPT: &str = "[store]\nlease = '1s'\n[defaults]\npersistence = { scope = 'workflow' }\n";

#[test]
fn a_batch_that_is_killed_and_gone_on_with_counts_the_same() {
    let modules = Modules::new("count_failed", KEPT);
    let file = modules.path().join("items.ndjson");
    let line = |n: usize| match n {
        n if n % 10 == 4 => json!({ "id": format!("{n}-Fetch-fails") }).to_string(),
        7 => "no item".to_owned(),
        8 => json!({ "id": "8-Slow-until-3" }).to_string(),
        n if n % 10 == 9 => json!({ "id": format!("{n}-Judge-fails") }).to_string(),
        n => json!({ "id": n.to_string() }).to_string(),
    };
    fs::write(&file, (0..600).map(|n| line(n) + "\n").collect::<String>()).unwrap();
    let file = file.to_str().unwrap();
    let common =
        ["batch", "-v", "-v", "--execution-id", "mine", "--on-item-error", "continue", "--items", file];
    let output = ["--items-port", "example.v1.UserID", "--output", "example.v1.UserProfile#report"];
    let args = [&common[..], &output].concat();
    let name = |out: &str| {
        let value: Value = serde_json::from_str(out).unwrap_or_else(|error| panic!("{error}: {out}"));
        value["name"].as_str().unwrap().to_owned()
    };
    let whole = ended(&mut modules.command(&Backend::Sled.place().url, args.clone()));
    assert_eq!(whole.code, Some(1), "{}", whole.err);
    let why = "error: 121 of 600 items failed\n  caused by: step `Fetch` failed for item 4 after 1 attempt\n";
    assert!(whole.err.contains(why), "{}", whole.err);
    let told = name(&whole.out);
    // Each of the tens had one that failed in `Fetch`, and one in `Judge`; one was no message.
    assert!(told.contains(" failed=61 failed=121"), "{told}");

    let place = Backend::Sled.place();
    for said in ["Fetch (item 300)", "Judge (item 300)", "Slow: attempt 2 started"] {
        let mut process = Running::start(&mut modules.command(&place.url, args.clone()));
        assert!(process.says(said), "{said}");
        let cut = process.killed();
        assert_eq!((cut.code, &*cut.out), (None, ""), "it was over before it was killed");
        std::thread::sleep(Duration::from_millis(1_200));
    }
    let resumed = ended(&mut command(&place.url, ["resume", "mine"]));
    assert_eq!(resumed.code, Some(1), "{}", resumed.err);
    assert_eq!(name(&resumed.out), told);
}

#[test]
fn the_program_says_where_the_count_comes_from() {
    let modules = Modules::new("count_failed", "");
    let wasm = modules.path().join("count_failed.wasm");
    let shown = |args: &[&str]| {
        let shown = ended(&mut modules.command("memory:", args));
        assert_eq!(shown.code, Some(0), "{args:?}: {}", shown.err);
        shown.out
    };
    let plan = ["plan", "--items-port", "example.v1.UserID", "--output", "example.v1.UserProfile#gathered"];
    let takes = "example.v1.UserProfile#fetched (many), docket.v1.Failed (from the host)";
    for args in [&plan[..], &["inspect", wasm.to_str().unwrap()], &["graph", "--format", "text"]] {
        let text = shown(args);
        assert!(text.contains(takes), "{args:?}: {text}");
    }
    let text = shown(&["validate"]);
    assert!(text.contains("; inputs example.v1.UserID; outputs "), "{text}");
    let of_step = |json: &Value, name: &str| {
        let steps = json["steps"].as_array().unwrap();
        let step = steps.iter().find(|step| step["step"] == name).unwrap();
        step["inputs"].as_array().unwrap().iter().map(|input| input["from_host"].clone()).collect::<Vec<_>>()
    };
    let plan: Value = serde_json::from_str(&shown(&[&plan[..], &["--format", "json"]].concat())).unwrap();
    assert_eq!(of_step(&plan, "Gather"), [Value::Null, json!(true)]);
    let inspected = shown(&["inspect", wasm.to_str().unwrap(), "--format", "json"]);
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(of_step(&inspected, "Report")[0], json!(true));
    let output = ["run", "--output", "example.v1.UserProfile#gathered", "--input"];
    let given = "docket.v1.Failed={\"count\":\"3\"}";
    let refused = ended(&mut modules.command("memory:", [&output[..], &[given]].concat()));
    assert_eq!(refused.code, Some(2), "{}", refused.err);
    let error =
        "input `docket.v1.Failed` is not used: the host counts how many failed itself, so leave it out";
    assert!(refused.err.contains(error), "{}", refused.err);
    // Nobody is asked for it.
    let run = ended(&mut modules.command("memory:", [&output[..], &["{\"id\":\"a\"}"]].concat()));
    assert_eq!(run.code, Some(0), "{}", run.err);
    assert!(run.out.contains("a failed=0"), "{}", run.out);
}
