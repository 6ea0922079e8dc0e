//! A network that attachments are on: what is remembered of it, and who else is on another.

use netlink::Link;
use store::{Lock, Network, Stage};

use crate::{Error, Host, unrecorded};

/// A network that stays while this is held.
pub struct Held {
    /// What is remembered of it.
    pub network: Network,
    /// Its bridge, where it has one.
    pub bridge: Option<Link>,
    pub(crate) lock: Lock,
}

/// The other networks in use: of two that go at once, each would leave what they share to the other.
pub fn others_in_use(host: &mut Host, network: &Network) -> Result<Vec<Network>, Error> {
    let mut others = Vec::new();
    for other in host.store.networks()? {
        let is_it = (&other.name, &other.plugin) == (&network.name, &network.plugin);
        if !is_it && is_in_use(host, &other)? {
            others.push(other);
        }
    }
    Ok(others)
}

/// True if a network has attachments. One without is on its way out.
pub fn is_in_use(host: &mut Host, network: &Network) -> Result<bool, Error> {
    Ok(host.store.has_records(&network.name, &network.plugin)?
        || !network.given && unrecorded::is_on(host, network)?)
}

/// Everything of the network is in the kernel: from now on its attachments find it ready.
pub fn commit(host: &Host, network: &mut Network) -> Result<(), Error> {
    network.stage = Stage::Committed;
    Ok(host.store.write_network(network)?)
}

/// True if all that is planned for a network was made.
pub fn is_whole(known: &Network, planned: &Network) -> bool {
    known.stage == Stage::Committed && covers(known, planned)
}

/// True if all that is planned for a network is on record.
fn covers(known: &Network, planned: &Network) -> bool {
    let serves = |planned| known.zone.as_ref().is_some_and(|zone| zone.covers(planned));
    // portmap does not always know the bridge.
    (known.bridge == planned.bridge || planned.bridge.is_empty())
        && (known.isolated || !planned.isolated)
        && planned.subnets.iter().all(|subnet| known.subnets.contains(subnet))
        && planned.gateways.iter().all(|gateway| known.gateways.contains(gateway))
        && planned.zone.as_ref().is_none_or(serves)
}

/// What is to be remembered: the network as planned, and of what it was what its older containers still need.
pub fn describe(host: &Host, planned: Network, may_own: bool) -> Result<Network, Error> {
    let known = host.store.network(&planned.name, &planned.plugin)?;
    Ok(match known {
        Some(known) => follow_up(known, planned, may_own),
        None => planned,
    })
}

/// `planned` in place of `known`: a bridge of another name is former from now on, a subnet and a gateway stay beside the
/// new ones.
fn follow_up(mut known: Network, mut planned: Network, may_own: bool) -> Network {
    let mut past = std::mem::take(&mut known.former);
    past.push(known);
    let (same, former): (Vec<_>, Vec<_>) = past.into_iter().partition(|past| past.bridge == planned.bridge);
    planned.former = former;
    for Network { owns_bridge, isolated, mut subnets, mut gateways, zone, .. } in same {
        planned.zone = match (planned.zone, zone) {
            (Some(planned), Some(past)) => Some(planned.after(past)),
            (planned, past) => planned.or(past),
        };
        planned.owns_bridge |= may_own && owns_bridge;
        planned.isolated |= isolated;
        subnets.retain(|subnet| !planned.subnets.contains(subnet));
        planned.subnets.append(&mut subnets);
        gateways.retain(|gateway| !planned.gateways.contains(gateway));
        planned.gateways.append(&mut gateways);
    }
    planned
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(bridge: &str, subnet: &str, owns_bridge: bool) -> Network {
        let subnets = vec![subnet.parse().unwrap()];
        Network { bridge: bridge.into(), owns_bridge, subnets, ..Network::default() }
    }

    #[test]
    fn a_network_that_moves_keeps_what_it_has_to_take_away() {
        let first = network("br0", "10.7.0.0/24", true);

        let wider = follow_up(first.clone(), network("br0", "10.8.0.0/24", false), true);
        let moved = follow_up(wider.clone(), network("br1", "10.8.0.0/24", true), true);
        let back = follow_up(moved.clone(), network("br0", "10.8.0.0/24", false), true);

        assert!(wider.owns_bridge && wider.subnets.len() == 2 && wider.former.is_empty());
        assert!(!covers(&first, &wider) && covers(&wider, &first) && !covers(&moved, &wider));
        assert_eq!(moved.former, [wider]);
        assert_eq!((back.former.len(), back.former[0].bridge.as_str()), (1, "br1"));
        assert!(back.owns_bridge && back.subnets.len() == 2);
    }
}
