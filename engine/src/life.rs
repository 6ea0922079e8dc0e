//! The life of an attachment: ADD, DEL, GC and STATUS, whoever asks for them.

use std::net::IpAddr;
use std::path::PathBuf;

use netlink::{Link, Mac, Netlink, Netns, VethPair};
use store::{Address, Lock, LockName, Mode, Record, Stage};

use crate::features::{self, Making, publish, sticky};
use crate::network::Held;
use crate::pool::Pool;
use crate::register::Valid;
use crate::spec::{Addresses, Interface, Kept, Lease, Outcome, Spec};
use crate::{
    Error, Host, chained, elements, failpoint, flows, link, lost, network, port, probe, register, renamed,
};

/// ADD: a second attachment is refused without harm to the first; a dead one is cleared away; whatever fails
/// is undone by DEL's own way. `container` is the container's namespace.
///
/// # Errors
/// What failed, and what could not be undone.
pub fn add(spec: &Spec, container: &Netns) -> Result<Outcome, Error> {
    if let Addresses::From(leaser) = &spec.addresses {
        leaser.require()?;
    }
    let mut host = Host::open(format!("ADD {}", spec.id))?;
    host.require_descriptors()?;
    host.store.require_folders()?;
    let netns = Some(register::namespace(container));
    let record = Record { netns, ..spec.record() };
    let lock = host.lock(LockName::Attachment(record.key()), Mode::Exclusive)?;
    failpoint::pass("add.lock")?;
    clear_the_way(&mut host, spec, &record)?;
    let mut making = Making { spec, container, record, lease: Lease::default(), has_news: false };
    let attached = attach(&mut host, &mut making);
    let record = making.record;
    let result = attached.or_else(|error| {
        if let Some(second) = lost::undo(&mut host, spec, &record, &error)? {
            host.store.retire(lock)?;
            return Err(second);
        }
        let has_lease = has_lease(&record, &spec.addresses, &error);
        let addresses = if has_lease { &spec.addresses } else { &Addresses::None };
        host.hurry_after(&error);
        let undone = detach(&mut host, addresses, &record, &[]);
        host.store.retire(lock)?;
        Err(with_undo(error, undone))
    });
    host.close();
    result
}

/// False if an ADD could not even have the lock of the leases, or open their folder: its undo need not try that again. Another
/// program is told of every failure (CNI specification, section 4).
fn has_lease(record: &Record, addresses: &Addresses, error: &Error) -> bool {
    let had_none = error.is_busy() || error.is_about_a_link();
    let is_foreign = matches!(addresses, Addresses::From(leaser) if leaser.is_foreign());
    !had_none || !record.addresses.is_empty() || is_foreign
}

/// What ADD does, in the order in which it happens.
fn attach(host: &mut Host, making: &mut Making<'_>) -> Result<Outcome, Error> {
    let spec = making.spec;
    host.store.write_record(&making.record)?;
    failpoint::pass("add.intent")?;

    making.lease = lease_addresses(host, spec)?;
    record_lease(host, making)?;
    failpoint::pass("add.lease")?;

    let (bridge, network) = network::hold(host, spec, &making.lease)?;
    let pair = link::create(host, spec, &mut making.record, &bridge, making.container)?;
    failpoint::pass("add.veth")?;

    // Before its port comes up, and the container can send: its guard is among them.
    features::each(|feature| feature.admit(host, making))?;
    let ruleset = elements::admit(host, &mut making.record)?;

    set_port(host, spec, &making.record, &bridge, &pair)?;
    failpoint::pass("add.port")?;

    let mut inside = Netlink::inside(making.container)?;
    features::each(|feature| feature.prepare(host, &mut inside, making))?;
    link::dress(host, &mut inside, making, pair.container)?;
    failpoint::pass("add.inside")?;

    link::notice_carrier(host, &mut inside, &pair)?;
    let (ruleset, network) = match spec.duplicate_detection {
        true => probe_addresses(host, making, &mut inside, &pair, (ruleset, network))?,
        false => (ruleset, network),
    };
    features::each(|feature| feature.announce(host, &mut inside, making))?;
    link::await_addresses(&mut inside, spec, making.container, &making.lease)?;
    making.record.stage = Stage::Committed;
    host.store.write_record(&making.record)?;
    drop(ruleset);
    failpoint::pass("add.commit")?;

    features::each_with(Some(network), |feature, held| feature.publish(host, making, held))?;
    failpoint::pass("add.names")?;

    let outcome = outcome(making, &bridge);
    failpoint::pass("add.reply")?;
    Ok(outcome)
}

