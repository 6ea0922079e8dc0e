//! This version checks, lists, repairs, collects and deletes what the version before it attached; and the reverse for DEL.
//!
//! The variable RNET_TEST_BEFORE names the binary of the version before; `.ci/run` builds one. Without it no test runs, and the output
//! says so.
//!
//! ```sh
//! RNET_TEST_BEFORE=FILE cargo test --test upgrade [WORD…]
//! ```

// Its output is a test report.
#![allow(clippy::print_stdout)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "common/mod.rs"]
mod common;
#[path = "common/harness.rs"]
mod harness;

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{anyhow, ensure};

use netns_fixtures::Snapshot;

use common::{Guest, Host, Network, Outcome, binary, differences, entries};

/// A test, its name, and the version that attaches in it.
type Test = (&'static str, fn(&Upgrade) -> anyhow::Result<()>);

const TESTS: [Test; 5] = [
    ("this_version_deletes_what_the_one_before_attached", delete),
    ("this_version_checks_what_the_one_before_attached_and_attaches_beside_it", attach_beside),
    ("this_version_repairs_what_the_one_before_attached", repair),
    ("this_version_collects_what_the_one_before_attached", collect),
    ("the_version_before_deletes_what_this_one_attached", delete_by_the_one_before),
];

/// CHECK says so until the next ADD or `rnet repair` writes the ruleset of this version.
const OTHER_RULESET: &str = "another version of rnet wrote the ruleset";

/// A host, a network on it, and the binary of the version before.
struct Upgrade {
    host: Host,
    network: Network,
    before: PathBuf,
}

fn main() -> ExitCode {
    let Some(before) = std::env::var_os("RNET_TEST_BEFORE").map(PathBuf::from) else {
        println!("upgrade: set RNET_TEST_BEFORE to the binary of the version before; 0 tests run");
        return ExitCode::SUCCESS;
    };
    if !before.is_file() {
        println!("upgrade: RNET_TEST_BEFORE: {} is no file", before.display());
        return ExitCode::FAILURE;
    }
    harness::run("the version before", &tests(&before), &[])
}

/// Each test with the one plugin, with ports and names, and with the chain of plugins and all that they check.
fn tests(before: &Path) -> Vec<harness::Test> {
    let plugin = Network::named("mynet", "10.71.0.0/24");
    let mut chain = Network::named_chain("mynet", "10.71.0.0/24");
    chain.list["plugins"][0]["macspoofchk"] = true.into();
    let networks = [("rnet", plugin), ("chain", chain)];
    let of_network = |(kind, network): &(&str, Network)| {
        TESTS.map(|(name, body)| {
            let (network, before) = (network.clone(), before.to_owned());
            let body = Box::new(move || body(&Upgrade::new(network.clone(), before.clone())));
            harness::Test { name: format!("{kind}::{name}"), body }
        })
    };
    networks.iter().flat_map(of_network).collect()
}

fn delete(upgrade: &Upgrade) -> anyhow::Result<()> {
    let begin = upgrade.snapshot_after_use();
    upgrade.install(&upgrade.before);
    let guest = upgrade.guest("old", 8080);
    upgrade.install(&binary());
    succeed("DEL", guest.del())?;
    upgrade.expect_nothing_left(&begin)
}

fn attach_beside(upgrade: &Upgrade) -> anyhow::Result<()> {
    let begin = upgrade.snapshot_after_use();
    upgrade.install(&upgrade.before);
    let guest = upgrade.guest("old", 8080);
    upgrade.install(&binary());
    for (plugin, check) in upgrade.checks(&guest) {
        ensure!(check.status == 0 || check.stdout.contains(OTHER_RULESET), "CHECK of {plugin}: {check:?}");
    }
    ensure!(guest.works(), "the container cannot be reached");
    let beside = upgrade.guest("new", 8081);
    upgrade.expect_whole(&guest)?;
    upgrade.expect_whole(&beside)?;
    succeed("DEL", guest.del())?;
    upgrade.expect_whole(&beside)?;
    succeed("DEL", beside.del())?;
    upgrade.expect_nothing_left(&begin)
}

fn repair(upgrade: &Upgrade) -> anyhow::Result<()> {
    let begin = upgrade.snapshot_after_use();
    upgrade.install(&upgrade.before);
    let guest = upgrade.guest("old", 8080);
    upgrade.install(&binary());
    let whole = upgrade.elements();
    let port = guest.port();
    let cut_off = upgrade.host.command("ip").args(["link", "set", &port, "nomaster"]).status()?;
    ensure!(cut_off.success(), "ip cannot take {port} off the bridge");
    let repaired = upgrade.host.rnet("repair mynet");
    ensure!(repaired.status == 0 && repaired.stderr.is_empty(), "repair: {repaired:?}");
    guest.await_port();
    let repaired = upgrade.elements();
    ensure!(repaired == whole, "repair made other elements: {repaired:#?}, not {whole:#?}");
    upgrade.expect_whole(&guest)?;
    succeed("DEL", guest.del())?;
    upgrade.expect_nothing_left(&begin)
}

fn collect(upgrade: &Upgrade) -> anyhow::Result<()> {
    let begin = upgrade.snapshot_after_use();
    upgrade.install(&upgrade.before);
    let (kept, lost) = (upgrade.guest("kept", 8080), upgrade.guest("lost", 8081));
    upgrade.install(&binary());
    succeed("GC", kept.gc(&["kept"]))?;
    ensure!(lost.addresses().is_empty(), "GC left an address in the container");
    ensure!(kept.works(), "the container that stays cannot be reached");
    succeed("GC", kept.gc(&[]))?;
    upgrade.expect_nothing_left(&begin)
}

fn delete_by_the_one_before(upgrade: &Upgrade) -> anyhow::Result<()> {
    upgrade.install(&upgrade.before);
    let begin = upgrade.snapshot_after_use();
    upgrade.install(&binary());
    let guest = upgrade.guest("new", 8080);
    upgrade.install(&upgrade.before);
    succeed("DEL", guest.del())?;
    upgrade.expect_nothing_left(&begin)
}

impl Upgrade {
    fn new(network: Network, before: PathBuf) -> Self {
        Self { host: Host::new().beside(&["192.168.77.0/24"]), network, before }
    }

    /// Lets all plugins be those of `rnet`.
    fn install(&self, rnet: &Path) {
        for plugin in entries(&self.host.plugins) {
            std::fs::remove_file(&plugin).unwrap();
            symlink(rnet, plugin).unwrap();
        }
    }

    /// What stays on a host on which the network was used once.
    fn snapshot_after_use(&self) -> Snapshot {
        self.guest("first", 8080).del().unwrap();
        self.host.snapshot()
    }

    /// All elements of the ruleset, in one order.
    fn elements(&self) -> BTreeSet<String> {
        self.host.elements().iter().map(|element| format!("{element:?}")).collect()
    }

    /// A container on the network, with a name and two ports.
    fn guest(&self, name: &str, port: u16) -> Guest<'_> {
        self.host.guest(&self.network, name).named().publishing(port).attached()
    }

    /// What CHECK of each plugin says.
    fn checks(&self, guest: &Guest<'_>) -> Vec<(&str, Outcome)> {
        let result = guest.result();
        let check = |plugin| (plugin, guest.call("CHECK", plugin, Some(&result), None).run());
        self.network.plugins().into_iter().map(check).collect()
    }

    /// CHECK finds no fault, `rnet ls` neither, and the published port leads to the container.
    fn expect_whole(&self, guest: &Guest<'_>) -> anyhow::Result<()> {
        for (plugin, check) in self.checks(guest) {
            ensure!(check.status == 0, "CHECK of {plugin}: {check:?}");
        }
        let list = self.host.rnet("ls");
        ensure!(list.status == 0 && list.stderr.is_empty() && list.stdout.contains("mynet"), "ls: {list:?}");
        ensure!(guest.works(), "{} cannot be reached", guest.who.id);
        Ok(())
    }

    fn expect_nothing_left(&self, begin: &Snapshot) -> anyhow::Result<()> {
        let left = differences(begin, &self.host.snapshot());
        ensure!(left.is_empty(), "left over: {left:#?}");
        Ok(())
    }
}

fn succeed(verb: &str, outcome: Result<(), Outcome>) -> anyhow::Result<()> {
    outcome.map_err(|outcome| anyhow!("{verb}: {outcome:?}"))
}
