//! A step makes the requests that it was granted and no others, whatever the server, the names and the
//! guest do; its secrets go where they may. That they are written nowhere is shown in `secrets.rs`.

#![expect(clippy::disallowed_methods, reason = "tests wait, and run things beside each other")]
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "http/connections.rs"]
mod connections;
#[path = "http/limits.rs"]
mod limits;
#[path = "http/secrets.rs"]
mod secrets;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use docket_graph::{FailureClass, Scope};
use docket_runtime::{
    BuildError, ExecutionError, Grants, Host, LoadErrors, RetryOptions, StepFailure, StepOptions,
};
use docket_tests::example::UserProfile;
use docket_tests::web::Web;
use docket_tests::{Setup, fixture, keeping, told};

fn grants(rules: &[String]) -> Grants {
    let http = rules.iter().map(|rule| rule.parse().unwrap_or_else(|error| panic!("{error}"))).collect();
    Grants { http, secrets: BTreeMap::new(), ..Grants::default() }
}

fn step(grants: Grants) -> StepOptions {
    StepOptions {
        grants: Some(grants.into()),
        timeout: Some(Duration::from_secs(20)),
        ..StepOptions::default()
    }
}

/// The guest that fetches, with these rules.
fn fetching(rules: &[String]) -> Setup {
    Setup::new(&["fetch"]).step("FetchProfile", step(grants(rules)))
}

/// Runs a script, and returns its report line by line.
async fn fetch(setup: &Setup, script: &str) -> Result<Vec<String>, StepFailure> {
    run(&setup.host().await, script).await
}

