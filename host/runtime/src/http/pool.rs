//! Owns the idle connections of one step. Steps share none: whatever a server ties to a connection, it
//! ties to one step's grant. Never connects.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::connect::{Connection, Connector};
use super::target::{Scheme, Target};
use crate::clock;
use url::Host;

/// The most idle connections of one step: as many as one attempt may use at once.
const MOST_IDLE: usize = 16;

/// Whom a connection leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    scheme: Scheme,
    host: Host,
    port: u16,
}

impl Peer {
    pub(crate) fn of(target: &Target) -> Self {
        Self { scheme: target.scheme, host: target.host.clone(), port: target.port }
    }
}

/// The idle connections of one step.
#[derive(Default)]
pub(crate) struct Pool(Mutex<Idle>);

#[derive(Default)]
struct Idle {
    /// The longest idle first.
    connections: Vec<(Instant, Peer, Connection)>,
    /// Whether a task ends what is idle for too long.
    watched: bool,
}

impl Pool {
    /// Takes a connection to the peer whose address is still admitted.
    pub(crate) fn take(&self, peer: &Peer, admits: impl Fn(IpAddr) -> bool) -> Option<Connection> {
        let mut idle = self.lock();
        idle.connections.retain(|(_, _, connection)| !connection.sender.is_closed());
        let fits = |(_, to, connection): &(Instant, Peer, Connection)| {
            to == peer && connection.sender.is_ready() && admits(connection.address)
        };
        let index = idle.connections.iter().rposition(fits)?;
        Some(idle.connections.remove(index).2)
    }

    /// Keeps a connection for later.
    pub(crate) fn put(self: &Arc<Self>, peer: Peer, connection: Connection, connector: &Connector) {
        if connection.sender.is_closed() || connector.closing.is_cancelled() {
            return;
        }
        let mut idle = self.lock();
        if idle.connections.len() >= MOST_IDLE {
            idle.connections.remove(0);
        }
        idle.connections.push((clock::now(), peer, connection));
        if !std::mem::replace(&mut idle.watched, true) {
            let (pool, closing) = (Arc::downgrade(self), connector.closing.clone());
            let watching = watch(pool, connector.options.idle_timeout);
            connector.tasks.spawn(closing.run_until_cancelled_owned(watching));
        }
    }

    /// Ends what has been idle for too long. Returns when to look again; never, where nothing is left.
    fn expire(&self, longest: Duration) -> Option<Instant> {
        let mut idle = self.lock();
        let now = clock::now();
        let ends = |since: Instant| clock::deadline(since, longest);
        idle.connections.retain(|(since, _, connection)| {
            !connection.sender.is_closed() && ends(*since).is_none_or(|end| end > now)
        });
        let next = idle.connections.first().and_then(|(since, ..)| ends(*since));
        idle.watched = next.is_some();
        next
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends idle connections until none is left.
async fn watch(pool: Weak<Pool>, longest: Duration) {
    while let Some(next) = pool.upgrade().and_then(|pool| pool.expire(longest)) {
        clock::sleep_until(Some(next)).await;
    }
}
