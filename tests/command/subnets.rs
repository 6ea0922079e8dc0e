//! Which subnets are free, and which are refused.

use crate::common::Host;

#[test]
fn a_connected_subnet_and_the_hosts_own_addresses_are_refused() {
    let host = Host::forwarding();
    let _outside = host.outside(&["172.18.7.0/24".parse().unwrap(), "fd00:7::/64".parse().unwrap()]).unwrap();
    host.host_ip("addr add 10.5.5.5/32 dev lo");
    for (subnet, taken, link) in [
        ("172.18.7.0/24", "172.18.7.0/24", "out0"),
        ("172.18.0.0/16", "172.18.7.0/24", "out0"),
        ("172.18.7.128/25", "172.18.7.0/24", "out0"),
        ("10.5.0.0/16", "10.5.5.5/32", "lo"),
        ("fd00:7::/64", "fd00:7::/64", "out0"),
    ] {
        let said = host.refused(&format!("create --subnet {subnet} lab"), 4);
        // A free IPv4 subnet is no help to who wants one of IPv6.
        let hint = if subnet.contains(':') { "rnet ls --all" } else { "next free: --subnet 172.19.0.0/16" };
        let text = format!("error: {subnet} overlaps {taken} of the host's link {link}\n hint: {hint}");
        assert!(said.starts_with(&text), "{said}");
    }
    assert_eq!(host.ok("ls -q"), "");
}

#[test]
fn a_network_can_be_made_anew_under_its_own_containers() {
    let host = Host::forwarding();
    host.ok("create --subnet 10.9.0.0/24 mynet");
    host.ok("run -d --name web --net mynet sleep 1000");
    std::fs::remove_file(host.definitions().join("rnet-mynet.conflist")).unwrap();
    host.ok("create --subnet 10.9.0.0/24 mynet");
    assert_eq!(host.state("mynet"), "ok");
    host.ok("stop web");
}

#[test]
fn what_the_host_relies_on_is_no_automatic_subnet() {
    let host = Host::forwarding();
    let outside = host.outside(&["192.168.77.0/24".parse().unwrap()]).unwrap();
    let via = outside.address();
    // The next hop of a route, which is itself reached by another one.
    host.host_ip(&format!("route add 172.18.0.9/32 via {via}"));
    host.host_ip(&format!("route add default via {via}"));
    host.host_ip("addr add 172.19.3.3/32 dev lo");
    let file = host.root().join("resolv.conf");
    std::fs::write(&file, "nameserver 172.20.0.53\nnameserver 172.21.0.53\n").unwrap();
    let script = format!(
        "mount --bind {} /etc/resolv.conf && exec {} create mynet",
        file.display(),
        env!("CARGO_BIN_EXE_rnet")
    );
    let output = host.command("unshare").args(["--mount", "sh", "-c", &script]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(host.json("inspect mynet")[0]["subnets"][0]["subnet"], "172.22.0.0/16");
    let said = host.rnet("create --subnet 172.18.0.0/24 lab");
    assert_eq!(said.status, 0, "a mere route is a warning: {said:?}");
    assert!(
        said.stderr
            .starts_with("warning: 172.18.0.0/24 overlaps 172.18.0.9/32 of the host's route dev out0\n")
    );
}