/// Looks for duplicates of the container's addresses. That takes two seconds, which nobody should wait for, so the locks are let go.
/// The network stays, for it has a record by now; what a rebuild of the ruleset loses meanwhile comes back.
fn probe_addresses(
    host: &mut Host,
    making: &mut Making<'_>,
    inside: &mut Netlink,
    pair: &VethPair,
    locks: (Option<Lock>, Held),
) -> Result<(Option<Lock>, Held), Error> {
    drop(locks);
    link::probe(inside, making, pair.container)?;
    let (_, network) = network::hold(host, making.spec, &making.lease)?;
    Ok((elements::admit(host, &mut making.record)?, network))
}

/// DEL: by the record and by names derived from the call, whatever is left of the container. Repeating it succeeds.
/// `without_record` is done where no record is found: others may have made the attachment.
///
/// # Errors
/// What could not be removed. The record stays, and DEL can be repeated.
pub fn del(
    spec: &Spec,
    kept: &Kept,
    without_record: impl FnOnce(&mut Host) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut host = Host::open(format!("DEL {}", spec.id))?;
    let planned = spec.record();
    let (lock, found) = renamed::find(&mut host, &planned, kept, planned.proof.as_deref())?;
    // Without a record there is nothing that a leaser which ADD would refuse could have leased.
    let can_release = match &spec.addresses {
        Addresses::From(leaser) => found.is_some() || leaser.require().is_ok(),
        _ => true,
    };
    let addresses = if can_release { &spec.addresses } else { &Addresses::None };
    let known = kept.ips();
    match found {
        Some(found) => {
            if found.network != planned.network {
                chained::remove_all(&mut host, &found)?;
            }
            detach(&mut host, addresses, &found, &known)?;
        }
        None if register::rival(&mut host, &planned)?.is_some() => {
            release_lease(&host, addresses, &planned, &known)?;
        }
        None => {
            without_record(&mut host)?;
            let left = lost::withdraw(&mut host, spec, kept.outcome.as_ref(), planned)?;
            detach(&mut host, addresses, &left, &known)?;
        }
    }
    host.store.retire(lock)?;
    host.close();
    Ok(())
}

/// Removes everything of an attachment, going on after a failure. The record goes last, and only when nothing
/// failed: as long as it is there, DEL can be repeated. The lease goes after all that still leads to its address; `known` are
/// addresses that the caller says it has.
fn detach(host: &mut Host, addresses: &Addresses, record: &Record, known: &[IpAddr]) -> Result<(), Error> {
    features::withdraw(host, record);
    failpoint::pass("del.names")?;
    // First, and without going on: the container may be alive, and its guard is among the rules.
    let link = silence(host, record)?;
    let mut failures = Vec::new();
    failures.extend(elements::dismiss(host, record).err());
    failures.extend(features::all(|feature| feature.dismiss(host, record)).err());
    failures.extend(remove_link(host, link).err());
    flows::forget_later(host);
    Error::all(failures)?;
    features::each(|feature| feature.release(host, record))?;
    release_lease(host, addresses, record, known)?;
    host.store.remove_record(&record.network, &record.plugin, &record.key())?;
    failpoint::pass("del.record")?;
    if host.store.has_records(&record.network, &record.plugin)? {
        return Ok(());
    }
    network::retire(host, &record.network, &record.plugin)
}

/// GC: removes every attachment of this network that is not among the valid ones. Without a list, only what is
/// provably dead goes. Goes on after failures and reports them together.
///
/// # Errors
/// What could not be removed.
pub fn gc(spec: &Spec, valid: &Valid) -> Result<(), Error> {
    let network = &spec.id.network;
    let mut host = Host::open(format!("GC {network}"))?;
    let mut failures = Vec::new();
    for record in register::of_network(&host, spec.plugin, network)? {
        failures.extend(collect(&mut host, spec, &record, valid).err());
    }
    failures.extend(collect_leases(&host, spec, valid).err());
    failures.extend(host.store.sweep().map_err(Error::from).err());
    if !host.store.has_records(network, spec.plugin)? {
        failures.extend(network::retire(&mut host, network, spec.plugin).err());
    }
    host.close();
    Error::all(failures)
}

/// STATUS: succeeds only if an ADD would work now.
///
/// # Errors
/// What an ADD would fail of, or what containers that are attached suffer from.
pub fn status(spec: &Spec) -> Result<(), Error> {
    let mut host = Host::ready(format!("STATUS {}", spec.id.network))?;
    if let Some(link) = host.netlink.link(&spec.bridge)?
        && link.kind.as_deref() != Some("bridge")
    {
        return Err(Error::not_ready(Error::NotABridge { name: spec.bridge.clone() }));
    }
    host.require_links()?;
    if spec.masquerade || spec.isolated || spec.guarded || spec.mac_checked {
        host.require_rules().map_err(|error| worse_if_used(&host, spec, error))?;
        host.require_flows()?;
    }
    can_lease(&host, spec)?;
    // What cannot be found out is no reason to take no containers.
    let stopped = probe::look(&mut host).unwrap_or_default();
    match stopped.into_iter().find(|told| told.network == spec.id.network) {
        Some(told) => Err(Error::Stopped { text: told.text, hint: told.hints.join("; ") }),
        None => Ok(()),
    }
}

