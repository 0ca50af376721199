//! A step makes the requests that it was granted and no others, whatever the server, the names and the
//! guest do; its secrets go where they may. That they are written nowhere is shown in `secrets.rs`.

#![expect(clippy::disallowed_methods, reason = "tests wait, and run things beside each other")]
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use docket_graph::{FailureClass, Scope};
use docket_runtime::{
    BuildError, ExecutionError, Grants, Host, HttpLimit, HttpOptions, LoadErrors, Request, Resolve,
    RetryOptions, SecretGrant, StepFailure, StepOptions,
};
use docket_tests::example::{UserId, UserPreferences, UserProfile};
use docket_tests::web::{self, Web};
use docket_tests::{Setup, fixture, keeping, told};

/// The value that must be seen nowhere.
const SECRET: &str = "hunter2-correct-horse";

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

/// Answers each look-up with the next of these, and with the last one from then on.
#[derive(Debug)]
struct Names(Mutex<Vec<Vec<IpAddr>>>);

impl Names {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parse = |answer: &&[&str]| answer.iter().map(|text| text.parse().unwrap()).collect();
        Arc::new(Self(Mutex::new(answers.iter().rev().map(parse).collect())))
    }
}

#[async_trait]
impl Resolve for Names {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        let mut answers = self.0.lock().unwrap();
        match answers.len() {
            0 => Err(io::ErrorKind::NotFound.into()),
            1 => Ok(answers[0].clone()),
            _ => Ok(answers.pop().unwrap()),
        }
    }
}

/// Never answers.
#[derive(Debug)]
struct Stalled;

#[async_trait]
impl Resolve for Stalled {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        std::future::pending().await
    }
}

