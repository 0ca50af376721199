//! Proves what `docket.toml` may say, and which faults are found in it.

use std::num::NonZeroU32;

use docket_graph::{FailureClass, Growth, Jitter, Match, Persistence, Scope};
use docket_runtime::{
    Circumstance, GrantOptions, Instance, Keeping, OnStoreError, RetryOptions, SecretSource,
};

use super::*;
use crate::args::{ItemsFormat, OnItemErrorArg};
use crate::input::{InputSource, Place};

fn parse(text: &str) -> Result<Config, String> {
    let environment = Environment::of([("REGION", "eu"), ("AWS_A", "1"), ("AWS_B", "2")]);
    Config::parse("dir/docket.toml".into(), text, &environment).map_err(|error| error.sentence())
}

/// Each text has exactly these faults, in this order.
fn check(text: &str, faults: &[&str]) {
    let found = parse(text).expect_err(text);
    let expected: Vec<_> = faults.iter().map(|fault| format!("dir/docket.toml:{fault}")).collect();
    match &expected[..] {
        [fault] => assert_eq!(found, *fault),
        faults => {
            let heading = format!("{} faults in `dir/docket.toml`:", faults.len());
            assert_eq!(found, [&[heading], faults].concat().join("\n  "));
        }
    }
}

#[test]
fn every_key_is_read() {
    let config = parse(
            r#"
            run = { output = "a.B#c", input = ['{}', 'a.A=@in.json'], timeout = "1m" }
            defaults = { timeout = "5s", memory = "256MiB", output-size = "16 MiB", log-size = "1kB" }
            caps = { timeout = "1h", memory = "1GiB", output-size = "2B", log-size = "3B", table-elements = 4, max-attempts = 5, log-lines = 6, open-files = 7, dir-bytes = "8B", cpu = "9s", fuel = 10, http-requests = 11, http-bytes = "12B", http-concurrent = 13, instance = "fresh" }
            host = { max-instances = 6, max-stack = "2MiB" }
            batch = { items = "in.pb", items-format = "json", items-port = "a.A", shared = ['a.C=@c.json'], output = "a.B", max-concurrency = 8, on-item-error = "continue", timeout = "2m" }
            store = { url = "sled:.docket", retention = "7d", lease = "10s" }
            [step.B]
            persistence = false
            on-store-error = "fail"
            [step.A]
            persistence = { scope = "global", ttl = "1h" }
            on-store-error = "run"
            table-elements = 100_000
            fuel = 1_000_000_000
            max-concurrency = 4
            instance = "reuse"
            config = { word = "x", number = 0x1F, real = 1.50, truth = true }
            [step.A.retry]
            max-attempts = 3
            backoff = { growth = "exponential", initial = "100ms", factor = 3, max = "5s" }
            jitter = true
            codes = { never = ["card_declined"] }
            kinds = { always = ["trap"], never = ["timeout"] }
            "#,
        )
        .unwrap();
    assert_eq!(config.run.output, Some(Port::parse("a.B#c").unwrap()));
    assert_eq!(config.run.inputs[1].source, InputSource::File("dir/in.json".into()));
    assert_eq!(config.run.timeout, Some(Duration::from_secs(60)));
    let BatchConfig {
        items,
        items_format,
        items_port,
        shared,
        output,
        max_concurrency,
        on_item_error,
        timeout,
    } = config.batch;
    assert_eq!(items, Some(Place::File("dir/in.pb".into())));
    assert_eq!((items_format, items_port), (Some(ItemsFormat::Json), Some(Port::parse("a.A").unwrap())));
    assert_eq!(shared[0].source, InputSource::File("dir/c.json".into()));
    assert_eq!((output, max_concurrency), (Some(Port::parse("a.B").unwrap()), NonZeroU32::new(8)));
    let policy = Some(OnItemErrorArg::Continue);
    assert_eq!((on_item_error, timeout), (policy, Some(Duration::from_secs(120))));
    assert_eq!(config.defaults.memory, Some(256 << 20));
    assert_eq!((config.defaults.output, config.defaults.logs), (Some(16 << 20), Some(1000)));
    let CapsConfig {
        timeout,
        memory,
        output,
        logs,
        log_lines,
        open_files,
        dir_bytes,
        cpu,
        http_requests,
        http_bytes,
        http_concurrent,
        fuel,
        table_elements,
        max_attempts,
        instance,
    } = config.caps;
    assert_eq!(
        (instance, config.steps["A"].options.instance),
        (Some(Instance::Fresh), Some(Instance::Reuse))
    );
    assert_eq!((log_lines, open_files, dir_bytes), (Some(6), Some(7), Some(8)));
    assert_eq!((cpu, fuel), (Some(Duration::from_secs(9)), Some(10)));
    assert_eq!((http_requests, http_bytes, http_concurrent), (Some(11), Some(12), Some(13)));
    assert_eq!(config.max_stack, Some(2 << 20));
    assert_eq!((timeout, memory), (Some(Duration::from_secs(3600)), Some(1 << 30)));
    assert_eq!((output, logs, table_elements), (Some(2), Some(3), Some(4)));
    assert_eq!((max_attempts, config.max_instances), (NonZeroU32::new(5), Some(6)));
    let StepConfig { line, options } = &config.steps["A"];
    assert_eq!(*line, 11);
    let keep = Persistence { scope: Scope::Global, ttl: Some(Duration::from_secs(3600)) };
    assert_eq!(options.persistence, Some(Keeping::On(keep)));
    assert_eq!(options.on_store_error, Some(OnStoreError::Run));
    let other = &config.steps["B"].options;
    assert_eq!((other.persistence, other.on_store_error), (Some(Keeping::Off), Some(OnStoreError::Fail)));
    assert_eq!(config.defaults.persistence, None);
    let StoreConfig { url, retention, lease } = &config.store;
    assert_eq!(*url, Some(StoreUrl::Sled("dir/.docket".into())));
    assert_eq!((retention.unwrap().as_secs(), lease.unwrap().as_secs()), (7 * 24 * 3600, 10));
    assert_eq!((options.table_elements, options.fuel), (Some(100_000), Some(1_000_000_000)));
    assert_eq!(options.max_concurrency, NonZeroU32::new(4));
    let config = [("number", "0x1F"), ("real", "1.50"), ("truth", "true"), ("word", "x")];
    let config = config.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(options.config, Some(BTreeMap::from(config)));
    let RetryOptions { max_attempts, backoff, jitter, reclassify } = options.retry.clone();
    assert_eq!((max_attempts, jitter), (NonZeroU32::new(3), Some(Jitter::Full)));
    let backoff = backoff.unwrap();
    assert_eq!((backoff.growth, backoff.factor), (Growth::Exponential, 3.0));
    assert_eq!((backoff.initial.as_millis(), backoff.max), (100, Some(Duration::from_secs(5))));
    let reclassify = reclassify.unwrap();
    assert_eq!(reclassify.always, [Match::Class(FailureClass::Trap)]);
    let never = [Match::Code("card_declined".into()), Match::Class(FailureClass::Timeout)];
    assert_eq!(reclassify.never, never);
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_one_and_all_faults_come_at_once() {
    check("[batch]\nitmes = '-'\n", &["2: unknown key `itmes` in `batch`; did you mean `items`?"]);
    check("[run]\noutptu = 'a.B'\n", &["2: unknown key `outptu` in `run`; did you mean `output`?"]);
    check(
        "[stpe.A]\n[step.B]\ntimout = '1s'\nretry = { max-attempt = 1 }\n[defaults]\nconfig = {}\n",
        &[
            "1: unknown key `stpe`; did you mean `step`?",
            "3: unknown key `timout` in `step.B`; did you mean `timeout`?",
            "4: unknown key `max-attempt` in `step.B.retry`; did you mean `max-attempts`?",
            "6: unknown key `config` in `defaults`",
        ],
    );
}

#[test]
fn a_value_that_cannot_be_is_refused_with_what_is_wanted() {
    let zero = "must be more than zero";
    check("defaults.timeout = '0s'", &["1: `defaults.timeout` is wrong: it must be longer than zero"]);
    check("defaults.memory = '0MiB'", &[&format!("1: `defaults.memory` {zero}")]);
    check("defaults.fuel = 0", &[&format!("1: `defaults.fuel` {zero}")]);
    check("defaults.retry.max-attempts = 0", &[&format!("1: `defaults.retry.max-attempts` {zero}")]);
    check(
        "defaults.instance = 'reuse'",
        &[
            "1: `defaults.instance` cannot be set: it would reach every module, also those that come later; set it for a step whose module you trust, as `[step.NAME]`",
        ],
    );
    check(
        "[step.A]\ninstance = 'reused'",
        &["2: `step.A.instance` is wrong: `reused` is unknown; did you mean `reuse`?"],
    );
    check("defaults.max-concurrency = -1", &["1: `defaults.max-concurrency` is too small or too large: -1"]);
    check("defaults.timeout = 5", &["1: `defaults.timeout` must be a string, not an integer"]);
    check(
        "defaults.memory = '5 MiBs'",
        &["1: `defaults.memory` is wrong: `5 MiBs` is not a size; write it like `256MiB` or `1GB`"],
    );
    check(
        "defaults.retry.kinds.always = ['trpa', 'abort']",
        &[
            "1: `defaults.retry.kinds.always` is wrong: `trpa` is unknown; did you mean `trap`?",
            "1: in `defaults.retry.kinds`: `abort` cannot be tried again: it stops the whole execution",
        ],
    );
    check(
        "defaults.retry.codes = { always = ['a', 'b'], never = ['b'] }",
        &["1: in `defaults.retry.codes`: `always` and `never` name the same; keep it in one of them"],
    );
    check(
        "[defaults.retry]\nbackoff = { initial = '1s', factor = 0.5 }",
        &[
            "2: `defaults.retry.backoff.factor` is wrong: it must be a number of at least 1",
            "2: `defaults.retry.backoff` needs `growth`",
        ],
    );
    check("step = 1", &["1: `step` must be a table, not an integer"]);
    check(
        "[step.A]\nconfig = { x = [] }",
        &["2: `step.A.config.x` must be a string, a number or a boolean, not an array"],
    );
}

#[test]
fn grants_are_read_with_the_environment_and_the_directories_around_them() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("data/in")).unwrap();
    let text = "[step.A]\ngrants = { env = ['REGION', 'AWS_*'], dir = ['ro:data/in', 'rw:data=/out'], \
                    http = ['GET https://a.example.com/v1'], secrets = { KEY = 'env:KEY', FILE = { from = 'file:f', hosts = ['a.example.com'] } }, \
                    clock = 'real', random = 'virtual' }\n[module.'a*.wasm']\ngrants.env = { REGION = 'us', N = 7 }\n";
    let environment = Environment::of([("REGION", "eu"), ("AWS_A", "1"), ("AWS_B", "2"), ("HOME", "/")]);
    let config = Config::parse(dir.path().join("docket.toml"), text, &environment).unwrap();
    let grants = config.steps["A"].options.grants.clone().unwrap();
    let env: Vec<_> =
        grants.env.as_ref().unwrap().iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(env, ["AWS_A=1", "AWS_B=2", "REGION=eu"]);
    let root = dir.path().canonicalize().unwrap();
    let dirs: Vec<_> = grants.dirs.as_ref().unwrap().iter().map(ToString::to_string).collect();
    let expected = [
        format!("ro:{}=/in", root.join("data/in").display()),
        format!("rw:{}=/out", root.join("data").display()),
    ];
    assert_eq!(dirs, expected);
    assert_eq!(grants.http.unwrap().len(), 1);
    let secrets = grants.secrets.unwrap();
    let file = SecretSource::File(dir.path().join("f"));
    assert_eq!((&secrets["FILE"].from, secrets["FILE"].hosts.as_ref().unwrap().len()), (&file, 1));
    assert_eq!(secrets["KEY"].hosts, None);
    assert_eq!((grants.clock, grants.random), (Some(Circumstance::Real), Some(Circumstance::Virtual)));
    let ModuleConfig { line, pattern, grants } = &config.modules[0];
    assert_eq!((*line, pattern.as_str()), (3, "a*.wasm"));
    let env = BTreeMap::from(
        [("N", "7"), ("REGION", "us")].map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    assert_eq!(*grants, GrantOptions { env: Some(env), ..GrantOptions::default() });
}

