//! CNI plugins one after the other, called as libcni calls them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::contender::{Attachment, Contender, GATEWAY, SUBNET};
use crate::programs::Programs;

/// The programs that the reference plugins start are looked for here.
pub const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// A network configuration list, and where its plugins are.
pub struct Chain {
    plugin_dir: PathBuf,
    /// `RNET_ROOT`; the reference plugins do not know it.
    root: PathBuf,
    network: &'static str,
    plugins: Vec<Value>,
}

impl Chain {
    /// The plugin `rnet` alone: bridge, lease, published ports, isolation and spoof guard.
    pub fn rnet(programs: &Programs, root: &Path) -> Self {
        let plugin = json!({
            "type": "rnet",
            "bridge": "rnet-bench",
            "capabilities": {"portMappings": true},
            "ipam": {"ranges": [[{"subnet": SUBNET, "gateway": GATEWAY}]]},
        });
        Self { plugin_dir: programs.ours.clone(), root: root.into(), network: "bench", plugins: vec![plugin] }
    }

    /// The same, by another build of it. Fails in its first call if none was named.
    pub fn by_build_before(mut self, programs: &Programs) -> Self {
        self.plugin_dir = programs.before.clone().unwrap_or_default();
        self
    }

    /// The same, and its containers find one another by name.
    pub fn with_names(mut self) -> Self {
        self.plugins[0]["names"] = true.into();
        self
    }

    /// The same for another network than everybody else's.
    pub fn beside_another(mut self) -> Self {
        self.network = "beside";
        self.plugins[0]["bridge"] = "rnet-beside".into();
        self.plugins[0]["ipam"] = json!({"ranges": [[{"subnet": "172.19.0.0/16"}]]});
        self
    }

    /// Our plugins by the standard chain.
    pub fn ours(programs: &Programs, root: &Path) -> Self {
        Self::standard(programs.ours.clone(), root)
    }

    /// The reference plugins by the standard chain.
    pub fn reference(programs: &Programs, root: &Path) -> Self {
        Self::standard(programs.reference.clone(), root)
    }

    /// What `podman network create` writes, in the order in which it does.
    fn standard(plugin_dir: PathBuf, root: &Path) -> Self {
        let bridge = json!({
            "type": "bridge", "bridge": "cni-bench", "isGateway": true, "ipMasq": true, "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "dataDir": root.join("networks"),
                "ranges": [[{"subnet": SUBNET, "gateway": GATEWAY}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        });
        let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        Self { plugin_dir, root: root.into(), network: "bench", plugins: vec![bridge, portmap] }
    }

    /// The same with `firewall` at its end. The backend is named, which spares it the search for firewalld.
    pub fn and_firewall(mut self) -> Self {
        self.plugins.push(json!({"type": "firewall", "backend": "iptables"}));
        self
    }

    fn call(&self, verb: &str, plugin: &Value, attachment: &Attachment) -> Result<Option<Value>> {
        let kind = plugin["type"].as_str().unwrap_or_default();
        let mut command = Command::new(self.plugin_dir.join(kind));
        command
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &attachment.id)
            .env("CNI_NETNS", attachment.container.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAME={}", attachment.container.name()))
            .env("CNI_PATH", &self.plugin_dir)
            .env("PATH", PATH)
            .env("RNET_ROOT", &self.root);
        let said = answer(command, &with_runtime_config(self.network, plugin, attachment).to_string())
            .with_context(|| format!("{verb} of {kind} for container {}", attachment.container.name()))?;
        match said.is_empty() {
            true => Ok(None),
            false => Ok(Some(serde_json::from_str(&said).with_context(|| format!("{kind} said {said}"))?)),
        }
    }
}

impl Contender for Chain {
    fn add(&self, attachment: &mut Attachment) -> Result<()> {
        attachment.result = None;
        for plugin in &self.plugins {
            attachment.result = self.call("ADD", plugin, attachment)?;
        }
        Ok(())
    }

    fn del(&self, attachment: &mut Attachment) -> Result<()> {
        for plugin in self.plugins.iter().rev() {
            self.call("DEL", plugin, attachment)?;
        }
        Ok(())
    }
}

/// Starts a program, gives it its input and returns what it says. Fails, with that, if it does.
pub fn answer(mut command: Command, input: &str) -> Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {:?}", command.get_program()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that refuses without reading says why on its output.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().context("read its answer")?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("{}: {} {}", output.status, said.trim(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(said.trim().to_owned())
}

/// What libcni adds to a plugin's section before it passes it on.
fn with_runtime_config(network: &str, plugin: &Value, attachment: &Attachment) -> Value {
    let mut config = plugin.clone();
    config["cniVersion"] = "1.0.0".into();
    config["name"] = network.into();
    if plugin["capabilities"]["portMappings"] == true {
        config["runtimeConfig"] = json!({"portMappings": attachment.ports.port_mappings()});
    }
    if let Some(result) = &attachment.result {
        config["prevResult"] = result.clone();
    }
    config
}
