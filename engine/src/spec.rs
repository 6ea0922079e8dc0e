//! What an attachment is to become, and what became of it: the values that every door speaks in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipam::RangeSet;
pub use ipam::{ResolvConf as Resolver, Route};
use ipnetwork::IpNetwork;
use netlink::{Link, Mac};
use store::{Address, Exception, Id, Key, Namespace, Protocol, Record};

use crate::ip::{first_host, hashed_mac, subnet};
use crate::served::Served;
use crate::settings::Settings;
use crate::{Error, ip};

/// What a network leases.
#[derive(Clone, Debug, Default)]
pub struct Ranges {
    /// An attachment gets one address of each set.
    pub sets: Vec<RangeSet>,
    /// The addresses that are asked for.
    pub requested: Vec<IpAddr>,
    /// Routes that come with a lease.
    pub routes: Vec<Route>,
    /// Resolver settings that come with a lease.
    pub resolver: Resolver,
}

/// Who leases the addresses.
pub enum Addresses<'a> {
    /// The network is a switch without addresses.
    None,
    /// rnet itself, the lowest free address first.
    Own(Ranges),
    /// They were leased before, for an interface that another program has made.
    Given(Lease),
    /// Another program, or another part of this one.
    From(Box<dyn Leaser + 'a>),
}

/// Leases addresses for the attachments of a network.
pub trait Leaser {
    /// # Errors
    /// It cannot be asked at all. ADD looks before it makes anything.
    fn require(&self) -> Result<(), Error>;

    /// True if it is another program, which is told of every ADD that fails.
    fn is_foreign(&self) -> bool;

    /// # Errors
    /// There is no address to lease.
    fn lease(&self) -> Result<Lease, Error>;

    /// Releases what the attachment holds. Repeating it succeeds.
    ///
    /// # Errors
    /// It could not be released.
    fn release(&self, id: &Id) -> Result<(), Error>;

    /// # Errors
    /// The attachment holds no lease.
    fn check(&self) -> Result<(), Error>;

    /// # Errors
    /// It could not lease an address now.
    fn status(&self) -> Result<(), Error>;

    /// Releases what belongs to no valid attachment.
    ///
    /// # Errors
    /// Something could not be released.
    fn gc(&self) -> Result<(), Error>;
}

/// What an attachment got: addresses, the routes that come with them, and the resolver's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// The addresses, each with its gateway.
    pub addresses: Vec<Address>,
    /// Routes inside the container.
    pub routes: Vec<Route>,
    /// What the container's resolver is told.
    pub resolver: Resolver,
}

impl Lease {
    /// The addresses without their prefixes.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().map(|address| address.address.ip())
    }
}

/// An interface that belongs to an attachment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MAC address, as text: a caller gives back what it was told.
    pub mac: Option<String>,
    /// The path of the namespace that it is in; none on the host.
    pub netns: Option<String>,
}

impl Interface {
    /// The MAC of the link that is there, and the one that was told of, if they differ.
    pub fn differing_mac(&self, link: &Link) -> Option<(String, String)> {
        let found = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
        let told = self.mac.clone().filter(|told| !told.eq_ignore_ascii_case(&found))?;
        Some((found, told))
    }
}

/// What became of an attachment: what ADD tells, and what a caller may keep until CHECK and DEL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The interfaces; the container's is the last one that ADD tells of.
    pub interfaces: Vec<Interface>,
    /// What it leased, with every gateway and route that it was given.
    pub lease: Lease,
}

impl Outcome {
    /// The interface of that name inside a container.
    pub fn inside(&self, ifname: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.name == ifname && interface.netns.is_some())
    }

    /// The interface of that name on the host.
    pub fn on_host(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.name == name && interface.netns.is_none())
    }
}

/// What the caller of a DEL still knows of the attachment, for the case that its record is gone or has another network's name.
pub struct Kept<'a> {
    /// The outcome of its ADD.
    pub outcome: Option<Outcome>,
    /// True if a network of that name is still defined.
    pub is_defined: &'a dyn Fn(&store::Paths, &str) -> bool,
}

impl Kept<'_> {
    /// The addresses that the container has by that.
    pub fn ips(&self) -> Vec<IpAddr> {
        self.outcome.iter().flat_map(|outcome| outcome.lease.ips()).collect()
    }
}

/// A host port that is to lead to the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// The host's address. None and the unspecified one mean any, the latter only of its family.
    pub host: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The container's port.
    pub container_port: u16,
    /// The transport protocol.
    pub protocol: Protocol,
}

/// One attachment and the network it belongs to, as configured.
pub struct Spec<'a> {
    /// The plugin in whose name records are written.
    pub plugin: &'static str,
    /// Which attachment; without container and interface where the call is about a whole network.
    pub id: Id,
    /// Where the container's network namespace is.
    pub netns: PathBuf,
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
    pub addresses: Addresses<'a>,
    /// The ports to publish.
    pub ports: Vec<Publish>,
    /// Packets to those ports that they are not for.
    pub exceptions: Vec<Exception>,
    /// Clients of the ports that the container's answers would not find their way back to are masqueraded.
    pub snat: bool,
    /// All clients of the ports are masqueraded.
    pub masquerade_all: bool,
    /// What is to be changed of an interface that is there, and of its namespace.
    pub tuning: Option<Settings>,
    /// Resolver settings that win over those of the lease.
    pub resolver: Option<Resolver>,
    /// Names, where they are served.
    pub names: Option<Served>,
    /// Where containers ask for names, if that is not a gateway of this network.
    pub askable: Vec<IpAddr>,
    /// The container's name gets the addresses that it had before.
    pub sticky: bool,
    /// The container's name, where the runtime tells it.
    pub name: Option<String>,
    /// A digest of the definition without the network's name: by it a DEL finds the attachment of a network that was renamed.
    pub proof: Option<String>,
}

