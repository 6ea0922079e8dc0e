//! What the attachments of a network on a bridge share: the bridge with the gateways' addresses, forwarding, and the network's
//! elements.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink::{Link, Mac, Request};
use store::{LockName, Mode, Network, Stage};

use super::port;
use crate::held::{Held, commit, describe, is_whole, others_in_use};
use crate::host_id::bridge_mac;
use crate::ip::{is_link_local, subnet};
use crate::spec::{Lease, Spec};
use crate::{Error, Host, admission, failpoint, far, forward, link, moments};

/// Makes sure that the network's bridge is there as planned, and keeps it there.
///
/// The first attachment makes it, alone; all others share the network and find it ready.
pub fn hold(host: &mut Host, spec: &Spec, lease: &Lease) -> Result<Held, Error> {
    let gateways = spec.gateways(lease)?;
    let (planned, far) = (plan(spec, lease, &gateways), far::subnets(spec, lease));
    let mut lock = host.lock(LockName::Network(spec.id.network.clone()), Mode::Shared)?;
    loop {
        if let Some((bridge, network)) = ready(host, spec, &planned, &gateways, &far)? {
            return Ok(Held { network, bridge: Some(bridge), lock });
        }
        lock = host.change(lock, Mode::Exclusive)?;
        if ready(host, spec, &planned, &gateways, &far)?.is_none() {
            let (bridge, network) = make(host, spec, planned, &gateways)?;
            far::route(&mut host.netlink, bridge.index, far)?;
            return Ok(Held { network, bridge: Some(bridge), lock });
        }
        lock = host.change(lock, Mode::Shared)?;
    }
}

/// Makes a network that containers are on as planned again, with its bridge and their ports, and keeps it there. `lease` has an
/// address of each of its subnets. None for one that nobody is on.
pub fn make_whole(host: &mut Host, spec: &Spec, lease: &Lease) -> Result<Option<Held>, Error> {
    let gateways = spec.gateways(lease)?;
    let (planned, far) = (plan(spec, lease, &gateways), far::subnets(spec, lease));
    let lock = host.lock(LockName::Network(spec.id.network.clone()), Mode::Exclusive)?;
    if !host.store.has_records(&spec.id.network, spec.plugin)? {
        return Ok(None);
    }
    let (bridge, network) = make(host, spec, planned, &gateways)?;
    far::route(&mut host.netlink, bridge.index, far)?;
    Ok(Some(Held { network, bridge: Some(bridge), lock }))
}

/// The bridge and what is remembered of the network, if nothing is left to do for it.
fn ready(
    host: &mut Host,
    spec: &Spec,
    planned: &Network,
    gateways: &[IpNetwork],
    far: &[IpNetwork],
) -> Result<Option<(Link, Network)>, Error> {
    let known = host.store.network(&planned.name, &planned.plugin)?;
    let Some(network) = known.filter(|known| is_whole(known, planned)) else { return Ok(None) };
    let Some(bridge) = find(host, spec)? else { return Ok(None) };
    let fits = bridge.up && spec.mtu.is_none_or(|mtu| mtu == bridge.mtu) && is_forwarding(&bridge, gateways);
    let ready = fits
        && (!spec.promiscuous || bridge.promisc)
        && has_addresses(host, &bridge, gateways)?
        && far::unrouted(&mut host.netlink, bridge.index, far.to_vec())?.is_empty();
    Ok(ready.then_some((bridge, network)))
}

/// Forwarding that is turned off on the host is off on every link: the bridge tells, without another question.
fn is_forwarding(bridge: &Link, gateways: &[IpNetwork]) -> bool {
    gateways.iter().all(|gateway| match gateway {
        IpNetwork::V4(_) => bridge.forwards_v4 == Some(true),
        IpNetwork::V6(_) => bridge.forwards_v6 == Some(true),
    })
}

fn has_addresses(host: &mut Host, bridge: &Link, wanted: &[IpNetwork]) -> Result<bool, Error> {
    if wanted.is_empty() {
        return Ok(true);
    }
    let found = host.netlink.addresses(Some(bridge.index))?;
    Ok(wanted.iter().all(|address| found.iter().any(|found| found.address == *address)))
}

fn find(host: &mut Host, spec: &Spec) -> Result<Option<Link>, Error> {
    match host.netlink.link(&spec.bridge)? {
        Some(link) if link.kind.as_deref() != Some("bridge") => {
            Err(Error::NotABridge { name: spec.bridge.clone() })
        }
        other => Ok(other),
    }
}

