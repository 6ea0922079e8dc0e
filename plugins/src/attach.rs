//! The life of an attachment: ADD, DEL, CHECK, GC and STATUS of the plugins that make an interface.

use std::collections::HashSet;
use std::path::Path;

use cni::{Call, CniResult, Fault, Interface, Ip, Request};
use netlink::{Link, Mac, Netlink, Netns, VethPair};
use store::{Lock, LockName, Mode, Namespace, Record, Stage};

use crate::plan::{Ipam, Plan, addresses};
use crate::{
    Error, Host, chained, claims, failpoint, firewall, former, lease, link, living, lost, mac_check, macs,
    names, network, port, ports, probe, reference, renamed, sticky,
};

/// The plugins that make an interface and keep a record of it.
pub const INTERFACE_PLUGINS: [&str; 2] = ["rnet", "bridge"];

/// ADD: a second attachment is refused without harm to the first; a dead one is cleared away; whatever fails
/// is undone by the plugin's own DEL.
pub fn add(plan: &Plan, request: &Request<'_>) -> Result<CniResult, Error> {
    let container = container(request.call)?;
    let delegate = lease::require(&plan.ipam, request)?;
    let mut host = Host::open(what("ADD", request.call))?;
    host.require_descriptors()?;
    host.store.require_folders()?;
    let mut record = plan.record(request);
    record.netns = Some(namespace(&container));
    let lock = host.lock(LockName::Attachment(record.key()), Mode::Exclusive)?;
    failpoint::pass("add.lock")?;
    clear_the_way(&mut host, plan, request, &record)?;
    let attached = attach(&mut host, plan, request, &container, &mut record, delegate.as_ref());
    let result = attached.or_else(|error| {
        if let Some(second) = lost::undo(&mut host, plan, request, &record, &error)? {
            host.store.retire(lock)?;
            return Err(second);
        }
        let ipam = if has_lease(&record, delegate.as_ref(), &error) { &plan.ipam } else { &Ipam::None };
        host.hurry_after(&error);
        let undone = detach(&mut host, ipam, request, &record);
        host.store.retire(lock)?;
        Err(with_undo(error, undone))
    });
    host.close();
    result
}

/// False if an ADD could not even have the lock of the leases, or open their folder: its undo need not try that again. Somebody else's plugin
/// is told of every failure (CNI specification, section 4).
fn has_lease(record: &Record, delegate: Option<&lease::Delegate>, error: &Error) -> bool {
    let had_none = error.is_busy() || error.is_about_a_link();
    !had_none || !record.addresses.is_empty() || matches!(delegate, Some(lease::Delegate::Program(_)))
}

/// What ADD does, in the order in which it happens.
fn attach(
    host: &mut Host,
    plan: &Plan,
    request: &Request<'_>,
    container: &Netns,
    record: &mut Record,
    delegate: Option<&lease::Delegate>,
) -> Result<CniResult, Error> {
    host.store.write_record(record)?;
    failpoint::pass("add.intent")?;

    let lease = lease::add(host, plan, request, delegate)?;
    record_lease(host, plan, record, &lease)?;
    let usual = plan.usual_mac(&lease, &record.key());
    let is_news = macs::is_news(host, record, usual)?;
    failpoint::pass("add.lease")?;

    let (bridge, mut network) = network::hold(host, plan, &lease)?;
    let pair = link::create(host, plan, record, &bridge, container)?;
    failpoint::pass("add.veth")?;
    claims::claim(host, plan, record)?;

    // Before its port comes up, and the container can send: its guard is among them.
    mac_check::admit(host, record)?;
    let mut ruleset = rules(host, record)?;

    set_port(host, plan, record, &bridge, &pair)?;
    failpoint::pass("add.port")?;

    let mut inside = Netlink::inside(container)?;
    link::dress(host, &mut inside, plan, &record.ifname, pair.container, &lease, is_news)?;
    failpoint::pass("add.inside")?;

    link::notice_carrier(host, &mut inside, &pair)?;
    if plan.duplicate_detection {
        // That takes two seconds, which nobody should wait for. The network stays, for it has a record by now; what a
        // rebuild of the ruleset loses meanwhile comes back.
        drop((ruleset, network));
        link::probe(&mut inside, plan, container, &record.ifname, pair.container, &lease)?;
        (_, network) = network::hold(host, plan, &lease)?;
        ruleset = rules(host, record)?;
    }
    if is_news {
        link::announce(&mut inside, record, pair.container)?;
        macs::are_told(host, record, usual);
    }
    link::await_addresses(&mut inside, plan, container, &lease)?;
    record.stage = Stage::Committed;
    host.store.write_record(record)?;
    drop(ruleset);
    failpoint::pass("add.commit")?;

    names::announce(host, record, network)?;
    sticky::remember(host, plan, &record.ifname, &lease);
    failpoint::pass("add.names")?;

    let result = answer(plan, record, &bridge, lease);
    failpoint::pass("add.reply")?;
    Ok(result)
}

