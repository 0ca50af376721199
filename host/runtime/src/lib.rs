//! docket-runtime carries executions out: it loads step modules, runs what a request needs in
//! sandboxes, and tells what happened. What to run next is decided by docket-graph.
//!
//! [`Host`] is the front door; [`Request`] goes in, [`Outcome`] comes out. The modules below stand
//! in reading order, and each refers only to those above it.

mod clock;
mod digest;
mod http;
mod grants;
mod options;
mod value;
mod guest_clock;
mod guest_log;
mod execution_id;
mod element;
mod failure;
mod bindings;
mod files;
mod denied;
mod dirs;
mod sandbox;
mod artifact;
mod call;
mod engine;
mod import;
mod module;
mod generation;
mod report;
mod outcome;
mod observer;
mod items;
mod stored;
mod flight;
mod background;
mod reuse;
mod key;
mod keep;
mod held;
mod board;
mod attempt;
mod turn;
mod drive;
mod request;
mod execution;
mod batch;
mod forecast;
mod host;
mod inspection;

pub use artifact::ArtifactError;
pub use batch::{Batch, BatchOutcome, BatchRequest};
pub use call::{DESCRIBE_TIMEOUT, Usage};
pub use clock::Every;
pub use digest::Digest;
pub use element::{ElementIndex, ElementPath};
pub use engine::{EpochTicker, Metering, PoolSize, TICK, config as engine_config};
pub use execution::{Canceller, Execution};
pub use execution_id::{ExecutionId, ExecutionIdError};
pub use failure::{AnswerFault, ErrorKind, ExecutionError, StepFailure};
pub use forecast::{Came, ExplainedElements, Explanation, Forecast, explain};
pub use generation::{Generation, LoadErrors, ModuleFacts, Purity};
pub use grants::{
    Access, Circumstance, DirGrant, DirGrantError, GrantCaps, GrantOptions, Grants, ModulePattern,
    NamePattern, PatternError, SecretGrant,
};
pub use guest_log::Stream;
pub use host::{BuildError, Drained, Host, HostBuilder};
pub use http::{
    DEFAULT_HTTP_BYTES, DEFAULT_HTTP_CONCURRENT, DEFAULT_HTTP_IDLE, DEFAULT_HTTP_REQUESTS,
    DEFAULT_HTTP_TIMEOUT, HostPattern, HttpLimit, HttpLimits, HttpOptions, HttpOptionsError, HttpRule,
    HttpRuleError, Resolve, SecretError, SecretName, SecretSource,
};
pub use inspection::{Inspection, Inspector};
pub use items::{BatchProgress, ItemCounts, ItemFailure, ItemOutcome, ItemSource, ItemsError};
pub use module::{LoadFault, ModuleSource};
pub use observer::{Event, Observer};
pub use options::{
    Artifacts, Caps, DEFAULT_DIR_BYTES, DEFAULT_LOG_LINES, DEFAULT_LOGS, DEFAULT_MEMORY, DEFAULT_OPEN_FILES,
    DEFAULT_OUTPUT, DEFAULT_RETENTION, DEFAULT_STACK, DEFAULT_TABLE_ELEMENTS, DEFAULT_TIMEOUT, Effective,
    HostOptions, Instance, Keeping, LEAST_STACK, Limits, MOST_STACK, OnStoreError, RetryOptions, StepOptions,
};
pub use outcome::{Outcome, OutcomeError};
pub use report::{
    AttemptOutcome, AttemptReport, ElementCounts, ExecutionOutcome, MissedElement, Report, StepOutcome,
    StepReport,
};
pub use request::{Request, RequestError};
pub use stored::{StoredBatch, StoredError, StoredRequest, decode_outcome, decode_value};
pub use value::{Payload, Value};
