//! Owns the way of a record into the table's columns and back. Times and revisions are signed there;
//! revisions keep their bits, times end with the last that can be said.

use std::sync::Arc;

use bytes::Bytes;

use super::dialect::COLUMNS;
use super::session::{Row, Value};
use crate::clock::Timestamp;
use crate::error::{StoreError, StoreErrorKind};
use crate::record::{Facts, Kind, Record, RecordKey, Revision, Scope, Status};

/// The place of the revision, which every record has.
pub(super) const REVISION: usize = 2;

/// The number of columns.
pub(super) const COUNT: usize = COLUMNS.len();

/// The longest of the names that are indexed, in characters: what every database can index.
const LONGEST_NAME: usize = 512;

/// Returns the values of the key's columns.
pub(super) fn key_values(kind: Kind, key: &RecordKey) -> [Value; 2] {
    [word(kind.as_str()), word(key.as_str())]
}

/// Returns the values of all columns but the key's, in their order.
pub(super) fn fact_values(record: &Record) -> Vec<Value> {
    let Record { kind: _, key: _, revision, facts, body } = record;
    let Facts {
        status,
        tenant,
        scope,
        step,
        execution,
        module,
        attempts,
        owner,
        lease_until,
        expires_at,
        created_at,
        started_at,
        finished_at,
        detail,
    } = facts;
    vec![
        revision_value(*revision),
        word(status.as_str()),
        text(Some(tenant)),
        Value::Text(scope.map(|scope| scope.as_str().into())),
        text(step.as_ref()),
        text(execution.as_ref()),
        text(module.as_ref()),
        Value::Number(Some(i64::from(*attempts))),
        text(owner.as_ref()),
        Value::Number(lease_until.map(signed)),
        Value::Number(expires_at.map(signed)),
        Value::Number(Some(signed(*created_at))),
        Value::Number(started_at.map(signed)),
        Value::Number(finished_at.map(signed)),
        text(detail.as_ref()),
        Value::Bytes(body.clone()),
    ]
}

pub(super) fn revision_value(revision: Revision) -> Value {
    Value::Number(Some(revision.0.cast_signed()))
}

pub(super) fn time_value(time: Timestamp) -> Value {
    Value::Number(Some(signed(time)))
}

pub(super) fn text(text: Option<&Arc<str>>) -> Value {
    Value::Text(text.cloned())
}

pub(super) fn word(word: &str) -> Value {
    Value::Text(Some(word.into()))
}

/// Returns the record whose columns begin at the row's first; its body too, where the row has it.
///
/// # Errors
/// `Corrupt` where a column has a value that no record has, with the column's name.
pub(super) fn record(row: &impl Row, body: Body) -> Result<Record, StoreError> {
    let kind_word = needed(row.text(0), "kind")?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == kind_word);
    let kind = kind.ok_or_else(|| unread("kind", &kind_word))?;
    let key = needed(row.text(1), "record_key")?;
    let key = RecordKey::parse(&key).map_err(|_| unread("record_key", &key))?;
    let status = needed(row.text(3), "status")?;
    let status = Status::parse(&status).ok_or_else(|| unread("status", &status))?;
    let scope = read(row.text(5), "scope")?;
    let scope = scope.map(|scope| Scope::parse(&scope).ok_or_else(|| unread("scope", &scope))).transpose()?;
    let name = |column, name| Ok::<_, StoreError>(read(row.text(column), name)?.map(Arc::from));
    let time = |column, name| Ok::<_, StoreError>(read(row.number(column), name)?.map(unsigned));
    let attempts = needed(row.number(9), "attempts")?;
    let facts = Facts {
        status,
        tenant: needed(row.text(4), "tenant")?.into(),
        scope,
        step: name(6, "step_name")?,
        execution: name(7, "execution_id")?,
        module: name(8, "module_digest")?,
        attempts: u32::try_from(attempts).map_err(|_| unread("attempts", &attempts.to_string()))?,
        owner: name(10, "owner")?,
        lease_until: time(11, "lease_until")?,
        expires_at: time(12, "expires_at")?,
        created_at: unsigned(needed(row.number(13), "created_at")?),
        started_at: time(14, "started_at")?,
        finished_at: time(15, "finished_at")?,
        detail: name(16, "detail")?,
    };
    let revision = Revision(needed(row.number(2), "revision")?.cast_unsigned());
    let body = match body {
        Body::Read => needed(row.bytes(17), "body")?.into(),
        Body::LeftOut => Bytes::new(),
    };
    Ok(Record { kind, key, revision, facts, body })
}

/// Whether a row has the body.
#[derive(Clone, Copy)]
pub(super) enum Body {
    Read,
    LeftOut,
}

/// Checks that a record fits into the columns.
///
/// # Errors
/// `TooLarge`, with what is too large and the limit.
pub(super) fn check_size(record: &Record, max_body: u64, database: &str) -> Result<(), StoreError> {
    let Record { kind, key, facts, body, .. } = record;
    let what = format!("the {} `{key}`", kind.as_str());
    let bytes = body.len() as u64 + facts.detail.as_ref().map_or(0, |detail| detail.len() as u64);
    if bytes > max_body {
        let message = format!("{what} has {bytes} bytes, and {database} takes {max_body}");
        return Err(StoreError::new(StoreErrorKind::TooLarge, message));
    }
    let names = [
        ("tenant", Some(&facts.tenant)),
        ("step", facts.step.as_ref()),
        ("execution", facts.execution.as_ref()),
        ("module", facts.module.as_ref()),
        ("owner", facts.owner.as_ref()),
    ];
    for (name, text) in names {
        let length = text.map_or(0, |text| text.chars().count());
        if length > LONGEST_NAME {
            let message =
                format!("the {name} of {what} has {length} characters, and {database} takes {LONGEST_NAME}");
            return Err(StoreError::new(StoreErrorKind::TooLarge, message));
        }
    }
    Ok(())
}

/// Returns the time that the database's number says.
pub(super) fn unsigned(millis: i64) -> Timestamp {
    Timestamp(u64::try_from(millis).unwrap_or_default())
}

fn signed(time: Timestamp) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

fn read<T>(value: Result<Option<T>, sqlx::Error>, column: &str) -> Result<Option<T>, StoreError> {
    value.map_err(|error| {
        StoreError::new(StoreErrorKind::Corrupt, format!("the column `{column}` cannot be read: {error}"))
    })
}

fn needed<T>(value: Result<Option<T>, sqlx::Error>, column: &str) -> Result<T, StoreError> {
    read(value, column)?.ok_or_else(|| unread(column, "NULL"))
}

fn unread(column: &str, value: &str) -> StoreError {
    let message = format!("the column `{column}` of `docket_record` has `{}`", value.escape_debug());
    StoreError::new(StoreErrorKind::Corrupt, message)
}