/// All rules of an attachment; to ask for them twice is the same as once, but for published ports. The lock is to be held
/// until the record is committed.
fn rules(host: &mut Host, record: &mut Record) -> Result<Option<Lock>, Error> {
    let ruleset = firewall::admit(host, record)?;
    mac_check::confirm(host, record, ruleset)
}

/// DEL: by the record and by names derived from the call, whatever is left of the container. Again is success.
pub fn del(plan: &Plan, request: &Request<'_>) -> Result<(), Error> {
    let mut host = Host::open(what("DEL", request.call))?;
    let planned = plan.record(request);
    let (lock, found) = renamed::find(&mut host, &planned, request, planned.proof.as_deref())?;
    // Without a record there is nothing that an IPAM plugin which ADD would refuse could have leased.
    let has_ipam = found.is_some() || lease::require(&plan.ipam, request).is_ok();
    let ipam = if has_ipam { &plan.ipam } else { &Ipam::None };
    match found {
        Some(found) => {
            if found.network != planned.network {
                chained::remove_all(&mut host, &found)?;
            }
            detach(&mut host, ipam, request, &found)?;
        }
        None if rival(&mut host, &planned)?.is_some() => lease::del(&host, ipam, request, &planned)?,
        None => {
            reference::detach(&mut host, plan, request)?;
            let left = lost::withdraw(&mut host, plan, request, planned)?;
            detach(&mut host, ipam, request, &left)?;
        }
    }
    host.store.retire(lock)?;
    host.close();
    Ok(())
}

/// Removes everything of an attachment, going on after a failure. The record goes last, and only when nothing
/// failed: as long as it is there, DEL can be repeated. The lease goes after all that still leads to its address.
fn detach(host: &mut Host, ipam: &Ipam, request: &Request<'_>, record: &Record) -> Result<(), Error> {
    names::withdraw(host, record);
    failpoint::pass("del.names")?;
    // First, and without going on: the container may be alive, and its guard is among the rules.
    let link = silence(host, record)?;
    let mut failures = Vec::new();
    failures.extend(firewall::dismiss(host, record).err());
    failures.extend(mac_check::dismiss(host, record).err());
    failures.extend(remove_link(host, link).err());
    former::forget_later(host);
    Error::all(failures)?;
    macs::release(host, record)?;
    claims::release(host, record)?;
    lease::del(host, ipam, request, record)?;
    host.store.remove_record(&record.network, &record.plugin, &record.key())?;
    failpoint::pass("del.record")?;
    if host.store.has_records(&record.network, &record.plugin)? {
        return Ok(());
    }
    network::retire(host, &record.network, &record.plugin)
}

/// GC: removes every attachment of this network that is not among the valid ones. Without a list, only what is
/// provably dead goes. Goes on after failures and reports them together.
pub fn gc(plan: &Plan, request: &Request<'_>) -> Result<(), Error> {
    let mut host = Host::open(format!("GC {}", plan.network))?;
    let valid = Valid::of(request);
    let mut failures = Vec::new();
    for record in of_network(&host, plan)? {
        failures.extend(collect(&mut host, plan, request, &record, &valid).err());
    }
    failures.extend(lease::gc(&host, plan, request).err());
    failures.extend(host.store.sweep().map_err(Error::from).err());
    if !host.store.has_records(&plan.network, plan.plugin)? {
        failures.extend(network::retire(&mut host, &plan.network, plan.plugin).err());
    }
    host.close();
    Error::all(failures)
}

/// STATUS: succeeds only if an ADD would work now.
pub fn status(plan: &Plan, request: &Request<'_>) -> Result<(), Error> {
    let mut host = Host::ready(format!("STATUS {}", plan.network))?;
    if let Some(link) = host.netlink.link(&plan.bridge)?
        && link.kind.as_deref() != Some("bridge")
    {
        return Err(Error::not_ready(Error::NotABridge { name: plan.bridge.clone() }));
    }
    host.require_links()?;
    if plan.masquerade || plan.isolated || plan.guarded || plan.mac_checked {
        host.require_rules().map_err(|error| worse_if_used(&host, plan, error))?;
        host.require_flows()?;
    }
    lease::status(&host, plan, request)?;
    // What cannot be found out is no reason to take no containers.
    let stopped = probe::look(&mut host).unwrap_or_default();
    match stopped.into_iter().find(|told| told.network == plan.network) {
        Some(told) => Err(Error::Stopped { text: told.text, hint: told.hints.join("; ") }),
        None => Ok(()),
    }
}

