//! Ranges of addresses and sets of them; pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::RangeError;
use crate::error::join;

/// Addresses of one subnet from `start` to `end`, both included. The gateway, the network's own address and, in IPv4, the
/// broadcast address are never given, even if they are between the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The subnet; its prefix is that of every address given.
    pub subnet: IpNetwork,
    /// The first address.
    pub start: IpAddr,
    /// The last address.
    pub end: IpAddr,
    /// The containers' gateway.
    pub gateway: Option<IpAddr>,
}

impl Range {
    /// A range of `subnet`, by host-local's rules and defaults.
    ///
    /// Without `start` it starts at the first host, without `end` it ends before the broadcast address (IPv6: at
    /// the last address), without `gateway` the first host is the gateway, which may lie outside the subnet. The
    /// network and the broadcast address may be the ends, as podman writes them.
    ///
    /// # Errors
    /// If the subnet has host bits or is too small, or an end is outside it or before the start.
    pub fn new(
        subnet: IpNetwork,
        start: Option<IpAddr>,
        end: Option<IpAddr>,
        gateway: Option<IpAddr>,
    ) -> Result<Self, RangeError> {
        check_subnet(subnet)?;
        let first_host = plus_one(subnet.network());
        let range = Self {
            subnet,
            start: start.unwrap_or(first_host),
            end: end.unwrap_or(last_host(subnet)),
            gateway: Some(gateway.unwrap_or(first_host)),
        };
        range.check_ends()?;
        Ok(range)
    }

    /// Whether `ip` is between the ends.
    pub fn contains(&self, ip: IpAddr) -> bool {
        same_family(ip, self.start) && self.start <= ip && ip <= self.end
    }

    /// `network` or `broadcast`, if `ip` is an address that no host of this subnet can have. In IPv6 the network's own
    /// address is that of every router in it (RFC 4291, 2.6.1), and there is no broadcast address.
    pub fn reserved(&self, ip: IpAddr) -> Option<&'static str> {
        match ip {
            _ if ip == self.subnet.network() => Some("network"),
            IpAddr::V4(_) if ip == self.subnet.broadcast() => Some("broadcast"),
            _ => None,
        }
    }

    fn overlaps(&self, other: &Range) -> bool {
        same_family(self.start, other.start) && self.start <= other.end && other.start <= self.end
    }

    fn check_ends(&self) -> Result<(), RangeError> {
        let (subnet, start, end) = (self.subnet, self.start, self.end);
        if !subnet.contains(start) || (subnet.contains(end) && start > end) {
            return Err(RangeError::StartOutside { start, subnet });
        }
        if !subnet.contains(end) {
            return Err(RangeError::EndOutside { end, subnet });
        }
        Ok(())
    }

    /// The parts of this range without `holes`.
    fn without(&self, holes: &[IpAddr]) -> Vec<Range> {
        stretches(number(self.start), number(self.end), holes.iter().filter(|hole| self.contains(**hole)))
            .into_iter()
            .map(|(first, last)| Range {
                start: address(self.start, first),
                end: address(self.start, last),
                ..*self
            })
            .collect()
    }
}

/// As the reference prints it: `10.9.0.1-10.9.0.6`.
impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.start, self.end)
    }
}

/// Ranges of one family without overlap, of which an attachment gets one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeSet(Vec<Range>);

impl RangeSet {
    /// A set of `ranges`, in the order in which they are used up.
    ///
    /// # Errors
    /// If there is no range, two overlap, or they are of both families.
    pub fn new(ranges: Vec<Range>) -> Result<Self, RangeError> {
        let first = ranges.first().ok_or(RangeError::Empty)?;
        if ranges.iter().any(|range| !same_family(range.start, first.start)) {
            return Err(RangeError::MixedFamilies);
        }
        for (place, one) in ranges.iter().enumerate() {
            if let Some(other) = ranges[place + 1..].iter().find(|other| one.overlaps(other)) {
                return Err(RangeError::Overlap { first: one.to_string(), second: other.to_string() });
            }
        }
        Ok(Self(ranges))
    }

    /// The ranges in order.
    pub fn ranges(&self) -> &[Range] {
        &self.0
    }

