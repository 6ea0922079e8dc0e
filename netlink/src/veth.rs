//! A veth pair in one message: the peer is made in its namespace, with its final name.
//!
//! Moving a link to another namespace takes the kernel 29 ms; making it there takes no extra time.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use crate::encode;
use crate::mac::Mac;
use crate::netns::Netns;

/// A veth pair to make.
pub struct Veth<'a> {
    /// Name of the end in the namespace of the handle.
    pub name: &'a str,
    /// Its MAC; `None`: random.
    pub mac: Option<Mac>,
    /// MTU of both ends, in bytes; `None`: the kernel's 1500.
    pub mtu: Option<u32>,
    /// The bridge whose port the end `name` becomes.
    pub master: Option<u32>,
    /// Name of the other end.
    pub peer: &'a str,
    /// MAC of the other end; `None`: random.
    pub peer_mac: Option<Mac>,
    /// The namespace in which the other end is made.
    pub peer_netns: &'a Netns,
    /// Whether the end `name` is up at once; the other cannot be (ENOTCONN).
    pub up: bool,
}

/// The indexes of a pair, each in its own namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VethPair {
    /// Of the end in the namespace of the handle.
    pub host: u32,
    /// Of the end in the other namespace.
    pub container: u32,
}

impl Veth<'_> {
    pub(crate) fn message(&self) -> LinkMessage {
        let mut message = end(self.name, self.mac, self.mtu);
        if self.up {
            encode::flag(&mut message, LinkFlags::Up, true);
        }
        message.attributes.extend(self.master.map(LinkAttribute::Controller));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(self.peer()))),
        ]));
        message
    }

    fn peer(&self) -> LinkMessage {
        let mut peer = end(self.peer, self.peer_mac, self.mtu);
        peer.attributes.push(LinkAttribute::NetNsFd(self.peer_netns.as_fd().as_raw_fd()));
        peer
    }
}

/// As `ip` takes it; the namespace by its path.
impl fmt::Display for Veth<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ip link add {}", self.name)?;
        if let Some(mac) = self.mac {
            write!(f, " address {mac}")?;
        }
        if let Some(mtu) = self.mtu {
            write!(f, " mtu {mtu}")?;
        }
        if let Some(master) = self.master {
            write!(f, " master if{master}")?;
        }
        write!(f, " type veth peer name {}", self.peer)?;
        if let Some(mac) = self.peer_mac {
            write!(f, " address {mac}")?;
        }
        write!(f, " netns {}", self.peer_netns.path().display())
    }
}

/// One queue each: otherwise the kernel makes one per processor, which costs time and memory.
fn end(name: &str, mac: Option<Mac>, mtu: Option<u32>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.into()),
        LinkAttribute::NumTxQueues(1),
        LinkAttribute::NumRxQueues(1),
    ];
    message.attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    message.attributes.extend(mtu.map(LinkAttribute::Mtu));
    message
}
