//! Deleting a link without waiting for the kernel's grace period.
//!
//! RTM_DELLINK removes the link from every list within two milliseconds and notifies all listeners. Then it waits 15 to
//! 20 ms until no processor uses the link any more, and only then answers. A forked child sends the request and waits;
//! this process continues after the notification.
//!
//! A bridge is different: it waits for the grace period (`br_multicast_dev_del`) while it holds the RTNL lock, and only
//! then sends RTM_DELLINK. By then it has long been off every list, and the next caller that needs the RTNL lock gets it
//! afterwards. So this process continues after an earlier notification: the link's IP settings are gone (RTM_DELNETCONF).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use netlink_packet_route::RouteNetlinkMessage as Body;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags};

use crate::encode;
use crate::error::Error;
use crate::netns::fork_keeping;
use crate::read;
use crate::socket::{Message, Refusal, Socket, netlink_socket};
use crate::wire;

/// `RTMGRP_LINK`, RTNLGRP_IPV4_NETCONF and RTNLGRP_IPV6_NETCONF as masks (linux/rtnetlink.h).
const LINK_CHANGES: u32 = 1;
const SETTINGS_CHANGES: u32 = 1 << 23 | 1 << 24;
/// Far longer than any kernel takes: for a lost notification and a killed child.
const PATIENCE: Duration = Duration::from_secs(10);

/// Deletes the link with this index in the calling thread's namespace; true if it was there.
///
/// With `wait` it returns when the kernel has finished, after 15 to 20 ms. Without it, it returns when the link
/// is off every list and its name is free, and a child waits on. The child has only its socket, a pipe and `keep`:
/// descriptors that must be closed late, such as an nf_tables socket that has deleted something. Without `wait` the
/// calling process must have one thread.
///
/// # Errors
/// If the kernel refuses the deletion or does not finish it in time, or no socket can be opened.
pub fn delete_link(index: u32, keep: &[BorrowedFd<'_>], wait: bool) -> Result<bool, Error> {
    delete_link_then(index, keep, wait, || ())
}

/// The same, and the process that waits runs `then` afterwards.
///
/// # Errors
/// As [`delete_link`].
pub fn delete_link_then(
    index: u32,
    keep: &[BorrowedFd<'_>],
    wait: bool,
    then: impl Fn(),
) -> Result<bool, Error> {
    if !wait {
        match delete_by_child(index, keep, &then) {
            // If there are no descriptors, memory or process numbers for a child, this process waits.
            Err(Error::Socket { .. } | Error::Fork { .. }) => {}
            other => return other,
        }
    }
    let deleted = delete_and_await(index);
    then();
    deleted
}

fn delete_and_await(index: u32) -> Result<bool, Error> {
    let mut socket = Socket::open()?;
    let verdicts = socket.exchange(vec![request(index)], |_| ())?;
    verdict(index, verdicts.into_iter().flatten().next())
}

fn delete_by_child(index: u32, keep: &[BorrowedFd<'_>], then: &impl Fn()) -> Result<bool, Error> {
    // Subscribe before the request is sent, so that the notification cannot be missed.
    let mut changes = Socket::listening(LINK_CHANGES | SETTINGS_CHANGES)?;
    let socket = netlink_socket().map_err(|errno| Error::Socket { errno })?;
    let (answer, report) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|errno| Error::Fork { errno })?;
    let bytes = request(index).encode(1);
    let kept: Vec<_> = [socket.as_fd(), report.as_fd()].into_iter().chain(keep.iter().copied()).collect();
    fork_keeping(&kept, || {
        let code = send_and_await(&socket, &bytes).map_or_else(Errno::raw_os_error, |()| 0);
        // Without an error the parent may be gone, and no process reads this.
        let _ = rustix::io::write(&report, &code.to_ne_bytes());
        then();
    })?;
    drop((socket, report));
    await_departure(index, &mut changes, &answer)
}

/// The child's part; without allocations, because the parent of a test has other threads.
fn send_and_await(socket: &OwnedFd, request: &[u8]) -> Result<(), Errno> {
    rustix::net::send(socket, request, SendFlags::empty())?;
    let mut answer = [0; 512];
    let flags = RecvFlags::empty();
    let (_, length) = retry_on_intr(|| rustix::net::recv(socket, &mut answer[..], flags))?;
    let received = answer.get(..length).ok_or(Errno::MSGSIZE)?;
    match wire::messages(received).find_map(|answer| answer.verdict()) {
        Some(None) => Ok(()),
        Some(Some(refusal)) => Err(refusal.errno),
        None => Err(Errno::PROTO),
    }
}

/// Waits until the kernel reports that the link is gone, or the child that it cannot be deleted.
fn await_departure(index: u32, changes: &mut Socket, answer: &OwnedFd) -> Result<bool, Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (notified, reported) = wait_for_either(changes.as_fd(), answer.as_fd(), deadline)?;
        if notified && reports_end(index, changes)? {
            return Ok(true);
        }
        if reported {
            return read_child(index, answer);
        }
        if !notified {
            return Err(Error::NotDeleted { index, waited: PATIENCE });
        }
    }
}

