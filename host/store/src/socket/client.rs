//! Owns the forwarding side: the connection, the calls under way on it, and what a lost answer means.
//! Never answers by itself.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message;
use tokio::net::{UnixStream, unix::OwnedReadHalf};
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};
use tokio::task::JoinSet;

use super::frame::{ANSWER, CALL, Frame, GREETING, Lengths};
use super::silence::Silence;
use super::wire::{Answer, Asked, BatchMessage, Call, Greeting, Nothing, Place, ScanMessage, Told, VERSION};
use crate::clock::within;
use crate::error::{StoreError, StoreErrorKind};
use crate::presence::Presence;
use crate::record::{Kind, RecordKey};
use crate::store::{Abilities, Batch, Found, Page, Query, Store, Write};

/// How long the holder may take to let us in.
const GREET: Duration = Duration::from_secs(5);

/// How many calls wait to be written.
const CALLS: usize = 16;

/// A store that another process of this machine holds, reached through its socket.
pub struct SocketStore {
    path: PathBuf,
    abilities: Abilities,
    presence: Option<Presence>,
    link: AsyncMutex<Option<Arc<Link>>>,
    next: AtomicU64,
    closed: AtomicBool,
}

/// One connection. Its tasks end with it.
struct Link {
    calls: mpsc::Sender<Frame>,
    waiting: Arc<Waiting>,
    silence: Arc<Silence>,
    _tasks: JoinSet<()>,
}

/// Who waits for which answer; none once the connection is lost.
struct Waiting(Mutex<Option<Waiters>>);

type Waiters = HashMap<u64, oneshot::Sender<(Told, Bytes)>>;

/// How a call failed.
enum Failed {
    /// The holder has not got it.
    Unsent(StoreError),
    /// The holder may have done it.
    Lost,
}

impl SocketStore {
    /// Returns the store that is served on the socket of this path.
    ///
    /// # Errors
    /// `Unavailable` where nobody answers there, `Unusable` where the holder speaks another version of
    /// the protocol or does not let this user in.
    pub async fn connect(path: &Path) -> Result<Self, StoreError> {
        let (link, abilities) = dial(path).await?;
        let link = AsyncMutex::new(Some(Arc::new(link)));
        let (next, closed) = (AtomicU64::new(1), AtomicBool::new(false));
        Ok(Self { path: path.to_owned(), abilities, presence: None, link, next, closed })
    }

    /// Returns the store as one that this process is seen to use.
    #[cfg(feature = "sled")]
    pub(crate) fn present_in(self, presence: Presence) -> Self {
        let abilities = Abilities { process: presence.process(), ..self.abilities };
        Self { abilities, presence: Some(presence), ..self }
    }

    /// Asks, and waits for the answer. Where the connection was lost before, dials once.
    async fn ask(&self, asked: Asked, bodies: Vec<Bytes>) -> Result<(Told, Bytes), Failed> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        // Whoever waits for a change is answered late as it is.
        let is_hint = matches!(asked, Asked::Changed(_));
        let call = Call { number, asked: Some(asked) };
        let Some(frame) = Frame::new(&call, bodies, CALL) else {
            let message = "a batch is too long for the store's socket: divide it";
            return Err(Failed::Unsent(StoreError::new(StoreErrorKind::TooLarge, message)));
        };
        let link = self.link().await.map_err(Failed::Unsent)?;
        let Some(answer) = link.waiting.wait(number) else {
            return Err(Failed::Unsent(unavailable(&self.path, "the connection was lost")));
        };
        // Dropped with this call: nobody waits any more.
        let _forget = Forget { waiting: &link.waiting, number };
        let answered = async {
            if link.calls.send(frame).await.is_err() {
                return Err(Failed::Unsent(unavailable(&self.path, "the connection was lost")));
            }
            answer.await.map_err(|_| Failed::Lost)
        };
        if is_hint { answered.await } else { link.silence.bear(answered).await }
    }

    /// Asks what may be lost.
    async fn read(&self, asked: Asked) -> Result<(Told, Bytes), StoreError> {
        match self.ask(asked, Vec::new()).await {
            Ok((Told::Failed(failure), _)) => Err(failure.read()),
            Ok(told) => Ok(told),
            Err(Failed::Unsent(error)) => Err(error),
            Err(Failed::Lost) => Err(unavailable(&self.path, "it ended before it answered")),
        }
    }

    async fn link(&self) -> Result<Arc<Link>, StoreError> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(StoreError::new(StoreErrorKind::Unavailable, "the store is closed"));
        }
        let mut slot = self.link.lock().await;
        if let Some(link) = slot.as_ref().filter(|link| link.waiting.is_open()) {
            return Ok(link.clone());
        }
        *slot = None;
        let (link, _) = dial(&self.path).await?;
        Ok(slot.insert(Arc::new(link)).clone())
    }

    fn senseless(&self) -> StoreError {
        let message =
            format!("the holder of the store at `{}` does not answer what was asked", self.path.display());
        StoreError::new(StoreErrorKind::Corrupt, message)
    }
}

