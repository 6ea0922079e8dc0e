//! Leases in a folder: addresses out of ranges, one file for each.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ipam::{Choice, Leased, Leases, Owner, RangeSet};
use store::{Address, Folder, Id, Paths};

use crate::register::Valid;
use crate::spec::{Lease, Ranges};
use crate::{Error, Finding, Host, living, unrecorded};

/// A folder of leases, which only ADD makes, and the order in which addresses are chosen from it.
pub struct Pool {
    folder: Folder,
    index: Folder,
    choice: Choice,
    preferred: Vec<IpAddr>,
    /// Whose containers may use addresses although no lease says so.
    bridge: Option<String>,
    /// How long to wait for the folder's lock, where not as long as usual.
    patience: Option<Duration>,
}

impl Pool {
    /// A folder that other programs lease from too, round robin; the index beside it survives a boot. Containers on `bridge` may
    /// use addresses although no lease says so.
    pub fn shared(folder: &Path, paths: &Paths, bridge: Option<String>) -> Self {
        let (folder, index) = (Folder::at(folder), Folder::at(&paths.state().join("leases")));
        Self { folder, index, choice: Choice::RoundRobin, preferred: Vec::new(), bridge, patience: None }
    }

    /// The folder of an `rnet` network, which lives as long as the boot; the lowest free address comes first.
    ///
    /// # Errors
    /// A symbolic link stands in the place of a folder.
    pub fn own(host: &Host, network: &str, bridge: &str) -> Result<Self, Error> {
        Ok(Self { bridge: Some(bridge.to_owned()), ..Self::own_in(host, &host.store.leases(network))? })
    }

    /// The same in the folder of a network that had another name, perhaps.
    ///
    /// # Errors
    /// As for [`Pool::own`].
    pub fn own_in(host: &Host, folder: &Path) -> Result<Self, Error> {
        let folder = host.store.folder(folder)?;
        let index = host.store.folder(&host.store.paths().run().join("index"))?;
        let patience = Some(host.store.patience());
        Ok(Self { folder, index, choice: Choice::Lowest, preferred: Vec::new(), bridge: None, patience })
    }

    /// The same, with the addresses that are given first if nobody has them.
    pub fn preferring(self, preferred: Vec<IpAddr>) -> Self {
        Self { preferred, ..self }
    }

    /// The leases there are; none without a folder.
    fn find(&self) -> Result<Option<Leases>, Error> {
        let leases = Leases::find(&self.folder, &self.index, &store::boot_id()?)?;
        Ok(leases.map(|leases| self.in_time(leases)))
    }

    fn open(&self) -> Result<Leases, Error> {
        let leases = Leases::open(&self.folder, &self.index, &store::boot_id()?)?;
        let leases = self.in_time(leases).preferring(self.preferred.clone());
        let Some(bridge) = self.bridge.clone() else { return Ok(leases) };
        let unseen = |error: Error| ipam::Error::Unseen { reason: error.to_string() };
        Ok(leases.seeing(move || unrecorded::in_use(&bridge).map_err(unseen)))
    }

    fn in_time(&self, leases: Leases) -> Leases {
        match self.patience {
            Some(patience) => leases.with_patience(patience),
            None => leases,
        }
    }

    /// ADD: one address of each range set, all or none. By the namespace at `netns` gc later knows whether the container lives.
    ///
    /// # Errors
    /// There is no address left, or one that is asked for is taken.
    pub fn lease(&self, ranges: &Ranges, id: &Id, netns: &Path) -> Result<Lease, Error> {
        let Ranges { sets, requested, routes, resolver } = ranges.clone();
        let sets = match self.choice {
            Choice::Lowest => sets.into_iter().map(|set| widen(set, &requested)).collect(),
            Choice::RoundRobin => sets,
        };
        let leased = self.open()?.lease(&sets, &owner(id), identity(netns), &requested, self.choice)?;
        let address = |leased: Leased| Address { address: leased.address, gateway: leased.gateway };
        Ok(Lease { addresses: leased.into_iter().map(address).collect(), routes, resolver })
    }

