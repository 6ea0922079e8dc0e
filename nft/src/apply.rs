//! The one module that talks to the kernel's nf_tables and conntrack, through one socket.
//!
//! nfnetlink works inside sendmsg(2): when it returns, every answer is in the socket's queue (a dump continues
//! inside recvmsg(2)). So nothing here ever waits: an empty queue means that there are no more answers.

mod elements;
mod exchange;
mod interop;
mod look_up;
mod mac_check;
mod rebuild;
mod trace;
mod tracked;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netlink, sockopt};

use crate::encode::Requests;
use crate::error::Error;
use crate::ruleset::{Ruleset, Table};
use crate::state::{Fingerprint, State, TableState};

pub(crate) use exchange::{Outcome, foreign_refusal, message};
pub use interop::{LastChange, last_change, watch};
pub(crate) use look_up::Presence;
pub use rebuild::{LeftOut, Rebuilt};
pub use trace::Tracer;

/// The kernel's largest answer: a dump gives up to 32 KiB, an error repeats the message that caused it.
const READ: usize = 128 << 10;
/// Questions in one send, so that the answers fit into the smallest receive buffer.
const QUESTIONS: usize = 64;
/// How often a step is tried that changes by other programs disturb.
pub(crate) const ATTEMPTS: u32 = 100;

/// One netfilter socket, in the network namespace of the thread that opened it.
///
/// After a delete its close waits up to 20 ms inside the kernel: keep it to the end, or hand its descriptor
/// to the process that waits anyway.
#[derive(Debug)]
pub struct Firewall {
    socket: OwnedFd,
    /// False in a kernel without netfilter sockets.
    is_usable: bool,
    buffer: Vec<u8>,
    messages: u64,
    commits: u32,
    room: usize,
}

impl Firewall {
    /// Opens a socket in the calling thread's network namespace. In a kernel without netfilter sockets the ruleset is
    /// empty, and nothing can be added.
    ///
    /// # Errors
    /// [`Error::Socket`] if no descriptor is left.
    pub fn open() -> Result<Self, Error> {
        let flags = SocketFlags::CLOEXEC;
        let failed = |errno| Error::Socket { errno };
        let protocol = Some(netlink::NETFILTER);
        let opened = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol);
        let is_usable = opened.as_ref().err() != Some(&Errno::PROTONOSUPPORT);
        let socket = match opened {
            // Nothing is ever sent through it.
            _ if !is_usable => rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None),
            other => other,
        };
        let socket = socket.map_err(failed)?;
        let room = sockopt::socket_send_buffer_size(&socket).map_err(failed)?;
        Ok(Self { socket, is_usable, buffer: vec![0; READ], messages: 0, commits: 0, room })
    }

    /// One in a kernel that has no netfilter sockets.
    #[cfg(test)]
    pub(crate) fn without_netfilter() -> Self {
        Self { is_usable: false, ..Self::open().unwrap() }
    }

    /// The number of the last change to any program's ruleset in this namespace (NFT_MSG_GETGEN).
    ///
    /// # Errors
    /// If the kernel lacks nf_tables or its answer cannot be read.
    pub fn generation(&mut self) -> Result<u32, Error> {
        const DOING: &str = "reading the generation";
        self.ask(DOING, Requests::get_generation, |reply| reply.generation())
    }

    /// What identifies the constant part in the kernel; `None` if one of the tables is missing.
    ///
    /// # Errors
    /// If the kernel lacks nf_tables, or other programs change the ruleset during every attempt to read it.
    pub fn state(&mut self) -> Result<Option<State>, Error> {
        let tables = Ruleset::constant().tables;
        let states = tables.iter().map(|table| self.table_state(table)).collect::<Result<_, _>>()?;
        let states: Option<Vec<TableState>> = states;
        Ok(states.map(|tables| State { tables }))
    }

    /// How many transactions were committed so far: each has raised the generation by one.
    pub fn commits(&self) -> u32 {
        self.commits
    }

    /// How many netlink messages were sent so far.
    pub fn messages(&self) -> u64 {
        self.messages
    }
}

impl AsFd for Firewall {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Firewall {
    /// A table's flags, if it is there.
    fn table(&mut self, table: &Table) -> Result<Option<u32>, Error> {
        const DOING: &str = "reading the tables";
        let mut requests = self.requests();
        requests.get_table(table);
        let mut found = None;
        self.exchange(DOING, &requests, |reply| {
            found = found.or(message(DOING, &reply, &[Errno::NOENT])?.and_then(|table| table.table_flags()));
            Ok(())
        })?;
        Ok(found)
    }

    fn table_state(&mut self, table: &Table) -> Result<Option<TableState>, Error> {
        const DOING: &str = "reading the rules";
        let Some(flags) = self.table(table)? else { return Ok(None) };
        let ask = |requests: &mut Requests| requests.dump_rules(table);
        let rules = self.dump(DOING, ask, |reply| reply.rule())?;
        let rules = rules.iter().fold(Fingerprint::new(), |all, rule| all.with(*rule));
        Ok(Some(TableState { flags, rules }))
    }

    pub(crate) fn requests(&self) -> Requests {
        Requests::new(self.messages as u32)
    }
}
