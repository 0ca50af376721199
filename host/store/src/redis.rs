//! Owns the store on a Redis server: hashes for the records, sorted sets for the listings, one script
//! that writes a batch. Never lets Redis expire a record, and never decides what records mean.
//!
//! Below the prefix `docket:{NAMESPACE}:`, in braces so that a cluster keeps it in one place:
//!
//! | key | type | what |
//! |---|---|---|
//! | `record:KIND:KEY` | hash | a record: its facts in words and digits, and its body |
//! | `list:KIND` | sorted set | every record of the kind, the newest first |
//! | `list:KIND:tenant:NAME`, `…:step:NAME`, `…:execution:ID`, `…:status:WORD` | sorted set | those that have it |
//! | `expires` | sorted set | the records that expire, the first first |
//! | `format` | string | the number of this format |
//! | `changed` | channel | `KIND/KEY` of each record that was written |
//!
//! Members of listings sort as text: 20 digits of time (in listings its complement to nines, so that
//! the newest is the first), then the key. A score is a float and cannot tell all times apart.
//!
//! A server with replicas promises less: replication is not waited for, so that a failover may lose
//! what was acknowledged, and grant a claim twice.

mod form;
mod line;
mod settings;

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use redis::{Client, IntoConnectionInfo, Script, Value, pipe};
use tokio::task::JoinSet;

use self::line::{DIAL, Failed, Line};
use self::settings::Settings;
use crate::changes::Changes;
use crate::clock::{Timestamp, sleep, within};
use crate::error::{StoreError, StoreErrorKind};
use crate::record::{Kind, RecordKey};
use crate::store::{Abilities, Batch, Cursor, Expect, Filter, Found, Page, Query, Sharing, Store, Write};

/// The namespace where the address names none.
const NAMESPACE: &str = "docket";

/// How long a waiter relies on being woken: a message may be lost with its connection.
const POLL: Duration = Duration::from_secs(1);

/// How long the listener rests before it dials again.
const REDIAL: Duration = Duration::from_secs(1);

/// How many records one call of the listing script looks at: the server does nothing else meanwhile.
const LOOK: usize = 512;

/// How many bytes of bodies a batch may have: the server takes 1 GiB of one request, and Lua copies it.
const MAX_BATCH: u64 = 256 << 20;

/// What `scan.lua` answers: the time, the place to go on from, and each record's key and fields.
type Listed = (Value, Option<(u64, String)>, Vec<(String, Vec<Value>)>);

/// A store on a Redis server.
pub struct RedisStore {
    line: Line,
    prefix: String,
    settings: Settings,
    commit: Script,
    scan: Script,
    changes: Arc<Changes>,
    /// Hears what others have written; stopped when this is dropped.
    listener: std::sync::Mutex<JoinSet<()>>,
}

impl RedisStore {
    /// Returns the store on the server that the address names: `redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]`,
    /// `rediss://…` (with TLS, where that is compiled in) or `redis+unix:///PATH`. Stores of different
    /// namespaces (`?prefix=NAME`, else `docket`) share a server and see nothing of each other.
    ///
    /// # Errors
    /// `Unusable` where the address is none, the server refuses the password or has settings that lose
    /// records at will; `Unavailable` where it does not answer; `Corrupt` where the records have another
    /// format. No message shows the password.
    pub async fn connect(address: &str) -> Result<Self, StoreError> {
        let (client, shown, namespace) = parse(address)?;
        // Without one, or with two compiled in, rustls would panic. Whoever has chosen one keeps it.
        #[cfg(feature = "redis-tls")]
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // An error says that somebody was faster.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let line = Line::new(client, shown);
        let settings = settings::ask(&line).await?;
        let prefix = format!("docket:{{{namespace}}}:");
        check_format(&line, &prefix).await?;
        let changes = Arc::new(Changes::new());
        let mut listener = JoinSet::new();
        listener.spawn(listen(line.client().clone(), prefix.clone(), changes.clone()));
        Ok(Self {
            line,
            prefix,
            settings,
            commit: Script::new(include_str!("redis/commit.lua")),
            scan: Script::new(include_str!("redis/scan.lua")),
            changes,
            listener: std::sync::Mutex::new(listener),
        })
    }

    /// Returns what the operator should know of the server's settings, where they promise less than
    /// [`Durability::Power`](crate::Durability::Power).
    pub fn warning(&self) -> Option<&str> {
        self.settings.warning.as_deref()
    }

