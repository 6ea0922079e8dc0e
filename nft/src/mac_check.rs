//! The rules of `bridge`'s key `macspoofchk`, byte for byte the reference plugin's, as values and as messages.
//!
//! They are the only ones that rnet writes into a table that others use too: `bridge nat` and its chain PREROUTING are
//! shared, made if they are missing and never removed. Each port has two chains of its own and one jump to them.

use std::fmt;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, Nla};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, Hook, NfTablesMessageType, RuleAttribute, TableAttribute,
};

use crate::encode::{Reply, Requests, attributes, text_comment, value_in};
use crate::ruleset::{ETHER_SADDR, Family, IIFNAME};

const TABLE: &str = "nat";
const BASE: &str = "PREROUTING";
/// The longest comment that nft takes, in bytes (NFTNL_UDATA_COMMENT_MAXLEN).
const COMMENT_LIMIT: usize = 128;
/// NF_BR_PRE_ROUTING, and NF_BR_PRI_NAT_DST_BRIDGED.
const HOOK: u32 = 0;
const PRIORITY: i32 = -300;
/// NFT_JUMP and NFT_RETURN.
const JUMP: u32 = -3i32 as u32;
const RETURN: u32 = -5i32 as u32;
const DROP: u32 = 0;

/// The owner of the rules: container id and interface name, of which the names of chains and comments are made.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Subject(String);

impl Subject {
    /// `None` if a byte does not stand for itself in nft's language, or if it is too long for a comment.
    pub fn new(container: &str, ifname: &str) -> Option<Self> {
        let subject = Self(format!("{container}-{ifname}"));
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let fits = subject.0.bytes().all(plain) && subject.comment().len() <= COMMENT_LIMIT;
        fits.then_some(subject)
    }

    /// The chain that the port's frames are sent through.
    pub fn chain(&self) -> String {
        format!("cni-br-iface-{self}")
    }

    /// The chain that knows the MAC.
    pub(crate) fn mac_chain(&self) -> String {
        format!("cni-br-iface-{self}-mac")
    }

    pub(crate) fn comment(&self) -> String {
        format!("macspoofchk-{self}")
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A bridge port and the one MAC that its frames may come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MacCheck {
    /// The owner of the port.
    pub subject: Subject,
    /// The host end of the veth pair.
    pub link: String,
    /// The container's MAC.
    pub mac: [u8; 6],
}

/// One rule; every one has its subject's comment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Rule {
    pub chain: String,
    pub expressions: Vec<Expression>,
    pub comment: String,
}

/// What these rules consist of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Expression {
    /// `iifname`
    Iifname,
    /// `ether saddr`
    EtherSaddr,
    /// The value of the field before.
    Equals(Vec<u8>),
    Jump(String),
    Return,
    Drop,
}

impl MacCheck {
    pub(crate) fn rules(&self) -> [Rule; 4] {
        let (chain, mac_chain) = (self.subject.chain(), self.subject.mac_chain());
        let mut name = self.link.clone().into_bytes();
        name.resize(IIFNAME.width as usize, 0);
        let to_port = vec![Expression::Iifname, Expression::Equals(name), Expression::Jump(chain.clone())];
        let own = vec![Expression::EtherSaddr, Expression::Equals(self.mac.into()), Expression::Return];
        [
            (BASE.to_owned(), to_port),
            (chain, vec![Expression::Jump(mac_chain.clone())]),
            (mac_chain.clone(), own),
            (mac_chain, vec![Expression::Drop]),
        ]
        .map(|(chain, expressions)| Rule { chain, expressions, comment: self.subject.comment() })
    }
}

/// A rule as the kernel has it.
pub(crate) struct FoundRule {
    pub handle: u64,
    pub comment: Option<String>,
    /// `None` if it is none that rnet writes.
    pub expressions: Option<Vec<Expression>>,
}

