//! Nobody inherits flows with an address: what conntrack knows of a container is forgotten after it is gone.
//!
//! To look for its flows takes 15 ms and more where conntrack knows many, so a child does that which nobody waits for. Until
//! it is done the rules keep those flows from the next holder (`nft::Stale`). Where our tables go before, with the last
//! network, a note says what was stale; tables that are made anew have it again.

use std::net::IpAddr;

use nft::{Flow, Stale};
use store::{LockName, Mode, Record};

use crate::{Error, Host, failpoint, transaction};

/// The note that says which addresses were stale when our tables went.
const NOTE: &str = "stale";

/// The addresses of a record whose flows will have to be forgotten. Where conntrack knows nothing, or cannot be asked, none.
pub fn addresses(host: &mut Host, record: &Record) -> Result<Vec<IpAddr>, Error> {
    let known = host.firewall()?.tracked().unwrap_or(0);
    let addresses = record.addresses.iter().filter(|_| known > 0);
    Ok(addresses.map(|address| address.address.ip()).collect())
}

/// Forgets the flows of addresses that none of rnet's tables could mark as stale.
pub fn forget_now(host: &mut Host, addresses: &[IpAddr]) -> Result<(), Error> {
    let flows: Vec<Flow> = addresses.iter().map(|address| Flow::Of(*address)).collect();
    host.firewall()?.forget(&flows, |_| false)?;
    Ok(())
}

/// The rest of a DEL that was killed when its elements were gone.
pub fn finish(host: &mut Host, record: &Record, left: &[IpAddr]) -> Result<(), Error> {
    if !left.is_empty() {
        forget_now(host, left)?;
    }
    let addresses: Vec<IpAddr> = record.addresses.iter().map(|address| address.address.ip()).collect();
    host.has_stale |= host.firewall()?.are_left(&addresses)?;
    Ok(())
}

/// A new holder of a record's addresses: of their flows it gets those that begin from now on.
pub fn take_over(host: &mut Host, record: &Record) -> Result<(), Error> {
    let addresses: Vec<IpAddr> = record.addresses.iter().map(|address| address.address.ip()).collect();
    if host.firewall()?.are_left(&addresses)? {
        transaction::write(host, |firewall| firewall.take_over(&addresses))?;
        host.note_deletion()?;
        // The child of the last holder's DEL may be too late to take it out, or killed.
        host.has_stale = true;
        forget_later(host);
    }
    Ok(())
}

/// Leaves the rest to a child, if there is anything to forget and no other child to do it.
pub fn forget_later(host: &mut Host) {
    if std::mem::take(&mut host.has_stale) {
        // What no child can do now, that of another DEL does.
        let _ = netlink::fork_keeping(&[], forget);
    }
}

/// The child's part.
pub fn forget() {
    let Ok(mut host) = Host::open("the end of flows".into()) else { return };
    let _ = forget_stale(&mut host);
    host.close();
    // Its messages are not the caller's.
    std::mem::forget(host);
}

fn forget_stale(host: &mut Host) -> Result<(), Error> {
    // One at a time, and each finds what it is there for.
    let _flows = host.lock(LockName::Flows, Mode::Exclusive)?;
    let (marked, noted) = all_stale(host)?;
    if marked.is_empty() && noted.is_empty() {
        return Ok(());
    }
    let addresses: Vec<IpAddr> = noted.iter().map(|stale| stale.address).collect();
    if !addresses.is_empty() {
        forget_now(host, &addresses)?;
    }
    let done = host.firewall()?.forget_stale(&marked)?;
    failpoint::pass("del.noted")?;
    let _ruleset = host.lock(LockName::Ruleset, Mode::Exclusive)?;
    // The tables may have gone since, or come with what was noted.
    let cleared: Vec<Stale> = done.iter().chain(&noted).copied().collect();
    if transaction::write(host, |firewall| firewall.clear(&cleared))?.is_some() {
        host.note_deletion()?;
    }
    let is_done = |stale: &Stale| noted.contains(stale) || done.contains(stale);
    let left: Vec<Stale> = stale_in_note(host)?.into_iter().filter(|stale| !is_done(stale)).collect();
    write(host, &left)
}

/// What the tables hold and what was noted when others went, at one moment: a DEL may just be removing the tables.
fn all_stale(host: &mut Host) -> Result<(Vec<Stale>, Vec<Stale>), Error> {
    let _ruleset = host.lock(LockName::Ruleset, Mode::Shared)?;
    Ok((host.firewall()?.stale()?, stale_in_note(host)?))
}

/// What a ruleset that is made anew must hold: what the tables in the kernel hold and what was noted when others went.
pub fn stale(host: &mut Host) -> Result<Vec<Stale>, Error> {
    let mut stale = host.firewall()?.stale()?;
    let known = |address| stale.iter().any(|stale: &Stale| stale.address == address);
    let more: Vec<Stale> = stale_in_note(host)?.into_iter().filter(|noted| !known(noted.address)).collect();
    stale.extend(more);
    Ok(stale)
}

/// They are in the tables again.
pub fn restored(host: &Host) -> Result<(), Error> {
    Ok(host.store.remove_note(NOTE)?)
}

/// Our tables are about to go.
pub fn tables_go(host: &mut Host) -> Result<(), Error> {
    let stale = stale(host)?;
    write(host, &stale)
}

fn stale_in_note(host: &Host) -> Result<Vec<Stale>, Error> {
    let note = host.store.note(NOTE)?.unwrap_or_default();
    Ok(note.lines().filter_map(Stale::parse).collect())
}

fn write(host: &Host, stale: &[Stale]) -> Result<(), Error> {
    let lines: Vec<String> = stale.iter().map(Stale::line).collect();
    match lines.is_empty() {
        true => Ok(host.store.remove_note(NOTE)?),
        false => Ok(host.store.write_note(NOTE, &lines.join("\n"))?),
    }
}
