//! `docket-host batch` as others see it: lines in, lines out, a process between two pipes that is held back, cut off and
//! gone on with. `DOCKET_TORTURE=1` makes the batches ten times as long.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use docket_tests::example::{UserId, UserProfile};
use docket_tests::program::{Ended, Modules, Running, command, ended};
use docket_tests::stores::Backend;
use prost::Message as _;
use serde_json::{Value, json};

/// Five steps, each of which does what the item says; nothing is kept.
const UNKEPT: &str = "[defaults]\npersistence = false\n";

/// How many times as long batches are as in a run that everybody waits for.
fn long() -> usize {
    if std::env::var_os("DOCKET_TORTURE").is_some() { 10 } else { 1 }
}

/// One line for each of these words.
fn lines(words: impl IntoIterator<Item = String>) -> String {
    let mut lines = String::new();
    for id in words {
        writeln!(lines, "{}", json!({ "id": id })).unwrap();
    }
    lines
}

/// Runs a batch of these lines, from a file beside the modules.
fn batch(modules: &Modules, store: &str, lines: &str, args: &[&str]) -> Ended {
    let file = modules.path().join("items.ndjson");
    fs::write(&file, lines).unwrap();
    let args = [&["batch", "--items", file.to_str().unwrap()], args].concat();
    ended(&mut modules.command(store, args))
}

