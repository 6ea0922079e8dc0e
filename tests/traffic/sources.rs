//! One of rnet's addresses comes in by one of rnet's bridges, and leaves translated or not at all.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use netlink::Netns;
use netns_fixtures::frame::{self, ethernet, ipv4, ipv6};
use netns_fixtures::{Frames, ping};
use serde_json::json;

use crate::common::{Guest, Host, LONG, SOON, bridge, mac, rnet, with};
use crate::packets::{A, B, HOST, OUTSIDE, all_get, echo, to};

/// The outside machine's addresses.
/// What nobody published.
const CLOSED: u16 = 81;

/// Who sends frames, and how they reach the host.
struct Forger<'a> {
    netns: &'a Netns,
    frames: Frames,
    mac: [u8; 6],
    host: [u8; 6],
}

impl<'a> Forger<'a> {
    fn new(host: &Host, netns: &'a Netns, host_link: &str) -> Self {
        let host = mac(host.netns(), host_link);
        Self { netns, frames: Frames::on(netns, "eth0").unwrap(), mac: mac(netns, "eth0"), host }
    }

    /// A datagram to the host's link that says it comes from `from`.
    fn forge(&self, from: SocketAddr, to: SocketAddr) {
        let datagram = frame::udp((from.ip(), from.port()), (to.ip(), to.port()), b"forged");
        self.send(from.ip(), to.ip(), 17, &datagram);
    }

    fn send(&self, from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) {
        self.frames.send(&packet(self.host, self.mac, from, to, protocol, payload)).unwrap();
    }

    /// Makes a victim's unpublished port seem to have asked `own`, and knocks there by what would be the answer. True if that
    /// reached the port.
    fn reaches(&self, own: IpAddr, host: IpAddr, victim: &Guest, ip: IpAddr) -> bool {
        let echo = echo(victim.netns(), "::", CLOSED);
        let any: SocketAddr = if own.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
        let socket = self.netns.run(|| UdpSocket::bind(any).unwrap()).unwrap();
        let port = socket.local_addr().unwrap().port();
        for _ in 0..3 {
            self.forge((ip, CLOSED).into(), (own, port).into());
            // What the host makes of it, and what it lets in behind it.
            assert!(ping(self.netns, host, LONG).unwrap().is_some());
            socket.send_to(b"an answer", (host, CLOSED)).unwrap();
            socket.send_to(b"an answer", (ip, CLOSED)).unwrap();
            assert!(ping(self.netns, host, LONG).unwrap().is_some());
        }
        !echo.peers().is_empty()
    }
}

fn loosen(host: &Host, rp_filter: &str) {
    let links: Vec<String> = host.netlink().links().unwrap().into_iter().map(|link| link.name).collect();
    for link in links.iter().map(String::as_str).chain(["all", "default"]) {
        host.set_sysctl(&format!("ipv4/conf/{link}/rp_filter"), rp_filter);
    }
}

/// systemd sets rp_filter 2, which takes a source that is routed anywhere.
#[test]
fn a_neighbour_outside_cannot_open_a_port_by_a_containers_address() {
    for rp_filter in ["0", "2"] {
        for network in [rnet("a", &A), bridge("a", &A), with(&rnet("a", &A), json!({"isolate": false}))] {
            let host = Host::connected();
            let victim = host.attach("victim", &network, &[("", 8080, 80, "tcp")]);
            loosen(&host, rp_filter);
            let forger = Forger::new(&host, host.neighbour().netns(), host.neighbour().link());
            for (n, ip) in victim.both().into_iter().enumerate() {
                let (own, to_host) = (OUTSIDE[n].parse().unwrap(), HOST[n].parse().unwrap());
                if network["type"] == "rnet" && network["isolate"] != false {
                    assert!(!forger.reaches(own, to_host, &victim, ip), "{ip}, rp_filter {rp_filter}");
                }
                assert_eq!(tracked(&host, ip), 0, "{ip} of {network}, rp_filter {rp_filter}");
            }
            let _server = victim.serves(80);
            if network["type"] == "rnet" {
                all_get("victim", &[("outside", host.neighbour().netns(), to(HOST[0], 8080))]);
            }
            assert!(ping(victim.netns(), host.neighbour().address(), LONG).unwrap().is_some());
        }
    }
}

