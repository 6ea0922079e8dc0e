//! What becomes of a packet: tables that make the kernel trace it and drop it at its last hook, and the reader of the
//! kernel's traces (NFT_MSG_TRACE).
//!
//! The packet is recognised by the four bytes after the first eight of its transport header: the acknowledgement number of
//! a TCP packet that acknowledges nothing, or the beginning of a UDP packet's data. No address translation changes them.
//! It is dropped before conntrack confirms its flow, so it leaves no trace behind.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE, Nla};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, Hook, NfTablesMessageType, RuleAttribute, TableAttribute,
};

use crate::encode::{Reply, Requests, attributes};
use crate::ruleset::{Family, Field, Source};

/// The name of both tables.
pub(crate) const TABLE: &str = "rnet-probe";
/// The families in which packets are followed.
pub(crate) const FAMILIES: [Family; 2] = [Family::Inet, Family::Bridge];
/// NFTA_TABLE_FLAGS and NFT_TABLE_F_OWNER (5.12): the kernel removes the table with the socket, even if its process is killed.
const TABLE_FLAGS: u16 = 2;
const OWNER: u32 = 2;
/// NF_INET_PRE_ROUTING, NF_INET_LOCAL_IN, NF_INET_FORWARD, NF_INET_POST_ROUTING; a bridge's hooks have the same numbers.
const PREROUTING: u32 = 0;
const INPUT: u32 = 1;
const FORWARD: u32 = 2;
const POSTROUTING: u32 = 4;
/// Priorities before all others, and after all others except the end of conntrack (INT_MAX).
const FIRST: i32 = -2000;
const LAST: i32 = i32::MAX - 1;
/// NFT_META_NFTRACE.
const NFTRACE: u32 = 12;
const MAGIC: Field = Field { text: "@th,64,32", source: Source::Payload(2, 8), width: 4 };
/// rnet's own table.
const OWN: &str = "rnet";
/// NF_DROP, NF_ACCEPT, NF_STOLEN, NF_QUEUE, NFT_JUMP, NFT_GOTO.
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
const STOLEN: u32 = 2;
const QUEUE: u32 = 3;
const JUMP: u32 = -3i32 as u32;
const GOTO: u32 = -4i32 as u32;
/// The bits of the code in a verdict; the rest is an error number.
const VERDICT_MASK: u32 = 0xff;
/// NFTA_TRACE_…
const OF_TABLE: u16 = 1;
const OF_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const KIND: u16 = 4;
const VERDICT: u16 = 5;
const POLICY: u16 = 16;
/// NFT_TRACETYPE_…
const BY_POLICY: u32 = 1;
const BY_RULE: u32 = 3;

/// The bytes by which a packet is recognised.
pub type Magic = [u8; 4];

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It came through all hooks.
    Passed(Arrival),
    /// A rule or a policy stopped it.
    Stopped(Stop),
    /// Neither was traced.
    Lost,
}

/// Where a packet was about to arrive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// Its last destination address and port; `None` where another program took it.
    pub to: Option<SocketAddr>,
    /// The last rule for address translation that it met in a table other than rnet's.
    pub translated_by: Option<Stop>,
}

/// Where a packet was stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stop {
    /// `ip`, `ip6`, `inet`, `bridge`.
    pub family: &'static str,
    /// The table's name.
    pub table: String,
    /// The base chain in which it was.
    pub base: String,
    /// The rule of the base chain that stopped it or led on; `None`: the policy.
    pub base_rule: Option<u64>,
    /// The chain that stopped it: the base chain or one that it leads to.
    pub chain: String,
}

/// As nft writes it: `ip filter INPUT`.
impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.family, self.table, self.base)?;
        if self.chain == self.base { Ok(()) } else { write!(f, " ({})", self.chain) }
    }
}

/// A hook of the path of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Before routing.
    Prerouting,
    /// To the host itself.
    Input,
    /// Through the host.
    Forward,
    /// Out of the host.
    Postrouting,
}

/// Follows one packet from message to message.
#[derive(Default)]
pub(crate) struct Follower {
    base: Option<Stop>,
    translated_by: Option<Stop>,
}

