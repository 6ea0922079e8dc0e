//! Addresses that a container has left: until its flows are forgotten, only such pass as began since.
//!
//! To read conntrack's table takes 15 ms and more on a busy host, so that is left to a process that nobody waits for. Until it
//! is done the address is in `stale4/6`, and the rules let nothing pass that is not in `fresh4/6`, where they write down what
//! begins meanwhile. Each change of hands gives the element in `stale4/6` another tag: so it is known for whom what is in
//! `fresh4/6` was written down, and whether the flows that were read are those of the last holder.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;

use crate::apply::{Firewall, Presence};
use crate::conntrack::Flow;
use crate::element::{Entry, Owner};
use crate::encode::Requests;
use crate::error::{Error, or_empty};
use crate::ruleset::{self, Set};

/// The first half of a tag: nobody has the address, or somebody else has it.
const LEFT: u64 = 0x6c65_6674;
const TAKEN: u64 = 0x7461_6b65;

/// A stale address and whose it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stale {
    /// The address.
    pub address: IpAddr,
    tag: Owner,
}

impl Stale {
    /// An address that its container leaves just now.
    pub fn left(address: IpAddr) -> Self {
        Self { address, tag: tag(LEFT) }
    }

    /// As a line of text.
    pub fn line(&self) -> String {
        format!("{} {}", self.address, self.tag)
    }

    /// Reads what [`Stale::line`] wrote.
    pub fn parse(line: &str) -> Option<Self> {
        let (address, tag) = line.split_once(' ')?;
        Some(Self { address: address.parse().ok()?, tag: Owner::new(tag)? })
    }

    fn taken(address: IpAddr) -> Self {
        Self { address, tag: tag(TAKEN) }
    }

    fn is_taken(&self) -> bool {
        self.tag.number() >> 32 == TAKEN
    }

    pub(crate) fn entry(&self) -> Entry {
        Entry::of_address(set(self.address.is_ipv6()), self.address)
    }
}

fn is_left(found: &Presence) -> bool {
    found.owner().is_some_and(|tag| tag.number() >> 32 != TAKEN)
}

fn set(v6: bool) -> &'static Set {
    if v6 { &ruleset::STALE6 } else { &ruleset::STALE4 }
}

/// Not a number that came before: the standard library's hashers begin at random.
fn tag(kind: u64) -> Owner {
    Owner::from_number(kind << 32 | RandomState::new().build_hasher().finish() >> 32)
}

impl Firewall {
    /// The stale addresses.
    pub fn stale(&mut self) -> Result<Vec<Stale>, Error> {
        let mut all = Vec::new();
        for set in [&ruleset::STALE4, &ruleset::STALE6] {
            let found = or_empty(self.dump_set(set))?.into_iter();
            all.extend(found.filter_map(|(entry, tag)| Some(Stale { address: entry.address()?, tag: tag? })));
        }
        Ok(all)
    }

    /// True if any of the addresses was left and nobody has it. Costs a message for each.
    pub fn are_left(&mut self, addresses: &[IpAddr]) -> Result<bool, Error> {
        let entries: Vec<Entry> =
            addresses.iter().map(|address| Entry::of_address(set(address.is_ipv6()), *address)).collect();
        let found = or_empty(self.ask_for(&entries.iter().collect::<Vec<_>>()))?;
        Ok(found.iter().any(is_left))
    }

    /// Says that addresses that were left have a new holder: what began before is none of its flows.
    pub fn take_over(&mut self, addresses: &[IpAddr]) -> Result<(), Error> {
        const DOING: &str = "taking over addresses";
        let wanted: Vec<Stale> = addresses.iter().map(|address| Stale::taken(*address)).collect();
        let entries: Vec<Entry> = wanted.iter().map(Stale::entry).collect();
        self.until_undisturbed(DOING, |firewall, batch| {
            let found = firewall.ask_for(&entries.iter().collect::<Vec<_>>())?;
            let own: Vec<&Stale> = wanted
                .iter()
                .zip(&found)
                .filter(|(_, found)| is_left(found))
                .map(|(stale, _)| stale)
                .collect();
            let fresh = firewall.fresh()?;
            let fresh: Vec<&Entry> = fresh
                .iter()
                .filter(|entry| own.iter().any(|stale| Some(stale.address) == entry.address()))
                .collect();
            batch.delete_elements(&fresh);
            own.iter().for_each(|stale| replace(batch, stale, true));
            Ok(())
        })
    }

    /// Forgets the flows of these stale addresses except those that began since. Returns what is stale no longer.
    ///
    /// The tables may go meanwhile, with the last network: then nobody has begun any.
    pub fn forget_stale(&mut self, before: &[Stale]) -> Result<Vec<Stale>, Error> {
        let flows: Vec<Flow> = before.iter().map(|stale| Flow::Of(stale.address)).collect();
        let found = self.find_tracked(&flows, &mut |_| false)?;
        // Whose flows these are is asked after they were read.
        let fresh = self.fresh()?.into_iter().filter_map(|entry| Some((entry.address()?, entry.flow()?)));
        let fresh: HashSet<(IpAddr, [u8; 4])> = fresh.collect();
        let now = before.iter().copied().chain(self.stale()?);
        let now: HashMap<IpAddr, Stale> = now.map(|stale| (stale.address, stale)).collect();
        let is_old = |end: &(IpAddr, [u8; 4])| {
            now.get(&end.0).is_some_and(|stale| !stale.is_taken() || !fresh.contains(end))
        };
        let old: Vec<_> = found.into_iter().filter(|tracked| tracked.ends().iter().any(is_old)).collect();
        self.delete_all_tracked(&old)?;
        Ok(before.iter().filter_map(|stale| now.get(&stale.address).copied()).collect())
    }

    /// Takes addresses out that are stale no longer, those that did not change hands since. Returns the generation before.
    pub fn clear(&mut self, stale: &[Stale]) -> Result<Option<u32>, Error> {
        let entries: Vec<(Entry, Owner)> = stale.iter().map(|stale| (stale.entry(), stale.tag)).collect();
        self.remove_entries(&entries)
    }

    /// What rules have added to the dynamic sets.
    fn fresh(&mut self) -> Result<Vec<Entry>, Error> {
        let mut all = Vec::new();
        for set in [&ruleset::FRESH4, &ruleset::FRESH6] {
            all.extend(or_empty(self.dump_set(set))?.into_iter().map(|(entry, _)| entry));
        }
        Ok(all)
    }
}

/// Puts a stale address in, in place of what is there.
pub(crate) fn replace(batch: &mut Requests, stale: &Stale, is_there: bool) {
    let entry = stale.entry();
    if is_there {
        batch.delete_elements(&[&entry]);
    }
    batch.create_element(&entry, stale.tag, false);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_address_is_a_line_of_text_and_back() {
        for stale in [Stale::left("172.18.0.2".parse().unwrap()), Stale::taken("fd00::2".parse().unwrap())] {
            assert_eq!(Stale::parse(&stale.line()), Some(stale));
        }
        assert_eq!(Stale::parse("172.18.0.2"), None);
        assert_eq!(Stale::parse("172.18.0.2 nobody"), None);
    }

    #[test]
    fn every_tag_is_another_and_tells_its_kind() {
        let (one, two) = (Stale::left("::1".parse().unwrap()), Stale::left("::1".parse().unwrap()));
        assert_ne!(one, two);
        assert!(!one.is_taken() && Stale::taken("::1".parse().unwrap()).is_taken());
    }
}