/// Nobody guards its port: a network of another tool's may do what it likes.
#[test]
fn a_container_of_another_network_cannot_either() {
    let host = Host::connected();
    let victim = host.attach("victim", &rnet("a", &A), &[]);
    let attacker = host.attach("attacker", &bridge("b", &B), &[]);
    loosen(&host, "0");
    let forger = Forger::new(&host, attacker.netns(), "br0");
    for (n, ip) in victim.both().into_iter().enumerate() {
        let gateway = crate::packets::GATEWAY_B[n].parse().unwrap();
        assert!(!forger.reaches(attacker.both()[n], gateway, &victim, ip), "{ip}");
        assert_eq!(tracked(&host, ip), 0, "{ip}");
    }
}

/// Whatever parts it comes in: conntrack puts them together before any rule sees them, or no rule lets them pass.
#[test]
fn a_source_in_fragments_is_guarded_too() {
    let host = Host::connected();
    let victim = host.attach("victim", &rnet("a", &A), &[]);
    loosen(&host, "0");
    let forger = Forger::new(&host, host.neighbour().netns(), host.neighbour().link());
    for (n, ip) in victim.both().into_iter().enumerate() {
        let (own, to_host): (IpAddr, IpAddr) = (OUTSIDE[n].parse().unwrap(), HOST[n].parse().unwrap());
        let send = |from: IpAddr, to: IpAddr| {
            let datagram = frame::udp((from, CLOSED), (to, 4000), &[7; 40]);
            for fragment in fragments(from, to, &datagram) {
                forger.frames.send(&ethernet(forger.host, forger.mac, fragment.0, &fragment.1)).unwrap();
            }
            assert!(ping(forger.netns, to_host, LONG).unwrap().is_some());
        };
        // These parts are a datagram: an honest one arrives.
        let socket = host.run(|| UdpSocket::bind((to_host, 4000)).unwrap()).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        send(own, to_host);
        assert_eq!(socket.recv_from(&mut [0; 64]).unwrap(), (40, (own, CLOSED).into()));

        socket.set_nonblocking(true).unwrap();
        send(ip, own);
        send(ip, to_host);
        assert_eq!(tracked(&host, ip), 0, "{ip}");
        assert!(socket.recv(&mut [0; 64]).is_err(), "{ip} reaches the host");
    }
}

/// Type of the frame and packet of both halves.
fn fragments(from: IpAddr, to: IpAddr, payload: &[u8]) -> [(u16, Vec<u8>); 2] {
    const MORE: [u16; 2] = [1, 0];
    let halves = [(0u16, &payload[..24]), (3, &payload[24..])];
    [0, 1].map(|nth| {
        let (offset, half) = halves[nth];
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut packet = ipv4(from, to, 17, half);
                packet[6..8].copy_from_slice(&(offset | MORE[nth] << 13).to_be_bytes());
                // One word of the header has changed, and was zero (RFC 1624).
                let sum = u32::from(u16::from_be_bytes([packet[10], packet[11]]));
                let sum = u32::from(!(sum as u16)) + u32::from(offset | MORE[nth] << 13);
                let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
                (0x0800, packet)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let place = (offset << 3 | MORE[nth]).to_be_bytes();
                let head = [&[17, 0][..], &place, &[0, 0, 0, 9]].concat();
                (0x86dd, ipv6(from, to, 44, &[&head[..], half].concat()))
            }
            _ => panic!("two families"),
        }
    })
}

