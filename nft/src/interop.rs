//! Rules in iptables-nft's own chains, which let containers' traffic pass where docker, ufw or the administrator drop by
//! default.
//!
//! An accept in rnet's own table cannot do that: in nf_tables it ends the walk of its own chain only. The rules are
//! written as iptables-nft writes them, so `iptables -S`, `-C`, `-D`, save and restore read them. After
//! `iptables-restore` the comment is an xt match and no longer the rule's own: both are recognised.

mod read;
#[cfg(test)]
mod tests;
mod write;

use std::fmt;
use std::str::FromStr;

use crate::ruleset::Family;

/// The comment by which these rules are recognised.
pub(crate) const COMMENT: &str = "rnet-interop";
const TABLE: &str = "filter";
/// iptables' mark after the beginning of a name, which then stands for all such names.
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

    /// The interface `name`; `None` if rnet does not let such a name into the firewall.
    pub fn named(name: &str) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let fits = (1..16).contains(&name.len()) && name.bytes().all(plain);
        fits.then(|| Self(name.to_owned()))
    }

    /// The interface `name` if it begins with `br-` like the bridges of docker's networks, but does not continue as they
    /// do, with twelve digits of the network's id.
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

    /// What the kernel compares: with a final NUL, the whole name.
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

/// The traffic to let pass.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Passage {
    /// The bridges of rnet's networks.
    pub bridges: Vec<Links>,
    /// The ports at which the name server takes questions.
    pub ports: Vec<u16>,
    /// Interfaces to the outside that have names like docker's bridges but are none.
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
    /// The rules of FORWARD. Traffic from rnet's bridges to docker's is left to docker's rules and to the chain's policy.
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

    /// The rules of INPUT: questions to the name server, and IPv6 neighbour discovery.
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

    /// Docker's bridges: the usual names, and others that its rules name.
    pub(crate) fn docker(named: &[FoundRule]) -> Vec<Links> {
        let mut bridges: Vec<Links> = DOCKER.iter().map(|name| Links((*name).into())).collect();
        for name in named.iter().filter_map(|found| found.input.clone()) {
            if !bridges.iter().any(|known| known.covers(&name.0)) {
                bridges.push(name);
            }
        }
        bridges
    }
}

/// A rule as the kernel has it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct FoundRule {
    pub handle: u64,
    pub is_own: bool,
    /// `None` if it is none that rnet writes.
    pub rule: Option<Rule>,
    /// The incoming interface that it matches, whatever it matches besides.
    pub input: Option<Links>,
    /// Every packet that comes to it is dropped or rejected, or, in ufw's chains, will be.
    pub ends: bool,
    pub packets: u64,
}

/// A chain as the kernel has it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct FoundChain {
    pub drops: bool,
    pub rules: Vec<FoundRule>,
}

/// A table or chain that rnet made because it was missing, and removes when it is empty at the end. Its text is nft's:
/// `ip filter FORWARD`.
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
    /// How many packets it has matched.
    pub packets: u64,
}

impl PassageRule {
    pub(crate) fn of(family: Family, chain: Chain, found: &FoundRule) -> Option<Self> {
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
    /// Whether the chain must be made.
    pub create: bool,
    /// Rules of rnet that are wrong, or in the wrong place.
    pub delete: Vec<u64>,
    pub rules: Vec<Rule>,
    /// The rule before which they are inserted; otherwise they are appended.
    pub before: Option<u64>,
}

impl FoundChain {
    /// Whether packets that no rule accepts are dropped.
    pub fn is_closed(&self) -> bool {
        self.drops || self.rules.iter().any(|found| found.ends)
    }

    /// The handles of rnet's rules.
    pub fn own(&self) -> Vec<u64> {
        self.rules.iter().filter(|found| found.is_own).map(|found| found.handle).collect()
    }

    /// The change that makes `wanted` the last rules, before one that drops the rest: all other rules of the administrator
    /// come first. `None` if they are.
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

impl FoundRule {
    fn is(&self, rule: &Rule) -> bool {
        self.is_own && self.rule.as_ref() == Some(rule)
    }
}
