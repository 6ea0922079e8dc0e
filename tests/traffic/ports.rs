//! Who gets a host port, who is refused it, and what the refusal says (docs/rules.md: P1, P4).

use std::thread;

use serde_json::{Value, json};

use crate::common::{
    Guest, Host, Network, Published, Who, bridge, differences, mappings, publishing, rnet, wait_until, with,
};
use crate::packets::{A, B, Flow, HOST, all_get, to};

/// ADD of another container with `port`: refused, or not.
fn claim<'h>(
    host: &'h Host,
    network: &Value,
    name: &str,
    port: Published,
) -> Result<Guest<'h>, (u64, String)> {
    let mut guest = host.guest(&Network::of(network), name);
    guest.ports = mappings(&[port]);
    guest.add().map_err(|outcome| outcome.refusal())?;
    Ok(guest)
}

fn taken(host: &str) -> (u64, String) {
    (102, format!("Bind for {host}:8080 failed: port is already allocated, by \"web\" on \"a\""))
}

#[test]
fn a_taken_port_is_refused_and_its_holder_named() {
    let cases: [(Published, Published, Option<&str>); 14] = [
        (("", 8080, 80, "tcp"), ("", 8080, 80, "tcp"), Some("0.0.0.0")),
        (("", 8080, 80, "tcp"), ("0.0.0.0", 8080, 90, "TCP"), Some("0.0.0.0")),
        (("", 8080, 80, "tcp"), ("::", 8080, 80, "tcp"), Some("[::]")),
        (("", 8080, 80, "tcp"), (HOST[0], 8080, 80, "tcp"), Some(HOST[0])),
        (("", 8080, 80, "tcp"), ("127.0.0.1", 8080, 80, "tcp"), Some("127.0.0.1")),
        (("", 8080, 80, "tcp"), (HOST[1], 8080, 80, "tcp"), Some("[fd77::1]")),
        ((HOST[0], 8080, 80, "tcp"), (HOST[0], 8080, 80, "tcp"), Some(HOST[0])),
        ((HOST[0], 8080, 80, "tcp"), ("", 8080, 80, "tcp"), Some("0.0.0.0")),
        ((HOST[1], 8080, 80, "udp"), ("", 8080, 80, "udp"), Some("[::]")),
        ((HOST[0], 8080, 80, "tcp"), ("127.0.0.1", 8080, 80, "tcp"), None),
        ((HOST[0], 8080, 80, "tcp"), ("::", 8080, 80, "tcp"), None),
        (("", 8080, 80, "tcp"), ("", 8080, 80, "udp"), None),
        (("", 8080, 80, "udp"), ("", 8080, 80, "sctp"), None),
        (("", 8080, 80, "tcp"), ("", 8081, 80, "tcp"), None),
    ];
    for (first, second, holder) in cases {
        let host = Host::connected();
        let (_container, who) = host.container("0123456789abcdef");
        let who = who.args("IgnoreUnknown=1;K8S_POD_NAME=web");
        host.add("rnet", &who, &publishing(&rnet("a", &A), &[first]));
        // One more on the other network, so that a refusal does not begin or end that network.
        let b = rnet("b", &B);
        let _bystander = host.attach("bystander", &b, &[]);
        let before = host.snapshot();

        let claimed = claim(&host, &b, "second", second);

        match holder {
            Some(address) => {
                assert_eq!(claimed.map(|guest| guest.result()), Err(taken(address)), "{first:?} {second:?}");
                let left = differences(&before, &host.snapshot());
                assert!(left.is_empty(), "{first:?} {second:?}: {left:#?}");
            }
            None => assert!(claimed.is_ok(), "{first:?} {second:?}: {:?}", claimed.err()),
        }
    }
}

/// One after another, in whatever order: any address shuts out all others, one address that address and any.
#[test]
fn of_claims_at_once_exactly_one_wins_each_conflict() {
    let host = Host::connected();
    let network = rnet("a", &A);
    let hosts = ["", "127.0.0.1", "", HOST[0], "127.0.0.1"];
    for round in 0..5 {
        let claim_at =
            |nth: usize| claim(&host, &network, &format!("c{round}-{nth}"), (hosts[nth], 8080, 80, "tcp"));
        let claims: Vec<_> = thread::scope(|scope| {
            let claims: Vec<_> = (0..hosts.len()).map(|nth| scope.spawn(move || claim_at(nth))).collect();
            claims.into_iter().map(|claim| claim.join().unwrap()).collect()
        });

        let refused = claims.iter().filter_map(|claim| claim.as_ref().err());
        assert!(refused.clone().all(|(code, _)| *code == 102), "{:?}", refused.collect::<Vec<_>>());
        let mut winners: Vec<_> =
            hosts.iter().zip(&claims).filter(|(_, claim)| claim.is_ok()).map(|(host, _)| *host).collect();
        winners.sort_unstable();
        assert!(winners == [""] || winners == ["127.0.0.1", HOST[0]], "{winners:?}");
        claims.into_iter().flatten().for_each(|guest| guest.detach());
        assert_eq!(host.elements(), []);
    }
}

