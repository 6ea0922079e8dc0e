//! The state folder, or a part of it, is deleted while containers live. The kernel still knows them.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use netns_fixtures::ping;
use nft::{Element, Owner};
use serde_json::{Value, json};
use store::Key;

use crate::common::{Guest, Host, Network, Outcome, inside, ranges};

const V4: &str = "10.7.0.0/24";
const V6: &str = "fd07::/64";

/// Parts of what rnet keeps: below the folder of this boot, and below the root. An empty name is all of it.
const OF_BOOT: [&str; 8] =
    ["", "leases", "leases/n", "leases/n/FIRST", "index", "networks", "records", "macs"];
const OF_ROOT: [&str; 5] =
    ["run/rnet", "var/lib/rnet", "var/lib/cni/networks/n", "var/lib/cni/networks/n/FIRST", "ALL"];

/// Both kinds of network with these subnets.
fn networks(subnets: &[&str]) -> [Network; 2] {
    [Network::rnet("n", V4), Network::chain("n", V4)].map(|mut network| {
        network.list["plugins"][0]["ipam"]["ranges"] = ranges(subnets);
        network
    })
}

/// Every part that is there, one after the other, as the path of a file or a folder.
fn parts(host: &Host, first: &str) -> Vec<Vec<PathBuf>> {
    let (run, root) = (host.store().paths().run(), host.root());
    let of_boot = OF_BOOT.map(|part| vec![run.join(part.replace("FIRST", first))]);
    let of_root = OF_ROOT.map(|part| match part {
        "ALL" => ["run/rnet", "var/lib/rnet", "var/lib/cni"].map(|part| root.join(part)).into(),
        part => vec![root.join(part.replace("FIRST", first))],
    });
    of_boot.into_iter().chain(of_root).collect()
}

fn remove(path: &Path) -> bool {
    if path.is_dir() { fs::remove_dir_all(path).is_ok() } else { fs::remove_file(path).is_ok() }
}

/// Deletes everything that rnet keeps.
fn lose_all(host: &Host) {
    for path in parts(host, "").pop().unwrap() {
        remove(&path);
    }
}

/// The addresses of a member but link-local ones, and its MAC, as the kernel has them.
fn identity(guest: &Guest<'_>) -> (Vec<IpAddr>, String) {
    let mut inside = inside(guest.container.netns());
    let link = inside.link(&guest.who.ifname).unwrap().unwrap();
    let found = inside.addresses(Some(link.index)).unwrap().into_iter().filter(|found| found.scope == 0);
    (found.map(|found| found.address.ip()).collect(), link.mac.unwrap().to_string())
}

/// Fails if two have an address or a MAC in common, or if one is not reached.
#[track_caller]
fn assert_apart(guests: &[&Guest<'_>], case: &str) {
    let (mut addresses, mut macs) = (BTreeSet::new(), BTreeSet::new());
    for guest in guests {
        let (own, mac) = identity(guest);
        assert!(!own.is_empty(), "{case}: {} has no address", guest.who.id);
        for ip in own {
            assert!(addresses.insert(ip), "{case}: {} got {ip}, which another has", guest.who.id);
            let answers = (0..5).any(|_| answers(guest, ip));
            assert!(answers, "{case}: {ip} of {} does not answer", guest.who.id);
        }
        assert!(macs.insert(mac.clone()), "{case}: {} got {mac}, which another has", guest.who.id);
    }
}

fn answers(guest: &Guest<'_>, ip: IpAddr) -> bool {
    ping(guest.host.netns(), ip, Duration::from_secs(1)).unwrap().is_some()
}

/// The same call for all, which must succeed.
#[track_caller]
fn all<'a, T, const N: usize>(guests: [&Guest<'a>; N], call: impl Fn(&Guest<'a>) -> Result<T, Outcome>) {
    guests.into_iter().for_each(|guest| drop(call(guest).unwrap()));
}

