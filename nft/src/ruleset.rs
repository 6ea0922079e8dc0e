//! The constant ruleset: two tables named `rnet`, as values that can be printed as `nft list ruleset` prints
//! them and encoded for the kernel. Nothing here depends on networks or containers.
//!
//! Each rule is written as nft writes it, term by term. A term that nft leaves out of its listings, because
//! it follows from the next one (`ip daddr` in an inet table is about IPv4), is in `implied(…)`.

use std::fmt;

use crate::encode::Requests;

use Term::{
    Accept, Add, Counter, Dnat, Drop, Has, HasNot, Implied, In, Is, IsNot, Mark, Masked, Masquerade, NotIn,
    Return, Within,
};

/// The mark of answers to the host's own loopback clients, by which the guard outside nftables knows them: "rnet".
pub const LOOPBACK_ANSWER: u32 = 0x726e_6574;

/// The name of both tables.
pub(crate) const TABLE: &str = "rnet";

/// The constant tables, chains, sets and rules of rnet.
///
/// `Display` is the text of `nft --stateless list ruleset` (nft 1.0.6) for them.
#[derive(Clone, Copy, Debug)]
pub struct Ruleset {
    pub(crate) tables: &'static [&'static Table],
}

impl Ruleset {
    /// What every host that runs rnet has in its kernel, whatever its networks.
    pub fn constant() -> Self {
        static TABLES: [&Table; 2] = [&INET, &BRIDGE];
        #[cfg(feature = "failpoints")]
        if let Some(tables) = crate::version::other(&TABLES) {
            return Self { tables };
        }
        Self { tables: &TABLES }
    }

    /// A number that stands for all of it, as it is written to the kernel: two programs with one number write the same.
    pub fn identity(&self) -> u64 {
        let mut requests = Requests::new(0);
        requests.create_tables(self);
        identity_of(requests.bytes())
    }

    /// How many rules there are: constant, whatever the number of networks, containers and ports.
    pub fn rules(&self) -> usize {
        self.tables.iter().flat_map(|table| table.chains).map(|chain| chain.rules.len()).sum()
    }

    pub(crate) fn sets(&self) -> impl Iterator<Item = &'static Set> + use<> {
        self.tables.iter().flat_map(|table| table.sets).copied()
    }
}

/// The address family of a table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Family {
    Inet,
    Bridge,
    /// iptables' own.
    Ip,
    /// ip6tables' own.
    Ip6,
}

/// A table with its sets and chains, in the order in which nft lists them.
#[derive(Debug)]
pub(crate) struct Table {
    pub family: Family,
    pub sets: &'static [&'static Set],
    pub chains: &'static [Chain],
}

/// A set, or a map if it has data.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct Set {
    pub family: Family,
    pub name: &'static str,
    pub key: &'static [Type],
    pub data: &'static [Type],
    /// Whether its keys are ranges (subnets).
    pub interval: bool,
    /// Whether rules add to it what they see, for a while; then how much it holds at most. Rules that find it full see nothing in it.
    pub dynamic: Option<u32>,
    /// Whether each of its elements counts the packets that a rule found it for.
    pub counted: bool,
    /// Whether its addresses are IPv6.
    pub v6: bool,
    /// For types that only an expression can name: its text, and nft's own encoding of it.
    pub type_of: Option<(&'static str, &'static [u8])>,
}

/// A type of nft's, with its number (`enum datatypes` in nftables' datatype.h) and width in bytes.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct Type {
    pub name: &'static str,
    pub id: u32,
    pub width: u32,
}

const INTEGER32: Type = Type { name: "integer", id: 4, width: 4 };
const INTEGER128: Type = Type { name: "integer", id: 4, width: 16 };
const IPV4_ADDR: Type = Type { name: "ipv4_addr", id: 7, width: 4 };
const IPV6_ADDR: Type = Type { name: "ipv6_addr", id: 8, width: 16 };
const ETHER_ADDR: Type = Type { name: "ether_addr", id: 9, width: 6 };
const INET_PROTO: Type = Type { name: "inet_proto", id: 12, width: 1 };
const INET_SERVICE: Type = Type { name: "inet_service", id: 13, width: 2 };
const IFNAME: Type = Type { name: "ifname", id: 41, width: 16 };

impl Set {
    const fn new(family: Family, name: &'static str, key: &'static [Type]) -> Self {
        Self {
            family,
            name,
            key,
            data: &[],
            interval: false,
            dynamic: None,
            counted: false,
            v6: false,
            type_of: None,
        }
    }

    const fn inet(name: &'static str, key: &'static [Type]) -> Self {
        Self::new(Family::Inet, name, key)
    }

    const fn bridge(name: &'static str, key: &'static [Type]) -> Self {
        Self::new(Family::Bridge, name, key)
    }

    const fn to(self, data: &'static [Type]) -> Self {
        Self { data, ..self }
    }

    const fn intervals(self) -> Self {
        Self { interval: true, ..self }
    }

    const fn dynamic(self, size: u32) -> Self {
        Self { dynamic: Some(size), ..self }
    }

    const fn typed(self, text: &'static str, type_of: &'static [u8]) -> Self {
        Self { type_of: Some((text, type_of)), ..self }
    }

    const fn counted(self) -> Self {
        Self { counted: true, ..self }
    }

    const fn v6(self) -> Self {
        Self { v6: true, ..self }
    }
}

