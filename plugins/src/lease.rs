//! Addresses from whoever leases them: rnet itself, our own host-local in this process, or another plugin.

use std::path::PathBuf;

use cni::{CniResult, Request, Verb, delegate};

use crate::host_local::Pool;
use crate::plan::{Ipam, Plan};
use crate::{Error, Host, failpoint, sticky};

/// ADD of the IPAM plugin. No lock of the network is held: a foreign one may take seconds.
pub fn add(host: &Host, plan: &Plan, request: &Request<'_>) -> Result<CniResult, Error> {
    let lease = match &plan.ipam {
        Ipam::None => return Ok(CniResult::default()),
        Ipam::Own => {
            let before = sticky::remembered(host, plan, &request.call.ifname);
            Pool::own(host, request).preferring(before).lease(request)?
        }
        Ipam::Delegate(name) => call(name, Verb::Add, request)?.unwrap_or_default(),
    };
    if lease.ips.is_empty() {
        return Err(Error::NoAddress);
    }
    Ok(lease)
}

/// DEL of the IPAM plugin.
pub fn del(host: &Host, plan: &Plan, request: &Request<'_>) -> Result<(), Error> {
    match &plan.ipam {
        Ipam::None => {}
        Ipam::Own => Pool::own(host, request).release(request)?,
        Ipam::Delegate(name) => drop(call(name, Verb::Del, request)?),
    }
    failpoint::pass("del.lease")
}

/// CHECK of the IPAM plugin.
pub fn check(host: &Host, plan: &Plan, request: &Request<'_>) -> Result<(), Error> {
    match &plan.ipam {
        Ipam::None => Ok(()),
        Ipam::Own => Pool::own(host, request).check(request),
        Ipam::Delegate(name) => call(name, Verb::Check, request).map(drop),
    }
}

/// STATUS of the IPAM plugin.
pub fn status(host: &Host, plan: &Plan, request: &Request<'_>) -> Result<(), Error> {
    match &plan.ipam {
        Ipam::None => Ok(()),
        Ipam::Own => Pool::own(host, request).status(request),
        Ipam::Delegate(name) => call(name, Verb::Status, request).map(drop),
    }
}

/// GC of the IPAM plugin.
pub fn gc(host: &Host, plan: &Plan, request: &Request<'_>) -> Result<(), Error> {
    match &plan.ipam {
        Ipam::None => Ok(()),
        Ipam::Own => Pool::own(host, request).gc(request),
        Ipam::Delegate(name) => call(name, Verb::Gc, request).map(drop),
    }
}

/// The folder of leases, where they are our own.
pub fn folder(host: &Host, plan: &Plan) -> Option<PathBuf> {
    (plan.ipam == Ipam::Own).then(|| host.store.leases(&plan.network))
}

/// Calls an IPAM plugin: in this process if CNI_PATH leads to this very program, else by executing it.
fn call(name: &str, verb: Verb, request: &Request<'_>) -> Result<Option<CniResult>, Error> {
    let program = delegate::find(name, &request.call.path)?;
    if delegate::is_this_program(&program)
        && let Some(plugin) = crate::named_by(name).and_then(crate::find)
    {
        return Ok(crate::run(plugin, verb, request)?);
    }
    let config = &request.config.raw;
    let Some(reply) = delegate::exec(&program, request.call, verb, config)? else { return Ok(None) };
    // It may answer in another version than it was asked in.
    Ok(Some(CniResult::parse_any(&reply, request.config.cni_version)?))
}
