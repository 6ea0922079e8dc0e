//! What plugins have in common that follow another in a list: they keep a record beside the first one's, and make
//! nothing that could not be told from it.

use store::{LockName, Mode, Record};

use crate::register::Valid;
use crate::spec::Kept;
use crate::{Error, Host, elements, failpoint, features, flows, life, network, register, renamed};

/// The plugins of this kind.
const PLUGINS: [&str; 2] = ["portmap", "dnsname"];

/// ADD: `make` does what the record says; if it fails, all of it is undone.
pub fn add(
    host: &mut Host,
    record: &mut Record,
    make: impl FnOnce(&mut Host, &mut Record) -> Result<(), Error>,
) -> Result<(), Error> {
    host.require_descriptors()?;
    host.store.require_folders()?;
    let lock = host.lock(LockName::Attachment(record.key()), Mode::Exclusive)?;
    failpoint::pass("add.lock")?;
    if let Some(stale) = register::known(host, record)? {
        remove(host, &stale)?;
    }
    let made = make(host, record).or_else(|error| {
        host.hurry_after(&error);
        let undone = remove(host, record);
        host.store.retire(lock)?;
        Err(life::with_undo(error, undone))
    });
    host.close();
    made
}

/// DEL: by the record, and where there is none or it was lost, by what would be in it at least. Again is success.
/// `otherwise` is done where there is no record.
pub fn del(
    unknown: Record,
    kept: &Kept,
    otherwise: impl FnOnce(&mut Host, &Record) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut host = Host::open(format!("DEL {}", unknown.id()))?;
    let (lock, found) = renamed::find(&mut host, &unknown, kept, None)?;
    if found.is_none() {
        otherwise(&mut host, &unknown)?;
    }
    remove(&mut host, &found.unwrap_or(unknown))?;
    host.store.retire(lock)?;
    host.close();
    Ok(())
}

/// GC: removes every attachment of the network that is not among the valid ones. Goes on after failures.
pub fn gc(plugin: &str, network: &str, valid: &Valid) -> Result<(), Error> {
    let mut host = Host::open(format!("GC {network}"))?;
    let mut failures = Vec::new();
    for record in register::of_network(&host, plugin, network)? {
        failures.extend(collect(&mut host, &record, valid).err());
    }
    if !host.store.has_records(network, plugin)? {
        failures.extend(network::retire(&mut host, network, plugin).err());
    }
    host.close();
    Error::all(failures)
}

fn collect(host: &mut Host, record: &Record, valid: &Valid) -> Result<(), Error> {
    let lock = host.lock(LockName::Attachment(record.key()), Mode::Exclusive)?;
    let Some(record) = register::known(host, record)? else { return Ok(()) };
    if register::is_to_stay(host, &record, valid)? {
        return Ok(());
    }
    remove(host, &record)?;
    register::tell_removed(&record);
    Ok(host.store.retire(lock)?)
}

/// What the chained plugins of a list have put on an attachment whose network was renamed: alone they may not know it.
/// Under the attachment's lock.
pub fn remove_all(host: &mut Host, attachment: &Record) -> Result<(), Error> {
    for plugin in PLUGINS {
        let of_it = Record { plugin: plugin.into(), ..attachment.clone() };
        if let Some(record) = host.store.record(&of_it.network, plugin, &of_it.key())?
            && !record.container.is_empty()
        {
            remove(host, &record)?;
        }
    }
    Ok(())
}

fn remove(host: &mut Host, record: &Record) -> Result<(), Error> {
    features::withdraw(host, record);
    failpoint::pass("del.names")?;
    let dismissed = elements::dismiss(host, record);
    flows::forget_later(host);
    dismissed?;
    host.store.remove_record(&record.network, &record.plugin, &record.key())?;
    failpoint::pass("del.record")?;
    if host.store.has_records(&record.network, &record.plugin)? {
        return Ok(());
    }
    network::retire(host, &record.network, &record.plugin)
}
