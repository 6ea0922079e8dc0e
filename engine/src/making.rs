//! An attachment while it is made.

use netlink::Netns;
use store::Record;

use crate::spec::{Lease, Spec};

/// An attachment that is being made.
pub struct Making<'a> {
    /// What it is to become.
    pub spec: &'a Spec<'a>,
    /// The container's namespace; none where nothing is done inside.
    pub container: Option<&'a Netns>,
    /// Its record, as far as it has come.
    pub record: Record,
    /// What it has leased.
    pub lease: Lease,
    /// Neighbours must be told of the container's MAC: another had its addresses.
    pub has_news: bool,
}

/// The indexes of an interface's ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ends {
    /// The one on the host, if there is one.
    pub host: Option<u32>,
    /// The one in the container, if rnet made it.
    pub container: Option<u32>,
}
