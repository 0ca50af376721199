//! Owns what a store keeps: records, each with a body of bytes that only its writer understands and
//! with facts that people and queries ask for. Says nothing of what the records mean together.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::clock::Timestamp;

/// What a record is about; each kind has its own keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A kept result, or the claim on one that is being made.
    Result,
    /// An execution.
    Execution,
    /// What became of one step in one execution.
    Step,
    /// A piece of a step module, kept for executions that may be resumed.
    Module,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 4] = [Kind::Result, Kind::Execution, Kind::Step, Kind::Module];

    /// Returns the word that stores and people use.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Result => "result",
            Kind::Execution => "execution",
            Kind::Step => "step",
            Kind::Module => "module",
        }
    }
}

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Somebody is at it, for as long as the lease holds.
    Running,
    /// It is done, and the body is what came out.
    Done,
    /// It failed for good, and the body says how.
    Failed,
    /// Nobody is at it: whoever was gave it back.
    Released,
    /// It was stopped from outside and can be resumed.
    Interrupted,
    /// Somebody asked for it to be stopped.
    Cancelled,
}

impl Status {
    /// Every status.
    pub const ALL: [Status; 6] = [
        Status::Running,
        Status::Done,
        Status::Failed,
        Status::Released,
        Status::Interrupted,
        Status::Cancelled,
    ];

    /// Returns the word that stores and people use.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Running => "running",
            Status::Done => "done",
            Status::Failed => "failed",
            Status::Released => "released",
            Status::Interrupted => "interrupted",
            Status::Cancelled => "cancelled",
        }
    }

    /// Returns the status that the word stands for.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }
}

/// How long and among whom a kept result is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Within one execution id.
    Workflow,
    /// Among all executions of a tenant.
    Global,
}

impl Scope {
    /// Both scopes.
    pub const ALL: [Scope; 2] = [Scope::Workflow, Scope::Global];

    /// Returns the word that stores and people use.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Workflow => "workflow",
            Scope::Global => "global",
        }
    }

    /// Returns the scope that the word stands for.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == word)
    }
}

/// The key of a record within its kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey(Arc<str>);

/// Why a text is no record key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record key must have 1 to {} visible ASCII characters, but `{}` has not", RecordKey::LONGEST, .0.escape_debug())]
pub struct RecordKeyError(String);

impl RecordKey {
    /// The longest key, in bytes: what every backend can index.
    pub const LONGEST: usize = 512;

    /// Returns the key that the text is.
    ///
    /// # Errors
    /// Unless it has 1 to 512 visible ASCII characters.
    pub fn parse(text: &str) -> Result<Self, RecordKeyError> {
        let fits =
            (1..=Self::LONGEST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if fits { Ok(Self(text.into())) } else { Err(RecordKeyError(text.chars().take(80).collect())) }
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which writing of a record this is. Grows with every [`Write::Put`](crate::Write::Put), also over a
/// removal, because it is never less than the store's clock in microseconds: whoever holds an old one
/// is refused. It is the fencing token of a claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// Returns the revision that follows `last` (if there is a record) at this time.
    #[must_use]
    pub fn after(last: Option<Self>, now: Timestamp) -> Self {
        let floor = now.0.saturating_mul(1000);
        Self(last.map_or(floor, |last| floor.max(last.0.saturating_add(1))))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A record: its key, its facts and its body.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// What it is about.
    pub kind: Kind,
    /// Its key within the kind.
    pub key: RecordKey,
    /// Which writing of it this is.
    pub revision: Revision,
    /// What can be asked for.
    pub facts: Facts,
    /// What only its writer understands.
    pub body: Bytes,
}

/// What is known of a record without understanding its body: the columns of the tables, where there
/// are tables.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Where it stands.
    pub status: Status,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// How a result is shared.
    pub scope: Option<Scope>,
    /// The step's name.
    pub step: Option<Arc<str>>,
    /// The execution's id; for a result, the one that made it or is making it.
    pub execution: Option<Arc<str>>,
    /// The digest of the step's module, in hexadecimal.
    pub module: Option<Arc<str>>,
    /// How many attempts were begun.
    pub attempts: u32,
    /// Who writes it: a process, by a random name.
    pub owner: Option<Arc<str>>,
    /// Until when the owner has it for itself.
    pub lease_until: Option<Timestamp>,
    /// From when on it is no longer there for readers, and may be removed.
    pub expires_at: Option<Timestamp>,
    /// When it was first written.
    pub created_at: Timestamp,
    /// When the owner began.
    pub started_at: Option<Timestamp>,
    /// When it came to its end.
    pub finished_at: Option<Timestamp>,
    /// More, as a JSON object: what a key is made of, what failed.
    pub detail: Option<Arc<str>>,
}

impl Facts {
    /// Returns the facts of a record that is made now, with nothing known but these.
    pub fn new(status: Status, tenant: Arc<str>, created_at: Timestamp) -> Self {
        Self {
            status,
            tenant,
            scope: None,
            step: None,
            execution: None,
            module: None,
            attempts: 0,
            owner: None,
            lease_until: None,
            expires_at: None,
            created_at,
            started_at: None,
            finished_at: None,
            detail: None,
        }
    }

    /// Returns whether the record has expired by this time.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Returns whether somebody is at it by this time.
    pub fn is_leased(&self, now: Timestamp) -> bool {
        self.status == Status::Running && self.lease_until.is_some_and(|until| until > now)
    }
}
