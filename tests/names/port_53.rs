//! Port 53 belongs to another program: questions are redirected around it.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use netns_fixtures::{Container, lookup};
use serde_json::json;

use crate::common::{Guest, Host, SOON, wait_until, with};
use crate::server::{GATEWAY, LONG, ask, at, known, mynet, named};

/// It must serve again within this (G8).
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn questions_are_redirected_around_a_port_53_that_is_taken() {
    let host = Host::forwarding();
    let before = host.snapshot();
    let everywhere = host.run(|| UdpSocket::bind("0.0.0.0:53").unwrap()).unwrap();
    let web = host.join("web", &mynet());
    let db = host.join("db", &mynet());

    assert_eq!(ask(&db, "web"), known(&[web.v4()]));
    let from_host = lookup(host.netns(), at(GATEWAY), "web", false, LONG).unwrap();
    assert_eq!(from_host, Some(known(&[web.v4()])));
    let port = host.status().json()["listeners"][0]["port"].as_u64().unwrap();
    assert_ne!(port, 53);

    // The redirect comes back with everything else.
    host.firewall(|firewall| firewall.drop_tables().unwrap());
    let late = host.join("late", &mynet());
    assert_eq!(ask(&db, "web"), known(&[web.v4()]));

    // A server that starts anew stays where the ruleset sends the questions.
    drop(everywhere);
    host.kill_server();
    let more = host.join("more", &mynet());
    assert_eq!(host.status().json()["listeners"][0]["port"], json!(port));
    assert_eq!(ask(&db, "web"), known(&[web.v4()]));

    [web, db, late, more].iter().for_each(Guest::detach);
    host.is_as(&before);
}

/// However the server comes back, and whether port 53 is taken then: all networks have their names, not only that of the ADD.
#[test]
fn all_networks_are_served_around_port_53_when_the_server_comes_back() {
    for (was_taken, is_taken) in [(true, true), (true, false), (false, true)] {
        for by_hint in [true, false] {
            let host = Host::forwarding();
            let take =
                |taken: bool| taken.then(|| host.run(|| UdpSocket::bind("0.0.0.0:53").unwrap()).unwrap());
            let back_net = named("back", &["10.8.0.0/24"]);
            let was = take(was_taken);
            let web = host.join("web", &mynet());
            let db = host.join("db", &back_net);
            host.kill_server();
            drop(was);
            let is = take(is_taken);

            if by_hint {
                host.rnet("dns serve --detach").silent();
            } else {
                host.join("more", &mynet());
            }

            let begun = Instant::now();
            let patient = |container: &Container, gateway, name| {
                let answer = || lookup(container.netns(), at(gateway), name, false, SOON).ok().flatten();
                wait_until("an answer", || answer().is_some());
                answer().unwrap()
            };
            let what = format!("{was_taken} {is_taken} {by_hint}");
            assert_eq!(patient(&web, GATEWAY, "web"), known(&[web.v4()]), "{what}");
            assert_eq!(patient(&db, "10.8.0.1", "db"), known(&[db.v4()]), "{what}");
            assert!(begun.elapsed() < SECOND, "{what}: {:?}", begun.elapsed());
            drop(is);
        }
    }
}

/// The ports that are on record are taken by another program now.
#[test]
fn a_server_that_finds_its_high_port_taken_moves_all_questions_on() {
    let host = Host::forwarding();
    let everywhere = host.run(|| UdpSocket::bind("0.0.0.0:53").unwrap()).unwrap();
    let web = host.join("web", &mynet());
    let port = host.status().json()["listeners"][0]["port"].as_u64().unwrap() as u16;
    host.kill_server();
    let taken = host.run(|| UdpSocket::bind(("0.0.0.0", port)).unwrap()).unwrap();

    host.rnet("dns serve --detach").silent();

    wait_until("an answer", || {
        lookup(web.netns(), at(GATEWAY), "web", false, SOON)
            .is_ok_and(|answer| answer == Some(known(&[web.v4()])))
    });
    drop((everywhere, taken));
}

/// Two lists share a bridge, and so its gateway and the way around.
#[test]
fn networks_of_one_bridge_go_around_together() {
    let host = Host::forwarding();
    let everywhere = host.run(|| UdpSocket::bind("0.0.0.0:53").unwrap()).unwrap();
    let on = |name: &str| with(&named(name, &["10.7.0.0/24"]), json!({"bridge": "br-shared"}));
    let web = host.join("web", &on("one"));
    let second = with(
        &on("two"),
        json!({"ipam": {"ranges": [[{"subnet": "10.7.0.0/24", "rangeStart": "10.7.0.100"}]]}}),
    );
    let db = host.join("db", &second);

    assert_eq!((ask(&web, "web"), ask(&db, "db")), (known(&[web.v4()]), known(&[db.v4()])));
    // Once more from the start, after a flush.
    web.detach();
    host.firewall(|firewall| firewall.drop_tables().unwrap());
    let web = host.join("web2", &on("one"));
    assert_eq!((ask(&web, "web2"), ask(&db, "db")), (known(&[web.v4()]), known(&[db.v4()])));

    web.detach();
    assert_eq!(ask(&db, "db"), known(&[db.v4()]), "the other still needs it");
    db.detach();
    assert_eq!(host.elements(), []);
    drop(everywhere);
}

#[test]
fn a_server_that_listens_elsewhere_does_not_keep_a_second_network_from_its_port() {
    let host = Host::forwarding();
    let taken = host.outside(&["192.0.2.0/24".parse().unwrap()]).unwrap();
    let socket = host.run(|| UdpSocket::bind((taken.host_address(), 53)).unwrap()).unwrap();
    let web = host.join("web", &mynet());
    assert_eq!(ask(&web, "web"), known(&[web.v4()]));
    assert_eq!(host.status().json()["listeners"][0]["port"], json!(53), "it takes one address, not all");
    drop(socket);
}
