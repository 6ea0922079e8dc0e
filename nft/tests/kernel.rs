//! The firewall in a real kernel, each test in a network namespace of its own.
#![allow(clippy::unwrap_used)] // what is allowed in #[test] functions is allowed in their helpers

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::thread;

use netlink::Netns;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Status, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netns_fixtures::has_program;
use nft::{
    Element, Error, Firewall, Flow, LeftOut, MacCheck, Owner, Protocol, Range, Rebuilt, Ruleset, State,
    Subject,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

fn on_a_new_host<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    Netns::create().unwrap().run(test).unwrap()
}

fn owner(n: u64) -> Owner {
    Owner::new(&format!("{n:016x}")).unwrap()
}

fn publish(port: u16, to: &str) -> Element {
    Element::Publish { host: None, protocol: Protocol::Tcp, host_port: port, to: to.parse().unwrap() }
}

/// A port is not for these sources and destinations.
fn except(port: u16, sources: [&str; 2], destinations: [&str; 2]) -> Element {
    let range = |[first, last]: [&str; 2]| Range::new(first.parse().unwrap(), last.parse().unwrap()).unwrap();
    let (sources, destinations) = (range(sources), range(destinations));
    Element::Except { protocol: Protocol::Tcp, host_port: port, sources, destinations }
}

/// What portmap's condition `-s 10.0.0.0/8`, and `! -d fd00::/8`, exclude.
fn exceptions(port: u16) -> Vec<Element> {
    let (all4, all6) = (["0.0.0.0", "255.255.255.255"], ["::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]);
    vec![
        except(port, ["0.0.0.0", "9.255.255.255"], all4),
        except(port, ["11.0.0.0", "255.255.255.255"], all4),
        except(port + 1, all4, ["192.0.2.1", "192.0.2.1"]),
        except(port, all6, ["fd00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]),
        except(port + 1, ["fd00::1", "fd00::7"], ["::", "fd00::7"]),
    ]
}

fn masquerade(address: &str) -> Element {
    Element::Masquerade { address: address.parse().unwrap() }
}

/// What an ADD of a container with one published port adds.
fn one_container(n: u32, port: u16) -> Vec<(Element, Owner)> {
    let address = IpAddr::from((0xac12_0000u32 + n).to_be_bytes());
    let to = SocketAddr::new(address, 80);
    let (protocol, link, bridge) = (Protocol::Tcp, format!("veth{n:08x}"), String::from("rnet0"));
    let mac = [2, 0x42, 0xac, 0x12, (n >> 8) as u8, n as u8];
    let elements = [
        Element::Publish { host: None, protocol, host_port: port, to },
        Element::Published { to, protocol },
        Element::Masquerade { address },
        Element::Home { subnet: "172.18.0.0/16".parse().unwrap(), bridge: bridge.clone() },
        Element::Subnet { subnet: "172.18.0.0/16".parse().unwrap() },
        Element::Isolated { bridge },
        Element::Port { link: link.clone() },
        Element::PortAddress { link, mac, address },
    ];
    elements.map(|element| (element, owner(n.into()))).into()
}

/// Runs `nft`; `None` where it is not installed.
fn nft(arguments: &[&str]) -> Option<String> {
    if !has_program("nft") {
        return None;
    }
    let output = Command::new("nft").args(arguments).stdin(Stdio::null()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "nft {arguments:?}: {error}");
    Some(String::from_utf8(output.stdout).unwrap())
}

fn nft_stdin(script: &str) {
    let path = format!("/proc/self/fd/{}", 0);
    let mut child = Command::new("nft").args(["-f", &path]).stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "nft refused:\n{script}");
}

#[test]
fn a_rebuild_makes_the_constant_ruleset_and_lists_as_intended() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();

        let state = firewall.rebuild(&[], &[]).unwrap().state;

        assert_eq!(firewall.state().unwrap(), Some(state));
        if let Some(listing) = nft(&["--stateless", "list", "ruleset"]) {
            assert_eq!(listing, Ruleset::constant().to_string());
        }
    });
}

