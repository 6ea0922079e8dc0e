//! Reading and changing iptables-nft's chains, in which rnet's rules stand among others.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, netlink};

use super::{ATTEMPTS, Firewall, Outcome, READ, foreign_refusal, message};
use crate::encode::{Requests, replies};
use crate::error::Error;
use crate::interop::{CHAINS, Chain, Change, FAMILIES, FoundChain, FoundRule, Made, Passage, PassageRule};
use crate::ruleset::Family;
use crate::trace::Stop;

/// iptables' table of one family.
struct Filter {
    family: Family,
    exists: bool,
    forward: Option<FoundChain>,
    input: Option<FoundChain>,
    docker: Vec<FoundRule>,
}

/// The multicast group of changes to rulesets (NFNLGRP_NFTABLES), as a bit.
const CHANGES: u32 = 1 << 6;

/// A socket that can be read after any change of a ruleset in the calling thread's network namespace.
///
/// # Errors
/// There is no netfilter in this kernel, or no descriptor is left.
pub fn watch() -> Result<OwnedFd, Error> {
    let failed = |errno| Error::Socket { errno };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let protocol = Some(netlink::NETFILTER);
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol).map_err(failed)?;
    rustix::net::bind(&socket, &netlink::SocketAddrNetlink::new(0, CHANGES)).map_err(failed)?;
    Ok(socket)
}

/// What a socket of [`watch`] reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastChange {
    /// Only the tables of a probe were made and removed.
    OfProbe,
    /// The generation after the last change; `None` if it is not known.
    Generation(Option<u32>),
}

/// Reads all that a socket of [`watch`] has received.
pub fn last_change(socket: BorrowedFd<'_>) -> LastChange {
    let mut buffer = vec![0; READ];
    let (mut generation, mut of_probe, mut of_others) = (None, false, false);
    loop {
        match rustix::net::recv(socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((length, _)) => {
                for reply in replies(&buffer[..length]).flatten() {
                    match reply.is_generation() {
                        true => generation = reply.generation().or(generation),
                        false if reply.is_of_probe() => of_probe = true,
                        false => of_others = true,
                    }
                }
            }
            Err(Errno::INTR) => {}
            // Some messages were lost, perhaps the last one.
            Err(Errno::NOBUFS) => (generation, of_others) = (None, true),
            Err(_) if of_probe && !of_others => return LastChange::OfProbe,
            Err(_) => return LastChange::Generation(generation),
        }
    }
}

impl Firewall {
    /// Makes sure that the rules of `passage` are in iptables-nft's chains, as the last ones before a rule that drops
    /// the rest. INPUT is changed only where it drops.
    ///
    /// `about_to_make` first gets the tables and chains that are missing. Returns the generation before its one
    /// transaction; `None` if nothing had to be changed.
    ///
    /// # Errors
    /// If another program owns the table, or changes the ruleset during every attempt.
    pub fn let_pass(
        &mut self,
        passage: &Passage,
        mut about_to_make: impl FnMut(&[Made]),
    ) -> Result<Option<u32>, Error> {
        const DOING: &str = "adding rules to the table filter of iptables";
        for _ in 0..ATTEMPTS {
            let generation = self.generation()?;
            let filters = self.filters()?;
            let changes: Vec<_> = filters.iter().flat_map(|filter| filter.changes(passage)).collect();
            if changes.is_empty() {
                return Ok(None);
            }
            about_to_make(&list_missing(&filters, &changes));
            let outcome = self.transact(DOING, Some(generation), |batch| {
                filters.iter().filter(|filter| !filter.exists).for_each(|f| batch.create_filter(f.family));
                changes
                    .iter()
                    .for_each(|(family, chain, change)| batch.change_filter(*family, *chain, change));
            });
            match outcome? {
                Outcome::Done => return Ok(Some(generation)),
                Outcome::Changed => {}
                Outcome::Refused(errors) => return Err(foreign_refusal(DOING, &errors)),
            }
        }
        Err(Error::Restless { doing: DOING, attempts: ATTEMPTS })
    }

