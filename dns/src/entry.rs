//! The server's input: networks and the endpoints on them.

use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// A network whose names are served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Network {
    /// Its name.
    pub name: String,
    /// The domain under which its names exist too (`dns.podman`), if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The bridge through which its containers' questions come.
    pub bridge: String,
    /// The addresses of the bridge: the server listens there, on port 53.
    pub gateways: Vec<IpAddr>,
    /// Its subnets.
    pub subnets: Vec<IpNetwork>,
    /// No question of its containers is forwarded.
    pub internal: bool,
    /// Its own upstream servers, before the host's.
    pub upstreams: Vec<SocketAddr>,
    /// Answers of upstream servers with an address in one of rnet's subnets are dropped (H5).
    #[serde(skip_serializing_if = "is_false")]
    pub rebinding_guard: bool,
}

/// An attachment with names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Endpoint {
    /// The network's name.
    pub network: String,
    /// CNI_CONTAINERID.
    pub container: String,
    /// CNI_IFNAME.
    pub ifname: String,
    /// Its names in the order of N1: the container's name, aliases, short id, hostname. The first is the PTR's.
    pub names: Vec<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The container's own upstream servers, before the network's.
    pub upstreams: Vec<SocketAddr>,
}

/// One thing that a server gets when it starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Known {
    /// A network.
    Network(Network),
    /// An endpoint, after its network.
    Endpoint(Endpoint),
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Endpoint {
    /// The names that can be asked for (N6), each once whatever its case (N4).
    pub(crate) fn askable_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::with_capacity(self.names.len());
        for name in self.names.iter().filter(|name| valid_name(name)) {
            if !names.iter().any(|other| other.eq_ignore_ascii_case(name)) {
                names.push(name);
            }
        }
        names
    }

    /// Its addresses, each once.
    pub(crate) fn distinct_addresses(&self) -> Vec<IpAddr> {
        let mut addresses = Vec::with_capacity(self.addresses.len());
        for address in &self.addresses {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        addresses
    }
}

/// Whether a name can be asked for: labels of 1 to 63 letters, digits, `-` or `_`, at most 253 octets in all (N6).
pub fn valid_name(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(valid_label)
}

/// Whether asking for a name finds its owner: it is valid, and not one of the loopback's, which each machine answers for
/// itself (RFC 6761, 6.3).
pub fn askable(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    valid_name(name) && !last.eq_ignore_ascii_case("localhost")
}

/// Whether programs take a name for an IPv4 address, and so never look it up (inet_aton(3)): `10.0.0.1`, `1234`, `0x7f.1`.
pub fn looks_like_address(name: &str) -> bool {
    let numbers: Option<Vec<u64>> = name.split('.').map(number).collect();
    numbers.is_some_and(|numbers| {
        let (last, bytes) = (numbers.last().copied().unwrap_or_default(), &numbers[..numbers.len() - 1]);
        bytes.len() < 4 && bytes.iter().all(|byte| *byte < 256) && last < 256 << (8 * (3 - bytes.len()))
    })
}

/// Decimal, octal after a 0, hexadecimal after 0x.
fn number(text: &str) -> Option<u64> {
    let digits = |text: &str, radix| match text.starts_with('+') {
        true => None,
        false => u64::from_str_radix(text, radix).ok(),
    };
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return digits(hex, 16);
    }
    digits(text, if text.len() > 1 && text.starts_with('0') { 8 } else { 10 })
}

fn valid_label(label: &str) -> bool {
    (1..=63).contains(&label.len()) && label.bytes().all(valid_octet)
}

/// Whether an octet is allowed in a label of rnet's names.
pub(crate) fn valid_octet(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_inet_aton_takes_is_never_looked_up() {
        for name in ["10.0.0.1", "1234", "4294967295", "0", "0x7f.1", "017.1", "1.2.65535", "0XA"] {
            assert!(looks_like_address(name), "{name}");
        }
        let names = [
            "",
            ".",
            "web",
            "4294967296",
            "1.2.3.4.5",
            "256.1.1.1",
            "1.2.65536",
            "08",
            "1a",
            "0x",
            "1.",
            "-1",
            "+1",
        ];
        for name in names.into_iter().chain(["123456789012", "0123456789ab"]) {
            assert!(!looks_like_address(name), "{name}");
        }
    }

    #[test]
    fn n6_a_name_has_labels_of_letters_digits_hyphens_and_underscores() {
        let longest = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61));
        for name in ["db", "my_db-1", "A.b", "0123456789ab", &"a".repeat(63), &longest] {
            assert!(valid_name(name), "{name}");
        }
        let (long_label, too_long) = ("a".repeat(64), format!("{longest}c"));
        for name in ["", ".", "a.", ".a", "a..b", "a b", "a,b", "a\nb", "ä", "*", &long_label, &too_long] {
            assert!(!valid_name(name), "{name}");
        }
    }
}
