//! What is compared: something that attaches a container to a network and detaches it.

use std::path::Path;

use anyhow::Result;
use netns_fixtures::Container;
use serde_json::{Value, json};

use crate::chain::Chain;
use crate::floor::Floor;
use crate::netavark::Netavark;
use crate::programs::Programs;

/// The containers' subnet, for everybody.
pub const SUBNET: &str = "172.18.0.0/16";
/// Its gateway.
pub const GATEWAY: &str = "172.18.0.1";

/// Attaches containers and detaches them by programs, in the network namespace of the calling thread.
pub trait Contender: Sync + Send {
    /// Attaches: CNI's ADD, netavark's setup.
    fn add(&self, attachment: &mut Attachment) -> Result<()>;
    /// Detaches: CNI's DEL, netavark's teardown.
    fn del(&self, attachment: &mut Attachment) -> Result<()>;
}

/// The contenders.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Our plugin `rnet`, all in one process.
    Rnet,
    /// The same by the build that was named by `--before`.
    RnetBefore,
    /// The same on a network with names.
    RnetNames,
    /// Our plugin `rnet` for a second network of the host.
    RnetBeside,
    /// Our `bridge` (with `host-local`) and `portmap`, as processes of their own.
    OurChain,
    /// The reference `bridge` (with `host-local`) and `portmap`.
    Reference,
    /// The same and `firewall`: what rnet's isolation stands against.
    ReferenceFirewall,
    /// A program that makes only the kernel calls that cannot be left out.
    Floor,
    /// netavark, which is given the address: its leases are podman's work and not in its times.
    Netavark,
}

impl Kind {
    /// Its name in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rnet => "rnet",
            Self::RnetBefore => "rnet before",
            Self::RnetNames => "rnet with names",
            Self::RnetBeside => "rnet, a second network",
            Self::OurChain => "our bridge+portmap",
            Self::Reference => "bridge+portmap",
            Self::ReferenceFirewall => "bridge+portmap+firewall",
            Self::Floor => "floor",
            Self::Netavark => "netavark",
        }
    }

    /// Ready to work, with its files below `root`.
    pub fn contender(self, programs: &Programs, root: &Path) -> Box<dyn Contender> {
        match self {
            Self::Rnet => Box::new(Chain::rnet(programs, root)),
            Self::RnetBefore => Box::new(Chain::rnet(programs, root).by_build_before(programs)),
            Self::RnetNames => Box::new(Chain::rnet(programs, root).with_names()),
            Self::RnetBeside => Box::new(Chain::rnet(programs, root).beside_another()),
            Self::OurChain => Box::new(Chain::ours(programs, root)),
            Self::Reference => Box::new(Chain::reference(programs, root)),
            Self::ReferenceFirewall => Box::new(Chain::reference(programs, root).and_firewall()),
            Self::Floor => Box::new(Floor::default()),
            Self::Netavark => Box::new(Netavark::new(programs, root)),
        }
    }
}

/// A container and its place on the network.
pub struct Attachment {
    /// The container, as the runtime made it.
    pub container: Container,
    /// 64 hex digits, as podman and containerd give them.
    pub id: String,
    /// The how-manieth of its network: decides the address where the contender is given one.
    pub number: u16,
    /// What it publishes.
    pub ports: Ports,
    /// The last plugin's answer to ADD.
    pub result: Option<Value>,
}

impl Attachment {
    /// A container that is about to be attached.
    pub fn new(container: Container, number: u16, ports: Ports) -> Self {
        let id = format!("{number:04x}bec0ffee").repeat(6)[..64].to_owned();
        Self { container, id, number, ports, result: None }
    }
}

/// `count` TCP ports in a row, from `host` on the host to `container` in the container.
#[derive(Clone, Copy)]
pub struct Ports {
    /// The first on the host.
    pub host: u16,
    /// The first in the container.
    pub container: u16,
    /// How many.
    pub count: u16,
    /// How the runtime writes them down.
    pub written: Written,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
}

/// How a runtime writes ports down.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// A mapping for each.
    Singly,
    /// One mapping with a `range`, for netavark; CNI has none.
    AsRange,
    /// A mapping for each, all to the same container port.
    ToOne,
}

impl Ports {
    /// One port, 80 in the container.
    pub fn one(host: u16) -> Self {
        Self { host, container: 80, count: 1, written: Written::Singly, protocol: "tcp" }
    }

    /// One UDP port, 53 in the container.
    pub fn one_udp(host: u16) -> Self {
        Self { container: 53, protocol: "udp", ..Self::one(host) }
    }

    /// A row of them.
    pub fn row(host: u16, count: u16, written: Written) -> Self {
        let container = if written == Written::ToOne { 80 } else { 1000 };
        Self { container, count, written, ..Self::one(host) }
    }

    /// Host port and container port of each mapping, and its length.
    pub fn mappings(&self) -> Vec<(u16, u16, u16)> {
        let (host, container) = (self.host, self.container);
        match self.written {
            Written::AsRange => vec![(host, container, self.count)],
            Written::Singly => (0..self.count).map(|nth| (host + nth, container + nth, 1)).collect(),
            Written::ToOne => (0..self.count).map(|nth| (host + nth, container, 1)).collect(),
        }
    }

    /// `runtimeConfig.portMappings` (CNI conventions): a mapping for each port, for CNI has no ranges.
    pub fn port_mappings(&self) -> Value {
        let singly = if self.written == Written::AsRange { Written::Singly } else { self.written };
        Self { written: singly, ..*self }
            .mappings()
            .into_iter()
            .map(|mapping| self.port_mapping(mapping))
            .collect()
    }

    fn port_mapping(&self, (host, container, _): (u16, u16, u16)) -> Value {
        json!({"hostPort": host, "containerPort": container, "protocol": self.protocol})
    }
}
