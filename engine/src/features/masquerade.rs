//! What a container sends to other networks leaves with the host's address.

use nft::Element;
use store::Record;

use super::sources::own_link;
use crate::feature::Feature;
use crate::ip::subnet;

/// The feature of this file.
pub struct Masquerade;

impl Feature for Masquerade {
    fn elements(&self, record: &Record) -> Vec<Element> {
        let addresses: Vec<_> = record.addresses.iter().filter(|_| record.masquerade).collect();
        let masquerade =
            addresses.iter().map(|address| Element::Masquerade { address: address.address.ip() });
        // A bridge has the whole subnet. Elsewhere each container of it is behind an interface of its own.
        let near = addresses
            .iter()
            .filter(|_| own_link(record).is_some())
            .map(|address| Element::Near { address: address.address.ip(), subnet: subnet(address.address) });
        masquerade.chain(near).collect()
    }
}
