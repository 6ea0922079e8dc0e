//! `macspoofchk` of bridge: a frame of another MAC is dropped, the container's own pass.

use std::net::{IpAddr, Ipv4Addr};

use netns_fixtures::Frames;
use netns_fixtures::frame::{BROADCAST, Mac, ethernet, ipv4, udp};
use serde_json::json;

use crate::common::{Guest, Host, LONG, bridge, mac, with};
use crate::packets::{A, all_get, to};

const FORGED: Mac = [2, 0, 0, 0, 0, 0x66];

fn datagram(mac: Mac, from: Ipv4Addr, text: &str) -> Vec<u8> {
    let to = Ipv4Addr::new(172, 18, 255, 255);
    let datagram = udp((from.into(), 7), (to.into(), 7), text.as_bytes());
    ethernet(BROADCAST, mac, 0x0800, &ipv4(from, to, 17, &datagram))
}

/// Whether `neighbour` hears a frame of another MAC before an honest one that is sent behind it.
fn hears_forged(sender: &Guest, neighbour: &Guest) -> bool {
    let sends = Frames::on(sender.netns(), "eth0").unwrap();
    let hears = Frames::on(neighbour.netns(), "eth0").unwrap();
    let mac = mac(sender.netns(), "eth0");
    let IpAddr::V4(ip) = sender.v4() else { panic!() };
    let forged = datagram(FORGED, ip, "a datagram of another MAC");
    let honest = datagram(mac, ip, "an honest datagram, which ends the wait");
    sends.send(&forged).unwrap();
    sends.send(&honest).unwrap();
    let heard = hears.wait_for(LONG, |heard| heard == forged || heard == honest).unwrap();
    heard.expect("the honest datagram came through") == forged
}

#[test]
fn a_frame_of_another_mac_is_dropped_and_honest_ones_pass() {
    let host = Host::connected();
    let open = bridge("a", &A);
    let checked = with(&open, json!({"macspoofchk": true}));
    let (guest, free) = (host.attach("guest", &checked, &[]), host.attach("free", &open, &[]));

    assert!(!hears_forged(&guest, &free), "it is checked");
    assert!(hears_forged(&free, &guest), "it did not ask for it");

    let _server = free.serves(80);
    for ip in free.both() {
        all_get("free", &[("the checked one", guest.netns(), to(&ip.to_string(), 80))]);
    }
}
