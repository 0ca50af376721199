//! Owns the wake-ups that go through the server: one connection listens, and names of changed records
//! are told after they were committed. Telling inside the transactions would let them commit only one
//! after the other, because the server keeps the order of what is told. Never the truth: what is told
//! may be lost, and whoever waits looks again by himself.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::PgConnection;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::changes::Changes;
use crate::clock;
use crate::record::{Kind, RecordKey};
use crate::sql::columns;
use crate::sql::server::Server;
use crate::sql::session::Session as _;
use crate::store::{Batch, Write};

const CHANNEL: &str = "docket_changed";

/// What the server takes in one piece is 8,000 bytes.
const PIECE: usize = 7_900;

/// Names that wait to be told. What comes when there are as many is not told at all: those who wait
/// look by themselves.
const NAMES: usize = 1024;

/// How long to wait before listening again on a server that is away.
const AWAY: Duration = Duration::from_secs(1);

/// The wake-ups of one store.
pub(super) struct Bell {
    /// None once it was taken down.
    names: Mutex<Option<mpsc::Sender<String>>>,
    listening: CancellationToken,
    _listening: DropGuard,
}

impl Bell {
    /// Begins to listen and to tell, in tasks of the server's store.
    pub(super) fn hang(server: &Arc<Server<PgConnection>>, options: PgConnectOptions) -> Self {
        let (names, told) = mpsc::channel(NAMES);
        let listening = CancellationToken::new();
        let (over, changes) = (listening.clone(), Arc::clone(&server.changes));
        server.tasks.spawn(async move {
            tokio::select! {
                () = over.cancelled() => {}
                () = listen(options, &changes) => {}
            }
        });
        server.tasks.spawn(tell(Arc::clone(server), told));
        Self { names: Mutex::new(Some(names)), _listening: listening.clone().drop_guard(), listening }
    }

    /// Returns the names of what a batch changes.
    pub(super) fn names(&self, batch: &Batch) -> Vec<String> {
        let changed = batch.writes.iter().filter_map(|write| match write {
            Write::Put { record, .. } => Some((record.kind, &record.key)),
            Write::Delete { kind, key, .. } => Some((*kind, key)),
            Write::Renew { .. } => None,
        });
        changed.map(|(kind, key)| format!("{}/{key}", kind.as_str())).collect()
    }

    /// Tells the names, soon.
    pub(super) fn ring(&self, names: Vec<String>) {
        let queue = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(queue) = queue.as_ref() else { return };
        for name in names {
            // Full or closed: those who wait look by themselves.
            let _ = queue.try_send(name);
        }
    }

    /// Ends listening, and telling once everything was told.
    pub(super) fn take_down(&self) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.listening.cancel();
    }
}

async fn tell(server: Arc<Server<PgConnection>>, mut told: mpsc::Receiver<String>) {
    let sql: Arc<str> = format!("SELECT pg_notify('{CHANNEL}', $1)").into();
    let mut names = Vec::new();
    while told.recv_many(&mut names, NAMES).await > 0 {
        // Names have no spaces.
        let mut pieces = vec![String::new()];
        for name in names.drain(..) {
            if pieces.last().is_some_and(|piece| piece.len() + name.len() >= PIECE) {
                pieces.push(String::new());
            }
            let piece = pieces.last_mut().expect("there is always one");
            piece.push_str(&name);
            piece.push(' ');
        }
        for piece in pieces {
            let Ok(mut session) = server.lend().await else { break };
            if session.rows(&sql, vec![columns::word(&piece)]).await.is_ok() {
                session.back();
            }
        }
    }
}

async fn listen(options: PgConnectOptions, changes: &Changes) {
    let pool = PgPoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
    let pool = pool.connect_lazy_with(options);
    loop {
        if let Ok(mut listener) = PgListener::connect_with(&pool).await
            && listener.listen(CHANNEL).await.is_ok()
        {
            // An error says that the connection was lost.
            while let Ok(Some(told)) = listener.try_recv().await {
                for name in told.payload().split_whitespace() {
                    if let Some((kind, key)) = read(name) {
                        changes.tell_of(kind, key);
                    }
                }
            }
        }
        clock::sleep(AWAY).await;
    }
}

fn read(name: &str) -> Option<(Kind, RecordKey)> {
    let (word, key) = name.split_once('/')?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == word)?;
    Some((kind, RecordKey::parse(key).ok()?))
}
