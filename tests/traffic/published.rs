//! A published port of an `rnet` network: from everywhere it answers, and to whom.

use netns_fixtures::{Connection, bridge_filter_settings, tcp_connect};

use crate::common::{Guest, Host, LONG, rnet};
use crate::packets::{
    A, B, GATEWAY_A, GATEWAY_B, HOST, all_get, client, echo, echoes, none_get, page, serve, to,
};

/// `web` publishes 8080 on network A, where `peer` is too; `other` is on B.
fn cast(host: &Host) -> (Guest<'_>, Guest<'_>, Guest<'_>) {
    let (a, b) = (rnet("a", &A), rnet("b", &B));
    let web = host.attach("web", &a, &[("", 8080, 80, "tcp"), ("", 5353, 53, "udp")]);
    (web, host.attach("peer", &a, &[]), host.attach("other", &b, &[]))
}

#[test]
fn it_answers_everybody_in_both_families_with_and_without_br_netfilter() {
    let host = Host::connected();
    let (web, peer, other) = cast(&host);
    let (here, outside) = (host.netns(), host.neighbour().netns());
    let _server = web.serves(80);
    let _echo = echo(web.netns(), "::", 53);
    let from_everywhere = |ip: usize| {
        [
            ("another machine", outside, HOST[ip]),
            ("the host by its own address", here, HOST[ip]),
            ("the host by the gateway's address", here, GATEWAY_A[ip]),
            ("the host by another gateway's address", here, GATEWAY_B[ip]),
            ("the same network by the host's address", peer.netns(), HOST[ip]),
            ("the same network by the gateway's address", peer.netns(), GATEWAY_A[ip]),
            ("another network by the host's address", other.netns(), HOST[ip]),
            ("another network by its own gateway", other.netns(), GATEWAY_B[ip]),
            ("another network by the container's gateway", other.netns(), GATEWAY_A[ip]),
            ("the container itself by the host's address", web.netns(), HOST[ip]),
            ("the container itself by the gateway's address", web.netns(), GATEWAY_A[ip]),
        ]
    };
    for &on in bridge_filter_settings() {
        host.set_bridge_netfilter(on);
        let tcp: Vec<_> = [0, 1]
            .into_iter()
            .flat_map(from_everywhere)
            .map(|(who, from, ip)| (who, from, to(ip, 8080)))
            .collect();
        all_get("web", &tcp);
        all_get(
            "web",
            &[
                ("the host by its loopback", here, to("127.0.0.1", 8080)),
                ("by another", here, to("127.0.0.2", 8080)),
            ],
        );
        for (who, from, to) in tcp {
            let udp = (to.ip(), 5353).into();
            assert!(echoes(from, udp, LONG), "{who}: {udp} {on}");
        }
        assert!(echoes(here, to("127.0.0.1", 5353), LONG));
    }
}

#[test]
fn the_server_sees_real_clients_where_it_can_answer_them() {
    let host = Host::connected();
    let (web, peer, other) = cast(&host);
    let (here, outside) = (host.netns(), host.neighbour().netns());
    let server = web.serves(80);
    for ip in [0, 1] {
        let address = |guest: &Guest| if ip == 0 { guest.v4() } else { guest.v6() };
        let gateway: std::net::IpAddr = GATEWAY_A[ip].parse().unwrap();
        let seen = |from, by: &str| {
            assert_eq!(page(from, to(by, 8080), LONG).as_deref(), Some("web"));
            client(&server)
        };
        assert_eq!(seen(outside, HOST[ip]), host.neighbour().addresses()[ip].ip());
        // Its answer must come back by the host.
        assert_eq!(seen(peer.netns(), HOST[ip]), gateway);
        assert_eq!(seen(web.netns(), HOST[ip]), gateway);
        // Upstream masquerades all that leaves a network.
        assert_eq!(seen(other.netns(), HOST[ip]), gateway);
        assert_ne!(seen(other.netns(), HOST[ip]), address(&other));
        assert_eq!(seen(here, GATEWAY_A[ip]), gateway);
    }
    assert_eq!(page(here, to("127.0.0.1", 8080), LONG).as_deref(), Some("web"));
    assert_eq!(client(&server).to_string(), GATEWAY_A[0]);
}

/// The kernel never routes ::1 to a container. A time-out would be worse than a refusal.
#[test]
fn the_ipv6_loopback_refuses_at_once() {
    let host = Host::connected();
    let (web, ..) = cast(&host);
    let _server = web.serves(80);
    let here = host.netns();
    assert_eq!(tcp_connect(here, to("::1", 8080), LONG).unwrap(), Connection::Refused);
}

#[test]
fn an_ipv4_network_publishes_ipv4_only() {
    let host = Host::connected();
    let web = host.attach("web", &rnet("a", &A[..1]), &[("", 8080, 80, "tcp")]);
    let _server = web.serves(80);
    let outside = host.neighbour().netns();
    all_get("web", &[("IPv4", outside, to(HOST[0], 8080))]);
    assert_eq!(tcp_connect(outside, to(HOST[1], 8080), LONG).unwrap(), Connection::Refused);
}

