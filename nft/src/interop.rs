//! Rules in iptables-nft's own chains, which let our traffic pass where docker, ufw or the administrator drop by default.
//!
//! An accept of our own table cannot do that: in nf_tables it ends the walk of its own chain only. They are written as
//! iptables-nft writes them, so `iptables -S`, `-C`, `-D`, save and restore read them. After `iptables-restore` the
//! comment is an xt match and no longer the rule's own: both are known.

use std::fmt;
use std::str::FromStr;

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_DUMP, Nla};
use netlink_packet_netfilter::NetfilterSubsystem;
use netlink_packet_netfilter::nftables::{
    ChainAttribute, Hook, NfTablesMessageType, RuleAttribute, TableAttribute,
};

use crate::encode::{Reply, Requests, attributes, text_comment, value_in};
use crate::ruleset::{Family, Field, ICMPV6_TYPE, IIFNAME, L4PROTO, OIFNAME, TH_DPORT};

/// By which these rules are known.
pub(crate) const COMMENT: &str = "rnet-interop";
const TABLE: &str = "filter";
/// What iptables writes behind the beginning of a name that stands for all such names.
const WILDCARD: char = '+';
/// NF_DROP, NF_ACCEPT, NFT_JUMP, NFT_GOTO, NFT_RETURN.
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
const JUMP: u32 = -3i32 as u32;
const GOTO: u32 = -4i32 as u32;
const RETURN: u32 = -5i32 as u32;
/// The numbers of TCP, UDP and ICMPv6 in the IP header.
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// Neighbour solicitation and advertisement.
const NEIGHBOURS: [u8; 2] = [135, 136];
/// The bridges of docker's own networks.
const DOCKER: [&str; 2] = ["docker0", "br-+"];

/// The families that iptables and ip6tables are about.
pub(crate) const FAMILIES: [Family; 2] = [Family::Ip, Family::Ip6];

/// A chain of iptables' table `filter`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Chain {
    Forward,
    Input,
    /// Where docker lists the bridges of its networks.
    Docker,
}

/// The chains that rnet's rules are in.
pub(crate) const CHAINS: [Chain; 2] = [Chain::Forward, Chain::Input];

impl Chain {
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "FORWARD",
            Self::Input => "INPUT",
            Self::Docker => "DOCKER-ISOLATION-STAGE-1",
        }
    }

    /// NF_INET_FORWARD, NF_INET_LOCAL_IN.
    fn hook(self) -> u32 {
        if self == Self::Input { 1 } else { 2 }
    }
}

/// An interface as iptables writes it: its name, or `rnet-+` for all whose names begin so.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Links(String);

impl Links {
    /// All interfaces whose names begin with `beginning`.
    pub fn beginning(beginning: &str) -> Self {
        Self(format!("{beginning}{WILDCARD}"))
    }

    /// The interface `name`; `None` if it is not one that we let into the firewall.
    pub fn named(name: &str) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let fits = (1..16).contains(&name.len()) && name.bytes().all(plain);
        fits.then(|| Self(name.to_owned()))
    }

    /// The interface `name` if it is called like a bridge of docker's network, `br-` and more, but not as docker names them:
    /// by twelve digits of the network's id.
    pub fn like_docker(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("br-")?;
        let is_id = rest.len() == 12 && rest.bytes().all(|b| b.is_ascii_hexdigit());
        Self::named(name).filter(|_| !is_id)
    }

    /// Whether an interface of that name is meant.
    pub fn covers(&self, name: &str) -> bool {
        match self.0.strip_suffix(WILDCARD) {
            Some(beginning) => name.starts_with(beginning),
            None => self.0 == name,
        }
    }

    /// What the kernel compares: with a NUL behind it, the whole name.
    fn bytes(&self) -> Vec<u8> {
        match self.0.strip_suffix(WILDCARD) {
            Some(beginning) => beginning.into(),
            None => [self.0.as_bytes(), &[0]].concat(),
        }
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (text, end) = match bytes.iter().position(|byte| *byte == 0) {
            Some(end) => (&bytes[..end], ""),
            None => (bytes, "+"),
        };
        Some(Self(format!("{}{end}", str::from_utf8(text).ok()?)))
    }
}

