//! Owns the record of executions: what was asked, who carries it out, how it ended, and what became of
//! each of its steps. What the request and the outcome are made of is bytes here. Never carries
//! anything out; the modules that whoever goes on needs are those of `modules`.

mod modules;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::claims::is_held;
use crate::clock::{StoreTime, Timestamp};
use crate::error::{StoreError, StoreErrorKind};
use crate::record::{Facts, Kind, Record, RecordKey, Revision, Status};
use crate::steady;
use crate::store::{Batch, Expect, Filter, Query, Store, Sync, Write};

/// How long an execution is remembered that was cancelled in the journal: as long as a host remembers
/// others that have ended, unless it is told otherwise.
const CANCELLED_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// For how long the store's time goes on by this machine's clock before it is read again for a draft: each
/// reading asks the store, and both clocks go equally fast for so long.
const TIME_FRESH: Duration = Duration::from_secs(1);

/// How many records are listed at a time.
const PAGE: usize = 500;

/// The executions of one owner on one store. Clones share it.
#[derive(Clone)]
pub struct Journal {
    store: Arc<dyn Store>,
    owner: Arc<str>,
    lease: Duration,
    /// The store's time as it was last read for a draft.
    time: Arc<Mutex<Option<StoreTime>>>,
}

/// An execution that is about to begin.
#[derive(Clone, Debug)]
pub struct NewExecution {
    /// Whose it is.
    pub tenant: Arc<str>,
    /// Its id.
    pub id: Arc<str>,
    /// What is asked, as a hash: two executions of one id must agree in it.
    pub request_digest: [u8; 32],
    /// What is asked, for whoever resumes it.
    pub request: Bytes,
    /// What people want to see of it: a JSON object.
    pub detail: Arc<str>,
}

/// What there was under the id of a new execution.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time, taken apart at once")]
pub enum Opened {
    /// Nothing: the execution is the caller's to carry out.
    New(Held),
    /// An execution with the same request that nobody carries out: the caller is to go on with it.
    Resumed(Held, Entry),
    /// Another process carries the same request out.
    Elsewhere(Entry),
    /// The same request was carried out, and this is what came of it.
    Over(Entry),
    /// An execution with another request.
    Conflict(Entry),
}

/// What to do with an execution that came to its end without a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// Its outcome is the answer.
    Return,
    /// It is carried out again; what it has kept is not computed again.
    Resume,
    /// So is one that has a result, since its record does not hold all of that: a batch hands each item's out.
    Again,
}

/// An execution as it is recorded.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its id.
    pub id: Arc<str>,
    /// What is known of it. Without a holder a running one is reported as [`Status::Interrupted`].
    pub facts: Facts,
    /// What was asked.
    pub request: Bytes,
    /// What came of it; empty while it has not ended.
    pub outcome: Bytes,
    /// How far it has come; empty where that was never noted.
    pub progress: Bytes,
    revision: Revision,
    now: StoreTime,
}

/// The right to carry an execution out, until its lease lapses.
#[derive(Clone, Debug)]
pub struct Held {
    key: RecordKey,
    facts: Facts,
    /// The body of the record, without an outcome.
    body: Bytes,
    revision: Revision,
    /// What the store has of it.
    there: Expect,
    time: StoreTime,
}

/// An execution under an id of its own that is not recorded yet: its record is written with the first of
/// its steps that starts.
#[derive(Clone, Debug)]
pub struct Draft {
    key: RecordKey,
    facts: Facts,
    body: Bytes,
    time: StoreTime,
}

/// The body of an execution's record.
#[derive(Clone, PartialEq, prost::Message)]
struct Body {
    #[prost(bytes = "bytes", tag = "1")]
    request_digest: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    request: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    outcome: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    progress: Bytes,
}

