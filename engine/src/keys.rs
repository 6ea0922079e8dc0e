//! Which elements of the ruleset are one to the kernel, and whose each is: it bears its owner's key.

use std::net::IpAddr;

use nft::{Element, Owner, Protocol};
use store::{Key, NetworkKey};

/// The owner that the elements of the networks on a bridge bear.
pub fn owner_of_bridge(bridge: &str) -> Option<Owner> {
    Owner::new(NetworkKey::new(bridge).as_str())
}

/// The owner that an attachment's elements bear.
pub fn owner(key: &Key) -> Option<Owner> {
    Owner::new(key.as_str())
}

/// No bridge, as of the rest: a network may change its bridge's name and keep its gateway.
pub fn owner_of_questions() -> Option<Owner> {
    // No name of a bridge has a blank.
    Owner::new(NetworkKey::new("port 53").as_str())
}

/// True if both have one key in the kernel. Of two networks of one gateway, one may not have heard yet where the questions
/// to its port 53 go.
pub fn has_key_of(one: &Element, other: &Element) -> bool {
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
