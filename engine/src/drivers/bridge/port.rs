//! The bridge port of an attachment: which flags it has, what is wrong with one that is there, and how it gets back onto its
//! bridge.

use netlink::{Link, Mac, Request};
use store::{Record, Stage};

use crate::finding::Wrong;
use crate::making::Making;
use crate::spec::Spec;
use crate::{Error, Host, failpoint, features, link};

/// Which frames to the bridge group, 01:80:c2:00:00:00 to :0f, a guarded port takes as any other, so that they meet its
/// guard and end there. Otherwise the bridge learns from them, and hands them to the host as if they were for the port
/// itself. All but :01, which it drops, and which cannot be named.
const GUARDED_GROUP: u16 = 0xfffd;

/// A record as its configuration has it: one of an earlier version does not know how its port was configured.
pub fn as_configured(spec: &Spec, record: &Record) -> Record {
    let is_it = record.network == spec.id.network && record.plugin == spec.plugin;
    Record {
        hairpin: record.hairpin || is_it && spec.hairpin,
        port_isolated: record.port_isolated || is_it && spec.port_isolation,
        ..record.clone()
    }
}

/// What ADD asks for; none if a new port is right as it is.
pub fn flags(record: &Record, index: u32, name: &str) -> Option<Request> {
    let hairpin = wants_hairpin(record).then_some(true);
    let isolated = record.port_isolated.then_some(true);
    let group_forward = record.guarded.then_some(GUARDED_GROUP);
    let any = hairpin.or(isolated).is_some() || group_forward.is_some();
    let name = name.to_owned();
    any.then_some(Request::Port { index, name, hairpin, isolated, learning: None, group_forward })
}

/// What is wrong with the host end of an attachment on the bridge with that index. Flags that ADD does not set may be another program's.
pub fn wrong(record: &Record, link: &Link, bridge: u32) -> Option<Wrong> {
    if link.master != Some(bridge) {
        return Some(Wrong::Off);
    }
    if !link.up {
        return Some(Wrong::Down);
    }
    let flags = [
        ("hairpin", wants_hairpin(record), link.hairpin),
        ("isolated", record.port_isolated, link.isolated),
        ("learning", true, link.learning),
    ];
    let lost = flags.into_iter().find(|(_, wanted, found)| *wanted && *found == Some(false));
    if let Some((flag, ..)) = lost {
        return Some(Wrong::Flag { flag, found: false });
    }
    if record.plugin == "rnet" && !record.port_isolated && link.isolated == Some(true) {
        return Some(Wrong::Flag { flag: "isolated", found: true });
    }
    let lets_pass = record.guarded && link.group_forward.is_some_and(|mask| mask != GUARDED_GROUP);
    lets_pass.then_some(Wrong::Group)
}

/// True if frames may leave by the port that they came in by: as configured, and on an `rnet` network for a
/// container that asks for its own published port.
fn wants_hairpin(record: &Record) -> bool {
    record.hairpin || !record.ports.is_empty() && record.isolated
}

/// The host end's flags, its owner's name, and the bridge's knowledge of who has the address now; then it comes up.
///
/// # Errors
/// The kernel refuses it.
pub fn open(host: &mut Host, making: &Making<'_>, bridge: &Link, index: u32) -> Result<(), Error> {
    let Making { spec, record, .. } = making;
    let name = record.link.clone().unwrap_or_default();
    if !record.guarded {
        // A guarded port's advertisements are dropped by the ruleset, whatever MAC they go to.
        link::refuse_advertisements(host, &name)?;
    }
    let mut requests = vec![
        Request::LinkAlias { index, name: name.clone(), alias: record.key().to_string() },
        Request::LinkNoAutoAddress { index, name: name.clone() },
    ];
    requests.extend(flags(record, index, &name));
    if spec.gateway {
        requests.extend(neighbours(record, bridge.index));
    }
    requests.push(Request::LinkUp { index, name });
    Ok(host.netlink.send(&requests)?)
}

/// The neighbours of the bridge with that index: which MAC has the record's addresses now. Only a gateway needs them.
pub fn neighbours(record: &Record, index: u32) -> Vec<Request> {
    let addresses = record.addresses.iter().map(|address| address.address.ip());
    let Some(mac) = record.mac.map(|mac| Mac(mac.0)) else { return Vec::new() };
    addresses.map(|address| Request::NeighbourReplace { index, address, mac }).collect()
}

/// Makes a living attachment's host end a port of its bridge again, with the flags of a new one and no others. It is dormant
/// until they are there, as a new port is down.
fn rejoin(host: &mut Host, spec: &Spec, record: &Record, bridge: &Link, link: &Link) -> Result<(), Error> {
    use Request::{LinkAwake, LinkDormant, LinkMaster, LinkUp};
    let (index, name) = (link.index, link.name.clone());
    let mut requests = vec![LinkDormant { index, name: name.clone() }];
    if link.master.is_some() {
        requests.push(LinkMaster { index, name: name.clone(), master: None });
    }
    requests.push(LinkMaster { index, name: name.clone(), master: Some(bridge.index) });
    requests.extend(flags(record, index, &name));
    if spec.gateway {
        requests.extend(neighbours(record, bridge.index));
    }
    requests.push(LinkAwake { index, name: name.clone() });
    requests.push(LinkUp { index, name });
    Ok(host.netlink.send(&requests)?)
}

/// Makes those ports of the bridge again that it has lost, or whose flags were changed, because it was deleted or another
/// program took it over: a bridge that was made just now has none of the containers that were on the one before.
///
/// Their guards are in the ruleset, which was looked at a moment ago.
///
/// # Errors
/// The records cannot be read, or the kernel refuses a port.
pub fn reattach(host: &mut Host, spec: &Spec, bridge: &Link) -> Result<(), Error> {
    let mut records = host.store.records()?;
    let is_on_it = |record: &Record| record.bridge.as_deref() == Some(&bridge.name);
    records.retain(|record| is_on_it(record) && record.stage == Stage::Committed);
    if records.is_empty() {
        return Ok(());
    }
    let links = host.netlink.links()?;
    for record in records.iter().filter(|record| record.link.is_some()) {
        let record = &as_configured(spec, record);
        let link = links.iter().find(|link| record.link.as_deref() == Some(&link.name));
        let is_wrong = |link: &&Link| wrong(record, link, bridge.index).is_some();
        let link = link.filter(|link| link::is_own(link, record)).filter(is_wrong);
        if let Some(link) = link {
            rejoin(host, spec, record, bridge, link)?;
            failpoint::pass("add.reattach")?;
        }
    }
    features::each(|feature| feature.reattach(host, &records))
}
