//! bridge and portmap as a list: what their keys ask for, and nothing more.

use netns_fixtures::bridge_filter_settings;
use serde_json::{Value, json};

use crate::common::{Guest, Host, LONG, Published, bridge, differences, publishing, with};
use crate::packets::{A, B, GATEWAY_A, HOST, all_get, client, echo, echoes, none_get, page, serve, to};

pub const WEB: Published = ("", 8080, 80, "tcp");
pub const NAMES: Published = ("", 5353, 53, "udp");

/// A list of bridge, with hairpin as podman writes it, and portmap with `keys`.
pub fn list(name: &str, bridge_name: &str, subnets: &[&str], keys: Value, ports: &[Published]) -> Value {
    let bridge = with(&bridge(name, subnets), json!({"bridge": bridge_name, "hairpinMode": true}));
    let portmap = publishing(&with(&json!({"type": "portmap"}), keys), ports);
    json!({"cniVersion": "1.0.0", "name": name, "plugins": [bridge, portmap]})
}

/// `web` publishes on A; `peer` is its neighbour, `other` is on B.
pub fn cast(host: &Host, keys: Value) -> [Guest<'_>; 3] {
    [
        host.attach_list("web", &list("a", "br0", &A, keys.clone(), &[WEB, NAMES])),
        host.attach_list("peer", &list("a", "br0", &A, keys.clone(), &[])),
        host.attach_list("other", &list("b", "br1", &B, keys, &[])),
    ]
}