/// The same once more through nft's JSON and the types of the `nftables` crate: somebody else's reading of what we
/// wrote. (Our maps it cannot read: their data are concatenations.)
#[test]
fn the_base_chains_read_as_intended_in_nfts_json() {
    use nftables::types::{NfChainPolicy, NfChainType, NfHook};
    let wanted = [
        ("loopback-guard", NfChainType::Filter, NfHook::Prerouting, -350, 1),
        ("prerouting", NfChainType::NAT, NfHook::Prerouting, -100, 8),
        ("output", NfChainType::NAT, NfHook::Output, -100, 8),
        ("postrouting", NfChainType::NAT, NfHook::Postrouting, 100, 9),
        ("forward", NfChainType::Filter, NfHook::Forward, 0, 6),
        ("source-guard", NfChainType::Filter, NfHook::Prerouting, -350, 2),
        ("holders", NfChainType::Filter, NfHook::Prerouting, 0, 8),
        ("host-holders", NfChainType::Filter, NfHook::Output, 0, 4),
        ("untranslated", NfChainType::Filter, NfHook::Postrouting, 150, 6),
        ("resets", NfChainType::Filter, NfHook::Output, 0, 1),
    ];
    on_a_new_host(|| {
        Firewall::open().unwrap().rebuild(&[], &[]).unwrap();
        for (name, kind, hook, priority, rules) in wanted {
            let Some(json) = nft(&["-j", "list", "chain", "inet", "rnet", name]) else { return };
            let (chain, found) = chain_and_rules(&json);
            assert_eq!(
                (chain._type, chain.hook, chain.prio),
                (Some(kind), Some(hook), Some(priority)),
                "{name}"
            );
            assert_eq!((chain.policy, found), (Some(NfChainPolicy::Accept), rules), "{name}");
        }
    });
}

/// The chain and the number of its rules.
fn chain_and_rules(json: &str) -> (nftables::schema::Chain<'static>, usize) {
    use nftables::schema::{NfListObject, NfObject, Nftables};
    // Only chains and rules: the listing holds our maps too, which the crate refuses.
    let listing: serde_json::Value = serde_json::from_str(json).unwrap();
    let objects = listing["nftables"].as_array().unwrap().iter();
    let (chains, rules): (Vec<_>, Vec<_>) = objects
        .filter(|object| !object["chain"].is_null() || !object["rule"].is_null())
        .partition(|object| object["rule"].is_null());
    let chains: Nftables<'static> = serde_json::from_value(serde_json::json!({"nftables": chains})).unwrap();
    match chains.objects.first() {
        Some(NfObject::ListObject(NfListObject::Chain(chain))) => (chain.clone(), rules.len()),
        other => panic!("no chain in {other:?}"),
    }
}

#[test]
fn what_nft_lists_can_be_loaded_again_and_lists_the_same() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        let v6 = "[fd00::2]:80".parse().unwrap();
        let mut elements = one_container(2, 3344);
        elements.extend([
            (Element::Publish { host: None, protocol: Protocol::Udp, host_port: 53, to: v6 }, owner(2)),
            (Element::Home { subnet: "fd00::/64".parse().unwrap(), bridge: "rnet0".into() }, owner(2)),
            (Element::Subnet { subnet: "fd00::/64".parse().unwrap() }, owner(2)),
            (
                Element::PortAddress {
                    link: "veth1".into(),
                    mac: [2, 0x42, 1, 2, 3, 4],
                    address: "fe80::42:1ff:fe02:304".parse().unwrap(),
                },
                owner(2),
            ),
        ]);
        elements.extend(exceptions(3344).into_iter().map(|element| (element, owner(2))));
        firewall.rebuild(&elements, &[]).unwrap();
        let Some(listed) = nft(&["--stateless", "list", "ruleset"]) else { return };

        let state = firewall.state().unwrap();
        nft(&["flush", "ruleset"]);
        nft_stdin(&listed);

        assert_eq!(firewall.state().unwrap(), state, "equal rules are intact, whatever their handles");
        assert_eq!(nft(&["--stateless", "list", "ruleset"]), Some(listed));
        assert_eq!(sorted(firewall.elements().unwrap()), with_owners(&elements));
    });
}

