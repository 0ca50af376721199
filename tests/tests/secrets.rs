//! The value of a secret stands in nothing that the host writes: no log, no error, no report, no record, and nothing of
//! the command line. In a test program of its own, because one of these tests looks at all that its process logs.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use docket_graph::Scope;
use docket_runtime::{Grants, SecretGrant, StepOptions};
use docket_store::SledStore;
use docket_tests::program::{Modules, ended};
use docket_tests::web::Web;
use docket_tests::{Setup, execute, keeping, told};

/// The value that must be seen nowhere.
const SECRET: &str = "hunter2-correct-horse";

/// How a step asks for it.
const HEADER: &str = "header Authorization {{secret:API_KEY}}";

/// Collects what is logged.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns all that stands in the files of a directory.
fn content(dir: &Path) -> String {
    let files = walkdir::WalkDir::new(dir).into_iter().map(Result::unwrap);
    let files = files.filter(|entry| entry.file_type().is_file());
    files.map(|file| String::from_utf8_lossy(&std::fs::read(file.path()).unwrap()).into_owned()).collect()
}

/// Asserts that all these words stand in what was written, so that the right thing is looked through, and the secret
/// does not.
fn check(written: &str, words: &[&str]) {
    for word in words {
        assert!(written.contains(word), "`{word}` is not in it");
    }
    let found =
        written.find(SECRET).map(|at| &written[written.floor_char_boundary(at.saturating_sub(200))..at]);
    assert_eq!(found, None, "it follows this");
}

#[tokio::test]
async fn a_secret_is_written_nowhere() {
    let logged = Logged::default();
    let writer = logged.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone());
    // For the whole process: one that is set for a thread alone misses each event whose place another thread came to first.
    tracing_subscriber::util::SubscriberInitExt::init(subscriber.finish());

    let web = Web::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, SECRET).unwrap();
    let from = format!("file:{}", file.display()).parse().unwrap();
    let grants = Grants {
        http: [format!("* {}", web.url("/")).parse().unwrap()].into(),
        secrets: BTreeMap::from([("API_KEY".parse().unwrap(), SecretGrant { from, hosts: None })]),
        ..Grants::default()
    };
    let step = StepOptions {
        grants: Some(grants.into()),
        timeout: Some(Duration::from_secs(20)),
        persistence: keeping(Scope::Global, None).persistence,
        ..StepOptions::default()
    };
    let store_dir = dir.path().join("store");
    let setup = Setup::new(&["fetch"]).step("FetchProfile", step);
    let setup = setup.on(SledStore::open(&store_dir).unwrap());
    let host = setup.host().await;
    let mut written = format!("{:?} {:?}", setup.options, host);
    for (path, more) in [
        ("/status?200", ""),
        ("/stall-head", "first-byte 50\tor-fail"),
        ("/garbage", "or-trap"),
        ("/cut", "or-retry"),
        ("/reflect", "or-fail"),
        ("/reflect-garbage", "or-trap"),
        ("/reflect-chunk", "or-retry"),
    ] {
        let script = format!("GET\t{}\t{HEADER}\t{more}", web.url(path));
        let outcome = execute(&host, told(&script)).await;
        written +=
            &format!("{} {outcome:?} {:#?}", serde_json::to_string(&outcome.report).unwrap(), outcome.result);
    }
    assert_eq!(web.header("authorization"), [SECRET; 7]);
    execute(&host, told(&format!("GET\thttp://other.test/v1\t{HEADER}"))).await;
    let _ = host.shutdown(Duration::from_secs(5)).await;
    written += &setup.recorder.lines().join("\n");
    drop(setup);
    written += &String::from_utf8_lossy(&logged.0.lock().unwrap());
    written += &content(&store_dir);
    check(
        &written,
        &[
            "{{secret:API_KEY}}",
            "the step may not GET http://other.test/v1",
            "a request got no answer",
            "FetchProfile 1 started",
        ],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_in_nothing_that_the_program_writes() {
    let web = Web::start().await;
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, SECRET).unwrap();
    let config = format!(
        "[run]\noutput = 'example.v1.UserProfile'\n\
         [step.FetchProfile]\npersistence = {{ scope = 'global', ttl = '1h' }}\n\
         grants = {{ http = ['* {}'], secrets = {{ API_KEY = 'file:{}' }} }}\n\
         retry = {{ max-attempts = 2 }}\n",
        web.url("/"),
        key.display(),
    );
    let modules = Modules::new("fetch", &config);
    let place = tempfile::tempdir().unwrap();
    let store = format!("sled:{}", place.path().join("store").display());
    let mut written = String::new();
    let mut run = |args: &[&str]| {
        let mut command = modules.command(&store, args);
        let ended = ended(command.env("RUST_LOG", "trace"));
        written += &format!("{args:?} {}{}", ended.out, ended.err);
        ended
    };
    for (id, path, more) in [
        ("good", "/reflect", ""),
        ("refused", "/reflect", "or-fail\nGET\thttp://other.test/\theader X-Key {{secret:API_KEY}}\tor-fail"),
        ("garbage", "/reflect-garbage", "or-trap"),
        ("chunk", "/reflect-chunk", "or-retry"),
    ] {
        let script = serde_json::json!({ "id": format!("GET\t{}\t{HEADER}\t{more}", web.url(path)) });
        let input = format!("example.v1.UserID={script}");
        for format in ["text", "json"] {
            let id = format!("{id}-{format}");
            let all = ["run", "-v", "-v", "--report", "--log-format", format, "--execution-id", &id];
            let ran = run(&[&all[..], &["--input", &input]].concat());
            assert_eq!(ran.code == Some(0), path == "/reflect" && more.is_empty(), "{id}: {}", ran.err);
        }
        let id = format!("{id}-text");
        for verb in
            [&["executions", "show", &id][..], &["explain", &id], &["resume", "-v", "-v", "--report", &id]]
        {
            run(verb);
            if verb[0] != "resume" {
                run(&[verb, &["--format", "json"]].concat());
            }
        }
        run(&["plan", "--input", &input]);
    }
    let listed = run(&["cache", "ls", "--format", "json"]).out;
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let key = listed[0]["key"].as_str().unwrap_or_else(|| panic!("{listed}"));
    for verb in [&["cache", "show", key][..], &["executions", "ls"], &["validate"], &["graph"], &["doctor"]] {
        run(verb);
    }
    let module = modules.path().join("fetch.wasm");
    run(&["inspect", module.to_str().unwrap()]);
    assert!(web.header("authorization").iter().filter(|sent| *sent == SECRET).count() >= 8, "it was sent");
    written += &content(place.path());
    written += &content(modules.path());
    check(
        &written,
        &[
            "secret API_KEY from file:",
            "401 x-reflected=",
            "add \\\"GET http://other.test/\\\"",
            "ErrorCode::HttpProtocolError",
            "\"level\":\"TRACE\"",
        ],
    );
}
