//! The plugin `portmap`, with the reference plugin's keys: host ports that lead to a container.

use cni::{CniResult, Request};
use engine::spec::Spec;
use engine::{Host, life};
use serde::Deserialize;
use serde_json::Value;
use store::Exception;

use crate::conditions::{self, Dialect, Family};
use crate::error::Fault;
use crate::runtime_config::RuntimeConfig;
use crate::verbs::Verbs;
use crate::{Error, call, chained, reference};

const PLUGIN: &str = "portmap";

/// The verbs of this plugin.
pub const VERBS: Verbs = Verbs { add, del, check, status, gc };

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

fn add(request: &Request<'_>) -> Result<CniResult, Error> {
    let config = parse(request)?;
    let previous = request.config.prev_result()?.ok_or(Error::Config(Fault::NotChained))?;
    if config.runtime_config.port_mappings.is_empty() {
        return Ok(previous);
    }
    life::add(&spec(&config, request, &previous)?, None)?;
    Ok(previous)
}

/// As configured; where that is faulty or there is no result, by the attachment's name alone.
fn del(request: &Request<'_>) -> Result<(), Error> {
    let previous = request.config.prev_result().ok().flatten();
    let told = previous.and_then(|previous| spec(&parse(request).ok()?, request, &previous).ok());
    let spec = told.unwrap_or_else(|| chained::bare(PLUGIN, request));
    let others = |host: &mut Host| Ok(reference::unpublish(host, &spec.id)?);
    Ok(life::del(&spec, &call::kept(request), others)?)
}

fn status(request: &Request<'_>) -> Result<(), Error> {
    let mut host = Host::ready(format!("STATUS {}", call::id(request)))?;
    host.require_rules()?;
    Ok(host.require_flows()?)
}

fn gc(request: &Request<'_>) -> Result<(), Error> {
    Ok(life::gc(&chained::bare(PLUGIN, request), &call::valid(request))?)
}

fn check(request: &Request<'_>) -> Result<(), Error> {
    let config = parse(request)?;
    if request.config.prev_result()?.is_none() {
        return Err(Error::NoPrevResult);
    }
    if config.runtime_config.port_mappings.is_empty() {
        return Ok(());
    }
    Ok(chained::check(PLUGIN, request)?)
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
    /// does both, but a list that names a backend and is written for the other is a mistake.
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

/// The spec of an attachment.
fn spec<'a>(config: &Config, request: &Request<'_>, previous: &CniResult) -> Result<Spec<'a>, Error> {
    Ok(Spec {
        ports: config.runtime_config.publish()?,
        exceptions: config.exceptions()?,
        snat: config.snat,
        masquerade_all: config.masq_all,
        ..chained::spec(PLUGIN, request, previous)
    })
}