#[test]
fn every_kind_of_element_is_read_back_with_its_owner() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        firewall.rebuild(&[], &[]).unwrap();
        let mut elements = exceptions(9000);
        for to in ["172.18.0.2:80", "[fd00::2]:80"] {
            let to: SocketAddr = to.parse().unwrap();
            let host = if to.is_ipv4() { "10.0.0.1" } else { "2001:db8::1" }.parse().unwrap();
            let subnet = if to.is_ipv4() { "172.18.0.0/16" } else { "fd00::/64" }.parse().unwrap();
            let protocol = Protocol::Sctp;
            elements.extend([
                Element::Publish { host: Some(host), protocol, host_port: 9000, to },
                Element::Publish { host: None, protocol, host_port: 9001, to },
                Element::Published { to, protocol },
                Element::MasqueradeAll { to, protocol },
                Element::Masquerade { address: to.ip() },
                Element::Home { subnet, bridge: "rnet0".into() },
                Element::Subnet { subnet },
                Element::PortAddress { link: "veth0".into(), mac: [2; 6], address: to.ip() },
            ]);
        }
        elements
            .extend([Element::Isolated { bridge: "rnet0".into() }, Element::Port { link: "veth0".into() }]);
        let elements: Vec<_> = elements.into_iter().map(|element| (element, owner(0xfeed))).collect();

        firewall.add(&elements).unwrap();

        assert_eq!(sorted(firewall.elements().unwrap()), with_owners(&elements));
        let asked: Vec<Element> = elements.iter().map(|(element, _)| element.clone()).collect();
        assert_eq!(firewall.owners(&asked).unwrap(), vec![Some(owner(0xfeed)); asked.len()]);
        firewall.remove(&elements).unwrap();
        assert_eq!(firewall.elements().unwrap(), []);
    });
}

#[test]
fn a_published_port_is_refused_to_the_second_and_told_who_has_it() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        firewall.rebuild(&[], &[]).unwrap();
        firewall.add(&[(publish(80, "172.18.0.2:80"), owner(1))]).unwrap();

        for to in ["172.18.0.3:80", "172.18.0.2:80"] {
            let claim = [(masquerade("172.18.0.3"), owner(2)), (publish(80, to), owner(2))];
            let Err(Error::Taken { element, holder }) = firewall.add(&claim) else { panic!("not refused") };
            assert_eq!((element, holder), (publish(80, to), Some(owner(1))));
        }

        let left = firewall.elements().unwrap();
        assert_eq!(left, [(publish(80, "172.18.0.2:80"), Some(owner(1)))]);
    });
}

#[test]
fn other_elements_may_be_there_and_change_hands_with_their_address() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        firewall.rebuild(&[], &[]).unwrap();
        let network = (Element::Isolated { bridge: "rnet0".into() }, owner(9));
        let stale = (masquerade("172.18.0.2"), owner(1));
        firewall.add(&[network.clone(), stale.clone()]).unwrap();
        firewall.add(std::slice::from_ref(&stale)).unwrap();

        let new = [(masquerade("172.18.0.2"), owner(2)), (network.0.clone(), owner(2))];
        firewall.add(&new).unwrap();
        firewall.remove(std::slice::from_ref(&stale)).unwrap();

        let there = [masquerade("172.18.0.2"), network.0];
        assert_eq!(firewall.owners(&there).unwrap(), [Some(owner(2)), Some(owner(9))]);
    });
}

#[test]
fn two_host_ports_may_lead_to_one_endpoint() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        firewall.rebuild(&[], &[]).unwrap();
        let before = firewall.messages();
        let mut elements = one_container(2, 80);
        elements.extend(one_container(2, 81));

        firewall.add(&elements).unwrap();

        assert_eq!(firewall.messages() - before, 1 + 8 + 1, "one batch was enough, one message for a set");
        firewall.remove(&elements).unwrap();
        assert_eq!(firewall.elements().unwrap(), []);
    });
}

#[test]
fn a_removal_leaves_alone_what_belongs_to_others() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        let (mine, other) = (publish(80, "172.18.0.2:80"), publish(81, "172.18.0.3:80"));
        firewall.rebuild(&[(mine.clone(), owner(1)), (other.clone(), owner(2))], &[]).unwrap();

        let asked = [mine, other.clone(), publish(82, "172.18.0.2:82")].map(|element| (element, owner(1)));
        firewall.remove(&asked).unwrap();

        assert_eq!(firewall.elements().unwrap(), [(other, Some(owner(2)))]);
    });
}

#[test]
fn a_flushed_ruleset_is_told_from_an_empty_one() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        let elements = one_container(2, 80);

        assert_eq!(firewall.state().unwrap(), None);
        assert!(matches!(firewall.add(&elements), Err(Error::Absent)));
        assert_eq!(firewall.owners(&[publish(80, "172.18.0.2:80")]).unwrap(), [None]);
        firewall.remove(&elements).unwrap();
        firewall.drop_tables().unwrap();
        assert_eq!(firewall.elements().unwrap(), []);

        firewall.rebuild(&elements, &[]).unwrap();
        firewall.drop_tables().unwrap();
        assert_eq!(firewall.state().unwrap(), None);
        assert!(matches!(firewall.add(&elements), Err(Error::Absent)));
    });
}

