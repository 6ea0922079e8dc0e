//! `macspoofchk` of `bridge`: frames that leave a container by another MAC than its own are dropped.
//!
//! The reference plugin's rules in its own table, `bridge nat`, which others share, so that an administrator who looks for them
//! there finds them. They are no elements of the constant ruleset, but the records tell of them as of these.

use nft::Subject;
use store::{Lock, LockName, Mode, Record, Stage};

use crate::feature::Feature;
use crate::making::Making;
use crate::{Error, Finding, Host, transaction};

/// The feature of this file.
pub struct MacCheck;

impl Feature for MacCheck {
    fn admit(&self, host: &mut Host, making: &mut Making<'_>) -> Result<(), Error> {
        admit(host, &making.record)
    }

    fn confirm(&self, host: &mut Host, record: &Record, ruleset: &mut Option<Lock>) -> Result<(), Error> {
        confirm(host, record, ruleset)
    }

    fn dismiss(&self, host: &mut Host, record: &Record) -> Result<(), Error> {
        dismiss(host, record)
    }

    fn look(&self, host: &mut Host, record: &Record, tell: &mut dyn FnMut(Finding)) -> Result<(), Error> {
        look(host, record)?.into_iter().for_each(tell);
        Ok(())
    }

    fn restore(&self, host: &mut Host) -> Result<(), Error> {
        restore(host)
    }
}

/// Puts a record's rules in, if it wants any, in place of those that it had; and those of all others if the table was flushed.
pub(super) fn admit(host: &mut Host, record: &Record) -> Result<(), Error> {
    let Some(check) = of(record) else { return Ok(()) };
    let lock = host.lock(LockName::Ruleset, Mode::Shared)?;
    if host.firewall()?.has_bridge_nat()? {
        return transaction::write(host, |firewall| firewall.check_macs(&[check]));
    }
    let _lock = host.change(lock, Mode::Exclusive)?;
    restore(host)?;
    transaction::write(host, |firewall| firewall.check_macs(&[check]))
}

/// Looks once more: if there was a flush since [`admit`], the restoration after it did not bring back what is not committed
/// yet. The ruleset's lock is to be held until it is.
fn confirm(host: &mut Host, record: &Record, ruleset: &mut Option<Lock>) -> Result<(), Error> {
    let Some(check) = of(record) else { return Ok(()) };
    if ruleset.is_none() {
        *ruleset = Some(host.lock(LockName::Ruleset, Mode::Shared)?);
    }
    if !host.firewall()?.knows_mac_check(&check.subject)? {
        transaction::write(host, |firewall| firewall.check_macs(&[check]))?;
    }
    Ok(())
}

/// Puts in what every committed record wants, if the table was flushed. Under the exclusive ruleset lock.
fn restore(host: &mut Host) -> Result<(), Error> {
    let records = host.store.records()?;
    let committed = records.iter().filter(|record| record.stage == Stage::Committed);
    let checks: Vec<nft::MacCheck> = committed.filter_map(of).collect();
    if checks.is_empty() || host.firewall()?.has_bridge_nat()? {
        return Ok(());
    }
    if transaction::write(host, |firewall| firewall.check_macs(&checks)).is_err() {
        // One that the kernel refuses keeps nobody else's from coming back; its own CHECK tells of it.
        for check in &checks {
            let _ = transaction::write(host, |firewall| firewall.check_macs(std::slice::from_ref(check)));
        }
    }
    Ok(())
}

/// Takes a record's rules out again: by container id and interface name, whatever the port was called.
fn dismiss(host: &mut Host, record: &Record) -> Result<(), Error> {
    let Some(subject) = subject(record) else { return Ok(()) };
    // As in `elements::dismiss`: the undo of an ADD that did not come so far needs no locks.
    if record.stage != Stage::Committed && !host.firewall()?.knows_mac_check(&subject)? {
        return Ok(());
    }
    let _lock = host.lock(LockName::Ruleset, Mode::Shared)?;
    if record.stage == Stage::Committed {
        // From here on a restoration must not bring them back. Freeing must not depend on a disk that is full, though.
        let _ = host.store.write_record(&Record { stage: Stage::Intent, ..record.clone() });
    }
    if transaction::write(host, |firewall| firewall.uncheck_mac(&subject))? {
        host.note_deletion()?;
    }
    Ok(())
}

fn look(host: &mut Host, record: &Record) -> Result<Option<Finding>, Error> {
    let Some(check) = of(record) else { return Ok(None) };
    if host.firewall()?.checks_mac(&check)? {
        return Ok(None);
    }
    Ok(Some(Finding::NoMacCheck { link: check.link, chain: check.subject.chain() }))
}

fn subject(record: &Record) -> Option<Subject> {
    Subject::new(&record.container, &record.ifname).filter(|_| record.mac_checked)
}

fn of(record: &Record) -> Option<nft::MacCheck> {
    Some(nft::MacCheck { subject: subject(record)?, link: record.link.clone()?, mac: record.mac?.0 })
}