impl Follower {
    /// The packet's fate, once a message shows it.
    pub fn follow(&mut self, message: &Reply<'_>) -> Option<Fate> {
        let step = Step::of(message)?;
        let entered = |base: &Stop| (base.family, &base.table) == (step.family, &step.table);
        if self.base.as_ref().is_some_and(|base| !entered(base) || base.base == step.chain) {
            self.base = None;
        }
        // What rnet's own tables stop is meant to be stopped.
        if step.stops() && [TABLE, OWN].contains(&step.table.as_str()) {
            let arrival = Arrival { to: destination(message), translated_by: self.translated_by.take() };
            return Some(Fate::Passed(arrival));
        }
        if step.stops() {
            return Some(Fate::Stopped(self.stop(step)));
        }
        if step.translates() {
            self.translated_by = Some(self.stop(step));
            return None;
        }
        if matches!(step.verdict, Some(JUMP | GOTO)) && self.base.is_none() {
            self.base = Some(step.stop());
        }
        // Another program decides (NF_QUEUE), or answers in the host's place (NF_STOLEN).
        matches!(step.verdict.map(|code| code & VERDICT_MASK), Some(STOLEN | QUEUE))
            .then(|| Fate::Passed(Arrival::default()))
    }

    fn stop(&mut self, step: Step) -> Stop {
        let stop = step.stop();
        match self.base.take() {
            Some(base) => Stop { chain: stop.chain, ..base },
            None => stop,
        }
    }
}

/// One message of a trace.
struct Step {
    family: &'static str,
    table: String,
    chain: String,
    handle: Option<u64>,
    kind: u32,
    verdict: Option<u32>,
    policy: Option<u32>,
}

impl Step {
    fn of(message: &Reply<'_>) -> Option<Self> {
        let family = family_name(*message.payload.first()?)?;
        let text = |kind| {
            let bytes: &[u8] = message.attribute(kind)?;
            Some(String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned())
        };
        let number = |kind| message.number(kind).map(u32::from_be_bytes);
        // NFTA_VERDICT_CODE
        let verdict = message.attribute(VERDICT).and_then(|verdict| {
            let (_, code) = attributes(verdict).find(|(kind, _)| *kind == 1)?;
            code.try_into().ok().map(u32::from_be_bytes)
        });
        Some(Self {
            family,
            table: text(OF_TABLE)?,
            chain: text(OF_CHAIN)?,
            handle: message.number(RULE_HANDLE).map(u64::from_be_bytes),
            kind: number(KIND)?,
            verdict,
            policy: number(POLICY),
        })
    }

    fn stops(&self) -> bool {
        let code = match self.kind {
            BY_POLICY => self.policy,
            BY_RULE => self.verdict,
            _ => None,
        };
        // Jumps and returns are negative.
        code.is_some_and(|code| code.cast_signed() >= 0 && code & VERDICT_MASK == DROP)
    }

    /// Whether the table is iptables-nft's, netavark's, or has `nat` in its name.
    fn translates(&self) -> bool {
        let accepts = self.kind == BY_RULE && self.verdict == Some(ACCEPT);
        accepts && self.table != OWN && (self.table.contains("nat") || self.table.contains("netavark"))
    }

    fn stop(&self) -> Stop {
        let rule = self.handle.filter(|_| self.kind == BY_RULE);
        let chain = self.chain.clone();
        let table = self.table.clone();
        Stop { family: self.family, table, base: chain.clone(), base_rule: rule, chain }
    }
}

/// The destination in the beginnings of NFTA_TRACE_NETWORK_HEADER and NFTA_TRACE_TRANSPORT_HEADER.
fn destination(message: &Reply<'_>) -> Option<SocketAddr> {
    let (network, transport) = (message.attribute(8)?, message.attribute(9)?);
    let ip: IpAddr = match network.first()? >> 4 {
        4 => <[u8; 4]>::try_from(network.get(16..20)?).ok()?.into(),
        _ => <[u8; 16]>::try_from(network.get(24..40)?).ok()?.into(),
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes(transport.get(2..4)?.try_into().ok()?)))
}

/// NFPROTO_…
fn family_name(number: u8) -> Option<&'static str> {
    Some(match number {
        1 => "inet",
        2 => "ip",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => return None,
    })
}

fn family(name: &str) -> Option<Family> {
    [Family::Inet, Family::Bridge, Family::Ip, Family::Ip6]
        .into_iter()
        .find(|family| family.to_string() == name)
}

