//! What other programs do to a network's bridge and ports: `ls` tells it, and its hint makes the network whole.

use netns_fixtures::http_get;

use crate::common::{Host, LONG};

/// What another program does to `web` (port VETH) on `mynet`, what `ls` says of it then, and what `repair` says it mended.
const HARMS: [(&str, &str, &str); 12] = [
    ("ip link set VETH nomaster", "VETH of \"web\" is not on rnet-mynet", "VETH is not its port"),
    ("ip link set VETH down", "VETH of \"web\" is down", "VETH, the container's port on rnet-mynet, is down"),
    (
        "bridge link set dev VETH hairpin off",
        "hairpin is off at VETH of \"web\"",
        "port flag hairpin of VETH is false",
    ),
    (
        "bridge link set dev VETH learning off",
        "learning is off at VETH of \"web\"",
        "port flag learning of VETH",
    ),
    (
        "bridge link set dev VETH isolated on",
        "isolated is on at VETH of \"web\"",
        "port flag isolated of VETH is true",
    ),
    (
        "ip link set VETH type bridge_slave group_fwd_mask 0",
        "group_fwd_mask of VETH of \"web\" was changed",
        "group_fwd_mask of VETH",
    ),
    (
        "ip addr del 10.9.0.1/24 dev rnet-mynet",
        "10.9.0.1 is missing on rnet-mynet",
        "gateway address 10.9.0.1 is missing",
    ),
    ("ip link set rnet-mynet down", "rnet-mynet is down", "Bridge interface rnet-mynet is down"),
    ("ip link del rnet-mynet", "its bridge rnet-mynet is gone", "Bridge interface rnet-mynet not found"),
    (
        "tc qdisc del dev rnet-mynet ingress",
        "rnet-mynet has lost its filter for 127.0.0.1",
        "the ingress filter of rnet-mynet",
    ),
    (
        "echo 0 > /proc/sys/net/ipv4/conf/rnet-mynet/route_localnet",
        "route_localnet is off on rnet-mynet",
        "route_localnet is off on rnet-mynet",
    ),
    ("echo 0 > /proc/sys/net/ipv4/ip_forward", "net.ipv4.ip_forward is 0", "IPv4 forwarding is off"),
];

fn host(options: &str) -> (Host, String) {
    let host = Host::forwarding();
    host.ok(&format!("install {}", host.installed_plugins().display()));
    host.ok(&format!("create {options} --subnet 10.9.0.0/24 mynet"));
    host.ok("run -d --name web --net mynet -p 8080:80 busybox httpd -f -p 80 -h /usr/share/common-licenses");
    host.ok("run -d --name other --net mynet sleep 1000");
    let veth = host.json("inspect web")[0]["networks"][0]["link"].as_str().unwrap().to_owned();
    assert_eq!(host.state("mynet"), "ok");
    (host, veth)
}

#[test]
fn what_was_done_to_a_network_is_told_and_the_hint_makes_it_whole() {
    let (host, veth) = host("");
    for (harm, told, mended) in HARMS {
        host.on_host(&harm.replace("VETH", &veth));

        let said = host.rnet("ls");

        let told = told.replace("VETH", &veth);
        assert!(said.stdout.contains(&format!("({told})\n")), "{harm}: {said:?}");
        assert_eq!(said.stderr, " hint: rnet repair mynet\n", "{harm}");
        let repaired = host.ok("repair mynet");
        let (name, lines) = repaired.split_once('\n').unwrap();
        assert_eq!(name, "mynet", "{harm}");
        assert!(
            lines.starts_with("  mended: ") && lines.contains(&mended.replace("VETH", &veth)),
            "{harm}: {lines}"
        );
        let after = host.rnet("ls");
        assert!(after.stdout.contains("ok\n") && after.stderr.is_empty(), "{harm}: {after:?}");
        for page in ["http://127.0.0.1:8080/GPL-2", "http://10.9.0.2/GPL-2"] {
            let got = http_get(host.netns(), page, LONG);
            assert!(got.is_ok_and(|page| page.status == 200), "{harm}: {page}");
        }
        assert_eq!(
            host.script("exec other", "busybox wget -q -O - http://web/GPL-2 | head -c 3").status,
            0,
            "{harm}"
        );
    }
    host.ok("stop web other");
    host.nobody_is_left();
}

#[test]
fn so_does_it_for_the_standard_plugins() {
    let (host, veth) = host("--chain");
    // Of these plugins no port has a guard, and another program may set what they do not ask for.
    let of_rnet = |harm: &str| ["hairpin", "isolated", "group_fwd"].iter().any(|word| harm.contains(word));
    for (harm, told, mended) in HARMS.into_iter().filter(|(harm, ..)| !of_rnet(harm)) {
        host.on_host(&harm.replace("VETH", &veth));

        let said = host.rnet("ls");

        assert!(said.stdout.contains(&format!("({})\n", told.replace("VETH", &veth))), "{harm}: {said:?}");
        assert_eq!(said.stderr, " hint: rnet repair mynet\n", "{harm}");
        let repaired = host.ok("repair mynet");
        let (name, lines) = repaired.split_once('\n').unwrap();
        assert_eq!(name, "mynet", "{harm}");
        assert!(
            lines.starts_with("  mended: ") && lines.contains(&mended.replace("VETH", &veth)),
            "{harm}: {lines}"
        );
        assert_eq!(host.state("mynet"), "ok", "{harm}");
        let got = http_get(host.netns(), "http://127.0.0.1:8080/GPL-2", LONG);
        assert!(got.is_ok_and(|page| page.status == 200), "{harm}");
    }
}

#[test]
fn repair_without_a_name_is_for_all_networks_in_use_and_changes_nothing_that_is_whole() {
    let (host, veth) = host("");
    host.ok("create --subnet 10.10.0.0/24 unused");
    host.ok("run -d --name third sleep 1000");
    let before = host.network_snapshot();
    let repaired = host.json("repair --json");
    let names: Vec<_> =
        repaired.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["bridge", "mynet"]);
    assert!(repaired.as_array().unwrap().iter().all(|one| one["mended"] == serde_json::json!([])));
    netns_fixtures::assert_same(&before, &host.network_snapshot());

    host.host_ip(&format!("link set {veth} nomaster"));
    let said = host.ok("reload");
    assert!(said.starts_with("bridge\nmynet\n  mended: ") && said.lines().count() == 3, "{said}");
    assert_eq!(host.state("mynet"), "ok");
    assert_eq!(host.ok("network repair unused"), "unused\n", "nothing is left to do");
    host.fails("repair nosuch", 3, "error: no network \"nosuch\"\n hint: rnet ls\n");
    // One whose name server is dead gets another.
    let server: u32 = host.json("dns status --json")["pid"].as_u64().unwrap() as u32;
    crate::common::signal(server, rustix::process::Signal::KILL);
    host.ok("repair mynet");
    crate::common::wait_until("names are served", || host.state("mynet") == "ok");
}
