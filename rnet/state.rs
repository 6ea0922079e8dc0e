//! How a network stands: what its definition and its records say, compared with the kernel.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use dns::client;
use engine::finding::Wrong;
use engine::{Finding, Host, keys, port, publish, unrecorded};
use ipnetwork::IpNetwork;
use netlink::{Link, Netlink};
use nft::{Element, Owner, Refused};
use store::{Key, Record};

use crate::containers::{Attachment, Container};
use crate::definitions::Network;
use crate::rules::Rules;

/// The plugin of the networks that `rnet create` makes.
const OWN: &str = "rnet";

/// A name server that has not answered by then is not one that answers.
const PATIENCE: Duration = Duration::from_secs(1);

/// How a network stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody is on it.
    Idle,
    /// As defined and recorded.
    Ok,
    /// Something is not as it should be.
    Degraded(String),
    /// Its bridge or its definition is gone under those who are on it.
    Lost(String),
}

impl State {
    /// One word for programs.
    pub fn word(&self) -> &'static str {
        match self {
            State::Idle => "idle",
            State::Ok => "ok",
            State::Degraded(_) => "degraded",
            State::Lost(_) => "lost",
        }
    }

    /// What is wrong.
    pub fn reason(&self) -> Option<&str> {
        match self {
            State::Idle | State::Ok => None,
            State::Degraded(reason) | State::Lost(reason) => Some(reason),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason() {
            None => f.write_str(self.word()),
            Some(reason) => write!(f, "{} ({reason})", self.word()),
        }
    }
}

/// What the kernel has, read once for all networks.
#[derive(Debug, Default)]
pub struct Kernel {
    links: HashMap<String, Link>,
    addresses: HashMap<u32, Vec<IpAddr>>,
    /// By the host ends of veth pairs: the addresses of the other ends.
    inside: HashMap<String, Vec<IpAddr>>,
    /// By the index of their bridge: the ports of containers that rnet has attached and of which there is no record.
    unrecorded: HashMap<u32, Vec<Unrecorded>>,
    /// Families in which the host does not forward.
    closed: Vec<&'static str>,
    rules: Rules,
    /// What was dropped at guarded ports, by their names; none where that was not asked or may not be read.
    refused: Option<HashMap<String, Refused>>,
    /// By bridges: what is wrong with the way of the host's loopback to their containers, if anything is.
    loopback: HashMap<String, Option<String>>,
    /// What is wrong with the name server.
    names: Option<String>,
}

/// A container of which there is no record.
#[derive(Debug)]
struct Unrecorded {
    port: String,
    addresses: Vec<IpAddr>,
}

/// So many are named.
const NAMED: usize = 3;

/// The links, asked for by a thread of its own: with 1,000 of them the kernel takes as long as the records do.
pub struct Links(JoinHandle<Result<Vec<Link>, netlink::Error>>);

impl Links {
    /// Asks for them. What comes after it may not change the network namespace of the calling thread.
    pub fn ask() -> Self {
        Self(std::thread::spawn(|| Netlink::here()?.links()))
    }

