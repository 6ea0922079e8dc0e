//! Addresses, routes, neighbours and sysctls in real namespaces.
#![allow(clippy::unwrap_used, reason = "clippy does not see that the helpers are of tests")]

mod common;

use std::net::IpAddr;
use std::time::Duration;

use common::{attach, bridge, on_a_host, up};
use ipnetwork::IpNetwork;
use netlink::{Error, Mac, Netlink, Netns, Request, Route, await_local};
use rustix::io::Errno;

fn network(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn address(index: u32, text: &str) -> Request {
    Request::AddressAdd { index, name: "eth0".into(), address: network(text) }
}

/// A container on a bridge: its handle, and its link's index.
fn container(host: &mut Netlink) -> (Netlink, u32) {
    let netns = Netns::create().unwrap();
    let master = bridge(host, "br0");
    let pair = attach(host, "veth1", master, &netns);
    (Netlink::inside(&netns).unwrap(), pair.container)
}

#[test]
fn one_send_makes_a_container_ready() {
    on_a_host(|| {
        let mut host = Netlink::here().unwrap();
        let (mut inside, eth0) = container(&mut host);
        let mut requests = up(eth0);
        requests.push(address(eth0, "10.1.0.2/24"));
        requests.push(address(eth0, "fd00::2/64"));
        requests.push(Request::RouteAdd(Route::via(network("0.0.0.0/0"), ip("10.1.0.1"), eth0)));
        requests.push(Request::RouteAdd(Route::via(network("::/0"), ip("fd00::1"), eth0)));

        inside.send(&requests).unwrap();

        let global: Vec<_> =
            inside.addresses(Some(eth0)).unwrap().into_iter().filter(|a| a.scope == 0).collect();
        assert_eq!(
            global.iter().map(|a| a.address.to_string()).collect::<Vec<_>>(),
            ["10.1.0.2/24", "fd00::2/64"]
        );
        assert!(global.iter().all(|a| !a.tentative && !a.dad_failed), "{global:?}");
        assert_eq!(inside.route_to(ip("9.9.9.9")).unwrap(), Some((eth0, Some(ip("10.1.0.1")))));
        assert_eq!(inside.route_to(ip("10.1.0.7")).unwrap(), Some((eth0, None)));
        assert_eq!(inside.route_to(ip("2001:db8::1")).unwrap(), Some((eth0, Some(ip("fd00::1")))));
    });
}

#[test]
fn an_address_is_awaited_until_the_kernel_serves_it() {
    on_a_host(|| {
        let mut host = Netlink::here().unwrap();
        let br0 = bridge(&mut host, "br0");
        host.send(&[address(br0, "10.1.0.1/24"), address(br0, "fd00::1/64")]).unwrap();
        assert!(host.is_local(ip("10.1.0.1")).unwrap());

        assert!(await_local(ip("fd00::1"), Duration::from_secs(5)).unwrap());

        assert!(host.is_local(ip("fd00::1")).unwrap());
        assert!(!await_local(ip("fd00::2"), Duration::from_millis(20)).unwrap());
        assert!(!await_local(ip("2001:db8::1"), Duration::ZERO).unwrap());
    });
}

#[test]
fn an_address_has_the_broadcast_address_of_its_prefix() {
    on_a_host(|| {
        let mut host = Netlink::here().unwrap();
        let (mut inside, eth0) = container(&mut host);
        let mut requests = up(eth0);
        requests.push(address(eth0, "10.1.0.2/24"));
        inside.send(&requests).unwrap();
        // The kernel keeps a broadcast address as a route in the table local.
        let local = |route: &&Route| route.table == Some(255);
        let routes = inside.routes().unwrap();
        assert!(routes.iter().filter(local).any(|r| r.destination == network("10.1.0.255/32")), "{routes:?}");
    });
}

#[test]
fn an_address_twice_is_an_error_and_can_be_removed() {
    on_a_host(|| {
        let mut host = Netlink::here().unwrap();
        let (mut inside, eth0) = container(&mut host);
        for text in ["10.1.0.2/24", "fd00::2/64"] {
            inside.send(&[address(eth0, text)]).unwrap();
            let twice = inside.send(&[address(eth0, text)]).unwrap_err();
            assert_eq!(twice.errno(), Some(Errno::EXIST), "{twice}");
            let remove = Request::AddressDel { index: eth0, name: "eth0".into(), address: network(text) };
            inside.send(&[remove]).unwrap();
        }
        assert!(inside.addresses(Some(eth0)).unwrap().iter().all(|a| a.scope != 0));
        assert_eq!(inside.addresses(Some(4711)).unwrap(), []);
    });
}

#[test]
fn a_route_is_read_back_as_it_was_written() {
    on_a_host(|| {
        let mut host = Netlink::here().unwrap();
        let (mut inside, eth0) = container(&mut host);
        let mut requests = up(eth0);
        requests.push(address(eth0, "10.1.0.2/24"));
        inside.send(&requests).unwrap();
        let wanted = Route {
            source: Some(ip("10.1.0.2")),
            scope: Some(0),
            table: Some(1000),
            priority: Some(7),
            mtu: Some(1280),
            advmss: Some(1200),
            onlink: true,
            protocol: Some(9),
            ..Route::via(network("192.0.2.0/24"), ip("198.51.100.1"), eth0)
        };
        inside.send(&[Request::RouteAdd(wanted.clone())]).unwrap();
        assert!(inside.routes().unwrap().contains(&wanted));
        inside.send(&[Request::RouteDel(wanted.clone())]).unwrap();
        assert!(!inside.routes().unwrap().contains(&wanted));
    });
}

#[test]
fn a_destination_may_have_two_routes_but_not_the_same_twice() {
    on_a_host(|| {
        let mut host = Netlink::here().unwrap();
        let (mut inside, eth0) = container(&mut host);
        let mut requests = up(eth0);
        requests.push(address(eth0, "10.1.0.2/24"));
        requests.push(address(eth0, "fd00::2/64"));
        inside.send(&requests).unwrap();
        for (all, gateways) in [("0.0.0.0/0", ["10.1.0.1", "10.1.0.3"]), ("::/0", ["fd00::1", "fd00::3"])] {
            let routes = gateways.map(|g| Request::RouteAdd(Route::via(network(all), ip(g), eth0)));
            inside.send(&routes).unwrap();
            let default = |route: &&Route| route.destination == network(all) && route.gateway.is_some();
            assert_eq!(inside.routes().unwrap().iter().filter(default).count(), 2, "{all}");
        }
        let again = Request::RouteAdd(Route::via(network("0.0.0.0/0"), ip("10.1.0.1"), eth0));
        assert_eq!(inside.send(&[again]).unwrap_err().errno(), Some(Errno::EXIST));
    });
}

#[test]
fn without_a_route_there_is_none() {
    on_a_host(|| {
        let mut host = Netlink::here().unwrap();
        assert_eq!(host.route_to(ip("9.9.9.9")).unwrap(), None);
        assert_eq!(host.route_to(ip("2001:db8::1")).unwrap(), None);
    });
}

#[test]
fn a_neighbour_is_replaced_and_removed() {
    on_a_host(|| {
        let mut host = Netlink::here().unwrap();
        let index = bridge(&mut host, "br0");
        let replace =
            |address, last| Request::NeighbourReplace { index, address, mac: Mac([2, 0, 0, 0, 0, last]) };
        for address in [ip("10.1.0.2"), ip("fd00::2")] {
            host.send(&[replace(address, 1)]).unwrap();
            host.send(&[replace(address, 2)]).unwrap();
            assert_eq!(host.neighbours(index).unwrap(), [(address, Mac([2, 0, 0, 0, 0, 2]), false)]);
            assert_eq!(host.neighbours(1).unwrap(), []);
            host.send(&[Request::NeighbourDel { index, address }]).unwrap();
            assert_eq!(host.neighbours(index).unwrap(), []);
            host.send(&[Request::NeighbourDel { index, address }]).unwrap();
        }
    });
}

#[test]
fn sysctls_are_those_of_the_handles_namespace() {
    on_a_host(|| {
        let mut host = Netlink::here().unwrap();
        let (inside, _) = container(&mut host);
        let key = "ipv4/conf/eth0/arp_notify";
        assert_eq!(inside.sysctl(key).unwrap().as_deref(), Some("0"));
        assert!(inside.set_sysctl(key, "1").unwrap());
        assert!(!inside.set_sysctl(key, "1").unwrap());
        assert_eq!(inside.sysctl(key).unwrap().as_deref(), Some("1"));
        // The host has no eth0; and its own keys are not the container's.
        assert_eq!(host.sysctl(key).unwrap(), None);
        // The first value in a new namespace depends on the machine.
        for handle in [&host, &inside] {
            handle.set_sysctl("ipv4/ip_forward", "0").unwrap();
        }
        assert!(inside.set_sysctl("ipv4/ip_forward", "1").unwrap());
        assert_eq!(host.sysctl("ipv4/ip_forward").unwrap().as_deref(), Some("0"));
        assert!(inside.set_sysctl("ipv6/conf/eth0/disable_ipv6", "1").unwrap());
        assert_eq!(inside.sysctl("ipv6/conf/eth0/disable_ipv6").unwrap().as_deref(), Some("1"));
    });
}

#[test]
fn sysctls_serve_other_threads_and_the_rarer_directories() {
    on_a_host(|| {
        let container = Netns::create().unwrap();
        let inside = Netlink::inside(&container).unwrap();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| inside.set_sysctl("core/somaxconn", "77").unwrap());
            assert!(other.join().unwrap());
        });
        assert_eq!(inside.sysctl("core/somaxconn").unwrap().as_deref(), Some("77"));
        assert_ne!(Netlink::here().unwrap().sysctl("core/somaxconn").unwrap().as_deref(), Some("77"));
    });
}

#[test]
fn a_sysctl_key_cannot_lead_elsewhere() {
    let here = Netlink::here().unwrap();
    for key in ["ipv4/../../kernel/hostname", "../kernel/hostname", "ipv4//ip_forward", "ipv4/./ip_forward"] {
        assert!(matches!(here.sysctl(key), Err(Error::ReadSysctl { errno: Errno::INVAL, .. })), "{key}");
    }
    assert_eq!(here.sysctl("ipv4").unwrap(), None);
    assert_eq!(here.sysctl("nothing/at/all").unwrap(), None);
    let missing = here.set_sysctl("ipv4/nothing", "1").unwrap_err();
    assert_eq!(missing.to_string(), "failed to set sysctl net/ipv4/nothing to 1: no such file or directory");
}
