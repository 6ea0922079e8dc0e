//! A test build that plays another version of rnet: its constant ruleset lacks the chain that `RNET_RULESET_WITHOUT` names.

use std::sync::OnceLock;

use crate::ruleset::{Chain, Table};

/// The tables of that other version, if a test asked for one.
pub(crate) fn other(tables: &[&'static Table]) -> Option<&'static [&'static Table]> {
    static OTHER: OnceLock<Option<Vec<&'static Table>>> = OnceLock::new();
    let other = OTHER.get_or_init(|| {
        let missing = std::env::var("RNET_RULESET_WITHOUT").ok()?;
        Some(tables.iter().map(|table| without(table, &missing)).collect())
    });
    other.as_deref()
}

/// Once in a process, so what is leaked stays small.
fn without(table: &Table, missing: &str) -> &'static Table {
    let chains: Vec<Chain> = table.chains.iter().filter(|chain| chain.name != missing).copied().collect();
    Box::leak(Box::new(Table { family: table.family, sets: table.sets, chains: Vec::leak(chains) }))
}
