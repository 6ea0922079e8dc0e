//! Elements looked up by their keys: singly, or, where that is faster, in the dump of a whole set.

use std::collections::HashMap;

use rustix::io::Errno;

use super::exchange::message;
use super::{Firewall, QUESTIONS};
use crate::element::{Entry, Owner};
use crate::encode::Requests;
use crate::error::Error;
use crate::ruleset::Set;

/// An answer to a question takes as long as so many elements of a dump.
const DUMP_RATIO: usize = 8;

/// Whether an element exists that was looked up by its key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    Absent,
    /// It exists, with the owner that its comment names.
    Held(Option<Owner>),
}

impl Presence {
    pub(crate) fn owner(self) -> Option<Owner> {
        match self {
            Self::Absent => None,
            Self::Held(owner) => owner,
        }
    }
}

/// The elements of a set: their keys and owners.
type Holders = HashMap<Vec<u8>, Option<Owner>>;

impl Firewall {
    /// Reads elements by key, and the generation before.
    pub(super) fn look_up<'e>(
        &mut self,
        entries: impl Iterator<Item = &'e Entry>,
    ) -> Result<(Vec<Presence>, u32), Error> {
        let generation = self.generation()?;
        let entries: Vec<&Entry> = entries.collect();
        let dumped = self.dump_crowded(&entries)?;
        let (mut found, mut open) = (vec![Presence::Absent; entries.len()], Vec::new());
        for (at, entry) in entries.iter().enumerate() {
            match dumped.get(entry.set.name) {
                Some(held) => {
                    found[at] = held.get(&entry.key).map_or(Presence::Absent, |o| Presence::Held(*o))
                }
                None => open.push(at),
            }
        }
        for chunk in open.chunks(QUESTIONS) {
            let asked: Vec<&Entry> = chunk.iter().map(|at| entries[*at]).collect();
            chunk.iter().zip(self.ask_for(&asked)?).for_each(|(at, presence)| found[*at] = presence);
        }
        Ok((found, generation))
    }

    /// Dumps those sets of which so many elements are wanted that a dump is faster.
    fn dump_crowded(&mut self, entries: &[&Entry]) -> Result<HashMap<&'static str, Holders>, Error> {
        let mut asked: HashMap<&'static str, (&'static Set, usize)> = HashMap::new();
        if entries.len() > QUESTIONS {
            entries.iter().for_each(|entry| asked.entry(entry.set.name).or_insert((entry.set, 0)).1 += 1);
        }
        let mut dumped = HashMap::new();
        for (set, asked) in asked.into_values().filter(|(_, asked)| *asked > QUESTIONS) {
            if self.size(set)?.is_some_and(|size| size < asked * DUMP_RATIO) {
                let elements = self.dump_set(set)?;
                dumped.insert(
                    set.name,
                    elements.into_iter().map(|(entry, owner)| (entry.key, owner)).collect(),
                );
            }
        }
        Ok(dumped)
    }

    /// How many elements a set has (NFTA_SET_COUNT); `None` if it is absent or the kernel is older than 6.15.
    fn size(&mut self, set: &Set) -> Result<Option<usize>, Error> {
        const DOING: &str = "reading a set's size";
        let mut requests = self.requests();
        requests.get_set(set);
        let mut size = None;
        self.exchange(DOING, &requests, |reply| {
            size = size.or(message(DOING, &reply, &[Errno::NOENT])?.and_then(|set| set.set_size()));
            Ok(())
        })?;
        Ok(size.map(|size| size as usize))
    }

    /// All elements of one set; none if it is absent.
    pub(crate) fn dump_set(&mut self, set: &'static Set) -> Result<Vec<(Entry, Option<Owner>)>, Error> {
        let ask = |requests: &mut Requests| requests.dump_elements(set);
        let parts = self.dump("reading elements", ask, |reply| reply.elements(set))?;
        Ok(parts.into_iter().flatten().collect())
    }

    /// Those of the entries that exist, as the kernel has them.
    pub(crate) fn read_entries(&mut self, entries: &[&Entry]) -> Result<Vec<(Entry, Option<Owner>)>, Error> {
        const DOING: &str = "looking up elements";
        let mut requests = self.requests();
        let first = requests.first();
        entries.iter().for_each(|entry| requests.get_element(entry));
        let mut found = Vec::new();
        self.exchange(DOING, &requests, |reply| {
            let at = reply.sequence.wrapping_sub(first) as usize;
            if let Some(message) = message(DOING, &reply, &[Errno::NOENT])? {
                found.extend(message.elements(entries[at].set).ok_or(Error::Answer { doing: DOING })?);
            }
            Ok(())
        })?;
        Ok(found)
    }

    pub(crate) fn ask_for(&mut self, entries: &[&Entry]) -> Result<Vec<Presence>, Error> {
        const DOING: &str = "looking up elements";
        let mut requests = self.requests();
        let first = requests.first();
        entries.iter().for_each(|entry| requests.get_element(entry));
        let mut found = vec![Presence::Absent; entries.len()];
        self.exchange(DOING, &requests, |reply| {
            let at = reply.sequence.wrapping_sub(first) as usize;
            if let Some(message) = message(DOING, &reply, &[Errno::NOENT])? {
                let elements = message.elements(entries[at].set).ok_or(Error::Answer { doing: DOING })?;
                found[at] = presence(entries[at], &elements);
            }
            Ok(())
        })?;
        Ok(found)
    }
}

/// What an answer says of `entry`. Asked for an interval, the kernel returns any that contains the first key.
fn presence(entry: &Entry, elements: &[(Entry, Option<Owner>)]) -> Presence {
    let is_it = |found: &Entry| entry.end.is_none() || (&found.key, &found.end) == (&entry.key, &entry.end);
    if elements.iter().any(|(found, _)| is_it(found)) {
        return Presence::Held(elements.iter().find_map(|(_, owner)| *owner));
    }
    Presence::Absent
}
