//! The client that is charged for a forward.

use std::fmt::{self, Display, Formatter};
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

/// Who is charged for a forward.
#[derive(Clone, Debug)]
pub(crate) enum Client {
    /// The network through which it asked, and its id.
    Container(Arc<str>, Arc<str>),
    Address(IpAddr),
}

impl Client {
    /// A container is one client, however many networks it is on.
    fn key(&self) -> Result<&str, IpAddr> {
        match self {
            Self::Container(_, id) => Ok(id),
            Self::Address(address) => Err(*address),
        }
    }
}

impl PartialEq for Client {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Client {}

impl Hash for Client {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl Display for Client {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container(network, container) => write!(f, "container {container} on {network}"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::share::Buckets;

    #[test]
    fn f10_a_container_is_one_client_on_all_its_networks() {
        let client = |network: &str, id: &str| Client::Container(network.into(), id.into());
        let address = |ip: &str| Client::Address(ip.parse().unwrap());
        let mut buckets = Buckets::new(1, 1);
        let mut take = |client| buckets.take(client, Instant::now());
        assert!(take(client("front", "web")) && !take(client("back", "web")));
        assert!(take(client("front", "db")) && take(address("10.0.0.1")) && !take(address("10.0.0.1")));
    }
}