    /// Removes rnet's rules from iptables-nft's chains, and those of `made` that are empty now. With `tables` rnet's own
    /// tables go in the same transaction, because a second one would wait for the kernel's grace period. Returns the
    /// generation before it; `None` if there was nothing.
    ///
    /// # Errors
    /// If the kernel refuses the removal, or other programs change the ruleset during every attempt.
    pub fn close_passage(&mut self, made: &[Made], tables: bool) -> Result<Option<u32>, Error> {
        const DOING: &str = "removing rules from the table filter of iptables";
        for _ in 0..ATTEMPTS {
            let generation = self.generation()?;
            let filters = self.filters()?;
            let mut chains = Vec::new();
            for filter in &filters {
                chains.push(self.filter_chains(filter, made)?);
            }
            let own = if tables { self.present_tables()? } else { Vec::new() };
            let mut any = !own.is_empty();
            let outcome = self.transact(DOING, Some(generation), |batch| {
                for (filter, chains) in filters.iter().zip(&chains) {
                    any |= filter.leave(batch, made, chains);
                }
                own.iter().for_each(|table| batch.delete_table(table));
            });
            match outcome? {
                Outcome::Done => return Ok(any.then_some(generation)),
                Outcome::Changed => {}
                Outcome::Refused(errors) => return Err(foreign_refusal(DOING, &errors)),
            }
        }
        Err(Error::Restless { doing: DOING, attempts: ATTEMPTS })
    }

    /// rnet's rules in iptables-nft's chains, as they are in the kernel.
    ///
    /// # Errors
    /// If the kernel lacks nf_tables, or other programs change the ruleset during every attempt to read it.
    pub fn passage_rules(&mut self) -> Result<Vec<PassageRule>, Error> {
        let filters = self.filters()?;
        Ok(filters.iter().flat_map(Filter::rules).collect())
    }

    /// Whether firewalld keeps its rules in this namespace.
    ///
    /// # Errors
    /// If the kernel lacks nf_tables or its answer cannot be read.
    pub fn has_firewalld(&mut self) -> Result<bool, Error> {
        self.is_there(Requests::get_firewalld)
    }

    /// Whether rnet's rules in iptables' chains would accept what was stopped there: they stand before the rule that ends
    /// a chain.
    ///
    /// # Errors
    /// If the kernel's answer cannot be read, or other programs change the ruleset during every attempt.
    pub fn gives_way(&mut self, stop: &Stop) -> Result<bool, Error> {
        let family = FAMILIES.into_iter().find(|family| family.to_string() == stop.family);
        let chain = CHAINS.into_iter().find(|chain| chain.name() == stop.base);
        let (Some(family), Some(chain), true) = (family, chain, stop.table == "filter") else {
            return Ok(false);
        };
        let Some(rule) = stop.base_rule else { return Ok(true) };
        let ask = |requests: &mut Requests| requests.dump_filter_rules(family, chain);
        let rules = self.dump("reading the rules of iptables", ask, |reply| reply.interop_rule())?;
        Ok(rules.iter().any(|found| found.handle == rule && found.ends))
    }

    fn filters(&mut self) -> Result<Vec<Filter>, Error> {
        const DOING: &str = "reading the chains of iptables";
        const CHAINS: [Chain; 3] = [Chain::Forward, Chain::Input, Chain::Docker];
        let mut requests = self.requests();
        let first = requests.first();
        for family in FAMILIES {
            requests.get_filter(family);
            CHAINS.into_iter().for_each(|chain| requests.get_filter_chain(family, chain));
        }
        let mut found = [None; FAMILIES.len() * (1 + CHAINS.len())];
        self.exchange(DOING, &requests, |reply| {
            let at = reply.sequence.wrapping_sub(first) as usize;
            if let Some(message) = message(DOING, &reply, &[Errno::NOENT])? {
                found[at] = Some(message.drops());
            }
            Ok(())
        })?;
        let mut filters = Vec::new();
        for (family, found) in FAMILIES.into_iter().zip(found.chunks(1 + CHAINS.len())) {
            let forward = self.read_chain(family, Chain::Forward, found[1])?;
            let input = self.read_chain(family, Chain::Input, found[2])?;
            let docker = self.read_chain(family, Chain::Docker, found[3])?.unwrap_or_default().rules;
            filters.push(Filter { family, exists: found[0].is_some(), forward, input, docker });
        }
        Ok(filters)
    }

