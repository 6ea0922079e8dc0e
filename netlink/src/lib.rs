//! Links, addresses, routes, neighbours, namespaces and sysctls, through netlink.
//!
//! Changes are values ([`Request`]) that a handle ([`Netlink`]) sends several at a time over one
//! blocking socket. A namespace is a value too ([`Netns`]): short threads enter one, or the calling thread for a visit.

mod delete;
mod encode;
mod error;
mod frames;
mod guard;
mod handle;
mod legacy;
mod local;
mod mac;
mod memory;
mod missing;
mod mounts;
mod netns;
mod read;
mod request;
mod signals;
mod socket;
mod sysctl;
mod time;
mod veth;
mod wire;

pub use delete::{delete_link, delete_link_then};
pub use error::{Error, legacy_name, reason};
pub use frames::Frames;
pub use handle::Netlink;
pub use legacy::has_legacy_chain;
pub use local::{Probed, await_local, await_unique};
pub use mac::{Mac, ParseMacError};
pub use memory::give_back_program;
pub use missing::Kind;
pub use mounts::Mounts;
pub use netns::{Netns, NetnsId, cookie, fork_keeping, fresh_sys, pass_on_stdio_only, spawn_in};
pub use read::{Address, Link};
pub use request::{BY_ADVERTISEMENT, Request, Route};
pub use signals::{HeldSignal, HeldSignals, default_signals, finish_before_ending};
pub use time::local_offset;
pub use veth::{Veth, VethPair};
