//! A container that sends what it must not, and what it may: raw frames, and who hears them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netns_fixtures::Frames;
use netns_fixtures::frame::{
    Arp, BROADCAST, Mac, arp, ethernet, icmpv6, ipv4, ipv6, neighbour_advertisement, router_advertisement,
    tcp, udp,
};
use serde_json::Value;

use crate::common::{Guest, Host, LONG, mac, rnet, with};
use crate::packets::A;

pub const FORGED: Mac = [2, 0, 0, 0, 0, 0x66];
pub const NOBODY: Mac = [0; 6];
const ALL_NODES: Mac = [0x33, 0x33, 0, 0, 0, 1];
pub const ALL_NODES_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const BRIDGE_GROUP: Mac = [0x01, 0x80, 0xc2, 0, 0, 0];

/// One of the addresses that a bridge never forwards to (IEEE 802.1D, 7.12.6).
pub fn group(last: u8) -> Mac {
    [0x01, 0x80, 0xc2, 0, 0, last]
}

pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 1);

/// The container that attacks, with all that it may call its own, and the one that would notice.
pub struct Attacker<'h> {
    pub guest: Guest<'h>,
    pub victim: Guest<'h>,
    pub sends: Frames,
    pub hears: Frames,
    pub mac: Mac,
    pub ip: Ipv4Addr,
    pub ip6: Ipv6Addr,
    pub link_local: Ipv6Addr,
}

impl<'h> Attacker<'h> {
    /// Both on network A, with these keys besides.
    pub fn on(host: &'h Host, more: Value) -> Self {
        let network = with(&rnet("a", &A), more);
        let guest = host.attach("attacker", &network, &[]);
        let victim = host.attach("victim", &network, &[]);
        let sends = Frames::on(guest.netns(), "eth0").unwrap();
        let hears = Frames::on(victim.netns(), "eth0").unwrap();
        let mac = mac(guest.netns(), "eth0");
        let (IpAddr::V4(ip), IpAddr::V6(ip6)) = (guest.v4(), guest.v6()) else { panic!() };
        let link_local = "fe80::42:acff:fe12:2".parse().unwrap();
        Self { guest, victim, sends, hears, mac, ip, ip6, link_local }
    }

    pub fn victim_v4(&self) -> Ipv4Addr {
        let IpAddr::V4(ip) = self.victim.v4() else { panic!() };
        ip
    }

    /// Sends `frame`, and something honest behind it; true if `frame` came through.
    pub fn passes(&self, frame: &[u8]) -> bool {
        static NTH: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let nth = NTH.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let text = format!("honest datagram {nth:10}, which ends the wait");
        let marker = self.datagram(self.mac, self.ip, 7, text.as_bytes());
        self.sends.send(frame).unwrap();
        self.sends.send(&marker).unwrap();
        let seen = [frame.to_vec(), untagged(frame)];
        let is_it = |heard: &[u8]| seen.iter().any(|seen| trimmed(seen) == trimmed(heard));
        let heard = self.hears.wait_for(LONG, |heard| heard == marker || is_it(heard)).unwrap();
        heard.expect("the honest datagram came through") != marker
    }

    pub fn arp(
        &self,
        from: Mac,
        operation: Arp,
        sender: (Mac, Ipv4Addr),
        target: (Mac, Ipv4Addr),
    ) -> Vec<u8> {
        ethernet(BROADCAST, from, 0x0806, &arp(operation, sender, target))
    }

    pub fn datagram(&self, mac: Mac, from: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
        self.ports(mac, from, 7, port, payload)
    }

    fn ports(&self, mac: Mac, from: Ipv4Addr, source: u16, port: u16, payload: &[u8]) -> Vec<u8> {
        let to = Ipv4Addr::new(172, 18, 255, 255);
        let datagram = udp((from.into(), source), (to.into(), port), payload);
        ethernet(BROADCAST, mac, 0x0800, &ipv4(from, to, 17, &datagram))
    }