/// What became of one step of an execution.
#[derive(Clone, Debug)]
pub struct StepNote {
    /// The step.
    pub step: Arc<str>,
    /// The digest of its module, in hexadecimal.
    pub module: Arc<str>,
    /// How it ended.
    pub status: Status,
    /// How many attempts were made, all restarts together.
    pub attempts: u32,
    /// The key of its result, and whether that was found or made: a JSON object.
    pub detail: Arc<str>,
}

impl Held {
    /// Returns the execution's id.
    #[expect(clippy::missing_panics_doc, reason = "what is held was written, or read, with its id")]
    pub fn id(&self) -> &str {
        self.facts.execution.as_deref().expect("the record of an execution names it")
    }

    /// Returns what people see of the execution: a JSON object.
    pub fn detail(&self) -> Arc<str> {
        self.facts.detail.clone().unwrap_or_else(|| "{}".into())
    }

    /// Returns the write that notes, beside others, what became of a step.
    pub fn note(&self, note: StepNote) -> Write {
        let StepNote { step, module, status, attempts, detail } = note;
        let now = self.time.now();
        let facts = Facts {
            step: Some(Arc::clone(&step)),
            execution: self.facts.execution.clone(),
            module: Some(module),
            attempts,
            finished_at: Some(now),
            detail: Some(detail),
            ..Facts::new(status, Arc::clone(&self.facts.tenant), now)
        };
        let key = step_key(&self.facts.tenant, self.id(), &step);
        let record =
            Record { kind: Kind::Step, key, revision: Revision::after(None, now), facts, body: Bytes::new() };
        Write::Put { record, expect: Expect::Any }
    }
}

impl Journal {
    /// Returns the journal of this owner: a name that no other process and no earlier one has.
    pub fn new(store: Arc<dyn Store>, owner: Arc<str>, lease: Duration) -> Self {
        Self { store, owner, lease, time: Arc::default() }
    }

    /// Opens an execution under its id.
    ///
    /// Once this returns [`Opened::New`] or [`Opened::Resumed`], nobody else carries this execution
    /// out until the lease lapses, and it can be resumed if this process dies.
    ///
    /// # Errors
    /// Where the store cannot be read or written.
    pub async fn open(&self, new: NewExecution, unfinished: Unfinished) -> Result<Opened, StoreError> {
        let key = execution_key(&new.tenant, &new.id);
        loop {
            let found = steady::get(&*self.store, Kind::Execution, &key).await?;
            let now = StoreTime::read(found.now);
            let Some(record) = found.record else {
                match self.hold(drafted(&new, key.clone(), now), None).await {
                    Ok(held) => return Ok(Opened::New(held)),
                    Err(error) if error.kind() == StoreErrorKind::Conflict => continue,
                    Err(error) => return Err(error),
                }
            };
            let (entry, digest) = self.entry(record, now)?;
            if digest[..] != new.request_digest[..] {
                return Ok(Opened::Conflict(entry));
            }
            match self.go_on(entry, unfinished).await? {
                Some(opened) => return Ok(opened),
                None => continue,
            }
        }
    }

