//! The frames of a probe: an Ethernet, an IP and a TCP or UDP header, with the bytes by which nf_tables knows them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink::Mac;
use nft::Magic;

/// ETH_P_IP, ETH_P_IPV6, and one that means nothing to any host (IEEE 802, local experimental).
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const NOTHING: u16 = 0x88b5;
/// What a neighbour solicitation must have.
const TTL: u8 = 255;
const SOLICITATION: u8 = 135;
/// Where replies would go, if there were any.
const SOURCE_PORT: u16 = 47_053;
const SYN: u8 = 2;

/// A transport protocol that a probe can send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
    /// A neighbour solicitation of IPv6, which has no port.
    Solicit,
}

impl Transport {
    fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Solicit => 58,
        }
    }

    /// As nft, iptables and ufw write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Solicit => "icmpv6",
        }
    }
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub from: IpAddr,
    pub to: IpAddr,
    pub transport: Transport,
    pub port: u16,
    /// The container's port and address behind a published port.
    pub leads_to: Option<(u16, IpAddr)>,
}

/// A frame with that packet; `None` if its addresses are of two families.
pub fn frame(from: Mac, to: Mac, packet: &Packet, magic: Magic) -> Option<Vec<u8>> {
    let (kind, header) = match (packet.from, packet.to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (IPV4, v4(from, to, packet)),
        (IpAddr::V6(from), IpAddr::V6(to)) => (IPV6, v6(from, to, packet)),
        _ => return None,
    };
    Some([&ethernet(from, to, kind)[..], &header, &transport(packet, magic)].concat())
}

/// A frame that only tells a bridge where `from` is.
pub fn hello(from: Mac, to: Mac) -> Vec<u8> {
    [&ethernet(from, to, NOTHING)[..], &[0; 46]].concat()
}

fn ethernet(from: Mac, to: Mac, kind: u16) -> Vec<u8> {
    [&to.0[..], &from.0, &kind.to_be_bytes()].concat()
}

fn length(packet: &Packet) -> u16 {
    transport(packet, Magic::default()).len() as u16
}

fn v4(from: Ipv4Addr, to: Ipv4Addr, packet: &Packet) -> Vec<u8> {
    let total = (20 + length(packet)).to_be_bytes();
    let start = [0x45, 0, total[0], total[1], 0, 0, 0x40, 0, TTL, packet.transport.number(), 0, 0];
    let mut header = [&start[..], &from.octets(), &to.octets()].concat();
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    header
}

fn v6(from: Ipv6Addr, to: Ipv6Addr, packet: &Packet) -> Vec<u8> {
    let length = length(packet).to_be_bytes();
    let start = [0x60, 0, 0, 0, length[0], length[1], packet.transport.number(), TTL];
    [&start[..], &from.octets(), &to.octets()].concat()
}

/// A SYN that acknowledges nothing, or a datagram.
fn transport(packet: &Packet, magic: Magic) -> Vec<u8> {
    let ports = [SOURCE_PORT.to_be_bytes(), packet.port.to_be_bytes()].concat();
    let (mut segment, sum_at) = match packet.transport {
        Transport::Tcp => {
            let rest = [0x50, SYN, 0xfa, 0xf0, 0, 0, 0, 0];
            ([&ports[..], b"rnet", &magic, &rest].concat(), 16)
        }
        Transport::Udp => ([&ports[..], &[0, 16, 0, 0], &magic, b"rnet"].concat(), 6),
        // The bytes are the beginning of the address that is looked for.
        Transport::Solicit => ([&[SOLICITATION, 0, 0, 0, 0, 0, 0, 0], &magic[..], &[0; 12]].concat(), 2),
    };
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let length = (segment.len() as u32).to_be_bytes();
    let pseudo =
        [&octets(packet.from)[..], &octets(packet.to), &length, &[0, 0, 0], &[packet.transport.number()]];
    let sum = checksum(&[&pseudo.concat()[..], &segment].concat()).to_be_bytes();
    segment[sum_at..sum_at + 2].copy_from_slice(&sum);
    segment
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(from: &str, to: &str, transport: Transport) -> Packet {
        Packet { from: from.parse().unwrap(), to: to.parse().unwrap(), transport, port: 53, leads_to: None }
    }

    #[test]
    fn a_header_with_its_checksum_sums_up_to_nothing() {
        let packet = packet("10.0.0.2", "10.0.0.1", Transport::Udp);
        let frame = frame(Mac([2; 6]), Mac([4; 6]), &packet, *b"abcd").unwrap();
        assert_eq!(checksum(&frame[14..34]), 0);
        assert_eq!((frame.len(), &frame[42..46]), (14 + 20 + 16, &b"abcd"[..]));
    }

    #[test]
    fn the_mark_stands_behind_eight_bytes_of_either_transport() {
        for transport in [Transport::Tcp, Transport::Udp] {
            let packet = packet("fd00::2", "fd00::1", transport);
            let frame = frame(Mac([2; 6]), Mac([4; 6]), &packet, *b"abcd").unwrap();
            assert_eq!(&frame[14 + 40 + 8..][..4], b"abcd");
            assert_eq!(usize::from(frame[14 + 5]), frame.len() - 54);
        }
        assert_eq!(
            frame(Mac([2; 6]), Mac([4; 6]), &packet("10.0.0.2", "fd00::1", Transport::Tcp), [0; 4]),
            None
        );
    }
}
