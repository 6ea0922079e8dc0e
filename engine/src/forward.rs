//! Forwarding of what comes by a link of the host's, for the families that its containers have.

use std::net::IpAddr;

use crate::spec::Spec;
use crate::{Error, Host, forward_v6};

/// Turns forwarding on for the families of `addresses`. A setting that is right is not written, so that a read-only /proc/sys does
/// no harm.
///
/// # Errors
/// A setting cannot be written, or may not be changed.
pub fn enable(
    host: &mut Host,
    spec: &Spec,
    link: &str,
    addresses: impl Iterator<Item = IpAddr> + Clone,
) -> Result<(), Error> {
    if addresses.clone().any(|address| address.is_ipv4()) {
        host.netlink.set_sysctl("ipv4/ip_forward", "1")?;
        // The link may differ from the host: it was told so, or it was made while new links were not to forward.
        host.netlink.set_sysctl(&format!("ipv4/conf/{link}/forwarding"), "1")?;
    }
    if addresses.clone().any(|address| address.is_ipv6()) {
        forward_v6::enable(host, spec, link)?;
    }
    Ok(())
}

/// True if the host forwards what comes by `link` in that family.
///
/// # Errors
/// /proc/sys cannot be read.
pub fn is_on(host: &Host, link: &str, v6: bool) -> Result<bool, Error> {
    if v6 {
        return forward_v6::is_on(host, link);
    }
    for key in ["ipv4/ip_forward", &format!("ipv4/conf/{link}/forwarding")] {
        if host.netlink.sysctl(key)?.as_deref() != Some("1") {
            return Ok(false);
        }
    }
    Ok(true)
}
