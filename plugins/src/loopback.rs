//! The plugin `loopback`: `lo` comes up.

use cni::{CniResult, Interface, Ip, Request};
use netlink::Netlink;

use crate::verbs::Verbs;
use crate::{Error, call};

/// The index that `lo` has in every network namespace.
const LO: u32 = 1;

/// The verbs of this plugin.
pub const VERBS: Verbs = Verbs { add, del, check, status, gc };

fn add(request: &Request<'_>) -> Result<CniResult, Error> {
    let mut inside = inside(request)?;
    inside.send(&[netlink::Request::LinkUp { index: LO, name: "lo".into() }])?;
    let ips = addresses(&mut inside)?;
    if let Some(previous) = request.config.prev_result()? {
        return Ok(previous);
    }
    let lo = Interface {
        name: "lo".into(),
        mac: Some("00:00:00:00:00:00".into()),
        sandbox: Some(request.call.netns.clone()),
        ..Interface::default()
    };
    Ok(CniResult { interfaces: vec![lo], ips, ..CniResult::default() })
}

/// Without a namespace there is nothing to take down.
fn del(request: &Request<'_>) -> Result<(), Error> {
    let mut inside = match inside(request) {
        Err(Error::Engine(engine::Error::Netlink(_))) => return Ok(()),
        other => other?,
    };
    Ok(inside.send(&[netlink::Request::LinkDown { index: LO, name: "lo".into() }])?)
}

fn check(request: &Request<'_>) -> Result<(), Error> {
    match inside(request)?.link_by_index(LO)? {
        Some(lo) if lo.up => Ok(()),
        _ => Err(Error::LoopbackDown),
    }
}

/// Nothing is kept between calls.
fn gc(_: &Request<'_>) -> Result<(), Error> {
    Ok(())
}

/// Every namespace has `lo`.
fn status(_: &Request<'_>) -> Result<(), Error> {
    Ok(())
}

fn inside(request: &Request<'_>) -> Result<Netlink, Error> {
    Ok(Netlink::inside(&call::container(request)?)?)
}

/// The first IPv4 and the first IPv6 address of `lo`, none of which may be another's.
fn addresses(inside: &mut Netlink) -> Result<Vec<Ip>, Error> {
    let found = inside.addresses(Some(LO))?;
    if let Some(other) = found.iter().find(|found| !found.address.ip().is_loopback()) {
        return Err(foreign(other));
    }
    let v4 = found.iter().find(|found| found.address.is_ipv4());
    let v6 = found.iter().find(|found| found.address.is_ipv6());
    let ip = |found: &netlink::Address| Ip { address: found.address, gateway: None, interface: Some(0) };
    Ok(v4.into_iter().chain(v6).map(ip).collect())
}

fn foreign(found: &netlink::Address) -> Error {
    Error::LoopbackAddress(found.address.ip().to_string())
}
