//! Which conntrack entries a published UDP port makes stale, and the messages that find and delete them
//! (linux/netfilter/nfnetlink_conntrack.h).

use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{DefaultNla, NLM_F_ACK, NLM_F_DUMP, NlasIterator, Parseable};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessageType, IPTuple, ProtoTuple, Protocol, Status, Tuple,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterProtoFamily, NetfilterSubsystem};

use crate::encode::{Reply, Requests};

/// CTA_FILTER with CTA_FILTER_ORIG_FLAGS and CTA_FILTER_REPLY_FLAGS in it, since Linux 5.8; older kernels
/// ignore it and send all entries.
const FILTER: u16 = 25;
const FILTER_ORIGINAL: u16 = 1;
const FILTER_REPLY: u16 = 2;
/// Bits of those flags (CTA_FILTER_F_CTA_PROTO_…, net/netfilter/nf_internals.h).
const BY_PROTOCOL: u32 = 1 << 3;
const BY_SOURCE_PORT: u32 = 1 << 4;
const BY_DESTINATION_PORT: u32 = 1 << 5;
/// CTA_ID and CTA_ZONE: with them no other entry can be meant.
const ID: u16 = 12;
const ZONE: u16 = 18;
/// Each question walks the whole table (10 ms for 262144 buckets), each answer takes 2 µs: up to so many
/// questions, and from so many entries on, the kernel had better choose closely.
const FEW_QUESTIONS: usize = 4;
const MANY_ENTRIES: u32 = 5000;
/// IPCTNL_MSG_CT_GET_STATS, and CTA_STATS_GLOBAL_ENTRIES in its answer.
const GET_STATS: u8 = 5;
const GLOBAL_ENTRIES: u16 = 1;

/// UDP entries that go stale when a host port is published or withdrawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// Those whose first packet went to a port of the host, by whoever it was answered: stale when the port is published.
    To {
        /// The host's address; `None` for any, and then what only passes through the host is left alone.
        host: Option<IpAddr>,
        /// The host's port.
        port: u16,
        /// Whether it is about IPv6; decided by `host` where that is given.
        v6: bool,
    },
    /// Those that a container's endpoint answers, by whatever port they came: stale when it comes and when it goes.
    By(SocketAddr),
}

/// What the kernel is asked to look for, so that it need not send everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Filter {
    /// All UDP entries of a family.
    Udp { v6: bool },
    /// UDP entries whose first packet went to this port.
    To { port: u16, v6: bool },
    /// UDP entries whose answers come from this port.
    From { port: u16, v6: bool },
}

/// The cheapest questions that find the entries of these flows among so many.
pub(crate) fn filters(flows: &[Flow], entries: u32) -> Vec<Filter> {
    if entries == 0 {
        return Vec::new();
    }
    let narrow: Vec<Filter> = flows.iter().map(narrow).collect();
    if narrow.len() <= FEW_QUESTIONS && entries >= MANY_ENTRIES {
        return narrow;
    }
    let about = |v6| narrow.iter().any(|filter| filter.v6() == v6).then_some(Filter::Udp { v6 });
    [false, true].into_iter().filter_map(about).collect()
}

impl Filter {
    fn v6(self) -> bool {
        match self {
            Self::Udp { v6 } | Self::To { v6, .. } | Self::From { v6, .. } => v6,
        }
    }
}

fn narrow(flow: &Flow) -> Filter {
    match *flow {
        Flow::To { host, port, v6 } => Filter::To { port, v6: host.map_or(v6, |host| host.is_ipv6()) },
        Flow::By(endpoint) => Filter::From { port: endpoint.port(), v6: endpoint.is_ipv6() },
    }
}

/// One side of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Side {
    source: SocketAddr,
    destination: SocketAddr,
    udp: bool,
}

/// A conntrack entry: enough of it to judge and to delete it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Tracked {
    original: Side,
    reply: Side,
    nat: Status,
    /// What names it in a delete: CTA_TUPLE_ORIG, CTA_ID, CTA_ZONE.
    pub identity: Vec<ConntrackAttribute>,
}

impl Tracked {
    /// Reads an IPCTNL_MSG_CT_NEW; `None` for what has no ports.
    pub fn parse(reply: &Reply<'_>) -> Option<Self> {
        let attributes = NlasIterator::new(reply.attributes())
            .map(|nla| ConntrackAttribute::parse(&nla.ok()?).ok())
            .collect::<Option<Vec<_>>>()?;
        let (mut original, mut answer, mut nat) = (None, None, Status::empty());
        for attribute in &attributes {
            match attribute {
                ConntrackAttribute::CtaTupleOrig(tuple) => original = side(tuple),
                ConntrackAttribute::CtaTupleReply(tuple) => answer = side(tuple),
                ConntrackAttribute::CtaStatus(status) => nat = *status & Status::NatMask,
                _ => {}
            }
        }
        let identity = attributes.into_iter().filter(names_it).collect();
        Some(Self { original: original?, reply: answer?, nat, identity })
    }

