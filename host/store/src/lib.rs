//! docket-store keeps what must outlive an execution: results, the leases on them, and the journal of
//! executions. [`Store`] is what a backend promises: records under keys, written by atomic batches
//! that are refused where the world has changed. What a claim, a kept result or a resumable execution
//! is stands above it, once for all backends. The modules below stand in reading order, and each
//! refers only to those above it.

mod clock;
mod error;
mod record;
mod store;
mod changes;
mod presence;
mod codec;
mod fault;
mod memory;
#[cfg(feature = "sled")]
mod sled;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
mod sql;
#[cfg(feature = "redis")]
mod redis;
mod socket;
mod url;
mod transfer;
mod steady;
mod claims;
mod journal;
mod purge;

pub use claims::{Claim, Claims, Free, LEASE, Left, Look, Work};
pub use clock::{Clock, SystemClock, Timestamp};
pub use error::{StoreError, StoreErrorKind};
pub use fault::{FaultyStore, Harm, Method, Mishap, When};
pub use journal::{Draft, Entry, Held, Journal, NewExecution, Opened, StepNote, Unfinished};
pub use memory::MemoryStore;
pub use presence::owner;
pub use purge::{Purged, purge, purge_expired, remove_execution};
pub use record::{Facts, Kind, Record, RecordKey, RecordKeyError, Revision, Scope, Status};
#[cfg(feature = "redis")]
pub use redis::RedisStore;
#[cfg(feature = "sled")]
pub use sled::{SledOptions, SledStore};
pub use socket::{Announcement, Holder, SocketServer, SocketStore, announce, holder, socket_path};
#[cfg(feature = "mysql")]
pub use sql::MysqlStore;
#[cfg(feature = "postgres")]
pub use sql::PostgresStore;
#[cfg(feature = "sqlite")]
pub use sql::SqliteStore;
pub use store::{
    Abilities, Batch, Cursor, Durability, Expect, Filter, Found, Page, Query, Sharing, Store, Sync, Write,
};
pub use transfer::{Damage, Moved, TransferError, check, export, import, migrate};
pub use url::{OpenedStore, ServerUrl, StoreUrl, StoreUrlError, WhenHeld, open};
