//! Names and their owners, and who may see them.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::{ptr, slice};

use crate::entry::{Endpoint, Network, valid_name};
use crate::index::Index;
use crate::reverse::{Subnets, bits};
use crate::zone::Asked;

/// The link of the host's own questions.
pub(crate) const LOOPBACK_LINK: &str = "lo";

/// Endpoints without a name are listed under this, so that a network finds all its endpoints.
const NAMELESS: &str = "";

/// The networks and the endpoints on them, found by the keys of a question or a change, never by a search.
#[derive(Debug, Default)]
pub struct Table {
    networks: HashMap<Arc<str>, ServedNetwork>,
    bridges: Index<Box<str>, str>,
    gateways: Index<IpAddr, str>,
    /// The networks' names in lower case.
    called: Index<Box<str>, str>,
    /// The networks' domains in lower case.
    domains: Index<Box<str>, str>,
    subnets: Subnets,
    /// By the hash of the address, see [`Table::owners`].
    addresses: Index<u64, StoredEndpoint>,
    /// By the hash of the id, see [`StoredEndpoint::container`].
    containers: Index<u64, StoredEndpoint>,
    hasher: RandomState,
}

/// A network with its names.
#[derive(Debug)]
pub(crate) struct ServedNetwork {
    /// The value that was set.
    pub network: Network,
    /// Its name in lower case.
    pub called: Box<str>,
    /// Its domain in lower case.
    pub domain: Option<Box<str>>,
    /// By the hash of a name in lower case, so that no name is kept twice. Names with the same hash by chance are
    /// distinguished by the endpoint's own names.
    names: Index<u64, StoredEndpoint>,
    hasher: RandomState,
}

/// An endpoint in the table; small, because there are many.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StoredEndpoint {
    /// The network's name, which all its endpoints share.
    pub network: Arc<str>,
    /// The container's id, the interface and the names, separated by blanks, which none of them has.
    words: Box<str>,
    addresses: Addresses,
    /// The container's own upstream servers.
    pub upstreams: Box<[SocketAddr]>,
}

/// Nearly always it is one, which then needs no allocation.
#[derive(Debug, PartialEq, Eq)]
enum Addresses {
    One(IpAddr),
    Others(Box<[IpAddr]>),
}

/// The asker of a question.
#[derive(Debug)]
pub(crate) enum Asker<'t> {
    /// An asker with a view.
    Known(View<'t>),
    /// From elsewhere, through another link than one of rnet's bridges (V4).
    Stranger,
    /// An asker whose address belongs elsewhere (V5).
    Forged,
}

/// The networks whose names an asker may see.
#[derive(Debug)]
pub(crate) struct View<'t> {
    /// The networks; first the one through which the question came.
    pub networks: Vec<&'t ServedNetwork>,
    /// The asker's endpoints, the one with the source address first; none for the host and for unregistered sources.
    pub endpoints: Vec<&'t StoredEndpoint>,
}

impl Table {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a network, or changes it; its endpoints stay.
    pub fn set_network(&mut self, network: Network) {
        let old = self.take_network(&network.name);
        let (name, names) = match old {
            Some((name, served)) => (name, served.names),
            None => (network.name.as_str().into(), Index::default()),
        };
        let served = ServedNetwork::new(network, names, self.hasher.clone());
        self.index(&name, &served);
        self.networks.insert(name, served);
    }

    /// Removes a network and the endpoints that are still on it.
    pub fn remove_network(&mut self, name: &str) {
        let Some((_, served)) = self.take_network(name) else { return };
        for endpoint in served.names.all() {
            self.forget(endpoint);
        }
    }

    /// Adds an endpoint, or changes it, as one change. False, and nothing is changed, if there is no such network or the
    /// container or interface cannot have that name.
    ///
    /// Its key is network, container and interface. Names that cannot be asked for (N6) are left out.
    pub fn set_endpoint(&mut self, endpoint: &Endpoint) -> bool {
        let Some((network, _)) = self.networks.get_key_value(endpoint.network.as_str()) else { return false };
        let is_word = |text: &str| !text.is_empty() && !text.contains(char::is_whitespace);
        if !is_word(&endpoint.container) || !is_word(&endpoint.ifname) {
            return false;
        }
        let network = Arc::clone(network);
        self.remove_endpoint(&endpoint.network, &endpoint.container, &endpoint.ifname);
        self.insert(&Arc::new(StoredEndpoint::new(network, endpoint)));
        true
    }

