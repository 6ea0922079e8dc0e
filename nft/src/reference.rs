//! What the reference plugins keep in nf_tables for one attachment, under the names that they document: chains of
//! iptables in the tables `nat`, and commented rules in tables of their own. rnet finds and removes them, and never
//! writes them.

use netlink_packet_core::{NLM_F_DUMP, Nla};
use netlink_packet_netfilter::nftables::{ChainAttribute, NfTablesMessageType, RuleAttribute};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterProtoFamily, NetfilterSubsystem};
use rustix::io::Errno;

use crate::apply::{ATTEMPTS, Firewall, Outcome, foreign_refusal, message};
use crate::encode::{Reply, Requests, attributes};
use crate::error::Error;
use crate::mac_check::within;

/// iptables' table for address translation.
const NAT: &str = "nat";
/// NFT_JUMP and NFT_GOTO.
const LEADING: [i32; 2] = [-3, -4];

/// Families of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// `ip`
    Ip,
    /// `ip6`
    Ip6,
    /// `inet`
    Inet,
}

/// What to look for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trace {
    /// A chain of an attachment's own in `nat`, and the rules of `from` that lead to it.
    Chain {
        /// `ip` or `ip6`.
        layer: Layer,
        /// The chain that leads to it.
        from: &'static str,
        /// Its name.
        name: String,
    },
    /// Rules of a table with this comment, or with this comment and more after a comma.
    Commented {
        /// The table's family.
        layer: Layer,
        /// The table.
        table: &'static str,
        /// The comment.
        comment: String,
    },
}

/// A rule or chain that exists and must be removed.
#[derive(Debug, PartialEq, Eq)]
enum Remains {
    Rule { layer: Layer, table: &'static str, chain: String, handle: u64 },
    Chain { layer: Layer, name: String },
}

/// The parts of a rule that say whose it is.
struct Rule {
    chain: String,
    handle: u64,
    comment: Option<String>,
    leads_to: Option<String>,
}

impl Trace {
    fn is_shown_by(&self, rule: &Rule) -> bool {
        match self {
            Trace::Chain { name, .. } => rule.leads_to.as_ref() == Some(name),
            Trace::Commented { comment: wanted, .. } => rule.comment.as_ref().is_some_and(|comment| {
                comment.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with(','))
            }),
        }
    }
}

impl Firewall {
    /// Removes what these traces lead to, in one transaction; false if there was nothing. Absent tables are fine.
    ///
    /// # Errors
    /// If the kernel refuses the removal, or other programs change the ruleset during every attempt.
    pub fn remove_traces(&mut self, traces: &[Trace]) -> Result<bool, Error> {
        const DOING: &str = "removing rules of the reference plugins";
        if self.find_traces(traces)?.is_empty() {
            return Ok(false);
        }
        for _ in 0..ATTEMPTS {
            let generation = self.generation()?;
            let found = self.find_traces(traces)?;
            let outcome = self.transact(DOING, Some(generation), |batch| batch.delete_remains(&found));
            match outcome? {
                Outcome::Done => return Ok(true),
                Outcome::Changed => {}
                Outcome::Refused(errors) => return Err(foreign_refusal(DOING, &errors)),
            }
        }
        Err(Error::Restless { doing: DOING, attempts: ATTEMPTS })
    }

    /// Rules before the chains that they lead to.
    fn find_traces(&mut self, traces: &[Trace]) -> Result<Vec<Remains>, Error> {
        let (mut rules, mut chains) = (Vec::new(), Vec::new());
        for trace in traces {
            match trace {
                Trace::Chain { layer, from, name } => {
                    if self.has_nat_chain(*layer, name)? {
                        rules.extend(self.find_rules(trace, *layer, NAT, Some(from))?);
                        chains.push(Remains::Chain { layer: *layer, name: name.clone() });
                    }
                }
                Trace::Commented { layer, table, .. } => {
                    rules.extend(self.find_rules(trace, *layer, table, None)?)
                }
            }
        }
        rules.append(&mut chains);
        Ok(rules)
    }

    fn find_rules(
        &mut self,
        trace: &Trace,
        layer: Layer,
        table: &'static str,
        chain: Option<&str>,
    ) -> Result<Vec<Remains>, Error> {
        const DOING: &str = "reading rules of the reference plugins";
        let ask = |requests: &mut Requests| requests.dump_foreign_rules(layer, table, chain);
        let rules = self.dump(DOING, ask, |reply| reply.reference_rule())?.into_iter();
        let own = rules.filter(|rule| trace.is_shown_by(rule));
        Ok(own.map(|Rule { chain, handle, .. }| Remains::Rule { layer, table, chain, handle }).collect())
    }

