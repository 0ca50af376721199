//! Places that cannot hold a store, or hold what is none: each has its sentence and its exit code, and
//! nothing that was there is touched.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use docket_tests::program::{Ended, Modules, command, docket_host, ended};
use docket_tests::stores::{Backend, Place};
use serde_json::Value;

/// The exit code of a store that cannot be used.
const STORE_CODE: i32 = 4;
const STORE: Option<i32> = Some(STORE_CODE);

fn chain() -> Modules {
    Modules::new("chain", "")
}

fn run(modules: &Modules, url: &str, told: &str) -> Ended {
    let input = format!(r#"{{"id":"{told}"}}"#);
    ended(&mut modules.command(url, ["run", "--input", &input]))
}

/// Returns a place that holds a store with the results of one execution.
fn used(backend: Backend, modules: &Modules) -> Place {
    let place = backend.place();
    let ended = run(modules, &place.url, "first");
    assert_eq!(ended.code, Some(0), "{backend:?}: {}", ended.err);
    place
}

#[track_caller]
fn check(ended: &Ended, sentence: &str) {
    assert_eq!(ended.code, STORE, "{ended:#?}");
    assert!(ended.out.is_empty(), "{ended:#?}");
    assert!(ended.err.contains(sentence), "`{sentence}` is not said: {ended:#?}");
    assert!(!ended.err.contains("panicked"), "{ended:#?}");
}

#[test]
fn a_directory_that_may_not_be_written_is_named() {
    let modules = chain();
    for backend in [Backend::Sled, Backend::Sqlite] {
        let place = backend.place();
        let closed = place.dir().join("closed");
        fs::create_dir(&closed).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
        let url = place.url.replace("/store", "/closed/store");
        let command = modules.command(&url, ["run", "--input", r#"{"id":"first"}"#]);
        let sentence = match backend {
            Backend::Sled => "because this user may not write there",
            _ => "its directory must be there and may be written",
        };
        check(&ended(&mut without_privileges(&command)), sentence);
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// Returns the command such that permissions hold even where the tests run as root.
fn without_privileges(command: &Command) -> Command {
    let mut bare = Command::new("setpriv");
    bare.args(["--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]);
    let root = fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    let mut wrapped = if root { bare } else { Command::new("env") };
    wrapped.arg(command.get_program()).args(command.get_args());
    copy_environment(command, &mut wrapped);
    wrapped
}

fn copy_environment(from: &Command, to: &mut Command) {
    for (name, value) in from.get_envs() {
        match value {
            Some(value) => to.env(name, value),
            None => to.env_remove(name),
        };
    }
}

#[test]
fn a_file_where_a_directory_should_be_is_named() {
    let modules = chain();
    let place = Backend::Sled.place();
    fs::write(place.dir().join("store"), "no directory").unwrap();
    check(&run(&modules, &place.url, "first"), "is not a directory");
    let place = Backend::Sqlite.place();
    fs::write(
        place.dir().join("store.db"),
        "this is no database, but long enough to be taken for one".repeat(40),
    )
    .unwrap();
    check(&run(&modules, &place.url, "first"), "is no SQLite database");
}

/// Fills a disk of so many MiB, run by run, until one cannot be kept any more. sled leaves a reserve free,
/// and stops before that.
fn disk_full(backend: Backend, mebibytes: u32, sentence: &str) {
    // Ends like the first run that cannot be kept; what was kept before must still be found then.
    let script = r#"
        mount -t tmpfs -o "size=$3m" tmpfs "$1" || exit 125
        i=0 code=0
        while [ $i -lt 300 ]; do
            "$2" run -q --execution-id "e$i" --input "{\"id\":\"$i\"}" >/dev/null 2>"$1/../err" || { code=$?; break; }
            i=$((i + 1))
            head -c $(($3 * 32768)) /dev/zero >"$1/filler$i" 2>/dev/null || :
        done
        cat "$1/../err" >&2
        rm -f "$1"/filler*
        "$2" run -q --execution-id e0 --input '{"id":"0"}' || exit 124
        exit $code
    "#;
    let ended = on_a_disk(backend, mebibytes, script);
    // A store that is full when it is opened is refused; one that fills up fails the step that it fails.
    assert!(matches!(ended.code, Some(1 | STORE_CODE)), "{backend:?}: {ended:#?}");
    assert!(ended.err.contains(sentence), "{backend:?}: {}", ended.err);
    assert!(ended.out.contains("\"name\": \"0\""), "{backend:?}: what was kept is still there: {ended:#?}");
    assert!(!ended.err.contains("panicked"), "{backend:?}: {}", ended.err);
}

/// Runs a script that is given a place for a disk, the program, and how many MiB that disk is to have; the store is
/// on it.
fn on_a_disk(backend: Backend, mebibytes: u32, script: &str) -> Ended {
    let modules = chain();
    let place = backend.place();
    let disk = place.dir().join("disk");
    fs::create_dir(&disk).unwrap();
    let url = place.url.replace("/store", "/disk/store");
    let wanted = modules.command(&url, [""; 0]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "--map-root-user", "sh", "-c", script, "sh"]).arg(&disk).arg(docket_host());
    command.arg(mebibytes.to_string());
    copy_environment(&wanted, &mut command);
    let ended = ended(&mut command);
    assert_ne!(ended.code, Some(125), "a disk of its own needs user namespaces: {}", ended.err);
    ended
}

#[test]
fn an_execution_that_a_full_disk_did_not_take_is_not_to_be_gone_on_with() {
    let script = r#"
        mount -t tmpfs -o "size=$3m" tmpfs "$1" || exit 125
        "$2" run -q --input '{"id":"0"}' >/dev/null || exit 124
        head -c $(($3 * 900000)) /dev/zero >"$1/filler"
        "$2" run -q --input '{"id":"1"}' && exit 123
        "$2" executions ls --format json
    "#;
    let ended = on_a_disk(Backend::Sled, 96, script);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert!(ended.err.contains("error: step `One` failed before its first attempt\n"), "{}", ended.err);
    assert!(!ended.err.contains("to go on with it"), "{}", ended.err);
    let recorded: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(recorded.as_array().map(Vec::len), Some(1), "{recorded}");
}

#[test]
fn a_full_disk_is_named_and_what_was_kept_stays_on_sled() {
    disk_full(Backend::Sled, 96, "the disk of the store");
}

#[test]
fn a_full_disk_is_named_and_what_was_kept_stays_on_sqlite() {
    disk_full(Backend::Sqlite, 6, "has no space left on its disk");
}

/// Overwrites a part of a file.
fn spoil(path: &Path, from: f64, length: usize) {
    let mut bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let start = (bytes.len() as f64 * from) as usize;
    let end = (start + length).min(bytes.len());
    bytes[start..end].fill(0xA5);
    fs::write(path, bytes).unwrap();
}

/// Returns a place that holds a sled store whose files of this name are spoilt from a part of them on.
fn spoilt(file: &str, from: f64, length: usize) -> Place {
    let modules = chain();
    let place = used(Backend::Sled, &modules);
    // A second process leaves a summary of the log.
    assert_eq!(run(&modules, &place.url, "second").code, Some(0));
    let files = place.dir().join("store").read_dir().unwrap().flatten().map(|file| file.path());
    let spoilt: Vec<_> =
        files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(file)).collect();
    assert!(!spoilt.is_empty(), "sled has no `{file}`");
    spoilt.iter().for_each(|path| spoil(path, from, length));
    place
}

#[test]
fn a_damaged_sled_directory_is_named_and_a_copy_of_it_is_kept() {
    let modules = chain();
    for (file, from, length) in [("db", 0.0, 16 << 10), ("db", 0.3, usize::MAX >> 1), ("snap.", 0.0, 64)] {
        let place = spoilt(file, from, length);
        let ended = run(&modules, &place.url, "first");
        assert!(matches!(ended.code, Some(0 | STORE_CODE)), "`{file}` from {from}: {ended:#?}");
        // Either nothing can be read, or it is said that something was mended.
        let sentence = if ended.code == STORE { "is damaged" } else { "the store was damaged" };
        assert!(ended.err.contains(sentence), "`{file}` from {from}: {ended:#?}");
        assert!(place.dir().join("store.damaged-1").is_dir(), "`{file}` from {from}");
    }
}

#[test]
fn a_sled_directory_that_has_lost_its_records_is_not_taken_for_an_empty_one() {
    let modules = chain();
    let place = spoilt("db", 0.0, usize::MAX >> 1);
    check(&run(&modules, &place.url, "first"), "is damaged");
}

#[test]
fn a_damaged_sqlite_file_is_named() {
    let modules = chain();
    let place = used(Backend::Sqlite, &modules);
    spoil(&place.dir().join("store.db"), 0.0, 100);
    check(&run(&modules, &place.url, "first"), "is no SQLite database");
}

#[test]
fn a_store_of_a_later_release_is_left_alone() {
    let modules = chain();
    let place = used(Backend::Sled, &modules);
    let db = sled::open(place.dir().join("store")).unwrap();
    db.insert("m/format", "7").unwrap();
    db.flush().unwrap();
    drop(db);
    check(&run(&modules, &place.url, "first"), "has the format 7, and this release reads 4");

    for backend in [Backend::Sqlite, Backend::Postgres, Backend::Mysql] {
        let place = used(backend, &modules);
        backend.sql(&place.url, "INSERT INTO docket_migration (version, applied_at) VALUES (99, 0)");
        check(&run(&modules, &place.url, "first"), "99");
    }
}

#[test]
fn a_server_that_is_not_there_is_named_without_its_password() {
    let modules = chain();
    for url in [
        "postgres://docket:hush@127.0.0.1:1/docket",
        "mysql://docket:hush@127.0.0.1:1/docket",
        "redis://:hush@127.0.0.1:1",
    ] {
        let ended = run(&modules, url, "first");
        check(&ended, "127.0.0.1:1");
        assert!(!ended.err.contains("hush"), "{}", ended.err);
    }
}

#[test]
fn an_unknown_execution_and_an_unknown_key_are_bad_input() {
    let place = used(Backend::Sled, &chain());
    for args in [&["resume", "nobody"][..], &["executions", "show", "nobody"], &["cache", "show", "ffff"]] {
        let ended = ended(&mut command(&place.url, args.iter().copied()));
        assert_eq!(ended.code, Some(2), "{args:?}: {ended:#?}");
    }
}
