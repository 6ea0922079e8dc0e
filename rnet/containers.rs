//! Who is on which network: the records of all runtimes, and the endpoints of `rnet run`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;

use cni::CniResult;
use ipnetwork::IpNetwork;
use serde_json::Value;
use store::{Key, Port, Protocol, Record};

use crate::definitions::Network;
use crate::endpoint::{Endpoint, Joined};
use crate::expose::Expose;
use crate::publish::{fold, host_text};

/// One interface of an endpoint on a network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attachment {
    /// The network.
    pub network: String,
    /// The plugin that made it: networks of one name and different plugins are different networks.
    pub plugin: String,
    /// The interface inside.
    pub ifname: String,
    /// Its addresses, with prefix length.
    pub addresses: Vec<IpNetwork>,
    /// The gateway of its routes.
    pub gateway: Option<IpAddr>,
    /// Its MAC address.
    pub mac: Option<String>,
    /// The host ports that lead to it.
    pub ports: Vec<Port>,
    /// What it answers to there, where names are served.
    pub names: Vec<String>,
    /// The host end of its veth pair.
    pub link: Option<String>,
    /// Its records, that of the plugin that made the interface first. Empty if that plugin is not one of rnet's.
    pub records: Vec<Record>,
}

/// A person's word for a container, and where it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Container {
    /// CNI_CONTAINERID.
    pub id: String,
    /// Its name, else the first twelve characters of its id.
    pub name: String,
    /// Where its namespace is.
    pub netns: Option<PathBuf>,
    /// What `rnet run` knows of it; none for the containers of other runtimes.
    pub endpoint: Option<Endpoint>,
    /// Its interfaces.
    pub attachments: Vec<Attachment>,
}

impl Attachment {
    /// Its addresses without prefix length, parted by commas.
    pub fn ip_text(&self) -> String {
        self.addresses.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>().join(",")
    }

    /// Its ports as docker shows them: `0.0.0.0:8080->80, 127.0.0.1:53->53/udp`, ranges folded.
    pub fn port_texts(&self) -> Vec<String> {
        folded(&self.ports)
    }

    /// True if a spoof guard is at its port.
    pub fn is_guarded(&self) -> bool {
        self.records.iter().any(|record| record.guarded)
    }

    /// True if it is an attachment to `network`.
    pub fn is_on(&self, network: &Network) -> bool {
        self.network == network.name && self.plugin == network.kind()
    }

    fn of_records(record: &Record, chained: &[&Record]) -> Self {
        let all = || std::iter::once(&record).chain(chained);
        Self {
            network: record.network.clone(),
            plugin: record.plugin.clone(),
            ifname: record.ifname.clone(),
            addresses: record.addresses.iter().map(|address| address.address).collect(),
            gateway: record.addresses.iter().find_map(|address| address.gateway),
            mac: record.mac.map(|mac| mac.to_string()),
            ports: all().flat_map(|record| record.ports.clone()).collect(),
            names: all().flat_map(|record| record.names.clone()).collect(),
            link: record.link.clone(),
            records: all().map(|record| Record::clone(record)).collect(),
        }
    }

    /// What a plugin that keeps no records of ours has answered.
    fn of_result(joined: &Joined) -> Self {
        let network = joined.network().ok();
        let result = network.as_ref().and_then(|network| joined.result(network)).unwrap_or_default();
        let inside = result.interfaces.iter().find(|i| i.name == joined.ifname && i.sandbox.is_some());
        Self {
            network: joined.network.clone(),
            plugin: network.map(|network| network.kind().to_owned()).unwrap_or_default(),
            ifname: joined.ifname.clone(),
            addresses: result.ips.iter().map(|ip| ip.address).collect(),
            gateway: result.ips.iter().find_map(|ip| ip.gateway),
            mac: inside.and_then(|interface| interface.mac.clone()),
            ports: asked_ports(joined, &result),
            ..Self::default()
        }
    }
}

impl Container {
    /// `pid 4711`, or the path of its namespace.
    pub fn place(&self) -> String {
        match (self.endpoint.as_ref().and_then(|endpoint| endpoint.process), &self.netns) {
            (Some(process), _) if process.is_alive() => format!("pid {}", process.pid),
            (Some(process), _) => format!("pid {} (dead)", process.pid),
            (None, Some(path)) => path.display().to_string(),
            (None, None) => String::new(),
        }
    }

