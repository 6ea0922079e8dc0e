//! What a plugin can fail of, and the one place that gives each failure its CNI code.

use std::path::PathBuf;

use cni::code;

use crate::conditions::{Dialect, Grammar};

/// Codes of our own (CNI leaves 100 and above to plugins). Documented in docs/errors.md, frozen by a test.
pub mod own {
    /// No free address is left in a range.
    pub const RANGE_EXHAUSTED: u32 = 100;
    /// The requested address belongs to another container, or the given one to another machine on the bridge.
    pub const ADDRESS_TAKEN: u32 = 101;
    /// The host port belongs to another container.
    pub const PORT_TAKEN: u32 = 102;
    /// The container is on this network already.
    pub const ALREADY_ATTACHED: u32 = 103;
    /// The container has an interface of that name that is not ours.
    pub const INTERFACE_TAKEN: u32 = 104;
    /// The kernel allows 1023 ports a bridge.
    pub const BRIDGE_FULL: u32 = 105;
    /// The bridge's name or address is in use for something else.
    pub const BRIDGE_CONFLICT: u32 = 106;
    /// CHECK found that something is missing or changed.
    pub const CHECK_FAILED: u32 = 107;
    /// DEL or an undo could not remove everything; the message lists what is left.
    pub const LEFT_BEHIND: u32 = 108;
    /// The kernel refused a change of links, addresses, routes or sysctls.
    pub const KERNEL_REFUSED: u32 = 109;
    /// The kernel refused a change of the ruleset.
    pub const RULESET_REFUSED: u32 = 110;
    /// Names cannot be served: the name server does not start, or does not answer.
    pub const NAMES: u32 = 111;
}

/// A failure of a plugin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A fault that already has its CNI form: a delegate's, or one of the specification's own.
    #[error("{0}")]
    Cni(#[from] cni::Error),
    /// The engine's.
    #[error(transparent)]
    Engine(engine::Error),
    /// host-local's `resolvConf` cannot be read.
    #[error("open {}: {reason}", path.display())]
    ResolvConf {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A key of the configuration that this version knows and does not carry out.
    #[error("{key} = {value} is not supported: {why}")]
    Unsupported {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// The reason, and what to do instead.
        why: &'static str,
    },
    /// A word of portmap's conditions that is none of rnet's matches.
    #[error("{key}: {word:?} is not understood here; what may be written: {grammar}")]
    Condition {
        /// `conditionsV4` or `conditionsV6`.
        key: &'static str,
        /// The word.
        word: String,
        /// What may be written.
        grammar: Grammar,
    },
    /// A fault of the plugin's own configuration, in upstream's words.
    #[error("{0}")]
    Config(#[from] Fault),
    /// What the reference plugins made lies where rnet changes nothing.
    #[error(
        "the reference plugins' chain {chain} for container {container} is in table nat of {program}, which rnet does not \
         change; the container's address stays taken until the chain is gone; hint: {program}-save -t nat | grep -v {chain} | \
         {program}-restore",
        program = netlink::legacy_name(*.v6)
    )]
    LegacyRules {
        /// Of ip6tables.
        v6: bool,
        /// The chain.
        chain: String,
        /// Whose it is.
        container: String,
    },
    /// CHECK without the result of ADD.
    #[error("Required prevResult missing")]
    NoPrevResult,
    /// lo is down.
    #[error("loopback interface is down")]
    LoopbackDown,
    /// lo has an address that no loopback has.
    #[error("loopback interface found with non-loopback address {0:?}")]
    LoopbackAddress(String),
}

