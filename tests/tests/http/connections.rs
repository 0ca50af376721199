//! Where a request leads: names, addresses, connections, and servers that misbehave. Holds no limit on what a step asks for.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use docket_runtime::{ExecutionError, Host, HttpOptions, Request, Resolve, StepFailure};
use docket_tests::example::{UserId, UserPreferences};
use docket_tests::web::{self, Web};
use docket_tests::{Setup, fixture, told};

use super::{fetch, fetching, grants, run, step};

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
