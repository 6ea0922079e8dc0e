//! Ethernet frames as bytes, right or forged: values in, bytes out, no kernel in sight.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Every station of a link.
pub const BROADCAST: Mac = [0xff; 6];

/// ARP's two operations (RFC 826).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arp {
    /// Who has the target's address?
    Request = 1,
    /// The sender's address is here.
    Reply = 2,
}

/// Ethernet II: destination, source, type, payload, padded to the least size a frame may have.
pub fn ethernet(to: Mac, from: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&to[..], &from, &ethertype.to_be_bytes(), payload].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

/// An ARP packet for Ethernet and IPv4 (RFC 826), without its frame: type 0x0806.
pub fn arp(operation: Arp, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    [
        &[0, 1, 8, 0, 6, 4, 0, operation as u8][..],
        &sender.0,
        &sender.1.octets(),
        &target.0,
        &target.1.octets(),
    ]
    .concat()
}

/// An IPv4 packet (RFC 791) with a right header checksum, without its frame: type 0x0800.
pub fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len() as u16).to_be_bytes();
    let mut packet = vec![0x45, 0, length[0], length[1], 0, 1, 0, 0, 64, protocol, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum = checksum(&packet).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet.extend(payload);
    packet
}

/// An IPv6 packet (RFC 8200) with hop limit 255, without its frame: type 0x86dd.
pub fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16).to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], next_header, 255];
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}

/// A UDP datagram (RFC 768) with a right checksum, protocol 17.
pub fn udp(from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len() as u16).to_be_bytes();
    let ports = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    let mut datagram = [&ports[..], &length, &[0, 0], payload].concat();
    let sum = match transport_checksum(from.0, to.0, 17, &datagram) {
        // RFC 768: a computed zero is sent as all ones, zero means "none".
        0 => 0xffff,
        sum => sum,
    };
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    datagram
}

/// A UDP-Lite datagram (RFC 3828) whose checksum covers all of it, protocol 136.
pub fn udplite(from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    let ports = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    let mut datagram = [&ports[..], &[0, 0, 0, 0], payload].concat();
    let sum = transport_checksum(from.0, to.0, 136, &datagram);
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    datagram
}

/// An SCTP packet of one chunk (RFC 9260) with a right checksum, protocol 132.
pub fn sctp(from: u16, to: u16, tag: u32, chunk: &[u8]) -> Vec<u8> {
    let ports = [from.to_be_bytes(), to.to_be_bytes()].concat();
    let mut packet = [&ports[..], &tag.to_be_bytes(), &[0; 4], chunk].concat();
    let sum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&sum);
    packet
}

/// An ICMP message (RFC 792) with a right checksum, protocol 1; `body` follows the checksum field.
pub fn icmp(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0], body].concat();
    let sum = checksum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    message
}

/// A TCP segment from here to there (RFC 9293), with a window of 64,240 bytes.
pub fn tcp(
    from: (IpAddr, u16),
    to: (IpAddr, u16),
    numbers: (u32, u32),
    flags: u8,
    payload: &[u8],
) -> Vec<u8> {
    let ports = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    let numbers = [numbers.0.to_be_bytes(), numbers.1.to_be_bytes()].concat();
    let mut segment = [&ports[..], &numbers, &[5 << 4, flags, 0xfa, 0xf0, 0, 0, 0, 0], payload].concat();
    let sum = transport_checksum(from.0, to.0, 6, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// An ICMPv6 message (RFC 4443) with a right checksum, next header 58; `body` follows the checksum
/// field.
pub fn icmpv6(from: Ipv6Addr, to: Ipv6Addr, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0], body].concat();
    let sum = transport_checksum(from.into(), to.into(), 58, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// The body of a neighbour advertisement (RFC 4861, 4.4; type 136): `target` is at `mac`, override
/// and solicited set.
pub fn neighbour_advertisement(target: Ipv6Addr, mac: Mac) -> Vec<u8> {
    [&[0x60, 0, 0, 0][..], &target.octets(), &[2, 1], &mac].concat()
}

/// The body of a router advertisement (RFC 4861, 4.2; type 134) that makes its sender the default
/// router for `seconds`.
pub fn router_advertisement(seconds: u16) -> Vec<u8> {
    let [high, low] = seconds.to_be_bytes();
    vec![64, 0, high, low, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// The internet checksum (RFC 1071).
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// RFC 9260, appendix A.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

/// With the pseudo header of RFC 768 or RFC 8200, 8.1.
fn transport_checksum(from: IpAddr, to: IpAddr, protocol: u8, segment: &[u8]) -> u16 {
    let octets = |ip| match ip {
        IpAddr::V4(v4) => Ipv4Addr::octets(&v4).to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let length = (segment.len() as u32).to_be_bytes();
    let pseudo = [&octets(from)[..], &octets(to), &length, &[0, 0, 0, protocol]].concat();
    checksum(&[&pseudo[..], segment].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_well_known_header() {
        let mut header = ipv4([192, 168, 0, 1].into(), [192, 168, 0, 199].into(), 17, &[]);
        assert_eq!(checksum(&header), 0);
        header[8] -= 1;
        assert_ne!(checksum(&header), 0);
    }

    #[test]
    fn the_published_check_value_of_crc32c() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_datagram_sums_to_zero_with_its_pseudo_header() {
        let (from, to) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
        let datagram = udp((from, 68), (to, 67), b"odd");
        assert_eq!(transport_checksum(from, to, 17, &datagram), 0);
    }

    #[test]
    fn short_frames_are_padded() {
        let arp = arp(Arp::Request, ([2; 6], [10, 0, 0, 1].into()), ([0; 6], [10, 0, 0, 2].into()));
        assert_eq!(arp.len(), 28);
        let frame = ethernet(BROADCAST, [2; 6], 0x0806, &arp);
        assert_eq!(frame.len(), 60);
        assert_eq!(frame[12..14], [8, 6]);
    }
}