fn make(
    host: &mut Host,
    spec: &Spec,
    planned: Network,
    gateways: &[IpNetwork],
) -> Result<(Link, Network), Error> {
    let found = find(host, spec)?;
    refuse_others_subnet(host, spec, gateways)?;
    require_ipv6(host, spec, found.as_ref(), gateways)?;
    // One with such a MAC is ours, though the state was lost.
    let is_ours = |bridge: &Link| bridge.mac == Some(bridge_mac(host, &bridge.name, true));
    let owns_bridge = planned.owns_bridge && found.as_ref().is_none_or(is_ours);
    let mut network = describe(host, Network { owns_bridge, ..planned }, spec.owns_bridge)?;
    // Written first: the next caller that finds the bridge after a crash must know whose it is, and that it is not ready.
    host.store.write_network(&network)?;
    failpoint::pass("add.network")?;
    let bridge = match found {
        Some(bridge) => bridge,
        None => create(host, spec)?,
    };
    failpoint::pass("add.bridge")?;
    set_up(host, spec, &bridge, &network, gateways)?;
    admission::admit_network(host, &network)?;
    failpoint::pass("add.elements")?;
    moments::network_comes(host)?;
    failpoint::pass("add.moment")?;
    port::reattach(host, spec, &bridge)?;
    await_gateways(host, gateways)?;
    failpoint::pass("add.address")?;
    commit(host, &mut network)?;
    failpoint::pass("add.ready")?;
    Ok((Link { up: true, mtu: spec.mtu.unwrap_or(bridge.mtu), ..bridge }, network))
}

/// The network as its first attachment has it.
fn plan(spec: &Spec, lease: &Lease, gateways: &[IpNetwork]) -> Network {
    let subnets: Vec<_> = lease.addresses.iter().map(|ip| subnet(ip.address)).collect();
    let askable = gateways.iter().map(IpNetwork::ip).filter(|ip| !is_link_local(*ip)).collect();
    Network {
        name: spec.id.network.clone(),
        plugin: spec.plugin.into(),
        bridge: spec.bridge.clone(),
        owns_bridge: spec.owns_bridge,
        isolated: spec.isolated,
        no_interop: !spec.interop,
        given: false,
        zone: spec.names.as_ref().map(|names| names.zone(askable, subnets.clone())),
        subnets,
        // `bridge` replaces what an earlier configuration asked for, as upstream's does.
        gateways: if spec.owns_bridge { gateways.to_vec() } else { Vec::new() },
        former: Vec::new(),
        stage: Stage::Intent,
    }
}

/// As for a container's addresses ([`link::await_addresses`]): its first packet may be for its gateway.
fn await_gateways(host: &mut Host, gateways: &[IpNetwork]) -> Result<(), Error> {
    let awaited = |ip: &IpAddr| ip.is_ipv6() && !is_link_local(*ip);
    for gateway in gateways.iter().map(IpNetwork::ip).filter(awaited) {
        if !host.netlink.is_local(gateway)? {
            netlink::await_local(gateway, link::PATIENCE)?;
        }
    }
    Ok(())
}

/// One subnet on two bridges: the host would send answers for both to one of them. Two that have no gateway on the host
/// do not meet.
fn refuse_others_subnet(host: &mut Host, spec: &Spec, gateways: &[IpNetwork]) -> Result<(), Error> {
    if gateways.is_empty() {
        return Ok(());
    }
    let of_it = Network { name: spec.id.network.clone(), plugin: spec.plugin.into(), ..Network::default() };
    for other in others_in_use(host, &of_it)? {
        if other.bridge == spec.bridge || other.name == spec.id.network || other.bridge.is_empty() {
            continue;
        }
        let Some(bridge) = host.netlink.link(&other.bridge)? else { continue };
        let found = host.netlink.addresses(Some(bridge.index))?;
        let shared =
            found.iter().find(|found| gateways.iter().any(|gateway| is_one_subnet(found.address, *gateway)));
        if let Some(shared) = shared {
            let subnet = subnet(shared.address).to_string();
            return Err(Error::SubnetTaken {
                network: spec.id.network.clone(),
                subnet,
                other: other.name,
                bridge: other.bridge,
            });
        }
    }
    Ok(())
}

/// Subnets inside one another work, for the host prefers the narrower one.
fn is_one_subnet(one: IpNetwork, other: IpNetwork) -> bool {
    let is_link_local = matches!(one.ip(), IpAddr::V6(v6) if v6.is_unicast_link_local());
    !is_link_local && (subnet(one) == subnet(other) || one.ip() == other.ip())
}

/// A bridge without IPv6 bears no IPv6 address: told before there is one.
fn require_ipv6(host: &Host, spec: &Spec, found: Option<&Link>, gateways: &[IpNetwork]) -> Result<(), Error> {
    let Some(gateway) = gateways.iter().find(|gateway| gateway.is_ipv6()) else { return Ok(()) };
    let of = found.map_or("default", |bridge| bridge.name.as_str());
    match host.netlink.sysctl(&format!("ipv6/conf/{of}/disable_ipv6"))?.as_deref() {
        Some("0") => Ok(()),
        None => Err(Error::KernelWithoutIpv6 { bridge: spec.bridge.clone(), gateway: gateway.to_string() }),
        _ => Err(Error::NoIpv6 { bridge: spec.bridge.clone(), gateway: gateway.to_string(), of: of.into() }),
    }
}

