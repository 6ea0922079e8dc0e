//! Containers of `ptp`: who reaches them and as whom, what they publish, and whose address comes in where.

use std::net::{IpAddr, SocketAddr};

use netns_fixtures::{Frames, UdpClient, frame, ping};
use serde_json::{Value, json};

use crate::common::{Guest, Host, LONG, Published, SOON, bridge, mac, publishing, ranges, with};
use crate::packets::{A, B, GATEWAY_A, HOST, OUTSIDE, all_get, client, echo, page, serve, to};

fn list(masquerade: bool, ports: &[Published]) -> Value {
    let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
    let ipam = json!({"type": "host-local", "ranges": ranges(&A), "routes": routes});
    let ptp = json!({"type": "ptp", "ipMasq": masquerade, "ipam": ipam});
    let portmap = publishing(&json!({"type": "portmap"}), ports);
    json!({"cniVersion": "1.0.0", "name": "a", "plugins": [ptp, portmap]})
}

fn reaches(from: &Guest<'_>, to: IpAddr) -> bool {
    ping(from.netns(), to, LONG).unwrap().is_some()
}

#[test]
fn everybody_reaches_it_and_it_leaves_by_its_own_address_only_within_its_subnet() {
    for masquerade in [true, false] {
        let host = Host::connected();
        let one = host.attach_list("one", &list(masquerade, &[]));
        let two = host.attach_list("two", &list(masquerade, &[]));
        let other = host.attach("other", &with(&bridge("b", &B), json!({"ipMasq": false})), &[]);
        let outside = host.neighbour().netns();
        let theirs = [serve(outside, "::", 80, "theirs"), serve(two.netns(), "::", 80, "theirs")];
        let others = serve(other.netns(), "::", 80, "theirs");
        for n in [0, 1] {
            let own = one.both()[n];
            assert!(ping(host.netns(), own, LONG).unwrap().is_some(), "the host to {own}");
            assert!(reaches(&one, GATEWAY_A[n].parse().unwrap()) && reaches(&one, two.both()[n]));
            assert!(ping(outside, own, LONG).unwrap().is_some(), "from outside, as upstream");

            let ask = |ip: IpAddr| page(one.netns(), (ip, 80).into(), LONG);
            assert_eq!(ask(OUTSIDE[n].parse().unwrap()).as_deref(), Some("theirs"));
            let seen = client(&theirs[0]);
            assert_eq!(seen, if masquerade { HOST[n].parse().unwrap() } else { own });
            assert_eq!(ask(two.both()[n]).as_deref(), Some("theirs"));
            assert_eq!(client(&theirs[1]), own, "its neighbour sees its address");
            assert_eq!(ask(other.both()[n]).as_deref(), Some("theirs"));
            assert_eq!(client(&others) == own, !masquerade);
        }
    }
}

#[test]
fn a_published_port_answers_outside_the_host_its_loopback_and_the_container_itself() {
    let host = Host::connected();
    let web = host.attach_list("web", &list(true, &[("", 8080, 80, "tcp")]));
    let two = host.attach_list("two", &list(true, &[("", 8081, 80, "tcp")]));
    let _server = web.serves(80);
    let (here, outside) = (host.netns(), host.neighbour().netns());
    all_get(
        "web",
        &[
            ("outside", outside, to(HOST[0], 8080)),
            ("outside, IPv6", outside, to(HOST[1], 8080)),
            ("the host", here, to(HOST[0], 8080)),
            ("the host's loopback", here, to("127.0.0.1", 8080)),
            ("a neighbour", two.netns(), to(HOST[0], 8080)),
            ("a neighbour by the gateway", two.netns(), to(GATEWAY_A[0], 8080)),
            ("the container itself", web.netns(), to(HOST[0], 8080)),
            ("the container itself, IPv6", web.netns(), to(HOST[1], 8080)),
        ],
    );
    host.check_list(&web.network.list, &web.who, &web.result()).silent();
    let open = |guest: &Guest<'_>| host.sysctl(&format!("ipv4/conf/{}/route_localnet", guest.port()));
    assert_eq!(open(&web).as_deref(), Some("1"));
    assert_eq!(host.store().networks().unwrap().iter().map(|it| it.former.len()).sum::<usize>(), 0);
    web.del().unwrap();
    two.del().unwrap();
    assert!(host.links().iter().all(|link| !link.starts_with("veth")) && host.elements().is_empty());
}

/// Sends a datagram to the machine outside, and one to the neighbour, as if they came from `from`.
fn forge(host: &Host, forger: &Guest<'_>, from: IpAddr, to: SocketAddr) {
    let gateway = mac(host.netns(), &forger.port());
    let own = mac(forger.netns(), "eth0");
    let datagram = frame::udp((from, 7777), (to.ip(), to.port()), b"forged, and long enough to be a frame");
    let (kind, packet) = match (from, to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (0x0800, frame::ipv4(from, to, 17, &datagram)),
        (IpAddr::V6(from), IpAddr::V6(to)) => (0x86dd, frame::ipv6(from, to, 17, &datagram)),
        families => panic!("{families:?}"),
    };
    Frames::on(forger.netns(), "eth0").unwrap().send(&frame::ethernet(gateway, own, kind, &packet)).unwrap();
}

/// True if a datagram that `forger` sends as `from` arrives outside, or at the neighbour.
fn is_believed(host: &Host, forger: &Guest<'_>, from: IpAddr, victim: &Guest<'_>, n: usize) -> bool {
    let places =
        [(host.neighbour().netns(), OUTSIDE[n].parse().unwrap()), (victim.netns(), victim.both()[n])];
    places.into_iter().any(|(netns, ip): (_, IpAddr)| {
        let echo = echo(netns, "::", 53);
        forge(host, forger, from, (ip, 53).into());
        // An honest one comes later, and arrives.
        let any = if n == 0 { "0.0.0.0:0" } else { "[::]:0" };
        let honest = UdpClient::bind(forger.netns(), any.parse().unwrap()).unwrap();
        assert!(honest.exchange((ip, 53).into(), b"hello", LONG).unwrap().is_some());
        std::thread::sleep(SOON / 3);
        echo.peers().iter().any(|peer| peer.port() == 7777)
    })
}

#[test]
fn a_containers_address_comes_in_by_its_own_interface_only() {
    let host = Host::connected();
    let plain = list(false, &[]);
    let [victim, third, forger] = ["victim", "third", "forger"].map(|name| host.attach_list(name, &plain));
    let links: Vec<String> = host.netlink().links().unwrap().into_iter().map(|link| link.name).collect();
    for link in links.iter().map(String::as_str).chain(["all", "default"]) {
        host.set_sysctl(&format!("ipv4/conf/{link}/rp_filter"), "0");
    }
    for n in [0, 1] {
        let stolen = third.both()[n];
        assert!(is_believed(&host, &third, stolen, &victim, n), "its own address, by its own interface");
        assert!(!is_believed(&host, &forger, stolen, &victim, n), "{stolen}");
    }
    host.flush();
    for n in [0, 1] {
        assert!(is_believed(&host, &forger, third.both()[n], &victim, n), "nothing else has stopped it");
    }
}
