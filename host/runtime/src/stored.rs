//! Owns how values, failures, requests and outcomes are written as bytes of records. Every form opens
//! with a number that says which it is; samples of each stay in the tree. Never touches a store.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use docket_graph::{FailureClass, OnItemError, Port};
use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::failure::{ErrorKind, ExecutionError, StepFailure};
use crate::items::ItemSource;
use crate::outcome::Outcome;
use crate::report::{ExecutionOutcome, Report};
use crate::value::{Payload, Value};

/// A value of one message: the form, then the message as it is.
const ONE: u8 = 1;
/// A value of many messages: the form, then each message behind its length as a varint.
const MANY: u8 = 2;

/// Why stored bytes are not understood.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the stored {what} cannot be read: {why}")]
pub struct StoredError {
    what: &'static str,
    why: String,
}

impl StoredError {
    fn new(what: &'static str, why: impl std::fmt::Display) -> Self {
        Self { what, why: why.to_string() }
    }
}

/// Returns a value as bytes.
pub(crate) fn encode_value(value: &Value) -> Bytes {
    let mut bytes = Vec::with_capacity(value.len_bytes() + 1 + 5 * value.payloads().len());
    match value {
        Value::One(payload) => {
            bytes.push(ONE);
            bytes.extend_from_slice(payload.bytes());
        }
        Value::Many(payloads) => {
            bytes.push(MANY);
            for payload in payloads {
                prost::encode_length_delimiter(payload.bytes().len(), &mut bytes)
                    .expect("a vector takes everything");
                bytes.extend_from_slice(payload.bytes());
            }
        }
    }
    bytes.into()
}

/// Returns the value that the bytes are; its messages share them.
///
/// # Errors
/// Where they are damaged, or of a newer form.
pub fn decode_value(bytes: &Bytes) -> Result<Value, StoredError> {
    match bytes.first() {
        Some(&ONE) => Ok(Value::One(Payload::new(bytes.slice(1..)))),
        Some(&MANY) => {
            let mut rest = bytes.slice(1..);
            let mut payloads = Vec::new();
            while !rest.is_empty() {
                let length = prost::decode_length_delimiter(&mut rest)
                    .map_err(|error| StoredError::new("value", error))?;
                if length > rest.len() {
                    return Err(StoredError::new("value", "it ends within a message"));
                }
                payloads.push(Payload::new(rest.split_to(length)));
            }
            Ok(Value::Many(payloads))
        }
        Some(form) => {
            Err(StoredError::new("value", format!("its form is {form}, and 1 and 2 are known; is it newer?")))
        }
        None => Err(StoredError::new("value", "it is empty")),
    }
}

/// A failure, as other executions learn of it.
#[derive(Serialize, Deserialize)]
struct StoredFailure {
    class: FailureClass,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    message: String,
}

/// Returns a failure as bytes.
pub(crate) fn encode_failure(failure: &StepFailure) -> Bytes {
    let stored = StoredFailure {
        class: failure.class(),
        code: failure.code().map(str::to_owned),
        message: failure.to_string(),
    };
    serde_json::to_vec(&stored).expect("words and texts become JSON").into()
}

/// Returns the failure that the bytes are.
pub(crate) fn decode_failure(bytes: &[u8]) -> Result<StepFailure, StoredError> {
    let StoredFailure { class, code, message } =
        serde_json::from_slice(bytes).map_err(|error| StoredError::new("failure", error))?;
    Ok(StepFailure::Elsewhere { class, code, message })
}

/// What was asked, for whoever resumes it.
#[derive(Clone, Debug)]
pub struct StoredRequest {
    /// What was asked for.
    pub target: Port,
    /// What was given.
    pub inputs: Vec<(Port, Arc<Value>)>,
    /// When the execution started, in milliseconds since the Unix epoch: its steps' clock.
    pub started_at_ms: u64,
    /// The modules of its plan: name, and digest in hexadecimal.
    pub modules: Vec<(String, String)>,
    /// What the embedder needs to set the host up again as it was.
    pub settings: Option<String>,
    /// Of a batch: what is known of its items, which are not in `inputs`.
    pub batch: Option<StoredBatch>,
}

/// What is stored of a batch beside what all its items share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBatch {
    /// The port that the items come for.
    pub items: Port,
    /// What the failure of one is to the others.
    pub on_item_error: OnItemError,
    /// Where they come from.
    pub source: ItemSource,
}