const ENDPOINT4: &[Type] = &[IPV4_ADDR, INET_PROTO, INET_SERVICE];
const ENDPOINT6: &[Type] = &[IPV6_ADDR, INET_PROTO, INET_SERVICE];
const ANY: &[Type] = &[INET_PROTO, INET_SERVICE];
const TO4: &[Type] = &[IPV4_ADDR, INET_SERVICE];
const TO6: &[Type] = &[IPV6_ADDR, INET_SERVICE];

pub(crate) static PUBLISH4: Set = Set::inet("publish4", ENDPOINT4).to(TO4);
pub(crate) static PUBLISH4_ANY: Set = Set::inet("publish4_any", ANY).to(TO4);
pub(crate) static PUBLISH6: Set = Set::inet("publish6", ENDPOINT6).to(TO6).v6();
pub(crate) static PUBLISH6_ANY: Set = Set::inet("publish6_any", ANY).to(TO6).v6();
/// Sources and destinations that a published port is not for.
pub(crate) static EXCEPT4: Set =
    Set::inet("except4", &[IPV4_ADDR, IPV4_ADDR, INET_PROTO, INET_SERVICE]).intervals();
pub(crate) static EXCEPT6: Set =
    Set::inet("except6", &[IPV6_ADDR, IPV6_ADDR, INET_PROTO, INET_SERVICE]).intervals().v6();
pub(crate) static PUBLISHED4: Set = Set::inet("published4", ENDPOINT4);
pub(crate) static PUBLISHED6: Set = Set::inet("published6", ENDPOINT6).v6();
pub(crate) static MASQALL4: Set = Set::inet("masqall4", ENDPOINT4);
pub(crate) static MASQALL6: Set = Set::inet("masqall6", ENDPOINT6).v6();
pub(crate) static MASQ4: Set = Set::inet("masq4", &[IPV4_ADDR]);
pub(crate) static MASQ6: Set = Set::inet("masq6", &[IPV6_ADDR]).v6();
pub(crate) static HOME4: Set = Set::inet("home4", &[IPV4_ADDR, IFNAME]).intervals();
pub(crate) static HOME6: Set = Set::inet("home6", &[IPV6_ADDR, IFNAME]).intervals().v6();
/// The subnets of all networks, each with any destination: as pairs they are as easy to look up as `home4/6`.
pub(crate) static SUBNET4: Set = Set::inet("subnet4", &[IPV4_ADDR, IPV4_ADDR]).intervals();
pub(crate) static SUBNET6: Set = Set::inet("subnet6", &[IPV6_ADDR, IPV6_ADDR]).intervals().v6();
/// Addresses whose former holder may have left flows behind.
pub(crate) static STALE4: Set = Set::inet("stale4", &[IPV4_ADDR]);
pub(crate) static STALE6: Set = Set::inet("stale6", &[IPV6_ADDR]).v6();
/// Flows of such an address that began since.
pub(crate) static FRESH4: Set =
    Set::inet("fresh4", &[IPV4_ADDR, INTEGER32]).dynamic(FLOWS).typed("ip saddr . ct id", FRESH4_TYPE_OF);
pub(crate) static FRESH6: Set = Set::inet("fresh6", &[IPV6_ADDR, INTEGER32])
    .dynamic(FLOWS)
    .typed("ip6 saddr . ct id", FRESH6_TYPE_OF)
    .v6();
/// Pairs (from, to) of bridges; a bridge paired with itself is isolated from everything else.
pub(crate) static ISOLATED: Set = Set::inet("isolated", &[IFNAME, IFNAME]);
/// Guarded ports. Each counts what was dropped at it: a look-up that must not find it does not count.
pub(crate) static PORTS: Set = Set::bridge("ports", &[IFNAME]).counted();
pub(crate) static OWNER4: Set = Set::bridge("owner4", &[IFNAME, ETHER_ADDR, IPV4_ADDR]);
pub(crate) static OWNER6: Set = Set::bridge("owner6", &[IFNAME, ETHER_ADDR, IPV6_ADDR]).v6();
/// The target of a neighbour solicitation or advertisement, as what stands 48 bytes behind the start of an IPv6 header. nft
/// 1.0.6 has no name for it; newer versions have one for its place behind the ICMPv6 header, and do not load again what they
/// list so.
pub(crate) static TARGET6: Set = Set {
    type_of: Some(("iifname . @nh,384,128", TARGET6_TYPE_OF)),
    ..Set::bridge("target6", &[IFNAME, INTEGER128]).v6()
};

/// Sources of dropped frames, of the last hour: few, for an attacker chooses them.
pub(crate) static REFUSED4: Set =
    Set::bridge("refused4", &[IFNAME, ETHER_ADDR, IPV4_ADDR]).dynamic(SOURCES_KEPT);
pub(crate) static REFUSED6: Set =
    Set::bridge("refused6", &[IFNAME, ETHER_ADDR, IPV6_ADDR]).dynamic(SOURCES_KEPT).v6();

const FLOWS: u32 = 65535;
const SOURCES_KEPT: u32 = 1024;

/// `ip saddr . ct id` and `ip6 saddr . ct id` as nft stores them (see below).
const FRESH4_TYPE_OF: &[u8] = &[
    3, 52, 0, 4, 13, 0, 0, 0, 1, 44, 0, 20, 0, 4, 7, 0, 0, 0, 1, 12, 0, 4, 12, 0, 0, 0, 1, 4, 11, 0, 0, 0, 1,
    20, 0, 4, 12, 0, 0, 0, 1, 12, 0, 4, 23, 0, 0, 0, 1, 4, 255, 255, 255, 255,
];
const FRESH6_TYPE_OF: &[u8] = &[
    3, 52, 0, 4, 13, 0, 0, 0, 1, 44, 0, 20, 0, 4, 7, 0, 0, 0, 1, 12, 0, 4, 13, 0, 0, 0, 1, 4, 8, 0, 0, 0, 1,
    20, 0, 4, 12, 0, 0, 0, 1, 12, 0, 4, 23, 0, 0, 0, 1, 4, 255, 255, 255, 255,
];

