//! What the ruleset does to real packets: three containers on two networks, and a machine outside.
#![allow(clippy::unwrap_used)] // what is allowed in #[test] functions is allowed in their helpers

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use netlink::{Netlink, Netns, Request, Route, Veth};
use netns_fixtures::frame::{self, Arp};
use netns_fixtures::{
    Connection, Container, Frames, Host, HttpServer, Outside, UdpClient, UdpEcho, bridge_filter_settings,
    http_get, ping, set_bridge_filter, tcp_connect,
};
use nft::{Element, Firewall, Owner, Protocol};

const SOON: Duration = Duration::from_secs(3);
/// Long enough for an answer that must not come.
const NEVER: Duration = Duration::from_millis(300);
type Mac = [u8; 6];

const TCP: Protocol = Protocol::Tcp;

/// c1 and c2 on rnet0 (172.18.0.2 and .3), c3 on rnet1 (172.19.0.2), likewise in fd00:18:: and fd00:19::.
struct World {
    host: Host,
    outside: Outside,
    c1: Container,
    c2: Container,
    c3: Container,
}

impl World {
    fn new(br_netfilter: bool) -> Self {
        let host = Host::new().unwrap();
        let outside =
            host.outside(&["10.0.0.0/24".parse().unwrap(), "2001:db8::/64".parse().unwrap()]).unwrap();
        for subnet in ["172.16.0.0/12", "fd00::/16"] {
            outside.route_via_host(subnet.parse().unwrap()).unwrap();
        }
        let mut netlink = Netlink::inside(host.netns()).unwrap();
        for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            netlink.set_sysctl(key, "1").unwrap();
        }
        set_bridge_filter(host.netns(), br_netfilter).unwrap();
        let bridges = [18, 19].map(|network| bridge_for(&mut netlink, network));
        netlink.set_sysctl("ipv4/conf/rnet0/route_localnet", "1").unwrap();
        let [c1, c2, c3] = [("c1", 18, 2), ("c2", 18, 3), ("c3", 19, 2)].map(|(name, network, n)| {
            container(&host, &mut netlink, bridges[network - 18], name, network, n)
        });
        host.run(|| Firewall::open().unwrap().rebuild(&elements(), &[]).map(drop)).unwrap().unwrap();
        Self { host, outside, c1, c2, c3 }
    }
}

fn bridge_for(netlink: &mut Netlink, network: usize) -> u32 {
    let name = format!("rnet{}", network - 18);
    let mac = netlink::Mac(mac(network, 1));
    netlink.send(&[Request::Bridge { name: name.clone(), mac, mtu: None, snooping: true }]).unwrap();
    let index = netlink.link(&name).unwrap().unwrap().index;
    let address =
        |text: String| Request::AddressAdd { index, name: name.clone(), address: text.parse().unwrap() };
    let up = Request::LinkUp { index, name: name.clone() };
    netlink
        .send(&[address(format!("172.{network}.0.1/16")), address(format!("fd00:{network}::1/64")), up])
        .unwrap();
    index
}

fn container(
    host: &Host,
    netlink: &mut Netlink,
    bridge: u32,
    name: &str,
    network: usize,
    n: u8,
) -> Container {
    let container = host.container(name).unwrap();
    let (link, peer_netns) = (format!("veth-{name}"), container.netns());
    let peer_mac = Some(netlink::Mac(mac(network, n)));
    let veth = Veth {
        name: &link,
        mac: None,
        mtu: None,
        master: Some(bridge),
        peer: "eth0",
        peer_mac,
        peer_netns,
        up: true,
    };
    let pair = netlink.create_veth(&veth).unwrap();
    let hairpin = Request::Port {
        index: pair.host,
        name: link,
        hairpin: Some(true),
        isolated: None,
        learning: None,
        group_forward: None,
    };
    netlink.send(&[hairpin]).unwrap();
    let (index, name) = (pair.container, String::from("eth0"));
    let address =
        |text: String| Request::AddressAdd { index, name: name.clone(), address: text.parse().unwrap() };
    let default =
        |to: &str, by: String| Request::RouteAdd(Route::via(to.parse().unwrap(), by.parse().unwrap(), index));
    let requests = [
        address(format!("172.{network}.0.{n}/16")),
        address(format!("fd00:{network}::{n}/64")),
        Request::LinkUp { index, name: name.clone() },
        default("0.0.0.0/0", format!("172.{network}.0.1")),
        default("::/0", format!("fd00:{network}::1")),
    ];
    Netlink::inside(container.netns()).unwrap().send(&requests).unwrap();
    container
}

