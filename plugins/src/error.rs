//! What a plugin can fail of, and the one place that gives each failure its CNI code.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use cni::code;

use crate::conditions::{Dialect, Grammar};
use crate::port::Wrong;

/// Codes of our own (CNI leaves 100 and above to plugins). Documented in docs/errors.md, frozen by a test.
pub mod own {
    /// No free address is left in a range.
    pub const RANGE_EXHAUSTED: u32 = 100;
    /// The requested address belongs to another container, or the given one to somebody else on the bridge.
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
    /// Links, addresses, namespaces.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// The ruleset.
    #[error(transparent)]
    Nft(#[from] nft::Error),
    /// Leases.
    #[error(transparent)]
    Ipam(#[from] ipam::Error),
    /// The name server was told something and did not do it.
    #[error(transparent)]
    Names(#[from] dns::client::Error),
    /// There is no name server, and none can be started.
    #[error("cannot start the name server: {said}")]
    NameServer {
        /// Its own words, or the kernel's.
        said: String,
    },
    /// There is a name server, and it does not answer.
    #[error(
        "the name server (process {pid}) does not answer within {} s: it was stopped, hangs, or this machine is \
         overloaded; hint: kill -KILL {pid} (another takes its place at once)",
        waited.as_secs()
    )]
    NameServerSilent {
        /// The process that keeps its sockets.
        pid: u32,
        /// How long was waited.
        waited: Duration,
    },
    /// Records and locks.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A second ADD for one (container, interface) on one network.
    #[error("container veth name ({ifname:?}) peer provided ({link:?}) already exists")]
    AlreadyAttached {
        /// CNI_IFNAME.
        ifname: String,
        /// The host end of the first attachment.
        link: String,
        /// The container, in a person's words.
        who: String,
        /// The network.
        network: String,
        /// The first attachment's addresses.
        addresses: String,
    },
    /// The container has an interface of the wanted name from elsewhere.
    #[error("container veth name ({ifname:?}) peer provided ({link:?}) already exists")]
    InterfaceTaken {
        /// CNI_IFNAME.
        ifname: String,
        /// The host end that was to be made.
        link: String,
    },
    /// Every name for the host end is taken by links of others.
    #[error("failed to make veth pair: {} are all taken by links that are not rnet's", names.join(", "))]
    LinkNamesTaken {
        /// The names tried.
        names: Vec<String>,
    },
    /// The configured bridge name belongs to another kind of link.
    #[error("failed to create bridge {name:?}: {name:?} already exists but is not a bridge")]
    NotABridge {
        /// The name.
        name: String,
    },
    /// The bridge has another address, and `forceAddress` was not given.
    #[error("failed to set bridge addr: {bridge:?} already has an IP address different from {wanted}")]
    BridgeAddress {
        /// The bridge.
        bridge: String,
        /// The gateway address it should have.
        wanted: String,
    },
    /// An IPv6 network on a host, or a bridge, that has IPv6 turned off.
    #[error(
        "bridge {bridge:?} cannot have {gateway}: IPv6 is off (net.ipv6.conf.{of}.disable_ipv6); \
         hint: sysctl -w net.ipv6.conf.{of}.disable_ipv6=0"
    )]
    NoIpv6 {
        /// The bridge.
        bridge: String,
        /// The address it should have.
        gateway: String,
        /// Whose setting it is: the bridge's or `default`.
        of: String,
    },
    /// STATUS: a kernel on which nobody has seen rnet work.
    #[error("this kernel is {found}: rnet needs Linux {}.{} or a later one", oldest.0, oldest.1)]
    OldKernel {
        /// Its release.
        found: String,
        /// Major and minor number of the oldest that works.
        oldest: (u32, u32),
    },
    /// An IPv6 network on a kernel without IPv6.
    #[error(
        "bridge {bridge:?} cannot have {gateway}: this kernel has no IPv6 (booted with ipv6.disable=1, or built without \
         CONFIG_IPV6); use a network without IPv6 subnets"
    )]
    KernelWithoutIpv6 {
        /// The bridge.
        bridge: String,
        /// The address it should have.
        gateway: String,
    },
    /// IPv6 forwarding would make the host forget its own router advertisements.
    #[error(
        "IPv6 forwarding would make {link:?} ignore the router advertisements that it lives by; \
         hint: sysctl -w net.ipv6.conf.{link}.accept_ra=2"
    )]
    ForwardingHarms {
        /// The interface that takes its configuration from router advertisements.
        link: String,
    },
    /// The host port is published already.
    #[error("Bind for {host}:{port} failed: port is already allocated, by {holder}")]
    PortTaken {
        /// The host address, `0.0.0.0` or `[::]` for any.
        host: String,
        /// The host port.
        port: u16,
        /// Who holds it: `"web" on "mynet"`.
        holder: String,
        /// The holder's attachment, where the kernel's element names it.
        key: Option<String>,
    },
    /// Another network has the subnet, on another bridge.
    #[error(
        "network {network:?} cannot have a gateway in {subnet}: network {other:?} has that subnet on bridge {bridge:?}; \
         hint: give one of them another subnet"
    )]
    SubnetTaken {
        /// The network.
        network: String,
        /// The subnet that they share.
        subnet: String,
        /// The other network.
        other: String,
        /// Its bridge.
        bridge: String,
    },
    /// Another network leased the address too, and its container lives.
    #[error(
        "address {ip} of network {network:?} is in use: {holder} has it; hint: give one of the networks another subnet"
    )]
    AddressTaken {
        /// The address.
        ip: IpAddr,
        /// The network that leased it.
        network: String,
        /// Who has it: `"web" on "mynet"`.
        holder: String,
    },
    /// The MAC that was asked for is on the bridge already, or every one that could be derived.
    #[error(
        "MAC address {mac} is on bridge {bridge:?} already: {holder} has it; hint: ask for another, or for none"
    )]
    MacTaken {
        /// The MAC.
        mac: String,
        /// The bridge.
        bridge: String,
        /// Who has it: `"web" on "mynet"`.
        holder: String,
    },
    /// The host address of a published port does not belong to this host.
    #[error("cannot publish on {host}: it is not an address of this host")]
    HostAddressNotLocal {
        /// The address asked for.
        host: IpAddr,
    },
    /// A published port that the kernel could never answer.
    #[error(
        "cannot publish on [{host}]: the kernel does not translate loopback and link-local IPv6 addresses; use [::] or an address of an interface"
    )]
    HostAddressUnusable {
        /// The address asked for.
        host: IpAddr,
    },
    /// Duplicate detection (`enabledad`) found that an address is in use.
    #[error(
        "link {ifname} has address {address} in DADFAILED state: somebody else on bridge {bridge:?} has it; \
         hint: ip -6 neighbour show {address}"
    )]
    DuplicateAddress {
        /// The container's interface.
        ifname: String,
        /// The address.
        address: IpAddr,
        /// The bridge.
        bridge: String,
    },
    /// Duplicate detection (`enabledad`) did not end.
    #[error(
        "link {ifname} still has tentative address {address} after {} seconds; \
         hint: net.ipv6.conf.{ifname}.dad_transmits says how often it is asked for, a second apart",
        patience.as_secs()
    )]
    StillTentative {
        /// The container's interface.
        ifname: String,
        /// The address.
        address: IpAddr,
        /// How long was waited.
        patience: Duration,
    },
    /// The IPAM plugin gave no address.
    #[error("IPAM plugin returned missing IP config")]
    NoAddress,
    /// host-local's `resolvConf` cannot be read.
    #[error("open {}: {reason}", path.display())]
    ResolvConf {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// CHECK found something missing or changed.
    #[error("{0}")]
    Check(#[from] Finding),
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
    /// STATUS: an ADD would not work now.
    #[error("{what}")]
    NotReady {
        /// What is missing.
        what: String,
    },
    /// STATUS: an ADD would not work now, and those who are attached have lost what no ADD can restore.
    #[error("{what}; what is attached already cannot be restored or removed either")]
    Impaired {
        /// What is missing.
        what: String,
    },
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
    /// STATUS: an ADD would work, but other firewalls of the host stop what containers send.
    #[error("{text}; hint: {hint}")]
    Stopped {
        /// What is stopped, and by whom.
        text: String,
        /// What to type.
        hint: String,
    },
    /// Something failed that upstream has a sentence of its own for.
    #[error("{what}: {error}")]
    Of {
        /// What was being done, in upstream's words.
        what: String,
        /// What failed, which gives the code.
        error: Box<Error>,
    },
    /// What an ADD begins it must be able to undo.
    #[error(
        "fewer than {needed} files more can be opened by this process, so nothing was begun; \
         hint: ulimit -n {}",
        needed + 40
    )]
    TooFewDescriptors {
        /// How many are needed.
        needed: i32,
    },
    /// Several things went wrong while removing; everything else was removed.
    #[error("{first}; and then: {}", rest.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several {
        /// The first failure, which gives the code.
        first: Box<Error>,
        /// The others.
        rest: Vec<Error>,
    },
    /// Another firewall of the host cannot be told to let our traffic pass.
    #[error("{0}")]
    Interop(String),
    /// A failpoint of a test build.
    #[error("failpoint {step}")]
    Failpoint {
        /// The step.
        step: &'static str,
    },
}

