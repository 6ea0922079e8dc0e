//! Elements come into the ruleset with an attachment or a network, and go with it.

use std::net::IpAddr;

use nft::{Element, Owner};
use store::{Key, Lock, LockName, Mode, Network, Record, Stage};

use crate::feature::Settled;
use crate::features::{self, FEATURES, publish};
use crate::held::others_in_use;
use crate::keys::owner;
use crate::{Error, Host, drivers, elements, failpoint, flows, moments, ruleset, transaction, unrecorded};

/// Puts an attachment's elements into the ruleset. The lock that comes back is to be held until the record is
/// committed: a rebuild in between would not know of them.
///
/// # Errors
/// A living attachment has what one of them is for, or the kernel refuses it.
pub fn admit(host: &mut Host, record: &mut Record) -> Result<Option<Lock>, Error> {
    let _locks = locks(host, record)?;
    let mut ruleset = loop {
        match put(host, record) {
            Err(refusal) if settle(host, record, &refusal)? => {}
            other => break other?,
        }
    };
    failpoint::pass("add.rules")?;
    features::each(|feature| feature.confirm(host, record, &mut ruleset))?;
    failpoint::pass("add.conntrack")?;
    Ok(ruleset)
}

fn locks(host: &Host, record: &Record) -> Result<Vec<Lock>, Error> {
    FEATURES.iter().filter_map(|feature| feature.lock(host, record).transpose()).collect()
}

/// True if a feature has settled a refusal. Each settles one only so often, so this ends.
fn settle(host: &mut Host, record: &mut Record, refusal: &Error) -> Result<bool, Error> {
    for feature in FEATURES {
        match feature.settle(host, record, refusal)? {
            Settled::No => {}
            Settled::Otherwise => return Ok(true),
            Settled::Bury(holder) => return bury(host, &holder).map(|()| true),
        }
    }
    Ok(false)
}

/// What else a dead container left is its DEL's or gc's to remove.
fn bury(host: &mut Host, holder: &Record) -> Result<(), Error> {
    let _ruleset = host.lock(LockName::Ruleset, Mode::Shared)?;
    transaction::remove(host, &elements::attachment(holder))?;
    features::each(|feature| feature.free(host, holder))?;
    Ok(host.store.write_record(&Record { ports: Vec::new(), ..holder.clone() })?)
}

/// None for an attachment without elements.
fn put(host: &mut Host, record: &mut Record) -> Result<Option<Lock>, Error> {
    let elements = elements::attachment(record);
    if elements.is_empty() {
        let needs_rules = FEATURES.iter().any(|feature| feature.needs_rules(record));
        return if needs_rules { ruleset::confirm(host).map(Some) } else { Ok(None) };
    }
    features::each(|feature| feature.reserve(host, record))?;
    let has_intervals = elements.iter().any(|(element, _)| elements::is_interval(element));
    let elements = if has_intervals { without_covered(host, elements)? } else { elements };
    let lock = match ruleset::put(host, &elements, &elements) {
        // Where only sources would be looked at, it works without rules, as the reference plugin does.
        Err(Error::Nft(error)) if asks_for_none(record, &elements) && error.missing().is_some() => {
            return Ok(None);
        }
        other => other?,
    };
    flows::take_over(host, record)?;
    Ok(Some(lock))
}

fn without_covered(host: &Host, elements: Vec<(Element, Owner)>) -> Result<Vec<(Element, Owner)>, Error> {
    Ok(elements::uncovered(elements, &elements::of_all(&host.store.networks()?)))
}

fn asks_for_none(record: &Record, elements: &[(Element, Owner)]) -> bool {
    let needs_rules = FEATURES.iter().any(|feature| feature.needs_rules(record));
    !needs_rules && elements.iter().all(|(element, _)| elements::is_interval(element))
}

/// Takes an attachment's elements out again, also if another has its address by now.
///
/// # Errors
/// Something could not be taken out.
pub fn dismiss(host: &mut Host, record: &Record) -> Result<(), Error> {
    let elements = elements::attachment(record);
    if elements.is_empty() {
        return failpoint::pass("del.rules");
    }
    // An ADD that did not come so far, because another call holds the locks, must not need them for its undo.
    if record.stage == Stage::Committed || holds_any(host, record)? {
        withdraw(host, record, &elements)?;
    } else if !record.addresses.is_empty() {
        // One that was killed when its elements were gone left the flows to this one.
        flows::finish(host, record, &[])?;
    }
    failpoint::pass("del.conntrack")
}