    /// Whether one of the flows makes it stale. Which addresses are the host's is asked only where it matters.
    pub fn is_stale(&self, flows: &[Flow], is_local: &mut impl FnMut(IpAddr) -> bool) -> bool {
        self.original.udp && flows.iter().any(|flow| self.belongs_to(flow, is_local))
    }

    fn belongs_to(&self, flow: &Flow, is_local: &mut impl FnMut(IpAddr) -> bool) -> bool {
        let destination = self.original.destination;
        match *flow {
            Flow::By(endpoint) => self.reply.source == endpoint,
            Flow::To { port, .. } if destination.port() != port => false,
            Flow::To { host: Some(host), .. } => destination.ip() == host,
            Flow::To { v6, .. } => destination.is_ipv6() == v6 && !self.only_passes(is_local),
        }
    }

    /// Never about the host's port: a container's own question to somebody outside, masqueraded, and what goes from one
    /// neighbour to another untranslated.
    fn only_passes(&self, is_local: &mut impl FnMut(IpAddr) -> bool) -> bool {
        match self.nat {
            Status::SrcNat => true,
            nat => nat.is_empty() && !is_local(self.original.destination.ip()),
        }
    }
}

/// The number in the answer to `count_tracked`.
pub(crate) fn count(reply: &Reply<'_>) -> Option<u32> {
    reply.number(GLOBAL_ENTRIES).map(u32::from_be_bytes)
}

fn names_it(attribute: &ConntrackAttribute) -> bool {
    use netlink_packet_core::Nla;
    let kind = attribute.kind();
    matches!(attribute, ConntrackAttribute::CtaTupleOrig(_)) || kind == ID || kind == ZONE
}

fn side(tuple: &[Tuple]) -> Option<Side> {
    let (mut addresses, mut ports, mut udp) = ((None, None), (None, None), false);
    for part in tuple {
        match part {
            Tuple::Ip(parts) => parts.iter().for_each(|part| match part {
                IPTuple::SourceAddress(address) => addresses.0 = Some(*address),
                IPTuple::DestinationAddress(address) => addresses.1 = Some(*address),
                _ => {}
            }),
            Tuple::Proto(parts) => parts.iter().for_each(|part| match part {
                ProtoTuple::SourcePort(port) => ports.0 = Some(*port),
                ProtoTuple::DestinationPort(port) => ports.1 = Some(*port),
                ProtoTuple::Protocol(protocol) => udp = *protocol == Protocol::Udp,
                _ => {}
            }),
            _ => {}
        }
    }
    let source = SocketAddr::new(addresses.0?, ports.0?);
    let destination = SocketAddr::new(addresses.1?, ports.1?);
    Some(Side { source, destination, udp })
}

impl Requests {
    /// Asks how many entries there are in this namespace, of any protocol.
    pub fn count_tracked(&mut self) {
        let kind = ConntrackMessageType::Other(GET_STATS);
        self.conntrack(kind, 0, NetfilterProtoFamily::Unspec, |_| {});
    }

    /// Asks for the entries that pass the filter.
    pub fn dump_tracked(&mut self, filter: Filter) {
        self.conntrack(ConntrackMessageType::Get, NLM_F_DUMP, family(filter.v6()), |message| {
            let (original, reply) = conditions(filter);
            if let Some(tuple) = original.tuple {
                message.put(&ConntrackAttribute::CtaTupleOrig(vec![Tuple::Proto(tuple)]));
            }
            if let Some(tuple) = reply.tuple {
                message.put(&ConntrackAttribute::CtaTupleReply(vec![Tuple::Proto(tuple)]));
            }
            message.nest(&DefaultNla::new(FILTER | netlink_packet_core::NLA_F_NESTED, vec![]), |flags| {
                flags.put(&DefaultNla::new(FILTER_ORIGINAL, original.flags.to_ne_bytes().into()));
                flags.put(&DefaultNla::new(FILTER_REPLY, reply.flags.to_ne_bytes().into()));
            });
        })
    }

    /// Deletes an entry.
    pub fn delete_tracked(&mut self, tracked: &Tracked) {
        let v6 = tracked.original.destination.is_ipv6();
        self.conntrack(ConntrackMessageType::Delete, NLM_F_ACK, family(v6), |message| {
            tracked.identity.iter().for_each(|attribute| message.put(attribute));
        })
    }

    fn conntrack(
        &mut self,
        kind: ConntrackMessageType,
        flags: u16,
        family: NetfilterProtoFamily,
        attributes: impl FnOnce(&mut Self),
    ) {
        let header = NetfilterHeader::new(family, 0, 0);
        self.message((NetfilterSubsystem::Conntrack, kind.into()), flags, &header, attributes)
    }
}

/// The kernel takes filters for one family only.
fn family(v6: bool) -> NetfilterProtoFamily {
    if v6 { NetfilterProtoFamily::IPv6 } else { NetfilterProtoFamily::IPv4 }
}