    fn icmp6(&self, mac: Mac, from: Ipv6Addr, kind: u8, body: &[u8]) -> Vec<u8> {
        let message = icmpv6(from, ALL_NODES_V6, kind, body);
        ethernet(ALL_NODES, mac, 0x86dd, &ipv6(from, ALL_NODES_V6, 58, &message))
    }

    fn datagram6(&self, from: Ipv6Addr, source: u16, port: u16) -> Vec<u8> {
        let datagram = udp((from.into(), source), (ALL_NODES_V6.into(), port), b"a datagram over IPv6");
        ethernet(ALL_NODES, self.mac, 0x86dd, &ipv6(from, ALL_NODES_V6, 17, &datagram))
    }

    /// What only IPv6's "no address" may hide behind: a packet of any protocol to all nodes.
    fn nameless(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let packet = ipv6(Ipv6Addr::UNSPECIFIED, ALL_NODES_V6, protocol, payload);
        ethernet(ALL_NODES, self.mac, 0x86dd, &packet)
    }

    /// A report of multicast groups, behind the hop-by-hop header that it must have (RFC 3810, 5).
    fn listener_report(&self, kind: u8, body: &[u8]) -> Vec<u8> {
        let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
        let report = icmpv6(Ipv6Addr::UNSPECIFIED, to, kind, body);
        self.nameless(0, &[&[58, 0, 5, 2, 0, 0, 1, 0], &report[..]].concat())
    }

    /// A forged ARP reply, without its frame.
    pub fn forged_arp(&self) -> Vec<u8> {
        arp(Arp::Reply, (self.mac, GATEWAY), (NOBODY, self.victim_v4()))
    }

    pub fn attacks(&self) -> Vec<(&'static str, Vec<u8>)> {
        [self.arp_attacks(), self.ipv4_attacks(), self.ipv6_attacks(), self.other_attacks()].concat()
    }

    fn arp_attacks(&self) -> Vec<(&'static str, Vec<u8>)> {
        let Self { mac, ip, .. } = *self;
        let victim = self.victim_v4();
        vec![
            ("ARP: the gateway is me", self.arp(mac, Arp::Reply, (mac, GATEWAY), (NOBODY, victim))),
            ("ARP: the victim is me", self.arp(mac, Arp::Request, (mac, victim), (NOBODY, victim))),
            ("ARP: my address, another MAC", self.arp(mac, Arp::Reply, (FORGED, ip), (NOBODY, victim))),
            ("ARP: from another MAC", self.arp(FORGED, Arp::Request, (FORGED, ip), (NOBODY, victim))),
            (
                "ARP: mine, in a frame of another MAC",
                self.arp(FORGED, Arp::Request, (mac, ip), (NOBODY, victim)),
            ),
            (
                "ARP: a probe for the gateway's address",
                self.arp(mac, Arp::Request, (mac, Ipv4Addr::UNSPECIFIED), (NOBODY, GATEWAY)),
            ),
            (
                "ARP: nobody's address",
                self.arp(mac, Arp::Reply, (mac, Ipv4Addr::UNSPECIFIED), (NOBODY, victim)),
            ),
        ]
    }

    fn ipv4_attacks(&self) -> Vec<(&'static str, Vec<u8>)> {
        let Self { mac, ip, .. } = *self;
        let victim = self.victim_v4();
        vec![
            ("IPv4 from the victim's address", self.datagram(mac, victim, 7, b"forged")),
            ("IPv4 from the gateway's address", self.datagram(mac, GATEWAY, 7, b"forged")),
            ("IPv4 from outside", self.datagram(mac, Ipv4Addr::new(192, 168, 77, 2), 7, b"forged")),
            ("IPv4 from another MAC", self.datagram(FORGED, ip, 7, b"forged")),
            ("IPv4 from no address", self.ports(mac, Ipv4Addr::UNSPECIFIED, 68, 67, b"discover")),
            ("DHCP server", self.ports(mac, ip, 67, 68, b"offer")),
            ("DHCP server from another port", self.ports(mac, ip, 6767, 68, b"offer")),
        ]
    }

