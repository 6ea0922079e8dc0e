//! Records as elements of the ruleset: what an attachment and a network put into it, and when all is rebuilt.
//!
//! The ruleset's text never changes. Networks and attachments add elements, so everything that belongs into
//! the kernel can be told from the records alone.

use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use nft::{Element, Owner};
use store::{Network, NetworkKey, Record, Stage};

use crate::features::FEATURES;
use crate::held::is_in_use;
use crate::keys::{has_key_of, owner, owner_of_bridge};
use crate::served::PORT;
use crate::{Error, Host};

pub(crate) fn is_interval(element: &Element) -> bool {
    matches!(element, Element::Home { .. } | Element::Subnet { .. })
}

/// A chain's plugins remember the same network, and networks may share a bridge: what others ask for too stays.
pub(crate) fn elements_of_it_alone(network: &Network, others: &[Network]) -> Vec<(Element, Owner)> {
    let shared: Vec<_> = others.iter().flat_map(network_elements).collect();
    let is_shared = |element: &Element| {
        shared.iter().any(|(other, _)| has_key_of(other, element) || element.is_within(other))
    };
    network_elements(network).into_iter().filter(|(element, _)| !is_shared(element)).collect()
}

/// Every element that the records ask for.
///
/// # Errors
/// The records cannot be read.
pub fn desired(host: &mut Host) -> Result<Vec<(Element, Owner)>, Error> {
    let records = host.store.records()?;
    desired_by(host, &records)
}

/// The same for a caller who has read the records.
///
/// # Errors
/// The networks on record cannot be read.
pub fn desired_by(host: &mut Host, records: &[Record]) -> Result<Vec<(Element, Owner)>, Error> {
    let mut networks = Vec::new();
    for network in host.store.networks()? {
        // A network that goes is on record until all of it is gone. Its elements go first, and must not come back.
        if is_in_use(host, &network)? {
            networks.push(network);
        }
    }
    let committed = records.iter().filter(|record| record.stage == Stage::Committed);
    let mut desired = of_all(&networks);
    let attachments = uncovered(committed.flat_map(attachment).collect(), &desired);
    desired.extend(attachments);
    Ok(desired)
}

/// The elements of all networks; where one has heard that questions to its gateway go elsewhere, nobody keeps them there.
/// Of subnets that lie in one another on a bridge it is the widest.
pub fn of_all(networks: &[Network]) -> Vec<(Element, Owner)> {
    let mut elements: Vec<_> = networks.iter().flat_map(network_elements).collect();
    let zones = networks.iter().filter_map(|network| network.zone.as_ref());
    let moved: Vec<IpAddr> = zones.flat_map(|zone| &zone.moved).map(SocketAddr::ip).collect();
    let is_rival = |element: &Element| match element {
        Element::Publish { to, .. } => to.port() == PORT && moved.contains(&to.ip()),
        _ => false,
    };
    elements.retain(|(element, _)| !is_rival(element));
    let homes = elements.iter().map(|(element, _)| element.clone());
    let homes: Vec<Element> = homes.filter(is_interval).collect();
    elements.retain(|(element, _)| !homes.iter().any(|whole| element.is_within(whole)));
    elements
}

/// The elements of attachments without those that lie in an interval of the networks' elements: the kernel takes no such pair, and
/// the wider one says the same.
pub fn uncovered(
    mut attachments: Vec<(Element, Owner)>,
    networks: &[(Element, Owner)],
) -> Vec<(Element, Owner)> {
    let intervals: Vec<&Element> =
        networks.iter().map(|(element, _)| element).filter(|element| is_interval(element)).collect();
    attachments
        .retain(|(element, _)| !intervals.iter().any(|whole| element == *whole || element.is_within(whole)));
    attachments
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