impl fmt::Display for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is to pass.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Passage {
    /// The bridges of our networks.
    pub bridges: Vec<Links>,
    /// The ports at which the name server takes questions.
    pub ports: Vec<u16>,
    /// Interfaces to the outside that are called like docker's bridges and are none.
    pub uplinks: Vec<Links>,
}

/// One rule: all that it can match, and accept or return.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Rule {
    pub input: Option<Links>,
    pub output: Option<Links>,
    pub protocol: Option<u8>,
    /// A destination port, or an ICMPv6 type.
    pub detail: Option<u16>,
    pub returns: bool,
}

impl Passage {
    /// The rules of FORWARD. What goes from us to docker's bridges is left to docker's rules and to the chain's policy.
    pub(crate) fn forward(&self, docker: &[Links]) -> Vec<Rule> {
        let to = |bridge: &Links| Rule { output: Some(bridge.clone()), ..Rule::default() };
        let from = |bridge: &Links| Rule { input: Some(bridge.clone()), ..Rule::default() };
        let to_docker = |bridge: &Links| {
            let docker = docker.iter().cloned();
            let from = from(bridge);
            docker
                .map(|docker| Rule { output: Some(docker), returns: true, ..from.clone() })
                .collect::<Vec<_>>()
        };
        let outward = |bridge: &Links| {
            let from = from(bridge);
            let uplinks = self.uplinks.iter().cloned();
            uplinks.map(|uplink| Rule { output: Some(uplink), ..from.clone() }).collect::<Vec<_>>()
        };
        let outward: Vec<Rule> = self.bridges.iter().flat_map(outward).collect();
        let returned = self.bridges.iter().flat_map(to_docker);
        self.bridges
            .iter()
            .map(to)
            .chain(outward)
            .chain(returned)
            .chain(self.bridges.iter().map(from))
            .collect()
    }

    /// The rules of INPUT: questions to the name server, and what IPv6 finds neighbours by.
    pub(crate) fn input(&self, family: Family) -> Vec<Rule> {
        let questions = self.ports.iter().flat_map(|port| [(UDP, *port), (TCP, *port)]);
        let neighbours = NEIGHBOURS.iter().filter(|_| family == Family::Ip6);
        let all: Vec<_> = questions.chain(neighbours.map(|kind| (ICMPV6, (*kind).into()))).collect();
        let rule = |input: &Links, (protocol, detail)| Rule {
            input: Some(input.clone()),
            protocol: Some(protocol),
            detail: Some(detail),
            ..Rule::default()
        };
        self.bridges.iter().flat_map(|bridge| all.iter().map(|what| rule(bridge, *what))).collect()
    }

    /// Docker's bridges: the usual names, and those that its rules name besides.
    pub(crate) fn docker(named: &[Found]) -> Vec<Links> {
        let mut bridges: Vec<Links> = DOCKER.iter().map(|name| Links((*name).into())).collect();
        for name in named.iter().filter_map(|found| found.input.clone()) {
            if !bridges.iter().any(|known| known.covers(&name.0)) {
                bridges.push(name);
            }
        }
        bridges
    }
}

/// A rule as the kernel tells of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Found {
    pub handle: u64,
    pub is_own: bool,
    /// `None` if it is none that we write.
    pub rule: Option<Rule>,
    /// The interface that it matches, whatever else.
    pub input: Option<Links>,
    /// Whatever comes to it is dropped or rejected, or, in the rules of ufw, is about to be.
    pub ends: bool,
    pub packets: u64,
}

/// A chain as the kernel tells of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Known {
    pub drops: bool,
    pub rules: Vec<Found>,
}

/// A table or a chain that was missing, and that goes when it is empty at the end. Its text is nft's: `ip filter FORWARD`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Made {
    pub(crate) family: Family,
    pub(crate) chain: Option<Chain>,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {TABLE}", self.family)?;
        self.chain.map_or(Ok(()), |chain| write!(f, " {}", chain.name()))
    }
}

