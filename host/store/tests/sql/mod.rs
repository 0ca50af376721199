//! What the tests of the SQL stores share: the servers' URLs, servers of their own that may be killed,
//! lines that break, and the checks that are the same on every server. Knows no SQL.

#![allow(dead_code, reason = "not every store's tests use every part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use docket_store::{
    Batch, Expect, Kind, Revision, Scope, Store, StoreError, StoreErrorKind, Sync, Timestamp, Write,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::contract::{self, assert_holds, body, commit, key, put, record, running, write};

/// Returns the URL of the tests' server.
#[expect(clippy::disallowed_methods, reason = "the edge of a test is the test")]
pub(crate) fn server(variable: &str) -> String {
    let run = || panic!("{variable} is not set: run `make test`, or this test below `tests/servers.sh run`");
    std::env::var(variable).unwrap_or_else(|_| run())
}

/// Returns a name that no other test has.
pub(crate) fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A server of one test's own.
pub(crate) struct OwnServer {
    name: &'static str,
    dir: PathBuf,
    pub url: String,
    _keep: tempfile::TempDir,
}

impl OwnServer {
    pub(crate) fn start(name: &'static str) -> Self {
        let keep = tempfile::tempdir().unwrap();
        let dir = keep.path().join(name);
        let url = script(&["start", name, dir.to_str().unwrap()]);
        Self { name, dir, url, _keep: keep }
    }

    /// Kills the server where it stands.
    pub(crate) fn kill(&self) {
        script(&["kill", self.dir.to_str().unwrap()]);
    }

    /// Starts it again, on the same data and port.
    pub(crate) fn restart(&self) {
        assert_eq!(script(&["start", self.name, self.dir.to_str().unwrap()]), self.url);
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        script(&["stop", self.dir.to_str().unwrap()]);
    }
}

fn script(args: &[&str]) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/servers.sh");
    let output = Command::new(path).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Opens the store in two processes and many tasks at once; each must find or make the same tables.
/// `open_one` is the test that a child runs, with the URL in its environment.
pub(crate) async fn migrated_by_many_at_once<S: Store>(
    url: &str,
    open_one: &str,
    connect: impl AsyncFn(String) -> Result<S, StoreError>,
) {
    let mut children: Vec<_> = (0..2)
        .map(|_| {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", open_one, "--ignored", "--nocapture"]).env("DOCKET_TEST_OPEN", url);
            child.spawn().unwrap()
        })
        .collect();
    let opened = (0..6).map(|_| connect(url.to_owned()));
    let stores: Vec<S> =
        futures_util::future::join_all(opened).await.into_iter().map(Result::unwrap).collect();
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    let written = record("migrated", 1);
    write(&stores[0], vec![put(&written, Expect::Absent)]).await;
    for store in &stores {
        assert_holds(store, &written, "all have the same tables").await;
        store.close().await.unwrap();
    }
}

/// Panics unless connecting fails like this, without showing a password.
#[track_caller]
pub(crate) fn assert_refused<S>(answer: Result<S, StoreError>, kind: StoreErrorKind, says: &str) {
    let error = answer.err().expect("it connects");
    let said = error.to_string();
    assert_eq!(error.kind(), kind, "{said}");
    assert!(said.contains(says), "`{said}` does not say `{says}`");
    assert!(!said.contains("secret"), "{said}");
}

