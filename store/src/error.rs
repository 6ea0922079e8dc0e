//! What can go wrong with rnet's files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

/// A failure of the state folder, told so that a person can act on it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on a file or folder failed.
    #[error("cannot {action} {}: {errno}", path.display())]
    File {
        /// What was being done, as a verb: `open`, `write`, `remove`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A lock was not free within the time allowed; nothing was changed.
    #[error("another rnet holds {what} ({holder}) and did not let go within {} s; nothing was changed", waited.as_secs())]
    Busy {
        /// The lock, in a person's words: `network "mynet"`.
        what: String,
        /// The process that took it last: `pid 4711: ADD web/eth0`.
        holder: String,
        /// How long the caller waited.
        waited: Duration,
    },
    /// A file that rnet writes does not hold what rnet writes.
    #[error("{} is not a record of rnet's: {reason}", path.display())]
    Garbage {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
}

impl Error {
    /// For `map_err`: a failed `action` on `path`.
    pub(crate) fn file(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(Errno) -> Error {
        let path = path.as_ref().to_owned();
        move |errno| Error::File { action, path, errno }
    }
}
