//! The CNI plugins, one file each: a plugin reads its keys, asks the engine, and tells the outcome in CNI's words.
//!
//! | plugin | what it does |
//! |---|---|
//! | `rnet` | everything in one process: bridge, lease, addresses, published ports, isolation, guards, names |
//! | `bridge` | a veth pair on a bridge, with the reference plugin's keys |
//! | `ptp` | a veth pair without a bridge, with the reference plugin's keys |
//! | `host-local` | leases in a folder, the reference plugin's byte for byte |
//! | `portmap` | host ports that lead to a container |
//! | `dnsname` | containers of a list find one another by name |
//! | `loopback` | `lo` comes up |
//! | `tuning` | sysctls, and an interface's MAC address, MTU, modes and queue |
//!
//! A new plugin is one file and one line in [`PLUGINS`].

mod bridge;
mod call;
mod chained;
pub mod conditions;
mod dnsname;
mod error;
mod host_local;
mod lease;
mod loopback;
mod members;
mod names;
mod portmap;
mod proof;
mod ptp;
mod reference;
mod rnet;
mod runtime_config;
mod tuning;
mod verbs;

use cni::{CniResult, Plugin, Request, Verb};

use engine::Repaired;
use members::is_named;

pub use error::{Error, Fault, own};
pub use members::default_bridge;

/// What `CNI_COMMAND`-less calls print: a release whose build part is rnet's own. nerdctl and Nomad parse it as a
/// semantic version and want at least the reference plugins' 1.9.1; a pre-release would be refused.
pub const VERSION: &str = concat!("v1.9.1+rnet.", env!("CARGO_PKG_VERSION"));

/// Every plugin by its name.
pub const PLUGINS: [(&str, &(dyn Plugin + Sync)); 8] = [
    ("bridge", &bridge::VERBS),
    ("dnsname", &dnsname::VERBS),
    ("host-local", &host_local::VERBS),
    ("loopback", &loopback::VERBS),
    ("portmap", &portmap::VERBS),
    ("ptp", &ptp::VERBS),
    ("rnet", &rnet::VERBS),
    ("tuning", &tuning::VERBS),
];

/// The plugin called `name`.
pub fn find(name: &str) -> Option<&'static (dyn Plugin + Sync)> {
    PLUGINS.iter().find(|(known, _)| *known == name).map(|(_, plugin)| *plugin)
}

/// The longest plugin name that a program's file name ends in: `buildkit-cni-bridge` is `bridge`.
pub fn named_by(file_name: &str) -> Option<&'static str> {
    let names = PLUGINS.iter().map(|(name, _)| *name);
    names.filter(|name| is_named(file_name, name)).max_by_key(|name| name.len())
}

/// Runs one verb of a plugin in this process; only ADD has a result.
///
/// # Errors
/// The plugin's.
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

/// Makes the network of a configuration whole again, if any container is on it. `plugin` is one that makes interfaces.
///
/// # Errors
/// The configuration cannot be read, or what could not be mended.
pub fn repair(plugin: &str, request: &Request<'_>) -> Result<Repaired, Error> {
    let spec = match plugin {
        "rnet" => rnet::spec(request)?,
        "ptp" => ptp::spec(request)?,
        _ => bridge::spec(request)?,
    };
    Ok(engine::repair(&spec)?)
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
