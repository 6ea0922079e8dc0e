//! Networks of type `rnet` do not reach one another, and from outside only what is published is reached.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use netns_fixtures::{Frames, Outside, bridge_filter_settings, frame, ping};
use serde_json::json;

use crate::common::{Guest, Host, LONG, SOON, bridge, inside, mac, rnet, with};
use crate::packets::{A, B, HOST, all_get, at_once, client, echo, echoes, none_get, page, serve, to};

const CLOSED: u16 = 81;

/// Everything `from` may try to reach `guest` at its own addresses: tcp, udp and icmp, IPv4 and IPv6. True for
/// each that got through.
fn attempts(from: &netlink::Netns, guest: &Guest, timeout: std::time::Duration) -> Vec<bool> {
    let mut ways: Vec<(IpAddr, u8)> = Vec::new();
    for ip in guest.both() {
        ways.extend([(ip, 0), (ip, 1), (ip, 2), (ip, 3)]);
    }
    at_once(&ways, |(ip, way)| match way {
        0 => page(from, (*ip, 80).into(), timeout).is_some(),
        1 => page(from, (*ip, CLOSED).into(), timeout).is_some(),
        2 => echoes(from, (*ip, 53).into(), timeout),
        _ => ping(from, *ip, timeout).unwrap().is_some(),
    })
}

#[test]
fn networks_do_not_reach_one_another_but_their_own() {
    for &on in bridge_filter_settings() {
        let host = Host::connected();
        host.set_bridge_netfilter(on);
        let (a, b) = (rnet("a", &A), rnet("b", &B));
        // One port of each is published: that opens it on the host's addresses, not on the container's.
        let ports = |port| [("", port, 80, "tcp"), ("", port, 53, "udp")];
        let (one, two) = (host.attach("one", &a, &ports(8080)), host.attach("two", &b, &ports(8081)));
        let (peer, outside) = (host.attach("peer", &a, &[]), host.neighbour().netns());
        let _pages: Vec<_> =
            [&one, &two].into_iter().flat_map(|guest| [guest.serves(80), guest.serves(CLOSED)]).collect();
        let _echoes = [echo(one.netns(), "::", 53), echo(two.netns(), "::", 53)];

        assert_eq!(attempts(peer.netns(), &one, LONG), [true; 8], "within a network, {on}");
        assert_eq!(attempts(host.netns(), &one, LONG), [true; 8], "the host, {on}");
        assert_eq!(attempts(one.netns(), &two, SOON), [false; 8], "a to b, {on}");
        assert_eq!(attempts(two.netns(), &one, SOON), [false; 8], "b to a, {on}");
        assert_eq!(attempts(outside, &one, SOON), [false; 8], "outside to a, {on}");
    }
}

/// Without isolation the same attempts get through: the routes are there.
#[test]
fn networks_that_are_not_isolated_are_reached() {
    let host = Host::connected();
    let open = with(&rnet("a", &A), json!({"isolate": false, "ipMasq": false}));
    let plain = with(&bridge("b", &B), json!({"ipMasq": false}));
    let (one, two) = (host.attach("one", &open, &[]), host.attach("two", &plain, &[]));
    for guest in [&one, &two] {
        let _pages = [guest.serves(80), guest.serves(CLOSED)];
        let _echo = echo(guest.netns(), "::", 53);
        assert_eq!(attempts(host.neighbour().netns(), guest, LONG), [true; 8]);
        let other = if guest.who.id == "one" { &two } else { &one };
        assert_eq!(attempts(other.netns(), guest, LONG), [true; 8]);
    }
}

#[test]
fn a_port_for_the_hosts_loopback_is_not_reached_from_outside() {
    let host = Host::connected();
    let a = rnet("a", &A);
    let web = host.attach("web", &a, &[("127.0.0.1", 9000, 80, "tcp")]);
    let peer = host.attach("peer", &a, &[]);
    let other = host.attach("other", &rnet("b", &B), &[]);
    let _server = web.serves(80);
    all_get("web", &[("the host", host.netns(), to("127.0.0.1", 9000))]);
    let outside = host.neighbour().netns();
    none_get(&[
        ("by the host's address", outside, to(HOST[0], 9000)),
        ("by the container's address", outside, to("172.18.0.2", 80)),
        ("by the same port", outside, to("172.18.0.2", 9000)),
        ("by another address of the host", host.netns(), to(HOST[0], 9000)),
        ("a neighbour by the host's address", peer.netns(), to(HOST[0], 9000)),
        ("another network", other.netns(), to(HOST[0], 9000)),
    ]);
}