/// When the ruleset is restored: every ADD that adds to it looks at it.
const RESTORED: &str = "the next container that is added to a network of type `rnet`, or with a published port, restores it \
                        for all; so do DEL and ADD of this one";

/// What makes a bridge whole again.
fn mends(network: &str) -> String {
    format!("hint: rnet repair {network}; so does the next container that is added to it")
}

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

/// What CHECK looks for. The texts are upstream's where upstream has one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// CHECK without the result of ADD.
    #[error("Required prevResult missing")]
    NoPrevResult,
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
    #[error("Bridge interface {bridge} is down; {}", mends(network))]
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
    #[error(
        "route_localnet is off on {bridge}, so published ports do not answer on 127.0.0.1; hint: rnet repair {network}"
    )]
    NoLoopback {
        /// The bridge.
        bridge: String,
        /// The network.
        network: String,
    },
    /// What keeps containers from the host's loopback if the ruleset is flushed is gone.
    #[error(
        "the ingress filter of {bridge} that keeps containers from 127.0.0.1 of this host is missing; hint: rnet repair {network}"
    )]
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
    #[error("gateway address {gateway} is missing on bridge {bridge}; {}", mends(network))]
    NoGateway {
        /// The bridge.
        bridge: String,
        /// The network.
        network: String,
        /// The address.
        gateway: String,
    },
    /// The subnet's gateway lies outside it, and the route by which the host reaches the subnet is gone.
    #[error("the route to {subnet} by bridge {bridge} is missing; the next ADD restores it")]
    NoSubnetRoute {
        /// The bridge.
        bridge: String,
        /// The subnet.
        subnet: String,
    },
    /// The host end is gone.
    #[error("CNI veth created for bridge {0} was not found")]
    NoVeth(String),
    /// The host end is not as ADD left it.
    #[error("{}; hint: rnet repair {network}", port(link, bridge, wrong))]
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
    /// An element of the ruleset is missing or somebody else's.
    #[error("the ruleset lacks {element}, or has it otherwise; hint: {RESTORED}")]
    NoElement {
        /// The element, in nft's words.
        element: String,
    },
    /// macspoofchk's rules are missing or changed.
    #[error(
        "the rules of macspoofchk for {link} (chain {chain} of table bridge nat, and the jump to it) are missing or \
         changed; hint: DEL and ADD of this container restores them"
    )]
    NoMacCheck {
        /// The host end.
        link: String,
        /// The chain of its rules.
        chain: String,
    },
    /// The constant part of the ruleset was changed.
    #[error("another program changed or flushed rnet's ruleset; hint: {RESTORED}")]
    RulesetChanged,
    /// It is another version's.
    #[error("another version of rnet wrote the ruleset; hint: {RESTORED}")]
    OtherRuleset,
    /// lo is down.
    #[error("loopback interface is down")]
    LoopbackDown,
    /// lo has an address that no loopback has.
    #[error("loopback interface found with non-loopback address {0:?}")]
    LoopbackAddress(String),
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
    /// Two mappings of one call lead from one host port to two ports of the container.
    #[error("Bind for {0}:{1} failed: port is already allocated, by another mapping of this container")]
    PortTwice(String, u16),
    /// A protocol other than tcp, udp and sctp.
    #[error("Invalid protocol: {0:?} (tcp, udp and sctp are known)")]
    Protocol(String),
    /// A host address that is none.
    #[error("Invalid host IP: {0:?}")]
    HostAddress(String),
    /// A MAC address that is none.
    #[error("invalid args {0} for MAC addr: six pairs of hex digits are wanted")]
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
    /// An IPAM plugin that is one of ours and leases nothing.
    #[error(
        "ipam.type {0:?} is no IPAM plugin: host-local is one, and so is any other program in CNI_PATH that leases addresses"
    )]
    NotIpam(String),
    /// More range sets than a result of that version can tell of.
    #[error("CNI version {} does not support more than 1 address per family", .0.as_str())]
    OneAddressPerFamily(cni::Version),
    /// An alias that nobody could ask for.
    #[error(
        "alias {alias:?} on network {network:?} is no name: parts of 1 to 63 letters, digits, - and _ are wanted, with dots between, and not \"localhost\""
    )]
    Alias {
        /// The alias.
        alias: String,
        /// The network.
        network: String,
    },
    /// A hostname that nobody could ask for.
    #[error(
        "hostname {0:?} is no name: parts of 1 to 63 letters, digits, - and _ are wanted, with dots between"
    )]
    Hostname(String),
    /// A domain that nobody could ask for.
    #[error(
        "domain {0:?} is no name: parts of 1 to 63 letters, digits, - and _ are wanted, with dots between"
    )]
    Domain(String),
    /// A name server that is no address.
    #[error("name server {0:?} is not an IP address")]
    Server(String),
    /// dnsname after a plugin that made no bridge with an address.
    #[error(
        "the first interface of prevResult, {0:?}, is no link of this host: dnsname goes behind a plugin that makes a bridge"
    )]
    NoBridge(String),
    /// A fault in `runtimeConfig.portMappings`, as portmap reports it.
    #[error("failed to parse config: {0}")]
    Portmap(Box<Fault>),
}

