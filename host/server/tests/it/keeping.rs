//! What is kept, through the verbs that show it and change it, on each store that needs no server.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{command, demo_folder, ended, json, run};

/// The stores that every test is done on.
const STORES: [&str; 2] = ["sled:kept", "sqlite:kept.db"];

/// The demonstration, where what is fetched is kept.
fn kept(url: &str) -> tempfile::TempDir {
    demo_folder(&format!(
        "[store]\nurl = '{url}'\n[defaults]\npersistence = {{ scope = 'global', ttl = '1h' }}\n\
         [step.EnrichUser]\npersistence = false\n"
    ))
}

/// Runs the default request, or the one for another user, under an id.
fn execute(dir: &Path, id: &str, user: Option<&str>) -> Value {
    let input = user.map(|user| format!("example.v1.UserID={{\"id\":\"{user}\"}}"));
    let mut args = vec!["run", "--execution-id", id, "--report", "-q"];
    args.extend(input.iter().flat_map(|input| ["--input", input]));
    let ended = run(dir, &args);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    serde_json::from_str(&ended.err).unwrap()
}

fn column<'a>(rows: &'a Value, name: &str) -> Vec<&'a str> {
    rows.as_array().unwrap().iter().map(|row| row[name].as_str().unwrap()).collect()
}

#[test]
fn what_is_kept_is_found_again_and_plan_and_explain_say_so() {
    for url in STORES {
        let dir = kept(url);
        let dir = dir.path();
        let before = json(dir, &["plan", "--format", "json"]);
        assert_eq!(column(&before["steps"], "state"), ["will run"; 4]);
        let reasons =
            ["no result is kept", "no result is kept", "no result is kept", "its results are not kept"];
        assert_eq!(column(&before["steps"], "reason"), reasons);

        execute(dir, "one", None);
        let second = execute(dir, "two", None);
        assert_eq!(column(&second["steps"], "outcome"), ["cached", "cached", "cached", "done"]);
        let after = json(dir, &["plan", "--format", "json"]);
        assert_eq!(column(&after["steps"], "state"), ["hit", "hit", "hit", "will run"]);
        let text = run(dir, &["plan"]).out;
        assert!(text.contains("hit: its result is kept"), "{text}");

        let steps = ["FetchActivity", "FetchPreferences", "FetchProfile"];
        let one = json(dir, &["explain", "one", "--format", "json"]);
        assert_eq!((column(&one, "step"), column(&one, "result")), (steps.to_vec(), vec!["made"; 3]));
        let two = json(dir, &["explain", "two", "--format", "json"]);
        assert_eq!(column(&two, "reason"), ["execution `one` had made it"; 3]);
        execute(dir, "three", Some("user-456"));
        let text = run(dir, &["explain", "three"]).out;
        assert!(text.contains("made    the input `example.v1.UserID` changed"), "{text}");

        run(dir, &["cache", "rm", "--step", "FetchActivity"]);
        execute(dir, "four", None);
        let two = json(dir, &["explain", "two", "--format", "json"]);
        let again = "what it found is gone; execution `four` made it again";
        let before = "execution `one` had made it";
        assert_eq!(column(&two, "reason"), [again, before, before]);
    }
}

#[test]
fn a_step_that_waits_for_another_is_unknown_until_that_has_run() {
    let dir = demo_folder("[store]\nurl = 'sled:kept'\n[defaults]\npersistence = { scope = 'global' }\n");
    let plan = json(dir.path(), &["plan", "--format", "json"]);
    let last = &plan["steps"][3];
    assert_eq!(
        (&last["state"], &last["reason"]),
        (&"unknown".into(), &"until `FetchProfile` has run".into())
    );
    assert_eq!((&last["key"], plan["steps"][0]["key"].as_str().unwrap().len()), (&Value::Null, 64));
}