fn mac(network: usize, n: u8) -> Mac {
    [2, 0x42, 172, network as u8, 0, n]
}

/// c1's port 80 as 3344 of every host address, 3345 of one and 3346 of 127.0.0.1; everything guarded.
fn elements() -> Vec<(Element, Owner)> {
    let mut elements = Vec::new();
    for (to, host) in [("172.18.0.2:80", "10.0.0.1"), ("[fd00:18::2]:80", "2001:db8::1")] {
        let to: SocketAddr = to.parse().unwrap();
        let host = Some(host.parse().unwrap());
        elements.extend([
            Element::Publish { host: None, protocol: TCP, host_port: 3344, to },
            Element::Publish { host, protocol: TCP, host_port: 3345, to },
            Element::Published { to, protocol: TCP },
        ]);
    }
    let loopback = Some("127.0.0.1".parse().unwrap());
    let to = "172.18.0.2:80".parse().unwrap();
    elements.push(Element::Publish { host: loopback, protocol: TCP, host_port: 3346, to });
    for network in [18, 19] {
        let bridge = format!("rnet{}", network - 18);
        for subnet in [format!("172.{network}.0.0/16"), format!("fd00:{network}::/64")] {
            elements.push(Element::Home { subnet: subnet.parse().unwrap(), bridge: bridge.clone() });
        }
        elements.push(Element::Isolated { bridge });
    }
    for (name, network, n) in [("c1", 18, 2), ("c2", 18, 3), ("c3", 19, 2)] {
        elements.extend(container_elements(name, network, n));
    }
    let owner = Owner::new("00000000000000aa").unwrap();
    elements.into_iter().map(|element| (element, owner)).collect()
}

fn container_elements(name: &str, network: usize, n: u8) -> Vec<Element> {
    let (link, mac) = (format!("veth-{name}"), mac(network, n));
    let global: [IpAddr; 2] =
        [format!("172.{network}.0.{n}"), format!("fd00:{network}::{n}")].map(|text| text.parse().unwrap());
    let mut elements = vec![Element::Port { link: link.clone() }];
    elements.extend(global.map(|address| Element::Masquerade { address }));
    let own = [Ipv6Addr::UNSPECIFIED.into(), link_local(mac)];
    let own = own.into_iter().chain(global);
    elements.extend(own.map(|address| Element::PortAddress { link: link.clone(), mac, address }));
    elements
}

/// EUI-64 (RFC 4291, appendix A).
fn link_local([a, b, c, d, e, f]: Mac) -> IpAddr {
    let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f)).into()
}

#[test]
fn a_published_port_answers_all_clients_and_sees_the_right_address() {
    for &br_netfilter in bridge_filter_settings() {
        let world = World::new(br_netfilter);
        let World { host, outside, c1, c2, c3 } = &world;
        let servers = ["172.18.0.2:80", "[fd00:18::2]:80"]
            .map(|address| HttpServer::start(c1.netns(), address.parse().unwrap(), "c1").unwrap());
        let cases: [(&Netns, &str, &str); 14] = [
            (outside.netns(), "10.0.0.1:3344", "10.0.0.2"),
            (outside.netns(), "10.0.0.1:3345", "10.0.0.2"),
            (outside.netns(), "[2001:db8::1]:3344", "2001:db8::2"),
            (host.netns(), "10.0.0.1:3344", "10.0.0.1"),
            (host.netns(), "172.18.0.1:3344", "172.18.0.1"),
            (host.netns(), "127.0.0.1:3344", "172.18.0.1"),
            (host.netns(), "127.0.0.1:3346", "172.18.0.1"),
            (host.netns(), "[2001:db8::1]:3345", "2001:db8::1"),
            (c2.netns(), "10.0.0.1:3344", "172.18.0.1"),
            (c2.netns(), "[2001:db8::1]:3344", "fd00:18::1"),
            (c1.netns(), "10.0.0.1:3344", "172.18.0.1"),
            (c1.netns(), "[2001:db8::1]:3344", "fd00:18::1"),
            (c3.netns(), "10.0.0.1:3344", "172.18.0.1"),
            (c3.netns(), "[2001:db8::1]:3344", "fd00:18::1"),
        ];
        for (from, at, client) in cases {
            let page = http_get(from, &format!("http://{at}/"), SOON);
            assert_eq!(page.unwrap().body, "c1", "{at} as {client}, br_netfilter {br_netfilter}");
            let server = &servers[usize::from(at.starts_with('['))];
            assert_eq!(server.last_peer(), Some(client.parse().unwrap()), "{at}");
        }
    }
}