    fn name(&self, kind: Kind, key: &RecordKey) -> String {
        format!("{}record:{}:{key}", self.prefix, kind.as_str())
    }

    async fn newest(
        &self,
        kind: Kind,
        filter: &Filter,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        // One more than asked for tells whether there is more.
        let wanted = limit.saturating_add(1);
        let (mut records, mut after, mut now) = (Vec::new(), after.cloned(), None);
        loop {
            let most = (wanted - records.len()).min(LOOK);
            let arguments = listing(kind, filter, after.as_ref(), most);
            let (time, place, found): Listed =
                self.line.read_script(&self.scan, std::slice::from_ref(&self.prefix), &arguments).await?;
            // The time at the beginning: what is written later may be missing.
            now = now.or(Some(time_of(time)?));
            for (key, values) in found {
                records.extend(form::decode(kind, record_key(&key)?, values)?);
            }
            let Some((created_at, key)) = place.filter(|_| records.len() < wanted) else { break };
            after = Some(Cursor { created_at: Timestamp(created_at), key: record_key(&key)? });
        }
        let more = records.len() > limit;
        records.truncate(limit);
        let last = records.last().filter(|_| more);
        let next = last.map(|last| Cursor { created_at: last.facts.created_at, key: last.key.clone() });
        Ok(Page { records, next, now: now.unwrap_or_default() })
    }

    async fn expired(&self, limit: usize) -> Result<Page, StoreError> {
        let (time,) = self.line.read(pipe().cmd("TIME")).await?;
        let now = time_of(time)?;
        let mut asked = pipe();
        let end = format!("({:020}", now.0 + 1);
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        asked.cmd("ZRANGEBYLEX").arg(format!("{}expires", self.prefix)).arg("-").arg(end);
        asked.arg("LIMIT").arg(0).arg(most);
        let (members,): (Vec<String>,) = self.line.read(&asked).await?;
        let mut records = Vec::with_capacity(members.len());
        for members in members.chunks(LOOK) {
            let places = members.iter().map(|member| expiring(member)).collect::<Result<Vec<_>, _>>()?;
            let mut asked = pipe();
            for (kind, key) in &places {
                asked.cmd("HMGET").arg(self.name(*kind, key)).arg(&form::FIELDS);
            }
            let found: Vec<Vec<Value>> = self.line.read(&asked).await?;
            for ((kind, key), values) in places.into_iter().zip(found) {
                let record = form::decode(kind, key, values)?;
                records.extend(record.filter(|record| record.facts.is_expired(now)));
            }
        }
        Ok(Page { records, next: None, now })
    }
}

#[async_trait]
impl Store for RedisStore {
    fn abilities(&self) -> Abilities {
        Abilities {
            scheme: "redis",
            durability: self.settings.durability,
            sharing: Sharing::Network,
            max_body: self.settings.max_body,
            poll: Some(POLL),
            process: None,
        }
    }

    async fn get(&self, kind: Kind, key: &RecordKey) -> Result<Found, StoreError> {
        let mut asked = pipe();
        asked.cmd("TIME").cmd("HMGET").arg(self.name(kind, key)).arg(&form::FIELDS).arg(form::BODY);
        let (time, values) = self.line.read(&asked).await?;
        Ok(Found { record: form::decode(kind, key.clone(), values)?, now: time_of(time)? })
    }

    async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        if batch.writes.is_empty() {
            return Ok(());
        }
        check_size(&batch, self.settings.max_body)?;
        let places: Vec<_> = batch.writes.iter().map(place).collect();
        let keys: Vec<String> = places.iter().map(|(kind, key)| self.name(*kind, key)).collect();
        let mut arguments = vec![Bytes::from(self.prefix.clone())];
        batch.writes.iter().for_each(|write| push(&mut arguments, write));
        let arguments: Vec<&[u8]> = arguments.iter().map(Bytes::as_ref).collect();
        match self.line.run::<usize>(&self.commit, &keys, &arguments).await {
            Ok(0) => {
                self.changes.tell(&batch);
                Ok(())
            }
            Ok(unmet) => match places.get(unmet - 1) {
                Some((kind, key)) => Err(StoreError::conflict(format_args!("{}/{key}", kind.as_str()))),
                None => {
                    Err(StoreError::new(StoreErrorKind::Corrupt, "Redis names a write that there is not"))
                }
            },
            Err(Failed::Refused(error)) => Err(error),
            Err(Failed::Lost(error)) => {
                let address = self.line.address();
                let message = format!("the answer of the Redis server at `{address}` was lost: {error}");
                Err(StoreError::new(StoreErrorKind::Unknown, message))
            }
        }
    }

    async fn scan(&self, query: &Query, limit: usize) -> Result<Page, StoreError> {
        match query {
            Query::Newest { kind, filter, after } => self.newest(*kind, filter, after.as_ref(), limit).await,
            Query::Expired => self.expired(limit).await,
        }
    }

    async fn changed(&self, kind: Kind, key: &RecordKey, most: Duration) {
        self.changes.wait(kind, key, most).await;
    }

    async fn sync(&self) -> Result<(), StoreError> {
        // Each batch was as safe as the server makes it before it was acknowledged.
        self.line.read::<(String,)>(pipe().cmd("PING")).await.map(drop)
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.line.close().await;
        let mut listener = std::mem::take(&mut *self.listener.lock().unwrap_or_else(PoisonError::into_inner));
        listener.shutdown().await;
        Ok(())
    }
}