    fn ipv6_attacks(&self) -> Vec<(&'static str, Vec<u8>)> {
        let Self { mac, ip6, link_local, .. } = *self;
        let victim6: Ipv6Addr = "fd18::3".parse().unwrap();
        let (nowhere, all_nodes) = (IpAddr::from(Ipv6Addr::UNSPECIFIED), IpAddr::from(ALL_NODES_V6));
        let solicitation = |target: Ipv6Addr| [&[0; 4][..], &target.octets()].concat();
        let behind_options = icmpv6(Ipv6Addr::UNSPECIFIED, ALL_NODES_V6, 135, &solicitation(ip6));
        vec![
            ("DHCPv6 server", self.datagram6(link_local, 547, 546)),
            ("IPv6 from the victim's address", self.datagram6(victim6, 7, 7)),
            ("IPv6 from another link-local address", self.datagram6("fe80::bad".parse().unwrap(), 7, 7)),
            ("IPv6 from another MAC", self.icmp6(FORGED, ip6, 128, &[0, 1, 0, 1])),
            ("router advertisement", self.icmp6(mac, link_local, 134, &router_advertisement(1800))),
            (
                "router advertisement from my own address",
                self.icmp6(mac, ip6, 134, &router_advertisement(1800)),
            ),
            (
                "neighbour advertisement for the gateway",
                self.icmp6(mac, link_local, 136, &neighbour_advertisement("fd18::1".parse().unwrap(), mac)),
            ),
            (
                "neighbour advertisement for the victim",
                self.icmp6(mac, ip6, 136, &neighbour_advertisement(victim6, mac)),
            ),
            ("UDP from no IPv6 address", self.datagram6(Ipv6Addr::UNSPECIFIED, 7, 7)),
            ("DNS from no IPv6 address", self.datagram6(Ipv6Addr::UNSPECIFIED, 5353, 53)),
            (
                "TCP from no IPv6 address",
                self.nameless(6, &tcp((nowhere, 7), (all_nodes, 80), (1, 0), 2, b"")),
            ),
            ("a ping from no IPv6 address", self.icmp6(mac, Ipv6Addr::UNSPECIFIED, 128, &[0, 1, 0, 1])),
            ("a protocol of its own from no IPv6 address", self.nameless(253, b"an experiment")),
            (
                "duplicate address detection of the victim's address",
                self.icmp6(mac, Ipv6Addr::UNSPECIFIED, 135, &solicitation(victim6)),
            ),
            (
                "duplicate address detection from another MAC",
                self.icmp6(FORGED, Ipv6Addr::UNSPECIFIED, 135, &solicitation(ip6)),
            ),
            (
                "duplicate address detection behind another header",
                self.nameless(60, &[&[58, 0, 1, 4, 0, 0, 0, 0], &behind_options[..]].concat()),
            ),
            (
                "neighbour advertisement from no IPv6 address",
                self.icmp6(mac, Ipv6Addr::UNSPECIFIED, 136, &neighbour_advertisement(ip6, mac)),
            ),
            ("neighbour solicitation from the victim", self.icmp6(mac, victim6, 135, &solicitation(ip6))),
        ]
    }

