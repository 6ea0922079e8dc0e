//! Elements: what a network or a container adds to the constant ruleset, and who owns it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use ipnetwork::IpNetwork;

use crate::error::Error;
use crate::ruleset::{self, Set};

/// Longest interface name, and the width of one in a key (IFNAMSIZ, with its NUL).
const NAME_WIDTH: usize = 16;
/// What an element's comment starts with.
const COMMENT: &str = "rnet:";

/// Who an element belongs to: 16 hexadecimal digits, made of our own ids.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Owner(u64);

impl Owner {
    pub(crate) fn from_number(number: u64) -> Self {
        Self(number)
    }

    pub(crate) fn number(self) -> u64 {
        self.0
    }

    /// Parses exactly 16 lower-case hexadecimal digits.
    pub fn new(digits: &str) -> Option<Self> {
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let whole = digits.len() == 16 && digits.bytes().all(lower_hex);
        whole.then(|| u64::from_str_radix(digits, 16).ok().map(Self))?
    }

    /// The comment that `nft list` shows for this owner's elements.
    pub(crate) fn comment(self) -> String {
        format!("{COMMENT}{self}")
    }

    /// The owner that a comment names, if it is one of ours.
    pub(crate) fn from_comment(comment: &str) -> Option<Self> {
        Self::new(comment.strip_prefix(COMMENT)?)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A transport protocol that a port can be published for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Protocol {
    /// TCP, the default of every grammar.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The number in the IP header (IANA protocol numbers).
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(|p| p.number() == number)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// The text names no protocol of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid proto: {0}")]
pub struct ParseProtocolError(String);

impl FromStr for Protocol {
    type Err = ParseProtocolError;

    /// Accepts `tcp`, `udp` and `sctp` in any case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Tcp, Self::Udp, Self::Sctp]
            .into_iter()
            .find(|p| text.eq_ignore_ascii_case(&p.to_string()))
            .ok_or_else(|| ParseProtocolError(text.into()))
    }
}

/// One thing that a network or a container puts into our sets and maps.
///
/// Its text is that of the elements as `nft` would take them after `add element`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Element {
    /// A host port and where it leads (maps `publish4`, `publish6`, and `…_any` for any local address).
    Publish {
        /// The host's address, or `None` for every local one.
        host: Option<IpAddr>,
        /// The transport protocol.
        protocol: Protocol,
        /// The port on the host.
        host_port: u16,
        /// The container's address and port; its family decides the map.
        to: SocketAddr,
    },
    /// Packets to a published host port that it is not for: they stay on the host (sets `except4/6`).
    Except {
        /// The transport protocol.
        protocol: Protocol,
        /// The port on the host.
        host_port: u16,
        /// Where they come from.
        sources: Range,
        /// Where they go to, before any translation.
        destinations: Range,
    },
    /// An endpoint that may be reached by DNAT, from outside its network too, and whose hairpin and loopback clients are
    /// masqueraded (sets `published4/6`).
    Published {
        /// The container's address and port.
        to: SocketAddr,
        /// The transport protocol.
        protocol: Protocol,
    },
    /// An endpoint all of whose DNATed clients are masqueraded (sets `masqall4/6`).
    MasqueradeAll {
        /// The container's address and port.
        to: SocketAddr,
        /// The transport protocol.
        protocol: Protocol,
    },
    /// A container whose traffic that leaves its own network is masqueraded (sets `masq4/6`).
    Masquerade {
        /// The container's address.
        address: IpAddr,
    },
    /// Which subnet lives on which bridge (sets `home4/6`).
    Home {
        /// The subnet.
        subnet: IpNetwork,
        /// The bridge's name.
        bridge: String,
    },
    /// A subnet whose addresses come in by its homes only (sets `subnet4/6`).
    Subnet {
        /// The subnet.
        subnet: IpNetwork,
    },
    /// A bridge that is cut off from other networks and from outside (set `isolated`, paired with itself).
    Isolated {
        /// The bridge's name.
        bridge: String,
    },
    /// A bridge port with a spoof guard (table `bridge rnet`, set `ports`).
    Port {
        /// The host end of the veth pair.
        link: String,
    },
    /// What a guarded port may call itself (sets `owner4/6`; IPv6 also `target6`, for its advertisements).
    PortAddress {
        /// The host end of the veth pair.
        link: String,
        /// The container's MAC.
        mac: [u8; 6],
        /// One of the container's addresses; `::` for duplicate address detection, `0.0.0.0` for a DHCP client.
        address: IpAddr,
    },
}

/// Addresses of one family, from one to another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Range {
    first: IpAddr,
    last: IpAddr,
}

