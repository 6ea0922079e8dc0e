//! An element as the kernel has it: fields of a key in network order, each padded to four bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnetwork::IpNetwork;

use super::{Element, Protocol, Range, by_family};
use crate::error::Error;
use crate::ruleset::{self, Set};

/// Longest interface name, and the width of one in a key (IFNAMSIZ, with its NUL).
const NAME_WIDTH: usize = 16;

/// One element of one kernel set, as bytes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Entry {
    pub set: &'static Set,
    pub key: Vec<u8>,
    /// The last key of an interval, in interval sets only.
    pub end: Option<Vec<u8>>,
    /// What a map's key leads to, in maps only.
    pub data: Option<Vec<u8>>,
}

impl Element {
    /// The kernel's elements for this one: the first names the owner, a second may follow.
    pub(crate) fn entries(&self) -> Result<impl Iterator<Item = Entry> + use<>, Error> {
        Ok(std::iter::once(self.entry()?).chain(self.companion()?))
    }

    /// The kernel's element that names the owner of this one.
    pub(crate) fn entry(&self) -> Result<Entry, Error> {
        Ok(match self {
            Self::Publish { host, protocol, host_port, to } => publish(*host, *protocol, *host_port, *to)?,
            Self::Except { protocol, host_port, sources, destinations } => {
                except(*protocol, *host_port, *sources, *destinations)?
            }
            Self::Published { to, protocol } => {
                endpoint(&ruleset::PUBLISHED4, &ruleset::PUBLISHED6, *to, *protocol)
            }
            Self::MasqueradeAll { to, protocol } => {
                endpoint(&ruleset::MASQALL4, &ruleset::MASQALL6, *to, *protocol)
            }
            Self::Masquerade { address } => {
                Entry::new(by_family(*address, &ruleset::MASQ4, &ruleset::MASQ6), Key::new().ip(*address))
            }
            Self::Near { address, subnet } => near(*address, subnet)?,
            Self::Home { subnet, bridge } => home(subnet, bridge)?,
            Self::Subnet { subnet } => with_any_destination(subnet),
            Self::Isolated { bridge } => {
                Entry::new(&ruleset::ISOLATED, Key::new().name(bridge)?.name(bridge)?)
            }
            Self::Port { link } => Entry::new(&ruleset::PORTS, Key::new().name(link)?),
            Self::PortAddress { link, mac, address } => Entry::new(
                by_family(*address, &ruleset::OWNER4, &ruleset::OWNER6),
                Key::new().name(link)?.mac(*mac).ip(*address),
            ),
        })
    }

    /// IPv6 advertisements are matched by their target, which nft 1.0.6 cannot type as an address.
    fn companion(&self) -> Result<Option<Entry>, Error> {
        Ok(match self {
            Self::PortAddress { link, address: address @ IpAddr::V6(_), .. } => {
                Some(Entry::new(&ruleset::TARGET6, Key::new().name(link)?.ip(*address)))
            }
            _ => None,
        })
    }

    /// Reads an element back; `None` for what rnet never writes, and for a companion.
    pub(crate) fn from_entry(entry: &Entry) -> Option<Self> {
        let mut key = Reader(&entry.key);
        let v6 = entry.set.v6;
        let element = match entry.set.name {
            "publish4" | "publish6" => publish_from(Some(key.ip(v6)?), &mut key, entry)?,
            "publish4_any" | "publish6_any" => publish_from(None, &mut key, entry)?,
            "except4" | "except6" => except_from(&mut key, entry)?,
            "published4" | "published6" => {
                key.endpoint(v6).map(|(to, protocol)| Self::Published { to, protocol })?
            }
            "masqall4" | "masqall6" => {
                key.endpoint(v6).map(|(to, protocol)| Self::MasqueradeAll { to, protocol })?
            }
            "masq4" | "masq6" => Self::Masquerade { address: key.ip(v6)? },
            "near4" | "near6" => near_from(&mut key, entry)?,
            "home4" | "home6" => home_from(&mut key, entry)?,
            "subnet4" | "subnet6" => subnet_from(&mut key, entry)?,
            "isolated" => isolated_from(&mut key)?,
            "ports" => Self::Port { link: key.name()? },
            "owner4" | "owner6" => {
                Self::PortAddress { link: key.name()?, mac: key.mac()?, address: key.ip(v6)? }
            }
            _ => return None,
        };
        key.0.is_empty().then_some(element)
    }
}

impl Entry {
    fn new(set: &'static Set, key: Key) -> Self {
        Self { set, key: key.0, end: None, data: None }
    }

    /// An address as a key of its own.
    pub(crate) fn of_address(set: &'static Set, address: IpAddr) -> Self {
        Self::new(set, Key::new().ip(address))
    }