/// `iifname . @nh,384,128` as nft stores it in a set (NFTNL_UDATA_SET_KEY_TYPEOF and what lies in it):
/// TLVs of one byte type, one byte length; numbers are little-endian.
const TARGET6_TYPE_OF: &[u8] = &[
    3, 64, // NFTNL_UDATA_SET_KEY_TYPEOF
    0, 4, 13, 0, 0, 0, // an expression: EXPR_CONCAT
    1, 56, // its data
    0, 14, 0, 4, 9, 0, 0, 0, 1, 6, 0, 4, 6, 0, 0, 0, // EXPR_META: iifname
    1, 38, 0, 4, 7, 0, 0, 0, // EXPR_PAYLOAD
    1, 30, 0, 4, 0, 0, 0, 0, 1, 4, 0, 0, 0, 0, // no known header, no known field
    2, 4, 2, 0, 0, 0, // PROTO_BASE_NETWORK_HDR
    3, 4, 128, 1, 0, 0, 4, 4, 128, 0, 0, 0, // offset (384) and length in bits
];

/// Eight bytes at a time: each ADD asks.
fn identity_of(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let rest = rest.iter().map(|byte| u64::from(*byte));
    words.iter().map(|word| u64::from_le_bytes(*word)).chain(rest).fold(bytes.len() as u64, |hash, word| {
        (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    })
}

/// A base chain and its rules; every policy is accept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    pub name: &'static str,
    pub kind: &'static str,
    pub hook: Hook,
    pub priority: i32,
    /// nft's word for that priority.
    pub priority_name: &'static str,
    pub rules: &'static [&'static [Term]],
}

/// Where a base chain hangs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hook {
    Prerouting,
    Forward,
    Output,
    Postrouting,
}

/// One term of a rule.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Term {
    /// `FIELD VALUE`
    Is(Field, Value),
    /// Like `Is`, but nft does not print it: the next term implies it.
    Implied(Field, Value),
    /// `FIELD != VALUE`
    IsNot(Field, Value),
    /// `FIELD VALUE/PREFIX`: the value's first bits.
    Within(Field, Value, u32),
    /// `FIELD & MASK == VALUE`
    Masked(Field, Value, Value),
    /// `FIELD FLAG,…`: any of these bits.
    Has(Field, Value),
    /// `FIELD ! FLAG`: without this bit.
    HasNot(Field, Value),
    /// `add @SET { FIELD . … timeout TIME }`
    Add(&'static [Field], &'static Set),
    /// `FIELD . … @SET`
    In(&'static [Field], &'static Set),
    /// `FIELD . … != @SET`
    NotIn(&'static [Field], &'static Set),
    /// `dnat FAMILY to FIELD . … map @MAP`; a key that is not there ends the rule.
    Dnat(&'static [Field], &'static Set),
    /// `masquerade`
    Masquerade,
    /// `meta mark set VALUE`
    Mark(Value),
    /// `counter`
    Counter,
    /// `accept`: the end of this base chain for the packet.
    Accept,
    /// `drop`
    Drop,
    /// `return`: on to the policy.
    Return,
}

/// Something of a packet that can be loaded and compared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub text: &'static str,
    pub source: Source,
    /// Width in bytes.
    pub width: u32,
}

/// Where a field comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// NFT_META_*
    Meta(u32),
    /// NFT_PAYLOAD_* header and the offset in it
    Payload(u32, u32),
    /// NFT_CT_*
    Conntrack(u32),
    /// The type of the destination address (NFT_FIB_RESULT_ADDRTYPE)
    FibDaddrType,
    /// Whether the source address is routed to where the packet came from (NFT_FIB_RESULT_OIF)
    FibSaddrIif,
}

/// A constant: its bytes as they lie in a register, and nft's text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value {
    pub bytes: &'static [u8],
    pub text: &'static str,
}

const LINK: u32 = 0;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;

const fn field(text: &'static str, source: Source, width: u32) -> Field {
    Field { text, source, width }
}