impl Range {
    /// From `first` to `last`, both included; `None` if that is nothing or of two families.
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        (first.is_ipv4() == last.is_ipv4() && first <= last).then_some(Self { first, last })
    }
}

impl From<IpAddr> for Range {
    fn from(only: IpAddr) -> Self {
        Self { first: only, last: only }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

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
    /// What keeps this element out of any ruleset, if anything does: a name that nft would read as something else, or
    /// addresses of two families.
    pub fn fault(&self) -> Option<Error> {
        self.entries().err()
    }

    /// The kernel's elements for this one: the first tells whose it is, a second may follow.
    pub(crate) fn entries(&self) -> Result<impl Iterator<Item = Entry> + use<>, Error> {
        Ok(std::iter::once(self.entry()?).chain(self.companion()?))
    }

    /// The element that stands for this one when asked whose it is.
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

    /// Whether an equal key in the kernel means a conflict, whoever owns it.
    pub(crate) fn is_claim(&self) -> bool {
        matches!(self, Self::Publish { .. })
    }

    /// Whether it belongs to a network, so that several containers add the same one.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Self::Home { .. } | Self::Subnet { .. } | Self::Isolated { .. })
    }

    /// The subnet that it says is on `bridge`.
    pub fn home_on(&self, bridge: &str) -> Option<IpNetwork> {
        match self {
            Self::Home { subnet, bridge: found } if found == bridge => Some(*subnet),
            _ => None,
        }
    }

