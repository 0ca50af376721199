//! What a step sees and reaches with and without grants, and that each limit on it acts.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot be set up has failed, and one takes the time"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
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

/// A directory with files, beside another that nobody granted.
fn tree() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| std::fs::write(root.path().join(path), text).unwrap();
    std::fs::create_dir_all(root.path().join("data/deep")).unwrap();
    std::fs::create_dir(root.path().join("out")).unwrap();
    write("secret", "not for steps");
    write("data/a", "text of a");
    write("data/deep/b", "text of b");
    let link =
        |target: &Path, path: &str| std::os::unix::fs::symlink(target, root.path().join(path)).unwrap();
    link(&root.path().join("secret"), "data/absolute");
    link(Path::new("../secret"), "data/relative");
    link(Path::new("../.."), "data/deep/up");
    link(Path::new("/"), "data/root");
    link(Path::new("deep/b"), "data/inner");
    link(Path::new("/etc/passwd"), "out/passwd");
    root
}

/// Checks what comes of each command, all in one attempt.
async fn check_files(host: &Host, cases: &[(&str, &str)]) {
    let commands: Vec<_> = cases.iter().map(|(command, _)| *command).collect();
    let results = told(host, &commands.join(";")).await.unwrap();
    for ((command, expected), found) in cases.iter().zip(results.split('|')) {
        assert_eq!(found, *expected, "{command}");
    }
    assert_eq!(results.split('|').count(), cases.len());
}

