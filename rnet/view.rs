//! The host as the command sees it: definitions, records, endpoints and the kernel, joined.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;

use netlink::{Link, Route};
use plugins::Host;
use serde::Deserialize;
use store::{Record, Zone};

use crate::containers::{self, Container};
use crate::definitions::{DEFAULT_DEVICE, Definitions, Network, default_network};
use crate::endpoint::Endpoints;
use crate::names::{self, Found};
use crate::report::{Problem, Style};
use crate::subnets::{self, Owner, Taken};

/// The built-in network's own plugin.
const OWN: &str = "rnet";

/// Everything there is to look at.
pub struct View {
    /// Links, records, ruleset.
    pub host: Host,
    /// Networks.
    pub definitions: Definitions,
    /// What `rnet run` made.
    pub endpoints: Endpoints,
}

/// How a network stands in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// As defined and recorded.
    Ok,
    /// Not in the kernel: nobody is on it, or the host has been started anew.
    Absent,
    /// In the kernel, but not as it should be.
    Degraded(String),
}

/// The links and addresses of the host.
#[derive(Debug, Default)]
pub struct Kernel {
    links: HashMap<String, Link>,
    addresses: HashMap<u32, Vec<IpAddr>>,
    /// False if somebody has changed or flushed rnet's ruleset.
    ruleset_intact: bool,
}

impl View {
    /// Opens the host; `what` is told to others who wait for us.
    pub fn open(what: &str) -> anyhow::Result<Self> {
        let host = Host::open(what.to_owned())?;
        let (definitions, endpoints) =
            (Definitions::of(host.store.paths()), Endpoints::of(host.store.paths()));
        Ok(Self { host, definitions, endpoints })
    }

    /// Every network: those that are defined, and the built-in one while anybody is on it.
    pub fn networks(&mut self, style: Style) -> anyhow::Result<Vec<Network>> {
        let mut listing = self.definitions.list()?;
        for broken in &listing.broken {
            style.warn(format_args!("skipped {broken}"));
        }
        if self.host.store.network(names::DEFAULT, OWN)?.is_some() {
            listing.networks.insert(0, self.default_network()?);
            listing.networks.sort_by(|one, other| one.name.cmp(&other.name));
        }
        Ok(listing.networks)
    }

    /// The built-in network: on the subnet that it has, else on the lowest free one.
    pub fn default_network(&mut self) -> anyhow::Result<Network> {
        let made = self
            .host
            .store
            .network(names::DEFAULT, OWN)?
            .and_then(|network| network.subnets.first().copied());
        let subnet = match made {
            Some(subnet) => subnet,
            None => subnets::lowest_free(&self.taken()?, None).ok_or(Problem::SubnetsExhausted)?,
        };
        default_network(subnet)
    }

    /// The network that a word means: id, name, or unique id prefix; `bridge` is the built-in one.
    pub fn network(&mut self, word: &str) -> anyhow::Result<Network> {
        if word == names::DEFAULT {
            return self.default_network();
        }
        let mut networks = self.definitions.list()?.networks;
        Ok(networks.swap_remove(which(word, &networks)?))
    }

    /// How the names of a network are served, while anybody is on it.
    pub fn zone(&self, network: &Network) -> anyhow::Result<Option<Zone>> {
        for plugin in network.plugin_types() {
            let made = self.host.store.network(&network.name, plugin)?;
            if let Some(zone) = made.and_then(|made| made.zone) {
                return Ok(Some(zone));
            }
        }
        Ok(None)
    }

    /// Every record of every runtime.
    pub fn records(&self) -> anyhow::Result<Vec<Record>> {
        Ok(self.host.store.records()?)
    }

    /// Everybody who is on a network, or was started by `rnet run`.
    pub fn containers(&self) -> anyhow::Result<Vec<Container>> {
        Ok(containers::containers(&self.records()?, &self.endpoints.list()?))
    }

    /// Every subnet in use on this host, networks first.
    pub fn taken(&mut self) -> anyhow::Result<Vec<Taken>> {
        let networks = self.definitions.list()?.networks;
        let defined = networks.iter().flat_map(|network| {
            network
                .subnets
                .iter()
                .map(|subnet| Taken { subnet: subnet.subnet, owner: Owner::Network(network.name.clone()) })
        });
        let mut taken: Vec<Taken> = defined.collect();
        for made in self.host.store.networks()?.into_iter().filter(|made| made.bridge == DEFAULT_DEVICE) {
            taken.extend(
                made.subnets
                    .iter()
                    .map(|subnet| Taken { subnet: *subnet, owner: Owner::Network(made.name.clone()) }),
            );
        }
        taken.extend(podman(&self.host.store.paths().rooted(Path::new("/etc/containers/networks"))));
        taken.extend(self.routes()?);
        Ok(taken)
    }

