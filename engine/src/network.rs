//! A network changes while attachments are on it, and ends with its last one.

use store::{LockName, Mode, Network, Stage};

use crate::drivers::DRIVERS;
use crate::feature::Change;
use crate::features::{FEATURES, names};
use crate::held::Held;
use crate::{Error, Host, admission, failpoint, moments, unrecorded};

/// Removes what was made for a network that has lost its last attachment, unless another has come meanwhile.
pub fn retire(host: &mut Host, name: &str, plugin: &str) -> Result<(), Error> {
    let lock = host.lock(LockName::Network(name.to_owned()), Mode::Exclusive)?;
    if host.store.has_records(name, plugin)? {
        return Ok(());
    }
    let Some(network) = host.store.network(name, plugin)? else { return Ok(()) };
    if !network.given && unrecorded::is_on(host, &network)? {
        return Ok(());
    }
    // The next caller after a kill finds something to be made whole. Freeing must not depend on a disk that is full, though.
    let _ = host.store.write_network(&Network { stage: Stage::Intent, ..network.clone() });
    failpoint::pass("del.network")?;
    admission::dismiss_network(host, &network)?;
    failpoint::pass("del.elements")?;
    for made in network.former.iter().chain([&network]) {
        DRIVERS.iter().try_for_each(|driver| driver.retire(host, made))?;
    }
    failpoint::pass("del.bridge")?;
    FEATURES.iter().for_each(|feature| feature.forget(host, &network));
    failpoint::pass("del.forgotten")?;
    host.store.remove_network(name, plugin)?;
    failpoint::pass("del.network-record")?;
    Ok(host.store.retire(lock)?)
}

/// Writes a change into what is on record of a network, and carries it out in the ruleset.
pub fn change(host: &mut Host, held: Held, change: Change) -> Result<Held, Error> {
    let lock = host.change(held.lock, Mode::Exclusive)?;
    let known = host.store.network(&held.network.name, &held.network.plugin)?;
    let Some(before) = known else { return Ok(Held { lock, ..held }) };
    let after = Network { stage: Stage::Intent, ..change(before.clone()) };
    host.store.write_network(&after)?;
    failpoint::pass("add.moved")?;
    admission::change_network(host, &before, &after)?;
    failpoint::pass("add.redirected")?;
    moments::network_comes(host)?;
    let network = Network { stage: before.stage, ..after };
    host.store.write_network(&network)?;
    Ok(Held { network, bridge: held.bridge, lock })
}

/// Sends the questions of all networks to where the name server takes them, after it could not have the ports that are on
/// record (L3). One network's failure, told at the end, keeps no other from it.
///
/// # Errors
/// The name server does not answer, or what could not be changed.
pub fn redirect(host: &mut Host) -> Result<(), Error> {
    let listening = names::listening(host)?;
    let mut redirected = Ok(());
    for network in host.store.networks()? {
        redirected = redirected.and(redirect_one(host, network, &listening));
    }
    redirected
}

fn redirect_one(host: &mut Host, network: Network, listening: &[dns::Listening]) -> Result<(), Error> {
    let Some(moved) = names::move_to(&network, listening) else { return Ok(()) };
    let lock = host.lock(LockName::Network(network.name.clone()), Mode::Exclusive)?;
    change(host, Held { network, bridge: None, lock }, moved).map(drop)
}
