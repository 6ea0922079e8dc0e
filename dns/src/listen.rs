//! Sockets on the gateways, and datagrams in batches.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, RecvMsg, SockaddrIn, SockaddrIn6,
    SockaddrLike, recvmmsg, sendmmsg, setsockopt, sockopt,
};
use rustix::io::Errno;
use rustix::net::sockopt as option;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::worker::Server;
use crate::{Asked, Transport};

/// How many datagrams are received at one wake-up.
const BATCH: usize = 64;

/// The longest question in bytes; longer ones are dropped.
const LONGEST: usize = 2048;

/// The receive buffer in bytes: room for a burst of some thousand questions, if the host allows it.
const RECEIVE_BUFFER: usize = 1 << 20;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 256;

/// A port to which nothing is sent; connect(2) needs one.
const DISCARD: u16 = 9;

/// How many high ports are tried: one must be free for both transports.
const PORT_TRIES: usize = 16;

/// The two sockets of a gateway address.
#[derive(Debug)]
pub(crate) struct GatewaySockets {
    pub(crate) udp: OwnedFd,
    pub(crate) tcp: OwnedFd,
    /// The wanted port, or a high one if that was taken (L3).
    pub(crate) port: u16,
}

/// Binds `address` at `port`, or, if another program has it, at a high port (L3). The address need not exist yet (L2).
/// A link-local one is bound on `link`.
pub(crate) fn bind(address: IpAddr, link: &str, port: u16) -> Result<GatewaySockets, Errno> {
    let address = with_scope(address, link);
    match bind_both(address, port) {
        Err(Errno::ADDRINUSE) => {}
        bound => return bound,
    }
    let bound = (0..PORT_TRIES).map(|_| bind_both(address, 0)).find(|bound| *bound != Err(Errno::ADDRINUSE));
    bound.unwrap_or(Err(Errno::ADDRINUSE))
}

impl PartialEq for GatewaySockets {
    fn eq(&self, other: &Self) -> bool {
        self.udp.as_raw_fd() == other.udp.as_raw_fd()
    }
}

fn with_scope(address: IpAddr, link: &str) -> SocketAddr {
    match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            SocketAddrV6::new(v6, 0, 0, link_index(link).unwrap_or_default()).into()
        }
        _ => SocketAddr::new(address, 0),
    }
}

/// The number of a link.
pub(crate) fn link_index(link: &str) -> Option<u32> {
    rustix::net::netdevice::name_to_index(any_socket().ok()?, link).ok()
}

/// The name of a link.
pub(crate) fn link_name(index: u32) -> Option<String> {
    rustix::net::netdevice::index_to_name(any_socket().ok()?, index).ok()
}

/// Whether an address is one of the host's own: the kernel chooses it as source for itself. For other addresses it chooses
/// another source. So it does for the second of two addresses in one subnet (fib_add_ifaddr in the kernel), which counts
/// as foreign.
pub(crate) fn is_own(address: IpAddr) -> bool {
    let own_end = || -> Result<SocketAddr, Errno> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        rustix::net::connect(&socket, &SocketAddr::new(address, DISCARD))?;
        SocketAddr::try_from(rustix::net::getsockname(&socket)?).map_err(|_| Errno::INVAL)
    };
    own_end().is_ok_and(|own| own.ip() == address)
}

fn any_socket() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
}

fn bind_both(mut address: SocketAddr, port: u16) -> Result<GatewaySockets, Errno> {
    address.set_port(port);
    let udp = socket(address, SocketType::DGRAM)?;
    tell_links(&udp, address)?;
    let _ = option::set_socket_recv_buffer_size(&udp, RECEIVE_BUFFER);
    rustix::net::bind(&udp, &address)?;
    let port = SocketAddr::try_from(rustix::net::getsockname(&udp)?).map_err(|_| Errno::INVAL)?.port();
    address.set_port(port);
    let tcp = socket(address, SocketType::STREAM)?;
    // Connections of the previous server may still linger.
    option::set_socket_reuseaddr(&tcp, true)?;
    rustix::net::bind(&tcp, &address)?;
    rustix::net::listen(&tcp, BACKLOG)?;
    Ok(GatewaySockets { udp, tcp, port })
}

fn socket(address: SocketAddr, kind: SocketType) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if address.is_ipv4() {
        option::set_ip_freebind(&socket, true)?;
    } else {
        option::set_ipv6_freebind(&socket, true)?;
        option::set_ipv6_v6only(&socket, true)?;
    }
    Ok(socket)
}

/// Makes each datagram name the link through which it came (V5).
fn tell_links(socket: &OwnedFd, address: SocketAddr) -> Result<(), Errno> {
    let set = match address {
        SocketAddr::V4(_) => setsockopt(socket, sockopt::Ipv4PacketInfo, &true),
        SocketAddr::V6(_) => setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true),
    };
    set.map_err(|errno| Errno::from_raw_os_error(errno as i32))
}

/// Answers the datagrams to `address` until the task is ended.
pub(crate) async fn serve(server: Rc<Server>, socket: OwnedFd, address: IpAddr) {
    let Ok(socket) = UdpSocket::from_std(socket.into()) else { return };
    let socket = Rc::new(socket);
    loop {
        if socket.readable().await.is_err() {
            return;
        }
        // An error is an ICMP message about an earlier answer.
        if socket.try_io(Interest::READABLE, || round(&server, &socket, address)).is_ok() {
            // There may be more, but the other sockets have their turn first.
            tokio::task::yield_now().await;
        }
    }
}

