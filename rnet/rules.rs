//! The ruleset in the kernel, compared with what the records say.

use std::collections::HashSet;

use engine::{Host, elements, transaction};
use nft::{Element, Owner};
use store::Record;

/// The ruleset, compared with the records.
#[derive(Debug, Default)]
pub struct Rules {
    /// Its constant part is not what this build writes.
    pub changed: bool,
    /// Elements that are not there, and whose they are.
    pub missing: Vec<(Element, Owner)>,
}

impl Rules {
    /// A user who may not read the ruleset is told nothing about it.
    ///
    /// `records` were read some time ago: they are read again before something is called missing, for a container may have left
    /// meanwhile.
    pub fn read(host: &mut Host, records: &[Record]) -> Self {
        let Ok(desired) = elements::desired_by(host, records) else { return Self::default() };
        if desired.is_empty() {
            return Self::default();
        }
        let Ok(intact) = transaction::is_intact(host) else { return Self::default() };
        let mut missing = missing(host, desired);
        if !missing.is_empty() {
            let Ok(desired) = elements::desired(host) else { return Self::default() };
            missing = self::missing(host, desired);
        }
        Self { changed: !intact, missing }
    }
}

/// Those that the kernel does not have.
fn missing(host: &mut Host, mut desired: Vec<(Element, Owner)>) -> Vec<(Element, Owner)> {
    let found = host.firewall().and_then(|firewall| Ok(firewall.elements()?)).unwrap_or_default();
    let found: HashSet<Element> = found.into_iter().map(|(element, _)| element).collect();
    desired.retain(|(element, _)| !found.contains(element));
    desired
}
