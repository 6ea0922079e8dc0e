//! Whether the traffic of networks passes the host's firewalls, found by packets.
//!
//! Chains and policies do not tell: an accept may stand anywhere, and so may a drop. So packets are sent as containers and
//! machines outside send them, and nf_tables tells what becomes of each (its trace). They never arrive: a rule of the probe
//! takes them at the end of their way through the host. What is stopped is told with the line to type.
//!
//! It is never on the way of an ADD or a DEL. What was found is kept until another program changes a ruleset.

mod frame;
mod lab;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink::{Link, Mac};
use nft::{Arrival, Fate};
use serde::{Deserialize, Serialize};
use store::{Lock, LockName, Mode, Network, Port, Protocol, Record, Zone};

use crate::interop::{OUTSIDE, PROBED as NOTE};
use crate::served::PORT;
use crate::{Error, Host, interop, transaction};
use frame::{Packet, Transport};
use lab::{Lab, Place};

pub use told::Told;

/// The port that containers ask outside.
const HTTPS: u16 = 443;
/// So many published ports of a network are tried; what stops one stops them all, as a rule.
const PORTS: usize = 32;
/// So many addresses are looked at for one that no container has.
const ADDRESSES: u128 = 4096;

/// What was found, for all networks that were there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Note {
    version: String,
    /// The bridges that there were, each with the settings of the kernel that count.
    bridges: BTreeSet<String>,
    told: Vec<Told>,
}

/// What is to pass.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// Questions to the name server.
    Names,
    /// What IPv6 finds the gateway by.
    Neighbours,
    /// What one container sends to another.
    Peers,
    /// What containers send to machines outside.
    Out,
    /// What machines outside send to a published port.
    Published,
}

/// One packet.
struct Way {
    place: Place,
    /// The MAC of the host's interface; that of the lab's link without one.
    to: Option<Mac>,
    /// It is sent to another port of the bridge.
    across: bool,
    packet: Packet,
}

/// Something that must pass in one of several ways.
struct Ask {
    what: What,
    /// The published port's container.
    container: String,
    ways: Vec<Way>,
}

/// What became of it.
struct Found {
    ask: Ask,
    /// The interface by which it comes in.
    inward: String,
    fate: Fate,
}

/// A network: everything that shares a bridge.
struct Subject {
    network: String,
    bridge: String,
    /// rnet writes into other firewalls for it.
    is_helped: bool,
    /// `None`: it is not there yet.
    link: Option<Link>,
    subnets: Vec<IpNetwork>,
    /// The gateways with their prefixes.
    gateways: Vec<IpNetwork>,
    /// Where names are asked.
    name_servers: Vec<IpAddr>,
    records: Vec<Record>,
}

/// An interface by which the outside is reached.
#[derive(Clone)]
struct Uplink {
    link: Link,
    gateway: Option<IpAddr>,
    own: Vec<IpAddr>,
}

/// What keeps the traffic of the networks that are there from passing: what is on record if no other program has changed a
/// ruleset since, otherwise found now.
///
/// # Errors
/// No probe can be made.
pub fn look(host: &mut Host) -> Result<Vec<Told>, Error> {
    let subjects = subjects(host)?;
    if subjects.is_empty() {
        return Ok(Vec::new());
    }
    let mut bridges = BTreeSet::from([settings_of_all(host)?]);
    for subject in &subjects {
        bridges.insert(settings(host, &subject.bridge)?);
    }
    match last_finding(host)? {
        Some(note) if bridges == note.bridges => Ok(note.told),
        _ => probe(host, subjects, &bridges),
    }
}

/// The same, whatever is on record: something was published or typed a moment ago.
///
/// # Errors
/// No probe can be made.
pub fn again(host: &mut Host) -> Result<Vec<Told>, Error> {
    interop::forget_probe(host)?;
    look(host)
}

/// What would keep the traffic of a network from passing that nobody is on yet. An interface stands for its bridge.
///
/// # Errors
/// No probe can be made.
pub fn of_new(host: &mut Host, network: &Network) -> Result<Vec<Told>, Error> {
    let _lock = host.lock(LockName::Network(network.name.clone()), Mode::Exclusive)?;
    if host.netlink.link(&network.bridge)?.is_some() {
        return Ok(Vec::new());
    }
    let mut subject = Subject::of(network, None);
    subject.name_servers = subject.gateways.iter().map(IpNetwork::ip).collect();
    let found = send(host, vec![subject])?;
    told::those_that_stay(host, found)
}

