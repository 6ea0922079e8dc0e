//! Addresses and networks, and what follows from them; pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use netlink::Mac;

use crate::Error;

/// The prefix of every link's own IPv6 network (RFC 4291, 2.5.6).
const LINK_LOCAL: u8 = 64;

/// The gateway's address as the bridge bears it: with the prefix of `address`, if that leads to it.
///
/// # Errors
/// Never: each prefix is one of its family.
pub fn gateway_address(gateway: IpAddr, address: IpNetwork) -> Result<IpNetwork, Error> {
    let prefix = match gateway {
        _ if address.contains(gateway) => address.prefix(),
        _ if is_link_local(gateway) => LINK_LOCAL,
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    };
    IpNetwork::new(gateway, prefix).map_err(|_| Error::NoAddress)
}

/// True for fe80::/10, which is on every link.
pub fn is_link_local(gateway: IpAddr) -> bool {
    matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// The first address after the network's own.
pub fn first_host(network: IpNetwork) -> IpAddr {
    match network.network() {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from(u32::from(v4).wrapping_add(1))),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6).wrapping_add(1))),
    }
}

/// The subnet an address lies in, `172.18.0.0/16` of `172.18.0.2/16`.
pub fn subnet(address: IpNetwork) -> IpNetwork {
    IpNetwork::new(address.network(), address.prefix()).unwrap_or(address)
}

/// A locally administered MAC: `first` and five bytes out of a key's hex digits.
pub fn hashed_mac(first: u8, key: &str) -> Mac {
    let byte = |at: usize| key.get(at..at + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok()).unwrap_or(0);
    Mac([first, byte(0), byte(2), byte(4), byte(6), byte(8)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bridge_bears_a_gateway_with_a_prefix_that_leads_to_it() {
        let cases = [
            ("10.1.0.1", "10.1.0.5/24", "10.1.0.1/24"),
            ("10.9.0.1", "10.1.0.5/24", "10.9.0.1/32"),
            ("fd00::1", "fd00:0:0:1::5/64", "fd00::1/128"),
            ("fe80::1", "fd00:0:0:1::5/80", "fe80::1/64"),
        ];
        for (gateway, address, borne) in cases {
            let found = gateway_address(gateway.parse().unwrap(), address.parse().unwrap()).unwrap();
            assert_eq!(found.to_string(), borne);
        }
    }
}
