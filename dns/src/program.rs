//! The file of this program, and another version of it that takes this one's place.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

/// A file as it was at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProvenProgram {
    path: PathBuf,
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl ProvenProgram {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        let (device, inode, size) = (found.dev(), found.ino(), found.size());
        Ok(Self { path: path.into(), device, inode, size, changed: (found.ctime(), found.ctime_nsec()) })
    }

    /// Becomes that program, if its file is still the one that was tried out. Returns only if that fails.
    pub(crate) fn become_it(&self, arguments: &[OsString]) -> io::Error {
        match Self::of(&self.path) {
            Ok(now) if now == *self => become_program(&self.path, arguments),
            Ok(_) => io::Error::other(format!("{} has changed since it was tried out", self.path.display())),
            Err(error) => error,
        }
    }
}

/// Becomes the program at `path`. Returns only if that fails.
///
/// exec(3) hands a file that is no program to a shell; execve(2), called here, does not.
pub fn become_program(path: &Path, arguments: &[OsString]) -> io::Error {
    let c_string = |text: &OsStr| CString::new(text.as_bytes()).unwrap_or_default();
    let words = [OsStr::new("rnet")].into_iter().chain(arguments.iter().map(OsString::as_os_str));
    let words: Vec<CString> = words.map(c_string).collect();
    let variable = |(name, value): (OsString, OsString)| {
        c_string(OsStr::from_bytes(&[name.as_bytes(), b"=", value.as_bytes()].concat()))
    };
    let environment: Vec<CString> = std::env::vars_os().map(variable).collect();
    let Err(errno) = nix::unistd::execve(&c_string(path.as_os_str()), &words, &environment);
    errno.into()
}

/// The path from which this program was started, whatever is there now.
pub(crate) fn path() -> io::Result<PathBuf> {
    let path = fs::read_link("/proc/self/exe")?.into_os_string();
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| PathBuf::from(&path), PathBuf::from))
}
