//! The lease of an attachment: asked for, released and checked where it comes from.

use std::net::IpAddr;
use std::path::PathBuf;

use store::Record;

use crate::features::sticky;
use crate::pool::Pool;
use crate::register::Valid;
use crate::spec::{Addresses, Lease, Outcome, Spec};
use crate::{Error, Host, failpoint};

/// The lease of an attachment. No lock of the network is held: another program may take seconds.
pub fn lease(host: &Host, spec: &Spec) -> Result<Lease, Error> {
    let lease = match &spec.addresses {
        Addresses::None => return Ok(Lease::default()),
        Addresses::Own(ranges) => {
            let pool = Pool::own(host, &spec.id.network, &spec.bridge)?;
            pool.preferring(sticky::last_addresses(host, spec)).lease(ranges, &spec.id, &spec.netns)?
        }
        Addresses::Given(lease) => return Ok(lease.clone()),
        Addresses::From(leaser) => leaser.lease()?,
    };
    if lease.addresses.is_empty() { Err(Error::NoAddress) } else { Ok(lease) }
}

/// Releases what rnet itself has leased, as far as the record or the configuration says so, and what a leaser has, which knows the
/// network by the name that it had at ADD.
pub fn release(host: &Host, addresses: &Addresses, record: &Record, known: &[IpAddr]) -> Result<(), Error> {
    let own = record.leases.clone().or_else(|| own_folder(host, addresses, record));
    if let Some(folder) = own {
        host.store.require_folders()?;
        let recorded = record.addresses.iter().map(|address| address.address.ip());
        let known: Vec<_> = known.iter().copied().chain(recorded).collect();
        Pool::own_in(host, &folder)?.release(&record.id(), &known)?;
    }
    if let Addresses::From(leaser) = addresses {
        leaser.release(&record.id())?;
    }
    failpoint::pass("del.lease")
}

/// The folder of a network's leases, where they are rnet's own.
pub fn own_folder(host: &Host, addresses: &Addresses, record: &Record) -> Option<PathBuf> {
    matches!(addresses, Addresses::Own(_)).then(|| host.store.leases(&record.network))
}

pub fn status(host: &Host, spec: &Spec) -> Result<(), Error> {
    match &spec.addresses {
        Addresses::None | Addresses::Given(_) => Ok(()),
        Addresses::Own(ranges) => own_pool(host, spec)?.status(&ranges.sets),
        Addresses::From(leaser) => leaser.status(),
    }
}

pub fn gc(host: &Host, spec: &Spec, valid: &Valid) -> Result<(), Error> {
    match &spec.addresses {
        Addresses::None | Addresses::Given(_) => Ok(()),
        Addresses::Own(_) => own_pool(host, spec)?.gc(valid),
        Addresses::From(leaser) => leaser.gc(),
    }
}

/// rnet's own leases, in a folder that is rnet's.
fn own_pool(host: &Host, spec: &Spec) -> Result<Pool, Error> {
    host.store.require_folders()?;
    Pool::own(host, &spec.id.network, &spec.bridge)
}

/// CHECK of what leased the addresses.
pub fn check(host: &Host, spec: &Spec, previous: &Outcome) -> Result<(), Error> {
    match &spec.addresses {
        Addresses::None | Addresses::Given(_) => Ok(()),
        Addresses::Own(_) => {
            let known: Vec<_> = previous.lease.ips().collect();
            own_pool(host, spec)?.check(&spec.id, &known)
        }
        Addresses::From(leaser) => leaser.check(),
    }
}
