//! One question to one upstream server, and its answer.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpStream, UdpSocket};

use crate::message::is_reply_to;

/// How many sockets of each family are kept for the next questions.
const MOST_IDLE: usize = 64;

/// A socket with more datagrams left than this is not kept.
const MOST_LEFT: usize = 64;

/// Sockets for questions by datagram.
pub(crate) struct Sockets {
    /// Replies are received here, then copied: few are long.
    scratch: RefCell<Box<[u8]>>,
    /// Sockets whose reply has arrived, of IPv4 and IPv6.
    idle: [RefCell<Vec<UdpSocket>>; 2],
}

impl Default for Sockets {
    fn default() -> Self {
        Self { scratch: RefCell::new(vec![0; 1 << 16].into()), idle: Default::default() }
    }
}

impl Sockets {
    /// A new random port for each query, which the kernel chooses (F6). Only datagrams of `server` are received.
    pub(crate) async fn exchange(&self, server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
        let socket = self.connect(server)?;
        let send = || rustix::net::send(socket.as_fd(), query, SendFlags::DONTWAIT);
        // An ICMP message about a kept socket's previous question is reported to its next user, once.
        send().or_else(|_| {
            forget_errors(&socket);
            send()
        })?;
        let reply = self.reply(&socket, query).await?;
        self.keep(socket, server);
        Ok(reply)
    }

    /// A socket that gets a port by being connected: a new one, or one that has lost its port.
    fn connect(&self, server: SocketAddr) -> io::Result<UdpSocket> {
        let idle = self.idle[usize::from(server.is_ipv6())].borrow_mut().pop();
        let socket = match idle {
            Some(socket) => socket,
            None => open_socket(server)?,
        };
        rustix::net::connect(socket.as_fd(), &server)?;
        Ok(socket)
    }

    /// Keeps a socket for another question. It loses its port at once (udp_disconnect in the kernel). Other datagrams than
    /// the answer are taken out: they would fill the socket, and the next question would lose its answer.
    fn keep(&self, socket: UdpSocket, server: SocketAddr) {
        let mut idle = self.idle[usize::from(server.is_ipv6())].borrow_mut();
        if idle.len() < MOST_IDLE
            && rustix::net::connect_unspec(socket.as_fd()).is_ok()
            && is_emptied(&socket)
        {
            idle.push(socket);
        }
    }

    async fn reply(&self, socket: &UdpSocket, query: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            // An ICMP message makes a socket erroneous, not readable.
            let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
            let interest = if ready.is_readable() { Interest::READABLE } else { Interest::ERROR };
            let received = socket.try_io(interest, || {
                let mut buffer = self.scratch.borrow_mut();
                let (len, _) = rustix::net::recv(socket.as_fd(), &mut buffer[..], RecvFlags::DONTWAIT)?;
                Ok(is_reply_to(&buffer[..len], query).then(|| buffer[..len].to_vec()))
            });
            match received {
                Ok(Some(reply)) => return Ok(reply),
                // Forged, or of another question: the wait continues, and a flood of them stops no other task.
                Ok(None) => tokio::task::yield_now().await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn open_socket(server: SocketAddr) -> io::Result<UdpSocket> {
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
    // Without it the kernel does not report that a host or a network is unreachable, because that may be temporary (F2).
    match server {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?,
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?,
    }
    UdpSocket::from_std(socket.into())
}

/// Empties the socket's error queue, which ICMP messages fill.
fn forget_errors(socket: &UdpSocket) {
    let flags = RecvFlags::ERRQUEUE | RecvFlags::DONTWAIT;
    while rustix::net::recv(socket.as_fd(), &mut [0; 1][..], flags).is_ok() {}
}

/// Empties a socket that has no port; false if there are too many datagrams.
fn is_emptied(socket: &UdpSocket) -> bool {
    // Asks tokio only, not the kernel.
    if socket.try_io(Interest::ERROR, || Ok(())).is_ok() {
        forget_errors(socket);
    }
    // Without tokio, which still takes the socket for readable: so the next answer is looked for at once, and a server that
    // answers at once needs no timer.
    let is_empty =
        |_| rustix::net::recv(socket.as_fd(), &mut [0; 1][..], RecvFlags::DONTWAIT) == Err(Errno::AGAIN);
    (0..MOST_LEFT).any(is_empty)
}

/// A question that came by TCP is asked by TCP (F1).
pub(crate) async fn stream_exchange(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let len = u16::try_from(query.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&len.to_be_bytes(), query].concat()).await?;
    let len = stream.read_u16().await?;
    let mut reply = vec![0; len.into()];
    stream.read_exact(&mut reply).await?;
    match is_reply_to(&reply, query) {
        true => Ok(reply),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}
