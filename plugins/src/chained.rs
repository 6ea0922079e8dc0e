//! What plugins have in common that follow another in a list: they keep a record beside the first one's, and make
//! nothing that could not be told from it.

use std::path::PathBuf;

use cni::{Args, CniResult, Request};
use store::{Address, LockName, Mode, Namespace, Record};

use crate::{Error, Host, attach, failpoint, firewall, former, names, network, renamed};

/// The plugins of this kind.
const PLUGINS: [&str; 2] = ["portmap", "dnsname"];

/// Opens the host for a call.
pub fn open(verb: &str, request: &Request<'_>) -> Result<Host, Error> {
    Host::open(attach::what(verb, request.call))
}

/// The record that `plugin` keeps, before anything is known but whose it is.
pub fn bare_record(plugin: &str, request: &Request<'_>) -> Record {
    Record {
        plugin: plugin.into(),
        network: request.config.name.clone(),
        container: request.call.container_id.clone(),
        ifname: request.call.ifname.clone(),
        ..Record::default()
    }
}

/// The same with what the call and the plugins before this one tell of the container.
pub fn record(plugin: &str, request: &Request<'_>, previous: &CniResult) -> Record {
    let ips = container_addresses(previous, &request.call.ifname);
    let netns = PathBuf::from(&request.call.netns);
    let identity = netlink::Netns::open(&netns).map(|netns| attach::namespace(&netns));
    Record {
        // portmap parses no CNI_ARGS, and dnsname has done so: what cannot be read is no fault here.
        name: Args::parse(&request.call.args, &[])
            .ok()
            .and_then(|args| args.k8s_pod_name().map(str::to_owned)),
        netns: Some(identity.unwrap_or(Namespace { path: netns, dev: 0, ino: 0 })),
        proof: Some(renamed::proof_by_result(previous)),
        addresses: ips.iter().map(|ip| Address { address: ip.address, gateway: ip.gateway }).collect(),
        ..bare_record(plugin, request)
    }
}

/// The addresses on the container's interface, or on none in particular.
pub fn container_addresses(previous: &CniResult, ifname: &str) -> Vec<cni::Ip> {
    let is_the_containers =
        |ip: &&cni::Ip| match ip.interface.and_then(|index| previous.interfaces.get(index)) {
            Some(interface) => interface.name == ifname && interface.sandbox.is_some(),
            None => true,
        };
    previous.ips.iter().filter(is_the_containers).cloned().collect()
}

/// ADD: `make` does what the record says; if it fails, all of it is undone.
pub fn add(
    host: &mut Host,
    record: &mut Record,
    make: impl FnOnce(&mut Host, &mut Record) -> Result<(), Error>,
) -> Result<(), Error> {
    host.require_descriptors()?;
    host.store.require_folders()?;
    let lock = host.lock(LockName::Attachment(record.key()), Mode::Exclusive)?;
    failpoint::pass("add.lock")?;
    if let Some(stale) = attach::known(host, record)? {
        remove(host, &stale)?;
    }
    let made = make(host, record).or_else(|error| {
        host.hurry_after(&error);
        let undone = remove(host, record);
        host.store.retire(lock)?;
        Err(attach::with_undo(error, undone))
    });
    host.close();
    made
}

/// DEL: by the record, and where there is none or it was lost, by what would be in it at least. Again is success.
/// `otherwise` is done where there is no record.
pub fn del(
    unknown: Record,
    request: &Request<'_>,
    otherwise: impl FnOnce(&mut Host, &Record) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut host = open("DEL", request)?;
    let (lock, found) = renamed::find(&mut host, &unknown, request, None)?;
    if found.is_none() {
        otherwise(&mut host, &unknown)?;
    }
    remove(&mut host, &found.unwrap_or(unknown))?;
    host.store.retire(lock)?;
    host.close();
    Ok(())
}

/// GC: removes every attachment of the network that is not among the valid ones. Goes on after failures.
pub fn gc(plugin: &str, request: &Request<'_>) -> Result<(), Error> {
    let network = &request.config.name;
    let mut host = Host::open(format!("GC {network}"))?;
    let valid = attach::Valid::of(request);
    let mut failures = Vec::new();
    for record in host.store.records()? {
        if record.plugin != plugin || &record.network != network {
            continue;
        }
        failures.extend(collect(&mut host, &record, &valid).err());
    }
    if !host.store.has_records(network, plugin)? {
        failures.extend(network::retire(&mut host, network, plugin).err());
    }
    host.close();
    Error::all(failures)
}

fn collect(host: &mut Host, record: &Record, valid: &attach::Valid) -> Result<(), Error> {
    let lock = host.lock(LockName::Attachment(record.key()), Mode::Exclusive)?;
    let Some(record) = attach::known(host, record)? else { return Ok(()) };
    if attach::is_to_stay(host, &record, valid)? {
        return Ok(());
    }
    remove(host, &record)?;
    attach::tell_removed(&record);
    Ok(host.store.retire(lock)?)
}

/// What the chained plugins of a list have put on an attachment whose network was renamed: alone they may not know it.
/// Under the attachment's lock.
pub fn remove_all(host: &mut Host, attachment: &Record) -> Result<(), Error> {
    for plugin in PLUGINS {
        let of_it = Record { plugin: plugin.into(), ..attachment.clone() };
        if let Some(record) = host.store.record(&of_it.network, plugin, &of_it.key())?
            && !record.container.is_empty()
        {
            remove(host, &record)?;
        }
    }
    Ok(())
}

fn remove(host: &mut Host, record: &Record) -> Result<(), Error> {
    names::withdraw(host, record);
    failpoint::pass("del.names")?;
    let dismissed = firewall::dismiss(host, record);
    former::forget_later(host);
    dismissed?;
    host.store.remove_record(&record.network, &record.plugin, &record.key())?;
    failpoint::pass("del.record")?;
    if host.store.has_records(&record.network, &record.plugin)? {
        return Ok(());
    }
    network::retire(host, &record.network, &record.plugin)
}
