//! The constant ruleset: two tables named `rnet`, as values that can be printed as `nft list ruleset` prints
//! them and encoded for the kernel. Nothing here depends on networks or containers.
//!
//! Each rule is written as nft writes it, term by term. A term that nft leaves out of its listings, because
//! it follows from the next one (`ip daddr` in an inet table is about IPv4), is [`Term::Implied`].

mod bridge;
mod inet;
mod sets;
mod term;
mod text;

use bridge::BRIDGE;
use inet::INET;
pub(crate) use sets::*;
pub(crate) use term::{ETHER_SADDR, Field, ICMPV6_TYPE, IIFNAME, L4PROTO, OIFNAME, Source, TH_DPORT, Term};

/// The mark of answers to the host's own loopback clients, by which the guard outside nftables recognises them: "rnet".
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

pub(crate) static TABLES: [&Table; 2] = [&INET, &BRIDGE];

impl Ruleset {
    /// The ruleset that every host with rnet has in its kernel, whatever its networks.
    pub fn constant() -> Self {
        #[cfg(feature = "failpoints")]
        if let Some(tables) = crate::version::other(&TABLES) {
            return Self { tables };
        }
        Self { tables: &TABLES }
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

#[cfg(test)]
mod tests {
    use Term::{Add, Dnat, Has, HasNot, Implied, In, Is, IsNot, Mark, Masked, NotIn, Within};

    use super::*;

    /// tests/kernel/ruleset.rs compares this text with what the kernel lists.
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
