//! Addresses that a container has left: until its flows are deleted, only flows that began since may pass.
//!
//! Reading conntrack's table takes 15 ms and more on a busy host, so a background process does it. Until that is done, the
//! address is in `stale4/6`, and the rules accept only flows in `fresh4/6`, to which they add those that begin meanwhile.
//! Each new holder gives the element in `stale4/6` another tag. It shows for which holder the flows in `fresh4/6` were
//! added, and whether the flows that were read are those of the last holder.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;

use crate::apply::{Firewall, Presence};
use crate::conntrack::Flow;
use crate::element::{Entry, Owner};
use crate::encode::Requests;
use crate::error::{Error, or_empty};
use crate::ruleset::{self, Set};

/// The first half of a tag: the address has no holder, or a new one.
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
    /// An address that its container leaves now.
    pub fn mark_left(address: IpAddr) -> Self {
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

    fn mark_taken(address: IpAddr) -> Self {
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

/// A number that was not used before: the standard library's hashers begin at random.
fn tag(kind: u64) -> Owner {
    Owner::from_number(kind << 32 | RandomState::new().build_hasher().finish() >> 32)
}

impl Firewall {
    /// The stale addresses.
    ///
    /// # Errors
    /// If the kernel's answer cannot be read, or other programs change the ruleset during every attempt.
    pub fn stale(&mut self) -> Result<Vec<Stale>, Error> {
        let mut all = Vec::new();
        for set in [&ruleset::STALE4, &ruleset::STALE6] {
            let found = or_empty(self.dump_set(set))?.into_iter();
            all.extend(found.filter_map(|(entry, tag)| Some(Stale { address: entry.address()?, tag: tag? })));
        }
        Ok(all)
    }

    /// True if any of the addresses was left and has no new holder. Costs a message for each.
    ///
    /// # Errors
    /// If the kernel's answer cannot be read.
    pub fn are_left(&mut self, addresses: &[IpAddr]) -> Result<bool, Error> {
        let entries: Vec<Entry> =
            addresses.iter().map(|address| Entry::of_address(set(address.is_ipv6()), *address)).collect();
        let found = or_empty(self.ask_for(&entries.iter().collect::<Vec<_>>()))?;
        Ok(found.iter().any(is_left))
    }

    /// Gives addresses that were left a new holder: flows that began before are not its own.
    ///
    /// # Errors
    /// If the kernel refuses the change, or other programs change the ruleset during every attempt.
    pub fn take_over(&mut self, addresses: &[IpAddr]) -> Result<(), Error> {
        const DOING: &str = "taking over addresses";
        let wanted: Vec<Stale> = addresses.iter().map(|address| Stale::mark_taken(*address)).collect();
        let entries: Vec<Entry> = wanted.iter().map(Stale::entry).collect();
        self.until_undisturbed(DOING, |firewall, batch| {
            let found = firewall.ask_for(&entries.iter().collect::<Vec<_>>())?;
            let own: Vec<&Stale> = wanted
                .iter()
                .zip(&found)
                .filter(|(_, found)| is_left(found))
                .map(|(stale, _)| stale)
                .collect();
            let fresh = firewall.read_fresh()?;
            let fresh: Vec<&Entry> = fresh
                .iter()
                .filter(|entry| own.iter().any(|stale| Some(stale.address) == entry.address()))
                .collect();
            batch.delete_elements(&fresh);
            own.iter().for_each(|stale| replace(batch, stale, true));
            Ok(())
        })
    }

    /// Deletes the flows of these stale addresses except those that began since. Returns the addresses that are no longer
    /// stale.
    ///
    /// The tables may be removed meanwhile, with the last network: then no flow has begun since.
    ///
    /// # Errors
    /// If the kernel lacks conntrack's netlink, or other programs change what is read during every attempt.
    pub fn forget_stale(&mut self, before: &[Stale]) -> Result<Vec<Stale>, Error> {
        let flows: Vec<Flow> = before.iter().map(|stale| Flow::Of(stale.address)).collect();
        let found = self.find_tracked(&flows, &mut |_| false)?;
        // The holders are read after the flows.
        let fresh =
            self.read_fresh()?.into_iter().filter_map(|entry| Some((entry.address()?, entry.flow()?)));
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

    /// Removes the marks of addresses that are no longer stale, unless they have a new holder. Returns the generation before.
    ///
    /// # Errors
    /// If the kernel refuses the removal, or other programs change the ruleset during every attempt.
    pub fn clear(&mut self, stale: &[Stale]) -> Result<Option<u32>, Error> {
        let entries: Vec<(Entry, Owner)> = stale.iter().map(|stale| (stale.entry(), stale.tag)).collect();
        self.remove_entries(&entries)
    }

    /// The flows that the rules have added to the dynamic sets.
    fn read_fresh(&mut self) -> Result<Vec<Entry>, Error> {
        let mut all = Vec::new();
        for set in [&ruleset::FRESH4, &ruleset::FRESH6] {
            all.extend(or_empty(self.dump_set(set))?.into_iter().map(|(entry, _)| entry));
        }
        Ok(all)
    }
}

/// Puts a stale address in, in place of an existing element.
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
        for stale in
            [Stale::mark_left("172.18.0.2".parse().unwrap()), Stale::mark_taken("fd00::2".parse().unwrap())]
        {
            assert_eq!(Stale::parse(&stale.line()), Some(stale));
        }
        assert_eq!(Stale::parse("172.18.0.2"), None);
        assert_eq!(Stale::parse("172.18.0.2 no-tag"), None);
    }

    #[test]
    fn every_tag_is_different_and_shows_its_kind() {
        let (one, two) = (Stale::mark_left("::1".parse().unwrap()), Stale::mark_left("::1".parse().unwrap()));
        assert_ne!(one, two);
        assert!(!one.is_taken() && Stale::mark_taken("::1".parse().unwrap()).is_taken());
    }
}