/// What is on record, if it still holds.
fn last_finding(host: &mut Host) -> Result<Option<Note>, Error> {
    let Some(text) = host.store.note(NOTE)? else { return Ok(None) };
    let note: Option<Note> = serde_json::from_str(&text).ok();
    let note = note.filter(|note| note.version == env!("CARGO_PKG_VERSION"));
    let generation = host.firewall()?.generation()?;
    // iptables-legacy raises no generation.
    let holds = transaction::has_seen(&host.store, generation)? && !told::is_legacy_used();
    Ok(note.filter(|_| holds))
}

/// A bridge, and what no change of it raises the ruleset's generation.
fn settings(host: &Host, bridge: &str) -> Result<String, Error> {
    let mut text = bridge.to_owned();
    for key in ["rp_filter", "forwarding"] {
        text +=
            &format!(" {}", host.netlink.sysctl(&format!("ipv4/conf/{bridge}/{key}"))?.unwrap_or_default());
    }
    Ok(text)
}

/// The same of the whole host.
fn settings_of_all(host: &Host) -> Result<String, Error> {
    let mut text = String::new();
    for key in ["ipv4/conf/all/rp_filter", "ipv6/conf/all/forwarding", "bridge/bridge-nf-call-iptables"] {
        text += &format!(" {}", host.netlink.sysctl(key)?.unwrap_or_default());
    }
    Ok(text)
}

fn probe(
    host: &mut Host,
    mut subjects: Vec<Subject>,
    bridges: &BTreeSet<String>,
) -> Result<Vec<Told>, Error> {
    read_records(host, &mut subjects)?;
    let found = send(host, subjects)?;
    let told = told::all(host, found)?;
    let version = env!("CARGO_PKG_VERSION").into();
    let note = Note { version, bridges: bridges.clone(), told };
    let text = serde_json::to_string(&note).unwrap_or_default();
    host.store.write_note(NOTE, &text)?;
    Ok(note.told)
}

/// The networks whose bridges are there.
fn subjects(host: &mut Host) -> Result<Vec<Subject>, Error> {
    let mut subjects: BTreeMap<String, Subject> = BTreeMap::new();
    let mut networks = host.store.networks()?;
    networks.retain(|network| !network.no_interop);
    if networks.is_empty() {
        return Ok(Vec::new());
    }
    for network in &networks {
        if let Some(known) = subjects.get_mut(&network.bridge) {
            known.add(network);
        } else if let Some(link) = bridge(host, &network.bridge)? {
            subjects.insert(network.bridge.clone(), Subject::of(network, Some(link)));
        }
    }
    Ok(subjects.into_values().collect())
}

fn bridge(host: &mut Host, name: &str) -> Result<Option<Link>, Error> {
    let is_bridge = |link: &Link| link.kind.as_deref() == Some("bridge") && link.up;
    Ok(host.netlink.link(name)?.filter(is_bridge))
}

/// What is on record of those who are on them: only a probe needs it.
fn read_records(host: &Host, subjects: &mut [Subject]) -> Result<(), Error> {
    let at: BTreeMap<String, usize> =
        subjects.iter().enumerate().map(|(at, subject)| (subject.bridge.clone(), at)).collect();
    for record in host.store.records()? {
        if let Some(at) = record.bridge.as_ref().and_then(|bridge| at.get(bridge)) {
            subjects[*at].records.push(record);
        }
    }
    Ok(())
}

/// Sends all packets, and says what became of them.
fn send(host: &mut Host, subjects: Vec<Subject>) -> Result<Vec<(Subject, Vec<Found>)>, Error> {
    let _alone: Lock = host.lock(LockName::Probe, Mode::Exclusive)?;
    let mut uplinks = Vec::new();
    for outside in OUTSIDE {
        uplinks.extend(outside.parse().ok().map(|outside| uplink(host, outside)).transpose()?.flatten());
    }
    let mut asked: Vec<(Subject, Vec<Ask>)> = Vec::new();
    for subject in subjects {
        let asks = subject.asks(&uplinks);
        asked.push((subject, asks));
    }
    let mut lab = Lab::new()?;
    let found = follow(host, &mut lab, asked);
    lab.close()?;
    found
}

