//! The name server answers those who are on its network, from an address of theirs, and nobody else. Without the spoof guard,
//! so that the questions reach it.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use netns_fixtures::Frames;
use netns_fixtures::frame::udp;
use serde_json::json;

use crate::common::{Host, LONG, SOON, mac, rnet, with};
use crate::packets::{A, GATEWAY_A};
use crate::sources::packet;

const PORT: u16 = 40053;

/// A question for the name `web`, type A (RFC 1035, 4.1).
const QUESTION: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03web\0\0\x01\0\x01";

/// Sources that are nobody's, everybody's, the host's own, or on another network.
const STRANGERS: [[&str; 5]; 2] = [
    ["0.0.0.0", "224.0.0.1", "127.0.0.1", "255.255.255.255", "192.0.2.9"],
    ["::", "ff02::1", "::1", "fd77::2", "2001:db8::9"],
];

#[test]
fn a_question_from_no_address_or_a_strangers_is_not_answered() {
    let host = Host::connected();
    let network = with(&rnet("a", &A), json!({"names": true, "spoofGuard": false}));
    let guest = host.attach("asker", &network, &[]);
    for link in ["all", "rnet-a"] {
        host.set_sysctl(&format!("ipv4/conf/{link}/rp_filter"), "0");
    }
    let (own, gateway_mac) = (mac(guest.netns(), "eth0"), mac(host.netns(), "rnet-a"));
    let frames = Frames::on(guest.netns(), "eth0").unwrap();
    let outside = Frames::on(host.neighbour().netns(), "eth0").unwrap();
    let on_the_host = |at: &str| {
        let socket = host.run(|| UdpSocket::bind((at, PORT)).unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    };
    let sockets = [on_the_host("127.0.0.1"), on_the_host("::1")];
    let ask = |from: IpAddr, to: IpAddr| {
        let question = udp((from, PORT), (to, 53), QUESTION);
        frames.send(&packet(gateway_mac, own, from, to, 17, &question)).unwrap();
    };
    let is_answer = |frame: &[u8]| {
        let at = if frame[12..14] == [8, 0] { 34 } else { 54 };
        frame.get(at..at + 4) == Some(&[[0, 53], PORT.to_be_bytes()].concat()) && frame[6..12] != own
    };
    for (family, address) in guest.both().into_iter().enumerate() {
        let gateway: IpAddr = GATEWAY_A[family].parse().unwrap();
        ask(address, gateway);
        assert!(frames.wait_for(LONG, is_answer).unwrap().is_some(), "{address} is answered");
        STRANGERS[family].iter().for_each(|from| ask(from.parse().unwrap(), gateway));
        // Behind the answer to this one no other is to come.
        ask(address, gateway);
        assert!(frames.wait_for(LONG, is_answer).unwrap().is_some(), "{address} is answered again");
        for (place, heard) in [("the network", &frames), ("outside", &outside)] {
            let frame = heard.wait_for(SOON, is_answer).unwrap();
            assert!(frame.is_none(), "an answer on {place}: {frame:?}");
        }
    }
    for socket in &sockets {
        let heard: Option<(usize, SocketAddr)> = socket.recv_from(&mut [0; 512]).ok();
        assert_eq!(heard, None, "an answer to a program on the host");
    }
    guest.detach();
}