/// Without the ruleset, what those who are attached need of it cannot be restored, nor removed.
fn worse_if_used(host: &Host, spec: &Spec, error: Error) -> Error {
    match host.store.has_records(&spec.id.network, spec.plugin) {
        Ok(true) => Error::Impaired { what: error.to_string() },
        _ => error,
    }
}

/// The first failure, with what could not be undone added to it.
pub(crate) fn with_undo(error: Error, undone: Result<(), Error>) -> Error {
    match undone {
        Ok(()) => error,
        Err(left) => Error::Several { first: Box::new(error), rest: vec![left] },
    }
}

/// Refuses a second attachment; removes what a dead ADD or a dead container left under the same name.
fn clear_the_way(host: &mut Host, spec: &Spec, planned: &Record) -> Result<(), Error> {
    let Some(found) = register::known(host, planned)? else {
        let rival = register::rival(host, planned)?;
        return rival.map_or(Ok(()), |rival| Err(register::already_attached(rival)));
    };
    if found.stage == Stage::Committed && register::is_alive(host, &found)? {
        return Err(register::already_attached(found));
    }
    detach(host, &spec.addresses, &found, &[])
}

/// The lease of an attachment. No lock of the network is held: another program may take seconds.
fn lease_addresses(host: &Host, spec: &Spec) -> Result<Lease, Error> {
    let lease = match &spec.addresses {
        Addresses::None => return Ok(Lease::default()),
        Addresses::Own(ranges) => {
            let pool = Pool::own(host, &spec.id.network, &spec.bridge)?;
            pool.preferring(sticky::remembered(host, spec)).lease(ranges, &spec.id, &spec.netns)?
        }
        Addresses::From(leaser) => leaser.lease()?,
    };
    if lease.addresses.is_empty() { Err(Error::NoAddress) } else { Ok(lease) }
}

/// Releases what rnet itself has leased, as far as the record or the configuration says so, and what a leaser has, which knows the
/// network by the name that it had at ADD.
pub(crate) fn release_lease(
    host: &Host,
    addresses: &Addresses,
    record: &Record,
    known: &[IpAddr],
) -> Result<(), Error> {
    let own = record.leases.clone().or_else(|| own_leases(host, addresses, record));
    if let Some(folder) = own {
        host.store.require_folders()?;
        let recorded = record.addresses.iter().map(|address| address.address.ip());
        let known: Vec<_> = known.iter().copied().chain(recorded).collect();
        Pool::own_in(host, &folder)?.release(&record.id(), &known)?;
    }
    if let Addresses::From(leaser) = addresses {
        leaser.release(&record.id())?;
    }
    failpoint::pass("del.lease")
}

/// The folder of a network's leases, where they are rnet's own.
fn own_leases(host: &Host, addresses: &Addresses, record: &Record) -> Option<PathBuf> {
    matches!(addresses, Addresses::Own(_)).then(|| host.store.leases(&record.network))
}

fn can_lease(host: &Host, spec: &Spec) -> Result<(), Error> {
    match &spec.addresses {
        Addresses::None => Ok(()),
        Addresses::Own(ranges) => own_pool(host, spec)?.status(&ranges.sets),
        Addresses::From(leaser) => leaser.status(),
    }
}

fn collect_leases(host: &Host, spec: &Spec, valid: &Valid) -> Result<(), Error> {
    match &spec.addresses {
        Addresses::None => Ok(()),
        Addresses::Own(_) => own_pool(host, spec)?.gc(valid),
        Addresses::From(leaser) => leaser.gc(),
    }
}

/// rnet's own leases, in a folder that is rnet's.
pub(crate) fn own_pool(host: &Host, spec: &Spec) -> Result<Pool, Error> {
    host.store.require_folders()?;
    Pool::own(host, &spec.id.network, &spec.bridge)
}

/// Writes down all that will be made, before it is made.
fn record_lease(host: &mut Host, making: &mut Making<'_>) -> Result<(), Error> {
    let Making { spec, record, lease, .. } = making;
    record.mac = Some(store::Mac(spec.container_mac(lease, &record.key()).0));
    record.addresses = lease.addresses.clone();
    record.ports = publish::resolve(&spec.ports, &lease.addresses)?;
    record.leases = own_leases(host, &spec.addresses, record);
    host.store.write_record(record)?;
    features::each(|feature| feature.claim(host, making))
}