impl Requests {
    /// Makes table and base chain if they are missing. It sets no flags and no policy: an existing one keeps its own.
    pub fn share_bridge_nat(&mut self) {
        self.nftables(NfTablesMessageType::NewTable, NLM_F_CREATE, Family::Bridge, |message| {
            message.put(&TableAttribute::Name(TABLE.into()));
        });
        self.nftables(NfTablesMessageType::NewChain, NLM_F_CREATE, Family::Bridge, |message| {
            message.put(&ChainAttribute::Table(TABLE.into()));
            message.put(&ChainAttribute::Name(BASE.into()));
            message.put(&ChainAttribute::Type("filter".into()));
            message.nest(&ChainAttribute::Hook(vec![]), |hook| {
                hook.put(&netlink_packet_core::DefaultNla::new(1, HOOK.to_be_bytes().into()));
                hook.put(&Hook::Priority(PRIORITY.cast_unsigned()));
            });
        });
    }

    /// Makes the chains of a check, emptied if they exist, and all its rules.
    pub fn create_mac_check(&mut self, check: &MacCheck) {
        let chains = [check.subject.chain(), check.subject.mac_chain()];
        for chain in &chains {
            self.bridge_nat_chain(NfTablesMessageType::NewChain, NLM_F_CREATE, chain);
            self.flush_bridge_nat_chain(chain);
        }
        check.rules().iter().for_each(|rule| self.create_bridge_nat_rule(rule));
    }

    /// Removes chains, with their rules, to which no rule leads any more.
    pub fn delete_bridge_nat_chains(&mut self, chains: &[String]) {
        chains.iter().for_each(|chain| self.flush_bridge_nat_chain(chain));
        chains.iter().for_each(|chain| self.bridge_nat_chain(NfTablesMessageType::DeleteChain, 0, chain));
    }

    /// Removes one rule of the base chain.
    pub fn delete_bridge_nat_jump(&mut self, handle: u64) {
        self.bridge_nat_rules(NfTablesMessageType::DeleteRule, 0, BASE, |message| {
            message.put(&RuleAttribute::Handle(handle));
        });
    }

    /// Asks for a chain.
    pub fn get_bridge_nat_chain(&mut self, chain: &str) {
        self.bridge_nat_chain(NfTablesMessageType::GetChain, 0, chain);
    }

    /// Asks for the base chain.
    pub fn get_bridge_nat(&mut self) {
        self.get_bridge_nat_chain(BASE);
    }

    /// Asks for a chain's rules, in order.
    pub fn dump_bridge_nat_rules(&mut self, chain: &str) {
        self.bridge_nat_rules(NfTablesMessageType::GetRule, NLM_F_DUMP, chain, |_| {});
    }

    /// Asks for the base chain's rules, in order.
    pub fn dump_bridge_nat_jumps(&mut self) {
        self.dump_bridge_nat_rules(BASE);
    }

    fn bridge_nat_chain(&mut self, kind: NfTablesMessageType, flags: u16, chain: &str) {
        self.nftables(kind, flags, Family::Bridge, |message| {
            message.put(&ChainAttribute::Table(TABLE.into()));
            message.put(&ChainAttribute::Name(chain.into()));
        });
    }

    /// Without a handle it deletes all rules of a chain.
    fn flush_bridge_nat_chain(&mut self, chain: &str) {
        self.bridge_nat_rules(NfTablesMessageType::DeleteRule, 0, chain, |_| {});
    }

    fn create_bridge_nat_rule(&mut self, rule: &Rule) {
        let flags = NLM_F_CREATE | NLM_F_APPEND;
        self.bridge_nat_rules(NfTablesMessageType::NewRule, flags, &rule.chain, |message| {
            message.nest(&RuleAttribute::Expressions(vec![]), |list| {
                rule.expressions.iter().for_each(|expression| list.mac_check_expression(expression));
            });
            message.put(&RuleAttribute::UserData(text_comment(&rule.comment)));
        });
    }

    fn bridge_nat_rules(
        &mut self,
        kind: NfTablesMessageType,
        flags: u16,
        chain: &str,
        more: impl FnOnce(&mut Self),
    ) {
        self.nftables(kind, flags, Family::Bridge, |message| {
            message.put(&RuleAttribute::Table(TABLE.into()));
            message.put(&RuleAttribute::Chain(chain.into()));
            more(message);
        });
    }

