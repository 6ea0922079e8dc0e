//! portmap's `conditionsV4` and `conditionsV6`: words in the language of iptables or of nft, read into the sources
//! and destinations that a port is *not* for.
//!
//! Conditions on addresses cut the plane of (source, destination) into rectangles, so they can be elements of the
//! constant ruleset, and no word of a user's gets further than this file.

use std::fmt;
use std::iter::Peekable;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use serde_json::Value;
use store::Exception;

use crate::Error;

/// The language of conditions; each belongs to a backend of the reference plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `! -d 192.0.2.0/24`
    Iptables,
    /// `ip daddr != 192.0.2.0/24`
    Nftables,
}

/// The address family that a list of conditions is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `conditionsV4`
    V4,
    /// `conditionsV6`
    V6,
}

/// What may be written: the end of the error about what may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grammar(Dialect, Family);

/// The language that these words are in, told by the first one as the reference plugin does; none without words.
pub fn dialect(words: &[Value]) -> Option<Dialect> {
    let first = words.first()?.as_str().unwrap_or_default();
    Some(if first.starts_with(['-', '!']) { Dialect::Iptables } else { Dialect::Nftables })
}

/// What is left out by the conditions in `words`, which all have to hold.
///
/// # Errors
/// A word that is not understood.
pub fn exceptions(family: Family, words: &[Value]) -> Result<Vec<Exception>, Error> {
    let Some(dialect) = dialect(words) else { return Ok(Vec::new()) };
    let reader = Reader { family, dialect };
    let words = reader.words(words)?;
    let mut accepted = Accepted { sources: Ranges::all(family), destinations: Ranges::all(family) };
    match dialect {
        Dialect::Iptables => reader.iptables(&words, &mut accepted)?,
        Dialect::Nftables => reader.nftables(&words, &mut accepted)?,
    }
    Ok(accepted.exceptions(family))
}

/// Sources and destinations that all conditions so far let pass.
struct Accepted {
    sources: Ranges,
    destinations: Ranges,
}

impl Accepted {
    /// Everything else, in rectangles that do not overlap: the kernel refuses elements that do.
    fn exceptions(self, family: Family) -> Vec<Exception> {
        let exception = |sources: (u128, u128), destinations: (u128, u128)| Exception {
            sources: family.addresses(sources),
            destinations: family.addresses(destinations),
        };
        let (all, wrong) = ((0, family.last()), self.destinations.complement(family));
        let strangers = self.sources.complement(family).0.into_iter();
        let strangers = strangers.map(|sources| exception(sources, all));
        let astray = self.sources.0.iter();
        let astray = astray.flat_map(|sources| wrong.0.iter().map(|range| exception(*sources, *range)));
        strangers.chain(astray).collect()
    }
}

/// Which of the two addresses a condition is about.
#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

struct Condition {
    side: Side,
    negated: bool,
    ranges: Ranges,
}

type Words<'a> = Peekable<std::slice::Iter<'a, String>>;

/// Reads the words of one list.
struct Reader {
    family: Family,
    dialect: Dialect,
}

impl Reader {
    /// The words one by one: nft takes several in one string, and braces and commas without blanks around them.
    fn words(&self, words: &[Value]) -> Result<Vec<String>, Error> {
        let mut all = Vec::new();
        for word in words {
            let Some(text) = word.as_str() else { return Err(self.unknown(&word.to_string())) };
            match self.dialect {
                Dialect::Iptables => all.push(text.to_owned()),
                Dialect::Nftables => all.extend(space(text).split_whitespace().map(str::to_owned)),
            }
        }
        // A condition without a word would be one that always holds.
        if all.is_empty() { Err(self.unknown("")) } else { Ok(all) }
    }

    fn iptables(&self, words: &[String], accepted: &mut Accepted) -> Result<(), Error> {
        let mut words = words.iter().peekable();
        while let Some(word) = words.next() {
            let negated = word == "!";
            let option = if negated { self.after(word, &mut words)? } else { word };
            let side = match option {
                "-s" | "--src" | "--source" => Side::Source,
                "-d" | "--dst" | "--destination" => Side::Destination,
                other => return Err(self.unknown(other)),
            };
            let list = self.after(option, &mut words)?;
            let networks = list.split(',').map(|text| self.network(text).ok_or_else(|| self.unknown(list)));
            let ranges = Ranges::of(networks.collect::<Result<_, _>>()?);
            self.narrow(accepted, Condition { side, negated, ranges });
        }
        Ok(())
    }

