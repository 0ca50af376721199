//! Servers that die under load and come back, and clocks in other zones: every run ends right or says
//! what has failed, and can be gone on with; a time to live is the same everywhere.

use std::thread;
use std::time::Duration;

use docket_tests::program::{Modules, Running, command, ended};
use docket_tests::stores::{Backend, OwnServer, Place, records};
use serde_json::Value;

const PROCESSES: usize = 6;

fn told(process: usize) -> String {
    format!("sleeps-150-{process}")
}

fn run(modules: &Modules, place: &Place, process: usize) -> Running {
    let input = format!(r#"{{"id":"{}"}}"#, told(process));
    let id = format!("e{process}");
    Running::start(&mut modules.command(&place.url, ["run", "-v", "--execution-id", &id, "--input", &input]))
}

fn right(out: &str, process: usize) -> bool {
    serde_json::from_str::<Value>(out).is_ok_and(|result| result["name"] == told(process).as_str())
}

fn dies_under_load(backend: Backend, name: &'static str) {
    let modules = Modules::new("chain", "[store]\nlease = \"1s\"\n");
    let server = OwnServer::start(name);
    let place = backend.place_on(&server.url);
    let mut processes: Vec<_> = (0..PROCESSES).map(|process| run(&modules, &place, process)).collect();
    assert!(processes[0].says("Two: starts"), "{backend:?}");
    server.kill();
    thread::sleep(Duration::from_millis(500));
    server.restart();
    for (process, running) in processes.into_iter().enumerate() {
        let ended = running.ended();
        match ended.code {
            Some(0) => assert!(right(&ended.out, process), "{backend:?}: {ended:#?}"),
            Some(1 | 4) => {
                assert!(ended.err.contains("error: ") && ended.out.is_empty(), "{backend:?}: {ended:#?}")
            }
            _ => panic!("{backend:?}: {ended:#?}"),
        }
    }
    thread::sleep(Duration::from_millis(1_200));
    let recorded = records(&place.url);
    for process in 0..PROCESSES {
        let id = format!("e{process}");
        let ended = match recorded.contains_key(&("execution".to_owned(), format!("default/{id}"))) {
            true => ended(&mut command(&place.url, ["resume", &id])),
            // The server was gone before it could be recorded: it never began.
            false => run(&modules, &place, process).ended(),
        };
        assert!(ended.code == Some(0) && right(&ended.out, process), "{backend:?}: {ended:#?}");
    }
    let results = records(&place.url).values().filter(|record| record["kind"] == "result").count();
    assert_eq!(results, PROCESSES * 5, "{backend:?}: one result a step and input");
}

#[test]
fn runs_outlive_the_death_of_their_postgres_server_or_say_what_failed() {
    dies_under_load(Backend::Postgres, "postgres");
}

#[test]
fn runs_outlive_the_death_of_their_mysql_server_or_say_what_failed() {
    dies_under_load(Backend::Mysql, "mysql");
}

#[test]
fn runs_outlive_the_death_of_their_redis_server_or_say_what_failed() {
    dies_under_load(Backend::Redis, "redis");
}

const TTL: Duration = Duration::from_secs(3);

/// As far apart as zones are.
const ZONES: [&str; 3] = ["Pacific/Kiritimati", "America/Los_Angeles", "Etc/GMT+12"];

fn lives_as_long_in_every_zone(backend: Backend) {
    let config = "[step.FetchProfile]\npersistence = { scope = \"global\", ttl = \"3s\" }\n";
    let modules = Modules::new("obey", config);
    let place = backend.place();
    let (_, database) = place.url.rsplit_once('/').unwrap();
    match backend {
        Backend::Postgres => {
            backend
                .sql(&place.url, &format!("ALTER DATABASE {database} SET timezone TO 'Pacific/Kiritimati'"));
        }
        Backend::Mysql => backend.sql(&place.url, "SET GLOBAL time_zone = '+13:00'"),
        Backend::Sled | Backend::Sqlite | Backend::Redis => {}
    }
    let runs = |zone: &str| {
        let args = ["run", "-v", "-v", "--input", r#"{"id":"user-123"}"#];
        let ended = ended(modules.command(&place.url, args).env("TZ", zone));
        assert_eq!(ended.code, Some(0), "{backend:?}: {}", ended.err);
        ended.err.contains("attempt 1 started")
    };
    assert!(runs(ZONES[0]), "{backend:?}: nothing is kept yet");
    for zone in ZONES {
        assert!(!runs(zone), "{backend:?}: it is kept, also in {zone}");
    }
    thread::sleep(TTL);
    assert!(runs(ZONES[1]), "{backend:?}: it has expired, also in {}", ZONES[1]);
    assert!(!runs(ZONES[0]), "{backend:?}: and is kept again");
}

#[test]
fn a_time_to_live_is_the_same_in_every_zone() {
    thread::scope(|scope| {
        for backend in [Backend::Sled, Backend::Sqlite, Backend::Postgres, Backend::Mysql, Backend::Redis] {
            scope.spawn(move || lives_as_long_in_every_zone(backend));
        }
    });
}
