//! Containers without a record are cut off their network.

use store::{Id, LockName, Mode};

use crate::spec::{Addresses, Spec};
use crate::{Error, Host, drivers, lost, network, ruleset, unrecorded};

/// Cuts containers without a record off a network, with their rules, and removes what was made for the network if nobody else is on it.
///
/// # Errors
/// A link, the ruleset or the network could not be removed.
pub fn cut_off(host: &mut Host, network: &str, plugin: &str, bridge: &str) -> Result<(), Error> {
    let ports = unrecorded::unrecorded_on(host, bridge)?;
    let Some(plugin) = drivers::makers().find(|known| *known == plugin) else {
        return Ok(());
    };
    if ports.is_empty() {
        return Ok(());
    }
    let bare = Spec::bare(plugin, Id::of_network(network), Addresses::None);
    let is_rnet = plugin == "rnet";
    lost::remember_network(
        host,
        &Spec { bridge: bridge.into(), owns_bridge: is_rnet, isolated: is_rnet, interop: is_rnet, ..bare },
    )?;
    for port in ports {
        netlink::delete_link(port.index, &[], true)?;
    }
    let lock = host.lock(LockName::Ruleset, Mode::Exclusive)?;
    ruleset::rebuild(host, &[])?;
    drop(lock);
    network::retire(host, network, plugin)
}
