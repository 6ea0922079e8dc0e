//! STATE of `ls`: the truth about a network.

use rustix::process::Signal;

use crate::common::{Host, signal, wait_until};

/// A network `mynet` (172.18.0.0/16) with `web` (172.18.0.2, port 8080) on it.
fn host() -> Host {
    let host = Host::forwarding();
    assert_eq!(host.ok("create mynet"), "mynet\n");
    assert_eq!(host.state("mynet"), "idle");
    host.ok("run -d --name web --net mynet -p 8080:80 sleep 1000");
    assert_eq!(host.state("mynet"), "ok");
    host
}

#[test]
fn forwarding_that_is_off_is_told() {
    let host = host();
    host.on_host("echo 0 > /proc/sys/net/ipv4/ip_forward");
    assert_eq!(host.state("mynet"), "degraded (net.ipv4.ip_forward is 0)");
    let shown = &host.json("inspect mynet")[0];
    assert_eq!((&shown["state"], &shown["reason"]), (&"degraded".into(), &"net.ipv4.ip_forward is 0".into()));
    assert!(host.ok("ls").contains("1           degraded (net.ipv4.ip_forward is 0)\n"));
}

#[test]
fn forwarding_that_is_off_on_the_bridge_alone_is_told() {
    let host = host();
    host.on_host("echo 0 > /proc/sys/net/ipv4/conf/rnet-mynet/forwarding");
    assert_eq!(host.state("mynet"), "degraded (net.ipv4.conf.rnet-mynet.forwarding is 0)");
    // The next container's ADD turns it on again.
    host.ok("run --net mynet true");
    assert_eq!(host.state("mynet"), "ok");
}

#[test]
fn an_interface_that_is_down_or_has_lost_its_address_is_told() {
    let host = host();
    host.ok("exec web ip link set eth0 down");
    assert_eq!(host.state("mynet"), "degraded (eth0 of \"web\" is down)");
    host.ok("exec web ip link set eth0 up");
    assert_eq!(host.state("mynet"), "ok");
    host.ok("exec web ip addr flush dev eth0");
    assert_eq!(host.state("mynet"), "degraded (172.18.0.2 is missing on eth0 of \"web\")");
}

#[test]
fn a_bridge_that_is_down_gone_or_without_address_is_told() {
    let host = host();
    host.host_ip("addr flush dev rnet-mynet");
    assert_eq!(host.state("mynet"), "degraded (172.18.0.1 is missing on rnet-mynet)");
    host.host_ip("link set rnet-mynet down");
    assert_eq!(host.state("mynet"), "degraded (rnet-mynet is down)");
    host.host_ip("link del rnet-mynet");
    assert_eq!(host.state("mynet"), "lost (its bridge rnet-mynet is gone)");
    host.ok("stop web");
    assert_eq!(host.state("mynet"), "idle");
}

#[test]
fn a_definition_that_is_gone_is_told() {
    for chain in ["", "--chain"] {
        let host = Host::forwarding();
        host.ok(&format!("install {}", host.installed_plugins().display()));
        host.ok(&format!("create {chain} mynet"));
        host.ok("run -d --name web --net mynet sleep 1000");
        let file = host.definitions().join("rnet-mynet.conflist");
        let text = std::fs::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(host.state("mynet"), "lost (no file defines it any more)");
        assert_eq!(host.json("inspect mynet")[0]["endpoints"][0]["name"], "web");
        let said = host.refused("run --net mynet true", 3);
        assert_eq!(said, "error: network \"mynet\" cannot be joined: no file defines it any more\n");
        std::fs::write(&file, text).unwrap();
        assert_eq!(host.state("mynet"), "ok");
        std::fs::remove_file(&file).unwrap();
        assert_eq!(host.ok("rm --detach mynet"), "mynet\n");
        assert_eq!(host.ok("ls -q"), "");
        host.ok("rm -f web");
    }
}

/// Without names: where they are served, the name server's parent puts an element back, sometimes before `ls` has looked.
#[test]
fn a_ruleset_that_lacks_something_is_told() {
    let host = Host::forwarding();
    host.ok("create --no-dns mynet");
    host.ok("run -d --name web --net mynet -p 8080:80 sleep 1000");
    for (set, element, reason) in [
        ("publish4_any", "tcp . 8080", "port 8080/tcp of \"web\" is lost"),
        ("masq4", "172.18.0.2", "172.18.0.2 of \"web\" is not masqueraded"),
    ] {
        let found = host
            .on_host(&format!("nft list map inet rnet {set} 2>/dev/null || nft list set inet rnet {set}"));
        assert!(found.contains(element), "{found}");
        host.on_host(&format!("nft delete element inet rnet {set} '{{ {element} }}'"));
        assert_eq!(host.state("mynet"), format!("degraded ({reason})"));
        // The next container puts all of it back, or it is put back here.
        host.ok("stop web");
        host.ok("run -d --name web --net mynet -p 8080:80 sleep 1000");
        assert_eq!(host.state("mynet"), "ok");
    }
}

