//! Requests as the kernel's messages (rtnetlink(7)).

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::{IpNetwork, Ipv4Network};
use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, InfoBridge, InfoData, InfoKind, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage, LinkMode, LinkProtoInfoBridge, State,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Body};
use rustix::io::Errno;

use crate::guard;
use crate::mac::Mac;
use crate::request::{Request, Route};
use crate::socket::Message;

const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_LEARNING: u16 = 8;
const IFLA_BRPORT_GROUP_FWD_MASK: u16 = 31;
const IFLA_BRPORT_ISOLATED: u16 = 33;

impl Request {
    /// The messages that do this, in order: one, except for the guard.
    pub(crate) fn messages(&self) -> Vec<Message> {
        vec![match self {
            Self::LoopbackGuard { index, mark, .. } => return guard::install(*index, *mark),
            Self::LoopbackGuardDel { index, .. } => guard::remove(*index),
            Self::IngressDel { index, .. } => guard::unhook(*index),
            Self::IngressRedirect { index, to, .. } => return guard::redirect(*index, *to),
            Self::LinkUp { index, .. } => set(with_flag(*index, LinkFlags::Up, true)),
            Self::LinkDown { index, .. } => set(with_flag(*index, LinkFlags::Up, false)),
            Self::LinkPromisc { index, on, .. } => set(with_flag(*index, LinkFlags::Promisc, *on)),
            Self::LinkAllMulticast { index, on, .. } => set(with_flag(*index, LinkFlags::Allmulti, *on)),
            Self::LinkQueue { index, length, .. } => set(with(*index, LinkAttribute::TxQueueLen(*length))),
            Self::LinkAlias { index, alias, .. } => set(with(*index, LinkAttribute::IfAlias(alias.clone()))),
            // Without IPv6 in the kernel there is nothing to prevent.
            Self::LinkNoAutoAddress { index, .. } => Message {
                forgiven: &[Errno::AFNOSUPPORT],
                ..set(with(
                    *index,
                    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
                        In6AddrGenMode::None,
                    )])]),
                ))
            },
            Self::LinkDormant { index, .. } => Message { forgiven: &[Errno::NODEV], ..set(dormant(*index)) },
            Self::LinkAwake { index, .. } => set(awake(*index)),
            Self::LinkMac { index, mac, .. } => set(with(*index, LinkAttribute::Address(mac.0.to_vec()))),
            Self::LinkMtu { index, mtu, .. } => set(with(*index, LinkAttribute::Mtu(*mtu))),
            Self::LinkMaster { index, master, .. } => {
                set(with(*index, LinkAttribute::Controller(master.unwrap_or(0))))
            }
            Self::Port { index, hairpin, isolated, learning, group_forward, .. } => {
                set(port(*index, [*hairpin, *isolated, *learning], *group_forward))
            }
            Self::Bridge { name, mac, mtu, snooping } => {
                Message::new(Body::NewLink(bridge(name, *mac, *mtu, *snooping)), NLM_F_CREATE | NLM_F_EXCL)
            }
            Self::AddressAdd { index, address, .. } => {
                Message::new(Body::NewAddress(address_message(*index, *address)), NLM_F_CREATE | NLM_F_EXCL)
            }
            Self::AddressProbe { index, address, .. } => {
                let mut probe = address_message(*index, *address);
                probe.header.flags = AddressHeaderFlags::empty();
                Message::new(Body::NewAddress(probe), NLM_F_CREATE | NLM_F_EXCL)
            }
            Self::AddressDel { index, address, .. } => {
                Message::new(Body::DelAddress(address_message(*index, *address)), 0)
            }
            Self::RouteAdd(route) => {
                Message::new(Body::NewRoute(route.message()), NLM_F_CREATE | NLM_F_APPEND)
            }
            Self::RouteCreate(route) => {
                Message::new(Body::NewRoute(route.message()), NLM_F_CREATE | NLM_F_EXCL)
            }
            Self::RouteDel(route) => {
                let mut message = route.message();
                // As ip(8) does: whatever made the route, even the kernel for an address.
                message.header.protocol = RouteProtocol::Unspec;
                Message::new(Body::DelRoute(message), 0)
            }
            Self::NeighbourReplace { index, address, mac } => {
                let body = Body::NewNeighbour(neighbour(*index, *address, Some(*mac)));
                // A full table (the kernel's gc_thresh3 counts all namespaces) only costs an ARP request.
                Message { body, flags: NLM_F_CREATE | NLM_F_REPLACE, forgiven: &[Errno::NOBUFS] }
            }
            Self::NeighbourDel { index, address } => {
                let body = Body::DelNeighbour(neighbour(*index, *address, None));
                Message { body, flags: 0, forgiven: &[Errno::NOENT] }
            }
        }]
    }
}

