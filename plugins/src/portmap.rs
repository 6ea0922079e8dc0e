//! The plugin `portmap`, with the reference plugin's keys: host ports that lead to a container.

use std::net::IpAddr;
use std::path::PathBuf;

use cni::{Args, Attachment, CniResult, Plugin, Request};
use serde::Deserialize;
use serde_json::Value;
use store::{Address, Exception, LockName, Mode, Namespace, Network, NetworkKey, Record, Stage};

use crate::bridge::RuntimeConfig;
use crate::conditions::{self, Dialect, Family};
use crate::error::{Fault, Finding};
use crate::plan::subnet;
use crate::{Error, Host, attach, check, failpoint, firewall, ports};

const PLUGIN: &str = "portmap";

/// The plugin of this file.
pub struct Portmap;

/// Its keys (cni.dev/plugins/current/meta/portmap).
#[derive(Debug, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    backend: Option<String>,
    snat: bool,
    masq_all: bool,
    mark_masq_bit: Option<i64>,
    external_set_mark_chain: Option<String>,
    #[serde(rename = "conditionsV4")]
    conditions_v4: Option<Vec<Value>>,
    #[serde(rename = "conditionsV6")]
    conditions_v6: Option<Vec<Value>>,
    runtime_config: RuntimeConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            backend: None,
            snat: true,
            masq_all: false,
            mark_masq_bit: None,
            external_set_mark_chain: None,
            conditions_v4: None,
            conditions_v6: None,
            runtime_config: RuntimeConfig::default(),
        }
    }
}

impl Plugin for Portmap {
    fn add(&self, request: &Request<'_>) -> Result<CniResult, cni::Error> {
        Ok(add(request)?)
    }

    fn del(&self, request: &Request<'_>) -> Result<(), cni::Error> {
        Ok(del(request)?)
    }

    fn check(&self, request: &Request<'_>) -> Result<(), cni::Error> {
        Ok(check(request)?)
    }

    fn status(&self, request: &Request<'_>) -> Result<(), cni::Error> {
        let mut host = open("STATUS", request)?;
        let usable = host.firewall().and_then(|firewall| Ok(firewall.state()?));
        Ok(usable.map(drop).map_err(|error| Error::NotReady { what: error.to_string() })?)
    }

    fn gc(&self, request: &Request<'_>) -> Result<(), cni::Error> {
        Ok(gc(request)?)
    }
}

fn add(request: &Request<'_>) -> Result<CniResult, Error> {
    let config = parse(request)?;
    let previous = request.config.prev_result()?.ok_or(Error::Config(Fault::NotChained))?;
    if config.runtime_config.port_mappings.is_empty() {
        return Ok(previous);
    }
    let mut host = open("ADD", request)?;
    let mut record = planned(&config, request, &previous)?;
    let lock = host.lock(LockName::Attachment(record.key()), Mode::Exclusive)?;
    failpoint::pass("add.lock")?;
    if let Some(stale) = attach::known(&mut host, &record)? {
        remove(&mut host, &stale)?;
    }
    let result = publish(&mut host, &mut record).or_else(|error| {
        let undone = remove(&mut host, &record);
        host.store.retire(lock)?;
        Err(attach::with_undo(error, undone))
    });
    host.close();
    result.map(|()| previous)
}

fn publish(host: &mut Host, record: &mut Record) -> Result<(), Error> {
    find_bridge(host, record)?;
    host.store.write_record(record)?;
    failpoint::pass("add.intent")?;
    let _network = hold_network(host, record)?;
    failpoint::pass("add.address")?;
    let _ruleset = firewall::admit(host, record)?;
    record.stage = Stage::Committed;
    host.store.write_record(record)?;
    failpoint::pass("add.commit")?;
    failpoint::pass("add.reply")
}

fn del(request: &Request<'_>) -> Result<(), Error> {
    let mut host = open("DEL", request)?;
    let unknown = bare_record(request);
    let lock = host.lock(LockName::Attachment(unknown.key()), Mode::Exclusive)?;
    failpoint::pass("del.lock")?;
    let record = attach::known(&mut host, &unknown)?.unwrap_or(unknown);
    remove(&mut host, &record)?;
    host.store.retire(lock)?;
    host.close();
    Ok(())
}

