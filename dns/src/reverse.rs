//! Addresses as names (RFC 1035, 3.5; RFC 3596, 2.5), and their subnets.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// The meaning of a name under in-addr.arpa or ip6.arpa.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reverse {
    /// The address; bits that the name does not have are zero.
    pub address: IpAddr,
    /// How many bits of it the name has.
    pub length: u8,
    /// Whether the name has nothing else.
    pub pure: bool,
}

/// The subnets by family and prefix length, of which there are few, with the number of networks that have each.
#[derive(Debug, Default)]
pub(crate) struct Subnets(BTreeMap<(bool, u8), HashMap<IpAddr, usize>>);

impl Reverse {
    /// Reads a name in lower case; `None` if it is no reverse name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        if let Some(labels) = name.strip_suffix(".in-addr.arpa") {
            let (number, count, pure) = digits(labels, 4, 8, octet);
            let address = Ipv4Addr::from_bits((number >> 96) as u32).into();
            return Some(Self { address, length: count * 8, pure });
        }
        let (number, count, pure) = digits(name.strip_suffix(".ip6.arpa")?, 32, 4, nibble);
        Some(Self { address: Ipv6Addr::from_bits(number).into(), length: count * 4, pure })
    }

    /// The length of the zone that has a subnet's names: its prefix length, up to where a label ends.
    pub(crate) fn zone_length(&self, prefix: u8) -> u8 {
        prefix.next_multiple_of(self.label_bits())
    }

    /// How many labels the name of a zone of so many bits has.
    pub(crate) fn labels(&self, length: u8) -> usize {
        usize::from(length / self.label_bits()) + 2
    }

    /// Whether it is an address and no part of one.
    pub(crate) fn is_address(&self) -> bool {
        self.pure && self.length == bits(self.address)
    }

    fn label_bits(&self) -> u8 {
        if self.address.is_ipv4() { 8 } else { 4 }
    }
}

impl Subnets {
    /// Adds a network's subnet.
    pub(crate) fn add(&mut self, subnet: IpNetwork) {
        *self.0.entry(kind(subnet)).or_default().entry(subnet.network()).or_default() += 1;
    }

    /// Removes a network's subnet; others may have the same.
    pub(crate) fn remove(&mut self, subnet: IpNetwork) {
        let Some(same) = self.0.get_mut(&kind(subnet)) else { return };
        if let Some(count) = same.get_mut(&subnet.network()) {
            *count -= 1;
        }
        same.retain(|_, count| *count > 0);
        self.0.retain(|_, same| !same.is_empty());
    }

    /// The prefix length of the smallest subnet that has all addresses which begin with these bits.
    pub(crate) fn around(&self, address: IpAddr, length: u8) -> Option<u8> {
        let v6 = address.is_ipv6();
        let mut larger = self.0.range((v6, 0)..=(v6, length)).rev();
        let has = |prefix| IpNetwork::new(address, prefix).is_ok_and(|around| self.has(around));
        larger.find(|((_, prefix), _)| has(*prefix)).map(|((_, prefix), _)| *prefix)
    }

    fn has(&self, subnet: IpNetwork) -> bool {
        self.0.get(&kind(subnet)).is_some_and(|same| same.contains_key(&subnet.network()))
    }
}

/// How many bits an address has.
pub(crate) fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn kind(subnet: IpNetwork) -> (bool, u8) {
    (subnet.is_ipv6(), subnet.prefix())
}

/// Reads labels from the right, up to `most` of `width` bits each, into the upper bits of a number; returns how many
/// there were, and whether that was all.
fn digits(labels: &str, most: u8, width: u8, digit: fn(&str) -> Option<u8>) -> (u128, u8, bool) {
    let (mut number, mut count) = (0, 0);
    for label in labels.rsplit('.') {
        let Some(value) = digit(label).filter(|_| count < most) else { return (number, count, false) };
        count += 1;
        number |= u128::from(value) << (128 - u32::from(count) * u32::from(width));
    }
    (number, count, true)
}

/// Decimal without leading zeros: an address has one name.
fn octet(label: &str) -> Option<u8> {
    let plain = label == "0" || !label.starts_with(['0', '+']);
    label.parse().ok().filter(|_| plain)
}

fn nibble(label: &str) -> Option<u8> {
    let one = label.len() == 1;
    u8::from_str_radix(label, 16).ok().filter(|_| one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_parts(name: &str) -> Option<(String, u8, bool)> {
        Reverse::parse(name).map(|reverse| (reverse.address.to_string(), reverse.length, reverse.pure))
    }

    fn read(address: &str, length: u8, pure: bool) -> Option<(String, u8, bool)> {
        Some((address.into(), length, pure))
    }

    #[test]
    fn a_name_stands_for_an_address_or_for_the_beginning_of_one() {
        assert_eq!(parse_parts("4.3.2.1.in-addr.arpa"), read("1.2.3.4", 32, true));
        assert_eq!(parse_parts("18.172.in-addr.arpa"), read("172.18.0.0", 16, true));
        assert_eq!(parse_parts("8.b.d.0.1.0.0.2.ip6.arpa"), read("2001:db8::", 32, true));
        let whole = format!("1{}.d.f.ip6.arpa", ".0".repeat(29));
        assert_eq!(parse_parts(&whole), read("fd00::1", 128, true));
    }

    #[test]
    fn a_label_that_is_no_digit_ends_the_address() {
        for junk in ["x", "256", "01", "", "?", "1.4.3.2"] {
            let impure = parse_parts(&format!("{junk}.2.1.in-addr.arpa")).unwrap();
            assert!(
                !impure.2 && impure.0.starts_with(if junk.len() > 5 { "1.2.2.3" } else { "1.2.0.0" }),
                "{junk}"
            );
        }
        assert_eq!(parse_parts("10.d.f.ip6.arpa"), read("fd00::", 8, false));
        for other in ["in-addr.arpa", "arpa", "x1.in-addr.arpa.example", "1.in-addr.arpa.", "1in-addr.arpa"] {
            assert_eq!(parse_parts(other), None);
        }
    }

    #[test]
    fn the_smallest_subnet_counts_and_each_network_has_its_own() {
        let [large, small] = ["10.0.0.0/8", "10.1.0.0/17"].map(|subnet| subnet.parse::<IpNetwork>().unwrap());
        let address = "10.1.2.3".parse().unwrap();
        let mut subnets = Subnets::default();
        for subnet in [large, small, small] {
            subnets.add(subnet);
        }
        assert_eq!(subnets.around(address, 32), Some(17));
        assert_eq!(subnets.around(address, 16), Some(8));
        assert_eq!(subnets.around(address, 7), None);
        subnets.remove(small);
        assert_eq!(subnets.around(address, 32), Some(17));
        subnets.remove(small);
        assert_eq!(subnets.around(address, 32), Some(8));
        subnets.remove(large);
        subnets.remove(large);
        assert_eq!(subnets.around(address, 32), None);
    }
}
