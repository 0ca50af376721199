//! What a step sees and reaches with and without grants, and that each limit on it acts.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot be set up has failed, and one takes the time"
)]

#[path = "grants/files.rs"]
mod files;

use std::collections::BTreeMap;
use std::time::Duration;

use docket_graph::FailureClass;
use docket_runtime::{
    BuildError, Caps, Circumstance, DirGrant, ExecutionError, ExecutionId, GrantOptions, Host, HostOptions,
    Instance, Purity, Request, StepFailure, StepOptions,
};
use docket_tests::{example, execute, fixture, host, host_with, options, profile_request};

/// Returns options that grant this to the step of the fixtures.
fn granting(grants: GrantOptions) -> HostOptions {
    limited(StepOptions { grants: Some(grants), ..StepOptions::default() })
}

fn limited(step: StepOptions) -> HostOptions {
    HostOptions { steps: [("FetchProfile".to_owned(), step)].into(), ..options() }
}

fn dirs<const N: usize>(texts: [String; N]) -> GrantOptions {
    let dirs = texts.iter().map(|text| DirGrant::parse(text).unwrap()).collect();
    GrantOptions { dirs: Some(dirs), ..GrantOptions::default() }
}

fn telling(words: &str) -> Request {
    Request::for_message::<example::UserProfile>().input(&example::UserId { id: words.to_owned() })
}

/// Returns what the fixture reports when it is told this.
async fn told(host: &Host, words: &str) -> Result<String, StepFailure> {
    let outcome = execute(host, telling(words)).await;
    match &outcome.result {
        Ok(_) => Ok(outcome.message::<example::UserProfile>().unwrap().name),
        Err(ExecutionError::Failed { source, .. }) => Err(source.clone()),
        Err(other) => panic!("{words}: {other}"),
    }
}

