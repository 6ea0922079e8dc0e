//! The plugin `portmap`, with the reference plugin's keys: host ports that lead to a container.

use std::net::IpAddr;

use cni::{CniResult, Plugin, Request};
use engine::spec::subnet;
use engine::{Host, check, elements, lost, network, pass, publish};
use nft::Element;
use serde::Deserialize;
use serde_json::Value;
use store::{Exception, Network, Record, Stage};

use crate::conditions::{self, Dialect, Family};
use crate::error::Fault;
use crate::runtime_config::RuntimeConfig;
use crate::{Error, call, chained, reference};

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
        Ok(status(request)?)
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
    let mut host = chained::open("ADD", request)?;
    let mut record = planned(&config, request, &previous)?;
    engine::chained::add(&mut host, &mut record, make)?;
    Ok(previous)
}

fn del(request: &Request<'_>) -> Result<(), Error> {
    Ok(engine::chained::del(unknown(request), &call::kept(request), |host, unknown| {
        reference::unpublish(host, unknown)?;
        lost::unpublish(host, unknown)
    })?)
}

fn status(request: &Request<'_>) -> Result<(), Error> {
    let mut host = Host::ready(format!("STATUS {}", call::id(request)))?;
    host.require_rules()?;
    Ok(host.require_flows()?)
}

fn gc(request: &Request<'_>) -> Result<(), Error> {
    Ok(engine::chained::gc(PLUGIN, &request.config.name, &call::valid(request))?)
}

/// What the record of a DEL would say, as far as the call itself tells.
fn unknown(request: &Request<'_>) -> Record {
    let bare = Record::of(PLUGIN, &call::id(request));
    let previous = request.config.prev_result().ok().flatten();
    let planned = previous.and_then(|previous| planned(&parse(request).ok()?, request, &previous).ok());
    planned.unwrap_or(bare)
}

fn make(host: &mut Host, record: &mut Record) -> Result<(), engine::Error> {
    find_bridge(host, record)?;
    host.store.write_record(record)?;
    pass("add.intent")?;
    let _network = network::remember(host, described(record))?;
    pass("add.address")?;
    let _ruleset = elements::admit(host, record)?;
    record.stage = Stage::Committed;
    host.store.write_record(record)?;
    pass("add.commit")?;
    pass("add.reply")
}

fn check(request: &Request<'_>) -> Result<(), Error> {
    let config = parse(request)?;
    if request.config.prev_result()?.is_none() {
        return Err(Error::NoPrevResult);
    }
    if config.runtime_config.port_mappings.is_empty() {
        return Ok(());
    }
    let mut host = chained::open("CHECK", request)?;
    let record = chained::recorded(&host, PLUGIN, request)?;
    Ok(check::health(&mut host, &record)?)
}

fn parse(request: &Request<'_>) -> Result<Config, Error> {
    let config = request.config.section();
    let config: Config = config.map_err(|error| error.context("failed to parse config: "))?;
    let fault = |fault| Error::Config(Fault::Portmap(Box::new(fault)));
    config.runtime_config.publish().map_err(fault)?;
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

/// The record of the mappings before anything is made.
fn planned(config: &Config, request: &Request<'_>, previous: &CniResult) -> Result<Record, Error> {
    let addresses = call::container_addresses(previous, &request.call.ifname);
    let ports = publish::resolve(&config.runtime_config.publish()?, &addresses)?;
    Ok(Record {
        ports,
        exceptions: config.exceptions()?,
        snat: config.snat,
        masquerade_all: config.masq_all,
        ..chained::record(PLUGIN, request, previous)
    })
}

/// The interface that the container is on, which loopback clients need `route_localnet` on. None where the host has no way
/// to the container, or only one by a gateway: then the interface is the uplink, and the container is not behind it. None
/// also where the ruleset cannot name it.
fn find_bridge(host: &mut Host, record: &mut Record) -> Result<(), engine::Error> {
    let Some(port) = record.ports.iter().map(|port| port.container).min_by_key(IpAddr::is_ipv6) else {
        return Ok(());
    };
    // A route that forbids is a refusal of the kernel's, and no way either.
    let Ok(Some((index, None))) = host.netlink.route_to(port) else { return Ok(()) };
    let name = host.netlink.link_by_index(index)?.map(|link| link.name);
    record.bridge = name.filter(|name| Element::Isolated { bridge: name.clone() }.fault().is_none());
    Ok(())
}

/// Makes hairpin clients recognisable: which subnet lives on which bridge.
fn described(record: &Record) -> Network {
    Network {
        name: record.network.clone(),
        plugin: PLUGIN.into(),
        bridge: record.bridge.clone().unwrap_or_default(),
        subnets: match &record.bridge {
            Some(_) => record.addresses.iter().map(|address| subnet(address.address)).collect(),
            None => Vec::new(),
        },
        ..Network::default()
    }
}
