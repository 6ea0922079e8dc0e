//! IPv6 forwarding that does not cost the host its own addresses and routes.
//!
//! `conf.all.forwarding` makes every interface with `accept_ra=1` ignore router advertisements, and the kernel removes the
//! default routes that came by them. Since Linux 6.17 `force_forwarding` forwards without that. Before, an interface that lives by
//! advertisements gets `accept_ra=2`: accept them although this host forwards.

use std::io::Write;

use netlink::{BY_ADVERTISEMENT, Route};

use crate::spec::Spec;
use crate::{Error, Host, failpoint};

const ALL: &str = "ipv6/conf/all/forwarding";
const FORCED: &str = "ipv6/conf/all/force_forwarding";

/// Makes the host forward the IPv6 packets that come by `link`.
///
/// # Errors
/// A setting cannot be written, or may not be changed ([`Error::ForwardingHarms`]).
pub fn enable(host: &mut Host, spec: &Spec, link: &str) -> Result<(), Error> {
    let of_link = format!("ipv6/conf/{link}/forwarding");
    if host.netlink.sysctl(ALL)?.as_deref() == Some("1") {
        // The link may have been told otherwise.
        return Ok(host.netlink.set_sysctl(&of_link, "1").map(drop)?);
    }
    if host.netlink.sysctl(FORCED)?.is_some() {
        return force(host, link);
    }
    for uplink in links_at_risk(host, link)? {
        keep_advertisements(host, spec, &uplink)?;
    }
    host.netlink.set_sysctl(ALL, "1")?;
    Ok(host.netlink.set_sysctl(&of_link, "1").map(drop)?)
}

/// True if the host forwards what comes by `bridge`.
///
/// # Errors
/// /proc/sys cannot be read.
pub fn is_on(host: &Host, bridge: &str) -> Result<bool, Error> {
    for key in [ALL, &format!("ipv6/conf/{bridge}/force_forwarding")] {
        if host.netlink.sysctl(key)?.as_deref() == Some("1") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The interfaces whose `accept_ra` the first container of a network with IPv6 would change.
///
/// # Errors
/// Routes or settings cannot be read.
pub fn to_change(host: &mut Host) -> Result<Vec<String>, Error> {
    let forwards = host.netlink.sysctl(ALL)?.as_deref() == Some("1");
    if forwards || host.netlink.sysctl(FORCED)?.is_some() { Ok(Vec::new()) } else { links_at_risk(host, "") }
}

/// `all` is for the interfaces that are there when it changes, `default` for those to come.
///
/// `conf.all.forwarding=0` takes it from every interface and leaves `all` at 1, which then changes nothing: answers that come in
/// by the uplink would be dropped. `lo` is always there, and tells.
fn force(host: &Host, bridge: &str) -> Result<(), Error> {
    let is_forced = |interface: &str| -> Result<bool, Error> {
        let key = format!("ipv6/conf/{interface}/force_forwarding");
        Ok(host.netlink.sysctl(&key)?.as_deref() == Some("1"))
    };
    if is_forced("all")? && !is_forced("lo")? {
        host.netlink.set_sysctl(FORCED, "0")?;
    }
    let steps = [("all", "add.force-all"), ("default", "add.force-default"), (bridge, "add.force-bridge")];
    for (interface, step) in steps {
        host.netlink.set_sysctl(&format!("ipv6/conf/{interface}/force_forwarding"), "1")?;
        failpoint::pass(step)?;
    }
    Ok(())
}

/// The interfaces that would lose what routers told them; `bridge` is ours and believes no router.
fn links_at_risk(host: &mut Host, bridge: &str) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    for index in links_by_advertisement(&host.netlink.routes()?) {
        let Some(link) = host.netlink.link_by_index(index)? else { continue };
        if link.name != bridge && host.netlink.sysctl(&accept_ra(&link.name))?.as_deref() == Some("1") {
            found.push(link.name);
        }
    }
    Ok(found)
}

/// The links that have a route by advertisement. A static default route says nothing: `accept_ra` is 1 everywhere by default.
fn links_by_advertisement(routes: &[Route]) -> Vec<u32> {
    let advertised = |route: &&Route| route.protocol == Some(BY_ADVERTISEMENT) && route.destination.is_ipv6();
    let mut links: Vec<u32> = routes.iter().filter(advertised).map(|route| route.index).collect();
    links.sort_unstable();
    links.dedup();
    links
}

/// Says so, because it is the host's setting and outlives the network, as forwarding does.
fn keep_advertisements(host: &Host, spec: &Spec, link: &str) -> Result<(), Error> {
    if !spec.keep_advertisements {
        return Err(Error::ForwardingHarms { link: link.to_owned() });
    }
    host.netlink.set_sysctl(&accept_ra(link), "2")?;
    let said = format!(
        "rnet: network {}: set net.ipv6.conf.{link}.accept_ra=2, so that {link} goes on taking router advertisements \
         although this host forwards IPv6 from now on\n",
        spec.id.network
    );
    // A runtime that has closed standard error is no reason to fail.
    let _ = std::io::stderr().write_all(said.as_bytes());
    Ok(())
}

fn accept_ra(link: &str) -> String {
    format!("ipv6/conf/{link}/accept_ra")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(destination: &str, index: u32, protocol: u8) -> Route {
        Route { protocol: Some(protocol), ..Route::new(destination.parse().unwrap(), index) }
    }

    #[test]
    fn only_a_route_by_advertisement_counts_and_each_link_once() {
        const KERNEL: u8 = 2;
        const BOOT: u8 = 3;
        const STATIC: u8 = 4;
        let routes = [
            route("::/0", 2, STATIC),
            route("::/0", 3, BOOT),
            route("fd00::/64", 4, KERNEL),
            route("0.0.0.0/0", 5, BY_ADVERTISEMENT),
            route("::/0", 7, BY_ADVERTISEMENT),
            route("2001:db8::/48", 6, BY_ADVERTISEMENT),
            route("2001:db8:1::/48", 7, BY_ADVERTISEMENT),
        ];

        assert_eq!(links_by_advertisement(&routes), [6, 7]);
    }
}
