//! CHECK: is everything still there that ADD made? It changes nothing.

use ipnetwork::IpNetwork;
use netlink::{Link, Netlink, Netns, Route};
use nft::{Element, Owner};
use store::{Address, Record};

use crate::ip::subnet;
use crate::spec::{self, Outcome, Spec};
use crate::{Error, Finding, Host, drivers, elements, features, lease, register, transaction};

/// No table in particular (linux/rtnetlink.h).
const RT_TABLE_UNSPEC: u32 = 0;

/// CHECK of an attachment: its lease, its bridge, its pair, what is inside the container, its elements. `previous` is what its
/// ADD told, and what plugins behind it made of that.
///
/// # Errors
/// The first thing that is not as ADD left it.
pub fn attachment(spec: &Spec, previous: &Outcome) -> Result<(), Error> {
    let mut host = Host::open(format!("CHECK {}", spec.id))?;
    lease::check(&host, spec, previous)?;
    let found = host.store.record(&spec.id.network, spec.plugin, &spec.id.key())?;
    let record = found.ok_or_else(|| register::no_record(&spec.id))?;
    let mut found = Vec::new();
    let driver = drivers::of(spec.plugin);
    driver.look(&mut host, spec, &record, Some(previous), &mut |finding| found.push(finding))?;
    first(found)?;
    container(spec, previous)?;
    health(&mut host, &record)
}

/// Tells everything that is not as ADD left it, as far as the host can tell without looking into the container.
///
/// # Errors
/// It cannot be found out.
pub fn look(
    host: &mut Host,
    spec: &Spec,
    record: &Record,
    tell: &mut dyn FnMut(Finding),
) -> Result<(), Error> {
    drivers::of(&record.plugin).look(host, spec, record, None, tell)?;
    elements(host, record)?.into_iter().for_each(&mut *tell);
    features::each(|feature| feature.look(host, record, tell))
}

fn first(found: Vec<Finding>) -> Result<(), Error> {
    found.into_iter().next().map_or(Ok(()), |finding| Err(finding.into()))
}

/// Everything of an attachment besides its interface: its elements, and what features have besides.
///
/// # Errors
/// The first thing that is not as ADD left it.
pub fn health(host: &mut Host, record: &Record) -> Result<(), Error> {
    if let Some(finding) = elements(host, record)? {
        return Err(finding.into());
    }
    let mut found = Vec::new();
    features::each(|feature| feature.look(host, record, &mut |finding| found.push(finding)))?;
    first(found)
}

/// What is wrong with the elements of a record and of its network, or with the rules that rnet wrote.
fn elements(host: &mut Host, record: &Record) -> Result<Option<Finding>, Error> {
    let network = host.store.network(&record.network, &record.plugin)?;
    let of_network: Vec<_> = network.iter().flat_map(elements::network_elements).collect();
    // A subnet that another one of its bridge contains is not in the ruleset by itself.
    let of_all = elements::of_all(&host.store.networks()?);
    let mut wanted = elements::uncovered(elements::attachment(record), &of_all);
    wanted.extend(of_network.into_iter().filter(|element| of_all.contains(element)));
    if wanted.is_empty() {
        return Ok(None);
    }
    let finding = transaction::finding(host)?;
    // Which elements another version lacks says less.
    if finding == Some(Finding::OtherRuleset) || host.firewall()?.holds(&wanted)? {
        return Ok(finding);
    }
    let element = first_missing(host, &wanted)?.map_or_else(String::new, |element| element.to_string());
    Ok(Some(Finding::NoElement { element }))
}

fn first_missing<'e>(host: &mut Host, wanted: &'e [(Element, Owner)]) -> Result<Option<&'e Element>, Error> {
    for one in wanted {
        if !host.firewall()?.holds(std::slice::from_ref(one))? {
            return Ok(Some(&one.0));
        }
    }
    Ok(None)
}

fn container(spec: &Spec, previous: &Outcome) -> Result<(), Error> {
    let ifname = &spec.id.ifname;
    let entry = previous.inside(ifname).ok_or_else(|| Finding::NoInterface(ifname.clone()))?;
    let (found, wanted) = (entry.netns.clone().unwrap_or_default(), spec.netns.to_string_lossy());
    if found != wanted {
        return Err(Finding::Sandbox { found, wanted: wanted.into_owned() }.into());
    }
    let mut inside = Netlink::inside(&Netns::open(&spec.netns)?)?;
    let link = inside.link(ifname)?.ok_or_else(|| Finding::NoContainerLink(ifname.clone()))?;
    if let Some((found, wanted)) = entry.differing_mac(&link) {
        return Err(Finding::Mac { ifname: ifname.clone(), found, wanted }.into());
    }
    match (spec.interface_up, link.up) {
        (false, _) => Ok(()),
        (true, true) => addresses(&mut inside, &link, &previous.lease),
        (true, false) => Err(Finding::ContainerLinkDown(ifname.clone()).into()),
    }
}

fn addresses(inside: &mut Netlink, link: &Link, previous: &spec::Lease) -> Result<(), Error> {
    let found = inside.addresses(Some(link.index))?;
    for ip in &previous.addresses {
        if found.iter().all(|found| found.address != ip.address) {
            let (address, ifname) = (ip.address.to_string(), link.name.clone());
            return Err(Finding::NoContainerAddress { address, ifname }.into());
        }
    }
    let routes = inside.routes()?;
    if let Some(ip) = previous.addresses.iter().find(|ip| !is_connected(&routes, link.index, ip.address)) {
        return Err(no_connected_route(ip, &link.name).into());
    }
    match previous.routes.iter().find(|wanted| !is_routed(&routes, wanted)) {
        Some(missing) => Err(Finding::NoRoute(in_words(missing)).into()),
        None => Ok(()),
    }
}

/// True if the address's subnet is reached by its link. A later plugin may have moved the route to another table, and a
/// lone address has none.
fn is_connected(routes: &[Route], index: u32, address: IpNetwork) -> bool {
    let is_lone = address.prefix() == if address.is_ipv4() { 32 } else { 128 };
    let subnet = subnet(address);
    is_lone || routes.iter().any(|route| route.index == index && route.destination == subnet)
}

/// True if a route is there in the table and by the gateway that were asked for; a default route may have been changed.
fn is_routed(routes: &[Route], wanted: &spec::Route) -> bool {
    let gateway = wanted.gw.filter(|_| wanted.dst.prefix() > 0);
    let table = wanted.table.filter(|table| *table != RT_TABLE_UNSPEC);
    // The kernel keeps networks only, a configuration may name an address in one.
    let destination = subnet(wanted.dst);
    routes.iter().filter(|route| route.destination == destination).any(|route| {
        gateway.is_none_or(|gateway| route.gateway == Some(gateway))
            && table.is_none_or(|table| route.table == Some(table))
    })
}

fn no_connected_route(ip: &Address, ifname: &str) -> Finding {
    Finding::NoConnectedRoute {
        gateway: ip.gateway.map_or_else(|| "<nil>".into(), |gateway| gateway.to_string()),
        ifname: ifname.to_owned(),
        subnet: subnet(ip.address).to_string(),
    }
}

/// What was looked for, as `ip route` would say it.
fn in_words(route: &spec::Route) -> String {
    let gateway = route.gw.filter(|_| route.dst.prefix() > 0).map(|gateway| format!(" via {gateway}"));
    let table = route.table.filter(|table| *table != RT_TABLE_UNSPEC).map(|table| format!(" table {table}"));
    format!("{}{}{}", route.dst, gateway.unwrap_or_default(), table.unwrap_or_default())
}
