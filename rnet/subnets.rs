//! Which subnets are in use, and which one is the lowest free.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::{IpNetwork, Ipv4Network};

/// A stretch of addresses that networks without `--subnet` come from, and how large each is by itself.
struct Pool {
    first: Ipv4Addr,
    last: Ipv4Addr,
    prefix: u8,
}

/// 172.17.0.0/16 is docker's.
const POOLS: [Pool; 2] = [
    Pool { first: Ipv4Addr::new(172, 18, 0, 0), last: Ipv4Addr::new(172, 31, 255, 255), prefix: 16 },
    Pool { first: Ipv4Addr::new(192, 168, 0, 0), last: Ipv4Addr::new(192, 168, 255, 255), prefix: 24 },
];

/// The sizes that a free subnet can be asked for.
pub const SIZES: std::ops::RangeInclusive<u8> = 13..=30;

/// A subnet in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The subnet.
    pub subnet: IpNetwork,
    /// By whom.
    pub owner: Owner,
}

/// Who uses a subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A network that a conflist file defines, or the built-in one.
    Network(String),
    /// A network of podman's (netavark).
    Podman(String),
    /// A link of the host: the subnet that it is connected to, or an address of it.
    Link(String),
    /// A route of the host to a subnet that it has no address in.
    Route {
        /// The interface that it leads out by.
        device: String,
    },
    /// The gateway of a route.
    Gateway {
        /// The interface that it is reached by.
        device: String,
    },
    /// A server that the host asks for names.
    NameServer {
        /// The file that names it.
        file: &'static str,
    },
}

impl Taken {
    /// True for what an explicit `--subnet` may overlap, with a warning: it is reached by way of somebody else.
    pub fn is_elsewhere(&self) -> bool {
        matches!(self.owner, Owner::Route { .. } | Owner::Gateway { .. } | Owner::NameServer { .. })
    }

    /// True if a subnet that rnet chooses by itself must keep clear of this one. A VPN's pair of /1 routes would
    /// make every pool look taken (moby#42598).
    fn counts(&self) -> bool {
        match self.owner {
            Owner::Route { .. } => self.subnet.prefix() > 1,
            _ => true,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Network(name) => write!(f, "network {name:?}"),
            Owner::Podman(name) => write!(f, "podman's network {name:?}"),
            Owner::Link(device) => write!(f, "the host's link {device}"),
            Owner::Route { device } => write!(f, "the host's route dev {device}"),
            Owner::Gateway { device } => write!(f, "the gateway of the host's route dev {device}"),
            Owner::NameServer { file } => write!(f, "the host's name server in {file}"),
        }
    }
}

/// The lowest subnet of the pools that overlaps nothing in use; `prefix` is its size, each pool's own by default.
pub fn lowest_free(taken: &[Taken], prefix: Option<u8>) -> Option<IpNetwork> {
    let taken: Vec<(u32, u32)> =
        taken.iter().filter(|taken| taken.counts()).filter_map(|t| span(t.subnet)).collect();
    POOLS.iter().find_map(|pool| pool.lowest_free(&taken, prefix.unwrap_or(pool.prefix)))
}

/// The first subnet in use that `wanted` overlaps: networks and links before what is elsewhere.
pub fn first_overlap(wanted: IpNetwork, taken: &[Taken]) -> Option<&Taken> {
    let hits =
        |elsewhere| taken.iter().find(move |t| t.is_elsewhere() == elsewhere && overlap(wanted, t.subnet));
    hits(false).or_else(|| hits(true))
}