pub(crate) const IIFNAME: Field = field("iifname", Source::Meta(6), 16);
pub(crate) const OIFNAME: Field = field("oifname", Source::Meta(7), 16);
const NFPROTO: Field = field("meta nfproto", Source::Meta(15), 1);
pub(crate) const L4PROTO: Field = field("meta l4proto", Source::Meta(16), 1);
const FIB_DADDR: Field = field("fib daddr type", Source::FibDaddrType, 4);
const FIB_WAY_BACK: Field = field("fib saddr . iif oif", Source::FibSaddrIif, 4);
const CT_DIRECTION: Field = field("ct direction", Source::Conntrack(1), 1);
const CT_STATE: Field = field("ct state", Source::Conntrack(0), 4);
const CT_ID: Field = field("ct id", Source::Conntrack(23), 4);
const CT_STATUS: Field = field("ct status", Source::Conntrack(2), 4);
const ETHER_DADDR: Field = field("ether daddr", Source::Payload(LINK, 0), 6);
pub(crate) const ETHER_SADDR: Field = field("ether saddr", Source::Payload(LINK, 6), 6);
const ETHER_TYPE: Field = field("ether type", Source::Payload(LINK, 12), 2);
const IP_SADDR: Field = field("ip saddr", Source::Payload(NETWORK, 12), 4);
const IP_DADDR: Field = field("ip daddr", Source::Payload(NETWORK, 16), 4);
const IP6_NEXT: Field = field("ip6 nexthdr", Source::Payload(NETWORK, 6), 1);
const IP6_SADDR: Field = field("ip6 saddr", Source::Payload(NETWORK, 8), 16);
const IP6_DADDR: Field = field("ip6 daddr", Source::Payload(NETWORK, 24), 16);
const ARP_SADDR_ETHER: Field = field("arp saddr ether", Source::Payload(NETWORK, 8), 6);
const ARP_SADDR_IP: Field = field("arp saddr ip", Source::Payload(NETWORK, 14), 4);
const ARP_DADDR_IP: Field = field("arp daddr ip", Source::Payload(NETWORK, 24), 4);
pub(crate) const TH_DPORT: Field = field("th dport", Source::Payload(TRANSPORT, 2), 2);
const UDP_DPORT: Field = field("udp dport", Source::Payload(TRANSPORT, 2), 2);
pub(crate) const ICMPV6_TYPE: Field = field("icmpv6 type", Source::Payload(TRANSPORT, 0), 1);
const ICMPV6_TARGET: Field = field("@nh,384,128", Source::Payload(NETWORK, 48), 16);
const TCP_FLAGS: Field = field("tcp flags", Source::Payload(TRANSPORT, 13), 1);

const fn value(text: &'static str, bytes: &'static [u8]) -> Value {
    Value { bytes, text }
}

/// RTN_LOCAL, a number in host order.
const LOCAL_TYPE: &[u8] = &2u32.to_ne_bytes();
/// IPS_DST_NAT, in host order.
const DNAT_STATUS: &[u8] = &0x20u32.to_ne_bytes();
/// IPS_SRC_NAT, in host order.
const SNAT_STATUS: &[u8] = &0x10u32.to_ne_bytes();
/// IPS_CONFIRMED, in host order.
const CONFIRMED_STATUS: &[u8] = &0x08u32.to_ne_bytes();
/// NF_CT_STATE_BIT of new, in host order.
const NEW_STATE: &[u8] = &0x08u32.to_ne_bytes();
/// NF_CT_STATE_INVALID_BIT, in host order.
const INVALID_STATE: &[u8] = &0x01u32.to_ne_bytes();
/// NF_CT_STATE_BIT of established and related, in host order.
const KNOWN_STATES: &[u8] = &0x06u32.to_ne_bytes();