    /// Removes an endpoint, if it exists.
    pub fn remove_endpoint(&mut self, network: &str, container: &str, ifname: &str) {
        let same = |other: &&Arc<StoredEndpoint>| *other.network == *network && other.ifname() == ifname;
        let Some(endpoint) = self.of_container(container).find(same).cloned() else { return };
        self.forget(&endpoint);
        let Some(served) = self.networks.get_mut(network) else { return };
        for key in endpoint.keys(&self.hasher) {
            served.names.remove(&key, &endpoint);
        }
    }

    /// Whether exactly this endpoint is known.
    pub fn knows(&self, endpoint: &Endpoint) -> bool {
        let wanted = StoredEndpoint::new(endpoint.network.as_str().into(), endpoint);
        self.of_container(&endpoint.container).any(|known| **known == wanted)
    }

    /// The networks.
    pub fn networks(&self) -> impl Iterator<Item = &Network> {
        self.networks.values().map(|served| &served.network)
    }

    /// The endpoints.
    pub fn endpoints(&self) -> impl Iterator<Item = Endpoint> {
        self.stored().map(|endpoint| endpoint.as_told())
    }

    /// The endpoints as they are stored.
    pub(crate) fn stored(&self) -> impl Iterator<Item = &Arc<StoredEndpoint>> {
        self.containers.all()
    }

