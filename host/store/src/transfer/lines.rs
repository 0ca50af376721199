//! Owns the form of an export: lines of JSON that any tool can read, and that another release or
//! another store can take in again.
//!
//! ```text
//! {"docket_export":1,"scheme":"sled","exported_at":1795000000000}
//! {"kind":"result","key":"…","revision":1795000000000000,"status":"done","tenant":"acme","scope":"global",…,"body":"AAEC"}
//! {"end":true,"records":1}
//! ```
//!
//! The first line names the version of the form. Each line between is a record: its words and times as
//! they are queried, `detail` as the text of a JSON object, what is not known left out, and the body in
//! base64 (RFC 4648, with padding). Times are milliseconds since the Unix epoch by the store's clock. The
//! last line tells a whole export from one that was cut short.

use std::io::{BufRead, Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{Arrivals, Listing, Moved, TransferError};
use crate::clock::Timestamp;
use crate::record::{Facts, Kind, Record, RecordKey, Revision, Scope, Status};
use crate::store::{Query, Store};

/// The version that is written and read.
const VERSION: u32 = 1;

/// The longest line without its body: keys, names and details.
const FACTS: u64 = 16 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FirstLine {
    docket_export: u32,
    scheme: String,
    exported_at: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LastLine {
    end: bool,
    records: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordLine {
    kind: String,
    key: String,
    revision: u64,
    status: String,
    tenant: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    step: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    execution: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    module: Option<String>,
    attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease_until: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
    created_at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    started_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    finished_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    body: String,
}

/// Writes every record of the store as a line of JSON, and returns how many. The writing blocks.
///
/// # Errors
/// Where the store fails, or the lines cannot be written.
pub async fn export(store: &dyn Store, out: impl Write + Send) -> Result<u64, TransferError> {
    let mut out = std::io::BufWriter::new(out);
    // The time comes with any listing.
    let exported_at = store.scan(&Query::Expired, 1).await?.now.0;
    let scheme = store.abilities().scheme.to_owned();
    write_line(&mut out, &FirstLine { docket_export: VERSION, scheme, exported_at })?;
    let mut records = 0;
    for kind in Kind::ALL {
        let mut listing = Listing::of(kind);
        while let Some(page) = listing.next(store).await? {
            for listed in page {
                // It may have been removed since it was listed.
                if let Some(record) = store.get(kind, &listed.key).await?.record {
                    write_line(&mut out, &RecordLine::of(record))?;
                    records += 1;
                }
            }
        }
    }
    write_line(&mut out, &LastLine { end: true, records })?;
    out.flush().map_err(|error| TransferError::Io { done: "written", error })?;
    Ok(records)
}

/// Puts every record of an export into the store, which may hold some of them already, but no others in
/// their place. The reading blocks. Once this returns `Ok`, all are as safe as the store makes them.
///
/// # Errors
/// Where the store fails, or has another record in the place of one, or the lines are no whole export.
/// What was put before stays.
pub async fn import(to: &dyn Store, input: impl BufRead + Send) -> Result<Moved, TransferError> {
    let longest = FACTS + to.abilities().max_body.saturating_mul(4) / 3;
    let mut lines = Lines { input, longest, number: 0, line: Vec::new() };
    let first = lines.next()?.ok_or(TransferError::CutShort { records: 0 })?;
    let found = serde_json::from_slice::<serde_json::Value>(first).ok();
    match found.as_ref().and_then(|first| first.get("docket_export")?.as_u64()) {
        Some(version) if version == u64::from(VERSION) => {}
        Some(version) => {
            let why = format!("it has version {version}, and this release reads {VERSION}");
            return Err(lines.error(why));
        }
        None => return Err(lines.error("it does not begin with `docket_export`")),
    }
    let mut arrivals = Arrivals::new(to);
    let mut records = 0;
    loop {
        let line = lines.next()?.ok_or(TransferError::CutShort { records })?;
        if line.starts_with(br#"{"end""#) {
            let last: LastLine = serde_json::from_slice(line).map_err(|error| lines.error(error))?;
            if last.records != records {
                return Err(lines.error(format!("it tells of {} records after {records}", last.records)));
            }
            return arrivals.finish().await;
        }
        let read = serde_json::from_slice::<RecordLine>(line).map_err(|error| error.to_string());
        let record = read.and_then(RecordLine::read).map_err(|why| lines.error(why))?;
        arrivals.add(record).await?;
        records += 1;
    }
}

fn write_line(out: &mut impl Write, line: &impl Serialize) -> Result<(), TransferError> {
    let written = serde_json::to_writer(&mut *out, line).map_err(std::io::Error::from);
    written.and_then(|()| out.write_all(b"\n")).map_err(|error| TransferError::Io { done: "written", error })
}

/// Lines of a bounded length.
struct Lines<R> {
    input: R,
    longest: u64,
    number: u64,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// Returns the next line without its end; none at the end.
    fn next(&mut self) -> Result<Option<&[u8]>, TransferError> {
        self.number += 1;
        self.line.clear();
        let mut bounded = (&mut self.input).take(self.longest);
        let read = bounded.read_until(b'\n', &mut self.line);
        let read = read.map_err(|error| TransferError::Io { done: "read", error })?;
        if read == 0 {
            return Ok(None);
        }
        match self.line.strip_suffix(b"\n") {
            Some(line) => Ok(Some(line)),
            None if read as u64 == self.longest => {
                let why = format!("it is longer than {} bytes", self.longest);
                Err(TransferError::Line { number: self.number, why })
            }
            // Half a line is not read as a whole one.
            None => Ok(None),
        }
    }

    fn error(&self, why: impl ToString) -> TransferError {
        TransferError::Line { number: self.number, why: why.to_string() }
    }
}

impl RecordLine {
    fn of(record: Record) -> Self {
        let Record { kind, key, revision, facts, body } = record;
        let text = |text: Option<std::sync::Arc<str>>| text.map(|text| text.as_ref().to_owned());
        let millis = |at: Option<Timestamp>| at.map(|at| at.0);
        Self {
            kind: kind.as_str().to_owned(),
            key: key.to_string(),
            revision: revision.0,
            status: facts.status.as_str().to_owned(),
            tenant: facts.tenant.as_ref().to_owned(),
            scope: facts.scope.map(|scope| scope.as_str().to_owned()),
            step: text(facts.step),
            execution: text(facts.execution),
            module: text(facts.module),
            attempts: facts.attempts,
            owner: text(facts.owner),
            lease_until: millis(facts.lease_until),
            expires_at: millis(facts.expires_at),
            created_at: facts.created_at.0,
            started_at: millis(facts.started_at),
            finished_at: millis(facts.finished_at),
            detail: text(facts.detail),
            body: STANDARD.encode(body),
        }
    }

    fn read(self) -> Result<Record, String> {
        let unknown = |what: &str, word: &str| format!("there is no {what} `{}`", word.escape_debug());
        let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == self.kind);
        let scope = match &self.scope {
            None => None,
            Some(word) => Some(Scope::parse(word).ok_or_else(|| unknown("scope", word))?),
        };
        let facts = Facts {
            status: Status::parse(&self.status).ok_or_else(|| unknown("status", &self.status))?,
            tenant: self.tenant.into(),
            scope,
            step: self.step.map(Into::into),
            execution: self.execution.map(Into::into),
            module: self.module.map(Into::into),
            attempts: self.attempts,
            owner: self.owner.map(Into::into),
            lease_until: self.lease_until.map(Timestamp),
            expires_at: self.expires_at.map(Timestamp),
            created_at: Timestamp(self.created_at),
            started_at: self.started_at.map(Timestamp),
            finished_at: self.finished_at.map(Timestamp),
            detail: self.detail.map(Into::into),
        };
        Ok(Record {
            kind: kind.ok_or_else(|| unknown("kind", &self.kind))?,
            key: RecordKey::parse(&self.key).map_err(|error| error.to_string())?,
            revision: Revision(self.revision),
            facts,
            body: STANDARD
                .decode(self.body)
                .map_err(|error| format!("its body is no base64: {error}"))?
                .into(),
        })
    }
}
