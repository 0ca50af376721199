//! Owns the serving side: the socket's file, the thread behind it, the clients and their calls. Never
//! changes what the store answers.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc as blocking};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::net::{UnixListener, UnixSocket, UnixStream, unix::OwnedReadHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::frame::{ANSWER, BODIES, CALL, Frame, GREETING, Lengths};
use super::wire::{Answer, Asked, Call, Failure, Greeting, Nothing, Records, Told, VERSION};
use crate::clock::{sleep, within};
use crate::error::{StoreError, StoreErrorKind};
use crate::store::Store;

/// How many clients are served at once: people's commands, and a few hosts that share the store.
const CLIENTS: usize = 64;

/// How many calls of one client are under way at once; what comes then waits on the socket.
const CALLS: usize = 256;

/// How many waits of one client are under way at once; what comes then is answered at once, which a
/// hint may be.
const WAITS: usize = 4096;

/// How long one wait lasts at most: its caller may be gone, and is not asked.
const WAIT: Duration = Duration::from_secs(5);

/// How many answers of one client wait to be written.
const ANSWERS: usize = 16;

/// How long a client may take for its greeting, and for the rest of a frame that it has begun.
const GREET: Duration = Duration::from_secs(5);
const REST: Duration = Duration::from_secs(30);

/// How long calls under way are waited for at the end.
const DRAIN: Duration = Duration::from_secs(2);

/// How many records one page has at most.
const PAGE: usize = 10_000;

/// Serves a store to other processes of the same user on this machine, until it is shut down or
/// dropped.
#[derive(Debug)]
pub struct SocketServer {
    path: PathBuf,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl SocketServer {
    /// Serves the store on the socket of this path, from a thread of its own. Only whoever holds the
    /// store does so: a socket that nobody answers on is replaced.
    ///
    /// # Errors
    /// `InUse` where somebody answers there, `Unusable` where the socket cannot be made.
    pub fn start(store: Arc<dyn Store>, path: &Path) -> Result<Self, StoreError> {
        clear(path)?;
        let (stop, stopped) = watch::channel(false);
        let (ready, begun) = blocking::channel();
        let at = path.to_owned();
        let serving = move || run(store, &at, stopped, &ready);
        let thread = std::thread::Builder::new().name("store-socket".to_owned()).spawn(serving);
        let thread = thread.map_err(|error| unusable(path, error))?;
        // From here on a drop removes the file and joins the thread.
        let server = Self { path: path.to_owned(), stop, thread: Some(thread) };
        match begun.recv() {
            Ok(Ok(())) => Ok(server),
            Ok(Err(error)) => Err(unusable(path, error)),
            Err(_) => Err(unusable(path, "its thread has ended")),
        }
    }

    /// Returns where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets nobody in any more, answers the calls under way for up to two seconds, and removes the
    /// socket. A commit whose answer is cut off is unknown to its caller.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl Drop for SocketServer {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(path = %self.path.display(), "the thread of the store's socket has panicked");
        }
    }
}

/// Makes room for the socket.
fn clear(path: &Path) -> Result<(), StoreError> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unusable(path, error)),
    };
    if !found.file_type().is_socket() {
        return Err(unusable(path, "there is a file in its place"));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => {
            let message = format!("another process serves a store on `{}`", path.display());
            Err(StoreError::new(StoreErrorKind::InUse, message))
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|error| unusable(path, error))
        }
        Err(error) => Err(unusable(path, error)),
    }
}

fn unusable(path: &Path, why: impl std::fmt::Display) -> StoreError {
    let message = format!("the socket `{}` cannot be made: {why}", path.display());
    StoreError::new(StoreErrorKind::Unusable, message)
}

