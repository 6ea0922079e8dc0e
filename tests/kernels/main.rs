//! The scenes that must work on every kernel that rnet supports. `cargo test` runs them on this machine's kernel. `.ci/run` also starts
//! this program under Debian's kernels (tests/kernels/run); there RNET_TEST_BINARY names the release binary.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../common/mod.rs"]
mod common;
// With br_netfilter, which this machine's kernel may lack, the loopback guards see other packets.
#[path = "../traffic/loopback.rs"]
mod loopback;
#[allow(dead_code, reason = "these tests use a part of it")]
#[path = "../traffic/packets.rs"]
mod packets;

use std::net::{IpAddr, SocketAddr};

use netlink::Netns;
use netns_fixtures::{bridge_filter_settings, lookup, ping};
use serde_json::{Value, json};

use common::{Guest, Host, LONG, Network, Who, bridge, differences, publishing, rnet, with};
use packets::{A, GATEWAY_A, HOST, all_get, echo, echoes, none_get, to};

/// A network of type `rnet` of both families, with names.
fn named() -> Value {
    with(&rnet("a", &A), json!({"names": true}))
}

/// Attaches `name` under that name.
fn attach<'h>(host: &'h Host, name: &str, config: &Value) -> Guest<'h> {
    host.guest(&Network::of(config), name).named().attached()
}

fn with_ports(config: &Value) -> Value {
    publishing(config, &[("", 8080, 80, "tcp"), ("", 5353, 53, "udp")])
}

/// The address that `from` gets for a name from its gateway.
fn address_of(from: &Netns, name: &str) -> Option<IpAddr> {
    let server = SocketAddr::new(GATEWAY_A[0].parse().unwrap(), 53);
    lookup(from, server, name, false, LONG).unwrap()?.addresses.first().copied()
}

/// The published page from everywhere, in both families.
#[track_caller]
fn is_reached_from_everywhere(host: &Host, peer: &Netns, page: &str) {
    let (here, outside) = (host.netns(), host.neighbour().netns());
    let probes: Vec<_> = [0, 1]
        .into_iter()
        .flat_map(|ip| {
            [
                ("outside", outside, to(HOST[ip], 8080)),
                ("host", here, to(HOST[ip], 8080)),
                ("peer", peer, to(HOST[ip], 8080)),
            ]
        })
        .collect();
    all_get(page, &probes);
    all_get(page, &[("the host's loopback", here, to("127.0.0.1", 8080))]);
}

#[test]
fn a_network_of_type_rnet_works_and_leaves_nothing() {
    let host = Host::connected();
    let before = forwarding(&host);
    let web = attach(&host, "web", &with_ports(&named()));
    let peer = attach(&host, "peer", &named());
    let _server = web.serves(80);
    let _echo = echo(web.netns(), "::", 53);

    for &on in bridge_filter_settings() {
        host.set_bridge_netfilter(on);
        is_reached_from_everywhere(&host, peer.netns(), "web");
        assert!(echoes(host.neighbour().netns(), to(HOST[0], 5353), LONG), "br_netfilter {on}");
    }
    let closed = web.serves(81);
    none_get(&[(
        "an unpublished port from outside",
        host.neighbour().netns(),
        SocketAddr::new(web.v4(), 81),
    )]);
    drop(closed);
    for (from, to) in
        [(peer.netns(), web.v4()), (peer.netns(), web.v6()), (web.netns(), host.neighbour().address())]
    {
        assert!(ping(from, to, LONG).unwrap().is_some(), "{to}");
    }
    assert_eq!(address_of(peer.netns(), "web"), Some(web.v4()));
    let previous = with(&web.config(), json!({"prevResult": web.result()}));
    host.cni("CHECK", "rnet", &web.who, &previous).silent();
    web.detach();
    peer.detach();
    assert_eq!(differences(&before, &host.snapshot()), Vec::<String>::new());
}

