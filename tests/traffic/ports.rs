//! Who gets a host port, who is refused it, and what the refusal says (docs/rules.md: P1, P4).

use std::thread;

use serde_json::{Value, json};

use crate::common::{LONG, Lab, Who, bridge, differences, publishing, rnet, with};
use crate::stage::{A, B, Flow, Guest, HOST, Published, Stage, all_get, to};

/// ADD of another container with `port`: refused, or not.
fn claim(stage: &Stage, network: &Value, name: &str, port: Published) -> Result<Guest, (u64, String)> {
    let (container, who) = stage.lab.container(name);
    let config = publishing(network, &[port]);
    let outcome = stage.lab.cni("ADD", "rnet", &who, &config);
    if outcome.status != 0 {
        return Err(outcome.refusal());
    }
    Ok(Guest { container, who, plugin: "rnet".into(), config, result: outcome.json() })
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
        let stage = Stage::new();
        let (_container, who) = stage.lab.container("0123456789abcdef");
        let who = who.args("IgnoreUnknown=1;K8S_POD_NAME=web");
        stage.lab.add("rnet", &who, &publishing(&rnet("a", &A), &[first]));
        // One more on the other network, so that a refusal does not begin or end that network.
        let b = rnet("b", &B);
        let _bystander = stage.attach("bystander", &b, &[]);
        let before = stage.lab.snapshot();

        let claimed = claim(&stage, &b, "second", second);

        match holder {
            Some(host) => {
                assert_eq!(claimed.map(|guest| guest.result), Err(taken(host)), "{first:?} {second:?}");
                let left = differences(&before, &stage.lab.snapshot());
                assert!(left.is_empty(), "{first:?} {second:?}: {left:#?}");
            }
            None => assert!(claimed.is_ok(), "{first:?} {second:?}: {:?}", claimed.err()),
        }
    }
}

/// One after another, in whatever order: any address shuts out all others, one address that address and any.
#[test]
fn of_claims_at_once_exactly_one_wins_each_conflict() {
    let stage = Stage::new();
    let network = rnet("a", &A);
    let hosts = ["", "127.0.0.1", "", HOST[0], "127.0.0.1"];
    for round in 0..5 {
        let claim_at =
            |nth: usize| claim(&stage, &network, &format!("c{round}-{nth}"), (hosts[nth], 8080, 80, "tcp"));
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
        claims.into_iter().flatten().for_each(|guest| stage.detach(&guest));
        assert_eq!(stage.lab.elements(), []);
    }
}

#[test]
fn a_refused_claim_leaves_the_first_answering() {
    let stage = Stage::new();
    let network = rnet("a", &A);
    let web = stage.attach("web", &network, &[("", 8080, 80, "tcp")]);
    let _server = web.serves(80);
    for port in [("", 8080, 80, "tcp"), (HOST[0], 8080, 80, "tcp")] {
        assert_eq!(claim(&stage, &network, "second", port).err().unwrap().0, 102);
        all_get(
            "web",
            &[
                ("outside", stage.outside.netns(), to(HOST[0], 8080)),
                ("host", stage.lab.host.netns(), to("127.0.0.1", 8080)),
            ],
        );
    }
    stage.detach(&web);
    let second = claim(&stage, &network, "second", ("", 8080, 80, "tcp")).unwrap();
    let _second = second.serves(80);
    all_get("second", &[("outside", stage.outside.netns(), to(HOST[0], 8080))]);
}

/// The holder's flows are its own: what it says later still comes from the port that was asked.
#[test]
fn a_refused_claim_leaves_flows_under_way_alone() {
    let stage = Stage::new();
    let network = rnet("a", &A);
    let web = stage.attach("web", &network, &[("", 5353, 53, "udp")]);
    let flow = Flow::begin(stage.outside.netns(), to(HOST[0], 5353), web.netns(), 53);

    let portmap = publishing(&json!({"type": "portmap"}), &[("", 5353, 53, "udp")]);
    let list = json!({"cniVersion": "1.0.0", "name": "chain", "plugins": [bridge("chain", &B), portmap]});
    let (_container, chained) = stage.lab.container("chained");
    for (who, host) in [("any", ""), ("single", HOST[0])] {
        assert_eq!(claim(&stage, &network, who, (host, 5353, 53, "udp")).err().unwrap().0, 102);
        assert!(flow.goes_on(), "after the refusal of {who}");
    }
    assert_eq!(stage.lab.add_list(&list, &chained).refusal().0, 102);
    assert!(flow.goes_on(), "after the refusal of portmap");
}