impl FromStr for Made {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let chains = CHAINS.map(Some).into_iter().chain([None]);
        let all = chains.flat_map(|chain| FAMILIES.map(|family| Self { family, chain }));
        all.into_iter().find(|made| made.to_string() == text).ok_or(())
    }
}

/// One of rnet's rules in an iptables chain, and what it has let pass.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PassageRule {
    /// `iptables` or `ip6tables`.
    pub program: &'static str,
    /// `FORWARD` or `INPUT`.
    pub chain: &'static str,
    /// As `iptables -S` prints it, without the comment: `-o rnet-+ -j ACCEPT`.
    pub text: String,
    /// How many packets have met it.
    pub packets: u64,
}

impl PassageRule {
    pub(crate) fn of(family: Family, chain: Chain, found: &Found) -> Option<Self> {
        let rule = found.rule.as_ref().filter(|_| found.is_own)?;
        let program = if family == Family::Ip6 { "ip6tables" } else { "iptables" };
        Some(Self { program, chain: chain.name(), text: rule.to_string(), packets: found.packets })
    }
}

/// As `iptables -S` prints it.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (option, links) in [("-i", &self.input), ("-o", &self.output)] {
            if let Some(links) = links {
                write!(f, "{option} {links} ")?;
            }
        }
        match (self.protocol, self.detail) {
            (Some(ICMPV6), Some(kind)) => write!(f, "-p ipv6-icmp --icmpv6-type {kind} ")?,
            (Some(UDP), Some(port)) => write!(f, "-p udp --dport {port} ")?,
            (_, Some(port)) => write!(f, "-p tcp --dport {port} ")?,
            (_, None) => {}
        }
        write!(f, "-j {}", if self.returns { "RETURN" } else { "ACCEPT" })
    }
}

/// What a chain lacks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Change {
    /// The chain is to be made.
    pub create: bool,
    /// Rules of rnet that are wrong, or in the wrong place.
    pub delete: Vec<u64>,
    pub rules: Vec<Rule>,
    /// The rule to put them in front of; otherwise they are appended.
    pub before: Option<u64>,
}

impl Known {
    /// Whether packets that no rule accepts are dropped.
    pub fn is_closed(&self) -> bool {
        self.drops || self.rules.iter().any(|found| found.ends)
    }

    /// The handles of our rules.
    pub fn own(&self) -> Vec<u64> {
        self.rules.iter().filter(|found| found.is_own).map(|found| found.handle).collect()
    }

    /// What it takes to have `wanted` as the last rules, in front of one that drops the rest: whatever else the
    /// administrator says, is said before.
    pub fn change(&self, wanted: Vec<Rule>) -> Option<Change> {
        let end = self.rules.iter().position(|found| found.ends && !found.is_own);
        let mut reached = self.rules[..end.unwrap_or(self.rules.len())].iter().rev();
        let is_there = wanted.iter().rev().all(|rule| reached.next().is_some_and(|found| found.is(rule)));
        let own = self.own();
        if is_there && own.len() == wanted.len() {
            return None;
        }
        let before = end.map(|end| self.rules[end].handle);
        Some(Change { create: false, delete: own, rules: wanted, before })
    }
}

impl Found {
    fn is(&self, rule: &Rule) -> bool {
        self.is_own && self.rule.as_ref() == Some(rule)
    }
}

impl Requests {
    /// Asks for iptables' table.
    pub fn get_filter(&mut self, family: Family) {
        self.filter_table(NfTablesMessageType::GetTable, 0, family);
    }

    /// Makes it where it is missing.
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
        let flags = if change.before.is_some() { NLM_F_CREATE } else { NLM_F_CREATE | APPEND };
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

