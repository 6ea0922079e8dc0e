//! Attachments of containers to networks: made, looked at, repaired and removed.
//!
//! The engine knows no CNI, no JSON, no command line: a caller says what it asks for in a [`spec::Spec`], and gets a
//! [`spec::Outcome`] or an [`Error`] that carries values. Its callers are the CNI plugins and the command `rnet`.

mod admission;
pub mod check;
mod cut_off;
pub mod driver;
pub mod drivers;
pub mod elements;
mod error;
mod failpoint;
mod far;
pub mod feature;
pub mod features;
mod find;
pub mod finding;
mod flows;
mod forward;
pub mod forward_v6;
mod held;
mod host;
mod host_id;
pub mod interop;
pub mod ip;
mod keeper;
pub mod keys;
mod lease;
pub mod life;
pub mod link;
mod living;
mod lost;
mod making;
mod moments;
mod network;
pub mod pool;
pub mod probe;
pub mod register;
mod repair;
pub mod ruleset;
mod served;
mod settings;
pub mod spec;
pub mod transaction;
pub mod unrecorded;

pub use cut_off::cut_off;
pub use drivers::bridge::port;
pub use error::Error;
pub use failpoint::{STEPS, pass};
pub use features::{names, publish, sticky, tuning};
pub use find::proof_by_result;
pub use finding::Finding;
pub use held::Held;
pub use host::Host;
pub use making::{Ends, Making};
pub use network::redirect;
pub use register::is_alive;
pub use repair::{Repaired, repair};
pub use served::{PORT, RESOLV_CONF, Served};
pub use settings::Settings;
