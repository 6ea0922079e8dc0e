//! The spoof guard: frames and packets whose source is not the container's own are dropped at its port.

use std::net::{IpAddr, Ipv6Addr};

use netlink::Mac;
use nft::Element;
use store::Record;

use crate::feature::Feature;

/// The feature of this file.
pub struct Guard;

impl Feature for Guard {
    fn elements(&self, record: &Record) -> Vec<Element> {
        if record.guarded { sources(record) } else { Vec::new() }
    }
}

/// What a container's port may send from: its addresses, and for IPv6 its link-local and the unspecified one.
fn sources(record: &Record) -> Vec<Element> {
    let (Some(link), Some(mac)) = (&record.link, record.mac.map(|mac| Mac(mac.0))) else { return Vec::new() };
    let own = record.addresses.iter().map(|address| address.address.ip());
    let has_v6 = record.addresses.iter().any(|address| address.address.is_ipv6());
    let v6 = if has_v6 {
        vec![IpAddr::V6(link_local(mac)), IpAddr::V6(Ipv6Addr::UNSPECIFIED)]
    } else {
        Vec::new()
    };
    let addresses =
        own.chain(v6).map(|address| Element::PortAddress { link: link.clone(), mac: mac.0, address });
    std::iter::once(Element::Port { link: link.clone() }).chain(addresses).collect()
}

/// The link-local address that the kernel derives from a MAC (RFC 4291, appendix A).
pub(super) fn link_local(Mac(mac): Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.map(u16::from);
    Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_local_address_is_the_kernels() {
        assert_eq!(link_local(Mac([0x02, 0x42, 0xac, 0x12, 0, 2])).to_string(), "fe80::42:acff:fe12:2");
    }
}
