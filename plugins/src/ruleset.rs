//! Keeping the ruleset in the kernel what this program wants it to be.
//!
//! The generation, which every change to any ruleset of the host raises, says whether anybody else has written since it was
//! last looked at. Only then the ruleset is read.

use nft::{Element, LeftOut, Owner};
use store::{Lock, LockName, Mode};

use crate::firewall::desired;
use crate::{Error, Host, mac_check, moments, ports};

/// The note that says which constant part rnet last wrote.
const NOTE: &str = "ruleset";

/// The note that says what the last rebuild left out, a line for each element.
const LEFT_OUT: &str = "left-out";

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
    let rebuilt = host.firewall()?.rebuild(&elements)?;
    let whole = rebuilt.left_out.is_empty();
    // Looking for what cannot be in it took more than one transaction.
    let generation = if whole { before.wrapping_add(1) } else { host.firewall()?.generation()? };
    Seen { generation, state: rebuilt.state.to_string() }.write(host)?;
    tell_left_out(host, &rebuilt.left_out)?;
    mac_check::restore(host)
}

/// What the last rebuild could not put into the ruleset, and whose it is: a sentence for each element.
pub fn left_out(host: &Host) -> Result<Vec<String>, Error> {
    let note = host.store.note(LEFT_OUT)?.unwrap_or_default();
    Ok(note.lines().map(str::to_owned).collect())
}

/// For `rnet ls`: a rebuild itself must not fail for what one record says.
fn tell_left_out(host: &Host, left_out: &[LeftOut]) -> Result<(), Error> {
    if left_out.is_empty() {
        return Ok(host.store.remove_note(LEFT_OUT)?);
    }
    let records = host.store.records()?;
    let holder = |owner: &Owner| {
        let key = owner.to_string();
        let record = records.iter().find(|record| record.key().as_str() == key);
        record.map_or_else(|| "a network".to_owned(), ports::holder_text)
    };
    let line = |left: &LeftOut| format!("{} of {}: {}\n", left.element, holder(&left.owner), left.why);
    Ok(host.store.write_note(LEFT_OUT, &left_out.iter().map(line).collect::<String>())?)
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
