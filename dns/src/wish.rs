//! What a worker asks its parent for, and the answers.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A worker's request to its parent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Wish {
    Bind {
        address: IpAddr,
        link: String,
    },
    Close {
        address: IpAddr,
    },
    /// Let the installed version continue in the parent's place. With it comes the connection of the client that waits for
    /// the outcome.
    Replace,
    /// No question is received any more: the successor may begin.
    HandOver,
}

/// The answer to [`Wish::Bind`] and [`Wish::Close`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Grant {
    /// The sockets come with this message.
    Port(u16),
    Errno(i32),
    Closed,
}
