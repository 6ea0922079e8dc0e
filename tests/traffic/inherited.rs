//! Nobody inherits flows with an address, whatever protocol they are of: raw packets of those that conntrack knows, and of one
//! that it does not.

use std::net::IpAddr;
use std::time::Duration;

use netns_fixtures::Frames;
use netns_fixtures::frame::{icmp, icmpv6, sctp, udp, udplite};
use serde_json::{Value, json};

use crate::common::{Guest, Host, LONG, bridge, mac, rnet, with};
use crate::former::nobody_forgets;
use crate::packets::{A, HOST, OUTSIDE};
use crate::sources::packet;

const SOON: Duration = Duration::from_millis(400);

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const TAG: u32 = 0x7261_6773;

#[derive(Clone, Copy, Debug)]
enum Kind {
    Icmp,
    Udp,
    UdpLite,
    Sctp,
    Gre,
    /// RFC 3692: for experiments.
    Unknown,
}

use Kind::*;

/// Those that a container can begin, and those that can be published.
const OUTWARDS: [Kind; 6] = [Icmp, Udp, UdpLite, Sctp, Gre, Unknown];
const INWARDS: [(Kind, &str); 2] = [(Udp, "udp"), (Sctp, "sctp")];

impl Kind {
    fn number(self, v6: bool) -> u8 {
        match self {
            Icmp if v6 => 58,
            Icmp => 1,
            Udp => 17,
            UdpLite => 136,
            Sctp => 132,
            Gre => 47,
            Unknown => 253,
        }
    }

    /// What begins a flow.
    fn first(self, from: IpAddr, to: IpAddr, ports: (u16, u16), mark: &[u8]) -> Vec<u8> {
        self.message(from, to, ports, (false, 0), mark)
    }

    /// The answer to `heard`, what follows the IP header there.
    fn answer(self, from: IpAddr, to: IpAddr, heard: &[u8], mark: &[u8]) -> Vec<u8> {
        let number = |at: usize| u16::from_be_bytes([heard[at], heard[at + 1]]);
        let ports = if matches!(self, Icmp) { (number(4), 0) } else { (number(2), number(0)) };
        let tag = if matches!(self, Sctp) { TAG } else { 0 };
        self.message(from, to, ports, (true, tag), mark)
    }

    fn message(
        self,
        from: IpAddr,
        to: IpAddr,
        ports: (u16, u16),
        (answer, tag): (bool, u32),
        mark: &[u8],
    ) -> Vec<u8> {
        let chunk = |kind: u8| {
            let length = 24 + mark.len() as u16;
            let head = [&[kind, 0][..], &length.to_be_bytes(), &TAG.to_be_bytes()].concat();
            let parameter = [&[0xc0, 0][..], &(4 + mark.len() as u16).to_be_bytes(), mark].concat();
            [&head[..], &[0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1], &parameter].concat()
        };
        let echo = [&ports.0.to_be_bytes()[..], &[0, 1], mark].concat();
        match (self, from, to) {
            (Icmp, IpAddr::V6(from), IpAddr::V6(to)) => icmpv6(from, to, 128 + u8::from(answer), &echo),
            (Icmp, ..) => icmp(if answer { 0 } else { 8 }, &echo),
            (Udp, ..) => udp((from, ports.0), (to, ports.1), mark),
            (UdpLite, ..) => udplite((from, ports.0), (to, ports.1), mark),
            (Sctp, ..) => sctp(ports.0, ports.1, tag, &chunk(if answer { INIT_ACK } else { INIT })),
            (Gre, ..) => [&[0, 0, 8, 0], mark].concat(),
            (Unknown, ..) => mark.to_vec(),
        }
    }
}

/// An interface by which frames are sent to the host and heard.
struct Wire {
    frames: Frames,
    mac: [u8; 6],
    host: [u8; 6],
}

impl Wire {
    fn of(host: &Host, netns: &netlink::Netns, host_link: &str) -> Self {
        let host = mac(host.netns(), host_link);
        Self { frames: Frames::on(netns, "eth0").unwrap(), mac: mac(netns, "eth0"), host }
    }

    fn send(&self, from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) {
        self.frames.send(&packet(self.host, self.mac, from, to, protocol, payload)).unwrap();
    }

    /// The frame from elsewhere with that mark.
    fn hears(&self, mark: &[u8], timeout: Duration) -> Option<Vec<u8>> {
        let is_it = |frame: &[u8]| frame[6..12] != self.mac && frame.windows(mark.len()).any(|at| at == mark);
        self.frames.wait_for(timeout, is_it).unwrap()
    }
}

/// The sender's address in a frame, and what follows the IP header.
fn parts(frame: &[u8]) -> (IpAddr, &[u8]) {
    match frame[12..14] {
        [8, 0] => (IpAddr::from(<[u8; 4]>::try_from(&frame[26..30]).unwrap()), &frame[34..]),
        _ => (IpAddr::from(<[u8; 16]>::try_from(&frame[22..38]).unwrap()), &frame[54..]),
    }
}

/// A packet that belongs to a flow of the old holder, as the machine outside sends it.
struct Late {
    kind: Kind,
    to: IpAddr,
    payload: Vec<u8>,
    mark: Vec<u8>,
}

fn mark(what: &str, kind: Kind, own: IpAddr) -> Vec<u8> {
    format!("{what} {kind:?} {}", if own.is_ipv4() { 4 } else { 6 }).into_bytes()
}

