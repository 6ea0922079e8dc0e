//! The life of an attachment: ADD, DEL, GC and STATUS, for any caller.

use std::net::IpAddr;

use netlink::{Link, Netlink, Netns};
use store::{Address, Lock, LockName, Mode, Record, Stage};

use crate::features::{self, FEATURES, publish as ports};
use crate::held::Held;
use crate::making::{Ends, Making};
use crate::register::Valid;
use crate::spec::{Addresses, Interface, Kept, Lease, Outcome, Spec};
use crate::{
    Error, Host, admission, drivers, failpoint, find, flows, lease, link, network, probe, register,
    unrecorded,
};

/// ADD: a second attachment is refused without harm to the first; a dead one is cleared away; whatever fails
/// is undone by DEL's own way. `container` is the container's namespace, where rnet has to do something inside.
///
/// # Errors
/// What failed, and what could not be undone.
pub fn add(spec: &Spec, container: Option<&Netns>) -> Result<Outcome, Error> {
    if let Addresses::From(leaser) = &spec.addresses {
        leaser.require()?;
    }
    add_by(&mut Host::open(format!("ADD {}", spec.id))?, spec, container)
}

/// The same for a caller that has looked at the host before.
///
/// # Errors
/// As for [`add`].
pub fn add_by(host: &mut Host, spec: &Spec, container: Option<&Netns>) -> Result<Outcome, Error> {
    host.require_descriptors()?;
    host.store.require_folders()?;
    let mut record = spec.record();
    let given = || Netns::open(&spec.netns).ok().map(|netns| register::namespace(&netns));
    record.netns = container.map(register::namespace).or_else(given).or(record.netns);
    let lock = host.lock(LockName::Attachment(record.key()), Mode::Exclusive)?;
    failpoint::pass("add.lock")?;
    clear_the_way(host, spec, &record)?;
    let mut making = Making { spec, container, record, lease: Lease::default(), has_news: false };
    let attached = attach(host, &mut making);
    let record = making.record;
    let result = attached.or_else(|error| {
        if let Some(second) = undo_second(host, spec, &record, &error)? {
            host.store.retire(lock)?;
            return Err(second);
        }
        let has_lease = has_lease(&record, &spec.addresses, &error);
        let addresses = if has_lease { &spec.addresses } else { &Addresses::None };
        host.hurry_after(&error);
        let undone = detach(host, addresses, &record, &[]);
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
    let driver = drivers::of(making.spec.plugin);
    write_intent(host, making)?;
    failpoint::pass("add.intent")?;

    making.lease = lease::lease(host, making.spec)?;
    record_lease(host, making)?;
    failpoint::pass("add.lease")?;

    let held = driver.hold(host, making)?;
    let ends = driver.make(host, making, &held)?;
    failpoint::pass("add.veth")?;

    // Before anything passes the interface: the container's guard is among the features.
    features::each(|feature| feature.admit(host, making))?;
    let ruleset = admission::admit(host, &mut making.record)?;

    driver.open(host, making, &held, &ends)?;
    failpoint::pass("add.port")?;

    let interfaces = driver.interfaces(making, &held);
    let (ruleset, held) = inside(host, making, &ends, (ruleset, held))?;

    making.record.stage = Stage::Committed;
    host.store.write_record(&making.record)?;
    drop(ruleset);
    failpoint::pass("add.commit")?;

    publish(host, &making.record, held)?;
    FEATURES.iter().for_each(|feature| feature.remember(host, making));
    failpoint::pass("add.names")?;

    let outcome = outcome(making, interfaces);
    failpoint::pass("add.reply")?;
    Ok(outcome)
}

/// Tells everybody outside of a committed attachment, or of one whose network was made whole.
pub(crate) fn publish(host: &mut Host, record: &Record, mut held: Held) -> Result<(), Error> {
    for feature in FEATURES {
        if let Some(change) = feature.publish(host, record, &held.network)? {
            held = network::change(host, held, change)?;
        }
    }
    Ok(())
}

/// What keeps a rebuild of the ruleset and the end of the network away.
type Locks = (Option<Lock>, Held);

/// What ADD does inside the container.
fn inside(host: &mut Host, making: &mut Making<'_>, ends: &Ends, mut locks: Locks) -> Result<Locks, Error> {
    let Some(container) = making.container else { return Ok(locks) };
    let mut inside = Netlink::inside(container)?;
    features::each(|feature| feature.prepare(host, &mut inside, making))?;
    drivers::of(making.spec.plugin).dress(host, &mut inside, making, ends)?;
    failpoint::pass("add.inside")?;

    link::notice_carrier(host, &mut inside, ends)?;
    if making.spec.duplicate_detection {
        locks = probe_addresses(host, making, container, &mut inside, ends, locks)?;
    }
    features::each(|feature| feature.announce(host, &mut inside, making))?;
    link::await_addresses(&mut inside, making.spec, container, &making.lease)?;
    Ok(locks)
}

/// Looks for duplicates of the container's addresses. That takes two seconds, which nobody should wait for, so the locks are let go.
/// The network stays, for it has a record by now; what a rebuild of the ruleset loses meanwhile comes back.
fn probe_addresses(
    host: &mut Host,
    making: &mut Making<'_>,
    container: &Netns,
    inside: &mut Netlink,
    ends: &Ends,
    locks: Locks,
) -> Result<Locks, Error> {
    drop(locks);
    link::probe(inside, making, container, ends)?;
    let held = drivers::of(making.spec.plugin).hold(host, making)?;
    Ok((admission::admit(host, &mut making.record)?, held))
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
    let (lock, found) = find::find(&mut host, &planned, kept, planned.proof.as_deref())?;
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
                remove_companions(&mut host, &found)?;
            }
            detach(&mut host, addresses, &found, &known)?;
        }
        None if find::rival(&mut host, &planned)?.is_some() => {
            lease::release(&host, addresses, &planned, &known)?;
        }
        None => {
            without_record(&mut host)?;
            let driver = drivers::of(spec.plugin);
            let left = driver.withdraw_lost(&mut host, spec, kept.outcome.as_ref(), planned)?;
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
    let link = drivers::of(&record.plugin).silence(host, record)?;
    let mut failures = Vec::new();
    failures.extend(admission::dismiss(host, record).err());
    failures.extend(features::all(|feature| feature.dismiss(host, record)).err());
    failures.extend(remove_link(host, link).err());
    flows::forget_later(host);
    Error::all(failures)?;
    features::each(|feature| feature.release(host, record))?;
    lease::release(host, addresses, record, known)?;
    host.store.remove_record(&record.network, &record.plugin, &record.key())?;
    failpoint::pass("del.record")?;
    if host.store.has_records(&record.network, &record.plugin)? {
        return Ok(());
    }
    network::retire(host, &record.network, &record.plugin)
}

/// What else is on record of an attachment whose network was renamed: the plugins that made those records alone may not know it.
/// Under the attachment's lock.
fn remove_companions(host: &mut Host, attachment: &Record) -> Result<(), Error> {
    for network in host.store.networks()? {
        let is_companion = network.name == attachment.network && network.plugin != attachment.plugin;
        if is_companion
            && let Some(record) = host.store.record(&network.name, &network.plugin, &attachment.key())?
            && !record.container.is_empty()
        {
            detach(host, &Addresses::None, &record, &[])?;
        }
    }
    Ok(())
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
    failures.extend(lease::gc(&host, spec, valid).err());
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
    drivers::of(spec.plugin).require(&mut host, spec)?;
    if spec.masquerade || spec.isolated || spec.guarded || spec.mac_checked {
        host.require_rules().map_err(|error| worse_if_used(&host, spec, error))?;
        host.require_flows()?;
    }
    lease::status(&host, spec)?;
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

/// The undo of a second ADD: what it has itself, and nothing of the attachment that lives. `None` if it is not such a one.
fn undo_second(host: &mut Host, spec: &Spec, record: &Record, error: &Error) -> Result<Option<Error>, Error> {
    if !error.is_second() || unrecorded::port(host, record)?.is_none() {
        return Ok(None);
    }
    features::each(|feature| feature.release(host, record))?;
    // This error comes from making the link: the second ADD has leased an address of its own before.
    if matches!(error, Error::AlreadyAttached { .. }) {
        lease::release(host, &spec.addresses, record, &[])?;
    }
    host.store.remove_record(&record.network, &record.plugin, &record.key())?;
    Ok(Some(register::already_attached_unrecorded(record)))
}

/// The first failure, with what could not be undone added to it.
fn with_undo(error: Error, undone: Result<(), Error>) -> Error {
    match undone {
        Ok(()) => error,
        Err(left) => Error::Several { first: Box::new(error), rest: vec![left] },
    }
}

/// Refuses a second attachment; removes what a dead ADD or a dead container left under the same name.
fn clear_the_way(host: &mut Host, spec: &Spec, planned: &Record) -> Result<(), Error> {
    let Some(found) = find::record(host, planned)? else {
        let rival = find::rival(host, planned)?;
        return rival.map_or(Ok(()), |rival| Err(register::already_attached(rival)));
    };
    let driver = drivers::of(spec.plugin);
    if driver.refuses_second() && found.stage == Stage::Committed && register::is_alive(host, &found)? {
        return Err(register::already_attached(found));
    }
    detach(host, &spec.addresses, &found, &[])
}

/// What was given is not made: of that, the driver writes down what it finds.
fn write_intent(host: &Host, making: &Making<'_>) -> Result<(), Error> {
    if making.spec.makes_link() { Ok(host.store.write_record(&making.record)?) } else { Ok(()) }
}

/// Writes down all that will be made, before it is made.
fn record_lease(host: &mut Host, making: &mut Making<'_>) -> Result<(), Error> {
    let Making { spec, record, lease, .. } = making;
    record.mac = spec.makes_link().then(|| store::Mac(spec.container_mac(lease, &record.key()).0));
    record.addresses = lease.addresses.clone();
    record.ports = ports::resolve(&spec.ports, &lease.addresses)?;
    record.leases = lease::own_folder(host, &spec.addresses, record);
    write_intent(host, making)?;
    features::each(|feature| feature.claim(host, making))
}

/// Every address belongs to the container.
fn outcome(making: &Making<'_>, interfaces: Vec<Interface>) -> Outcome {
    let Making { spec, lease, .. } = making;
    let (routes, resolver) = (spec.routes(lease), spec.resolver(lease));
    let address = |found: &Address| Address { gateway: spec.gateway_of(found), ..found.clone() };
    let addresses = lease.addresses.iter().map(address).collect();
    Outcome { interfaces, lease: Lease { addresses, routes, resolver } }
}

fn remove_link(host: &mut Host, link: Option<Link>) -> Result<(), Error> {
    if let Some(link) = link {
        link::delete(host, link.index)?;
    }
    failpoint::pass("del.veth")
}

fn collect(host: &mut Host, spec: &Spec, record: &Record, valid: &Valid) -> Result<(), Error> {
    let lock = host.lock(LockName::Attachment(record.key()), Mode::Exclusive)?;
    let Some(record) = find::record(host, record)? else { return Ok(()) };
    if register::is_to_stay(host, &record, valid)? {
        return Ok(());
    }
    detach(host, &spec.addresses, &record, &[])?;
    register::tell_removed(&record);
    Ok(host.store.retire(lock)?)
}