/// Returns how the fixture fails under these options.
async fn failure(name: &str, options: HostOptions, words: &str) -> StepFailure {
    let host = host_with(&[name], options).await.unwrap();
    told(&host, words).await.expect_err(words)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timers_that_are_polled_together_are_ready_in_the_same_way_in_every_run() {
    let rounds = "0 [[1, 3], [0], [1, 2, 3], [0], [0, 1, 2, 3]] at";
    let expected: Vec<_> = (1..=5).map(|round| format!("{rounds} {}000000", round * 3)).collect();
    let host = host(&["poll_timers"]).await;
    let runs = (0..6).map(|_| told(&host, "several at once, so that each is held up by the others"));
    for found in futures_util::future::join_all(runs).await {
        assert_eq!(found.unwrap(), expected.join("; "));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_have_the_same_bits_on_every_processor() {
    let host = host(&["compute_nan"]).await;
    let (wide, narrow) = ("7ff8000000000000", "7fc00000");
    let wide = [wide; 5].join(", ");
    // The fused product, and zero for a letter that is not there.
    let expected = format!("[{wide}] [{narrow}, {narrow}] (34800000, 0)");
    assert_eq!(told(&host, "").await.unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_sees_nothing_of_its_host_but_what_it_was_granted() {
    let request = || profile_request().execution_id(ExecutionId::parse("the-same").unwrap());
    let see = async |grants: GrantOptions| {
        let host = host_with(&["look_around"], granting(grants)).await.unwrap();
        let started = execute(&host, request()).await;
        started.message::<example::UserProfile>().unwrap().name
    };
    let part = |seen: &str, name: &str| {
        let at = seen.find(&format!("{name}=")).unwrap();
        seen[at..].split(' ').next().unwrap().to_owned()
    };
    let nothing = see(GrantOptions::default()).await;
    assert!(nothing.starts_with("env={} args=0 stdin=0 passes=false now="), "{nothing}");
    let again = see(GrantOptions::default()).await;
    assert_eq!(part(&nothing, "chance"), part(&again, "chance"), "the same on two hosts");

    let env = Some(BTreeMap::from([("REGION".to_owned(), "eu".to_owned())]));
    let seen = see(GrantOptions { env, ..GrantOptions::default() }).await;
    assert!(seen.starts_with("env={\"REGION\": \"eu\"} args=0 stdin=0 passes=false"), "{seen}");
    let clock = GrantOptions { clock: Some(Circumstance::Real), ..GrantOptions::default() };
    let seen = see(clock).await;
    assert!(seen.contains("passes=true"), "{seen}");
    assert_eq!(part(&seen, "chance"), part(&nothing, "chance"), "time is not chance");
    let random = || GrantOptions { random: Some(Circumstance::Real), ..GrantOptions::default() };
    let (one, other) = (see(random()).await, see(random()).await);
    assert_ne!(part(&one, "chance"), part(&other, "chance"));
    assert!(one.contains("passes=false"), "{one}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_chance_gives_the_same_again_and_no_two_the_same() {
    let draw = async |id: &str, random| {
        let grants = GrantOptions { random: Some(random), ..GrantOptions::default() };
        let host = host_with(&["misuse_handles"], granting(grants)).await.unwrap();
        let request = telling("chances").execution_id(ExecutionId::parse(id).unwrap());
        let name = execute(&host, request).await.message::<example::UserProfile>().unwrap().name;
        name.split(' ').map(|number| number.parse().unwrap()).collect::<Vec<u64>>()
    };
    let one = draw("one", Circumstance::Virtual).await;
    assert_eq!(draw("one", Circumstance::Virtual).await, one);
    let mut all = one;
    for (id, random) in
        [("other", Circumstance::Virtual), ("one", Circumstance::Real), ("one", Circumstance::Real)]
    {
        all.extend(draw(id, random).await);
    }
    let drawn = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!((all.len(), drawn), (24, 24));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_clock_shows_the_hosts_time_and_a_virtual_one_the_executions_start() {
    let now = || std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    let seen = async |clock| {
        let grants = GrantOptions { clock: Some(clock), ..GrantOptions::default() };
        let host = host_with(&["look_around"], granting(grants)).await.unwrap();
        // The second step of an execution starts later than the execution: here, than its permit.
        let name = told(&host, "").await.unwrap();
        let at = name.find("now=").unwrap() + 4;
        name[at..].split(' ').next().unwrap().parse::<u128>().unwrap()
    };
    let before = now();
    let real = seen(Circumstance::Real).await;
    assert!((before..=now()).contains(&real));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_a_step_impure_is_named() {
    let levels = async |name: &str, grants| {
        let host = host_with(&[name], granting(grants)).await.unwrap();
        let (step, _) = host.graph().steps().next().unwrap();
        host.generation().purity(step)
    };
    assert_eq!(levels("good", GrantOptions::default()).await, (Purity::Pure, vec![]));
    let (level, because) = levels("observe", GrantOptions::default()).await;
    assert_eq!(level, Purity::Deterministic);
    assert!(because.iter().all(|import| import.starts_with("import wasi:")), "{because:?}");
    assert!(because.iter().any(|import| import.starts_with("import wasi:clocks/monotonic")), "{because:?}");
    let dir = tempfile::tempdir().unwrap();
    let grants = GrantOptions {
        env: Some(BTreeMap::from([("REGION".to_owned(), "eu".to_owned())])),
        ..GrantOptions::default()
    };
    assert_eq!(levels("good", grants).await, (Purity::Deterministic, vec!["grant env REGION".to_owned()]));
    let place = dir.path().display();
    let grants = GrantOptions {
        clock: Some(Circumstance::Real),
        random: Some(Circumstance::Real),
        http: Some(["GET https://a.example.com/".parse().unwrap()].into()),
        ..dirs([format!("ro:{place}=/x")])
    };
    let because = [
        "grant http GET https://a.example.com/".to_owned(),
        format!("grant dir ro:{place}=/x"),
        "grant clock real".to_owned(),
        "grant random real".to_owned(),
    ];
    assert_eq!(levels("observe", grants).await, (Purity::Effects, because.to_vec()));
    // What a step of the same module was granted, and what an instance was used for before.
    let beside = GrantOptions {
        http: Some(["GET https://a.example.com/".parse().unwrap()].into()),
        ..GrantOptions::default()
    };
    let mut options = limited(StepOptions::default());
    let granted = StepOptions { grants: Some(beside), ..StepOptions::default() };
    options.steps.insert("FetchPreferences".to_owned(), granted);
    let host = host_with(&["fetch"], options).await.unwrap();
    let (step, _) = host.graph().steps().find(|(_, step)| step.name.as_str() == "FetchProfile").unwrap();
    let (level, because) = host.generation().purity(step);
    assert_eq!(level, Purity::Effects);
    assert!(because.iter().all(|import| import.starts_with("import wasi:http/")), "{because:?}");
    let reused = StepOptions { instance: Some(Instance::Reuse), ..StepOptions::default() };
    let host = host_with(&["good"], limited(reused)).await.unwrap();
    let (step, _) = host.graph().steps().next().unwrap();
    assert_eq!(host.generation().purity(step), (Purity::Effects, vec!["instance reuse".to_owned()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_reads_its_own_configuration_and_no_other_steps() {
    let config = |value: &str| StepOptions {
        config: Some(BTreeMap::from([("region".to_owned(), value.to_owned())])),
        ..StepOptions::default()
    };
    for (step, expected) in
        [(config("eu"), "[(\"region\", \"eu\")] Some(\"eu\")"), (StepOptions::default(), "[] None")]
    {
        let mut options = limited(step);
        options.steps.insert("FetchPreferences".to_owned(), config("us"));
        let host = host_with(&["read_config"], options).await.unwrap();
        assert_eq!(told(&host, "region").await.unwrap(), expected);
    }
    let error = host_with(&["read_config"], options()).await.err().unwrap().to_string();
    let words = "needs a grant: set `config` for one of its steps";
    assert!(error.starts_with("module `read_config.wasm` imports `wasi:config/store"), "{error}");
    assert!(error.contains(words), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_asks_for_the_network_is_stopped_and_told_by_name() {
    let host = host(&["connect"]).await;
    assert_eq!(told(&host, "nothing").await.unwrap(), "Ok(())", "to import sockets is no fault");
    let (tcp, udp) = ("tcp-create-socket.create-tcp-socket", "udp-create-socket.create-udp-socket");
    let lookup = "ip-name-lookup.resolve-addresses";
    for (words, import) in [("connect", tcp), ("listen", tcp), ("udp", udp), ("look up", lookup)] {
        let failure = told(&host, words).await.unwrap_err();
        let expected = format!(
            "used `wasi:sockets/{import}`, which it was not granted: \
             no step is given sockets; for HTTP use `wasi:http` and grant `http`"
        );
        assert_eq!((failure.to_string(), failure.class()), (expected, FailureClass::Grant));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processor_time_lines_handles_and_stack_are_limited_by_name() {
    let cpu = StepOptions {
        cpu: Some(Duration::from_millis(100)),
        timeout: Some(Duration::from_secs(60)),
        ..StepOptions::default()
    };
    let stopped = failure("spin", limited(cpu.clone()), "").await;
    assert_eq!(stopped.to_string(), "used more processor time than its limit of 100 ms");
    assert_eq!(stopped.class(), FailureClass::Cpu);
    // What sleeps uses none.
    let host = host_with(&["obey"], limited(cpu)).await.unwrap();
    told(&host, "sleeps 300").await.unwrap();

    let lines = StepOptions { log_lines: Some(50), logs: Some(1 << 20), ..StepOptions::default() };
    let stopped = failure("flood_lines", limited(lines), "").await;
    assert_eq!(stopped.to_string(), "wrote more than its limit of 50 lines to stdout and stderr");

    // What stands behind a handle of a file holds more than what stands behind a timer's.
    let dir = tempfile::tempdir().unwrap();
    let files = granting(dirs([format!("ro:{}=/in", dir.path().display())]));
    for (options, most) in [(options(), 65_536), (files, 4_096)] {
        let stopped = failure("hoard_timers", options, "").await;
        let words =
            format!("held more handles of streams, timers, files and requests than its limit of {most}");
        assert_eq!((stopped.to_string(), stopped.class()), (words, FailureClass::Table));
    }

    for stack in [256 << 10, 512 << 10] {
        let stopped = failure("recurse", HostOptions { max_stack: stack, ..options() }, "").await;
        assert_eq!(stopped.to_string(), format!("needs more stack than the host's limit of {stack} bytes"));
        assert_eq!(stopped.class(), FailureClass::Stack);
    }
    for stack in [0, 65 << 20] {
        let error = host_with(&["good"], HostOptions { max_stack: stack, ..options() }).await.err().unwrap();
        let words = format!("max-stack is {stack} bytes, but must be from 65536 to 67108864");
        assert_eq!(error.to_string(), words);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_for_which_there_is_no_room_is_refused_with_what_to_lower() {
    let caps = Caps { memory: 64 << 30, ..Caps::default() };
    let error =
        host_with(&["good"], HostOptions { caps, max_instances: 4_000, ..options() }).await.err().unwrap();
    let said = error.to_string();
    let words = "lower `max-instances` (4000) or the cap on `memory` (68719476736 bytes)";
    assert!(said.starts_with("the WebAssembly engine cannot be made: ") && said.ends_with(words), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_of_too_many_parts_is_refused_with_the_numbers() {
    let many = |part: &str| {
        let instances = "(core instance (instantiate $m))".repeat(65);
        wat::parse_str(format!("(component (core module $m {part}) {instances})")).unwrap()
    };
    for (part, counted) in [("", "65 core module instances"), ("(memory 1)", "65 core module instances")] {
        let build = Host::builder().options(options()).module("many.wasm", many(part)).build().await;
        let Err(BuildError::Load(faults)) = build else { panic!("{part}") };
        let text = faults.to_string();
        let words = "module `many.wasm` is made of too many parts: at most 64 core instances, 4 memories and \
                     64 tables fit into one instance; ";
        assert!(text.starts_with(words) && text.contains(counted), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_defaults_grant_nothing() {
    let defaults = StepOptions { grants: Some(GrantOptions::default()), ..StepOptions::default() };
    let error = host_with(&["good"], HostOptions { defaults, ..options() }).await.err().unwrap();
    assert!(matches!(error, BuildError::DefaultGrants), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_is_granted_by_its_name_for_all_its_steps() {
    let env = |value: &str| {
        let env = BTreeMap::from([("REGION".to_owned(), value.to_owned())]);
        GrantOptions { env: Some(env), ..GrantOptions::default() }
    };
    let mut options = options();
    options.modules =
        vec![("look_*".parse().unwrap(), env("eu")), ("other.wasm".parse().unwrap(), env("us"))];
    let host = host_with(&["look_around"], options.clone()).await.unwrap();
    assert!(told(&host, "").await.unwrap().starts_with("env={\"REGION\": \"eu\"}"));
    let digest = docket_runtime::Digest::of(&fixture("look_around")).to_string();
    options.modules.push((digest.parse().unwrap(), env("digest")));
    let host = host_with(&["look_around"], options).await.unwrap();
    assert!(told(&host, "").await.unwrap().starts_with("env={\"REGION\": \"digest\"}"));
}

#[test]
fn the_page_about_the_sandbox_has_the_numbers_of_the_code() {
    use docket_graph::Policy;
    use docket_runtime::{DEFAULT_STACK, Digest, LEAST_STACK, MOST_STACK, TICK};
    let page = std::fs::read_to_string(docket_tests::repository().join("docs/sandbox.md")).unwrap();
    let host = HostOptions::default();
    let limits = host.effective(("a.wasm", &Digest::of(b"")), "A", &Policy::default()).limits;
    let Caps {
        timeout,
        memory,
        table_elements,
        output,
        logs,
        log_lines,
        open_files,
        dir_bytes,
        cpu,
        fuel,
        http_requests,
        http_bytes,
        http_concurrent,
        max_attempts: _,
        instance: _,
    } = host.caps;
    let time = |time: Duration| match time.as_secs() {
        hours if hours % 3600 == 0 => format!("{}h", hours / 3600),
        seconds => format!("{seconds}s"),
    };
    let size = |bytes: u64| {
        let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let (unit, shift) = units.into_iter().find(|(_, shift)| bytes >= 1 << shift).unwrap();
        format!("{} {unit}", bytes >> shift)
    };
    let none = || "none".to_owned();
    let count = |number: u64| number.to_string();
    assert_eq!((limits.cpu, cpu, limits.fuel, fuel), (None, None, None, None));
    let rows = [
        ("timeout", time(limits.timeout), time(timeout)),
        ("cpu", none(), none()),
        ("fuel", none(), none()),
        ("memory", size(limits.memory), size(memory)),
        ("table-elements", count(limits.table_elements), count(table_elements)),
        ("output-size", size(limits.output), size(output)),
        ("log-size", size(limits.logs), size(logs)),
        ("log-lines", count(limits.log_lines), count(log_lines)),
        ("open-files", count(limits.open_files), count(open_files)),
        ("dir-bytes", size(limits.dir_bytes), size(dir_bytes)),
        ("http-requests", count(limits.http.requests), count(http_requests)),
        ("http-bytes", size(limits.http.bytes), size(http_bytes)),
        ("http-concurrent", count(limits.http.concurrent), count(http_concurrent)),
    ];
    let found: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(found.len(), rows.len());
    for ((name, default, cap), line) in rows.into_iter().zip(found) {
        let row = format!("| `{name}` | {default} | {cap} | ");
        assert!(line.starts_with(&row), "{row}: {line}");
    }
    let [default, least, most] = [DEFAULT_STACK, LEAST_STACK, MOST_STACK].map(size);
    assert!(page.contains(&format!("`max-stack` ({default}; {least} to {most})")));
    assert!(page.contains(&format!("looked at every {} ms", TICK.as_millis())));
    // The numbers that stand in words elsewhere: of one component, and of its handles.
    assert!(page.contains("at most 64 core instances, 4 memories and 64 tables in one component"));
}