/// A batch whose caller goes away in the middle is written whole or not at all, and the store goes on.
pub(crate) async fn a_dropped_commit_is_never_half_written(store: Arc<dyn Store>) {
    let mut tasks = JoinSet::new();
    for task in 0..8_u64 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            for round in 0..40_u64 {
                let pair = ["a", "b", "c"].map(|name| record(&format!("{task}/{round}/{name}"), 1));
                let writes = pair.iter().map(|record| put(record, Expect::Absent)).collect();
                let patience = Duration::from_micros(150 * round);
                // Written or not, in time or not: the records tell.
                let _ = tokio::time::timeout(patience, commit(&*store, writes)).await;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    // What nobody waits for any more is still being written.
    contract::pause(Duration::from_millis(500)).await;
    for task in 0..8 {
        for round in 0..40 {
            let mut there = Vec::new();
            for name in ["a", "b", "c"] {
                let key = key(&format!("{task}/{round}/{name}"));
                there.push(store.get(Kind::Result, &key).await.unwrap().record.is_some());
            }
            assert!(there.iter().all(|one| *one == there[0]), "{task}/{round}: {there:?}");
        }
    }
}

/// What becomes of batches and readings when the line breaks. `end` is what ends a transaction, as it
/// goes over the line.
pub(crate) async fn a_lost_line_is_told(proxy: &Proxy, store: &dyn Store, end: &str) {
    let first = record("first", 1);
    write(store, vec![put(&first, Expect::Absent)]).await;

    let lost = record("lost/one", 1);
    proxy.swallow_answer_to("lost/one");
    let error = commit(store, vec![put(&lost, Expect::Absent)]).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unknown, "{error}");
    assert_holds(store, &lost, "the server had it").await;

    let [a, b] = ["lost/pair", "lost/pair2"].map(|name| record(name, 1));
    proxy.swallow_answer_to(end);
    let error = commit(store, vec![put(&a, Expect::Absent), put(&b, Expect::Absent)]).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unknown, "{error}");
    for record in [&a, &b] {
        assert_holds(store, record, "the server had both").await;
    }

    // Lost before the end of the transaction was sent, nothing was written, and it is done again.
    let [c, d] = ["cut/pair", "cut/pair2"].map(|name| record(name, 1));
    proxy.swallow_answer_to("cut/pair2");
    write(store, vec![put(&c, Expect::Absent), put(&d, Expect::Absent)]).await;
    for record in [&c, &d] {
        assert_holds(store, record, "done again").await;
    }

    proxy.swallow_answer_to("first");
    assert_holds(store, &first, "asked again on a new connection").await;

    proxy.refuse().await;
    let error = store.get(Kind::Result, &first.key).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
    let error = commit(store, vec![put(&record("first", 2), Expect::Any)]).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "nothing was sent: {error}");
    proxy.pass();
    assert_holds(store, &first, "the server is back").await;
}

/// Returns records such as people ask for.
pub(crate) fn example(now: Timestamp) -> Vec<Write> {
    let minutes = |minutes: u64| Some(Timestamp(now.0 - minutes * 60_000));
    let mut done = record("done", 1);
    done.facts.step = Some("Resize".into());
    done.facts.execution = Some("e-1".into());
    done.facts.scope = Some(Scope::Global);
    done.facts.attempts = 2;
    (done.facts.started_at, done.facts.finished_at) = (minutes(3), minutes(1));
    done.body = body(5_000, 1);
    let mut busy = running("busy", 1, Timestamp(now.0 + 60_000));
    busy.facts.started_at = minutes(2);
    let mut slow = running("slow", 1, Timestamp(now.0 + 60_000));
    slow.facts.started_at = minutes(11);
    let mut dead = running("dead", 1, Timestamp(now.0 - 1_000));
    dead.facts.started_at = minutes(5);
    let mut execution = record("acme/e-1", 1);
    (execution.kind, execution.facts.execution) = (Kind::Execution, Some("e-1".into()));
    let mut step = record("acme/e-1/Resize", 1);
    (step.kind, step.facts.execution) = (Kind::Step, Some("e-1".into()));
    (step.facts.step, step.facts.module) = (Some("Resize".into()), Some("abc".into()));
    [done, busy, slow, dead, execution, step].iter().map(|record| put(record, Expect::Absent)).collect()
}

/// What people ask of the example, and what each row of the answer says.
pub(crate) const QUESTIONS: &[(&str, &str)] = &[
    (
        "SELECT result_key, step_name, output_bytes, attempts FROM docket_results WHERE status = 'done'",
        "done Resize 5000 2",
    ),
    ("SELECT execution_id, status FROM docket_executions", "e-1 done"),
    ("SELECT execution_id, step_name, module_digest FROM docket_steps", "e-1 Resize abc"),
    (
        "SELECT record_key, running_seconds / 60 * 60, lease_expired FROM docket_stuck",
        "dead 300 1; slow 660 0",
    ),
    (
        "SELECT count(*) FROM docket_results WHERE created_at < '2027-01-01' AND created_at > '2026-01-01'",
        "4",
    ),
];