    /// Whether the kernel takes this element for another one's double: an interval that lies within the other's.
    pub fn is_within(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Subnet { subnet }, Self::Subnet { subnet: other }) => lies_within(*subnet, *other),
            (Self::Home { subnet, bridge }, Self::Home { subnet: other, bridge: others }) => {
                bridge == others && lies_within(*subnet, *other)
            }
            _ => false,
        }
    }

    /// Reads an element back; `None` for what we never write, and for a companion.
    pub(crate) fn from_entry(entry: &Entry) -> Option<Self> {
        let mut key = Reader(&entry.key);
        let v6 = entry.set.v6;
        let element = match entry.set.name {
            "publish4" | "publish6" => published_at(Some(key.ip(v6)?), &mut key, entry)?,
            "publish4_any" | "publish6_any" => published_at(None, &mut key, entry)?,
            "except4" | "except6" => except_from(&mut key, entry)?,
            "published4" | "published6" => {
                key.endpoint(v6).map(|(to, protocol)| Self::Published { to, protocol })?
            }
            "masqall4" | "masqall6" => {
                key.endpoint(v6).map(|(to, protocol)| Self::MasqueradeAll { to, protocol })?
            }
            "masq4" | "masq6" => Self::Masquerade { address: key.ip(v6)? },
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

    /// The number of a flow behind it.
    pub(crate) fn flow(&self) -> Option<[u8; 4]> {
        let mut key = Reader(&self.key);
        key.ip(self.set.v6)?;
        key.field()
    }
}

fn by_family<T>(address: IpAddr, v4: T, v6: T) -> T {
    if address.is_ipv4() { v4 } else { v6 }
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

/// Regions of one port are disjoint, so their first keys tell them apart.
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

fn lies_within(subnet: IpNetwork, other: IpNetwork) -> bool {
    subnet.is_ipv4() == other.is_ipv4() && other.prefix() < subnet.prefix() && other.contains(subnet.ip())
}

fn published_at(host: Option<IpAddr>, key: &mut Reader<'_>, entry: &Entry) -> Option<Element> {
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

/// A key in the making: fields in network order, each padded to four bytes.
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

    /// Only names whose every byte stands for itself in nft's language, between the quotes that nft prints.
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

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publish { host, protocol, host_port, to } => {
                let set = match (host, to.is_ipv4()) {
                    (Some(_), true) => "publish4",
                    (Some(_), false) => "publish6",
                    (None, true) => "publish4_any",
                    (None, false) => "publish6_any",
                };
                let host = host.map_or_else(String::new, |host| format!("{host} . "));
                let to = format!("{} . {}", to.ip(), to.port());
                write!(f, "inet rnet {set} {{ {host}{protocol} . {host_port} : {to} }}")
            }
            Self::Except { protocol, host_port, sources, destinations } => {
                let digit = digit(sources.first);
                write!(
                    f,
                    "inet rnet except{digit} {{ {sources} . {destinations} . {protocol} . {host_port} }}"
                )
            }
            Self::Published { to, protocol } => write_endpoint(f, "published", *to, *protocol),
            Self::MasqueradeAll { to, protocol } => write_endpoint(f, "masqall", *to, *protocol),
            Self::Masquerade { address } => {
                write!(f, "inet rnet masq{} {{ {address} }}", digit(*address))
            }
            Self::Home { subnet, bridge } => {
                let (digit, network, prefix) = (digit(subnet.ip()), subnet.network(), subnet.prefix());
                write!(f, "inet rnet home{digit} {{ {network}/{prefix} . \"{bridge}\" }}")
            }
            Self::Subnet { subnet } => {
                let (digit, network, prefix) = (digit(subnet.ip()), subnet.network(), subnet.prefix());
                let any = by_family(subnet.ip(), "0.0.0.0/0", "::/0");
                write!(f, "inet rnet subnet{digit} {{ {network}/{prefix} . {any} }}")
            }
            Self::Isolated { bridge } => {
                write!(f, "inet rnet isolated {{ \"{bridge}\" . \"{bridge}\" }}")
            }
            Self::Port { link } => write!(f, "bridge rnet ports {{ \"{link}\" }}"),
            Self::PortAddress { link, mac, address } => write_port_address(f, link, *mac, *address),
        }
    }
}

fn digit(address: IpAddr) -> char {
    by_family(address, '4', '6')
}

fn write_endpoint(f: &mut fmt::Formatter<'_>, set: &str, to: SocketAddr, protocol: Protocol) -> fmt::Result {
    let (digit, address, port) = (digit(to.ip()), to.ip(), to.port());
    write!(f, "inet rnet {set}{digit} {{ {address} . {protocol} . {port} }}")
}