#[test]
fn some_ports_of_many_are_none() {
    let stage = Stage::new();
    let network = rnet("a", &A);
    let _web = stage.attach("web", &network, &[("", 8085, 80, "tcp")]);
    let before = stage.lab.elements().len();
    let (_container, who) = stage.lab.container("many");
    let many: Vec<Published> = (8080..8090).map(|port| ("", port, 80, "tcp")).collect();
    let refused = stage.lab.cni("ADD", "rnet", &who, &publishing(&network, &many)).refusal();
    assert_eq!(refused.1, "Bind for 0.0.0.0:8085 failed: port is already allocated, by \"web\" on \"a\"");
    assert_eq!(stage.lab.elements().len(), before);
}

#[test]
fn one_port_asked_for_twice_is_a_mistake() {
    let stage = Stage::new();
    for (first, second) in [
        (("", 8080, 80, "tcp"), ("", 8080, 81, "tcp")),
        ((HOST[0], 8080, 80, "tcp"), (HOST[0], 8080, 81, "tcp")),
    ] {
        let (_container, who) = stage.lab.container("twice");
        let config = publishing(&rnet("a", &A), &[first, second]);
        let refused = stage.lab.cni("ADD", "rnet", &who, &config).refusal();
        assert_eq!(refused.0, 7, "{refused:?}");
        assert_eq!(stage.lab.elements(), []);
    }
    // Nomad lists every port as tcp and as udp.
    let _nomad = stage.attach("nomad", &rnet("a", &A), &[("", 8080, 80, "tcp"), ("", 8080, 80, "udp")]);
}

#[test]
fn of_ones_own_ports_the_one_on_a_single_address_wins_there() {
    let stage = Stage::new();
    let guest = stage.attach("web", &rnet("a", &A), &[("", 8080, 80, "tcp"), (HOST[0], 8080, 81, "tcp")]);
    let _any = crate::stage::serve(guest.netns(), "0.0.0.0", 80, "any");
    let _one = crate::stage::serve(guest.netns(), "0.0.0.0", 81, "one");
    all_get("one", &[("outside", stage.outside.netns(), to(HOST[0], 8080))]);
    all_get("any", &[("the loopback", stage.lab.host.netns(), to("127.0.0.1", 8080))]);
}

