//! What identifies the constant part of the ruleset in the kernel, as a value that can be kept in a file.

use std::fmt;
use std::str::FromStr;

/// The identity of our tables and of their rules, in order.
///
/// It changes exactly if somebody deleted, replaced, added or moved a rule of ours, made one of the tables
/// anew or put it to sleep; elements do not matter. Its text is one line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    pub(crate) tables: Vec<TableState>,
}

/// The kernel's numbers for one table. It never gives one out twice, neither for tables nor for rules of one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TableState {
    pub handle: u64,
    /// NFTA_TABLE_FLAGS, for a sleeping (dormant) table has all its rules and no effect.
    pub flags: u32,
    pub rules: Vec<u64>,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tables: Vec<String> = self.tables.iter().map(TableState::to_string).collect();
        f.write_str(&tables.join(" "))
    }
}

impl fmt::Display for TableState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules: Vec<String> = self.rules.iter().map(u64::to_string).collect();
        write!(f, "{}:{}:{}", self.handle, self.flags, rules.join(","))
    }
}

/// The text is no state of a ruleset.
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
    let mut parts = text.splitn(3, ':');
    let (handle, flags) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let rules = parts.next()?.split(',').filter(|rule| !rule.is_empty());
    Some(TableState { handle, flags, rules: rules.map(|rule| rule.parse().ok()).collect::<Option<_>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_of_text_and_back() {
        let state = State {
            tables: vec![
                TableState { handle: 7, flags: 0, rules: vec![3, 4, 12] },
                TableState { handle: 8, flags: 1, rules: vec![] },
            ],
        };

        let text = state.to_string();

        assert_eq!(text, "7:0:3,4,12 8:1:");
        assert_eq!(text.parse(), Ok(state));
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", "7", "7:0", "7:0:a", "7:0:1  8:0:1", "-7:0:1"] {
            assert_eq!(text.parse::<State>(), Err(ParseStateError(text.into())));
        }
    }
}