    /// By what stands around a packet, or is none.
    fn other_attacks(&self) -> Vec<(&'static str, Vec<u8>)> {
        let Self { mac, ip, .. } = *self;
        let victim = self.victim_v4();
        let behind =
            |kind: u16, head: &[u8]| ethernet(BROADCAST, mac, kind, &[head, &self.forged_arp()].concat());
        let honest_arp = arp(Arp::Request, (mac, ip), (NOBODY, victim));
        vec![
            ("a VLAN tag of number 0 before a forged ARP", behind(0x8100, &[0, 0, 8, 6])),
            ("a VLAN tag of number 1", behind(0x8100, &[0, 1, 8, 6])),
            (
                "a VLAN tag before an honest ARP",
                ethernet(BROADCAST, mac, 0x8100, &[&[0, 0, 8, 6][..], &honest_arp].concat()),
            ),
            ("802.1ad", behind(0x88a8, &[0, 1, 0x81, 0, 0, 0, 8, 6])),
            ("LLC and SNAP", behind(36, &[0xaa, 0xaa, 3, 0, 0, 0, 8, 6])),
            ("a protocol of its own", ethernet(BROADCAST, mac, 0x88b5, b"an experiment")),
            ("spanning tree", ethernet(BRIDGE_GROUP, mac, 38, &[0x42, 0x42, 3, 0, 0, 0, 0, 0])),
            ("IPv4 to the bridge group", ethernet(BRIDGE_GROUP, mac, 0x0800, &ipv4(ip, victim, 17, &[0; 8]))),
            (
                "IPv4 to the bridge group's :02",
                ethernet(group(2), mac, 0x0800, &ipv4(ip, victim, 17, &[0; 8])),
            ),
            (
                "IPv4 to the bridge group's :03",
                ethernet(group(3), mac, 0x0800, &ipv4(ip, victim, 17, &[0; 8])),
            ),
            ("LLDP to the bridge group's :0e", ethernet(group(0x0e), mac, 0x88cc, b"link layer discovery")),
            ("an IPv4 frame that ends in its header", ethernet(BROADCAST, mac, 0x0800, &[0x45])),
        ]
    }

    pub fn honest(&self) -> Vec<(&'static str, Vec<u8>)> {
        let Self { mac, ip, ip6, link_local, .. } = *self;
        let victim = self.victim_v4();
        let solicitation = |target: Ipv6Addr| [&[0; 4][..], &target.octets()].concat();
        vec![
            ("ARP request", self.arp(mac, Arp::Request, (mac, ip), (NOBODY, victim))),
            ("ARP reply", self.arp(mac, Arp::Reply, (mac, ip), (NOBODY, victim))),
            ("ARP announcement", self.arp(mac, Arp::Request, (mac, ip), (NOBODY, ip))),
            (
                "ARP probe for its own address",
                self.arp(mac, Arp::Request, (mac, Ipv4Addr::UNSPECIFIED), (NOBODY, ip)),
            ),
            ("IPv4", self.datagram(mac, ip, 9, b"honest")),
            ("DNS", self.ports(mac, ip, 5555, 53, b"honest")),
            ("IPv6", self.datagram6(ip6, 7, 7)),
            ("IPv6 from the link-local address", self.datagram6(link_local, 7, 7)),
            (
                "neighbour advertisement of its own",
                self.icmp6(mac, ip6, 136, &neighbour_advertisement(ip6, mac)),
            ),
            (
                "neighbour advertisement of its link-local address",
                self.icmp6(mac, link_local, 136, &neighbour_advertisement(link_local, mac)),
            ),
            ("neighbour solicitation", self.icmp6(mac, ip6, 135, &solicitation("fd18::3".parse().unwrap()))),
            ("duplicate address detection", self.icmp6(mac, Ipv6Addr::UNSPECIFIED, 135, &solicitation(ip6))),
            (
                "duplicate address detection of its link-local address",
                self.icmp6(mac, Ipv6Addr::UNSPECIFIED, 135, &solicitation(link_local)),
            ),
            ("a report of groups from no address", self.listener_report(143, &[0; 4])),
            ("an old report of a group from no address", self.listener_report(131, &[0; 20])),
            ("a ping over IPv6", self.icmp6(mac, ip6, 128, &[0, 1, 0, 1])),
            ("router solicitation", self.icmp6(mac, link_local, 133, &[0; 4])),
        ]
    }
}

/// The kernel takes a frame's outer tag off before it shows the frame.
fn untagged(frame: &[u8]) -> Vec<u8> {
    match frame[12..14] {
        [0x81, 0] | [0x88, 0xa8] => [&frame[..12], &frame[16..]].concat(),
        _ => frame.to_vec(),
    }
}

/// What fills a frame up to its least size may get lost on the way.
pub fn trimmed(frame: &[u8]) -> &[u8] {
    let end = frame.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &frame[..end]
}