    fn answer(self) -> Result<Vec<Link>, netlink::Error> {
        self.0.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Kernel {
    /// The links.
    pub fn links(host: &mut Host) -> anyhow::Result<Self> {
        Ok(Self::of(host.netlink.links()?))
    }

    /// The same of links that were asked for before.
    pub fn asked(links: Links) -> anyhow::Result<Self> {
        Ok(Self::of(links.answer()?))
    }

    fn of(links: Vec<Link>) -> Self {
        let links = links.into_iter().map(|link| (link.name.clone(), link)).collect();
        Self { links, ..Self::default() }
    }

    /// All that there is to know about these networks and those who are on them. `records` are all of the host.
    pub fn read(
        host: &mut Host,
        links: Links,
        networks: &[Network],
        containers: &[Container],
        records: &[Record],
    ) -> anyhow::Result<Self> {
        let mut kernel = Self::asked(links)?;
        kernel.read_gateways(host, networks)?;
        let users =
            || containers.iter().flat_map(Container::with_attachments).map(|(_, attachment)| attachment);
        let users: Vec<&Attachment> =
            users().filter(|user| networks.iter().any(|network| user.is_on(network))).collect();
        kernel.look_again(host, &users)?;
        kernel.look_for_unrecorded(host, records);
        if users.is_empty() {
            return Ok(kernel);
        }
        let what = host.what.clone();
        std::thread::scope(|scope| {
            // Through a socket of its own: the kernel takes as long for the elements as for the addresses.
            let rules = scope.spawn(|| Some(Rules::read(&mut Host::open(what).ok()?, records)));
            kernel.look_inside(host, &users);
            let rules: Option<Rules> = rules.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            kernel.rules = rules.unwrap_or_default();
        });
        for record in users.iter().flat_map(|user| &user.records) {
            kernel.look_at_loopback(host, record);
        }
        kernel.closed = closed(host);
        kernel.names = wrong_names(host, networks);
        Ok(kernel)
    }

    /// The addresses of the networks' bridges.
    fn read_gateways(&mut self, host: &mut Host, networks: &[Network]) -> anyhow::Result<()> {
        for bridge in networks.iter().filter_map(|network| self.links.get(&network.bridge()?)) {
            let found = host.netlink.addresses(Some(bridge.index))?;
            self.addresses.insert(bridge.index, found.into_iter().map(|found| found.address.ip()).collect());
        }
        Ok(())
    }

    /// The links were asked for while the records were read: one that is missing may have been made meanwhile.
    fn look_again(&mut self, host: &mut Host, users: &[&Attachment]) -> anyhow::Result<()> {
        for name in users.iter().filter_map(|user| user.link.as_ref()) {
            if !self.links.contains_key(name) {
                self.links.extend(host.netlink.link(name)?.map(|link| (name.clone(), link)));
            }
        }
        Ok(())
    }

    /// The addresses of the containers' interfaces.
    fn look_inside(&mut self, host: &mut Host, users: &[&Attachment]) {
        for user in users {
            let Some(link) = user.link.as_deref() else { continue };
            let has = |is_v4| user.addresses.iter().any(|address| address.is_ipv4() == is_v4);
            if let Some(inside) = self.addresses_behind(host, link, has) {
                self.inside.insert(link.to_owned(), inside);
            }
        }
    }

    /// The same with what was dropped at guarded ports. Users who may not read the ruleset are told nothing about it.
    pub fn with_refused(self, host: &mut Host) -> Self {
        Self { refused: host.firewall().ok().and_then(|firewall| firewall.refused().ok()), ..self }
    }

    /// A link of the host.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.get(name)
    }

    /// What was dropped at a guarded port.
    pub fn refused(&self, link: &str) -> Option<&Refused> {
        self.refused.as_ref()?.get(link)
    }

    /// How `network` stands, with `users` on it.
    pub fn state(&self, network: &Network, users: &[&Container]) -> State {
        if let Some(reason) = self.wrong_records(network) {
            return State::Degraded(reason);
        }
        if users.is_empty() {
            return State::Idle;
        }
        if let Some(reason) = self.lost(network, users) {
            return State::Lost(reason);
        }
        self.wrong(network, users).map_or(State::Ok, State::Degraded)
    }

    /// rnet's folder, or a part of it, was deleted while containers lived.
    fn wrong_records(&self, network: &Network) -> Option<String> {
        let bridge = self.links.get(&network.bridge()?)?;
        let all = self.unrecorded.get(&bridge.index)?;
        let named: Vec<String> = all.iter().take(NAMED).map(Unrecorded::to_string).collect();
        let more = if all.len() > NAMED { ", …" } else { "" };
        let (named, first) = (named.join(", "), &all[0].port);
        Some(match all.len() {
            1 => format!(
                "the record of 1 container on it was lost: {named}; hint: stop and start it, or: ip link delete {first}"
            ),
            many => format!(
                "the records of {many} containers on it were lost: {named}{more}; \
                 hint: stop and start them, or for each: ip link delete {first}"
            ),
        })
    }

    fn lost(&self, network: &Network, users: &[&Container]) -> Option<String> {
        let bridge = network.bridge();
        if let Some(bridge) = bridge.filter(|bridge| !self.links.contains_key(bridge)) {
            return Some(format!("its bridge {bridge} is gone"));
        }
        // Other runtimes may keep their definitions where rnet does not look.
        let is_ours = network.kind() == OWN || users.iter().any(|user| user.endpoint.is_some());
        let is_undefined = network.file.is_none() && !network.is_builtin();
        (is_ours && is_undefined).then(|| "no file defines it any more".to_owned())
    }

    fn wrong(&self, network: &Network, users: &[&Container]) -> Option<String> {
        self.repairable(network, users)
            .or_else(|| self.wrong_interfaces(network, users))
            .or_else(|| self.names.clone().filter(|_| network.has_names()))
    }

    /// What is wrong on the host's side, which `rnet repair` mends.
    fn repairable(&self, network: &Network, users: &[&Container]) -> Option<String> {
        let name = network.bridge()?;
        let bridge = self.links.get(&name)?;
        self.wrong_bridge(network, bridge)
            .or_else(|| self.wrong_ports(network, bridge, users))
            .or_else(|| self.wrong_forwarding(network))
            .or_else(|| self.wrong_rules(network, users))
            .or_else(|| self.loopback.get(&name).cloned().flatten())
    }

    /// True if `rnet repair` makes the network whole, or better than it is.
    pub fn is_repairable(&self, network: &Network, users: &[&Container]) -> bool {
        let is_ours = ["rnet", "bridge"].contains(&network.kind());
        let has_bridge = || network.bridge().is_some_and(|bridge| self.links.contains_key(&bridge));
        is_ours && !users.is_empty() && (!has_bridge() || self.repairable(network, users).is_some())
    }

    /// The links say whether there may be any; only then the records are read once more, for a container that came meanwhile.
    fn look_for_unrecorded(&mut self, host: &mut Host, records: &[Record]) {
        let of_interface = records.iter().filter(|record| record.link.is_some());
        let recorded: HashSet<Key> = of_interface.map(Record::key).collect();
        let recorded: HashSet<&str> = recorded.iter().map(Key::as_str).collect();
        let is_unrecorded = |link: &Link| unrecorded::key(link).is_some_and(|key| !recorded.contains(key));
        if !self.links.values().any(is_unrecorded) {
            return;
        }
        for port in unrecorded::unrecorded_beside(host, records).unwrap_or_default() {
            let addresses = self.addresses_behind(host, &port.name, |_| true).unwrap_or_default();
            let of_bridge = port.master.map(|bridge| self.unrecorded.entry(bridge).or_default());
            of_bridge.into_iter().for_each(|all| {
                all.push(Unrecorded { port: port.name.clone(), addresses: addresses.clone() });
            });
        }
    }

    /// One container stands for all on its bridge.
    fn look_at_loopback(&mut self, host: &mut Host, record: &Record) {
        let bridge = publish::loopback_bridge(record).filter(|bridge| !self.loopback.contains_key(*bridge));
        let Some(bridge) = bridge else { return };
        let wrong = publish::wrong_loopback(host, record).ok().flatten().map(|finding| match finding {
            Finding::NoLoopback { .. } => format!("route_localnet is off on {bridge}"),
            _ => format!("{bridge} has lost its filter for 127.0.0.1"),
        });
        self.loopback.insert(bridge.to_owned(), wrong);
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
        let missing = missing.filter(|_| network.is_gateway());
        missing.map(|gateway| format!("{gateway} is missing on {}", bridge.name))
    }

    fn wrong_ports(&self, network: &Network, bridge: &Link, users: &[&Container]) -> Option<String> {
        attachments_on(network, users)
            .find_map(|(user, attachment)| self.wrong_port(user, attachment, bridge))
    }

    fn wrong_interfaces(&self, network: &Network, users: &[&Container]) -> Option<String> {
        attachments_on(network, users).find_map(|(user, attachment)| self.wrong_interface(user, attachment))
    }

    fn wrong_port(&self, user: &Container, attachment: &Attachment, bridge: &Link) -> Option<String> {
        let port = attachment.link.as_deref()?;
        let link = self.links.get(port)?;
        if link.master != Some(bridge.index) {
            return Some(format!("{port} of {:?} is not on {}", user.name, bridge.name));
        }
        let wrong = attachment.records.first().and_then(|record| port::wrong(record, link, bridge.index));
        match wrong {
            Some(Wrong::Flag { flag, found }) => {
                Some(format!("{flag} is {} at {port} of {:?}", if found { "on" } else { "off" }, user.name))
            }
            Some(Wrong::Group) => Some(format!("group_fwd_mask of {port} of {:?} was changed", user.name)),
            _ if !link.up => Some(format!("{port} of {:?} is down", user.name)),
            _ => None,
        }
    }

    fn wrong_interface(&self, user: &Container, attachment: &Attachment) -> Option<String> {
        let port = attachment.link.as_deref()?;
        let Some(link) = self.links.get(port) else {
            return Some(format!("{:?} has lost its {port}", user.name));
        };
        let ifname = &attachment.ifname;
        if !link.carrier {
            return Some(format!("{ifname} of {:?} is down", user.name));
        }
        let inside = self.inside.get(port)?;
        let missing = attachment.addresses.iter().map(IpNetwork::ip).find(|ip| !inside.contains(ip));
        missing.map(|ip| format!("{ip} is missing on {ifname} of {:?}", user.name))
    }

    fn wrong_forwarding(&self, network: &Network) -> Option<String> {
        let v6 = |family: &str| family != IPV4;
        let needs = |family: &&str| {
            network.is_gateway() && network.subnets.iter().any(|s| s.subnet.is_ipv6() == v6(family))
        };
        let forced = |family: &&str| v6(family) && self.is_forced(network);
        if let Some(closed) = self.closed.iter().find(|family| needs(family) && !forced(family)) {
            return Some(format!("net.{closed} is 0"));
        }
        closed_bridge(network).filter(|_| needs(&IPV4))
    }

    /// The kernel lets this bridge forward, whatever it does with others (Linux 6.17).
    fn is_forced(&self, network: &Network) -> bool {
        let key = |bridge| format!("/proc/sys/net/ipv6/conf/{bridge}/force_forwarding");
        let value = network.bridge().and_then(|bridge| std::fs::read_to_string(key(bridge)).ok());
        value.is_some_and(|value| value.trim() == "1")
    }

    fn wrong_rules(&self, network: &Network, users: &[&Container]) -> Option<String> {
        if self.rules.changed && network.kind() == OWN {
            return Some("its ruleset was changed or flushed".into());
        }
        if self.rules.missing.is_empty() {
            return None;
        }
        let bridge = network.bridge().and_then(|bridge| keys::owner_of_bridge(&bridge));
        let attachments = users.iter().flat_map(|user| user.with_attachments());
        let mut owners: HashMap<Owner, &Container> = HashMap::new();
        for (user, attachment) in attachments.filter(|(_, attachment)| attachment.is_on(network)) {
            let key = Key::new(&network.name, &user.id, &attachment.ifname);
            owners.extend(keys::owner(&key).map(|owner| (owner, user)));
        }
        self.rules.missing.iter().find_map(|(element, owner)| {
            let of_network = || (bridge == Some(*owner)).then(|| "one of its rules is missing".to_owned());
            owners.get(owner).map(|user| lack(element, user)).or_else(of_network)
        })
    }

    /// By the number that the pair's other namespace has here: nobody enters it. Only the families that are `wanted`, by
    /// whether they are IPv4: each is a question to the kernel.
    fn addresses_behind(
        &self,
        host: &mut Host,
        link: &str,
        wanted: impl Fn(bool) -> bool,
    ) -> Option<Vec<IpAddr>> {
        let link = self.links.get(link)?;
        let (netns, index) = (link.peer_netnsid?, link.peer?);
        let mut addresses = Vec::new();
        for is_v4 in [true, false].into_iter().filter(|is_v4| wanted(*is_v4)) {
            let found = host.netlink.addresses_in(netns, index, is_v4).ok()?;
            addresses.extend(found.into_iter().map(|found| found.address.ip()));
        }
        Some(addresses)
    }
}

impl fmt::Display for Unrecorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<String> =
            self.addresses.iter().filter(|ip| !is_local(**ip)).map(IpAddr::to_string).collect();
        write!(f, "{} ({})", self.port, addresses.join(","))
    }
}

