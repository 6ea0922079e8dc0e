//! A veth pair whose host end bears the gateway's address: the container's only neighbour is the host, which has a route to each of
//! its addresses.
//!
//! Containers of one network share nothing in the kernel. All that is made for one hangs on its pair and goes with it, except for
//! the elements of the ruleset.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink::{Link, Netlink, Netns, Request, Route};
use store::{Address, LockName, Mode, Network, Record, Stage};

use super::given::remember;
use super::veth;
use crate::driver::Driver;
use crate::held::Held;
use crate::ip::subnet;
use crate::making::{Ends, Making};
use crate::spec::{Interface, Lease, Outcome, Spec};
use crate::{Error, Finding, Host, failpoint, features, forward, link, lost};

/// The driver of this file.
pub struct Ptp;

impl Driver for Ptp {
    fn plugins(&self) -> &'static [&'static str] {
        &["ptp"]
    }

    /// Without a gateway there is no route into the container's subnet: that is told before there is an interface.
    fn hold(&self, host: &mut Host, making: &mut Making<'_>) -> Result<Held, Error> {
        let without = making.lease.addresses.iter().find(|address| address.gateway.is_none());
        if let Some(without) = without {
            let (address, network) = (without.address.to_string(), making.spec.id.network.clone());
            return Err(Error::NoGateway { address, network });
        }
        remember(host, plan(making.spec))
    }

    fn make(&self, host: &mut Host, making: &mut Making<'_>, _: &Held) -> Result<Ends, Error> {
        let mtu = making.spec.mtu;
        veth::create(host, making, None, mtu)
    }

    /// Addresses and routes are last: the kernel takes a route only by a link that is up.
    fn open(&self, host: &mut Host, making: &Making<'_>, _: &Held, ends: &Ends) -> Result<(), Error> {
        let Some(index) = ends.host else { return Ok(()) };
        let record = &making.record;
        let name = record.link.clone().unwrap_or_default();
        link::refuse_advertisements(host, &name)?;
        forward::enable(host, making.spec, &name, addresses(record))
            .map_err(Error::of("Could not enable IP forwarding"))?;
        failpoint::pass("add.forward")?;
        let mut requests =
            vec![Request::LinkAlias { index, name: name.clone(), alias: record.key().to_string() }];
        if !has_v6(record) {
            requests.push(Request::LinkNoAutoAddress { index, name: name.clone() });
        }
        requests.push(Request::LinkUp { index, name: name.clone() });
        let whole = Lacking { gateways: gateways(record), addresses: addresses(record).collect() };
        requests.extend(whole.requests(index, &name));
        Ok(host.netlink.send(&requests)?)
    }

    fn dress(
        &self,
        host: &Host,
        inside: &mut Netlink,
        making: &Making<'_>,
        ends: &Ends,
    ) -> Result<(), Error> {
        let Some(index) = ends.container else { return Ok(()) };
        link::dress_with(host, inside, making, index, by_the_gateway(&making.record.addresses, index))
    }

    /// Host end, container.
    fn interfaces(&self, making: &Making<'_>, _: &Held) -> Vec<Interface> {
        veth::interfaces(&making.record).into()
    }

    /// The host end goes down: what the container sends must not pass without the elements that are about to go.
    fn silence(&self, host: &mut Host, record: &Record) -> Result<Option<Link>, Error> {
        let Some(link) = link::find(host, record)? else { return Ok(None) };
        match host.netlink.send(&[Request::LinkDown { index: link.index, name: link.name.clone() }]) {
            // The container's namespace may have ended just now, and the pair with it.
            Err(_) if link::find(host, record)?.is_none() => Ok(None),
            other => Ok(other.map(|()| Some(link))?),
        }
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

    fn look(
        &self,
        host: &mut Host,
        spec: &Spec,
        record: &Record,
        previous: Option<&Outcome>,
        tell: &mut dyn FnMut(Finding),
    ) -> Result<(), Error> {
        let Some(found) = link::find(host, record)? else {
            tell(Finding::NoHostEnd(record.ifname.clone()));
            return Ok(());
        };
        look_at_host_end(host, spec, record, &found, tell)?;
        // Only CHECK, which knows what ADD told, looks into the container.
        if previous.is_some() { look_inside(spec, record, tell) } else { Ok(()) }
    }

    fn require(&self, host: &mut Host, _: &Spec) -> Result<(), Error> {
        host.require_links()
    }

    /// Each container's host end by itself, under the attachment's lock: DEL must not find it up again.
    fn make_whole(&self, host: &mut Host, spec: &Spec, _: &Lease) -> Result<Option<Held>, Error> {
        let all = host.store.records()?;
        let is_own = |record: &&Record| record.network == spec.id.network && record.plugin == spec.plugin;
        for record in all.iter().filter(is_own) {
            let _lock = host.lock(LockName::Attachment(record.key()), Mode::Exclusive)?;
            let known = host.store.record(&record.network, &record.plugin, &record.key())?;
            let Some(record) = known.filter(|known| known.stage == Stage::Committed) else { continue };
            restore_host_end(host, spec, &record)?;
            let is_behind = |other: &&Record| other.bridge.is_some() && other.bridge == record.link;
            let behind: Vec<Record> = all.iter().filter(is_behind).cloned().collect();
            features::each(|feature| feature.reattach(host, &behind))?;
        }
        let is_used = host.store.has_records(&spec.id.network, spec.plugin)?;
        is_used.then(|| remember(host, plan(spec))).transpose()
    }
}