/// Without the ruleset, what those who are attached need of it cannot be restored, nor removed.
fn worse_if_used(host: &Host, plan: &Plan, error: Error) -> Error {
    match host.store.has_records(&plan.network, plan.plugin) {
        Ok(true) => Error::Impaired { what: error.to_string() },
        _ => error,
    }
}

/// True if the container of a record is still there: its host end is, or, where it has none, its namespace.
pub fn is_alive(host: &mut Host, record: &Record) -> Result<bool, Error> {
    if record.link.is_some() {
        return Ok(link::find(host, record)?.is_some());
    }
    Ok(record.netns.as_ref().is_some_and(is_there))
}

/// The records of a network that this plugin wrote.
pub fn of_network(host: &Host, plan: &Plan) -> Result<Vec<Record>, Error> {
    let mut records = host.store.records()?;
    records.retain(|record| record.network == plan.network && record.plugin == plan.plugin);
    Ok(records)
}

/// The container's namespace, opened once for all that a call does in it.
///
/// The path may lead elsewhere than a moment ago, when the call was checked: what it leads to now must not be the host's.
pub fn container(call: &Call) -> Result<Netns, Error> {
    let netns = Netns::open(Path::new(&call.netns))?;
    if !call.netns_override && netns.id() == Netns::current()?.id() {
        return Err(Error::Cni(Fault::OwnNetns { release: None }.into()));
    }
    Ok(netns)
}

/// Who we are to others that wait for a lock of ours.
pub fn what(verb: &str, call: &Call) -> String {
    format!("{verb} {}/{}", call.container_id, call.ifname)
}

/// A namespace as records keep it.
pub fn namespace(netns: &Netns) -> Namespace {
    Namespace { path: netns.path().into(), dev: netns.id().dev, ino: netns.id().ino }
}

/// True if the namespace can still be found where it was, or lives on without a path: that is looked for last, in all
/// processes.
pub fn is_there(namespace: &Namespace) -> bool {
    let is_it = |found: Netns| (found.id().dev, found.id().ino) == (namespace.dev, namespace.ino);
    Netns::open(&namespace.path).is_ok_and(is_it) || living::namespaces().contains(&namespace.ino)
}

/// The record of the attachment; where it turned out to be garbage, the planned one, after everything that only the
/// record knew of was taken away by its key. Under the attachment's lock.
pub fn known(host: &mut Host, planned: &Record) -> Result<Option<Record>, Error> {
    match host.store.record(&planned.network, &planned.plugin, &planned.key())? {
        Some(garbage) if garbage.container.is_empty() => {
            firewall::purge(host, &planned.plugin, &planned.key())?;
            host.store.forget_aside(&planned.network, &planned.plugin, &planned.key())?;
            Ok(Some(planned.clone()))
        }
        found => Ok(found),
    }
}

/// The attachments that a GC call names, by container id and interface; none means that it names no list.
pub struct Valid(Option<HashSet<(String, String)>>);

impl Valid {
    /// As the runtime said.
    pub fn of(request: &Request<'_>) -> Self {
        let valid = request.config.valid_attachments();
        Self(valid.map(|valid| valid.into_iter().map(|one| (one.container_id, one.ifname)).collect()))
    }
}

/// True if GC may not touch an attachment: it is valid; without a list, its container is there and its ADD came to an end.
/// What `rnet run` made is in no runtime's list, and stays while it lives.
pub fn is_to_stay(host: &mut Host, record: &Record, valid: &Valid) -> Result<bool, Error> {
    let is_valid = |valid: &HashSet<_>| valid.contains(&(record.container.clone(), record.ifname.clone()));
    match &valid.0 {
        Some(valid) if is_valid(valid) => Ok(true),
        Some(_) if !host.store.is_endpoint(&record.container)? => Ok(false),
        _ => Ok(record.stage == Stage::Committed && is_alive(host, record)?),
    }
}

/// Says what GC has removed, on standard error: a runtime that names too few is found out by it.
pub fn tell_removed(record: &Record) {
    let addresses: Vec<String> =
        record.addresses.iter().map(|address| address.address.ip().to_string()).collect();
    let (who, addresses) = (record.who(), addresses.join(", "));
    eprintln!(
        "{}: GC of network {:?} removed {who:?} {} ({addresses})",
        record.plugin, record.network, record.ifname
    );
}

/// The first failure, with what could not be undone added to it.
pub fn with_undo(error: Error, undone: Result<(), Error>) -> Error {
    match undone {
        Ok(()) => error,
        Err(left) => Error::Several { first: Box::new(error), rest: vec![left] },
    }
}