#[test]
fn a_refused_claim_leaves_the_first_answering() {
    let host = Host::connected();
    let network = rnet("a", &A);
    let web = host.attach("web", &network, &[("", 8080, 80, "tcp")]);
    let _server = web.serves(80);
    for port in [("", 8080, 80, "tcp"), (HOST[0], 8080, 80, "tcp")] {
        assert_eq!(claim(&host, &network, "second", port).err().unwrap().0, 102);
        all_get(
            "web",
            &[
                ("outside", host.neighbour().netns(), to(HOST[0], 8080)),
                ("host", host.netns(), to("127.0.0.1", 8080)),
            ],
        );
    }
    web.detach();
    let second = claim(&host, &network, "second", ("", 8080, 80, "tcp")).unwrap();
    let _second = second.serves(80);
    all_get("second", &[("outside", host.neighbour().netns(), to(HOST[0], 8080))]);
}

/// The holder's flows are its own: what it says later still comes from the port that was asked.
#[test]
fn a_refused_claim_leaves_flows_under_way_alone() {
    let host = Host::connected();
    let network = rnet("a", &A);
    let web = host.attach("web", &network, &[("", 5353, 53, "udp")]);
    let flow = Flow::begin(host.neighbour().netns(), to(HOST[0], 5353), web.netns(), 53);

    let portmap = publishing(&json!({"type": "portmap"}), &[("", 5353, 53, "udp")]);
    let list = json!({"cniVersion": "1.0.0", "name": "chain", "plugins": [bridge("chain", &B), portmap]});
    let (_container, chained) = host.container("chained");
    for (who, address) in [("any", ""), ("single", HOST[0])] {
        assert_eq!(claim(&host, &network, who, (address, 5353, 53, "udp")).err().unwrap().0, 102);
        assert!(flow.goes_on(), "after the refusal of {who}");
    }
    assert_eq!(host.add_list(&list, &chained).refusal().0, 102);
    assert!(flow.goes_on(), "after the refusal of portmap");
}

#[test]
fn some_ports_of_many_are_none() {
    let host = Host::connected();
    let network = rnet("a", &A);
    let _web = host.attach("web", &network, &[("", 8085, 80, "tcp")]);
    let before = host.elements().len();
    let (_container, who) = host.container("many");
    let many: Vec<Published> = (8080..8090).map(|port| ("", port, 80, "tcp")).collect();
    let refused = host.cni("ADD", "rnet", &who, &publishing(&network, &many)).refusal();
    assert_eq!(refused.1, "Bind for 0.0.0.0:8085 failed: port is already allocated, by \"web\" on \"a\"");
    assert_eq!(host.elements().len(), before);
}

#[test]
fn one_port_asked_for_twice_is_a_mistake() {
    let host = Host::connected();
    for (first, second) in [
        (("", 8080, 80, "tcp"), ("", 8080, 81, "tcp")),
        ((HOST[0], 8080, 80, "tcp"), (HOST[0], 8080, 81, "tcp")),
    ] {
        let (_container, who) = host.container("twice");
        let config = publishing(&rnet("a", &A), &[first, second]);
        let refused = host.cni("ADD", "rnet", &who, &config).refusal();
        assert_eq!(refused.0, 7, "{refused:?}");
        assert_eq!(host.elements(), []);
    }
    // Nomad lists every port as tcp and as udp.
    let _nomad = host.attach("nomad", &rnet("a", &A), &[("", 8080, 80, "tcp"), ("", 8080, 80, "udp")]);
}

#[test]
fn of_ones_own_ports_the_one_on_a_single_address_wins_there() {
    let host = Host::connected();
    let guest = host.attach("web", &rnet("a", &A), &[("", 8080, 80, "tcp"), (HOST[0], 8080, 81, "tcp")]);
    let _any = crate::packets::serve(guest.netns(), "0.0.0.0", 80, "any");
    let _one = crate::packets::serve(guest.netns(), "0.0.0.0", 81, "one");
    all_get("one", &[("outside", host.neighbour().netns(), to(HOST[0], 8080))]);
    all_get("any", &[("the loopback", host.netns(), to("127.0.0.1", 8080))]);
}