fn remove(host: &mut Host, record: &Record) -> Result<(), Error> {
    firewall::dismiss(host, record)?;
    host.store.remove_record(&record.network, PLUGIN, &record.key())?;
    failpoint::pass("del.record")?;
    if host.store.has_records(&record.network, PLUGIN)? {
        return Ok(());
    }
    crate::network::retire(host, &record.network, PLUGIN)
}

fn check(request: &Request<'_>) -> Result<(), Error> {
    let config = parse(request)?;
    if request.config.prev_result()?.is_none() {
        return Err(Error::Check(Finding::NoPrevResult));
    }
    if config.runtime_config.port_mappings.is_empty() {
        return Ok(());
    }
    let mut host = open("CHECK", request)?;
    let unknown = bare_record(request);
    let record = host.store.record(&unknown.network, PLUGIN, &unknown.key())?;
    let record = record.ok_or_else(|| Error::Check(check::no_record(&unknown)))?;
    check::elements(&mut host, &record)
}

fn gc(request: &Request<'_>) -> Result<(), Error> {
    let mut host = Host::open(format!("GC {}", request.config.name))?;
    let valid = request.config.valid_attachments();
    let mut failures = Vec::new();
    for record in host.store.records()? {
        if record.plugin != PLUGIN || record.network != request.config.name {
            continue;
        }
        failures.extend(collect(&mut host, &record, valid.as_deref()).err());
    }
    if !host.store.has_records(&request.config.name, PLUGIN)? {
        failures.extend(crate::network::retire(&mut host, &request.config.name, PLUGIN).err());
    }
    host.close();
    Error::all(failures)
}

/// One record in GC's eyes: kept if valid; without a list, kept unless its container is gone or its ADD died.
fn collect(host: &mut Host, record: &Record, valid: Option<&[Attachment]>) -> Result<(), Error> {
    let lock = host.lock(LockName::Attachment(record.key()), Mode::Exclusive)?;
    let Some(record) = attach::known(host, record)? else { return Ok(()) };
    let keep = match valid {
        Some(valid) => attach::is_valid(valid, &record),
        None => record.stage == Stage::Committed && attach::is_alive(host, &record)?,
    };
    if keep {
        return Ok(());
    }
    remove(host, &record)?;
    Ok(host.store.retire(lock)?)
}

fn parse(request: &Request<'_>) -> Result<Config, Error> {
    let config: Config = request.config.section()?;
    let fault = |fault| Error::Config(Fault::Portmap(Box::new(fault)));
    for mapping in &config.runtime_config.port_mappings {
        mapping.validate().map_err(fault)?;
    }
    match config.backend.as_deref() {
        None | Some("" | "iptables" | "nftables") => {}
        Some(other) => return Err(fault(Fault::PortmapBackend(other.to_owned()))),
    }
    if config.mark_masq_bit.is_some_and(|bit| !(0..=31).contains(&bit)) {
        return Err(fault(Fault::MarkBit));
    }
    if config.mark_masq_bit.is_some() && config.external_set_mark_chain.is_some() {
        return Err(fault(Fault::MarkChainAndBit));
    }
    config.refuse_other_backend().map_err(fault)?;
    config.exceptions()?;
    Ok(config)
}

impl Config {
    /// What the ports are not for, of both families.
    fn exceptions(&self) -> Result<Vec<Exception>, Error> {
        let mut exceptions = Vec::new();
        for (family, words) in self.conditions() {
            exceptions.extend(conditions::exceptions(family, words)?);
        }
        Ok(exceptions)
    }