/// What is compared on one side: the values, and which of them count.
#[derive(Default)]
struct Condition {
    tuple: Option<Vec<ProtoTuple>>,
    flags: u32,
}

fn conditions(filter: Filter) -> (Condition, Condition) {
    let udp = ProtoTuple::Protocol(Protocol::Udp);
    match filter {
        Filter::Udp { .. } => {
            (Condition { tuple: Some(vec![udp]), flags: BY_PROTOCOL }, Condition::default())
        }
        Filter::To { port, .. } => {
            let tuple = Some(vec![udp, ProtoTuple::DestinationPort(port)]);
            (Condition { tuple, flags: BY_PROTOCOL | BY_DESTINATION_PORT }, Condition::default())
        }
        Filter::From { port, .. } => {
            let tuple = Some(vec![udp, ProtoTuple::SourcePort(port)]);
            (Condition::default(), Condition { tuple, flags: BY_PROTOCOL | BY_SOURCE_PORT })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client at `from` whose packets to `to` are answered by `by`.
    fn tracked(to: &str, by: &str, nat: Status) -> Tracked {
        let (to, by): (SocketAddr, SocketAddr) = (to.parse().unwrap(), by.parse().unwrap());
        let from = SocketAddr::new(to.ip(), 50_000);
        Tracked {
            original: Side { source: from, destination: to, udp: true },
            reply: Side { source: by, destination: from, udp: true },
            nat,
            identity: vec![],
        }
    }

    fn flow(host: Option<&str>) -> Flow {
        Flow::To { host: host.map(|host| host.parse().unwrap()), port: 53, v6: false }
    }

    /// On a host whose addresses begin with 10.
    fn is_stale(entry: &Tracked, flow: Flow) -> bool {
        entry.is_stale(&[flow], &mut |ip| matches!(ip, IpAddr::V4(ip) if ip.octets()[0] == 10))
    }

    #[test]
    fn what_went_to_the_host_port_is_stale() {
        let dnated = tracked("10.0.0.1:53", "172.18.0.2:5353", Status::DstNat);
        let plain = tracked("10.0.0.1:53", "10.0.0.1:53", Status::empty());
        for entry in [dnated, plain] {
            assert!(is_stale(&entry, flow(None)));
            assert!(is_stale(&entry, flow(Some("10.0.0.1"))));
            assert!(!is_stale(&entry, flow(Some("10.0.0.2"))));
            assert!(!is_stale(&entry, Flow::To { host: None, port: 54, v6: false }));
            assert!(!is_stale(&entry, Flow::To { host: None, port: 53, v6: true }));
        }
    }

    #[test]
    fn a_containers_question_to_an_outside_server_stays() {
        let passing = tracked("9.9.9.9:53", "9.9.9.9:53", Status::SrcNat);
        assert!(!is_stale(&passing, flow(None)));
        let hairpin = tracked("10.0.0.1:53", "172.18.0.2:53", Status::SrcNat | Status::DstNat);
        assert!(is_stale(&hairpin, flow(None)));
    }

    /// The host routes between two neighbours, and translates nothing.
    #[test]
    fn what_only_passes_through_stays() {
        let routed = tracked("192.168.2.9:53", "192.168.2.9:53", Status::empty());
        assert!(!is_stale(&routed, flow(None)));
        let translated_by_others = tracked("192.168.2.9:53", "172.18.0.2:53", Status::DstNat);
        assert!(is_stale(&translated_by_others, flow(None)));
    }

    #[test]
    fn what_points_at_the_container_is_stale_whatever_port_it_came_by() {
        let by = Flow::By("172.18.0.2:5353".parse().unwrap());
        assert!(is_stale(&tracked("10.0.0.1:99", "172.18.0.2:5353", Status::DstNat), by));
        assert!(!is_stale(&tracked("10.0.0.1:99", "172.18.0.2:5354", Status::DstNat), by));
    }

    #[test]
    fn tcp_stays() {
        let mut entry = tracked("10.0.0.1:53", "172.18.0.2:53", Status::DstNat);
        entry.original.udp = false;
        assert!(!is_stale(&entry, flow(None)));
    }

    #[test]
    fn the_kernel_is_asked_in_the_cheapest_way() {
        let (one, both) = ([flow(None)], [flow(None), Flow::By("[fd00::2]:5353".parse().unwrap())]);
        let closely = [Filter::To { port: 53, v6: false }, Filter::From { port: 5353, v6: true }];

        assert_eq!(filters(&one, 0), []);
        assert_eq!(filters(&one, 10), [Filter::Udp { v6: false }]);
        assert_eq!(filters(&both, 10), [Filter::Udp { v6: false }, Filter::Udp { v6: true }]);
        assert_eq!(filters(&both, 50_000), closely);
        assert_eq!(filters(&[flow(None); 5], 50_000), [Filter::Udp { v6: false }]);
        assert_eq!(filters(&[], 50_000), []);
    }
}