    fn read_chain(
        &mut self,
        family: Family,
        chain: Chain,
        drops: Option<bool>,
    ) -> Result<Option<FoundChain>, Error> {
        let Some(drops) = drops else { return Ok(None) };
        let ask = |requests: &mut Requests| requests.dump_filter_rules(family, chain);
        let rules = self.dump("reading the rules of iptables", ask, |reply| reply.interop_rule())?;
        Ok(Some(FoundChain { drops, rules }))
    }

    /// The names of all chains of a table that rnet made.
    fn filter_chains(&mut self, filter: &Filter, made: &[Made]) -> Result<Vec<String>, Error> {
        if !filter.exists || !made.contains(&Made { family: filter.family, chain: None }) {
            return Ok(Vec::new());
        }
        let ask = |requests: &mut Requests| requests.dump_filter_chains(filter.family);
        let chains =
            self.dump("reading the chains of iptables", ask, |reply| Some(reply.chain_of_filter()))?;
        Ok(chains.into_iter().flatten().collect())
    }
}

impl Filter {
    fn chain(&self, chain: Chain) -> Option<&FoundChain> {
        match chain {
            Chain::Forward => self.forward.as_ref(),
            Chain::Input => self.input.as_ref(),
            Chain::Docker => None,
        }
    }

    fn changes(&self, passage: &Passage) -> Vec<(Family, Chain, Change)> {
        let docker = Passage::docker(&self.docker);
        let forward = match &self.forward {
            Some(known) => known.change(passage.forward(&docker)),
            None => Some(Change { create: true, rules: passage.forward(&docker), ..Change::default() }),
        };
        let is_wanted =
            |known: &&FoundChain| known.is_closed() || known.rules.iter().any(|found| found.is_own);
        let input = self.input.as_ref().filter(is_wanted);
        let input = input.and_then(|known| known.change(passage.input(self.family)));
        let changes = [(Chain::Forward, forward), (Chain::Input, input)].into_iter();
        changes.filter_map(|(chain, change)| Some((self.family, chain, change?))).collect()
    }

    /// Puts the removal of rnet's rules, and of what is empty then, into a batch; true if there is anything to remove.
    fn leave(&self, batch: &mut Requests, made: &[Made], chains: &[String]) -> bool {
        let (mut any, mut gone) = (false, 0);
        for chain in CHAINS {
            let Some(known) = self.chain(chain) else { continue };
            let own = known.own();
            batch.delete_filter_rules(self.family, chain, &own);
            let is_ours = made.contains(&Made { family: self.family, chain: Some(chain) });
            let is_empty = is_ours && !known.drops && own.len() == known.rules.len();
            if is_empty {
                batch.delete_filter_chain(self.family, chain);
            }
            any |= is_empty || !own.is_empty();
            gone += usize::from(is_empty);
        }
        let is_ours = self.exists && made.contains(&Made { family: self.family, chain: None });
        if is_ours && chains.len() == gone {
            batch.delete_filter(self.family);
            any = true;
        }
        any
    }

    fn rules(&self) -> Vec<PassageRule> {
        let of_chain = |chain| {
            let own = self.chain(chain).into_iter().flat_map(|known| &known.rules);
            own.filter_map(move |found| PassageRule::of(self.family, chain, found))
        };
        CHAINS.into_iter().flat_map(of_chain).collect()
    }
}

fn list_missing(filters: &[Filter], changes: &[(Family, Chain, Change)]) -> Vec<Made> {
    let tables = filters.iter().filter(|filter| !filter.exists);
    let tables = tables.map(|filter| Made { family: filter.family, chain: None });
    let chains = changes.iter().filter(|(_, _, change)| change.create);
    tables.chain(chains.map(|(family, chain, _)| Made { family: *family, chain: Some(*chain) })).collect()
}
