//! What a container's port may send: the attack matrix with raw frames, and honest traffic beside it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use netlink::{Netns, Request};
use netns_fixtures::frame::{
    Arp, BROADCAST, Mac, arp, ethernet, icmpv6, ipv4, ipv6, neighbour_advertisement, router_advertisement,
    tcp, udp,
};
use netns_fixtures::{Frames, bridge_filter_settings, bridge_macs, ping, wait_for_carrier};
use serde_json::{Value, json};

use crate::common::{LONG, SOON, inside, rnet, with};
use crate::stage::{A, Guest, Stage, echo};

const FORGED: Mac = [2, 0, 0, 0, 0, 0x66];
const NOBODY: Mac = [0; 6];
const ALL_NODES: Mac = [0x33, 0x33, 0, 0, 0, 1];
const BRIDGE_GROUP: Mac = [0x01, 0x80, 0xc2, 0, 0, 0];

/// One of the addresses that a bridge never forwards to (IEEE 802.1D, 7.12.6).
fn group(last: u8) -> Mac {
    [0x01, 0x80, 0xc2, 0, 0, last]
}

const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 1);

/// The container that attacks, with all that it may call its own, and the one that would notice.
struct Arena {
    stage: Stage,
    attacker: Guest,
    victim: Guest,
    sends: Frames,
    hears: Frames,
    mac: Mac,
    ip: Ipv4Addr,
    ip6: Ipv6Addr,
    link_local: Ipv6Addr,
}

impl Arena {
    fn new(more: Value) -> Self {
        let stage = Stage::new();
        let network = with(&rnet("a", &A), more);
        let (attacker, victim) =
            (stage.attach("attacker", &network, &[]), stage.attach("victim", &network, &[]));
        let (sends, hears) =
            (Frames::on(attacker.netns(), "eth0").unwrap(), Frames::on(victim.netns(), "eth0").unwrap());
        let mac = inside(attacker.netns()).link("eth0").unwrap().unwrap().mac.unwrap().0;
        let (IpAddr::V4(ip), IpAddr::V6(ip6)) = (attacker.v4(), attacker.v6()) else { panic!() };
        let link_local = "fe80::42:acff:fe12:2".parse().unwrap();
        Self { stage, attacker, victim, sends, hears, mac, ip, ip6, link_local }
    }

    fn victim_v4(&self) -> Ipv4Addr {
        let IpAddr::V4(ip) = self.victim.v4() else { panic!() };
        ip
    }

