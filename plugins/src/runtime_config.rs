//! What a runtime adds to a configuration: `runtimeConfig`, for the capabilities that it declares.

use std::net::IpAddr;

use engine::spec::Publish;
use serde::Deserialize;

use crate::error::Fault;
use crate::names::{Aliases, RuntimeDns};

/// `runtimeConfig`, as far as plugins of this crate read it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RuntimeConfig {
    /// A MAC address.
    pub mac: String,
    /// Ports to publish.
    pub port_mappings: Vec<Mapping>,
    /// Further names, network by network.
    pub aliases: Aliases,
    /// The container's own resolver settings.
    pub dns: RuntimeDns,
}

impl RuntimeConfig {
    /// What is to be published.
    ///
    /// # Errors
    /// The first entry that cannot be.
    pub fn publish(&self) -> Result<Vec<Publish>, Fault> {
        self.port_mappings.iter().map(Mapping::publish).collect()
    }
}

/// One entry of `runtimeConfig.portMappings`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Mapping {
    /// The host port, 1 to 65535.
    pub host_port: i64,
    /// The container's port, 1 to 65535.
    pub container_port: i64,
    /// `tcp`, `udp` or `sctp` in any case; empty is tcp.
    pub protocol: String,
    /// The host address; empty, `0.0.0.0` and `::` are any address.
    #[serde(rename = "hostIP")]
    pub host_ip: String,
}

impl Mapping {
    /// What is to be published.
    ///
    /// # Errors
    /// A port, a protocol or an address that is none, in upstream's words.
    pub fn publish(&self) -> Result<Publish, Fault> {
        let (container_port, host_port) = (self.container_port()?, self.host_port()?);
        let protocol = self.protocol()?;
        Ok(Publish { host: self.host()?, host_port, container_port, protocol })
    }

    fn container_port(&self) -> Result<u16, Fault> {
        port(self.container_port).ok_or(Fault::ContainerPort(self.container_port))
    }

    fn host_port(&self) -> Result<u16, Fault> {
        port(self.host_port).ok_or(Fault::HostPort(self.host_port))
    }

    fn protocol(&self) -> Result<store::Protocol, Fault> {
        if self.protocol.is_empty() {
            return Ok(store::Protocol::Tcp);
        }
        let known: nft::Protocol =
            self.protocol.parse().map_err(|_| Fault::Protocol(self.protocol.clone()))?;
        Ok(match known {
            nft::Protocol::Tcp => store::Protocol::Tcp,
            nft::Protocol::Udp => store::Protocol::Udp,
            nft::Protocol::Sctp => store::Protocol::Sctp,
        })
    }

    fn host(&self) -> Result<Option<IpAddr>, Fault> {
        if self.host_ip.is_empty() {
            return Ok(None);
        }
        // As upstream, `::ffff:10.0.0.1` is 10.0.0.1.
        let host = self.host_ip.parse().map(|host: IpAddr| host.to_canonical());
        host.map(Some).map_err(|_| Fault::HostAddress(self.host_ip.clone()))
    }
}

fn port(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(host_ip: &str, host_port: i64, container_port: i64, protocol: &str) -> Mapping {
        Mapping { host_port, container_port, protocol: protocol.into(), host_ip: host_ip.into() }
    }

    #[test]
    fn bad_entries_are_refused_in_upstreams_words() {
        let cases = [
            (mapping("", 8080, 0, "tcp"), "Invalid container port number: 0"),
            (mapping("", 0, 80, "tcp"), "Invalid host port number: 0"),
            (mapping("", 70000, 80, "tcp"), "Invalid host port number: 70000"),
            (mapping("", 8080, -1, "tcp"), "Invalid container port number: -1"),
            (mapping("", 8080, 80, "abc"), "Invalid protocol: \"abc\" (tcp, udp and sctp are known)"),
            (mapping("10.0.0", 8080, 80, ""), "Invalid host IP: \"10.0.0\""),
        ];
        for (mapping, text) in cases {
            assert_eq!(mapping.publish().unwrap_err().to_string(), text);
        }
        let same = [mapping("::ffff:10.0.0.1", 8080, 80, "TCP"), mapping("10.0.0.1", 8080, 80, "")];
        assert_eq!(same[0].publish(), same[1].publish());
    }
}
