//! Published ports: what a runtime asks for, who holds which, and the host's loopback.
//!
//! Equal keys collide in the kernel (the map's element is the reservation). That a port on any address and the
//! same port on one address collide too is decided here, under the host-wide ports lock: ports on single
//! addresses are claims in the store, ports on any address are looked up in the kernel's map. Who claims a port also claims
//! the group of 256 that it is in: a thousand ports on any address are then free after four looks, not a thousand.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};

use netlink::Netlink;
use nft::{Element, Firewall, Flow, Owner, Protocol, Range};
use store::{Address, Exception, Key, Lock, LockName, Mode, Port, Record, Stage};

use crate::error::host_text;
use crate::feature::Feature;
use crate::feature::Settled;
use crate::keys::{is_same_port_on_one_address, owner, owner_of_questions};
use crate::{Error, Finding, Host, register, spec, unrecorded};

/// The feature of this file.
pub struct Publish;

impl Feature for Publish {
    fn elements(&self, record: &Record) -> Vec<Element> {
        record.ports.iter().flat_map(|port| elements_of(record, port)).collect()
    }

    fn lock(&self, host: &Host, record: &Record) -> Result<Option<Lock>, Error> {
        lock(host, record)
    }

    fn reserve(&self, host: &mut Host, record: &mut Record) -> Result<(), Error> {
        if record.ports.is_empty() { Ok(()) } else { reserve(host, record) }
    }

    /// Each dead holder is buried once, and each port left to another once.
    fn settle(&self, host: &mut Host, record: &mut Record, refusal: &Error) -> Result<Settled, Error> {
        let Error::PortTaken { key: Some(key), .. } = refusal else { return Ok(Settled::No) };
        match holder_of(host, key) {
            Some(holder) if !register::is_alive(host, &holder)? => Ok(Settled::Bury(Box::new(holder))),
            _ if leave_to(host, record, key)? => Ok(Settled::Otherwise),
            _ => Ok(Settled::No),
        }
    }

    fn confirm(&self, host: &mut Host, record: &Record, _: &mut Option<Lock>) -> Result<(), Error> {
        open_loopback(host, record)?;
        flush_udp(host, udp_ports(record).map(to).collect())
    }

    fn holds_any(&self, host: &mut Host, record: &Record) -> Result<bool, Error> {
        has_claims(host, record)
    }

    fn free(&self, host: &mut Host, record: &Record) -> Result<(), Error> {
        release(host, record)
    }

    fn reattach(&self, host: &mut Host, records: &[Record]) -> Result<(), Error> {
        restore_loopback(host, records)
    }

    fn look(&self, host: &mut Host, record: &Record, tell: &mut dyn FnMut(Finding)) -> Result<(), Error> {
        wrong_loopback(host, record)?.into_iter().for_each(tell);
        Ok(())
    }
}

/// Who wants a bridge's loopback open claims this and the bridge's name.
const LOOPBACK_CLAIM: &str = "loopback-";

/// The ports that are opened for the container's first address of each family.
///
/// # Errors
/// One host port is to lead to two ports of the container.
pub fn resolve(wanted: &[spec::Publish], addresses: &[Address]) -> Result<Vec<Port>, Error> {
    let v4 = addresses.iter().map(|ip| ip.address.ip()).find(IpAddr::is_ipv4);
    let v6 = addresses.iter().map(|ip| ip.address.ip()).find(IpAddr::is_ipv6);
    let addresses: Vec<IpAddr> = v4.into_iter().chain(v6).collect();
    let (mut ports, mut known) = (Vec::with_capacity(wanted.len()), HashMap::new());
    for port in wanted.iter().flat_map(|wanted| ports_of(wanted, &addresses)) {
        // What is asked for twice is one port, as upstream.
        match known.insert((port.host, port.host_port, port.container, port.protocol), port.container_port) {
            None => ports.push(port),
            Some(other) if other == port.container_port => {}
            Some(_) => {
                let host = host_text(port.host, port.container);
                return Err(Error::PortTwice { host, port: port.host_port });
            }
        }
    }
    Ok(ports)
}

