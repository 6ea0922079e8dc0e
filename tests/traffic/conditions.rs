//! Published ports that are for some only: portmap's `conditionsV4` and `conditionsV6` (docs/rules.md: P3).

use nft::Element;
use serde_json::{Value, json};

use crate::chain::{NAMES, WEB, cast, list};
use crate::common::{Guest, Host, LONG, Outcome, Published, SOON, differences, with};
use crate::packets::{A, B, GATEWAY_A, HOST, all_get, echo, echoes, none_get, serve, to};

/// For clients on the way out only, in both languages.
fn for_neighbours() -> [Value; 2] {
    [
        json!({"conditionsV4": ["ip", "saddr", "192.168.77.0/24"], "conditionsV6": ["ip6 saddr fd77::/64"]}),
        json!({"conditionsV4": ["-s", "192.168.77.0/24"], "conditionsV6": ["--source", "fd77::/64"]}),
    ]
}

/// For every address of the host but that on the way out.
fn not_on_the_way_out() -> Value {
    json!({"conditionsV4": ["!", "-d", HOST[0]], "conditionsV6": ["!", "-d", HOST[1]]})
}

/// The elements that conditions are made of.
fn exceptions(host: &Host) -> usize {
    let found = host.elements().into_iter();
    found.filter(|(element, _)| matches!(element, Element::Except { .. })).count()
}

fn check(host: &Host, chained: &Guest<'_>) -> Outcome {
    let portmap = with(
        &chained.network.list["plugins"][1],
        json!({"cniVersion": "1.0.0", "name": chained.network.name(), "prevResult": chained.result()}),
    );
    host.cni("CHECK", "portmap", &chained.who, &portmap)
}

#[test]
fn a_port_is_for_those_that_its_conditions_name() {
    for keys in for_neighbours() {
        let host = Host::connected();
        let [web, peer, _other] = cast(&host, keys);
        let (here, outside) = (host.netns(), host.neighbour().netns());
        let _server = serve(web.netns(), "::", 80, "web");
        let _echo = echo(web.netns(), "::", 53);
        for ip in [0, 1] {
            // The host's source is the address that it asks for.
            all_get("web", &[("outside", outside, to(HOST[ip], 8080)), ("host", here, to(HOST[ip], 8080))]);
            none_get(&[
                ("peer", peer.netns(), to(HOST[ip], 8080)),
                ("itself", web.netns(), to(HOST[ip], 8080)),
                ("host by the gateway", here, to(GATEWAY_A[ip], 8080)),
            ]);
            assert!(echoes(outside, to(HOST[ip], 5353), LONG));
            assert!(!echoes(peer.netns(), to(HOST[ip], 5353), SOON));
        }
        none_get(&[("loopback", here, to("127.0.0.1", 8080))]);
        check(&host, &web).silent();
    }
}

#[test]
fn a_negated_condition_leaves_the_rest_open() {
    let host = Host::connected();
    let [web, peer, _other] = cast(&host, not_on_the_way_out());
    let here = host.netns();
    let _server = serve(web.netns(), "::", 80, "web");
    for ip in [0, 1] {
        all_get(
            "web",
            &[
                ("peer by the gateway", peer.netns(), to(GATEWAY_A[ip], 8080)),
                ("host by the gateway", here, to(GATEWAY_A[ip], 8080)),
            ],
        );
        none_get(&[
            ("outside", host.neighbour().netns(), to(HOST[ip], 8080)),
            ("host", here, to(HOST[ip], 8080)),
        ]);
    }
    all_get("web", &[("loopback", here, to("127.0.0.1", 8080))]);
}

#[test]
fn conditions_bind_the_network_that_set_them_alone() {
    let host = Host::connected();
    let all = host.attach_list("all", &list("b", "br1", &B, json!({}), &[("", 8081, 80, "tcp")]));
    let web = host.attach_list("web", &list("a", "br0", &A, not_on_the_way_out(), &[WEB]));
    let late = host.attach_list("late", &list("b", "br1", &B, json!({}), &[("", 8082, 80, "tcp")]));
    let _servers = [&all, &web, &late].map(|one| serve(one.netns(), "::", 80, &one.who.id));
    for ip in HOST {
        all_get("all", &[("outside", host.neighbour().netns(), to(ip, 8081))]);
        all_get("late", &[("outside", host.neighbour().netns(), to(ip, 8082))]);
        none_get(&[("outside", host.neighbour().netns(), to(ip, 8080))]);
    }
}

#[test]
fn conditions_go_with_the_port_and_with_no_other() {
    let host = Host::connected();
    // One number on two addresses, of two networks; the way out's is closed to the way out.
    let on = |host: &'static str| -> [Published; 1] { [(host, 8080, 80, "tcp")] };
    let closed = json!({"conditionsV4": ["!", "-s", "192.168.77.0/24"]});
    let open = host.attach_list("open", &list("b", "br1", &B, json!({}), &on("127.0.0.1")));
    // Another on the same network, so that the bridge, which stays as upstream's does, is there before.
    let _bystander = host.attach_list("bystander", &list("a", "br0", &A, json!({}), &[]));
    let before = host.snapshot();
    let web = host.attach_list("web", &list("a", "br0", &A, closed, &on(HOST[0])));
    let _servers = [&open, &web].map(|one| serve(one.netns(), "::", 80, &one.who.id));
    all_get("open", &[("loopback", host.netns(), to("127.0.0.1", 8080))]);
    none_get(&[("outside", host.neighbour().netns(), to(HOST[0], 8080))]);
    assert_eq!(exceptions(&host), 1);

    for _ in 0..2 {
        web.del().unwrap();
    }

    let left = differences(&before, &host.snapshot());
    assert!(left.is_empty(), "{left:#?}");
    assert_eq!(exceptions(&host), 0);
    let free = host.attach_list("free", &list("a", "br0", &A, json!({}), &on(HOST[0])));
    let _free = serve(free.netns(), "::", 80, "free");
    all_get("free", &[("outside", host.neighbour().netns(), to(HOST[0], 8080))]);
}

#[test]
fn conditions_come_back_after_a_flush_and_check_misses_them() {
    let host = Host::connected();
    let web = host.attach_list("web", &list("a", "br0", &A, not_on_the_way_out(), &[WEB, NAMES]));
    let _server = serve(web.netns(), "::", 80, "web");
    let before = host.elements();

    host.flush();
    assert_eq!(check(&host, &web).refusal().0, 107);
    host.attach_list("next", &list("a", "br0", &A, json!({}), &[("", 9090, 80, "tcp")]));

    let restored = host.elements();
    assert!(before.iter().all(|element| restored.contains(element)));
    none_get(&[("outside", host.neighbour().netns(), to(HOST[0], 8080))]);
    check(&host, &web).silent();

    let exception = before.into_iter().find(|(element, _)| matches!(element, Element::Except { .. }));
    let (element, owner) = exception.unwrap();
    host.firewall(|firewall| firewall.remove(&[(element, owner.unwrap())]).unwrap());
    let (code, text) = check(&host, &web).refusal();
    assert!(code == 107 && text.starts_with("the ruleset lacks inet rnet except4 { "), "{text}");
}
