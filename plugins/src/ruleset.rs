//! Keeping the ruleset in the kernel what this program wants it to be.
//!
//! The generation, which every change to any ruleset of the host raises, says whether anybody else has written since it was
//! last looked at. Only then the ruleset is read.

use nft::{Element, Owner};
use store::{Lock, LockName, Mode};

use crate::firewall::desired;
use crate::{Error, Host, mac_check, moments, ports};

/// The note that says which constant part rnet last wrote.
const NOTE: &str = "ruleset";

/// Adds elements. Where somebody flushed or changed the ruleset, it is made anew instead, with those that are
/// `unrecorded` besides.
pub fn put(
    host: &mut Host,
    elements: &[(Element, Owner)],
    unrecorded: &[(Element, Owner)],
) -> Result<Lock, Error> {
    let mut lock = host.lock(LockName::Ruleset, Mode::Shared)?;
    let before = host.firewall()?.generation()?;
    let added = match host.firewall()?.add(elements) {
        Err(nft::Error::Taken { element, holder }) => return Err(ports::taken(host, &element, holder)),
        Err(nft::Error::Absent) => false,
        other => other.map(|()| true)?,
    };
    if !added || !is_intact_after(host, before)? {
        lock = host.change(lock, Mode::Exclusive)?;
        rebuild(host, unrecorded)?;
    }
    Ok(lock)
}

/// Makes the whole ruleset anew out of the records, in one transaction. Under the exclusive ruleset lock.
pub fn rebuild(host: &mut Host, more: &[(Element, Owner)]) -> Result<(), Error> {
    let mut elements = desired(host)?;
    elements.extend_from_slice(more);
    let before = host.firewall()?.generation()?;
    let state = host.firewall()?.rebuild(&elements)?.to_string();
    Seen { generation: before.wrapping_add(1), state }.write(host)?;
    mac_check::restore(host)
}

/// True if the constant part in the kernel is the one that rnet last wrote.
pub fn is_intact(host: &mut Host) -> Result<bool, Error> {
    let found = host.firewall()?.state()?.map(|state| state.to_string());
    Ok(found.is_some() && found == Seen::read(host)?.map(|seen| seen.state))
}

/// The same after a transaction of ours that began at the generation `before`: if nobody else has written since
/// the rules were last seen intact, nothing needs to be read.
fn is_intact_after(host: &mut Host, before: u32) -> Result<bool, Error> {
    let generation = host.firewall()?.generation()?;
    let Some(seen) = Seen::read(host)? else { return Ok(false) };
    let alone = seen.generation == before && generation == before.wrapping_add(1);
    if !alone {
        moments::others_have_written(host)?;
        if !is_intact(host)? {
            return Ok(false);
        }
    }
    Seen { generation, ..seen }.write(host).map(|()| true)
}

/// A transaction of ours followed directly upon `generation`.
pub fn followed(host: &Host, generation: u32) -> Result<(), Error> {
    match Seen::read(host)? {
        // A note that cannot be written costs the next ADD a closer look, nothing else.
        Some(seen) if seen.generation == generation => {
            let _ = Seen { generation: generation.wrapping_add(1), ..seen }.write(host);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Forgets what was last written: the tables are about to go.
pub fn forget(host: &Host) -> Result<(), Error> {
    Ok(host.store.remove_note(NOTE)?)
}

/// The constant part of the ruleset as rnet last wrote it, and the generation at which it was last seen so.
struct Seen {
    generation: u32,
    state: String,
}

impl Seen {
    fn read(host: &Host) -> Result<Option<Self>, Error> {
        let note = host.store.note(NOTE)?;
        let parts = note.as_deref().and_then(|note| note.split_once('\n'));
        Ok(parts.and_then(|(generation, state)| {
            Some(Self { generation: generation.parse().ok()?, state: state.to_owned() })
        }))
    }

    fn write(&self, host: &Host) -> Result<(), Error> {
        Ok(host.store.write_note(NOTE, &format!("{}\n{}", self.generation, self.state))?)
    }
}
