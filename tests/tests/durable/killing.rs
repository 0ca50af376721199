//! Processes that are killed where they stand, again and again, and what their stores hold then: nothing
//! that was acknowledged is lost or changed, nothing is made twice, everything can be gone on with.

use std::collections::BTreeMap;
use std::time::Duration;

use docket_tests::program::{Ended, Modules, Running, command, ended};
use docket_tests::stores::{Backend, Place, Records, records, word};
use serde_json::Value;

/// Five steps in a chain; a lease that lapses soon, so that the dead hold nobody up for long.
pub(super) fn chain() -> Modules {
    Modules::new("chain", "[store]\nlease = \"1s\"\n")
}

/// Longer than the lease.
const LAPSED: Duration = Duration::from_millis(1_200);

/// How often a backend is killed: some in every run, hundreds where that is asked for.
fn kills() -> u32 {
    if std::env::var_os("DOCKET_TORTURE").is_some() { 300 } else { 15 }
}

/// Numbers that are the same in every run of one seed.
pub(super) struct Chance(pub(super) u64);

impl Chance {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Remembers what was promised over all kills, and checks that it is kept.
#[derive(Default)]
struct Ledger {
    /// The body of each result that was there, by its key.
    done: BTreeMap<String, String>,
    /// The number of each key's last start.
    starts: BTreeMap<String, u32>,
    /// How many results were said to be done by processes that were killed then.
    acknowledged: usize,
    /// What is wrong.
    faults: Vec<String>,
}

impl Ledger {
    /// Notes what a process said: which steps it started, under which keys, and which of them it said to be
    /// done. Returns the keys of the latter.
    fn hear(&mut self, said: &Ended) -> Vec<String> {
        let mut keys = BTreeMap::new();
        let mut acknowledged = Vec::new();
        for line in said.err.lines() {
            let Some((step, rest)) = line.split_once(": ") else { continue };
            if let Some((key, attempt)) = rest.strip_prefix("starts ").and_then(|start| start.split_once(' '))
            {
                self.started(key, attempt.parse().unwrap());
                keys.insert(step, key.to_owned());
            } else if rest == "done" {
                acknowledged.extend(keys.get(step).cloned());
            }
        }
        self.acknowledged += acknowledged.len();
        acknowledged
    }

    fn started(&mut self, key: &str, attempt: u32) {
        if self.done.contains_key(key) {
            self.faults.push(format!("{key} was done, and is started again"));
        }
        let last = self.starts.insert(key.to_owned(), attempt).unwrap_or_default();
        // A start may be counted and its process die before the step has said anything.
        if attempt <= last {
            self.faults.push(format!("attempt {attempt} of {key} follows attempt {last}"));
        }
    }

    /// Compares what the store holds now with all that was there or promised.
    fn look(&mut self, store: &Records, acknowledged: &[String]) {
        let results =
            store.iter().filter(|((kind, _), record)| kind == "result" && record["status"] == "done");
        let now: BTreeMap<_, _> =
            results.map(|((_, key), record)| (key.clone(), word(&record["body"]))).collect();
        for key in acknowledged {
            if !now.contains_key(key) {
                self.faults.push(format!("{key} was said to be done, and is lost"));
            }
        }
        for (key, body) in &self.done {
            match now.get(key) {
                None => self.faults.push(format!("{key} was there, and is lost")),
                Some(then) if then != body => self.faults.push(format!("{key} has changed")),
                Some(_) => {}
            }
        }
        self.done = now;
    }

