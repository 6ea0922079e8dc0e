//! Keeping the ruleset in the kernel what this program wants it to be.
//!
//! The generation, which every change to any ruleset of the host raises, says whether anybody else has written since rnet last
//! looked. Only then the ruleset is read: its constant part, which another version of rnet may have written, and its elements.
//!
//! rnet's own transactions go one at a time, each under a lock until its generation is noted. So a generation that is not
//! noted is another program's, or that of a call that was killed in between.

use std::net::IpAddr;
use std::sync::OnceLock;

use nft::{Element, Firewall, LeftOut, Owner, Ruleset};
use store::{Lock, LockName, Mode, Store};

use crate::Finding;
use crate::elements::desired;
use crate::features::publish;
use crate::{Error, Host, elements, features, flows, lost, moments};

/// The note that says what rnet last wrote or saw.
const NOTE: &str = "ruleset";

/// The note that says what the last rebuild left out, a line for each element.
const LEFT_OUT: &str = "left-out";

/// Adds elements. Where somebody flushed or changed the ruleset, or another version of rnet wrote it, it is made anew, with
/// those that are `unrecorded` besides.
///
/// The lock that comes back keeps rebuilds away.
pub fn put(
    host: &mut Host,
    elements: &[(Element, Owner)],
    unrecorded: &[(Element, Owner)],
) -> Result<Lock, Error> {
    let lock = host.lock(LockName::Ruleset, Mode::Shared)?;
    if add(host, elements)? { Ok(lock) } else { look(host, lock, unrecorded) }
}

/// Makes sure of the ruleset without adding to it.
pub fn confirm(host: &mut Host) -> Result<Lock, Error> {
    let lock = host.lock(LockName::Ruleset, Mode::Shared)?;
    let generation = host.firewall()?.generation()?;
    if is_known(host, generation)? { Ok(lock) } else { look(host, lock, &[]) }
}

/// Removes those of the elements that are there; true if any was. Under the ruleset's lock.
pub fn remove(host: &mut Host, elements: &[(Element, Owner)]) -> Result<bool, Error> {
    withdraw(host, elements, &[])
}

/// The same for a container that leaves addresses behind, which are stale from then on.
pub fn withdraw(host: &mut Host, elements: &[(Element, Owner)], left: &[IpAddr]) -> Result<bool, Error> {
    let _alone = host.lock(LockName::Transaction, Mode::Exclusive)?;
    let Some(before) = host.firewall()?.withdraw(elements, left)? else { return Ok(false) };
    follow(host, before, 1)?;
    host.note_deletion()?;
    Ok(true)
}

/// Does something else with the ruleset that is no business of other programs', so that they are not taken for its authors.
pub fn write<T>(
    host: &mut Host,
    write: impl FnOnce(&mut Firewall) -> Result<T, nft::Error>,
) -> Result<T, Error> {
    let _alone = host.lock(LockName::Transaction, Mode::Exclusive)?;
    let before = match host.firewall()?.generation() {
        // Nothing is there; whether that is a failure, the caller knows.
        Err(nft::Error::Missing(_)) => return Ok(write(host.firewall()?)?),
        other => other?,
    };
    let commits = host.firewall()?.commits();
    let written = write(host.firewall()?)?;
    let own = host.firewall()?.commits().wrapping_sub(commits);
    if host.firewall()?.generation()? == before.wrapping_add(own) {
        follow(host, before, own)?;
    }
    Ok(written)
}

/// Notes that so many transactions of rnet's followed directly upon the generation `before`, if that one is noted.
pub fn follow(host: &Host, before: u32, own: u32) -> Result<(), Error> {
    if let Some(seen) = Seen::at(before, host)? {
        // A note that cannot be written costs the next ADD a closer look, nothing else.
        let _ = Seen { generation: before.wrapping_add(own), ..seen }.write(host);
    }
    Ok(())
}

/// Makes the whole ruleset anew out of the records, in one transaction. Under the exclusive ruleset lock.
pub fn rebuild(host: &mut Host, more: &[(Element, Owner)]) -> Result<(), Error> {
    let mut elements = desired(host)?;
    elements.extend(lost::elements(host)?);
    refuse_taken(host, &elements, more)?;
    elements.extend_from_slice(more);
    let stale = flows::stale(host)?;
    let alone = host.lock(LockName::Transaction, Mode::Exclusive)?;
    let (before, commits) = (host.firewall()?.generation()?, host.firewall()?.commits());
    let rebuilt = host.firewall()?.rebuild(&elements, &stale)?;
    // Where others disturbed it, that is none, and the next ADD looks again.
    let generation = before.wrapping_add(host.firewall()?.commits().wrapping_sub(commits));
    Seen { identity: identity(), generation, state: rebuilt.state.to_string() }.write(host)?;
    drop(alone);
    flows::restored(host)?;
    tell_left_out(host, &rebuilt.left_out)?;
    features::each(|feature| feature.restore(host))
}

