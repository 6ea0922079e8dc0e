//! The name server of rnet (`rnet dns serve`): who may resolve what, what is answered, and what is forwarded.
//!
//! The idea stands apart from the machine: a [`Table`] says who has which name, [`Table::answer`] turns a question's
//! bytes into a [`Reply`], without socket, clock or file.

mod entry;
mod index;
mod message;
mod reverse;
mod table;
mod zone;

pub use entry::{Endpoint, Network, valid_name};
pub use message::{is_reply_to, question_key, refused, servfail};
pub use table::Table;
pub use zone::{Asked, Forward, Reply, Transport};
