//! The whole ruleset: put into the kernel with all elements in one transaction, and taken out again.

use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};

use rustix::io::Errno;

use super::elements::{OwnedEntry, by_set};
use super::exchange::{Outcome, refusal};
use super::{ATTEMPTS, Firewall};
use crate::element::{Element, Owner};
use crate::encode::Requests;
use crate::error::{Error, or_empty};
use crate::missing::find_missing;
use crate::ruleset::{Ruleset, Table};
use crate::stale::{self, Stale};
use crate::state::State;

/// The most bytes that the constant part of a rebuild takes, and one element.
const RULES_SIZE: usize = 32 << 10;
const ELEMENT_SIZE: usize = 192;

/// The outcome of a rebuild.
#[derive(Debug)]
pub struct Rebuilt {
    /// What identifies the constant part.
    pub state: State,
    /// The elements that the ruleset lacks.
    pub left_out: Vec<LeftOut>,
}

/// An element that a ruleset cannot hold at all, or not beside the others.
#[derive(Debug)]
pub struct LeftOut {
    /// The element.
    pub element: Element,
    /// Whose it is.
    pub owner: Owner,
    /// Why it was left out.
    pub why: Error,
}

impl Firewall {
    /// Puts the whole ruleset into the kernel with exactly these elements and stale addresses, in one transaction. If
    /// another program changes any ruleset before the state is read, it is done again.
    ///
    /// A process that may not enlarge its send buffer at will (no CAP_NET_ADMIN in the initial user
    /// namespace) sends what does not fit into `net.core.wmem_max` in further transactions.
    ///
    /// An element that the ruleset cannot hold is left out and returned: it must not prevent all others.
    ///
    /// # Errors
    /// [`Error::Missing`] if this kernel lacks something that the rules need; the kernel's refusal of the whole; or other
    /// programs change the ruleset during every attempt.
    pub fn rebuild(&mut self, elements: &[(Element, Owner)], stale: &[Stale]) -> Result<Rebuilt, Error> {
        let mut left_out = Vec::new();
        let mut entries = possible_entries(elements, &mut left_out);
        drop_double_claims(&mut entries, &mut left_out);
        let state = match self.rebuild_whole(&entries, stale) {
            Err(Error::Kernel { errno, .. }) if is_about_an_element(errno) => {
                self.drop_refused(&mut entries, &mut left_out)?;
                self.rebuild_whole(&entries, stale)?
            }
            other => other?,
        };
        Ok(Rebuilt { state, left_out })
    }

    /// Drops the elements that the kernel refuses beside the others. They are put in once, each in a message of its own:
    /// then the kernel reports each that it refuses.
    fn drop_refused(
        &mut self,
        entries: &mut Vec<OwnedEntry<'_>>,
        left_out: &mut Vec<LeftOut>,
    ) -> Result<(), Error> {
        const DOING: &str = "finding the elements that the kernel refuses";
        self.make_room(RULES_SIZE + entries.len() * ELEMENT_SIZE);
        for _ in 0..ATTEMPTS {
            let mut first = 0;
            let (generation, present) = (self.generation()?, self.present_tables()?);
            let outcome = self.transact(DOING, Some(generation), |batch| {
                present.iter().for_each(|table| batch.delete_table(table));
                batch.create_tables(&Ruleset::constant());
                first = batch.count() as usize - 1;
                entries.iter().for_each(|owned| batch.create_element(&owned.entry, owned.owner, false));
            })?;
            let errors = match outcome {
                Outcome::Done => return Ok(()),
                Outcome::Changed => continue,
                Outcome::Refused(errors) => errors,
            };
            let refused: HashMap<usize, Errno> =
                errors.iter().filter_map(|(at, errno)| Some((at.checked_sub(first)?, *errno))).collect();
            if refused.is_empty() {
                return Err(refusal(DOING, &errors));
            }
            leave_out(entries, &refused, left_out);
        }
        Err(Error::Restless { doing: DOING, attempts: ATTEMPTS })
    }