/// Kills the server again and again under load: what was confirmed is there, and nothing is half there.
pub(crate) async fn a_killed_server_keeps_what_it_confirmed(server: &OwnServer, store: Arc<dyn Store>) {
    let mut confirmed = Vec::new();
    for round in 0..2_u64 {
        let mut writers = JoinSet::new();
        for writer in 0..6_u64 {
            let store = Arc::clone(&store);
            writers.spawn(async move {
                let mut confirmed = Vec::new();
                for n in 0..100_000_u64 {
                    let one = record(&format!("{round}/{writer}/{n}/one"), 1);
                    let mut two = record(&format!("{round}/{writer}/{n}/two"), 1);
                    two.body = body(2_000, n);
                    let batch = Batch {
                        writes: vec![put(&one, Expect::Absent), put(&two, Expect::Absent)],
                        sync: Sync::Now,
                    };
                    match store.commit(batch).await {
                        Ok(()) => confirmed.push((one, two)),
                        Err(error) => {
                            let lost = [StoreErrorKind::Unavailable, StoreErrorKind::Unknown];
                            assert!(lost.contains(&error.kind()), "{error}");
                            break;
                        }
                    }
                }
                confirmed
            });
        }
        contract::pause(Duration::from_millis(700)).await;
        server.kill();
        while let Some(done) = writers.join_next().await {
            let done = done.unwrap();
            assert!(!done.is_empty(), "nobody was at work when the server was killed");
            confirmed.extend(done);
        }
        server.restart();
    }
    for (one, two) in &confirmed {
        assert_holds(&*store, one, "confirmed").await;
        assert_holds(&*store, two, "confirmed").await;
    }
    let after = record("after", 1);
    write(&*store, vec![put(&after, Expect::Absent)]).await;
    write(&*store, vec![contract::delete(&after, Expect::Revision(Revision(1)))]).await;
}

const PASS: u8 = 0;
const SWALLOW: u8 = 1;
const REFUSE: u8 = 2;

/// Stands between a store and its server.
pub(crate) struct Proxy {
    pub address: String,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct State {
    mode: AtomicU8,
    /// Whose answer is swallowed.
    word: std::sync::Mutex<String>,
}

impl Proxy {
    /// Returns a proxy before the server of this address, `host:port`.
    pub(crate) async fn start(server: &str) -> Self {
        let target = server.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (state, mut tasks) = (Arc::<State>::default(), JoinSet::new());
        let states = Arc::clone(&state);
        tasks.spawn(async move {
            let mut lines = JoinSet::new();
            loop {
                let (here, _) = listener.accept().await.unwrap();
                if states.mode.load(Ordering::SeqCst) != REFUSE {
                    let there = TcpStream::connect(&target).await.unwrap();
                    lines.spawn(pass(here, there, Arc::clone(&states)));
                }
            }
        });
        Self { address, state, _tasks: tasks }
    }

    /// The next request with this word reaches the server, its answer nobody, and the line breaks.
    pub(crate) fn swallow_answer_to(&self, word: &str) {
        *self.state.word.lock().unwrap() = word.to_owned();
        self.state.mode.store(SWALLOW, Ordering::SeqCst);
    }

    /// Cuts every connection, and each new one.
    pub(crate) async fn refuse(&self) {
        self.state.mode.store(REFUSE, Ordering::SeqCst);
        contract::pause(Duration::from_millis(50)).await;
    }

    pub(crate) fn pass(&self) {
        self.state.mode.store(PASS, Ordering::SeqCst);
    }
}

impl State {
    /// Returns whether the answer to this request is to be swallowed.
    fn takes(&self, request: &[u8]) -> bool {
        let word = self.word.lock().unwrap();
        let meant = request.windows(word.len().max(1)).any(|at| at == word.as_bytes());
        meant && self.mode.compare_exchange(SWALLOW, PASS, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

async fn pass(here: TcpStream, there: TcpStream, state: Arc<State>) {
    let ((mut asks, mut answered), (mut answers, mut asked)) = (here.into_split(), there.into_split());
    let swallow = AtomicU8::new(0);
    let requests = async {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(read @ 1..) = asks.read(&mut bytes).await {
            if state.takes(&bytes[..read]) {
                swallow.store(1, Ordering::SeqCst);
            }
            if asked.write_all(&bytes[..read]).await.is_err() {
                return;
            }
        }
    };
    let replies = async {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(read @ 1..) = answers.read(&mut bytes).await {
            if swallow.load(Ordering::SeqCst) == 1 || answered.write_all(&bytes[..read]).await.is_err() {
                return;
            }
        }
    };
    let refused = async {
        while state.mode.load(Ordering::SeqCst) != REFUSE {
            contract::pause(Duration::from_millis(5)).await;
        }
    };
    tokio::select! { () = requests => {}, () = replies => {}, () = refused => {} }
}
