//! netavark, called as podman calls it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::chain::{PATH, answer};
use crate::contender::{Attachment, Contender, GATEWAY, SUBNET};
use crate::programs::Programs;

/// netavark and the directory of its state.
pub struct Netavark {
    program: PathBuf,
    config: PathBuf,
}

impl Netavark {
    /// With its state below `root`.
    pub fn new(programs: &Programs, root: &Path) -> Self {
        Self { program: programs.netavark.clone(), config: root.join("netavark") }
    }

    fn call(&self, verb: &str, attachment: &Attachment) -> Result<()> {
        std::fs::create_dir_all(&self.config).context("make netavark's directory")?;
        let mut command = Command::new(&self.program);
        command.env_clear().env("PATH", PATH).arg("--config").arg(&self.config);
        command.arg(verb).arg(attachment.container.path());
        answer(command, &options(attachment).to_string())
            .with_context(|| format!("netavark {verb} for container {}", attachment.container.name()))?;
        Ok(())
    }
}

impl Contender for Netavark {
    fn add(&self, attachment: &mut Attachment) -> Result<()> {
        self.call("setup", attachment)
    }

    fn del(&self, attachment: &mut Attachment) -> Result<()> {
        self.call("teardown", attachment)
    }
}

/// What podman writes to its stdin; names are off, as in the other contenders.
fn options(attachment: &Attachment) -> Value {
    json!({
        "container_id": attachment.id,
        "container_name": attachment.container.name(),
        "networks": {"bench": {"static_ips": [address(attachment.number)], "interface_name": "eth0"}},
        "network_info": {"bench": {
            "name": "bench",
            "id": "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9",
            "driver": "bridge",
            "network_interface": "podman-bench",
            "subnets": [{"subnet": SUBNET, "gateway": GATEWAY}],
            "ipv6_enabled": false,
            "internal": false,
            "dns_enabled": false,
            "ipam_options": {"driver": "host-local"},
        }},
        "port_mappings": mappings(attachment),
    })
}

fn mappings(attachment: &Attachment) -> Vec<Value> {
    attachment.ports.mappings().into_iter().map(mapping).collect()
}

fn mapping((host, container, range): (u16, u16, u16)) -> Value {
    json!({
        "host_ip": "",
        "host_port": host,
        "container_port": container,
        "protocol": "tcp",
        "range": range,
    })
}

/// The number-th address after the gateway's, the last octet never 0 or 255.
pub fn address(number: u16) -> String {
    format!("172.18.{}.{}", number / 250, number % 250 + 2)
}