    fn mac_check_expression(&mut self, expression: &Expression) {
        match expression {
            Expression::Iifname => self.load(&IIFNAME, 0),
            Expression::EtherSaddr => self.load(&ETHER_SADDR, 0),
            Expression::Equals(value) => self.equals(value),
            Expression::Jump(chain) => self.verdict_code(JUMP, Some(chain)),
            Expression::Return => self.verdict_code(RETURN, None),
            Expression::Drop => self.verdict_code(DROP, None),
        }
    }
}

impl Reply<'_> {
    /// A rule in a NFT_MSG_NEWRULE.
    pub fn mac_check_rule(&self) -> Option<FoundRule> {
        let handle = self.number(RuleAttribute::Handle(0).kind()).map(u64::from_be_bytes)?;
        let list = self.attribute(RuleAttribute::Expressions(vec![]).kind()).unwrap_or_default();
        let expressions = attributes(list).map(|(_, item)| expression(item)).collect();
        Some(FoundRule { handle, comment: self.comment(), expressions })
    }
}

/// Reads the inside of a NFTA_LIST_ELEM: name and data (NFTA_EXPR_NAME, NFTA_EXPR_DATA).
fn expression(item: &[u8]) -> Option<Expression> {
    let data = within(item, 2)?;
    match within(item, 1)? {
        // NFTA_META_KEY: NFT_META_IIFNAME
        b"meta\0" => (number(data, 2)? == 6).then_some(Expression::Iifname),
        // NFTA_PAYLOAD_BASE, _OFFSET, _LEN: the second address of the link header
        b"payload\0" => {
            let field = [number(data, 2)?, number(data, 3)?, number(data, 4)?];
            (field == [0, 6, 6]).then_some(Expression::EtherSaddr)
        }
        // NFTA_CMP_OP: NFT_CMP_EQ; NFTA_CMP_DATA
        b"cmp\0" if number(data, 2)? == 0 => value_in(within(data, 3)?).map(Expression::Equals),
        // NFTA_IMMEDIATE_DATA, in it NFTA_DATA_VERDICT
        b"immediate\0" => verdict(within(within(data, 2)?, 2)?),
        _ => None,
    }
}

/// NFTA_VERDICT_CODE and NFTA_VERDICT_CHAIN.
fn verdict(data: &[u8]) -> Option<Expression> {
    match number(data, 1)? {
        JUMP => {
            let chain = within(data, 2)?.strip_suffix(&[0])?;
            Some(Expression::Jump(String::from_utf8(chain.to_vec()).ok()?))
        }
        RETURN => Some(Expression::Return),
        DROP => Some(Expression::Drop),
        _ => None,
    }
}

pub(crate) fn within(data: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(data).find_map(|(found, value)| (found == kind).then_some(value))
}

fn number(data: &[u8], kind: u16) -> Option<u32> {
    within(data, kind)?.try_into().ok().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::replies;

    fn check() -> MacCheck {
        let subject = Subject::new("c1", "eth0").unwrap();
        MacCheck { subject, link: "veth0".into(), mac: [2, 0x42, 10, 1, 0, 2] }
    }

    #[test]
    fn rules_are_read_back_as_they_were_written() {
        for rule in check().rules() {
            let mut requests = Requests::new(0);
            requests.bridge_nat_rules(NfTablesMessageType::NewRule, 0, &rule.chain, |message| {
                message.put(&RuleAttribute::Handle(7));
                message.nest(&RuleAttribute::Expressions(vec![]), |list| {
                    rule.expressions.iter().for_each(|expression| list.mac_check_expression(expression));
                });
                message.put(&RuleAttribute::UserData(text_comment(&rule.comment)));
            });
            let found = replies(requests.bytes()).next().unwrap().unwrap().mac_check_rule().unwrap();
            assert_eq!((found.handle, found.comment), (7, Some(rule.comment)));
            assert_eq!(found.expressions, Some(rule.expressions));
        }
    }

    #[test]
    fn names_that_nft_would_read_otherwise_are_no_subject() {
        let long = "c".repeat(111);
        assert!(Subject::new(&long, "eth0").is_some(), "a comment of 128 bytes");
        for (container, ifname) in
            [(&*format!("{long}c"), "eth0"), ("c1", "a\"b"), ("c1", "br*"), ("c;1", "x")]
        {
            assert_eq!(Subject::new(container, ifname), None, "{container} {ifname}");
        }
    }
}
