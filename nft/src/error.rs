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
    /// The kernel does not take the messages; EMSGSIZE means that `net.core.wmem_max` is too small.
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
    /// The kernel's answer does not follow the protocol.
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
    #[error("{element} is taken{}", by_holder(.holder))]
    Taken {
        /// The element that was to be added.
        element: Element,
        /// Who has it, if its comment names an owner.
        holder: Option<Owner>,
    },
    /// rnet's tables, or one of their sets, are not in the kernel: another program removed them.
    #[error("the firewall tables `rnet` are not in the kernel: the next ADD creates them again")]
    Absent,
    /// Another program changed the ruleset during every attempt to read and change it in one step.
    #[error("other programs changed the ruleset during each of {attempts} attempts at {doing}")]
    Restless {
        /// The step.
        doing: &'static str,
        /// How often it was tried.
        attempts: u32,
    },
    /// A host address cannot be mapped to a container address of the other family.
    #[error("the host address {host} and the container address {to} are of different families")]
    Families {
        /// The host's side.
        host: std::net::IpAddr,
        /// The container's side.
        to: std::net::IpAddr,
    },
    /// A name that rnet does not let into the firewall, because nft could read it as more than a name.
    #[error("the interface name {name:?} cannot be used in the firewall: 1 to 15 of A-Z a-z 0-9 . _ - @ +")]
    Interface {
        /// The name.
        name: String,
    },
}

impl Error {
    /// The part that this kernel lacks, if that is the error.
    pub fn missing(&self) -> Option<&Feature> {
        match self {
            Self::Missing(feature) => Some(feature),
            _ => None,
        }
    }
}

/// The result; if the kernel lacks what was asked for, it is empty.
pub(crate) fn or_empty<T: Default>(result: Result<T, Error>) -> Result<T, Error> {
    match result {
        Err(Error::Missing(_)) => Ok(T::default()),
        other => other,
    }
}

fn by_holder(holder: &Option<Owner>) -> String {
    holder.map_or_else(String::new, |owner| format!(" by {owner}"))
}