/// The host's way out may itself be a bridge, as on hosts with virtual machines.
#[test]
fn a_neighbour_behind_a_bridge_of_the_hosts_cannot_either() {
    let host = Host::connected();
    let victim = host.attach("victim", &rnet("a", &A), &[("", 8080, 80, "tcp")]);
    let link = host.neighbour().link();
    let script = format!(
        "ip link add br-up type bridge && ip addr flush dev {link} && ip link set {link} master br-up && ip link set br-up up \
         && ip addr add 192.168.77.1/24 dev br-up && ip addr add fd77::1/64 dev br-up nodad \
         && ip route replace default via 192.168.77.2 && ip -6 route flush default && ip route add default via fd77::2"
    );
    assert!(host.command("sh").args(["-c", &script]).status().unwrap().success());
    assert!(netns_fixtures::wait_for_carrier(host.netns(), "br-up", LONG).unwrap());
    loosen(&host, "0");
    let forger = Forger::new(&host, host.neighbour().netns(), "br-up");
    for (n, ip) in victim.both().into_iter().enumerate() {
        let (own, to_host) = (OUTSIDE[n].parse().unwrap(), HOST[n].parse().unwrap());
        assert!(!forger.reaches(own, to_host, &victim, ip), "{ip}");
        assert_eq!(tracked(&host, ip), 0, "{ip}");
    }
    let _server = victim.serves(80);
    all_get("victim", &[0, 1].map(|n| ("outside", host.neighbour().netns(), to(HOST[n], 8080))));
    assert!(ping(victim.netns(), host.neighbour().address(), LONG).unwrap().is_some());
}

/// How many flows conntrack knows that begin at `ip`'s unpublished port.
fn tracked(host: &Host, ip: IpAddr) -> usize {
    let table = host.command("conntrack").args(["-L", "-f", family(ip), "-p", "udp"]).output().unwrap();
    let lines = String::from_utf8(table.stdout).unwrap();
    let begins = format!("src={ip} ");
    lines.lines().filter(|line| line.contains(&begins) && line.contains("sport=81 ")).count()
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "ipv4" } else { "ipv6" }
}

/// The host has a longer prefix of the network's subnet elsewhere: what comes from there is nobody's container.
#[test]
fn a_subnet_within_a_networks_own_that_is_routed_elsewhere_comes_in_from_there() {
    let host = Host::connected();
    let guest = host.attach("one", &rnet("a", &["172.16.0.0/12"]), &[("", 8080, 80, "tcp")]);
    let _server = guest.serves(80);
    let far: Ipv4Addr = "172.31.0.9".parse().unwrap();
    let run = |on: &Netns, words: &[&str]| {
        let output = netns_fixtures::Program::new(on, "ip").args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
    };
    run(host.neighbour().netns(), &["address", "add", "172.31.0.9/32", "dev", "lo"]);
    run(host.netns(), &["route", "add", "172.31.0.9", "via", OUTSIDE[0]]);
    let socket = host.neighbour().netns().run(|| UdpSocket::bind((far, 0)).unwrap()).unwrap();
    let host = echo(host.netns(), HOST[0], 7000);
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket.send_to(b"hello", host.address()).unwrap();
    assert!(socket.recv(&mut [0; 16]).is_ok());
}

/// Two networks on one bridge, and one whose subnet lies within another's: in either order, and when the wider one goes.
#[test]
fn every_subnet_is_at_home_on_its_bridge() {
    let host = Host::connected();
    let narrow = bridge("narrow", &["172.18.7.0/24", "fd18::/64"]);
    let same_bridge = bridge("same-bridge", &["fd19::/64"]);
    let wide = rnet("wide", &A[..1]);
    let reaches = |guest: &Guest| {
        let out = if guest.result()["ips"].as_array().unwrap().len() == 1
            && guest.config()["name"] == "same-bridge"
        {
            host.neighbour().addresses()[1].ip()
        } else {
            host.neighbour().address()
        };
        ping(guest.netns(), out, LONG).unwrap().is_some()
    };
    let one = host.attach("one", &narrow, &[]);
    let two = host.attach("two", &same_bridge, &[]);
    let three = host.attach("three", &wide, &[]);
    assert!([&one, &two, &three].into_iter().all(reaches), "the wider one came last");
    three.detach();
    assert!([&one, &two].into_iter().all(reaches), "the wider one went");
    one.detach();
    let (three, one) = (host.attach("four", &wide, &[]), host.attach("five", &narrow, &[]));
    assert!([&one, &two, &three].into_iter().all(reaches), "the wider one came first");
    host.flush();
    let six = host.attach("six", &wide, &[]);
    assert!([&one, &two, &three, &six].into_iter().all(reaches), "made anew");
    let forger = Forger::new(&host, host.neighbour().netns(), host.neighbour().link());
    loosen(&host, "0");
    six.detach();
    three.detach();
    forger.forge((one.v4(), CLOSED).into(), to(OUTSIDE[0], 5000));
    assert!(ping(host.neighbour().netns(), HOST[0].parse().unwrap(), LONG).unwrap().is_some());
    assert_eq!(tracked(&host, one.v4()), 0, "the narrower one has its guard back");
}