    /// The asker of a question (V1–V5).
    pub(crate) fn asker(&self, asked: &Asked<'_>) -> Asker<'_> {
        let (from, to) = (asked.from.to_canonical(), asked.to.to_canonical());
        // The kernel would take an answer to `::` for one to the host's own loopback.
        if from.is_unspecified() || from.is_multicast() {
            return Asker::Forged;
        }
        if asked.link == LOOPBACK_LINK
            && let Some(served) = self.find_networks(self.gateways.get(&to)).next()
        {
            return Asker::Known(View::of_network(served));
        }
        let here = self.bridges.get(asked.link);
        if let Some(own) = self.owners(from).find(|owner| here.contains(&owner.network)) {
            return Asker::Known(self.view(own));
        }
        match self.find_networks(here).find(|served| served.contains(from)) {
            Some(served) => Asker::Known(View::of_network(served)),
            // Behind rnet's bridges only these sources exist: any other is forged, and an answer would reach its real owner.
            None if here.is_empty() && self.owners(from).next().is_none() && !self.is_inside(from) => {
                Asker::Stranger
            }
            None => Asker::Forged,
        }
    }

    /// The bridge behind which an address is: its owner's, or that of the smallest subnet around it.
    pub(crate) fn bridge_of(&self, address: IpAddr) -> Option<&str> {
        let address = address.to_canonical();
        let owner = self.owners(address).next().and_then(|owner| self.networks.get(&owner.network));
        let around = || self.networks.values().max_by_key(|served| served.prefix_around(address));
        let served = owner.or_else(|| around().filter(|served| served.contains(address)))?;
        Some(&served.network.bridge)
    }

    /// Whether an address is in one of the networks' subnets.
    pub(crate) fn is_inside(&self, address: IpAddr) -> bool {
        self.subnet_of(address, bits(address)).is_some()
    }

    /// The endpoints with an address.
    pub(crate) fn owners(&self, address: IpAddr) -> impl Iterator<Item = &Arc<StoredEndpoint>> {
        let found = self.addresses.get(&self.hasher.hash_one(address));
        found.iter().filter(move |own| own.addresses().contains(&address))
    }

    /// The prefix length of the smallest subnet that has all addresses which begin with these bits.
    pub(crate) fn subnet_of(&self, address: IpAddr, length: u8) -> Option<u8> {
        self.subnets.around(address, length)
    }

    /// Whether it is the name (in lower case) of a network, in view or not.
    pub(crate) fn is_network(&self, name: &str) -> bool {
        self.called.key(name).is_some()
    }

    /// Whether it is the domain (in lower case) of a network, in view or not.
    pub(crate) fn is_domain(&self, name: &str) -> bool {
        self.domains.key(name).is_some()
    }

    fn of_container<'t>(&'t self, id: &'t str) -> impl Iterator<Item = &'t Arc<StoredEndpoint>> {
        let found = self.containers.get(&self.hasher.hash_one(id));
        found.iter().filter(move |endpoint| endpoint.container() == id)
    }

    /// The view of the container with that endpoint.
    fn view<'t>(&'t self, own: &'t StoredEndpoint) -> View<'t> {
        let others = self.of_container(own.container()).map(|other| &**other);
        let endpoints: Vec<_> =
            [own].into_iter().chain(others.filter(|other| !ptr::eq(*other, own))).collect();
        let mut networks: Vec<&ServedNetwork> = Vec::with_capacity(endpoints.len());
        for served in endpoints.iter().filter_map(|endpoint| self.networks.get(&endpoint.network)) {
            if !networks.iter().any(|other| ptr::eq(*other, served)) {
                networks.push(served);
            }
        }
        View { networks, endpoints }
    }

    fn find_networks<'t>(&'t self, names: &'t [Arc<str>]) -> impl Iterator<Item = &'t ServedNetwork> {
        names.iter().filter_map(|name| self.networks.get(name))
    }

    fn insert(&mut self, endpoint: &Arc<StoredEndpoint>) {
        self.containers.add(self.hasher.hash_one(endpoint.container()), endpoint);
        for address in endpoint.addresses() {
            self.addresses.add(self.hasher.hash_one(address), endpoint);
        }
        let Some(served) = self.networks.get_mut(&endpoint.network) else { return };
        for key in endpoint.keys(&self.hasher) {
            served.names.add(key, endpoint);
        }
    }

    /// Removes an endpoint from all indexes except its network's.
    fn forget(&mut self, endpoint: &Arc<StoredEndpoint>) {
        self.containers.remove(&self.hasher.hash_one(endpoint.container()), endpoint);
        for address in endpoint.addresses() {
            self.addresses.remove(&self.hasher.hash_one(address), endpoint);
        }
    }

    fn index(&mut self, name: &Arc<str>, served: &ServedNetwork) {
        let network = &served.network;
        self.bridges.add(network.bridge.as_str().into(), name);
        self.called.add(served.called.clone(), name);
        served.domain.iter().for_each(|domain| self.domains.add(domain.clone(), name));
        network.gateways.iter().for_each(|gateway| self.gateways.add(*gateway, name));
        network.subnets.iter().for_each(|subnet| self.subnets.add(*subnet));
    }

    fn take_network(&mut self, name: &str) -> Option<(Arc<str>, ServedNetwork)> {
        let (name, served) = self.networks.remove_entry(name)?;
        let network = &served.network;
        self.bridges.remove(network.bridge.as_str(), &name);
        self.called.remove(&served.called, &name);
        served.domain.iter().for_each(|domain| self.domains.remove(domain, &name));
        network.gateways.iter().for_each(|gateway| self.gateways.remove(gateway, &name));
        network.subnets.iter().for_each(|subnet| self.subnets.remove(*subnet));
        Some((name, served))
    }
}

impl ServedNetwork {
    fn new(network: Network, names: Index<u64, StoredEndpoint>, hasher: RandomState) -> Self {
        let called = network.name.to_ascii_lowercase().into();
        let domain =
            network.domain.as_deref().map(|domain| domain.trim_end_matches('.').to_ascii_lowercase());
        let domain = domain.filter(|domain| valid_name(domain)).map(Into::into);
        Self { network, called, domain, names, hasher }
    }

    /// The endpoints with a name (in lower case).
    pub(crate) fn holders<'t>(&'t self, name: &'t str) -> impl Iterator<Item = &'t Arc<StoredEndpoint>> {
        let found = self.names.get(&self.hasher.hash_one(name));
        found.iter().filter(move |own| own.names().any(|known| known.eq_ignore_ascii_case(name)))
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.prefix_around(address).is_some()
    }

    /// The prefix length of its smallest subnet around an address.
    fn prefix_around(&self, address: IpAddr) -> Option<u8> {
        let around = self.network.subnets.iter().filter(|subnet| subnet.contains(address));
        around.map(|subnet| subnet.prefix()).max()
    }
}

impl<'t> View<'t> {
    /// The container that asks: network and id.
    pub(crate) fn client(&self) -> Option<(Arc<str>, Arc<str>)> {
        self.endpoints.first().map(|own| (Arc::clone(&own.network), own.container().into()))
    }

