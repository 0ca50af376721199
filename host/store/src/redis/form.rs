//! Owns the stored form of a record: a hash whose fields people can read. Knows nothing of listings.

use std::sync::Arc;

use bytes::Bytes;
use redis::Value;

use crate::clock::Timestamp;
use crate::error::{StoreError, StoreErrorKind};
use crate::record::{Facts, Kind, Record, RecordKey, Revision, Scope, Status};

/// The format of the records below a prefix, kept beside them.
pub(super) const FORMAT: &str = "1";

/// The fields of a record without its body, in the order that [`decode`] expects.
pub(super) const FIELDS: [&str; 16] = [
    "revision",
    "body_bytes",
    "status",
    "tenant",
    "scope",
    "step",
    "execution",
    "module",
    "attempts",
    "owner",
    "lease_until",
    "expires_at",
    "created_at",
    "started_at",
    "finished_at",
    "detail",
];

/// The field of the body.
pub(super) const BODY: &str = "body";

/// Returns the fields and values of the record's hash; what is not known has no field.
pub(super) fn encode(record: &Record) -> Vec<(&'static str, Bytes)> {
    let number = |number: u64| Some(Bytes::from(number.to_string()));
    let time = |at: Option<Timestamp>| at.and_then(|Timestamp(millis)| number(millis));
    let text = |text: &Option<Arc<str>>| text.as_deref().map(|text| Bytes::copy_from_slice(text.as_bytes()));
    let word = |word: &'static str| Some(Bytes::from_static(word.as_bytes()));
    let Record { kind: _, key: _, revision: Revision(revision), facts, body } = record;
    let values = [
        number(*revision),
        number(body.len() as u64),
        word(facts.status.as_str()),
        text(&Some(facts.tenant.clone())),
        facts.scope.and_then(|scope| word(scope.as_str())),
        text(&facts.step),
        text(&facts.execution),
        text(&facts.module),
        number(facts.attempts.into()),
        text(&facts.owner),
        time(facts.lease_until),
        time(facts.expires_at),
        time(Some(facts.created_at)),
        time(facts.started_at),
        time(facts.finished_at),
        text(&facts.detail),
    ];
    let known = FIELDS.into_iter().zip(values).filter_map(|(field, value)| Some((field, value?)));
    known.chain([(BODY, body.clone())]).collect()
}

/// Returns the record that these values of [`FIELDS`] and, where it was asked for, of [`BODY`] are;
/// none where there is none.
///
/// # Errors
/// `Corrupt` where they are not what [`encode`] wrote.
pub(super) fn decode(kind: Kind, key: RecordKey, values: Vec<Value>) -> Result<Option<Record>, StoreError> {
    let mut values = Values { name: format!("{}/{key}", kind.as_str()), values: values.into_iter() };
    let Some(revision) = values.number("revision")? else { return Ok(None) };
    let body_bytes: u64 = values.number("body_bytes")?.ok_or_else(|| values.lacks("body_bytes"))?;
    let facts = Facts {
        status: values.word("status", Status::parse)?.ok_or_else(|| values.lacks("status"))?,
        tenant: values.text("tenant")?.ok_or_else(|| values.lacks("tenant"))?,
        scope: values.word("scope", Scope::parse)?,
        step: values.text("step")?,
        execution: values.text("execution")?,
        module: values.text("module")?,
        attempts: values.number("attempts")?.ok_or_else(|| values.lacks("attempts"))?,
        owner: values.text("owner")?,
        lease_until: values.number("lease_until")?.map(Timestamp),
        expires_at: values.number("expires_at")?.map(Timestamp),
        created_at: values.number("created_at")?.map(Timestamp).ok_or_else(|| values.lacks("created_at"))?,
        started_at: values.number("started_at")?.map(Timestamp),
        finished_at: values.number("finished_at")?.map(Timestamp),
        detail: values.text("detail")?,
    };
    let body = match values.values.next() {
        None => Bytes::new(),
        Some(Value::BulkString(body)) if body.len() as u64 == body_bytes => body.into(),
        Some(Value::BulkString(body)) => {
            return Err(values.corrupt(format_args!("its body has {} bytes of {body_bytes}", body.len())));
        }
        Some(_) => return Err(values.lacks(BODY)),
    };
    Ok(Some(Record { kind, key, revision: Revision(revision), facts, body }))
}

/// The values not yet read.
struct Values {
    /// Whose they are, for messages.
    name: String,
    values: std::vec::IntoIter<Value>,
}

impl Values {
    fn text(&mut self, field: &str) -> Result<Option<Arc<str>>, StoreError> {
        match self.values.next() {
            Some(Value::BulkString(bytes)) => match String::from_utf8(bytes) {
                Ok(text) => Ok(Some(text.into())),
                Err(_) => Err(self.corrupt(format_args!("its field `{field}` is no text"))),
            },
            Some(Value::Nil) => Ok(None),
            _ => Err(self.lacks(field)),
        }
    }

    fn number<N: std::str::FromStr>(&mut self, field: &str) -> Result<Option<N>, StoreError> {
        self.word(field, |text| text.parse().ok())
    }

    fn word<T>(
        &mut self,
        field: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, StoreError> {
        let Some(text) = self.text(field)? else { return Ok(None) };
        match parse(&text) {
            Some(value) => Ok(Some(value)),
            None => Err(self.corrupt(format_args!("its field `{field}` is `{}`", text.escape_debug()))),
        }
    }

    fn lacks(&self, field: &str) -> StoreError {
        self.corrupt(format_args!("it lacks the field `{field}`"))
    }

    fn corrupt(&self, why: impl std::fmt::Display) -> StoreError {
        StoreError::new(StoreErrorKind::Corrupt, format!("the record `{}` cannot be read: {why}", self.name))
    }
}