/// A flow that the container begins, answered once.
fn begin(kind: Kind, own: IpAddr, inner: &Wire, outer: &Wire) -> Late {
    let out: IpAddr = OUTSIDE[usize::from(own.is_ipv6())].parse().unwrap();
    let (asks, answers) = (mark("asks", kind, own), mark("answers", kind, own));
    inner.send(own, out, kind.number(own.is_ipv6()), &kind.first(own, out, (7000, 9000), &asks));
    let heard = outer.hears(&asks, LONG).unwrap_or_else(|| panic!("{kind:?} leaves {own}"));
    let (host, message) = parts(&heard);
    let late = kind.answer(out, host, message, &answers);
    outer.send(out, host, kind.number(own.is_ipv6()), &late);
    assert!(inner.hears(&answers, LONG).is_some(), "{kind:?} is answered at {own}");
    Late { kind, to: host, payload: late, mark: answers }
}

/// A flow that the machine outside begins, by a published port.
fn is_asked(kind: Kind, port: u16, own: IpAddr, inner: &Wire, outer: &Wire) -> Late {
    let family = usize::from(own.is_ipv6());
    let (out, host) = (OUTSIDE[family].parse().unwrap(), HOST[family].parse().unwrap());
    let (asks, answers) = (mark("knocks", kind, own), mark("opens", kind, own));
    let first = kind.first(out, host, (9000, port), &asks);
    outer.send(out, host, kind.number(own.is_ipv6()), &first);
    let heard = inner.hears(&asks, LONG).unwrap_or_else(|| panic!("{kind:?} comes in to {own}"));
    let (client, message) = parts(&heard);
    inner.send(own, client, kind.number(own.is_ipv6()), &kind.answer(own, client, message, &answers));
    assert!(outer.hears(&answers, LONG).is_some(), "{kind:?} is answered by {own}");
    Late { kind, to: host, payload: first, mark: asks }
}

/// Which of `lates` reach the container that has the address now.
fn arrive(lates: &[Late], outer: &Wire, netns: &netlink::Netns, host: &Host) -> Vec<String> {
    let inner = Wire::of(host, netns, "lo");
    for late in lates {
        let out = OUTSIDE[usize::from(late.to.is_ipv6())].parse().unwrap();
        outer.send(out, late.to, late.kind.number(late.to.is_ipv6()), &late.payload);
    }
    let mut arrived = Vec::new();
    let is_late = |frame: &[u8]| {
        let has = |late: &&Late| frame.windows(late.mark.len()).any(|at| at == late.mark);
        frame[6..12] != inner.mac && lates.iter().any(|late| has(&late))
    };
    while let Some(frame) = inner.frames.wait_for(SOON, is_late).unwrap() {
        let late =
            lates.iter().find(|late| frame.windows(late.mark.len()).any(|at| at == late.mark)).unwrap();
        arrived.push(format!("{:?} to {}", late.kind, late.to));
    }
    arrived.sort();
    arrived.dedup();
    arrived
}

fn next<'h>(host: &'h Host, network: &Value, old: &Guest<'_>) -> Guest<'h> {
    let ips = json!([format!("{}/16", old.v4()), format!("{}/64", old.v6())]);
    let next = host.attach("next", &with(network, json!({"runtimeConfig": {"ips": ips}})), &[]);
    assert_eq!(next.both(), old.both());
    next
}

/// Nothing of the old flows reaches the next holder, though conntrack still knows each of them: without the rules that keep
/// them away, all arrive.
#[test]
fn a_flow_of_no_protocol_reaches_the_next_holder() {
    for network in [rnet("a", &A), bridge("a", &A)] {
        let host = Host::connected();
        // Conntrack takes a right checksum of UDP-Lite for a wrong one.
        host.set_sysctl("netfilter/nf_conntrack_checksum", "0");
        let _resident = host.attach("resident", &network, &[]);
        let (_store, lock) = nobody_forgets(&host);
        let is_rnet = network["type"] == "rnet";
        let published = [("", 8017, 80, "udp"), ("", 8132, 80, "sctp")];
        let old = host.attach("old", &network, if is_rnet { &published } else { &[] });
        let link = if is_rnet { "rnet-a" } else { "br0" };
        let inner = Wire::of(&host, old.netns(), link);
        let outer = Wire::of(&host, host.neighbour().netns(), host.neighbour().link());
        let mut lates = Vec::new();
        for own in old.both() {
            lates.extend(OUTWARDS.map(|kind| begin(kind, own, &inner, &outer)));
            let inwards = INWARDS.iter().zip(published).filter(|_| is_rnet);
            lates.extend(inwards.map(|((kind, _), port)| is_asked(*kind, port.1, own, &inner, &outer)));
        }
        old.detach();
        let next = next(&host, &network, &old);

        assert_eq!(arrive(&lates, &outer, next.netns(), &host), Vec::<String>::new());

        for chain in ["holders", "host-holders"] {
            let flush = ["flush", "chain", "inet", "rnet", chain];
            assert!(host.command("nft").args(flush).status().unwrap().success());
        }
        let all: Vec<String> = lates.iter().map(|late| format!("{:?} to {}", late.kind, late.to)).collect();
        let without = arrive(&lates, &outer, next.netns(), &host);
        let kept_away: Vec<_> = all.iter().filter(|one| !without.contains(one)).collect();
        assert!(
            kept_away.is_empty(),
            "{kept_away:?} do not arrive without the rules either: this shows nothing"
        );
        drop(lock);
    }
}