fn follow(
    host: &mut Host,
    lab: &mut Lab,
    asked: Vec<(Subject, Vec<Ask>)>,
) -> Result<Vec<(Subject, Vec<Found>)>, Error> {
    let mut links = host.netlink.links()?;
    for way in asked.iter().flat_map(|(_, asks)| asks).flat_map(|ask| &ask.ways) {
        // Kernels without act_mirred cannot play the outside: nothing is said of published ports then.
        match lab.connect(&mut host.netlink, way.place.clone()) {
            Err(_) if matches!(way.place, Place::Behind(_)) => lab.leave(&way.place)?,
            other => other?,
        }
    }
    links.retain(|link| asked.iter().flat_map(|(_, asks)| asks).any(|ask| ask.is_by(link)));
    let name = |subject: &Subject, ask: &Ask| {
        let link = links.iter().find(|link| ask.is_by(link) && ask.what == What::Published);
        link.map_or_else(|| subject.bridge.clone(), |link| link.name.clone())
    };
    transaction::write(host, |firewall| {
        firewall.open_probe(lab.magic())?;
        let followed = asked.into_iter().map(|(subject, asks)| {
            let one = |ask: Ask| {
                let (inward, fate) = (name(&subject, &ask), ask.send(lab, &subject));
                Found { ask, inward, fate }
            };
            let found = asks.into_iter().map(one).collect();
            (subject, found)
        });
        let followed = followed.collect();
        firewall.close_probe()?;
        Ok(followed)
    })
}

/// Where packets to a machine outside go.
fn uplink(host: &mut Host, outside: IpAddr) -> Result<Option<Uplink>, Error> {
    const LOOPBACK: u32 = 1;
    let Some((index, gateway)) = host.netlink.route_to(outside)? else { return Ok(None) };
    let Some(link) = host.netlink.link_by_index(index)?.filter(|_| index != LOOPBACK) else {
        return Ok(None);
    };
    let all = host.netlink.addresses(Some(index))?.into_iter();
    let global = all.filter(|found| found.scope == 0 && found.address.is_ipv4() == outside.is_ipv4());
    Ok(Some(Uplink { link, gateway, own: global.map(|found| found.address.ip()).collect() }))
}

impl Ask {
    /// The first way that was not stopped counts: what is kept from some machines is not dead.
    fn send(&self, lab: &mut Lab, subject: &Subject) -> Fate {
        let mut first = None;
        for way in &self.ways {
            let mac = subject.link.as_ref().and_then(|link| link.mac);
            let fate = match (way.across, mac) {
                (true, Some(bridge)) => lab.send_across(&way.place, bridge, &way.packet),
                _ => lab.send(&way.place, way.to, &way.packet),
            };
            match fate.unwrap_or_else(|_| Fate::Passed(Arrival::default())) {
                passed @ Fate::Passed(_) => return passed,
                other => first = first.or(Some(other)),
            }
        }
        first.unwrap_or_else(|| Fate::Passed(Arrival::default()))
    }

    fn is_by(&self, link: &Link) -> bool {
        self.ways.iter().any(|way| way.place == Place::Behind(link.index))
    }

    /// True if it is about IPv4.
    fn is_v4(&self) -> bool {
        self.ways.first().is_none_or(|way| way.packet.to.is_ipv4())
    }

    /// What its first packet is sent to.
    fn target(&self) -> Option<&Packet> {
        self.ways.first().map(|way| &way.packet)
    }
}

impl Subject {
    fn of(network: &Network, link: Option<Link>) -> Self {
        let mut subject = Self {
            network: network.name.clone(),
            bridge: network.bridge.clone(),
            is_helped: false,
            link,
            subnets: Vec::new(),
            gateways: Vec::new(),
            name_servers: Vec::new(),
            records: Vec::new(),
        };
        subject.add(network);
        subject
    }

    /// Another plugin's part of it.
    fn add(&mut self, network: &Network) {
        self.is_helped |= network.plugin == interop::PLUGIN;
        let zone = network.zone.as_ref();
        add_new(&mut self.subnets, network.subnets.iter().chain(zone.iter().flat_map(|zone| &zone.subnets)));
        add_new(&mut self.gateways, &network.gateways);
        add_new(&mut self.name_servers, zone.iter().flat_map(|zone: &&Zone| &zone.gateways));
    }

    fn place(&self) -> Place {
        match &self.link {
            Some(link) => Place::Port(link.index),
            None => Place::InsteadOf(self.bridge.clone(), self.gateways.clone()),
        }
    }

    fn mac(&self) -> Option<Mac> {
        self.link.as_ref().and_then(|link| link.mac)
    }

    fn asks(&self, uplinks: &[Uplink]) -> Vec<Ask> {
        let mut asks = Vec::new();
        for subnet in &self.subnets {
            let Some((one, other)) = self.free(*subnet) else { continue };
            asks.extend(self.asks_of(one, other, uplinks));
        }
        asks.extend(self.port_asks(uplinks));
        asks
    }

