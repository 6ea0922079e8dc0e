//! What the documents say, as far as it can be checked by reading alone. `tests/runtimes/readme.rs` runs the README's commands.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::path::Path;

#[path = "common/readme.rs"]
mod readme;

fn document(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// An id in a comment must lead to one rule.
#[test]
fn every_rule_has_an_id_of_its_own() {
    let rules = document("docs/rules.md");
    let ids = rules.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next());
    let mut seen = BTreeMap::new();
    ids.filter(|id| *id != "id").for_each(|id| *seen.entry(id).or_insert(0) += 1);
    assert!(seen.len() > 80, "only {} rules were found", seen.len());
    let twice: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).collect();
    assert_eq!(twice, []);
}

#[test]
fn both_readmes_show_the_same_commands_and_the_same_output() {
    let (english, chinese) = (document("README.md"), document("README.zh.md"));
    assert_eq!(readme::steps(&english), readme::steps(&chinese));
}

/// The gate runs these itself: they build what the others run.
#[test]
fn the_gate_runs_each_cargo_command_of_the_readme() {
    let (readme, gate) = (document("README.md"), document(".ci/run"));
    let commands: Vec<String> =
        readme::lines(&readme).into_iter().filter(|line| line.starts_with("cargo ")).collect();
    assert!(commands.len() >= 3, "{commands:?}");
    for command in commands {
        assert!(gate.lines().any(|line| line.trim() == command), "`{command}` is not a line of .ci/run");
    }
}
