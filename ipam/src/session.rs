//! One operation on a lease directory, under its lock, with an index that is known to fit.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use store::Folder;

use crate::directory::{Directory, Entry, Held, Mark, now};
use crate::index::{Index, Life, OwnerKey, Record, Written, owner_key};
use crate::lease::{Lease, Leased, Origin, Owner};
use crate::leases::InUse;
use crate::page::Unreadable;
use crate::pool::{self, Choice, Span};
use crate::range::{RangeSet, address, number};
use crate::{Error, Refusal};

/// So many leases are compared with their files by every operation: nothing but a look tells that another program wrote
/// into one in place. With no more leases than that, the files alone decide.
const VERIFIED: usize = 32;
/// The same where an owner seems to have no lease, for what it has may be what another program wrote: as many as there are on
/// most hosts, at a microsecond each.
const VERIFIED_FOR_UNKNOWN: usize = 4096;
/// The owner that the index gives to a file that names nobody.
const NOBODY: OwnerKey = [0; 16];

/// So many leases of earlier boots are freed at once when the pool is short; the next time, so many again.
const REAPED_AT_ONCE: usize = 256;

/// Why an operation did not end.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The index does not say what the files say: build it anew and start over.
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

/// Where a directory's index is kept.
#[derive(Debug)]
pub(crate) struct Shelf {
    folder: Folder,
    name: String,
}

/// An index, and why it can't be written if it can't.
type Open = (Index, Option<Errno>);

impl Shelf {
    /// The place in `folder` for the index of the lease directory that lies at `directory`.
    pub fn new(folder: Folder, directory: &Path) -> Self {
        let digest = Sha256::digest(directory.as_os_str().as_encoded_bytes());
        let name = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Self { folder, name }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(&self.name)
    }

    /// Why the index cannot be written.
    fn failure(&self, errno: Errno) -> Error {
        match self.folder.open(0o700) {
            Err(link @ store::Error::Link { .. }) => Error::Store(link),
            _ => Error::Index { path: self.path(), errno },
        }
    }

    fn load(&self) -> Option<Open> {
        let folder = self.folder.find().ok()??;
        let open = |access| {
            let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            rustix::fs::openat(&folder, &self.name, flags, Mode::empty())
        };
        match open(OFlags::RDWR) {
            Ok(file) => Some((Index::load(file)?, None)),
            Err(errno) => Some((Index::load(open(OFlags::RDONLY).ok()?)?, Some(errno))),
        }
    }

    /// Puts a new index in place of the old one. If that fails it is good for this operation only.
    fn save(&self, image: Vec<u8>) -> Option<Open> {
        match self.replace(&image) {
            Ok(()) => self.load(),
            Err(errno) => Some((Index::in_memory(image)?, Some(errno))),
        }
    }

    fn replace(&self, image: &[u8]) -> Result<(), Errno> {
        let folder = self.folder.open(0o700);
        let done = folder.and_then(|folder| store::replace_whole(folder.as_fd(), &self.name, image, 0o600));
        done.map_err(|error| match error {
            store::Error::File { errno, .. } => errno,
            _ => Errno::IO,
        })
    }
}

/// What is asked of [`Session::lease`].
pub(crate) struct Job<'a> {
    pub sets: &'a [RangeSet],
    pub owner: Owner<'a>,
    pub netns: Option<(u64, u64)>,
    pub requested: &'a [IpAddr],
    pub preferred: &'a [IpAddr],
    pub choice: Choice,
    /// Who uses which address.
    pub witness: &'a dyn Fn() -> Result<Vec<InUse>, Error>,
}

/// One operation.
pub(crate) struct Session<'a> {
    directory: &'a Directory,
    shelf: &'a Shelf,
    boot: u64,
    index: Index,
    /// The index could not be saved: what it learns is lost with this operation.
    unsaved: Option<Errno>,
    /// The index was built under this very lock.
    fresh: bool,
    /// The directory was changed.
    touched: bool,
    /// Addresses in use whose lease was lost.
    strangers: Vec<InUse>,
}

/// A lease that was found and read.
struct Holding {
    address: IpAddr,
    held: Held,
    key: OwnerKey,
    written: Written,
}

/// An address chosen for one range set.
#[derive(Clone, Copy)]
struct Pick {
    set: usize,
    address: IpAddr,
    /// The owner had it in an earlier boot: the file stays as it is.
    kept: Option<Mark>,
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

