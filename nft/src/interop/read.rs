//! The kernel's rules of iptables' table `filter`, read expression by expression.

use netlink_packet_core::Nla;
use netlink_packet_netfilter::NetfilterSubsystem;
use netlink_packet_netfilter::nftables::{ChainAttribute, NfTablesMessageType, RuleAttribute};

use super::{ACCEPT, COMMENT, DROP, FoundRule, GOTO, JUMP, Links, RETURN, Rule};
use crate::encode::{Reply, attributes, value_in};
use crate::ruleset::{Field, ICMPV6_TYPE, IIFNAME, L4PROTO, OIFNAME, Source, TH_DPORT};

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
    pub fn interop_rule(&self) -> Option<FoundRule> {
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
    /// It has something that rnet writes into no rule.
    is_foreign: bool,
    /// It matches something.
    matches: bool,
    verdict: Option<u32>,
    /// It leads to the chain in which ufw logs or rejects what no rule has accepted.
    to_ufw: bool,
    rejects: bool,
    packets: u64,
}

impl Reader {
    /// Reads the inside of a NFTA_LIST_ELEM: name and data (NFTA_EXPR_NAME, NFTA_EXPR_DATA).
    fn read(&mut self, item: &[u8]) {
        let name = within(item, 1).unwrap_or_default();
        let data = within(item, 2).unwrap_or_default();
        match name {
            // NFTA_COUNTER_PACKETS
            b"counter\0" => self.packets = within(data, 2).map_or(0, packets),
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

    fn found(self, handle: u64) -> FoundRule {
        let ends = !self.matches && (self.rejects || self.to_ufw || self.verdict == Some(DROP));
        let is_ours = !self.is_foreign && matches!(self.verdict, Some(ACCEPT | RETURN));
        let (input, packets) = (self.rule.input.clone(), self.packets);
        FoundRule { handle, is_own: self.is_own, rule: is_ours.then_some(self.rule), input, ends, packets }
    }
}

/// `ufw-after-logging-forward` logs what will be dropped, `ufw-reject-forward` rejects it; the same with `ufw6-` and
/// `input`.
pub(super) fn is_end_of_ufw(chain: &str) -> bool {
    let rest = chain.strip_prefix("ufw-").or_else(|| chain.strip_prefix("ufw6-"));
    rest.is_some_and(|rest| rest.starts_with("after-logging-") || rest.starts_with("reject-"))
}

/// NFTA_META_KEY
fn meta(data: &[u8]) -> Option<&'static Field> {
    let key = number(data, 2)?;
    [&IIFNAME, &OIFNAME, &L4PROTO].into_iter().find(|field| field.source == Source::Meta(key))
}

/// NFTA_PAYLOAD_BASE, _OFFSET, _LEN
fn payload(data: &[u8]) -> Option<&'static Field> {
    let (source, width) = (Source::Payload(number(data, 2)?, number(data, 3)?), number(data, 4)?);
    [&TH_DPORT, &ICMPV6_TYPE].into_iter().find(|field| (field.source, field.width) == (source, width))
}

fn within(data: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(data).find_map(|(found, value)| (found == kind).then_some(value))
}

fn packets(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_be_bytes)
}

fn number(data: &[u8], kind: u16) -> Option<u32> {
    within(data, kind)?.try_into().ok().map(u32::from_be_bytes)
}
