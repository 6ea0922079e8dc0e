//! Files below the state folder, read, written, listed and removed by descriptors, following no link.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Store;
use crate::error::below;
use crate::files::{make_below, open_below, write_temporary};
use crate::{Error, read_whole};

/// The folder in which files are written before they get their name. In the folder of the name, what a killed process
/// leaves would keep that folder from being empty, and so a network from ever losing its last attachment.
pub(super) const UNNAMED: &str = "new";

/// The folder of files that cannot be parsed.
pub(super) const ASIDE: &str = "aside";

/// How often a file is written again whose folder another process removes at the same moment.
pub(super) const ATTEMPTS: usize = 100;

impl Store {
    /// The folder of `path`, by descriptor, and its last name.
    pub(super) fn at<'p>(&self, path: &'p str) -> Result<(OwnedFd, &'p str), Errno> {
        let way = OFlags::PATH | OFlags::DIRECTORY;
        match path.rsplit_once('/') {
            Some((folder, last)) => Ok((open_below(self.run.as_fd(), folder, way)?, last)),
            None => Ok((open_below(self.run.as_fd(), ".", way)?, path)),
        }
    }

    /// For `map_err`: the error of `action` on `name` below the folder.
    pub(super) fn error<'a>(
        &self,
        action: &'static str,
        name: &'a str,
    ) -> impl FnOnce(Errno) -> Error + use<'a> {
        below(action, &self.paths.run(), name)
    }

    /// Puts a file in place of the one at `path`, in one step; its folder is made if it is missing.
    pub(super) fn replace(&self, path: &str, bytes: &[u8]) -> Result<(), Error> {
        for _ in 0..ATTEMPTS {
            let written = self.write_unnamed(bytes).map_err(self.error("write", UNNAMED))?;
            let renamed = self.at(path).and_then(|(at, last)| written.rename(at.as_fd(), last));
            match renamed {
                Ok(()) => return Ok(()),
                Err(errno) => {
                    // The error to report is the first one.
                    let _ = self.remove(&format!("{UNNAMED}/{}", written.name));
                    self.after_rename(errno, path).map_err(self.error("write", path))?;
                }
            }
        }
        Err(self.error("write", path)(Errno::NOENT))
    }

    pub(super) fn read<T: DeserializeOwned + Default>(&self, name: &str) -> Result<Option<T>, Error> {
        let value = match read_whole(self.run.as_fd(), name) {
            Ok(None) => return Ok(None),
            Ok(Some(bytes)) => serde_json::from_slice(&bytes).ok(),
            // A folder or a link has its name.
            Err(Error::File { errno: Errno::LOOP | Errno::ISDIR, .. }) if !self.is_led_astray(name) => None,
            Err(Error::File { action, errno, .. }) => return Err(self.error(action, name)(errno)),
            Err(error) => return Err(error),
        };
        match value {
            Some(value) => Ok(Some(value)),
            None => self.set_aside(name).map(|()| Some(T::default())),
        }
    }

    pub(super) fn exists(&self, name: &str) -> Result<bool, Error> {
        match open_below(self.run.as_fd(), name, OFlags::PATH | OFlags::NOFOLLOW) {
            Err(Errno::NOENT) => Ok(false),
            other => other.map(|_| true).map_err(self.error("look for", name)),
        }
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), Error> {
        match self.at(name).and_then(|(at, last)| rustix::fs::unlinkat(at, last, AtFlags::empty())) {
            Err(Errno::NOENT) => Ok(()),
            other => other.map_err(self.error("remove", name)),
        }
    }

    /// True if the folder existed, was empty, and is removed now.
    pub(super) fn remove_folder(&self, name: &str) -> Result<bool, Error> {
        match self.at(name).and_then(|(at, last)| rustix::fs::unlinkat(at, last, AtFlags::REMOVEDIR)) {
            Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            other => other.map(|()| true).map_err(self.error("remove", name)),
        }
    }

    pub(super) fn list(&self, name: &str) -> Result<Vec<String>, Error> {
        self.first(name, usize::MAX)
    }

    pub(super) fn is_empty(&self, name: &str) -> Result<bool, Error> {
        Ok(self.first(name, 1)?.is_empty())
    }

    fn write_unnamed(&self, bytes: &[u8]) -> Result<TemporaryFile, Errno> {
        let write = || {
            let folder = open_below(self.run.as_fd(), UNNAMED, OFlags::PATH | OFlags::DIRECTORY)?;
            let name = write_temporary(folder.as_fd(), "", bytes, 0o600)?;
            Ok(TemporaryFile { folder, name })
        };
        match write() {
            Err(Errno::NOENT) => {
                make_below(self.run.as_fd(), UNNAMED)?;
                write()
            }
            other => other,
        }
    }

    /// The folder was never made, or another process has just removed it because it was empty.
    fn after_rename(&self, errno: Errno, path: &str) -> Result<(), Errno> {
        match errno {
            Errno::NOENT if path.contains('/') => match make_below(self.run.as_fd(), parent(path)) {
                // It was removed again: the next attempt makes it.
                Err(Errno::NOENT) => Ok(()),
                other => other,
            },
            _ => Err(errno),
        }
    }

    /// Moves a torn or foreign file aside: it must stop nothing, but is kept for a person to read.
    fn set_aside(&self, name: &str) -> Result<(), Error> {
        let set_aside = || {
            let aside = folder_below(self.run.as_fd(), ASIDE)?;
            let (at, last) = self.at(name)?;
            rustix::fs::renameat(at, last, aside, name.replace('/', "."))
        };
        set_aside().map_err(self.error("set aside", name))
    }

    /// True if the folder of a file is a link and no state folder: then the file itself is not the cause.
    fn is_led_astray(&self, name: &str) -> bool {
        self.at(name).is_err()
    }

    /// At most `count` of the names in a folder; none if there is no folder.
    fn first(&self, name: &str, count: usize) -> Result<Vec<String>, Error> {
        let dir = match open_below(self.run.as_fd(), name, OFlags::DIRECTORY) {
            Err(Errno::NOENT) => return Ok(Vec::new()),
            other => other.map_err(self.error("open the folder", name))?,
        };
        let entries = rustix::fs::Dir::read_from(&dir).map_err(self.error("read the folder", name))?;
        let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
        // Without `.` and `..`: no name of rnet's begins with a dot.
        let real = |name: &Result<String, Errno>| !name.as_ref().is_ok_and(|name| name.starts_with('.'));
        names.filter(real).take(count).collect::<Result<_, _>>().map_err(self.error("read the folder", name))
    }
}

/// Opens a folder below `dir`, and makes it if it is missing.
pub(super) fn folder_below(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    match open_below(dir, name, OFlags::DIRECTORY) {
        Err(Errno::NOENT) => make_below(dir, name).and_then(|()| open_below(dir, name, OFlags::DIRECTORY)),
        other => other,
    }
}

/// rnet's own types hold nothing that JSON cannot express.
pub(super) fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// A file before it has its name.
struct TemporaryFile {
    folder: OwnedFd,
    name: String,
}

impl TemporaryFile {
    fn rename(&self, to: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
        rustix::fs::renameat(&self.folder, &self.name, to, name)
    }
}
