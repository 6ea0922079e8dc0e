//! A veth pair whose host end is a port of a bridge.

pub mod port;
mod shared;

use netlink::Link;
use store::{Network, Record};

use super::veth;
use crate::driver::Driver;
use crate::held::Held;
use crate::ip::first_host;
use crate::making::{Ends, Making};
use crate::spec::{Interface, Lease, Outcome, Spec};
use crate::{Error, Finding, Host, far, link, lost};

pub use shared::forwards;

/// The driver of this file.
pub struct Bridge;

impl Driver for Bridge {
    fn plugins(&self) -> &'static [&'static str] {
        &["rnet", "bridge"]
    }

    fn hold(&self, host: &mut Host, making: &mut Making<'_>) -> Result<Held, Error> {
        shared::hold(host, making.spec, &making.lease)
    }

    fn make(&self, host: &mut Host, making: &mut Making<'_>, held: &Held) -> Result<Ends, Error> {
        let bridge = bridge_of(held)?;
        veth::create(host, making, Some(bridge.index), making.spec.mtu.or(Some(bridge.mtu)))
    }

    fn open(&self, host: &mut Host, making: &Making<'_>, held: &Held, ends: &Ends) -> Result<(), Error> {
        let bridge = bridge_of(held)?;
        ends.host.map_or(Ok(()), |index| port::open(host, making, bridge, index))
    }

    /// Bridge, host end, container.
    fn interfaces(&self, making: &Making<'_>, held: &Held) -> Vec<Interface> {
        let Making { spec, record, .. } = making;
        let mac = held.bridge.as_ref().and_then(|bridge| bridge.mac);
        let bridge =
            Interface { name: spec.bridge.clone(), mac: mac.map(|mac| mac.to_string()), netns: None };
        [bridge].into_iter().chain(veth::interfaces(record)).collect()
    }

    fn require(&self, host: &mut Host, spec: &Spec) -> Result<(), Error> {
        if let Some(link) = host.netlink.link(&spec.bridge)?
            && link.kind.as_deref() != Some("bridge")
        {
            return Err(Error::not_ready(Error::NotABridge { name: spec.bridge.clone() }));
        }
        host.require_links()
    }

    fn look(&self, host: &mut Host, spec: &Spec, record: &Record, previous: &Outcome) -> Result<(), Error> {
        let bridge = bridge(host, spec, previous)?;
        gateways(host, spec, &bridge, record, previous)?;
        pair(host, spec, record, &bridge)
    }

    fn withdraw_lost(
        &self,
        host: &mut Host,
        spec: &Spec,
        previous: Option<&Outcome>,
        unknown: Record,
    ) -> Result<Record, Error> {
        lost::withdraw(host, spec, previous, unknown)
    }

    fn make_whole(&self, host: &mut Host, spec: &Spec, lease: &Lease) -> Result<Option<Held>, Error> {
        shared::make_whole(host, spec, lease)
    }

    fn retire(&self, host: &mut Host, network: &Network) -> Result<(), Error> {
        if network.owns_bridge { shared::remove(host, network) } else { Ok(()) }
    }
}

fn bridge_of(held: &Held) -> Result<&Link, Error> {
    held.bridge.as_ref().ok_or_else(|| Error::NotABridge { name: held.network.bridge.clone() })
}

fn bridge(host: &mut Host, spec: &Spec, previous: &Outcome) -> Result<Link, Error> {
    let name = spec.bridge.clone();
    let entry = previous.on_host(&name).ok_or_else(|| Finding::NoInterface(name.clone()))?;
    let bridge = host.netlink.link(&name)?.ok_or_else(|| Finding::NoBridge(name.clone()))?;
    if bridge.kind.as_deref() != Some("bridge") {
        return Err(Error::NotABridge { name });
    }
    if let Some((found, wanted)) = entry.differing_mac(&bridge) {
        return Err(Finding::BridgeMac { bridge: name, found, wanted }.into());
    }
    if spec.promiscuous && !bridge.promisc {
        return Err(Finding::NotPromiscuous(name).into());
    }
    let network = spec.id.network.clone();
    if bridge.up { Ok(bridge) } else { Err(Finding::BridgeDown { bridge: name, network }.into()) }
}

fn gateways(
    host: &mut Host,
    spec: &Spec,
    bridge: &Link,
    record: &Record,
    previous: &Outcome,
) -> Result<(), Error> {
    if !spec.gateway {
        return Ok(());
    }
    let found = host.netlink.addresses(Some(bridge.index))?;
    for address in &record.addresses {
        let gateway = address.gateway.unwrap_or_else(|| first_host(address.address));
        if found.iter().all(|found| found.address.ip() != gateway) {
            let (bridge, network) = (spec.bridge.clone(), spec.id.network.clone());
            return Err(Finding::NoGateway { bridge, network, gateway: gateway.to_string() }.into());
        }
        if !forwards(host, &spec.bridge, gateway.is_ipv6())? {
            return Err(Finding::NoForwarding(if gateway.is_ipv6() { "IPv6" } else { "IPv4" }).into());
        }
    }
    let far = far::subnets(spec, &previous.lease);
    match far::unrouted(&mut host.netlink, bridge.index, far)?.first() {
        Some(subnet) => {
            Err(Finding::NoSubnetRoute { bridge: spec.bridge.clone(), subnet: subnet.to_string() }.into())
        }
        None => Ok(()),
    }
}

fn pair(host: &mut Host, spec: &Spec, record: &Record, bridge: &Link) -> Result<(), Error> {
    let found = link::find(host, record)?.ok_or_else(|| Finding::NoVeth(spec.bridge.clone()))?;
    match port::wrong(&port::as_configured(spec, record), &found, bridge.index) {
        None => Ok(()),
        Some(wrong) => {
            let (link, bridge, network) = (found.name, spec.bridge.clone(), spec.id.network.clone());
            Err(Finding::Port { link, bridge, wrong, network }.into())
        }
    }
}
