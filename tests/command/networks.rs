//! Networks: made, listed, described, removed.

use crate::common::Host;

#[test]
fn a_name_that_comes_back_has_its_address_unless_the_network_says_otherwise() {
    let host = Host::forwarding();
    host.ok("create sticky");
    host.ok("create other --no-sticky");
    for (network, second, swapped) in [("sticky", "3", false), ("other", "3", true)] {
        let run = |name: &str| host.ok(&format!("run -d --name {name} --net {network} sleep 1000"));
        let ip_of = |name: &str| {
            let row = host.ok("ps");
            let row = row.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
            row.split_whitespace().nth(2).unwrap().to_owned()
        };
        run("tomcat01");
        run("tomcat02");
        let before = (ip_of("tomcat01"), ip_of("tomcat02"));
        assert!(before.1.ends_with(second), "{before:?}");

        host.ok("stop tomcat01 tomcat02");
        run("tomcat02");
        run("tomcat01");

        let after = (ip_of("tomcat01"), ip_of("tomcat02"));
        assert_eq!(after, if swapped { (before.1, before.0) } else { before });
        host.ok("stop tomcat01 tomcat02");
    }
    host.ok("rm sticky");
    assert_eq!(std::fs::read_dir(host.root().join("var/lib/rnet/addresses")).unwrap().count(), 0);
}

#[test]
fn the_default_network_exists_while_an_endpoint_is_on_it() {
    let host = Host::forwarding();
    host.ok("run -d --name web sleep 1000");
    let ls = host.ok("ls");
    assert!(ls.contains("bridge   bridge   172.18.0.0/16   172.18.0.1   rnet0    1           ok"), "{ls}");
    host.ok("create mynet");
    assert!(host.ok("ls").contains("mynet    bridge   172.19.0.0/16"));
    assert!(!host.definitions().join("rnet-bridge.conflist").exists());
    host.ok("stop web");
    assert_eq!(host.ok("ls -q"), "mynet\n");
}

#[test]
fn an_endpoint_that_lost_its_bridge_is_told() {
    let host = Host::forwarding();
    host.ok("create mynet");
    host.ok("run -d --name web --net mynet sleep 1000");
    assert!(host.ok("ls").contains("1           ok"));
    let link = host.json("inspect web")[0]["networks"][0]["link"].as_str().unwrap().to_owned();
    host.host_ip(&format!("link set {link} nomaster"));
    let ls = host.ok("ls");
    assert!(ls.contains(&format!("degraded ({link} of \"web\" is not on rnet-mynet)")), "{ls}");
    host.host_ip("link del rnet-mynet");
    assert_eq!(host.state("mynet"), "lost (its bridge rnet-mynet is gone)");
    // The next ADD makes it anew, with all ports that are on record.
    host.ok("run -d --name db --net mynet sleep 1000");
    assert_eq!(host.state("mynet"), "ok");
    host.ok("stop web db");
    host.nobody_is_left();
}

#[test]
fn an_endpoint_without_a_name_is_not_remembered_and_the_default_network_remembers_none() {
    let host = Host::forwarding();
    host.ok("create mynet");
    host.ok("run --net mynet true");
    host.ok("run --name web true");
    assert!(!host.root().join("var/lib/rnet/addresses").exists());
    host.ok("run --name web --net mynet true");
    assert_eq!(std::fs::read_dir(host.root().join("var/lib/rnet/addresses")).unwrap().count(), 1);
}

#[test]
fn a_second_definition_of_a_network_is_told() {
    let host = Host::forwarding();
    host.ok("create mynet");
    let file = host.definitions().join("rnet-mynet.conflist");
    std::fs::copy(&file, host.definitions().join("10-other.conflist")).unwrap();
    let said = host.rnet("ls -q");
    assert_eq!(
        (said.stdout, said.stderr),
        (
            "mynet\n".into(),
            format!("warning: skipped {}: another file also defines network \"mynet\"\n", file.display())
        )
    );
}

#[test]
fn rm_detaches_users_only_when_told_to() {
    let host = Host::forwarding();
    host.ok("create mynet");
    host.ok("run -d --name web --net mynet sleep 1000");
    let pid = host.pid("web");
    host.fails(
        "rm web",
        4,
        &format!("error: endpoint \"web\" is running (pid {pid})\n hint: rnet stop web\n"),
    );
    assert_eq!(host.ok("rm --detach mynet"), "mynet\n");
    assert_eq!(host.ok("ls -q"), "");
    assert_eq!(host.script("exec web", "cut -d: -f1 -s /proc/net/dev | tr -d ' \\n'").stdout, "lo");
    assert_eq!(host.ok("rm -f web"), "web\n");
    host.nobody_is_left();
}