/// Where the tables were gone or unknown, the kernel did not refuse a host port that is another's.
fn refuse_taken(host: &mut Host, held: &[(Element, Owner)], more: &[(Element, Owner)]) -> Result<(), Error> {
    for (element, owner) in more {
        let holder =
            held.iter().find(|(other, holder)| holder != owner && elements::is_same_port(other, element));
        if let Some((_, holder)) = holder {
            return Err(publish::taken(host, element, Some(*holder)));
        }
    }
    Ok(())
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
pub fn restore(host: &mut Host) -> Result<(), Error> {
    let lock = host.lock(LockName::Ruleset, Mode::Shared)?;
    look(host, lock, &[]).map(drop)
}

/// The same, unless rnet has nothing in the ruleset.
pub fn restore_present(host: &mut Host) -> Result<(), Error> {
    let lock = host.lock(LockName::Ruleset, Mode::Shared)?;
    if Seen::read(host)?.is_some() { look(host, lock, &[]).map(drop) } else { Ok(()) }
}

/// Whether rnet has seen the ruleset of that generation, or has none.
pub fn has_seen(store: &Store, generation: u32) -> Result<bool, Error> {
    Ok(Seen::of(store)?.is_none_or(|seen| seen.generation == generation && seen.is_of_this_version()))
}

/// Forgets what was last written: the tables are about to go.
pub fn forget(host: &Host) -> Result<(), Error> {
    Ok(host.store.remove_note(NOTE)?)
}

/// True if the constant part in the kernel is this program's.
pub fn is_intact(host: &mut Host) -> Result<bool, Error> {
    Ok(finding(host)?.is_none())
}

/// What is wrong with the constant part in the kernel.
pub fn finding(host: &mut Host) -> Result<Option<Finding>, Error> {
    let found = host.firewall()?.state()?.map(|state| state.to_string());
    let seen = Seen::read(host)?;
    Ok(match (found, seen) {
        (Some(_), seen) if !seen.as_ref().is_some_and(Seen::is_of_this_version) => {
            Some(Finding::OtherRuleset)
        }
        (Some(found), Some(seen)) if found == seen.state => None,
        _ => Some(Finding::RulesetChanged),
    })
}

/// True if the elements are in and nobody else has written since rnet last looked.
fn add(host: &mut Host, elements: &[(Element, Owner)]) -> Result<bool, Error> {
    let _alone = host.lock(LockName::Transaction, Mode::Exclusive)?;
    // Another version may have other sets.
    let Some(seen) = Seen::read(host)?.filter(Seen::is_of_this_version) else { return Ok(false) };
    let before = host.firewall()?.generation()?;
    match host.firewall()?.add(elements) {
        Err(nft::Error::Taken { element, holder }) => return Err(publish::taken(host, &element, holder)),
        Err(nft::Error::Absent) => return Ok(false),
        other => other?,
    }
    let after = host.firewall()?.generation()?;
    let known = seen.generation == before && after == before.wrapping_add(1);
    if known {
        Seen { generation: after, ..seen }.write(host)?;
    }
    Ok(known)
}

/// Somebody has written: reads what is there, and makes it right.
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
    if !is_intact(host)? {
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
    // Otherwise somebody wrote meanwhile, and the next ADD looks again.
    if generation == before.wrapping_add(own)
        && let Some(seen) = Seen::read(host)?
    {
        Seen { generation, ..seen }.write(host)?;
    }
    Ok(true)
}

/// That of this program's constant part.
fn identity() -> u64 {
    static IDENTITY: OnceLock<u64> = OnceLock::new();
    *IDENTITY.get_or_init(|| Ruleset::constant().identity())
}

fn is_known(host: &Host, generation: u32) -> Result<bool, Error> {
    Ok(Seen::at(generation, host)?.is_some())
}

/// The constant part of the ruleset as rnet last wrote it, and the generation at which all was last seen as it should be.
struct Seen {
    /// [`Ruleset::identity`] of the program that wrote it.
    identity: u64,
    generation: u32,
    state: String,
}

impl Seen {
    fn read(host: &Host) -> Result<Option<Self>, Error> {
        Self::of(&host.store)
    }

    fn of(store: &Store) -> Result<Option<Self>, Error> {
        Ok(store.note(NOTE)?.as_deref().and_then(Self::parse))
    }

    /// What is noted for that generation by this version of rnet.
    fn at(generation: u32, host: &Host) -> Result<Option<Self>, Error> {
        let seen = Self::read(host)?;
        Ok(seen.filter(|seen| seen.generation == generation && seen.is_of_this_version()))
    }

    /// An earlier version's note has no identity in its first line, and takes ours for none of its own.
    fn parse(note: &str) -> Option<Self> {
        let (first, state) = note.split_once('\n')?;
        let (identity, generation) = first.split_once(' ')?;
        let identity = u64::from_str_radix(identity, 16).ok()?;
        Some(Self { identity, generation: generation.parse().ok()?, state: state.to_owned() })
    }

    fn is_of_this_version(&self) -> bool {
        self.identity == identity()
    }

    fn write(&self, host: &Host) -> Result<(), Error> {
        let Self { identity, generation, state } = self;
        Ok(host.store.write_note(NOTE, &format!("{identity:016x} {generation}\n{state}"))?)
    }
}
