//! Owns the way to a store that another process of this machine holds: a Unix domain socket over which
//! the holder serves every method of [`Store`](crate::Store), and a store that forwards to it. Never
//! opens a store, and never lets another user in.
//!
//! A conversation begins with a greeting from each side that names the version of the protocol; after
//! it, calls and answers carry a number, so that many are under way at once on one connection.

mod frame;
mod wire;
mod holder;
mod silence;
mod server;
mod client;

pub use client::SocketStore;
pub use holder::{Announcement, Holder, announce, holder, socket_path};
pub use server::SocketServer;
#[cfg(feature = "sled")]
pub(crate) use silence::patiently;
