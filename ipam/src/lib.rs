//! Addresses: which ranges there are, which address comes next, and the directory of lease files that says who
//! holds which.
//!
//! [`RangeSet`] and the order of [`Choice`] are pure: values in, values out. [`Leases`] keeps host-local's
//! directory byte for byte, so that a live host can change between the reference plugins and rnet. Beside it is an
//! index that makes every operation cost the same with 60,000 leases as with none. The files are authoritative; the
//! index is rebuilt whenever the two might differ.

mod config;
mod directory;
mod error;
mod index;
mod lease;
mod leases;
mod page;
mod pool;
mod range;
mod resolv;
mod session;
#[cfg(test)]
mod tests;

pub use config::{HostLocal, RangeSpec, Route, check_overlaps, parse_address, requested};
pub use error::{Error, RangeError, Refusal};
pub use lease::{InUse, Lease, Leased, Origin, Owner};
pub use leases::Leases;
pub use pool::{Choice, Span, next, order};
pub use range::{Range, RangeSet};
pub use resolv::ResolvConf;