#[test]
fn elements_do_not_change_the_state_but_rules_do() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        let state = firewall.rebuild(&[], &[]).unwrap().state;
        let elements = one_container(2, 80);

        firewall.add(&elements).unwrap();
        assert_eq!(firewall.state().unwrap().as_ref(), Some(&state));
        firewall.remove(&elements).unwrap();
        assert_eq!(firewall.state().unwrap().as_ref(), Some(&state));
        assert_eq!(state.to_string().parse::<State>().unwrap(), state);

        assert_eq!(firewall.rebuild(&elements, &[]).unwrap().state, state);
    });
}

#[test]
fn whatever_nft_does_to_a_rule_changes_the_state() {
    let handle_of_drop = || {
        let listing = nft(&["-a", "list", "chain", "inet", "rnet", "forward"]).unwrap();
        let line = listing.lines().find(|line| line.contains("drop")).unwrap();
        line.rsplit("# handle ").next().unwrap().to_owned()
    };
    on_a_new_host(|| {
        if !has_program("nft") {
            return;
        }
        let mut firewall = Firewall::open().unwrap();
        type Change<'a> = (&'a str, Box<dyn Fn()>);
        let changes: [Change<'_>; 8] = [
            (
                "delete",
                Box::new(move || {
                    drop(nft(&["delete", "rule", "inet", "rnet", "forward", "handle", &handle_of_drop()]))
                }),
            ),
            (
                "replace",
                Box::new(move || {
                    drop(nft(&[
                        "replace",
                        "rule",
                        "inet",
                        "rnet",
                        "forward",
                        "handle",
                        &handle_of_drop(),
                        "accept",
                    ]))
                }),
            ),
            ("add", Box::new(|| drop(nft(&["add", "rule", "bridge", "rnet", "guard", "accept"])))),
            ("insert", Box::new(|| drop(nft(&["insert", "rule", "inet", "rnet", "forward", "accept"])))),
            ("flush chain", Box::new(|| drop(nft(&["flush", "chain", "inet", "rnet", "forward"])))),
            ("flush table", Box::new(|| drop(nft(&["flush", "table", "bridge", "rnet"])))),
            ("delete table", Box::new(|| drop(nft(&["delete", "table", "bridge", "rnet"])))),
            ("sleep", Box::new(|| drop(nft(&["add", "table", "inet", "rnet", "{ flags dormant; }"])))),
        ];
        for (name, change) in &changes {
            let state = firewall.rebuild(&[], &[]).unwrap().state;
            change();
            assert_ne!(firewall.state().unwrap(), Some(state), "{name}");
        }
    });
}

#[test]
fn the_generation_counts_everybodys_changes() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        firewall.rebuild(&[], &[]).unwrap();
        let before = firewall.generation().unwrap();
        assert_eq!(firewall.generation().unwrap(), before);

        firewall.add(&one_container(2, 80)).unwrap();

        assert_ne!(firewall.generation().unwrap(), before);
    });
}

#[test]
fn an_add_is_one_batch_of_one_message_for_each_element() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        firewall.rebuild(&[], &[]).unwrap();
        let before = firewall.messages();

        firewall.add(&one_container(2, 80)).unwrap();

        assert_eq!(firewall.messages() - before, 1 + 8 + 1);
        assert_eq!(Ruleset::constant().rules(), RULES, "rules never grow with what is added");
    });
}

/// Frozen: a rule more for every packet of every host wants a reason. (Four are for portmap's conditions.)
const RULES: usize = 74;

#[test]
fn many_elements_fit_into_one_add_and_one_rebuild() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        firewall.rebuild(&[], &[]).unwrap();
        let ports = ports(800);

        firewall.add(&ports).unwrap();
        assert_eq!(sorted(firewall.elements().unwrap()), with_owners(&ports));
        firewall.remove(&ports).unwrap();
        assert_eq!(firewall.elements().unwrap(), []);

        let many = ports_of(10_000);
        firewall.rebuild(&many, &[]).unwrap();
        assert_eq!(sorted(firewall.elements().unwrap()), with_owners(&many));
    });
}

