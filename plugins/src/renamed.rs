//! DEL under another network name than ADD's: the definition was renamed meanwhile (docs/rules.md: G2).

use cni::conflist;
use store::{Lock, LockName, Mode, Record};

use crate::{Error, Host, attach, failpoint};

/// The record of the attachment that DEL is about, and its lock; where there is none, that of the name which the network
/// had at ADD.
pub fn find(host: &mut Host, planned: &Record) -> Result<(Lock, Option<Record>), Error> {
    let lock = host.lock(LockName::Attachment(planned.key()), Mode::Exclusive)?;
    failpoint::pass("del.lock")?;
    let found = attach::known(host, planned)?;
    if found.is_some() {
        return Ok((lock, found));
    }
    let Some(former) = former(host, planned)? else { return Ok((lock, None)) };
    host.store.retire(lock)?;
    let lock = host.lock(LockName::Attachment(former.key()), Mode::Exclusive)?;
    // Somebody else's DEL may have come first. To repeat it is no harm.
    Ok((lock, Some(attach::known(host, &former)?.unwrap_or(former))))
}

/// The one record of that container's interface under the name of another network. A network that is still defined was
/// not renamed: the container is on it, and this DEL follows an ADD that was refused.
///
/// Most DELs without a record are repetitions, so it reads no list of records, but one short file for each network.
fn former(host: &Host, planned: &Record) -> Result<Option<Record>, Error> {
    let mut found = Vec::new();
    for network in host.store.networks()? {
        if network.plugin == planned.plugin && network.name != planned.network {
            let alias = Record { network: network.name, ..planned.clone() };
            found.extend(host.store.record(&alias.network, &alias.plugin, &alias.key())?);
        }
    }
    let defined = |name: &str| conflist::load(&host.store.paths().definitions(), name).is_ok();
    match found.as_slice() {
        [one] if !one.container.is_empty() && !defined(&one.network) => Ok(found.pop()),
        _ => Ok(None),
    }
}