/// One for each address whose family it fits.
fn ports_of(wanted: &spec::Publish, addresses: &[IpAddr]) -> impl Iterator<Item = Port> {
    let &spec::Publish { host, host_port, container_port, protocol } = wanted;
    let fits = move |to: &&IpAddr| host.is_none_or(|host| host.is_ipv4() == to.is_ipv4());
    let host = host.filter(|host| !host.is_unspecified());
    let port = move |to: &IpAddr| Port { host, host_port, container: *to, container_port, protocol };
    addresses.iter().filter(fits).map(port)
}

/// The host-wide ports lock, where a record has ports at all.
fn lock(host: &Host, record: &Record) -> Result<Option<Lock>, Error> {
    if record.ports.is_empty() { Ok(None) } else { host.lock(LockName::Ports, Mode::Exclusive).map(Some) }
}

/// Claims a record's ports against those of others that the kernel's keys do not collide with. Under the ports lock,
/// which is to be held until the elements are in.
fn reserve(host: &mut Host, record: &Record) -> Result<(), Error> {
    let mut groups = HashMap::new();
    for port in &record.ports {
        refuse_foreign_address(host, port)?;
        match port.host {
            None if is_group_claimed(host, port, &mut groups)? => refuse_if_claimed(host, record, port)?,
            None => {}
            Some(_) => {
                host.store.claim(&group_claim(port), &record.key())?;
                host.store.claim(&claim(port), &record.key())?;
            }
        }
    }
    refuse_unrecorded(host, record)?;
    refuse_if_on_any_address(host, record)
}

/// Whether anybody claims a port near this one.
fn is_group_claimed(
    host: &Host,
    port: &Port,
    known: &mut HashMap<(store::Protocol, bool, u8), bool>,
) -> Result<bool, Error> {
    Ok(match known.entry((port.protocol, port.container.is_ipv4(), group(port))) {
        Entry::Occupied(known) => *known.get(),
        Entry::Vacant(new) => *new.insert(host.store.is_claimed(&group_claim(port))?),
    })
}

