//! Who has which MAC on a bridge: of two ports with one MAC one is unreachable.
//!
//! Each attachment claims its own by a symbolic link, `macs/<bridge>-<mac>`, which leads to its record: one system call, and
//! the holder is known without reading a list.

use netlink::{Mac, Netlink, Request};
use nft::{Element, Owner};
use store::{LockName, Mode, Record, Stage};

use super::guard::Guard;
use super::mac_check;
use super::publish::holder_text;
use crate::drivers::bridge::port;
use crate::feature::Feature;
use crate::ip::hashed_mac;
use crate::making::Making;
use crate::spec::Spec;
use crate::{Error, Finding, Host, failpoint, keys, register, transaction, unrecorded};

/// The feature of this file.
pub struct Macs;

impl Feature for Macs {
    fn claim(&self, host: &mut Host, making: &mut Making<'_>) -> Result<(), Error> {
        if making.record.bridge.is_none() {
            // The host is its only neighbour.
            return Ok(());
        }
        claim(host, making.spec, &mut making.record)?;
        making.has_news = has_news(host, making)?;
        Ok(())
    }

    /// Tells all neighbours which MAC has the container's addresses now: what they remember is another container's. (Mostly an
    /// address always has the same MAC.)
    ///
    /// The kernel sends the announcements when a MAC is set, also to what it is (`arp_notify`, `ndisc_notify`).
    fn announce(&self, host: &Host, inside: &mut Netlink, making: &Making<'_>) -> Result<(), Error> {
        let record = &making.record;
        let Some(mac) = record.mac.filter(|_| making.has_news) else { return Ok(()) };
        let link = inside.link(&record.ifname)?;
        let link = link.ok_or_else(|| Finding::NoContainerLink(record.ifname.clone()))?;
        inside.send(&[Request::LinkMac {
            index: link.index,
            name: record.ifname.clone(),
            mac: Mac(mac.0),
        }])?;
        if record.mac == usual(making) {
            marks(record).for_each(|name| host.store.unmark(&name));
        }
        Ok(())
    }

    fn release(&self, host: &mut Host, record: &Record) -> Result<(), Error> {
        release(host, record)
    }
}

/// So many MACs are derived for a container before one is said to be taken.
const ATTEMPTS: u8 = 8;

/// Claims the MAC that a record says: one that was asked for is refused if another on the bridge has it, a derived one gives
/// way. The record is written before each try, so that whatever is claimed is on record.
fn claim(host: &mut Host, spec: &Spec, record: &mut Record) -> Result<(), Error> {
    let Some(usual) = record.mac else { return Ok(()) };
    let taken = |holder| Error::MacTaken { mac: usual.to_string(), bridge: spec.bridge.clone(), holder };
    if spec.mac.is_some()
        && host.netlink.link(&spec.bridge)?.is_some_and(|link| link.mac == Some(Mac(usual.0)))
    {
        return Err(taken("the bridge itself".into()));
    }
    let key = record.key();
    // 0x0e, 0x12, 0x16: locally administered, for this attachment alone.
    let others = (0..ATTEMPTS).map(|attempt| store::Mac(hashed_mac(0x0e + 4 * attempt, key.as_str()).0));
    let mut holder = claim_one(host, record, usual)?;
    for mac in others.filter(|_| spec.mac.is_none()) {
        if holder.is_none() {
            break;
        }
        record.mac = Some(mac);
        host.store.write_record(record)?;
        holder = claim_one(host, record, mac)?;
    }
    holder.map_or(Ok(()), |holder| Err(taken(holder)))
}

/// Gives an attachment that is there another MAC: its claim, its record, all rules that know it, and the bridge's table of
/// neighbours. May be repeated with the same MACs: each step is taken whether or not it was taken before. `step` is a failpoint's.
///
/// The claim comes before the record, so the caller must have both MACs on record, and see to [`disown`].
///
/// # Errors
/// [`Error::MacTaken`], and then nothing is changed; or a step that failed.
pub(super) fn change(
    host: &mut Host,
    attachment: &Record,
    (from, to): (store::Mac, store::Mac),
    step: &'static str,
) -> Result<(), Error> {
    let before = Record { mac: Some(from), ..attachment.clone() };
    let after = Record { mac: Some(to), ..attachment.clone() };
    let bridge = after.bridge.clone().unwrap_or_default();
    let taken = |holder| Error::MacTaken { mac: to.to_string(), bridge: bridge.clone(), holder };
    if let Some(holder) = claim_one(host, &after, to)? {
        return Err(taken(holder));
    }
    exchange(host, &before, &after, step)?;
    // Until the record said it, another could take the claim for a dead one's.
    if let Some(holder) = claim_one(host, &after, to)? {
        exchange(host, &after, &before, step)?;
        return Err(taken(holder));
    }
    tell_bridge(host, &after)?;
    // The next container with these addresses has another MAC.
    marks(&after).try_for_each(|name| host.store.mark(&name))?;
    Ok(host.store.release_mac(&bridge, from, &after)?)
}

