//! Adding and removing elements by their owners, each in one transaction.

use std::collections::HashSet;
use std::net::IpAddr;

use rustix::io::Errno;

use super::exchange::{Outcome, refusal};
use super::look_up::Presence;
use super::rebuild::possible_entries;
use super::{ATTEMPTS, Firewall};
use crate::element::{Element, Entry, Owner};
use crate::encode::Requests;
use crate::error::{Error, or_empty};
use crate::ruleset::Ruleset;
use crate::stale::{self, Stale};

/// One kernel element to add or remove, the element to which it belongs, and the owner.
pub(super) struct OwnedEntry<'a> {
    pub element: &'a Element,
    pub entry: Entry,
    pub owner: Owner,
}

impl Firewall {
    /// Adds elements in one transaction: all of them or none.
    ///
    /// An [`Element::Publish`] whose key exists is refused, whatever it leads to. Any other element may exist; if it is a
    /// container's and has another owner, that owner must be gone, and the element gets the new one.
    ///
    /// # Errors
    /// [`Error::Taken`] for a host port that is published; [`Error::Absent`] if the tables must be rebuilt; the kernel's
    /// refusal of an element, which names it. Then nothing was changed.
    pub fn add(&mut self, elements: &[(Element, Owner)]) -> Result<(), Error> {
        const DOING: &str = "adding elements";
        let mut entries = entries(elements)?;
        // Two host ports may lead to one endpoint; a host port given twice is a mistake to report.
        drop_doubles(&mut entries, |element| !element.is_claim());
        let (shared, own): (Vec<&OwnedEntry<'_>>, Vec<_>) =
            entries.iter().partition(|owned| owned.element.is_shared());
        let fill = |batch: &mut Requests| {
            batch.create_elements(&by_set(own), true);
            batch.create_elements(&by_set(shared), false);
        };
        match self.transact(DOING, None, fill)? {
            Outcome::Refused(_) => self.add_singly(&entries),
            _ => Ok(()),
        }
    }

    /// The owners of elements, read by key: the cost does not depend on how many others there are.
    ///
    /// `None` for what is absent, carries no comment of rnet's or could never be in a ruleset ([`Element::fault`]).
    ///
    /// # Errors
    /// If the kernel's answer cannot be read, or other programs change the ruleset during every attempt.
    pub fn owners(&mut self, elements: &[Element]) -> Result<Vec<Option<Owner>>, Error> {
        let entries: Vec<Option<Entry>> = elements.iter().map(|element| element.entry().ok()).collect();
        let (found, _) = or_empty(self.look_up(entries.iter().flatten()))?;
        let mut found = found.into_iter().map(Presence::owner);
        Ok(entries.iter().map(|entry| entry.as_ref().and_then(|_| found.next().flatten())).collect())
    }

    /// Removes those of the elements that are there and belong to their owner, in one transaction.
    ///
    /// No other change can come between the look and the delete. Absent elements and tables are fine, and so are
    /// elements that no ruleset can hold. Returns the generation before the deletion, so that the deletion's own is the
    /// next one; `None` if there was nothing to delete.
    ///
    /// # Errors
    /// If the kernel refuses the deletion, or other programs change the ruleset during every attempt.
    pub fn remove(&mut self, elements: &[(Element, Owner)]) -> Result<Option<u32>, Error> {
        self.withdraw(elements, &[])
    }

    /// The same for a container that leaves addresses behind, which are stale from then on.
    ///
    /// # Errors
    /// As [`Firewall::remove`].
    pub fn withdraw(&mut self, elements: &[(Element, Owner)], left: &[IpAddr]) -> Result<Option<u32>, Error> {
        const DOING: &str = "removing elements";
        let mut entries = possible_entries(elements, &mut Vec::new());
        drop_doubles(&mut entries, |_| true);
        let entries: Vec<(Entry, Owner)> =
            entries.into_iter().map(|owned| (owned.entry, owned.owner)).collect();
        let left: Vec<Stale> = left.iter().map(|address| Stale::mark_left(*address)).collect();
        self.remove_and_leave(DOING, &entries, &left)
    }

    pub(crate) fn remove_entries(&mut self, entries: &[(Entry, Owner)]) -> Result<Option<u32>, Error> {
        self.remove_and_leave("removing elements", entries, &[])
    }

    fn remove_and_leave(
        &mut self,
        doing: &'static str,
        entries: &[(Entry, Owner)],
        left: &[Stale],
    ) -> Result<Option<u32>, Error> {
        let marks: Vec<Entry> = left.iter().map(Stale::entry).collect();
        for _ in 0..ATTEMPTS {
            let asked = entries.iter().map(|(entry, _)| entry).chain(&marks);
            let (mut found, generation) = match self.look_up(asked) {
                Err(Error::Missing(_)) => return Ok(None),
                other => other?,
            };
            let marked = found.split_off(entries.len());
            let own = entries.iter().zip(found);
            let own = own.filter(|((_, owner), found)| *found == Presence::Held(Some(*owner)));
            let mut own: Vec<&Entry> = own.map(|((entry, _), _)| entry).collect();
            if own.is_empty() {
                return Ok(None);
            }
            own.sort_by_key(|entry| entry.set.name);
            let outcome = self.transact(doing, Some(generation), |batch| {
                batch.delete_elements(&own);
                left.iter().zip(&marked).for_each(|(stale, found)| {
                    stale::replace(batch, stale, *found != Presence::Absent);
                });
            });
            match outcome? {
                Outcome::Done => return Ok(Some(generation)),
                Outcome::Changed => {}
                Outcome::Refused(errors) => return Err(refusal(doing, &errors)),
            }
        }
        Err(Error::Restless { doing, attempts: ATTEMPTS })
    }

    /// All elements of rnet's tables with the owners that their comments name.
    ///
    /// # Errors
    /// If the kernel's answer cannot be read, or other programs change the ruleset during every attempt.
    pub fn elements(&mut self) -> Result<Vec<(Element, Option<Owner>)>, Error> {
        let mut found = Vec::new();
        for set in Ruleset::constant().sets().filter(|set| set.dynamic.is_none()) {
            let ask = |requests: &mut Requests| requests.dump_elements(set);
            let elements = or_empty(self.dump("reading elements", ask, |reply| reply.elements(set)))?;
            found.extend(elements.into_iter().flatten());
        }
        Ok(whole_elements(&found))
    }

    /// One element to a message: the kernel says which of them it refuses.
    fn add_singly(&mut self, entries: &[OwnedEntry<'_>]) -> Result<(), Error> {
        const DOING: &str = "adding elements";
        let fill = |batch: &mut Requests| {
            for OwnedEntry { element, entry, owner } in entries {
                batch.create_element(entry, *owner, !element.is_shared());
            }
        };
        match self.transact(DOING, None, fill)? {
            Outcome::Refused(errors) => self.add_again(entries, errors),
            _ => Ok(()),
        }
    }

    /// Judges a refused add. If the only reason is that elements exist, they are read and taken over from their owners.
    fn add_again(&mut self, entries: &[OwnedEntry<'_>], errors: Vec<(usize, Errno)>) -> Result<(), Error> {
        const DOING: &str = "taking over elements";
        self.judge(entries, &errors)?;
        for _ in 0..ATTEMPTS {
            let (found, generation) = self.look_up(entries.iter().map(|owned| &owned.entry))?;
            refuse_held_claims(entries, &found)?;
            let fill = |batch: &mut Requests| {
                entries.iter().zip(&found).for_each(|(owned, found)| take_over(batch, owned, *found));
            };
            match self.transact(DOING, Some(generation), fill)? {
                Outcome::Done => return Ok(()),
                Outcome::Changed => {}
                Outcome::Refused(errors) => return Err(refusal(DOING, &errors)),
            }
        }
        Err(Error::Restless { doing: DOING, attempts: ATTEMPTS })
    }

    /// Turns the kernel's errors for an add into [`Error`], unless all of them are about elements that may exist.
    fn judge(&mut self, entries: &[OwnedEntry<'_>], errors: &[(usize, Errno)]) -> Result<(), Error> {
        let refused = errors.iter().filter_map(|(at, errno)| Some((entries.get(*at)?.element, *errno)));
        let refused: Vec<(&Element, Errno)> = refused.collect();
        if let Some((claim, _)) = refused.iter().find(|(e, errno)| e.is_claim() && *errno == Errno::EXIST) {
            let holder = self.owners(std::slice::from_ref(*claim))?.pop().flatten();
            return Err(Error::Taken { element: (*claim).clone(), holder });
        }
        match refused.iter().find(|(_, errno)| *errno != Errno::EXIST) {
            Some((_, Errno::NOENT)) => Err(Error::Absent),
            Some((element, errno)) => Err(Error::Refused { element: (*element).clone(), errno: *errno }),
            None => Ok(()),
        }
    }
}

fn entries(elements: &[(Element, Owner)]) -> Result<Vec<OwnedEntry<'_>>, Error> {
    let mut all = Vec::with_capacity(elements.len() + 1);
    for (element, owner) in elements {
        all.extend(element.entries()?.map(|entry| OwnedEntry { element, entry, owner: *owner }));
    }
    Ok(all)
}

/// Keeps the first of equal keys, among those elements that may be given twice.
fn drop_doubles(entries: &mut Vec<OwnedEntry<'_>>, may: impl Fn(&Element) -> bool) {
    let mut seen = HashSet::with_capacity(entries.len());
    entries
        .retain(|owned| !may(owned.element) || seen.insert((owned.entry.set.name, owned.entry.key.clone())));
}

/// Adds what is absent and replaces what has another owner, except what containers share.
fn take_over(batch: &mut Requests, owned: &OwnedEntry<'_>, found: Presence) {
    let OwnedEntry { element, entry, owner } = owned;
    let held = found != Presence::Absent;
    if held && (element.is_shared() || found.owner() == Some(*owner)) {
        return;
    }
    if held {
        batch.delete_elements(&[entry]);
    }
    batch.create_element(entry, *owner, !element.is_shared());
}

fn refuse_held_claims(entries: &[OwnedEntry<'_>], found: &[Presence]) -> Result<(), Error> {
    let held = |(owned, found): &(&OwnedEntry<'_>, &Presence)| {
        owned.element.is_claim() && **found != Presence::Absent
    };
    match entries.iter().zip(found).find(held) {
        Some((owned, found)) => Err(Error::Taken { element: owned.element.clone(), holder: found.owner() }),
        None => Ok(()),
    }
}

/// Elements of one set next to each other.
pub(super) fn by_set<'e>(mut entries: Vec<&'e OwnedEntry<'_>>) -> Vec<(&'e Entry, Owner)> {
    entries.sort_by_key(|owned| owned.entry.set.name);
    entries.into_iter().map(|owned| (&owned.entry, owned.owner)).collect()
}

/// Elements all of whose kernel elements are there.
fn whole_elements(found: &[(Entry, Option<Owner>)]) -> Vec<(Element, Option<Owner>)> {
    let present: HashSet<(&str, &[u8])> =
        found.iter().map(|(entry, _)| (entry.set.name, &entry.key[..])).collect();
    let whole = |element: &Element| {
        element
            .entries()
            .is_ok_and(|mut all| all.all(|entry| present.contains(&(entry.set.name, &entry.key[..]))))
    };
    let elements = found.iter().filter_map(|(entry, owner)| Some((Element::from_entry(entry)?, *owner)));
    elements.filter(|(element, _)| whole(element)).collect()
}
