//! The three moments at which those are called who look after the host's other firewalls.
//!
//! Each function is one line for each of them. They may write to foreign tables; what they write to nf_tables raises the
//! generation, so each says how many transactions it has committed.

use store::Network;

use crate::{Error, Host};

/// A network comes: the host's first, one more, or one that is made whole again. Under the network's exclusive lock, after
/// its bridge and its elements are there, before it counts as ready: a failure fails the ADD, and a kill brings the next ADD
/// here again.
pub fn network_comes(_host: &mut Host, _network: &Network) -> Result<(), Error> {
    Ok(())
}

/// Somebody else has changed a ruleset of this host since it was last looked at. Under the ruleset's lock, which others may
/// share: returns how many transactions it has committed itself.
pub fn others_have_written(_host: &mut Host) -> Result<u32, Error> {
    Ok(0)
}

/// The host's last network goes, and its tables are gone. Under the network's and the ruleset's exclusive locks; it may be
/// called again, if it failed or was killed.
pub fn last_network_goes(_host: &mut Host) -> Result<(), Error> {
    Ok(())
}
