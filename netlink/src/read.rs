//! Links, addresses, routes and neighbours in the kernel's messages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::mac::Mac;
use crate::request::Route;
use crate::socket::Answer;
use crate::wire::{self, Attributes};

/// Message types (linux/rtnetlink.h).
pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_NEWROUTE: u16 = 24;
pub(crate) const RTM_NEWNEIGH: u16 = 28;

const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;
const NEIGHBOUR_HEADER: usize = 12;
const NEXT_HOP_HEADER: usize = 8;

/// A link of a network namespace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// IFLA_IFNAME.
    pub name: String,
    /// IFLA_INFO_KIND: `veth`, `bridge`, …; hardware has none.
    pub kind: Option<String>,
    /// The Ethernet address, if it is one.
    pub mac: Option<Mac>,
    /// IFLA_MTU, in bytes.
    pub mtu: u32,
    /// IFF_UP: switched on, whatever its carrier says.
    pub up: bool,
    /// IFF_LOWER_UP: it has a carrier; a veth's other end is up.
    pub carrier: bool,
    /// IFLA_MASTER: the bridge whose port it is.
    pub master: Option<u32>,
    /// IFLA_LINK: the index of a veth's other end, of a macvlan's parent.
    pub peer: Option<u32>,
    /// IFLA_LINK_NETNSID: the number in this namespace of the one to which `peer` belongs; `None`: this one.
    pub peer_netnsid: Option<i32>,
    /// IFLA_IFALIAS.
    pub alias: Option<String>,
    /// IFF_PROMISC as set on the link itself; not the promiscuity that its bridge causes.
    pub promisc: bool,
    /// IFF_ALLMULTI as set on the link itself.
    pub all_multicast: bool,
    /// IFLA_TXQLEN, in packets.
    pub queue_length: u32,
    /// IFLA_BRPORT_MODE of a bridge port.
    pub hairpin: Option<bool>,
    /// IFLA_BRPORT_ISOLATED of a bridge port.
    pub isolated: Option<bool>,
    /// IFLA_BRPORT_LEARNING of a bridge port.
    pub learning: Option<bool>,
    /// IFLA_BRPORT_GROUP_FWD_MASK of a bridge port.
    pub group_forward: Option<u16>,
    /// Whether IPv4 packets that arrive on it are forwarded (`conf/LINK/forwarding`); `None`: it has no IPv4.
    pub forwards_v4: Option<bool>,
    /// The same for IPv6 (`forwarding`, or `force_forwarding` where the kernel has that).
    pub forwards_v6: Option<bool>,
    /// Bytes received since it was made.
    pub rx_bytes: u64,
    /// Bytes sent since it was made.
    pub tx_bytes: u64,
}

/// An address of a link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    /// The link's index.
    pub index: u32,
    /// The address with its prefix length.
    pub address: IpNetwork,
    /// RT_SCOPE_: 0 global, 253 link, 254 host.
    pub scope: u8,
    /// IFA_F_TENTATIVE: duplicate detection still runs, so it cannot be used yet.
    pub tentative: bool,
    /// IFA_F_DADFAILED: another machine has it.
    pub dad_failed: bool,
}

impl Link {
    /// Reads RTM_NEWLINK (`struct ifinfomsg` and its attributes).
    pub(crate) fn read(answer: &Answer<'_>) -> Option<Self> {
        let flags = wire::u32_at(answer.payload, 8)?;
        let mut link = Self {
            index: link_index(answer)?,
            up: flags & libc::IFF_UP as u32 != 0,
            carrier: flags & libc::IFF_LOWER_UP as u32 != 0,
            promisc: flags & libc::IFF_PROMISC as u32 != 0,
            all_multicast: flags & libc::IFF_ALLMULTI as u32 != 0,
            ..Self::default()
        };
        for (kind, value) in Attributes::after(answer.payload, LINK_HEADER) {
            link.take(kind, value);
        }
        Some(link)
    }

    fn take(&mut self, kind: u16, value: &[u8]) {
        match kind {
            libc::IFLA_IFNAME => self.name = wire::text(value),
            libc::IFLA_ADDRESS => self.mac = value.try_into().ok().map(Mac),
            libc::IFLA_MTU => self.mtu = wire::u32_at(value, 0).unwrap_or(0),
            libc::IFLA_TXQLEN => self.queue_length = wire::u32_at(value, 0).unwrap_or(0),
            libc::IFLA_MASTER => self.master = wire::u32_at(value, 0),
            libc::IFLA_LINK => self.peer = wire::u32_at(value, 0).filter(|peer| *peer != 0),
            libc::IFLA_LINK_NETNSID => {
                self.peer_netnsid = wire::u32_at(value, 0).map(|id| id as i32);
            }
            libc::IFLA_IFALIAS => self.alias = Some(wire::text(value)),
            libc::IFLA_STATS64 => {
                // struct rtnl_link_stats64: packets received and sent, then the bytes.
                self.rx_bytes = wire::u64_at(value, 16).unwrap_or(0);
                self.tx_bytes = wire::u64_at(value, 24).unwrap_or(0);
            }
            libc::IFLA_LINKINFO => self.take_info(value),
            libc::IFLA_AF_SPEC => self.take_families(value),
            _ => {}
        }
    }

