//! The constant ruleset: put in, listed by nft, loaded again, and changed by others.

use netns_fixtures::has_program;
use nft::{Element, Error, Firewall, Protocol, Rebuilt, Ruleset, State};

use crate::{exceptions, nft, nft_stdin, on_a_new_host, one_container, owner, publish, sorted, with_owners};

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

/// The same through nft's JSON and the types of the `nftables` crate, an independent reader. (It cannot read rnet's maps,
/// because their data are concatenations.)
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
    // Only chains and rules: the listing has the maps too, which the crate refuses.
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
fn a_flushed_ruleset_is_distinguished_from_an_empty_one() {
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
fn every_change_of_a_rule_by_nft_changes_the_state() {
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
fn the_generation_counts_the_changes_of_all_programs() {
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
fn elements_that_no_ruleset_can_hold_are_left_out_of_a_rebuild_and_reported() {
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