async fn host_of_tree(root: &Path) -> Host {
    let (data, out) = (root.join("data"), root.join("out"));
    let grants = dirs([format!("ro:{}", data.display()), format!("rw:{}=/written/here", out.display())]);
    host_with(&["handle_files"], granting(grants)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_read_and_nothing_beside_it_by_whatever_way() {
    let root = tree();
    let host = host_of_tree(root.path()).await;
    check_files(
        &host,
        &[
            ("read /data/a", "text of a"),
            ("read /data/deep/../a", "text of a"),
            ("read /data/inner", "text of b"),
            ("list /data/deep", "b,up"),
            ("read /data/../secret", "PermissionDenied"),
            ("read /data/deep/../../secret", "PermissionDenied"),
            ("read /data/absolute", "PermissionDenied"),
            ("read /data/relative", "PermissionDenied"),
            ("read /data/deep/up/secret", "PermissionDenied"),
            ("read /data/root/etc/passwd", "PermissionDenied"),
            ("list /data/root", "PermissionDenied"),
            ("list /data/..", "PermissionDenied"),
            ("size /data/absolute", "PermissionDenied"),
            ("read /written/here/passwd", "PermissionDenied"),
            ("append /written/here/passwd x", "PermissionDenied"),
            ("read /secret", "NotFound"),
            ("read /etc/passwd", "NotFound"),
            (&format!("read {}", root.path().join("secret").display()), "NotFound"),
        ],
    )
    .await;
    let nothing = host_with(&["handle_files"], options()).await.unwrap();
    check_files(&nothing, &[("read /data/a", "NotFound"), ("list /", "NotFound"), ("write x y", "NotFound")])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_granted_to_read_cannot_be_changed_in_any_way() {
    let root = tree();
    let listing = || {
        let entry = |entry: walkdir::DirEntry| {
            let found = entry.metadata().unwrap();
            let times = (found.modified().unwrap(), std::os::unix::fs::MetadataExt::nlink(&found));
            (entry.path().to_owned(), found.len(), times)
        };
        let walk = walkdir::WalkDir::new(root.path().join("data")).sort_by_file_name();
        walk.into_iter().map(|found| entry(found.unwrap())).collect::<Vec<_>>()
    };
    let before = listing();
    let host = host_of_tree(root.path()).await;
    let denied = "PermissionDenied";
    check_files(
        &host,
        &[
            ("write /data/a x", denied),
            ("write /data/new x", denied),
            ("create /data/new", denied),
            ("append /data/a x", denied),
            ("truncate /data/a 0", denied),
            ("mkdir /data/new", denied),
            ("rmdir /data/deep", denied),
            ("remove /data/a", denied),
            ("rename /data/a /data/z", denied),
            ("rename /data/a /written/here/a", denied),
            ("symlink a /data/z", denied),
            ("link /data/a /data/z", denied),
            ("link /data/a /written/here/a", denied),
            ("touch /data/a", denied),
            ("write /written/here/a x", "ok"),
            ("rename /written/here/a /data/z", denied),
            ("link /written/here/a /data/z", denied),
            ("read /data/a", "text of a"),
        ],
    )
    .await;
    assert_eq!(listing(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_granted_to_write_can_be_changed_and_leads_nowhere_else() {
    let root = tree();
    let host = host_of_tree(root.path()).await;
    check_files(
        &host,
        &[
            ("write /written/here/a one", "ok"),
            ("append /written/here/a two", "ok"),
            ("read /written/here/a", "onetwo"),
            ("truncate /written/here/a 3", "ok"),
            ("mkdir /written/here/deep", "ok"),
            ("rename /written/here/a /written/here/deep/b", "ok"),
            ("touch /written/here/deep/b", "ok"),
            ("link /written/here/deep/b /written/here/c", "ok"),
            ("symlink deep/b /written/here/d", "ok"),
            ("read /written/here/d", "one"),
            ("symlink /etc/passwd /written/here/e", "PermissionDenied"),
            ("symlink ../secret /written/here/e", "PermissionDenied"),
            ("symlink deep/../../secret /written/here/e", "PermissionDenied"),
            ("rename /written/here/c /written/here/../c", "PermissionDenied"),
            ("write /written/here/../c x", "PermissionDenied"),
            ("remove /written/here/c", "ok"),
            ("list /written/here", "d,deep,passwd"),
        ],
    )
    .await;
    assert_eq!(std::fs::read_to_string(root.path().join("out/deep/b")).unwrap(), "one");
    assert!(!root.path().join("c").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_takes_the_place_of_a_granted_directory_is_not_followed() {
    let root = tree();
    std::fs::create_dir(root.path().join("elsewhere")).unwrap();
    std::fs::write(root.path().join("elsewhere/a"), "not for steps").unwrap();
    std::os::unix::fs::symlink("elsewhere", root.path().join("link")).unwrap();
    // What the path names when the host starts may have links.
    std::os::unix::fs::symlink(root.path(), root.path().join("way")).unwrap();
    let grants = dirs([format!("rw:{}", root.path().join("way/data").display())]);
    let host = host_with(&["handle_files"], granting(grants)).await.unwrap();
    let words = "read /data/a;write /data/new x;list /data/deep;read /data/deep/b";
    assert_eq!(told(&host, words).await.unwrap(), "text of a|ok|b,up|text of b");

    let swap = |from: &str, to: &str| std::fs::rename(root.path().join(from), root.path().join(to)).unwrap();
    let (there, back) = ([("data", "aside"), ("link", "data")], [("data", "link"), ("aside", "data")]);
    there.iter().for_each(|(from, to)| swap(from, to));
    let failure = told(&host, words).await.unwrap_err();
    let place = root.path().canonicalize().unwrap().join("data");
    let place = place.display();
    let said = format!(
        "cannot be given what it was granted: `{place}` cannot be opened: `{place}` is a link, and was none when the host started"
    );
    assert_eq!(failure.to_string(), said);
    back.iter().for_each(|(from, to)| swap(from, to));

    // The same while attempts open it, and a directory within it.
    let over = AtomicBool::new(false);
    let (mut read, mut refused) = (0, 0);
    let handle = tokio::runtime::Handle::current();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let within = [("data/deep", "data/kept"), ("data/relative", "data/deep")];
            let restored = [("data/deep", "data/relative"), ("data/kept", "data/deep")];
            while !over.load(Ordering::Relaxed) {
                for (from, to) in there.into_iter().chain(back).chain(within).chain(restored) {
                    swap(from, to);
                    std::thread::yield_now();
                }
            }
        });
        let attempts = scope.spawn(|| {
            handle.block_on(async {
                // Whoever swaps may be held up in any state.
                while read < 50 || refused < 50 {
                    match told(&host, words).await {
                        Ok(found) => {
                            read += usize::from(found.starts_with("text of a"));
                            assert!(!found.contains("not for steps"), "{found}");
                        }
                        Err(failure) => {
                            refused += 1;
                            assert_eq!(failure.class(), FailureClass::Grant, "{failure}");
                        }
                    }
                }
            });
        });
        let ended = attempts.join();
        over.store(true, Ordering::Relaxed);
        ended.unwrap();
    });
    let outside = std::fs::read_dir(root.path().join("elsewhere")).unwrap();
    assert_eq!(outside.count(), 1, "nothing is written there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_neither_file_nor_directory_cannot_be_opened_and_holds_nobody_up() {
    let root = tree();
    let pipe = root.path().join("out/pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(root.path().join("out/socket")).unwrap();
    std::os::unix::fs::symlink("pipe", root.path().join("out/link")).unwrap();
    let host = host_of_tree(root.path()).await;
    let denied = "PermissionDenied";
    let began = std::time::Instant::now();
    check_files(
        &host,
        &[
            ("read /written/here/pipe", denied),
            ("append /written/here/pipe x", denied),
            ("read /written/here/link", denied),
            ("read /written/here/socket", denied),
            ("list /written/here", "link,passwd,pipe,socket"),
            ("remove /written/here/pipe", "ok"),
        ],
    )
    .await;
    assert!(began.elapsed() < Duration::from_secs(10));
    let devices = dirs(["ro:/dev".to_owned()]);
    let host = host_with(&["handle_files"], granting(devices)).await.unwrap();
    check_files(&host, &[("first 10 /dev/zero", denied), ("first 10 /dev/null", denied)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_files_and_what_is_written_are_limited_by_the_attempt() {
    let root = tree();
    let limits = |open_files, dir_bytes| StepOptions {
        open_files: Some(open_files),
        dir_bytes: Some(dir_bytes),
        grants: Some(dirs([format!("rw:{}=/out", root.path().join("out").display())])),
        ..StepOptions::default()
    };
    let run = async |open_files, dir_bytes, words: &str| {
        let host = host_with(&["handle_files"], limited(limits(open_files, dir_bytes))).await.unwrap();
        told(&host, words).await
    };
    std::fs::write(root.path().join("out/f"), "").unwrap();
    assert_eq!(run(10, 1 << 20, "hold 10 /out/f").await.unwrap(), "10 open");
    let failure = run(10, 1 << 20, "hold 11 /out/f").await.unwrap_err();
    assert_eq!(failure.to_string(), "held more files open than its limit of 10");
    assert_eq!(failure.class(), FailureClass::Files);
    assert_eq!(run(3, 1 << 20, "reopen 1000 /out/f").await.unwrap(), "ok", "what is closed is given back");
    // A new file counts 4 KiB by itself.
    assert_eq!(run(10, 104 << 10, "fill /out/new 100").await.unwrap(), "ok");
    // A hole takes no room here, and all of it where the file is copied to.
    assert_eq!(
        run(10, 104 << 10, "far /out/f 90000;far /out/f 90001;truncate /out/f 0").await.unwrap(),
        "ok|ok|ok"
    );
    let many = ["fill /out/other 101", "truncate /out/f 1000000", "fill /out/p 60;fill /out/q 60"];
    for words in
        many.into_iter().chain(["far /out/f 1000000", "far /out/f 60000;truncate /out/f 0;far /out/f 60000"])
    {
        let failure = run(10, 104 << 10, words).await.unwrap_err();
        assert_eq!(failure.to_string(), "wrote more than its limit of 106496 bytes into granted directories");
    }
    let many: Vec<_> = (0..30).map(|n| format!("create /out/{n}")).collect();
    assert!(matches!(run(10, 104 << 10, &many.join(";")).await, Err(StepFailure::DirBytes { .. })));
    assert_eq!(std::fs::metadata(root.path().join("out/f")).unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_write_and_to_hold_open_counts() {
    let run = async |open_files, dir_bytes, words: &str| {
        let root = tempfile::tempdir().unwrap();
        let step = StepOptions {
            open_files: Some(open_files),
            dir_bytes: Some(dir_bytes),
            grants: Some(dirs([format!("rw:{}=/out", root.path().display())])),
            ..StepOptions::default()
        };
        let host = host_with(&["handle_descriptors"], limited(step)).await.unwrap();
        told(&host, words).await.unwrap_or_else(|failure| failure.to_string())
    };
    // The file itself counts 4 KiB, and so does each entry.
    let room = 40 << 10;
    let written = format!("wrote more than its limit of {room} bytes into granted directories");
    for (word, enough, too_much) in [
        ("write", 36 << 10, (36 << 10) + 1),
        ("write-on", 36_860, 36_870),
        ("write-far", (36 << 10) - 1, 36 << 10),
        ("blocking-write", 36 << 10, (36 << 10) + 1),
        ("blocking-append", 36 << 10, (36 << 10) + 1),
        ("directories", 10, 11),
        ("hard-links", 9, 10),
        ("links", 10, 11),
    ] {
        assert_eq!(run(10, room, &format!("{word} {enough}")).await, "ok", "{word}");
        assert_eq!(run(10, room, &format!("{word} {too_much}")).await, written, "{word}");
    }
    for word in ["listings", "readers", "writers", "appenders"] {
        assert_eq!(run(9, 1 << 20, &format!("{word} 8")).await, "ok", "{word}");
        let failure = run(9, 1 << 20, &format!("{word} 10")).await;
        assert_eq!(failure, "held more files open than its limit of 9", "{word}");
    }
    for word in ["listings-in-turn", "readers-in-turn"] {
        assert_eq!(run(1, 1 << 20, &format!("{word} 20")).await, "ok", "{word}");
    }
    assert_eq!(run(1, 1 << 20, "read 18446744073709551615").await, "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_gone_fails_the_attempt_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let gone = dir.path().join("gone");
    let failure = failure("good", granting(dirs([format!("ro:{}", gone.display())])), "").await;
    let words = format!("cannot be given what it was granted: `{}` cannot be opened: ", gone.display());
    assert!(failure.to_string().starts_with(&words), "{failure}");
    assert_eq!(failure.class(), FailureClass::Grant);
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
