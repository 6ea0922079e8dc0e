//! What bridges have learned.

use netlink::Netns;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::NeighbourAttribute;

use crate::Error;
use crate::rtnl::{all, rtnl};
use crate::view::mac_text;

/// The MAC addresses that the bridges of a namespace know, the learned ones too, as `02:42:ac:12:00:02`: what
/// `bridge fdb` prints.
pub fn bridge_macs(netns: &Netns) -> Result<Vec<String>, Error> {
    let entries = rtnl(netns, "read what bridges know", async |handle| {
        all(handle.neighbours().get().set_address_family(AddressFamily::Bridge).execute()).await
    })?;
    let mac = |attribute: NeighbourAttribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(mac) => Some(mac_text(&mac)),
        _ => None,
    };
    Ok(entries.into_iter().filter_map(|entry| entry.attributes.into_iter().find_map(mac)).collect())
}
