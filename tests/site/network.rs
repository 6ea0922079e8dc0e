//! The two ways to run the same functions: one plugin for all, and the standard chain.

use serde_json::{Value, json};

use crate::common;

/// A network as its configuration says.
#[derive(Clone)]
pub struct Network {
    pub list: Value,
}

impl Network {
    /// One plugin, `rnet`, and a bridge of its own.
    pub fn rnet(name: &str, subnet: &str) -> Self {
        let rnet = json!({"type": "rnet", "ipam": {"ranges": common::ranges(&[subnet])}});
        Self { list: json!({"cniVersion": "1.1.0", "name": name, "plugins": [rnet]}) }
    }

    /// The same with names.
    pub fn named(name: &str, subnet: &str) -> Self {
        let mut network = Self::rnet(name, subnet);
        network.list["plugins"][0]["names"] = true.into();
        network
    }

    /// The chain with names.
    pub fn named_chain(name: &str, subnet: &str) -> Self {
        let mut network = Self::chain(name, subnet);
        let plugins = network.list["plugins"].as_array_mut().unwrap();
        plugins.push(json!({"type": "dnsname", "domainName": "dns.podman"}));
        network
    }

    /// `bridge` with `host-local`, then `portmap`.
    pub fn chain(name: &str, subnet: &str) -> Self {
        let mut bridge = common::bridge(name, &[subnet]);
        bridge["bridge"] = format!("br-{name}").into();
        Self { list: json!({"cniVersion": "1.1.0", "name": name, "plugins": [bridge, {"type": "portmap"}]}) }
    }

    /// The chain with what restricts it: `macspoofchk`, and a condition on the ports.
    pub fn restricted(name: &str, subnet: &str) -> Self {
        let mut network = Self::chain(name, subnet);
        network.list["plugins"][0]["macspoofchk"] = true.into();
        network.list["plugins"][1]["conditionsV4"] = json!(["!", "-s", "192.0.2.0/24"]);
        network
    }

    pub fn name(&self) -> &str {
        self.list["name"].as_str().unwrap()
    }

    /// The plugins' names, in their order.
    pub fn plugins(&self) -> Vec<&str> {
        self.list["plugins"]
            .as_array()
            .unwrap()
            .iter()
            .map(|plugin| plugin["type"].as_str().unwrap())
            .collect()
    }

    /// The plugin that makes the interface.
    pub fn main_plugin(&self) -> &str {
        self.plugins()[0]
    }

    pub fn bridge(&self) -> String {
        match self.list["plugins"][0]["bridge"].as_str() {
            Some(bridge) => bridge.to_owned(),
            None => plugins::default_bridge(self.name()),
        }
    }

    /// What `plugin` gets on its standard input. Ports go to whoever publishes them.
    pub fn config(&self, plugin: &str, ports: &Value, previous: Option<&Value>) -> Value {
        let listed = self.list["plugins"].as_array().unwrap().iter().find(|listed| listed["type"] == plugin);
        let mut config = common::config_of(&self.list, listed.unwrap(), previous);
        if plugin != "bridge" {
            config["runtimeConfig"] = json!({"portMappings": ports});
        }
        config
    }
}