fn names(answers: &[&[&str]]) -> HttpOptions {
    HttpOptions { resolver: Names::new(answers), ..HttpOptions::default() }
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
async fn a_name_leads_only_to_public_addresses_unless_a_rule_has_the_number() {
    let web = Web::start().await;
    let port = web.address.port();
    let script = format!("GET\thttp://api.example.test:{port}/v1\tconnect 500\tor-fail");
    let by_name = format!("GET http://api.example.test:{port}/");
    let by_number = format!("GET http://127.0.0.1:{port}/v1");
    let prohibited = "ErrorCode::DestinationIpProhibited";
    for address in [
        "127.0.0.1",
        "169.254.169.254",
        "10.0.0.5",
        "::1",
        "::ffff:127.0.0.1",
        "fd00:ec2::254",
        "0.0.0.0",
        "100.100.100.200",
    ] {
        let setup =
            fetching(std::slice::from_ref(&by_name)).with(|options| options.http = names(&[&[address]]));
        let failure = fetch(&setup, &script).await.unwrap_err().to_string();
        let words = format!(
            "step `FetchProfile` may not GET http://api.example.test:{port}/v1: none of its addresses is public: {address}"
        );
        assert!(failure.starts_with(prohibited) && failure.contains(&words), "{failure}");
    }
    assert_eq!(web.accepted(), 0);

    let both = [by_name.clone(), by_number];
    let setup = fetching(&both).with(|options| options.http = names(&[&["169.254.169.254", "127.0.0.1"]]));
    assert_eq!(fetch(&setup, &script).await.unwrap(), ["200 hello"], "the one that is admitted is taken");
    let elsewhere = format!("GET\thttp://api.example.test:{port}/v2");
    let setup = fetching(&both).with(|options| options.http = names(&[&["127.0.0.1"]]));
    assert_eq!(fetch(&setup, &elsewhere).await.unwrap(), [prohibited], "the number's rule is about /v1");

    // Nor does a connection that another request was allowed to make lead there.
    let setup = fetching(&both).with(|options| options.http = names(&[&["127.0.0.1"]]));
    let report =
        fetch(&setup, &format!("GET\thttp://api.example.test:{port}/v1\n{elsewhere}")).await.unwrap();
    assert_eq!(report, ["200 hello", prohibited]);

    let local = format!("GET\thttp://localhost:{port}/");
    let setup = fetching(&[format!("GET http://localhost:{port}/")]);
    let here = setup.clone().with(|options| options.http = names(&[&["127.0.0.1"]]));
    assert_eq!(fetch(&here, &local).await.unwrap(), ["200 hello"]);
    let away = setup.with(|options| options.http = names(&[&["10.0.0.5"]]));
    assert_eq!(fetch(&away, &local).await.unwrap(), [prohibited], "`localhost` is this machine");
}

#[tokio::test]
async fn a_name_that_changes_its_address_gets_no_further_than_its_check() {
    let web = Web::start().await;
    let (one, other) = (Web::on([127, 0, 0, 2].into()).await, &web);
    let port = other.address.port();
    // The second answer is for whoever would look up again between checking and connecting.
    let rules = [format!("GET http://api.example.test:{port}/"), format!("GET http://127.0.0.1:{port}/")];
    let setup = fetching(&rules).with(|options| options.http = names(&[&["127.0.0.1"], &["127.0.0.2"]]));
    let line = format!("GET\thttp://api.example.test:{port}/leave");
    let report = fetch(&setup, &format!("{line}\nGET\thttp://127.0.0.1:{port}/\n{line}")).await.unwrap();
    assert_eq!(report, ["200 bye", "200 hello", "ErrorCode::DestinationIpProhibited"]);
    assert_eq!(one.accepted(), 0);
}

#[tokio::test]
async fn a_connection_is_used_again_by_its_step_and_by_no_other() {
    let web = Web::start().await;
    let rules = [format!("GET {}", web.url("/"))];
    let setup = fetching(&rules);
    let host = setup.host().await;
    let script = format!("GET\t{}\nHEAD\t{}\nGET\t{}", web.url("/"), web.url("/"), web.url("/status?204"));
    for _ in 0..2 {
        let report = run(&host, &script).await.unwrap();
        assert_eq!(report, ["200 hello", "ErrorCode::HttpRequestDenied", "204 "]);
    }
    assert_eq!((web.requests().len(), web.accepted()), (4, 1));
    // A server that closes what it seemed to keep open: the request goes over a new connection.
    let script = format!("GET\t{}\nGET\t{}", web.url("/leave"), web.url("/"));
    assert_eq!(run(&host, &script).await.unwrap(), ["200 bye", "200 hello"]);
    web.until_open(1).await;

    let _ = host.shutdown(Duration::from_secs(1)).await;
    web.until_open(0).await;

    // Another step may go there by name, but not to that address, and gets no connection of the first one's.
    let name = format!("http://api.example.test:{}/", web.address.port());
    let setup = fetching(&[format!("GET {name}"), format!("GET {}", web.url("/"))])
        .step("FetchPreferences", step(grants(&[format!("GET {name}")])))
        .with(|options| options.http = names(&[&["127.0.0.1"]]));
    let host = setup.host().await;
    assert_eq!(run(&host, &format!("GET\t{name}")).await.unwrap(), ["200 hello"]);
    web.until_open(1).await;
    let user = UserId { id: format!("GET\t{name}\tor-fail") };
    let outcome = docket_tests::execute(&host, Request::for_message::<UserPreferences>().input(&user)).await;
    let Err(ExecutionError::Failed { source, .. }) = outcome.result else { panic!("{outcome:?}") };
    assert!(source.to_string().starts_with("ErrorCode::DestinationIpProhibited"), "{source}");
    let _ = host.shutdown(Duration::from_secs(1)).await;
    web.until_open(0).await;
}

#[tokio::test]
async fn a_connection_that_is_idle_for_too_long_is_closed() {
    let web = Web::start().await;
    let idle_timeout = Duration::from_millis(300);
    let setup = fetching(&[format!("GET {}", web.url("/"))])
        .with(|options| options.http = HttpOptions { idle_timeout, ..HttpOptions::default() });
    let host = setup.host().await;
    for _ in 0..2 {
        assert_eq!(run(&host, &format!("GET\t{}", web.url("/"))).await.unwrap(), ["200 hello"]);
        web.until_open(1).await;
        web.until_open(0).await;
    }
    // A host that is dropped and not shut down leaves none behind either.
    let setup = setup.with(|options| options.http = HttpOptions::default());
    assert_eq!(fetch(&setup, &format!("GET\t{}", web.url("/"))).await.unwrap(), ["200 hello"]);
    web.until_open(0).await;
}

#[tokio::test]
async fn of_many_addresses_the_first_that_answers_is_used() {
    let web = Web::start().await;
    let url = web.named("http", "api.example.test", "/");
    let rules =
        [url.clone(), web.url("/"), web.named("http", "127.0.0.2", "/")].map(|url| format!("GET {url}"));
    let setup = fetching(&rules).with(|options| options.http = names(&[&["127.0.0.2", "127.0.0.1"]]));
    assert_eq!(fetch(&setup, &format!("GET\t{url}")).await.unwrap(), ["200 hello"]);
}

#[tokio::test]
async fn a_server_that_misbehaves_is_an_error_code_to_the_guest() {
    let web = Web::start().await;
    let setup = fetching(&[format!("* {}", web.url("/"))]);
    let host = setup.host().await;
    let cases = [
        ("GET", "/stall-head", "first-byte 200", "ErrorCode::ConnectionReadTimeout"),
        ("GET", "/stall-body", "between 200", "ErrorCode::ConnectionReadTimeout"),
        ("GET", "/cut", "", "ErrorCode::HttpResponseIncomplete"),
        ("GET", "/garbage", "", "ErrorCode::HttpProtocolError"),
        ("POST", "/reset", "upload 1000000", "ErrorCode::ConnectionTerminated"),
        ("GET", "/giant-header", "", "ErrorCode::HttpResponseHeaderSectionSize(Some(65536))"),
        ("GET", "/many-headers", "", "ErrorCode::HttpResponseHeaderSectionSize(Some(65536))"),
        ("GET", "/101-headers", "", "ErrorCode::HttpResponseHeaderSectionSize(Some(65536))"),
        ("GET", "/length-endless", "", "ErrorCode::HttpResponseHeaderSectionSize(Some(65536))"),
        ("GET", "/chunk-nonsense", "", "ErrorCode::HttpProtocolError"),
        ("GET", "/chunk-huge", "", "ErrorCode::HttpProtocolError"),
        ("GET", "/chunk-endless", "", "ErrorCode::HttpProtocolError"),
        ("GET", "/trailers-endless", "", "ErrorCode::HttpProtocolError"),
        ("GET", "/head-endless", "first-byte 300", "ErrorCode::ConnectionReadTimeout"),
        ("GET", "/two-lengths", "", "ErrorCode::HttpProtocolError"),
        ("GET", "/more-than-said", "", "200 hi"),
        ("GET", "/", "", "200 hello"),
    ];
    for (method, path, option, expected) in cases {
        let report = run(&host, &format!("{method}\t{}\t{option}", web.url(path))).await;
        assert_eq!(report.unwrap(), [expected], "{path}");
    }
    let most = run(&host, &format!("GET\t{}", web.url("/100-headers"))).await.unwrap();
    assert!(most[0].starts_with("200 x-0=y ") && most[0].ends_with(" x-98=y hi"), "{most:?}");
    let failure = fetch(&setup, &format!("GET\t{}\tor-fail", web.url("/length-endless"))).await.unwrap_err();
    let words = "got an HTTP response with more than 65536 bytes of headers, more than 100 headers, or a `content-length` \
                 of more than any body has";
    assert!(failure.to_string().contains(words), "{failure}");
    // Only the connection of the last one is of any use.
    web.until_open(1).await;
    let slow = [
        (web.named("https", "127.0.0.1", "/"), HttpOptions::default()),
        (
            web.named("http", "api.example.test", "/"),
            HttpOptions { resolver: Arc::new(Stalled), ..HttpOptions::default() },
        ),
    ];
    for (url, http) in slow {
        let setup = fetching(&[format!("GET {url}")]).with(|options| options.http = http);
        let report = fetch(&setup, &format!("GET\t{url}\tconnect 200")).await;
        assert_eq!(report.unwrap(), ["ErrorCode::ConnectionTimeout"], "{url}");
    }
    let port = Web::start().await.address.port();
    let setup = fetching(&[format!("GET http://127.0.0.1:{port}/")]);
    let report = fetch(&setup, &format!("GET\thttp://127.0.0.1:{port}/")).await;
    assert_eq!(report.unwrap(), ["ErrorCode::ConnectionRefused"]);
    let setup = fetching(&["GET http://api.example.test/".into()]).with(|options| options.http = names(&[]));
    let report = fetch(&setup, "GET\thttp://api.example.test/").await.unwrap();
    assert!(report[0].starts_with("ErrorCode::DnsError"), "{report:?}");
}

#[tokio::test]
async fn the_hosts_timeouts_bound_the_guests() {
    let web = Web::start().await;
    let short = Duration::from_millis(200);
    let setup = fetching(&[format!("GET {}", web.url("/"))]).with(|options| {
        options.http =
            HttpOptions { first_byte_timeout: short, between_bytes_timeout: short, ..HttpOptions::default() };
    });
    let began = Instant::now();
    let script = format!(
        "GET\t{}\tfirst-byte 60000\nGET\t{}\tbetween 60000",
        web.url("/stall-head"),
        web.url("/stall-body")
    );
    let report = fetch(&setup, &script).await.unwrap();
    assert_eq!(report, ["ErrorCode::ConnectionReadTimeout"; 2]);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // Where a step fails by it, the limit is named; where it asked for less itself, it knows.
    for (path, waited) in [
        ("/stall-head", "for the answer to GET {}, as long as `first-byte-timeout` allows"),
        ("/stall-body", "for more of the answer to GET {}, as long as `between-bytes-timeout` allows"),
    ] {
        let url = web.url(path);
        let failure = fetch(&setup, &format!("GET\t{url}?token=1\tor-fail")).await.unwrap_err().to_string();
        let waited = waited.replace("{}", &url);
        let words = format!("ErrorCode::ConnectionReadTimeout; step `FetchProfile` waited 200ms {waited}");
        assert_eq!(failure, words);
        let script = format!("GET\t{url}\tfirst-byte 100\tbetween 100\tor-fail");
        let failure = fetch(&setup, &script).await.unwrap_err().to_string();
        assert_eq!(failure, "ErrorCode::ConnectionReadTimeout");
    }
    let url = web.named("http", "api.example.test", "/");
    let setup = fetching(&[format!("GET {url}")]).with(|options| {
        options.http =
            HttpOptions { resolver: Arc::new(Stalled), connect_timeout: short, ..HttpOptions::default() };
    });
    let failure = fetch(&setup, &format!("GET\t{url}\tor-fail")).await.unwrap_err().to_string();
    let words = format!("waited 200ms for a connection to GET {url}, as long as `connect-timeout` allows");
    assert!(failure.ends_with(&words), "{failure}");
}

#[tokio::test]
async fn tls_is_checked_against_the_name_and_the_known_authorities() {
    let web = Web::with_tls().await;
    let port = web.address.port();
    let rules = ["api.example.test", "other.example.test", "127.0.0.1"]
        .map(|host| format!("GET https://{host}:{port}/"));
    let resolver = || Names::new(&[&["127.0.0.1"]]);
    let trusting =
        HttpOptions { roots: vec![web::authority()], resolver: resolver(), ..HttpOptions::default() };
    let setup = fetching(&rules).with(|options| options.http = trusting);
    let get = |host: &str| format!("GET\thttps://{host}:{port}/");
    assert_eq!(fetch(&setup, &get("api.example.test")).await.unwrap(), ["200 hello"]);
    assert_eq!(fetch(&setup, &get("127.0.0.1")).await.unwrap(), ["200 hello"]);
    let certificate = ["ErrorCode::TlsCertificateError"];
    assert_eq!(fetch(&setup, &get("other.example.test")).await.unwrap(), certificate);
    let plain = HttpOptions { resolver: resolver(), ..HttpOptions::default() };
    let setup = setup.with(|options| options.http = plain);
    assert_eq!(fetch(&setup, &get("api.example.test")).await.unwrap(), certificate);
    let setup = fetching(&rules).with(|options| options.http.roots = vec![b"no certificate".to_vec()]);
    let error = Host::builder().options(setup.options).module("fetch.wasm", fixture("fetch")).build().await;
    let expected = "certificate authority 1 cannot be used: the text has no certificate in PEM form";
    assert_eq!(error.unwrap_err().to_string(), expected);
}

#[tokio::test]
async fn each_limit_ends_the_step_with_its_name_and_value() {
    let web = Web::start().await;
    let limited = |requests: Option<u64>, bytes: Option<u64>, concurrent: Option<u64>| {
        let base = step(grants(&[format!("GET,POST {}", web.url("/"))]));
        let step =
            StepOptions { http_requests: requests, http_bytes: bytes, http_concurrent: concurrent, ..base };
        Setup::new(&["fetch"]).step("FetchProfile", step)
    };
    let url = |path: &str| web.url(path);
    let long = "x".repeat(70_000);
    let cases = [
        (
            limited(Some(2), None, None),
            format!("GET\t{}\ttimes 3\tor-fail", url("/")),
            HttpLimit::Requests(2),
        ),
        (
            limited(Some(2), None, None),
            format!("GET\t{}\ttimes 3\tor-trap", url("/")),
            HttpLimit::Requests(2),
        ),
        (
            limited(None, None, Some(2)),
            format!("GET\t{}\ttimes 3\tor-fail", url("/")),
            HttpLimit::Concurrent(2),
        ),
        (
            limited(None, Some(100_000), None),
            format!("GET\t{}\tor-fail", url("/endless")),
            HttpLimit::Bytes(100_000),
        ),
        (
            limited(None, Some(100_000), None),
            format!("GET\t{}\ttimes 2\tor-fail", url("/sized?60000")),
            HttpLimit::Bytes(100_000),
        ),
        (
            limited(None, Some(100_000), None),
            format!("POST\t{}\tupload 200000\tor-retry", url("/")),
            HttpLimit::Bytes(100_000),
        ),
        // Heads count like bodies, those that are sent and those that come.
        (
            limited(None, Some(100_000), None),
            format!("GET\t{}\theader X-Long {}\ttimes 4\tor-fail", url("/"), "x".repeat(30_000)),
            HttpLimit::Bytes(100_000),
        ),
        (
            limited(None, Some(5_000), None),
            format!("GET\t{}\ttimes 8\tor-fail", url("/100-headers")),
            HttpLimit::Bytes(5_000),
        ),
        (
            limited(None, None, None),
            format!("GET\t{}\tor-fail", url("/giant-header")),
            HttpLimit::AnswerHead(65_536),
        ),
        (
            limited(None, None, None),
            format!("GET\t{}\theader X-Long {long}\tor-fail", url("/")),
            HttpLimit::Head(65_536),
        ),
    ];
    for (setup, script, expected) in cases {
        let failure = fetch(&setup, &script).await.unwrap_err();
        let StepFailure::Http { limit, .. } = &failure else { panic!("{expected}: {failure}") };
        assert_eq!(*limit, expected);
        assert_eq!(failure.class(), FailureClass::Http);
        assert!(failure.to_string().starts_with(&expected.to_string()), "{failure}");
    }
    // What is sent in many pieces is no answer of the step, whose limit is its own.
    let script = format!("POST\t{}\tupload 20000000", url("/sized?10"));
    assert_eq!(fetch(&limited(None, Some(40_000_000), None), &script).await.unwrap(), ["200 xxxxxxxxxx"]);
    // Whoever gets by with what it has, gets by; and answers that are held count as under way.
    let script = format!("GET\t{}\ttimes 2\nGET\t{}", url("/"), url("/"));
    assert_eq!(fetch(&limited(None, None, Some(2)), &script).await.unwrap(), ["200 hello"; 3]);
    let script = format!("GET\t{}\ttimes 2\thold\nGET\t{}", url("/sized?10"), url("/"));
    let report = fetch(&limited(None, None, Some(2)), &script).await.unwrap();
    assert_eq!(report, ["held", "held", "ErrorCode::ConnectionLimitReached"]);
}

#[tokio::test]
async fn what_a_step_makes_and_does_not_send_is_bounded_too() {
    let setup = fetching(&["GET http://a.test/".into()]);
    for kind in ["headers", "requests", "bodies"] {
        let before = peak_memory();
        let failure = fetch(&setup, &format!("hoard\t{kind}")).await.unwrap_err();
        assert!(matches!(failure, StepFailure::Handles { limit: 4_096 }), "{kind}: {failure}");
        let grown = peak_memory().saturating_sub(before);
        assert!(grown < 700 << 20, "{kind}: the host took {grown} bytes more");
    }
    assert_eq!(fetch(&setup, "room").await.unwrap(), ["65536"], "of a body at once");
    // Nor may a step hoard that was granted nothing, beside one of its module that was.
    let beside = step(grants(&["GET http://a.test/".into()]));
    let setup = Setup::new(&["fetch"]).step("FetchPreferences", beside);
    let failure = fetch(&setup, "hoard\theaders").await.unwrap_err();
    assert!(matches!(failure, StepFailure::Handles { limit: 4_096 }), "{failure}");
    let setup = fetching(&["* http://a.test/".into()]);
    let report = fetch(&setup, &format!("{}\thttp://a.test/", "M".repeat(65))).await.unwrap();
    assert_eq!(report, ["ErrorCode::HttpRequestUriInvalid"]);
}

/// Returns the most memory that this process ever had, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_ends_takes_its_connections_with_it() {
    let web = Web::start().await;
    for path in ["/stall-head", "/stall-body", "/endless"] {
        let mut step = step(grants(&[format!("GET {}", web.url("/"))]));
        step.timeout = Some(Duration::from_millis(300));
        let setup = Setup::new(&["fetch"]).step("FetchProfile", step);
        let failure = fetch(&setup, &format!("GET\t{}\tor-fail", web.url(path))).await.unwrap_err();
        let by_bytes = path == "/endless" && matches!(failure, StepFailure::Http { .. });
        assert!(matches!(failure, StepFailure::Timeout { .. }) || by_bytes, "{path}: {failure}");
        web.until_open(0).await;
    }
    let setup = fetching(&[format!("GET {}", web.url("/"))]);
    let host = setup.host().await;
    for path in ["/stall-head", "/stall-body"] {
        let execution = host.start(told(&format!("GET\t{}", web.url(path)))).unwrap();
        let running = tokio::spawn(execution.outcome());
        web.until_open(1).await;
        running.abort();
        web.until_open(0).await;
    }
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

fn secret(file: &std::path::Path, hosts: Option<&[&str]>) -> SecretGrant {
    let from = format!("file:{}", file.display()).parse().unwrap();
    SecretGrant { from, hosts: hosts.map(|hosts| hosts.iter().map(|host| host.parse().unwrap()).collect()) }
}

#[tokio::test]
async fn a_secret_is_filled_in_in_headers_towards_its_hosts_and_nowhere_else() {
    let web = Web::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    let mut grants = grants(&[
        format!("GET,POST {}", web.url("/")),
        format!("GET {}", web.named("http", "localhost", "/")),
    ]);
    grants.secrets.insert("API_KEY".parse().unwrap(), secret(&file, Some(&["127.0.0.1"])));
    let setup = Setup::new(&["fetch"]).step("FetchProfile", step(grants));
    let placeholder = "{{secret:API_KEY}}";
    let script = [
        "env\tAPI_KEY".to_owned(),
        format!("GET\t{}\theader Authorization Bearer {placeholder}", web.url("/echo")),
        format!("POST\t{}\tbody {placeholder}", web.url("/echo")),
        format!("GET\t{}\theader X-Key {placeholder}", web.named("http", "localhost", "/")),
        format!("GET\t{}\theader X-Key {{{{secret:OTHER}}}}", web.url("/")),
        format!("GET\t{}?key={placeholder}", web.url("/")),
        format!("GET\t{}\theader Authorization {placeholder}", web.url("/trailers")),
        format!("GET\t{}\theader Authorization other", web.url("/trailers")),
    ];
    let report = fetch(&setup, &script.join("\n")).await.unwrap();
    assert_eq!(report[0], placeholder, "programs find it in their environment");
    assert!(report[1].starts_with("200 x-reflected= GET /echo"), "{report:?}");
    assert!(report[2].contains(placeholder), "bodies are left alone: {report:?}");
    let denied = "ErrorCode::HttpRequestDenied";
    assert_eq!(report[3..6], [denied, denied, denied]);
    let seen = web.header("authorization");
    assert_eq!(seen, [&format!("Bearer {SECRET}"), "-", SECRET, "other"]);
    assert_eq!(report[6..], ["200 hi x-late=", "200 hi x-late=other"], "what comes back is emptied");
    let lines = [
        (3, "its secret `API_KEY` may not go to `localhost`; add the host to the secret's `hosts`"),
        (4, "it has no secret `OTHER`; add it to the `secrets` of its grants"),
        (5, "placeholders of secrets are filled in in headers, not in the address of a request"),
    ];
    for (index, words) in lines {
        let failure = fetch(&setup, &format!("{}\tor-fail", script[index])).await.unwrap_err().to_string();
        assert!(failure.contains(words), "{failure}");
    }
}

#[tokio::test]
async fn all_secrets_that_cannot_be_used_are_named_at_load_without_their_values() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, format!("{SECRET}\n{SECRET}\n")).unwrap();
    let mut grants = grants(&["GET https://api.example.test/".into()]);
    grants.secrets.insert("BAD".parse().unwrap(), secret(&file, None));
    grants.secrets.insert("FAR".parse().unwrap(), secret(&file, Some(&["other.test", "*.example.test"])));
    grants.secrets.insert("GONE".parse().unwrap(), secret(&dir.path().join("none"), None));
    let from = "env:DOCKET_NO_SUCH_VARIABLE".parse().unwrap();
    grants.secrets.insert("UNSET".parse().unwrap(), SecretGrant { from, hosts: None });
    let setup = Setup::new(&["fetch"]).step("FetchProfile", step(grants));
    let builder = Host::builder().options(setup.options).module("fetch.wasm", fixture("fetch"));
    let error = builder.build().await.unwrap_err().to_string();
    let key = file.display();
    let none = dir.path().join("none");
    let none = none.display();
    let expected = format!(
        "secrets cannot be used: secret `BAD` of step `FetchProfile` from `file:{key}`: byte 22 of the value may not stand in a header; \
         secret `FAR` of step `FetchProfile` may go to `other.test`, which none of the step's `http` rules names; \
         secret `FAR` of step `FetchProfile` from `file:{key}`: byte 22 of the value may not stand in a header; \
         secret `GONE` of step `FetchProfile` from `file:{none}`: No such file or directory (os error 2); \
         secret `UNSET` of step `FetchProfile` from `env:DOCKET_NO_SUCH_VARIABLE`: the variable is not set"
    );
    assert_eq!(error, expected);
}
