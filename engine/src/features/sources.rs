//! A container's addresses come in by its own interface only. On a bridge that is said of whole subnets (`elements.rs`); a container
//! whose interface is no bridge's port says it of its own addresses.

use ipnetwork::IpNetwork;
use nft::Element;
use store::Record;

use crate::feature::Feature;

/// The feature of this file.
pub struct Sources;

impl Feature for Sources {
    fn elements(&self, record: &Record) -> Vec<Element> {
        let Some(link) = own_link(record) else { return Vec::new() };
        let own = record.addresses.iter().map(|address| IpNetwork::from(address.address.ip()));
        let home = |subnet| [Element::Home { subnet, bridge: link.to_owned() }, Element::Subnet { subnet }];
        own.flat_map(home).collect()
    }
}

/// The host end that only this container is behind.
pub(super) fn own_link(record: &Record) -> Option<&str> {
    record.link.as_deref().filter(|_| record.bridge.is_none())
}