    /// The address that a key begins with.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        Reader(&self.key).ip(self.set.v6)
    }

    /// The interface that a key begins with.
    pub(crate) fn link(&self) -> Option<String> {
        Reader(&self.key).name()
    }

    /// The interface, MAC and address of a key.
    pub(crate) fn sender(&self) -> Option<(String, [u8; 6], IpAddr)> {
        let mut key = Reader(&self.key);
        Some((key.name()?, key.mac()?, key.ip(self.set.v6)?))
    }

    /// The flow's number (`ct id`) after the address of a key.
    pub(crate) fn flow(&self) -> Option<[u8; 4]> {
        let mut key = Reader(&self.key);
        key.ip(self.set.v6)?;
        key.field()
    }
}

fn publish(host: Option<IpAddr>, protocol: Protocol, port: u16, to: SocketAddr) -> Result<Entry, Error> {
    let (set, key) = match host {
        Some(host) if host.is_ipv4() != to.is_ipv4() => {
            return Err(Error::Families { host, to: to.ip() });
        }
        Some(host) => (by_family(host, &ruleset::PUBLISH4, &ruleset::PUBLISH6), Key::new().ip(host)),
        None => (by_family(to.ip(), &ruleset::PUBLISH4_ANY, &ruleset::PUBLISH6_ANY), Key::new()),
    };
    let data = Some(Key::new().ip(to.ip()).port(to.port()).0);
    Ok(Entry { data, ..Entry::new(set, key.protocol(protocol).port(port)) })
}

/// Regions of one port are disjoint, so their first keys differ.
fn except(protocol: Protocol, port: u16, from: Range, to: Range) -> Result<Entry, Error> {
    if from.first.is_ipv4() != to.first.is_ipv4() {
        return Err(Error::Families { host: to.first, to: from.first });
    }
    let corner = |from, to| Key::new().ip(from).ip(to).protocol(protocol).port(port);
    let set = by_family(from.first, &ruleset::EXCEPT4, &ruleset::EXCEPT6);
    let end = Some(corner(from.last, to.last).0);
    Ok(Entry { end, ..Entry::new(set, corner(from.first, to.first)) })
}

fn endpoint(v4: &'static Set, v6: &'static Set, to: SocketAddr, protocol: Protocol) -> Entry {
    let key = Key::new().ip(to.ip()).protocol(protocol).port(to.port());
    Entry::new(by_family(to.ip(), v4, v6), key)
}

fn near(address: IpAddr, subnet: &IpNetwork) -> Result<Entry, Error> {
    if address.is_ipv4() != subnet.is_ipv4() {
        return Err(Error::Families { host: subnet.ip(), to: address });
    }
    let set = by_family(address, &ruleset::NEAR4, &ruleset::NEAR6);
    let end = Some(Key::new().ip(address).ip(subnet.broadcast()).0);
    Ok(Entry { end, ..Entry::new(set, Key::new().ip(address).ip(subnet.network())) })
}

fn home(subnet: &IpNetwork, bridge: &str) -> Result<Entry, Error> {
    let set = by_family(subnet.ip(), &ruleset::HOME4, &ruleset::HOME6);
    let end = Some(Key::new().ip(subnet.broadcast()).name(bridge)?.0);
    Ok(Entry { end, ..Entry::new(set, Key::new().ip(subnet.network()).name(bridge)?) })
}

fn with_any_destination(subnet: &IpNetwork) -> Entry {
    let set = by_family(subnet.ip(), &ruleset::SUBNET4, &ruleset::SUBNET6);
    let (first, last) = all_addresses(!subnet.is_ipv4());
    let end = Some(Key::new().ip(subnet.broadcast()).ip(last).0);
    Entry { end, ..Entry::new(set, Key::new().ip(subnet.network()).ip(first)) }
}

fn all_addresses(v6: bool) -> (IpAddr, IpAddr) {
    if v6 {
        (Ipv6Addr::from_bits(0).into(), Ipv6Addr::from_bits(u128::MAX).into())
    } else {
        (Ipv4Addr::from_bits(0).into(), Ipv4Addr::from_bits(u32::MAX).into())
    }
}

fn publish_from(host: Option<IpAddr>, key: &mut Reader<'_>, entry: &Entry) -> Option<Element> {
    let (protocol, host_port) = (key.protocol()?, key.port()?);
    let mut data = Reader(entry.data.as_deref()?);
    let to = SocketAddr::new(data.ip(entry.set.v6)?, data.port()?);
    Some(Element::Publish { host, protocol, host_port, to })
}

