//! A host and a machine outside, what is left on them afterwards, and the containers that live there.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use netlink::Netns;
use netns_fixtures::{Connection, Host, Outside, Snapshot, tcp_connect};

use crate::program::stdout;
use crate::setup::{NETWORKS, Setup};

/// Where runtimes and plugins keep what belongs to a container or a network.
const KEPT: [&str; 5] = [NETWORKS, "/run/rnet", "/run/netns", "/var/lib/cni", "/var/lib/rnet"];

/// A host of its own for one test.
pub struct Lab<'a> {
    /// What all tests share.
    pub setup: &'a Setup,
    /// The container host.
    pub host: Host,
    /// A machine outside.
    pub outside: Outside,
    network: Snapshot,
    files: Vec<PathBuf>,
}

/// A container with a network, whoever made it.
pub struct Running {
    /// Its name, for messages.
    pub name: String,
    /// Its network namespace.
    pub netns: Netns,
    /// The address on its (first) network.
    pub address: Ipv4Addr,
}

impl<'a> Lab<'a> {
    /// A host at 192.168.77.1, a neighbour at 192.168.77.2.
    pub fn new(setup: &'a Setup) -> anyhow::Result<Self> {
        let host = Host::new()?;
        let outside = host.outside(&["192.168.77.0/24".parse()?])?;
        // A container host forwards; who turned that on does not turn it off again.
        host.run(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1"))??;
        let network = Snapshot::of(host.netns(), &[])?;
        Ok(Self { setup, host, outside, network, files: files() })
    }

    /// What `rnet ARGS` prints on this host.
    pub fn rnet(&self, args: &[&str]) -> anyhow::Result<String> {
        let program = self.setup.rnet.to_string_lossy();
        stdout(crate::program::bounded(self.host.netns(), &program), "rnet", args)
    }

    /// An error that lists what is there now and was not when the test began, or the other way round: links, addresses, routes,
    /// rules, sysctls, sockets, and files.
    pub fn ensure_nothing_left(&self) -> anyhow::Result<()> {
        let now = Snapshot::of(self.host.netns(), &[])?;
        if let Some(diff) = self.network.diff(&now) {
            bail!("the host's network is not as it was:\n{}", short(&diff));
        }
        self.ensure_no_files_left()
    }

    /// The same, of files alone: leases, records, definitions, pinned namespaces.
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

impl Drop for Lab<'_> {
    fn drop(&mut self) {
        // What a failed test leaves must not fail the next one.
        for dir in [NETWORKS, "/var/lib/cni", "/var/lib/rnet"] {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.for_each(|entry| {
                drop(fs::remove_dir_all(entry.path()).or_else(|_| fs::remove_file(entry.path())))
            });
        }
    }
}

impl Running {
    /// The container's address as the probes want it.
    pub fn ip(&self) -> IpAddr {
        self.address.into()
    }

    /// Waits for the container's own server: a runtime that has started a program does not wait until it listens.
    pub fn serving(self) -> anyhow::Result<Self> {
        let server = (Ipv4Addr::LOCALHOST, 80).into();
        let listens = || Ok(tcp_connect(&self.netns, server, Duration::from_secs(1))? == Connection::Open);
        wait_until(&format!("{} listens", self.name), listens)?;
        Ok(self)
    }
}

/// Asks again until `met` says yes; an error after ten seconds.
pub fn wait_until(what: &str, mut met: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let started = Instant::now();
    while !met().with_context(|| what.to_owned())? {
        ensure!(started.elapsed() < Duration::from_secs(10), "{what}: not within ten seconds");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
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

/// host-local's own bookkeeping, podman's lock file, and ours: locks, the lease index, the note of the last deletion.
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
