//! Comparing the index with the files, which another program may have changed in place.

use std::net::IpAddr;

use super::{Holding, NO_OWNER, Session, Stop};
use crate::directory::{Entry, now};
use crate::index::{Record, Writer, owner_key};
use crate::lease::Owner;

/// How many leases every operation compares with their files: nothing else shows that another program wrote into one in
/// place. With no more leases than that, only the files decide.
pub(super) const VERIFIED: usize = 32;
/// The same if an owner seems to have no lease, because another program may have written one in place. Most hosts have
/// no more leases than that; each costs a microsecond.
const VERIFIED_FOR_UNKNOWN: usize = 4096;

impl Session<'_> {
    /// Called before a pool is reported as exhausted: makes sure that there are as many files as in the index, with the
    /// same owners.
    pub(super) fn recount(&self) -> Result<(), Stop> {
        let same = self.fresh || self.directory.addresses()?.len() as u64 == self.index.header.names;
        if same { self.verify(usize::MAX) } else { Err(Stop::Stale) }
    }

    /// The index says that `address` is free. If its file does not, the index is stale.
    pub(super) fn require_free(&self, address: IpAddr) -> Result<(), Stop> {
        match self.directory.read(address)? {
            Entry::Missing | Entry::Garbage(_) => Ok(()),
            Entry::Lease(_) | Entry::Occupied => Err(Stop::Stale),
        }
    }

    /// Compares the index with the files of the addresses that the caller expects the owner to have.
    pub(super) fn verify_for(
        &self,
        owner: &Owner<'_>,
        found: &[Holding],
        expected: &[IpAddr],
    ) -> Result<(), Stop> {
        let is_found = |address: &&IpAddr| found.iter().any(|holding| holding.address == **address);
        for address in expected.iter().filter(|address| !is_found(address)) {
            match self.directory.read(*address)? {
                Entry::Lease(held) if held.owner() == *owner => return Err(Stop::Stale),
                _ => {}
            }
        }
        self.verify(if found.is_empty() { VERIFIED_FOR_UNKNOWN } else { VERIFIED })
    }

    /// Compares `most` leases of the index with their files, in other pages each time. One that differs makes the
    /// index stale: another program wrote into the file in place, which changes no time stamp of the directory.
    pub(super) fn verify(&self, most: usize) -> Result<(), Stop> {
        if self.fresh {
            return Ok(());
        }
        let mut left = most;
        for page in self.index.lease_pages_from(now() as u64) {
            for record in page? {
                self.verify_one(&record)?;
                left -= 1;
                if left == 0 {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    pub(super) fn verify_one(&self, record: &Record) -> Result<(), Stop> {
        let known = match record.writer {
            Writer::Ours(_, mark) => Some(mark),
            Writer::Foreign | Writer::Pending(_) => None,
        };
        if known.is_some() && self.directory.find_mark(record.address)? == known {
            return Ok(());
        }
        let is_same = match self.directory.read(record.address)? {
            Entry::Lease(held) => owner_key(&held.owner()) == record.owner,
            Entry::Garbage(_) => record.owner == NO_OWNER,
            // An operation was killed before it wrote the file, or another program removed it.
            Entry::Missing => true,
            Entry::Occupied => false,
        };
        if is_same { Ok(()) } else { Err(Stop::Stale) }
    }
}
