//! What can go wrong with addresses. Texts that callers of the reference plugin know are kept as they are.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::IpNetwork;
use rustix::io::Errno;

/// A failure to find, give, keep or take back an address.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The network's configuration has no `ipam` section.
    #[error("IPAM config missing 'ipam' key")]
    MissingIpam,
    /// Neither `subnet` nor `ranges` nor the runtime's `ipRanges` says where addresses come from.
    #[error("no IP ranges specified")]
    NoRanges,
    /// One range set of the configuration cannot be used.
    #[error("invalid range set {set}: {cause}")]
    InvalidSet {
        /// The set's place in the configuration, from 0.
        set: usize,
        /// What is wrong with it.
        cause: RangeError,
    },
    /// Two range sets share addresses.
    #[error("range set {first} overlaps with {second}")]
    SetsOverlap {
        /// The place of the one.
        first: usize,
        /// The place of the other.
        second: usize,
    },
    /// A requested address is not an address.
    #[error("invalid IP address {text}")]
    InvalidAddress {
        /// What was asked for.
        text: String,
    },
    /// A range set has no address for this owner.
    #[error("failed to allocate for range {set}: {refusal}")]
    Refused {
        /// The set's place in the configuration, from 0.
        set: usize,
        /// Why not.
        refusal: Refusal,
    },
    /// Requested addresses that are in no range set, or of which several are in one.
    #[error("failed to allocate all requested IPs: {}", join(addresses, " "))]
    Unfulfilled {
        /// Those left over.
        addresses: Vec<IpAddr>,
    },
    /// Another process holds the lock of the lease directory for too long; nothing was changed.
    #[error(
        "the leases in {} are locked ({}) and were not released within {} s; nothing was changed",
        path.display(), holder.map_or("holder unknown".into(), |pid| format!("by pid {pid}")), waited.as_secs()
    )]
    Busy {
        /// The lease directory.
        path: PathBuf,
        /// The process that holds the lock, if /proc/locks shows it.
        holder: Option<u32>,
        /// How long the caller waited.
        waited: Duration,
    },
    /// Another program writes lease files without taking the directory's lock.
    #[error("the leases in {} keep changing although they are locked", path.display())]
    Unsettled {
        /// The lease directory.
        path: PathBuf,
    },
    /// The entry is no longer the plain file that was read, so it is not removed.
    #[error("not removing {}: it is no longer the single plain file that was read", path.display())]
    NotPlain {
        /// The file.
        path: PathBuf,
    },
    /// Some leases could not be freed; all others were.
    #[error("cannot free {}", failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Incomplete {
        /// The addresses that are free now.
        freed: Vec<IpAddr>,
        /// One error for each that is not.
        failures: Vec<Error>,
    },
    /// The index beside the lease files cannot be written, so the boot of a lease would be unknown.
    #[error("cannot write the index of leases {}: {errno}", path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// The kernel's answer.
        errno: Errno,
    },
    /// Leases may have been lost, and the addresses in use cannot be read.
    #[error("cannot find out which addresses are in use without a lease: {reason}")]
    Unseen {
        /// Why not.
        reason: String,
    },
    /// A system call on the lease directory or a file in it failed.
    #[error("cannot {action} {}: {errno}", path.display())]
    File {
        /// What was being done, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The file could not be written, or the directory could not be opened.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Why a range, or a set of ranges, cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// The range has no subnet.
    #[error("IP <nil> not v4 nor v6")]
    NoSubnet,
    /// The subnet is an address within a network.
    #[error("Network has host bits set. For a subnet mask of length {} the network address is {}", .0.prefix(), .0.network())]
    HostBits(IpNetwork),
    /// There is no room for a gateway and a container.
    #[error("Network {0} too small to allocate from")]
    TooSmall(IpNetwork),
    /// The range starts outside its subnet, or after its end.
    #[error("RangeStart {start} not in network {subnet}")]
    StartOutside {
        /// The first address.
        start: IpAddr,
        /// The subnet.
        subnet: IpNetwork,
    },
    /// The range ends outside its subnet.
    #[error("RangeEnd {end} not in network {subnet}")]
    EndOutside {
        /// The last address.
        end: IpAddr,
        /// The subnet.
        subnet: IpNetwork,
    },
    /// The set has no range.
    #[error("empty range set")]
    Empty,
    /// IPv4 and IPv6 in one set, from which one address is taken.
    #[error("mixed address families")]
    MixedFamilies,
    /// Two ranges of the set share addresses.
    #[error("subnets {first} and {second} overlap")]
    Overlap {
        /// The one, as `start-end`.
        first: String,
        /// The other.
        second: String,
    },
}

/// Why a range set gives no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Every address has a holder, and none of them is provably dead.
    #[error("no IP addresses available in range set: {ranges}")]
    Exhausted {
        /// The ranges, as `start-end,start-end`.
        ranges: String,
        /// How many leases the directory holds.
        held: u64,
    },
    /// The gateway's address was asked for.
    #[error("requested ip {0} is subnet's gateway")]
    Gateway(IpAddr),
    /// The requested address is held.
    #[error("requested IP address {address} is not available in range set {ranges}")]
    Unavailable {
        /// What was asked for.
        address: IpAddr,
        /// The ranges, as `start-end,start-end`.
        ranges: String,
        /// Who holds it, container id and ifname, if a lease says so.
        holder: Option<(String, String)>,
    },
    /// The requested address is in use without a lease.
    #[error("requested IP address {address} is not available in range set {ranges}")]
    InUse {
        /// What was asked for.
        address: IpAddr,
        /// The ranges, as `start-end,start-end`.
        ranges: String,
        /// Who uses it.
        by: String,
    },
    /// No host can have the requested address.
    #[error("requested IP address {address} is not available in range set {ranges}")]
    Reserved {
        /// What was asked for.
        address: IpAddr,
        /// The ranges, as `start-end,start-end`.
        ranges: String,
        /// `network` or `broadcast`.
        what: &'static str,
    },
    /// The owner has an address of this set already.
    #[error("{address} has been allocated to {id}, duplicate allocation is not allowed")]
    Duplicate {
        /// What it has.
        address: IpAddr,
        /// Its container id.
        id: String,
    },
}

impl Refusal {
    /// Why a requested address is not available, which upstream's text does not say.
    pub fn details(&self) -> String {
        match self {
            Refusal::Unavailable { address, holder: Some((id, ifname)), .. } => {
                let ifname = if ifname.is_empty() { "" } else { &format!("/{ifname}") };
                format!("{address} is held by container {id}{ifname}")
            }
            Refusal::Unavailable { address, holder: None, .. } => {
                format!("{address} is held: the entry of that name in the folder of leases is no lease")
            }
            Refusal::InUse { address, by, .. } => {
                format!("{address} is in use by {by}, and its lease was lost")
            }
            Refusal::Reserved { address, what, .. } => {
                format!("{address} is the {what} address of its subnet")
            }
            _ => String::new(),
        }
    }
}

pub(crate) fn join(values: &[impl ToString], separator: &str) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator)
}