/// A host as most are: what tells it from others does not lie in rnet's own folders.
fn host() -> Host {
    let host = Host::with_outside();
    let etc = host.root().join("etc");
    fs::create_dir_all(&etc).unwrap();
    fs::write(etc.join("machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
    host
}

fn key(guest: &Guest<'_>) -> Key {
    Key::new(guest.network.name(), &guest.who.id, &guest.who.ifname)
}

/// rnet's elements that belong to a member.
fn elements_of(guest: &Guest<'_>) -> BTreeSet<Element> {
    let owner = Owner::new(key(guest).as_str());
    let all = guest.host.elements().into_iter();
    all.filter(|(_, found)| *found == owner).map(|(element, _)| element).collect()
}

/// Two that live, a part that is deleted, two more, and what is left when all are gone.
fn lose_a_part(network: &Network, part: usize) {
    let host = host();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| host.guest(network, name));
    all([&a, &b], Guest::add);
    let first = identity(&a).0[0].to_string();
    let paths = parts(&host, &first).swap_remove(part);
    let case =
        format!("{} {:?} without {paths:?}", network.main_plugin(), network.list["plugins"][0]["ipam"]);
    if paths.iter().filter(|path| remove(path)).count() == 0 {
        return;
    }

    for guest in [&c, &d] {
        guest.add().unwrap_or_else(|outcome| panic!("{case}: {outcome:?}"));
    }

    assert_apart(&[&a, &b, &c, &d], &case);
    for guest in [&c, &a, &d, &b] {
        guest.del().unwrap_or_else(|outcome| panic!("{case}: {outcome:?}"));
        let name = key(guest).link(0);
        assert!(host.link(&name).is_none(), "{case}: {name} of {} is left", guest.who.id);
    }
    let left = host.elements();
    assert!(left.is_empty(), "{case}: {left:?}");
    host.assert_balanced(&[&a, &b, &c, &d]);
}

#[test]
fn no_address_and_no_mac_of_a_living_container_is_given_again_ipv4() {
    for network in networks(&[V4]) {
        (0..OF_BOOT.len() + OF_ROOT.len()).for_each(|part| lose_a_part(&network, part));
    }
}

#[test]
fn no_address_and_no_mac_of_a_living_container_is_given_again_ipv6() {
    for subnets in [&[V6][..], &[V4, V6]] {
        for network in networks(subnets) {
            (0..OF_BOOT.len() + OF_ROOT.len()).for_each(|part| lose_a_part(&network, part));
        }
    }
}

#[test]
fn a_requested_address_or_mac_of_a_container_without_a_record_is_refused_and_its_port_named() {
    for network in networks(&[V4]) {
        let host = host();
        let [a, b, c] = ["a", "b", "c"].map(|name| host.guest(&network, name));
        let asking = |guest: &Guest<'_>, more: Value| {
            let mut config = network.config(network.main_plugin(), &json!([]), None);
            config["runtimeConfig"] = more;
            host.cni("ADD", network.main_plugin(), &guest.who, &config)
        };
        assert_eq!(asking(&a, json!({"mac": "02:00:00:00:00:07"})).status, 0);
        let port = key(&a).link(0);
        lose_all(&host);

        let refused = asking(&b, json!({"ips": ["10.7.0.2"]})).error();
        let details = refused["details"].as_str().unwrap();
        assert_eq!(refused["code"], 101, "{refused}");
        assert!(details.contains("10.7.0.2") && details.contains(&port), "{refused}");
        let (code, mac) = asking(&c, json!({"mac": "02:00:00:00:00:07"})).refusal();
        assert_eq!(code, 101, "{mac}");
        assert!(mac.contains(&port), "{mac}");

        assert_eq!(asking(&b, json!({"mac": "02:00:00:00:00:08"})).status, 0);
        assert_apart(&[&a, &b], network.main_plugin());
    }
}

#[test]
fn what_a_dead_container_without_a_record_had_is_free_again() {
    for network in networks(&["10.7.0.0/29"]) {
        let host = host();
        let [a, b, c, d, e] = ["a", "b", "c", "d", "e"].map(|name| host.guest(&network, name));
        all([&a, &b], Guest::add);
        let had = identity(&b).0[0];
        lose_all(&host);
        all([&c, &d, &e], Guest::add);
        let full = host.guest(&network, "full");
        assert_eq!(full.add().unwrap_err().refusal().0, 100);

        let port = key(&b).link(0);
        drop(b);
        while host.link(&port).is_some() {
            std::thread::sleep(Duration::from_millis(5));
        }

        full.add().unwrap();
        assert_eq!(identity(&full).0[0], had);
        assert_apart(&[&a, &c, &d, &e, &full], network.main_plugin());
    }
}

#[test]
fn a_second_add_of_a_container_without_a_record_is_refused_without_harm() {
    for network in networks(&[V4]) {
        for part in ["records", ""] {
            let host = host();
            let [a, b] = ["a", "b"].map(|name| host.guest(&network, name));
            all([&a], Guest::add);
            let (had, result) = (identity(&a), a.remembered());
            remove(&host.store().paths().run().join(part));
            all([&b], Guest::add);

            let (code, text) = a.add().unwrap_err().refusal();

            assert_eq!(code, 103, "{text}");
            assert_eq!(identity(&a), had);
            assert_apart(&[&a, &b], part);
            a.remember(result);
            all([&a, &b], Guest::del);
            assert_eq!(host.elements(), []);
            host.assert_balanced(&[&a, &b]);
        }
    }
}

#[test]
fn a_network_with_names_serves_them_after_its_state_was_lost() {
    let network = Network::named("n", V4);
    let host = host();
    let [a, b] = ["a", "b"].map(|name| host.guest(&network, name));
    all([&a], Guest::add);
    lose_all(&host);

    all([&b], Guest::add);

    assert_apart(&[&a, &b], "names");
    all([&a, &b], Guest::del);
    assert_eq!(host.elements(), []);
    host.assert_balanced(&[&a, &b]);
}