/// Faults of a plugin's configuration. The texts are upstream's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// hairpinMode and promiscMode at once.
    #[error("cannot set hairpin mode and promiscuous mode at the same time")]
    HairpinAndPromisc,
    /// A VLAN id out of range.
    #[error("invalid VLAN ID {0} (must be between 0 and 4094)")]
    Vlan(i64),
    /// Addresses for an interface that stays down.
    #[error("cannot use IPAM when DisableContainerInterface flag is set")]
    IpamWithoutInterface,
    /// An unknown backend for masquerading.
    #[error("unknown ipmasq backend {0:?}")]
    MasqueradeBackend(String),
    /// An unknown portmap backend.
    #[error("unrecognized backend {0:?}")]
    PortmapBackend(String),
    /// Keys that only the other backend of the reference plugin understands.
    #[error("{backend} backend was requested but configuration contains {other}-specific options [{}]", keys.join(" "))]
    OtherBackend {
        /// The backend that was asked for.
        backend: Dialect,
        /// The one that the keys are for.
        other: Dialect,
        /// The keys.
        keys: Vec<&'static str>,
    },
    /// portmap without a plugin before it.
    #[error("must be called as chained plugin")]
    NotChained,
    /// A container port out of range.
    #[error("Invalid container port number: {0}")]
    ContainerPort(i64),
    /// A host port out of range.
    #[error("Invalid host port number: {0}")]
    HostPort(i64),
    /// A protocol other than tcp, udp and sctp.
    #[error("Invalid protocol: {0:?} (tcp, udp and sctp are known)")]
    Protocol(String),
    /// A host address that is none.
    #[error("Invalid host IP: {0:?}")]
    HostAddress(String),
    /// A MAC address that is none.
    #[error("invalid args {0} for MAC addr: expected six pairs of hex digits")]
    Mac(String),
    /// markMasqBit out of range.
    #[error("MasqMarkBit must be between 0 and 31")]
    MarkBit,
    /// Both ways to choose a mark chain.
    #[error("Cannot specify externalSetMarkChain and markMasqBit")]
    MarkChainAndBit,
    /// The bridge's name does not fit the kernel.
    #[error("bridge name {0:?} is not an interface name: 1 to 15 characters, no blank, no / or :")]
    BridgeName(String),
    /// No subnet and no IPAM plugin.
    #[error("network {0:?} has no ipam section with ranges: rnet create writes one")]
    NoRanges(String),
    /// A plugin of rnet's that leases nothing, as IPAM plugin.
    #[error(
        "ipam.type {0:?} is not an IPAM plugin: use host-local, or another program in CNI_PATH that leases addresses"
    )]
    NotIpam(String),
    /// More range sets than a result of that version can tell of.
    #[error("CNI version {} does not support more than 1 address per family", .0.as_str())]
    OneAddressPerFamily(cni::Version),
    /// An alias that nobody could ask for.
    #[error(
        "alias {alias:?} on network {network:?} is not a name: expected parts of 1 to 63 letters, digits, - and _, separated by dots, and not \"localhost\""
    )]
    Alias {
        /// The alias.
        alias: String,
        /// The network.
        network: String,
    },
    /// A hostname that nobody could ask for.
    #[error(
        "hostname {0:?} is not a name: expected parts of 1 to 63 letters, digits, - and _, separated by dots"
    )]
    Hostname(String),
    /// A domain that nobody could ask for.
    #[error(
        "domain {0:?} is not a name: expected parts of 1 to 63 letters, digits, - and _, separated by dots"
    )]
    Domain(String),
    /// A name server that is no address.
    #[error("name server {0:?} is not an IP address")]
    Server(String),
    /// dnsname after a plugin that made no bridge with an address.
    #[error(
        "the first interface of prevResult, {0:?}, is not a bridge of this host: dnsname must follow a plugin that makes a bridge"
    )]
    NoBridge(String),
    /// A fault in `runtimeConfig.portMappings`, as portmap reports it.
    #[error("failed to parse config: {0}")]
    Portmap(Box<Fault>),
}

