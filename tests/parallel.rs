//! Many calls at once: no error, no address twice, nothing left.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "common/mod.rs"]
mod common;
#[path = "site/mod.rs"]
mod site;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread;

use common::{Outcome, Who};
use site::{Member, Network, Site};

/// CNI code of ours: the container is on this network already.
const ALREADY_ATTACHED: u64 = 103;

/// Containers at once.
const CROWD: u16 = 40;

#[test]
fn a_crowd_comes_to_an_rnet_network_and_goes() {
    come_and_go(&Network::rnet("mynet", "10.7.0.0/24"));
}

#[test]
fn a_crowd_comes_to_a_chain_and_goes() {
    come_and_go(&Network::chain("mynet", "10.7.0.0/24"));
}

#[test]
fn a_crowd_that_is_restricted_comes_and_goes() {
    come_and_go(&Network::restricted("mynet", "10.7.0.0/24"));
}

/// Onto a bridge that does not exist yet.
fn come_and_go(network: &Network) {
    let site = Site::new();
    let crowd = crowd(&site, network, CROWD);
    let everybody: Vec<&Member<'_>> = crowd.iter().collect();
    let before = site.state(&everybody);

    all_at_once(&crowd, |member| drop(member.add().unwrap()));

    let addresses: BTreeSet<IpAddr> = crowd.iter().map(Member::address).collect();
    assert_eq!(addresses.len(), crowd.len());
    site.assert_balanced(&everybody);
    assert!(crowd.iter().all(Member::works));

    all_at_once(&crowd, |member| member.del().unwrap());

    if network.main_plugin() == "rnet" {
        before.assert_same(&site.state(&everybody));
    }
    // A chain's bridge stays; from then on nothing more does.
    let after = site.state(&everybody);
    all_at_once(&crowd, |member| drop(member.add().unwrap()));
    all_at_once(&crowd, |member| member.del().unwrap());
    after.assert_same(&site.state(&everybody));
}

#[test]
fn a_hundred_come_and_go_on_two_networks() {
    let (one, two) = (Network::rnet("one", "10.7.0.0/24"), Network::chain("two", "10.8.0.0/24"));
    let site = Site::new();
    let members: Vec<Member<'_>> = (0..20)
        .map(|n| site.member([&one, &two][n % 2], &format!("c{n}")).publishing(8000 + n as u16))
        .collect();
    let everybody: Vec<&Member<'_>> = members.iter().collect();
    // The chain's bridge, which stays.
    members[1].add().unwrap();
    members[1].del().unwrap();
    let before = site.state(&everybody);

    // 20 at a time, five ADDs and five DELs each, in a step of their own.
    all_at_once(&members, |member| {
        for round in 0..5 {
            member.add().unwrap();
            assert!(round % 2 == 0 || member.works(), "{}", member.who.id);
            member.del().unwrap();
        }
    });

    before.assert_same(&site.state(&everybody));
}

#[test]
fn two_interfaces_of_one_container_at_once() {
    let pairs = [
        [Network::rnet("mynet", "10.7.0.0/24"), Network::rnet("other", "10.8.0.0/24")],
        [Network::chain("mynet", "10.7.0.0/24"), Network::chain("other", "10.8.0.0/24")],
    ];
    for [network, other] in pairs {
        let site = Site::new();
        let first = site.member(&network, "web").publishing(8080);
        let second = Who { ifname: "eth1".into(), ..first.who.clone() };
        let config = other.config(other.main_plugin(), &serde_json::json!([]), None);
        let before = site.state(&[&first]);

        thread::scope(|scope| {
            let adding = scope.spawn(|| first.add().unwrap());
            site.lab.add(other.main_plugin(), &second, &config);
            adding.join().unwrap();
        });

        let mut inside = common::inside(first.container.netns());
        assert!(inside.link("eth1").unwrap().is_some_and(|link| link.up));
        // Whoever came first has the default route; others answer those who are on their network.
        let way_out = inside.routes().unwrap().into_iter().find(|route| route.destination.prefix() == 0);
        let has_the_way_out =
            way_out.map(|route| route.index) == inside.link("eth0").unwrap().map(|link| link.index);
        assert!(if has_the_way_out { first.works() } else { first.is_on_the_network() });
        first.del().unwrap();
        site.lab.del(other.main_plugin(), &second, &config);
        if network.main_plugin() == "rnet" {
            before.assert_same(&site.state(&[&first]));
        }
    }
}