/// What is remembered of the network: its name. It has no bridge, and its subnet is nowhere as a whole.
fn plan(spec: &Spec) -> Network {
    let (name, plugin) = (spec.id.network.clone(), spec.plugin.into());
    Network { name, plugin, no_interop: !spec.interop, ..Network::default() }
}

fn addresses(record: &Record) -> impl Iterator<Item = IpAddr> + Clone {
    record.addresses.iter().map(|address| address.address.ip())
}

fn has_v6(record: &Record) -> bool {
    addresses(record).any(|address| address.is_ipv6())
}

/// The gateways as the host end bears them, each alone: `10.1.0.1/32`.
fn gateways(record: &Record) -> BTreeSet<IpNetwork> {
    record.addresses.iter().filter_map(|address| address.gateway.map(IpNetwork::from)).collect()
}

/// The host's route to one address of the container, with the scope that upstream gives it.
fn to_container(address: IpAddr, index: u32) -> Route {
    const HOST: u32 = 254;
    Route { scope: Some(HOST), ..Route::new(address.into(), index) }
}

/// What the container's link gets in place of the route that comes with an address: a route to the gateway, and by it one to the
/// rest of the subnet.
fn by_the_gateway(addresses: &[Address], index: u32) -> Vec<Request> {
    let mut requests = Vec::new();
    let mut known = BTreeSet::new();
    for Address { address, gateway } in addresses {
        let (Some(gateway), whole) = (*gateway, subnet(*address)) else { continue };
        let source = Some(address.ip());
        if known.insert(IpNetwork::from(gateway)) {
            let route = Route { source, ..Route::new(gateway.into(), index) };
            requests.push(Request::RouteAdd(route));
        }
        // An address alone brings no route, and needs none.
        if whole != IpNetwork::from(address.ip()) && known.insert(whole) {
            requests.push(Request::RouteDel(Route::new(whole, index)));
            requests.push(Request::RouteAdd(Route { source, ..Route::via(whole, gateway, index) }));
        }
    }
    requests
}

/// What a host end has not, of that which leads to the container.
struct Lacking {
    gateways: BTreeSet<IpNetwork>,
    /// Those of the container to which no route leads.
    addresses: Vec<IpAddr>,
}

impl Lacking {
    fn of(host: &mut Host, record: &Record, link: &Link) -> Result<Self, Error> {
        let (mut gateways, mut addresses) = (gateways(record), addresses(record).collect::<Vec<_>>());
        let borne = host.netlink.addresses(Some(link.index))?;
        gateways.retain(|gateway| borne.iter().all(|it| it.address != *gateway));
        let routes = host.netlink.routes()?;
        addresses.retain(|address| {
            let to = IpNetwork::from(*address);
            !routes.iter().any(|route| route.index == link.index && route.destination == to)
        });
        Ok(Self { gateways, addresses })
    }

    fn requests(self, index: u32, name: &str) -> impl Iterator<Item = Request> {
        let bear = move |address| Request::AddressAdd { index, name: name.to_owned(), address };
        let route = move |address| Request::RouteAdd(to_container(address, index));
        self.gateways.into_iter().map(bear).chain(self.addresses.into_iter().map(route))
    }
}