#[test]
fn what_leaves_is_masqueraded_unless_told_otherwise() {
    let host = Host::connected();
    let theirs = serve(host.neighbour().netns(), "::", 80, "theirs");
    let guest = host.attach("one", &rnet("a", &A), &[]);
    let honest = host.attach("two", &with(&rnet("b", &B), json!({"ipMasq": false})), &[]);
    for ip in [0, 1] {
        let there = host.neighbour().addresses()[ip].ip();
        assert_eq!(page(guest.netns(), (there, 80).into(), LONG).as_deref(), Some("theirs"));
        assert_eq!(client(&theirs).to_string(), HOST[ip]);
        assert_eq!(page(honest.netns(), (there, 80).into(), LONG).as_deref(), Some("theirs"));
        assert_eq!(client(&theirs), honest.both()[ip]);
        assert!(ping(guest.netns(), there, LONG).unwrap().is_some());
    }
    // The host and its own network see a container's own address.
    let ours = serve(host.netns(), "::", 80, "ours");
    assert_eq!(page(guest.netns(), to("172.18.0.1", 80), LONG).as_deref(), Some("ours"));
    assert_eq!(client(&ours), guest.v4());
}

#[test]
fn multicast_within_a_network_keeps_its_sender() {
    for &on in bridge_filter_settings() {
        let host = Host::connected();
        host.set_bridge_netfilter(on);
        let a = rnet("a", &A);
        let (one, two) = (host.attach("one", &a, &[]), host.attach("two", &a, &[]));
        let group = Ipv4Addr::new(239, 1, 2, 3);
        let IpAddr::V4(at) = two.v4() else { panic!() };
        let member = two.container.run(|| {
            let member = UdpSocket::bind((group, 7000)).unwrap();
            member.join_multicast_v4(&group, &at).unwrap();
            member
        });
        let member = member.unwrap();
        member.set_read_timeout(Some(LONG)).unwrap();
        let sender = one.container.run(|| UdpSocket::bind("0.0.0.0:7001").unwrap()).unwrap();
        sender.send_to(b"hello", (group, 7000)).unwrap();
        let (_, from) = member.recv_from(&mut [0; 16]).unwrap();
        assert_eq!(from.ip(), one.v4(), "{on}");
    }
}

/// CVE-2024-32473.
#[test]
fn an_ipv4_network_leaves_no_ipv6_in_the_container() {
    let host = Host::connected();
    let guest = host.attach("one", &rnet("a", &A[..1]), &[]);
    let mut netlink = inside(guest.netns());
    let eth0 = netlink.link("eth0").unwrap().unwrap().index;
    let addresses = netlink.addresses(Some(eth0)).unwrap();
    assert_eq!(
        addresses.iter().map(|found| found.address.to_string()).collect::<Vec<_>>(),
        ["172.18.0.2/16"]
    );
    assert_eq!(netlink.sysctl("ipv6/conf/eth0/disable_ipv6").unwrap().as_deref(), Some("1"));
    // A second network with IPv6 on the same container is another interface.
    let who = guest.who.clone().ifname("eth1");
    host.add("rnet", &who, &rnet("b", &B));
    assert_eq!(netlink.sysctl("ipv6/conf/eth0/disable_ipv6").unwrap().as_deref(), Some("1"));
    assert_eq!(netlink.sysctl("ipv6/conf/eth1/disable_ipv6").unwrap().as_deref(), Some("0"));
}

#[test]
fn no_link_of_rnet_believes_router_advertisements() {
    let host = Host::connected();
    let guest = host.attach("one", &rnet("a", &A), &[]);
    assert_eq!(host.sysctl("ipv6/conf/rnet-a/accept_ra").as_deref(), Some("0"));
    // The port is the bridge's from its birth and has no address; what the ruleset drops never comes so far.
    let mut netlink = host.netlink();
    let port = netlink.link(&guest.port()).unwrap().unwrap();
    assert!(port.master.is_some());
    assert_eq!(netlink.addresses(Some(port.index)).unwrap(), []);
}

/// A router outside that advertises itself, and the host that believes it.
struct Router<'a> {
    host: &'a Host,
    outside: &'a Outside,
}

impl Router<'_> {
    /// Advertises the router of this address until the host has a default route by it; false if that does not happen.
    fn becomes_default(&self, router: &str) -> bool {
        let frames = Frames::on(self.outside.netns(), "eth0").unwrap();
        let frame = self.advertisement(router.parse().unwrap());
        for _ in 0..100 {
            if self.is_default(router) {
                return true;
            }
            frames.send(&frame).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        self.is_default(router)
    }

    fn advertisement(&self, from: Ipv6Addr) -> Vec<u8> {
        let mac = mac(self.outside.netns(), "eth0");
        let to = "ff02::1".parse().unwrap();
        let message = frame::icmpv6(from, to, 134, &frame::router_advertisement(1800));
        frame::ethernet([0x33, 0x33, 0, 0, 0, 1], mac, 0x86dd, &frame::ipv6(from, to, 58, &message))
    }

    fn is_default(&self, router: &str) -> bool {
        let routes = self.host.netlink().routes().unwrap();
        let by_it = |route: &netlink::Route| route.gateway == Some(router.parse().unwrap());
        routes.iter().any(|route| route.destination.prefix() == 0 && by_it(route))
    }

    fn accept_ra(&self) -> Option<String> {
        self.host.sysctl(&format!("ipv6/conf/{}/accept_ra", self.outside.link()))
    }
}

