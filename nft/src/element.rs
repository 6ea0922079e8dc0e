//! Elements: what a network or a container adds to the constant ruleset, and who owns it.

mod key;
#[cfg(test)]
mod tests;
mod text;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnetwork::IpNetwork;

use crate::error::Error;

pub(crate) use key::Entry;

/// What an element's comment starts with.
const COMMENT: &str = "rnet:";

/// Who an element belongs to: 16 hexadecimal digits, made of rnet's ids.
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

    /// The owner that a comment names, if it is one of rnet's comments.
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

/// The text names none of the three protocols.
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

/// One thing that a network or a container puts into rnet's sets and maps.
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
    /// Packets to a published host port that are excluded from it: they stay on the host (sets `except4/6`).
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
    /// Where such a container keeps its address although another interface than its own leads there: its subnet, if each of
    /// the subnet's containers has an interface to itself (sets `near4/6`).
    Near {
        /// The container's address.
        address: IpAddr,
        /// The subnet that it is in.
        subnet: IpNetwork,
    },
    /// Which subnet lives on which bridge (sets `home4/6`).
    Home {
        /// The subnet.
        subnet: IpNetwork,
        /// The bridge's name.
        bridge: String,
    },
    /// A subnet whose addresses may come in only from its homes (sets `subnet4/6`).
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
    /// From `first` to `last`, both included; `None` if that is empty or of two families.
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

impl Element {
    /// What keeps this element out of any ruleset, if anything does: a name that nft would read as something else, or
    /// addresses of two families.
    pub fn fault(&self) -> Option<Error> {
        self.entries().err()
    }

    /// Whether an equal key in the kernel means a conflict, even with the same owner.
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

    /// Whether the kernel takes this element for a double of the other: its interval is within the other's.
    pub fn is_within(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Subnet { subnet }, Self::Subnet { subnet: other }) => lies_within(*subnet, *other),
            (Self::Home { subnet, bridge }, Self::Home { subnet: other, bridge: others }) => {
                bridge == others && lies_within(*subnet, *other)
            }
            _ => false,
        }
    }
}

fn by_family<T>(address: IpAddr, v4: T, v6: T) -> T {
    if address.is_ipv4() { v4 } else { v6 }
}

fn lies_within(subnet: IpNetwork, other: IpNetwork) -> bool {
    subnet.is_ipv4() == other.is_ipv4() && other.prefix() < subnet.prefix() && other.contains(subnet.ip())
}
