//! A DEL for what the reference plugins attached: a runtime that changes over with containers running sends it to rnet, which has no
//! record of them. The lease alone must not go then, or the next holder of the address is reached by the ports of the one
//! before. So DEL removes what the reference plugin would have removed, by its documented names, before the lease.
//!
//! Only where rnet has no record, so that no attachment of its own is ever touched. iptables' rules are reached if they
//! lie in nf_tables, as they do wherever `iptables -V` says so. Those of iptables-legacy can be seen only: a table there is
//! replaced as a whole, and what others write meanwhile would be lost. Then DEL fails, and the address stays taken.

use std::path::Path;

use cni::{CniResult, Interface, Request};
use engine::spec::Spec;
use engine::{Host, link};
use netlink::{Link, Netlink, Netns};
use nft::{Layer, Trace};
use sha2::{Digest, Sha512};
use store::Id;

use crate::{Error, host_local, members};

/// Chains of iptables have names of this length.
const CHAIN_NAME: usize = 28;
/// As long are the hashes in comments.
const HASH: usize = 16;

/// What `bridge` or `ptp` made: the veth pair and the rules that masquerade.
pub fn detach(host: &mut Host, spec: &Spec, request: &Request<'_>) -> Result<(), Error> {
    if let Some(port) = port(host, spec, request)? {
        link::delete(host, port.index)?;
    }
    let traces = masquerade(&request.config.name, &request.call.container_id, &request.call.ifname);
    remove(host, &traces)?;
    refuse_legacy(&traces, &request.call.container_id)
}

/// What `portmap` made.
pub fn unpublish(host: &mut Host, id: &Id) -> Result<(), Error> {
    let traces = ports(&id.network, &id.container);
    remove(host, &traces)?;
    refuse_legacy(&traces, &id.container)
}

fn refuse_legacy(traces: &[Trace], container: &str) -> Result<(), Error> {
    for trace in traces {
        if let Trace::Chain { layer, name, .. } = trace {
            let v6 = *layer == Layer::Ip6;
            if netlink::has_legacy_chain(v6, "nat", name)? {
                let (chain, container) = (name.clone(), container.to_owned());
                return Err(Error::LegacyRules { v6, chain, container });
            }
        }
    }
    Ok(())
}

