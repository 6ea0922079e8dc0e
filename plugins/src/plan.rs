//! What an attachment is to become: the configurations of `rnet` and `bridge` in one form.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cni::{CniResult, Dns, Ip, Request, Route};
use ipnetwork::IpNetwork;
use netlink::Mac;
use store::{Address, Key, Namespace, Record};

use crate::names::Names;
use crate::ports::Mapping;
use crate::{Error, far};

/// Who leases the addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ipam {
    /// Nobody: the network is a switch without addresses.
    None,
    /// rnet itself, from the ranges in the configuration, the lowest free first.
    Own,
    /// The plugin of this name, looked up in CNI_PATH.
    Delegate(String),
}

/// One attachment and the network it belongs to, as configured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The plugin in whose name records are written.
    pub plugin: &'static str,
    /// The network's name.
    pub network: String,
    /// The bridge.
    pub bridge: String,
    /// The bridge goes with its last attachment, if rnet made it.
    pub owns_bridge: bool,
    /// The bridge bears the gateway's address and the host forwards.
    pub gateway: bool,
    /// `accept_ra` of the host's uplinks may be changed, so that IPv6 forwarding does not cost them their router advertisements.
    pub keep_advertisements: bool,
    /// The container gets a default route although IPAM gives none.
    pub default_gateway: bool,
    /// Another address on the bridge is replaced instead of refused.
    pub force_address: bool,
    /// The MTU of bridge and veth; none is that of the default route's link, or of the bridge that is there.
    pub mtu: Option<u32>,
    /// An MTU is looked up for a new bridge that has none configured.
    pub inherit_mtu: bool,
    /// A bridge that is made looks into IGMP and MLD. Without a querier on the network, and there is none by default, it
    /// floods multicast all the same, and each port that comes or goes costs it time for every other port.
    pub snooping: bool,
    /// The bridge is promiscuous.
    pub promiscuous: bool,
    /// Frames may leave by the port that they came in by.
    pub hairpin: bool,
    /// The port reaches the gateway only.
    pub port_isolation: bool,
    /// Traffic to other networks is masqueraded.
    pub masquerade: bool,
    /// Only published ports are reached from elsewhere.
    pub isolated: bool,
    /// Other firewalls of the host are told to let its traffic pass.
    pub interop: bool,
    /// Frames with a source that is not the container's own are dropped.
    pub guarded: bool,
    /// Frames with another MAC than the container's are dropped, by the reference plugin's rules.
    pub mac_checked: bool,
    /// The container's end comes up.
    pub interface_up: bool,
    /// IPv6 addresses are probed for duplicates.
    pub duplicate_detection: bool,
    /// IPv6 is off in a container that has no IPv6 address.
    pub ipv4_only: bool,
    /// The MAC that was asked for.
    pub mac: Option<Mac>,
    /// Who leases addresses.
    pub ipam: Ipam,
    /// The ports to publish.
    pub ports: Vec<Mapping>,
    /// The resolver settings of the configuration, which win over IPAM's.
    pub dns: Option<Dns>,
    /// Names, where they are served.
    pub names: Option<Names>,
    /// The container's name gets the addresses that it had before.
    pub sticky: bool,
    /// The container's name, where the runtime tells it.
    pub name: Option<String>,
}

impl Plan {
    /// What DEL needs to know where the configuration has a fault: it goes by the record, and nothing that was
    /// attached may stay because of what the configuration says by now.
    pub fn bare(plugin: &'static str, network: &str, ipam: Ipam) -> Self {
        Self {
            plugin,
            network: network.to_owned(),
            bridge: String::new(),
            owns_bridge: false,
            gateway: false,
            keep_advertisements: false,
            default_gateway: false,
            force_address: false,
            mtu: None,
            inherit_mtu: false,
            snooping: false,
            promiscuous: false,
            hairpin: false,
            port_isolation: false,
            masquerade: false,
            isolated: false,
            interop: false,
            guarded: false,
            mac_checked: false,
            interface_up: false,
            duplicate_detection: false,
            ipv4_only: false,
            mac: None,
            ipam,
            ports: Vec::new(),
            dns: None,
            names: None,
            sticky: false,
            name: None,
        }
    }

    /// The record of this attachment before anything is made.
    pub fn record(&self, request: &Request<'_>) -> Record {
        let call = request.call;
        let mut record = Record {
            plugin: self.plugin.into(),
            network: self.network.clone(),
            container: call.container_id.clone(),
            ifname: call.ifname.clone(),
            name: self.name.clone(),
            netns: Some(Namespace { path: call.netns.clone().into(), dev: 0, ino: 0 }),
            bridge: Some(self.bridge.clone()),
            masquerade: self.masquerade,
            isolated: self.isolated,
            guarded: self.guarded,
            hairpin: self.hairpin,
            port_isolated: self.port_isolation,
            mac_checked: self.mac_checked,
            snat: true,
            proof: crate::renamed::proof_by_definition(request),
            ..Record::default()
        };
        record.link = Some(record.key().link(0));
        if let Some(served) = &self.names {
            served.describe(&mut record);
        }
        record
    }

