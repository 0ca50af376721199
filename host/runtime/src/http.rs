//! Owns what a step may do over HTTP: which requests its grant allows, and how they are made. Never
//! follows a redirect, never reads a proxy from the environment, never connects to what it has not checked.

mod target;
mod rule;
mod secret;

pub use rule::{HostPattern, HttpRule, HttpRuleError};
pub use secret::{SecretError, SecretName, SecretSource};