impl Route {
    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header = self.header();
        message.attributes = self.attributes();
        message
    }

    fn header(&self) -> RouteHeader {
        let on_link = if self.gateway.is_none() && self.destination.is_ipv4() {
            RouteScope::Link
        } else {
            RouteScope::Universe
        };
        RouteHeader {
            address_family: family(self.destination.ip()),
            destination_prefix_length: self.destination.prefix(),
            table: self.table.map_or(RouteHeader::RT_TABLE_MAIN, small_table),
            protocol: self.protocol.map_or(RouteProtocol::Boot, RouteProtocol::from),
            scope: self.scope.map_or(on_link, |scope| RouteScope::from(scope as u8)),
            kind: RouteType::Unicast,
            flags: if self.onlink { RouteFlags::Onlink } else { RouteFlags::empty() },
            ..Default::default()
        }
    }

    fn attributes(&self) -> Vec<RouteAttribute> {
        let mut attributes = vec![RouteAttribute::Oif(self.index)];
        if self.destination.prefix() > 0 {
            attributes.push(RouteAttribute::Destination(self.destination.network().into()));
        }
        attributes.extend(self.gateway.map(|ip| RouteAttribute::Gateway(ip.into())));
        attributes.extend(self.source.map(|ip| RouteAttribute::PrefSource(ip.into())));
        attributes.extend(self.priority.map(RouteAttribute::Priority));
        attributes.extend(self.table.map(RouteAttribute::Table));
        let metrics: Vec<_> = (self.mtu.map(RouteMetric::Mtu).into_iter())
            .chain(self.advmss.map(RouteMetric::Advmss))
            .collect();
        if !metrics.is_empty() {
            attributes.push(RouteAttribute::Metrics(metrics));
        }
        attributes
    }
}

/// The family of an address, as rtnetlink names it.
pub(crate) fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// A message about the link with this index.
pub(crate) fn link(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

/// Switches one interface flag and keeps the others.
pub(crate) fn flag(message: &mut LinkMessage, flag: LinkFlags, on: bool) {
    message.header.change_mask |= flag;
    message.header.flags.set(flag, on);
}

fn set(link: LinkMessage) -> Message {
    Message::new(Body::SetLink(link), 0)
}

fn with(index: u32, attribute: LinkAttribute) -> LinkMessage {
    let mut message = link(index);
    message.attributes.push(attribute);
    message
}

fn with_flag(index: u32, which: LinkFlags, on: bool) -> LinkMessage {
    let mut message = link(index);
    flag(&mut message, which, on);
    message
}

fn bridge(name: &str, mac: Mac, mtu: Option<u32>, snooping: bool) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.into()),
        LinkAttribute::Address(mac.0.to_vec()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![
                InfoBridge::StpState(BridgeStpState::Disabled),
                InfoBridge::MulticastSnooping(snooping),
            ])),
        ]),
    ];
    message.attributes.extend(mtu.map(LinkAttribute::Mtu));
    message
}

/// The mode stays when the other end takes the carrier and gives it again; the state counts until then.
fn dormant(index: u32) -> LinkMessage {
    let mut message = with(index, LinkAttribute::Mode(LinkMode::Dormant));
    message.attributes.push(LinkAttribute::OperState(State::Dormant));
    message
}

fn awake(index: u32) -> LinkMessage {
    let mut message = with(index, LinkAttribute::Mode(LinkMode::Default));
    message.attributes.push(LinkAttribute::OperState(State::Up));
    message
}

fn port(index: u32, flags: [Option<bool>; 3], group_forward: Option<u16>) -> LinkMessage {
    let option = |kind, value| LinkProtoInfoBridge::Other(DefaultNla::new(kind, value));
    let kinds = [IFLA_BRPORT_MODE, IFLA_BRPORT_ISOLATED, IFLA_BRPORT_LEARNING];
    let flags = kinds.into_iter().zip(flags);
    let flags = flags.filter_map(|(kind, flag)| Some(option(kind, vec![u8::from(flag?)])));
    let mask = group_forward.map(|mask| option(IFLA_BRPORT_GROUP_FWD_MASK, mask.to_ne_bytes().to_vec()));
    let options = flags.chain(mask).collect();
    let mut message = with(index, LinkAttribute::ProtoInfoBridge(options));
    message.header.interface_family = AddressFamily::Bridge;
    message
}

fn address_message(index: u32, address: IpNetwork) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.ip());
    message.header.prefix_len = address.prefix();
    message.header.index = index;
    message.header.scope = address_scope(address.ip());
    message.attributes = vec![AddressAttribute::Local(address.ip()), AddressAttribute::Address(address.ip())];
    match address {
        IpNetwork::V4(v4) => {
            message.attributes.extend(broadcast(v4).map(AddressAttribute::Broadcast));
        }
        IpNetwork::V6(_) => message.header.flags = AddressHeaderFlags::Nodad,
    }
    message
}

/// The broadcast address, all ones of the host part, if there is room for one (RFC 3021: not in /31).
fn broadcast(address: Ipv4Network) -> Option<Ipv4Addr> {
    (address.prefix() < 31).then(|| address.broadcast())
}

fn address_scope(ip: IpAddr) -> AddressScope {
    match ip {
        ip if ip.is_loopback() => AddressScope::Host,
        IpAddr::V6(v6) if v6.is_unicast_link_local() => AddressScope::Link,
        _ => AddressScope::Universe,
    }
}

fn neighbour(index: u32, address: IpAddr, mac: Option<Mac>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Reachable;
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    message.attributes.extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())));
    message
}

/// The header has one byte for the table; larger numbers are only in RTA_TABLE.
fn small_table(table: u32) -> u8 {
    u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC)
}
