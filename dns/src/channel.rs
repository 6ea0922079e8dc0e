//! Messages between the server's processes: JSON, with descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::{Deserialize, Serialize};

/// The longest message.
const LONGEST: usize = 16_384;

/// The most descriptors of one message; the kernel allows 253 (SCM_MAX_FD).
pub(crate) const MOST: usize = 200;

/// One message, with descriptors.
pub(crate) fn send(
    channel: BorrowedFd<'_>,
    message: &impl Serialize,
    handed: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !handed.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(handed));
    }
    rustix::net::sendmsg(channel, &[IoSlice::new(&text)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next message. It is an error too if the other end is closed.
pub(crate) fn receive<T: for<'a> Deserialize<'a>>(
    channel: BorrowedFd<'_>,
    flags: RecvFlags,
) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut buffer = [0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(channel, &mut [IoSliceMut::new(&mut buffer)], &mut ancillary, flags)?;
    let mut handed = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(sockets) = message {
            handed.extend(sockets);
        }
    }
    Ok((serde_json::from_slice(&buffer[..received.bytes])?, handed))
}
