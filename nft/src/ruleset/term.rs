//! The terms that rules are made of: fields of a packet, constants, and what is done with them.

use Term::{Has, HasNot, Implied, Is};

use super::Set;

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
    /// `dnat FAMILY to FIELD . … map @MAP`; a missing key ends the rule.
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

/// A part of a packet that can be loaded and compared.
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

/// A constant: its bytes as in a register, and nft's text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value {
    pub bytes: &'static [u8],
    pub text: &'static str,
}

pub(super) const LINK: u32 = 0;
pub(super) const NETWORK: u32 = 1;
pub(super) const TRANSPORT: u32 = 2;

pub(super) const fn field(text: &'static str, source: Source, width: u32) -> Field {
    Field { text, source, width }
}

pub(crate) const IIFNAME: Field = field("iifname", Source::Meta(6), 16);
pub(crate) const OIFNAME: Field = field("oifname", Source::Meta(7), 16);
pub(super) const NFPROTO: Field = field("meta nfproto", Source::Meta(15), 1);
pub(crate) const L4PROTO: Field = field("meta l4proto", Source::Meta(16), 1);
pub(super) const FIB_DADDR: Field = field("fib daddr type", Source::FibDaddrType, 4);
pub(super) const FIB_WAY_BACK: Field = field("fib saddr . iif oif", Source::FibSaddrIif, 4);
pub(super) const CT_DIRECTION: Field = field("ct direction", Source::Conntrack(1), 1);
pub(super) const CT_STATE: Field = field("ct state", Source::Conntrack(0), 4);
pub(super) const CT_ID: Field = field("ct id", Source::Conntrack(23), 4);
pub(super) const CT_STATUS: Field = field("ct status", Source::Conntrack(2), 4);
pub(super) const ETHER_DADDR: Field = field("ether daddr", Source::Payload(LINK, 0), 6);
pub(crate) const ETHER_SADDR: Field = field("ether saddr", Source::Payload(LINK, 6), 6);
pub(super) const ETHER_TYPE: Field = field("ether type", Source::Payload(LINK, 12), 2);
pub(super) const IP_SADDR: Field = field("ip saddr", Source::Payload(NETWORK, 12), 4);
pub(super) const IP_DADDR: Field = field("ip daddr", Source::Payload(NETWORK, 16), 4);
pub(super) const IP6_NEXT: Field = field("ip6 nexthdr", Source::Payload(NETWORK, 6), 1);
pub(super) const IP6_SADDR: Field = field("ip6 saddr", Source::Payload(NETWORK, 8), 16);
pub(super) const IP6_DADDR: Field = field("ip6 daddr", Source::Payload(NETWORK, 24), 16);
pub(super) const ARP_SADDR_ETHER: Field = field("arp saddr ether", Source::Payload(NETWORK, 8), 6);
pub(super) const ARP_SADDR_IP: Field = field("arp saddr ip", Source::Payload(NETWORK, 14), 4);
pub(super) const ARP_DADDR_IP: Field = field("arp daddr ip", Source::Payload(NETWORK, 24), 4);
pub(crate) const TH_DPORT: Field = field("th dport", Source::Payload(TRANSPORT, 2), 2);
pub(super) const UDP_DPORT: Field = field("udp dport", Source::Payload(TRANSPORT, 2), 2);
pub(crate) const ICMPV6_TYPE: Field = field("icmpv6 type", Source::Payload(TRANSPORT, 0), 1);
pub(super) const ICMPV6_TARGET: Field = field("@nh,384,128", Source::Payload(NETWORK, 48), 16);
pub(super) const TCP_FLAGS: Field = field("tcp flags", Source::Payload(TRANSPORT, 13), 1);

pub(super) const fn value(text: &'static str, bytes: &'static [u8]) -> Value {
    Value { bytes, text }
}

/// RTN_LOCAL, a number in host order.
pub(super) const LOCAL_TYPE: &[u8] = &2u32.to_ne_bytes();
/// IPS_DST_NAT, in host order.
pub(super) const DNAT_STATUS: &[u8] = &0x20u32.to_ne_bytes();
/// IPS_SRC_NAT, in host order.
pub(super) const SNAT_STATUS: &[u8] = &0x10u32.to_ne_bytes();
/// IPS_CONFIRMED, in host order.
pub(super) const CONFIRMED_STATUS: &[u8] = &0x08u32.to_ne_bytes();
/// NF_CT_STATE_BIT of new, in host order.
pub(super) const NEW_STATE: &[u8] = &0x08u32.to_ne_bytes();
/// NF_CT_STATE_INVALID_BIT, in host order.
pub(super) const INVALID_STATE: &[u8] = &0x01u32.to_ne_bytes();
/// NF_CT_STATE_BIT of established and related, in host order.
pub(super) const KNOWN_STATES: &[u8] = &0x06u32.to_ne_bytes();

pub(super) const IS_IPV4: Term = Is(NFPROTO, value("ipv4", &[2]));
pub(super) const IS_IPV6: Term = Is(NFPROTO, value("ipv6", &[10]));
pub(super) const IPV4: Term = Implied(NFPROTO, value("ipv4", &[2]));
pub(super) const IPV6: Term = Implied(NFPROTO, value("ipv6", &[10]));
pub(super) const TO_HOST: Term = Is(FIB_DADDR, value("local", LOCAL_TYPE));
pub(super) const DNATED: Term = Has(CT_STATUS, value("dnat", DNAT_STATUS));
pub(super) const KNOWN: Term = Has(CT_STATE, value("established,related", KNOWN_STATES));
pub(super) const NEW: Term = Has(CT_STATE, value("new", NEW_STATE));
/// A flow's first packet. (`ct state new` lasts until the first answer.)
pub(super) const FIRST: Term = HasNot(CT_STATUS, value("confirmed", CONFIRMED_STATUS));
pub(super) const ORIGINAL: Term = Is(CT_DIRECTION, value("original", &[0]));
pub(super) const OWN_SOURCE: Term = HasNot(CT_STATUS, value("snat", SNAT_STATUS));
pub(super) const INVALID: Term = Has(CT_STATE, value("invalid", INVALID_STATE));
pub(super) const ETHER_IP: Term = Implied(ETHER_TYPE, value("ip", &[0x08, 0x00]));
pub(super) const ETHER_IP6: Term = Implied(ETHER_TYPE, value("ip6", &[0x86, 0xdd]));
pub(super) const ETHER_ARP: Term = Implied(ETHER_TYPE, value("arp", &[0x08, 0x06]));
pub(super) const UDP: Term = Implied(L4PROTO, value("udp", &[17]));
pub(super) const TCP: Term = Implied(L4PROTO, value("tcp", &[6]));
pub(super) const ICMPV6: Term = Implied(L4PROTO, value("ipv6-icmp", &[58]));
pub(super) const LO: Value = value("\"lo\"", b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
pub(super) const LOOPBACK: Value = value("127.0.0.0", &[127, 0, 0, 0]);

pub(super) const TO_ENDPOINT4: &[Field] = &[IP_DADDR, L4PROTO, TH_DPORT];
pub(super) const TO_ENDPOINT6: &[Field] = &[IP6_DADDR, L4PROTO, TH_DPORT];
pub(super) const TO_PORT: &[Field] = &[L4PROTO, TH_DPORT];