    /// Whether `ip` is in one of the ranges.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.range_of(ip).is_some()
    }

    /// The range that contains `ip`.
    pub fn range_of(&self, ip: IpAddr) -> Option<&Range> {
        self.0.iter().find(|range| range.contains(ip))
    }

    /// Whether `ip` is the gateway of one of the ranges.
    pub fn is_gateway(&self, ip: IpAddr) -> bool {
        self.gateways().any(|gateway| gateway == ip)
    }

    /// `network` or `broadcast`, if no host can have `ip`; see [`Range::reserved`].
    pub fn reserved(&self, ip: IpAddr) -> Option<&'static str> {
        self.range_of(ip)?.reserved(ip)
    }

    /// Whether `ip` may be given: it is in the set and no gateway, network or broadcast address.
    pub fn gives(&self, ip: IpAddr) -> bool {
        self.range_of(ip).is_some_and(|range| range.reserved(ip).is_none()) && !self.is_gateway(ip)
    }

    /// Whether the two sets share an address.
    pub fn overlaps(&self, other: &RangeSet) -> bool {
        self.0.iter().any(|one| other.0.iter().any(|two| one.overlaps(two)))
    }

    /// This set without `reserved`, so that those addresses are not given; `None` if nothing is left.
    pub fn without(&self, reserved: &[IpAddr]) -> Option<RangeSet> {
        let ranges: Vec<Range> = self.0.iter().flat_map(|range| range.without(reserved)).collect();
        (!ranges.is_empty()).then_some(RangeSet(ranges))
    }

    /// The addresses that are never given. Another range that contains such an address may give it, unless it is a
    /// gateway.
    pub(crate) fn holes(&self) -> Vec<IpAddr> {
        let ends = self.0.iter().flat_map(|range| {
            let ends = [range.subnet.network(), range.subnet.broadcast()];
            ends.into_iter().filter(|end| range.contains(*end) && range.reserved(*end).is_some())
        });
        self.gateways().chain(ends).collect()
    }

    fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        self.0.iter().filter_map(|range| range.gateway)
    }
}

/// As the reference prints it: `10.9.0.1-10.9.0.6,10.9.1.1-10.9.1.6`.
impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&join(&self.0, ","))
    }
}

/// The address as a number, the same for both families.
pub(crate) fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

/// The address with this number, of the family that `like` is of.
pub(crate) fn address(like: IpAddr, number: u128) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from(number as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from(number).into(),
    }
}

/// `first..=last` without `holes` (all within), as inclusive stretches in rising order.
pub(crate) fn stretches<'a>(
    first: u128,
    last: u128,
    holes: impl Iterator<Item = &'a IpAddr>,
) -> Vec<(u128, u128)> {
    let mut holes: Vec<u128> = holes.map(|hole| number(*hole)).collect();
    holes.sort_unstable();
    let mut left = Vec::new();
    let mut from = Some(first);
    for hole in holes {
        left.extend(from.filter(|from| *from < hole).map(|from| (from, hole - 1)));
        from = hole.checked_add(1);
    }
    left.extend(from.filter(|from| *from <= last).map(|from| (from, last)));
    left
}

fn same_family(one: IpAddr, other: IpAddr) -> bool {
    one.is_ipv4() == other.is_ipv4()
}

fn plus_one(ip: IpAddr) -> IpAddr {
    address(ip, number(ip).wrapping_add(1))
}

fn last_host(subnet: IpNetwork) -> IpAddr {
    match subnet.broadcast() {
        IpAddr::V4(broadcast) => Ipv4Addr::from(u32::from(broadcast) - 1).into(),
        last => last,
    }
}

