//! Runs every command that a README shows and compares what it prints. Owns no expectation: those
//! stand in the READMEs. `TRYCMD=overwrite` writes down what the program says now.

use std::path::{Path, PathBuf};
use std::process::Command;

use docket_tests::program::{artifacts, docket_host};
use docket_tests::repository;
use docket_tests::stores::{Backend, server};
use trycmd::TestCases;

/// Its README is proved by its own test, which talks HTTP.
const NOT_A_COMMAND: &str = "embedding";

/// What a README may call beside the program: tools that every Unix has, and the databases' own clients.
const TOOLS: [&str; 7] = ["ls", "mkdir", "timeout", "sleep", "sqlite3", "psql", "mariadb"];

/// What the commands of a README leave in its folder.
const LEFT: [&str; 2] = [".docket", "storage/films"];

/// The database that the READMEs name.
const DATABASE: &str = "docket_example";

/// One test and not one per example, because the folder that a command runs in is this process's.
#[test]
fn every_command_in_a_readme_prints_what_the_readme_says() {
    let examples = examples();
    assert!(examples.len() >= 18, "examples are missing: {examples:?}");
    for example in examples {
        check(&example, &example);
    }
    check(repository(), &repository().join("guests"));
}

/// Runs the commands of the README in a folder, there, over modules that are already compiled, and with
/// nothing kept by an earlier run.
fn check(folder: &Path, modules: &Path) {
    if is_built(modules) {
        warm_up(modules);
    }
    for left in LEFT.map(|left| folder.join(left)) {
        match std::fs::remove_dir_all(&left) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                panic!("{}: {error}", left.display())
            }
            _ => {}
        }
    }
    std::env::set_current_dir(folder).expect("the folder has a README");
    let cases = TestCases::new();
    cases.register_bin("docket-host", docket_host().as_path());
    cases.register_bins(TOOLS.map(|tool| (tool, on_path(tool))));
    cases.env("DOCKET_ARTIFACT_DIR", artifacts().to_string_lossy());
    // What a README keeps outside its folder is nobody's.
    let state = tempfile::tempdir().expect("a directory can be made");
    cases.env("XDG_STATE_HOME", state.path().to_string_lossy());
    cases.env("PATH", path());
    if let Some(libraries) = std::env::var_os("DOCKET_TEST_LIBRARIES").filter(|dirs| !dirs.is_empty()) {
        cases.env("LD_LIBRARY_PATH", libraries.to_string_lossy());
    }
    for (name, value) in environment(folder) {
        cases.env(name, value);
    }
    cases.case("README.md").run();
}

/// Returns where a tool is: a command that is not found would be passed over in silence.
fn on_path(tool: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(tool)).find(|file| file.is_file());
    found.unwrap_or_else(|| {
        panic!("`{tool}` is missing: run `make test`, or this test below `tests/servers.sh run`")
    })
}

/// Returns the paths of this process, with the program's before them: `timeout` looks for it there.
fn path() -> String {
    let own = docket_host().parent().expect("it lies in a folder").to_string_lossy().into_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    format!("{own}:{}", path.to_string_lossy())
}

/// Returns what the README of a server's example asks to be set, over a database that is empty.
fn environment(folder: &Path) -> Vec<(&'static str, String)> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    match &*name {
        "persistence_postgres" => {
            let url = server("DOCKET_TEST_POSTGRES");
            Backend::Postgres.sql(&url, &format!("DROP DATABASE IF EXISTS {DATABASE}"));
            Backend::Postgres.sql(&url, &format!("CREATE DATABASE {DATABASE}"));
            let Server { user, password, host, port } = Server::of(&url);
            let store = format!("postgres://{user}:{password}@{host}:{port}/{DATABASE}");
            let database = DATABASE.to_owned();
            let names = ["DOCKET_STORE", "PGUSER", "PGPASSWORD", "PGHOST", "PGPORT", "PGDATABASE"];
            names.into_iter().zip([store, user, password, host, port, database]).collect()
        }
        "persistence_mysql" => {
            let url = server("DOCKET_TEST_MYSQL");
            Backend::Mysql.sql(&url, &format!("DROP DATABASE IF EXISTS {DATABASE}"));
            Backend::Mysql.sql(&url, &format!("CREATE DATABASE {DATABASE}"));
            let Server { user, password, host, port } = Server::of(&url);
            let store = format!("mysql://{user}:{password}@{host}:{port}/{DATABASE}");
            let names = ["DOCKET_STORE", "MYSQL_PWD", "MYSQL_HOST", "MYSQL_TCP_PORT"];
            names.into_iter().zip([store, password, host, port]).collect()
        }
        "persistence_redis" => {
            let prefix = format!("{DATABASE}_{}", std::process::id());
            vec![("DOCKET_STORE", format!("{}?prefix={prefix}", server("DOCKET_TEST_REDIS")))]
        }
        _ => Vec::new(),
    }
}

/// The parts of a server's URL.
struct Server {
    user: String,
    password: String,
    host: String,
    port: String,
}

impl Server {
    fn of(url: &str) -> Self {
        let parts: Vec<&str> = url.split(['/', ':', '@']).filter(|part| !part.is_empty()).collect();
        let [_, user, password, host, port, _] = parts[..] else {
            panic!("`{url}` is no URL of a test server")
        };
        Self { user: user.into(), password: password.into(), host: host.into(), port: port.into() }
    }
}

/// Returns whether the folder is an example's own module, and not one more store below another's.
fn is_built(folder: &Path) -> bool {
    !folder.starts_with(repository().join("examples")) || folder.join("Cargo.toml").exists()
}

/// Compiles the modules, so that no command says that it does.
fn warm_up(modules: &Path) {
    let output = Command::new(docket_host())
        .args(["validate", "--module-dir"])
        .arg(modules)
        .arg("--artifact-dir")
        .arg(artifacts())
        .output()
        .expect("docket-host starts");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {complaint}; run `make modules` first", modules.display());
}

fn examples() -> Vec<PathBuf> {
    let folders = repository().join("examples").read_dir().expect("examples/ is there");
    let mut examples: Vec<_> = folders
        .map(|folder| folder.expect("examples/ can be read").path())
        .filter(|path| path.is_dir() && !path.ends_with(NOT_A_COMMAND))
        .collect();
    examples.sort();
    examples
}