#[test]
fn a_network_is_described_as_json() {
    let host = Host::forwarding();
    host.ok("create --subnet 10.9.0.0/24 --gateway 10.9.0.254 --ip-range 10.9.0.128/25 --mtu 1400 lab");
    let shown = &host.json("inspect lab")[0];
    assert_eq!(
        shown["subnets"].to_string(),
        r#"[{"subnet":"10.9.0.0/24","gateway":"10.9.0.254","rangeStart":"10.9.0.128","rangeEnd":"10.9.0.254"}]"#
    );
    assert_eq!((shown["bridge"].as_str(), shown["mtu"].as_u64()), (Some("rnet-lab"), Some(1400)));
    host.ok("run -d --name web --net lab sleep 1000");
    assert_eq!(host.json("ls --json")[0]["endpoints"], 1);
    let web = &host.json("inspect web")[0];
    assert_eq!(web["networks"][0]["addresses"][0], "10.9.0.128/24");
    assert_eq!(web["networks"][0]["gateway"], "10.9.0.254");
    assert_eq!(host.mtu_of("web"), 1400);
    let id = web["id"].as_str().unwrap();
    assert_eq!(host.json(&format!("inspect {}", &id[..8]))[0]["name"], "web");
    host.ok("stop web");
}

#[test]
fn subnets_of_others_are_avoided_and_a_mere_route_only_warns() {
    let host = Host::forwarding();
    let outside = host.outside(&["192.168.77.0/24".parse().unwrap()]).unwrap();
    host.host_ip(&format!("route add 172.18.7.0/24 via {}", outside.address()));
    let podman = host.root().join("etc/containers/networks");
    std::fs::create_dir_all(&podman).unwrap();
    std::fs::write(podman.join("web.json"), r#"{"name":"web","subnets":[{"subnet":"172.19.0.0/24"}]}"#)
        .unwrap();

    host.ok("create mynet");
    assert!(host.ok("ls").contains("172.20.0.0/16"));
    let warned = host.rnet("create --subnet 172.18.7.0/24 lab");
    assert_eq!((warned.stdout.as_str(), warned.status), ("lab\n", 0));
    assert!(
        warned
            .stderr
            .starts_with("warning: 172.18.7.0/24 overlaps 172.18.7.0/24 of the host's route dev out0\n")
    );
    host.fails(
        "create --subnet 172.19.0.0/16 other",
        4,
        "error: 172.19.0.0/16 overlaps 172.19.0.0/24 of podman's network \"web\"\n \
         hint: next free: --subnet 172.21.0.0/16      (rnet ls --all shows every subnet in use)\n",
    );
    let all = host.ok("ls --all");
    assert!(all.contains("podman") && all.contains("out0"), "{all}");
}

#[test]
fn an_ipv6_network_and_one_of_both_families() {
    let host = Host::forwarding();
    host.ok("create --subnet fd00:1::/64 six");
    host.ok("create --subnet 10.9.0.0/24 --subnet fd00:2::/64 both");
    assert_eq!(host.ok("run -d --name one --net six sleep 1000"), "one\n");
    assert_eq!(host.ok("run -d --name two --net both sleep 1000"), "two\n");
    let ps = host.ok("ps");
    assert!(ps.contains("fd00:1::2 ") && ps.contains("10.9.0.2,fd00:2::2"), "{ps}");
    let ls = host.ok("ls");
    assert!(ls.contains("10.9.0.0/24,fd00:2::/64   10.9.0.1,fd00:2::1"), "{ls}");
    host.ok("stop one two");
    host.nobody_is_left();
}

/// A definition was copied, and its name and bridge were changed.
#[test]
fn ls_tells_of_two_networks_with_one_subnet() {
    let host = Host::forwarding();
    host.ok("create mynet");
    let text = std::fs::read_to_string(host.definitions().join("rnet-mynet.conflist")).unwrap();
    std::fs::write(host.definitions().join("rnet-copy.conflist"), text.replace("mynet", "copy")).unwrap();

    let listed = host.ok("ls");

    for other in ["mynet", "copy"] {
        assert!(listed.contains(&format!("network {other} has the same subnet")), "{listed}");
    }
}
