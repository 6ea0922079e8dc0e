//! Many calls at once: no error, no address twice, nothing left.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "books/mod.rs"]
mod books;
#[path = "common/mod.rs"]
mod common;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread;

use common::{Guest, Host, Network, Outcome, Who};

/// rnet's own CNI code: the container is on this network already.
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
    let host = Host::with_outside();
    let crowd = crowd(&host, network, CROWD);
    let everybody: Vec<&Guest<'_>> = crowd.iter().collect();
    let before = host.state(&everybody);

    all_at_once(&crowd, |guest| drop(guest.add().unwrap()));

    let addresses: BTreeSet<IpAddr> = crowd.iter().map(Guest::address).collect();
    assert_eq!(addresses.len(), crowd.len());
    host.assert_balanced(&everybody);
    assert!(crowd.iter().all(Guest::works));

    all_at_once(&crowd, |guest| guest.del().unwrap());

    if network.main_plugin() == "rnet" {
        before.assert_same(&host.state(&everybody));
    }
    // A chain's bridge stays; from then on nothing more does.
    let after = host.state(&everybody);
    all_at_once(&crowd, |guest| drop(guest.add().unwrap()));
    all_at_once(&crowd, |guest| guest.del().unwrap());
    after.assert_same(&host.state(&everybody));
}

#[test]
fn a_hundred_come_and_go_on_two_networks() {
    let (one, two) = (Network::rnet("one", "10.7.0.0/24"), Network::chain("two", "10.8.0.0/24"));
    let host = Host::with_outside();
    let guests: Vec<Guest<'_>> = (0..20)
        .map(|n| host.guest([&one, &two][n % 2], &format!("c{n}")).publishing(8000 + n as u16))
        .collect();
    let everybody: Vec<&Guest<'_>> = guests.iter().collect();
    // The chain's bridge, which stays.
    guests[1].add().unwrap();
    guests[1].del().unwrap();
    let before = host.state(&everybody);

    // 20 at a time, five ADDs and five DELs each, in a step of their own.
    all_at_once(&guests, |guest| {
        for round in 0..5 {
            guest.add().unwrap();
            assert!(round % 2 == 0 || guest.works(), "{}", guest.who.id);
            guest.del().unwrap();
        }
    });

    before.assert_same(&host.state(&everybody));
}

#[test]
fn two_interfaces_of_one_container_at_once() {
    let pairs = [
        [Network::rnet("mynet", "10.7.0.0/24"), Network::rnet("other", "10.8.0.0/24")],
        [Network::chain("mynet", "10.7.0.0/24"), Network::chain("other", "10.8.0.0/24")],
    ];
    for [network, other] in pairs {
        let host = Host::with_outside();
        let first = host.guest(&network, "web").publishing(8080);
        let second = Who { ifname: "eth1".into(), ..first.who.clone() };
        let config = other.config(other.main_plugin(), &serde_json::json!([]), None);
        let before = host.state(&[&first]);

        thread::scope(|scope| {
            let adding = scope.spawn(|| first.add().unwrap());
            host.add(other.main_plugin(), &second, &config);
            adding.join().unwrap();
        });

        let mut inside = common::inside(first.container.netns());
        assert!(inside.link("eth1").unwrap().is_some_and(|link| link.up));
        // The first interface has the default route; the other one answers its own network.
        let way_out = inside.routes().unwrap().into_iter().find(|route| route.destination.prefix() == 0);
        let has_the_way_out =
            way_out.map(|route| route.index) == inside.link("eth0").unwrap().map(|link| link.index);
        assert!(if has_the_way_out { first.works() } else { first.is_on_the_network() });
        first.del().unwrap();
        host.del(other.main_plugin(), &second, &config);
        if network.main_plugin() == "rnet" {
            before.assert_same(&host.state(&[&first]));
        }
    }
}

#[test]
fn of_the_same_add_twice_at_once_one_wins_and_is_unharmed() {
    let network = Network::rnet("mynet", "10.7.0.0/24");
    let host = Host::with_outside();
    let web = host.guest(&network, "web").publishing(8080);
    let before = host.state(&[&web]);
    for _ in 0..10 {
        let config = network.config("rnet", &web.ports, None);
        let add = || host.cni("ADD", "rnet", &web.who, &config);
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
        host.assert_balanced(&[&web]);
        web.del().unwrap();
        before.assert_same(&host.state(&[&web]));
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
    let host = Host::with_outside();
    let crowd = crowd(&host, network, 3);
    let everybody: Vec<&Guest<'_>> = crowd.iter().collect();
    crowd[0].add().unwrap();
    crowd[0].del().unwrap();
    let before = host.state(&everybody);
    crowd[0].add().unwrap();
    for round in 0..rounds {
        let [going, coming] = [round, round + 1].map(|n| &crowd[n % crowd.len()]);

        thread::scope(|scope| {
            let adding = scope.spawn(|| drop(coming.add().unwrap()));
            going.del().unwrap();
            adding.join().unwrap();
        });

        assert!(coming.works(), "round {round}");
        host.assert_balanced(&everybody);
    }
    crowd[rounds % crowd.len()].del().unwrap();
    before.assert_same(&host.state(&everybody));
}

#[test]
fn gc_while_others_come_and_go_harms_nobody() {
    let network = Network::rnet("mynet", "10.7.0.0/24");
    let host = Host::with_outside();
    let crowd = crowd(&host, &network, 6);
    let everybody: Vec<&Guest<'_>> = crowd.iter().collect();
    let names: Vec<&str> = crowd.iter().map(|guest| guest.who.id.as_str()).collect();
    let before = host.state(&everybody);

    thread::scope(|scope| {
        let collecting = scope.spawn(|| (0..20).for_each(|_| crowd[0].gc(&names).unwrap()));
        all_at_once(&crowd, |guest| {
            for _ in 0..5 {
                guest.add().unwrap();
                assert!(guest.works());
                guest.del().unwrap();
            }
        });
        collecting.join().unwrap();
    });

    before.assert_same(&host.state(&everybody));
}

fn crowd<'a>(host: &'a Host, network: &'a Network, count: u16) -> Vec<Guest<'a>> {
    (0..count).map(|n| host.guest(network, &format!("c{n}")).publishing(8000 + n)).collect()
}

fn all_at_once(guests: &[Guest<'_>], act: impl Fn(&Guest<'_>) + Sync) {
    thread::scope(|scope| {
        let acting: Vec<_> = guests.iter().map(|guest| scope.spawn(|| act(guest))).collect();
        acting.into_iter().for_each(|acting| acting.join().unwrap());
    });
}