fn values(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The names of the profiles, in their order.
fn names(out: &str) -> Vec<String> {
    values(out).iter().map(|value| value["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn results_stand_in_the_order_of_the_items_however_long_each_takes() {
    let modules = Modules::new("chain", UNKEPT);
    for most in ["1", "7", "300"] {
        let items = if most == "1" { 20 } else { 300 };
        let words: Vec<_> = (0..items).map(|n| format!("sleeps-{}-in-{n}", n * 7919 % 9)).collect();
        let all = batch(&modules, "memory:", &lines(words.clone()), &["--max-concurrency", most]);
        assert_eq!((all.code, &*all.err, names(&all.out)), (Some(0), "", words));
    }
}

#[test]
fn one_item_of_a_thousand_that_fails_ends_the_batch_or_has_a_line_of_its_own() {
    let modules = Modules::new("chain", UNKEPT);
    let word = |n| if n == 500 { "fails".to_owned() } else { format!("in-{n}") };
    let input = lines((0..1000).map(word));
    let all = batch(&modules, "memory:", &input, &["--on-item-error", "continue"]);
    assert_eq!((all.code, &*all.err), (Some(1), "error: 1 of 1000 items failed\n"));
    let found = values(&all.out);
    assert_eq!(found.len(), 1000);
    for (n, line) in found.iter().enumerate() {
        assert_eq!(line["index"], n);
        match n {
            500 => {
                let error =
                    "step `One` failed for item 500 after 1 attempt: was told to fail (code `told-to`)";
                assert_eq!(*line, json!({ "index": 500, "error": error }));
            }
            _ => assert_eq!(line["output"]["name"], word(n)),
        }
    }

    let first = batch(&modules, "memory:", &input, &[]);
    let error = "error: step `One` failed for item 500 after 1 attempt\n  \
                 caused by: was told to fail (code `told-to`)\n";
    assert_eq!((first.code, &*first.err), (Some(1), error));
    let written = names(&first.out);
    assert!(written.len() <= 500, "{} results", written.len());
    assert!(written.iter().enumerate().all(|(n, name)| *name == word(n)), "{written:?}");
}

#[test]
fn a_line_that_is_wrong_ends_the_batch_after_all_before_it_or_has_a_line_of_its_own() {
    let modules = Modules::new("chain", UNKEPT);
    let good = |n| format!("sleeps-{}-in-{n}", n % 5);
    let wrong = ["{\"di\":1}", "{\"id\":5}", "{", "[]"];
    let input = lines((0..200).map(good)) + "\n" + &wrong.join("\n") + "\n" + &lines(["last".to_owned()]);
    let failed = batch(&modules, "memory:", &input, &[]);
    let fault = "line 202, column 5: `example.v1.UserID` has no field `di`; did you mean `id`?";
    let error = format!("item 200 is not a message for `example.v1.UserID`: {fault}");
    assert_eq!((failed.code, failed.err), (Some(2), format!("error: {error}\n")));
    assert_eq!(names(&failed.out), (0..200).map(good).collect::<Vec<_>>());

    let all = batch(&modules, "memory:", &input, &["--on-item-error", "continue"]);
    assert_eq!((all.code, &*all.err), (Some(1), "error: 4 of 205 items failed\n"));
    let found = values(&all.out);
    assert_eq!(found[200], json!({ "index": 200, "error": error }));
    let error = |n: usize| found[n]["error"].as_str().unwrap();
    assert!(
        error(201).ends_with("line 203, column 7: at `id`: invalid type: integer `5`, expected a string")
    );
    assert!(error(202).ends_with(
        "line 204, column 1: it is not JSON: EOF while parsing an object; write each item on one line"
    ));
    assert!(error(203).ends_with(
        "line 205, column 1: this is a list, but each line is one item; write one JSON object a line"
    ));
    assert_eq!((found.len(), &found[204]["output"]["name"]), (205, &json!("last")));
}

#[test]
fn no_items_are_no_fault_and_what_takes_many_gets_none() {
    let modules = Modules::new("chain", UNKEPT);
    for input in ["", "\n\n"] {
        for args in [&[][..], &["--on-item-error", "continue"], &["--format", "proto"]] {
            let none = batch(&modules, "memory:", input, args);
            assert_eq!((none.code, &*none.out, &*none.err), (Some(0), "", ""));
        }
    }
    let modules = Modules::new("join_many", "");
    let joined = |input: &str, args: &[&str]| {
        let one = batch(&modules, "memory:", input, args);
        (one.code, one.out, one.err)
    };
    let answer = |out: &str| (Some(0), out.to_owned(), String::new());
    assert_eq!(joined("", &["--format", "ndjson"]), answer("{\"name\":\"\",\"email\":\"\"}\n"));
    let three = lines(["a", "b", "c"].map(str::to_owned));
    assert_eq!(joined(&three, &[]), answer("{\n  \"name\": \"a+b+c\",\n  \"email\": \"\"\n}\n"));
    let (code, out, err) = joined(&format!("x\n{three}"), &["--on-item-error", "continue"]);
    let why =
        "item 0 is not a message for `example.v1.UserID`: line 1, column 1: it is not JSON: expected value";
    assert_eq!((code, err), (Some(1), format!("error: 1 of 4 items failed\n  caused by: {why}\n")));
    assert!(out.contains("a+b+c"), "what is good comes together: {out}");
}

#[test]
fn a_batch_that_asks_for_its_own_items_gives_each_in_a_line() {
    let modules = Modules::new("chain", UNKEPT);
    let own = |items: &str, args: &[&str]| {
        let all = batch(&modules, "memory:", items, &[&["--output", "example.v1.UserID"], args].concat());
        (all.code, all.out, all.err)
    };
    let items = "{\"id\":\"a\"}\n{\n{\"id\":\"c\"}\n";
    let fault = "item 1 is not a message for `example.v1.UserID`: line 2, column 1: \
                 it is not JSON: EOF while parsing an object; write each item on one line";
    let failed = (Some(2), "{\"id\":\"a\"}\n".to_owned(), format!("error: {fault}\n"));
    assert_eq!(own(items, &[]), failed);
    let each = [
        json!({ "index": 0, "output": { "id": "a" } }),
        json!({ "index": 1, "error": fault }),
        json!({ "index": 2, "output": { "id": "c" } }),
    ];
    let (code, out, err) = own(items, &["--on-item-error", "continue"]);
    assert_eq!((code, &*err, values(&out)), (Some(1), "error: 1 of 3 items failed\n", each.to_vec()));
    let many: String = (0..1000).map(|n| format!("{{\"id\":\"{n}\"}}\n")).collect();
    assert_eq!(own(&many, &["--max-concurrency", "3"]), (Some(0), many.clone(), String::new()));
    assert_eq!(own("", &[]), (Some(0), String::new(), String::new()));
    // A step takes all of them as a list; each is one message still.
    let modules = Modules::new("join_many", "");
    let lists = batch(&modules, "memory:", &many, &["--output", "example.v1.UserID"]);
    assert_eq!((lists.code, lists.out), (Some(0), many));
}

#[test]
fn equal_items_that_are_kept_start_once() {
    let modules = Modules::new("chain", "");
    let place = Backend::Sled.place();
    let words: Vec<_> = (0..60).map(|n| format!("sleeps-20-in-{}", n % 6)).collect();
    let all = batch(&modules, &place.url, &lines(words.clone()), &["-v"]);
    assert_eq!((all.code, names(&all.out)), (Some(0), words), "{}", all.err);
    let starts = |step: &str| {
        let of_step = |line: &&str| line.starts_with(&format!("{step} (")) && line.contains(": starts ");
        all.err.lines().filter(of_step).count()
    };
    assert_eq!(["One", "Two", "Three", "Four", "Five"].map(starts), [6; 5], "{}", all.err);
}

#[test]
fn messages_behind_their_lengths_go_in_and_come_out_as_lines_do() {
    let modules = Modules::new("chain", UNKEPT);
    let words: Vec<_> = (0..300).map(|n| "x".repeat(n)).collect();
    let framed: Vec<u8> =
        words.iter().flat_map(|id| UserId { id: id.clone() }.encode_length_delimited_to_vec()).collect();
    let file = modules.path().join("items.binpb");
    fs::write(&file, framed).unwrap();
    let args = ["batch", "--items", file.to_str().unwrap()];
    let by_name = ended(&mut modules.command("memory:", args));
    assert_eq!((by_name.code, names(&by_name.out)), (Some(0), words.clone()), "{}", by_name.err);
    let mut child = modules
        .command("memory:", ["batch", "--items", "-", "--items-format", "proto", "--format", "proto"])
        .stdin(fs::File::open(&file).unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut out).unwrap();
    assert!(child.wait().unwrap().success());
    let mut rest = &out[..];
    for word in &words {
        assert_eq!(UserProfile::decode_length_delimited(&mut rest).unwrap().name, *word);
    }
    assert!(rest.is_empty());

    let refused = batch(&modules, "memory:", "", &["--format", "proto", "--on-item-error", "continue"]);
    let error = "error: `--format proto` has no place for the error of an item, which `--on-item-error \
                 continue` writes; write `--format ndjson`\n";
    assert_eq!((refused.code, &*refused.err), (Some(2), error));
}

#[test]
fn the_default_request_is_that_of_docket_toml() {
    let toml =
        "[batch]\nitems = 'in.ndjson'\noutput = 'example.v1.UserProfile#2'\non-item-error = 'continue'\n";
    let modules = Modules::new("chain", &format!("{UNKEPT}{toml}"));
    fs::write(modules.path().join("in.ndjson"), lines(["a".to_owned(), "fails".to_owned()])).unwrap();
    let all = ended(&mut modules.command("memory:", ["batch", "-v"]));
    assert_eq!(all.code, Some(1));
    let found = values(&all.out);
    assert_eq!((found.len(), &found[0]["output"]["name"]), (2, &json!("a")));
    assert!(!all.err.contains("Three"), "what is not asked for does not run: {}", all.err);
}

#[test]
fn a_fault_of_the_request_is_bad_input_and_says_what_to_do() {
    let modules = Modules::new("chain", UNKEPT);
    let check = |args: &[&str], error: &str| {
        let args = [&["batch"], args].concat();
        let refused = ended(&mut modules.command("memory:", args.iter()));
        assert_eq!((refused.code, &*refused.out), (Some(2), ""), "{args:?}: {}", refused.err);
        assert!(refused.err.starts_with(&format!("error: {error}")), "{args:?}: {}", refused.err);
    };
    check(&[], "there are no items; give them with `--items FILE`, or `--items -` for stdin\n");
    check(
        &["--items", "nope"],
        "the items for `example.v1.UserID` cannot be read from `nope`\n  caused by: ",
    );
    check(&["--items", "-", "--items-port", "a.B"], "2 faults in the request:\n");
    check(&["--items", "-", "--shared", "{}"], "invalid value '{}' for '--shared <INPUT>': there is no port");
    let both = ["--items", "-", "--shared", "a.B=-"];
    check(&both, "stdin is named for two inputs, but can be read only once\n");
}

/// A batch between two pipes.
struct Piped {
    child: Child,
    out: BufReader<ChildStdout>,
    /// How many lines were taken from us.
    taken: Arc<AtomicUsize>,
}

impl Piped {
    /// Begins a batch and writes lines to it as fast as it takes them; stdin is closed when `until` says so.
    fn begin(modules: &Modules, items: usize, until: impl FnOnce() + Send + 'static) -> Self {
        let mut command = modules.command("memory:", ["batch", "--items", "-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (taken, mut stdin) = (Arc::new(AtomicUsize::new(0)), BufWriter::new(child.stdin.take().unwrap()));
        let counted = Arc::clone(&taken);
        // It ends with the process at the latest.
        thread::spawn(move || {
            for n in 0..items {
                if writeln!(stdin, "{{\"id\":\"{n}\"}}").is_err() {
                    return;
                }
                counted.store(n + 1, Ordering::Relaxed);
            }
            if stdin.flush().is_ok() {
                until();
            }
        });
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out, taken }
    }

    /// Reads so many results and checks that they are the next.
    fn read(&mut self, from: usize, to: usize) {
        let mut line = String::new();
        for n in from..to {
            line.clear();
            self.out.read_line(&mut line).unwrap();
            assert_eq!(line, format!("{{\"name\":\"Alice of {n}\",\"email\":\"alice@example.com\"}}\n"));
        }
    }

    /// Returns a line of the kernel's account of the process, in KiB.
    fn kib(&self, name: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_matches([':', '\t', ' ', 'k', 'B']).parse().unwrap()
    }

    fn end(mut self) {
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).unwrap();
        assert_eq!((rest.as_str(), self.child.wait().unwrap().code()), ("", Some(0)));
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        // Whoever waited for it has ended it already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_reader_that_stops_holds_the_items_back_and_gets_every_result_later() {
    const ITEMS: usize = 200_000;
    let modules = Modules::new("good", "");
    let mut piped = Piped::begin(&modules, ITEMS, || {});
    piped.read(0, 10);
    let stalled = || {
        let mut before = 0;
        for _ in 0..100 {
            thread::sleep(Duration::from_millis(300));
            match piped.taken.load(Ordering::Relaxed) {
                same if same == before && same > 0 => return same,
                more => before = more,
            }
        }
        panic!("the items are read on and on: {before}");
    };
    let (taken, held) = (stalled(), piped.kib("VmRSS"));
    // A line has some 15 bytes, a result some 50; both pipes have 64 KiB, and a few reads and writes are under way.
    assert!(taken < ITEMS / 4, "{taken} items were read, though nobody took a result");
    thread::sleep(Duration::from_secs(1));
    assert_eq!(piped.taken.load(Ordering::Relaxed), taken);
    assert!(piped.kib("VmRSS") <= held + 1024, "{} KiB, and {held} before", piped.kib("VmRSS"));
    piped.read(10, ITEMS);
    piped.end();
}

#[test]
fn a_hundred_thousand_items_take_no_more_memory_than_a_thousand() {
    let modules = Modules::new("good", "");
    let peak = |items| {
        // The process is looked at when it has given all results and waits for more items.
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let mut piped = Piped::begin(&modules, items, move || _ = gone.recv());
        piped.read(0, items);
        let peak = piped.kib("VmHWM");
        go.send(()).unwrap();
        piped.end();
        peak
    };
    let (few, many) = (peak(1000), peak(100_000 * long()));
    println!("{few} KiB for 1000 items, {many} KiB for {}", 100_000 * long());
    assert!(many <= few + 64 * 1024, "{few} KiB for 1000 items, {many} KiB for {}", 100_000 * long());
}

#[test]
fn a_reader_that_goes_away_ends_the_batch_without_a_word() {
    let modules = Modules::new("good", "");
    let mut command = modules.command("memory:", ["batch", "--items", "-"]);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut first = String::new();
    writeln!(stdin, "{{\"id\":\"0\"}}").unwrap();
    // An item that comes alone is not waited for with others.
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains("Alice of 0"), "{first}");
    // The items have no end; the batch has.
    while writeln!(stdin, "{{\"id\":\"1\"}}").is_ok() {}
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &*String::from_utf8_lossy(&output.stderr)), (Some(0), ""));
}

/// The good step, whose results are kept.
const KEPT: &str = "[store]\nlease = '1s'\n[defaults]\npersistence = { scope = 'workflow' }\n";

/// Longer than the lease.
const LAPSED: Duration = Duration::from_millis(1_200);

fn starts(said: &Ended) -> usize {
    said.err.lines().filter(|line| line.contains(": attempt ") && line.ends_with(" started")).count()
}

#[test]
fn a_batch_that_is_killed_goes_on_by_the_same_command_and_by_resume_and_runs_nothing_again_that_was_kept() {
    let items = 10_000 * long();
    let modules = Modules::new("good", KEPT);
    let file = modules.path().join("items.ndjson");
    fs::write(&file, lines((0..items).map(|n| n.to_string()))).unwrap();
    let args = ["batch", "-v", "-v", "--execution-id", "mine", "--items", file.to_str().unwrap()];
    let whole = ended(&mut modules.command(&Backend::Sled.place().url, args));
    assert_eq!((whole.code, whole.out.lines().count(), starts(&whole)), (Some(0), items, items));

    let place = Backend::Sled.place();
    let mut begun = 0;
    let mut cut_at = |lines: usize| {
        let mut process = Running::start(&mut modules.command(&place.url, args));
        process.says_lines(lines);
        let said = process.killed();
        assert!(said.out.lines().count() < items, "it was over before it was killed");
        begun += starts(&said);
        // The last line may be cut off.
        let whole_lines = said.out.rfind('\n').map_or(0, |end| end + 1);
        assert!(whole.out.starts_with(&said.out[..whole_lines]));
        thread::sleep(LAPSED);
    };
    cut_at(items);
    cut_at(items / 2);
    let shown = ended(&mut command(&place.url, ["executions", "ls", "--format", "json"]));
    let shown = &serde_json::from_str::<Value>(&shown.out).unwrap()[0];
    let read = shown["items"]["read"].as_u64().unwrap();
    assert!(shown["status"] == "interrupted" && read > 0 && read < items as u64, "{shown}");

    let resumed = ended(&mut command(&place.url, ["resume", "-v", "-v", "mine"]));
    assert_eq!(resumed.code, Some(0), "{}", resumed.err);
    assert!(resumed.out == whole.out, "what is written is what an undisturbed batch writes");
    // What was under way at a kill may have started without being kept: as many as may be under way at once.
    let all = begun + starts(&resumed);
    assert!((items..=items + 2 * 64).contains(&all), "{all} starts for {items} items");
    let again = ended(&mut command(&place.url, ["resume", "-v", "-v", "mine"]));
    assert_eq!((again.code, starts(&again)), (Some(0), 0), "all is kept");
    assert!(again.out == whole.out);

    fs::write(&file, lines((0..items).map(|n| (n + 1).to_string()))).unwrap();
    let others = ended(&mut modules.command(&place.url, args));
    assert_eq!(others.code, Some(2), "{}", others.err);
    assert!(others.err.contains("mine"), "{}", others.err);
}

#[test]
fn a_signal_stops_a_batch_and_says_how_to_go_on() {
    let modules = Modules::new("chain", "[store]\nlease = '1s'\n");
    let place = Backend::Sled.place();
    let file = modules.path().join("items.ndjson");
    let words: Vec<_> = (0..400).map(|n| format!("sleeps-20-in-{n}")).collect();
    fs::write(&file, lines(words.clone())).unwrap();
    let begin = |id: &str, stdin: bool| {
        let items = if stdin { "-" } else { file.to_str().unwrap() };
        let args = ["batch", "-v", "--execution-id", id, "--items", items];
        let mut command = modules.command(&place.url, args);
        let mut process = Running::start(command.stdin(fs::File::open(&file).unwrap()));
        process.says_lines(300);
        process.signal("INT");
        process.ended()
    };
    let stopped = begin("mine", false);
    let way = format!(
        "error: interrupted by SIGINT: batch `mine` was stopped\n  \
         to go on with it: docket-host resume mine --store {}\n",
        place.url
    );
    assert!(stopped.code == Some(130) && stopped.err.ends_with(&way), "{}", stopped.err);
    let shown = ended(&mut command(&place.url, ["executions", "show", "mine"]));
    assert!(shown.out.contains("\nstatus     interrupted\n"), "{}", shown.out);
    let from = format!("\nitems      example.v1.UserID from {}\n", file.display());
    assert!(shown.out.contains(&from) && shown.out.contains("\nprogress   "), "{}", shown.out);
    let resumed = ended(&mut command(&place.url, ["resume", "mine", "-q"]));
    assert_eq!((resumed.code, names(&resumed.out)), (Some(0), words), "{}", resumed.err);

    let stopped = begin("piped", true);
    let way = "  to go on with it: give the same command the same items again, with `--execution-id piped`\n";
    assert!(stopped.code == Some(130) && stopped.err.ends_with(way), "{}", stopped.err);
    let refused = ended(&mut command(&place.url, ["resume", "piped", "-q"]));
    let error =
        format!("error: the items of batch `piped` came from a stream, which cannot be read again\n{way}");
    assert_eq!((refused.code, refused.err), (Some(2), error));
}
