//! Makes and removes the tables that follow a packet, and reads the kernel's trace of it.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, netlink};

use super::{Firewall, Outcome, READ, foreign_refusal, message};
use crate::encode::{Requests, replies};
use crate::error::Error;
use crate::trace::{At, FAMILIES, Fate, Follower, Magic, Stop};

/// The multicast group of traces (NFNLGRP_NFTRACE), as a bit.
const TRACES: u32 = 1 << 8;

/// A socket that receives the kernel's traces (NFT_MSG_TRACE).
pub struct Tracer {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Tracer {
    /// Receives all that is traced from now on in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`Error::Socket`] if this kernel has no netfilter sockets, or no descriptor is left.
    pub fn open() -> Result<Self, Error> {
        let failed = |errno| Error::Socket { errno };
        let protocol = Some(netlink::NETFILTER);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)
            .map_err(failed)?;
        rustix::net::bind(&socket, &netlink::SocketAddrNetlink::new(0, TRACES)).map_err(failed)?;
        Ok(Self { socket, buffer: vec![0; READ] })
    }

    /// Drops the traces received so far, before another packet is sent.
    pub fn clear(&mut self) {
        while rustix::net::recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT).is_ok() {}
    }

    /// What became of the packet that was sent last. Waits up to `patience` if its trace is not there yet.
    pub fn fate(&mut self, patience: Duration) -> Fate {
        let (mut follower, deadline) = (Follower::default(), Instant::now() + patience);
        loop {
            while let Ok((length, _)) =
                rustix::net::recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT)
            {
                let read = replies(&self.buffer[..length.min(READ)]).flatten();
                let mut traces = read.filter(|reply| reply.is_trace());
                if let Some(fate) = traces.find_map(|trace| follower.follow(&trace)) {
                    return fate;
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.is_readable(left) {
                return Fate::Lost;
            }
        }
    }

    fn is_readable(&self, within: Duration) -> bool {
        let within = Timespec { tv_sec: within.as_secs() as i64, tv_nsec: i64::from(within.subsec_nanos()) };
        let mut sockets = [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN)];
        poll(&mut sockets, Some(&within)).is_ok_and(|ready| ready > 0)
    }
}

impl Firewall {
    /// Makes the tables that trace packets with `magic` and drop them at the end. The kernel removes them with this
    /// socket; before Linux 5.12 the next caller removes what a killed one has left.
    ///
    /// # Errors
    /// If the kernel refuses the tables.
    pub fn open_probe(&mut self, magic: Magic) -> Result<(), Error> {
        const DOING: &str = "making the tables of a probe";
        self.close_probe()?;
        match self.transact(DOING, None, |batch| batch.create_probe(magic, true))? {
            Outcome::Refused(_) => {}
            _ => return Ok(()),
        }
        match self.transact(DOING, None, |batch| batch.create_probe(magic, false))? {
            Outcome::Refused(errors) => Err(foreign_refusal(DOING, &errors)),
            _ => Ok(()),
        }
    }

    /// Removes them; absent ones are fine.
    ///
    /// # Errors
    /// If the kernel refuses the removal.
    pub fn close_probe(&mut self) -> Result<(), Error> {
        const DOING: &str = "removing the tables of a probe";
        let mut there = Vec::new();
        for family in FAMILIES {
            if self.is_there(|requests| requests.get_probe(family))? {
                there.push(family);
            }
        }
        let delete = |batch: &mut Requests| there.iter().for_each(|family| batch.delete_probe(*family));
        match self.transact(DOING, None, delete)? {
            Outcome::Refused(errors) => Err(foreign_refusal(DOING, &errors)),
            _ => Ok(()),
        }
    }

    /// The hook of the base chain that a packet was stopped in.
    ///
    /// # Errors
    /// If the kernel's answer cannot be read.
    pub fn hook_of(&mut self, stop: &Stop) -> Result<Option<At>, Error> {
        const DOING: &str = "looking for another program's chain";
        let mut requests = self.requests();
        requests.get_stop(stop, &stop.base);
        let mut hook = None;
        self.exchange(DOING, &requests, |reply| {
            hook = hook.or(message(DOING, &reply, &[Errno::NOENT])?.and_then(|chain| chain.hook()));
            Ok(())
        })?;
        Ok(hook)
    }

    /// Whether the table that a packet was stopped in has another chain, by its name.
    ///
    /// # Errors
    /// If the kernel's answer cannot be read.
    pub fn has_beside(&mut self, stop: &Stop, chain: &str) -> Result<bool, Error> {
        self.is_there(|requests| requests.get_stop(stop, chain))
    }
}
