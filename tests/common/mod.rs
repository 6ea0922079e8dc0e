//! A host to throw away, its containers, and calls as runtimes and people make them, for tests of the built binary.
#![allow(dead_code, unused_imports, reason = "every test binary uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod call;
mod disk;
mod guest;
mod host;
mod network;
mod process;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use netlink::{Netlink, Netns};
use netns_fixtures::Snapshot;
use serde_json::Value;

pub use call::{Call, Outcome, Who};
pub use disk::Disk;
pub use guest::{Fault, Guest};
pub use host::Host;
pub use network::{Network, Published, bridge, config_of, mappings, publishing, ranges, rnet, with};
pub use process::{children, is_dead, parent_of, signal};

/// Every plugin that the binary can be.
pub const PLUGINS: [&str; 8] =
    ["bridge", "dnsname", "host-local", "loopback", "portmap", "ptp", "rnet", "tuning"];

/// Every version of the specification.
pub const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Long enough for what must come.
pub const LONG: Duration = Duration::from_secs(5);

/// Long enough to see that nothing comes.
pub const SOON: Duration = Duration::from_millis(300);

/// How long [`wait_until`] waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// The rnet under test: the one that Cargo has built, or the file that RNET_TEST_BINARY names.
pub fn binary() -> PathBuf {
    std::env::var_os("RNET_TEST_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_rnet").into(), PathBuf::from)
}

/// Looks again and again, and fails if it never comes.
#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "{what}: not in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The container's address in a result: the first of that family, without its prefix length.
pub fn address(result: &Value, v6: bool) -> std::net::IpAddr {
    let ips = result["ips"].as_array().unwrap().iter();
    let mut ips = ips.map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap());
    ips.find(|ip: &std::net::IpAddr| ip.is_ipv6() == v6).unwrap()
}

/// Links, addresses, routes and sysctls of a container.
pub fn inside(netns: &Netns) -> Netlink {
    Netlink::inside(netns).unwrap()
}

/// The MAC of a link.
pub fn mac(netns: &Netns, link: &str) -> [u8; 6] {
    inside(netns).link(link).unwrap().unwrap().mac.unwrap().0
}

/// The differences between two snapshots, except for the address that was given last: a failed ADD uses one up.
pub fn differences(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let lines = before.diff(after).unwrap_or_default();
    lines.lines().filter(|line| !line.contains("last_reserved_ip")).map(str::to_owned).collect()
}

/// What a folder holds; nothing if it is not there.
pub fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
