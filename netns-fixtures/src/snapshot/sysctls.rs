//! The sysctls that rnet touches, and those that change with them.

use std::fs;
use std::path::Path;

use netlink::Netns;

use crate::Error;

const GLOBAL: [&str; 4] = [
    "ipv4/ip_forward",
    "bridge/bridge-nf-call-arptables",
    "bridge/bridge-nf-call-ip6tables",
    "bridge/bridge-nf-call-iptables",
];

/// For every link, and for `all` and `default`.
const PER_LINK: [&str; 8] = [
    "accept_dad",
    "accept_ra",
    "arp_notify",
    "disable_ipv6",
    "forwarding",
    "proxy_arp",
    "route_localnet",
    "rp_filter",
];

/// /proc/sys/net shows the namespace of the thread that looks.
pub(super) fn lines(netns: &Netns) -> Result<Vec<String>, Error> {
    Ok(netns.run(|| {
        let global = GLOBAL.iter().map(|key| (*key).to_owned());
        let keys = global.chain(of_links("ipv4")).chain(of_links("ipv6"));
        keys.filter_map(|key| line(&key)).collect()
    })?)
}

fn of_links(family: &str) -> impl Iterator<Item = String> {
    let dir = format!("{family}/conf");
    let links = fs::read_dir(Path::new("/proc/sys/net").join(&dir)).into_iter().flatten().flatten();
    links.flat_map(move |link| {
        let link = link.file_name().to_string_lossy().into_owned();
        let dir = dir.clone();
        PER_LINK.iter().map(move |key| format!("{dir}/{link}/{key}"))
    })
}

/// None if this kernel or family has no such sysctl.
fn line(key: &str) -> Option<String> {
    let value = fs::read_to_string(Path::new("/proc/sys/net").join(key)).ok()?;
    Some(format!("sysctl {key} = {}", value.trim()))
}
