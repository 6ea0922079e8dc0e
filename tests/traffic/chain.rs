//! bridge and portmap as a list: what their keys ask for, and nothing more.

use netns_fixtures::{Container, bridge_filter_settings};
use serde_json::{Value, json};

use crate::common::{LONG, Who, address, bridge, differences, publishing, with};
use crate::stage::{
    A, B, GATEWAY_A, HOST, Published, Stage, all_get, client, echo, echoes, none_get, page, serve, to,
};

pub const WEB: Published = ("", 8080, 80, "tcp");
pub const NAMES: Published = ("", 5353, 53, "udp");

/// A list of bridge, with hairpin as podman writes it, and portmap with `keys`.
pub fn list(name: &str, bridge_name: &str, subnets: &[&str], keys: Value, ports: &[Published]) -> Value {
    let bridge = with(&bridge(name, subnets), json!({"bridge": bridge_name, "hairpinMode": true}));
    let portmap = publishing(&with(&json!({"type": "portmap"}), keys), ports);
    json!({"cniVersion": "1.0.0", "name": name, "plugins": [bridge, portmap]})
}

/// A container that is attached by a list.
pub struct Chained {
    pub container: Container,
    pub who: Who,
    pub list: Value,
    pub result: Value,
}

pub fn attach(stage: &Stage, name: &str, list: &Value) -> Chained {
    let (container, who) = stage.lab.container(name);
    let result = stage.lab.add_list(list, &who).json();
    stage.await_port(&result);
    Chained { container, who, list: list.clone(), result }
}

/// `web` publishes on A; `peer` is its neighbour, `other` is on B.
pub fn cast(stage: &Stage, keys: Value) -> [Chained; 3] {
    [
        attach(stage, "web", &list("a", "br0", &A, keys.clone(), &[WEB, NAMES])),
        attach(stage, "peer", &list("a", "br0", &A, keys.clone(), &[])),
        attach(stage, "other", &list("b", "br1", &B, keys, &[])),
    ]
}

#[test]
fn a_published_port_answers_everybody() {
    for &on in bridge_filter_settings() {
        let stage = Stage::new();
        stage.set_bridge_netfilter(on);
        let [web, peer, other] = cast(&stage, json!({}));
        let (host, outside) = (stage.lab.host.netns(), stage.outside.netns());
        let (web, peer, other) = (web.container.netns(), peer.container.netns(), other.container.netns());
        let server = serve(web, "::", 80, "web");
        let _echo = echo(web, "::", 53);
        for ip in [0, 1] {
            let probes = [
                ("outside", outside, to(HOST[ip], 8080)),
                ("host", host, to(HOST[ip], 8080)),
                ("host by the gateway", host, to(GATEWAY_A[ip], 8080)),
                ("peer", peer, to(HOST[ip], 8080)),
                ("peer by the gateway", peer, to(GATEWAY_A[ip], 8080)),
                ("other", other, to(HOST[ip], 8080)),
                ("itself", web, to(HOST[ip], 8080)),
                ("itself by the gateway", web, to(GATEWAY_A[ip], 8080)),
            ];
            all_get("web", &probes);
            for (who, from, to) in probes {
                assert!(echoes(from, (to.ip(), 5353).into(), LONG), "{who} {to} {on}");
            }
            page(outside, to(HOST[ip], 8080), LONG);
            assert_eq!(client(&server), stage.outside.addresses()[ip].ip());
        }
        all_get("web", &[("loopback", host, to("127.0.0.1", 8080))]);
        assert_eq!(client(&server).to_string(), GATEWAY_A[0]);
    }
}

/// A network of that name has moved to another bridge and subnet.
#[test]
fn a_second_subnet_of_a_network_reaches_its_own_ports_too() {
    let stage = Stage::new();
    let plain = |bridge: &str, subnets: &[&str], port| {
        let mut list = list("n", bridge, subnets, json!({}), &[("", port, 80, "tcp")]);
        list["plugins"][0]["ipMasq"] = false.into();
        list
    };
    let old = attach(&stage, "old", &plain("br0", &A, 8080));
    let new = attach(&stage, "new", &plain("br1", &B, 8081));
    for (port, chained) in [(8081, &new), (8080, &old)] {
        let netns = chained.container.netns();
        let _server = serve(netns, "::", 80, &chained.who.id);
        let itself = |ip: usize| ("itself", netns, to(HOST[ip], port));
        all_get(&chained.who.id, &[itself(0), itself(1)]);
    }
}

#[test]
fn without_snat_the_client_is_seen_and_the_loopback_is_closed() {
    let stage = Stage::new();
    let [web, _peer, other] = cast(&stage, json!({"snat": false}));
    let host = stage.lab.host.netns();
    let server = serve(web.container.netns(), "::", 80, "web");
    all_get(
        "web",
        &[
            ("outside", stage.outside.netns(), to(HOST[0], 8080)),
            ("host", host, to(HOST[0], 8080)),
            ("other", other.container.netns(), to(HOST[0], 8080)),
        ],
    );
    assert_eq!(stage.lab.sysctl("ipv4/conf/br0/route_localnet").as_deref(), Some("0"));
    none_get(&[("loopback", host, to("127.0.0.1", 8080))]);
    page(stage.outside.netns(), to(HOST[0], 8080), LONG);
    assert_eq!(client(&server), stage.outside.address());
}

