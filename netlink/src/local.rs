//! Waiting until an address works: the kernel accepts packets for an IPv6 address some time after the address itself.
//! Without duplicate detection that takes a millisecond on an idle host and up to twenty on a busy one.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::RecvFlags;

use crate::error::Error;
use crate::handle::Netlink;
use crate::read::Address;
use crate::socket::Socket;

/// `RTMGRP_IPV6_ROUTE` and `RTMGRP_IPV6_IFADDR` (linux/rtnetlink.h).
const IPV6_ROUTES: u32 = 0x400;
const IPV6_ADDRESSES: u32 = 0x100;
/// `lo` has this index in every network namespace; local addresses are routed to it.
const LOOPBACK_INDEX: u32 = 1;

impl Netlink {
    /// True if the kernel accepts packets for `address` as its own.
    ///
    /// # Errors
    /// [`Error::Request`] if the kernel refuses the question for another reason than a missing route.
    pub fn is_local(&mut self, address: IpAddr) -> Result<bool, Error> {
        Ok(matches!(self.route_to(address)?, Some((LOOPBACK_INDEX, _))))
    }
}

/// Waits until [`Netlink::is_local`] is true in the calling thread's namespace, by listening; false if that does
/// not happen within `patience`.
///
/// # Errors
/// If no socket can be opened, or the kernel's answer cannot be read.
pub fn await_local(address: IpAddr, patience: Duration) -> Result<bool, Error> {
    let deadline = Instant::now() + patience;
    // Subscribe before asking, so that no change in between is missed.
    let mut changes = Socket::listening(IPV6_ROUTES)?;
    let mut asking = Netlink::here()?;
    while !asking.is_local(address)? {
        if !await_change(&mut changes, deadline)? {
            return asking.is_local(address);
        }
    }
    Ok(true)
}

/// The outcome of duplicate detection for a link's addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Probed {
    /// None of them is tentative any more.
    Unique,
    /// Another machine has this one.
    Duplicate(IpAddr),
    /// This one is still tentative.
    Unfinished(IpAddr),
}

/// Waits, by listening, until duplicate detection has judged each of `addresses` on the link `index` of the calling
/// thread's namespace, or found one on another machine; not longer than `patience`.
///
/// # Errors
/// If no socket can be opened, or the addresses cannot be listed.
pub fn await_unique(index: u32, addresses: &[IpAddr], patience: Duration) -> Result<Probed, Error> {
    let deadline = Instant::now() + patience;
    // Subscribe before asking, so that no change in between is missed.
    let mut changes = Socket::listening(IPV6_ADDRESSES)?;
    let mut asking = Netlink::here()?;
    loop {
        let probed = judge(&asking.addresses(Some(index))?, addresses);
        if !matches!(probed, Probed::Unfinished(_)) || !await_change(&mut changes, deadline)? {
            return Ok(probed);
        }
    }
}

/// A duplicate counts before an unfinished one, because it ends the wait.
fn judge(found: &[Address], wanted: &[IpAddr]) -> Probed {
    let is = |flag: fn(&Address) -> bool| {
        wanted.iter().find(|wanted| found.iter().any(|found| found.address.ip() == **wanted && flag(found)))
    };
    match (is(|found| found.dad_failed), is(|found| found.tentative)) {
        (Some(duplicate), _) => Probed::Duplicate(*duplicate),
        (None, Some(tentative)) => Probed::Unfinished(*tentative),
        (None, None) => Probed::Unique,
    }
}

/// Waits for a notification and reads all that are available; false at the deadline.
fn await_change(changes: &mut Socket, deadline: Instant) -> Result<bool, Error> {
    let left = deadline.saturating_duration_since(Instant::now());
    let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
    let mut ready = [PollFd::from_borrowed_fd(changes.as_fd(), PollFlags::IN)];
    let polled = retry_on_intr(|| rustix::event::poll(&mut ready, Some(&left)));
    if polled.map_err(|errno| Error::Receive { errno })? == 0 {
        return Ok(false);
    }
    loop {
        match changes.receive(RecvFlags::DONTWAIT) {
            // NOBUFS: so many that some were lost. The caller asks again in any case.
            Ok(_) | Err(Error::Receive { errno: Errno::NOBUFS }) => {}
            Err(Error::Receive { errno: Errno::AGAIN }) => return Ok(true),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str, tentative: bool, dad_failed: bool) -> Address {
        Address { index: 2, address: text.parse().unwrap(), scope: 0, tentative, dad_failed }
    }

    #[test]
    fn a_duplicate_ends_the_wait_and_others_addresses_do_not_prolong_it() {
        let found = [
            address("fd00::2/64", true, false),
            // The kernel leaves a duplicate tentative for ever.
            address("fd00::3/64", true, true),
            address("fd00::4/64", false, false),
            address("fe80::2/64", true, false),
        ];
        let wanted = ["fd00::2", "fd00::3", "fd00::4"].map(|text| text.parse().unwrap());

        assert_eq!(judge(&found, &wanted), Probed::Duplicate(wanted[1]));
        assert_eq!(judge(&found, &wanted[..1]), Probed::Unfinished(wanted[0]));
        assert_eq!(judge(&found, &wanted[2..]), Probed::Unique);
    }
}