/// Engines ask for a container's ports on each of its networks.
#[test]
fn ports_asked_for_on_two_networks_are_the_first_ones() {
    let stage = Stage::new();
    let ports = [("", 8080, 80, "tcp"), (HOST[0], 8081, 80, "tcp"), ("127.0.0.1", 8082, 80, "udp")];
    let web = stage.attach("web", &rnet("a", &A), &ports);
    let _server = web.serves(80);
    // One more on the other network, so that the second attachment does not begin or end it, nor its loopback.
    let b = rnet("b", &B);
    let _bystander = stage.attach("bystander", &b, &[("", 9090, 80, "tcp")]);
    let before = stage.lab.snapshot();

    let second = Who { ifname: "eth1".into(), ..web.who.clone() };
    let more = [&ports[..], &[("", 8083, 80, "tcp")]].concat();
    let config = publishing(&b, &more);
    let result = stage.lab.add("rnet", &second, &config);
    let config = with(&config, json!({"prevResult": result}));
    assert_eq!(stage.lab.cni("CHECK", "rnet", &second, &config).status, 0);
    let answers = |port| all_get("web", &[("outside", stage.outside.netns(), to(HOST[0], port))]);
    answers(8080);
    answers(8081);
    assert_eq!(claim(&stage, &b, "other", ("", 8083, 80, "tcp")).err().unwrap().0, 102);

    stage.lab.del("rnet", &second, &config);
    answers(8080);
    answers(8081);
    let left = differences(&before, &stage.lab.snapshot());
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn a_host_address_must_be_the_hosts() {
    let stage = Stage::new();
    let network = rnet("a", &A);
    let cases = [
        ("192.168.77.2", "cannot publish on 192.168.77.2: it is not an address of this host"),
        ("203.0.113.7", "cannot publish on 203.0.113.7: it is not an address of this host"),
        ("fd77::2", "cannot publish on fd77::2: it is not an address of this host"),
        ("::1", "cannot publish on [::1]: "),
        ("fe80::1", "cannot publish on [fe80::1]: "),
    ];
    for (host, text) in cases {
        let refused = claim(&stage, &network, "web", (host, 8080, 80, "tcp")).err().unwrap();
        assert!(refused.0 == 7 && refused.1.starts_with(text), "{refused:?}");
    }
    assert!(!stage.lab.links().contains(&"rnet-a".to_owned()));
}

#[test]
fn every_protocol_has_its_element() {
    let stage = Stage::new();
    let _web = stage.attach(
        "web",
        &rnet("a", &A),
        &[("", 8080, 80, "tcp"), ("", 8080, 80, "udp"), ("", 8080, 80, "SCTP"), (HOST[0], 9090, 90, "sctp")],
    );
    let elements = stage.lab.elements();
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
            let stage = Stage::new();
            let network = rnet("a", &A);
            let (dead, other) = (
                stage.attach("dead", &network, &[port]),
                stage.attach("other", &network, &[("", 8081, 80, "tcp")]),
            );
            dies(&stage.lab, dead);
            dies(&stage.lab, other);
            // Two ports of two dead.
            let living = stage.attach("living", &network, &[next, ("", 8081, 80, "tcp")]);
            let _server = living.serves(80);
            all_get("living", &[("outside", stage.outside.netns(), to(HOST[0], 8080))]);
        }
    }
}

fn dies(lab: &Lab, guest: Guest) {
    let veth = guest.result["interfaces"][1]["name"].as_str().unwrap().to_owned();
    guest.container.remove().unwrap();
    drop(guest);
    let begun = std::time::Instant::now();
    while lab.link(&veth).is_some() && begun.elapsed() < LONG {
        thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(lab.link(&veth), None);
}

/// nerdctl and podman hold a published port with a socket of their own by the time the plugin is called.
#[test]
fn a_listening_process_is_no_obstacle() {
    let stage = Stage::new();
    let _held = crate::stage::serve(stage.lab.host.netns(), "0.0.0.0", 8080, "a process");
    let web = stage.attach("web", &rnet("a", &A), &[("", 8080, 80, "tcp")]);
    let _server = web.serves(80);
    all_get("web", &[("outside", stage.outside.netns(), to(HOST[0], 8080))]);
}

#[test]
fn portmap_and_rnet_do_not_share_a_port_either() {
    let stage = Stage::new();
    let portmap = publishing(&json!({"type": "portmap"}), &[("", 8080, 80, "tcp")]);
    let list = json!({"cniVersion": "1.0.0", "name": "chain", "plugins": [bridge("chain", &B), portmap]});
    let (_container, who) = stage.lab.container("chained");
    let result = stage.lab.add_list(&list, &who).json();
    let refused = claim(&stage, &rnet("a", &A), "second", ("", 8080, 80, "tcp")).err().unwrap();
    assert_eq!(
        refused,
        (102, "Bind for 0.0.0.0:8080 failed: port is already allocated, by \"chained\" on \"chain\"".into())
    );
    assert_eq!(stage.lab.del_list(&list, &who, Some(&result)).status, 0);

    let web = claim(&stage, &rnet("a", &A), "web", ("", 8080, 80, "tcp")).unwrap();
    let (_other, other) = stage.lab.container("other");
    assert_eq!(stage.lab.add_list(&list, &other).refusal().0, 102);
    stage.detach(&web);
}
