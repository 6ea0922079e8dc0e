//! Gateways outside the subnet of the addresses that they are for: the routes by which either side finds the other.
//!
//! host-local takes such a gateway since 2018. On the container's side the kernel needs a route that says the gateway is
//! on the link; on the host's side, where the bridge bears the gateway's address, one that says the subnet is.
//! An IPv6 link-local gateway is on every link, so that it needs the second only.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink::{Netlink, Request, Route};

use crate::Error;
use crate::ip::{is_link_local, subnet};
use crate::spec::{Lease, Spec};

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
