//! The plugin `dnsname`, with the keys of Podman's: containers of a list find one another by name. Here it is the same
//! name server as for networks of `rnet`.

use std::io::Write;

use cni::{Args, CniResult, Request};
use engine::Served;
use engine::spec::Spec;
use engine::{Host, life};
use ipnetwork::IpNetwork;
use netlink::Link;
use serde::Deserialize;

use crate::error::Fault;
use crate::names::{Aliases, RuntimeDns, names as wanted_names};
use crate::verbs::Verbs;
use crate::{Error, call, chained};

const PLUGIN: &str = "dnsname";

/// The verbs of this plugin.
pub const VERBS: Verbs = Verbs { add, del, check, status, gc };

/// Its keys (github.com/containers/dnsname, README).
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    domain_name: String,
    /// The servers for all other questions; none means the host's.
    remote_servers: Vec<String>,
    /// Answers from outside that point into one of rnet's subnets are dropped (a key of rnet's own).
    rebinding_guard: bool,
    runtime_config: RuntimeConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuntimeConfig {
    aliases: Aliases,
    dns: RuntimeDns,
}

fn add(request: &Request<'_>) -> Result<CniResult, Error> {
    let names = parse(request)?;
    let previous = request.config.prev_result()?.ok_or(Error::Config(Fault::NotChained))?;
    let mut host = chained::open("ADD", request)?;
    let bridge = previous.interfaces.first().map(|interface| interface.name.clone()).unwrap_or_default();
    let gateways = addresses_of(&mut host, &bridge)?;
    let askable = gateways.iter().map(IpNetwork::ip).collect();
    let spec = chained::spec(PLUGIN, request, &previous);
    let spec = Spec { bridge, askable, names: Some(names.clone()), ..spec };
    life::add_by(&mut host, &spec, None)?;
    if gateways.is_empty() {
        tell_of_no_gateway(&spec);
    }
    Ok(with_names(previous, &names, &gateways))
}

/// Never an error: the DELs of the plugins before this one would not be called.
fn del(request: &Request<'_>) -> Result<(), Error> {
    // A record that was lost had names: of a container without a name and aliases, for the server asks for none.
    let lost = Spec { names: Some(Served::default()), ..chained::bare(PLUGIN, request) };
    let _ = life::del(&lost, &call::kept(request), |_| Ok(()));
    Ok(())
}

fn status(request: &Request<'_>) -> Result<(), Error> {
    parse(request).map(drop)
}

fn check(request: &Request<'_>) -> Result<(), Error> {
    parse(request)?;
    if request.config.prev_result()?.is_none() {
        return Err(Error::NoPrevResult);
    }
    Ok(chained::check(PLUGIN, request)?)
}

fn gc(request: &Request<'_>) -> Result<(), Error> {
    Ok(life::gc(&chained::bare(PLUGIN, request), &call::valid(request))?)
}

fn parse(request: &Request<'_>) -> Result<Served, Error> {
    let config: Config = request.config.section()?;
    // Only the names are for us; what cannot be read is a fault all the same, as for Podman's.
    let args = Args::parse(&request.call.args, &[]).map_err(Error::Cni)?;
    let domain = Some(config.domain_name).filter(|domain| !domain.is_empty());
    let dns = cni::Dns { nameservers: config.remote_servers, domain, ..cni::Dns::default() };
    let RuntimeConfig { aliases, dns: runtime } = config.runtime_config;
    let names = wanted_names(&request.config.name, dns, runtime, &aliases, args.hostname())?;
    Ok(Served { rebinding_guard: config.rebinding_guard, ..names })
}

/// As for Podman's, the container runs. Its name is known on other networks of those that are on this one; who is on no
/// other has nobody to ask. Runtimes keep what a plugin says here.
fn tell_of_no_gateway(spec: &Spec) {
    let (bridge, network) = (&spec.bridge, &spec.id.network);
    let text = format!(
        "warning: bridge {bridge:?} of network {network:?} has no address: containers that are on no other network with names \
         cannot look names up; hint: \"isGateway\": true for the plugin bridge\n"
    );
    // Nobody may be listening.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// The addresses of the bridge that containers can ask at.
fn addresses_of(host: &mut Host, bridge: &str) -> Result<Vec<IpNetwork>, Error> {
    let none = || Error::Config(Fault::NoBridge(bridge.to_owned()));
    let is_bridge = |link: &Link| link.kind.as_deref() == Some("bridge");
    let link = host.netlink.link(bridge)?.filter(is_bridge).ok_or_else(none)?;
    let found = host.netlink.addresses(Some(link.index))?.into_iter().map(|found| found.address);
    Ok(found.filter(is_global).collect())
}

fn is_global(address: &IpNetwork) -> bool {
    match address {
        IpNetwork::V4(v4) => !v4.ip().is_link_local(),
        IpNetwork::V6(v6) => !v6.ip().is_unicast_link_local(),
    }
}

/// The bridge's addresses before the servers of the plugins before this one, the domain after their list.
fn with_names(previous: CniResult, names: &Served, gateways: &[IpNetwork]) -> CniResult {
    let mut dns = previous.dns.clone();
    let own = gateways.iter().map(|gateway| gateway.ip().to_string());
    dns.nameservers = own.chain(dns.nameservers).collect();
    // Without a gateway nobody here answers for the domain: it would be asked for outside.
    dns.search.extend(names.domain.clone().filter(|_| !gateways.is_empty()));
    CniResult { dns, ..previous }
}
