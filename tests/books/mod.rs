//! What a host and its containers hold, and the books that must balance whatever happened (`audit`).
#![allow(dead_code, reason = "every test binary uses its own part of this")]

pub mod audit;

use std::path::PathBuf;

use netns_fixtures::Snapshot;

use crate::common::{Guest, Host};

/// The host's address towards the machine outside.
pub const HOST: &str = "192.168.77.1";

/// What a host and some containers hold, line by line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State(Vec<String>);

impl Host {
    /// One that forwards already, and a machine outside of it.
    pub fn with_outside() -> Self {
        Self::forwarding().beside(&["192.168.77.0/24"])
    }

    /// Everything except caches, locks and the hint where host-local goes on.
    pub fn state(&self, guests: &[&Guest<'_>]) -> State {
        self.await_the_end_of_flows();
        let run = self.store().paths().run();
        let folders = ["records", "networks", "claims", "leases"].map(|folder| run.join(folder));
        let folders: Vec<PathBuf> = folders.into_iter().chain([self.host_local()]).collect();
        let folders: Vec<_> = folders.iter().map(PathBuf::as_path).collect();
        let host = Snapshot::of(self.netns(), &folders).unwrap();
        let mut lines: Vec<String> = host.lines().iter().filter(|line| lasts(line)).cloned().collect();
        for guest in guests {
            let inside = Snapshot::of(guest.container.netns(), &[]).unwrap();
            lines.extend(inside.lines().iter().map(|line| format!("{}: {line}", guest.who.id)));
        }
        State(lines)
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
