//! Records as elements of the ruleset: what an attachment and a network put into it, and when all is rebuilt.
//!
//! The ruleset's text never changes. Networks and attachments add elements, so everything that belongs into
//! the kernel can be told from the records alone.

use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use nft::{Element, Owner, Protocol};
use store::{Key, Lock, LockName, Mode, Network, NetworkKey, Record, Stage};

use crate::features::{self, FEATURES, names, publish};
use crate::{Error, Host, failpoint, flows, lost, moments, network, ruleset};

/// Puts an attachment's elements into the ruleset. The lock that comes back is to be held until the record is
/// committed: a rebuild in between would not know of them.
///
/// # Errors
/// A living attachment has what one of them is for, or the kernel refuses it.
pub fn admit(host: &mut Host, record: &mut Record) -> Result<Option<Lock>, Error> {
    let _locks = locks(host, record)?;
    let mut ruleset = loop {
        match put(host, record) {
            Err(refusal) if settle(host, record, &refusal)? => {}
            other => break other?,
        }
    };
    failpoint::pass("add.rules")?;
    features::each(|feature| feature.confirm(host, record, &mut ruleset))?;
    failpoint::pass("add.conntrack")?;
    Ok(ruleset)
}

fn locks(host: &Host, record: &Record) -> Result<Vec<Lock>, Error> {
    FEATURES.iter().filter_map(|feature| feature.lock(host, record).transpose()).collect()
}