    fn filter_rule(
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

    fn interop_rule(&mut self, rule: &Rule) {
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

/// NLM_F_APPEND.
const APPEND: u16 = netlink_packet_core::NLM_F_APPEND;

impl Reply<'_> {
    /// Whether the chain in a NFT_MSG_NEWCHAIN drops by policy.
    pub fn drops(&self) -> bool {
        self.number(ChainAttribute::Policy(0).kind()).map(u32::from_be_bytes) == Some(DROP)
    }

    /// Whether it is a NFT_MSG_NEWGEN.
    pub fn is_generation(&self) -> bool {
        let subsystem = u8::from(NetfilterSubsystem::NfTables);
        self.kind == u16::from_be_bytes([subsystem, NfTablesMessageType::NewGen.into()])
    }

    /// The name of the chain in a NFT_MSG_NEWCHAIN, if it is one of iptables' table.
    pub fn chain_of_filter(&self) -> Option<String> {
        let table = self.attribute(ChainAttribute::Table(String::new()).kind())?;
        let name = self.attribute(ChainAttribute::Name(String::new()).kind())?.strip_suffix(&[0])?;
        (table == b"filter\0").then(|| String::from_utf8_lossy(name).into_owned())
    }

    /// A rule in a NFT_MSG_NEWRULE.
    pub fn interop_rule(&self) -> Option<Found> {
        let handle = self.number(RuleAttribute::Handle(0).kind()).map(u64::from_be_bytes)?;
        let list = self.attribute(RuleAttribute::Expressions(vec![]).kind()).unwrap_or_default();
        let mut reader = Reader { is_own: self.comment().as_deref() == Some(COMMENT), ..Reader::default() };
        attributes(list).for_each(|(_, item)| reader.read(item));
        Some(reader.found(handle))
    }
}

/// Reads a rule, expression by expression.
#[derive(Default)]
struct Reader {
    rule: Rule,
    field: Option<&'static Field>,
    is_own: bool,
    /// Something is in it that we write in no rule.
    is_foreign: bool,
    /// It matches something.
    matches: bool,
    verdict: Option<u32>,
    /// It leads to where ufw logs and rejects what nothing has accepted.
    to_ufw: bool,
    rejects: bool,
    packets: u64,
}

impl Reader {
    /// What lies in a NFTA_LIST_ELEM: the name and the data (NFTA_EXPR_NAME, NFTA_EXPR_DATA).
    fn read(&mut self, item: &[u8]) {
        let name = within(item, 1).unwrap_or_default();
        let data = within(item, 2).unwrap_or_default();
        match name {
            // NFTA_COUNTER_PACKETS
            b"counter\0" => self.packets = within(data, 2).map_or(0, counted),
            b"meta\0" => self.load(meta(data)),
            b"payload\0" => self.load(payload(data)),
            b"cmp\0" => self.compare(data),
            // NFTA_IMMEDIATE_DATA, in it NFTA_DATA_VERDICT
            b"immediate\0" => self.decide(within(data, 2).and_then(|data| within(data, 2))),
            b"match\0" if within(data, 1) == Some(b"comment\0") => self.comment(within(data, 3)),
            b"log\0" => self.is_foreign = true,
            b"reject\0" => self.reject(),
            // NFTA_TARGET_NAME
            b"target\0" if within(data, 1) == Some(b"REJECT\0") => self.reject(),
            _ => (self.is_foreign, self.matches) = (true, true),
        }
    }

    fn load(&mut self, field: Option<&'static Field>) {
        self.matches = true;
        self.is_foreign |= field.is_none();
        self.field = field;
    }

    /// NFTA_CMP_OP: NFT_CMP_EQ; NFTA_CMP_DATA
    fn compare(&mut self, data: &[u8]) {
        let value = within(data, 3).and_then(value_in).filter(|_| number(data, 2) == Some(0));
        let (Some(value), Some(field)) = (value, self.field.take()) else {
            self.is_foreign = true;
            return;
        };
        let rule = &mut self.rule;
        match field.source {
            source if source == IIFNAME.source => rule.input = Links::parse(&value),
            source if source == OIFNAME.source => rule.output = Links::parse(&value),
            source if source == L4PROTO.source => rule.protocol = value.first().copied(),
            _ => rule.detail = Some(value.iter().fold(0, |all, byte| all << 8 | u16::from(*byte))),
        }
    }

    /// NFTA_VERDICT_CODE and NFTA_VERDICT_CHAIN.
    fn decide(&mut self, verdict: Option<&[u8]>) {
        let data = verdict.unwrap_or_default();
        self.verdict = number(data, 1);
        let chain = within(data, 2).and_then(|chain| str::from_utf8(chain).ok()).unwrap_or_default();
        let leads = matches!(self.verdict, Some(JUMP | GOTO));
        self.to_ufw = leads && is_end_of_ufw(chain.trim_end_matches('\0'));
        self.rule.returns = self.verdict == Some(RETURN);
    }

    /// `struct xt_comment_info`: text, filled up with NUL.
    fn comment(&mut self, info: Option<&[u8]>) {
        let text = info.unwrap_or_default().split(|byte| *byte == 0).next();
        self.is_own |= text == Some(COMMENT.as_bytes());
    }

    fn reject(&mut self) {
        (self.rejects, self.is_foreign) = (true, true);
    }

    fn found(self, handle: u64) -> Found {
        let ends = !self.matches && (self.rejects || self.to_ufw || self.verdict == Some(DROP));
        let is_ours = !self.is_foreign && matches!(self.verdict, Some(ACCEPT | RETURN));
        let (input, packets) = (self.rule.input.clone(), self.packets);
        Found { handle, is_own: self.is_own, rule: is_ours.then_some(self.rule), input, ends, packets }
    }
}

/// `ufw-after-logging-forward` tells of what is about to be dropped, `ufw-reject-forward` rejects it; the same with
/// `ufw6-` and `input`.
fn is_end_of_ufw(chain: &str) -> bool {
    let rest = chain.strip_prefix("ufw-").or_else(|| chain.strip_prefix("ufw6-"));
    rest.is_some_and(|rest| rest.starts_with("after-logging-") || rest.starts_with("reject-"))
}

/// NFTA_META_KEY
fn meta(data: &[u8]) -> Option<&'static Field> {
    let key = number(data, 2)?;
    [&IIFNAME, &OIFNAME, &L4PROTO].into_iter().find(|field| field.source == crate::ruleset::Source::Meta(key))
}

/// NFTA_PAYLOAD_BASE, _OFFSET, _LEN
fn payload(data: &[u8]) -> Option<&'static Field> {
    let (source, width) =
        (crate::ruleset::Source::Payload(number(data, 2)?, number(data, 3)?), number(data, 4)?);
    [&TH_DPORT, &ICMPV6_TYPE].into_iter().find(|field| (field.source, field.width) == (source, width))
}