fn is_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn attachments_on<'a>(
    network: &'a Network,
    users: &'a [&Container],
) -> impl Iterator<Item = (&'a Container, &'a Attachment)> {
    let attachments = users.iter().flat_map(|user| user.with_attachments());
    attachments.filter(|(_, attachment)| attachment.is_on(network))
}

/// IPv4 can be turned off for a bridge alone.
fn closed_bridge(network: &Network) -> Option<String> {
    let bridge = network.bridge()?;
    let value = std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{bridge}/forwarding")).ok()?;
    (value.trim() == "0").then(|| format!("net.ipv4.conf.{bridge}.forwarding is 0"))
}

const IPV4: &str = "ipv4.ip_forward";
const IPV6: &str = "ipv6.conf.all.forwarding";

/// The settings by which the host does not forward.
fn closed(host: &Host) -> Vec<&'static str> {
    let is_closed = |name: &&str| {
        let value = host.netlink.sysctl(&name.replace('.', "/"));
        value.ok().flatten().as_deref() == Some("0")
    };
    [IPV4, IPV6].into_iter().filter(is_closed).collect()
}

/// What an endpoint lacks without an element.
fn lack(element: &Element, user: &Container) -> String {
    match element {
        Element::Publish { protocol, host_port, .. } => {
            format!("port {host_port}/{protocol} of {:?} is lost", user.name)
        }
        Element::Published { to, protocol } => {
            format!("port {}/{protocol} of {:?} cannot be reached", to.port(), user.name)
        }
        Element::Masquerade { address } => {
            format!("{address} of {:?} is not masqueraded", user.name)
        }
        _ => format!("a rule of {:?} is missing", user.name),
    }
}

