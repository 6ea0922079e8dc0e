//! A network on the host: its bridge, the gateway's addresses, forwarding, and their end.

use std::net::IpAddr;

use cni::CniResult;
use ipnetwork::IpNetwork;
use netlink::{Link, Mac, Request};
use store::{Lock, LockName, Mode, Network, NetworkKey};

use crate::plan::{Plan, hashed_mac, subnet};
use crate::{Error, Host, failpoint, firewall, link};

/// A network that stays while this is held.
pub struct Held {
    /// Its bridge.
    pub bridge: Link,
    _lock: Lock,
}

/// Makes sure that the network's bridge is there as planned, and keeps it there.
///
/// The first attachment makes it, alone; all others share the network and find it ready.
pub fn hold(host: &mut Host, plan: &Plan, lease: &CniResult) -> Result<Held, Error> {
    let gateways = plan.gateways(lease)?;
    let mut lock = host.lock(lock_name(plan), Mode::Shared)?;
    loop {
        if let Some(bridge) = ready(host, plan, &gateways)? {
            return Ok(Held { bridge, _lock: lock });
        }
        lock.change(Mode::Exclusive)?;
        if ready(host, plan, &gateways)?.is_none() {
            let bridge = make(host, plan, lease, &gateways)?;
            return Ok(Held { bridge, _lock: lock });
        }
        lock.change(Mode::Shared)?;
    }
}

/// Removes what was made for a network that has lost its last attachment, unless another has come meanwhile.
pub fn retire(host: &mut Host, name: &str, plugin: &str) -> Result<(), Error> {
    let lock = host.lock(LockName::Network(NetworkKey::new(name)), Mode::Exclusive)?;
    if host.store.has_records(name, plugin)? {
        return Ok(());
    }
    let Some(network) = host.store.network(name, plugin)? else { return Ok(()) };
    firewall::dismiss_network(host, &network)?;
    if network.owns_bridge {
        remove_bridge(host, &network)?;
    }
    failpoint::pass("del.bridge")?;
    host.store.remove_network(name, plugin)?;
    Ok(host.store.retire(lock)?)
}

fn lock_name(plan: &Plan) -> LockName {
    LockName::Network(NetworkKey::new(&plan.network))
}

/// The bridge, if nothing is left to do for it.
fn ready(host: &mut Host, plan: &Plan, gateways: &[IpNetwork]) -> Result<Option<Link>, Error> {
    if host.store.network(&plan.network, plan.plugin)?.is_none() {
        return Ok(None);
    }
    let Some(bridge) = find(host, plan)? else { return Ok(None) };
    let fits = bridge.up && plan.mtu.is_none_or(|mtu| mtu == bridge.mtu);
    let ready = fits && (!plan.promiscuous || bridge.promisc) && has_addresses(host, &bridge, gateways)?;
    Ok(ready.then_some(bridge))
}

fn has_addresses(host: &mut Host, bridge: &Link, wanted: &[IpNetwork]) -> Result<bool, Error> {
    if wanted.is_empty() {
        return Ok(true);
    }
    let found = host.netlink.addresses(Some(bridge.index))?;
    Ok(wanted.iter().all(|address| found.iter().any(|found| found.address == *address)))
}

fn find(host: &mut Host, plan: &Plan) -> Result<Option<Link>, Error> {
    match host.netlink.link(&plan.bridge)? {
        Some(link) if link.kind.as_deref() != Some("bridge") => {
            Err(Error::NotABridge { name: plan.bridge.clone() })
        }
        other => Ok(other),
    }
}

fn make(host: &mut Host, plan: &Plan, lease: &CniResult, gateways: &[IpNetwork]) -> Result<Link, Error> {
    let found = find(host, plan)?;
    let known = host.store.network(&plan.network, plan.plugin)?;
    let network = Network {
        name: plan.network.clone(),
        plugin: plan.plugin.into(),
        bridge: plan.bridge.clone(),
        owns_bridge: plan.owns_bridge && (found.is_none() || known.is_some_and(|known| known.owns_bridge)),
        subnets: lease.ips.iter().map(|ip| subnet(ip.address)).filter(|_| plan.masquerade || plan.isolated).collect(),
        isolated: plan.isolated,
    };
    // Written first: whoever finds the bridge after a crash must know whose it is.
    host.store.write_network(&network)?;
    let bridge = match found {
        Some(bridge) => bridge,
        None => create(host, plan)?,
    };
    failpoint::pass("add.bridge")?;
    set_up(host, plan, &bridge, gateways)?;
    firewall::admit_network(host, &network)?;
    failpoint::pass("add.address")?;
    Ok(Link { up: true, mtu: plan.mtu.unwrap_or(bridge.mtu), ..bridge })
}

/// Equivalent to `ip link add NAME type bridge`; it is still down, so no router advertisement can be taken.
fn create(host: &mut Host, plan: &Plan) -> Result<Link, Error> {
    let mtu = match plan.mtu {
        None if plan.inherit_mtu => uplink_mtu(host)?,
        configured => configured,
    };
    let request = Request::Bridge { name: plan.bridge.clone(), mac: bridge_mac(&plan.bridge), mtu };
    match host.netlink.send(&[request]) {
        // Another network of the same bridge was quicker.
        Err(netlink::Error::Request { errno, .. }) if errno == rustix::io::Errno::EXIST => {}
        other => other?,
    }
    find(host, plan)?.ok_or_else(|| Error::NotABridge { name: plan.bridge.clone() })
}

