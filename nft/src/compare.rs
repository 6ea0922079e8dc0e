//! Whether the kernel has what it should have.

use std::collections::HashMap;

use crate::apply::Firewall;
use crate::element::{Element, Entry, Owner};
use crate::error::Error;
use crate::ruleset::Set;

/// What is wanted of one set, by key. Two owners may want one key, as two networks of one subnet do: either is right.
type WantedEntries<'e> = HashMap<&'e [u8], Vec<(&'e Entry, Owner)>>;

/// Up to so many elements are looked up one by one.
const FEW: usize = 32;

impl Firewall {
    /// True if each of these elements is in the kernel, with its data and its owner, except those that no ruleset can
    /// hold. Dumps the sets that many of the elements are in.
    ///
    /// # Errors
    /// If the kernel's answer cannot be read, or other programs change the ruleset during every attempt.
    pub fn holds(&mut self, elements: &[(Element, Owner)]) -> Result<bool, Error> {
        let mut entries = Vec::with_capacity(elements.len());
        // What no ruleset can hold is not missing.
        let possible = elements.iter().filter_map(|(element, owner)| Some((element.entries().ok()?, *owner)));
        possible.for_each(|(all, owner)| entries.extend(all.map(|entry| (entry, owner))));
        for (set, wanted) in by_set(&entries) {
            let found = if wanted.len() > FEW { self.dump_set(set)? } else { self.each_of(&wanted)? };
            if !has_all(wanted, &found) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn each_of(&mut self, wanted: &WantedEntries<'_>) -> Result<Vec<(Entry, Option<Owner>)>, Error> {
        let asked: Vec<&Entry> =
            wanted.values().flat_map(|any| any.first()).map(|(entry, _)| *entry).collect();
        self.read_entries(&asked)
    }
}

fn has_all(mut wanted: WantedEntries<'_>, found: &[(Entry, Option<Owner>)]) -> bool {
    for (found, owner) in found {
        let fits = |(entry, wanted): &(&Entry, Owner)| is_same(entry, found) && *owner == Some(*wanted);
        if wanted.get(&found.key[..]).is_some_and(|any| any.iter().any(fits)) {
            wanted.remove(&found.key[..]);
        }
    }
    wanted.is_empty()
}

fn by_set(entries: &[(Entry, Owner)]) -> Vec<(&'static Set, WantedEntries<'_>)> {
    let mut sets: HashMap<&str, (&'static Set, WantedEntries<'_>)> = HashMap::new();
    for (entry, owner) in entries {
        let (_, wanted) = sets.entry(entry.set.name).or_insert_with(|| (entry.set, WantedEntries::new()));
        wanted.entry(&entry.key).or_default().push((entry, *owner));
    }
    sets.into_values().collect()
}

/// The kernel may leave out the end of a range of one.
fn is_same(wanted: &Entry, found: &Entry) -> bool {
    fn end(entry: &Entry) -> &[u8] {
        entry.end.as_deref().unwrap_or(&entry.key)
    }
    wanted.key == found.key && end(wanted) == end(found) && wanted.data == found.data
}