    /// The reference plugin has two backends, each with keys and conditions that the other cannot carry out. Here one
    /// does both, but whoever names a backend and writes for the other has made a mistake.
    fn refuse_other_backend(&self) -> Result<(), Fault> {
        let (backend, other) = match self.backend.as_deref() {
            Some("iptables") => (Dialect::Iptables, Dialect::Nftables),
            Some("nftables") => (Dialect::Nftables, Dialect::Iptables),
            _ => return Ok(()),
        };
        let chain =
            self.external_set_mark_chain.as_ref().map(|_| ("externalSetMarkChain", Dialect::Iptables));
        let written =
            self.conditions().map(|(family, words)| Some((family.key(), conditions::dialect(words)?)));
        let written = chain.into_iter().chain(written.into_iter().flatten());
        let keys: Vec<_> = written.filter(|(_, dialect)| *dialect == other).map(|(key, _)| key).collect();
        if keys.is_empty() { Ok(()) } else { Err(Fault::OtherBackend { backend, other, keys }) }
    }

    fn conditions(&self) -> [(Family, &[Value]); 2] {
        let (v4, v6) = (self.conditions_v4.as_deref(), self.conditions_v6.as_deref());
        [(Family::V4, v4.unwrap_or_default()), (Family::V6, v6.unwrap_or_default())]
    }
}

fn open(verb: &str, request: &Request<'_>) -> Result<Host, Error> {
    Host::open(attach::what(verb, request.call))
}

fn bare_record(request: &Request<'_>) -> Record {
    Record {
        plugin: PLUGIN.into(),
        network: request.config.name.clone(),
        container: request.call.container_id.clone(),
        ifname: request.call.ifname.clone(),
        ..Record::default()
    }
}

/// The record of the mappings before anything is made.
fn planned(config: &Config, request: &Request<'_>, previous: &CniResult) -> Result<Record, Error> {
    let ips = container_addresses(previous, &request.call.ifname);
    let ports = ports::resolve(&config.runtime_config.port_mappings, &ips).map_err(Error::Config)?;
    let netns = PathBuf::from(&request.call.netns);
    let identity = netlink::Netns::open(&netns).map(|netns| attach::namespace(&netns));
    Ok(Record {
        // portmap parses no CNI_ARGS: what cannot be read is no fault here.
        name: Args::parse(&request.call.args, &[])
            .ok()
            .and_then(|args| args.k8s_pod_name().map(str::to_owned)),
        netns: Some(identity.unwrap_or(Namespace { path: netns, dev: 0, ino: 0 })),
        addresses: ips.iter().map(|ip| Address { address: ip.address, gateway: ip.gateway }).collect(),
        ports,
        exceptions: config.exceptions()?,
        snat: config.snat,
        masquerade_all: config.masq_all,
        ..bare_record(request)
    })
}

/// The addresses on the container's interface, or on none in particular.
fn container_addresses(previous: &CniResult, ifname: &str) -> Vec<cni::Ip> {
    let is_the_containers =
        |ip: &&cni::Ip| match ip.interface.and_then(|index| previous.interfaces.get(index)) {
            Some(interface) => interface.name == ifname && interface.sandbox.is_some(),
            None => true,
        };
    previous.ips.iter().filter(is_the_containers).cloned().collect()
}

/// The interface that the container is reached by, which loopback clients need `route_localnet` on.
fn find_bridge(host: &mut Host, record: &mut Record) -> Result<(), Error> {
    let Some(port) = record.ports.iter().map(|port| port.container).min_by_key(IpAddr::is_ipv6) else {
        return Ok(());
    };
    if let Some((index, _)) = host.netlink.route_to(port)? {
        record.bridge = host.netlink.link_by_index(index)?.map(|link| link.name);
    }
    Ok(())
}

/// Makes hairpin clients recognisable: which subnet lives on which bridge.
fn hold_network(host: &mut Host, record: &Record) -> Result<store::Lock, Error> {
    let mut lock = host.lock(LockName::Network(NetworkKey::new(&record.network)), Mode::Shared)?;
    if host.store.network(&record.network, PLUGIN)?.is_some() {
        return Ok(lock);
    }
    lock = host.change(lock, Mode::Exclusive)?;
    let network = Network {
        name: record.network.clone(),
        plugin: PLUGIN.into(),
        bridge: record.bridge.clone().unwrap_or_default(),
        owns_bridge: false,
        subnets: record.addresses.iter().map(|address| subnet(address.address)).collect(),
        isolated: false,
        former: Vec::new(),
    };
    host.store.write_network(&network)?;
    firewall::admit_network(host, &network)?;
    Ok(lock)
}
