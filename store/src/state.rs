//! The folder of this host's records and locks.
//!
//! `records/<network>.<plugin>/<attachment>` are the attachments: a folder that can be removed is a network
//! without attachments; so DEL learns that it was the last without reading a list. `networks/` holds what is removed
//! with the last one. `claims/<what>/<attachment>` says in the same way which attachments share something.

mod claims;
mod folder;
mod owners;
mod records;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use crate::error::below;
use crate::lock::{Lock, LockName, Mode};
use crate::{Error, Folder, Paths, create_whole, open_dir, read_whole};

use folder::{UNNAMED, folder_below};

/// How long a caller waits for a lock before it gets an error that names the holder.
const PATIENCE: Duration = Duration::from_secs(10);

/// The folders that are made below it when needed; `locks` is opened with it.
const FOLDERS: [&str; 7] = ["records", "networks", "claims", "leases", "index", "macs", UNNAMED];

/// The folder of locks, sockets, and files that may be lost.
const LOCKS: &str = "locks";

/// This host's records and locks, below [`Paths::run`].
#[derive(Debug)]
pub struct Store {
    paths: Paths,
    run: OwnedFd,
    locks: OwnedFd,
    patience: Duration,
}

impl Store {
    /// Opens the folder (0700, root's), and makes it if it is missing.
    ///
    /// # Errors
    /// If the folder cannot be made or opened, or is a symbolic link.
    pub fn open(paths: Paths) -> Result<Self, Error> {
        let run = open_dir(&paths.run(), 0o700)?;
        let locks =
            folder_below(run.as_fd(), LOCKS).map_err(below("open the folder", &paths.run(), LOCKS))?;
        Ok(Self { paths, run, locks, patience: patience() })
    }

    /// Refuses state folders that are links: before anything is made, and for callers that open files in them by path.
    ///
    /// # Errors
    /// [`Error::Link`] names the link.
    pub fn require_folders(&self) -> Result<(), Error> {
        for name in FOLDERS {
            match rustix::fs::statat(&self.run, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {}
                Ok(_) => return Err(self.error("open the folder", name)(Errno::NOTDIR)),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(self.error("open the folder", name)(errno)),
            }
        }
        Ok(())
    }

    /// Where the files are.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// The folder of what may be lost: locks, and the socket of the process that closes other processes' sockets.
    pub fn passing(&self) -> BorrowedFd<'_> {
        self.locks.as_fd()
    }

    /// Takes the lock `name`, waiting at most ten seconds; `what` is shown to others that wait for it.
    ///
    /// # Errors
    /// [`Error::Busy`] names the holder if the lock is not free in time.
    pub fn lock(&self, name: LockName, mode: Mode, what: &str) -> Result<Lock, Error> {
        Lock::take(self.locks.as_fd(), name, mode, what, self.patience)
    }

    /// How long a lock is waited for.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Waits a tenth as long for every lock from now on: for an undo after a lock was not free in time.
    pub fn hurry(&mut self) {
        self.patience /= 10;
    }

    /// Changes a lock's mode. The kernel releases it in between, so what was read before must be read again.
    ///
    /// # Errors
    /// [`Error::Busy`] names the holder if the lock is not free in time.
    pub fn change(&self, mut lock: Lock, mode: Mode, what: &str) -> Result<Lock, Error> {
        // Its file may have been removed while it was free: then it would lock nothing.
        if lock.change(self.locks.as_fd(), mode)? {
            Ok(lock)
        } else {
            self.lock(lock.into_name(), mode, what)
        }
    }

    /// Removes the file of an exclusive lock whose subject is gone.
    ///
    /// # Errors
    /// If the file cannot be removed.
    pub fn retire(&self, lock: Lock) -> Result<(), Error> {
        lock.remove(self.locks.as_fd())
    }

    /// Sets a mark that may be lost.
    ///
    /// # Errors
    /// If the mark cannot be written.
    pub fn mark(&self, name: &str) -> Result<(), Error> {
        create_whole(self.locks.as_fd(), name, b"", 0o600).map(drop)
    }

    /// True if that mark is set. One system call.
    ///
    /// # Errors
    /// If the kernel cannot look for the mark.
    pub fn is_marked(&self, name: &str) -> Result<bool, Error> {
        match rustix::fs::statat(&self.locks, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(false),
            other => other.map(|_| true).map_err(self.error("look for", name)),
        }
    }

    /// Removes a mark.
    pub fn unmark(&self, name: &str) {
        // If it stays, the next caller only announces once more than needed.
        let _ = rustix::fs::unlinkat(&self.locks, name, AtFlags::empty());
    }

    /// The short text kept under `name`, for example which ruleset rnet last wrote.
    ///
    /// # Errors
    /// If the text cannot be read.
    pub fn note(&self, name: &str) -> Result<Option<String>, Error> {
        let bytes = read_whole(self.run.as_fd(), name)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Removes the text kept under `name`.
    ///
    /// # Errors
    /// If the text cannot be removed.
    pub fn remove_note(&self, name: &str) -> Result<(), Error> {
        self.remove(name)
    }

    /// Keeps a short text under `name`.
    ///
    /// # Errors
    /// If the text cannot be written.
    pub fn write_note(&self, name: &str, text: &str) -> Result<(), Error> {
        self.replace(name, text.as_bytes())
    }

    /// Removes what killed processes were writing. A process that is writing now writes again.
    ///
    /// # Errors
    /// If the folder cannot be read or a file in it cannot be removed.
    pub fn sweep(&self) -> Result<(), Error> {
        self.list(UNNAMED)?.iter().try_for_each(|name| self.remove(&format!("{UNNAMED}/{name}")))
    }

    /// True if `rnet run` started a container of this id that was not cleaned up yet.
    ///
    /// # Errors
    /// If the kernel cannot look for it.
    pub fn is_endpoint(&self, container: &str) -> Result<bool, Error> {
        self.exists(&format!("endpoints/{container}/netns"))
    }

    /// The folder of an `rnet` network's leases.
    pub fn leases(&self, network: &str) -> PathBuf {
        self.paths.leases().join(network)
    }

    /// The folder at `path`. Below the state folder it is found by descriptors, and no link is followed.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn folder(&self, path: &Path) -> Result<Folder, Error> {
        let base = self.paths.run();
        match path.strip_prefix(&base).ok().and_then(Path::to_str) {
            Some(name) if !name.is_empty() => {
                Folder::below(self.run.as_fd(), &base, name).map_err(self.error("open the folder", name))
            }
            _ => Ok(Folder::at(path)),
        }
    }
}

/// [`PATIENCE`], unless a test is in a hurry.
#[cfg(feature = "failpoints")]
fn patience() -> Duration {
    let asked = std::env::var("RNET_PATIENCE_MS").ok().and_then(|text| text.parse().ok());
    asked.map_or(PATIENCE, Duration::from_millis)
}

#[cfg(not(feature = "failpoints"))]
fn patience() -> Duration {
    PATIENCE
}
