//! Owns what a step may do over HTTP: which requests its grant allows, and how they are made. Never
//! follows a redirect, never reads a proxy from the environment, never connects to what it has not checked.
//!
//! A request passes these in order: the attempt counts it, the grant's rules allow it, its placeholders
//! become secrets, its name is looked up once and every address checked, and it goes over a connection of
//! the step's own. What comes back is counted and timed, and freed of secrets in its headers.

mod address;
mod target;
mod rule;
mod secret;
mod limits;
mod vault;
mod body;
mod connect;
mod fault;
mod pool;
mod grant;
mod exchange;
mod attempt;

pub(crate) use attempt::HttpAttempt;
pub(crate) use connect::Connector;
pub use connect::{DEFAULT_HTTP_IDLE, DEFAULT_HTTP_TIMEOUT, HttpOptions, HttpOptionsError, Resolve};
pub(crate) use fault::code;
pub(crate) use grant::{HttpGrant, Keyed};
pub(crate) use limits::Noted;
pub use limits::{DEFAULT_HTTP_BYTES, DEFAULT_HTTP_CONCURRENT, DEFAULT_HTTP_REQUESTS, HttpLimit, HttpLimits};
pub(crate) use pool::Pool;
pub use rule::{HostPattern, HttpRule, HttpRuleError};
pub use secret::{SecretError, SecretName, SecretSource};
pub(crate) use vault::{Secret, Vault};