    /// Builds the index anew from the files.
    pub fn rebuild(&mut self) -> Result<(), Error> {
        (self.index, self.unsaved) = build(self.directory, self.shelf, self.boot, Some(&self.index))?;
        (self.fresh, self.touched) = (true, false);
        Ok(())
    }

    /// Ends the operation: the index is valid for the directory as it is now.
    ///
    /// Without it (an error, a crash) the directory's time stamp differs from the index's, and the next operation
    /// builds it anew.
    pub fn seal(&mut self) -> Result<(), Error> {
        if self.index.broken().is_none() && self.touched {
            let stamp = self.directory.restamp()?;
            self.index.seal(stamp);
        }
        Ok(())
    }

    /// One address out of each set, all or none.
    pub fn lease(&mut self, job: &Job<'_>) -> Result<Vec<Leased>, Stop> {
        self.make_room(job.sets.len() as u64)?;
        self.verify(VERIFIED)?;
        self.look_for_strangers(job)?;
        let own = self.holdings(&job.owner)?;
        let mut requested = job.requested.to_vec();
        let mut picks = Vec::with_capacity(job.sets.len());
        for (set, ranges) in job.sets.iter().enumerate() {
            let place = requested.iter().position(|address| ranges.contains(*address));
            let wanted = place.map(|place| requested.remove(place));
            picks.push(self.pick(job, set, &own, wanted)?);
        }
        if !requested.is_empty() {
            return Err(Error::Unfulfilled { addresses: requested }.into());
        }
        self.commit(job, &picks)?;
        Ok(picks.iter().filter_map(|pick| leased(&job.sets[pick.set], pick.address)).collect())
    }

    /// While leases may have been lost: which addresses are in use without one. None is the end of the doubt.
    fn look_for_strangers(&mut self, job: &Job<'_>) -> Result<(), Stop> {
        if !self.index.header.is_doubtful {
            return Ok(());
        }
        let ranges = || job.sets.iter().flat_map(RangeSet::ranges);
        let is_ours = |address| ranges().any(|range| range.subnet.contains(address));
        let is_gateway = |address| job.sets.iter().any(|set| set.is_gateway(address));
        self.strangers.clear();
        for seen in (job.witness)()? {
            let counts = is_ours(seen.address) && !is_gateway(seen.address);
            if counts && matches!(self.directory.read(seen.address)?, Entry::Missing | Entry::Garbage(_)) {
                self.strangers.push(seen);
            }
        }
        self.index.header.is_doubtful = !self.strangers.is_empty();
        Ok(())
    }

    /// The first address in `span` that nobody has.
    fn first_free(&self, span: Span) -> Result<Option<IpAddr>, Unreadable> {
        let mut rest = span;
        while let Some(free) = self.index.first_free(rest)? {
            if self.stranger(free).is_none() {
                return Ok(Some(free));
            }
            if free == span.last {
                break;
            }
            rest.first = address(free, number(free) + 1);
        }
        Ok(None)
    }

    fn stranger(&self, address: IpAddr) -> Option<&InUse> {
        self.strangers.iter().find(|seen| seen.address == address)
    }

    /// Frees what `owner` has. `expected` are addresses that it may have: their files are read whatever the index says.
    pub fn release(&mut self, owner: &Owner<'_>, expected: &[IpAddr]) -> Result<Vec<IpAddr>, Stop> {
        let holdings = self.holdings(owner)?;
        self.verify_for(owner, &holdings, expected)?;
        for holding in &holdings {
            self.free_up(holding)?;
        }
        Ok(sorted(holdings.iter().map(|holding| holding.address)))
    }

    /// What `owner` has and is not dead; `expected` as for [`Session::release`].
    pub fn held(&self, owner: &Owner<'_>, expected: &[IpAddr]) -> Result<Vec<IpAddr>, Stop> {
        let holdings = self.holdings(owner)?;
        self.verify_for(owner, &holdings, expected)?;
        let living = holdings.iter().filter(|holding| !self.is_dead(holding));
        Ok(sorted(living.map(|holding| holding.address)))
    }

