//! The host as the command sees it: definitions, records, endpoints and the kernel, joined.

use std::path::Path;

use engine::Host;
use ipnetwork::IpNetwork;
use serde::Deserialize;
use store::{Record, Zone};

use crate::containers::{self, Attachment, Container};
use crate::definitions::{self, DEFAULT_DEVICE, Definitions, Network, default_network};
use crate::ended::Ended;
use crate::endpoint::Endpoints;
use crate::hostuses;
use crate::lookup::Known;
use crate::names;
use crate::report::{Problem, Style};
use crate::state::{Kernel, Links};
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

impl View {
    /// Opens the host; `what` is told to others who wait for us.
    pub fn open(what: &str) -> anyhow::Result<Self> {
        let host = Host::open(what.to_owned())?;
        let (definitions, endpoints) =
            (Definitions::of(host.store.paths()), Endpoints::of(host.store.paths()));
        Ok(Self { host, definitions, endpoints })
    }

    /// Every network: those that are defined, the built-in one while anybody is on it, and those that somebody is on and
    /// no file defines.
    pub fn networks(&mut self, containers: &[Container], style: Style) -> anyhow::Result<Vec<Network>> {
        let listing = self.definitions.list()?;
        for broken in &listing.broken {
            style.warn(format_args!("skipped {broken}"));
        }
        let mut networks = listing.networks;
        if self.is_builtin_made()? {
            networks.push(self.default_network()?);
        }
        networks.extend(self.undefined(&networks, containers)?);
        networks.sort_by(|one, other| (&one.name, one.kind()).cmp(&(&other.name, other.kind())));
        Ok(networks)
    }

    /// The built-in network: on the subnet that it has, else on the lowest free one.
    pub fn default_network(&mut self) -> anyhow::Result<Network> {
        let made = self
            .host
            .store
            .network(names::DEFAULT, OWN)?
            .and_then(|network| network.subnets.first().copied());
        let subnet = match made.or(self.subnet_in_kernel()?) {
            Some(subnet) => subnet,
            None => subnets::lowest_free(&self.taken()?, None).ok_or(Problem::SubnetsExhausted)?,
        };
        default_network(subnet)
    }

    /// Everything that a word can mean; the built-in network is there whenever one of `words` asks for it.
    pub fn known(&mut self, words: &[String]) -> anyhow::Result<Known> {
        let records = self.records()?;
        let containers = self.containers_of(&records)?;
        let mut networks = self.definitions.list()?.networks;
        if words.iter().any(|word| word == names::DEFAULT) || self.is_builtin_made()? {
            networks.push(self.default_network()?);
        }
        networks.extend(self.undefined(&networks, &containers)?);
        let ended = self.ended(&containers);
        Ok(Known { networks, containers, ended, records })
    }

    /// Those that ended, the last one first.
    pub fn ended(&self, containers: &[Container]) -> Vec<Ended> {
        let mut ended = self.endpoints.ended.list();
        // Some may just be being cleared away.
        ended.retain(|ended| containers.iter().all(|container| container.id != ended.endpoint.id));
        ended
    }

    /// Networks that containers are on and that no file defines any more, or none that rnet knows of.
    fn undefined(&self, defined: &[Network], containers: &[Container]) -> anyhow::Result<Vec<Network>> {
        let mut found: Vec<Network> = Vec::new();
        for (container, attachment) in containers.iter().flat_map(Container::with_attachments) {
            if !defined.iter().chain(&found).any(|network| attachment.is_on(network)) {
                found.extend(self.as_it_was(container, attachment)?);
            }
        }
        Ok(found)
    }

    /// A network as an endpoint found it, or as its plugin made it.
    fn as_it_was(&self, container: &Container, attachment: &Attachment) -> anyhow::Result<Option<Network>> {
        let joined = container.endpoint.iter().flat_map(|endpoint| &endpoint.joined);
        let mut networks = joined.filter_map(|joined| joined.network().ok());
        if let Some(network) = networks.find(|network| attachment.is_on(network)) {
            return Ok(Some(network));
        }
        let made = self.host.store.network(&attachment.network, &attachment.plugin)?;
        Ok(made.and_then(|made| definitions::network_as_made(&made).ok()))
    }

    fn is_builtin_made(&mut self) -> anyhow::Result<bool> {
        Ok(self.host.store.network(names::DEFAULT, OWN)?.is_some() || self.subnet_in_kernel()?.is_some())
    }

    /// The subnet that the built-in network's bridge has, though nothing is on record of it: that was lost.
    fn subnet_in_kernel(&mut self) -> anyhow::Result<Option<IpNetwork>> {
        let bridge =
            self.host.netlink.link(DEFAULT_DEVICE)?.filter(|link| link.kind.as_deref() == Some("bridge"));
        let Some(bridge) = bridge else { return Ok(None) };
        let found = self.host.netlink.addresses(Some(bridge.index))?.into_iter().map(|found| found.address);
        let subnet = |address: IpNetwork| IpNetwork::new(address.network(), address.prefix()).ok();
        Ok(found.filter(IpNetwork::is_ipv4).find_map(subnet))
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
        self.containers_of(&self.records()?)
    }

    /// The same by records that are read already.
    pub fn containers_of(&self, records: &[Record]) -> anyhow::Result<Vec<Container>> {
        Ok(containers::containers(records, &self.endpoints.list()?))
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
        taken.extend(hostuses::taken(&mut self.host)?);
        Ok(taken)
    }

    /// What is wrong with the records: a sentence for each that cannot be read, or be put into the ruleset.
    pub fn faults(&self) -> anyhow::Result<Vec<String>> {
        let folder = self.host.store.paths().run().join("aside");
        let unread = |file: String| {
            format!("a record could not be read and was set aside: {}", folder.join(file).display())
        };
        let mut faults: Vec<String> = self.host.store.aside()?.into_iter().map(unread).collect();
        let left_out = engine::ruleset::left_out(&self.host)?.into_iter();
        faults.extend(left_out.map(|line| format!("left out of the ruleset: {line}")));
        Ok(faults)
    }

    /// What the kernel has of these networks and of those who are on them, by all records.
    pub fn kernel(
        &mut self,
        links: Links,
        networks: &[Network],
        containers: &[Container],
        records: &[Record],
    ) -> anyhow::Result<Kernel> {
        Kernel::read(&mut self.host, links, networks, containers, records)
    }
}

/// The users of a network.
pub fn users_of<'a>(network: &Network, containers: &'a [Container]) -> Vec<&'a Container> {
    containers.iter().filter(|container| container.is_on(network)).collect()
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
        subnet: IpNetwork,
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
}
