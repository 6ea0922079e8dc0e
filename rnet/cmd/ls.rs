//! `rnet ls`: the networks.

use serde_json::{Value, json};

use crate::containers::Container;
use crate::definitions::Network;
use crate::report::{Style, print, print_json};
use crate::state::{Kernel, Links, State};
use crate::subnets::{self, Owner, Taken};
use crate::table;
use crate::told;
use crate::view::{View, users_of};

/// What can be given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print only names
    #[arg(short, long)]
    pub quiet: bool,
    /// Also show every other subnet in use on this host, with its owner
    #[arg(short, long)]
    pub all: bool,
}

const HEADER: [&str; 7] = ["NAME", "DRIVER", "SUBNET", "GATEWAY", "BRIDGE", "ENDPOINTS", "STATE"];

/// Lists the networks.
pub fn run(args: &Args, style: Style) -> anyhow::Result<u8> {
    let mut view = View::open("ls")?;
    let links = Links::ask();
    let records = view.records()?;
    let containers = view.containers_of(&records)?;
    let networks = view.networks(&containers, style)?;
    if args.quiet {
        return super::print_names(networks.iter().map(|network| network.name.as_str()), style);
    }
    let kernel = view.kernel(links, &networks, &containers, &records)?;
    view.faults()?.iter().for_each(|fault| style.warn(fault));
    let names: Vec<&str> = networks.iter().map(|network| network.name.as_str()).collect();
    told::warn(&told::known(&mut view.host), &names, style);
    let lines = networks.iter().map(|network| {
        let line = Line::of(network, &containers, &kernel);
        Line { state: line.state.map(|state| with_conflict(state, network, &networks)), ..line }
    });
    let others = if args.all { others(view.taken()?, &networks) } else { Vec::new() };
    let lines: Vec<Line> = lines.chain(others).collect();
    if style.json {
        print_json(&lines.iter().map(Line::json).collect())?;
    } else {
        print(&table::render(&HEADER, &lines.iter().map(Line::row).collect::<Vec<_>>()))?;
    }
    let repairable =
        networks.iter().filter(|network| kernel.is_repairable(network, &users_of(network, &containers)));
    let repairable: Vec<&str> = repairable.map(|network| network.name.as_str()).collect();
    if !repairable.is_empty() {
        style.hint(format_args!("rnet repair {}", repairable.join(" ")));
    }
    Ok(0)
}

/// Two networks with one subnet on different bridges do not work at once, and the second is refused at its first container.
fn with_conflict(state: State, network: &Network, networks: &[Network]) -> State {
    if !matches!(state, State::Ok | State::Idle) {
        return state;
    }
    let other =
        networks.iter().find(|other| other.bridge() != network.bridge() && shares_subnet(network, other));
    other.map_or(state, |other| {
        State::Degraded(format!(
            "network {} has the same subnet, on bridge {}",
            other.name,
            other.bridge().unwrap_or_default()
        ))
    })
}

fn shares_subnet(one: &Network, other: &Network) -> bool {
    if one.bridge().is_none() || other.bridge().is_none() {
        return false;
    }
    let all = |network: &Network| network.subnets.iter().map(|subnet| subnet.subnet).collect::<Vec<_>>();
    let (one, other) = (all(one), all(other));
    one.iter().any(|one| other.iter().any(|other| subnets::overlap(*one, *other)))
}

/// One line of the table.
struct Line {
    name: String,
    /// None for what is no network.
    id: Option<String>,
    driver: String,
    subnets: Vec<String>,
    gateways: Vec<String>,
    bridge: Option<String>,
    /// None for what is no network.
    endpoints: Option<usize>,
    state: Option<State>,
}

impl Line {
    fn of(network: &Network, containers: &[Container], kernel: &Kernel) -> Self {
        let users = users_of(network, containers);
        Self {
            name: network.name.clone(),
            id: Some(network.id()),
            driver: network.driver().to_owned(),
            subnets: network.subnets.iter().map(|subnet| subnet.subnet.to_string()).collect(),
            gateways: network.subnets.iter().map(|subnet| subnet.gateway.to_string()).collect(),
            bridge: network.bridge(),
            endpoints: Some(users.len()),
            state: Some(kernel.state(network, &users)),
        }
    }

    fn other(taken: Taken) -> Self {
        let (name, driver, bridge) = match taken.owner {
            Owner::Network(name) => (name, "cni", None),
            Owner::Podman(name) => (name, "podman", None),
            Owner::Route { device } => (String::new(), "route", Some(device)),
            Owner::Link(device) => (String::new(), "link", Some(device)),
            Owner::Gateway { device } => (String::new(), "gateway", Some(device)),
            Owner::NameServer { .. } => (String::new(), "name server", None),
        };
        let subnets = vec![taken.subnet.to_string()];
        Self {
            name,
            id: None,
            driver: driver.into(),
            subnets,
            gateways: Vec::new(),
            bridge,
            endpoints: None,
            state: None,
        }
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.driver.clone(),
            self.subnets.join(","),
            self.gateways.join(","),
            self.bridge.clone().unwrap_or_default(),
            self.endpoints.map(|number| number.to_string()).unwrap_or_default(),
            self.state.as_ref().map(State::to_string).unwrap_or_default(),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "id": self.id,
            "driver": self.driver,
            "subnets": self.subnets,
            "gateways": self.gateways,
            "bridge": self.bridge,
            "endpoints": self.endpoints,
            "state": self.state.as_ref().map(State::word),
            "reason": self.state.as_ref().and_then(State::reason),
        })
    }
}

/// What else is in use: not the networks in the list, nor the routes over their bridges.
fn others(taken: Vec<Taken>, networks: &[Network]) -> Vec<Line> {
    let bridges: Vec<String> = networks.iter().filter_map(Network::bridge).collect();
    let is_other = |taken: &Taken| match &taken.owner {
        Owner::Network(_) => false,
        Owner::Podman(_) | Owner::NameServer { .. } => true,
        Owner::Route { device } | Owner::Link(device) | Owner::Gateway { device } => {
            !bridges.contains(device)
        }
    };
    taken.into_iter().filter(is_other).map(Line::other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definitions::default_network;

    #[test]
    fn a_line_shows_what_is_known_and_leaves_the_rest_empty() {
        let network = default_network("172.18.0.0/16".parse().unwrap()).unwrap();
        let route = |subnet: &str, device: &str| Taken {
            subnet: subnet.parse().unwrap(),
            owner: Owner::Link(device.into()),
        };
        let taken = vec![route("172.18.0.0/16", "rnet0"), route("10.0.0.0/24", "eth1")];

        let others = others(taken, std::slice::from_ref(&network));
        let own = Line::of(&network, &[], &Kernel::default());
        let lines: Vec<Line> = std::iter::once(own).chain(others).collect();

        let rows: Vec<_> = lines.iter().map(|line| line.row().join("|")).collect();
        assert_eq!(
            rows,
            ["bridge|bridge|172.18.0.0/16|172.18.0.1|rnet0|0|idle", "|link|10.0.0.0/24||eth1||"]
        );
    }
}
