//! Networks do not reach one another, and from outside only published ports are reached.

use nft::{Element, Owner};
use store::{Network, Record};

use crate::feature::Feature;
use crate::keys::owner_of_bridge;

/// The feature of this file.
pub struct Isolate;

impl Feature for Isolate {
    /// Of a network that was on another bridge before, containers may be there still.
    fn network_elements(&self, network: &Network) -> Vec<(Element, Owner)> {
        let isolated = network.former.iter().chain([network]).filter(|network| network.isolated);
        let element = |network: &Network| {
            let bridge = network.bridge.clone();
            Some((Element::Isolated { bridge }, owner_of_bridge(&network.bridge)?))
        };
        isolated.filter_map(element).collect()
    }

    /// What keeps others from it is the network's.
    fn needs_rules(&self, record: &Record) -> bool {
        record.isolated
    }
}
