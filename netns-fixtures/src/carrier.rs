//! Waiting for a link to carry frames, by listening.
//!
//! A link that is set up before its peer drops what is sent through it until the kernel has noticed
//! the carrier and given it a queue, some milliseconds later.

use std::time::Duration;

use futures_util::{Stream, StreamExt};
use netlink::Netns;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::{Handle, MulticastGroup};

use crate::Error;
use crate::rtnl::{failed, inside, link};
use crate::view::View;

/// Waits until the link called `link` in `netns` is up, carrier and queue included. False if that
/// did not happen in `timeout`.
pub fn wait_for_carrier(netns: &Netns, link: &str, timeout: Duration) -> Result<bool, Error> {
    inside(netns, "wait for a carrier", async || {
        let (connection, handle, heard) =
            rtnetlink::new_multicast_connection(&[MulticastGroup::Link]).map_err(failed)?;
        tokio::spawn(connection);
        let heard = heard.map(|(message, _)| message);
        match tokio::time::timeout(timeout, until_ready(&handle, link, heard)).await {
            Ok(ready) => ready.map(|()| true),
            Err(_) => Ok(false),
        }
    })
}

/// Listening began before the question: nothing is missed between the two. Asking for one link
/// makes kernels from 6.8 on attend to its carrier at once; without being asked they may take a
/// second.
async fn until_ready(
    handle: &Handle,
    name: &str,
    mut heard: impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Unpin,
) -> Result<(), rtnetlink::Error> {
    let mut ready = link(handle, name).await?.is_some_and(|link| is_ready(&View::from(link), name));
    while !ready {
        let Some(message) = heard.next().await else { return Err(rtnetlink::Error::RequestFailed) };
        if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = message.payload {
            ready = is_ready(&View::from(link), name);
        }
    }
    Ok(())
}

/// The kernel tells of the carrier (RFC 2863's "up") a moment before it has replaced the queue that
/// drops everything.
fn is_ready(view: &View, name: &str) -> bool {
    view.name == name && view.state == "UP" && view.qdisc != "noop"
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::{LinkUnspec, LinkVeth};

    use crate::Host;
    use crate::rtnl::rtnl;

    const SOON: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn a_veth_is_ready_when_its_peer_is_up() {
        let host = Host::new().unwrap();
        let up = |name: &str| {
            let change = LinkUnspec::new_with_name(name).up().build();
            rtnl(host.netns(), "set up", async |handle| handle.link().change(change).execute().await)
        };
        let pair = LinkVeth::new("veth0", "veth1").up().build();
        rtnl(host.netns(), "add", async |handle| handle.link().add(pair).execute().await).unwrap();
        assert!(!wait_for_carrier(host.netns(), "veth0", SOON).unwrap());
        let waited = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| wait_for_carrier(host.netns(), "veth0", LONG).unwrap());
            up("veth1").unwrap();
            waiting.join().unwrap()
        });
        assert!(waited);
        assert!(wait_for_carrier(host.netns(), "veth0", LONG).unwrap());
    }
}