/// Two elements for each of `n` ports of one container.
fn ports(n: u16) -> Vec<(Element, Owner)> {
    let address: IpAddr = "172.18.0.2".parse().unwrap();
    let one = |port: u16| {
        let (protocol, to) = (Protocol::Tcp, SocketAddr::new(address, port));
        [Element::Publish { host: None, protocol, host_port: port, to }, Element::Published { to, protocol }]
    };
    (1..=n).flat_map(one).map(|element| (element, owner(7))).collect()
}

fn ports_of(elements: usize) -> Vec<(Element, Owner)> {
    let mut all = ports((elements / 2 + 1) as u16);
    all.truncate(elements);
    all
}

#[test]
fn adds_and_removes_at_once_lose_nothing() {
    on_a_new_host(|| {
        Firewall::open().unwrap().rebuild(&[], &[]).unwrap();
        let one = |n: u32| {
            let mut firewall = Firewall::open().unwrap();
            for round in 0..20 {
                let elements = one_container(n, n as u16);
                firewall.add(&elements).unwrap();
                if round < 19 {
                    firewall.remove(&elements).unwrap();
                }
            }
        };

        thread::scope(|scope| (1..=8).for_each(|n| drop(scope.spawn(move || one(n)))));

        let left = Firewall::open().unwrap().elements().unwrap();
        let ports = left.iter().filter(|(element, _)| matches!(element, Element::Port { .. })).count();
        assert_eq!((ports, left.len()), (8, 8 * 5 + 3));
    });
}

#[test]
fn only_names_and_families_that_make_sense_reach_the_kernel() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        firewall.rebuild(&[], &[]).unwrap();
        for name in ["", "br*", "a b", "a\"b", "sixteen-letters-", "ü", "$x", "x;y"] {
            let element = Element::Isolated { bridge: name.into() };
            assert!(matches!(firewall.add(&[(element, owner(1))]), Err(Error::Interface { .. })), "{name}");
        }
        let mixed = Element::Publish {
            host: Some("::".parse().unwrap()),
            protocol: Protocol::Tcp,
            host_port: 80,
            to: "172.18.0.2:80".parse().unwrap(),
        };
        assert!(matches!(firewall.add(&[(mixed, owner(1))]), Err(Error::Families { .. })));
    });
}

#[test]
fn a_port_given_twice_is_a_mistake_and_in_a_rebuild_the_firsts() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        let twice = [(publish(80, "172.18.0.2:80"), owner(1)), (publish(80, "172.18.0.3:80"), owner(2))];

        let rebuilt = firewall.rebuild(&twice, &[]).unwrap();
        assert_eq!(firewall.elements().unwrap(), [(twice[0].0.clone(), Some(owner(1)))]);
        let [LeftOut { owner: second, why: Error::Taken { holder, .. }, .. }] = &rebuilt.left_out[..] else {
            panic!("{rebuilt:?}")
        };
        assert_eq!((*second, *holder), (owner(2), Some(owner(1))));
        firewall.rebuild(&[], &[]).unwrap();
        assert!(matches!(firewall.add(&twice), Err(Error::Taken { holder: None, .. })));
        assert_eq!(firewall.elements().unwrap(), []);
    });
}

#[test]
fn what_cannot_be_in_a_ruleset_is_left_out_of_a_rebuild_and_told() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        let home = |subnet: &str, bridge: &str| Element::Home {
            subnet: subnet.parse().unwrap(),
            bridge: bridge.into(),
        };
        let good = [publish(80, "172.18.0.2:80"), home("10.1.0.0/16", "br0"), home("10.1.0.0/16", "br1")];
        let bad = [
            home("10.2.0.0/16", "a*b"),
            Element::Port { link: String::new() },
            // Overlaps the first of its bridge.
            home("10.1.7.0/24", "br0"),
        ];
        let all: Vec<_> = good.iter().chain(&bad).map(|element| (element.clone(), owner(1))).collect();

        let Rebuilt { state, left_out } = firewall.rebuild(&all, &[]).unwrap();

        assert_eq!(firewall.state().unwrap(), Some(state));
        assert_eq!(left_out.into_iter().map(|left| left.element).collect::<Vec<_>>(), bad);
        let mut found: Vec<_> =
            firewall.elements().unwrap().into_iter().map(|(element, _)| element).collect();
        found.sort();
        let mut wanted = good.to_vec();
        wanted.sort();
        assert_eq!(found, wanted);
        assert_eq!(firewall.owners(&bad[..2]).unwrap(), [None, None]);
        firewall.remove(&all).unwrap();
        assert_eq!(firewall.elements().unwrap(), []);
    });
}