/// The host end's flags, its owner's name, and the bridge's knowledge of who has the address now; then it comes up.
fn set_port(
    host: &mut Host,
    spec: &Spec,
    record: &Record,
    bridge: &Link,
    pair: &VethPair,
) -> Result<(), Error> {
    let name = record.link.clone().unwrap_or_default();
    let index = pair.host;
    if !record.guarded {
        // A guarded port's advertisements are dropped by the ruleset, whatever MAC they go to.
        link::refuse_advertisements(host, &name)?;
    }
    let mut requests = vec![
        netlink::Request::LinkAlias { index, name: name.clone(), alias: record.key().to_string() },
        netlink::Request::LinkNoAutoAddress { index, name: name.clone() },
    ];
    requests.extend(port::flags(record, index, &name));
    requests.extend(neighbours(spec, record, bridge.index));
    requests.push(netlink::Request::LinkUp { index, name });
    Ok(host.netlink.send(&requests)?)
}

/// The bridge's knowledge of who has the addresses now.
fn neighbours(spec: &Spec, record: &Record, index: u32) -> Vec<netlink::Request> {
    let mac = record.mac.filter(|_| spec.gateway).map(|mac| Mac(mac.0));
    let addresses = record.addresses.iter().map(|address| address.address.ip());
    let Some(mac) = mac else { return Vec::new() };
    addresses.map(|address| netlink::Request::NeighbourReplace { index, address, mac }).collect()
}

/// Makes a living attachment's host end a port of its bridge again, with the flags of a new one and no others. It is dormant
/// until they are there, as a new port is down.
pub fn rejoin(
    host: &mut Host,
    spec: &Spec,
    record: &Record,
    bridge: &Link,
    link: &Link,
) -> Result<(), Error> {
    use netlink::Request::{LinkAwake, LinkDormant, LinkMaster, LinkUp};
    let (index, name) = (link.index, link.name.clone());
    let mut requests = vec![LinkDormant { index, name: name.clone() }];
    if link.master.is_some() {
        requests.push(LinkMaster { index, name: name.clone(), master: None });
    }
    requests.push(LinkMaster { index, name: name.clone(), master: Some(bridge.index) });
    requests.extend(port::flags(record, index, &name));
    requests.extend(neighbours(spec, record, bridge.index));
    requests.push(LinkAwake { index, name: name.clone() });
    requests.push(LinkUp { index, name });
    Ok(host.netlink.send(&requests)?)
}

/// Lets nothing more come from a container's port, if it is there, and the bridge forget who it was. Its carrier is the
/// container's to take and to give, so it is not enough that the port does not forward now.
pub fn silence(host: &mut Host, record: &Record) -> Result<Option<Link>, Error> {
    let Some(link) = link::find(host, record)? else { return Ok(None) };
    let mut requests = Vec::new();
    if record.guarded || record.mac_checked {
        requests.push(netlink::Request::LinkDormant { index: link.index, name: link.name.clone() });
    }
    if let Some(index) = link.master {
        let addresses = record.addresses.iter().map(|address| address.address.ip());
        requests.extend(addresses.map(|address| netlink::Request::NeighbourDel { index, address }));
    }
    host.netlink.send(&requests)?;
    Ok(Some(link))
}

fn remove_link(host: &mut Host, link: Option<Link>) -> Result<(), Error> {
    if let Some(link) = link {
        link::delete(host, link.index)?;
    }
    failpoint::pass("del.veth")
}

/// Bridge, host end, container; every address belongs to the container.
fn outcome(making: &Making<'_>, bridge: &Link) -> Outcome {
    let Making { spec, record, lease, .. } = making;
    let netns = record.netns.as_ref().map(|netns| netns.path.to_string_lossy().into_owned());
    let interface = |name: &str, mac: Option<Mac>, netns| Interface {
        name: name.to_owned(),
        mac: mac.map(|mac| mac.to_string()),
        netns,
    };
    let interfaces = vec![
        interface(&spec.bridge, bridge.mac, None),
        interface(record.link.as_deref().unwrap_or_default(), Some(link::host_mac(record)), None),
        interface(&record.ifname, record.mac.map(|mac| Mac(mac.0)), netns),
    ];
    let (routes, resolver) = (spec.routes(lease), spec.resolver(lease));
    let address = |found: &Address| Address { gateway: spec.gateway_of(found), ..found.clone() };
    let addresses = lease.addresses.iter().map(address).collect();
    Outcome { interfaces, lease: Lease { addresses, routes, resolver } }
}

fn collect(host: &mut Host, spec: &Spec, record: &Record, valid: &Valid) -> Result<(), Error> {
    let lock = host.lock(LockName::Attachment(record.key()), Mode::Exclusive)?;
    let Some(record) = register::known(host, record)? else { return Ok(()) };
    if register::is_to_stay(host, &record, valid)? {
        return Ok(());
    }
    detach(host, &spec.addresses, &record, &[])?;
    register::tell_removed(&record);
    Ok(host.store.retire(lock)?)
}