#[test]
fn what_is_wrong_about_grants_comes_at_once_with_what_to_do() {
    check(
        "[defaults]\ngrants = { clock = 'real' }\n[step.A]\ngrants = { env = ['REGIONS', 'A=B'], dir = ['data',\n\
             'ro:nowhere', 'ro:/'], clock = 'rael', config = {}, htpp = [], http = ['GET ftp://x'] }\n[module.'b.wasm']\n\
             grant = {}\n[module.'c.wasm']\ngrants = { secrets = { '7' = 'env:X', Y = 'verbatim', Z = {} }, dir = ['ro:/=/x', 'rw:/=/x'] }\n",
        &[
            "2: `defaults.grants` cannot be set: it would reach every module, also those that come later; grant to a step as `[step.NAME]` or to a module as `[module.\"NAME.wasm\"]`",
            "4: `step.A.grants.env` is wrong: `A=B` is not a name; it must not be empty, nor hold `=`",
            "4: `step.A.grants.env` is wrong: `REGIONS` is not set in the environment of this process; set it, or write `env = { REGIONS = \"…\" }`",
            "4: `step.A.grants.dir` is wrong: `data` is not a directory with an access; write `ro:PATH` or `rw:PATH`",
            "5: `step.A.grants.http` is wrong: `GET ftp://x` is not a rule for HTTP requests: `ftp` is not a scheme of HTTP; use `http` or `https`",
            "5: `step.A.grants.dir` is wrong: the directory `dir/nowhere` cannot be used: No such file or directory (os error 2)",
            "5: `step.A.grants.dir` is wrong: `ro:/` has no name for the guest to find it under; write `ro:/=/NAME`",
            "5: `step.A.grants.clock` is wrong: `rael` is unknown; did you mean `real`?",
            "5: `step.A.grants.config` cannot be set: write `config` beside `grants`; to set it is to grant it",
            "5: unknown key `htpp` in `step.A.grants`; did you mean `http`?",
            "6: `module.b.wasm` needs `grants`",
            "7: unknown key `grant` in `module.b.wasm`; did you mean `grants`?",
            "9: `module.c.wasm.grants.secrets.7` is wrong: `7` is not a name for a secret; use letters, digits and `_`, not a digit first",
            "9: `module.c.wasm.grants.secrets.Y` is wrong: where a secret comes from is written `env:NAME` or `file:PATH`",
            "9: `module.c.wasm.grants.secrets.Z` needs `from`",
            "9: `module.c.wasm.grants.dir` is wrong: the guest would find two directories at `/x`; write one as `rw:PATH=/OTHER`",
        ],
    );
}

