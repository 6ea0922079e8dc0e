//! Port 53 belongs to another program: questions are redirected around it.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use netns_fixtures::{Container, lookup};
use serde_json::json;

use crate::common::{Host, SOON, wait_until, with};
use crate::server::{GATEWAY, LONG, ask, at, known, mynet, named};

/// It must serve again within this (G8).
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn somebody_elses_port_53_is_gone_around() {
    let host = Host::forwarding();
    let before = host.snapshot();
    let everywhere = host.run(|| UdpSocket::bind("0.0.0.0:53").unwrap()).unwrap();
    let (_web, web_who, web_ip) = host.member("web", &mynet());
    let (db, db_who, _) = host.member("db", &mynet());

    assert_eq!(ask(&db, "web"), known(&[web_ip]));
    let from_host = lookup(host.netns(), at(GATEWAY), "web", false, LONG).unwrap();
    assert_eq!(from_host, Some(known(&[web_ip])));
    let port = host.status().json()["listeners"][0]["port"].as_u64().unwrap();
    assert_ne!(port, 53);

    // The redirect comes back with everything else.
    host.firewall(|firewall| firewall.drop_tables().unwrap());
    let (_late, late_who, _) = host.member("late", &mynet());
    assert_eq!(ask(&db, "web"), known(&[web_ip]));

    // A server that starts anew stays where the ruleset sends the questions.
    drop(everywhere);
    host.kill_server();
    let (_more, more_who, _) = host.member("more", &mynet());
    assert_eq!(host.status().json()["listeners"][0]["port"], json!(port));
    assert_eq!(ask(&db, "web"), known(&[web_ip]));

    for who in [&web_who, &db_who, &late_who, &more_who] {
        host.del("rnet", who, &mynet());
    }
    host.is_as(&before);
}

/// However a server comes back, and whoever has port 53 by then: all networks have their names, not only the ADD's own.
#[test]
fn all_networks_are_served_around_port_53_when_the_server_comes_back() {
    for (was_taken, is_taken) in [(true, true), (true, false), (false, true)] {
        for by_hint in [true, false] {
            let host = Host::forwarding();
            let take =
                |taken: bool| taken.then(|| host.run(|| UdpSocket::bind("0.0.0.0:53").unwrap()).unwrap());
            let back_net = named("back", &["10.8.0.0/24"]);
            let was = take(was_taken);
            let (web, _, web_ip) = host.member("web", &mynet());
            let (db, _, db_ip) = host.member("db", &back_net);
            host.kill_server();
            drop(was);
            let is = take(is_taken);

            if by_hint {
                host.rnet("dns serve --detach").silent();
            } else {
                host.member("more", &mynet());
            }

            let begun = Instant::now();
            let patient = |container: &Container, gateway, name| {
                let answer = || lookup(container.netns(), at(gateway), name, false, SOON).ok().flatten();
                wait_until("an answer", || answer().is_some());
                answer().unwrap()
            };
            let what = format!("{was_taken} {is_taken} {by_hint}");
            assert_eq!(patient(&web, GATEWAY, "web"), known(&[web_ip]), "{what}");
            assert_eq!(patient(&db, "10.8.0.1", "db"), known(&[db_ip]), "{what}");
            assert!(begun.elapsed() < SECOND, "{what}: {:?}", begun.elapsed());
            drop(is);
        }
    }
}

/// The places that are on record are somebody else's by now.
#[test]
fn a_server_that_finds_its_high_port_taken_moves_all_questions_on() {
    let host = Host::forwarding();
    let everywhere = host.run(|| UdpSocket::bind("0.0.0.0:53").unwrap()).unwrap();
    let (web, _, web_ip) = host.member("web", &mynet());
    let port = host.status().json()["listeners"][0]["port"].as_u64().unwrap() as u16;
    host.kill_server();
    let taken = host.run(|| UdpSocket::bind(("0.0.0.0", port)).unwrap()).unwrap();

    host.rnet("dns serve --detach").silent();

    wait_until("an answer", || {
        lookup(web.netns(), at(GATEWAY), "web", false, SOON)
            .is_ok_and(|answer| answer == Some(known(&[web_ip])))
    });
    drop((everywhere, taken));
}

/// Two lists share a bridge, and so its gateway and the way around.
#[test]
fn networks_of_one_bridge_go_around_together() {
    let host = Host::forwarding();
    let everywhere = host.run(|| UdpSocket::bind("0.0.0.0:53").unwrap()).unwrap();
    let on = |name: &str| with(&named(name, &["10.7.0.0/24"]), json!({"bridge": "br-shared"}));
    let (web, web_who, web_ip) = host.member("web", &on("one"));
    let second = with(
        &on("two"),
        json!({"ipam": {"ranges": [[{"subnet": "10.7.0.0/24", "rangeStart": "10.7.0.100"}]]}}),
    );
    let (db, db_who, db_ip) = host.member("db", &second);

    assert_eq!((ask(&web, "web"), ask(&db, "db")), (known(&[web_ip]), known(&[db_ip])));
    // Once more from the start, after somebody flushed it.
    host.del("rnet", &web_who, &on("one"));
    host.firewall(|firewall| firewall.drop_tables().unwrap());
    let (web, web_who, web_ip) = host.member("web2", &on("one"));
    assert_eq!((ask(&web, "web2"), ask(&db, "db")), (known(&[web_ip]), known(&[db_ip])));

    host.del("rnet", &web_who, &on("one"));
    assert_eq!(ask(&db, "db"), known(&[db_ip]), "the other still needs it");
    host.del("rnet", &db_who, &second);
    assert_eq!(host.elements(), []);
    drop(everywhere);
}

#[test]
fn a_server_that_listens_elsewhere_does_not_keep_a_second_network_from_its_port() {
    let host = Host::forwarding();
    let taken = host.outside(&["192.0.2.0/24".parse().unwrap()]).unwrap();
    let socket = host.run(|| UdpSocket::bind((taken.host_address(), 53)).unwrap()).unwrap();
    let (web, _, web_ip) = host.member("web", &mynet());
    assert_eq!(ask(&web, "web"), known(&[web_ip]));
    assert_eq!(host.status().json()["listeners"][0]["port"], json!(53), "it takes one address, not all");
    drop(socket);
}
