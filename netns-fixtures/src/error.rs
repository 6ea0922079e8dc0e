//! What can go wrong with a throw-away host, in sentences for the person whose test failed.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnetwork::IpNetwork;

/// An error of this crate; every variant says which thing it was about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A namespace cannot be made, entered or pinned.
    #[error(transparent)]
    Netns(#[from] netlink::Error),
    /// A file or directory cannot be made, read or removed.
    #[error("cannot {doing} {path:?}")]
    File {
        /// The verb.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// This process cannot be moved into namespaces of its own.
    #[error(
        "cannot {doing}; are user namespaces allowed (sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces)?"
    )]
    Sandbox {
        /// The step.
        doing: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The kernel refused an rtnetlink request.
    #[error("cannot {doing} in netns {netns:?}")]
    Rtnetlink {
        /// The request, as one would say it.
        doing: &'static str,
        /// The namespace.
        netns: PathBuf,
        /// The kernel's word.
        source: rtnetlink::Error,
    },
    /// The kernel refused to dump the ruleset.
    #[error("cannot dump nf_tables' {what} in netns {netns:?}")]
    Ruleset {
        /// Tables, chains, …
        what: &'static str,
        /// The namespace.
        netns: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no link of that name.
    #[error("netns {netns:?} has no link {link:?}")]
    NoLink {
        /// The link's name.
        link: String,
        /// The namespace.
        netns: PathBuf,
    },
    /// A link did not come up in time.
    #[error("link {link:?} in netns {netns:?} has no carrier")]
    NoCarrier {
        /// The link's name.
        link: String,
        /// The namespace.
        netns: PathBuf,
    },
    /// A machine outside that would have no address.
    #[error("a machine outside needs at least one subnet")]
    NoSubnet,
    /// A subnet that cannot hold the host and its neighbour.
    #[error("subnet {subnet} has no room for a host (.1) and its neighbour (.2)")]
    Subnet {
        /// The subnet.
        subnet: IpNetwork,
    },
    /// The outside machine has no address of the family a route needs.
    #[error("no common address family for a route to {subnet}")]
    NoGateway {
        /// Where the route should have led.
        subnet: IpNetwork,
    },
    /// A program cannot be started in a namespace.
    #[error("cannot start {program:?} in netns {netns:?}")]
    Program {
        /// The program.
        program: String,
        /// The namespace.
        netns: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A socket operation of a server failed.
    #[error("cannot {doing} {address}")]
    Socket {
        /// The verb.
        doing: &'static str,
        /// The server's address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A probe could not even be sent.
    #[error("cannot {doing} {to}")]
    Probe {
        /// The verb.
        doing: &'static str,
        /// Whom it was for.
        to: IpAddr,
        /// Why not.
        source: io::Error,
    },
    /// A frame cannot be sent or received.
    #[error("cannot {doing} link {link:?}")]
    Frame {
        /// The verb.
        doing: &'static str,
        /// The link.
        link: String,
        /// Why not.
        source: io::Error,
    },
    /// A URL that is not `http://ADDRESS[:PORT][/PATH]`.
    #[error("{url:?} is not of the form http://ADDRESS[:PORT][/PATH] (an address, no name)")]
    Url {
        /// What was given.
        url: String,
    },
    /// No page came: no connection, or none in time.
    #[error("no page from {url}")]
    NoPage {
        /// The page asked for.
        url: String,
        /// Refused, timed out, …
        source: io::Error,
    },
    /// Something came that is not HTTP.
    #[error("{url} answered {answer:?}, which is not HTTP")]
    NotHttp {
        /// The page asked for.
        url: String,
        /// The beginning of the answer.
        answer: String,
    },
}