    /// Prepares an execution that is recorded later ([`begin`](Self::begin)), under an id that was just made:
    /// nobody else has it or comes to use it before. Where somebody has it, beginning is a conflict.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn draft(&self, new: &NewExecution) -> Result<Draft, StoreError> {
        let key = execution_key(&new.tenant, &new.id);
        let recent = *self.time.lock().unwrap_or_else(PoisonError::into_inner);
        let time = match recent.filter(|time| time.age() < TIME_FRESH) {
            Some(time) => time,
            None => {
                let found = steady::get(&*self.store, Kind::Execution, &key).await?;
                let time = StoreTime::read(found.now);
                *self.time.lock().unwrap_or_else(PoisonError::into_inner) = Some(time);
                time
            }
        };
        Ok(drafted(new, key, time))
    }

    /// Returns what records a draft, beside others, and what is held once that is written: as after
    /// [`open`](Self::open).
    pub fn begin(&self, draft: &Draft) -> (Held, Write) {
        self.holding(draft.clone(), None)
    }

    /// Writes what [`begin`](Self::begin) has returned, and nothing beside it.
    ///
    /// # Errors
    /// `Conflict` where the id is taken; others where the store cannot be written.
    pub async fn write_alone(&self, beginning: Write) -> Result<(), StoreError> {
        steady::commit(&*self.store, Batch { writes: vec![beginning], sync: Sync::Later }).await
    }

    /// Returns a draft that is never begun as what [`finish`](Self::finish) records.
    pub fn unbegun(&self, draft: &Draft) -> Held {
        let (held, _) = self.begin(draft);
        Held { there: Expect::Absent, ..held }
    }

    /// Opens an execution that is recorded; `None` where none is.
    ///
    /// # Errors
    /// Where the store cannot be read or written.
    pub async fn reopen(
        &self,
        tenant: &str,
        id: &str,
        unfinished: Unfinished,
    ) -> Result<Option<Opened>, StoreError> {
        loop {
            let Some(entry) = self.read(tenant, id).await? else { return Ok(None) };
            if let Some(opened) = self.go_on(entry, unfinished).await? {
                return Ok(Some(opened));
            }
        }
    }

    /// Returns the execution as it is recorded.
    ///
    /// # Errors
    /// Where the store cannot be read, or the record not be understood.
    pub async fn read(&self, tenant: &str, id: &str) -> Result<Option<Entry>, StoreError> {
        let found = steady::get(&*self.store, Kind::Execution, &execution_key(tenant, id)).await?;
        let now = StoreTime::read(found.now);
        found.record.map(|record| self.entry(record, now).map(|(entry, _)| entry)).transpose()
    }

    /// Returns what is recorded of an execution's steps, in no order.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn steps(&self, tenant: &str, id: &str) -> Result<Vec<Record>, StoreError> {
        self.of_execution(Kind::Step, tenant, id).await
    }

    /// Returns the results that an execution has made or is making, without their bytes.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn results(&self, tenant: &str, id: &str) -> Result<Vec<Record>, StoreError> {
        self.of_execution(Kind::Result, tenant, id).await
    }

    async fn of_execution(&self, kind: Kind, tenant: &str, id: &str) -> Result<Vec<Record>, StoreError> {
        let filter = Filter { tenant: Some(tenant.into()), execution: Some(id.into()), ..Filter::default() };
        list(&*self.store, kind, filter).await
    }

    /// Returns whether a listed execution is carried out by somebody now.
    pub fn is_held(&self, record: &Record, now: Timestamp) -> bool {
        is_held(&record.facts, now, &*self.store)
    }

    /// Returns the write that renews an execution's lease, from now on.
    pub fn renewal(&self, held: &Held) -> Write {
        Write::Renew {
            kind: Kind::Execution,
            key: held.key.clone(),
            revision: held.revision,
            lease_until: held.time.now().plus(self.lease),
        }
    }

    /// Notes how far an execution has come, for whoever goes on with it, and for people. It survives the death of this process
    /// once this returns, and the loss of power a little later.
    ///
    /// # Errors
    /// `Conflict` where the execution is no longer the caller's: it was cancelled, or taken over.
    pub async fn note_progress(
        &self,
        held: &mut Held,
        progress: Bytes,
        detail: Arc<str>,
    ) -> Result<(), StoreError> {
        let now = held.time.now();
        let facts =
            Facts { detail: Some(detail), lease_until: Some(now.plus(self.lease)), ..held.facts.clone() };
        let mut body = Body::decode(held.body.clone()).map_err(|error| corrupt(&held.key, &error))?;
        body.progress = progress;
        let body: Bytes = body.encode_to_vec().into();
        let revision = Revision::after(Some(held.revision), now);
        let record = Record {
            kind: Kind::Execution,
            key: held.key.clone(),
            revision,
            facts: facts.clone(),
            body: body.clone(),
        };
        let writes = vec![Write::Put { record, expect: held.there }];
        steady::commit(&*self.store, Batch { writes, sync: Sync::Later }).await?;
        let there = Expect::Revision(revision);
        *held = Held { facts, body, revision, there, ..held.clone() };
        Ok(())
    }

    /// Records how an execution ended, and until when that is remembered, together with the notes of
    /// its steps.
    ///
    /// # Errors
    /// `Conflict` where the execution is no longer the caller's: it was cancelled, or taken over.
    pub async fn finish(
        &self,
        held: &Held,
        status: Status,
        outcome: Bytes,
        detail: Arc<str>,
        retention: Option<Duration>,
        notes: Vec<Write>,
    ) -> Result<(), StoreError> {
        let now = held.time.now();
        let facts = Facts {
            status,
            lease_until: None,
            finished_at: Some(now),
            expires_at: retention.map(|retention| now.plus(retention)),
            detail: Some(detail),
            ..held.facts.clone()
        };
        let mut body = Body::decode(held.body.clone()).map_err(|error| corrupt(&held.key, &error))?;
        body.outcome = outcome;
        let revision = Revision::after(Some(held.revision), now);
        let body = body.encode_to_vec().into();
        let record = Record { kind: Kind::Execution, key: held.key.clone(), revision, facts, body };
        let mut writes = vec![Write::Put { record, expect: held.there }];
        writes.extend(notes);
        steady::commit(&*self.store, Batch { writes, sync: Sync::Later }).await
    }

    /// Asks for an execution to be stopped. Whoever carries it out learns of it when the lease is
    /// renewed. Returns the execution as it was, or `None` where none is recorded; one that has ended
    /// stays as it is.
    ///
    /// # Errors
    /// Where the store cannot be read or written.
    pub async fn cancel(&self, tenant: &str, id: &str) -> Result<Option<Entry>, StoreError> {
        let key = execution_key(tenant, id);
        loop {
            let found = steady::get(&*self.store, Kind::Execution, &key).await?;
            let now = StoreTime::read(found.now);
            let Some(record) = found.record else { return Ok(None) };
            let (entry, _) = self.entry(record.clone(), now)?;
            if !matches!(record.facts.status, Status::Running | Status::Interrupted) {
                return Ok(Some(entry));
            }
            let facts = Facts {
                status: Status::Cancelled,
                lease_until: None,
                finished_at: Some(found.now),
                expires_at: Some(found.now.plus(CANCELLED_KEPT)),
                ..record.facts.clone()
            };
            let expect = Expect::Revision(record.revision);
            let revision = Revision::after(Some(record.revision), found.now);
            let record = Record { revision, facts, ..record };
            let batch = Batch { writes: vec![Write::Put { record, expect }], sync: Sync::Now };
            match steady::commit(&*self.store, batch).await {
                Err(error) if error.kind() == StoreErrorKind::Conflict => {}
                done => return done.map(|()| Some(entry)),
            }
        }
    }

    /// Puts the record of an execution as carried out by this owner.
    async fn hold(&self, draft: Draft, last: Option<Revision>) -> Result<Held, StoreError> {
        let (held, write) = self.holding(draft, last);
        self.write_alone(write).await?;
        Ok(held)
    }

    /// Returns the write that puts it, and what is held then.
    fn holding(&self, draft: Draft, last: Option<Revision>) -> (Held, Write) {
        let Draft { key, facts, body, time } = draft;
        let now = time.now();
        let facts = Facts {
            status: Status::Running,
            owner: Some(Arc::clone(&self.owner)),
            lease_until: Some(now.plus(self.lease)),
            started_at: Some(now),
            finished_at: None,
            expires_at: None,
            attempts: facts.attempts + 1,
            ..facts
        };
        let revision = Revision::after(last, now);
        let record = Record {
            kind: Kind::Execution,
            key: key.clone(),
            revision,
            facts: facts.clone(),
            body: body.clone(),
        };
        let expect = last.map_or(Expect::Absent, Expect::Revision);
        let there = Expect::Revision(revision);
        (Held { key, facts, body, revision, there, time }, Write::Put { record, expect })
    }

    /// Goes on with an execution that is recorded. Returns `None` where it has changed meanwhile.
    async fn go_on(&self, entry: Entry, unfinished: Unfinished) -> Result<Option<Opened>, StoreError> {
        let resume = match entry.facts.status {
            Status::Running => return Ok(Some(Opened::Elsewhere(entry))),
            Status::Interrupted | Status::Released => true,
            Status::Failed | Status::Cancelled => unfinished != Unfinished::Return,
            Status::Done => unfinished == Unfinished::Again,
        };
        if !resume {
            return Ok(Some(Opened::Over(entry)));
        }
        let key = execution_key(&entry.facts.tenant, &entry.id);
        let found = steady::get(&*self.store, Kind::Execution, &key).await?.record;
        let Some(record) = found.filter(|record| record.revision == entry.revision) else { return Ok(None) };
        let mut body = Body::decode(record.body).map_err(|error| corrupt(&key, &error))?;
        body.outcome = Bytes::new();
        let body = body.encode_to_vec().into();
        let draft = Draft { key, facts: record.facts, body, time: entry.now };
        match self.hold(draft, Some(record.revision)).await {
            Ok(held) => Ok(Some(Opened::Resumed(held, entry))),
            Err(error) if error.kind() == StoreErrorKind::Conflict => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn entry(&self, record: Record, now: StoreTime) -> Result<(Entry, Bytes), StoreError> {
        let Body { request_digest, request, outcome, progress } =
            Body::decode(record.body.clone()).map_err(|error| corrupt(&record.key, &error))?;
        let held = self.is_held(&record, now.now());
        let Record { revision, mut facts, key, .. } = record;
        if facts.status == Status::Running && !held {
            facts.status = Status::Interrupted;
        }
        let id = facts.execution.clone().ok_or_else(|| corrupt(&key, &"it names no execution"))?;
        Ok((Entry { id, facts, request, outcome, progress, revision, now }, request_digest))
    }
}

/// Returns the record of an execution that nobody carries out yet.
fn drafted(new: &NewExecution, key: RecordKey, time: StoreTime) -> Draft {
    let body = Body {
        request_digest: Bytes::copy_from_slice(&new.request_digest),
        request: new.request.clone(),
        ..Body::default()
    };
    let facts = Facts {
        execution: Some(Arc::clone(&new.id)),
        detail: Some(Arc::clone(&new.detail)),
        ..Facts::new(Status::Running, Arc::clone(&new.tenant), time.now())
    };
    Draft { key, facts, body: body.encode_to_vec().into(), time }
}

/// Returns all records of a kind that fit, newest first, without their bodies.
///
/// # Errors
/// Where the store cannot be read.
pub(crate) async fn list(store: &dyn Store, kind: Kind, filter: Filter) -> Result<Vec<Record>, StoreError> {
    let mut records = Vec::new();
    let mut after = None;
    loop {
        let page = store.scan(&Query::Newest { kind, filter: filter.clone(), after }, PAGE).await?;
        records.extend(page.records);
        after = page.next;
        if after.is_none() {
            return Ok(records);
        }
    }
}

pub(crate) fn execution_key(tenant: &str, id: &str) -> RecordKey {
    RecordKey::parse(&format!("{tenant}/{id}")).expect("tenants and ids are short and plain")
}

/// A step's name may be anything; its hash is short and plain.
fn step_key(tenant: &str, id: &str, step: &str) -> RecordKey {
    let step = base16(&Sha256::digest(step)[..16]);
    RecordKey::parse(&format!("{tenant}/{id}/{step}")).expect("tenants and ids are short and plain")
}

fn base16(bytes: &[u8]) -> String {
    base16ct::lower::encode_string(bytes)
}

fn corrupt(key: &RecordKey, what: &dyn std::fmt::Display) -> StoreError {
    StoreError::new(
        StoreErrorKind::Corrupt,
        format!("the record of execution `{key}` cannot be read: {what}"),
    )
}