    /// The families' settings of it: IPv4's count from 1 (IPV4_DEVCONF_FORWARDING), IPv6's from 0
    /// (DEVCONF_FORWARDING).
    fn take_families(&mut self, families: &[u8]) {
        const IFLA_INET_CONF: u16 = 1;
        const IFLA_INET6_CONF: u16 = 2;
        /// DEVCONF_FORCE_FORWARDING (linux/ipv6.h, since Linux 6.17).
        const FORCE_FORWARDING: usize = 59;
        let is_on = |value: &[u8], at: usize| wire::u32_at(value, at * 4) == Some(1);
        for (family, settings) in Attributes(families) {
            for (kind, value) in Attributes(settings) {
                match (i32::from(family), kind) {
                    (libc::AF_INET, IFLA_INET_CONF) => self.forwards_v4 = Some(is_on(value, 0)),
                    (libc::AF_INET6, IFLA_INET6_CONF) => {
                        self.forwards_v6 = Some(is_on(value, 0) || is_on(value, FORCE_FORWARDING));
                    }
                    _ => {}
                }
            }
        }
    }

    fn take_info(&mut self, info: &[u8]) {
        let mut port = false;
        for (kind, value) in Attributes(info) {
            match kind {
                libc::IFLA_INFO_KIND => self.kind = Some(wire::text(value)),
                libc::IFLA_INFO_SLAVE_KIND => port = wire::text(value) == "bridge",
                libc::IFLA_INFO_SLAVE_DATA if port => self.take_port(value),
                _ => {}
            }
        }
    }

    fn take_port(&mut self, port: &[u8]) {
        const IFLA_BRPORT_MODE: u16 = 4;
        const IFLA_BRPORT_LEARNING: u16 = 8;
        const IFLA_BRPORT_GROUP_FWD_MASK: u16 = 31;
        const IFLA_BRPORT_ISOLATED: u16 = 33;
        for (kind, value) in Attributes(port) {
            let on = value.first().map(|byte| *byte != 0);
            match kind {
                IFLA_BRPORT_MODE => self.hairpin = on,
                IFLA_BRPORT_LEARNING => self.learning = on,
                IFLA_BRPORT_GROUP_FWD_MASK => {
                    self.group_forward = value.try_into().ok().map(u16::from_ne_bytes);
                }
                IFLA_BRPORT_ISOLATED => self.isolated = on,
                _ => {}
            }
        }
    }
}

impl Address {
    /// Reads RTM_NEWADDR (`struct ifaddrmsg` and its attributes).
    pub(crate) fn read(answer: &Answer<'_>) -> Option<Self> {
        let [_, prefix, flags, scope] = wire::array(answer.payload, 0)?;
        let (mut own, mut other, mut flags) = (None, None, u32::from(flags));
        for (kind, value) in Attributes::after(answer.payload, ADDRESS_HEADER) {
            match kind {
                libc::IFA_LOCAL => own = wire::ip(value),
                libc::IFA_ADDRESS => other = wire::ip(value),
                libc::IFA_FLAGS => flags = wire::u32_at(value, 0).unwrap_or(flags),
                _ => {}
            }
        }
        Some(Self {
            index: wire::u32_at(answer.payload, 4)?,
            // On a point-to-point link IFA_ADDRESS is the other end; IPv6 has only IFA_ADDRESS.
            address: IpNetwork::new(own.or(other)?, prefix).ok()?,
            scope,
            tentative: flags & libc::IFA_F_TENTATIVE != 0,
            dad_failed: flags & libc::IFA_F_DADFAILED != 0,
        })
    }
}

/// Reads RTM_NEWROUTE (`struct rtmsg` and its attributes); one route for each next hop.
pub(crate) fn routes(answer: &Answer<'_>, found: &mut Vec<Route>) {
    let hops = found.len();
    let Some((route, multipath)) = route(answer) else { return };
    for (index, flags, attributes) in next_hops(multipath) {
        let mut one = Route { index, onlink: is_onlink(flags), ..route.clone() };
        for (kind, value) in attributes {
            take_gateway(&mut one, kind, value);
        }
        found.push(one);
    }
    if found.len() == hops {
        found.push(route);
    }
}

