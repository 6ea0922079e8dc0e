//! The sets and maps of both tables, and nft's types of their keys.

use super::Family;

/// A set, or a map if it has data.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct Set {
    pub family: Family,
    pub name: &'static str,
    pub key: &'static [Type],
    pub data: &'static [Type],
    /// Whether its keys are ranges (subnets).
    pub interval: bool,
    /// Set if rules add to it what they see, for an hour: the most elements that it holds. When it is full, rules add
    /// nothing more.
    pub dynamic: Option<u32>,
    /// Whether each of its elements counts the packets for which a rule found it.
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

pub(super) const INTEGER32: Type = Type { name: "integer", id: 4, width: 4 };
pub(super) const INTEGER128: Type = Type { name: "integer", id: 4, width: 16 };
pub(super) const IPV4_ADDR: Type = Type { name: "ipv4_addr", id: 7, width: 4 };
pub(super) const IPV6_ADDR: Type = Type { name: "ipv6_addr", id: 8, width: 16 };
pub(super) const ETHER_ADDR: Type = Type { name: "ether_addr", id: 9, width: 6 };
pub(super) const INET_PROTO: Type = Type { name: "inet_proto", id: 12, width: 1 };
pub(super) const INET_SERVICE: Type = Type { name: "inet_service", id: 13, width: 2 };
pub(super) const IFNAME: Type = Type { name: "ifname", id: 41, width: 16 };

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

    const fn with_type_of(self, text: &'static str, type_of: &'static [u8]) -> Self {
        Self { type_of: Some((text, type_of)), ..self }
    }

    const fn with_counter(self) -> Self {
        Self { counted: true, ..self }
    }

    const fn v6(self) -> Self {
        Self { v6: true, ..self }
    }
}

pub(super) const ENDPOINT4: &[Type] = &[IPV4_ADDR, INET_PROTO, INET_SERVICE];
pub(super) const ENDPOINT6: &[Type] = &[IPV6_ADDR, INET_PROTO, INET_SERVICE];
pub(super) const ANY: &[Type] = &[INET_PROTO, INET_SERVICE];
pub(super) const TO4: &[Type] = &[IPV4_ADDR, INET_SERVICE];
pub(super) const TO6: &[Type] = &[IPV6_ADDR, INET_SERVICE];

pub(crate) static PUBLISH4: Set = Set::inet("publish4", ENDPOINT4).to(TO4);
pub(crate) static PUBLISH4_ANY: Set = Set::inet("publish4_any", ANY).to(TO4);
pub(crate) static PUBLISH6: Set = Set::inet("publish6", ENDPOINT6).to(TO6).v6();
pub(crate) static PUBLISH6_ANY: Set = Set::inet("publish6_any", ANY).to(TO6).v6();
/// Sources and destinations that are excluded from a published port.
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
/// The subnets of all networks, each with any destination: as pairs they are looked up as fast as `home4/6`.
pub(crate) static SUBNET4: Set = Set::inet("subnet4", &[IPV4_ADDR, IPV4_ADDR]).intervals();
pub(crate) static SUBNET6: Set = Set::inet("subnet6", &[IPV6_ADDR, IPV6_ADDR]).intervals().v6();
/// Masqueraded containers that no bridge connects with their subnet, each with the subnet: there it keeps its address.
pub(crate) static NEAR4: Set = Set::inet("near4", &[IPV4_ADDR, IPV4_ADDR]).intervals();
pub(crate) static NEAR6: Set = Set::inet("near6", &[IPV6_ADDR, IPV6_ADDR]).intervals().v6();
/// Addresses whose former holder may have left flows behind.
pub(crate) static STALE4: Set = Set::inet("stale4", &[IPV4_ADDR]);
pub(crate) static STALE6: Set = Set::inet("stale6", &[IPV6_ADDR]).v6();
/// Flows of such an address that began since.
pub(crate) static FRESH4: Set = Set::inet("fresh4", &[IPV4_ADDR, INTEGER32])
    .dynamic(FLOWS)
    .with_type_of("ip saddr . ct id", FRESH4_TYPE_OF);
pub(crate) static FRESH6: Set = Set::inet("fresh6", &[IPV6_ADDR, INTEGER32])
    .dynamic(FLOWS)
    .with_type_of("ip6 saddr . ct id", FRESH6_TYPE_OF)
    .v6();
