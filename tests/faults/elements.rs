//! Another program removes or replaces elements of the ruleset or the bridge, or turns forwarding off: the next ADD mends it.

use netlink::Request;
use nft::{Element, Owner};

use crate::common::{Guest, Host, Network, SOON};
use crate::judge;

const SUBNET: &str = "10.7.0.0/24";
const OTHER: &str = "10.8.0.0/24";

/// Which elements another program removes.
type Removed = (&'static str, fn(&Element) -> bool);

const REMOVED: [Removed; 7] = [
    ("a published port", |element| matches!(element, Element::Publish { .. })),
    ("what may be reached", |element| matches!(element, Element::Published { .. })),
    ("masquerade", |element| matches!(element, Element::Masquerade { .. })),
    ("isolation", |element| matches!(element, Element::Isolated { .. })),
    ("a guarded port", |element| matches!(element, Element::Port { .. })),
    ("a guarded address", |element| matches!(element, Element::PortAddress { .. })),
    ("a home", |element| matches!(element, Element::Home { .. })),
];

#[test]
fn an_element_that_was_removed_comes_back_with_the_next_add_of_any_network() {
    for (what, is_removed) in REMOVED {
        eprintln!("{what}");
        let host = host();
        let (old, new) = (guest(&host, "old", 8080), stranger(&host, "new", 8081));
        old.add().unwrap();
        remove(&host, is_removed);
        assert_ne!(judge::elements(&host), Vec::<String>::new(), "{what} was not removed");

        new.add().unwrap();

        assert_eq!(judge::isolated(&host, &old, &[&new]), Vec::<String>::new(), "{what}");
    }
}

#[test]
fn a_port_that_leads_elsewhere_leads_to_its_container_again() {
    let host = host();
    let (old, new) = (guest(&host, "old", 8080), guest(&host, "new", 8081));
    old.add().unwrap();
    host.firewall(|firewall| {
        let is_port =
            |element: &Element| matches!(element, Element::Publish { protocol: nft::Protocol::Tcp, .. });
        let found = firewall.elements().unwrap().into_iter().find(|(element, _)| is_port(element)).unwrap();
        let Element::Publish { host, protocol, host_port, to } = found.0 else { panic!() };
        let owner = found.1.unwrap();
        firewall.remove(&[(Element::Publish { host, protocol, host_port, to }, owner)]).unwrap();
        let elsewhere = (to.ip(), 4711).into();
        firewall.add(&[(Element::Publish { host, protocol, host_port, to: elsewhere }, owner)]).unwrap();
    });
    assert!(!old.answers_within(SOON));

    new.add().unwrap();

    assert!(old.answers());
}

#[test]
fn an_element_without_its_owner_gets_it_again() {
    let host = host();
    let (old, new) = (guest(&host, "old", 8080), guest(&host, "new", 8081));
    // With the last network the tables go, whatever is in them.
    let resident = stranger(&host, "resident", 9000);
    resident.add().unwrap();
    let before = host.state(&[&old, &new]);
    old.add().unwrap();
    let nobody = Owner::new("0000000000000000").unwrap();
    host.firewall(|firewall| {
        let found = firewall.elements().unwrap();
        let masquerade = found.into_iter().find(|(element, _)| matches!(element, Element::Masquerade { .. }));
        let (element, owner) = masquerade.unwrap();
        firewall.remove(&[(element.clone(), owner.unwrap())]).unwrap();
        firewall.add(&[(element, nobody)]).unwrap();
    });

    new.add().unwrap();

    new.del().unwrap();
    old.del().unwrap();
    before.assert_same(&host.state(&[&old, &new]));
}

#[test]
fn check_says_what_is_missing_and_its_hint_is_true() {
    let host = host();
    let (old, new) = (guest(&host, "old", 8080), guest(&host, "new", 8081));
    old.add().unwrap();
    let check = |guest: &Guest<'_>| guest.call("CHECK", "rnet", guest.remembered().as_ref(), None).run();
    assert_eq!(check(&old).status, 0, "{:?}", check(&old));
    remove(&host, |element| matches!(element, Element::Isolated { .. }));

    let (_, said) = check(&old).refusal();
    new.add().unwrap();

    assert!(said.contains("the next container that is added"), "{said}");
    assert_eq!(check(&old).status, 0, "{:?}", check(&old));
}

#[test]
fn a_bridge_that_was_deleted_comes_back_with_the_containers_that_were_on_it() {
    let host = host();
    let (old, new) = (guest(&host, "old", 8080), guest(&host, "new", 8081));
    let before = host.state(&[&old, &new]);
    old.add().unwrap();
    let port = port_of(&old);
    let bridge = host.link(&mynet().bridge()).unwrap();
    host.run(|| netlink::delete_link(bridge.index, &[], true).unwrap()).unwrap();
    assert!(!old.answers_within(SOON));

    new.add().unwrap();

    assert_eq!(port_of(&old), port, "its flags");
    assert_eq!(judge::isolated(&host, &old, &[]), Vec::<String>::new());
    assert_eq!(judge::isolated(&host, &new, &[]), Vec::<String>::new());
    new.del().unwrap();
    old.del().unwrap();
    before.assert_same(&host.state(&[&old, &new]));
}

/// As systemd-networkd does with a catch-all .network: the bridge loses its address, and its ports.
#[test]
fn a_bridge_that_another_program_took_over_gets_its_address_and_ports_back() {
    let host = host();
    let (old, new) = (guest(&host, "old", 8080), guest(&host, "new", 8081));
    old.add().unwrap();
    let bridge = host.link(&mynet().bridge()).unwrap();
    let mut netlink = host.netlink();
    let port = netlink.links().unwrap().into_iter().find(|link| link.master == Some(bridge.index)).unwrap();
    let address = "10.7.0.1/24".parse().unwrap();
    let (index, name) = (bridge.index, bridge.name.clone());
    netlink
        .send(&[
            Request::LinkMaster { index: port.index, name: port.name, master: None },
            Request::AddressDel { index, name, address },
        ])
        .unwrap();

    new.add().unwrap();

    assert_eq!(judge::isolated(&host, &old, &[]), Vec::<String>::new());
    assert_eq!(judge::isolated(&host, &new, &[]), Vec::<String>::new());
}

#[test]
fn forwarding_that_was_turned_off_is_on_again_after_the_next_add() {
    for (network, keys) in [
        (Network::rnet("mynet", SUBNET), &["ipv4/ip_forward"][..]),
        (Network::rnet("mynet", SUBNET), &["ipv4/conf/all/forwarding"]),
        (Network::chain("mynet", SUBNET), &["ipv4/ip_forward"]),
    ] {
        for key in keys {
            let host = Host::with_outside();
            judge::know_the_way(&host, &[SUBNET]);
            let (old, new) =
                (host.guest(&network, "old").publishing(8080), host.guest(&network, "new").publishing(8081));
            old.add().unwrap();
            host.set_sysctl(key, "0");

            new.add().unwrap();

            assert_eq!(host.sysctl("ipv4/ip_forward").as_deref(), Some("1"), "{key}");
            assert_eq!(judge::connected(&host, &old), Vec::<String>::new(), "{key}");
        }
    }
}

#[test]
fn so_is_that_of_ipv6() {
    let mut network = Network::rnet("mynet", SUBNET);
    network.list["plugins"][0]["ipam"]["ranges"] =
        serde_json::json!([[{"subnet": SUBNET}], [{"subnet": "fd07::/64"}]]);
    let host = Host::with_outside();
    let (old, new) = (host.guest(&network, "old"), host.guest(&network, "new"));
    old.add().unwrap();
    let off = |key: &str| host.sysctl(key).is_some().then(|| host.set_sysctl(key, "0"));
    off("ipv6/conf/all/forwarding");
    off("ipv6/conf/all/force_forwarding");

    new.add().unwrap();

    let bridge = host.link(&network.bridge()).unwrap();
    assert_eq!(bridge.forwards_v6, Some(true));
}

/// Linux 6.17: `all` stays at 1, and writing 1 again would change nothing.
#[test]
fn ipv6_is_forwarded_again_by_every_interface_after_all_forwarding_was_set_to_0() {
    let mut network = Network::rnet("mynet", SUBNET);
    network.list["plugins"][0]["ipam"]["ranges"] = serde_json::json!([[{"subnet": "fd07::/64"}]]);
    let host = Host::with_outside();
    let (old, new) = (host.guest(&network, "old"), host.guest(&network, "new"));
    host.set_sysctl("ipv6/conf/all/forwarding", "0");
    old.add().unwrap();
    ["1", "0"].iter().for_each(|value| host.set_sysctl("ipv6/conf/all/forwarding", value));

    new.add().unwrap();

    // Answers come in by another interface than the bridge.
    let forwards = |key: &str| host.sysctl(&format!("ipv6/conf/{key}")).as_deref() == Some("1");
    assert!(forwards("all/forwarding") || forwards("lo/force_forwarding"));
}

/// A host whose machine outside knows the way to the containers of both networks.
fn host() -> Host {
    let host = Host::with_outside();
    judge::know_the_way(&host, &[SUBNET, OTHER]);
    host
}

fn mynet() -> Network {
    Network::rnet("mynet", SUBNET)
}

fn guest<'h>(host: &'h Host, name: &str, port: u16) -> Guest<'h> {
    host.guest(&mynet(), name).publishing(port)
}

fn stranger<'h>(host: &'h Host, name: &str, port: u16) -> Guest<'h> {
    host.guest(&Network::rnet("other", OTHER), name).publishing(port)
}

fn remove(host: &Host, is_removed: fn(&Element) -> bool) {
    host.firewall(|firewall| {
        let found = firewall.elements().unwrap().into_iter().filter(|(element, _)| is_removed(element));
        let found: Vec<_> = found.filter_map(|(element, owner)| Some((element, owner?))).collect();
        firewall.remove(&found).unwrap();
    });
}

/// What the kernel says of the port of a container, in the lines of a snapshot; its bridge has another index by now.
fn port_of(guest: &Guest<'_>) -> Vec<String> {
    let name = store::Key::new(guest.network.name(), &guest.who.id, &guest.who.ifname).link(0);
    guest.host.state(&[]).lines().iter().filter(|line| line.contains(&name)).cloned().collect()
}