    /// `running`, or `dead` while its remains are not cleared away; none for the containers of other runtimes.
    pub fn status(&self) -> Option<&'static str> {
        let is_running = self.endpoint.as_ref()?.is_running();
        Some(if is_running { "running" } else { "dead" })
    }

    /// The ports that it says it serves.
    pub fn exposed(&self) -> &[Expose] {
        self.endpoint.as_ref().map(|endpoint| endpoint.exposed.as_slice()).unwrap_or_default()
    }

    /// Exposed ports that are published nowhere.
    pub fn unpublished(&self) -> Vec<String> {
        let ports = || self.attachments.iter().flat_map(|attachment| &attachment.ports);
        let is_published =
            |expose: &Expose| ports().any(|port| expose.includes(port.container_port, port.protocol));
        self.exposed().iter().filter(|expose| !is_published(expose)).map(Expose::to_string).collect()
    }

    /// Each of its attachments, with itself.
    pub fn with_attachments(&self) -> impl Iterator<Item = (&Self, &Attachment)> {
        self.attachments.iter().map(move |attachment| (self, attachment))
    }

    /// True if it is on `network`.
    pub fn is_on(&self, network: &Network) -> bool {
        self.attachments.iter().any(|attachment| attachment.is_on(network))
    }

    /// `web (172.18.0.2)`: the container as a user of a network.
    pub fn user_text(&self, network: &Network) -> String {
        let attachments = self.attachments.iter().filter(|attachment| attachment.is_on(network));
        let ips: Vec<String> = attachments.map(Attachment::ip_text).filter(|ips| !ips.is_empty()).collect();
        if ips.is_empty() { self.name.clone() } else { format!("{} ({})", self.name, ips.join(",")) }
    }

    fn add_endpoint(&mut self, endpoint: &Endpoint) {
        self.name.clone_from(&endpoint.name);
        for joined in &endpoint.joined {
            let recorded = |attachment: &Attachment| {
                attachment.network == joined.network && attachment.ifname == joined.ifname
            };
            if !self.attachments.iter().any(recorded) {
                self.attachments.push(Attachment::of_result(joined));
            }
        }
        self.endpoint = Some(endpoint.clone());
    }
}

/// The networks of an endpoint that ended, as it left them.
pub fn past_attachments(endpoint: &Endpoint) -> Vec<Attachment> {
    endpoint.joined.iter().map(Attachment::of_result).collect()
}

/// Everybody, sorted by name, each with its interfaces sorted by their names.
pub fn containers(records: &[Record], endpoints: &[Endpoint]) -> Vec<Container> {
    let chained = chained(records);
    let mut containers: HashMap<&str, Container> = HashMap::new();
    for record in records.iter().filter(|record| !is_chained(record)) {
        let container = containers.entry(&record.container).or_insert_with(|| Container {
            id: record.container.clone(),
            name: record.who().to_owned(),
            netns: record.netns.as_ref().map(|netns| netns.path.clone()),
            ..Container::default()
        });
        let added = if chained.is_empty() { None } else { chained.get(&record.key()) };
        let added = added.map(Vec::as_slice).unwrap_or_default();
        container.attachments.push(Attachment::of_records(record, added));
    }
    for endpoint in endpoints {
        let container = containers
            .entry(&endpoint.id)
            .or_insert_with(|| Container { id: endpoint.id.clone(), ..Container::default() });
        container.add_endpoint(endpoint);
    }
    let mut containers: Vec<Container> = containers.into_values().collect();
    containers
        .iter_mut()
        .for_each(|container| container.attachments.sort_by(|one, other| one.ifname.cmp(&other.ifname)));
    containers.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
    containers
}

/// `0.0.0.0:8080->80`, the protocol only where it is not TCP; ports in a row as one.
fn folded(ports: &[Port]) -> Vec<String> {
    let mut ports: Vec<&Port> = ports.iter().collect();
    ports.sort_by_key(|port| (port.protocol, port.host, port.container, port.host_port));
    let follows = |last: &&Port, next: &&Port| {
        (last.protocol, last.host, last.container) == (next.protocol, next.host, next.container)
            && last.host_port.checked_add(1) == Some(next.host_port)
            && last.container_port.checked_add(1) == Some(next.container_port)
    };
    ports.chunk_by(follows).filter_map(|row| Some(row_text(row.first()?, row.last()?))).collect()
}

fn row_text(first: &Port, last: &Port) -> String {
    let protocol =
        if first.protocol == Protocol::Tcp { String::new() } else { format!("/{}", first.protocol) };
    let host = fold(first.host_port, last.host_port);
    let container = fold(first.container_port, last.container_port);
    format!("{}:{host}->{container}{protocol}", host_of(first))
}