/// Pairs (from, to) of bridges; a bridge paired with itself is isolated from everything else.
pub(crate) static ISOLATED: Set = Set::inet("isolated", &[IFNAME, IFNAME]);
/// Guarded ports. Each counts what was dropped at it: a look-up with `!=` does not count.
pub(crate) static PORTS: Set = Set::bridge("ports", &[IFNAME]).with_counter();
pub(crate) static OWNER4: Set = Set::bridge("owner4", &[IFNAME, ETHER_ADDR, IPV4_ADDR]);
pub(crate) static OWNER6: Set = Set::bridge("owner6", &[IFNAME, ETHER_ADDR, IPV6_ADDR]).v6();
/// The target of a neighbour solicitation or advertisement, 48 bytes after the start of an IPv6 header (RFC 4861, 4.3).
/// nft 1.0.6 has no name for it. Newer versions have one for its place after the ICMPv6 header, but cannot load what they
/// list with it.
pub(crate) static TARGET6: Set = Set {
    type_of: Some(("iifname . @nh,384,128", TARGET6_TYPE_OF)),
    ..Set::bridge("target6", &[IFNAME, INTEGER128]).v6()
};

/// Sources of dropped frames in the last hour: only a few are kept, because an attacker chooses them.
pub(crate) static REFUSED4: Set =
    Set::bridge("refused4", &[IFNAME, ETHER_ADDR, IPV4_ADDR]).dynamic(SOURCES_KEPT);
pub(crate) static REFUSED6: Set =
    Set::bridge("refused6", &[IFNAME, ETHER_ADDR, IPV6_ADDR]).dynamic(SOURCES_KEPT).v6();

/// When the kernel makes a set, it makes and clears room for so many elements: 256 KiB for each of the two. For 65,535 elements it
/// was 1 MiB each, which took 0.6 of the 2.1 ms that the whole ruleset takes.
pub(super) const FLOWS: u32 = 24576;
pub(super) const SOURCES_KEPT: u32 = 1024;

/// `ip saddr . ct id` and `ip6 saddr . ct id` as nft stores them (see below).
pub(super) const FRESH4_TYPE_OF: &[u8] = &[
    3, 52, 0, 4, 13, 0, 0, 0, 1, 44, 0, 20, 0, 4, 7, 0, 0, 0, 1, 12, 0, 4, 12, 0, 0, 0, 1, 4, 11, 0, 0, 0, 1,
    20, 0, 4, 12, 0, 0, 0, 1, 12, 0, 4, 23, 0, 0, 0, 1, 4, 255, 255, 255, 255,
];
pub(super) const FRESH6_TYPE_OF: &[u8] = &[
    3, 52, 0, 4, 13, 0, 0, 0, 1, 44, 0, 20, 0, 4, 7, 0, 0, 0, 1, 12, 0, 4, 13, 0, 0, 0, 1, 4, 8, 0, 0, 0, 1,
    20, 0, 4, 12, 0, 0, 0, 1, 12, 0, 4, 23, 0, 0, 0, 1, 4, 255, 255, 255, 255,
];

/// `iifname . @nh,384,128` as nft stores it in a set (NFTNL_UDATA_SET_KEY_TYPEOF and its inside):
/// TLVs of one byte type, one byte length; numbers are little-endian.
pub(super) const TARGET6_TYPE_OF: &[u8] = &[
    3, 64, // NFTNL_UDATA_SET_KEY_TYPEOF
    0, 4, 13, 0, 0, 0, // an expression: EXPR_CONCAT
    1, 56, // its data
    0, 14, 0, 4, 9, 0, 0, 0, 1, 6, 0, 4, 6, 0, 0, 0, // EXPR_META: iifname
    1, 38, 0, 4, 7, 0, 0, 0, // EXPR_PAYLOAD
    1, 30, 0, 4, 0, 0, 0, 0, 1, 4, 0, 0, 0, 0, // no known header, no known field
    2, 4, 2, 0, 0, 0, // PROTO_BASE_NETWORK_HDR
    3, 4, 128, 1, 0, 0, 4, 4, 128, 0, 0, 0, // offset (384) and length in bits
];
