//! All leases of a directory: listed, and freed if they are over.

use std::collections::HashSet;
use std::net::IpAddr;

use super::shelf::{by_lease, scan};
use super::{Session, Stop, sort};
use crate::Error;
use crate::directory::{Entry, LeaseFile, Mark};
use crate::index::{Writer, owner_key};
use crate::lease::{Lease, Origin};

impl Session<'_> {
    /// Frees what is over; continues after errors.
    pub fn gc(
        &mut self,
        valid: Option<&[(String, String)]>,
        alive: &dyn Fn(u64, u64) -> bool,
    ) -> Result<Vec<IpAddr>, Stop> {
        let valid = valid.map(Valid::new);
        let (mut freed, mut failures) = (Vec::new(), Vec::new());
        for (address, entry, writer) in self.scan_all()? {
            let over = match &entry {
                Entry::Garbage(mark) => Some(*mark),
                Entry::Lease(held) if self.is_over(held, writer, valid.as_ref(), alive) => Some(held.mark),
                _ => None,
            };
            match over.map(|mark| self.directory.remove(address, mark)) {
                Some(Ok(())) => freed.push(address),
                Some(Err(error)) => failures.push(error),
                None => {}
            }
        }
        if !freed.is_empty() {
            self.rebuild()?;
        }
        let freed = sort(freed.into_iter());
        if failures.is_empty() { Ok(freed) } else { Err(Error::Incomplete { freed, failures }.into()) }
    }

    /// All leases, by address.
    pub fn list(&self) -> Result<Vec<Lease>, Stop> {
        let mut leases = Vec::new();
        for (address, entry, writer) in self.scan_all()? {
            if let Entry::Lease(held) = entry {
                let origin = self.origin(writer, held.mark);
                leases.push(Lease { address, id: held.id, ifname: held.ifname, origin });
            }
        }
        leases.sort_by_key(|lease| lease.address);
        Ok(leases)
    }

    /// Every entry that is named after an address, with its writer according to the index.
    fn scan_all(&self) -> Result<Vec<(IpAddr, Entry, Writer)>, Stop> {
        let known = by_lease(self.index.records()?);
        let mut all = Vec::new();
        for (address, entry) in scan(self.directory)? {
            let writer = match &entry {
                Entry::Lease(held) => known.get(&(owner_key(&held.owner()), address)).copied(),
                _ => None,
            };
            all.push((address, entry, writer.unwrap_or(Writer::Foreign)));
        }
        Ok(all)
    }

    fn is_over(
        &self,
        held: &LeaseFile,
        writer: Writer,
        valid: Option<&Valid<'_>>,
        alive: &dyn Fn(u64, u64) -> bool,
    ) -> bool {
        match (valid, self.origin(writer, held.mark)) {
            (Some(valid), _) => !valid.contains(held),
            (None, Origin::Dead) => true,
            (None, Origin::Ours { netns: Some((device, inode)) }) => !alive(device, inode),
            (None, _) => false,
        }
    }

    fn origin(&self, writer: Writer, mark: Mark) -> Origin {
        match writer {
            _ if writer.is_dead(mark, self.boot) => Origin::Dead,
            Writer::Ours(life, then) if then == mark => Origin::Ours { netns: life.netns },
            _ => Origin::Foreign,
        }
    }
}

/// The attachments that a GC call names.
struct Valid<'a> {
    attachments: HashSet<(&'a str, &'a str)>,
    ids: HashSet<&'a str>,
}

impl<'a> Valid<'a> {
    fn new(valid: &'a [(String, String)]) -> Self {
        let attachments = valid.iter().map(|(id, ifname)| (id.as_str(), ifname.as_str())).collect();
        Self { attachments, ids: valid.iter().map(|(id, _)| id.as_str()).collect() }
    }

    fn contains(&self, held: &LeaseFile) -> bool {
        match held.ifname.as_str() {
            "" => self.ids.contains(held.id.as_str()),
            ifname => self.attachments.contains(&(held.id.as_str(), ifname)),
        }
    }
}