fn check_subnet(subnet: IpNetwork) -> Result<(), RangeError> {
    let bits = if subnet.is_ipv4() { 32 } else { 128 };
    if subnet.prefix() > bits - 2 {
        return Err(RangeError::TooSmall(subnet));
    }
    if subnet.ip() != subnet.network() {
        return Err(RangeError::HostBits(subnet));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn range(subnet: &str, start: &str, end: &str, gateway: &str) -> Result<Range, RangeError> {
        let given = |text: &str| (!text.is_empty()).then(|| ip(text));
        Range::new(subnet.parse().unwrap(), given(start), given(end), given(gateway))
    }

    fn text(result: Result<Range, RangeError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn a_subnet_without_ends_gives_all_hosts_and_the_first_is_the_gateway() {
        let four = range("10.9.0.0/29", "", "", "").unwrap();
        let six = range("fd00::/64", "", "", "").unwrap();

        assert_eq!(four.to_string(), "10.9.0.1-10.9.0.6");
        assert_eq!(four.gateway, Some(ip("10.9.0.1")));
        assert_eq!(six.to_string(), "fd00::1-fd00::ffff:ffff:ffff:ffff");
    }

    #[test]
    fn an_invalid_range_is_refused_in_the_reference_s_words() {
        assert_eq!(
            text(range("10.0.0.1/24", "", "", "")),
            "Network has host bits set. For a subnet mask of length 24 the network address is 10.0.0.0"
        );
        assert_eq!(text(range("10.0.0.0/31", "", "", "")), "Network 10.0.0.0/31 too small to allocate from");
        assert_eq!(text(range("fd00::/127", "", "", "")), "Network fd00::/127 too small to allocate from");
        assert_eq!(
            text(range("10.0.0.0/24", "10.0.1.1", "", "")),
            "RangeStart 10.0.1.1 not in network 10.0.0.0/24"
        );
        assert_eq!(
            text(range("10.0.0.0/24", "", "10.0.1.1", "")),
            "RangeEnd 10.0.1.1 not in network 10.0.0.0/24"
        );
        assert_eq!(
            text(range("10.0.0.0/24", "10.0.0.9", "10.0.0.8", "")),
            "RangeStart 10.0.0.9 not in network 10.0.0.0/24"
        );
        assert_eq!(
            text(range("10.0.0.0/24", "fd00::1", "", "")),
            "RangeStart fd00::1 not in network 10.0.0.0/24"
        );
    }

    #[test]
    fn network_and_broadcast_address_may_be_ends_and_a_gateway_may_be_outside() {
        let all = range("10.0.0.0/24", "10.0.0.0", "10.0.0.255", "10.0.1.1").unwrap();

        assert_eq!(all.to_string(), "10.0.0.0-10.0.0.255");
        assert_eq!(all.gateway, Some(ip("10.0.1.1")));
        assert_eq!(all.reserved(ip("10.0.0.0")), Some("network"));
        assert_eq!(all.reserved(ip("10.0.0.255")), Some("broadcast"));
        assert_eq!(all.reserved(ip("10.0.0.1")), None);
        let six = range("fd00::/64", "fd00::", "", "fe80::1").unwrap();
        assert_eq!(six.reserved(ip("fd00::")), Some("network"));
        assert_eq!(six.reserved(six.end), None);
    }

    #[test]
    fn a_set_is_of_one_family_and_without_overlap() {
        let set = |ranges: &[(&str, &str, &str)]| {
            let ranges = ranges.iter().map(|(net, from, to)| range(net, from, to, "").unwrap());
            RangeSet::new(ranges.collect()).map_err(|error| error.to_string())
        };

        assert_eq!(set(&[]).unwrap_err(), "empty range set");
        assert_eq!(
            set(&[("10.0.0.0/24", "", ""), ("fd00::/64", "", "")]).unwrap_err(),
            "mixed address families"
        );
        assert_eq!(
            set(&[("10.1.0.0/22", "", ""), ("10.1.2.0/24", "", "")]).unwrap_err(),
            "subnets 10.1.0.1-10.1.3.254 and 10.1.2.1-10.1.2.254 overlap"
        );
        assert!(
            set(&[("10.0.0.0/24", "10.0.0.2", "10.0.0.9"), ("10.0.0.0/24", "10.0.0.20", "10.0.0.29")])
                .is_ok()
        );
    }

    #[test]
    fn reserved_addresses_are_cut_out() {
        let set = RangeSet::new(vec![range("10.9.0.0/29", "", "", "").unwrap()]).unwrap();

        let left = set.without(&[ip("10.9.0.1"), ip("10.9.0.4"), ip("10.8.0.1"), ip("fd00::1")]).unwrap();

        assert_eq!(left.to_string(), "10.9.0.2-10.9.0.3,10.9.0.5-10.9.0.6");
        assert!(
            set.without(&(1..7).map(|n| address(ip("10.9.0.0"), 0x0a090000 + n)).collect::<Vec<_>>())
                .is_none()
        );
    }

    #[test]
    fn the_whole_of_ipv6_is_a_range_without_overflow() {
        let all = range("::/0", "", "", "").unwrap();

        assert!(all.contains(ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")));
        assert_eq!(all.without(&[all.end]).len(), 1);
    }
}