#[test]
fn a_grant_outside_the_caps_is_refused_with_both_lines() {
    let asked = "[step.A]\ngrants.http = ['GET https://a.example.com/v1']\ngrants.env = ['REGION']\n\
                     grants.dir = ['ro:/usr/bin']\ngrants.clock = 'real'\ngrants.random = 'real'\n\
                     grants.secrets.KEY = 'env:KEY'\n";
    assert!(parse(asked).is_ok(), "without caps for grants there is no bound");
    assert!(parse(&format!("{asked}[caps]\nmemory = '1GiB'\n")).is_ok());
    let wide = "[caps.grants]\nhttp = ['* https://*.example.com']\nenv = ['REG*']\ndir = ['/usr']\n\
                    clock = 'real'\nrandom = 'real'\nsecrets = ['*']\n";
    assert!(parse(&format!("{asked}{wide}")).is_ok());
    let narrow = "[caps.grants]\nhttp = ['GET https://b.example.com']\nenv = ['AWS_*']\ndir = ['/usr/lib']\n";
    check(
        &format!("{asked}{narrow}"),
        &[
            "2: `step.A.grants.http` grants `GET https://a.example.com/v1`, which `caps.grants.http` in line 9 does not allow",
            "3: `step.A.grants.env` grants `REGION`, which `caps.grants.env` in line 10 does not allow",
            "4: `step.A.grants.dir` grants `/usr/bin`, which `caps.grants.dir` in line 11 does not allow",
            "5: `step.A.grants.clock` grants `real`, which `caps.grants` in line 8 does not allow",
            "6: `step.A.grants.random` grants `real`, which `caps.grants` in line 8 does not allow",
            "7: `step.A.grants.secrets` grants `KEY`, which `caps.grants` in line 8 does not allow",
        ],
    );
    check(
        "[module.a]\ngrants = { clock = 'real' }\n[caps.grants]\n",
        &["2: `module.a.grants.clock` grants `real`, which `caps.grants` in line 3 does not allow"],
    );
}

