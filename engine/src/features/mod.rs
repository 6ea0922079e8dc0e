//! What an attachment has besides its interface: one file for each feature, one line for it in [`FEATURES`].
//!
//! ADD, DEL, CHECK and a rebuild of the ruleset walk the table; none of them names a feature. What a feature puts into rnet's
//! ruleset follows from the records alone, so a flush, a rebuild, a repair and an upgrade bring it back without its help.

pub mod addresses;
pub mod guard;
pub mod isolate;
pub mod mac_check;
pub mod macs;
pub mod masquerade;
pub mod names;
pub mod publish;
pub mod sources;
pub mod sticky;
pub mod tuning;

use store::Record;

use crate::feature::Feature;
use crate::{Error, Host};

/// Every feature, in the order in which each moment asks them.
pub static FEATURES: [&(dyn Feature + Sync); 11] = [
    &names::Names,
    &macs::Macs,
    &addresses::Addresses,
    &publish::Publish,
    &masquerade::Masquerade,
    &sources::Sources,
    &guard::Guard,
    &isolate::Isolate,
    &mac_check::MacCheck,
    &sticky::Sticky,
    &tuning::Tuning,
];

/// Asks each feature in turn, until one fails.
pub(crate) fn each(mut ask: impl FnMut(&dyn Feature) -> Result<(), Error>) -> Result<(), Error> {
    FEATURES.iter().try_for_each(|feature| ask(*feature))
}

/// DEL begins.
pub(crate) fn withdraw(host: &Host, record: &Record) {
    FEATURES.iter().for_each(|feature| feature.withdraw(host, record));
}

/// Asks each feature, and tells all failures together.
pub(crate) fn all(mut ask: impl FnMut(&dyn Feature) -> Result<(), Error>) -> Result<(), Error> {
    Error::all(FEATURES.iter().filter_map(|feature| ask(*feature).err()).collect())
}