#[test]
fn a_published_port_answers_everybody() {
    for &on in bridge_filter_settings() {
        let host = Host::connected();
        host.set_bridge_netfilter(on);
        let [web, peer, other] = cast(&host, json!({}));
        let (here, outside) = (host.netns(), host.neighbour().netns());
        let (web, peer, other) = (web.netns(), peer.netns(), other.netns());
        let server = serve(web, "::", 80, "web");
        let _echo = echo(web, "::", 53);
        for ip in [0, 1] {
            let probes = [
                ("outside", outside, to(HOST[ip], 8080)),
                ("host", here, to(HOST[ip], 8080)),
                ("host by the gateway", here, to(GATEWAY_A[ip], 8080)),
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
            assert_eq!(client(&server), host.neighbour().addresses()[ip].ip());
        }
        all_get("web", &[("loopback", here, to("127.0.0.1", 8080))]);
        assert_eq!(client(&server).to_string(), GATEWAY_A[0]);
    }
}

/// A network of that name has moved to another bridge and subnet.
#[test]
fn a_second_subnet_of_a_network_reaches_its_own_ports_too() {
    let host = Host::connected();
    let plain = |bridge: &str, subnets: &[&str], port| {
        let mut list = list("n", bridge, subnets, json!({}), &[("", port, 80, "tcp")]);
        list["plugins"][0]["ipMasq"] = false.into();
        list
    };
    let old = host.attach_list("old", &plain("br0", &A, 8080));
    let new = host.attach_list("new", &plain("br1", &B, 8081));
    for (port, chained) in [(8081, &new), (8080, &old)] {
        let netns = chained.netns();
        let _server = serve(netns, "::", 80, &chained.who.id);
        let itself = |ip: usize| ("itself", netns, to(HOST[ip], port));
        all_get(&chained.who.id, &[itself(0), itself(1)]);
    }
}

#[test]
fn without_snat_the_client_is_seen_and_the_loopback_is_closed() {
    let host = Host::connected();
    let [web, _peer, other] = cast(&host, json!({"snat": false}));
    let here = host.netns();
    let server = serve(web.netns(), "::", 80, "web");
    all_get(
        "web",
        &[
            ("outside", host.neighbour().netns(), to(HOST[0], 8080)),
            ("host", here, to(HOST[0], 8080)),
            ("other", other.netns(), to(HOST[0], 8080)),
        ],
    );
    assert_eq!(host.sysctl("ipv4/conf/br0/route_localnet").as_deref(), Some("0"));
    none_get(&[("loopback", here, to("127.0.0.1", 8080))]);
    page(host.neighbour().netns(), to(HOST[0], 8080), LONG);
    assert_eq!(client(&server), host.neighbour().address());
}

#[test]
fn with_masq_all_every_client_is_the_host() {
    let host = Host::connected();
    let [web, peer, other] = cast(&host, json!({"masqAll": true}));
    let server = serve(web.netns(), "::", 80, "web");
    for ip in [0, 1] {
        for from in [host.neighbour().netns(), peer.netns(), other.netns(), web.netns()] {
            assert_eq!(page(from, to(HOST[ip], 8080), LONG).as_deref(), Some("web"));
            assert_eq!(client(&server).to_string(), GATEWAY_A[ip]);
        }
    }
}

/// A network of type `bridge` gets what its keys ask for: other tools route straight to its addresses.
#[test]
fn its_addresses_are_reached_directly() {
    let host = Host::connected();
    let [web, _peer, other] = cast(&host, json!({}));
    let _server = serve(web.netns(), "::", 80, "web");
    let _unpublished = serve(web.netns(), "::", 81, "web");
    for ip in web.both() {
        all_get(
            "web",
            &[
                ("outside", host.neighbour().netns(), (ip, 80).into()),
                ("outside, unpublished", host.neighbour().netns(), (ip, 81).into()),
                ("another network", other.netns(), (ip, 80).into()),
            ],
        );
    }
}

#[test]
fn what_leaves_is_masqueraded_only_if_asked_for() {
    let host = Host::connected();
    let theirs = serve(host.neighbour().netns(), "::", 80, "theirs");
    for masquerade in [true, false] {
        let config = with(&bridge("n", &A), json!({"ipMasq": masquerade}));
        let guest = host.attach("one", &config, &[]);
        for ip in [0, 1] {
            let there = host.neighbour().addresses()[ip].ip();
            assert_eq!(page(guest.netns(), (there, 80).into(), LONG).as_deref(), Some("theirs"));
            let own = if ip == 0 { guest.v4() } else { guest.v6() };
            let seen = if masquerade { HOST[ip].parse().unwrap() } else { own };
            assert_eq!(client(&theirs), seen, "{masquerade}");
        }
        guest.detach();
    }
}

#[test]
fn a_replaced_container_gets_the_flow_under_way() {
    let host = Host::connected();
    let one = host.attach_list("one", &list("a", "br0", &A, json!({}), &[NAMES]));
    let echo_one = echo(one.netns(), "::", 53);
    let client = netns_fixtures::UdpClient::bind(host.neighbour().netns(), to("0.0.0.0", 40000)).unwrap();
    let answered = || client.exchange(to(HOST[0], 5353), b"hello", LONG).unwrap().is_some();
    assert!(answered());
    one.del().unwrap();
    let two = host.attach_list("two", &one.network.list);
    let echo_two = echo(two.netns(), "::", 53);
    assert!(answered());
    assert_eq!((echo_one.peers().len(), echo_two.peers().len()), (1, 1));
}

/// DEL goes by the record: the ports may have changed, the result be lost, the namespace gone (docs/rules.md: G1, G2).
#[test]
fn a_del_with_anything_missing_leaves_nothing() {
    let host = Host::connected();
    let full = list("a", "br0", &A, json!({}), &[WEB, NAMES]);
    // Folders and the bridge stay.
    let first = host.attach_list("web", &full);
    first.del().unwrap();
    drop(first);
    let before = host.snapshot();
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
                let web = host.attach_list("web", &full);
                let result = result.then(|| web.result());
                let who = web.who.clone().args(args);
                let who = if netns == "as it was" { who } else { who.netns(netns) };
                for _ in 0..2 {
                    let outcome = host.del_list(list, &who, result.as_ref());
                    assert_eq!(outcome.status, 0, "{what} {netns:?} {outcome:?}");
                }
                drop(web);
                let left = differences(&before, &host.snapshot());
                assert!(left.is_empty(), "{what} {netns:?}: {left:#?}");
            }
        }
    }
}
