//! What the server is told: networks and the endpoints on them.

use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// A network whose names are served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Network {
    /// Its name.
    pub name: String,
    /// The domain that its names also have (`dns.podman`), none where there is no such form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The bridge that its containers' questions come by.
    pub bridge: String,
    /// The addresses of the bridge: the server listens there, on port 53.
    pub gateways: Vec<IpAddr>,
    /// Its subnets.
    pub subnets: Vec<IpNetwork>,
    /// Nothing of it leaves the host: no question is forwarded.
    pub internal: bool,
    /// Its own upstream servers, before the host's.
    pub upstreams: Vec<SocketAddr>,
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