#[test]
fn what_is_kept_to_resume_has_no_password_and_finds_its_directories_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    let text = "# a\nstore.url = \"postgres://me:hunter2@host/db?application_name=x&password=hunter2\"\n\
                    [step.A]\ngrants.dir = ['ro:data']\ntimeout = '5s'";
    let none = Environment::default();
    let config = Config::parse(dir.path().join("docket.toml"), text, &none).unwrap();
    let settings = config.settings().unwrap();
    assert!(!settings.contains("hunter2") && settings.contains("me:***@host"), "{settings}");
    let kept = Config::parse_kept("the kept one", &settings, &none).unwrap();
    assert_eq!((kept.steps, kept.caps), (config.steps, config.caps));
    assert_eq!(Config::default().settings(), None);
    let older = Config::parse_kept("the kept one", "[step.A]\ntimeout = '5s'\n", &none).unwrap();
    assert_eq!(older.steps["A"].options.timeout, Some(Duration::from_secs(5)));
}

#[test]
fn what_is_wrong_about_keeping_comes_at_once_with_what_was_meant() {
    check(
        "[defaults]\npersistence = true\non-store-error = 'rnu'\n[step.A]\npersistence = { ttl = '0s' }\n\
             [step.B]\npersistence = { scope = 'globl', tll = '1s' }\n\
             [store]\nurl = 'slde:x'\nretention = 'always'\nlease = '10ms'\nlaese = 1\n",
        &[
            "2: `defaults.persistence` must be a table or false, not true",
            "3: `defaults.on-store-error` is wrong: `rnu` is unknown; did you mean `run`?",
            "5: `step.A.persistence.ttl` is wrong: it must be longer than zero",
            "5: `step.A.persistence` needs `scope`",
            "7: `step.B.persistence.scope` is wrong: `globl` is unknown; did you mean `global`?",
            "7: unknown key `tll` in `step.B.persistence`; did you mean `ttl`?",
            "9: `store.url` is wrong: there is no store of the kind `slde`; did you mean `sled`?",
            "10: `store.retention` is wrong: expected number at 0; write it like `30s` or `1h 5m`, or `forever`",
            "11: `store.lease` is wrong: it must be at least 1s",
            "12: unknown key `laese` in `store`; did you mean `lease`?",
        ],
    );
}

#[test]
fn a_place_is_beside_the_file_unless_it_is_absolute_and_nothing_else_is_a_place() {
    for (url, expected) in [
        ("sqlite:a.db", "sqlite:dir/a.db"),
        ("sled:/a", "sled:/a"),
        ("memory:", "memory:"),
        ("redis://host", "redis://host"),
    ] {
        let config = parse(&format!("store = {{ url = '{url}', retention = 'forever' }}")).unwrap();
        assert_eq!(config.store.url.unwrap().to_string(), expected);
        assert_eq!(config.store.retention, Some(Duration::MAX));
    }
}

#[test]
fn bad_toml_is_refused_with_its_line() {
    let found = parse("[run]\noutput = \n").unwrap_err();
    assert!(found.starts_with("dir/docket.toml:2: "), "{found}");
}

#[test]
fn no_file_is_no_fault_unless_it_was_named() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Config::load(None, dir.path()).unwrap(), Config::default());
    let named = dir.path().join("other.toml");
    let error = Config::load(Some(&named), dir.path()).unwrap_err();
    assert_eq!(error.exit(), Exit::Usage);
}
