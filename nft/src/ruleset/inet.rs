//! Table `inet rnet`: published ports, masquerading, isolation, and the guards of addresses.

use Term::{Accept, Add, Counter, Dnat, Drop, Has, In, Is, IsNot, Mark, Masquerade, NotIn, Return, Within};

use super::sets::*;
use super::term::*;
use super::{Chain, Family, Hook, LOOPBACK_ANSWER, Table};

pub(super) static INET: Table = Table {
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
        &NEAR4,
        &NEAR6,
        &STALE4,
        &STALE6,
        &FRESH4,
        &FRESH6,
        &ISOLATED,
    ],
    chains: &[
        // Before conntrack and before any DNAT: even with route_localnet the host answers no packet to 127.0.0.0/8 from
        // outside.
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
        // An answer to the host's own loopback client that was just translated back to 127.0.0.1. With br_netfilter this
        // happens before it enters the bridge, and the guard outside nftables would take it for an attack. Nothing else
        // gets the mark, because that guard must hold even if the guard above is missing.
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
        // A segment that conntrack cannot assign is not translated and so arrives at the host, whose RST would end the
        // container's connection. The host's own RSTs belong to a connection.
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

/// A container's address may come in only from a bridge of its subnet, or from the host itself. Checked before conntrack:
/// an entry made by another machine would let answers in, to ports that are not published.
const SOURCES: &[&[Term]] = &[
    // If the host's own route to that address leads elsewhere (a longer prefix within the subnet), no container has it.
    &[
        IsNot(IIFNAME, LO),
        IPV4,
        In(&[IP_SADDR, IP_DADDR], &SUBNET4),
        NotIn(&[IP_SADDR, IIFNAME], &HOME4),
        Is(FIB_WAY_BACK, value("missing", &[0; 4])),
        Counter,
        Drop,
    ],
    // For IPv6 the kernel would accept a default route as the way back.
    &[
        IsNot(IIFNAME, LO),
        IPV6,
        In(&[IP6_SADDR, IP6_DADDR], &SUBNET6),
        NotIn(&[IP6_SADDR, IIFNAME], &HOME6),
        Counter,
        Drop,
    ],
];

/// Only packets for the host itself: forwarded traffic must not match a published port (CVE-2025-67499).
const PUBLISH: &[&[Term]] = &[
    // portmap's conditions: for an excluded client the port is as if it were not published.
    &[IPV4, In(&[IP_SADDR, IP_DADDR, L4PROTO, TH_DPORT], &EXCEPT4), Return],
    &[TO_HOST, IPV4, Dnat(TO_ENDPOINT4, &PUBLISH4)],
    &[TO_HOST, IS_IPV4, Dnat(TO_PORT, &PUBLISH4_ANY)],
    // The kernel never routes ::1 or link-local addresses to a container: refuse at once instead of losing the packet.
    &[IPV6, Is(IP6_DADDR, value("::1", &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])), Return],
    &[IPV6, Within(IP6_DADDR, LINK_LOCAL, 10), Return],
    &[IPV6, In(&[IP6_SADDR, IP6_DADDR, L4PROTO, TH_DPORT], &EXCEPT6), Return],
    &[TO_HOST, IPV6, Dnat(TO_ENDPOINT6, &PUBLISH6)],
    &[TO_HOST, IS_IPV6, Dnat(TO_PORT, &PUBLISH6_ANY)],
];

/// No container inherits flows with an address: until those of its former holder are deleted, which takes too long to wait
/// for, only flows pass that began since. After the translation of destinations, before that of sources.
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
    // Hairpin: a client in the container's own network must get its answer through the host.
    &[DNATED, IPV4, In(&[IP_SADDR, OIFNAME], &HOME4), In(TO_ENDPOINT4, &PUBLISHED4), Masquerade],
    // Loopback: 127.0.0.1 means nothing to the container.
    &[IPV4, Within(IP_SADDR, LOOPBACK, 8), DNATED, In(TO_ENDPOINT4, &PUBLISHED4), Masquerade],
    &[DNATED, IPV4, In(TO_ENDPOINT4, &MASQALL4), Masquerade],
    &[
        IPV4,
        In(&[IP_SADDR], &MASQ4),
        NotIn(&[IP_SADDR, OIFNAME], &HOME4),
        NotIn(&[IP_SADDR, IP_DADDR], &NEAR4),
        Masquerade,
    ],
    &[DNATED, IPV6, In(&[IP6_SADDR, OIFNAME], &HOME6), In(TO_ENDPOINT6, &PUBLISHED6), Masquerade],
    &[DNATED, IPV6, In(TO_ENDPOINT6, &MASQALL6), Masquerade],
    &[
        IPV6,
        In(&[IP6_SADDR], &MASQ6),
        NotIn(&[IP6_SADDR, OIFNAME], &HOME6),
        NotIn(&[IP6_SADDR, IP6_DADDR], &NEAR6),
        Masquerade,
    ],
];

/// What leaves a masqueraded network is masqueraded, or answers a client that came by a direct route. Conntrack does not
/// translate packets that it cannot assign, such as the last segments of a connection that it has forgotten, nor flows that
/// began while rnet's rules were flushed.
const UNTRANSLATED: &[&[Term]] = &[
    &[IPV4, Within(IP_DADDR, MULTICAST4, 4), Accept],
    &[IPV6, Within(IP6_DADDR, MULTICAST6, 8), Accept],
    &[
        IPV4,
        In(&[IP_SADDR], &MASQ4),
        NotIn(&[IP_SADDR, OIFNAME], &HOME4),
        INVALID,
        NotIn(&[IP_SADDR, IP_DADDR], &NEAR4),
        Counter,
        Drop,
    ],
    &[
        IPV4,
        In(&[IP_SADDR], &MASQ4),
        NotIn(&[IP_SADDR, OIFNAME], &HOME4),
        ORIGINAL,
        OWN_SOURCE,
        NotIn(&[IP_SADDR, IP_DADDR], &NEAR4),
        Counter,
        Drop,
    ],
    &[
        IPV6,
        In(&[IP6_SADDR], &MASQ6),
        NotIn(&[IP6_SADDR, OIFNAME], &HOME6),
        INVALID,
        NotIn(&[IP6_SADDR, IP6_DADDR], &NEAR6),
        Counter,
        Drop,
    ],
    &[
        IPV6,
        In(&[IP6_SADDR], &MASQ6),
        NotIn(&[IP6_SADDR, OIFNAME], &HOME6),
        ORIGINAL,
        OWN_SOURCE,
        NotIn(&[IP6_SADDR, IP6_DADDR], &NEAR6),
        Counter,
        Drop,
    ],
];

/// What is forwarded to an isolated bridge; the pair of a bridge with itself stands for the bridge.
const ISOLATE: &[&[Term]] = &[
    &[NotIn(&[OIFNAME, OIFNAME], &ISOLATED), Accept],
    // With br_netfilter, frames within one bridge pass here too.
    &[In(&[IIFNAME, OIFNAME], &ISOLATED), Accept],
    &[KNOWN, Accept],
    // Both conditions: a foreign DNAT to an unpublished port is dropped, and so is a direct route to a published one.
    &[DNATED, IPV4, In(TO_ENDPOINT4, &PUBLISHED4), Accept],
    &[DNATED, IPV6, In(TO_ENDPOINT6, &PUBLISHED6), Accept],
    &[Counter, Drop],
];