/// Where names are served, the name server's parent puts it right, sometimes before `ls` has looked.
#[test]
fn a_ruleset_that_was_changed_or_flushed_is_told() {
    let host = Host::forwarding();
    host.ok("create --no-dns mynet");
    host.ok("run -d --name web --net mynet -p 8080:80 sleep 1000");
    assert_eq!(host.state("mynet"), "ok");
    host.on_host("nft delete element inet rnet isolated '{ \"rnet-mynet\" . \"rnet-mynet\" }'");
    assert_eq!(host.state("mynet"), "degraded (one of its rules is missing)");
    host.on_host("nft flush ruleset");
    assert_eq!(host.state("mynet"), "degraded (its ruleset was changed or flushed)");
}

#[test]
fn a_name_server_that_is_dead_is_told() {
    let host = host();
    for (ending, reason) in
        [(Signal::STOP, "the name server does not answer"), (Signal::KILL, "the name server has died")]
    {
        assert_eq!(host.state("mynet"), "ok");
        // Those that wait for the others' end would take their place.
        let mut servers = host.processes("rnet\0dns\0");
        servers.extend(host.processes("/proc/self/exe\0dns\0"));
        assert!(servers.len() > 1, "{servers:?}");
        servers.iter().for_each(|pid| signal(*pid, Signal::STOP));
        servers.iter().for_each(|pid| signal(*pid, ending));
        assert_eq!(host.state("mynet"), format!("degraded ({reason})"));
        if ending == Signal::STOP {
            servers.iter().for_each(|pid| signal(*pid, Signal::CONT));
            wait_until("it answers again", || host.state("mynet") == "ok");
        }
    }
}

#[test]
fn a_container_whose_record_was_lost_is_told_and_its_address_not_given_again() {
    for (create, network) in [("create mynet", "mynet"), ("", "bridge")] {
        let host = Host::forwarding();
        if !create.is_empty() {
            host.ok(create);
        }
        host.ok(&format!("run -d --name web --net {network} sleep 1000"));
        let shown = host.json("inspect --type endpoint web")[0]["networks"][0].clone();
        let (port, pid) = (shown["link"].as_str().unwrap().to_owned(), host.pid("web"));
        let ip = shown["addresses"][0].as_str().unwrap().split('/').next().unwrap().to_owned();
        // What is mounted there stays.
        host.on_host(&format!("rm -rf {} 2> /dev/null || true", host.root().join("run/rnet").display()));

        let told = format!(
            "degraded (the record of 1 container on it was lost: {port} ({ip}); \
             hint: stop and start it, or: ip link delete {port})"
        );
        assert_eq!(host.state(network), told);
        assert_eq!(host.json(&format!("inspect --type network {network}"))[0]["state"], "degraded");
        host.ok(&format!("run -d --name db --net {network} sleep 1000"));
        let other = host.json("inspect --type endpoint db")[0]["networks"][0]["addresses"][0].clone();
        let (prefix, _) = ip.rsplit_once('.').unwrap();
        assert!(other.as_str().unwrap().starts_with(prefix), "{other} is not of the subnet of {ip}");
        assert!(!other.as_str().unwrap().starts_with(&format!("{ip}/")), "{other} is given twice");
        assert_eq!(host.state(network), told);

        host.host_ip(&format!("link delete {port}"));
        signal(pid, Signal::KILL);
        assert_eq!(host.state(network), "ok");
        host.ok("rm -f db");
    }
}

#[test]
fn a_network_of_containers_whose_records_were_lost_is_not_removed_unless_they_are_cut_off() {
    let host = Host::forwarding();
    host.ok("create mynet");
    host.ok("run -d --name web --net mynet sleep 1000");
    let port =
        host.json("inspect --type endpoint web")[0]["networks"][0]["link"].as_str().unwrap().to_owned();
    let pid = host.pid("web");
    host.on_host(&format!("rm -rf {} 2> /dev/null || true", host.root().join("run/rnet").display()));

    let told = host.refused("rm mynet", 4);
    assert!(told.contains(&format!("has 1 endpoint: {port} (its record was lost)")), "{told}");
    assert_eq!(host.ok("rm --detach mynet"), "mynet\n");

    signal(pid, Signal::KILL);
    assert_eq!(host.ok("ls -q"), "");
    let rules = host.on_host("nft list ruleset");
    assert!(!rules.contains("rnet"), "{rules}");
    let links = host.on_host("ip -o link");
    assert!(!links.contains("rnet-mynet") && !links.contains(&port), "{links}");
}
