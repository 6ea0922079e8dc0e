//! Names: what a container answers to on its network, and the name server that is told of it.
//!
//! The records are the truth, and the server is told of changes to them: at ADD after the record is committed, at DEL
//! after it is an intent again. So a server that starts at any moment knows no less and no more.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use dns::{Endpoint, Known, Listening, Resolv, client};
use ipnetwork::IpNetwork;
use nft::{Element, Owner, Protocol};
use store::{LockName, Mode, Network, NetworkKey, Record, Stage, Store, Zone};

use super::{Feature, Making};
use crate::network::{self, Held};
use crate::spec::Resolver;
use crate::{Error, Finding, Host};

/// Where questions are taken, and where the servers outside take them (RFC 1035, 4.2).
pub const PORT: u16 = 53;

/// The host's resolver settings.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The characters of a container's id that docker shows, and that it answers to.
const SHORT_ID: usize = 12;

/// The feature of this file.
pub struct Names;

impl Feature for Names {
    fn network_elements(&self, network: &Network) -> Vec<(Element, Owner)> {
        questions(network)
    }

    fn publish(&self, host: &mut Host, making: &Making<'_>, held: &mut Option<Held>) -> Result<(), Error> {
        self.repaired(host, &making.record, held)
    }

    fn repaired(&self, host: &mut Host, record: &Record, held: &mut Option<Held>) -> Result<(), Error> {
        match held.take_if(|held| held.network.zone.is_some()) {
            Some(held) => announce(host, record, held),
            None => Ok(()),
        }
    }

    fn withdraw(&self, host: &Host, record: &Record) {
        withdraw(host, record);
    }

    fn forget(&self, host: &Host, network: &Network) {
        forget_network(host, network);
    }

    fn look(&self, host: &mut Host, record: &Record, tell: &mut dyn FnMut(Finding)) -> Result<(), Error> {
        look(host, record)?.into_iter().for_each(tell);
        Ok(())
    }
}

/// How names are served to a container.
#[derive(Clone, Debug, Default)]
pub struct Served {
    /// The domain that names also have.
    pub domain: Option<String>,
    /// The network's own servers for all other questions.
    pub upstreams: Vec<SocketAddr>,
    /// The container's aliases.
    pub aliases: Vec<String>,
    /// What the container takes for its host's name.
    pub hostname: Option<String>,
    /// The container's own servers, before the network's.
    pub own_upstreams: Vec<SocketAddr>,
    /// What the container's resolver tries after the domain; none means the host's list.
    pub search: Vec<String>,
    /// Options for the container's resolver.
    pub options: Vec<String>,
    /// Answers from outside that point into a subnet of ours are dropped.
    pub rebinding_guard: bool,
}

impl Served {
    /// The container's part, in its record.
    pub fn describe(&self, record: &mut Record) {
        record.names = self.of_container(record.name.as_deref(), &record.container);
        record.upstreams.clone_from(&self.own_upstreams);
    }

    /// The network's part.
    pub fn zone(&self, gateways: Vec<IpAddr>, subnets: Vec<IpNetwork>) -> Zone {
        let (domain, upstreams) = (self.domain.clone(), self.upstreams.clone());
        let rebinding_guard = self.rebinding_guard;
        Zone { domain, gateways, subnets, upstreams, rebinding_guard, ..Zone::default() }
    }

    /// What the container is told: to ask the gateways, and to try the network's domain first (N3).
    pub fn resolver(&self, gateways: impl Iterator<Item = IpAddr>) -> Resolver {
        let host = match (self.search.is_empty(), self.options.is_empty()) {
            (false, false) => Resolv::default(),
            _ => Resolv::read(Path::new(RESOLV_CONF)),
        };
        let pick = |own: &Vec<String>, hosts| if own.is_empty() { hosts } else { own.clone() };
        let further = pick(&self.search, host.search);
        let mut search: Vec<String> = self.domain.clone().into_iter().collect();
        search.extend(further.into_iter().filter(|domain| Some(domain) != self.domain.as_ref()));
        Resolver {
            nameservers: gateways.map(|gateway| gateway.to_string()).collect(),
            search,
            options: pick(&self.options, host.options),
            domain: None,
        }
    }

