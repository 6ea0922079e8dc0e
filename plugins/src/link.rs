//! The veth pair of an attachment: made with its peer in the container, dressed, and deleted.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use cni::CniResult;
use ipnetwork::IpNetwork;
use netlink::{Link, Mac, Netlink, Netns, Probed, Request, Route, Veth, VethPair};
use store::Record;

use crate::plan::{Plan, hashed_mac};
use crate::{Error, Host};

/// So many names are tried before the host end's name is said to be taken.
const ATTEMPTS: usize = 4;

/// How long an IPv6 address may take to be served.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// How long duplicate detection may take: the kernel begins within a second and listens for another.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);

/// Makes the pair: one message; the peer is born in the container under its final name. The host end stays down: until
/// its guard is complete nobody in the container may send.
///
/// The record names the host end before it exists. A name that belongs to somebody else's link is left alone
/// and the next one tried.
pub fn create(
    host: &mut Host,
    plan: &Plan,
    record: &mut Record,
    bridge: &Link,
    container: &Netns,
) -> Result<VethPair, Error> {
    let mac = record.mac.as_deref().and_then(|mac| mac.parse().ok());
    for attempt in 0..ATTEMPTS {
        let name = record.key().link(attempt);
        if attempt > 0 {
            record.link = Some(name.clone());
            host.store.write_record(record)?;
        }
        let veth = Veth {
            name: &name,
            mac: Some(host_mac(record)),
            mtu: plan.mtu.or(Some(bridge.mtu)),
            master: Some(bridge.index),
            peer: &record.ifname,
            peer_mac: mac,
            peer_netns: container,
            up: false,
        };
        match host.netlink.create_veth(&veth) {
            Err(netlink::Error::LinkExists { .. }) if host.netlink.link(&name)?.is_some() => {}
            Err(netlink::Error::LinkExists { .. }) => {
                return Err(Error::InterfaceTaken { ifname: record.ifname.clone(), link: name });
            }
            other => return Ok(other?),
        }
    }
    Err(Error::LinkNamesTaken { names: (0..ATTEMPTS).map(|attempt| record.key().link(attempt)).collect() })
}

/// The host end's MAC: locally administered, out of the attachment's key, so that nobody has to ask for it.
pub fn host_mac(record: &Record) -> Mac {
    hashed_mac(0x0a, record.key().as_str())
}

/// Gives the container's end its addresses and routes and takes it up: one send inside the container.
pub fn dress(
    inside: &mut Netlink,
    plan: &Plan,
    ifname: &str,
    index: u32,
    lease: &CniResult,
) -> Result<(), Error> {
    set_sysctls(inside, plan, ifname, lease)?;
    let name = ifname.to_owned();
    let (v4, v6): (Vec<IpNetwork>, Vec<IpNetwork>) =
        lease.ips.iter().map(|ip| ip.address).partition(|address| address.is_ipv4());
    let mut requests = vec![Request::LinkUp { index: 1, name: "lo".into() }];
    requests.extend(v4.into_iter().map(|address| Request::AddressAdd { index, name: name.clone(), address }));
    if plan.interface_up {
        requests.push(Request::LinkUp { index, name: name.clone() });
    }
    let mut routes = routes(plan, lease, index);
    if plan.duplicate_detection {
        routes.retain(|route| route.destination.is_ipv4());
    } else {
        // An IPv6 route to the gateway's network comes with the address at once only on a link that is up.
        requests.extend(v6.into_iter().map(|address| Request::AddressAdd {
            index,
            name: name.clone(),
            address,
        }));
    }
    requests.extend(routes.into_iter().map(Request::RouteAdd));
    Ok(inside.send(&requests)?)
}

/// The kernel notices the carrier in its own time, mostly at once, but up to a second later; until then packets are lost.
/// Whoever asks for the link makes it look now.
pub fn notice_carrier(host: &mut Host, inside: &mut Netlink, pair: &VethPair) -> Result<(), Error> {
    inside.link_by_index(pair.container)?;
    host.netlink.link_by_index(pair.host)?;
    Ok(())
}

/// Gives the container its IPv6 addresses where they are to be probed for duplicates, and waits for the verdict.
///
/// Not earlier than its port forwards: a question that nobody hears is answered by nobody.
pub fn probe(
    inside: &mut Netlink,
    plan: &Plan,
    container: &Netns,
    ifname: &str,
    index: u32,
    lease: &CniResult,
) -> Result<(), Error> {
    let v6: Vec<IpNetwork> = lease.ips.iter().map(|ip| ip.address).filter(IpNetwork::is_ipv6).collect();
    if !plan.duplicate_detection || v6.is_empty() {
        return Ok(());
    }
    let probe =
        |address: &IpNetwork| Request::AddressProbe { index, name: ifname.to_owned(), address: *address };
    let routes = routes(plan, lease, index).into_iter().filter(|route| route.destination.is_ipv6());
    inside.send(&v6.iter().map(probe).chain(routes.map(Request::RouteAdd)).collect::<Vec<_>>())?;
    if !plan.interface_up {
        return Ok(());
    }
    let addresses: Vec<IpAddr> = v6.iter().map(IpNetwork::ip).collect();
    let (ifname, bridge) = (ifname.to_owned(), plan.bridge.clone());
    match container.run(|| netlink::await_unique(index, &addresses, PROBE_PATIENCE))?? {
        Probed::Unique => Ok(()),
        Probed::Duplicate(address) => Err(Error::DuplicateAddress { ifname, address, bridge }),
        Probed::Unfinished(address) => {
            Err(Error::StillTentative { ifname, address, patience: PROBE_PATIENCE })
        }
    }
}

