//! Who is on which network: the records of all runtimes, and the endpoints of `rnet run`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use store::{Key, Port, Protocol, Record};

use crate::endpoint::{Endpoint, Joined};
use crate::names::{self, Found};
use crate::publish::host_text;
use crate::report::Problem;

/// The plugins whose records only add to the interface of another: ports, names.
const CHAINED: [&str; 2] = ["portmap", "dnsname"];

/// One interface of an endpoint on a network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attachment {
    /// The network.
    pub network: String,
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

    /// Its ports as docker shows them: `0.0.0.0:8080->80, 127.0.0.1:53->53/udp`.
    pub fn port_text(&self) -> String {
        self.ports.iter().map(port_text).collect::<Vec<_>>().join(", ")
    }

    fn of_records(record: &Record, chained: &[&Record]) -> Self {
        let all = || std::iter::once(&record).chain(chained);
        Self {
            network: record.network.clone(),
            ifname: record.ifname.clone(),
            addresses: record.addresses.iter().map(|address| address.address).collect(),
            gateway: record.addresses.iter().find_map(|address| address.gateway),
            mac: record.mac.map(|mac| mac.to_string()),
            ports: all().flat_map(|record| record.ports.clone()).collect(),
            names: all().flat_map(|record| record.names.clone()).collect(),
            link: record.link.clone(),
        }
    }

    /// What a plugin that keeps no records of ours has answered.
    fn of_result(joined: &Joined) -> Self {
        let result = joined.network().ok().and_then(|network| joined.result(&network)).unwrap_or_default();
        let inside = result.interfaces.iter().find(|i| i.name == joined.ifname && i.sandbox.is_some());
        Self {
            network: joined.network.clone(),
            ifname: joined.ifname.clone(),
            addresses: result.ips.iter().map(|ip| ip.address).collect(),
            gateway: result.ips.iter().find_map(|ip| ip.gateway),
            mac: inside.and_then(|interface| interface.mac.clone()),
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

    /// `web (172.18.0.2)`: the container as a user of a network.
    pub fn user_text(&self, network: &str) -> String {
        let attachments = self.attachments.iter().filter(|attachment| attachment.network == network);
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
        let added = chained.get(&record.key()).map(Vec::as_slice).unwrap_or_default();
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

/// The container that a word means.
pub fn find<'a>(word: &str, containers: &'a [Container]) -> Result<&'a Container, Problem> {
    let things = containers.iter().map(|container| (container.id.as_str(), container.name.as_str()));
    match names::find(word, things) {
        Found::One(index) => Ok(&containers[index]),
        Found::Several(indexes) => Err(Problem::Ambiguous {
            name: word.to_owned(),
            hits: indexes.iter().map(|index| short(&containers[*index])).collect(),
            hint: Some("more digits of the id (rnet inspect shows it)"),
        }),
        Found::No => {
            let near = names::nearest(word, containers.iter().map(|container| container.name.as_str()));
            Err(Problem::NoEndpoint { name: word.to_owned(), near })
        }
    }
}

/// `0.0.0.0:8080->80`, the protocol only where it is not TCP.
fn port_text(port: &Port) -> String {
    let host = match (port.host, port.container) {
        (None, IpAddr::V6(_)) => "[::]".to_owned(),
        (host, _) => host_text(host),
    };
    let protocol = if port.protocol == Protocol::Tcp { String::new() } else { format!("/{}", port.protocol) };
    format!("{host}:{}->{}{protocol}", port.host_port, port.container_port)
}

fn chained(records: &[Record]) -> HashMap<Key, Vec<&Record>> {
    let mut chained: HashMap<Key, Vec<&Record>> = HashMap::new();
    for record in records.iter().filter(|record| is_chained(record)) {
        chained.entry(record.key()).or_default().push(record);
    }
    chained
}

fn is_chained(record: &Record) -> bool {
    CHAINED.contains(&record.plugin.as_str())
}

fn short(container: &Container) -> String {
    let digits: String = container.id.chars().take(12).collect();
    if container.name == digits { digits } else { format!("{} ({digits})", container.name) }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        assert_eq!(containers[0].user_text("mynet"), "web (172.18.0.2)");
        assert_eq!(containers[0].place(), "/run/netns/blue");
        assert_eq!(
            (containers[0].attachments.len(), containers[0].attachments[0].names.join(" ")),
            (1, "web www".into())
        );
        assert_eq!(containers[0].attachments[0].port_text(), "0.0.0.0:8080->80, 127.0.0.1:8080->80/udp");
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
        assert_eq!(find("4f2", &containers).unwrap().name, "web");
    }

    #[test]
    fn a_word_that_fits_nobody_or_several_is_an_error() {
        let containers =
            containers(&[record("rnet", "abc1", Some("web")), record("rnet", "abc2", Some("db"))], &[]);
        assert_eq!(
            find("abc", &containers).unwrap_err().to_string(),
            "\"abc\" is ambiguous: db (abc2), web (abc1)"
        );
        let missing = find("wep", &containers).unwrap_err();
        assert!(matches!(missing, Problem::NoEndpoint { near: Some(near), .. } if near == "web"));
    }
}