#[test]
fn with_masq_all_every_client_is_the_host() {
    let stage = Stage::new();
    let [web, peer, other] = cast(&stage, json!({"masqAll": true}));
    let server = serve(web.container.netns(), "::", 80, "web");
    for ip in [0, 1] {
        for from in
            [stage.outside.netns(), peer.container.netns(), other.container.netns(), web.container.netns()]
        {
            assert_eq!(page(from, to(HOST[ip], 8080), LONG).as_deref(), Some("web"));
            assert_eq!(client(&server).to_string(), GATEWAY_A[ip]);
        }
    }
}

/// A network of type `bridge` gets what its keys ask for: other tools route straight to its addresses.
#[test]
fn its_addresses_are_reached_directly() {
    let stage = Stage::new();
    let [web, _peer, other] = cast(&stage, json!({}));
    let _server = serve(web.container.netns(), "::", 80, "web");
    let _unpublished = serve(web.container.netns(), "::", 81, "web");
    for ip in [address(&web.result, false), address(&web.result, true)] {
        all_get(
            "web",
            &[
                ("outside", stage.outside.netns(), (ip, 80).into()),
                ("outside, unpublished", stage.outside.netns(), (ip, 81).into()),
                ("another network", other.container.netns(), (ip, 80).into()),
            ],
        );
    }
}

#[test]
fn what_leaves_is_masqueraded_only_if_asked_for() {
    let stage = Stage::new();
    let theirs = serve(stage.outside.netns(), "::", 80, "theirs");
    for masquerade in [true, false] {
        let config = with(&bridge("n", &A), json!({"ipMasq": masquerade}));
        let guest = stage.attach("one", &config, &[]);
        for ip in [0, 1] {
            let there = stage.outside.addresses()[ip].ip();
            assert_eq!(page(guest.netns(), (there, 80).into(), LONG).as_deref(), Some("theirs"));
            let own = if ip == 0 { guest.v4() } else { guest.v6() };
            let seen = if masquerade { HOST[ip].parse().unwrap() } else { own };
            assert_eq!(client(&theirs), seen, "{masquerade}");
        }
        stage.detach(&guest);
    }
}

#[test]
fn a_replaced_container_gets_the_flow_under_way() {
    let stage = Stage::new();
    let one = attach(&stage, "one", &list("a", "br0", &A, json!({}), &[NAMES]));
    let echo_one = echo(one.container.netns(), "::", 53);
    let client = netns_fixtures::UdpClient::bind(stage.outside.netns(), to("0.0.0.0", 40000)).unwrap();
    let answered = || client.exchange(to(HOST[0], 5353), b"hello", LONG).unwrap().is_some();
    assert!(answered());
    assert_eq!(stage.lab.del_list(&one.list, &one.who, Some(&one.result)).status, 0);
    let two = attach(&stage, "two", &one.list);
    let echo_two = echo(two.container.netns(), "::", 53);
    assert!(answered());
    assert_eq!((echo_one.peers().len(), echo_two.peers().len()), (1, 1));
}

/// DEL goes by the record: the ports may have changed, the result be lost, the namespace gone (docs/rules.md: G1, G2).
#[test]
fn a_del_with_anything_missing_leaves_nothing() {
    let stage = Stage::new();
    let full = list("a", "br0", &A, json!({}), &[WEB, NAMES]);
    // Folders and the bridge stay.
    let first = attach(&stage, "web", &full);
    assert_eq!(stage.lab.del_list(&full, &first.who, Some(&first.result)).status, 0);
    drop(first);
    let before = stage.lab.snapshot();
    let mutated = [
        ("nothing", full.clone()),
        ("ports gone", list("a", "br0", &A, json!({}), &[])),
        ("other ports", list("a", "br0", &A, json!({}), &[("", 9999, 1, "tcp")])),
        (
            "bad ports",
            list("a", "br0", &A, json!({"backend": "x", "markMasqBit": 99}), &[("bad", 0, 0, "abc")]),
        ),
        ("another bridge", list("a", "br9", &A, json!({}), &[WEB])),
        ("other ranges", list("a", "br0", &B, json!({}), &[WEB])),
    ];
    for (what, list) in &mutated {
        for (netns, args) in [("as it was", ""), ("", "nonsense"), ("/run/netns/none", "IP=bad;X=y")] {
            for result in [true, false] {
                let web = attach(&stage, "web", &full);
                let result = result.then_some(&web.result);
                let who = web.who.clone().args(args);
                let who = if netns == "as it was" { who } else { who.netns(netns) };
                for _ in 0..2 {
                    let outcome = stage.lab.del_list(list, &who, result);
                    assert_eq!(outcome.status, 0, "{what} {netns:?} {outcome:?}");
                }
                drop(web);
                let left = differences(&before, &stage.lab.snapshot());
                assert!(left.is_empty(), "{what} {netns:?}: {left:#?}");
            }
        }
    }
}