/// Refuses a second attachment; removes what a dead ADD or a dead container left under the same name.
fn clear_the_way(host: &mut Host, plan: &Plan, request: &Request<'_>, planned: &Record) -> Result<(), Error> {
    let Some(found) = known(host, planned)? else {
        return rival(host, planned)?.map_or(Ok(()), |rival| Err(already_attached(rival)));
    };
    if found.stage == Stage::Committed && is_alive(host, &found)? {
        return Err(already_attached(found));
    }
    detach(host, &plan.ipam, request, &found)
}

/// The living attachment that another of rnet's plugins has made for that container's interface on a network of the same name:
/// all that is named after them has one name.
fn rival(host: &mut Host, planned: &Record) -> Result<Option<Record>, Error> {
    for plugin in INTERFACE_PLUGINS.into_iter().filter(|plugin| *plugin != planned.plugin) {
        if let Some(rival) = host.store.record(&planned.network, plugin, &planned.key())?
            && !rival.container.is_empty()
            && is_alive(host, &rival)?
        {
            return Ok(Some(rival));
        }
    }
    Ok(None)
}

fn already_attached(first: Record) -> Error {
    let addresses: Vec<String> =
        first.addresses.iter().map(|address| address.address.ip().to_string()).collect();
    Error::AlreadyAttached {
        who: first.who().to_owned(),
        link: first.link.unwrap_or_default(),
        ifname: first.ifname,
        network: first.network,
        addresses: addresses.join(", "),
    }
}

/// Writes down all that will be made, before it is made.
fn record_lease(host: &mut Host, plan: &Plan, record: &mut Record, lease: &CniResult) -> Result<(), Error> {
    record.mac = Some(store::Mac(plan.container_mac(lease, &record.key()).0));
    record.addresses = addresses(lease);
    record.ports = ports::resolve(&plan.ports, &lease.ips).map_err(Error::Config)?;
    record.leases = lease::folder(host, &plan.ipam, record);
    host.store.write_record(record)?;
    macs::claim(host, plan, record)
}

/// The host end's flags, its owner's name, and the bridge's knowledge of who has the address now; then it comes up.
fn set_port(
    host: &mut Host,
    plan: &Plan,
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
    requests.extend(neighbours(plan, record, bridge.index));
    requests.push(netlink::Request::LinkUp { index, name });
    Ok(host.netlink.send(&requests)?)
}

/// The bridge's knowledge of who has the addresses now.
fn neighbours(plan: &Plan, record: &Record, index: u32) -> Vec<netlink::Request> {
    let mac = record.mac.filter(|_| plan.gateway).map(|mac| Mac(mac.0));
    let addresses = record.addresses.iter().map(|address| address.address.ip());
    let Some(mac) = mac else { return Vec::new() };
    addresses.map(|address| netlink::Request::NeighbourReplace { index, address, mac }).collect()
}

/// Makes a living attachment's host end a port of its bridge again, with the flags of a new one and no others. It is dormant
/// until they are there, as a new port is down.
pub fn rejoin(
    host: &mut Host,
    plan: &Plan,
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
    requests.extend(neighbours(plan, record, bridge.index));
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

/// The result in CNI's order: bridge, host end, container; every address belongs to the container.
fn answer(plan: &Plan, record: &Record, bridge: &Link, lease: CniResult) -> CniResult {
    let netns = record.netns.as_ref().map(|netns| netns.path.to_string_lossy().into_owned());
    let interface = |name: &str, mac: Option<String>, sandbox| Interface {
        name: name.to_owned(),
        mac,
        sandbox,
        ..Interface::default()
    };
    let interfaces = vec![
        interface(&plan.bridge, bridge.mac.map(|mac| mac.to_string()), None),
        interface(record.link.as_deref().unwrap_or_default(), Some(link::host_mac(record).to_string()), None),
        interface(&record.ifname, record.mac.map(|mac| mac.to_string()), netns),
    ];
    let (routes, dns) = (plan.routes(&lease), plan.resolver(&lease));
    let ips = lease
        .ips
        .into_iter()
        .map(|ip| Ip { interface: Some(2), gateway: plan.gateway_of(&ip), ..ip })
        .collect();
    CniResult { interfaces, ips, routes, dns }
}

fn collect(
    host: &mut Host,
    plan: &Plan,
    request: &Request<'_>,
    record: &Record,
    valid: &Valid,
) -> Result<(), Error> {
    let lock = host.lock(LockName::Attachment(record.key()), Mode::Exclusive)?;
    let Some(record) = known(host, record)? else { return Ok(()) };
    if is_to_stay(host, &record, valid)? {
        return Ok(());
    }
    let call = Call {
        container_id: record.container.clone(),
        ifname: record.ifname.clone(),
        netns: String::new(),
        ..request.call.clone()
    };
    detach(host, &plan.ipam, &Request { call: &call, config: request.config }, &record)?;
    tell_removed(&record);
    Ok(host.store.retire(lock)?)
}
