//! The leases of one network: host-local's directory byte for byte, and the index beside it.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use store::Folder;

use crate::Error;
use crate::config::check_overlaps;
use crate::directory::Directory;
use crate::index::boot_number;
use crate::lease::{Lease, Leased, Owner};
use crate::pool::Choice;
use crate::range::RangeSet;
use crate::session::{Job, Session, Shelf, Stop};

/// How long to wait for the directory's lock.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the index is built anew within one operation before it is given up.
const TRIES: usize = 4;

/// The directory of lease files of one network and its index.
///
/// Several handles, processes and reference binaries may use one directory at once: each operation takes the
/// directory's own lock. What a process leaves half done is put right by the next operation of any other.
#[derive(Debug)]
pub struct Leases {
    directory: Directory,
    shelf: Shelf,
    boot: u64,
    patience: Duration,
    preferred: Vec<IpAddr>,
    expected: Vec<IpAddr>,
    witness: Witness,
}

/// Says which addresses are in use, whatever the leases say.
type Testimony = dyn Fn() -> Result<Vec<InUse>, Error>;

/// One who is asked for it, if there is one.
#[derive(Default)]
struct Witness(Option<Box<Testimony>>);

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "a witness" } else { "no witness" })
    }
}

/// An address that was seen in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InUse {
    /// The address.
    pub address: IpAddr,
    /// Who uses it, for a message.
    pub by: String,
}

impl Leases {
    /// Opens `dir` (`<dataDir>/<network>`), making it if it is missing; the index lies in `index_dir`.
    ///
    /// `boot` is the id of this boot: leases that rnet wrote in another are free. An `index_dir` that can't be
    /// used makes everything slow and [`Leases::lease`] fail, nothing else.
    pub fn open(dir: impl Into<Folder>, index_dir: impl Into<Folder>, boot: &str) -> Result<Self, Error> {
        Ok(Self::of(Directory::open(&dir.into())?, index_dir.into(), boot))
    }

    /// The same without making the directory; `None` if there is none, and so no lease.
    pub fn find(
        dir: impl Into<Folder>,
        index_dir: impl Into<Folder>,
        boot: &str,
    ) -> Result<Option<Self>, Error> {
        let directory = Directory::find(&dir.into())?;
        Ok(directory.map(|directory| Self::of(directory, index_dir.into(), boot)))
    }

    /// The same, waiting for the lock no longer than `patience` instead of 10 s.
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The same, giving these addresses before any other where nothing is requested and they are free.
    pub fn preferring(self, preferred: Vec<IpAddr>) -> Self {
        Self { preferred, ..self }
    }

    /// The same, with addresses that the caller believes to be the owner's. Their files are read even if the index does
    /// not know of them, because another program may have written into one in place.
    pub fn expecting(self, expected: Vec<IpAddr>) -> Self {
        Self { expected, ..self }
    }

    /// The same, with somebody who knows which addresses are in use. Asked only by [`Leases::lease`] while leases may have
    /// been lost: after the index had to be built anew, until an ADD finds a lease for every address that is in use. Those
    /// without one are not given.
    pub fn seeing(self, witness: impl Fn() -> Result<Vec<InUse>, Error> + 'static) -> Self {
        Self { witness: Witness(Some(Box::new(witness))), ..self }
    }

    /// Leases one address out of each of `sets`, in their order: all or none.
    ///
    /// Each set gives at most one of the `requested` addresses that lie in it, or else the one that `choice`
    /// finds; the owner's old address comes first if its lease is of another boot, then a preferred one. `netns`
    /// (device and inode) is what [`Leases::gc`] later asks about.
    ///
    /// # Errors
    /// [`Error::Refused`] tells which set has none and why, [`Error::Unfulfilled`] which requested addresses lie
    /// nowhere. An exhausted set first frees dead leases.
    pub fn lease(
        &self,
        sets: &[RangeSet],
        owner: &Owner<'_>,
        netns: Option<(u64, u64)>,
        requested: &[IpAddr],
        choice: Choice,
    ) -> Result<Vec<Leased>, Error> {
        check_overlaps(sets)?;
        let witness = || self.witness.0.as_ref().map_or(Ok(Vec::new()), |ask| ask());
        let preferred = &self.preferred;
        let job = Job { sets, owner: *owner, netns, requested, preferred, choice, witness: &witness };
        self.locked(|session| session.lease(&job))
    }

    /// Frees the owner's addresses and tells which; none is no error.
    ///
    /// As in the reference, files in the old format (container id alone) count if there is no other.
    pub fn release(&self, owner: &Owner<'_>) -> Result<Vec<IpAddr>, Error> {
        self.locked(|session| session.release(owner, &self.expected))
    }

    /// The owner's addresses; a lease of another boot is none.
    pub fn held(&self, owner: &Owner<'_>) -> Result<Vec<IpAddr>, Error> {
        self.locked(|session| session.held(owner, &self.expected))
    }

    /// Who has `ip`, container id and ifname; a lease of another boot is none.
    pub fn holder(&self, ip: IpAddr) -> Result<Option<(String, String)>, Error> {
        self.locked(|session| session.holder(ip))
    }

    /// Whether each of `sets` has an address to give (STATUS).
    pub fn free(&self, sets: &[RangeSet]) -> Result<bool, Error> {
        self.locked(|session| session.free(sets))
    }

    /// Frees leases that are over, and files that name nobody; tells which addresses.
    ///
    /// With `valid` (container id, ifname) every other lease is over, whoever wrote it. Without, only what is
    /// provably dead: rnet wrote it in another boot, or its namespace (device, inode) is not `alive`.
    ///
    /// # Errors
    /// [`Error::Incomplete`] after everything else was freed.
    pub fn gc(
        &self,
        valid: Option<&[(String, String)]>,
        alive: &dyn Fn(u64, u64) -> bool,
    ) -> Result<Vec<IpAddr>, Error> {
        self.locked(|session| session.gc(valid, alive))
    }

    /// All leases, by address.
    pub fn list(&self) -> Result<Vec<Lease>, Error> {
        self.locked(|session| session.list())
    }

    /// Where the directory is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    fn of(directory: Directory, index_dir: Folder, boot: &str) -> Self {
        let shelf = Shelf::new(index_dir, &directory.real_path());
        let (preferred, expected, witness) = (Vec::new(), Vec::new(), Witness::default());
        Self { directory, shelf, boot: boot_number(boot), patience: PATIENCE, preferred, expected, witness }
    }

    /// Does `work` under the directory's lock, again from the start whenever the index proves stale.
    fn locked<T>(&self, mut work: impl FnMut(&mut Session<'_>) -> Result<T, Stop>) -> Result<T, Error> {
        let _lock = self.directory.lock(self.patience)?;
        let mut session = Session::enter(&self.directory, &self.shelf, self.boot)?;
        for _ in 0..TRIES {
            match work(&mut session) {
                Ok(value) => {
                    session.seal()?;
                    return Ok(value);
                }
                Err(Stop::Stale) => session.rebuild()?,
                Err(Stop::Failed(error)) => return Err(error),
            }
        }
        Err(Error::Unsettled { path: self.directory.path().to_owned() })
    }
}