#[derive(Clone, PartialEq, prost::Message)]
struct BatchForm {
    #[prost(string, tag = "1")]
    items: String,
    #[prost(bool, tag = "2")]
    continues: bool,
    /// The path of their file, where they have one.
    #[prost(string, optional, tag = "3")]
    file: Option<String>,
}

/// How far a batch has read its items.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ItemsRead {
    /// How many were read.
    #[prost(uint64, tag = "1")]
    pub(crate) read: u64,
    /// A hash of those.
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) digest: Bytes,
}

impl ItemsRead {
    /// Returns this as bytes.
    pub(crate) fn encode(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    /// Returns what the bytes are; none where there are none.
    pub(crate) fn read_from(bytes: &Bytes) -> Result<Option<Self>, StoredError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        Self::decode(bytes.clone()).map(Some).map_err(|error| StoredError::new("progress", error))
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct RequestForm {
    #[prost(uint32, tag = "1")]
    form: u32,
    #[prost(string, tag = "2")]
    target: String,
    #[prost(message, repeated, tag = "3")]
    inputs: Vec<InputForm>,
    #[prost(uint64, tag = "4")]
    started_at_ms: u64,
    #[prost(message, repeated, tag = "5")]
    modules: Vec<ModuleForm>,
    #[prost(string, optional, tag = "6")]
    settings: Option<String>,
    #[prost(message, optional, tag = "7")]
    batch: Option<BatchForm>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct InputForm {
    #[prost(string, tag = "1")]
    port: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ModuleForm {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    digest: String,
}

/// The form of requests and outcomes that is written.
const FORM: u32 = 1;

impl StoredRequest {
    /// Returns the request as bytes.
    pub(crate) fn encode(&self) -> Bytes {
        let input = |(port, value): &(Port, Arc<Value>)| InputForm {
            port: port.to_string(),
            value: encode_value(value),
        };
        let module =
            |(name, digest): &(String, String)| ModuleForm { name: name.clone(), digest: digest.clone() };
        let form = RequestForm {
            form: FORM,
            target: self.target.to_string(),
            inputs: self.inputs.iter().map(input).collect(),
            started_at_ms: self.started_at_ms,
            modules: self.modules.iter().map(module).collect(),
            settings: self.settings.clone(),
            batch: self.batch.as_ref().map(|StoredBatch { items, on_item_error, source }| BatchForm {
                items: items.to_string(),
                continues: *on_item_error == OnItemError::Continue,
                file: match source {
                    ItemSource::File(path) => Some(path.clone()),
                    ItemSource::Stream => None,
                },
            }),
        };
        form.encode_to_vec().into()
    }

    /// Returns the request that the bytes are.
    ///
    /// # Errors
    /// Where they are damaged, or of a newer form.
    pub fn decode(bytes: Bytes) -> Result<Self, StoredError> {
        let wrong = |why: &dyn std::fmt::Display| StoredError::new("request", why);
        let RequestForm { form, target, inputs, started_at_ms, modules, settings, batch } =
            RequestForm::decode(bytes).map_err(|error| wrong(&error))?;
        known(form, "request")?;
        let input = |InputForm { port, value }: InputForm| {
            let port = port.parse::<Port>().map_err(|error| wrong(&error))?;
            Ok((port, Arc::new(decode_value(&value)?)))
        };
        Ok(Self {
            target: target.parse().map_err(|error| wrong(&error))?,
            inputs: inputs.into_iter().map(input).collect::<Result<_, StoredError>>()?,
            started_at_ms,
            modules: modules.into_iter().map(|ModuleForm { name, digest }| (name, digest)).collect(),
            settings,
            batch: batch.map(batch_of).transpose()?,
        })
    }
}

fn batch_of(form: BatchForm) -> Result<StoredBatch, StoredError> {
    let BatchForm { items, continues, file } = form;
    Ok(StoredBatch {
        items: items.parse().map_err(|error| StoredError::new("request", error))?,
        on_item_error: if continues { OnItemError::Continue } else { OnItemError::Fail },
        source: file.map_or(ItemSource::Stream, ItemSource::File),
    })
}

#[derive(Clone, PartialEq, prost::Message)]
struct OutcomeForm {
    #[prost(uint32, tag = "1")]
    form: u32,
    /// The result, where there is one.
    #[prost(bytes = "bytes", optional, tag = "2")]
    value: Option<Bytes>,
    /// The report, as JSON.
    #[prost(string, tag = "3")]
    report: String,
}

fn known(form: u32, what: &'static str) -> Result<(), StoredError> {
    if form == FORM {
        return Ok(());
    }
    Err(StoredError::new(what, format!("its form is {form}, and {FORM} is known; is it newer?")))
}

/// Returns an outcome as bytes.
pub(crate) fn encode_outcome(outcome: &Outcome) -> Bytes {
    let form = OutcomeForm {
        form: FORM,
        value: outcome.result.as_ref().ok().map(|value| encode_value(value)),
        report: serde_json::to_string(&outcome.report).expect("a report becomes JSON"),
    };
    form.encode_to_vec().into()
}

/// Returns the outcome that the bytes are.
///
/// # Errors
/// Where they are damaged, or of a newer form.
pub fn decode_outcome(bytes: Bytes) -> Result<Outcome, StoredError> {
    let OutcomeForm { form, value, report } =
        OutcomeForm::decode(bytes).map_err(|error| StoredError::new("outcome", error))?;
    known(form, "outcome")?;
    let report: Report = serde_json::from_str(&report).map_err(|error| StoredError::new("outcome", error))?;
    let result = match value {
        Some(value) => Ok(Arc::new(decode_value(&value)?)),
        None => Err(ExecutionError::Recorded {
            kind: match report.outcome {
                ExecutionOutcome::Done => ErrorKind::Internal,
                ExecutionOutcome::Failed | ExecutionOutcome::Aborted => ErrorKind::Guest,
                ExecutionOutcome::Cancelled | ExecutionOutcome::DeadlineExceeded => ErrorKind::Cancelled,
                ExecutionOutcome::Shutdown => ErrorKind::Unavailable,
            },
            message: report.error.clone().unwrap_or_default(),
        }),
    };
    Ok(Outcome { result, report })
}

/// Returns the retention as it is written into a record, none for ever.
pub(crate) fn retention(retention: Duration) -> Option<Duration> {
    (retention < Duration::MAX).then_some(retention)
}

#[cfg(test)]
mod tests {
    use docket_graph::{FailureClass, StepName};

    use super::*;
    use crate::execution_id::ExecutionId;
    use crate::report::{StepOutcome, StepReport};

    /// Written by the release that introduced each form. Never rewritten: what is stored is read for as
    /// long as its form is known.
    const ONE: &[u8] = include_bytes!("../tests/stored/value-one-1.bin");
    const MANY: &[u8] = include_bytes!("../tests/stored/value-many-1.bin");
    const FAILURE: &[u8] = include_bytes!("../tests/stored/failure-1.json");
    const REQUEST: &[u8] = include_bytes!("../tests/stored/request-1.bin");
    const BATCH: &[u8] = include_bytes!("../tests/stored/batch-1.bin");
    const DONE: &[u8] = include_bytes!("../tests/stored/outcome-done-1.bin");
    const FAILED: &[u8] = include_bytes!("../tests/stored/outcome-failed-1.bin");

    fn one() -> Value {
        Value::one("\x0a\x05Alice")
    }

    fn many() -> Value {
        let long = "x".repeat(300);
        Value::many(["a", "", &long].map(str::to_owned))
    }

    fn request() -> StoredRequest {
        let port = |text: &str| text.parse::<Port>().unwrap();
        StoredRequest {
            target: port("example.v1.UserProfile#clean"),
            inputs: vec![
                (port("example.v1.UserID"), Arc::new(one())),
                (port("example.v1.Tag"), Arc::new(many())),
            ],
            started_at_ms: 1_700_000_000_123,
            modules: vec![("fetch.wasm".to_owned(), "c0ffee".to_owned())],
            settings: Some(r#"{"dir":"guests"}"#.to_owned()),
            batch: None,
        }
    }

    fn batch() -> StoredRequest {
        let items = "example.v1.Tag#item".parse::<Port>().unwrap();
        let source = ItemSource::File("/data/items.ndjson".to_owned());
        let batch = StoredBatch { items, on_item_error: OnItemError::Continue, source };
        StoredRequest { batch: Some(batch), ..request() }
    }

    fn outcome(result: Result<Value, &str>) -> Outcome {
        let error = result.as_ref().err().map(|error| (*error).to_owned());
        let failed = error.is_some();
        let step = StepReport {
            step: StepName::parse("FetchProfile").unwrap(),
            module: "fetch.wasm".into(),
            outcome: if failed { StepOutcome::Failed } else { StepOutcome::Cached },
            key: Some("c0ffee".to_owned()),
            attempts: Vec::new(),
            elements: None,
            first_missed: None,
        };
        let report = Report {
            execution_id: ExecutionId::parse("order-42").unwrap(),
            target: "example.v1.UserProfile".parse().unwrap(),
            outcome: if failed { ExecutionOutcome::Failed } else { ExecutionOutcome::Done },
            error,
            started_at_ms: 1_700_000_000_123,
            elapsed: Duration::from_micros(1_500),
            steps: vec![step],
        };
        let recorded =
            |message: &str| ExecutionError::Recorded { kind: ErrorKind::Guest, message: message.to_owned() };
        Outcome { result: result.map(Arc::new).map_err(recorded), report }
    }

    fn failure() -> StepFailure {
        StepFailure::Reported {
            class: FailureClass::Permanent,
            code: Some("card_declined".to_owned()),
            message: "no \"money\"".to_owned(),
            retry_after: None,
        }
    }

    fn messages(value: &Value) -> Vec<Bytes> {
        value.payloads().iter().map(|payload| payload.bytes().clone()).collect()
    }

    #[test]
    fn what_is_written_is_what_the_samples_are() {
        let samples: [(&str, Bytes, &[u8]); 7] = [
            ("value-one-1.bin", encode_value(&one()), ONE),
            ("value-many-1.bin", encode_value(&many()), MANY),
            ("failure-1.json", encode_failure(&failure()), FAILURE),
            ("request-1.bin", request().encode(), REQUEST),
            ("batch-1.bin", batch().encode(), BATCH),
            ("outcome-done-1.bin", encode_outcome(&outcome(Ok(many()))), DONE),
            ("outcome-failed-1.bin", encode_outcome(&outcome(Err("step `FetchProfile` failed"))), FAILED),
        ];
        for (name, written, sample) in samples {
            assert!(written == sample, "{name} is {:?}", String::from_utf8_lossy(&written));
        }
    }

    #[test]
    fn the_samples_are_read_as_what_was_written() {
        for (sample, value) in [(ONE, one()), (MANY, many())] {
            let read = decode_value(&Bytes::from_static(sample)).unwrap();
            assert_eq!((read.arity(), messages(&read)), (value.arity(), messages(&value)));
        }
        let read = decode_failure(FAILURE).unwrap();
        assert_eq!((read.class(), read.code()), (FailureClass::Permanent, Some("card_declined")));
        assert_eq!(read.to_string(), failure().to_string(), "its words are said once");
        let read = StoredRequest::decode(Bytes::from_static(REQUEST)).unwrap();
        let written = request();
        assert_eq!((&read.target, read.started_at_ms), (&written.target, written.started_at_ms));
        assert_eq!((&read.modules, &read.settings), (&written.modules, &written.settings));
        for ((port, value), (of_port, of_value)) in read.inputs.iter().zip(&written.inputs) {
            assert_eq!((port, messages(value)), (of_port, messages(of_value)));
        }
        assert_eq!(read.batch, None);
        assert_eq!(StoredRequest::decode(Bytes::from_static(BATCH)).unwrap().batch, batch().batch);
        let read = decode_outcome(Bytes::from_static(DONE)).unwrap();
        assert_eq!(messages(&read.result.unwrap()), messages(&many()));
        assert_eq!(read.report.steps[0].outcome, StepOutcome::Cached);
        let read = decode_outcome(Bytes::from_static(FAILED)).unwrap();
        let error = read.result.unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (ErrorKind::Guest, "step `FetchProfile` failed")
        );
    }

    #[test]
    fn damaged_and_newer_bytes_are_refused_in_words() {
        let value = |bytes: &'static [u8]| decode_value(&Bytes::from_static(bytes)).unwrap_err().to_string();
        assert_eq!(value(b""), "the stored value cannot be read: it is empty");
        assert_eq!(
            value(b"\x07abc"),
            "the stored value cannot be read: its form is 7, and 1 and 2 are known; is it newer?"
        );
        assert_eq!(value(b"\x02\x05abc"), "the stored value cannot be read: it ends within a message");
        let newer = RequestForm { form: 2, ..RequestForm::default() }.encode_to_vec().into();
        assert_eq!(
            StoredRequest::decode(newer).unwrap_err().to_string(),
            "the stored request cannot be read: its form is 2, and 1 is known; is it newer?"
        );
        // Every prefix of a sample is refused, or understood as less: never a panic.
        for sample in [ONE, MANY, REQUEST, BATCH, DONE, FAILED] {
            for length in 0..sample.len() {
                let cut = Bytes::copy_from_slice(&sample[..length]);
                let _ = (decode_value(&cut), StoredRequest::decode(cut.clone()), decode_outcome(cut.clone()));
                let _ = decode_failure(&cut);
            }
        }
    }
}
