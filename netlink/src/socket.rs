//! One blocking NETLINK_ROUTE socket: several messages in one send, and their answers.

use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::{io, ptr};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::buffer::spare_capacity;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::error::Error;
use crate::wire::{self, Attributes};

/// The kernel never puts more than this into one datagram of an answer (netlink_recvmsg).
const BUFFER: usize = 32 * 1024;
/// How often a dump is tried that changes interrupt.
const DUMP_ATTEMPTS: usize = 100;

/// A message to the kernel, without NLM_F_ACK, which is always set.
pub(crate) struct Message {
    pub body: RouteNetlinkMessage,
    /// NLM_F_CREATE, NLM_F_EXCL and the like.
    pub flags: u16,
    /// Refusals that count as success.
    pub forgiven: &'static [Errno],
}

impl Message {
    pub fn new(body: RouteNetlinkMessage, flags: u16) -> Self {
        Self { body, flags, forgiven: &[] }
    }

    /// The bytes of the message, ready for a socket that is no `Socket` (a forked child's).
    pub fn encode(self, sequence: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        append(&mut bytes, self.body, NLM_F_REQUEST | NLM_F_ACK | self.flags, sequence);
        bytes
    }
}

/// One message from the kernel.
pub(crate) struct Answer<'a> {
    /// RTM_NEWLINK and so on.
    pub kind: u16,
    flags: u16,
    sequence: u32,
    pub payload: &'a [u8],
}

/// The kernel's refusal of one message.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub errno: Errno,
    /// NLMSGERR_ATTR_MSG: the kernel's own words, or empty.
    pub detail: String,
}

pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    /// Not zeroed, because half of its pages are never used.
    buffer: Vec<u8>,
    sent: u64,
}

impl Socket {
    /// A socket in the network namespace of the calling thread, whatever thread uses it later.
    pub fn open() -> Result<Self, Error> {
        let fd = netlink_socket().map_err(|errno| Error::Socket { errno })?;
        Ok(Self::of_descriptor(fd))
    }

    /// The same from a socket that another thread has opened.
    pub fn of_descriptor(fd: OwnedFd) -> Self {
        // Old kernels lack some of these; then errors have fewer words and dumps are not filtered.
        for option in [libc::NETLINK_CAP_ACK, libc::NETLINK_EXT_ACK, libc::NETLINK_GET_STRICT_CHK] {
            let _ = enable(&fd, option);
        }
        Self { fd, sequence: 0, buffer: Vec::with_capacity(BUFFER), sent: 0 }
    }

    /// A socket that receives the notifications of `groups` (RTMGRP_ bits) in the calling thread's namespace.
    pub fn listening(groups: u32) -> Result<Self, Error> {
        let socket = Self::open()?;
        rustix::net::bind(&socket.fd, &SocketAddrNetlink::new(0, groups))
            .map_err(|errno| Error::Socket { errno })?;
        Ok(socket)
    }

    /// How many messages were sent through this socket.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Sends all messages at once and awaits every acknowledgement; `None` means success.
    ///
    /// The kernel carries out the messages in order and does not stop at one that it refuses.
    pub fn exchange(
        &mut self,
        messages: Vec<Message>,
        mut on_answer: impl FnMut(&Answer<'_>),
    ) -> Result<Vec<Option<Refusal>>, Error> {
        let (mut verdicts, mut open) = (vec![None; messages.len()], messages.len());
        let first = self.send(messages, NLM_F_REQUEST | NLM_F_ACK)?;
        while open > 0 {
            for answer in wire::messages(self.receive(RecvFlags::empty())?) {
                let index = answer.sequence.wrapping_sub(first) as usize;
                if index >= verdicts.len() {
                    continue; // left over from an exchange that was broken off
                }
                match answer.verdict() {
                    Some(verdict) => {
                        verdicts[index] = verdict;
                        open -= 1;
                    }
                    None => on_answer(&answer),
                }
            }
        }
        Ok(verdicts)
    }

    /// Reads a whole table and turns each entry into a value; tries again while changes interrupt it.
    pub fn dump<T>(
        &mut self,
        body: impl Fn() -> RouteNetlinkMessage,
        mut read: impl FnMut(&Answer<'_>, &mut Vec<T>),
    ) -> Result<Vec<T>, Error> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut found = Vec::new();
            if self.dump_once(body(), |answer| read(answer, &mut found))? {
                return Ok(found);
            }
        }
        Err(Error::Unsteady { attempts: DUMP_ATTEMPTS })
    }

