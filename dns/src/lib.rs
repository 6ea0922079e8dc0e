//! The name server of rnet (`rnet dns serve`): who may resolve which name, what is answered, and what is forwarded.
//!
//! Its logic is apart from the machine: a [`Table`] holds who has which name, and [`Table::answer`] turns a question's
//! bytes into a [`Reply`], without socket, clock or file.

mod answers;
mod bind;
mod binder;
mod channel;
pub mod client;
mod confine;
mod control;
mod entry;
mod error;
mod exchange;
mod forward;
mod guardian;
mod handover;
mod index;
mod kept;
mod listen;
mod message;
mod process;
mod program;
mod protocol;
mod resolv;
mod reverse;
mod serve;
mod server;
mod share;
mod socket;
mod stream;
mod table;
mod trial;
mod upstream;
mod watch;
mod wish;
mod worker;
mod zone;

pub use entry::{Endpoint, Known, Network, askable, looks_like_address, valid_name};
pub use error::Error;
pub use guardian::{Errand, guard};
pub use handover::taken_over;
pub use kept::Kept;
pub use message::{addresses_in, is_reply_to, question_key, refusal, servfail};
pub use program::become_program;
pub use protocol::{Listening, Seen, Status};
pub use resolv::{Nameserver, Resolv, Watch};
pub use serve::{Serve, serve, work};
pub use socket::Control;
pub use table::Table;
pub use trial::try_out;
pub use zone::{Asked, Forward, Reply, Transport};
