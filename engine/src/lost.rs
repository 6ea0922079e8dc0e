//! A DEL for an attachment that lives, or has left something, and of which there is no record: the state folder, or a part of it,
//! was deleted. What the kernel and the caller still show says what is to go.

use ipnetwork::IpNetwork;
use netlink::{Link, Mac};
use store::{Address, LockName, Mode, Network, Record};

use crate::features::publish;
use crate::host_id::bridge_mac;
use crate::ip::{self, subnet};
use crate::spec::{Outcome, Spec};
use crate::{Error, Host, admission, flows, link, moments, unrecorded};

/// Takes away what is left of an attachment for whose DEL there is no record: as far as its port, or what the runtime has
/// kept of ADD's result, proves that rnet made it. Returns what the rest of DEL goes by.
pub fn withdraw(
    host: &mut Host,
    spec: &Spec,
    previous: Option<&Outcome>,
    unknown: Record,
) -> Result<Record, Error> {
    let port = unrecorded::port(host, &unknown)?;
    let none = Outcome::default();
    let previous = previous.unwrap_or(&none);
    let ports = publish::resolve(&spec.ports, &previous.lease.addresses).unwrap_or_default();
    let record = Record { ports, ..fill_in(host, port.as_ref(), previous, unknown) };
    if port.is_none() && !admission::holds_own(host, &record)? {
        return Ok(record);
    }
    remember_network(host, spec)?;
    link::silence(host, &record)?;
    // All in one transaction, while the port still proves whose they are: a DEL that is killed is repeated from here.
    let left = flows::addresses(host, &record)?;
    admission::purge_leaving(host, &record.plugin, &record.key(), &left)?;
    publish::close_unclaimed_loopback(host, &spec.bridge)?;
    Ok(record)
}

/// The same for a plugin that follows another in a list, and whose record would be `unknown`.
pub fn unpublish(host: &mut Host, unknown: &Record) -> Result<(), Error> {
    let port = unrecorded::port(host, unknown)?;
    if port.is_none() && !admission::holds_own(host, unknown)? {
        return Ok(());
    }
    admission::purge(host, &unknown.plugin, &unknown.key())?;
    let bridge = port.and_then(|port| port.master);
    let bridge = bridge.map(|index| host.netlink.link_by_index(index)).transpose()?.flatten();
    bridge.map_or(Ok(()), |bridge| publish::close_unclaimed_loopback(host, &bridge.name))
}

/// Addresses and MAC by the kernel, or, if there is no port any more, by the result of ADD.
fn fill_in(host: &mut Host, port: Option<&Link>, previous: &Outcome, unknown: Record) -> Record {
    if let Some(port) = port {
        let found = unrecorded::addresses_behind(&mut host.netlink, port).into_iter();
        let addresses = found.map(|address| Address { address, gateway: None }).collect();
        let mac = unrecorded::mac_behind(&mut host.netlink, port).map(|mac| store::Mac(mac.0));
        return Record { addresses, mac, ..unknown };
    }
    let inside = previous.inside(&unknown.ifname);
    let mac = inside.and_then(|inside| inside.mac.as_ref()?.parse::<Mac>().ok()).map(|mac| store::Mac(mac.0));
    Record { addresses: previous.lease.addresses.clone(), mac, ..unknown }
}

/// What the network would have on record, and what is on record of other firewalls: with its last container, what was made
/// for it goes.
pub(crate) fn remember_network(host: &mut Host, spec: &Spec) -> Result<(), Error> {
    let _lock = host.lock(LockName::Network(spec.id.network.clone()), Mode::Exclusive)?;
    if host.store.network(&spec.id.network, spec.plugin)?.is_some() {
        return Ok(());
    }
    if spec.bridge.is_empty() {
        let (name, plugin) = (spec.id.network.clone(), spec.plugin.into());
        let network = Network { name, plugin, no_interop: !spec.interop, ..Network::default() };
        return Ok(host.store.write_network(&network)?);
    }
    let Some(bridge) = host.netlink.link(&spec.bridge)? else { return Ok(()) };
    let owns_bridge = spec.owns_bridge && bridge.mac == Some(bridge_mac(host, &spec.bridge, true));
    let found = host.netlink.addresses(Some(bridge.index))?.into_iter();
    let gateways: Vec<IpNetwork> =
        found.map(|found| found.address).filter(|address| !ip::is_link_local(address.ip())).collect();
    let subnets: Vec<IpNetwork> = gateways.iter().map(|gateway| subnet(*gateway)).collect();
    let askable = gateways.iter().map(IpNetwork::ip).collect();
    let network = Network {
        name: spec.id.network.clone(),
        plugin: spec.plugin.into(),
        bridge: spec.bridge.clone(),
        owns_bridge,
        isolated: spec.isolated,
        no_interop: !spec.interop,
        zone: spec.names.as_ref().map(|names| names.zone(askable, subnets.clone())),
        subnets,
        gateways: if owns_bridge { gateways } else { Vec::new() },
        ..Network::default()
    };
    host.store.write_network(&network)?;
    moments::network_comes(host)
}
