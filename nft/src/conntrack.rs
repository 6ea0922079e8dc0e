//! Which conntrack entries become stale with a published UDP port or the end of a container, and the messages that find
//! and delete them (linux/netfilter/nfnetlink_conntrack.h).

use std::net::IpAddr;

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
/// Bits of those flags (CTA_FILTER_F_CTA_…, net/netfilter/nf_internals.h).
const BY_SOURCE: u32 = 1 << 0;
const BY_PROTOCOL: u32 = 1 << 3;
const BY_DESTINATION_PORT: u32 = 1 << 5;
/// CTA_ID and CTA_ZONE: with them no other entry can be meant.
const ID: u16 = 12;
const ZONE: u16 = 18;
/// Each question walks the whole table (10 ms for 262144 buckets), each answer takes 2 µs: up to so many
/// questions, and from so many entries on, narrow filters in the kernel are faster.
const FEW_QUESTIONS: usize = 4;
const MANY_ENTRIES: u32 = 5000;
/// IPCTNL_MSG_CT_GET_STATS, and CTA_STATS_GLOBAL_ENTRIES in its answer.
const GET_STATS: u8 = 5;
const GLOBAL_ENTRIES: u16 = 1;

/// Entries that become stale when a host port is published or a container ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// Those of UDP whose first packet went to a port of the host, whichever program answered: stale when the port is
    /// published.
    To {
        /// The host's address; `None` for any, and then what only passes through the host stays.
        host: Option<IpAddr>,
        /// The host's port.
        port: u16,
        /// Whether it is about IPv6; ignored if `host` is given.
        v6: bool,
    },
    /// Those of any protocol that an address began or answers, through any port: stale when its holder is gone.
    Of(IpAddr),
}

/// What the kernel looks for, so that it need not send everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Filter {
    /// All UDP entries of a family.
    Udp { v6: bool },
    /// UDP entries whose first packet went to this port.
    To { port: u16, v6: bool },
    /// All entries of a family.
    All { v6: bool },
    /// Entries whose first packet came from this address.
    Begun { by: IpAddr },
    /// Entries whose answers come from this address.
    Answered { by: IpAddr },
}

/// The cheapest questions that find the entries of these flows among so many.
pub(crate) fn filters(flows: &[Flow], entries: u32) -> Vec<Filter> {
    if entries == 0 {
        return Vec::new();
    }
    let narrow: Vec<Filter> = flows.iter().flat_map(narrow).collect();
    if narrow.len() <= FEW_QUESTIONS && entries >= MANY_ENTRIES {
        return narrow;
    }
    let only_udp = narrow.iter().all(|filter| matches!(filter, Filter::To { .. }));
    let wide = |v6| if only_udp { Filter::Udp { v6 } } else { Filter::All { v6 } };
    let about = |v6| narrow.iter().any(|filter| filter.v6() == v6).then(|| wide(v6));
    [false, true].into_iter().filter_map(about).collect()
}

impl Filter {
    fn v6(self) -> bool {
        match self {
            Self::Udp { v6 } | Self::To { v6, .. } | Self::All { v6 } => v6,
            Self::Begun { by } | Self::Answered { by } => by.is_ipv6(),
        }
    }
}

fn narrow(flow: &Flow) -> Vec<Filter> {
    match *flow {
        Flow::To { host, port, v6 } => vec![Filter::To { port, v6: host.map_or(v6, |host| host.is_ipv6()) }],
        Flow::Of(by) => vec![Filter::Begun { by }, Filter::Answered { by }],
    }
}

/// One side of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Side {
    source: IpAddr,
    destination: IpAddr,
    /// Its destination port, if it is one of UDP.
    udp_port: Option<u16>,
}

/// A conntrack entry: enough of it to judge and to delete it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ConntrackEntry {
    original: Side,
    reply: Side,
    nat: Status,
    /// CTA_ID: the bytes as in the kernel's memory, without a change of byte order (nf_ct_get_id).
    id: [u8; 4],
    /// What identifies it in a delete: CTA_TUPLE_ORIG, CTA_ID, CTA_ZONE.
    pub identity: Vec<ConntrackAttribute>,
}

