//! What `docket-host` promises, through the binary and its library.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

mod crash;
mod faults;
mod grants;
mod keeping;
mod layering;
mod run;
mod show;
