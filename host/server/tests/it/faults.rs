//! What is wrong, how it is said, and the exit code that goes with it.

use std::path::Path;

use crate::support::{command, demo, ended, folder, guests, run};

/// A command over the demonstration guests ends with a code and exactly this on stderr.
fn check(args: &[&str], code: i32, error: &str) {
    check_in(&guests(), args, code, error);
}

fn check_in(dir: &Path, args: &[&str], code: i32, error: &str) {
    let ended = run(dir, args);
    assert_eq!((ended.code, &*ended.out, ended.err.trim_end()), (Some(code), "", error), "{args:?}");
}

#[test]
fn an_input_that_does_not_fit_is_refused_with_its_port_and_field() {
    let wrong = "error: the input for `example.v1.UserID`";
    let run = |input, error: &str| check(&["run", "--input", input], 2, &format!("{wrong} {error}"));
    run(r#"{"idd":"x"}"#, "is wrong: `example.v1.UserID` has no field `idd`; did you mean `id`?");
    run(r#"{"id":5}"#, "is wrong: at `id`: invalid type: integer `5`, expected a string");
    run(r#"{"id":"#, "is not JSON: EOF while parsing a value at line 1 column 6");
    run(r#"{} {}"#, "is not JSON: trailing characters at line 1 column 4");
    run("[]", "is a list, but its steps take one `example.v1.UserID`; give one JSON object");
    let marked = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(marked.path(), "\u{feff}{\"id\":\"user-456\"}").unwrap();
    let marked = format!("@{}", marked.path().display());
    let ended = demo(&["run", "--output", "example.v1.UserProfile", "--input", &marked]);
    assert_eq!((ended.code, &*ended.err), (Some(0), ""));
    run("user.json", "is not JSON: expected value at line 1 column 1; to read a file, write `@FILE`");
    let two = ["run", "--input", "example.v1.UserProfile={\"name\":1}", "--input", "example.v1.UserID=5"];
    let both = "error: 2 faults in the inputs:\n  \
                the input for `example.v1.UserProfile` is wrong: at `name`: invalid type: integer `1`, expected a string\n  \
                the input for `example.v1.UserID` is wrong: invalid type: integer `5`, expected an object";
    check(&two, 2, both);
    let nested = r#"example.v1.EnrichedUser={"activity":{"loginCount":"many"}}"#;
    let error = "error: the input for `example.v1.EnrichedUser` is wrong: at `activity.loginCount`: this is not a whole number";
    check(&["run", "--input", nested], 2, error);
    let nested = r#"example.v1.EnrichedUser={"activity":{"loginCuont":1}}"#;
    let ended = demo(&["run", "--input", nested]);
    assert!(ended.err.contains("has no field `loginCuont`; did you mean `loginCount`?"), "{}", ended.err);
}

#[test]
fn an_input_that_cannot_be_read_is_refused() {
    let error = "error: the input for `example.v1.UserID` cannot be read from `nowhere.json`\n  \
                 caused by: No such file or directory (os error 2)";
    check(&["run", "--input", "@nowhere.json"], 2, error);
    let twice = ["run", "--input", "-", "--input", "example.v1.UserProfile=-"];
    check(&twice, 2, "error: stdin is named for two inputs, but can be read only once");
}

#[test]
fn a_request_that_does_not_fit_the_graph_is_refused_with_what_to_do() {
    let unknown = "error: no step gives `example.v1.EnrichedUsr`; did you mean `example.v1.EnrichedUser`?";
    check(&["run", "--output", "example.v1.EnrichedUsr", "--input", "example.v1.UserID={}"], 2, unknown);
    let dir = folder(&[("a.wasm", "guest:fetch_profile.wasm")]);
    let missing = "error: input `example.v1.UserID` is missing: step `FetchProfile` needs it, and no step gives it; \
                   give it with `--input 'example.v1.UserID={\"id\":\"\"}'`";
    for verb in ["run", "plan"] {
        check_in(dir.path(), &[verb, "-q"], 2, missing);
    }
    let dir = folder(&[("a.wasm", "guest:fetch_profile.wasm"), ("b.wasm", "guest:fetch_activity.wasm")]);
    let several = "error: the graph has 2 final outputs, so name one: `example.v1.UserActivity`, \
                   `example.v1.UserProfile`; give it with `--output PORT`";
    check_in(dir.path(), &["run", "-q"], 2, several);
}

#[test]
fn a_command_line_that_is_wrong_ends_with_2() {
    for args in [
        &["fly"][..],
        &[],
        &["run", "--fly"],
        &["run", "--timeout", "0s"],
        &["run", "--timeout", "5"],
        &["run", "--output", "not a port"],
        &["run", "--input", "a..B={}"],
        &["run", "--execution-id", ""],
        &["run", "-q", "-v"],
        &["graph", "--format", "png"],
        &["inspect"],
    ] {
        let ended = demo(args);
        assert_eq!((ended.code, &*ended.out), (Some(2), ""), "{args:?}: {}", ended.err);
    }
}

#[test]
fn a_variable_that_is_set_to_nothing_is_none() {
    let ask = |args: &[&str]| {
        let mut command = command(&guests(), args);
        let empty = ["DOCKET_MODULE_DIR", "DOCKET_STORE", "RUST_LOG"].map(|name| (name, ""));
        ended(command.envs(empty).spawn().unwrap())
    };
    let args = ["run", "--output", "example.v1.UserProfile", "--format", "ndjson"];
    let answer = "{\"name\":\"Alice\",\"email\":\"alice@example.com\"}\n";
    let found = ask(&args);
    assert_eq!((found.code, &*found.out, &*found.err), (Some(0), answer, ""));
    // What is typed counts as it is typed.
    assert_eq!(ask(&["validate", "--module-dir", ""]).code, Some(2));
}

#[test]
fn what_was_named_and_is_not_there_is_bad_input() {
    for args in [
        ["validate", "--module-dir", "nowhere"],
        ["validate", "--config", "nowhere.toml"],
        ["inspect", "nowhere.wasm", "-q"],
    ] {
        let ended = demo(&args);
        assert_eq!(ended.code, Some(2), "{args:?}: {}", ended.err);
        assert!(ended.err.contains("nowhere"), "{}", ended.err);
    }
}

#[test]
fn all_faults_of_the_modules_come_in_one_report() {
    let dir = folder(&[
        ("a.wasm", "guest:fetch_profile.wasm"),
        ("b.wasm", "guest:fetch_profile.wasm"),
        ("c.wasm", "no module"),
        ("d.wasm", "\0asm\u{1}\0\0\0"),
    ]);
    let ended = run(dir.path(), &["validate", "-q"]);
    assert_eq!((ended.code, &*ended.out), (Some(3), ""));
    let lines: Vec<_> = ended.err.lines().collect();
    assert_eq!(lines[0], "error: 4 faults in the modules of `.`:");
    assert!(lines[1].starts_with("  module `c.wasm` is not WebAssembly"), "{}", ended.err);
    assert!(lines[2].starts_with("  module `d.wasm` is a core WebAssembly module"), "{}", ended.err);
    assert!(lines[3].starts_with("  step `FetchProfile` is declared 2 times"), "{}", ended.err);
    assert!(lines[4].starts_with("  port `example.v1.UserProfile` has 2 producers"), "{}", ended.err);
    assert_eq!(run(folder(&[]).path(), &["validate"]).code, Some(3));
}

#[test]
fn a_configuration_that_does_not_fit_the_modules_ends_with_4() {
    let check = |toml: &str, error: &str| {
        let dir = folder(&[("docket.toml", toml), ("a.wasm", "guest:fetch_profile.wasm")]);
        check_in(dir.path(), &["validate", "-q"], 4, error);
    };
    check(
        "[step.FetchProfil]\ntimeout = '5s'\n",
        "error: ./docket.toml:1: no module has a step `FetchProfil`; did you mean `FetchProfile`?",
    );
    check(
        "[run]\nouput = 'a.B'\n",
        "error: ./docket.toml:2: unknown key `ouput` in `run`; did you mean `output`?",
    );
    check(
        "[run]\noutput = 'example.v1.UserProfil'\n",
        "error: the default request of `./docket.toml` does not fit the graph: \
         no step gives `example.v1.UserProfil`; did you mean `example.v1.UserProfile`?",
    );
    check(
        "[run]\ninput = ['{\"i\":1}']\n",
        "error: the default request of `./docket.toml` does not fit the graph: \
         the input for `example.v1.UserID` is wrong: `example.v1.UserID` has no field `i`; did you mean `id`?",
    );
    check("[host]\nmax-instances = 4001\n", "error: max-instances is 4001, but must be from 1 to 4000");
}

#[cfg(unix)]
#[test]
fn a_directory_for_compiled_modules_that_others_can_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = folder(&[]);
    std::fs::create_dir(dir.path().join("v2")).unwrap();
    std::fs::set_permissions(dir.path().join("v2"), PermissionsExt::from_mode(0o777)).unwrap();
    let ended = demo(&["validate", "--artifact-dir", dir.path().to_str().unwrap()]);
    assert_eq!(ended.code, Some(4));
    assert!(ended.err.contains("others may write to it"), "{}", ended.err);
}
