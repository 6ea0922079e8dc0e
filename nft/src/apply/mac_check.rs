//! The rules of `macspoofchk` in the table that they share with others: added, removed, compared.

use std::collections::HashSet;

use super::exchange::{Outcome, foreign_refusal};
use super::{ATTEMPTS, Firewall, QUESTIONS};
use crate::encode::Requests;
use crate::error::{Error, or_empty};
use crate::mac_check::{FoundRule, MacCheck, Subject};

impl Firewall {
    /// Puts the rules of `macspoofchk` into the shared table `bridge nat`, in place of those that exist.
    ///
    /// # Errors
    /// If the kernel refuses a rule, or other programs change the ruleset during every attempt.
    pub fn check_macs(&mut self, checks: &[MacCheck]) -> Result<(), Error> {
        checks.chunks(QUESTIONS).try_for_each(|checks| self.check_some_macs(checks))
    }

    /// Removes a subject's jump and chains and nothing else; true if there was anything.
    ///
    /// # Errors
    /// If the kernel refuses the removal, or other programs change the ruleset during every attempt.
    pub fn uncheck_mac(&mut self, subject: &Subject) -> Result<bool, Error> {
        const DOING: &str = "removing the rules of macspoofchk";
        for _ in 0..ATTEMPTS {
            let generation = or_empty(self.generation())?;
            let chains = or_empty(self.mac_chains(subject))?;
            if chains.is_empty() {
                return Ok(false);
            }
            let jumps = self.mac_jumps(std::slice::from_ref(subject))?;
            let outcome = self.transact(DOING, Some(generation), |batch| {
                jumps.iter().for_each(|handle| batch.delete_bridge_nat_jump(*handle));
                batch.delete_bridge_nat_chains(&chains);
            });
            match outcome? {
                Outcome::Done => return Ok(true),
                Outcome::Changed => {}
                Outcome::Refused(errors) => return Err(foreign_refusal(DOING, &errors)),
            }
        }
        Err(Error::Restless { doing: DOING, attempts: ATTEMPTS })
    }

    /// True if exactly a check's rules are in the kernel, each in its place.
    ///
    /// # Errors
    /// If the kernel lacks nf_tables, or other programs change the ruleset during every attempt to read it.
    pub fn checks_mac(&mut self, check: &MacCheck) -> Result<bool, Error> {
        let mut found = self.mac_rules(Requests::dump_bridge_nat_jumps)?;
        found.retain(|rule| rule.comment.as_deref() == Some(&check.subject.comment()));
        for chain in [check.subject.chain(), check.subject.mac_chain()] {
            found.extend(self.mac_rules(|requests| requests.dump_bridge_nat_rules(&chain))?);
        }
        let found = found.into_iter().map(|rule| (rule.comment, rule.expressions));
        Ok(found.eq(check.rules().map(|rule| (Some(rule.comment), Some(rule.expressions)))))
    }

    /// True if a chain of the subject's is in the kernel.
    ///
    /// # Errors
    /// If the kernel's answer cannot be read.
    pub fn knows_mac_check(&mut self, subject: &Subject) -> Result<bool, Error> {
        Ok(!or_empty(self.mac_chains(subject))?.is_empty())
    }

    /// True if the base chain of `macspoofchk` exists.
    ///
    /// # Errors
    /// If the kernel lacks nf_tables or its answer cannot be read.
    pub fn has_bridge_nat(&mut self) -> Result<bool, Error> {
        self.is_there(Requests::get_bridge_nat)
    }

    fn check_some_macs(&mut self, checks: &[MacCheck]) -> Result<(), Error> {
        const DOING: &str = "adding the rules of macspoofchk";
        for _ in 0..ATTEMPTS {
            let generation = self.generation()?;
            let mut known = Vec::new();
            for check in checks {
                // A jump cannot exist without the chain that it leads to.
                if self.knows_mac_check(&check.subject)? {
                    known.push(check.subject.clone());
                }
            }
            let jumps = if known.is_empty() { Vec::new() } else { self.mac_jumps(&known)? };
            // What is new cannot appear twice because of other programs' changes.
            let generation = (!known.is_empty()).then_some(generation);
            let outcome = self.transact(DOING, generation, |batch| {
                batch.share_bridge_nat();
                jumps.iter().for_each(|handle| batch.delete_bridge_nat_jump(*handle));
                checks.iter().for_each(|check| batch.create_mac_check(check));
            });
            match outcome? {
                Outcome::Done => return Ok(()),
                Outcome::Changed => {}
                Outcome::Refused(errors) => return Err(foreign_refusal(DOING, &errors)),
            }
        }
        Err(Error::Restless { doing: DOING, attempts: ATTEMPTS })
    }

    /// The names of a subject's chains that exist.
    fn mac_chains(&mut self, subject: &Subject) -> Result<Vec<String>, Error> {
        let mut chains = Vec::new();
        for chain in [subject.chain(), subject.mac_chain()] {
            if self.is_there(|requests| requests.get_bridge_nat_chain(&chain))? {
                chains.push(chain);
            }
        }
        Ok(chains)
    }

    /// The handles of the rules in the shared chain that have these subjects' comments.
    fn mac_jumps(&mut self, subjects: &[Subject]) -> Result<Vec<u64>, Error> {
        let comments: HashSet<String> = subjects.iter().map(Subject::comment).collect();
        let rules = self.mac_rules(Requests::dump_bridge_nat_jumps)?.into_iter();
        let own =
            rules.filter(|rule| rule.comment.as_ref().is_some_and(|comment| comments.contains(comment)));
        Ok(own.map(|rule| rule.handle).collect())
    }

    fn mac_rules(&mut self, ask: impl Fn(&mut Requests)) -> Result<Vec<FoundRule>, Error> {
        self.dump("reading the rules of macspoofchk", ask, |reply| reply.mac_check_rule())
    }
}
