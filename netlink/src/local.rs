//! When an address works: the kernel takes packets for an IPv6 address some time after it has accepted the address
//! itself, without duplicate detection within a millisecond on an idle host and within twenty on a busy one.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::RecvFlags;

use crate::error::Error;
use crate::handle::Netlink;
use crate::socket::Socket;

/// `RTMGRP_IPV6_ROUTE` (linux/rtnetlink.h).
const IPV6_ROUTES: u32 = 0x400;
/// `lo` has this index in every network namespace; what is local is routed to it.
const LOOPBACK_INDEX: u32 = 1;

impl Netlink {
    /// True if the kernel takes packets for `address` as its own.
    pub fn is_local(&mut self, address: IpAddr) -> Result<bool, Error> {
        Ok(matches!(self.route_to(address)?, Some((LOOPBACK_INDEX, _))))
    }
}

/// Waits until [`Netlink::is_local`] is true in the calling thread's namespace, by listening; false if that does
/// not happen within `patience`.
pub fn await_local(address: IpAddr, patience: Duration) -> Result<bool, Error> {
    let deadline = Instant::now() + patience;
    // Subscribed before the question is asked, so that nothing is missed between the two.
    let mut changes = Socket::listening(IPV6_ROUTES)?;
    let mut asking = Netlink::here()?;
    while !asking.is_local(address)? {
        if !await_change(&mut changes, deadline)? {
            return asking.is_local(address);
        }
    }
    Ok(true)
}

/// Waits for a notification and reads all that are at hand; false at the deadline.
fn await_change(changes: &mut Socket, deadline: Instant) -> Result<bool, Error> {
    let left = deadline.saturating_duration_since(Instant::now());
    let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
    let mut ready = [PollFd::from_borrowed_fd(changes.as_fd(), PollFlags::IN)];
    let told = retry_on_intr(|| rustix::event::poll(&mut ready, Some(&left)));
    if told.map_err(|errno| Error::Receive { errno })? == 0 {
        return Ok(false);
    }
    loop {
        match changes.receive(RecvFlags::DONTWAIT) {
            // NOBUFS: so many that some were lost. The question is asked again in any case.
            Ok(_) | Err(Error::Receive { errno: Errno::NOBUFS }) => {}
            Err(Error::Receive { errno: Errno::AGAIN }) => return Ok(true),
            Err(error) => return Err(error),
        }
    }
}
