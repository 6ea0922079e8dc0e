//! Containers that live while their lease or their record is gone: the state folder, or a part of it, was deleted.
//!
//! The kernel still shows them. Each has a veth pair whose host end is a port of the bridge and, if rnet made it, bears the
//! attachment's key as its alias. Addresses and MAC of the other end are asked for by the number that its namespace has
//! here, so nobody enters it. Nothing of this is asked on the usual way of ADD and DEL: only when the index of leases had to
//! be built anew, when the folder of MACs or a record is missing, and when the ruleset is made anew or is about to go.

use std::collections::HashSet;
use std::net::IpAddr;

use ipam::InUse;
use ipnetwork::IpNetwork;
use netlink::{Link, Mac, Netlink};
use nft::{Element, Owner};
use store::{Address, Id, LockName, Mode, Network, Record};

use crate::features::publish;
use crate::host_id::bridge_mac;
use crate::spec::{Addresses, Outcome, Spec, subnet};
use crate::{Error, Host, drivers, elements, features, flows, life, moments, network, ruleset};

/// Which addresses containers on `bridge` use, and those of rnet's that have lost their bridge.
pub fn in_use(bridge: &str) -> Result<Vec<InUse>, Error> {
    let mut netlink = Netlink::here()?;
    let index = netlink.link(bridge)?.map(|bridge| bridge.index);
    let counts = |port: &Link| match port.master {
        None => key(port).is_some(),
        master => master == index,
    };
    let mut found = Vec::new();
    for port in containers_ports(&mut netlink)?.into_iter().filter(counts) {
        let by = text(&port);
        let addresses = addresses_behind(&mut netlink, &port).into_iter();
        found.extend(addresses.map(|address| InUse { address: address.ip(), by: by.clone() }));
    }
    Ok(found)
}

/// The container on `bridge` that has `mac` and of which there is no record, in words.
pub fn holder_of_mac(host: &mut Host, bridge: &str, mac: store::Mac) -> Result<Option<String>, Error> {
    let Some(bridge) = host.netlink.link(bridge)? else { return Ok(None) };
    let ports = unrecorded(host)?.into_iter().filter(|port| port.master == Some(bridge.index));
    for port in ports {
        if mac_behind(&mut host.netlink, &port).is_some_and(|found| found.0 == mac.0) {
            return Ok(Some(text(&port)));
        }
    }
    Ok(None)
}

/// The folder of MACs was made anew: those on record are claimed again. What nobody has on record keeps the doubt.
pub fn claim_macs_again(host: &mut Host, own: &Record) -> Result<(), Error> {
    for record in host.store.records()?.iter().filter(|record| record.key() != own.key()) {
        if let (Some(bridge), Some(mac), Some(_)) = (&record.bridge, record.mac, &record.link) {
            host.store.claim_mac(bridge, mac, record)?;
        }
    }
    if unrecorded(host)?.is_empty() {
        host.store.forget_doubt_of_macs();
    }
    Ok(())
}

/// The host ends of containers that rnet has attached and of which there is no record.
pub fn unrecorded(host: &mut Host) -> Result<Vec<Link>, Error> {
    unrecorded_beside(host, [])
}

/// The same for a caller who has read these records: if they are of all ports, none is read again.
pub fn unrecorded_beside<'a>(
    host: &mut Host,
    records: impl IntoIterator<Item = &'a Record>,
) -> Result<Vec<Link>, Error> {
    let mut recorded: HashSet<String> = records.into_iter().filter_map(key_of_interface).collect();
    let mut ports = containers_ports(&mut host.netlink)?;
    ports.retain(|port| key(port).is_some_and(|key| !recorded.contains(key)));
    if ports.is_empty() {
        return Ok(ports);
    }
    host.store.each_record(|record| recorded.extend(key_of_interface(&record)))?;
    ports.retain(|port| key(port).is_some_and(|key| !recorded.contains(key)));
    Ok(ports)
}

/// Those of them on `bridge`.
pub fn unrecorded_on(host: &mut Host, bridge: &str) -> Result<Vec<Link>, Error> {
    let mut ports = unrecorded(host)?;
    if !ports.is_empty() {
        let index = host.netlink.link(bridge)?.map(|bridge| bridge.index);
        ports.retain(|port| index.is_some() && port.master == index);
    }
    Ok(ports)
}

/// Cuts such containers off a network, with their rules, and removes what was made for the network if nobody else is on it.
pub fn cut_off(host: &mut Host, network: &str, plugin: &str, bridge: &str) -> Result<(), Error> {
    let ports = unrecorded_on(host, bridge)?;
    let Some(plugin) = drivers::makers().find(|known| *known == plugin) else {
        return Ok(());
    };
    if ports.is_empty() {
        return Ok(());
    }
    let bare = Spec::bare(plugin, Id::of_network(network), Addresses::None);
    let is_rnet = plugin == "rnet";
    remember_network(
        host,
        &Spec { bridge: bridge.into(), owns_bridge: is_rnet, isolated: is_rnet, interop: is_rnet, ..bare },
    )?;
    for port in ports {
        netlink::delete_link(port.index, &[], true)?;
    }
    let lock = host.lock(LockName::Ruleset, Mode::Exclusive)?;
    ruleset::rebuild(host, &[])?;
    drop(lock);
    network::retire(host, network, plugin)
}

