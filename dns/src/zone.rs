//! What a question is answered with: pure.

use std::net::{IpAddr, SocketAddr};

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A datagram: what does not fit is cut (M1, M2).
    Udp,
    /// A stream.
    Tcp,
}

/// A question with what the socket knew of it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The message.
    pub message: &'a [u8],
    /// The asker's address.
    pub from: IpAddr,
    /// The link it came by; `lo` for the host's own questions.
    pub link: &'a str,
    /// The address that was asked.
    pub to: IpAddr,
    /// How it came.
    pub transport: Transport,
}

/// What is to be done with a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// These bytes are the answer.
    Answer(Vec<u8>),
    /// The answer is an error that a client may not cause too often (H2: REFUSED, FORMERR, NOTIMP, BADVERS, SERVFAIL).
    Error(Vec<u8>),
    /// A server outside knows.
    Forward(Forward),
    /// Silence (M6, V5).
    Drop,
}

/// A question for the servers outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The servers to ask, in order (F1); empty means the host's.
    pub upstreams: Vec<SocketAddr>,
    /// The container that is charged for it: (network, id); none for the host or an unknown asker.
    pub client: Option<(String, String)>,
}
