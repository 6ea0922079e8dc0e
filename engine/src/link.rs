//! The veth pair of an attachment: made with its peer in the container, dressed, and deleted.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use ipnetwork::IpNetwork;
use netlink::{Link, Mac, Netlink, Netns, Probed, Request, Route};
use rustix::io::Errno;
use store::Record;

use crate::ip::hashed_mac;
use crate::making::{Ends, Making};
use crate::spec::{Lease, Spec};
use crate::{Error, Host, far, flows};

/// How long an IPv6 address may take to be served.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// How long duplicate detection may take: the kernel begins within a second and listens for another.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);

/// The host end's MAC: locally administered, out of the attachment's key, so that nobody has to ask for it.
pub fn host_mac(record: &Record) -> Mac {
    hashed_mac(0x0a, record.key().as_str())
}

/// No router advertisement is taken on a link of the host's (CVE-2020-10749). Where IPv6 is off, none is anyway, and
/// /proc/sys may be read-only.
///
/// # Errors
/// The setting cannot be written, and IPv6 is on.
pub fn refuse_advertisements(host: &Host, link: &str) -> Result<(), Error> {
    match host.netlink.set_sysctl(&format!("ipv6/conf/{link}/accept_ra"), "0") {
        Err(_) if !has_ipv6(host, link)? => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

fn has_ipv6(host: &Host, link: &str) -> Result<bool, Error> {
    let disabled = host.netlink.sysctl(&format!("ipv6/conf/{link}/disable_ipv6"))?;
    Ok(disabled.is_some_and(|disabled| disabled == "0"))
}

/// Gives the container's end its addresses and routes and takes it up: one send inside the container. Where neighbours
/// must be told of its MAC, the kernel is prepared for that.
///
/// # Errors
/// The kernel refuses an address or a route.
pub fn dress(host: &Host, inside: &mut Netlink, making: &Making<'_>, index: u32) -> Result<(), Error> {
    dress_with(host, inside, making, index, Vec::new())
}

/// The same with `more` between the addresses and the routes that were leased.
///
/// # Errors
/// As for [`dress`].
pub fn dress_with(
    host: &Host,
    inside: &mut Netlink,
    making: &Making<'_>,
    index: u32,
    more: Vec<Request>,
) -> Result<(), Error> {
    set_sysctls(host, inside, making)?;
    let Making { spec, lease, .. } = making;
    let ifname = &making.record.ifname;
    let name = ifname.to_owned();
    let (v4, v6): (Vec<IpNetwork>, Vec<IpNetwork>) =
        lease.addresses.iter().map(|ip| ip.address).partition(|address| address.is_ipv4());
    let mut requests = vec![Request::LinkUp { index: 1, name: "lo".into() }];
    requests.extend(v4.into_iter().map(|address| Request::AddressAdd { index, name: name.clone(), address }));
    if spec.interface_up {
        requests.push(Request::LinkUp { index, name: name.clone() });
    }
    let mut routes = routes(spec, lease, index);
    let is_due = |route: &Route| route.destination.is_ipv4() || !spec.duplicate_detection;
    routes.retain(is_due);
    if !spec.duplicate_detection {
        // An IPv6 route to the gateway's network comes with the address at once only on a link that is up.
        requests.extend(v6.into_iter().map(|address| Request::AddressAdd {
            index,
            name: name.clone(),
            address,
        }));
    }
    let is_in_more = |route: &Route| {
        let to = |request: &Request| match request {
            Request::RouteAdd(known) => known.destination == route.destination,
            _ => false,
        };
        more.iter().any(to)
    };
    let mut to_gateways = far::to_gateways(spec, lease, &routes, index);
    to_gateways.retain(|route| !is_in_more(route));
    requests.extend(more);
    let (default, others): (Vec<_>, Vec<_>) = routes.into_iter().partition(is_usual_default);
    requests.extend(to_gateways.into_iter().filter(is_due).map(Request::RouteAdd));
    requests.extend(
        others.into_iter().map(Request::RouteAdd).chain(default.into_iter().map(Request::RouteCreate)),
    );
    let Err(error) = inside.send(&requests) else { return Ok(()) };
    match behind_others(&error, &requests, index) {
        younger if younger.is_empty() => Err(name_refusal(error, &requests, ifname)),
        younger => Ok(inside.send(&younger)?),
    }
}

/// True for an IPv4 default route of no metric in particular.
fn is_usual_default(route: &Route) -> bool {
    let usual = route.priority.is_none() && route.table.is_none();
    usual && route.destination.is_ipv4() && route.destination.prefix() == 0
}

/// Default routes that met an older attachment's, with a metric of their own. Of equals the kernel takes now this one, now
/// that one, by whose gateway it has heard of lately (fib_select_default), and answers would leave by the wrong network.
fn behind_others(error: &netlink::Error, requests: &[Request], index: u32) -> Vec<Request> {
    let netlink::Error::Request { request: refused, errno: Errno::EXIST, .. } = error else {
        return Vec::new();
    };
    let younger = requests.iter().skip_while(|request| request.to_string() != *refused);
    let metric = |request: &Request| match request {
        Request::RouteCreate(route) => {
            Some(Request::RouteAdd(Route { priority: Some(index), ..route.clone() }))
        }
        _ => None,
    };
    younger.map(metric).collect::<Option<_>>().unwrap_or_default()
}

/// The kernel's refusal of a route in upstream's words, of which the request is the one that it names.
fn name_refusal(error: netlink::Error, requests: &[Request], ifname: &str) -> Error {
    let netlink::Error::Request { request: refused, .. } = &error else { return error.into() };
    let mut asked = requests.iter().filter(|request| request.to_string() == *refused);
    match asked.next() {
        Some(Request::RouteAdd(route) | Request::RouteCreate(route)) => {
            Error::of(add_route(route, ifname))(error)
        }
        _ => error.into(),
    }
}

fn add_route(route: &Route, ifname: &str) -> String {
    let gateway = route.gateway.map_or_else(|| "<nil>".into(), |gateway| gateway.to_string());
    let (metric, table) = (route.priority.unwrap_or_default(), route.table.unwrap_or_default());
    let (to, scope) = (route.destination, scope_name(route.scope.unwrap_or_default()));
    format!(
        "failed to add route '{to} via {gateway} dev {ifname} metric {metric} (Scope: {scope}, Table: {table})'"
    )
}

/// RT_SCOPE_ in the words of upstream's library.
fn scope_name(scope: u32) -> String {
    match scope {
        0 => "universe".into(),
        200 => "site".into(),
        253 => "link".into(),
        254 => "host".into(),
        255 => "nowhere".into(),
        other => format!("unknown[{other}]"),
    }
}

/// The kernel notices the carrier in its own time, mostly at once, but up to a second later; until then packets are lost.
/// A question for the link makes it look now.
///
/// # Errors
/// The kernel cannot be asked.
pub fn notice_carrier(host: &mut Host, inside: &mut Netlink, ends: &Ends) -> Result<(), Error> {
    if let (Some(container), Some(on_host)) = (ends.container, ends.host) {
        inside.link_by_index(container)?;
        host.netlink.link_by_index(on_host)?;
    }
    Ok(())
}

/// Gives the container its IPv6 addresses where they are to be probed for duplicates, and waits for the verdict.
///
/// Not earlier than its port forwards: a question that nobody hears is answered by nobody.
///
/// # Errors
/// An address is in use, or the probe does not end.
pub fn probe(inside: &mut Netlink, making: &Making<'_>, container: &Netns, ends: &Ends) -> Result<(), Error> {
    let Making { spec, lease, .. } = making;
    let Some(index) = ends.container else { return Ok(()) };
    let ifname = &making.record.ifname;
    let v6: Vec<IpNetwork> = lease.addresses.iter().map(|ip| ip.address).filter(IpNetwork::is_ipv6).collect();
    if !spec.duplicate_detection || v6.is_empty() {
        return Ok(());
    }
    let probe =
        |address: &IpNetwork| Request::AddressProbe { index, name: ifname.to_owned(), address: *address };
    let routes = routes(spec, lease, index);
    let routes = far::to_gateways(spec, lease, &routes, index).into_iter().chain(routes);
    let routes = routes.filter(|route| route.destination.is_ipv6()).map(Request::RouteAdd);
    let requests: Vec<_> = v6.iter().map(probe).chain(routes).collect();
    inside.send(&requests).map_err(|error| name_refusal(error, &requests, ifname))?;
    if !spec.interface_up {
        return Ok(());
    }
    let addresses: Vec<IpAddr> = v6.iter().map(IpNetwork::ip).collect();
    let (ifname, bridge) = (ifname.to_owned(), spec.bridge.clone());
    match container.run(|| netlink::await_unique(index, &addresses, PROBE_PATIENCE))?? {
        Probed::Unique => Ok(()),
        Probed::Duplicate(address) => Err(Error::DuplicateAddress { ifname, address, bridge }),
        Probed::Unfinished(address) => {
            Err(Error::StillTentative { ifname, address, patience: PROBE_PATIENCE })
        }
    }
}

/// Returns when the kernel takes packets for the container's addresses. It mostly does by now; on a busy host an
/// IPv6 address takes some milliseconds, and the first packet to it would be lost. Later than [`PATIENCE`] is no
/// failure: the address is there.
///
/// # Errors
/// The kernel cannot be asked.
pub fn await_addresses(
    inside: &mut Netlink,
    spec: &Spec,
    container: &Netns,
    lease: &Lease,
) -> Result<(), Error> {
    let v6 = lease.addresses.iter().map(|ip| ip.address.ip()).filter(|ip| ip.is_ipv6() && spec.interface_up);
    for address in v6 {
        if !inside.is_local(address)? {
            container.run(|| netlink::await_local(address, PATIENCE))??;
        }
    }
    Ok(())
}

/// The routes of the container: a missing gateway is the first one of that family, unless the scope says that none
/// is wanted.
fn routes(spec: &Spec, lease: &Lease, index: u32) -> Vec<Route> {
    let first = |route: &ipam::Route| {
        let gateway = spec.gateway_for(route.dst, lease).filter(|_| !is_on_link(route.scope));
        gateway.filter(|gateway| !far::is_gateway_itself(route.dst, *gateway))
    };
    let kernel = |route: ipam::Route| Route {
        destination: route.dst,
        gateway: route.gw.or_else(|| first(&route)),
        index,
        source: None,
        scope: route.scope,
        table: route.table,
        priority: route.priority.or_else(|| rank(route.dst, index)),
        mtu: route.mtu,
        advmss: route.advmss,
        onlink: false,
        protocol: None,
    };
    spec.routes(lease).into_iter().map(kernel).collect()
}

/// The metric of an IPv6 default route. Those of one metric share the traffic; the oldest attachment is to keep it, and
/// the younger the link, the higher its index.
fn rank(destination: IpNetwork, index: u32) -> Option<u32> {
    /// IP6_RT_PRIO_USER (linux/ipv6_route.h), which the kernel takes where none is given.
    const USUAL: u32 = 1024;
    let is_default = destination.is_ipv6() && destination.prefix() == 0;
    is_default.then_some(USUAL + index)
}

/// RT_SCOPE_LINK and narrower: the kernel takes no gateway with them.
fn is_on_link(scope: Option<u32>) -> bool {
    const LINK: u32 = 253;
    scope.is_some_and(|scope| scope >= LINK)
}

/// Deletes a link. It returns as soon as the link is gone from all lists; what the kernel still waits for is left to
/// a child, unless `RNET_SYNC=1` asks to wait too.
///
/// # Errors
/// The kernel refuses it.
pub fn delete(host: &mut Host, index: u32) -> Result<(), Error> {
    let wait = std::env::var_os("RNET_SYNC").is_some_and(|value| value == "1");
    let firewall = host.part_with_firewall();
    let keep: Vec<_> = firewall.iter().map(AsFd::as_fd).collect();
    let has_stale = std::mem::take(&mut host.has_stale);
    let then = || {
        if has_stale {
            flows::forget();
        }
    };
    netlink::delete_link_then(index, &keep, wait, then)?;
    Ok(())
}

/// The host end of an attachment, if it is there and ours: its alias says so, or, where ADD did not come that
/// far, its record does.
///
/// # Errors
/// The kernel cannot be asked.
pub fn find(host: &mut Host, record: &Record) -> Result<Option<Link>, Error> {
    let derived = record.key().link(0);
    let found = match &record.link {
        Some(name) => find_named(host, record, name)?,
        None => None,
    };
    // Without a record its name is the derived one; one that names another link may be wrong.
    match found {
        None if record.link.as_ref() != Some(&derived) => find_named(host, record, &derived),
        found => Ok(found),
    }
}

fn find_named(host: &mut Host, record: &Record, name: &str) -> Result<Option<Link>, Error> {
    Ok(host.netlink.link(name)?.filter(|link| is_own(link, record)))
}

/// True if a link of the right name is an attachment's.
pub fn is_own(link: &Link, record: &Record) -> bool {
    match &link.alias {
        Some(alias) => alias == record.key().as_str(),
        None => record.link.is_some() && link.mac == Some(host_mac(record)),
    }
}

/// Lets nothing more come from a container's host end, if it is there. Its carrier is the container's to take and to give, so it is not
/// enough that the port does not forward now. The bridge forgets who it was.
///
/// # Errors
/// The kernel cannot be asked, or refuses it.
pub fn silence(host: &mut Host, record: &Record) -> Result<Option<Link>, Error> {
    let Some(link) = find(host, record)? else { return Ok(None) };
    let mut requests = Vec::new();
    if record.guarded || record.mac_checked {
        requests.push(Request::LinkDormant { index: link.index, name: link.name.clone() });
    }
    if let Some(index) = link.master {
        let addresses = record.addresses.iter().map(|address| address.address.ip());
        requests.extend(addresses.map(|address| Request::NeighbourDel { index, address }));
    }
    host.netlink.send(&requests)?;
    Ok(Some(link))
}

fn set_sysctls(host: &Host, inside: &Netlink, making: &Making<'_>) -> Result<(), Error> {
    let Making { spec, lease, has_news, .. } = making;
    let ifname = &making.record.ifname;
    if *has_news {
        inside.set_sysctl(&format!("ipv4/conf/{ifname}/arp_notify"), "1")?;
    }
    let has_v6 = lease.addresses.iter().any(|ip| ip.address.is_ipv6());
    if has_v6 {
        inside.set_sysctl("ipv6/conf/lo/disable_ipv6", "0")?;
        inside.set_sysctl(&format!("ipv6/conf/{ifname}/disable_ipv6"), "0")?;
        let keep = inside.set_sysctl(&format!("ipv6/conf/{ifname}/keep_addr_on_down"), "1");
        keep.map_err(Error::of(format!("failed to enable keep_addr_on_down for interface {ifname:?}")))?;
        let detection = if spec.duplicate_detection { "1" } else { "0" };
        inside.set_sysctl(&format!("ipv6/conf/{ifname}/accept_dad"), detection)?;
        if spec.duplicate_detection {
            // Its own question that comes back, by a hairpin say, is no duplicate (RFC 7527).
            inside.set_sysctl(&format!("ipv6/conf/{ifname}/enhanced_dad"), "1")?;
        }
        if *has_news {
            inside.set_sysctl(&format!("ipv6/conf/{ifname}/ndisc_notify"), "1")?;
        }
    } else if spec.ipv4_only {
        turn_ipv6_off(host, inside, spec, ifname)?;
    }
    Ok(())
}

/// A container with IPv4 alone has nobody to speak IPv6 to. Where that cannot be set, its bridge has to be without.
fn turn_ipv6_off(host: &Host, inside: &Netlink, spec: &Spec, ifname: &str) -> Result<(), Error> {
    // A kernel without IPv6 has no such key.
    match inside.set_sysctl_if_there(&format!("ipv6/conf/{ifname}/disable_ipv6"), "1") {
        Err(_) if !has_ipv6(host, &spec.bridge)? => Ok(()),
        other => Ok(other?),
    }
}