    /// Sends `frame`, and something honest behind it; true if `frame` came through.
    fn passes(&self, frame: &[u8]) -> bool {
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

    fn arp(&self, from: Mac, operation: Arp, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
        ethernet(BROADCAST, from, 0x0806, &arp(operation, sender, target))
    }

    fn datagram(&self, mac: Mac, from: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
        self.ports(mac, from, 7, port, payload)
    }

    fn ports(&self, mac: Mac, from: Ipv4Addr, source: u16, port: u16, payload: &[u8]) -> Vec<u8> {
        let to = Ipv4Addr::new(172, 18, 255, 255);
        let datagram = udp((from.into(), source), (to.into(), port), payload);
        ethernet(BROADCAST, mac, 0x0800, &ipv4(from, to, 17, &datagram))
    }

    fn icmp6(&self, mac: Mac, from: Ipv6Addr, kind: u8, body: &[u8]) -> Vec<u8> {
        let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        ethernet(ALL_NODES, mac, 0x86dd, &ipv6(from, to, 58, &icmpv6(from, to, kind, body)))
    }

    fn datagram6(&self, from: Ipv6Addr, source: u16, port: u16) -> Vec<u8> {
        let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let datagram = udp((from.into(), source), (to.into(), port), b"a datagram over IPv6");
        ethernet(ALL_NODES, self.mac, 0x86dd, &ipv6(from, to, 17, &datagram))
    }

    /// What only IPv6's "no address" may hide behind: a packet of any protocol to all nodes.
    fn nameless(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        ethernet(ALL_NODES, self.mac, 0x86dd, &ipv6(Ipv6Addr::UNSPECIFIED, to, protocol, payload))
    }

    /// A report of multicast groups, behind the hop-by-hop header that it must have (RFC 3810, 5).
    fn listener_report(&self, kind: u8, body: &[u8]) -> Vec<u8> {
        let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
        let report = icmpv6(Ipv6Addr::UNSPECIFIED, to, kind, body);
        self.nameless(0, &[&[58, 0, 5, 2, 0, 0, 1, 0], &report[..]].concat())
    }

    /// A forged ARP reply, without its frame.
    fn forged_arp(&self) -> Vec<u8> {
        arp(Arp::Reply, (self.mac, GATEWAY), (NOBODY, self.victim_v4()))
    }

    fn attacks(&self) -> Vec<(&'static str, Vec<u8>)> {
        let Self { mac, ip, ip6, link_local, .. } = *self;
        let victim = self.victim_v4();
        let victim6: Ipv6Addr = "fd18::3".parse().unwrap();
        let (nowhere, all_nodes) = (IpAddr::from(Ipv6Addr::UNSPECIFIED), "ff02::1".parse().unwrap());
        let to_all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let behind_options =
            icmpv6(Ipv6Addr::UNSPECIFIED, to_all, 135, &[&[0; 4][..], &ip6.octets()].concat());
        let behind =
            |kind: u16, head: &[u8]| ethernet(BROADCAST, mac, kind, &[head, &self.forged_arp()].concat());
        let honest_arp = arp(Arp::Request, (mac, ip), (NOBODY, victim));
        let solicitation = |target: Ipv6Addr| [&[0; 4][..], &target.octets()].concat();
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
            ("IPv4 from the victim's address", self.datagram(mac, victim, 7, b"forged")),
            ("IPv4 from the gateway's address", self.datagram(mac, GATEWAY, 7, b"forged")),
            ("IPv4 from outside", self.datagram(mac, Ipv4Addr::new(192, 168, 77, 2), 7, b"forged")),
            ("IPv4 from another MAC", self.datagram(FORGED, ip, 7, b"forged")),
            ("IPv4 from no address", self.ports(mac, Ipv4Addr::UNSPECIFIED, 68, 67, b"discover")),
            ("DHCP server", self.ports(mac, ip, 67, 68, b"offer")),
            ("DHCP server from another port", self.ports(mac, ip, 6767, 68, b"offer")),
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

    fn honest(&self) -> Vec<(&'static str, Vec<u8>)> {
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
fn trimmed(frame: &[u8]) -> &[u8] {
    let end = frame.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &frame[..end]
}

#[test]
fn no_attack_leaves_the_port_and_honest_frames_do() {
    for &on in bridge_filter_settings() {
        let arena = Arena::new(json!({}));
        arena.stage.set_bridge_netfilter(on);
        let came: Vec<_> = arena
            .attacks()
            .into_iter()
            .filter(|(_, frame)| arena.passes(frame))
            .map(|attack| attack.0)
            .collect();
        assert!(came.is_empty(), "{came:?} came through, bridge netfilter {on}");
        let stopped: Vec<_> =
            arena.honest().into_iter().filter(|(_, frame)| !arena.passes(frame)).map(|one| one.0).collect();
        assert!(stopped.is_empty(), "{stopped:?} did not come through, bridge netfilter {on}");
    }
}

/// Without the guard they come through: the frames are good.
#[test]
fn without_the_guard_the_same_attacks_arrive() {
    let arena = Arena::new(json!({"spoofGuard": false}));
    // A bridge forwards neither its own group's frames nor packets without a whole header.
    let never = ["spanning tree", "bridge group", "an IPv4 frame that ends in its header"];
    let is_good = |name: &str| !never.iter().any(|never| name.contains(never));
    let attacks = arena.attacks().into_iter().filter(|(name, _)| is_good(name));
    let stopped: Vec<_> = attacks.filter(|(_, frame)| !arena.passes(frame)).map(|attack| attack.0).collect();
    assert!(stopped.is_empty(), "{stopped:?} did not come through");
}

#[test]
fn forged_arp_moves_neither_the_host_nor_a_neighbour() {
    let arena = Arena::new(json!({}));
    let host = arena.stage.lab.host.netns();
    assert!(ping(host, arena.victim.v4(), LONG).unwrap().is_some());
    let mac_of = |netns, link: &str, ip: IpAddr| {
        let mut netlink = inside(netns);
        let index = netlink.link(link).unwrap().unwrap().index;
        let found = netlink.neighbours(index).unwrap();
        found.into_iter().find(|found| found.0 == ip).map(|found| found.1.0)
    };
    let before = mac_of(host, "rnet-a", arena.victim.v4()).unwrap();
    let gateway = mac_of(arena.victim.netns(), "eth0", GATEWAY.into());

    let victim = arena.victim_v4();
    for frame in [
        arena.arp(arena.mac, Arp::Reply, (arena.mac, victim), (NOBODY, GATEWAY)),
        arena.arp(arena.mac, Arp::Request, (arena.mac, victim), (NOBODY, GATEWAY)),
        arena.arp(arena.mac, Arp::Reply, (arena.mac, GATEWAY), (NOBODY, victim)),
    ] {
        assert!(!arena.passes(&frame));
    }

    assert_eq!(mac_of(host, "rnet-a", arena.victim.v4()), Some(before));
    assert_eq!(mac_of(arena.victim.netns(), "eth0", GATEWAY.into()), gateway);
    assert!(ping(host, arena.victim.v4(), LONG).unwrap().is_some());
}

/// A bridge takes most frames to its group for itself: they teach it where a MAC lives and go up to the host as the port's.
#[test]
fn frames_to_the_bridge_group_teach_and_reach_nobody() {
    let arena = Arena::new(json!({}));
    let host = &arena.stage.lab.host;
    let service = echo(host.netns(), "0.0.0.0", 7000);
    arena.stage.lab.set_sysctl("ipv4/conf/all/rp_filter", "0");
    let (all_nodes, victim) = (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), arena.victim_v4());
    let advertisement = icmpv6(arena.link_local, all_nodes, 134, &router_advertisement(1800));
    let datagram = udp((victim.into(), 5), (GATEWAY.into(), 7000), b"forged");
    let victims = inside(arena.victim.netns()).link("eth0").unwrap().unwrap().mac.unwrap().0;
    for last in 0..16 {
        for (kind, payload) in [
            (0x88cc, b"link layer discovery, long enough to be one".to_vec()),
            (0x86dd, ipv6(arena.link_local, all_nodes, 58, &advertisement)),
            (0x0800, ipv4(victim, GATEWAY, 17, &datagram)),
        ] {
            for from in [victims, arena.mac] {
                arena.sends.send(&ethernet(group(last), from, kind, &payload)).unwrap();
            }
        }
    }
    assert!(!arena.passes(&arena.datagram(FORGED, arena.ip, 7, b"the last")));

    // The victim has said nothing since then from which the bridge could learn again where it is.
    let secret = b"for the victim's ears alone";
    host.run(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(secret, (victim, 9)).unwrap()).unwrap();
    assert!(arena.hears.wait_for(LONG, |heard| heard.ends_with(secret)).unwrap().is_some());
    let routes = arena.stage.lab.netlink().routes().unwrap();
    let by_the_attacker = routes.iter().filter(|route| route.gateway == Some(arena.link_local.into()));
    assert_eq!(by_the_attacker.collect::<Vec<_>>(), Vec::<&netlink::Route>::new());
    assert!(service.peers().is_empty());
}

/// Whoever is in the container's namespace early, and takes its interface up, meets a port that is down.
#[test]
fn a_port_comes_up_when_its_guard_is_complete() {
    for (step, comes_up) in [("add.veth", false), ("add.conntrack", false), ("add.port", true)] {
        let stage = Stage::new();
        let (container, who) = stage.lab.container("early");
        let add = stage.lab.call("ADD", "rnet", &who).input(rnet("a", &A).to_string());

        let died = add.set("RNET_FAILPOINT", &format!("{step}:abort")).run();

        assert!(died.status > 128, "{died:?}");
        take(container.netns(), true);
        let eth0 = inside(container.netns()).link("eth0").unwrap().unwrap();
        let port = stage.lab.netlink().link_by_index(eth0.peer.unwrap()).unwrap().unwrap();
        assert_eq!(port.up, comes_up, "{step}");
        let elements = stage.lab.elements();
        let guards = elements.iter().filter(|(element, _)| element.to_string().contains(&port.name));
        assert_eq!(guards.count() > 0, step != "add.veth", "{step}: {elements:?}");
    }
}

/// Whether DEL dies between the rules and the link, or is only slow there.
#[test]
fn a_container_that_leaves_is_not_heard_without_its_guard() {
    let arena = Arena::new(json!({}));
    let Guest { who, config, .. } = &arena.attacker;
    let port = arena.attacker.result["interfaces"][1]["name"].as_str().unwrap();
    let forged = ethernet(BROADCAST, arena.mac, 0x0806, &arena.forged_arp());
    let host = arena.stage.lab.host.netns();
    let del = arena.stage.lab.call("DEL", "rnet", who).input(config.to_string());

    let died = del.set("RNET_FAILPOINT", "del.rules:abort").run();

    assert!(died.status > 128, "{died:?}");
    let left = arena.stage.lab.elements();
    assert!(!left.iter().any(|(element, _)| element.to_string().contains(port)), "{left:?}");
    arena.sends.send(&forged).unwrap();
    assert_eq!(arena.hears.wait_for(SOON, |heard| trimmed(heard) == trimmed(&forged)).unwrap(), None);
    // The container takes the carrier and gives it again, at which a port forwards anew.
    take(arena.attacker.netns(), false);
    take(arena.attacker.netns(), true);
    assert!(!wait_for_carrier(host, port, SOON).unwrap());
    let again = Frames::on(arena.attacker.netns(), "eth0").unwrap();
    again.send(&forged).unwrap();
    assert_eq!(arena.hears.wait_for(SOON, |heard| trimmed(heard) == trimmed(&forged)).unwrap(), None);

    arena.stage.detach(&arena.attacker);
    assert!(arena.stage.lab.link(port).is_none());
}

/// Takes the container's interface up or down, as whoever is in there may.
fn take(netns: &Netns, up: bool) {
    let mut netlink = inside(netns);
    let (index, name) = (netlink.link("eth0").unwrap().unwrap().index, "eth0".to_owned());
    let request = if up { Request::LinkUp { index, name } } else { Request::LinkDown { index, name } };
    netlink.send(&[request]).unwrap();
}

/// MACs that are not the container's are not learned, however many it sends with.
#[test]
fn a_flooded_bridge_still_delivers() {
    for (guard, expected) in [(json!({}), 0), (json!({"spoofGuard": false}), 256)] {
        let arena = Arena::new(guard);
        for last in 0..=255 {
            let mac = [2, 0xaa, 0, 0, 0, last];
            arena.sends.send(&arena.datagram(mac, arena.ip, 7, b"flood")).unwrap();
        }
        assert!(ping(arena.victim.netns(), arena.attacker.v4(), LONG).unwrap().is_some());
        let known = bridge_macs(arena.stage.lab.host.netns()).unwrap();
        assert_eq!(known.iter().filter(|mac| mac.starts_with("02:aa:")).count(), expected);
    }
}

/// A MAC that a runtime asks for is the container's own.
#[test]
fn a_given_mac_is_honest() {
    let stage = Stage::new();
    let network = rnet("a", &A);
    let given = with(&network, json!({"runtimeConfig": {"mac": "02:00:00:00:00:09"}}));
    let (one, two) = (stage.attach("one", &given, &[]), stage.attach("two", &network, &[]));
    for ip in [one.v4(), one.v6()] {
        assert!(ping(two.netns(), ip, LONG).unwrap().is_some(), "{ip}");
    }
    assert!(ping(one.netns(), stage.outside.address(), LONG).unwrap().is_some());
}

/// Who sends in very many names fills the list of them, and nothing comes through all the same.
#[test]
fn a_full_list_of_refused_sources_lets_nothing_pass() {
    let arena = Arena::new(json!({}));
    for nth in 0..1500u32 {
        let forged = Ipv4Addr::from_bits(0x0b00_0000 + nth);
        arena.sends.send(&arena.datagram(arena.mac, forged, 7, b"flood")).unwrap();
    }
    assert!(!arena.passes(&arena.datagram(arena.mac, Ipv4Addr::new(11, 1, 0, 0), 7, b"the last")));

    let refused = arena.stage.lab.host.run(|| nft::Firewall::open().unwrap().refused().unwrap()).unwrap();
    let name = |guest: &Guest| guest.result["interfaces"][1]["name"].as_str().unwrap().to_owned();
    let (attacker, victim) = (&refused[&name(&arena.attacker)], &refused[&name(&arena.victim)]);
    assert!(attacker.packets > 1500 && attacker.sources.len() == 1024, "{}", attacker.sources.len());
    assert_eq!((victim.packets, victim.sources.len()), (0, 0));
}