#[async_trait]
impl Store for SocketStore {
    fn abilities(&self) -> Abilities {
        self.abilities.clone()
    }

    async fn get(&self, kind: Kind, key: &RecordKey) -> Result<Found, StoreError> {
        let place = Place::new(kind, key, Duration::ZERO);
        let (Told::Found(records), bodies) = self.read(Asked::Get(place)).await? else {
            return Err(self.senseless());
        };
        let page = records.read(bodies).ok_or_else(|| self.senseless())?;
        Ok(Found { now: page.now, record: page.records.into_iter().next() })
    }

    async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        check_size(&batch, self.abilities.max_body)?;
        let (message, bodies) = BatchMessage::of(&batch);
        match self.ask(Asked::Commit(message), bodies).await {
            Ok((Told::Done(Nothing {}), _)) => Ok(()),
            Ok((Told::Failed(failure), _)) => Err(failure.read()),
            Ok((Told::Found(_) | Told::Listed(_), _)) => Err(self.senseless()),
            Err(Failed::Unsent(error)) => Err(error),
            Err(Failed::Lost) => {
                let path = self.path.display();
                let message =
                    format!("the holder of the store at `{path}` ended before it answered a commit");
                Err(StoreError::new(StoreErrorKind::Unknown, message))
            }
        }
    }

    async fn scan(&self, query: &Query, limit: usize) -> Result<Page, StoreError> {
        let asked = Asked::Scan(ScanMessage::of(query, limit));
        let (Told::Listed(records), bodies) = self.read(asked).await? else {
            return Err(self.senseless());
        };
        records.read(bodies).ok_or_else(|| self.senseless())
    }

    async fn changed(&self, kind: Kind, key: &RecordKey, most: Duration) {
        // A hint that fails says: look.
        let _ = within(most, self.ask(Asked::Changed(Place::new(kind, key, most)), Vec::new())).await;
    }

    fn is_gone(&self, owner: &str) -> bool {
        self.presence.as_ref().is_some_and(|presence| presence.is_gone(owner))
    }

    async fn sync(&self) -> Result<(), StoreError> {
        match self.read(Asked::Sync(Nothing {})).await? {
            (Told::Done(Nothing {}), _) => Ok(()),
            _ => Err(self.senseless()),
        }
    }

    /// Leaves the holder's store open.
    async fn close(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let synced = self.sync().await;
        self.closed.store(true, Ordering::Relaxed);
        self.link.lock().await.take();
        if let Some(presence) = &self.presence {
            presence.leave();
        }
        synced
    }
}