/// Refuses ports that such a container publishes on one address, as claims do for those on record. Only while claims may have
/// been lost: reads all published ports.
pub fn refuse_claimed(host: &mut Host, record: &Record) -> Result<(), Error> {
    let on_any: Vec<Element> = record.ports.iter().filter_map(publish::on_any_address).collect();
    if on_any.is_empty() || !host.store.are_macs_doubtful()? {
        return Ok(());
    }
    let of_lost = elements(host)?;
    for wanted in on_any {
        let clash = of_lost.iter().find(|(held, _)| elements::is_same_port_on_one_address(held, &wanted));
        if let Some((_, holder)) = clash {
            return Err(publish::taken(host, &wanted, Some(*holder)));
        }
    }
    Ok(())
}

/// The key of an attachment, if the record is that of the plugin that made its interface.
fn key_of_interface(record: &Record) -> Option<String> {
    drivers::makers().any(|plugin| plugin == record.plugin).then(|| record.key().to_string())
}

/// True if such a container is on one of a network's bridges.
pub fn is_on(host: &mut Host, network: &Network) -> Result<bool, Error> {
    let ports = unrecorded(host)?;
    if ports.is_empty() {
        return Ok(false);
    }
    for bridge in network.former.iter().chain([network]).map(|network| &network.bridge) {
        let index = host.netlink.link(bridge)?.map(|bridge| bridge.index);
        if index.is_some() && ports.iter().any(|port| port.master == index) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What the ruleset in the kernel holds for such containers and for their bridges: made anew without it, they would be more
/// open than before.
pub fn elements(host: &mut Host) -> Result<Vec<(Element, Owner)>, Error> {
    let ports = unrecorded(host)?;
    if ports.is_empty() {
        return Ok(Vec::new());
    }
    let mut owners: HashSet<Owner> = ports.iter().filter_map(|port| Owner::new(key(port)?)).collect();
    let bridges: HashSet<u32> = ports.iter().filter_map(|port| port.master).collect();
    for index in bridges {
        let bridge = host.netlink.link_by_index(index)?;
        owners.extend(bridge.and_then(|bridge| elements::owner_of_bridge(&bridge.name)));
    }
    // What another version of rnet wrote may not be readable.
    let found = host.firewall()?.elements().unwrap_or_default();
    let found: Vec<(Element, Owner)> =
        found.into_iter().filter_map(|(element, owner)| Some((element, owner?))).collect();
    let homes: HashSet<IpNetwork> = found
        .iter()
        .filter(|(_, owner)| owners.contains(owner))
        .filter_map(|(element, _)| match element {
            Element::Home { subnet, .. } => Some(*subnet),
            _ => None,
        })
        .collect();
    let is_kept = |(element, owner): &(Element, Owner)| match element {
        Element::Subnet { subnet } => homes.contains(subnet),
        _ => owners.contains(owner),
    };
    Ok(found.into_iter().filter(is_kept).collect())
}

/// The host end of the attachment that a record without any other knowledge is of, if rnet has made it.
pub fn port(host: &mut Host, unknown: &Record) -> Result<Option<Link>, Error> {
    let key = unknown.key();
    Ok(host.netlink.link(&key.link(0))?.filter(|link| link.alias.as_deref() == Some(key.as_str())))
}

/// The refusal of a second ADD for an attachment that lives and is not on record.
pub fn already_attached(record: &Record) -> Error {
    Error::AlreadyAttached {
        who: record.who().to_owned(),
        link: record.key().link(0),
        ifname: record.ifname.clone(),
        network: record.network.clone(),
        addresses: "its record was lost".into(),
    }
}

/// The undo of such an ADD: what it has itself, and nothing of the attachment that lives. `None` if it is not such a one.
pub fn undo(host: &mut Host, spec: &Spec, record: &Record, error: &Error) -> Result<Option<Error>, Error> {
    if !error.is_second() || port(host, record)?.is_none() {
        return Ok(None);
    }
    features::each(|feature| feature.release(host, record))?;
    // This error comes from making the link: the second ADD has leased an address of its own before.
    if matches!(error, Error::AlreadyAttached { .. }) {
        life::release_lease(host, &spec.addresses, record, &[])?;
    }
    host.store.remove_record(&record.network, &record.plugin, &record.key())?;
    Ok(Some(already_attached(record)))
}

/// How a container without a record is named to a person.
pub fn holder_text(host: &mut Host, key: &str) -> Option<String> {
    let port = unrecorded(host).ok()?.into_iter().find(|port| port.alias.as_deref() == Some(key))?;
    Some(text(&port))
}

/// Takes away what is left of an attachment for whose DEL there is no record: as far as its port, or what the runtime has
/// kept of ADD's result, proves that rnet made it. Returns what the rest of DEL goes by.
pub fn withdraw(
    host: &mut Host,
    spec: &Spec,
    previous: Option<&Outcome>,
    unknown: Record,
) -> Result<Record, Error> {
    let port = port(host, &unknown)?;
    let none = Outcome::default();
    let previous = previous.unwrap_or(&none);
    let ports = publish::resolve(&spec.ports, &previous.lease.addresses).unwrap_or_default();
    let record = Record { ports, ..fill_in(host, port.as_ref(), previous, unknown) };
    if port.is_none() && !elements::holds_own(host, &record)? {
        return Ok(record);
    }
    remember_network(host, spec)?;
    drivers::of(&record.plugin).silence(host, &record)?;
    // All in one transaction, while the port still proves whose they are: a DEL that is killed is repeated from here.
    let left = flows::addresses(host, &record)?;
    elements::purge_leaving(host, &record.plugin, &record.key(), &left)?;
    publish::close_unclaimed_loopback(host, &spec.bridge)?;
    Ok(record)
}

/// The same for a plugin that follows another in a list, and whose record would be `unknown`.
pub fn unpublish(host: &mut Host, unknown: &Record) -> Result<(), Error> {
    let port = port(host, unknown)?;
    if port.is_none() && !elements::holds_own(host, unknown)? {
        return Ok(());
    }
    elements::purge(host, &unknown.plugin, &unknown.key())?;
    let bridge = port.and_then(|port| port.master);
    let bridge = bridge.map(|index| host.netlink.link_by_index(index)).transpose()?.flatten();
    bridge.map_or(Ok(()), |bridge| publish::close_unclaimed_loopback(host, &bridge.name))
}

/// Addresses and MAC by the kernel, or, if there is no port any more, by the result of ADD.
fn fill_in(host: &mut Host, port: Option<&Link>, previous: &Outcome, unknown: Record) -> Record {
    if let Some(port) = port {
        let found = addresses_behind(&mut host.netlink, port).into_iter();
        let addresses = found.map(|address| Address { address, gateway: None }).collect();
        let mac = mac_behind(&mut host.netlink, port).map(|mac| store::Mac(mac.0));
        return Record { addresses, mac, ..unknown };
    }
    let inside = previous.inside(&unknown.ifname);
    let mac = inside.and_then(|inside| inside.mac.as_ref()?.parse::<Mac>().ok()).map(|mac| store::Mac(mac.0));
    Record { addresses: previous.lease.addresses.clone(), mac, ..unknown }
}

/// What the network would have on record, and what is on record of other firewalls: with its last container, what was made
/// for it goes.
fn remember_network(host: &mut Host, spec: &Spec) -> Result<(), Error> {
    let _lock = host.lock(LockName::Network(spec.id.network.clone()), Mode::Exclusive)?;
    if host.store.network(&spec.id.network, spec.plugin)?.is_some() {
        return Ok(());
    }
    let Some(bridge) = host.netlink.link(&spec.bridge)? else { return Ok(()) };
    let owns_bridge = spec.owns_bridge && bridge.mac == Some(bridge_mac(host, &spec.bridge, true));
    let found = host.netlink.addresses(Some(bridge.index))?.into_iter();
    let gateways: Vec<IpNetwork> =
        found.map(|found| found.address).filter(|address| !is_link_local(address.ip())).collect();
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

/// The host ends of veth pairs that lead into other namespaces.
fn containers_ports(netlink: &mut Netlink) -> Result<Vec<Link>, Error> {
    let mut veths = netlink.veths()?;
    veths.retain(|veth| veth.peer.is_some() && veth.peer_netnsid.is_some());
    Ok(veths)
}

/// The key that rnet gives its host ends as their alias.
pub fn key(port: &Link) -> Option<&str> {
    port.alias.as_deref().filter(|alias| Owner::new(alias).is_some())
}

/// Of the whole namespace: the container may have moved them to a bridge of its own. A namespace that may not be asked is
/// none of this user's containers.
fn addresses_behind(netlink: &mut Netlink, port: &Link) -> Vec<IpNetwork> {
    let found = port.peer_netnsid.and_then(|netns| netlink.all_addresses_in(netns).ok()).unwrap_or_default();
    let addresses = found.into_iter().map(|found| found.address);
    addresses.filter(|address| !address.ip().is_loopback() && !is_link_local(address.ip())).collect()
}

fn mac_behind(netlink: &mut Netlink, port: &Link) -> Option<Mac> {
    netlink.link_in(port.peer_netnsid?, port.peer?).ok()??.mac
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn text(port: &Link) -> String {
    format!("the container behind {}", port.name)
}