/// Tells everybody on the network which MAC has the container's addresses now, where the caller chose it: what they
/// remember is another container's. (Without a choice an address always has the same MAC.)
///
/// The kernel sends the announcements when a MAC is set, also to what it is (`arp_notify`, `ndisc_notify`).
pub fn announce(inside: &mut Netlink, plan: &Plan, record: &Record, container: u32) -> Result<(), Error> {
    let Some(mac) = plan.mac else { return Ok(()) };
    Ok(inside.send(&[Request::LinkMac { index: container, name: record.ifname.clone(), mac }])?)
}

/// Returns when the kernel takes packets for the container's addresses. It mostly does by now; on a busy host an
/// IPv6 address takes some milliseconds, and the first packet to it would be lost. Later than [`PATIENCE`] is no
/// failure: the address is there.
pub fn await_addresses(
    inside: &mut Netlink,
    plan: &Plan,
    container: &Netns,
    lease: &CniResult,
) -> Result<(), Error> {
    let v6 = lease.ips.iter().map(|ip| ip.address.ip()).filter(|ip| ip.is_ipv6() && plan.interface_up);
    for address in v6 {
        if !inside.is_local(address)? {
            container.run(|| netlink::await_local(address, PATIENCE))??;
        }
    }
    Ok(())
}

/// The routes of the container: a missing gateway is the first one of that family, unless the scope says that none
/// is wanted.
fn routes(plan: &Plan, lease: &CniResult, index: u32) -> Vec<Route> {
    let kernel = |route: cni::Route| Route {
        destination: route.dst,
        gateway: route.gw.or_else(|| plan.gateway_for(route.dst, lease).filter(|_| !is_on_link(route.scope))),
        index,
        source: None,
        scope: route.scope,
        table: route.table,
        priority: route.priority.or_else(|| rank(plan, route.dst, index)),
        mtu: route.mtu,
        advmss: route.advmss,
        onlink: false,
    };
    plan.routes(lease).into_iter().map(kernel).collect()
}

/// The metric of an IPv6 default route. Those of one metric share the traffic; the oldest attachment is to keep it, and
/// the younger the link, the higher its index.
fn rank(plan: &Plan, destination: IpNetwork, index: u32) -> Option<u32> {
    /// IP6_RT_PRIO_USER (linux/ipv6_route.h), which the kernel takes where none is given.
    const USUAL: u32 = 1024;
    let is_default = destination.is_ipv6() && destination.prefix() == 0;
    (plan.default_gateway && is_default).then_some(USUAL + index)
}

/// RT_SCOPE_LINK and narrower: the kernel takes no gateway with them.
fn is_on_link(scope: Option<u32>) -> bool {
    const LINK: u32 = 253;
    scope.is_some_and(|scope| scope >= LINK)
}

/// Deletes a link. It returns as soon as the link is gone from all lists; what the kernel still waits for is left to
/// a child, unless `RNET_SYNC=1` asks to wait too.
pub fn delete(host: &mut Host, index: u32) -> Result<(), Error> {
    let wait = std::env::var_os("RNET_SYNC").is_some_and(|value| value == "1");
    let firewall = host.part_with_firewall();
    let keep: Vec<_> = firewall.iter().map(AsFd::as_fd).collect();
    netlink::delete_link(index, &keep, wait)?;
    Ok(())
}

/// The host end of an attachment, if it is there and ours: its alias says so, or, where ADD did not come that
/// far, its record does.
pub fn find(host: &mut Host, record: &Record) -> Result<Option<Link>, Error> {
    let key = record.key();
    let name = record.link.clone().unwrap_or_else(|| key.link(0));
    let found = host.netlink.link(&name)?;
    Ok(found.filter(|link| match &link.alias {
        Some(alias) => alias == key.as_str(),
        None => record.link.is_some() && link.mac == Some(host_mac(record)),
    }))
}

fn set_sysctls(inside: &Netlink, plan: &Plan, ifname: &str, lease: &CniResult) -> Result<(), Error> {
    if plan.mac.is_some() {
        inside.set_sysctl(&format!("ipv4/conf/{ifname}/arp_notify"), "1")?;
    }
    let has_v6 = lease.ips.iter().any(|ip| ip.address.is_ipv6());
    if has_v6 {
        inside.set_sysctl("ipv6/conf/lo/disable_ipv6", "0")?;
        inside.set_sysctl(&format!("ipv6/conf/{ifname}/disable_ipv6"), "0")?;
        inside.set_sysctl(&format!("ipv6/conf/{ifname}/keep_addr_on_down"), "1")?;
        let detection = if plan.duplicate_detection { "1" } else { "0" };
        inside.set_sysctl(&format!("ipv6/conf/{ifname}/accept_dad"), detection)?;
        if plan.duplicate_detection {
            // Its own question that comes back, by a hairpin say, is no duplicate (RFC 7527).
            inside.set_sysctl(&format!("ipv6/conf/{ifname}/enhanced_dad"), "1")?;
        }
        if plan.mac.is_some() {
            inside.set_sysctl(&format!("ipv6/conf/{ifname}/ndisc_notify"), "1")?;
        }
    } else if plan.ipv4_only {
        // A kernel without IPv6 has no such key.
        inside.set_sysctl_if_there(&format!("ipv6/conf/{ifname}/disable_ipv6"), "1")?;
    }
    Ok(())
}
