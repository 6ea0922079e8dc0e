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
use store::{Network, Record};

use crate::keys::owner_of_bridge;
use crate::{Error, Host};

/// Which addresses containers on `bridge` use, and those of rnet's that have lost their bridge.
///
/// # Errors
/// The kernel or the records cannot be read.
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
///
/// # Errors
/// The kernel or the records cannot be read.
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
///
/// # Errors
/// The kernel or the records cannot be read.
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
///
/// # Errors
/// The kernel or the records cannot be read.
pub fn unrecorded(host: &mut Host) -> Result<Vec<Link>, Error> {
    unrecorded_beside(host, [])
}

/// The same for a caller who has read these records: if they are of all ports, none is read again.
///
/// # Errors
/// The kernel or the records cannot be read.
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
///
/// # Errors
/// The kernel or the records cannot be read.
pub fn unrecorded_on(host: &mut Host, bridge: &str) -> Result<Vec<Link>, Error> {
    let mut ports = unrecorded(host)?;
    if !ports.is_empty() {
        let index = host.netlink.link(bridge)?.map(|bridge| bridge.index);
        ports.retain(|port| index.is_some() && port.master == index);
    }
    Ok(ports)
}

/// The key of an attachment, if the record is of an interface that rnet made.
fn key_of_interface(record: &Record) -> Option<String> {
    record.link.is_some().then(|| record.key().to_string())
}

/// True if such a container is on one of a network's bridges.
///
/// # Errors
/// The kernel or the records cannot be read.
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
///
/// # Errors
/// The kernel or the records cannot be read.
pub fn elements(host: &mut Host) -> Result<Vec<(Element, Owner)>, Error> {
    let ports = unrecorded(host)?;
    if ports.is_empty() {
        return Ok(Vec::new());
    }
    let mut owners: HashSet<Owner> = ports.iter().filter_map(|port| Owner::new(key(port)?)).collect();
    let bridges: HashSet<u32> = ports.iter().filter_map(|port| port.master).collect();
    for index in bridges {
        let bridge = host.netlink.link_by_index(index)?;
        owners.extend(bridge.and_then(|bridge| owner_of_bridge(&bridge.name)));
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
///
/// # Errors
/// The kernel or the records cannot be read.
pub fn port(host: &mut Host, unknown: &Record) -> Result<Option<Link>, Error> {
    let key = unknown.key();
    Ok(host.netlink.link(&key.link(0))?.filter(|link| link.alias.as_deref() == Some(key.as_str())))
}

/// How a container without a record is named to a person.
pub fn holder_text(host: &mut Host, key: &str) -> Option<String> {
    let port = unrecorded(host).ok()?.into_iter().find(|port| port.alias.as_deref() == Some(key))?;
    Some(text(&port))
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
pub(crate) fn addresses_behind(netlink: &mut Netlink, port: &Link) -> Vec<IpNetwork> {
    let found = port.peer_netnsid.and_then(|netns| netlink.all_addresses_in(netns).ok()).unwrap_or_default();
    let addresses = found.into_iter().map(|found| found.address);
    addresses.filter(|address| !address.ip().is_loopback() && !is_link_local(address.ip())).collect()
}

pub(crate) fn mac_behind(netlink: &mut Netlink, port: &Link) -> Option<Mac> {
    netlink.link_in(port.peer_netnsid?, port.peer?).ok()??.mac
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn text(port: &Link) -> String {
    format!("the container behind {}", port.name)
}
