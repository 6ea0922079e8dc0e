//! br_netfilter: whether frames within a bridge pass the IP hooks of the firewall.

use netlink::Netns;

use crate::Error;

const SWITCHES: [&str; 2] = ["bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"];

/// With this variable a kernel without br_netfilter is a failure.
const REQUIRED: &str = "RNET_TEST_BR_NETFILTER";

/// What the switches can be on this kernel: on and off; off only, where the module br_netfilter is not loaded. A test in a user
/// namespace cannot load it, so it says what it does not see. `.ci/run` loads it, here or under another kernel, and sets
/// RNET_TEST_BR_NETFILTER=1.
///
/// # Panics
/// Without br_netfilter, where the variable is set.
pub fn bridge_filter_settings() -> &'static [bool] {
    if std::path::Path::new("/proc/sys/net").join(SWITCHES[0]).exists() {
        return &[true, false];
    }
    assert!(
        std::env::var_os(REQUIRED).is_none(),
        "{REQUIRED} is set, and br_netfilter is not loaded: modprobe br_netfilter"
    );
    eprintln!("br_netfilter is not loaded: not tested with it (modprobe br_netfilter)");
    &[false]
}

/// Sets them for the bridges of a namespace. Off is what a kernel without them has.
pub fn set_bridge_filter(netns: &Netns, on: bool) -> Result<(), Error> {
    let netlink = netlink::Netlink::inside(netns)?;
    for key in SWITCHES {
        match on {
            true => drop(netlink.set_sysctl(key, "1")?),
            false => netlink.set_sysctl_if_there(key, "0")?,
        }
    }
    Ok(())
}
