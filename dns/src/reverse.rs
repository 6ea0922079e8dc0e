//! Addresses as names (RFC 1035, 3.5; RFC 3596, 2.5), and the subnets that they lie in.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// What a name under in-addr.arpa or ip6.arpa stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reverse {
    /// The address; what the name does not say is zero.
    pub address: IpAddr,
    /// How many bits of it the name says.
    pub length: u8,
    /// Whether the name says nothing else.
    pub pure: bool,
}

/// The subnets, by whether they are IPv6 and by prefix length, of which there are few; and how many networks have each.
#[derive(Debug, Default)]
pub(crate) struct Subnets(BTreeMap<(bool, u8), HashMap<IpAddr, usize>>);

impl Reverse {
    /// Reads a name in lower case; none if it is no reverse name.
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
