//! The host's 127.0.0.1 answers only the host, also after the ruleset was flushed (CVE-2020-8558).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use netlink::Netns;
use netns_fixtures::{Frames, UdpEcho, bridge_filter_settings, frame, wait_for_carrier};
use serde_json::json;

use crate::common::{Host, LONG, bridge, differences, inside, mac, publishing, rnet, wait_until, with};
use crate::packets::{A, B, GATEWAY_A, HOST, all_get, echo, echoes, page, to};

/// A service that the host has for itself.
const SECRET: u16 = 6000;
/// The port that an attacker sends from.
const FORGED: u16 = 7777;

fn v4(ip: &str) -> Ipv4Addr {
    ip.parse().unwrap()
}

/// What the host has for itself, and what it has for everybody.
struct Services<'h> {
    netns: &'h Netns,
    secret: UdpEcho,
    open: UdpEcho,
}

impl<'h> Services<'h> {
    fn of(netns: &'h Netns) -> Self {
        Self { netns, secret: echo(netns, "0.0.0.0", SECRET), open: echo(netns, "0.0.0.0", 6001) }
    }
}

/// Sends a datagram for the host's 127.0.0.1 through the eth0 of `from`, and an honest one for the host behind it.
/// True if the first arrived.
fn gets_through(
    from: &Netns,
    own: IpAddr,
    host_mac: [u8; 6],
    gateway: &str,
    Services { netns, secret, open }: &Services<'_>,
) -> bool {
    let IpAddr::V4(own) = own else { panic!("{own}") };
    let mac = mac(from, "eth0");
    let frames = Frames::on(from, "eth0").unwrap();
    let datagram = |to: Ipv4Addr, port: u16| {
        let datagram = frame::udp((own.into(), FORGED), (to.into(), port), b"let me in, this is long enough");
        frame::ethernet(host_mac, mac, 0x0800, &frame::ipv4(own, to, 17, &datagram))
    };
    let secrets = || secret.peers().iter().filter(|peer| peer.port() == FORGED).count();
    let (before, opens) = (secrets(), open.peers().len());
    for loopback in ["127.0.0.1", "127.1.2.3"] {
        let frame = datagram(v4(loopback), SECRET);
        frames.send(&frame).unwrap();
        // Behind tags of VLAN 0 the host takes it as well.
        for tags in [&[0x81, 0, 0, 0][..], &[0x88, 0xa8, 0, 0], &[0x81, 0, 0, 0, 0x81, 0, 0, 0]] {
            frames.send(&[&frame[..12], tags, &frame[12..]].concat()).unwrap();
        }
    }
    frames.send(&datagram(v4(gateway), open.address().port())).unwrap();
    // The honest one was sent last: when it is there, the others would be too.
    wait_until("the honest datagram arrives", || open.peers().len() > opens);
    // The secret service has seen whatever came before one that it answers.
    assert!(echoes(netns, to("127.0.0.1", SECRET), LONG));
    secrets() > before
}

#[test]
fn neither_containers_nor_neighbours_reach_it_also_after_a_flush() {
    let host = Host::connected();
    // One was there before the loopback was opened, one came when it was open.
    let early = host.attach("early", &rnet("a", &A), &[]);
    let web = host.attach("web", &rnet("a", &A), &[("", 8080, 80, "tcp")]);
    let late = host.attach("late", &rnet("a", &A), &[]);
    let other = host.attach("other", &rnet("b", &B), &[]);
    let here = host.netns();
    let services = Services::of(here);
    assert_eq!(host.sysctl("ipv4/conf/rnet-a/route_localnet").as_deref(), Some("1"));
    let snapshot = host.snapshot();
    let hooked: Vec<_> = snapshot.lines().iter().filter(|line| line.starts_with("qdisc ")).collect();
    assert!(hooked.len() == 1 && hooked[0].starts_with("qdisc rnet-a: ingress"), "{hooked:?}");
    let attack = |when: &str| {
        for guest in [&web, &early, &late] {
            let through =
                gets_through(guest.netns(), guest.v4(), mac(host.netns(), "rnet-a"), GATEWAY_A[0], &services);
            assert!(!through, "{when}: {}, of the publishing network", guest.who.id);
        }
        let from_other =
            gets_through(other.netns(), other.v4(), mac(host.netns(), "rnet-b"), "172.19.0.1", &services);
        assert!(!from_other, "{when}: a container of another network");
        let out = host.neighbour().link();
        let from_outside = gets_through(
            host.neighbour().netns(),
            host.neighbour().address(),
            mac(host.netns(), out),
            HOST[0],
            &services,
        );
        assert!(!from_outside, "{when}: a neighbour");
    };
    let _server = web.serves(80);
    for (&on, more) in bridge_filter_settings().iter().zip([8081, 8082]) {
        host.set_bridge_netfilter(on);
        attack("with the ruleset");
        // The rule that marks answers to the host's own clients is still there: it must mark nothing else.
        let flush = ["flush", "chain", "inet", "rnet", "loopback-guard"];
        assert!(host.command("nft").args(flush).status().unwrap().success());
        attack("without the first guard");
        host.flush();
        attack("after a flush");
        // The next container that publishes brings the ruleset back.
        host.attach(&format!("more{more}"), &rnet("a", &A), &[("", more, 80, "tcp")]);
        attack("restored");
        all_get("web", &[("the host's own client", here, to("127.0.0.1", 8080))]);
    }
}

