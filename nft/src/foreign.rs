//! Other people's chains: rnet never changes them, but says when they are in the way.

use std::fmt;

use netlink_packet_core::{NLM_F_DUMP, Nla};
use netlink_packet_netfilter::nftables::{ChainAttribute, NfTablesMessageType};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterProtoFamily, NetfilterSubsystem};

use crate::encode::{Reply, Requests, attributes};

/// NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6.
const FAMILIES: [(u8, &str); 3] = [(1, "inet"), (2, "ip"), (10, "ip6")];
/// NFTA_HOOK_HOOKNUM.
const HOOK_NUMBER: u16 = 1;
/// NF_INET_LOCAL_IN.
const INPUT: u32 = 1;
/// NF_DROP.
const DROP: u32 = 0;

/// A base chain of somebody's that drops whatever comes to the host and is not accepted there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropping {
    /// `ip`, `ip6` or `inet`.
    pub family: &'static str,
    /// The table's name.
    pub table: String,
    /// The chain's name.
    pub chain: String,
}

/// As nft writes it: `ip filter INPUT`.
impl fmt::Display for Dropping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.family, self.table, self.chain)
    }
}

impl Requests {
    /// Asks for all chains of all families.
    pub fn dump_chains(&mut self) {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
        let kind = (NetfilterSubsystem::NfTables, NfTablesMessageType::GetChain.into());
        self.message(kind, NLM_F_DUMP, &header, |_| {});
    }
}

impl Reply<'_> {
    /// A chain in a NFT_MSG_NEWCHAIN, if it drops by policy what comes to the host.
    pub fn dropping(&self) -> Option<Dropping> {
        // struct nfgenmsg begins with the family.
        let (_, family) = FAMILIES.into_iter().find(|(number, _)| self.payload.first() == Some(number))?;
        let hook = self.attribute(ChainAttribute::Hook(vec![]).kind())?;
        let (_, number) = attributes(hook).find(|(kind, _)| *kind == HOOK_NUMBER)?;
        let policy = self.number(ChainAttribute::Policy(0).kind()).map(u32::from_be_bytes)?;
        let text = |kind: ChainAttribute| {
            let text = self.attribute(kind.kind())?.strip_suffix(&[0])?;
            Some(String::from_utf8_lossy(text).into_owned())
        };
        let (table, chain) =
            (text(ChainAttribute::Table(String::new()))?, text(ChainAttribute::Name(String::new()))?);
        let drops = number == INPUT.to_be_bytes() && policy == DROP;
        drops.then_some(Dropping { family, table, chain })
    }
}