impl ConntrackEntry {
    /// Reads an IPCTNL_MSG_CT_NEW; `None` for what has no addresses.
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
        let id = reply.number(ID).unwrap_or_default();
        Some(Self { original: original?, reply: answer?, nat, id, identity })
    }

    /// Which of these addresses is an end of it, each with the entry's number.
    pub fn ends(&self) -> [(IpAddr, [u8; 4]); 2] {
        [(self.original.source, self.id), (self.reply.source, self.id)]
    }

    /// Whether one of the flows makes it stale. `is_local` is asked only where it matters.
    pub fn is_stale(&self, flows: &[Flow], is_local: &mut impl FnMut(IpAddr) -> bool) -> bool {
        flows.iter().any(|flow| self.belongs_to(flow, is_local))
    }

    fn belongs_to(&self, flow: &Flow, is_local: &mut impl FnMut(IpAddr) -> bool) -> bool {
        let destination = self.original.destination;
        match *flow {
            Flow::Of(address) => self.original.source == address || self.reply.source == address,
            Flow::To { port, .. } if self.original.udp_port != Some(port) => false,
            Flow::To { host: Some(host), .. } => destination == host,
            Flow::To { v6, .. } => destination.is_ipv6() == v6 && !self.only_passes(is_local),
        }
    }

    /// Not about the host's port: a container's own question to a machine outside, masqueraded, or what passes from one
    /// neighbour to another without translation.
    fn only_passes(&self, is_local: &mut impl FnMut(IpAddr) -> bool) -> bool {
        match self.nat {
            Status::SrcNat => true,
            nat => nat.is_empty() && !is_local(self.original.destination),
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
    let (mut addresses, mut port, mut udp) = ((None, None), None, false);
    for part in tuple {
        match part {
            Tuple::Ip(parts) => parts.iter().for_each(|part| match part {
                IPTuple::SourceAddress(address) => addresses.0 = Some(*address),
                IPTuple::DestinationAddress(address) => addresses.1 = Some(*address),
                _ => {}
            }),
            Tuple::Proto(parts) => parts.iter().for_each(|part| match part {
                ProtoTuple::DestinationPort(to) => port = Some(*to),
                ProtoTuple::Protocol(protocol) => udp = *protocol == Protocol::Udp,
                _ => {}
            }),
            _ => {}
        }
    }
    Some(Side { source: addresses.0?, destination: addresses.1?, udp_port: port.filter(|_| udp) })
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
            if original.flags | reply.flags == 0 {
                return;
            }
            if let Some(tuple) = original.tuple {
                message.put(&ConntrackAttribute::CtaTupleOrig(vec![tuple]));
            }
            if let Some(tuple) = reply.tuple {
                message.put(&ConntrackAttribute::CtaTupleReply(vec![tuple]));
            }
            message.nest(&DefaultNla::new(FILTER | netlink_packet_core::NLA_F_NESTED, vec![]), |flags| {
                flags.put(&DefaultNla::new(FILTER_ORIGINAL, original.flags.to_ne_bytes().into()));
                flags.put(&DefaultNla::new(FILTER_REPLY, reply.flags.to_ne_bytes().into()));
            });
        })
    }

    /// Deletes an entry.
    pub fn delete_tracked(&mut self, tracked: &ConntrackEntry) {
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
    tuple: Option<Tuple>,
    flags: u32,
}