/// True if anything that a record tells of is in the ruleset, and its own.
pub fn holds_own(host: &mut Host, record: &Record) -> Result<bool, Error> {
    let elements = elements::attachment(record);
    let keys: Vec<Element> = elements.iter().map(|(element, _)| element.clone()).collect();
    if keys.is_empty() {
        return Ok(false);
    }
    let owners = host.firewall()?.owners(&keys)?;
    Ok(owners.iter().zip(&elements).any(|(found, (_, owner))| found.as_ref() == Some(owner)))
}

fn is_anothers(host: &mut Host, record: &Record) -> Result<bool, Error> {
    let (keys, own): (Vec<Element>, Vec<Owner>) = elements::attachment(record).into_iter().unzip();
    let owners = host.firewall()?.owners(&keys)?;
    Ok(owners.into_iter().zip(own).any(|(found, own)| found.is_some_and(|found| found != own)))
}

/// True if anything of an attachment is in the ruleset or claimed.
fn holds_any(host: &mut Host, record: &Record) -> Result<bool, Error> {
    if holds_own(host, record)? {
        return Ok(true);
    }
    for feature in FEATURES {
        if feature.holds_any(host, record)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn withdraw(host: &mut Host, record: &Record, elements: &[(Element, Owner)]) -> Result<(), Error> {
    let _locks = locks(host, record)?;
    let _ruleset = host.lock(LockName::Ruleset, Mode::Shared)?;
    // From here on a rebuild must not bring them back. Freeing must not depend on a disk that is full, though.
    let _ = host.store.write_record(&Record { stage: Stage::Intent, ..record.clone() });
    let left = flows::addresses(host, record)?;
    if transaction::withdraw(host, elements, &left)? {
        host.has_stale |= !left.is_empty();
    } else if !is_anothers(host, record)? {
        // Where it held nothing any more, its elements may be another's, and then so are the flows.
        flows::finish(host, record, &left)?;
    }
    failpoint::pass("del.rules")?;
    features::each(|feature| feature.free(host, record))
}

/// Takes out whatever a plugin has put in under an attachment's key, and its claims: for an attachment whose record
/// cannot be read any more. Reads all elements.
pub fn purge(host: &mut Host, plugin: &str, key: &Key) -> Result<(), Error> {
    purge_leaving(host, plugin, key, &[])
}

/// The same for a container that leaves addresses behind.
pub fn purge_leaving(host: &mut Host, plugin: &str, key: &Key, left: &[IpAddr]) -> Result<(), Error> {
    let _ports = host.lock(LockName::Ports, Mode::Exclusive)?;
    let _ruleset = host.lock(LockName::Ruleset, Mode::Shared)?;
    let own = owner(key);
    let found = host.firewall()?.elements()?.into_iter();
    let found = found.filter(|(element, owner)| *owner == own && is_put_in_by(plugin, element));
    let elements: Vec<_> = found.filter_map(|(element, owner)| Some((element, owner?))).collect();
    if transaction::withdraw(host, &elements, left)? {
        host.has_stale |= !left.is_empty();
    }
    if plugin == "portmap" || plugin == "rnet" { publish::release_all(host, key) } else { Ok(()) }
}

/// In a chain one plugin attaches and another publishes, under the same key.
fn is_put_in_by(plugin: &str, element: &Element) -> bool {
    match element {
        Element::Publish { .. }
        | Element::Except { .. }
        | Element::Published { .. }
        | Element::MasqueradeAll { .. } => plugin == "portmap" || plugin == "rnet",
        _ => drivers::makers().any(|maker| maker == plugin),
    }
}

/// Puts the elements of a network that is on record into the ruleset, those that are not there yet: other networks of
/// its bridge have the same.
pub fn admit_network(host: &mut Host, network: &Network) -> Result<(), Error> {
    let elements = elements::network_elements(network);
    let asks_for_rules = elements.iter().any(|(element, _)| !elements::is_interval(element));
    match admit_elements(host, elements) {
        // A bridge that asks for none works without them, as the reference plugin's does.
        Err(Error::Nft(error)) if !asks_for_rules && error.missing().is_some() => Ok(()),
        other => other,
    }
}

fn admit_elements(host: &mut Host, elements: Vec<(Element, Owner)>) -> Result<(), Error> {
    if elements.is_empty() {
        return Ok(());
    }
    if has_covered(host, &elements)? {
        // The kernel takes no subnet beside one that it overlaps, so one has to go for the other.
        let _lock = host.lock(LockName::Ruleset, Mode::Exclusive)?;
        return ruleset::rebuild(host, &[]);
    }
    if host.firewall()?.holds(&elements)? {
        return ruleset::confirm(host).map(drop);
    }
    let keys: Vec<Element> = elements.iter().map(|(element, _)| element.clone()).collect();
    let owners = host.firewall()?.owners(&keys)?;
    let missing = elements.iter().zip(owners).filter(|(_, owner)| owner.is_none());
    let missing: Vec<_> = missing.map(|(element, _)| element.clone()).collect();
    failpoint::pass("add.missing")?;
    if missing.is_empty() {
        // What leads elsewhere, because a call was killed half-way, is replaced with all the rest.
        return ruleset::restore(host);
    }
    match ruleset::put(host, &missing, &[]) {
        // A rebuild has put them in since they were looked for.
        Err(_) if host.firewall()?.holds(&elements)? => ruleset::confirm(host).map(drop),
        other => other.map(drop),
    }
}

/// The same for a network that was another `before`.
pub fn change_network(host: &mut Host, before: &Network, after: &Network) -> Result<(), Error> {
    let new = elements::network_elements(after);
    let gone: Vec<_> =
        elements::network_elements(before).into_iter().filter(|old| !new.contains(old)).collect();
    if !gone.is_empty() {
        let _lock = host.lock(LockName::Ruleset, Mode::Shared)?;
        transaction::remove(host, &gone)?;
    }
    admit_network(host, after)
}

/// Takes a network's elements out; with the last network our tables go too.
pub fn dismiss_network(host: &mut Host, network: &Network) -> Result<(), Error> {
    let _lock = host.lock(LockName::Ruleset, Mode::Exclusive)?;
    let others = others_in_use(host, network)?;
    // Containers of which there is no record still need their guards.
    if others.is_empty() && unrecorded::unrecorded(host)?.is_empty() {
        flows::tables_go(host)?;
        transaction::forget(host)?;
        moments::last_network_goes(host)?;
        return host.note_deletion();
    }
    moments::network_goes(host, network)?;
    let elements = elements::elements_of_it_alone(network, &others);
    if elements.is_empty() {
        return Ok(());
    }
    transaction::remove(host, &elements)?;
    let others = elements::of_all(&others);
    let attachments = elements::uncovered(intervals_of_attachments(host)?, &others);
    let uncovered = others
        .into_iter()
        .chain(attachments)
        .filter(|(home, _)| elements.iter().any(|(gone, _)| home.is_within(gone)));
    let uncovered: Vec<_> = uncovered.collect();
    if uncovered.is_empty() { Ok(()) } else { transaction::write(host, |firewall| firewall.add(&uncovered)) }
}

/// Where an attachment says by itself which addresses are its own. Only a network without a bridge has such, and only then the records
/// are read.
fn intervals_of_attachments(host: &Host) -> Result<Vec<(Element, Owner)>, Error> {
    let is_asked = |network: &Network| network.bridge.is_empty() && !network.given;
    if !host.store.networks()?.iter().any(is_asked) {
        return Ok(Vec::new());
    }
    let elements = host.store.records()?.iter().flat_map(elements::attachment).collect::<Vec<_>>();
    Ok(elements.into_iter().filter(|(element, _)| elements::is_interval(element)).collect())
}

/// True if a subnet of one of these lies in another that its bridge has, or the reverse.
fn has_covered(host: &Host, elements: &[(Element, Owner)]) -> Result<bool, Error> {
    let homes: Vec<&Element> =
        elements.iter().map(|(element, _)| element).filter(|one| elements::is_interval(one)).collect();
    if homes.is_empty() {
        return Ok(false);
    }
    let mut all: Vec<_> = host.store.networks()?.iter().flat_map(elements::network_elements).collect();
    all.extend(intervals_of_attachments(host)?);
    Ok(all.iter().any(|(other, _)| homes.iter().any(|home| home.is_within(other) || other.is_within(home))))
}