const IS_IPV4: Term = Is(NFPROTO, value("ipv4", &[2]));
const IS_IPV6: Term = Is(NFPROTO, value("ipv6", &[10]));
const IPV4: Term = Implied(NFPROTO, value("ipv4", &[2]));
const IPV6: Term = Implied(NFPROTO, value("ipv6", &[10]));
const TO_HOST: Term = Is(FIB_DADDR, value("local", LOCAL_TYPE));
const DNATED: Term = Has(CT_STATUS, value("dnat", DNAT_STATUS));
const KNOWN: Term = Has(CT_STATE, value("established,related", KNOWN_STATES));
const NEW: Term = Has(CT_STATE, value("new", NEW_STATE));
/// A flow's first packet: one of which there was no answer yet is new for longer.
const FIRST: Term = HasNot(CT_STATUS, value("confirmed", CONFIRMED_STATUS));
const ORIGINAL: Term = Is(CT_DIRECTION, value("original", &[0]));
const OWN_SOURCE: Term = HasNot(CT_STATUS, value("snat", SNAT_STATUS));
const INVALID: Term = Has(CT_STATE, value("invalid", INVALID_STATE));
const ETHER_IP: Term = Implied(ETHER_TYPE, value("ip", &[0x08, 0x00]));
const ETHER_IP6: Term = Implied(ETHER_TYPE, value("ip6", &[0x86, 0xdd]));
const ETHER_ARP: Term = Implied(ETHER_TYPE, value("arp", &[0x08, 0x06]));
const UDP: Term = Implied(L4PROTO, value("udp", &[17]));
const TCP: Term = Implied(L4PROTO, value("tcp", &[6]));
const ICMPV6: Term = Implied(L4PROTO, value("ipv6-icmp", &[58]));
const LO: Value = value("\"lo\"", b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
const LOOPBACK: Value = value("127.0.0.0", &[127, 0, 0, 0]);

const TO_ENDPOINT4: &[Field] = &[IP_DADDR, L4PROTO, TH_DPORT];
const TO_ENDPOINT6: &[Field] = &[IP6_DADDR, L4PROTO, TH_DPORT];
const TO_PORT: &[Field] = &[L4PROTO, TH_DPORT];

static INET: Table = Table {
    family: Family::Inet,
    sets: &[
        &PUBLISH4,
        &PUBLISH4_ANY,
        &PUBLISH6,
        &PUBLISH6_ANY,
        &EXCEPT4,
        &EXCEPT6,
        &PUBLISHED4,
        &PUBLISHED6,
        &MASQALL4,
        &MASQALL6,
        &MASQ4,
        &MASQ6,
        &HOME4,
        &HOME6,
        &SUBNET4,
        &SUBNET6,
        &STALE4,
        &STALE6,
        &FRESH4,
        &FRESH6,
        &ISOLATED,
    ],
    chains: &[
        // Before conntrack and before anybody's DNAT: who has route_localnet still answers nobody from outside.
        Chain {
            name: "loopback-guard",
            kind: "filter",
            hook: Hook::Prerouting,
            priority: -350,
            priority_name: "-350",
            rules: &[&[IsNot(IIFNAME, LO), IPV4, Within(IP_DADDR, LOOPBACK, 8), Counter, Drop]],
        },
        Chain {
            name: "source-guard",
            kind: "filter",
            hook: Hook::Prerouting,
            priority: -350,
            priority_name: "-350",
            rules: SOURCES,
        },
        // An answer to the host's own loopback client, which has just been translated back to 127.0.0.1. The guard outside
        // nftables would take it for an attack where br_netfilter has it translated before it enters the bridge. Nothing else
        // gets the mark: that guard must hold where nobody has the first one.
        Chain {
            name: "loopback-answer",
            kind: "filter",
            hook: Hook::Prerouting,
            priority: 0,
            priority_name: "filter",
            rules: &[&[
                IsNot(IIFNAME, LO),
                IPV4,
                Within(IP_DADDR, LOOPBACK, 8),
                Is(CT_DIRECTION, value("reply", &[1])),
                Has(CT_STATUS, value("snat", SNAT_STATUS)),
                Mark(value("0x726e6574", &LOOPBACK_ANSWER.to_ne_bytes())),
            ]],
        },
        Chain {
            name: "prerouting",
            kind: "nat",
            hook: Hook::Prerouting,
            priority: -100,
            priority_name: "dstnat",
            rules: PUBLISH,
        },
        Chain {
            name: "holders",
            kind: "filter",
            hook: Hook::Prerouting,
            priority: 0,
            priority_name: "filter",
            rules: HOLDERS,
        },
        Chain {
            name: "output",
            kind: "nat",
            hook: Hook::Output,
            priority: -100,
            priority_name: "-100",
            rules: PUBLISH,
        },
        Chain {
            name: "host-holders",
            kind: "filter",
            hook: Hook::Output,
            priority: 0,
            priority_name: "filter",
            rules: HOST_HOLDERS,
        },
        Chain {
            name: "postrouting",
            kind: "nat",
            hook: Hook::Postrouting,
            priority: 100,
            priority_name: "srcnat",
            rules: MASQUERADE,
        },
        Chain {
            name: "forward",
            kind: "filter",
            hook: Hook::Forward,
            priority: 0,
            priority_name: "filter",
            rules: ISOLATE,
        },
        Chain {
            name: "untranslated",
            kind: "filter",
            hook: Hook::Postrouting,
            priority: 150,
            priority_name: "150",
            rules: UNTRANSLATED,
        },
        // A segment that conntrack finds no place for is not translated and so ends at the host, whose answer would end the
        // container's connection. The host's answers to its own peers belong to a connection.
        Chain {
            name: "resets",
            kind: "filter",
            hook: Hook::Output,
            priority: 0,
            priority_name: "filter",
            rules: &[&[INVALID, TCP, Has(TCP_FLAGS, value("rst", &[4])), Counter, Drop]],
        },
    ],
};

/// A container's address comes in by a bridge of its subnet, or from the host itself. Before conntrack: an entry that anybody
/// else could make would let answers in, to ports that nobody published.
const SOURCES: &[&[Term]] = &[
    // Where the host's own route to that address leads elsewhere (a longer prefix within the subnet), no container has it.
    &[
        IsNot(IIFNAME, LO),
        IPV4,
        In(&[IP_SADDR, IP_DADDR], &SUBNET4),
        NotIn(&[IP_SADDR, IIFNAME], &HOME4),
        Is(FIB_WAY_BACK, value("missing", &[0; 4])),
        Counter,
        Drop,
    ],
    // For IPv6 the kernel takes a default route there for a way back.
    &[
        IsNot(IIFNAME, LO),
        IPV6,
        In(&[IP6_SADDR, IP6_DADDR], &SUBNET6),
        NotIn(&[IP6_SADDR, IIFNAME], &HOME6),
        Counter,
        Drop,
    ],
];

/// Only packets for the host itself: traffic that passes through is nobody's published port (CVE-2025-67499).
const PUBLISH: &[&[Term]] = &[
    // portmap's conditions: whom a port is not for goes on as if nobody had published it.
    &[IPV4, In(&[IP_SADDR, IP_DADDR, L4PROTO, TH_DPORT], &EXCEPT4), Return],
    &[TO_HOST, IPV4, Dnat(TO_ENDPOINT4, &PUBLISH4)],
    &[TO_HOST, IS_IPV4, Dnat(TO_PORT, &PUBLISH4_ANY)],
    // The kernel never routes ::1 or link-local addresses to a container: refused at once, not lost.
    &[IPV6, Is(IP6_DADDR, value("::1", &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])), Return],
    &[IPV6, Within(IP6_DADDR, LINK_LOCAL, 10), Return],
    &[IPV6, In(&[IP6_SADDR, IP6_DADDR, L4PROTO, TH_DPORT], &EXCEPT6), Return],
    &[TO_HOST, IPV6, Dnat(TO_ENDPOINT6, &PUBLISH6)],
    &[TO_HOST, IS_IPV6, Dnat(TO_PORT, &PUBLISH6_ANY)],
];