    fn check(&self, backend: Backend) {
        assert!(self.faults.is_empty(), "{backend:?}: {:#?}", self.faults);
        assert!(self.acknowledged > 5, "{backend:?}: the kills came too early to lose anything");
    }
}

fn run(modules: &Modules, place: &Place, id: &str, told: &str) -> Running {
    let input = format!(r#"{{"id":"{told}"}}"#);
    let args = ["run", "-v", "-v", "--execution-id", id, "--input", &input];
    Running::start(&mut modules.command(&place.url, args))
}

fn resume(place: &Place, id: &str) -> Running {
    Running::start(&mut command(&place.url, ["resume", "-v", "-v", id]))
}

/// Goes on with every execution, and checks that each comes to its right end, and stays there.
fn all_come_to_their_end(place: &Place, told: &BTreeMap<String, String>, ledger: &mut Ledger) {
    std::thread::sleep(LAPSED);
    let all = ended(&mut command(&place.url, ["resume", "--all", "-v", "-v"]));
    assert_eq!(all.code, Some(0), "{}\n{}", all.out, all.err);
    let store = records(&place.url);
    ledger.look(&store, &[]);
    for (id, told) in told {
        let again = resume(place, id).ended();
        assert_eq!(again.code, Some(0), "{id}: {}", again.err);
        assert!(!again.err.contains("starts "), "{id} was over: {}", again.err);
        let result: Value = serde_json::from_str(&again.out).unwrap();
        assert_eq!(result["name"], told.as_str(), "{id}");
        let own = store.values().find(|record| {
            record["kind"] == "result" && record["step"] == "Five" && record["execution"] == id.as_str()
        });
        let key = word(&own.unwrap_or_else(|| panic!("{id} has a result of its own"))["key"]);
        assert_eq!(result["email"], key.repeat(64), "{id}");
    }
    let results = store.values().filter(|record| record["kind"] == "result").count();
    assert_eq!(results, told.len() * 5, "one result a step and input");
}

fn kill_at_random(backend: Backend) {
    let (modules, place) = (chain(), backend.place());
    let (mut chance, mut ledger) = (Chance(42), Ledger::default());
    let mut told = BTreeMap::<String, String>::new();
    for round in 0..kills() {
        let known: Vec<_> = told.keys().cloned().collect();
        // Every third process goes on with an earlier execution, perhaps one whose lease still holds.
        let process = if round % 3 == 2 {
            resume(&place, &known[chance.below(known.len() as u64) as usize])
        } else {
            let (id, words) = (format!("e{round}"), format!("sleeps-{}-in-{round}", chance.below(30)));
            let process = run(&modules, &place, &id, &words);
            told.insert(id, words);
            process
        };
        std::thread::sleep(Duration::from_millis(30 + chance.below(300)));
        let acknowledged = ledger.hear(&process.killed());
        ledger.look(&records(&place.url), &acknowledged);
    }
    ledger.check(backend);
    // One that was killed before it was recorded never began.
    let recorded = records(&place.url);
    told.retain(|id, _| {
        recorded.values().any(|record| record["kind"] == "execution" && record["execution"] == id.as_str())
    });
    assert!(told.len() > kills() as usize / 4, "{backend:?}: almost nothing was begun");
    all_come_to_their_end(&place, &told, &mut ledger);
    ledger.check(backend);
}

#[test]
fn no_kill_loses_or_repeats_what_sled_keeps() {
    kill_at_random(Backend::Sled);
}

#[test]
fn no_kill_loses_or_repeats_what_sqlite_keeps() {
    kill_at_random(Backend::Sqlite);
}

#[test]
fn no_kill_loses_or_repeats_what_postgres_keeps() {
    kill_at_random(Backend::Postgres);
}

#[test]
fn no_kill_loses_or_repeats_what_mysql_keeps() {
    kill_at_random(Backend::Mysql);
}

#[test]
fn no_kill_loses_or_repeats_what_redis_keeps() {
    kill_at_random(Backend::Redis);
}

/// Kills one process at the moment it has said so many lines: each line is a boundary of the journal, such
/// as a step that starts, has answered, is kept.
fn kill_at_every_line(backend: Backend) {
    let (modules, place) = (chain(), backend.place());
    let whole = run(&modules, &place, "whole", "whole").ended();
    assert_eq!(whole.code, Some(0), "{}", whole.err);
    let (lines, mut ledger, mut told) = (whole.err.lines().count(), Ledger::default(), BTreeMap::new());
    assert!(lines > 15, "an execution of five steps says more: {}", whole.err);
    for line in 1..=lines {
        let (id, words) = (format!("e{line}"), format!("sleeps-10-{line}"));
        let mut process = run(&modules, &place, &id, &words);
        process.says_lines(line);
        let acknowledged = ledger.hear(&process.killed());
        ledger.look(&records(&place.url), &acknowledged);
        told.insert(id, words);
    }
    // The first line is said before the execution is recorded.
    let recorded = records(&place.url);
    told.retain(|id, _| recorded.contains_key(&("execution".to_owned(), format!("default/{id}"))));
    assert!(told.len() + 2 >= lines, "only {} of {lines} are recorded", told.len());
    told.insert("whole".to_owned(), "whole".to_owned());
    all_come_to_their_end(&place, &told, &mut ledger);
    ledger.check(backend);
}

#[test]
fn a_kill_at_any_boundary_loses_and_repeats_nothing_on_sled() {
    kill_at_every_line(Backend::Sled);
}

#[test]
fn a_kill_at_any_boundary_loses_and_repeats_nothing_on_sqlite() {
    kill_at_every_line(Backend::Sqlite);
}

#[test]
fn a_kill_at_any_boundary_loses_and_repeats_nothing_on_postgres() {
    kill_at_every_line(Backend::Postgres);
}