#[test]
fn what_is_not_published_answers_only_its_own_network() {
    for &br_netfilter in bridge_filter_settings() {
        let world = World::new(br_netfilter);
        let World { host, outside, c1, c2, c3 } = &world;
        let _servers = ["172.18.0.2:80", "172.18.0.2:81", "[fd00:18::2]:80", "[fd00:18::2]:81"]
            .map(|address| HttpServer::start(c1.netns(), address.parse().unwrap(), "c1").unwrap());
        let cases: [(&Netns, &str, Connection); 13] = [
            (c2.netns(), "172.18.0.2:81", Connection::Open),
            (c2.netns(), "[fd00:18::2]:81", Connection::Open),
            (host.netns(), "172.18.0.2:81", Connection::Open),
            (c3.netns(), "172.18.0.2:80", Connection::TimedOut),
            (c3.netns(), "[fd00:18::2]:80", Connection::TimedOut),
            (c3.netns(), "172.18.0.2:81", Connection::TimedOut),
            (outside.netns(), "172.18.0.2:80", Connection::TimedOut),
            (outside.netns(), "[fd00:18::2]:80", Connection::TimedOut),
            (outside.netns(), "172.18.0.2:81", Connection::TimedOut),
            // No port is published at these addresses: the host itself answers.
            (outside.netns(), "10.0.0.1:3346", Connection::Refused),
            (c2.netns(), "172.18.0.1:3345", Connection::Refused),
            (host.netns(), "[::1]:3344", Connection::Refused),
            (outside.netns(), "10.0.0.1:80", Connection::Refused),
        ];
        for (from, at, expected) in cases {
            let limit = if expected == Connection::TimedOut { NEVER } else { SOON };
            let connection = tcp_connect(from, at.parse().unwrap(), limit).unwrap();
            assert_eq!(connection, expected, "{at}, br_netfilter {br_netfilter}");
        }
    }
}

#[test]
fn leaving_traffic_is_masqueraded_and_passing_traffic_is_not_dnated() {
    let world = World::new(bridge_filter_settings()[0]);
    let at = ["10.0.0.2:3344", "[2001:db8::2]:3344"];
    let servers =
        at.map(|at| HttpServer::start(world.outside.netns(), at.parse().unwrap(), "outside").unwrap());

    for ((at, server), seen) in at.iter().zip(&servers).zip(["10.0.0.1", "2001:db8::1"]) {
        let page = http_get(world.c2.netns(), &format!("http://{at}/"), SOON).unwrap();
        assert_eq!((page.body.as_str(), server.last_peer()), ("outside", Some(seen.parse().unwrap())));
    }
}

#[test]
fn the_hosts_own_loopback_is_out_of_reach() {
    let world = World::new(bridge_filter_settings()[0]);
    let service = UdpEcho::start(world.host.netns(), "127.0.0.5:7777".parse().unwrap()).unwrap();
    // No route of the container leads there: such a datagram can only be sent as a frame.
    let inside = Frames::on(world.c1.netns(), "eth0").unwrap();
    let (from, to) = (Ipv4Addr::new(172, 18, 0, 2), Ipv4Addr::new(127, 0, 0, 5));
    let datagram = frame::ipv4(from, to, 17, &frame::udp((from.into(), 1000), (to.into(), 7777), b"knock"));
    let knock = || {
        inside.send(&frame::ethernet(mac(18, 1), mac(18, 2), 0x0800, &datagram)).unwrap();
        // What answers after it shows that it has been dealt with.
        ping(world.c1.netns(), "172.18.0.1".parse().unwrap(), SOON).unwrap().unwrap();
        let client = UdpClient::bind(world.host.netns(), "127.0.0.1:0".parse().unwrap()).unwrap();
        client.exchange(service.address(), b"own", SOON).unwrap().unwrap();
        service.peers().iter().filter(|peer| peer.ip() == from).count()
    };

    assert_eq!(knock(), 0);
    world.host.run(|| Firewall::open().unwrap().drop_tables()).unwrap().unwrap();
    assert_eq!(knock(), 1, "without the guard it gets there");
}