#[test]
fn the_socket_can_be_handed_to_another_process() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        // The kernel lists a socket from its first message on.
        firewall.generation().unwrap();
        let inode = rustix::fs::fstat(&firewall).unwrap().st_ino.to_string();
        let is_open = || {
            let sockets = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
            sockets.lines().any(|line| line.split_whitespace().last() == Some(&inode))
        };
        let handed = firewall.as_fd().try_clone_to_owned().unwrap();
        let mut other = Command::new("sleep").arg("1000").stdin(Stdio::from(handed)).spawn().unwrap();

        drop(firewall);

        assert!(is_open(), "the other process keeps it open, and waits for the kernel in our place");
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(!is_open());
    });
}

#[test]
fn stale_entries_go_and_others_stay() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        firewall.rebuild(&[], &[]).unwrap();
        let entries = [
            // (protocol, from, to, answered by): a client of host port 5353
            (UDP, "10.0.0.9:1000", "10.0.0.1:5353", "172.18.0.2:53"),
            (UDP, "10.0.0.9:1001", "10.0.0.2:5353", "172.18.0.2:53"),
            (UDP, "10.0.0.9:1002", "10.0.0.1:5354", "10.0.0.1:5354"),
            (UDP, "10.0.0.9:1003", "10.0.0.1:6000", "172.18.0.2:53"),
            (TCP, "10.0.0.9:1004", "10.0.0.1:5353", "172.18.0.2:53"),
            (TCP, "172.18.0.2:1006", "192.168.2.9:443", "192.168.2.9:443"),
            // It only passes through.
            (UDP, "10.0.0.9:1005", "192.168.2.9:5354", "192.168.2.9:5354"),
        ];
        entries.iter().for_each(track);
        let flow = Flow::To { host: Some("10.0.0.1".parse().unwrap()), port: 5353, v6: false };
        let mut asked = Vec::new();
        let mut flush = |flows: &[Flow]| {
            let is_local = |ip: IpAddr| {
                asked.push(ip);
                ip.to_string().starts_with("10.")
            };
            firewall.forget(flows, is_local).unwrap()
        };

        assert_eq!(flush(&[flow]), 1);
        assert_eq!(tracked(), [1001, 1002, 1003, 1004, 1005, 1006]);

        let of = Flow::Of("172.18.0.2".parse().unwrap());
        assert_eq!(flush(&[flow, of]), 4);
        assert_eq!(tracked(), [1002, 1005]);

        let many: Vec<Flow> = (5350..5360).map(|port| Flow::To { host: None, port, v6: false }).collect();
        assert_eq!(flush(&many), 1);
        assert_eq!(tracked(), [1005]);
        asked.sort();
        assert_eq!(asked.iter().map(IpAddr::to_string).collect::<Vec<_>>(), ["10.0.0.1", "192.168.2.9"]);
    });
}