/// Makes the host end of a container what ADD made it, as far as it is still there.
fn restore_host_end(host: &mut Host, spec: &Spec, record: &Record) -> Result<(), Error> {
    let Some(Link { index, name, master, .. }) = link::find(host, record)? else { return Ok(()) };
    link::refuse_advertisements(host, &name)?;
    forward::enable(host, spec, &name, addresses(record))?;
    let mut requests = Vec::new();
    if master.is_some() {
        requests.push(Request::LinkMaster { index, name: name.clone(), master: None });
    }
    requests.push(Request::LinkUp { index, name: name.clone() });
    host.netlink.send(&requests)?;
    // Only now: a link that goes up or changes its bridge loses or gets routes by that.
    if let Some(link) = link::find(host, record)? {
        let lacking = Lacking::of(host, record, &link)?;
        host.netlink.send(&lacking.requests(index, &name).collect::<Vec<_>>())?;
    }
    Ok(())
}

fn look_at_host_end(
    host: &mut Host,
    spec: &Spec,
    record: &Record,
    found: &Link,
    tell: &mut dyn FnMut(Finding),
) -> Result<(), Error> {
    let (link, network) = (&found.name, &spec.id.network);
    let mut lacks =
        |lacks: String| tell(Finding::HostEnd { link: link.clone(), lacks, network: network.clone() });
    if !found.up || found.master.is_some() {
        lacks("is down, or a port of a bridge".into());
    }
    let lacking = Lacking::of(host, record, found)?;
    for gateway in lacking.gateways {
        lacks(format!("lacks the gateway's address {gateway}"));
    }
    for address in lacking.addresses {
        lacks(format!("has no route to the container's address {address}"));
    }
    let taken = host.netlink.sysctl(&format!("ipv6/conf/{}/accept_ra", found.name))?;
    if taken.is_some_and(|taken| taken != "0") {
        lacks(format!("takes router advertisements (net.ipv6.conf.{}.accept_ra)", found.name));
    }
    for (v6, family) in [(false, "IPv4"), (true, "IPv6")] {
        let is_used = addresses(record).any(|address| address.is_ipv6() == v6);
        if is_used && !forward::is_on(host, &found.name, v6)? {
            tell(Finding::NoForwarding(family));
        }
    }
    Ok(())
}

/// What only this driver has made inside. The rest is looked at for every driver.
fn look_inside(spec: &Spec, record: &Record, tell: &mut dyn FnMut(Finding)) -> Result<(), Error> {
    let mut inside = Netlink::inside(&Netns::open(&spec.netns)?)?;
    // That it is missing or down is told for every driver.
    let Some(link) = inside.link(&record.ifname)?.filter(|link| link.up) else { return Ok(()) };
    if link.kind.as_deref() != Some("veth") {
        tell(Finding::NotVeth(record.ifname.clone()));
        return Ok(());
    }
    let routes = inside.routes()?;
    for request in by_the_gateway(&record.addresses, link.index) {
        let Request::RouteAdd(wanted) = request else { continue };
        let is_it = |route: &Route| {
            (route.index, route.destination, route.gateway)
                == (wanted.index, wanted.destination, wanted.gateway)
        };
        if !routes.iter().any(is_it) {
            let by = wanted.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
            tell(Finding::NoRoute(format!("{}{by}", wanted.destination)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_of_each_subnet_leads_by_the_gateway_and_comes_once() {
        let address = |address: &str, gateway: &str| Address {
            address: address.parse().unwrap(),
            gateway: Some(gateway.parse().unwrap()),
        };
        let texts = |addresses: &[Address]| -> Vec<String> {
            by_the_gateway(addresses, 7).iter().map(Request::to_string).collect()
        };

        let two = [address("10.1.0.5/24", "10.1.0.1"), address("10.1.0.6/24", "10.1.0.1")];
        assert_eq!(
            texts(&two),
            [
                "ip route append 10.1.0.1/32 dev if7 src 10.1.0.5",
                "ip route del 10.1.0.0/24 dev if7",
                "ip route append 10.1.0.0/24 via 10.1.0.1 dev if7 src 10.1.0.5",
            ]
        );
        let alone = [address("10.1.0.5/32", "10.9.0.1")];
        assert_eq!(texts(&alone), ["ip route append 10.9.0.1/32 dev if7 src 10.1.0.5"]);
    }
}