/// TCP flags.
const RST: u8 = 4;
const PSH_ACK: u8 = 0x18;

/// A connection of a container with a server outside, and what both ends see of it there.
struct Conversation {
    client: TcpStream,
    server: TcpStream,
}

impl Conversation {
    fn with(client: &Netns, own: IpAddr, server: (&Netns, &str)) -> Self {
        let listener = server.0.run(|| TcpListener::bind((server.1, 0)).unwrap()).unwrap();
        let to = listener.local_addr().unwrap();
        let client = client.run(|| TcpStream::connect(to).unwrap()).unwrap();
        let server = listener.accept().unwrap().0;
        let conversation = Self { client, server };
        assert!(conversation.goes_on(), "{own}");
        conversation
    }

    fn goes_on(&self) -> bool {
        let (mut client, mut server) = (&self.client, &self.server);
        [client, server].into_iter().for_each(|end| end.set_read_timeout(Some(LONG)).unwrap());
        let said = client.write_all(b"hello").and_then(|()| server.read_exact(&mut [0; 5]));
        said.and_then(|()| server.write_all(b"hello")).and_then(|()| client.read_exact(&mut [0; 5])).is_ok()
    }
}

/// The server says something far above its window, or somebody in its name: conntrack has no place for it, and does not
/// translate it back. An answer of the host's would end the connection.
#[test]
fn a_segment_far_above_the_window_ends_nobodys_connection() {
    let host = Host::connected();
    let guest = host.attach("one", &rnet("a", &A), &[]);
    let (here, outside) = (host.netns(), host.neighbour().netns());
    let forger = Forger::new(&host, outside, host.neighbour().link());
    for (family, own) in guest.both().into_iter().enumerate() {
        for (who, client) in [("a container", guest.netns()), ("the host", here)] {
            let talk = Conversation::with(client, own, (outside, OUTSIDE[family]));
            let (from, to) = (talk.server.local_addr().unwrap(), talk.server.peer_addr().unwrap());
            let sees = Frames::on(outside, "eth0").unwrap();
            for (sequence, acknowledged) in [(0x4000_0000, 0), (0xc000_0000, 0x7000_0000)] {
                let segment = frame::tcp(
                    (from.ip(), from.port()),
                    (to.ip(), to.port()),
                    (sequence, acknowledged),
                    PSH_ACK,
                    b"far above the window",
                );
                forger.send(from.ip(), to.ip(), 6, &segment);
            }
            let is_reset = |frame: &[u8]| is_tcp(frame, to.ip(), |flags| flags & RST != 0);
            assert!(sees.wait_for(SOON, is_reset).unwrap().is_none(), "{who}, {own}");
            assert!(talk.goes_on(), "{who}, {own}");
        }
    }
}

/// True for a segment from `from` whose flags fit.
fn is_tcp(frame: &[u8], from: IpAddr, fits: impl Fn(u8) -> bool) -> bool {
    let (address, head) = match from {
        IpAddr::V4(from) => (from.octets().to_vec(), 26..30),
        IpAddr::V6(from) => (from.octets().to_vec(), 22..38),
    };
    let transport = if from.is_ipv4() { 34 } else { 54 };
    let protocol = if from.is_ipv4() { 23 } else { 20 };
    frame.get(head) == Some(&address[..])
        && frame.get(protocol) == Some(&6)
        && frame.get(transport + 13).is_some_and(|flags| fits(*flags))
}