/// One batch. A batch that is not full has emptied the socket: the socket then counts as empty, and later datagrams wake
/// the task.
fn round(server: &Rc<Server>, socket: &Rc<UdpSocket>, address: IpAddr) -> io::Result<()> {
    let taken = match address {
        IpAddr::V4(_) => server.batches.v4.borrow_mut().round(server, socket, address)?,
        IpAddr::V6(_) => server.batches.v6.borrow_mut().round(server, socket, address)?,
    };
    if taken < BATCH { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
}

/// Receives and sends many datagrams at once. All sockets of a family share it, because one has its turn at a time.
pub(crate) struct Batch<S> {
    received: MultiHeaders<S>,
    sent: MultiHeaders<S>,
    buffers: Box<[[u8; LONGEST]]>,
    answers: Vec<Vec<u8>>,
    peers: Vec<Option<S>>,
}

/// An address of one family. The headers are made for one family each, because the kernel writes the lengths of address
/// and control message into them, and the next call uses those.
pub(crate) trait Family: SockaddrLike + Copy {
    fn socket(self) -> SocketAddr;
}

impl Family for SockaddrIn {
    fn socket(self) -> SocketAddr {
        SocketAddrV4::from(self).into()
    }
}

impl Family for SockaddrIn6 {
    fn socket(self) -> SocketAddr {
        SocketAddrV6::from(self).into()
    }
}

impl<S: Family> Batch<S> {
    pub(crate) fn new() -> Self {
        let control = nix::cmsg_space!(libc::in6_pktinfo);
        Self {
            received: MultiHeaders::preallocate(BATCH, Some(control)),
            sent: MultiHeaders::preallocate(BATCH, None),
            buffers: vec![[0; LONGEST]; BATCH].into(),
            answers: Vec::with_capacity(BATCH),
            peers: Vec::with_capacity(BATCH),
        }
    }

    /// Receives what is there, and sends the answers that are ready; returns how many were received.
    fn round(&mut self, server: &Rc<Server>, socket: &Rc<UdpSocket>, to: IpAddr) -> io::Result<usize> {
        let mut taken = 0;
        let mut slices: Vec<_> = self.buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let fd = socket.as_raw_fd();
        let messages = recvmmsg(fd, &mut self.received, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)?;
        for message in messages {
            taken += 1;
            if let Some((answer, peer)) = answer(server, socket, to, &message) {
                self.answers.push(answer);
                self.peers.push(Some(peer));
            }
        }
        send(socket, &mut self.sent, &self.answers, &self.peers);
        self.answers.clear();
        self.peers.clear();
        Ok(taken)
    }
}

fn answer<S: Family>(
    server: &Rc<Server>,
    socket: &Rc<UdpSocket>,
    to: IpAddr,
    message: &RecvMsg<'_, '_, S>,
) -> Option<(Vec<u8>, S)> {
    let (peer, bytes) = (message.address?, message.iovs().next()?);
    if message.flags.contains(MsgFlags::MSG_TRUNC) {
        return None;
    }
    let from = peer.socket();
    // The host's own question comes through lo; for IPv6 the kernel names the address's link instead.
    let link = if from.ip() == to { Rc::from("lo") } else { server.links.name(link_of(message)) };
    let asked = Asked { message: bytes, from: from.ip(), link: &link, to, transport: Transport::Udp };
    let answer = server.answer(&asked, || {
        let socket = Rc::clone(socket);
        Box::new(move |_, answer| {
            let _ = rustix::net::sendto(socket.as_fd(), answer, send_flags(), &from);
        })
    })?;
    Some((answer, peer))
}

fn send_flags() -> rustix::net::SendFlags {
    // An answer that does not fit into the socket's buffer is lost, as on any wire: nothing waits.
    rustix::net::SendFlags::DONTWAIT
}

fn link_of<S>(message: &RecvMsg<'_, '_, S>) -> u32 {
    let controls = message.cmsgs().into_iter().flatten();
    let index = controls.filter_map(|control| match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => u32::try_from(info.ipi_ifindex).ok(),
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(info.ipi6_ifindex),
        _ => None,
    });
    index.last().unwrap_or_default()
}

/// Sends answers from the socket's address, which is the one that was asked (M9).
fn send<S: Family>(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<S>,
    answers: &[Vec<u8>],
    peers: &[Option<S>],
) {
    let slices: Vec<_> = answers.iter().map(|answer| [IoSlice::new(answer)]).collect();
    let none: [ControlMessage<'_>; 0] = [];
    let mut done = 0;
    while done < answers.len() {
        let (slices, peers) = (&slices[done..], &peers[done..]);
        match sendmmsg(socket.as_raw_fd(), headers, slices, peers, none, MsgFlags::MSG_DONTWAIT) {
            Ok(sent) => done += sent.count().max(1),
            Err(nix::errno::Errno::EAGAIN) => return,
            // This one cannot be sent (no route, a firewall); the others can.
            Err(_) => done += 1,
        }
    }
}
