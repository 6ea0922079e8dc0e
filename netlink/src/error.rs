//! What can go wrong between rnet and the kernel, in sentences for a person.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

/// An error of this crate; every variant says which thing it was about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path of a namespace cannot be opened.
    #[error("failed to open netns {path:?}: failed to Statfs {path:?}: {}", reason(*.errno))]
    OpenNetns {
        /// The path that was asked for.
        path: PathBuf,
        /// Why not.
        errno: Errno,
    },
    /// The path is an ordinary file.
    #[error("failed to open netns {path:?}: unknown FS magic on {path:?}: {magic:x}")]
    NotNamespace {
        /// The path that was asked for.
        path: PathBuf,
        /// `f_type` of its file system.
        magic: u64,
    },
    /// The path is a namespace, but of pids, mounts or the like.
    #[error("failed to open netns {path:?}: it is a namespace, but not a network namespace")]
    NotNetwork {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// setns(2) failed.
    #[error("failed to enter netns {path:?}: {}", reason(*.errno))]
    EnterNetns {
        /// The namespace.
        path: PathBuf,
        /// Why not.
        errno: Errno,
    },
    /// unshare(2) failed.
    #[error("failed to create a network namespace: {}", reason(*.errno))]
    CreateNetns {
        /// Why not.
        errno: Errno,
    },
    /// The bind mount that keeps a namespace alive failed.
    #[error("failed to pin a network namespace at {path:?}: {}", reason(*.errno))]
    Pin {
        /// Where it should have appeared.
        path: PathBuf,
        /// Why not.
        errno: Errno,
    },
    /// The bind mount of a namespace cannot be removed.
    #[error("failed to remove the network namespace at {path:?}: {}", reason(*.errno))]
    Unpin {
        /// Where it is mounted.
        path: PathBuf,
        /// Why not.
        errno: Errno,
    },
    /// The identity of this process's namespace cannot be read.
    #[error("failed to identify the network namespace of this process: {}", reason(*.errno))]
    Identity {
        /// Why not.
        errno: Errno,
    },
    /// No thread could be started to enter a namespace.
    #[error("failed to start a thread for netns {path:?}")]
    Thread {
        /// The namespace it was for.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A program cannot be started in a namespace.
    #[error("failed to start {program:?} in netns {netns:?}")]
    Spawn {
        /// The program.
        program: String,
        /// The namespace.
        netns: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// fork(2) failed.
    #[error("failed to fork the process that waits for the kernel: {}", reason(*.errno))]
    Fork {
        /// Why not.
        errno: Errno,
    },
    /// No descriptor for signals.
    #[error("failed to hold signals: {}", reason(*.errno))]
    HoldSignals {
        /// Why not.
        errno: Errno,
    },
    /// A table of iptables outside nf_tables cannot be read.
    #[error("failed to read table {table} of {}: {}", legacy_name(*.v6), reason(*.errno))]
    LegacyTable {
        /// Whether it is ip6tables'.
        v6: bool,
        /// The table.
        table: String,
        /// Why not.
        errno: Errno,
    },
    /// No netlink socket.
    #[error("failed to open a netlink socket: {}", reason(*.errno))]
    Socket {
        /// Why not.
        errno: Errno,
    },
    /// Requests could not be handed to the kernel.
    #[error("failed to send requests to the kernel: {}", reason(*.errno))]
    Send {
        /// Why not.
        errno: Errno,
    },
    /// The kernel's answer could not be read.
    #[error("failed to read the kernel's answer: {}", reason(*.errno))]
    Receive {
        /// Why not.
        errno: Errno,
    },
    /// The kernel refused one request.
    #[error("the kernel refused `{request}`: {}{}", reason(*.errno), in_brackets(.detail))]
    Request {
        /// The request as a command.
        request: String,
        /// Why not.
        errno: Errno,
        /// The kernel's own words about it, or nothing.
        detail: String,
    },
    /// The kernel lacks something that rnet needs.
    #[error("this kernel lacks {what} ({module}, {option}); hint: modprobe -a {module}")]
    Missing {
        /// What it is for.
        what: &'static str,
        /// The module that has it.
        module: &'static str,
        /// The option that builds it.
        option: &'static str,
    },
    /// The kernel refused a list.
    #[error("the kernel refused to list links, addresses, routes or neighbours: {}", reason(*.errno))]
    Dump {
        /// Why not.
        errno: Errno,
    },
    /// Every attempt at a list was interrupted by a change.
    #[error("links, addresses, routes or neighbours changed during each of {attempts} attempts to list them")]
    Unsteady {
        /// How many lists were tried.
        attempts: usize,
    },
    /// A link of this name exists already.
    #[error("a link named {name} exists already{}", in_netns(.netns.as_deref()))]
    LinkExists {
        /// The name.
        name: String,
        /// Where, if not in the namespace of the handle.
        netns: Option<PathBuf>,
    },
    /// The bridge has no port left.
    #[error(
        "bridge {bridge} is full: the kernel allows {ports} ports; put further containers on another network"
    )]
    BridgeFull {
        /// The bridge's name.
        bridge: String,
        /// How many ports it has.
        ports: u32,
    },
    /// Another program has deleted a link that was just made.
    #[error("link {name} vanished as soon as it was created")]
    Vanished {
        /// Its name.
        name: String,
    },
    /// The kernel did not finish a deletion.
    #[error("link if{index} is not deleted after {} s", .waited.as_secs())]
    NotDeleted {
        /// The link's index.
        index: u32,
        /// How long the caller waited.
        waited: Duration,
    },
    /// A sysctl cannot be read.
    #[error("failed to read sysctl net/{key}: {}", reason(*.errno))]
    ReadSysctl {
        /// Below /proc/sys/net.
        key: String,
        /// Why not.
        errno: Errno,
    },
    /// A sysctl cannot be written.
    #[error("failed to set sysctl net/{key} to {value}: {}", reason(*.errno))]
    WriteSysctl {
        /// Below /proc/sys/net.
        key: String,
        /// The value that it should have.
        value: String,
        /// Why not.
        errno: Errno,
    },
}