fn except_from(key: &mut Reader<'_>, entry: &Entry) -> Option<Element> {
    let (v6, mut end) = (entry.set.v6, Reader(entry.end.as_deref()?));
    let sources = Range::new(key.ip(v6)?, end.ip(v6)?)?;
    let destinations = Range::new(key.ip(v6)?, end.ip(v6)?)?;
    let (protocol, host_port) = (key.protocol()?, key.port()?);
    let exact = (end.protocol()?, end.port()?) == (protocol, host_port);
    exact.then_some(Element::Except { protocol, host_port, sources, destinations })
}

fn near_from(key: &mut Reader<'_>, entry: &Entry) -> Option<Element> {
    let (v6, mut end) = (entry.set.v6, Reader(entry.end.as_deref()?));
    let address = key.ip(v6)?;
    let is_one = end.ip(v6)? == address;
    let subnet = between(key.ip(v6)?, end.ip(v6)?)?;
    is_one.then_some(Element::Near { address, subnet })
}

fn home_from(key: &mut Reader<'_>, entry: &Entry) -> Option<Element> {
    let (first, bridge) = (key.ip(entry.set.v6)?, key.name()?);
    let last = Reader(entry.end.as_deref()?).ip(entry.set.v6)?;
    Some(Element::Home { subnet: between(first, last)?, bridge })
}

fn subnet_from(key: &mut Reader<'_>, entry: &Entry) -> Option<Element> {
    let (v6, mut end) = (entry.set.v6, Reader(entry.end.as_deref()?));
    let (first, last) = (key.ip(v6)?, end.ip(v6)?);
    let any = (key.ip(v6)?, end.ip(v6)?) == all_addresses(v6);
    any.then_some(Element::Subnet { subnet: between(first, last)? })
}

/// The subnet from its first address to its last.
fn between(first: IpAddr, last: IpAddr) -> Option<IpNetwork> {
    let prefix = match (first, last) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => return None,
    };
    IpNetwork::new(first, u8::try_from(prefix).ok()?).ok()
}

fn isolated_from(key: &mut Reader<'_>) -> Option<Element> {
    let (bridge, other) = (key.name()?, key.name()?);
    (bridge == other).then_some(Element::Isolated { bridge })
}

/// A key being written: fields in network order, each padded to four bytes.
struct Key(Vec<u8>);

impl Key {
    fn new() -> Self {
        Self(Vec::with_capacity(48))
    }

    fn field(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn ip(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.field(&address.octets()),
            IpAddr::V6(address) => self.field(&address.octets()),
        }
    }

    fn protocol(self, protocol: Protocol) -> Self {
        self.field(&[protocol.number()])
    }

    fn port(self, port: u16) -> Self {
        self.field(&port.to_be_bytes())
    }

    fn mac(self, mac: [u8; 6]) -> Self {
        self.field(&mac)
    }

    /// Takes only names whose every byte stands for itself in nft's language, between the quotes that nft prints.
    fn name(self, name: &str) -> Result<Self, Error> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-@+".contains(&b);
        if !(1..NAME_WIDTH).contains(&name.len()) || !name.bytes().all(plain) {
            return Err(Error::Interface { name: name.into() });
        }
        let mut padded = [0; NAME_WIDTH];
        padded[..name.len()].copy_from_slice(name.as_bytes());
        Ok(self.field(&padded))
    }
}

/// A key being read field by field; `None` when it ends too early or makes no sense.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn field<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_at_checked(N.next_multiple_of(4))?;
        self.0 = rest;
        field.get(..N)?.try_into().ok()
    }

    fn ip(&mut self, v6: bool) -> Option<IpAddr> {
        if v6 {
            self.field::<16>().map(|octets| Ipv6Addr::from(octets).into())
        } else {
            self.field::<4>().map(|octets| Ipv4Addr::from(octets).into())
        }
    }

    fn protocol(&mut self) -> Option<Protocol> {
        self.field::<1>().and_then(|[number]| Protocol::from_number(number))
    }

    fn port(&mut self) -> Option<u16> {
        self.field().map(u16::from_be_bytes)
    }

    fn endpoint(&mut self, v6: bool) -> Option<(SocketAddr, Protocol)> {
        let (address, protocol, port) = (self.ip(v6)?, self.protocol()?, self.port()?);
        Some((SocketAddr::new(address, port), protocol))
    }

    fn mac(&mut self) -> Option<[u8; 6]> {
        self.field()
    }

    fn name(&mut self) -> Option<String> {
        let padded = self.field::<NAME_WIDTH>()?;
        let end = padded.iter().position(|&b| b == 0)?;
        String::from_utf8(padded[..end].to_vec()).ok()
    }
}
