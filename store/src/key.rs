//! The names from which the names of everything that rnet makes derive.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// One attachment: a container's interface on a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// The network's name.
    pub network: String,
    /// The container's id.
    pub container: String,
    /// The name of the interface inside the container.
    pub ifname: String,
}

/// The key of one attachment: 16 hex digits, a hash of (network, container id, ifname).
///
/// Host veth, record and the comment of every nftables element derive from it, so DEL finds them without
/// any record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key(String);

/// The key of one network: 16 hex digits, a hash of its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetworkKey(String);

impl Id {
    /// The id for a call about all attachments of a network.
    pub fn of_network(network: &str) -> Self {
        Self { network: network.to_owned(), ..Self::default() }
    }

    /// The key that names everything this attachment owns.
    pub fn key(&self) -> Key {
        Key::new(&self.network, &self.container, &self.ifname)
    }
}

/// `CONTAINER/IFNAME`, as an error about a busy lock shows it.
impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container, self.ifname)
    }
}

impl Key {
    /// The key of the attachment of `container`'s `ifname` to `network`.
    pub fn new(network: &str, container: &str, ifname: &str) -> Self {
        Self(digest(&[network, container, ifname]))
    }

    /// The 16 hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host end's name, `veth` and eight hex digits; `attempt` counts the names that other interfaces have.
    pub fn link(&self, attempt: usize) -> String {
        let again = digest(&[&self.0, &attempt.to_string()]);
        let digits = if attempt == 0 { &self.0 } else { &again };
        format!("veth{}", &digits[..8])
    }
}

impl NetworkKey {
    /// The key of the network called `name`.
    pub fn new(name: &str) -> Self {
        Self(digest(&[name]))
    }

    /// The 16 hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for NetworkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The first 64 bits of SHA-256 over the parts, each followed by a NUL, so that no two lists of parts have the same bytes.
fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_parts_give_different_keys() {
        assert_ne!(Key::new("a", "bc", "eth0"), Key::new("ab", "c", "eth0"));
    }

    #[test]
    fn a_link_name_fits_the_kernel_and_differs_on_each_attempt() {
        let key = Key::new("mynet", "web", "eth0");
        let names: Vec<_> = (0..4).map(|attempt| key.link(attempt)).collect();

        assert!(names.iter().all(|name| name.len() == 12 && name.starts_with("veth")));
        assert_eq!(names[0], format!("veth{}", &key.as_str()[..8]));
        assert!((1..4).all(|i| !names[..i].contains(&names[i])));
    }
}