impl<'a> Spec<'a> {
    /// What DEL needs to know where the configuration has a fault: it goes by the record, and nothing that was
    /// attached may stay because of what the configuration says by now.
    pub fn bare(plugin: &'static str, id: Id, addresses: Addresses<'a>) -> Self {
        Self {
            plugin,
            id,
            netns: PathBuf::new(),
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
            addresses,
            ports: Vec::new(),
            exceptions: Vec::new(),
            snat: true,
            masquerade_all: false,
            tuning: None,
            resolver: None,
            names: None,
            askable: Vec::new(),
            sticky: false,
            name: None,
            proof: None,
        }
    }

    /// The record of this attachment before anything is made.
    pub fn record(&self) -> Record {
        let mut record = Record {
            name: self.name.clone(),
            netns: Some(Namespace { path: self.netns.clone(), dev: 0, ino: 0 }),
            bridge: Some(self.bridge.clone()).filter(|bridge| !bridge.is_empty()),
            masquerade: self.masquerade,
            isolated: self.isolated,
            guarded: self.guarded,
            hairpin: self.hairpin,
            port_isolated: self.port_isolation,
            mac_checked: self.mac_checked,
            exceptions: self.exceptions.clone(),
            snat: self.snat,
            masquerade_all: self.masquerade_all,
            proof: self.proof.clone(),
            ..Record::of(self.plugin, &self.id)
        };
        record.link = self.makes_link().then(|| record.key().link(0));
        if let Some(served) = &self.names {
            served.describe(&mut record);
        }
        record
    }

    /// False where another program makes the interface.
    pub fn makes_link(&self) -> bool {
        !matches!(self.addresses, Addresses::Given(_))
    }

    /// Every address that the bridge bears as its containers' gateway.
    ///
    /// # Errors
    /// Never: see [`ip::gateway_address`].
    pub fn gateways(&self, lease: &Lease) -> Result<Vec<IpNetwork>, Error> {
        if !self.gateway {
            return Ok(Vec::new());
        }
        lease.addresses.iter().map(gateway_address).collect()
    }

    /// The first gateway of `destination`'s family, where there is one.
    pub fn gateway_for(&self, destination: IpNetwork, lease: &Lease) -> Option<IpAddr> {
        let mut family = lease.addresses.iter().filter(|ip| ip.address.is_ipv4() == destination.is_ipv4());
        family.find_map(|ip| self.gateway_of(ip))
    }

    /// The gateway of an address: IPAM's, else, where the bridge is the gateway, the subnet's first host.
    pub fn gateway_of(&self, ip: &Address) -> Option<IpAddr> {
        ip.gateway.or_else(|| self.gateway.then(|| first_host(ip.address)))
    }

    /// IPAM's routes, and a default route for each family that has a gateway and none yet, where that is asked for.
    pub fn routes(&self, lease: &Lease) -> Vec<Route> {
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
    pub fn resolver(&self, lease: &Lease) -> Resolver {
        match &self.names {
            Some(names) => {
                let gateways = lease.addresses.iter().filter_map(|ip| self.gateway_of(ip));
                // Which link it means, a resolv.conf cannot say for all resolvers.
                names.resolver(gateways.filter(|gateway| !ip::is_link_local(*gateway)))
            }
            None => self.resolver.clone().unwrap_or_else(|| lease.resolver.clone()),
        }
    }

    /// The MAC of the container's end: the one asked for, else the usual one.
    pub fn container_mac(&self, lease: &Lease, key: &Key) -> Mac {
        self.mac.unwrap_or_else(|| self.usual_mac(lease, key))
    }

    /// The MAC that an address has if nobody asks for another: out of the first address, else out of the key.
    pub fn usual_mac(&self, lease: &Lease, key: &Key) -> Mac {
        let from_v4 = || lease.addresses.iter().find_map(|ip| v4(ip).map(Mac::from));
        let from_v6 = || lease.addresses.iter().find_map(|ip| v6(ip).map(Mac::from_v6));
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
///
/// # Errors
/// Never: see [`ip::gateway_address`].
pub fn gateway_address(ip: &Address) -> Result<IpNetwork, Error> {
    ip::gateway_address(ip.gateway.unwrap_or_else(|| first_host(ip.address)), ip.address)
}

fn v4(ip: &Address) -> Option<Ipv4Addr> {
    match ip.address.ip() {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    }
}

fn v6(ip: &Address) -> Option<Ipv6Addr> {
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
        let ip = |address: &str, gateway: Option<&str>| Address {
            address: address.parse().unwrap(),
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        };
        let gateways =
            [("fd00::2/64", Some("fd00::1")), ("10.1.0.2/24", None), ("10.2.0.2/24", Some("10.2.0.1"))];
        let addresses = gateways.map(|(address, gateway)| ip(address, gateway)).into();
        let lease = Lease { addresses, ..Lease::default() };
        let by =
            |spec: &Spec| defaults().map(|default| spec.gateway_for(default, &lease).unwrap().to_string());

        let spec = Spec::bare("bridge", Id::of_network("n"), Addresses::None);
        assert_eq!(by(&spec), ["10.2.0.1", "fd00::1"]);
        // A bridge that is the gateway is so in every subnet.
        assert_eq!(by(&Spec { gateway: true, ..spec }), ["10.1.0.1", "fd00::1"]);
    }
}