impl Error {
    /// Joins failures that happened while everything else went on.
    pub fn all(failures: Vec<Error>) -> Result<(), Error> {
        let mut failures = failures.into_iter();
        let Some(first) = failures.next() else { return Ok(()) };
        let rest: Vec<_> = failures.collect();
        if rest.is_empty() { Err(first) } else { Err(Error::Several { first: Box::new(first), rest }) }
    }

    /// What keeps an ADD from working, for STATUS.
    pub fn not_ready(reason: impl ToString) -> Self {
        Self::NotReady { what: reason.to_string() }
    }

    /// For `map_err`: the failure with what was being done before it, in words that callers know.
    pub fn of<E: Into<Self>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |error| Self::Of { what, error: Box::new(error.into()) }
    }

    /// True if something was waited for in vain, a lock mostly: an undo must not wait for it as long again.
    pub(crate) fn is_busy(&self) -> bool {
        self.code() == code::TRY_AGAIN_LATER
    }

    /// True if a symbolic link stands where a folder should be: what is behind it was not opened.
    pub(crate) fn is_about_a_link(&self) -> bool {
        use store::Error::Link;
        matches!(self, Error::Store(Link { .. }) | Error::Ipam(ipam::Error::Store(Link { .. })))
    }

    pub(crate) fn code(&self) -> u32 {
        match self {
            Error::Cni(error) => error.code,
            Error::Netlink(error) => netlink_code(error),
            Error::Nft(error) => nft_code(error),
            Error::Ipam(error) => ipam_code(error),
            Error::Store(store::Error::Busy { .. }) => code::TRY_AGAIN_LATER,
            Error::Store(
                store::Error::File { .. } | store::Error::Garbage { .. } | store::Error::Link { .. },
            ) => code::IO_FAILURE,
            Error::AlreadyAttached { .. } => own::ALREADY_ATTACHED,
            Error::InterfaceTaken { .. } | Error::LinkNamesTaken { .. } => own::INTERFACE_TAKEN,
            Error::NotABridge { .. } | Error::BridgeAddress { .. } | Error::SubnetTaken { .. } => {
                own::BRIDGE_CONFLICT
            }
            Error::ForwardingHarms { .. }
            | Error::NoIpv6 { .. }
            | Error::OldKernel { .. }
            | Error::KernelWithoutIpv6 { .. } => code::NOT_AVAILABLE,
            Error::PortTaken { .. } => own::PORT_TAKEN,
            Error::DuplicateAddress { .. } | Error::AddressTaken { .. } | Error::MacTaken { .. } => {
                own::ADDRESS_TAKEN
            }
            Error::StillTentative { .. } => code::TRY_AGAIN_LATER,
            Error::HostAddressNotLocal { .. } | Error::HostAddressUnusable { .. } => {
                code::INVALID_NETWORK_CONFIG
            }
            Error::TooFewDescriptors { .. } => code::IO_FAILURE,
            Error::NoAddress | Error::ResolvConf { .. } => code::INVALID_NETWORK_CONFIG,
            Error::Names(_) | Error::NameServer { .. } | Error::NameServerSilent { .. } => own::NAMES,
            Error::Check(_) => own::CHECK_FAILED,
            Error::Unsupported { .. } | Error::Condition { .. } => code::UNSUPPORTED_FIELD,
            Error::Config(_) => code::INVALID_NETWORK_CONFIG,
            Error::LegacyRules { .. } => own::LEFT_BEHIND,
            Error::NotReady { .. } => code::NOT_AVAILABLE,
            Error::Impaired { .. } | Error::Stopped { .. } => code::LIMITED_CONNECTIVITY,
            Error::Of { error, .. } => error.code(),
            Error::Several { first, .. } => first.code(),
            Error::Interop(_) | Error::Failpoint { .. } => code::INTERNAL,
        }
    }

    fn details(&self) -> String {
        match self {
            Error::AlreadyAttached { who, network, ifname, addresses, .. } => {
                format!("{who:?} is already on {network:?} as {ifname} ({addresses}); DEL it first")
            }
            Error::Of { error, .. } => error.details(),
            Error::Ipam(ipam::Error::Refused { refusal, .. }) => refusal.details(),
            Error::Netlink(netlink::Error::Missing { module, .. }) => loading(module),
            Error::Nft(nft::Error::Missing(feature)) => loading(&feature.module),
            Error::InterfaceTaken { ifname, .. } => {
                format!("the container has an interface {ifname} that rnet did not make")
            }
            _ => String::new(),
        }
    }
}

impl From<Error> for cni::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Cni(error) => error,
            other => cni::Error { code: other.code(), msg: other.to_string(), details: other.details() },
        }
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

/// A host address as docker prints it.
pub(crate) fn host_text(host: Option<IpAddr>, to: IpAddr) -> String {
    match (host, to) {
        (Some(host), _) => SocketAddr::new(host, 0).to_string().trim_end_matches(":0").to_owned(),
        (None, IpAddr::V4(_)) => "0.0.0.0".into(),
        (None, IpAddr::V6(_)) => "[::]".into(),
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
        let first = Error::PortTaken { host: "0.0.0.0".into(), port: 80, holder: "web".into(), key: None };
        let both = Error::all(vec![first, Error::NoAddress]).unwrap_err();

        assert_eq!(cni::Error::from(both).code, own::PORT_TAKEN);
    }
}
