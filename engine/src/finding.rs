//! What is not as ADD left it: found by CHECK, shown by `rnet ls`, mended by `rnet repair`.

/// What is wrong with a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It is not a port of its bridge.
    Off,
    /// It is down.
    Down,
    /// A flag is not as ADD set it.
    Flag {
        /// The flag, in words of `ip link set … type bridge_slave`.
        flag: &'static str,
        /// What it is.
        found: bool,
    },
    /// Frames to the bridge's group pass its guard.
    Group,
}

/// When the ruleset is restored: every ADD that adds to it looks at it.
const RESTORED: &str = "the next container that is added to a network of type `rnet`, or with a published port, restores it \
                        for all; so do DEL and ADD of this one";

/// What is wrong with a port, beginning with upstream's words where it has any.
fn port(link: &str, bridge: &str, wrong: &Wrong) -> String {
    match wrong {
        Wrong::Off => {
            format!("CNI veth created for bridge {bridge} was not found on it: {link} is not its port")
        }
        Wrong::Down => format!("{link}, the container's port on {bridge}, is down"),
        Wrong::Flag { flag, found } => {
            format!("port flag {flag} of {link} is {found}, configured {}", !found)
        }
        Wrong::Group => {
            format!("port flag group_fwd_mask of {link} was changed, so that its guard has a gap")
        }
    }
}

