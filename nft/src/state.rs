//! What identifies the constant part of the ruleset in the kernel, as a value that can be kept in a file.

use std::fmt;
use std::str::FromStr;

/// The identity of rnet's tables and of their rules, in order.
///
/// It changes exactly if one of rnet's rules was deleted, replaced, added or moved, or one of the tables became dormant.
/// Handles do not matter: what nft saved and loaded again is the same. Elements do not matter either. Its text is one line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    pub(crate) tables: Vec<TableState>,
}

/// One table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TableState {
    /// NFTA_TABLE_FLAGS, because a dormant table has all its rules and no effect.
    pub flags: u32,
    pub rules: Fingerprint,
}

/// A hash of all rules of a table, of their chains and expressions: FNV-1a, 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fingerprint(u64);

impl Fingerprint {
    /// The hash of no rules.
    pub fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Continues with more bytes.
    pub fn and(self, bytes: &[u8]) -> Self {
        Self(bytes.iter().fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)))
    }

    /// Continues with another fingerprint.
    pub fn with(self, other: Self) -> Self {
        self.and(&other.0.to_be_bytes())
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tables: Vec<String> = self.tables.iter().map(TableState::to_string).collect();
        f.write_str(&tables.join(" "))
    }
}

impl fmt::Display for TableState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:016x}", self.flags, self.rules.0)
    }
}

/// The text does not describe the state of a ruleset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} does not describe the state of a ruleset")]
pub struct ParseStateError(String);

impl FromStr for State {
    type Err = ParseStateError;

    /// Reads what `Display` wrote.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let tables: Option<Vec<TableState>> = text.split(' ').map(table).collect();
        tables.map(|tables| Self { tables }).ok_or_else(|| ParseStateError(text.into()))
    }
}

fn table(text: &str) -> Option<TableState> {
    let (flags, rules) = text.split_once(':')?;
    let (flags, rules) = (flags.parse().ok()?, Some(rules).filter(|rules| rules.len() == 16)?);
    Some(TableState { flags, rules: Fingerprint(u64::from_str_radix(rules, 16).ok()?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_of_text_and_back() {
        let state = State {
            tables: vec![
                TableState { flags: 0, rules: Fingerprint(0xabc) },
                TableState { flags: 1, rules: Fingerprint(u64::MAX) },
            ],
        };

        let text = state.to_string();

        assert_eq!(text, "0:0000000000000abc 1:ffffffffffffffff");
        assert_eq!(text.parse(), Ok(state));
    }

    #[test]
    fn other_text_is_refused() {
        for text in [
            "",
            "0",
            "7:0:0000000000000abc",
            "0:abc",
            "0:000000000000000x",
            "0:0000000000000abc ",
            "-1:0000000000000abc",
        ] {
            assert_eq!(text.parse::<State>(), Err(ParseStateError(text.into())));
        }
    }

    #[test]
    fn a_fingerprint_depends_on_order() {
        assert_ne!(Fingerprint::new().and(b"ab").and(b"c"), Fingerprint::new().and(b"ca").and(b"b"));
        assert_eq!(Fingerprint::new().and(b"a"), Fingerprint(0xaf63_dc4c_8601_ec8c), "the published vector");
    }
}