impl From<engine::Error> for Error {
    fn from(error: engine::Error) -> Self {
        match error {
            engine::Error::Caller { error, is_busy, is_second } => match error.downcast() {
                Ok(own) => *own,
                Err(error) => Self::Engine(engine::Error::Caller { error, is_busy, is_second }),
            },
            other => Self::Engine(other),
        }
    }
}

/// What fails in something that was handed to the engine.
impl From<Error> for engine::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Engine(error) => error,
            own => {
                let is = |code| own.code() == code;
                let (is_busy, is_second) = (is(code::TRY_AGAIN_LATER), is(own::ALREADY_ATTACHED));
                engine::Error::Caller { error: Box::new(own), is_busy, is_second }
            }
        }
    }
}

/// What is no error of a plugin by itself is one of the engine's.
macro_rules! by_way_of_the_engine {
    ($($error:ty),*) => {
        $(impl From<$error> for Error {
            fn from(error: $error) -> Self {
                Self::Engine(error.into())
            }
        })*
    };
}

by_way_of_the_engine!(netlink::Error, nft::Error, ipam::Error, store::Error, engine::Finding);

impl From<Error> for cni::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Cni(error) => error,
            other => cni::Error { code: other.code(), msg: other.to_string(), details: other.details() },
        }
    }
}

impl Error {
    fn code(&self) -> u32 {
        match self {
            Error::Cni(error) => error.code,
            Error::Engine(error) => engine_code(error),
            Error::ResolvConf { .. } | Error::Config(_) => code::INVALID_NETWORK_CONFIG,
            Error::Unsupported { .. } | Error::Condition { .. } => code::UNSUPPORTED_FIELD,
            Error::LegacyRules { .. } => own::LEFT_BEHIND,
            Error::NoPrevResult | Error::LoopbackDown | Error::LoopbackAddress(_) => own::CHECK_FAILED,
        }
    }

    fn details(&self) -> String {
        use engine::Error as E;
        let Error::Engine(error) = self else { return String::new() };
        match error.first() {
            E::AlreadyAttached { who, network, ifname, addresses, .. } => {
                format!("{who:?} is already on {network:?} as {ifname} ({addresses}); DEL it first")
            }
            E::Ipam(ipam::Error::Refused { refusal, .. }) => refusal.details(),
            E::Netlink(netlink::Error::Missing { module, .. }) => loading(module),
            E::Nft(nft::Error::Missing(feature)) => loading(&feature.module),
            E::InterfaceTaken { ifname, .. } => {
                format!("the container has an interface {ifname} that rnet did not make")
            }
            _ => String::new(),
        }
    }
}

fn engine_code(error: &engine::Error) -> u32 {
    use engine::Error as E;
    match error.first() {
        E::Netlink(error) => netlink_code(error),
        E::Nft(error) => nft_code(error),
        E::Ipam(error) => ipam_code(error),
        E::Store(store::Error::Busy { .. }) | E::StillTentative { .. } => code::TRY_AGAIN_LATER,
        E::Store(_) | E::TooFewDescriptors { .. } => code::IO_FAILURE,
        E::AlreadyAttached { .. } => own::ALREADY_ATTACHED,
        E::InterfaceTaken { .. } | E::LinkNamesTaken { .. } => own::INTERFACE_TAKEN,
        E::NotABridge { .. } | E::BridgeAddress { .. } | E::SubnetTaken { .. } => own::BRIDGE_CONFLICT,
        E::ForwardingHarms { .. } | E::NoIpv6 { .. } | E::OldKernel { .. } | E::KernelWithoutIpv6 { .. } => {
            code::NOT_AVAILABLE
        }
        E::PortTaken { .. } => own::PORT_TAKEN,
        E::DuplicateAddress { .. } | E::AddressTaken { .. } | E::MacTaken { .. } => own::ADDRESS_TAKEN,
        E::PortTwice { .. }
        | E::HostAddressNotLocal { .. }
        | E::HostAddressUnusable { .. }
        | E::NoGateway { .. }
        | E::NoAddress => code::INVALID_NETWORK_CONFIG,
        E::Names(_) | E::NameServer { .. } | E::NameServerSilent { .. } => own::NAMES,
        E::Check(_) => own::CHECK_FAILED,
        E::NotReady { .. } => code::NOT_AVAILABLE,
        E::Impaired { .. } | E::Stopped { .. } => code::LIMITED_CONNECTIVITY,
        _ => code::INTERNAL,
    }
}