#[test]
fn a_port_on_one_address_answers_on_that_address_alone() {
    let host = Host::connected();
    let ports =
        [("192.168.77.1", 8080, 80, "tcp"), ("fd77::1", 8080, 80, "tcp"), ("172.18.0.1", 8081, 80, "tcp")];
    let web = host.attach("web", &rnet("a", &A), &ports);
    let _server = web.serves(80);
    let (here, outside) = (host.netns(), host.neighbour().netns());
    all_get(
        "web",
        &[
            ("outside", outside, to(HOST[0], 8080)),
            ("outside, IPv6", outside, to(HOST[1], 8080)),
            ("host", here, to(HOST[0], 8080)),
            ("itself", web.netns(), to(HOST[0], 8080)),
            ("by the gateway", here, to(GATEWAY_A[0], 8081)),
        ],
    );
    none_get(&[
        ("the gateway", here, to(GATEWAY_A[0], 8080)),
        ("the loopback", here, to("127.0.0.1", 8080)),
        ("the gateway, IPv6", here, to(GATEWAY_A[1], 8080)),
        ("another address", outside, to(HOST[0], 8081)),
    ]);
}

#[test]
fn two_host_ports_lead_to_one_and_one_to_each_of_two() {
    let host = Host::connected();
    let a = rnet("a", &A[..1]);
    let web = host.attach("web", &a, &[("", 8080, 80, "tcp"), ("", 8081, 80, "tcp"), ("", 8082, 81, "tcp")]);
    let api = host.attach("api", &a, &[("", 9090, 80, "tcp")]);
    let (_web, _api) = (web.serves(80), api.serves(80));
    let _second = serve(web.netns(), "0.0.0.0", 81, "second");
    let outside = host.neighbour().netns();
    all_get("web", &[("8080", outside, to(HOST[0], 8080)), ("8081", outside, to(HOST[0], 8081))]);
    all_get("second", &[("8082", outside, to(HOST[0], 8082))]);
    all_get("api", &[("9090", outside, to(HOST[0], 9090))]);
}

/// CVE-2025-67499: what only passes through the host is nobody's published port.
#[test]
fn another_programs_port_of_the_same_number_is_left_alone() {
    let host = Host::connected();
    let (web, peer, _) = cast(&host);
    let _server = web.serves(80);
    let subnets = ["192.168.78.0/24".parse().unwrap(), "fd78::/64".parse().unwrap()];
    let far = host.outside(&subnets).unwrap();
    let _theirs = serve(far.netns(), "::", 8080, "theirs");
    let _names = echo(far.netns(), "::", 5353);
    host.neighbour().route_via_host(subnets[0]).unwrap();
    host.neighbour().route_via_host(subnets[1]).unwrap();
    far.route_via_host("192.168.77.0/24".parse().unwrap()).unwrap();
    far.route_via_host("fd77::/64".parse().unwrap()).unwrap();
    let far = far.addresses();
    for there in [far[0].ip(), far[1].ip()] {
        let there = there.to_string();
        all_get(
            "theirs",
            &[
                ("another machine", host.neighbour().netns(), to(&there, 8080)),
                ("a container", peer.netns(), to(&there, 8080)),
                ("the publisher itself", web.netns(), to(&there, 8080)),
                ("the host", host.netns(), to(&there, 8080)),
            ],
        );
        assert!(echoes(peer.netns(), to(&there, 5353), LONG));
    }
}

#[test]
fn after_a_flush_one_more_add_brings_every_port_back() {
    let host = Host::connected();
    let (web, peer, other) = cast(&host);
    let _server = web.serves(80);
    let (outside, by) = (host.neighbour().netns(), to(HOST[0], 8080));
    all_get("web", &[("before", outside, by)]);
    host.flush();
    none_get(&[("flushed", outside, by)]);
    let more = host.attach("more", &rnet("b", &B), &[("", 9090, 80, "tcp")]);
    let _more = more.serves(80);
    all_get(
        "web",
        &[("the old port", outside, by), ("from within", peer.netns(), by), ("itself", web.netns(), by)],
    );
    all_get("more", &[("the new one", outside, to(HOST[0], 9090))]);
    none_get(&[
        ("isolation too", other.netns(), to("172.18.0.2", 80)),
        ("from outside", outside, to("172.18.0.2", 80)),
    ]);
}

#[test]
fn after_del_nothing_answers_and_nothing_is_left() {
    let host = Host::connected();
    let before = host.links();
    let (web, peer, other) = cast(&host);
    let _server = web.serves(80);
    web.detach();
    none_get(&[
        ("outside", host.neighbour().netns(), to(HOST[0], 8080)),
        ("host", host.netns(), to("127.0.0.1", 8080)),
        ("peer", peer.netns(), to(GATEWAY_A[0], 8080)),
    ]);
    assert_eq!(host.sysctl("ipv4/conf/rnet-a/route_localnet").as_deref(), Some("0"));
    peer.detach();
    other.detach();
    assert_eq!(host.links(), before);
    assert_eq!(host.elements(), []);
}
