//! Questions over UDP: datagrams in batches.

use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, RecvMsg, SockaddrIn, SockaddrIn6,
    SockaddrLike, recvmmsg, sendmmsg,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::answers::Answers;
use crate::zone::{Asked, Transport};

/// How many datagrams are received at one wake-up.
const BATCH: usize = 64;

/// The longest question in bytes; longer ones are dropped.
const LONGEST: usize = 2048;

/// Buffers for datagrams, of each family.
pub(crate) struct Batches {
    v4: RefCell<Batch<SockaddrIn>>,
    v6: RefCell<Batch<SockaddrIn6>>,
}

impl Batches {
    pub(crate) fn new() -> Self {
        Self { v4: RefCell::new(Batch::new()), v6: RefCell::new(Batch::new()) }
    }
}

/// Answers the datagrams to `address` until the task is ended.
pub(crate) async fn serve(server: Rc<impl Answers>, batches: Rc<Batches>, socket: OwnedFd, address: IpAddr) {
    let Ok(socket) = UdpSocket::from_std(socket.into()) else { return };
    let socket = Rc::new(socket);
    loop {
        if socket.readable().await.is_err() {
            return;
        }
        // An error is an ICMP message about an earlier answer.
        if socket.try_io(Interest::READABLE, || round(&server, &batches, &socket, address)).is_ok() {
            // There may be more, but the other sockets have their turn first.
            tokio::task::yield_now().await;
        }
    }
}

/// One batch. A batch that is not full has emptied the socket: the socket then counts as empty, and later datagrams wake
/// the task.
fn round(
    server: &Rc<impl Answers>,
    batches: &Batches,
    socket: &Rc<UdpSocket>,
    address: IpAddr,
) -> io::Result<()> {
    let taken = match address {
        IpAddr::V4(_) => batches.v4.borrow_mut().round(server, socket, address)?,
        IpAddr::V6(_) => batches.v6.borrow_mut().round(server, socket, address)?,
    };
    if taken < BATCH { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
}

/// Receives and sends many datagrams at once. All sockets of a family share it, because one has its turn at a time.
struct Batch<S> {
    received: MultiHeaders<S>,
    sent: MultiHeaders<S>,
    buffers: Box<[[u8; LONGEST]]>,
    answers: Vec<Vec<u8>>,
    peers: Vec<Option<S>>,
}

/// An address of one family. The headers are made for one family each, because the kernel writes the lengths of address
/// and control message into them, and the next call uses those.
trait Family: SockaddrLike + Copy {
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
    fn new() -> Self {
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
    fn round(&mut self, server: &Rc<impl Answers>, socket: &Rc<UdpSocket>, to: IpAddr) -> io::Result<usize> {
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
    server: &Rc<impl Answers>,
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
    let link = if from.ip() == to { Rc::from("lo") } else { server.link(link_of(message)) };
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
