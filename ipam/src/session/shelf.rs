//! Where an index is kept, and how it is built from the files.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use store::Folder;

use super::NO_OWNER;
use crate::Error;
use crate::directory::{Directory, Entry, LeaseFile};
use crate::index::{Index, Life, OwnerKey, Record, Writer, owner_key};

/// Where a directory's index is kept.
#[derive(Debug)]
pub(crate) struct Shelf {
    folder: Folder,
    name: String,
}

/// An index, and the error if it cannot be written.
type Open = (Index, Option<Errno>);

impl Shelf {
    /// The place in `folder` for the index of the lease directory at `directory`.
    pub fn new(folder: Folder, directory: &Path) -> Self {
        let digest = Sha256::digest(directory.as_os_str().as_encoded_bytes());
        let name = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Self { folder, name }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(&self.name)
    }

    /// The error for an index that cannot be written.
    pub fn failure(&self, errno: Errno) -> Error {
        match self.folder.open(0o700) {
            Err(link @ store::Error::Link { .. }) => Error::Store(link),
            _ => Error::Index { path: self.path(), errno },
        }
    }

    pub fn load(&self) -> Option<Open> {
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

    /// Puts a new index in place of the old one. If that fails, it serves this operation only.
    pub fn save(&self, image: Vec<u8>) -> Option<Open> {
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

/// Builds an index from the files; what only an index knows comes from `old`.
pub(super) fn build(
    directory: &Directory,
    shelf: &Shelf,
    boot: u64,
    old: Option<&Index>,
) -> Result<Open, Error> {
    // Before anything is read, so that a later change is noticed.
    let stamp = directory.restamp()?;
    let entries = scan(directory)?;
    let known = by_lease(old.map(Index::salvage).unwrap_or_default());
    let records: Vec<Record> = entries
        .iter()
        .filter_map(|(address, entry)| match entry {
            Entry::Lease(held) => Some(record(*address, held, &known, boot)),
            Entry::Garbage(_) => Some(Record { owner: NO_OWNER, address: *address, writer: Writer::Foreign }),
            _ => None,
        })
        .collect();
    let taken = entries.iter().filter(|(_, entry)| matches!(entry, Entry::Lease(_) | Entry::Occupied));
    let taken = taken.map(|(address, _)| *address);
    let image = Index::image(stamp, boot, entries.len() as u64, &records, taken);
    shelf.save(image).ok_or_else(|| Error::Index { path: shelf.path(), errno: Errno::IO })
}

/// An old index counts only for the very file that rnet wrote.
fn record(
    address: IpAddr,
    held: &LeaseFile,
    known: &HashMap<(OwnerKey, IpAddr), Writer>,
    boot: u64,
) -> Record {
    let owner = owner_key(&held.owner());
    let writer = match known.get(&(owner, address)) {
        Some(Writer::Ours(life, mark)) if *mark == held.mark => Writer::Ours(*life, *mark),
        // Its writer was killed meanwhile. In which boot is unknown, so it counts as this one's.
        Some(Writer::Pending(life)) => Writer::Ours(Life { boot, ..*life }, held.mark),
        _ => Writer::Foreign,
    };
    Record { owner, address, writer }
}

pub(super) fn scan(directory: &Directory) -> Result<Vec<(IpAddr, Entry)>, Error> {
    let addresses = directory.addresses()?;
    addresses.into_iter().map(|address| Ok((address, directory.read(address)?))).collect()
}

pub(super) fn by_lease(records: Vec<Record>) -> HashMap<(OwnerKey, IpAddr), Writer> {
    records.into_iter().map(|record| ((record.owner, record.address), record.writer)).collect()
}