fn wait_for_either(
    changes: BorrowedFd<'_>,
    answer: BorrowedFd<'_>,
    deadline: Instant,
) -> Result<(bool, bool), Error> {
    let mut fds =
        [PollFd::from_borrowed_fd(changes, PollFlags::IN), PollFd::from_borrowed_fd(answer, PollFlags::IN)];
    let left = deadline.saturating_duration_since(Instant::now());
    let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
    retry_on_intr(|| rustix::event::poll(&mut fds, Some(&left))).map_err(|errno| Error::Receive { errno })?;
    let [changes, answer] = fds.map(|fd| !fd.revents().is_empty());
    Ok((changes, answer))
}

/// Reads the available notifications; true if one reports that the whole link is gone.
fn reports_end(index: u32, changes: &mut Socket) -> Result<bool, Error> {
    let family = last_family();
    loop {
        let datagram = match changes.receive(RecvFlags::DONTWAIT) {
            Ok(datagram) => datagram,
            Err(Error::Receive { errno: Errno::AGAIN }) => return Ok(false),
            // So many changes that some were lost: look for the link itself.
            Err(Error::Receive { errno: Errno::NOBUFS }) => return is_gone(index),
            Err(error) => return Err(error),
        };
        let (mut gone, mut stripped) = (false, false);
        for answer in wire::messages(datagram) {
            gone |= answer.kind == read::RTM_DELLINK
                && read::is_whole_link(&answer)
                && read::link_index(&answer) == Some(index);
            stripped |= read::lost_settings(&answer) == Some((family, index));
        }
        if gone || stripped && is_unlisted(index, changes) {
            return Ok(true);
        }
    }
}

/// The address family whose settings a link loses last.
fn last_family() -> u8 {
    let has_v6 = std::path::Path::new("/proc/net/if_inet6").exists();
    (if has_v6 { libc::AF_INET6 } else { libc::AF_INET }) as u8
}

/// Whether the link is off every list: it also loses its settings if its MTU becomes too small for IPv6. Asks without the
/// RTNL lock.
fn is_unlisted(index: u32, socket: &Socket) -> bool {
    rustix::net::netdevice::index_to_name(socket.as_fd(), index) == Err(Errno::NODEV)
}

fn is_gone(index: u32) -> Result<bool, Error> {
    Ok(crate::Netlink::here()?.link_by_index(index)?.is_none())
}

/// The outcome that the child wrote, an errno or 0; it writes nothing if it was killed.
fn read_child(index: u32, answer: &OwnedFd) -> Result<bool, Error> {
    let mut code = [0; 4];
    let length = retry_on_intr(|| rustix::io::read(answer, &mut code[..]))
        .map_err(|errno| Error::Receive { errno })?;
    let refused = match (length, i32::from_ne_bytes(code)) {
        (4, 0) => None,
        (4, code) => Some(Errno::from_raw_os_error(code)),
        _ if is_gone(index)? => None,
        _ => Some(Errno::CHILD),
    };
    verdict(index, refused.map(|errno| Refusal { errno, detail: String::new() }))
}

fn request(index: u32) -> Message {
    Message::new(Body::DelLink(encode::link(index)), 0)
}

fn verdict(index: u32, refusal: Option<Refusal>) -> Result<bool, Error> {
    match refusal {
        None => Ok(true),
        Some(Refusal { errno: Errno::NODEV, .. }) => Ok(false),
        Some(Refusal { errno, detail }) => {
            Err(Error::Request { request: format!("ip link del dev if{index}"), errno, detail })
        }
    }
}