/// Addresses change hands while nobody has forgotten their flows yet.
#[test]
fn a_stale_address_is_cleared_when_the_flows_of_its_last_holder_are_forgotten() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        firewall.rebuild(&[], &[]).unwrap();
        let address: IpAddr = "172.18.0.2".parse().unwrap();
        let elements = one_container(2, 80);
        let owned = [(masquerade("172.18.0.2"), owner(2))];
        track(&(TCP, "172.18.0.2:1006", "192.168.2.9:443", "192.168.2.9:443"));
        assert!(!firewall.are_left(&[address]).unwrap(), "nobody left it");

        firewall.add(&elements).unwrap();
        firewall.withdraw(&owned, &[address]).unwrap();
        let left = firewall.stale().unwrap();
        assert_eq!(left.iter().map(|stale| stale.address).collect::<Vec<_>>(), [address]);
        let stale = firewall.stale().unwrap();
        let done = firewall.forget_stale(&stale).unwrap();
        assert_eq!((&done, tracked().len()), (&left, 0));

        assert!(firewall.are_left(&[address]).unwrap());
        firewall.take_over(&[address]).unwrap();
        assert!(!firewall.are_left(&[address]).unwrap(), "a portmap behind a bridge has the same holder");
        assert_eq!(firewall.clear(&done).unwrap(), None, "it changed hands");
        let taken = firewall.stale().unwrap();
        firewall.rebuild(&elements, &taken).unwrap();
        assert_eq!(firewall.stale().unwrap(), taken);
        firewall.withdraw(&owned, &[address]).unwrap();
        assert_eq!(firewall.clear(&taken).unwrap(), None, "it changed hands again");
        let stale = firewall.stale().unwrap();
        let done = firewall.forget_stale(&stale).unwrap();
        assert!(firewall.clear(&done).unwrap().is_some());
        assert_eq!(firewall.stale().unwrap(), []);
    });
}

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Puts an entry into conntrack (IPCTNL_MSG_CT_NEW) for a flow from `from` to `to` whose answers come from `by`.
fn track(&(protocol, from, to, by): &(u8, &str, &str, &str)) {
    let [from, to, by] = [from, to, by].map(|text| text.parse::<SocketAddr>().unwrap());
    let attributes = vec![
        ConntrackAttribute::CtaTupleOrig(tuple(protocol, from, to)),
        ConntrackAttribute::CtaTupleReply(tuple(protocol, by, from)),
        ConntrackAttribute::CtaStatus(Status::Confirmed),
        ConntrackAttribute::CtaTimeout(600),
    ];
    let flags = NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK;
    for answer in conntrack(ConntrackMessage::New(attributes), flags) {
        assert!(matches!(&answer, NetlinkPayload::Error(verdict) if verdict.code.is_none()), "{answer:?}");
    }
}

fn tuple(protocol: u8, from: SocketAddr, to: SocketAddr) -> Vec<Tuple> {
    vec![
        Tuple::Ip(vec![IPTuple::SourceAddress(from.ip()), IPTuple::DestinationAddress(to.ip())]),
        Tuple::Proto(vec![
            ProtoTuple::Protocol(protocol.into()),
            ProtoTuple::SourcePort(from.port()),
            ProtoTuple::DestinationPort(to.port()),
        ]),
    ]
}

/// The clients' ports of what conntrack holds.
fn tracked() -> Vec<u16> {
    let found = conntrack(ConntrackMessage::Get(vec![]), NLM_F_DUMP).into_iter();
    let mut ports: Vec<u16> = found.filter_map(|answer| source_port(&answer)).collect();
    ports.sort_unstable();
    ports
}

fn source_port(answer: &NetlinkPayload<NetfilterMessage>) -> Option<u16> {
    let NetlinkPayload::InnerMessage(message) = answer else { return None };
    let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = &message.inner else {
        return None;
    };
    attributes.iter().find_map(|attribute| match attribute {
        ConntrackAttribute::CtaTupleOrig(parts) => parts.iter().find_map(|part| match part {
            Tuple::Proto(parts) => parts.iter().find_map(|part| match part {
                ProtoTuple::SourcePort(port) => Some(*port),
                _ => None,
            }),
            _ => None,
        }),
        _ => None,
    })
}

/// One request about conntrack's IPv4 entries, and all that the kernel says to it.
fn conntrack(message: ConntrackMessage, flags: u16) -> Vec<NetlinkPayload<NetfilterMessage>> {
    let socket = netfilter_socket();
    let header = NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0);
    let message = NetfilterMessage::new(header, message);
    let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(message));
    message.header.flags = NLM_F_REQUEST | flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    rustix::net::send(&socket, &bytes, SendFlags::empty()).unwrap();
    let mut answers = Vec::new();
    // All answers lie in the queue when the request has been sent; a dump goes on with each read.
    let mut buffer = vec![0; 64 << 10];
    while let Ok((_, length)) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::DONTWAIT) {
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let answer = NetlinkMessage::<NetfilterMessage>::deserialize(rest).unwrap();
            rest = &rest[(answer.header.length as usize).next_multiple_of(4)..];
            answers.push(answer.payload);
        }
    }
    answers
}

fn netfilter_socket() -> OwnedFd {
    let protocol = Some(rustix::net::netlink::NETFILTER);
    rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol).unwrap()
}

fn sorted(mut elements: Vec<(Element, Option<Owner>)>) -> Vec<(Element, Option<Owner>)> {
    elements.sort();
    elements
}

fn with_owners(elements: &[(Element, Owner)]) -> Vec<(Element, Option<Owner>)> {
    sorted(elements.iter().map(|(element, owner)| (element.clone(), Some(*owner))).collect())
}