/// A closed port of the host's own still says so.
#[test]
fn the_host_still_refuses_connections() {
    let host = Host::connected();
    let _guest = host.attach("one", &rnet("a", &A), &[]);
    for address in HOST {
        let refused = netns_fixtures::tcp_connect(host.neighbour().netns(), to(address, 81), LONG).unwrap();
        assert_eq!(refused, netns_fixtures::Connection::Refused);
    }
}

/// What conntrack has forgotten, or never knew, is not translated.
#[test]
fn no_frame_leaves_with_a_containers_address() {
    let host = Host::connected();
    let guest = host.attach("one", &rnet("a", &A), &[("", 8080, 80, "tcp")]);
    let sees = Frames::on(host.neighbour().netns(), "eth0").unwrap();
    let frames = Frames::on(guest.netns(), "eth0").unwrap();
    let (own_mac, gateway) = (mac(guest.netns(), "eth0"), mac(host.netns(), "rnet-a"));
    for (family, own) in guest.both().into_iter().enumerate() {
        let out: IpAddr = OUTSIDE[family].parse().unwrap();
        for flags in [RST, RST | 0x10, 0, 0x29] {
            let segment = frame::tcp((own, 80), (out, 40000), (1, 1), flags, b"");
            frames.send(&packet(gateway, own_mac, own, out, 6, &segment)).unwrap();
        }
        // It began while nobody translated.
        host.flush();
        let datagram = |text: &[u8]| frame::udp((own, 5000), (out, 5000), text);
        frames.send(&packet(gateway, own_mac, own, out, 17, &datagram(b"untranslated"))).unwrap();
        let leaves = |frame: &[u8]| is_from(frame, own);
        assert!(sees.wait_for(LONG, leaves).unwrap().is_some(), "without rules it leaves as it is");
        let _other = host.attach(&format!("other{family}"), &rnet("a", &A), &[]);
        frames.send(&packet(gateway, own_mac, own, out, 17, &datagram(b"untranslated"))).unwrap();
        assert!(ping(guest.netns(), out, LONG).unwrap().is_some());
        assert!(sees.wait_for(SOON, leaves).unwrap().is_none(), "{own}");
    }
}

fn is_from(frame: &[u8], from: IpAddr) -> bool {
    match from {
        IpAddr::V4(from) => frame.get(12..14) == Some(&[8, 0]) && frame.get(26..30) == Some(&from.octets()),
        IpAddr::V6(from) => {
            frame.get(12..14) == Some(&[0x86, 0xdd]) && frame.get(22..38) == Some(&from.octets())
        }
    }
}

/// A routed network keeps its addresses, whatever conntrack makes of its segments.
#[test]
fn a_network_without_masquerade_leaves_as_it_is() {
    let host = Host::connected();
    let guest = host.attach("one", &with(&rnet("a", &A), json!({"ipMasq": false})), &[]);
    let sees = Frames::on(host.neighbour().netns(), "eth0").unwrap();
    let frames = Frames::on(guest.netns(), "eth0").unwrap();
    let own_mac = mac(guest.netns(), "eth0");
    let gateway = mac(host.netns(), "rnet-a");
    for (family, own) in guest.both().into_iter().enumerate() {
        let out: IpAddr = OUTSIDE[family].parse().unwrap();
        let segment = frame::tcp((own, 80), (out, 40000), (1, 1), RST, b"");
        frames.send(&packet(gateway, own_mac, own, out, 6, &segment)).unwrap();
        assert!(sees.wait_for(LONG, |frame| is_from(frame, own)).unwrap().is_some(), "{own}");
    }
}

/// A whole frame.
pub fn packet(
    to: [u8; 6],
    mac: [u8; 6],
    from: IpAddr,
    target: IpAddr,
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    let (kind, packet) = match (from, target) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (0x0800, ipv4(a, b, protocol, payload)),
        (IpAddr::V6(a), IpAddr::V6(b)) => (0x86dd, ipv6(a, b, protocol, payload)),
        _ => panic!("two families"),
    };
    ethernet(to, mac, kind, &packet)
}
