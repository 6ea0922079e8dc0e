//! `rnet inspect`: all about networks and endpoints, as JSON.

use std::net::SocketAddr;

use clap::ValueEnum;
use serde_json::{Value, json};
use store::Zone;

use super::interop;
use super::ps::traffic;
use crate::clock;
use crate::containers::{self, Attachment, Container};
use crate::definitions::{Network, Subnet};
use crate::ended::Ended;
use crate::lookup::{Kinds, Thing};
use crate::report::{Style, exit_of, print_json};
use crate::state::{Kernel, Links};
use crate::view::{View, users_of};

/// What can be given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Networks and endpoints: their names, ids, or the beginning of an id
    #[arg(required = true, value_name = "NET|EP")]
    pub names: Vec<String>,
    /// Which one is meant, if a network and an endpoint have the same name
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

/// Prints a JSON array of what was found; what is missing is told on stderr.
pub fn run(args: &Args, style: Style) -> anyhow::Result<u8> {
    let mut view = View::open("inspect")?;
    let links = Links::ask();
    let known = view.known(&args.names)?;
    let (mut things, mut failures) = (Vec::new(), Vec::new());
    for word in &args.names {
        match known.find(word, kinds(args.kind)) {
            Ok(thing) => things.push(thing),
            Err(problem) => failures.push(problem.into()),
        }
    }
    let networks: Vec<Network> = things.iter().filter_map(|thing| thing.network().cloned()).collect();
    let kernel =
        view.kernel(links, &networks, &known.containers, &known.records)?.with_refused(&mut view.host);
    // Without the rights to read the rules nothing is said of them.
    let interop = engine::interop::state(&mut view.host).ok().as_ref().map_or(Value::Null, interop::json);
    let mut found = Vec::new();
    for thing in things {
        found.push(match thing {
            Thing::Network(net) => {
                let users = users_of(net, &known.containers);
                let mut shown = network(net, view.zone(net)?.as_ref(), &users, &kernel);
                shown["interop"] = interop.clone();
                shown
            }
            Thing::Endpoint(container) => endpoint(container, &kernel),
            Thing::Ended(ended) => past(ended),
        });
    }
    print_json(&found.into())?;
    for error in &failures {
        style.tell(error);
    }
    Ok(failures.first().map_or(0, exit_of))
}

/// What `--type` leaves.
pub fn kinds(kind: Option<Kind>) -> Kinds {
    match kind {
        None => Kinds::All,
        Some(Kind::Network) => Kinds::Networks,
        Some(Kind::Endpoint) => Kinds::Endpoints,
    }
}

/// A network with its users.
pub fn network(network: &Network, dns: Option<&Zone>, users: &[&Container], kernel: &Kernel) -> Value {
    let state = kernel.state(network, users);
    let users = users.iter().flat_map(|container| {
        let attachments = container.attachments.iter().filter(|attachment| attachment.is_on(network));
        attachments.map(|attachment| json!({"name": container.name, "id": container.id, "ifname": attachment.ifname, "addresses": attachment.addresses, "mac": attachment.mac, "spoofGuard": spoof_guard(attachment, kernel)}))
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
        "state": state.word(),
        "reason": state.reason(),
        "endpoints": users.collect::<Vec<_>>(),
    })
}

/// An endpoint with its networks.
pub fn endpoint(container: &Container, kernel: &Kernel) -> Value {
    let endpoint = container.endpoint.as_ref();
    let pid = endpoint.and_then(|endpoint| endpoint.process).map(|process| process.pid);
    json!({
        "type": "endpoint",
        "name": container.name,
        "id": container.id,
        "command": endpoint.map(|endpoint| &endpoint.command),
        "pid": pid,
        "running": endpoint.map(|endpoint| endpoint.is_running()),
        "state": container.status(),
        "reason": null,
        "started": endpoint.filter(|endpoint| endpoint.started > 0).map(|endpoint| clock::utc(endpoint.started)),
        "netns": container.netns,
        "exposed": container.exposed(),
        "networks": container.attachments.iter().map(|attachment| of_attachment(attachment, kernel)).collect::<Vec<_>>(),
    })
}

/// An endpoint that has ended.
pub fn past(ended: &Ended) -> Value {
    let attachments = containers::past_attachments(&ended.endpoint);
    json!({
        "type": "endpoint",
        "name": ended.endpoint.name,
        "id": ended.endpoint.id,
        "command": ended.endpoint.command,
        "pid": null,
        "running": false,
        "state": "exited",
        "reason": ended.how.to_string(),
        "exitStatus": ended.how.exit(),
        "started": clock::utc(ended.started),
        "ended": clock::utc(ended.ended),
        "netns": null,
        "exposed": ended.endpoint.exposed,
        "networks": attachments.iter().map(|attachment| of_attachment(attachment, &Kernel::default())).collect::<Vec<_>>(),
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
        "spoofGuard": spoof_guard(attachment, kernel),
        "rxBytes": traffic.map(|(rx, _)| rx),
        "txBytes": traffic.map(|(_, tx)| tx),
    })
}

/// Whether an attachment has a guard, and what that has dropped; `sources` are senders of the last hour that are not its own.
fn spoof_guard(attachment: &Attachment, kernel: &Kernel) -> Value {
    let link = attachment.link.as_deref().filter(|_| attachment.is_guarded());
    let refused = link.and_then(|link| kernel.refused(link));
    let source = |source: &nft::Source| json!({"address": source.address, "mac": netlink::Mac(source.mac).to_string()});
    json!({
        "on": attachment.is_guarded(),
        "droppedPackets": refused.map(|refused| refused.packets),
        "droppedBytes": refused.map(|refused| refused.bytes),
        "sources": refused.iter().flat_map(|refused| &refused.sources).map(source).collect::<Vec<_>>(),
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
