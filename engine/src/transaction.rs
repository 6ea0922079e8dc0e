//! rnet's transactions with the ruleset in the kernel, and what is noted of them.
//!
//! The generation, which every change to any ruleset of the host raises, says whether another program has written since rnet last
//! looked. rnet's own transactions go one at a time, each under a lock until its generation is noted. So a generation that is
//! not noted is another program's, or that of a call that was killed in between.

use std::net::IpAddr;
use std::sync::OnceLock;

use nft::{Element, Firewall, Owner, Ruleset};
use store::{LockName, Mode, Store};

use crate::{Error, Finding, Host};

/// The note that says what rnet last wrote or saw.
const NOTE: &str = "ruleset";

/// Removes those of the elements that are there; true if any was. Under the ruleset's lock.
///
/// # Errors
/// The kernel refuses the transaction.
pub fn remove(host: &mut Host, elements: &[(Element, Owner)]) -> Result<bool, Error> {
    withdraw(host, elements, &[])
}

/// The same for a container that leaves addresses behind, which are stale from then on.
///
/// # Errors
/// The kernel refuses the transaction.
pub fn withdraw(host: &mut Host, elements: &[(Element, Owner)], left: &[IpAddr]) -> Result<bool, Error> {
    let _alone = host.lock(LockName::Transaction, Mode::Exclusive)?;
    let Some(before) = host.firewall()?.withdraw(elements, left)? else { return Ok(false) };
    follow(host, before, 1)?;
    host.note_deletion()?;
    Ok(true)
}

/// Does something else with the ruleset that is no business of other programs', so that they are not taken for its authors.
///
/// # Errors
/// The kernel refuses it, or the lock is not free in time.
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
///
/// # Errors
/// The note cannot be read.
pub fn follow(host: &Host, before: u32, own: u32) -> Result<(), Error> {
    if let Some(seen) = Seen::at(before, host)? {
        // A note that cannot be written costs the next ADD a closer look, nothing else.
        let _ = Seen { generation: before.wrapping_add(own), ..seen }.write(host);
    }
    Ok(())
}

/// Whether rnet has seen the ruleset of that generation, or has none.
///
/// # Errors
/// The note cannot be read.
pub fn has_seen(store: &Store, generation: u32) -> Result<bool, Error> {
    Ok(Seen::of(store)?.is_none_or(|seen| seen.generation == generation && seen.is_of_this_version()))
}

/// Forgets what was last written: the tables are about to go.
///
/// # Errors
/// The note cannot be removed.
pub fn forget(host: &Host) -> Result<(), Error> {
    Ok(host.store.remove_note(NOTE)?)
}

/// True if the constant part in the kernel is this program's.
///
/// # Errors
/// The ruleset cannot be read.
pub fn is_intact(host: &mut Host) -> Result<bool, Error> {
    Ok(finding(host)?.is_none())
}

/// What is wrong with the constant part in the kernel.
///
/// # Errors
/// The ruleset cannot be read.
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
pub(crate) fn add(host: &mut Host, elements: &[(Element, Owner)]) -> Result<bool, Error> {
    let _alone = host.lock(LockName::Transaction, Mode::Exclusive)?;
    // Another version may have other sets.
    let Some(seen) = Seen::read(host)?.filter(Seen::is_of_this_version) else { return Ok(false) };
    let before = host.firewall()?.generation()?;
    match host.firewall()?.add(elements) {
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

/// That of this program's constant part.
pub(crate) fn identity() -> u64 {
    static IDENTITY: OnceLock<u64> = OnceLock::new();
    *IDENTITY.get_or_init(|| Ruleset::constant().identity())
}

pub(crate) fn is_known(host: &Host, generation: u32) -> Result<bool, Error> {
    Ok(Seen::at(generation, host)?.is_some())
}

/// The constant part of the ruleset as rnet last wrote it, and the generation at which all was last seen as it should be.
pub(crate) struct Seen {
    /// [`Ruleset::identity`] of the program that wrote it.
    pub(crate) identity: u64,
    /// The generation.
    pub(crate) generation: u32,
    /// The constant part as the kernel shows it.
    pub(crate) state: String,
}

impl Seen {
    pub(crate) fn read(host: &Host) -> Result<Option<Self>, Error> {
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

    pub(crate) fn write(&self, host: &Host) -> Result<(), Error> {
        let Self { identity, generation, state } = self;
        Ok(host.store.write_note(NOTE, &format!("{identity:016x} {generation}\n{state}"))?)
    }
}