/// Engines ask for a container's ports on each of its networks.
#[test]
fn ports_asked_for_on_two_networks_are_the_first_ones() {
    let host = Host::connected();
    let ports = [("", 8080, 80, "tcp"), (HOST[0], 8081, 80, "tcp"), ("127.0.0.1", 8082, 80, "udp")];
    let web = host.attach("web", &rnet("a", &A), &ports);
    let _server = web.serves(80);
    // One more on the other network, so that the second attachment does not begin or end it, nor its loopback.
    let b = rnet("b", &B);
    let _bystander = host.attach("bystander", &b, &[("", 9090, 80, "tcp")]);
    let before = host.snapshot();

    let second = Who { ifname: "eth1".into(), ..web.who.clone() };
    let more = [&ports[..], &[("", 8083, 80, "tcp")]].concat();
    let config = publishing(&b, &more);
    let result = host.add("rnet", &second, &config);
    let config = with(&config, json!({"prevResult": result}));
    assert_eq!(host.cni("CHECK", "rnet", &second, &config).status, 0);
    let answers = |port| all_get("web", &[("outside", host.neighbour().netns(), to(HOST[0], port))]);
    answers(8080);
    answers(8081);
    assert_eq!(claim(&host, &b, "other", ("", 8083, 80, "tcp")).err().unwrap().0, 102);

    host.del("rnet", &second, &config);
    answers(8080);
    answers(8081);
    let left = differences(&before, &host.snapshot());
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn a_host_address_must_be_the_hosts() {
    let host = Host::connected();
    let network = rnet("a", &A);
    let cases = [
        ("192.168.77.2", "cannot publish on 192.168.77.2: it is not an address of this host"),
        ("203.0.113.7", "cannot publish on 203.0.113.7: it is not an address of this host"),
        ("fd77::2", "cannot publish on fd77::2: it is not an address of this host"),
        ("::1", "cannot publish on [::1]: "),
        ("fe80::1", "cannot publish on [fe80::1]: "),
    ];
    for (address, text) in cases {
        let refused = claim(&host, &network, "web", (address, 8080, 80, "tcp")).err().unwrap();
        assert!(refused.0 == 7 && refused.1.starts_with(text), "{refused:?}");
    }
    assert!(!host.links().contains(&"rnet-a".to_owned()));
}

#[test]
fn every_protocol_has_its_element() {
    let host = Host::connected();
    let _web = host.attach(
        "web",
        &rnet("a", &A),
        &[("", 8080, 80, "tcp"), ("", 8080, 80, "udp"), ("", 8080, 80, "SCTP"), (HOST[0], 9090, 90, "sctp")],
    );
    let elements = host.elements();
    let published = |protocol: &str| {
        let found = elements.iter().filter(|(element, _)| match element {
            nft::Element::Publish { protocol: found, .. } => found.to_string() == protocol,
            _ => false,
        });
        found.count()
    };
    // One for each family that the host address fits.
    assert_eq!((published("tcp"), published("udp"), published("sctp")), (2, 2, 3));
}

/// Its namespace is gone and nobody called DEL: `ctr run -d` never does.
#[test]
fn a_dead_holder_is_replaced() {
    for port in [("", 8080, 80, "tcp"), (HOST[0], 8080, 80, "tcp")] {
        for next in [("", 8080, 80, "tcp"), (HOST[0], 8080, 80, "tcp")] {
            let host = Host::connected();
            let network = rnet("a", &A);
            let (dead, other) = (
                host.attach("dead", &network, &[port]),
                host.attach("other", &network, &[("", 8081, 80, "tcp")]),
            );
            dies(&host, dead);
            dies(&host, other);
            // Two ports of two dead.
            let living = host.attach("living", &network, &[next, ("", 8081, 80, "tcp")]);
            let _server = living.serves(80);
            all_get("living", &[("outside", host.neighbour().netns(), to(HOST[0], 8080))]);
        }
    }
}

fn dies(host: &Host, guest: Guest<'_>) {
    let port = guest.port();
    guest.container.remove().unwrap();
    drop(guest);
    wait_until("its pair is gone", || host.link(&port).is_none());
}

/// nerdctl and podman hold a published port with a socket of their own by the time the plugin is called.
#[test]
fn a_listening_process_is_no_obstacle() {
    let host = Host::connected();
    let _held = crate::packets::serve(host.netns(), "0.0.0.0", 8080, "a process");
    let web = host.attach("web", &rnet("a", &A), &[("", 8080, 80, "tcp")]);
    let _server = web.serves(80);
    all_get("web", &[("outside", host.neighbour().netns(), to(HOST[0], 8080))]);
}

#[test]
fn portmap_and_rnet_do_not_share_a_port_either() {
    let host = Host::connected();
    let portmap = publishing(&json!({"type": "portmap"}), &[("", 8080, 80, "tcp")]);
    let list = json!({"cniVersion": "1.0.0", "name": "chain", "plugins": [bridge("chain", &B), portmap]});
    let (_container, who) = host.container("chained");
    let result = host.add_list(&list, &who).json();
    let refused = claim(&host, &rnet("a", &A), "second", ("", 8080, 80, "tcp")).err().unwrap();
    assert_eq!(
        refused,
        (102, "Bind for 0.0.0.0:8080 failed: port is already allocated, by \"chained\" on \"chain\"".into())
    );
    assert_eq!(host.del_list(&list, &who, Some(&result)).status, 0);

    let web = claim(&host, &rnet("a", &A), "web", ("", 8080, 80, "tcp")).unwrap();
    let (_other, other) = host.container("other");
    assert_eq!(host.add_list(&list, &other).refusal().0, 102);
    web.detach();
}