fn mac_check(container: &str, link: &str) -> MacCheck {
    let subject = Subject::new(container, "eth0").unwrap();
    MacCheck { subject, link: link.into(), mac: [2, 0x42, 10, 1, 0, 2] }
}

/// The reference plugin's text for one port, beside what others have in the same table.
fn bridge_nat(others: &str) -> String {
    format!(
        "table bridge nat {{
\tchain PREROUTING {{
\t\ttype filter hook prerouting priority dstnat; policy accept;
{others}\t\tiifname \"veth0\" jump cni-br-iface-c1-eth0 comment \"macspoofchk-c1-eth0\"
\t}}

\tchain cni-br-iface-c1-eth0 {{
\t\tjump cni-br-iface-c1-eth0-mac comment \"macspoofchk-c1-eth0\"
\t}}

\tchain cni-br-iface-c1-eth0-mac {{
\t\tether saddr 02:42:0a:01:00:02 return comment \"macspoofchk-c1-eth0\"
\t\tdrop comment \"macspoofchk-c1-eth0\"
\t}}
}}
"
    )
}

#[test]
fn the_rules_of_macspoofchk_are_the_reference_plugins_and_never_double() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        let check = mac_check("c1", "veth0");
        assert!(!firewall.checks_mac(&check).unwrap());
        for _ in 0..2 {
            firewall.check_macs(std::slice::from_ref(&check)).unwrap();
            assert!(firewall.checks_mac(&check).unwrap());
            if let Some(listing) = nft(&["list", "table", "bridge", "nat"]) {
                assert_eq!(listing, bridge_nat(""));
            }
        }
        for other in [mac_check("c1", "veth1"), mac_check("c2", "veth0")] {
            assert!(!firewall.checks_mac(&other).unwrap());
        }
        assert!(!firewall.checks_mac(&MacCheck { mac: [2; 6], ..check }).unwrap());
    });
}

#[test]
fn what_others_have_in_the_table_of_macspoofchk_stays() {
    on_a_new_host(|| {
        let theirs = "table bridge nat {
            chain PREROUTING {
                type filter hook prerouting priority -300; policy drop;
                iifname \"eth9\" accept comment \"macspoofchk-c1-eth\"
            }
            chain other { drop; }
        }";
        if nft(&["list", "ruleset"]).is_none() {
            return;
        }
        nft_stdin(theirs);
        let before = nft(&["list", "table", "bridge", "nat"]);
        let mut firewall = Firewall::open().unwrap();
        let checks = [mac_check("c1", "veth0"), mac_check("c2", "veth1")];
        firewall.check_macs(&checks).unwrap();
        assert!(firewall.uncheck_mac(&checks[0].subject).unwrap());
        assert!(!firewall.knows_mac_check(&checks[0].subject).unwrap());
        assert!(firewall.checks_mac(&checks[1]).unwrap());
        assert!(firewall.uncheck_mac(&checks[1].subject).unwrap());
        assert!(!firewall.uncheck_mac(&checks[1].subject).unwrap(), "twice is once");
        assert_eq!(nft(&["list", "table", "bridge", "nat"]), before);
    });
}

#[test]
fn check_of_macspoofchk_sees_every_change() {
    let changes = [
        "insert rule bridge nat cni-br-iface-c1-eth0-mac accept",
        "flush chain bridge nat cni-br-iface-c1-eth0",
        "flush chain bridge nat PREROUTING",
        "add rule bridge nat PREROUTING iifname \"veth7\" jump cni-br-iface-c1-eth0 comment \"macspoofchk-c1-eth0\"",
        "flush ruleset",
    ];
    for change in changes {
        on_a_new_host(|| {
            let mut firewall = Firewall::open().unwrap();
            let check = mac_check("c1", "veth0");
            firewall.check_macs(std::slice::from_ref(&check)).unwrap();
            if nft(&["list", "ruleset"]).is_none() {
                return;
            }
            nft_stdin(change);
            assert!(!firewall.checks_mac(&check).unwrap(), "{change}");
            firewall.check_macs(std::slice::from_ref(&check)).unwrap();
            assert!(firewall.checks_mac(&check).unwrap(), "{change}");
            firewall.uncheck_mac(&check.subject).unwrap();
            assert!(!firewall.knows_mac_check(&check.subject).unwrap(), "{change}");
        });
    }
}