fn within(data: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(data).find_map(|(found, value)| (found == kind).then_some(value))
}

fn counted(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_be_bytes)
}

fn number(data: &[u8], kind: u16) -> Option<u32> {
    within(data, kind)?.try_into().ok().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::replies;

    fn passage() -> Passage {
        let bridges = vec![Links::beginning("rnet-"), Links::named("br1").unwrap()];
        Passage { bridges, ports: vec![53], uplinks: vec![] }
    }

    fn own(handle: u64, rule: &Rule) -> Found {
        Found {
            handle,
            is_own: true,
            rule: Some(rule.clone()),
            input: rule.input.clone(),
            ..Found::default()
        }
    }

    fn end(handle: u64) -> Found {
        Found { handle, ends: true, ..Found::default() }
    }

    #[test]
    fn rules_are_read_back_as_they_were_written() {
        let passage = passage();
        let docker = Passage::docker(&[]);
        let mut rules = passage.forward(&docker);
        rules.extend(passage.input(Family::Ip6));
        for rule in rules {
            let mut requests = Requests::new(0);
            requests.filter_rule(NfTablesMessageType::NewRule, 0, Family::Ip6, Chain::Input, |message| {
                message.put(&RuleAttribute::Handle(7));
                message.nest(&RuleAttribute::Expressions(vec![]), |list| list.interop_rule(&rule));
                message.put(&RuleAttribute::UserData(text_comment(COMMENT)));
            });
            let found = replies(requests.bytes()).next().unwrap().unwrap().interop_rule().unwrap();
            assert_eq!(found, own(7, &rule));
        }
    }

    #[test]
    fn the_rules_of_forward_leave_what_goes_to_docker_to_docker() {
        let own_name = Found { input: Links::named("mydocker"), ..Found::default() };
        let usual = Found { input: Links::named("br-0123"), ..Found::default() };
        let docker = Passage::docker(&[own_name, usual]);
        let passage = Passage { bridges: vec![Links::beginning("rnet-")], ..Passage::default() };

        let text = |links: &Option<Links>| links.as_ref().map(Links::to_string).unwrap_or_default();
        let rules = passage.forward(&docker);
        let rules: Vec<_> = rules.iter().map(|r| (text(&r.input), text(&r.output), r.returns)).collect();

        let expected = [
            ("", "rnet-+", false),
            ("rnet-+", "docker0", true),
            ("rnet-+", "br-+", true),
            ("rnet-+", "mydocker", true),
            ("rnet-+", "", false),
        ];
        assert_eq!(rules, expected.map(|(input, output, returns)| (input.into(), output.into(), returns)));
    }

    #[test]
    fn rules_stay_last_and_in_front_of_what_drops_the_rest() {
        let rules = passage().forward(&[]);
        let own: Vec<Found> = (10..).zip(&rules).map(|(handle, rule)| own(handle, rule)).collect();
        let other = Found { handle: 3, ..Found::default() };
        let chain = |rules: Vec<Found>| Known { drops: false, rules };
        let handles: Vec<u64> = own.iter().map(|found| found.handle).collect();
        let moved =
            |before| Some(Change { create: false, delete: handles.clone(), rules: rules.clone(), before });

        let last = [vec![other.clone()], own.clone()].concat();
        assert_eq!(chain(last.clone()).change(rules.clone()), None);
        assert_eq!(chain([last.clone(), vec![end(9)]].concat()).change(rules.clone()), None);
        let first = [own.clone(), vec![other.clone()]].concat();
        assert_eq!(chain(first).change(rules.clone()), moved(None), "somebody appended a rule");
        let behind = [vec![end(9)], own.clone()].concat();
        assert_eq!(chain(behind).change(rules.clone()), moved(Some(9)), "nothing comes so far");
        let new = Change { create: false, delete: vec![], rules: rules.clone(), before: Some(9) };
        assert_eq!(chain(vec![other, end(9)]).change(rules.clone()), Some(new));
    }

    #[test]
    fn what_was_made_is_one_line_of_text_and_back() {
        let forward = Made { family: Family::Ip, chain: Some(Chain::Forward) };
        assert_eq!(
            (forward.to_string().as_str(), "ip filter FORWARD".parse()),
            ("ip filter FORWARD", Ok(forward))
        );
        assert_eq!("ip6 filter".parse(), Ok(Made { family: Family::Ip6, chain: None }));
        assert_eq!("ip nat".parse::<Made>(), Err(()));
    }

    #[test]
    fn ufw_is_known_by_the_ends_of_its_rules() {
        for chain in ["ufw-reject-forward", "ufw6-reject-input", "ufw-after-logging-input"] {
            assert!(is_end_of_ufw(chain), "{chain}");
        }
        assert!(!is_end_of_ufw("ufw-before-forward") && !is_end_of_ufw("DOCKER-USER"));
    }

    #[test]
    fn a_name_is_exact_or_a_beginning() {
        assert!(Links::beginning("rnet-").covers("rnet-mynet") && !Links::beginning("rnet-").covers("rnet0"));
        assert!(
            Links::named("rnet0").unwrap().covers("rnet0")
                && !Links::named("rnet0").unwrap().covers("rnet01")
        );
        let like_docker = |name| Links::like_docker(name).map(|links| links.to_string());
        assert_eq!(
            (like_docker("br-lan"), like_docker("br-0123456789ab"), like_docker("eth0")),
            (Some("br-lan".into()), None, None)
        );
        assert_eq!((Links::named("a+"), Links::named(""), Links::named("a b")), (None, None, None));
    }
}
