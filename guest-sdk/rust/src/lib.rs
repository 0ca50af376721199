//! Steps for Docket in Rust. Owns the few names that a step's author meets; never decides when, or
//! how often, a step runs: that is the host's.
//!
//! A step is an ordinary function over [`prost`] messages. Its types declare what it takes and what
//! it gives:
//!
//! ```ignore
//! use docket_guest::StepResult;
//!
//! mod pb {
//!     docket_guest::include_proto!("hello.v1");
//! }
//!
//! fn greet(name: pb::Name) -> StepResult<pb::Greeting> {
//!     Ok(pb::Greeting { text: format!("Hello, {}!", name.text) })
//! }
//!
//! docket_guest::module!(step(greet));
//! ```
//!
//! with a build script of one line, `docket_guest_build::compile("proto/hello.proto")`. The crate's
//! type is `cdylib`, and `cargo build --target wasm32-wasip2` writes the component. Natively the
//! same crate compiles too, so that steps are unit-tested as the functions they are.
//!
//! | a parameter or result of type | is |
//! |---|---|
//! | a message | an input or output of arity one |
//! | [`Many<M>`](Many) | one of arity many |
//! | [`Labeled<L, M>`](Labeled) | the same with a label, so that one message type can flow through several ports |
//! | [`Failed`] (parameter only) | what the host counts: how many elements failed of those that the step gathers |
//! | [`Invocation`] (parameter only) | no input: the circumstances of this attempt |
//!
//! A step fails by returning a [`Failure`]; `?` makes a retryable one of any error. A panic is a
//! trap, which the host treats as permanent. Logging is `println!` and `eprintln!`.

/// For `module!` alone.
#[doc(hidden)]
pub mod bindings;
mod failure;
mod config;
mod invocation;
mod failed;
mod message;
mod policy;
mod step;
mod module;

pub use config::{Config, FromConfig};
pub use failed::Failed;
pub use failure::{Failure, FailureKind, StepResult};
pub use invocation::Invocation;
pub use message::{Argument, Flow, Label, Labeled, Many, Payload};
pub use module::Module;
pub use policy::{Retry, Scope};
pub use prost;
pub use prost_types;
pub use step::{IntoStep, Step, step};

/// The types of `docket:step/step`, as the host and the component exchange them.
pub mod wire {
    pub use crate::bindings::exports::docket::step::step::{
        Arity, Backoff, Declaration, Failure, FailureKind, Growth, Invocation, Module, Persistence, Policy,
        Port, Retry, Scope, Value,
    };
}

/// Includes the messages of one protobuf package, as `docket-guest-build` generated them.
///
/// Packages that use each other's messages must be nested as their names are, because the generated
/// code refers to them by relative paths.
///
/// ```ignore
/// mod pb {
///     docket_guest::include_proto!("example.v1");
/// }
/// ```
#[macro_export]
macro_rules! include_proto {
    ($package:literal) => {
        include!(concat!(env!("OUT_DIR"), "/", $package, ".rs"));
    };
}
