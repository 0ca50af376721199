//! The directories that a step was granted: what it reads and writes there, that no way leads beside them, and that what it
//! holds open and writes is counted.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use docket_graph::FailureClass;
use docket_runtime::{Host, StepFailure, StepOptions};
use docket_tests::{host_with, options};

use super::{dirs, failure, granting, limited, told};

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
