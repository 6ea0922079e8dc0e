//! Ethernet addresses: as text, and derived from an IP address.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An Ethernet (MAC) address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Mac(pub [u8; 6]);

/// A text that is no Ethernet address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("invalid MAC address {text:?}: expected six hexadecimal bytes such as 02:42:ac:12:00:02")]
pub struct ParseMacError {
    /// The text.
    pub text: String,
}

impl Mac {
    /// 02 and five bytes that depend on all bits of an IPv6 address (FNV-1a, folded), for containers without IPv4: several
    /// subnets may be on one bridge, and their addresses have the same end.
    pub fn from_v6(address: Ipv6Addr) -> Self {
        const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        let mixed = |hash: u64, octet: &u8| (hash ^ u64::from(*octet)).wrapping_mul(PRIME);
        let hash = address.octets().iter().fold(OFFSET, mixed);
        // The highest bits depend most on every octet.
        let [.., a, b, c, d, e] = ((hash >> 24) ^ (hash & 0xff_ffff)).to_be_bytes();
        Self([0x02, a, b, c, d, e])
    }

    /// Whether a link may have it: neither a group address nor all zeros.
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl From<Ipv4Addr> for Mac {
    /// 02:42 (locally administered) and the four octets: the next holder of the address gets the same MAC, so no
    /// neighbour's cache becomes stale.
    fn from(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0x42, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = ParseMacError;

    /// Six bytes of one or two hexadecimal digits, separated by `:` or by `-`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| ParseMacError { text: text.into() })
    }
}

fn parse(text: &str) -> Option<Mac> {
    let separator = if text.contains('-') { '-' } else { ':' };
    let mut parts = text.split(separator);
    let mut bytes = [0; 6];
    for byte in &mut bytes {
        *byte = hex_byte(parts.next()?)?;
    }
    parts.next().is_none().then_some(Mac(bytes))
}

fn hex_byte(text: &str) -> Option<u8> {
    let digits = text.bytes().all(|b| b.is_ascii_hexdigit());
    (digits && text.len() <= 2).then(|| u8::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_agree() {
        let mac = Mac([0x02, 0x42, 0xac, 0x12, 0, 2]);
        assert_eq!(mac.to_string(), "02:42:ac:12:00:02");
        assert_eq!("02:42:AC:12:00:02".parse(), Ok(mac));
        assert_eq!("2-42-ac-12-0-2".parse(), Ok(mac));
    }

    #[test]
    fn a_text_that_is_no_mac_is_refused() {
        for text in [
            "",
            "02:42:ac:12:00",
            "02:42:ac:12:00:02:03",
            "02:42:ac:12:00:0g",
            "+2:42:ac:12:00:02",
            "002:42:ac:12:00:2",
            ":::::",
        ] {
            assert_eq!(text.parse::<Mac>(), Err(ParseMacError { text: text.into() }));
        }
    }

    #[test]
    fn it_is_made_of_the_address() {
        assert_eq!(Mac::from(Ipv4Addr::new(172, 18, 0, 2)).to_string(), "02:42:ac:12:00:02");
    }

    #[test]
    fn all_bits_of_an_ipv6_address_count() {
        let base: Ipv6Addr = "fd00:1:2:3:4:5:6:7".parse().unwrap();
        let flipped = (0..128).map(|bit| Mac::from_v6(Ipv6Addr::from_bits(base.to_bits() ^ 1 << bit)));
        let subnets = (0..64u128).flat_map(|subnet| (1..1000u128).map(move |host| (subnet << 64) + host));
        let hosts = subnets.map(|bits| Mac::from_v6(Ipv6Addr::from_bits((0xfd << 120) + bits)));

        let all: Vec<Mac> = flipped.chain(hosts).collect();

        assert!(all.iter().all(|mac| mac.is_unicast()));
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), all.len());
    }

    #[test]
    fn group_and_zero_addresses_are_not_for_links() {
        assert!(Mac([2, 0, 0, 0, 0, 1]).is_unicast());
        assert!(!Mac([0; 6]).is_unicast());
        assert!(!Mac([1, 0, 0x5e, 0, 0, 1]).is_unicast());
    }
}