/// True if a record claims a port on a single address, or the loopback, or if one that did so died half-way.
fn has_claims(host: &Host, record: &Record) -> Result<bool, Error> {
    for what in port_claims(record).chain(loopback_bridge(record).map(loopback_claim)) {
        if host.store.is_claimant(&what, &record.key())? || host.store.is_left(&what)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Gives a record's claims back, and closes the loopback of a bridge that has no port left.
fn release(host: &mut Host, record: &Record) -> Result<(), Error> {
    for what in port_claims(record) {
        host.store.release(&what, &record.key())?;
    }
    match loopback_bridge(record) {
        Some(bridge) => leave_loopback(host, bridge, &record.key()),
        None => Ok(()),
    }
}

/// Gives back whatever `key` claims. Looks at every claim there is.
///
/// # Errors
/// A claim cannot be removed, or the loopback cannot be closed.
pub fn release_all(host: &mut Host, key: &Key) -> Result<(), Error> {
    for what in host.store.claimed()? {
        match what.strip_prefix(LOOPBACK_CLAIM) {
            Some(bridge) => leave_loopback(host, bridge, key)?,
            None => drop(host.store.release(&what, key)?),
        }
    }
    Ok(())
}

fn leave_loopback(host: &mut Host, bridge: &str, key: &Key) -> Result<(), Error> {
    let claim = loopback_claim(bridge);
    if host.store.is_claimed(&claim)? && host.store.leave(&claim, key)? {
        close_loopback(host, bridge)?;
        host.store.abandon(&claim)?;
    }
    Ok(())
}

/// Lets the host reach a record's ports by 127.0.0.1: `route_localnet` on the bridge, behind two guards.
///
/// One guard is a rule, which is in the kernel by now; the other stands outside nftables, so that a flush of
/// the ruleset does not open the host's own services to containers.
fn open_loopback(host: &mut Host, record: &Record) -> Result<(), Error> {
    let Some(bridge) = loopback_bridge(record) else { return Ok(()) };
    let key = format!("ipv4/conf/{bridge}/route_localnet");
    let open = host.netlink.sysctl(&key)?.as_deref() == Some("1");
    if open && !host.store.is_claimed(&loopback_claim(bridge))? && !has_guard(host, bridge)? {
        // Another program's setting, which it takes back itself.
        return Ok(());
    }
    host.store.claim(&loopback_claim(bridge), &record.key())?;
    if !open {
        guard_loopback(host, bridge)?;
        host.netlink.set_sysctl(&key, "1").map_err(Error::of("unable to enable route_localnet"))?;
    }
    Ok(())
}

/// The same for those that are on a bridge already, where guard and setting may have been taken away. One stands for all.
fn restore_loopback(host: &mut Host, records: &[Record]) -> Result<(), Error> {
    let Some(any) = records.iter().find(|record| loopback_bridge(record).is_some()) else { return Ok(()) };
    let _ports = lock(host, any)?;
    for record in records {
        let Some(bridge) = loopback_bridge(record) else { continue };
        // One that has gone meanwhile must not claim anything.
        let known = host.store.record(&record.network, &record.plugin, &record.key())?;
        if known.is_none_or(|known| known.stage != Stage::Committed) {
            continue;
        }
        if host.store.is_claimed(&loopback_claim(bridge))? {
            guard_loopback(host, bridge)?;
        }
        return open_loopback(host, record);
    }
    Ok(())
}

/// What is wrong with the way of the host's loopback to a record's ports, and with what guards it.
///
/// # Errors
/// The kernel or the claims cannot be read.
pub fn wrong_loopback(host: &mut Host, record: &Record) -> Result<Option<Finding>, Error> {
    let Some(bridge) = loopback_bridge(record).map(str::to_owned) else { return Ok(None) };
    let network = record.network.clone();
    if host.netlink.sysctl(&format!("ipv4/conf/{bridge}/route_localnet"))?.as_deref() != Some("1") {
        return Ok(Some(Finding::NoLoopback { bridge, network }));
    }
    // What others have set is theirs to guard.
    if !host.store.is_claimed(&loopback_claim(&bridge))? {
        return Ok(None);
    }
    let Some(link) = host.netlink.link(&bridge)? else { return Ok(None) };
    let guarded = host.netlink.has_loopback_guard(link.index)?;
    Ok((!guarded).then_some(Finding::NoLoopbackGuard { bridge, network }))
}

/// The error for a key that the kernel says is taken, with its holder's name.
pub fn taken(host: &mut Host, element: &Element, holder: Option<Owner>) -> Error {
    let Element::Publish { host: address, host_port, to, .. } = element else {
        return Error::Nft(nft::Error::Taken { element: element.clone(), holder });
    };
    let served = holder.is_some() && holder == owner_of_questions();
    let key = holder.map(|owner| owner.to_string());
    let holder = key.as_deref().and_then(|key| holder_of(host, key));
    let mut unrecorded = || key.as_deref().and_then(|key| unrecorded::holder_text(host, key));
    let nobody = match served {
        true => "rnet's name server".into(),
        false if holder.is_some() => String::new(),
        false => unrecorded().unwrap_or_else(|| "a container that rnet does not know".into()),
    };
    Error::PortTaken {
        host: host_text(*address, to.ip()),
        port: *host_port,
        holder: holder.map_or(nobody, |record| holder_text(&record)),
        key,
    }
}

/// Leaves ports to another attachment of the same container that has them: engines ask for a container's ports on each of
/// its networks, as podman does. False if another container has them. Under the ports lock.
fn leave_to(host: &mut Host, record: &mut Record, key: &str) -> Result<bool, Error> {
    let is_own = |holder: &Record| holder.container == record.container && holder.key() != record.key();
    let Some(holder) = holder_of(host, key).filter(is_own) else { return Ok(false) };
    // To be claimed anew, as far as they stay.
    for what in port_claims(record) {
        host.store.release(&what, &record.key())?;
    }
    let before = record.ports.len();
    record.ports.retain(|port| !holder.ports.iter().any(|held| is_same(held, port)));
    host.store.write_record(record)?;
    Ok(record.ports.len() < before)
}

/// True if two attachments of one container ask for the same.
fn is_same(held: &Port, wanted: &Port) -> bool {
    let to = |port: &Port| (port.host_port, port.container_port, port.container.is_ipv4());
    held.protocol == wanted.protocol && held.host == wanted.host && to(held) == to(wanted)
}

fn holder_of(host: &Host, key: &str) -> Option<Record> {
    host.store
        .records()
        .ok()?
        .into_iter()
        .find(|record| record.key().as_str() == key && !record.ports.is_empty())
}

fn refuse_if_claimed(host: &mut Host, record: &Record, port: &Port) -> Result<(), Error> {
    let what = claim(port);
    if !host.store.is_claimed(&what)? {
        return Ok(());
    }
    for key in host.store.claimants(&what)? {
        match holder_of(host, &key) {
            Some(holder) if holder.key() == record.key() => {}
            Some(holder) => return Err(port_taken(port, &holder)),
            None => drop(host.store.release_key(&what, &key)?),
        }
    }
    Ok(())
}

/// A port on one address is not free if anybody has it on every address.
fn refuse_if_on_any_address(host: &mut Host, record: &Record) -> Result<(), Error> {
    let single = record.ports.iter().filter(|port| port.host.is_some());
    let (single, keys): (Vec<&Port>, Vec<Element>) =
        single.filter_map(|port| Some((port, on_any_address(port)?))).unzip();
    if keys.is_empty() {
        return Ok(());
    }
    let own = owner(&record.key());
    let owners = host.firewall()?.owners(&keys)?;
    for ((key, port), owner) in keys.iter().zip(single).zip(owners) {
        if owner.is_none() || owner == own {
            continue;
        }
        return Err(match taken(host, key, owner) {
            // What was asked for is told, not what is in its way.
            Error::PortTaken { port: number, holder, key, .. } => {
                let host = host_text(port.host, port.container);
                Error::PortTaken { host, port: number, holder, key }
            }
            refusal => refusal,
        });
    }
    Ok(())
}

/// Refuses ports that a container without a record publishes on one address, as claims do for those on record. Only while claims may have
/// been lost: reads all published ports.
fn refuse_unrecorded(host: &mut Host, record: &Record) -> Result<(), Error> {
    let on_any: Vec<Element> = record.ports.iter().filter_map(on_any_address).collect();
    if on_any.is_empty() || !host.store.are_macs_doubtful()? {
        return Ok(());
    }
    let of_lost = unrecorded::elements(host)?;
    for wanted in on_any {
        let clash = of_lost.iter().find(|(held, _)| is_same_port_on_one_address(held, &wanted));
        if let Some((_, holder)) = clash {
            return Err(taken(host, &wanted, Some(*holder)));
        }
    }
    Ok(())
}

/// A record's protocol as the ruleset has it.
pub fn protocol(port: &Port) -> Protocol {
    match port.protocol {
        store::Protocol::Tcp => Protocol::Tcp,
        store::Protocol::Udp => Protocol::Udp,
        store::Protocol::Sctp => Protocol::Sctp,
    }
}

/// The same port on any address of the host.
pub fn on_any_address(port: &Port) -> Option<Element> {
    let protocol = protocol(port);
    Some(Element::Publish { host: None, protocol, host_port: port.host_port, to: endpoint(port) })
}

/// DNAT applies to local addresses only, so a port on another host's address would be dead (CVE-2020-8554).
fn refuse_foreign_address(host: &mut Host, port: &Port) -> Result<(), Error> {
    const LOOPBACK: u32 = 1;
    let Some(address) = port.host else { return Ok(()) };
    match address {
        IpAddr::V6(v6) if v6.is_loopback() || v6.is_unicast_link_local() => {
            Err(Error::HostAddressUnusable { host: address })
        }
        _ => match host.netlink.route_to(address)? {
            Some((LOOPBACK, None)) => Ok(()),
            _ => Err(Error::HostAddressNotLocal { host: address }),
        },
    }
}

/// The bridge by which the host's loopback reaches a record's ports, where any of them is open to it.
pub fn loopback_bridge(record: &Record) -> Option<&str> {
    let reachable = |port: &Port| match (port.host, port.container) {
        (None, IpAddr::V4(_)) => true,
        (Some(IpAddr::V4(host)), _) => host.is_loopback(),
        _ => false,
    };
    let open = record.snat && record.ports.iter().any(reachable);
    record.bridge.as_deref().filter(|_| open)
}

/// On the bridge, so that its ports' hooks are left to others (`bandwidth` fails on a port that has one).
fn guard_loopback(host: &mut Host, bridge: &str) -> Result<(), Error> {
    let Some(link) = host.netlink.link(bridge)? else { return Ok(()) };
    let (index, name, mark) = (link.index, link.name, nft::LOOPBACK_ANSWER);
    Ok(host.netlink.send(&[netlink::Request::LoopbackGuard { index, name, mark }])?)
}

/// What rnet has opened has its guard, also if the claims were lost.
fn has_guard(host: &mut Host, bridge: &str) -> Result<bool, Error> {
    match host.netlink.link(bridge)? {
        Some(link) => Ok(host.netlink.has_loopback_guard(link.index)?),
        None => Ok(false),
    }
}

/// Closes a loopback whose claims were lost, unless a port of that bridge is still published.
///
/// # Errors
/// The kernel cannot be read, or refuses it.
pub fn close_unclaimed_loopback(host: &mut Host, bridge: &str) -> Result<(), Error> {
    if host.store.is_claimed(&loopback_claim(bridge))? || !has_guard(host, bridge)? {
        return Ok(());
    }
    let elements = host.firewall()?.elements()?;
    let questions = owner_of_questions();
    let homes: Vec<_> = elements.iter().filter_map(|(element, _)| element.home_on(bridge)).collect();
    let is_used = |(element, owner): &(Element, Option<Owner>)| match element {
        Element::Publish { to, .. } => *owner != questions && homes.iter().any(|home| home.contains(to.ip())),
        _ => false,
    };
    if elements.iter().any(is_used) { Ok(()) } else { close_loopback(host, bridge) }
}

fn close_loopback(host: &mut Host, bridge: &str) -> Result<(), Error> {
    // With the bridge its settings are gone.
    let Some(link) = host.netlink.link(bridge)? else { return Ok(()) };
    host.netlink.set_sysctl_if_there(&format!("ipv4/conf/{bridge}/route_localnet"), "0")?;
    Ok(host.netlink.remove_loopback_guard(link.index, bridge)?)
}

/// What a record with ports on single addresses claims: the ports, and after them their groups.
fn port_claims(record: &Record) -> impl Iterator<Item = String> {
    let single = record.ports.iter().filter(|port| port.host.is_some());
    single.clone().map(claim).chain(single.map(group_claim))
}

fn claim(port: &Port) -> String {
    format!("{}-{}", kind(port), port.host_port)
}

fn group_claim(port: &Port) -> String {
    format!("{}-group-{}", kind(port), group(port))
}

fn group(port: &Port) -> u8 {
    (port.host_port >> 8) as u8
}

/// `tcp4`
fn kind(port: &Port) -> String {
    let family = if port.container.is_ipv4() { '4' } else { '6' };
    format!("{}{family}", port.protocol)
}

fn loopback_claim(bridge: &str) -> String {
    format!("{LOOPBACK_CLAIM}{bridge}")
}

fn port_taken(port: &Port, holder: &Record) -> Error {
    Error::PortTaken {
        host: host_text(port.host, port.container),
        port: port.host_port,
        holder: holder_text(holder),
        key: Some(holder.key().to_string()),
    }
}

/// `"web" on "mynet"`
pub fn holder_text(record: &Record) -> String {
    format!("{:?} on {:?}", record.who(), record.network)
}

/// Where a published port leads.
pub fn endpoint(port: &Port) -> SocketAddr {
    SocketAddr::new(port.container, port.container_port)
}

fn elements_of(record: &Record, port: &Port) -> Vec<Element> {
    let protocol = protocol(port);
    let to = endpoint(port);
    let mut elements = vec![Element::Publish { host: port.host, protocol, host_port: port.host_port, to }];
    elements.extend(exceptions(record, port, protocol));
    if record.snat {
        elements.push(Element::Published { to, protocol });
    }
    if record.masquerade_all {
        elements.push(Element::MasqueradeAll { to, protocol });
    }
    elements
}

/// What a port is not for, of its own host address alone: on others it may be another container's.
fn exceptions(record: &Record, port: &Port, protocol: Protocol) -> Vec<Element> {
    let of_its_family = |except: &&Exception| except.sources.0.is_ipv4() == port.container.is_ipv4();
    let element = |except: &Exception| {
        let (first, last) = except.destinations;
        let destinations = match port.host {
            None => Range::new(first, last)?,
            Some(host) => (first <= host && host <= last).then(|| Range::from(host))?,
        };
        let sources = Range::new(except.sources.0, except.sources.1)?;
        Some(Element::Except { protocol, host_port: port.host_port, sources, destinations })
    };
    record.exceptions.iter().filter(of_its_family).filter_map(element).collect()
}

fn udp_ports(record: &Record) -> impl Iterator<Item = &Port> {
    record.ports.iter().filter(|port| port.protocol == store::Protocol::Udp)
}

/// The flows that went to a host port, to any container that had it before.
fn to(port: &Port) -> Flow {
    Flow::To { host: port.host, port: port.host_port, v6: port.container.is_ipv6() }
}

/// Forgets UDP flows that began before their port was published: they would go on to its former holder. A child does that, for
/// it takes 15 ms and more where conntrack knows many; nobody is harmed meanwhile.
fn flush_udp(host: &mut Host, flows: Vec<Flow>) -> Result<(), Error> {
    if flows.is_empty() || host.firewall()?.tracked()? == 0 {
        return Ok(());
    }
    let forget = move || {
        let (Ok(mut firewall), Ok(mut netlink)) = (Firewall::open(), Netlink::here()) else { return };
        // Who cannot be asked may be the host: a flow too many is found again with its next packet.
        let _ = firewall.forget(&flows, |ip| netlink.is_local(ip).unwrap_or(true));
    };
    Ok(netlink::fork_keeping(&[], forget)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(host: &str, host_port: u16, container_port: u16, protocol: store::Protocol) -> spec::Publish {
        let host = (!host.is_empty()).then(|| host.parse().unwrap());
        spec::Publish { host, host_port, container_port, protocol }
    }

    fn addresses(addresses: &[&str]) -> Vec<Address> {
        let address = |text: &&str| Address { address: text.parse().unwrap(), gateway: None };
        addresses.iter().map(address).collect()
    }

    #[test]
    fn what_is_asked_for_twice_is_one_port_and_two_ways_of_one_are_refused() {
        use store::Protocol::{Tcp, Udp};
        let one = addresses(&["172.18.0.2/16"]);
        let ports = |wanted: &[spec::Publish]| resolve(wanted, &one).map_err(|error| error.to_string());
        let same =
            [publish("", 8080, 80, Tcp), publish("0.0.0.0", 8080, 80, Tcp), publish("", 8080, 80, Udp)];
        let two = [publish("10.0.0.1", 8080, 80, Tcp), publish("10.0.0.1", 8080, 81, Tcp)];
        let text =
            "Bind for 10.0.0.1:8080 failed: port is already allocated, by another mapping of this container";
        assert_eq!(ports(&same).unwrap().len(), 2);
        assert_eq!(ports(&two).unwrap_err(), text);
    }

    #[test]
    fn one_port_is_opened_for_each_family_that_it_fits() {
        use store::Protocol::{Tcp, Udp};
        let both = addresses(&["172.18.0.2/16", "fd00::2/64"]);
        let opened = |wanted| resolve(&[wanted], &both).unwrap();

        let any = opened(publish("", 8080, 80, Tcp));
        let any_v4 = opened(publish("0.0.0.0", 8080, 80, Tcp));
        let one = opened(publish("10.0.0.1", 8080, 80, Udp));

        assert_eq!(
            any.iter().map(|port| port.container.to_string()).collect::<Vec<_>>(),
            ["172.18.0.2", "fd00::2"]
        );
        assert_eq!(any_v4, &any[..1]);
        assert_eq!((one.len(), one[0].host, one[0].protocol), (1, Some("10.0.0.1".parse().unwrap()), Udp));
    }
}