    fn of_network(served: &'t ServedNetwork) -> Self {
        Self { networks: vec![served], endpoints: Vec::new() }
    }
}

impl StoredEndpoint {
    fn new(network: Arc<str>, endpoint: &Endpoint) -> Self {
        let mut words = vec![endpoint.container.as_str(), &endpoint.ifname];
        words.extend(endpoint.askable_names());
        let addresses = match endpoint.distinct_addresses()[..] {
            [one] => Addresses::One(one),
            ref others => Addresses::Others(others.into()),
        };
        Self {
            network,
            words: words.join(" ").into(),
            addresses,
            upstreams: endpoint.upstreams.as_slice().into(),
        }
    }

    /// The container's id.
    pub(crate) fn container(&self) -> &str {
        self.words().next().unwrap_or_default()
    }

    fn ifname(&self) -> &str {
        self.words().nth(1).unwrap_or_default()
    }

    /// Its names, the PTR's first.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.words().skip(2)
    }

    fn words(&self) -> impl Iterator<Item = &str> {
        self.words.split(' ')
    }

    /// Its addresses.
    pub(crate) fn addresses(&self) -> &[IpAddr] {
        match &self.addresses {
            Addresses::One(one) => slice::from_ref(one),
            Addresses::Others(others) => others,
        }
    }

    /// The keys by which its network finds it.
    fn keys(&self, hasher: &RandomState) -> impl Iterator<Item = u64> {
        let nameless = self.names().next().is_none().then_some(NAMELESS);
        self.names().chain(nameless).map(|name| hasher.hash_one(name.to_ascii_lowercase().as_str()))
    }

    /// The value that was set.
    pub(crate) fn as_told(&self) -> Endpoint {
        Endpoint {
            network: self.network.to_string(),
            container: self.container().to_owned(),
            ifname: self.ifname().to_owned(),
            names: self.names().map(str::to_owned).collect(),
            addresses: self.addresses().to_vec(),
            upstreams: self.upstreams.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(name: &str, subnet: &str) -> Network {
        let (bridge, subnets) = (format!("br-{name}"), vec![subnet.parse().unwrap()]);
        Network { name: name.into(), bridge, subnets, ..Network::default() }
    }

    fn endpoint(network: &str, ip: &str) -> Endpoint {
        let (container, ifname) = (format!("on-{network}"), "eth0".into());
        let addresses = vec![ip.parse().unwrap()];
        Endpoint { network: network.into(), container, ifname, addresses, ..Endpoint::default() }
    }

    /// V5. Answers to them would go to the host's own loopback, or to all hosts.
    #[test]
    fn nobody_asks_from_no_address_or_a_multicast_one() {
        let mut table = Table::new();
        table.set_network(network("a", "fd00::/8"));
        for (from, link) in
            [("::", "br-a"), ("::", "lo"), ("ff02::1", "br-a"), ("0.0.0.0", "br-a"), ("224.0.0.1", "br-a")]
        {
            let (from, to) = (from.parse().unwrap(), "fd00::1".parse().unwrap());
            let asked = Asked { message: &[], from, link, to, transport: crate::zone::Transport::Udp };
            assert!(matches!(table.asker(&asked), Asker::Forged), "{from} by {link}");
        }
    }

    /// V1, V5. Over TCP the kernel does not say through which link a client came.
    #[test]
    fn an_address_lies_behind_its_owners_bridge_else_behind_that_of_the_smallest_subnet() {
        // A new table each time, because its order differs.
        for _ in 0..8 {
            let mut table = Table::new();
            for (name, subnet) in [("wide", "10.0.0.0/8"), ("narrow", "10.7.0.0/24"), ("mid", "10.7.0.0/16")]
            {
                table.set_network(network(name, subnet));
            }
            assert!(table.set_endpoint(&endpoint("wide", "10.7.0.9")));
            let bridge_of = |ip: &str| table.bridge_of(ip.parse().unwrap());
            assert_eq!(bridge_of("10.7.0.9"), Some("br-wide"));
            assert_eq!(bridge_of("::ffff:10.7.0.9"), Some("br-wide"));
            assert_eq!(bridge_of("10.7.0.8"), Some("br-narrow"));
            assert_eq!(bridge_of("10.7.1.8"), Some("br-mid"));
            assert_eq!(bridge_of("10.8.0.8"), Some("br-wide"));
            assert_eq!(bridge_of("192.0.2.1"), None);
        }
    }
}