#[test]
fn executions_are_listed_by_status_step_and_age_and_shown_with_their_inputs() {
    for url in STORES {
        let dir = kept(url);
        let dir = dir.path();
        assert_eq!(run(dir, &["executions", "ls"]).out, "no executions\n");
        execute(dir, "one", None);
        execute(dir, "two", Some("user-456"));
        let failed = run(dir, &["run", "--execution-id", "three", "--input", "{\"id\":\"nobody\"}"]);
        assert_eq!(failed.code, Some(1));

        let ids = |args: &[&str]| {
            let args = [&["executions", "ls", "--format", "json"], args].concat();
            column(&json(dir, &args), "execution_id").into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(ids(&[]), ["three", "two", "one"]);
        assert_eq!(ids(&["--status", "done"]), ["two", "one"]);
        assert_eq!(ids(&["--status", "failed", "--status", "done", "--limit", "2"]), ["three", "two"]);
        assert_eq!(ids(&["--step", "FetchProfile", "--since", "1h", "--limit", "1"]), ["three"]);
        assert_eq!((ids(&["--step", "EnrichUser"]), ids(&["--status", "running"])), (vec![], vec![]));
        let text = run(dir, &["executions", "ls", "--limit", "2"]).out;
        assert!(text.starts_with("EXECUTION  STATUS  CREATED"), "{text}");
        assert!(text.contains("there is no user `nobody`") && text.contains("there are more"), "{text}");

        let shown = json(dir, &["executions", "show", "one", "--format", "json"]);
        let input = json!([{ "port": "example.v1.UserID", "value": { "id": "user-123" } }]);
        assert_eq!((&shown["inputs"], &shown["status"]), (&input, &"done".into()));
        assert_eq!(shown["output"]["profile"]["name"], "Alice");
        assert_eq!(shown["modules"].as_array().unwrap().len(), 4);
        assert_eq!(column(&shown["steps"], "result"), ["made"; 3]);
        assert_eq!(shown["report"]["outcome"], "done");
        let text = run(dir, &["executions", "show", "three"]).out;
        assert!(text.contains("\ninput      example.v1.UserID={\"id\":\"nobody\"}\n"), "{text}");
        assert!(text.contains("\nerror      ") && text.contains("\nFetchProfile "), "{text}");
    }
}

#[test]
fn an_execution_is_cancelled_once_and_removed_with_what_was_its_own() {
    for url in STORES {
        let dir = kept(url);
        let dir = dir.path();
        execute(dir, "one", None);
        let ended = run(dir, &["executions", "cancel", "one"]);
        assert_eq!((ended.code, &*ended.out), (Some(0), "execution `one` has already ended: done\n"));
        let removed = json(dir, &["executions", "rm", "one", "--format", "json"]);
        assert_eq!(removed, json!({ "execution_id": "one", "was": "done", "status": "removed" }));
        assert_eq!(run(dir, &["executions", "ls"]).out, "no executions\n");
        let stats = json(dir, &["cache", "stats", "--format", "json"]);
        assert_eq!(column(&stats, "status"), ["done"; 3], "results for all executions stay");
    }
}

#[test]
fn results_are_listed_shown_counted_and_removed() {
    for url in STORES {
        let dir = kept(url);
        let dir = dir.path();
        assert_eq!(run(dir, &["cache", "ls"]).out, "no results\n");
        execute(dir, "one", None);
        execute(dir, "two", Some("user-456"));
        let all = json(dir, &["cache", "ls", "--format", "json"]);
        assert_eq!(column(&all, "status"), ["done"; 6]);
        let of_two =
            json(dir, &["cache", "ls", "--execution", "two", "--step", "FetchProfile", "--format", "json"]);
        let key = column(&of_two, "key")[0].to_owned();
        assert_eq!(run(dir, &["cache", "ls", "--older-than", "1h"]).out, "no results\n");
        assert_eq!(run(dir, &["cache", "ls", "--status", "failed"]).out, "no results\n");
        let text = run(dir, &["cache", "ls", "--limit", "5"]).out;
        assert!(text.starts_with("KEY           STEP") && text.contains("there are more"), "{text}");

        let shown = json(dir, &["cache", "show", &key[..10], "--format", "json"]);
        let bob = json!({ "name": "Bob", "email": "bob@example.com" });
        assert_eq!((&shown["key"], &shown["value"]), (&json!(key), &bob));
        assert_eq!(shown["made_of"]["inputs"][0]["port"], "example.v1.UserID");
        let text = run(dir, &["cache", "show", &key.to_uppercase()]).out;
        assert!(text.contains("\nvalue      {\"name\":\"Bob\""), "{text}");

        let stats = json(dir, &["cache", "stats", "--format", "json"]);
        assert_eq!(column(&stats, "step"), ["FetchActivity", "FetchPreferences", "FetchProfile"]);
        assert_eq!((&stats[2]["count"], stats[2]["bytes"].as_u64() > Some(20)), (&2.into(), true));
        let text = run(dir, &["cache", "stats"]).out;
        assert!(text.contains("\n6 results, "), "{text}");

        assert_eq!(run(dir, &["cache", "rm", &key[..10]]).out, "removed 1 result\n");
        let removed = json(dir, &["cache", "rm", "--step", "FetchActivity", "--format", "json"]);
        assert_eq!(removed, json!({ "removed": 2, "in_use": 0 }));
        let removed = run(dir, &["cache", "rm", "--step", "FetchProfile", "--older-than", "1h"]);
        assert_eq!(removed.out, "removed 0 results\n");
        assert_eq!(column(&json(dir, &["cache", "ls", "--format", "json"]), "step").len(), 3);
        let purged = run(dir, &["cache", "purge"]);
        assert_eq!((purged.code, &*purged.out), (Some(0), "removed 0 results, 0 executions and 0 modules\n"));
    }
}

#[test]
fn what_has_expired_is_said_to_have_and_is_purged() {
    let dir = demo_folder(
        "[store]\nurl = 'sled:kept'\nretention = '2s'\n[step.FetchProfile]\n\
         persistence = { scope = 'global', ttl = '2s' }\n",
    );
    let dir = dir.path();
    execute(dir, "one", None);
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let expired = json(dir, &["cache", "ls", "--status", "expired", "--format", "json"]);
    assert_eq!(column(&expired, "step"), ["FetchProfile"]);
    assert_eq!(run(dir, &["cache", "ls", "--status", "done"]).out, "no results\n");
    let text = run(dir, &["plan"]).out;
    assert!(text.contains("will run: its result has expired"), "{text}");
    let purged = json(dir, &["cache", "purge", "--format", "json"]);
    assert_eq!((&purged["results"], &purged["executions"]), (&1.into(), &1.into()));
    assert_eq!(run(dir, &["executions", "ls"]).out, "no executions\n");
}

#[test]
fn a_result_that_had_expired_is_why_it_was_made_again() {
    let dir = demo_folder(
        "[store]\nurl = 'sled:kept'\n[step.FetchProfile]\npersistence = { scope = 'global', ttl = '1s' }\n\
         [step.FetchActivity]\npersistence = { scope = 'workflow', ttl = '1s' }\n",
    );
    let dir = dir.path();
    execute(dir, "one", None);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let of_one = |status: &str| json(dir, &["cache", "ls", "--status", status, "--format", "json"]);
    assert_eq!(column(&of_one("expired"), "step"), ["FetchProfile"]);
    assert_eq!(column(&of_one("done"), "step"), ["FetchActivity"], "for its own execution it is there");
    execute(dir, "two", None);
    let two = json(dir, &["explain", "two", "--format", "json"]);
    assert_eq!(column(&two, "step"), ["FetchActivity", "FetchProfile"]);
    assert_eq!(two[1]["reason"], "its result had expired");
}

#[test]
fn the_same_request_under_one_id_is_answered_from_its_record_and_another_is_a_conflict() {
    for url in STORES {
        let dir = kept(url);
        let dir = dir.path();
        let first = execute(dir, "one", None);
        let again = execute(dir, "one", None);
        assert_eq!(first, again, "the report is the first one's");
        let other = run(dir, &["run", "--execution-id", "one", "--input", "{\"id\":\"user-456\"}"]);
        let error = "error: the execution id `one` belongs to another request; choose another id\n";
        assert_eq!((other.code, &*other.out, &*other.err), (Some(2), "", error));
    }
}

#[test]
fn a_store_is_moved_exported_imported_and_checked() {
    let dir = kept("sled:kept");
    let dir = dir.path();
    execute(dir, "one", None);
    let moved = json(dir, &["store", "migrate", "sled:kept", "sqlite:moved.db", "--format", "json"]);
    assert!(moved["records"].as_u64().unwrap() >= 8, "{moved}");
    let found = json(dir, &["plan", "--store", "sqlite:moved.db", "--format", "json"]);
    assert_eq!(column(&found["steps"], "state"), ["hit", "hit", "hit", "will run"]);
    let again = json(dir, &["store", "migrate", "sled:kept", "sqlite:moved.db", "--format", "json"]);
    assert_eq!((&again["records"], &again["already_there"]), (&0.into(), &moved["records"]));

    let lines = run(dir, &["store", "export"]).out;
    std::fs::write(dir.join("lines"), &lines).unwrap();
    let import = |file: &str, url: &str| {
        let stdin = std::fs::File::open(dir.join(file)).unwrap();
        ended(command(dir, &["store", "import", "--store", url]).stdin(stdin).spawn().unwrap())
    };
    let imported = import("lines", "sqlite:imported.db");
    assert_eq!(imported.code, Some(0), "{}", imported.err);
    let text = format!("imported {} records, ", moved["records"]);
    assert!(imported.out.starts_with(&text), "{}", imported.out);
    let checked = run(dir, &["store", "check", "--store", "sqlite:imported.db"]);
    assert_eq!((checked.code, &*checked.out), (Some(0), "ok: every record can be read\n"));
    assert_eq!(json(dir, &["store", "check", "--format", "json"]), json!([]));

    let cut: String = lines.lines().take(3).map(|line| format!("{line}\n")).collect();
    std::fs::write(dir.join("cut"), cut).unwrap();
    let refused = import("cut", "sqlite:cut.db");
    assert!(refused.code == Some(2) && refused.err.contains("cut short"), "{}", refused.err);
}

#[test]
fn what_is_not_there_is_bad_input_and_a_store_that_cannot_be_used_is_said_to_be() {
    let dir = kept("sled:kept");
    let dir = dir.path();
    std::fs::write(dir.join("file"), "").unwrap();
    let check = |args: &[&str], code: i32, error: &str| {
        let ended = run(dir, args);
        assert_eq!((ended.code, &*ended.out), (Some(code), ""), "{args:?}: {}", ended.err);
        assert!(ended.err.starts_with(&format!("error: {error}")), "{args:?}: {}", ended.err);
    };
    for args in [
        &["executions", "show", "x"][..],
        &["executions", "cancel", "x"],
        &["executions", "rm", "x"],
        &["explain", "x"],
        &["resume", "x"],
    ] {
        check(args, 2, "no execution `x` is recorded");
    }
    check(&["cache", "show", "abc"], 2, "no result has a key that begins with `abc`");
    check(&["cache", "rm", "abc"], 2, "no result has a key that begins with `abc`");
    check(&["cache", "rm"], 2, "the following required arguments were not provided");
    check(&["run", "--store", "slde:x"], 2, "there is no store of the kind `slde`; did you mean `sled`?");
    check(&["store", "check", "--store", "sled:nowhere"], 2, "there is no store `sled:nowhere`");
    check(&["store", "migrate", "sled:nowhere", "sled:x"], 2, "there is no store `sled:nowhere`");
    for looks in [&["cache", "ls"][..], &["executions", "ls"], &["explain", "x"], &["resume", "x"]] {
        for url in ["sled:nowhere", "sqlite:nowhere"] {
            check(&[looks, &["--store", url]].concat(), 2, &format!("there is no store `{url}`"));
        }
    }
    assert!(!dir.join("nowhere").exists(), "who only looks makes nothing");
    check(&["store", "migrate", "sled:kept", "sled:./kept"], 2, "a store cannot be moved to itself");
    check(&["run", "-q", "--store", "sled:file/below"], 4, "");
    check(&["executions", "ls", "--store", "sqlite:file/below"], 4, "");
}

#[test]
fn an_execution_that_keeps_nothing_opens_no_store() {
    let dir = demo_folder("[store]\nurl = 'sled:kept'\n");
    assert_eq!(run(dir.path(), &["run"]).code, Some(0));
    assert_eq!(run(dir.path(), &["plan"]).code, Some(0));
    assert!(!dir.path().join("kept").exists());
}
