//! Keeping the ruleset in the kernel what this program wants it to be.
//!
//! If only rnet has written since it last looked, nothing is read (`transaction.rs`). Otherwise the ruleset is: its constant part,
//! which another version of rnet may have written, and its elements.

use nft::{Element, LeftOut, Owner};
use store::{Lock, LockName, Mode};

use crate::elements::desired;
use crate::features::{self, publish};
use crate::transaction::{self, Seen};
use crate::{Error, Host, flows, keys, moments, unrecorded};

/// The note that says what the last rebuild left out, a line for each element.
const LEFT_OUT: &str = "left-out";

/// Adds elements. If another program changed the ruleset, or another version of rnet wrote it, it is made anew, with
/// those that are `unrecorded` besides.
///
/// The lock that comes back keeps rebuilds away.
///
/// # Errors
/// Another attachment has what an element is for, or the kernel refuses the transaction.
pub fn put(
    host: &mut Host,
    elements: &[(Element, Owner)],
    unrecorded: &[(Element, Owner)],
) -> Result<Lock, Error> {
    let lock = host.lock(LockName::Ruleset, Mode::Shared)?;
    match transaction::add(host, elements) {
        Ok(true) => Ok(lock),
        Ok(false) => look(host, lock, unrecorded),
        Err(Error::Nft(nft::Error::Taken { element, holder })) => Err(publish::taken(host, &element, holder)),
        Err(error) => Err(error),
    }
}

/// Makes sure of the ruleset without adding to it.
///
/// # Errors
/// The ruleset cannot be read or made anew.
pub fn confirm(host: &mut Host) -> Result<Lock, Error> {
    let lock = host.lock(LockName::Ruleset, Mode::Shared)?;
    let generation = host.firewall()?.generation()?;
    if transaction::is_known(host, generation)? { Ok(lock) } else { look(host, lock, &[]) }
}

/// Makes the whole ruleset anew out of the records, in one transaction. Under the exclusive ruleset lock.
///
/// # Errors
/// The records cannot be read, or the kernel refuses the transaction.
pub fn rebuild(host: &mut Host, more: &[(Element, Owner)]) -> Result<(), Error> {
    let mut elements = desired(host)?;
    elements.extend(unrecorded::elements(host)?);
    refuse_taken(host, &elements, more)?;
    elements.extend_from_slice(more);
    let stale = flows::stale(host)?;
    let alone = host.lock(LockName::Transaction, Mode::Exclusive)?;
    let (before, commits) = (host.firewall()?.generation()?, host.firewall()?.commits());
    let rebuilt = host.firewall()?.rebuild(&elements, &stale)?;
    // Where others disturbed it, that is none, and the next ADD looks again.
    let generation = before.wrapping_add(host.firewall()?.commits().wrapping_sub(commits));
    Seen { identity: transaction::identity(), generation, state: rebuilt.state.to_string() }.write(host)?;
    drop(alone);
    flows::restored(host)?;
    tell_left_out(host, &rebuilt.left_out)?;
    features::each(|feature| feature.restore(host))
}

/// Where the tables were gone or unknown, the kernel did not refuse a host port that is another's.
fn refuse_taken(host: &mut Host, held: &[(Element, Owner)], more: &[(Element, Owner)]) -> Result<(), Error> {
    for (element, owner) in more {
        let holder =
            held.iter().find(|(other, holder)| holder != owner && keys::is_same_port(other, element));
        if let Some((_, holder)) = holder {
            return Err(publish::taken(host, element, Some(*holder)));
        }
    }
    Ok(())
}

/// What the last rebuild could not put into the ruleset, and whose it is: a sentence for each element.
///
/// # Errors
/// The note cannot be read.
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
        record.map_or_else(|| "a network".to_owned(), publish::holder_text)
    };
    let line =
        |left: &LeftOut| format!("{}{}: {}\n", beginning(&left.element), holder(&left.owner), left.why);
    Ok(host.store.write_note(LEFT_OUT, &left_out.iter().map(line).collect::<String>())?)
}

/// How the line of an element begins.
fn beginning(element: &Element) -> String {
    format!("{element} of ")
}

/// The same if anything is not as the records say.
///
/// # Errors
/// The ruleset cannot be read or made anew.
pub fn restore(host: &mut Host) -> Result<(), Error> {
    let lock = host.lock(LockName::Ruleset, Mode::Shared)?;
    look(host, lock, &[]).map(drop)
}

/// The same, unless rnet has nothing in the ruleset.
///
/// # Errors
/// As for [`restore`].
pub fn restore_present(host: &mut Host) -> Result<(), Error> {
    let lock = host.lock(LockName::Ruleset, Mode::Shared)?;
    if Seen::read(host)?.is_some() { look(host, lock, &[]).map(drop) } else { Ok(()) }
}

/// Another program has written: reads what is there, and makes it right.
///
/// Calls that share the lock are in between with their elements, and look like a difference; so a difference is judged alone.
fn look(host: &mut Host, mut lock: Lock, unrecorded: &[(Element, Owner)]) -> Result<Lock, Error> {
    if !is_whole(host, unrecorded)? {
        lock = host.change(lock, Mode::Exclusive)?;
        if !is_whole(host, unrecorded)? {
            moments::others_have_written(host)?;
            rebuild(host, unrecorded)?;
        }
    }
    Ok(lock)
}

/// True if constant part and elements are as they should be; then the generation is noted.
fn is_whole(host: &mut Host, unrecorded: &[(Element, Owner)]) -> Result<bool, Error> {
    let before = host.firewall()?.generation()?;
    if !transaction::is_intact(host)? {
        return Ok(false);
    }
    let mut wanted = desired(host)?;
    wanted.extend_from_slice(unrecorded);
    let left_out = left_out(host)?;
    if !left_out.is_empty() {
        wanted.retain(|(element, _)| !left_out.iter().any(|line| line.starts_with(&beginning(element))));
    }
    if !host.firewall()?.holds(&wanted)? {
        return Ok(false);
    }
    let own = moments::others_have_written(host)?;
    let _alone = host.lock(LockName::Transaction, Mode::Exclusive)?;
    let generation = host.firewall()?.generation()?;
    // Otherwise another program wrote meanwhile, and the next ADD looks again.
    if generation == before.wrapping_add(own)
        && let Some(seen) = Seen::read(host)?
    {
        Seen { generation, ..seen }.write(host)?;
    }
    Ok(true)
}
