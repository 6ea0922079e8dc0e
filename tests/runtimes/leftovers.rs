//! What a test leaves on its host: links, addresses, routes, rules, sysctls, sockets, and files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};
use netns_fixtures::Snapshot;

use crate::common::Host;
use crate::guest::wait_until;
use crate::setup::NETWORKS;

/// Where runtimes and plugins keep what belongs to a container or a network.
const KEPT: [&str; 5] = [NETWORKS, "/run/rnet", "/run/netns", "/var/lib/cni", "/var/lib/rnet"];

impl Host {
    /// A host at 192.168.77.1, beside a machine at 192.168.77.2. It forwards, as container hosts do.
    pub fn with_outside() -> Self {
        Self::forwarding().beside(&["192.168.77.0/24"])
    }
}

/// What is there before a test does anything.
pub struct Before {
    network: Snapshot,
    files: Vec<PathBuf>,
}

impl Before {
    pub fn of(host: &Host) -> anyhow::Result<Self> {
        Ok(Self { network: Snapshot::of(host.netns(), &[])?, files: files() })
    }

    /// An error that lists what is on the host now and was not before, and the reverse.
    pub fn ensure_nothing_left(&self, host: &Host) -> anyhow::Result<()> {
        let now = Snapshot::of(host.netns(), &[])?;
        if let Some(diff) = self.network.diff(&now) {
            bail!("the host's network is not as it was:\n{}", short(&diff));
        }
        self.ensure_no_files_left()
    }

    /// The same, of files only: leases, records, definitions, pinned namespaces.
    pub fn ensure_no_files_left(&self) -> anyhow::Result<()> {
        // Which name had which address is kept for the next time.
        let is_kept = |file: &PathBuf| file.starts_with("/var/lib/rnet/addresses");
        // A child of the last DEL forgets the flows of its container, and then this note.
        wait_until("flows are forgotten", || Ok(!files().iter().any(|file| file.ends_with("stale"))))?;
        let left: Vec<PathBuf> =
            files().into_iter().filter(|file| !self.files.contains(file) && !is_kept(file)).collect();
        ensure!(left.is_empty(), "files are left: {left:#?}");
        Ok(())
    }
}

/// Removes what a failed test left, so that the next one does not fail too.
pub fn remove() {
    for dir in [NETWORKS, "/var/lib/cni", "/var/lib/rnet"] {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.for_each(|entry| {
            drop(fs::remove_dir_all(entry.path()).or_else(|_| fs::remove_file(entry.path())))
        });
    }
}

/// Files that belong to a container or a network and must go with it.
fn files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    KEPT.iter().for_each(|dir| collect(Path::new(dir), &mut found));
    found.retain(|file| !outlives_its_container(file));
    found
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect(&entry.path(), found),
            _ => found.push(entry.path()),
        }
    }
}

/// A rule in the kernel's own words is long, and its beginning says which one it is.
fn short(diff: &str) -> String {
    let lines = diff.lines().map(|line| line.chars().take(120).collect::<String>());
    lines.collect::<Vec<_>>().join("\n")
}

/// host-local's own bookkeeping, podman's lock file, and rnet's: locks, the lease index, the note of the last deletion.
fn outlives_its_container(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let is_ours = ["/run/rnet", "/var/lib/rnet"].iter().any(|dir| file.starts_with(dir));
    let below = |dir| is_ours && file.parent().is_some_and(|parent| parent.ends_with(dir));
    name == "lock"
        || name == "cni.lock"
        || name.starts_with("last_reserved_ip.")
        || below("locks")
        || below("leases")
        || below("index")
        || (is_ours && name == "deleted")
}
