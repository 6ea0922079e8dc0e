//! Attachments of containers to networks: made, looked at, repaired and removed.
//!
//! The engine knows no CNI, no JSON, no command line: whoever asks for an attachment says so in a [`spec::Spec`], and gets a
//! [`spec::Outcome`] or an [`Error`] that carries values. Its callers are the CNI plugins and the command `rnet`.

pub mod check;
pub mod drivers;
pub mod elements;
mod error;
mod failpoint;
mod far;
pub mod features;
mod finding;
mod flows;
pub mod forward_v6;
mod host;
mod host_id;
pub mod interop;
mod keeper;
pub mod life;
pub mod link;
mod living;
pub mod lost;
mod moments;
pub mod network;
pub mod pool;
pub mod probe;
pub mod register;
mod renamed;
mod repair;
pub mod ruleset;
pub mod spec;

pub use drivers::bridge::port;
pub use error::Error;
pub use failpoint::{STEPS, pass};
pub use features::{names, publish, sticky};
pub use finding::Finding;
pub use host::Host;
pub use register::is_alive;
pub use renamed::proof_by_result;
pub use repair::repair;
