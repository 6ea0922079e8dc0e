//! The two kinds of networks that runtimes meet.

use std::fmt;
use std::fs;
use std::path::Path;

use crate::common::Host;
use crate::setup::{NETWORKS, setup};
use anyhow::Context;
use serde_json::{Value, json};

/// How a network came to be, and which plugins carry it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flavour {
    /// `rnet create`: one plugin of the type `rnet`.
    Created,
    /// The standard chain as `podman network create` writes it, less firewall.
    Chain,
}

/// A network of the lab: 10.89.N.0/24.
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its number N.
    pub number: u8,
    flavour: Flavour,
}

/// The kinds to test; a peer knows no plugin `rnet`.
pub fn flavours(peer: bool) -> &'static [Flavour] {
    if peer { &[Flavour::Chain] } else { &[Flavour::Created, Flavour::Chain] }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Chain => "chain",
        })
    }
}

impl Network {
    /// Makes the network `netN` in the folder where all runtimes look.
    pub fn make(host: &Host, flavour: Flavour, number: u8) -> anyhow::Result<Self> {
        let network = Self { name: format!("net{number}"), number, flavour };
        match flavour {
            Flavour::Created => network.create(host)?,
            Flavour::Chain => fs::write(network.file(), network.chain(setup().peer))?,
        }
        Ok(network)
    }

    /// The address of its bridge.
    pub fn gateway(&self) -> std::net::Ipv4Addr {
        [10, 89, self.number, 1].into()
    }

    /// Removes it, as its maker would: only podman knows more of its networks than the file.
    pub fn remove(&self, host: &Host) -> anyhow::Result<()> {
        match self.flavour {
            Flavour::Created => host.rnet_prints(&["rm", &self.name]).map(drop),
            Flavour::Chain => {
                fs::remove_file(self.file())?;
                let bridge = self.bridge();
                // Who writes configurations of the type bridge also removes the bridge.
                crate::program::ip(host.netns(), &["link", "delete", &bridge]).map(drop)
            }
        }
    }

    /// The domain of its names.
    pub fn domain(&self) -> String {
        if self.flavour == Flavour::Created { "dns.rnet".into() } else { "dns.podman".into() }
    }

    fn create(&self, host: &Host) -> anyhow::Result<()> {
        let subnet = format!("10.89.{}.0/24", self.number);
        host.rnet_prints(&["create", "--subnet", &subnet, &self.name]).map(drop)
    }

    /// The bridge of a list.
    pub fn bridge(&self) -> String {
        format!("cni-podman{}", self.number)
    }

    /// Puts one more plugin at the end of its list.
    pub fn append(&self, plugin: Value) -> anyhow::Result<()> {
        let mut list: Value = serde_json::from_str(&fs::read_to_string(self.file())?)?;
        list["plugins"].as_array_mut().context("a list has plugins")?.push(plugin);
        Ok(fs::write(self.file(), list.to_string())?)
    }

    fn file(&self) -> std::path::PathBuf {
        let prefix = if self.flavour == Flavour::Created { "rnet-" } else { "" };
        Path::new(NETWORKS).join(format!("{prefix}{}.conflist", self.name))
    }

    /// What podman 4.3 writes (its `firewall` is not among rnet's plugins yet) if there is a plugin `dnsname`, which the
    /// reference plugins have not.
    fn chain(&self, peer: bool) -> String {
        let (subnet, gateway) = (format!("10.89.{}.0/24", self.number), self.gateway().to_string());
        let mut list = json!({"cniVersion": "0.4.0", "name": self.name, "plugins": [
            {"type": "bridge", "bridge": self.bridge(), "isGateway": true, "ipMasq": true, "hairpinMode": true,
             "ipam": {"type": "host-local", "routes": [{"dst": "0.0.0.0/0"}],
                      "ranges": [[{"subnet": subnet, "gateway": gateway}]]},
             "capabilities": {"ips": true}},
            {"type": "portmap", "capabilities": {"portMappings": true}},
            {"type": "tuning"},
        ]});
        if let Some(plugins) = list["plugins"].as_array_mut().filter(|_| !peer) {
            plugins.push(
                json!({"type": "dnsname", "domainName": self.domain(), "capabilities": {"aliases": true}}),
            );
        }
        list.to_string()
    }
}
