//! An interface that another program, or another plugin of a list, has made: the attachment adds features to it.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink::Link;
use nft::Element;
use store::{LockName, Mode, Network, Record};

use crate::driver::Driver;
use crate::features::publish;
use crate::held::{Held, commit, describe, is_whole};
use crate::ip::subnet;
use crate::making::{Ends, Making};
use crate::spec::{Addresses, Interface, Outcome, Spec};
use crate::{Error, Finding, Host, admission, failpoint, lost};

/// The driver of this file.
pub struct Given;

impl Driver for Given {
    /// All that are no other driver's.
    fn plugins(&self) -> &'static [&'static str] {
        &[]
    }

    fn hold(&self, host: &mut Host, making: &mut Making<'_>) -> Result<Held, Error> {
        let mut planned = None;
        if making.record.bridge.is_none() {
            let found = find_bridge(host, &making.record)?;
            making.record.bridge = found.as_ref().map(|found| found.name.clone());
            // What is behind its own host end, the plugin that made that has said already.
            let is_own = |found: &Link| found.alias.as_deref() == Some(making.record.key().as_str());
            planned = found
                .filter(is_own)
                .map(|_| plan(making.spec, &Record { bridge: None, ..making.record.clone() }));
        }
        host.store.write_record(&making.record)?;
        let planned = planned.unwrap_or_else(|| plan(making.spec, &making.record));
        let held = remember(host, planned)?;
        failpoint::pass("add.address")?;
        Ok(held)
    }

    fn make(&self, _: &mut Host, _: &mut Making<'_>, _: &Held) -> Result<Ends, Error> {
        Ok(Ends::default())
    }

    fn open(&self, _: &mut Host, _: &Making<'_>, _: &Held, _: &Ends) -> Result<(), Error> {
        Ok(())
    }

    fn interfaces(&self, _: &Making<'_>, _: &Held) -> Vec<Interface> {
        Vec::new()
    }

    fn refuses_second(&self) -> bool {
        false
    }

    /// The interface is another's to remove.
    fn silence(&self, _: &mut Host, _: &Record) -> Result<Option<Link>, Error> {
        Ok(None)
    }

    fn withdraw_lost(
        &self,
        host: &mut Host,
        spec: &Spec,
        _: Option<&Outcome>,
        unknown: Record,
    ) -> Result<Record, Error> {
        let unknown = complete(spec, unknown);
        lost::unpublish(host, &unknown)?;
        Ok(unknown)
    }

    fn look(
        &self,
        _: &mut Host,
        _: &Spec,
        _: &Record,
        _: Option<&Outcome>,
        _: &mut dyn FnMut(Finding),
    ) -> Result<(), Error> {
        Ok(())
    }

    fn require(&self, _: &mut Host, _: &Spec) -> Result<(), Error> {
        Ok(())
    }
}

/// Remembers a network that has no bridge of its own, and keeps it there.
pub(super) fn remember(host: &mut Host, planned: Network) -> Result<Held, Error> {
    let mut lock = host.lock(LockName::Network(planned.name.clone()), Mode::Shared)?;
    let known = host.store.network(&planned.name, &planned.plugin)?;
    if let Some(network) = known.filter(|known| is_whole(known, &planned)) {
        return Ok(Held { network, bridge: None, lock });
    }
    lock = host.change(lock, Mode::Exclusive)?;
    let mut network = describe(host, planned, false)?;
    host.store.write_network(&network)?;
    failpoint::pass("add.network")?;
    admission::admit_network(host, &network)?;
    failpoint::pass("add.elements")?;
    commit(host, &mut network)?;
    Ok(Held { network, bridge: None, lock })
}

/// What the record of an ADD would say of the addresses and ports that the call still tells of.
fn complete(spec: &Spec, unknown: Record) -> Record {
    let Addresses::Given(lease) = &spec.addresses else { return unknown };
    let ports = publish::resolve(&spec.ports, &lease.addresses).unwrap_or_default();
    Record { addresses: lease.addresses.clone(), ports, ..unknown }
}

/// The interface that the container is on, which loopback clients need `route_localnet` on. None where the host has no way
/// to the container, or only one by a gateway: then the interface is the uplink, and the container is not behind it. None
/// also where the ruleset cannot name it.
fn find_bridge(host: &mut Host, record: &Record) -> Result<Option<Link>, Error> {
    let Some(port) = record.ports.iter().map(|port| port.container).min_by_key(IpAddr::is_ipv6) else {
        return Ok(None);
    };
    // The kernel refuses a route that forbids: that is no way either.
    let Ok(Some((index, None))) = host.netlink.route_to(port) else { return Ok(None) };
    let link = host.netlink.link_by_index(index)?;
    Ok(link.filter(|link| Element::Isolated { bridge: link.name.clone() }.fault().is_none()))
}

/// Which subnet lives on which bridge: by that, clients of the same network are told from others.
fn plan(spec: &Spec, record: &Record) -> Network {
    let subnets: Vec<IpNetwork> = record.addresses.iter().map(|address| subnet(address.address)).collect();
    let zone = spec.names.as_ref().map(|names| names.zone(spec.askable.clone(), subnets.clone()));
    // A zone says by itself whose addresses belong to it.
    let has_homes = record.bridge.is_some() && zone.is_none();
    Network {
        name: record.network.clone(),
        plugin: record.plugin.clone(),
        bridge: record.bridge.clone().unwrap_or_default(),
        subnets: if has_homes { subnets } else { Vec::new() },
        given: true,
        zone,
        ..Network::default()
    }
}
