//! What is not as ADD left it on the host's side: the bridge, its gateways, and the container's port.

use netlink::Link;
use store::Record;

use super::port;
use crate::ip::{first_host, subnet};
use crate::spec::{Outcome, Spec};
use crate::{Error, Finding, Host, far, forward, link};

/// Tells everything, the bridge first. Without a bridge the rest is not looked at.
pub fn look(
    host: &mut Host,
    spec: &Spec,
    record: &Record,
    previous: Option<&Outcome>,
    tell: &mut dyn FnMut(Finding),
) -> Result<(), Error> {
    let Some(bridge) = bridge(host, spec, previous, tell)? else { return Ok(()) };
    if spec.gateway {
        gateways(host, spec, &bridge, record, tell)?;
    }
    match link::find(host, record)? {
        None => tell(Finding::NoVeth(spec.bridge.clone())),
        Some(found) => {
            if let Some(wrong) = port::wrong(&port::as_configured(spec, record), &found, bridge.index) {
                let (link, bridge, network) = (found.name, spec.bridge.clone(), spec.id.network.clone());
                tell(Finding::Port { link, bridge, wrong, network });
            }
        }
    }
    Ok(())
}

/// The bridge, if it is there and is one.
fn bridge(
    host: &mut Host,
    spec: &Spec,
    previous: Option<&Outcome>,
    tell: &mut dyn FnMut(Finding),
) -> Result<Option<Link>, Error> {
    let name = spec.bridge.clone();
    let entry = previous.map(|previous| previous.on_host(&name));
    if let Some(None) = entry {
        tell(Finding::NoInterface(name));
        return Ok(None);
    }
    let Some(bridge) = host.netlink.link(&name)? else {
        tell(Finding::NoBridge(name));
        return Ok(None);
    };
    if bridge.kind.as_deref() != Some("bridge") {
        return Err(Error::NotABridge { name });
    }
    if let Some((found, wanted)) = entry.flatten().and_then(|entry| entry.differing_mac(&bridge)) {
        tell(Finding::BridgeMac { bridge: name.clone(), found, wanted });
    }
    if spec.promiscuous && !bridge.promisc {
        tell(Finding::NotPromiscuous(name.clone()));
    }
    if !bridge.up {
        tell(Finding::BridgeDown { bridge: name, network: spec.id.network.clone() });
    }
    Ok(Some(bridge))
}

fn gateways(
    host: &mut Host,
    spec: &Spec,
    bridge: &Link,
    record: &Record,
    tell: &mut dyn FnMut(Finding),
) -> Result<(), Error> {
    let found = host.netlink.addresses(Some(bridge.index))?;
    let mut far = Vec::new();
    for address in &record.addresses {
        let gateway = address.gateway.unwrap_or_else(|| first_host(address.address));
        if found.iter().all(|found| found.address.ip() != gateway) {
            let (bridge, network) = (spec.bridge.clone(), spec.id.network.clone());
            tell(Finding::NoGateway { bridge, network, gateway: gateway.to_string() });
        }
        if !forward::is_on(host, &spec.bridge, gateway.is_ipv6())? {
            tell(Finding::NoForwarding(if gateway.is_ipv6() { "IPv6" } else { "IPv4" }));
        }
        if !address.address.contains(gateway) {
            far.push(subnet(address.address));
        }
    }
    for subnet in far::unrouted(&mut host.netlink, bridge.index, far)? {
        tell(Finding::NoSubnetRoute { bridge: spec.bridge.clone(), subnet: subnet.to_string() });
    }
    Ok(())
}
