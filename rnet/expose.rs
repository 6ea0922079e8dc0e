//! `--expose` and `-P`: ports that a program says it serves, and all of them published.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::publish::{Protocol, Span, Spec, SpecError, container_span};

/// One `--expose` as it was given: ports that the program says it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expose {
    /// The ports.
    pub ports: Span,
    /// The protocol.
    pub protocol: Protocol,
}

impl FromStr for Expose {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        Ok(Self { ports: container_span(ports)?, protocol: Protocol::parse(protocol)? })
    }
}

/// `80/tcp`, `8000-8010/udp`.
impl fmt::Display for Expose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ports, self.protocol.as_str())
    }
}

impl Serialize for Expose {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Expose {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Expose {
    /// True if the port is one of these.
    pub fn includes(&self, port: u16, protocol: store::Protocol) -> bool {
        self.protocol.as_str() == protocol.to_string() && self.ports.has(port)
    }
}

/// `-P`: what is exposed and not published by a `-p` already, each port on any free host port, once.
pub fn publish_all(exposed: &[Expose], published: &[Spec]) -> Vec<Spec> {
    let (mut specs, mut seen) = (Vec::new(), HashSet::new());
    for expose in exposed {
        for port in expose.ports.ports() {
            let is_there = |spec: &Spec| spec.protocol == expose.protocol && spec.container_ports.has(port);
            if seen.insert((expose.protocol.as_str(), port)) && !published.iter().any(is_there) {
                let container_ports = Span::one(port);
                specs.push(Spec { host: None, host_ports: None, container_ports, protocol: expose.protocol });
            }
        }
    }
    specs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_exposed_is_published_once() {
        let exposed: Vec<Expose> =
            ["80", "53/udp", "80-82", "443/TCP"].map(|text| text.parse().unwrap()).into();
        assert_eq!(exposed[3].to_string(), "443/tcp");
        let given = ["8443:443", "53:53"].map(|text| text.parse().unwrap());

        let specs = publish_all(&exposed, &given);

        let ports: Vec<_> =
            specs.iter().map(|s| format!("{}/{}", s.container_ports, s.protocol.as_str())).collect();
        assert_eq!(ports, ["80/tcp", "53/udp", "81/tcp", "82/tcp"]);
        for wrong in ["", "80/abc", "9-8", "0", "80:80", "a"] {
            assert!(wrong.parse::<Expose>().is_err(), "{wrong}");
        }
    }
}
