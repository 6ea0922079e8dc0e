//! Why an attachment could not be made, looked at or removed. The errors carry values; what a caller makes of them is the
//! caller's.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::Finding;

/// Why an attachment could not be made, looked at or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
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
    /// Two wishes of one attachment lead from one host port to two ports of the container.
    #[error("Bind for {host}:{port} failed: port is already allocated, by another mapping of this container")]
    PortTwice {
        /// The host address, `0.0.0.0` or `[::]` for any.
        host: String,
        /// The host port.
        port: u16,
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
        "link {ifname} has address {address} in DADFAILED state: another machine or container on bridge {bridge:?} has it; \
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
    /// The IPAM plugin gave an address without the gateway that the container is to have.
    #[error(
        "IPAM gave {address} without a gateway, and a container on network {network} reaches everything by its gateway; \
         hint: name a \"gateway\" in the member ipam"
    )]
    NoGateway {
        /// The address.
        address: String,
        /// The network.
        network: String,
    },
    /// The IPAM plugin gave no address.
    #[error("IPAM plugin returned missing IP config")]
    NoAddress,
    /// CHECK found something missing or changed.
    #[error("{}", with_hint(.0))]
    Check(#[from] Finding),
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
    /// Something that the caller has handed in failed; the caller knows it by its type.
    #[error("{error}")]
    Caller {
        /// Its error.
        error: Box<dyn std::error::Error + Send + Sync>,
        /// It waited for a lock longer than it had patience for.
        is_busy: bool,
        /// The attachment is there already.
        is_second: bool,
    },
}

impl Error {
    /// Joins failures that happened while everything else went on.
    ///
    /// # Errors
    /// There is at least one.
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

    /// True if something was waited for too long, a lock mostly: an undo must not wait for it as long again.
    pub fn is_busy(&self) -> bool {
        use ipam::Error::{Busy, Unsettled};
        match self.first() {
            Error::Caller { is_busy, .. } => *is_busy,
            Error::Store(store::Error::Busy { .. }) | Error::StillTentative { .. } => true,
            error => matches!(error, Error::Ipam(Busy { .. } | Unsettled { .. })),
        }
    }

    /// True if the attachment is there already.
    pub fn is_second(&self) -> bool {
        use ipam::{Error::Refused, Refusal::Duplicate};
        match self.first() {
            Error::Caller { is_second, .. } => *is_second,
            Error::AlreadyAttached { .. } => true,
            error => matches!(error, Error::Ipam(Refused { refusal: Duplicate { .. }, .. })),
        }
    }

    /// What failed first, without what was being done.
    pub fn first(&self) -> &Error {
        match self {
            Error::Of { error, .. } => error.first(),
            Error::Several { first, .. } => first.first(),
            other => other,
        }
    }

    /// True if a symbolic link stands where a folder should be: what is behind it was not opened.
    pub(crate) fn is_about_a_link(&self) -> bool {
        use store::Error::Link;
        matches!(self, Error::Store(Link { .. }) | Error::Ipam(ipam::Error::Store(Link { .. })))
    }
}

fn with_hint(finding: &Finding) -> String {
    format!("{finding}{}", finding.hint())
}

/// A host address as docker prints it.
pub(crate) fn host_text(host: Option<IpAddr>, to: IpAddr) -> String {
    match (host, to) {
        (Some(host), _) => SocketAddr::new(host, 0).to_string().trim_end_matches(":0").to_owned(),
        (None, IpAddr::V4(_)) => "0.0.0.0".into(),
        (None, IpAddr::V6(_)) => "[::]".into(),
    }
}