impl Requests {
    /// Makes both tables. With `owned` the kernel removes them with the socket; kernels before 5.12 cannot.
    pub fn create_probe(&mut self, magic: Magic, owned: bool) {
        for family in FAMILIES {
            self.probe_table(NfTablesMessageType::NewTable, NLM_F_CREATE, family, owned);
            self.probe_chain(family, ("begin", PREROUTING, FIRST), magic, Self::trace_it);
            self.probe_chain(family, ("end", POSTROUTING, LAST), magic, |rule| rule.verdict_code(DROP, None));
        }
        let take = |rule: &mut Self| rule.verdict_code(DROP, None);
        self.probe_chain(Family::Inet, ("end-input", INPUT, LAST), magic, take);
    }

    /// Removes one of them.
    pub fn delete_probe(&mut self, family: Family) {
        self.probe_table(NfTablesMessageType::DeleteTable, 0, family, false);
    }

    /// Asks for one of them.
    pub fn get_probe(&mut self, family: Family) {
        self.probe_table(NfTablesMessageType::GetTable, 0, family, false);
    }

    /// Asks for the chain that a packet was stopped in.
    pub fn get_stop(&mut self, stop: &Stop, chain: &str) {
        let Some(family) = family(stop.family) else { return };
        self.nftables(NfTablesMessageType::GetChain, 0, family, |message| {
            message.put(&ChainAttribute::Table(stop.table.clone()));
            message.put(&ChainAttribute::Name(chain.into()));
        });
    }

    fn probe_table(&mut self, kind: NfTablesMessageType, flags: u16, family: Family, owned: bool) {
        self.nftables(kind, flags, family, |message| {
            message.put(&TableAttribute::Name(TABLE.into()));
            if owned {
                message.put(&DefaultNla::new(TABLE_FLAGS, OWNER.to_be_bytes().into()));
            }
        });
    }

    /// A base chain with one rule.
    fn probe_chain(
        &mut self,
        family: Family,
        (name, hook, priority): (&str, u32, i32),
        magic: Magic,
        act: impl FnOnce(&mut Self),
    ) {
        self.nftables(NfTablesMessageType::NewChain, NLM_F_CREATE, family, |message| {
            message.put(&ChainAttribute::Table(TABLE.into()));
            message.put(&ChainAttribute::Name(name.into()));
            message.put(&ChainAttribute::Type("filter".into()));
            message.nest(&ChainAttribute::Hook(vec![]), |nested| {
                nested.put(&DefaultNla::new(1, hook.to_be_bytes().into()));
                nested.put(&Hook::Priority(priority.cast_unsigned()));
            });
        });
        self.nftables(NfTablesMessageType::NewRule, NLM_F_CREATE | NLM_F_APPEND, family, |message| {
            message.put(&RuleAttribute::Table(TABLE.into()));
            message.put(&RuleAttribute::Chain(name.into()));
            message.nest(&RuleAttribute::Expressions(vec![]), |rule| {
                rule.load(&MAGIC, 0);
                rule.equals(&magic);
                act(rule);
            });
        });
    }

    fn trace_it(&mut self) {
        self.set_meta(NFTRACE, &[1]);
    }
}

impl Reply<'_> {
    /// Whether it is about a table of a probe or something in it (NFTA_TABLE_NAME, NFTA_CHAIN_TABLE and so on are all 1).
    pub fn is_of_probe(&self) -> bool {
        self.attribute(1).and_then(|name| name.strip_suffix(&[0])) == Some(TABLE.as_bytes())
    }

    /// Whether it is a NFT_MSG_TRACE.
    pub fn is_trace(&self) -> bool {
        /// NFNL_SUBSYS_NFTABLES and NFT_MSG_TRACE.
        const TRACE: u16 = 10 << 8 | 17;
        self.kind == TRACE
    }

    /// The hook of the chain in a NFT_MSG_NEWCHAIN; `None` for one that is no base chain.
    pub fn hook(&self) -> Option<At> {
        let hook = self.attribute(ChainAttribute::Hook(vec![]).kind())?;
        // NFTA_HOOK_HOOKNUM
        let (_, number) = attributes(hook).find(|(kind, _)| *kind == 1)?;
        Some(match u32::from_be_bytes(number.try_into().ok()?) {
            PREROUTING => At::Prerouting,
            INPUT => At::Input,
            FORWARD => At::Forward,
            POSTROUTING => At::Postrouting,
            _ => return None,
        })
    }
}
