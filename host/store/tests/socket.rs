//! A store behind a socket keeps every promise of a store, whatever the other side does.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]
#![cfg(unix)]

mod contract;

use std::io::{Read, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use docket_store::{
    Abilities, Batch, Expect, Found, Kind, MemoryStore, Page, Query, RecordKey, Revision, SocketServer,
    SocketStore, Store, StoreError, StoreErrorKind, Sync, Timestamp, announce, holder, socket_path,
};
use prost::Message;
use tokio::task::JoinSet;

/// A store that is served, and the way to it.
struct Served {
    dir: tempfile::TempDir,
    server: SocketServer,
}

impl Served {
    fn start(store: Arc<dyn Store>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = SocketServer::start(store, &dir.path().join("s")).unwrap();
        Self { dir, server }
    }

    async fn connect(&self) -> SocketStore {
        SocketStore::connect(self.server.path()).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_behind_a_socket_keeps_the_contract() {
    let servers = Mutex::new(Vec::new());
    contract::all(async || {
        let served = Served::start(Arc::new(MemoryStore::new()));
        let store: Arc<dyn Store> = Arc::new(served.connect().await);
        servers.lock().unwrap().push(served);
        store
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_clients_are_one_store() {
    let served = Served::start(Arc::new(MemoryStore::new()));
    contract::shared(Arc::new(served.connect().await), Arc::new(served.connect().await)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_client_and_the_holder_are_one_store() {
    let store = MemoryStore::new();
    let served = Served::start(Arc::new(store.clone()));
    contract::shared(Arc::new(store), Arc::new(served.connect().await)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn thousands_of_waiters_hold_no_call_up() {
    let served = Served::start(Arc::new(MemoryStore::new()));
    let store = Arc::new(served.connect().await);
    let mut tasks = JoinSet::new();
    for n in 0..3000 {
        let store = store.clone();
        let key = contract::key(&format!("awaited-{n}"));
        tasks.spawn(async move { store.changed(Kind::Result, &key, Duration::from_secs(60)).await });
    }
    for n in 0..1000 {
        let store = store.clone();
        tasks.spawn(async move {
            let record = contract::record(&format!("k-{n}"), 1);
            contract::write(&*store, vec![contract::put(&record, Expect::Absent)]).await;
            contract::assert_holds(&*store, &record, "beside the waiters").await;
        });
    }
    let both = async {
        while tasks.len() > 3000 {
            tasks.join_next().await.unwrap().unwrap()
        }
    };
    tokio::time::timeout(Duration::from_secs(4), both).await.expect("calls wait for waiters");
}

/// A store whose calls never end.
struct Stuck;

#[async_trait::async_trait]
impl Store for Stuck {
    fn abilities(&self) -> Abilities {
        MemoryStore::new().abilities()
    }
    async fn get(&self, _: Kind, _: &RecordKey) -> Result<Found, StoreError> {
        std::future::pending().await
    }
    async fn commit(&self, _: Batch) -> Result<(), StoreError> {
        std::future::pending().await
    }
    async fn scan(&self, _: &Query, _: usize) -> Result<Page, StoreError> {
        std::future::pending().await
    }
    async fn changed(&self, _: Kind, _: &RecordKey, _: Duration) {
        std::future::pending().await
    }
    async fn sync(&self) -> Result<(), StoreError> {
        std::future::pending().await
    }
    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_holder_that_goes_leaves_commits_unknown_and_reads_unavailable() {
    let served = Served::start(Arc::new(Stuck));
    let store = Arc::new(served.connect().await);
    let record = contract::record("k", 1);
    let (reader, writer, waiter) = (store.clone(), store.clone(), store.clone());
    let (to_read, to_write, awaited) = (record.key.clone(), record.clone(), record.key.clone());
    let mut reading = JoinSet::new();
    reading.spawn(async move { reader.get(Kind::Result, &to_read).await.map(drop) });
    let mut writing = JoinSet::new();
    writing.spawn(
        async move { contract::commit(&*writer, vec![contract::put(&to_write, Expect::Absent)]).await },
    );
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { waiter.changed(Kind::Result, &awaited, Duration::from_secs(60)).await });
    contract::pause(Duration::from_millis(100)).await;
    let path = served.server.path().to_owned();
    tokio::task::spawn_blocking(move || served.server.shutdown()).await.unwrap();
    assert!(!path.exists(), "the socket is removed");

    let kind = |answer: Result<(), StoreError>| answer.unwrap_err().kind();
    assert_eq!(kind(reading.join_next().await.unwrap().unwrap()), StoreErrorKind::Unavailable);
    assert_eq!(kind(writing.join_next().await.unwrap().unwrap()), StoreErrorKind::Unknown);
    waiting.join_next().await.unwrap().unwrap();
    let later = contract::commit(&*store, vec![contract::put(&record, Expect::Absent)]).await;
    assert_eq!(kind(later), StoreErrorKind::Unavailable, "nothing was sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_client_finds_the_next_holder_by_itself() {
    let memory = MemoryStore::new();
    let Served { dir, server } = Served::start(Arc::new(memory.clone()));
    let path = server.path().to_owned();
    let store = SocketStore::connect(&path).await.unwrap();
    let record = contract::record("k", 1);
    contract::write(&store, vec![contract::put(&record, Expect::Absent)]).await;
    server.shutdown();
    let _next = SocketServer::start(Arc::new(memory), &path).unwrap();
    contract::assert_holds(&store, &record, "by the next holder").await;
    drop(dir);
}

#[tokio::test]
async fn closing_a_client_leaves_the_holders_store_open() {
    let memory = MemoryStore::new();
    let served = Served::start(Arc::new(memory.clone()));
    let store = served.connect().await;
    store.close().await.unwrap();
    store.close().await.unwrap();
    assert_eq!(store.sync().await.unwrap_err().kind(), StoreErrorKind::Unavailable);
    memory.sync().await.unwrap();
}

#[test]
fn only_its_user_reaches_the_socket_and_only_a_dead_one_is_replaced() {
    let served = Served::start(Arc::new(MemoryStore::new()));
    let path = served.server.path();
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    let start = |path: &Path| SocketServer::start(Arc::new(MemoryStore::new()), path);
    assert_eq!(start(path).unwrap_err().kind(), StoreErrorKind::InUse);

    let stale = served.dir.path().join("stale");
    drop(UnixListener::bind(&stale).unwrap());
    assert!(stale.exists());
    drop(start(&stale).unwrap());

    let file = served.dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let error = start(&file).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unusable);
    assert!(error.to_string().contains("there is a file in its place"), "{error}");
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    let error = start(&served.dir.path().join("none/s")).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unusable, "{error}");
}

/// The version of the protocol.
const VERSION: u32 = 2;

/// The greeting, as it must stay for every version to understand.
#[derive(Clone, PartialEq, Message)]
struct Greeting {
    #[prost(string, tag = "1")]
    word: String,
    #[prost(uint32, tag = "2")]
    version: u32,
    #[prost(message, optional, tag = "3")]
    abilities: Option<Able>,
}

#[derive(Clone, PartialEq, Message)]
struct Able {
    #[prost(string, tag = "1")]
    scheme: String,
    #[prost(uint32, tag = "2")]
    durability: u32,
    #[prost(uint64, tag = "3")]
    max_body: u64,
}

fn greeting(version: u32) -> Vec<u8> {
    let abilities = Some(Able { scheme: "sled".to_owned(), durability: 4, max_body: 1 << 20 });
    frame(&Greeting { word: "docket-store".to_owned(), version, abilities }.encode_to_vec(), 0)
}

/// Returns a frame that announces so many bytes of bodies, without them.
fn frame(message: &[u8], bodies: u32) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&length.to_be_bytes(), &bodies.to_be_bytes(), message].concat()
}

/// Reads one frame without bodies.
fn read_frame(from: &mut UnixStream) -> Option<Vec<u8>> {
    let mut lengths = [0; 8];
    from.read_exact(&mut lengths).ok()?;
    let length = u32::from_be_bytes(lengths[..4].try_into().unwrap());
    let mut message = vec![0; length as usize];
    from.read_exact(&mut message).ok()?;
    Some(message)
}

/// Returns a holder that greets with these bytes, and after that answers the first call with those and
/// ends; and its thread.
fn fake_holder(dir: &Path, greets: Vec<u8>, answers: Option<Vec<u8>>) -> (PathBuf, JoinHandle<()>) {
    let path = dir.join("fake");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_frame(&mut stream).unwrap();
        stream.write_all(&greets).unwrap();
        if let Some(answers) = answers {
            read_frame(&mut stream).unwrap();
            stream.write_all(&answers).unwrap();
        }
    });
    (path, thread)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_of_another_version_is_refused_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let (path, thread) = fake_holder(dir.path(), greeting(VERSION + 1), None);
    let error = SocketStore::connect(&path).await.err().unwrap();
    assert_eq!(error.kind(), StoreErrorKind::Unusable);
    assert!(
        error.to_string().contains("its holder speaks version 3 of the protocol, and this process 2"),
        "{error}"
    );
    thread.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn something_else_on_the_socket_is_no_holder() {
    for greets in
        [b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), frame(b"", 0), frame(b"\x0a\x03abc", 0), vec![0]]
    {
        let dir = tempfile::tempdir().unwrap();
        let (path, thread) = fake_holder(dir.path(), greets, None);
        let error = SocketStore::connect(&path).await.err().unwrap();
        assert!(matches!(error.kind(), StoreErrorKind::Unusable | StoreErrorKind::Unavailable), "{error}");
        thread.join().unwrap();
    }
    let error = SocketStore::connect(Path::new("none")).await.err().unwrap();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_killed_in_the_middle_of_a_commit_leaves_it_unknown() {
    // It ends without an answer, in the middle of one, and after one that says nothing.
    for answers in [Vec::new(), vec![0, 0, 0, 9, 0, 0, 0, 0, 8], frame(b"\x08\x01", 0)] {
        let dir = tempfile::tempdir().unwrap();
        let (path, thread) = fake_holder(dir.path(), greeting(VERSION), Some(answers));
        let store = SocketStore::connect(&path).await.unwrap();
        assert_eq!(store.abilities().max_body, 1 << 20);
        let record = contract::record("k", 1);
        let writes = vec![contract::put(&record, Expect::Revision(Revision(0)))];
        let error = store.commit(Batch { writes, sync: Sync::Now }).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unknown, "{error}");
        thread.join().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_another_version_is_told_ours_and_let_go() {
    let served = Served::start(Arc::new(MemoryStore::new()));
    let mut client = UnixStream::connect(served.server.path()).unwrap();
    client.write_all(&greeting(7)).unwrap();
    let told = Greeting::decode(&*read_frame(&mut client).unwrap()).unwrap();
    assert_eq!((told.word.as_str(), told.version), ("docket-store", VERSION));
    assert_eq!(read_frame(&mut client), None, "the conversation is over");
}

/// Sends these bytes, with a greeting before them or not, and returns whether the holder hung up.
fn send(path: &Path, greets: bool, bytes: &[u8]) -> bool {
    let mut client = UnixStream::connect(path).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    if greets {
        client.write_all(&greeting(VERSION)).unwrap();
        read_frame(&mut client).unwrap();
    }
    // The holder may hang up before it has read all.
    let _ = client.write_all(bytes);
    matches!(client.read(&mut [0; 64]), Ok(0)) || client.write_all(&[0; 8]).is_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_bytes_neither_stop_the_holder_nor_fill_its_memory() {
    let served = Served::start(Arc::new(MemoryStore::new()));
    let path = served.server.path();
    let record = contract::record("k", 1);
    let store = served.connect().await;
    contract::write(&store, vec![contract::put(&record, Expect::Absent)]).await;
    let before = resident();

    assert!(send(path, false, b"GET / HTTP/1.1\r\n\r\n"), "no greeting");
    assert!(send(path, true, &[0xff; 8]), "a message of 4 GiB");
    assert!(send(path, true, &frame(b"", 0xffff_ffff)), "bodies of 4 GiB");
    assert!(send(path, true, &frame(&[0xff; 100], 0)), "no message");
    assert!(!send(path, true, &frame(b"\x08\x01", 0)), "a call for nothing is answered");
    // A batch of a million writes that say nothing.
    let empty = [b"\x1a\x80\x89\x7a".as_slice(), &[0x0a, 0].repeat(1_000_000)].concat();
    assert!(!send(path, true, &frame(&empty, 0)), "it is answered");
    let mut open = Vec::new();
    for _ in 0..8 {
        let mut client = UnixStream::connect(path).unwrap();
        client.write_all(&greeting(VERSION)).unwrap();
        client.write_all(&frame(&[0; 100], 64 << 20)).unwrap();
        open.push(client);
    }
    let random = contract::body(64 << 10, 99);
    for chunk in random.chunks(997) {
        send_only(path, chunk);
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 512 << 20, "{grown} bytes");
    contract::assert_holds(&store, &record, "the holder still answers").await;
}

fn send_only(path: &Path, bytes: &[u8]) {
    let mut client = UnixStream::connect(path).unwrap();
    client.write_all(&greeting(VERSION)).unwrap();
    // The holder may hang up before it has read all.
    let _ = client.write_all(bytes);
}

/// Returns how much memory this process has, in bytes.
fn resident() -> usize {
    let told = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    told.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or_default() * 4096
}

#[test]
fn a_note_names_the_holder_for_as_long_as_it_lives() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(holder(dir.path()), None);
    let socket = socket_path(dir.path()).unwrap();
    let announced = announce(dir.path(), &socket, Timestamp(42)).unwrap();
    let found = holder(dir.path()).unwrap();
    assert_eq!(
        (found.pid, found.socket, found.started_at),
        (std::process::id(), socket.clone(), Timestamp(42))
    );
    // The next holder's note outlives the first one.
    let next = announce(dir.path(), &socket, Timestamp(43)).unwrap();
    drop(announced);
    assert_eq!(holder(dir.path()).unwrap().started_at, Timestamp(43));
    drop(next);
    assert_eq!(holder(dir.path()), None);
    std::fs::write(dir.path().join("docket.json"), "{\"pid\": ").unwrap();
    assert_eq!(holder(dir.path()), None, "half a note");
    let error = announce(&dir.path().join("none"), &socket, Timestamp(1)).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unusable, "{error}");
}

#[test]
fn a_directory_with_a_long_path_has_a_socket_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(socket_path(dir.path()).unwrap(), dir.path().canonicalize().unwrap().join("docket.sock"));
    let (one, other) = (dir.path().join("a".repeat(120)), dir.path().join("b".repeat(120)));
    std::fs::create_dir(&one).unwrap();
    std::fs::create_dir(&other).unwrap();
    let socket = socket_path(&one).unwrap();
    assert!(socket.as_os_str().len() <= 103, "{}", socket.display());
    assert_ne!(socket, socket_path(&other).unwrap());
    drop(SocketServer::start(Arc::new(MemoryStore::new()), &socket).unwrap());
    assert_eq!(socket_path(&dir.path().join("none")).unwrap_err().kind(), StoreErrorKind::Unusable);
}