/// True if a feature has settled a refusal. Each settles one only so often, so this ends.
fn settle(host: &mut Host, record: &mut Record, refusal: &Error) -> Result<bool, Error> {
    for feature in FEATURES {
        if feature.settle(host, record, refusal)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// None for an attachment without elements.
fn put(host: &mut Host, record: &mut Record) -> Result<Option<Lock>, Error> {
    let elements = attachment(record);
    if elements.is_empty() {
        let needs_rules = FEATURES.iter().any(|feature| feature.needs_rules(record));
        return if needs_rules { ruleset::confirm(host).map(Some) } else { Ok(None) };
    }
    features::each(|feature| feature.reserve(host, record))?;
    let lock = ruleset::put(host, &elements, &elements)?;
    flows::take_over(host, record)?;
    Ok(Some(lock))
}

/// Takes an attachment's elements out again, also if another has its address by now.
///
/// # Errors
/// Something could not be taken out.
pub fn dismiss(host: &mut Host, record: &Record) -> Result<(), Error> {
    let elements = attachment(record);
    if elements.is_empty() {
        return failpoint::pass("del.rules");
    }
    // An ADD that did not come so far, because another call holds the locks, must not need them for its undo.
    if record.stage == Stage::Committed || holds_any(host, record)? {
        withdraw(host, record, &elements)?;
    } else if !record.addresses.is_empty() {
        // One that was killed when its elements were gone left the flows to this one.
        flows::finish(host, record, &[])?;
    }
    failpoint::pass("del.conntrack")
}

/// True if anything that a record tells of is in the ruleset, and its own.
pub fn holds_own(host: &mut Host, record: &Record) -> Result<bool, Error> {
    let elements = attachment(record);
    let keys: Vec<Element> = elements.iter().map(|(element, _)| element.clone()).collect();
    if keys.is_empty() {
        return Ok(false);
    }
    let owners = host.firewall()?.owners(&keys)?;
    Ok(owners.iter().zip(&elements).any(|(found, (_, owner))| found.as_ref() == Some(owner)))
}

fn is_anothers(host: &mut Host, record: &Record) -> Result<bool, Error> {
    let (keys, own): (Vec<Element>, Vec<Owner>) = attachment(record).into_iter().unzip();
    let owners = host.firewall()?.owners(&keys)?;
    Ok(owners.into_iter().zip(own).any(|(found, own)| found.is_some_and(|found| found != own)))
}

/// True if anything of an attachment is in the ruleset or claimed.
fn holds_any(host: &mut Host, record: &Record) -> Result<bool, Error> {
    if holds_own(host, record)? {
        return Ok(true);
    }
    for feature in FEATURES {
        if feature.holds_any(host, record)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn withdraw(host: &mut Host, record: &Record, elements: &[(Element, Owner)]) -> Result<(), Error> {
    let _locks = locks(host, record)?;
    let _ruleset = host.lock(LockName::Ruleset, Mode::Shared)?;
    // From here on a rebuild must not bring them back. Freeing must not depend on a disk that is full, though.
    let _ = host.store.write_record(&Record { stage: Stage::Intent, ..record.clone() });
    let left = flows::addresses(host, record)?;
    if ruleset::withdraw(host, elements, &left)? {
        host.has_stale |= !left.is_empty();
    } else if !is_anothers(host, record)? {
        // Where it held nothing any more, its elements may be another's, and then so are the flows.
        flows::finish(host, record, &left)?;
    }
    failpoint::pass("del.rules")?;
    features::each(|feature| feature.free(host, record))
}

/// Takes out whatever a plugin has put in under an attachment's key, and its claims: for an attachment whose record
/// cannot be read any more. Reads all elements.
pub fn purge(host: &mut Host, plugin: &str, key: &Key) -> Result<(), Error> {
    purge_leaving(host, plugin, key, &[])
}

/// The same for a container that leaves addresses behind.
pub fn purge_leaving(host: &mut Host, plugin: &str, key: &Key, left: &[IpAddr]) -> Result<(), Error> {
    let _ports = host.lock(LockName::Ports, Mode::Exclusive)?;
    let _ruleset = host.lock(LockName::Ruleset, Mode::Shared)?;
    let own = owner(key);
    let found = host.firewall()?.elements()?.into_iter();
    let found = found.filter(|(element, owner)| *owner == own && is_put_in_by(plugin, element));
    let elements: Vec<_> = found.filter_map(|(element, owner)| Some((element, owner?))).collect();
    if ruleset::withdraw(host, &elements, left)? {
        host.has_stale |= !left.is_empty();
    }
    if plugin == "portmap" || plugin == "rnet" { publish::release_all(host, key) } else { Ok(()) }
}

/// In a chain one plugin attaches and another publishes, under the same key.
fn is_put_in_by(plugin: &str, element: &Element) -> bool {
    match element {
        Element::Publish { .. }
        | Element::Except { .. }
        | Element::Published { .. }
        | Element::MasqueradeAll { .. } => plugin == "portmap" || plugin == "rnet",
        _ => plugin == "bridge" || plugin == "rnet",
    }
}

/// Puts the elements of a network that is on record into the ruleset, those that are not there yet: other networks of
/// its bridge have the same.
pub fn admit_network(host: &mut Host, network: &Network) -> Result<(), Error> {
    let elements = network_elements(network);
    let asks_for_rules = elements.iter().any(|(element, _)| !is_interval(element));
    match admit_elements(host, elements) {
        // A bridge that asks for none works without them, as the reference plugin's does.
        Err(Error::Nft(error)) if !asks_for_rules && error.missing().is_some() => Ok(()),
        other => other,
    }
}

fn admit_elements(host: &mut Host, elements: Vec<(Element, Owner)>) -> Result<(), Error> {
    if elements.is_empty() {
        return Ok(());
    }
    if has_covered(host, &elements)? {
        // The kernel takes no subnet beside one that it overlaps, so one has to go for the other.
        let _lock = host.lock(LockName::Ruleset, Mode::Exclusive)?;
        return ruleset::rebuild(host, &[]);
    }
    if host.firewall()?.holds(&elements)? {
        return ruleset::confirm(host).map(drop);
    }
    let keys: Vec<Element> = elements.iter().map(|(element, _)| element.clone()).collect();
    let owners = host.firewall()?.owners(&keys)?;
    let missing = elements.into_iter().zip(owners).filter(|(_, owner)| owner.is_none());
    let missing: Vec<_> = missing.map(|(element, _)| element).collect();
    // What leads elsewhere, because a call was killed half-way, is replaced with all the rest.
    if missing.is_empty() { ruleset::restore(host) } else { ruleset::put(host, &missing, &[]).map(drop) }
}

/// The same for a network that was another `before`.
pub fn change_network(host: &mut Host, before: &Network, after: &Network) -> Result<(), Error> {
    let new = network_elements(after);
    let gone: Vec<_> = network_elements(before).into_iter().filter(|old| !new.contains(old)).collect();
    if !gone.is_empty() {
        let _lock = host.lock(LockName::Ruleset, Mode::Shared)?;
        ruleset::remove(host, &gone)?;
    }
    admit_network(host, after)
}

/// Takes a network's elements out; with the last network our tables go too.
pub fn dismiss_network(host: &mut Host, network: &Network) -> Result<(), Error> {
    let _lock = host.lock(LockName::Ruleset, Mode::Exclusive)?;
    let others = network::others_in_use(host, network)?;
    // Containers of which there is no record still need their guards.
    if others.is_empty() && lost::unrecorded(host)?.is_empty() {
        flows::tables_go(host)?;
        ruleset::forget(host)?;
        moments::last_network_goes(host)?;
        return host.note_deletion();
    }
    moments::network_goes(host, network)?;
    let elements = elements_of_it_alone(network, &others);
    if elements.is_empty() {
        return Ok(());
    }
    ruleset::remove(host, &elements)?;
    let uncovered =
        of_all(&others).into_iter().filter(|(home, _)| elements.iter().any(|(gone, _)| home.is_within(gone)));
    let uncovered: Vec<_> = uncovered.collect();
    if uncovered.is_empty() { Ok(()) } else { ruleset::write(host, |firewall| firewall.add(&uncovered)) }
}

/// True if a subnet of one of these lies in another that its bridge has, or the reverse.
fn has_covered(host: &Host, elements: &[(Element, Owner)]) -> Result<bool, Error> {
    let homes: Vec<&Element> =
        elements.iter().map(|(element, _)| element).filter(|one| is_interval(one)).collect();
    if homes.is_empty() {
        return Ok(false);
    }
    let all: Vec<_> = host.store.networks()?.iter().flat_map(network_elements).collect();
    Ok(all.iter().any(|(other, _)| homes.iter().any(|home| home.is_within(other) || other.is_within(home))))
}

fn is_interval(element: &Element) -> bool {
    matches!(element, Element::Home { .. } | Element::Subnet { .. })
}

/// A chain's plugins remember the same network, and networks may share a bridge: what others ask for too stays.
fn elements_of_it_alone(network: &Network, others: &[Network]) -> Vec<(Element, Owner)> {
    let shared: Vec<_> = others.iter().flat_map(network_elements).collect();
    let is_shared = |element: &Element| {
        shared.iter().any(|(other, _)| has_key_of(other, element) || element.is_within(other))
    };
    network_elements(network).into_iter().filter(|(element, _)| !is_shared(element)).collect()
}

/// True if both have one key in the kernel. Of two networks of one gateway, one may not have heard yet where the questions
/// to its port 53 go.
fn has_key_of(one: &Element, other: &Element) -> bool {
    host_port(one).map_or(one == other, |known| host_port(other) == Some(known))
}

/// True if both publish one port, whatever they lead to.
pub fn is_same_port(one: &Element, other: &Element) -> bool {
    host_port(one).is_some() && has_key_of(one, other)
}

/// True if one publishes on an address of the host what the other publishes on all.
pub fn is_same_port_on_one_address(one: &Element, on_any: &Element) -> bool {
    let apart = |(_, protocol, port, v4): (Option<IpAddr>, Protocol, u16, bool)| (protocol, port, v4);
    matches!(one, Element::Publish { host: Some(_), .. })
        && host_port(one).map(apart) == host_port(on_any).map(apart)
}

/// The key of a published port in the kernel: IPv4 and IPv6 have maps of their own.
fn host_port(element: &Element) -> Option<(Option<IpAddr>, Protocol, u16, bool)> {
    match element {
        Element::Publish { host, protocol, host_port, to } => {
            Some((*host, *protocol, *host_port, to.is_ipv4()))
        }
        _ => None,
    }
}

/// Every element that the records ask for.
pub fn desired(host: &Host) -> Result<Vec<(Element, Owner)>, Error> {
    let networks = host.store.networks()?;
    let records = host.store.records()?;
    let committed = records.iter().filter(|record| record.stage == Stage::Committed);
    Ok(of_all(&networks).into_iter().chain(committed.flat_map(attachment)).collect())
}

/// The elements of all networks; where one has heard that questions to its gateway go elsewhere, nobody keeps them there.
/// Of subnets that lie in one another on a bridge it is the widest.
pub fn of_all(networks: &[Network]) -> Vec<(Element, Owner)> {
    let mut elements: Vec<_> = networks.iter().flat_map(network_elements).collect();
    let zones = networks.iter().filter_map(|network| network.zone.as_ref());
    let moved: Vec<IpAddr> = zones.flat_map(|zone| &zone.moved).map(SocketAddr::ip).collect();
    let is_rival = |element: &Element| match element {
        Element::Publish { to, .. } => to.port() == names::PORT && moved.contains(&to.ip()),
        _ => false,
    };
    elements.retain(|(element, _)| !is_rival(element));
    let homes = elements.iter().map(|(element, _)| element.clone());
    let homes: Vec<Element> = homes.filter(is_interval).collect();
    elements.retain(|(element, _)| !homes.iter().any(|whole| element.is_within(whole)));
    elements
}

/// The elements of one attachment, each owned by its key.
pub fn attachment(record: &Record) -> Vec<(Element, Owner)> {
    let Some(owner) = owner(&record.key()) else { return Vec::new() };
    let elements = FEATURES.iter().flat_map(|feature| feature.elements(record));
    elements.map(|element| (element, owner)).collect()
}

/// The elements of one network and of what it was: networks that share a bridge share them.
pub fn network_elements(network: &Network) -> Vec<(Element, Owner)> {
    let bridges = network.former.iter().chain([network]).flat_map(homes);
    let of_features = FEATURES.iter().flat_map(|feature| feature.network_elements(network));
    bridges.chain(of_features).collect()
}

/// Which subnets live on its bridge.
fn homes(network: &Network) -> Vec<(Element, Owner)> {
    let Some(owner) = owner_of_bridge(&network.bridge) else { return Vec::new() };
    let home = |subnet: &IpNetwork| Element::Home { subnet: *subnet, bridge: network.bridge.clone() };
    let homes = network.subnets.iter().map(home).map(|element| (element, owner));
    homes.chain(subnets(network)).collect()
}

/// The subnets whose addresses come in by their bridge only. Of a network that others attach to nobody knows all ways in.
fn subnets(network: &Network) -> Vec<(Element, Owner)> {
    // Several bridges may have one subnet, and no name of a bridge has a blank.
    let owner = Owner::new(NetworkKey::new("all subnets").as_str()).filter(|_| network.plugin != "portmap");
    let element = |subnet: &IpNetwork| Some((Element::Subnet { subnet: *subnet }, owner?));
    network.subnets.iter().filter_map(element).collect()
}

/// The owner that the elements of the networks on a bridge bear.
pub fn owner_of_bridge(bridge: &str) -> Option<Owner> {
    Owner::new(NetworkKey::new(bridge).as_str())
}

/// The owner that an attachment's elements bear.
pub fn owner(key: &Key) -> Option<Owner> {
    Owner::new(key.as_str())
}
