//! What a container sends to other networks leaves with the host's address.

use nft::Element;
use store::Record;

use crate::feature::Feature;

/// The feature of this file.
pub struct Masquerade;

impl Feature for Masquerade {
    fn elements(&self, record: &Record) -> Vec<Element> {
        let addresses = record.addresses.iter().filter(|_| record.masquerade);
        addresses.map(|address| Element::Masquerade { address: address.address.ip() }).collect()
    }
}