fn conditions(filter: Filter) -> (Condition, Condition) {
    let udp = ProtoTuple::Protocol(Protocol::Udp);
    let of_udp = |parts: Vec<ProtoTuple>, flags| Condition { tuple: Some(Tuple::Proto(parts)), flags };
    let from = |address: IpAddr| Condition {
        tuple: Some(Tuple::Ip(vec![IPTuple::SourceAddress(address)])),
        flags: BY_SOURCE,
    };
    let none = Condition::default;
    match filter {
        Filter::All { .. } => (none(), none()),
        Filter::Udp { .. } => (of_udp(vec![udp], BY_PROTOCOL), none()),
        Filter::To { port, .. } => {
            let parts = vec![udp, ProtoTuple::DestinationPort(port)];
            (of_udp(parts, BY_PROTOCOL | BY_DESTINATION_PORT), none())
        }
        Filter::Begun { by } => (from(by), none()),
        Filter::Answered { by } => (none(), from(by)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    /// A client at `from` whose packets to `to` are answered by `by`.
    fn conntrack_entry(to: &str, by: &str, nat: Status) -> ConntrackEntry {
        let (to, by): (SocketAddr, SocketAddr) = (to.parse().unwrap(), by.parse().unwrap());
        let from = SocketAddr::new(to.ip(), 50_000);
        ConntrackEntry {
            original: Side { source: from.ip(), destination: to.ip(), udp_port: Some(to.port()) },
            reply: Side { source: by.ip(), destination: from.ip(), udp_port: Some(from.port()) },
            nat,
            id: [0; 4],
            identity: vec![],
        }
    }

    fn flow(host: Option<&str>) -> Flow {
        Flow::To { host: host.map(|host| host.parse().unwrap()), port: 53, v6: false }
    }

    /// On a host whose addresses begin with 10.
    fn is_stale(entry: &ConntrackEntry, flow: Flow) -> bool {
        entry.is_stale(&[flow], &mut |ip| matches!(ip, IpAddr::V4(ip) if ip.octets()[0] == 10))
    }

    #[test]
    fn what_went_to_the_host_port_is_stale() {
        let dnated = conntrack_entry("10.0.0.1:53", "172.18.0.2:5353", Status::DstNat);
        let plain = conntrack_entry("10.0.0.1:53", "10.0.0.1:53", Status::empty());
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
        let passing = conntrack_entry("9.9.9.9:53", "9.9.9.9:53", Status::SrcNat);
        assert!(!is_stale(&passing, flow(None)));
        let hairpin = conntrack_entry("10.0.0.1:53", "172.18.0.2:53", Status::SrcNat | Status::DstNat);
        assert!(is_stale(&hairpin, flow(None)));
    }

    /// The host routes between two neighbours, and translates nothing.
    #[test]
    fn what_only_passes_through_stays() {
        let routed = conntrack_entry("192.168.2.9:53", "192.168.2.9:53", Status::empty());
        assert!(!is_stale(&routed, flow(None)));
        let translated_by_others = conntrack_entry("192.168.2.9:53", "172.18.0.2:53", Status::DstNat);
        assert!(is_stale(&translated_by_others, flow(None)));
    }

    #[test]
    fn what_an_address_began_or_answers_is_stale_for_every_protocol() {
        let of = Flow::Of("172.18.0.2".parse().unwrap());
        let mut published = conntrack_entry("10.0.0.1:99", "172.18.0.2:5353", Status::DstNat);
        assert!(is_stale(&published, of));
        published.original.udp_port = None;
        assert!(is_stale(&published, of));
        let mut begun = conntrack_entry("192.0.2.9:443", "192.0.2.9:443", Status::SrcNat);
        assert!(!is_stale(&begun, of));
        begun.original.source = "172.18.0.2".parse().unwrap();
        assert!(is_stale(&begun, of));
        assert!(!is_stale(&conntrack_entry("10.0.0.1:99", "172.18.0.3:5353", Status::DstNat), of));
    }

    #[test]
    fn tcp_to_a_host_port_stays() {
        let mut entry = conntrack_entry("10.0.0.1:53", "172.18.0.2:53", Status::DstNat);
        entry.original.udp_port = None;
        assert!(!is_stale(&entry, flow(None)));
    }

    #[test]
    fn the_kernel_is_asked_in_the_cheapest_way() {
        let (one, both) = ([flow(None)], [flow(None), Flow::Of("fd00::2".parse().unwrap())]);
        let by = "fd00::2".parse().unwrap();
        let closely = [Filter::To { port: 53, v6: false }, Filter::Begun { by }, Filter::Answered { by }];

        assert_eq!(filters(&one, 0), []);
        assert_eq!(filters(&one, 10), [Filter::Udp { v6: false }]);
        assert_eq!(filters(&both, 10), [Filter::All { v6: false }, Filter::All { v6: true }]);
        assert_eq!(filters(&both, 50_000), closely);
        assert_eq!(filters(&[flow(None); 5], 50_000), [Filter::Udp { v6: false }]);
        assert_eq!(filters(&[], 50_000), []);
    }
}
