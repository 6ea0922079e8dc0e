//! A call in the engine's words, and what the engine says in CNI's.

use std::path::Path;

use cni::{CniResult, Dns, Ip, Request, conflist};
use engine::register::Valid;
use engine::spec::{Interface, Kept, Lease, Outcome, Resolver, Route};
use netlink::Netns;
use store::{Address, Id};

use crate::Error;

/// Which attachment a call is about.
pub fn id(request: &Request<'_>) -> Id {
    let (network, call) = (request.config.name.clone(), request.call);
    Id { network, container: call.container_id.clone(), ifname: call.ifname.clone() }
}

/// The container's namespace, opened once for all that a call does in it.
///
/// The path may lead elsewhere than a moment ago, when the call was checked: what it leads to now must not be the host's.
pub fn container(request: &Request<'_>) -> Result<Netns, Error> {
    let netns = Netns::open(Path::new(&request.call.netns))?;
    if !request.call.netns_override && netns.id() == Netns::current()?.id() {
        return Err(Error::Cni(cni::Fault::OwnNetns { release: None }.into()));
    }
    Ok(netns)
}

/// The result of ADD that CHECK must be given.
pub fn required_outcome(request: &Request<'_>) -> Result<Outcome, Error> {
    Ok(outcome(request.config.prev_result()?.ok_or(Error::NoPrevResult)?))
}

/// What a runtime still knows of an attachment. What cannot be read is not known.
pub fn kept(request: &Request<'_>) -> Kept<'static> {
    let outcome = request.config.prev_result().ok().flatten().map(outcome);
    Kept { outcome, is_defined: &|paths, name| conflist::load(&paths.definitions(), name).is_ok() }
}

/// The attachments that a GC names.
pub fn valid(request: &Request<'_>) -> Valid {
    let valid = request.config.valid_attachments();
    Valid::new(valid.map(|valid| valid.into_iter().map(|one| (one.container_id, one.ifname)).collect()))
}

/// A result as the engine keeps it.
pub fn outcome(result: CniResult) -> Outcome {
    let interface = |told: cni::Interface| Interface { name: told.name, mac: told.mac, netns: told.sandbox };
    Outcome {
        interfaces: result.interfaces.into_iter().map(interface).collect(),
        lease: Lease {
            addresses: result.ips.into_iter().map(address).collect(),
            routes: result.routes.into_iter().map(route).collect(),
            resolver: resolver(result.dns),
        },
    }
}

/// The outcome as a result: every address belongs to the last interface, the container's.
pub fn result(outcome: Outcome) -> CniResult {
    let container = outcome.interfaces.len().checked_sub(1);
    let interface = |told: Interface| cni::Interface {
        name: told.name,
        mac: told.mac,
        sandbox: told.netns,
        ..cni::Interface::default()
    };
    let ip =
        |address: Address| Ip { address: address.address, gateway: address.gateway, interface: container };
    let Lease { addresses, routes, resolver } = outcome.lease;
    CniResult {
        interfaces: outcome.interfaces.into_iter().map(interface).collect(),
        ips: addresses.into_iter().map(ip).collect(),
        routes: routes.into_iter().map(cni_route).collect(),
        dns: dns(resolver),
    }
}

/// The addresses of a result on the container's interface, or on none in particular.
pub fn container_addresses(previous: &CniResult, ifname: &str) -> Vec<Address> {
    let is_the_containers = |ip: &&Ip| match ip.interface.and_then(|index| previous.interfaces.get(index)) {
        Some(interface) => interface.name == ifname && interface.sandbox.is_some(),
        None => true,
    };
    previous.ips.iter().filter(is_the_containers).cloned().map(address).collect()
}

/// What an IPAM plugin leased.
pub fn lease(result: CniResult) -> Lease {
    outcome(result).lease
}

/// Resolver settings as the engine keeps them.
pub fn resolver(dns: Dns) -> Resolver {
    let Dns { nameservers, domain, search, options } = dns;
    Resolver { nameservers, domain, search, options }
}

fn dns(resolver: Resolver) -> Dns {
    let Resolver { nameservers, domain, search, options } = resolver;
    Dns { nameservers, domain, search, options }
}

fn address(ip: Ip) -> Address {
    Address { address: ip.address, gateway: ip.gateway }
}

fn route(route: cni::Route) -> Route {
    let cni::Route { dst, gw, mtu, advmss, priority, table, scope } = route;
    Route { dst, gw, mtu, advmss, priority, table, scope }
}

fn cni_route(route: Route) -> cni::Route {
    let Route { dst, gw, mtu, advmss, priority, table, scope } = route;
    cni::Route { dst, gw, mtu, advmss, priority, table, scope }
}