/// Nobody inherits flows with an address: until those of its former holder are forgotten, which takes longer than anybody
/// should wait for, only such pass as began since. Behind the translation of destinations, before that of sources.
const HOLDERS: &[&[Term]] = &[
    &[IPV4, In(&[IP_SADDR], &STALE4), NEW, FIRST, Add(&[IP_SADDR, CT_ID], &FRESH4)],
    &[IPV4, In(&[IP_DADDR], &STALE4), NEW, FIRST, Add(&[IP_DADDR, CT_ID], &FRESH4)],
    &[IPV4, In(&[IP_SADDR], &STALE4), NotIn(&[IP_SADDR, CT_ID], &FRESH4), Counter, Drop],
    &[IPV4, In(&[IP_DADDR], &STALE4), NotIn(&[IP_DADDR, CT_ID], &FRESH4), Counter, Drop],
    &[IPV6, In(&[IP6_SADDR], &STALE6), NEW, FIRST, Add(&[IP6_SADDR, CT_ID], &FRESH6)],
    &[IPV6, In(&[IP6_DADDR], &STALE6), NEW, FIRST, Add(&[IP6_DADDR, CT_ID], &FRESH6)],
    &[IPV6, In(&[IP6_SADDR], &STALE6), NotIn(&[IP6_SADDR, CT_ID], &FRESH6), Counter, Drop],
    &[IPV6, In(&[IP6_DADDR], &STALE6), NotIn(&[IP6_DADDR, CT_ID], &FRESH6), Counter, Drop],
];

/// The same for what the host itself sends.
const HOST_HOLDERS: &[&[Term]] = &[
    &[IPV4, In(&[IP_DADDR], &STALE4), NEW, FIRST, Add(&[IP_DADDR, CT_ID], &FRESH4)],
    &[IPV4, In(&[IP_DADDR], &STALE4), NotIn(&[IP_DADDR, CT_ID], &FRESH4), Counter, Drop],
    &[IPV6, In(&[IP6_DADDR], &STALE6), NEW, FIRST, Add(&[IP6_DADDR, CT_ID], &FRESH6)],
    &[IPV6, In(&[IP6_DADDR], &STALE6), NotIn(&[IP6_DADDR, CT_ID], &FRESH6), Counter, Drop],
];

