//! What a container's port may send: the attack matrix with raw frames, and honest traffic beside it.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use netlink::{Netns, Request};
use netns_fixtures::frame::{Arp, BROADCAST, ethernet, icmpv6, ipv4, ipv6, router_advertisement, udp};
use netns_fixtures::{Frames, bridge_filter_settings, bridge_macs, ping, wait_for_carrier};
use serde_json::json;

use crate::attacker::{ALL_NODES_V6, Attacker, FORGED, GATEWAY, NOBODY, group, trimmed};
use crate::common::{Host, LONG, SOON, inside, mac, rnet, with};
use crate::packets::{A, echo};

#[test]
fn no_attack_leaves_the_port_and_honest_frames_do() {
    for &on in bridge_filter_settings() {
        let host = Host::connected();
        let attacker = Attacker::on(&host, json!({}));
        host.set_bridge_netfilter(on);
        let came: Vec<_> = attacker
            .attacks()
            .into_iter()
            .filter(|(_, frame)| attacker.passes(frame))
            .map(|attack| attack.0)
            .collect();
        assert!(came.is_empty(), "{came:?} came through, bridge netfilter {on}");
        let stopped: Vec<_> = attacker
            .honest()
            .into_iter()
            .filter(|(_, frame)| !attacker.passes(frame))
            .map(|one| one.0)
            .collect();
        assert!(stopped.is_empty(), "{stopped:?} did not come through, bridge netfilter {on}");
    }
}

/// Without the guard they come through: the frames are good.
#[test]
fn without_the_guard_the_same_attacks_arrive() {
    let host = Host::connected();
    let attacker = Attacker::on(&host, json!({"spoofGuard": false}));
    // A bridge forwards neither its own group's frames nor packets without a whole header.
    let never = ["spanning tree", "bridge group", "an IPv4 frame that ends in its header"];
    let is_good = |name: &str| !never.iter().any(|never| name.contains(never));
    let attacks = attacker.attacks().into_iter().filter(|(name, _)| is_good(name));
    let stopped: Vec<_> =
        attacks.filter(|(_, frame)| !attacker.passes(frame)).map(|attack| attack.0).collect();
    assert!(stopped.is_empty(), "{stopped:?} did not come through");
}

#[test]
fn forged_arp_moves_neither_the_host_nor_a_neighbour() {
    let host = Host::connected();
    let attacker = Attacker::on(&host, json!({}));
    assert!(ping(host.netns(), attacker.victim.v4(), LONG).unwrap().is_some());
    let mac_of = |netns, link: &str, ip: IpAddr| {
        let mut netlink = inside(netns);
        let index = netlink.link(link).unwrap().unwrap().index;
        let found = netlink.neighbours(index).unwrap();
        found.into_iter().find(|found| found.0 == ip).map(|found| found.1.0)
    };
    let before = mac_of(host.netns(), "rnet-a", attacker.victim.v4()).unwrap();
    let gateway = mac_of(attacker.victim.netns(), "eth0", GATEWAY.into());

    let victim = attacker.victim_v4();
    for frame in [
        attacker.arp(attacker.mac, Arp::Reply, (attacker.mac, victim), (NOBODY, GATEWAY)),
        attacker.arp(attacker.mac, Arp::Request, (attacker.mac, victim), (NOBODY, GATEWAY)),
        attacker.arp(attacker.mac, Arp::Reply, (attacker.mac, GATEWAY), (NOBODY, victim)),
    ] {
        assert!(!attacker.passes(&frame));
    }

    assert_eq!(mac_of(host.netns(), "rnet-a", attacker.victim.v4()), Some(before));
    assert_eq!(mac_of(attacker.victim.netns(), "eth0", GATEWAY.into()), gateway);
    assert!(ping(host.netns(), attacker.victim.v4(), LONG).unwrap().is_some());
}

/// A bridge takes most frames to its group for itself: they teach it where a MAC lives and go up to the host as the port's.
#[test]
fn frames_to_the_bridge_group_teach_and_reach_nobody() {
    let host = Host::connected();
    let attacker = Attacker::on(&host, json!({}));
    let service = echo(host.netns(), "0.0.0.0", 7000);
    host.set_sysctl("ipv4/conf/all/rp_filter", "0");
    let (all_nodes, victim) = (ALL_NODES_V6, attacker.victim_v4());
    let advertisement = icmpv6(attacker.link_local, all_nodes, 134, &router_advertisement(1800));
    let datagram = udp((victim.into(), 5), (GATEWAY.into(), 7000), b"forged");
    let victims = mac(attacker.victim.netns(), "eth0");
    for last in 0..16 {
        for (kind, payload) in [
            (0x88cc, b"link layer discovery, long enough to be one".to_vec()),
            (0x86dd, ipv6(attacker.link_local, all_nodes, 58, &advertisement)),
            (0x0800, ipv4(victim, GATEWAY, 17, &datagram)),
        ] {
            for from in [victims, attacker.mac] {
                attacker.sends.send(&ethernet(group(last), from, kind, &payload)).unwrap();
            }
        }
    }
    assert!(!attacker.passes(&attacker.datagram(FORGED, attacker.ip, 7, b"the last")));

    // The victim has said nothing since then from which the bridge could learn again where it is.
    let secret = b"for the victim's ears alone";
    host.run(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(secret, (victim, 9)).unwrap()).unwrap();
    assert!(attacker.hears.wait_for(LONG, |heard| heard.ends_with(secret)).unwrap().is_some());
    let routes = host.netlink().routes().unwrap();
    let by_the_attacker = routes.iter().filter(|route| route.gateway == Some(attacker.link_local.into()));
    assert_eq!(by_the_attacker.collect::<Vec<_>>(), Vec::<&netlink::Route>::new());
    assert!(service.peers().is_empty());
}