    /// What is wrong with the records: a sentence for each that cannot be read, or be put into the ruleset.
    pub fn faults(&self) -> anyhow::Result<Vec<String>> {
        let folder = self.host.store.paths().run().join("aside");
        let unread = |file: String| {
            format!("a record could not be read and was set aside: {}", folder.join(file).display())
        };
        let mut faults: Vec<String> = self.host.store.aside()?.into_iter().map(unread).collect();
        let left_out = plugins::ruleset::left_out(&self.host)?.into_iter();
        faults.extend(left_out.map(|line| format!("left out of the ruleset: {line}")));
        Ok(faults)
    }

    /// What the kernel has, read once for all networks.
    pub fn kernel(&mut self) -> anyhow::Result<Kernel> {
        let links = self.host.netlink.links()?.into_iter().map(|link| (link.name.clone(), link)).collect();
        let mut addresses: HashMap<u32, Vec<IpAddr>> = HashMap::new();
        for found in self.host.netlink.addresses(None)? {
            addresses.entry(found.index).or_default().push(found.address.ip());
        }
        let recorded = self.host.store.networks()?.iter().any(|network| network.isolated);
        // Whoever may not look at the ruleset is not told of it.
        let ruleset_intact = !recorded || plugins::ruleset::is_intact(&mut self.host).unwrap_or(true);
        Ok(Kernel { links, addresses, ruleset_intact })
    }

    fn routes(&mut self) -> anyhow::Result<Vec<Taken>> {
        let links = self.host.netlink.links()?;
        let name = |index: u32| links.iter().find(|link| link.index == index).map(|link| link.name.clone());
        let routes = self.host.netlink.routes()?;
        let subnets = routes.iter().filter(|route| is_subnet(route));
        Ok(subnets
            .map(|route| Taken {
                subnet: route.destination,
                owner: Owner::Route {
                    device: name(route.index).unwrap_or_else(|| "none".into()),
                    on_link: route.gateway.is_none(),
                },
            })
            .collect())
    }
}

impl Kernel {
    /// How `network` stands, with `users` on it.
    pub fn state(&self, network: &Network, users: &[&Container]) -> State {
        let Some(name) = network.bridge() else { return State::Ok };
        let Some(bridge) = self.links.get(&name) else { return State::Absent };
        let wrong = self.wrong_bridge(network, bridge).or_else(|| self.wrong_ports(network, bridge, users));
        let flushed = (network.kind() == OWN && !users.is_empty() && !self.ruleset_intact)
            .then(|| "its ruleset was changed or flushed".to_owned());
        wrong.or(flushed).map_or(State::Ok, State::Degraded)
    }

    /// A link of the host.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.get(name)
    }

    fn wrong_bridge(&self, network: &Network, bridge: &Link) -> Option<String> {
        if bridge.kind.as_deref() != Some("bridge") {
            return Some(format!("{} is not a bridge", bridge.name));
        }
        if !bridge.up {
            return Some(format!("{} is down", bridge.name));
        }
        let found = self.addresses.get(&bridge.index).map(Vec::as_slice).unwrap_or_default();
        let missing =
            network.subnets.iter().map(|subnet| subnet.gateway).find(|gateway| !found.contains(gateway));
        // A bridge-typed network need not be a gateway.
        let missing = missing.filter(|_| network.kind() == OWN);
        missing.map(|gateway| format!("{gateway} is missing on {}", bridge.name))
    }

    fn wrong_ports(&self, network: &Network, bridge: &Link, users: &[&Container]) -> Option<String> {
        let attachments =
            users.iter().flat_map(|user| user.attachments.iter().map(move |attachment| (user, attachment)));
        let mut ports = attachments
            .filter(|(_, attachment)| attachment.network == network.name)
            .filter_map(|(user, attachment)| Some((user, attachment.link.as_deref()?)));
        ports.find_map(|(user, port)| match self.links.get(port) {
            None => Some(format!("{:?} has lost its {port}", user.name)),
            Some(link) if link.master != Some(bridge.index) => {
                Some(format!("{port} of {:?} is not on {}", user.name, bridge.name))
            }
            Some(_) => None,
        })
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            State::Ok => f.write_str("ok"),
            State::Absent => f.write_str("absent"),
            State::Degraded(reason) => write!(f, "degraded ({reason})"),
        }
    }
}

/// The index of the network that a word means.
fn which(word: &str, networks: &[Network]) -> Result<usize, Problem> {
    let ids: Vec<String> = networks.iter().map(Network::id).collect();
    let things = ids.iter().zip(networks).map(|(id, network)| (id.as_str(), network.name.as_str()));
    match names::find(word, things) {
        Found::One(index) => Ok(index),
        Found::Several(indexes) => Err(Problem::Ambiguous {
            name: word.to_owned(),
            hits: indexes.iter().map(|index| networks[*index].name.clone()).collect(),
            hint: Some("the whole name (rnet ls shows it)"),
        }),
        Found::No => {
            let known = networks.iter().map(|network| network.name.as_str()).chain(names::RESERVED);
            Err(Problem::NoNetwork { name: word.to_owned(), near: names::nearest(word, known) })
        }
    }
}

