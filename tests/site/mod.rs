//! Networks with containers on them, driven through the built binary call by call, and the books that must balance
//! whatever happened in between (`audit`).
#![allow(dead_code, reason = "every test binary uses its own part of this")]

pub mod audit;
pub mod member;
pub mod network;

use std::path::PathBuf;
use std::sync::OnceLock;

use netns_fixtures::{Outside, Snapshot};
use store::{Paths, Store};

use crate::common::Lab;

pub use member::Member;
pub use network::Network;

/// The host's address towards the machine outside.
pub const HOST: &str = "192.168.77.1";

/// A host that forwards already, and a machine outside of it.
pub struct Site {
    pub lab: Lab,
    pub outside: Outside,
    /// The id of this boot, where it is not the machine's.
    pub boot: OnceLock<String>,
}

/// What a host and some containers hold, line by line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State(Vec<String>);

impl Site {
    pub fn new() -> Self {
        let lab = Lab::new();
        let outside = lab.host.outside(&["192.168.77.0/24".parse().unwrap()]).unwrap();
        // The one setting that stays when the last network goes: others may rely on it by then.
        lab.set_sysctl("ipv4/ip_forward", "1");
        Self { lab, outside, boot: OnceLock::new() }
    }

    /// A container for `network`, without an interface yet; its `lo` is up, which ADD sees to and DEL leaves.
    pub fn member<'a>(&'a self, network: &'a Network, name: &str) -> Member<'a> {
        Member::new(self, network, name)
    }

    /// Everything but caches, locks and the hint where host-local goes on.
    pub fn state(&self, members: &[&Member<'_>]) -> State {
        self.lab.await_the_end_of_flows();
        let run = self.store().paths().run();
        let folders = ["records", "networks", "claims", "leases"].map(|folder| run.join(folder));
        let folders: Vec<PathBuf> = folders.into_iter().chain([self.host_local()]).collect();
        let folders: Vec<_> = folders.iter().map(PathBuf::as_path).collect();
        let host = Snapshot::of(self.lab.host.netns(), &folders).unwrap();
        let mut lines: Vec<String> = host.lines().iter().filter(|line| lasts(line)).cloned().collect();
        for member in members {
            let inside = Snapshot::of(member.container.netns(), &[]).unwrap();
            lines.extend(inside.lines().iter().map(|line| format!("{}: {line}", member.who.id)));
        }
        State(lines)
    }

    /// rnet's records and claims.
    pub fn store(&self) -> Store {
        let cookie = self.lab.host.run(|| netlink::cookie().unwrap()).unwrap();
        let root = self.lab.host.root();
        let paths = match self.boot.get() {
            Some(boot) => Paths::in_boot(root, cookie, boot),
            None => Paths::under(root, cookie),
        };
        Store::open(paths).unwrap()
    }

    /// host-local's folder.
    pub fn host_local(&self) -> PathBuf {
        self.store().paths().host_local()
    }
}

impl State {
    /// One line for each thing.
    pub fn lines(&self) -> &[String] {
        &self.0
    }

    /// What is in one and not in the other; nothing if they are equal.
    pub fn difference(&self, after: &Self) -> Vec<String> {
        let surplus = |these: &Self, those: &Self, sign: char| {
            let mut left = those.0.clone();
            let mut found = Vec::new();
            for line in &these.0 {
                match left.iter().position(|other| other == line) {
                    Some(at) => drop(left.swap_remove(at)),
                    None => found.push(format!("{sign} {line}")),
                }
            }
            found
        };
        [surplus(self, after, '-'), surplus(after, self, '+')].concat()
    }

    /// Panics with the difference.
    #[track_caller]
    pub fn assert_same(&self, after: &Self) {
        let difference = self.difference(after);
        assert!(difference.is_empty(), "- only before, + only after:\n{}", difference.join("\n"));
    }
}

/// Folders of leases stay when they are empty, with their lock and the last address given. Which flows an address has begun is
/// written by its packets, and expires.
fn lasts(line: &str) -> bool {
    if line.starts_with("element inet rnet fresh") {
        return false;
    }
    let Some(path) = line.strip_prefix("file ").and_then(|line| line.split(": ").next()) else { return true };
    let name = path.rsplit('/').next().unwrap_or_default();
    let leases = path.contains("/leases/") || path.contains("/cni/networks/");
    let empty = line.contains(": directory") && (leases || ["records", "networks", "claims"].contains(&name));
    !(empty || leases && (name == "lock" || name.starts_with("last_reserved_ip")))
}
