//! Giving addresses: which one for each range set, and writing the leases, all or none.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::verify::VERIFIED;
use super::{Holding, NO_OWNER, Session, Stop};
use crate::directory::{Entry, Mark};
use crate::index::{Life, OwnerKey, Record, Writer, owner_key};
use crate::lease::{InUse, Leased, Owner};
use crate::page::Unreadable;
use crate::pool::{self, Choice, Span};
use crate::range::{RangeSet, address, number};
use crate::{Error, Refusal};

/// How many leases of earlier boots are freed at once when a pool is exhausted.
const REAPED_AT_ONCE: usize = 256;

/// The request to [`Session::lease`].
pub(crate) struct Job<'a> {
    pub sets: &'a [RangeSet],
    pub owner: Owner<'a>,
    pub netns: Option<(u64, u64)>,
    pub requested: &'a [IpAddr],
    pub preferred: &'a [IpAddr],
    pub choice: Choice,
    /// Returns which address is in use, and by whom.
    pub witness: &'a dyn Fn() -> Result<Vec<InUse>, Error>,
}

/// An address chosen for one range set.
#[derive(Clone, Copy)]
struct Pick {
    set: usize,
    address: IpAddr,
    /// Set if the owner had it in an earlier boot: the file stays as it is.
    kept: Option<Mark>,
}

impl Session<'_> {
    /// Gives one address of each set, all or none.
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
        Ok(picks.iter().filter_map(|pick| to_leased(&job.sets[pick.set], pick.address)).collect())
    }

    /// While leases may have been lost: finds the addresses that are in use without a lease. If there are none, no lease
    /// is missing any more.
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

    /// The first address in `span` that is neither taken nor in use.
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
                let found = match self.find_preferred(ranges, job.preferred)? {
                    None => self.next(ranges, set, job.choice)?,
                    preferred => preferred,
                };
                let address = found.ok_or_else(|| refuse(self.exhaustion(ranges)))?;
                Ok(Pick { set, address, kept: None })
            }
        }
    }

    /// The first preferred address of `set` that is free or whose lease is dead.
    fn find_preferred(&mut self, set: &RangeSet, preferred: &[IpAddr]) -> Result<Option<IpAddr>, Stop> {
        for address in preferred {
            if set.gives(*address) && self.claim(*address, set)?.is_ok() {
                return Ok(Some(*address));
            }
        }
        Ok(None)
    }

    /// Makes sure that `address` is free; a dead lease of it is freed.
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
        for dead in self.find_dead(set, REAPED_AT_ONCE)? {
            self.free_up(&dead)?;
        }
        Ok(pool::next(set, choice, last, |span| self.first_free(span))?)
    }

    /// Writes the files before the index: a lease that the index lacks is found again; one without a file would be lost.
    fn commit(&mut self, job: &Job<'_>, picks: &[Pick]) -> Result<(), Stop> {
        self.touched = true;
        let life = Life { boot: self.boot, netns: job.netns };
        let owner = owner_key(&job.owner);
        let new = || picks.iter().filter(|pick| pick.kept.is_none()).map(|pick| pick.address);
        for address in new() {
            self.index.put(Record { owner, address, writer: Writer::Pending(life) });
        }
        self.check_index()?;
        let mut created = Vec::new();
        let done = new().try_for_each(|address| self.create(address, &job.owner, &mut created));
        let done = done.and_then(|()| self.record_all(owner, life, picks));
        if done.is_err() {
            self.undo(&created);
            return done;
        }
        for pick in picks {
            self.directory.set_last_reserved(pick.set, pick.address);
        }
        Ok(())
    }

    fn record_all(&mut self, owner: OwnerKey, life: Life, picks: &[Pick]) -> Result<(), Stop> {
        for Pick { address, kept, .. } in picks.iter().copied() {
            let mark = match kept {
                Some(mark) => mark,
                None => self.directory.mark(address)?,
            };
            self.index.put(Record { owner, address, writer: Writer::Ours(life, mark) });
            self.index.set_taken(address, true);
            match kept {
                Some(_) => self.index.header.dead = self.index.header.dead.saturating_sub(1),
                None => self.index.header.names += 1,
            }
        }
        self.check_index()
    }

    /// Writes one lease file, in place of an empty or garbage one.
    fn create(&mut self, address: IpAddr, owner: &Owner<'_>, created: &mut Vec<IpAddr>) -> Result<(), Stop> {
        while !self.directory.create(address, owner)? {
            match self.directory.read(address)? {
                Entry::Missing => {}
                Entry::Garbage(mark) => {
                    self.directory.remove(address, mark)?;
                    self.index.forget(&NO_OWNER, address);
                    self.index.header.names = self.index.header.names.saturating_sub(1);
                }
                Entry::Lease(_) | Entry::Occupied => return Err(Stop::Stale),
            }
        }
        created.push(address);
        Ok(())
    }

    /// Best effort: the error that led here is the one to report, and a DEL follows.
    fn undo(&self, created: &[IpAddr]) {
        for address in created {
            let _ = self.directory.mark(*address).and_then(|mark| self.directory.remove(*address, mark));
        }
    }

    fn exhaustion(&self, set: &RangeSet) -> Refusal {
        Refusal::Exhausted { ranges: set.to_string(), held: self.index.len() }
    }
}

fn to_leased(set: &RangeSet, address: IpAddr) -> Option<Leased> {
    let range = set.range_of(address)?;
    let address = IpNetwork::new(address, range.subnet.prefix()).ok()?;
    Some(Leased { address, gateway: range.gateway })
}
