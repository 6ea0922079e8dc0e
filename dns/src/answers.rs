//! What the tasks of the sockets need of the server. So they do not know the rest of it, which starts them.

use std::net::IpAddr;
use std::rc::Rc;

use crate::forward::Answerer;
use crate::zone::Asked;

/// Answers questions.
pub(crate) trait Answers: 'static {
    /// Answers a question at once. `None` means that it gets no answer, or that `later` gets it.
    fn answer(self: &Rc<Self>, asked: &Asked<'_>, later: impl FnOnce() -> Answerer) -> Option<Vec<u8>>;

    /// The name of the link with this number.
    fn link(&self, index: u32) -> Rc<str>;

    /// The link through which a connection from `address` comes. Only the host has connections from its own addresses.
    fn link_to(&self, address: IpAddr) -> Rc<str>;
}
