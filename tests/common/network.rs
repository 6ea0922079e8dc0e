//! Networks as configurations say them: one plugin for all, or the standard chain.

use serde_json::{Value, json};

/// A port to publish: host address, host port, container port, protocol.
pub type Published = (&'static str, u16, u16, &'static str);

/// A network as its configuration says.
#[derive(Clone)]
pub struct Network {
    pub list: Value,
}

impl Network {
    /// One plugin, `rnet`, and a bridge of its own.
    pub fn rnet(name: &str, subnet: &str) -> Self {
        let rnet = json!({"type": "rnet", "ipam": {"ranges": ranges(&[subnet])}});
        Self { list: json!({"cniVersion": "1.1.0", "name": name, "plugins": [rnet]}) }
    }

    /// One plugin, with this configuration.
    pub fn of(config: &Value) -> Self {
        let [name, version] = ["name", "cniVersion"].map(|key| config[key].clone());
        Self { list: json!({"cniVersion": version, "name": name, "plugins": [config]}) }
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
        let mut bridge = bridge(name, &[subnet]);
        bridge["bridge"] = format!("br-{name}").into();
        Self { list: json!({"cniVersion": "1.1.0", "name": name, "plugins": [bridge, {"type": "portmap"}]}) }
    }

    /// `ptp` with `host-local`, then `portmap`.
    pub fn ptp(name: &str, subnet: &str) -> Self {
        let ipam =
            json!({"type": "host-local", "ranges": ranges(&[subnet]), "routes": [{"dst": "0.0.0.0/0"}]});
        let ptp = json!({"type": "ptp", "ipMasq": true, "ipam": ipam});
        Self { list: json!({"cniVersion": "1.1.0", "name": name, "plugins": [ptp, {"type": "portmap"}]}) }
    }

    /// The chain with what restricts it: `macspoofchk`, and a condition on the ports.
    pub fn restricted(name: &str, subnet: &str) -> Self {
        let mut network = Self::chain(name, subnet);
        network.list["plugins"][0]["macspoofchk"] = true.into();
        network.list["plugins"][1]["conditionsV4"] = json!(["!", "-s", "192.0.2.0/24"]);
        network
    }

    /// `rnet`, then `tuning` with a key of each kind.
    pub fn tuned(name: &str, subnet: &str) -> Self {
        let mut network = Self::rnet(name, subnet);
        let sysctl = json!({"net.ipv4.conf.IFNAME.arp_filter": "1"});
        let tuning = json!({"type": "tuning", "mac": "02:11:22:33:44:55", "mtu": 1333, "sysctl": sysctl});
        network.list["plugins"].as_array_mut().unwrap().push(tuning);
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

    /// What `plugin` gets on its standard input. Ports go to the plugin that publishes them.
    pub fn config(&self, plugin: &str, ports: &Value, previous: Option<&Value>) -> Value {
        let listed = self.list["plugins"].as_array().unwrap().iter().find(|listed| listed["type"] == plugin);
        let mut config = config_of(&self.list, listed.unwrap(), previous);
        if plugin != "bridge" {
            let mappings = &mut config["runtimeConfig"]["portMappings"];
            if mappings.is_null() {
                *mappings = ports.clone();
            }
        }
        config
    }
}

/// The configuration of a network of type `rnet` with these subnets.
pub fn rnet(name: &str, subnets: &[&str]) -> Value {
    json!({"cniVersion": "1.1.0", "name": name, "type": "rnet", "ipam": {"ranges": ranges(subnets)}})
}

/// The configuration of a network of type `bridge` on the bridge `br0` with host-local and these subnets.
pub fn bridge(name: &str, subnets: &[&str]) -> Value {
    json!({
        "cniVersion": "1.1.0", "name": name, "type": "bridge", "bridge": "br0",
        "isDefaultGateway": true, "ipMasq": true,
        "ipam": {"type": "host-local", "ranges": ranges(subnets)},
    })
}

/// One range set for each subnet.
pub fn ranges(subnets: &[&str]) -> Value {
    subnets.iter().map(|subnet| json!([{"subnet": subnet}])).collect()
}

/// `config` with the members of `more` over its own.
pub fn with(config: &Value, more: Value) -> Value {
    let mut whole = config.clone();
    for (key, value) in more.as_object().unwrap() {
        whole[key] = value.clone();
    }
    whole
}

/// `config` with published ports.
pub fn publishing(config: &Value, ports: &[Published]) -> Value {
    with(config, json!({"runtimeConfig": {"portMappings": mappings(ports)}}))
}

/// Ports as `portMappings` has them.
pub fn mappings(ports: &[Published]) -> Value {
    let mapping = |(host, from, to, protocol): &Published| json!({"hostIP": host, "hostPort": from, "containerPort": to, "protocol": protocol});
    ports.iter().map(mapping).collect()
}

/// What a plugin of a list gets on its standard input.
pub fn config_of(list: &Value, plugin: &Value, previous: Option<&Value>) -> Value {
    let mut config = with(plugin, json!({"name": list["name"], "cniVersion": list["cniVersion"]}));
    if let Some(previous) = previous {
        config["prevResult"] = previous.clone();
    }
    config
}