    /// What a container answers to, in the order of preference (N1): its name, its aliases, the beginning of its id, its
    /// hostname. Never empty.
    fn of_container(&self, name: Option<&str>, container: &str) -> Vec<String> {
        let short: String = container.chars().take(SHORT_ID).collect();
        let aliases = self.aliases.iter().map(String::as_str);
        let mut names: Vec<String> = Vec::with_capacity(self.aliases.len() + 3);
        for name in name.into_iter().chain(aliases).chain([short.as_str()]).chain(self.hostname.as_deref()) {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        names
    }
}

/// Tells the name server of a committed attachment; afterwards its names answer. Starts the server if need be.
pub fn announce(host: &mut Host, record: &Record, held: Held) -> Result<(), Error> {
    let Some(zone) = &held.network.zone else { return Ok(()) };
    let told = (served(&held.network, zone), endpoint(record));
    let socket = host.store.paths().name_server();
    let tell = || client::set(&socket, &told.0, Some(&told.1));
    let listening = match tell() {
        Err(absent) if absent.is_absent() => start(host, &socket).and_then(|()| Ok(tell()?))?,
        Err(client::Error::Silent { pid, waited }) if pid != 0 => {
            return Err(Error::NameServerSilent { pid, waited });
        }
        other => other?,
    };
    let moved = moved(listening.iter());
    if is_same(&moved, &zone.moved) { Ok(()) } else { network::redirect_names(host, held, moved) }
}

/// Tells the name server that an attachment is going: afterwards its names do not answer.
///
/// A server that does not answer now gives no answer to anybody either; what it is told waits at its socket, and one
/// that starts anew reads the record.
pub fn withdraw(host: &Host, record: &Record) {
    if record.names.is_empty() {
        return;
    }
    if record.stage == Stage::Committed {
        let _ = host.store.write_record(&Record { stage: Stage::Intent, ..record.clone() });
    }
    let socket = host.store.paths().name_server();
    let _ = client::remove_endpoint(&socket, &record.network, &record.container, &record.ifname);
}

/// Tells the name server that a network goes, before its record does: one that starts meanwhile reads that it has no
/// attachment.
pub fn forget_network(host: &Host, network: &Network) {
    if network.zone.is_some() {
        let _ = client::remove_network(&host.store.paths().name_server(), &network.name);
    }
}

/// Whether the name server answers, in this namespace, and knows what is on record.
fn look(host: &Host, record: &Record) -> Result<Option<Finding>, Error> {
    if record.names.is_empty() {
        return Ok(None);
    }
    let Some(network) = host.store.network(&record.network, &record.plugin)? else {
        return Ok(Some(Finding::Names(format!("nothing is on record of network {}", record.network))));
    };
    let Some(zone) = &network.zone else { return Ok(None) };
    let socket = host.store.paths().name_server();
    let known = client::check(&socket, &served(&network, zone), &endpoint(record));
    Ok(known.err().map(|error| Finding::Names(error.to_string())))
}

/// Tells all that is on record, networks first: what a server that starts is to know.
pub fn tell_all(store: &Store, tell: &mut dyn FnMut(Known)) -> Result<(), Error> {
    let mut with_names = HashSet::new();
    for network in store.networks()? {
        // Without an attachment it is on its way out.
        let zone = network.zone.as_ref();
        let in_use = zone.is_some() && store.has_records(&network.name, &network.plugin)?;
        if let Some(zone) = zone.filter(|_| in_use) {
            tell(Known::Network(served(&network, zone)));
            with_names.insert((network.name, network.plugin));
        }
    }
    Ok(store.each_record(|record| {
        let network = (record.network.clone(), record.plugin.clone());
        if record.stage == Stage::Committed && with_names.contains(&network) {
            tell(Known::Endpoint(endpoint(&record)));
        }
    })?)
}

fn served(network: &Network, zone: &Zone) -> dns::Network {
    dns::Network {
        name: network.name.clone(),
        domain: zone.domain.clone(),
        bridge: network.bridge.clone(),
        gateways: zone.gateways.clone(),
        subnets: zone.subnets.clone(),
        internal: zone.internal,
        upstreams: zone.upstreams.clone(),
        rebinding_guard: zone.rebinding_guard,
    }
}

fn endpoint(record: &Record) -> Endpoint {
    Endpoint {
        network: record.network.clone(),
        container: record.container.clone(),
        ifname: record.ifname.clone(),
        names: record.names.clone(),
        addresses: record.addresses.iter().map(|address| address.address.ip()).collect(),
        upstreams: record.upstreams.clone(),
    }
}

/// The gateways whose port somebody else has, with the port in its place (L3).
fn moved<'a>(listening: impl Iterator<Item = &'a Listening>) -> Vec<SocketAddr> {
    let elsewhere = listening.filter(|listening| listening.port != PORT);
    elsewhere.map(|listening| SocketAddr::new(listening.address, listening.port)).collect()
}

/// In whatever order.
fn is_same(one: &[SocketAddr], other: &[SocketAddr]) -> bool {
    one.len() == other.len() && one.iter().all(|place| other.contains(place))
}