/// Reads RTM_NEWNEIGH (`struct ndmsg` and its attributes): the address, its MAC, and whether it is permanent.
pub(crate) fn neighbour(answer: &Answer<'_>) -> Option<(u32, IpAddr, Mac, bool)> {
    let index = wire::u32_at(answer.payload, 4)?;
    let state = wire::u16_at(answer.payload, 8)?;
    if state & libc::NUD_NOARP != 0 {
        return None; // multicast and broadcast: made by the kernel, of the address
    }
    let (mut address, mut mac) = (None, None);
    for (kind, value) in Attributes::after(answer.payload, NEIGHBOUR_HEADER) {
        match kind {
            libc::NDA_DST => address = wire::ip(value),
            libc::NDA_LLADDR => mac = value.try_into().ok().map(Mac),
            _ => {}
        }
    }
    Some((index, address?, mac?, state & libc::NUD_PERMANENT != 0))
}

/// The index of the link in an RTM_NEWLINK or RTM_DELLINK.
pub(crate) fn link_index(answer: &Answer<'_>) -> Option<u32> {
    wire::u32_at(answer.payload, 4)
}

/// The family whose settings of a link are gone, and the link (RTM_DELNETCONF: `struct netconfmsg` and its attributes).
pub(crate) fn lost_settings(answer: &Answer<'_>) -> Option<(u8, u32)> {
    const RTM_DELNETCONF: u16 = 81;
    const NETCONF_HEADER: usize = 4;
    const NETCONFA_IFINDEX: u16 = 1;
    if answer.kind != RTM_DELNETCONF {
        return None;
    }
    let mut attributes = Attributes::after(answer.payload, NETCONF_HEADER);
    let (_, index) = attributes.find(|(kind, _)| *kind == NETCONFA_IFINDEX)?;
    Some((*answer.payload.first()?, wire::u32_at(index, 0)?))
}

/// Whether an RTM_DELLINK is the link's own, not its port's in a bridge (AF_BRIDGE).
pub(crate) fn is_whole_link(answer: &Answer<'_>) -> bool {
    answer.payload.first() == Some(&(libc::AF_UNSPEC as u8))
}

fn route<'a>(answer: &Answer<'a>) -> Option<(Route, &'a [u8])> {
    let [family, prefix, _, _, table, protocol, scope, _] = wire::array(answer.payload, 0)?;
    let anywhere = if i32::from(family) == libc::AF_INET {
        IpAddr::from(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::from(Ipv6Addr::UNSPECIFIED)
    };
    let mut route = Route::new(IpNetwork::new(anywhere, prefix).ok()?, 0);
    route.table = Some(u32::from(table));
    route.scope = Some(u32::from(scope));
    route.protocol = Some(protocol);
    route.onlink = is_onlink(wire::u32_at(answer.payload, 8)?);
    let mut multipath = &[][..];
    for (kind, value) in Attributes::after(answer.payload, ROUTE_HEADER) {
        match kind {
            libc::RTA_DST => route.destination = IpNetwork::new(wire::ip(value)?, prefix).ok()?,
            libc::RTA_OIF => route.index = wire::u32_at(value, 0)?,
            libc::RTA_PREFSRC => route.source = wire::ip(value),
            libc::RTA_PRIORITY => route.priority = wire::u32_at(value, 0),
            libc::RTA_TABLE => route.table = wire::u32_at(value, 0),
            libc::RTA_METRICS => take_metrics(&mut route, value),
            libc::RTA_MULTIPATH => multipath = value,
            _ => take_gateway(&mut route, kind, value),
        }
    }
    Some((route, multipath))
}

fn take_gateway(route: &mut Route, kind: u16, value: &[u8]) {
    /// A gateway of the other family: two bytes of family, then the address.
    const RTA_VIA: u16 = 18;
    match kind {
        libc::RTA_GATEWAY => route.gateway = wire::ip(value),
        RTA_VIA => route.gateway = value.get(2..).and_then(wire::ip),
        _ => {}
    }
}

fn take_metrics(route: &mut Route, metrics: &[u8]) {
    const RTAX_MTU: u16 = 2;
    const RTAX_ADVMSS: u16 = 8;
    for (kind, value) in Attributes(metrics) {
        match kind {
            RTAX_MTU => route.mtu = wire::u32_at(value, 0),
            RTAX_ADVMSS => route.advmss = wire::u32_at(value, 0),
            _ => {}
        }
    }
}

/// `struct rtnexthop`s: length, flags, weight, link, attributes.
fn next_hops(mut bytes: &[u8]) -> impl Iterator<Item = (u32, u32, Attributes<'_>)> {
    std::iter::from_fn(move || {
        let length = usize::from(wire::u16_at(bytes, 0)?);
        let hop = bytes.get(..length)?;
        let flags = u32::from(*hop.get(2)?);
        let index = wire::u32_at(hop, 4)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((index, flags, Attributes::after(hop, NEXT_HOP_HEADER)))
    })
}

fn is_onlink(flags: u32) -> bool {
    const RTNH_F_ONLINK: u32 = 4;
    flags & RTNH_F_ONLINK != 0
}
