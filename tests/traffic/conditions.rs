//! Published ports that are for some only: portmap's `conditionsV4` and `conditionsV6` (docs/rules.md: P3).

use nft::Element;
use serde_json::{Value, json};

use crate::chain::{Chained, NAMES, WEB, attach, cast, list};
use crate::common::{LONG, SOON, differences, with};
use crate::stage::{A, B, GATEWAY_A, HOST, Published, Stage, all_get, echo, echoes, none_get, serve, to};

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
fn exceptions(stage: &Stage) -> usize {
    let found = stage.lab.elements().into_iter();
    found.filter(|(element, _)| matches!(element, Element::Except { .. })).count()
}

fn check(stage: &Stage, chained: &Chained) -> crate::common::Outcome {
    let portmap = with(
        &chained.list["plugins"][1],
        json!({"cniVersion": "1.0.0", "name": chained.list["name"], "prevResult": chained.result}),
    );
    stage.lab.cni("CHECK", "portmap", &chained.who, &portmap)
}

#[test]
fn a_port_is_for_those_that_its_conditions_name() {
    for keys in for_neighbours() {
        let stage = Stage::new();
        let [web, peer, _other] = cast(&stage, keys);
        let (host, outside) = (stage.lab.host.netns(), stage.outside.netns());
        let _server = serve(web.container.netns(), "::", 80, "web");
        let _echo = echo(web.container.netns(), "::", 53);
        for ip in [0, 1] {
            // The host's source is the address that it asks for.
            all_get("web", &[("outside", outside, to(HOST[ip], 8080)), ("host", host, to(HOST[ip], 8080))]);
            none_get(&[
                ("peer", peer.container.netns(), to(HOST[ip], 8080)),
                ("itself", web.container.netns(), to(HOST[ip], 8080)),
                ("host by the gateway", host, to(GATEWAY_A[ip], 8080)),
            ]);
            assert!(echoes(outside, to(HOST[ip], 5353), LONG));
            assert!(!echoes(peer.container.netns(), to(HOST[ip], 5353), SOON));
        }
        none_get(&[("loopback", host, to("127.0.0.1", 8080))]);
        check(&stage, &web).silent();
    }
}

#[test]
fn a_negated_condition_leaves_the_rest_open() {
    let stage = Stage::new();
    let [web, peer, _other] = cast(&stage, not_on_the_way_out());
    let host = stage.lab.host.netns();
    let _server = serve(web.container.netns(), "::", 80, "web");
    for ip in [0, 1] {
        all_get(
            "web",
            &[
                ("peer by the gateway", peer.container.netns(), to(GATEWAY_A[ip], 8080)),
                ("host by the gateway", host, to(GATEWAY_A[ip], 8080)),
            ],
        );
        none_get(&[
            ("outside", stage.outside.netns(), to(HOST[ip], 8080)),
            ("host", host, to(HOST[ip], 8080)),
        ]);
    }
    all_get("web", &[("loopback", host, to("127.0.0.1", 8080))]);
}

#[test]
fn conditions_bind_the_network_that_set_them_alone() {
    let stage = Stage::new();
    let all = attach(&stage, "all", &list("b", "br1", &B, json!({}), &[("", 8081, 80, "tcp")]));
    let web = attach(&stage, "web", &list("a", "br0", &A, not_on_the_way_out(), &[WEB]));
    let late = attach(&stage, "late", &list("b", "br1", &B, json!({}), &[("", 8082, 80, "tcp")]));
    let _servers = [&all, &web, &late].map(|one| serve(one.container.netns(), "::", 80, &one.who.id));
    for ip in HOST {
        all_get("all", &[("outside", stage.outside.netns(), to(ip, 8081))]);
        all_get("late", &[("outside", stage.outside.netns(), to(ip, 8082))]);
        none_get(&[("outside", stage.outside.netns(), to(ip, 8080))]);
    }
}

#[test]
fn conditions_go_with_the_port_and_with_no_other() {
    let stage = Stage::new();
    // One number on two addresses, of two networks; the way out's is closed to the way out.
    let on = |host: &'static str| -> [Published; 1] { [(host, 8080, 80, "tcp")] };
    let closed = json!({"conditionsV4": ["!", "-s", "192.168.77.0/24"]});
    let open = attach(&stage, "open", &list("b", "br1", &B, json!({}), &on("127.0.0.1")));
    // Another on the same network, so that the bridge, which stays as upstream's does, is there before.
    let _bystander = attach(&stage, "bystander", &list("a", "br0", &A, json!({}), &[]));
    let before = stage.lab.snapshot();
    let web = attach(&stage, "web", &list("a", "br0", &A, closed, &on(HOST[0])));
    let _servers = [&open, &web].map(|one| serve(one.container.netns(), "::", 80, &one.who.id));
    all_get("open", &[("loopback", stage.lab.host.netns(), to("127.0.0.1", 8080))]);
    none_get(&[("outside", stage.outside.netns(), to(HOST[0], 8080))]);
    assert_eq!(exceptions(&stage), 1);

    for _ in 0..2 {
        stage.lab.del_list(&web.list, &web.who, Some(&web.result)).silent();
    }

    let left = differences(&before, &stage.lab.snapshot());
    assert!(left.is_empty(), "{left:#?}");
    assert_eq!(exceptions(&stage), 0);
    let free = attach(&stage, "free", &list("a", "br0", &A, json!({}), &on(HOST[0])));
    let _free = serve(free.container.netns(), "::", 80, "free");
    all_get("free", &[("outside", stage.outside.netns(), to(HOST[0], 8080))]);
}

#[test]
fn conditions_come_back_after_a_flush_and_check_misses_them() {
    let stage = Stage::new();
    let web = attach(&stage, "web", &list("a", "br0", &A, not_on_the_way_out(), &[WEB, NAMES]));
    let _server = serve(web.container.netns(), "::", 80, "web");
    let before = stage.lab.elements();

    stage.flush();
    assert_eq!(check(&stage, &web).refusal().0, 107);
    attach(&stage, "next", &list("a", "br0", &A, json!({}), &[("", 9090, 80, "tcp")]));

    let restored = stage.lab.elements();
    assert!(before.iter().all(|element| restored.contains(element)));
    none_get(&[("outside", stage.outside.netns(), to(HOST[0], 8080))]);
    check(&stage, &web).silent();

    let exception = before.into_iter().find(|(element, _)| matches!(element, Element::Except { .. }));
    let (element, owner) = exception.unwrap();
    stage.lab.firewall(|firewall| firewall.remove(&[(element, owner.unwrap())]).unwrap());
    let (code, text) = check(&stage, &web).refusal();
    assert!(code == 107 && text.starts_with("the ruleset lacks inet rnet except4 { "), "{text}");
}