fn remove(host: &mut Host, traces: &[Trace]) -> Result<(), Error> {
    match host.firewall().and_then(|firewall| Ok(firewall.remove_traces(traces)?)) {
        Ok(true) => Ok(host.note_deletion()?),
        Ok(false) => Ok(()),
        // A kernel without nf_tables has none of these rules.
        Err(engine::Error::Nft(error)) if error.missing().is_some() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// utils.MustFormatChainNameWithPrefix and ip.SetupIPMasqForNetworks upstream, for either backend.
fn masquerade(network: &str, container: &str, ifname: &str) -> Vec<Trace> {
    let name = chain("CNI-", network, container);
    let from = "POSTROUTING";
    let by_iptables = [Layer::Ip, Layer::Ip6].map(|layer| Trace::Chain { layer, from, name: name.clone() });
    let attachment = format!("{ifname}:{container}");
    let comment = format!("{}-{}", &hash(network)[..HASH], &hash(&attachment)[..HASH]);
    let by_nft = Trace::Commented { layer: Layer::Inet, table: "cni_plugins_masquerade", comment };
    by_iptables.into_iter().chain([by_nft]).collect()
}

/// portmap's own chain for the container behind `CNI-HOSTPORT-DNAT`; by nft, rules that bear the container's id.
fn ports(network: &str, container: &str) -> Vec<Trace> {
    let name = chain("CNI-DN-", network, container);
    let of = |layer| {
        let (from, name, comment) = ("CNI-HOSTPORT-DNAT", name.clone(), container.to_owned());
        let by_nft = Trace::Commented { layer, table: "cni_hostport", comment };
        [Trace::Chain { layer, from, name }, by_nft]
    };
    [Layer::Ip, Layer::Ip6].into_iter().flat_map(of).collect()
}

fn chain(prefix: &str, network: &str, container: &str) -> String {
    let mut name = format!("{prefix}{}", hash(&format!("{network}{container}")));
    name.truncate(CHAIN_NAME);
    name
}

fn hash(text: &str) -> String {
    Sha512::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The host end of the container's interface, if the call shows that it is of this network: a result that names it, or a
/// lease behind the network's own bridge, or behind none where the network has none. What cannot be told apart is left alone.
fn port(host: &mut Host, spec: &Spec, request: &Request<'_>) -> Result<Option<Link>, Error> {
    let previous = request.config.prev_result().ok().flatten().unwrap_or_default();
    let Some((port, inside)) = pair(host, request, &previous)? else { return Ok(None) };
    // Every host end of rnet's has an alias.
    let is_foreign = port.alias.is_none() && port.kind.as_deref() == Some("veth");
    let bridge = host.netlink.link(&spec.bridge)?.map(|bridge| bridge.index);
    // A host end that `ptp` made is on none.
    let is_at_home = port.master == bridge && bridge.is_some() != spec.bridge.is_empty();
    let is_told = names(&previous, &port, None) || names(&previous, &inside, Some(&request.call.ifname));
    let is_ours = is_foreign && (is_told || is_at_home && has_lease(request));
    Ok(is_ours.then_some(port))
}

/// Both ends of the container's interface: by its namespace, or, where there is none any more, by the result of ADD. Of
/// an interface that cannot be looked at, the host end stands for both.
fn pair(host: &mut Host, request: &Request<'_>, previous: &CniResult) -> Result<Option<(Link, Link)>, Error> {
    if let Ok(netns) = Netns::open(Path::new(&request.call.netns)) {
        let Some(inside) = Netlink::inside(&netns)?.link(&request.call.ifname)? else { return Ok(None) };
        let Some(peer) = inside.peer.filter(|_| inside.peer_netnsid.is_some()) else { return Ok(None) };
        let port = host.netlink.link_by_index(peer)?;
        // The number counts in the host's namespace only if it leads back from there.
        return Ok(port.filter(|port| port.peer == Some(inside.index)).map(|port| (port, inside)));
    }
    for told in previous.interfaces.iter().filter(|interface| interface.sandbox.is_none()) {
        if let Some(port) = host.netlink.link(&told.name)?
            && port.kind.as_deref() == Some("veth")
        {
            return Ok(Some((port.clone(), port)));
        }
    }
    Ok(None)
}

/// True if a result lists an interface of this MAC: `sandbox` is its name inside, `None` its side on the host.
fn names(result: &CniResult, link: &Link, inside: Option<&String>) -> bool {
    let name = inside.unwrap_or(&link.name);
    let is_it = |told: &Interface| {
        let mac = link.mac.map(|mac| mac.to_string());
        let same_mac =
            told.mac.as_deref().is_some_and(|told| mac.is_some_and(|mac| mac.eq_ignore_ascii_case(told)));
        &told.name == name && told.sandbox.is_some() == inside.is_some() && same_mac
    };
    result.interfaces.iter().any(is_it)
}

/// True if host-local's folder of this network has a lease of this container's interface.
fn has_lease(request: &Request<'_>) -> bool {
    let is_host_local = |ipam: members::IpamMember| members::is_named(&ipam.kind, "host-local");
    members::ipam(request).is_some_and(is_host_local) && host_local::check(request).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `printf nc1 | sha512sum` and the like say, cut as upstream cuts it.
    #[test]
    fn names_are_those_of_the_reference_plugins() {
        let chain = |name: &str, from, layer| Trace::Chain { layer, from, name: name.into() };
        let commented =
            |layer, table, comment: &str| Trace::Commented { layer, table, comment: comment.into() };
        let (masquerading, dnat) = ("CNI-9b00b9b7c2795a8a61a6eec1", "CNI-DN-9b00b9b7c2795a8a61a6e");

        let by_nft = "917148ec47923f2e-f4d01f2ef4b92245";
        assert_eq!(
            masquerade("n", "c1", "eth0"),
            [
                chain(masquerading, "POSTROUTING", Layer::Ip),
                chain(masquerading, "POSTROUTING", Layer::Ip6),
                commented(Layer::Inet, "cni_plugins_masquerade", by_nft),
            ]
        );
        assert_eq!(
            ports("n", "c1"),
            [
                chain(dnat, "CNI-HOSTPORT-DNAT", Layer::Ip),
                commented(Layer::Ip, "cni_hostport", "c1"),
                chain(dnat, "CNI-HOSTPORT-DNAT", Layer::Ip6),
                commented(Layer::Ip6, "cni_hostport", "c1"),
            ]
        );
    }
}
