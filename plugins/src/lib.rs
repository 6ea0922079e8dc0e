//! The CNI plugins, one file each, and the functions they share.
//!
//! | plugin | what it does |
//! |---|---|
//! | `rnet` | everything in one process: bridge, lease, addresses, published ports, isolation, guards, names |
//! | `bridge` | a veth pair on a bridge, with the reference plugin's keys |
//! | `host-local` | leases in a folder, the reference plugin's byte for byte |
//! | `portmap` | host ports that lead to a container |
//! | `dnsname` | containers of a list find one another by name |
//! | `loopback` | `lo` comes up |
//!
//! A new plugin is one file and one line in [`PLUGINS`].

mod attach;
mod bridge;
mod chained;
mod check;
mod claims;
pub mod conditions;
mod dnsname;
mod error;
mod failpoint;
mod far;
pub mod firewall;
mod former;
pub mod forward_v6;
mod host;
mod host_id;
mod host_local;
pub mod interop;
mod keeper;
mod lease;
mod link;
mod living;
mod loopback;
pub mod lost;
mod mac_check;
mod macs;
mod moments;
pub mod names;
mod network;
mod plan;
pub mod port;
mod portmap;
pub mod ports;
pub mod probe;
mod reference;
mod renamed;
mod repair;
mod rnet;
pub mod ruleset;
pub mod sticky;

use cni::{CniResult, Plugin, Request, Verb};

pub use attach::is_alive;
pub use error::{Error, Fault, Finding, own};
pub use failpoint::STEPS;
pub use host::Host;
pub use repair::repair;
pub use rnet::default_bridge;

/// What `CNI_COMMAND`-less calls print: a release whose build part is rnet's own. nerdctl and Nomad parse it as a
/// semantic version and want at least the reference plugins' 1.9.1; a pre-release would be refused.
pub const VERSION: &str = concat!("v1.9.1+rnet.", env!("CARGO_PKG_VERSION"));

/// Every plugin by its name.
pub const PLUGINS: [(&str, &(dyn Plugin + Sync)); 6] = [
    ("bridge", &bridge::Bridge),
    ("dnsname", &dnsname::Dnsname),
    ("host-local", &host_local::HostLocal),
    ("loopback", &loopback::Loopback),
    ("portmap", &portmap::Portmap),
    ("rnet", &rnet::Rnet),
];

/// The plugin called `name`.
pub fn find(name: &str) -> Option<&'static (dyn Plugin + Sync)> {
    PLUGINS.iter().find(|(known, _)| *known == name).map(|(_, plugin)| *plugin)
}

/// The longest plugin name that a program's file name ends in: `buildkit-cni-bridge` is `bridge`.
pub fn named_by(file_name: &str) -> Option<&'static str> {
    let fits = |name: &&str| {
        file_name.strip_suffix(*name).is_some_and(|rest| rest.is_empty() || rest.ends_with('-'))
    };
    PLUGINS.iter().map(|(name, _)| *name).filter(fits).max_by_key(|name| name.len())
}

/// Runs one verb of a plugin in this process; only ADD has a result.
pub fn run(plugin: &dyn Plugin, verb: Verb, request: &Request<'_>) -> Result<Option<CniResult>, cni::Error> {
    match verb {
        Verb::Add => plugin.add(request).map(Some),
        Verb::Del => plugin.del(request).map(|()| None),
        Verb::Check => plugin.check(request).map(|()| None),
        Verb::Status => plugin.status(request).map(|()| None),
        Verb::Gc => plugin.gc(request).map(|()| None),
        Verb::Version => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_known_by_the_end_of_its_name() {
        assert_eq!(named_by("bridge"), Some("bridge"));
        assert_eq!(named_by("buildkit-cni-bridge"), Some("bridge"));
        assert_eq!(named_by("buildkit-cni-host-local"), Some("host-local"));
        assert_eq!(named_by("cambridge"), None);
        assert_eq!(named_by("rnet-debug"), None);
    }
}
