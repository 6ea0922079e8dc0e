//! The requests about iptables' table `filter`: its chains and rules, as iptables-nft writes them.

use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, Hook, NfTablesMessageType, RuleAttribute, TableAttribute,
};

use super::{ACCEPT, COMMENT, Chain, Change, ICMPV6, RETURN, Rule, TABLE};
use crate::encode::{Requests, text_comment};
use crate::ruleset::{Family, ICMPV6_TYPE, IIFNAME, L4PROTO, OIFNAME, TH_DPORT};

impl Requests {
    /// Asks for iptables' table.
    pub fn get_filter(&mut self, family: Family) {
        self.filter_table(NfTablesMessageType::GetTable, 0, family);
    }

    /// Makes it if it is missing.
    pub fn create_filter(&mut self, family: Family) {
        self.filter_table(NfTablesMessageType::NewTable, NLM_F_CREATE, family);
    }

    /// Removes it.
    pub fn delete_filter(&mut self, family: Family) {
        self.filter_table(NfTablesMessageType::DeleteTable, 0, family);
    }

    /// Asks for firewalld's table.
    pub fn get_firewalld(&mut self) {
        self.nftables(NfTablesMessageType::GetTable, 0, Family::Inet, |message| {
            message.put(&TableAttribute::Name("firewalld".into()));
        });
    }

    /// Asks for a chain.
    pub fn get_filter_chain(&mut self, family: Family, chain: Chain) {
        self.filter_chain(NfTablesMessageType::GetChain, 0, family, chain, |_| {});
    }

    /// Asks for the chains of iptables' table.
    pub fn dump_filter_chains(&mut self, family: Family) {
        self.nftables(NfTablesMessageType::GetChain, NLM_F_DUMP, family, |_| {});
    }

    /// Removes a chain that is empty.
    pub fn delete_filter_chain(&mut self, family: Family, chain: Chain) {
        self.filter_chain(NfTablesMessageType::DeleteChain, 0, family, chain, |_| {});
    }

    /// Asks for a chain's rules, in order.
    pub fn dump_filter_rules(&mut self, family: Family, chain: Chain) {
        self.filter_rule(NfTablesMessageType::GetRule, NLM_F_DUMP, family, chain, |_| {});
    }

    /// Removes rules by their handles.
    pub fn delete_filter_rules(&mut self, family: Family, chain: Chain, handles: &[u64]) {
        for handle in handles {
            self.filter_rule(NfTablesMessageType::DeleteRule, 0, family, chain, |message| {
                message.put(&RuleAttribute::Handle(*handle));
            });
        }
    }

    /// Changes a chain.
    pub fn change_filter(&mut self, family: Family, chain: Chain, change: &Change) {
        if change.create {
            self.create_filter_chain(family, chain);
        }
        self.delete_filter_rules(family, chain, &change.delete);
        let flags = if change.before.is_some() { NLM_F_CREATE } else { NLM_F_CREATE | NLM_F_APPEND };
        for rule in &change.rules {
            self.filter_rule(NfTablesMessageType::NewRule, flags, family, chain, |message| {
                if let Some(before) = change.before {
                    message.put(&RuleAttribute::Position(before));
                }
                message.nest(&RuleAttribute::Expressions(vec![]), |list| list.interop_rule(rule));
                message.put(&RuleAttribute::UserData(text_comment(COMMENT)));
            });
        }
    }

    /// As iptables-nft makes it: a base chain that accepts, at priority 0.
    fn create_filter_chain(&mut self, family: Family, chain: Chain) {
        self.filter_chain(NfTablesMessageType::NewChain, NLM_F_CREATE, family, chain, |message| {
            message.put(&ChainAttribute::Type("filter".into()));
            message.put(&ChainAttribute::Policy(ACCEPT));
            message.nest(&ChainAttribute::Hook(vec![]), |hook| {
                hook.put(&DefaultNla::new(1, chain.hook().to_be_bytes().into()));
                hook.put(&Hook::Priority(0));
            });
        });
    }

    fn filter_table(&mut self, kind: NfTablesMessageType, flags: u16, family: Family) {
        self.nftables(kind, flags, family, |message| message.put(&TableAttribute::Name(TABLE.into())));
    }

    fn filter_chain(
        &mut self,
        kind: NfTablesMessageType,
        flags: u16,
        family: Family,
        chain: Chain,
        more: impl FnOnce(&mut Self),
    ) {
        self.nftables(kind, flags, family, |message| {
            message.put(&ChainAttribute::Table(TABLE.into()));
            message.put(&ChainAttribute::Name(chain.name().into()));
            more(message);
        });
    }

    pub(super) fn filter_rule(
        &mut self,
        kind: NfTablesMessageType,
        flags: u16,
        family: Family,
        chain: Chain,
        more: impl FnOnce(&mut Self),
    ) {
        self.nftables(kind, flags, family, |message| {
            message.put(&RuleAttribute::Table(TABLE.into()));
            message.put(&RuleAttribute::Chain(chain.name().into()));
            more(message);
        });
    }

    pub(super) fn interop_rule(&mut self, rule: &Rule) {
        for (field, links) in [(&IIFNAME, &rule.input), (&OIFNAME, &rule.output)] {
            if let Some(links) = links {
                self.load(field, 0);
                self.equals(&links.bytes());
            }
        }
        if let Some(protocol) = rule.protocol {
            self.load(&L4PROTO, 0);
            self.equals(&[protocol]);
        }
        match rule.detail {
            Some(kind) if rule.protocol == Some(ICMPV6) => {
                self.load(&ICMPV6_TYPE, 0);
                self.equals(&[kind as u8]);
            }
            Some(port) => {
                self.load(&TH_DPORT, 0);
                self.equals(&port.to_be_bytes());
            }
            None => {}
        }
        self.counter();
        self.verdict_code(if rule.returns { RETURN } else { ACCEPT }, None);
    }
}
