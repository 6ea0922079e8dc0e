//! The name server of rnet (`rnet dns serve`): who may resolve which name, what is answered, and what is forwarded.
//!
//! Its logic is apart from the machine: a [`Table`] holds who has which name, and [`Table::answer`] turns a question's
//! bytes into a [`Reply`], without socket, clock or file.

mod binder;
mod channel;
pub mod client;
mod confine;
mod control;
mod entry;
mod exchange;
mod forward;
mod guardian;
mod handover;
mod index;
mod listen;
mod message;
mod resolv;
mod reverse;
mod serve;
mod share;
mod stream;
mod table;
mod trial;
mod upstream;
mod watch;
mod worker;
mod zone;

pub use control::{Listening, Status};
pub use entry::{Endpoint, Known, Network, askable, looks_like_address, valid_name};
pub use guardian::{Errand, guard};
pub use handover::taken_over;
pub use message::{addresses_in, is_reply_to, question_key, refusal, servfail};
pub use resolv::{Nameserver, Resolv, Watch};
pub use serve::{Control, Error, Kept, Serve, serve, work};
pub use table::Table;
pub use trial::{become_program, try_out};
pub use watch::Seen;
pub use zone::{Asked, Forward, Reply, Transport};