    /// Every address that the bridge bears as its containers' gateway.
    pub fn gateways(&self, lease: &CniResult) -> Result<Vec<IpNetwork>, Error> {
        if !self.gateway {
            return Ok(Vec::new());
        }
        lease.ips.iter().map(gateway_address).collect()
    }

    /// The first gateway of `destination`'s family, where there is one.
    pub fn gateway_for(&self, destination: IpNetwork, lease: &CniResult) -> Option<IpAddr> {
        let mut family = lease.ips.iter().filter(|ip| ip.address.is_ipv4() == destination.is_ipv4());
        family.find_map(|ip| self.gateway_of(ip))
    }

    /// The gateway of an address: IPAM's, else, where the bridge is the gateway, the subnet's first host.
    pub fn gateway_of(&self, ip: &Ip) -> Option<IpAddr> {
        ip.gateway.or_else(|| self.gateway.then(|| first_host(ip.address)))
    }

    /// IPAM's routes, and a default route for each family that has a gateway and none yet, where that is asked for.
    pub fn routes(&self, lease: &CniResult) -> Vec<Route> {
        let mut routes = lease.routes.clone();
        for default in defaults().into_iter().filter(|_| self.default_gateway) {
            if routes.iter().all(|route| subnet(route.dst) != default)
                && let Some(gateway) = self.gateway_for(default, lease)
            {
                routes.push(default_route(default, gateway));
            }
        }
        routes
    }

    /// The resolver settings: those of our name server, else the configuration's, else IPAM's.
    pub fn resolver(&self, lease: &CniResult) -> Dns {
        match &self.names {
            Some(names) => {
                let gateways = lease.ips.iter().filter_map(|ip| self.gateway_of(ip));
                // Which link it means, a resolv.conf cannot say for all resolvers.
                names.resolver(gateways.filter(|gateway| !far::is_link_local(*gateway)))
            }
            None => self.dns.clone().unwrap_or_else(|| lease.dns.clone()),
        }
    }

    /// The MAC of the container's end: the one asked for, else the usual one.
    pub fn container_mac(&self, lease: &CniResult, key: &Key) -> Mac {
        self.mac.unwrap_or_else(|| self.usual_mac(lease, key))
    }

    /// The MAC that an address has if nobody asks for another: out of the first address, else out of the key.
    pub fn usual_mac(&self, lease: &CniResult, key: &Key) -> Mac {
        let from_v4 = || lease.ips.iter().find_map(|ip| v4(ip).map(Mac::from));
        let from_v6 = || lease.ips.iter().find_map(|ip| v6(ip).map(Mac::from_v6));
        from_v4().or_else(from_v6).unwrap_or_else(|| hashed_mac(0x0e, key.as_str()))
    }
}

/// `0.0.0.0/0` and `::/0`.
fn defaults() -> [IpNetwork; 2] {
    let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    any.map(|any| IpNetwork::new(any, 0).unwrap_or_else(|_| any.into()))
}

fn default_route(dst: IpNetwork, gateway: IpAddr) -> Route {
    Route { dst, gw: Some(gateway), mtu: None, advmss: None, priority: None, table: None, scope: None }
}

/// The gateway that IPAM names, else the subnet's first host, as the bridge bears it.
pub fn gateway_address(ip: &Ip) -> Result<IpNetwork, Error> {
    far::gateway_address(ip.gateway.unwrap_or_else(|| first_host(ip.address)), ip.address)
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

/// The addresses of a result in the form that records keep.
pub fn addresses(lease: &CniResult) -> Vec<Address> {
    lease.ips.iter().map(|ip| Address { address: ip.address, gateway: ip.gateway }).collect()
}

/// A locally administered MAC: `first` and five bytes out of a key's hex digits.
pub fn hashed_mac(first: u8, key: &str) -> Mac {
    let byte = |at: usize| key.get(at..at + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok()).unwrap_or(0);
    Mac([first, byte(0), byte(2), byte(4), byte(6), byte(8)])
}

fn v4(ip: &Ip) -> Option<Ipv4Addr> {
    match ip.address.ip() {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    }
}

fn v6(ip: &Ip) -> Option<Ipv6Addr> {
    match ip.address.ip() {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => Some(v6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_goes_by_the_first_gateway_of_its_family_whichever_address_it_came_with() {
        let ip = |address: &str, gateway: Option<&str>| Ip {
            address: address.parse().unwrap(),
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            interface: None,
        };
        let gateways =
            [("fd00::2/64", Some("fd00::1")), ("10.1.0.2/24", None), ("10.2.0.2/24", Some("10.2.0.1"))];
        let ips = gateways.map(|(address, gateway)| ip(address, gateway)).into();
        let lease = CniResult { ips, ..CniResult::default() };
        let by =
            |plan: &Plan| defaults().map(|default| plan.gateway_for(default, &lease).unwrap().to_string());

        let plan = Plan::bare("bridge", "n", Ipam::None);
        assert_eq!(by(&plan), ["10.2.0.1", "fd00::1"]);
        // A bridge that is the gateway is so in every subnet.
        assert_eq!(by(&Plan { gateway: true, ..plan }), ["10.1.0.1", "fd00::1"]);
    }
}