    /// One dump; false if a change interrupted it (NLM_F_DUMP_INTR): it may lack or repeat entries.
    fn dump_once(
        &mut self,
        body: RouteNetlinkMessage,
        mut read: impl FnMut(&Answer<'_>),
    ) -> Result<bool, Error> {
        let first = self.send(vec![Message::new(body, 0)], NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut steady = true;
        loop {
            for answer in wire::messages(self.receive(RecvFlags::empty())?) {
                if answer.sequence != first {
                    continue;
                }
                steady &= answer.flags & NLM_F_DUMP_INTR == 0;
                match answer.verdict() {
                    None => read(&answer),
                    Some(None) => return Ok(steady),
                    Some(Some(refusal)) => return Err(Error::Dump { errno: refusal.errno }),
                }
            }
        }
    }

    /// Reads one datagram; with `RecvFlags::DONTWAIT` fails with EAGAIN when there is none.
    pub fn receive(&mut self, flags: RecvFlags) -> Result<&[u8], Error> {
        let failed = |errno| Error::Receive { errno };
        let flags = flags | RecvFlags::TRUNC;
        self.buffer.clear();
        let (_, length) =
            retry_on_intr(|| rustix::net::recv(&self.fd, spare_capacity(&mut self.buffer), flags))
                .map_err(failed)?;
        self.buffer.get(..length).ok_or(failed(Errno::MSGSIZE))
    }

    /// Sends all in one datagram; returns the sequence number of the first, the others follow it.
    fn send(&mut self, messages: Vec<Message>, flags: u16) -> Result<u32, Error> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(256 * messages.len());
        for message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            self.sent += 1;
            append(&mut bytes, message.body, flags | message.flags, self.sequence);
        }
        retry_on_intr(|| rustix::net::send(&self.fd, &bytes, SendFlags::empty()))
            .map_err(|errno| Error::Send { errno })?;
        Ok(first)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<'a> Answer<'a> {
    pub(crate) fn new(kind: u16, flags: u16, sequence: u32, payload: &'a [u8]) -> Self {
        Self { kind, flags, sequence, payload }
    }

    /// The outcome in an NLMSG_ERROR or NLMSG_DONE (netlink(7)): `Some(None)` is success. `None`: neither of them.
    pub fn verdict(&self) -> Option<Option<Refusal>> {
        if !matches!(i32::from(self.kind), libc::NLMSG_ERROR | libc::NLMSG_DONE) {
            return None;
        }
        let code = wire::u32_at(self.payload, 0).unwrap_or(0) as i32;
        let refusal = || Refusal { errno: Errno::from_raw_os_error(-code), detail: self.detail() };
        Some((code < 0).then(refusal))
    }

    fn detail(&self) -> String {
        /// `struct nlmsgerr` without the request's payload (NETLINK_CAP_ACK).
        const ERROR_LEN: usize = 20;
        const NLMSGERR_ATTR_MSG: u16 = 1;
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return String::new();
        }
        let attributes = self.payload.get(ERROR_LEN..).unwrap_or_default();
        let message = Attributes(attributes).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG);
        message.map(|(_, text)| wire::text(text)).unwrap_or_default()
    }
}

/// A NETLINK_ROUTE socket without any option set.
pub(crate) fn netlink_socket() -> Result<OwnedFd, Errno> {
    // NETLINK_ROUTE is protocol 0, which rustix spells None.
    rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
}

fn append(bytes: &mut Vec<u8>, body: RouteNetlinkMessage, flags: u16, sequence: u32) {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(body));
    message.finalize();
    let (start, length) = (bytes.len(), message.buffer_len());
    bytes.resize(start + length.next_multiple_of(4), 0);
    message.serialize(&mut bytes[start..start + length]);
}

fn enable(fd: &OwnedFd, option: c_int) -> io::Result<()> {
    let one: c_int = 1;
    // SAFETY: value and length describe a local integer, and the socket is open.
    let status = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            ptr::from_ref(&one).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