    fn rebuild_whole(&mut self, entries: &[OwnedEntry<'_>], stale: &[Stale]) -> Result<State, Error> {
        const DOING: &str = "rebuilding the ruleset";
        let entries = by_set(entries.iter().collect());
        self.make_room(RULES_SIZE + entries.len() * ELEMENT_SIZE);
        let fitting = self.room.saturating_sub(RULES_SIZE) / ELEMENT_SIZE;
        let (now, later) = entries.split_at(entries.len().min(fitting));
        let later: Vec<_> = later.chunks(fitting.max(1)).collect();
        for _ in 0..ATTEMPTS {
            let before = self.generation()?;
            let present = self.present_tables()?;
            // Only existing tables: one that is made only to be deleted costs the next transaction a grace period.
            let replaced = self.transact(DOING, Some(before), |batch| {
                present.iter().for_each(|table| batch.delete_table(table));
                batch.create_tables(&Ruleset::constant());
                batch.create_elements(now, false);
                stale.iter().for_each(|stale| stale::replace(batch, stale, false));
            });
            let refused = match replaced {
                Ok(Outcome::Done) => None,
                Ok(Outcome::Changed) => continue,
                Ok(Outcome::Refused(errors)) => Some(refusal(DOING, &errors)),
                Err(error) => Some(error),
            };
            if let Some(error) = refused {
                return self.require_rules().and(Err(error));
            }
            later
                .iter()
                .try_for_each(|chunk| self.commit(DOING, |batch| batch.create_elements(chunk, false)))?;
            // If another program wrote meanwhile, this might be the state of a ruleset that was flushed again.
            let state = self.state()?;
            if self.generation()? == before.wrapping_add(1 + later.len() as u32) {
                return state.ok_or(Error::Absent);
            }
        }
        Err(Error::Restless { doing: DOING, attempts: ATTEMPTS })
    }

    /// Tries whether this kernel can take the rules. Changes nothing: the kernel aborts a transaction without BATCH_END.
    ///
    /// # Errors
    /// [`Error::Missing`] if it cannot, with the part that is missing.
    pub fn require_rules(&mut self) -> Result<(), Error> {
        const DOING: &str = "trying the rules";
        let mut batch = self.requests();
        batch.begin(None);
        batch.create_tables(&Ruleset::constant());
        let first = batch.first();
        let mut refused = None;
        self.exchange(DOING, &batch, |reply| {
            let errno = reply.errno().filter(|errno| *errno != 0).map(Errno::from_raw_os_error);
            refused = refused.or(errno.map(|errno| (reply.sequence.wrapping_sub(first) as usize, errno)));
            Ok(())
        })?;
        let Some((nth, errno)) = refused else { return Ok(()) };
        let feature = find_missing(batch.bytes(), nth);
        Err(feature.map_or(Error::Kernel { doing: DOING, errno }, Error::Missing))
    }

    /// Removes both tables; absent ones are fine.
    ///
    /// # Errors
    /// If the kernel refuses the removal, or other programs change the ruleset during every attempt.
    pub fn drop_tables(&mut self) -> Result<(), Error> {
        or_empty(self.drop_present_tables())
    }

    fn drop_present_tables(&mut self) -> Result<(), Error> {
        const DOING: &str = "removing the tables";
        for _ in 0..ATTEMPTS {
            let generation = self.generation()?;
            let present = self.present_tables()?;
            let delete = |batch: &mut Requests| present.iter().for_each(|table| batch.delete_table(table));
            match self.transact(DOING, Some(generation), delete)? {
                Outcome::Done => return Ok(()),
                Outcome::Changed => {}
                Outcome::Refused(errors) => return Err(refusal(DOING, &errors)),
            }
        }
        Err(Error::Restless { doing: DOING, attempts: ATTEMPTS })
    }

    pub(super) fn present_tables(&mut self) -> Result<Vec<&'static Table>, Error> {
        let mut present = Vec::new();
        for table in Ruleset::constant().tables {
            present.extend(self.table(table)?.map(|_| *table));
        }
        Ok(present)
    }
}

/// The entries of those elements that a ruleset can hold; the others go to `left_out`.
pub(super) fn possible_entries<'e>(
    elements: &'e [(Element, Owner)],
    left_out: &mut Vec<LeftOut>,
) -> Vec<OwnedEntry<'e>> {
    let mut all = Vec::with_capacity(elements.len() + 1);
    for (element, owner) in elements {
        match element.entries() {
            Ok(entries) => all.extend(entries.map(|entry| OwnedEntry { element, entry, owner: *owner })),
            Err(why) => left_out.push(LeftOut { element: element.clone(), owner: *owner, why }),
        }
    }
    all
}

/// Moves the refused entries, given by their places, to `left_out`.
fn leave_out(
    entries: &mut Vec<OwnedEntry<'_>>,
    refused: &HashMap<usize, Errno>,
    left_out: &mut Vec<LeftOut>,
) {
    let mut places = 0..;
    entries.retain(|owned| {
        let errno = places.next().and_then(|place: usize| refused.get(&place));
        left_out.extend(errno.map(|errno| {
            let element = owned.element.clone();
            let why = Error::Refused { element: element.clone(), errno: *errno };
            LeftOut { element, owner: owned.owner, why }
        }));
        errno.is_none()
    });
}

/// Keeps the first of two claims of one key.
fn drop_double_claims<'e>(entries: &mut Vec<OwnedEntry<'e>>, left_out: &mut Vec<LeftOut>) {
    let mut claims: HashMap<(&str, Vec<u8>), (&'e Element, Owner)> = HashMap::with_capacity(entries.len());
    entries.retain(|owned| {
        let OwnedEntry { element, owner, .. } = *owned;
        if !element.is_claim() {
            return true;
        }
        let held = match claims.entry((owned.entry.set.name, owned.entry.key.clone())) {
            Vacant(free) => {
                free.insert((element, owner));
                return true;
            }
            Occupied(held) => *held.get(),
        };
        if held != (element, owner) {
            let why = Error::Taken { element: element.clone(), holder: Some(held.1) };
            left_out.push(LeftOut { element: element.clone(), owner, why });
        }
        false
    });
}

/// Whether the kernel refused an element: its key overlaps another's, or is invalid.
fn is_about_an_element(errno: Errno) -> bool {
    [Errno::EXIST, Errno::NOTEMPTY, Errno::INVAL, Errno::RANGE].contains(&errno)
}