/// The users of a network.
pub fn users_of<'a>(network: &str, containers: &'a [Container]) -> Vec<&'a Container> {
    containers
        .iter()
        .filter(|container| container.attachments.iter().any(|attachment| attachment.network == network))
        .collect()
}

/// Routes that say that a subnet is somewhere: not the host's own addresses, broadcasts, multicast, link-local ones.
fn is_subnet(route: &Route) -> bool {
    const LOCAL_TABLE: u32 = 255;
    let link_local = match route.destination.ip() {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_loopback() || v4.is_multicast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_loopback() || v6.is_multicast(),
    };
    route.table != Some(LOCAL_TABLE) && route.destination.prefix() > 0 && !link_local
}

/// The networks in podman's own files; a file that cannot be read tells of none.
fn podman(folder: &Path) -> Vec<Taken> {
    #[derive(Deserialize)]
    struct File {
        name: String,
        #[serde(default)]
        subnets: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        subnet: ipnetwork::IpNetwork,
    }
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path()).filter(|path| path.extension() == Some("json".as_ref()));
    let read = files.filter_map(|path| serde_json::from_slice::<File>(&std::fs::read(path).ok()?).ok());
    let taken = read.flat_map(|file| {
        let owner = Owner::Podman(file.name);
        file.subnets.into_iter().map(move |entry| Taken { subnet: entry.subnet, owner: owner.clone() })
    });
    taken.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::Attachment;

    fn network() -> Network {
        default_network("172.18.0.0/16".parse().unwrap()).unwrap()
    }

    fn bridge(up: bool) -> Link {
        Link { index: 7, name: "rnet0".into(), kind: Some("bridge".into()), up, ..Link::default() }
    }

    fn kernel(links: Vec<Link>, addresses: &[&str]) -> Kernel {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Kernel {
            links: links.into_iter().map(|link| (link.name.clone(), link)).collect(),
            addresses: HashMap::from([(7, addresses)]),
            ruleset_intact: true,
        }
    }

    fn user() -> Container {
        let attachment =
            Attachment { network: "bridge".into(), link: Some("veth1".into()), ..Attachment::default() };
        Container { name: "web".into(), attachments: vec![attachment], ..Container::default() }
    }

    #[test]
    fn a_network_is_ok_absent_or_degraded_for_a_reason() {
        let veth = Link { name: "veth1".into(), master: Some(7), ..Link::default() };
        let state = |kernel: Kernel| kernel.state(&network(), &[&user()]).to_string();
        let gateway = ["172.18.0.1"];
        assert_eq!(state(kernel(vec![], &[])), "absent");
        assert_eq!(state(kernel(vec![bridge(true), veth.clone()], &gateway)), "ok");
        assert_eq!(state(kernel(vec![bridge(false), veth.clone()], &gateway)), "degraded (rnet0 is down)");
        assert_eq!(
            state(kernel(vec![bridge(true), veth.clone()], &[])),
            "degraded (172.18.0.1 is missing on rnet0)"
        );
        assert_eq!(state(kernel(vec![bridge(true)], &gateway)), "degraded (\"web\" has lost its veth1)");
        let loose = Link { master: None, ..veth.clone() };
        assert_eq!(
            state(kernel(vec![bridge(true), loose], &gateway)),
            "degraded (veth1 of \"web\" is not on rnet0)"
        );
        let flushed = Kernel { ruleset_intact: false, ..kernel(vec![bridge(true), veth], &gateway) };
        assert_eq!(state(flushed), "degraded (its ruleset was changed or flushed)");
        let other = Link { kind: Some("dummy".into()), ..bridge(true) };
        assert_eq!(state(kernel(vec![other], &gateway)), "degraded (rnet0 is not a bridge)");
    }

    #[test]
    fn podmans_networks_are_read_from_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write(
            "web.json",
            r#"{"name":"web","subnets":[{"subnet":"172.18.0.0/24","gateway":"172.18.0.1"}],"internal":false}"#,
        );
        write("broken.json", "{");
        write("notes.txt", r#"{"name":"x","subnets":[{"subnet":"10.0.0.0/8"}]}"#);
        let expected = Taken { subnet: "172.18.0.0/24".parse().unwrap(), owner: Owner::Podman("web".into()) };
        assert_eq!(podman(folder.path()), [expected]);
        assert_eq!(podman(Path::new("/nowhere")), []);
    }

    #[test]
    fn only_routes_to_subnets_count() {
        let route = |to: &str, table| Route { table: Some(table), ..Route::new(to.parse().unwrap(), 2) };
        assert!(is_subnet(&route("10.0.0.0/8", 254)));
        assert!(is_subnet(&route("172.18.7.0/24", 100)));
        for (to, table) in [
            ("10.0.0.1/32", 255),
            ("0.0.0.0/0", 254),
            ("fe80::/64", 254),
            ("ff00::/8", 254),
            ("127.0.0.0/8", 254),
        ] {
            assert!(!is_subnet(&route(to, table)), "{to}");
        }
    }
}
