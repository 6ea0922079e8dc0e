//! What can go wrong between rnet and nf_tables, in sentences for a person.

use rustix::io::Errno;

use crate::element::{Element, Owner};
use crate::missing::Feature;

/// An error of this crate; every variant says which element, interface or step it was about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket cannot be made: no netfilter in this kernel, or no descriptors left.
    #[error("cannot open a netfilter socket: {errno}")]
    Socket {
        /// Why not.
        errno: Errno,
    },
    /// The kernel lacks something that rnet needs.
    #[error("this kernel lacks {} ({}, {}); hint: modprobe -a {}", .0.what, .0.module, .0.option, .0.module)]
    Missing(Feature),
    /// The kernel does not take the messages; EMSGSIZE asks for a larger `net.core.wmem_max`.
    #[error("cannot send {bytes} bytes to nf_tables while {doing}: {errno}")]
    Send {
        /// The step.
        doing: &'static str,
        /// Size of what was sent.
        bytes: usize,
        /// Why not.
        errno: Errno,
    },
    /// The kernel's answer cannot be read.
    #[error("cannot read the answer of nf_tables while {doing}: {errno}")]
    Receive {
        /// The step.
        doing: &'static str,
        /// Why not.
        errno: Errno,
    },
    /// The kernel's answer is not what the protocol promises.
    #[error("nf_tables gave an answer that cannot be understood while {doing}")]
    Answer {
        /// The step.
        doing: &'static str,
    },
    /// The kernel refused a step as a whole; nothing was changed.
    #[error("the kernel refused {doing}: {errno}")]
    Kernel {
        /// The step.
        doing: &'static str,
        /// Why not.
        errno: Errno,
    },
    /// The kernel refused one element; nothing was changed.
    #[error("the kernel refused the firewall element {element}: {errno}")]
    Refused {
        /// The first one that was refused.
        element: Element,
        /// Why not.
        errno: Errno,
    },
    /// A host port is published already; nothing was changed.
    #[error("{element} is taken{}", by(.holder))]
    Taken {
        /// The element that was to be added.
        element: Element,
        /// Who has it, if a comment of ours says so.
        holder: Option<Owner>,
    },
    /// Our tables, or one of their sets, are not in the kernel: somebody removed them.
    #[error("the firewall tables `rnet` are not in the kernel: the next ADD makes them anew")]
    Absent,
    /// Somebody else changed the ruleset during every attempt to read and change it in one.
    #[error("the ruleset was changed by others during each of {attempts} attempts at {doing}")]
    Restless {
        /// The step.
        doing: &'static str,
        /// How often it was tried.
        attempts: u32,
    },
    /// An IPv4 host address cannot be mapped to an IPv6 container, nor the other way round.
    #[error("the host address {host} and the container address {to} are of different families")]
    Families {
        /// The host's side.
        host: std::net::IpAddr,
        /// The container's side.
        to: std::net::IpAddr,
    },
    /// Not a name that we let into the firewall.
    #[error("the interface name {name:?} cannot be used in the firewall: 1 to 15 of A-Z a-z 0-9 . _ - @ +")]
    Interface {
        /// The name.
        name: String,
    },
}

impl Error {
    /// What is not in this kernel at all, and so holds nothing.
    pub fn missing(&self) -> Option<&Feature> {
        match self {
            Self::Missing(feature) => Some(feature),
            _ => None,
        }
    }
}

/// The result; where the kernel lacks what was asked, it holds nothing.
pub(crate) fn or_empty<T: Default>(result: Result<T, Error>) -> Result<T, Error> {
    match result {
        Err(Error::Missing(_)) => Ok(T::default()),
        other => other,
    }
}

fn by(holder: &Option<Owner>) -> String {
    holder.map_or_else(String::new, |owner| format!(" by {owner}"))
}