/// A program that is in the container's namespace early, and takes its interface up, meets a port that is down.
#[test]
fn a_port_comes_up_when_its_guard_is_complete() {
    for (step, comes_up) in [("add.veth", false), ("add.conntrack", false), ("add.port", true)] {
        let host = Host::connected();
        let (container, who) = host.container("early");
        let add = host.call("ADD", "rnet", &who).input(rnet("a", &A).to_string());

        let died = add.set("RNET_FAILPOINT", &format!("{step}:abort")).run();

        assert!(died.status > 128, "{died:?}");
        take(container.netns(), true);
        let eth0 = inside(container.netns()).link("eth0").unwrap().unwrap();
        let port = host.netlink().link_by_index(eth0.peer.unwrap()).unwrap().unwrap();
        assert_eq!(port.up, comes_up, "{step}");
        let elements = host.elements();
        let guards = elements.iter().filter(|(element, _)| element.to_string().contains(&port.name));
        assert_eq!(guards.count() > 0, step != "add.veth", "{step}: {elements:?}");
    }
}

/// Whether DEL dies between the rules and the link, or is only slow there.
#[test]
fn a_container_that_leaves_is_not_heard_without_its_guard() {
    let host = Host::connected();
    let attacker = Attacker::on(&host, json!({}));
    let port = attacker.guest.port();
    let forged = ethernet(BROADCAST, attacker.mac, 0x0806, &attacker.forged_arp());
    let del = attacker.guest.call("DEL", "rnet", None, None);

    let died = del.set("RNET_FAILPOINT", "del.rules:abort").run();

    assert!(died.status > 128, "{died:?}");
    let left = host.elements();
    assert!(!left.iter().any(|(element, _)| element.to_string().contains(&port)), "{left:?}");
    attacker.sends.send(&forged).unwrap();
    assert_eq!(attacker.hears.wait_for(SOON, |heard| trimmed(heard) == trimmed(&forged)).unwrap(), None);
    // The container takes the carrier and gives it again, at which a port forwards anew.
    take(attacker.guest.netns(), false);
    take(attacker.guest.netns(), true);
    assert!(!wait_for_carrier(host.netns(), &port, SOON).unwrap());
    let again = Frames::on(attacker.guest.netns(), "eth0").unwrap();
    again.send(&forged).unwrap();
    assert_eq!(attacker.hears.wait_for(SOON, |heard| trimmed(heard) == trimmed(&forged)).unwrap(), None);

    attacker.guest.detach();
    assert!(host.link(&port).is_none());
}

/// Takes the container's interface up or down, as any program inside may.
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
        let host = Host::connected();
        let attacker = Attacker::on(&host, guard);
        for last in 0..=255 {
            let mac = [2, 0xaa, 0, 0, 0, last];
            attacker.sends.send(&attacker.datagram(mac, attacker.ip, 7, b"flood")).unwrap();
        }
        assert!(ping(attacker.victim.netns(), attacker.guest.v4(), LONG).unwrap().is_some());
        let known = bridge_macs(host.netns()).unwrap();
        assert_eq!(known.iter().filter(|mac| mac.starts_with("02:aa:")).count(), expected);
    }
}

/// A MAC that a runtime asks for is the container's own.
#[test]
fn a_given_mac_is_honest() {
    let host = Host::connected();
    let network = rnet("a", &A);
    let given = with(&network, json!({"runtimeConfig": {"mac": "02:00:00:00:00:09"}}));
    let (one, two) = (host.attach("one", &given, &[]), host.attach("two", &network, &[]));
    for ip in one.both() {
        assert!(ping(two.netns(), ip, LONG).unwrap().is_some(), "{ip}");
    }
    assert!(ping(one.netns(), host.neighbour().address(), LONG).unwrap().is_some());
}

/// Who sends in very many names fills the list of them, and nothing comes through all the same.
#[test]
fn a_full_list_of_refused_sources_lets_nothing_pass() {
    let host = Host::connected();
    let attacker = Attacker::on(&host, json!({}));
    for nth in 0..1500u32 {
        let forged = Ipv4Addr::from_bits(0x0b00_0000 + nth);
        attacker.sends.send(&attacker.datagram(attacker.mac, forged, 7, b"flood")).unwrap();
    }
    assert!(!attacker.passes(&attacker.datagram(attacker.mac, Ipv4Addr::new(11, 1, 0, 0), 7, b"the last")));

    let refused = host.run(|| nft::Firewall::open().unwrap().refused().unwrap()).unwrap();
    let (of_attacker, of_victim) = (&refused[&attacker.guest.port()], &refused[&attacker.victim.port()]);
    assert!(of_attacker.packets > 1500 && of_attacker.sources.len() == 1024, "{}", of_attacker.sources.len());
    assert_eq!((of_victim.packets, of_victim.sources.len()), (0, 0));
}
