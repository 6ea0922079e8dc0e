//! The choice of the next address, given those that are taken; pure.

use std::net::IpAddr;

use crate::range::{Range, RangeSet, address, number, stretches};

/// How the next address is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The one after the last given, as host-local does: an address rests as long as possible before it is reused.
    RoundRobin,
    /// The lowest free one, as Docker does: a released address is given again at once.
    Lowest,
}

/// Addresses of one family from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first address.
    pub first: IpAddr,
    /// The last address, not before the first.
    pub last: IpAddr,
}

/// The address that comes next, or `None` if all are taken.
///
/// `last` is the address given last; `first_free` returns the first address in a span that is not taken.
///
/// # Errors
/// The error of `first_free`.
pub fn next<E>(
    set: &RangeSet,
    choice: Choice,
    last: Option<IpAddr>,
    mut first_free: impl FnMut(Span) -> Result<Option<IpAddr>, E>,
) -> Result<Option<IpAddr>, E> {
    for span in order(set, choice, last) {
        if let Some(address) = first_free(span)? {
            return Ok(Some(address));
        }
    }
    Ok(None)
}

/// The set's addresses in the order in which they are tried, without those that are never given.
///
/// Round robin starts after `last` if it lies in the set, takes the ranges in order, wraps, and ends with
/// `last`; otherwise it starts at the first range.
pub fn order(set: &RangeSet, choice: Choice, last: Option<IpAddr>) -> Vec<Span> {
    let last = last.filter(|_| choice == Choice::RoundRobin);
    let spans = match last.and_then(|last| Some((last, place_of(set, last)?))) {
        Some((last, place)) => around(set.ranges(), place, last),
        None => set.ranges().iter().map(whole).collect(),
    };
    let holes = set.holes();
    spans.into_iter().flat_map(|span| without(span, &holes)).collect()
}

fn place_of(set: &RangeSet, ip: IpAddr) -> Option<usize> {
    set.ranges().iter().position(|range| range.contains(ip))
}

fn around(ranges: &[Range], place: usize, last: IpAddr) -> Vec<Span> {
    let start = &ranges[place];
    let rest = (last < start.end).then(|| Span { first: address(last, number(last) + 1), last: start.end });
    rest.into_iter()
        .chain(ranges[place + 1..].iter().map(whole))
        .chain(ranges[..place].iter().map(whole))
        .chain([Span { first: start.start, last }])
        .collect()
}

fn whole(range: &Range) -> Span {
    Span { first: range.start, last: range.end }
}

