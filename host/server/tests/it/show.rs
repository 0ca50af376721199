//! The verbs that show: `plan`, `graph`, `validate`, `inspect`, `completions`, and the help.

use serde_json::Value;

use crate::support::{demo, folder, guests, run};

#[test]
fn a_plan_shows_the_steps_in_order_with_their_state_and_reason() {
    let ended = demo(&["plan", "--format", "json"]);
    assert_eq!((ended.code, &*ended.err), (Some(0), ""));
    let plan: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(plan["target"], "example.v1.EnrichedUser");
    let steps: Vec<_> =
        plan["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["FetchActivity", "FetchPreferences", "FetchProfile", "EnrichUser"]);
    let last = &plan["steps"][3];
    assert_eq!((&last["state"], &last["reason"]), (&"will run".into(), &"its results are not kept".into()));
    assert_eq!((&last["depth"], &last["module"]), (&1.into(), &"enrich_user.wasm".into()));
    assert_eq!(last["inputs"][0]["from"], "FetchProfile");
    assert_eq!(last["output"]["port"], "example.v1.EnrichedUser");
    let text = demo(&["plan"]).out;
    assert!(text.starts_with("example.v1.EnrichedUser from example.v1.UserID: 4 steps\n\nSTEP"), "{text}");
}

#[test]
fn a_plan_reads_no_value_and_prunes_what_is_given() {
    let given = [
        "example.v1.UserProfile=@nowhere",
        "example.v1.UserPreferences=-",
        "example.v1.UserActivity=nonsense",
    ];
    let mut args = vec!["plan", "--format", "json"];
    given.iter().for_each(|input| args.extend(["--input", input]));
    let plan: Value = serde_json::from_str(&demo(&args).out).unwrap();
    assert_eq!(plan["steps"].as_array().unwrap().len(), 1);
    let ended = demo(&["plan", "--output", "example.v1.UserID"]);
    assert_eq!(ended.out, "example.v1.UserID is given: nothing runs\n");
}

#[test]
fn a_graph_is_drawn_in_every_format() {
    let drawings = [
        ("tree", "example.v1.EnrichedUser = EnrichUser\n"),
        ("text", "STEP "),
        ("dot", "digraph docket {\n"),
        ("mermaid", "flowchart LR\n"),
        ("json", "{\n"),
        ("svg", "<?xml"),
    ];
    for (format, beginning) in drawings {
        let ended = demo(&["graph", "--format", format]);
        assert_eq!((ended.code, &*ended.err), (Some(0), ""), "{format}");
        assert!(ended.out.starts_with(beginning) && ended.out.ends_with('\n'), "{format}: {}", ended.out);
    }
    assert_eq!(demo(&["graph"]).out, demo(&["graph", "--format", "tree"]).out);
}

#[test]
fn a_sound_set_of_modules_is_validated_with_one_line() {
    let line = "ok: 4 modules, 4 steps, 5 ports; inputs example.v1.UserID; outputs example.v1.EnrichedUser\n";
    let ended = demo(&["validate"]);
    assert_eq!((ended.code, &*ended.out, &*ended.err), (Some(0), line, ""));
}

#[test]
fn a_module_is_shown_with_the_configuration_beside_it() {
    let toml = "[step.FetchProfile]\ntimeout = '7s'\nmemory = '64MiB'\nretry.max-attempts = 3\n\
                [defaults]\nlog-size = '2kB'\n[caps]\nmemory = '32MiB'\nmax-attempts = 2\n";
    let dir = folder(&[("docket.toml", toml), ("a.wasm", "guest:fetch_profile.wasm")]);
    let module = dir.path().join("a.wasm");
    let ended = run(&guests(), &["inspect", module.to_str().unwrap(), "--format", "json"]);
    assert_eq!(ended.err, "");
    let facts: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((&facts["module"], facts["digest"].as_str().unwrap().len()), (&"a.wasm".into(), 64));
    assert_eq!(facts["size_bytes"], std::fs::metadata(&module).unwrap().len());
    assert_eq!(facts["needs_granted"], Value::Array(vec![]));
    let step = &facts["steps"][0];
    assert_eq!((&step["purity"], &step["grants"]), (&"deterministic".into(), &Value::Array(vec![])));
    assert_eq!(step["because_of"].as_array().unwrap().len(), 1);
    assert!(step["because_of"][0].as_str().unwrap().starts_with("import wasi:clocks/monotonic-clock@"));
    assert_eq!((&step["step"], &step["policy"]["timeout_ms"]), (&"FetchProfile".into(), &7000.into()));
    assert_eq!(step["policy"]["log_bytes"], 2000, "the default");
    assert_eq!(step["policy"]["memory_bytes"], 32 << 20, "capped");
    assert_eq!(step["policy"]["retry"]["max_attempts"], 2, "capped");
    let text = run(&guests(), &["inspect", "fetch_profile.wasm"]).out;
    assert!(text.contains("\n  gives        example.v1.UserProfile\n"), "{text}");
}

#[test]
fn every_limit_can_be_set_for_a_step_for_all_and_as_a_cap() {
    let limits = [
        ("timeout = '7s'", "timeout_ms", 7_000),
        ("memory = '64MiB'", "memory_bytes", 64 << 20),
        ("table-elements = 1001", "table_elements", 1_001),
        ("output-size = '1002B'", "output_bytes", 1_002),
        ("log-size = '1003B'", "log_bytes", 1_003),
        ("log-lines = 1004", "log_lines", 1_004),
        ("open-files = 45", "open_files", 45),
        ("dir-bytes = '1006B'", "dir_bytes", 1_006),
        ("cpu = '5s'", "cpu_ms", 5_000),
        ("fuel = 1007", "fuel", 1_007),
        ("http-requests = 28", "http_requests", 28),
        ("http-bytes = '1009B'", "http_bytes", 1_009),
        ("http-concurrent = 11", "http_concurrent", 11),
    ];
    let written: Vec<_> = limits.iter().map(|(line, ..)| *line).collect();
    for table in ["step.FetchProfile", "defaults", "caps"] {
        let toml = format!("[{table}]\n{}\n", written.join("\n"));
        let dir = folder(&[("docket.toml", &toml), ("a.wasm", "guest:fetch_profile.wasm")]);
        let ended = run(dir.path(), &["inspect", "a.wasm", "--format", "json"]);
        let facts: Value = serde_json::from_str(&ended.out).unwrap_or_else(|_| panic!("{}", ended.err));
        for (line, name, value) in limits {
            assert_eq!(facts["steps"][0]["policy"][name], value, "{line} in [{table}]");
        }
    }
}

#[test]
fn completions_and_help_need_no_modules() {
    let dir = folder(&[]);
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let ended = run(dir.path(), &["completions", shell]);
        assert!(ended.code == Some(0) && ended.out.contains("docket-host"), "{shell}: {ended:?}");
    }
    let help = run(dir.path(), &["--help"]);
    assert_eq!((help.code, &*help.err), (Some(0), ""));
    let verbs =
        ["run", "plan", "explain", "resume", "executions", "cache", "store", "graph", "validate", "inspect"];
    for verb in verbs.iter().chain(&["completions", "Exit codes:"]) {
        assert!(help.out.contains(verb), "{verb}");
    }
}