/// The ports that a plugin was asked to publish (`runtimeConfig.portMappings`).
fn asked_ports(joined: &Joined, result: &CniResult) -> Vec<Port> {
    let asked = joined.capabilities.get("portMappings").and_then(Value::as_array);
    let port = |asked: &Value| {
        let host = asked.get("hostIP").and_then(Value::as_str).and_then(|host| host.parse::<IpAddr>().ok());
        let number = |key| u16::try_from(asked.get(key)?.as_u64()?).ok();
        Some(Port {
            host: host.filter(|host| !host.is_unspecified()),
            host_port: number("hostPort")?,
            container: result.ips.first().map(|ip| ip.address.ip())?,
            container_port: number("containerPort")?,
            protocol: serde_json::from_value(asked.get("protocol")?.clone()).ok()?,
        })
    };
    asked.into_iter().flatten().filter_map(port).collect()
}

/// The host address of a published port, as docker prints it.
pub fn host_of(port: &Port) -> String {
    match (port.host, port.container) {
        (None, IpAddr::V6(_)) => "[::]".to_owned(),
        (host, _) => host_text(host),
    }
}

fn chained(records: &[Record]) -> HashMap<Key, Vec<&Record>> {
    let mut chained: HashMap<Key, Vec<&Record>> = HashMap::new();
    for record in records.iter().filter(|record| is_chained(record)) {
        chained.entry(record.key()).or_default().push(record);
    }
    chained
}

/// True if the record only adds to the interface of another: ports, names, settings.
fn is_chained(record: &Record) -> bool {
    engine::drivers::makers().all(|maker| maker != record.plugin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definitions::network_of;
    use store::{Address, Namespace};

    fn record(plugin: &str, container: &str, name: Option<&str>) -> Record {
        Record {
            plugin: plugin.into(),
            network: "mynet".into(),
            container: container.into(),
            ifname: "eth0".into(),
            name: name.map(str::to_owned),
            netns: Some(Namespace { path: "/run/netns/blue".into(), dev: 1, ino: 2 }),
            addresses: vec![Address { address: "172.18.0.2/16".parse().unwrap(), gateway: None }],
            ..Record::default()
        }
    }

    fn port(host: Option<&str>, protocol: Protocol) -> Port {
        Port {
            host: host.map(|host| host.parse().unwrap()),
            host_port: 8080,
            container: "172.18.0.2".parse().unwrap(),
            container_port: 80,
            protocol,
        }
    }

    #[test]
    fn records_of_one_container_are_one_party_and_chained_plugins_only_add_to_it() {
        let mut portmap = record("portmap", "c1", Some("web"));
        portmap.ports = vec![port(None, Protocol::Tcp), port(Some("127.0.0.1"), Protocol::Udp)];

        let mut dnsname = record("dnsname", "c1", Some("web"));
        dnsname.names = vec!["web".into(), "www".into()];

        let containers = containers(&[portmap, dnsname, record("bridge", "c1", Some("web"))], &[]);

        assert_eq!(containers.len(), 1);
        let mynet =
            serde_json::json!({"cniVersion": "1.0.0", "name": "mynet", "plugins": [{"type": "bridge"}]});
        assert_eq!(containers[0].user_text(&network_of(&mynet).unwrap()), "web (172.18.0.2)");
        assert_eq!(containers[0].place(), "/run/netns/blue");
        assert_eq!(
            (containers[0].attachments.len(), containers[0].attachments[0].names.join(" ")),
            (1, "web www".into())
        );
        let ports = containers[0].attachments[0].port_texts().join(", ");
        assert_eq!(ports, "0.0.0.0:8080->80, 127.0.0.1:8080->80/udp");
    }

    #[test]
    fn ports_in_a_row_are_one() {
        let at =
            |host_port, container_port, protocol| Port { host_port, container_port, ..port(None, protocol) };
        let ports = [
            at(8002, 9002, Protocol::Tcp),
            at(8000, 9000, Protocol::Tcp),
            at(8001, 9001, Protocol::Tcp),
            at(8003, 80, Protocol::Tcp),
            at(8004, 80, Protocol::Tcp),
            at(8004, 9003, Protocol::Udp),
        ];
        assert_eq!(
            folded(&ports),
            [
                "0.0.0.0:8000-8002->9000-9002",
                "0.0.0.0:8003->80",
                "0.0.0.0:8004->80",
                "0.0.0.0:8004->9003/udp"
            ]
        );
    }

    #[test]
    fn an_endpoint_gives_its_container_name_and_process() {
        let id = "4f2a".repeat(16);
        let endpoint = Endpoint { id: id.clone(), name: "web".into(), ..Endpoint::default() };
        let other = Endpoint { id: "aa".repeat(32), name: "alone".into(), ..Endpoint::default() };

        let containers = containers(&[record("rnet", &id, None)], &[endpoint, other]);

        let names: Vec<_> = containers
            .iter()
            .map(|container| (container.name.as_str(), container.attachments.len()))
            .collect();
        assert_eq!(names, [("alone", 0), ("web", 1)]);
    }
}