    /// What a container with an address sends.
    fn asks_of(&self, from: IpAddr, other: IpAddr, uplinks: &[Uplink]) -> Vec<Ask> {
        let way = |to: IpAddr, transport, port| Way {
            place: self.place(),
            to: self.mac(),
            across: false,
            packet: Packet { from, to, transport, port, leads_to: None },
        };
        let ask = |what, ways| Ask { what, container: String::new(), ways };
        let is_same = |ip: &&IpAddr| ip.is_ipv4() == from.is_ipv4();
        let names = self.name_servers.iter().filter(is_same);
        let mut asks: Vec<Ask> =
            names.map(|server| ask(What::Names, vec![way(*server, Transport::Udp, PORT)])).collect();
        let gateways = self.gateways.iter().map(IpNetwork::ip).filter(|ip| ip.is_ipv6() && from.is_ipv6());
        asks.extend(gateways.map(|gateway| ask(What::Neighbours, vec![way(gateway, Transport::Solicit, 0)])));
        if self.link.is_some() {
            let across = Way { across: true, ..way(other, Transport::Tcp, HTTPS) };
            asks.push(ask(What::Peers, vec![across]));
        }
        let root = OUTSIDE.iter().filter_map(|text| text.parse::<IpAddr>().ok());
        for (uplink, root) in uplinks.iter().flat_map(|uplink| root.clone().map(move |root| (uplink, root))) {
            if root.is_ipv4() == from.is_ipv4() && uplink.is_for(root) {
                let targets = [Some(root), uplink.gateway].into_iter().flatten();
                asks.push(ask(What::Out, targets.map(|to| way(to, Transport::Tcp, HTTPS)).collect()));
            }
        }
        asks
    }

    /// What machines outside send to published ports.
    fn port_asks(&self, uplinks: &[Uplink]) -> Vec<Ask> {
        let all = self.records.iter().flat_map(|record| record.ports.iter().map(move |port| (record, port)));
        let asks = all.filter_map(|(record, port)| port_asks(record, port, uplinks));
        asks.take(PORTS).collect()
    }

    /// Two addresses that no container has, the last ones of a subnet.
    fn free(&self, subnet: IpNetwork) -> Option<(IpAddr, IpAddr)> {
        let used: BTreeSet<IpAddr> = self.records.iter().flat_map(addresses).collect();
        let gateways: Vec<IpAddr> = self.gateways.iter().map(IpNetwork::ip).collect();
        let last = |back: u128| match subnet {
            IpNetwork::V4(subnet) => {
                let ip = u32::from(subnet.broadcast()).checked_sub(1 + back as u32)?;
                (ip > u32::from(subnet.network())).then(|| IpAddr::V4(ip.into()))
            }
            IpNetwork::V6(subnet) => {
                let ip = u128::from(subnet.broadcast()).checked_sub(1 + back)?;
                (ip > u128::from(subnet.network())).then(|| IpAddr::V6(ip.into()))
            }
        };
        let is_free =
            |ip: &IpAddr| !used.contains(ip) && !gateways.contains(ip) && !self.name_servers.contains(ip);
        let mut free = (0..ADDRESSES).map_while(last).filter(is_free);
        free.next().zip(free.next())
    }
}

fn port_asks(record: &Record, port: &Port, uplinks: &[Uplink]) -> Option<Ask> {
    let transport = match port.protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
        Protocol::Sctp => return None,
    };
    let is_for = |uplink: &&Uplink| uplink.own.iter().any(|own| own.is_ipv4() == port.container.is_ipv4());
    let uplink = uplinks.iter().find(is_for)?;
    // A port on one address may be for the host alone, or for another interface.
    let to = match port.host {
        Some(host) => *uplink.own.iter().find(|own| **own == host)?,
        None => *uplink.own.first()?,
    };
    uplink.link.mac?;
    let root =
        OUTSIDE.iter().filter_map(|text| text.parse().ok()).find(|ip: &IpAddr| ip.is_ipv4() == to.is_ipv4());
    let ways = [uplink.gateway, root].into_iter().flatten().map(|from| Way {
        place: Place::Behind(uplink.link.index),
        to: None,
        across: false,
        packet: Packet {
            from,
            to,
            transport,
            port: port.host_port,
            leads_to: Some((port.container_port, port.container)),
        },
    });
    let container = record.name.clone().unwrap_or_else(|| record.container.chars().take(12).collect());
    Some(Ask { what: What::Published, container, ways: ways.collect() })
}

impl Uplink {
    fn is_for(&self, outside: IpAddr) -> bool {
        self.own.iter().any(|own| own.is_ipv4() == outside.is_ipv4())
    }
}

fn addresses(record: &Record) -> impl Iterator<Item = IpAddr> {
    record.addresses.iter().map(|address| address.address.ip())
}

fn add_new<'a, T: Clone + PartialEq + 'a>(known: &mut Vec<T>, more: impl IntoIterator<Item = &'a T>) {
    for one in more {
        if !known.contains(one) {
            known.push(one.clone());
        }
    }
}