/// The thread: says whether it listens, then serves until it is stopped.
fn run(
    store: Arc<dyn Store>,
    path: &Path,
    stopped: watch::Receiver<bool>,
    ready: &blocking::Sender<io::Result<()>>,
) {
    let begin = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let inside = runtime.enter();
        let listener = listen(path)?;
        drop(inside);
        Ok((runtime, listener))
    };
    match begin() {
        Ok((runtime, listener)) => {
            // Whoever started it waits for this.
            let _ = ready.send(Ok(()));
            let served = Arc::new(Served { store, memory: Arc::new(Semaphore::new(BODIES)) });
            runtime.block_on(accept(listener, &served, stopped));
            // Another process may have removed it already.
            let _ = std::fs::remove_file(path);
        }
        Err(error) => {
            let _ = ready.send(Err(error));
        }
    }
}

/// Listens on the path, where nobody else may connect at any moment: before it listens, nobody can.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    socket.listen(CLIENTS as u32)
}

/// What all clients share.
struct Served {
    store: Arc<dyn Store>,
    /// For the bodies of calls that are being read or done.
    memory: Arc<Semaphore>,
}

async fn accept(listener: UnixListener, served: &Arc<Served>, mut stopped: watch::Receiver<bool>) {
    let mut clients = JoinSet::new();
    loop {
        let stream = tokio::select! {
            () = stop(&mut stopped) => break,
            Some(_) = clients.join_next() => continue,
            accepted = listener.accept(), if clients.len() < CLIENTS => accepted,
        };
        match stream {
            Ok((stream, _)) => {
                clients.spawn(serve(stream, served.clone(), stopped.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "a client of the store's socket cannot be accepted");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    // Who takes longer is cut off.
    let _ = within(DRAIN, async { while clients.join_next().await.is_some() {} }).await;
}

async fn serve(stream: UnixStream, served: Arc<Served>, stopped: watch::Receiver<bool>) {
    let (mut reads, mut writes) = stream.into_split();
    let greeting = async {
        let lengths = Lengths::read(&mut reads, GREETING).await.ok()??;
        let (message, _) = lengths.read_rest(&mut reads).await.ok()?;
        let theirs = Greeting::read(message)?;
        let ours = Greeting::new(Some(&served.store.abilities()));
        Frame::new(&ours, Vec::new(), GREETING)?.write(&mut writes).await.ok()?;
        (theirs.version == VERSION).then_some(())
    };
    // Who speaks another version has been told ours; who speaks something else is told nothing.
    let Some(Some(())) = within(GREET, greeting).await else { return };
    let (answers, mut written) = mpsc::channel::<Frame>(ANSWERS);
    let writing = async {
        while let Some(frame) = written.recv().await {
            if frame.write(&mut writes).await.is_err() {
                return;
            }
        }
    };
    // When no more can be read, what is still to be answered is answered.
    tokio::join!(writing, read_calls(reads, served, answers, stopped));
}

async fn read_calls(
    mut reads: OwnedReadHalf,
    served: Arc<Served>,
    answers: mpsc::Sender<Frame>,
    mut stopped: watch::Receiver<bool>,
) {
    let (room, waits) = (Arc::new(Semaphore::new(CALLS)), Arc::new(Semaphore::new(WAITS)));
    let mut calls = JoinSet::new();
    loop {
        while calls.try_join_next().is_some() {}
        let read = async {
            let room = room.clone().acquire_owned().await.ok()?;
            read_call(&mut reads, &served).await.map(|(call, bodies, memory)| (call, bodies, (memory, room)))
        };
        let (call, bodies, held) = tokio::select! {
            () = stop(&mut stopped) => break,
            read = read => match read {
                Some(read) => read,
                // The client is gone, or speaks no sense: dropping ends its calls.
                None => return,
            },
        };
        let (served, answers, mut stopped) = (served.clone(), answers.clone(), stopped.clone());
        let wait = waits.clone().try_acquire_owned().ok();
        calls.spawn(async move {
            // Both are held until the answer is handed on, so that who does not read does not fill memory.
            let (frame, _held) = match (call.asked, wait) {
                (Some(Asked::Changed(place)), Some(wait)) => {
                    drop(held);
                    let most = Duration::from_millis(place.most_ms).min(WAIT);
                    if let Some((kind, key)) = place.read() {
                        tokio::select! {
                            () = stop(&mut stopped) => {}
                            () = served.store.changed(kind, &key, most) => {}
                        }
                    }
                    (frame(call.number, Told::Done(Nothing {}), Vec::new()), (Some(wait), None))
                }
                (Some(Asked::Changed(_)), None) => {
                    (frame(call.number, Told::Done(Nothing {}), Vec::new()), (None, Some(held)))
                }
                (asked, _) => (answer(&*served.store, call.number, asked, bodies).await, (None, Some(held))),
            };
            // A client that is gone misses nothing.
            let _ = answers.send(frame).await;
        });
    }
    while calls.join_next().await.is_some() {}
}

/// Reads one call, with the right to the memory that its bodies take.
async fn read_call(
    reads: &mut OwnedReadHalf,
    served: &Served,
) -> Option<(Call, Bytes, OwnedSemaphorePermit)> {
    let lengths = Lengths::read(reads, CALL).await.ok()??;
    let bytes = u32::try_from(lengths.bodies).ok()?;
    let memory = served.memory.clone().acquire_many_owned(bytes).await.ok()?;
    let (message, bodies) = within(REST, lengths.read_rest(reads)).await?.ok()?;
    Some((Call::decode(message).ok()?, bodies, memory))
}

async fn answer(store: &dyn Store, number: u64, asked: Option<Asked>, bodies: Bytes) -> Frame {
    let done = |done: Result<(), StoreError>| done.map(|()| (Told::Done(Nothing {}), Vec::new()));
    let told = match asked {
        Some(Asked::Get(place)) => match place.read() {
            Some((kind, key)) => store.get(kind, &key).await.map(|found| {
                let (found, bodies) = Records::found(found);
                (Told::Found(found), bodies)
            }),
            None => Err(senseless()),
        },
        Some(Asked::Commit(message)) => match message.read(bodies) {
            Some(batch) => done(store.commit(batch).await),
            None => Err(senseless()),
        },
        Some(Asked::Scan(message)) => match message.read() {
            Some(query) => {
                let limit = usize::try_from(message.limit).unwrap_or(PAGE).min(PAGE);
                page(store, &query, limit).await.map(|page| (Told::Listed(page), Vec::new()))
            }
            None => Err(senseless()),
        },
        Some(Asked::Sync(Nothing {})) => done(store.sync().await),
        // Waits are answered where they are read.
        Some(Asked::Changed(_)) | None => Err(senseless()),
    };
    match told {
        Ok((told, bodies)) => frame(number, told, bodies),
        Err(error) => frame(number, Told::Failed(Failure::of(&error)), Vec::new()),
    }
}

/// Returns a page that fits into an answer: where it is too long, a shorter one.
async fn page(store: &dyn Store, query: &crate::store::Query, limit: usize) -> Result<Records, StoreError> {
    let mut limit = limit;
    loop {
        let page = Records::page(&store.scan(query, limit).await?);
        if limit <= 1 || page.encoded_len() < ANSWER / 2 {
            return Ok(page);
        }
        limit /= 2;
    }
}

fn frame(number: u64, told: Told, bodies: Vec<Bytes>) -> Frame {
    let message = Answer { number, told: Some(told) };
    Frame::new(&message, bodies, ANSWER).unwrap_or_else(|| {
        let error =
            StoreError::new(StoreErrorKind::TooLarge, "the answer is too long for the store's socket");
        let message = Answer { number, told: Some(Told::Failed(Failure::of(&error))) };
        Frame { message: message.encode_to_vec().into(), bodies: Vec::new() }
    })
}

fn senseless() -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt, "the holder of the store cannot read what it was asked")
}

/// Waits until the server is to stop.
async fn stop(stopped: &mut watch::Receiver<bool>) {
    // A sender that is gone says the same.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