/// Asked only where somebody should be able to ask it for names.
fn wrong_names(host: &Host, networks: &[Network]) -> Option<String> {
    if !networks.iter().any(Network::has_names) {
        return None;
    }
    let socket = host.store.paths().name_server();
    let (done, answer) = mpsc::channel();
    // One that hangs is not waited for.
    std::thread::spawn(move || done.send(client::ping(&socket)));
    match answer.recv_timeout(PATIENCE) {
        Ok(Ok(())) => None,
        Ok(Err(_)) => Some("the name server has died".into()),
        Err(_) => Some("the name server does not answer".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definitions::default_network;
    use crate::endpoint::Endpoint;

    fn network() -> Network {
        default_network("172.18.0.0/16".parse().unwrap()).unwrap()
    }

    fn bridge(up: bool) -> Link {
        Link { index: 7, name: "rnet0".into(), kind: Some("bridge".into()), up, ..Link::default() }
    }

    fn veth() -> Link {
        Link { name: "veth1".into(), master: Some(7), up: true, carrier: true, ..Link::default() }
    }

    fn kernel(links: Vec<Link>, addresses: &[&str]) -> Kernel {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Kernel {
            links: links.into_iter().map(|link| (link.name.clone(), link)).collect(),
            addresses: HashMap::from([(7, addresses)]),
            ..Kernel::default()
        }
    }

    fn user() -> Container {
        let attachment = Attachment {
            network: "bridge".into(),
            plugin: "rnet".into(),
            ifname: "eth0".into(),
            addresses: vec!["172.18.0.2/16".parse().unwrap()],
            link: Some("veth1".into()),
            ..Attachment::default()
        };
        let endpoint = Some(Endpoint::default());
        Container { name: "web".into(), attachments: vec![attachment], endpoint, ..Container::default() }
    }

    fn whole() -> Kernel {
        kernel(vec![bridge(true), veth()], &["172.18.0.1"])
    }

    fn state(kernel: &Kernel) -> String {
        kernel.state(&network(), &[&user()]).to_string()
    }

    #[test]
    fn a_network_without_users_is_idle_and_one_without_its_bridge_is_lost() {
        assert_eq!(kernel(vec![], &[]).state(&network(), &[]), State::Idle);
        assert_eq!(state(&kernel(vec![], &[])), "lost (its bridge rnet0 is gone)");
        assert_eq!(state(&whole()), "ok");
        let mut undefined = network();
        undefined.name = "mynet".into();
        let mut user = user();
        user.attachments[0].network = "mynet".into();
        assert_eq!(whole().state(&undefined, &[&user]).to_string(), "lost (no file defines it any more)");
        user.endpoint = None;
        undefined.file = Some("/etc/cni/net.d/x".into());
        assert_eq!(whole().state(&undefined, &[&user]), State::Ok);
    }

    #[test]
    fn a_network_is_degraded_for_a_reason() {
        let gateway = ["172.18.0.1"];
        let with = |links| state(&kernel(links, &gateway));
        assert_eq!(with(vec![bridge(false), veth()]), "degraded (rnet0 is down)");
        let moved = kernel(vec![bridge(true), veth()], &[]);
        assert_eq!(state(&moved), "degraded (172.18.0.1 is missing on rnet0)");
        assert_eq!(with(vec![bridge(true)]), "degraded (\"web\" has lost its veth1)");
        let loose = Link { master: None, ..veth() };
        assert_eq!(with(vec![bridge(true), loose]), "degraded (veth1 of \"web\" is not on rnet0)");
        let silent = Link { carrier: false, ..veth() };
        assert_eq!(with(vec![bridge(true), silent]), "degraded (eth0 of \"web\" is down)");
        let other = Link { kind: Some("dummy".into()), ..bridge(true) };
        assert_eq!(with(vec![other]), "degraded (rnet0 is not a bridge)");
    }

    #[test]
    fn what_is_behind_the_bridge_counts_too() {
        let inside = Kernel { inside: HashMap::from([("veth1".into(), vec![])]), ..whole() };
        assert_eq!(state(&inside), "degraded (172.18.0.2 is missing on eth0 of \"web\")");
        let closed = Kernel { closed: vec![IPV6, IPV4], ..whole() };
        assert_eq!(state(&closed), "degraded (net.ipv4.ip_forward is 0)");
        let flushed = Kernel { rules: Rules { changed: true, ..Rules::default() }, ..whole() };
        assert_eq!(state(&flushed), "degraded (its ruleset was changed or flushed)");
        let owner = keys::owner(&Key::new("bridge", "", "eth0")).unwrap();
        let element = Element::Masquerade { address: "172.18.0.2".parse().unwrap() };
        let missing = Kernel { rules: Rules { missing: vec![(element, owner)], changed: false }, ..whole() };
        assert_eq!(state(&missing), "degraded (172.18.0.2 of \"web\" is not masqueraded)");
        let silent = Kernel { names: Some("the name server has died".into()), ..whole() };
        assert_eq!(state(&silent), "ok", "it serves no names for this network");
    }
}
