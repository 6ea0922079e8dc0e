//! Everything a network namespace and some directories hold, as sorted lines of text.
//!
//! What differs between two equal situations is left out: indexes, handles, counters, generations,
//! random MACs, times, and what comes and goes by itself (carrier, learned entries, link-local
//! addresses of IPv6).

mod files;
mod network;
mod ruleset;
mod sockets;
mod sysctls;

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use netlink::Netns;

use crate::Error;

/// The state of a namespace and of files at one moment. Its `Display` is one line for each thing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    lines: Vec<String>,
}

impl Snapshot {
    /// Links, addresses, routes of all tables, policy rules, permanent neighbours, static
    /// forwarding entries, queueing disciplines, the nf_tables ruleset, sysctls that rnet touches,
    /// and listening sockets of `netns`; and all files below `dirs`.
    pub fn of(netns: &Netns, dirs: &[&Path]) -> Result<Self, Error> {
        let mut lines = network::lines(netns)?;
        lines.extend(ruleset::lines(netns)?);
        lines.extend(sysctls::lines(netns)?);
        lines.extend(sockets::lines(netns)?);
        for dir in dirs {
            lines.extend(files::lines(dir)?);
        }
        lines.sort();
        Ok(Self { lines })
    }

    /// What must be taken away from `self` (`-`) and added to it (`+`) to get `other`; None if they
    /// are equal.
    pub fn diff(&self, other: &Self) -> Option<String> {
        let gone = surplus(&self.lines, &other.lines).into_iter().map(|line| format!("- {line}\n"));
        let new = surplus(&other.lines, &self.lines).into_iter().map(|line| format!("+ {line}\n"));
        let diff: String = gone.chain(new).collect();
        (!diff.is_empty()).then_some(diff)
    }

    /// The lines, sorted, for a test that looks for one.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// Panics with the difference if `after` is not the same as `before`.
#[track_caller]
pub fn assert_same(before: &Snapshot, after: &Snapshot) {
    if let Some(diff) = before.diff(after) {
        panic!("the snapshots differ (- only before, + only after):\n{diff}");
    }
}

/// The lines of `these` that have no counterpart in `those`; equal lines are counted.
fn surplus<'a>(these: &'a [String], those: &[String]) -> Vec<&'a String> {
    let mut left: HashMap<&str, usize> = HashMap::new();
    those.iter().for_each(|line| *left.entry(line.as_str()).or_default() += 1);
    let mut has_counterpart = |line: &&String| match left.get_mut(line.as_str()) {
        Some(count) if *count > 0 => {
            *count -= 1;
            true
        }
        _ => false,
    };
    these.iter().filter(|line| !has_counterpart(line)).collect()
}

#[cfg(test)]
mod tests;