/// Returns the client, the address without its secrets, and the namespace.
fn parse(address: &str) -> Result<(Client, String, String), StoreError> {
    let unusable =
        |why: &str| StoreError::new(StoreErrorKind::Unusable, format!("the address of a Redis store {why}"));
    let mut url = redis::parse_redis_url(address)
        .ok_or_else(|| unusable("is not like `redis://[[USER]:PASSWORD@]HOST[:PORT][/DB][?prefix=NAME]`"))?;
    if cfg!(not(feature = "redis-tls")) && url.scheme() == "rediss" {
        return Err(unusable(
            "asks for TLS, which this build of Docket has not: build it with the feature `redis-tls`",
        ));
    }
    let mut namespace = NAMESPACE.to_owned();
    let mut others = Vec::new();
    for (name, value) in url.query_pairs() {
        match name.as_ref() {
            "prefix" => namespace = value.into_owned(),
            "protocol" | "db" | "user" | "pass" => others.push((name.into_owned(), value.into_owned())),
            _ => return Err(unusable(&format!("knows no `?{}=`; it knows `prefix`", name.escape_debug()))),
        }
    }
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    if !(1..=64).contains(&namespace.len()) || !namespace.bytes().all(fits) {
        return Err(unusable("has a `prefix` that is not 1 to 64 letters, digits or `-_.:`"));
    }
    url.set_query(None);
    if !others.is_empty() {
        url.query_pairs_mut().extend_pairs(others);
    }
    let refused = |error: redis::RedisError| unusable(&format!("is refused: {error}"));
    let info = url.into_connection_info().map_err(refused)?;
    let shown = info.addr().to_string();
    Ok((Client::open(info).map_err(refused)?, shown, namespace))
}

async fn check_format(line: &Line, prefix: &str) -> Result<(), StoreError> {
    let key = format!("{prefix}format");
    let mut asked = pipe();
    asked.cmd("GET").arg(&key);
    let (mut found,): (Option<String>,) = line.read(&asked).await?;
    if found.is_none() {
        // Twice is as good as once, whoever comes first.
        let mut asked = pipe();
        asked.cmd("SET").arg(&key).arg(form::FORMAT).arg("NX").ignore().cmd("GET").arg(&key);
        (found,) = line.read(&asked).await?;
    }
    match found.as_deref() {
        Some(form::FORMAT) => Ok(()),
        found => {
            let message = format!(
                "the records below `{prefix}` at `{}` have the format `{}`, and this release reads `{}`",
                line.address(),
                found.unwrap_or_default().escape_debug(),
                form::FORMAT
            );
            Err(StoreError::new(StoreErrorKind::Corrupt, message))
        }
    }
}

/// Passes on what the server says has changed, for as long as it is let.
async fn listen(client: Client, prefix: String, changes: Arc<Changes>) {
    loop {
        if let Some(Ok(mut heard)) = within(DIAL, client.get_async_pubsub()).await
            && heard.subscribe(format!("{prefix}changed")).await.is_ok()
        {
            let mut messages = heard.on_message();
            while let Some(message) = messages.next().await {
                let named = std::str::from_utf8(message.get_payload_bytes()).ok();
                if let Some((kind, key)) = named.and_then(place_of) {
                    changes.tell_of(kind, key);
                }
            }
        }
        sleep(REDIAL).await;
    }
}

