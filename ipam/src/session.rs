//! One operation on a lease directory, under its lock, with an index that is valid for it.

mod census;
mod grant;
mod shelf;
mod verify;

use std::net::IpAddr;

use rustix::io::Errno;

use crate::Error;
use crate::directory::{Directory, Entry, LeaseFile};
use crate::index::{Index, OwnerKey, Record, Writer, owner_key};
use crate::lease::{InUse, Owner};
use crate::page::Unreadable;
use crate::pool::{self, Choice};
use crate::range::RangeSet;

pub(crate) use grant::Job;
pub(crate) use shelf::Shelf;
use shelf::build;

/// The owner in the index of a file that names none.
const NO_OWNER: OwnerKey = [0; 16];

/// Why an operation was stopped.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The index contradicts the files: rebuild it and start again.
    Stale,
    Failed(Error),
}

impl From<Unreadable> for Stop {
    fn from(_: Unreadable) -> Self {
        Stop::Stale
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Failed(error)
    }
}

/// One operation.
pub(crate) struct Session<'a> {
    directory: &'a Directory,
    shelf: &'a Shelf,
    boot: u64,
    index: Index,
    /// Why the index could not be saved: its changes are lost with this operation.
    unsaved: Option<Errno>,
    /// The index was built by this operation.
    fresh: bool,
    /// The directory was changed.
    touched: bool,
    /// Addresses in use whose lease was lost.
    strangers: Vec<InUse>,
}

/// A lease that was found and read.
struct Holding {
    address: IpAddr,
    held: LeaseFile,
    key: OwnerKey,
    writer: Writer,
}

impl<'a> Session<'a> {
    /// Starts an operation; the caller holds the directory's lock.
    pub fn enter(directory: &'a Directory, shelf: &'a Shelf, boot: u64) -> Result<Self, Error> {
        let stamp = directory.stamp()?;
        let (fresh, (index, unsaved)) = match shelf.load() {
            Some(open) if open.0.header.fits(&stamp, boot) => (false, open),
            old => (true, build(directory, shelf, boot, old.as_ref().map(|(index, _)| index))?),
        };
        Ok(Self { directory, shelf, boot, index, unsaved, fresh, touched: false, strangers: Vec::new() })
    }

    /// Builds the index again from the files.
    pub fn rebuild(&mut self) -> Result<(), Error> {
        (self.index, self.unsaved) = build(self.directory, self.shelf, self.boot, Some(&self.index))?;
        (self.fresh, self.touched) = (true, false);
        Ok(())
    }

    /// Ends the operation: the index is valid for the directory as it is now.
    ///
    /// Without it (an error, a crash) the directory's time stamp differs from the index's, and the next operation
    /// rebuilds the index.
    pub fn seal(&mut self) -> Result<(), Error> {
        if self.index.write_error().is_none() && self.touched {
            let stamp = self.directory.restamp()?;
            self.index.seal(stamp);
        }
        Ok(())
    }

    /// Frees `owner`'s addresses. `expected` are addresses that it may have: their files are read whatever the index says.
    pub fn release(&mut self, owner: &Owner<'_>, expected: &[IpAddr]) -> Result<Vec<IpAddr>, Stop> {
        let holdings = self.holdings(owner)?;
        self.verify_for(owner, &holdings, expected)?;
        for holding in &holdings {
            self.free_up(holding)?;
        }
        Ok(sort(holdings.iter().map(|holding| holding.address)))
    }

    /// `owner`'s addresses, without dead leases; `expected` as for [`Session::release`].
    pub fn addresses_of(&self, owner: &Owner<'_>, expected: &[IpAddr]) -> Result<Vec<IpAddr>, Stop> {
        let holdings = self.holdings(owner)?;
        self.verify_for(owner, &holdings, expected)?;
        let living = holdings.iter().filter(|holding| !self.is_dead(holding));
        Ok(sort(living.map(|holding| holding.address)))
    }

    /// The holder of `address`; a dead lease counts as none.
    pub fn holder(&self, address: IpAddr) -> Result<Option<(String, String)>, Stop> {
        let holding = self.holding(address)?.filter(|holding| !self.is_dead(holding));
        Ok(holding.map(|holding| (holding.held.id, holding.held.ifname)))
    }

