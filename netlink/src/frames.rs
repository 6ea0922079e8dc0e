//! Frames sent directly (packet(7)): no routes or neighbours decide where they go.

use std::os::fd::{AsRawFd, OwnedFd};
use std::{io, ptr};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::error::Error;
use crate::netns::Netns;

/// A socket that sends whole Ethernet frames in one network namespace, and receives nothing.
pub struct Frames(OwnedFd);

impl Frames {
    /// Opens a socket in `netns`.
    ///
    /// # Errors
    /// If the namespace cannot be entered or no socket can be opened.
    pub fn inside(netns: &Netns) -> Result<Self, Error> {
        // Protocol 0: nothing that arrives is copied to it.
        let open =
            || rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None);
        netns.visit(open)?.map(Self).map_err(|errno| Error::Socket { errno })
    }

    /// Sends a frame through the link with this index. The kernel delivers it to the other end of a veth pair before it
    /// returns.
    ///
    /// # Errors
    /// If the link does not exist or is down, or the frame is too long.
    pub fn send(&self, index: u32, frame: &[u8]) -> Result<(), Error> {
        // SAFETY: a structure of integers, for which zero is a value.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as libc::c_ushort;
        to.sll_ifindex = index as libc::c_int;
        // SAFETY: both pointers are to live values of the given lengths, and the socket is open.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                libc::MSG_DONTWAIT,
                ptr::from_ref(&to).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if sent >= 0 {
            return Ok(());
        }
        let errno = Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO);
        Err(Error::Send { errno })
    }
}