/// Fixed, so that it does not change with the first port, and out of the name, so that it comes back the same.
fn bridge_mac(name: &str) -> Mac {
    hashed_mac(0x06, NetworkKey::new(name).as_str())
}

/// The MTU of the link that the default route leaves by.
fn uplink_mtu(host: &mut Host) -> Result<Option<u32>, Error> {
    let routes = host.netlink.routes()?;
    let default = routes.iter().find(|route| route.destination.prefix() == 0 && route.gateway.is_some());
    let Some(default) = default else { return Ok(None) };
    Ok(host.netlink.link_by_index(default.index)?.map(|link| link.mtu))
}

fn set_up(host: &mut Host, plan: &Plan, bridge: &Link, gateways: &[IpNetwork]) -> Result<(), Error> {
    host.netlink.set_sysctl(&format!("ipv6/conf/{}/accept_ra", plan.bridge), "0")?;
    let mut requests = change_addresses(host, plan, bridge, gateways)?;
    let (index, name) = (bridge.index, plan.bridge.clone());
    if let Some(mtu) = plan.mtu.filter(|mtu| *mtu != bridge.mtu) {
        requests.push(Request::LinkMtu { index, name: name.clone(), mtu });
    }
    if plan.promiscuous {
        requests.push(Request::LinkPromisc { index, name: name.clone(), on: true });
    }
    requests.push(Request::LinkUp { index, name });
    host.netlink.send(&requests)?;
    forward(host, plan, gateways)
}

/// What makes the bridge bear the gateways' addresses, and refuses or removes others as configured.
fn change_addresses(
    host: &mut Host,
    plan: &Plan,
    bridge: &Link,
    gateways: &[IpNetwork],
) -> Result<Vec<Request>, Error> {
    let found: Vec<IpNetwork> =
        host.netlink.addresses(Some(bridge.index))?.into_iter().map(|found| found.address).collect();
    let (index, name) = (bridge.index, plan.bridge.clone());
    let mut requests = Vec::new();
    for gateway in gateways.iter().filter(|gateway| !found.contains(gateway)) {
        for other in found.iter().filter(|other| in_the_way(**other, *gateway)) {
            if !plan.force_address {
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

/// Turns forwarding on for the families that have a gateway. A setting that is right is not written, so that a
/// read-only /proc/sys does no harm.
fn forward(host: &mut Host, plan: &Plan, gateways: &[IpNetwork]) -> Result<(), Error> {
    if gateways.iter().any(|gateway| gateway.is_ipv4()) {
        host.netlink.set_sysctl("ipv4/ip_forward", "1")?;
    }
    if gateways.iter().any(|gateway| matches!(gateway.ip(), IpAddr::V6(_))) {
        forward_v6(host, plan)?;
    }
    Ok(())
}

/// `conf.all.forwarding` makes interfaces ignore router advertisements. Since Linux 6.17 `force_forwarding`
/// forwards without that; before, an uplink that lives by advertisements is a reason to refuse.
fn forward_v6(host: &mut Host, plan: &Plan) -> Result<(), Error> {
    if host.netlink.sysctl("ipv6/conf/all/forwarding")?.as_deref() == Some("1") {
        return Ok(());
    }
    if host.netlink.sysctl("ipv6/conf/all/force_forwarding")?.is_some() {
        host.netlink.set_sysctl("ipv6/conf/all/force_forwarding", "1")?;
        return Ok(());
    }
    if let Some(link) = lives_by_advertisements(host, &plan.bridge)? {
        return Err(Error::ForwardingHarms { link });
    }
    host.netlink.set_sysctl("ipv6/conf/all/forwarding", "1")?;
    Ok(())
}

fn lives_by_advertisements(host: &mut Host, bridge: &str) -> Result<Option<String>, Error> {
    let routes = host.netlink.routes()?;
    let defaults =
        routes.iter().filter(|route| route.destination.is_ipv6() && route.destination.prefix() == 0);
    for index in defaults.map(|route| route.index) {
        let Some(link) = host.netlink.link_by_index(index)? else { continue };
        let accepts = host.netlink.sysctl(&format!("ipv6/conf/{}/accept_ra", link.name))?;
        if link.name != bridge && accepts.as_deref() == Some("1") {
            return Ok(Some(link.name));
        }
    }
    Ok(None)
}

/// A bridge that others have put ports on, or that another network uses, stays.
fn remove_bridge(host: &mut Host, network: &Network) -> Result<(), Error> {
    let shared = host
        .store
        .networks()?
        .iter()
        .any(|other| other.bridge == network.bridge && other.name != network.name);
    let Some(bridge) = host.netlink.link(&network.bridge)? else { return Ok(()) };
    let has_ports = host.netlink.links()?.iter().any(|link| link.master == Some(bridge.index));
    if shared || has_ports || bridge.kind.as_deref() != Some("bridge") {
        return Ok(());
    }
    link::delete(host, bridge.index)
}
