//! What keeps the traffic of networks from passing the host's firewalls, told to a person with the line to type.

use engine::Host;
use engine::probe::{self, Told};
use serde_json::{Value, json};
use store::Network;

use crate::definitions;
use crate::report::Style;
use crate::rights;

/// Of all networks that are there; nothing where it cannot be found out.
pub fn known(host: &mut Host) -> Vec<Told> {
    if rights::require().is_err() {
        return Vec::new();
    }
    probe::look(host).unwrap_or_default()
}

/// The same, found out now.
pub fn found(host: &mut Host) -> Vec<Told> {
    probe::again(host).unwrap_or_default()
}

/// Warns of what concerns these networks.
pub fn warn(told: &[Told], networks: &[&str], style: Style) {
    let mut hinted: Vec<&String> = Vec::new();
    for told in told.iter().filter(|told| networks.contains(&told.network.as_str())) {
        style.warn(&told.text);
        for hint in &told.hints {
            // One line may be for several.
            if !hinted.contains(&hint) {
                style.hint(hint);
                hinted.push(hint);
            }
        }
    }
}

/// Warns of what would stop the traffic of a network that was just defined.
pub fn warn_of_new(host: &mut Host, network: &definitions::Network, style: Style) {
    let (Some(bridge), Some(plugin)) = (network.bridge(), network.plugin_types().first().copied()) else {
        return;
    };
    let gateways = network
        .subnets
        .iter()
        .filter_map(|subnet| ipnetwork::IpNetwork::new(subnet.gateway, subnet.subnet.prefix()).ok());
    let network = Network {
        name: network.name.clone(),
        plugin: plugin.into(),
        bridge,
        subnets: network.subnets.iter().map(|subnet| subnet.subnet).collect(),
        gateways: gateways.collect(),
        ..Network::default()
    };
    let told = probe::of_new(host, &network).unwrap_or_default();
    warn(&told, &[&network.name], style);
}

/// As data.
pub fn json(told: &[Told]) -> Value {
    told.iter().map(|told| json!({"network": told.network, "text": told.text, "hints": told.hints})).collect()
}
