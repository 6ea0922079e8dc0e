//! The scenes that must work on every kernel that rnet supports. `cargo test` runs them on this machine's kernel. `.ci/run` also starts
//! this program under Debian's kernels (tests/kernels/run); there RNET_TEST_BINARY names the release binary.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../common/mod.rs"]
mod common;
// With br_netfilter, which this machine's kernel may lack, the loopback guards see other packets.
#[path = "../traffic/loopback.rs"]
mod loopback;
#[allow(dead_code, reason = "these tests use a part of it")]
#[path = "../traffic/stage.rs"]
mod stage;

use std::net::{IpAddr, SocketAddr};

use netlink::Netns;
use netns_fixtures::{bridge_filter_settings, lookup, ping};
use serde_json::{Value, json};

use common::{LONG, Lab, Outcome, Who, bridge, differences, publishing, rnet, with};
use stage::{A, GATEWAY_A, Guest, HOST, Stage, all_get, echo, echoes, none_get, to};

/// A network of type `rnet` of both families, with names.
fn named() -> Value {
    with(&rnet("a", &A), json!({"names": true}))
}

/// Attaches `name` under that name, with port 8080 and, by UDP, 5353 published.
fn attach(stage: &Stage, name: &str, config: &Value) -> Guest {
    let (container, who) = stage.lab.container(name);
    let who = who.args(&format!("IgnoreUnknown=1;K8S_POD_NAME={name}"));
    let result = stage.lab.add("rnet", &who, config);
    stage.await_port(&result);
    Guest { container, who, plugin: "rnet".into(), config: config.clone(), result }
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
fn is_reached_from_everywhere(stage: &Stage, peer: &Netns, page: &str) {
    let (host, outside) = (stage.lab.host.netns(), stage.outside.netns());
    let probes: Vec<_> = [0, 1]
        .into_iter()
        .flat_map(|ip| {
            [
                ("outside", outside, to(HOST[ip], 8080)),
                ("host", host, to(HOST[ip], 8080)),
                ("peer", peer, to(HOST[ip], 8080)),
            ]
        })
        .collect();
    all_get(page, &probes);
    all_get(page, &[("the host's loopback", host, to("127.0.0.1", 8080))]);
}

fn command(lab: &Lab, words: &[&str]) -> Outcome {
    let call = lab.host.command(common::binary()).env("CNI_PATH", &lab.plugins).args(words);
    let output = call.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome {
        status: output.status.code().unwrap_or(-1),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

#[test]
fn a_network_of_type_rnet_works_and_leaves_nothing() {
    let stage = Stage::new();
    let before = forwarding(&stage);
    let web = attach(&stage, "web", &with_ports(&named()));
    let peer = attach(&stage, "peer", &named());
    let _server = web.serves(80);
    let _echo = echo(web.netns(), "::", 53);

    for &on in bridge_filter_settings() {
        stage.set_bridge_netfilter(on);
        is_reached_from_everywhere(&stage, peer.netns(), "web");
        assert!(echoes(stage.outside.netns(), to(HOST[0], 5353), LONG), "br_netfilter {on}");
    }
    let closed = web.serves(81);
    none_get(&[("an unpublished port from outside", stage.outside.netns(), SocketAddr::new(web.v4(), 81))]);
    drop(closed);
    for (from, to) in
        [(peer.netns(), web.v4()), (peer.netns(), web.v6()), (web.netns(), stage.outside.address())]
    {
        assert!(ping(from, to, LONG).unwrap().is_some(), "{to}");
    }
    assert_eq!(address_of(peer.netns(), "web"), Some(web.v4()));
    let previous = with(&web.config, json!({"prevResult": web.result}));
    stage.lab.cni("CHECK", "rnet", &web.who, &previous).silent();
    stage.detach(&web);
    stage.detach(&peer);
    assert_eq!(differences(&before, &stage.lab.snapshot()), Vec::<String>::new());
}

/// The host as it is before the first network, except for what stays on with it.
fn forwarding(stage: &Stage) -> netns_fixtures::Snapshot {
    let first = attach(stage, "first", &named());
    stage.detach(&first);
    stage.set_bridge_netfilter(false);
    stage.lab.snapshot()
}

#[test]
fn bridge_and_portmap_work_and_leave_their_bridge_alone() {
    let stage = Stage::new();
    let portmap = publishing(&json!({"type": "portmap"}), &[("", 8080, 80, "tcp"), ("", 5353, 53, "udp")]);
    let list = |plugins: &[Value]| json!({"cniVersion": "1.0.0", "name": "a", "plugins": plugins});
    let config = with(&bridge("a", &A), json!({"hairpinMode": true, "macspoofchk": true}));
    let (web_list, peer_list) = (list(&[config.clone(), portmap]), list(&[config]));
    let ((web, web_who), (peer, peer_who)) = (stage.lab.container("web"), stage.lab.container("peer"));
    let result = stage.lab.add_list(&web_list, &web_who).json();
    stage.await_port(&result);
    stage.await_port(&stage.lab.add_list(&peer_list, &peer_who).json());
    let _server = stage::serve(web.netns(), "::", 80, "web");
    let _echo = echo(web.netns(), "::", 53);

    is_reached_from_everywhere(&stage, peer.netns(), "web");
    assert!(echoes(stage.outside.netns(), to(HOST[0], 5353), LONG));
    stage.lab.check_list(&web_list, &web_who, &result).silent();

    stage.lab.del_list(&web_list, &web_who, Some(&result)).silent();
    stage.lab.del_list(&peer_list, &peer_who, None).silent();
    assert_eq!(stage.lab.links(), ["br0", stage.outside.link()]);
    assert!(stage.lab.elements().is_empty());
}

#[test]
fn a_flushed_ruleset_comes_back_with_the_next_container() {
    let stage = Stage::new();
    let web = attach(&stage, "web", &with_ports(&named()));
    let _server = web.serves(80);
    stage.flush();
    none_get(&[("another machine", stage.outside.netns(), to(HOST[0], 8080))]);

    let peer = attach(&stage, "peer", &named());

    is_reached_from_everywhere(&stage, peer.netns(), "web");
    stage.detach(&peer);
    stage.detach(&web);
    assert!(!stage.lab.firewall(|firewall| firewall.state().unwrap().is_some()), "tables are left");
}

#[test]
fn an_upgrade_takes_over_what_is_there() {
    let stage = Stage::new();
    let program = stage.lab.plugins.join("rnet");
    let put = || {
        let new = stage.lab.plugins.join("new");
        netns_fixtures::copy_program(common::binary(), &new).unwrap();
        std::fs::rename(new, &program).unwrap();
    };
    put();
    let web = attach(&stage, "web", &with_ports(&named()));
    let peer = attach(&stage, "peer", &named());
    let _server = web.serves(80);

    put();
    let said = command(&stage.lab, &["dns", "restart"]);

    assert_eq!(said.status, 0, "{said:?}");
    assert_eq!(address_of(peer.netns(), "web"), Some(web.v4()));
    is_reached_from_everywhere(&stage, peer.netns(), "web");
    let late = attach(&stage, "late", &named());
    assert_eq!(address_of(web.netns(), "late"), Some(late.v4()));
    for guest in [&late, &web, &peer] {
        stage.detach(guest);
    }
    assert_eq!(stage.lab.links(), [stage.outside.link()]);
}

/// STATUS says on which kernels rnet is known to work. `setarch --uname-2.6` makes this one look older than all of them.
#[test]
fn status_knows_the_oldest_kernel() {
    let lab = Lab::new();
    let config = named();
    lab.cni("STATUS", "rnet", &Who::named("", ""), &config).silent();

    let old = lab.host.command("setarch").args(["--uname-2.6"]).arg(lab.plugins.join("rnet"));
    let old = old.env("CNI_COMMAND", "STATUS").env("CNI_PATH", &lab.plugins).input(config.to_string());
    let said: Value = serde_json::from_slice(&old.output().unwrap().stdout).unwrap();

    assert_eq!(said["code"], 50, "{said}");
    let message = said["msg"].as_str().unwrap();
    assert!(message.starts_with("this kernel is 2.6.") && message.contains("needs Linux 5.10"), "{message}");
}
