//! Table `bridge rnet`: the guard of bridge ports, which knows what each may call itself.

use Term::{Accept, Add, Counter, Drop, In, Is, IsNot, Masked, NotIn};

use super::sets::*;
use super::term::*;
use super::{Chain, Family, Hook, Table};

pub(super) static BRIDGE: Table = Table {
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

/// What a guarded port may send. The rules name what is allowed and drop the rest, so that a frame that is too short for
/// a lookup, has a VLAN tag or another protocol falls through to the last rule.
const GUARD: &[&[Term]] = &[
    &[NotIn(&[IIFNAME], &PORTS), Accept],
    &[Masked(ETHER_DADDR, BRIDGE_GROUP_MASK, BRIDGE_GROUP), AT_PORT, Counter, Drop],
    // DHCP clients listen here, whatever port a rogue server sends from.
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
    // `::` is a source only for duplicate address detection (RFC 4862, 5.4) and the multicast reports before it
    // (RFC 3590). An answer to any other such packet would go to the host itself.
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
    // Keep who sent the frame, and under which address.
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
