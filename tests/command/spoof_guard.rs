//! `--spoof-guard`, and what `rnet inspect` says of what the guard has dropped.

use std::net::UdpSocket;

use netlink::Netns;
use serde_json::{Value, json};

use crate::common::{Host, LONG, wait_until};

/// What one endpoint has on its only network.
fn guard(host: &Host, endpoint: &str) -> Value {
    host.json(&format!("inspect --type endpoint {endpoint}"))[0]["networks"][0]["spoofGuard"].clone()
}

fn is_on(host: &Host, endpoint: &str) -> bool {
    guard(host, endpoint)["on"].as_bool().unwrap()
}

/// Sends a datagram to the gateway in another's name.
fn forge(host: &Host, endpoint: &str, address: &str, gateway: &str) {
    let length = if address.contains(':') { "128 nodad" } else { "32" };
    host.ok(&format!("exec {endpoint} ip addr add {address}/{length} dev eth0"));
    let netns = Netns::open(format!("/proc/{}/ns/net", host.pid(endpoint)).as_ref()).unwrap();
    let socket = netns.run(|| UdpSocket::bind((address, 0)).unwrap()).unwrap();
    socket.send_to(b"routed for another", (gateway, 9)).unwrap();
}

/// The addresses in whose name something was dropped.
fn sources(guard: &Value) -> Vec<&str> {
    let sources = guard["sources"].as_array().unwrap().iter();
    sources.map(|source| source["address"].as_str().unwrap()).collect()
}

#[test]
fn inspect_says_what_was_dropped_and_whose_it_was() {
    let host = Host::forwarding();
    host.ok("create --subnet 10.9.0.0/24 --subnet fd00:9::/64 mynet");
    host.ok("run -d --name router --net mynet sleep 1000");
    host.ok("run -d --name web --net mynet sleep 1000");
    let quiet = json!({"on": true, "droppedPackets": 0, "droppedBytes": 0, "sources": []});
    assert_eq!((guard(&host, "router"), guard(&host, "web")), (quiet.clone(), quiet.clone()));

    forge(&host, "router", "192.0.2.7", "10.9.0.1");
    forge(&host, "router", "2001:db8::7", "fd00:9::1");

    // The gateway's MAC is asked for in the same wrong name.
    let wanted = ["192.0.2.7", "2001:db8::7"];
    wait_until("both are counted", || sources(&guard(&host, "router")) == wanted);
    let shown = guard(&host, "router");
    let web = host.json("inspect router")[0]["networks"][0]["mac"].clone();
    assert!(
        shown["droppedPackets"].as_u64() >= Some(2) && shown["droppedBytes"].as_u64() > Some(60),
        "{shown}"
    );
    assert_eq!(shown["sources"][0], json!({"address": "192.0.2.7", "mac": web}));
    assert_eq!(guard(&host, "web"), quiet, "each endpoint has a count of its own");
    let endpoints = host.json("inspect --type network mynet")[0]["endpoints"].clone();
    let of = |name: &str| endpoints.as_array().unwrap().iter().find(|one| one["name"] == name).unwrap();
    assert_eq!((sources(&of("router")["spoofGuard"]), &of("web")["spoofGuard"]), (wanted.to_vec(), &quiet));
    assert_eq!(host.state("mynet"), "ok");
}

#[test]
fn the_guard_can_be_off_for_a_network_or_for_one_endpoint() {
    let host = Host::forwarding();
    host.ok("create --subnet 10.9.0.0/24 guarded");
    host.ok("create --subnet 10.10.0.0/24 --spoof-guard off open");
    host.ok("create --subnet 10.11.0.0/24 --spoof-guard on said");
    for (endpoint, options, on) in [
        ("a", "--net guarded", true),
        ("b", "--net guarded --spoof-guard off", false),
        ("c", "--net open", false),
        ("d", "--net open --spoof-guard on", true),
        ("e", "--net said", true),
        ("f", "--spoof-guard=off", false),
    ] {
        host.ok(&format!("run -d --name {endpoint} {options} sleep 1000"));
        assert_eq!(is_on(&host, endpoint), on, "{endpoint}: {options}");
    }
    let off = json!({"on": false, "droppedPackets": null, "droppedBytes": null, "sources": []});
    assert_eq!(guard(&host, "b"), off);

    // What is off passes: the host gets the datagram.
    let server = host.run(|| UdpSocket::bind("10.9.0.1:9").unwrap()).unwrap();
    server.set_read_timeout(Some(LONG)).unwrap();
    host.host_ip("route add 192.0.2.7 dev rnet-guarded");
    forge(&host, "b", "192.0.2.7", "10.9.0.1");
    assert_eq!(server.recv_from(&mut [0; 32]).unwrap().1.ip().to_string(), "192.0.2.7");
    // And stays off when its program is started again.
    host.ok("stop b");
    host.ok("start b");
    assert!(!is_on(&host, "b"));
}

#[test]
fn words_that_are_no_switch_are_refused_with_those_that_are() {
    let host = Host::forwarding();
    host.ok(&format!("install {}", host.installed_plugins().display()));
    host.ok("create --chain chained");
    for verb in ["create x", "run true"] {
        for bad in ["no", "false", "OFF", ""] {
            let (verb, rest) = verb.split_once(' ').unwrap();
            let said = host.refused(&format!("{verb} --spoof-guard={bad} {rest}"), 2);
            assert!(said.contains("--spoof-guard <on|off>") && said.contains("on, off"), "{said}");
        }
    }
    host.fails(
        "run --net chained --spoof-guard on true",
        2,
        "error: network \"chained\" has no spoof guard: its plugin is bridge, and only the plugin rnet has one\n hint: rnet create \
         NAME makes a network that has one\n",
    );
    let refused = host.refused("create --chain --spoof-guard off x", 2);
    assert!(refused.contains("cannot be used with"), "{refused}");
    assert_eq!(host.ok("ls -q"), "chained\n");
}
