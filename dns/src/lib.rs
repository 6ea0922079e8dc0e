//! The name server of rnet (`rnet dns serve`): who may resolve what, what is answered, and what is forwarded.
//!
//! The idea stands apart from the machine: a [`Table`] says who has which name, [`Table::answer`] turns a question's
//! bytes into a [`Reply`], without socket, clock or file.

mod channel;
pub mod client;
mod confine;
mod control;
mod entry;
mod forward;
mod guardian;
mod handover;
mod index;
mod listen;
mod message;
mod resolv;
mod reverse;
mod serve;
mod stream;
mod table;
mod upstream;
mod watch;
mod worker;
mod zone;

pub use control::{Listening, Status};
pub use entry::{Endpoint, Known, Network, valid_name};
pub use guardian::guard;
pub use handover::taken_over;
pub use message::{addresses_in, is_reply_to, question_key, refused, servfail};
pub use resolv::{Nameserver, Resolv, Watch};
pub use serve::{Control, Error, Kept, Serve, serve, work};
pub use table::Table;
pub use watch::Seen;
pub use zone::{Asked, Forward, Reply, Transport};