impl Error {
    /// The kernel's error number, if it gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::OpenNetns { errno, .. }
            | Self::EnterNetns { errno, .. }
            | Self::CreateNetns { errno }
            | Self::Pin { errno, .. }
            | Self::Unpin { errno, .. }
            | Self::Identity { errno }
            | Self::Fork { errno }
            | Self::HoldSignals { errno }
            | Self::LegacyTable { errno, .. }
            | Self::Socket { errno }
            | Self::Send { errno }
            | Self::Receive { errno }
            | Self::Request { errno, .. }
            | Self::Dump { errno }
            | Self::ReadSysctl { errno, .. }
            | Self::WriteSysctl { errno, .. } => Some(*errno),
            Self::Thread { source, .. } | Self::Spawn { source, .. } => Errno::from_io_error(source),
            Self::LinkExists { .. } => Some(Errno::EXIST),
            Self::BridgeFull { .. } => Some(Errno::XFULL),
            Self::Missing { .. } => Some(Errno::OPNOTSUPP),
            Self::NotNamespace { .. }
            | Self::NotNetwork { .. }
            | Self::Unsteady { .. }
            | Self::Vanished { .. }
            | Self::NotDeleted { .. } => None,
        }
    }
}

/// The program that changes tables outside nf_tables.
pub fn legacy_name(v6: bool) -> &'static str {
    if v6 { "ip6tables-legacy" } else { "iptables-legacy" }
}

/// The errno in the words of Go's syscall package, which callers of CNI plugins compare with.
pub fn reason(errno: Errno) -> String {
    let text = io::Error::from(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => format!("errno {}", errno.raw_os_error()),
    }
}

fn in_brackets(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(" ({detail})") }
}

fn in_netns(netns: Option<&Path>) -> String {
    netns.map(|path| format!(" in netns {path:?}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_reads_as_go_writes_it() {
        assert_eq!(reason(Errno::NOENT), "no such file or directory");
        assert_eq!(reason(Errno::EXIST), "file exists");
    }
}