    fn has_nat_chain(&mut self, layer: Layer, name: &str) -> Result<bool, Error> {
        const DOING: &str = "looking for chains of the reference plugins";
        let mut requests = self.requests();
        requests.of_chain(layer, NfTablesMessageType::GetChain, name);
        let mut found = false;
        self.exchange(DOING, &requests, |reply| {
            found |= message(DOING, &reply, &[Errno::NOENT])?.is_some();
            Ok(())
        })?;
        Ok(found)
    }
}

impl Requests {
    fn of_layer(
        &mut self,
        layer: Layer,
        kind: NfTablesMessageType,
        flags: u16,
        fill: impl FnOnce(&mut Self),
    ) {
        let family = match layer {
            Layer::Ip => NetfilterProtoFamily::IPv4,
            Layer::Ip6 => NetfilterProtoFamily::IPv6,
            Layer::Inet => NetfilterProtoFamily::Inet,
        };
        let header = NetfilterHeader::new(family, 0, 0);
        self.message((NetfilterSubsystem::NfTables, kind.into()), flags, &header, fill);
    }

    fn of_chain(&mut self, layer: Layer, kind: NfTablesMessageType, name: &str) {
        self.of_layer(layer, kind, 0, |message| {
            message.put(&ChainAttribute::Table(NAT.into()));
            message.put(&ChainAttribute::Name(name.into()));
        });
    }

    /// All rules of a table, or of one chain of it.
    fn dump_foreign_rules(&mut self, layer: Layer, table: &str, chain: Option<&str>) {
        self.of_layer(layer, NfTablesMessageType::GetRule, NLM_F_DUMP, |message| {
            message.put(&RuleAttribute::Table(table.into()));
            if let Some(chain) = chain {
                message.put(&RuleAttribute::Chain(chain.into()));
            }
        });
    }

    fn delete_remains(&mut self, found: &[Remains]) {
        for one in found {
            match one {
                Remains::Rule { layer, table, chain, handle } => {
                    self.delete_foreign_rules(*layer, table, chain, Some(*handle));
                }
                Remains::Chain { layer, name } => {
                    self.delete_foreign_rules(*layer, NAT, name, None);
                    self.of_chain(*layer, NfTablesMessageType::DeleteChain, name);
                }
            }
        }
    }

    /// Without a handle it deletes all rules of a chain.
    fn delete_foreign_rules(&mut self, layer: Layer, table: &str, chain: &str, handle: Option<u64>) {
        self.of_layer(layer, NfTablesMessageType::DeleteRule, 0, |message| {
            message.put(&RuleAttribute::Table(table.into()));
            message.put(&RuleAttribute::Chain(chain.into()));
            if let Some(handle) = handle {
                message.put(&RuleAttribute::Handle(handle));
            }
        });
    }
}

impl Reply<'_> {
    fn reference_rule(&self) -> Option<Rule> {
        let handle = self.number(RuleAttribute::Handle(0).kind()).map(u64::from_be_bytes)?;
        let chain = self.attribute(RuleAttribute::Chain(String::new()).kind())?.strip_suffix(&[0])?;
        let list = self.attribute(RuleAttribute::Expressions(vec![]).kind()).unwrap_or_default();
        let leads_to = attributes(list).find_map(|(_, item)| leads_to(item));
        Some(Rule { chain: text(chain), handle, comment: self.comment(), leads_to })
    }
}

/// The chain that an expression (the inside of a NFTA_LIST_ELEM) jumps to (NFT_JUMP, NFT_GOTO).
fn leads_to(item: &[u8]) -> Option<String> {
    // NFTA_EXPR_NAME, NFTA_EXPR_DATA; NFTA_IMMEDIATE_DATA, in it NFTA_DATA_VERDICT
    if within(item, 1)? != b"immediate\0" {
        return None;
    }
    let verdict = within(within(within(item, 2)?, 2)?, 2)?;
    // NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN
    let code = i32::from_be_bytes(within(verdict, 1)?.try_into().ok()?);
    LEADING.contains(&code).then(|| within(verdict, 2)?.strip_suffix(&[0]).map(text)).flatten()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(comment: Option<&str>, leads_to: Option<&str>) -> Rule {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Rule { chain: "x".into(), handle: 1, comment: own(comment), leads_to: own(leads_to) }
    }

    #[test]
    fn a_rule_is_recognised_by_its_target_or_by_its_whole_comment() {
        let chain = Trace::Chain { layer: Layer::Ip, from: "POSTROUTING", name: "CNI-1".into() };
        let table = "cni_hostport";
        let commented = Trace::Commented { layer: Layer::Ip, table, comment: "c1".into() };

        assert!(chain.is_shown_by(&rule(None, Some("CNI-1"))));
        assert!(!chain.is_shown_by(&rule(Some("CNI-1"), Some("CNI-11"))));
        assert!(commented.is_shown_by(&rule(Some("c1"), None)));
        assert!(commented.is_shown_by(&rule(Some("c1, net: n"), None)));
        assert!(
            !commented.is_shown_by(&rule(Some("c12"), None)) && !commented.is_shown_by(&rule(None, None))
        );
    }
}