    /// Who has `address` and is not dead.
    pub fn holder(&self, address: IpAddr) -> Result<Option<(String, String)>, Stop> {
        let holding = self.holding(address)?.filter(|holding| !self.is_dead(holding));
        Ok(holding.map(|holding| (holding.held.id, holding.held.ifname)))
    }

    /// Whether each set has an address to give.
    pub fn free(&self, sets: &[RangeSet]) -> Result<bool, Stop> {
        for set in sets {
            let found = pool::next(set, Choice::Lowest, None, |span| self.index.first_free(span))?;
            if let Some(address) = found {
                self.require_free(address)?;
            } else if self.dead_in(set, 1)?.is_empty() {
                self.recount()?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Frees what is over, going on after errors.
    pub fn gc(
        &mut self,
        valid: Option<&[(String, String)]>,
        alive: &dyn Fn(u64, u64) -> bool,
    ) -> Result<Vec<IpAddr>, Stop> {
        let valid = valid.map(Valid::new);
        let (mut freed, mut failures) = (Vec::new(), Vec::new());
        for (address, entry, written) in self.everything()? {
            let over = match &entry {
                Entry::Garbage(mark) => Some(*mark),
                Entry::Held(held) if self.is_over(held, written, valid.as_ref(), alive) => Some(held.mark),
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
        let freed = sorted(freed.into_iter());
        if failures.is_empty() { Ok(freed) } else { Err(Error::Incomplete { freed, failures }.into()) }
    }

    /// All leases, by address.
    pub fn list(&self) -> Result<Vec<Lease>, Stop> {
        let mut leases = Vec::new();
        for (address, entry, written) in self.everything()? {
            if let Entry::Held(held) = entry {
                let origin = self.origin(written, held.mark);
                leases.push(Lease { address, id: held.id, ifname: held.ifname, origin });
            }
        }
        leases.sort_by_key(|lease| lease.address);
        Ok(leases)
    }

    /// Notes a record as an operation does that has not written the file yet.
    #[cfg(test)]
    pub fn note(&mut self, record: Record) {
        self.index.put(record);
    }

    fn pick(
        &mut self,
        job: &Job<'_>,
        set: usize,
        own: &[Holding],
        wanted: Option<IpAddr>,
    ) -> Result<Pick, Stop> {
        let ranges = &job.sets[set];
        let refuse = |refusal| Stop::Failed(Error::Refused { set, refusal });
        let mine = || own.iter().filter(|holding| ranges.contains(holding.address));
        if let Some(living) = mine().find(|holding| !self.is_dead(holding)) {
            return Err(refuse(Refusal::Duplicate { address: living.address, id: job.owner.id.to_owned() }));
        }
        let kept = mine().find(|holding| match wanted {
            Some(wanted) => holding.address == wanted,
            None => ranges.gives(holding.address),
        });
        match (wanted, kept) {
            (Some(gateway), _) if ranges.is_gateway(gateway) => Err(refuse(Refusal::Gateway(gateway))),
            (Some(address), _) if ranges.reserved(address).is_some() => {
                let what = ranges.reserved(address).unwrap_or_default();
                Err(refuse(Refusal::Reserved { address, ranges: ranges.to_string(), what }))
            }
            (_, Some(kept)) => Ok(Pick { set, address: kept.address, kept: Some(kept.held.mark) }),
            (Some(address), None) => {
                self.claim(address, ranges)?.map_err(refuse)?;
                Ok(Pick { set, address, kept: None })
            }
            (None, None) => {
                let found = match self.preferred(ranges, job.preferred)? {
                    None => self.next(ranges, set, job.choice)?,
                    preferred => preferred,
                };
                let address = found.ok_or_else(|| refuse(self.exhausted(ranges)))?;
                Ok(Pick { set, address, kept: None })
            }
        }
    }

    /// The first preferred address of `set` that nobody alive has.
    fn preferred(&mut self, set: &RangeSet, preferred: &[IpAddr]) -> Result<Option<IpAddr>, Stop> {
        for address in preferred {
            if set.gives(*address) && self.claim(*address, set)?.is_ok() {
                return Ok(Some(*address));
            }
        }
        Ok(None)
    }

    /// Makes sure that nobody alive has `address`.
    fn claim(&mut self, address: IpAddr, set: &RangeSet) -> Result<Result<(), Refusal>, Stop> {
        let refusal = |holder| Refusal::Unavailable { address, ranges: set.to_string(), holder };
        if let Some(InUse { by, .. }) = self.stranger(address) {
            return Ok(Err(Refusal::InUse { address, ranges: set.to_string(), by: by.clone() }));
        }
        match self.holding(address)? {
            Some(holding) if self.is_dead(&holding) => self.free_up(&holding).map(Ok),
            Some(Holding { held, .. }) => Ok(Err(refusal(Some((held.id, held.ifname))))),
            None if self.directory.read(address)? == Entry::Occupied => Ok(Err(refusal(None))),
            None => Ok(Ok(())),
        }
    }

    /// The next free address; dead leases are freed when there is none.
    fn next(&mut self, set: &RangeSet, place: usize, choice: Choice) -> Result<Option<IpAddr>, Stop> {
        let last = match choice {
            Choice::RoundRobin => self.directory.last_reserved(place),
            Choice::Lowest => None,
        };
        let found = pool::next(set, choice, last, |span| self.first_free(span))?;
        if found.is_some() {
            return Ok(found);
        }
        self.recount()?;
        for dead in self.dead_in(set, REAPED_AT_ONCE)? {
            self.free_up(&dead)?;
        }
        Ok(pool::next(set, choice, last, |span| self.first_free(span))?)
    }

    /// Before anybody hears that there is no address left: are there as many files as the index thinks, and do they say
    /// the same?
    fn recount(&self) -> Result<(), Stop> {
        let same = self.fresh || self.directory.addresses()?.len() as u64 == self.index.header.names;
        if same { self.verify(usize::MAX) } else { Err(Stop::Stale) }
    }

    /// The index says that `address` is free: so does its file, or the index is stale.
    fn require_free(&self, address: IpAddr) -> Result<(), Stop> {
        match self.directory.read(address)? {
            Entry::Missing | Entry::Garbage(_) => Ok(()),
            Entry::Held(_) | Entry::Occupied => Err(Stop::Stale),
        }
    }

    /// Compares what the index says of an owner with more files, by what the caller knows of it.
    fn verify_for(&self, owner: &Owner<'_>, found: &[Holding], expected: &[IpAddr]) -> Result<(), Stop> {
        let is_found = |address: &&IpAddr| found.iter().any(|holding| holding.address == **address);
        for address in expected.iter().filter(|address| !is_found(address)) {
            match self.directory.read(*address)? {
                Entry::Held(held) if held.owner() == *owner => return Err(Stop::Stale),
                _ => {}
            }
        }
        self.verify(if found.is_empty() { VERIFIED_FOR_UNKNOWN } else { VERIFIED })
    }

    /// Compares `most` leases of the index with their files, those of other pages each time. One that differs makes the
    /// index stale: another program wrote into the file in place, which changes no time stamp of the directory.
    fn verify(&self, most: usize) -> Result<(), Stop> {
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

    fn verify_one(&self, record: &Record) -> Result<(), Stop> {
        let known = match record.written {
            Written::Ours(_, mark) => Some(mark),
            Written::Foreign | Written::Pending(_) => None,
        };
        if known.is_some() && self.directory.find_mark(record.address)? == known {
            return Ok(());
        }
        let is_same = match self.directory.read(record.address)? {
            Entry::Held(held) => owner_key(&held.owner()) == record.owner,
            Entry::Garbage(_) => record.owner == NOBODY,
            // What an operation noted and did not come to write, or what DEL of an old program removed.
            Entry::Missing => true,
            Entry::Occupied => false,
        };
        if is_same { Ok(()) } else { Err(Stop::Stale) }
    }

    /// The lowest `most` addresses of `set` whose leases are dead.
    fn dead_in(&self, set: &RangeSet, most: usize) -> Result<Vec<Holding>, Stop> {
        if self.index.header.dead == 0 {
            return Ok(Vec::new());
        }
        let other_boot =
            |record: &Record| matches!(record.written, Written::Ours(life, _) if life.boot != self.boot);
        let records = self.index.records()?.into_iter().filter(other_boot);
        let in_set = records.map(|record| record.address).filter(|ip| set.gives(*ip));
        let mut dead = Vec::new();
        for address in sorted(in_set) {
            dead.extend(self.holding(address)?.filter(|holding| self.is_dead(holding)));
            if dead.len() == most {
                break;
            }
        }
        Ok(dead)
    }

    /// Files first, then the index: what the index lacks is found again, what it has too much would be lost.
    fn commit(&mut self, job: &Job<'_>, picks: &[Pick]) -> Result<(), Stop> {
        self.touched = true;
        let life = Life { boot: self.boot, netns: job.netns };
        let owner = owner_key(&job.owner);
        let new = || picks.iter().filter(|pick| pick.kept.is_none()).map(|pick| pick.address);
        for address in new() {
            self.index.put(Record { owner, address, written: Written::Pending(life) });
        }
        self.check_index()?;
        let mut created = Vec::new();
        let done = new().try_for_each(|address| self.create(address, &job.owner, &mut created));
        let done = done.and_then(|()| self.enter_all(owner, life, picks));
        if done.is_err() {
            self.undo(&created);
            return done;
        }
        for pick in picks {
            self.directory.set_last_reserved(pick.set, pick.address);
        }
        Ok(())
    }

    fn enter_all(&mut self, owner: OwnerKey, life: Life, picks: &[Pick]) -> Result<(), Stop> {
        for Pick { address, kept, .. } in picks.iter().copied() {
            let mark = match kept {
                Some(mark) => mark,
                None => self.directory.mark(address)?,
            };
            self.index.put(Record { owner, address, written: Written::Ours(life, mark) });
            self.index.set_taken(address, true);
            match kept {
                Some(_) => self.index.header.dead = self.index.header.dead.saturating_sub(1),
                None => self.index.header.names += 1,
            }
        }
        self.check_index()
    }

    /// Writes one lease file; an empty or garbage one gives way.
    fn create(&mut self, address: IpAddr, owner: &Owner<'_>, created: &mut Vec<IpAddr>) -> Result<(), Stop> {
        while !self.directory.create(address, owner)? {
            match self.directory.read(address)? {
                Entry::Missing => {}
                Entry::Garbage(mark) => {
                    self.directory.remove(address, mark)?;
                    self.index.forget(&NOBODY, address);
                    self.index.header.names = self.index.header.names.saturating_sub(1);
                }
                Entry::Held(_) | Entry::Occupied => return Err(Stop::Stale),
            }
        }
        created.push(address);
        Ok(())
    }

    /// Best effort: the error that led here is the one to report, and DEL comes by again.
    fn undo(&self, created: &[IpAddr]) {
        for address in created {
            let _ = self.directory.mark(*address).and_then(|mark| self.directory.remove(*address, mark));
        }
    }

    /// A lease whose boot is not on record would be held for ever after the next one.
    fn check_index(&self) -> Result<(), Stop> {
        match self.unsaved.or(self.index.broken()) {
            Some(errno) => Err(self.shelf.failure(errno).into()),
            None => Ok(()),
        }
    }

    fn make_room(&mut self, more: u64) -> Result<(), Stop> {
        if let Some(image) = self.index.grown(more)? {
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

    /// The leases of `owner`; only if there are none, those in the old format, which lacks the ifname.
    fn holdings(&self, owner: &Owner<'_>) -> Result<Vec<Holding>, Stop> {
        let exact = self.holdings_of(owner)?;
        if !exact.is_empty() || owner.ifname.is_empty() {
            return Ok(exact);
        }
        self.holdings_of(&Owner { ifname: "", ..*owner })
    }

    fn holdings_of(&self, owner: &Owner<'_>) -> Result<Vec<Holding>, Stop> {
        let mut holdings = Vec::new();
        for Record { owner: key, address, written } in self.index.owned(&owner_key(owner))? {
            match self.directory.read(address)? {
                Entry::Held(held) if held.owner() == *owner => {
                    holdings.push(Holding { address, held, key, written });
                }
                _ => {}
            }
        }
        holdings.sort_by_key(|holding| holding.address);
        Ok(holdings)
    }

    /// The lease of `address`; one that the index lacks is foreign.
    fn holding(&self, address: IpAddr) -> Result<Option<Holding>, Stop> {
        let Entry::Held(held) = self.directory.read(address)? else { return Ok(None) };
        let key = owner_key(&held.owner());
        let record = self.index.owned(&key)?.into_iter().find(|record| record.address == address);
        let written = record.map_or(Written::Foreign, |record| record.written);
        Ok(Some(Holding { address, held, key, written }))
    }

    /// Every entry that is named after an address, with what the index knows of it.
    fn everything(&self) -> Result<Vec<(IpAddr, Entry, Written)>, Stop> {
        let known = by_lease(self.index.records()?);
        let mut all = Vec::new();
        for (address, entry) in scan(self.directory)? {
            let written = match &entry {
                Entry::Held(held) => known.get(&(owner_key(&held.owner()), address)).copied(),
                _ => None,
            };
            all.push((address, entry, written.unwrap_or(Written::Foreign)));
        }
        Ok(all)
    }

    fn is_over(
        &self,
        held: &Held,
        written: Written,
        valid: Option<&Valid<'_>>,
        alive: &dyn Fn(u64, u64) -> bool,
    ) -> bool {
        match (valid, self.origin(written, held.mark)) {
            (Some(valid), _) => !valid.contains(held),
            (None, Origin::Dead) => true,
            (None, Origin::Ours { netns: Some((device, inode)) }) => !alive(device, inode),
            (None, _) => false,
        }
    }

    fn origin(&self, written: Written, mark: Mark) -> Origin {
        match written {
            _ if written.is_dead(mark, self.boot) => Origin::Dead,
            Written::Ours(life, then) if then == mark => Origin::Ours { netns: life.netns },
            _ => Origin::Foreign,
        }
    }

    fn is_dead(&self, holding: &Holding) -> bool {
        holding.written.is_dead(holding.held.mark, self.boot)
    }

    fn exhausted(&self, set: &RangeSet) -> Refusal {
        Refusal::Exhausted { ranges: set.to_string(), held: self.index.len() }
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

    fn contains(&self, held: &Held) -> bool {
        match held.ifname.as_str() {
            "" => self.ids.contains(held.id.as_str()),
            ifname => self.attachments.contains(&(held.id.as_str(), ifname)),
        }
    }
}

/// Builds an index from the files, and from `old` what only the index knows.
fn build(directory: &Directory, shelf: &Shelf, boot: u64, old: Option<&Index>) -> Result<Open, Error> {
    // Before anything is read: a change from now on shows.
    let stamp = directory.restamp()?;
    let entries = scan(directory)?;
    let known = by_lease(old.map(Index::salvage).unwrap_or_default());
    let records: Vec<Record> = entries
        .iter()
        .filter_map(|(address, entry)| match entry {
            Entry::Held(held) => Some(record(*address, held, &known, boot)),
            Entry::Garbage(_) => Some(Record { owner: NOBODY, address: *address, written: Written::Foreign }),
            _ => None,
        })
        .collect();
    let taken = entries.iter().filter(|(_, entry)| matches!(entry, Entry::Held(_) | Entry::Occupied));
    let taken = taken.map(|(address, _)| *address);
    let image = Index::image(stamp, boot, entries.len() as u64, &records, taken);
    shelf.save(image).ok_or_else(|| Error::Index { path: shelf.path(), errno: Errno::IO })
}

/// What an old index knows of a lease holds only for the very file that rnet wrote.
fn record(address: IpAddr, held: &Held, known: &HashMap<(OwnerKey, IpAddr), Written>, boot: u64) -> Record {
    let owner = owner_key(&held.owner());
    let written = match known.get(&(owner, address)) {
        Some(Written::Ours(life, mark)) if *mark == held.mark => Written::Ours(*life, *mark),
        // Its writer died in between; in which boot is not sure, so it counts as this one's.
        Some(Written::Pending(life)) => Written::Ours(Life { boot, ..*life }, held.mark),
        _ => Written::Foreign,
    };
    Record { owner, address, written }
}

fn scan(directory: &Directory) -> Result<Vec<(IpAddr, Entry)>, Error> {
    let addresses = directory.addresses()?;
    addresses.into_iter().map(|address| Ok((address, directory.read(address)?))).collect()
}

fn by_lease(records: Vec<Record>) -> HashMap<(OwnerKey, IpAddr), Written> {
    records.into_iter().map(|record| ((record.owner, record.address), record.written)).collect()
}

fn leased(set: &RangeSet, address: IpAddr) -> Option<Leased> {
    let range = set.range_of(address)?;
    let address = IpNetwork::new(address, range.subnet.prefix()).ok()?;
    Some(Leased { address, gateway: range.gateway })
}

fn sorted(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = addresses.collect();
    addresses.sort_unstable();
    addresses
}