    fn nftables(&self, words: &[String], accepted: &mut Accepted) -> Result<(), Error> {
        let mut words = words.iter().peekable();
        while let Some(word) = words.next() {
            if word != self.family.word() {
                return Err(self.unknown(word));
            }
            let field = self.after(word, &mut words)?;
            let side = match field {
                "saddr" => Side::Source,
                "daddr" => Side::Destination,
                other => return Err(self.unknown(other)),
            };
            let operator = words.next_if(|word| *word == "!=" || *word == "==").map_or(field, String::as_str);
            let ranges = self.operand(operator, &mut words)?;
            self.narrow(accepted, Condition { side, negated: operator == "!=", ranges });
        }
        Ok(())
    }

    /// `10.0.0.0/8`, `10.0.0.1-10.0.0.9` or `{ …, … }`.
    fn operand(&self, before: &str, words: &mut Words<'_>) -> Result<Ranges, Error> {
        let first = self.after(before, words)?;
        if first != "{" {
            return Ok(Ranges::of(vec![self.range(first)?]));
        }
        let mut ranges = Vec::new();
        loop {
            ranges.push(self.range(self.after("{", words)?)?);
            match self.after("{", words)? {
                "," => {}
                "}" => return Ok(Ranges::of(ranges)),
                other => return Err(self.unknown(other)),
            }
        }
    }

    fn range(&self, text: &str) -> Result<(u128, u128), Error> {
        let ends = || {
            let (first, last) = text.split_once('-')?;
            let (first, last) = (self.network(first)?, self.network(last)?);
            (first.0 == first.1 && last.0 == last.1 && first.0 <= last.0).then_some((first.0, last.0))
        };
        self.network(text).or_else(ends).ok_or_else(|| self.unknown(text))
    }

    /// An address of the list's family, alone or with a prefix length.
    fn network(&self, text: &str) -> Option<(u128, u128)> {
        let network: IpNetwork = text.parse().ok()?;
        let fits = network.is_ipv4() == (self.family == Family::V4);
        fits.then(|| (bits(network.network()), bits(network.broadcast())))
    }

    /// The word that must come after another.
    fn after<'a>(&self, word: &str, words: &mut Words<'a>) -> Result<&'a str, Error> {
        words.next().map(String::as_str).ok_or_else(|| self.unknown(word))
    }

    fn narrow(&self, accepted: &mut Accepted, condition: Condition) {
        let Condition { side, negated, ranges } = condition;
        let ranges = if negated { ranges.complement(self.family) } else { ranges };
        let part = match side {
            Side::Source => &mut accepted.sources,
            Side::Destination => &mut accepted.destinations,
        };
        *part = part.intersection(&ranges);
    }

    fn unknown(&self, word: &str) -> Error {
        let grammar = Grammar(self.dialect, self.family);
        Error::Condition { key: self.family.key(), word: word.to_owned(), grammar }
    }
}

/// Addresses as numbers: ascending ranges that neither overlap nor touch.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ranges(Vec<(u128, u128)>);

impl Ranges {
    fn all(family: Family) -> Self {
        Self(vec![(0, family.last())])
    }

    fn of(mut ranges: Vec<(u128, u128)>) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match joined.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => joined.push((first, last)),
            }
        }
        Self(joined)
    }

    fn complement(&self, family: Family) -> Self {
        let (mut gaps, mut next) = (Vec::with_capacity(self.0.len() + 1), Some(0));
        for (first, last) in &self.0 {
            gaps.extend(next.filter(|next| next < first).map(|next| (next, first - 1)));
            next = last.checked_add(1);
        }
        gaps.extend(next.filter(|next| *next <= family.last()).map(|next| (next, family.last())));
        Self(gaps)
    }

    fn intersection(&self, other: &Self) -> Self {
        let common = |a: &(u128, u128), b: &(u128, u128)| (a.0.max(b.0), a.1.min(b.1));
        let pairs = self.0.iter().flat_map(|a| other.0.iter().map(move |b| common(a, b)));
        Self::of(pairs.filter(|(first, last)| first <= last).collect())
    }
}

impl Family {
    /// The key of its conditions.
    pub fn key(self) -> &'static str {
        match self {
            Self::V4 => "conditionsV4",
            Self::V6 => "conditionsV6",
        }
    }

    /// nft's word for it.
    fn word(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    /// The last address there is, as a number.
    fn last(self) -> u128 {
        match self {
            Self::V4 => u32::MAX.into(),
            Self::V6 => u128::MAX,
        }
    }

    fn addresses(self, (first, last): (u128, u128)) -> (IpAddr, IpAddr) {
        let address = |number: u128| match self {
            // No range of this family goes beyond 32 bits.
            Self::V4 => Ipv4Addr::from(number as u32).into(),
            Self::V6 => Ipv6Addr::from(number).into(),
        };
        (address(first), address(last))
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        })
    }
}

