//! Closing the ruleset's sockets late.
//!
//! After a deletion from a ruleset, the close of any netfilter socket of that namespace waits for the kernel's grace
//! period (12 to 20 ms) and keeps everybody else from the ruleset meanwhile. So nobody closes while others delete:
//! the sockets are handed to a keeper, a child of the first who has one to hand over, which closes them all as soon
//! as it has been quiet for longer than that period, and ends.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nft::Firewall;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::AtFlags;
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// The keeper's socket, in a folder that is root's alone.
const NAME: &str = "keeper";

/// Quiet for so long, the kernel has nothing left to wait for.
const QUIET: Timespec = Timespec { tv_sec: 0, tv_nsec: 40_000_000 };

/// So many sockets are held at once; then they are closed although it is not quiet.
const MOST: usize = 8192;

/// Hands `firewall` to the keeper whose socket is in the folder `run`, or becomes its parent. Without a keeper it is closed
/// here and now: that takes longer and is as right.
pub fn close_later(run: BorrowedFd<'_>, firewall: Firewall) {
    match hand_over(run, &firewall) {
        Err(Errno::NOENT | Errno::CONNREFUSED) => drop(start(run, &firewall)),
        // It is there and busy: what it would have done, a child of our own does.
        Err(_) => drop(netlink::fork_keeping(&[firewall.as_fd()], pause)),
        Ok(()) => {}
    }
}

fn hand_over(run: BorrowedFd<'_>, firewall: &Firewall) -> Result<(), Errno> {
    let socket = socket()?;
    let handed = [firewall.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&handed));
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::net::sendmsg_addr(&socket, &address(run)?, &[IoSlice::new(b"1")], &mut ancillary, flags).map(drop)
}

/// Bound before the fork: the next process finds the keeper although it has not run yet.
fn start(run: BorrowedFd<'_>, firewall: &Firewall) -> Result<(), netlink::Error> {
    let _ = rustix::fs::unlinkat(run, NAME, AtFlags::empty());
    let bound = socket().and_then(|socket| rustix::net::bind(&socket, &address(run)?).map(|()| socket));
    match bound {
        Ok(socket) => netlink::fork_keeping(&[firewall.as_fd(), socket.as_fd(), run], || keep(run, &socket)),
        Err(_) => netlink::fork_keeping(&[firewall.as_fd()], pause),
    }
}

/// The keeper's life: it takes sockets until none has come for a while. All of them are closed by its end.
fn keep(run: BorrowedFd<'_>, socket: &OwnedFd) {
    raise_limit();
    let mut held = Vec::new();
    while held.len() < MOST && wait(&[socket.as_fd()]) {
        take(socket, &mut held);
    }
    let _ = rustix::fs::unlinkat(run, NAME, AtFlags::empty());
    take(socket, &mut held);
}

fn pause() {
    wait(&[]);
}

/// False if nothing came while it was quiet.
fn wait(sockets: &[BorrowedFd<'_>]) -> bool {
    let mut ready: Vec<_> =
        sockets.iter().map(|socket| PollFd::from_borrowed_fd(*socket, PollFlags::IN)).collect();
    matches!(rustix::event::poll(&mut ready, Some(&QUIET)), Ok(1..) | Err(Errno::INTR))
}

/// Takes what is at hand.
fn take(socket: &OwnedFd, held: &mut Vec<OwnedFd>) {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    while rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, flags).is_ok() {
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(sockets) = message {
                held.extend(sockets);
            }
        }
    }
}

fn socket() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
}

/// By way of the folder's descriptor: an address has room for 107 bytes, a path may have more.
fn address(run: BorrowedFd<'_>) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{NAME}", run.as_raw_fd()))
}

fn raise_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