#[test]
fn a_guarded_port_sends_only_what_its_container_is() {
    let world = World::new(false);
    let (sender, receiver) =
        (Frames::on(world.c2.netns(), "eth0").unwrap(), Frames::on(world.c1.netns(), "eth0").unwrap());
    let honest = udp(mac(18, 3), "172.18.0.3", "172.18.0.2", 9999, b"the end of a case");
    for (name, passes, frame) in frames() {
        sender.send(&frame).unwrap();
        sender.send(&honest).unwrap();
        let first = receiver.wait_for(SOON, |seen| seen == honest || seen.starts_with(&frame)).unwrap();
        let passed = first.as_deref() != Some(&honest[..]);
        assert_eq!(passed, passes, "{name}");
        if passed {
            receiver.wait_for(SOON, |seen| seen == honest).unwrap();
        }
    }
}

/// Frames from c2 to c1, and whether they may pass.
fn frames() -> Vec<(&'static str, bool, Vec<u8>)> {
    let (me, you, other) = (mac(18, 3), mac(18, 2), mac(18, 99));
    let (mine, yours, gateway) = ("172.18.0.3", "172.18.0.2", "172.18.0.1");
    let v4 = |text: &str| text.parse::<Ipv4Addr>().unwrap();
    let v6 = |text: &str| text.parse::<Ipv6Addr>().unwrap();
    let ip = |from: &str, port: u16| udp(me, from, yours, port, b"datagram");
    let arp = |outside: Mac, inside: Mac, sender: &str, target: &str| {
        frame::ethernet(
            you,
            outside,
            0x0806,
            &frame::arp(Arp::Reply, (inside, v4(sender)), (you, v4(target))),
        )
    };
    let icmp = |outside: Mac, from: &str, kind: u8, body: &[u8]| {
        let message = frame::icmpv6(v6(from), v6("fd00:18::2"), kind, body);
        frame::ethernet(you, outside, 0x86dd, &frame::ipv6(v6(from), v6("fd00:18::2"), 58, &message))
    };
    let target = |address: &str| [&[0x20, 0, 0, 0][..], &v6(address).octets(), &[2, 1], &me].concat();
    let tagged = |mut frame: Vec<u8>| {
        frame.splice(12..12, [0x81, 0, 0, 0]);
        frame
    };
    vec![
        ("a datagram", true, ip(mine, 1)),
        ("another's address", false, ip("172.18.0.9", 1)),
        ("the gateway's address", false, ip(gateway, 1)),
        ("another MAC", false, udp(other, mine, yours, 1, b"datagram")),
        ("a DHCP server's answer", false, ip(mine, 68)),
        ("a DHCPv6 server's answer", false, ip(mine, 546)),
        ("a tag around it", false, tagged(ip(mine, 2))),
        ("another ethertype", false, frame::ethernet(you, me, 0x88b5, &[0; 50])),
        ("too short for a lookup", false, frame::ethernet(you, me, 0x0800, &[])[..18].to_vec()),
        ("an ARP answer", true, arp(me, me, mine, yours)),
        ("an ARP answer for the gateway", false, arp(me, me, gateway, yours)),
        ("an ARP answer with another MAC in it", false, arp(me, other, mine, yours)),
        ("an ARP answer from another MAC", false, arp(other, me, mine, yours)),
        ("a probe for its own address", true, arp(me, me, "0.0.0.0", mine)),
        ("a probe for another's address", false, arp(me, me, "0.0.0.0", yours)),
        ("an IPv6 message", true, icmp(me, "fd00:18::3", 200, &[0; 8])),
        ("another's IPv6 address", false, icmp(me, "fd00:18::9", 200, &[0; 8])),
        ("an IPv6 message from another MAC", false, icmp(other, "fd00:18::3", 200, &[0; 8])),
        ("a router advertisement", false, icmp(me, "fd00:18::3", 134, &[0; 12])),
        ("an advertisement of its own address", true, icmp(me, "fd00:18::3", 136, &target("fd00:18::3"))),
        ("an advertisement of the gateway's", false, icmp(me, "fd00:18::3", 136, &target("fd00:18::1"))),
        ("a bridge protocol frame", false, frame::ethernet([1, 0x80, 0xc2, 0, 0, 0], me, 0x0800, &[0; 50])),
    ]
}

fn udp(from_mac: Mac, from: &str, to: &str, port: u16, payload: &[u8]) -> Vec<u8> {
    let (from, to): (Ipv4Addr, Ipv4Addr) = (from.parse().unwrap(), to.parse().unwrap());
    let datagram = frame::udp((from.into(), 1000), (to.into(), port), payload);
    frame::ethernet(mac(18, 2), from_mac, 0x0800, &frame::ipv4(from, to, 17, &datagram))
}