impl fmt::Display for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (addresses, ip) = match self.1 {
            Family::V4 => ("IPv4", "ip"),
            Family::V6 => ("IPv6", "ip6"),
        };
        match self.0 {
            Dialect::Iptables => write!(
                f,
                "[!] -s, --src, --source, -d, --dst or --destination, and one or more {addresses} addresses \
                 with or without a prefix length, with commas between"
            ),
            Dialect::Nftables => write!(
                f,
                "{ip} saddr or {ip} daddr, == or != or nothing, and {addresses} addresses: one, with or without \
                 a prefix length, FIRST-LAST, or several of these in braces, with commas between"
            ),
        }
    }
}

fn space(text: &str) -> String {
    ["{", "}", ","].iter().fold(text.to_owned(), |text, sign| text.replace(sign, &format!(" {sign} ")))
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: &str = "0.0.0.0-255.255.255.255";

    fn excluded(family: Family, words: &[&str]) -> Vec<String> {
        let words: Vec<Value> = words.iter().map(|word| Value::from(*word)).collect();
        let range = |(first, last): (IpAddr, IpAddr)| format!("{first}-{last}");
        let found = exceptions(family, &words).unwrap().into_iter();
        found.map(|found| format!("{} {}", range(found.sources), range(found.destinations))).collect()
    }

    fn refused(family: Family, words: &[&str]) -> String {
        let words: Vec<Value> = words.iter().map(|word| Value::from(*word)).collect();
        exceptions(family, &words).unwrap_err().to_string()
    }

    #[test]
    fn a_condition_leaves_out_what_lies_on_both_sides_of_it() {
        let outside = [format!("0.0.0.0-9.255.255.255 {ALL}"), format!("11.0.0.0-255.255.255.255 {ALL}")];
        for words in [
            &["ip", "saddr", "10.0.0.0/8"][..],
            &["ip saddr == 10.1.2.3/8"],
            &["ip", "saddr", "{10.0.0.0/9,", "10.128.0.0-10.255.255.255}"],
            &["-s", "10.0.0.0/8"],
            &["--source", "10.128.0.0/9,10.0.0.0/9"],
            &[
                "!",
                "--src",
                "0.0.0.0/5,8.0.0.0/7,11.0.0.0/8,12.0.0.0/6,16.0.0.0/4,32.0.0.0/3,64.0.0.0/2,128.0.0.0/1",
            ],
        ] {
            assert_eq!(excluded(Family::V4, words), outside, "{words:?}");
        }
    }

    #[test]
    fn a_negated_condition_leaves_out_itself() {
        for words in [
            &["!", "-d", "192.0.2.0/24"][..],
            &["ip", "daddr", "!=", "192.0.2.0/24"],
            &["ip daddr != {192.0.2.0/24}"],
        ] {
            assert_eq!(excluded(Family::V4, words), [format!("{ALL} 192.0.2.0-192.0.2.255")], "{words:?}");
        }
        assert_eq!(
            excluded(Family::V6, &["ip6", "saddr", "!=", "fd00::/16"]),
            ["fd00::-fd00:ffff:ffff:ffff:ffff:ffff:ffff:ffff ::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]
        );
    }

    #[test]
    fn all_conditions_have_to_hold_and_their_exceptions_do_not_overlap() {
        let words = ["-s", "128.0.0.0/1", "!", "-s", "192.0.0.0/2", "!", "-d", "128.0.0.0/1"];
        assert_eq!(
            excluded(Family::V4, &words),
            [
                format!("0.0.0.0-127.255.255.255 {ALL}"),
                format!("192.0.0.0-255.255.255.255 {ALL}"),
                "128.0.0.0-191.255.255.255 128.0.0.0-255.255.255.255".into(),
            ]
        );
        // Nobody is in both, so the port is for nobody.
        assert_eq!(excluded(Family::V4, &["-s", "10.0.0.1", "-s", "10.0.0.2"]), [format!("{ALL} {ALL}")]);
        assert!(excluded(Family::V4, &["-s", "0.0.0.0/0"]).is_empty());
        assert!(excluded(Family::V4, &[]).is_empty());
    }

    #[test]
    fn a_word_that_is_not_known_is_named_with_what_may_be_written() {
        let iptables = "conditionsV4: \"-i\" is not understood here; what may be written: [!] -s, --src, --source, \
                        -d, --dst or --destination, and one or more IPv4 addresses with or without a prefix length, \
                        with commas between";
        assert_eq!(refused(Family::V4, &["-s", "10.0.0.1", "-i", "eth0"]), iptables);
        let nft = "conditionsV6: \"dport\" is not understood here; what may be written: ip6 saddr or ip6 daddr, == or \
                   != or nothing, and IPv6 addresses: one, with or without a prefix length, FIRST-LAST, or several of \
                   these in braces, with commas between";
        assert_eq!(refused(Family::V6, &["ip6", "dport", "80"]), nft);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_word() {
        let cases: [(&[&str], &str); 18] = [
            (&["-s"], "-s"),
            (&["!"], "!"),
            (&["!", "10.0.0.1"], "10.0.0.1"),
            (&["-s", "!", "10.0.0.1"], "!"),
            (&["-s", "10.0.0.1/33"], "10.0.0.1/33"),
            (&["-s", "10.0.0.1,"], "10.0.0.1,"),
            (&["-s", "fd00::1"], "fd00::1"),
            (&["-s", "10.0.0.1-10.0.0.9"], "10.0.0.1-10.0.0.9"),
            (&["ip6", "saddr", "fd00::1"], "ip6"),
            (&["ip", "saddr"], "saddr"),
            (&["ip", "daddr", "!="], "!="),
            (&["ip", "saddr", "@allowed"], "@allowed"),
            (&["ip", "saddr", "10.0.0.9-10.0.0.1"], "10.0.0.9-10.0.0.1"),
            (&["ip", "saddr", "{", "}"], "}"),
            (&["ip", "saddr", "{", "10.0.0.1"], "{"),
            (&["ip", "saddr", "{10.0.0.1 10.0.0.2}"], "10.0.0.2"),
            (&["ip saddr 10.0.0.1 accept; flush ruleset"], "accept;"),
            (&[""], ""),
        ];
        for (words, word) in cases {
            let text = format!("conditionsV4: {word:?} is not understood here;");
            assert!(
                refused(Family::V4, words).starts_with(&text),
                "{words:?}: {}",
                refused(Family::V4, words)
            );
        }
        assert!(exceptions(Family::V4, &[Value::from(7)]).is_err());
    }

    /// Few bits, so that conditions meet.
    fn networks() -> impl Strategy<Value = IpNetwork> {
        (0..16u32, 28..=32u8).prop_map(|(host, prefix)| IpNetwork::new(small(host), prefix).unwrap())
    }

    fn small(host: u32) -> IpAddr {
        Ipv4Addr::from(0x0a00_0000 | host).into()
    }

    fn written(dialect: Dialect, source: bool, negated: bool, networks: &[IpNetwork]) -> Vec<Value> {
        let list = networks.iter().map(IpNetwork::to_string).collect::<Vec<_>>().join(",");
        let words = match (dialect, source) {
            (Dialect::Iptables, true) => format!("{} -s {list}", if negated { "!" } else { "" }),
            (Dialect::Iptables, false) => format!("{} -d {list}", if negated { "!" } else { "" }),
            (Dialect::Nftables, true) => format!("ip saddr {} {{{list}}}", if negated { "!=" } else { "==" }),
            (Dialect::Nftables, false) => format!("ip daddr {} {{{list}}}", if negated { "!=" } else { "" }),
        };
        words.split_whitespace().map(Value::from).collect()
    }

    proptest! {
        #[test]
        fn a_packet_is_in_one_exception_if_it_fails_a_condition_and_else_in_none(
            conditions in prop::collection::vec(
                (any::<bool>(), any::<bool>(), prop::collection::vec(networks(), 1..4)), 1..4),
            from in 0..16u32,
            to in 0..16u32,
        ) {
            let (from, to) = (small(from), small(to));
            let holds = |(source, negated, networks): &(bool, bool, Vec<IpNetwork>)| {
                let address = if *source { from } else { to };
                networks.iter().any(|network| network.contains(address)) != *negated
            };
            let within = |ip: IpAddr, (first, last): (IpAddr, IpAddr)| first <= ip && ip <= last;
            for dialect in [Dialect::Iptables, Dialect::Nftables] {
                let words = conditions.iter().flat_map(|(s, n, list)| written(dialect, *s, *n, list));
                let found = exceptions(Family::V4, &words.collect::<Vec<_>>()).unwrap();
                let hit = found.iter().filter(|one| within(from, one.sources) && within(to, one.destinations));
                prop_assert_eq!(hit.count(), usize::from(!conditions.iter().all(holds)));
            }
        }

        #[test]
        fn no_words_make_the_reader_panic(words in prop::collection::vec(
            prop_oneof![any::<String>(), "(ip6?|[sd]addr|!=?|-[sd]|[{},]|::/0|10.0.0.0/8|fd00::-fd00::9)"], 0..9)
        ) {
            let words: Vec<Value> = words.into_iter().map(Value::from).collect();
            for family in [Family::V4, Family::V6] {
                let _ = exceptions(family, &words);
            }
        }
    }

    #[test]
    fn the_first_word_tells_the_language() {
        assert_eq!(dialect(&["-s".into()]), Some(Dialect::Iptables));
        assert_eq!(dialect(&["!".into(), "-s".into()]), Some(Dialect::Iptables));
        assert_eq!(dialect(&["ip".into()]), Some(Dialect::Nftables));
        assert_eq!(dialect(&[]), None);
    }
}