/// One thing that is not as ADD left it. The texts are upstream's where upstream has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// The result of ADD names another namespace.
    #[error("Sandbox in prevResult {found} doesn't match configured netns: {wanted}")]
    Sandbox {
        /// The namespace in prevResult.
        found: String,
        /// CNI_NETNS.
        wanted: String,
    },
    /// No lease of the container.
    #[error("host-local: Failed to find address added by container {0}")]
    NoLease(String),
    /// No entry for the container's interface in prevResult.
    #[error("Interface name {0} not found")]
    NoInterface(String),
    /// The interface is gone from the container.
    #[error("Cannot find container link {0}")]
    NoContainerLink(String),
    /// The interface is down.
    #[error("container link {0} is down")]
    ContainerLinkDown(String),
    /// Another MAC than ADD gave.
    #[error("Interface {ifname} Mac {found} doesn't match container Mac: {wanted}")]
    Mac {
        /// The interface.
        ifname: String,
        /// What it has.
        found: String,
        /// What ADD gave.
        wanted: String,
    },
    /// An address is gone.
    #[error("Failed to match addr {address} on interface {ifname}")]
    NoContainerAddress {
        /// The address.
        address: String,
        /// The interface.
        ifname: String,
    },
    /// The route that comes with an address is gone.
    #[error("Failed to find Gateway {gateway} for interface {ifname}: no route to {subnet}")]
    NoConnectedRoute {
        /// The address's gateway, `<nil>` if it has none.
        gateway: String,
        /// The interface.
        ifname: String,
        /// Where nothing leads to.
        subnet: String,
    },
    /// A route is gone.
    #[error("Expected Route {0} not found in routing table")]
    NoRoute(String),
    /// The bridge is gone.
    #[error("Bridge interface {0} not found")]
    NoBridge(String),
    /// The bridge is down.
    #[error("Bridge interface {bridge} is down")]
    BridgeDown {
        /// The bridge.
        bridge: String,
        /// The network.
        network: String,
    },
    /// The bridge was configured to be promiscuous.
    #[error("bridge {0} is not promiscuous (promiscMode)")]
    NotPromiscuous(String),
    /// The host does not forward any more.
    #[error(
        "{0} forwarding is off on this host or on its bridge, so containers reach nobody outside their network"
    )]
    NoForwarding(&'static str),
    /// The name server does not answer.
    #[error("names are not served: {0}")]
    Names(String),
    /// 127.0.0.1 does not lead to published ports any more.
    #[error("route_localnet is off on {bridge}, so published ports do not answer on 127.0.0.1")]
    NoLoopback {
        /// The bridge.
        bridge: String,
        /// The network.
        network: String,
    },
    /// What keeps containers from the host's loopback if the ruleset is flushed is gone.
    #[error("the ingress filter of {bridge} that keeps containers from 127.0.0.1 of this host is missing")]
    NoLoopbackGuard {
        /// The bridge.
        bridge: String,
        /// The network.
        network: String,
    },
    /// The bridge has another MAC than ADD saw.
    #[error("Bridge interface {bridge} Mac doesn't match: {found}, wanted {wanted}")]
    BridgeMac {
        /// The bridge.
        bridge: String,
        /// What it has.
        found: String,
        /// What ADD saw.
        wanted: String,
    },
    /// The gateway address is gone from the bridge.
    #[error("gateway address {gateway} is missing on bridge {bridge}")]
    NoGateway {
        /// The bridge.
        bridge: String,
        /// The network.
        network: String,
        /// The address.
        gateway: String,
    },
    /// The subnet's gateway lies outside it, and the route by which the host reaches the subnet is gone.
    #[error("the route to {subnet} by bridge {bridge} is missing")]
    NoSubnetRoute {
        /// The bridge.
        bridge: String,
        /// The subnet.
        subnet: String,
    },
    /// The host end is gone.
    #[error("CNI veth created for bridge {0} was not found")]
    NoVeth(String),
    /// The host end of a container that is on no bridge is gone.
    #[error(
        "the host's end of the container's {0} is missing; hint: DEL and ADD of this container make it again"
    )]
    NoHostEnd(String),
    /// Such a host end is not as ADD left it.
    #[error("{link}, the host's end of the container's interface, {lacks}")]
    HostEnd {
        /// The host end.
        link: String,
        /// What is wrong, as the end of a sentence.
        lacks: String,
        /// The network.
        network: String,
    },
    /// The container's interface is of another kind.
    #[error("Error: Container interface {0} not of type veth/p2p")]
    NotVeth(String),
    /// The host end is not as ADD left it.
    #[error("{}", port(link, bridge, wrong))]
    Port {
        /// The host end.
        link: String,
        /// The bridge.
        bridge: String,
        /// What is wrong.
        wrong: Wrong,
        /// The network.
        network: String,
    },
    /// An element of the ruleset is missing or another owner's.
    #[error("the ruleset lacks {element}, or has it otherwise")]
    NoElement {
        /// The element, in nft's words.
        element: String,
    },
    /// macspoofchk's rules are missing or changed.
    #[error(
        "the rules of macspoofchk for {link} (chain {chain} of table bridge nat, and the jump to it) are missing or \
         changed"
    )]
    NoMacCheck {
        /// The host end.
        link: String,
        /// The chain of its rules.
        chain: String,
    },
    /// The constant part of the ruleset was changed.
    #[error("another program changed or flushed rnet's ruleset")]
    RulesetChanged,
    /// It is another version's.
    #[error("another version of rnet wrote the ruleset")]
    OtherRuleset,
    /// A feature found something changed, and says it in its own words.
    #[error("{0}")]
    Changed(String),
    /// No record: this attachment was never made, or DEL has been here.
    #[error("no record of {ifname} of container {container} on network {network}")]
    NoRecord {
        /// The network.
        network: String,
        /// The container.
        container: String,
        /// The interface.
        ifname: String,
    },
}

impl Finding {
    /// What mends it, as the end of a message: begins with `; ` or is empty.
    pub fn hint(&self) -> String {
        match self {
            Self::BridgeDown { network, .. } | Self::NoGateway { network, .. } => {
                format!("; hint: rnet repair {network}; so does the next container that is added to it")
            }
            Self::NoLoopback { network, .. }
            | Self::NoLoopbackGuard { network, .. }
            | Self::HostEnd { network, .. }
            | Self::Port { network, .. } => format!("; hint: rnet repair {network}"),
            Self::NoSubnetRoute { .. } => "; the next ADD restores it".into(),
            Self::NoElement { .. } | Self::RulesetChanged | Self::OtherRuleset => {
                format!("; hint: {RESTORED}")
            }
            Self::NoMacCheck { .. } => "; hint: DEL and ADD of this container restores them".into(),
            _ => String::new(),
        }
    }
}
