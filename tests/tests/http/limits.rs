//! How much a step may ask for: each limit ends it with its name and value, and what it does not send is bounded too.

use docket_graph::FailureClass;
use docket_runtime::{HttpLimit, StepFailure, StepOptions};
use docket_tests::Setup;
use docket_tests::web::Web;

use super::{fetch, fetching, grants, step};

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