fn without(span: Span, holes: &[IpAddr]) -> Vec<Span> {
    let inside = holes.iter().filter(|hole| span.first <= **hole && **hole <= span.last);
    stretches(number(span.first), number(span.last), inside)
        .into_iter()
        .map(|(first, last)| Span { first: address(span.first, first), last: address(span.first, last) })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::convert::Infallible;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn set(ranges: &[(&str, &str, &str)]) -> RangeSet {
        let range = |(net, from, to): &(&str, &str, &str)| {
            Range::new(net.parse().unwrap(), Some(ip(from)), Some(ip(to)), None).unwrap()
        };
        RangeSet::new(ranges.iter().map(range).collect()).unwrap()
    }

    /// Gives addresses until none is left, each taken at once.
    fn give_all(set: &RangeSet, choice: Choice, mut last: Option<IpAddr>) -> Vec<String> {
        let mut taken = BTreeSet::new();
        let mut given = Vec::new();
        while let Some(address) = pick(set, choice, last, &taken) {
            taken.insert(address);
            given.push(address.to_string());
            last = Some(address);
        }
        given
    }

    fn pick(
        set: &RangeSet,
        choice: Choice,
        last: Option<IpAddr>,
        taken: &BTreeSet<IpAddr>,
    ) -> Option<IpAddr> {
        next(set, choice, last, |span| {
            let all = (number(span.first)..=number(span.last)).map(|n| address(span.first, n));
            Ok::<_, Infallible>(all.into_iter().find(|ip| !taken.contains(ip)))
        })
        .unwrap()
    }

    #[test]
    fn round_robin_starts_after_the_last_and_wraps_and_skips_the_gateway() {
        let set = set(&[("10.9.0.0/29", "10.9.0.1", "10.9.0.6")]);

        assert_eq!(
            give_all(&set, Choice::RoundRobin, Some(ip("10.9.0.4"))),
            ["10.9.0.5", "10.9.0.6", "10.9.0.2", "10.9.0.3", "10.9.0.4"]
        );
    }

    #[test]
    fn round_robin_goes_through_the_ranges_in_their_order() {
        let set = set(&[
            ("10.2.0.0/24", "10.2.0.10", "10.2.0.11"),
            ("10.1.0.0/24", "10.1.0.10", "10.1.0.12"),
            ("10.3.0.0/24", "10.3.0.1", "10.3.0.2"),
        ]);

        assert_eq!(
            give_all(&set, Choice::RoundRobin, Some(ip("10.1.0.11"))),
            ["10.1.0.12", "10.3.0.2", "10.2.0.10", "10.2.0.11", "10.1.0.10", "10.1.0.11"]
        );
    }

    #[test]
    fn round_robin_starts_at_the_first_range_if_the_last_address_is_not_in_the_set() {
        let set = set(&[("10.9.0.0/29", "10.9.0.3", "10.9.0.4")]);

        for last in [None, Some(ip("10.9.0.5")), Some(ip("fd00::3"))] {
            assert_eq!(give_all(&set, Choice::RoundRobin, last)[0], "10.9.0.3");
        }
    }

    #[test]
    fn the_lowest_choice_gives_a_released_address_again() {
        let set = set(&[("10.9.0.0/29", "10.9.0.1", "10.9.0.6")]);
        let taken = BTreeSet::from([ip("10.9.0.2"), ip("10.9.0.4")]);

        assert_eq!(pick(&set, Choice::Lowest, Some(ip("10.9.0.5")), &taken), Some(ip("10.9.0.3")));
    }

    #[test]
    fn a_gateway_of_one_range_that_lies_in_another_is_not_given() {
        let one =
            Range::new("10.9.0.0/29".parse().unwrap(), None, Some(ip("10.9.0.3")), Some(ip("10.9.0.5")));
        let two =
            Range::new("10.9.0.0/29".parse().unwrap(), Some(ip("10.9.0.4")), None, Some(ip("10.9.0.6")));
        let set = RangeSet::new(vec![one.unwrap(), two.unwrap()]).unwrap();

        assert_eq!(give_all(&set, Choice::Lowest, None), ["10.9.0.1", "10.9.0.2", "10.9.0.3", "10.9.0.4"]);
    }

    #[test]
    fn network_and_broadcast_address_are_not_given_even_as_ends_of_a_range() {
        let whole = set(&[("10.9.0.0/30", "10.9.0.0", "10.9.0.3")]);
        let podmans = set(&[("10.9.0.0/29", "10.9.0.4", "10.9.0.7")]);
        let nothing = set(&[("10.9.0.0/29", "10.9.0.7", "10.9.0.7")]);
        let six = set(&[("fd00::/126", "fd00::", "fd00::3")]);

        assert_eq!(give_all(&whole, Choice::RoundRobin, None), ["10.9.0.2"]);
        assert_eq!(
            give_all(&podmans, Choice::RoundRobin, Some(ip("10.9.0.6"))),
            ["10.9.0.4", "10.9.0.5", "10.9.0.6"]
        );
        assert_eq!(give_all(&nothing, Choice::Lowest, None), [""; 0]);
        assert_eq!(give_all(&six, Choice::RoundRobin, None), ["fd00::2", "fd00::3"]);
    }

    #[test]
    fn the_broadcast_address_of_one_range_is_given_by_a_wider_one() {
        let set = set(&[("10.9.0.0/29", "10.9.0.2", "10.9.0.3"), ("10.9.0.0/24", "10.9.0.7", "10.9.0.8")]);

        assert_eq!(give_all(&set, Choice::Lowest, None), ["10.9.0.2", "10.9.0.3", "10.9.0.7", "10.9.0.8"]);
    }

    #[test]
    fn the_end_of_ipv6_does_not_overflow() {
        let end = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let set = set(&[("ffff::/16", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe", end)]);

        let spans = order(&set, Choice::RoundRobin, Some(ip(end)));

        assert_eq!(spans, [Span { first: set.ranges()[0].start, last: ip(end) }]);
    }
}