fn write_port_address(f: &mut fmt::Formatter<'_>, link: &str, mac: [u8; 6], address: IpAddr) -> fmt::Result {
    let mac = mac.map(|b| format!("{b:02x}")).join(":");
    write!(f, "bridge rnet owner{} {{ \"{link}\" . {mac} . {address} }}", digit(address))?;
    match address {
        IpAddr::V4(_) => Ok(()),
        IpAddr::V6(v6) => write!(f, ", bridge rnet target6 {{ \"{link}\" . {:#x} }}", v6.to_bits()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addresses() -> impl Strategy<Value = IpAddr> {
        prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
    }

    fn protocols() -> impl Strategy<Value = Protocol> {
        prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)]
    }

    fn names() -> impl Strategy<Value = String> {
        "[A-Za-z0-9._-]{1,15}"
    }

    fn published() -> impl Strategy<Value = Element> {
        let parts = (addresses(), any::<u16>(), protocols(), any::<u16>(), any::<bool>());
        parts.prop_map(|(address, port, protocol, host_port, any)| Element::Publish {
            host: (!any).then_some(address),
            protocol,
            host_port,
            to: SocketAddr::new(address, port),
        })
    }

    fn ranges() -> impl Strategy<Value = (Range, Range)> {
        let range = |a: IpAddr, b: IpAddr| Range::new(a.min(b), a.max(b)).unwrap();
        let of = move |all: [IpAddr; 4]| (range(all[0], all[1]), range(all[2], all[3]));
        prop_oneof![
            any::<[[u8; 4]; 4]>().prop_map(move |all| of(all.map(IpAddr::from))),
            any::<[[u8; 16]; 4]>().prop_map(move |all| of(all.map(IpAddr::from))),
        ]
    }

    fn excepts() -> impl Strategy<Value = Element> {
        (ranges(), protocols(), any::<u16>()).prop_map(|((sources, destinations), protocol, host_port)| {
            Element::Except { protocol, host_port, sources, destinations }
        })
    }

    fn homes() -> impl Strategy<Value = Element> {
        (addresses(), 0..=128u8, names()).prop_map(|(address, prefix, bridge)| {
            let prefix = prefix.min(if address.is_ipv4() { 32 } else { 128 });
            let subnet = IpNetwork::new(address, prefix).unwrap();
            Element::Home { subnet: IpNetwork::new(subnet.network(), prefix).unwrap(), bridge }
        })
    }

    fn elements() -> impl Strategy<Value = Element> {
        let endpoints =
            || (addresses(), any::<u16>(), protocols()).prop_map(|(a, p, t)| (SocketAddr::new(a, p), t));
        prop_oneof![
            published(),
            excepts(),
            homes(),
            homes().prop_map(|home| match home {
                Element::Home { subnet, .. } => Element::Subnet { subnet },
                other => other,
            }),
            endpoints().prop_map(|(to, protocol)| Element::Published { to, protocol }),
            endpoints().prop_map(|(to, protocol)| Element::MasqueradeAll { to, protocol }),
            addresses().prop_map(|address| Element::Masquerade { address }),
            names().prop_map(|bridge| Element::Isolated { bridge }),
            names().prop_map(|link| Element::Port { link }),
            (names(), any::<[u8; 6]>(), addresses()).prop_map(|(link, mac, address)| Element::PortAddress {
                link,
                mac,
                address
            }),
        ]
    }

    proptest! {
        #[test]
        fn every_element_is_read_back_from_its_bytes(element in elements()) {
            let entry = element.entry().unwrap();
            prop_assert_eq!(Element::from_entry(&entry), Some(element));
        }

        #[test]
        fn keys_and_data_are_as_wide_as_their_set_says(element in elements()) {
            let width = |types: &[ruleset::Type]| -> usize {
                types.iter().map(|part| part.width.next_multiple_of(4) as usize).sum()
            };
            for entry in element.entries().unwrap() {
                prop_assert_eq!(entry.key.len(), width(entry.set.key));
                prop_assert_eq!(entry.end.is_some(), entry.set.interval);
                prop_assert_eq!(entry.data.unwrap_or_default().len(), width(entry.set.data));
            }
        }

        #[test]
        fn no_bytes_make_the_reader_panic(key in prop::collection::vec(any::<u8>(), 0..50), set in 0..25usize) {
            let set = ruleset::Ruleset::constant().sets().nth(set).unwrap();
            let entry = Entry { set, key: key.clone(), end: Some(key.clone()), data: Some(key) };
            let _ = Element::from_entry(&entry);
        }
    }

    #[test]
    fn an_owner_is_sixteen_lower_case_digits() {
        assert_eq!(Owner::new("00000000deadbeef").unwrap().to_string(), "00000000deadbeef");
        for text in
            ["", "deadbeef", "00000000DEADBEEF", "00000000deadbeef0", "+000000deadbeef0", "0x000000deadbeef"]
        {
            assert_eq!(Owner::new(text), None, "{text}");
        }
    }

    #[test]
    fn a_comment_names_its_owner_and_others_name_nobody() {
        let owner = Owner::new("0123456789abcdef").unwrap();
        assert_eq!(owner.comment(), "rnet:0123456789abcdef");
        assert_eq!(Owner::from_comment("rnet:0123456789abcdef"), Some(owner));
        assert_eq!(Owner::from_comment("0123456789abcdef"), None);
        assert_eq!(Owner::from_comment("rnet:me"), None);
    }

    #[test]
    fn protocols_are_read_in_any_case() {
        assert_eq!("TCP".parse(), Ok(Protocol::Tcp));
        assert_eq!("udp".parse(), Ok(Protocol::Udp));
        assert_eq!("Sctp".parse(), Ok(Protocol::Sctp));
        assert_eq!("abc".parse::<Protocol>().unwrap_err().to_string(), "invalid proto: abc");
    }

    #[test]
    fn an_interval_lies_within_a_wider_one_of_its_set() {
        let subnet = |text: &str| Element::Subnet { subnet: text.parse().unwrap() };
        let home =
            |text: &str, bridge: &str| Element::Home { subnet: text.parse().unwrap(), bridge: bridge.into() };
        assert!(subnet("10.1.0.0/16").is_within(&subnet("10.0.0.0/8")));
        assert!(!subnet("10.0.0.0/8").is_within(&subnet("10.1.0.0/16")));
        assert!(!subnet("10.0.0.0/8").is_within(&subnet("10.0.0.0/8")));
        assert!(!subnet("fd00::/64").is_within(&subnet("0.0.0.0/0")));
        assert!(home("10.1.0.0/16", "br0").is_within(&home("10.0.0.0/8", "br0")));
        assert!(!home("10.1.0.0/16", "br0").is_within(&home("10.0.0.0/8", "br1")));
        assert!(!home("10.1.0.0/16", "br0").is_within(&subnet("10.0.0.0/8")));
    }

    #[test]
    fn the_text_is_what_nft_takes() {
        let (to, protocol) = ("172.18.0.2:80".parse().unwrap(), Protocol::Tcp);
        let to6 = "[fd00::2]:80".parse().unwrap();
        let host = Some("10.0.0.1".parse().unwrap());
        let link = String::from("veth0");
        let mac = [2, 0x42, 0xac, 0x12, 0, 2];
        let cases = [
            (
                Element::Publish { host, protocol, host_port: 3344, to },
                "inet rnet publish4 { 10.0.0.1 . tcp . 3344 : 172.18.0.2 . 80 }",
            ),
            (
                Element::Publish { host: None, protocol, host_port: 3344, to: to6 },
                "inet rnet publish6_any { tcp . 3344 : fd00::2 . 80 }",
            ),
            (
                Element::Except {
                    protocol,
                    host_port: 3344,
                    sources: Range::new("10.0.0.0".parse().unwrap(), "10.0.0.9".parse().unwrap()).unwrap(),
                    destinations: Range::from("10.0.0.1".parse::<IpAddr>().unwrap()),
                },
                "inet rnet except4 { 10.0.0.0-10.0.0.9 . 10.0.0.1 . tcp . 3344 }",
            ),
            (Element::Published { to, protocol }, "inet rnet published4 { 172.18.0.2 . tcp . 80 }"),
            (Element::Masquerade { address: to.ip() }, "inet rnet masq4 { 172.18.0.2 }"),
            (
                Element::Home { subnet: "172.18.0.9/16".parse().unwrap(), bridge: "rnet0".into() },
                "inet rnet home4 { 172.18.0.0/16 . \"rnet0\" }",
            ),
            (
                Element::Subnet { subnet: "172.18.0.0/16".parse().unwrap() },
                "inet rnet subnet4 { 172.18.0.0/16 . 0.0.0.0/0 }",
            ),
            (
                Element::Subnet { subnet: "fd18::/64".parse().unwrap() },
                "inet rnet subnet6 { fd18::/64 . ::/0 }",
            ),
            (Element::Isolated { bridge: "rnet0".into() }, "inet rnet isolated { \"rnet0\" . \"rnet0\" }"),
            (Element::Port { link: link.clone() }, "bridge rnet ports { \"veth0\" }"),
            (
                Element::PortAddress { link, mac, address: "fe80::2".parse().unwrap() },
                "bridge rnet owner6 { \"veth0\" . 02:42:ac:12:00:02 . fe80::2 }, \
                 bridge rnet target6 { \"veth0\" . 0xfe800000000000000000000000000002 }",
            ),
        ];
        for (element, text) in cases {
            assert_eq!(element.to_string(), text);
        }
    }
}
