//! Grants and limits through the binary: what `docket.toml` says of them, and what the verbs say.

use serde_json::{Value, json};

use crate::support::{command, demo_folder, ended, json, run};

#[test]
fn a_grant_changes_the_key_and_plan_and_explain_name_it() {
    let keeping = "[store]\nurl = 'sled:kept'\n[step.FetchProfile]\npersistence = { scope = 'global' }\n";
    let dir = demo_folder(keeping);
    let state = || {
        let plan = json(dir.path(), &["plan", "--format", "json"]);
        let steps = plan["steps"].as_array().unwrap().clone();
        steps.into_iter().find(|step| step["step"] == "FetchProfile").unwrap()
    };
    let execute = |id: &str| {
        let ended = run(dir.path(), &["run", "--execution-id", id, "-q"]);
        assert_eq!(ended.code, Some(0), "{}", ended.err);
    };
    execute("one");
    assert_eq!((&state()["state"], &state()["purity"]), (&json!("hit"), &json!("deterministic")));

    let toml = std::fs::read_to_string(dir.path().join("docket.toml")).unwrap();
    let grant = |grants: &str| {
        std::fs::write(dir.path().join("docket.toml"), format!("{toml}grants = {{ {grants} }}\n")).unwrap();
    };
    std::fs::create_dir(dir.path().join("data")).unwrap();
    grant("env = { REGION = 'not-to-be-shown' }, dir = ['ro:data'], clock = 'real'");
    let place = dir.path().canonicalize().unwrap().join("data");
    let read = format!("dir ro:{}=/data", place.display());
    let found = state();
    let reason = found["reason"].as_str().unwrap();
    for words in [
        "the grant `clock real` is new",
        &format!("the grant `{read}` is new"),
        "the grant `env REGION` is new",
    ] {
        assert!(reason.contains(words), "{reason}");
    }
    assert_eq!((&found["state"], &found["purity"]), (&json!("will run"), &json!("effects")));
    assert_eq!(found["because_of"], json!([format!("grant {read}"), "grant clock real"]));
    let text = run(dir.path(), &["plan"]).out;
    assert!(text.contains(&format!("FetchProfile has effects: grant {read}, grant clock real\n")), "{text}");
    let lasting = "the results of `FetchProfile`, which has effects, are kept for all executions, for ever";
    assert!(text.contains(lasting), "{text}");
    let validated = run(dir.path(), &["validate"]);
    assert!(validated.code == Some(0) && validated.err.contains(lasting), "{validated:?}");

    execute("two");
    assert_eq!(state()["state"], "hit");
    grant("env = { REGION = 'another' }, dir = ['ro:data'], clock = 'real'");
    execute("three");
    let explained = run(dir.path(), &["explain", "three"]).out;
    assert!(explained.contains("the grant `env REGION` changed"), "{explained}");
    for out in [explained, run(dir.path(), &["inspect", "fetch_profile.wasm"]).out, text] {
        assert!(!out.contains("not-to-be-shown") && !out.contains("another"), "{out}");
    }
}

#[test]
fn a_variable_comes_from_the_environment_and_one_that_is_missing_is_said() {
    let dir = demo_folder("[module.'fetch_*']\ngrants = { env = ['DOCKET_GRANTED_*', 'DOCKET_REGION'] }\n");
    let inspect = ["inspect", "fetch_profile.wasm", "--format", "json"];
    let ended_with = |variables: &[(&str, &str)]| {
        ended(command(dir.path(), &inspect).envs(variables.iter().copied()).spawn().unwrap())
    };
    let missing = ended_with(&[]);
    assert_eq!(missing.code, Some(4), "{missing:?}");
    assert!(
        missing.err.contains("`DOCKET_REGION` is not set in the environment of this process"),
        "{}",
        missing.err
    );
    let found = ended_with(&[("DOCKET_REGION", "eu"), ("DOCKET_GRANTED_A", "1"), ("DOCKET_OTHER", "2")]);
    let facts: Value =
        serde_json::from_str(&found.out).unwrap_or_else(|error| panic!("{error}: {}", found.err));
    let grants: Vec<_> =
        facts["steps"][0]["grants"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    let names: Vec<_> = grants.iter().map(|line| &line[..line.rfind(' ').unwrap()]).collect();
    assert_eq!(names, ["env DOCKET_GRANTED_A", "env DOCKET_REGION"]);
}

#[test]
fn a_module_that_is_granted_to_and_is_not_there_is_a_fault_with_what_was_meant() {
    let dir = demo_folder("[module.'fetch_profil.wasm']\ngrants = { clock = 'real' }\n");
    let ended = run(dir.path(), &["validate"]);
    assert_eq!(ended.code, Some(4), "{ended:?}");
    let words = "docket.toml:4: there is no module `fetch_profil.wasm`; did you mean `fetch_profile.wasm`?";
    assert!(ended.err.contains(words), "{}", ended.err);
}

#[test]
fn what_is_kept_of_an_execution_holds_no_password_of_a_store() {
    let password = "hunter2-of-the-store";
    let dir = demo_folder(&format!(
        "[store]\nurl = 'postgres://me:{password}@nowhere.invalid/db'\n[step.FetchProfile]\npersistence = {{ scope = 'global' }}\n"
    ));
    let ended = run(dir.path(), &["run", "--store", "sqlite:kept.db", "--execution-id", "one", "-q"]);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let mut looked_at = 0;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().contains("kept.db") {
            let bytes = std::fs::read(&path).unwrap();
            let holds = |words: &str| bytes.windows(words.len()).any(|window| window == words.as_bytes());
            assert!(!holds(password), "{}", path.display());
            looked_at += usize::from(holds("me:***@nowhere.invalid"));
        }
    }
    assert!(looked_at > 0, "the settings are kept, with stars");
}

#[test]
fn each_limit_of_a_step_is_set_and_shown_and_one_that_acts_is_named() {
    let dir = demo_folder(
        "[host]\nmax-stack = '2MiB'\n[defaults]\nlog-lines = 5\nopen-files = 6\ndir-bytes = '7kB'\ncpu = '8s'\n\
         http-requests = 9\nhttp-bytes = '10kB'\nhttp-concurrent = 11\n[caps]\nopen-files = 3\ncpu = '4s'\n",
    );
    let facts = json(dir.path(), &["inspect", "fetch_profile.wasm", "--format", "json"]);
    let policy = &facts["steps"][0]["policy"];
    let shown = [
        "stack_bytes",
        "log_lines",
        "open_files",
        "dir_bytes",
        "cpu_ms",
        "http_requests",
        "http_bytes",
        "http_concurrent",
    ];
    let shown: Vec<_> = shown.iter().map(|name| policy[name].as_u64().unwrap()).collect();
    assert_eq!(shown, [2 << 20, 5, 3, 7_000, 4_000, 9, 10_000, 11]);
    let dir = demo_folder("[host]\nmax-stack = '1kB'\n");
    let ended = run(dir.path(), &["validate"]);
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(
        ended.err.contains("max-stack is 1000 bytes, but must be from 65536 to 67108864"),
        "{}",
        ended.err
    );
}