/// Whether this kernel can forward for some interfaces only (Linux 6.17).
fn forwards_per_interface(host: &Host) -> bool {
    host.sysctl("ipv6/conf/all/force_forwarding").is_some()
}

/// Forwarding must not cost the host its routes by router advertisement, neither those that it has nor those to come.
#[test]
fn the_host_still_takes_advertisements_on_its_uplink() {
    for (plugin, config) in [("rnet", rnet("a", &[A[1]])), ("bridge", bridge("a", &[A[1]]))] {
        let host = Host::new();
        let outside = host.outside(&["fd77::/64".parse().unwrap()]).unwrap();
        let router = Router { host: &host, outside: &outside };
        assert!(router.becomes_default("fe80::1"), "the advertisement is good");

        let (_container, who) = host.container("c1");
        let said = host.cni("ADD", plugin, &who, &config);

        assert_eq!(said.status, 0, "{said:?}");
        assert!(router.is_default("fe80::1"), "{plugin}: the route that was there is gone");
        assert!(router.becomes_default("fe80::2"), "{plugin}: a new router is not believed");
        let changes = format!("net.ipv6.conf.{}.accept_ra=2", outside.link());
        let (setting, told) = if forwards_per_interface(&host) { ("1", false) } else { ("2", true) };
        assert_eq!(router.accept_ra().as_deref(), Some(setting));
        assert_eq!(said.stderr.contains(&changes), told, "{said:?}");
    }
}

/// An administrator who wants to decide about the uplink is asked to, if the kernel needs it.
#[test]
fn an_uplink_is_not_changed_if_the_network_forbids_it() {
    let host = Host::new();
    let outside = host.outside(&["fd77::/64".parse().unwrap()]).unwrap();
    let router = Router { host: &host, outside: &outside };
    assert!(router.becomes_default("fe80::1"));
    let (_container, who) = host.container("c1");

    let said = host.cni("ADD", "rnet", &who, &with(&rnet("a", &[A[1]]), json!({"uplinkAcceptRA": false})));

    match forwards_per_interface(&host) {
        true => drop(said.json()),
        false => {
            let (code, message) = said.refusal();
            assert_eq!(code, 50);
            assert!(message.ends_with("hint: sysctl -w net.ipv6.conf.out0.accept_ra=2"), "{message}");
        }
    }
    assert_eq!(router.accept_ra().as_deref(), Some("1"));
    assert!(router.is_default("fe80::1"));
}

/// `accept_ra` is 1 on every interface by default: it says nothing about where a route comes from.
#[test]
fn a_static_default_route_is_no_reason_to_refuse_ipv6_or_to_change_the_uplink() {
    for (plugin, config) in [("rnet", rnet("a", &A)), ("bridge", bridge("a", &A))] {
        let host = Host::new();
        let outside = host.outside(&["fd77::/64".parse().unwrap()]).unwrap();
        host.default_route_via(&outside).unwrap();
        let router = Router { host: &host, outside: &outside };
        assert_eq!(router.accept_ra().as_deref(), Some("1"));

        host.add(plugin, &host.container("c1").1, &config);

        assert_eq!(router.accept_ra().as_deref(), Some("1"), "{plugin}");
        assert!(router.is_default("fd77::2"), "{plugin}");
    }
}

#[test]
fn endpoints_with_isolated_ports_reach_the_gateway_only() {
    for &on in bridge_filter_settings() {
        let host = Host::connected();
        host.set_bridge_netfilter(on);
        let a = with(&rnet("a", &A), json!({"portIsolation": true}));
        let (one, two) = (host.attach("one", &a, &[]), host.attach("two", &a, &[]));
        assert_eq!(ping(one.netns(), two.v4(), SOON).unwrap(), None);
        assert_eq!(ping(one.netns(), two.v6(), SOON).unwrap(), None);
        assert!(ping(one.netns(), "172.18.0.1".parse().unwrap(), LONG).unwrap().is_some());
        assert!(ping(one.netns(), host.neighbour().address(), LONG).unwrap().is_some());
    }
}

/// S3: every one of them at the first attempt.
#[test]
fn pings_are_answered_at_once() {
    let host = Host::connected();
    let a = rnet("a", &A);
    let (one, two) = (host.attach("one", &a, &[]), host.attach("two", &a, &[]));
    let (here, outside) = (host.netns(), host.neighbour().addresses());
    for (from, to) in [
        (here, one.v4()),
        (here, two.v6()),
        (one.netns(), two.v4()),
        (two.netns(), one.v6()),
        (one.netns(), "172.18.0.1".parse().unwrap()),
        (two.netns(), "fd18::1".parse().unwrap()),
        (one.netns(), outside[0].ip()),
        (one.netns(), outside[1].ip()),
    ] {
        assert!(ping(from, to, LONG).unwrap().is_some(), "{to}");
    }
}