/// Puts one record and its rules in place of another's. At no moment are there elements that the record does not tell of. Where
/// rules were flushed, whatever restores them reads the record.
fn exchange(host: &mut Host, old: &Record, new: &Record, step: &'static str) -> Result<(), Error> {
    let lock = old.guarded.then(|| host.lock(LockName::Ruleset, Mode::Shared)).transpose()?;
    if lock.is_some() {
        transaction::remove(host, &guard_of(old))?;
    }
    host.store.write_record(new)?;
    failpoint::pass(step)?;
    if lock.is_some() {
        transaction::add(host, &guard_of(new))?;
    }
    drop(lock);
    mac_check::admit(host, new)
}

fn guard_of(record: &Record) -> Vec<(Element, Owner)> {
    let owner = keys::owner(&record.key());
    Guard.elements(record).into_iter().filter_map(|element| Some((element, owner?))).collect()
}

/// Where the bridge is a gateway, it knows its neighbours.
fn tell_bridge(host: &mut Host, record: &Record) -> Result<(), Error> {
    let Some(link) = host.netlink.link(record.bridge.as_deref().unwrap_or_default())? else { return Ok(()) };
    if host.netlink.addresses(Some(link.index))?.is_empty() {
        return Ok(());
    }
    Ok(host.netlink.send(&port::neighbours(record, link.index))?)
}

/// Gives back what [`change`] has claimed for an attachment that is gone.
pub(super) fn disown(host: &Host, attachment: &Record, mac: store::Mac) -> Result<(), Error> {
    release(host, &Record { mac: Some(mac), ..attachment.clone() })
}

/// Gives a record's claim back.
fn release(host: &Host, record: &Record) -> Result<(), Error> {
    match (&record.bridge, record.mac) {
        (Some(bridge), Some(mac)) => Ok(host.store.release_mac(bridge, mac, record)?),
        _ => Ok(()),
    }
}

/// The living holder in words, if it is another.
fn claim_one(host: &mut Host, record: &Record, mac: store::Mac) -> Result<Option<String>, Error> {
    let bridge = record.bridge.clone().unwrap_or_default();
    let mut claimed = host.store.claim_mac(&bridge, mac, record)?;
    let is_doubtful = host.store.are_macs_doubtful()?;
    if is_doubtful {
        host.store.release_mac(&bridge, mac, record)?;
        unrecorded::claim_macs_again(host, record)?;
        claimed = host.store.claim_mac(&bridge, mac, record)?;
    }
    if (is_doubtful || matches!(claimed, Some(None)))
        && let Some(holder) = unrecorded::holder_of_mac(host, &bridge, mac)?
    {
        host.store.release_mac(&bridge, mac, record)?;
        return Ok(Some(holder));
    }
    let Some(holder) = claimed else { return Ok(None) };
    let holder =
        if has_it(host, holder.as_ref(), &bridge, mac)? { holder } else { take(host, record, &bridge, mac)? };
    Ok(holder.as_ref().map(holder_text))
}

/// Takes over what a killed process left. Two who find that at once must not both have it: the living holder, if the other
/// was quicker.
fn take(host: &mut Host, record: &Record, bridge: &str, mac: store::Mac) -> Result<Option<Record>, Error> {
    let _alone = host.lock(LockName::Ports, Mode::Exclusive)?;
    match host.store.claim_mac(bridge, mac, record)? {
        Some(holder) if has_it(host, holder.as_ref(), bridge, mac)? => Ok(holder),
        Some(_) => Ok(host.store.take_mac(bridge, mac, record).map(|()| None)?),
        None => Ok(None),
    }
}

/// One that is only begun has it too: its ADD may go on at this moment.
fn has_it(host: &mut Host, holder: Option<&Record>, bridge: &str, mac: store::Mac) -> Result<bool, Error> {
    let Some(holder) = holder else { return Ok(false) };
    let is_it = holder.mac == Some(mac) && holder.bridge.as_deref() == Some(bridge);
    match holder.stage {
        Stage::Intent => Ok(holder.mac.is_none() || is_it),
        Stage::Committed => Ok(is_it && register::is_alive(host, holder)?),
    }
}

/// Whether neighbours must be told of the MAC of these addresses: it is not the usual one, or was not the last time. That it is
/// not usual is on record before any neighbour learns of it.
fn has_news(host: &Host, making: &Making<'_>) -> Result<bool, Error> {
    let record = &making.record;
    let is_unusual = record.mac.is_some() && record.mac != usual(making);
    let mut has_news = is_unusual;
    for name in marks(record) {
        if is_unusual {
            host.store.mark(&name)?;
        } else {
            has_news |= host.store.is_marked(&name)?;
        }
    }
    Ok(has_news)
}

fn usual(making: &Making<'_>) -> Option<store::Mac> {
    Some(store::Mac(making.spec.usual_mac(&making.lease, &making.record.key()).0))
}

/// A mark for each address of a bridge that had a MAC which is not made of it.
fn marks(record: &Record) -> impl Iterator<Item = String> {
    let bridge = record.bridge.as_deref().unwrap_or_default();
    record.addresses.iter().map(move |address| format!("mac-{bridge}-{}", address.address.ip()))
}