fn check_size(batch: &Batch, max_body: u64) -> Result<(), StoreError> {
    let mut total = 0;
    for write in &batch.writes {
        let Write::Put { record, .. } = write else { continue };
        let bytes = record.body.len() as u64;
        total += bytes;
        if bytes > max_body {
            let (kind, key) = (record.kind.as_str(), &record.key);
            let message = format!("the {kind} `{key}` has {bytes} bytes, and the store takes {max_body}");
            return Err(StoreError::new(StoreErrorKind::TooLarge, message));
        }
    }
    if total > MAX_BATCH {
        let message = format!("a batch has {total} bytes, and the store takes {MAX_BATCH} at once");
        return Err(StoreError::new(StoreErrorKind::TooLarge, message));
    }
    Ok(())
}

fn place(write: &Write) -> (Kind, RecordKey) {
    match write {
        Write::Put { record, .. } => (record.kind, record.key.clone()),
        Write::Renew { kind, key, .. } | Write::Delete { kind, key, .. } => (*kind, key.clone()),
    }
}

/// Adds the arguments of one write, as `commit.lua` says.
fn push(arguments: &mut Vec<Bytes>, write: &Write) {
    let (kind, key) = place(write);
    let word = |word: &'static str| Bytes::from_static(word.as_bytes());
    let expected = |expect: &Expect| match expect {
        Expect::Absent => word("absent"),
        Expect::Revision(revision) => Bytes::from(revision.0.to_string()),
        Expect::Any => word("any"),
    };
    let (operation, expect, rest) = match write {
        Write::Put { record, expect } => {
            let fields = form::encode(record).into_iter();
            ("put", expected(expect), fields.flat_map(|(field, value)| [word(field), value]).collect())
        }
        Write::Renew { revision, lease_until, .. } => {
            ("renew", expected(&Expect::Revision(*revision)), vec![Bytes::from(lease_until.0.to_string())])
        }
        Write::Delete { expect, .. } => ("delete", expected(expect), Vec::new()),
    };
    let key = Bytes::copy_from_slice(key.as_str().as_bytes());
    arguments.extend([
        word(operation),
        word(kind.as_str()),
        key,
        expect,
        Bytes::from(rest.len().to_string()),
    ]);
    arguments.extend(rest);
}

/// Returns the arguments of a listing, as `scan.lua` says.
fn listing(kind: Kind, filter: &Filter, after: Option<&Cursor>, limit: usize) -> Vec<Vec<u8>> {
    let Filter { tenant, step, execution, status, created_before } = filter;
    let asked = |text: Option<&str>| text.map(|text| format!("={text}")).unwrap_or_default();
    let mut arguments = vec![
        kind.as_str().to_owned(),
        asked(tenant.as_deref()),
        asked(step.as_deref()),
        asked(execution.as_deref()),
        asked(status.map(|status| status.as_str())),
        created_before.map(|before| before.0.to_string()).unwrap_or_default(),
        after.map(|after| after.created_at.0.to_string()).unwrap_or_default(),
        after.map(|after| after.key.to_string()).unwrap_or_default(),
        limit.to_string(),
        LOOK.to_string(),
    ];
    arguments.extend(form::FIELDS.map(str::to_owned));
    arguments.into_iter().map(String::into_bytes).collect()
}

/// Returns the time that `TIME` answers: seconds and microseconds.
fn time_of(answer: Value) -> Result<Timestamp, StoreError> {
    let (seconds, micros): (u64, u64) = redis::from_redis_value(answer)
        .map_err(|error| StoreError::new(StoreErrorKind::Corrupt, format!("Redis tells no time: {error}")))?;
    Ok(Timestamp(seconds * 1000 + micros / 1000))
}

/// Returns the record that a member of `expires` stands for.
fn expiring(member: &str) -> Result<(Kind, RecordKey), StoreError> {
    let place = member.get(20..).and_then(place_of);
    place.ok_or_else(|| {
        let message = format!("`{}` is listed as a record that expires", member.escape_debug());
        StoreError::new(StoreErrorKind::Corrupt, message)
    })
}

/// Returns what `KIND/KEY` names.
fn place_of(named: &str) -> Option<(Kind, RecordKey)> {
    let (kind, key) = named.split_once('/')?;
    let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind)?;
    Some((kind, RecordKey::parse(key).ok()?))
}

fn record_key(key: &str) -> Result<RecordKey, StoreError> {
    RecordKey::parse(key).map_err(|error| StoreError::new(StoreErrorKind::Corrupt, error.to_string()))
}