/// The host as it is before the first network, except for what stays on with it.
fn forwarding(host: &Host) -> netns_fixtures::Snapshot {
    let first = attach(host, "first", &named());
    first.detach();
    host.set_bridge_netfilter(false);
    host.snapshot()
}

#[test]
fn bridge_and_portmap_work_and_leave_their_bridge_alone() {
    let host = Host::connected();
    let portmap = publishing(&json!({"type": "portmap"}), &[("", 8080, 80, "tcp"), ("", 5353, 53, "udp")]);
    let list = |plugins: &[Value]| json!({"cniVersion": "1.0.0", "name": "a", "plugins": plugins});
    let config = with(&bridge("a", &A), json!({"hairpinMode": true, "macspoofchk": true}));
    let (web_list, peer_list) = (list(&[config.clone(), portmap]), list(&[config]));
    let (web, peer) = (host.attach_list("web", &web_list), host.attach_list("peer", &peer_list));
    let _server = packets::serve(web.netns(), "::", 80, "web");
    let _echo = echo(web.netns(), "::", 53);

    is_reached_from_everywhere(&host, peer.netns(), "web");
    assert!(echoes(host.neighbour().netns(), to(HOST[0], 5353), LONG));
    host.check_list(&web_list, &web.who, &web.result()).silent();

    web.del().unwrap();
    host.del_list(&peer_list, &peer.who, None).silent();
    assert_eq!(host.links(), ["br0", host.neighbour().link()]);
    assert!(host.elements().is_empty());
}

#[test]
fn a_flushed_ruleset_comes_back_with_the_next_container() {
    let host = Host::connected();
    let web = attach(&host, "web", &with_ports(&named()));
    let _server = web.serves(80);
    host.flush();
    none_get(&[("another machine", host.neighbour().netns(), to(HOST[0], 8080))]);

    let peer = attach(&host, "peer", &named());

    is_reached_from_everywhere(&host, peer.netns(), "web");
    peer.detach();
    web.detach();
    assert!(!host.firewall(|firewall| firewall.state().unwrap().is_some()), "tables are left");
}

#[test]
fn an_upgrade_takes_over_what_is_there() {
    let host = Host::connected();
    let program = host.plugins.join("rnet");
    let put = || {
        let new = host.plugins.join("new");
        netns_fixtures::copy_program(common::binary(), &new).unwrap();
        std::fs::rename(new, &program).unwrap();
    };
    put();
    let web = attach(&host, "web", &with_ports(&named()));
    let peer = attach(&host, "peer", &named());
    let _server = web.serves(80);

    put();
    let said = host.rnet("dns restart");

    assert_eq!(said.status, 0, "{said:?}");
    assert_eq!(address_of(peer.netns(), "web"), Some(web.v4()));
    is_reached_from_everywhere(&host, peer.netns(), "web");
    let late = attach(&host, "late", &named());
    assert_eq!(address_of(web.netns(), "late"), Some(late.v4()));
    for guest in [&late, &web, &peer] {
        guest.detach();
    }
    assert_eq!(host.links(), [host.neighbour().link()]);
}

/// STATUS says on which kernels rnet is known to work. `setarch --uname-2.6` makes this one look older than all of them.
#[test]
fn status_knows_the_oldest_kernel() {
    let host = Host::new();
    let config = named();
    host.cni("STATUS", "rnet", &Who::named("", ""), &config).silent();

    let old = host.command("setarch").args(["--uname-2.6"]).arg(host.plugins.join("rnet"));
    let old = old.env("CNI_COMMAND", "STATUS").env("CNI_PATH", &host.plugins).input(config.to_string());
    let said: Value = serde_json::from_slice(&old.output().unwrap().stdout).unwrap();

    assert_eq!(said["code"], 50, "{said}");
    let message = said["msg"].as_str().unwrap();
    assert!(message.starts_with("this kernel is 2.6.") && message.contains("needs Linux 5.10"), "{message}");
}