async fn run(host: &Host, script: &str) -> Result<Vec<String>, StepFailure> {
    let outcome = docket_tests::execute(host, told(script)).await;
    match outcome.result {
        Ok(_) => {
            let profile: UserProfile = outcome.message().unwrap();
            Ok(profile.name.lines().map(str::to_owned).collect())
        }
        Err(ExecutionError::Failed { source, .. } | ExecutionError::Aborted { source, .. }) => Err(source),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_request_that_a_rule_allows_is_made_and_every_other_one_is_denied() {
    let web = Web::start().await;
    let rules = ["GET,POST /echo", "GET /v1/", "* /any"].map(|rule| {
        let (methods, path) = rule.split_once(' ').unwrap();
        format!("{methods} {}", web.url(path))
    });
    let setup = fetching(&rules);
    let cases = [
        (format!("GET\t{}", web.url("/v1/x")), "200 hello"),
        (format!("GET\t{}", web.url("/v1/x?q=/../")), "200 hello"),
        (format!("PUT\t{}", web.url("/echo")), "denied"),
        (format!("GET\t{}", web.url("/echoes")), "denied"),
        (format!("GET\t{}", web.url("/v1")), "denied"),
        (format!("GET\t{}", web.url("/")), "denied"),
        (format!("GET\t{}", web.url("?q")), "denied"),
        (format!("GET\t{}", web.url("/v1/../echoes")), "denied"),
        (format!("GET\t{}", web.url("/v1/%2e%2e/x")), "denied"),
        (format!("GET\t{}", web.url("/v1/..%2fx")), "denied"),
        (format!("GET\t{}", web.url("/v1/..;/x")), "denied"),
        (format!("GET\t{}", web.url("//v1/x")), "denied"),
        (format!("GET\t{}", web.named("http", "localhost", "/v1/x")), "denied"),
        (format!("GET\t{}", web.named("https", "127.0.0.1", "/v1/x")), "denied"),
        (format!("GET\t{}", web.named("http", "user@127.0.0.1", "/v1/x")), "denied"),
        (format!("GET\t{}", web.named("http", "2130706433", "/v1/x")), "200 hello"),
        ("GET\thttp://127.0.0.1:1/v1/x".to_owned(), "denied"),
        (format!("CONNECT\t{}", web.url("/v1/x")), "denied"),
        (format!("TRACE\t{}", web.url("/v1/x")), "denied"),
        (format!("get\t{}", web.url("/v1/x")), "denied"),
        (format!("trace\t{}", web.url("/any")), "denied"),
        (format!("Connect\t{}", web.url("/any")), "denied"),
    ];
    let script: Vec<&str> = cases.iter().map(|(line, _)| line.as_str()).collect();
    let report = fetch(&setup, &script.join("\n")).await.unwrap();
    assert_eq!(report.len(), cases.len(), "{report:#?}");
    for ((line, expected), found) in cases.iter().zip(&report) {
        let expected = if *expected == "denied" { "ErrorCode::HttpRequestDenied" } else { expected };
        assert_eq!(found, expected, "{line}");
    }
    assert_eq!(web.requests().len(), 3, "{:#?}", web.requests());
}

#[tokio::test]
async fn a_step_that_fails_after_a_refusal_is_told_which_rule_is_missing() {
    let web = Web::start().await;
    let setup = fetching(&[format!("GET {}", web.url("/"))]);
    let address = web.address;
    let cases = [
        ("POST\thttps://api.example.test/v1?token=1\tor-fail".to_owned(), "ErrorCode::HttpRequestDenied; step `FetchProfile` may not POST https://api.example.test/v1: add \"POST https://api.example.test/\" to the `http` rules of its grants".to_owned()),
        ("GET\thttps://user:word@api.example.test/v1\tor-fail".to_owned(), "ErrorCode::HttpRequestDenied; step `FetchProfile` may not GET https://api.example.test/v1: the name of a user does not belong before a host".to_owned()),
        (format!("GET\thttp://{address}/a/../b\tor-fail"), format!("ErrorCode::HttpRequestDenied; step `FetchProfile` may not GET http://{address}/a/../b: the path `/a/../b` has a `.` or `..` segment")),
        (format!("TRACE\thttp://{address}/\tor-fail"), format!("ErrorCode::HttpRequestDenied; step `FetchProfile` may not TRACE http://{address}/: the method is never allowed")),
    ];
    for (script, expected) in cases {
        let failure = fetch(&setup, &script).await.unwrap_err();
        assert_eq!(failure.to_string(), expected);
        assert_eq!(failure.class(), FailureClass::Permanent);
    }
    let failure = fetch(&setup, "POST\thttps://api.example.test/v1\tor-trap").await.unwrap_err().to_string();
    assert!(failure.contains("add \"POST https://api.example.test/\""), "{failure}");
    let report = fetch(&setup, "POST\thttps://api.example.test/v1").await;
    assert_eq!(report.unwrap(), ["ErrorCode::HttpRequestDenied"], "a guest may live with a refusal");
}

#[tokio::test]
async fn a_module_that_imports_http_needs_a_grant_for_one_of_its_steps() {
    let faults = |setup: Setup| async move {
        let builder = Host::builder().options(setup.options).module("fetch.wasm", fixture("fetch"));
        match builder.build().await {
            Err(BuildError::Load(LoadErrors(faults))) => faults.iter().map(ToString::to_string).collect(),
            Err(error) => panic!("{error}"),
            Ok(_) => Vec::new(),
        }
    };
    let found = faults(Setup::new(&[])).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("module `fetch.wasm` imports `wasi:http/"), "{found:?}");
    assert!(found[0].contains("needs a grant: set `http` in the grants of one of its steps"), "{found:?}");
    assert_eq!(faults(fetching(&["GET http://a.test/".into()])).await, [""; 0]);
    let by_module = Setup::new(&[]).with(|options| {
        options.modules = vec![("fetch.*".parse().unwrap(), grants(&["http://a.test/".into()]).into())];
    });
    assert_eq!(faults(by_module).await, [""; 0]);
}

#[tokio::test]
async fn a_redirect_is_the_guests_to_follow_and_its_next_request_is_checked() {
    let web = Web::start().await;
    let setup = fetching(&[format!("GET {}", web.url("/redirect"))]);
    let target = "http://169.254.169.254/latest/meta-data/";
    let script = format!("GET\t{}?{target}\nGET\t{target}", web.url("/redirect"));
    let report = fetch(&setup, &script).await.unwrap();
    assert_eq!(report, [format!("302 location={target} "), "ErrorCode::HttpRequestDenied".to_owned()]);
}

#[tokio::test]
async fn what_frames_a_request_is_not_the_guests_to_say() {
    let web = Web::start().await;
    let setup = fetching(&[format!("* {}", web.url("/"))]);
    let headers = "Host Connection Keep-Alive Proxy-Authorization Proxy-Connection Transfer-Encoding Upgrade";
    let script: Vec<String> = headers
        .split(' ')
        .map(|name| format!("GET\t{}\theader {name} evil.test", web.url("/")))
        .chain([format!("GET\t{}\theader Content-Length 5", web.url("/"))])
        .collect();
    for (line, found) in script.iter().zip(fetch(&setup, &script.join("\n")).await.unwrap()) {
        assert!(found.starts_with("ErrorCode::"), "{line}: {found}");
    }
    assert_eq!(web.requests(), [""; 0]);
    let named = web.named("http", "0x7f000001", "/echo");
    fetch(&setup, &format!("GET\t{named}\theader X-Own yes")).await.unwrap();
    assert_eq!(web.header("host"), [web.address.to_string()], "the authority that was checked");
    assert_eq!(web.header("x-own"), ["yes"]);
}

#[tokio::test]
async fn unsafe_requests_of_kept_steps_carry_a_key_of_their_own_at_every_attempt() {
    let web = Web::start().await;
    let url = web.url("/");
    let script = format!(
        "GET\t{url}\nPOST\t{url}\tbody a\nPOST\t{url}\tbody a\nDELETE\t{url}\theader Idempotency-Key mine\nPATCH\t{url}\nPURGE\t{url}\npost\t{url}\nPOST\t{url}stall-head\tfirst-byte 100\tor-retry"
    );
    let granted = step(grants(&[format!("* {url}")]));
    let retry = RetryOptions { max_attempts: 2.try_into().ok(), ..RetryOptions::default() };
    let kept = StepOptions {
        retry: retry.clone(),
        ..StepOptions { persistence: keeping(Scope::Global, None).persistence, ..granted.clone() }
    };
    let setup = Setup::new(&["fetch"]).step("FetchProfile", kept);
    fetch(&setup, &script).await.unwrap_err();
    let keys = web.header("idempotency-key");
    let (first, second) = keys.split_at(8);
    assert_eq!(first, second, "two attempts");
    assert_eq!((first[0].as_str(), first[3].as_str()), ("-", "mine"));
    let own: BTreeSet<&String> = [1, 2, 4, 5, 6, 7].map(|index| &first[index]).into();
    assert_eq!(own.len(), 6, "{first:?}");
    assert!(own.iter().all(|key| key.len() == 64), "{own:?}");

    let before = web.requests().len();
    let setup = Setup::new(&["fetch"]).step("FetchProfile", granted);
    fetch(&setup, &format!("POST\t{url}")).await.unwrap();
    assert_eq!(web.header("idempotency-key")[before..], ["-"], "a step that keeps nothing sends none");
}
