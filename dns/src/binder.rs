//! The worker's requests to its parent: sockets, which only the parent may bind, and a successor.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;

use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::bind::{self, GatewaySockets};
use crate::channel::{receive, send};
use crate::trial;
use crate::wish::{Grant, Wish};

/// How sockets will be obtained, once there is a runtime.
pub(crate) enum Way {
    Here(u16),
    Parent(OwnedFd),
}

/// How sockets are obtained.
pub(crate) enum Binder {
    /// This process may bind them at this port.
    Here(u16),
    /// The parent binds them, at the other end.
    Parent(UnixStream),
}

impl Binder {
    /// Needs a runtime.
    pub(crate) fn new(way: Way) -> io::Result<Self> {
        match way {
            Way::Here(port) => Ok(Self::Here(port)),
            Way::Parent(channel) => {
                let channel = StdUnixStream::from(channel);
                channel.set_nonblocking(true)?;
                Ok(Self::Parent(UnixStream::from_std(channel)?))
            }
        }
    }

    /// The sockets of `address`.
    pub(crate) async fn bind(&mut self, address: IpAddr, link: &str) -> Result<GatewaySockets, Errno> {
        match self {
            Self::Here(port) => bind::bind(address, link, *port),
            Self::Parent(channel) => ask(channel, address, link).await,
        }
    }

    /// Asks the parent to let the installed version continue in its place, and to report the outcome to `client`.
    pub(crate) async fn replace(&mut self, client: OwnedFd) {
        match self {
            Self::Here(_) => trial::refuse(&client, "this server has no parent that could be replaced"),
            Self::Parent(channel) => {
                let handed = [client.as_fd()];
                let wish = || send(channel.as_fd(), &Wish::Replace, &handed);
                let _ = channel.async_io(Interest::WRITABLE, wish).await;
            }
        }
    }

    /// Tells the parent that a successor may begin; this process then ends.
    pub(crate) async fn hand_over(&mut self) {
        if let Self::Parent(channel) = self {
            let _ = wish(channel, &Wish::HandOver).await;
        }
    }

    /// Closes the sockets of an address. Returns when no process has them, so that the port of a removed network is free.
    pub(crate) async fn close(&mut self, address: IpAddr) {
        if let Self::Parent(channel) = self
            && wish(channel, &Wish::Close { address }).await.is_ok()
        {
            let _ = answer(channel).await;
        }
    }
}

async fn ask(channel: &UnixStream, address: IpAddr, link: &str) -> Result<GatewaySockets, Errno> {
    let lost = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    wish(channel, &Wish::Bind { address, link: link.into() }).await.map_err(lost)?;
    match answer(channel).await.map_err(lost)? {
        (Grant::Errno(errno), _) => Err(Errno::from_raw_os_error(errno)),
        (Grant::Closed, _) => Err(Errno::BADMSG),
        (Grant::Port(port), sockets) => {
            let [udp, tcp] = <[OwnedFd; 2]>::try_from(sockets).map_err(|_| Errno::BADMSG)?;
            Ok(GatewaySockets { udp, tcp, port })
        }
    }
}

async fn answer(channel: &UnixStream) -> io::Result<(Grant, Vec<OwnedFd>)> {
    let received = || receive(channel.as_fd(), RecvFlags::DONTWAIT);
    channel.async_io(Interest::READABLE, received).await
}

async fn wish(channel: &UnixStream, wish: &Wish) -> io::Result<()> {
    channel.async_io(Interest::WRITABLE, || send(channel.as_fd(), wish, &[])).await
}