/// Addresses that no container can have and no bridge (RFC 6890, RFC 4291), and what they are.
const SPECIAL: [(&str, &str); 8] = [
    ("0.0.0.0/8", "this host's"),
    ("127.0.0.0/8", "loopback"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    ("::/96", "reserved"),
    ("::ffff:0:0/96", "IPv4"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
];

/// What the addresses of a subnet are, or some of them, if they cannot be a network's.
pub fn special(subnet: IpNetwork) -> Option<&'static str> {
    let is_hit = |range: &str| range.parse().is_ok_and(|range| overlap(subnet, range));
    SPECIAL.iter().find(|(range, _)| is_hit(range)).map(|(_, what)| *what)
}

/// True if two subnets have an address in common.
pub fn overlap(one: IpNetwork, other: IpNetwork) -> bool {
    match (one, other) {
        (IpNetwork::V4(one), IpNetwork::V4(other)) => one.overlaps(other),
        (IpNetwork::V6(one), IpNetwork::V6(other)) => one.overlaps(other),
        _ => false,
    }
}

/// The first host address of a subnet, which is its gateway unless another is given.
pub fn first_host(subnet: IpNetwork) -> IpAddr {
    match subnet.network() {
        IpAddr::V4(network) => Ipv4Addr::from(u32::from(network).saturating_add(1)).into(),
        IpAddr::V6(network) => std::net::Ipv6Addr::from(u128::from(network).saturating_add(1)).into(),
    }
}

/// The last host address: the one before the broadcast address, in IPv6 the last of all.
pub fn last_host(subnet: IpNetwork) -> IpAddr {
    match subnet {
        IpNetwork::V4(subnet) => Ipv4Addr::from(u32::from(subnet.broadcast()).saturating_sub(1)).into(),
        IpNetwork::V6(subnet) => subnet.broadcast().into(),
    }
}

impl Pool {
    fn lowest_free(&self, taken: &[(u32, u32)], prefix: u8) -> Option<IpNetwork> {
        let size = 1u64 << (32 - u32::from(prefix));
        let mut first = u64::from(u32::from(self.first)).next_multiple_of(size);
        while first + size - 1 <= u64::from(u32::from(self.last)) {
            let hit =
                taken.iter().find(|(from, to)| u64::from(*from) < first + size && first <= u64::from(*to));
            let Some((_, end)) = hit else { return subnet(first, prefix) };
            first = (u64::from(*end) + 1).next_multiple_of(size);
        }
        None
    }
}

fn subnet(first: u64, prefix: u8) -> Option<IpNetwork> {
    let first = Ipv4Addr::from(u32::try_from(first).ok()?);
    Ipv4Network::new(first, prefix).ok().map(IpNetwork::V4)
}

fn span(subnet: IpNetwork) -> Option<(u32, u32)> {
    match subnet {
        IpNetwork::V4(subnet) => Some((subnet.network().into(), subnet.broadcast().into())),
        IpNetwork::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(subnet: &str) -> Taken {
        Taken { subnet: subnet.parse().unwrap(), owner: Owner::Network("n".into()) }
    }

    fn route(subnet: &str) -> Taken {
        Taken { subnet: subnet.parse().unwrap(), owner: Owner::Route { device: "eth0".into() } }
    }

    fn free(taken: &[Taken], prefix: Option<u8>) -> String {
        lowest_free(taken, prefix).map_or_else(|| "none".into(), |subnet| subnet.to_string())
    }

    #[test]
    fn the_lowest_free_subnet_is_chosen() {
        assert_eq!(free(&[], None), "172.18.0.0/16");
        assert_eq!(free(&[network("172.18.0.0/16")], None), "172.19.0.0/16");
        assert_eq!(free(&[network("172.19.0.0/16"), network("172.18.5.0/24")], None), "172.20.0.0/16");
        assert_eq!(free(&[network("172.16.0.0/12")], None), "192.168.0.0/24");
        assert_eq!(free(&[network("172.16.0.0/12"), network("192.168.0.0/23")], None), "192.168.2.0/24");
        assert_eq!(free(&[network("172.16.0.0/12"), network("192.168.0.0/16")], None), "none");
        assert_eq!(free(&[network("fd00::/8")], None), "172.18.0.0/16");
    }

    #[test]
    fn any_size_is_found_in_the_gaps() {
        assert_eq!(free(&[], Some(24)), "172.18.0.0/24");
        assert_eq!(free(&[network("172.18.0.0/24"), network("172.18.1.128/25")], Some(24)), "172.18.2.0/24");
        assert_eq!(free(&[network("172.18.0.0/30")], Some(30)), "172.18.0.4/30");
        assert_eq!(free(&[], Some(13)), "172.24.0.0/13");
        assert_eq!(free(&[network("172.16.0.0/12")], Some(16)), "192.168.0.0/16");
        assert_eq!(free(&[network("172.16.0.0/12")], Some(15)), "none");
    }

    #[test]
    fn routes_count_unless_they_lead_everywhere() {
        assert_eq!(free(&[route("172.18.0.0/16")], None), "172.19.0.0/16");
        assert_eq!(free(&[route("172.18.7.0/24")], None), "172.19.0.0/16");
        assert_eq!(free(&[route("172.16.0.0/12")], None), "192.168.0.0/24");
        let vpn = [route("0.0.0.0/1"), route("128.0.0.0/1"), route("0.0.0.0/0")];
        assert_eq!(free(&vpn, None), "172.18.0.0/16");
    }

    #[test]
    fn an_overlap_names_a_network_rather_than_its_route() {
        let taken = [route("172.18.0.0/16"), network("172.18.0.0/16")];
        assert_eq!(first_overlap("172.18.5.0/24".parse().unwrap(), &taken), Some(&taken[1]));
        assert_eq!(first_overlap("172.18.5.0/24".parse().unwrap(), &taken[..1]), Some(&taken[0]));
        assert_eq!(first_overlap("10.0.0.0/8".parse().unwrap(), &taken), None);
        let link = Taken { owner: Owner::Link("eth0".into()), ..route("172.18.0.0/24") };
        let taken = [route("172.18.0.0/16"), link.clone()];
        assert_eq!(first_overlap("172.18.0.0/16".parse().unwrap(), &taken), Some(&link));
    }

    #[test]
    fn a_subnets_ends_are_its_hosts() {
        let hosts = |subnet: &str| {
            let subnet = subnet.parse().unwrap();
            (first_host(subnet).to_string(), last_host(subnet).to_string())
        };
        assert_eq!(hosts("10.9.0.0/30"), ("10.9.0.1".into(), "10.9.0.2".into()));
        assert_eq!(hosts("fd00::/64"), ("fd00::1".into(), "fd00::ffff:ffff:ffff:ffff".into()));
    }
}