    /// DEL: an unknown owner is no fault. `known` are addresses that it has by all that is known.
    ///
    /// # Errors
    /// A lease cannot be removed.
    pub fn release(&self, id: &Id, known: &[IpAddr]) -> Result<(), Error> {
        let Some(leases) = self.find()? else { return Ok(()) };
        leases.expecting(known.to_vec()).release(&owner(id)).map(drop).map_err(Error::Ipam)
    }

    /// CHECK: any address of this owner is enough.
    ///
    /// # Errors
    /// There is none.
    pub fn check(&self, id: &Id, known: &[IpAddr]) -> Result<(), Error> {
        let leases = self.find()?.map(|leases| leases.expecting(known.to_vec()));
        let held = leases.map(|leases| leases.held(&owner(id))).transpose()?;
        match held.unwrap_or_default().is_empty() {
            true => Err(Finding::NoLease(id.container.clone()).into()),
            false => Ok(()),
        }
    }

    /// STATUS: every range set has an address left, and a lease and what the index says of it can be written.
    ///
    /// # Errors
    /// An ADD could not lease.
    pub fn status(&self, sets: &[RangeSet]) -> Result<(), Error> {
        for folder in [&self.folder, &self.index] {
            store::check_writable(folder.path()).map_err(Error::not_ready)?;
        }
        match self.find()? {
            Some(leases) if !leases.free(sets)? => Err(Error::not_ready(none_left(sets))),
            _ => Ok(()),
        }
    }

    /// GC: frees what belongs to no valid attachment; without a list, what is provably dead.
    ///
    /// # Errors
    /// A lease cannot be read or removed.
    pub fn gc(&self, valid: &Valid) -> Result<(), Error> {
        let Some(leases) = self.find()? else { return Ok(()) };
        let valid = match valid.list() {
            Some(valid) => Some([valid, of_endpoints(&leases)?].concat()),
            None => None,
        };
        let living = living::namespaces();
        let is_alive = |_: u64, inode: u64| living.contains(&inode);
        leases.gc(valid.as_deref(), &is_alive).map(drop).map_err(Error::Ipam)
    }
}

/// The leases of what `rnet run` made, which is in no runtime's list.
fn of_endpoints(leases: &Leases) -> Result<Vec<(String, String)>, Error> {
    let endpoints = Paths::new(netlink::cookie()?).run().join("endpoints");
    let leases = leases.list()?.into_iter().map(|lease| (lease.id, lease.ifname));
    Ok(leases.filter(|(id, _)| endpoints.join(id).join("netns").exists()).collect())
}

fn none_left(sets: &[RangeSet]) -> String {
    let ranges: Vec<String> = sets.iter().map(ToString::to_string).collect();
    format!("no IP addresses available in range set: {}", ranges.join(","))
}

fn owner(id: &Id) -> Owner<'_> {
    Owner { id: &id.container, ifname: &id.ifname }
}

/// `--ip` may lie outside `--ip-range`, which limits the dynamic choice only: the ranges of a set that an address
/// was asked from reach over their whole subnets.
fn widen(set: RangeSet, requested: &[IpAddr]) -> RangeSet {
    let outside =
        |ip: &IpAddr| !set.contains(*ip) && set.ranges().iter().any(|range| range.subnet.contains(*ip));
    if !requested.iter().any(outside) {
        return set;
    }
    let whole = set.ranges().iter().map(|range| ipam::Range::new(range.subnet, None, None, range.gateway));
    let whole: Option<Vec<_>> = whole.map(Result::ok).collect();
    whole.and_then(|ranges| RangeSet::new(ranges).ok()).unwrap_or(set)
}

fn identity(netns: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::stat(netns).ok()?;
    Some((stat.st_dev, stat.st_ino))
}