/// The same attack where the setting stands without guards: it does get through.
#[test]
fn without_guards_they_would_reach_it() {
    let host = Host::new();
    let (container, who) = host.container("c1");
    let result = host.add("bridge", &who, &with(&bridge("n", &A[..1]), json!({"ipMasq": false})));
    let veth = result["interfaces"][1]["name"].as_str().unwrap();
    assert!(wait_for_carrier(host.netns(), veth, LONG).unwrap());
    host.firewall(|firewall| firewall.drop_tables().unwrap());
    host.set_sysctl("ipv4/conf/br0/route_localnet", "1");
    let here = host.netns();
    let services = Services::of(here);
    let own = crate::common::address(&result, false);
    assert!(gets_through(container.netns(), own, mac(host.netns(), "br0"), GATEWAY_A[0], &services));
}

/// A container on a pair of its own, as the plugin `ptp` makes it: there is no bridge whose ports could be guarded.
#[test]
fn a_container_without_a_bridge_does_not_reach_it_either() {
    let host = Host::new();
    let (container, who) = host.container("c1");
    let pair = netlink::Veth {
        name: "p2p0",
        mac: None,
        mtu: None,
        master: None,
        peer: "eth0",
        peer_mac: None,
        peer_netns: container.netns(),
        up: true,
    };
    host.netlink().create_veth(&pair).unwrap();
    for (mut netlink, link, address) in
        [(host.netlink(), "p2p0", "172.20.0.1/24"), (inside(container.netns()), "eth0", "172.20.0.2/24")]
    {
        let (index, name) = (netlink.link(link).unwrap().unwrap().index, link.to_owned());
        let address = address.parse().unwrap();
        let add = netlink::Request::AddressAdd { index, name: name.clone(), address };
        netlink.send(&[add, netlink::Request::LinkUp { index, name }]).unwrap();
    }
    assert!(wait_for_carrier(host.netns(), "p2p0", LONG).unwrap());
    let previous = json!({"cniVersion": "1.0.0", "ips": [{"address": "172.20.0.2/24"}]});
    let portmap = json!({"cniVersion": "1.0.0", "name": "n", "type": "portmap", "prevResult": previous});
    host.add("portmap", &who, &publishing(&portmap, &[("", 8080, 80, "tcp")]));
    assert_eq!(host.sysctl("ipv4/conf/p2p0/route_localnet").as_deref(), Some("1"));
    let here = host.netns();
    let _server = crate::packets::serve(container.netns(), "0.0.0.0", 80, "web");
    all_get("web", &[("the host", here, to("127.0.0.1", 8080))]);

    host.firewall(|firewall| firewall.drop_tables().unwrap());

    let services = Services::of(here);
    let own = "172.20.0.2".parse().unwrap();
    let mac = mac(host.netns(), "p2p0");
    assert!(!gets_through(container.netns(), own, mac, "172.20.0.1", &services));
}

#[test]
fn it_is_open_only_while_a_port_is_published_there() {
    let host = Host::connected();
    let a = rnet("a", &A);
    let local = || host.sysctl("ipv4/conf/rnet-a/route_localnet").unwrap();
    let peer = host.attach("peer", &a, &[]);
    assert_eq!(local(), "0");
    let before = host.snapshot();
    let one = host.attach("one", &a, &[("127.0.0.1", 8080, 80, "tcp")]);
    let two = host.attach("two", &a, &[("", 8081, 80, "udp")]);
    let three = host.attach("three", &a, &[(HOST[0], 8082, 80, "tcp")]);
    assert_eq!(local(), "1");
    one.detach();
    assert_eq!(local(), "1");
    two.detach();
    assert_eq!(local(), "0");
    three.detach();
    let left = differences(&before, &host.snapshot());
    assert!(left.is_empty(), "{left:#?}");
    peer.detach();
}

/// A service on the host's 127.0.0.1 and a published port of the same number are two things.
#[test]
fn a_published_port_hides_no_service_on_another_port() {
    let host = Host::connected();
    let web = host.attach("web", &rnet("a", &A), &[("", 8080, 80, "tcp")]);
    let _server = web.serves(80);
    let here = host.netns();
    let _own = crate::packets::serve(here, "127.0.0.1", 8081, "the host's");
    let at = |port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    assert_eq!(page(here, at(8081), LONG).as_deref(), Some("the host's"));
    all_get("web", &[("published", here, to("127.0.0.1", 8080))]);
}
