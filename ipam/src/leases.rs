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
use crate::lease::{InUse, Lease, Leased, Owner};
use crate::pool::Choice;
use crate::range::RangeSet;
use crate::session::{Job, Session, Shelf, Stop};

/// How long an operation waits for the directory's lock.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often an operation starts again with a rebuilt index before it fails.
const TRIES: usize = 4;

/// The directory of lease files of one network and its index.
///
/// Several handles, processes and reference binaries may use one directory at once: each operation takes the
/// directory's own lock. What a killed process leaves half done is repaired by the next operation of any other.
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

/// Returns which addresses are in use, whatever the leases say.
type Testimony = dyn Fn() -> Result<Vec<InUse>, Error>;

/// The caller's function for that, if there is one.
#[derive(Default)]
struct Witness(Option<Box<Testimony>>);

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "a witness" } else { "no witness" })
    }
}

impl Leases {
    /// Opens `dir` (`<dataDir>/<network>`), making it if it is missing; the index is in `index_dir`.
    ///
    /// `boot` is the id of this boot: leases that rnet wrote in another are free. If `index_dir` cannot be used,
    /// everything is slow and [`Leases::lease`] fails; the other operations work.
    ///
    /// # Errors
    /// If the directory cannot be made or opened, or is a symbolic link.
    pub fn open(dir: impl Into<Folder>, index_dir: impl Into<Folder>, boot: &str) -> Result<Self, Error> {
        Ok(Self::of(Directory::open(&dir.into())?, index_dir.into(), boot))
    }

    /// The same without making the directory; `None` if there is none, and so no lease.
    ///
    /// # Errors
    /// If the directory exists but cannot be opened, or is a symbolic link.
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

    /// The same, giving these addresses before any other if nothing is requested and they are free.
    pub fn preferring(self, preferred: Vec<IpAddr>) -> Self {
        Self { preferred, ..self }
    }

    /// The same, with addresses that the caller believes to be the owner's. Their files are read even if the index does
    /// not know of them, because another program may have written into one in place.
    pub fn expecting(self, expected: Vec<IpAddr>) -> Self {
        Self { expected, ..self }
    }

    /// The same, with a function that returns which addresses are in use. Only [`Leases::lease`] calls it, and only while
    /// leases may have been lost: from a rebuild of the index until an ADD finds a lease for every address in use. Addresses
    /// in use without a lease are not given.
    pub fn seeing(self, witness: impl Fn() -> Result<Vec<InUse>, Error> + 'static) -> Self {
        Self { witness: Witness(Some(Box::new(witness))), ..self }
    }

    /// Leases one address out of each of `sets`, in their order: all or none.
    ///
    /// Each set gives at most one of the `requested` addresses that are in it. Otherwise it gives the owner's old address if
    /// its lease is of another boot, then a preferred one, then the one that `choice` finds. [`Leases::gc`] later asks
    /// whether `netns` (device and inode) is alive.
    ///
    /// # Errors
    /// [`Error::Refused`] names the set that gives none and why, [`Error::Unfulfilled`] the requested addresses that are in
    /// no set, [`Error::Busy`] the holder of the lock. An exhausted set first frees dead leases.
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
        self.with_lock(|session| session.lease(&job))
    }

    /// Frees the owner's addresses and returns them; none is no error.
    ///
    /// As in the reference, files in the old format (only the container id) count if there is no other.
    ///
    /// # Errors
    /// [`Error::Busy`] if the lock is not free in time, or a file that cannot be read or removed.
    pub fn release(&self, owner: &Owner<'_>) -> Result<Vec<IpAddr>, Error> {
        self.with_lock(|session| session.release(owner, &self.expected))
    }

    /// The owner's addresses; a lease of another boot does not count.
    ///
    /// # Errors
    /// [`Error::Busy`] if the lock is not free in time, or a file that cannot be read.
    pub fn held(&self, owner: &Owner<'_>) -> Result<Vec<IpAddr>, Error> {
        self.with_lock(|session| session.addresses_of(owner, &self.expected))
    }

    /// The holder of `ip`, container id and ifname; a lease of another boot does not count.
    ///
    /// # Errors
    /// [`Error::Busy`] if the lock is not free in time, or a file that cannot be read.
    pub fn holder(&self, ip: IpAddr) -> Result<Option<(String, String)>, Error> {
        self.with_lock(|session| session.holder(ip))
    }

    /// Whether each of `sets` has a free address (STATUS).
    ///
    /// # Errors
    /// [`Error::Busy`] if the lock is not free in time, or a file that cannot be read.
    pub fn free(&self, sets: &[RangeSet]) -> Result<bool, Error> {
        self.with_lock(|session| session.free(sets))
    }

    /// Frees leases that are over, and files that name no owner; returns their addresses.
    ///
    /// With `valid` (container id, ifname) every other lease is over, no matter which program wrote it. Without it, only
    /// what is provably dead: rnet wrote it in another boot, or its namespace (device, inode) is not `alive`.
    ///
    /// # Errors
    /// [`Error::Incomplete`] after all others were freed; [`Error::Busy`] if the lock is not free in time.
    pub fn gc(
        &self,
        valid: Option<&[(String, String)]>,
        alive: &dyn Fn(u64, u64) -> bool,
    ) -> Result<Vec<IpAddr>, Error> {
        self.with_lock(|session| session.gc(valid, alive))
    }

    /// All leases, by address.
    ///
    /// # Errors
    /// [`Error::Busy`] if the lock is not free in time, or a file that cannot be read.
    pub fn list(&self) -> Result<Vec<Lease>, Error> {
        self.with_lock(|session| session.list())
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

    /// Does `work` under the directory's lock; starts again whenever the index proves stale.
    fn with_lock<T>(&self, mut work: impl FnMut(&mut Session<'_>) -> Result<T, Stop>) -> Result<T, Error> {
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