    /// Whether each set has a free address.
    pub fn free(&self, sets: &[RangeSet]) -> Result<bool, Stop> {
        for set in sets {
            let found = pool::next(set, Choice::Lowest, None, |span| self.index.first_free(span))?;
            if let Some(address) = found {
                self.require_free(address)?;
            } else if self.find_dead(set, 1)?.is_empty() {
                self.recount()?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Records a lease as an operation does before it writes the file.
    #[cfg(test)]
    pub fn note(&mut self, record: Record) {
        self.index.put(record);
    }

    /// The lowest `most` addresses of `set` whose leases are dead.
    fn find_dead(&self, set: &RangeSet, most: usize) -> Result<Vec<Holding>, Stop> {
        if self.index.header.dead == 0 {
            return Ok(Vec::new());
        }
        let other_boot =
            |record: &Record| matches!(record.writer, Writer::Ours(life, _) if life.boot != self.boot);
        let records = self.index.records()?.into_iter().filter(other_boot);
        let in_set = records.map(|record| record.address).filter(|ip| set.gives(*ip));
        let mut dead = Vec::new();
        for address in sort(in_set) {
            dead.extend(self.holding(address)?.filter(|holding| self.is_dead(holding)));
            if dead.len() == most {
                break;
            }
        }
        Ok(dead)
    }

    /// A lease without its boot in the index could never be freed after the next boot, so that is an error.
    fn check_index(&self) -> Result<(), Stop> {
        match self.unsaved.or(self.index.write_error()) {
            Some(errno) => Err(self.shelf.failure(errno).into()),
            None => Ok(()),
        }
    }

    fn make_room(&mut self, more: u64) -> Result<(), Stop> {
        if let Some(image) = self.index.with_room_for(more)? {
            (self.index, self.unsaved) = self.shelf.save(image).ok_or(Stop::Stale)?;
        }
        self.check_index()
    }

    fn free_up(&mut self, holding: &Holding) -> Result<(), Stop> {
        self.directory.remove(holding.address, holding.held.mark)?;
        self.touched = true;
        self.index.forget(&holding.key, holding.address);
        self.index.set_taken(holding.address, false);
        let dead = u64::from(self.is_dead(holding));
        let header = &mut self.index.header;
        header.names = header.names.saturating_sub(1);
        header.dead = header.dead.saturating_sub(dead);
        Ok(())
    }

    /// The leases of `owner`, or, if there are none, those in the old format, which has no ifname.
    fn holdings(&self, owner: &Owner<'_>) -> Result<Vec<Holding>, Stop> {
        let exact = self.holdings_of(owner)?;
        if !exact.is_empty() || owner.ifname.is_empty() {
            return Ok(exact);
        }
        self.holdings_of(&Owner { ifname: "", ..*owner })
    }

    fn holdings_of(&self, owner: &Owner<'_>) -> Result<Vec<Holding>, Stop> {
        let mut holdings = Vec::new();
        for Record { owner: key, address, writer } in self.index.leases_of(&owner_key(owner))? {
            match self.directory.read(address)? {
                Entry::Lease(held) if held.owner() == *owner => {
                    holdings.push(Holding { address, held, key, writer });
                }
                _ => {}
            }
        }
        holdings.sort_by_key(|holding| holding.address);
        Ok(holdings)
    }

    /// The lease of `address`; one that the index lacks is foreign.
    fn holding(&self, address: IpAddr) -> Result<Option<Holding>, Stop> {
        let Entry::Lease(held) = self.directory.read(address)? else { return Ok(None) };
        let key = owner_key(&held.owner());
        let record = self.index.leases_of(&key)?.into_iter().find(|record| record.address == address);
        let writer = record.map_or(Writer::Foreign, |record| record.writer);
        Ok(Some(Holding { address, held, key, writer }))
    }

    fn is_dead(&self, holding: &Holding) -> bool {
        holding.writer.is_dead(holding.held.mark, self.boot)
    }
}

fn sort(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = addresses.collect();
    addresses.sort_unstable();
    addresses
}