#[test]
fn of_the_same_add_twice_at_once_one_wins_and_is_unharmed() {
    let network = Network::rnet("mynet", "10.7.0.0/24");
    let site = Site::new();
    let web = site.member(&network, "web").publishing(8080);
    let before = site.state(&[&web]);
    for _ in 0..10 {
        let config = network.config("rnet", &web.ports, None);
        let add = || site.lab.cni("ADD", "rnet", &web.who, &config);
        let outcomes: Vec<Outcome> = thread::scope(|scope| {
            let adding: Vec<_> = (0..4).map(|_| scope.spawn(add)).collect();
            adding.into_iter().map(|adding| adding.join().unwrap()).collect()
        });

        let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(|outcome| outcome.status == 0);
        assert_eq!(won.len(), 1, "{lost:?}");
        assert!(lost.iter().all(|outcome| outcome.refusal().0 == ALREADY_ATTACHED), "{lost:?}");
        let address = won[0].json()["ips"][0]["address"].clone();
        assert_eq!(address, format!("{}/24", web.address()));
        assert!(web.works());
        site.assert_balanced(&[&web]);
        web.del().unwrap();
        before.assert_same(&site.state(&[&web]));
    }
}

#[test]
fn the_last_goes_while_the_first_comes() {
    let network = Network::rnet("mynet", "10.7.0.0/24");
    last_against_first(&network, 100);
}

#[test]
fn the_last_of_a_chain_goes_while_the_first_comes() {
    last_against_first(&Network::chain("mynet", "10.7.0.0/24"), 50);
}

/// The one takes the network away that the other needs.
fn last_against_first(network: &Network, rounds: usize) {
    let site = Site::new();
    let crowd = crowd(&site, network, 3);
    let everybody: Vec<&Member<'_>> = crowd.iter().collect();
    crowd[0].add().unwrap();
    crowd[0].del().unwrap();
    let before = site.state(&everybody);
    crowd[0].add().unwrap();
    for round in 0..rounds {
        let [going, coming] = [round, round + 1].map(|n| &crowd[n % crowd.len()]);

        thread::scope(|scope| {
            let adding = scope.spawn(|| drop(coming.add().unwrap()));
            going.del().unwrap();
            adding.join().unwrap();
        });

        assert!(coming.works(), "round {round}");
        site.assert_balanced(&everybody);
    }
    crowd[rounds % crowd.len()].del().unwrap();
    before.assert_same(&site.state(&everybody));
}

#[test]
fn gc_while_others_come_and_go_harms_nobody() {
    let network = Network::rnet("mynet", "10.7.0.0/24");
    let site = Site::new();
    let crowd = crowd(&site, &network, 6);
    let everybody: Vec<&Member<'_>> = crowd.iter().collect();
    let names: Vec<&str> = crowd.iter().map(|member| member.who.id.as_str()).collect();
    let before = site.state(&everybody);

    thread::scope(|scope| {
        let collecting = scope.spawn(|| (0..20).for_each(|_| crowd[0].gc(&names).unwrap()));
        all_at_once(&crowd, |member| {
            for _ in 0..5 {
                member.add().unwrap();
                assert!(member.works());
                member.del().unwrap();
            }
        });
        collecting.join().unwrap();
    });

    before.assert_same(&site.state(&everybody));
}

fn crowd<'a>(site: &'a Site, network: &'a Network, count: u16) -> Vec<Member<'a>> {
    (0..count).map(|n| site.member(network, &format!("c{n}")).publishing(8000 + n)).collect()
}

fn all_at_once(members: &[Member<'_>], act: impl Fn(&Member<'_>) + Sync) {
    thread::scope(|scope| {
        let acting: Vec<_> = members.iter().map(|member| scope.spawn(|| act(member))).collect();
        acting.into_iter().for_each(|acting| acting.join().unwrap());
    });
}
