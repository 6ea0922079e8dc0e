//! Who has which address. Networks with one subnet, or with one inside another, lease without knowing of each other; of two
//! containers with one address one is unreachable, and what is published of one leads to the other.
//!
//! Each attachment claims its own by a symbolic link, as it does its MAC (`macs.rs`).

use std::net::IpAddr;

use store::{LockName, Mode, Record, Stage};

use super::publish::holder_text;
use crate::feature::Feature;
use crate::making::Making;
use crate::spec::Spec;
use crate::{Error, Host, register};

/// The feature of this file.
pub struct Addresses;

impl Feature for Addresses {
    /// Not before the interface is made: there it turns out if the attachment lives and its record was lost.
    fn admit(&self, host: &mut Host, making: &mut Making<'_>) -> Result<(), Error> {
        // What another program has made, another record claims.
        if making.record.link.is_some() { claim(host, making.spec, &making.record) } else { Ok(()) }
    }

    fn release(&self, host: &mut Host, record: &Record) -> Result<(), Error> {
        if record.link.is_some() { release(host, record) } else { Ok(()) }
    }
}

/// The place of addresses to which the host has a route.
const HOST: &str = "";

/// Claims a record's addresses: on the host where the bridge is their gateway, otherwise on the bridge.
fn claim(host: &mut Host, spec: &Spec, record: &Record) -> Result<(), Error> {
    let place = if spec.gateway { HOST } else { &spec.bridge };
    for ip in of(record) {
        if let Some(holder) = claim_one(host, place, ip, record)? {
            let (network, holder) = (spec.id.network.clone(), holder_text(&holder));
            return Err(Error::AddressTaken { ip, network, holder });
        }
    }
    Ok(())
}

/// Gives a record's claims back.
fn release(host: &Host, record: &Record) -> Result<(), Error> {
    for ip in of(record) {
        for place in [HOST].into_iter().chain(record.bridge.as_deref()) {
            host.store.release_address(place, ip, record)?;
        }
    }
    Ok(())
}

fn of(record: &Record) -> impl Iterator<Item = IpAddr> {
    record.addresses.iter().map(|address| address.address.ip())
}

/// The living holder, if it is another.
fn claim_one(host: &mut Host, place: &str, ip: IpAddr, record: &Record) -> Result<Option<Record>, Error> {
    let Some(holder) = host.store.claim_address(place, ip, record)? else { return Ok(None) };
    if has_it(host, holder.as_ref(), ip)? {
        return Ok(holder);
    }
    // A killed process left it. Two who find that at once must not both take it over.
    let _alone = host.lock(LockName::Ports, Mode::Exclusive)?;
    match host.store.claim_address(place, ip, record)? {
        Some(holder) if has_it(host, holder.as_ref(), ip)? => Ok(holder),
        Some(_) => Ok(host.store.take_address(place, ip, record).map(|()| None)?),
        None => Ok(None),
    }
}

/// One whose ADD may go on at this moment has it too.
fn has_it(host: &mut Host, holder: Option<&Record>, ip: IpAddr) -> Result<bool, Error> {
    let Some(holder) = holder.filter(|holder| of(holder).any(|had| had == ip)) else { return Ok(false) };
    match holder.stage {
        Stage::Intent => Ok(holder.netns.as_ref().is_some_and(register::is_there)),
        Stage::Committed => register::is_alive(host, holder),
    }
}