/// Connects and greets.
async fn dial(path: &Path) -> Result<(Link, Abilities), StoreError> {
    let unusable = |why: &str| {
        let message = format!("the store's socket `{}` cannot be used: {why}", path.display());
        StoreError::new(StoreErrorKind::Unusable, message)
    };
    let greet = async {
        let stream = UnixStream::connect(path).await?;
        let pid = stream.peer_cred().ok().and_then(|peer| u32::try_from(peer.pid()?).ok());
        let (mut reads, mut writes) = stream.into_split();
        if let Some(frame) = Frame::new(&Greeting::new(None), Vec::new(), GREETING) {
            frame.write(&mut writes).await?;
        }
        let ended = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let lengths = Lengths::read(&mut reads, GREETING).await?.ok_or_else(ended)?;
        let (message, _) = lengths.read_rest(&mut reads).await?;
        Ok::<_, std::io::Error>((pid, reads, writes, message))
    };
    let (pid, reads, mut writes, message) = match within(GREET, greet).await {
        Some(Ok(greeted)) => greeted,
        Some(Err(error)) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(unusable("it belongs to another user"));
        }
        Some(Err(error)) => {
            return Err(unavailable(path, error));
        }
        None => return Err(unavailable(path, "nobody answered in time")),
    };
    let greeting = Greeting::read(message).ok_or_else(|| unusable("no store is served there"))?;
    if greeting.version != VERSION {
        return Err(unusable(&format!(
            "its holder speaks version {} of the protocol, and this process {VERSION}: use the same release of \
             Docket for both",
            greeting.version
        )));
    }
    let abilities = greeting.abilities.as_ref().and_then(|abilities| abilities.abilities());
    let abilities = abilities.ok_or_else(|| unusable("its holder does not say what the store can do"))?;
    let (calls, mut written) = mpsc::channel::<Frame>(CALLS);
    let waiting = Arc::new(Waiting(Mutex::new(Some(HashMap::new()))));
    // A process that this one cannot see has the number 0.
    let silence = Arc::new(Silence::of(path.to_owned(), pid.filter(|pid| *pid > 0)));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Some(frame) = written.recv().await {
            if frame.write(&mut writes).await.is_err() {
                return;
            }
        }
    });
    tasks.spawn(hear(reads, waiting.clone(), silence.clone()));
    Ok((Link { calls, waiting, silence, _tasks: tasks }, abilities))
}

/// Hands answers to those who wait, until the connection ends.
async fn hear(mut reads: OwnedReadHalf, waiting: Arc<Waiting>, silence: Arc<Silence>) {
    let end = End(waiting);
    loop {
        let read = async {
            let lengths = Lengths::read(&mut reads, ANSWER).await.ok()??;
            let (message, bodies) = lengths.read_rest(&mut reads).await.ok()?;
            let answer = Answer::decode(message).ok()?;
            Some((answer.number, answer.told?, bodies))
        };
        let Some((number, told, bodies)) = read.await else { return };
        silence.ends();
        if let Some(waiter) = end.0.take(number) {
            // Who has gone meanwhile needs no answer.
            let _ = waiter.send((told, bodies));
        }
    }
}

/// However the listening ends, nobody waits for ever.
struct End(Arc<Waiting>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.lock().take();
    }
}

/// Takes a call off the list when its caller goes.
struct Forget<'a> {
    waiting: &'a Waiting,
    number: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.waiting.take(self.number);
    }
}

impl Waiting {
    /// Waits for the answer of this number; none where the connection is lost.
    fn wait(&self, number: u64) -> Option<oneshot::Receiver<(Told, Bytes)>> {
        let (answered, answer) = oneshot::channel();
        self.lock().as_mut()?.insert(number, answered);
        Some(answer)
    }

    fn take(&self, number: u64) -> Option<oneshot::Sender<(Told, Bytes)>> {
        self.lock().as_mut()?.remove(&number)
    }

    fn is_open(&self) -> bool {
        self.lock().is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Waiters>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_size(batch: &Batch, most: u64) -> Result<(), StoreError> {
    for write in &batch.writes {
        if let Write::Put { record, .. } = write
            && record.body.len() as u64 > most
        {
            let (kind, key, bytes) = (record.kind.as_str(), &record.key, record.body.len());
            let message = format!("the {kind} `{key}` has {bytes} bytes, and the store takes {most}");
            return Err(StoreError::new(StoreErrorKind::TooLarge, message));
        }
    }
    Ok(())
}

fn unavailable(path: &Path, why: impl std::fmt::Display) -> StoreError {
    let message = format!("the holder of the store at `{}` cannot be reached: {why}", path.display());
    StoreError::new(StoreErrorKind::Unavailable, message)
}
