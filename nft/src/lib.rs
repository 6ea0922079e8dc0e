//! rnet's firewall: a constant ruleset as values, and elements that come and go with containers.
//!
//! All chains and rules of the two tables named `rnet` are constant ([`Ruleset`]); a network or a container
//! adds [`Element`]s to their sets and maps and nothing else, so the number of rules never grows and no
//! user's text ever becomes part of a rule. Each element carries its [`Owner`] in its comment.
//!
//! The rules of `bridge`'s `macspoofchk` are the exception: they are the reference plugin's, in a table that others
//! use too ([`MacCheck`]).
//!
//! `element`, `ruleset`, `identity`, `interop`, `mac_check`, `trace`, `reference`, `encode` and `conntrack` are pure: values in,
//! bytes and text out. Only `apply` talks to the kernel, through one [`Firewall`] socket.

mod apply;
mod compare;
mod conntrack;
mod element;
mod encode;
mod error;
mod identity;
mod interop;
mod mac_check;
mod missing;
mod reference;
mod refused;
mod ruleset;
mod stale;
mod state;
mod trace;
#[cfg(feature = "failpoints")]
mod version;

pub use apply::{Firewall, LastChange, LeftOut, Rebuilt, Tracer, last_change, watch};
pub use conntrack::Flow;
pub use element::{Element, Owner, ParseProtocolError, Protocol, Range};
pub use error::Error;
pub use interop::{Links, Made, Passage, PassageRule};
pub use mac_check::{MacCheck, Subject};
pub use missing::Feature;
pub use reference::{Layer, Trace};
pub use refused::{Refused, Source};
pub use ruleset::{LOOPBACK_ANSWER, Ruleset};
pub use stale::Stale;
pub use state::{ParseStateError, State};
pub use trace::{Arrival, At, Fate, Magic, Stop};