#[test]
fn a_lease_that_another_program_emptied_is_not_given_again_while_its_container_lives() {
    for network in networks(&[V4]) {
        let host = host();
        let [a, b, c] = ["a", "b", "c"].map(|name| host.guest(&network, name));
        all([&a, &b], Guest::add);
        let folders = [host.store().leases("n"), host.host_local().join("n")];
        let file = |folder: &PathBuf| folder.join(identity(&a).0[0].to_string());
        let file = folders.iter().map(file).find(|file| file.exists()).unwrap();
        fs::write(file, "").unwrap();

        all([&c], Guest::add);

        assert_apart(&[&a, &b, &c], network.main_plugin());
    }
}

#[test]
fn a_container_without_a_record_keeps_its_guards_and_its_del_takes_them_away() {
    let mut network = Network::rnet("n", V4);
    // Which empty tables of iptables rnet has made is in the folder too.
    network.list["plugins"][0]["interop"] = false.into();
    let host = host();
    let before = host.state(&[]);
    let a = host.guest(&network, "a").publishing(8080);
    let [b, c] = ["b", "c"].map(|name| host.guest(&network, name));
    a.add().unwrap();
    let own = elements_of(&a);
    let of_bridge = |host: &Host| {
        let all = host.elements().into_iter().map(|(element, _)| element);
        let shared = |element: &Element| {
            matches!(element, Element::Home { .. } | Element::Subnet { .. } | Element::Isolated { .. })
        };
        all.filter(shared).collect::<BTreeSet<_>>()
    };
    let shared = of_bridge(&host);
    lose_all(&host);

    // The first makes the ruleset anew; with the last that is on record, no network is left on record.
    all([&b, &c], Guest::add);
    assert_eq!(elements_of(&a), own);
    all([&b, &c], Guest::del);
    assert_eq!((elements_of(&a), of_bridge(&host)), (own.clone(), shared.clone()));
    assert!(a.works());
    let mut other = Network::rnet("other", "10.8.0.0/24");
    other.list["plugins"][0]["interop"] = false.into();
    let elsewhere = host.guest(&other, "elsewhere");
    elsewhere.add().unwrap();
    elsewhere.del().unwrap();
    assert_eq!((elements_of(&a), of_bridge(&host)), (own, shared));

    a.del().unwrap();

    before.assert_same(&host.state(&[]));
}

#[test]
fn a_port_of_a_container_without_a_record_is_taken() {
    for network in networks(&[V4]) {
        let host = host();
        let (a, b) = (host.guest(&network, "a").publishing(8080), host.guest(&network, "b").publishing(8080));
        a.add().unwrap();
        lose_all(&host);

        let (code, text) = b.add().unwrap_err().refusal();

        assert_eq!(code, 102, "{text}");
        assert!(a.works(), "{}", network.main_plugin());
        b.del().unwrap();
        a.del().unwrap();
        b.add().unwrap();
        assert!(b.works(), "{}", network.main_plugin());
        b.del().unwrap();
        assert_eq!(host.elements(), []);
    }
}

#[test]
fn the_last_container_of_a_network_takes_everything_along_though_nothing_is_on_record() {
    for network in networks(&[V4, V6]) {
        let host = host();
        let a = host.guest(&network, "a").publishing(8080);
        all([&a], Guest::add);
        lose_all(&host);

        all([&a], Guest::del);

        assert_eq!(host.elements(), []);
        assert_eq!(host.firewall(|firewall| firewall.state().unwrap()), None);
        assert_eq!(host.firewall(|firewall| firewall.passage_rules().unwrap()), []);
        assert_eq!(host.link("rnet-n"), None);
        assert!(host.links().iter().all(|name| !name.starts_with("veth")), "{:?}", host.links());
        host.assert_balanced(&[&a]);
    }
}

#[test]
fn a_port_on_one_address_of_a_container_without_a_record_is_taken_on_all() {
    for network in networks(&[V4]) {
        let host = host();
        let (a, mut b) = (host.guest(&network, "a").publishing(8080), host.guest(&network, "b"));
        all([&a], Guest::add);
        lose_all(&host);
        // `a` has its UDP on one address.
        b.ports = json!([{"hostPort": 8080, "containerPort": 53, "protocol": "udp"}]);

        let (code, text) = b.add().unwrap_err().refusal();

        assert_eq!(code, 102, "{text}");
        assert!(text.contains(&key(&a).link(0)), "{text}");
        all([&b, &a], Guest::del);
        all([&b], Guest::add);
        all([&b], Guest::del);
        assert_eq!(host.elements(), []);
    }
}

#[test]
fn a_dead_container_without_a_record_is_removed_by_what_the_runtime_kept() {
    for network in networks(&[V4]) {
        let host = host();
        let (a, b) = (host.guest(&network, "a").publishing(8080), host.guest(&network, "b").publishing(8081));
        all([&a, &b], Guest::add);
        let port = key(&a).link(0);
        lose_all(&host);
        // Its namespace is gone, and with it the pair.
        let index = host.link(&port).unwrap().index;
        host.run(|| netlink::delete_link(index, &[], true).unwrap()).unwrap();

        a.del().unwrap();

        assert_eq!(elements_of(&a), BTreeSet::new());
        assert!(b.works());
        a.add().unwrap();
        assert!(a.works() && b.works());
    }
}