/// What to do where no module can be loaded any more.
fn loading(module: &str) -> String {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/modules_disabled").unwrap_or_default();
    if disabled.trim() != "1" {
        return String::new();
    }
    let lines = module.replace(' ', "\\n");
    format!(
        "kernel.modules_disabled is 1: no module can be loaded before the next boot; \
         printf '{lines}\\n' > /etc/modules-load.d/rnet.conf, then reboot"
    )
}

fn netlink_code(error: &netlink::Error) -> u32 {
    use netlink::Error as E;
    match error {
        E::OpenNetns { .. } | E::NotNamespace { .. } | E::NotNetwork { .. } | E::EnterNetns { .. } => {
            code::INVALID_NETNS
        }
        E::BridgeFull { .. } => own::BRIDGE_FULL,
        E::Missing { .. } => code::NOT_AVAILABLE,
        _ => own::KERNEL_REFUSED,
    }
}

fn nft_code(error: &nft::Error) -> u32 {
    match error {
        nft::Error::Taken { .. } => own::PORT_TAKEN,
        nft::Error::Missing(_) => code::NOT_AVAILABLE,
        _ => own::RULESET_REFUSED,
    }
}

fn ipam_code(error: &ipam::Error) -> u32 {
    use ipam::{Error as E, Refusal};
    match error {
        E::MissingIpam
        | E::NoRanges
        | E::InvalidSet { .. }
        | E::SetsOverlap { .. }
        | E::InvalidAddress { .. } => code::INVALID_NETWORK_CONFIG,
        E::Refused { refusal: Refusal::Exhausted { .. }, .. } => own::RANGE_EXHAUSTED,
        E::Refused { refusal: Refusal::Duplicate { .. }, .. } => own::ALREADY_ATTACHED,
        E::Refused { .. } | E::Unfulfilled { .. } => own::ADDRESS_TAKEN,
        E::Busy { .. } | E::Unsettled { .. } => code::TRY_AGAIN_LATER,
        E::NotPlain { .. } | E::Incomplete { .. } => own::LEFT_BEHIND,
        E::Unseen { .. } => own::KERNEL_REFUSED,
        E::Index { .. } | E::File { .. } | E::Store(_) => code::IO_FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runtimes may act on them: a change of one is a change of the protocol.
    #[test]
    fn our_codes_are_frozen_and_documented() {
        let codes = [
            own::RANGE_EXHAUSTED,
            own::ADDRESS_TAKEN,
            own::PORT_TAKEN,
            own::ALREADY_ATTACHED,
            own::INTERFACE_TAKEN,
            own::BRIDGE_FULL,
            own::BRIDGE_CONFLICT,
            own::CHECK_FAILED,
            own::LEFT_BEHIND,
            own::KERNEL_REFUSED,
            own::RULESET_REFUSED,
            own::NAMES,
        ];
        let documented = include_str!("../../docs/errors.md");

        assert!(codes.into_iter().eq(100..=111));
        assert!(codes.iter().all(|code| documented.contains(&format!("| {code} |"))));
    }

    #[test]
    fn a_failure_has_the_code_of_the_first_thing_that_failed() {
        use engine::Error as E;
        let first = E::PortTaken { host: "0.0.0.0".into(), port: 80, holder: "web".into(), key: None };
        let both = E::all(vec![first, E::NoAddress]).unwrap_err();

        assert_eq!(cni::Error::from(Error::from(both)).code, own::PORT_TAKEN);
    }
}
