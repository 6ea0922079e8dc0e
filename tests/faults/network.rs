//! A network that is killed while it is made, or while it goes: its *next* container must be as isolated as any other.

use serde_json::json;

use crate::common::{Fault, Guest, Host, Network};
use crate::judge;
use crate::locks::{go_on, stopped_at};

const SUBNET: &str = "10.7.0.0/24";
const OTHER: &str = "10.8.0.0/24";

/// Between every two changes of making a network; on a network with IPv6 some more.
const MAKING: [&str; 11] = [
    "add.intent",
    "add.network",
    "add.bridge",
    "add.advertisements",
    "add.gateway",
    "add.forward",
    "add.elements",
    "add.moment",
    "add.address",
    "add.ready",
    "add.veth",
];
const MAKING_V6: [&str; 3] = ["add.force-all", "add.force-default", "add.force-bridge"];

/// Between every two changes of a network's end.
const RETIRING: [&str; 7] = [
    "del.lease",
    "del.record",
    "del.network",
    "del.elements",
    "del.bridge",
    "del.forgotten",
    "del.network-record",
];

/// Who else is on the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Company {
    /// Nobody: with the network our tables come and go.
    Empty,
    /// A container of another network.
    InUse,
}

#[test]
fn the_second_container_of_a_network_that_died_in_the_making_is_isolated() {
    each(&Network::rnet("mynet", SUBNET), &MAKING, &["abort", "error"], Company::InUse);
}

#[test]
fn the_second_container_of_a_hosts_first_network_that_died_in_the_making_is_isolated() {
    each(&Network::rnet("mynet", SUBNET), &MAKING, &["abort"], Company::Empty);
}

#[test]
fn the_second_container_of_a_network_with_ipv6_that_died_in_the_making_is_isolated() {
    let network = dual();
    let steps: Vec<&str> = MAKING.into_iter().chain(MAKING_V6).collect();
    each(&network, &steps, &["abort"], Company::InUse);
}

#[test]
fn the_second_container_of_a_network_with_names_that_died_in_the_making_is_isolated() {
    each(&Network::named("mynet", SUBNET), &MAKING, &["abort"], Company::InUse);
}

#[test]
fn the_next_container_of_a_network_that_died_while_it_went_is_isolated() {
    for company in [Company::InUse, Company::Empty] {
        each(&Network::rnet("mynet", SUBNET), &RETIRING, &["abort", "error"], company);
    }
}

#[test]
fn the_next_container_of_a_chain_is_connected() {
    let steps =
        ["add.network", "add.bridge", "add.advertisements", "add.gateway", "add.forward", "add.elements"];
    each(&Network::chain("mynet", SUBNET), &steps, &["abort"], Company::InUse);
}

/// The network's record is still there when its elements are gone: a call that makes the ruleset anew then must
/// not read it as a network that wants them.
#[test]
fn a_ruleset_that_is_made_anew_while_a_network_goes_has_nothing_of_it() {
    for network in [Network::rnet("mynet", SUBNET), Network::named("mynet", SUBNET)] {
        let host = Host::with_outside();
        let other = Network::rnet("other", OTHER);
        let (stays, comes) = (host.guest(&other, "stays"), host.guest(&other, "comes"));
        stays.add().unwrap();
        let last = host.guest(&network, "last");
        let everybody = [&stays, &comes, &last];
        let before = host.state(&everybody);
        last.add().unwrap();

        let going = stopped_at(&last, "DEL", "del.elements");
        host.firewall(|firewall| firewall.drop_tables().unwrap());
        comes.add().unwrap();
        go_on(going);

        comes.del().unwrap();
        before.assert_same(&host.state(&everybody));
    }
}

/// A network's elements may come by a rebuild after an ADD has found that they are missing: they are its own, and no conflict.
#[test]
fn a_ruleset_that_is_made_anew_while_a_network_is_made_does_not_stop_it() {
    for network in [Network::rnet("mynet", SUBNET), Network::named("mynet", SUBNET)] {
        let host = Host::with_outside();
        let other = Network::rnet("other", OTHER);
        let (stays, comes) = (host.guest(&other, "stays"), host.guest(&other, "comes"));
        stays.add().unwrap();
        let first = host.guest(&network, "first").publishing(8080);

        let making = stopped_at(&first, "ADD", "add.missing");
        host.firewall(|firewall| firewall.drop_tables().unwrap());
        comes.add().unwrap();
        go_on(making);

        assert_eq!(judge::elements(&host), [""; 0]);
        first.del().unwrap();
    }
}

fn dual() -> Network {
    let mut network = Network::rnet("mynet", SUBNET);
    network.list["plugins"][0]["ipam"]["ranges"] = json!([[{"subnet": SUBNET}], [{"subnet": "fd07::/64"}]]);
    network
}

fn each(network: &Network, steps: &[&str], ways: &[&str], company: Company) {
    let mut failures = Vec::new();
    for step in steps {
        for how in ways {
            let findings = story(network, &format!("{step}:{how}"), company);
            failures
                .extend(findings.into_iter().map(|finding| format!("{step}:{how}, {company:?}: {finding}")));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The first container dies with its network half made or half gone; the second is judged, and then all goes.
fn story(network: &Network, failpoint: &str, company: Company) -> Vec<String> {
    let host = Host::with_outside();
    let other = Network::rnet("other", OTHER);
    let stranger = host.guest(&other, "stranger").publishing(9000);
    judge::know_the_way(&host, &[SUBNET, OTHER]);
    if company == Company::InUse {
        stranger.add().unwrap();
    }
    let (first, second) =
        (host.guest(network, "first").publishing(8080), host.guest(network, "second").publishing(8081));
    let everybody = [&stranger, &first, &second];
    let before = host.state(&everybody);
    host.set_sysctl("ipv4/ip_forward", "0");

    if !meets(network, &first, failpoint) {
        return Vec::new();
    }
    if let Err(outcome) = second.add() {
        return vec![format!("the second ADD ended with {}: {}", outcome.status, outcome.stdout)];
    }

    let strangers: &[&Guest<'_>] = if company == Company::InUse { &[&stranger] } else { &[] };
    let mut findings = judge::elements(&host);
    findings.extend(judge::connected(&host, &second));
    if network.main_plugin() == "rnet" {
        findings.extend(judge::open(&host, &second, strangers));
    }
    first.del().unwrap();
    second.del().unwrap();
    if network.main_plugin() == "rnet" {
        // A chain's bridge stays once it is made, as upstream's does.
        findings.extend(before.difference(&host.state(&everybody)));
    }
    findings
}

/// False where this kernel has no such step: forced forwarding came with Linux 6.17.
fn meets(network: &Network, first: &Guest<'_>, failpoint: &str) -> bool {
    if MAKING_V6.iter().any(|step| failpoint.starts_with(step))
        && first.host.sysctl("ipv6/conf/all/force_forwarding").is_none()
    {
        eprintln!("this kernel has no force_forwarding: {failpoint} was not tried");
        return false;
    }
    let fault = Fault { plugin: network.main_plugin().into(), failpoint: failpoint.into() };
    let failed = if failpoint.starts_with("add.") {
        first.add_with(Some(&fault)).map(drop)
    } else {
        first.add().unwrap();
        first.del_with(Some(&fault))
    };
    assert!(failed.is_err(), "{failpoint} was not met");
    true
}
