//! A step's secrets go where they may and nowhere else, and all that cannot be used are named before anything runs.

use docket_runtime::{Host, SecretGrant};
use docket_tests::web::Web;
use docket_tests::{Setup, fixture};

use super::{fetch, grants, step};

/// The value that must be seen nowhere.
const SECRET: &str = "hunter2-correct-horse";

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
