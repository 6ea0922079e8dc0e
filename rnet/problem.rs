//! Everything that the command itself refuses: its sentence, its code, its exit status, what to type next.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;

use crate::report::{by_errno, count};

/// Everything that the command itself refuses. The words are docker's where docker has words people search for.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// `create` of a name that is there.
    #[error("network with name {name} already exists ({what})")]
    NetworkExists {
        /// The name.
        name: String,
        /// Its subnet and bridge, or the file that defines it.
        what: String,
    },
    /// `run --name` of an endpoint that is there.
    #[error("endpoint with name {name} already exists ({what})")]
    EndpointExists {
        /// The name.
        name: String,
        /// Where it is: its process.
        what: String,
        /// What ends it.
        hint: Option<String>,
    },
    /// A name outside the grammar of CNI.
    #[error(
        "{name:?} is not a valid name: use up to 200 letters, digits, _ . and -, and begin with a letter or digit"
    )]
    BadName {
        /// What was given.
        name: String,
    },
    /// A network name with a meaning of its own.
    #[error("operation is not permitted on predefined {name} network")]
    Reserved {
        /// `host`, `none` or `bridge`.
        name: String,
    },
    /// `rm` of a network that is built in.
    #[error("{name} is a pre-defined network and cannot be removed")]
    Predefined {
        /// `host`, `none` or `bridge`.
        name: String,
    },
    /// The subnet of another network.
    #[error("{wanted} overlaps {taken} of {owner}")]
    Overlap {
        /// What was asked for.
        wanted: IpNetwork,
        /// What is in use.
        taken: IpNetwork,
        /// By whom, in words.
        owner: String,
        /// A free subnet instead.
        free: Option<IpNetwork>,
    },
    /// Text that is no subnet.
    #[error("{text:?} is not a subnet: expected ADDRESS/LENGTH, such as 10.9.0.0/24")]
    NoSubnet {
        /// What was given.
        text: String,
    },
    /// An address in place of a subnet.
    #[error("{given} has host bits set")]
    HostBits {
        /// The option.
        option: &'static str,
        /// What was given.
        given: IpNetwork,
        /// The subnet that holds it.
        right: IpNetwork,
    },
    /// A subnet without room for a gateway and a container.
    #[error("{subnet} is too small for a gateway and a container: the smallest subnet is a /{longest}")]
    TooSmall {
        /// What was given.
        subnet: IpNetwork,
        /// The longest prefix that will do.
        longest: u8,
    },
    /// "Any free subnet" of a family or size for which there are no pools.
    #[error("rnet cannot choose a free subnet for {wanted}: it chooses IPv4 subnets from /13 to /30")]
    NoPool {
        /// What was asked for.
        wanted: IpNetwork,
    },
    /// An address or range that is not in the subnet.
    #[error("{what} {value} is not in {subnet}")]
    Outside {
        /// `gateway`, `range`, `address`.
        what: &'static str,
        /// What was given.
        value: String,
        /// Where it should be.
        subnet: String,
    },
    /// A range without an address for a container.
    #[error(
        "range {range} has no address for a container: the first and the last of {subnet} and the gateway's are never leased"
    )]
    EmptyRange {
        /// What was given.
        range: IpNetwork,
        /// The subnet that it lies in.
        subnet: IpNetwork,
    },
    /// An address that no container and no gateway can have.
    #[error("{what} {value} is the first or last address of {subnet}, which no host can have")]
    Unusable {
        /// `gateway`, `address`.
        what: &'static str,
        /// What was given.
        value: IpAddr,
        /// The subnet.
        subnet: IpNetwork,
    },
    /// `--gateway` or `--ip-range` by itself.
    #[error("{option} needs --subnet")]
    NeedsSubnet {
        /// The option.
        option: &'static str,
    },
    /// No default subnet is free.
    #[error("every default subnet is in use")]
    SubnetsExhausted,
    /// Text that is no domain.
    #[error(
        "{name:?} is not a domain: expected parts of 1 to 63 letters, digits, - and _, separated by dots"
    )]
    BadDomain {
        /// What was given.
        name: String,
    },
    /// Nobody serves names.
    #[error("no name server is running: the first container on a network with names starts it")]
    NoNameServer,
    /// It should, for containers have names.
    #[error("the name server has died, but containers still have names")]
    NameServerDied,
    /// It does not answer, and yet another cannot be started.
    #[error(
        "the name server (process {pid}) does not answer: it was stopped, hangs, or this machine is overloaded"
    )]
    NameServerSilent {
        /// The process that keeps its sockets.
        pid: u32,
    },
    /// The installed version of the name server cannot take the place of the one that runs.
    #[error("the running name server was not replaced, because the installed program does not start: {said}")]
    NotReplaced {
        /// Why not.
        said: String,
    },
    /// No such network.
    #[error("no network {name:?}")]
    NoNetwork {
        /// What was asked for.
        name: String,
        /// The nearest name that exists.
        near: Option<String>,
    },
    /// `run` on a network without a definition.
    #[error("network {name:?} cannot be joined: no file defines it any more")]
    Undefined {
        /// The network.
        name: String,
    },
    /// No such endpoint.
    #[error("no endpoint {name:?}")]
    NoEndpoint {
        /// What was asked for.
        name: String,
        /// The nearest name that exists.
        near: Option<String>,
    },
    /// Neither a network nor an endpoint.
    #[error("no network or endpoint {name:?}")]
    Nothing {
        /// What was asked for.
        name: String,
        /// The nearest name that exists.
        near: Option<String>,
    },
    /// `host` or `none` where a network is wanted.
    #[error("{name} is not a network: --net {name} starts a program {}", without(name))]
    NoRealNetwork {
        /// `host` or `none`.
        name: String,
    },
    /// An endpoint that is not there any more.
    #[error("no endpoint {name:?} (it ended {ago}, {how})")]
    Ended {
        /// Its name.
        name: String,
        /// When: `4 s ago`.
        ago: String,
        /// How: `status 3`.
        how: String,
    },
    /// `run -d` of a program that has ended before it could be left alone.
    #[error("{name:?} ended immediately, {how}")]
    EndedAtOnce {
        /// The endpoint.
        name: String,
        /// How: `status 3`.
        how: String,
        /// The exit status of that.
        exit: u8,
        /// The last lines that it wrote.
        output: String,
        /// It is remembered.
        kept: bool,
    },
    /// `port` of a port that is not published.
    #[error("no public port {port} published for {name:?}")]
    NotPublished {
        /// The endpoint.
        name: String,
        /// `80/tcp`
        port: String,
    },
    /// A prefix, or a name, that fits several things.
    #[error("{name:?} is ambiguous: {}", hits.join(", "))]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// What it fits.
        hits: Vec<String>,
        /// What to type instead.
        hint: &'static str,
    },
    /// `rm` of a network with users.
    #[error("network {name:?} has {}: {}", count(users.len(), "endpoint"), users.join(", "))]
    NetworkInUse {
        /// The network.
        name: String,
        /// Its endpoints with their addresses.
        users: Vec<String>,
    },
    /// `rm` of an endpoint that runs.
    #[error("endpoint {name:?} is running (pid {pid})")]
    EndpointRuns {
        /// Its name.
        name: String,
        /// Its process.
        pid: u32,
    },
    /// `stop` of a container that belongs to a runtime.
    #[error("{name:?} was not started by rnet run: it belongs to its container runtime")]
    NotOurs {
        /// Its name.
        name: String,
        /// What its runtime is to be told.
        hint: Option<String>,
    },
    /// `logs` of a program in the foreground.
    #[error("the output of {name:?} is not kept: it was not started with rnet run -d")]
    NoLogs {
        /// Its name.
        name: String,
    },
    /// `exec` into what has no namespace of its own any more.
    #[error("endpoint {name:?} is not running")]
    NotRunning {
        /// Its name.
        name: String,
    },
    /// `rm` of a network that somebody else defined.
    #[error("network {name:?} is defined by {}, which rnet did not write", file.display())]
    ForeignFile {
        /// The network.
        name: String,
        /// The file.
        file: PathBuf,
        /// What the tool that wrote it is to be told.
        hint: Option<String>,
    },
    /// A requested address that another endpoint has.
    #[error("Address already in use: {address} is held by {holder}")]
    AddressTaken {
        /// The address.
        address: String,
        /// Who has it, in words.
        holder: String,
    },
    /// A network without a free address.
    #[error(
        "no available {family} addresses on this network's address pools: {network} ({subnet}), {}; gc freed 0", held_by(*held, holders)
    )]
    AddressesExhausted {
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// The network.
        network: String,
        /// Its subnets.
        subnet: String,
        /// How many addresses are held.
        held: usize,
        /// By whom, cut short.
        holders: String,
    },
    /// A host port that a process of the host listens on.
    #[error("failed to bind host port {host}:{port}/{protocol}: address already in use{}", by(holder))]
    PortInUse {
        /// The host address.
        host: String,
        /// The host port.
        port: u16,
        /// The protocol.
        protocol: &'static str,
        /// The process, where it can be found.
        holder: Option<String>,
    },
    /// A host port twice in one command.
    #[error("Bind for {host}:{port} failed: port is already allocated, by another -p of this command")]
    PortTwice {
        /// The host address.
        host: String,
        /// The host port.
        port: u16,
    },
    /// No port of a range is free.
    #[error("no free host port in {first}-{last}/{protocol}")]
    PortsExhausted {
        /// The first port tried.
        first: u16,
        /// The last one.
        last: u16,
        /// The protocol.
        protocol: &'static str,
    },
    /// A `-p` on an address of a family that the network does not have.
    #[error("cannot publish on {host}: network {network:?} has no {family} addresses")]
    NoFamily {
        /// The host address.
        host: String,
        /// The network.
        network: String,
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },
    /// A gateway that no bridge can bear.
    #[error("{gateway} cannot be a gateway: it is {what}")]
    ImpossibleGateway {
        /// What was given.
        gateway: IpAddr,
        /// What it is: `multicast`.
        what: &'static str,
    },
    /// A gateway outside its subnet, where another network or link is.
    #[error("gateway {gateway} lies in a subnet of {holder}")]
    GatewayTaken {
        /// What was given.
        gateway: IpAddr,
        /// Who has it, and which subnet.
        holder: String,
    },
    /// A spoof guard where there is none to be had.
    #[error("network {network:?} has no spoof guard: its plugin is {kind}, and only the plugin rnet has one")]
    NoGuard {
        /// The network.
        network: String,
        /// Its plugin.
        kind: String,
    },
    /// A network that others' plugins have made.
    #[error(
        "network {name:?} cannot be repaired: its plugin is {kind}, and rnet has records only of its own plugins"
    )]
    NotRepairable {
        /// The network.
        name: String,
        /// Its plugin.
        kind: String,
    },
    /// A subnet that no bridge can have.
    #[error("{subnet} cannot be a network's subnet: its addresses are {what}")]
    ImpossibleSubnet {
        /// What was given.
        subnet: IpNetwork,
        /// What they are for: `multicast`.
        what: &'static str,
    },
    /// A host address whose traffic the kernel does not translate.
    #[error("cannot publish on {host}: the kernel does not translate loopback and link-local IPv6 addresses")]
    UnusableHostAddress {
        /// As it was given.
        host: String,
    },
    /// A host address that the host does not have.
    #[error("cannot publish on {host}: it is not an address of this host")]
    HostAddress {
        /// The address.
        host: IpAddr,
    },
    /// A `-p` that cannot be read.
    #[error(transparent)]
    Publish(#[from] crate::publish::SpecError),
    /// The rights for a verb that changes something are missing.
    #[error("not permitted: this needs {}", missing.join(" and "))]
    NotPermitted {
        /// The capabilities that are missing.
        missing: Vec<&'static str>,
        /// The command line, with sudo in front, where that helps.
        again: Option<String>,
    },
    /// A command line that is not understood.
    #[error("{message}")]
    Usage {
        /// In words.
        message: String,
        /// What can be typed instead.
        hint: Option<String>,
    },
    /// Options that exclude each other.
    #[error("{one} and {other} cannot be given together")]
    Together {
        /// The one.
        one: String,
        /// The other.
        other: String,
    },
    /// An option that is about one network, with none or several.
    #[error("{option} needs exactly one --net")]
    OneNetwork {
        /// The option.
        option: &'static str,
    },
    /// A lock that is not free.
    #[error("another rnet holds {what}; nothing was changed")]
    Busy {
        /// What it holds.
        what: String,
    },
    /// A file that is in the way.
    #[error("{} exists and is not a link to rnet", file.display())]
    InTheWay {
        /// The file.
        file: PathBuf,
    },
    /// `install --only` of an unknown plugin.
    #[error("no plugin {name:?}: the plugins are {}", plugins::PLUGINS.map(|(name, _)| name).join(", "))]
    NoPlugin {
        /// What was given.
        name: String,
    },
    /// A program that cannot be started.
    #[error("cannot execute {program:?}: {reason}")]
    CannotExecute {
        /// The program.
        program: String,
        /// Why not.
        reason: String,
        /// True if there is no such program.
        missing: bool,
        /// True if it may be the name of an image.
        image: bool,
    },
    /// The supervisor of an endpoint has died before it could say anything.
    #[error("the process that supervises {name:?} has ended unexpectedly")]
    SupervisorGone {
        /// The endpoint.
        name: String,
    },
    /// An endpoint does not end.
    #[error("endpoint {name:?} (pid {pid}) is still running after {seconds} s")]
    DoesNotEnd {
        /// Its name.
        name: String,
        /// Its process.
        pid: u32,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A system call on a file failed.
    #[error("cannot {action} {}: {}", path.display(), netlink::reason(*errno))]
    File {
        /// What was being done, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The kernel's answer.
        errno: rustix::io::Errno,
    },
    /// A verb had several arguments, and this went wrong with some of them; all was said already.
    #[error("{} failed", count(*failures, "argument"))]
    AlreadyTold {
        /// How many failed.
        failures: usize,
        /// The exit status of the first.
        exit: u8,
    },
    /// The reader of stdout has gone: end quietly.
    #[error("stdout is closed")]
    Closed,
}

impl Problem {
    /// For `map_err`: a failed `action` on `path`.
    pub fn file<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Problem {
        let path = path.to_owned();
        move |error| {
            let errno = rustix::io::Errno::from_io_error(&error.into()).unwrap_or(rustix::io::Errno::IO);
            Problem::File { action, path, errno }
        }
    }

    /// The word for programs and the exit status (docs/errors.md).
    pub fn class(&self) -> (&'static str, u8) {
        use Problem::*;
        match self {
            NetworkExists { .. } | EndpointExists { .. } => ("exists", 4),
            BadName { .. } | BadDomain { .. } | Reserved { .. } => ("name-invalid", 2),
            Predefined { .. } => ("predefined", 4),
            Overlap { .. } => ("overlap", 4),
            NoSubnet { .. } | HostBits { .. } | TooSmall { .. } | NoPool { .. } | ImpossibleSubnet { .. } => {
                ("subnet-invalid", 2)
            }
            Outside { .. }
            | NeedsSubnet { .. }
            | Unusable { .. }
            | EmptyRange { .. }
            | ImpossibleGateway { .. } => ("outside", 2),
            GatewayTaken { .. } => ("overlap", 4),
            SubnetsExhausted => ("subnets-exhausted", 6),
            NoNetwork { .. } | NoEndpoint { .. } | Nothing { .. } | NoPlugin { .. } => ("not-found", 3),
            NoLogs { .. } | NoRealNetwork { .. } | Undefined { .. } | Ended { .. } | NotPublished { .. } => {
                ("not-found", 3)
            }
            EndedAtOnce { exit, .. } => ("ended", *exit),
            Ambiguous { .. } => ("ambiguous", 4),
            NetworkInUse { .. } | EndpointRuns { .. } => ("in-use", 4),
            NotOurs { .. } | ForeignFile { .. } => ("foreign", 4),
            NotRunning { .. } | NoNameServer | NameServerDied => ("not-running", 3),
            NameServerSilent { .. } => ("silent", 1),
            NotReplaced { .. } => ("not-replaced", 1),
            AddressTaken { .. } => ("address-taken", 4),
            AddressesExhausted { .. } => ("addresses-exhausted", 6),
            PortInUse { .. } | PortTwice { .. } => ("port-taken", 4),
            PortsExhausted { .. } => ("ports-exhausted", 6),
            HostAddress { .. } | UnusableHostAddress { .. } | NoFamily { .. } => ("host-address", 2),
            Publish(_)
            | Usage { .. }
            | Together { .. }
            | OneNetwork { .. }
            | NoGuard { .. }
            | NotRepairable { .. } => ("usage", 2),
            NotPermitted { .. } => ("not-permitted", 5),
            Busy { .. } => ("busy", 1),
            InTheWay { .. } => ("exists", 4),
            CannotExecute { missing: true, .. } => ("not-found", 127),
            CannotExecute { .. } => ("cannot-execute", 126),
            SupervisorGone { .. } => ("failed", 1),
            DoesNotEnd { .. } => ("busy", 1),
            File { errno, .. } => by_errno(*errno),
            AlreadyTold { exit, .. } => ("failed", *exit),
            Closed => ("closed", 0),
        }
    }

    /// True if it says that what was asked for is not there.
    pub fn is_missing(&self) -> bool {
        use Problem::*;
        matches!(
            self,
            Nothing { .. } | NoNetwork { .. } | NoEndpoint { .. } | NoRealNetwork { .. } | Ended { .. }
        )
    }

    /// What a program has written, which is told with the error.
    pub fn output(&self) -> Option<&str> {
        match self {
            Problem::EndedAtOnce { output, .. } => {
                Some(output).filter(|output| !output.is_empty()).map(String::as_str)
            }
            _ => None,
        }
    }

    /// What can be typed to get on.
    pub fn hint(&self) -> Option<String> {
        use Problem::*;
        match self {
            Overlap { free: Some(free), .. } => {
                Some(format!("next free: --subnet {free}      (rnet ls --all shows every subnet in use)"))
            }
            Overlap { free: None, .. } | GatewayTaken { .. } | SubnetsExhausted => {
                Some("rnet ls --all".into())
            }
            HostBits { option, right, .. } => Some(format!("{option} {right}")),
            NoNetwork { near: Some(near), .. }
            | NoEndpoint { near: Some(near), .. }
            | Nothing { near: Some(near), .. } => Some(format!("did you mean {near:?}?")),
            NoNameServer => Some("rnet ls (rnet inspect NET shows whether a network has names)".into()),
            NameServerDied => Some("rnet dns serve --detach".into()),
            // 0 would be everybody.
            NameServerSilent { pid } => {
                (*pid != 0).then(|| format!("kill -KILL {pid} (another one then replaces it)"))
            }
            NotReplaced { .. } => Some("rnet dns log".into()),
            NoNetwork { near: None, .. } => Some("rnet ls".into()),
            NoEndpoint { near: None, .. } => Some("rnet ps".into()),
            Ambiguous { hint, .. } => Some((*hint).to_owned()),
            NoRealNetwork { name } => Some(format!("rnet run --net {name} CMD")),
            Ended { name, .. } => Some(format!("rnet logs {name}")),
            EndedAtOnce { name, kept: true, .. } => Some(format!("rnet logs {name}")),
            NotPublished { name, .. } => Some(format!("rnet port {name}")),
            UnusableHostAddress { .. } => Some("[::] or an IPv6 address of an interface".into()),
            NetworkInUse { name, .. } => Some(format!("rnet rm --detach {name}")),
            EndpointRuns { name, .. } => Some(format!("rnet stop {name}")),
            CannotExecute { image: true, missing: true, program, .. } if !program.contains('/') => {
                Some("no image is needed: rnet run PROGRAM [ARGUMENT]...".into())
            }
            Usage { hint, .. }
            | EndpointExists { hint, .. }
            | ForeignFile { hint, .. }
            | NotOurs { hint, .. } => hint.clone(),
            NotPermitted { again, .. } => again.clone(),
            NoGuard { .. } => Some("rnet create NAME makes a network that has one".into()),
            InTheWay { .. } => Some("--force replaces it and keeps it beside the folder".into()),
            DoesNotEnd { name, .. } => Some(format!("rnet stop -t 0 {name}")),
            _ => None,
        }
    }
}

fn held_by(held: usize, holders: &str) -> String {
    if held == 0 { "none held by an attached container".into() } else { format!("{held} held by {holders}") }
}

fn by(holder: &Option<String>) -> String {
    holder.as_ref().map(|holder| format!(", by {holder}")).unwrap_or_default()
}

/// What `--net host` and `--net none` mean.
fn without(name: &str) -> &'static str {
    if name == "host" { "in the host's own namespace" } else { "without any network" }
}
