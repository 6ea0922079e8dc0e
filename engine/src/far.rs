//! Gateways outside the subnet of the addresses that they are for: the routes by which either side finds the other.
//!
//! host-local takes such a gateway since 2018. On the container's side the kernel needs a route that says the gateway is
//! on the link; on the host's side, where the bridge bears the gateway's address, one that says the subnet is.
//! An IPv6 link-local gateway is on every link, so that it needs the second only.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink::{Netlink, Request, Route};

use crate::Error;
use crate::spec::{Lease, Spec, subnet};

/// The prefix of every link's own IPv6 network (RFC 4291, 2.5.6).
const LINK_LOCAL: u8 = 64;

/// The gateway's address as the bridge bears it: with the prefix of `address`, if that leads to it.
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

/// The container's routes to gateways that none of its subnets leads to, if `routes` do not have them.
pub fn to_gateways(spec: &Spec, lease: &Lease, routes: &[Route], index: u32) -> Vec<Route> {
    let is_far = |gateway: &IpAddr| {
        !is_link_local(*gateway) && !lease.addresses.iter().any(|ip| ip.address.contains(*gateway))
    };
    let mut to_gateways: Vec<Route> = Vec::new();
    for gateway in lease.addresses.iter().filter_map(|ip| spec.gateway_of(ip)).filter(is_far) {
        let route = Route::new(IpNetwork::from(gateway), index);
        let is_there = |known: &Route| known.destination == route.destination;
        if !routes.iter().any(is_there) && !to_gateways.iter().any(is_there) {
            to_gateways.push(route);
        }
    }
    to_gateways
}

/// True if `destination` is the gateway and nothing else: a route there by itself leads nowhere.
pub fn is_gateway_itself(destination: IpNetwork, gateway: IpAddr) -> bool {
    destination == IpNetwork::from(gateway)
}

/// The subnets that the gateways' addresses on the bridge do not lead to.
pub fn subnets(spec: &Spec, lease: &Lease) -> Vec<IpNetwork> {
    if !spec.gateway {
        return Vec::new();
    }
    let far =
        lease.addresses.iter().filter(|ip| spec.gateway_of(ip).is_some_and(|it| !ip.address.contains(it)));
    far.map(|ip| subnet(ip.address)).collect()
}

/// Those of `subnets` that no route leads to by the bridge.
pub fn unrouted(
    netlink: &mut Netlink,
    bridge: u32,
    mut subnets: Vec<IpNetwork>,
) -> Result<Vec<IpNetwork>, Error> {
    if !subnets.is_empty() {
        let routes = netlink.routes()?;
        subnets.retain(|subnet| {
            !routes.iter().any(|route| route.index == bridge && route.destination == *subnet)
        });
    }
    Ok(subnets)
}

/// Makes the routes to subnets that the bridge's addresses do not lead to. The bridge is up.
pub fn route(netlink: &mut Netlink, bridge: u32, subnets: Vec<IpNetwork>) -> Result<(), Error> {
    let missing = unrouted(netlink, bridge, subnets)?;
    let requests: Vec<Request> =
        missing.into_iter().map(|subnet| Request::RouteAdd(Route::new(subnet, bridge))).collect();
    if requests.is_empty() { Ok(()) } else { Ok(netlink.send(&requests)?) }
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
