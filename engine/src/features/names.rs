//! Names: what a container answers to on its network, and the name server that is told of it.
//!
//! The records are the truth, and the server is told of changes to them: at ADD after the record is committed, at DEL
//! after it is an intent again. So a server that starts at any moment knows no less and no more.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use dns::{Endpoint, Known, Listening, client};
use nft::{Element, Owner, Protocol};
use store::{LockName, Mode, Network, Record, Stage, Store, Zone};

use crate::feature::{Change, Feature};
use crate::keys::owner_of_questions;
use crate::served::PORT;
use crate::{Error, Finding, Host};

/// The feature of this file.
pub struct Names;

impl Feature for Names {
    fn network_elements(&self, network: &Network) -> Vec<(Element, Owner)> {
        questions(network)
    }

    fn publish(&self, host: &mut Host, record: &Record, network: &Network) -> Result<Option<Change>, Error> {
        match &network.zone {
            Some(zone) => announce(host, record, network, zone),
            None => Ok(None),
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

/// Tells the name server of a committed attachment; afterwards its names answer. Starts the server if need be.
fn announce(
    host: &mut Host,
    record: &Record,
    network: &Network,
    zone: &Zone,
) -> Result<Option<Change>, Error> {
    let told = (network_of(network, zone), endpoint(record));
    let socket = host.store.paths().name_server();
    let tell = || client::set(&socket, &told.0, Some(&told.1));
    let listening = match tell() {
        Err(absent) if absent.is_absent() => start(host, &socket).and_then(|()| Ok(tell()?))?,
        Err(client::Error::Silent { pid, waited }) if pid != 0 => {
            return Err(Error::NameServerSilent { pid, waited });
        }
        other => other?,
    };
    let moved = elsewhere(listening.iter());
    Ok((!is_same(&moved, &zone.moved)).then(|| move_gateways(moved)))
}

/// Remembers which gateways' port 53 another program has, and where the name server listens instead.
fn move_gateways(moved: Vec<SocketAddr>) -> Change {
    Box::new(|network: Network| {
        let zone = network.zone.clone().map(|zone| Zone { moved, ..zone });
        Network { zone, ..network }
    })
}

/// Tells the name server that an attachment is going: afterwards its names do not answer.
///
/// A server that does not answer now answers no query either; what it is told waits at its socket, and one
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
    let known = client::check(&socket, &network_of(&network, zone), &endpoint(record));
    Ok(known.err().map(|error| Finding::Names(error.to_string())))
}

/// Tells all that is on record, networks first: what a server that starts is to know.
///
/// # Errors
/// The records cannot be read.
pub fn tell_all(store: &Store, tell: &mut dyn FnMut(Known)) -> Result<(), Error> {
    let mut with_names = HashSet::new();
    for network in store.networks()? {
        // Without an attachment it is on its way out.
        let zone = network.zone.as_ref();
        let in_use = zone.is_some() && store.has_records(&network.name, &network.plugin)?;
        if let Some(zone) = zone.filter(|_| in_use) {
            tell(Known::Network(network_of(&network, zone)));
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

fn network_of(network: &Network, zone: &Zone) -> dns::Network {
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

/// The gateways whose port another program has, with the port in its place (L3).
fn elsewhere<'a>(listening: impl Iterator<Item = &'a Listening>) -> Vec<SocketAddr> {
    let elsewhere = listening.filter(|listening| listening.port != PORT);
    elsewhere.map(|listening| SocketAddr::new(listening.address, listening.port)).collect()
}

/// In whatever order.
fn is_same(one: &[SocketAddr], other: &[SocketAddr]) -> bool {
    one.len() == other.len() && one.iter().all(|place| other.contains(place))
}

/// Where the name server listens.
///
/// # Errors
/// The name server does not answer.
pub fn listening(host: &Host) -> Result<Vec<Listening>, Error> {
    Ok(client::listening(&host.store.paths().name_server())?)
}

/// What changes for a network if the name server listens there.
pub fn move_to(network: &Network, listening: &[Listening]) -> Option<Change> {
    let zone = network.zone.as_ref()?;
    let own = listening.iter().filter(|listening| zone.gateways.contains(&listening.address));
    let moved = elsewhere(own);
    (!is_same(&moved, &zone.moved)).then(|| move_gateways(moved))
}

/// Where the ruleset sends the questions to gateways whose port another program had.
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

/// Where questions to the gateways go: to the name server's own port if another program has port 53. Otherwise they stay, by an
/// element of their own, so that a container which publishes port 53 on every address does not get them.
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
