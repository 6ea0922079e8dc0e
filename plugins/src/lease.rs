//! Addresses from whoever leases them: rnet itself, our own host-local in this process, or another plugin.

use std::borrow::Cow;
use std::path::PathBuf;

use cni::{CniResult, Config, Plugin, Request, Verb, delegate};
use store::Record;

use crate::error::Fault;
use crate::host_local::{HostLocal, Pool};
use crate::plan::{Ipam, Plan};
use crate::{Error, Host, failpoint, sticky};

/// Who carries out what an IPAM plugin is asked for.
pub enum Delegate {
    /// This program, in this process.
    Here(&'static dyn Plugin),
    /// The program at this path.
    Program(PathBuf),
}

/// What ADD looks at before it makes anything: somebody can lease addresses, and a network without any can be told of.
/// Returns the IPAM plugin, if it is not rnet itself.
pub fn require(ipam: &Ipam, request: &Request<'_>) -> Result<Option<Delegate>, Error> {
    match ipam {
        Ipam::None => {
            CniResult::default().to_json(request.config.cni_version).map(|_| None).map_err(Error::Cni)
        }
        Ipam::Own => Ok(None),
        Ipam::Delegate(name) => find(name, request).map(Some),
    }
}

/// ADD of the IPAM plugin. No lock of the network is held: a foreign one may take seconds.
pub fn add(
    host: &Host,
    plan: &Plan,
    request: &Request<'_>,
    delegate: Option<&Delegate>,
) -> Result<CniResult, Error> {
    let lease = match (&plan.ipam, delegate) {
        (Ipam::Own, _) => {
            let before = sticky::remembered(host, plan, &request.call.ifname);
            Pool::own(host, request)?.preferring(before).lease(request)?
        }
        (_, Some(delegate)) => delegate.call(Verb::Add, request)?.unwrap_or_default(),
        (_, None) => return Ok(CniResult::default()),
    };
    if lease.ips.is_empty() {
        return Err(Error::NoAddress);
    }
    Ok(lease)
}

/// DEL of whoever leased the addresses: rnet itself, as far as the record says or the configuration, and the IPAM
/// plugin, which is told the network's name at ADD.
pub fn del(host: &Host, ipam: &Ipam, request: &Request<'_>, record: &Record) -> Result<(), Error> {
    if let Some(folder) = record.leases.clone().or_else(|| folder(host, ipam, record)) {
        host.store.require_folders()?;
        let known: Vec<_> = record.addresses.iter().map(|address| address.address.ip()).collect();
        Pool::own_in(host, &folder)?.release_known(request, &known)?;
    }
    if let Ipam::Delegate(name) = ipam {
        let config = called(request.config, &record.network);
        call(name, Verb::Del, &Request { config: &config, ..*request })?;
    }
    failpoint::pass("del.lease")
}

/// CHECK of the IPAM plugin.
pub fn check(host: &Host, plan: &Plan, request: &Request<'_>) -> Result<(), Error> {
    match &plan.ipam {
        Ipam::None => Ok(()),
        Ipam::Own => own(host, request)?.check(request),
        Ipam::Delegate(name) => call(name, Verb::Check, request).map(drop),
    }
}

/// STATUS of the IPAM plugin.
pub fn status(host: &Host, plan: &Plan, request: &Request<'_>) -> Result<(), Error> {
    match &plan.ipam {
        Ipam::None => Ok(()),
        Ipam::Own => own(host, request)?.status(request),
        Ipam::Delegate(name) => call(name, Verb::Status, request).map(drop),
    }
}

/// GC of the IPAM plugin.
pub fn gc(host: &Host, plan: &Plan, request: &Request<'_>) -> Result<(), Error> {
    match &plan.ipam {
        Ipam::None => Ok(()),
        Ipam::Own => own(host, request)?.gc(request),
        Ipam::Delegate(name) => call(name, Verb::Gc, request).map(drop),
    }
}

/// The folder of leases, where they are our own.
pub fn folder(host: &Host, ipam: &Ipam, record: &Record) -> Option<PathBuf> {
    (*ipam == Ipam::Own).then(|| host.store.leases(&record.network))
}

/// Our own leases, in a folder that is ours.
fn own(host: &Host, request: &Request<'_>) -> Result<Pool, Error> {
    host.store.require_folders()?;
    Pool::own(host, request)
}

fn call(name: &str, verb: Verb, request: &Request<'_>) -> Result<Option<CniResult>, Error> {
    find(name, request)?.call(verb, request)
}

impl Delegate {
    /// In this process if CNI_PATH led to this very program, else by executing it.
    fn call(&self, verb: Verb, request: &Request<'_>) -> Result<Option<CniResult>, Error> {
        let program = match self {
            Delegate::Here(plugin) => return Ok(crate::run(*plugin, verb, request)?),
            Delegate::Program(program) => program,
        };
        let config = &request.config.raw;
        let Some(reply) = delegate::exec(program, request.call, verb, config)? else { return Ok(None) };
        // It may answer in another version than it was asked in.
        Ok(Some(CniResult::parse_any(&reply, request.config.cni_version)?))
    }
}

/// An IPAM plugin of that name in CNI_PATH. Any other plugin of ours would wait for the locks that its caller holds.
fn find(name: &str, request: &Request<'_>) -> Result<Delegate, Error> {
    if request.call.own_delegates && name == "host-local" {
        return Ok(Delegate::Here(&HostLocal));
    }
    let program = delegate::find(name, &request.call.path)?;
    match crate::named_by(name).filter(|_| delegate::is_this_program(&program)) {
        None => Ok(Delegate::Program(program)),
        Some("host-local") => Ok(Delegate::Here(&HostLocal)),
        Some(_) => Err(Error::Config(Fault::NotIpam(name.to_owned()))),
    }
}

/// The configuration of a network as it was when that had another name.
fn called<'a>(config: &'a Config, name: &str) -> Cow<'a, Config> {
    if config.name == name {
        return Cow::Borrowed(config);
    }
    let mut renamed = config.clone();
    renamed.name = name.to_owned();
    if let Some(members) = renamed.raw.as_object_mut() {
        members.retain(|key, _| !key.eq_ignore_ascii_case("name"));
        members.insert("name".into(), name.into());
    }
    Cow::Owned(renamed)
}
