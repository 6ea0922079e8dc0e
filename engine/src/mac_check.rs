//! `macspoofchk` of `bridge`: frames that leave a container by another MAC than its own are dropped.
//!
//! The reference plugin's rules in its own table, `bridge nat`, which others share, so that whoever looks for them
//! there finds them. They are no elements of the constant ruleset, but the records tell of them as of these.

use nft::{MacCheck, Subject};
use store::{Lock, LockName, Mode, Record, Stage};

use crate::Finding;
use crate::{Error, Host, ruleset};

/// Puts a record's rules in, if it wants any, and those of all others where somebody flushed the table.
pub fn admit(host: &mut Host, record: &Record) -> Result<(), Error> {
    let Some(check) = of(record) else { return Ok(()) };
    let lock = host.lock(LockName::Ruleset, Mode::Shared)?;
    if host.firewall()?.has_bridge_nat()? {
        return ruleset::write(host, |firewall| firewall.check_macs(&[check]));
    }
    let _lock = host.change(lock, Mode::Exclusive)?;
    restore(host)?;
    ruleset::write(host, |firewall| firewall.check_macs(&[check]))
}

/// Looks once more, for a flush since [`admit`] that a restoration followed did not bring back what is no committed
/// record's. The ruleset's lock, which [`firewall::admit`](crate::firewall::admit) may have taken, is to be held until
/// it is.
pub fn confirm(host: &mut Host, record: &Record, ruleset: Option<Lock>) -> Result<Option<Lock>, Error> {
    let Some(check) = of(record) else { return Ok(ruleset) };
    let lock = match ruleset {
        Some(lock) => lock,
        None => host.lock(LockName::Ruleset, Mode::Shared)?,
    };
    if !host.firewall()?.knows_mac_check(&check.subject)? {
        ruleset::write(host, |firewall| firewall.check_macs(&[check]))?;
    }
    Ok(Some(lock))
}

/// Puts in what every committed record wants, if the table was flushed. Under the exclusive ruleset lock.
pub fn restore(host: &mut Host) -> Result<(), Error> {
    let records = host.store.records()?;
    let committed = records.iter().filter(|record| record.stage == Stage::Committed);
    let checks: Vec<MacCheck> = committed.filter_map(of).collect();
    if checks.is_empty() || host.firewall()?.has_bridge_nat()? {
        return Ok(());
    }
    if ruleset::write(host, |firewall| firewall.check_macs(&checks)).is_err() {
        // One that the kernel refuses keeps nobody else's from coming back; its own CHECK tells of it.
        for check in &checks {
            let _ = ruleset::write(host, |firewall| firewall.check_macs(std::slice::from_ref(check)));
        }
    }
    Ok(())
}

/// Takes a record's rules out again: by container id and interface name, whatever the port was called.
pub fn dismiss(host: &mut Host, record: &Record) -> Result<(), Error> {
    let Some(subject) = subject(record) else { return Ok(()) };
    // As in `firewall::dismiss`: the undo of an ADD that did not come so far needs no locks.
    if record.stage != Stage::Committed && !host.firewall()?.knows_mac_check(&subject)? {
        return Ok(());
    }
    let _lock = host.lock(LockName::Ruleset, Mode::Shared)?;
    if record.stage == Stage::Committed {
        // From here on a restoration must not bring them back. Freeing must not depend on a disk that is full, though.
        let _ = host.store.write_record(&Record { stage: Stage::Intent, ..record.clone() });
    }
    if ruleset::write(host, |firewall| firewall.uncheck_mac(&subject))? {
        host.note_deletion()?;
    }
    Ok(())
}

/// CHECK's part.
pub fn check(host: &mut Host, record: &Record) -> Result<(), Error> {
    let Some(check) = of(record) else { return Ok(()) };
    if host.firewall()?.checks_mac(&check)? {
        return Ok(());
    }
    Err(Finding::NoMacCheck { link: check.link, chain: check.subject.chain() }.into())
}

fn subject(record: &Record) -> Option<Subject> {
    Subject::new(&record.container, &record.ifname).filter(|_| record.mac_checked)
}

fn of(record: &Record) -> Option<MacCheck> {
    Some(MacCheck { subject: subject(record)?, link: record.link.clone()?, mac: record.mac?.0 })
}