/// Sends the questions of all networks to where the server takes them, after it could not have the ports that are on
/// record (L3). One network's failure, told at the end, keeps no other from it.
pub fn redirect(host: &mut Host) -> Result<(), Error> {
    let listening = client::listening(&host.store.paths().name_server())?;
    let mut redirected = Ok(());
    for network in host.store.networks()? {
        redirected = redirected.and(redirect_one(host, network, &listening));
    }
    redirected
}

fn redirect_one(host: &mut Host, network: Network, listening: &[Listening]) -> Result<(), Error> {
    let Some(zone) = &network.zone else { return Ok(()) };
    let own = listening.iter().filter(|listening| zone.gateways.contains(&listening.address));
    let moved = moved(own);
    if is_same(&moved, &zone.moved) {
        return Ok(());
    }
    let held = network::hold_alone(host, network)?;
    network::redirect_names(host, held, moved)
}

/// Where the ruleset sends the questions to gateways whose port somebody else had.
pub fn places(store: &Store) -> HashMap<IpAddr, u16> {
    let networks = store.networks().unwrap_or_default();
    let zones = networks.into_iter().filter_map(|network| network.zone);
    zones.flat_map(|zone| zone.moved).map(|place| (place.ip(), place.port())).collect()
}

/// Starts the server, unless another was quicker. It has detached itself and takes requests when this returns.
fn start(host: &Host, socket: &Path) -> Result<(), Error> {
    let _alone = host.lock(LockName::Names, Mode::Exclusive)?;
    if client::ping(socket).is_ok() {
        return Ok(());
    }
    let mut command = Command::new("/proc/self/exe");
    command.arg0("rnet").args(["dns", "serve", "--detach"]);
    command.env_clear().envs(host.store.paths().environment());
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = command.output().map_err(|error| Error::NameServer { said: error.to_string() })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).replace("\n hint: ", "; ");
    Err(Error::NameServer { said: said.trim().trim_start_matches("error: ").to_owned() })
}

/// Where questions to the gateways go: to the name server's own port where somebody else has port 53, and else where they
/// went anyway. Said aloud, that keeps them from whoever publishes port 53 on every address.
fn questions(network: &Network) -> Vec<(Element, Owner)> {
    let Some(owner) = owner_of_questions() else { return Vec::new() };
    let zones = [network].into_iter().chain(&network.former).filter_map(|network| network.zone.as_ref());
    let leads: BTreeMap<IpAddr, SocketAddr> = zones.rev().flat_map(ways).collect();
    let published =
        |(gateway, to), protocol| Element::Publish { host: Some(gateway), protocol, host_port: PORT, to };
    let both = |way| [Protocol::Udp, Protocol::Tcp].map(|protocol| (published(way, protocol), owner));
    leads.into_iter().flat_map(both).collect()
}

/// The gateways of a zone and where each one's questions go.
fn ways(zone: &Zone) -> impl Iterator<Item = (IpAddr, SocketAddr)> {
    let stay = zone.gateways.iter().map(|gateway| SocketAddr::new(*gateway, PORT));
    stay.chain(zone.moved.iter().copied()).map(|to| (to.ip(), to))
}

/// No bridge, as of the rest: a network may change its bridge's name and keep its gateway.
pub fn owner_of_questions() -> Option<Owner> {
    // No name of a bridge has a blank.
    Owner::new(NetworkKey::new("port 53").as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_answers_to_its_name_its_aliases_its_short_id_and_its_hostname() {
        let aliases = vec!["www".to_owned(), "4f2a9c001122".to_owned()];
        let names = Served { aliases, hostname: Some("app".into()), ..Served::default() };
        let id = "4f2a9c00112233445566";
        assert_eq!(names.of_container(Some("web"), id), ["web", "www", "4f2a9c001122", "app"]);
        assert_eq!(names.of_container(Some("app"), id), ["app", "www", "4f2a9c001122"]);
        assert_eq!(Served::default().of_container(None, "lab-1"), ["lab-1"]);
    }

    #[test]
    fn a_container_asks_its_gateway_and_tries_its_own_domain_first() {
        let (domain, search) = (Some("dns.rnet".into()), vec!["lan".into()]);
        let names = Served { domain, search, options: vec!["ndots:2".into()], ..Served::default() };

        let resolver = names.resolver(["172.18.0.1".parse().unwrap()].into_iter());

        assert_eq!(resolver.nameservers, ["172.18.0.1"]);
        assert_eq!(
            (resolver.search, resolver.options),
            (vec!["dns.rnet".into(), "lan".into()], vec!["ndots:2".into()])
        );
    }
}
