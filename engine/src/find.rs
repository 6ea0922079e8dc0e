//! DEL under another network name than ADD's: the definition was renamed meanwhile (docs/rules.md: G2).
//!
//! A DEL touches what its own ADD made. That an attachment under another name is meant must be proven: by the interface in the
//! result that the runtime kept, or by a configuration that is the same except for its name. Otherwise it is left alone.

use store::{Lock, LockName, Mode, NetworkKey, Record};

use crate::spec::{Kept, Outcome};
use crate::{Error, Host, admission, drivers, failpoint, register};

/// The record of the attachment that DEL is about, and its lock; where there is none, that of the name which the network
/// had at ADD. `proof` is what a record of the same attachment says, where the call can tell.
pub fn find(
    host: &mut Host,
    planned: &Record,
    kept: &Kept,
    proof: Option<&str>,
) -> Result<(Lock, Option<Record>), Error> {
    let lock = host.lock(LockName::Attachment(planned.key()), Mode::Exclusive)?;
    failpoint::pass("del.lock")?;
    let found = record(host, planned)?;
    if found.is_some() {
        return Ok((lock, found));
    }
    let Some(former) = former(host, planned, kept, proof)? else { return Ok((lock, None)) };
    host.store.retire(lock)?;
    let lock = host.lock(LockName::Attachment(former.key()), Mode::Exclusive)?;
    // Another DEL may have come first. To repeat it is no harm.
    Ok((lock, Some(record(host, &former)?.unwrap_or(former))))
}

/// The record of the attachment; where it turned out to be garbage, the planned one, after everything that only the
/// record knew of was taken away by its key. Under the attachment's lock.
pub fn record(host: &mut Host, planned: &Record) -> Result<Option<Record>, Error> {
    match host.store.record(&planned.network, &planned.plugin, &planned.key())? {
        Some(garbage) if garbage.container.is_empty() => {
            admission::purge(host, &planned.plugin, &planned.key())?;
            host.store.forget_aside(&planned.network, &planned.plugin, &planned.key())?;
            Ok(Some(planned.clone()))
        }
        found => Ok(found),
    }
}

/// The living attachment that another of rnet's plugins has made for that container's interface on a network of the same name:
/// all that is named after them has one name.
pub fn rival(host: &mut Host, planned: &Record) -> Result<Option<Record>, Error> {
    let is_maker = drivers::makers().any(|plugin| plugin == planned.plugin);
    for plugin in drivers::makers().filter(|plugin| is_maker && *plugin != planned.plugin) {
        if let Some(rival) = host.store.record(&planned.network, plugin, &planned.key())?
            && !rival.container.is_empty()
            && register::is_alive(host, &rival)?
        {
            return Ok(Some(rival));
        }
    }
    Ok(None)
}

/// What a chained plugin's record says of the result that it was given: the interfaces' names and the addresses. Plugins
/// behind it may have added interfaces to the result by now, so the number of those that count comes first.
pub fn proof_by_result(result: &Outcome) -> String {
    proof_of_first(result, result.interfaces.len())
}

/// The same of the result that a runtime has kept, for the record that says `proof`.
fn is_proof_of(proof: &str, result: &Outcome) -> bool {
    let count = proof.split_once(':').and_then(|(count, _)| count.parse().ok());
    count.is_some_and(|count| proof_of_first(result, count) == proof)
}

fn proof_of_first(result: &Outcome, count: usize) -> String {
    let names = result.interfaces.iter().take(count).map(|interface| interface.name.clone());
    let addresses = result.lease.addresses.iter().map(|ip| ip.address.to_string());
    let text = names.chain(addresses).collect::<Vec<_>>().join("\n");
    format!("{count}:{}", NetworkKey::new(&text))
}

/// The one record of that container's interface under the name of another network, if it is proven to be meant. A network
/// that is still defined was not renamed: the container is on it, and this DEL follows an ADD that was refused.
///
/// Most DELs without a record are repetitions, so it reads no list of records, but one short file for each network.
fn former(host: &Host, planned: &Record, kept: &Kept, proof: Option<&str>) -> Result<Option<Record>, Error> {
    let mut found = Vec::new();
    for network in host.store.networks()? {
        if network.plugin == planned.plugin && network.name != planned.network {
            let alias = Record { network: network.name, ..planned.clone() };
            found.extend(host.store.record(&alias.network, &alias.plugin, &alias.key())?);
        }
    }
    found.retain(|record| is_proven(record, kept.outcome.as_ref(), proof));
    match found.as_slice() {
        [one] if !(kept.is_defined)(host.store.paths(), &one.network) => Ok(found.pop()),
        _ => Ok(None),
    }
}

fn is_proven(record: &Record, previous: Option<&Outcome>, proof: Option<&str>) -> bool {
    let is_own = |result: &Outcome| match (&record.link, &record.proof) {
        (Some(link), _) => result.on_host(link).is_some(),
        (None, Some(proof)) => is_proof_of(proof, result),
        (None, None) => false,
    };
    let by_definition = proof.is_some() && record.proof.as_deref() == proof;
    !record.container.is_empty() && (previous.is_some_and(is_own) || by_definition)
}