/// Equivalent to `ip link add NAME type bridge`; it is still down, so no router advertisement can be taken.
fn create(host: &mut Host, spec: &Spec) -> Result<Link, Error> {
    let mtu = match spec.mtu {
        None if spec.inherit_mtu => uplink_mtu(host)?,
        configured => configured,
    };
    let request = Request::Bridge {
        name: spec.bridge.clone(),
        mac: bridge_mac(host, &spec.bridge, spec.owns_bridge),
        mtu,
        snooping: spec.snooping,
    };
    match host.netlink.send(&[request]) {
        // Another network of the same bridge was quicker.
        Err(netlink::Error::Request { errno, .. }) if errno == rustix::io::Errno::EXIST => {}
        other => other?,
    }
    find(host, spec)?.ok_or_else(|| Error::NotABridge { name: spec.bridge.clone() })
}

/// The MTU of the link that the default route leaves by.
fn uplink_mtu(host: &mut Host) -> Result<Option<u32>, Error> {
    let routes = host.netlink.routes()?;
    let default = routes.iter().find(|route| route.destination.prefix() == 0 && route.gateway.is_some());
    let Some(default) = default else { return Ok(None) };
    Ok(host.netlink.link_by_index(default.index)?.map(|link| link.mtu))
}

fn set_up(
    host: &mut Host,
    spec: &Spec,
    bridge: &Link,
    network: &Network,
    gateways: &[IpNetwork],
) -> Result<(), Error> {
    link::refuse_advertisements(host, &spec.bridge)?;
    failpoint::pass("add.advertisements")?;
    let mut requests = change_addresses(host, spec, bridge, network, gateways)?;
    let (index, name) = (bridge.index, spec.bridge.clone());
    requests.extend(pin_mac(host, bridge));
    if let Some(mtu) = spec.mtu.filter(|mtu| *mtu != bridge.mtu) {
        requests.push(Request::LinkMtu { index, name: name.clone(), mtu });
    }
    if spec.promiscuous {
        requests.push(Request::LinkPromisc { index, name: name.clone(), on: true });
    }
    requests.push(Request::LinkUp { index, name });
    host.netlink.send(&requests)?;
    failpoint::pass("add.gateway")?;
    let addresses = gateways.iter().map(IpNetwork::ip);
    forward::enable(host, spec, &spec.bridge, addresses).map_err(Error::of("failed to enable forwarding"))?;
    failpoint::pass("add.forward")
}

/// A bridge that others made takes over a port's MAC, unless it is told to keep its own.
fn pin_mac(host: &Host, bridge: &Link) -> Option<Request> {
    let is_ours =
        |mac: &Mac| [false, true].into_iter().any(|owns| *mac == bridge_mac(host, &bridge.name, owns));
    let mac = bridge.mac.filter(|mac| !is_ours(mac))?;
    Some(Request::LinkMac { index: bridge.index, name: bridge.name.clone(), mac })
}

/// What makes the bridge bear the gateways' addresses, and refuses or removes others as configured. The network's own
/// are no others: containers' routes lead there.
fn change_addresses(
    host: &mut Host,
    spec: &Spec,
    bridge: &Link,
    network: &Network,
    gateways: &[IpNetwork],
) -> Result<Vec<Request>, Error> {
    let is_own = |address: &IpNetwork| gateways.contains(address) || network.gateways.contains(address);
    let found: Vec<IpNetwork> =
        host.netlink.addresses(Some(bridge.index))?.into_iter().map(|found| found.address).collect();
    let (index, name) = (bridge.index, spec.bridge.clone());
    let mut requests = Vec::new();
    for gateway in gateways.iter().filter(|gateway| !found.contains(gateway)) {
        for other in found.iter().filter(|other| !is_own(other) && in_the_way(**other, *gateway)) {
            if !spec.force_address {
                return Err(Error::BridgeAddress { bridge: name, wanted: gateway.to_string() });
            }
            requests.push(Request::AddressDel { index, name: name.clone(), address: *other });
        }
        requests.push(Request::AddressAdd { index, name: name.clone(), address: *gateway });
    }
    Ok(requests)
}

/// Any other IPv4 address is, and an IPv6 address of an overlapping network.
fn in_the_way(found: IpNetwork, gateway: IpNetwork) -> bool {
    match (found, gateway) {
        (IpNetwork::V4(_), IpNetwork::V4(_)) => true,
        (IpNetwork::V6(found), IpNetwork::V6(gateway)) => {
            found.contains(gateway.network()) || gateway.contains(found.network())
        }
        _ => false,
    }
}

/// A bridge that others have put ports on, or that another network uses, stays.
pub fn remove(host: &mut Host, network: &Network) -> Result<(), Error> {
    let others = others_in_use(host, network)?;
    // A chain's other plugins know the bridge too; it is this one's to remove.
    let shared = others.iter().any(|other| other.bridge == network.bridge && other.name != network.name);
    let Some(bridge) = host.netlink.link(&network.bridge)? else { return Ok(()) };
    let has_ports = host.netlink.links()?.iter().any(|link| link.master == Some(bridge.index));
    if shared || has_ports || bridge.kind.as_deref() != Some("bridge") {
        return Ok(());
    }
    link::delete(host, bridge.index)
}
