//! The moments at which those are called who look after the host's other firewalls.
//!
//! Each function is one line for each of them. They may write to foreign tables; what they write to nf_tables raises the
//! generation, so each says how many transactions it has committed.

use store::Network;

use crate::{Error, Host, interop};

/// A network comes: the host's first, one more, or one that is made whole again. Under the network's exclusive lock, after
/// its bridge and its elements are there, before it counts as ready: a failure fails the ADD, and a kill brings the next ADD
/// here again.
pub fn network_comes(host: &mut Host) -> Result<(), Error> {
    interop::network_comes(host)
}

/// Another program has changed a ruleset of this host since it was last looked at. Under the ruleset's lock, which others may
/// share: returns how many transactions it has committed itself.
pub fn others_have_written(host: &mut Host) -> Result<u32, Error> {
    interop::forget_probe(host)?;
    interop::others_have_written(host)
}

/// A network goes and others stay. Under the network's and the ruleset's exclusive locks.
pub fn network_goes(host: &mut Host, network: &Network) -> Result<(), Error> {
    interop::network_goes(host, network)
}

/// The host's last network goes: removes our tables, and with them what is in the tables of others, for the kernel lets a
/// second deletion wait. Under the network's and the ruleset's exclusive locks; it may be called again, if it failed or
/// was killed.
pub fn last_network_goes(host: &mut Host) -> Result<(), Error> {
    interop::forget_probe(host)?;
    interop::drop_tables(host)
}