const LINK_LOCAL: Value = value("fe80::", &[0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
const MULTICAST4: Value = value("224.0.0.0", &[224, 0, 0, 0]);
const MULTICAST6: Value = value("ff00::", &[0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);

const MASQUERADE: &[&[Term]] = &[
    &[IPV4, Within(IP_DADDR, MULTICAST4, 4), Return],
    &[IPV6, Within(IP6_DADDR, MULTICAST6, 8), Return],
    // Hairpin: a client of the container's own network must get its answer by way of the host.
    &[DNATED, IPV4, In(&[IP_SADDR, OIFNAME], &HOME4), In(TO_ENDPOINT4, &PUBLISHED4), Masquerade],
    // Loopback: 127.0.0.1 means nothing to the container.
    &[IPV4, Within(IP_SADDR, LOOPBACK, 8), DNATED, In(TO_ENDPOINT4, &PUBLISHED4), Masquerade],
    &[DNATED, IPV4, In(TO_ENDPOINT4, &MASQALL4), Masquerade],
    &[IPV4, In(&[IP_SADDR], &MASQ4), NotIn(&[IP_SADDR, OIFNAME], &HOME4), Masquerade],
    &[DNATED, IPV6, In(&[IP6_SADDR, OIFNAME], &HOME6), In(TO_ENDPOINT6, &PUBLISHED6), Masquerade],
    &[DNATED, IPV6, In(TO_ENDPOINT6, &MASQALL6), Masquerade],
    &[IPV6, In(&[IP6_SADDR], &MASQ6), NotIn(&[IP6_SADDR, OIFNAME], &HOME6), Masquerade],
];

/// What leaves a masqueraded network is masqueraded, or an answer to a client that came by a direct route. Conntrack translates
/// nothing that it finds no place for, such as the last segments of a connection that it has forgotten, and no flow that began
/// while somebody had flushed our rules.
const UNTRANSLATED: &[&[Term]] = &[
    &[IPV4, Within(IP_DADDR, MULTICAST4, 4), Accept],
    &[IPV6, Within(IP6_DADDR, MULTICAST6, 8), Accept],
    &[IPV4, In(&[IP_SADDR], &MASQ4), NotIn(&[IP_SADDR, OIFNAME], &HOME4), INVALID, Counter, Drop],
    &[
        IPV4,
        In(&[IP_SADDR], &MASQ4),
        NotIn(&[IP_SADDR, OIFNAME], &HOME4),
        ORIGINAL,
        OWN_SOURCE,
        Counter,
        Drop,
    ],
    &[IPV6, In(&[IP6_SADDR], &MASQ6), NotIn(&[IP6_SADDR, OIFNAME], &HOME6), INVALID, Counter, Drop],
    &[
        IPV6,
        In(&[IP6_SADDR], &MASQ6),
        NotIn(&[IP6_SADDR, OIFNAME], &HOME6),
        ORIGINAL,
        OWN_SOURCE,
        Counter,
        Drop,
    ],
];

/// What is forwarded to an isolated bridge; the pair of a bridge with itself stands for the bridge.
const ISOLATE: &[&[Term]] = &[
    &[NotIn(&[OIFNAME, OIFNAME], &ISOLATED), Accept],
    // With br_netfilter, frames within one bridge come by here too.
    &[In(&[IIFNAME, OIFNAME], &ISOLATED), Accept],
    &[KNOWN, Accept],
    // Both: what others DNAT to an unpublished port is dropped, and a direct route to a published one too.
    &[DNATED, IPV4, In(TO_ENDPOINT4, &PUBLISHED4), Accept],
    &[DNATED, IPV6, In(TO_ENDPOINT6, &PUBLISHED6), Accept],
    &[Counter, Drop],
];

static BRIDGE: Table = Table {
    family: Family::Bridge,
    sets: &[&PORTS, &OWNER4, &OWNER6, &TARGET6, &REFUSED4, &REFUSED6],
    chains: &[Chain {
        name: "guard",
        kind: "filter",
        hook: Hook::Prerouting,
        priority: -300,
        priority_name: "dstnat",
        rules: GUARD,
    }],
};

/// What a guarded port may send. Names what is allowed and drops the rest, so that a frame too short for a
/// lookup, with a VLAN tag or of another protocol falls through to the last rule.
const GUARD: &[&[Term]] = &[
    &[NotIn(&[IIFNAME], &PORTS), Accept],
    &[Masked(ETHER_DADDR, BRIDGE_GROUP_MASK, BRIDGE_GROUP), AT_PORT, Counter, Drop],
    // Whatever port a rogue DHCP server sends from, clients listen here.
    &[UDP, Is(UDP_DPORT, value("68", &68u16.to_be_bytes())), AT_PORT, Counter, Drop],
    &[UDP, Is(UDP_DPORT, value("546", &546u16.to_be_bytes())), AT_PORT, Counter, Drop],
    &[ETHER_IP6, ICMPV6, Is(ICMPV6_TYPE, value("nd-router-advert", &[134])), AT_PORT, Counter, Drop],
    &[
        ETHER_IP6,
        ICMPV6,
        Is(ICMPV6_TYPE, NEIGHBOR_ADVERT),
        IsNot(IP6_NEXT, value("ipv6-icmp", &[58])),
        AT_PORT,
        Counter,
        Drop,
    ],
    &[
        ETHER_IP6,
        ICMPV6,
        Is(ICMPV6_TYPE, NEIGHBOR_ADVERT),
        NotIn(&[IIFNAME, ICMPV6_TARGET], &TARGET6),
        AT_PORT,
        Counter,
        Drop,
    ],
    // No address is a source before duplicate address detection (RFC 4862, 5.4) and for nothing else but it and the multicast
    // reports that go before it (RFC 3590): an answer to such a packet would go to the host itself.
    &[
        ETHER_IP6,
        In(&[IIFNAME, ETHER_SADDR, IP6_SADDR], &OWNER6),
        Is(IP6_SADDR, NO_ADDRESS6),
        ICMPV6,
        Is(ICMPV6_TYPE, value("nd-neighbor-solicit", &[135])),
        Is(IP6_NEXT, value("ipv6-icmp", &[58])),
        In(&[IIFNAME, ICMPV6_TARGET], &TARGET6),
        Accept,
    ],
    &[
        ETHER_IP6,
        In(&[IIFNAME, ETHER_SADDR, IP6_SADDR], &OWNER6),
        Is(IP6_SADDR, NO_ADDRESS6),
        ICMPV6,
        Is(ICMPV6_TYPE, value("mld2-listener-report", &[143])),
        Accept,
    ],
    &[
        ETHER_IP6,
        In(&[IIFNAME, ETHER_SADDR, IP6_SADDR], &OWNER6),
        Is(IP6_SADDR, NO_ADDRESS6),
        ICMPV6,
        Is(ICMPV6_TYPE, value("mld-listener-report", &[131])),
        Accept,
    ],
    &[
        ETHER_IP6,
        In(&[IIFNAME, ETHER_SADDR, IP6_SADDR], &OWNER6),
        Is(IP6_SADDR, NO_ADDRESS6),
        AT_PORT,
        Counter,
        Drop,
    ],
    &[ETHER_IP, In(&[IIFNAME, ETHER_SADDR, IP_SADDR], &OWNER4), Accept],
    &[ETHER_IP6, In(&[IIFNAME, ETHER_SADDR, IP6_SADDR], &OWNER6), Accept],
    &[
        ETHER_ARP,
        In(&[IIFNAME, ETHER_SADDR, ARP_SADDR_IP], &OWNER4),
        In(&[IIFNAME, ARP_SADDR_ETHER, ARP_SADDR_IP], &OWNER4),
        Accept,
    ],
    // A probe (RFC 5227) has no sender address yet; it may only ask for an address of this very port.
    &[
        ETHER_ARP,
        Is(ARP_SADDR_IP, value("0.0.0.0", &[0, 0, 0, 0])),
        In(&[IIFNAME, ETHER_SADDR, ARP_DADDR_IP], &OWNER4),
        In(&[IIFNAME, ARP_SADDR_ETHER, ARP_DADDR_IP], &OWNER4),
        Accept,
    ],
    // Who sent that, in whose name.
    &[ETHER_IP, Add(&[IIFNAME, ETHER_SADDR, IP_SADDR], &REFUSED4)],
    &[ETHER_IP6, Add(&[IIFNAME, ETHER_SADDR, IP6_SADDR], &REFUSED6)],
    &[ETHER_ARP, Add(&[IIFNAME, ETHER_SADDR, ARP_SADDR_IP], &REFUSED4)],
    &[AT_PORT, Counter, Drop],
    &[Drop],
];

/// Counts at the port what the rule drops.
const AT_PORT: Term = In(&[IIFNAME], &PORTS);

const NEIGHBOR_ADVERT: Value = value("nd-neighbor-advert", &[136]);
const NO_ADDRESS6: Value = value("::", &[0; 16]);

/// 01:80:c2:00:00:00 to :0f, which a bridge must never forward (IEEE 802.1D, 7.12.6).
const BRIDGE_GROUP: Value = value("01:80:c2:00:00:00", &[0x01, 0x80, 0xc2, 0, 0, 0]);
const BRIDGE_GROUP_MASK: Value = value("ff:ff:ff:ff:ff:f0", &[0xff, 0xff, 0xff, 0xff, 0xff, 0xf0]);

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tables.iter().try_for_each(|table| write!(f, "{table}"))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table {} {TABLE} {{", self.family)?;
        for set in self.sets {
            writeln!(f, "{set}")?;
        }
        for (i, chain) in self.chains.iter().enumerate() {
            write!(f, "{}{chain}", if i == 0 { "" } else { "\n" })?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Bridge => "bridge",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        })
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\t{} {} {{", if self.data.is_empty() { "set" } else { "map" }, self.name)?;
        match self.type_of {
            Some((text, _)) => write!(f, "\t\ttypeof {text}")?,
            None => write!(f, "\t\ttype {}", joined(self.key, |t| t.name))?,
        }
        if !self.data.is_empty() {
            write!(f, " : {}", joined(self.data, |t| t.name))?;
        }
        if let Some(size) = self.dynamic {
            write!(f, "\n\t\tsize {size}\n\t\tflags dynamic,timeout")?;
        }
        if self.counted {
            write!(f, "\n\t\tcounter")?;
        }
        let flags = if self.interval { "\n\t\tflags interval" } else { "" };
        writeln!(f, "{flags}\n\t}}")
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, kind, hook, priority_name, .. } = self;
        writeln!(f, "\tchain {name} {{")?;
        writeln!(f, "\t\ttype {kind} hook {hook} priority {priority_name}; policy accept;")?;
        for rule in self.rules {
            let terms: Vec<String> = rule.iter().filter_map(Term::text).collect();
            writeln!(f, "\t\t{}", terms.join(" "))?;
        }
        writeln!(f, "\t}}")
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        })
    }
}

impl Term {
    /// nft's text, unless it leaves the term out.
    fn text(&self) -> Option<String> {
        Some(match self {
            Self::Implied(..) => return None,
            Self::Is(field, value) | Self::Has(field, value) => format!("{} {}", field.text, value.text),
            Self::HasNot(field, value) => format!("{} ! {}", field.text, value.text),
            Self::Add(fields, set) => {
                format!("add @{} {{ {} timeout 1h }}", set.name, joined(fields, |f| f.text))
            }
            Self::IsNot(field, value) => format!("{} != {}", field.text, value.text),
            Self::Within(field, value, bits) => format!("{} {}/{bits}", field.text, value.text),
            Self::Masked(field, mask, value) => {
                format!("{} & {} == {}", field.text, mask.text, value.text)
            }
            Self::In(fields, set) => format!("{} @{}", joined(fields, |f| f.text), set.name),
            Self::NotIn(fields, set) => format!("{} != @{}", joined(fields, |f| f.text), set.name),
            Self::Dnat(fields, map) => {
                let family = if map.v6 { "ip6" } else { "ip" };
                format!("dnat {family} to {} map @{}", joined(fields, |f| f.text), map.name)
            }
            Self::Masquerade => "masquerade".into(),
            Self::Mark(value) => format!("meta mark set {}", value.text),
            Self::Counter => "counter".into(),
            Self::Accept => "accept".into(),
            Self::Drop => "drop".into(),
            Self::Return => "return".into(),
        })
    }
}

/// A concatenation as nft writes it.
fn joined<T>(parts: &[T], text: impl Fn(&T) -> &'static str) -> String {
    parts.iter().map(text).collect::<Vec<_>>().join(" . ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// tests/kernel.rs compares this text with what the kernel lists.
    #[test]
    fn the_whole_ruleset() {
        insta::assert_snapshot!(Ruleset::constant());
    }

    #[test]
    fn values_are_as_wide_as_their_fields() {
        for term in terms() {
            match term {
                Is(field, value)
                | Implied(field, value)
                | IsNot(field, value)
                | Has(field, value)
                | HasNot(field, value) => {
                    assert_eq!(value.bytes.len(), field.width as usize, "{term:?}");
                }
                Within(field, value, bits) => {
                    assert_eq!(value.bytes.len(), field.width as usize, "{term:?}");
                    assert!((1..=field.width * 8).contains(&bits), "{term:?}");
                }
                Masked(field, mask, value) => {
                    assert_eq!(
                        (mask.bytes.len(), value.bytes.len()),
                        (field.width as usize, mask.bytes.len())
                    );
                }
                Mark(value) => {
                    let number = u32::from_ne_bytes(value.bytes.try_into().unwrap());
                    assert_eq!(value.text, format!("{number:#x}"));
                }
                _ => {}
            }
        }
    }

    #[test]
    fn lookups_have_the_fields_of_their_sets() {
        for term in terms() {
            if let In(fields, set) | NotIn(fields, set) | Dnat(fields, set) | Add(fields, set) = term {
                let fields: Vec<u32> = fields.iter().map(|field| field.width).collect();
                let key: Vec<u32> = set.key.iter().map(|part| part.width).collect();
                assert_eq!(fields, key, "{}", set.name);
            }
        }
    }

    fn terms() -> impl Iterator<Item = Term> {
        let chains = Ruleset::constant().tables.iter().flat_map(|table| table.chains);
        chains.flat_map(|chain| chain.rules).flat_map(|rule| rule.iter()).copied()
    }
}
