//! `rnet inspect`: all about networks and endpoints, as JSON.

use std::net::SocketAddr;

use clap::ValueEnum;
use serde_json::{Value, json};
use store::Zone;

use super::ps::traffic;
use crate::containers::{self, Attachment, Container};
use crate::definitions::{Network, Subnet};
use crate::report::{Problem, Style, exit_of, print_json};
use crate::view::{Kernel, State, View, users_of};

/// What can be given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Networks and endpoints, by name, id, or the beginning of an id
    #[arg(required = true, value_name = "NET|EP")]
    pub names: Vec<String>,
    /// Which of them is meant, where both have the name
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<Kind>,
}

/// Networks and endpoints may share a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A network.
    Network,
    /// An endpoint.
    Endpoint,
}

/// A network or an endpoint.
pub enum Thing<'a> {
    /// A network.
    Network(Box<Network>),
    /// An endpoint.
    Endpoint(&'a Container),
}

/// Prints a JSON array of what was found; what is missing is told on stderr.
pub fn run(args: &Args, style: Style) -> anyhow::Result<u8> {
    let mut view = View::open("inspect")?;
    let (containers, kernel) = (view.containers()?, view.kernel()?);
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for word in &args.names {
        match find(word, args.kind, &mut view, &containers) {
            Ok(Thing::Network(net)) => {
                let users = users_of(&net.name, &containers);
                let zone = view.zone(&net)?;
                found.push(network(&net, zone.as_ref(), &users, &kernel.state(&net, &users)));
            }
            Ok(Thing::Endpoint(container)) => found.push(endpoint(container, &kernel)),
            Err(error) => failures.push(error),
        }
    }
    print_json(&found.into())?;
    for error in &failures {
        style.tell(error);
    }
    Ok(failures.first().map_or(0, exit_of))
}

/// The network or endpoint that a word means.
pub fn find<'a>(
    word: &str,
    kind: Option<Kind>,
    view: &mut View,
    containers: &'a [Container],
) -> anyhow::Result<Thing<'a>> {
    let network = match kind {
        Some(Kind::Endpoint) => return Ok(Thing::Endpoint(containers::find(word, containers)?)),
        _ => view.network(word).map(Box::new),
    };
    if kind == Some(Kind::Network) {
        return network.map(Thing::Network);
    }
    match (network, containers::find(word, containers)) {
        (Ok(_), Ok(_)) => Err(both(word)),
        (Ok(network), Err(Problem::NoEndpoint { .. })) => Ok(Thing::Network(network)),
        (Err(error), Ok(container)) if is_missing(&error) => Ok(Thing::Endpoint(container)),
        (Err(error), Err(Problem::NoEndpoint { near, .. })) if is_missing(&error) => {
            Err(neither(word, &error, near))
        }
        (Err(error), _) => Err(error),
        (_, Err(problem)) => Err(problem.into()),
    }
}

/// A network with its users.
pub fn network(network: &Network, dns: Option<&Zone>, users: &[&Container], state: &State) -> Value {
    let users = users.iter().flat_map(|container| {
        let attachments = container.attachments.iter().filter(|attachment| attachment.network == network.name);
        attachments.map(|attachment| json!({"name": container.name, "id": container.id, "ifname": attachment.ifname, "addresses": attachment.addresses, "mac": attachment.mac}))
    });
    json!({
        "type": "network",
        "name": network.name,
        "id": network.id(),
        "driver": network.driver(),
        "plugins": network.plugin_types(),
        "file": network.file,
        "subnets": network.subnets.iter().map(subnet).collect::<Vec<_>>(),
        "bridge": network.bridge(),
        "mtu": network.mtu(),
        "names": network.has_names(),
        "dns": dns.map(dns_of),
        "state": state.to_string(),
        "endpoints": users.collect::<Vec<_>>(),
    })
}

/// An endpoint with its networks.
pub fn endpoint(container: &Container, kernel: &Kernel) -> Value {
    let process = container.endpoint.as_ref().and_then(|endpoint| endpoint.process);
    json!({
        "type": "endpoint",
        "name": container.name,
        "id": container.id,
        "command": container.endpoint.as_ref().map(|endpoint| &endpoint.command),
        "pid": process.map(|process| process.pid),
        "running": container.endpoint.as_ref().map(|endpoint| endpoint.is_running()),
        "netns": container.netns,
        "networks": container.attachments.iter().map(|attachment| of_attachment(attachment, kernel)).collect::<Vec<_>>(),
    })
}

fn of_attachment(attachment: &Attachment, kernel: &Kernel) -> Value {
    let traffic = traffic(attachment, kernel);
    json!({
        "network": attachment.network,
        "ifname": attachment.ifname,
        "addresses": attachment.addresses,
        "gateway": attachment.gateway,
        "mac": attachment.mac,
        "link": attachment.link,
        "ports": attachment.ports,
        "names": attachment.names,
        "rxBytes": traffic.map(|(rx, _)| rx),
        "txBytes": traffic.map(|(_, tx)| tx),
    })
}

/// Where names are asked for; `redirected` are the gateways whose port 53 somebody else has.
fn dns_of(zone: &Zone) -> Value {
    let upstreams: Vec<_> = zone.upstreams.iter().map(SocketAddr::ip).collect();
    json!({
        "domain": zone.domain,
        "servers": zone.gateways,
        "upstreams": upstreams,
        "redirected": zone.moved,
    })
}

fn subnet(subnet: &Subnet) -> Value {
    let mut value = json!({"subnet": subnet.subnet, "gateway": subnet.gateway});
    if let Some((start, end)) = subnet.range {
        value["rangeStart"] = json!(start);
        value["rangeEnd"] = json!(end);
    }
    value
}

fn is_missing(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Problem::NoNetwork { .. }))
}

fn both(word: &str) -> anyhow::Error {
    let hits = vec![format!("network {word:?}"), format!("endpoint {word:?}")];
    Problem::Ambiguous { name: word.to_owned(), hits, hint: Some("--type network or --type endpoint") }.into()
}

fn neither(word: &str, no_network: &anyhow::Error, near_endpoint: Option<String>) -> anyhow::Error {
    let near_network = match no_network.downcast_ref() {
        Some(Problem::NoNetwork { near, .. }) => near.clone(),
        _ => None,
    };
    Problem::Nothing { name: word.to_owned(), near: near_network.or(near_endpoint) }.into()
}
